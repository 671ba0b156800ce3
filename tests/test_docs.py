"""What the pages of docs/ say of the package and of its tests is true."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp.client_ws import DEFAULT_WS_CLIENT_TIMEOUT

from aiowebsocketclient import (
    ClientWebSocketResponse,
    WebSocketClientSession,
    _core,
    _lending,
    _pool_py,
    _records,
    acquiring,
    balancing,
    check_ping,
    connection,
    keeping,
    lease,
    lessee,
    lifecycle,
    pausing,
    returning,
    servers,
    session,
    settings,
)
from aiowebsocketclient.arguments import DEFAULTS

from .clients.__main__ import TRIALS
from .foreign.server import SERVERS
from .pages import PAGES, ROOT, import_module

pytestmark = pytest.mark.skipif(
    "docs/index.rst" not in PAGES, reason="the documentation is not there"
)

GUARANTEES = "docs/guarantees.rst"
_TEST = re.compile(r"``(tests/test_\w+\.py::\w+)``")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def test_parameters_are_those_of_the_class() -> None:
    rows = re.findall(r"^``(\w+)=(.+)``$", text_of("docs/parameters.rst"), re.M)
    parameters = inspect.signature(WebSocketClientSession).parameters.values()
    assert rows == [(p.name, getattr(p.default, "__name__", repr(p.default))) for p in parameters]


# -- timeouts ------------------------------------------------------------------------------------


def timeouts_in(section: str) -> dict[str, str]:
    """Return the first two columns of the table in a section of the page of timeouts."""
    page = text_of("docs/timeouts.rst")
    _, *parts = re.split(r"^(.+)\n-+$", page, flags=re.MULTILINE)
    text = dict(zip(*[iter(parts)] * 2, strict=True))[section]
    _, *rows = re.findall(r"^   \* - (.*)\n     - (.*)$", text, re.MULTILINE)
    return dict(rows)


def first_literal(cell: str) -> str:
    return cell.split("``")[1] if "``" in cell else cell


def test_each_timeout_of_the_session_has_its_default() -> None:
    rows = timeouts_in("Options of the session")
    parameters = inspect.signature(WebSocketClientSession).parameters.values()
    # Each number of seconds, and no other option.
    assert {first_literal(name): first_literal(default) for name, default in rows.items()} == {
        p.name: repr(p.default) for p in parameters if p.annotation in (float, float | None)
    }


def test_each_timeout_of_a_call_has_its_default() -> None:
    of_aiohttp = DEFAULT_WS_CLIENT_TIMEOUT
    assert {name: first_literal(d) for name, d in timeouts_in("Options of a call").items()} == {
        "``heartbeat=``": repr(DEFAULTS["heartbeat"]),
        "``ws_receive`` in ``timeout=`` (``aiohttp.ClientWSTimeout``)": repr(of_aiohttp.ws_receive),
        "``ws_close`` in ``timeout=``": repr(of_aiohttp.ws_close),
        "``receive(timeout=)``": repr(default_of(ClientWebSocketResponse.receive, "timeout")),
        "``check_ping(timeout=)``": repr(default_of(check_ping, "timeout")),
        "``asyncio.timeout()`` around the block": "none",
        "``session.close(wait=)``": repr(default_of(WebSocketClientSession.close, "wait")),
    }


def default_of(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def test_the_times_that_are_fixed_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^   \* - (\d.*)\n     - (.*(?:\n       .*)*)$",
        text_of("docs/timeouts.rst").partition("\nFixed times\n")[2],
        re.MULTILINE,
    )
    assert [seconds for seconds, _ in rows] == [
        f"{settings._HASTE:g}",
        f"{settings._HASTE:g}",
        f"{_core.ORPHAN_GRACE:g}",
        f"{_core.LATE_FACTOR:g} times the usual, at least {_core.LATE_FLOOR:g}",
        f"{keeping._PERIOD:g}",
        f"{pausing._FIRST_PAUSE:g} to {pausing._LONGEST_PAUSE:g}",
        f"{servers._LONGEST_PAUSE_IF_ALL_OUT:g}",
        f"{balancing._PERIOD:g}",
        f"{lease.Lease(1000).timeout:g}, or a quarter of ``lease``",
        f"{lease.LOOK:g}",
        f"{lessee.LEAVING:g}",
    ]
    assert lease.Lease(1).timeout == 1 / 4
    assert f"; {_records.FIRST_PATIENCE:g} seconds if no handshake" in rows[3][1]
    assert f"up to {pausing._FIRST_PAUSE:g} s first" in rows[5][1]


# -- servers -------------------------------------------------------------------------------------


def test_each_server_has_a_row_in_both_tables() -> None:
    of_servers, _, _ = text_of("docs/works_with.rst").partition("\nClients\n-------\n")
    rows = re.findall(r"^   \* - (.*)$", of_servers, re.MULTILINE)
    versions = re.compile(r" \d[\d.]*|, Node")
    shown = [versions.sub("", row).lower() for row in rows if row != "Server"]
    assert shown == 2 * list(SERVERS)


@pytest.mark.parametrize("page", ["docs/works_with.rst", "docs/guides/clients.rst"])
def test_each_library_that_is_tried_has_a_row(page: str) -> None:
    of_clients = text_of(page).rpartition("\nClients\n-------\n")[2]
    rows = re.findall(r"^   \* - (\S+) \d", of_clients, re.MULTILINE)
    tried = {trial.distribution.replace("slack-", "slack_") for trial in TRIALS}
    # gremlinpython takes no client session: docs/guides/gremlin.rst has its figures.
    assert set(rows) == tried | ({"gremlinpython"} if page == "docs/works_with.rst" else set())


# -- guarantees ----------------------------------------------------------------------------------


def test_each_guarantee_is_held_by_tests() -> None:
    in_full = text_of(GUARANTEES).split("\nIn full\n")[1].split("\nWhat is not guaranteed\n")[0]
    _, *sections = re.split(r"^(.+)\n~+$", in_full, flags=re.MULTILINE)
    held = {title: _TEST.findall(text) for title, text in zip(*[iter(sections)] * 2, strict=True)}
    # Those of the design, and some more.
    assert len(held) > 10
    assert all(held.values())


def test_each_test_that_is_named_exists() -> None:
    named = {test for page in PAGES for test in _TEST.findall(text_of(page))}
    assert named
    # To have pytest collect them takes longer than most of them do.
    there = {
        f"{file}::{node.name}"
        for file in {test.partition("::")[0] for test in named}
        for node in ast.parse(text_of(file)).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert named <= there, sorted(named - there)


# -- architecture --------------------------------------------------------------------------------


def test_the_architecture_names_guarantees_as_their_page_does() -> None:
    named = re.findall(r"^   \* - (\d+)\n     - (.+)$", text_of("docs/architecture.rst"), re.M)
    assert [number for number, _ in named] == [str(n + 1) for n in range(len(named))]
    assert len(named) == 10
    titles = re.findall(r"^(.+)\n~+$", text_of(GUARANTEES), re.M)
    assert {name for _, name in named} <= set(titles)


def test_the_architecture_names_what_is_there() -> None:
    page = text_of("docs/architecture.rst")
    code = (
        _core,
        _lending,
        _pool_py,
        _records,
        acquiring,
        connection,
        lifecycle,
        returning,
        session,
    )
    members = set(re.findall(r"``([A-Z]\w+)\.(\w+)``", page))
    assert members
    for owner, name in members:
        owners = [getattr(module, owner, None) for module in code]
        assert any(hasattr(found, name) for found in owners), f"{owner}.{name}"


@pytest.mark.skipif(
    not (ROOT / "aiowebsocketclient").is_dir(), reason="the package is installed elsewhere"
)
def test_the_architecture_has_each_module() -> None:
    listed = set(re.findall(r"``(\w+\.pyx?)``", text_of("docs/architecture.rst")))
    there = {path.name for path in (ROOT / "aiowebsocketclient").glob("*.py*")}
    assert listed == {name for name in there if name.endswith((".py", ".pyx"))} - {"__init__.py"}


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a module needs when it is imported."""
    return {
        node.module
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None
    }


