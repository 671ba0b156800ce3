"""``examples/watching.py``, run as it is: what a pool tells of itself."""

import json

import pytest

from .examples import FOLDER, run

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="examples/ is not there"),
    pytest.mark.timeout(300),
]


def test_it_tells_all_that_happens() -> None:
    lines = run("watching.py").splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    told = [line for line in lines if not line.startswith("{")]
    assert [record["event"] for record in records] == ["opened"] * 2 + ["leak"] + ["closed"] * 2
    _, _, leak, closed, _ = records
    assert leak["level"] == "WARNING"
    assert leak["acquired_at"][-1].endswith(" in hold_on")
    assert closed["reason"] == "forced"
    waits = [line for line in told if line.startswith("event: waited ")]
    assert len(waits) == 5
    assert all(line.endswith(" ms and got a connection") for line in waits)
    assert told.count("event: closed, forced") == 2
    (*_, endpoint) = (line for line in told if not line.startswith("event: "))
    assert endpoint == f"{leak['endpoint']}: 0 in use, 2 idle"
    assert "6 requests, 4 of them over a connection used before" in told
    assert "2 handshakes, 0 failed" in told
