"""An aiohttp server whose handlers share a pool. Runs until Ctrl-C."""

import argparse
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict

import aiohttp
from aiohttp import web

from aiowebsocketclient import WebSocketClientSession, WebSocketPoolError
from aiowebsocketclient.testing import WebSocketServer

BACKEND = web.AppKey("backend", str)
POOL = web.AppKey("pool", WebSocketClientSession)

routes = web.RouteTableDef()


async def pool_of(app: web.Application) -> AsyncIterator[None]:
    """Make the pool in the server's event loop and process; close it at the end."""
    session = WebSocketClientSession(
        limit=100, max_waiting=500, acquire_timeout=5, conn_timeout=5, close_timeout=3
    )
    async with session:
        # A wrong address fails at the start, not for the first client.
        await session.prewarm(app[BACKEND], 1)
        app[POOL] = session
        yield


@routes.get("/ask")
async def ask(request: web.Request) -> web.Response:
    question = request.query["question"]
    try:
        async with request.app[POOL].ws_connect(request.app[BACKEND]) as ws:
            await ws.send_str(question)
            answer = await ws.receive_str()
    except WebSocketPoolError:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}) from None
    except (aiohttp.ClientError, aiohttp.WSMessageTypeError):
        # receive_str() raises WSMessageTypeError when the other side closes.
        raise web.HTTPBadGateway from None
    return web.json_response({"answer": answer})


@routes.get("/")
async def health(request: web.Request) -> web.Response:
    return web.json_response(asdict(request.app[POOL].stats()))


def make_app(backend: str) -> web.Application:
    app = web.Application()
    app[BACKEND] = backend
    app.add_routes(routes)
    app.cleanup_ctx.append(pool_of)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0: any free port")
    arguments = parser.parse_args()
    with (
        WebSocketServer() as backend,
        socket.create_server(("127.0.0.1", arguments.port)) as listening,
    ):
        web.run_app(make_app(backend.url), sock=listening)


if __name__ == "__main__":
    main()
