"""Faults on the wire, on plain TCP: what the caller gets, and that the pool is whole afterwards.

Each case is one fault.  ``check_whole`` ends each: nothing is left of the connection that had it,
the full limit can be taken at once, and the far side has never seen more than the limit.
"""

import asyncio
import base64
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSMsgType
from aiohttp.abc import AbstractResolver

from aiowebsocketclient import PoolTimeoutError, WebSocketClientSession
from aiowebsocketclient._pool_py import CLOSE_REASONS

from .conftest import SessionFactory, strike_heartbeat, until
from .proxy import Link, Proxy, frame, proxying, text
from .servers import Server, serving

LIMIT = 3
# What is sure not to come is waited for so long.
SHORT = 0.1


@pytest_asyncio.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with proxying(server.port) as proxy:
        yield proxy


async def echo(ws: aiohttp.ClientWebSocketResponse, payload: str = "hello") -> None:
    await ws.send_str(payload)
    assert await ws.receive_str(timeout=30) == payload


async def check_whole(
    session: WebSocketClientSession, url: str, far_side: Proxy | Server, **options: Any
) -> None:
    limit = session.limit
    assert limit
    await until(lambda: session.stats().closing == 0)
    stats = session.stats()
    assert (stats.acquired, stats.waiting) == (0, 0)
    async with asyncio.timeout(30):
        held = await asyncio.gather(*[session.ws_connect(url, **options) for _ in range(limit)])
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(url, acquire_timeout=0, **options)
        await asyncio.gather(*[echo(ws, str(number)) for number, ws in enumerate(held)])
        await asyncio.gather(*[ws.release() for ws in held])
    stats = session.stats()
    assert (stats.acquired, stats.connecting, stats.waiting, stats.closing) == (0, 0, 0, 0)
    assert stats.idle == limit
    assert far_side.peak <= limit


def closed(session: WebSocketClientSession) -> dict[str, int]:
    """Return what was closed, by reason."""
    stats = session.stats()
    counts = {name: getattr(stats, f"closed_{name}") for name in CLOSE_REASONS}
    return {name: count for name, count in counts.items() if count}


async def idle(session: WebSocketClientSession, url: str, **options: Any) -> None:
    """Make one connection that was used, and is idle now."""
    async with session.ws_connect(url, **options) as ws:
        await echo(ws)


# -- what ends a connection --------------------------------------------------------------------


def reset(link: Link) -> None:
    link.reset()


def end(link: Link) -> None:
    link.end()


def end_and_ignore_ours(link: Link) -> None:
    """The server's FIN, and then the client's stays without an answer."""
    link.ignores_end_of_client = True
    link.end()


def cut_and_end(link: Link) -> None:
    """A FIN in the middle of a frame."""
    link.client.write(text("to be continued")[:7])
    link.end()


def cut_and_reset(link: Link) -> None:
    link.client.write(text("to be continued")[:7])
    asyncio.get_running_loop().call_later(0.01, link.reset)


def header_and_end(link: Link) -> None:
    """A FIN after the first byte of a frame."""
    link.client.write(b"\x81")
    link.end()


def garbage(link: Link) -> None:
    link.client.write(b"\xff" * 20)


def unknown_opcode(link: Link) -> None:
    """A frame of a type that does not exist."""
    link.client.write(frame(0x83, b"?"))


def fragmented_ping(link: Link) -> None:
    link.client.write(frame(0x09, b"half a ping"))


def continuation_of_nothing(link: Link) -> None:
    link.client.write(frame(0x80, b"the end"))


def not_utf8(link: Link) -> None:
    link.client.write(frame(0x81, b"\xff\xff"))


def too_big(link: Link) -> None:
    link.client.write(frame(0x82, bytes(1 << 20)))


def bad_close(link: Link) -> None:
    """A CLOSE frame whose code is one that must not be sent."""
    link.client.write(frame(0x88, (1005).to_bytes(2, "big")))


def close_and_end(link: Link) -> None:
    """A CLOSE frame, and the FIN right behind it."""
    link.client.write(frame(0x88, (1001).to_bytes(2, "big")))
    link.end()


def close_and_reset(link: Link) -> None:
    link.to_server.swallows = True
    link.client.write(frame(0x88, (1001).to_bytes(2, "big")))
    asyncio.get_running_loop().call_later(0.01, link.reset)


def message_and_end(link: Link) -> None:
    link.client.write(text("last words"))
    link.end()


