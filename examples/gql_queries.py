"""GraphQL with gql: the queries of many callers over eight connections."""

import asyncio
import contextlib
import json

from aiohttp import web
from aiohttp.test_utils import TestServer
from gql import Client, GraphQLRequest, gql
from gql.transport.exceptions import TransportQueryError

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.gql import PooledWebsocketsTransport

ECHO = gql("query ($text: String!) { echo(text: $text) }")


async def ask(url: str, pool: WebSocketClientSession, text: str) -> str:
    transport = PooledWebsocketsTransport(url, pool, init_payload={"token": "secret"})
    async with Client(transport=transport) as session:
        reply = await session.execute(GraphQLRequest(ECHO, variable_values={"text": text}))
    return reply["echo"]


async def use(url: str) -> None:
    async with WebSocketClientSession(limit=8, conn_timeout=10) as pool:
        texts = [f"text {n}" for n in range(200)]
        assert await asyncio.gather(*(ask(url, pool, text) for text in texts)) == texts
        assert pool.stats().connects == 8
        # An error reply completes its query, and costs no connection.
        with contextlib.suppress(TransportQueryError):
            await ask(url, pool, "")
        assert pool.stats().released == 201


class Server:
    """As much of graphql-transport-ws as the queries need."""

    def __init__(self) -> None:
        self.inits = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=["graphql-transport-ws"])
        await ws.prepare(request)
        async for message in ws:
            command = json.loads(message.data)
            if command["type"] == "connection_init":
                assert command["payload"] == {"token": "secret"}
                self.inits += 1
                await ws.send_json({"type": "connection_ack"})
            elif command["type"] == "subscribe":
                await self.answer(ws, command["id"], command["payload"]["variables"]["text"])
        return ws

    async def answer(self, ws: web.WebSocketResponse, name: str, text: str) -> None:
        if not text:
            errors = [{"message": "text is empty"}]
            await ws.send_json({"id": name, "type": "error", "payload": errors})
            return
        await ws.send_json({"id": name, "type": "next", "payload": {"data": {"echo": text}}})
        await ws.send_json({"id": name, "type": "complete"})


async def main() -> None:
    server = Server()
    app = web.Application()
    app.router.add_get("/graphql", server.handle)
    async with TestServer(app) as running:
        await use(str(running.make_url("/graphql")))
    assert server.inits == 8
    print("200 queries: 8 handshakes")


asyncio.run(main())
