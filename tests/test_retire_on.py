"""Servers that go away: what an idle connection that they close says of the others."""

import asyncio
from typing import Any

import pytest
from aiohttp import WSCloseCode

from aiowebsocketclient import (
    GOING_AWAY,
    ClientWebSocketResponse,
    WebSocketClientSession,
)
from aiowebsocketclient._pool_py import ACQUIRED, IDLE

from .conftest import SessionFactory, told, until
from .servers import Server, serving


async def hold(session: WebSocketClientSession, url: str, count: int) -> list[Any]:
    """Return new connections, the oldest first."""
    return [await session.ws_connect(url) for _ in range(count)]


async def release(*held: ClientWebSocketResponse) -> None:
    for ws in held:
        await ws.release()


def hear(ws: ClientWebSocketResponse, data: bytes) -> None:
    """Let a connection receive this here and now, as in the loop's callback."""
    slot: Any = ws._slot
    slot.conn._protocol.data_received(data)


GOES_AWAY = b"\x88\x02\x03\xe9"


def states(*held: ClientWebSocketResponse) -> list[int]:
    return [ws._slot.state for ws in held]  # type: ignore[union-attr]


# -- a shutdown ----------------------------------------------------------------------------------


async def shut_down_under(server: Server, session: WebSocketClientSession) -> tuple[bool, bool]:
    """Let the server close one idle connection of 20, and then the others.

    Returns whether the next caller's had been used before, and whether it works.
    """
    await release(*await hold(session, server.url(), 20))
    going = list(server.sockets)
    assert server.open == session.stats().idle == 20
    closings = [asyncio.create_task(going.pop().close(code=WSCloseCode.GOING_AWAY))]
    await until(lambda: session.stats().closed_lost == 1)
    ws = await session.ws_connect(server.url())
    # A moment later.
    closings += [asyncio.create_task(each.close(code=WSCloseCode.GOING_AWAY)) for each in going]
    await asyncio.wait(closings)
    try:
        await ws.send_str("is somebody there?")
        works = (await ws.receive()).data == "is somebody there?"
    except ConnectionError:
        works = False
    await ws.release()
    return ws.reused, works


