"""Compares two runs: finds what got slower, and not by chance.

A shared machine is sometimes slower for a while, and a run takes minutes.  So two runs of the same
code differ by more than the spread of either run.  Therefore

* ratios to the floor are compared, if there are any;
* a change must exceed the spread of both runs: the gap between their quartiles must be at least
  half of the wider spread, and at least 5 %;
* what appears slower is measured once more (by ``__main__.py``), and must be slower again.

A number is as fast as before if the rounds of both runs leave no room (see ``report.interval``) for
a median that has grown by more than 10 %.  If a number is neither slower nor as fast nor faster,
the runs cannot tell: their rounds differ too much, or are too few.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Final

from .contenders import OURS
from .report import RATIO, Result, interval, microseconds, numbers_of, spread
from .saved import Record

#: Smallest growth that is marked, even if a number hardly spreads.
_LEAST: Final = 0.05
#: Growth that must be ruled out before a number is called as fast as before.
_ROOM: Final = 0.1
#: The gap, as a share of the distance between quartiles.
_GAP: Final = 0.5
#: Rounds that have meaningful quartiles.
_ROUNDS: Final = 6

# Metrics of which more is better.
_MERITS: Final = {"fewest_by_most"}
# Metrics that are not compared: they depend on the length of the run, or are not of a pool.
_NEITHER: Final = {"fewest_uses", "most_uses", "ms_raw"}


# Metrics of which more is slower; of other metrics more is worse.
_TIMED: Final = (RATIO, "us_", "ms_", "seconds_")


@dataclass(frozen=True, slots=True)
class Pair:
    """A number in two runs, in each round."""

    before: Sequence[float]
    now: Sequence[float]
    more_is_better: bool

    @property
    def old(self) -> dict[str, float]:
        return spread(self.before)

    @property
    def new(self) -> dict[str, float]:
        return spread(self.now)

    @property
    def is_slower(self) -> bool:
        return self._apart(self.now, self.before)

    @property
    def is_faster(self) -> bool:
        return self._apart(self.before, self.now)

    @property
    def is_as_fast(self) -> bool:
        """Whether the median has grown by so little at most, with 95 % confidence."""
        before, now = interval(self.before), interval(self.now)
        if before is None or now is None:
            return False
        old, new = self.old["median"], self.new["median"]
        # The end of the interval of a difference, by the ends of two intervals (MOVER).
        if self.more_is_better:
            growth = old - new + hypot(before[1] - old, new - now[0])
        else:
            growth = new - old + hypot(now[1] - new, old - before[0])
        return growth <= _ROOM * abs(old)

    @property
    def is_untold(self) -> bool:
        """Whether the runs cannot tell."""
        return not (self.is_slower or self.is_faster or self.is_as_fast)

    def _apart(self, worse: Sequence[float], better: Sequence[float]) -> bool:
        if self.more_is_better:
            worse, better = better, worse
        high, low = _middle(worse), _middle(better)
        if high is None or low is None:
            return False
        widest = max(high[1] - high[0], low[1] - low[0])
        gap = max(_GAP * widest, _LEAST * abs(spread(better)["median"]))
        return high[0] > low[1] + gap


def _middle(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the quartiles, or for fewer rounds where the median is; None: cannot tell."""
    if len(values) < _ROUNDS:
        return interval(values)
    quartiles = spread(values)
    return quartiles["lower_quartile"], quartiles["upper_quartile"]


#: Scenario, point, contender, metric.
Key = tuple[str, int, str, str]


@dataclass(frozen=True, slots=True)
class Change(Pair):
    """A metric of one point of one scenario of one contender, in two runs."""

    scenario: str
    axis: str
    point: int
    contender: str
    metric: str
    #: The time of a cycle in the new run, if the metric is the ratio to the floor.
    us: str = ""

    @property
    def key(self) -> Key:
        return self.scenario, self.point, self.contender, self.metric

    @property
    def growth(self) -> float | None:
        before = self.old["median"]
        return self.new["median"] / before - 1 if before else None

    @property
    def is_ours(self) -> bool:
        return self.contender in OURS

    @property
    def is_timed(self) -> bool:
        return self.metric.startswith(_TIMED)


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    """Return the numbers that both runs have, in the order of the new run."""
    before = {(r.scenario, r.point, r.contender): r for r in old}
    found: list[Change] = []
    for result in new:
        other = before.get((result.scenario, result.point, result.contender))
        if other is not None:
            found += _changes_of(other, result)
    return found


