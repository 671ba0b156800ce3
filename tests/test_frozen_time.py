"""Tests of users freeze the time; the pool goes by a clock that stands still for nobody."""

import asyncio
import datetime

import pytest

from aiowebsocketclient import lifecycle

from .conftest import SessionFactory, until
from .servers import Server

freezegun = pytest.importorskip("freezegun")


@pytest.mark.parametrize("real_asyncio", [False, True])
async def test_what_is_idle_stays_idle(
    server: Server, make_session: SessionFactory, real_asyncio: bool
) -> None:
    session = make_session(max_idle=600.0, max_lifetime=3600.0)
    await (await session.ws_connect(server.url())).release()
    for day in ("2012-01-14", "2035-01-14"):
        with freezegun.freeze_time(day, real_asyncio=real_asyncio) as frozen:
            async with session.ws_connect(server.url()) as ws:
                assert ws.reused
                await ws.send_str("x")
                await ws.receive_str()
            frozen.tick(datetime.timedelta(days=1))
            async with session.ws_connect(server.url()) as ws:
                assert ws.reused
            for _ in range(10):
                await asyncio.sleep(0)
            assert session.stats().idle == 1
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
    assert server.handshakes == 1


@pytest.mark.parametrize("real_asyncio", [False, True])
async def test_what_is_idle_expires_afterwards(
    server: Server,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    real_asyncio: bool,
) -> None:
    """Though the loop's clock, and with it the pool's timer, has jumped there and back."""
    monkeypatch.setattr(lifecycle, "_LATEST", 0.01)
    session = make_session(max_idle=0.1)
    with freezegun.freeze_time("2035-01-14", real_asyncio=real_asyncio):
        await (await session.ws_connect(server.url())).release()
        for _ in range(10):
            await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    async with session.ws_connect(server.url("/other")):
        pass
    await until(lambda: session.stats().closed_idle == 2)
