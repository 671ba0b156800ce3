"""Servers that ping with messages, and servers that close connections that say nothing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession


class Server:
    """Pings at ``/pinging``; at ``/strict``, closes connections that say nothing for a while."""

    patience = 0.5

    def __init__(self) -> None:
        self.open: list[web.WebSocketResponse] = []
        self.received: list[Any] = []

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.open.append(ws)
        patience = self.patience if request.path == "/strict" else None
        try:
            while True:
                message = await ws.receive(patience)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                await self.answer(ws, message.json())
        except TimeoutError:
            await ws.close(code=1008, message=b"nothing was said")
        self.open.remove(ws)
        return ws

    async def answer(self, ws: web.WebSocketResponse, message: dict[str, Any]) -> None:
        self.received.append(message["type"])
        if message["type"] == "ask":
            await ws.send_json({"type": "answer", "id": message["id"]})
        elif message["type"] == "ping":
            await ws.send_json({"type": "pong"})


async def ask(session: WebSocketClientSession, url: str, number: int) -> bool:
    """Ask something, and return whether the connection was used before."""
    async with session.ws_connect(url) as ws:
        await ws.send_json({"type": "ask", "id": number})
        while (message := await ws.receive_json())["type"] == "ping":
            # A ping that comes while a caller has the connection is for the caller.
            await ws.send_json({"type": "pong"})
        assert message == {"type": "answer", "id": number}
        return ws.reused


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def answer_ping(message: aiohttp.WSMessage) -> str | None:
    """Answer the server's pings; any other message closes the connection."""
    return '{"type": "pong"}' if message.json()["type"] == "ping" else None


async def pings_as_messages(url: str, server: Server) -> None:
    async with WebSocketClientSession(on_idle_message=answer_ping) as session:
        await ask(session, url, 1)
        for ws in server.open:
            await ws.send_json({"type": "ping"})
        await until(lambda: "pong" in server.received)
        assert await ask(session, url, 2)


async def keep_alive(url: str, server: Server) -> None:
    keepalive = (server.patience / 5, json.dumps({"type": "KeepAlive"}))
    goodbye = json.dumps({"type": "CloseStream"})
    async with WebSocketClientSession(keepalive=keepalive, goodbye=goodbye) as session:
        await ask(session, url, 3)
        await asyncio.sleep(2 * server.patience)
        assert await ask(session, url, 4)
    assert "KeepAlive" in server.received
    await until(lambda: "CloseStream" in server.received)


async def ping(ws: ClientWebSocketResponse) -> None:
    await ws.send_json({"type": "ping"})
    if (await ws.receive_json())["type"] != "pong":
        raise aiohttp.ClientError("the server did not answer the ping")


async def answered_keep_alive(url: str, server: Server) -> None:
    async with WebSocketClientSession(keepalive=(server.patience / 5, ping)) as session:
        await ask(session, url, 5)
        await asyncio.sleep(2 * server.patience)
        # Between a ping and its pong, no caller gets the connection.
        await asyncio.gather(*(ask(session, url, number) for number in range(6, 16)))


async def main() -> None:
    service = Server()
    app = web.Application()
    app.router.add_get("/{path}", service.handle)
    async with TestServer(app) as server:
        await pings_as_messages(str(server.make_url("/pinging")), service)
        await keep_alive(str(server.make_url("/strict")), service)
        await answered_keep_alive(str(server.make_url("/strict")), service)
    print(f"{service.received.count('ask')} questions, {service.received.count('ping')} pings")


asyncio.run(main())
