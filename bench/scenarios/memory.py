"""What an idle connection takes: that of the pool beside aiohttp's own, which nobody reads."""

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
        f"connections that are idle: bytes of each, aiohttp's own included; {about}",
        partial(_memory, bytes_of),
        needs=("fleet",),
        axis="connections",
        points=(count,),
        quick_points=(100,),
        max_rounds=rounds,
        own_process=True,
    )


SCENARIOS = (
    _scenario("memory", "as Python's allocators count", traced_bytes, count=1_000, rounds=2),
    # Of a few, too many find room in what their predecessors' handshakes have left.
    _scenario("memory-rss", "as the system does", rss_bytes, count=5_000, rounds=1),
)
