"""generic-connection-pool, with objects for connections.

As cheap as its settings make it: no time limit for an acquire, no connection beyond those that it
keeps for good.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Self

from generic_connection_pool.asyncio import BaseConnectionManager, ConnectionPool

from ..contender import Contender


class Connection:
    """It stands for a socket."""


class Manager(BaseConnectionManager[str, Connection]):
    async def create(self, endpoint: str) -> Connection:
        return Connection()

    async def dispose(self, endpoint: str, conn: Connection) -> None:
        pass


class GenericConnectionPool(Contender):
    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._url = url

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        size = limit or sys.maxsize
        pool = ConnectionPool(Manager(), min_idle=size, max_size=size, total_max_size=size)
        contender = cls(pool, url)
        async with contender.hold(connections):
            pass
        yield contender
        await pool.close()

    async def cycle(self, cycles: int) -> int:
        pool, url = self._pool, self._url
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            connection = await pool.acquire(url)
            await pool.release(connection, url)
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        pool, url = self._pool, self._url
        for _ in repeat(None, cycles):
            connection = await pool.acquire(url)
            await asyncio.sleep(0)
            await pool.release(connection, url)

    async def use_until(self, stop: asyncio.Event) -> int:
        pool, url = self._pool, self._url
        uses = 0
        while not stop.is_set():
            connection = await pool.acquire(url)
            await asyncio.sleep(0)
            await pool.release(connection, url)
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        held = [await self._pool.acquire(self._url) for _ in range(count)]
        yield
        for connection in held:
            await self._pool.release(connection, self._url)
