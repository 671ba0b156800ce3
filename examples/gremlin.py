"""A graph database like Gremlin Server: replies in parts, a login challenge, sessions."""

import asyncio
import base64
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession

SUCCESS, NO_CONTENT, PARTIAL_CONTENT, AUTHENTICATE = 200, 204, 206, 407
UNAUTHORIZED, SCRIPT_ERROR = 401, 597


class GremlinError(Exception):
    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(f"{status['code']}: {status['message']}")
        self.code: int = status["code"]


def raise_for_status(response: dict[str, Any]) -> None:
    if response["status"]["code"] not in {SUCCESS, NO_CONTENT}:
        raise GremlinError(response["status"])


async def send(
    ws: ClientWebSocketResponse,
    op: str,
    args: dict[str, Any],
    *,
    processor: str = "",
    request_id: str | None = None,
) -> str:
    request_id = request_id or str(uuid.uuid4())
    request = {"requestId": request_id, "op": op, "processor": processor, "args": args}
    await ws.send_json(request)
    return request_id


async def receive(ws: ClientWebSocketResponse, request_id: str) -> dict[str, Any]:
    message = await ws.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise aiohttp.ServerDisconnectedError(f"closed with {ws.close_code}")
    response: dict[str, Any] = message.json()
    if response["requestId"] != request_id:
        raise aiohttp.ClientError("a response to another request")
    return response


@dataclass(frozen=True)
class Login:
    """Answers the challenge, which the server sends at the first request of a connection."""

    user: str
    password: str = field(repr=False)

    async def __call__(self, ws: ClientWebSocketResponse) -> None:
        request_id = await send(ws, "eval", {"gremlin": "''"})
        response = await receive(ws, request_id)
        if response["status"]["code"] == AUTHENTICATE:
            sasl = base64.b64encode(f"\0{self.user}\0{self.password}".encode()).decode()
            await send(ws, "authentication", {"sasl": sasl}, request_id=request_id)
            response = await receive(ws, request_id)
        raise_for_status(response)


class Graph:
    def __init__(self, url: str, login: Login, *, limit: int) -> None:
        self.url = url
        self.pool = WebSocketClientSession(limit=limit, configure=login, conn_timeout=5)

    async def submit(self, script: str) -> AsyncGenerator[Any, None]:
        """Run a script and yield its results as they arrive."""
        async with self.pool.ws_connect(self.url) as ws:
            request_id = await send(ws, "eval", {"gremlin": script})
            code = PARTIAL_CONTENT
            while code == PARTIAL_CONTENT:
                response = await receive(ws, request_id)
                code = response["status"]["code"]
                for result in response["result"]["data"]:
                    yield result
        # The last part has been read, even if it is an error: the connection can be reused.
        raise_for_status(response)

    async def fetch(self, script: str) -> list[Any]:
        """Run a script and return all of its results."""
        return [result async for result in self.submit(script)]

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator["GraphSession"]:
        """Hold a connection: a session belongs to its connection and ends with it."""
        async with self.pool.ws_connect(self.url) as ws:
            yield GraphSession(ws, str(uuid.uuid4()))
            await ws.close()


class GraphSession:
    def __init__(self, ws: ClientWebSocketResponse, session_id: str) -> None:
        self.ws = ws
        self.id = session_id

    async def fetch(self, script: str) -> list[Any]:
        args = {"gremlin": script, "session": self.id}
        request_id = await send(self.ws, "eval", args, processor="session")
        results, code = [], PARTIAL_CONTENT
        while code == PARTIAL_CONTENT:
            response = await receive(self.ws, request_id)
            code = response["status"]["code"]
            results += response["result"]["data"]
        raise_for_status(response)
        return results


