"""Caps of a provider: connections, handshakes under way, handshakes per minute."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiolimiter import AsyncLimiter
from multidict import CIMultiDict

from aiowebsocketclient import PoolTimeoutError, TooManyWaitersError, WebSocketClientSession


class Provider:
    """Refuses handshakes beyond its caps, and so shows whether the client stays within them."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.open = 0
        self.peak = 0
        self.connecting = 0
        self.accepts = asyncio.Event()
        self.accepts.set()
        self.handshakes = 0
        self.blocked_until = 0.0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        self.connecting += 1
        await self.accepts.wait()
        self.connecting -= 1
        if self.open == self.connections or asyncio.get_running_loop().time() < self.blocked_until:
            raise web.HTTPTooManyRequests(headers={"Retry-After": "0.1"})
        self.open += 1
        self.peak = max(self.peak, self.open)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        try:
            async for message in ws:
                await ws.send_str(message.data)
        finally:
            self.open -= 1
        return ws


async def ask(session: WebSocketClientSession, url: str, **options: Any) -> None:
    async with session.ws_connect(url, **options) as ws:
        await ws.send_str("question")
        await ws.receive_str()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def limit_connections(url: str, provider: Provider) -> None:
    async with WebSocketClientSession(limit=5) as session:
        provider.accepts.clear()
        asking = asyncio.gather(*(ask(session, url) for _ in range(100)))
        await until(lambda: provider.connecting == 5)
        provider.accepts.set()
        await asking
        assert provider.peak == 5
        # Another path or token is another handshake at the same endpoint. At the limit, the pool
        # closes an idle connection for it, which counts until its socket is gone.
        await asyncio.gather(*(ask(session, f"{url}?model={n}") for n in range(20)))
        assert provider.peak == 5
        assert session.stats().closed_evicted > 0


async def limit_all(urls: list[str], provider: Provider) -> None:
    # The provider has several host names and one cap for all of them.
    async with WebSocketClientSession(limit_total=5) as session:
        await asyncio.gather(*(ask(session, url) for url in urls for _ in range(20)))
        assert session.stats().connect_errors == 0
        assert provider.peak == 5


async def limit_handshakes_at_once(url: str, provider: Provider) -> None:
    provider.accepts.clear()
    async with WebSocketClientSession(max_connecting=2) as session:
        warming = asyncio.create_task(session.prewarm(url, 5))
        await until(lambda: provider.connecting == 2)
        # No third handshake begins before one of these has ended.
        await asyncio.sleep(0.05)
        assert provider.connecting == 2
        provider.accepts.set()
        assert await warming == 5


async def limit_handshakes_by_time(url: str, provider: Provider) -> None:
    provider.handshakes = 0
    began = asyncio.get_running_loop().time()
    # Two at once, then one every 50 ms. AsyncLimiter(300, 300) allows 300 in five minutes.
    async with WebSocketClientSession(connect_limiter=AsyncLimiter(2, 0.1)) as session:
        await session.prewarm(url, 5)
        assert provider.handshakes == 5
        assert asyncio.get_running_loop().time() - began >= 0.14


async def error_of(call: Awaitable[object]) -> Exception:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


async def limit_waiting(url: str) -> None:
    session = WebSocketClientSession(limit=1, max_waiting=1, acquire_timeout=0.05)
    async with session, session.ws_connect(url, acquire_timeout=5):
        waiting = asyncio.create_task(error_of(ask(session, url)))
        await asyncio.sleep(0)
        # One caller is queued, so the next caller fails at once.
        assert isinstance(await error_of(ask(session, url)), TooManyWaitersError)
        # The queued caller times out.
        assert isinstance(await waiting, PoolTimeoutError)
        # With acquire_timeout=0, a caller does not wait at all.
        error = await error_of(ask(session, url, acquire_timeout=0))
        assert isinstance(error, PoolTimeoutError)
        stats = session.stats()
        assert (stats.rejected, stats.timeouts, stats.connects) == (1, 2, 1)


class BackOff:
    """A connect_limiter that starts no handshake after a 429 until Retry-After has passed."""

    def __init__(self) -> None:
        self._until = 0.0

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        while (pause := self._until - loop.time()) > 0:
            await asyncio.sleep(pause)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(exc, aiohttp.WSServerHandshakeError) and exc.status == 429:
            retry_after = (exc.headers or CIMultiDict()).get("Retry-After", "1")
            self._until = asyncio.get_running_loop().time() + float(retry_after)


async def be_refused(url: str, provider: Provider) -> None:
    # Another process has used up the cap.
    provider.blocked_until = asyncio.get_running_loop().time() + 0.1
    async with WebSocketClientSession(connect_limiter=BackOff()) as session:
        error = await error_of(ask(session, url))
        assert isinstance(error, aiohttp.WSServerHandshakeError)
        assert error.status == 429
        # The provider refuses no other caller: they wait until Retry-After has passed.
        await asyncio.gather(*(ask(session, url) for _ in range(5)))
        assert session.stats().connect_errors == 1


async def main() -> None:
    provider = Provider(connections=5)
    app = web.Application()
    app.router.add_get("/", provider.handle)
    async with TestServer(app) as server, TestServer(app) as other:
        url = str(server.make_url("/"))
        await limit_connections(url, provider)
        await limit_all([url, str(other.make_url("/"))], provider)
        await limit_handshakes_at_once(url, provider)
        await limit_handshakes_by_time(url, provider)
        await limit_waiting(url)
        await be_refused(url, provider)
    print(f"at most {provider.peak} connections")


asyncio.run(main())
