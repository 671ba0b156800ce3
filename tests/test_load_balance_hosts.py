"""Several addresses of one name: ``load_balance_hosts``."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from aiowebsocketclient import WebSocketClientSession, resolving

from .conftest import SessionFactory

ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


class Names(AbstractResolver):
    """Knows one name, whose addresses it always tells in the same order."""

    addresses = ADDRESSES
    lookups = 0
    closed = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert host == "service.test"
        Names.lookups += 1
        await asyncio.sleep(0)
        return [address_of(host, address, port) for address in self.addresses]

    async def close(self) -> None:
        Names.closed += 1


def address_of(name: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=name,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=0,
    )


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> type[Names]:
    monkeypatch.setattr(resolving, "DefaultResolver", Names)
    # What a session without the option asks.
    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", lambda **_: Names())
    monkeypatch.setattr(Names, "lookups", 0)
    monkeypatch.setattr(Names, "closed", 0)
    return Names


@pytest_asyncio.fixture
async def service() -> AsyncIterator[tuple[str, Counter[str]]]:
    """Return the URL of servers at three addresses, and what each has been asked."""
    seen: Counter[str] = Counter()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        assert request.transport is not None
        seen[request.transport.get_extra_info("sockname")[0]] += 1
        async for _ in ws:
            pass
        return ws

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        port = 0
        for address in ADDRESSES:
            try:
                await web.TCPSite(runner, address, port).start()
            except OSError as exc:
                pytest.skip(f"no server can be started on {address}: {exc}")
            port = port or runner.addresses[0][1]
        yield f"ws://service.test:{port}/", seen


async def connect(session: WebSocketClientSession, url: str, times: int, anew: bool) -> None:
    """Open connections, with a lookup for each or with one for all."""
    for _ in range(times):
        if anew:
            connector: Any = session.client_session.connector
            connector.clear_dns_cache()
        ws = await session.ws_connect(url)
        await ws.close()


async def test_by_default_each_lookup_leads_to_the_first_address(
    service: tuple[str, Counter[str]], make_session: SessionFactory
) -> None:
    url, seen = service
    for value in (None, "disable"):
        seen.clear()
        await connect(make_session(load_balance_hosts=value), url, 12, anew=True)
        assert seen == {ADDRESSES[0]: 12}


async def test_random_spreads_one_connect_per_lookup(
    service: tuple[str, Counter[str]], make_session: SessionFactory
) -> None:
    url, seen = service
    await connect(make_session(load_balance_hosts="random"), url, 90, anew=True)
    assert Names.lookups == 90
    # Fewer than 9 of 90 for any one of three: once in 6 million runs.
    assert sorted(seen) == ADDRESSES
    assert min(seen.values()) >= 9, seen


async def test_random_spreads_what_one_lookup_serves(
    service: tuple[str, Counter[str]], make_session: SessionFactory
) -> None:
    url, seen = service
    session = make_session(load_balance_hosts="random")
    await connect(session, url, 9, anew=False)
    assert Names.lookups == 1
    # aiohttp rotates a cached answer.
    assert seen == dict.fromkeys(ADDRESSES, 3)


@pytest.mark.parametrize("value", [None, "random"])
async def test_a_refused_address_goes_on_to_the_next(
    service: tuple[str, Counter[str]],
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    value: Any,
) -> None:
    url, seen = service
    # Nobody listens on .9 and .8.
    monkeypatch.setattr(Names, "addresses", ["127.0.0.9", "127.0.0.8", "127.0.0.2"])
    session = make_session(load_balance_hosts=value)
    await connect(session, url, 20, anew=True)
    assert seen == {"127.0.0.2": 20}
    assert session.stats().connect_errors == 0


async def test_all_refuse(make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Names, "addresses", ["127.0.0.9", "127.0.0.8"])
    with pytest.raises(aiohttp.ClientConnectorError):
        await make_session(load_balance_hosts="random").ws_connect("ws://service.test:1/")


def test_families_keep_their_places() -> None:
    addresses = ["::1", "127.0.0.1", "::2", "127.0.0.2", "127.0.0.3", "::3"]
    found = [address_of("name", address, 1) for address in addresses]
    orders = set()
    for _ in range(500):
        order = resolving.shuffled(found)
        assert [a["family"] for a in order] == [a["family"] for a in found]
        assert sorted(a["host"] for a in order) == sorted(addresses)
        orders.add(tuple(a["host"] for a in order))
    # All of 3! * 3!, but for once in 36,000 runs.
    assert len(orders) == 36
    assert found == [address_of("name", address, 1) for address in addresses]


async def test_the_resolver_is_closed_with_the_session(
    service: tuple[str, Counter[str]], make_session: SessionFactory
) -> None:
    session = make_session(load_balance_hosts="random")
    await connect(session, service[0], 1, anew=False)
    assert Names.closed == 0
    await session.close()
    assert Names.closed == 1


async def test_it_is_not_for_a_client_session_of_the_user() -> None:
    async with aiohttp.ClientSession() as client_session:
        with pytest.raises(ValueError, match="load_balance_hosts has no effect on client_session"):
            WebSocketClientSession(load_balance_hosts="random", client_session=client_session)
        session = WebSocketClientSession(
            load_balance_hosts="disable", client_session=client_session
        )
        await session.close()
