"""What is dropped of a handshake: everything that can be asked for still reads the same.

The other tests run on connections without it, too.
"""

import asyncio
import base64
import gc
import hashlib
import inspect
import re
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import CookieJar, WSMsgType
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDictProxy

from aiowebsocketclient import ClientWebSocketResponse, _aiohttp_private, http_memory, lifecycle
from aiowebsocketclient._aiohttp_private import HTTP_NAMES
from aiowebsocketclient.http_memory import forget_handshake

from .conftest import SessionFactory, strike_heartbeat, until
from .servers import Server, serving

# Attributes of a response that may change: nobody can ask for them.
UNSEEN = {"_cache", "_timer"}

SMALL = http_memory._Response
NO_PARSER = http_memory._NO_PARSER


def plain(value: Any) -> Any:
    """Return what is in a value, to be compared to the end: with order, case and types."""
    if isinstance(value, CIMultiDictProxy):
        return [(str(name), text) for name, text in value.items()]
    if isinstance(value, aiohttp.RequestInfo):
        return (aiohttp.RequestInfo, *map(plain, value))
    if isinstance(value, tuple):
        return (type(value), *map(plain, value))
    return value


def attributes(response: Any) -> dict[str, Any]:
    """Return all public attributes of a response, and how it is shown."""
    found: dict[str, Any] = {"repr": repr(response), "type": repr(type(response))}
    for name in dir(aiohttp.ClientResponse):
        if name.startswith("_"):
            continue
        with warnings.catch_warnings():
            # Some are deprecated.
            warnings.simplefilter("ignore")
            try:
                value = getattr(response, name)
            except Exception as exc:
                value = repr(exc)
        if not inspect.ismethod(value) and not asyncio.isfuture(value):
            found[name] = plain(value)
    return found


class Compared:
    """Stands in for ``forget_handshake()``, and records what responses are before and after."""

    def __init__(self) -> None:
        self.seen = 0
        self.shrunk = 0
        #: What was different afterwards. (An exception here would leave a caller without an end.)
        self.changed: list[Any] = []

    def __call__(self, ws: Any) -> None:
        try:
            self._forget(ws)
        except Exception as exc:
            self.changed.append(exc)

    def _forget(self, ws: Any) -> None:
        responses = [*ws._response._history, ws._response]
        states = [dict(vars(each)) for each in responses]
        before = [attributes(each) for each in responses]
        forget_handshake(ws)
        for response, state, public in zip(responses, states, before, strict=True):
            self.seen += 1
            self.shrunk += type(response) is SMALL
            # The response of a redirect has lost its connection, and forgets the protocol.
            unseen = UNSEEN if state["_connection"] is not None else UNSEEN | {"_protocol"}
            for name in state.keys() - unseen:
                self._compare(name, plain(getattr(response, name)), plain(state[name]))
            # At first, and from then on.
            for now in (attributes(response), attributes(response)):
                for name in public.keys() | now.keys():
                    self._compare(name, now.get(name), public.get(name))

    def _compare(self, name: str, now: Any, before: Any) -> None:
        if now != before:
            self.changed.append((name, now, before))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compared]:
    compared = Compared()
    monkeypatch.setattr(lifecycle, "forget_handshake", compared)
    yield compared
    assert compared.seen
    assert not compared.changed


# -- answers of every kind -------------------------------------------------------------------------

ACCEPT = b"Sec-WebSocket-Accept: %b"
ORDINARY = (b"Upgrade: websocket", b"Connection: upgrade", ACCEPT)
STATUS = b"HTTP/1.1 101 Switching Protocols"

