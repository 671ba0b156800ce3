"""What ``--quick`` concludes from samples that are made up here; nothing is timed."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .benchmark import ROOT

# isort: split
from bench import bounds
from bench.bounds import BOUNDS, Bound
from bench.report import Result, Run, as_json, interval
from bench.saved import Record
from bench.verdict import MOST, Judgement

ENVIRONMENT: dict[str, Any] = {
    "python": "CPython 3.13.0",
    "aiohttp": "3.14.5",
    "system": "Linux",
    "cpu": "one",
    "cores": 2,
    "contenders": {"c": {"about": "this library", "versions": {}}},
    "left_out": {},
}

CYCLE = next(bound for bound in BOUNDS if bound.reading.scenario == "cycle" and bound.at_most == 5)
MEMORY = next(bound for bound in BOUNDS if bound.reading.scenario == "memory")

#: Ratios to the floor, and the bound is 5.
FAST, SLOW = [4.0, 4.1, 4.2] * 3, [6.0, 6.1, 6.2] * 3
NOISE = [3.0, 5.2, 9.0] * 3


def cycle(ratios: Sequence[float], contender: str = "c") -> Result:
    samples = [{"ns": 100 * ratio, "floor_ns": 100.0} for ratio in ratios]
    return Result("cycle", "", 0, contender, samples)


def record(*results: Result) -> Record:
    return Record(dict(ENVIRONMENT), Run(9, 0.02, smoke=False), list(results))


def judged(*times: Sequence[float]) -> Judgement:
    """Return what is concluded if a cycle is measured once or several times."""
    first, *others = times
    judgement = Judgement(record(cycle(first)))
    for again in others:
        assert "cycle" in judgement.suspects()
        judgement.measured_again([cycle(again)])
    return judgement


def line(judgement: Judgement, bound: Bound = CYCLE) -> str:
    return next(text for text in str(judgement).splitlines() if bound.what in text)


def verdict(judgement: Judgement) -> str:
    return str(judgement).splitlines()[-1]


# -- where the median is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "lowest"),
    # As in the tables of the sign test: 1 - 2 * P(fewer than so many of n below the median).
    [(6, 1), (8, 1), (9, 2), (15, 4), (20, 6), (25, 8), (31, 10)],
)
def test_interval_is_that_of_the_sign_test(rounds: int, lowest: int) -> None:
    numbers = [float(number) for number in range(1, rounds + 1)]
    assert interval(numbers[::-1]) == (lowest, rounds + 1 - lowest)


def test_interval_of_few_rounds_is_wider_than_their_range() -> None:
    assert interval([1.0]) is interval([1.0, 1.0]) is None
    assert interval([2.0, 1.0, 3.0]) == (-1, 5)
    assert interval([6.0] * 3) == (6, 6)


def test_a_few_outliers_do_not_matter() -> None:
    assert interval([*[4.0] * 12, 50.0, 60.0, 70.0]) == (4, 4)


# -- bounds --------------------------------------------------------------------------------------


def test_fast_enough() -> None:
    judgement = judged(FAST)
    assert line(judgement).startswith("as fast ")
    # In µs and in floors.
    assert re.search(r" <= 5 +0\.41 +4\.1 \(4 - 4\.2\)$", line(judgement))
    assert not judgement.is_slower
    assert not judgement.suspects()


def test_too_slow() -> None:
    judgement = judged(SLOW, SLOW)
    assert line(judgement).startswith("SLOWER ")
    assert line(judgement).endswith("6.1 (6 - 6.2), then 6.1 (6 - 6.2)")
    assert judgement.is_slower
    assert not judgement.suspects()
    assert verdict(judgement) == "VERDICT: SLOWER OR WORSE than 1 of 1 bounds"


def test_too_noisy() -> None:
    judgement = judged(NOISE, NOISE, NOISE)
    assert line(judgement).startswith("cannot tell ")
    assert not judgement.is_slower
    # Three times are enough.
    assert len((NOISE,) * 3) == MOST
    assert not judgement.suspects()
    assert verdict(judgement) == (
        "VERDICT: nothing is slower or worse; 1 cannot be told from noise"
    )


@pytest.mark.parametrize(
    ("times", "mark"),
    [
        ([NOISE, FAST], "as fast"),
        ([NOISE, NOISE, FAST], "as fast"),
        ([NOISE, SLOW, SLOW], "SLOWER"),
        ([SLOW, NOISE, SLOW], "SLOWER"),
        # Once may have been a neighbour.
        ([NOISE, SLOW, NOISE], "cannot tell"),
        ([SLOW, NOISE, NOISE], "cannot tell"),
        ([SLOW, FAST], "cannot tell"),
        # There was no time for more.
        ([SLOW], "SLOWER"),
        ([NOISE], "cannot tell"),
    ],
)
def test_what_is_not_met_is_measured_again(times: list[list[float]], mark: str) -> None:
    judgement = judged(*times)
    assert line(judgement).startswith(f"{mark} ")
    assert judgement.is_slower is (mark == "SLOWER")


def test_what_is_settled_is_not_measured_again() -> None:
    judgement = judged(FAST)
    judgement.measured_again([cycle(SLOW)])
    assert line(judgement).startswith("as fast ")


def test_again_with_too_few_rounds_does_not_count() -> None:
    judgement = judged(SLOW, SLOW[:2])
    assert line(judgement).startswith("SLOWER ")
    assert "then" not in line(judgement)


def test_what_was_not_measured_is_not_called_fast() -> None:
    judgement = judged(FAST)
    assert line(judgement, MEMORY).startswith("  ")
    assert line(judgement, MEMORY).endswith("not measured")
    left_out = Result("cycle", "", 0, "c", left_out="the time was up")
    nothing = Judgement(record(left_out))
    assert line(nothing).endswith("not measured")
    assert not nothing.suspects()
    assert not nothing.is_slower
    assert verdict(nothing).startswith("VERDICT: none, because nothing was measured")


def test_bounds_are_not_of_the_pure_core() -> None:
    judgement = Judgement(record(cycle(SLOW, "py")))
    assert line(judgement).startswith("  ")
    assert "6.1 (6 - 6.2)" in line(judgement)
    assert not judgement.is_slower
    assert not judgement.suspects()
    # But the pure core is compared with a saved run.
    judgement = Judgement(record(cycle(SLOW, "py")), record(cycle(FAST, "py")))
    assert judgement.suspects() == ["cycle"]
    assert judgement.is_slower


def test_what_takes_no_time_is_worse_instead_of_slower() -> None:
    def memory(size: float) -> Result:
        samples = [{"bytes_per_connection": size}] * 3
        return Result("memory", "connections", 1000, "c", samples)

    judgement = Judgement(record(memory(8_500.0)))
    assert judgement.suspects() == ["memory"]
    assert line(judgement, MEMORY).startswith("WORSE ")
    judgement = Judgement(record(memory(7_500.0)))
    assert line(judgement, MEMORY).startswith("as good ")


def test_all_that_the_bounds_are_about_is_measured() -> None:
    places = bounds.places("c")
    for bound in BOUNDS:
        for reading in bound.readings:
            assert reading.place("c") in places
    # And no more: not even the pure core, but for the bound that names it.
    assert {place for place in places if place[2] == "py"} == {("core", 0, "py")}
    # The pure core has no bounds, but is compared with a saved run.
    assert ("cycle", 0, "py") in bounds.places("py")
    assert ("cycle", 0, "c") not in bounds.places("py")


# -- beside a saved run --------------------------------------------------------------------------


def beside(old: Sequence[float], *times: Sequence[float]) -> Judgement:
    first, *others = times
    judgement = Judgement(record(cycle(first)), record(cycle(old)))
    for again in others:
        assert judgement.suspects() == ["cycle"]
        judgement.measured_again([cycle(again)])
    return judgement


def marks(judgement: Judgement) -> list[str]:
    """Return the verdicts on a cycle by its bound and beside the saved run."""
    return [line(judgement)[:13].strip(), line(judgement)[13:26].strip()]


def test_slower_than_the_saved_run_although_the_bound_is_met() -> None:
    judgement = beside([3.0] * 9, FAST, FAST)
    assert marks(judgement) == ["as fast", "SLOWER"]
    assert line(judgement).endswith("4.1 (4 - 4.2), then 4.1 (4 - 4.2); saved 3 (3 - 3)")
    assert judgement.is_slower
    assert not judgement.suspects()
    said = "VERDICT: SLOWER OR WORSE than 1 of 1 numbers of the saved run"
    assert verdict(judgement) == said


def test_slower_than_the_saved_run_only_once() -> None:
    judgement = beside([3.0] * 9, FAST, [3.0] * 9)
    assert marks(judgement) == ["as fast", "cannot tell"]
    assert not judgement.is_slower
    assert verdict(judgement) == "VERDICT: nothing is slower or worse; 1 cannot be told from noise"


def test_as_fast_as_the_saved_run() -> None:
    judgement = beside(FAST, FAST)
    assert marks(judgement) == ["as fast", "as fast"]
    assert not judgement.suspects()
    assert verdict(judgement) == "VERDICT: nothing is slower or worse"


def test_faster_than_the_saved_run() -> None:
    assert marks(beside(SLOW, FAST)) == ["as fast", "as fast"]


def test_as_slow_as_the_saved_run() -> None:
    judgement = beside(SLOW, SLOW, SLOW)
    assert marks(judgement) == ["SLOWER", "as fast"]
    assert verdict(judgement) == "VERDICT: SLOWER OR WORSE than 1 of 1 bounds"


def test_slower_than_both() -> None:
    judgement = beside(FAST, SLOW, SLOW)
    assert marks(judgement) == ["SLOWER", "SLOWER"]
    said = "SLOWER OR WORSE than 1 of 1 bounds and 1 of 1 numbers of the saved run"
    assert verdict(judgement) == f"VERDICT: {said}"


def test_a_noisy_saved_run_tells_nothing() -> None:
    judgement = beside(NOISE, FAST, FAST, FAST)
    assert marks(judgement) == ["as fast", "cannot tell"]
    assert not judgement.suspects()


def test_what_the_saved_run_does_not_have_is_not_compared() -> None:
    judgement = Judgement(record(cycle(SLOW)), record())
    assert marks(judgement) == ["SLOWER", ""]
    assert "saved" not in line(judgement)


def test_more_is_better_for_what_has_to_be_at_least_so_much() -> None:
    """The algorithm of 2015 takes at least seven times as long."""
    bound = next(bound for bound in BOUNDS if bound.what == "2015 algorithm / ours, idle")

    def judged(times: float) -> Judgement:
        now, before = ([cycle([4.0] * 9), cycle([4.0 * n] * 9, "2015")] for n in (times, 10))
        return Judgement(record(*now), record(*before))

    for times, expected in ((10, ["as fast", "as fast"]), (8, ["as fast", "SLOWER"])):
        said = line(judged(times), bound)
        assert [said[:13].strip(), said[13:26].strip()] == expected


def test_differences_of_the_runs_are_said() -> None:
    old = record(cycle(FAST))
    old.environment["cpu"] = "another"
    said = str(Judgement(record(cycle(FAST)), old))
    assert said.startswith("different: cpu was another, is now one\n")


def test_yardsticks_are_not_judged() -> None:
    judgement = judged(FAST)
    assert "dict of deques" not in str(judgement)
    # What has no bound is, beside a saved run.
    assert "queued, two callers in turn / Semaphore" in str(judgement)


# -- the command line ----------------------------------------------------------------------------


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def saved(path: Path, ratios: Sequence[float]) -> Path:
    path.write_text(json.dumps(as_json(*record(cycle(ratios)), [])))
    return path


@pytest.mark.parametrize(
    ("ratios", "code", "short"),
    [
        (FAST, 0, "nothing is slower or worse"),
        (NOISE, 0, "nothing is slower or worse; 1 cannot be told from noise"),
        (SLOW, 1, "SLOWER OR WORSE than 1 of 1 bounds"),
    ],
)
def test_exit_status_is_that_of_the_verdict(
    tmp_path: Path, ratios: list[float], code: int, short: str
) -> None:
    run = bench("--quick", "--from", saved(tmp_path / "run.json", ratios))
    assert run.returncode == code, run.stderr
    assert run.stdout.splitlines()[-1] == f"VERDICT: {short}"


def test_exit_status_is_that_of_the_comparison(tmp_path: Path) -> None:
    old, new = saved(tmp_path / "old.json", [3.0] * 9), saved(tmp_path / "new.json", FAST)
    run = bench("--quick", "--from", new, "--compare", old)
    assert run.returncode == 1, run.stderr
    assert run.stdout.splitlines()[-1].endswith("than 1 of 1 numbers of the saved run")


def test_bounds_alone_are_no_failure(tmp_path: Path) -> None:
    """Without ``--quick``, as when figures are measured."""
    run = bench("--from", saved(tmp_path / "run.json", SLOW))
    assert run.returncode == 0, run.stderr
    assert "MISSED" in run.stdout
    assert "VERDICT" not in run.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_measures_and_concludes(tmp_path: Path) -> None:
    """Measured here and now, too short to tell anything; what it says is no matter of a test."""
    what = [f"--scenario={name}" for name in ("core", "cycle", "contended", "spike")]
    file = tmp_path / "run.json"
    run = bench("--quick", "--smoke", "--rounds", "3", *what, "--json", file)
    *_, last = run.stdout.splitlines()
    assert last.startswith("VERDICT: "), run.stderr
    assert run.returncode == ("SLOWER" in last), run.stderr
    told = json.loads(file.read_text())
    found = {(result["scenario"], result["contender"]) for result in told["results"]}
    core = "c" if "c" in told["environment"]["contenders"] else "py"
    places = {(scenario, contender) for scenario, _, contender in bounds.places(core)}
    assert found == {place for place in places if f"--scenario={place[0]}" in what}
