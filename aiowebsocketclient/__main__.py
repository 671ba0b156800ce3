"""``python -m aiowebsocketclient [URL]``: measures many callers that share a few connections.

Without a URL, it starts an echo server in another process.  Then it measures a sample of the same
traffic with a new connection for every request, as without a pool.  With ``--fleet``, it shows
several processes that share one limit (``_fleet_demo.py``).
"""

import argparse
import asyncio
import contextlib
import errno
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from . import IMPLEMENTATION, EndpointKey, WebSocketClientSession, __version__, _fleet_demo
from .arguments import is_token
from .keys import resolve

__all__ = ("main", "serve")

# Size of the sample with a new connection for every request.
_SAMPLE_REQUESTS: Final = 1000
_SAMPLE_SECONDS: Final = 2.0

# Seconds for closing handshakes, after the measurement.
_CLOSE_TIMEOUT: Final = 1.0

# Processes that --fleet shows.
_PROCESSES: Final = 4

# Seconds between two updates of the progress bar.
_TICK: Final = 0.1

# Rows of the result: name, key, format.
_ROWS: Final = (
    ("requests", "requests", "{:,}"),
    ("time", "seconds", "{:.2f} s"),
    ("throughput", "throughput", "{:,.0f} /s"),
    ("latency p50", "p50_ms", "{:.2f} ms"),
    ("latency p90", "p90_ms", "{:.2f} ms"),
    ("latency p99", "p99_ms", "{:.2f} ms"),
    ("latency max", "max_ms", "{:.2f} ms"),
    ("handshakes", "handshakes", "{:,}"),
    ("connections reused", "reused", "{:.2%}"),
    ("wait per request", "wait_ms", "{:.2f} ms"),
    ("total wait", "wait_seconds", "{:,.1f} s"),
    ("peak connections", "peak_connections", "{:,}"),
)


# -- measuring -----------------------------------------------------------------------------------


class NoReplyError(Exception):
    """The server ended the connection instead of answering a message."""


class Latencies:
    """Latencies in buckets 1 % wide, whose memory does not grow with the length of a run."""

    _WIDTH: Final = math.log(1.01)

    def __init__(self) -> None:
        self.count = 0
        self.max = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Count a latency; 0, from a coarse clock, counts as a nanosecond."""
        self.count += 1
        self.max = max(self.max, seconds)
        self._buckets[math.floor(math.log(max(seconds, 1e-9)) / self._WIDTH)] += 1

    def quantile(self, share: float) -> float:
        """Return the latency in seconds at the quantile ``share`` (0 to 1)."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.max, math.exp((bucket + 0.5) * self._WIDTH))
        return self.max


class Traffic:
    """Requests made in one way, with their latencies.

    :param requests: number of requests; ``math.inf``: until the time is up.
    :param duration: seconds until the end; ``math.inf``: until all requests are made.
    """

    def __init__(self, requests: float, duration: float) -> None:
        self.requests = requests
        self.duration = duration
        self.latencies = Latencies()
        #: Seconds since the first request.
        self.seconds = 0.0
        self._begun = 0

    @property
    def done(self) -> int:
        """Number of requests that were answered."""
        return self.latencies.count

    @property
    def throughput(self) -> float:
        """Requests answered per second."""
        return self.done / self.seconds if self.seconds else 0.0

    async def run(
        self,
        request: Callable[[], Awaitable[None]],
        callers: int,
        update: Callable[["Traffic"], None],
    ) -> None:
        """Make the requests with concurrent callers, until the end or the first failure."""
        start = perf_counter()
        tasks = {asyncio.create_task(self._call(request)) for _ in range(callers)}
        pending = tasks
        try:
            while pending and (left := self.duration - self.seconds) > 0:
                done, pending = await asyncio.wait(
                    pending, timeout=min(left, _TICK), return_when=asyncio.FIRST_EXCEPTION
                )
                self.seconds = perf_counter() - start
                for task in done:
                    task.result()
                update(self)
        finally:
            self.seconds = perf_counter() - start
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self, request: Callable[[], Awaitable[None]]) -> None:
        while self._begun < self.requests:
            self._begun += 1
            begun = perf_counter()
            await request()
            self.latencies.record(perf_counter() - begun)

    def result(self) -> dict[str, float]:
        """Return the measured values; throughput is in requests per second."""
        shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
        return {
            "requests": self.done,
            "seconds": self.seconds,
            "throughput": self.throughput,
            **{name: self.latencies.quantile(share) * 1e3 for name, share in shares.items()},
            "max_ms": self.latencies.max * 1e3,
        }