ANSWERS = {
    "ordinary": (STATUS, *ORDINARY, b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Server: none"),
    "lower case": (STATUS, *(line.lower().replace(b"%b", b"%b") for line in ORDINARY)),
    "other names": (STATUS, b"x-MixeD: CaSe", *ORDINARY, b"X-Other-Name: 1", b"x-other-name: 2"),
    "cookies": (STATUS, *ORDINARY, b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2"),
    "no text": (STATUS, b"X-A: \xff\xfe\x80", "X-B: \u00e9\u4e2d".encode(), *ORDINARY),
    "spaces and colons": (STATUS, b"X-Empty:", b"X-Colons: a:b: c", b"X-End:  x  ", *ORDINARY),
    "a link": (STATUS, *ORDINARY, b'Link: <https://localhost/>; rel="next"'),
    "a body's headers": (
        STATUS,
        *ORDINARY,
        b"Content-Type: text/plain; charset=latin-1",
        b'Content-Disposition: attachment; filename="a"',
    ),
    "another reason": (b"HTTP/1.1 101 Web Socket Protocol Handshake", *ORDINARY),
    "no reason": (b"HTTP/1.1 101 ", *ORDINARY),
}


@asynccontextmanager
async def answering(*lines: bytes) -> AsyncIterator[str]:
    """Run a server that sends these lines, and answers a CLOSE; its URL comes back."""
    served: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        assert key is not None
        hashed = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        accept = base64.b64encode(hashed)
        writer.write(b"\r\n".join([*lines, b"", b""]).replace(b"%b", accept))
        if await reader.read(1_000):
            writer.write(b"\x88\x02\x03\xe8")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        await asyncio.wait(served)


@pytest.mark.parametrize("lines", ANSWERS.values(), ids=ANSWERS)
async def test_answers(
    lines: tuple[bytes, ...], make_session: SessionFactory, compared: Compared
) -> None:
    async with answering(*lines) as url:
        session = make_session()
        async with session.ws_connect(url, headers={"X-Mine": "\u00e9: a", "x-lower": ""}) as ws:
            assert ws._response.status == 101
        await session.close()
    assert compared.shrunk == 1


HANDSHAKES: dict[str, dict[str, Any]] = {
    "headers": {"headers": [("A", "1"), ("a", "2"), ("Authorization", "Basic x")]},
    "parameters": {"params": {"a": "b c", "d": "\u00e9"}},
    "protocols": {"protocols": ("v2", "v1")},
    "compress": {"compress": 15},
    "heartbeat": {"heartbeat": 30.0},
    "origin": {"origin": "https://localhost"},
}


@pytest.mark.parametrize("options", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_handshakes(
    options: dict[str, Any], server: Server, make_session: SessionFactory, compared: Compared
) -> None:
    async with make_session().ws_connect(server.url(), **options) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
    assert compared.shrunk == 1


async def test_redirects(server: Server, make_session: SessionFactory, compared: Compared) -> None:
    async with make_session().ws_connect(server.url("/moved")) as ws:
        assert [reply.status for reply in ws._response.history] == [302]
        assert ws._response.url.path == "/"
    assert compared.seen == compared.shrunk == 2


async def test_another_method(make_session: SessionFactory, compared: Compared) -> None:
    async with answering(*ANSWERS["ordinary"]) as url:
        session = make_session()
        async with session.ws_connect(url, method="POST") as ws:
            assert ws._response.method == ws._response.request_info.method == "POST"
        await session.close()
    assert compared.shrunk == 1


async def test_tls(
    tls_server: Server,
    client_tls: ssl.SSLContext,
    make_session: SessionFactory,
    compared: Compared,
) -> None:
    async with make_session().ws_connect(tls_server.url(), ssl=client_tls) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        assert ws.get_extra_info("ssl_object") is not None
    assert compared.shrunk == 1


async def test_cookies_of_a_jar(make_session: SessionFactory, compared: Compared) -> None:
    """The key of the connection needs what is dropped."""
    async with serving(Server()) as server:
        client_session = aiohttp.ClientSession(cookie_jar=CookieJar(unsafe=True))
        session = make_session(client_session=client_session)
        async with session.ws_connect(server.url("/cookie")) as ws:
            assert ws._response.cookies["visited"].value == "yes"
        async with session.ws_connect(server.url("/cookie")) as ws:
            assert ws.reused
            assert ws._response.cookies["visited"].value == "yes"
        await session.close()
    assert compared.shrunk == 1


# -- what stays as it is ---------------------------------------------------------------------------


class Response(aiohttp.ClientResponse):
    pass


async def test_responses_of_a_class_of_the_user(
    server: Server, make_session: SessionFactory, compared: Compared
) -> None:
    client_session = aiohttp.ClientSession(response_class=Response)
    session = make_session(client_session=client_session)
    async with session.ws_connect(server.url()) as ws:
        assert type(ws._response) is Response
        assert ws._conn.protocol._parser is NO_PARSER
    await session.close()
    assert (compared.seen, compared.shrunk) == (1, 0)


async def test_a_value_of_several_lines(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server can send it, and aiohttp sends none."""
    monkeypatch.setattr(lifecycle, "forget_handshake", lambda ws: None)
    async with make_session().ws_connect(server.url()) as ws:
        response = ws._response
        for name, value in (
            ("_raw_headers", ((b"A", b"1\n2"),)),
            ("_raw_headers", ()),
            ("_url", response.url / "other"),
            ("method", "POST"),
        ):
            whole = vars(response)
            with monkeypatch.context() as patch:
                patch.setitem(whole, name, value)
                http_memory._shrink(response)
                assert type(response) is aiohttp.ClientResponse
                assert vars(response) is whole
        forget_handshake(ws)
        assert type(response) is SMALL


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was looked at once in this process, and again at the end."""
    monkeypatch.setattr(_aiohttp_private, "_kinds_of_http", set())
    http_memory._unusual.cache_clear()
    yield
    http_memory._unusual.cache_clear()


@pytest.mark.parametrize("kind", HTTP_NAMES)
async def test_a_missing_name_changes_nothing(
    kind: str,
    server: Server,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    unknown: None,
) -> None:
    monkeypatch.setitem(HTTP_NAMES[kind], "_of_old", "opens doors")
    async with make_session().ws_connect(server.url()) as ws:
        assert type(ws._response) is aiohttp.ClientResponse
        assert (ws._conn.protocol._parser is NO_PARSER) is (kind == "ClientResponse")
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_an_unknown_aiohttp_changes_nothing(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch, unknown: None
) -> None:
    monkeypatch.setattr(_aiohttp_private, "_IS_KNOWN_AIOHTTP", False)
    async with make_session().ws_connect(server.url()) as ws:
        assert type(ws._response) is aiohttp.ClientResponse
        assert ws._conn.protocol._parser is not NO_PARSER
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_a_connection_that_has_ended(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its protocol has no parser, and must not get one: this shows that the socket is closed."""
    monkeypatch.setattr(lifecycle, "forget_handshake", lambda ws: None)
    session = make_session()
    ws = await session.ws_connect(server.url())
    protocol = ws._conn.protocol
    server.transports[0].abort()
    await until(lambda: protocol._parser is None)
    forget_handshake(ws)
    assert protocol._parser is None
    await ws.close()
    forget_handshake(ws)


# -- what is dropped of the rest -------------------------------------------------------------------


async def test_nothing_of_the_handshake_is_left(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    first = await session.ws_connect(server.url())
    await session.prewarm(server.url(), 2)
    async with session.ws_connect(server.url()) as second:
        for ws in (first, second):
            assert type(ws._response) is SMALL
            assert len(vars(ws._response)) <= 11
            assert ws._conn.protocol._parser is NO_PARSER
            assert ws._conn.protocol._buffer == ()
        names = [vars(ws._response)["_aiowebsocketclient_names"] for ws in (first, second)]
        assert names[0] is names[1]
        assert first._writer.get_random_bits is second._writer.get_random_bits
    await first.release()


async def test_the_timer_of_the_request_is_cancelled(
    server: Server, make_session: SessionFactory
) -> None:
    timeout = aiohttp.ClientTimeout(total=100.0)
    async with aiohttp.ClientSession(timeout=timeout) as client_session:
        plain_ws = await client_session.ws_connect(server.url())
        (callback,) = plain_ws._conn._callbacks  # type: ignore[union-attr]
        assert not callback.__self__.cancelled()  # type: ignore[attr-defined]
        session = make_session(client_session=client_session, client_session_owner=False)
        timers: list[Any] = []

        def forget(ws: Any) -> None:
            (callback,) = ws._conn._callbacks
            ws._conn.add_callback(timers.clear)
            timers.append(callback.__self__)
            forget_handshake(ws)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lifecycle, "forget_handshake", forget)
            ws = await session.ws_connect(server.url())
        (timer,) = timers
        assert timer.cancelled()
        assert ws._conn._callbacks == [timers.clear]
        await ws.close()
        # Other callbacks still run when the connection is closed.
        assert not timers
        await plain_ws.close()
        await session.close()


class Bits:
    """Stands in for a source of random bits."""

    def __call__(self) -> int:
        return 0


async def test_another_source_of_masks_is_kept(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Bits()

    def forget(ws: Any) -> None:
        ws._writer.get_random_bits = own
        forget_handshake(ws)

    monkeypatch.setattr(lifecycle, "forget_handshake", forget)
    async with make_session().ws_connect(server.url()) as ws:
        assert ws._writer.get_random_bits is own
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


# -- the end ---------------------------------------------------------------------------------------

End = Callable[[Any, Server], Awaitable[object]]


async def close(ws: Any, server: Server) -> None:
    assert await ws.close(code=1001, message=b"bye")


async def closed_by_server(ws: Any, server: Server) -> None:
    closing = asyncio.create_task(server.sockets[-1].close(code=4000, message=b"go"))
    assert (await ws.receive()).type is WSMsgType.CLOSE
    await closing


async def aborted_by_server(ws: Any, server: Server) -> None:
    server.transports[-1].abort()
    assert (await ws.receive()).type is WSMsgType.CLOSED


async def protocol_error(ws: Any, server: Server) -> None:
    server.transports[-1].write(b"\xff" * 20)
    assert (await ws.receive()).type is WSMsgType.ERROR


async def silent_heartbeat(ws: Any, server: Server) -> None:
    strike_heartbeat(ws)
    ws._pong_not_received()
    assert (await ws.receive()).type is WSMsgType.CLOSED


async def answer_closed(ws: Any, server: Server) -> None:
    ws._response.close()
    assert ws._response.connection is None


async def answer_released(ws: Any, server: Server) -> None:
    ws._response.release()
    assert ws._response.closed


def chain_of(error: BaseException | None) -> list[str]:
    """Return an exception and its causes."""
    found = []
    while error is not None:
        found.append(repr(error))
        error = error.__cause__
    return found


async def told(ws: Any, protocol: Any) -> dict[str, Any]:
    """Return all that an ended connection can be asked."""
    response = ws._response
    return {
        "closed": ws.closed,
        "close_code": ws.close_code,
        "exception": chain_of(ws.exception()),
        "protocol": ws.protocol,
        "compress": ws.compress,
        "client_notakeover": ws.client_notakeover,
        "peername": ws.get_extra_info("peername", "none"),
        "receive": (await ws.receive()).type,
        "response": (response.closed, response.connection, response.status, response.ok),
        "headers": response.headers.get("Upgrade"),
        "raw": len(response.raw_headers),
        "sent": response.request_info.headers.get("Upgrade"),
        "body": await response.read(),
        "text": await response.text(),
        "error": chain_of(protocol.exception()),
        "connected": (protocol.is_connected(), protocol._parser, protocol.should_close),
    }


ENDS = (
    *(close, closed_by_server, aborted_by_server, protocol_error, silent_heartbeat),
    *(answer_closed, answer_released),
)


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_ends_as_aiohttps_own(
    end: End, detached: bool, server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    heartbeat = 60.0 if end is silent_heartbeat else None
    found = []
    async with aiohttp.ClientSession() as client_session:
        for connect in (client_session.ws_connect, session.ws_connect):
            ws = await connect(server.url(), heartbeat=heartbeat, compress=15)  # type: ignore[arg-type]
            protocol: Any = ws._conn.protocol
            transport = protocol.transport
            if isinstance(ws, ClientWebSocketResponse) and detached:
                ws.detach()
            await end(ws, server)
            await until(lambda transport=transport: transport.is_closing())  # type: ignore[misc]
            await until(lambda protocol=protocol: protocol._parser is None)  # type: ignore[misc]
            if ws.closed:
                found.append(await told(ws, protocol))
            else:
                found.append({"closed": False})
                await ws.close()
    assert found[0] == found[1]
    await session.close()


async def test_a_lost_connection_warns_as_aiohttps_own(
    server: Server, make_session: SessionFactory
) -> None:
    """After detach(), nobody but aiohttp watches the connection."""
    session = make_session()
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    handler = loop.get_exception_handler()
    found: list[Any] = []
    loop.set_debug(True)
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    try:
        async with aiohttp.ClientSession() as client_session:
            for connect in (client_session.ws_connect, session.ws_connect):
                ws: Any = await connect(server.url())
                if isinstance(ws, ClientWebSocketResponse):
                    ws.detach()
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", ResourceWarning)
                    del ws
                    gc.collect()
                    await until(lambda: not server.open)
                texts = [str(each.message) for each in caught]
                # Without the time, and what depends on the key of the handshake.
                found.append(
                    (sorted(re.sub("'[^']{20,}'", "", text) for text in texts), complaints)
                )
                complaints = []
    finally:
        loop.set_exception_handler(handler)
        loop.set_debug(False)
    assert found[0] == found[1]
    assert found[0][0][0].startswith("Unclosed response <ClientResponse(")


# -- what aiohttp does with the rest ---------------------------------------------------------------


def test_what_aiohttp_does_with_its_parser() -> None:
    """After the handshake, it only tells it of the end."""
    base: Any
    handler, base = ResponseHandler.__mro__[:2]
    source = inspect.getsource(handler) + inspect.getsource(base)
    used = set(re.findall(r"self\._parser\.(\w+)", source))
    assert {"feed_data", "feed_eof"} <= used <= {"feed_data", "feed_eof", "pause_reading"}
    before, _ = inspect.getsource(ResponseHandler.data_received).split("self._parser.feed_data")
    assert "if self._upgraded or self._parser is None:" in before
    if "pause_reading" in used:
        before, _ = inspect.getsource(base.pause_reading).split("self._parser.pause")
        assert "if not self._upgraded:" in before


async def test_the_known_names_exist(server: Server, make_session: SessionFactory) -> None:
    """With this version of aiohttp, memory is saved."""
    async with make_session().ws_connect(server.url()) as ws:
        assert type(ws._response) is SMALL
        assert isinstance(ws._response, aiohttp.ClientResponse)
        timer: Any = _aiohttp_private.TIMER_NOOP
        with timer as entered:
            assert entered is timer
