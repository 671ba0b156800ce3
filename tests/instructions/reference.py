"""What counts are held against: numbers that are kept, or the source that they are of."""

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .callgrind import Count, Counted

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "aiowebsocketclient"
#: Each interpreter has numbers of its own; where it has none yet, those of the oldest.
KEPT = Path(__file__).with_name("reference-{}.{}.json".format(*sys.version_info))
OLDEST = Path(__file__).with_name("reference-3.11.json")


class NoSourceError(Exception):
    """The reference's source cannot be had, or not be built."""


@dataclass(frozen=True)
class Reference:
    counts: dict[str, Count]
    #: Interpreter, libraries and compiler.
    environment: dict[str, str]
    #: git's name for the directory of the package, whatever commits it is in; None: not known.
    source: str | None

    @classmethod
    def kept(cls, path: Path | None = None) -> Self:
        path = path or (KEPT if KEPT.exists() else OLDEST)
        fields: dict[str, Any] = json.loads(path.read_text())
        counts = {loop: Count(**numbers) for loop, numbers in fields["counts"].items()}
        return cls(counts, fields["environment"], fields["source"])

    def keep(self, path: Path = KEPT) -> None:
        fields = asdict(self) | {"counts": {n: c._asdict() for n, c in self.counts.items()}}
        path.write_text(json.dumps(fields, indent=2) + "\n")

    def differences(self, environment: dict[str, str]) -> list[str]:
        """Return what is not as it was where the numbers were made."""
        names = dict.fromkeys([*self.environment, *environment])
        return [name for name in names if self.environment.get(name) != environment.get(name)]


def reference_of(counted: Counted) -> Reference:
    """Return what was counted as what later counts are to be held against."""
    return Reference(counted.counts, counted.environment, _source_here())


def build(source: str, directory: Path) -> Path:
    """Build the package as it was, and return where it can be imported from."""
    checkout, target = directory / "checkout", directory / "target"
    archive = _git("archive", "--format=tar", source)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(checkout / PACKAGE, filter="data")
    # With the compiler's options and the Cython of today, as what it is compared with.
    for name in ("LICENSE", "README.rst", "pyproject.toml", "setup.py"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    dropped = ("AIOWEBSOCKETCLIENT_NO_EXTENSIONS", "PYTHONPATH")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--target", target, checkout),
        ],
        env={name: value for name, value in os.environ.items() if name not in dropped},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise NoSourceError(f"the reference cannot be built here: {done.stdout[-2_000:]}")
    return target


def _source_here() -> str:
    """Have git keep the package as it is now, which becomes lasting with the commit."""
    index = {
        "GIT_INDEX_FILE": _git("rev-parse", "--git-path", "instructions-index").decode().strip()
    }
    try:
        _git("add", "--", PACKAGE, **index)
        return _git("write-tree", f"--prefix={PACKAGE}/", **index).decode().strip()
    finally:
        Path(ROOT, index["GIT_INDEX_FILE"]).unlink(missing_ok=True)


def _git(*arguments: str, **env: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, env=os.environ | env, capture_output=True
        )
    except FileNotFoundError:
        raise NoSourceError("git is not installed") from None
    if done.returncode:
        raise NoSourceError(done.stderr.decode(errors="replace").strip())
    return done.stdout
