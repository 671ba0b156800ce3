"""asyncio-connection-pool, with fake connections; its API is ``async with`` only."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Self

from asyncio_connection_pool import ConnectionPool, ConnectionStrategy

from ..contender import Contender
from ..scenario import LeftOut
from ..slow import SlowStart, Start, no_start


class Connection:
    """A fake connection."""


class Strategy(ConnectionStrategy[Connection]):
    def __init__(self, start: Start = no_start) -> None:
        self._start = start

    async def make_connection(self) -> Connection:
        await self._start()
        return Connection()

    def connection_is_closed(self, conn: Connection) -> bool:
        return False

    async def close_connection(self, conn: Connection) -> None:
        pass


class AsyncioConnectionPool(Contender):
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._start = SlowStart()

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        pool = cls(ConnectionPool(strategy=Strategy(), max_size=limit or sys.maxsize))
        async with pool.hold(connections):
            pass
        yield pool

    @classmethod
    @asynccontextmanager
    async def slow(cls, url: str, *, connections: int, at_once: int) -> AsyncIterator[Self]:
        if at_once == 1:
            raise LeftOut("it has no limit on concurrent handshakes")
        start = SlowStart()
        pool = cls(ConnectionPool(strategy=Strategy(start), max_size=sys.maxsize))
        pool._start = start
        async with pool.hold(connections):
            pass
        yield pool

    async def use_for(self, seconds: float) -> None:
        async with self._pool.get_connection():
            await asyncio.sleep(seconds)

    async def begun(self) -> int:
        return self._start.begun

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
