"""Change notes: towncrier takes them all, and makes of them what can be read."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHANGES = ROOT / "CHANGES"

pytestmark = pytest.mark.skipif(not CHANGES.is_dir(), reason="not in a checkout")

pytest.importorskip("towncrier")
docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")


def kinds() -> list[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    return [kind["directory"] for kind in config["type"]]


def fragments() -> list[Path]:
    return [path for path in sorted(CHANGES.iterdir()) if path.name != "README.rst"]


def towncrier(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-Im", "towncrier", "build", "--version", "9.9.9", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def sections(text: str) -> dict[str, list[str]]:
    """Return what is listed under each heading of the last level; a warning is an error."""
    document = docutils_core.publish_doctree(
        text, settings_overrides={"halt_level": 2, "report_level": 2}
    )
    return {
        section[0].astext(): [item.astext() for item in section.findall(docutils_nodes.list_item)]
        for section in document.findall(docutils_nodes.section)
        if not list(section.findall(docutils_nodes.section))[1:]
    }


def test_each_has_a_name_that_towncrier_takes() -> None:
    # It leaves out what it does not know, and says nothing.
    name = re.compile(rf"(\+[\w-]+|\d+)\.({'|'.join(kinds())})(\.\d+)?\.rst")
    assert [path.name for path in fragments() if not name.fullmatch(path.name)] == []


def test_each_is_a_short_text() -> None:
    for path in fragments():
        text = path.read_text(encoding="utf-8")
        assert text.strip(), path
        assert max(map(len, text.splitlines())) <= 100, path
        assert len(text.split()) <= 100, path


def test_the_kinds_are_explained() -> None:
    explained = re.findall(r"^``(\w+)``$", (CHANGES / "README.rst").read_text(), re.MULTILINE)
    assert explained == kinds()


def test_draft_holds_them_all_and_changes_nothing() -> None:
    before = {path: path.read_bytes() for path in [ROOT / "CHANGES.rst", *fragments()]}
    draft = towncrier("--draft", cwd=ROOT)
    draft = draft[draft.index("9.9.9") :]
    listed = " ".join(draft.split())
    for path in before.keys() - {ROOT / "CHANGES.rst"}:
        assert " ".join(path.read_text(encoding="utf-8").split()) in listed, path
    assert sum(map(len, sections(draft).values())) == len(fragments())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not there")
def test_releases_go_one_above_the_other(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "CHANGES.rst", tmp_path)
    (tmp_path / "CHANGES").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for version, kind, text in (
        ("9.9.8", "bugfix", "Mended ``release()``."),
        ("9.9.9", "feature", "Added *emphasis*."),
    ):
        (tmp_path / "CHANGES" / f"+one.{kind}.rst").write_text(text)
        towncrier("--yes", "--version", version, "--date", "2030-01-01", cwd=tmp_path)
        assert list((tmp_path / "CHANGES").iterdir()) == []
    changes = (tmp_path / "CHANGES.rst").read_text(encoding="utf-8")
    assert changes.startswith((ROOT / "CHANGES.rst").read_text(encoding="utf-8").rstrip())
    assert changes.index("9.9.9 (2030-01-01)") < changes.index("9.9.8 (2030-01-01)")
    assert sections(changes)["Features"] == ["Added emphasis."]
    assert sections(changes)["Bug fixes"] == ["Mended release()."]
