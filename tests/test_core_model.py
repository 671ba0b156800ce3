"""The cores against the model of them, through histories that Hypothesis makes.

Short ones can be made shorter where they fail; long ones are made from a seed, and shortened by
leaving out.  ``python -m tests.lockstep`` runs more of these.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .lockstep import LIMITS, OPERATIONS, SIZES, Lockstep, check_history, installed_cores, main

# A failure takes its time to be made small.
pytestmark = pytest.mark.timeout(600)

# Histories found before belong to another core.
model_settings = settings(deadline=None, database=None, print_blob=True, report_multiple_bugs=False)


@pytest.fixture(scope="module")
def cores(request: pytest.FixtureRequest) -> list[ModuleType]:
    """Return both. A missing extension fails, but where a pure build is asked for."""
    missing = importlib.util.find_spec("aiowebsocketclient._pool") is None
    if missing and request.config.getoption("--impl") != "py":
        pytest.fail("the extension is missing")
    return installed_cores()


def operation(name: str) -> Any:
    """Return the rule for an operation, tried where there is something with which to do it."""

    def step(self: "History", **arguments: Any) -> None:
        self.is_whole = False
        assert self.lockstep.do(name, **arguments)
        self.is_whole = True

    step.__name__ = name
    choices = OPERATIONS[name]
    strategies: dict[str, Any] = {name: st.sampled_from(choices[name]) for name in choices}
    is_possible = precondition(lambda self: "which" not in choices or self.lockstep.subjects(name))
    return rule(**strategies)(is_possible(step))


class History(RuleBasedStateMachine):
    """Begins with some limits, and ends with everything served and closed."""

    cores: list[ModuleType]
    lockstep: Lockstep
    is_served: bool
    is_whole = False

    @initialize(
        limits=st.fixed_dictionaries({k: st.sampled_from(v) for k, v in LIMITS.items()}),
        is_served=st.booleans(),
    )
    def begin(self, limits: dict[str, Any], is_served: bool) -> None:
        self.lockstep = Lockstep(self.cores, limits)
        self.is_served = is_served
        self.is_whole = True

    def teardown(self) -> None:
        if self.is_whole:
            self.lockstep.finish(self.is_served)

    tick = operation("tick")
    acquire = operation("acquire")
    request = operation("request")
    # Hypothesis chooses among rules alike; there is little to see where few wait.
    request_too = request_more = request
    take = operation("take")
    give_up = operation("give_up")
    connected = operation("connected")
    connected_too = connected
    connect_failed = operation("connect_failed")
    open = operation("open")
    configure = operation("configure")
    abandon = operation("abandon")
    release = operation("release")
    release_too = release
    discard = operation("discard")
    lose_idle = operation("lose_idle")
    lose_given = operation("lose_given")
    hurry = operation("hurry")
    decline = operation("decline")
    closed = operation("closed")
    closed_too = closed
    expire = operation("expire")
    drain = operation("drain")
    retire = operation("retire")
    detach = operation("detach")
    resize = operation("resize")
    lead = operation("lead")
    stop_opening = operation("stop_opening")
    misuse = operation("misuse")


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_short_histories(cores: list[ModuleType], count: int) -> None:
    machine = type("History", (History,), {"cores": cores})
    run_state_machine_as_test(
        machine, settings=settings(model_settings, max_examples=count, stateful_step_count=60)
    )


# Hypothesis makes nothing shorter of a seed.
@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_long_histories(cores: list[ModuleType], count: int) -> None:
    @settings(model_settings, max_examples=count, phases=[Phase.generate])
    @given(seed=st.integers(0, 2**32))
    def check(seed: int) -> None:
        check_history(cores, seed, 1000)

    check()


def test_histories_run_until_a_number_of_steps_is_done(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    assert main(["--steps", "300", "--seed", "1", "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert found["disagreements"] == 0
    # Each history is ended, which takes some steps more.
    assert 300 <= found["steps"] < 300 + 2 * max(SIZES)
