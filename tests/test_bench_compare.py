"""What ``--compare`` marks in two runs, and what it lets pass; nothing is timed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .benchmark import ROOT

# isort: split
from bench.compare import Comparison
from bench.report import Result, Run, as_json
from bench.saved import Record, SavedError, load

ENVIRONMENT: dict[str, Any] = {
    "python": "CPython 3.11.7",
    "aiohttp": "3.14.5",
    "system": "Linux",
    "cpu": "one",
    "cores": 2,
    "contenders": {
        "c": {"about": "this library", "versions": {}},
        "psycopg_pool": {"about": "another", "versions": {"psycopg-pool": "3.3.3"}},
    },
    "left_out": {},
}

#: Ratios to the floor whose quartiles are 9 and 11.
SPREAD = (7.0, 8.0, 9.0, 9.5, 10.0, 10.5, 11.0, 12.0, 13.0)
#: The median of the same is between 9.8 and 10.2.
CALM = (9.6, 9.8, 9.9, 9.95, 10.0, 10.05, 10.1, 10.2, 10.4)


def record(*results: Result, **environment: Any) -> Record:
    return Record(ENVIRONMENT | environment, Run(9, 0.02, smoke=False), list(results))


def timed(ratios: Sequence[float], contender: str = "c", scenario: str = "core") -> Result:
    samples = [{"ns": 50 * ratio, "floor_ns": 50.0} for ratio in ratios]
    return Result(scenario, "", 0, contender, samples)


def other(metric: str, values: Sequence[float], contender: str = "c") -> Result:
    return Result("fairness", "", 0, contender, [{metric: value} for value in values])


def times(factor: float) -> list[float]:
    return [factor * ratio for ratio in SPREAD]


def compared(old: Result, new: Result) -> Comparison:
    return Comparison(record(old), record(new))


def marks(comparison: Comparison) -> list[str]:
    """Return what stands behind the number and its unit, which is followed by the time."""
    lines = [line for line in str(comparison).splitlines() if "%" in line]
    return [line.partition(" µs")[2].strip() for line in lines]


# -- what is slower ------------------------------------------------------------------------------


def test_what_is_as_it_was_is_not_marked() -> None:
    comparison = compared(timed(CALM), timed(CALM))
    assert not comparison.slower
    assert not comparison.untold
    assert marks(comparison) == [""]


@pytest.mark.parametrize("factor", [0.97, 1.03, 1.06])
def test_what_is_within_the_spread_is_not_marked(factor: float) -> None:
    now = timed([factor * ratio for ratio in CALM])
    assert marks(compared(timed(CALM), now)) == [""]


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 1.2, 1.3])
def test_what_noise_may_hide_is_not_called_as_fast(factor: float) -> None:
    comparison = compared(timed(SPREAD), timed(times(factor)))
    assert not comparison.slower
    assert [change.scenario for change in comparison.untold] == ["core"]
    assert marks(comparison) == ["cannot tell"]


def test_a_calm_run_can_tell_what_a_restless_one_cannot() -> None:
    """The median is the same in all runs: noise alone makes the difference."""
    assert not compared(timed(CALM), timed(CALM)).untold
    assert compared(timed(SPREAD), timed(CALM)).untold
    assert compared(timed(CALM), timed(SPREAD)).untold


@pytest.mark.parametrize(("growth", "told"), [(1.09, True), (1.11, False)])
def test_as_fast_rules_out_a_growth_of_ten_percent(growth: float, told: bool) -> None:
    # The lower quartile of the second is too low to call it slower.
    before = [9.0, *[10.0] * 7, 11.0]
    comparison = compared(timed(before), timed([*[9.0] * 3, *[10.0 * growth] * 6]))
    assert not comparison.slower
    assert bool(comparison.untold) is not told


def test_as_good_is_the_other_way_round_if_more_is_better() -> None:
    for before, now, untold in ((0.99, 0.95, False), (0.99, 0.88, True), (0.88, 0.99, False)):
        old, new = [before] * 9, [*[now] * 6, *[0.99] * 3]
        comparison = compared(other("fewest_by_most", old), other("fewest_by_most", new))
        assert not comparison.slower
        assert bool(comparison.untold) is untold


def test_time_of_a_cycle_is_beside_its_floors() -> None:
    # The floor takes 50 ns.
    assert "x floor, 0.5 µs" in str(compared(timed(SPREAD), timed(SPREAD)))


def test_what_is_beyond_the_spread_of_both_is_slower() -> None:
    comparison = compared(timed(SPREAD), timed(times(1.5)))
    (change,) = comparison.slower
    assert (change.scenario, change.contender, change.metric) == ("core", "c", "ratio")
    assert change.growth == pytest.approx(0.5)
    assert marks(comparison) == ["SLOWER"]
    assert "+50 %" in str(comparison)


def test_the_new_runs_spread_counts_as_well() -> None:
    calm, restless = [10.0] * 9, [11.0, 11.0, 11.0, 14.0, 15.0, 16.0, 30.0, 40.0, 50.0]
    assert not compared(timed(calm), timed(restless)).slower
    assert compared(timed(calm), timed([15.0] * 9)).slower


@pytest.mark.parametrize(("growth", "slower"), [(1.04, False), (1.06, True)])
def test_five_percent_pass_however_little_it_spreads(growth: float, slower: bool) -> None:
    comparison = compared(timed([10.0] * 9), timed([10.0 * growth] * 9))
    assert bool(comparison.slower) is slower


def test_what_got_faster_is_said_and_is_no_failure() -> None:
    comparison = compared(timed(times(1.5)), timed(SPREAD))
    assert marks(comparison) == ["faster"]
    assert not comparison.slower


def test_a_slower_machine_is_no_slower_library() -> None:
    old, new = timed(SPREAD), timed(SPREAD)
    for sample in new.samples:
        sample["ns"] *= 3
        sample["floor_ns"] *= 3
    assert not compared(old, new).slower


def test_too_few_rounds_tell_nothing() -> None:
    for before, now in (([1.0] * 2, [9.0] * 9), ([1.0] * 9, [9.0] * 2), ([1.0], [1.0])):
        comparison = compared(timed(before), timed(now))
        assert not comparison.slower
        assert len(comparison.untold) == 1
        assert "1 cannot be told from noise" in str(comparison)


def test_few_rounds_tell_much_if_they_agree() -> None:
    """As those of memory do, which is the same in every run."""
    assert compared(timed([10.0] * 3), timed([12.0] * 3)).slower
    assert not compared(timed([10.0] * 3), timed([10.0] * 3)).untold
    assert not compared(timed([9.0, 10.0, 11.0]), timed([12.0, 13.0, 14.0])).slower


# -- metrics -------------------------------------------------------------------------------------


def test_less_fair_is_worse() -> None:
    fair, unfair = other("fewest_by_most", [0.99] * 5), other("fewest_by_most", [0.5] * 5)
    assert compared(fair, unfair).slower
    assert "WORSE" in str(compared(fair, unfair))
    assert not compared(unfair, fair).slower
    assert "better" in str(compared(unfair, fair))


def test_more_memory_is_worse() -> None:
    less, more = (other("bytes_per_connection", [size] * 5) for size in (900.0, 1100.0))
    assert compared(less, more).slower
    assert not compared(more, less).slower


def test_how_much_was_done_is_not_compared() -> None:
    much, little = other("most_uses", [900.0] * 5), other("most_uses", [100.0] * 5)
    assert not compared(much, little).changes
    assert not compared(little, much).changes


def test_what_is_timed_for_comparison_within_the_run_is_not_compared() -> None:
    old, new = timed(SPREAD), timed(SPREAD)
    for sample in new.samples:
        sample["dict_ns"] = 10**6
    assert [change.metric for change in compared(old, new).changes] == ["ratio"]


# -- who and where -------------------------------------------------------------------------------


def test_another_library_is_said_and_is_no_failure() -> None:
    name = "psycopg_pool"
    comparison = compared(timed(SPREAD, name), timed(times(2), name))
    assert not comparison.slower
    assert marks(comparison) == ["slower, not ours"]
    assert not marks(compared(timed(SPREAD, name), timed(SPREAD, name)))


def test_only_what_both_have_is_compared() -> None:
    left_out = Result("core", "", 0, "c", left_out="it has no such setting")
    assert not compared(timed(SPREAD), timed(SPREAD, "py")).changes
    assert not compared(timed(SPREAD), left_out).changes
    assert not compared(left_out, timed(SPREAD)).changes


def test_points_are_compared_each_with_its_own() -> None:
    def held(point: int, ratios: Sequence[float]) -> Result:
        return Result("held", "in use", point, "c", timed(ratios).samples)

    old = record(held(0, SPREAD), held(1000, SPREAD))
    new = record(held(0, SPREAD), held(1000, times(2)))
    assert [change.point for change in Comparison(old, new).slower] == [1000]


def test_what_runs_were_not_made_on_alike_is_said() -> None:
    contenders = {"psycopg_pool": {"about": "another", "versions": {"psycopg-pool": "3.4"}}}
    now = record(timed(SPREAD), cpu="two", contenders=contenders)
    said = str(Comparison(record(timed(SPREAD)), now))
    assert "different: cpu was one, is now two" in said
    assert "different: psycopg-pool was 3.3.3, is now 3.4" in said
    assert "python was" not in said


# -- measured again ------------------------------------------------------------------------------


def test_what_is_slower_once_only_is_no_failure() -> None:
    comparison = compared(timed(SPREAD), timed(times(2)))
    assert comparison.suspects() == ["core"]
    comparison.measured_again([timed(SPREAD)])
    assert not comparison.slower
    assert marks(comparison) == ["not confirmed"]
    assert len(comparison.untold) == 1


def test_a_second_time_that_was_cut_short_does_not_count() -> None:
    comparison = compared(timed(SPREAD), timed(times(2)))
    comparison.measured_again([timed([SPREAD[0]] * 2)])
    assert marks(comparison) == ["SLOWER"]


def test_what_is_slower_twice_is_a_failure() -> None:
    comparison = compared(timed(SPREAD), timed(times(2)))
    comparison.measured_again([timed(times(1.9))])
    assert comparison.slower
    assert marks(comparison) == ["SLOWER"]


def test_others_need_not_be_measured_again() -> None:
    assert not compared(timed(SPREAD, "queue"), timed(times(2), "queue")).suspects()


# -- files, and the command line -----------------------------------------------------------------


def saved(path: Path, record: Record) -> Path:
    path.write_text(json.dumps(as_json(*record, [])))
    return path


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    before = record(timed(SPREAD), Result("held", "in use", 1000, "py", left_out="why not"))
    assert load(saved(tmp_path / "run.json", before)) == [before]


def test_runs_in_several_pythons_are_read_as_they_were_saved(tmp_path: Path) -> None:
    runs = [record(timed(SPREAD), python=f"CPython 3.{minor}.0") for minor in (11, 13)]
    (tmp_path / "runs.json").write_text(json.dumps([as_json(*run, []) for run in runs]))
    assert load(tmp_path / "runs.json") == runs


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": [{"samples": [[1, 2]]}]}'])
def test_what_is_no_run_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(SavedError, match=r"run\.json was not written by --json"):
        load(tmp_path / "run.json")


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (2.0, 1)])
def test_exit_status_says_whether_anything_got_slower(
    tmp_path: Path, factor: float, code: int
) -> None:
    old = saved(tmp_path / "old.json", record(timed(SPREAD)))
    new = saved(tmp_path / "new.json", record(timed(times(factor))))
    run = bench("--from", new, "--compare", old)
    assert run.returncode == code, run.stderr
    assert ("SLOWER" in run.stdout) is bool(code)
    assert f"{code} of 1 numbers of this library got slower" in run.stdout


def test_of_a_saved_run_only_what_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "run.json", record(timed(SPREAD), timed(SPREAD, "queue", "cycle")))
    told = json.loads(bench("--from", path, "--json", "--impl", "queue").stdout)
    assert [result["contender"] for result in told["results"]] == ["queue"]
    told = json.loads(bench("--from", path, "--json", "--scenario", "core").stdout)
    assert [result["scenario"] for result in told["results"]] == ["core"]


def test_a_file_that_is_not_there_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    run = bench("--compare", tmp_path / "old.json")
    assert run.returncode == 1
    assert "old.json: No such file" in run.stderr
