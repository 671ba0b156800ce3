"""``python -m tests.fleet``: see ``--help``."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..redis_server import RedisServer
from .cost import measure
from .model import BrokenError, Episode
from .rows import ROWS, scaled, table
from .script import Script
from .simulation import Simulation


def main() -> None:
    options = _parser().parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        RedisServer(Path(directory)) as server,
        server.client() as client,
    ):
        if options.cost:
            print(measure(client, server.socket))
            holds = True
        elif options.reports:
            holds = run_model(client, options.reports, options.seed)
        else:
            holds = simulate(client, options)
    sys.exit(not holds)


def simulate(client: Any, options: argparse.Namespace) -> bool:
    """Run the rows and print their table; return whether each limit held."""
    results = []
    for name in options.rows:
        setting = ROWS[name]
        setting = replace(setting, **scaled(setting, options.sessions))
        began = time.monotonic()
        results.append(Simulation(setting, client, options.seed).run())
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if len(options.rows) > 1:
            print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(results))
    script = client.info("commandstats")["cmdstat_evalsha"]
    print(f"{script['calls']:,} calls, {script['usec_per_call']} us each in Redis")
    return all(result.holds for result in results)


def run_model(client: Any, reports: int, seed: int) -> bool:
    """Run histories until so many reports are done; return whether nothing was missed."""
    began, shown, done = time.monotonic(), time.monotonic(), 0
    faults: Counter[str] = Counter()
    while done < reports:
        episode = Episode(Script(client, "model", 1), seed)
        try:
            episode.run()
        except BrokenError as error:
            print(f"seed {seed}: {error}")
            return False
        finally:
            faults.update(episode.happened)
        done += episode.calls
        seed += 1
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{done:,} reports, {shown - began:.0f} s", flush=True)
    print(f"{done:,} reports, {time.monotonic() - began:.0f} s, until seed {seed - 1}")
    print(", ".join(f"{name} {number:,}" for name, number in sorted(faults.items())))
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fleet", description="Sessions of a fleet in virtual time."
    )
    parser.add_argument("--cost", action="store_true", help="measure what a fleet costs Redis")
    parser.add_argument("--reports", type=int, default=0, help="run the model for so many reports")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="of the table (default: all)"
    )
    parser.add_argument(
        "--sessions", type=float, default=1.0, help="times as many as in the table (default 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default 1)")
    return parser


if __name__ == "__main__":
    main()
