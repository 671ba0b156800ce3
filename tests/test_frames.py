"""A message that has begun to come at release never reaches the next user, wherever it is cut."""

import asyncio
import base64
import contextlib
import hashlib
import importlib
import itertools
import random
import zlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import WSMsgType
from aiohttp.client_ws import DEFAULT_WS_CLIENT_TIMEOUT
from aiohttp.http_websocket import WebSocketWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiowebsocketclient import WebSocketClientSession, WebSocketPoolError, _aiohttp_private
from aiowebsocketclient._pool_py import ACQUIRED
from aiowebsocketclient.connecting import Forerunner
from aiowebsocketclient.connection import Connection, _read_now
from aiowebsocketclient.response import ClientWebSocketResponse

from .conftest import SessionFactory, until
from .proxy import frame

PINGS = b"\x89\x00" * 40
CONTROL = (0x89, 0x8A)


def masked(first: int, payload: bytes) -> bytes:
    key = b"\x01\x02\x03\x04"
    plain = frame(first, payload)
    header = plain[: len(plain) - len(payload)]
    hidden = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return bytes([header[0], header[1] | 0x80]) + header[2:] + key + hidden


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(0xC2, data.removesuffix(b"\x00\x00\xff\xff"))


# -- a connection without a socket, over each parser ---------------------------------------------


def parsers() -> list[Any]:
    found = []
    for name in ("reader_c", "reader_py"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(f"aiohttp._websocket.{name}"))
    return found


class Wire:
    """A connection of the pool over a real parser; what it sends goes nowhere."""

    def __init__(self, module: Any, taken: bytes = b"") -> None:
        self.ended: list[str] = []
        loop: Any = SimpleNamespace(time=lambda: 0.0)
        transport: Any = SimpleNamespace(
            is_closing=lambda: False, write=lambda data: None, abort=lambda: None
        )
        protocol: Any = SimpleNamespace(
            _paused=False,
            _reading_paused=False,
            _parser=object(),
            read_timeout=None,
            start_timeout=lambda: None,
            pause_reading=lambda: None,
            resume_reading=lambda: None,
            transport=transport,
        )
        queue = module.WebSocketDataQueue(protocol, 2**16, loop=loop)
        try:
            self.parser = module.WebSocketReader(queue, 0, True, True)
        except TypeError:  # aiohttp < 3.14
            self.parser = module.WebSocketReader(queue, 0, True)
        protocol._payload_parser = forerunner = Forerunner(self.parser)
        if taken:
            forerunner.feed_data(taken)
        response: Any = SimpleNamespace(
            connection=SimpleNamespace(protocol=protocol, transport=transport)
        )
        writer = WebSocketWriter(protocol, transport, use_mask=True)
        self.ws: Any = ClientWebSocketResponse(
            queue, writer, None, response, DEFAULT_WS_CLIENT_TIMEOUT, True, True, loop
        )
        slot: Any = SimpleNamespace(uses=1, state=ACQUIRED)
        owner: Any = SimpleNamespace(ended=lambda _, how, code: self.ended.append(how))
        self.conn = Connection(self.ws, slot, owner)

    def read(self) -> None:
        """Read like a user, up to a CLOSE."""
        buffer = self.ws._reader._buffer
        while buffer and buffer[0][0].type is not WSMsgType.CLOSE:
            _read_now(self.ws._reader)


class Piece(NamedTuple):
    """A frame, and whether it belongs to a message."""

    data: bytes
    of_message: bool
    ends_message: bool = False

    @property
    def is_close(self) -> bool:
        return self.data[0] & 0x0F == 0x8

    @property
    def is_masked(self) -> bool:
        return self.data[1] >= 0x80


payloads = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 62).map(lambda count: PINGS[: 2 * count]),
    st.sampled_from([b"x" * 125, b"x" * 126, PINGS * 3, bytes(66_000)]),
)


@st.composite
def controls(draw: st.DrawFn) -> Piece:
    make = masked if draw(st.integers(0, 9)) == 0 else frame
    return Piece(make(draw(st.sampled_from(CONTROL)), draw(payloads)[:125]), False)


@st.composite
def messages(draw: st.DrawFn) -> list[Piece]:
    kind = draw(st.sampled_from(["whole", "deflated", "masked", "parts"]))
    if kind == "deflated":
        return [Piece(deflated(draw(payloads)), True, True)]
    if kind != "parts":
        make = masked if kind == "masked" else frame
        return [Piece(make(0x82, draw(payloads)), True, True)]
    pieces = [Piece(frame(0x02, draw(payloads)), True)]
    for _ in range(draw(st.integers(0, 2))):
        pieces += draw(st.lists(controls(), max_size=2))
        pieces.append(Piece(frame(0x00, draw(payloads)), True))
    pieces += draw(st.lists(controls(), max_size=2))
    return [*pieces, Piece(frame(0x80, draw(payloads)), True, True)]


