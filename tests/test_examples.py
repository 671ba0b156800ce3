"""Every example is run, is listed, and does what it says."""

import ast
import re
import urllib.request
from pathlib import Path

import pytest

from .examples import EXAMPLES, FOLDER, is_service, run, serving
from .redis_server import require_redis

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="examples/ is not there"),
    pytest.mark.timeout(300),
]

PROGRAMS = [name for name in EXAMPLES if not is_service(name)]
SERVICES = [name for name in EXAMPLES if is_service(name)]


def documented(name: str) -> str:
    docstring = ast.get_docstring(ast.parse((FOLDER / name).read_text()))
    assert docstring, f"{name} does not say what it is"
    return docstring


def test_there_is_something_to_run() -> None:
    assert "quickstart.py" in PROGRAMS


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    if name == "fleet.py":
        require_redis()
    printed = run(name)
    assert printed
    if name.startswith("test_"):
        closing = printed.splitlines()[-1]
        assert " passed" in closing
        assert not re.search("failed|error|skipped|warning", closing), printed


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVICES)
def test_service(name: str) -> None:
    assert "Ctrl-C" in documented(name)
    with serving(name) as service, urllib.request.urlopen(service.url, timeout=60) as reply:
        assert reply.status == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVICES)
def test_service_tells_what_it_takes(name: str) -> None:
    assert "--port" in run(name, "--help")


def test_each_is_listed_with_the_first_line_of_its_docstring() -> None:
    listed = re.findall(r"^``(\S+)``\n   (\S.*)$", (FOLDER / "README.rst").read_text(), re.M)
    assert listed == [(name, documented(name).splitlines()[0]) for name in EXAMPLES]


def test_nothing_else_is_there() -> None:
    others = {path.name for path in Path(FOLDER).iterdir()} - set(EXAMPLES)
    assert others - {"__pycache__"} == {"README.rst"}


def test_quickstart() -> None:
    assert run("quickstart.py") == "1000 questions over 10 connections\n"
