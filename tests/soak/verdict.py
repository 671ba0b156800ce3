"""What must hold once all is calm: nothing lost, nothing left, everything to be had at once."""

import asyncio
import contextlib
import gc
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import psutil

from .calls import Caller
from .chaos import taken
from .ledger import PORTS, SERVERS
from .subject import Ask, Lane

# Seconds after which a process has come to the memory that it needs; there is a sample for each.
_WARM: Final = 60

# What the package makes anew for every session, connection or call. What is there once stays.
_ITS_OBJECTS: Final = (
    "Acquisition",
    "ClientWebSocketResponse",
    "Connection",
    "Endpoint",
    "Handshake",
    "Pending",
    "Plan",
    "Slot",
    "Waiter",
    "WebSocketClientSession",
)


class Resources:
    """What a process holds."""

    def __init__(self) -> None:
        self.tasks = asyncio.all_tasks()
        self.fds = fds()
        self.objects = objects()


def objects() -> Counter[str]:
    """Count what there is of the package's objects, and of aiohttp's connections."""
    gc.collect()
    found: Counter[str] = Counter()
    uses_uvloop = type(asyncio.get_running_loop()).__module__ == "uvloop"
    for each in gc.get_objects():
        cls = type(each)
        if cls.__name__ in _ITS_OBJECTS and cls.__module__.startswith("aiowebsocketclient"):
            found[cls.__name__] += 1
        elif cls.__name__ == "ResponseHandler" and not uses_uvloop:
            # There, timers of TLS connections hold them for half a minute after their end.
            found["aiohttp's connections"] += 1
    return found


def fds() -> Counter[str]:
    """Count what is open by its kind; a server that is restarted gets another pipe."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(f"/proc/self/fd/{name}").partition(":[")[0]] += 1
    return found


def rss() -> int:
    """Return the bytes of memory in use."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


async def lost_waiters(callers: dict[asyncio.Task[None], Caller], seconds: float) -> list[str]:
    """Let the callers end, which were told to; return those that do not.

    Nothing stands in their way, and so many seconds are far more than it takes.
    """
    _, left = await asyncio.wait(callers, timeout=seconds)
    lost = [str(callers[task]) for task in left]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=seconds)
    return lost


async def lost_places(lane: Lane, seconds: float) -> list[str]:
    """Return what is taken although nobody has anything."""
    stats = lane.session.stats()
    try:
        async with asyncio.timeout(seconds):
            while taken(stats) > stats.idle or stats.waiting:
                await asyncio.sleep(0.02)
                gc.collect()
                stats = lane.session.stats()
    except TimeoutError:
        return [f"{lane.name}: {lane.session!r}, with nobody there"]
    return []


async def take_all(lane: Lane, caller: Caller, seconds: float) -> list[str]:
    """Take the whole limit at once, at each endpoint in turn, and have all of it answer."""
    faults = []
    limit = lane.limit or 50
    if lane.limit_total is not None:
        limit = min(limit, lane.limit_total)
    for server in range(SERVERS):
        for port in range(PORTS):
            caller.url, caller.identity, caller.options = lane.target_at(server, port, 0)
            try:
                async with asyncio.timeout(seconds):
                    await _take_at_once(lane, caller, limit)
            except Exception as exc:
                faults.append(f"{lane.name}: not all {limit} at {caller.url}: {exc!r}")
                return faults
    return faults


async def _take_at_once(lane: Lane, caller: Caller, count: int) -> None:
    everybody = asyncio.Barrier(count)

    async def take() -> None:
        with Ask(lane, caller) as ask:
            async with lane.session.ws_connect(
                caller.url, acquire_timeout=None, **caller.options
            ) as ws:
                ask.granted(ws)
                await everybody.wait()
                await caller.ask(ws)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(take())


async def leaks(before: Resources) -> dict[str, Sequence[Any]]:
    """Return what there is more than at the start, once it has had the time to go."""
    left: dict[str, Sequence[Any]] = {}
    # aiohttp's timers hold a closed connection for as long as a heartbeat takes.
    deadline = asyncio.get_running_loop().time() + 15
    while asyncio.get_running_loop().time() < deadline:
        left = {
            "tasks": list(map(repr, asyncio.all_tasks() - before.tasks)),
            "fds": list((fds() - before.fds).elements()),
            "objects": list((objects() - before.objects).elements()),
        }
        if not any(left.values()):
            break
        await asyncio.sleep(0.1)
    return left


def growth(samples: Sequence[int]) -> tuple[int, int, int]:
    """Return how much memory was in use half way and at the end, and how much more is too much.

    Both are medians, of a fifth of the time. Allocators and the work itself go up and down by some
    megabytes: a leak of less is found by counting objects. A run that is not long enough for memory
    to have found its level tells nothing.
    """
    count = len(samples)
    if count < _WARM:
        return 0, 0, 0
    fifth = count // 5
    half = sorted(samples[count // 2 - fifth // 2 :][:fifth])[fifth // 2]
    end = sorted(samples[-fifth:])[fifth // 2]
    return half, end, 10 * 2**20 + half // 10
