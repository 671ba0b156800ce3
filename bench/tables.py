"""Tables of the results of one or several runs, for pages (``rst.py``) and terminals."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from . import scenarios
from .bounds import BOUNDS, MARKS, Bound, Place, Reading, judge
from .bounds import places as places_of_bounds
from .contenders import CONTENDERS, OURS
from .report import RATIO, Result, microseconds, three_digits
from .saved import Record

# The cell of a contender that was not measured.
_NOTHING: Final = "n/a"


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: The runs and the results in the table.
    records: Sequence[Record]
    results: Sequence[Result]
    #: Sentences about the numbers, below the table.
    remark: str = ""
    #: Whether each row is one line of the page.
    is_compact: bool = False
    #: Whether the rows say which Python they are of.
    has_pythons: bool = False


def _bounds(record: Record) -> Table:
    verdicts = [(bound, judge(bound, record.results)) for bound in BOUNDS]
    readings = [reading for bound, verdict in verdicts if verdict for reading in bound.readings]
    used = {reading.place(core) for reading in readings for core in OURS}
    return Table(
        ("Measurement", "Bound", "Compiled core (95 %)", "", "µs", "Pure core"),
        # With the bounds that were not measured: they must not look as if they were met.
        [_bounds_row(bound, verdict) for bound, verdict in verdicts if verdict or bound.text],
        [record],
        [r for r in record.results if r.place in used],
    )


def _bounds_row(bound: Bound, verdict: dict[str, Any] | None) -> list[str]:
    measured = verdict["measured"] if verdict else {}
    us = verdict["us"] if verdict else None
    return [
        bound.what,
        bound.in_words,
        _with_ends(verdict) if verdict and "c" in measured else "",
        MARKS[verdict["verdict"]] if verdict and "c" in measured else "not measured",
        "" if us is None else _two_digits(us),
        three_digits(measured["py"]["median"]) if "py" in measured else "",
    ]


def _with_ends(verdict: dict[str, Any]) -> str:
    middle = three_digits(verdict["measured"]["c"]["median"])
    ends = verdict["interval"]
    return f"{middle} ({' to '.join(map(three_digits, ends))})" if ends else middle


#: Scenario, point, metric, title of the column.
_SIDE_BY_SIDE: Final = (
    ("cycle", 0, RATIO, "One caller"),
    ("cycle-held", 5000, RATIO, "5,000 in use"),
    ("contended", 16, RATIO, "16 callers"),
    ("contended", 256, RATIO, "256 callers"),
    ("contended", 2048, RATIO, "2,048 callers"),
    ("fairness", 0, "fewest_by_most", "Fairness"),
)


def _pools(record: Record) -> Table:
    columns = [(scenario, point) for scenario, point, *_ in _SIDE_BY_SIDE]
    used = [r for r in record.results if (r.scenario, r.point) in columns and r.samples]
    found = {(r.contender, r.scenario, r.point): r for r in used}
    # Without the floor, which is the unit of the costs.
    names = [name for name in CONTENDERS if name != "floor" and any(name == k[0] for k in found)]
    rows = [[_full_name(name, record), *_pool_row(name, found)] for name in names]
    floors = [s["floor_ns"] for r in used if r.scenario == "cycle" for s in r.samples]
    remark = f"The floor took {microseconds(floors)} µs." if floors else ""
    titles = [title for *_, title in _SIDE_BY_SIDE]
    return Table(("Pool", *titles), rows, [record], used, remark)


def _pool_row(name: str, found: dict[tuple[str, str, int], Result]) -> Iterator[str]:
    for scenario, point, metric, _ in _SIDE_BY_SIDE:
        result = found.get((name, scenario, point))
        if result and metric == RATIO:
            yield _with_floors(result.values("ns"), result.values(RATIO))
        else:
            yield three_digits(median(result.values(metric))) if result else _NOTHING


def _with_floors(nanoseconds: Sequence[float], ratios: Sequence[float]) -> str:
    """Return µs, and in brackets floors."""
    if not ratios:
        return _NOTHING
    return f"{_microseconds(nanoseconds)} ({three_digits(median(ratios))})"


def _microseconds(nanoseconds: Sequence[float]) -> str:
    return _two_digits(median(nanoseconds) / 1000)


def _two_digits(number: float) -> str:
    """Return a number with two digits: more would only describe one machine."""
    return f"{float(f'{number:.2g}'):,g}"


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
    return Table(("Connections", *(title for *_, title in _OF_LARGE)), rows, [record], used)


#: The scenarios of the plots, which show all points and contenders.
_PLOTTED: Final = ("held", "cycle-held", "contended", "fairness", "spike")

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
    return Table(header, rows, [record], results, _cycle_in_words(record), is_compact=True)


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


_CYCLE: Final = Reading("cycle")
_ASYNC_WITH: Final = Reading("async-with")
_REQUEST: Final = Reading("request-reply")
_CROWD: Final = Bound(
    "256 callers / Semaphore",
    Reading("contended", point=256),
    Reading("contended", point=256, contender="semaphore"),
)
_OF_PYTHONS: Final = (
    *("Python", "aiohttp", "Floor, µs", "One caller, µs (floors)"),
    *("async with, µs (floors)", _CROWD.what, "Requests per second, one caller"),
)


def pythons(records: Sequence[Record]) -> Table:
    """Return the table of the Pythons; the last run with a Python is that of its row."""
    core = OURS[0]
    runs = {_version(record): record for record in records if _CYCLE.values(record.results, core)}
    used = [record for _, record in sorted(runs.items())]
    places = places_of_pythons()
    results = [r for record in used for r in record.results if r.place in places]
    rows = [list(_python_row(record, core)) for record in used]
    return Table(_OF_PYTHONS, rows, used, results, has_pythons=True)


def _version(record: Record) -> tuple[str, tuple[int, int]]:
    name, _, version = record.environment["python"].partition(" ")
    major, minor = version.split(".")[:2]
    return name, (int(major), int(minor))


def _python_row(record: Record, core: str) -> Iterator[str]:
    made, results = record.made_on(), record.results
    yield made["python"]
    yield made["aiohttp"]
    yield _microseconds(_CYCLE.values(results, core, "floor_ns"))
    for reading in (_CYCLE, _ASYNC_WITH):
        yield _with_floors(reading.values(results, core), reading.values(results, core, RATIO))
    crowd, requests = _CROWD.values(results, core), _REQUEST.values(results, core)
    yield three_digits(median(crowd)) if crowd else _NOTHING
    yield _per_request(median(requests))[1] if requests else _NOTHING


def places_of_pythons() -> set[Place]:
    """Return what has to be measured for the table of the Pythons."""
    readings = (_CYCLE, _ASYNC_WITH, _REQUEST, *_CROWD.readings)
    return {reading.place(OURS[0]) for reading in readings}


def _of_first(make: Callable[[Record], Table]) -> Callable[[Sequence[Record]], Table]:
    return lambda records: make(records[0])


TABLES: Final[dict[str, Callable[[Sequence[Record]], Table]]] = {
    # A few numbers, for the README.
    "short": _of_first(_short),
    # Bounds and measured numbers.
    "bounds": _of_first(_bounds),
    # Several Pythons.
    "pythons": pythons,
    # This pool and others.
    "pools": _of_first(_pools),
    # Many connections: opened, idle, closed.
    "large": _of_first(_large),
}


def places() -> set[Place]:
    """Return what has to be measured for all tables of one run, and for the plots."""
    everybody = [(s, point, name) for s, point, *_ in _SIDE_BY_SIDE for name in CONTENDERS]
    in_short = [(scenario, 0, OURS[0]) for scenario, *_ in _IN_SHORT]
    large = [(s, point, OURS[0]) for s, _ in _LARGE for point in scenarios.find(s).points]
    plotted = [
        (scenario, point, name)
        for scenario in _PLOTTED
        for point in scenarios.find(scenario).points
        for name in CONTENDERS
    ]
    bounds = set().union(*map(places_of_bounds, OURS))
    return bounds.union(everybody, in_short, large, plotted)


def as_text(table: Table) -> str:
    """Return a table for a terminal."""
    rows = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*map(str.rstrip, lines), "", made_on(table)])


def made_on(table: Table) -> str:
    """Return a sentence about versions, machine and rounds."""
    there = {result.contender for result in table.results if result.samples}
    # Everything once, in the order in which it appears.
    machine: dict[str, None] = {}
    for record in table.records:
        made = record.made_on()
        if not table.has_pythons:
            machine |= dict.fromkeys([made["python"], f"aiohttp {made['aiohttp']}"])
        machine |= dict.fromkeys(_versions(record, there))
    for name, unit in (("system", ""), ("cpu", ""), ("cores", " cores")):
        machine |= {record.made_on()[name] + unit: None for record in table.records}
    rounds = sorted({len(result.samples) for result in table.results if result.samples})
    most = f"{rounds[-1]} round{'s' if rounds[-1] > 1 else ''}"
    many = f"{rounds[0]} to {most}" if len(rounds) > 1 else most
    return f"{', '.join(machine)}; medians of {many}."


def _versions(record: Record, there: set[str]) -> list[str]:
    """Return the versions of the libraries of these contenders."""
    found: dict[str, str] = {}
    for name, about in record.environment["contenders"].items():
        if name in there:
            found |= about["versions"]
            if about.get("cython"):
                found["Cython"] = about["cython"]
    found.pop("aiohttp", None)
    return [f"{name} {version}" for name, version in found.items()]