ENDS: list[Callable[[Link], None]] = [
    reset,
    end,
    end_and_ignore_ours,
    cut_and_end,
    cut_and_reset,
    header_and_end,
    garbage,
    unknown_opcode,
    fragmented_ping,
    continuation_of_nothing,
    not_utf8,
    too_big,
    bad_close,
    close_and_end,
    close_and_reset,
    message_and_end,
]
ERRORS = {
    garbage: 1002,
    unknown_opcode: 1002,
    fragmented_ping: 1002,
    continuation_of_nothing: 1002,
    not_utf8: 1007,
    too_big: 1009,
    bad_close: 1002,
}
# A message has begun to come before the end.
DIRTY = {cut_and_end, cut_and_reset, header_and_end, message_and_end}
OPTIONS: dict[str, Any] = {"max_msg_size": 1 << 19}
ends = pytest.mark.parametrize("fault", ENDS, ids=lambda fault: fault.__name__)


@ends
async def test_end_of_an_idle_connection(
    proxy: Proxy, make_session: SessionFactory, fault: Callable[[Link], None]
) -> None:
    """It is out of the pool before anybody can be handed it."""
    session = make_session(limit=LIMIT)
    await idle(session, proxy.url(), **OPTIONS)
    fault(proxy.links[0])
    await until(lambda: not session.stats().idle)
    await until(lambda: not session.stats().closing)
    if fault is too_big and "dirty" in closed(session):
        # Older aiohttp looks at the size when the message is whole, which is too late.
        assert aiohttp.__version__ < "3.14"
    else:
        assert closed(session) == {"dirty" if fault in DIRTY else "lost": 1}
    await check_whole(session, proxy.url(), proxy, **OPTIONS)


@ends
async def test_end_of_a_connection_in_use(
    proxy: Proxy, make_session: SessionFactory, fault: Callable[[Link], None]
) -> None:
    """Nobody is reading: release sees it."""
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(proxy.url(), **OPTIONS)
    await echo(ws)
    conn = ws._slot.conn
    fault(proxy.links[0])
    await until(lambda: conn.has_ended)
    await ws.release()
    await until(lambda: not session.stats().closing)
    assert closed(session) == {"lost": 1}
    await check_whole(session, proxy.url(), proxy, **OPTIONS)


@ends
async def test_end_of_a_connection_that_is_being_read(
    proxy: Proxy, make_session: SessionFactory, fault: Callable[[Link], None]
) -> None:
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(proxy.url(), **OPTIONS)
    await echo(ws)
    reading = asyncio.create_task(ws.receive())
    await until(lambda: ws._waiting)
    fault(proxy.links[0])
    message = await asyncio.wait_for(reading, 30)
    if fault is message_and_end:
        assert message.data == "last words"
        message = await asyncio.wait_for(ws.receive(), 30)
    if fault in ERRORS:
        assert message.type is WSMsgType.ERROR
        assert message.data.code == ERRORS[fault]
    elif fault in (close_and_end, close_and_reset):
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
    else:
        assert message.type is WSMsgType.CLOSED
    assert ws.closed
    assert (await ws.receive()).type is WSMsgType.CLOSED
    with pytest.raises(aiohttp.ClientConnectionResetError):
        await ws.send_str("too late")
    await ws.release()
    await until(lambda: not session.stats().closing)
    assert closed(session) == {"lost": 1}
    await check_whole(session, proxy.url(), proxy, **OPTIONS)


# -- silence -----------------------------------------------------------------------------------


async def test_silence_of_an_idle_connection(proxy: Proxy, make_session: SessionFactory) -> None:
    """Without a heartbeat nobody can tell; who uses it has a timeout of its own."""
    session = make_session(limit=LIMIT, close_timeout=0.2)
    await idle(session, proxy.url())
    proxy.links[0].swallow()
    with pytest.raises(asyncio.TimeoutError):
        async with session.ws_connect(proxy.url()) as ws:
            assert ws.reused
            await ws.send_str("is anybody there?")
            await ws.receive(timeout=SHORT)
    assert closed(session) == {"failed": 1}
    await check_whole(session, proxy.url(), proxy)


