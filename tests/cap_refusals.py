"""How often a provider refuses whose cap is ``limit``, since it counts a connection for longer.

    python -m tests.cap_refusals

runs callers of the pool against servers of aiohttp, ``websockets`` and uvicorn that answer 429 to a
handshake while as many handlers run as the cap allows.  Each server has a thread of its own.
"""

import argparse
import asyncio
import contextlib
import http
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from aiowebsocketclient import WebSocketClientSession

#: The texts of which a reply consists, and the seconds that the handler takes for each.
PARTS = 5
PAUSE = 0.05

REFUSED = http.HTTPStatus.TOO_MANY_REQUESTS


class CappedServer:
    """A server that counts a connection from its handshake until its handler has ended.

    A reply has ``PARTS`` texts.  The handler notices the end of its connection when it sends the
    next one, or waits for the next request.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.count = 0
        self.accepted = 0
        self.refused = 0
        self.port = 0
        #: Handlers wait for it before each text.
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def url(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self.serve()

    async def serve(self) -> None:
        """Serve until it is stopped; a subclass's own."""
        raise NotImplementedError

    async def serve_at(self, port: int) -> None:
        self.port = port
        self.started.set()
        await self._stop.wait()
        self.gate.set()

    def admit(self) -> bool:
        """Count one more connection, or refuse it."""
        if self.count >= self.cap:
            self.refused += 1
            return False
        self.count += 1
        self.accepted += 1
        return True

    async def reply(self, send: Callable[[str], Awaitable[object]]) -> None:
        for number in range(PARTS):
            await asyncio.sleep(PAUSE)
            while not self.gate.is_set():
                await asyncio.sleep(0.001)
            await send(str(number))


class OfAiohttp(CappedServer):
    """Answers CLOSE when its handler receives, that is, when that is done with its reply."""

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await self.serve_at(runner.addresses[0][1])
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not self.admit():
            raise web.HTTPTooManyRequests
        ws = web.WebSocketResponse(timeout=0.1)
        try:
            await ws.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for _ in ws:
                    await self.reply(ws.send_str)
        finally:
            self.count -= 1
        return ws


class OfWebsockets(CappedServer):
    """Answers CLOSE at once, whatever its handler does."""

    async def serve(self) -> None:
        async with serve(
            self._handle, "127.0.0.1", 0, process_request=self._process, close_timeout=0.1
        ) as server:
            await self.serve_at(next(iter(server.sockets)).getsockname()[1])

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        return None if self.admit() else connection.respond(REFUSED, "")

    async def _handle(self, ws: ServerConnection) -> None:
        try:
            with contextlib.suppress(ConnectionClosed):
                async for _ in ws:
                    await self.reply(ws.send)
        finally:
            self.count -= 1


class OfUvicorn(CappedServer):
    """Answers CLOSE at once, as what is below it does."""

    async def serve(self) -> None:
        config = uvicorn.Config(
            self._app,
            "127.0.0.1",
            0,
            interface="asgi3",
            lifespan="off",
            log_level="critical",
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        await self.serve_at(server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = server.force_exit = True
        await serving

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if not self.admit():
            start = {"type": "websocket.http.response.start", "status": REFUSED, "headers": []}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b""})
            return

        async def send_text(text: str) -> None:
            await send({"type": "websocket.send", "text": text})

        try:
            await send({"type": "websocket.accept"})
            # Uvicorn raises OSError where a connection has ended; what is older raises nothing.
            with contextlib.suppress(OSError):
                while (await receive())["type"] == "websocket.receive":
                    await self.reply(send_text)
        finally:
            self.count -= 1


SERVERS: dict[str, type[CappedServer]] = {
    "aiohttp": OfAiohttp,
    "websockets": OfWebsockets,
    "uvicorn": OfUvicorn,
}


@contextlib.contextmanager
def running(name: str, cap: int) -> Iterator[CappedServer]:
    """Run a server in a thread of its own."""
    server = SERVERS[name](cap)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.started.wait(30.0)
        yield server
    finally:
        server.stop()
        thread.join()


# -- what callers do -----------------------------------------------------------------------------


async def ask(session: WebSocketClientSession, url: str, parts: int = PARTS) -> None:
    """Ask for a reply, and read so many texts of it; fewer: the block is left by an exception."""
    async with session.ws_connect(url) as ws:
        await ws.send_str("hello")
        for _ in range(parts):
            await ws.receive_str()
        if parts < PARTS:
            raise asyncio.CancelledError


async def cancelled(session: WebSocketClientSession, url: str) -> None:
    """One caller after another; every second one leaves in the middle of a reply."""
    with contextlib.suppress(asyncio.CancelledError):
        await ask(session, url, 1)
    await ask(session, url)


async def barge_in(session: WebSocketClientSession, url: str) -> None:
    """Leave in the middle of a reply."""
    with contextlib.suppress(asyncio.CancelledError):
        await ask(session, url, 2)


#: What is done, by how many callers at once where the cap is how much, and what the session is.
SCENES: dict[str, tuple[Any, int, int, dict[str, Any]]] = {
    "cancelled in a reply, then another": (cancelled, 1, 1, {}),
    "barge-ins": (barge_in, 6, 3, {}),
    "read to the end, force_close": (ask, 6, 3, {"force_close": True}),
    "read to the end, evicted": (ask, 6, 3, {"paths": True}),
}


async def measure(
    server: CappedServer, scene: str, turns: int, limit: int, **options: Any
) -> tuple[int, float]:
    """Return how many of ``turns`` were refused, and the seconds that they took."""
    act, callers, _, more = SCENES[scene]
    options |= more
    with_paths = options.pop("paths", False)
    left = turns
    refused: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def act_again_and_again(number: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            try:
                await act(session, server.url(f"/{left}" if with_paths else "/"))
            except aiohttp.WSServerHandshakeError as exc:
                refused[exc.status] += 1
                # Long enough for every handler to have noticed.
                await asyncio.sleep(0.2)

    async with WebSocketClientSession(limit=limit, **options) as session:
        await asyncio.gather(*[act_again_and_again(number) for number in range(callers)])
        took = loop.time() - begun
    assert set(refused) <= {REFUSED}
    return refused[REFUSED], took


async def compare(
    turns: int, cooldowns: Sequence[float], headroom: int
) -> dict[tuple[str, str, float], int]:
    """Return how many were refused by scene, server and cooldown."""
    refused = {}
    for scene, (_, _, limit, _) in SCENES.items():
        print(f"{scene}: limit={limit}, cap {limit + headroom}")
        for name in SERVERS:
            for cooldown in cooldowns:
                # So that versions of the package without cooldown can be measured.
                options = {"cooldown": cooldown} if cooldown else {}
                with running(name, limit + headroom) as server:
                    number, took = await measure(server, scene, turns, limit, **options)
                refused[scene, name, cooldown] = number
                print(
                    f"    {name:<12} cooldown={cooldown:<5g} {number:>3} of {turns} refused,"
                    f" {took:5.1f} s",
                    flush=True,
                )
    return refused


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cap_refusals", description=__doc__)
    parser.add_argument("--turns", type=int, default=60, help="of each; default: 60")
    parser.add_argument(
        "--cooldown", type=float, nargs="*", default=[0.0, 0.1, 0.25], help="default: 0 0.1 0.25"
    )
    parser.add_argument(
        "--headroom", type=int, default=0, help="by how much the cap is above limit; default: 0"
    )
    arguments = parser.parse_args(argv)
    asyncio.run(compare(arguments.turns, arguments.cooldown, arguments.headroom))


if __name__ == "__main__":
    main()
