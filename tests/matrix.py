"""Runs the suite on every CPython found, with the newest and the oldest aiohttp, on both cores.

``make matrix``, or ``python tests/matrix.py [--python 3.12] [-- arguments of pytest]``.  Each
combination has a virtual environment of its own, with a wheel built from this checkout; what is not
on this machine is skipped.  It needs nothing but pip.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venv" / "matrix"
FLAG = "AIOWEBSOCKETCLIENT_NO_EXTENSIONS"

PYTHONS = ("3.11", "3.12", "3.13")
AIOHTTPS = ("aiohttp", "aiohttp==3.11.*")
CORES = ("c", "py")


class Row(NamedTuple):
    python: str
    aiohttp: str
    core: str
    outcome: str
    passed: bool | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as wheels:
        for python in options.python or PYTHONS:
            for row in run_python(python, Path(wheels), options.pytest):
                print_row(row)
                rows.append(row)
    print()
    for row in rows:
        print_row(row)
    sys.exit(any(row.passed is False for row in rows))


def run_python(python: str, wheels: Path, pytest: Sequence[str]) -> Iterator[Row]:
    executable = find(python)
    if executable is None:
        yield Row(python, "-", "-", "not on this machine", None)
        return
    for core, aiohttp in itertools.product(CORES, AIOHTTPS):
        environment = ENVIRONMENTS / f"{python}-{core}-{AIOHTTPS.index(aiohttp)}"
        try:
            prepare(environment, executable, wheels, core, aiohttp)
        except subprocess.CalledProcessError as exc:
            yield Row(python, aiohttp, core, f"not installed: {exc}", False)
        else:
            yield run_suite(environment, python, core, pytest)


def find(python: str) -> str | None:
    """Return an interpreter of that version which runs. A shim of pyenv's may be there and not."""
    here = [sys.executable] if sys.version.startswith(python + ".") else []
    on_path = shutil.which(f"python{python}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted(pyenv.glob(f"{python}.*/bin/python"), reverse=True)
    asks = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    for executable in [*here, *([on_path] if on_path else []), *map(str, installed)]:
        answer = subprocess.run([executable, "-c", asks], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.split() == ["cpython", python]:
            return executable
    return None


def prepare(environment: Path, executable: str, wheels: Path, core: str, aiohttp: str) -> None:
    subprocess.run([executable, "-m", "venv", "--clear", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    built = wheels / ("pure" if core == "py" else environment.name.partition("-")[0])
    if not built.exists():
        subprocess.run(
            [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", built, "."],
            check=True,
            cwd=ROOT,
            env=os.environ | {FLAG: "1" if core == "py" else ""},
        )
    (wheel,) = built.iterdir()
    subprocess.run(
        [*pip, "install", "--quiet", wheel, aiohttp, "--group", "suite"], check=True, cwd=ROOT
    )


def run_suite(environment: Path, python: str, core: str, pytest: Sequence[str]) -> Row:
    # A wheel is tested here; how one is built is not.
    command = [environment / "bin" / "pytest", "-n", "3", "--impl", core]
    command += ["--ignore", "tests/test_packaging.py", *pytest]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=env | {FLAG: "1" if core == "py" else ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode:
        print(run.stdout, flush=True)
    closing = (run.stdout.splitlines() or ["no output"])[-1].strip("= ")
    return Row(python, aiohttp_version(environment), core, closing, run.returncode == 0)


def aiohttp_version(environment: Path) -> str:
    asks = "import aiohttp; print(aiohttp.__version__)"
    command = [environment / "bin" / "python", "-P", "-c", asks]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def print_row(row: Row) -> None:
    verdict = {True: "passed", False: "FAILED", None: "skipped"}[row.passed]
    print(f"{row.python:<7} {row.aiohttp:<16} {row.core:<3} {verdict:<8} {row.outcome}", flush=True)


if __name__ == "__main__":
    main()
