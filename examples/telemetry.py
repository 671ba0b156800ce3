"""Spans and metrics of a pool, printed or sent to an OpenTelemetry collector.

python examples/telemetry.py
python examples/telemetry.py --otlp http://127.0.0.1:4318
"""

import argparse
import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.opentelemetry import OpenTelemetry


def span_line(span: ReadableSpan) -> str:
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"span {span.name}: {milliseconds:.1f} ms\n"


def metric_lines(data: MetricsData) -> str:
    lines = ""
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    number = getattr(point, "count", None) or getattr(point, "value", None)
                    lines += f"metric {metric.name}: {number}\n"
    return lines


def set_up(otlp: str | None) -> tuple[TracerProvider, MeterProvider]:
    spans: SpanExporter = ConsoleSpanExporter(formatter=span_line)
    numbers: MetricExporter = ConsoleMetricExporter(formatter=metric_lines)
    if otlp is not None:
        spans = OTLPSpanExporter(f"{otlp}/v1/traces")
        numbers = OTLPMetricExporter(f"{otlp}/v1/metrics")
    resource = Resource({"service.name": "questions"})
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(tracer_provider)
    meter_provider = MeterProvider([PeriodicExportingMetricReader(numbers)], resource)
    metrics.set_meter_provider(meter_provider)
    return tracer_provider, meter_provider


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def ask(session: WebSocketClientSession, url: str, question: str) -> str:
    async with session.ws_connect(url) as ws:
        await ws.send_str(question)
        return await ws.receive_str()


async def ask_all(count: int) -> None:
    app = web.Application()
    app.router.add_get("/", echo)
    telemetry = OpenTelemetry(pool_name="answers")
    async with (
        TestServer(app) as server,
        WebSocketClientSession(limit=2, trace_configs=[telemetry]) as session,
    ):
        url = str(server.make_url("/"))
        # The pool's spans are children of this span.
        with trace.get_tracer("questions").start_as_current_span("ask all"):
            await asyncio.gather(*(ask(session, url, str(n)) for n in range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--otlp", metavar="URL", help="URL of a collector; default: print")
    providers = set_up(parser.parse_args().otlp)
    asyncio.run(ask_all(5))
    for provider in providers:
        # Export what has not been exported yet.
        provider.shutdown()


if __name__ == "__main__":
    main()
