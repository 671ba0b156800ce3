"""Tests of aiohttp_service.py: the whole application, and its handlers with a test pool."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_service import BACKEND, POOL, make_app, routes

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.testing import WebSocketServer


@pytest.mark.asyncio
async def test_from_start_to_end(ws_server: WebSocketServer) -> None:
    app = make_app(ws_server.url)
    async with TestClient(TestServer(app)) as client:
        assert ws_server.connections == 1
        for question in ("one", "two"):
            reply = await client.get("/ask", params={"question": question})
            assert await reply.json() == {"answer": question}
        assert (await (await client.get("/")).json())["released"] == 2
    assert app[POOL].closed
    await ws_server.until(lambda: ws_server.open == 0)
    assert ws_server.connections == 1


@pytest.mark.asyncio
async def test_a_backend_that_is_not_there_stops_the_start(ws_server: WebSocketServer) -> None:
    ws_server.refuse(503)
    with pytest.raises(aiohttp.ClientError):
        await TestServer(make_app(ws_server.url)).start_server()


@pytest.mark.asyncio
async def test_who_is_served_at_the_end_still_has_the_pool(ws_server: WebSocketServer) -> None:
    ws_server.delay(replies=0.1)
    app = make_app(ws_server.url)
    async with TestClient(TestServer(app)) as client:
        asking = asyncio.create_task(client.get("/ask", params={"question": "one"}))
        await ws_server.until(lambda: ws_server.received)
        await client.server.close()
        assert app[POOL].closed
        assert (await asking).status == 200


@pytest.fixture
def app(ws_server: WebSocketServer, ws_session: WebSocketClientSession) -> web.Application:
    """Return the handlers with the fixture's pool, which reports unreleased connections."""
    app = web.Application()
    app[BACKEND] = ws_server.url
    app[POOL] = ws_session
    app.add_routes(routes)
    return app


@pytest.mark.asyncio
async def test_a_broken_connection(app: web.Application, ws_server: WebSocketServer) -> None:
    ws_server.reply_with({"two": "2"})
    async with TestClient(TestServer(app)) as client:
        reply = await client.get("/ask", params={"question": "one"})
        assert reply.status == 502
        reply = await client.get("/ask", params={"question": "two"})
        assert await reply.json() == {"answer": "2"}
    # For "one" the server sent no reply and closed the connection, as told.
    ws_server.errors.clear()


@pytest.mark.asyncio
@pytest.mark.ws_session(limit=1, max_waiting=0)
async def test_too_much(
    app: web.Application, ws_server: WebSocketServer, ws_session: WebSocketClientSession
) -> None:
    async with TestClient(TestServer(app)) as client, ws_session.ws_connect(ws_server.url):
        reply = await client.get("/ask", params={"question": "one"})
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "1"
