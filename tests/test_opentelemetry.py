"""Spans and metrics, recorded with the real SDK of OpenTelemetry."""

import asyncio
import gc
import re
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import aiohttp
import pytest
import redis.asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode

import aiowebsocketclient.opentelemetry
from aiowebsocketclient import (
    FleetStats,
    PoolClosedError,
    PoolTimeoutError,
    WebSocketClientSession,
)
from aiowebsocketclient.opentelemetry import OpenTelemetry
from aiowebsocketclient.redis import RedisFleet

from .conftest import SessionFactory, run_program, until
from .redis_server import RedisServer
from .servers import Server

PREFIX = "aiowebsocketclient.connection."


class Sdk(NamedTuple):
    """What an application sets up, with what it would export."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def telemetry(self, **arguments: Any) -> OpenTelemetry:
        return OpenTelemetry(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **arguments
        )

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def metrics(self) -> dict[str, Any]:
        """Return all that is recorded, by its name without the prefix."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        ((scope,),) = (resource.scope_metrics for resource in data.resource_metrics)
        assert scope.scope.name == "aiowebsocketclient"
        return {metric.name.removeprefix(PREFIX): metric for metric in scope.metrics}

    def points(self, name: str, *by: str) -> dict[Any, Any]:
        """Return values, or counts of histograms, by what some attributes are."""
        metric = self.metrics().get(name)
        found: dict[Any, Any] = {}
        for point in metric.data.data_points if metric else ():
            key = tuple(point.attributes.get(attribute) for attribute in by)
            key = key[0] if len(by) == 1 else key
            number = point.count if isinstance(point, HistogramDataPoint) else point.value
            found[key] = found.get(key, 0) + number
        return found


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    yield Sdk(tracer_provider, meter_provider, exporter, reader)
    tracer_provider.shutdown()
    meter_provider.shutdown()


async def use(session: WebSocketClientSession, url: str) -> None:
    async with session.ws_connect(url) as ws:
        await ws.send_str("hello")
        await ws.receive_str()


def attributes_of(server: Server, **more: Any) -> dict[str, Any]:
    return {
        f"{PREFIX}pool.name": "default",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.scheme": "wss" if server.scheme == "https" else "ws",
        **more,
    }


# -- spans ---------------------------------------------------------------------------------------


