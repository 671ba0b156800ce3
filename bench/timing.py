"""Times a cycle, and only the cycle.

The floor
    It is timed in the same process, half before and half after each contender's cycle: a machine
    that becomes slower or faster affects both.

Warm-up
    The first measurement determines how many cycles fill the time, and is discarded.  Afterwards
    caches are warm, the interpreter has specialised its bytecode, and lists have their final size.

Order
    Contenders and points change order from round to round: no contender always comes first, or
    always after the same one.

Garbage
    The collector stays on: a contender that creates cyclic garbage pays for its collection.
    Existing objects are collected and frozen before, so that no contender pays for traversing them.
    On CPython, a cycle that keeps nothing triggers no collection.

Leftovers
    Pending callbacks run before a measurement.  At the end of the turn of a scenario, every process
    closes everything that the scenario has set up: scenarios do not disturb each other.  (All
    points of one scenario exist at the same time.)

Neighbours
    Processes take turns: a worker without a task sleeps in its selector.  No contender pays for the
    imports or the heap of another.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from itertools import count
from statistics import fmean

from .contenders.floor import Floor
from .scenario import Measure, Sample

# PyPy has no freeze().
freeze = getattr(gc, "freeze", gc.collect)
unfreeze = getattr(gc, "unfreeze", gc.collect)

#: Runs a number of cycles, and returns the ns taken.
Run = Callable[[int], Awaitable[int]]


def per_cycle(run: Run, step: int = 100, slices: int = 1, **others: Run) -> Measure:
    """Return a function that times a cycle of ``run`` next to the floor.

    It also times ``others``, each under its own name.  The number of cycles is a multiple of
    ``step``.  With ``slices``, ``run`` and ``others`` take turns that often in one measurement,
    each turn as long as a whole measurement: if two processes do the work, their speed varies from
    moment to moment.
    """
    things = {"ns": _Timed(run, step)} | {name: _Timed(run, step) for name, run in others.items()}
    floor = _Timed(Floor().cycle, 100)
    turns = count()

    async def measure(seconds: float) -> Sample:
        sample: Sample = {}
        # The order changes here, too.
        order = list(things) if next(turns) % 2 else list(reversed(things))
        for thing in (floor, *things.values()):
            await thing.warm_up(seconds)
        await quiet()
        before = await floor.ns(seconds / 2)
        times: dict[str, list[float]] = {name: [] for name in order}
        for _ in range(slices):
            for name in order:
                times[name].append(await things[name].ns(seconds))
            order.reverse()
        sample.update({name: fmean(ns) for name, ns in times.items()})
        sample["floor_ns"] = (before + await floor.ns(seconds / 2)) / 2
        return sample

    return measure


class _Timed:
    """A loop to be timed, with its cost after warming up."""

    def __init__(self, run: Run, step: int) -> None:
        self._run = run
        self._step = step
        self._expected_ns = 0.0

    async def warm_up(self, seconds: float) -> None:
        if self._expected_ns:
            return
        cycles = self._step
        while (ns := await self._run(cycles)) < seconds * 1e9 / 2:
            cycles *= 2
        self._expected_ns = ns / cycles

    async def ns(self, seconds: float) -> float:
        """Run as many cycles as fill the time; return the ns per cycle."""
        steps = round(seconds * 1e9 / self._expected_ns / self._step)
        cycles = max(1, steps) * self._step
        return await self._run(cycles) / cycles


async def quiet() -> None:
    """Collect garbage, and run pending callbacks."""
    gc.collect()
    # Several turns, because callbacks may schedule others.
    for _ in range(3):
        await asyncio.sleep(0)
