"""Every block of code in README.rst and in the documentation is run, or held to the package."""

import ast
import inspect
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession
from aiowebsocketclient.arguments import DEFAULTS
from aiowebsocketclient.hooks import Hooks

from .pages import BLOCKS, PAGES, ROOT, Block, blocks_of, import_module

pytestmark = pytest.mark.skipif("README.rst" not in PAGES, reason="README.rst is not there")

PORT = 58793
EXAMPLES = ROOT / "examples"


def is_server(block: Block) -> bool:
    return "run_app(" in block.code


PYTHON = [block for block in BLOCKS if block.language == "python" and block.file is None]
SERVERS = [block for block in PYTHON if is_server(block) and not block.is_fragment]
PROGRAMS = [block for block in PYTHON if not (block.is_fragment or is_server(block))]
FRAGMENTS = [block for block in PYTHON if block.is_fragment]
INCLUDED = [block for block in BLOCKS if block.file is not None]
COMMANDS = sorted(
    {
        line.removeprefix("$ ")
        for block in BLOCKS
        if block.language in ("bash", "console")
        for line in block.code.splitlines()
        if "make" in line.removeprefix("$ ").split("#")[0].split()
    }
)


def test_there_is_something_to_run() -> None:
    assert [server.page for server in SERVERS] == ["docs/guides/usage.rst"]
    assert {"README.rst", "docs/guides/usage.rst"} <= {program.page for program in PROGRAMS}
    assert {"make demo", "make test", "make docs"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_known(page: str) -> None:
    """A block without a language would not be found by what is here."""
    text = (ROOT / page).read_text()
    directives = re.findall(r"^ *\.\. (?:code|code-block|literalinclude|sourcecode)::", text, re.M)
    assert len(directives) == len(list(blocks_of(page)))
    assert not re.search(r"^(?! *\.\.).*::$", text, re.M), "a block that does not say what it is"
    assert not re.search(r"^ *>>> ", text, re.M), "code with prompts cannot be copied, nor run"


# -- programs ------------------------------------------------------------------------------------


def wait_until(listening: bool) -> None:
    """Wait until somebody, or nobody, listens on the port of the examples."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if (probe.connect_ex(("127.0.0.1", PORT)) == 0) == listening:
                return
        time.sleep(0.05)
    pytest.fail(f"port {PORT}: {'nobody listens' if listening else 'it is in use'}")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """Run the server of the guide, which programs on other pages may use too."""
    wait_until(listening=False)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVERS[0].code],
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until(listening=True)
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.terminate()
        process.wait(60)


def run(*program: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", *program],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program(program: Block, tmp_path: Path) -> None:
    printed = run("-c", program.code, cwd=tmp_path).splitlines()
    # What is printed is what the comment beside it says.
    said = re.findall(r"print\(.*\)  # (.*)$", program.code, re.MULTILINE)
    assert printed[: len(said)] == said
    assert len(printed) == program.code.count("print(")


@pytest.mark.parametrize("block", INCLUDED, ids=str)
def test_what_is_included_is_an_example(block: Block) -> None:
    """Each of these is run by tests of its own."""
    assert block.file is not None
    assert block.file.parent == EXAMPLES


def test_the_first_page_shows_a_program_and_what_it_prints(tmp_path: Path) -> None:
    blocks = list(blocks_of("docs/index.rst"))
    ((program, console),) = [pair for pair in pairwise(blocks) if pair[1].language == "console"]
    assert program.file is not None
    # The whole of it, as it stands there.
    assert set(program.options) == {"language"}
    command, *printed = console.code.splitlines()
    assert command == f"$ python {program.file.name}"
    assert run("-c", program.code, cwd=tmp_path).splitlines() == printed


# -- fragments -----------------------------------------------------------------------------------

OPTIONS = {*DEFAULTS, *Hooks._fields, "reuse_key", "acquire_timeout"}


def given(call: ast.Call) -> set[str]:
    """Return the names of its keyword arguments, as far as they can be seen."""
    return {keyword.arg for keyword in call.keywords if keyword.arg is not None}


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=str)
def test_fragment(fragment: Block) -> None:
    source = "async def fragment():\n" + textwrap.indent(fragment.code, "    ")
    compile(source, str(fragment), "exec")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("aiowebsocketclient"):
                for alias in node.names:
                    assert hasattr(import_module(module), alias.name), alias.name
            case ast.Call(func=ast.Name(id="WebSocketClientSession")):
                known = inspect.signature(WebSocketClientSession).parameters
                assert given(node) <= set(known)
            case ast.Call(func=ast.Attribute(attr="ws_connect")):
                assert given(node) <= OPTIONS
            case ast.Attribute(value=ast.Name(id="session")):
                assert hasattr(WebSocketClientSession, node.attr) or hasattr(
                    aiohttp.ClientSession, node.attr
                ), node.attr


# -- what is said between them -------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_it_names_what_can_be_called(page: str) -> None:
    text = (ROOT / page).read_text()
    for name in set(re.findall(r"``(?:await )?session\.(?!py\b)(\w+)", text)):
        assert hasattr(WebSocketClientSession, name), name
    for name in set(re.findall(r"``(?:await )?ws\.(\w+)", text)):
        assert hasattr(ClientWebSocketResponse, name), name


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    make = words.index("make")
    if shutil.which("make") is None:
        pytest.skip("make is not there")
    if not (ROOT / "aiowebsocketclient").is_dir():
        pytest.skip("there is nothing to make it of")
    env = os.environ | dict(setting.split("=") for setting in words[:make])
    done = subprocess.run(
        ["make", "-n", *words[make + 1 :]],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
