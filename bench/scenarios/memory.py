"""The memory of an idle connection, in the pool and of aiohttp alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from ..contender import Many
from ..fleet import Fleet, serving
from ..scenario import Measure, Sample, Scenario
from ..traced import rss_bytes, traced_bytes, warm_up

_Bytes = Callable[[Fleet, int], Awaitable[float]]


@asynccontextmanager
async def _memory(
    bytes_of: _Bytes, contender: type[Many], url: str, count: int
) -> AsyncIterator[Measure]:
    async with (
        serving() as (server, client_session),
        contender.fleet(client_session, server.url) as fleet,
    ):

        async def measure(seconds: float) -> Sample:
            await warm_up(fleet)
            return {"bytes_per_connection": await bytes_of(fleet, count)}

        yield measure
        await fleet.close()


def _scenario(name: str, about: str, bytes_of: _Bytes, count: int, rounds: int) -> Scenario:
    return Scenario(
        name,
        f"bytes per idle connection, including aiohttp's; {about}",
        partial(_memory, bytes_of),
        needs=("fleet",),
        axis="connections",
        points=(count,),
        smoke_points=(100,),
        max_rounds=rounds,
        own_process=True,
    )


SCENARIOS = (
    _scenario("memory", "by tracemalloc", traced_bytes, count=1_000, rounds=3),
    # Many, because few connections would fit into memory left by earlier handshakes.
    _scenario("memory-rss", "by RSS", rss_bytes, count=5_000, rounds=1),
)