def _changes_of(old: Result, new: Result) -> Iterator[Change]:
    for metric in _compared(new):
        before, now = old.values(metric), new.values(metric)
        if before and now:
            yield Change(
                before,
                now,
                metric in _MERITS,
                new.scenario,
                new.axis,
                new.point,
                new.contender,
                metric,
                microseconds(new.values("ns")) if metric == RATIO else "",
            )


def _compared(result: Result) -> list[str]:
    names = result.metrics()
    if "floor_ns" not in names:
        return [name for name in names if name not in _NEITHER]
    # Other times are only for comparison within the run.
    return [RATIO, *(name for name in names if not name.endswith("ns"))]


def differences(old: Record, new: Record) -> Iterator[str]:
    """Say what differs in versions and machine."""
    for name, value in old.made_on().items():
        now = new.made_on().get(name)
        if now not in (None, value):
            yield f"different: {name} was {value}, is now {now}"


class Comparison:
    """An old run, a new run, and the results that were measured once more."""

    def __init__(self, old: Record, new: Record) -> None:
        self._old = old
        self._new = new
        self.changes = changes(old.results, new.results)
        self._again: dict[Key, Change] = {}

    def suspects(self) -> list[str]:
        """Return the scenarios in which this library appears slower."""
        return list(dict.fromkeys(c.scenario for c in self.changes if c.is_ours and c.is_slower))

    def measured_again(self, results: Sequence[Result]) -> None:
        again = changes(self._old.results, results)
        # If the time was up soon, the first time counts.
        self._again |= {change.key: change for change in again if interval(change.now) is not None}

    @property
    def slower(self) -> list[Change]:
        """The numbers of this library that got slower."""
        return [c for c in self.changes if c.is_ours and c.is_slower and self._is_confirmed(c)]

    @property
    def is_slower(self) -> bool:
        return bool(self.slower)

    @property
    def ours(self) -> list[Change]:
        """The numbers of this library."""
        return [change for change in self.changes if change.is_ours]

    @property
    def untold(self) -> list[Change]:
        """The numbers of this library that may or may not have got slower."""
        slower = {change.key for change in self.slower}
        return [
            change
            for change in self.ours
            if change.key not in slower and (change.is_untold or change.is_slower)
        ]

    def _is_confirmed(self, change: Change) -> bool:
        again = self._again.get(change.key)
        return again is None or again.is_slower

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from differences(self._old, self._new)
        # Of other libraries, only changes.
        shown = [c for c in self.changes if c.is_ours or c.is_slower or c.is_faster]
        if shown:
            yield f"{'medians (quartiles)':<51} {'before':>9} {'now':>30} {'change':>28}"
        for change in shown:
            yield f"{_line(change)}  {self._mark(change)}".rstrip()
        yield self._summary()

    def _mark(self, change: Change) -> str:
        slower, faster = ("slower", "faster") if change.is_timed else ("worse", "better")
        if change.is_faster:
            return faster
        if not change.is_slower:
            return "cannot tell" if change.is_untold else ""
        if not change.is_ours:
            return f"{slower}, not ours"
        return slower.upper() if self._is_confirmed(change) else "not confirmed"

    def _summary(self) -> str:
        untold = f"; {len(self.untold)} cannot be told from noise" if self.untold else ""
        slower = (
            f"{len(self.slower)} of {len(self.ours)} numbers of this library got slower or worse"
        )
        return slower + untold


def _line(change: Change) -> str:
    label = f"{change.scenario} {change.point:,}" if change.axis else change.scenario
    name = f"{label:<26} {change.contender:<24}"
    unit = f"x floor, {change.us} µs" if change.metric == RATIO else change.metric
    growth = change.growth
    percent = "" if growth is None else f"{round(100 * growth):+d} %".replace("+0 ", "0 ")
    return f"{name} {numbers_of(change.old)} {numbers_of(change.new)} {percent:>7} {unit}"
