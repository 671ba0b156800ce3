"""The CPythons of this machine, and environments of theirs: for the scripts that test on each.

``python -m tests.pythons`` prints the interpreter whose figures the pages show.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FLAG = "AIOWEBSOCKETCLIENT_NO_EXTENSIONS"

PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")

# What this process was lent for itself. With PYTHONPATH, pip takes what lies there for installed.
LENT = (FLAG, "PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS")


def oldest(package: str) -> str:
    """Return the oldest version of a dependency that pyproject.toml lets in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(rf"^{package}>=([\d.]+)", "\n".join(project["dependencies"]), re.M)
    assert isinstance(version, str)
    return version


#: The pages show the figures of this version or a later one.
SHOWN_FROM = "3.13"


class Row(NamedTuple):
    """What came out in one environment. ``passed`` is None where there is none to be had."""

    python: str
    tested: str
    core: str
    outcome: str
    passed: bool | None

    def print(self) -> None:
        verdict = {True: "passed", False: "FAILED", None: "skipped"}[self.passed]
        print(f"{self.python:<7} {self.tested:<22} {self.core:<3} {verdict:<8} {self.outcome}")
        sys.stdout.flush()


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


def newest(since: str = SHOWN_FROM) -> str | None:
    """Return the newest interpreter of this version or a later one."""
    later = PYTHONS[PYTHONS.index(since) :]
    return next((found for python in reversed(later) if (found := find(python))), None)


class Environment:
    """A virtual environment that is made anew."""

    def __init__(self, path: Path, executable: str) -> None:
        subprocess.run([executable, "-m", "venv", "--clear", path], check=True)
        self._bin = path / "bin"
        # --group is new there.
        self.pip("install", "--upgrade", "pip>=25.1")

    def pip(self, command: str, *arguments: str | Path, pure: bool = False) -> None:
        """Run pip; what it builds with ``pure`` has no extension."""
        subprocess.run(
            [self._bin / "python", "-m", "pip", command, "--quiet", *arguments],
            check=True,
            cwd=ROOT,
            env=_environ(pure),
        )

    def ask(self, code: str) -> str:
        """Return what a line of Python prints."""
        command: list[str | Path] = [self._bin / "python", "-P", "-c", code]
        done = subprocess.run(command, env=_environ(), check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def test(
        self, directory: Path, core: str, arguments: Sequence[str], *, pure: bool = False
    ) -> tuple[str, bool]:
        """Run the tests there, and return the last line and whether they passed.

        They fail at once unless ``core`` is in use; ``pure`` asks for the one in plain Python.
        """
        # A wheel is tested here; how one is built is not.
        command: list[str | Path] = [self._bin / "pytest", "-n", "3", "--impl", core]
        command += ["--ignore", "tests/test_packaging.py", *arguments]
        run = subprocess.run(
            command,
            cwd=directory,
            env=_environ(pure),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if run.returncode:
            print(run.stdout, flush=True)
        return (run.stdout.splitlines() or ["no output"])[-1].strip("= "), run.returncode == 0


def _environ(pure: bool = False) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in LENT}
    return env | ({FLAG: "1"} if pure else {})


def main() -> None:
    """Print the newest interpreter, or fail."""
    found = newest()
    print(found) if found else sys.exit(f"There is no CPython {SHOWN_FROM} or later here.")


def report(rows: Sequence[Row]) -> None:
    """Print all of them once more, and end the process by what they say."""
    print()
    for row in rows:
        row.print()
    sys.exit(any(row.passed is False for row in rows))


if __name__ == "__main__":
    main()
