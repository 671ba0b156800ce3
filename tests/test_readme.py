"""The README is well-formed, also where it is not in a checkout, and names what there is.

What code is in it is run by ``test_pages.py``; the service, whose server is not there, here.
"""

import asyncio
import re

import pytest

from aiowebsocketclient.testing import WebSocketServer

from .pages import ROOT, blocks_of

README = ROOT / "README.rst"

docutils_core = pytest.importorskip("docutils.core")
docutils_nodes = pytest.importorskip("docutils.nodes")

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.rst is not there")

DOCUMENT = docutils_core.publish_doctree(
    README.read_text() if README.is_file() else "",
    # A warning is an error.
    settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"},
)


def test_its_links_hold_everywhere() -> None:
    """On PyPI, a link to a file of the checkout leads nowhere, and an image is not shown."""
    links = {node.get("refuri", "") for node in DOCUMENT.findall(docutils_nodes.reference)}
    assert links
    for link in links:
        assert link.startswith("https://"), link
    assert not list(DOCUMENT.findall(docutils_nodes.image))


def test_it_names_what_is_there() -> None:
    literals = {node.astext() for node in DOCUMENT.findall(docutils_nodes.literal)}
    files = {text for text in literals if re.fullmatch(r"[\w/]+(\.(rst|md)|LICENSE)", text)}
    assert len([file for file in files if file.startswith("docs/guides/")]) > 5
    for file in files:
        assert (ROOT / file).is_file(), file


def test_its_service_serves() -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    (block,) = (block for block in blocks_of("README.rst") if "FastAPI(" in block.code)
    (url,) = re.findall(r'"(wss://.*?)"', block.code)

    async def ask_twice() -> list[dict[str, str]]:
        app = names["app"]
        transport = httpx.ASGITransport(app=app)
        async with (
            names["lifespan"](app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            replies = []
            for token in ("first", "second"):
                names["TOKEN"] = token
                replies.append((await client.get("/ask", params={"question": token})).json())
            return replies

    with WebSocketServer() as server:
        names = {}
        exec(compile(block.code.replace(url, server.url), str(block), "exec"), names)
        assert asyncio.run(ask_twice()) == [{"answer": "first"}, {"answer": "second"}]
        # The second has used the connection of the first, whose token was another.
        assert [shake.headers["Authorization"] for shake in server.handshakes] == ["Bearer first"]
