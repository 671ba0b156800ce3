"""Replacing a server and changing limits while callers go on."""

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import GOING_AWAY, WebSocketClientSession


class Balancer:
    """Sends each connection to the current instance, which answers with its name."""

    def __init__(self) -> None:
        self.instance = "blue"
        self.open: dict[str, list[web.WebSocketResponse]] = {"blue": [], "green": []}
        self.peak = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        name = self.instance
        self.open[name].append(ws)
        self.peak = max(self.peak, sum(map(len, self.open.values())))
        try:
            async for _ in ws:
                await self.answers.wait()
                await ws.send_str(name)
        finally:
            self.open[name].remove(ws)
        return ws


async def ask(session: WebSocketClientSession, url: str) -> str:
    async with session.ws_connect(url) as ws:
        await ws.send_str("who are you?")
        return await ws.receive_str()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def server_says_goodbye(url: str, balancer: Balancer) -> None:
    """Retire all connections at the first CLOSE of a server that shuts down."""
    async with WebSocketClientSession(retire_on=GOING_AWAY) as session:
        await session.prewarm(url, 19)
        await session.prewarm(url, 20)
        assert len(balancer.open["blue"]) == 20
        balancer.instance = "green"
        # The server closes one connection after another, slowly, the youngest first.
        await balancer.open["blue"][-1].close(code=aiohttp.WSCloseCode.GOING_AWAY)
        await until(lambda: session.stats().idle == 0)
        assert await ask(session, url) == "green"
        stats = session.stats()
        assert (stats.closed_lost, stats.closed_forced) == (1, 19)
    balancer.instance = "blue"


async def told_of_a_deploy(url: str, balancer: Balancer) -> None:
    """Drain on a deploy: from a deploy hook, or when an address changes."""
    async with WebSocketClientSession() as session:
        await session.prewarm(url, 5)
        async with session.ws_connect(url) as ws:
            balancer.instance = "green"
            # drain() takes effect when called. Awaiting it waits for the idle connections to close.
            await session.drain(url)
            stats = session.stats()
            assert (stats.idle, stats.acquired, stats.closed_forced) == (0, 1, 4)
            # Later callers get connections opened after the call.
            assert await ask(session, url) == "green"
            # Callers with a connection keep it until they release it.
            await ws.send_str("who are you?")
            assert await ws.receive_str() == "blue"
        await until(lambda: not balancer.open["blue"])
        assert session.stats().closed_forced == 5
    balancer.instance = "blue"


async def graceful_end(url: str) -> None:
    session = WebSocketClientSession()
    async with session.ws_connect(url) as ws:
        await ws.send_str("who are you?")
        closing = asyncio.create_task(session.close(wait=30))
        await until(lambda: session.closed)
        # Nobody else gets a connection; the exchange under way ends as usual.
        assert await ws.receive_str() == "blue"
    await closing
    assert session.stats().closed_forced == 1


async def other_limits(url: str, balancer: Balancer) -> None:
    """Resize when the processes share the cap in another way."""
    async with WebSocketClientSession(limit=2) as session:
        balancer.peak = 0
        balancer.answers.clear()
        callers = [asyncio.create_task(ask(session, url)) for _ in range(50)]
        await until(lambda: balancer.peak == 2)
        # Raising a limit admits waiting callers at once.
        session.resize(limit=10)
        await until(lambda: balancer.peak == 10)
        balancer.answers.set()
        await asyncio.gather(*callers)
        assert balancer.peak == 10
        # Lowering it closes idle connections, the longest idle first, and none in use.
        async with session.ws_connect(url) as ws:
            session.resize(limit=1)
            await until(lambda: len(balancer.open["blue"]) == 1)
            await ws.send_str("who are you?")
            assert await ws.receive_str() == "blue"


async def main() -> None:
    balancer = Balancer()
    app = web.Application()
    app.router.add_get("/", balancer.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        await server_says_goodbye(url, balancer)
        await told_of_a_deploy(url, balancer)
        await other_limits(url, balancer)
        balancer.instance = "blue"
        await graceful_end(url)
    print("no caller has noticed")


asyncio.run(main())
