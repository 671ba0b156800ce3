"""aio-websocket-pool, with connections that connect to nothing.

Each acquire sends a ping and does not wait for its answer; here that goes nowhere.  On a live
socket a cycle takes about twice as long, and answers pile up unread while it is timed.

Who finds all in use gets an exception and does not wait: it cannot be one of a crowd.
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
    """What a connection asks of the ``websockets`` library."""

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
    # It offers no other way to choose the class.
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
            # Its process sleeps while others have their turn.
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
