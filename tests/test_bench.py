"""The benchmark runs and says what it measured; what it measures is no matter of a test."""

import importlib.util
import json
import math
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient

from .benchmark import ROOT

# isort: split
from bench import bounds, scenarios
from bench.contenders import CONTENDERS, Entry
from bench.processes import BenchError
from bench.report import Result, Run
from bench.run import measure, running

HAS_EXTENSION = importlib.util.find_spec("aiowebsocketclient._pool") is not None


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def measured(*arguments: str) -> Any:
    run = bench("--smoke", "--json", *arguments)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


CORES = ("c", "py") if HAS_EXTENSION else ("py",)
OTHERS = ("floor", "semaphore", "queue")

#: What is measured in scenarios without sockets, or with few; the others have tests of their own.
PER_CYCLE = {"ns", "floor_ns"}
METRICS = {
    "core": PER_CYCLE,
    "held": PER_CYCLE,
    "endpoints": PER_CYCLE,
    "endpoints-in-turn": PER_CYCLE | {"dict_ns"},
    "handshakes": PER_CYCLE,
    "handshakes-in-turn": PER_CYCLE | {"dict_ns"},
    "cycle": PER_CYCLE,
    "async-with": PER_CYCLE,
    "options": PER_CYCLE,
    "new-header": PER_CYCLE | {"known_ns"},
    "cycle-held": PER_CYCLE,
    "hand-over": PER_CYCLE,
    "contended": PER_CYCLE,
    "fairness": {"fewest_by_most", "fewest_uses", "most_uses"},
    "given-up": PER_CYCLE | {"us_per_give_up"},
}
#: Those that only this library can do.
ALONE = {
    *("core", "held", "endpoints", "endpoints-in-turn", "handshakes", "handshakes-in-turn"),
    *("async-with", "options", "new-header"),
}


@pytest.fixture(scope="module")
def smoke() -> Any:
    """Measure all of these once or more."""
    who = [("--impl", name) for name in (*CORES, *OTHERS)]
    what = [("--scenario", name) for name in METRICS]
    return measured(*chain.from_iterable(who + what))


def rows(run: Any) -> list[tuple[str, str]]:
    return [(result["scenario"], result["contender"]) for result in run["results"]]


def of(run: Any, scenario: str) -> list[Any]:
    return [result for result in run["results"] if result["scenario"] == scenario]


@pytest.mark.slow
def test_everybody_who_can_takes_part(smoke: Any) -> None:
    assert list(dict.fromkeys(scenario for scenario, _ in rows(smoke))) == list(METRICS)
    for scenario in METRICS:
        able = list(CORES)
        if scenario == "cycle":
            able = [*CORES, *OTHERS]
        elif scenario not in ALONE:
            able = [*CORES, "semaphore", "queue"]
        assert list(dict.fromkeys(r["contender"] for r in of(smoke, scenario))) == able


@pytest.mark.slow
@pytest.mark.parametrize("scenario", METRICS)
def test_scenario_yields_what_it_says(scenario: str, smoke: Any) -> None:
    found = scenarios.find(scenario)
    assert {r["point"] for r in of(smoke, scenario)} == set(found.points_of(True))
    for result in of(smoke, scenario):
        assert result["left_out"] is None
        assert len(result["samples"]) == 3
        expected = set(METRICS[scenario])
        if result["point"] == 0:
            expected -= {"us_per_give_up"}
        for sample in result["samples"]:
            assert sample.keys() == expected
            # The queue's least served caller comes off with next to nothing.
            assert all(0 <= value < math.inf for value in sample.values())
        assert result["metrics"].keys() == expected


@pytest.mark.slow
def test_fairness_counts_who_was_served(smoke: Any) -> None:
    for result in of(smoke, "fairness"):
        for sample in result["samples"]:
            assert 0 < sample["fewest_uses"] <= sample["most_uses"]
            assert sample["fewest_by_most"] == sample["fewest_uses"] / sample["most_uses"]


@pytest.mark.slow
def test_cores_are_those_of_the_package_under_test(smoke: Any) -> None:
    about = smoke["environment"]["contenders"]
    for core in CORES:
        assert about[core]["implementation"] == core
        assert Path(about[core]["path"]).samefile(aiowebsocketclient.__file__)


