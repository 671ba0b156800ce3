"""``python -m bench``: see ``--help``."""

import argparse
import json
import sys
from pathlib import Path

from . import bounds, report, scenarios
from .contenders import CONTENDERS, OURS
from .machine import machine
from .processes import BenchError
from .report import Result, Run
from .run import running

# Rounds, and seconds for which each thing is timed in a round.
_FULL = (31, 0.02)
_QUICK = (3, 0.002)


def main() -> None:
    options = _parser().parse_args()
    if options.list:
        print(_listing())
        return
    rounds, seconds = _QUICK if options.quick else _FULL
    run = Run(options.rounds or rounds, seconds, options.quick)
    # In the order of the report, each once, however they were asked for.
    wanted = [name for name in scenarios.SCENARIOS if name in (options.scenario or [name])]
    contenders = _contenders(options.impl)
    results: list[Result] = []
    try:
        # What is asked for by name has to be there.
        with running(contenders, insist=options.impl not in (None, ["all"])) as contest:
            environment = machine() | {"contenders": contest.about, "left_out": contest.left_out}
            for name in wanted:
                results += contest.measure(scenarios.find(name), run)
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    verdicts = bounds.judged(results)
    text = json.dumps(report.as_json(environment, run, results, verdicts), indent=1)
    if options.json == "-":
        print(text)
    else:
        if options.json:
            Path(options.json).write_text(text + "\n")
        print(report.as_text(environment, run, results))
        print("", *bounds.as_lines(verdicts), sep="\n")
    if contest.failures:
        sys.exit("\n".join(f"bench: {failure}" for failure in contest.failures))


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
        description="What a cycle of the pool costs, as a multiple of the floor: a deque inside one"
        " awaited coroutine; beside other pools.",
    )
    parser.add_argument(
        "--impl",
        action="append",
        choices=(*CONTENDERS, "both", "all"),
        help="which contenders, may be repeated; both: the two cores; default: all that are there",
    )
    parser.add_argument(
        "--scenario", action="append", choices=scenarios.SCENARIOS, help="may be repeated"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {_FULL[0]}")
    parser.add_argument("--quick", action="store_true", help="too short to tell anything")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="with the samples of every round; without FILE in place of the text",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    main()
