"""TLS connections whose buffers the pool keeps small: everything still arrives, and as it was sent.

On uvloop, nothing is replaced; the same must hold.
"""

import asyncio
import gc
import os
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSMsgType, web

from aiowebsocketclient import tls_memory
from aiowebsocketclient._aiohttp_private import TLS_NAMES
from aiowebsocketclient.tls_memory import PIECE, _SmallProtocol

from .conftest import SessionFactory, until
from .proxy import Proxy, proxying
from .servers import Server, serving

MB = 1 << 20
RECORD = 1 << 14
SIZES = (1, 125, 126, RECORD - 1, RECORD, RECORD + 1, PIECE, 65_536, 100_000, MB, 4 * MB - 1)

# Bytes that OpenSSL adds to a record, at most, and the largest header of a frame.
OVERHEAD = 300


class Echo(Server):
    """Sends binary messages back, too."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=0, timeout=1.0)
        await ws.prepare(request)
        self.sockets.append(ws)
        assert request.transport is not None
        self.transports.append(request.transport)
        try:
            async for message in ws:
                if request.path == "/slow":
                    await self.gate.wait()
                if message.type is WSMsgType.TEXT:
                    await ws.send_bytes(random.Random(message.data).randbytes(int(message.data)))
                else:
                    await ws.send_bytes(message.data)
        finally:
            self.transports.remove(request.transport)
            self.sockets.remove(ws)
            self.close_codes.append(ws.close_code)
        return ws


@pytest_asyncio.fixture
async def echo(server_tls: ssl.SSLContext) -> AsyncIterator[Echo]:
    async with serving(Echo(), ssl_context=server_tls) as server:
        yield server  # type: ignore[misc]


@pytest_asyncio.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with proxying(echo.port) as proxy:
        yield proxy


def is_asyncio() -> bool:
    return isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


def protocol_of(ws: Any) -> Any:
    return ws._conn.transport._ssl_protocol


class Bio:
    """Stands in front of a BIO, and records how much it has ever contained."""

    def __init__(self, bio: ssl.MemoryBIO) -> None:
        self._bio = bio
        self.most = 0
        #: The sizes of what was written.
        self.sizes: list[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        written = self._bio.write(data)
        self.most = max(self.most, self.pending)
        return written

    def read(self) -> bytes:
        self.most = max(self.most, self.pending)
        return self._bio.read()

    @property
    def pending(self) -> int:
        return self._bio.pending


def recorded(ws: Any) -> tuple[Bio, Bio]:
    protocol = protocol_of(ws)
    protocol._incoming, protocol._outgoing = Bio(protocol._incoming), Bio(protocol._outgoing)
    return protocol._incoming, protocol._outgoing


async def check(ws: aiohttp.ClientWebSocketResponse, *sizes: int) -> None:
    for size in sizes:
        data = random.Random(size).randbytes(size)
        await ws.send_bytes(data)
        assert await ws.receive_bytes() == data


async def test_messages_of_every_size(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    for _ in range(2):
        async with session.ws_connect(echo.url(), ssl=client_tls) as ws:
            await check(ws, *SIZES, *reversed(SIZES))
    assert ws.reused


async def test_many_messages_at_once_in_both_directions(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    draw = random.Random(1)
    sent = [draw.randbytes(draw.choice((1, 100, 20_000, 300_000))) for _ in range(200)]
    async with make_session().ws_connect(echo.url(), ssl=client_tls, max_msg_size=0) as ws:

        async def send() -> None:
            for data in sent:
                await ws.send_bytes(data)

        sending = asyncio.create_task(send())
        assert [await ws.receive_bytes() for _ in sent] == sent
        await sending


async def test_idle_connections_still_answer_pings(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    async with session.ws_connect(echo.url(), ssl=client_tls) as ws:
        await check(ws, MB)
    conn = ws._slot.conn
    for _ in range(10):
        before = conn.control_frames
        await echo.sockets[0].ping(b"x" * 125)
        await until(lambda before=before: conn.control_frames > before)
    async with session.ws_connect(echo.url(), ssl=client_tls) as ws:
        assert ws.reused
        await check(ws, MB, 1)


@pytest.mark.parametrize("piece", [1, 7, 1_000, 9_000])
async def test_data_that_is_cut_in_pieces(
    proxy: Proxy, make_session: SessionFactory, client_tls: ssl.SSLContext, piece: int
) -> None:
    session = make_session()
    async with session.ws_connect(proxy.url(scheme="wss"), ssl=client_tls) as ws:
        await check(ws, 200_000)
        link = proxy.links[0]
        link.to_client.budget = 0
        await ws.send_str("50000")
        receiving = asyncio.create_task(ws.receive_bytes())
        way = link.to_client
        for _ in range(5):
            # The rest stays with the proxy.
            await until(lambda: way._held)
            held, way._held = bytes(way._held), bytearray()
            way.budget = piece
            way.take(held)
            await asyncio.sleep(0.001)
        way.let_go()
        assert await receiving == random.Random("50000").randbytes(50_000)
        await check(ws, MB, 1)


async def test_a_reader_that_is_slow(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    async with session.ws_connect(echo.url(), ssl=client_tls, max_msg_size=0) as ws:
        bios = recorded(ws) if is_asyncio() else ()
        count = 40
        for _ in range(count):
            await ws.send_str(str(300_000))
        http: Any = ws._conn.protocol  # type: ignore[union-attr]
        await until(lambda: http._reading_paused)
        if is_asyncio():
            # At once: asyncio reads 256 KiB more before it stops.
            assert not protocol_of(ws)._transport.is_reading()
        for _ in range(count):
            assert await ws.receive_bytes() == random.Random("300000").randbytes(300_000)
        assert not http._reading_paused
        assert all(bio.most <= PIECE for bio in bios)
    assert session.stats().idle == 1


async def test_a_server_that_does_not_read(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The sender waits as without TLS, and nothing is lost or out of order."""
    echo.gate.clear()
    async with make_session().ws_connect(echo.url("/slow"), ssl=client_tls, max_msg_size=0) as ws:
        bios = recorded(ws) if is_asyncio() else ()
        sent = [random.Random(number).randbytes(MB) for number in range(24)]
        http: Any = ws._conn.protocol  # type: ignore[union-attr]

        async def send() -> None:
            for data in sent:
                await ws.send_bytes(data)

        sending = asyncio.create_task(send())
        await until(lambda: http._paused)
        if is_asyncio():
            protocol = protocol_of(ws)
            await until(lambda: protocol._write_buffer_size)
            assert protocol._write_buffer_size == sum(map(len, protocol._write_backlog))
        assert not sending.done()
        echo.gate.set()
        assert [await ws.receive_bytes() for _ in sent] == sent
        await sending
        assert all(bio.most <= PIECE + OVERHEAD for bio in bios)


