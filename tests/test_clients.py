"""Libraries that take an ``aiohttp.ClientSession``, with the stand-in and servers of theirs."""

import asyncio
import importlib.util
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PooledClientSession

from .clients.libraries import Use, standing_in, use_hass, use_slack, use_socketio
from .clients.servers import HomeAssistant, Slack, SocketIO, serving
from .conftest import SessionFactory, until

LIBRARIES = [
    ("socketio", use_socketio, SocketIO),
    ("hass_client", use_hass, HomeAssistant),
    ("slack_sdk", use_slack, Slack),
]


@pytest.mark.parametrize("release_on_close", [False, True], ids=["closing", "releasing"])
@pytest.mark.parametrize(("module", "use", "make"), LIBRARIES, ids=[n for n, *_ in LIBRARIES])
async def test_a_library(
    module: str, use: Use, make: Any, release_on_close: bool, make_session: SessionFactory
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    backend = make()
    # One connection at a time, seen from the server.
    pool = make_session(limit=1)
    make_http = standing_in(pool, release_on_close=release_on_close)
    async with serving(backend):
        for _ in range(3):
            await use(make_http, backend)
        await until(lambda: not backend.open)
    # Each reads in a task until it closes, so nothing is released.
    assert backend.handshakes == 3
    assert backend.peak == 1
    assert backend.complaints == []
    assert (pool.stats().requests, pool.stats().released) == (3, 0)
    assert pool.stats().closed_user + pool.stats().closed_lost == 3
    assert not pool.closed


async def test_a_library_that_waits_for_a_challenge_must_not_release(
    make_session: SessionFactory,
) -> None:
    """The danger that the documentation names: the server sends its challenge once."""
    pytest.importorskip("hass_client")
    from hass_client import HomeAssistantClient

    pool = make_session()
    async with serving(backend := HomeAssistant()):
        url = f"{backend.url}/api/websocket"
        http = PooledClientSession(pool, release_on_close=True, session_owner=False)
        first = HomeAssistantClient(url, "token", http)
        await first.connect()
        # Nobody has begun to read.
        await first.disconnect()
        assert pool.stats().idle == 1
        second = asyncio.create_task(HomeAssistantClient(url, "token", http).connect())
        await until(lambda: pool.stats().acquired == 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not second.done()
        # Only the end of the connection ends the wait.
        await pool.close()
        with pytest.raises(aiohttp.WSMessageTypeError):
            await second
