"""Compares two runs: finds what got slower, and not by chance.

A shared machine is sometimes slower for a while, and a run takes minutes.  So two runs of the same
code differ by more than the spread of either run.  Therefore

* ratios to the floor are compared, if there are any;
* a change must exceed the spread of both runs: the gap between their quartiles must be at least
  half of the wider spread, and at least 5 %;
* what appears slower is measured once more (by ``__main__.py``), and must be slower again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .contenders import OURS
from .report import RATIO, Result, numbers_of, spread
from .saved import Record

#: Smallest growth that is marked, even if a number hardly spreads.
_LEAST: Final = 0.05
#: The gap, as a share of the distance between quartiles.
_GAP: Final = 0.5
#: Fewer rounds give no meaningful quartiles.
_ROUNDS: Final = 5

# Metrics of which more is better.
_MERITS: Final = {"fewest_by_most"}
# Metrics that depend on the length of the run, and are not compared.
_NEITHER: Final = {"fewest_uses", "most_uses"}


# Metrics of which more is slower; of other metrics more is worse.
_TIMED: Final = (RATIO, "us_", "ms_", "seconds_")

#: Scenario, point, contender, metric.
Key = tuple[str, int, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """A metric of one point of one scenario of one contender, in two runs."""

    scenario: str
    axis: str
    point: int
    contender: str
    metric: str
    old: dict[str, float]
    new: dict[str, float]
    #: The number of rounds of the run with fewer rounds.
    rounds: int

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

    @property
    def is_slower(self) -> bool:
        return self._apart(self.new, self.old)

    @property
    def is_faster(self) -> bool:
        return self._apart(self.old, self.new)

    @property
    def is_untold(self) -> bool:
        return self.rounds < _ROUNDS

    def _apart(self, worse: dict[str, float], better: dict[str, float]) -> bool:
        if self.is_untold:
            return False
        if self.metric in _MERITS:
            worse, better = better, worse
        widest = max(s["upper_quartile"] - s["lower_quartile"] for s in (worse, better))
        gap = max(_GAP * widest, _LEAST * abs(better["median"]))
        return worse["lower_quartile"] > better["upper_quartile"] + gap


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
                new.scenario,
                new.axis,
                new.point,
                new.contender,
                metric,
                spread(before),
                spread(now),
                min(len(before), len(now)),
            )


def _compared(result: Result) -> list[str]:
    names = result.metrics()
    if "floor_ns" not in names:
        return [name for name in names if name not in _NEITHER]
    # Other times are only for comparison within the run.
    return [RATIO, *(name for name in names if not name.endswith("ns"))]


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
        self._again |= {change.key: change for change in changes(self._old.results, results)}

    @property
    def slower(self) -> list[Change]:
        """The numbers of this library that got slower."""
        return [c for c in self.changes if c.is_ours and c.is_slower and self._is_confirmed(c)]

    def _is_confirmed(self, change: Change) -> bool:
        again = self._again.get(change.key)
        return again is None or again.is_slower

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, value in self._old.made_on().items():
            now = self._new.made_on().get(name)
            if now not in (None, value):
                yield f"different: {name} was {value}, is now {now}"
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
            return ""
        if not change.is_ours:
            return f"{slower}, not ours"
        return slower.upper() if self._is_confirmed(change) else "not confirmed"

    def _summary(self) -> str:
        ours = [change for change in self.changes if change.is_ours]
        untold = sum(change.is_untold for change in ours)
        few = f"; {untold} had fewer than {_ROUNDS} rounds, too few to compare" if untold else ""
        return f"{len(self.slower)} of {len(ours)} numbers of this library got slower or worse{few}"


def _line(change: Change) -> str:
    label = f"{change.scenario} {change.point:,}" if change.axis else change.scenario
    name = f"{label:<26} {change.contender:<24}"
    unit = "x floor" if change.metric == RATIO else change.metric
    growth = change.growth
    percent = "" if growth is None else f"{round(100 * growth):+d} %".replace("+0 ", "0 ")
    return f"{name} {numbers_of(change.old)} {numbers_of(change.new)} {percent:>7} {unit}"
