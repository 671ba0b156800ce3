"""Scenarios: the tasks of a benchmark."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal

#: The numbers of one measurement, by metric.  The name of a metric ends or begins with its unit
#: (``us_per_ping``).  ``ns`` is per cycle, and ``floor_ns`` per cycle of the floor.
Sample = dict[str, float]

#: Measures once; the argument is the length of the measurement in seconds.
Measure = Callable[[float], Awaitable[Sample]]


class LeftOut(Exception):  # noqa: N818
    """Raised while a scenario is set up if it is impossible here, with the reason."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A task for pools."""

    #: As in ``--scenario``.
    name: str
    #: One line.
    about: str
    #: Sets up everything that is not timed, and yields a function that measures, usually made by
    #: ``timing.per_cycle``.  Arguments: the contender's class, the URL of the echo server, a point.
    prepare: Callable[[Any, str, int], AbstractAsyncContextManager[Measure]]
    #: The required methods of a contender; contenders without them are left out.
    needs: tuple[str, ...]
    #: What varies, and its values; ``("", (0,))`` if nothing varies.
    axis: str = ""
    points: tuple[int, ...] = (0,)
    #: The points of a smoke test; default: the first point.
    smoke_points: tuple[int, ...] = ()
    #: The maximum number of rounds, for long scenarios.
    max_rounds: int | None = None
    #: Whether each sample needs a new process, as for memory.
    own_process: bool = False
    loop: Literal["asyncio", "uvloop"] = "asyncio"

    def points_of(self, smoke: bool) -> tuple[int, ...]:
        return (self.smoke_points or self.points[:1]) if smoke else self.points

    def rounds_of(self, rounds: int, smoke: bool) -> int:
        if smoke and self.own_process:
            # Starting processes takes long.
            return 1
        return rounds if self.max_rounds is None else min(rounds, self.max_rounds)
