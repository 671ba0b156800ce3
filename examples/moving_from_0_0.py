"""Moving from aiowebsocketclient 0.0.x: its usage example, and the differences."""

import asyncio
from collections.abc import Awaitable

from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ConnectionReleasedError, WebSocketClientSession


async def as_before(url: str, other_url: str) -> None:
    session = WebSocketClientSession(conn_timeout=5, force_close=False, limit=1024)
    ws1 = await session.ws_connect(url)
    ws2 = await session.ws_connect(other_url)
    ws3 = await session.ws_connect(other_url)
    # 0.0.x did not await this call.
    await ws1.send_str("hello")
    assert (await ws1.receive()).data == "hello"
    await asyncio.gather(ws1.release(), ws2.release(), ws3.release())
    ws4 = await session.ws_connect(url)
    assert ws1 == ws4
    await session.close()


async def error_of(call: Awaitable[object]) -> Exception:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


async def as_it_is_now(url: str) -> None:
    async with WebSocketClientSession() as session:
        # Equal but not identical: each acquisition has its own handle.
        ws1 = await session.ws_connect(url)
        await ws1.release()
        ws2 = await session.ws_connect(url)
        assert ws1 == ws2
        assert ws1 is not ws2
        # The first handle is spent. It cannot affect the second: not by a late message,
        assert isinstance(await error_of(ws1.send_str("late")), ConnectionReleasedError)
        # not by a second release, and not by a late close.
        await ws1.release()
        await ws1.close()
        assert not ws2.closed
        # release() takes effect when called. Awaited or not, the connection is in the pool.
        completion = ws2.release()
        assert session.stats().idle == 1
        await completion

        # A caller gets a connection with the same handshake, not only the same host and port.
        async with session.ws_connect(url, headers={"Authorization": "Bearer other"}) as ws:
            assert not ws.reused
        async with session.ws_connect(f"{url}?path=other") as ws:
            assert not ws.reused

        # A connection that its server has ended is not handed out.
        connects = session.stats().connects
        async with session.ws_connect(url) as ws:
            await ws.send_str("close after this")
            await ws.receive_str()
        async with asyncio.timeout(5):
            while session.stats().closed_lost == 0:
                await asyncio.sleep(0.001)
        async with session.ws_connect(url) as ws:
            assert not ws.reused
        assert session.stats().connects == connects + 1


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
        if message.data == "close after this":
            await asyncio.sleep(0.05)
            await ws.close()
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", echo)
    async with TestServer(app) as server, TestServer(app) as other:
        url = str(server.make_url("/"))
        await as_before(url, str(other.make_url("/")))
        await as_it_is_now(url)
    print("as before, but for what differs")


asyncio.run(main())
