"""A short soak; ``make soak`` is the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="sockets are counted by what Linux tells"
    ),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]


def soak(loop: str, tmp_path: Path) -> Any:
    """Run one with the core, and the package, that are under test here."""
    path = tmp_path / "result.json"
    arguments = ["--seconds", "3", "--callers", "200", "--loop", loop, "--json", str(path)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.soak", *arguments],
        cwd=ROOT,
        env=os.environ
        | {"AIOWEBSOCKETCLIENT_NO_EXTENSIONS": "1" * (aiowebsocketclient.IMPLEMENTATION == "py")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    (result,) = json.loads(path.read_text())
    return result


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_lost(loop: str, tmp_path: Path) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    result = soak(loop, tmp_path)
    assert result["loop"] == loop
    assert result["core"] == aiowebsocketclient.IMPLEMENTATION
    assert not any(result["failures"].values())
    # Else there was nothing to lose.
    counts, servers = result["counts"], result["servers"]
    assert counts["replies"] > 50
    assert counts["cancellations"] > 10
    assert result["peaks"]["limit"]["peak"] == 40
    assert servers["kill"] + servers["stop"] + servers["freeze"] > 0
    assert servers["aborts"] + servers["closes"] > 0
