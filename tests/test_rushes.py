"""Callers that come at once, where connections are used for a shorter time than opened."""

import asyncio
import contextlib
import ssl
import time
from typing import Any

import pytest

from aiowebsocketclient import (
    Balanced,
    ClientWebSocketResponse,
    PoolClosedError,
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketClientSession,
)

from .conftest import SessionFactory, until
from .fleet.engine import Engine
from .servers import Server, serving

#: Seconds that handshakes take, so that a busy machine does not make the uses as long.
SLOW = 1.0


async def learn(
    session: WebSocketClientSession,
    server: Server,
    count: int = 5,
    seconds: float = SLOW,
    **options: Any,
) -> None:
    """Let the pool open connections slowly, and use them for short times."""
    server.gate.clear()
    arrived = server.arrived
    opening = asyncio.create_task(session.prewarm(server.url(), count, **options))
    await until(lambda: server.arrived == arrived + count)
    await asyncio.sleep(seconds)
    server.gate.set()
    assert await opening == count
    plain = {name: value for name, value in options.items() if name != "reuse_key"}
    target: Any = session._resolve(server.url(), plain, options.get("reuse_key"))
    await use(session, server, **options)
    # On a busy machine some take long.
    while session._pool.find(target.key).use > seconds / 100:
        await use(session, server, **options)


async def use(session: WebSocketClientSession, server: Server, **options: Any) -> None:
    async with session.ws_connect(server.url(), **options) as ws:
        await ws.send_str("x")
        await ws.receive_str()


async def acquire(balanced: Balanced[ClientWebSocketResponse]) -> ClientWebSocketResponse:
    return await balanced.ws_connect()


async def hold(
    session: WebSocketClientSession, server: Server, count: int = 5
) -> list[ClientWebSocketResponse]:
    return [await session.ws_connect(server.url()) for _ in range(count)]


async def learn_and_hold(
    session: WebSocketClientSession, server: Server
) -> list[ClientWebSocketResponse]:
    """Return all connections, in use, of a pool that expects uses to be short."""
    await learn(session, server)
    return await hold(session, server)


async def release(*held: ClientWebSocketResponse) -> None:
    for ws in held:
        await ws.release()


async def rush(session: WebSocketClientSession, server: Server, **options: Any) -> float:
    """Let 50 callers come at once; return how many seconds it takes."""
    began = time.monotonic()
    await asyncio.gather(*[use(session, server, **options) for _ in range(50)])
    return time.monotonic() - began


async def learn_for_a_rush(
    session: WebSocketClientSession, limited: WebSocketClientSession, server: Server, **options: Any
) -> None:
    """Let handshakes take many times as long as 5 connections take for a rush on this machine."""
    seconds = await rush(limited, server, **options)
    await limited.close()
    await learn(session, server, seconds=max(SLOW, 20 * seconds), **options)


async def test_released_connections_serve_a_rush(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    await learn_for_a_rush(session, make_session(limit=5), server)
    # Where uses take long, one handshake begins; were it faster than those before, others would.
    server.gate.clear()
    await rush(session, server)
    assert session.stats().connects <= 8
    assert server.handshakes <= 5 + 8


async def test_the_connection_of_another_user_outlasts_a_short_wait(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=3)
    await learn(session, server, 1, reuse_key="another")
    await learn(session, server, 2, reuse_key="user")
    held = [await session.ws_connect(server.url(), reuse_key="user") for _ in range(2)]
    waiting = asyncio.create_task(session.ws_connect(server.url(), reuse_key="user"))
    await until(lambda: session.stats().waiting)
    await release(held[0])
    held[0] = await waiting
    assert session.stats().closed_evicted == 0
    # Not if none is released in time.
    waiting = asyncio.create_task(session.ws_connect(server.url(), reuse_key="user"))
    await until(lambda: session.stats().closed_evicted)
    await release(await waiting, *held)
    assert session.stats().connects == 4


async def test_released_connections_serve_a_rush_over_tls(
    tls_server: Server, client_tls: ssl.SSLContext, make_session: SessionFactory
) -> None:
    session = make_session()
    await learn_for_a_rush(session, make_session(limit=5), tls_server, ssl=client_tls)
    tls_server.gate.clear()
    await rush(session, tls_server, ssl=client_tls)
    assert session.stats().connects <= 8


async def test_where_uses_are_long_all_connect_at_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    async with session.ws_connect(server.url()):
        await asyncio.sleep(SLOW)
    server.gate.clear()
    callers = [asyncio.create_task(session.ws_connect(server.url())) for _ in range(50)]
    await until(lambda: session.stats().acquired)
    assert session.stats().connecting == 49
    server.gate.set()
    await release(*await asyncio.gather(*callers))


async def test_where_nothing_is_known_all_connect_at_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    server.gate.clear()
    callers = [asyncio.create_task(session.ws_connect(server.url())) for _ in range(50)]
    await until(lambda: session.stats().connecting)
    assert session.stats().connecting == 50
    server.gate.set()
    await release(*await asyncio.gather(*callers))


async def test_uses_that_become_long_are_noticed(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    await learn(session, server)
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(20)])
    assert server.handshakes == 20
    # They have taught it: the next callers do not wait first.
    server.gate.clear()
    callers = [asyncio.create_task(session.ws_connect(server.url())) for _ in range(3)]
    await until(lambda: session.stats().connecting)
    assert session.stats().connecting == 3
    server.gate.set()
    await release(*held, *await asyncio.gather(*callers))


async def wait_for_a_release(
    session: WebSocketClientSession, server: Server, **options: Any
) -> "asyncio.Task[ClientWebSocketResponse]":
    """Return a caller for whom no handshake has begun although there is room."""
    caller = asyncio.create_task(session.ws_connect(server.url(), **options))
    before = session.stats().waiting
    await until(lambda: session.stats().waiting > before, pause=0)
    assert session.stats().connecting == 0
    return caller


