"""The core alone: an idle connection is acquired and released, with no socket and no session."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from time import monotonic, perf_counter_ns
from typing import Any

from aiowebsocketclient._compat import Pool

from ..contenders.ours import Ours
from ..scenario import Measure, Scenario
from ..timing import per_cycle


@asynccontextmanager
async def _core(contender: type[Ours], url: str, point: int) -> AsyncIterator[Measure]:
    # The very key that the public cycle is looked up by.
    key = contender.key(url)
    pool = Pool()
    now = monotonic()
    slot = pool.open(key.endpoint, key, now)
    assert slot is not None
    pool.connected(slot, now)
    yield per_cycle(partial(cycle, pool, key, now))
    assert pool.gauges() == (0, 0, 1, 0, 0, 1)


async def cycle(pool: Pool, key: Any, now: float, cycles: int) -> int:
    """Acquire and release what is idle under ``key``."""
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        slot = pool.acquire(key, now)
        assert slot is not None
        pool.release(slot, now)
    return perf_counter_ns() - started


SCENARIOS = (Scenario("core", "the core alone: no socket, no session", _core, needs=("key",)),)
