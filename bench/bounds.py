"""The bounds of the project, as data: for the compiled core, with numbers of the pure core.

A number is the median over the rounds: of the ratio of two readings of the same round, or of a
single reading.  A bound is met or missed if the spread of the rounds leaves no doubt about it
(``report.interval``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

from .contenders import OURS
from .report import RATIO, Result, interval, spread, three_digits

#: ``noise``: cannot tell, because of it.  Empty: not measured, or there is no bound.
Verdict = Literal["met", "missed", "noise", ""]

#: Scenario, point, contender.
Place = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """The place of a number in the samples."""

    scenario: str
    metric: str = "ns"
    point: int = 0
    #: None: the core of this library for which the bound is evaluated.
    contender: str | None = None

    @property
    def is_our_time(self) -> bool:
        """Whether this is the time of a cycle of this library, or its ratio to the floor."""
        return self.contender is None and self.metric in ("ns", RATIO)

    def place(self, core: str) -> Place:
        return self.scenario, self.point, core if self.contender is None else self.contender

    def values(self, results: Sequence[Result], core: str, metric: str = "") -> list[float]:
        """Return the number, or another metric of the same place, of each round."""
        for result in results:
            if result.place == self.place(core):
                return result.values(metric or self.metric)
        return []


@dataclass(frozen=True, slots=True)
class Bound:
    what: str
    reading: Reading
    over: Reading | None = None
    at_most: float | None = None
    at_least: float | None = None
    #: Whether this is about something else, as an explanation.
    is_yardstick: bool = False

    def values(self, results: Sequence[Result], core: str) -> list[float]:
        values = self.reading.values(results, core)
        # A contender that was left out has no rounds.
        if self.over is not None:
            return [a / b for a, b in zip(values, self.over.values(results, core), strict=False)]
        return values

    @property
    def readings(self) -> list[Reading]:
        return [r for r in (self.reading, self.over) if r is not None]

    @property
    def is_of_either_core(self) -> bool:
        return any(reading.contender is None for reading in self.readings)

    def nanoseconds(self, results: Sequence[Result], core: str) -> list[float]:
        """Return the time of a cycle of this library in each round, if the bound is about it."""
        ours = [reading for reading in self.readings if reading.is_our_time]
        return ours[0].values(results, core, "ns") if ours else []

    def verdict(self, values: Sequence[float]) -> Verdict:
        if not (values and self.text):
            return ""
        ends = interval(values)
        if ends is None:
            return "noise"
        worst, best = ends if self.at_least is not None else reversed(ends)
        return "met" if self._allows(worst) else "noise" if self._allows(best) else "missed"

    def _allows(self, number: float) -> bool:
        return (self.at_most is None or number <= self.at_most) and (
            self.at_least is None or number >= self.at_least
        )

    @property
    def is_timed(self) -> bool:
        """Whether the number depends on the time that something takes."""
        return self.reading.metric.endswith(("ns", RATIO)) or self.reading.metric.startswith("ms_")

    @property
    def text(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"

    @property
    def in_words(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:,g}"
        return "" if self.at_least is None else f"at least {self.at_least:,g}"


def _by_floor(what: str, scenario: str, at_most: float) -> Bound:
    return Bound(what, Reading(scenario), Reading(scenario, "floor_ns"), at_most=at_most)


def _flat(what: str, scenario: str, many: int, few: int, at_most: float | None = 1.2) -> Bound:
    # Both run in one process, and each is timed next to the floor.
    return Bound(
        f"{what}: {many:,} / {few:,}",
        Reading(scenario, RATIO, many),
        Reading(scenario, RATIO, few),
        at_most=at_most,
    )


BOUNDS: Final = (
    _by_floor("core acquire+release / floor", "core", 1.3),
    _by_floor("public cycle on a live socket / floor", "cycle", 5),
    _by_floor("async with / floor", "async-with", 6),
    _by_floor("with headers and protocols / floor", "options", 16),
    Bound(
        "with a new header in each call / the same header",
        Reading("new-header"),
        Reading("new-header", "known_ns"),
        at_most=3,
    ),
    _flat("held", "held", 100_000, 0),
    _flat("endpoints, one of them cycled", "endpoints", 10_000, 1),
    _flat("handshakes, one of them cycled", "handshakes", 1000, 1),
    _flat("cancelled waiters", "given-up", 10_000, 0),
    *(
        Bound(
            f"contended, {callers:,} callers / Semaphore",
            Reading("contended", point=callers),
            Reading("contended", point=callers, contender="semaphore"),
            at_most=1.2,
        )
        for callers in (16, 256, 2048)
    ),
    Bound("fairness, fewest/most", Reading("fairness", "fewest_by_most"), at_least=0.98),
    Bound(
        "request/reply through the pool / raw connection",
        Reading("request-reply"),
        Reading("request-reply", "raw_ns"),
        at_most=1.05,
    ),
    Bound(
        "64 MB each way over TLS, through the pool / raw connection",
        Reading("transfer-tls", "ms_pool", 64),
        Reading("transfer-tls", "ms_raw", 64),
        at_most=1.05,
    ),
    Bound(
        "connecting each time / through the pool",
        Reading("request-reply", "connecting_ns"),
        Reading("request-reply"),
        at_least=5,
    ),
    Bound(
        "2015 algorithm / ours, idle",
        Reading("cycle", contender="2015"),
        Reading("cycle"),
        at_least=7,
    ),
    Bound(
        "2015 algorithm / ours, 5,000 in use",
        Reading("cycle-held", point=5000, contender="2015"),
        Reading("cycle-held", point=5000),
        at_least=90,
    ),
    Bound(
        "aiohttp connector reuse / ours",
        Reading("cycle", contender="aiohttp"),
        Reading("cycle"),
        at_least=3,
    ),
    Bound(
        "spike: connections opened, default options",
        Reading("spike", "opened", point=100),
        at_most=8,
    ),
    Bound(
        "spike: time to serve all / one handshake at a time",
        Reading("spike", "ms_to_serve_all", point=100),
        Reading("spike", "ms_to_serve_all", point=1),
        at_most=1.2,
    ),
    Bound(
        "memory of an idle connection, bytes",
        Reading("memory", "bytes_per_connection", point=1000),
        at_most=8000,
    ),
    Bound(
        "pure core / compiled, core cycle",
        Reading("core", contender="py"),
        Reading("core", contender="c"),
        at_most=5,
    ),
    # Without a bound, for comparison.
    Bound(
        "queued, two callers in turn / Semaphore",
        Reading("hand-over"),
        Reading("hand-over", contender="semaphore"),
    ),
    Bound("spike: connections opened, one at a time", Reading("spike", "opened", point=1)),
    Bound(
        "memory of an idle connection without the pool, bytes",
        Reading("memory", "bytes_per_connection", point=1000, contender="unread"),
    ),
    # Cache misses of the processor cost a dict of deques as much.
    _flat("endpoints in turn", "endpoints-in-turn", 10_000, 1, None),
    Bound(
        "same with a dict of deques",
        Reading("endpoints-in-turn", "dict_ns", 10_000),
        Reading("endpoints-in-turn", "dict_ns", 1),
        is_yardstick=True,
    ),
    _flat("handshakes in turn", "handshakes-in-turn", 1000, 1, None),
    Bound(
        "same with a dict of deques",
        Reading("handshakes-in-turn", "dict_ns", 1000),
        Reading("handshakes-in-turn", "dict_ns", 1),
        is_yardstick=True,
    ),
)


def places(core: str) -> set[Place]:
    """Return what has to be measured for the bounds of a core."""
    return {
        reading.place(core)
        for bound in BOUNDS
        if bound.is_of_either_core or core == OURS[0]
        for reading in bound.readings
    }


def judged(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return each bound with samples, with the measured numbers of each core."""
    return [verdict for bound in BOUNDS if (verdict := judge(bound, results))]


