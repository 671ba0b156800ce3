"""A thousand questions over ten connections."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import WebSocketClientSession


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def ask(session: WebSocketClientSession, url: str, question: str) -> str:
    # Takes a connection from the pool and releases it at the end of the block.
    async with session.ws_connect(url) as ws:
        await ws.send_str(question)
        return await ws.receive_str()


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", echo)
    async with TestServer(app) as server, WebSocketClientSession(limit=10) as session:
        url = str(server.make_url("/"))
        questions = [str(n) for n in range(1000)]
        answers = await asyncio.gather(*(ask(session, url, question) for question in questions))
        assert answers == questions
        stats = session.stats()
        print(f"{stats.requests} questions over {stats.connects} connections")


asyncio.run(main())
