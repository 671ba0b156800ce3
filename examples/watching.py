"""Monitoring a pool: statistics, events, log records, and leaked connections."""

import asyncio
import json
import logging
import sys
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import TraceConfig, WebSocketClientSession
from aiowebsocketclient.tracing import TraceCloseParams, TraceQueuedEndParams


def summary(session: WebSocketClientSession) -> str:
    stats = session.stats()
    lines = [
        f"{stats.requests} requests, {stats.reused} of them over a connection used before",
        f"{stats.queued} waited, {stats.timeouts} timed out",
        f"{stats.connects} handshakes, {stats.connect_errors} failed",
    ]
    for endpoint, its_stats in session.stats_by_endpoint().items():
        lines.append(f"{endpoint}: {its_stats.acquired} in use, {its_stats.idle} idle")
    return "\n".join(lines)


def events() -> TraceConfig:
    trace = TraceConfig()

    @trace.on_queued_end.append
    async def waited(session: Any, ctx: Any, params: TraceQueuedEndParams) -> None:
        got = "a connection" if params.exception is None else type(params.exception).__name__
        print(f"event: waited {params.seconds * 1000:.0f} ms and got {got}")

    @trace.on_close.append
    async def closed(session: Any, ctx: Any, params: TraceCloseParams) -> None:
        print(f"event: closed, {params.reason}")

    return trace


class JsonLines(logging.Formatter):
    """Formats each record as JSON, with the fields of its event."""

    def format(self, record: logging.LogRecord) -> str:
        fields = ("event", "endpoint", "seconds", "reason", "error", "acquired_at")
        told = {name: getattr(record, name) for name in fields if hasattr(record, name)}
        return json.dumps({"level": record.levelname, **told}, default=str)


def set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("aiowebsocketclient")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def ask(session: WebSocketClientSession, url: str, question: str) -> str:
    async with session.ws_connect(url) as ws:
        await ws.send_str(question)
        return await ws.receive_str()


async def hold_on(session: WebSocketClientSession, url: str) -> None:
    async with session.ws_connect(url):
        # Longer than leak_threshold; a service would set a minute or so.
        await asyncio.sleep(0.5)


async def main() -> None:
    set_up_logging()
    app = web.Application()
    app.router.add_get("/", echo)
    async with (
        TestServer(app) as server,
        WebSocketClientSession(limit=2, trace_configs=[events()], leak_threshold=0.1) as session,
    ):
        url = str(server.make_url("/"))
        await asyncio.gather(*(ask(session, url, str(n)) for n in range(5)))
        await hold_on(session, url)
        print(summary(session))


asyncio.run(main())
