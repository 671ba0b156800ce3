"""The cost of watching idle connections, compared with ignoring them and with one reader each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from time import process_time_ns
from typing import Final

from ..contender import Many
from ..fleet import Fleet, ping, serving
from ..processes import Server
from ..scenario import Measure, Sample, Scenario
from ..timing import freeze, quiet
from ..traced import traced_bytes, warm_up

_TURNS: Final = 5


@asynccontextmanager
async def _watch(contender: type[Many], url: str, count: int) -> AsyncIterator[Measure]:
    async with (
        serving() as (server, client_session),
        contender.fleet(client_session, server.url) as fleet,
    ):

        async def measure(seconds: float) -> Sample:
            await warm_up(fleet)
            # Tracing makes opening connections three times as slow.
            traced = count // 2
            held = await traced_bytes(fleet, traced)
            await fleet.open(count - traced)
            return {"bytes_per_connection": held} | await _times(fleet, server)

        yield measure
        await fleet.close()


async def _times(fleet: Fleet, server: Server) -> Sample:
    """Return µs per connection."""
    await quiet()
    # A collection must not traverse all connections.
    freeze()
    count = fleet.alive()
    taken, given, pinged = [], [], []
    for _ in range(_TURNS):
        taken.append(await fleet.take() / count)
        given.append(await fleet.give() / count)
    for _ in range(_TURNS):
        # CPU time, because the process mostly waits.
        before = process_time_ns()
        await ping(server, answered=fleet.answers_pings)
        pinged.append((process_time_ns() - before) / count)
    us = {"us_to_hand_out": taken, "us_to_park": given, "us_per_ping": pinged}
    return {name: median(ns) / 1000 for name, ns in us.items()}


SCENARIOS = (
    Scenario(
        "idle-watcher",
        "idle connections: memory (including aiohttp's), a PING, acquire and release",
        _watch,
        needs=("fleet",),
        axis="connections",
        points=(2_000,),
        smoke_points=(100,),
        max_rounds=2,
        own_process=True,
    ),
)
