"""What ``--rst`` puts into a page, from samples that are made up here; nothing is timed."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .benchmark import ROOT

# isort: split
from bench import scenarios
from bench.bounds import BOUNDS
from bench.contenders import CONTENDERS
from bench.report import Result, Run, as_json, three_digits
from bench.rst import RstError, names_in, write_into
from bench.saved import Record
from bench.tables import (
    _IN_SHORT,
    _LARGE,
    _PLOTTED,
    _SIDE_BY_SIDE,
    TABLES,
    places,
    places_of_pythons,
)

docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")

HAS_EXTENSION = importlib.util.find_spec("aiowebsocketclient._pool") is not None

ENVIRONMENT: dict[str, Any] = {
    "python": "CPython 3.11.7",
    "aiohttp": "3.14.5",
    "system": "Linux_of_*some*_",
    "cpu": "a machine",
    "cores": 2,
    "contenders": {
        "c": {"about": "compiled core", "versions": {}, "implementation": "c", "cython": "3.3.1"},
        "py": {"about": "pure core", "versions": {}, "implementation": "py", "cython": None},
        "floor": {"about": "a deque", "versions": {}},
        "semaphore": {"about": "a semaphore", "versions": {}},
        "psycopg_pool": {
            "about": "another",
            "versions": {"psycopg-pool": "3.3.3", "psycopg": "3.3.9"},
        },
        "aio-websocket-pool": {"about": "a third", "versions": {"aio-websocket-pool": "0.1.0"}},
    },
    "left_out": {},
}

#: The pages that ``make figures`` fills.
FILLED = [ROOT / "README.rst", ROOT / "docs" / "benchmarks.rst"]

PAGE = """\
Title
=====

Before.

.. bench: begin bounds

What was there.

.. bench: end bounds

Between.

.. bench: begin pools
.. bench: end pools

.. bench: begin large
.. bench: end large

