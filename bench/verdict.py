"""The verdict of a quick run: what is slower than the bounds ask, or than a saved run.

The rounds themselves decide what is noise: see ``report.interval`` for the bounds, and
``compare.py`` for a saved run.  What is neither as fast nor settled is measured again, up to three
times in all, as long as there is time.  It is slower if it is slower twice and never as fast, and
as fast if it is that once and never slower.

Beside a saved run, only what the bounds are about is judged: ratios of times that are taken in
turns.  Two runs at different times say little about other times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from .bounds import BOUNDS, Bound, Verdict
from .compare import Pair, differences
from .contenders import OURS
from .report import Result, interval, three_digits
from .saved import Record

#: How often something is measured.
MOST: Final = 3


@dataclass(slots=True)
class Quantity:
    """What a bound is about, measured once or several times."""

    bound: Bound
    #: The bounds only apply to the compiled core.
    is_bound: bool
    #: The numbers of the saved run.
    before: list[float]
    #: The numbers of each time, and the time of a cycle in µs.
    looks: list[list[float]] = field(default_factory=list)
    us: float | None = None

    @property
    def by_bound(self) -> Verdict:
        return _together([self.bound.verdict(look) for look in self.looks if self.is_bound])

    @property
    def by_saved(self) -> Verdict:
        return _together([self._beside(look) for look in self.looks if self.before])

    def _beside(self, look: list[float]) -> Verdict:
        pair = Pair(self.before, look, self.bound.at_least is not None)
        if pair.is_slower:
            return "missed"
        return "noise" if pair.is_untold else "met"

    @property
    def is_doubtful(self) -> bool:
        """Whether this has to be measured again."""
        settled = all(
            verdict in ("met", "") or (verdict == "missed" and len(self.looks) > 1)
            for verdict in (self.by_bound, self.by_saved)
        )
        return not settled and len(self.looks) < MOST

    def mark(self, verdict: Verdict) -> str:
        marks = {"met": "as fast", "missed": "SLOWER", "noise": "cannot tell", "": ""}
        if not self.bound.is_timed:
            marks |= {"met": "as good", "missed": "WORSE"}
        return marks[verdict]

    def numbers(self) -> str:
        looks = ", then ".join(map(_with_ends, self.looks))
        return f"{looks}; saved {_with_ends(self.before)}" if self.before else looks


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of several times."""
    if not any(verdicts):
        return ""
    if "missed" not in verdicts:
        return "met" if "met" in verdicts else "noise"
    # Once is enough if there was no time for more.
    enough = min(2, len(verdicts))
    return "missed" if "met" not in verdicts and verdicts.count("missed") >= enough else "noise"


def _with_ends(numbers: list[float]) -> str:
    ends = interval(numbers)
    doubt = " - ".join(map(three_digits, ends)) if ends else "too few rounds"
    return f"{three_digits(median(numbers))} ({doubt})"


class Judgement:
    """What the bounds are about, beside the bounds and perhaps beside a saved run."""

    def __init__(self, record: Record, saved: Record | None = None) -> None:
        self._record = record
        self._saved = saved
        compiled = any(r.contender == OURS[0] and r.samples for r in record.results)
        self._core = OURS[0] if compiled else OURS[1]
        before = saved.results if saved else []
        self._quantities = [
            Quantity(bound, compiled, bound.values(before, self._core))
            for bound in BOUNDS
            if not bound.is_yardstick
        ]
        self._look(self._quantities, record.results)

    def _look(self, quantities: Sequence[Quantity], results: Sequence[Result]) -> None:
        for quantity in quantities:
            values = quantity.bound.values(results, self._core)
            # If the time was up soon, the first time counts.
            if not values or (quantity.looks and interval(values) is None):
                continue
            quantity.looks.append(values)
            times = quantity.bound.nanoseconds(results, self._core)
            quantity.us = median(times) / 1000 if times else None

    def suspects(self) -> list[str]:
        """Return the scenarios that must be measured again."""
        readings = [r for q in self._quantities if q.is_doubtful for r in q.bound.readings]
        return list(dict.fromkeys(reading.scenario for reading in readings))

    def measured_again(self, results: Sequence[Result]) -> None:
        self._look([quantity for quantity in self._quantities if quantity.is_doubtful], results)

    @property
    def is_slower(self) -> bool:
        return bool(self._bounds("missed") or self._beside("missed"))

    def _bounds(self, verdict: Verdict) -> int:
        return sum(q.by_bound == verdict for q in self._quantities if q.bound.text)

    def _beside(self, verdict: Verdict) -> int:
        return sum(q.by_saved == verdict for q in self._quantities)

    def __str__(self) -> str:
        return "\n".join(map(str.rstrip, self._lines()))

    def _lines(self) -> Iterator[str]:
        if self._saved:
            yield from differences(self._saved, self._record)
        saved = f"{'saved run':<12} " if self._saved else ""
        yield f"{'bounds':<12} {saved}{'':<50} {'bound':>7} {'µs':>7}  median (95 %)"
        for q in self._quantities:
            saved = f"{q.mark(q.by_saved):<12} " if self._saved else ""
            us = "" if q.us is None else three_digits(q.us)
            mark = q.mark(q.by_bound)
            numbers = q.numbers() if q.looks else "not measured"
            yield f"{mark:<12} {saved}{q.bound.what:<50} {q.bound.text:>7} {us:>7}  {numbers}"
        yield f"VERDICT: {self._in_short()}"

    def _in_short(self) -> str:
        counts: list[tuple[str, Callable[[Verdict], int]]] = [("bounds", self._bounds)]
        if self._saved:
            counts.append(("numbers of the saved run", self._beside))
        told: tuple[Verdict, ...] = ("met", "missed", "noise")
        slower: list[str] = []
        noise = judged = 0
        for what, count in counts:
            missed, number = count("missed"), sum(map(count, told))
            noise += count("noise")
            judged += number
            slower += [f"{missed} of {number} {what}"] if missed else []
        if not judged:
            return "none, because nothing was measured that has a bound, or is in the saved run"
        doubt = f"; {noise} cannot be told from noise" if noise else ""
        if slower:
            return f"SLOWER OR WORSE than {' and '.join(slower)}{doubt}"
        return f"nothing is slower or worse{doubt}"
