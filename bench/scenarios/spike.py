"""After HikariCP's spike test: many callers at once, and connecting takes far longer than use.

The few connections that are open serve everybody long before a new one could: whoever opens one for
each caller only burdens the server with them.
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

# For what is begun for those who have been served already, and turns out late.
_AFTERMATH: Final = CONNECTING + 0.05


@asynccontextmanager
async def _spike(contender: type[Slow], url: str, at_once: int) -> AsyncIterator[Measure]:
    async def measure(seconds: float) -> Sample:
        # Another pool each time: after a spike it has what it opened.
        async with contender.slow(url, connections=_IDLE, at_once=at_once) as pool:
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
        f"{_CALLERS} callers at once, {_IDLE} connections idle, connecting takes"
        f" {CONNECTING * 1000:.0f} ms, use {_USE * 1000:.0f} ms: connections opened in all",
        _spike,
        needs=("slow", "use_for", "begun"),
        axis="most handshakes at once",
        # The default, and as HikariCP does.
        points=(100, 1),
        quick_points=(1,),
        max_rounds=3,
    ),
)