def test_parts_of_a_session_know_nothing_of_it() -> None:
    folder = Path(session.__file__).parent
    users = {"__init__", "__main__", "client_session", "gql", "gremlin"}
    users |= {"opentelemetry", "prometheus", "testing"}
    needed = {path.stem: imports_of(path) for path in folder.glob("*.py")}
    assert {name for name, modules in needed.items() if "session" in modules} <= users
    parts = {"acquiring", "ending", "keeping", "prewarming", "returning"}
    assert parts <= needed["session"]
    # They have what they need of it as protocols, and it knows none of them.
    assert not needed["lifecycle"] & parts
    assert not needed["connection"] & {"lifecycle", *parts}
    for part in parts:
        assert not needed[part] & parts


# -- the reference -------------------------------------------------------------------------------

# Modules that users import; of all others, the package has what they need.
MODULES = [
    "aiowebsocketclient",
    "aiowebsocketclient.opentelemetry",
    "aiowebsocketclient.fleet",
    "aiowebsocketclient.gql",
    "aiowebsocketclient.gremlin",
    "aiowebsocketclient.prometheus",
    "aiowebsocketclient.redis",
    "aiowebsocketclient.testing",
    "aiowebsocketclient.tracing",
]
# What is in such a module for the package itself.
_INTERNAL = {
    # Its class is described with the session's statistics.
    "aiowebsocketclient.fleet.FleetStats",
    "aiowebsocketclient.tracing.Tracer",
    "aiowebsocketclient.tracing.trace_configs_of",
}


def documented() -> set[str]:
    """Return the full names of what the pages describe."""
    found = set()
    for page in PAGES:
        module = ""
        for directive, name in re.findall(r"^ *\.\. ([\w:]+):: ([\w.]+)", text_of(page), re.M):
            if directive in ("module", "currentmodule", "automodule"):
                module = name
            elif directive.startswith("auto") or directive in ("data", "function"):
                found.add(f"{module}.{name}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_all_that_is_public_is_in_the_reference(name: str) -> None:
    module = import_module(name)
    top = importlib.import_module("aiowebsocketclient")
    there = {
        f"{name}.{public}"
        for public in module.__all__
        # Once is enough.
        if module is top or getattr(top, public, None) is None
    }
    assert there - _INTERNAL - documented() == set()


def test_modules_that_have_to_be_imported_are_known() -> None:
    """What is not imported with the package is there for its users to import."""
    done = subprocess.run(
        [sys.executable, "-c", "import aiowebsocketclient, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = ROOT / "aiowebsocketclient"
    there = {f"aiowebsocketclient.{path.stem}" for path in folder.glob("[!_]*.py")}
    assert there - set(done.stdout.split()) <= set(MODULES)
