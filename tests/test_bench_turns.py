"""How a run divides its time among scenarios, contenders and Pythons; the time is made up here."""

import math
from typing import Any

import pytest

from . import benchmark  # noqa: F401

# isort: split
import bench.run
import bench.until
from bench.processes import BenchError, Worker
from bench.report import Result, Run
from bench.run import measure
from bench.scenario import Scenario
from bench.until import ENDLESS, Until

RUN = Run(20, 0.02, smoke=False)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(bench.until, "monotonic", made)
    monkeypatch.setattr(bench.run, "monotonic", made)
    return made


def scenario(name: str, **options: Any) -> Scenario:
    return Scenario(name, "nothing", lambda *_: pytest.fail("not here"), needs=(), **options)


class Contest:
    """The contenders of one Python; each sample takes a second, or what is said."""

    def __init__(self, clock: Clock, seconds: dict[str, float] | None = None) -> None:
        self._clock = clock
        self._seconds = seconds or {}
        #: What was measured, and "end" where a scenario was torn down.
        self.events: list[tuple[str, str]] = []

    def results(self, scenario: Scenario, run: Run) -> list[Result]:
        return [
            Result(scenario.name, "", point, name)
            for point in scenario.points_of(run.smoke)
            for name in ("a", "b")
        ]

    def sample(self, scenario: Scenario, result: Result, seconds: float) -> None:
        self._clock.now += self._seconds.get(scenario.name, 1.0)
        self.events.append((scenario.name, result.contender))
        result.samples.append({"ns": 1.0})

    def forget(self, scenario: Scenario, results: list[Result]) -> None:
        assert {result.scenario for result in results} == {scenario.name}
        self.events.append((scenario.name, "end"))


def measured(contest: Contest, *scenarios: Scenario, until: Until = ENDLESS) -> list[Result]:
    contests: Any = [contest]
    return measure(contests, scenarios, RUN, until=until)[0]


def rounds(results: list[Result]) -> dict[str, int]:
    """Return the rounds of each scenario, which all of its contenders have."""
    found = {result.scenario: len(result.samples) for result in results}
    assert all(len(result.samples) == found[result.scenario] for result in results)
    return found


def test_scenarios_take_turns_until_all_have_all_rounds(clock: Clock) -> None:
    contest = Contest(clock)
    found = measured(contest, scenario("x"), scenario("y"), scenario("z", max_rounds=2))
    assert rounds(found) == {"x": 20, "y": 20, "z": 2}
    # Few at first; each turn ends with a teardown.
    turns: list[tuple[str, int]] = []
    count = 0
    for name, what in contest.events:
        count += what == "a"
        if what == "end":
            turns.append((name, count))
            count = 0
    assert turns == [
        *(("x", 3), ("y", 3), ("z", 2)),
        *(("x", 8), ("y", 8)),
        *(("x", 8), ("y", 8)),
        *(("x", 1), ("y", 1)),
    ]


def test_nobody_always_comes_first(clock: Clock) -> None:
    contest = Contest(clock)
    measured(contest, scenario("x"))
    order = [what for _, what in contest.events if what != "end"]
    assert order[:4] in ([*"abba"], [*"baab"])


def test_results_are_in_the_order_of_the_report(clock: Clock) -> None:
    found = measured(Contest(clock), scenario("x"), scenario("y"))
    assert [result.place for result in found] == [
        *(("x", 0, "a"), ("x", 0, "b"), ("y", 0, "a"), ("y", 0, "b")),
    ]


@pytest.mark.parametrize("seconds", [20, 60, 150])
def test_a_run_ends_in_time_and_all_scenarios_have_had_their_share(
    clock: Clock, seconds: int
) -> None:
    contest = Contest(clock)
    names = "uvwx"
    found = measured(contest, *map(scenario, names), until=Until(seconds))
    # One round takes two seconds.
    assert clock.now <= 1000 + seconds + 2
    each = rounds(found)
    assert max(each.values()) > 0
    if seconds >= 24:
        assert min(each.values()) >= 3
        assert max(each.values()) - min(each.values()) <= 1


def test_a_scenario_that_is_not_reached_says_so(clock: Clock) -> None:
    found = measured(Contest(clock), scenario("x"), scenario("y"), until=Until(5))
    assert [(r.scenario, r.left_out) for r in found] == [
        *(("x", None), ("x", None)),
        *(("y", "the time was up"), ("y", "the time was up")),
    ]


