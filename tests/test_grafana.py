"""What is asked of Prometheus, by the dashboard and in docs/watching.rst, is what is exported."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import promql_parser
import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.prometheus import PoolCollector

from .conftest import SessionFactory, until
from .fleet.engine import Engine
from .pages import BLOCKS, ROOT
from .servers import Server

DASHBOARD = ROOT / "docs" / "grafana" / "aiowebsocketclient.json"
PAGE = "docs/watching.rst"

pytestmark = pytest.mark.skipif(not DASHBOARD.is_file(), reason="not in a checkout")

MODEL: dict[str, Any] = json.loads(DASHBOARD.read_text()) if DASHBOARD.is_file() else {}
PANELS = [panel for panel in MODEL.get("panels", ()) if panel["type"] != "row"]
TARGETS = [
    pytest.param(target, id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = {variable["name"]: variable for variable in MODEL["templating"]["list"]}
QUERIES = [
    pytest.param(query, id=query.splitlines()[0].strip("# ."))
    for block in BLOCKS
    if block.page == PAGE and block.language == "text"
    for query in block.code.split("\n\n")
]
# Prometheus adds these to all that it scrapes.
ADDED = {"job", "instance"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def with_values(text: str) -> str:
    """Put in what Grafana puts in where all of each variable is chosen."""
    for name, value in {"__rate_interval": "10s", **dict.fromkeys(VARIABLES, ".*")}.items():
        text = text.replace(f"${name}", value)
    assert "$" not in text
    return text


@pytest.fixture
async def registry(make_session: SessionFactory, server: Server) -> CollectorRegistry:
    """Return one of a session that has everything of which there can be a series."""
    session = make_session(limit=2, limit_total=10, fleet=Engine())
    registry = CollectorRegistry()
    registry.register(PoolCollector(session))
    await use(session, server)
    return registry


async def use(session: WebSocketClientSession, server: Server) -> None:
    for path in "/", "/", "/other":
        async with session.ws_connect(server.url(path)) as ws:
            await ws.send_str("hello")
            await ws.receive_str()
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.url("/refuse"))
    await until(lambda: session.stats().closing == 0)


def exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Return the labels of each series' name."""
    return {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
    }


# -- each query ----------------------------------------------------------------------------------


def nodes(expression: str) -> Iterator[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(with_values(expression)), found.append)
    return iter(found)


def selectors(expression: str) -> Iterator[Any]:
    for node in nodes(expression):
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        elif isinstance(node, promql_parser.MatrixSelector):
            yield node.vector_selector


def labels_of(node: Any) -> set[str]:
    """Return the labels that a part of a query names by itself."""
    if isinstance(node, promql_parser.VectorSelector):
        return {matcher.name for matcher in node.matchers.matchers}
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        return set(node.modifier.labels)
    if isinstance(node, promql_parser.BinaryExpr) and node.modifier is not None:
        matching = node.modifier.matching
        return set() if matching is None else set(matching.labels)
    return set()


def test_there_is_something_to_look_at() -> None:
    assert len(TARGETS) > 15


@pytest.mark.parametrize("target", TARGETS)
async def test_a_query_names_what_is_exported(
    target: dict[str, Any], registry: CollectorRegistry
) -> None:
    series = exported(registry)
    asked = list(selectors(target["expr"]))
    assert asked
    for selector in asked:
        assert selector.name in series
        # What somebody has chosen above counts in each panel.
        assert {"job", "instance", "pool"} <= labels_of(selector)
        assert labels_of(selector) <= series[selector.name] | ADDED
    common = set.intersection(*(series[selector.name] for selector in asked)) | ADDED
    for node in nodes(target["expr"]):
        if isinstance(node, promql_parser.BinaryExpr):
            assert labels_of(node) <= common
        elif isinstance(node, promql_parser.AggregateExpr):
            assert labels_of(node) <= set().union(*(series[s.name] for s in asked)) | ADDED
    # And the legend names labels that are left.
    legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert legend <= set().union(*(labels_of(node) for node in nodes(target["expr"])))


@pytest.mark.parametrize("target", TARGETS)
def test_counters_alone_are_asked_for_their_rate(target: dict[str, Any]) -> None:
    for node in nodes(target["expr"]):
        if isinstance(node, promql_parser.MatrixSelector):
            assert node.vector_selector.name.endswith("_total")
        elif isinstance(node, promql_parser.Call):
            assert node.func.name == "rate"
    assert len(re.findall(r"\w+_total{", target["expr"])) == target["expr"].count("rate(")


