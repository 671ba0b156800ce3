"""What happens to connections that nobody reads."""

import asyncio
import gc
import ssl
import time
import weakref
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.connection import Connection

from .conftest import SessionFactory, strike_heartbeat, until
from .proxy import frame, proxying
from .servers import Server


@pytest.fixture(params=["plain", "tls"])
def any_server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue("server" if request.param == "plain" else "tls_server")
    return server


async def park(
    session: WebSocketClientSession, url: str, tls: ssl.SSLContext | bool = True
) -> None:
    ws = await session.ws_connect(url, ssl=tls)
    await ws.send_str("hello")
    assert await ws.receive_str() == "hello"
    await ws.release()
    assert session.stats().idle == 1


async def test_answers_pings(server: Server, make_session: SessionFactory) -> None:
    await check_pings_are_answered(server, make_session(), autoping=True)


async def test_pings_answered_though_autoping_is_off(
    server: Server, make_session: SessionFactory
) -> None:
    await check_pings_are_answered(server, make_session(), autoping=False)


async def check_pings_are_answered(
    server: Server, session: WebSocketClientSession, *, autoping: bool
) -> None:
    async with proxying(server.port) as proxy:
        ws = await session.ws_connect(proxy.url(), autoping=autoping)
        await ws.release()
        sent = proxy.links[0].to_server
        before = sent.passed
        for number in range(1, 6):
            await server.sockets[0].ping(b"1234")
            # Two bytes, a mask, the payload.
            await until(lambda number=number: sent.passed == before + number * (2 + 4 + 4))
        assert server.open == session.stats().idle == 1
        ws = await session.ws_connect(proxy.url(), autoping=autoping)
        assert ws.reused
        await ws.send_str("still there")
        assert await ws.receive_str() == "still there"
        await ws.release()


async def test_close_by_server(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, any_server.url(), client_tls)
    await any_server.sockets[0].close(code=aiohttp.WSCloseCode.GOING_AWAY)
    await until(lambda: not session.stats().closing)
    assert session.stats().idle == 0
    assert session.stats().closed_lost == 1
    # Answered, so no abnormal closure.
    assert any_server.close_codes == [aiohttp.WSCloseCode.OK]


async def test_reset_by_server(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, any_server.url(), client_tls)
    any_server.transports[0].abort()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert session.stats().closed_lost == 1
    await park(session, any_server.url(), client_tls)
    assert any_server.handshakes == 2


async def test_end_of_stream(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, any_server.url(), client_tls)
    any_server.transports[0].close()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert session.stats().closed_lost == 1


async def test_message_while_idle(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, any_server.url(), client_tls)
    await any_server.sockets[0].send_str("not for the next one")
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert session.stats().closed_dirty == 1
    assert any_server.close_codes == [aiohttp.WSCloseCode.OK]


@pytest.mark.parametrize(
    "begun", [b"\x81", b"\x81\x05", b"\x81\x05hel", b"\x01\x03hel", b"\x89\x00\x82\x7e\x10"]
)
async def test_message_that_has_only_begun_to_come(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext, begun: bytes
) -> None:
    """The next user would receive it: it ends the connection as a whole one does."""
    session = make_session()
    await park(session, any_server.url(), client_tls)
    any_server.transports[0].write(begun)
    await until(lambda: not session.stats().idle)
    assert session.stats().closed_dirty == 1