@st.composite
def streams(draw: st.DrawFn) -> list[Piece]:
    one = controls().map(lambda piece: [piece])
    groups = draw(st.lists(st.one_of(one, one, messages()), min_size=1, max_size=6))
    pieces = [piece for group in groups for piece in group]
    if draw(st.integers(0, 3)) == 0:
        pieces.append(Piece(draw(st.sampled_from([b"\x88\x00", b"\x88\x02\x03\xe9"])), False))
    return pieces


def chunks_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    # Where headers are, more often than in the middle of a long payload.
    at = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[start:stop] for start, stop in itertools.pairwise(at)]


@pytest.mark.parametrize("module", parsers(), ids=lambda module: module.__name__[-8:])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=streams(),
    cuts=st.lists(st.integers(0, 70_000), max_size=30),
    bytewise=st.booleans(),
    taken=st.integers(0, 2),
    uses=st.integers(0, 40),
)
def test_wherever_it_is_cut(
    module: Any, pieces: list[Piece], cuts: list[int], bytewise: bool, taken: int, uses: int
) -> None:
    """A stream in any pieces: some with the handshake, some in use, the rest while parked."""
    stream = b"".join(piece.data for piece in pieces)
    if bytewise and len(stream) < 600:
        cuts = list(range(len(stream)))
    chunks = chunks_of(stream, cuts)
    wire = Wire(module, b"".join(chunks[:taken]))
    for chunk in chunks[taken : taken + uses]:
        wire.read()
        wire.conn.feed_data(chunk)
    wire.read()
    at = len(b"".join(chunks[: taken + uses]))

    position = 0
    in_message = at_boundary = is_closed = False
    boundaries = {0}
    # Where the first byte lies that a connection nobody uses may not receive.
    fatal = len(stream)
    for piece in pieces:
        end = position + len(piece.data)
        if position < at and piece.of_message:
            in_message = not (piece.ends_message and end <= at)
        if piece.of_message and position >= at:
            fatal = min(fatal, position)
        elif piece.is_masked and position + 1 >= at:
            fatal = min(fatal, position + 1)
        elif piece.is_close:
            is_closed = end <= at
            fatal = min(fatal, end - 1)
        position = end
        boundaries.add(position)
    at_boundary = at in boundaries

    assert (wire.conn.clear() and wire.conn.park()) == (not in_message and not is_closed)
    if not wire.conn.parked:
        return
    assert wire.conn.is_held_back() == (not at_boundary)
    for chunk in chunks[taken + uses :]:
        wire.conn.feed_data(chunk)
        at += len(chunk)
        assert bool(wire.ended) == (at > fatal)
        if wire.ended:
            return
        assert wire.conn.is_held_back() == (at not in boundaries)
        assert not wire.ws._reader._buffer


@pytest.mark.parametrize("module", parsers(), ids=lambda module: module.__name__[-8:])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_is_no_bytes(module: Any, kind: Any) -> None:
    """Some transports hand on buffers."""
    wire = Wire(module)
    for piece in (b"", b"\x82", b"\x04ab", b"cd"):
        wire.conn.feed_data(kind(piece))
    wire.read()
    assert wire.conn.messages == 1
    assert wire.conn.midway == 0


@pytest.mark.parametrize("module", parsers(), ids=lambda module: module.__name__[-8:])
def test_a_frame_of_any_length(module: Any) -> None:
    for header in (b"\x82\x7e\xff\xff", b"\x82\x7f" + b"\xff" * 8, b"\x82\xff" + b"\xff" * 12):
        wire = Wire(module)
        for start in range(len(header)):
            wire.conn.follow(header[start : start + 1])
            assert wire.conn.midway == 2
        wire.conn.follow(bytes(60_000))
        assert wire.conn.midway == 2


# -- over a socket -------------------------------------------------------------------------------


class RawServer:
    """Does the handshake, with ``first`` behind its answer; what is sent then is up to a test."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.peers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = [
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n" + self.first
        )
        self.peers.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()


@contextlib.asynccontextmanager
async def raw(first: bytes = b"") -> AsyncIterator[RawServer]:
    server = RawServer(first)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    try:
        yield server
    finally:
        for peer in server.peers:
            peer.transport.abort()
        listening.close()
        await listening.wait_closed()


class Counting:
    """Counts the bytes that have come to a connection."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.count = 0
        conn._protocol._payload_parser = self

    def feed_data(self, data: bytes) -> Any:
        self.count += len(data)
        return self._conn.feed_data(data)

    def feed_eof(self) -> None:
        self._conn.feed_eof()