@pytest.mark.parametrize("size", [1, MB])
async def test_what_is_sent_before_the_end_arrives(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext, size: int
) -> None:
    """Also while the transport is full: then a part waits as it is."""
    echo.gate.clear()
    session = make_session(close_timeout=30.0)
    ws = await session.ws_connect(echo.url("/slow"), ssl=client_tls, max_msg_size=0)
    http: Any = ws._conn.protocol  # type: ignore[union-attr]
    count = 24 if size == MB else 1
    sending = [asyncio.create_task(ws.send_bytes(bytes(size))) for _ in range(count)]
    if count > 1:
        await until(lambda: http._paused)
    else:
        await asyncio.gather(*sending)
    closing = asyncio.create_task(ws.close())
    await asyncio.sleep(0)
    echo.gate.set()
    await closing
    await asyncio.gather(*sending, return_exceptions=True)
    await until(lambda: echo.close_codes)
    assert echo.close_codes == [1000]


@pytest.mark.parametrize("end", ["close", "abort", "notify"])
async def test_the_server_ends_it(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext, end: str
) -> None:
    session = make_session()
    async with session.ws_connect(echo.url(), ssl=client_tls) as ws:
        await check(ws, MB)
    if end == "close":
        await echo.sockets[0].close()
    elif end == "abort":
        echo.transports[0].abort()
    else:
        # TLS is closed, without a CLOSE before.
        echo.transports[0].close()
    await until(lambda: not session.stats().idle)
    await until(lambda: not len(session._pool))
    assert session.stats().closed_lost == 1


async def test_what_arrives_with_the_end_is_received(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """More than a piece, and close_notify, in one read."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on uvloop")
    sent = random.Random(0).randbytes(100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls)
        assert tls_memory.shrink(writer.transport, asyncio.get_running_loop())
        writer.write(b"x")
        assert await reader.read(-1) == sent
        writer.close()
        await writer.wait_closed()


async def test_nothing_is_written_to_a_socket_that_has_failed(
    echo: Echo,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio logs a warning where a lost connection is written to again and again."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on uvloop")
    session = make_session()
    ws: Any = await session.ws_connect(echo.url(), ssl=client_tls)
    # The protocol is told in the next turn of the loop.
    protocol_of(ws)._transport._force_close(ConnectionResetError())
    ws._conn.transport.write(bytes(16 * MB))
    assert protocol_of(ws)._write_backlog
    await ws.release()
    await until(lambda: not len(session._pool))
    assert not caplog.text


@pytest.mark.parametrize("ends", ["stays", "closes", "closes paused"])
@pytest.mark.parametrize("size", [1_000, 10_000, 3 * MB])
async def test_what_a_full_transport_left_is_sent_later(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: str, size: int
) -> None:
    """Also if the server sends nothing, and if TLS is closed, with reading paused or not."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on uvloop")
    total = 12 * MB // size * size
    received = bytearray()
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        while len(received) < total and (data := await reader.read(MB)):
            received.extend(data)
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls)
        transport: Any = writer.transport
        assert tls_memory.shrink(transport, asyncio.get_running_loop())
        protocol = transport._ssl_protocol
        outgoing = protocol._outgoing = Bio(protocol._outgoing)
        sent = random.Random(size).randbytes(total)
        for at in range(0, total, size):
            transport.write(sent[at : at + size])
        assert protocol._ssl_writing_paused
        assert protocol._write_buffer_size == sum(map(len, protocol._write_backlog)) > 0
        if ends == "stays":
            assert outgoing.most <= PIECE + OVERHEAD
            go_on.set()
            await until(lambda: not protocol._write_backlog)
            assert outgoing.most <= PIECE + OVERHEAD
        elif ends == "closes paused":
            transport.pause_reading()
        transport.close()
        go_on.set()
        await ended.wait()
        transport.abort()
    assert received == sent


