"""A library that takes an aiohttp.ClientSession, over a pool: what it needs, and what it risks."""

import asyncio

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import PooledClientSession, WebSocketClientSession, check_ping


class Translator:
    """A library: it knows nothing of pools."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def languages(self) -> list[str]:
        async with self.session.get(f"{self.url}/languages") as reply:
            return (await reply.json())["languages"]

    async def translate(self, text: str) -> str:
        ws = await self.session.ws_connect(f"{self.url}/translate", heartbeat=30)
        try:
            await ws.send_str(text)
            return await ws.receive_str()
        finally:
            await ws.close()

    async def first_of_stream(self) -> str:
        async with self.session.ws_connect(f"{self.url}/stream") as ws:
            return await ws.receive_str()


async def limit(url: str) -> None:
    async with WebSocketClientSession(limit=8, conn_timeout=10) as pool:
        translator = Translator(url, PooledClientSession(pool))
        assert await translator.languages() == ["de", "fr"]
        await asyncio.gather(*(translator.translate(str(n)) for n in range(50)))
        # The library closes each connection; the server never saw more than 8 at once.
        assert pool.stats().connects == 50


async def reuse(url: str) -> None:
    async with WebSocketClientSession(limit=8, conn_timeout=10) as pool:
        translator = Translator(url, PooledClientSession(pool, release_on_close=True))
        await asyncio.gather(*(translator.translate(str(n)) for n in range(50)))
        assert pool.stats().connects <= 8
        assert pool.stats().released == 50


async def reuse_with_a_fence(url: str) -> None:
    async with WebSocketClientSession(limit=1, reset=check_ping()) as pool:
        translator = Translator(url, PooledClientSession(pool, release_on_close=True))
        # The library leaves in the middle of a stream. The rest is unread, or on its way.
        assert await translator.first_of_stream() == "0"
        # The pool or the PING finds it, and the connection is closed: the next caller begins anew.
        assert await translator.first_of_stream() == "0"
        assert pool.stats().connects == 2


class Server:
    def __init__(self) -> None:
        self.open = self.peak = 0

    async def languages(self, request: web.Request) -> web.Response:
        return web.json_response({"languages": ["de", "fr"]})

    async def translate(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            async for message in ws:
                await ws.send_str(f"[{message.data}]")
        finally:
            self.open -= 1
        return ws

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)

        async def send() -> None:
            for number in range(1_000_000):
                await ws.send_str(str(number))
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        async for _ in ws:
            pass
        sending.cancel()
        return ws


async def main() -> None:
    server = Server()
    app = web.Application()
    app.router.add_get("/languages", server.languages)
    app.router.add_get("/translate", server.translate)
    app.router.add_get("/stream", server.stream)
    async with TestServer(app) as running:
        url = str(running.make_url("")).rstrip("/")
        await limit(url)
        assert server.peak <= 8
        await reuse(url)
        await reuse_with_a_fence(url)
    print("50 translations: 50 handshakes, and 8 with release_on_close")


asyncio.run(main())
