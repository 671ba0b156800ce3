"""Moving from aiohttp, with a connection for each call: the program before and after."""

import asyncio

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import WebSocketClientSession

HEADERS = {"Authorization": "Bearer secret"}


async def before(url: str, questions: list[str]) -> list[str]:
    async def ask(question: str) -> str:
        async with session.ws_connect(url, headers=HEADERS, heartbeat=30) as ws:
            await ws.send_str(question)
            return await ws.receive_str()

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*map(ask, questions))


async def after(url: str, questions: list[str]) -> list[str]:
    async def ask(question: str) -> str:
        async with session.ws_connect(url, headers=HEADERS, heartbeat=30) as ws:
            await ws.send_str(question)
            return await ws.receive_str()

    async with WebSocketClientSession(limit=10, conn_timeout=5) as session:
        return await asyncio.gather(*map(ask, questions))


async def after_with_a_client_session(url: str, questions: list[str]) -> list[str]:
    """Connect with a client session that also has cookies, middlewares or a proxy."""
    # No limit here: the pool has its own, and a handshake would hang at this limit.
    connector = aiohttp.TCPConnector(limit=0)
    # No timeout here: aiohttp would keep a timer for each connection.
    timeout = aiohttp.ClientTimeout()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        pool = WebSocketClientSession(
            client_session=client, client_session_owner=False, limit=10, conn_timeout=5
        )
        async with pool:
            answers = []
            for question in questions:
                async with pool.ws_connect(url, headers=HEADERS) as ws:
                    await ws.send_str(question)
                    answers.append(await ws.receive_str())
        assert not client.closed
        return answers


class Echo:
    def __init__(self) -> None:
        self.handshakes = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        async for message in ws:
            await ws.send_str(message.data)
        return ws


async def main() -> None:
    questions = [str(n) for n in range(50)]
    for program in (before, after, after_with_a_client_session):
        echo = Echo()
        app = web.Application()
        app.router.add_get("/", echo.handle)
        async with TestServer(app) as server:
            assert await program(str(server.make_url("/")), questions) == questions
        assert echo.handshakes <= {"before": 50, "after": 10}.get(program.__name__, 1)
        print(f"{program.__name__}: {echo.handshakes} handshakes")


asyncio.run(main())
