"""psycopg_pool, with fake connections.

The pool reads the transaction state of a connection, which is always idle here: there is nothing to
roll back.  All settings that affect a cycle are defaults.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Self

from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from ..contender import Contender
from ..slow import SlowStart, Start, no_start


class PGconn:
    transaction_status = TransactionStatus.IDLE


class Connection:
    """The part of psycopg's connection class that the pool uses."""

    def __init__(self) -> None:
        self.pgconn = PGconn()

    @classmethod
    async def connect(cls, conninfo: str, *, start: Start = no_start, **kwargs: Any) -> Self:
        await start()
        return cls()

    async def close(self) -> None:
        pass


class PsycopgPool(Contender):
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._start = SlowStart()

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        async with AsyncConnectionPool(
            connection_class=Connection,
            min_size=connections,
            max_size=limit or sys.maxsize,
            open=False,
        ) as pool:
            await pool.wait()
            yield cls(pool)

    @classmethod
    @asynccontextmanager
    async def slow(cls, url: str, *, connections: int, at_once: int) -> AsyncIterator[Self]:
        start = SlowStart()
        async with AsyncConnectionPool(
            connection_class=Connection,
            kwargs={"start": start},
            min_size=connections,
            max_size=sys.maxsize,
            num_workers=at_once,
            open=False,
        ) as pool:
            await pool.wait()
            contender = cls(pool)
            contender._start = start
            yield contender

    async def use_for(self, seconds: float) -> None:
        connection = await self._pool.getconn()
        await asyncio.sleep(seconds)
        await self._pool.putconn(connection)

    async def begun(self) -> int:
        return self._start.begun

    async def cycle(self, cycles: int) -> int:
        pool = self._pool
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            connection = await pool.getconn()
            await pool.putconn(connection)
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            connection = await pool.getconn()
            await asyncio.sleep(0)
            await pool.putconn(connection)

    async def use_until(self, stop: asyncio.Event) -> int:
        pool = self._pool
        uses = 0
        while not stop.is_set():
            connection = await pool.getconn()
            await asyncio.sleep(0)
            await pool.putconn(connection)
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        held = [await self._pool.getconn() for _ in range(count)]
        yield
        for connection in held:
            await self._pool.putconn(connection)