@pytest.mark.parametrize("name", ["job", "instance", "pool"])
async def test_a_variable_asks_for_what_is_exported(name: str, registry: CollectorRegistry) -> None:
    variable = VARIABLES[name]
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
    assert found is not None
    (selector,) = selectors(found[1])
    assert selector.name in exported(registry)
    assert found[2] == name
    assert variable["datasource"] == SOURCE


async def test_each_of_the_pools_own_metrics_is_shown(registry: CollectorRegistry) -> None:
    shown = {s.name for target in TARGETS for s in selectors(target.values[0]["expr"])}
    own = {name for name in exported(registry) if "_endpoint_" not in name}
    not_shown = {
        f"aiowebsocketclient_{name}_total"
        # They tell of requests that ended well.
        for name in ("released", "detached")
    }
    assert own - shown == not_shown


# -- the page ------------------------------------------------------------------------------------


def test_the_page_names_what_is_exported_and_all_of_it(registry: CollectorRegistry) -> None:
    named = set(re.findall(r"\baiowebsocketclient_\w*[a-z]\b", (ROOT / PAGE).read_text()))
    series = set(exported(registry))
    assert named <= series
    of_endpoints = {name for name in series if "_endpoint_" in name}
    own = series - of_endpoints
    limit = "aiowebsocketclient_endpoint_connections_limit"
    assert named >= own | {limit}
    # The others are said to be those of the pool with a prefix.
    counted = {name.replace("_endpoint_", "_", 1) for name in of_endpoints - {limit}}
    of_fleets = {name for name in own if "_fleet_" in name}
    assert own - counted - of_fleets == {
        "aiowebsocketclient_endpoints",
        "aiowebsocketclient_connections_limit",
    }


def test_the_page_has_queries() -> None:
    assert len(QUERIES) > 3


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_page(query: str, registry: CollectorRegistry) -> None:
    series = exported(registry)
    expression = query.partition("\n")[2]
    for selector in selectors(expression):
        assert selector.name in series
    for node in nodes(expression):
        assert labels_of(node) <= {"pool", "endpoint"} | ADDED


# -- the dashboard as a whole --------------------------------------------------------------------


def test_it_imports_as_it_is() -> None:
    assert MODEL["id"] is None
    assert "__inputs" not in MODEL
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    # It comes first, since the others ask it.
    assert next(iter(VARIABLES)) == "datasource"
    for panel in PANELS:
        assert panel["datasource"] == SOURCE
        assert all(target["datasource"] == SOURCE for target in panel["targets"])
        assert panel["description"].endswith(".")
    ids = [panel["id"] for panel in MODEL["panels"]]
    titles = [panel["title"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    assert len(titles) == len(set(titles))


def test_panels_do_not_overlap() -> None:
    for panel in MODEL["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in itertools.combinations([p["gridPos"] for p in MODEL["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


# -- Prometheus itself ---------------------------------------------------------------------------

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed",
)


@needs_prometheus
async def test_promtool_finds_nothing(registry: CollectorRegistry) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@asynccontextmanager
async def prometheus(folder: Path, port: int, target: int) -> AsyncIterator[aiohttp.ClientSession]:
    config = folder / "prometheus.yml"
    job = {"job_name": "test", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    # JSON is YAML.
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def ask(client: aiohttp.ClientSession, expression: str) -> list[Any]:
    try:
        async with client.get("/api/v1/query", params={"query": expression}) as reply:
            answer = await reply.json()
    except aiohttp.ClientConnectorError:
        # It has not begun to listen.
        return []
    assert answer["status"] == "success", answer
    result: list[Any] = answer["data"]["result"]
    return result


@needs_prometheus
@pytest.mark.timeout(90)
async def test_prometheus_answers_each_query(
    registry: CollectorRegistry, tmp_path: Path, unused_tcp_port: int
) -> None:
    http_server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        async with prometheus(tmp_path, unused_tcp_port, http_server.server_port) as client:
            scraped = "count_over_time(aiowebsocketclient_requests_total[1m]) > 2"
            async with asyncio.timeout(60):
                while not await ask(client, scraped):
                    await asyncio.sleep(0.5)
            for target in TARGETS:
                expression = with_values(target.values[0]["expr"])
                assert await ask(client, expression), expression
            for query in QUERIES:
                # Alerts tell nothing where all is well.
                await ask(client, query.values[0])
            (limit,) = await ask(client, "aiowebsocketclient_connections_limit")
            assert limit["value"][1] == "10"
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
