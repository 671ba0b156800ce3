"""A real GraphQL server that speaks graphql-transport-ws, and closes what breaks the protocol."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web
from graphql import ExecutionResult, GraphQLError, build_schema, execute, parse, subscribe, validate

from ..servers import Server

PROTOCOL = "graphql-transport-ws"

SCHEMA = build_schema(
    """
    type Query {
      echo(text: String!): String!
      slow(text: String!): String!
      fails: String
    }
    type Subscription {
      count(to: Int!): Int!
      stream: Int!
    }
    """
)


class Root:
    """The resolvers."""

    def __init__(self, server: "GraphQLServer") -> None:
        self._server = server

    async def echo(self, info: Any, text: str) -> str:
        return text

    async def slow(self, info: Any, text: str) -> str:
        await self._server.may_answer.wait()
        return text

    def fails(self, info: Any) -> None:
        raise GraphQLError("it fails")

    async def count(self, info: Any, to: int) -> AsyncIterator[dict[str, int]]:
        for number in range(to):
            yield {"count": number}

    async def stream(self, info: Any) -> AsyncIterator[dict[str, int]]:
        number = 0
        while True:
            yield {"stream": number}
            number += 1
            await asyncio.sleep(0)


class GraphQLServer(Server):
    """It wants ``token`` as payload of ``connection_init``, and sends pings when it is told to."""

    def __init__(self, token: str | None = None) -> None:
        super().__init__()
        self.token = token
        # Allowed at any time, but gql's own transport expects the acknowledgement first.
        self.pings_first = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.connections: list[_Connection] = []
        self.inits = 0
        self.queries = 0
        self.pongs = 0
        self.peak_of_queries = 0

    async def ping_all(self) -> int:
        """Send a ping over each connection, and return the number of them."""
        connections = list(self.connections)
        for connection in connections:
            await connection.send({"type": "ping"})
        return len(connections)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(protocols=(PROTOCOL,), timeout=1.0)
        await ws.prepare(request)
        self.handshakes += 1
        self.sockets.append(ws)
        transport = request.transport
        assert transport is not None
        self.transports.append(transport)
        self.peak = max(self.peak, len(self.sockets))
        connection = _Connection(self, ws)
        self.connections.append(connection)
        try:
            await connection.serve()
        finally:
            self.connections.remove(connection)
            connection.stop()
            self.sockets.remove(ws)
            self.transports.remove(transport)
            self.close_codes.append(ws.close_code)
        return ws


class _Connection:
    """One connection, with the operations that it runs."""

    def __init__(self, server: GraphQLServer, ws: web.WebSocketResponse) -> None:
        self._server = server
        self._ws = ws
        self._is_initialized = False
        self._operations: dict[str, asyncio.Task[None]] = {}

    async def send(self, message: dict[str, Any]) -> None:
        if not self._ws.closed:
            await self._ws.send_json(message)

    async def serve(self) -> None:
        async for message in self._ws:
            if message.type is not WSMsgType.TEXT:
                await self._ws.close(code=4400)
                return
            code = await self._take(json.loads(message.data))
            if code:
                await self._ws.close(code=code)
                return

    def stop(self) -> None:
        for task in self._operations.values():
            task.cancel()

    async def _take(self, message: dict[str, Any]) -> int:
        """Return the code to close the connection with, or 0."""
        kind = message["type"]
        if kind == "connection_init":
            return await self._initialize(message.get("payload") or {})
        if kind == "ping":
            await self.send({"type": "pong"})
        elif kind == "pong":
            self._server.pongs += 1
        elif kind == "subscribe":
            return self._subscribe(message["id"], message["payload"])
        elif kind == "complete":
            task = self._operations.pop(message["id"], None)
            if task is not None:
                task.cancel()
        else:
            return 4400
        return 0

    async def _initialize(self, payload: dict[str, Any]) -> int:
        if self._is_initialized:
            return 4429
        if payload.get("token") != self._server.token:
            return 4403
        self._is_initialized = True
        self._server.inits += 1
        if self._server.pings_first:
            await self.send({"type": "ping"})
        await self.send({"type": "connection_ack"})
        return 0

    def _subscribe(self, name: str, payload: dict[str, Any]) -> int:
        if not self._is_initialized:
            return 4401
        if name in self._operations:
            return 4409
        self._server.queries += 1
        self._operations[name] = asyncio.create_task(self._run(name, payload))
        self._server.peak_of_queries = max(self._server.peak_of_queries, len(self._operations))
        return 0

    async def _run(self, name: str, payload: dict[str, Any]) -> None:
        try:
            document = parse(payload["query"])
            errors = validate(SCHEMA, document)
        except GraphQLError as error:
            errors = [error]
        if errors:
            del self._operations[name]
            refusal = [error.formatted for error in errors]
            await self.send({"id": name, "type": "error", "payload": refusal})
            return
        is_subscription = payload["query"].lstrip().startswith("subscription")
        run = subscribe if is_subscription else execute
        found: Any = run(
            SCHEMA, document, Root(self._server), variable_values=payload.get("variables")
        )
        if inspect.isawaitable(found):
            found = await found
        results = _once(found) if isinstance(found, ExecutionResult) else found
        async for result in results:
            await self.send({"id": name, "type": "next", "payload": result.formatted})
        del self._operations[name]
        await self.send({"id": name, "type": "complete"})


async def _once(result: ExecutionResult) -> AsyncIterator[ExecutionResult]:
    yield result