async def test_data_that_is_no_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, make_session: SessionFactory
) -> None:
    """It ends the connection, as with asyncio alone, and nothing else."""
    async with serving(Echo(), ssl_context=server_tls) as server:
        session = make_session()
        async with session.ws_connect(server.url(), ssl=client_tls) as ws:
            await check(ws, 1)
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: told.append(found))
        # Under the server's TLS.
        under: Any = server.transports[0].get_extra_info("socket")
        await asyncio.get_running_loop().run_in_executor(None, _send_all, under, b"\xff" * 60_000)
        await until(lambda: not session.stats().idle)
        assert [type(found["exception"]) for found in told] == [ssl.SSLError] * len(told)


def _send_all(under: Any, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(under.fileno(), data) :]
        except BlockingIOError:
            continue


async def test_a_new_key_is_agreed_on(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """TLS 1.3 changes its keys by itself after some 24 million records; tickets come at once."""
    async with make_session().ws_connect(echo.url(), ssl=client_tls) as ws:
        found = ws.get_extra_info("ssl_object")
        await check(ws, 1)
        assert found.version() == "TLSv1.3"
        assert found.session.has_ticket
        assert ws.get_extra_info("peercert")["subjectAltName"]
        assert ws.get_extra_info("cipher")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_every_version_of_tls(
    server_tls: ssl.SSLContext,
    authority: Any,
    make_session: SessionFactory,
    version: ssl.TLSVersion,
) -> None:
    mine = ssl.create_default_context()
    authority.configure_trust(mine)
    mine.maximum_version = mine.minimum_version = version
    async with (
        serving(Echo(), ssl_context=server_tls) as server,
        make_session().ws_connect(server.url(), ssl=mine) as ws,
    ):
        await check(ws, *SIZES)


async def test_a_detached_connection(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    ws = await make_session().ws_connect(echo.url(), ssl=client_tls)
    ws.detach()
    await check(ws, MB, 1)
    await ws.close()
    await until(lambda: echo.close_codes == [1000])


# -- where it applies ------------------------------------------------------------------------------


async def test_one_buffer_for_all_connections_of_a_loop(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    handles = [await session.ws_connect(echo.url(), ssl=client_tls) for _ in range(3)]
    if is_asyncio():
        protocols = [protocol_of(ws) for ws in handles]
        assert {type(protocol) for protocol in protocols} == {_SmallProtocol}
        assert len({id(protocol._ssl_buffer) for protocol in protocols}) == 1
        assert protocols[0]._ssl_buffer is protocols[0]._ssl_buffer_view
    # Each with its own data, in turn and at the same time.
    await asyncio.gather(*(check(ws, *(n * 10_001 for n in range(1, 30))) for ws in handles))
    for ws in handles:
        await ws.release()


async def test_the_buffer_of_a_loop_ends_with_it() -> None:
    def run() -> None:
        loop = asyncio.new_event_loop()
        tls_memory._buffers[loop] = memoryview(b"")
        loop.close()

    before = len(tls_memory._buffers)
    await asyncio.to_thread(run)
    gc.collect()
    assert len(tls_memory._buffers) <= before


@pytest.mark.parametrize("name", [*TLS_NAMES, "version"])
async def test_where_a_name_is_missing_nothing_is_changed(
    echo: Echo,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    if name == "version":
        monkeypatch.setattr("aiowebsocketclient._aiohttp_private._IS_KNOWN_PYTHON", False)
    else:
        monkeypatch.setitem(TLS_NAMES, f"{name}_of_old", TLS_NAMES[name])
    async with make_session().ws_connect(echo.url(), ssl=client_tls) as ws:
        await check(ws, MB, 1)
        if is_asyncio():
            assert not isinstance(protocol_of(ws), _SmallProtocol)


async def test_plain_connections_are_left_alone(
    server: Server, make_session: SessionFactory
) -> None:
    async with make_session().ws_connect(server.url()) as ws:
        assert ws._conn is not None
        assert not tls_memory.shrink(ws._conn.transport, asyncio.get_running_loop())
