"""``examples/metrics.py``, run as it is and scraped as Prometheus does."""

import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from .examples import FOLDER, serving

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="examples/ is not there"),
    pytest.mark.timeout(300),
    pytest.mark.slow,
]

FORMATS = {
    "": ("text/plain; version=0.0.4", parse_text),
    "application/openmetrics-text;version=1.0.0": (
        "application/openmetrics-text; version=1.0.0",
        parse_openmetrics,
    ),
}


def scrape(url: str, accept: str) -> dict[str, float]:
    """Return each series, named as in PromQL, but for its pool."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as reply:
        content_type, text = reply.headers["Content-Type"], reply.read().decode()
    expected, parse = FORMATS[accept]
    assert content_type.startswith(expected)
    return {
        series(sample.name.removeprefix("aiowebsocketclient_"), sample.labels): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def series(name: str, labels: dict[str, str]) -> str:
    if not name.startswith(("process_", "python_")):
        assert labels.pop("pool") == "answers"
    told = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name


def ask(metrics_url: str, question: str) -> None:
    query = urllib.parse.urlencode({"question": question})
    url = urllib.parse.urljoin(metrics_url, f"/ask?{query}")
    with urllib.request.urlopen(url, timeout=60) as reply:
        assert reply.read().decode() == question


@pytest.mark.parametrize("accept", FORMATS)
def test_a_scrape_tells_what_was_asked(accept: str) -> None:
    with serving("metrics.py") as service:
        tell: Callable[[], dict[str, Any]] = partial(scrape, service.url, accept)
        assert (tell()["requests_total"], tell()["endpoints"]) == (0, 0)
        for n in range(20):
            ask(service.url, f"one after another, {n}")
        found = tell()
        address = urllib.parse.urlsplit(service.url).netloc
        endpoint = f'endpoint="ws://{address}"'
        expected = {
            "requests_total": 20,
            "reused_total": 19,
            "released_total": 20,
            "connects_total": 1,
            "endpoints": 1,
            'connections{state="idle"}': 1,
            'connections{state="acquired"}': 0,
            'closed_total{reason="lost"}': 0,
            "endpoint_connections_limit": 4,
            f"endpoint_requests_total{{{endpoint}}}": 20,
            f'endpoint_connections{{{endpoint},state="idle"}}': 1,
        }
        assert {name: found[name] for name in expected} == expected
        # What prometheus_client tells by itself is there, too.
        assert found["process_max_fds"] > 0

        with ThreadPoolExecutor(10) as clients:
            questions = [f"ten at once, {n}" for n in range(50)]
            list(clients.map(partial(ask, service.url), questions))
        found = tell()
        assert found["requests_total"] == found["released_total"] == 70
        assert found["reused_total"] + found["connects_total"] == 70
        assert 1 <= found["connects_total"] == found['connections{state="idle"}'] <= 4


def test_it_asks_another_server() -> None:
    with serving("metrics.py") as other:
        url = other.url.replace("http", "ws", 1).replace("metrics", "echo")
        with serving("metrics.py", "--url", url) as service:
            ask(service.url, "hello")
            address = urllib.parse.urlsplit(url).netloc
            found = scrape(service.url, "")
            assert found[f'endpoint_requests_total{{endpoint="ws://{address}"}}'] == 1
