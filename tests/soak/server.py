"""A server of the soak, in a process of its own: echoes, misbehaves, and counts its sockets."""

import asyncio
import contextlib
import errno
import json
import random
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from .ledger import Field, LaneField, Ledger

# Seconds between two things that the server does by itself.
_MISCHIEF: Final = 0.05

# TCP states in which the other side has closed already, or both have: CLOSE, CLOSE_WAIT, LAST_ACK,
# CLOSING and TIME_WAIT.
_ENDED: Final = frozenset({6, 7, 8, 9, 11})


class Accepted(socket.socket):
    """One end of a connection, which counts from ``accept()`` until it is closed."""

    on_close: Callable[["Accepted"], None]

    def close(self) -> None:
        super().close()
        self.on_close(self)

    @property
    def is_ended(self) -> bool:
        """Whether the other side has closed it, which this process may not have noticed yet."""
        if self.fileno() < 0:
            return True
        return self.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _ENDED


class Listener(socket.socket):
    """A port of one lane."""

    lane: "Lane"
    open: set[Accepted]

    def accept(self) -> tuple[socket.socket, Any]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        accepted = Accepted(self.family, self.type, self.proto, fileno=fd)
        accepted.on_close = self.open.discard
        self.open.add(accepted)
        self.lane.count(self)
        return accepted, address

    def count(self, above: int) -> int:
        """Return how many are open; those that the other side has closed do not count."""
        if len(self.open) <= above:
            return len(self.open)
        return sum(not accepted.is_ended for accepted in self.open)


class Lane:
    """The ports that belong to one session of the clients'."""

    def __init__(self, ledger: Ledger, server: int, number: int) -> None:
        self._ledger = ledger
        self._server = server
        self._number = number
        self.listeners: list[Listener] = []

    def count(self, listener: Listener) -> None:
        """Note how many are open, and whether that is too many, each time that one is added."""
        self._ledger.add(self._server, Field.ACCEPTED)
        self._note(LaneField.PEAK, LaneField.LIMIT, [listener])
        self._note(LaneField.PEAK_TOTAL, LaneField.LIMIT_TOTAL, self.listeners)

    def _note(self, peak: LaneField, limit: LaneField, listeners: list[Listener]) -> None:
        get = self._ledger.lane
        most = get(self._server, self._number, peak)
        allowed = get(self._server, self._number, limit)
        if sum(len(each.open) for each in listeners) <= min(most, allowed):
            return
        count = sum(each.count(0) for each in listeners)
        self._ledger.raise_peak(self._server, self._number, peak, count, allowed)


