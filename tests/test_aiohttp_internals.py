"""How the private names of aiohttp behave that the package relies on.

``_aiohttp_private.py`` lists them.  Where one of these tests fails on a new aiohttp, what uses the
name must be looked at before that version is supported.
"""

import ast
import asyncio
import inspect
import re
import ssl
import sys
from asyncio import sslproto
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from aiohttp.client_ws import DEFAULT_WS_CLIENT_TIMEOUT
from aiohttp.helpers import basicauth_from_netrc, get_env_proxy_for_url, netrc_from_env
from aiohttp.http_websocket import WebSocketWriter
from multidict import CIMultiDict
from yarl import URL

from aiowebsocketclient import WebSocketClientSession, WebSocketPoolError, _aiohttp_private
from aiowebsocketclient._aiohttp_private import (
    HTTP_NAMES,
    NAMES,
    OPTIONAL,
    TLS_NAMES,
    fragments_of,
)
from aiowebsocketclient.response import CONNECTION, USUAL, ClientWebSocketResponse, _Spent

from .conftest import SessionFactory, until
from .servers import Server


async def test_names_of_the_client_session() -> None:
    async with aiohttp.ClientSession(headers={"X": "1"}) as session:
        assert session._loop is asyncio.get_running_loop()
        assert str(session._build_url("ws://host/a")) == "ws://host/a"
        assert session._prepare_headers({"x": "2"}).getall("X") == ["2"]
        assert session.headers is session._default_headers
        assert isinstance(session.cookie_jar, aiohttp.CookieJar)
        assert session._base_url is session._default_proxy is session._default_proxy_auth is None
        assert session._request_class is aiohttp.ClientRequest
    assert {"Accept", "Accept-Encoding"} == {*aiohttp.ClientRequest.DEFAULT_HEADERS}
    source = inspect.getsource(aiohttp.ClientSession._ws_connect)
    assert "self._ws_response_class(" in source
    assert DEFAULT_WS_CLIENT_TIMEOUT.ws_close == 10.0


def test_what_a_request_needs_to_make_its_cookie_header() -> None:
    request: Any = SimpleNamespace(headers=CIMultiDict([("Cookie", "b=2; c=own")]))
    cookies = SimpleCookie('c="x;y"; a=1')
    aiohttp.ClientRequest.update_cookies(request, cookies)
    assert request.headers.getall("cookie") == ['a=1; b=2; c="x;y"']


async def test_what_is_asked_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = URL("ws://example.org/")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine example.org login a password b\n")
    assert tuple(basicauth_from_netrc(netrc_from_env(), "example.org"))[:2] == ("a", "b")
    monkeypatch.setenv("ws_proxy", "http://c:d@proxy/")
    monkeypatch.delenv("no_proxy", raising=False)
    proxy, auth = get_env_proxy_for_url(url)
    assert (str(proxy), auth and auth[:2]) == ("http://proxy/", ("c", "d"))
    source = inspect.getsource(aiohttp.client) + inspect.getsource(aiohttp.client_reqrep)
    for function in (get_env_proxy_for_url, netrc_from_env, basicauth_from_netrc):
        assert function.__name__ in source


async def test_fields_of_a_response(server: Server, make_session: SessionFactory) -> None:
    async with make_session().ws_connect(server.url()) as ws:
        state = ws.__dict__
        assert state["_waiting"] is state["_closed"] is state["_closing"] is False
        assert state["_close_code"] is None
        assert state["_autoping"] is True
        for name in ("_writer", "_reader", "_response", "_timeout", "_conn"):
            assert name in state
        # What is poison at the class must be found in every instance before.
        poison = {n for n, v in vars(ClientWebSocketResponse).items() if isinstance(v, _Spent)}
        assert poison <= state.keys()


async def test_every_field_that_a_spent_handle_may_be_asked_for_has_a_value_at_the_class(
    server: Server, make_session: SessionFactory
) -> None:
    ws = await make_session().ws_connect(server.url())
    await ws.release()
    for name, value in inspect.getmembers_static(aiohttp.ClientWebSocketResponse):
        if isinstance(value, property):
            getattr(ws, name)


async def test_a_heartbeat_can_be_cancelled(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url(), heartbeat=60.0)
        assert ws._heartbeat_cb is not None
        ws._cancel_heartbeat()
        assert ws._heartbeat_cb is None
        await ws.close()
        ws._cancel_heartbeat()


