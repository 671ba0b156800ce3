"""JSON-RPC: replies, error replies, and connections that break."""

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession


class JsonRpcError(Exception):
    """The server replied with an error; the connection is still good."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]


class JsonRpc:
    def __init__(self, session: WebSocketClientSession, url: str, *, timeout: float = 10.0) -> None:
        self._session = session
        self._url = url
        self._timeout = timeout
        self._ids = itertools.count(1)

    async def call(self, method: str, *params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        async with asyncio.timeout(self._timeout), self._session.ws_connect(self._url) as ws:
            await ws.send_json(request)
            reply = await reply_to(ws, request["id"])
        # After the block: an exception inside the block would close the connection.
        if "error" in reply:
            raise JsonRpcError(reply["error"])
        return reply["result"]


async def add(rpc: JsonRpc, a: int, b: int) -> int:
    try:
        result: int = await rpc.call("add", a, b)
    except aiohttp.ClientConnectionError:
        # Adding twice is harmless; paying twice would not be.
        result = await rpc.call("add", a, b)
    return result


async def reply_to(ws: ClientWebSocketResponse, request_id: Any) -> dict[str, Any]:
    while True:
        message = await ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise aiohttp.ServerDisconnectedError(f"closed with {ws.close_code}")
        reply: dict[str, Any] = message.json()
        if reply.get("id") == request_id:
            return reply
        # A message with a method is a notification; skip it.
        if "method" not in reply:
            raise aiohttp.ClientError("a reply without a request")


GATE = web.AppKey("gate", asyncio.Event)
BREAKS = web.AppKey("breaks", set)


async def serve(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        call = message.json()
        reply = {"jsonrpc": "2.0", "id": call["id"]}
        if call["method"] in request.app[BREAKS]:
            request.app[BREAKS].remove(call["method"])
            await ws.close(code=aiohttp.WSCloseCode.INTERNAL_ERROR)
            break
        match call["method"], call["params"]:
            case "add", [a, b]:
                await ws.send_json({"jsonrpc": "2.0", "method": "log", "params": ["adding"]})
                reply["result"] = a + b
            case "wait", []:
                await request.app[GATE].wait()
                reply["result"] = "waited"
            case "open", []:
                request.app[GATE].set()
                reply["result"] = None
            case "break", [method]:
                request.app[BREAKS].add(method)
                reply["result"] = None
            case _:
                reply["error"] = {"code": -32601, "message": "method not found"}
        await ws.send_json(reply)
    return ws


async def error_of(call: Awaitable[object]) -> Exception:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


async def use(session: WebSocketClientSession, url: str) -> None:
    rpc = JsonRpc(session, url)
    assert await rpc.call("add", 1, 2) == 3

    # One connection for each call in flight: the slow call does not delay the others.
    slow = asyncio.create_task(rpc.call("wait"))
    sums = await asyncio.gather(*(rpc.call("add", n, n) for n in range(100)))
    assert sums == [2 * n for n in range(100)]
    assert session.stats().connects <= 10

    # An error reply costs no connection.
    before = session.stats()
    error = await error_of(rpc.call("divide", 1, 0))
    assert isinstance(error, JsonRpcError)
    assert error.code == -32601
    assert session.stats().connects == before.connects
    assert session.stats().released == before.released + 1

    # A timeout closes the connection: the reply may still arrive, and must reach no other caller.
    hurried = JsonRpc(session, url, timeout=0.05)
    error = await error_of(hurried.call("wait"))
    assert isinstance(error, TimeoutError)
    assert session.stats().closed_cancelled == 1
    await rpc.call("open")
    assert await slow == "waited"

    # After a connection has broken, the next call uses another connection.
    await rpc.call("break", "add")
    error = await error_of(rpc.call("add", 1, 1))
    assert isinstance(error, aiohttp.ServerDisconnectedError)
    assert error.message == "closed with 1011"
    assert session.stats().closed_lost == 1
    assert await rpc.call("add", 1, 1) == 2

    # An idempotent request is sent again, and the caller does not notice.
    await rpc.call("break", "add")
    assert await add(rpc, 1, 1) == 2


async def main() -> None:
    app = web.Application()
    app[GATE] = asyncio.Event()
    app[BREAKS] = set()
    app.router.add_get("/", serve)
    async with TestServer(app) as server, WebSocketClientSession(limit=10) as session:
        await use(session, str(server.make_url("/")))
        stats = session.stats()
        print(f"{stats.requests} calls over {stats.connects} connections")


asyncio.run(main())
