"""generic-connection-pool, with fake connections.

It has the cheapest settings: no timeout for an acquire, and no connections beyond those that it
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
from ..scenario import LeftOut
from ..slow import SlowStart, Start, no_start


class Connection:
    """A fake connection."""


class Manager(BaseConnectionManager[str, Connection]):
    def __init__(self, start: Start = no_start) -> None:
        self._start = start

    async def create(self, endpoint: str) -> Connection:
        await self._start()
        return Connection()

    async def dispose(self, endpoint: str, conn: Connection) -> None:
        pass


class GenericConnectionPool(Contender):
    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._start = SlowStart()
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

    @classmethod
    @asynccontextmanager
    async def slow(cls, url: str, *, connections: int, at_once: int) -> AsyncIterator[Self]:
        if at_once == 1:
            raise LeftOut("it has no limit on concurrent handshakes")
        start = SlowStart()
        size = sys.maxsize
        pool = ConnectionPool(Manager(start), min_idle=size, max_size=size, total_max_size=size)
        contender = cls(pool, url)
        contender._start = start
        async with contender.hold(connections):
            pass
        yield contender
        await pool.close()

    async def use_for(self, seconds: float) -> None:
        connection = await self._pool.acquire(self._url)
        await asyncio.sleep(seconds)
        await self._pool.release(connection, self._url)

    async def begun(self) -> int:
        return self._start.begun

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
