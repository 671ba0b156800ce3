"""The core alone: acquire and release, with no socket and no session."""

from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle as endlessly
from itertools import islice, repeat
from time import monotonic, perf_counter_ns

from aiowebsocketclient._compat import Pool
from aiowebsocketclient.keys import HandshakeKey

from ..contenders.ours import Ours
from ..scenario import Measure, Scenario
from ..timing import per_cycle


@asynccontextmanager
async def _core(contender: type[Ours], url: str, point: int) -> AsyncIterator[Measure]:
    # The key that the public cycle looks up.
    yield _one_cycled([contender.key(url)])


@asynccontextmanager
async def _held(contender: type[Ours], url: str, held: int) -> AsyncIterator[Measure]:
    key = contender.key(url)
    pool = _with_idle([key] * (held + 1))
    for _ in range(held):
        assert pool.acquire(key, monotonic()) is not None
    yield per_cycle(partial(_cycle, pool, key))
    assert pool.gauges()[:3] == (0, held, 1)


@asynccontextmanager
async def _endpoints(contender: type[Ours], url: str, count: int) -> AsyncIterator[Measure]:
    yield _one_cycled(_endpoint_keys(contender, count))


@asynccontextmanager
async def _endpoints_in_turn(contender: type[Ours], url: str, count: int) -> AsyncIterator[Measure]:
    yield _all_in_turn(_endpoint_keys(contender, count))


@asynccontextmanager
async def _handshakes(contender: type[Ours], url: str, count: int) -> AsyncIterator[Measure]:
    yield _one_cycled(_handshake_keys(contender, url, count))


@asynccontextmanager
async def _handshakes_in_turn(
    contender: type[Ours], url: str, count: int
) -> AsyncIterator[Measure]:
    yield _all_in_turn(_handshake_keys(contender, url, count))


def _endpoint_keys(contender: type[Ours], count: int) -> list[HandshakeKey]:
    return [contender.key(f"http://host-{number}.example/") for number in range(count)]


def _handshake_keys(contender: type[Ours], url: str, count: int) -> list[HandshakeKey]:
    return [contender.key(f"{url}{number}") for number in range(count)]


def _one_cycled(keys: Sequence[HandshakeKey]) -> Measure:
    """Cycle one connection while each key has an idle connection."""
    return per_cycle(partial(_cycle, _with_idle(keys), keys[len(keys) // 2]))


def _all_in_turn(keys: Sequence[HandshakeKey]) -> Measure:
    """Cycle the connections of all keys in turn, and do the same with a dict of deques.

    Both pay for cache misses of the processor.
    """
    pool = _with_idle(keys)
    deques = {key: deque([object()]) for key in keys}
    # At least one cycle per key.
    step = len(keys) * -(-100 // len(keys))
    return per_cycle(
        partial(_cycle_all, pool, endlessly(keys)),
        step=step,
        dict_ns=partial(_cycle_deques, deques, endlessly(keys)),
    )


def _with_idle(keys: Sequence[HandshakeKey]) -> Pool:
    """Return a pool with an idle connection for each of the keys."""
    pool = Pool()
    now = monotonic()
    for key in keys:
        slot = pool.open(key.endpoint, key, now)
        assert slot is not None
        pool.connected(slot, now)
    return pool


async def _cycle(pool: Pool, key: Hashable, cycles: int) -> int:
    now = monotonic()
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        slot = pool.acquire(key, now)
        assert slot is not None
        pool.release(slot, now)
    return perf_counter_ns() - started


async def _cycle_all(pool: Pool, keys: Iterator[Hashable], cycles: int) -> int:
    now = monotonic()
    started = perf_counter_ns()
    for key in islice(keys, cycles):
        slot = pool.acquire(key, now)
        assert slot is not None
        pool.release(slot, now)
    return perf_counter_ns() - started


async def _cycle_deques(
    deques: dict[HandshakeKey, deque[object]], keys: Iterator[HandshakeKey], cycles: int
) -> int:
    started = perf_counter_ns()
    for key in islice(keys, cycles):
        free = deques[key]
        item = free.popleft()
        free.append(item)
    return perf_counter_ns() - started


SCENARIOS = (
    Scenario("core", "acquire and release of the core alone", _core, needs=("key",)),
    Scenario(
        "held",
        "the same while many others are in use",
        _held,
        needs=("key",),
        axis="in use",
        points=(0, 1000, 10_000, 100_000),
        smoke_points=(0, 100),
    ),
    Scenario(
        "endpoints",
        "the same while many other endpoints have an idle connection",
        _endpoints,
        needs=("key",),
        axis="endpoints",
        points=(1, 100, 10_000),
        smoke_points=(1, 100),
    ),
    Scenario(
        "endpoints-in-turn",
        "the same for all of them in turn; also for a dict of deques",
        _endpoints_in_turn,
        needs=("key",),
        axis="endpoints",
        points=(1, 100, 10_000),
        smoke_points=(1, 100),
    ),
    Scenario(
        "handshakes",
        "the same while many other handshakes at the endpoint have an idle connection",
        _handshakes,
        needs=("key",),
        axis="handshakes",
        points=(1, 30, 1000),
        smoke_points=(1, 30),
    ),
    Scenario(
        "handshakes-in-turn",
        "the same for all of them in turn; also for a dict of deques",
        _handshakes_in_turn,
        needs=("key",),
        axis="handshakes",
        points=(1, 30, 1000),
        smoke_points=(1, 30),
    ),
)
