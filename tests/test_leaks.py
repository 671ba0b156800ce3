"""Connections that are held for longer than ``leak_threshold``."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession, leaks

from .conftest import SessionFactory, until
from .servers import Server

# Seconds that never pass in a test, unless it says so.
LONG = 1_000.0


class Told:
    """What was logged of leaks; ``later()`` makes believe that ``LONG`` has passed."""

    def __init__(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self._caplog = caplog
        self._monkeypatch = monkeypatch
        self._now = leaks.clock

    @property
    def records(self) -> list[Any]:
        found: list[Any] = [r for r in self._caplog.records if r.name == "aiowebsocketclient"]
        assert all(record.event == "leak" for record in found)
        assert all(record.levelno == logging.WARNING for record in found)
        return found

    def later(self, session: WebSocketClientSession) -> int:
        """Let the timer go off, and return how many have been told of by then."""
        before = self._now
        self._now = lambda: before() + 2 * LONG
        self._monkeypatch.setattr(leaks, "clock", self._now)
        watch: Any = session._leak_watch
        if watch._timer is not None:
            watch._timer.cancel()
            watch._look(asyncio.get_running_loop())
        return len(self.records)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(caplog, monkeypatch)


async def acquire_deep_down(session: WebSocketClientSession, url: str) -> ClientWebSocketResponse:
    ws: ClientWebSocketResponse = await session.ws_connect(url)
    return ws


async def test_what_is_held_too_long_is_told_of_once(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=0.02)
    for acquisition in (1, 2):
        ws = await acquire_deep_down(session, server.url())
        await until(lambda acquisition=acquisition: len(told.records) == acquisition)
        await asyncio.sleep(0.05)
        await ws.release()
    record = told.records[1]
    assert len(told.records) == 2
    assert record.endpoint == f"127.0.0.1:{server.port}"
    assert record.seconds >= 0.02
    *_, outer, inner = record.acquired_at
    line = acquire_deep_down.__code__.co_firstlineno + 1
    assert inner == f"{__file__}:{line} in acquire_deep_down"
    assert outer.startswith(f"{__file__}:")
    assert outer.endswith(" in test_what_is_held_too_long_is_told_of_once")
    assert f"127.0.0.1:{server.port}" in record.getMessage()
    assert inner in record.getMessage()


async def test_each_in_its_time_by_one_timer(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=0.05)
    watch: Any = session._leak_watch
    held = []
    for _ in range(3):
        held.append(await session.ws_connect(server.url()))
        await asyncio.sleep(0.02)
    await until(lambda: not watch._held)
    assert len(told.records) == 3
    # Nothing to wait for any more.
    assert watch._timer is None
    await asyncio.gather(*[ws.release() for ws in held])


async def test_many_have_one_timer(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=LONG)
    watch: Any = session._leak_watch
    first = await session.ws_connect(server.url())
    timer = watch._timer
    held = [await session.ws_connect(server.url()) for _ in range(5)]
    assert watch._timer is timer
    await first.release()
    assert told.later(session) == 5
    assert (watch._held, watch._timer) == ({}, None)
    # The next one needs a timer again.
    await held[0].release()
    ws = await session.ws_connect(server.url())
    assert watch._timer is not None
    await asyncio.gather(ws.release(), *[ws.release() for ws in held[1:]])


async def release(ws: ClientWebSocketResponse) -> None:
    await ws.release()


async def release_what_is_unread(ws: ClientWebSocketResponse) -> None:
    await ws.send_str("x")
    await until(lambda: ws._reader._buffer)
    await ws.release()


async def close(ws: ClientWebSocketResponse) -> None:
    await ws.close()


async def leave(ws: ClientWebSocketResponse) -> None:
    async with ws:
        pass


async def leave_by_an_exception(ws: ClientWebSocketResponse) -> None:
    with pytest.raises(LookupError):
        async with ws:
            raise LookupError


@pytest.mark.parametrize(
    "end", [release, release_what_is_unread, close, leave, leave_by_an_exception]
)
@pytest.mark.parametrize("waits", [False, True])
async def test_what_has_ended_is_not_held(
    server: Server,
    make_session: SessionFactory,
    told: Told,
    end: Callable[[ClientWebSocketResponse], Any],
    waits: bool,
) -> None:
    session = make_session(leak_threshold=LONG, limit=1)
    if waits:
        held = await session.ws_connect(server.url())
        waiter = asyncio.ensure_future(session.ws_connect(server.url()))
        await until(lambda: session.stats().waiting)
        await held.release()
        ws = await waiter
    else:
        ws = await session.ws_connect(server.url())
    await end(ws)
    assert told.later(session) == 0
    assert session._leak_watch._held == {}  # type: ignore[union-attr]


async def test_what_was_forgotten_is_not_held(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=LONG)
    ws = await acquire_deep_down(session, server.url())
    # Who forgets it is told where, without any debug mode.
    with pytest.warns(ResourceWarning, match=r"Acquired at:(\n.*)+ in acquire_deep_down"):
        del ws
        gc.collect()
    await until(lambda: session.stats().endpoints == 0)
    assert told.later(session) == 0


@pytest.mark.parametrize("name", ["configure", "check", "reset"])
async def test_what_a_hook_has_is_not_held(
    server: Server, make_session: SessionFactory, told: Told, name: str
) -> None:
    gate = asyncio.Event()
    entered = 0

    async def hook(ws: aiohttp.ClientWebSocketResponse) -> None:
        nonlocal entered
        entered += 1
        await gate.wait()

    session = make_session(leak_threshold=LONG, limit=1, **{name: hook})
    watch: Any = session._leak_watch

    async def use() -> None:
        for _ in range(2):
            await (await session.ws_connect(server.url())).release()

    using = asyncio.create_task(use())
    await until(lambda: entered)
    assert watch._held == {}
    assert told.later(session) == 0
    gate.set()
    await using


async def test_nothing_is_told_of_a_closed_session(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=0.02)
    ws = await session.ws_connect(server.url())
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)
    count = len(told.records)
    await closing
    await asyncio.sleep(0.05)
    assert len(told.records) == count <= 1
    await ws.release()


async def test_the_timer_keeps_no_session_alive(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    session = WebSocketClientSession(leak_threshold=0.02)
    await (await session.ws_connect(server.url())).release()
    dropped = weakref.ref(session)
    with pytest.warns(ResourceWarning, match="Unclosed"):
        del session
        gc.collect()
    assert dropped() is None
    await asyncio.sleep(0.05)
    assert told.records == []
    await until(lambda: not server.open)


async def test_the_stack_keeps_nothing_of_the_caller_alive(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    class Thing:
        pass

    async def acquire() -> Any:
        thing = Thing()
        return await session.ws_connect(server.url()), weakref.ref(thing)

    session = make_session(leak_threshold=LONG)
    gc.disable()
    try:
        ws, thing = await acquire()
        assert thing() is None
    finally:
        gc.enable()
    await ws.release()


async def test_who_acquired_in_a_task_of_its_own(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    session = make_session(leak_threshold=LONG)
    ws = await asyncio.create_task(session.ws_connect(server.url()))
    assert told.later(session) == 1
    assert told.records[0].acquired_at == ["a separate task"]
    await ws.release()


async def test_deep_stacks_are_cut(
    server: Server, make_session: SessionFactory, told: Told
) -> None:
    async def acquire(depth: int) -> Any:
        return await (acquire(depth - 1) if depth else session.ws_connect(server.url()))

    session = make_session(leak_threshold=LONG)
    ws = await acquire(100)
    assert told.later(session) == 1
    (record,) = told.records
    assert len(record.acquired_at) == 32
    assert all(line.endswith("acquire") for line in record.acquired_at)
    await ws.release()


async def test_without_it_calls_take_the_short_way(
    server: Server, make_session: SessionFactory
) -> None:
    for arguments, is_open in (({}, True), ({"leak_threshold": 1.0}, False)):
        session = make_session(**arguments)
        await (await session.ws_connect(server.url())).release()
        assert session._express.open is is_open


@pytest.mark.parametrize("threshold", [0, -1, "5", True, float("nan")])
def test_what_is_no_threshold_is_refused(threshold: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="leak_threshold must be"):
        WebSocketClientSession(leak_threshold=threshold)


def test_frames_of_installed_packages_are_left_out() -> None:
    own: Any = test_frames_of_installed_packages_are_left_out.__code__
    framework: Any = pytest.fixture.__code__
    library: Any = asyncio.sleep.__code__
    place = [(framework, 1), (own, 2), (library, 3)]
    assert leaks.lines_of(place) == [f"{__file__}:2 in {own.co_qualname}"]
    # A program that is installed itself.
    assert len(leaks.lines_of([(framework, 1), (library, 3)])) == 2
