"""Callers that give up, at every point where they may."""

import asyncio
import contextlib
import gc
import warnings
import weakref
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PoolTimeoutError, PrewarmError, WebSocketClientSession

from .conftest import SessionFactory, until
from .servers import Server


def start(session: WebSocketClientSession, url: str, **options: Any) -> "asyncio.Task[Any]":
    return asyncio.create_task(session.ws_connect(url, **options))


async def all_places_can_be_taken(
    session: WebSocketClientSession, server: Server, limit: int
) -> None:
    async with asyncio.timeout(30):
        calls = [session.ws_connect(server.url(), acquire_timeout=None) for _ in range(limit)]
        held = await asyncio.gather(*calls)
    assert server.peak <= limit
    await asyncio.gather(*[ws.release() for ws in held])


async def test_while_waiting(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    first, second, third = (start(session, server.url()) for _ in range(3))
    await until(lambda: session.stats().waiting == 3)
    second.cancel()
    await asyncio.wait([second])
    assert second.cancelled()
    assert session.stats().waiting == 2
    await ws.release()
    ws = await first
    await ws.release()
    await (await third).release()
    await all_places_can_be_taken(session, server, 1)


async def test_just_after_being_handed_a_connection(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    first, second = start(session, server.url()), start(session, server.url())
    await until(lambda: session.stats().waiting == 2)
    # Handed over, and cancelled before it wakes.
    ws.release()
    first.cancel()
    ws = await second
    assert ws.reused
    assert first.cancelled()
    await ws.release()
    assert server.handshakes == 1
    await all_places_can_be_taken(session, server, 1)


async def test_just_after_its_handshake_succeeded(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    caller = start(session, server.url())
    await until(lambda: any(slot.waiter for slot in session._pool.slots()), pause=0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert session.stats().idle == 1
    await all_places_can_be_taken(session, server, 1)
    assert server.handshakes == 1


async def test_what_a_cancelled_caller_was_given_is_nobodys_use(
    server: Server, make_session: SessionFactory
) -> None:
    """No caller has released it, nor used it before the next."""
    session = make_session(limit=1)
    caller = start(session, server.url())
    await until(lambda: any(slot.waiter for slot in session._pool.slots()), pause=0)
    caller.cancel()
    await asyncio.wait([caller])
    assert session.stats().released == 0
    ws = await session.ws_connect(server.url())
    assert (ws.reused, session.stats().reused) == (False, 0)
    # The same with a connection that was used.
    caller = start(session, server.url())
    await until(lambda: session.stats().waiting == 1)
    ws.release()
    caller.cancel()
    await asyncio.wait([caller])
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
    stats = session.stats()
    assert (stats.requests, stats.released, stats.reused, stats.connects) == (4, 2, 1, 1)


async def test_given_a_fresh_connection_that_was_greeted(
    server: Server, make_session: SessionFactory
) -> None:
    """What came for the one who is gone must not reach the next."""
    session = make_session(limit=1)
    caller = start(session, server.url("/greet"))
    await until(lambda: any(slot.waiter for slot in session._pool.slots()), pause=0)
    (slot,) = session._pool.slots()
    # The greeting arrives in the same turn; the caller has not woken yet.
    slot.conn._parser.feed_data(b"\x81\x07welcome")
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert session.stats().idle == 0
    assert session.stats().closed_dirty == 1


async def test_given_a_fresh_connection_that_was_pinged(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    caller = start(session, server.url())
    await until(lambda: any(slot.waiter for slot in session._pool.slots()), pause=0)
    (slot,) = session._pool.slots()
    slot.conn._parser.feed_data(b"\x89\x00")
    caller.cancel()
    await asyncio.wait([caller])
    assert session.stats().idle == 1
    await all_places_can_be_taken(session, server, 1)
    assert server.handshakes == 1


async def test_while_connecting(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    caller = start(session, server.url())
    await until(lambda: server.arrived == 1)
    caller.cancel()
    await asyncio.wait([caller])
    assert session.stats().connecting == 1
    # What was begun is there for the next one.
    server.gate.set()
    await until(lambda: session.stats().idle == 1)
    async with session.ws_connect(server.url()):
        assert server.handshakes == 1


async def test_while_connecting_with_the_place_needed(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    caller = start(session, server.url("/a"))
    await until(lambda: server.arrived == 1)
    other = start(session, server.url("/b"))
    await until(lambda: session.stats().waiting == 1)
    caller.cancel()
    # It gives way at once, and does not wait for the gate.
    await until(lambda: server.arrived == 2)
    server.gate.set()
    await (await other).release()
    assert session.stats().idle == 1


@pytest.mark.slow
async def test_orphaned_handshakes_are_stopped(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    server.gate.clear()
    caller = start(session, server.url())
    await until(lambda: server.arrived == 1)
    caller.cancel()
    await asyncio.wait([caller])
    await asyncio.sleep(4.0)
    assert session.stats().connecting == 1
    await until(lambda: session.stats().connecting == 0)
    await until(lambda: session.stats().closing == 0)


@pytest.mark.slow
async def test_handshakes_orphaned_by_a_release_are_stopped(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    held = await session.ws_connect(server.url())
    server.gate.clear()
    caller = start(session, server.url())
    await until(lambda: server.arrived == 2)
    await held.release()
    # Nothing else happens to the pool.
    async with await caller as ws:
        assert ws.reused
        assert session.stats().connecting == 1
        await until(lambda: session.stats().connecting == 0)
        await until(lambda: session.stats().closing == 0)


async def test_before_the_first_step(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    caller = start(session, server.url())
    caller.cancel()
    with warnings.catch_warnings(record=True) as warned:
        await asyncio.wait([caller])
        assert caller.cancelled()
        del caller
        gc.collect()
    assert not warned
    # And the handshake's task, before its own.
    caller = start(session, server.url("/a"))
    await asyncio.sleep(0)
    assert session.stats().connecting == 1
    other = start(session, server.url("/b"))
    await asyncio.sleep(0)
    caller.cancel()
    async with asyncio.timeout(30):
        await (await other).release()
    await all_places_can_be_taken(session, server, 1)


async def test_a_released_connection_comes_before_the_one_being_opened(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=2)
    ws = await session.ws_connect(server.url())
    server.gate.clear()
    caller = start(session, server.url())
    await until(lambda: server.arrived == 2)
    await ws.release()
    served = await caller
    assert served == ws
    assert session.stats().connecting == 1
    server.gate.set()
    await until(lambda: session.stats().idle == 1)
    async with session.ws_connect(server.url()) as other:
        assert other != served
        # Nobody has used it yet, but for being opened.
        assert not other.reused
    await served.release()
    assert server.handshakes == 2


async def test_wait_for(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    async with session.ws_connect(server.url()):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.ws_connect(server.url()), 0.02)
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.02), session.ws_connect(server.url()):
                pass
    await all_places_can_be_taken(session, server, 1)


async def test_death_between_hand_over_and_waking(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    first, second = start(session, server.url()), start(session, server.url())
    await until(lambda: session.stats().waiting == 2)
    (slot,) = session._pool.slots()
    conn = slot.conn
    ws.release()
    # The connection dies in the same tick, before the first one wakes.
    conn._transport.abort()
    conn._protocol.connection_lost(None)
    async with asyncio.timeout(30):
        ws = await first
    # It kept its turn.
    assert not second.done()
    assert not ws.reused
    await ws.release()
    await (await second).release()
    assert server.handshakes == 2
    await all_places_can_be_taken(session, server, 1)


async def test_timeout_after_hand_over_of_a_connection_that_ends(
    server: Server, make_session: SessionFactory
) -> None:
    """Three things in one turn of the loop: given a connection, out of time, and that is dead."""
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    caller = start(session, server.url(), acquire_timeout=600)
    await until(lambda: session.stats().waiting == 1)
    (slot,) = session._pool.slots()
    conn = slot.conn
    ws.release()
    server.gate.clear()
    session._time_out(slot.waiter, 30)
    conn._transport.abort()
    conn._protocol.connection_lost(None)
    with pytest.raises(PoolTimeoutError):
        await asyncio.wait_for(caller, 30)
    server.gate.set()
    await all_places_can_be_taken(session, server, 1)


async def test_errors_of_callers_are_freed_at_once(
    server: Server, make_session: SessionFactory
) -> None:
    """None is in a cycle with a frame of its traceback: that would keep all the frame knows."""
    session = make_session(limit=1, close_timeout=0.2)
    errors: list[weakref.ref[BaseException]] = []

    async def end(task: "asyncio.Task[Any]") -> None:
        await asyncio.wait([task])
        try:
            error = task.exception()
            assert isinstance(
                error,
                PoolTimeoutError
                | PrewarmError
                | aiohttp.WSServerHandshakeError
                | aiohttp.ConnectionTimeoutError,
            )
            errors.append(weakref.ref(error))
        except asyncio.CancelledError as cancelled:
            errors.append(weakref.ref(cancelled))

    gc.collect()
    gc.disable()
    try:
        # Cancelled while it waits.
        ws = await session.ws_connect(server.url())
        caller = start(session, server.url())
        await until(lambda: session.stats().waiting == 1)
        caller.cancel()
        await end(caller)
        # Out of time when what it was given has died.
        caller = start(session, server.url(), acquire_timeout=30)
        await until(lambda: session.stats().waiting == 1)
        (slot,) = session._pool.slots()
        conn = slot.conn
        ws.release()
        session._time_out(slot.waiter, 30)
        conn._transport.abort()
        conn._protocol.connection_lost(None)
        await end(caller)
        # Cancelled in a release that waits for the closing handshake.
        ws = await session.ws_connect(server.url("/silent"))
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        caller = asyncio.create_task(ws.release())
        await asyncio.sleep(0)
        caller.cancel()
        await end(caller)
        await receiving
        # Failed.
        await until(lambda: not session.stats().closing)
        caller = start(session, server.url("/refuse"))
        await end(caller)
        caller = asyncio.create_task(session.prewarm(server.url("/refuse"), 1))
        await end(caller)
        # Out of time to connect.
        hasty = make_session(conn_timeout=0.05)
        caller = start(hasty, server.url("/hang"))
        await end(caller)
        del caller
        # What the loop still holds of a task that has ended goes with its next turns; a cycle would
        # stay.
        with contextlib.suppress(TimeoutError):
            await until(lambda: not any(error() for error in errors))
        assert [error() for error in errors] == [None] * 6
    finally:
        gc.enable()


async def test_storm_of_cancellations(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=3, acquire_timeout=0.2)
    finished = 0

    async def caller(number: int) -> None:
        nonlocal finished
        for turn in range(10):
            try:
                async with asyncio.timeout(0.0005 * ((number * 7 + turn * 3) % 11)):
                    async with session.ws_connect(server.url()) as ws:
                        await ws.send_str(f"{number} {turn}")
                        assert await ws.receive_str() == f"{number} {turn}"
            except TimeoutError:
                pass
            except PoolTimeoutError:
                pass
        finished += 1

    await asyncio.gather(*[caller(number) for number in range(60)])
    assert finished == 60
    await until(lambda: session.stats().closing == 0)
    assert session.stats().acquired == session.stats().waiting == 0
    assert server.peak <= 3
    await all_places_can_be_taken(session, server, 3)


@pytest.mark.parametrize("eager", [False, True])
async def test_with_eager_tasks(server: Server, make_session: SessionFactory, eager: bool) -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if eager and factory is None:
        pytest.skip("Python 3.12 has eager tasks")
    loop = asyncio.get_running_loop()
    if eager and not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop calls a task factory with arguments that this one may not take")
    loop.set_task_factory(factory if eager else None)
    try:
        session = make_session(limit=2)

        async def caller() -> None:
            async with session.ws_connect(server.url()) as ws:
                await ws.send_str("x")
                assert await ws.receive_str() == "x"

        await asyncio.gather(*[caller() for _ in range(20)])
        assert 1 <= server.peak <= 2
        await session.close()
    finally:
        loop.set_task_factory(None)
