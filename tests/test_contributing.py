"""What CONTRIBUTING.rst names is there; its blocks of code are a matter of ``test_pages.py``."""

import re
import shlex
import shutil
import subprocess
import tomllib

import pytest

from .pages import ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.rst"

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="not in a checkout")

docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")

DOCUMENT = docutils_core.publish_doctree(
    CONTRIBUTING.read_text() if CONTRIBUTING.is_file() else "",
    # A warning is an error.
    settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"},
)

COMMANDS = [
    shlex.split(line)
    for block in DOCUMENT.findall(docutils_nodes.literal_block)
    for line in block.astext().splitlines()
]
NAMES = [node.astext() for node in DOCUMENT.findall(docutils_nodes.literal)]


def test_files_are_there() -> None:
    named = {name for name in NAMES if "/" in name or re.search(r"\.(md|rst|toml)$", name)}
    named |= {word for command in COMMANDS for word in command if word.startswith("tests/")}
    assert named > {"CHANGES/", "SECURITY.md", "tests/model.py", "tests/test_limits.py"}
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
def test_targets_are_there() -> None:
    targets = {shlex.split(name)[1] for name in NAMES if name.startswith("make ")}
    assert targets > {"lint", "matrix", "wheels"}
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
def test_slow_tests_and_the_others_are_all() -> None:
    """What differs between the two targets is which side of the marker they run."""
    said = subprocess.run(
        ["make", "-n", "test", "test-slow"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", "")
    runs = [shlex.split(line) for line in said.splitlines() if "/pytest " in line]
    for core in ("c", "py"):
        fast, slow = [run for run in runs if run[run.index("--impl") + 1] == core]
        assert (fast[-2:], slow[-2:]) == (["-m", "not slow"], ["-m", "slow"])
        assert fast[:-2] == slow[:-2]
    assert "make --keep-going test test-slow" in (ROOT / ".ci" / "run").read_text()


def test_groups_are_there() -> None:
    groups = {command[command.index("--group") + 1] for command in COMMANDS if "--group" in command}
    assert groups
    assert (
        groups <= tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].keys()
    )