After.
"""


def timed(contender: str, scenario: str, point: int, *ratios: float) -> Result:
    samples = [{"ns": 50 * ratio, "floor_ns": 50.0} for ratio in ratios]
    return Result(scenario, "", point, contender, samples)


def of(contender: str, scenario: str, point: int, **metrics: float) -> Result:
    return Result(scenario, "", point, contender, [metrics])


def results() -> list[Result]:
    return [
        timed("c", "core", 0, 1.0, 1.1, 1.15),
        timed("py", "core", 0, 5.0, 5.5, 6.0),
        timed("c", "cycle", 0, 8.0, 9.0, 10.0),
        timed("py", "cycle", 0, 30.0),
        timed("floor", "cycle", 0, 1.0),
        timed("psycopg_pool", "cycle", 0, 1234.4),
        timed("aio-websocket-pool", "cycle", 0, 400.0),
        timed("c", "cycle-held", 5000, 8.5),
        timed("c", "contended", 256, *[25.0] * 3),
        timed("semaphore", "contended", 256, *[20.0] * 3),
        of("c", "fairness", 0, fewest_by_most=0.999, fewest_uses=999, most_uses=1000),
        of("psycopg_pool", "fairness", 0, fewest_by_most=0.00012, fewest_uses=1, most_uses=8000),
        of(
            *("c", "scale-tls", 2000),
            seconds_to_open=1.75,
            seconds_to_close=0.31,
            rss_mb=631.0,
            rss_bytes_per_connection=315_722.0,
            idle_cpu_percent=1.74,
        ),
        Result("scale", "", 10_000, "c", left_out="is the machine busy?"),
    ]


def record(found: Sequence[Result] | None = None, **environment: Any) -> Record:
    run = Run(3, 0.02, smoke=False)
    return Record(ENVIRONMENT | environment, run, list(found or results()))


#: What any run has to have for all the tables.
LARGE = [result for result in results() if result.scenario == "scale-tls"]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.rst"
    path.write_text(PAGE)
    return path


def document(path: Path) -> Any:
    # A warning is an error.
    return docutils_core.publish_doctree(
        path.read_text(), settings_overrides={"halt_level": 2, "report_level": 2}
    )


def tables(path: Path) -> list[list[list[str]]]:
    """Return the rows of each table."""
    return [
        [
            [entry.astext() for entry in row.findall(docutils_nodes.entry)]
            for row in table.findall(docutils_nodes.row)
        ]
        for table in document(path).findall(docutils_nodes.table)
    ]


def row(rows: list[list[str]], name: str) -> list[str]:
    return next(cells[1:] for cells in rows if cells[0] == name)


# -- the tables ----------------------------------------------------------------------------------


def test_bounds_are_beside_what_was_measured(page: Path) -> None:
    write_into(page, [record()])
    bounds = tables(page)[0]
    # As there are few rounds, the range of the rounds is added on both sides; the floor took 50 ns.
    core = ["at most 1.3", "1.1 (0.85 to 1.3)", "met", "0.055", "5.5"]
    assert row(bounds, "core acquire+release / floor") == core
    # One round tells nothing.
    fair = ["at least 0.98", "0.999", "cannot tell", "", ""]
    assert row(bounds, "fairness, fewest/most") == fair


def test_what_was_missed_is_said(page: Path) -> None:
    write_into(page, [record()])
    bounds = tables(page)[0]
    cycle = ["at most 5", "9 (6 to 12)", "MISSED", "0.45", "30"]
    assert row(bounds, "public cycle on a live socket / floor") == cycle
    assert row(bounds, "contended, 256 callers / Semaphore")[2] == "MISSED"


def test_what_was_not_measured_does_not_look_as_if_it_were(page: Path) -> None:
    write_into(page, [record()])
    bounds = tables(page)[0]
    assert row(bounds, "async with / floor") == ["at most 6", "", "not measured", "", ""]
    assert [cells[0] for cells in bounds[1:]] == [bound.what for bound in BOUNDS if bound.text]
    memory = row(bounds, "memory of an idle connection, bytes")
    assert memory[0] == "at most 8,000"


def test_the_pure_core_alone_meets_nothing(page: Path) -> None:
    write_into(page, [record([r for r in results() if r.contender != "c"] + LARGE)])
    assert row(tables(page)[0], "core acquire+release / floor")[1:] == [
        "",
        "not measured",
        "",
        "5.5",
    ]


def test_pools_are_side_by_side(page: Path) -> None:
    write_into(page, [record()])
    pools = tables(page)[1]
    none = "n/a"
    # The floor is what the others are given in, beside µs.
    assert pools[1:] == [
        ["compiled core", "0.45 (9)", "0.42 (8.5)", none, "1.2 (25)", none, "0.999"],
        ["pure core", "1.5 (30)", none, none, none, none, none],
        ["a semaphore", none, none, none, "1 (20)", none, none],
        ["psycopg_pool 3.3.3: another", "62 (1,234)", none, none, none, none, "0.000"],
        ["aio-websocket-pool 0.1.0: a third", "20 (400)", none, none, none, none, none],
    ]


def test_times_of_requests_in_short(page: Path) -> None:
    page.write_text(".. bench: begin short\n.. bench: end short\n")
    request_reply = of("c", "request-reply", 0, ns=2e5, raw_ns=1e5, connecting_ns=7e5)
    write_into(page, [record([*results(), request_reply])])
    # The scenario with TLS was not measured, and is left out.
    assert tables(page)[0][1:] == [
        ["A new connection", "0.7", "1,400", 3 * "█"],
        ["The pool", "0.2", "5,000", 12 * "█"],
        ["One connection, without a pool", "0.1", "10,000", 24 * "█"],
    ]
    # The median of the rounds in which a cycle took 400, 450 and 500 ns.
    took = "Acquiring and releasing an idle connection took 0.45 µs."
    assert took in " ".join(page.read_text().split())


def test_no_request_was_measured(page: Path) -> None:
    page.write_text(".. bench: begin short\n.. bench: end short\n")
    with pytest.raises(RstError, match="the run has no results for the table 'short'"):
        write_into(page, [record()])


def test_many_connections(page: Path) -> None:
    write_into(page, [record()])
    large = tables(page)[2]
    assert large[1:] == [["2,000 TLS, asyncio", "1.75", "0.31", "316", "1.74"]]


def test_what_it_was_made_on_is_said_below_each(page: Path) -> None:
    write_into(page, [record()])
    paragraphs = [
        node.astext().replace("\n", " ")
        for node in document(page).findall(docutils_nodes.paragraph)
    ]
    machine = "Linux_of_*some*_, a machine, 2 cores; medians of"
    ours = "CPython 3.11.7, aiohttp 3.14.5, Cython 3.3.1"
    others = "psycopg-pool 3.3.3, psycopg 3.3.9, aio-websocket-pool 0.1.0"
    made_on = [text for text in paragraphs if text.startswith("CPython")]
    assert made_on == [
        f"{ours}, {machine} 1 to 3 rounds.",
        f"{ours}, {others}, {machine} 1 to 3 rounds. The floor took 0.05 µs.",
        f"{ours}, {machine} 1 round.",
    ]


def test_tables_are_of_what_is_measured() -> None:
    for name, point, *_ in _SIDE_BY_SIDE:
        assert point in scenarios.find(name).points
    for name, *_ in (*_LARGE, *_IN_SHORT):
        assert scenarios.find(name)
    for name, point, contender in (*places(), *places_of_pythons()):
        assert point in scenarios.find(name).points
        assert contender in CONTENDERS
    for name in _PLOTTED:
        assert {point for scenario, point, _ in places() if scenario == name} == set(
            scenarios.find(name).points
        )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.00006, "0.000"),
        (0.98765, "0.988"),
        (12.34, "12.3"),
        (99.96, "100"),
        (999.7, "1,000"),
        (-1247.3, "-1,247"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(number: float, text: str) -> None:
    assert three_digits(number) == text


# -- the Pythons ---------------------------------------------------------------------------------


PYTHONS_PAGE = ".. bench: begin pythons\n.. bench: end pythons\n"


def in_python(version: str, cycle: float, *, aiohttp: str = "3.14.5", more: bool = True) -> Record:
    """Return a run in which a cycle takes so many floors of 50 ns, and a request 0.1 ms."""
    found = [timed("c", "cycle", 0, cycle)]
    if more:
        found += [
            timed("c", "async-with", 0, 2 * cycle),
            timed("c", "contended", 256, 13.0),
            timed("semaphore", "contended", 256, 10.0),
            of("c", "request-reply", 0, ns=1e5, raw_ns=9e4, connecting_ns=7e5),
        ]
    return record(found, python=f"CPython {version}", aiohttp=aiohttp)


def test_each_python_has_a_row(page: Path) -> None:
    page.write_text(PYTHONS_PAGE)
    # In the order of their numbers; what was not measured is said.
    runs = [in_python("3.13.0", 4.0), in_python("3.9.1", 6.0, aiohttp="3.12", more=False)]
    write_into(page, runs)
    assert tables(page)[0] == [
        [
            *("Python", "aiohttp", "Floor, µs", "One caller, µs (floors)"),
            *("async with, µs (floors)", "256 callers / Semaphore"),
            "Requests per second, one caller",
        ],
        ["CPython 3.9.1", "3.12", "0.05", "0.3 (6)", "n/a", "n/a", "n/a"],
        ["CPython 3.13.0", "3.14.5", "0.05", "0.2 (4)", "0.4 (8)", "1.3", "10,000"],
    ]
    said = "Cython 3.3.1, Linux_of_*some*_, a machine, 2 cores; medians of 1 round."
    assert document(page).findall(docutils_nodes.paragraph)
    assert (
        next(
            node.astext().replace("\n", " ")
            for node in document(page).findall(docutils_nodes.paragraph)
            if "medians" in node.astext()
        )
        == said
    )


def test_first_run_is_that_of_the_other_tables(page: Path) -> None:
    page.write_text(PAGE + PYTHONS_PAGE)
    headline = record(python="CPython 3.13.0")
    again = in_python("3.13.0", 4.0)
    write_into(page, [headline, in_python("3.11.7", 5.0), again])
    *others, pythons = tables(page)
    assert row(others[0], "public cycle on a live socket / floor")[1] == "9 (6 to 12)"
    assert "CPython 3.13.0, aiohttp" in page.read_text()
    # The last run with a Python, in which all Pythons took turns, is that of its row.
    assert [cells[:4] for cells in pythons[1:]] == [
        ["CPython 3.11.7", "3.14.5", "0.05", "0.25 (5)"],
        ["CPython 3.13.0", "3.14.5", "0.05", "0.2 (4)"],
    ]


def test_no_python_was_measured(page: Path) -> None:
    page.write_text(PYTHONS_PAGE)
    with pytest.raises(RstError, match="the run has no results for the table 'pythons'"):
        write_into(page, [record(LARGE)])


def test_saved_runs_of_several_pythons_become_one_table(page: Path, tmp_path: Path) -> None:
    """As a run inside a container or a chroot does, whose interpreters cannot be started here."""
    page.write_text(PYTHONS_PAGE)
    runs = [in_python("3.13.0", 4.0), in_python("3.11.7", 5.0), in_python("3.15.0", 3.0)]
    told = [as_json(*run, []) for run in runs]
    (tmp_path / "here.json").write_text(json.dumps(told[:2]))
    (tmp_path / "there.json").write_text(json.dumps(told[2]))
    run = bench("--from", tmp_path / "here.json", tmp_path / "there.json", "--rst", page)
    assert run.returncode == 0, run.stderr
    found = tables(page)[0]
    pythons = ["CPython 3.11.7", "CPython 3.13.0", "CPython 3.15.0"]
    assert [cells[0] for cells in found[1:]] == pythons
    # The same for a terminal.
    lines = run.stdout.splitlines()
    assert lines[0].split() == " ".join(found[0]).split()
    assert [" ".join(line.split()[:2]) for line in lines[1:4]] == pythons


# -- the page ------------------------------------------------------------------------------------


def test_all_else_of_a_page_stays(page: Path) -> None:
    write_into(page, [record()])
    text = page.read_text()
    assert "What was there." not in text
    for line in PAGE.splitlines():
        assert line in text or line == "What was there."
    assert text.startswith("Title\n=====\n\nBefore.\n\n.. bench: begin bounds\n\n.. list-table::\n")
    assert text.endswith(".. bench: end large\n\nAfter.\n")


def test_the_same_run_is_the_same_page(page: Path) -> None:
    write_into(page, [record()])
    first = page.read_text()
    write_into(page, [record()])
    assert page.read_text() == first


def test_another_run_leaves_nothing_of_the_first(page: Path) -> None:
    write_into(page, [record()])
    write_into(page, [record([timed("c", "cycle", 0, *[4.0] * 3), *LARGE])])
    assert row(tables(page)[0], "public cycle on a live socket / floor")[2] == "met"
    assert "psycopg" not in page.read_text()


def test_nothing_is_written_where_one_table_cannot_be_made(page: Path) -> None:
    with pytest.raises(RstError, match="the run has no results for the table 'large'"):
        write_into(page, [record([timed("c", "cycle", 0, 4.0)])])
    assert page.read_text() == PAGE


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Nothing here.\n", "no place for a table"),
        (".. bench: begin bounds\n", "has no counterpart"),
        (".. bench: begin bounds\n.. bench: end pools\n", "has no counterpart"),
        (".. bench: begin a\n.. bench: end a\n.. bench: end b\n", "has no counterpart"),
        (
            ".. bench: begin all\n.. bench: end all\n",
            "there is no table 'all'; the tables are short, ",
        ),
    ],
)
def test_pages_that_cannot_be_filled(page: Path, text: str, error: str) -> None:
    page.write_text(text)
    with pytest.raises(RstError, match=error):
        names_in(page)


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_a_page_without_a_place_is_an_error_before_anything_is_measured(page: Path) -> None:
    page.write_text("Nothing here.\n")
    run = bench("--rst", page)
    assert run.returncode == 1
    assert "page.rst has no place for a table" in run.stderr
    run = bench("--rst", page.with_name("nowhere.rst"))
    assert run.returncode == 1
    assert "nowhere.rst: No such file" in run.stderr


@pytest.mark.skipif(not all(page.is_file() for page in FILLED), reason="no pages")
def test_each_table_has_its_place_in_one_page() -> None:
    assert [name for page in FILLED for name in names_in(page)] == list(TABLES)
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"--rst (\S+)", makefile) == [
        page.relative_to(ROOT).as_posix() for page in FILLED
    ]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_EXTENSION, reason="the tables are of the compiled core")
@pytest.mark.skipif(not all(page.is_file() for page in FILLED), reason="no pages")
def test_the_pages_can_be_filled_by_a_run(tmp_path: Path) -> None:
    """Measured here and now, too short to tell anything; what it says is no matter of a test."""
    filled = [Path(shutil.copy(page, tmp_path)) for page in FILLED]
    who = ("--impl", "c", "--impl", "semaphore")
    what = [f"--scenario={name}" for name in ("cycle", "fairness", "request-reply", "scale")]
    pages = [f"--rst={page}" for page in filled]
    run = bench("--smoke", "--shown", "--rounds", "1", *who, *what, *pages)
    assert run.returncode == 0, run.stderr
    for before, now in zip(map(tables, FILLED), map(tables, filled), strict=True):
        assert len(now) == len(before)
    # Without the scenario with TLS.
    assert len(tables(filled[0])[0]) == 1 + 3
    found = tables(filled[1])
    pools, large = (next(t for t in found if t[0][0] == name) for name in ("Pool", "Connections"))
    assert [cells[0] for cells in pools[1:]] == [CONTENDERS[name].about for name in who[1::2]]
    assert [cells[0] for cells in large[1:]] == ["200 plain, asyncio"]
