"""The pages for readers, README.rst and those of docs/, and the code that is in them.

Each block of code says what language it is in.  One in Python is a whole program, which is run, or
is marked as a part of one, ``:class: fragment``, whose names are looked up.  What a block includes
from ``examples/`` is run there.
"""

import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: ``a.rst``, as seen from the root.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.rst"), *ROOT.glob("docs/**/*.rst"))
    if "_build" not in path.parts
)


def import_module(name: str) -> ModuleType:
    """Import a module that a page names, or skip the test if this Python cannot have its library.

    gremlinpython has no release for CPython 3.14.
    """
    if name == "aiowebsocketclient.gremlin":
        pytest.importorskip("gremlin_python")
    return importlib.import_module(name)


_BLOCK = re.compile(
    r"""
    ^(?P<indent>\ *)\.\.\ (?P<directive>code-block|literalinclude)::\ (?P<argument>\S+)\n
    (?P<options>(?:(?P=indent)\ +:.*\n)*)
    (?P<body>(?:(?P=indent)\ +\S.*\n|\ *\n)*)
    """,
    re.MULTILINE | re.VERBOSE,
)
_OPTION = re.compile(r":([\w-]+):(?: (.*))?$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code in a page."""

    page: str
    line: int
    #: ``python``, ``bash``, ...; where the code is in a file, that is included.
    language: str
    code: str
    options: dict[str, str]
    file: Path | None = None

    @property
    def is_fragment(self) -> bool:
        return "fragment" in self.options.get("class", "").split()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    """Return the blocks of a page, in order."""
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        options = dict(_OPTION.findall(found["options"]))
        if found["directive"] == "code-block":
            code = textwrap.dedent(found["body"]).strip("\n") + "\n"
            yield Block(page, line, found["argument"], code, options)
        else:
            file = (ROOT / page).parent / found["argument"]
            language = options.get("language", "python" if file.suffix == ".py" else "")
            yield Block(page, line, language, file.read_text(), options, file.resolve())


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
