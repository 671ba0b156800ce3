"""Many callers of few connections."""

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
# Uses of each caller, at least: so many that it hardly matters how they begin and end.
_USES = 10
_FAIR_CALLERS, _FAIR_PLACES = 100, 10
# How long fairness is watched, in times that others are: each caller must come round often, since
# one turn more or less is no unfairness.
_FAIR_TIMES = 25


@asynccontextmanager
async def _hand_over(
    contender: type[CrowdedAndHolding], url: str, point: int
) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=1, connections=1) as pool:
        yield per_cycle(partial(_take_turns, pool))


async def _take_turns(pool: CrowdedAndHolding, cycles: int) -> int:
    """Let two callers go on, each with the place that the other has just released.

    Both are queued when it begins, so each release has a waiter.  (Where who releases may take it
    again before who waits, one is done before the other begins, and nothing is handed over.)
    """
    async with pool.hold(1):
        callers = [asyncio.ensure_future(pool.cycle(cycles // 2)) for _ in range(2)]
        await _queued()
        started = perf_counter_ns()
    await asyncio.gather(*callers)
    return perf_counter_ns() - started


async def _queued() -> None:
    """Let those who have just been started get into the line, which may take a few turns."""
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
    """Start so many callers that are there already, and say when."""
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
    """Let so many wait for a place and be cancelled; return the us of one's end."""
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
        "a release that hands on to a waiter, and its wake-up",
        _hand_over,
        # Who has no use() does not let anybody wait.
        needs=("cycle", "use", "hold"),
    ),
    Scenario(
        "contended",
        f"many callers on {_PLACES} places; a use takes one turn of the loop",
        _contended,
        needs=("use",),
        axis="callers",
        points=(16, 256, 2048),
        quick_points=(16, 64),
        max_rounds=15,
    ),
    Scenario(
        "fairness",
        f"{_FAIR_CALLERS} callers on {_FAIR_PLACES} places: who was served least and most often",
        _fairness,
        needs=("use_until",),
        max_rounds=5,
    ),
    Scenario(
        "given-up",
        "a cycle after waiters have been cancelled, and what it costs to cancel one",
        _given_up,
        needs=("cycle", "use", "hold"),
        axis="waiters given up",
        points=(0, 10_000),
        quick_points=(0, 100),
        max_rounds=15,
    ),
)