@pytest.mark.parametrize("use", ["idle", "in use", "being read"])
async def test_silence_with_a_heartbeat(
    proxy: Proxy, make_session: SessionFactory, use: str
) -> None:
    session = make_session(limit=LIMIT, close_timeout=0.2)
    ws = await session.ws_connect(proxy.url(), heartbeat=600.0)
    inner = ws._slot.conn.ws
    await echo(ws)
    if use == "idle":
        await ws.release()
    proxy.links[0].swallow()
    strike_heartbeat(inner, patience=0.05)
    if use == "being read":
        message = await asyncio.wait_for(ws.receive(), 30)
        assert message.type is WSMsgType.ERROR
        assert isinstance(message.data, aiohttp.ServerTimeoutError)
    await until(lambda: not session.stats().idle and (use == "idle" or ws.closed))
    await ws.release()
    assert closed(session) == {"lost": 1}
    await check_whole(session, proxy.url(), proxy)


# -- slowness ----------------------------------------------------------------------------------


async def test_message_byte_by_byte(proxy: Proxy, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT)
    async with session.ws_connect(proxy.url()) as ws:
        proxy.links[0].to_client.trickles = proxy.links[0].to_server.trickles = True
        for number in range(3):
            await echo(ws, str(number) * 300)
    assert session.stats().idle == 1
    await check_whole(session, proxy.url(), proxy)


async def test_message_byte_by_byte_while_idle(
    proxy: Proxy, server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=LIMIT)
    await idle(session, proxy.url())
    proxy.links[0].to_client.trickles = True
    await server.sockets[0].send_str("not asked for")
    await until(lambda: not session.stats().idle)
    assert proxy.accepted == 1
    await until(lambda: not session.stats().closing)
    assert closed(session) == {"dirty": 1}
    await until(lambda: server.close_codes == [aiohttp.WSCloseCode.OK])
    await check_whole(session, proxy.url(), proxy)


async def test_late_reply(proxy: Proxy, make_session: SessionFactory) -> None:
    """It was given up, and comes when the connection is idle."""
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(proxy.url())
    await echo(ws)
    proxy.links[0].to_client.delay = 0.05
    await ws.send_str("not read any more")
    await ws.release()
    assert session.stats().idle == 1
    await until(lambda: not session.stats().idle)
    assert closed(session) == {"dirty": 1}
    await check_whole(session, proxy.url(), proxy)


async def test_everything_late(proxy: Proxy, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT)

    def delay(link: Link) -> None:
        link.to_client.delay = link.to_server.delay = 0.02

    proxy.on_link = delay
    await check_whole(session, proxy.url(), proxy)
    assert not closed(session)


# -- a frame cut in the middle, and nothing after it ----------------------------------------------


@pytest.mark.parametrize("passed", [3, 50])
async def test_release_with_half_a_frame(
    proxy: Proxy, make_session: SessionFactory, passed: int
) -> None:
    session = make_session(limit=LIMIT, close_timeout=0.2)
    ws = await session.ws_connect(proxy.url())
    await echo(ws)
    conn = ws._slot.conn
    proxy.links[0].to_client.budget = passed
    await ws.send_str("x" * 100)
    await until(lambda: not conn.is_clean())
    await ws.release()
    assert closed(session) == {"dirty": 1}
    await check_whole(session, proxy.url(), proxy)


@pytest.mark.parametrize("cut", [b"\x81", b"\x81\x05", b"\x01\x03hel"])
async def test_half_a_message_that_no_parser_shows(
    server: Server, make_session: SessionFactory, cut: bytes
) -> None:
    """Whether the rest comes at once or not, nobody else receives it."""
    message = b"\x81\x05hello" if cut != b"\x01\x03hel" else cut + b"\x80\x02lo"
    session = make_session(limit=LIMIT)
    for rest in (message[len(cut) :], b""):
        ws = await session.ws_connect(server.url())
        protocol = ws._slot.conn._protocol
        protocol.data_received(cut)
        ws.release()
        protocol.data_received(rest)
        assert session.stats().idle == 0
        async with session.ws_connect(server.url()) as other:
            assert not other.reused
            await other.close()
        await until(lambda: not session.stats().closing)
    assert closed(session) == {"dirty": 2, "user": 2}
    await check_whole(session, server.url(), server)


async def test_half_a_frame_that_somebody_waits_for(
    proxy: Proxy, make_session: SessionFactory
) -> None:
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(proxy.url())
    proxy.links[0].to_client.budget = 50
    await ws.send_str("x" * 100)
    with pytest.raises(asyncio.TimeoutError):
        await ws.receive(timeout=SHORT)
    proxy.links[0].to_client.let_go()
    assert await ws.receive_str(timeout=30) == "x" * 100
    # What was given up for has been received.
    await ws.release()
    assert closed(session) == {}
    assert session.stats().idle == 1
    await check_whole(session, proxy.url(), proxy)


# -- the answer to the handshake -----------------------------------------------------------------


