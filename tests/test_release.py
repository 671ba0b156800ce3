"""What release does to a connection and to its handle."""

import asyncio
import gc
import os
import weakref
from typing import Any, Self

import aiohttp
import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    ConnectionReleasedError,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, strike_heartbeat, until
from .proxy import frame
from .servers import Server


@pytest.fixture
def session(make_session: SessionFactory) -> WebSocketClientSession:
    return make_session()


async def closed(session: WebSocketClientSession) -> None:
    await until(lambda: not session.stats().closing and not session.stats().idle)


# -- cleanness ---------------------------------------------------------------------------------


async def test_unread_message(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    await ws.send_str("one")
    await ws.send_str("two")
    assert await ws.receive_str() == "one"
    await until(lambda: ws._reader._buffer)
    await ws.release()
    assert session.stats().closed_dirty == 1
    assert session.stats().idle == session.stats().closing == 0
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused


@pytest.mark.parametrize("size", [4, 200, 70_000])
async def test_half_a_message(server: Server, session: WebSocketClientSession, size: int) -> None:
    ws = await session.ws_connect(server.url())
    ws._conn.protocol.data_received(frame(0x82, bytes(size))[:-2])
    assert not ws._reader._buffer
    await ws.release()
    assert session.stats().closed_dirty == 1
    assert session.stats().idle == session.stats().closing == 0


@pytest.mark.parametrize("cut", [1, 4, 50])
async def test_the_rest_of_a_message(
    server: Server, session: WebSocketClientSession, cut: int
) -> None:
    for number in range(3):
        ws = await session.ws_connect(server.url())
        message = frame(0x81, str(number).encode() * 200)
        ws._conn.protocol.data_received(message[:cut])
        ws._conn.protocol.data_received(message[cut:])
        assert await ws.receive_str() == str(number) * 200
        await ws.release()
    assert session.stats().idle == server.handshakes == 1


async def test_pending_receive(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    receiver = asyncio.create_task(ws.receive())
    await asyncio.sleep(0.01)
    completion = ws.release()
    assert session.stats().closed_dirty == 1
    # As when aiohttp's own close() is called under it.
    message = await receiver
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    with pytest.raises(ConnectionReleasedError):
        await ws.receive()
    with pytest.raises(ConnectionReleasedError):
        await ws.send_str("late")
    assert ws.closed
    await completion
    assert session.stats().closing == 0
    assert server.close_codes == [aiohttp.WSCloseCode.OK]


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_abandoned_receive(server: Server, session: WebSocketClientSession, how: str) -> None:
    ws = await session.ws_connect(server.url())
    if how == "cancelled":
        receiver = asyncio.create_task(ws.receive())
        await asyncio.sleep(0.01)
        receiver.cancel()
        await asyncio.wait([receiver])
    else:
        with pytest.raises(asyncio.TimeoutError):
            await ws.receive(timeout=0.01)
    # A reply may still be on its way.
    await ws.release()
    assert session.stats().closed_dirty == 1
    # The closing handshake was done all the same.
    assert server.close_codes == [aiohttp.WSCloseCode.OK]


# -- a receive() that was given up ---------------------------------------------------------------


async def give_up(ws: Any, how: str) -> None:
    """Wait for a message that does not come, in vain."""
    if how == "timeout":
        with pytest.raises(asyncio.TimeoutError):
            await ws.receive(timeout=0.01)
    elif how == "wait_for":
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ws.receive_str(), 0.01)
    elif how == "asyncio.timeout":
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.01):
                await ws.receive()
    else:
        reader = asyncio.create_task(ws.receive())
        await until(lambda: ws._waiting)
        reader.cancel()
        await asyncio.wait([reader])


WAYS_TO_GIVE_UP = ("timeout", "wait_for", "asyncio.timeout", "cancelled")


@pytest.mark.parametrize("how", WAYS_TO_GIVE_UP)
async def test_a_message_received_later_makes_it_fit_again(
    server: Server, session: WebSocketClientSession, how: str
) -> None:
    for number in range(4):
        async with session.ws_connect(server.url()) as ws:
            assert ws.reused == (number > 0)
            await give_up(ws, how)
            await ws.send_str("x")
            assert await ws.receive_str() == "x"
    assert server.handshakes == 1


