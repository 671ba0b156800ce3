"""What is done to sessions and their connections, whoever may be using them."""

import asyncio
import gc
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final, Protocol

import aiohttp

from aiowebsocketclient import PoolStats
from aiowebsocketclient._pool_py import IDLE

from .calls import shut_down
from .fleet import Fleet, Stop
from .subject import HookError, Lane

# Seconds in which connections in use have been released, and closed, after a limit was lowered.
_SETTLED: Final = 20.0


class Run(Protocol):
    """What is known here of the whole."""

    stop: Stop
    counts: Counter[str]
    fleet: Fleet
    lanes: Sequence[Lane]

    def fail(self, kind: str, detail: str) -> None: ...


async def shut_down_sockets(run: Run, random: Random) -> None:
    """Cut connections, in use or not."""
    while not await run.stop.within(random.random() * 0.1):
        pool = random.choice(run.lanes).session._pool
        conns = [slot.conn for slot in pool.slots() if slot.conn is not None]
        if conns and shut_down(random.choice(conns)._transport):
            run.counts["sockets shut down"] += 1


async def look_for_the_dead(run: Run, random: Random) -> None:
    """Look at the idle connections: what has ended, or has something unread, must be gone."""
    while not await run.stop.within(random.random() * 0.1):
        slots = random.choice(run.lanes).session._pool.slots()
        idle = {slot: slot.uses for slot in slots if _is_unfit(slot)}
        # A transport that is closing may tell its protocol in the next turn.
        for _ in range(5):
            await asyncio.sleep(0)
        for slot, uses in idle.items():
            if _is_unfit(slot) and slot.uses == uses:
                run.fail("dead or unclean", f"{slot.key} is idle")


def _is_unfit(slot: Any) -> bool:
    return slot.state == IDLE and not slot.conn.is_clean()


async def prewarm(run: Run, random: Random) -> None:
    """Open some in advance, and now and then leave off in the middle."""
    while not await run.stop.within(random.random() * 2):
        lane = random.choice(run.lanes)
        url, _, options = lane.target(random)
        count = random.randint(1, lane.limit or 20)
        scope = asyncio.timeout(random.random())
        try:
            async with scope:
                await lane.session.prewarm(url, count, **options)
        except (TimeoutError, aiohttp.ClientError, HookError):
            run.counts["prewarms broken off"] += 1
        else:
            run.counts["prewarms"] += 1


async def drain(run: Run, random: Random) -> None:
    """Let what there is not be handed out again, and now and then wait for its end."""
    while not await run.stop.within(random.random() * 2):
        lane = random.choice(run.lanes)
        url, *_ = lane.target(random)
        if lane.session.closed:
            continue
        drained = lane.session.drain(random.choice((None, url)))
        run.counts["drains"] += 1
        if random.random() < 0.2:
            await drained


async def remake(run: Run, random: Random, lane: Lane) -> None:
    """Close a session in the middle of everything, and begin with another."""
    while not await run.stop.within(0.5 + random.random() * 3):
        for fault in await lane.close():
            run.fail("sums that are wrong", fault)
        lane.open()
        run.counts["sessions remade"] += 1


async def resize(run: Run, random: Random, lane: Lane) -> None:
    """Change the limits; the new ones are what is allowed as soon as there is no more left open."""
    assert lane.plan.resized is not None
    low, high = lane.plan.resized
    allow = run.fleet.ledger.allow
    while not await run.stop.within(random.random() * 1.5):
        limit = random.randint(low, high)
        total = random.randint(low, 3 * high)
        old_limit, old_total = lane.limit, lane.limit_total
        assert old_limit is not None
        assert old_total is not None
        allow(lane.number, max(limit, old_limit), max(total, old_total))
        lane.limit, lane.limit_total = limit, total
        lane.session.resize(limit=limit, limit_total=total)
        run.counts["resizes"] += 1
        if not await _has_settled(lane, limit, total):
            run.fail(
                "limits exceeded", f"{lane.name}: {_state(lane)}, long after {limit=} {total=}"
            )
            return
        allow(lane.number, limit, total)


async def _has_settled(lane: Lane, limit: int, total: int) -> bool:
    try:
        async with asyncio.timeout(_SETTLED):
            while not _is_within(lane, limit, total):
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


def _is_within(lane: Lane, limit: int, total: int) -> bool:
    by_endpoint = lane.session.stats_by_endpoint().values()
    return taken(lane.session.stats()) <= total and all(taken(s) <= limit for s in by_endpoint)


def taken(stats: PoolStats) -> int:
    """Return how many places are taken."""
    return stats.connecting + stats.acquired + stats.idle + stats.closing


def _state(lane: Lane) -> Any:
    return {str(key): taken(stats) for key, stats in lane.session.stats_by_endpoint().items()}


async def observe(run: Run, random: Random) -> None:
    """Look at what the sessions tell of themselves, which must keep to the limits as well."""
    while not await run.stop.within(random.random() * 0.2):
        for lane in run.lanes:
            repr(lane.session)
            resized = lane.plan.resized is not None
            if not resized and not _is_within(lane, lane.limit or 2**40, lane.limit_total or 2**40):
                run.fail("limits exceeded", f"{lane.name}: by its own account: {_state(lane)}")


async def collect(run: Run, random: Random) -> None:
    """Collect garbage at any moment."""
    while not await run.stop.within(random.random() * 5):
        gc.collect()


_WORKS: Final = (shut_down_sockets, look_for_the_dead, prewarm, drain, observe, collect)


def begin(run: Run, seed: str, pause: float) -> list[asyncio.Task[None]]:
    """Begin with all of it; ``pause`` is what a server has before it is restarted."""
    works = [
        run.fleet.be_disorderly(run.stop, Random(f"{seed} fleet"), pause),
        *(work(run, Random(f"{seed} {work.__name__}")) for work in _WORKS),
    ]
    for lane in run.lanes:
        random = Random(f"{seed} {lane.name}")
        if lane.plan.remade:
            works.append(remake(run, random, lane))
        if lane.plan.resized is not None:
            works.append(resize(run, random, lane))
    return [asyncio.create_task(work) for work in works]