def accept(request: bytes) -> bytes:
    match = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
    assert match
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(match[1] + guid).digest())


def switching(request: bytes, **changes: bytes) -> bytes:
    headers = {
        "Upgrade": b"websocket",
        "Connection": b"Upgrade",
        "Sec_WebSocket_Accept": accept(request),
    } | changes
    lines = [
        name.replace("_", "-").encode() + b": " + value for name, value in headers.items() if value
    ]
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, b"", b""])


def status(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + line, *headers, b"Content-Length: 2", b"", b"no"])


HUGE = b"x" * 10_000_000
ANSWERS: dict[str, tuple[Callable[[bytes], bytes], type[Exception], int | None]] = {
    "garbage": (lambda r: b"\xff\x00garbage\r\n\r\n", aiohttp.ClientResponseError, 400),
    "of another protocol": (lambda r: b"220 mail\r\n\r\n", aiohttp.ClientResponseError, 400),
    "10 MB of headers": (lambda r: switching(r, X=HUGE), aiohttp.ClientResponseError, 400),
    "10 MB of status": (lambda r: b"HTTP/1.1 101 " + HUGE, aiohttp.ClientResponseError, 400),
    "wrong accept key": (
        lambda r: switching(r, Sec_WebSocket_Accept=b"x" * 28),
        aiohttp.WSServerHandshakeError,
        101,
    ),
    "no accept key": (
        lambda r: switching(r, Sec_WebSocket_Accept=b""),
        aiohttp.WSServerHandshakeError,
        101,
    ),
    "no Upgrade": (lambda r: switching(r, Upgrade=b""), aiohttp.WSServerHandshakeError, 101),
    "another Upgrade": (
        lambda r: switching(r, Upgrade=b"h2c"),
        aiohttp.WSServerHandshakeError,
        101,
    ),
    "no Connection": (lambda r: switching(r, Connection=b""), aiohttp.WSServerHandshakeError, 101),
    "bad extension": (
        lambda r: switching(
            r, Sec_WebSocket_Extensions=b"permessage-deflate; client_max_window_bits=99"
        ),
        aiohttp.WSServerHandshakeError,
        101,
    ),
    "200": (lambda r: status(b"200 OK"), aiohttp.WSServerHandshakeError, 200),
    "401": (
        lambda r: status(b"401 Unauthorized", b"WWW-Authenticate: Basic"),
        aiohttp.WSServerHandshakeError,
        401,
    ),
    "404": (lambda r: status(b"404 Not Found"), aiohttp.WSServerHandshakeError, 404),
    "429": (
        lambda r: status(b"429 Too Many Requests", b"Retry-After: 7"),
        aiohttp.WSServerHandshakeError,
        429,
    ),
    "503": (
        lambda r: status(b"503 Service Unavailable", b"Connection: close"),
        aiohttp.WSServerHandshakeError,
        503,
    ),
    "redirect to itself": (
        lambda r: status(b"302 Found", b"Location: /"),
        aiohttp.TooManyRedirects,
        0,
    ),
    "redirect to nowhere": (lambda r: status(b"302 Found"), aiohttp.WSServerHandshakeError, 302),
    "redirect to another scheme": (
        lambda r: status(b"302 Found", b"Location: ftp://127.0.0.1/"),
        aiohttp.NonHttpUrlRedirectClientError,
        None,
    ),
    "redirect to a closed port": (
        lambda r: status(b"302 Found", b"Location: http://127.0.0.1:1/"),
        aiohttp.ClientConnectorError,
        None,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_bad_answer_to_the_handshake(
    proxy: Proxy, make_session: SessionFactory, name: str
) -> None:
    session = make_session(limit=LIMIT)
    answer, error, code = ANSWERS[name]
    proxy.answer = lambda link, request: link.client.write(answer(request))
    calls = [session.ws_connect(proxy.url(), compress=15) for _ in range(2 * LIMIT)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [error] * 2 * LIMIT
    for failure in failures:
        assert getattr(failure, "status", None) == code
        if code == 429:
            assert failure.headers["Retry-After"] == "7"
    assert session.stats().connect_errors == 2 * LIMIT
    proxy.answer = None
    await check_whole(session, proxy.url(), proxy, compress=15)


def and_end(answer: Callable[[bytes], bytes]) -> Callable[[Link, bytes], None]:
    def write_and_end(link: Link, request: bytes) -> None:
        link.client.write(answer(request))
        link.client.close()

    return write_and_end


def reset_after(answer: Callable[[bytes], bytes]) -> Callable[[Link, bytes], None]:
    def write_and_reset(link: Link, request: bytes) -> None:
        link.client.write(answer(request))
        asyncio.get_running_loop().call_later(0.02, link.reset)

    return write_and_reset


ENDS_IN_HANDSHAKE: dict[str, tuple[Callable[[Link, bytes], None], type[Exception]]] = {
    "end": (and_end(lambda r: b""), aiohttp.ServerDisconnectedError),
    "end in the status line": (and_end(lambda r: b"HTTP/1.1 10"), aiohttp.ServerDisconnectedError),
    "end in the headers": (
        and_end(lambda r: switching(r)[:60]),
        aiohttp.ServerDisconnectedError,
    ),
    "reset": (lambda link, request: link.reset(), aiohttp.ClientOSError),
    "reset in the status line": (reset_after(lambda r: b"HTTP/1.1 10"), aiohttp.ClientOSError),
    "reset in the headers": (reset_after(lambda r: switching(r)[:60]), aiohttp.ClientOSError),
}


@pytest.mark.parametrize("name", ENDS_IN_HANDSHAKE)
async def test_end_in_the_handshake(proxy: Proxy, make_session: SessionFactory, name: str) -> None:
    session = make_session(limit=LIMIT)
    proxy.answer, error = ENDS_IN_HANDSHAKE[name]
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.ws_connect(proxy.url())
        assert caught.type is error
    proxy.answer = None
    await check_whole(session, proxy.url(), proxy)


async def test_reset_before_the_request(proxy: Proxy, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT)
    proxy.on_link = Link.reset
    for _ in range(2):
        # It is seen while the request is being sent, or when the answer is waited for.
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.ws_connect(proxy.url())
    proxy.on_link = None
    await check_whole(session, proxy.url(), proxy)


def drip(link: Link, request: bytes) -> None:
    """A header that never ends, a byte at a time."""
    if link.client_ended:
        return
    link.client.write(b"x")
    asyncio.get_running_loop().call_later(0.005, drip, link, request)


def drip_after_the_status_line(link: Link, request: bytes) -> None:
    link.client.write(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
    drip(link, request)


NEVER_ENDING: dict[str, Callable[[Link, bytes], None]] = {
    "no answer": lambda link, request: None,
    "half a status line": lambda link, request: link.client.write(b"HTTP/1.1 10"),
    "half the headers": lambda link, request: link.client.write(switching(request)[:60]),
    "headers byte by byte": drip_after_the_status_line,
    "100 Continue for ever": lambda link, request: link.client.write(
        b"HTTP/1.1 100 Continue\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", NEVER_ENDING)
async def test_handshake_that_never_ends(
    proxy: Proxy, make_session: SessionFactory, name: str
) -> None:
    session = make_session(limit=LIMIT, conn_timeout=0.2)
    proxy.answer = NEVER_ENDING[name]
    calls = [session.ws_connect(proxy.url()) for _ in range(LIMIT + 1)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [aiohttp.ConnectionTimeoutError] * (LIMIT + 1)
    proxy.answer = None
    session._pool_settings.conn_timeout = None
    await check_whole(session, proxy.url(), proxy)


async def test_given_up_in_a_handshake_that_never_ends(
    proxy: Proxy, make_session: SessionFactory
) -> None:
    """acquire_timeout strikes; the next caller needs the places."""
    session = make_session(limit=LIMIT)
    proxy.answer = NEVER_ENDING["no answer"]
    calls = [session.ws_connect(proxy.url(), acquire_timeout=SHORT) for _ in range(LIMIT)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [PoolTimeoutError] * LIMIT
    proxy.answer = None
    assert session.stats().connecting == LIMIT
    # Of another handshake: what is under way is of no use to it.
    await check_whole(session, proxy.url("/other"), proxy)


async def test_answer_byte_by_byte(proxy: Proxy, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT)

    def trickle(link: Link) -> None:
        link.to_client.trickles = link.to_server.trickles = True

    proxy.on_link = trickle
    await check_whole(session, proxy.url(), proxy)


@pytest.mark.parametrize(
    "header",
    [
        {"Sec_WebSocket_Protocol": b"nobody-asked"},
        {"Sec_WebSocket_Extensions": b"permessage-deflate"},
    ],
    ids=["subprotocol", "extension"],
)
async def test_answer_with_what_nobody_asked_for(
    proxy: Proxy, make_session: SessionFactory, header: dict[str, bytes]
) -> None:
    """aiohttp overlooks it."""
    session = make_session(limit=LIMIT)
    proxy.answer = lambda link, request: link.client.write(switching(request, **header))
    ws = await session.ws_connect(proxy.url())
    assert ws.protocol is None
    assert not ws.compress
    proxy.links[0].client.close()
    assert (await ws.receive(timeout=30)).type is WSMsgType.CLOSED
    await ws.release()
    proxy.answer = None
    await check_whole(session, proxy.url(), proxy)


BEHIND_THE_ANSWER: dict[str, tuple[bytes, WSMsgType]] = {
    "message": (text("hello"), WSMsgType.TEXT),
    "close": (frame(0x88, b"\x03\xe9"), WSMsgType.CLOSE),
    "garbage": (b"\xff" * 20, WSMsgType.ERROR),
    "half a frame, then the end": (text("hello")[:4], WSMsgType.CLOSED),
}


@pytest.mark.parametrize("name", BEHIND_THE_ANSWER)
async def test_in_one_packet_with_the_answer(
    proxy: Proxy, make_session: SessionFactory, name: str
) -> None:
    """Whose handshake it was gets it; when that one has gone, nobody does."""
    data, expected = BEHIND_THE_ANSWER[name]

    def answer(link: Link, request: bytes) -> None:
        link.client.write(switching(request) + data)
        if expected is WSMsgType.CLOSED:
            link.client.close()

    session = make_session(limit=LIMIT)
    proxy.answer = answer
    ws = await session.ws_connect(proxy.url())
    assert (await ws.receive(timeout=30)).type is expected
    ws.release()
    assert session.stats().idle == (expected is WSMsgType.TEXT)
    for link in proxy.links:
        link.client.close()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    before = session.stats()
    assert await session.prewarm(proxy.url(), 1) == 1
    for link in proxy.links:
        link.client.close()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    after = session.stats()
    assert after.closed_lost + after.closed_dirty == before.closed_lost + before.closed_dirty + 1
    proxy.answer = None
    await check_whole(session, proxy.url(), proxy)


async def test_redirect_to_another_host(proxy: Proxy, make_session: SessionFactory) -> None:
    """The connection has the place that its caller asked for."""
    session = make_session(limit=LIMIT)
    async with serving(Server()) as other:
        location = f"Location: http://localhost:{other.port}/there".encode()
        proxy.answer = lambda link, request: link.client.write(status(b"307 Moved", location))
        held = [await session.ws_connect(proxy.url()) for _ in range(LIMIT)]
        assert other.open == LIMIT
        assert {request.path for request in other.requests} == {"/there"}
        (endpoint,) = session.stats_by_endpoint()
        assert endpoint.port == proxy.port
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(proxy.url(), acquire_timeout=0)
        for ws in held:
            await echo(ws)
            await ws.release()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert closed(session) == {"lost": LIMIT}
    proxy.answer = None
    await check_whole(session, proxy.url(), proxy)


# -- before the handshake --------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free: int = sock.getsockname()[1]
        return free


async def test_refused_then_there(port: int, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT)
    url = f"ws://127.0.0.1:{port}/"
    calls = [session.ws_connect(url) for _ in range(2 * LIMIT)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [aiohttp.ClientConnectorError] * 2 * LIMIT
    async with serving(Server(), port=port) as server:
        await check_whole(session, url, server)


async def test_accept_queue_full(port: int, make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT, conn_timeout=0.3)
    url = f"ws://127.0.0.1:{port}/"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        calls = [session.ws_connect(url) for _ in range(LIMIT + 1)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [aiohttp.ConnectionTimeoutError] * (
            LIMIT + 1
        )
        for filler in fillers:
            filler.close()
    async with serving(Server(), port=port) as server:
        assert session.stats().endpoints == 0
        session._pool_settings.conn_timeout = None
        await check_whole(session, url, server)


class Resolver(AbstractResolver):
    """Knows one name, and no more once it is told to fail."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.hangs = False

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("failure", ["error", "silence"])
async def test_dns(server: Server, make_session: SessionFactory, failure: str) -> None:
    resolver = Resolver()
    connector = aiohttp.TCPConnector(limit=0, resolver=resolver, use_dns_cache=False)
    session = make_session(
        limit=LIMIT,
        client_session=aiohttp.ClientSession(connector=connector),
        conn_timeout=0.2 if failure == "silence" else None,
    )
    url = f"ws://name.test:{server.port}/"
    expected: type[Exception] = aiohttp.ConnectionTimeoutError
    if failure == "error":
        resolver.error = socket.gaierror(socket.EAI_AGAIN, "try again")
        expected = aiohttp.ClientConnectorDNSError
    resolver.hangs = failure == "silence"
    calls = [session.ws_connect(url) for _ in range(2 * LIMIT)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [expected] * 2 * LIMIT
    resolver.error, resolver.hangs = None, False
    session._pool_settings.conn_timeout = None
    await check_whole(session, url, server)


async def test_name_that_does_not_exist(make_session: SessionFactory) -> None:
    session = make_session(limit=LIMIT, conn_timeout=10)
    with pytest.raises((aiohttp.ClientConnectorDNSError, aiohttp.ConnectionTimeoutError)):
        await session.ws_connect("ws://nobody.invalid/")
    assert session.stats().endpoints == 0


# -- the server goes, and comes again ------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        pytest.param("idle", marks=pytest.mark.slow),
        "in use",
        pytest.param("being read", marks=pytest.mark.slow),
    ],
)
async def test_restart_with_500_connections(
    port: int, make_session: SessionFactory, use: str
) -> None:
    count, at_once = 500, 25
    session = make_session(limit=count, max_connecting=at_once)
    url = f"ws://127.0.0.1:{port}/"
    waiting = []
    async with serving(Server(), port=port):
        held = await asyncio.gather(*[session.ws_connect(url) for _ in range(count)])
        readers = [asyncio.ensure_future(ws.receive()) for ws in held if use == "being read"]
        if use == "idle":
            await asyncio.gather(*[ws.release() for ws in held])
            assert session.stats().idle == count
        elif use == "in use":
            waiting = [asyncio.ensure_future(session.ws_connect(url)) for _ in range(10)]
            await until(lambda: session.stats().waiting == 10)
    if use == "idle":
        await until(lambda: session.stats().idle == session.stats().closing == 0)
    async with serving(Server(), port=port) as server:
        server.gate.clear()
        if use != "idle":
            messages = await asyncio.gather(*readers)
            assert {message.type for message in messages} <= {WSMsgType.CLOSED}
            conns = [ws._slot.conn for ws in held]
            await until(lambda: all(conn is None or conn.has_ended for conn in conns))
            await asyncio.gather(*[ws.release() for ws in held])
        assert closed(session) == {"lost": count}
        calls = [asyncio.ensure_future(session.ws_connect(url)) for _ in range(count)]
        await until(lambda: server.arrived >= at_once)
        await asyncio.sleep(0.05)
        assert server.arrived == session.stats().connecting == at_once
        server.gate.set()
        async with asyncio.timeout(30):
            for ws in await asyncio.gather(*waiting):
                assert not ws.reused
                await ws.release()
            held = await asyncio.gather(*calls)
        assert server.peak == count
        await asyncio.gather(*[ws.release() for ws in held])
        assert session.stats().idle == count


# -- the end that does not come ------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["release", "exception", "close", "close without a timeout", "session"]
)
async def test_close_that_is_never_answered(
    proxy: Proxy, make_session: SessionFactory, how: str
) -> None:
    session = make_session(limit=LIMIT, close_timeout=0.2)
    options: dict[str, Any] = {}
    if how == "close without a timeout":
        # What ClientWSTimeout(ws_receive=...) makes of ws_close.
        options = {"timeout": aiohttp.ClientWSTimeout(ws_receive=600.0)}
    held = [await session.ws_connect(proxy.url(), **options) for _ in range(LIMIT)]
    for link in list(proxy.links):
        link.swallow()
        link.ignores_end_of_client = True
    waiter = asyncio.ensure_future(session.ws_connect(proxy.url(), **options))
    async with asyncio.timeout(30):
        for ws in held:
            if how == "release":
                ws._waiting = True
                completion = ws.release()
            elif how == "exception":
                with pytest.raises(ZeroDivisionError):
                    async with ws:
                        raise ZeroDivisionError
            elif how != "session":
                assert await ws.close()
        if how == "release":
            await completion
        if how == "session":
            await session.close()
            with pytest.raises(RuntimeError, match="closed"):
                await waiter
            return
        await (await waiter).release()
    await check_whole(session, proxy.url(), proxy, **options)


@pytest.mark.parametrize("fault", [reset, end, cut_and_end, garbage], ids=lambda f: f.__name__)
@pytest.mark.parametrize("how", ["close", "release"])
async def test_end_in_the_closing_handshake(
    proxy: Proxy, make_session: SessionFactory, how: str, fault: Callable[[Link], None]
) -> None:
    session = make_session(limit=LIMIT, close_timeout=600)
    ws = await session.ws_connect(proxy.url(), timeout=aiohttp.ClientWSTimeout(ws_close=None))
    proxy.links[0].to_server.swallows = True
    if how == "release":
        ws._waiting = True
    closing = asyncio.ensure_future(ws.close() if how == "close" else ws.release())
    await until(lambda: session.stats().closing)
    await asyncio.sleep(0.02)
    assert not closing.done()
    fault(proxy.links[0])
    await asyncio.wait_for(closing, 30)
    assert closed(session) == {"user" if how == "close" else "dirty": 1}
    await check_whole(session, proxy.url(), proxy)


# -- pings ---------------------------------------------------------------------------------------


async def test_1000_pings_in_a_second_while_idle(
    proxy: Proxy, server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=LIMIT)
    await idle(session, proxy.url())
    link = proxy.links[0]
    before = link.to_server.passed
    for _ in range(100):
        for _ in range(10):
            await server.sockets[0].ping(b"1234")
        await asyncio.sleep(0.01)
    # Each answered: two bytes, a mask, the payload.
    await until(lambda: link.to_server.passed == before + 1_000 * (2 + 4 + 4))
    assert session.stats().idle == 1
    await check_whole(session, proxy.url(), proxy)
    assert not closed(session)


@pytest.mark.parametrize("count", [1_000, 20_000])
async def test_pings_to_one_that_does_not_receive(
    server: Server, make_session: SessionFactory, count: int
) -> None:
    """They are answered at release, and it is pooled."""
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(server.url())
    buffer, protocol = ws._reader._buffer, ws._conn.protocol
    for _ in range(count):
        await server.sockets[0].ping()
    # aiohttp stops reading at some point; before 3.14 only if pings have a payload.
    await until(lambda: len(buffer) == count or protocol._reading_paused)
    await ws.release()
    assert session.stats().idle == 1
    assert not buffer
    assert not protocol._reading_paused
    await check_whole(session, server.url(), server)
    assert not closed(session)


# -- in the same turn of the loop ------------------------------------------------------------------

ARRIVALS: dict[str, bytes] = {
    "message": text("for the one before"),
    "half a message": text("for the one before")[:9],
    "ping and message": frame(0x89) + text("for the one before"),
    "close": frame(0x88, b"\x03\xe8"),
    "end": b"",
}


def arrive(conn: Any, data: bytes) -> None:
    if data:
        conn._protocol.data_received(data)
    else:
        conn._transport.abort()
        conn._protocol.connection_lost(None)


@pytest.mark.parametrize("name", ARRIVALS)
@pytest.mark.parametrize("order", ["before release", "after release"])
async def test_arrival_in_the_turn_of_a_release(
    server: Server, make_session: SessionFactory, order: str, name: str
) -> None:
    session = make_session(limit=LIMIT)
    ws = await session.ws_connect(server.url())
    conn = ws._slot.conn
    if order == "before release":
        arrive(conn, ARRIVALS[name])
        ws.release()
    else:
        ws.release()
        arrive(conn, ARRIVALS[name])
    assert session.stats().idle == 0
    stats = session.stats()
    assert stats.closed_lost + stats.closed_dirty == 1
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        await echo(ws)
    await check_whole(session, server.url(), server)


@pytest.mark.parametrize("name", ARRIVALS)
async def test_arrival_in_the_turn_of_a_hand_out(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    """Just before it: the caller gets another connection."""
    session = make_session(limit=LIMIT)
    await idle(session, server.url())
    (slot,) = session._pool.slots()
    loop = asyncio.get_running_loop()
    loop.call_soon(arrive, slot.conn, ARRIVALS[name])
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    ws = await caller
    assert not ws.reused
    await echo(ws)
    await ws.release()
    await check_whole(session, server.url(), server)


@pytest.mark.parametrize("name", ARRIVALS)
async def test_arrival_between_hand_over_and_waking(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    """The waiter keeps its turn, and gets another connection."""
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    conn = ws._slot.conn
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    later = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 2)
    ws.release()
    # Given, and not woken yet.
    arrive(conn, ARRIVALS[name])
    fresh = await asyncio.wait_for(caller, 30)
    assert fresh._slot.conn is not conn
    assert not later.done()
    await echo(fresh)
    await fresh.release()
    await (await asyncio.wait_for(later, 30)).release()
    assert server.handshakes == 2
    await check_whole(session, server.url(), server)
