"""``python -m bench``: see ``--help``."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from . import bounds, report, rst, scenarios
from .compare import Comparison
from .contenders import CONTENDERS, OURS
from .machine import machine
from .processes import BenchError
from .report import Result, Run
from .run import running
from .saved import Record, SavedError, load

# Rounds, and seconds of each measurement in a round.
_FULL = (31, 0.02)
_QUICK = (3, 0.002)


def main() -> None:
    options = _parser().parse_args()
    if options.list:
        print(_listing())
        return
    draw_all = _drawing() if options.plot else None
    failures: list[str] = []
    try:
        for page in options.rst:
            rst.names_in(page)
        old = load(options.compare) if options.compare else None
        if options.measured:
            record = _chosen(load(options.measured), options)
            comparison = Comparison(old, record) if old else None
        else:
            record, comparison, failures = _measured(options, old)
    except (BenchError, SavedError, rst.RstError) as exc:
        sys.exit(f"bench: {exc}")
    _tell(record, comparison, options.json)
    if draw_all:
        draw_all(record, options.plot)
    for page in options.rst:
        try:
            rst.write_into(page, record)
        except rst.RstError as exc:
            failures.append(str(exc))
    if failures:
        sys.exit("\n".join(f"bench: {failure}" for failure in failures))
    if comparison:
        sys.exit(bool(comparison.slower))


def _drawing() -> Callable[[Record, Path], object]:
    """Import the plotting code, to fail before the measurement if matplotlib is missing."""
    try:
        from .plot import draw_all
    except ImportError as exc:
        sys.exit(f"bench: --plot needs the extra [bench]: {exc}")
    return draw_all


def _measured(
    options: argparse.Namespace, old: Record | None
) -> tuple[Record, Comparison | None, list[str]]:
    rounds, seconds = _QUICK if options.quick else _FULL
    run = Run(options.rounds or rounds, seconds, options.quick)
    results: list[Result] = []
    # Contenders that are named explicitly must be available.
    with running(_contenders(options.impl), insist=options.impl not in (None, ["all"])) as contest:
        environment = machine() | {"contenders": contest.about, "left_out": contest.left_out}
        for name in _scenarios(options.scenario):
            results += contest.measure(scenarios.find(name), run)
        record = Record(environment, run, results)
        comparison = Comparison(old, record) if old else None
        if comparison:
            for name in comparison.suspects():
                comparison.measured_again(contest.measure(scenarios.find(name), run))
    return record, comparison, contest.failures


def _chosen(record: Record, options: argparse.Namespace) -> Record:
    """Return the requested part of a run."""
    contenders, wanted = _contenders(options.impl), _scenarios(options.scenario)
    results = [r for r in record.results if r.contender in contenders and r.scenario in wanted]
    return record._replace(results=results)


def _tell(record: Record, comparison: Comparison | None, json_to: str | None) -> None:
    verdicts = bounds.judged(record.results)
    text = json.dumps(report.as_json(*record, verdicts), indent=1)
    if json_to == "-":
        print(text)
        if comparison:
            print(comparison, file=sys.stderr)
        return
    if json_to:
        Path(json_to).write_text(text + "\n")
    print(report.as_text(*record))
    print("", *bounds.as_lines(verdicts), sep="\n")
    if comparison:
        print("", comparison, sep="\n")


def _scenarios(asked_for: list[str] | None) -> list[str]:
    # In the order of the report, each once.
    return [name for name in scenarios.SCENARIOS if name in (asked_for or [name])]


def _contenders(impl: list[str] | None) -> list[str]:
    wanted = set(impl or ["all"])
    if "both" in wanted:
        wanted.update(OURS)
    return [name for name in CONTENDERS if name in wanted or "all" in wanted]


def _listing() -> str:
    found = [scenarios.find(name) for name in scenarios.SCENARIOS]
    return "\n".join(
        [
            "Contenders:",
            *(f"  {name:<24} {entry.about}" for name, entry in CONTENDERS.items()),
            "Scenarios:",
            *(f"  {scenario.name:<24} {scenario.about}" for scenario in found),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the cost of a cycle of this pool and of other pools, as a multiple of"
        " the floor: a deque inside one awaited coroutine.",
    )
    parser.add_argument(
        "--impl",
        action="append",
        choices=(*CONTENDERS, "both", "all"),
        help="contender to measure, repeatable; both: the two cores; default: all available",
    )
    parser.add_argument(
        "--scenario", action="append", choices=scenarios.SCENARIOS, help="repeatable"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {_FULL[0]}")
    parser.add_argument(
        "--quick", action="store_true", help="a short run, whose numbers mean nothing"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="save the run with all samples; without FILE, print it instead of the text",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD",
        help="mark what got slower since a run saved by --json, and fail if this library did;"
        " suspects are measured once more",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw plots into DIR; needs matplotlib"
    )
    parser.add_argument(
        "--rst",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write tables into a page such as docs/benchmarks.rst, between its comments for them;"
        " repeatable",
    )
    parser.add_argument(
        "--from",
        dest="measured",
        type=Path,
        metavar="FILE",
        help="do not measure: use a run saved by --json",
    )
    parser.add_argument("--list", action="store_true", help="list contenders and scenarios")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return number


if __name__ == "__main__":
    main()
