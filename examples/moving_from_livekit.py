"""Moving from livekit-agents' ConnectionPool: the program before, if installed, and after."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession

try:
    from livekit.agents.utils import ConnectionPool
except ImportError:
    ConnectionPool = None

HEADERS = {"Authorization": "Bearer secret"}


async def before(url: str, questions: list[str]) -> list[str]:
    http = aiohttp.ClientSession()

    async def connect(timeout: float) -> aiohttp.ClientWebSocketResponse:  # noqa: ASYNC109
        ws = await asyncio.wait_for(http.ws_connect(url, headers=HEADERS), timeout)
        await ws.send_str("voice=ada")
        return ws

    async def close(ws: aiohttp.ClientWebSocketResponse) -> None:
        await ws.close()

    pool: ConnectionPool[aiohttp.ClientWebSocketResponse] = ConnectionPool(
        connect_cb=connect, close_cb=close, max_session_duration=300, mark_refreshed_on_get=True
    )
    pool.prewarm()
    answers = []
    for question in questions:
        async with pool.connection(timeout=10) as ws:
            await ws.send_str(question)
            answers.append(await ws.receive_str())
    # Settings have changed: no open connection may be used again.
    pool.invalidate()
    async with pool.connection(timeout=10) as ws:
        await ws.send_str("the last")
        answers.append(await ws.receive_str())
    await pool.aclose()
    await http.close()
    return answers


async def say_voice(ws: ClientWebSocketResponse) -> None:
    await ws.send_str("voice=ada")


async def after(url: str, questions: list[str]) -> list[str]:
    pool = WebSocketClientSession(
        configure=say_voice, max_idle=300, conn_timeout=10, limit=20, headers=HEADERS
    )
    async with pool:
        # prewarm() is awaited, and raises if it fails.
        await pool.prewarm(url, 1)
        answers = []
        for question in questions:
            async with pool.ws_connect(url) as ws:
                await ws.send_str(question)
                answers.append(await ws.receive_str())
        # Settings have changed: no open connection may be used again.
        await pool.drain(url)
        async with pool.ws_connect(url) as ws:
            await ws.send_str("the last")
            answers.append(await ws.receive_str())
    return answers


class Echo:
    def __init__(self) -> None:
        self.handshakes = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        assert await ws.receive_str() == "voice=ada"
        async for message in ws:
            await ws.send_str(message.data)
        return ws


async def run(program: Callable[[str, list[str]], Awaitable[list[str]]]) -> int:
    echo = Echo()
    app = web.Application()
    app.router.add_get("/", echo.handle)
    questions = [str(n) for n in range(20)]
    async with TestServer(app) as server:
        answers = await program(str(server.make_url("/")), questions)
    assert answers == [*questions, "the last"]
    return echo.handshakes


async def main() -> None:
    if ConnectionPool is not None:
        print(f"before: {await run(before)} handshakes")
    assert await run(after) == 2
    print("after: 2 handshakes")


asyncio.run(main())
