"""How many instructions a cycle takes may not grow; and how that is found out.

``make instructions`` prints the numbers, and renews what they are held against.
"""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import aiowebsocketclient

from .instructions import comparison, reference
from .instructions.callgrind import (
    Count,
    Counted,
    CountError,
    count,
    instructions_by_object,
    per_cycle,
)
from .instructions.comparison import RENEW, Comparison, compare
from .instructions.reference import NoSourceError, Reference


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.skipif(aiowebsocketclient.IMPLEMENTATION != "c", reason="nothing is compiled")
@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_no_cycle_takes_more_instructions_than_it_did() -> None:
    counted = count()
    assert counted.package == aiowebsocketclient.__file__
    compared = compare(counted, Reference.kept())
    assert not compared.grown(), f"\n{compared}"


# -- what callgrind writes -----------------------------------------------------------------------

# Two parts; a name is given once, and an object calls another, whose costs are its own.
WRITTEN = """\
version: 1
events: Ir
part: 1
ob=(1) /lib/python
fl=(1) ceval.c
fn=(1) eval
16 100
+3 20
cob=(2) /lib/extension
cfn=(2) acquire
calls=5 0
16 7000
ob=(2)
fn=(2)
* 70
part: 2
ob=(2)
fn=(2)
-4 3
cob=(1)
cfn=(1)
calls=1 16
+1 9000
ob=(1)
fn=(1)
16 1
totals: 4
"""


def test_instructions_go_to_the_object_that_has_them() -> None:
    first, second = instructions_by_object(WRITTEN.splitlines(keepends=True))
    assert first == {"/lib/python": 120, "/lib/extension": 70}
    assert second == {"/lib/python": 1, "/lib/extension": 3}


def test_a_cycle_is_the_middle_block_without_what_is_around() -> None:
    blocks = [("core", 0), ("core", 10), ("core", 10), ("core", 10)]
    between = Counter(python=10**6)
    inside = [Counter(python=7), *(Counter(python=n, ours=50) for n in (107, 5000, 117))]
    parts = [between]
    for part in inside:
        parts += [part, between]
    assert per_cycle(blocks, parts, "ours") == {"core": Count(16.0, 5.0)}


def test_a_mark_too_many_is_an_error() -> None:
    with pytest.raises(CountError, match="4 parts for 1 blocks"):
        per_cycle([("core", 0)], [Counter()] * 4, "ours")


# -- growth --------------------------------------------------------------------------------------


def counts(**instructions: float) -> dict[str, Count]:
    return {loop: Count(number, 0.0) for loop, number in instructions.items()}


KEPT = counts(floor=100, core=1000, cycle=5000)


@pytest.mark.parametrize(
    ("here", "grown"),
    [
        (KEPT, []),
        (counts(floor=100, core=1050, cycle=5250), []),
        (counts(floor=100, core=1051, cycle=5000), ["core"]),
        (counts(floor=100, core=900, cycle=5251), ["cycle"]),
        # No growth of ours.
        (counts(floor=200, core=1000, cycle=5000), []),
    ],
)
def test_more_than_five_percent_is_growth(here: dict[str, Count], grown: list[str]) -> None:
    assert Comparison(here, KEPT, comparison.SAME, "").grown() == grown


def test_it_says_both_numbers_and_what_to_do() -> None:
    said = str(Comparison(counts(floor=100, core=1234, cycle=5000), KEPT, 1.05, "those of May"))
    assert "FAILED: core takes 1,234 instructions, the reference 1,000" in said
    assert "+23.4%" in said
    assert RENEW in said
    assert "those of May" in said


def test_less_is_no_failure_but_worth_keeping() -> None:
    compared = Comparison(counts(floor=100, core=800, cycle=5000), KEPT, 1.05, "")
    assert not compared.grown()
    assert f"Less than it was: core. To hold on to it: {RENEW}" in str(compared)


# -- what counts are held against ----------------------------------------------------------------

HERE = {"python": "3.14", "aiohttp": "4"}


def grown_here(kept: Reference, **instructions: float) -> list[str]:
    return compare(Counted(counts(**instructions), HERE, ""), kept).grown()


def test_a_loop_that_is_new_is_shown_and_not_held_against_anything() -> None:
    here = {"floor": Count(10.0, 0.0), "core": Count(11.0, 1.0), "other": Count(99.0, 9.0)}
    known = {"floor": Count(10.0, 0.0), "core": Count(11.0, 1.0)}
    comparison = Comparison(here, known, 1.05, "these")
    assert not comparison.grown()
    assert not comparison.shrunk()
    assert re.search(r"^other +99 +new$", str(comparison), re.M)


def test_the_kept_numbers_where_they_were_made() -> None:
    kept = Reference(KEPT, HERE, None)
    assert grown_here(kept, floor=100, core=1060, cycle=5000) == ["core"]


def test_the_references_source_on_another_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(source: str, directory: Path) -> Path:
        built.append(source)
        return directory

    def count(package: Path) -> Counted:
        return Counted(counts(floor=120, core=1500, cycle=9000), HERE, str(package))

    monkeypatch.setattr(comparison, "build", build)
    monkeypatch.setattr(comparison, "count", count)
    kept = Reference(KEPT, HERE | {"python": "3.11"}, "a1b2")
    # The same source takes that much here, so nothing has grown.
    assert not grown_here(kept, floor=120, core=1500, cycle=9000)
    assert grown_here(kept, floor=120, core=1600, cycle=9000) == ["core"]
    assert built == ["a1b2", "a1b2"]


@pytest.mark.parametrize("source", [None, "0" * 40])
def test_twice_the_kept_numbers_where_there_is_no_source(source: str | None) -> None:
    kept = Reference(KEPT, HERE | {"aiohttp": "3"}, source)
    assert not grown_here(kept, floor=120, core=1500, cycle=9000)
    assert grown_here(kept, floor=120, core=1500, cycle=10_001) == ["cycle"]


def test_what_differs_is_named() -> None:
    kept = Reference(KEPT, {"python": "3.11", "aiohttp": "4", "libc": "2.36"}, None)
    assert kept.differences(HERE) == ["python", "libc"]


def test_a_reference_is_kept_as_it_is(tmp_path: Path) -> None:
    kept = Reference(KEPT, HERE, "a1b2")
    kept.keep(tmp_path / "kept.json")
    assert Reference.kept(tmp_path / "kept.json") == kept


def test_the_one_that_is_kept_has_every_loop() -> None:
    kept = Reference.kept()
    loops = ["floor", "core", "core-queued", "cycle", "async-with", "options", "queued"]
    assert list(kept.counts) == loops
    assert kept.source is not None
    assert {"python", "aiohttp", "yarl", "multidict", "cython", "compiler"} <= set(kept.environment)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_keeps_the_source_as_it_is_before_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / reference.PACKAGE
    package.mkdir()
    (package / "_pool.pyx").write_text("now")
    (tmp_path / "elsewhere").write_text("no part of it")
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    source = reference.reference_of(Counted(KEPT, HERE, "")).source
    assert source is not None
    assert git(tmp_path, "ls-tree", "--name-only", source) == "_pool.pyx\n"
    assert git(tmp_path, "show", f"{source}:_pool.pyx") == "now"
    # Nothing of it is to be seen.
    assert git(tmp_path, "status", "--porcelain") == "?? aiowebsocketclient/\n?? elsewhere\n"


def test_no_source_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSourceError, match="git is not installed"):
        reference.build("a1b2", tmp_path)


def git(directory: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, text=True
    )
    return run.stdout
