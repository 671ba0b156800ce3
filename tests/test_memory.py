"""What is done a thousand times over leaves nothing behind: scripts, each in its own interpreter.

In the main one too much else comes and goes. ``tests/isolated`` has the scripts; what they print
is judged here.
"""

import asyncio
import functools
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

import aiowebsocketclient

from .isolated.common import server
from .servers import serving
from .test_tls_memory import Echo

try:
    import uvloop
except ImportError:  # it has no wheels for some interpreters
    uvloop = None

SCRIPTS = Path(__file__).with_name("isolated")

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def run(
    script: str, *arguments: str, python: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Any:
    """Run a script, which must say nothing but its answer."""
    done = subprocess.run(
        [sys.executable, *python, SCRIPTS / f"{script}.py", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        | (env or {}),
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
# one small object lost in ten operations comes to, and no less than what measuring takes for itself
# may vary by. RSS, which goes by pages and arenas, is for what Python does not count: 32 bytes an
# operation, but no less than two arenas.
OPERATIONS_FOR_ONE = 20
NOISE = 70
ARENA = 256 * 1024


def leaks(found: dict[str, Any]) -> list[str]:
    few = max(NOISE, found["operations"] // OPERATIONS_FOR_ONE)
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
        ("waiters", "asyncio"),
        ("waiters", "uvloop"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("endings", "asyncio"),
                ("endpoints", "asyncio"),
                ("failures", "asyncio"),
                ("handshakes", "asyncio"),
                ("lost", "asyncio"),
                ("pings", "asyncio"),
                ("pings", "uvloop"),
                ("sessions", "asyncio"),
            )
        ),
    ],
)
def test_nothing_grows(script: str, loop: str) -> None:
    if loop == "uvloop" and uvloop is None:
        pytest.skip("uvloop is not installed")
    found = leaks(run(script, "--loop", loop))
    if found:
        # What leaks does so each time; what a busy machine has made of the measuring does not.
        found = leaks(run(script, "--loop", loop))
    assert not found


@pytest.mark.parametrize(("script", "operations"), [("cycles", 4_000), ("lost", 4_000)])
def test_one_small_object_lost_in_ten_operations_is_seen(script: str, operations: int) -> None:
    assert not leaks(run(script, f"--operations={operations}"))
    (grown,) = leaks(run(script, f"--operations={operations}", "--leak"))
    assert grown.startswith("blocks: ")


# -- reference cycles ----------------------------------------------------------------------------


def test_what_is_left_to_the_cyclic_collector() -> None:
    """Nothing; or a closed transport, where asyncio leaves one that aiohttp has closed, too."""
    found = run("unreachable")["found"]
    closed, aborted = found.pop("aiohttps_close"), found.pop("aiohttps_abort")
    failed = found.pop("aiohttps_fail")
    theirs = Counter(closed) | Counter(aborted)
    assert not any(kind.startswith("aiowebsocketclient") for kind in (*theirs, *failed))
    on_the_way = ("release", "context", "task", "wait", "cancel", "time_out")
    assert [found.pop(operation) for operation in on_the_way] == [{}] * len(on_the_way)
    assert found.pop("fail") == found.pop("fail_to_prewarm") == failed
    assert found.pop("close") == found.pop("leave_by_an_exception") == closed
    for operation, left in found.items():
        assert Counter(left) <= theirs, operation


# -- reference counts ----------------------------------------------------------------------------


def test_reference_counts(core: ModuleType) -> None:
    """Every operation of either core does the same to them, and in the end nothing."""
    found, reference = (refcounts(name) for name in (core.IMPLEMENTATION, "py"))
    for (step, counts), (other, expected) in zip(found["steps"], reference["steps"], strict=True):
        assert (step, counts) == (other, expected)
    # A reference lost or won in three walks of four would come to this. Of None, the interpreter's
    # frames and caches take and give some, and more where it runs the core itself.
    most = found["times"] * 3 // 4
    counted = found["drift"].keys() - ({"None"} if core.IMPLEMENTATION == "py" else set())
    assert all(abs(found["drift"][name]) < most for name in counted)
    assert found["blocks"] < most


@functools.cache
def refcounts(core: str) -> Any:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "refcounts.py", core], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- idle connections ------------------------------------------------------------------------------

