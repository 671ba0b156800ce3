"""``python -m tests.soak``: see ``--help``."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .fleet import command
from .table import as_rst, as_text


def main() -> None:
    options = _parser().parse_args()
    loops = ("asyncio", "uvloop") if options.loop == "both" else (options.loop,)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        runs = [
            run(loop, options.seconds / len(loops), seed, options.callers, Path(directory))
            for loop in loops
        ]
    results = [result for result in runs if result is not None]
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    if results:
        print((as_rst if options.rst else as_text)(results))
    failed = len(results) < len(runs) or any(any(r["failures"].values()) for r in results)
    sys.exit(failed)


def run(
    loop: str, seconds: float, seed: int, callers: int, directory: Path
) -> dict[str, Any] | None:
    path = directory / loop
    arguments = ["--loop", loop, "--seconds", str(seconds), "--seed", str(seed)]
    arguments += ["--callers", str(callers), "--json", str(path)]
    # If it is a crash, say where.
    env = os.environ | {"PYTHONFAULTHANDLER": "1"}
    code = subprocess.run(command("worker", *arguments), env=env, check=False).returncode
    if not path.exists():
        print(f"the run on {loop} did not come to its end: {code}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Callers, faults and restarts for so many seconds; then nothing may be lost.",
    )
    parser.add_argument("--seconds", type=float, default=600, help="altogether (default 600)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "both"), default="both")
    parser.add_argument("--callers", type=int, default=2000, help="at once (default 2000)")
    parser.add_argument("--seed", type=int, help="what a run is to repeat as far as it can be")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was counted")
    parser.add_argument("--rst", action="store_true", help="print the table as reStructuredText")
    return parser


if __name__ == "__main__":
    main()