async def test_spans_of_a_handshake_and_of_the_wait_for_it(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    before = time.time_ns()
    await use(session, server.url())
    await session.close()
    after = time.time_ns()
    (connect,), (wait,) = sdk.spans("WebSocket connect"), sdk.spans("WebSocket wait")
    assert (connect.kind, wait.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    for span in connect, wait:
        assert span.attributes == attributes_of(server)
        assert span.status.status_code is StatusCode.UNSET
        assert span.parent is None
        assert not span.events
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "aiowebsocketclient"
    assert wait.start_time is not None
    assert connect.start_time is not None
    assert connect.end_time is not None
    assert wait.end_time is not None
    # The clock has nanoseconds, and what tells of events a float of seconds.
    slack = 1_000
    assert before - slack <= wait.start_time <= connect.start_time <= connect.end_time
    assert connect.end_time <= wait.end_time <= after + slack


async def test_a_reuse_has_no_span(sdk: Sdk, make_session: SessionFactory, server: Server) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    for _ in range(3):
        await use(session, server.url())
    await session.close()
    assert len(sdk.exporter.get_finished_spans()) == 2


async def test_the_parent_is_the_callers_span(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    tracer = sdk.tracer_provider.get_tracer("test")

    async def request(name: str) -> None:
        with tracer.start_as_current_span(name):
            await use(session, server.url(f"/{name}"))

    await asyncio.gather(request("first"), request("second"))
    await session.close()
    for name in "first", "second":
        (parent,) = sdk.spans(name)
        children = [
            span.name
            for span in sdk.exporter.get_finished_spans()
            if span.parent is not None and span.parent.span_id == parent.context.span_id
        ]
        assert sorted(children) == ["WebSocket connect", "WebSocket wait"]


async def test_a_refused_handshake_is_an_error_without_its_text(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()], headers={"X-Session": "sesame"})
    url = server.url("/refuse").replace("//", "//user:sesame@") + "?token=sesame"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(url, headers={"X-Key": "sesame"})
    await session.close()
    error = {"error.type": "403", "http.response.status_code": 403}
    for name in "WebSocket connect", "WebSocket wait":
        (span,) = sdk.spans(name)
        assert span.attributes == attributes_of(server, **error)
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert not span.events
    told = [span.to_json() for span in sdk.exporter.get_finished_spans()]
    told.append(str(sdk.reader.get_metrics_data()))
    assert "sesame" not in "".join(told)


async def test_a_server_that_is_not_there(
    sdk: Sdk, make_session: SessionFactory, unused_tcp_port: int
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.ws_connect(f"ws://127.0.0.1:{unused_tcp_port}/")
    await session.close()
    for name in "WebSocket connect", "WebSocket wait":
        (span,) = sdk.spans(name)
        assert span.attributes is not None
        assert span.attributes["error.type"] == "ClientConnectorError"
    assert sdk.points("create_time", "error.type") == {"ClientConnectorError": 1}


async def test_a_wait_that_takes_too_long(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()], limit=1)
    ws = await session.ws_connect(server.url())
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await session.ws_connect(server.url())
    await ws.release()
    await session.close()
    _, timed_out, cancelled = sdk.spans("WebSocket wait")
    assert timed_out.attributes == attributes_of(server, **{"error.type": "PoolTimeoutError"})
    assert cancelled.attributes == attributes_of(server, **{"error.type": "CancelledError"})
    assert timed_out.status.status_code is cancelled.status.status_code is StatusCode.ERROR
    waits = sdk.points("wait_time", "error.type")
    assert waits == {None: 1, "PoolTimeoutError": 1, "CancelledError": 1}
    assert sdk.points("timeouts", "server.port") == {server.port: 1}


async def test_a_handshake_that_was_stopped_is_no_error(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    server.gate.clear()
    caller = asyncio.create_task(use(session, server.url()))
    await until(lambda: server.arrived)
    await session.close()
    with pytest.raises(PoolClosedError):
        await caller
    (connect,), (wait,) = sdk.spans("WebSocket connect"), sdk.spans("WebSocket wait")
    assert connect.attributes == attributes_of(server, **{"aiowebsocketclient.stopped": True})
    assert connect.status.status_code is StatusCode.UNSET
    assert wait.attributes == attributes_of(server, **{"error.type": "PoolClosedError"})
    assert "create_time" not in sdk.metrics()


# -- metrics -------------------------------------------------------------------------------------


async def test_connections_by_state_against_the_limits(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()], limit=3, limit_total=5)
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    await held[0].release()
    server.gate.clear()
    opening = asyncio.create_task(session.ws_connect(server.url("/other")))
    await until(lambda: server.arrived == 3)
    queued = asyncio.create_task(session.ws_connect(server.url("/another")))
    # The idle one gives way to it.
    await until(lambda: session.stats().closing == 0 and session.stats().connecting == 2)
    last = asyncio.create_task(session.ws_connect(server.url("/another")))
    await until(lambda: session.stats().waiting == 1)
    # Observed from another thread, as a reader does that exports now and then.
    counts = await asyncio.to_thread(sdk.points, "count", f"{PREFIX}state", "server.port")
    assert counts == {
        ("idle", server.port): 0,
        ("used", server.port): 1,
        ("connecting", server.port): 2,
        ("closing", server.port): 0,
    }
    assert sdk.points("pending_requests", "server.address") == {"127.0.0.1": 1}
    pool_name = f"{PREFIX}pool.name"
    assert sdk.points("max", pool_name, "server.port") == {("default", None): 5}
    assert sdk.points("max_per_endpoint", pool_name, "server.port") == {("default", None): 3}
    session.resize(limit=None, limit_total=6)
    assert sdk.points("max", pool_name) == {"default": 6}
    assert sdk.points("max_per_endpoint", pool_name) == {}
    server.gate.set()
    for ws in [held[1], await opening, await queued, await last]:
        await ws.release()


async def test_times(sdk: Sdk, make_session: SessionFactory, server: Server) -> None:
    started = time.monotonic()
    session = make_session(trace_configs=[sdk.telemetry()])
    for _ in range(3):
        await use(session, server.url())
    await (await session.ws_connect(server.url())).close()
    await until(lambda: session.stats().closing == 0)
    await use(session, server.url())
    await session.close()
    elapsed = time.monotonic() - started
    metrics = sdk.metrics()
    stats = session.stats()
    sums = {name: metric.data.data_points for name, metric in metrics.items()}
    for name, count in ("create_time", 2), ("wait_time", 2), ("use_time", 5):
        (point,) = sums[name]
        assert point.attributes == attributes_of(server)
        assert (point.count, metrics[name].unit) == (count, "s")
        # The boundaries are of seconds, and not the SDK's own.
        assert point.explicit_bounds[0] < 0.1 < point.explicit_bounds[-1] < 100_000
    # Measured a moment later, or earlier, than what the pool counts.
    assert 0 < sums["create_time"][0].sum <= elapsed
    assert 0 < sums["wait_time"][0].sum <= elapsed
    assert 0 < stats.connect_seconds <= stats.wait_seconds <= elapsed
    assert sdk.points("duration", f"{PREFIX}close_reason") == {"user": 1, "forced": 1}
    for point in sums["duration"]:
        assert point.sum > 0


class Meter:
    """Writes down which instruments the conventions' own helpers ask for."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[str, str]] = {}

    def __getattr__(self, create: str) -> Any:
        def record(name: str, description: str, unit: str) -> None:
            self.asked[name] = (create.removeprefix("create_"), unit)

        return record


async def test_they_are_the_conventions_own_but_for_the_prefix(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    meter = Meter()
    for name, create in vars(db_metrics).items():
        if name.startswith("create_db_client_connection_"):
            create(meter)
    expected = {
        name.removeprefix("db.client.connection."): kind for name, kind in meter.asked.items()
    }
    # The pool as a whole has neither.
    del expected["idle.max"], expected["idle.min"]
    session = make_session(trace_configs=[sdk.telemetry()], limit=1, limit_total=1)
    ws = await session.ws_connect(server.url())
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.01)
    await ws.release()
    await until(lambda: "use_time" in sdk.metrics())
    metrics = sdk.metrics()
    ours = {name: (kind_of(metric), metric.unit) for name, metric in metrics.items()}
    assert ours == expected | {"max_per_endpoint": ("up_down_counter", "{connection}")}
    await session.close()
    assert kind_of(sdk.metrics()["duration"]) == "histogram"
    # And these are the ones that are documented.
    docstring = aiowebsocketclient.opentelemetry.__doc__ or ""
    documented = re.findall(rf"\* - ``{PREFIX}(\w+)``\n +- ([\w -]+), ``(\S+)``", docstring)
    assert {name: (re.sub("[ -]", "_", kind), unit) for name, kind, unit in documented} == {
        **ours,
        "duration": ("histogram", "s"),
    }


def kind_of(metric: Any) -> str:
    if isinstance(metric.data, Sum):
        return "counter" if metric.data.is_monotonic else "up_down_counter"
    return str(type(metric.data).__name__).lower()


@pytest.mark.parametrize(
    ("max_endpoints", "named"), [(0, {None}), (1, {None, "127.0.0.1"}), (None, "both")]
)
async def test_only_so_many_endpoints_are_named(
    sdk: Sdk, make_session: SessionFactory, server: Server, max_endpoints: int | None, named: Any
) -> None:
    session = make_session(trace_configs=[sdk.telemetry(max_endpoints=max_endpoints)])
    if named == "both":
        named = {"127.0.0.1", "localhost"}
    await use(session, server.url())
    await use(session, server.url().replace("127.0.0.1", "localhost"))
    await until(lambda: sum(sdk.points("use_time", "server.address").values()) == 2)
    for name in "create_time", "wait_time", "use_time", "pending_requests":
        assert sdk.points(name, "server.address").keys() == named
    counts = sdk.points("count", "server.address", f"{PREFIX}state")
    assert {address for address, _ in counts} == named
    # Whatever is named, the sum is right.
    assert sum(count for (_, state), count in counts.items() if state == "idle") == 2
    # Spans are what they are of.
    addresses = {span.attributes["server.address"] for span in sdk.spans("WebSocket connect")}  # type: ignore[index]
    assert addresses == {"127.0.0.1", "localhost"}


async def test_tls_is_told_apart(
    sdk: Sdk, make_session: SessionFactory, tls_server: Server, client_tls: Any
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])
    async with session.ws_connect(tls_server.url(), ssl=client_tls):
        pass
    await session.close()
    (span,) = sdk.spans("WebSocket connect")
    assert span.attributes == attributes_of(tls_server)
    assert span.attributes["url.scheme"] == "wss"


# -- pools ---------------------------------------------------------------------------------------


async def test_several_pools_of_one_provider(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    for name in "speech", "llm":
        session = make_session(trace_configs=[sdk.telemetry(pool_name=name)])
        await use(session, server.url())
    assert sdk.points("count", f"{PREFIX}pool.name", f"{PREFIX}state") == {
        (name, state): int(state == "idle")
        for name in ("speech", "llm")
        for state in ("idle", "used", "connecting", "closing")
    }


@pytest.mark.parametrize("pool_name", [None, "ours"])
async def test_the_name_of_a_session_is_the_default(
    sdk: Sdk, make_session: SessionFactory, server: Server, pool_name: str | None
) -> None:
    telemetry = sdk.telemetry(pool_name=pool_name, max_endpoints=1)
    sessions = []
    for name in "speech", "llm", None, None:
        sessions.append(make_session(name=name, trace_configs=[telemetry], limit=2))
        await use(sessions[-1], server.url())
    names = ["speech", "llm", "default", "default"] if pool_name is None else ["ours"] * 4
    attribute = f"{PREFIX}pool.name"
    assert [span.attributes[attribute] for span in sdk.spans("WebSocket connect")] == names
    counted = Counter(names)
    assert sdk.points("create_time", attribute, "server.port") == {
        (name, server.port): number for name, number in counted.items()
    }
    assert sdk.points("max_per_endpoint", attribute) == {
        name: 2 * number for name, number in counted.items()
    }


@pytest.mark.parametrize("shared", [True, False])
async def test_sessions_of_one_name_are_one_pool(
    sdk: Sdk, make_session: SessionFactory, server: Server, shared: bool
) -> None:
    telemetry = sdk.telemetry()
    sessions = [
        make_session(trace_configs=[telemetry if shared else sdk.telemetry()], limit=2)
        for _ in range(2)
    ]
    for session in sessions:
        await use(session, server.url())
    assert sdk.points("count", f"{PREFIX}state")["idle"] == 2
    assert sdk.points("max_per_endpoint", f"{PREFIX}pool.name") == {"default": 4}
    await sessions[0].close()
    assert sdk.points("count", f"{PREFIX}state")["idle"] == 1
    await sessions[1].close()
    assert sdk.points("count", f"{PREFIX}state") == {}


async def test_a_dropped_session_is_let_go(sdk: Sdk, server: Server) -> None:
    session = WebSocketClientSession(trace_configs=[sdk.telemetry()])
    await use(session, server.url())
    await until(lambda: sdk.points("use_time", "server.port"))
    ref = weakref.ref(session)
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession"):
        del session
        gc.collect()
    assert ref() is None
    assert sdk.points("count", f"{PREFIX}state") == {}
    await until(lambda: server.open == 0)


async def test_the_provider_keeps_no_pool(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    telemetry = sdk.telemetry()
    async with WebSocketClientSession(trace_configs=[telemetry]) as session:
        await use(session, server.url())
    ref = weakref.ref(telemetry)
    del session, telemetry
    gc.collect()
    assert ref() is None
    assert sdk.metrics()


@pytest.mark.slow
async def test_read_in_another_thread_while_connections_come_and_go(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[sdk.telemetry()])

    def read_often() -> None:
        while session.stats().requests < 100:
            counts = sdk.points("count", f"{PREFIX}state")
            assert all(count in range(3) for count in counts.values())

    async def churn(host: str) -> None:
        while not reading.done():
            async with session.ws_connect(server.url().replace("127.0.0.1", host)) as ws:
                await ws.close()

    reading = asyncio.create_task(asyncio.to_thread(read_often))
    await asyncio.gather(reading, churn("127.0.0.1"), churn("localhost"))
    await session.close()
    durations = sdk.points("duration", f"{PREFIX}close_reason")
    assert durations == {"user": session.stats().requests}


async def test_what_events_have_lost_of_their_start(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    # As where handlers have fallen behind.
    telemetry = sdk.telemetry()
    telemetry.on_queued_start.clear()
    telemetry.on_connect_start.clear()
    session = make_session(trace_configs=[telemetry])
    await use(session, server.url())
    await session.close()
    assert not sdk.exporter.get_finished_spans()
    assert sdk.points("create_time", "server.port") == {server.port: 1}


async def test_use_time_can_be_done_without(
    sdk: Sdk, make_session: SessionFactory, server: Server
) -> None:
    telemetry = sdk.telemetry()
    telemetry.on_release.clear()
    session = make_session(trace_configs=[telemetry])
    await use(session, server.url())
    await session.close()
    assert "use_time" not in sdk.metrics()
    assert sdk.points("create_time", "server.port") == {server.port: 1}


# -- how it is set up ----------------------------------------------------------------------------


def test_arguments(sdk: Sdk) -> None:
    with pytest.raises(TypeError, match=r"tracer_provider must be .*\.TracerProvider, not str"):
        OpenTelemetry(tracer_provider="default")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"meter_provider must be .*\.MeterProvider, not Tracer"):
        OpenTelemetry(meter_provider=sdk.tracer_provider)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pool_name must be a str, not int"):
        sdk.telemetry(pool_name=5)
    with pytest.raises(ValueError, match="max_endpoints must be an integer >= 0 or None, got -1"):
        sdk.telemetry(max_endpoints=-1)


GLOBAL_PROVIDERS = """
import asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.opentelemetry import OpenTelemetry

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = MeterProvider([reader])

def set_up():
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    metrics.set_meter_provider(provider)

STEPS

async def echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        pass
    return ws

async def main():
    app = web.Application()
    app.router.add_get("/", echo)
    async with TestServer(app) as server:
        for telemetry in early, late, named:
            async with WebSocketClientSession(trace_configs=[telemetry]) as session:
                async with session.ws_connect(server.make_url("/")):
                    while len(exporter.get_finished_spans()) % 2:
                        await asyncio.sleep(0.01)
                    (resource,) = reader.get_metrics_data().resource_metrics
                    (scope,) = resource.scope_metrics
                    (count,) = [m for m in scope.metrics if m.name.endswith(".count")]
                    for point in count.data.data_points:
                        if point.value:
                            print(point.attributes["aiowebsocketclient.connection.pool.name"])

asyncio.run(main())
print(len(exporter.get_finished_spans()))
"""


async def test_a_fleet_is_recorded(
    sdk: Sdk, make_session: SessionFactory, server: Server, redis_server: RedisServer
) -> None:
    client = redis.asyncio.Redis(unix_socket_path=redis_server.socket)
    fleet = RedisFleet(client, "test_a_fleet_is_recorded", limit=7)
    telemetry = sdk.telemetry(pool_name="shared")
    sessions = [make_session(fleet=fleet, trace_configs=[telemetry]) for _ in range(2)]
    for session in sessions:
        await use(session, server.url())
    stats = [session.fleet_stats() for session in sessions]
    while [each.places for each in stats if each] != [1, 1]:
        await asyncio.sleep(0.01)
        stats = [session.fleet_stats() for session in sessions]
    found = {
        name.removeprefix("aiowebsocketclient.fleet."): metric.data.data_points
        for name, metric in sdk.metrics().items()
        if name.startswith("aiowebsocketclient.fleet.")
    }
    assert set(found) == {field.name for field in fields(FleetStats)}
    numbers = {name: point.value for name, (point,) in found.items()}
    # Of the fleet once, of the sessions together.
    assert (numbers["limit"], numbers["places"], numbers["wanted"]) == (7, 2, 2)
    assert numbers["syncs"] >= 2
    assert dict(found["places"][0].attributes) == {f"{PREFIX}pool.name": "shared"}
    for session in sessions:
        await session.close()
    await client.aclose()


EARLY = 'early = OpenTelemetry(pool_name="early")'
LATE = 'late = OpenTelemetry(pool_name="late")'
NAMED = 'named = OpenTelemetry(pool_name="named", meter_provider=provider)'


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        (EARLY, "set_up()", LATE, NAMED),
        (EARLY, NAMED, "set_up()", LATE),
        (NAMED, EARLY, "set_up()", LATE),
        (NAMED, "set_up()", LATE, EARLY),
    ],
    ids=lambda steps: "-".join(step.split()[0] for step in steps),
)
def test_the_global_providers_may_be_set_later(steps: tuple[str, ...]) -> None:
    done = run_program(GLOBAL_PROVIDERS.replace("STEPS", "\n".join(steps)))
    assert (done.stdout.split(), done.stderr) == (["early", "late", "named", "6"], "")


async def test_without_an_sdk_nothing_is_recorded_and_all_works(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(trace_configs=[OpenTelemetry()])
    for _ in range(2):
        await use(session, server.url())
    await session.close()
    assert session.stats().reused == 1
