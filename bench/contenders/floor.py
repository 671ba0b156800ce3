"""The least possible cost of a pool: a deque inside one awaited coroutine."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns
from typing import Self

from ..contender import Contender


class Floor(Contender):
    """Never waits, so it only has cycle()."""

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        yield cls()

    async def cycle(self, cycles: int) -> int:
        free: deque[object] = deque([object()])

        async def cycle() -> None:
            item = free.popleft()
            free.append(item)

        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            await cycle()
        return perf_counter_ns() - started
