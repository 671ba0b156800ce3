"""What the pages of docs/ say of the package and of its tests is true."""

import os
import re
import subprocess
import sys

import pytest

from .pages import PAGES, ROOT

pytestmark = pytest.mark.skipif(
    "docs/index.rst" not in PAGES, reason="the documentation is not there"
)

GUARANTEES = "docs/guarantees.rst"
_TEST = re.compile(r"``(tests/test_\w+\.py::\w+)``")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


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
    lent = ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
    files = sorted({test.partition("::")[0] for test in named})
    done = subprocess.run(
        [sys.executable, "-Pm", "pytest", "--collect-only", "--quiet", *files],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in lent},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    collected = {line.partition("[")[0] for line in done.stdout.splitlines()}
    assert named <= collected, sorted(named - collected)
