"""What ``--plot`` draws, from samples that are made up here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from .benchmark import ROOT

# isort: split
from bench import scenarios
from bench.contenders import CONTENDERS
from bench.plot import PLOTS, STYLES, draw_all
from bench.report import Result, Run
from bench.saved import Record

pytestmark = pytest.mark.slow

ENVIRONMENT: dict[str, Any] = {
    "python": "CPython 3.11.7",
    "aiohttp": "3.14.5",
    "cpu": "a machine",
    "cores": 2,
}


def results() -> list[Result]:
    found = []
    for scenario, points, names, metrics in (
        ("held", (0, 1000, 100_000), ("c", "py"), ("ns", "floor_ns")),
        ("cycle-held", (0, 5000), ("c", "semaphore", "2015"), ("ns", "floor_ns")),
        ("contended", (16, 256), ("c", "queue"), ("ns", "floor_ns")),
        ("fairness", (0,), ("c", "queue"), ("fewest_by_most", "fewest_uses", "most_uses")),
        ("spike", (100, 1), ("c", "psycopg_pool"), ("opened", "ms_to_serve_all")),
    ):
        for point in points:
            for name in names:
                samples = [
                    {metric: float(turn + place) for place, metric in enumerate(metrics, 1)}
                    for turn in range(5)
                ]
                found.append(Result(scenario, "", point, name, samples))
    return found


def record(results: list[Result]) -> Record:
    return Record(ENVIRONMENT, Run(5, 0.02, smoke=False), results)


def texts(path: Path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_each_plot_is_drawn_with_who_takes_part(tmp_path: Path) -> None:
    drawn = draw_all(record(results()), tmp_path / "plots")
    assert [path.name for path in drawn] == [f"{name}.svg" for name in PLOTS]
    takes_part = {
        "held": ("c", "py", "semaphore", "2015"),
        "contended": ("c", "queue"),
        "fairness": ("c", "queue"),
        "spike": ("c", "psycopg_pool"),
    }
    for path in drawn:
        said = texts(path)
        for name, style in STYLES.items():
            if name == "floor":
                # Costs are given in floors.
                continue
            assert (style.label in said) is (name in takes_part[path.stem]), (path, name)
        assert "CPython 3.11.7, aiohttp 3.14.5, a machine, 2 cores" in said


@pytest.mark.parametrize(
    ("plot", "label"),
    [
        ("held", "other connections in use"),
        ("held", "100,000"),
        ("held", "µs"),
        ("contended", "concurrent callers"),
        ("contended", "µs"),
        ("fairness", "uses of the least served caller / uses of the most served caller"),
        ("spike", "time until all callers were served (ms)"),
        ("spike", "one handshake at a time"),
    ],
)
def test_axes_say_what_they_are_in(tmp_path: Path, plot: str, label: str) -> None:
    draw_all(record(results()), tmp_path)
    assert label in texts(tmp_path / f"{plot}.svg")


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    some = [result for result in results() if result.scenario == "spike"]
    left_out = Result("contended", "", 16, "queue", left_out="it has no such setting")
    drawn = draw_all(record([*some, left_out]), tmp_path)
    assert [path.name for path in drawn] == ["spike.svg"]


def test_what_was_left_out_of_a_scenario_is_not_drawn(tmp_path: Path) -> None:
    left_out = Result("contended", "", 16, "2015", left_out="it has no such setting")
    draw_all(record([*results(), left_out]), tmp_path)
    assert STYLES["2015"].label not in texts(tmp_path / "contended.svg")


def test_the_same_run_is_the_same_file(tmp_path: Path) -> None:
    first = draw_all(record(results()), tmp_path / "first")
    second = draw_all(record(results()), tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_everybody_has_a_look_of_their_own() -> None:
    assert list(STYLES) == list(CONTENDERS)
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)


def test_what_is_drawn_is_what_is_measured() -> None:
    for name in ("held", "cycle-held", "contended", "fairness", "spike"):
        assert scenarios.find(name)


def test_without_matplotlib_it_says_so_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib here')")
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--plot", tmp_path / "plots"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert "--plot needs the extra [bench]: no matplotlib here" in run.stderr
