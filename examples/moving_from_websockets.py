"""Moving from websockets, with a connection for each call: the program before and after."""

import asyncio
from collections import Counter

import aiohttp
import websockets
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import WebSocketClientSession

TOKEN = {"Authorization": "Bearer secret"}


async def before(url: str, questions: list[str]) -> Counter[str]:
    async def ask(question: str) -> str:
        async with websockets.connect(url, additional_headers=TOKEN, proxy=None) as ws:
            await ws.send(question)
            return str(await ws.recv())

    outcomes: Counter[str] = Counter()
    for question in questions:
        try:
            outcomes[await ask(question)] += 1
        except websockets.ConnectionClosed as exc:
            outcomes[f"closed with {exc.rcvd.code if exc.rcvd else 1006}"] += 1
        except websockets.InvalidStatus as exc:
            outcomes[f"refused with {exc.response.status_code}"] += 1
    return outcomes


async def after(url: str, questions: list[str]) -> Counter[str]:
    async def ask(question: str) -> str:
        # The defaults of websockets: compression, pings, and a limit of size.
        async with pool.ws_connect(
            url, headers=TOKEN, compress=12, heartbeat=20, max_msg_size=2**20
        ) as ws:
            await ws.send_str(question)
            message = await ws.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                # aiohttp reports the end in ws.close_code, not by an exception.
                return f"closed with {ws.close_code}"
            return str(message.data)

    outcomes: Counter[str] = Counter()
    async with WebSocketClientSession(limit=10, conn_timeout=10, close_timeout=10) as pool:
        for question in questions:
            try:
                outcomes[await ask(question)] += 1
            except aiohttp.WSServerHandshakeError as exc:
                outcomes[f"refused with {exc.status}"] += 1
    return outcomes


class Server:
    def __init__(self) -> None:
        self.handshakes = 0
        self.refusals = 1

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        assert request.headers["Authorization"] == TOKEN["Authorization"]
        if self.refusals:
            self.refusals -= 1
            raise web.HTTPForbidden
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        async for message in ws:
            if message.data == "break":
                await ws.close(code=aiohttp.WSCloseCode.GOING_AWAY)
                break
            await ws.send_str(message.data)
        return ws


async def main() -> None:
    questions = ["first", *["again"] * 20, "break", *["again"] * 20]
    outcomes = []
    for program in (before, after):
        handler = Server()
        app = web.Application()
        app.router.add_get("/", handler.handle)
        async with TestServer(app) as server:
            url = str(server.make_url("/")).replace("http", "ws", 1)
            outcomes.append(await program(url, questions))
        print(f"{program.__name__}: {handler.handshakes} handshakes")
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == {"refused with 403": 1, "again": 40, "closed with 1001": 1}
    assert handler.handshakes == 2


asyncio.run(main())
