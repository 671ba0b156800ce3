"""What a fleet of processes achieves: ``python -m tests.fleet.measure [NAME ...]``.

Each measurement starts a redis-server, a server that counts connections, and workers, and takes
less than a minute.  All share this machine, so times depend on it; ratios hold.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from .crew import Crew, Worker, crew_of

#: Seconds of a load that are not looked at: places have to be dealt first.
WARM_UP = 2.0


def unused(crew: Crew, cap: int, since: float, until: float) -> float:
    """Return the share of the places that nothing was open in, though callers wanted all."""
    changes = [change for change in crew.server.changes if since < change[0] < until]
    open_now = crew.server.least(since, since)
    missing, last = 0.0, since
    for when, count in [*changes, (until, 0)]:
        missing += (cap - open_now) * (when - last)
        open_now, last = count, when
    return missing / cap / (until - since)


def calls(crew: Crew) -> int:
    with crew.redis.client() as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def load(
    crew: Crew, cap: int, callers: Sequence[int], seconds: float, **call: Any
) -> dict[str, Any]:
    """Let each worker have so many callers for a while, who want more than there is."""
    crew.fleet["limit"] = cap
    workers = await crew.start(len(callers))
    for worker, count in zip(workers, callers, strict=True):
        worker.tell("call", callers=count, **call)
    await asyncio.sleep(WARM_UP)
    began, calls_before = time.monotonic(), calls(crew)
    opened = len(crew.server.handshakes)
    uses = dict(crew.server.uses)
    await asyncio.sleep(seconds)
    ended, calls_after = time.monotonic(), calls(crew)
    served = [crew.server.uses[worker.who] - uses.get(worker.who, 0) for worker in workers]
    connects = len(crew.server.handshakes) - opened
    told = await crew.stop()
    return {
        "cap": cap,
        "peak": crew.server.peak(),
        "unused while wanted, %": round(100 * unused(crew, cap, began, ended), 2),
        "uses": served,
        "least/most served": round(min(served) / max(served), 3),
        "wait p50/p99, ms": [[round(1000 * t[p]) for p in ("p50", "p99")] for t in told],
        "connections opened": connects,
        "calls to Redis": calls_after - calls_before,
        "calls to Redis/s": round((calls_after - calls_before) / (ended - began), 1),
        "calls per connection": (
            round((calls_after - calls_before) / connects, 2) if connects else None
        ),
        "errors": [each["errors"] for each in told],
    }


async def saturated(crew: Crew) -> dict[str, Any]:
    """Four processes, 200 callers each, 20 places."""
    return await load(crew, 20, [200] * 4, 12.0, use=0.02)


async def unequal(crew: Crew) -> dict[str, Any]:
    """200 callers beside 20, 20 places."""
    return await load(crew, 20, [200, 20], 10.0, use=0.02)


async def mostly_one(crew: Crew) -> dict[str, Any]:
    """200 callers beside three times 2, 20 places: shares of their own would be 5 each."""
    return await load(crew, 20, [200, 2, 2, 2], 10.0, use=0.02)


async def crowded(crew: Crew) -> dict[str, Any]:
    """Eight processes, 3 places."""
    return await load(crew, 3, [5] * 8, 24.0, use=0.02)


async def closing(crew: Crew) -> dict[str, Any]:
    """Four processes, 50 callers each, 20 places, and each use opens a connection of its own."""
    crew.session["force_close"] = True
    return await load(crew, 20, [50] * 4, 10.0, use=0.02)


async def bursts(crew: Crew) -> dict[str, Any]:
    """Four processes, 50 callers each that pause, so that less is wanted than there is."""
    return await load(crew, 20, [50] * 4, 10.0, use=0.02, pause=0.5)


async def ways(crew: Crew) -> dict[str, Any]:
    """The way of a place from one process to another, 100 times each way."""
    crew.fleet |= {"limit": 1, "keep_idle": 0.05}
    pair = await crew.start(2)
    freed = await _repeat(crew, pair, _hand_over, 100)
    idle = await _repeat(crew, pair, _take_idle, 40)
    await crew.stop()
    return {"peak": crew.server.peak(), "freed here, had there": freed, "idle there": idle}


async def _repeat(
    crew: Crew,
    pair: Sequence[Worker],
    once: Callable[[Worker, Worker], Awaitable[float]],
    times: int,
) -> dict[str, Any]:
    taker, giver = pair
    await giver.ask("hold", "held", count=1)
    before, opened, seconds = calls(crew), len(crew.server.handshakes), []
    for _ in range(times):
        seconds.append(await once(giver, taker))
        giver, taker = taker, giver
    made = calls(crew) - before
    await giver.ask("release", "released")
    # Whoever has an idle connection would be asked for it.
    await asyncio.sleep(0.5)
    seconds.sort()
    return {
        "p50, ms": round(1000 * seconds[times // 2], 1),
        "p99, ms": round(1000 * seconds[times * 99 // 100], 1),
        "calls per connection": round(made / (len(crew.server.handshakes) - opened), 2),
    }


async def _hand_over(giver: Worker, taker: Worker) -> float:
    """Return the seconds from the beginning of a close to the caller that has the place."""
    heard = sum(event["event"] == "held" for event in taker.events)
    taker.tell("hold", count=1)
    # It stands in line by then.
    await asyncio.sleep(0.05)
    dropped = await giver.ask("drop", "dropped")
    held = await taker.hear("held", skip=heard)
    return float(held["time"] - dropped["time"])


async def _take_idle(giver: Worker, taker: Worker) -> float:
    """Return the seconds of a caller until it has the place of an idle connection elsewhere."""
    await giver.ask("release", "released")
    # It is offered by then.
    await asyncio.sleep(0.3)
    held = await taker.ask("hold", "held", count=1)
    return float(held["seconds"])


MEASUREMENTS: dict[str, Callable[[Crew], Awaitable[dict[str, Any]]]] = {
    "saturated": saturated,
    "unequal": unequal,
    "mostly_one": mostly_one,
    "crowded": crowded,
    "closing": closing,
    "bursts": bursts,
    "ways": ways,
}


async def main(names: Sequence[str], loop_name: str) -> None:
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            async with crew_of(Path(directory)) as crew:
                crew.fleet["lease"] = 10.0
                crew.others["loop"] = loop_name
                measured = await MEASUREMENTS[name](crew)
        print(f"{name}: {MEASUREMENTS[name].__doc__}")
        for what, value in measured.items():
            print(f"    {what}: {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    asyncio.run(main(options.names or list(MEASUREMENTS), options.loop))
