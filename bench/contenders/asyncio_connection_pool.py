"""asyncio-connection-pool, with objects for connections; ``async with`` is its only way in."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Self

from asyncio_connection_pool import ConnectionPool, ConnectionStrategy

from ..contender import Contender


class Connection:
    """It stands for a socket."""


class Strategy(ConnectionStrategy[Connection]):
    async def make_connection(self) -> Connection:
        return Connection()

    def connection_is_closed(self, conn: Connection) -> bool:
        return False

    async def close_connection(self, conn: Connection) -> None:
        pass


class AsyncioConnectionPool(Contender):
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        pool = cls(ConnectionPool(strategy=Strategy(), max_size=limit or sys.maxsize))
        async with pool.hold(connections):
            pass
        yield pool

    async def cycle(self, cycles: int) -> int:
        pool = self._pool
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            async with pool.get_connection():
                pass
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            async with pool.get_connection():
                await asyncio.sleep(0)

    async def use_until(self, stop: asyncio.Event) -> int:
        pool = self._pool
        uses = 0
        while not stop.is_set():
            async with pool.get_connection():
                await asyncio.sleep(0)
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(self._pool.get_connection())
            yield
