"""Loops, servers, and the check that nothing is left behind."""

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import re
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme

import aiowebsocketclient
from aiowebsocketclient import WebSocketClientSession

from .driver import Drive, Driver
from .redis_server import RedisServer, require_redis
from .servers import Server, serving
from .tally import TALLY

try:
    import uvloop
except ImportError:  # it has no wheels for some interpreters
    uvloop = None


#: Where what is built, measured or listened to once is for all tests of the module: in several
#: processes it would be done again, or each would wait for the others' port.
TOGETHER = {"test_bench.py", "test_packaging.py", "test_pages.py"}


def pytest_report_header() -> str:
    return (
        f"aiowebsocketclient {aiowebsocketclient.__version__}"
        f" ({aiowebsocketclient.IMPLEMENTATION}: {aiowebsocketclient.__file__}),"
        f" aiohttp {aiohttp.__version__}, uvloop {getattr(uvloop, '__version__', 'absent')}"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--impl", choices=("c", "py"), help="fail at once unless this core is the one in use"
    )


def pytest_configure(config: pytest.Config) -> None:
    expected = config.getoption("--impl")
    if expected not in (None, aiowebsocketclient.IMPLEMENTATION):
        raise pytest.UsageError(
            f"the core in use is {aiowebsocketclient.IMPLEMENTATION!r}, not {expected!r}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the pure core on uvloop to ``make test-slow``: few changes break this pair alone."""
    if aiowebsocketclient.IMPLEMENTATION == "py":
        for item in items:
            callspec = getattr(item, "callspec", None)
            if callspec is not None and "uvloop" in callspec.id.split("-"):
                item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Let no collection go through what was imported: each test has one, or more."""
    gc.collect()
    # PyPy has none.
    getattr(gc, "freeze", gc.collect)()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, where the tests are run in several."""
    if hasattr(session.config, "workeroutput"):
        told = vars(TALLY) | {"operations": list(TALLY.operations)}
        session.config.workeroutput["tally"] = {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in told.items()
        }


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of such a module; those go first."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        # pytest 9.2 leaves the mark xdist_group without effect.
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0].rpartition("/")[2]
            return module if module in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what another process has counted; one that crashed says nothing."""
    if "tally" in getattr(node, "workeroutput", {}):
        TALLY.add(node.workeroutput["tally"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.operations:
        terminalreporter.write_line(str(TALLY))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on each loop."""
    factories: dict[str, Any] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(params=["c", "py"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    """Return each core. A missing extension fails, but where a pure build is asked for."""
    if request.param == "py":
        return importlib.import_module("aiowebsocketclient._pool_py")
    missing = importlib.util.find_spec("aiowebsocketclient._pool") is None
    if missing and request.config.getoption("--impl") == "py":
        pytest.skip("a pure build is installed")
    return importlib.import_module("aiowebsocketclient._pool")


@pytest.fixture
def drive(core: ModuleType) -> Drive:
    """Return what makes a pool of each core."""
    return partial(Driver, core)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """Return a port that refuses connections; meanwhile no server of another test can have it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis that all tests share: each uses keys of its own, and stops nothing."""
    require_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(Server()) as server:
        yield server


@pytest_asyncio.fixture
async def tls_server(server_tls: ssl.SSLContext) -> AsyncIterator[Server]:
    async with serving(Server(), ssl_context=server_tls) as server:
        yield server


SessionFactory = Callable[..., WebSocketClientSession]


@pytest_asyncio.fixture
async def make_session() -> AsyncIterator[SessionFactory]:
    """Make sessions that are closed at the end, after which nothing of them may be left."""
    before = asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    async with AsyncExitStack() as stack:

        def make(**arguments: Any) -> WebSocketClientSession:
            arguments.setdefault("close_timeout", 2.0)
            session = WebSocketClientSession(**arguments)
            stack.push_async_callback(check_closed, session)
            return session

        yield make
    # What a test dropped by mistake must warn here, and not in the next test.
    gc.collect()
    await asyncio.sleep(0)

    def left() -> set["asyncio.Task[Any]"]:
        return {t for t in asyncio.all_tasks() - before if "aiowebsocketclient" in repr(t)}

    # A thread that compresses what was being sent is waited for by a task of aiohttp's.
    with contextlib.suppress(TimeoutError):
        await until(lambda: not left())
    assert not left()
    # The loop goes on after an exception in a callback; a test would pass.
    assert not complaints


async def check_closed(session: WebSocketClientSession) -> None:
    await session.close()
    assert session._pool.sizes() == dict.fromkeys(session._pool.sizes(), 0) | {
        name: size for name, size in session._pool.sizes().items() if name.endswith("_heap")
    }


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """Run it in an interpreter of its own, with what is installed and with warnings as errors."""
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def told(value: object) -> str:
    """Return what a test with this value is called: its repr, which may hold an address."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def strike_heartbeat(ws: Any, *, patience: float = 600.0) -> None:
    """Make aiohttp's heartbeat of a connection send its PING now.

    It waits ``patience`` seconds for the PONG, and has then no ``_pong_response_cb``.  A connection
    with a heartbeat of its own that is quick enough for a test would die on a busy machine.
    """
    ws._cancel_heartbeat()
    ws._heartbeat_when = 0.0
    ws._pong_heartbeat = patience
    ws._send_heartbeat()
    assert ws._pong_response_cb is not None


async def until(
    condition: Callable[[], object], seconds: float = 30.0, *, pause: float = 0.001
) -> None:
    """Wait for something that happens in other tasks, or on the other side of a socket.

    The bound is for what hangs; no machine is so busy.  With ``pause=0`` it looks in every turn of
    the loop, so as to miss no state between two.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(pause)
