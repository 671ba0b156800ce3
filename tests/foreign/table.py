"""The tables of all servers."""

from collections.abc import Sequence
from typing import Final

from .restarts import WAYS
from .trial import Trial

Table = tuple[Sequence[str], list[list[str]]]

USES: Final = (
    "Server",
    "Compressed",
    "Replies",
    "Wrong replies",
    "Cancelled callers",
    "Handshakes",
    "Reused",
    "ms",
)
HEADINGS: Final = {"1012": "CLOSE 1012, then SIGTERM"}


def uses(trials: Sequence[Trial]) -> Table:
    return USES, [
        [
            trial.version,
            "yes" if trial.is_compressed else "no",
            f"{trial.replies:,}",
            str(trial.wrong),
            str(trial.cancelled),
            str(trial.handshakes),
            f"{trial.reused:,}",
            f"{trial.milliseconds:.2f}",
        ]
        for trial in trials
    ]


def restarts(trials: Sequence[Trial]) -> Table:
    return ("Server", *(HEADINGS.get(way, way) for way in WAYS)), [
        [trial.version, *(_restart(trial, way) for way in WAYS)] for trial in trials
    ]


def _restart(trial: Trial, way: str) -> str:
    happened, late = trial.restarts[way]
    codes = " and ".join("no CLOSE" if code is None else str(code) for code in happened.codes)
    return f"{codes}; {happened.cut} cut, {late} later"


def as_text(table: Table) -> str:
    rows = [list(table[0]), *table[1]]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_rst(table: Table) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (list(table[0]), *table[1]):
        lines += [f"   {' ' if number else '*'} - {cell}" for number, cell in enumerate(row)]
    return "\n".join(lines) + "\n"
