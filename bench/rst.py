"""Writes tables of the results of a run into a page, as reStructuredText.

A table replaces the text between two comments::

    .. bench: begin bounds

    .. bench: end bounds

``tables.py`` has the tables.  (Sphinx's ``include`` accepts such comments, too, so that
several pages can show a table.)
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Final

from .saved import Record
from .tables import TABLES, made_on

_WIDTH: Final = 100

_PLACE: Final = re.compile(
    r"^(?P<begin>\.\. bench: begin (?P<name>[^\n]+)\n).*?^(?P<end>\.\. bench: end (?P=name))$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT: Final = re.compile(r"^\.\. bench: (?:begin|end) ", re.MULTILINE)


class RstError(Exception):
    """A page has no place for a table, or a run has no results for it."""


def names_in(path: Path) -> list[str]:
    """Return the names of the tables in a page."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise RstError(f"{path}: {exc.strerror}") from None
    names = [place["name"] for place in _PLACE.finditer(text)]
    if len(_COMMENT.findall(text)) != 2 * len(names):
        raise RstError(f"{path}: a comment that begins or ends a table has no counterpart")
    if not names:
        raise RstError(
            f"{path} has no place for a table: add comments such as '.. bench: begin bounds'"
        )
    for name in names:
        if name not in TABLES:
            raise RstError(
                f"{path}: there is no table {name!r}; the tables are {', '.join(TABLES)}"
            )
    return names


def write_into(path: Path, records: Sequence[Record]) -> None:
    """Replace the tables of a page; none, if one of them cannot be made.

    The first run is that of all tables but the table of the Pythons.
    """
    made = {name: "\n".join(_lines_of(name, records)) for name in names_in(path)}

    def replaced(place: re.Match[str]) -> str:
        return f"{place['begin']}\n{made[place['name']]}\n\n{place['end']}"

    text = path.read_text(encoding="utf-8")
    path.write_text(_PLACE.sub(replaced, text), encoding="utf-8")


def _lines_of(name: str, records: Sequence[Record]) -> Iterator[str]:
    table = TABLES[name](records)
    if not table.results:
        raise RstError(f"the run has no results for the table {name!r}")
    directive = "csv-table" if table.is_compact else "list-table"
    yield from (f".. {directive}::", "   :header-rows: 1", "   :widths: auto", "")
    for row in (table.header, *table.rows):
        row = [_escaped(cell) for cell in row]
        if table.is_compact:
            yield "   " + ",".join(f'"{cell}"' for cell in row)
            continue
        for number, cell in enumerate(row):
            yield f"   {'-' if number else '*'} - {cell}".rstrip().replace("   - -", "     -")
    said = _escaped(" ".join([made_on(table), table.remark]).rstrip())
    # Without breaks at hyphens, which would split names.
    yield from ("", *wrap(said, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _escaped(text: str) -> str:
    """Return text in which reStructuredText finds no markup."""
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)
