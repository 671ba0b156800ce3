"""Scenarios with servers of their own count what they say they count; times are no matter here."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

import aiowebsocketclient

from .benchmark import ROOT

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

CORE = aiowebsocketclient.IMPLEMENTATION


def smoke(scenario: str, *contenders: str) -> dict[str, Any]:
    """Return each contender's result."""
    chosen = [argument for name in contenders for argument in ("--impl", name)]
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke", "--json", "--scenario", scenario, *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    results = {result["contender"]: result for result in json.loads(run.stdout)["results"]}
    assert tuple(results) == contenders
    return results


def medians(result: Any) -> dict[str, float]:
    assert result["samples"]
    return {name: numbers["median"] for name, numbers in result["metrics"].items()}


def test_spike_opens_what_was_idle_and_little_more() -> None:
    found = medians(smoke("spike", CORE)[CORE])
    # One more for each handshake's time that it took to serve all, on a busy machine.
    assert 5 <= found["opened"] <= 6 + found["ms_to_serve_all"] // 150


@pytest.mark.skipif(
    importlib.util.find_spec("psycopg_pool") is None, reason="psycopg_pool is not installed"
)
def test_spike_of_another_pool() -> None:
    found = medians(smoke("spike", "psycopg_pool")["psycopg_pool"])
    assert 5 <= found["opened"] <= 6 + found["ms_to_serve_all"] // 150


@pytest.mark.parametrize("scenario", ["request-reply", "request-reply-tls"])
def test_request_and_reply_are_timed_three_ways(scenario: str) -> None:
    found = medians(smoke(scenario, CORE)[CORE])
    assert found.keys() == {"ns", "raw_ns", "connecting_ns", "floor_ns"}
    assert all(found.values())


def test_a_transfer_is_timed_through_the_pool_and_without() -> None:
    found = medians(smoke("transfer-tls", CORE)[CORE])
    assert found.keys() == {"ms_pool", "ms_raw"}
    assert all(found.values())


def test_idle_watcher_tells_looking_after_from_leaving_alone() -> None:
    results = smoke("idle-watcher", CORE, "unread", "readers")
    found = {name: medians(result) for name, result in results.items()}
    assert all(numbers["us_per_ping"] > 0 for numbers in found.values())
    for name in ("us_to_hand_out", "us_to_park"):
        assert found["unread"][name] == 0 < min(found[CORE][name], found["readers"][name])


def test_memory_is_counted_to_the_object() -> None:
    results = smoke("memory", CORE, "unread", "readers")
    held = {name: medians(result)["bytes_per_connection"] for name, result in results.items()}
    # A task for each takes more than a kilobyte. The pool has at least a slot and a connection, and
    # drops more than that of the handshake.
    assert 3_000 < held[CORE] < held["unread"]
    assert held["unread"] + 1_000 < held["readers"]


def test_memory_by_the_system_is_there_to_compare() -> None:
    assert medians(smoke("memory-rss", CORE)[CORE])["bytes_per_connection"] > 0


@pytest.mark.parametrize("scenario", ["scale", "scale-uvloop", "scale-tls", "scale-tls-uvloop"])
def test_scale_opens_holds_and_closes(scenario: str) -> None:
    if "uvloop" in scenario and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    found = medians(smoke(scenario, CORE)[CORE])
    names = {"seconds_to_open", "seconds_to_close", "rss_mb", "rss_bytes_per_connection"}
    assert found.keys() == names | {"idle_cpu_percent"}
    assert min(found.values()) > 0


def test_who_answers_no_ping_is_left_out_of_scale() -> None:
    (result,) = smoke("scale", "unread").values()
    assert "PING" in result["left_out"]
    assert not result["samples"]