@pytest.mark.slow
def test_numbers_belong_together(smoke: Any) -> None:
    assert smoke["rounds"] == 3
    for result in of(smoke, "core") + of(smoke, "cycle"):
        ratios = [sample["ns"] / sample["floor_ns"] for sample in result["samples"]]
        ratio = result["ratio"]
        spread = ("min", "lower_quartile", "median", "upper_quartile", "max")
        assert [ratio[name] for name in spread] == sorted(ratio.values())
        assert ratio["median"] == sorted(ratios)[1]
        ns = sorted(sample["ns"] for sample in result["samples"])
        assert result["metrics"]["ns"]["median"] == ns[1]


@pytest.mark.slow
def test_header_names_versions_and_machine(smoke: Any) -> None:
    environment = smoke["environment"]
    assert environment["python"].endswith(sys.version.split()[0])
    assert {"aiohttp", "system", "cpu", "cores"} <= environment.keys()
    if HAS_EXTENSION:
        assert environment["contenders"]["c"]["cython"].startswith("3.")


@pytest.mark.slow
def test_only_what_was_asked_for() -> None:
    chosen = measured(
        *("--impl", "py", "--impl", "floor", "--rounds", "1"),
        *("--scenario", "cycle", "--scenario", "core"),
    )
    assert rows(chosen) == [("core", "py"), ("cycle", "py"), ("cycle", "floor")]
    assert all(len(result["samples"]) == 1 for result in chosen["results"])


@pytest.mark.slow
def test_text_has_a_line_for_each_and_json_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    run = bench("--smoke", "--impl", "py", "--scenario", "core", "--json", str(file))
    assert run.returncode == 0, run.stderr
    assert "IMPLEMENTATION 'py'" in run.stdout
    lines = run.stdout.splitlines()
    assert lines[lines.index("core") + 1].split()[0] == "py"
    assert lines[-1].startswith("core acquire+release / floor")
    assert rows(json.loads(file.read_text())) == [("core", "py")]


def test_list_names_all() -> None:
    listing = bench("--list").stdout
    for name in (*CONTENDERS, *scenarios.SCENARIOS):
        assert f"\n  {name} " in listing


def test_scenarios_are_found_by_their_own_names() -> None:
    for name in scenarios.SCENARIOS:
        assert scenarios.find(name).name == name


@pytest.mark.slow
def test_contenders_that_are_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("nowhere:Nobody", "nobody", distributions=("no-such-distribution",))
    monkeypatch.setitem(CONTENDERS, "nobody", entry)
    with running(["floor", "nobody"], insist=False) as contest:
        assert list(contest.environment["contenders"]) == ["floor"]
        assert contest.environment["left_out"] == {
            "nobody": "no-such-distribution is not installed"
        }
    with (
        pytest.raises(BenchError, match="nobody: no-such-distribution is not installed"),
        running(["floor", "nobody"], insist=True),
    ):
        pass


@pytest.mark.slow
def test_a_process_that_ends_costs_its_own_samples_alone() -> None:
    run = Run(rounds=1, seconds=0.001, smoke=True)
    cycle = scenarios.find("cycle")
    with running(["floor", "queue"], insist=True) as contest:
        ended = contest._workers["queue", "asyncio"]._process
        ended.kill()
        ended.wait()
        ((floor, queue),) = measure([contest], [cycle], run)
        assert len(floor.samples) == 1
        assert queue.samples == []
        assert queue.left_out == "the process 'worker queue' has ended: see its error above"
        assert contest.failures == [f"cycle: {queue.left_out}"]
        # It has another from then on.
        ((_, queue),) = measure([contest], [cycle], run)
        assert len(queue.samples) == 1


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", bounds.BOUNDS, ids=lambda bound: bound.what)
def test_bound_is_of_what_is_measured(bound: Any) -> None:
    for reading in bound.readings:
        scenario = scenarios.find(reading.scenario)
        assert reading.point in scenario.points
        assert reading.contender is None or reading.contender in CONTENDERS


@pytest.mark.slow
def test_bounds_are_medians_of_the_rounds_ratios(smoke: Any) -> None:
    by_what = {verdict["what"]: verdict for verdict in smoke["bounds"]}
    for what, scenario in (
        ("core acquire+release / floor", "core"),
        ("public cycle on a live socket / floor", "cycle"),
    ):
        for result in of(smoke, scenario):
            if result["contender"] in CORES:
                measured = by_what[what]["measured"][result["contender"]]
                assert measured == result["ratio"]