async def test_names_of_the_protocol(server: Server, make_session: SessionFactory) -> None:
    async with make_session().ws_connect(server.url()) as ws:
        protocol = ws._conn.protocol
        assert protocol._paused is protocol._reading_paused is False
        assert protocol._drain_waiter is None
        assert protocol._payload_parser is ws._slot.conn
        assert protocol._parser is not None
        assert protocol.read_timeout is None
        reader = ws._reader
        assert len(reader._buffer) == 0
        assert reader.is_eof() is False
    await ws.close()


async def test_connection_lost_is_told_to_the_parser_before_the_http_parser_is_dropped(
    server: Server,
) -> None:
    seen: list[bool] = []
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        assert ws._conn is not None
        protocol = ws._conn.protocol
        assert protocol is not None

        class Parser:
            def feed_data(self, data: bytes) -> tuple[bool, bytes]:
                return False, b""

            def feed_eof(self) -> None:
                seen.append(protocol._parser is None)

        protocol._payload_parser = Parser()  # type: ignore[assignment]
        server.transports[0].abort()
        await until(lambda: seen)
        assert seen == [False]
        assert protocol._parser is None
        # close() would wait for an end of which nobody told the reader.
        ws._reader.feed_eof()
        await ws.close()


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x83\x00"])
async def test_the_real_parser_reports_protocol_errors(server: Server, data: bytes) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        assert ws._conn is not None
        protocol = ws._conn.protocol
        assert protocol is not None
        failed, _ = protocol._payload_parser.feed_data(data)  # type: ignore[attr-defined]
        assert failed
        assert ws._reader.is_eof()
        assert protocol._payload_parser.feed_data(b"")[0]  # type: ignore[attr-defined]
        await ws.close()


