"""An echo server in its own process: prints its URL, and runs until its input ends.

``/`` echoes.  So does ``/slow/NAME``, but its handshake takes :data:`CONNECTING` seconds;
``/slow/NAME/begun`` returns the number of handshakes begun there.

A line of JSON makes the server ping all clients: see :meth:`_Server.ping`.
"""

import argparse
import asyncio
import json
import resource
import ssl
import sys
from collections import Counter
from typing import Any, Final

from aiohttp import WSMsgType, web

#: Seconds of a handshake at ``/slow``.
CONNECTING: Final = 0.15

# Seconds to wait for PONGs.
_PATIENCE: Final = 30.0


class _Server:
    def __init__(self, heartbeat: float | None) -> None:
        self._heartbeat = heartbeat
        self._begun: Counter[str] = Counter()
        self._open: set[web.WebSocketResponse] = set()
        self._pongs = 0
        self._ponged = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self._echo)
        app.router.add_get("/slow/{name}", self._slow)
        app.router.add_get("/slow/{name}/begun", self._tell_begun)
        return app

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        # Without autoping, the server receives and counts PONGs; a heartbeat needs autoping.
        autoping = self._heartbeat is not None
        ws = web.WebSocketResponse(
            protocols=("bench.v2",), heartbeat=self._heartbeat, autoping=autoping
        )
        try:
            await ws.prepare(request)
        except ConnectionResetError:
            # The client disconnected during the handshake.
            return ws
        self._open.add(ws)
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await ws.send_str(message.data)
                elif message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    self._pongs += 1
                    self._ponged.set()
        finally:
            self._open.discard(ws)
        return ws

    async def _slow(self, request: web.Request) -> web.WebSocketResponse:
        self._begun[request.match_info["name"]] += 1
        await asyncio.sleep(CONNECTING)
        return await self._echo(request)

    async def _tell_begun(self, request: web.Request) -> web.Response:
        return web.json_response(self._begun[request.match_info["name"]])

    async def ping(self, *, answered: bool) -> dict[str, int]:
        """Send a PING to all clients; with ``answered``, wait for the PONGs."""
        everybody = list(self._open)
        expected = self._pongs + len(everybody)
        for ws in everybody:
            await ws.ping()
        if answered:
            async with asyncio.timeout(_PATIENCE):
                while self._pongs < expected:
                    self._ponged.clear()
                    await self._ponged.wait()
        return {"pings": len(everybody)}


async def _serve(options: argparse.Namespace) -> None:
    server = _Server(options.heartbeat)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    context, authority = _tls() if options.tls else (None, None)
    # Thousands of clients may connect at once.
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context, backlog=4096)
    await site.start()
    host, port = runner.addresses[0][:2]
    _say({"url": f"{'https' if context else 'http'}://{host}:{port}/", "authority": authority})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(await server.ping(**json.loads(line)))
    await runner.cleanup()


def _tls() -> tuple[ssl.SSLContext, str]:
    """Return the context of the server, and the certificate of its authority as PEM."""
    # An optional dependency.
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, authority.cert_pem.bytes().decode()


def _say(message: Any) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--heartbeat", type=float)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve(parser.parse_args()))
