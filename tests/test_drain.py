"""Connections that are not to be handed out again: ``drain``."""

import asyncio
import gc
import warnings
from typing import Any

import aiohttp
import pytest
from yarl import URL

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    WebSocketClientSession,
)
from aiowebsocketclient._compat import DONE
from aiowebsocketclient.response import Pending

from .conftest import SessionFactory, until
from .servers import Server, serving


async def echo(ws: ClientWebSocketResponse) -> None:
    await ws.send_str("still here")
    assert await ws.receive_str() == "still here"


async def leave_idle(session: WebSocketClientSession, *calls: Any, **options: Any) -> None:
    """Leave a connection to each URL."""
    for ws in [await session.ws_connect(url, **options) for url in calls]:
        await ws.release()


# -- what is drained -----------------------------------------------------------------------------


async def test_idle_ones_are_closed_now_and_used_ones_on_release(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    used = await session.ws_connect(server.url())
    await leave_idle(session, server.url(), server.url("/other"))
    await session.drain()
    await until(lambda: server.open == 1)
    assert server.close_codes == [1000, 1000]
    assert session.stats().closed_forced == 2
    await echo(used)
    async with session.ws_connect(server.url()) as new:
        assert new != used
    await used.release()
    await until(lambda: server.open == 1)
    assert session.stats().closed_forced == 3
    async with session.ws_connect(server.url()) as ws:
        assert ws == new
        assert ws.reused


async def test_who_is_drained_twice_is_closed_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    used = await session.ws_connect(server.url())
    await leave_idle(session, server.url())
    first, second = session.drain(), session.drain()
    await asyncio.gather(used.release(), first, second)
    assert session.stats().closed_forced == 2
    assert server.open == 0


async def test_only_what_was_connected_with_the_url(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as other:
        session = make_session()
        used = await session.ws_connect(server.url("/a?x=1"), headers={"X-Used": "1"})
        await leave_idle(session, server.url("/a?x=1"))
        await leave_idle(session, server.url("/a?x=1"), headers={"X": "1"}, protocols=["p"])
        await leave_idle(session, server.url("/a"), params={"x": "1"}, max_msg_size=0)
        elsewhere = [server.url("/a"), server.url("/a?x=2"), server.url("/"), other.url("/a?x=1")]
        await leave_idle(session, *elsewhere)
        await session.drain(server.url("/a?x=1"))
        assert session.stats().closed_forced == 3
        assert session.stats().idle == 4
        await used.release()
        assert session.stats().closed_forced == 4
        for url in elsewhere:
            async with session.ws_connect(url) as ws:
                assert ws.reused


@pytest.mark.parametrize(
    "spelling",
    [
        "ws://127.0.0.1:{port}/a%20b?q",
        "http://127.0.0.1:{port}/a%20b?q#fragment",
        "WS://user:password@127.0.0.1:{port}/a b?q",
        URL("ws://127.0.0.1:1/a b?q"),
    ],
    ids=str,
)
async def test_spellings_of_one_url(
    server: Server, make_session: SessionFactory, spelling: str | URL
) -> None:
    session = make_session()
    await leave_idle(session, server.url("/a%20b?q"), server.url("/"))
    if isinstance(spelling, URL):
        url: str | URL = spelling.with_port(server.port)
    else:
        url = spelling.format(port=server.port)
    await session.drain(url)
    assert session.stats().closed_forced == 1
    assert session.stats().idle == 1


async def test_url_that_is_joined_with_a_base_url(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession(base_url=server.url())
    session = make_session(client_session=client_session)
    await leave_idle(session, "/a", "/b")
    await session.drain("/a")
    assert session.stats().closed_forced == 1
    assert session.stats().idle == 1


async def test_url_asked_of_a_proxy(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    for path in ("/a?x=1", "/b"):
        # The server answers itself.
        await leave_idle(session, f"ws://elsewhere.example{path}", proxy=server.url())
    assert {request.raw_path for request in server.requests} == {
        "ws://elsewhere.example/a?x=1",
        "ws://elsewhere.example/b",
    }
    await session.drain("http://elsewhere.example:80/a?x=1")
    assert session.stats().closed_forced == 1
    assert session.stats().idle == 1


async def test_url_that_nothing_is_connected_with(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    await leave_idle(session, server.url())
    await session.drain("wss://elsewhere.example/")
    assert session.stats().idle == 1


# -- who waits -----------------------------------------------------------------------------------


async def test_a_waiter_gets_a_new_connection_instead_of_a_drained_one(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    used = await session.ws_connect(server.url())
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    session.drain()
    await used.release()
    async with await waiter as ws:
        assert ws != used
        assert not ws.reused
    assert server.handshakes == 2
    assert server.peak == 1


async def test_places_of_idle_ones_serve_who_comes(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=2)
    await leave_idle(session, server.url(), server.url())
    session.drain()
    async with asyncio.timeout(30):
        callers = await asyncio.gather(*[session.ws_connect(server.url("/new")) for _ in range(2)])
    assert server.peak == 2
    assert session.stats().closed_evicted == 0
    for ws in callers:
        await ws.release()


async def test_a_handshake_under_way_serves_its_caller_and_no_other(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    server.gate.clear()
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: server.arrived == 1)
    await session.drain()
    server.gate.set()
    ws = await caller
    await echo(ws)
    await ws.release()
    assert session.stats().closed_forced == 1
    assert session.stats().idle == 0


async def test_later_callers_take_over_no_handshake_begun_before(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    first = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: server.arrived == 1)
    session.drain()
    second = asyncio.ensure_future(session.ws_connect(server.url()))
    await asyncio.sleep(0)
    first.cancel()
    # The gate is closed: it was stopped, and another begun.
    await until(lambda: server.arrived == 2)
    server.gate.set()
    await (await second).release()
    assert session.stats().idle == 1
    assert session.stats().closed_forced == 0


async def test_what_was_given_and_not_taken_yet_is_in_use(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    used = await session.ws_connect(server.url())
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    used.release()
    session.drain()
    async with await waiter as ws:
        assert ws == used
        await echo(ws)
    assert session.stats().closed_forced == 1
    assert server.open == 0


async def test_what_was_given_to_one_who_left_is_closed(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    used = await session.ws_connect(server.url())
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    used.release()
    session.drain()
    waiter.cancel()
    await until(lambda: session.stats().closed_forced == 1)
    assert session.stats().idle == 0


# -- what else is going on -----------------------------------------------------------------------


async def test_prewarm_begins_anew(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_connecting=2)

    def progress(opened: int, begun: int) -> None:
        if opened == 3:
            server.gate.clear()

    warming = asyncio.ensure_future(session.prewarm(server.url(), 6, progress=progress))
    await until(lambda: session.stats().idle >= 3 and session.stats().connecting == 2)
    before = server.handshakes
    session.drain()
    server.gate.set()
    assert await warming == before + 6
    assert session.stats().idle == 6
    assert session.stats().closed_forced == before


async def test_prewarm_waits_for_the_places_of_what_was_drained(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=2, close_timeout=0.3)
    assert await session.prewarm(server.url("/silent"), 1) == 1
    server.gate.clear()
    warming = asyncio.ensure_future(session.prewarm(server.url("/silent"), 2))
    await until(lambda: server.arrived == 2)
    session.drain()
    server.gate.set()
    assert await warming == 2
    assert session.stats().idle == 2


async def test_prewarm_of_another_url_goes_on(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    server.gate.clear()
    warming = asyncio.ensure_future(session.prewarm(server.url("/a"), 2))
    await until(lambda: server.arrived == 2)
    await session.drain(server.url("/b"))
    server.gate.set()
    assert await warming == 2
    assert server.arrived == session.stats().idle == 2


async def test_while_reset_runs(server: Server, make_session: SessionFactory) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def reset(ws: ClientWebSocketResponse) -> None:
        begun.set()
        await gate.wait()

    session = make_session(reset=reset)
    ws = await session.ws_connect(server.url())
    released = ws.release()
    await begun.wait()
    session.drain()
    assert session.stats().acquired == 1
    gate.set()
    await released
    assert session.stats().closed_forced == 1
    assert server.open == session.stats().idle == 0


async def test_while_check_runs(server: Server, make_session: SessionFactory) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def check(ws: ClientWebSocketResponse) -> None:
        begun.set()
        await gate.wait()

    session = make_session(check=check)
    await leave_idle(session, server.url())
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await begun.wait()
    session.drain()
    gate.set()
    async with await caller as ws:
        assert ws.reused
    assert session.stats().closed_forced == 1


async def test_what_is_unfit_is_closed_for_that(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    session.drain()
    await ws.send_str("unread")
    await until(lambda: ws._reader._buffer)
    await ws.release()
    assert session.stats().closed_dirty == 1
    assert session.stats().closed_forced == 0


async def test_what_is_closing_already(server: Server, make_session: SessionFactory) -> None:
    session = make_session(close_timeout=0.2)
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.ensure_future(ws.close())
    await asyncio.sleep(0)
    assert session.stats().closing == 1
    # It is not waited for.
    assert session.drain() is DONE
    await closing
    assert session.stats().closed_forced == 0


async def test_session_closed_meanwhile(server: Server, make_session: SessionFactory) -> None:
    session = make_session(close_timeout=0.2)
    await leave_idle(session, server.url("/silent"), server.url())
    drained = session.drain()
    await session.close()
    await asyncio.wait_for(drained, 30)
    with pytest.raises(PoolClosedError):
        session.drain()


# -- what it returns -----------------------------------------------------------------------------


async def test_it_need_not_be_awaited(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await leave_idle(session, server.url())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.drain()
        gc.collect()
        await until(lambda: server.open == 0)
        gc.collect()


async def test_it_can_be_awaited_by_many(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await leave_idle(session, *[server.url()] * 3)
    drained = session.drain()
    assert isinstance(drained, Pending)
    tasks = [asyncio.create_task(drained) for _ in range(2)]
    assert await asyncio.gather(drained, *tasks, session.drain()) == [None] * 4
    assert session.stats().closing == 0
    await drained
    await asyncio.create_task(drained)


async def test_who_gives_up_may_ask_again(server: Server, make_session: SessionFactory) -> None:
    session = make_session(close_timeout=0.8)
    await leave_idle(session, server.url("/silent"))
    drained = session.drain()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(drained, 0.001)
    assert session.stats().closing == 1
    await asyncio.wait_for(drained, 30)
    assert session.stats().closing == 0


async def test_who_is_cancelled_leaves_it_to_the_others(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=0.2)
    await leave_idle(session, server.url("/silent"))
    drained = session.drain()
    impatient, patient = asyncio.ensure_future(drained), asyncio.ensure_future(drained)
    await asyncio.sleep(0)
    impatient.cancel()
    await patient
    assert impatient.cancelled()
    # Aborted after the close_timeout.
    assert session.stats().closing == 0


# -- before and after ----------------------------------------------------------------------------


async def test_before_the_first_use(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await session.drain()
    await session.drain(server.url())
    assert await session.prewarm(server.url(), 1) == 1
    assert session.stats().idle == 1


def test_outside_a_loop() -> None:
    session = WebSocketClientSession()
    session.drain()

    async def main() -> None:
        async with session:
            await session.drain()

    asyncio.run(main())
    with pytest.raises(PoolClosedError):
        session.drain()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (5, TypeError),
        (b"ws://127.0.0.1/", TypeError),
        ("", aiohttp.InvalidURL),
        ("/relative", aiohttp.InvalidURL),
        ("ftp://127.0.0.1/", aiohttp.NonHttpUrlClientError),
        ("ws:///nowhere", aiohttp.InvalidURL),
        ("ws://127.0.0.1:port/", aiohttp.InvalidURL),
    ],
)
async def test_bad_urls(
    server: Server, make_session: SessionFactory, url: Any, error: type[Exception]
) -> None:
    session = make_session()
    with pytest.raises(error):
        session.drain(url)
    await leave_idle(session, server.url())
    with pytest.raises(error) as refused:
        session.drain(url)
    with pytest.raises(error) as expected:
        await session.ws_connect(url)
    assert str(refused.value) == str(expected.value)
    assert session.stats().idle == 1