class Server:
    """The parts of a Gremlin Server that this example needs."""

    batch = 64

    def __init__(self) -> None:
        self.logins = 0
        self.sessions: dict[str, int] = {}

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        user = None
        begun: dict[str, str] = {}
        opened: set[str] = set()
        async for message in ws:
            call = message.json()
            request_id, args = call["requestId"], call["args"]
            if call["op"] == "authentication":
                _, user, password = base64.b64decode(args["sasl"]).decode().split("\0")
                if password != "secret":
                    await respond(ws, request_id, UNAUTHORIZED, message="wrong password")
                    break
                self.logins += 1
                args = {"gremlin": begun.pop(request_id)}
            if user is None:
                begun[request_id] = args["gremlin"]
                await respond(ws, request_id, AUTHENTICATE)
                continue
            if "session" in args:
                opened.add(args["session"])
            await self.evaluate(ws, request_id, args)
        for session in opened:
            self.sessions.pop(session, None)
        return ws

    async def evaluate(
        self, ws: web.WebSocketResponse, request_id: str, args: dict[str, Any]
    ) -> None:
        match args["gremlin"].split():
            case ["''"]:
                await respond(ws, request_id, SUCCESS, [""])
            case ["range", count]:
                numbers = list(range(int(count)))
                while len(numbers) > self.batch:
                    part, numbers = numbers[: self.batch], numbers[self.batch :]
                    await respond(ws, request_id, PARTIAL_CONTENT, part)
                await respond(ws, request_id, SUCCESS, numbers)
            case ["x", "=", value]:
                self.sessions[args["session"]] = int(value)
                await respond(ws, request_id, NO_CONTENT)
            case ["x"] if args.get("session") in self.sessions:
                await respond(ws, request_id, SUCCESS, [self.sessions[args["session"]]])
            case _:
                await respond(ws, request_id, SCRIPT_ERROR, message="no such property")


async def respond(
    ws: web.WebSocketResponse,
    request_id: str,
    code: int,
    data: list[Any] | None = None,
    message: str = "",
) -> None:
    status = {"code": code, "message": message, "attributes": {}}
    result = {"data": data or [], "meta": {}}
    await ws.send_json({"requestId": request_id, "status": status, "result": result})


async def error_of(call: Awaitable[object]) -> Exception:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


async def use(url: str, server: Server) -> None:
    graph = Graph(url, Login("reader", "secret"), limit=4)
    async with graph.pool as pool:
        # 200 results arrive in four parts. 20 callers share four connections and four logins.
        answers = await asyncio.gather(*(graph.fetch("range 200") for _ in range(20)))
        assert answers == [list(range(200))] * 20
        assert server.logins == pool.stats().connects <= 4

        # An error is an ordinary reply and costs no connection.
        error = await error_of(graph.fetch("y"))
        assert isinstance(error, GremlinError)
        assert error.code == SCRIPT_ERROR
        assert pool.stats().idle == pool.stats().connects

        # An iterator that is read to its end releases its connection. Leaving it early closes the
        # connection, because parts are still on their way. aclosing() closes the iterator at once.
        assert [n async for n in graph.submit("range 200")] == list(range(200))
        assert pool.stats().closed_cancelled == 0
        async with contextlib.aclosing(graph.submit("range 200")) as numbers:
            async for number in numbers:
                if number == 100:
                    break
        assert pool.stats().closed_cancelled == 1

        # The variables of a session end with its connection; no other caller sees them.
        async with graph.session() as session:
            await session.fetch("x = 5")
            assert await session.fetch("x") == [5]
        assert pool.stats().closed_user == 1
        error = await error_of(graph.fetch("x"))
        assert isinstance(error, GremlinError)

    # If the login fails, the caller that asked for the connection gets the error.
    stranger = Graph(url, Login("reader", "guess"), limit=4)
    async with stranger.pool:
        error = await error_of(stranger.fetch("''"))
        assert isinstance(error, GremlinError)
        assert error.code == UNAUTHORIZED


async def main() -> None:
    graph_server = Server()
    app = web.Application()
    app.router.add_get("/gremlin", graph_server.handle)
    async with TestServer(app) as server:
        await use(str(server.make_url("/gremlin")), graph_server)
    print(f"{graph_server.logins} logins")


asyncio.run(main())
