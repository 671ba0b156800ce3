"""Ready-made hooks."""

import asyncio
import gc
import weakref
from contextvars import ContextVar
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    PoolTimeoutError,
    WebSocketClientSession,
    WebSocketPoolError,
    check_ping,
)

from .conftest import SessionFactory, until
from .servers import Server


async def echoes(ws: ClientWebSocketResponse) -> bool:
    await ws.send_str("hello")
    message = await ws.receive(timeout=30)
    return bool(message.data == "hello")


async def pool_one(session: WebSocketClientSession, url: str, **options: Any) -> None:
    async with session.ws_connect(url, **options) as ws:
        assert await echoes(ws)
    await until(lambda: session.stats().idle == 1)


def freeze(server: Server) -> None:
    """Let the server read nothing any more from what is connected, as if it had been stopped."""
    for transport in server.transports:
        transport.pause_reading()


def answer_by_hand(server: Server) -> Any:
    """Return the server's side of the only connection, which now takes PINGs for messages."""
    (ws,) = server.sockets
    ws._autoping = False
    return ws


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"autoping": False},
        {"heartbeat": 0.5},
        {"heartbeat": 0.5, "autoping": False},
        {"compress": 15},
        {"timeout": aiohttp.ClientWSTimeout(ws_receive=1e-6, ws_close=1.0)},
    ],
    ids=str,
)
async def test_what_answers_is_handed_out(
    server: Server, make_session: SessionFactory, options: dict[str, Any]
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url(), **options)
    for _ in range(3):
        async with session.ws_connect(server.url(), **options) as ws:
            assert ws.reused
            assert await echoes(ws)
            assert ws._autoping is options.get("autoping", True)
    assert server.handshakes == 1
    assert server.received == ["hello"] * 4


async def test_who_would_get_a_dead_one_gets_another(
    server: Server, make_session: SessionFactory
) -> None:
    # The place is free at once: nobody waits for a closing handshake.
    session = make_session(limit=1, check=check_ping(timeout=0.05), close_timeout=60.0)
    await pool_one(session, server.url())
    freeze(server)
    async with asyncio.timeout(30), session.ws_connect(server.url()) as ws:
        assert not ws.reused
        assert await echoes(ws)
    assert (session.stats().closed_lost, session.stats().closed_failed) == (1, 0)
    assert server.handshakes == 2


async def pool_some(session: WebSocketClientSession, url: str, count: int) -> None:
    held = [await session.ws_connect(url) for _ in range(count)]
    for ws in held:
        assert await echoes(ws)
    for ws in held:
        await ws.release()
    assert session.stats().idle == count


@pytest.mark.parametrize("limits", [{}, {"limit": 5}, {"limit_total": 5}], ids=str)
async def test_one_dead_connection_tells_of_the_others(
    server: Server, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    tried = 0
    ping = check_ping(timeout=0.3)

    async def check(ws: ClientWebSocketResponse) -> None:
        nonlocal tried
        tried += 1
        await ping(ws)

    session = make_session(check=check, **limits)
    await pool_some(session, server.url(), 5)
    freeze(server)
    before = asyncio.get_running_loop().time()
    ws = await session.ws_connect(server.url())
    # Not the sum of the five, on any machine.
    assert asyncio.get_running_loop().time() - before < 5 * 0.3
    assert not ws.reused
    assert await echoes(ws)
    await until(lambda: session.stats().closed_lost == 5)
    await ws.release()
    assert (tried, session.stats().idle, session.stats().acquired) == (5, 1, 0)


@pytest.mark.parametrize("how", ["hangs", "raises"])
async def test_who_may_not_wait_pays_for_one_failed_check(
    server: Server, make_session: SessionFactory, how: str
) -> None:
    caller = asyncio.current_task()
    tried = {"by the caller": 0, "in the background": 0}
    ping = check_ping(timeout=0.2)

    async def check(ws: ClientWebSocketResponse) -> None:
        tried["by the caller" if asyncio.current_task() is caller else "in the background"] += 1
        if how == "raises":
            raise OSError("not fit")
        await ping(ws)

    session = make_session(check=check)
    await pool_some(session, server.url(), 5)
    if how == "hangs":
        freeze(server)
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0)
    assert tried["by the caller"] == 1
    await until(lambda: not session.stats().acquired)
    assert tried == {"by the caller": 1, "in the background": 4}
    assert session.stats().idle == 0
    assert session.stats().connects == 5


