"""The collector for prometheus_client, scraped with the real one."""

import asyncio
import gc
import urllib.request
from dataclasses import asdict, fields
from typing import Any

import aiohttp
import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolStats,
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketClientSession,
)
from aiowebsocketclient.prometheus import PoolCollector
from aiowebsocketclient.redis import RedisFleet

from .conftest import SessionFactory, until
from .redis_server import RedisServer
from .servers import Server

STATES = ("connecting", "acquired", "idle", "closing")
GAUGES = (*STATES, "waiting", "endpoints")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def registry_of(*collectors: PoolCollector) -> CollectorRegistry:
    # As the default one is.
    registry = CollectorRegistry(auto_describe=True)
    for collector in collectors:
        registry.register(collector)
    return registry


def samples(text: str) -> Samples:
    """Return what an exposition says; no series may be in it twice."""
    found: Samples = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def scrape(collector: PoolCollector) -> Samples:
    return samples(generate_latest(registry_of(collector)).decode())


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"aiowebsocketclient_{name}", frozenset(labels.items())))


def exported(found: Samples, prefix: str = "", **labels: str) -> dict[str, float | None]:
    """Return what was exported for each field of ``PoolStats``."""
    told: dict[str, float | None] = {}
    for field in fields(PoolStats):
        name = field.name
        if name in STATES:
            told[name] = value(found, f"{prefix}connections", state=name, **labels)
        elif name.startswith("closed_"):
            reason = name.removeprefix("closed_")
            told[name] = value(found, f"{prefix}closed_total", reason=reason, **labels)
        elif name in GAUGES:
            told[name] = value(found, prefix + name, **labels)
        else:
            told[name] = value(found, f"{prefix}{name}_total", **labels)
    return told


def endpoint_of(server: Server) -> str:
    return f"{'wss' if server.scheme == 'https' else 'ws'}://127.0.0.1:{server.port}"


async def keep_busy(session: WebSocketClientSession, server: Server) -> ClientWebSocketResponse:
    """Do so much that few numbers are 0; return a connection that stays in use."""
    await (await session.ws_connect(server.url())).release()
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    assert held[0].reused
    waiting = asyncio.create_task(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    with pytest.raises(TooManyWaitersError):
        await session.ws_connect(server.url())
    await held[0].release()
    await (await waiting).close()
    held[0] = await session.ws_connect(server.url())
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.01)
    await held[0].release()
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.url("/refuse"))
    taken = await session.ws_connect(server.url())
    taken.detach()
    await taken.close()
    await (await session.ws_connect(server.url())).release()
    await until(lambda: session.stats().closing == 0)
    return held[1]


async def test_each_number_is_exported(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=2, limit_total=10, max_waiting=1)
    collector = PoolCollector(session)
    ws = await keep_busy(session, server)
    found = scrape(collector)
    stats = session.stats()
    assert exported(found, pool="default") == asdict(stats)
    told = exported(found, "endpoint_", pool="default", endpoint=endpoint_of(server))
    assert told == asdict(stats) | {"endpoints": None}
    assert value(found, "connections_limit", pool="default") == 10
    assert value(found, "endpoint_connections_limit", pool="default") == 2
    # The comparison was not between zeros.
    zeros = {name for name, number in asdict(stats).items() if not number}
    gone = {"connecting", "closing", "waiting"}
    assert {name for name in zeros if not name.startswith("closed_")} == gone
    assert "closed_user" not in zeros
    # And nothing else was exported.
    assert len(found) == 2 * len(fields(PoolStats)) - 1 + 2
    await ws.release()


async def test_openmetrics_takes_it(make_session: SessionFactory, server: Server) -> None:
    session = make_session(limit=2, max_waiting=1)
    registry = registry_of(PoolCollector(session))
    ws = await keep_busy(session, server)
    families = list(parse_openmetrics(openmetrics.generate_latest(registry).decode()))
    kinds = {family.name: (family.type, family.unit) for family in families}
    assert kinds["aiowebsocketclient_connections"] == ("gauge", "")
    assert kinds["aiowebsocketclient_requests"] == ("counter", "")
    assert kinds["aiowebsocketclient_wait_seconds"] == ("counter", "seconds")
    assert kinds["aiowebsocketclient_endpoint_connect_seconds"] == ("counter", "seconds")
    assert all(family.documentation.endswith(".") for family in families)
    await ws.release()


async def test_limits_that_are_not_set_have_no_series(make_session: SessionFactory) -> None:
    session = make_session()
    collector = PoolCollector(session)
    found = scrape(collector)
    assert value(found, "connections", pool="default", state="idle") == 0
    assert not [name for name, _ in found if name.endswith("_limit")]
    session.resize(limit=3, limit_total=4)
    found = scrape(collector)
    assert value(found, "endpoint_connections_limit", pool="default") == 3
    assert value(found, "connections_limit", pool="default") == 4


# -- endpoints -----------------------------------------------------------------------------------


