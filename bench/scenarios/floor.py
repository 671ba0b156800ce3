"""The least that a pool could cost: a deque inside one awaited coroutine."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from time import perf_counter_ns

from ..scenario import Run


@asynccontextmanager
async def floor(url: str) -> AsyncIterator[Run]:
    free: deque[object] = deque([object()])

    async def cycle() -> None:
        item = free.popleft()
        free.append(item)

    async def run(cycles: int) -> int:
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            await cycle()
        return perf_counter_ns() - started

    yield run