async def waits_for_something_else(ws: ClientWebSocketResponse) -> None:
    await ws.ping()
    await asyncio.Event().wait()


async def goes_on_though_told_to_stop(ws: ClientWebSocketResponse) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)


async def raises_something_else_when_told_to_stop(ws: ClientWebSocketResponse) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("not fit")


async def has_a_timeout_of_its_own(ws: ClientWebSocketResponse) -> None:
    await ws.ping()
    async with asyncio.timeout(0.05):
        await asyncio.Event().wait()


async def raises_unheard(ws: ClientWebSocketResponse) -> None:
    raise OSError("not fit")


async def is_cancelled_unheard(ws: ClientWebSocketResponse) -> None:
    raise asyncio.CancelledError


async def waits_for_its_close(ws: ClientWebSocketResponse) -> None:
    await ws.close()


async def waits_for_a_message(ws: ClientWebSocketResponse) -> None:
    await ws.receive()


# aiohttp's own bound of a closing handshake.
PATIENT: dict[str, Any] = {"timeout": aiohttp.ClientWSTimeout(ws_close=60.0)}


@pytest.mark.parametrize("limits", [{"limit": 2}, {"limit_total": 2}], ids=str)
@pytest.mark.parametrize(
    "hook",
    [
        waits_for_something_else,
        goes_on_though_told_to_stop,
        raises_something_else_when_told_to_stop,
        has_a_timeout_of_its_own,
        raises_unheard,
        is_cancelled_unheard,
        waits_for_its_close,
        waits_for_a_message,
    ],
    ids=lambda hook: hook.__name__,
)
async def test_a_hook_that_failed_for_want_of_an_answer_holds_no_place(
    server: Server,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    hook: Any,
    limits: dict[str, int],
) -> None:
    """Neither a check of a caller's, nor one in the background, nor a reset."""
    monkeypatch.setattr("aiowebsocketclient.settings._HASTE", 0.05)
    frozen = False

    async def frozen_only(ws: ClientWebSocketResponse) -> None:
        if frozen:
            await hook(ws)

    async def acquire_two() -> list[ClientWebSocketResponse]:
        async with asyncio.timeout(30):
            return [await session.ws_connect(server.url(), **PATIENT) for _ in range(2)]

    session = make_session(
        check=frozen_only, reset=frozen_only, hook_timeout=0.2, close_timeout=60.0, **limits
    )
    held = await acquire_two()
    await asyncio.gather(*[ws.release() for ws in held])
    freeze(server)
    frozen = True
    # One is checked for a caller, the other behind it.
    held = await acquire_two()
    assert not any(ws.reused for ws in held)
    freeze(server)
    for ws in held:
        ws.release()
    held = await acquire_two()
    assert not any(ws.reused for ws in held)
    assert all([await echoes(ws) for ws in held])
    frozen = False
    await asyncio.gather(*[ws.release() for ws in held])