class Run:
    """One run against one server, with its results so far.

    :param args: parsed arguments of the command line.
    :param url: URL of the server.
    """

    def __init__(self, args: argparse.Namespace, url: str) -> None:
        self.args = args
        self.url = url
        self.endpoint = _endpoint(url)
        duration = args.duration or math.inf
        requests = math.inf if args.duration else args.requests
        self.pooled = Traffic(requests, duration)
        self.unpooled = Traffic(min(requests, _SAMPLE_REQUESTS), min(duration, _SAMPLE_SECONDS))
        self._peak = 0
        self._of_pool: dict[str, float] = {}
        # Only options that differ from their defaults, so that ws_connect() is called as usual.
        self._options: dict[str, Any] = {}
        if args.protocol:
            self._options["protocols"] = tuple(args.protocol)
        if args.no_verify:
            self._options["ssl"] = False

    async def measure(self, output: "Output") -> None:
        """Make the requests through the pool, then a sample of them without a pool."""
        with output.bar("through the pool") as update:
            await self._measure_pooled(update)
        if not self.pooled.done:
            raise TimeoutError
        with output.bar("connecting each time") as update:
            await self._measure_unpooled(update)

    async def _measure_pooled(self, update: Callable[[Traffic], None]) -> None:
        async with WebSocketClientSession(
            limit=self.args.limit,
            headers=self.args.header,
            conn_timeout=self.args.timeout,
            close_timeout=_CLOSE_TIMEOUT,
        ) as session:

            async def request() -> None:
                async with session.ws_connect(self.url, **self._options) as ws:
                    # Only a new connection can raise the peak.
                    if not ws.reused:
                        self._note_peak(session)
                    await self._exchange(ws)

            try:
                await self.pooled.run(request, self.args.callers, update)
            finally:
                self._note_stats(session)

    async def _measure_unpooled(self, update: Callable[[Traffic], None]) -> None:
        places = asyncio.Semaphore(self.args.limit)
        # As in the pool: the client session only connects.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        jar = aiohttp.DummyCookieJar()
        timeout = aiohttp.ClientWSTimeout(
            ws_close=_CLOSE_TIMEOUT  # pyright: ignore[reportCallIssue]
        )
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=jar, headers=self.args.header
        ) as session:

            async def request() -> None:
                async with (
                    places,
                    asyncio.timeout(self.args.timeout),
                    session.ws_connect(self.url, timeout=timeout, **self._options) as ws,
                ):
                    await self._exchange(ws)

            await self.unpooled.run(request, self.args.callers, update)

    async def _exchange(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Send the message and wait for one reply."""
        # Around both: a server that does not read blocks the sender.
        async with asyncio.timeout(self.args.timeout):
            await ws.send_str(self.args.message)
            reply = await ws.receive()
        if reply.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            raise NoReplyError

    def _note_peak(self, session: WebSocketClientSession) -> None:
        stats = session.stats()
        now = stats.connecting + stats.acquired + stats.idle + stats.closing
        self._peak = max(self._peak, now)

    def _note_stats(self, session: WebSocketClientSession) -> None:
        stats = session.stats()
        # Fewer than stats.requests if some callers were cancelled while they waited.
        handed_out = stats.reused + stats.connects
        self._of_pool = {
            "handshakes": stats.connects + stats.connect_errors,
            "reused": stats.reused / max(1, handed_out),
            "wait_ms": stats.wait_seconds / max(1, stats.requests) * 1e3,
            "wait_seconds": stats.wait_seconds,
            "peak_connections": self._peak,
        }

    def result(self) -> dict[str, Any]:
        """Return the measured values; None for a part that was not measured."""
        without = self.unpooled
        counted = {"handshakes": without.done, "reused": 0.0}
        return {
            "version": __version__,
            "implementation": IMPLEMENTATION,
            "aiohttp": aiohttp.__version__,
            "python": platform.python_version(),
            "uvloop": self.args.uvloop,
            "endpoint": str(self.endpoint),
            "callers": self.args.callers,
            "limit": self.args.limit,
            "pool": self.pooled.result() | self._of_pool,
            "connecting_each_time": without.result() | counted if without.done else None,
            "speedup": self.pooled.throughput / without.throughput if without.done else None,
        }


# -- output --------------------------------------------------------------------------------------


class Output:
    """Standard output: only JSON if requested, rich tables in a terminal, or plain lines."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._console: Any = None
        if sys.stdout.isatty() and not as_json:
            with contextlib.suppress(ImportError):
                from rich.console import Console

                self._console = Console()

    def say(self, line: str) -> None:
        """Print a line, unless the output is JSON."""
        if not self._as_json:
            print(line, flush=True)

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[Callable[[Traffic], None]]:
        """Show a progress bar inside the block; yields a function that updates it."""
        if self._console is None:
            yield lambda traffic: None
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (
            TextColumn(f"{title:<20}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]:,} requests"),
        )
        with Progress(*columns, console=self._console, auto_refresh=False) as progress:
            task = progress.add_task(title, total=1.0, done=0)

            def update(traffic: Traffic) -> None:
                share = max(traffic.done / traffic.requests, traffic.seconds / traffic.duration)
                progress.update(task, completed=share, done=traffic.done, refresh=True)

            yield update

    def report(self, result: dict[str, Any]) -> None:
        """Print the result of :meth:`Run.result`."""
        if self._as_json:
            print(json.dumps(result, indent=2))
            return
        ways = result["pool"], result["connecting_each_time"] or {}
        rows = [
            (name, *(form.format(way[key]) if key in way else "" for way in ways))
            for name, key, form in _ROWS
        ]
        self._table(("", "pool", "connecting each time"), rows)
        if result["speedup"] is not None:
            self.say(f"\nThe pool is {result['speedup']:.1f} times as fast.")

    def _table(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if self._console is None:
            for name, pool, each in (head, *rows):
                self.say(f"{name:<20}{pool:>14}{each:>23}".rstrip())
            return
        from rich.table import Table

        table = Table(*head)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def _heading(args: argparse.Namespace) -> str:
    loop = f"uvloop {version('uvloop')}" if args.uvloop else "asyncio"
    return (
        f"aiowebsocketclient {__version__} ({IMPLEMENTATION} core), aiohttp {aiohttp.__version__},"
        f" Python {platform.python_version()}, {loop}"
    )


def _task(run: Run) -> str:
    whose = "" if run.args.url else " (built-in, in another process)"
    return f"{run.args.callers:,} callers, limit {run.args.limit:,}, server {run.endpoint}{whose}\n"


def _complaint(error: Exception, args: argparse.Namespace) -> str:
    """Return what the server did, without texts of aiohttp that may quote secrets."""
    match error:
        case aiohttp.WSServerHandshakeError(status=101):
            return f"broke the handshake: {error.message}"
        case aiohttp.WSServerHandshakeError():
            return f"refused the handshake: HTTP status {error.status}"
        case aiohttp.ClientResponseError():
            return "does not answer like an HTTP server"
        case aiohttp.ClientConnectorCertificateError():
            return "has a certificate that is not trusted (--no-verify trusts any)"
        case aiohttp.ClientSSLError():
            return "cannot be reached by TLS"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: no such host"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {os.strerror(error.errno or errno.EHOSTUNREACH)}"
        case aiohttp.ConnectionTimeoutError():
            return f"did not complete the handshake within {args.timeout:g} s"
        case TimeoutError():
            return f"did not answer within {min(args.timeout, args.duration or math.inf):g} s"
        case NoReplyError() | aiohttp.ClientConnectionError() | ConnectionError():
            return "closed the connection instead of answering"
        case ValueError():
            return "cannot be requested: the headers and the URL contradict each other"
    return f"failed: {type(error).__name__}"


# -- the built-in server -------------------------------------------------------------------------


def serve(use_uvloop: bool) -> None:
    """Run an echo server on loopback until standard input ends, and print its port."""
    with asyncio.Runner(loop_factory=_loop_factory(use_uvloop)) as runner:
        runner.run(_serve())


async def _serve() -> None:
    app = web.Application()
    app.router.add_get("/", _echo)
    app.router.add_get(_fleet_demo.PEAK, _tell_peak)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    # The server ends with its parent, even if the parent is killed.
    await asyncio.to_thread(os.read, sys.stdin.fileno(), 1)


class _Open:
    """Connections of the built-in server."""

    now = 0
    peak = 0


async def _echo(request: web.Request) -> web.WebSocketResponse:
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
    ws = web.WebSocketResponse(protocols=[name.strip() for name in offered.split(",") if name])
    _Open.now += 1
    _Open.peak = max(_Open.peak, _Open.now)
    try:
        # Raised if the client disconnects before the reply.
        with contextlib.suppress(ConnectionResetError):
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(message.data)
    finally:
        _Open.now -= 1
    return ws


async def _tell_peak(request: web.Request) -> web.Response:
    return web.Response(text=str(_Open.peak))


@contextlib.contextmanager
def _own_server(use_uvloop: bool) -> Iterator[str]:
    """Run :func:`serve` in another process; yields its URL."""
    code = f"from {__package__}.__main__ import serve; serve({use_uvloop})"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The process must find the package at the same place as this one.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        # Ctrl-C must not reach the server, which is needed until the end.
        start_new_session=True,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                sys.exit("aiowebsocketclient: the echo server did not start")
            yield f"ws://127.0.0.1:{port}/"
        finally:
            process.kill()


# -- the command line ----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiowebsocketclient",
        description="Measure a pool of WebSocket connections: many callers make requests (one\n"
        "message, one reply) over few connections, and then a sample of them with a new\n"
        "connection for each request.",
        epilog="examples:\n"
        "  python -m aiowebsocketclient --callers 500 --limit 20\n"
        "  python -m aiowebsocketclient wss://example.com/ws --duration 10 --json\n"
        "  python -m aiowebsocketclient --fleet redis://localhost --limit 20\n\n"
        "Progress bar and table need rich: pip install 'aiowebsocketclient[cli]'.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    server = "URL of the server (default: a built-in echo server)"
    add("url", metavar="URL", nargs="?", type=_url, help=server)
    amount = parser.add_mutually_exclusive_group().add_argument
    requests = f"number of requests {default}"
    amount("--requests", metavar="N", type=_count, default=50000, help=requests)
    amount("--duration", metavar="SECONDS", type=_seconds, help="run this long instead")
    add("--callers", metavar="N", type=_count, default=100, help=f"concurrent callers {default}")
    add(
        "--limit",
        metavar="N",
        type=_count,
        default=10,
        help=f"maximum number of connections {default}",
    )
    add("--message", metavar="TEXT", default="hello", help=f"message to send {default}")
    header = "'Name: value' for every handshake; repeatable"
    add("--header", metavar="HEADER", type=_header, action="append", help=header)
    protocol = "subprotocol to offer; repeatable"
    add("--protocol", metavar="NAME", type=_protocol, action="append", help=protocol)
    timeout = f"limit for each handshake and each reply {default}"
    add("--timeout", metavar="SECONDS", type=_seconds, default=5.0, help=timeout)
    fleet = "show processes that share the limit, in this Redis or in one of their own"
    add("--fleet", metavar="REDIS_URL", nargs="?", const="", help=fleet)
    add("--processes", metavar="N", type=_count, help="processes of --fleet (default: 4)")
    add("--no-verify", action="store_true", help="trust any TLS certificate")
    add("--uvloop", action="store_true", help="run on uvloop")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    try:
        "".join(argv).encode()
    except UnicodeEncodeError:
        parser.error("an argument is not valid text in this locale")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        # Only names are shown: other words may be the value of a header, or a password.
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        parser.error(f"unknown option: {names[0]}" if names else "more than one URL")
    _check_fleet(parser, args)
    if args.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop needs uvloop: pip install 'aiowebsocketclient[uvloop]'")
    return args


def _check_fleet(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.fleet is None:
        if args.processes is not None:
            parser.error("--processes needs --fleet")
        return
    args.processes = args.processes or _PROCESSES
    if importlib.util.find_spec("redis") is None:
        parser.error("--fleet needs redis: pip install 'aiowebsocketclient[redis]'")
    # A word after --fleet is the URL of Redis: one of a WebSocket server is a mistake.
    if args.fleet and not args.fleet.startswith(("redis://", "rediss://", "unix://")):
        parser.error("--fleet takes the URL of a Redis: redis://, rediss:// or unix://")


def _endpoint(url: str) -> EndpointKey:
    target = resolve(url, {}, headers=CIMultiDict(), reuse_key=None, client_session=None)
    return target.key.endpoint


def _url(value: str) -> str:
    try:
        _endpoint(value)
    except aiohttp.ClientError as error:
        # Only the description: the URL, which precedes it, may be secret.
        raise argparse.ArgumentTypeError(error.args[-1]) from None
    except ValueError:
        raise argparse.ArgumentTypeError("user or password cannot be sent") from None
    return value


def _header(value: str) -> tuple[str, str]:
    name, colon, rest = value.partition(":")
    if not colon or not is_token(name):
        raise argparse.ArgumentTypeError("must look like 'Name: value'")
    if not rest.replace("\t", " ").isprintable():
        raise argparse.ArgumentTypeError(f"the value of {name} has unprintable characters")
    return name, rest.strip()


def _protocol(value: str) -> str:
    if not is_token(value):
        raise argparse.ArgumentTypeError(f"not a valid name of a subprotocol: {value!r}")
    return value


def _count(value: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(value)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {value!r}")


def _seconds(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(value)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"must be a number of seconds > 0, got {value!r}")


def _loop_factory(use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    return importlib.import_module("uvloop").new_event_loop if use_uvloop else None


async def _measure(run: Run, args: argparse.Namespace, output: Output) -> None:
    # Inside the loop, because from here on Ctrl-C cancels this task.
    output.say(_heading(args))
    output.say(_task(run))
    await run.measure(output)


def _run(args: argparse.Namespace, output: Output) -> int:
    run: Run | None = None
    status, complaint = 0, ""
    try:
        with contextlib.ExitStack() as stack:
            run = Run(args, args.url or stack.enter_context(_own_server(args.uvloop)))
            work = _measure(run, args, output)
            # Without close(), an early Ctrl-C would warn that the coroutine was never awaited.
            stack.callback(work.close)
            runner = stack.enter_context(asyncio.Runner(loop_factory=_loop_factory(args.uvloop)))
            runner.run(work)
    except KeyboardInterrupt:
        status, complaint = 130, "interrupted"
    except (aiohttp.ClientError, ConnectionError, NoReplyError, TimeoutError, ValueError) as error:
        if run is None or isinstance(error, BrokenPipeError):
            raise
        status, complaint = 1, f"{run.endpoint} {_complaint(error, args)}"
    if run is not None and run.pooled.done:
        output.report(run.result())
    if complaint:
        print(f"aiowebsocketclient: {complaint}", file=sys.stderr)
    return status


def _show_fleet(args: argparse.Namespace, output: Output) -> int:
    """Show processes that share a limit; returns the exit status."""
    try:
        with contextlib.ExitStack() as stack:
            url = args.url or stack.enter_context(_own_server(args.uvloop))
            output.say(_heading(args))
            result = asyncio.run(_fleet_demo.measure(args, url, output.say))
    except KeyboardInterrupt:
        return 130
    except (_fleet_demo.DemoError, TimeoutError) as error:
        said = str(error) or "the processes did not end in time"
        print(f"aiowebsocketclient: {said}", file=sys.stderr)
        return 1
    output.say(_fleet_demo.summary(result))
    if args.json:
        print(json.dumps(result, indent=2))
    return 0


def main() -> int:
    """Run the command line; returns the exit status.

    0: success; 1: the server refused, hung or did not answer; 2: bad arguments; 130: Ctrl-C.
    """
    args = _parse(sys.argv[1:])
    try:
        if args.fleet is not None:
            return _show_fleet(args, Output(args.json))
        return _run(args, Output(args.json))
    except BrokenPipeError:
        # The reader has ended, as in "| head". The flush at the exit must not fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
