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


CORES = ("c", "py") if HAS_EXTENSION else ("py",)


@pytest.fixture(scope="module")
def quick() -> Any:
    return measured("--scenario", "core", "--scenario", "cycle")


def rows(run: Any) -> list[tuple[str, str]]:
    return [(result["scenario"], result["contender"]) for result in run["results"]]


def test_everybody_who_can_takes_part(quick: Any) -> None:
    assert rows(quick)[: len(CORES)] == [("core", core) for core in CORES]
    cycled = [contender for scenario, contender in rows(quick) if scenario == "cycle"]
    assert cycled[: len(CORES) + 3] == [*CORES, "floor", "semaphore", "queue"]


def test_cores_are_those_of_the_package_under_test(quick: Any) -> None:
    about = quick["environment"]["contenders"]
    for core in CORES:
        assert about[core]["implementation"] == core
        assert Path(about[core]["path"]).samefile(aiowebsocketclient.__file__)


def test_numbers_belong_together(quick: Any) -> None:
    assert quick["rounds"] == 3
    for result in quick["results"]:
        assert len(result["samples"]) == 3
        ratios = [sample["ns"] / sample["floor_ns"] for sample in result["samples"]]
        assert all(0 < ratio < math.inf for ratio in ratios)
        ratio = result["ratio"]
        spread = ("min", "lower_quartile", "median", "upper_quartile", "max")
        assert [ratio[name] for name in spread] == sorted(ratio.values())
        assert ratio["median"] == sorted(ratios)[1]
        ns = sorted(sample["ns"] for sample in result["samples"])
        assert result["metrics"]["ns"]["median"] == ns[1]


def test_header_names_versions_and_machine(quick: Any) -> None:
    environment = quick["environment"]
    assert environment["python"].endswith(sys.version.split()[0])
    assert {"aiohttp", "system", "cpu", "cores"} <= environment.keys()
    if HAS_EXTENSION:
        assert environment["contenders"]["c"]["cython"].startswith("3.")


def test_only_what_was_asked_for() -> None:
    chosen = measured(
        *("--impl", "py", "--impl", "floor", "--rounds", "1"),
        *("--scenario", "cycle", "--scenario", "core"),
    )
    assert rows(chosen) == [("core", "py"), ("cycle", "py"), ("cycle", "floor")]
    assert all(len(result["samples"]) == 1 for result in chosen["results"])


def test_text_has_a_line_for_each_and_json_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    run = bench("--quick", "--impl", "py", "--scenario", "core", "--json", str(file))
    assert run.returncode == 0, run.stderr
    assert "IMPLEMENTATION 'py'" in run.stdout
    lines = run.stdout.splitlines()
    assert lines[lines.index("core") + 1].split()[0] == "py"
    assert rows(json.loads(file.read_text())) == [("core", "py")]


def test_list_names_all() -> None:
    listing = bench("--list").stdout
    for name in ("c", "py", "floor", "core", "cycle"):
        assert f"\n  {name} " in listing


@pytest.mark.skipif(HAS_EXTENSION, reason="both cores are there")
def test_missing_core_is_an_error() -> None:
    run = bench("--quick", "--impl", "c")
    assert run.returncode == 1
    assert "--impl py" in run.stderr


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--impl", "go"), ("--scenario", "x")])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    assert bench(*arguments).returncode == 2