async def test_a_release_serves_who_waits_for_it(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    held = await learn_and_hold(session, server)
    caller = await wait_for_a_release(session, server)
    await held[0].release()
    ws = await caller
    assert ws.reused
    assert session.stats().waiting == 0
    assert session.stats().connects == 5
    await release(ws, *held)


async def test_who_waits_for_a_release_may_give_up(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=6)
    held = await learn_and_hold(session, server)
    caller = await wait_for_a_release(session, server)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert session.stats().waiting == 0
    # Its place is free for another, for whom a connection is opened in the end.
    ws = await session.ws_connect(server.url())
    assert not ws.reused
    assert session.stats().acquired == 6
    await release(ws, *held)


async def test_acquire_timeout_holds(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    held = await learn_and_hold(session, server)
    server.gate.clear()
    with pytest.raises(PoolTimeoutError) as caught:
        await session.ws_connect(server.url(), acquire_timeout=0.01)
    assert caught.value.waited_for == "release"
    assert str(caught.value).endswith(
        ": a released connection was expected sooner than a handshake would end, so raise"
        " acquire_timeout or keep more connections idle with set_min_idle() (no limit: 5 in"
        " use, 0 idle, 0 connecting, 1 reserved for callers that wait for a release; 1 waiting)"
    )
    assert session.stats().waiting == session.stats().connecting == 0
    server.gate.set()
    await release(*held)


@pytest.mark.parametrize(
    "limits", [{"limit": 6}, {"limit_total": 6}, {"max_connecting": 5}], ids=lambda d: next(iter(d))
)
async def test_errors_tell_of_reserved_places(
    server: Server, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    [(name, limit)] = limits.items()
    session = make_session(**limits, max_waiting=0)
    held = await learn_and_hold(session, server)
    server.gate.clear()
    free = limit if name == "max_connecting" else limit - 5
    callers = [await wait_for_a_release(session, server) for _ in range(free)]
    with pytest.raises(TooManyWaitersError) as caught:
        await session.ws_connect(server.url())
    assert caught.value.waited_for == name
    assert f"5 in use, 0 idle, 0 connecting, {free} reserved for callers" in str(caught.value)
    for caller in callers:
        caller.cancel()
    server.gate.set()
    await release(*held)


async def test_who_tries_again_and_again_for_a_short_time_is_served(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    held = await learn_and_hold(session, server)
    ws = None
    async with asyncio.timeout(30):
        while ws is None:
            with contextlib.suppress(PoolTimeoutError):
                ws = await session.ws_connect(server.url(), acquire_timeout=0.01)
    assert not ws.reused
    await release(ws, *held)


async def test_prewarm_opens_what_callers_wait_for(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=8)
    held = await learn_and_hold(session, server)
    callers = [await wait_for_a_release(session, server) for _ in range(3)]
    assert await session.prewarm(server.url(), 8) == 3
    await release(*held, *await asyncio.gather(*callers))


async def test_callers_that_wait_for_a_release_are_spread_over_servers(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as other:
        session = make_session()
        await asyncio.gather(learn(session, server), learn(session, other))
        balanced = session.balanced([server.url(), other.url()])
        held = [*await hold(session, server), *await hold(session, other)]
        # It is as busy as the other until callers wait.
        callers = [asyncio.create_task(acquire(balanced)) for _ in range(10)]
        await until(lambda: session.stats().waiting == 10, pause=0)
        for each in session.stats_by_endpoint().values():
            assert each.waiting == 5
        for caller in callers:
            caller.cancel()
        await release(*held)


async def test_a_fleet_keeps_places_for_who_waits_for_a_release(
    server: Server, make_session: SessionFactory
) -> None:
    engine = Engine()
    session = make_session(fleet=engine)
    held = await learn_and_hold(session, server)
    server.gate.clear()
    caller = asyncio.create_task(session.ws_connect(server.url()))
    # First it has no place, then it waits for a release, and then its handshake begins.
    await until(lambda: session.stats().connecting == 1)
    # The place was not given back meanwhile, or another session might have got it.
    assert min(report.demand for report in engine.reports if report.held) == 6
    server.gate.set()
    await release(*held, await caller)


async def test_the_session_may_close(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    held = await learn_and_hold(session, server)
    caller = await wait_for_a_release(session, server)
    await session.close()
    with pytest.raises(PoolClosedError):
        await caller
    assert all(ws.closed for ws in held)


async def test_what_is_in_use_may_die(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await learn(session, server, 1)
    (held,) = await hold(session, server, 1)
    caller = await wait_for_a_release(session, server)
    server.transports[0].abort()
    await held.receive()
    await held.close()
    ws = await caller
    assert not ws.reused
    await release(ws, held)


async def test_reserved_places_count(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=7, max_waiting=1)
    held = await learn_and_hold(session, server)
    server.gate.clear()
    callers = [asyncio.create_task(session.ws_connect(server.url())) for _ in range(4)]
    # Two of them could connect, and one may queue.
    with pytest.raises(TooManyWaitersError):
        await callers[3]
    assert session.stats().waiting + session.stats().connecting == 3
    server.gate.set()
    served = await asyncio.gather(*callers[:2])
    assert server.peak == 7
    await held[0].release()
    await release(await callers[2], *served, *held)


async def test_after_drain_all_connect_at_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    held = await learn_and_hold(session, server)
    session.drain()
    server.gate.clear()
    caller = asyncio.create_task(session.ws_connect(server.url()))
    await until(lambda: session.stats().connecting)
    assert session.stats().waiting == 0
    server.gate.set()
    ws = await caller
    assert not ws.reused
    await release(ws, *held)
