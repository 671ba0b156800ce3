"""``--python`` of the benchmark: which Pythons are found, made ready and measured."""

import argparse
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import pythons as finder
from .benchmark import ROOT

# isort: split
import bench.pythons
from bench.__main__ import _parser
from bench.processes import BenchError, Worker
from bench.tables import places_of_pythons

HAS_EXTENSION = importlib.util.find_spec("aiowebsocketclient._pool") is not None


def script(path: Path, before: str = "") -> Path:
    """Make an interpreter that is a script, as for one in a container."""
    path.write_text(f'#!/bin/sh\n{before}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


# -- what is there -------------------------------------------------------------------------------


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    there = script(tmp_path / "python3.99")
    assert bench.pythons.interpreter(str(there)) == str(there)
    assert bench.pythons.interpreter(str(tmp_path / "nowhere")) is None


def test_a_version_that_is_not_there() -> None:
    assert bench.pythons.interpreter("2.99") is None


class Environments:
    """Stands for virtual environments, and counts those that are made."""

    def __init__(self) -> None:
        self.made: list[tuple[Path, str]] = []
        self.error: Exception | None = None

    def __call__(self, path: Path, executable: str) -> "Environments":
        path.mkdir(parents=True, exist_ok=True)
        self.made.append((path, executable))
        return self

    def pip(self, *arguments: str) -> None:
        assert arguments == ("install", ".")
        if self.error:
            raise self.error


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environments:
    """Let a checkout be in ``tmp_path``."""
    made = Environments()
    (tmp_path / "aiowebsocketclient").mkdir()
    for name in ("setup.py", "pyproject.toml", "aiowebsocketclient/_core.py"):
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(bench.pythons, "ROOT", tmp_path)
    monkeypatch.setattr(bench.pythons, "Environment", made)
    monkeypatch.setattr(bench.pythons, "find", lambda version: f"/usr/bin/python{version}")
    return made


@pytest.mark.parametrize("changed", ["setup.py", "aiowebsocketclient/_core.py"])
def test_the_package_is_built_for_each_python_once(
    environments: Environments, tmp_path: Path, changed: str
) -> None:
    found = [bench.pythons.interpreter(version) for version in ("3.11", "3.13", "3.11", "3.13")]
    paths = [tmp_path / ".venv" / f"pythons-{version}" for version in ("3.11", "3.13")]
    assert found == [str(path / "bin" / "python") for path in paths] * 2
    assert environments.made == [
        (paths[0], "/usr/bin/python3.11"),
        (paths[1], "/usr/bin/python3.13"),
    ]
    # And again if anything has changed.
    (tmp_path / changed).write_text("afterwards")
    bench.pythons.interpreter("3.13")
    assert environments.made[2:] == [(paths[1], "/usr/bin/python3.13")]


def test_a_build_that_fails_is_an_error_and_is_tried_again(environments: Environments) -> None:
    environments.error = subprocess.CalledProcessError(1, "pip")
    for _ in range(2):
        with pytest.raises(BenchError, match=r"cannot be installed for 3\.13"):
            bench.pythons.interpreter("3.13")
    assert len(environments.made) == 2


def test_the_pages_show_the_newest_python(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"3.11", "3.12", "3.13", "3.14"}
    monkeypatch.setattr(finder, "find", lambda version: version if version in there else None)
    assert finder.newest() == "3.14"
    there -= {"3.14"}
    assert finder.newest() == "3.13"
    # Older ones are not shown.
    there -= {"3.13"}
    assert finder.newest() is None


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
@pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="not in a checkout")
def test_figures_are_measured_here_and_in_each_python_and_then_written() -> None:
    def commands(*variables: str) -> list[argparse.Namespace]:
        command = ["make", "-n", "figures", f"PYTHON={sys.executable}", *variables]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        lines = said.replace("\\\n", "").splitlines()
        calls = [line.split(" -m bench ")[1] for line in lines if " -m bench " in line]
        # Which ends this process if an option is wrong.
        return [_parser().parse_args(shlex.split(call)) for call in calls]

    here, others, written = commands()
    assert here.shown
    assert others.python == ["3.11", "3.13", "3.14", "3.15"]
    assert [str(path) for path in written.measured] == [here.json, others.json]
    # Within 12 minutes, with what is installed before.
    assert here.minutes + others.minutes <= 11
    (written,) = commands("RUNS=one.json other.json")
    assert [str(path) for path in written.measured] == ["one.json", "other.json"]
    assert commands("PYTHONS=3.13 /usr/bin/other")[1].python == ["3.13", "/usr/bin/other"]


# -- what is measured ----------------------------------------------------------------------------


def test_another_interpreter_says_what_it_is_and_gets_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = script(tmp_path / "python", f'echo "$PYTHONPATH" >"{tmp_path}/lent"')
    with Worker("floor", "http://127.0.0.1:1/", python=str(other)) as worker:
        worker.meet()
        assert worker.machine["python"].endswith(sys.version.split()[0])
    assert (tmp_path / "lent").read_text() == "\n"


def test_pythons_that_are_not_there_are_said(tmp_path: Path) -> None:
    ended = run("--python", "2.99", tmp_path / "python3.99", "--json")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "bench: 2.99 is not on this machine",
        f"bench: {tmp_path / 'python3.99'} is not on this machine",
        f"bench: there is none of these Pythons: 2.99, {tmp_path / 'python3.99'}",
    ]


@pytest.mark.parametrize("option", ["--quick", "--shown", "--impl=c", "--compare=x", "--from=x"])
def test_options_of_one_python(option: str) -> None:
    ended = run("--python", "3.13", option)
    assert ended.returncode == 2
    assert "--python only goes with" in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not HAS_EXTENSION, reason="the table is of the compiled core")
def test_two_pythons_side_by_side(tmp_path: Path) -> None:
    """Measured here and now, too short to tell anything; what it says is no matter of a test."""
    # The package is found from the directory that the benchmark is in, or is installed.
    pythons = [script(tmp_path / name) for name in ("python-one", "python-other")]
    file = tmp_path / "runs.json"
    options = ("--smoke", "--rounds", "2", "--json", file)
    ended = run("--python", pythons[0], "2.99", pythons[1], *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "bench: 2.99 is not on this machine\n"
    told: Any = json.loads(file.read_text())
    assert len(told) == 2
    wanted = {(scenario, contender) for scenario, _, contender in places_of_pythons()}
    for one in told:
        assert one["environment"]["python"].endswith(sys.version.split()[0])
        assert {(r["scenario"], r["contender"]) for r in one["results"]} == wanted
        assert all(len(result["samples"]) == 2 for result in one["results"])
    # Both are the same version, which has one row.
    head, row, *_ = ended.stdout.splitlines()
    assert head.startswith("Python ")
    assert row.startswith(told[0]["environment"]["python"])
