"""What the scripts beside this have in common: a server, measuring, and how they answer.

Each is run in an interpreter of its own, by ``tests/test_memory.py`` or by hand, and prints as JSON
what it found.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import aiowebsocketclient
from aiowebsocketclient import WebSocketClientSession

# What is measured grows in every round, or it was not a leak.
ROUNDS = 3

OURS = ("aiowebsocketclient", "aiohttp", "asyncio", "_asyncio", "uvloop")


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Run a server until the end of the block; its port comes back."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.kill()


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def settled(session: WebSocketClientSession) -> None:
    """Wait until nothing is on its way to another state."""

    def is_settled() -> bool:
        stats = session.stats()
        return not (stats.closing or stats.connecting or stats.acquired or stats.waiting)

    await until(is_settled)
    # asyncio keeps cancelled timers until they are more than half of all, and more than 100.
    loop = asyncio.get_running_loop()
    for _ in range(1_000):
        loop.call_later(3_600, print).cancel()
    # Tasks and callbacks that are done go in the next turns.
    for _ in range(3):
        await asyncio.sleep(0)


class Measure(NamedTuple):
    blocks: int
    objects: int
    rss: int
    kinds: Counter[type]


def measure() -> Measure:
    gc.collect()
    blocks = sys.getallocatedblocks()
    found = gc.get_objects()
    return Measure(
        blocks, len(found), psutil.Process().memory_info().rss, Counter(map(type, found))
    )


def growth(rounds: list[Measure]) -> dict[str, Any]:
    """Return what has grown in every round, by the least of it.

    Between the second and the third measure nothing was done: that is what measuring itself takes.
    """
    _, idle, *rounds = rounds
    steps = list(itertools.pairwise(rounds))
    kinds = {
        f"{kind.__module__}.{kind.__qualname__}": more
        for kind in rounds[-1].kinds
        if str(kind.__module__).partition(".")[0] in OURS
        and (more := min(after.kinds[kind] - before.kinds[kind] for before, after in steps)) > 0
    }
    return {
        "blocks": min(after.blocks - before.blocks for before, after in steps)
        - (rounds[0].blocks - idle.blocks),
        "objects": min(after.objects - before.objects for before, after in steps)
        - (rounds[0].objects - idle.objects),
        "rss": min(after.rss - before.rss for before, after in steps),
        "kinds": kinds,
    }


def answer(**found: Any) -> None:
    print(
        json.dumps(
            {
                "implementation": aiowebsocketclient.IMPLEMENTATION,
                "file": aiowebsocketclient.__file__,
                **found,
            }
        )
    )


def run(main: Callable[[int, argparse.Namespace], Awaitable[None]], **defaults: Any) -> None:
    """Run a script's main(port, options) beside a server, on the loop that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--leak", action="store_true", help="lose one object in ten operations")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with server() as port, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(port, options))  # type: ignore[arg-type]


class Growth:
    """Measures what a piece of work leaves behind, after a first round that does not count."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.operations: int = options.operations
        self._lost: list[object] | None = [] if options.leak else None

    async def of(self, work: Callable[[int], Awaitable[None]], **more: Any) -> None:
        """Do the work in rounds, and print what has grown in all of them."""
        each = self.operations // (ROUNDS + 1)
        await self._round(work, each)
        rounds = [measure(), measure(), measure()]
        for _ in range(ROUNDS):
            await self._round(work, each)
            rounds.append(measure())
        answer(operations=each, **growth(rounds), **more)

    async def _round(self, work: Callable[[int], Awaitable[None]], each: int) -> None:
        await work(each)
        if self._lost is not None:
            self._lost.extend(object() for _ in range(each // 10))
