"""A semaphore and a deque: the shortest pool that a user would write.

It never closes, checks, watches or distinguishes connections.  Its code is inlined, without a
function call, because it is the reference for the contended scenarios.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Self

from ..contender import Contender


class Semaphore(Contender):
    def __init__(self, places: int) -> None:
        self._semaphore = asyncio.Semaphore(places)
        self._free: deque[object] = deque(object() for _ in range(places))

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        yield cls(max(limit, connections))

    async def cycle(self, cycles: int) -> int:
        semaphore, free = self._semaphore, self._free
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            await semaphore.acquire()
            item = free.popleft()
            free.append(item)
            semaphore.release()
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        semaphore, free = self._semaphore, self._free
        for _ in repeat(None, cycles):
            await semaphore.acquire()
            item = free.popleft()
            await asyncio.sleep(0)
            free.append(item)
            semaphore.release()

    async def use_until(self, stop: asyncio.Event) -> int:
        semaphore, free = self._semaphore, self._free
        uses = 0
        while not stop.is_set():
            await semaphore.acquire()
            item = free.popleft()
            await asyncio.sleep(0)
            free.append(item)
            semaphore.release()
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        for _ in range(count):
            await self._semaphore.acquire()
        held = [self._free.popleft() for _ in range(count)]
        yield
        self._free.extend(held)
        for _ in held:
            self._semaphore.release()
