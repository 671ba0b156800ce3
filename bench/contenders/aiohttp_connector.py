"""aiohttp's connector: acquires and releases a kept-alive connection, as for each HTTP request.

The sockets are real, to the echo server, but nothing is sent on them.  Other costs of a request are
left out: the request object is always the same.  Its key is built in each call, as for any request.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Final, Self

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from yarl import URL

from ..contender import Contender

#: Instead of 15 s: connections must survive the turns of other contenders.
_KEEPALIVE_S: Final = 86_400.0


class AiohttpConnector(Contender):
    def __init__(self, connector: TCPConnector, url: str) -> None:
        self._connector = connector
        self._request = ClientRequest("GET", URL(url), loop=asyncio.get_running_loop())
        self._timeout = ClientTimeout()

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        connector = TCPConnector(limit=limit, keepalive_timeout=_KEEPALIVE_S)
        async with connector:
            pool = cls(connector, url)
            async with pool.hold(connections):
                pass
            yield pool

    async def cycle(self, cycles: int) -> int:
        connect, request, timeout = self._connector.connect, self._request, self._timeout
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            connection = await connect(request, [], timeout)
            connection.release()
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        connect, request, timeout = self._connector.connect, self._request, self._timeout
        for _ in repeat(None, cycles):
            connection = await connect(request, [], timeout)
            await asyncio.sleep(0)
            connection.release()

    async def use_until(self, stop: asyncio.Event) -> int:
        connect, request, timeout = self._connector.connect, self._request, self._timeout
        uses = 0
        while not stop.is_set():
            connection = await connect(request, [], timeout)
            await asyncio.sleep(0)
            connection.release()
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        connect = self._connector.connect
        held = [await connect(self._request, [], self._timeout) for _ in range(count)]
        yield
        for connection in held:
            connection.release()
