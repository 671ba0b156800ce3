"""What type checkers make of the package as it is installed.

``tests/typing`` is checked as a user's code would be.  A line there that must be an error is marked
as one, and is an error if it is none.
"""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient
from aiowebsocketclient import tracing

FOLDER = Path(__file__).with_name("typing")
FILES = sorted(FOLDER.glob("*.py"))

pytestmark = pytest.mark.timeout(240)


def needs(tool: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(tool) is None
    return pytest.mark.skipif(missing, reason=f"{tool} is not installed")


needs_mypy = needs("mypy")
needs_pyright = needs("pyright")

WRONG = """
from typing import assert_type

from aiowebsocketclient import WebSocketClientSession

session = WebSocketClientSession()
assert_type(session, WebSocketClientSession[int])
assert_type(session.closed, int)
session.detach()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a user's project, in a directory where no checkout is at hand."""
    settings = {
        "typeCheckingMode": "strict",
        # Those are mypy's.
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
        # A class with its argument, to see whether it may have it.
        "reportUnusedExpression": "none",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return tmp_path


def run(project: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # One way of pyright's looks for an interpreter by itself.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    return subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=project,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )


def mypy(project: Path) -> list[str]:
    """Return what it finds, a line for each error."""
    cache = f"--cache-dir={project / '.mypy_cache'}"
    done = run(project, "mypy", "--strict", "--config-file=", cache, "--no-error-summary", ".")
    assert not done.stderr
    assert done.returncode == bool(done.stdout), done.stdout
    return [line for line in done.stdout.splitlines() if ": note: " not in line]


def pyright(project: Path) -> list[str]:
    done = run(project, "pyright", "--outputjson", "--pythonpath", sys.executable)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(project.glob("*.py")))
    return [
        f"{Path(found['file']).name}:{found['range']['start']['line'] + 1}:"
        f" {found['message']} [{found.get('rule')}]"
        for found in report["generalDiagnostics"]
    ]


def test_there_is_something_to_check() -> None:
    assert {"client_session.py", "hooks.py", "options.py", "response_class.py", "session.py"} <= {
        file.name for file in FILES
    }


@pytest.mark.slow
@needs_mypy
def test_mypy(project: Path) -> None:
    for file in FILES:
        shutil.copy(file, project)
    assert mypy(project) == []


@pytest.mark.slow
@needs_pyright
def test_pyright(project: Path) -> None:
    for file in FILES:
        shutil.copy(file, project)
    assert pyright(project) == []


def rules(errors: list[str]) -> set[tuple[int, str]]:
    """Return the lines of errors, and the rules that these break."""
    found = (re.fullmatch(r"[^:]+:(\d+): .*\[([\w-]+)\]", error, re.DOTALL) for error in errors)
    return {(int(match[1]), match[2]) for match in found if match}


@pytest.mark.slow
@needs_mypy
def test_mypy_finds_what_is_wrong(project: Path) -> None:
    (project / "wrong.py").write_text(WRONG)
    assert rules(mypy(project)) == {
        (7, "type-var"),
        (7, "assert-type"),
        (8, "assert-type"),
        (9, "unused-ignore"),
    }


@pytest.mark.slow
@needs_pyright
def test_pyright_finds_what_is_wrong(project: Path) -> None:
    (project / "wrong.py").write_text(WRONG)
    assert rules(pyright(project)) == {
        (7, "reportInvalidTypeArguments"),
        (7, "reportAssertTypeFailure"),
        (8, "reportAssertTypeFailure"),
        (9, "reportUnnecessaryTypeIgnoreComment"),
    }


@pytest.mark.slow
@needs_pyright
def test_all_that_is_public_has_a_type(project: Path) -> None:
    done = run(
        project,
        "pyright",
        "--outputjson",
        "--ignoreexternal",
        "--verifytypes",
        "aiowebsocketclient",
    )
    completeness = json.loads(done.stdout)["typeCompleteness"]
    assert Path(completeness["packageRootDirectory"]) == Path(aiowebsocketclient.__file__).parent
    symbols = {symbol["name"]: symbol for symbol in completeness["symbols"]}
    public = {name for name in symbols if name.startswith(tuple(public_prefixes()))}
    assert len(public) > 100
    assert [name for name in sorted(public) if is_incomplete(symbols[name])] == []


def is_incomplete(symbol: dict[str, Any]) -> bool:
    return symbol["isExported"] and (not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"])


def public_prefixes() -> set[str]:
    """Return the names of what users import, where it is defined."""
    there = [getattr(aiowebsocketclient, name) for name in aiowebsocketclient.__all__]
    there += [getattr(tracing, name) for name in tracing.__all__ if name.endswith("Params")]
    classes = [thing for thing in there if isinstance(thing, type)]
    assert len(classes) > 15
    return {f"{cls.__module__}.{cls.__qualname__}" for cls in classes}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs(file: Path) -> None:
    """What type checkers are told must be there at run time, too."""
    runpy.run_path(str(file))
