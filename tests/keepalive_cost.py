"""What keep-alives cost on thousands of idle connections: CPU time, memory, messages.

    python -m tests.keepalive_cost --connections 10000

The server is a process of its own; the CPU time and the memory are those of the client alone, with
each kind in a process of its own.  "none" is without keep-alives, for comparison.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, Final

from aiowebsocketclient import IMPLEMENTATION, ClientWebSocketResponse, WebSocketClientSession
from bench.fleet import serving
from bench.timing import quiet
from bench.traced import rss

#: The server of the benchmarks echoes texts, and ignores binary messages.
ANSWERED, UNANSWERED = "keep-alive", b"keep-alive"


async def ask(ws: ClientWebSocketResponse) -> None:
    await ws.send_str(ANSWERED)
    await ws.receive_str()


KINDS: Final[dict[str, Callable[[float], dict[str, Any]]]] = {
    "none": lambda _: {},
    "message": lambda interval: {"keepalive": (interval, UNANSWERED)},
    "answered": lambda interval: {
        "keepalive": (interval, ANSWERED),
        "on_idle_message": lambda message: message.data == ANSWERED,
    },
    "hook": lambda interval: {"keepalive": (interval, ask)},
}


async def measure(kind: str, connections: int, interval: float, seconds: float) -> str:
    options = KINDS[kind](interval)
    async with (
        serving(tls=False) as (server, client_session),
        WebSocketClientSession(
            client_session=client_session,
            client_session_owner=False,
            max_idle=None,
            max_idle_connections=None,
            **options,
        ) as session,
    ):
        await session.prewarm(server.url, 1)
        await quiet()
        empty = rss()
        await session.prewarm(server.url, connections)
        # Every connection has had its first keep-alive.
        await asyncio.sleep(1.5 * interval)
        await quiet()
        held = rss() - empty
        started, busy = perf_counter(), process_time()
        await asyncio.sleep(seconds)
        elapsed, busy = perf_counter() - started, process_time() - busy
        # A few more, if handshakes were late.
        assert session.stats().idle >= connections, session.stats()
        rate = 0.0 if kind == "none" else connections / interval
        return (
            f"{kind:<9} {100 * busy / elapsed:6.2f} % of a core, {held / connections:8,.0f} bytes"
            f" for each connection, {rate:,.0f} keep-alives a second"
        )


def main(options: argparse.Namespace) -> None:
    if options.kind:
        measuring = measure(options.kind, options.connections, options.interval, options.seconds)
        print(asyncio.run(measuring), flush=True)
        return
    print(
        f"core: {IMPLEMENTATION}, {options.connections:,} idle connections, a keep-alive each"
        f" {options.interval:g} s",
        flush=True,
    )
    for kind in KINDS:
        subprocess.run(
            [sys.executable, "-m", "tests.keepalive_cost", *sys.argv[1:], "--kind", kind],
            check=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.keepalive_cost", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds; default: 5")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured; default: 10")
    parser.add_argument("--kind", choices=KINDS, help="only this; default: each")
    main(parser.parse_args())