@pytest.mark.parametrize("how", WAYS_TO_GIVE_UP)
async def test_one_received_before_does_not(
    server: Server, session: WebSocketClientSession, how: str
) -> None:
    """Nor does what came in an earlier use, a PING, or a message before another one given up."""
    ws = await session.ws_connect(server.url())
    await ws.send_str("x")
    assert await ws.receive_str() == "x"
    await ws.release()
    ws = await session.ws_connect(server.url())
    assert ws.reused
    for _ in range(2):
        await give_up(ws, how)
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
    await give_up(ws, how)
    await server.sockets[0].ping(b"no message")
    await until(lambda: ws._reader._buffer)
    await ws.release()
    assert session.stats().closed_dirty == 1


async def test_a_message_that_came_as_the_receive_was_given_up(
    server: Server, session: WebSocketClientSession
) -> None:
    """It is not lost to aiohttp, and the next receive() returns it."""
    for reads in (True, False):
        ws = await session.ws_connect(server.url())
        reader = asyncio.create_task(ws.receive())
        await until(lambda ws=ws: ws._waiting)
        ws._conn.protocol.data_received(frame(0x81, b"late"))
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        if reads:
            assert await ws.receive_str() == "late"
        await ws.release()
        assert session.stats().closed_dirty == (not reads)


