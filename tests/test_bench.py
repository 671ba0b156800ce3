"""The benchmark runs and says what it measured; what it measures is no matter of a test."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is not there")

HAS_EXTENSION = importlib.util.find_spec("aiowebsocketclient._pool") is not None


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def measured(*arguments: str) -> Any:
    run = bench("--quick", "--json", *arguments)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def quick() -> Any:
    return measured("--impl", "both" if HAS_EXTENSION else "py")


CONTENDERS = ("c", "py") if HAS_EXTENSION else ("py",)


def test_every_scenario_on_every_core(quick: Any) -> None:
    rows = [(result["scenario"], result["contender"]) for result in quick["results"]]
    scenarios = ("floor", "core", "cycle", "async-with")
    assert rows == [(s, c) for s in scenarios for c in CONTENDERS]


def test_cores_are_those_of_the_package_under_test(quick: Any) -> None:
    about = quick["environment"]["contenders"]
    assert tuple(about) == CONTENDERS
    for contender in CONTENDERS:
        assert about[contender]["implementation"] == contender
        assert Path(about[contender]["path"]).samefile(aiowebsocketclient.__file__)


def test_numbers_belong_together(quick: Any) -> None:
    assert quick["rounds"] == 3
    for result in quick["results"]:
        assert len(result["samples"]) == 3
        ratios = [ns / floor_ns for ns, floor_ns in result["samples"]]
        assert all(0 < ratio < math.inf for ratio in ratios)
        ratio = result["ratio"]
        spread = ("min", "lower_quartile", "median", "upper_quartile", "max")
        assert [ratio[name] for name in spread] == sorted(ratio.values())
        assert ratio["median"] == sorted(ratios)[1]
        assert result["ns"] == sorted(ns for ns, _ in result["samples"])[1]


def test_header_names_versions_and_machine(quick: Any) -> None:
    environment = quick["environment"]
    assert environment["python"].endswith(sys.version.split()[0])
    assert {"aiohttp", "system", "cpu", "cores"} <= environment.keys()
    if HAS_EXTENSION:
        assert environment["contenders"]["c"]["cython"].startswith("3.")


def test_only_what_was_asked_for() -> None:
    chosen = measured("--impl", "py", "--scenario", "core", "--scenario", "floor", "--rounds", "1")
    rows = [(result["scenario"], result["contender"]) for result in chosen["results"]]
    assert rows == [("floor", "py"), ("core", "py")]
    assert all(len(result["samples"]) == 1 for result in chosen["results"])


def test_text_has_a_line_for_each() -> None:
    run = bench("--quick", "--impl", "py", "--scenario", "core")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].split()[:2] == ["core", "py"]
    assert "IMPLEMENTATION 'py'" in run.stdout


@pytest.mark.skipif(HAS_EXTENSION, reason="both cores are there")
def test_missing_core_is_an_error() -> None:
    run = bench("--quick", "--impl", "c")
    assert run.returncode == 1
    assert "--impl py" in run.stderr


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--impl", "go"), ("--scenario", "x")])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    assert bench(*arguments).returncode == 2
