"""What is in examples/, run as its readers run it: each in a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ("EXAMPLES", "FOLDER", "Service", "command", "is_service", "run", "serving")

FOLDER = Path(__file__).resolve().parents[1] / "examples"

#: The names of all, so that there can be none that is not run.
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))

#: Seconds in which a program ends, and a service begins or ends, on a machine with much to do.
PATIENCE = 100.0


def is_service(name: str) -> bool:
    """Whether it runs until it is told to end. Such a one takes ``--port``; 0 is any free one."""
    return '"--port"' in (FOLDER / name).read_text()


def command(name: str, *args: str) -> list[str]:
    """Return what runs it, with what is installed, whatever the working directory holds."""
    python = [sys.executable, "-P", "-W", "error"]
    if name.startswith("test_"):
        # By itself, without this project's configuration.
        alone = ["-c", os.devnull, "-p", "no:cacheprovider", "--strict-markers", "-W", "error"]
        # pytest-asyncio warns where it is told nothing.
        alone += ["-o", "asyncio_default_fixture_loop_scope=function"]
        return [*python, "-m", "pytest", *alone, f"--rootdir={FOLDER}", str(FOLDER / name), *args]
    return [*python, str(FOLDER / name), *args]


def run(name: str, *args: str) -> str:
    """Run one that ends by itself, and return what it prints."""
    done = subprocess.run(
        command(name, *args), capture_output=True, text=True, timeout=PATIENCE, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


class Service(NamedTuple):
    """One that runs."""

    #: The first address that it named.
    url: str
    #: What it has printed so far, a line each. It goes on growing.
    lines: list[str]


@contextlib.contextmanager
def serving(name: str, *args: str) -> Iterator[Service]:
    """Run one that ends with Ctrl-C, at a free port, and see that it then ends cleanly."""
    process = subprocess.Popen(
        command(name, "--port", "0", *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        # A shell lets what it runs in the background ignore Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    lines: list[str] = []
    named = threading.Event()
    reader = threading.Thread(target=read, args=(process, lines, named))
    reader.start()
    try:
        named.wait(PATIENCE)
        url = address(lines)
        assert url is not None, "it named no address:\n" + "".join(lines)
        yield Service(url, lines)
        assert process.poll() is None, "it ended by itself:\n" + "".join(lines)
        process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        reader.join()
    output = "".join(lines)
    assert code == 0, output
    assert not re.search(r"Traceback|Warning\b", output), output


def read(process: subprocess.Popen[str], lines: list[str], named: threading.Event) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if address([line]) is not None:
                named.set()
    # It has ended, and names none any more.
    named.set()


def address(lines: list[str]) -> str | None:
    for line in lines:
        if found := re.search(r"https?://[\w.]+:\d+[\w/]*", line):
            return found[0]
    return None


def environment() -> dict[str, str]:
    # So that what a service prints is there at once; and what these tests are told is not for it.
    told = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
    env = {name: value for name, value in os.environ.items() if name not in told}
    return env | {"PYTHONUNBUFFERED": "1"}
