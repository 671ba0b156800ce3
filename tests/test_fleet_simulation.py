"""A fleet in virtual time, small: what ``python -m tests.fleet`` simulates at its full size."""

from dataclasses import replace

import pytest

from .fleet.rows import ROWS, scaled, table
from .fleet.simulation import Result, Simulation, fair_shares, most_in_a_window
from .redis_server import RedisServer

#: Names of rows, and how many times as many sessions make a run of a second.
SMALL = {name: 20 / row.sessions for name, row in ROWS.items()}


def simulate(server: RedisServer, name: str, seed: int = 1) -> Result:
    setting = replace(ROWS[name], warmup=5.0, seconds=5.0)
    setting = replace(setting, **scaled(setting, SMALL[name]))
    # The long uses make many callers; they need no more of them to fill what there is.
    setting = replace(setting, limit=min(setting.limit, 200), load=min(setting.load, 300.0))
    with server.client() as client:
        return Simulation(setting, client, seed).run()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ROWS])
def test_the_limit_holds(redis_server: RedisServer, name: str) -> None:
    result = simulate(redis_server, name)
    assert result.holds, table([result])
    assert result.calls > 0
    # Else there was nothing to exceed.
    assert result.peak > 0.8 * result.setting.limit or name.startswith(("enough", "long", "lossy"))


def test_shares_are_even_and_places_are_used(redis_server: RedisServer) -> None:
    result = simulate(redis_server, "many")
    assert result.holds, table([result])
    assert result.peak == result.setting.limit
    assert result.unused < 0.1
    assert result.p50 > 0.8


@pytest.mark.slow
def test_a_seed_gives_the_same_history(redis_server: RedisServer) -> None:
    first, again, other = (table([simulate(redis_server, "idle 1", seed)]) for seed in (1, 1, 2))
    assert first == again != other


def test_no_min_idle_of_one_session_keeps_callers_of_another_waiting(
    redis_server: RedisServer,
) -> None:
    result = simulate(redis_server, "like")
    assert result.unused < 0.05
    # A connection that is asked back is not opened again at once.
    assert result.connects < 2 * result.setting.load / result.setting.use


@pytest.mark.parametrize(
    ("loads", "limit", "shares"),
    [
        ([1.0, 2.0], 9.0, [1.0, 2.0]),
        ([8.0, 1.0, 8.0], 9.0, [4.0, 1.0, 4.0]),
        ([5.0, 5.0, 5.0], 3.0, [1.0, 1.0, 1.0]),
    ],
)
def test_fair_shares(loads: list[float], limit: float, shares: list[float]) -> None:
    assert fair_shares(loads, limit) == shares


def test_most_in_a_window() -> None:
    begun = [0.0, 1.0, 1.5, 2.0, 2.9, 5.0]
    assert most_in_a_window(begun, (3, 2.0)) == 4
    assert most_in_a_window(begun, (3, 1.0)) == 2
    assert most_in_a_window(begun, None) == 0
