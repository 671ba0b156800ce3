"""Messages that nobody has asked for: what ``on_idle_message`` says of them."""

import asyncio
import contextlib
import logging
import types
from collections.abc import Coroutine, Generator
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import ClientWebSocketResponse, PrewarmError, WebSocketClientSession

from .conftest import SessionFactory, until
from .proxy import frame
from .servers import Server

TEXT, BINARY, PING = 0x81, 0x82, 0x89


def pong(message: Any) -> str | bool | None:
    """Answer a text ``ping``; besides, only the echo of the answer is expected."""
    return "pong" if message.data == "ping" else message.data == "pong"


async def exchange(session: WebSocketClientSession, url: str, text: str = "hello") -> bool:
    """Return whether the connection was used before."""
    async with session.ws_connect(url) as ws:
        await ws.send_str(text)
        assert await ws.receive_str() == text
        return ws.reused


def begin_eagerly(steps: Coroutine[Any, Any, bool]) -> "asyncio.Future[bool]":
    """Run the first step of a coroutine at once, as an eager task does, the others in a task."""
    first = steps.send(None)

    @types.coroutine
    def go_on() -> Generator[Any, Any, bool]:
        yield first
        return (yield from steps)  # type: ignore[misc]

    return asyncio.ensure_future(go_on())


async def test_an_expected_message_is_answered(
    make_session: SessionFactory, server: Server
) -> None:
    heard: list[Any] = []

    def judge(message: Any) -> str | bool | None:
        heard.append(message.data)
        return pong(message)

    session = make_session(on_idle_message=judge)
    await exchange(session, server.url())
    await server.sockets[0].send_str("ping")
    # A caller who comes before the echo would receive the echo.
    await until(lambda: heard == ["ping", "pong"])
    assert await exchange(session, server.url())
    assert session.stats().connects == 1
    assert "pong" in server.received


@pytest.mark.parametrize("answer", [b"\x00" * 1001, "\N{SNOWMAN}" * 1001])
async def test_an_answer_can_be_text_or_binary(
    make_session: SessionFactory, server: Server, answer: str | bytes
) -> None:
    session = make_session(on_idle_message=lambda _: answer)
    await session.prewarm(server.url("/short"), 1)
    await server.sockets[0].send_bytes(b"ping")
    await until(lambda: server.received == [answer])
    assert session.stats().idle == 1


async def test_an_expected_message_needs_no_answer(
    make_session: SessionFactory, server: Server
) -> None:
    seen: list[Any] = []
    session = make_session(on_idle_message=lambda message: seen.append(message.data) or True)
    await exchange(session, server.url())
    for number in range(3):
        await server.sockets[0].send_str(str(number))
    await until(lambda: seen == ["0", "1", "2"])
    assert await exchange(session, server.url())
    assert server.received == ["hello", "hello"]


@pytest.mark.parametrize("text", ["ping", "what?"])
async def test_what_is_unread_on_a_connection_marked_clean_is_judged(
    make_session: SessionFactory, server: Server, text: str
) -> None:
    session = make_session(on_idle_message=lambda message: message.data == "ping")
    ws = await session.ws_connect(server.url())
    reader = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    ws._conn.protocol.data_received(frame(TEXT, text.encode()))  # type: ignore[union-attr]
    ws.mark_clean()
    await ws.release()
    assert await exchange(session, server.url()) == (text == "ping")


@pytest.mark.parametrize("verdict", [False, None])
async def test_an_unexpected_message_closes(
    make_session: SessionFactory, server: Server, verdict: bool | None
) -> None:
    session = make_session(on_idle_message=lambda _: verdict)
    await exchange(session, server.url())
    await server.sockets[0].send_str("what?")
    await until(lambda: session.stats().closed_dirty == 1)
    assert not await exchange(session, server.url())


async def returns_coroutine() -> bool:
    return True


def result_of_a_cancelled_future() -> bool:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future.result()