async def test_a_shutdown_costs_callers_nothing(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(retire_on=GOING_AWAY)
    assert await shut_down_under(server, session) == (False, True)
    stats = session.stats()
    assert (stats.idle, stats.closed_lost, stats.closed_forced) == (1, 1, 19)
    assert server.handshakes == 21


async def test_otherwise_a_shutdown_costs_each_caller_a_failure(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    assert await shut_down_under(server, session) == (True, False)
    assert session.stats().closed_forced == 0
    assert session.stats().closed_lost == 20


async def test_all_that_are_closed_at_once_are_counted_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(retire_on=GOING_AWAY, limit=20)
    await release(*await hold(session, server.url(), 20))
    # The oldest first, which says nothing of the others.
    await asyncio.gather(*[ws.close(code=WSCloseCode.GOING_AWAY) for ws in server.sockets])
    await until(lambda: session.stats().closing == session.stats().idle == 0)
    stats = session.stats()
    assert stats.closed_lost + stats.closed_forced == 20
    async with asyncio.timeout(30):
        await release(*await hold(session, server.url(), 20))


# -- what counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*sorted(GOING_AWAY), 1000, 1011, 3000, 4999])
@pytest.mark.parametrize("given", [GOING_AWAY, [4999, WSCloseCode.OK]], ids=["away", "others"])
async def test_only_the_codes_that_are_given(
    server: Server, make_session: SessionFactory, code: int, given: Any
) -> None:
    session = make_session(retire_on=given)
    older, one = await hold(session, server.url(), 2)
    await release(older, one)
    await server.sockets[1].close(code=code)
    await until(lambda: session.stats().closed_lost == 1)
    assert session.stats().closed_forced == (code in given)
    assert session.stats().idle == (code not in given)


async def test_only_a_frame(server: Server, make_session: SessionFactory) -> None:
    # 1006 is what aiohttp says of one that has ended without a frame.
    session = make_session(retire_on=range(1000, 5000))
    older, *others = await hold(session, server.url(), 3)
    timed_out = await session.ws_connect(server.url("/silent"), heartbeat=0.05)
    await release(older, *others, timed_out)
    server.transports[1].abort()
    await until(lambda: session.stats().closed_lost >= 1)
    hear(others[1], b"\x83\x00")
    await until(lambda: session.stats().closed_lost == 3)
    assert session.stats().closed_forced == 0
    assert session.stats().idle == 1
    # One without a code stands for 1005.
    reused, new = await hold(session, server.url(), 2)
    await release(reused, new)
    hear(new, b"\x88\x00")
    assert session.stats().closed_forced == 1


async def test_only_those_as_old_or_older(server: Server, make_session: SessionFactory) -> None:
    session = make_session(retire_on=GOING_AWAY)
    held = await hold(session, server.url(), 5)
    # The order of their last use is another.
    await release(held[3], held[0], held[2], held[4], held[1])
    await server.sockets[2].close(code=1001)
    await until(lambda: session.stats().closed_lost == 1)
    assert states(held[3], held[4]) == [IDLE, IDLE]
    await until(lambda: session.stats().closing == 0)
    assert session.stats().idle == server.open == 2
    assert session.stats().closed_forced == 2


async def test_only_idle_ones_of_the_same_handshake(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as another:
        session = make_session(retire_on=GOING_AWAY)
        used, idle, one = await hold(session, server.url(), 3)
        others = [
            await session.ws_connect(server.url("/other")),
            await session.ws_connect(server.url(), headers={"X": "1"}),
            await session.ws_connect(another.url()),
        ]
        youngest = await session.ws_connect(server.url())
        await release(idle, one, *others, youngest)
        await server.sockets[-1].close(code=1012)
        await until(lambda: session.stats().closed_lost == 1)
        assert session.stats().closed_forced == 2
        assert states(*others) == [IDLE] * 3
        assert states(used) == [ACQUIRED]
        await used.send_str("still here")
        assert await used.receive_str() == "still here"
        await used.release()
        assert session.stats().idle == 4


async def test_one_that_its_user_has_read_says_nothing(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(retire_on=GOING_AWAY)
    older, read = await hold(session, server.url(), 2)
    await older.release()
    closing = asyncio.create_task(server.sockets[1].close(code=1001))
    assert (await read.receive()).data == 1001
    await read.release()
    await closing
    stats = session.stats()
    assert (stats.closed_lost, stats.closed_dirty, stats.closed_forced, stats.idle) == (1, 0, 0, 1)


async def test_one_that_is_unread_when_an_exception_leaves_the_block(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(retire_on=GOING_AWAY)
    held = await hold(session, server.url(), 3)
    await release(*held[:2])
    with pytest.raises(LookupError):
        async with held[2] as ws:
            hear(ws, GOES_AWAY)
            raise LookupError
    assert session.stats().idle == 0
    assert session.stats().closed_forced == 2


@pytest.mark.parametrize("unread", [b"", b"\x81\x01x"], ids=["all read", "a message unread"])
async def test_one_that_is_unread_at_release(
    server: Server, make_session: SessionFactory, unread: bytes
) -> None:
    """The server has ended the connection, whether its CLOSE came before the release or after."""
    session = make_session(retire_on=GOING_AWAY)
    older, one = await hold(session, server.url(), 2)
    await older.release()
    hear(one, b"\x89\x00\x81\x05reply\x89\x00" + unread + GOES_AWAY)
    assert await one.receive_str() == "reply"
    one.release()
    stats = session.stats()
    assert (stats.closed_lost, stats.closed_dirty) == ((0, 1) if unread else (1, 0))
    assert (stats.closed_forced, stats.idle) == (1, 0)
    await until(lambda: not session.stats().closing)
    assert server.close_codes == [1000, 1000]


@pytest.mark.parametrize("hook", ["reset", "configure", "check"])
async def test_one_that_comes_in_a_hook(
    server: Server, make_session: SessionFactory, hook: str
) -> None:
    armed = False

    async def receive_close(ws: Any) -> None:
        nonlocal armed
        if armed:
            armed = False
            ws._conn.protocol.data_received(GOES_AWAY)

    session = make_session(retire_on=GOING_AWAY, **{hook: receive_close})
    older, one = await hold(session, server.url(), 2)
    await release(older)
    if hook == "configure":
        armed = True
        await one.close()
        await session.prewarm(server.url(), 2)
    elif hook == "reset":
        armed = True
        await one.release()
    else:
        await one.release()
        armed = True
        ws = await session.ws_connect(server.url())
        assert not ws.reused
        await ws.close()
    assert session.stats().closed_lost == 1
    assert session.stats().closed_forced == 1


# -- when ----------------------------------------------------------------------------------------


async def test_in_the_same_tick(server: Server, make_session: SessionFactory) -> None:
    session = make_session(retire_on=GOING_AWAY)
    held = await hold(session, server.url(), 4)
    await release(*held)
    hear(held[2], GOES_AWAY)
    assert session.stats().idle == 1
    assert session.stats().closed_forced == 2
    # Already being closed.
    hear(held[0], GOES_AWAY)
    hear(held[3], GOES_AWAY)
    assert session.stats().idle == 0
    assert (session.stats().closed_forced, session.stats().closed_lost) == (2, 2)
    await until(lambda: session.stats().closing == 0)
    await until(lambda: server.open == 0)


async def test_a_caller_that_was_given_it_gets_no_other_old_one(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(retire_on=GOING_AWAY, limit=3)
    older, old, given = await hold(session, server.url(), 3)
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    given.release()
    older.release()
    # Given to the waiter, who has not woken yet, and used by nobody.
    hear(given, GOES_AWAY)
    async with asyncio.timeout(30):
        ws = await waiter
    assert ws not in (older, old, given)
    assert not ws.reused
    await release(ws, old)
    assert (session.stats().closed_lost, session.stats().closed_forced) == (1, 1)
    assert server.peak == 3


async def test_their_places_serve_who_waits(server: Server, make_session: SessionFactory) -> None:
    session = make_session(retire_on=GOING_AWAY, limit=3)
    held = await hold(session, server.url(), 3)
    await release(*held)
    hear(held[2], GOES_AWAY)
    async with asyncio.timeout(30):
        await release(*await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(3)]))
    assert server.peak == 3
    assert server.handshakes == 6
    assert session.stats().closed_evicted == 0


# -- the argument --------------------------------------------------------------------------------


def test_going_away() -> None:
    assert frozenset({1001, 1012, 1013}) == GOING_AWAY


@pytest.mark.parametrize("codes", [(), None, [], {1001}, iter([1001, 1001]), range(1000, 5000)])
def test_codes(codes: Any) -> None:
    WebSocketClientSession(retire_on=codes)


@pytest.mark.parametrize(
    ("codes", "error", "match"),
    [
        (1001, TypeError, "retire_on must be an iterable of close codes"),
        ("1001", TypeError, "retire_on must be an iterable of close codes"),
        (b"1001", TypeError, "retire_on must be an iterable of close codes"),
        (True, TypeError, "retire_on must be an iterable of close codes"),
        (["1001"], TypeError, "each code in retire_on must be an integer, not str"),
        ([1001.0], TypeError, "each code in retire_on must be an integer, not float"),
        ([True], TypeError, "each code in retire_on must be an integer, not bool"),
        ([None], TypeError, "each code in retire_on must be an integer, not NoneType"),
        ([999], ValueError, "each code in retire_on must be from 1000 to 4999, got 999"),
        ([1001, 5000], ValueError, "from 1000 to 4999, got 5000"),
        ([-1], ValueError, "from 1000 to 4999, got -1"),
    ],
    ids=told,
)
def test_what_is_no_code(codes: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        WebSocketClientSession(retire_on=codes)
