"""A web service that exports its pool to Prometheus. Runs until Ctrl-C.

    curl 'http://127.0.0.1:8000/ask?question=hello'
    curl http://127.0.0.1:8000/metrics

The service asks its own echo server, or the server at ``--url``.
"""

import argparse
import socket
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.prometheus import PoolCollector

# Register one collector, and add each pool of the process to it.
COLLECTOR = PoolCollector()
REGISTRY.register(COLLECTOR)

BACKEND = web.AppKey("backend", str)
POOL = web.AppKey("pool", WebSocketClientSession)

routes = web.RouteTableDef()


async def pool_of(app: web.Application) -> AsyncIterator[None]:
    async with WebSocketClientSession(limit=4, acquire_timeout=10) as session:
        COLLECTOR.add(session, name="answers")
        app[POOL] = session
        yield


@routes.get("/ask")
async def ask(request: web.Request) -> web.Response:
    async with request.app[POOL].ws_connect(request.app[BACKEND]) as ws:
        await ws.send_str(request.query["question"])
        return web.Response(text=await ws.receive_str())


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})


@routes.get("/echo")
async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    parser.add_argument("--url", help="URL of a WebSocket server that answers each message")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        host, port = listening.getsockname()
        app = web.Application()
        app[BACKEND] = options.url or f"ws://{host}:{port}/echo"
        app.add_routes(routes)
        app.cleanup_ctx.append(pool_of)
        print(f"Metrics at http://{host}:{port}/metrics")
        web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