async def test_reading_what_lies_in_the_queue_never_waits(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        await ws.send_str("x")
        await until(lambda: ws._reader._buffer)
        with pytest.raises(StopIteration) as stop:
            ws._reader.read().send(None)
        assert stop.value.value.type is WSMsgType.TEXT
        with pytest.raises(StopIteration):
            ws._writer.send_frame(b"", WSMsgType.PONG).send(None)
        await ws.close()


async def test_parts_of_a_frame_lie_in_one_list(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        assert ws._conn is not None
        parser: Any = ws._conn.protocol._payload_parser  # type: ignore[union-attr]
        fragments = fragments_of(parser)
        assert fragments == []
        for _ in range(2):
            parser.feed_data(b"\x82\x04a")
            assert fragments == [b"a"]
            parser.feed_data(b"bcd")
            assert fragments == []
        await ws.close()


async def test_autoping_may_be_switched_off_for_some_time(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        ws._autoping = False
        await server.sockets[0].ping(b"1")
        assert (await ws.receive()).type is WSMsgType.PING
        await ws.ping(b"2")
        assert (await ws.receive()).type is WSMsgType.PONG
        ws._autoping = True
        await ws.ping(b"3")
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        await ws.close()


async def test_a_connection_can_be_taken_from_its_connector(server: Server) -> None:
    connector: Any = aiohttp.TCPConnector(limit=1, limit_per_host=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        ws = await session.ws_connect(server.url())
        connection: Any = ws._conn
        assert connection is ws._response.connection
        assert connection._connector is connector
        # What a heartbeat asks of it.
        assert isinstance(connector._timeout_ceil_threshold, float | int)
        assert connector._acquired == {connection.protocol}
        connector._release_acquired(connection._key, connection.protocol)
        assert not connector._acquired
        assert not connector._acquired_per_host

        class Another:
            released: Any = None

            def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
                self.released = (key, protocol)

        another = connection._connector = Another()
        expected = (connection._key, connection.protocol)
        await ws.close()
        assert another.released == expected
        # It has been told, and does nothing else.
        assert server.open == 1 or server.close_codes
        expected[1].close()


async def test_a_cancelled_receive_leaves_1006(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        with pytest.raises(asyncio.TimeoutError):
            await ws.receive(timeout=0.01)
        assert ws._close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        await ws.close()


async def test_the_close_code_is_set_wherever_closing_or_an_exception_is(
    server: Server, make_session: SessionFactory
) -> None:
    """Release looks at the one only."""
    source = inspect.getsource(aiohttp.ClientWebSocketResponse)
    for name in ("receive", "_handle_ping_pong_exception"):
        source = inspect.getsource(getattr(aiohttp.ClientWebSocketResponse, name))
        for line in ("self._exception =", "self._set_closing()", "self._set_closed()"):
            if line in source:
                assert "self._close_code =" in source
    session: WebSocketClientSession = make_session()
    ws = await session.ws_connect(server.url())
    conn = ws._slot.conn
    assert conn.is_clean()
    closing = asyncio.create_task(server.sockets[0].close())
    await ws.receive()
    await closing
    assert not conn.is_clean()


@pytest.mark.parametrize("name", ["receive", "close"])
def test_a_close_is_in_a_local_variable_where_the_close_code_is_set(name: str) -> None:
    source = inspect.getsource(getattr(aiohttp.ClientWebSocketResponse, name))
    assert "msg = await self._reader.read()" in source
    assert "self._close_code = msg.data" in source


async def test_what_nearly_every_connection_has_is_at_the_class(
    server: Server, make_session: SessionFactory
) -> None:
    async with aiohttp.ClientSession() as client_session:
        plain = await client_session.ws_connect(server.url())
        await plain.close()
        async with make_session().ws_connect(server.url()) as ws:
            state = ws.__dict__
            assert state.keys() - USUAL - {CONNECTION} == vars(plain).keys() - USUAL
            assert not state.keys() & USUAL
            for name in vars(plain).keys() & USUAL:
                assert getattr(ws, name) is vars(plain)[name]
            # More would make CPython's next size of dictionary, of twice the memory.
            assert len(state) <= 21
    async with make_session().ws_connect(server.url(), heartbeat=30.0) as ws:
        assert ws.__dict__["_heartbeat"] == 30.0


async def test_reading_is_paused_only_while_something_lies_unread(
    server: Server, make_session: SessionFactory
) -> None:
    """So that release need not ask whether it is."""
    async with make_session().ws_connect(server.url(), max_msg_size=0) as ws:
        protocol, buffer = ws._conn.protocol, ws._slot.conn._buffer
        message = "x" * 100_000
        for _ in range(30):
            await ws.send_str(message)
        await until(lambda: protocol._reading_paused)
        for _ in range(30):
            assert await ws.receive_str() == message
            assert buffer or not protocol._reading_paused


# -- asyncio --------------------------------------------------------------------------------------


def test_what_asyncio_keeps_in_attributes() -> None:
    source = inspect.getsource(asyncio.BaseEventLoop.is_running)
    assert "return (self._thread_id is not None)" in source
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    assert inspect.getsource(transport.is_closing).strip().endswith("return self._closing")


def test_what_reports_the_failure_of_a_shielded_task() -> None:
    """CPython 3.14 adds it to a task once what waited for its shield is cancelled."""
    callback = getattr(asyncio.tasks, "_log_on_exception", None)
    assert (callback is not None) == (sys.version_info >= (3, 14))
    if callback is not None:
        assert "inner.add_done_callback(_log_on_exception)" in inspect.getsource(asyncio.shield)
    assert "if self.transport.is_closing()" in inspect.getsource(WebSocketWriter)
    lookup = inspect.getsource(aiohttp.TCPConnector._resolve_host)
    assert "self._resolve_host_tasks.add(resolved_host_task)" in lookup
    assert "await asyncio.shield(resolved_host_task)" in lookup


async def test_names_of_asyncios_tls(client_tls: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    found: Any = sslproto.SSLProtocol(
        loop, asyncio.Protocol(), client_tls, None, server_hostname="localhost"
    )
    assert not {name for name in TLS_NAMES if not hasattr(found, name)}
    # It was never open.
    found._app_transport._closed = True


def test_how_asyncios_tls_uses_what_is_replaced() -> None:
    source = inspect.getsource(sslproto.SSLProtocol)
    # A buffer that is large enough is passed on as it is.
    assert "if len(self._ssl_buffer) < want:" in source
    assert "self._incoming.write(self._ssl_buffer_view[:nbytes])" in source
    for name in ("_incoming", "_outgoing"):
        used = {"_incoming": {"write", "pending"}, "_outgoing": {"read", "pending"}}[name]
        assert set(re.findall(rf"self\.{name}\.(\w+)", source)) == used
    assert set(re.findall(r"self\._sslobj\.(\w+)", source)) == {
        "do_handshake",
        "read",
        "unwrap",
        "write",
    }
    # Nothing else encrypts what a full transport has not taken.
    methods = inspect.getmembers(sslproto.SSLProtocol, inspect.isfunction)
    encrypts = {name for name, do in methods if "._do_write()" in inspect.getsource(do)}
    assert encrypts == {"_write_appdata", "_do_read", "eof_received"}
    for name in ("_start_shutdown", "eof_received"):
        assert "self._do_flush()" in inspect.getsource(getattr(sslproto.SSLProtocol, name))


def test_the_socket_is_read_and_its_buffer_passed_on_in_one_callback() -> None:
    transport: Any = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    source = inspect.getsource(transport._read_ready__get_buffer)
    ways = ["self._protocol.get_buffer(-1)", "recv_into(buf)", "self._protocol.buffer_updated("]
    assert [source.index(way) for way in ways] == sorted(source.index(way) for way in ways)


async def test_the_parser_is_set_by_the_protocol_of_the_handshake(server: Server) -> None:
    """Nothing comes between the answer to the handshake and the parser: no other task runs."""
    source = inspect.getsource(aiohttp.ClientSession._ws_connect)
    after = source[source.index("conn_proto = ") :]
    assert "conn_proto.set_parser(" in after
    assert "await" not in after
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(server.url())
        protocol: Any = ws._conn.protocol  # type: ignore[union-attr]
        assert "set_parser" in vars(type(protocol))
        protocol.set_parser = None
        assert vars(protocol).pop("set_parser", 1) is None
        await ws.close()


# -- one that is missing --------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has opened no connection yet."""
    monkeypatch.setattr(_aiohttp_private, "_checked", set())
    return monkeypatch


def says(kind: str, name: str, purpose: str) -> str:
    said = (
        f"aiohttp {aiohttp.__version__} is not supported by this version of aiowebsocketclient:"
        f" {kind} has no {name}, which {purpose}; install another version of aiohttp"
    )
    return re.escape(said)


@pytest.mark.parametrize("kind", NAMES)
async def test_a_name_that_is_missing_is_named(
    server: Server, make_session: SessionFactory, unchecked: pytest.MonkeyPatch, kind: str
) -> None:
    unchecked.setitem(NAMES[kind], "_of_old", "opens doors")
    session = make_session()
    with pytest.raises(WebSocketPoolError, match=says(kind, "_of_old", "opens doors")):
        await session.ws_connect(server.url())
    await until(lambda: not server.open)
    assert not len(session._pool)
    # It is not taken for checked.
    with pytest.raises(WebSocketPoolError):
        await session.ws_connect(server.url())


async def test_a_method_that_is_gone_from_aiohttp(
    server: Server, make_session: SessionFactory, unchecked: pytest.MonkeyPatch
) -> None:
    session = make_session()
    unchecked.delattr(aiohttp.ClientWebSocketResponse, "_cancel_heartbeat")
    name, kind = "_cancel_heartbeat", "ClientWebSocketResponse"
    with pytest.raises(WebSocketPoolError, match=says(kind, name, NAMES[kind][name])):
        await session.ws_connect(server.url())
    await until(lambda: not server.open)


async def test_a_method_that_is_gone_from_the_session_of_a_user(
    unchecked: pytest.MonkeyPatch,
) -> None:
    async with aiohttp.ClientSession() as client_session:
        unchecked.delattr(aiohttp.ClientSession, "_build_url")
        said = says("ClientSession", "_build_url", NAMES["ClientSession"]["_build_url"])
        with pytest.raises(WebSocketPoolError, match=said):
            WebSocketClientSession(client_session=client_session)


async def test_it_is_looked_at_once_only(
    server: Server, make_session: SessionFactory, unchecked: pytest.MonkeyPatch
) -> None:
    await (await make_session().ws_connect(server.url())).release()
    unchecked.setitem(NAMES["ClientSession"], "_of_old", "opens doors")
    unchecked.setitem(NAMES["WebSocketWriter"], "_of_old", "opens doors")
    await (await make_session().ws_connect(server.url("/other"))).release()


def test_every_private_name_is_listed() -> None:
    """What the package reads of an object and defines nowhere is aiohttp's, or of Python itself."""
    of_python = {"_asdict", "_fields", "_getframe", "_io_refs", "_replace"}
    of_python |= {"_SelectorSocketTransport"}
    of_gremlinpython = {"_message_serializer"}
    used, own = set(), set()
    for path in Path(_aiohttp_private.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name):
                own.add(node.id)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asyncio."):
                assert path.name in ("_aiohttp_private.py", "_plain.py")
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    listed = {name for names in (*NAMES.values(), *HTTP_NAMES.values()) for name in names}
    listed |= OPTIONAL.keys() | TLS_NAMES.keys()
    private = {name for name in used - own if name.startswith("_") and not name.endswith("__")}
    assert private - of_python - of_gremlinpython - listed == set()
