"""Runs the suite on every CPython found, with the newest and the oldest aiohttp, on both cores.

``make matrix``, or ``python -m tests.matrix [--python 3.12] [-- arguments of pytest]``.  Each
combination has a virtual environment of its own, with a wheel built from this checkout; what is not
on this machine is skipped.  It needs nothing but pip.
"""

import argparse
import itertools
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .pythons import PYTHONS, ROOT, Environment, Row, find, oldest, report

ENVIRONMENTS = ROOT / ".venv" / "matrix"

# The newest, and exactly the oldest that the package asks for.
AIOHTTPS = ("aiohttp", f"aiohttp=={oldest('aiohttp')}")
CORES = ("c", "py")

# The oldest aiohttp that has wheels for a newer CPython; None where it is the newest.
OLDEST_FOR: dict[str, str | None] = {"3.14": "aiohttp==3.13.0", "3.15": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as wheels:
        for python in options.python or PYTHONS:
            for row in run_python(python, Path(wheels), options.pytest):
                row.print()
                rows.append(row)
    report(rows)


def run_python(python: str, wheels: Path, pytest: Sequence[str]) -> Iterator[Row]:
    executable = find(python)
    if executable is None:
        yield Row(python, "-", "-", "not on this machine", None)
        return
    newest, oldest = AIOHTTPS
    aiohttps = dict.fromkeys([newest, OLDEST_FOR.get(python, oldest) or newest])
    for core, (number, aiohttp) in itertools.product(CORES, enumerate(aiohttps)):
        path = ENVIRONMENTS / f"{python}-{core}-{number}"
        try:
            environment = prepare(path, executable, wheels / f"{python}-{core}", core, aiohttp)
        except subprocess.CalledProcessError as exc:
            yield Row(python, aiohttp, core, f"not installed: {exc}", False)
        else:
            version = environment.ask("import aiohttp; print('aiohttp', aiohttp.__version__)")
            # A checkout that is found first, as by "python -m bench", may have a compiled core.
            tested = environment.test(ROOT, core, pytest, pure=core == "py")
            yield Row(python, version, core, *tested)


def prepare(path: Path, executable: str, built: Path, core: str, aiohttp: str) -> Environment:
    environment = Environment(path, executable)
    if not built.exists():
        environment.pip("wheel", "--no-deps", "--wheel-dir", built, ".", pure=core == "py")
    (wheel,) = built.iterdir()
    environment.pip("install", wheel, aiohttp, "--group", "suite")
    return environment


if __name__ == "__main__":
    main()