class Async:
    """Looks like a function, and returns a coroutine."""

    def __call__(self, message: Any) -> Any:
        return returns_coroutine()


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        (lambda _: 1 // 0, "ZeroDivisionError"),
        (lambda _: 5, "TypeError"),
        (lambda _: bytearray(b"x"), "TypeError"),
        (Async(), "TypeError"),
        (lambda _: result_of_a_cancelled_future(), "CancelledError"),
    ],
    ids=["raises", "number", "bytearray", "coroutine", "cancelled"],
)
async def test_a_hook_that_fails_closes_and_is_logged(
    make_session: SessionFactory,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    hook: Any,
    error: str,
) -> None:
    session = make_session(on_idle_message=hook, name="x")
    await exchange(session, server.url("/?token=secret"))
    await server.sockets[0].send_str("secret")
    await until(lambda: session.stats().closed_dirty == 1)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    told: Any = record
    assert (told.event, told.hook, told.error) == ("hook_failed", "on_idle_message", error)
    assert "secret" not in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize("payload", [b"", b"ping", b"p" * 126, b"p" * 70_000])
async def test_a_message_in_pieces(
    make_session: SessionFactory, server: Server, payload: bytes
) -> None:
    """No caller gets a connection that is inside a message; between messages it stays."""
    whole = frame(TEXT, payload) + frame(PING, b"now") + frame(BINARY, payload)
    seen: list[Any] = []
    session = make_session(on_idle_message=lambda message: seen.append(message.data) or True)
    url = server.url()
    step = max(1, len(whole) // 40)
    await exchange(session, url)
    for cut in range(1, len(whole), step):
        seen.clear()
        server.transports[0].write(whole[:cut])
        await asyncio.sleep(0)
        server.transports[0].write(whole[cut:])
        await until(lambda: len(seen) == 2)
        assert seen == [payload.decode(), payload]
        assert await exchange(session, url)
    assert session.stats().connects == 1


async def test_inside_a_message_it_is_not_handed_out(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(on_idle_message=lambda _: True)
    await exchange(session, server.url())
    server.transports[0].write(frame(TEXT, b"ping")[:3])
    conn = next(slot.conn for slot in session._pool.slots())
    await until(conn.is_held_back)
    assert session.stats().idle == 1
    assert not await exchange(session, server.url())
    assert session.stats().closed_dirty == 1


async def test_a_waiter_whose_connection_has_ended_gets_none_inside_a_message(
    make_session: SessionFactory, server: Server
) -> None:
    """Both happen between the turn in which it is given a connection and the one it wakes in."""
    session = make_session(on_idle_message=lambda _: True, limit=2)
    first = await session.ws_connect(server.url())
    second = await session.ws_connect(server.url())
    protocol: Any = second._conn.protocol  # type: ignore[union-attr]
    waiting = asyncio.ensure_future(exchange(session, server.url()))
    await until(lambda: session.stats().waiting == 1)
    first.release()
    second.release()
    protocol.data_received(frame(TEXT, b"notice")[:5])
    first._slot.conn._transport.abort()  # type: ignore[union-attr]
    assert await waiting is False
    assert session.stats().closed_dirty == 1


async def test_fragments_with_a_ping_between(make_session: SessionFactory, server: Server) -> None:
    seen: list[Any] = []
    session = make_session(on_idle_message=lambda message: seen.append(message.data) or True)
    await exchange(session, server.url())
    for part in (frame(0x01, b"on"), frame(PING, b"x"), frame(0x80, b"e"), frame(TEXT, b"two")):
        server.transports[0].write(part)
        await asyncio.sleep(0)
    await until(lambda: seen == ["one", "two"])
    assert await exchange(session, server.url())


@pytest.mark.parametrize(
    "nonsense",
    [frame(0x83, b"?"), frame(0x80, b"more"), frame(0xF1, b"reserved"), b"\x89\x7e\x00\xff"],
    ids=["opcode", "continuation", "reserved", "long ping"],
)
async def test_a_broken_frame_ends_it(
    make_session: SessionFactory, server: Server, nonsense: bytes
) -> None:
    session = make_session(on_idle_message=lambda _: True)
    await exchange(session, server.url())
    server.transports[0].write(frame(TEXT, b"fine") + nonsense)
    await until(lambda: session.stats().idle == 0)
    assert not await exchange(session, server.url())


async def test_a_close_behind_an_expected_message(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(on_idle_message=lambda _: True, retire_on={1012})
    # One after the other: the server may accept two in the other order.
    for count in (1, 2):
        await session.prewarm(server.url(), count)
    last = server.sockets[-1]
    await last.send_str("restarting")
    await last.close(code=1012)
    await until(lambda: len(session._pool) == 0)
    assert session.stats().closed_lost == 1
    assert session.stats().closed_forced == 1


async def test_what_is_unread_at_release_is_judged(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(on_idle_message=pong)
    async with session.ws_connect(server.url()) as ws:
        for _ in range(2):
            await server.sockets[0].send_str("ping")
        await until(lambda: len(vars(ws)["_reader"]._buffer) == 2)
    assert session.stats().idle == 1
    await until(lambda: server.received == ["pong", "pong"])


async def test_an_unread_reply_at_release_still_closes(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(on_idle_message=pong)
    async with session.ws_connect(server.url()) as ws:
        await server.sockets[0].send_str("ping")
        await ws.send_str("a reply")
        await until(lambda: len(vars(ws)["_reader"]._buffer) == 2)
    assert session.stats().closed_dirty == 1


async def test_a_greeting_is_judged(make_session: SessionFactory, server: Server) -> None:
    session = make_session(on_idle_message=lambda message: message.data == "welcome")
    assert await session.prewarm(server.url("/greet"), 2) == 2
    await until(lambda: session.stats().idle == 2)
    # Without, a greeting ends a connection that nobody has used.
    session = make_session()
    with contextlib.suppress(PrewarmError):
        await session.prewarm(server.url("/greet"), 1)
    await until(lambda: session.stats().closed_dirty == 1)


async def test_what_a_reset_leaves_is_judged(make_session: SessionFactory, server: Server) -> None:
    async def reset(ws: ClientWebSocketResponse) -> None:
        await server.sockets[0].send_str("ping")
        await until(lambda: vars(ws)["_reader"]._buffer)

    session = make_session(on_idle_message=pong, reset=reset)
    ws = await session.ws_connect(server.url())
    await ws.release()
    await until(lambda: session.stats().idle == 1)
    await until(lambda: "pong" in server.received)


@pytest.mark.parametrize("when", ["release", "reset", "new"])
async def test_a_hook_that_meets_a_cancelled_future(
    make_session: SessionFactory, server: Server, when: str
) -> None:
    """It costs the connection: no release or prewarm() waits for ever, and no place is lost."""

    async def wait(ws: ClientWebSocketResponse) -> None:
        await until(lambda: vars(ws)["_reader"]._buffer)

    session = make_session(on_idle_message=lambda _: result_of_a_cancelled_future())
    if when == "new":
        await session.prewarm(server.url("/greet"), 1, configure=wait)
    else:
        ws = await session.ws_connect(server.url(), reset=wait if when == "reset" else None)
        await ws.send_str("hello")
        if when == "release":
            await wait(ws)
        await asyncio.wait_for(ws.release(), 30)
    await until(lambda: len(session._pool) == 0)
    assert session.stats().closed_dirty == 1


@pytest.mark.parametrize("when", ["idle", "released", "new"])
async def test_the_hook_may_ask_for_a_connection(
    make_session: SessionFactory, server: Server, when: str
) -> None:
    """The caller does not get the connection whose message is being judged before the end."""
    judging = False
    callers: list[asyncio.Future[bool]] = []

    async def call() -> bool:
        async with session.ws_connect(url) as ws:
            assert not judging
            await ws.send_str("mine")
            return await ws.receive_str() == "mine"

    def judge(message: Any) -> bool:
        nonlocal judging
        judging = True
        callers.append(begin_eagerly(call()))
        judging = False
        return True

    async def wait(ws: ClientWebSocketResponse) -> None:
        await until(lambda: vars(ws)["_reader"]._buffer)

    configure = wait if when == "new" else None
    session = make_session(on_idle_message=judge, limit=1, configure=configure)
    url = server.url("/greet" if when == "new" else "/")
    if when == "released":
        async with session.ws_connect(url) as ws:
            await ws.send_str("unread")
            await wait(ws)
    else:
        await session.prewarm(url, 1)
    if when == "idle":
        # In one piece: what is behind the first message must be judged, too.
        server.transports[0].write(2 * frame(TEXT, b"what?"))
    await until(lambda: callers)
    assert all(await asyncio.wait_for(asyncio.gather(*callers), 30))
    assert session.stats().connects == 1


async def test_it_is_not_called_while_a_caller_has_the_connection(
    make_session: SessionFactory, server: Server
) -> None:
    seen: list[Any] = []
    session = make_session(on_idle_message=lambda message: seen.append(message.data) or True)
    await exchange(session, server.url())
    async with session.ws_connect(server.url()) as ws:
        await server.sockets[0].send_str("mine")
        assert await ws.receive_str() == "mine"
    assert seen == []
    await server.sockets[0].send_str("idle")
    await until(lambda: seen == ["idle"])


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_the_hook_may_close_the_connection(
    make_session: SessionFactory, server: Server, end: str
) -> None:
    closing: list[Any] = []

    def judge(message: Any) -> bool:
        closing.append(
            session.drain() if end == "drain" else asyncio.ensure_future(session.close())
        )
        return True

    session = make_session(on_idle_message=judge)
    await session.prewarm(server.url(), 2)
    await server.sockets[0].send_str("go")
    await until(lambda: closing and len(session._pool) == 0)
    await asyncio.gather(*closing)
    assert session.stats().closed_forced == 2


async def test_calls_with_different_functions_share_nothing(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    options: list[dict[str, Any]] = [
        {"on_idle_message": None},
        {"on_idle_message": pong},
        {"on_idle_message": lambda _: True},
        {"keepalive": (60, "x")},
        {"keepalive": (60, b"x")},
        {"keepalive": (61, "x")},
        {"goodbye": "x"},
        {"goodbye": b"x"},
    ]
    for _ in range(2):
        for some in options:
            await (await session.ws_connect(server.url(), **some)).release()
    assert session.stats().connects == len(options)
    # Each is remembered, so the second call resolves nothing.
    assert len(session._targets) == len(options)


async def test_an_answer_that_cannot_be_sent_ends_the_connection(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(on_idle_message=lambda _: b"x" * 8_000_000, close_timeout=0.2)
    await session.prewarm(server.url("/silent"), 1)
    while session.stats().idle:
        await server.sockets[0].send_str("more?")
        await asyncio.sleep(0.001)
    await until(lambda: len(session._pool) == 0)
    assert session.stats().closed_lost == 1


async def test_a_large_answer_that_a_thread_would_compress(
    make_session: SessionFactory, server: Server
) -> None:
    """Whether it is sent or ends the connection, the next exchange is right."""
    session = make_session(on_idle_message=lambda _: "y" * 300_000)
    url = server.url("/short")
    async with session.ws_connect(url, compress=15) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
    await server.sockets[0].send_str("ping")
    await until(lambda: "y" * 300_000 in server.received or session.stats().closed_lost)
    async with session.ws_connect(url, compress=15) as ws:
        await ws.send_str("again")
        assert await ws.receive_str() == "again"


async def test_message_types(make_session: SessionFactory, server: Server) -> None:
    seen: list[Any] = []
    session = make_session(on_idle_message=lambda message: seen.append(message) or True)
    await exchange(session, server.url())
    await server.sockets[0].send_json({"type": "ping"})
    await server.sockets[0].send_bytes(b"\x01")
    await until(lambda: len(seen) == 2)
    assert seen[0].type is aiohttp.WSMsgType.TEXT
    assert seen[0].json() == {"type": "ping"}
    assert seen[1].type is aiohttp.WSMsgType.BINARY
    assert seen[1].data == b"\x01"


# -- arguments -----------------------------------------------------------------------------------


async def _later(*_: object) -> str:
    return "pong"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_idle_message": "pong"}, TypeError, "a function of one argument, or None, not str"),
        ({"on_idle_message": _later}, TypeError, "an ordinary function, not an async function"),
        ({"keepalive": 5}, TypeError, "keepalive must be (seconds, message or hook), such as"),
        ({"keepalive": (5,)}, TypeError, "or None, not a tuple of 1"),
        ({"keepalive": (None, "x")}, TypeError, "seconds of keepalive must be a number > 0, not"),
        ({"keepalive": ("5", "x")}, TypeError, "keepalive must be a number of seconds, not str"),
        ({"keepalive": (0, "x")}, ValueError, "keepalive must be a finite number > 0, got 0"),
        ({"keepalive": (-1, "x")}, ValueError, "keepalive must be a finite number > 0, got -1"),
        ({"keepalive": (5, {})}, TypeError, "part of keepalive must be a str, bytes or an async"),
        ({"goodbye": {}}, TypeError, "goodbye must be a str, bytes or None, not dict"),
        ({"hook_timeout": -1}, ValueError, "must be a finite number > 0 or None, got -1"),
    ],
    ids=range(11),
)
def test_invalid_arguments_raise_at_once(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        WebSocketClientSession(**options)
    assert said in str(caught.value)
