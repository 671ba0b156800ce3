"""The algorithm of this library in 2015, rewritten from its description.

It has one semaphore for all endpoints, parses the URL in each acquire, and keeps connections in use
in one list, which a release searches.  Acquire and release are coroutines.  No more is known of it,
so each step is as short as possible: idle connections are popped from a list, and ``list.remove``
searches the list of connections in use.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Self
from urllib.parse import urlparse

from ..contender import Contender

#: Host, port, and whether TLS is used.
Endpoint = tuple[str | None, int, bool]


class Connection:
    """A fake connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint


class Pool:
    def __init__(self, limit: int) -> None:
        self._semaphore = asyncio.Semaphore(limit or sys.maxsize)
        self._idle: defaultdict[Endpoint, list[Connection]] = defaultdict(list)
        self._in_use: list[Connection] = []

    async def acquire(self, url: str) -> Connection:
        await self._semaphore.acquire()
        endpoint = _endpoint(url)
        idle = self._idle[endpoint]
        connection = idle.pop() if idle else Connection(endpoint)
        self._in_use.append(connection)
        return connection

    async def release(self, connection: Connection) -> None:
        self._in_use.remove(connection)
        self._idle[connection.endpoint].append(connection)
        self._semaphore.release()


def _endpoint(url: str) -> Endpoint:
    parts = urlparse(url)
    is_ssl = parts.scheme in ("https", "wss")
    return parts.hostname, parts.port or (443 if is_ssl else 80), is_ssl


class Algorithm2015(Contender):
    def __init__(self, pool: Pool, url: str) -> None:
        self._pool = pool
        self._url = url

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        pool = cls(Pool(limit), url)
        async with pool.hold(connections):
            pass
        yield pool

    async def cycle(self, cycles: int) -> int:
        pool, url = self._pool, self._url
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            connection = await pool.acquire(url)
            await pool.release(connection)
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        pool, url = self._pool, self._url
        for _ in repeat(None, cycles):
            connection = await pool.acquire(url)
            await asyncio.sleep(0)
            await pool.release(connection)

    async def use_until(self, stop: asyncio.Event) -> int:
        pool, url = self._pool, self._url
        uses = 0
        while not stop.is_set():
            connection = await pool.acquire(url)
            await asyncio.sleep(0)
            await pool.release(connection)
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        held = [await self._pool.acquire(self._url) for _ in range(count)]
        yield
        # The oldest connection is the first in the list, so it is found at once.
        for connection in held:
            await self._pool.release(connection)
