"""``examples/telemetry.py``, run as it is, with what it prints and what it sends to a collector."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .examples import FOLDER, run

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="examples/ is not there"),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]

PREFIX = "aiowebsocketclient.connection."


def test_it_prints_what_it_records() -> None:
    lines = run("telemetry.py").splitlines()
    told = [re.sub(r": [\d.]+( ms)?$", "", line) for line in lines]
    assert told.count("span ask all") == 1
    assert told.count("span WebSocket wait") == 5
    assert told.count("span WebSocket connect") == 2
    assert f"metric {PREFIX}create_time: 2" in lines
    assert f"metric {PREFIX}wait_time: 5" in lines
    assert f"metric {PREFIX}use_time: 5" in lines
    assert f"metric {PREFIX}duration: 2" in lines


@contextmanager
def collector() -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Take what is sent by OTLP over HTTP, as a collector does."""
    kinds = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}
    received: dict[str, list[Any]] = {path: [] for path in kinds}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received[self.path].append(kinds[self.path].FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def test_it_sends_what_it_records_to_a_collector() -> None:
    with collector() as (url, received):
        assert run("telemetry.py", "--otlp", url) == ""
    spans = [
        span
        for request in received["/v1/traces"]
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    (parent,) = (span for span in spans if span.name == "ask all")
    connects = [span for span in spans if span.name == "WebSocket connect"]
    assert [span.parent_span_id for span in connects] == [parent.span_id] * 2
    attributes = {pair.key: pair.value for pair in connects[0].attributes}
    assert attributes[f"{PREFIX}pool.name"].string_value == "answers"
    assert attributes["server.address"].string_value == "127.0.0.1"
    points = {
        metric.name.removeprefix(PREFIX): metric.histogram.data_points
        for request in received["/v1/metrics"]
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {name: sum(p.count for p in points[name]) for name in points} == {
        "create_time": 2,
        "wait_time": 5,
        "use_time": 5,
        "duration": 2,
    }
