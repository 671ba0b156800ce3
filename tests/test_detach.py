"""Connections that their users take out of the pool for good: ``detach``."""

import asyncio
import contextlib
import gc
import ssl
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    ConnectionReleasedError,
    PoolClosedError,
    TraceConfig,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, strike_heartbeat, until
from .servers import Server


async def echo(ws: aiohttp.ClientWebSocketResponse, text: str = "hello") -> None:
    await ws.send_str(text)
    assert await ws.receive_str() == text


async def ends(ws: ClientWebSocketResponse, server: Server) -> None:
    """Close it, which the server sees as a closing handshake."""
    is_open = server.open
    assert await ws.close(code=3001)
    await until(lambda: server.open == is_open - 1)
    assert server.close_codes[-1] == 3001
    assert ws.closed


# -- what it does --------------------------------------------------------------------------------


async def test_its_place_is_free_at_once(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    waiters = [asyncio.ensure_future(session.ws_connect(server.url())) for _ in range(2)]
    await until(lambda: session.stats().waiting == 2)
    ws.detach()
    async with await waiters[0] as other:
        assert other != ws
        await echo(other)
        await echo(ws)
    await (await waiters[1]).release()
    stats = session.stats()
    assert (stats.detached, stats.released, stats.acquired, stats.idle) == (1, 2, 0, 1)
    assert stats.closing == stats.closed_user == stats.closed_failed == 0
    await ends(ws, server)
    assert session.stats() == stats


async def test_release_changes_nothing_any_more(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    assert ws.detach() is None
    await ws.release()
    ws.release()
    ws.detach()
    assert not ws.closed
    await echo(ws)
    assert session.stats().idle == 0
    assert session.stats().detached == 1
    await ends(ws, server)
    await ws.release()
    assert not await ws.close()


async def test_async_with_leaves_it_open(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    async with session.ws_connect(server.url()) as first:
        first.detach()
    with pytest.raises(ZeroDivisionError):
        async with session.ws_connect(server.url()) as second:
            second.detach()
            raise ZeroDivisionError
    third = await session.ws_connect(server.url())
    with pytest.raises(asyncio.CancelledError):
        async with third:
            third.detach()
            raise asyncio.CancelledError
    for ws in (first, second, third):
        await echo(ws)
        await ends(ws, server)
    assert session.stats().detached == 3


async def test_what_it_is_stays(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    spent = await session.ws_connect(server.url())
    spent.user = "me"
    await spent.release()
    ws = await session.ws_connect(server.url())
    before = (repr(ws), hash(ws), ws.reused, ws.user, ws.protocol)
    ws.detach()
    assert ws == spent
    assert (repr(ws), hash(ws), ws.reused, ws.user, ws.protocol) == before
    ws.user = "somebody else"
    assert ws.user == "somebody else"
    async with session.ws_connect(server.url()) as other:
        assert other != ws
        assert not hasattr(other, "user")
    await ends(ws, server)
    assert ws.close_code is not None


async def test_a_receive_under_way_goes_on(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    receiver = asyncio.create_task(ws.receive_str())
    await asyncio.sleep(0)
    ws.detach()
    await session.close()
    await ws.send_str("at last")
    assert await receiver == "at last"
    receiver = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    assert await ws.close()
    assert (await receiver).type is aiohttp.WSMsgType.CLOSING


async def test_a_send_under_way_goes_on(server: Server, make_session: SessionFactory) -> None:
    ws = await make_session().ws_connect(server.url(), compress=15, max_msg_size=0)
    # Compressed in a thread.
    text = "x" * (1 << 20)
    sending = asyncio.create_task(ws.send_str(text))
    await asyncio.sleep(0)
    ws.detach()
    await sending
    assert await ws.receive_str() == text
    await echo(ws)
    await ends(ws, server)


async def test_what_lies_unread_is_there(server: Server, make_session: SessionFactory) -> None:
    ws = await make_session().ws_connect(server.url())
    await ws.send_str("unread")
    await until(lambda: ws._reader._buffer)
    ws.detach()
    assert await ws.receive_str() == "unread"
    await ends(ws, server)


async def test_nothing_of_the_pool_is_left_at_it(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    inner = weakref.ref(ws._slot.conn.ws)
    async with aiohttp.ClientSession() as client_session:
        plain = await client_session.ws_connect(server.url())
        ws.detach()
        assert inner() is None
        for each in (ws, plain):
            kind = type(each._conn.protocol._payload_parser).__module__
            assert kind.startswith("aiohttp")
        assert vars(ws).keys() - {"_detached"} <= vars(plain).keys()
        assert "send_frame" not in getattr(ws._writer, "__dict__", ())
        await plain.close()
    await ends(ws, server)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
async def test_its_heartbeat_goes_on(
    server: Server, make_session: SessionFactory, is_closed: bool
) -> None:
    session = make_session()
    healthy = await session.ws_connect(server.url(), heartbeat=600.0)
    silent = await session.ws_connect(server.url("/silent"), heartbeat=0.1)
    for ws in (healthy, silent):
        ws.detach()
    receivers = [asyncio.create_task(ws.receive()) for ws in (healthy, silent)]
    if is_closed:
        await session.close()
    # Nobody answers its pings.
    assert (await receivers[1]).type is aiohttp.WSMsgType.ERROR
    assert silent.closed
    for _ in range(3):
        strike_heartbeat(healthy)
        await until(lambda: healthy._pong_response_cb is None)
        assert healthy._heartbeat_cb is not None
    await healthy.send_str("still here")
    assert (await receivers[0]).data == "still here"
    await ends(healthy, server)


async def test_it_can_be_drained_before(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    session.drain()
    ws.detach()
    await echo(ws)
    await ends(ws, server)
    assert session.stats().closed_forced == 0


async def test_those_who_watch_are_told(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    trace = TraceConfig()

    async def released(session: Any, context: Any, params: Any) -> None:
        told.append("release")

    async def closed(session: Any, context: Any, params: Any) -> None:
        told.append("close")

    trace.on_release.append(released)
    trace.on_close.append(closed)
    caplog.set_level("DEBUG", "aiowebsocketclient")
    session = make_session(trace_configs=[trace])
    ws = await session.ws_connect(server.url())
    ws.detach()
    await ws.release()
    await session.close()
    assert told == ["release"]
    events = [(r.event, r.endpoint) for r in caplog.records]  # type: ignore[attr-defined]
    endpoint = f"127.0.0.1:{server.port}"
    assert events == [("opened", endpoint), ("detached", endpoint)]
    await ends(ws, server)


# -- it outlives the session ---------------------------------------------------------------------


def own() -> dict[str, Any]:
    return {}


def given() -> dict[str, Any]:
    return {"client_session": aiohttp.ClientSession()}


def given_with_limits() -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=10, limit_per_host=10)
    return {"client_session": aiohttp.ClientSession(connector=connector)}


@pytest.mark.parametrize("arguments", [own, given, given_with_limits])
async def test_it_outlives_its_session(
    server: Server, make_session: SessionFactory, arguments: Callable[[], dict[str, Any]]
) -> None:
    session = make_session(**arguments())
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    held[0].detach()
    held[1].detach()
    # It is not waited for either.
    await asyncio.wait_for(session.close(), 30)
    assert session.client_session.closed
    assert held[2].closed
    for ws in held[:2]:
        await echo(ws)
    transport = held[0]._conn.transport
    await ends(held[0], server)
    assert transport.is_closing()
    await echo(held[1])
    # The server's closing handshake is answered, and its socket closed.
    closing = asyncio.create_task(server.sockets[0].close())
    assert (await held[1].receive()).type is aiohttp.WSMsgType.CLOSE
    assert held[1].closed
    await closing
    await until(lambda: server.open == 0)


async def test_over_tls_too(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    ws = await session.ws_connect(tls_server.url(), ssl=client_tls, heartbeat=30.0)
    ws.detach()
    await session.close()
    await echo(ws)
    await ends(ws, tls_server)
    await until(lambda: not tls_server.runner.server.connections)


async def test_what_is_of_a_client_session_that_goes_on_is_its(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
    session = make_session(client_session=client_session, client_session_owner=False, limit=1)
    ws = await session.ws_connect(server.url())
    ws.detach()
    await session.close()
    await echo(ws)
    # It counts there as any that aiohttp has opened.
    waiter = asyncio.create_task(client_session.ws_connect(server.url()))
    await asyncio.sleep(0.05)
    assert not waiter.done()
    await ends(ws, server)
    async with await waiter as other:
        await echo(other)
    await client_session.close()


async def test_it_outlives_a_session_that_is_dropped(server: Server) -> None:
    session = WebSocketClientSession()
    ws = await session.ws_connect(server.url())
    ws.detach()
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession"):
        del session
        gc.collect()
    await asyncio.sleep(0)
    await echo(ws)
    await ends(ws, server)


# -- it is lost ----------------------------------------------------------------------------------


async def warnings_of_losing(connect: Callable[[], Any]) -> list[str]:
    """Return what is said when a connection is collected unclosed."""
    contexts: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: contexts.append(context["message"])
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ws = await connect()
        await echo(ws)
        del ws
        gc.collect()
        await asyncio.sleep(0)
    return [type(w.message).__name__ + str(w.message)[:20] for w in caught] + contexts


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
async def test_lost_it_is_as_aiohttps_own(
    server: Server, make_session: SessionFactory, debug: bool
) -> None:
    asyncio.get_running_loop().set_debug(debug)
    session = make_session(limit=1)

    async def detached() -> ClientWebSocketResponse:
        async with session.ws_connect(server.url()) as ws:
            ws.detach()
            return ws

    ours = await warnings_of_losing(detached)
    await until(lambda: server.open == 0)
    async with aiohttp.ClientSession() as client_session:
        theirs = await warnings_of_losing(lambda: client_session.ws_connect(server.url()))
        await until(lambda: server.open == 0)
    assert ours == theirs
    assert bool(theirs) == debug
    # Its place was given back once.
    assert session._pool.sizes()["slots"] == 0
    async with session.ws_connect(server.url()) as ws:
        await echo(ws)
    assert session.stats().closed_failed == 0


# -- what cannot be detached ---------------------------------------------------------------------


async def test_what_was_released(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    await ws.release()
    async with session.ws_connect(server.url()) as other:
        assert other == ws
        with pytest.raises(ConnectionReleasedError, match="was released"):
            ws.detach()
        await echo(other)
    assert session.stats().detached == 0
    assert session.stats().idle == 1


async def test_what_was_closed(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = asyncio.create_task(ws.close())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(WebSocketPoolError, match="was closed"):
            ws.detach()
        await closing
    assert session.stats().detached == 0


async def test_what_has_ended_and_is_known_to(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url(), autoclose=False)
    closing = asyncio.create_task(server.sockets[0].close())
    assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
    with pytest.raises(WebSocketPoolError, match=r"is closed: release\(\) it"):
        ws.detach()
    await ws.release()
    await closing
    assert session.stats().detached == 0
    assert session.stats().closed_lost == 1


async def test_what_has_ended_with_nobody_told(
    server: Server, make_session: SessionFactory
) -> None:
    """What lies unread is the user's, the end among it."""
    session = make_session()
    ws = await session.ws_connect(server.url())
    server.transports[0].abort()
    await until(lambda: ws._reader.is_eof())
    ws.detach()
    assert session.stats().detached == 1
    assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSED
    assert ws.closed
    await ws.close()


async def test_in_a_session_that_is_closed(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(PoolClosedError):
            ws.detach()
        await closing
    await ws.release()
    assert session.stats().detached == 0


@pytest.mark.parametrize("name", ["configure", "check", "reset"])
async def test_inside_a_hook(server: Server, make_session: SessionFactory, name: str) -> None:
    errors: list[WebSocketPoolError] = []

    async def hook(ws: ClientWebSocketResponse) -> None:
        with pytest.raises(WebSocketPoolError, match="lent to a hook") as caught:
            ws.detach()
        errors.append(caught.value)
        await echo(ws)

    session = make_session(**{name: hook})
    for _ in range(2):
        async with session.ws_connect(server.url()) as ws:
            await echo(ws)
        await until(lambda: session.stats().idle == 1)
    assert errors
    assert server.handshakes == 1
    assert session.stats().detached == 0


async def test_what_is_no_pools(server: Server) -> None:
    client_session = aiohttp.ClientSession(ws_response_class=ClientWebSocketResponse)
    async with client_session, client_session.ws_connect(server.url()) as ws:
        # It is its user's anyhow.
        ws.detach()
        await echo(ws)


async def test_where_handing_it_over_fails(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    connector: Any = session.client_session.connector
    with monkeypatch.context() as patch, contextlib.suppress(ZeroDivisionError):
        patch.setattr(connector, "_release_acquired", lambda *args: 1 / 0)
        ws.detach()
    # Nothing has happened.
    await echo(ws)
    await ws.release()
    assert session.stats().idle == 1
    assert session.stats().detached == 0
