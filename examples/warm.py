"""Prewarmed connections, and connections that are checked before use."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import WebSocketClientSession, check_ping


class Provider:
    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.handshakes = 0
        self.is_silent = False

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        self.handshakes += 1
        self.tokens.append(request.headers.get("Authorization"))
        async for message in ws:
            if message.type is web.WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif not self.is_silent:
                await ws.pong(message.data)
        return ws


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def options(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}, "reuse_key": "our account"}


async def keep_warm(url: str, provider: Provider) -> None:
    async with WebSocketClientSession(limit=20) as session:
        # From now on, in the background: callers find idle connections.
        session.set_min_idle(url, 3, **options("token 1"))
        await until(lambda: session.stats().idle == 3)
        # Open connections stay; new connections use the new token.
        session.set_min_idle(url, 3, **options("token 2"))
        async with session.ws_connect(url, **options("token 2")) as ws:
            await ws.send_str("a turn")
            assert await ws.receive_str() == "a turn"
            # One connection is in use, so the pool opens another within a second.
            await until(lambda: session.stats().idle == 3)
            assert provider.tokens == [*["Bearer token 1"] * 3, "Bearer token 2"]
        assert session.stats().requests == 1
        # 0 ends it: idle connections stay, and the pool opens no more.
        session.set_min_idle(url, 0, **options("token 2"))


async def check_before_use(url: str, provider: Provider) -> None:
    async with WebSocketClientSession(check=check_ping(timeout=0.5)) as session:
        for reused in (False, True):
            async with session.ws_connect(url) as ws:
                assert ws.reused is reused
        # The provider does not answer: it hangs, or a firewall forgot the connection.
        provider.is_silent = True
        async with session.ws_connect(url) as ws:
            # The check fails, and the caller gets a new connection.
            assert not ws.reused
        provider.is_silent = False


async def main() -> None:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/", provider.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        await keep_warm(url, provider)
        await check_before_use(url, provider)
    print(f"{provider.handshakes} handshakes")


asyncio.run(main())
