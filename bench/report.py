"""Computes and prints the results of the samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import comb
from statistics import median, quantiles
from typing import Any, Final

from .scenario import Sample


@dataclass(frozen=True, slots=True)
class Run:
    """The length of a run."""

    rounds: int
    #: Seconds of each measurement in a round.
    seconds: float
    #: Whether few connections and short measurements only show that everything works.
    smoke: bool


#: The name of the metric ``ns`` / ``floor_ns``.
RATIO: Final = "ratio"


@dataclass(slots=True)
class Result:
    """The results of a contender at one point of a scenario."""

    scenario: str
    axis: str
    point: int
    contender: str
    #: One sample per round.
    samples: list[Sample] = field(default_factory=list)
    #: Why it was not measured; None: it was.
    left_out: str | None = None

    @property
    def place(self) -> tuple[str, int, str]:
        return self.scenario, self.point, self.contender

    def leave_out(self, reason: str) -> None:
        self.left_out = reason
        self.samples.clear()

    def values(self, metric: str) -> list[float]:
        """Return a metric, or the ratio to the floor, of each round."""
        if metric == RATIO:
            return [s["ns"] / s["floor_ns"] for s in self.samples if "floor_ns" in s]
        return [sample[metric] for sample in self.samples if metric in sample]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the median and spread of each metric over the rounds."""
        names = dict.fromkeys(name for sample in self.samples for name in sample)
        return {name: spread(self.values(name)) for name in names}

    def ratio(self) -> dict[str, float] | None:
        """Return the same for the ratio to the floor, if the result is timed per cycle."""
        ratios = self.values(RATIO)
        return spread(ratios) if ratios else None


def spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) == 1:
        lower = upper = values[0]
    else:
        lower, _, upper = quantiles(values, n=4, method="inclusive")
    return {
        "median": median(values),
        "lower_quartile": lower,
        "upper_quartile": upper,
        "min": min(values),
        "max": max(values),
    }


#: Fewer rounds tell nothing: no number is the exception and no number is the rule.
_FEWEST: Final = 3
#: Chance that the median of endless rounds is outside of an interval.
_DOUBT: Final = 0.05


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return where the median of endless rounds is, with 95 % confidence; None: cannot tell.

    The rounds alone decide, whatever the shape of their spread: each round is as likely to be below
    that median as above it.  Fewer than six rounds do not enclose it that surely; their range is
    added on both sides.
    """
    count = len(values)
    if count < _FEWEST:
        return None
    ordered = sorted(values)
    # The chances that the median is outside of the first and the last, the second and the last but
    # one, and so on.
    doubts = accumulate(2 * comb(count, number) / 2**count for number in range(count))
    sure = sum(doubt <= _DOUBT for doubt in doubts)
    if sure:
        return ordered[sure - 1], ordered[-sure]
    width = ordered[-1] - ordered[0]
    return ordered[0] - width, ordered[-1] + width


def as_json(
    environment: dict[str, Any],
    run: Run,
    results: Sequence[Result],
    verdicts: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "environment": environment,
        "rounds": run.rounds,
        "seconds": run.seconds,
        "results": [
            {
                "scenario": result.scenario,
                "axis": result.axis,
                "point": result.point,
                "contender": result.contender,
                "left_out": result.left_out,
                "ratio": result.ratio(),
                "metrics": result.metrics(),
                "samples": result.samples,
            }
            for result in results
        ],
        "bounds": verdicts,
    }


def as_text(environment: dict[str, Any], run: Run, results: Sequence[Result]) -> str:
    lines = list(_header(environment, run))
    scenario = None
    for result in results:
        if result.scenario != scenario:
            scenario = result.scenario
            axis = f", by {result.axis}" if result.axis else ""
            lines += ["", f"{scenario}{axis}"]
        lines += _lines_of(result)
    return "\n".join(line.rstrip() for line in lines)


def _lines_of(result: Result) -> Iterator[str]:
    name = f"  {result.contender:<32}"
    if result.axis:
        name = f"  {result.point:>7,} {result.contender:<24}"
    if result.left_out is not None:
        yield f"{name} left out: {result.left_out}"
        return
    metrics = result.metrics()
    ratio = result.ratio()
    if ratio is not None:
        yield f"{name} {numbers_of(ratio)} x floor   {microseconds(result.values('ns'))} µs"
        del metrics["ns"], metrics["floor_ns"]
    for metric, numbers in metrics.items():
        if metric.endswith("_ns"):
            metric = metric.removesuffix("_ns") + "_us"
            numbers = {name: number / 1000 for name, number in numbers.items()}
        yield f"{name} {numbers_of(numbers)} {metric}"


def numbers_of(numbers: dict[str, float]) -> str:
    middle, *others = (_short(numbers[n]) for n in ("median", "lower_quartile", "upper_quartile"))
    return f"{middle:>9}  {'(' + ' - '.join(others) + ')':<19}"


def _short(number: float) -> str:
    return f"{number:,.2f}" if abs(number) < 100 else f"{number:,.0f}"


def microseconds(nanoseconds: Sequence[float]) -> str:
    """Return the median in µs, without the unit."""
    return three_digits(median(nanoseconds) / 1000)


def three_digits(number: float) -> str:
    """Return a number with three digits and without an exponent."""
    if 0 < abs(number) < 0.001:
        return f"{number:.3f}"
    return f"{number:.3g}" if abs(number) < 99.95 else f"{number:,.0f}"


def _header(environment: dict[str, Any], run: Run) -> Iterator[str]:
    yield f"{environment['python']}, aiohttp {environment['aiohttp']}"
    yield f"{environment['system']}, {environment['cpu']}, {environment['cores']} cores"
    for name, about in environment["contenders"].items():
        versions = "".join(f", {what} {version}" for what, version in about["versions"].items())
        yield f"{name:<24} {about['about']}{versions}"
        if "implementation" in about:
            made_by = f", by Cython {about['cython']}" if about["cython"] else ""
            yield f"{'':<24} IMPLEMENTATION {about['implementation']!r}{made_by}"
            yield f"{'':<24} {about['path']}"
    for name, reason in environment["left_out"].items():
        yield f"{name:<24} left out: {reason}"
    yield (
        f"at most {run.rounds} rounds, {run.seconds * 1000:g} ms per measurement and for the floor;"
        " medians (quartiles)"
    )
