"""The pytest plugin of aiowebsocketclient: the fixtures ``ws_server`` and ``ws_session``.

pytest imports this module at each start, in every project that has the package installed.  So the
module is not part of the package: importing the package would import aiohttp, which takes longer
than pytest itself, and would hide the package from tools that measure coverage.  The package is
imported when a test uses a fixture.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

try:
    import pytest_asyncio
except ImportError:
    pytest_asyncio = None  # type: ignore[assignment]
else:
    # Before 0.24, fixtures have no loop_scope: ignore such a version.
    if "loop_scope" not in inspect.signature(pytest_asyncio.fixture).parameters:
        pytest_asyncio = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from aiowebsocketclient import WebSocketClientSession
    from aiowebsocketclient.testing import WebSocketServer

__all__ = ("ws_server", "ws_server_tls", "ws_session")

_INI: Final = "ws_session_check_leaks"
_RAISED: Final = pytest.StashKey[bool]()

_LEAKED: Final = """\
Connections left acquired in ws_session: {}. Call release() or close(), or use "async with".
{}
To allow this in a test, mark it with pytest.mark.ws_session(check_leaks=False)."""

_LoopScope = Literal["function", "class", "module", "package", "session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of the project."""
    parser.addini(
        _INI, "whether ws_session fails tests that leave connections acquired", "bool", True
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "ws_session(*, check_leaks=True, **options): options of the fixture ws_session's"
        " WebSocketClientSession, and whether the test may leave connections acquired.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember whether the test itself failed: then its leaks are not reported."""
    if call.when == "call":
        item.stash[_RAISED] = call.excinfo is not None


# -- the server ----------------------------------------------------------------------------------


@pytest.fixture
def ws_server() -> Iterator[WebSocketServer]:
    """Run a scriptable WebSocket echo server, an aiowebsocketclient.testing.WebSocketServer."""
    from aiowebsocketclient.testing import WebSocketServer

    with WebSocketServer() as server:
        yield server


@pytest.fixture
def ws_server_tls() -> Iterator[WebSocketServer]:
    """Run the same server with TLS; pass its client_ssl to ws_connect(ssl=...)."""
    from aiowebsocketclient.testing import WebSocketServer

    with WebSocketServer(tls=True) as server:
        yield server


# -- the session ---------------------------------------------------------------------------------


@pytest.fixture
def ws_session(request: pytest.FixtureRequest) -> Iterator[WebSocketClientSession]:
    """Create a WebSocketClientSession, and fail tests that leave connections acquired."""
    from aiowebsocketclient.testing import CheckedSession

    options = _options(request)
    check_leaks = options.pop("check_leaks", request.config.getini(_INI))
    # A fixture of the plugin that runs the test closes the session in the loop of the test.
    add_to_close = request.getfixturevalue(_closing_fixture(request))
    session = CheckedSession(**options)
    add_to_close(session)
    yield session
    leaks = session.leaks()
    if leaks and check_leaks and not request.node.stash.get(_RAISED, False):
        pytest.fail(_LEAKED.format(len(leaks), "\n".join(leaks)), pytrace=False)


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    # The closest marker comes first, and takes precedence.
    for marker in request.node.iter_markers("ws_session"):
        if marker.args:
            raise pytest.UsageError("pytest.mark.ws_session() takes keyword arguments only")
        options = {**marker.kwargs, **options}
    return options


def _closing_fixture(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture that closes sessions in the loop of this test."""
    item = request.node
    if pytest_asyncio is not None and pytest_asyncio.is_async_test(item):
        marker = item.get_closest_marker("asyncio")
        given = {} if marker is None else marker.kwargs
        scope = given.get("loop_scope") or given.get("scope")
        return _name(scope or _default_loop_scope(request.config))
    is_coroutine = inspect.iscoroutinefunction(getattr(item, "obj", None))
    if is_coroutine and "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend_name")
        if backend == "asyncio":
            return _name("anyio")
        pytest.fail(
            f"ws_session needs asyncio, but anyio runs {item.name} with {backend}: define a fixture"
            " anyio_backend that returns 'asyncio'",
            pytrace=False,
        )
    pytest.fail(
        f"ws_session needs a test in an event loop, but neither pytest-asyncio nor anyio runs"
        f" {item.name}: mark it with pytest.mark.asyncio or pytest.mark.anyio, or create a"
        " WebSocketClientSession in your own loop",
        pytrace=False,
    )


def _default_loop_scope(config: pytest.Config) -> str:
    try:
        return str(config.getini("asyncio_default_test_loop_scope"))
    except ValueError:
        # pytest-asyncio before 0.26 has no such setting.
        return "function"


async def _closing() -> AsyncIterator[Callable[[WebSocketClientSession], None]]:
    """Yield a function that registers a session to close at the end."""
    sessions: list[WebSocketClientSession] = []
    yield sessions.append
    for session in sessions:
        await session.close()


def _name(loop: str) -> str:
    return f"_ws_session_closing_{loop}"


_closing_anyio = pytest.fixture(_closing, name=_name("anyio"))


def _closing_asyncio(loop_scope: _LoopScope) -> Any:
    @pytest_asyncio.fixture(loop_scope=loop_scope, name=_name(loop_scope))
    async def closing() -> AsyncIterator[Callable[[WebSocketClientSession], None]]:
        async for add in _closing():
            yield add

    return closing


if pytest_asyncio is not None:
    _closing_function = _closing_asyncio("function")
    _closing_class = _closing_asyncio("class")
    _closing_module = _closing_asyncio("module")
    _closing_package = _closing_asyncio("package")
    _closing_session = _closing_asyncio("session")
