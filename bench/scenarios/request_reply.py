"""Messages both ways: through the pool, over a raw connection, over a new connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from time import perf_counter_ns
from typing import Final, NamedTuple

import aiohttp

from aiowebsocketclient import WebSocketClientSession

from ..contender import Many
from ..fleet import serving
from ..scenario import Measure, Sample, Scenario
from ..timing import per_cycle, quiet

#: 32 bytes, like the reply.
_REQUEST: Final = "a request or a reply: 32 bytes.."
#: 1 MB.
_LARGE: Final = "x" * 1_000_000
#: The messages of a turn: other work on the machine makes both ways slower alike.
_TURN: Final = 4


class _Ways(NamedTuple):
    """The ways of a message: through a pool, and over a raw connection of the same client."""

    url: str
    client_session: aiohttp.ClientSession
    pool: WebSocketClientSession
    raw: aiohttp.ClientWebSocketResponse


@asynccontextmanager
async def _ways(tls: bool) -> AsyncIterator[_Ways]:
    async with (
        serving(tls=tls) as (server, client_session),
        WebSocketClientSession(
            client_session=client_session, client_session_owner=False
        ) as session,
        client_session.ws_connect(server.url) as ws,
    ):
        yield _Ways(server.url, client_session, session, ws)
        assert session.stats().connects == 1


@asynccontextmanager
async def _prepare(
    tls: bool, contender: type[Many], url: str, point: int
) -> AsyncIterator[Measure]:
    async with _ways(tls) as ways:
        yield per_cycle(
            partial(_pooled, ways.pool, ways.url),
            step=5,
            slices=10,
            raw_ns=partial(_raw, ways.raw),
            connecting_ns=partial(_connecting, ways.client_session, ways.url),
        )


@asynccontextmanager
async def _prepare_transfer(
    contender: type[Many], url: str, megabytes: int
) -> AsyncIterator[Measure]:
    async with _ways(tls=True) as ways:
        # Warms up.
        await _transfer_both_ways(ways, megabytes, 0)
        yield partial(_transfer_both_ways, ways, megabytes)


async def _pooled(session: WebSocketClientSession, url: str, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        ws = await session.ws_connect(url)
        await ws.send_str(_REQUEST)
        await ws.receive_str()
        await ws.release()
    return perf_counter_ns() - started


async def _raw(ws: aiohttp.ClientWebSocketResponse, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        await ws.send_str(_REQUEST)
        await ws.receive_str()
    return perf_counter_ns() - started


async def _connecting(client_session: aiohttp.ClientSession, url: str, cycles: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, cycles):
        ws = await client_session.ws_connect(url)
        await ws.send_str(_REQUEST)
        await ws.receive_str()
        await ws.close()
    return perf_counter_ns() - started


async def _transfer_both_ways(ways: _Ways, messages: int, _seconds: float) -> Sample:
    """Time both ways beside each other; that through the pool with acquire and release."""
    await quiet()
    started = perf_counter_ns()
    acquired = await ways.pool.ws_connect(ways.url)
    times = {"pool": perf_counter_ns() - started, "raw": 0}
    turns = [("pool", acquired), ("raw", ways.raw)]
    for sent in range(0, messages, _TURN):
        for name, ws in turns:
            times[name] += await _transfer(ws, min(_TURN, messages - sent))
        turns.reverse()
    started = perf_counter_ns()
    await acquired.release()
    times["pool"] += perf_counter_ns() - started
    return {f"ms_{name}": ns / 1e6 for name, ns in times.items()}


async def _transfer(ws: aiohttp.ClientWebSocketResponse, messages: int) -> int:
    started = perf_counter_ns()
    for _ in repeat(None, messages):
        await ws.send_str(_LARGE)
        await ws.receive_str()
    return perf_counter_ns() - started


def _scenario(name: str, about: str, tls: bool) -> Scenario:
    # Only the cores of this library have key().
    return Scenario(name, about, partial(_prepare, tls), needs=("key",))


SCENARIOS = (
    _scenario(
        "request-reply",
        "a request and its reply: through the pool, over a raw and over a new connection",
        tls=False,
    ),
    _scenario("request-reply-tls", "the same over TLS", tls=True),
    Scenario(
        "transfer-tls",
        "messages of 1 MB each way over TLS: through the pool and over a raw connection",
        _prepare_transfer,
        needs=("key",),
        axis="MB",
        points=(64,),
        smoke_points=(1,),
        max_rounds=9,
    ),
)