# Bytes of an idle connection without TLS, of which aiohttp and the loop take most. With the
# handshake, which the pool drops, it would take more than 11,000.
IDLE = 8_000


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("compress", [0, 15])
def test_an_idle_connection(loop: str, compress: int) -> None:
    if loop == "uvloop" and uvloop is None:
        pytest.skip("uvloop is not installed")
    assert run("idle", "--loop", loop, "--compress", str(compress))["each"] < IDLE


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_off", [False, True])
async def test_idle_tls_connections(
    server_tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path, is_off: bool
) -> None:
    """In kB. Most of it belongs to OpenSSL, and more with OpenSSL 3.6 than with 3.0."""
    if not isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("the script uses a loop of asyncio")
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    flags = {"AIOWEBSOCKETCLIENT_NO_TLS_MEMORY": "1" if is_off else ""}
    async with serving(Echo(), ssl_context=server_tls) as server:
        found = await asyncio.to_thread(
            run, "tls", server.url(), str(certificate), "100" if is_off else "200", env=flags
        )
    if is_off:
        assert found["new"] > 250
        assert found["used"] > 1_000
    else:
        # OpenSSL 3.0 needs less, but keeps 16 kB from a handshake until the next write.
        is_old = sys.platform == "linux" and (3,) <= ssl.OPENSSL_VERSION_INFO < (3, 2)
        most = 48 if is_old else 64
        assert found["new"] < most
        assert found["used"] < most


# -- garbage, and the end ------------------------------------------------------------------------


def test_cycles_through_the_core_are_collected(core: ModuleType) -> None:
    """Also long lists of slots and waiters, for which a recursion would not have the stack."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "canaries.py", core.IMPLEMENTATION],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["survivors"] == []


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server() as port:
        yield port


TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n((?: .*\n)+)(.*)$", re.MULTILINE)
FRAME = re.compile(r'^  File "(.*?)"', re.MULTILINE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("flags", [(), ("-X", "dev", "-W", "error")])
def test_the_interpreter_may_end_in_any_state(port: int, flags: tuple[str, ...]) -> None:
    """It may warn of what was not closed; nothing of ours fails."""
    done = subprocess.run(
        [sys.executable, *flags, SCRIPTS / "exits.py", str(port)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for state, (status, said) in json.loads(done.stdout).items():
        assert status == 0, (state, said)
        assert "Fatal" not in said
        for frames, error in TRACEBACK.findall(said):
            if not error.startswith(("ResourceWarning: ", "RuntimeWarning: ")):
                # aiohttp asks a loop that is closed to close a connection; we do not.
                files = [name for name in FRAME.findall(frames) if "/asyncio/" not in name]
                assert "aiowebsocketclient" not in files[-1].split(os.sep), (state, said)


# -- under valgrind ------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.skipif(aiowebsocketclient.IMPLEMENTATION != "c", reason="nothing is compiled")
def test_the_compiled_core_keeps_to_its_memory() -> None:
    """A short drive; ``make sanitize`` goes a longer way, and shows that a fault is seen."""
    # What is not initialised is left out: there CPython itself has too much to say.
    valgrind = ("valgrind", "--error-exitcode=99", "--undef-value-errors=no", "--quiet")
    script = (sys.executable, SCRIPTS / "drive.py", "--pools=10")
    done = subprocess.run(
        [*valgrind, *script],
        capture_output=True,
        text=True,
        # Each object an allocation of its own, to be watched.
        env=os.environ | {"PYTHONMALLOC": "malloc"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-8_000:]
