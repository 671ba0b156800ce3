"""gremlinpython alone and over a ``GremlinPool``: calls that fail after a restart, and the cost.

    python -m tests.gremlin_calls

Each run has a server of its own, in another process.  It prints the tables of
docs/guides/gremlin.rst.
"""

import argparse
import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gremlin_python.driver.client import Client

from aiowebsocketclient import IMPLEMENTATION
from aiowebsocketclient.gremlin import GremlinPool

LIMIT = 4
QUERY = "echo hello"


class ServerProcess:
    """A server that can be killed, and comes back at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/gremlin"

    def numbers(self) -> dict[str, int]:
        """Return ``handshakes`` since the start, and the ``peak`` of open connections."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/numbers", timeout=60) as reply:
            numbers: dict[str, int] = json.load(reply)
        return numbers

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.gremlin_server", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server did not start"
        self.port = int(line.rpartition(":")[2].partition("/")[0])

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(how)
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def server_process() -> Iterator[ServerProcess]:
    server = ServerProcess()
    server.start()
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


MakeClient = Callable[[str], Client]


@contextlib.contextmanager
def alone() -> Iterator[MakeClient]:
    yield lambda url: Client(url, "g")


@contextlib.contextmanager
def over_the_pool() -> Iterator[MakeClient]:
    with GremlinPool(limit=LIMIT, acquire_timeout=60) as pool:
        yield lambda url: Client(
            url,
            "g",
            transport_factory=pool.transport_factory,
            protocol_factory=pool.protocol_factory,
        )


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[MakeClient]]] = {
    "gremlinpython alone": alone,
    f"over a pool, limit={LIMIT}": over_the_pool,
}


class Result(NamedTuple):
    """What callers of several clients have seen."""

    #: Microseconds, one call after another and many at once.
    alone: float
    together: float
    handshakes: int
    #: Exceptions of calls after the server was ended and had come back, by signal.
    errors: dict[str, Counter[str]]


def call(client: Client, times: int) -> None:
    for _ in range(times):
        assert client.submit(QUERY).all().result() == ["hello"]


def call_in_threads(clients: list[Client], threads: int, times: int) -> None:
    workers = [
        threading.Thread(target=call, args=(clients[n % len(clients)], times))
        for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def errors_of(clients: list[Client], calls: int) -> Counter[str]:
    errors: Counter[str] = Counter()
    for n in range(calls):
        try:
            call(clients[n % len(clients)], 1)
        except Exception as exc:
            errors[f"{type(exc).__name__}: {exc}"] += 1
    return errors


def timed(function: Callable[..., None], *args: Any) -> float:
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def measure(
    way: Callable[[], contextlib.AbstractContextManager[MakeClient]],
    calls: int,
    threads: int,
    times: int,
) -> Result:
    """Call two clients from many threads, then one, then both after the server was restarted."""
    errors = {}
    for how in (signal.SIGTERM, signal.SIGKILL):
        with server_process() as server, way() as make_client:
            clients = [make_client(server.url) for _ in range(2)]
            together = timed(call_in_threads, clients, threads, times)
            one_by_one = timed(call, clients[0], calls)
            handshakes = server.numbers()["handshakes"]
            server.end(how)
            server.start()
            errors[how.name] = errors_of(clients, calls)
            for client in clients:
                client.close()
    return Result(one_by_one / calls * 1e6, together / (threads * times) * 1e6, handshakes, errors)


def main(calls: int, threads: int, times: int) -> None:
    logging.getLogger("gremlinpython").setLevel(logging.CRITICAL)
    # gremlinpython alone leaves one behind in each call that fails.
    warnings.filterwarnings("ignore", "coroutine 'AiohttpTransport", RuntimeWarning)
    print(f"core: {IMPLEMENTATION}, 2 clients, {threads} threads x {times} calls, then {calls}")
    for name, way in WAYS.items():
        result = measure(way, calls, threads, times)
        print(
            f"{name}: {result.handshakes} handshakes, {result.alone:.0f} us per call,"
            f" {result.together:.0f} us with {threads} threads"
        )
        for how, errors in result.errors.items():
            print(f"  after {how} and a new start, {errors.total()} of {calls} calls failed")
            for error, count in errors.most_common():
                print(f"    {count} {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.gremlin_calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=600, help="default: 600")
    parser.add_argument("--threads", type=int, default=32, help="default: 32")
    parser.add_argument("--times", type=int, default=100, help="calls of each; default: 100")
    given = parser.parse_args()
    main(given.calls, given.threads, given.times)
