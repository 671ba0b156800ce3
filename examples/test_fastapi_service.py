"""Tests of fastapi_service.py: the whole application, and its handlers with a test pool."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from fastapi_service import lifespan, make_app, pool_of

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.testing import WebSocketServer


@pytest.mark.asyncio
async def test_from_start_to_end(ws_server: WebSocketServer) -> None:
    app = make_app(ws_server.url)
    transport = httpx.ASGITransport(app)
    # The transport does not run the lifespan.
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert ws_server.connections == 1
        for question in ("one", "two"):
            reply = await client.get("/ask", params={"question": question})
            assert reply.json() == {"answer": question}
        assert (await client.get("/")).json()["released"] == 2
    assert app.state.pool.closed
    assert ws_server.connections == 1


@pytest_asyncio.fixture
async def client(
    ws_server: WebSocketServer, ws_session: WebSocketClientSession
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of handlers with the fixture's pool, which reports unreleased connections."""
    app = make_app(ws_server.url)
    app.dependency_overrides[pool_of] = lambda: ws_session
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


@pytest.mark.asyncio
async def test_a_refusal(client: httpx.AsyncClient, ws_server: WebSocketServer) -> None:
    ws_server.refuse(403, times=1)
    reply = await client.get("/ask", params={"question": "one"})
    assert (reply.status_code, reply.json()) == (502, {"detail": "WSServerHandshakeError"})
    assert (await client.get("/ask", params={"question": "two"})).status_code == 200


@pytest.mark.asyncio
async def test_an_end_instead_of_an_answer(
    client: httpx.AsyncClient, ws_server: WebSocketServer
) -> None:
    ws_server.reply_with({"two": "2"})
    reply = await client.get("/ask", params={"question": "one"})
    assert (reply.status_code, reply.json()) == (502, {"detail": "WSMessageTypeError"})
    assert (await client.get("/ask", params={"question": "two"})).json() == {"answer": "2"}
    # For "one" the server sent no reply and closed the connection, as told.
    ws_server.errors.clear()


@pytest.mark.asyncio
@pytest.mark.ws_session(limit=1, max_waiting=0)
async def test_too_much(
    client: httpx.AsyncClient, ws_server: WebSocketServer, ws_session: WebSocketClientSession
) -> None:
    async with ws_session.ws_connect(ws_server.url):
        reply = await client.get("/ask", params={"question": "one"})
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == "1"