def test_long_scenarios_have_as_many_rounds_as_short_ones(clock: Clock) -> None:
    contest = Contest(clock, {"long": 10.0})
    # A round takes 20 seconds and 2 seconds.
    found = measured(contest, scenario("long"), scenario("short"), until=Until(140))
    assert rounds(found) == {"long": 6, "short": 6}
    assert clock.now == 1000 + 6 * 22


def test_a_round_that_would_take_too_long_does_not_begin(clock: Clock) -> None:
    contest = Contest(clock, {"long": 10.0})
    found = measured(contest, scenario("short"), scenario("long"), until=Until(85))
    # After three rounds of both, which take 66 seconds, there is no time for another round of both.
    assert rounds(found) == {"short": 3, "long": 3}
    assert clock.now == 1066


def test_a_run_whose_time_is_up_measures_nothing(clock: Clock) -> None:
    contest = Contest(clock)
    found = measured(contest, scenario("x"), until=Until(-1))
    assert [result.left_out for result in found] == ["the time was up"] * 2
    assert contest.events == []


def test_a_machine_that_gets_slower_ends_in_time_too(clock: Clock) -> None:
    contest = Contest(clock)
    sample = contest.sample

    def slower(*args: Any) -> None:
        sample(*args)
        clock.now += 0.02 * (clock.now - 1000)

    contest.sample = slower  # type: ignore[method-assign]
    measured(contest, scenario("x"), scenario("y"), until=Until(100))
    assert 60 < clock.now - 1000 < 110


def test_only_what_is_wanted(clock: Clock) -> None:
    contest: Any = Contest(clock)
    places = {("x", 1, "a"), ("x", 2, "b"), ("y", 0, "b")}
    found = [scenario("x", points=(1, 2), smoke_points=(7,)), scenario("y"), scenario("z")]
    (results,) = measure([contest], found, RUN, places=places)
    assert {result.place for result in results} == places
    assert ("z", "end") not in contest.events
    # A smoke test has other points, but no other contenders.
    (results,) = measure([contest], found, Run(1, 0.02, smoke=True), places=places)
    assert {result.place for result in results} == {("x", 7, "a"), ("x", 7, "b"), ("y", 0, "b")}


def test_pythons_take_turns_in_each_round(clock: Clock) -> None:
    contests: Any = [Contest(clock), Contest(clock)]
    order: list[int] = []
    for number, contest in enumerate(contests):
        sample = contest.sample

        def noted(*args: Any, sample: Any = sample, number: int = number) -> None:
            order.append(number)
            sample(*args)

        contest.sample = noted
    found = measure(contests, [scenario("x")], RUN)
    assert [rounds(part) for part in found] == [{"x": 20}] * 2
    # No Python is a round ahead of the other, and none is always the first.
    for begin in range(0, len(order), 4):
        assert sorted(order[begin : begin + 4]) == [0, 0, 1, 1]
    assert {order[begin] for begin in range(0, len(order), 4)} == {0, 1}


def test_a_result_that_was_left_out_costs_no_time(clock: Clock) -> None:
    contest = Contest(clock)
    sample = contest.sample

    def failing(scenario: Scenario, result: Result, seconds: float) -> None:
        if result.contender == "b":
            result.leave_out("why not")
        else:
            sample(scenario, result, seconds)

    contest.sample = failing  # type: ignore[method-assign]
    found = measured(contest, scenario("x"))
    assert [(len(result.samples), result.left_out) for result in found] == [
        (20, None),
        (0, "why not"),
    ]


def test_an_end_is_a_point_in_time(clock: Clock) -> None:
    end = Until(100)
    clock.now += 30
    assert end.left() == 70
    assert end.but(20).left() == 50
    assert end.allows(69)
    assert not end.allows(70)
    assert ENDLESS.left() == ENDLESS.but(20).left() == math.inf


# -- processes -----------------------------------------------------------------------------------


def test_a_process_that_does_not_answer_in_time_is_ended() -> None:
    worker = Worker("floor", "http://127.0.0.1:1/", until=Until(-1000))
    with worker, pytest.raises(BenchError, match="'worker floor' did not answer before the time"):
        worker.meet()
    assert worker._process.returncode != 0


def test_a_process_that_answers_in_time_goes_on() -> None:
    with Worker("floor", "http://127.0.0.1:1/", until=Until(1000)) as worker:
        worker.meet()
        assert "cycle" in worker.abilities
