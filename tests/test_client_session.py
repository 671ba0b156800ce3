"""The stand-in for ``aiohttp.ClientSession``, compared with the class it stands in for."""

import asyncio
import contextlib
import copy
import gc
import pickle
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from aiowebsocketclient import (
    ClientWebSocketResponse,
    ConnectionReleasedError,
    PoolClosedError,
    PooledClientSession,
    PoolTimeoutError,
    WebSocketClientSession,
    check_ping,
)

from .conftest import SessionFactory, until
from .servers import Server

Response = aiohttp.ClientWebSocketResponse


async def echo(ws: Response, text: str = "hello") -> None:
    await ws.send_str(text)
    assert await ws.receive_str() == text


@pytest.fixture(params=["aiohttp", "closing", "releasing"])
async def any_http(request: pytest.FixtureRequest, make_session: SessionFactory) -> AsyncIterator:
    """aiohttp's own class, and the stand-in in both modes: libraries see no difference."""
    if request.param == "aiohttp":
        async with aiohttp.ClientSession() as http:
            yield http
    else:
        releases = request.param == "releasing"
        yield PooledClientSession(make_session(), release_on_close=releases)


async def next_is_reused(http: Any, url: str) -> bool:
    """Let another user have a connection, and return whether it was used before."""
    async with asyncio.timeout(30):
        ws = await http.ws_connect(url)
    await echo(ws, "next")
    await ws.release()
    return bool(ws.reused)


def releasing(session: WebSocketClientSession) -> PooledClientSession:
    return PooledClientSession(session, release_on_close=True)


# -- what libraries see --------------------------------------------------------------------------


