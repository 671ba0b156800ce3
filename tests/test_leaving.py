"""Leaving a block by an exception waits for no server."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve

from aiowebsocketclient import PoolClosedError, TraceConfig, WebSocketClientSession, settings

from .conftest import SessionFactory, until, uvloop
from .servers import Server

# Seconds that only what hangs takes; each close_timeout below is far above.
HANGS = 30.0


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_HASTE", 0.05)


@pytest_asyncio.fixture
async def session(make_session: SessionFactory) -> AsyncIterator[WebSocketClientSession]:
    session = make_session(close_timeout=600.0, limit=1)
    yield session
    session._ending.hasten()


async def receive_with_a_timeout(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.receive(timeout=0.01)


async def receive_inside_a_timeout(ws: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.timeout(0.01):
        await ws.receive()


async def wait_for_a_receive(ws: aiohttp.ClientWebSocketResponse) -> None:
    await asyncio.wait_for(ws.receive(), 0.01)


async def read_in_a_task(ws: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ws.receive())
        await asyncio.sleep(0.01)
        raise ZeroDivisionError


async def leave_a_reader_behind(ws: aiohttp.ClientWebSocketResponse) -> None:
    ws.reader = asyncio.create_task(ws.receive())  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)
    raise ZeroDivisionError


async def be_cancelled(ws: aiohttp.ClientWebSocketResponse) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    await ws.receive()


async def send_too_much(ws: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.timeout(0.05):
        while True:
            await ws.send_bytes(bytes(1 << 20))


def ended(session: WebSocketClientSession) -> dict[str, int]:
    """Return how many connections were closed, by reason."""
    counted = asdict(session.stats()).items()
    return {name.removeprefix("closed_"): n for name, n in counted if n and "closed_" in name}


GIVEN_UP: list[Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]]] = [
    receive_with_a_timeout,
    receive_inside_a_timeout,
    wait_for_a_receive,
    read_in_a_task,
    leave_a_reader_behind,
    be_cancelled,
    send_too_much,
]


@pytest.mark.parametrize("give_up", GIVEN_UP)
async def test_an_abandoned_exchange_is_not_waited_for_and_frees_its_place_soon(
    server: Server, session: WebSocketClientSession, give_up: Callable[[Any], Awaitable[None]]
) -> None:
    async def use() -> None:
        async with session.ws_connect(server.url("/silent")) as ws:
            await give_up(ws)

    task = asyncio.create_task(use())
    async with asyncio.timeout(HANGS):
        await asyncio.wait([task])
        # The server has not noticed: the goodbye is still under way.
        assert session.stats().closing == 1
        assert ended(session) == ({"cancelled": 1} if task.cancelled() else {"failed": 1})
        assert task.cancelled() or task.exception() is not None
        # Its place comes back long before close_timeout.
        async with session.ws_connect(server.url()) as ws:
            assert not ws.reused


async def test_the_end_of_a_send_that_was_given_up_is_reported_to_nobody(
    server: Server, session: WebSocketClientSession
) -> None:
    """The fixture fails where the exception handler of the loop is called."""
    ws = await session.ws_connect(server.url("/silent"))
    with pytest.raises(TimeoutError):
        await send_too_much(ws)
    server.transports[0].abort()
    await until(lambda: ws._slot is None or ws._slot.conn.gone)
    await ws.release()


class Leaving(BaseException):
    pass


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def cancellation_of(what: str) -> Awaitable[object]:
    """Return what raises ``CancelledError``."""
    if what == "this task":
        asyncio.get_running_loop().call_soon(current_task().cancel)
        return asyncio.sleep(600)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


@pytest.mark.parametrize("what", ["this task", "what was awaited"])
async def test_a_cancellation_is_told_from_an_error(
    server: Server, session: WebSocketClientSession, what: str
) -> None:
    session.resize(limit=None)
    with pytest.raises(asyncio.CancelledError):
        async with session.ws_connect(server.url()):
            await cancellation_of(what)
    if what == "this task":
        current_task().uncancel()
    assert ended(session) == {"cancelled": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(), "failed"),
        (Leaving(), "failed"),
        (TimeoutError(), "failed"),
        (ZeroDivisionError(), "failed"),
        (BaseExceptionGroup("", [asyncio.CancelledError()]), "failed"),
        (ExceptionGroup("", [ZeroDivisionError()]), "failed"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("enters", [True, False])
async def test_the_reason_for_each_exception(
    server: Server,
    session: WebSocketClientSession,
    error: BaseException,
    reason: str,
    enters: bool,
) -> None:
    acquisition = session.ws_connect(server.url())
    with pytest.raises(type(error)):
        async with acquisition if enters else await acquisition:
            raise error
    assert ended(session) == {reason: 1}


@pytest.mark.parametrize("around", [True, False])
async def test_a_timeout_around_the_block_cancels_it(
    server: Server, session: WebSocketClientSession, around: bool
) -> None:
    """Inside it, what leaves the block is an error."""
    outer, inner = asyncio.timeout(None), asyncio.timeout(None)
    with pytest.raises(TimeoutError):
        async with outer, session.ws_connect(server.url()) as ws, inner:
            (outer if around else inner).reschedule(0)
            await ws.receive()
    assert ended(session) == {"cancelled" if around else "failed": 1}


class Derived(asyncio.CancelledError):
    pass


async def test_a_cancellation_of_a_class_of_its_own(
    server: Server, session: WebSocketClientSession
) -> None:
    with pytest.raises(Derived):
        async with session.ws_connect(server.url()):
            raise Derived
    assert ended(session) == {"cancelled": 1}


async def test_any_exception_leaves_at_once(
    server: Server, session: WebSocketClientSession
) -> None:
    session.resize(limit=None)
    errors = [ZeroDivisionError, OSError, asyncio.CancelledError, Leaving, TimeoutError]
    for error in errors:
        async with asyncio.timeout(HANGS):
            with pytest.raises(error):
                async with session.ws_connect(server.url("/silent")):
                    raise error
    # No read was given up: the server has all of close_timeout.
    now = asyncio.get_running_loop().time()
    slots = session._pool.slots()
    assert len(slots) == len(errors)
    assert all(slot.conn.timer.when() - now > HANGS for slot in slots)


async def test_the_server_gets_its_goodbye_all_the_same(
    server: Server, session: WebSocketClientSession
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with session.ws_connect(server.url()):
            raise ZeroDivisionError
    await until(lambda: server.close_codes)
    assert server.close_codes == [aiohttp.WSCloseCode.OK]
    await until(lambda: not session.stats().closing)


async def test_a_generator_that_is_closed(server: Server, session: WebSocketClientSession) -> None:
    async def words() -> AsyncIterator[str]:
        async with session.ws_connect(server.url("/silent")):
            yield "a word"

    async with asyncio.timeout(HANGS), contextlib.aclosing(words()) as speech:
        async for _ in speech:
            break
    assert session.stats().closing == session.stats().closed_cancelled == 1


async def test_a_coroutine_that_is_closed(server: Server, session: WebSocketClientSession) -> None:
    """It cannot wait: it is closed by one call."""
    ws = await session.ws_connect(server.url("/silent"))

    async def use() -> None:
        async with ws:
            await asyncio.sleep(0)

    coroutine = use()
    coroutine.send(None)
    coroutine.close()
    assert session.stats().closing == session.stats().closed_cancelled == 1


async def test_what_was_given_up_inside_and_left_cleanly(
    server: Server, session: WebSocketClientSession
) -> None:
    async with asyncio.timeout(HANGS):
        async with session.ws_connect(server.url("/silent")) as ws:
            with contextlib.suppress(TimeoutError):
                await ws.receive(timeout=0.01)
        async with session.ws_connect(server.url()):
            pass


@pytest.mark.parametrize("close", ["close", "release"])
async def test_closed_by_hand_after_a_read_that_was_given_up(
    server: Server, session: WebSocketClientSession, close: str
) -> None:
    ws = await session.ws_connect(server.url("/silent"))
    with contextlib.suppress(TimeoutError):
        await ws.receive(timeout=0.01)
    async with asyncio.timeout(HANGS):
        await getattr(ws, close)()
        async with session.ws_connect(server.url()):
            pass


async def test_close_by_hand_without_one_gives_the_server_its_time(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.create_task(ws.close())
    await asyncio.sleep(0.15)
    assert not closing.done()
    server.stopped.set()
    await closing


async def test_a_server_of_another_make(session: WebSocketClientSession) -> None:
    """One that stops reading, as ``websockets`` does when its handler is behind."""
    stopped = asyncio.Event()

    async def hang(ws: ServerConnection) -> None:
        ws.transport.pause_reading()
        await stopped.wait()
        ws.transport.abort()

    async with serve(hang, "127.0.0.1", 0) as their, asyncio.timeout(HANGS):
        port = next(iter(their.sockets)).getsockname()[1]
        with pytest.raises(TimeoutError):
            async with session.ws_connect(f"ws://127.0.0.1:{port}/") as ws:
                await ws.receive(timeout=0.01)
        assert session.stats().closing == 1
        await until(lambda: not session.stats().closing)
        stopped.set()


# -- the session's own block ------------------------------------------------------------------


class Stubborn:
    """A limiter that goes on although it is cancelled."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    async def __aenter__(self) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.stopped.wait()

    async def __aexit__(self, *exc: object) -> None:
        raise ZeroDivisionError


