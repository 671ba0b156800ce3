"""Many callers that share few connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter_ns
from typing import TypeVar

from ..contender import Crowded, CrowdedAndHolding
from ..scenario import Measure, Sample, Scenario
from ..timing import per_cycle, quiet

_T = TypeVar("_T")

# Places of the contended scenario.
_PLACES = 16
# Minimum number of uses per caller, so that start and end hardly matter.
_USES = 10
_FAIR_CALLERS, _FAIR_PLACES = 100, 10
# Length of the fairness scenario, in lengths of other measurements: each caller needs many turns,
# so that one turn more or less does not look unfair.
_FAIR_TIMES = 25


@asynccontextmanager
async def _hand_over(
    contender: type[CrowdedAndHolding], url: str, point: int
) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=1, connections=1) as pool:
        yield per_cycle(partial(_take_turns, pool))


async def _take_turns(pool: CrowdedAndHolding, cycles: int) -> int:
    """Let two callers take turns, each with the place that the other has just released.

    Both are queued at the beginning, so each release finds a waiter.  (If a pool lets the releasing
    caller overtake the waiter, one caller finishes before the other begins.)
    """
    async with pool.hold(1):
        callers = [asyncio.ensure_future(pool.cycle(cycles // 2)) for _ in range(2)]
        await _queued()
        started = perf_counter_ns()
    await asyncio.gather(*callers)
    return perf_counter_ns() - started


async def _queued() -> None:
    """Let new callers enter the queue, which may take a few turns of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def _contended(contender: type[Crowded], url: str, callers: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=_PLACES, connections=_PLACES) as pool:
        yield per_cycle(partial(_all_at_once, pool, callers), step=callers * _USES)


async def _all_at_once(pool: Crowded, callers: int, cycles: int) -> int:
    started, results = await _together(callers, lambda: pool.use(cycles // callers))
    await asyncio.gather(*results)
    return perf_counter_ns() - started


@asynccontextmanager
async def _fairness(contender: type[Crowded], url: str, point: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=_FAIR_PLACES, connections=_FAIR_PLACES) as pool:
        yield partial(_count_uses, pool)


async def _count_uses(pool: Crowded, seconds: float) -> Sample:
    await quiet()
    stop = asyncio.Event()
    _, results = await _together(_FAIR_CALLERS, lambda: pool.use_until(stop))
    await asyncio.sleep(seconds * _FAIR_TIMES)
    stop.set()
    uses = await asyncio.gather(*results)
    fewest, most = min(uses), max(uses)
    return {"fewest_by_most": fewest / most, "fewest_uses": fewest, "most_uses": most}


async def _together(
    callers: int, make: Callable[[], Awaitable[_T]]
) -> tuple[int, list[asyncio.Task[_T]]]:
    """Create the callers, start them together, and return the time of the start."""
    gate = asyncio.Event()

    async def caller() -> _T:
        await gate.wait()
        return await make()

    tasks = [asyncio.create_task(caller()) for _ in range(callers)]
    await asyncio.sleep(0)
    gate.set()
    return perf_counter_ns(), tasks


@asynccontextmanager
async def _given_up(
    contender: type[CrowdedAndHolding], url: str, waiters: int
) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=1, connections=1) as pool:
        cycle = per_cycle(pool.cycle)

        async def measure(seconds: float) -> Sample:
            more = {"us_per_give_up": await _give_up(pool, waiters)} if waiters else {}
            return await cycle(seconds) | more

        yield measure


async def _give_up(pool: CrowdedAndHolding, waiters: int) -> float:
    """Cancel this many waiters for a place; return the us per waiter."""
    async with pool.hold(1):
        tasks = [asyncio.create_task(pool.use(1)) for _ in range(waiters)]
        await _queued()
        started = perf_counter_ns()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        ns = perf_counter_ns() - started
    assert all(task.cancelled() for task in tasks)
    return ns / waiters / 1000


SCENARIOS = (
    Scenario(
        "hand-over",
        "a release that hands the place to a waiter, and its wake-up",
        _hand_over,
        # A contender without use() has no waiters.
        needs=("cycle", "use", "hold"),
    ),
    Scenario(
        "contended",
        f"many callers on {_PLACES} places; a use takes one turn of the loop",
        _contended,
        needs=("use",),
        axis="callers",
        points=(16, 256, 2048),
        smoke_points=(16, 64),
        max_rounds=15,
    ),
    Scenario(
        "fairness",
        f"{_FAIR_CALLERS} callers on {_FAIR_PLACES} places: uses of the least and the most served",
        _fairness,
        needs=("use_until",),
        max_rounds=5,
    ),
    Scenario(
        "given-up",
        "a cycle after waiters were cancelled, and the cost of cancelling one",
        _given_up,
        needs=("cycle", "use", "hold"),
        axis="cancelled waiters",
        points=(0, 10_000),
        smoke_points=(0, 100),
        max_rounds=15,
    ),
)
