"""Thousands of connections: opening, holding and closing them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter, process_time
from typing import Final, Literal

from ..contender import Many
from ..fleet import Fleet, ping, serving
from ..scenario import LeftOut, Measure, Sample, Scenario
from ..timing import quiet
from ..traced import rss

# Seconds between two PINGs of the server, and length of the idle phase.
_HEARTBEAT: Final = 5.0

# With TLS on asyncio, a connection takes about 300 kB at each end.
_PLAIN: Final = 10_000
_TLS: Final = 2_000
_FEW: Final = 200


@asynccontextmanager
async def _scale(tls: bool, contender: type[Many], url: str, count: int) -> AsyncIterator[Measure]:
    # In a short run, the server sends one PING to each connection instead of a heartbeat.
    heartbeat = _HEARTBEAT if count > _FEW else None
    async with (
        serving(tls=tls, heartbeat=heartbeat) as (server, client_session),
        contender.fleet(client_session, server.url) as fleet,
    ):
        if not fleet.answers_pings:
            raise LeftOut("its idle connections do not answer PINGs, so the server closes them")

        async def hold() -> None:
            if heartbeat is None:
                await ping(server, answered=True)
            else:
                await asyncio.sleep(heartbeat)

        async def measure(seconds: float) -> Sample:
            return await _life(fleet, count, hold)

        yield measure


async def _life(fleet: Fleet, count: int, hold: Callable[[], Awaitable[None]]) -> Sample:
    await fleet.open(1)
    await quiet()
    empty = rss()
    started = perf_counter()
    await fleet.open(count - 1)
    to_open = perf_counter() - started
    await quiet()
    held = rss() - empty
    started, busy = perf_counter(), process_time()
    await hold()
    held_for, busy = perf_counter() - started, process_time() - busy
    if fleet.alive() != count:
        # The server waits for a PONG for half a heartbeat.
        raise LeftOut(f"{fleet.alive():,} of {count:,} connections survived: is the machine busy?")
    started = perf_counter()
    await fleet.close()
    return {
        "seconds_to_open": to_open,
        "seconds_to_close": perf_counter() - started,
        "rss_mb": held / 1e6,
        "rss_bytes_per_connection": held / count,
        "idle_cpu_percent": 100 * busy / held_for,
    }


def _scenario(tls: bool, loop: Literal["asyncio", "uvloop"]) -> Scenario:
    count = _TLS if tls else _PLAIN
    return Scenario(
        "-".join(["scale", *(["tls"] if tls else []), *(["uvloop"] if loop == "uvloop" else [])]),
        f"open, hold under PINGs every {_HEARTBEAT:.0f} s and close {count:,} connections,"
        f" {'TLS' if tls else 'plain'}, on {loop}",
        partial(_scale, tls),
        needs=("fleet",),
        axis="connections",
        points=(count,),
        smoke_points=(_FEW,),
        max_rounds=1,
        own_process=True,
        loop=loop,
    )


SCENARIOS = (
    _scenario(False, "asyncio"),
    _scenario(False, "uvloop"),
    _scenario(True, "asyncio"),
    _scenario(True, "uvloop"),
)
