"""From the times of the rounds to what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any


@dataclass
class Result:
    """One scenario of one contender."""

    scenario: str
    contender: str
    #: Of each round: ns of a cycle, and of a cycle of the floor next to it.
    samples: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ns(self) -> float:
        return median(ns for ns, _ in self.samples)

    @property
    def floor_ns(self) -> float:
        return median(floor_ns for _, floor_ns in self.samples)

    def ratio(self) -> dict[str, float]:
        """Return the median of the ratios of the rounds, and how they spread."""
        ratios = [ns / floor_ns for ns, floor_ns in self.samples]
        if len(ratios) == 1:
            lower = upper = ratios[0]
        else:
            lower, _, upper = quantiles(ratios, n=4, method="inclusive")
        return {
            "median": median(ratios),
            "lower_quartile": lower,
            "upper_quartile": upper,
            "min": min(ratios),
            "max": max(ratios),
        }


def as_json(
    environment: dict[str, Any], rounds: int, seconds: float, results: Sequence[Result]
) -> dict[str, Any]:
    return {
        "environment": environment,
        "rounds": rounds,
        "seconds": seconds,
        "results": [
            {
                "scenario": result.scenario,
                "contender": result.contender,
                "ns": result.ns,
                "floor_ns": result.floor_ns,
                "ratio": result.ratio(),
                "samples": result.samples,
            }
            for result in results
        ],
    }


def as_text(
    environment: dict[str, Any], rounds: int, seconds: float, results: Sequence[Result]
) -> str:
    head = "scenario    core        ns  floor ns  ratio  quartiles      min - max"
    lines = [*_header(environment, rounds, seconds), "", head]
    for result in results:
        ratio = result.ratio()
        lines.append(
            f"{result.scenario:<11} {result.contender:<4}"
            f" {result.ns:>9.1f} {result.floor_ns:>9.1f} {ratio['median']:>6.2f}"
            f"  {ratio['lower_quartile']:5.2f} - {ratio['upper_quartile']:<5.2f}"
            f"  {ratio['min']:5.2f} - {ratio['max']:<5.2f}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _header(environment: dict[str, Any], rounds: int, seconds: float) -> list[str]:
    lines = [
        f"{environment['python']}, aiohttp {environment['aiohttp']}",
        f"{environment['system']}, {environment['cpu']}, {environment['cores']} cores",
    ]
    for name, about in environment["contenders"].items():
        made_by = f", by Cython {about['cython']}" if about["cython"] else ""
        lines.append(f"{name:<2}  IMPLEMENTATION {about['implementation']!r}{made_by}")
        lines.append(f"    {about['path']}")
    lines.append(f"{rounds} rounds, {seconds * 1000:g} ms each for a scenario and for the floor")
    return lines
