"""TLS connections whose buffers the pool keeps small: everything still arrives, and as it was sent.

On other loops, nothing is replaced; the same must hold.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import random
import shutil
import ssl
import subprocess
import sys
import threading
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from weakref import ref

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import WSMsgType, web

from aiowebsocketclient import WebSocketClientSession, tls_memory
from aiowebsocketclient._aiohttp_private import TLS_NAMES
from aiowebsocketclient.tls_memory import _SharingObject, _SmallProtocol

from .conftest import SessionFactory, until
from .proxy import Proxy, proxying
from .servers import Server, serving
from .test_faults_proxies import forward_proxy

MB = 1 << 20
RECORD = 1 << 14
SIZES = (1, 125, 126, RECORD - 1, RECORD, RECORD + 1, 65_536, 80_000, 100_000, MB, 4 * MB - 1)


class Echo(Server):
    """Sends binary messages back, too."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=0, timeout=1.0)
        await ws.prepare(request)
        self.sockets.append(ws)
        transport = request.transport
        assert transport is not None
        self.transports.append(transport)
        try:
            async for message in ws:
                if request.path == "/slow":
                    await self.gate.wait()
                if message.type is WSMsgType.TEXT:
                    await ws.send_bytes(random.Random(message.data).randbytes(int(message.data)))
                else:
                    await ws.send_bytes(message.data)
        finally:
            self.transports.remove(transport)
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
    """Return whether the loop is one whose connections share buffers: not on Windows by default."""
    return isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)


def protocol_of(ws: Any) -> Any:
    return ws._conn.transport._ssl_protocol


class Bio:
    """Stands in front of a BIO, and records how much it has ever contained."""

    def __init__(self, bio: ssl.MemoryBIO) -> None:
        self._bio = bio
        self.most = 0
        #: Called once, after something was written.
        self.on_write: Callable[[], object] | None = None

    def write(self, data: Any) -> int:
        written = self._bio.write(data)
        self.most = max(self.most, self.pending)
        if data and self.on_write is not None:
            on_write, self.on_write = self.on_write, None
            on_write()
        return written

    def read(self) -> bytes:
        self.most = max(self.most, self.pending)
        return self._bio.read()

    @property
    def pending(self) -> int:
        return self._bio.pending


def recorded(protocol: Any) -> tuple[Bio, Bio]:
    """Record what the BIOs of a connection contain, which keep that size."""
    sslobj = protocol._sslobj
    protocol._incoming = sslobj.incoming = Bio(protocol._incoming)
    protocol._outgoing = sslobj.outgoing = Bio(protocol._outgoing)
    return protocol._incoming, protocol._outgoing


