"""GraphQL without gql: login, pings as messages, and the messages of a query."""

import asyncio
import json
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession

PROTOCOL = "graphql-transport-ws"
PONG = '{"type": "pong"}'
ids = count(1)


@dataclass(frozen=True)
class Login:
    """Sends ``connection_init`` once for each connection; equal tokens share connections."""

    token: str

    async def __call__(self, ws: ClientWebSocketResponse) -> None:
        await ws.send_json({"type": "connection_init", "payload": {"token": self.token}})
        while (reply := await ws.receive_json())["type"] == "ping":
            await ws.send_str(PONG)
        if reply["type"] != "connection_ack":
            raise aiohttp.ClientError("the server did not acknowledge the login")


def answer_ping(message: aiohttp.WSMessage) -> str | None:
    """Answer a ping on an idle connection; any other message closes the connection."""
    is_text = message.type is aiohttp.WSMsgType.TEXT
    return PONG if is_text and message.json()["type"] == "ping" else None


async def execute(pool: WebSocketClientSession, url: str, query: str) -> dict[str, Any]:
    """Return the result of a query, when the server has completed the query."""
    result: dict[str, Any] = {}
    name = str(next(ids))
    async with pool.ws_connect(url, protocols=[PROTOCOL]) as ws:
        await ws.send_json({"type": "subscribe", "id": name, "payload": {"query": query}})
        while True:
            match await ws.receive_json():
                case {"type": "ping"}:
                    await ws.send_str(PONG)
                case {"type": "next", "id": str(other), "payload": dict(payload)} if other == name:
                    result = payload
                case {"type": "error", "id": str(other), "payload": list(errors)} if other == name:
                    result = {"errors": errors}
                    break
                case {"type": "complete", "id": str(other)} if other == name:
                    break
                case message:
                    # Closes the connection: the server and this program disagree.
                    raise aiohttp.ClientError(f"unexpected message: {message['type']}")
    return result


async def use(url: str) -> None:
    async with (
        WebSocketClientSession(
            limit=8, conn_timeout=5, configure=Login("secret"), on_idle_message=answer_ping
        ) as pool,
        asyncio.timeout(30),
    ):
        for _ in range(3):
            results = await asyncio.gather(*(execute(pool, url, "{ hello }") for _ in range(50)))
            assert results == [{"data": {"hello": "world"}}] * 50
            # Meanwhile, the server pings idle connections.
            await asyncio.sleep(0.2)
        assert await execute(pool, url, "{ wrong }") == {"errors": [{"message": "no such field"}]}
        assert pool.stats().connects == 8
        assert pool.stats().closed_dirty == 0


class Server:
    """Pings each connection with messages, and expects a pong for each ping."""

    def __init__(self) -> None:
        self.pings = self.pongs = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=[PROTOCOL])
        await ws.prepare(request)
        assert (await ws.receive_json())["payload"] == {"token": "secret"}
        await ws.send_json({"type": "connection_ack"})
        pinging = asyncio.create_task(self.ping(ws))
        async for message in ws:
            command = json.loads(message.data)
            if command["type"] == "pong":
                self.pongs += 1
            elif command["payload"]["query"] == "{ hello }":
                payload = {"data": {"hello": "world"}}
                await ws.send_json({"type": "next", "id": command["id"], "payload": payload})
                await ws.send_json({"type": "complete", "id": command["id"]})
            else:
                errors = [{"message": "no such field"}]
                await ws.send_json({"type": "error", "id": command["id"], "payload": errors})
        pinging.cancel()
        return ws

    async def ping(self, ws: web.WebSocketResponse) -> None:
        while True:
            self.pings += 1
            await ws.send_json({"type": "ping"})
            await asyncio.sleep(0.05)


async def main() -> None:
    server = Server()
    app = web.Application()
    app.router.add_get("/graphql", server.handle)
    async with TestServer(app) as running:
        await use(str(running.make_url("/graphql")))
    assert 0 < server.pongs <= server.pings
    print("151 queries: 8 handshakes")


asyncio.run(main())
