"""``python -m bench``: see ``--help``."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from . import report
from .contenders import CONTENDERS, BenchError, Echo, Worker
from .machine import machine
from .report import Result
from .scenarios import SCENARIOS

# Rounds, and seconds for which each thing is timed in a round.
_FULL = (31, 0.02)
_QUICK = (3, 0.002)


def main() -> None:
    options = _parser().parse_args()
    rounds, seconds = _QUICK if options.quick else _FULL
    rounds = options.rounds or rounds
    contenders = list(CONTENDERS) if options.impl == "both" else [options.impl]
    # In the order of the file, each once, however they were asked for.
    scenarios = [name for name in SCENARIOS if name in (options.scenario or SCENARIOS)]
    try:
        with ExitStack() as stack:
            url = stack.enter_context(Echo()).url
            workers = [stack.enter_context(Worker(name, url)) for name in contenders]
            environment = machine() | {"contenders": {w.name: w.about for w in workers}}
            results = _measure(workers, scenarios, rounds, seconds)
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    if options.json:
        print(json.dumps(report.as_json(environment, rounds, seconds, results), indent=1))
    else:
        print(report.as_text(environment, rounds, seconds, results))


def _measure(
    workers: Sequence[Worker], scenarios: Sequence[str], rounds: int, seconds: float
) -> list[Result]:
    results = {(s, w.name): Result(s, w.name) for s in scenarios for w in workers}
    for number in range(rounds):
        for scenario in scenarios:
            # Nobody is always the first, or the one after a certain other.
            for worker in workers if number % 2 else reversed(workers):
                sample = worker.measure(scenario, seconds)
                results[scenario, worker.name].samples.append(sample)
    return list(results.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What a cycle of the pool costs, as a multiple of the floor: a deque inside one"
        " awaited coroutine.",
    )
    parser.add_argument("--impl", choices=(*CONTENDERS, "both"), default="both", help="which core")
    parser.add_argument(
        "--scenario", action="append", choices=tuple(SCENARIOS), help="may be repeated"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {_FULL[0]}")
    parser.add_argument("--quick", action="store_true", help="too short to tell anything")
    parser.add_argument("--json", action="store_true", help="with the times of every round")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    main()
