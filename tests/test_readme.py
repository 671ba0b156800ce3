"""The README is well-formed, and its tables and links are held to what there is.

What code is in it is run by ``test_pages.py``.
"""

import inspect

import pytest

from aiowebsocketclient import WebSocketClientSession

from .pages import ROOT

README = ROOT / "README.rst"

docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.rst is not there")

DOCUMENT = docutils_core.publish_doctree(
    README.read_text() if README.is_file() else "",
    # A warning is an error.
    settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"},
)


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