def judge(bound: Bound, results: Sequence[Result]) -> dict[str, Any] | None:
    """Return the same for one bound, or None if it has no samples."""
    cores = OURS if bound.is_of_either_core else OURS[:1]
    measured = {core: spread(values) for core in cores if (values := bound.values(results, core))}
    if not measured:
        return None
    # The bound applies to the compiled core.
    compiled = bound.values(results, OURS[0])
    times = bound.nanoseconds(results, OURS[0])
    return {
        "what": bound.what,
        "bound": bound.text,
        "measured": measured,
        "interval": interval(compiled),
        "us": median(times) / 1000 if times else None,
        "verdict": bound.verdict(compiled),
    }


#: How a verdict is printed.
MARKS: Final = {"met": "met", "missed": "MISSED", "noise": "cannot tell", "": ""}


def as_lines(verdicts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the lines of the table; empty if there are no verdicts."""
    if not verdicts:
        return
    yield (f"{'bounds':<50} {'bound':>7} {'c':>8}  {'95 %':<15} {'':<11} {'c, µs':>8} {'py':>8}")
    for verdict in verdicts:
        line = (
            f"{verdict['what']:<50} {verdict['bound']:>7} {_median(verdict, 'c'):>8}"
            f"  {_ends(verdict):<15} {MARKS[verdict['verdict']]:<11} {_us(verdict):>8}"
            f" {_median(verdict, 'py'):>8}"
        )
        yield line.rstrip()


def _median(verdict: dict[str, Any], core: str) -> str:
    measured = verdict["measured"]
    return three_digits(measured[core]["median"]) if core in measured else ""


def _us(verdict: dict[str, Any]) -> str:
    return "" if verdict["us"] is None else three_digits(verdict["us"])


def _ends(verdict: dict[str, Any]) -> str:
    return " - ".join(three_digits(end) for end in verdict["interval"] or ())
