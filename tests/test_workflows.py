"""What runs elsewhere is held to what can be known of it here."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .pythons import PYTHONS, ROOT, oldest

GITHUB = ROOT / ".github"

pytestmark = pytest.mark.skipif(not GITHUB.is_dir(), reason="not in a checkout")

yaml = pytest.importorskip("ruamel.yaml")

WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))

# Where programs are that were installed with this interpreter.
BIN = Path(sys.executable).parent
ZIZMOR = shutil.which("zizmor", path=BIN)


def workflow(name: str) -> Any:
    return yaml.YAML(typ="safe").load(GITHUB / "workflows" / f"{name}.yml")


def steps(name: str) -> list[dict[str, Any]]:
    jobs = workflow(name)["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [])]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: Any) -> str:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def module(*command: str | Path) -> str:
    return run(sys.executable, "-Im", *command)


# -- workflows -----------------------------------------------------------------------------------


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
    )


@needs("check_jsonschema")
@pytest.mark.slow
def test_they_are_what_github_takes() -> None:
    schema = ("check_jsonschema", "--builtin-schema")
    module(*schema, "vendor.github-workflows", *WORKFLOWS)
    module(*schema, "vendor.dependabot", GITHUB / "dependabot.yml")


@pytest.mark.skipif(ZIZMOR is None, reason="zizmor is not installed")
def test_they_are_no_way_in() -> None:
    run(ZIZMOR, "--offline", "--no-progress", GITHUB)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_is_permitted_but_to_single_jobs(path: Path) -> None:
    found = workflow(path.stem)
    assert found["permissions"] == {}
    writes = {
        (name, permission)
        for name, job in found["jobs"].items()
        for permission, level in job.get("permissions", {}).items()
        if level != "read"
    }
    expected = {("publish", "id-token"), ("announce", "contents")}
    assert writes == (expected if path.stem == "release" else set())


def test_what_is_published_was_tested_and_is_approved() -> None:
    jobs = workflow("release")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"tests", "wheels"}
    assert jobs["tests"]["needs"] == jobs["wheels"]["needs"] == "version"
    assert jobs["publish"]["environment"]["name"] == "pypi"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
@pytest.mark.parametrize(
    "command",
    [
        step["run"]
        for path in WORKFLOWS
        for step in steps(path.stem)
        if step.get("run", "").startswith("make ")
    ],
)
def test_make_knows_what_they_make(command: str) -> None:
    done = subprocess.run(
        [*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_python_is_tested_and_built_for() -> None:
    assert workflow("ci")["jobs"]["tests"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    builds = {f"cp{python.replace('.', '')}-*" for python in PYTHONS}
    assert set(pyproject()["tool"]["cibuildwheel"]["build"].split()) == builds


# -- a tag -----------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Return a directory that is ready for the release 1.2.0."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGES.rst").write_text("Changes\n=======\n\n1.2.0 (2030-01-01)\n")
    (tmp_path / "CHANGES").mkdir()
    (tmp_path / "CHANGES" / "README.rst").touch()
    return tmp_path


def check_tag(directory: Path, tag: str) -> tuple[bool, str]:
    script = workflow("release")["jobs"]["version"]["steps"][-1]["run"]
    # As GitHub runs it, with an interpreter by the name that is used there.
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=directory,
        env=os.environ | {"GITHUB_REF_NAME": tag, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return done.returncode == 0, done.stdout


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not there")


@bash
@pytest.mark.slow
def test_tag_of_what_was_prepared(prepared: Path) -> None:
    assert check_tag(prepared, "v1.2.0") == (True, "")


@bash
@pytest.mark.slow
def test_tag_of_another_version(prepared: Path) -> None:
    assert check_tag(prepared, "v1.2.1") == (False, "the tag is not v1.2.0\n")


@bash
@pytest.mark.slow
def test_tag_with_notes_left(prepared: Path) -> None:
    (prepared / "CHANGES" / "+more.feature.rst").touch()
    assert check_tag(prepared, "v1.2.0") == (False, "notes are left in CHANGES/\n")


@bash
@pytest.mark.slow
def test_tag_without_changes(prepared: Path) -> None:
    (prepared / "CHANGES.rst").write_text("Changes\n=======\n")
    assert check_tag(prepared, "v1.2.0") == (False, "CHANGES.rst has no 1.2.0\n")


# -- wheels ----------------------------------------------------------------------------------------


@needs("cibuildwheel")
@pytest.mark.parametrize(
    ("platform", "archs", "tags"),
    [
        ("linux", "x86_64,aarch64", ["manylinux", "musllinux"]),
        ("macos", "x86_64,arm64", ["macosx"]),
        ("windows", "AMD64", ["win"]),
    ],
)
def test_wheels_that_are_built(platform: str, archs: str, tags: list[str]) -> None:
    asks = ("--print-build-identifiers", "--platform", platform, "--archs", archs)
    built = re.findall(r"^cp.*$", module("cibuildwheel", *asks), re.MULTILINE)
    assert sorted(built) == sorted(
        f"cp{python.replace('.', '')}-{tag}_{arch.lower()}"
        for python in PYTHONS
        for tag in tags
        for arch in archs.split(",")
    )


def test_what_wheels_are_tested_by_is_there() -> None:
    config = pyproject()["tool"]["cibuildwheel"]
    for path in config["test-sources"]:
        assert (ROOT / path).exists()
    (listed,) = [word[1:] for word in config["test-command"].split() if word.startswith("@")]
    for path in (ROOT / listed).read_text().splitlines():
        assert (ROOT / path).is_file(), path
    assert set(config["test-groups"]) <= set(pyproject()["dependency-groups"])


def test_the_oldest_aiohttp_is_tested() -> None:
    pinned = set(re.findall(r"aiohttp==([\d.*]+)", (ROOT / ".github/workflows/ci.yml").read_text()))
    assert pinned == {oldest("aiohttp")}
