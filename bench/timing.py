"""How a cycle is timed, and what is done so that only the cycle is.

The floor
    is timed half before and half after each thing, in the same process: a machine that gets slower
    or faster meanwhile does so for both.

Warm-up
    The first use of a thing finds out how many cycles fill the time, and is thrown away: caches are
    warm, the interpreter has specialised its bytecode, lists have grown to their size.

Order
    Contenders and points change order from round to round: nobody is always the first, or the one
    after a certain other.

Garbage
    The collector stays on: who makes cyclic garbage pays for its collection.  But what was there
    before is collected, and frozen, so that nobody pays for going through what others, or its own
    set-up, hold.  On CPython a cycle that keeps nothing triggers no collection at all.

Leftovers
    Callbacks that are due are run before anything is timed.  When a scenario has had its rounds
    all that it set up is closed, in every process, before the next begins: no timer, task or socket
    of one is there during another.  (The points of one scenario are there side by side.)

Neighbours
    Processes take turns: a worker that is not asked sleeps in its selector.  One contender pays
    neither for another's imports nor for its heap.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from itertools import count
from statistics import fmean

from .contenders.floor import Floor
from .scenario import Measure, Sample

# PyPy has none.
freeze = getattr(gc, "freeze", gc.collect)
unfreeze = getattr(gc, "unfreeze", gc.collect)

#: Goes through a number of cycles, and returns the ns that took.
Run = Callable[[int], Awaitable[int]]


def per_cycle(run: Run, step: int = 100, slices: int = 1, **others: Run) -> Measure:
    """Return what times a cycle of ``run`` next to the floor.

    ``others`` are timed next to it, too, each under its own name.  The number of cycles is always a
    multiple of ``step``.  With ``slices``, they take turns so often in one measurement, each as
    long as it would be without: where two processes do the work, the machine changes its mind from
    one moment to the next about how fast they are.
    """
    things = {"ns": _Timed(run, step)} | {name: _Timed(run, step) for name, run in others.items()}
    floor = _Timed(Floor().cycle, 100)
    turns = count()

    async def measure(seconds: float) -> Sample:
        sample: Sample = {}
        # Nobody is always the first here either.
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
    """Something to be timed, and what it cost when it was warm."""

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
        """Return the ns of one cycle, of as many as fill the time."""
        steps = round(seconds * 1e9 / self._expected_ns / self._step)
        cycles = max(1, steps) * self._step
        return await self._run(cycles) / cycles


async def quiet() -> None:
    """Get done what is still to be done from before."""
    gc.collect()
    # What a callback schedules, too.
    for _ in range(3):
        await asyncio.sleep(0)
