"""A place stays taken for a while where a server may still count the connection that was in it."""

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketClientSession,
    lifecycle,
)

from .cap_refusals import PARTS, SERVERS, running
from .conftest import SessionFactory, until
from .servers import Server

# Seconds after which something hangs, and a cooldown that ends in no test by itself.
HANGS = 30.0
LONG = 3600.0


def cooling(session: WebSocketClientSession) -> int:
    """Return how many places are taken although their sockets are gone."""
    number = session._pool.sizes()["cooling"]
    assert number <= session.stats().closing
    return number


def let_cool_down(session: WebSocketClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so much time pass that all that cools down now has done so."""
    clock = lifecycle.clock
    monkeypatch.setattr(lifecycle, "clock", lambda: clock() + LONG)
    session._lifecycle._expire()


async def ask(session: WebSocketClientSession, url: str) -> str:
    async with session.ws_connect(url) as ws:
        await ws.send_str("hello")
        return await ws.receive_str()


# -- servers that count until their handler has ended --------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
async def test_a_cap_that_counts_until_the_handler_has_ended(
    make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with running(name, cap=1) as server:
        session = make_session(limit=1, cooldown=LONG, close_timeout=HANGS)
        with pytest.raises(ZeroDivisionError):
            async with session.ws_connect(server.url()) as ws:
                await ws.send_str("hello")
                await ws.receive_str()
                server.gate.clear()
                raise ZeroDivisionError
        other = asyncio.create_task(ask(session, server.url()))
        if name != "aiohttp":
            # It has said goodbye while its handler is at work.
            await until(lambda: cooling(session))
            assert server.count == 1
        server.gate.set()
        await until(lambda: cooling(session) and not server.count)
        assert session.stats().closing == session.stats().waiting == 1
        assert not other.done()
        let_cool_down(session, monkeypatch)
        async with asyncio.timeout(HANGS):
            assert await other == "0"
        assert (server.accepted, server.refused) == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
async def test_barge_ins(make_session: SessionFactory, name: str) -> None:
    """A handler needs 0.05 s to notice."""
    with running(name, cap=2) as server:
        session = make_session(limit=2, cooldown=2.0)

        async def barge_in() -> None:
            with contextlib.suppress(ZeroDivisionError):
                async with session.ws_connect(server.url()) as ws:
                    await ws.send_str("hello")
                    await ws.receive_str()
                    raise ZeroDivisionError

        async with asyncio.timeout(HANGS):
            await asyncio.gather(*[barge_in() for _ in range(4)])
        assert (server.accepted, server.refused) == (4, 0)


@pytest.mark.parametrize("name", SERVERS)
async def test_what_was_read_to_the_end_does_not_cool_down(
    make_session: SessionFactory, name: str
) -> None:
    with running(name, cap=1) as server:
        session = make_session(limit=1, cooldown=LONG, force_close=True)
        for _ in range(2):
            async with asyncio.timeout(HANGS), session.ws_connect(server.url()) as ws:
                await ws.send_str("hello")
                for _ in range(PARTS):
                    await ws.receive_str()
        await until(lambda: not session.stats().closing)
        assert (server.accepted, server.refused) == (2, 0)


# -- which ends ----------------------------------------------------------------------------------


async def by_an_exception(session: WebSocketClientSession, server: Server) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with session.ws_connect(server.url()):
            raise ZeroDivisionError


async def by_cancellation(session: WebSocketClientSession, server: Server) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with session.ws_connect(server.url()):
            held.set()
            await asyncio.sleep(HANGS)

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    await asyncio.wait([task])


async def by_hand(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    await ws.close()


async def with_a_reply_unread(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("hello")
        await until(lambda: ws._reader._buffer)  # type: ignore[union-attr]


async def with_a_read_given_up(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        with contextlib.suppress(TimeoutError):
            await ws.receive(timeout=0.01)


async def while_idle_by_a_late_reply(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()):
        pass
    await server.sockets[0].send_str("late")


async def lost_in_use(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        server.transports[0].abort()
        await ws.receive()


async def closed_by_the_server_in_use(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        closing = asyncio.create_task(server.sockets[0].close())
        await ws.receive()
    await closing


async def forgotten(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    with pytest.warns(ResourceWarning):
        del ws
        gc.collect()


async def fail(ws: Any) -> None:
    raise ZeroDivisionError


async def reset_that_failed(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url(), reset=fail):
        pass


async def check_that_failed(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url(), check=fail):
        pass
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), check=fail, acquire_timeout=0)


async def configure_that_failed(session: WebSocketClientSession, server: Server) -> None:
    with contextlib.suppress(ZeroDivisionError):
        await session.ws_connect(server.url(), configure=fail)


async def configure_of_nobody(session: WebSocketClientSession, server: Server) -> None:
    """It gives way to a caller of another handshake."""
    begun = asyncio.Event()

    async def hang(ws: Any) -> None:
        begun.set()
        await asyncio.sleep(HANGS)

    task = asyncio.create_task(session.ws_connect(server.url(), configure=hang))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    other = asyncio.create_task(session.ws_connect(server.url("/other")))
    await until(lambda: cooling(session))
    other.cancel()
    await asyncio.wait([other])


COOL_DOWN = [
    by_an_exception,
    by_cancellation,
    by_hand,
    with_a_reply_unread,
    with_a_read_given_up,
    while_idle_by_a_late_reply,
    lost_in_use,
    closed_by_the_server_in_use,
    forgotten,
    reset_that_failed,
    check_that_failed,
    configure_that_failed,
    configure_of_nobody,
]

Way = Callable[[WebSocketClientSession, Server], Awaitable[None]]


@pytest.mark.parametrize("end", COOL_DOWN)
async def test_a_place_cools_down_after_it_ended(
    make_session: SessionFactory, server: Server, monkeypatch: pytest.MonkeyPatch, end: Way
) -> None:
    session = make_session(limit=1, cooldown=LONG)
    async with asyncio.timeout(HANGS):
        await end(session, server)
        await until(lambda: cooling(session))
        stats = session.stats()
        assert (stats.closing, stats.acquired, stats.idle, stats.connecting) == (1, 0, 0, 0)
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(server.url(), acquire_timeout=0)
        other = asyncio.create_task(ask(session, server.url("/other")))
        await until(lambda: session.stats().waiting)
        let_cool_down(session, monkeypatch)
        assert await other == "hello"
    assert not session.stats().closing


async def released(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server.url())


async def too_old(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()):
        await session.drain()


async def drained(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server.url())
    await session.drain()


async def evicted(session: WebSocketClientSession, server: Server) -> None:
    for path in ("/a", "/b", "/c"):
        await ask(session, server.url(path))


async def lost_while_idle(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server.url())
    await server.sockets[0].close()


async def refused(session: WebSocketClientSession, server: Server) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.url("/refuse"))


async def detached(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    ws.detach()
    await ws.close()


STAY_WARM = [released, too_old, drained, evicted, lost_while_idle, refused, detached]


@pytest.mark.parametrize("force_close", [False, True])
@pytest.mark.parametrize("end", STAY_WARM)
async def test_a_place_does_not_cool_down_after_it_was(
    make_session: SessionFactory, server: Server, end: Way, force_close: bool
) -> None:
    if force_close and end is lost_while_idle:
        pytest.skip("nothing is idle")
    session = make_session(limit=1, cooldown=LONG, force_close=force_close)
    async with asyncio.timeout(HANGS):
        await end(session, server)
        await until(lambda: not session.stats().closing)
        # The place is free.
        assert await ask(session, server.url("/other")) == "hello"
    assert not cooling(session)


# -- meanwhile -----------------------------------------------------------------------------------


async def test_the_timer_of_the_pool_ends_it(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=1, cooldown=0.05)
    async with asyncio.timeout(HANGS):
        for _ in range(3):
            await by_an_exception(session, server)
            assert await ask(session, server.url("/other")) == "hello"
        await by_hand(session, server)
        await until(lambda: not session.stats().closing)


async def test_nothing_else_waits_for_it(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=3, cooldown=LONG)
    async with asyncio.timeout(HANGS):
        ws = await session.ws_connect(server.url())
        await ws.send_str("hello")
        await until(lambda: ws._reader._buffer)
        await ws.release()
        await by_hand(session, server)
        await session.drain()
        assert await session.prewarm(server.url(), 3) == 1
        assert cooling(session) == 2
        await session.close()
    assert len(session._pool) == 0


async def test_close_does_not_wait_for_what_is_yet_to_cool_down(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(cooldown=LONG)
    async with asyncio.timeout(HANGS):
        await by_an_exception(session, server)
        assert session.stats().closing == 1
        ws = await session.ws_connect(server.url())
        await session.close()
        assert ws.closed
    assert len(session._pool) == 0


async def test_callers_meanwhile(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=1, cooldown=LONG, max_waiting=1)
    async with asyncio.timeout(HANGS):
        await by_hand(session, server)
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(server.url(), acquire_timeout=0.01)
        other = asyncio.create_task(ask(session, server.url()))
        await until(lambda: session.stats().waiting)
        with pytest.raises(TooManyWaitersError):
            await session.ws_connect(server.url())
        # More room is for who waits, at once.
        session.resize(limit=2)
        assert await other == "hello"
    assert cooling(session) == 1


def test_what_cooldown_may_be() -> None:
    for value in (0, 0.0, 0.25, 3):
        WebSocketClientSession(cooldown=value)
    with pytest.raises(TypeError, match="cooldown must be a number of seconds, not None"):
        WebSocketClientSession(cooldown=None)  # type: ignore[arg-type]
