"""Servers that are not aiohttp's: ``websockets``, uvicorn, hypercorn, Tornado, ws, behind nginx.

``python -m tests.foreign`` prints what they did.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import SessionFactory, until
from .foreign.load import STAGES, Closes, Load, closed, faults_of, is_settled
from .foreign.restarts import SERVICE_RESTART, WAYS, restart
from .foreign.server import SERVERS, ForeignServer, running
from .proxy import proxying

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals end the servers")

LIMIT = 8
CALLERS = 16
COMPRESS: dict[str, Any] = {"compress": 15}

servers = pytest.mark.parametrize("name", SERVERS)
slow = pytest.mark.slow


async def check_sums(load: Load, server: ForeignServer, *before: Any) -> dict[str, int]:
    """See that nothing was mixed up, and that all numbers fit, also those of the server."""
    assert load.wrong == []
    await until(lambda: is_settled(load.session.stats()))
    counts = await server.count_settled(load.session.stats().idle)
    assert faults_of(load, counts, *before) == []
    return counts


async def use(load: Load, server: ForeignServer, cycles: int) -> None:
    # Once callers are cancelled, handlers of connections that were closed may still run.
    await load.run(cycles // 10, callers=CALLERS)
    assert (await server.count())["peak"] == LIMIT
    assert load.session.stats().connects == LIMIT
    await load.run(cycles - cycles // 10, callers=CALLERS, cancel_every=10)
    await check_sums(load, server)
    # Else there was nothing to mix up.
    assert load.done >= cycles
    assert load.cancelled.keys() == set(STAGES)
    assert load.compressed == load.granted
    assert closed(load.session.stats()).keys() == {"cancelled"}


async def test_replies(make_session: SessionFactory, tmp_path: Path) -> None:
    """A short version of the next."""
    async with running("websockets", tmp_path, ping_interval=0.1) as server:
        load = Load(make_session(limit=LIMIT), server.url, **COMPRESS)
        await use(load, server, 200)


@slow
@servers
async def test_2000_replies(name: str, make_session: SessionFactory, tmp_path: Path) -> None:
    """Each belongs to its request, with compression, pings and cancelled callers."""
    async with running(name, tmp_path, ping_interval=0.1) as server:
        load = Load(make_session(limit=LIMIT), server.url, **COMPRESS)
        await use(load, server, 2_000)


@slow
@servers
async def test_pings_are_answered(name: str, make_session: SessionFactory, tmp_path: Path) -> None:
    """On an idle connection, on one that is read, and, at its release, on one that is not."""
    session = make_session(limit=3)
    # What three answers have at least: two bytes and a mask each.
    answers = 3 * 6
    async with (
        running(name, tmp_path, ping_interval=0.2) as server,
        proxying(server.port) as proxy,
    ):
        held = [await session.ws_connect(proxy.url(), **COMPRESS) for _ in range(3)]
        for ws in held:
            await ws.send_str("hello")
            assert await ws.receive_str() == "1 hello"
        idle, read, unread = [link.to_server for link in proxy.links]
        before = {way: way.passed for way in (idle, read, unread)}
        pinged = proxy.links[2].to_client.passed
        await held[0].release()
        reading = asyncio.ensure_future(held[1].receive_str())
        for way in (idle, read):
            await until(lambda way=way: way.passed >= before[way] + answers)
        await until(lambda: proxy.links[2].to_client.passed > pinged)
        assert unread.passed == before[unread]
        assert not reading.done()
        await held[1].send_str("still there")
        assert await reading == "2 still there"
        await held[1].release()
        await held[2].release()
        await until(lambda: unread.passed > before[unread])
        load = Load(session, proxy.url(), **COMPRESS)
        await load.run(30, callers=3)
        assert load.wrong == []
        counts = await server.count()
        assert (counts["accepted"], counts["open"]) == (3, 3)
        assert (session.stats().idle, closed(session.stats())) == (3, {})


@slow
@servers
async def test_restarts(name: str, make_session: SessionFactory, tmp_path: Path) -> None:
    """Only uses of that moment fail, and afterwards all is as if nothing had been."""
    closes = Closes()
    session = make_session(limit=LIMIT, trace_configs=[closes])
    async with running(name, tmp_path) as server:
        load = Load(session, server.url, **COMPRESS)
        for way in WAYS:
            happened = await restart(server, load, closes, way, callers=CALLERS)
            # Each connection is cut once; in the last case, those that came after the first, too.
            assert happened.cut <= (2 * LIMIT if way == "1012" else LIMIT)
            assert happened.codes.total() >= LIMIT
            if way == "1012":
                assert happened.codes[SERVICE_RESTART] >= LIMIT
            failed = load.failed.total()
            await load.run(200, callers=CALLERS)
            assert load.failed.total() == failed
            counts = await check_sums(load, server, happened.before)
            assert counts["peak"] == LIMIT


#: Servers that want an answer to each ping, and the code with which they close otherwise.
WAITING_FOR_PONGS = {
    "websockets": 1011,
    "uvicorn, websockets": 1011,
    "uvicorn, websockets-sansio": 1011,
    "uvicorn, wsproto": 1011,
    "tornado": 1000,
}


@slow
@pytest.mark.parametrize("name", WAITING_FOR_PONGS)
async def test_a_connection_that_its_user_does_not_read_is_lost(
    name: str, make_session: SessionFactory, tmp_path: Path
) -> None:
    """Its pings stay unanswered meanwhile; those of idle connections do not."""
    closes = Closes()
    session = make_session(limit=2, trace_configs=[closes])
    async with running(name, tmp_path, ping_interval=0.2, ping_timeout=0.2) as server:
        ws = await session.ws_connect(server.url)
        conn = ws._slot.conn
        await until(lambda: conn.has_ended or conn.unread_close_code)
        await ws.release()
        await until(lambda: is_settled(session.stats()) and closes.codes)
        assert closed(session.stats()) == {"lost": 1}
        assert closes.codes == {WAITING_FOR_PONGS[name]: 1}
        assert session.stats().endpoints == 0
