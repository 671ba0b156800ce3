"""The share of good calls where some backends behind a balancer never answer a handshake.

    python -m tests.dead_backends --seconds 30

runs callers of the pool, and as many of plain aiohttp, against a balancer that sends every third
connection to a dead backend.  A caller gives up after a second.  Once uses reuse connections, and
once each connection serves one use.
"""

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import aiohttp

from aiowebsocketclient import WebSocketClientSession

from .servers import Server, serving


class Balancer:
    """Sends each connection to ``port``, but every third to a backend that answers nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: Where it listens.
        self.front = 0
        self.connections = 0
        self._numbers = count(1)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            if next(self._numbers) % 3 == 0:
                await reader.read()
            else:
                await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
    finally:
        sink.close()


@contextlib.asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    async with serving(Server()) as backend:
        balancer = Balancer(backend.port)
        front = await asyncio.start_server(balancer.handle, "127.0.0.1", 0)
        balancer.front = front.sockets[0].getsockname()[1]
        try:
            yield balancer
        finally:
            front.close()


async def measure(session: Any, seconds: float, callers: int) -> tuple[Counter[str], int]:
    """Return how many calls went well, and how many gave up, and the connections they took."""
    async with balancing() as balancer, session:
        url = f"ws://127.0.0.1:{balancer.front}/"
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        answers: Counter[str] = Counter()

        async def call_again_and_again() -> None:
            while loop.time() < end:
                try:
                    async with asyncio.timeout(1.0), session.ws_connect(url) as ws:
                        await ws.send_str("hello")
                        answers[await ws.receive_str()] += 1
                except TimeoutError:
                    answers["gave up"] += 1
                # So that the machine is not what is measured.
                await asyncio.sleep(0.02)

        await asyncio.gather(*[call_again_and_again() for _ in range(callers)])
    return answers, balancer.connections


async def compare(seconds: float, callers: int) -> dict[str, float]:
    """Return the share of good calls of each."""
    contenders = {
        "aiohttp": lambda: aiohttp.ClientSession(),
        "pool, force_close": lambda: WebSocketClientSession(force_close=True),
        "pool": lambda: WebSocketClientSession(),
    }
    shares = {}
    for name, make in contenders.items():
        answers, connections = await measure(make(), seconds, callers)
        shares[name] = answers["hello"] / answers.total()
        print(
            f"{name:<18} {answers['hello']:>7,} good of {answers.total():>7,}"
            f" ({shares[name]:6.1%}), {connections:>6,} connections"
        )
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dead_backends", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each; default: 30")
    parser.add_argument("--callers", type=int, default=10, help="default: 10")
    arguments = parser.parse_args(argv)
    asyncio.run(compare(arguments.seconds, arguments.callers))


if __name__ == "__main__":
    main()
