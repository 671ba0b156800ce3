"""The rest of what a session and a response have."""

import asyncio
from typing import assert_type

import aiohttp
from aiolimiter import AsyncLimiter

from aiowebsocketclient import (
    GOING_AWAY,
    ClientWebSocketResponse,
    Completion,
    EndpointKey,
    PoolClosedError,
    PoolStats,
    PoolTimeoutError,
    TraceConfig,
    WebSocketClientSession,
    WebSocketPoolError,
)


async def arguments(loop: asyncio.AbstractEventLoop) -> None:
    WebSocketClientSession(
        conn_timeout=1,
        force_close=True,
        limit=None,
        headers=[("a", "b")],
        client_session=None,
        loop=loop,
        limit_total=100,
        max_connecting=None,
        acquire_timeout=0,
        max_waiting=10,
        max_idle=None,
        max_idle_connections=None,
        max_lifetime=3600.0,
        close_timeout=1.5,
        cooldown=0.25,
        client_session_owner=False,
        connect_limiter=AsyncLimiter(300, 300),
        load_balance_hosts="random",
        trace_configs=[TraceConfig()],
        leak_threshold=60,
        retire_on=GOING_AWAY,
    )
    WebSocketClientSession(connect_limiter=asyncio.Semaphore(10))
    WebSocketClientSession(connect_limiter=asyncio.Lock(), retire_on=[1001])


async def mistakes() -> None:
    WebSocketClientSession(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WebSocketClientSession(limt=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WebSocketClientSession(limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(limit=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(headers={"a": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(close_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(load_balance_hosts="any")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(connect_limiter=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def the_session(session: WebSocketClientSession) -> None:
    assert_type(session.closed, bool)
    assert_type(session.limit, int | None)
    assert_type(session.force_close, bool)
    assert_type(session.client_session, aiohttp.ClientSession)
    assert_type(session.stats(), PoolStats)
    assert_type(session.stats().idle, int)
    assert_type(session.stats().wait_seconds, float)
    for endpoint, stats in session.stats_by_endpoint().items():
        assert_type(endpoint, EndpointKey)
        assert_type(endpoint.host, str)
        assert_type(stats, PoolStats)
    session.resize(limit=None, limit_total=10)
    session.resize(limit=1)
    session.detach()
    drained = assert_type(session.drain(), Completion)
    await asyncio.gather(drained, session.drain("ws://host/"))
    # What it does is done; nobody need wait.
    session.drain()
    await session.close()
    session.limit = 10  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    session.resize(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.resize(limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_response(ws: ClientWebSocketResponse) -> None:
    ws.release()
    completion = assert_type(ws.release(), Completion)
    assert_type(asyncio.create_task(completion), asyncio.Task[None])
    assert_type(ws.reused, bool)
    assert_type(ws.closed, bool)
    assert_type(await ws.close(code=1000, message=b""), bool)
    ws.detach()
    # aiohttp's.
    assert_type(ws.protocol, str | None)
    assert_type(await ws.receive_str(), str)
    assert_type(await ws.send_json({}), None)
    aiohttp_s: aiohttp.ClientWebSocketResponse = ws
    await aiohttp_s.ping()
    ws.reused = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def errors(session: WebSocketClientSession) -> None:
    try:
        await session.ws_connect("ws://host/")
    except PoolTimeoutError as exc:
        timed_out: TimeoutError = exc
        raise timed_out from None
    except PoolClosedError as exc:
        closed: RuntimeError = exc
        raise closed from None
    except WebSocketPoolError as exc:
        aiohttp_s: aiohttp.ClientError = exc
        raise aiohttp_s from None
