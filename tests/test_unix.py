"""Connections through a file: aiohttp's ``UnixConnector``, and URLs of its own scheme."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from aiowebsocketclient import WebSocketClientSession

from .conftest import SessionFactory
from .servers import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such sockets")


@pytest_asyncio.fixture
async def file(tmp_path: Path) -> AsyncIterator[Path]:
    """Return the socket that a server listens on."""
    server = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    path = tmp_path / "s"
    await web.UnixSite(runner, str(path)).start()
    yield path
    await runner.cleanup()


def client_session_for(file: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(file), limit=0))


async def test_urls_of_the_connectors_own_scheme(file: Path, make_session: SessionFactory) -> None:
    session = make_session(client_session=client_session_for(file), limit=2)
    calls = [
        ("unix://localhost/attach/ws", False),
        ("unix://localhost/attach/ws", True),
        ("UNIX://localhost/attach/ws?", True),
        ("unix://localhost/other", False),
        ("ws://localhost/attach/ws", False),
        # aiohttp sends another Host with these.
        ("unix://localhost:80/attach/ws", False),
        ("ws://localhost:80/attach/ws", True),
        ("http://localhost/attach/ws", True),
    ]
    for url, reused in calls:
        async with session.ws_connect(url) as ws:
            assert ws.reused is reused, url
            await ws.send_str("x")
            assert await ws.receive_str() == "x"


async def test_what_is_shown_of_it(file: Path, make_session: SessionFactory) -> None:
    session = make_session(client_session=client_session_for(file), limit=1)
    async with session.ws_connect("unix://localhost/attach/ws") as ws:
        assert repr(ws) == "<ClientWebSocketResponse(localhost)>"
        (endpoint,) = session.stats_by_endpoint()
        assert (endpoint.host, endpoint.port, endpoint.is_ssl) == ("localhost", 0, False)
        with pytest.raises(TimeoutError, match=r"to localhost\b"):
            await session.ws_connect("unix://localhost/attach/ws", acquire_timeout=0)
    await session.drain("unix://localhost/attach/ws")
    assert session.stats().idle == 0
    assert await session.prewarm("unix://localhost/attach/ws", 1) == 1


async def test_other_schemes_are_refused(file: Path, make_session: SessionFactory) -> None:
    session = make_session(client_session=client_session_for(file))
    with pytest.raises(aiohttp.NonHttpUrlClientError, match="ws, wss, http, https or unix"):
        session.ws_connect("npipe://localhost/")
    with pytest.raises(aiohttp.InvalidUrlClientError, match="has no host"):
        session.ws_connect("unix:///var/run/docker.sock")
    with pytest.raises(aiohttp.NonHttpUrlClientError):
        make_session().ws_connect("unix://localhost/")


async def test_the_connector_is_asked_for_its_schemes() -> None:
    class OnlyTLS(aiohttp.TCPConnector):
        allowed_protocol_schema_set = frozenset({"wss", "own"})

    session = WebSocketClientSession(client_session=aiohttp.ClientSession(connector=OnlyTLS()))
    with pytest.raises(
        aiohttp.NonHttpUrlClientError, match="url must have the scheme wss or own, got 'ws'"
    ):
        session.ws_connect("ws://localhost/")
    with pytest.raises(aiohttp.InvalidUrlClientError, match="has no port"):
        session.ws_connect("own://localhost/")
    for url in ("wss://localhost/", "own://localhost:1/"):
        session.ws_connect(url).close()
    await session.close()
    assert {"unix"} == aiohttp.UnixConnector.allowed_protocol_schema_set - (
        aiohttp.BaseConnector.allowed_protocol_schema_set
    )
