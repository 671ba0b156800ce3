"""``close(wait=...)``: nothing is handed out any more, and connections in use may be released."""

import asyncio
import gc
import logging
from typing import Any

import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    PoolTimeoutError,
    WebSocketClientSession,
)

from .conftest import SessionFactory, until
from .servers import Server

# Longer than any test.
LONG = 600.0


async def begin(session: WebSocketClientSession, wait: float = LONG) -> "asyncio.Task[None]":
    closing = asyncio.ensure_future(session.close(wait=wait))
    await until(lambda: session.closed)
    return closing


async def talk(ws: ClientWebSocketResponse) -> None:
    await ws.send_str("hello")
    assert await ws.receive_str() == "hello"


@pytest.mark.parametrize("wait", [-1, True, "5", None, float("nan"), float("inf")])
async def test_bad_arguments(make_session: SessionFactory, wait: Any) -> None:
    session = make_session()
    with pytest.raises((TypeError, ValueError), match="wait"):
        await session.close(wait=wait)
    assert not session.closed


async def test_users_finish_and_nobody_else_begins(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(limit=3)
    used = [await session.ws_connect(server.url()) for _ in range(2)]
    await session.prewarm(server.url(), 3)
    closing = await begin(session)
    # Idle connections are closed at once.
    await until(lambda: server.open == 2)
    for call in (session.ws_connect, lambda url: session.prewarm(url, 1)):
        with pytest.raises(PoolClosedError):
            await call(server.url())
    with pytest.raises(PoolClosedError):
        session.resize(limit=5)
    for ws in used:
        await talk(ws)
        assert not closing.done()
        await ws.release()
    await closing
    assert server.close_codes == [1000] * 3
    stats = session.stats()
    assert (stats.closed_forced, stats.released) == (3, 2)


async def test_waiting_callers_fail_at_once(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=1)
    async with session.ws_connect(server.url()) as ws:
        waiting = asyncio.ensure_future(session.ws_connect(server.url()))  # type: ignore[arg-type]
        await until(lambda: session.stats().waiting == 1)
        closing = await begin(session)
        with pytest.raises(PoolClosedError):
            await waiting
        await talk(ws)
    await closing


async def test_handshakes_are_stopped(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    connecting = asyncio.ensure_future(session.ws_connect(server.url("/hang")))  # type: ignore[arg-type]
    await until(lambda: server.arrived == 1)
    await session.close(wait=LONG)
    with pytest.raises(PoolClosedError):
        await connecting


async def test_a_connection_given_but_not_taken(
    make_session: SessionFactory, server: Server
) -> None:
    """Its caller has not woken, so it has not begun to use it."""
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    waiting = asyncio.ensure_future(session.ws_connect(server.url()))  # type: ignore[arg-type]
    await until(lambda: session.stats().waiting == 1)
    ws.release()
    closing = asyncio.ensure_future(session.close(wait=LONG))
    result = await asyncio.gather(waiting, return_exceptions=True)
    if not isinstance(result[0], PoolClosedError):
        # It woke first.
        await result[0].release()
    await closing


@pytest.mark.parametrize("way", ["close", "detach", "fail", "lose", "drop"])
async def test_other_ends_of_a_use(make_session: SessionFactory, server: Server, way: str) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = await begin(session)
    await asyncio.sleep(0)
    assert not closing.done()
    if way == "close":
        await ws.close()
    elif way == "detach":
        ws.detach()
    elif way == "fail":
        with pytest.raises(ZeroDivisionError):
            async with ws:
                raise ZeroDivisionError
    elif way == "lose":
        server.transports[0].abort()
        await until(lambda: ws._response.connection is None or ws._response.connection.closed)
        await ws.release()
    else:
        with pytest.warns(ResourceWarning):
            del ws
            gc.collect()
    await closing
    if way == "detach":
        await talk(ws)
        await ws.close()


async def test_a_reset_after_the_release(make_session: SessionFactory, server: Server) -> None:
    resets: list[Any] = []

    async def reset(ws: ClientWebSocketResponse) -> None:
        resets.append(ws)

    session = make_session(reset=reset)
    ws = await session.ws_connect(server.url())
    closing = await begin(session)
    await ws.release()
    await closing
    assert session.stats().closed_forced == 1


@pytest.mark.parametrize("kind", ["message", "hook"])
async def test_a_keepalive_under_way_is_nobodys_use(
    make_session: SessionFactory, server: Server, kind: str
) -> None:
    """Its answer never comes.  A caller has asked, so the connection does not count as idle."""

    async def hook(ws: ClientWebSocketResponse) -> None:
        await ws.receive()

    session = make_session(
        keepalive=(0.001, "k" * 1001 if kind == "message" else hook),
        on_idle_message=lambda _: True,
        hook_timeout=LONG,
    )
    await session.prewarm(server.url("/short"), 1)
    (slot,) = session._pool.slots()
    conn: Any = slot.conn
    await until(lambda: conn.busy)
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url("/short"), acquire_timeout=0)
    await asyncio.wait_for(session.close(wait=LONG), 30)
    assert session.stats().closed_forced == 1


async def test_a_check_in_the_background_is_nobodys_use(
    make_session: SessionFactory, server: Server
) -> None:
    checked: list[Any] = []

    async def check(ws: ClientWebSocketResponse) -> None:
        checked.append(ws)
        if len(checked) == 1:
            raise ValueError
        await ws.receive()

    session = make_session(check=check, hook_timeout=LONG)
    await session.prewarm(server.url(), 2)
    ws = await session.ws_connect(server.url())
    await until(lambda: len(checked) == 2)
    await ws.release()
    await asyncio.wait_for(session.close(wait=LONG), 30)
    assert session.stats().closed_forced == 2


async def test_when_the_time_is_over(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(name="x")
    ws = await session.ws_connect(server.url())
    await session.close(wait=0.05)
    assert ws.closed
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    told: Any = record
    assert (told.event, told.connections, told.seconds) == ("still_in_use", 1, 0.05)
    assert server.close_codes == [1000]
    await ws.release()


async def test_a_second_call_shortens_it(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = await begin(session)
    longer = asyncio.ensure_future(session.close(wait=2 * LONG))
    await asyncio.sleep(0)
    await session.close()
    await asyncio.gather(closing, longer)
    assert ws.closed
    await ws.release()


async def test_leaving_the_block_shortens_it(server: Server) -> None:
    async with WebSocketClientSession() as session:
        ws = await session.ws_connect(server.url())
        closing = await begin(session)
    await closing
    await ws.release()


async def test_a_cancelled_call_goes_on(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = await begin(session)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await talk(ws)
    await ws.release()
    await session.close()
    assert server.close_codes == [1000]


async def test_where_all_tasks_are_cancelled(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    closing = await begin(session)
    here = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is not here and "aiowebsocketclient" in repr(task):
            task.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await session.close()
    assert len(session._pool) == 0
    await ws.release()


async def test_nothing_to_wait_for(make_session: SessionFactory, server: Server) -> None:
    unused = make_session()
    await unused.close(wait=LONG)
    session = make_session()
    await session.prewarm(server.url(), 2)
    await session.close(wait=LONG)
    await session.close(wait=LONG)
    assert server.close_codes == [1000, 1000]


async def test_cooled_places_are_not_waited_for(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(cooldown=LONG)
    ws = await session.ws_connect(server.url())
    other = await session.ws_connect(server.url())
    await other.close()
    closing = await begin(session)
    await ws.close()
    await closing


async def test_traffic_that_goes_on(make_session: SessionFactory, server: Server) -> None:
    """Without wait=, a program that waits for a quiet moment may wait for ever."""
    session = make_session(limit=2)
    jobs: list[asyncio.Task[None]] = []

    async def job() -> None:
        async with session.ws_connect(server.url()) as ws:
            await talk(ws)
            await asyncio.sleep(0.02)

    async def traffic() -> None:
        while True:
            jobs.append(asyncio.ensure_future(job()))
            await asyncio.sleep(0.005)

    coming = asyncio.ensure_future(traffic())
    await until(lambda: session.stats().reused > 5)
    await session.close(wait=LONG)
    coming.cancel()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(error) for error in results if error is not None} <= {PoolClosedError}
    assert session.stats().closed_failed == session.stats().closed_cancelled == 0
