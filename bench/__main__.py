"""``python -m bench``: see ``--help``."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from . import bounds, report, rst, scenarios, tables
from .compare import Comparison
from .contenders import CONTENDERS, OURS
from .processes import BenchError
from .report import Run
from .run import measure, running
from .saved import Record, SavedError, load
from .until import ENDLESS, Until
from .verdict import MOST, Judgement

# Rounds, and seconds of each measurement in a round.
_FULL: Final = (31, 0.02)
_SMOKE: Final = (3, 0.002)

#: Minutes of a quick run.
_QUICK: Final = 5.0
# Seconds at the end of a limited run for the processes to end.
_ENDING: Final = 15.0
# Share of the time of a quick run that is kept for what must be measured again.
_AGAIN: Final = 0.35


# Options that do not go with --python.
_OF_ONE: Final = ("impl", "scenario", "quick", "shown", "compare", "measured", "plot")


class Measured(NamedTuple):
    #: The first is that of most tables and of the plots.
    records: list[Record]
    conclusion: Comparison | Judgement | None = None
    failures: Sequence[str] = ()


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.python and any(getattr(options, name) for name in _OF_ONE):
        parser.error("--python only goes with --rounds, --minutes, --smoke, --json and --rst")
    if options.list:
        print(_listing())
        return
    draw_all = _drawing() if options.plot else None
    try:
        for page in options.rst:
            rst.names_in(page)
        measured = _measured(options)
    except (BenchError, SavedError, rst.RstError) as exc:
        sys.exit(f"bench: {exc}")
    failures = list(measured.failures)
    _tell(measured, options.json)
    if draw_all:
        draw_all(measured.records[0], options.plot)
    for page in options.rst:
        try:
            rst.write_into(page, measured.records)
        except rst.RstError as exc:
            failures.append(str(exc))
    if failures:
        sys.exit("\n".join(f"bench: {failure}" for failure in failures))
    sys.exit(measured.conclusion is not None and measured.conclusion.is_slower)


def _drawing() -> Callable[[Record, Path], object]:
    """Import the plotting code, to fail before the measurement if matplotlib is missing."""
    try:
        from .plot import draw_all
    except ImportError as exc:
        sys.exit(f"bench: --plot needs the extra [bench]: {exc}")
    return draw_all


# -- measuring -----------------------------------------------------------------------------------


def _measured(options: argparse.Namespace) -> Measured:
    if options.python:
        return _measured_in_pythons(options)
    old = load(options.compare)[0] if options.compare else None
    if options.measured:
        saved = chain.from_iterable(map(load, options.measured))
        records = [_chosen(record, options) for record in saved]
        return _judged(options, old, records)
    return _measured_here(options, old)


def _judged(options: argparse.Namespace, old: Record | None, records: list[Record]) -> Measured:
    if options.quick:
        return Measured(records, Judgement(records[0], old))
    return Measured(records, Comparison(old, records[0]) if old else None)


def _measured_here(options: argparse.Namespace, old: Record | None) -> Measured:
    run, until = _run(options), _until(options)
    # Contenders that are named explicitly must be available.
    insist = options.impl not in (None, ["all"])
    with running(_contenders_of(options), insist=insist, until=until) as contest:
        places = _places(options, list(contest.environment["contenders"]))

        def results(names: Sequence[str], until: Until) -> list[report.Result]:
            found = [scenarios.find(name) for name in names]
            return measure([contest], found, run, until=until, places=places)[0]

        first = until.but(until.left() * _AGAIN) if options.quick else until
        record = Record(contest.environment, run, results(_scenarios(options.scenario), first))
        measured = _judged(options, old, [record])
        for _ in range(MOST - 1 if options.quick else 1):
            if measured.conclusion and (suspects := measured.conclusion.suspects()):
                measured.conclusion.measured_again(results(suspects, until))
    return measured._replace(failures=contest.failures)


def _measured_in_pythons(options: argparse.Namespace) -> Measured:
    # Not needed otherwise; it needs tests/.
    from .pythons import running_in

    run, until, places = _run(options), _until(options), tables.places_of_pythons()
    wanted = {scenario for scenario, *_ in places}
    found = [scenarios.find(name) for name in scenarios.SCENARIOS if name in wanted]
    contenders = [name for name in CONTENDERS if any(name == place[2] for place in places)]
    with running_in(options.python, contenders, until) as contests:
        results = measure(contests, found, run, until=until, places=places)
        pairs = zip(contests, results, strict=True)
        records = [Record(contest.environment, run, part) for contest, part in pairs]
    return Measured(records, failures=[text for contest in contests for text in contest.failures])


def _run(options: argparse.Namespace) -> Run:
    rounds, seconds = _SMOKE if options.smoke else _FULL
    return Run(options.rounds or rounds, seconds, options.smoke)


def _until(options: argparse.Namespace) -> Until:
    minutes = options.minutes or (_QUICK if options.quick else math.inf)
    return Until(minutes * 60 - _ENDING) if minutes < math.inf else ENDLESS


def _contenders_of(options: argparse.Namespace) -> list[str]:
    wanted = _contenders(options.impl)
    if not options.quick:
        return wanted
    needed = {name for core in OURS for *_, name in bounds.places(core)}
    return [name for name in wanted if name in needed]


def _places(options: argparse.Namespace, contenders: list[str]) -> set[bounds.Place] | None:
    """Return what has to be measured; None: everything."""
    if options.quick:
        cores = [core for core in OURS if core in contenders]
        return bounds.places(cores[0]) if cores else set()
    return tables.places() if options.shown else None


def _chosen(record: Record, options: argparse.Namespace) -> Record:
    """Return the requested part of a run."""
    contenders, wanted = _contenders(options.impl), _scenarios(options.scenario)
    results = [r for r in record.results if r.contender in contenders and r.scenario in wanted]
    return record._replace(results=results)


def _scenarios(asked_for: list[str] | None) -> list[str]:
    # In the order of the report, each once.
    return [name for name in scenarios.SCENARIOS if name in (asked_for or [name])]


def _contenders(impl: list[str] | None) -> list[str]:
    wanted = set(impl or ["all"])
    if "both" in wanted:
        wanted.update(OURS)
    return [name for name in CONTENDERS if name in wanted or "all" in wanted]


# -- output --------------------------------------------------------------------------------------


def _tell(measured: Measured, json_to: str | None) -> None:
    told = [report.as_json(*record, bounds.judged(record.results)) for record in measured.records]
    text = json.dumps(told if len(told) > 1 else told[0], indent=1)
    if json_to == "-":
        print(text)
        if measured.conclusion:
            print(measured.conclusion, file=sys.stderr)
        return
    if json_to:
        Path(json_to).write_text(text + "\n")
    if len(measured.records) > 1:
        print(tables.as_text(tables.pythons(measured.records)))
    else:
        record = measured.records[0]
        print(report.as_text(*record))
        # A judgement lists the bounds, too.
        if not isinstance(measured.conclusion, Judgement):
            print("", *bounds.as_lines(bounds.judged(record.results)), sep="\n")
    if measured.conclusion:
        print("", measured.conclusion, sep="\n")


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


# -- the command line ----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the cost of a cycle of this pool and of other pools, in µs and as a"
        " multiple of the floor: a deque inside one awaited coroutine.",
    )
    _add_choices(parser)
    _add_output(parser)
    parser.add_argument("--list", action="store_true", help="list contenders and scenarios")
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--impl",
        action="append",
        choices=(*CONTENDERS, "both", "all"),
        help="contender to measure, repeatable; both: the two cores; default: all available",
    )
    parser.add_argument(
        "--scenario", action="append", choices=scenarios.SCENARIOS, help="repeatable"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"measure what the bounds are about, for at most {_QUICK:g} minutes, and end with a"
        " verdict: fail if a bound is missed, beyond the noise of this machine; with --compare also"
        " if anything is slower than the saved run",
    )
    parser.add_argument(
        "--shown", action="store_true", help="measure what the pages and plots show, and no more"
    )
    parser.add_argument(
        "--python",
        action="extend",
        nargs="+",
        metavar="PYTHON",
        help="measure a few scenarios in several Pythons, in turns: versions such as 3.13, for"
        " which the package is built here, or paths of interpreters that have it; what is not on"
        " this machine is left out",
    )
    parser.add_argument("--rounds", type=_positive, help=f"at most; default: {_FULL[0]}")
    parser.add_argument(
        "--minutes", type=_minutes, help="at most; then there are fewer rounds; default: no limit"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="only show that everything works; the numbers mean nothing",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
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
        nargs="+",
        type=Path,
        metavar="FILE",
        help="do not measure: use runs saved by --json; the table of the Pythons has a row for each"
        " Python, everything else is of the first run",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return number


def _minutes(text: str) -> float:
    number = float(text)
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, got {text!r}")
    return number


if __name__ == "__main__":
    main()
