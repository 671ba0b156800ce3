"""Writes tables of the results of a run into a page, as reStructuredText.

A table replaces the text between two comments::

    .. bench: begin bounds

    .. bench: end bounds

``TABLES`` has the names of the tables.  (Sphinx's ``include`` accepts such comments, too, so that
several pages can show a table.)
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, Final, NamedTuple

from .bounds import BOUNDS, Bound, judge
from .contenders import CONTENDERS, OURS
from .report import RATIO, Result, three_digits
from .saved import Record

_WIDTH: Final = 100
# The cell of a contender that was not measured.
_NOTHING: Final = "n/a"

_PLACE: Final = re.compile(
    r"^(?P<begin>\.\. bench: begin (?P<name>[^\n]+)\n).*?^(?P<end>\.\. bench: end (?P=name))$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT: Final = re.compile(r"^\.\. bench: (?:begin|end) ", re.MULTILINE)


class RstError(Exception):
    """A page has no place for a table, or a run has no results for it."""


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: The results in the table.
    results: Sequence[Result]
    #: Sentences about the numbers, below the table.
    remark: str = ""
    #: Whether each row is one line of the page.
    is_compact: bool = False


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


def write_into(path: Path, record: Record) -> None:
    """Replace the tables of a page; none, if one of them cannot be made."""
    made = {name: "\n".join(_lines_of(name, record)) for name in names_in(path)}

    def replaced(place: re.Match[str]) -> str:
        return f"{place['begin']}\n{made[place['name']]}\n\n{place['end']}"

    text = path.read_text(encoding="utf-8")
    path.write_text(_PLACE.sub(replaced, text), encoding="utf-8")


# -- the tables ----------------------------------------------------------------------------------


def _bounds(record: Record) -> Table:
    verdicts = [(bound, judge(bound, record.results)) for bound in BOUNDS]
    readings = [reading for bound, verdict in verdicts if verdict for reading in bound.readings]
    used = {
        (reading.scenario, reading.point, contender)
        for reading in readings
        for contender in (OURS if reading.contender is None else (reading.contender,))
    }
    return Table(
        ("Measurement", "Bound", "Compiled core (quartiles)", "", "Pure core"),
        # With the bounds that were not measured: they must not look as if they were met.
        [_bounds_row(bound, verdict) for bound, verdict in verdicts if verdict or bound.text],
        [r for r in record.results if (r.scenario, r.point, r.contender) in used],
    )


def _bounds_row(bound: Bound, verdict: dict[str, Any] | None) -> list[str]:
    measured = verdict["measured"] if verdict else {}
    compiled = measured.get("c")
    met = verdict["met"] if verdict else None
    marks = {True: "met", False: "**MISSED**", None: "" if compiled else "not measured"}
    return [
        _escaped(bound.what),
        _in_words(bound),
        _with_quartiles(compiled) if compiled else "",
        marks[met],
        three_digits(measured["py"]["median"]) if "py" in measured else "",
    ]


def _in_words(bound: Bound) -> str:
    if bound.at_most is not None:
        return f"at most {bound.at_most:,g}"
    return "" if bound.at_least is None else f"at least {bound.at_least:,g}"


def _with_quartiles(numbers: dict[str, float]) -> str:
    middle, *ends = (
        three_digits(numbers[n]) for n in ("median", "lower_quartile", "upper_quartile")
    )
    return f"{middle} ({' to '.join(ends)})"


#: Scenario, point, metric, title of the column.
_SIDE_BY_SIDE: Final = (
    ("cycle", 0, RATIO, "One caller"),
    ("cycle-held", 5000, RATIO, "5,000 in use"),
    ("contended", 16, RATIO, "16 callers"),
    ("contended", 256, RATIO, "256 callers"),
    ("contended", 2048, RATIO, "2,048 callers"),
    ("fairness", 0, "fewest_by_most", "Fairness"),
)
#: The first column of numbers.
_MICROSECONDS: Final = "One caller, µs"


def _pools(record: Record) -> Table:
    columns = [(scenario, point) for scenario, point, *_ in _SIDE_BY_SIDE]
    used = [r for r in record.results if (r.scenario, r.point) in columns and r.samples]
    found = {(r.contender, r.scenario, r.point): r for r in used}
    # Without the floor, which is the unit of the costs.
    names = [name for name in CONTENDERS if name != "floor" and any(name == k[0] for k in found)]
    rows = [[_escaped(_full_name(name, record)), *_pool_row(name, found)] for name in names]
    floors = [s["floor_ns"] for r in used if r.scenario == "cycle" for s in r.samples]
    remark = f"The floor took {three_digits(median(floors))} ns." if floors else ""
    titles = [title for *_, title in _SIDE_BY_SIDE]
    return Table(("Pool", _MICROSECONDS, *titles), rows, used, remark)


def _pool_row(name: str, found: dict[tuple[str, str, int], Result]) -> Iterator[str]:
    cycle = found.get((name, "cycle", 0))
    yield _microseconds(cycle.values("ns")) if cycle else _NOTHING
    for scenario, point, metric, _ in _SIDE_BY_SIDE:
        result = found.get((name, scenario, point))
        values = result.values(metric) if result else []
        yield three_digits(median(values)) if values else _NOTHING


def _microseconds(nanoseconds: Sequence[float]) -> str:
    """Return the median with two digits: more would only describe one machine."""
    return f"{float(f'{median(nanoseconds) / 1000:.2g}'):g}"


def _full_name(contender: str, record: Record) -> str:
    about = record.environment["contenders"][contender]
    # The first version is that of the contender itself.
    versions = [f"{contender} {version}" for version in about["versions"].values()]
    return ": ".join([*versions[:1], about["about"]])


_LARGE: Final = (
    ("scale", "plain, asyncio"),
    ("scale-uvloop", "plain, uvloop"),
    ("scale-tls", "TLS, asyncio"),
    ("scale-tls-uvloop", "TLS, uvloop"),
)
_OF_LARGE: Final = (
    ("seconds_to_open", 1, "Seconds to open"),
    ("seconds_to_close", 1, "Seconds to close"),
    ("rss_bytes_per_connection", 1000, "kB per connection"),
    ("idle_cpu_percent", 1, "% of a CPU core while idle"),
)


def _large(record: Record) -> Table:
    used = [
        result
        for scenario, _ in _LARGE
        for result in record.results
        if (result.scenario, result.contender) == (scenario, OURS[0]) and result.samples
    ]
    rows = [
        [
            f"{result.point:,} {dict(_LARGE)[result.scenario]}",
            *(three_digits(median(result.values(name)) / by) for name, by, _ in _OF_LARGE),
        ]
        for result in used
    ]
    return Table(("Connections", *(title for *_, title in _OF_LARGE)), rows, used)


#: The rows of the short table: scenario, metric, name.
_IN_SHORT: Final = (
    ("request-reply-tls", "connecting_ns", "A new connection, TLS"),
    ("request-reply-tls", "ns", "The pool, TLS"),
    ("request-reply", "connecting_ns", "A new connection"),
    ("request-reply", "ns", "The pool"),
    ("request-reply", "raw_ns", "One connection, without a pool"),
)
#: Characters of the longest bar.
_LONGEST_BAR: Final = 24


def _short(record: Record) -> Table:
    measured = [
        (name, times)
        for scenario, metric, name in _IN_SHORT
        if (times := _times(record, scenario, metric))
    ]
    fastest = min((median(times) for _, times in measured), default=1.0)
    rows = [
        [name, *_per_request(median(times)), _bar(fastest / median(times))]
        for name, times in measured
    ]
    used = {scenario for scenario, *_ in _IN_SHORT} if rows else set()
    results = [r for r in record.results if r.scenario in used and r.contender == OURS[0]]
    header = ("Each request uses", "ms", "Requests per second", "")
    return Table(header, rows, results, _cycle_in_words(record), is_compact=True)


def _per_request(nanoseconds: float) -> tuple[str, str]:
    """Return milliseconds and requests per second, with two digits."""
    milliseconds = f"{float(f'{nanoseconds / 1e6:.2g}'):g}"
    return milliseconds, f"{float(f'{1e9 / nanoseconds:.2g}'):,.0f}"


def _bar(share: float) -> str:
    return "\N{FULL BLOCK}" * max(1, round(share * _LONGEST_BAR))


def _cycle_in_words(record: Record) -> str:
    cycle = _times(record, "cycle", "ns")
    if not cycle:
        return ""
    return f"Acquiring and releasing an idle connection took {_microseconds(cycle)} µs."


def _times(record: Record, scenario: str, metric: str) -> list[float]:
    return [
        value
        for result in record.results
        if (result.scenario, result.contender) == (scenario, OURS[0])
        for value in result.values(metric)
    ]


TABLES: Final[dict[str, Callable[[Record], Table]]] = {
    # A few numbers, for the README.
    "short": _short,
    # Bounds and measured numbers.
    "bounds": _bounds,
    # This pool and others.
    "pools": _pools,
    # Many connections: opened, idle, closed.
    "large": _large,
}


# -- as reStructuredText -------------------------------------------------------------------------


def _lines_of(name: str, record: Record) -> Iterator[str]:
    table = TABLES[name](record)
    if not table.results:
        raise RstError(f"the run has no results for the table {name!r}")
    directive = "csv-table" if table.is_compact else "list-table"
    yield from (f".. {directive}::", "   :header-rows: 1", "   :widths: auto", "")
    for row in (table.header, *table.rows):
        if table.is_compact:
            yield "   " + ",".join(f'"{cell}"' for cell in row)
            continue
        for number, cell in enumerate(row):
            yield f"   {'-' if number else '*'} - {cell}".rstrip().replace("   - -", "     -")
    said = " ".join([_made_on(table, record), table.remark]).rstrip()
    # Without breaks at hyphens, which would split names.
    yield from ("", *wrap(said, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _made_on(table: Table, record: Record) -> str:
    made = record.made_on()
    machine = [f"{made['python']}", f"aiohttp {made['aiohttp']}", *_versions(table, record)]
    machine += [made["system"], made["cpu"], f"{made['cores']} cores"]
    rounds = sorted({len(result.samples) for result in table.results if result.samples})
    most = f"{rounds[-1]} round{'s' if rounds[-1] > 1 else ''}"
    many = f"{rounds[0]} to {most}" if len(rounds) > 1 else most
    return f"{_escaped(', '.join(machine))}; medians of {many}."


def _versions(table: Table, record: Record) -> list[str]:
    """Return the versions of the libraries of the contenders in the table."""
    there = {result.contender for result in table.results if result.samples}
    found: dict[str, str] = {}
    for name, about in record.environment["contenders"].items():
        if name in there:
            found |= about["versions"]
            if about.get("cython"):
                found["Cython"] = about["cython"]
    found.pop("aiohttp", None)
    return [f"{name} {version}" for name, version in found.items()]


def _escaped(text: str) -> str:
    """Return text in which reStructuredText finds no markup."""
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)
