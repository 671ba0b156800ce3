"""What a user writes, on a live connection that is idle whenever it is asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from time import perf_counter_ns

from aiowebsocketclient import WebSocketClientSession

from ..scenario import Run


@asynccontextmanager
async def cycle(url: str) -> AsyncIterator[Run]:
    async with _one_connection(url) as session:
        yield partial(_run_cycle, session, url)


@asynccontextmanager
async def async_with(url: str) -> AsyncIterator[Run]:
    async with _one_connection(url) as session:
        yield partial(_run_async_with, session, url)


async def _run_cycle(session: WebSocketClientSession, url: str, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        ws = await session.ws_connect(url)
        await ws.release()
    return perf_counter_ns() - started


async def _run_async_with(session: WebSocketClientSession, url: str, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        async with session.ws_connect(url):
            pass
    return perf_counter_ns() - started


@asynccontextmanager
async def _one_connection(url: str) -> AsyncIterator[WebSocketClientSession]:
    async with WebSocketClientSession() as session:
        async with session.ws_connect(url) as ws:
            # A message each way: the connection has been used as those of a service are.
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
        yield session
        # Nothing but reuse was timed.
        assert session.stats().connects == 1
