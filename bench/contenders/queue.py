"""``asyncio.Queue`` as a pool.  A releasing caller may overtake waiting callers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Self

from ..contender import Contender


class Queue(Contender):
    def __init__(self, places: int) -> None:
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        for _ in range(places):
            self._queue.put_nowait(object())

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        yield cls(max(limit, connections))

    async def cycle(self, cycles: int) -> int:
        queue = self._queue
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            item = await queue.get()
            queue.put_nowait(item)
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        queue = self._queue
        for _ in repeat(None, cycles):
            item = await queue.get()
            await asyncio.sleep(0)
            queue.put_nowait(item)

    async def use_until(self, stop: asyncio.Event) -> int:
        queue = self._queue
        uses = 0
        while not stop.is_set():
            item = await queue.get()
            await asyncio.sleep(0)
            queue.put_nowait(item)
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        held = [await self._queue.get() for _ in range(count)]
        yield
        for item in held:
            self._queue.put_nowait(item)
