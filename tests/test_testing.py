"""The server and the session that this package has for its users' tests."""

import asyncio
import base64
import contextlib
import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import WebSocketClientSession, testing
from aiowebsocketclient.testing import CheckedSession, WebSocketServer

from .conftest import SessionFactory, told, until


@pytest.fixture
def scripted() -> Iterator[WebSocketServer]:
    with WebSocketServer() as server:
        yield server
    assert not [thread for thread in threading.enumerate() if thread.name == "WebSocketServer"]


def handshake(server: WebSocketServer) -> socket.socket:
    """Open a connection by hand, in a test without a loop."""
    sock = socket.create_connection(("127.0.0.1", server.port), 10)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET /by/hand HTTP/1.1", "Host: localhost", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    return sock


def head(sock: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = sock.recv(1)
        assert more, got
        got += more
    return got


async def ask(session: WebSocketClientSession, url: str, question: str) -> str:
    async with session.ws_connect(url) as ws:
        await ws.send_str(question)
        return await ws.receive_str()


# -- what it sees --------------------------------------------------------------------------------


async def test_it_echoes_and_remembers(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session()
    url = scripted.url + "some/path?query=1"
    ws = await session.ws_connect(url, headers={"X-Name": "value"}, protocols=["b", "a"])
    # Whoever has a connection finds it counted.
    assert (scripted.connections, scripted.open, scripted.peak) == (1, 1, 1)
    assert ws.protocol == "b"
    await ws.send_str("text")
    assert await ws.receive_str() == "text"
    await ws.send_bytes(b"bytes")
    assert await ws.receive_bytes() == b"bytes"
    assert scripted.received == ["text", b"bytes"]
    (seen,) = scripted.handshakes
    assert seen.path == "/some/path?query=1"
    assert seen.headers["x-name"] == "value"
    await ws.close()
    # And whoever has closed one.
    assert (scripted.connections, scripted.open, scripted.peak) == (1, 0, 1)


async def test_it_counts_the_most_open_at_once(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session(limit=3)
    await asyncio.gather(*(ask(session, scripted.url, str(n)) for n in range(30)))
    await session.close()
    assert (scripted.connections, scripted.open, scripted.peak) == (3, 0, 3)
    assert sorted(scripted.received) == sorted(str(n) for n in range(30))


async def test_what_is_no_handshake_is_no_connection(scripted: WebSocketServer) -> None:
    url = scripted.url.replace("ws:", "http:")
    async with aiohttp.ClientSession() as client, client.get(url) as reply:
        assert reply.status == 400
    assert (scripted.connections, scripted.open) == (0, 0)


def test_it_serves_a_test_that_blocks(scripted: WebSocketServer) -> None:
    with handshake(scripted) as sock:
        assert head(sock).startswith(b"HTTP/1.1 101 ")
        assert scripted.open == 1
        # The frame of an unmasked server message: text, 2 bytes.
        assert scripted.send("hi") == 1
        assert sock.recv(4, socket.MSG_WAITALL) == b"\x81\x02hi"
    scripted.wait_until(lambda: scripted.open == 0)


def test_it_serves_a_loop_of_the_test_itself(scripted: WebSocketServer) -> None:
    async def main() -> str:
        async with WebSocketClientSession() as session:
            return await ask(session, scripted.url, "hello")

    assert asyncio.run(main()) == "hello"
    assert scripted.open == 0


async def test_waiting_for_what_it_sees(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    async with make_session().ws_connect(scripted.url) as ws:
        await ws.send_str("one")
        await scripted.until(lambda: scripted.received == ["one"])
        with pytest.raises(TimeoutError, match="received=1"):
            await scripted.until(lambda: len(scripted.received) == 2, 0.02)
        with pytest.raises(TimeoutError, match="received=1"):
            scripted.wait_until(lambda: len(scripted.received) == 2, 0.02)


# -- delays and refusals -------------------------------------------------------------------------


async def test_handshakes_are_delayed(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session()
    scripted.delay(handshake=600)
    call = asyncio.ensure_future(session.ws_connect(scripted.url))
    await scripted.until(lambda: len(scripted.handshakes) == 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.2)
    assert scripted.connections == 0
    scripted.delay(handshake=0)
    # The pool goes on with the one that was begun.
    assert await ask(make_session(), scripted.url, "hello") == "hello"


async def test_replies_are_delayed_and_closing_is_not(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=600)
    scripted.delay(replies=600)
    ws = await session.ws_connect(scripted.url)
    await ws.send_str("hello")
    with pytest.raises(TimeoutError):
        await ws.receive_str(timeout=0.1)
    await scripted.until(lambda: scripted.received == ["hello"])
    await ws.close()
    assert ws.close_code == 1000
    assert scripted.open == 0


async def test_delayed_replies_keep_their_order(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    scripted.delay(replies=0.05)
    async with make_session().ws_connect(scripted.url) as ws:
        for n in range(20):
            await ws.send_str(str(n))
        await scripted.until(lambda: len(scripted.received) == 20)
        scripted.delay(replies=0)
        await ws.send_str("20")
        assert [await ws.receive_str() for _ in range(21)] == [str(n) for n in range(21)]


async def test_refusals(scripted: WebSocketServer, make_session: SessionFactory) -> None:
    session = make_session()
    scripted.refuse(503, times=2)
    for _ in range(2):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(scripted.url)
        assert caught.value.status == 503
    assert await ask(session, scripted.url, "hello") == "hello"
    assert (len(scripted.handshakes), scripted.connections) == (3, 1)


async def test_refusals_until_told_otherwise(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session()
    scripted.refuse(429)
    for _ in range(3):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(scripted.url)
        assert caught.value.status == 429
    scripted.refuse(times=0)
    assert await ask(session, scripted.url, "hello") == "hello"


# -- replies -------------------------------------------------------------------------------------


async def replies_of(scripted: WebSocketServer, session: WebSocketClientSession, n: int) -> Any:
    async with session.ws_connect(scripted.url) as ws:
        await ws.send_str("question")
        return [(await ws.receive()).data for _ in range(n)]


async def later(message: str) -> str:
    await asyncio.sleep(0)
    return message[::-1]


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"question": "answer"}, ["answer"]),
        ({"question": b"answer"}, [b"answer"]),
        ({"question": ["one", b"two"]}, ["one", b"two"]),
        (str.upper, ["QUESTION"]),
        (later, ["noitseuq"]),
        (None, ["question"]),
    ],
    ids=told,
)
async def test_replies(
    scripted: WebSocketServer, make_session: SessionFactory, replies: Any, expected: list[Any]
) -> None:
    scripted.reply_with(replies)
    assert await replies_of(scripted, make_session(), len(expected)) == expected


async def test_no_reply(scripted: WebSocketServer, make_session: SessionFactory) -> None:
    scripted.reply_with({"question": None, "another": "answer"})
    async with make_session().ws_connect(scripted.url) as ws:
        await ws.send_str("question")
        await ws.send_str("another")
        assert await ws.receive_str() == "answer"


def fails(message: str) -> str:
    raise ZeroDivisionError(message)


def stops(message: str) -> None:
    pytest.fail(message)


async def is_cancelled(message: str) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ({"another": "answer"}, LookupError),
        (fails, ZeroDivisionError),
        (stops, pytest.fail.Exception),
        (is_cancelled, asyncio.CancelledError),
        (len, TypeError),
        ({"question": [1]}, TypeError),
        ({"question": {"result": "meant as JSON"}}, TypeError),
    ],
    ids=told,
)
@pytest.mark.parametrize("times", [1, 2])
async def test_replies_that_fail(
    make_session: SessionFactory, replies: Any, error: type[BaseException], times: int
) -> None:
    expected = error if times == 1 else BaseExceptionGroup
    session = make_session()
    with pytest.raises(expected) as caught, WebSocketServer() as server:
        server.reply_with(replies)
        for _ in range(times):
            ws = await session.ws_connect(server.url)
            await ws.send_str("question")
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 1011
            await ws.close()
    group = [caught.value] if times == 1 else list(caught.value.exceptions)
    assert [type(exc) for exc in group] == [error] * times


async def test_a_reply_may_tell_the_server_what_to_do(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    def reply(message: str) -> str | None:
        if message == "leave":
            assert scripted.close(4000) == 1
        elif message == "all":
            assert scripted.send("to all") == 1
        return None

    scripted.reply_with(reply)
    async with make_session().ws_connect(scripted.url) as ws:
        await ws.send_str("all")
        assert await ws.receive_str() == "to all"
        await ws.send_str("leave")
        await ws.receive()
        assert ws.close_code == 4000


# -- what it does to what is open ----------------------------------------------------------------


async def test_it_sends_to_all(scripted: WebSocketServer, make_session: SessionFactory) -> None:
    session = make_session()
    connections = [await session.ws_connect(scripted.url) for _ in range(3)]
    assert scripted.send("news") == 3
    assert scripted.send(b"more") == 3
    for ws in connections:
        assert await ws.receive_str() == "news"
        assert await ws.receive_bytes() == b"more"
        ws.release()


async def test_it_closes_all(scripted: WebSocketServer, make_session: SessionFactory) -> None:
    session = make_session()
    used = await session.ws_connect(scripted.url)
    await session.prewarm(scripted.url, 2)
    assert scripted.close(1001, "moving") == 2
    assert (scripted.open, scripted.close()) == (0, 0)
    message = await used.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    assert message.extra == "moving"
    used.release()
    await until(lambda: session.stats().idle == 0)
    assert session.stats().closed_lost == 2


async def test_it_closes_after_some_messages(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    scripted.close_after(2, 1012)
    session = make_session()
    for _ in range(2):
        ws = await session.ws_connect(scripted.url)
        for text in ("one", "two"):
            await ws.send_str(text)
            assert await ws.receive_str() == text
        await ws.receive()
        assert ws.close_code == 1012
        await ws.release()
    scripted.close_after(None)
    async with session.ws_connect(scripted.url) as ws:
        for text in ("one", "two", "three"):
            await ws.send_str(text)
            assert await ws.receive_str() == text


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_it_resets_all(make_session: SessionFactory, tls: bool) -> None:
    with WebSocketServer(tls=tls) as server:
        async with make_session().ws_connect(server.url, ssl=server.client_ssl or True) as ws:
            assert server.abort() == 1
            assert (server.open, server.abort()) == (0, 0)
            message = await ws.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert ws.close_code == 1006


def test_a_reset_is_a_reset(scripted: WebSocketServer) -> None:
    with handshake(scripted) as sock:
        head(sock)
        scripted.abort()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# -- outages -------------------------------------------------------------------------------------


async def test_an_outage(scripted: WebSocketServer, make_session: SessionFactory) -> None:
    session = make_session()
    url = scripted.url
    assert await ask(session, url, "before") == "before"
    scripted.stop()
    scripted.stop()
    await until(lambda: session.stats().idle == 0)
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.ws_connect(url)
    # There is nobody to do it to.
    assert (scripted.open, scripted.send("?"), scripted.close(), scripted.abort()) == (0,) * 4
    scripted.start()
    assert scripted.url == url
    assert await ask(session, url, "after") == "after"
    assert scripted.received == ["before", "after"]
    with pytest.raises(RuntimeError, match="already started"):
        scripted.start()


async def test_it_stops_amid_handshakes_and_replies(
    scripted: WebSocketServer, make_session: SessionFactory
) -> None:
    session = make_session()
    scripted.delay(replies=600)
    waiting = await session.ws_connect(scripted.url)
    await waiting.send_str("hello")
    closing = await session.ws_connect(scripted.url)
    await scripted.until(lambda: scripted.received == ["hello"])
    scripted.close()
    scripted.delay(handshake=600)
    connecting = asyncio.create_task(session.ws_connect(scripted.url))
    await scripted.until(lambda: len(scripted.handshakes) == 3)
    scripted.stop()
    with pytest.raises(aiohttp.ClientError):
        await connecting
    for ws in (waiting, closing):
        await ws.receive()
        await ws.close()


def test_its_port_is_taken(scripted: WebSocketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_PORT_PATIENCE", 0.1)
    scripted.stop()
    with socket.create_server(("127.0.0.1", scripted.port)):
        with pytest.raises(OSError, match="in use"):
            scripted.start()
        assert scripted.close() == 0
    scripted.start()
    with handshake(scripted) as sock:
        assert head(sock).startswith(b"HTTP/1.1 101 ")


def test_a_reply_that_blocks_is_told_of(
    scripted: WebSocketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block(message: str) -> None:
        begun.set()
        go_on.wait(20)

    scripted.reply_with(block)
    with handshake(scripted) as sock, monkeypatch.context() as patch:
        head(sock)
        # "?", masked with zeros.
        sock.sendall(b"\x81\x81\0\0\0\0?")
        assert begun.wait(10)
        patch.setattr(testing, "_PATIENCE", 0.1)
        for tell in (scripted.stop, scripted.close):
            with pytest.raises(RuntimeError, match="is a function of reply_with\\(\\) blocking"):
                tell()
        thread = scripted._thread
        assert thread is not None
        go_on.set()
        # As it was told, late.
        thread.join(10)
        assert not thread.is_alive()
    scripted.stop()
    scripted.start()


async def test_a_reply_cannot_stop_its_server(make_session: SessionFactory) -> None:
    def stop(message: str) -> None:
        server.stop()

    with pytest.raises(RuntimeError, match="own server"), WebSocketServer() as server:
        server.reply_with(stop)
        async with make_session().ws_connect(server.url) as ws:
            await ws.send_str("stop")
            await ws.receive()
            assert ws.close_code == 1011


# -- TLS -----------------------------------------------------------------------------------------


async def test_tls(make_session: SessionFactory) -> None:
    session = make_session()
    with WebSocketServer(tls=True) as server:
        assert server.url.startswith("wss://")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.ws_connect(server.url)
        async with session.ws_connect(server.url, ssl=server.client_ssl) as ws:
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"


def test_tls_without_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(RuntimeError, match="pip install trustme"):
        WebSocketServer(tls=True)


# -- misuse --------------------------------------------------------------------------------------

MISUSE: list[tuple[Callable[[WebSocketServer], object], type[Exception], str]] = [
    (lambda server: server.delay(handshake=-1), ValueError, "handshake"),
    (lambda server: server.delay(replies="1"), TypeError, "replies"),  # type: ignore[arg-type]
    (lambda server: server.refuse(200), ValueError, "status"),
    (lambda server: server.refuse("503"), ValueError, "status"),  # type: ignore[arg-type]
    (lambda server: server.refuse(times=-1), ValueError, "times"),
    (lambda server: server.reply_with("text"), TypeError, "replies"),  # type: ignore[arg-type]
    (lambda server: server.close_after(0), ValueError, "messages"),
    (lambda server: server.close_after(1, 1006), ValueError, "code"),
    (lambda server: server.send(1), TypeError, "message"),  # type: ignore[arg-type]
    (lambda server: server.close(999), ValueError, "code"),
    (lambda server: server.close(1005), ValueError, "code"),
    (lambda server: server.close("1000"), ValueError, "code"),  # type: ignore[arg-type]
    (lambda server: server.close(reason=b"x"), TypeError, "reason"),  # type: ignore[arg-type]
    (lambda server: server.close(reason="x" * 124), ValueError, "reason"),
]


@pytest.mark.parametrize(("call", "error", "named"), MISUSE, ids=range(len(MISUSE)))
def test_misuse(call: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named} "):
        call(WebSocketServer())


def test_it_has_no_address_before_it_is_started() -> None:
    server = WebSocketServer()
    assert "not started" in repr(server)
    with pytest.raises(RuntimeError, match="before it is started"):
        print(server.url)


# -- the session ---------------------------------------------------------------------------------


async def test_leaks(scripted: WebSocketServer) -> None:
    async with CheckedSession() as session:
        released = await session.ws_connect(scripted.url)
        closed = await session.ws_connect(scripted.url)
        kept = await session.ws_connect(scripted.url)
        line = sys._getframe().f_lineno - 1
        forgotten = await session.ws_connect(scripted.url)
        async with session.ws_connect(scripted.url):
            pass
        released.release()
        await closed.close()
        assert len(session.leaks()) == 2
        with pytest.warns(ResourceWarning, match="never released"):
            del forgotten
            gc.collect()
        one, other = session.leaks()
        assert f"{__file__}:{line + 2}, in test_leaks: forgotten = await" in one
        assert one.endswith("(forgotten)")
        assert f"127.0.0.1:{scripted.port}" in other
        assert f"{__file__}:{line}, in test_leaks: kept = await session.ws_connect(" in other
        kept.release()
        assert session.leaks() == [one]
    assert session.leaks() == [one]


async def test_leaks_are_where_the_test_acquired(scripted: WebSocketServer) -> None:
    async with CheckedSession() as session, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(session.ws_connect(scripted.url))
        (leak,) = session.leaks()
        assert ": await stack.enter_async_context(" in leak
        ws = await asyncio.create_task(session.ws_connect(scripted.url))
        assert session.leaks() == [
            leak,
            f"127.0.0.1:{scripted.port}, acquired in a separate task",
        ]
        await ws.close()
        ws = await asyncio.wait_for(session.ws_connect(scripted.url), 30)
        # It makes a task of it before CPython 3.12.
        told = "a separate task" if sys.version_info < (3, 12) else ": ws = await asyncio.wait_for("
        assert told in session.leaks()[1]
        await ws.close()


async def test_what_left_the_pool_is_no_leak(scripted: WebSocketServer) -> None:
    async with CheckedSession() as session:
        ws = await session.ws_connect(scripted.url)
        ws.detach()
        assert session.leaks() == []
    await ws.close()


async def test_what_is_being_reset_is_no_leak(scripted: WebSocketServer) -> None:
    gate = asyncio.Event()

    async def reset(ws: aiohttp.ClientWebSocketResponse) -> None:
        await gate.wait()

    async with CheckedSession(reset=reset) as session:
        ws = await session.ws_connect(scripted.url)
        assert len(session.leaks()) == 1
        completion = ws.release()
        assert session.stats().acquired == 1
        assert session.leaks() == []
        gate.set()
        await completion
        assert session.stats().idle == 1