async def test_pings_in_parts(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    pings = b"\x89\x00" + b"\x89\x03\x01\x02\x03" + b"\x8a\x02\x01\x01"
    for size in (1, 2, 3, 4, 5, 7):
        async with session.ws_connect(server.url()) as ws:
            await ws.send_str("x")
            assert await ws.receive_str() == "x"
        conn = ws._slot.conn
        for start in range(0, len(pings), size):
            conn._protocol.data_received(pings[start : start + size])
            assert session.stats().idle == 1
    # A piece in use, the rest while idle.
    ws = await session.ws_connect(server.url())
    conn._protocol.data_received(b"\x89")
    await ws.release()
    conn._protocol.data_received(b"\x00")
    for _ in range(3):
        conn._protocol.data_received(pings)
        assert session.stats().idle == 1
    assert server.handshakes == 1


async def test_garbage_while_idle(
    any_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, any_server.url(), client_tls)
    any_server.transports[0].write(b"\xff" * 20)
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert session.stats().closed_lost == 1
    assert any_server.open == 0


async def test_leaves_the_pool_in_the_tick_in_which_it_dies(
    server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    await park(session, server.url(), client_tls)
    (slot,) = session._pool.slots()
    # As the loop does when the kernel reports the end of the stream.
    slot.conn._protocol.connection_lost(None)
    assert session.stats().idle == 0


async def test_pong_of_the_own_heartbeat_while_idle(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    for _ in range(3):
        ws = await session.ws_connect(server.url(), heartbeat=600.0)
        inner = ws._slot.conn.ws
        await ws.release()
        for _ in range(3):
            strike_heartbeat(inner)
            await until(lambda inner=inner: inner._pong_response_cb is None)
            # The next one is due.
            assert inner._heartbeat_cb is not None
    assert session.stats().idle == server.handshakes == 1


@pytest.mark.slow
async def test_own_heartbeat_is_kept(server: Server, make_session: SessionFactory) -> None:
    """On aiohttp before 3.14 an idle connection dies after 1.5 of its own heartbeats."""
    # A machine would have to be busy for half of that to end it.
    session = make_session()
    ws = await session.ws_connect(server.url(), heartbeat=4.0)
    await ws.send_str("before")
    assert await ws.receive_str() == "before"
    await ws.release()
    await asyncio.sleep(7)
    assert session.stats().idle == 1
    ws = await session.ws_connect(server.url(), heartbeat=4.0)
    assert ws.reused
    # In use it goes on.
    for _ in range(3):
        await ws.send_str("after")
        assert await ws.receive_str() == "after"
        await asyncio.sleep(1.5)
    await ws.release()
    assert server.handshakes == 1


async def test_heartbeat_finds_a_silent_server(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=0.2)
    ws = await session.ws_connect(server.url("/silent"), heartbeat=600.0)
    inner = ws._slot.conn.ws
    await ws.release()
    strike_heartbeat(inner, patience=0.05)
    await until(lambda: not session.stats().idle)
    await until(lambda: not session.stats().closing)
    assert session.stats().closed_lost == 1


async def test_heartbeat_finds_a_silent_tls_server(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """A server that does not take part in the end of TLS either: it is not handed out."""
    session = make_session(close_timeout=0.5)
    url = tls_server.url("/silent")
    ws = await session.ws_connect(url, heartbeat=600.0, ssl=client_tls)
    inner = ws._slot.conn.ws
    await ws.release()
    tls_server.transports[0].pause_reading()
    strike_heartbeat(inner, patience=0.05)
    await until(lambda: not session.stats().idle)
    assert session.stats().closed_lost == 1
    await until(lambda: not session.stats().closing)


async def test_pings_between_uses(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await park(session, server.url())
    pinging = True

    async def ping() -> None:
        while pinging:
            await server.sockets[0].ping()
            await asyncio.sleep(0.0005)

    pings = asyncio.create_task(ping())
    for number in range(60):
        async with session.ws_connect(server.url()) as ws:
            await ws.send_str(str(number))
            assert await ws.receive_str() == str(number)
        await asyncio.sleep(0.001)
    pinging = False
    await pings
    assert server.handshakes == 1


async def test_max_idle(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_idle=0.2)
    first = await session.ws_connect(server.url())
    second = await session.ws_connect(server.url())
    await first.release()
    await until(lambda: session.stats().closed_idle == 1)
    assert session.stats().acquired == 1
    await second.release()
    await until(lambda: session.stats().closed_idle == 2 and not session.stats().closing)
    assert server.open == 0
    # The timer ran out with nothing left, and is there again for the next one.
    await (await session.ws_connect(server.url())).release()
    await until(lambda: session.stats().closed_idle == 3)


async def test_max_lifetime(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_lifetime=0.2)
    ws = await session.ws_connect(server.url())
    await ws.release()
    await until(lambda: session.stats().closed_lifetime == 1)
    ws = await session.ws_connect(server.url())
    await asyncio.sleep(0.25)
    # In use it is left alone; it is not handed out again.
    await ws.send_str("late")
    assert await ws.receive_str() == "late"
    await ws.release()
    assert session.stats().closed_lifetime == 2
    assert session.stats().idle == 0


async def test_lifetime_is_looked_at_before_handing_out(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_lifetime=0.2)
    ws = await session.ws_connect(server.url())
    await ws.release()
    time.sleep(0.25)  # noqa: ASYNC251 - a loop too busy to run the timer
    again = await session.ws_connect(server.url())
    assert not again.reused
    await again.release()


async def test_sock_read_of_a_given_session(server: Server, make_session: SessionFactory) -> None:
    # The handshake has to be answered within that.
    timeout = aiohttp.ClientTimeout(sock_read=0.5)
    session = make_session(client_session=aiohttp.ClientSession(timeout=timeout))
    ws = await session.ws_connect(server.url())
    await ws.send_str("armed")
    assert await ws.receive_str() == "armed"
    await ws.release()
    await asyncio.sleep(0.7)
    ws = await session.ws_connect(server.url())
    assert ws.reused
    await ws.send_str("not poisoned")
    assert await ws.receive_str() == "not poisoned"
    await ws.release()


@pytest.mark.parametrize(("size", "count"), [(64 << 20, 1), (4 << 20, 16), (1 << 10, 1 << 16)])
async def test_a_flood_does_not_fill_memory(
    server: Server,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    count: int,
) -> None:
    """64 MB to an idle connection: neither kept, nor read to the end."""
    taken = 0
    feed_data = Connection.feed_data

    def count_and_feed(self: Connection, data: bytes) -> tuple[bool, bytes]:
        nonlocal taken
        taken += len(data)
        return feed_data(self, data)

    monkeypatch.setattr(Connection, "feed_data", count_and_feed)
    session = make_session(close_timeout=5.0)
    ws = await session.ws_connect(server.url(), max_msg_size=0)
    await ws.release()
    server.transports[0].write(frame(0x82, bytes(size)) * count)
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert session.stats().closed_dirty == 1
    assert taken < 4 << 20
    await until(lambda: not server.open)


async def test_idle_connections_have_no_task_and_no_timer(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    handles = [await session.ws_connect(server.url()) for _ in range(20)]
    before = len(asyncio.all_tasks())
    for handle in handles:
        await handle.release()
    assert len(asyncio.all_tasks()) == before
    assert session.stats().idle == 20


@pytest.mark.parametrize("heartbeat", [None, 60.0])
async def test_what_has_died_is_not_left_to_the_cyclic_collector(
    tls_server: Server,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    heartbeat: float | None,
) -> None:
    """A TLS connection has 256 KiB of buffer on asyncio, and a server that goes ends them all."""
    session = make_session()
    async with session.ws_connect(tls_server.url(), ssl=client_tls, heartbeat=heartbeat) as ws:
        inner = weakref.ref(ws._slot.conn.ws)
    del ws
    gc.collect()
    gc.disable()
    try:
        tls_server.transports[0].abort()
        await until(lambda: session.stats().closed_lost and not session.stats().closing)
        await until(lambda: inner() is None)
    finally:
        gc.enable()


# -- what the transport knows a turn before it is told -------------------------------------------


async def test_one_that_has_just_ended_is_not_handed_out(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    handles = [await session.ws_connect(server.url()) for _ in range(3)]
    conns = [ws._slot.conn for ws in handles]
    for ws in handles:
        await ws.release()
    # The last two are the first that would be taken.
    for conn in conns[1:]:
        conn.abort()
    assert session.stats().idle == 3
    async with session.ws_connect(server.url()) as ws:
        assert ws._slot.conn is conns[0]
        assert ws.reused
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        stats = session.stats()
        assert stats.closed_lost == 2
        assert stats.requests == 4
        assert stats.reused == 1
    await until(lambda: session.stats().closing == 0)


async def test_where_all_have_just_ended(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=2)
    handles = [await session.ws_connect(server.url()) for _ in range(2)]
    for ws in handles:
        await ws.release()
    for ws in handles:
        ws._slot.conn.abort()
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
    stats = session.stats()
    assert (stats.requests, stats.reused, stats.closed_lost) == (3, 0, 2)


async def test_one_that_has_just_ended_is_not_handed_over(
    server: Server, make_session: SessionFactory
) -> None:
    """Who was given it keeps its turn."""
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    conn = held._slot.conn
    order: list[int] = []

    async def use(number: int) -> None:
        async with session.ws_connect(server.url()) as ws:
            order.append(number)
            assert ws._slot.conn is not conn
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"

    callers = [asyncio.create_task(use(number)) for number in range(3)]
    await until(lambda: session.stats().waiting == 3)
    held.release()
    conn.abort()
    await asyncio.gather(*callers)
    assert order == [0, 1, 2]
    assert session.stats().closed_lost == 1
    assert server.handshakes == 2


async def test_a_new_one_that_has_just_ended_is_its_callers(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends each at once must not be connected to for ever."""
    session = make_session()
    finish = session._lifecycle._finish_connected

    def end_at_once(slot: Any, *arguments: Any) -> None:
        finish(slot, *arguments)
        slot.conn.abort()

    monkeypatch.setattr(session._lifecycle, "_finish_connected", end_at_once)
    ws = await session.ws_connect(server.url())
    with pytest.raises(aiohttp.ClientConnectionResetError):
        await ws.send_str("hello")
    await ws.release()
    assert server.handshakes == 1
