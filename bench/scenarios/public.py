"""The public API, with a connection that is always idle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..contender import Cycling, CyclingAndHolding
from ..scenario import Measure, Scenario
from ..timing import per_cycle

if TYPE_CHECKING:
    # The processes of other contenders do not import it.
    from ..contenders.ours import Ours


@asynccontextmanager
async def _cycle(contender: type[Cycling], url: str, point: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=0, connections=1) as pool:
        yield per_cycle(pool.cycle)


@asynccontextmanager
async def _cycle_while_held(
    contender: type[CyclingAndHolding], url: str, held: int
) -> AsyncIterator[Measure]:
    async with (
        contender.filled(url, limit=0, connections=held + 1) as pool,
        pool.hold(held),
    ):
        yield per_cycle(pool.cycle)


@asynccontextmanager
async def _async_with(contender: "type[Ours]", url: str, point: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=0, connections=1) as pool:
        yield per_cycle(pool.async_with)


@asynccontextmanager
async def _options(contender: "type[Ours]", url: str, point: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=0, connections=0) as pool:
        await pool.open_with_options()
        yield per_cycle(pool.with_options)


@asynccontextmanager
async def _new_header(contender: "type[Ours]", url: str, point: int) -> AsyncIterator[Measure]:
    async with contender.filled(url, limit=0, connections=0) as pool:
        await pool.open_traced()
        yield per_cycle(pool.traced, known_ns=pool.untraced)


SCENARIOS = (
    Scenario("cycle", "acquire and release an idle connection", _cycle, needs=("cycle",)),
    Scenario("async-with", "the same with async with", _async_with, needs=("async_with",)),
    Scenario(
        "options",
        "the same with three headers and two protocols, built in each call",
        _options,
        needs=("with_options",),
    ),
    Scenario(
        "new-header",
        "the same with reuse_key and a header that is new in each call, or known",
        _new_header,
        needs=("traced", "untraced"),
    ),
    Scenario(
        "cycle-held",
        "acquire and release an idle connection while many others are in use",
        _cycle_while_held,
        needs=("cycle", "hold"),
        axis="in use",
        points=(0, 5000),
        smoke_points=(0, 20),
        max_rounds=15,
    ),
)
