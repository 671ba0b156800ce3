"""WebSockets of aiohttp without a pool, with or without a reader."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from time import perf_counter_ns
from typing import Any

import aiohttp

from ..contender import Contender
from ..fleet import AT_ONCE


class Unread(Contender):
    """Connections without a reader while they are idle.

    This costs nothing and does not work: nobody answers the PINGs of a server.
    """

    answers_pings = False

    def __init__(self, client_session: aiohttp.ClientSession, url: str) -> None:
        self._client_session = client_session
        self._url = url
        self._open: list[aiohttp.ClientWebSocketResponse] = []

    @classmethod
    @asynccontextmanager
    async def fleet(cls, client_session: aiohttp.ClientSession, url: str) -> AsyncIterator[Any]:
        yield cls(client_session, url)

    async def open(self, count: int) -> None:
        async def some(share: int) -> None:
            for _ in repeat(None, share):
                self._add(await self._client_session.ws_connect(self._url))

        await asyncio.gather(*map(some, _shares(count)))

    def _add(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._open.append(ws)

    async def take(self) -> int:
        return 0

    async def give(self) -> int:
        return 0

    def alive(self) -> int:
        return sum(not ws.closed for ws in self._open)

    async def close(self) -> None:
        async def some(start: int) -> None:
            for ws in self._open[start::AT_ONCE]:
                await ws.close()

        await asyncio.gather(*map(some, range(AT_ONCE)))
        self._open.clear()


class Readers(Unread):
    """Connections with a task in ``receive()`` while they are idle."""

    answers_pings = True

    def __init__(self, client_session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(client_session, url)
        self._tasks: list[asyncio.Task[aiohttp.WSMessage]] = []

    def _add(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        super()._add(ws)
        # Immediately: the server pings the first connections before thousands are open.
        self._tasks.append(asyncio.create_task(ws.receive()))

    async def take(self) -> int:
        started = perf_counter_ns()
        for task in self._tasks:
            task.cancel()
            # Another task can only read after the end of this task.
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        return perf_counter_ns() - started

    async def give(self) -> int:
        started = perf_counter_ns()
        for ws in self._open:
            self._tasks.append(asyncio.create_task(ws.receive()))
        # Let the tasks begin.
        await asyncio.sleep(0)
        return perf_counter_ns() - started

    def alive(self) -> int:
        return sum(not task.done() for task in self._tasks)

    async def close(self) -> None:
        await self.take()
        for ws in self._open:
            # A cancelled receive() leaves a code behind, with which close() would skip the closing
            # handshake.
            ws._close_code = None
        await super().close()


def _shares(count: int) -> list[int]:
    share, rest = divmod(count, AT_ONCE)
    return [share + (number < rest) for number in range(AT_ONCE)]
