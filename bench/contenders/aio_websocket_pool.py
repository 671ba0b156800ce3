"""aio-websocket-pool, with fake connections.

Each acquire sends a ping without waiting for the answer; a fake connection drops it.  On a live
socket a cycle takes about twice as long, and unread answers accumulate during the measurement.

If all connections are in use, a caller gets an exception instead of waiting, so the contender has
no use().
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Self

from aio_websocket_pool import WebsocketConnection, WebsocketConnectionPool
from websockets.protocol import State

from ..contender import Contender


class WebSocket:
    """The part of a connection of ``websockets`` that the pool uses."""

    state = State.OPEN

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Connection(WebsocketConnection):
    async def connect(self) -> None:
        if not self.is_connected:
            self.websocket = WebSocket()


class Pool(WebsocketConnectionPool):
    # The only way to choose the class.
    def _create_connection(self) -> Connection:
        return Connection(uri=self.uri)


class AioWebsocketPool(Contender):
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        async with Pool(
            uri=url,
            max_connections=limit or sys.maxsize,
            warmup_connections=connections,
            # Long enough for the turns of other contenders.
            idle_timeout=86_400.0,
        ) as pool:
            yield cls(pool)

    async def cycle(self, cycles: int) -> int:
        pool = self._pool
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            connection = await pool.acquire()
            await pool.release(connection)
        return perf_counter_ns() - started

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        held = [await self._pool.acquire() for _ in range(count)]
        yield
        for connection in held:
            await self._pool.release(connection)