class Server:
    """What the ports of one process have in common."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.number: int = config["number"]
        self.heartbeat: float = config["heartbeat"]
        self.ledger = Ledger(Path(config["ledger"]), config["lanes"])
        self.random = random.Random(config["seed"])
        self.sockets: set[web.WebSocketResponse] = set()
        self.transports: dict[web.WebSocketResponse, asyncio.Transport] = {}
        self.later: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    def note(self, field: Field) -> None:
        self.ledger.add(self.number, field)

    # -- one connection --------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await self._be_slow()
        if request.path == "/refuse" or self._is_moody(0.002):
            self.note(Field.REFUSALS)
            raise web.HTTPServiceUnavailable
        ws = web.WebSocketResponse(heartbeat=self.heartbeat, timeout=1.0, compress=True)
        with contextlib.suppress(ConnectionError, ConnectionResetError):
            await self._converse(request, ws)
        # The client may have gone before it was answered.
        return ws if ws.prepared else web.Response(status=500)

    async def _be_slow(self) -> None:
        if self._is_moody(0.1):
            await asyncio.sleep(self.random.random() * 0.1)

    def _is_moody(self, share: float) -> bool:
        return not self.ledger.calm and self.random.random() < share

    async def _converse(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        await ws.prepare(request)
        assert request.transport is not None
        kind = f"{request.path}:{request.headers.get('X-Kind', '')}"
        self.sockets.add(ws)
        self.transports[ws] = request.transport
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await self._answer(ws, kind, message.data)
        finally:
            self.sockets.discard(ws)
            del self.transports[ws]

    async def _answer(self, ws: web.WebSocketResponse, kind: str, text: str) -> None:
        """Do what ``number verb argument size padding`` asks for; replies begin with the number."""
        number, verb, argument, size, _ = text.split(" ", 4)
        reply = f"{number} {kind} " + "x" * int(size)
        if verb == "echo":
            await ws.send_str(reply)
        elif verb == "slow":
            await asyncio.sleep(float(argument))
            await ws.send_str(reply)
        elif verb == "burst":
            for _ in range(int(argument)):
                await ws.send_str(reply)
            self.note(Field.FLOODS)
        elif verb == "deaf":
            await ws.send_str(reply)
            await asyncio.sleep(float(argument))
        else:
            # Mischief, some time after the reply.
            await ws.send_str(reply)
            task = asyncio.create_task(self._after(float(argument), getattr(self, verb), ws))
            self.later.add(task)
            task.add_done_callback(self.later.discard)

    async def _after(self, seconds: float, mischief: Any, ws: web.WebSocketResponse) -> None:
        await asyncio.sleep(seconds)
        if ws in self.sockets:
            with contextlib.suppress(ConnectionError, ConnectionResetError):
                await mischief(ws)

    # -- mischief --------------------------------------------------------------------------------

    async def abort(self, ws: web.WebSocketResponse) -> None:
        self.note(Field.ABORTS)
        self.transports[ws].abort()

    async def goodbye(self, ws: web.WebSocketResponse) -> None:
        self.note(Field.CLOSES)
        await ws.close(code=self.random.choice((WSCloseCode.OK, WSCloseCode.TRY_AGAIN_LATER, 4000)))

    async def unsolicited(self, ws: web.WebSocketResponse) -> None:
        self.note(Field.UNSOLICITED)
        await ws.send_str("unsolicited")

    async def garbage(self, ws: web.WebSocketResponse) -> None:
        self.note(Field.GARBAGE)
        self.transports[ws].write(b"\xff\xff garbage")

    async def ping(self, ws: web.WebSocketResponse) -> None:
        self.note(Field.PINGS)
        await ws.ping()

    async def _be_mischievous(self) -> None:
        """Do something to some connection, in use or idle, now and then."""
        mischiefs = (self.abort, self.goodbye, self.unsolicited, self.garbage, self.ping)
        while True:
            await asyncio.sleep(_MISCHIEF * 2 * self.random.random())
            if self.sockets and not self.ledger.calm:
                mischief = self.random.choice(mischiefs)
                await self._after(0, mischief, self.random.choice(list(self.sockets)))

    # -- the process -----------------------------------------------------------------------------

    async def serve(self, ports: list[list[int]], context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        # Whoever started this may be gone.
        loop.add_reader(sys.stdin, self.stopping.set)
        app = web.Application()
        app.router.add_get("/{path:.*}", self.handle)
        app.on_shutdown.append(self._say_goodbye)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.3)
        await runner.setup()
        for number, lane_ports in enumerate(ports):
            lane = Lane(self.ledger, self.number, number)
            lane.listeners = [await _listener(lane, port) for port in lane_ports]
            for listener in lane.listeners:
                await web.SockSite(runner, listener, ssl_context=context, backlog=2048).start()
        self.note(Field.STARTS)
        self.ledger.put(self.number, Field.LISTENING, 1)
        mischief = asyncio.create_task(self._be_mischievous())
        await self.stopping.wait()
        self.ledger.put(self.number, Field.LISTENING, 0)
        mischief.cancel()
        await runner.cleanup()

    async def _say_goodbye(self, app: web.Application) -> None:
        going = (ws.close(code=WSCloseCode.GOING_AWAY) for ws in list(self.sockets))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.gather(*going, return_exceptions=True)


async def _listener(lane: Lane, port: int) -> Listener:
    listener = Listener(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.lane = lane
    listener.open = set()
    while True:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as exc:
            # The one that was killed may not be quite gone.
            if exc.errno != errno.EADDRINUSE:
                raise
            await asyncio.sleep(0.02)
        else:
            return listener


def main() -> None:
    config = json.loads(sys.argv[1])
    context = None
    if config["certificate"] is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config["certificate"])

    async def serve() -> None:
        await Server(config).serve(config["ports"], context)

    asyncio.run(serve())