async def send(writer: asyncio.StreamWriter, counting: Counting, data: bytes) -> None:
    wanted = counting.count + len(data)
    writer.write(data)
    await until(lambda: counting.count >= wanted)


SECRETS = {
    "short": frame(0x81, b"alice's" * 10),
    "16 bits": frame(0x82, b"alice's" * 100),
    "64 bits": frame(0x82, b"alice's" * 10_000),
    "like pings": frame(0x81, PINGS),
    "parts": frame(0x01, b"alice's") + frame(0x89) + frame(0x80, b"secret"),
    "empty parts": frame(0x01) + frame(0x00) + frame(0x80, b"alice's secret"),
    "masked": masked(0x81, b"alice's" * 10),
}
CUTS = (1, 2, 3, 4, 5, 9, 10, 12)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
async def test_begun_before_release(make_session: SessionFactory, secret: bytes) -> None:
    """Whatever has come of it, and whether the rest comes at once, while idle, or in use."""
    async with raw() as server:
        for cut in CUTS:
            session = make_session(close_timeout=0.01)
            alice = await session.ws_connect(server.url)
            counting = Counting(alice._slot.conn)
            await send(server.peers[-1], counting, secret[:cut])
            await alice.release()
            assert session.stats().idle == 0
            assert session.stats().closed_dirty == 1
            async with session.ws_connect(server.url) as bob:
                assert not bob.reused


@pytest.mark.parametrize("cut", [*CUTS, 70])
@pytest.mark.parametrize("limiter", [None, "slow"])
async def test_begun_with_the_handshake(
    make_session: SessionFactory, cut: int, limiter: str | None
) -> None:
    """The parser has had it before the pool has the connection."""

    class Slow:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *exc_info: object) -> None:
            # The rest comes meanwhile.
            if server.peers:
                server.peers[-1].write(frame(0x89, b"x") + secret[:cut])
                await asyncio.sleep(0.02)

    secret = SECRETS["16 bits"]
    whole = frame(0x81, b"welcome")
    begun = b"" if limiter else secret[:cut]
    async with raw(whole + begun) as server:
        limit = Slow() if limiter else None
        session = make_session(close_timeout=0.01, connect_limiter=limit)
        alice = await session.ws_connect(server.url)
        assert await alice.receive_str() == "welcome"
        await alice.release()
        assert session.stats().idle == 0
        assert session.stats().closed_dirty == 1


async def test_a_greeting_with_the_handshake(make_session: SessionFactory) -> None:
    async with raw(frame(0x89, b"ping") + frame(0x81, b"welcome")) as server:
        session = make_session(close_timeout=0.01)
        async with session.ws_connect(server.url) as ws:
            assert await ws.receive_str() == "welcome"
            # It may come in two pieces.
            assert "set_parser" not in vars(ws._conn.protocol)
        assert session.stats().idle == 1


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
async def test_begun_while_idle(make_session: SessionFactory, secret: bytes) -> None:
    """The first byte ends it."""
    async with raw() as server:
        session = make_session(close_timeout=0.01)
        alice = await session.ws_connect(server.url)
        counting = Counting(alice._slot.conn)
        await alice.release()
        await send(server.peers[-1], counting, frame(0x89, b"a ping before") + secret[:1])
        assert session.stats().idle == 0
        assert session.stats().closed_dirty == 1


UNSOUND = {
    "reserved bits": frame(0xC9),
    "masked": masked(0x89, b"x"),
    "masked and empty": masked(0x8A, b""),
    "too long": frame(0x89, bytes(126)),
    "not final": frame(0x09),
    "unknown": frame(0x8B),
    "a continuation": frame(0x80),
}


@pytest.mark.parametrize("data", UNSOUND.values(), ids=UNSOUND)
async def test_unsound_while_idle(make_session: SessionFactory, data: bytes) -> None:
    async with raw() as server:
        session = make_session(close_timeout=0.01)
        alice = await session.ws_connect(server.url, compress=15)
        counting = Counting(alice._slot.conn)
        await alice.release()
        await send(server.peers[-1], counting, data)
        assert session.stats().idle == 0
        await until(lambda: not session.stats().closing)
        stats = session.stats()
        assert stats.closed_dirty + stats.closed_lost == 1


