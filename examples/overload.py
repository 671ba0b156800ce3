"""A service in front of a provider with a cap: it answers 503 before its callers time out."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler

from aiowebsocketclient import (
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketClientSession,
    WebSocketPoolError,
)

POOL = web.AppKey("pool", WebSocketClientSession)
PROVIDER = web.AppKey("provider", str)


async def answer(request: web.Request) -> web.Response:
    pool, url = request.app[POOL], request.app[PROVIDER]
    async with pool.ws_connect(url) as ws:
        await ws.send_str(request.query["question"])
        return web.Response(text=await ws.receive_str())


@web.middleware
async def say_when_it_is_too_much(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TooManyWaitersError:
        # The queue is full. The answer is immediate, so a load balancer can try another instance.
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}) from None
    except PoolTimeoutError:
        # The caller waited for acquire_timeout; the next caller would wait as long.
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"}) from None
    except WebSocketPoolError:
        raise
    except (aiohttp.ClientError, aiohttp.WSMessageTypeError) as exc:
        # The provider failed. Send only the type: the text may contain the URL with its query.
        raise web.HTTPBadGateway(text=type(exc).__name__) from None


async def pool_of(app: web.Application) -> AsyncIterator[None]:
    session = WebSocketClientSession(
        limit=1, max_waiting=1, acquire_timeout=10, conn_timeout=5, max_lifetime=3600
    )
    async with session:
        app[POOL] = session
        yield


def make_app(provider: str) -> web.Application:
    app = web.Application(middlewares=[say_when_it_is_too_much])
    app[PROVIDER] = provider
    app.router.add_get("/answer", answer)
    app.cleanup_ctx.append(pool_of)
    return app


GATE = web.AppKey("gate", asyncio.Event)


async def provide(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await request.app[GATE].wait()
        await ws.send_str(message.data.upper())
    return ws


async def main() -> None:
    provider = web.Application()
    gate = provider[GATE] = asyncio.Event()
    provider.router.add_get("/", provide)
    async with TestServer(provider) as server:
        app = make_app(str(server.make_url("/")))
        async with TestClient(TestServer(app)) as client:
            first, second, third = [
                asyncio.create_task(client.get("/answer", params={"question": name}))
                for name in ("one", "two", "three")
            ]
            # One is being answered, one is queued, one is refused; the network decides which.
            done, _ = await asyncio.wait(
                {first, second, third}, return_when=asyncio.FIRST_COMPLETED
            )
            (refused,) = done
            assert refused.result().status == 503
            assert refused.result().headers["Retry-After"] == "1"
            gate.set()
            for task in {first, second, third} - done:
                assert (await task).status == 200
            stats = app[POOL].stats()
            assert (stats.connects, stats.rejected) == (1, 1)
    print(f"{stats.released} answers, {stats.rejected} refused")


asyncio.run(main())
