"""The results of a run, measured now or saved by ``--json``."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .report import Result, Run


class SavedError(Exception):
    """A file was not written by ``--json``."""


class Record(NamedTuple):
    environment: dict[str, Any]
    run: Run
    results: list[Result]

    def made_on(self) -> dict[str, str]:
        """Return versions and machine, which influence the numbers."""
        names = ("python", "aiohttp", "system", "cpu", "cores")
        about = {name: str(self.environment.get(name)) for name in names}
        for contender in self.environment["contenders"].values():
            about |= contender["versions"]
        return about


def load(path: Path) -> Record:
    try:
        saved = json.loads(path.read_text())
        return Record(
            saved["environment"],
            Run(saved["rounds"], saved["seconds"], quick=False),
            [_result(fields) for fields in saved["results"]],
        )
    except OSError as exc:
        raise SavedError(f"{path}: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise SavedError(f"{path} was not written by --json: {exc!r}") from None


def _result(fields: dict[str, Any]) -> Result:
    names = ("scenario", "axis", "point", "contender", "samples", "left_out")
    return Result(**{name: fields[name] for name in names})
