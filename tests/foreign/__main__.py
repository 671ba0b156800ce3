"""``python -m tests.foreign``: see ``--help``."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import pytest

from .server import SERVERS
from .table import as_rst, as_text, restarts, uses
from .trial import Trial


async def measure(names: Sequence[str], cycles: int) -> list[Trial]:
    """Return what the servers did that are installed."""
    trials = []
    for name in names:
        trial = Trial(name)
        try:
            await trial.run(cycles)
        except pytest.skip.Exception as skipped:
            print(f"{name}: {skipped}", file=sys.stderr)
            continue
        for fault in trial.faults:
            print(f"{name}: {fault}", file=sys.stderr)
        trials.append(trial)
    return trials


def main() -> None:
    options = _parser().parse_args()
    trials = asyncio.run(measure(options.servers, options.cycles))
    show = as_rst if options.rst else as_text
    print(show(uses(trials)))
    print()
    print(show(restarts(trials)))
    sys.exit(not all(trial.holds for trial in trials))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.foreign",
        description="Uses, cancellations and restarts with servers that are not aiohttp's.",
    )
    parser.add_argument("servers", nargs="*", default=list(SERVERS), help="default: all")
    parser.add_argument("--cycles", type=int, default=2_000, help="uses of each (default 2,000)")
    parser.add_argument("--rst", action="store_true", help="print tables as reStructuredText")
    return parser


if __name__ == "__main__":
    main()
