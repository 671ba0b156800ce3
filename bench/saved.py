"""What a run came to, also when it is read from what ``--json`` wrote."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .report import Result, Run


class SavedError(Exception):
    """A file is not what ``--json`` writes."""


class Record(NamedTuple):
    environment: dict[str, Any]
    run: Run
    results: list[Result]

    def made_on(self) -> dict[str, str]:
        """Return what numbers may be due to, other than what is measured."""
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
        raise SavedError(f"{path} is not what --json writes: {exc!r}") from None


def _result(fields: dict[str, Any]) -> Result:
    names = ("scenario", "axis", "point", "contender", "samples", "left_out")
    return Result(**{name: fields[name] for name in names})
