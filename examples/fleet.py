"""One cap of a provider for several processes, shared through Redis.

Needs redis-server, and ``pip install 'aiowebsocketclient[redis]'``.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import FleetUnavailableError, WebSocketClientSession
from aiowebsocketclient.redis import RedisFleet

CAP = 4


class Provider:
    """Refuses connections beyond its cap, and so shows whether the processes stay within it."""

    def __init__(self) -> None:
        self.open = 0
        self.peak = 0
        self.refused = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        if self.open == CAP:
            self.refused += 1
            raise web.HTTPTooManyRequests
        self.open += 1
        self.peak = max(self.peak, self.open)
        ws = web.WebSocketResponse()
        try:
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(message.data)
        finally:
            self.open -= 1
        return ws


async def serve_callers(url: str, redis_url: str) -> int:
    """One of the processes: 10 callers that share its part of the cap."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        # A Redis that has just started gives nothing for a lease, so this lease is short.
        fleet = RedisFleet(client, "the account at the provider", limit=CAP, lease=5)
        async with WebSocketClientSession(fleet=fleet, acquire_timeout=60) as session:
            replies = await asyncio.gather(*(ask_often(session, url) for _ in range(10)))
            # The provider counts for all; this session asked Redis a few times.
            stats = session.fleet_stats()
            assert stats is not None
            assert stats.syncs < sum(replies)
    return sum(replies)


async def ask_often(session: WebSocketClientSession, url: str) -> int:
    for number in range(20):
        try:
            async with session.ws_connect(url) as ws:
                await ws.send_str(f"question {number}")
                await ws.receive_str()
        except FleetUnavailableError:
            # Redis has not been reached for long: nothing may be opened. Answer 503.
            raise
    return 20


@asynccontextmanager
async def own_redis() -> AsyncIterator[str]:
    """Run a redis-server; yields its URL."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        config = Path(directory) / "redis.conf"
        config.write_text(f'port 0\nunixsocket {path}\ndir {directory}\nsave ""\n')
        server = await asyncio.create_subprocess_exec(
            "redis-server", str(config), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            while not path.exists():
                await asyncio.sleep(0.01)
            yield f"unix://{path}"
        finally:
            server.kill()
            await server.wait()


async def main() -> None:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/", provider.handle)
    async with own_redis() as redis_url, TestServer(app) as server:
        url = str(server.make_url("/"))
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, __file__, url, redis_url)
            for _ in range(3)
        ]
        assert [await process.wait() for process in processes] == [0, 0, 0]
    assert (provider.peak, provider.refused) == (CAP, 0)
    print(f"3 processes, 30 callers, at most {provider.peak} connections")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve_callers(*sys.argv[1:]))
    else:
        asyncio.run(main())
