"""WebSockets of aiohttp without a pool: nobody reads them, or somebody always does."""

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
    """Connections that are held, and read by nobody while they are idle.

    It costs nothing, and does not work: a server's PING goes unanswered.
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
    """The same, each with a task in ``receive()`` while it is idle."""

    answers_pings = True

    def __init__(self, client_session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(client_session, url)
        self._tasks: list[asyncio.Task[aiohttp.WSMessage]] = []

    def _add(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        super()._add(ws)
        # At once: while thousands are opened, the first are pinged.
        self._tasks.append(asyncio.create_task(ws.receive()))

    async def take(self) -> int:
        started = perf_counter_ns()
        for task in self._tasks:
            task.cancel()
            # It is not free to be read by another before.
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        return perf_counter_ns() - started

    async def give(self) -> int:
        started = perf_counter_ns()
        for ws in self._open:
            self._tasks.append(asyncio.create_task(ws.receive()))
        # They are not there before they have begun.
        await asyncio.sleep(0)
        return perf_counter_ns() - started

    def alive(self) -> int:
        return sum(not task.done() for task in self._tasks)

    async def close(self) -> None:
        await self.take()
        for ws in self._open:
            # What a receive() that was cancelled leaves behind; close() would take it for a lost
            # connection, and not say goodbye.
            ws._close_code = None
        await super().close()


def _shares(count: int) -> list[int]:
    share, rest = divmod(count, AT_ONCE)
    return [share + (number < rest) for number in range(AT_ONCE)]
