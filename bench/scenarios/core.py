"""The core alone: an idle connection is acquired and released, with no socket and no session."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from time import monotonic, perf_counter_ns

from multidict import CIMultiDict

from aiowebsocketclient._compat import Pool
from aiowebsocketclient.keys import HandshakeKey, resolve

from ..scenario import Run


@asynccontextmanager
async def core(url: str) -> AsyncIterator[Run]:
    # The very key that the public cycle is looked up by.
    key = resolve(url, {}, headers=CIMultiDict(), reuse_key=None, client_session=None).key
    pool = Pool()
    now = monotonic()
    slot = pool.open(key.endpoint, key, now)
    assert slot is not None
    pool.connected(slot, now)
    yield partial(_run, pool, key, now)
    assert pool.gauges() == (0, 0, 1, 0, 0, 1)


async def _run(pool: Pool, key: HandshakeKey, now: float, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        slot = pool.acquire(key, now)
        assert slot is not None
        pool.release(slot, now)
    return perf_counter_ns() - started
