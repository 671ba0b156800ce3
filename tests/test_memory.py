"""What is done a thousand times over leaves nothing behind: scripts, each in its own interpreter.

In the main one too much else comes and goes. ``tests/isolated`` has the scripts; what they print
is judged here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient

try:
    import uvloop
except ImportError:  # it has no wheels for some interpreters
    uvloop = None

SCRIPTS = Path(__file__).with_name("isolated")

pytestmark = pytest.mark.timeout(300)


def run(script: str, *arguments: str, python: tuple[str, ...] = ()) -> Any:
    """Run a script, which must say nothing but its answer."""
    done = subprocess.run(
        [sys.executable, *python, SCRIPTS / f"{script}.py", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    assert not done.stderr
    found = json.loads(done.stdout)
    # The same package, and the same core, as in this interpreter.
    assert found.pop("file") == aiowebsocketclient.__file__
    assert found.pop("implementation") == aiowebsocketclient.IMPLEMENTATION
    return found


# -- growth --------------------------------------------------------------------------------------

# A round is done over and over, and what counts is the least that any has added: what is leaked is
# leaked in each, what a cache or an allocator takes for itself is not. The bounds are half of what
# one small object lost in ten operations comes to. RSS, which goes by pages and arenas, is for what
# Python does not count: 32 bytes an operation, but no less than two arenas.
OPERATIONS_FOR_ONE = 20
ARENA = 256 * 1024


def leaks(found: dict[str, Any]) -> list[str]:
    few = found["operations"] // OPERATIONS_FOR_ONE
    rss = max(2 * ARENA, 32 * found["operations"])
    bounds = {"blocks": few, "objects": few, "rss": rss}
    grown = [f"{name}: {found[name]}" for name, most in bounds.items() if found[name] > most]
    # Of these, exactly as many as there were.
    return grown + [f"{kind}: {more}" for kind, more in found["kinds"].items()]


@pytest.mark.parametrize(
    ("script", "loop"),
    [
        ("cycles", "asyncio"),
        ("cycles", "uvloop"),
        ("endings", "asyncio"),
        ("endpoints", "asyncio"),
        ("failures", "asyncio"),
        ("handshakes", "asyncio"),
        ("lost", "asyncio"),
        ("pings", "asyncio"),
        ("pings", "uvloop"),
        ("sessions", "asyncio"),
        ("waiters", "asyncio"),
        ("waiters", "uvloop"),
    ],
)
def test_nothing_grows(script: str, loop: str) -> None:
    if loop == "uvloop" and uvloop is None:
        pytest.skip("uvloop is not installed")
    assert not leaks(run(script, "--loop", loop))


@pytest.mark.parametrize(("script", "operations"), [("cycles", 4_000), ("lost", 400)])
def test_one_small_object_lost_in_ten_operations_is_seen(script: str, operations: int) -> None:
    assert not leaks(run(script, f"--operations={operations}"))
    (grown,) = leaks(run(script, f"--operations={operations}", "--leak"))
    assert grown.startswith("blocks: ")


# -- reference cycles ----------------------------------------------------------------------------


def test_what_is_left_to_the_cyclic_collector() -> None:
    """Nothing; or a closed transport, where asyncio leaves one that aiohttp has closed, too."""
    found = run("unreachable")["found"]
    closed = found.pop("aiohttps_close")
    failed = found.pop("aiohttps_fail")
    assert not any(kind.startswith("aiowebsocketclient") for kind in (*closed, *failed))
    on_the_way = ("release", "context", "task", "wait", "cancel", "time_out")
    assert [found.pop(operation) for operation in on_the_way] == [{}] * len(on_the_way)
    assert found.pop("fail") == found.pop("fail_to_prewarm") == failed
    assert found.pop("close") == found.pop("leave_by_an_exception") == closed
    for left in found.values():
        assert left.items() <= closed.items()