async def sharing_connection(
    port: int, context: ssl.SSLContext, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that is no WebSocket, with the context that the pool uses."""
    sharing = tls_memory.sharing(context)
    return await asyncio.open_connection("127.0.0.1", port, ssl=sharing, **options)


async def small_connection(
    port: int, context: ssl.SSLContext, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that is no WebSocket, as the pool does."""
    reader, writer = await sharing_connection(port, context, **options)
    assert tls_memory.shrink(writer.transport)
    return reader, writer


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
        bios = recorded(protocol_of(ws)) if is_asyncio() else ()
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
        assert not any(bio.most for bio in bios)
    assert session.stats().idle == 1


async def test_a_server_that_does_not_read(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The sender waits as without TLS, and nothing is lost or out of order."""
    echo.gate.clear()
    async with make_session().ws_connect(echo.url("/slow"), ssl=client_tls, max_msg_size=0) as ws:
        bios = recorded(protocol_of(ws)) if is_asyncio() else ()
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
        assert not any(bio.most for bio in bios)


class Counted(asyncio.Protocol):
    """Records when it must not write, and how much it had written by then."""

    def __init__(self) -> None:
        self.written = 0
        self.paused: list[int] = []
        self.resumed: list[int] = []

    def pause_writing(self) -> None:
        self.paused.append(self.written)

    def resume_writing(self) -> None:
        self.resumed.append(self.written)


@pytest.mark.parametrize("size", [1_000_000, 24_000_000])
async def test_a_sender_waits_as_with_asyncio_alone(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, size: int
) -> None:
    """asyncio takes any amount, until the transport is full, and then what its limit allows."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    go_on = asyncio.Event()
    received = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await go_on.wait()
        while data := await reader.read(MB):
            received += len(data)
        writer.close()

    async def use(port: int, context: ssl.SSLContext) -> None:
        transport: Any
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Counted, "127.0.0.1", port, ssl=context
        )
        if context is not client_tls:
            assert tls_memory.shrink(transport)
        found = transport._ssl_protocol
        while not found._ssl_writing_paused:
            protocol.written += size
            transport.write(bytes(size))
            # All of it counts as sent.
            assert transport.get_write_buffer_size() == 0
        for _ in range(2):
            assert not protocol.paused
            protocol.written += 300_000
            transport.write(bytes(300_000))
        assert protocol.paused == [protocol.written]
        assert 600_000 <= transport.get_write_buffer_size() < 610_000
        go_on.set()
        await until(lambda: received == protocol.written)
        assert protocol.resumed == protocol.paused
        assert transport.get_write_buffer_size() == 0
        # Also from here on.
        go_on.clear()
        protocol.written += size
        transport.write(bytes(size))
        assert transport.get_write_buffer_size() == 0
        assert protocol.resumed == protocol.paused
        go_on.set()
        await until(lambda: received == protocol.written)
        transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        for context in (client_tls, tls_memory.sharing(client_tls)):
            received = 0
            go_on.clear()
            await use(port, context)


async def test_a_large_message_to_a_server_that_does_not_read(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The sender need not wait, as with aiohttp alone; the server may want to send first."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    echo.gate.clear()
    async with make_session().ws_connect(echo.url("/slow"), ssl=client_tls, max_msg_size=0) as ws:
        await ws.send_bytes(bytes(24 * MB))
        assert protocol_of(ws)._write_backlog
        echo.gate.set()
        assert await ws.receive_bytes() == bytes(24 * MB)


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


@pytest.mark.parametrize("end", ["close", "abort", "notify", "FIN"])
async def test_the_server_ends_it(
    echo: Echo, proxy: Proxy, make_session: SessionFactory, client_tls: ssl.SSLContext, end: str
) -> None:
    session = make_session()
    async with session.ws_connect(proxy.url(scheme="wss"), ssl=client_tls) as ws:
        await check(ws, MB)
    if end == "FIN":
        # TLS is not closed.
        proxy.links[0].end()
    elif end == "close":
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
        pytest.skip("nothing is replaced on this loop")
    sent = random.Random(0).randbytes(100_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await small_connection(port, client_tls)
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
        pytest.skip("nothing is replaced on this loop")
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
        pytest.skip("nothing is replaced on this loop")
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
        _, writer = await small_connection(port, client_tls)
        transport: Any = writer.transport
        protocol = transport._ssl_protocol
        _, outgoing = recorded(protocol)
        sent = random.Random(size).randbytes(total)
        for at in range(0, total, size):
            transport.write(sent[at : at + size])
        assert protocol._ssl_writing_paused
        assert protocol._write_buffer_size == sum(map(len, protocol._write_backlog)) > 0
        if ends == "stays":
            assert not outgoing.most
            go_on.set()
            await until(lambda: not protocol._write_backlog)
            assert not outgoing.most
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
        other: Any = await session.ws_connect(server.url("/other"), ssl=client_tls)
        async with session.ws_connect(server.url(), ssl=client_tls) as ws:
            await check(ws, 1)
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: told.append(found))
        # Under the server's TLS.
        under: Any = server.transports[1].get_extra_info("socket")
        await asyncio.get_running_loop().run_in_executor(None, _send_all, under, b"\xff" * 60_000)
        await until(lambda: not session.stats().idle)
        assert [type(found["exception"]) for found in told] == [ssl.SSLError] * len(told)
        # Nothing of it is left for another connection.
        await check(other, MB, 1)
        if is_asyncio():
            workspace = protocol_of(other)._sslobj.workspace
            assert workspace.user is None
            assert not workspace.incoming.pending
            assert not workspace.outgoing.pending
        await other.release()


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


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_handshake_of_many_certificates(
    authority: trustme.CA, make_session: SessionFactory, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The answer of the server is larger than a piece."""
    chain = tmp_path / "chain.pem"
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    chain.write_bytes(issued + 60 * authority.cert_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    mine = ssl.create_default_context()
    authority.configure_trust(mine)
    mine.maximum_version = version
    async with (
        serving(Echo(), ssl_context=context) as server,
        make_session(conn_timeout=30.0).ws_connect(server.url(), ssl=mine) as ws,
    ):
        await check(ws, MB, 1)


# What OpenSSL's server does for a letter: agrees on new keys for both directions, or for one (RFC
# 8446, 4.6.3), or on all by a new handshake.
ORDERS = [("-tls1_3", "K"), ("-tls1_3", "k"), ("-tls1_2", "r")]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("version", "order"), ORDERS)
async def test_the_server_wants_another_key(
    authority: Any,
    client_tls: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    order: str,
) -> None:
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    sizes: list[int] = []
    decrypt: Any = _SmallProtocol._decrypt
    to_send: list[bytes] = []

    def noted(self: Any, sslobj: Any, nbytes: int, decrypted: list[bytes]) -> Any:
        result = decrypt(self, sslobj, nbytes, decrypted)
        sizes.append(nbytes)
        if to_send:
            # As soon as OpenSSL knows. A new handshake has begun.
            self._app_transport.write(to_send.pop())
        return result

    monkeypatch.setattr(_SmallProtocol, "_decrypt", noted)
    certificate = tmp_path / "server.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_server", "-accept", "127.0.0.1:0", version, "-cert", str(certificate)),
        *("-key", str(certificate)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while not (said := await process.stdout.readline()).startswith(b"ACCEPT"):
            assert said
        port = int(said.rpartition(b":")[2])
        reader, writer = await small_connection(port, client_tls)
        protocol: Any = writer.transport._ssl_protocol  # type: ignore[attr-defined]
        process.stdin.write(b"\xff")
        # The tickets come before.
        assert await reader.readexactly(1) == b"\xff"
        for number in range(3):
            # No letters: they are orders to the server, and the server says more than it receives.
            sent = bytes(random.Random(number).choices(range(128, 256), k=40_000))
            sizes.clear()
            if number:
                to_send.append(sent)
            process.stdin.write(order.encode() + b"\n")
            await until(lambda: sizes)
            assert not protocol._outgoing.pending
            if not number:
                writer.write(sent)
            process.stdin.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            writer.write(sent)
            received = b""
            while len(received) < 2 * len(sent):
                received += bytes(byte for byte in await process.stdout.read(MB) if byte > 127)
            assert received == 2 * sent
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def https_proxy(server_tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Serve CONNECT inside TLS; yields the port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(MB):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        host, port = request.split()[1].split(b":")
        server = await asyncio.open_connection(host.decode(), int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, server[1]), pump(server[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as proxy:
        yield proxy.sockets[0].getsockname()[1]


@pytest.mark.parametrize("proxy_is_tls", [False, True])
async def test_through_a_forward_proxy(
    echo: Echo,
    make_session: SessionFactory,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    proxy_is_tls: bool,
) -> None:
    """TLS begins on an open connection; or inside TLS, where the connection stays as it is."""
    session = make_session()
    async with AsyncExitStack() as stack:
        if proxy_is_tls:
            port = await stack.enter_async_context(https_proxy(server_tls))
            url = f"https://127.0.0.1:{port}/"
        else:
            url = (await stack.enter_async_context(forward_proxy(echo))).url(scheme="http")
        for _ in range(2):
            async with session.ws_connect(
                echo.url(), proxy=url, ssl=client_tls, max_msg_size=0
            ) as ws:
                await check(ws, *SIZES)
                if is_asyncio():
                    protocol = protocol_of(ws)
                    assert ws.get_extra_info("sslcontext") is client_tls
                    assert isinstance(protocol, _SmallProtocol) != proxy_is_tls
                    # Sharing would only take time.
                    assert isinstance(protocol._sslobj, _SharingObject) != proxy_is_tls
        assert ws.reused
        await session.close()


async def test_a_detached_connection(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    ws = await make_session().ws_connect(echo.url(), ssl=client_tls)
    ws.detach()
    await check(ws, MB, 1)
    await ws.close()
    await until(lambda: echo.close_codes == [1000])


# -- a workspace -----------------------------------------------------------------------------------


async def test_one_workspace_for_all_connections_of_a_loop(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    handles = [await session.ws_connect(echo.url(), ssl=client_tls) for _ in range(3)]
    if is_asyncio():
        protocols = [protocol_of(ws) for ws in handles]
        assert {type(protocol) for protocol in protocols} == {_SmallProtocol}
        (buffer,) = {id(protocol._ssl_buffer) for protocol in protocols}
        assert {id(protocol._ssl_buffer_view) for protocol in protocols} == {buffer}
        (workspace,) = {protocol._sslobj.workspace for protocol in protocols}
        assert id(workspace.buffer) == buffer
    # Each with its own data, in turn and at the same time.
    await asyncio.gather(*(check(ws, *(n * 10_001 for n in range(1, 30))) for ws in handles))
    for ws in handles:
        await ws.release()


@pytest.mark.slow
async def test_many_connections_do_not_mix(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """Handshakes, messages of all sizes and ends at the same time."""
    session = make_session(max_connecting=20)

    async def use(number: int) -> None:
        draw = random.Random(number)
        for _ in range(4):
            async with session.ws_connect(echo.url(), ssl=client_tls, max_msg_size=0) as ws:
                for _ in range(5):
                    size = draw.choice((1, 100, 5_000, 20_000, 150_000, 500_000))
                    data = draw.randbytes(size)
                    await ws.send_bytes(data)
                    assert await ws.receive_bytes() == data
                if draw.random() < 0.3:
                    await ws.close()

    await asyncio.gather(*(use(number) for number in range(40)))
    assert not session.stats().closed_lost


def test_two_loops_at_once(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """Each has a workspace, with the same contexts."""
    workspaces = []

    async def use(number: int) -> None:
        async with (
            serving(Echo(), ssl_context=server_tls) as server,
            WebSocketClientSession() as session,
            session.ws_connect(server.url(), ssl=client_tls, max_msg_size=0) as ws,
        ):
            workspaces.append(protocol_of(ws)._sslobj.workspace)
            for size in range(number, 1_000_000, 50_021):
                await check(ws, size)

    def run(number: int) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(use(number))

    with ThreadPoolExecutor() as threads:
        for running in [threads.submit(run, number) for number in range(1, 4)]:
            running.result()
    assert len(set(workspaces)) == 3


async def test_the_workspace_of_a_loop_ends_with_it() -> None:
    def run() -> None:
        loop = asyncio.new_event_loop()
        tls_memory._workspaces[loop] = tls_memory._Workspace()
        loop.close()

    before = len(tls_memory._workspaces)
    await asyncio.to_thread(run)
    gc.collect()
    assert len(tls_memory._workspaces) <= before


async def test_a_context_is_collected(
    echo: Echo, make_session: SessionFactory, authority: Any
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    session = make_session()
    ws = await session.ws_connect(echo.url(), ssl=context)
    seen = ref(context)
    assert (id(context) in tls_memory._contexts) == is_asyncio()
    await ws.close()
    await session.close()
    del ws, context, session
    await until(lambda: gc.collect() + 1 and seen() is None)


async def test_what_a_connection_tells(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The context is the user's."""
    async with make_session().ws_connect(echo.url(), ssl=client_tls) as ws:
        assert ws.get_extra_info("sslcontext") is client_tls
        found = ws.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject) or not is_asyncio()
        assert found.context is client_tls
        assert found.server_hostname == "127.0.0.1"
        assert found.selected_alpn_protocol() is None
        assert not found.pending()


# -- a finalizer, and another thread ---------------------------------------------------------------


async def two_connections(
    echo: Echo, session: WebSocketClientSession[Any], client_tls: ssl.SSLContext
) -> tuple[Any, Any]:
    """Return one connection, and another with another handshake."""
    return (
        await session.ws_connect(echo.url(), ssl=client_tls, max_msg_size=0),
        await session.ws_connect(echo.url("/other"), ssl=client_tls, max_msg_size=0),
    )


@pytest.mark.parametrize("what", ["close", "send", "abort", "read"])
@pytest.mark.parametrize("when", ["decrypts", "encrypts", "shakes hands"])
async def test_an_operation_that_a_finalizer_interrupts(
    echo: Echo,
    make_session: SessionFactory,
    authority: Any,
    client_tls: ssl.SSLContext,
    when: str,
    what: str,
) -> None:
    """A finalizer runs at any moment, and may use another connection of the loop."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    session = make_session()
    ws, other = await two_connections(echo, session, client_tls)
    protocol, transport = protocol_of(other), other._conn.transport
    workspace = protocol._sslobj.workspace
    users = []

    def finalize() -> None:
        users.append(workspace.user)
        if what == "close":
            transport.close()
        elif what == "abort":
            transport.abort()
        elif what == "send":
            other._writer.transport.write(b"\x89\x80\0\0\0\0" * 10_000)
        else:
            protocol._do_read()

    real = workspace.incoming
    if when == "encrypts":
        protocol_of(ws)._write_backlog = Interrupted(finalize)
    elif when == "decrypts":
        workspace.incoming = Bio(real)
        workspace.incoming.on_write = finalize
    else:
        # Called by OpenSSL for each part of a handshake.
        context: Any = ssl.create_default_context()
        authority.configure_trust(context)
        calls = itertools.count()
        context._msg_callback = lambda *_: finalize() if next(calls) == 4 else None
        async with session.ws_connect(echo.url(), ssl=context) as third:
            await check(third, MB, 1)
        context._msg_callback = None
    await check(ws, MB, 1)
    workspace.incoming = real
    assert users[0] is not None
    if what in ("send", "read"):
        await check(other, MB, 1)
    else:
        await until(lambda: transport.is_closing() and protocol._transport is None)
    await other.release()
    await check(ws, 300_000, 1)
    assert workspace.user is None
    assert not workspace.incoming.pending
    assert not workspace.outgoing.pending
    await ws.release()


class Interrupted(deque[Any]):
    """A backlog that calls a function once, while its first data is being encrypted."""

    def __init__(self, finalize: Callable[[], object]) -> None:
        super().__init__()
        self._finalize: Callable[[], object] | None = finalize

    def __delitem__(self, index: Any) -> None:
        super().__delitem__(index)
        if self._finalize is not None:
            finalize, self._finalize = self._finalize, None
            finalize()


async def test_a_finalizer_that_sends_on_the_connection_that_it_interrupts(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """Its data comes after what is being encrypted, and not twice."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with make_session().ws_connect(echo.url(), ssl=client_tls) as ws:
        transport: Any = ws._conn.transport  # type: ignore[union-attr]
        # A masked PING, with an empty mask.
        ping = b"\x89\x80\0\0\0\0"
        protocol_of(ws)._write_backlog = Interrupted(lambda: transport.write(ping))
        await check(ws, 50_000, MB, 1)


async def test_another_thread(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The garbage collector runs in any thread, and aiohttp closes lost connections in it."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    ws, other = await two_connections(echo, make_session(), client_tls)
    sslobj, ended = protocol_of(other)._sslobj, threading.Event()
    # The server does not get it.
    sslobj.outgoing = ssl.MemoryBIO()

    def use() -> int:
        count = 0
        while not ended.is_set():
            sslobj.write(bytes(20_000))
            sslobj.outgoing.read()
            with contextlib.suppress(ssl.SSLWantReadError):
                sslobj.read()
            count += 1
        return count

    using = asyncio.get_running_loop().run_in_executor(None, use)
    try:
        for size in range(1, 2_000_000, 50_021):
            await check(ws, size)
    finally:
        ended.set()
    assert await using > 1
    assert not sslobj.workspace.incoming.pending
    await ws.release()
    other._conn.transport.abort()
    await other.release()


# -- what else uses the protocol -------------------------------------------------------------------


async def test_items_that_are_larger_than_a_byte(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        reader, writer = await small_connection(port, client_tls)
        protocol: Any = writer.transport._ssl_protocol  # type: ignore[attr-defined]
        for size in (1, 10_000, 500_000):
            items = array("d", range(size))
            writer.transport.write(memoryview(items))
            assert await reader.readexactly(size * 8) == items.tobytes()
            assert protocol._write_buffer_size == 0
        writer.transport.writelines([b"", b"1", memoryview(b"23"), bytearray(b"4"), b""])
        assert await reader.readexactly(4) == b"1234"
        writer.close()
        await writer.wait_closed()


async def test_a_protocol_that_provides_its_memory(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")

    class Buffered(asyncio.BufferedProtocol):
        received = b""

        def get_buffer(self, sizehint: int) -> memoryview:
            # asyncio takes slices of it.
            self.buffer = memoryview(bytearray(30_000))
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.buffer[:nbytes]

    async with echoing(server_tls) as port:
        _, writer = await small_connection(port, client_tls)
        transport: Any = writer.transport
        protocol = Buffered()
        transport.set_protocol(protocol)
        sent = random.Random(0).randbytes(MB)
        transport.write(sent)
        await until(lambda: len(protocol.received) == MB)
        assert protocol.received == sent
        # And back.
        streams = asyncio.StreamReaderProtocol(reader := asyncio.StreamReader())
        transport.set_protocol(streams)
        transport.write(sent)
        assert await reader.readexactly(MB) == sent
        transport.abort()
        await until(lambda: transport._ssl_protocol._transport is None)


@pytest.mark.parametrize("high", [0, 1, 1_000_000])
async def test_limits_of_the_read_buffer(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, high: int
) -> None:
    """They never stop a connection, because nothing waits in its BIO."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        reader, writer = await small_connection(port, client_tls)
        transport: Any = writer.transport
        transport.set_read_buffer_limits(high=high)
        sent = random.Random(0).randbytes(3 * MB)
        transport.write(sent)
        transport.set_read_buffer_limits(high=high)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()
        await writer.wait_closed()


async def test_a_protocol_that_pauses_itself(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """It gets nothing before it resumes, and nothing waits in the BIO."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    loop = asyncio.get_running_loop()

    class Paused(asyncio.Protocol):
        received = bytearray()
        is_paused = False
        is_open = True

        def data_received(self, data: bytes) -> None:
            assert not self.is_paused
            self.received.extend(data)
            transport.pause_reading()
            self.is_paused = True
            # Sometimes in the same turn of the loop.
            delay = len(self.received) % 3 * 0.0005
            loop.call_later(delay, self.resume) if delay else loop.call_soon(self.resume)

        def resume(self) -> None:
            self.is_paused = False
            transport.resume_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            self.is_open = False

    async with echoing(server_tls) as port:
        _, writer = await small_connection(port, client_tls)
        transport: Any = writer.transport
        protocol = Paused()
        transport.set_protocol(protocol)
        incoming, _ = recorded(transport._ssl_protocol)
        sent = random.Random(0).randbytes(4 * MB)
        transport.write(sent)
        await until(lambda: len(protocol.received) == len(sent))
        assert protocol.received == sent
        assert not incoming.most
        transport.abort()
        await until(lambda: not protocol.is_open)


async def test_a_pause_between_reads(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """The socket is not read, so that nothing waits in the BIO."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    sent = random.Random(0).randbytes(16 * MB)
    served: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer.transport)
        await reader.readexactly(1)
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        reader, writer = await small_connection(
            server.sockets[0].getsockname()[1], client_tls, limit=len(sent)
        )
        transport: Any = writer.transport
        incoming, _ = recorded(transport._ssl_protocol)
        transport.pause_reading()
        writer.write(b"x")
        # The kernel takes no more.
        await until(lambda: served and served[0].get_write_buffer_size())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not incoming.most
        transport.resume_reading()
        assert await reader.readexactly(len(sent)) == sent
        assert not incoming.most
        writer.close()
        await writer.wait_closed()


async def test_a_pause_before_the_connection_is_made_small(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        reader, writer = await sharing_connection(port, client_tls)
        transport: Any = writer.transport
        transport.pause_reading()
        assert tls_memory.shrink(transport)
        assert not transport._ssl_protocol._transport.is_reading()
        writer.write(b"x")
        transport.resume_reading()
        assert await reader.readexactly(1) == b"x"
        assert transport._ssl_protocol._transport.is_reading()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("delay", [False, True])
async def test_an_end_during_a_pause(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, delay: bool
) -> None:
    """The answer of the server is read."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        # It must not end because of the time.
        reader, writer = await small_connection(port, client_tls, ssl_shutdown_timeout=3600)
        transport: Any = writer.transport
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        transport.pause_reading()
        if delay:
            await asyncio.sleep(0.01)
        transport.close()
        await writer.wait_closed()


async def test_a_connection_that_has_just_failed(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """It can still be made small, and then ends."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        reader, writer = await sharing_connection(port, client_tls)
        transport: Any = writer.transport
        protocol = transport._ssl_protocol
        fail, made_small = protocol._fatal_error, []

        def fail_and_shrink(*args: Any) -> None:
            fail(*args)
            made_small.append(tls_memory.shrink(transport))

        protocol._fatal_error = fail_and_shrink
        protocol._ssl_buffer_view[:5] = b"no TL"
        protocol.buffer_updated(5)
        assert made_small == [True]
        with pytest.raises(ssl.SSLError):
            await reader.read()
        assert protocol._transport is None


async def test_what_has_arrived_before_comes_first(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """If the protocol pauses before its connection is made small, its own BIO contains data."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")
    async with echoing(server_tls) as port:
        reader, writer = await sharing_connection(port, client_tls)
        transport: Any = writer.transport
        protocol = transport._ssl_protocol
        sent = random.Random(0).randbytes(60_000)
        transport.pause_reading()
        writer.write(sent[:30_000])
        await until(lambda: protocol._incoming.pending > 30_000)
        writer.write(sent[30_000:])
        # It has been read from the socket of the server, and what comes back is in the kernel.
        under = transport.get_extra_info("socket")
        protocol._transport.pause_reading()
        await until(lambda: available(under) > 30_000)
        assert tls_memory.shrink(transport)
        transport.resume_reading()
        # In the same turn, as if the socket had been ready before.
        protocol._transport.resume_reading()
        protocol._transport._read_ready()
        assert await reader.readexactly(len(sent)) == sent
        assert isinstance(protocol, _SmallProtocol)
        # Nothing is decrypted while the protocol pauses, even if the socket is read.
        transport.pause_reading()
        writer.write(b"x")
        await until(lambda: available(under))
        protocol._transport._read_ready()
        assert protocol._incoming.pending
        assert not reader._buffer  # type: ignore[attr-defined]
        transport.resume_reading()
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await writer.wait_closed()


async def test_many_tickets(authority: Any, client_tls: ssl.SSLContext) -> None:
    """OpenSSL reads past them to data, of which it gets a part at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.num_tickets = 40
    sent = random.Random(0).randbytes(RECORD)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await sharing_connection(port, client_tls)
        assert await reader.readexactly(RECORD) == sent
        writer.close()
        await writer.wait_closed()


def available(sock: Any) -> int:
    """Return how many bytes the kernel has for a socket."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_protocol_that_raises(
    echo: Echo,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    make_session: SessionFactory,
    size: int,
) -> None:
    """Only its own connection ends, with the same report as asyncio's."""
    if not is_asyncio():
        pytest.skip("nothing is replaced on this loop")

    lost: list[Any] = []

    class Raising(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(type(exc))

    ws = await make_session().ws_connect(echo.url(), ssl=client_tls)
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, found: told.append(found))
    async with echoing(server_tls) as port:
        _, writer = await small_connection(port, client_tls)
        transport: Any = writer.transport
        transport.set_protocol(Raising())
        transport.write(bytes(size))
        await until(lambda: lost)
    assert lost == [ZeroDivisionError]
    assert [type(found["exception"]) for found in told] == [ZeroDivisionError]
    assert told[0]["message"] == "Fatal error on SSL protocol"
    await check(ws, MB, 1)
    await ws.release()


async def test_an_abort_while_data_waits(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    echo.gate.clear()
    session = make_session()
    ws, other = await two_connections(echo, session, client_tls)
    slow: Any = await session.ws_connect(echo.url("/slow"), ssl=client_tls, max_msg_size=0)
    sending = [asyncio.create_task(slow.send_bytes(bytes(MB))) for _ in range(24)]
    await until(lambda: slow._conn.protocol._paused)
    slow._conn.transport.abort()
    await asyncio.gather(*sending, return_exceptions=True)
    await until(lambda: slow._conn is None or slow._conn.protocol.transport is None)
    echo.gate.set()
    await slow.release()
    for each in (ws, other):
        await check(each, MB, 1)
        await each.release()


@asynccontextmanager
async def echoing(server_tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Serve connections that are no WebSockets; yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(MB):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls) as server:
        yield server.sockets[0].getsockname()[1]


# -- where it applies ------------------------------------------------------------------------------


async def fingerprint_of(server: Server) -> aiohttp.Fingerprint:
    address = ("127.0.0.1", server.port)
    found = await asyncio.to_thread(ssl.get_server_certificate, address)
    return aiohttp.Fingerprint(sha256(ssl.PEM_cert_to_DER_cert(found)).digest())


@pytest.mark.parametrize("given", ["context", "default", "connector", "unverified", "fingerprint"])
@pytest.mark.parametrize("whose", ["pool", "user"])
async def test_every_context(
    echo: Echo,
    make_session: SessionFactory,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    whose: str,
) -> None:
    """With the pool's own client session, and with a user's."""
    # aiohttp's knows no authority of the tests.
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", client_tls)
    options: dict[str, Any] = {}
    if given == "context":
        options["ssl"] = client_tls
    elif given == "unverified":
        options["ssl"] = False
    elif given == "fingerprint":
        options["ssl"] = await fingerprint_of(echo)
    settings: dict[str, Any] = {}
    if whose == "user":
        tls: Any = client_tls if given == "connector" else True
        connector = aiohttp.TCPConnector(ssl=tls)
        settings["client_session"] = aiohttp.ClientSession(connector=connector)
    async with make_session(**settings).ws_connect(echo.url(), **options) as ws:
        await check(ws, MB, 1)
        if is_asyncio():
            assert type(protocol_of(ws)) is _SmallProtocol


async def test_other_requests_of_a_users_session(
    echo: Echo, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """They are left alone, also while the pool connects with the session."""
    echo.gate.set()
    async with aiohttp.ClientSession() as client_session:
        session = make_session(client_session=client_session, client_session_owner=False)

        async def use_pool() -> None:
            async with session.ws_connect(echo.url(), ssl=client_tls) as ws:
                await check(ws, MB, 1)
                if is_asyncio():
                    assert isinstance(protocol_of(ws), _SmallProtocol)

        async def use() -> None:
            async with client_session.ws_connect(echo.url("/other"), ssl=client_tls) as ws:
                await check(ws, MB, 1)
                found = ws.get_extra_info("ssl_object")
                assert not isinstance(found, _SharingObject)
                assert ws.get_extra_info("sslcontext") is client_tls

        for _ in range(3):
            await asyncio.gather(*(use_pool() for _ in range(5)), *(use() for _ in range(5)))


async def test_a_connection_that_becomes_no_websocket(
    server_tls: ssl.SSLContext, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    """The user's connector keeps it for the user's own requests."""
    sent = random.Random(0).randbytes(900_000)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(body=await request.read())
        return web.Response(status=401)

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls)
    await site.start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
    async with aiohttp.ClientSession() as client_session:
        session = make_session(limit=1, client_session=client_session, client_session_owner=False)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, ssl=client_tls)
        for _ in range(2):
            async with client_session.put(url, data=sent, ssl=client_tls) as response:
                found = response.connection.transport.get_extra_info("ssl_object")  # type: ignore[union-attr]
                assert isinstance(found, _SharingObject) == is_asyncio()
                assert await response.read() == sent
        await session.close()
    await runner.cleanup()


class Unhashable(ssl.SSLContext):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


class Equal(ssl.SSLContext):
    """Equal to all others, whomever they trust."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1


def trusting(authority: trustme.CA, kind: type[ssl.SSLContext]) -> ssl.SSLContext:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("kind", [Unhashable, Equal])
async def test_equality_of_contexts(
    echo: Echo, make_session: SessionFactory, authority: trustme.CA, kind: type[ssl.SSLContext]
) -> None:
    good, bad = trusting(authority, kind), kind(ssl.PROTOCOL_TLS_CLIENT)
    sessions = [
        make_session(client_session=aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
        for tls in (good, bad)
    ]
    async with sessions[0].ws_connect(echo.url()) as ws:
        await check(ws, 1)
        assert ws.get_extra_info("sslcontext") is good
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await sessions[1].ws_connect(echo.url())
    for session in sessions:
        await session.close()


async def test_a_context_for_each_connection(
    echo: Echo, make_session: SessionFactory, authority: trustme.CA
) -> None:
    """Only the connection keeps it."""
    made: list[ref[ssl.SSLContext]] = []

    class Connector(aiohttp.TCPConnector):
        def _get_ssl_context(self, req: Any) -> ssl.SSLContext:
            context = trusting(authority, ssl.SSLContext)
            made.append(ref(context))
            return context

    session = make_session(client_session=aiohttp.ClientSession(connector=Connector()))
    async with session.ws_connect(echo.url()) as ws:
        await check(ws, MB, 1)
        context = ws.get_extra_info("sslcontext")
        assert context is made[0]() is not None
    del ws, context
    await session.close()
    await until(lambda: gc.collect() + 1 and made[0]() is None)


class Wrapping(ssl.SSLContext):
    """Like that of truststore: another context makes its connections, with a class of its own."""

    def __init__(self, protocol: int) -> None:
        self.inner = ssl.SSLContext(protocol)
        self.inner.sslobject_class = type("Own", (ssl.SSLObject,), {})

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.inner.wrap_bio(*args, **options)


async def test_a_context_that_wraps_another(
    echo: Echo, make_session: SessionFactory, authority: trustme.CA
) -> None:
    context: Any = Wrapping(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context.inner)
    session = make_session()
    async with session.ws_connect(echo.url(), ssl=context) as ws:
        await check(ws, MB, 1)
        assert ws.get_extra_info("sslcontext") is context
        if is_asyncio():
            assert isinstance(protocol_of(ws), _SmallProtocol)
    seen = ref(context.inner.sslobject_class)
    await session.close()
    del ws, context, session
    await until(lambda: gc.collect() + 1 and seen() is None)


async def test_a_class_that_replaces_pythons_later(
    client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio accepts only contexts of the new class."""
    context = Wrapping(ssl.PROTOCOL_TLS_CLIENT)
    with monkeypatch.context() as patch:
        patch.setattr(ssl, "SSLContext", Wrapping)
        for each in (context, client_tls):
            assert tls_memory.sharing(each) is each
    assert (tls_memory.sharing(context) is context) is not is_asyncio()


def test_a_class_that_has_replaced_pythons() -> None:
    """Its connections are made small, too."""
    script = (
        "import ssl, asyncio, aiohttp\n"
        "class Wrapping(ssl.SSLContext):\n"
        "    def __init__(self, protocol):\n"
        "        self.number = int(protocol)\n"
        "ssl.SSLContext = Wrapping\n"
        "from aiowebsocketclient import tls_memory\n"
        "async def main():\n"
        "    context = Wrapping(ssl.PROTOCOL_TLS_CLIENT)\n"
        "    found = tls_memory.sharing(context)\n"
        "    print(found is context, isinstance(found, ssl.SSLContext))\n"
        "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop).run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False True\n", "")


class Verifying(ssl.SSLObject):
    """Like that of truststore: checks the certificate itself, after the handshake."""

    verified: ClassVar[list[str]] = []

    def do_handshake(self) -> None:
        super().do_handshake()
        self.verified.append(str(self.server_hostname))


class Counting(ssl.SSLObject):
    """Does more in a method that the pool would go past."""

    count = 0

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        Counting.count += 1
        return super().read(len, buffer)


class Slotted(ssl.SSLObject):
    __slots__ = ("more",)


@pytest.mark.parametrize("kind", [Verifying, Counting, Slotted])
async def test_a_class_of_the_users_context(
    echo: Echo, make_session: SessionFactory, authority: Any, kind: type[ssl.SSLObject]
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.sslobject_class = kind
    async with make_session().ws_connect(echo.url(), ssl=context) as ws:
        await check(ws, MB, 1)
        assert isinstance(ws.get_extra_info("ssl_object"), kind)
        if is_asyncio():
            assert isinstance(protocol_of(ws), _SmallProtocol) == (kind is not Counting)
    if kind is Verifying:
        assert Verifying.verified.pop() == "127.0.0.1"
    elif kind is Counting:
        assert Counting.count > 60


@pytest.mark.parametrize("value", ["", "1"])
def test_the_way_off(server_tls: ssl.SSLContext, authority: Any, value: str) -> None:
    """It is read when the package is imported."""
    script = (
        "import ssl, asyncio\n"
        "from aiowebsocketclient import tls_memory\n"
        "async def main():\n"
        "    context = ssl.create_default_context()\n"
        "    print(tls_memory.sharing(context) is context)\n"
        "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop).run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"AIOWEBSOCKETCLIENT_NO_TLS_MEMORY": value},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{bool(value)}\n", "")


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
        assert not tls_memory.shrink(ws._conn.transport)
