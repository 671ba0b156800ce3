"""What a scenario is."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal

#: What was measured once: numbers by the name of the metric, which ends in its unit or begins with
#: it (``us_per_ping``).  ``ns`` is per cycle, and ``floor_ns`` that of the floor next to it.
Sample = dict[str, float]

#: Measures once; given the seconds for which a thing is to be timed.
Measure = Callable[[float], Awaitable[Sample]]


class LeftOut(Exception):  # noqa: N818
    """Raised while a scenario is set up: it cannot be done here, and why."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to do to a pool."""

    #: As in ``--scenario``.
    name: str
    #: One line.
    about: str
    #: Given the contender's class, the URL of the echo server and a point of the axis: sets up all
    #: that is not to be timed, and yields what measures. (``timing.per_cycle`` makes most of them.)
    prepare: Callable[[Any, str, int], AbstractAsyncContextManager[Measure]]
    #: The methods of a contender that it uses; who lacks one is left out.
    needs: tuple[str, ...]
    #: What varies, and how much there is of it; ``("", (0,))`` where nothing does.
    axis: str = ""
    points: tuple[int, ...] = (0,)
    #: Those of a quick run; default: the first.
    quick_points: tuple[int, ...] = ()
    #: For what takes long: no more rounds than these.
    max_rounds: int | None = None
    #: Whether each sample is taken in a process made for it, as one of memory must be.
    own_process: bool = False
    loop: Literal["asyncio", "uvloop"] = "asyncio"

    def points_of(self, quick: bool) -> tuple[int, ...]:
        return (self.quick_points or self.points[:1]) if quick else self.points

    def rounds_of(self, rounds: int, quick: bool) -> int:
        if quick and self.own_process:
            # To start processes is what takes long then.
            return 1
        return rounds if self.max_rounds is None else min(rounds, self.max_rounds)
