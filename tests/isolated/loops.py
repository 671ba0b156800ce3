"""Goes through the loops whose instructions are counted, for ``tests/instructions``.

``loops.py URL``, under callgrind, which is told to begin a new part at ``MARK``: one is called at
the beginning and at the end of each block of cycles.  Prints which blocks there were, and what ran.
"""

import asyncio
import gc
import json
import os
import platform
import sys
import sysconfig
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from itertools import repeat
from time import monotonic
from typing import Any

from multidict import CIMultiDict

import aiowebsocketclient
from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient._compat import Pool
from aiowebsocketclient.keys import resolve

# A function of the C library that nothing else here calls.
MARK = os.getppid

# The interpreter adapts itself to what runs, and caches fill.
WARM_UP = 300
# What a block costs beside its cycles is what one without any costs.
BLOCKS = (0, 500, 500, 500)

HEADERS = {"Authorization": "Bearer qW3v9xLp0aTz7RkY", "X-Tenant": "4711", "User-Agent": "loops"}
PROTOCOLS = ("chat.v2", "chat.v1")

Loop = Callable[[int], Awaitable[None]]


async def floor(url: str, stack: AsyncExitStack) -> Loop:
    free: deque[object] = deque([object()])

    async def cycle() -> None:
        item = free.popleft()
        free.append(item)

    async def loop(cycles: int) -> None:
        for _ in repeat(None, cycles):
            await cycle()

    return loop


async def core(url: str, stack: AsyncExitStack) -> Loop:
    # The very key that the public cycle is looked up by.
    key = resolve(url, {}, headers=CIMultiDict(), reuse_key=None, client_session=None).key
    pool = Pool()
    now = monotonic()
    slot = pool.open(key.endpoint, key, now)
    assert slot is not None
    pool.connected(slot, now)

    async def loop(cycles: int) -> None:
        for _ in repeat(None, cycles):
            slot = pool.acquire(key, now)
            pool.release(slot, now)

    return loop


async def core_queued(url: str, stack: AsyncExitStack) -> Loop:
    """Let a caller wait for the connection that another one gives back, in the core alone."""
    key = resolve(url, {}, headers=CIMultiDict(), reuse_key=None, client_session=None).key
    pool = Pool(limit=1)
    now = monotonic()
    slot: Any = pool.open(key.endpoint, key, now)
    pool.connected(slot, now)
    slot = pool.acquire(key, now)

    async def loop(cycles: int) -> None:
        nonlocal slot
        for _ in repeat(None, cycles):
            waiter, _plan = pool.request(key.endpoint, key, now)
            pool.release(slot, now)
            slot = pool.take(waiter)

    return loop


async def cycle(url: str, stack: AsyncExitStack) -> Loop:
    session = await stack.enter_async_context(one_connection(url))

    async def loop(cycles: int) -> None:
        for _ in repeat(None, cycles):
            ws = await session.ws_connect(url)
            await ws.release()

    return loop


async def async_with(url: str, stack: AsyncExitStack) -> Loop:
    session = await stack.enter_async_context(one_connection(url))

    async def loop(cycles: int) -> None:
        for _ in repeat(None, cycles):
            async with session.ws_connect(url):
                pass

    return loop


async def with_options(url: str, stack: AsyncExitStack) -> Loop:
    session = await stack.enter_async_context(
        one_connection(url, headers=HEADERS, protocols=PROTOCOLS)
    )

    async def loop(cycles: int) -> None:
        for _ in repeat(None, cycles):
            # Built anew at each call, as where a user is.
            ws = await session.ws_connect(url, headers=dict(HEADERS), protocols=list(PROTOCOLS))
            await ws.release()

    return loop


async def queued(url: str, stack: AsyncExitStack) -> Loop:
    """Let a task wait for the connection that another one gives back."""
    session = await stack.enter_async_context(one_connection(url, limit=1))
    running = asyncio.get_running_loop()

    async def loop(cycles: int) -> None:
        ws = await session.ws_connect(url)
        for _ in repeat(None, cycles):
            waits = running.create_task(session.ws_connect(url))
            await asyncio.sleep(0)
            ws.release()
            ws = await waits
        ws.release()

    return loop


@asynccontextmanager
async def one_connection(
    url: str, limit: int | None = None, **options: Any
) -> AsyncIterator[WebSocketClientSession]:
    async with WebSocketClientSession(limit=limit) as session:
        async with session.ws_connect(url, **options) as ws:
            # A message each way: the connection has been used as those of a service are.
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
        yield session
        # Nothing but reuse was counted.
        assert session.stats().connects == 1


LOOPS = {
    "floor": floor,
    "core": core,
    "core-queued": core_queued,
    "cycle": cycle,
    "async-with": async_with,
    "options": with_options,
    "queued": queued,
}


async def go_through(url: str) -> None:
    for prepare in LOOPS.values():
        async with AsyncExitStack() as stack:
            loop = await prepare(url, stack)
            await loop(WARM_UP)
            # The collector stays on: what it has to do with what the cycles leave is their cost,
            # what it would have to do with all the rest of the process is not.
            gc.collect()
            gc.freeze()
            for cycles in BLOCKS:
                MARK()
                await loop(cycles)
                MARK()


def compiler_flags() -> str:
    """Return those of the interpreter's own that an extension is compiled with, paths left out."""
    flags = (sysconfig.get_config_var("CFLAGS") or "").split()
    return " ".join(flag for flag in flags if flag[:2] in ("-O", "-f", "-m") and "/" not in flag)


def about() -> dict[str, Any]:
    extension = sys.modules.get("aiowebsocketclient._pool")
    return {
        "blocks": [(name, cycles) for name in LOOPS for cycles in BLOCKS],
        "package": aiowebsocketclient.__file__,
        "implementation": aiowebsocketclient.IMPLEMENTATION,
        "extension": getattr(extension, "__file__", None),
        "environment": {
            "python": sys.version,
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()),
            **{name: version(name) for name in ("aiohttp", "yarl", "multidict")},
            "flags": compiler_flags(),
        },
    }


if __name__ == "__main__":
    asyncio.run(go_through(sys.argv[1]))
    print(json.dumps(about()))
