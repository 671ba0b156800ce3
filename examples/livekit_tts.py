"""TTS of livekit-agents: one pool for all agents of a process. Runs if livekit is installed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PooledClientSession,
    WebSocketClientSession,
)

try:
    from livekit.agents.utils import ConnectionPool
    from livekit.plugins import deepgram
except ImportError:
    deepgram, ConnectionPool = None, object


class SharedPool(ConnectionPool):
    """Acquires a connection for each turn, and releases it after the turn."""

    @asynccontextmanager
    async def connection(self, *, timeout: float) -> AsyncIterator[ClientWebSocketResponse]:  # noqa: ASYNC109
        ws = await self._connect_cb(timeout)
        self.last_connection_reused = ws.reused
        async with ws:
            yield ws

    def prewarm(self) -> None:
        # session.prewarm() and session.set_min_idle() do it for all.
        pass


async def speak(tts: "deepgram.TTS", text: str) -> int:
    async with tts.stream() as stream:
        stream.push_text(text)
        stream.end_input()
        return len([event async for event in stream])


async def agents(url: str) -> None:
    async with WebSocketClientSession(limit=20, cooldown=1.0) as pool:
        http = PooledClientSession(pool, release_on_close=True, session_owner=False)
        for _ in range(10):
            tts = deepgram.TTS(api_key="key", base_url=url, http_session=http)
            tts._pool = SharedPool(connect_cb=tts._connect_ws)
            for text in ("Hello.", "How are you?"):
                assert await speak(tts, text) > 0
            await tts.aclose()
        assert pool.stats().released == 20


class Provider:
    def __init__(self) -> None:
        self.handshakes = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        async for message in ws:
            kind = json.loads(message.data)["type"]
            if kind == "Flush":
                await ws.send_bytes(bytes(48_000))
                await ws.send_json({"type": "Flushed"})
            elif kind == "Close":
                break
        return ws


async def main() -> None:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/v1/speak", provider.handle)
    async with TestServer(app) as server:
        await agents(str(server.make_url("/v1/speak")))
    assert provider.handshakes == 1
    print("20 turns of 10 agents: 1 handshake")


if __name__ == "__main__":
    if deepgram is None:
        print("livekit-agents and livekit-plugins-deepgram are not installed")
    else:
        asyncio.run(main())
