"""Like HikariCP's spike test: many callers at once, and a handshake takes far longer than a use.

The few open connections serve all callers long before a new connection is ready.  A pool that opens
a connection for each caller only burdens the server.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import Final

from ..contender import Slow
from ..scenario import Measure, Sample, Scenario
from ..server import CONNECTING
from ..timing import quiet

_CALLERS: Final = 50
_IDLE: Final = 5
_USE: Final = 0.002

# Seconds for late handshakes, begun for callers that have been served meanwhile.
_AFTERMATH: Final = CONNECTING + 0.05


@asynccontextmanager
async def _spike(contender: type[Slow], url: str, at_once: int) -> AsyncIterator[Measure]:
    async def measure(seconds: float) -> Sample:
        # A new pool each time: after a spike it has more connections.
        async with contender.slow(url, connections=_IDLE, at_once=at_once) as pool:
            # A pool may learn from uses how soon connections will be free.
            await asyncio.gather(*(pool.use_for(_USE) for _ in range(_IDLE)))
            await quiet()
            started = perf_counter_ns()
            await asyncio.gather(*(pool.use_for(_USE) for _ in range(_CALLERS)))
            ns = perf_counter_ns() - started
            await asyncio.sleep(_AFTERMATH)
            return {"opened": await pool.begun(), "ms_to_serve_all": ns / 1e6}

    yield measure


SCENARIOS = (
    Scenario(
        "spike",
        f"{_CALLERS} callers at once, {_IDLE} idle connections, a handshake takes"
        f" {CONNECTING * 1000:.0f} ms, a use {_USE * 1000:.0f} ms: connections opened in total",
        _spike,
        needs=("slow", "use_for", "begun"),
        axis="most handshakes at once",
        # The default of this library, and that of HikariCP.
        points=(100, 1),
        smoke_points=(1,),
        max_rounds=3,
    ),
)