@pytest.mark.parametrize("how", ["acquire_timeout", "cancelled"])
async def test_a_check_that_its_caller_gave_up_unheard_holds_no_place(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("aiowebsocketclient.settings._HASTE", 0.05)
    session = make_session(
        check=waits_for_something_else, hook_timeout=60.0, close_timeout=60.0, limit=1
    )
    await pool_one(session, server.url(), **PATIENT)
    freeze(server)
    with pytest.raises(asyncio.TimeoutError):
        if how == "acquire_timeout":
            await session.ws_connect(server.url(), **PATIENT, acquire_timeout=0.3)
        else:
            await asyncio.wait_for(session.ws_connect(server.url(), **PATIENT), 0.3)
    async with asyncio.timeout(30), session.ws_connect(server.url(), **PATIENT) as ws:
        assert await echoes(ws)


async def test_a_server_that_was_heard_has_its_time_to_say_goodbye(
    server: Server, make_session: SessionFactory
) -> None:
    async def check(ws: ClientWebSocketResponse) -> None:
        heard = ws._slot.conn.heard
        # The clock is coarse.
        while ws._slot.conn.heard == heard:
            assert await echoes(ws)
            await asyncio.sleep(0.001)
        freeze(server)
        raise OSError("not fit")

    session = make_session(check=check, close_timeout=300.0)
    await pool_some(session, server.url(), 1)
    (slot,) = session._pool.slots()
    conn = slot.conn
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        assert conn.timer.when() > asyncio.get_running_loop().time() + 60
        conn.abort()


async def test_those_that_are_alive_come_back(server: Server, make_session: SessionFactory) -> None:
    session = make_session(check=check_ping(timeout=0.2))
    await pool_some(session, server.url(), 4)
    # The one that was released last is tried first.
    server.transports[-1].pause_reading()
    async with session.ws_connect(server.url()) as ws:
        await until(lambda: session.stats().idle == 3)
        assert await echoes(ws)
    assert session.stats().closed_lost == 1
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused


async def test_one_that_has_heard_something_since_is_tried_by_the_caller(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping(timeout=0.2))
    await pool_some(session, server.url(), 3)
    heard = {id(slot): slot.conn.heard for slot in session._pool.slots()}
    await asyncio.sleep(0.05)  # the coarse clock is some milliseconds behind
    await server.sockets[0].ping()
    await until(lambda: {id(s): s.conn.heard for s in session._pool.slots()} != heard)
    for transport in server.transports[1:]:
        transport.pause_reading()
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
        assert await echoes(ws)
    assert server.handshakes == 3


@pytest.mark.parametrize("how", ["acquire_timeout", "cancelled"])
async def test_a_check_that_its_caller_gave_up_tells_of_the_others(
    server: Server, make_session: SessionFactory, how: str
) -> None:
    session = make_session(check=check_ping(timeout=30.0), hook_timeout=60.0)
    await pool_some(session, server.url(), 3)
    freeze(server)
    with pytest.raises(asyncio.TimeoutError):
        if how == "acquire_timeout":
            await session.ws_connect(server.url(), acquire_timeout=0.2)
        else:
            await asyncio.wait_for(session.ws_connect(server.url()), 0.2)
    async with asyncio.timeout(15), session.ws_connect(server.url()) as ws:
        assert not ws.reused


async def test_what_is_checked_in_the_background_is_nobodys(
    server: Server, make_session: SessionFactory
) -> None:
    """The context of the caller whose check failed is not that of the other checks."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    users: list[str] = []

    async def check(ws: ClientWebSocketResponse) -> None:
        users.append(user.get())
        if len(users) == 1:
            raise OSError("not fit")

    session = make_session(check=check)
    await pool_some(session, server.url(), 3)
    user.set("alice")
    async with session.ws_connect(server.url()):
        await until(lambda: len(users) == 3)
    assert users == ["alice", "nobody", "nobody"]


async def test_a_connection_without_a_check_is_left_alone(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    checked: dict[str, Any] = {"check": check_ping(timeout=0.1)}
    await pool_one(session, server.url())
    async with session.ws_connect(server.url(), **checked) as ws:
        assert await echoes(ws)
    await until(lambda: session.stats().idle == 2)
    freeze(server)
    async with session.ws_connect(server.url(), **checked) as ws:
        assert not ws.reused
        assert session.stats().idle == 1


@pytest.mark.parametrize("end", ["socket", "session"])
async def test_connections_that_end_before_their_check_begins(
    server: Server, make_session: SessionFactory, end: str
) -> None:
    failing = True

    async def check(ws: ClientWebSocketResponse) -> None:
        nonlocal failing
        if not failing:
            await ws.ping()
            return
        failing = False
        # The loop calls connection_lost() before the first step of any task that begins now.
        for slot in session._pool.slots():
            slot.conn._transport.abort()
        if end == "session":
            asyncio.get_running_loop().call_soon(session._begin_to_close)
        raise OSError("not fit")

    session = make_session(check=check)
    await pool_some(session, server.url(), 4)
    if end == "session":
        with pytest.raises(PoolClosedError):
            await session.ws_connect(server.url())
        await session.close()
    else:
        async with session.ws_connect(server.url()) as ws:
            assert not ws.reused
            await until(lambda: session.stats().closed_lost == 4)
    assert session.stats().acquired == 0
    assert session.stats().closing == 0


async def test_the_session_closes_while_connections_are_checked(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiowebsocketclient.acquiring._MAX_CHECKING", 2)
    running = 0
    failing = True

    async def check(ws: ClientWebSocketResponse) -> None:
        nonlocal running, failing
        running += 1
        if failing:
            failing = False
            raise OSError("not fit")
        await asyncio.Event().wait()

    session = make_session(check=check)
    await pool_some(session, server.url(), 6)
    ws = await session.ws_connect(server.url())
    await until(lambda: running == 3)
    assert session.stats().acquired == 6
    await session.close()
    assert running == 3
    await ws.release()


async def test_no_more_are_checked_at_once_than_may_be(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiowebsocketclient.acquiring._MAX_CHECKING", 2)
    running = peak = 0
    failing = True

    async def check(ws: ClientWebSocketResponse) -> None:
        nonlocal running, peak, failing
        if failing:
            failing = False
            raise OSError("not fit")
        running += 1
        peak = max(peak, running)
        await ws.ping()
        await asyncio.sleep(0.01)
        running -= 1

    session = make_session(check=check)
    await pool_some(session, server.url(), 6)
    async with session.ws_connect(server.url()):
        await until(lambda: session.stats().idle == 5)
    assert peak == 2


async def test_without_it_a_dead_one_is_handed_out(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    await pool_one(session, server.url())
    freeze(server)
    ws = await session.ws_connect(server.url())
    assert ws.reused
    await ws.send_str("hello")
    with pytest.raises(asyncio.TimeoutError):
        await ws.receive(timeout=0.2)
    server.transports[0].abort()
    await ws.close()


async def test_pings_are_answered_and_old_pongs_skipped(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url())
    other_side = answer_by_hand(server)
    for number in range(2):
        del server.received[:]
        caller = asyncio.ensure_future(session.ws_connect(server.url()))
        await until(lambda: server.received)
        (payload,) = server.received
        await other_side.pong(b"of another")
        await other_side.pong()
        await other_side.ping(b"are you there?")
        await until(lambda: server.received[1:] == [b"are you there?"])
        assert not caller.done()
        await other_side.pong(payload)
        ws = await caller
        assert ws.reused
        await ws.release()
        if number == 0:
            first = payload
    assert payload != first
    assert session.stats().idle == 1


async def test_a_message_before_the_pong_is_a_failure(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url())
    other_side = answer_by_hand(server)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: len(server.received) == 2)
    await other_side.send_str("unasked")
    await other_side.pong(server.received[1])
    ws = await caller
    assert not ws.reused
    assert session.stats().closed_failed == 1
    await ws.release()


@pytest.mark.parametrize("autoclose", [True, False])
async def test_a_close_before_the_pong_is_a_failure(
    server: Server, make_session: SessionFactory, autoclose: bool
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url(), autoclose=autoclose)
    other_side = answer_by_hand(server)
    caller = asyncio.ensure_future(session.ws_connect(server.url(), autoclose=autoclose))
    await until(lambda: len(server.received) == 2)
    await other_side.close()
    ws = await caller
    assert not ws.reused
    assert session.stats().closed_lost == 1
    assert server.close_codes == [aiohttp.WSCloseCode.OK]
    await ws.release()


async def test_what_ends_before_the_pong_is_a_failure(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url())
    answer_by_hand(server)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: len(server.received) == 2)
    server.transports[0].abort()
    ws = await caller
    assert not ws.reused
    assert session.stats().closed_lost == 1
    await ws.release()


async def test_a_receive_of_a_subclass_is_not_asked(
    server: Server, make_session: SessionFactory
) -> None:
    class Response(ClientWebSocketResponse):
        async def receive(self, *args: Any, **kwargs: Any) -> Any:
            message: Any = await super().receive(*args, **kwargs)
            assert message.type is aiohttp.WSMsgType.TEXT
            return message

    session = make_session(check=check_ping(), ws_response_class=Response)
    await pool_one(session, server.url())
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused


@pytest.mark.parametrize("name", ["configure", "check", "reset"])
async def test_it_may_be_any_hook(server: Server, make_session: SessionFactory, name: str) -> None:
    session = make_session(**{name: check_ping()})
    for reused in (False, True, True):
        async with session.ws_connect(server.url()) as ws:
            assert ws.reused is reused
            assert await echoes(ws)
        await until(lambda: session.stats().idle == 1)
    assert server.handshakes == 1


@pytest.mark.parametrize("path", ["/silent", "/greet"])
async def test_to_configure_with_it_fails_the_caller(
    server: Server, make_session: SessionFactory, path: str
) -> None:
    session = make_session(configure=check_ping(timeout=0.2 if path == "/silent" else 30.0))
    error: Any = aiohttp.ServerTimeoutError if path == "/silent" else WebSocketPoolError
    with pytest.raises(error, match="PONG"):
        await session.ws_connect(server.url(path))
    await until(lambda: session.stats().endpoints == 0)


async def test_who_is_cancelled_meanwhile_leaves_nothing_half_done(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url())
    answer_by_hand(server)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: len(server.received) == 2)
    (slot,) = session._pool.slots()
    caller.cancel()
    await asyncio.wait([caller])
    # A PONG is on its way, so it is not for the next one either.
    assert session.stats().closed_cancelled == 1
    assert slot.conn.state["_autoping"] is True
    await until(lambda: not session.stats().closing)


async def test_a_session_closed_meanwhile(server: Server, make_session: SessionFactory) -> None:
    session = make_session(check=check_ping())
    await pool_one(session, server.url())
    answer_by_hand(server)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: len(server.received) == 2)
    await session.close()
    with pytest.raises(WebSocketPoolError, match="closed"):
        await caller


async def test_what_did_not_answer_leaves_nothing_to_the_cyclic_collector(
    server: Server, make_session: SessionFactory
) -> None:
    made: weakref.WeakSet[Any] = weakref.WeakSet()

    class Response(ClientWebSocketResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.add(self)

    session = make_session(check=check_ping(timeout=0.05), ws_response_class=Response)
    await pool_one(session, server.url())
    freeze(server)
    gc.collect()
    gc.disable()
    try:
        await (await session.ws_connect(server.url())).close()
        await until(lambda: session.stats().endpoints == 0)
        await until(lambda: not made)
    finally:
        gc.enable()


def test_equal_arguments_give_the_same_hook() -> None:
    assert check_ping() is check_ping(5) is check_ping(timeout=5.0)
    assert check_ping(None) is check_ping(timeout=None)
    assert check_ping() is not check_ping(1.0)


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan"), float("inf")])
def test_what_is_no_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        check_ping(timeout)
