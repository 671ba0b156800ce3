"""Subscriptions: short ones that end at release, and a long one that leaves the pool."""

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession


async def receive(ws: ClientWebSocketResponse) -> dict[str, Any]:
    message = await ws.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise aiohttp.ServerDisconnectedError(f"closed with {ws.close_code}")
    received: dict[str, Any] = message.json()
    return received


async def ask(ws: ClientWebSocketResponse, method: str, *params: Any) -> Any:
    await ws.send_json({"id": 1, "method": method, "params": params})
    while "id" not in (reply := await receive(ws)):
        # A notification that arrived before the reply.
        pass
    return reply["result"]


async def unsubscribe(ws: ClientWebSocketResponse) -> None:
    """Unsubscribe: the hook ``reset`` of connections with subscriptions."""
    # When the reply arrives, all earlier messages have been read.
    await ask(ws, "unsubscribe_all")


async def next_of(session: WebSocketClientSession, url: str, topic: str) -> Any:
    """Wait for one notification."""
    async with session.ws_connect(url, reset=unsubscribe) as ws:
        await ask(ws, "subscribe", topic)
        return (await receive(ws))["params"]


async def follow(session: WebSocketClientSession, url: str, topic: str, seen: list[Any]) -> None:
    """Collect notifications until the connection breaks, or the task is cancelled."""
    ws = await session.ws_connect(url)
    # The connection leaves the pool and outlives the session. This task has to close it.
    ws.detach()
    try:
        await ask(ws, "subscribe", topic)
        while True:
            seen.append((await receive(ws))["params"])
    finally:
        await ws.close()


class Broker:
    def __init__(self) -> None:
        self.topics: dict[str, set[web.WebSocketResponse]] = {}

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            call = message.json()
            match call["method"], call["params"]:
                case "subscribe", [topic]:
                    self.topics.setdefault(topic, set()).add(ws)
                case "unsubscribe_all", []:
                    self.forget(ws)
            await ws.send_json({"id": call["id"], "result": True})
        self.forget(ws)
        return ws

    def forget(self, ws: web.WebSocketResponse) -> None:
        for subscribers in self.topics.values():
            subscribers.discard(ws)

    def count(self, topic: str) -> int:
        return len(self.topics.get(topic, ()))

    async def publish(self, topic: str, *params: Any) -> None:
        for ws in list(self.topics.get(topic, ())):
            for param in params:
                await ws.send_json({"method": topic, "params": param})


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def use(session: WebSocketClientSession, url: str, broker: Broker) -> None:
    # The connection is reset in the background, and then the next caller gets it.
    for price in (5, 7):
        waiting = asyncio.create_task(next_of(session, url, "price"))
        await until(lambda: broker.count("price") == 1)
        await broker.publish("price", price)
        assert await waiting == price
        await until(lambda: session.stats().idle == 1)
        assert broker.count("price") == 0
    assert session.stats().connects == 1

    # With an unread notification, the connection is closed instead of reset.
    async with session.ws_connect(url, reset=unsubscribe) as ws:
        await ask(ws, "subscribe", "price")
        await broker.publish("price", 8, 9)
        assert (await receive(ws))["params"] == 8
    await until(lambda: session.stats().closed_dirty == 1)

    # Calls with other hooks use other connections, without a reset.
    async with session.ws_connect(url) as ws:
        assert not ws.reused
        await ask(ws, "hello")


async def use_long(session: WebSocketClientSession, url: str, broker: Broker) -> None:
    seen: list[Any] = []
    following = asyncio.create_task(follow(session, url, "news", seen))
    await until(lambda: broker.count("news") == 1)
    stats = session.stats()
    assert (stats.acquired, stats.detached) == (0, 1)
    await session.close()
    await broker.publish("news", "it outlives the session")
    await until(lambda: seen)
    following.cancel()
    await asyncio.wait({following})
    await until(lambda: broker.count("news") == 0)
    assert seen == ["it outlives the session"]


async def main() -> None:
    broker = Broker()
    app = web.Application()
    app.router.add_get("/", broker.handle)
    async with TestServer(app) as server, WebSocketClientSession(limit=1) as session:
        url = str(server.make_url("/"))
        await use(session, url, broker)
        await use_long(session, url, broker)
        print(f"{session.stats().connects} connections")


asyncio.run(main())