async def test_a_fragmented_message_counts_when_it_is_whole(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    ws._conn.protocol.data_received(frame(0x01, b"it "))
    await give_up(ws, "timeout")
    ws._conn.protocol.data_received(frame(0x89) + frame(0x80, b"ends"))
    assert await ws.receive_str() == "it ends"
    await ws.release()
    assert session.stats().idle == 1


@pytest.mark.parametrize("hook", ["configure", "check", "reset"])
@pytest.mark.parametrize("reads", [True, False])
async def test_a_receive_given_up_in_a_hook(
    server: Server, make_session: SessionFactory, hook: str, reads: bool
) -> None:
    async def run(ws: Any) -> None:
        await give_up(ws, "timeout")
        if reads:
            await ws.send_str("x")
            assert await ws.receive_str() == "x"

    session = make_session(**{hook: run})
    for _ in range(2):
        ws = await session.ws_connect(server.url())
        await ws.release()
    stats = session.stats()
    assert stats.reused == reads
    # The check of the second call, or each of both releases.
    assert stats.closed_dirty == (0 if reads else 1 if hook == "check" else 2)


async def test_a_user_who_knows_that_all_was_read(
    server: Server, session: WebSocketClientSession
) -> None:
    """A task reads for as long as the use lasts, and is stopped when all has come."""

    async def read(ws: Any, got: asyncio.Queue[str]) -> None:
        async for message in ws:
            got.put_nowait(message.data)

    for number in range(3):
        async with session.ws_connect(server.url()) as ws:
            assert ws.reused == (number > 0)
            got: asyncio.Queue[str] = asyncio.Queue()
            reader = asyncio.create_task(read(ws, got))
            await ws.send_str("x")
            assert await got.get() == "x"
            with pytest.raises(WebSocketPoolError, match="receive"):
                ws.mark_clean()
            reader.cancel()
            await asyncio.wait([reader])
            ws.mark_clean()
            ws.mark_clean()
    assert server.handshakes == 1


async def test_marked_clean_counts_for_what_was_given_up_before(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    ws.mark_clean()
    await give_up(ws, "timeout")
    await ws.release()
    assert session.stats().closed_dirty == 1


@pytest.mark.parametrize(
    "data", [frame(0x81, b"unread"), frame(0x81, b"begun")[:1], frame(0x01, b"more")]
)
async def test_connections_that_are_visibly_not_clean(
    server: Server, session: WebSocketClientSession, data: bytes
) -> None:
    ws = await session.ws_connect(server.url())
    await give_up(ws, "timeout")
    ws._conn.protocol.data_received(data)
    with pytest.raises(WebSocketPoolError, match="a message"):
        ws.mark_clean()
    await ws.release()
    assert session.stats().closed_dirty == 1


@pytest.mark.parametrize("end", ["close", "abort", "frame", "read"])
async def test_what_is_closed_cannot_be_marked_clean(
    server: Server, session: WebSocketClientSession, end: str
) -> None:
    ws = await session.ws_connect(server.url())
    if end == "close":
        await ws.close()
    elif end == "abort":
        server.transports[0].abort()
        await until(lambda: ws._reader.is_eof())
    else:
        ws._conn.protocol.data_received(b"\x88\x02\x03\xe8")
        if end == "read":
            await ws.receive()
    with pytest.raises(WebSocketPoolError, match="closed"):
        ws.mark_clean()
    await ws.release()


async def test_a_spent_handle_cannot_be_marked_clean(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    await ws.release()
    with pytest.raises(ConnectionReleasedError, match="mark_clean"):
        ws.mark_clean()


async def test_detached_after_a_receive_was_given_up(
    server: Server, session: WebSocketClientSession
) -> None:
    """Its own close() does the closing handshake."""
    ws = await session.ws_connect(server.url())
    await give_up(ws, "timeout")
    ws.detach()
    ws.mark_clean()
    await ws.close()
    await until(lambda: server.close_codes)
    assert server.close_codes == [1000]


# -- other ends -----------------------------------------------------------------------------------


async def test_half_closed(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    await server.sockets[0].close()
    await ws.receive()
    await ws.release()
    assert session.stats().closed_lost == 1
    await closed(session)


async def test_close_not_read_yet(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    closing = asyncio.create_task(server.sockets[0].close())
    await until(lambda: ws._reader._buffer)
    await ws.release()
    assert session.stats().idle == 0
    await closing
    assert server.close_codes == [aiohttp.WSCloseCode.OK]


async def test_dead_connection(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    server.transports[0].abort()
    await until(lambda: ws._reader.is_eof())
    assert not ws.closed
    await ws.release()
    assert session.stats().closed_lost == 1
    assert session.stats().closing == 0


async def test_transport_closing(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    ws._conn.transport.close()
    await ws.release()
    assert session.stats().idle == 0


async def test_protocol_error(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    server.transports[0].write(b"\xff" * 20)
    message = await ws.receive()
    assert message.type is aiohttp.WSMsgType.ERROR
    await ws.release()
    assert session.stats().idle == 0
    await closed(session)


async def test_protocol_error_not_seen_by_the_user(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    server.transports[0].write(b"\xff" * 20)
    await until(lambda: ws._reader.is_eof())
    await ws.release()
    assert session.stats().idle == 0
    await closed(session)


async def test_writing_paused(server: Server, session: WebSocketClientSession) -> None:
    session._pool_settings.close_timeout = 0.2
    ws = await session.ws_connect(server.url("/silent"))
    sender = asyncio.create_task(ws.send_bytes(bytes(50_000_000)))
    await until(lambda: ws._conn.protocol._paused)
    ws.release()
    assert session.stats().closed_dirty == 1
    await closed(session)
    await asyncio.wait([sender])
    sender.exception()


async def test_a_send_under_way(server: Server, session: WebSocketClientSession) -> None:
    """A large frame is compressed in a thread."""
    ws = await session.ws_connect(server.url(), compress=15)
    sender = asyncio.create_task(ws.send_str("the first user's" + os.urandom(2_000_000).hex()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ws.release()
    async with session.ws_connect(server.url(), compress=15) as ws:
        assert not ws.reused
        await ws.send_str("mine")
        assert await ws.receive_str() == "mine"
    await asyncio.wait([sender])
    sender.exception()


async def test_a_send_cancelled_half_way(server: Server, session: WebSocketClientSession) -> None:
    for _ in range(10):
        ws = await session.ws_connect(server.url("/short"), compress=15)
        await ws.send_str("abcabc")
        assert await ws.receive_str() == "abcabc"
        sender = asyncio.create_task(ws.send_str("abc" * 1_000_000))
        await asyncio.sleep(0.001)
        sender.cancel()
        await asyncio.wait([sender])
        ws.release()
        async with session.ws_connect(server.url("/short"), compress=15) as ws:
            await ws.send_str("abcabcabc mine")
            assert await ws.receive_str() == "abcabcabc mine"


@pytest.mark.parametrize("hook", [None, lambda ws: asyncio.sleep(0)])
async def test_what_is_released_too_old_is_waited_for(
    server: Server, make_session: SessionFactory, hook: Any
) -> None:
    session = make_session(max_lifetime=0.1, close_timeout=0.3, reset=hook)
    ws = await session.ws_connect(server.url("/silent"))
    await asyncio.sleep(0.15)
    await asyncio.wait_for(ws.release(), 30)
    assert session.stats().closed_lifetime == 1
    assert session.stats().closing == 0


@pytest.mark.parametrize("cancelled", ["before", "after"])
async def test_what_fails_of_a_cancelled_send_upsets_nobody(
    server: Server, session: WebSocketClientSession, cancelled: str
) -> None:
    """aiohttp compresses on, and finds the connection closed; nobody waits for that any more."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with session.ws_connect(server.url(), compress=15) as ws:
                transport = ws._conn.transport
                sender = asyncio.create_task(ws.send_str(os.urandom(1_000_000).hex()))
                await asyncio.sleep(0.001)
                if cancelled == "before":
                    sender.cancel()
                    await asyncio.wait([sender])
                raise TimeoutError
        if cancelled == "after":
            sender.cancel()
            await asyncio.wait([sender])
        transport.abort()
        del sender
    await until(lambda: not session.stats().closing)
    await asyncio.sleep(0.2)
    gc.collect()
    assert not complaints


async def test_who_still_waits_for_a_send_learns_that_it_failed(
    server: Server, session: WebSocketClientSession
) -> None:
    with pytest.raises(TimeoutError):
        async with session.ws_connect(server.url(), compress=15) as ws:
            transport = ws._conn.transport
            sender = asyncio.create_task(ws.send_str(os.urandom(1_000_000).hex()))
            await until(lambda: ws._slot.conn._background)
            raise TimeoutError
    transport.abort()
    with pytest.raises(ConnectionError):
        await sender


async def test_the_compression_context_survives_reuse(
    server: Server, session: WebSocketClientSession
) -> None:
    for number in range(20):
        async with session.ws_connect(server.url(), compress=15) as ws:
            await ws.send_str(f"much the same each time {number}")
            assert await ws.receive_str() == f"much the same each time {number}"
    assert server.handshakes == 1


async def test_unread_pings_are_answered(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    await server.sockets[0].ping(b"are you there")
    await until(lambda: ws._reader._buffer)
    await ws.release()
    assert session.stats().idle == 1
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
        await ws.send_str("x")
        assert await ws.receive_str() == "x"


async def test_unread_pong_of_the_own_heartbeat(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url(), heartbeat=600.0)
    inner = ws._slot.conn.ws
    strike_heartbeat(inner)
    await until(lambda: ws._reader._buffer or inner._pong_response_cb is None)
    await ws.release()
    assert session.stats().idle == 1
    # It is not missed.
    assert inner._pong_response_cb is None
    assert server.handshakes == 1


async def test_a_send_that_is_refused_costs_nothing(
    server: Server, session: WebSocketClientSession
) -> None:
    async with session.ws_connect(server.url()) as ws:
        with pytest.raises(TypeError):
            await ws.ping(3)  # type: ignore[arg-type]
    assert session.stats().idle == 1


async def test_unread_pings_do_not_hide_a_message(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    await server.sockets[0].ping()
    await server.sockets[0].send_str("unread")
    await until(lambda: len(ws._reader._buffer) == 2)
    await ws.release()
    assert session.stats().closed_dirty == 1


# -- spent handles -----------------------------------------------------------------------------

USES: dict[str, Any] = {
    "send_str": lambda ws: ws.send_str("late"),
    "send_bytes": lambda ws: ws.send_bytes(b"late"),
    "send_json": lambda ws: ws.send_json("late"),
    "send_frame": lambda ws: ws.send_frame(b"late", aiohttp.WSMsgType.TEXT),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "receive": lambda ws: ws.receive(),
    "receive with a timeout": lambda ws: ws.receive(timeout=1.0),
    "receive_str": lambda ws: ws.receive_str(),
    "receive_bytes": lambda ws: ws.receive_bytes(),
    "receive_json": lambda ws: ws.receive_json(),
    "anext": lambda ws: anext(ws),
}


@pytest.mark.parametrize("use", USES)
async def test_use_after_release(server: Server, session: WebSocketClientSession, use: str) -> None:
    spent = await session.ws_connect(server.url())
    await spent.release()
    with pytest.raises(ConnectionReleasedError, match="release") as caught:
        await USES[use](spent)
    assert isinstance(caught.value, WebSocketPoolError | RuntimeError)
    assert isinstance(caught.value, aiohttp.ClientError)
    # The same while another holds the connection, who notices nothing of it.
    async with session.ws_connect(server.url()) as ws:
        assert ws == spent
        with pytest.raises(ConnectionReleasedError):
            await USES[use](spent)
        await ws.send_str("mine")
        assert await ws.receive_str() == "mine"
    assert server.received == ["mine"]
    assert server.handshakes == 1


async def test_second_release_and_late_close(
    server: Server, session: WebSocketClientSession
) -> None:
    spent = await session.ws_connect(server.url())
    await spent.release()
    async with session.ws_connect(server.url()) as ws:
        await spent.release()
        assert await spent.close() is False
        async with spent:
            pass
        assert spent.closed
        assert not ws.closed
        assert session.stats().acquired == 1
        await ws.send_str("mine")
        assert await ws.receive_str() == "mine"
        # Nor by an exception.
        with pytest.raises(ZeroDivisionError):
            async with spent:
                raise ZeroDivisionError
        assert not ws.closed
    assert session.stats().idle == 1


async def test_a_spent_handle_tells_nothing_of_the_connection(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url(), protocols=("chat",))
    assert ws.protocol == "chat"
    assert ws.get_extra_info("peername")
    await ws.release()
    assert ws.protocol is None
    assert ws.close_code is None
    assert ws.exception() is None
    assert ws.compress == 0
    assert not ws.client_notakeover
    assert repr(ws) == f"<ClientWebSocketResponse(127.0.0.1:{server.port})>"
    with pytest.raises(ConnectionReleasedError):
        ws.get_extra_info("peername")


async def test_attributes_of_a_spent_handle_reach_nobody(
    server: Server, session: WebSocketClientSession
) -> None:
    spent = await session.ws_connect(server.url())
    await spent.release()
    spent._closed = True
    spent._writer = None
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("mine")
        assert await ws.receive_str() == "mine"


async def test_release_takes_effect_when_called(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    completion = ws.release()
    assert session.stats().idle == 1
    assert ws.closed
    for _ in range(2):
        await completion


async def test_what_release_returns_fits_asyncio(
    server: Server, session: WebSocketClientSession
) -> None:
    held = [await session.ws_connect(server.url()) for _ in range(5)]
    await asyncio.gather(held[0].release(), held[1].release())
    await asyncio.wait_for(held[2].release(), 30)
    await asyncio.create_task(held[3].release())
    await asyncio.shield(held[4].release())
    assert session.stats().idle == 5


async def test_a_release_in_a_task_can_be_cancelled(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    task = asyncio.create_task(ws.release())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    completion = ws.release()
    completion.close()
    await completion
    assert session.stats().idle == 1


async def test_waiting_for_a_release_that_closes(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(force_close=True, close_timeout=0.5)
    ws = await session.ws_connect(server.url("/silent"))
    completion = ws.release()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(completion, 0.001)
    # It can be asked again, and by several at once.
    waiters = [asyncio.create_task(asyncio.wait_for(completion, 30)) for _ in range(3)]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    assert session.stats().closing == 0
    await completion
    await asyncio.gather(*waiters)


# -- the context manager -----------------------------------------------------------------------


async def test_a_clean_exit_releases(server: Server, session: WebSocketClientSession) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("x")
        await ws.receive_str()
    assert session.stats().idle == 1


async def test_an_exception_closes(server: Server, session: WebSocketClientSession) -> None:
    with pytest.raises(ZeroDivisionError):
        async with session.ws_connect(server.url()):
            raise ZeroDivisionError
    assert session.stats().closed_failed == 1
    # The closing handshake goes on behind: tests/test_leaving.py.
    await closed(session)
    assert server.close_codes == [aiohttp.WSCloseCode.OK]


async def test_after_an_exception_the_handle_is_spent(
    server: Server, session: WebSocketClientSession
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with session.ws_connect(server.url()) as ws:
            raise ZeroDivisionError
    assert ws.closed
    with pytest.raises(ConnectionReleasedError):
        await ws.send_str("late")


async def test_ws_connect_can_be_awaited_once(
    server: Server, session: WebSocketClientSession
) -> None:
    acquisition = session.ws_connect(server.url())
    async with acquisition:
        with pytest.raises(RuntimeError, match="once"):
            await acquisition
        with pytest.raises(RuntimeError, match="once"):
            await asyncio.create_task(acquisition)
    stepped = session.ws_connect(server.url())
    await (await asyncio.create_task(stepped)).release()
    with pytest.raises(RuntimeError, match="once"):
        await asyncio.create_task(stepped)
    assert session.stats().acquired == 0


async def test_cancellation_closes_and_is_not_waited_for(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=0.3)
    inside = asyncio.Event()

    async def caller() -> None:
        async with session.ws_connect(server.url("/silent")):
            inside.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(caller())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert session.stats().closing == 1
    await closed(session)
    assert session.stats().closed_cancelled == 1


async def test_the_handle_as_a_context_manager(
    server: Server, session: WebSocketClientSession
) -> None:
    async with await session.ws_connect(server.url()):
        pass
    assert session.stats().idle == 1


async def test_inside_the_context_released_by_hand(
    server: Server, session: WebSocketClientSession
) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.release()
        other = await session.ws_connect(server.url())
    assert session.stats().acquired == 1
    await other.release()


# -- close -------------------------------------------------------------------------------------


async def test_close_behaves_as_aiohttp(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    assert await ws.close(code=4000, message=b"bye") is True
    assert ws.closed
    assert ws.close_code == aiohttp.WSCloseCode.OK  # the server's answer
    assert server.close_codes == [4000]
    assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSED
    with pytest.raises(ConnectionError):
        await ws.send_str("late")
    assert await ws.close() is False
    await ws.release()
    await closed(session)
    assert session.stats().closed_user == 1


async def test_close_while_receiving(server: Server, session: WebSocketClientSession) -> None:
    ws = await session.ws_connect(server.url())
    receiver = asyncio.create_task(ws.receive())
    await asyncio.sleep(0.01)
    assert await ws.close()
    assert (await receiver).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    await closed(session)


async def test_close_by_the_server_while_in_use(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    closing = asyncio.create_task(server.sockets[0].close(code=4001))
    messages = [message async for message in ws]
    await closing
    assert messages == []
    assert ws.closed
    assert ws.close_code == 4001
    await closed(session)
    assert session.stats().closed_lost == 1
    await ws.release()


async def test_close_to_a_silent_server_is_bounded(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=0.2)
    timeout = aiohttp.ClientWSTimeout(ws_receive=600.0)  # which leaves ws_close unbounded
    ws = await session.ws_connect(server.url("/silent"), timeout=timeout)
    async with asyncio.timeout(30):
        await ws.close()
    await closed(session)


@pytest.mark.parametrize("turns", [0, 1])
async def test_all_tasks_are_cancelled_while_it_closes(
    server: Server, make_session: SessionFactory, turns: int
) -> None:
    """Before the closing handshake has begun, and after."""
    session = make_session(close_timeout=600.0, force_close=True)
    completion = (await session.ws_connect(server.url("/silent"))).release()
    for _ in range(turns):
        await asyncio.sleep(0)
    (goodbye,) = session._lifecycle.goodbyes
    goodbye.cancel()
    await asyncio.wait_for(completion, 30)
    assert session.stats().closing == 0


async def test_cancelled_close(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.create_task(ws.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await closed(session)


# -- lost handles ------------------------------------------------------------------------------


@pytest.mark.parametrize("heartbeat", [None, 30.0])
@pytest.mark.parametrize("received", [False, True])
async def test_lost_handle(
    server: Server, make_session: SessionFactory, heartbeat: float | None, received: bool
) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url(), heartbeat=heartbeat)
    if received:
        await ws.send_str("x")
        await ws.receive()
        await asyncio.sleep(0.12)
        await ws.send_str("x")
        await ws.receive()
    with pytest.warns(ResourceWarning, match="never released"):
        del ws
        gc.collect()
    # Its place comes back.
    async with asyncio.timeout(30):
        async with session.ws_connect(server.url()):
            pass
    assert session.stats().closed_failed == 1
    assert server.peak == 1


async def test_lost_handle_tells_where_it_was_acquired(
    server: Server, make_session: SessionFactory
) -> None:
    asyncio.get_running_loop().set_debug(True)
    session = make_session()
    ws = await session.ws_connect(server.url())
    with pytest.warns(ResourceWarning, match="test_lost_handle_tells"):
        del ws
        gc.collect()
    await closed(session)


async def test_released_handles_do_not_warn(
    server: Server, session: WebSocketClientSession
) -> None:
    ws = await session.ws_connect(server.url())
    await ws.release()
    del ws
    gc.collect()
    ws = await session.ws_connect(server.url())
    await ws.close()
    del ws
    gc.collect()
    ws = await session.ws_connect(server.url())
    await session.close()
    del ws
    gc.collect()


@pytest.mark.parametrize("how", ["closed", "lost", "failed", "idle", "dropped"])
async def test_a_heartbeat_ends_with_its_connection(
    server: Server, session: WebSocketClientSession, how: str
) -> None:
    """Its timer would keep everything of a closed connection for another heartbeat and a half."""
    if how == "dropped":
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        session = WebSocketClientSession()
    ws = await session.ws_connect(server.url(), heartbeat=60.0)
    inner = weakref.ref(ws._slot.conn.ws)
    await ws.send_str("hello")
    await ws.receive()
    if how == "closed":
        await ws.close()
    elif how == "failed":
        with pytest.raises(LookupError):
            async with ws:
                raise LookupError
    elif how != "lost":
        await ws.release()
    if how == "lost":
        with pytest.warns(ResourceWarning, match="never released"):
            del ws
            gc.collect()
    else:
        del ws
    if how == "dropped":
        with pytest.warns(ResourceWarning, match="Unclosed"):
            del session
            gc.collect()
    elif how == "idle":
        await session.close()
    # Rather than one look at the timers, which uvloop does not show.
    await until(lambda: not server.open)
    await until(lambda: gc.collect() >= 0 and inner() is None, pause=0.05)


# -- subclasses --------------------------------------------------------------------------------


class Mine(ClientWebSocketResponse):
    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).made += 1
        self.greeting = "hello"
        self.uses = 0

    async def greet(self) -> str:
        self.uses += 1
        await self.send_str(self.greeting)
        return await self.receive_str()


async def test_subclass(server: Server, make_session: SessionFactory) -> None:
    Mine.made = 0
    session = make_session(ws_response_class=Mine)
    for number in range(3):
        async with session.ws_connect(server.url()) as ws:
            assert type(ws) is Mine
            assert await ws.greet() == "hello"
            # Attributes stay with the connection.
            assert ws.uses == number + 1
    assert Mine.made == 1
    assert repr(ws) == f"<Mine(127.0.0.1:{server.port})>"
    with pytest.raises(AttributeError):
        _ = ws.greeting
    with pytest.raises((AttributeError, ConnectionReleasedError)):
        await ws.greet()


class Named(ClientWebSocketResponse):
    """Has names of its own that aiohttp, by chance, gives to every response."""

    _protocol = "mine"
    _compress = 15
    _exception = ZeroDivisionError()


async def test_what_a_subclass_has_does_not_hide_what_aiohttp_sets(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(ws_response_class=Named)
    for _ in range(2):
        async with session.ws_connect(server.url()) as ws:
            assert ws.protocol is None
            assert ws.compress == 0
            assert ws.exception() is None


class Particular(ClientWebSocketResponse):
    exits = 0

    def __new__(cls, reader: Any, *args: Any, **kwargs: Any) -> Self:
        assert reader is not None
        return super().__new__(cls)

    async def __aexit__(self, *exc: object) -> None:
        type(self).exits += 1
        await super().__aexit__(*exc)


async def test_subclass_with_a_constructor_and_an_exit_of_its_own(
    server: Server, make_session: SessionFactory
) -> None:
    Particular.exits = 0
    session = make_session(ws_response_class=Particular, limit=1)
    for _ in range(3):
        async with session.ws_connect(server.url()):
            pass
    assert Particular.exits == 3
    assert session.stats().idle == 1


class Broken(ClientWebSocketResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError


async def test_subclass_that_cannot_be_made(server: Server, make_session: SessionFactory) -> None:
    session = make_session(ws_response_class=Broken, limit=1)
    errors = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            await session.ws_connect(server.url())
        errors.append(caught.value)
    # The socket does not wait for the error to be collected.
    await until(lambda: server.open == 0)
    assert session.stats().endpoints == 0


async def test_isinstance_of_aiohttps(server: Server, session: WebSocketClientSession) -> None:
    async with session.ws_connect(server.url()) as ws:
        assert isinstance(ws, aiohttp.ClientWebSocketResponse)
        assert isinstance(ws, ClientWebSocketResponse)
        assert ws != object()
        assert {ws: 1}[ws] == 1