async def test_endpoints_are_told_apart(
    make_session: SessionFactory, server: Server, tls_server: Server, client_tls: Any
) -> None:
    session = make_session()
    collector = PoolCollector(session)
    ws = await session.ws_connect(server.url())
    for _ in range(2):
        await (await session.ws_connect(tls_server.url(), ssl=client_tls)).release()
    found = scrape(collector)
    first, second = (
        exported(found, "endpoint_", pool="default", endpoint=endpoint_of(which))
        for which in (server, tls_server)
    )
    assert endpoint_of(tls_server).startswith("wss://")
    assert (first["acquired"], first["idle"], first["requests"]) == (1, 0, 1)
    assert (second["acquired"], second["idle"], second["requests"]) == (0, 1, 2)
    totals = exported(found, pool="default")
    assert (totals["acquired"], totals["idle"], totals["requests"]) == (1, 1, 3)
    await ws.release()


async def test_what_an_endpoint_counted_stays_in_the_pools_own(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    collector = PoolCollector(session)
    where = {"pool": "default", "endpoint": endpoint_of(server)}
    for _ in range(3):
        await (await session.ws_connect(server.url())).release()
    assert value(scrape(collector), "endpoint_requests_total", **where) == 3
    await (await session.ws_connect(server.url())).close()
    await until(lambda: not session.stats_by_endpoint())
    found = scrape(collector)
    # Its series have ended.
    assert not [name for name, _ in found if "_endpoint_" in name]
    assert value(found, "requests_total", pool="default") == 4
    assert value(found, "endpoints", pool="default") == 0
    await (await session.ws_connect(server.url())).release()
    found = scrape(collector)
    assert value(found, "endpoint_requests_total", **where) == 1
    assert value(found, "requests_total", pool="default") == 5


@pytest.mark.parametrize(("max_endpoints", "shown"), [(0, 0), (1, 1), (2, 2), (None, 2)])
async def test_only_so_many_endpoints_have_series(
    make_session: SessionFactory, server: Server, max_endpoints: int | None, shown: int
) -> None:
    session = make_session()
    collector = PoolCollector(session, max_endpoints=max_endpoints)
    urls = server.url(), server.url().replace("127.0.0.1", "localhost")
    for url in urls:
        await (await session.ws_connect(url)).release()
    found = scrape(collector)
    labels = [dict(labels) for name, labels in found if name.endswith("_endpoint_requests_total")]
    assert len(labels) == shown
    assert value(found, "endpoints", pool="default") == 2
    assert value(found, "requests_total", pool="default") == 2


async def test_which_endpoints_have_series_does_not_change(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session()
    collector = PoolCollector(session, max_endpoints=1)
    first, second = server.url(), server.url().replace("127.0.0.1", "localhost")
    await (await session.ws_connect(first)).release()
    scrape(collector)
    await (await session.ws_connect(second)).release()
    await (await session.ws_connect(first)).close()
    await until(lambda: len(session.stats_by_endpoint()) == 1)
    # The place of the one that is gone is not given to another, whose series would be new.
    assert not [name for name, _ in scrape(collector) if "_endpoint_" in name]
    await (await session.ws_connect(first)).release()
    found = scrape(collector)
    where = {"pool": "default", "endpoint": endpoint_of(server)}
    assert value(found, "endpoint_requests_total", **where) == 1


# -- sessions ------------------------------------------------------------------------------------


async def test_several_sessions_are_told_apart_by_name(
    make_session: SessionFactory, server: Server
) -> None:
    first, second = make_session(), make_session(limit=7)
    collector = PoolCollector(first, name="speech")
    collector.add(second, name='"llm"\n\\')
    await (await first.ws_connect(server.url())).release()
    found = scrape(collector)
    assert value(found, "requests_total", pool="speech") == 1
    assert value(found, "requests_total", pool='"llm"\n\\') == 0
    assert value(found, "endpoint_connections_limit", pool='"llm"\n\\') == 7


async def test_the_name_of_a_session_is_the_default(make_session: SessionFactory) -> None:
    collector = PoolCollector(make_session(name="speech", limit=3))
    collector.add(make_session(limit=4))
    collector.add(make_session(name="llm", limit=5), name="other")
    found = scrape(collector)
    for pool, limit in ("speech", 3), ("default", 4), ("other", 5):
        assert value(found, "endpoint_connections_limit", pool=pool) == limit
    for name in "speech", None:
        with pytest.raises(ValueError, match=f"open session named '{name or 'default'}'"):
            collector.add(make_session(name=name))


async def test_a_registry_takes_one_collector(make_session: SessionFactory) -> None:
    registry = registry_of(PoolCollector(make_session()))
    with pytest.raises(ValueError, match="aiowebsocketclient_requests_total"):
        registry.register(PoolCollector(make_session(), name="other"))


async def test_a_name_is_one_open_sessions(make_session: SessionFactory) -> None:
    first, second = make_session(), make_session()
    collector = PoolCollector(first, name="speech")
    collector.add(first, name="speech")
    with pytest.raises(ValueError, match=r"name must be unique: .* 'speech'"):
        collector.add(second, name="speech")
    await first.close()
    collector.add(second, name="speech")
    assert value(scrape(collector), "requests_total", pool="speech") == 0
    with pytest.raises(ValueError, match="name must be unique"):
        collector.add(make_session(), name="speech")


async def test_a_closed_session_has_no_series(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    collector = PoolCollector(session)
    ws = await session.ws_connect(server.url())
    assert scrape(collector)
    await session.close()
    assert generate_latest(registry_of(collector)) == b""
    assert ws.closed


async def test_a_dropped_session_is_let_go(server: Server) -> None:
    session = WebSocketClientSession()
    collector = PoolCollector(session)
    registry = registry_of(collector)
    await (await session.ws_connect(server.url())).release()
    generate_latest(registry)
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession"):
        del session
        gc.collect()
    assert generate_latest(registry) == b""
    await until(lambda: server.open == 0)


async def test_a_fleet_is_exported(
    make_session: SessionFactory, server: Server, redis_server: RedisServer
) -> None:
    client = redis.asyncio.Redis(unix_socket_path=redis_server.socket)
    fleet = RedisFleet(client, "test_a_fleet_is_exported", limit=7)
    session = make_session(fleet=fleet)
    await (await session.ws_connect(server.url())).release()
    # Until the last report is answered, the counters move.
    stats = session.fleet_stats()
    while stats is None or stats.places != 1 or stats != session.fleet_stats():
        await asyncio.sleep(0.01)
        stats = session.fleet_stats()
    found = scrape(PoolCollector(session))
    for field, number in asdict(stats).items():
        name = {"learning": "learning_seconds"}.get(field, field)
        is_counter = field in ("syncs", "sync_errors", "sync_seconds", "yielded", "losses")
        suffix = "_total" if is_counter else ""
        # Its report may be renewed in between.
        exact = value(found, f"fleet_{name}{suffix}", pool="default")
        assert exact is not None
        assert exact >= number if is_counter else exact == number, field
    assert value(found, "fleet_limit", pool="default") == 7
    await session.close()
    await client.aclose()


async def test_to_register_scrapes_nothing(
    make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(limit=1, limit_total=1)
    collector = PoolCollector(session)
    described = {family.name for family in collector.describe()}
    assert not [family for family in collector.describe() if family.samples]
    with monkeypatch.context() as patch:
        patch.setattr(WebSocketClientSession, "stats", None)
        patch.setattr(WebSocketClientSession, "stats_by_endpoint", None)
        registry = registry_of(collector)
    # What is described is what is scraped, so that clashes are found.
    collected = {family.name for family in registry.collect()}
    not_here = ("_endpoint_", "_fleet_")
    assert collected == {n for n in described if not any(part in n for part in not_here)} | {
        "aiowebsocketclient_endpoint_connections_limit"
    }


def test_without_a_session_there_is_nothing() -> None:
    assert generate_latest(registry_of(PoolCollector())) == b""


def test_arguments() -> None:
    collector = PoolCollector()
    with pytest.raises(TypeError, match="session must be a WebSocketClientSession, not object"):
        PoolCollector(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="session must be a WebSocketClientSession, not NoneType"):
        collector.add(None, name="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a str, not int"):
        collector.add(WebSocketClientSession(), name=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_endpoints must be an integer >= 0 or None, got -1"):
        PoolCollector(max_endpoints=-1)
    with pytest.raises(TypeError, match="max_endpoints must be an integer or None, not"):
        PoolCollector(max_endpoints="all")  # type: ignore[arg-type]
    assert generate_latest(registry_of(collector)) == b""


# -- other threads -------------------------------------------------------------------------------


def scrape_over_http(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        return samples(reply.read().decode())


async def test_scrapes_from_another_thread_while_connections_come_and_go(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(limit=4)
    registry = registry_of(PoolCollector(session))
    http_server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)

    def scrape_often() -> None:
        last: Samples = {}
        for _ in range(50):
            found = scrape_over_http(http_server.server_port)
            pools_own = {key: n for key, n in found.items() if "_endpoint_" not in key[0]}
            for (name, labels), number in pools_own.items():
                assert not name.endswith("_total") or last.get((name, labels), 0) <= number
            last = pools_own

    async def churn(host: str) -> None:
        url = server.url().replace("127.0.0.1", host)
        while not scraping.done():
            ws = await session.ws_connect(url)
            await ws.send_str("hello")
            await ws.receive_str()
            # The endpoint goes with its last connection, and comes again.
            await ws.close()

    scraping = asyncio.create_task(asyncio.to_thread(scrape_often))
    try:
        await asyncio.gather(scraping, churn("127.0.0.1"), churn("localhost"))
        found = await asyncio.to_thread(scrape_over_http, http_server.server_port)
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
    assert exported(found, pool="default") == asdict(session.stats())
    assert session.stats().closed_user == session.stats().requests > 10
