"""Several Pythons in one run: ``--python``.

Each Python is measured in an environment of its own, with the package built for it.  The Pythons
take turns, so that what the machine does meanwhile affects all of them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.pythons import ROOT, Environment, find

from .contenders import OURS
from .processes import BenchError
from .run import Running, running
from .until import Until

# Files that decide what is installed.
_SOURCES = ("pyproject.toml", "setup.py", "aiowebsocketclient/*.py", "aiowebsocketclient/*.p[yx]*")


@contextmanager
def running_in(pythons: list[str], contenders: list[str], until: Until) -> Iterator[list[Running]]:
    """Start the contenders in each Python; say which Python is not there, and go on.

    :param pythons: versions such as ``3.13``, or paths of interpreters that have the package.
    """
    with ExitStack() as stack:
        there: list[Running] = []
        for name in dict.fromkeys(pythons):
            python = interpreter(name)
            if python is None:
                _say(f"{name} is not on this machine")
                continue
            contest = stack.enter_context(
                running(contenders, insist=False, until=until, python=python)
            )
            if OURS[0] in contest.environment["left_out"]:
                _say(f"{name} is left out: {contest.environment['left_out'][OURS[0]]}")
                continue
            there.append(contest)
        if not there:
            raise BenchError(f"there is none of these Pythons: {', '.join(pythons)}")
        yield there


def interpreter(name: str) -> str | None:
    """Return the interpreter of an environment that has the package; None: there is no such Python.

    A path is taken as it is.  So it can be a script that starts an interpreter somewhere else, such
    as in a chroot that sees this directory at the same path.
    """
    if os.sep in name:
        return shutil.which(name)
    executable = find(name)
    return None if executable is None else _installed(name, executable)


def _installed(version: str, executable: str) -> str:
    """Return the interpreter of an environment with the package as it is here, made if need be."""
    path = ROOT / ".venv" / f"pythons-{version}"
    python, stamp = path / "bin" / "python", path / "installed"
    source = _source()
    if not (stamp.is_file() and stamp.read_text() == source):
        try:
            Environment(path, executable).pip("install", ".")
        except subprocess.CalledProcessError as exc:
            raise BenchError(f"the package cannot be installed for {version}: {exc}") from None
        stamp.write_text(source)
    return str(python)


def _source() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
