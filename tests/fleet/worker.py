"""A process of a fleet, told what to do by lines of JSON, which imports nothing of the tests.

``python -P worker.py '{"client": {...}, "fleet": {...}, "session": {...}, "url": ...}'`` makes one
session and says ``ready``.  Then each line of its input is a command, see :class:`Worker`.  What
happens is told by lines of JSON on its output; all times are monotonic, the same in all processes.
"""

import asyncio
import importlib
import json
import logging
import sys
import time
import traceback
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

import aiowebsocketclient
from aiowebsocketclient.redis import RedisFleet

# Seconds of pause after a failed use.
_PAUSE = 0.02


def say(event: str, **told: Any) -> None:
    print(json.dumps({"event": event, "time": time.monotonic()} | told), flush=True)


class Tell(logging.Handler):
    """Tells the log of the package, whose texts a test may search."""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        say("log", name=event, level=record.levelname, text=self.format(record))


def make_client(options: dict[str, Any], stack: AsyncExitStack) -> Any:
    """Return a client of Redis: ``kind`` of it, of a ``library``, with its own arguments."""
    options = dict(options)
    library = importlib.import_module(f"{options.pop('library', 'redis')}.asyncio")
    kind = options.pop("kind", "url")
    if kind == "cluster":
        cluster = importlib.import_module(f"{library.__name__}.cluster")
        return getattr(cluster, options.pop("class", "RedisCluster"))(**options)
    if kind == "sentinel":
        sentinel = importlib.import_module(f"{library.__name__}.sentinel")
        sentinels = [tuple(address) for address in options.pop("sentinels")]
        made = sentinel.Sentinel(sentinels)
        for client in made.sentinels:
            stack.push_async_callback(client.aclose)
        return made.master_for(options.pop("service"), **options)
    return library.from_url(options.pop("url"), **options)


def from_json(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items()}


class Worker:
    """Commands are the methods that begin with ``do_``."""

    def __init__(self, url: str, session: Any, fleet: Any) -> None:
        self._url = url
        self._session = session
        self._fleet = fleet
        self._uses = 0
        self._waits: list[float] = []
        self._errors: Counter[str] = Counter()
        self._is_stopping = False
        self._callers: set[asyncio.Task[None]] = set()
        self._held: list[Any] = []

    def do_call(self, callers: int, use: float = 0.01, pause: float = 0.0) -> None:
        """Add callers, each of which uses a connection for ``use`` seconds, again and again."""
        for _ in range(callers):
            self._callers.add(asyncio.create_task(self._call(use, pause)))

    async def _call(self, use: float, pause: float) -> None:
        while not self._is_stopping:
            try:
                began = time.monotonic()
                async with self._session.ws_connect(self._url) as ws:
                    self._waits.append(time.monotonic() - began)
                    await self._talk(ws)
                    await asyncio.sleep(use)
                self._uses += 1
            except Exception as error:
                self._errors[type(error).__name__] += 1
                await asyncio.sleep(_PAUSE)
            await asyncio.sleep(pause)

    async def _talk(self, ws: Any) -> None:
        await ws.send_str("x")
        message = await ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise aiohttp.ClientConnectionError(f"got {message.type.name}")

    async def do_hold(self, count: int) -> None:
        """Acquire connections, and keep them in use; say how long that took."""
        began = time.monotonic()
        for _ in range(count):
            self._held.append(await self._session.ws_connect(self._url))
        say("held", seconds=time.monotonic() - began)

    async def do_drop(self) -> None:
        """Close one that is held; the event is that of the beginning."""
        ws = self._held.pop()
        say("dropped")
        await ws.close()

    async def do_release(self) -> None:
        """Release those that are held."""
        while self._held:
            await self._held.pop().release()
        say("released")

    def do_block(self, seconds: float) -> None:
        """Block the loop."""
        time.sleep(seconds)
        say("unblocked")

    def do_resize(self, limit: int) -> None:
        self._fleet.resize(limit)

    def do_stats(self) -> None:
        say("stats", **self._stats())

    def _stats(self) -> dict[str, Any]:
        waits = sorted(self._waits) or [0.0]
        return {
            "uses": self._uses,
            "errors": dict(self._errors),
            "p50": waits[len(waits) // 2],
            "p99": waits[len(waits) * 99 // 100],
            "waits": len(self._waits),
            "fleet": asdict(self._session.fleet_stats()),
            "connects": self._session.stats().connects,
        }

    async def do_stop(self) -> None:
        """Let the callers end, close the session, and tell what was counted."""
        self._is_stopping = True
        if self._callers:
            await asyncio.wait(self._callers)
        told = self._stats()
        began = time.monotonic()
        await self._session.close()
        say("ended", close_seconds=time.monotonic() - began, **told)

    async def obey(self, lines: asyncio.StreamReader) -> None:
        """Carry out the commands that come, up to ``stop``; long ones in the background."""
        tasks: set[asyncio.Task[None]] = set()
        while line := await lines.readline():
            command = json.loads(line)
            name = command.pop("do")
            begun = getattr(self, f"do_{name}")(**command)
            if name == "stop":
                for task in tasks:
                    task.cancel()
                await begun
                return
            if begun is not None:
                tasks.add(asyncio.create_task(begun))


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody has handled, as loops do, but not the end of a stream of the client.

    asyncio keeps that end in a future of its own.  The protocol of the stream marks it as seen when
    it is freed; if the collector frees both at once, the future may come first, and complains.
    """
    future, error, frames = context.get("future"), context.get("exception"), []
    if future and not isinstance(future, asyncio.Task) and isinstance(error, OSError):
        frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename).parts for frame in frames]
    if files and {"redis", "valkey"} & {*files[0]} and files[-1][-2] == "asyncio":
        return
    loop.default_exception_handler(context)


async def main(options: dict[str, Any]) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    # In debug mode; the machine may be busy.
    loop.slow_callback_duration = 60.0
    loop.set_exception_handler(report)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    logger = logging.getLogger("aiowebsocketclient")
    logger.setLevel(options.get("log", "INFO"))
    logger.addHandler(Tell())
    async with AsyncExitStack() as stack:
        stack.callback(reading.close)
        client = make_client(options["client"], stack)
        stack.push_async_callback(client.aclose)
        fleet = RedisFleet(client, **from_json(options["fleet"]))
        session = aiowebsocketclient.WebSocketClientSession(fleet=fleet, **options["session"])
        stack.push_async_callback(session.close)
        say("ready", file=aiowebsocketclient.__file__, fleet=repr(fleet), session=repr(session))
        await Worker(options["url"], session, fleet).obey(lines)


def run(options: dict[str, Any]) -> None:
    loop_name = options.pop("loop", "asyncio")
    factory = importlib.import_module(loop_name).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(options))


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
