"""Runs ``tests/isolated/loops.py`` under callgrind, and reads what that wrote."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..isolated.common import server

ISOLATED = Path(__file__).parents[1] / "isolated"

# Of these alone does the environment of what is counted consist.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


class CountError(Exception):
    """Nothing could be counted."""


class Count(NamedTuple):
    """Instructions of one cycle."""

    all: float
    #: Those of the extension itself, and not of what it calls.
    extension: float


class Counted(NamedTuple):
    counts: dict[str, Count]
    environment: dict[str, str]
    #: The file of the package that they are of.
    package: str


def count(package: Path | None = None, *, keep: Path | None = None) -> Counted:
    """Count on the package that is installed, or on the one in the directory given.

    ``keep``: where callgrind's file is to stay, for ``callgrind_annotate``.
    """
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Strings hash to the same in each run.
    env |= {"PYTHONHASHSEED": "0"} | ({"PYTHONPATH": str(package)} if package else {})
    with server() as port, tempfile.TemporaryDirectory() as scratch:
        path = (keep or Path(scratch, "callgrind.out")).absolute()
        done = subprocess.run(
            [
                *("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={path}"),
                # What MARK is in the script.
                *("--dump-before=getppid", "--combine-dumps=yes"),
                *(sys.executable, ISOLATED / "loops.py", f"http://127.0.0.1:{port}/"),
            ],
            env=env,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CountError(done.stderr[-4_000:])
        about = json.loads(done.stdout)
        if about["extension"] is None:
            raise CountError(f"the core of {about['package']} is not compiled")
        with path.open(errors="replace") as lines:
            parts = instructions_by_object(lines)
    return Counted(
        per_cycle(about["blocks"], parts, about["extension"]),
        about["environment"] | _compiler(Path(about["extension"])),
        about["package"],
    )


def instructions_by_object(lines: Iterable[str]) -> list[Counter[str]]:
    """Return, for each part of callgrind's file, the instructions run in each object file."""
    parts: list[Counter[str]] = []
    names: dict[str, str] = {}
    here = ""
    is_callee = False
    for line in lines:
        if line.startswith("part:"):
            parts.append(Counter())
        elif line.startswith(("ob=", "cob=")):
            key, _, name = line.partition("=")[2].strip().partition(" ")
            # A name is given once, and stands for its number after that.
            names.setdefault(key, name)
            if line.startswith("ob="):
                here = names[key]
        elif line.startswith("calls="):
            # What was called counts where it stands itself.
            is_callee = True
        elif line[:1] in "+-*0123456789" and parts:
            if not is_callee:
                parts[-1][here] += int(line.split()[1])
            is_callee = False
    return parts


def per_cycle(
    blocks: list[tuple[str, int]], parts: list[Counter[str]], extension: str
) -> dict[str, Count]:
    """Return what a cycle of each loop takes: the middle one of its blocks, without what is around.

    Every other part is a block; what is between them is not to be counted.
    """
    if len(parts) != 2 * len(blocks) + 1:
        raise CountError(f"{len(parts)} parts for {len(blocks)} blocks")
    around: dict[str, Count] = {}
    cycles_of: dict[str, list[Count]] = defaultdict(list)
    for (loop, cycles), part in zip(blocks, parts[1::2], strict=True):
        if cycles == 0:
            around[loop] = Count(part.total(), part[extension])
            continue
        empty = around[loop]
        cycles_of[loop].append(
            Count(
                (part.total() - empty.all) / cycles,
                (part[extension] - empty.extension) / cycles,
            )
        )
    return {
        loop: Count(*(round(median(numbers), 1) for numbers in zip(*counts, strict=True)))
        for loop, counts in cycles_of.items()
    }


def _compiler(extension: Path) -> dict[str, str]:
    """Return what the extension says of how it was made."""
    content = extension.read_bytes()
    found: dict[str, Any] = {
        # What Cython makes shares its types by a module that is named after the version.
        "cython": re.findall(rb"_cython_(\d+(?:_\d+)+)", content),
        "compiler": re.findall(rb"(?:GCC: \(|clang version )[ -~]+", content),
    }
    return {
        name: ", ".join(sorted({v.decode().replace("_", ".") for v in vs}))
        for name, vs in found.items()
    }