class SlowSession:
    """A client session that is never closed; all else is a real one's."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.close_session = session.close
        session.close = self.close  # type: ignore[method-assign]

    async def close(self) -> None:
        await asyncio.sleep(600)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("connections", asyncio.CancelledError),
        ("connections", KeyboardInterrupt),
        ("handshake", ZeroDivisionError),
        ("handler", ZeroDivisionError),
        ("client session", ZeroDivisionError),
    ],
)
async def test_a_session_left_by_an_exception(
    server: Server, what: str, error: type[BaseException]
) -> None:
    trace = TraceConfig()
    arguments: dict[str, Any] = {"close_timeout": 600.0}
    limiter = Stubborn()
    if what == "handshake":
        arguments["connect_limiter"] = limiter
    if what == "handler":
        arguments["trace_configs"] = [trace]

        @trace.on_connect_end.append
        async def hang(*_: object) -> None:
            await asyncio.sleep(600)

    callers = []
    async with asyncio.timeout(HANGS):
        session = WebSocketClientSession(**arguments)
        slow = SlowSession(session.client_session) if what == "client session" else None
        with pytest.raises(error):
            async with session:
                if what == "handshake":
                    callers.append(asyncio.create_task(session.ws_connect(server.url())))
                    await until(lambda: session.stats().connecting)
                    await asyncio.sleep(0.01)
                else:
                    _ws = await session.ws_connect(server.url("/silent"))
                raise error
    assert session.closed
    limiter.stopped.set()
    for caller in callers:
        with pytest.raises(PoolClosedError):
            await caller
    await until(lambda: not session._pool.sizes()["slots"])
    if slow is not None:
        await slow.close_session()


async def test_close_by_hand_keeps_close_timeout(server: Server) -> None:
    session = WebSocketClientSession(close_timeout=600.0)
    _ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0.2)
    assert not closing.done()
    assert session.stats().closing == 1
    server.stopped.set()
    server.transports[0].abort()
    await closing


async def test_a_clean_exit_keeps_close_timeout(server: Server) -> None:
    async def use() -> None:
        async with WebSocketClientSession(close_timeout=600.0) as session:
            _ws = await session.ws_connect(server.url("/silent"))

    using = asyncio.create_task(use())
    await asyncio.sleep(0.2)
    assert not using.done()
    server.transports[0].abort()
    await using


@pytest.mark.parametrize("where", ["in another task", "inside, and cancelled there"])
async def test_left_while_it_is_closed_by_hand(server: Server, where: str) -> None:
    """Then the shorter time counts."""
    async with asyncio.timeout(HANGS):
        with pytest.raises((ZeroDivisionError, TimeoutError)):
            async with WebSocketClientSession(close_timeout=600.0) as session:
                _ws = await session.ws_connect(server.url("/silent"))
                if where == "in another task":
                    closing = asyncio.create_task(session.close())
                    await asyncio.sleep(0.01)
                    raise ZeroDivisionError
                closing = asyncio.create_task(asyncio.sleep(0))
                async with asyncio.timeout(0.01):
                    await session.close()
        await closing
    assert not session.stats().closing


async def test_a_generator_that_holds_a_session_is_closed(server: Server) -> None:
    async def held() -> AsyncIterator[WebSocketClientSession]:
        async with WebSocketClientSession(close_timeout=600.0) as session:
            _ws = await session.ws_connect(server.url("/silent"))
            yield session

    generator = held()
    session = await anext(generator)
    closing = generator.aclose()  # type: ignore[attr-defined]
    with contextlib.suppress(StopIteration):
        # By one step: it waits for nothing.
        closing.send(None)
    assert session.closed
    async with asyncio.timeout(HANGS):
        await session.close()
    assert not session.stats().closing


async def test_a_session_that_was_left_and_never_used() -> None:
    for error in (ZeroDivisionError, GeneratorExit):
        session = WebSocketClientSession(close_timeout=600.0)
        with pytest.raises(error):
            async with session:
                raise error
        await session.close()
        assert session.closed


async def test_a_close_of_a_subclass_is_called(server: Server) -> None:
    class Session(WebSocketClientSession):
        called = 0

        async def close(self) -> None:
            self.called += 1
            await super().close()

    async with asyncio.timeout(HANGS):
        with pytest.raises(ZeroDivisionError):
            async with Session(close_timeout=600.0) as session:
                _ws = await session.ws_connect(server.url("/silent"))
                raise ZeroDivisionError
    assert session.called == 1


INTERRUPTED = """
import asyncio, sys
from aiowebsocketclient import WebSocketClientSession, settings

settings._HASTE = 0.05

async def main():
    async with (
        WebSocketClientSession(close_timeout=600.0) as session,
        session.ws_connect(sys.argv[2]) as ws,
    ):
        print("ready", flush=True)
        await ws.receive()

if sys.argv[1] == "run":
    asyncio.run(main())
else:
    factory = None
    if sys.argv[1] == "uvloop":
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize(
    "how", ["Runner", *(pytest.param(how, marks=pytest.mark.slow) for how in ("run", "uvloop"))]
)
async def test_interrupted_from_the_keyboard(server: Server, how: str) -> None:
    if how == "uvloop" and uvloop is None:
        pytest.skip("no uvloop")
    command = [sys.executable, "-P", "-W", "error", "-c", INTERRUPTED, how, server.url("/silent")]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell lets what it runs in the background ignore Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        async with asyncio.timeout(HANGS):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")