def judge(what: str, *results: Result) -> Any:
    return next((v for v in bounds.judged(results) if v["what"] == what), None)


def result_of(contender: str, scenario: str, point: int, *samples: dict[str, float]) -> Result:
    return Result(scenario, "", point, contender, list(samples))


def test_bound_is_met_or_not() -> None:
    what = "contended, 16 callers / Semaphore"
    times = [1.0, 10.0, 100.0] * 3
    semaphore = result_of("semaphore", "contended", 16, *({"ns": ns} for ns in times))

    def ours(*ratios: float) -> Result:
        """Take this many times the semaphore's time of the same round."""
        samples = ({"ns": ratio * ns} for ratio, ns in zip(ratios, times, strict=True))
        return result_of("c", "contended", 16, *samples)

    # With nine rounds, the median is between the second and the last but one.
    met, missed = ours(*[1.2] * 8, 9.0), ours(1.0, *[1.25] * 8)
    noise = ours(*[1.19] * 5, *[1.21] * 4)
    assert judge(what, met, semaphore)["measured"]["c"]["median"] == 1.2
    assert judge(what, met, semaphore)["verdict"] == "met"
    assert judge(what, missed, semaphore)["verdict"] == "missed"
    assert judge(what, noise, semaphore)["verdict"] == "noise"
    assert judge(what, met) is None


def test_too_few_rounds_meet_no_bound_and_miss_none() -> None:
    what = "spike: connections opened, default options"
    for rounds, verdict in ((1, "noise"), (2, "noise"), (3, "met")):
        opened = result_of("c", "spike", 100, *[{"opened": 6.0}] * rounds)
        assert judge(what, opened)["verdict"] == verdict


def test_times_of_this_library_are_beside_the_bounds() -> None:
    sample = {"ns": 570.0, "floor_ns": 114.0}
    cycle = result_of("c", "cycle", 0, sample)
    other = result_of("2015", "cycle", 0, {"ns": 3000.0, "floor_ns": 114.0})
    fair = result_of("c", "fairness", 0, {"fewest_by_most": 0.99})
    assert judge("public cycle on a live socket / floor", cycle)["us"] == 0.57
    assert judge("2015 algorithm / ours, idle", cycle, other)["us"] == 0.57
    assert judge("fairness, fewest/most", fair)["us"] is None
    # What is 100,000 / 0 has taken that long with 100,000.
    held = [result_of("c", "held", many, sample | {"ns": 100.0 + many}) for many in (0, 100_000)]
    assert judge("held: 100,000 / 0", *held)["us"] == 100.1
    lines = list(bounds.as_lines(bounds.judged([cycle, fair])))
    assert [line.split()[-1] for line in lines[1:]] == ["0.57", "tell"]


def test_bound_from_below() -> None:
    what = "fairness, fewest/most"
    for measured, verdict in ((0.98, "met"), (0.97, "missed")):
        result = result_of("c", "fairness", 0, *[{"fewest_by_most": measured}] * 3)
        assert judge(what, result)["verdict"] == verdict


def test_bound_of_a_number() -> None:
    what = "memory of an idle connection, bytes"
    for measured, verdict in ((8_000.0, "met"), (8_001.0, "missed")):
        result = result_of("c", "memory", 1000, *[{"bytes_per_connection": measured}] * 3)
        assert judge(what, result)["measured"]["c"]["median"] == measured
        assert judge(what, result)["verdict"] == verdict


def test_the_pure_core_is_not_held_to_the_bounds() -> None:
    slow = result_of("py", "core", 0, *[{"ns": 9.0, "floor_ns": 1.0}] * 9)
    verdict = judge("core acquire+release / floor", slow)
    assert verdict["measured"]["py"]["median"] == 9
    assert verdict["verdict"] == ""


@pytest.mark.skipif(HAS_EXTENSION, reason="both cores are there")
def test_missing_core_is_an_error() -> None:
    run = bench("--smoke", "--impl", "c")
    assert run.returncode == 1
    assert "--impl py" in run.stderr


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--impl", "go"), ("--scenario", "x")])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    assert bench(*arguments).returncode == 2