async def test_http_requests_go_to_the_client_session(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(headers={"X-App": "1"})
    http = PooledClientSession(session)
    async with http.get(server.url("/refuse")) as reply:
        assert reply.status == 403
    async with http.request("POST", server.url("/refuse")) as reply:
        assert reply.status == 405
    assert http.headers is session.client_session.headers
    assert http.cookie_jar is session.client_session.cookie_jar
    assert http.connector is session.client_session.connector
    assert not hasattr(http, "no_such_method")


async def test_a_closed_connection_looks_the_same(any_http: Any, server: Server) -> None:
    ws = await any_http.ws_connect(server.url(), protocols=("a", "b"))
    await echo(ws)
    assert (ws.closed, ws.close_code, ws.protocol) == (False, None, "a")
    assert await ws.close() is True
    assert ws.closed
    assert ws.close_code == 1000
    assert ws.exception() is None
    assert ws.protocol == "a"
    assert (ws.compress, ws.client_notakeover) == (0, False)
    assert ws.get_extra_info("peername", "none") == "none"
    assert (await ws.receive()).type is WSMsgType.CLOSED
    assert (await ws.receive(timeout=1)).type is WSMsgType.CLOSED
    assert [message async for message in ws] == []
    for send in (ws.send_str, ws.send_bytes, ws.ping, ws.pong):
        with pytest.raises(aiohttp.ClientConnectionResetError, match="closing transport"):
            await send("late" if send == ws.send_str else b"late")
    assert await ws.close() is False
    assert ws.close_code == 1000


async def test_a_block_closes_the_connection(any_http: Any, server: Server) -> None:
    async with any_http.ws_connect(server.url()) as ws:
        await echo(ws)
    assert (ws.closed, ws.close_code) == (True, 1000)
    ws = await any_http.ws_connect(server.url())
    async with ws as same:
        assert same is ws
        await echo(ws)
    assert (ws.closed, ws.close_code) == (True, 1000)


async def test_close_ends_the_reader_of_another_task(any_http: Any, server: Server) -> None:
    ws = await any_http.ws_connect(server.url())
    received = []

    async def read() -> None:
        async for message in ws:
            received.append(message.data)  # noqa: PERF401

    reader = asyncio.create_task(read())
    await ws.send_str("hello")
    await until(lambda: received)
    assert await ws.close()
    await asyncio.wait_for(reader, 30)
    assert received == ["hello"]
    assert (ws.closed, ws.close_code, ws.exception()) == (True, 1000, None)
    await until(lambda: server.close_codes)
    assert server.close_codes == [1000]


async def test_close_ends_a_reader_that_is_busy(any_http: Any, server: Server) -> None:
    ws = await any_http.ws_connect(server.url())
    received = []
    goes_on = asyncio.Event()

    async def read() -> None:
        async for message in ws:
            received.append(message.data)
            await goes_on.wait()

    reader = asyncio.create_task(read())
    await ws.send_str("hello")
    await until(lambda: received)
    assert await ws.close()
    goes_on.set()
    await asyncio.wait_for(reader, 30)
    assert received == ["hello"]
    if isinstance(any_http, PooledClientSession):
        assert any_http._pool.stats().released == any_http._borrower.releases


async def test_close_ends_a_receive_with_closing(any_http: Any, server: Server) -> None:
    ws = await any_http.ws_connect(server.url())
    reader = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    assert await ws.close()
    assert (await asyncio.wait_for(reader, 30)).type is WSMsgType.CLOSING
    assert (await ws.receive()).type is WSMsgType.CLOSED


async def test_the_call_fits_wherever_aiohttps_does(any_http: Any, server: Server) -> None:
    url = server.url()
    ways: list[Callable[[], Awaitable[Response]]] = [
        lambda: any_http.ws_connect(url=url),
        lambda: asyncio.create_task(any_http.ws_connect(url)),
        lambda: asyncio.wait_for(any_http.ws_connect(url), 30),
        lambda: asyncio.shield(any_http.ws_connect(url, headers={"a": "b"}, heartbeat=60.0)),
    ]
    for way in ways:
        ws = await way()
        await echo(ws)
        assert await ws.close()
    first, second = await asyncio.gather(any_http.ws_connect(url), any_http.ws_connect(url))
    await echo(first)
    await echo(second)
    await first.close()
    await second.close()
    async with contextlib.AsyncExitStack() as stack:
        await echo(await stack.enter_async_context(any_http.ws_connect(url)))


async def test_it_is_no_subclass_and_warns_of_nothing(make_session: SessionFactory) -> None:
    http = PooledClientSession(make_session())
    assert not isinstance(http, aiohttp.ClientSession)
    with pytest.raises(TypeError, match="WebSocketClientSession, not PooledClientSession"):
        PooledClientSession(http)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        http.no_such_attribute = 1  # type: ignore[attr-defined]


# -- what is closed, and what is released --------------------------------------------------------


async def test_by_default_close_closes(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    http = PooledClientSession(session)
    for _ in range(3):
        ws = await http.ws_connect(server.url())
        await echo(ws)
        await ws.close()
    async with http.ws_connect(server.url()) as ws:
        await echo(ws)
    await until(lambda: not server.open)
    assert server.handshakes == 4
    assert server.close_codes == [1000] * 4
    assert session.stats().closed_user == 4
    assert session.stats().released == 0


async def test_close_releases_after_a_clean_exchange(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    http = releasing(session)
    for _ in range(10):
        ws = await http.ws_connect(server.url())
        await echo(ws)
        assert await ws.close()
        async with http.ws_connect(server.url()) as ws:
            await echo(ws)
        async with await http.ws_connect(server.url()) as ws:
            await echo(ws)
    assert server.handshakes == 1
    assert session.stats().released == 30
    # A caller of the session itself shares the connection.
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
        await echo(ws)
    assert server.handshakes == 1


async def test_release_still_releases(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    http = PooledClientSession(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await ws.release()
    assert await next_is_reused(http, server.url())
    assert server.handshakes == 1


async def test_the_sessions_own_handles_are_as_before(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    releasing(session)
    async with session.ws_connect(server.url()) as ws:
        await echo(ws)
    ws = await session.ws_connect(server.url())
    assert ws.reused
    await ws.close()
    await until(lambda: not server.open)
    assert session.stats().closed_user == 1


async def with_another_code(ws: ClientWebSocketResponse, server: Server) -> None:
    await ws.close(code=4000)


async def with_a_message(ws: ClientWebSocketResponse, server: Server) -> None:
    await ws.close(message=b"enough")


async def with_an_unread_message(ws: ClientWebSocketResponse, server: Server) -> None:
    await ws.send_str("unread")
    await until(lambda: ws._reader._buffer)
    await ws.close()


async def with_the_beginning_of_a_message(ws: ClientWebSocketResponse, server: Server) -> None:
    heard = ws._slot.conn.heard  # type: ignore[union-attr]
    (transport,) = server.transports
    transport.write(b"\x81\x05he")
    await until(lambda: ws._slot.conn.midway or ws._slot.conn.heard != heard)  # type: ignore[union-attr]
    await ws.close()


async def with_a_receive_under_way(ws: ClientWebSocketResponse, server: Server) -> None:
    reader = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    await ws.close()
    assert (await reader).type is WSMsgType.CLOSING


async def after_a_cancelled_receive(ws: ClientWebSocketResponse, server: Server) -> None:
    reader = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    await ws.close()


async def after_a_receive_that_timed_out(ws: ClientWebSocketResponse, server: Server) -> None:
    with pytest.raises(TimeoutError):
        await ws.receive(timeout=0.001)
    await ws.close()


async def while_an_exception_is_handled(ws: ClientWebSocketResponse, server: Server) -> None:
    with pytest.raises(ZeroDivisionError):
        try:
            await ws.send_str("the reply is on its way")
            1 / 0  # noqa: B018
        finally:
            await ws.close()


async def in_a_task_that_is_cancelled(ws: ClientWebSocketResponse, server: Server) -> None:
    async def ask() -> None:
        try:
            await ws.send_str("the reply is on its way")
            await asyncio.sleep(0)
            await ws.receive_str()
        finally:
            await ws.close()

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def after_the_servers_close(ws: ClientWebSocketResponse, server: Server) -> None:
    (socket,) = server.sockets
    closing = asyncio.create_task(socket.close(code=1001))
    assert (await ws.receive()).type is WSMsgType.CLOSE
    assert ws.close_code == 1001
    assert await ws.close() is False
    await closing


async def with_the_servers_close_unread(ws: ClientWebSocketResponse, server: Server) -> None:
    (socket,) = server.sockets
    closing = asyncio.create_task(socket.close(code=1001))
    await until(lambda: ws._reader._buffer)
    await ws.close()
    await closing


async def after_the_end_of_the_socket(ws: ClientWebSocketResponse, server: Server) -> None:
    server.transports[0].abort()
    await until(lambda: ws._reader.is_eof() or ws._reader.exception())
    await ws.close()


UNFIT = [
    with_another_code,
    with_a_message,
    with_an_unread_message,
    with_the_beginning_of_a_message,
    with_a_receive_under_way,
    while_an_exception_is_handled,
    in_a_task_that_is_cancelled,
    after_a_cancelled_receive,
    after_a_receive_that_timed_out,
    after_the_servers_close,
    with_the_servers_close_unread,
    after_the_end_of_the_socket,
]


@pytest.mark.parametrize("closes", UNFIT, ids=lambda closes: closes.__name__)
async def test_it_is_closed(
    closes: Callable[[ClientWebSocketResponse, Server], Awaitable[None]],
    make_session: SessionFactory,
    server: Server,
) -> None:
    session = make_session(limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await closes(ws, server)
    assert ws.closed
    await until(lambda: not session.stats().closing)
    assert session.stats().released == 0
    assert not await next_is_reused(http, server.url())
    assert server.handshakes == 2


async def test_a_later_message_makes_a_cancelled_read_good(
    make_session: SessionFactory, server: Server
) -> None:
    http = releasing(make_session())
    ws = await http.ws_connect(server.url())
    with pytest.raises(TimeoutError):
        await ws.receive(timeout=0.001)
    await echo(ws)
    await ws.close()
    assert await next_is_reused(http, server.url())


async def test_mark_clean_lets_a_library_cancel_its_reader(
    make_session: SessionFactory, server: Server
) -> None:
    http = releasing(make_session())
    ws = await http.ws_connect(server.url())
    reader = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    ws.mark_clean()
    await ws.close()
    assert ws.close_code == 1000
    assert await next_is_reused(http, server.url())


async def test_an_exception_that_was_handled_prevents_no_release(
    make_session: SessionFactory, server: Server
) -> None:
    http = releasing(make_session())
    ws = await http.ws_connect(server.url())
    with contextlib.suppress(ZeroDivisionError):
        1 / 0  # noqa: B018
    try:
        await echo(ws)
    finally:
        await ws.close()
    assert await next_is_reused(http, server.url())


async def test_force_close_closes(make_session: SessionFactory, server: Server) -> None:
    session = make_session(force_close=True)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await ws.close()
    await until(lambda: not server.open)
    assert (ws.close_code, server.close_codes) == (1000, [1000])
    assert session.stats().closed_user == 1


async def test_unanswered_pings_do_not_prevent_a_release(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await server.sockets[0].ping(b"1")
    await until(lambda: ws._reader._buffer)
    await ws.close()
    assert await next_is_reused(http, server.url())


async def test_a_detached_connection_is_closed(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    ws.detach()
    other = await http.ws_connect(server.url())
    await echo(ws)
    assert await ws.close()
    await until(lambda: server.open == 1)
    assert ws.close_code == 1000
    await other.close()


async def test_an_exception_closes(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    http = releasing(session)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with http.ws_connect(server.url()) as ws:
                await echo(ws)
                1 / 0  # noqa: B018
        assert ws.closed
    await until(lambda: not server.open)
    assert session.stats().closed_failed == 2


# -- after a release -----------------------------------------------------------------------------


async def test_the_old_handle_does_not_reach_the_next_user(
    make_session: SessionFactory, server: Server
) -> None:
    http = releasing(make_session())
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await ws.close()
    after = await http.ws_connect(server.url())
    assert after == ws
    assert after is not ws
    with pytest.raises(aiohttp.ClientConnectionResetError):
        await ws.send_str("late")
    assert (await ws.receive()).type is WSMsgType.CLOSED
    assert await ws.close() is False
    await ws.release()
    with pytest.raises(ConnectionReleasedError):
        ws.detach()
    async with ws:
        pass
    await echo(after)
    assert server.received == ["hello", "hello"]
    await ws.close(code=4000)
    await after.close()
    assert await next_is_reused(http, server.url())


async def test_what_is_on_its_way_reaches_the_next_user(
    make_session: SessionFactory, server: Server
) -> None:
    """The danger that the documentation names."""
    http = releasing(make_session())
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await ws.close()
    after = await http.ws_connect(server.url())
    await server.sockets[0].send_str("of a stream")
    assert await after.receive_str() == "of a stream"
    await after.close()


async def test_a_message_to_an_idle_connection_closes_it(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    await ws.close()
    await server.sockets[0].send_str("of a stream")
    await until(lambda: session.stats().closed_dirty == 1)
    assert not await next_is_reused(http, server.url())


async def test_a_ping_finds_what_the_server_has_sent(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(reset=check_ping(), limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    # The server answers it before it sees the PING.
    await ws.send_str("of a stream")
    await ws.close()
    assert ws.closed
    assert not await next_is_reused(http, server.url())
    assert session.stats().closed_dirty + session.stats().closed_failed == 1
    assert await next_is_reused(http, server.url())


async def test_close_does_not_wait_for_a_reset(
    make_session: SessionFactory, server: Server
) -> None:
    may_end = asyncio.Event()
    resets = 0

    async def reset(ws: Response) -> None:
        nonlocal resets
        await may_end.wait()
        await echo(ws, "reset")
        resets += 1

    session = make_session(reset=reset, limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await ws.close()
    assert (ws.closed, ws.close_code, resets) == (True, 1000, 0)
    may_end.set()
    after = await http.ws_connect(server.url())
    assert after.reused
    assert resets == 1
    async with after:
        await echo(after)
    assert (after.closed, after.close_code) == (True, 1000)


async def test_close_waits_for_the_end_of_a_retired_connection(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    session.drain()
    assert await ws.close()
    assert session.stats().closing == 0
    assert (ws.closed, ws.close_code) == (True, 1000)
    await until(lambda: not server.open)
    assert server.close_codes == [1000]


async def test_a_subclass_keeps_its_own_release(
    make_session: SessionFactory, server: Server
) -> None:
    class MyWS(ClientWebSocketResponse):
        def release(self) -> Any:
            raise AssertionError("a library called close(), not release()")

    http = releasing(make_session(ws_response_class=MyWS))
    ws = await http.ws_connect(server.url())
    assert type(ws) is MyWS
    await echo(ws)
    await ws.close()
    after = await http.ws_connect(server.url())
    assert after.reused
    await after.close()


# -- the end -------------------------------------------------------------------------------------


async def test_it_closes_the_pool_that_it_owns(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    async with PooledClientSession(session) as http:
        ws = await http.ws_connect(server.url())
        assert not http.closed
        assert not ws.closed
    assert http.closed
    assert session.closed
    await until(lambda: not server.open)
    await http.close()
    with pytest.raises(PoolClosedError, match="PooledClientSession is closed"):
        await http.ws_connect(server.url())


async def test_it_leaves_the_pool_of_others_open(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(name="mine")
    async with PooledClientSession(session, session_owner=False) as http:
        ws = await http.ws_connect(server.url())
    assert http.closed
    assert not session.closed
    await http.close()
    assert not session.closed
    with pytest.raises(PoolClosedError, match=r"mine.*PooledClientSession is closed"):
        http.ws_connect(server.url())
    await echo(ws)
    await ws.close()


async def test_detach_leaves_the_pool_open(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    async with PooledClientSession(session) as http:
        http.detach()
        assert http.closed
    assert not session.closed
    await (await session.ws_connect(server.url())).release()


async def test_it_is_closed_with_its_pool(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await session.close()
    assert http.closed
    await ws.close()
    assert ws.closed
    with pytest.raises(PoolClosedError):
        await http.ws_connect(server.url())
    with pytest.raises(PoolClosedError):
        async with http:
            raise AssertionError("not reached")
    with pytest.raises(PoolClosedError):
        PooledClientSession(session)


# -- interleavings -------------------------------------------------------------------------------


async def test_a_cancelled_caller_loses_no_place(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    waiting = [asyncio.create_task(http.ws_connect(server.url())) for _ in range(3)]
    await until(lambda: session.stats().waiting == 3)
    waiting[0].cancel()
    await ws.close()
    second = await waiting[1]
    # Given to the third, which is cancelled before it wakes.
    closing = asyncio.ensure_future(second.close())
    await asyncio.sleep(0)
    waiting[2].cancel()
    await asyncio.wait([*waiting, closing])
    async with asyncio.timeout(30):
        after = await http.ws_connect(server.url())
    await echo(after)
    await after.close()
    assert server.handshakes == 1


async def test_a_task_cancelled_before_its_first_step(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    http = PooledClientSession(session)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = asyncio.create_task(http.ws_connect(server.url()))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        http.ws_connect(server.url()).close()
        del task
        gc.collect()
    assert session.stats().connects == 0


async def test_a_call_that_nobody_awaits(make_session: SessionFactory, server: Server) -> None:
    http = PooledClientSession(make_session())
    with pytest.warns(RuntimeWarning, match="never awaited"):
        http.ws_connect(server.url())
        gc.collect()


async def test_it_can_be_awaited_once(make_session: SessionFactory, server: Server) -> None:
    http = PooledClientSession(make_session())
    call = http.ws_connect(server.url())
    ws = await call
    with pytest.raises(RuntimeError, match="only once"):
        await call
    await ws.close()


async def test_the_options_of_the_pool(make_session: SessionFactory, server: Server) -> None:
    http = releasing(make_session(limit=1))
    ws = await http.ws_connect(server.url(), headers={"X-Request": "1"}, reuse_key="tenant")
    with pytest.raises(PoolTimeoutError):
        await http.ws_connect(server.url(), acquire_timeout=0)
    await ws.close()
    ws = await http.ws_connect(server.url(), headers={"X-Request": "2"}, reuse_key="tenant")
    assert ws.reused
    await ws.close()
    with pytest.raises(TypeError, match="use max_msg_size="):
        http.ws_connect(server.url(), max_size=1)  # type: ignore[call-arg]


async def test_two_tasks_close_at_once(any_http: Any, server: Server) -> None:
    ws = await any_http.ws_connect(server.url())
    await echo(ws)
    assert sorted(await asyncio.gather(ws.close(), ws.close())) == [False, True]
    assert (ws.closed, ws.close_code) == (True, 1000)


async def test_a_close_that_is_cancelled(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=1)
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    # So that close() has something to wait for.
    session.drain()
    closing = asyncio.create_task(ws.close())
    await asyncio.sleep(0)
    assert session.stats().closing == 1
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert (ws.closed, ws.close_code) == (True, 1000)
    async with asyncio.timeout(30):
        assert not await next_is_reused(http, server.url())
    assert server.handshakes == 2


async def test_a_lost_handle_gives_its_place_back(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(limit=1)
    http = releasing(session)
    ws: Any = await http.ws_connect(server.url())
    with pytest.warns(ResourceWarning, match="never released"):
        del ws
        gc.collect()
    async with asyncio.timeout(30):
        assert not await next_is_reused(http, server.url())


async def test_a_handle_keeps_its_session(server: Server) -> None:
    ws = await PooledClientSession(WebSocketClientSession()).ws_connect(server.url())
    gc.collect()
    await echo(ws)
    session: Any = ws._owner
    await ws.close()
    await session._session.close()


async def test_close_in_another_thread(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    http = releasing(session)
    ws = await http.ws_connect(server.url())
    await echo(ws)
    raised: list[BaseException] = []

    def close() -> None:
        try:
            ws.close().send(None)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=close)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    assert [type(exc) for exc in raised] == [RuntimeError]
    assert "close() was called in another thread" in str(raised[0])
    await echo(ws)
    await ws.close()
    assert session.stats().idle == 1


# -- the object ----------------------------------------------------------------------------------


async def test_its_repr(make_session: SessionFactory, server: Server) -> None:
    session = make_session(name="speech", headers={"Authorization": "secret"})
    http = releasing(session)
    ws = await http.ws_connect(f"{server.url()}?key=secret")
    assert repr(http) == f"<PooledClientSession release_on_close=True {session!r}>"
    assert "secret" not in repr(http) + repr(ws)
    http.detach()
    assert repr(http).startswith("<PooledClientSession closed release_on_close=True <")
    await ws.close()


async def test_the_repr_of_a_task(make_session: SessionFactory, server: Server) -> None:
    http = PooledClientSession(make_session())
    task = asyncio.create_task(http.ws_connect(server.url()))
    assert "coro=<ws_connect()" in repr(task)
    await (await task).close()


async def test_it_cannot_be_copied(make_session: SessionFactory) -> None:
    http = PooledClientSession(make_session())
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copies(http)
    assert not hasattr(PooledClientSession.__new__(PooledClientSession), "_pool")


@pytest.mark.parametrize("session", [None, 1, "ws://host/"], ids=repr)
def test_what_is_no_session_is_refused(session: Any) -> None:
    with pytest.raises(TypeError) as caught:
        PooledClientSession(session)
    of = type(session).__name__
    assert str(caught.value) == f"session must be a WebSocketClientSession, not {of}"


async def test_the_error_for_a_client_session_says_where_it_belongs() -> None:
    async with aiohttp.ClientSession() as session:
        client_session: Any = session
        with pytest.raises(TypeError, match=r"WebSocketClientSession\(client_session=\.\.\.\)"):
            PooledClientSession(client_session)


async def test_a_stand_in_is_no_client_session_for_a_pool(make_session: SessionFactory) -> None:
    http: Any = PooledClientSession(make_session())
    with pytest.raises(TypeError, match=r"aiohttp\.ClientSession, not PooledClientSession"):
        WebSocketClientSession(client_session=http)


def test_it_can_be_made_without_a_loop() -> None:
    http = PooledClientSession(WebSocketClientSession())
    assert not http.closed
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        http.headers  # noqa: B018
