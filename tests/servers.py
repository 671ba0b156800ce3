"""Real aiohttp servers on loopback, which do what a test tells them and count what they see."""

import asyncio
import contextlib
import errno
import ssl
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web


class Server:
    """An echo server that counts, and can be told to misbehave.

    ``/`` and every other path echo text.  ``server.sockets`` are the connections open now, oldest
    first, to be spoken to from a test, ``server.transports`` what is under them.  Paths with a
    meaning of their own:

    * ``/silent``: reads nothing, so answers no PING and no CLOSE;
    * ``/refuse``: 403;
    * ``/moved``: 302, to ``/``;
    * ``/hang``: never answers the handshake;
    * ``/once``: refuses after the first handshake;
    * ``/redirect``: sends elsewhere, to ``server.redirect_to``;
    * ``/cookie``: sets a cookie with the handshake;
    * ``/short``: echoes short texts only;
    * ``/greet``: sends a message before it is asked.

    A handshake waits for ``server.gate`` (open at first).
    """

    def __init__(self, *, heartbeat: float | None = None) -> None:
        self.heartbeat = heartbeat
        self.gate = asyncio.Event()
        self.gate.set()
        self.stopped = asyncio.Event()
        self.handshakes = 0
        self.arrived = 0
        self.peak = 0
        self.sockets: list[web.WebSocketResponse] = []
        self.transports: list[asyncio.Transport] = []
        self.requests: list[web.Request] = []
        self.received: list[Any] = []
        self.close_codes: list[int | None] = []
        self.port = 0
        self.scheme = "http"
        self.redirect_to = ""
        self.runner: web.AppRunner

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    @property
    def open(self) -> int:
        return len(self.sockets)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.arrived += 1
        await self.gate.wait()
        if request.path == "/hang":
            await self.stopped.wait()
        if request.path == "/refuse" or (request.path == "/once" and self.handshakes):
            raise web.HTTPForbidden
        if request.path == "/redirect":
            raise web.HTTPTemporaryRedirect(self.redirect_to)
        if request.path == "/moved":
            raise web.HTTPFound("/")
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        protocols = tuple(name.strip() for name in offered.split(",") if name)
        ws = web.WebSocketResponse(heartbeat=self.heartbeat, protocols=protocols, timeout=1.0)
        if request.path == "/cookie":
            ws.set_cookie("visited", "yes")
        try:
            await ws.prepare(request)
        except ConnectionResetError:
            # The client went while the gate was closed.
            return ws
        self.handshakes += 1
        self.requests.append(request)
        self.sockets.append(ws)
        transport = request.transport
        assert transport is not None
        self.transports.append(transport)
        self.peak = max(self.peak, len(self.sockets))
        try:
            if request.path == "/silent":
                await self.stopped.wait()
            if request.path == "/greet":
                await ws.send_str("welcome")
            async for message in ws:
                self.received.append(message.data)
                if request.path == "/short" and len(message.data) > 1_000:
                    continue
                if message.type is WSMsgType.TEXT:
                    await ws.send_str(message.data)
        finally:
            self.sockets.remove(ws)
            self.transports.remove(transport)
            self.close_codes.append(ws.close_code)
        return ws


async def _start(site: web.TCPSite) -> None:
    # A port that is given may be in use by another run of these tests, or by anybody's connection.
    for _ in range(600):
        try:
            return await site.start()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            # It stays with its runner, and would not start again.
            await site.stop()
            await asyncio.sleep(0.1)
    return await site.start()


@contextlib.asynccontextmanager
async def serving(
    server: Server, *, ssl_context: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl_context, backlog=2048)
    await _start(site)
    server.runner = runner
    server.scheme = "https" if ssl_context else "http"
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        # aiohttp waits for its handlers, and for ever where its timeout is 0.
        server.gate.set()
        server.stopped.set()
        for transport in list(server.transports):
            transport.abort()
        await runner.cleanup()