async def test_half_a_ping_is_not_handed_out(make_session: SessionFactory) -> None:
    """Until it is whole; the connection stays, unless somebody asks for it."""
    ping = frame(0x89, b"a ping")
    async with raw() as server:
        session = make_session(close_timeout=0.01)
        for cut in range(1, len(ping)):
            ws = await session.ws_connect(server.url)
            conn = ws._slot.conn
            counting = Counting(conn)
            # One begins in use, the other one while idle.
            await send(server.peers[-1], counting, ping[:cut])
            await ws.release()
            assert session.stats().idle == 1
            await send(server.peers[-1], counting, ping[cut:] + ping[:cut])
            assert session.stats().idle == 1
            await send(server.peers[-1], counting, ping[cut:])
            ws = await session.ws_connect(server.url)
            assert ws._slot.conn is conn
            await ws.release()
            await send(server.peers[-1], counting, ping[:cut])
            other = await session.ws_connect(server.url)
            assert not other.reused
            await other.release()
        assert session.stats().connects == len(ping)


async def test_half_a_ping_at_release_and_somebody_waits(make_session: SessionFactory) -> None:
    async with raw() as server:
        session = make_session(close_timeout=0.01, limit=1)
        for rest in (b"", b"\x00"):
            ws = await session.ws_connect(server.url)
            conn: Any = ws._slot.conn  # type: ignore[union-attr]
            await send(server.peers[-1], Counting(conn), b"\x89")
            waiting = asyncio.ensure_future(session.ws_connect(server.url))
            await until(lambda: session.stats().waiting)
            ws.release()
            conn._protocol.data_received(rest)
            async with asyncio.timeout(30):
                ws = await waiting
            assert ws.reused == bool(rest)
            await ws.release()


async def test_half_a_ping_when_a_check_ends(make_session: SessionFactory) -> None:
    async def check(ws: aiohttp.ClientWebSocketResponse) -> None:
        ws._conn.protocol.data_received(b"\x89")  # type: ignore[union-attr]

    async with raw() as server:
        session = make_session(close_timeout=0.01, check=check)
        ws = await session.ws_connect(server.url)
        await ws.release()
        ws = await session.ws_connect(server.url)
        assert not ws.reused
        await ws.release()
        assert session.stats().closed_dirty == 1


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
async def test_users_never_receive_messages_of_others(
    make_session: SessionFactory, seed: int
) -> None:
    """Messages in pieces, of which some are released with; each carries the number of its use."""
    rng = random.Random(seed)
    async with raw() as server:
        session = make_session(close_timeout=0.01)
        kept = 0
        for use in range(100):
            ws = await session.ws_connect(server.url)
            kept += ws.reused
            counting = Counting(ws._slot.conn)
            writer = next(
                peer
                for peer in server.peers
                if peer.get_extra_info("peername") == ws.get_extra_info("sockname")
            )
            text = b"%d" % use
            pieces = rng.choice(
                [
                    [frame(0x81, text)],
                    [frame(0x81, text + b" " + PINGS.hex().encode())],
                    [frame(0x01, text), frame(0x89, b"between"), frame(0x80, b" end")],
                    [masked(0x81, text)],
                ]
            )
            stream = b"".join([frame(0x89), *pieces, frame(0x8A, b"x")])
            done = False
            position = 0
            leaves = rng.random() < 0.3
            stop = rng.randrange(len(stream)) if leaves else len(stream)
            while position < stop:
                size = rng.choice((1, 1, 2, 3, 7, 50))
                chunk = stream[position : min(position + size, stop)]
                await send(writer, counting, chunk)
                position += len(chunk)
            # Otherwise receive() would take a PING and wait.
            while any(item[0].type is WSMsgType.TEXT for item in ws._reader._buffer):
                message = await ws.receive()
                assert message.data.split()[0] == text.decode()
                done = True
            assert done or leaves
            await ws.release()
            if session.stats().idle:
                # What comes while it is idle is seen.
                for byte in stream[position:]:
                    if session.stats().idle:
                        await send(writer, counting, bytes([byte]))
                assert done or not session.stats().idle
        assert kept > 30


# -- what is not supported -----------------------------------------------------------------------


async def test_a_parser_that_shows_nothing_is_refused(
    make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw() as server:
        session = make_session(close_timeout=0.01)
        monkeypatch.setattr(_aiohttp_private.gc, "get_referents", lambda parser: [])
        monkeypatch.setattr(
            "aiohttp._websocket.reader_py.WebSocketReader._payload_fragments", None, raising=False
        )
        if parsers()[0].__name__.endswith("_py"):
            pytest.skip("the parser in plain Python hides nothing")
        with pytest.raises(WebSocketPoolError, match=rf"aiohttp {aiohttp.__version__} .*install"):
            await session.ws_connect(server.url)
        assert session.stats().connects == len(session._pool) == 0
    assert isinstance(session, WebSocketClientSession)
