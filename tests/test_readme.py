"""Every code block of the README is run, and its tables are held to the code."""

import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiowebsocketclient import WebSocketClientSession

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.rst"
PORT = 58793

docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.rst is not there")

DOCUMENT = docutils_core.publish_doctree(
    README.read_text() if README.is_file() else "",
    # A warning is an error.
    settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"},
)


def blocks(language: str) -> list[str]:
    found = DOCUMENT.findall(docutils_nodes.literal_block)
    return [block.astext() for block in found if language in block["classes"]]


def is_server(program: str) -> bool:
    return "run_app(" in program


SERVERS = [program for program in blocks("python") if is_server(program)]
PROGRAMS = [program for program in blocks("python") if not is_server(program)]
COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


def test_there_is_something_to_run() -> None:
    assert len(SERVERS) == 1
    assert PROGRAMS
    assert {"make demo", "make test"} <= set(COMMANDS)
    literal = DOCUMENT.findall(docutils_nodes.literal_block)
    assert all({"python", "bash"} & set(block["classes"]) for block in literal)


def wait_until(listening: bool) -> None:
    """Wait until somebody, or nobody, listens on the port of the examples."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if (probe.connect_ex(("127.0.0.1", PORT)) == 0) == listening:
                return
        time.sleep(0.05)
    pytest.fail(f"port {PORT}: {'nobody listens' if listening else 'it is in use'}")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """Run the README's own server."""
    wait_until(listening=False)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVERS[0]],
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until(listening=True)
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{n}" for n in range(len(PROGRAMS))])
def test_program(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # What is printed is what the comment beside it says.
    printed = done.stdout.splitlines()
    said = re.findall(r"print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert printed[: len(said)] == said
    assert len(printed) == program.count("print(")


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str) -> None:
    *settings, make, target = command.split()
    assert make == "make"
    if shutil.which("make") is None:
        pytest.skip("make is not there")
    env = os.environ | dict(setting.split("=") for setting in settings)
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_parameters_are_those_of_the_class() -> None:
    (table,) = (
        node for node in DOCUMENT.findall(docutils_nodes.table) if "parameters" in node["ids"]
    )
    rows = [
        [entry.astext() for entry in row.findall(docutils_nodes.entry)][:2]
        for row in table.findall(docutils_nodes.row)
    ]
    parameters = inspect.signature(WebSocketClientSession).parameters.values()
    assert rows[1:] == [
        [p.name, getattr(p.default, "__name__", repr(p.default))] for p in parameters
    ]


def test_it_links_to_what_is_there() -> None:
    links = {node.get("refuri", "") for node in DOCUMENT.findall(docutils_nodes.reference)}
    files = {link for link in links if "://" not in link}
    assert files
    for file in files:
        assert (ROOT / file).is_file(), file


def test_it_names_what_can_be_called() -> None:
    for name in set(re.findall(r"``(?:await )?session\.(\w+)", README.read_text())):
        assert hasattr(WebSocketClientSession, name), name
