"""The results of runs, measured now or saved by ``--json``.

A file has one run, or with ``--python`` a list of runs, one for each Python.
"""

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


def load(path: Path) -> list[Record]:
    try:
        saved = json.loads(path.read_text())
        records = [_record(fields) for fields in (saved if isinstance(saved, list) else [saved])]
    except OSError as exc:
        raise SavedError(f"{path}: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise SavedError(f"{path} was not written by --json: {exc!r}") from None
    if not records:
        raise SavedError(f"{path} was not written by --json: it has no run")
    return records


def _record(fields: dict[str, Any]) -> Record:
    return Record(
        fields["environment"],
        Run(fields["rounds"], fields["seconds"], smoke=False),
        [_result(of_one) for of_one in fields["results"]],
    )


def _result(fields: dict[str, Any]) -> Result:
    names = ("scenario", "axis", "point", "contender", "samples", "left_out")
    return Result(**{name: fields[name] for name in names})
