"""``python -m aiowebsocketclient --fleet``: shows several processes under one limit.

Each process is a session with ``fleet=`` and callers of its own.  A line for each says, twice a
second, how many places it has and how many requests were answered.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import aiohttp
from yarl import URL

from . import ClientWebSocketResponse, WebSocketClientSession
from .redis import RedisFleet

__all__ = ("PEAK", "DemoError", "measure", "summary", "work")

#: Path of the built-in server that tells the largest number of connections it had.
PEAK: Final = "/peak"

# Seconds between two lines of a process, and until a server or a fleet that does not start has
# failed.
_PERIOD: Final = 0.5
_START: Final = 10.0
# Seconds of a run without --duration.
_DURATION: Final = 10.0
# Seconds that a process has to end after its callers.
_ENDING: Final = 10.0
# A Redis that has just started gives nothing for so many seconds.
_LEASE: Final = 3.0
# Seconds of one use, so that places are short with any number of callers.
_USE: Final = 0.005

_HEAD: Final = f"{'process':>7} {'places':>7} {'waiting':>8} {'requests':>9} {'of the fleet':>13}"


class DemoError(Exception):
    """Says what the demonstration lacks."""


# -- one process ---------------------------------------------------------------------------------


def work() -> None:
    """Run one process of the fleet: arguments as JSON on standard input, lines on the output."""
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(_work(json.loads(sys.stdin.readline())))


async def _work(task: dict[str, Any]) -> None:
    import redis.asyncio

    client = redis.asyncio.from_url(task["redis"])
    fleet = RedisFleet(client, task["name"], limit=task["limit"], lease=_LEASE)
    done = 0

    async def call(session: WebSocketClientSession[ClientWebSocketResponse]) -> None:
        nonlocal done
        while True:
            async with session.ws_connect(task["url"]) as ws:
                await ws.send_str(task["message"])
                await ws.receive()
                await asyncio.sleep(_USE)
            done += 1

    try:
        async with WebSocketClientSession(fleet=fleet) as session:
            calls = [asyncio.create_task(call(session)) for _ in range(task["callers"])]
            await _until_ready(session, calls)
            end = perf_counter() + task["duration"]
            while perf_counter() < end and not any(each.done() for each in calls):
                await asyncio.sleep(min(_PERIOD, max(0.0, end - perf_counter())))
                _tell(session, done)
            for each in calls:
                each.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await client.aclose()
    for error in ends:
        if isinstance(error, Exception):
            print(json.dumps({"failed": type(error).__name__}), flush=True)
            return


async def _until_ready(
    session: WebSocketClientSession[Any], calls: list[asyncio.Task[None]]
) -> None:
    """Wait until the fleet may give places: one whose Redis is new gives none for a lease."""
    latest = perf_counter() + _START
    while perf_counter() < latest and not any(each.done() for each in calls):
        of_fleet = session.fleet_stats()
        assert of_fleet is not None
        if of_fleet.syncs:
            if not of_fleet.learning:
                return
            _tell(session, 0)
        await asyncio.sleep(_PERIOD)


def _tell(session: WebSocketClientSession[Any], done: int) -> None:
    stats, of_fleet = session.stats(), session.fleet_stats()
    assert of_fleet is not None
    numbers = {
        "places": of_fleet.places,
        "waiting": stats.waiting,
        "requests": done,
        "used": of_fleet.used,
        "learning": of_fleet.learning,
        "handshakes": stats.connects,
        "syncs": of_fleet.syncs + of_fleet.sync_errors,
    }
    print(json.dumps(numbers), flush=True)


# -- all processes -------------------------------------------------------------------------------


async def measure(args: argparse.Namespace, url: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the processes, say a line for each twice a second, and return the result."""
    with _redis(args.fleet) as redis_url:
        task = {
            "redis": redis_url,
            # A name of its own: a second demonstration does not share its places.
            "name": f"demonstration {secrets.token_hex(8)}",
            "url": url,
            "limit": args.limit,
            "callers": args.callers,
            "message": args.message,
            "duration": args.duration or _DURATION,
        }
        say(f"{args.processes} processes, {args.callers:,} callers each, limit {args.limit:,}\n")
        say(_HEAD)
        workers = await asyncio.gather(*(_start(task) for _ in range(args.processes)))
        latest: list[dict[str, Any]] = [{} for _ in workers]

        async def follow(number: int) -> None:
            output = workers[number].stdout
            assert output is not None
            async for line in output:
                latest[number] = json.loads(line)
                if "failed" in latest[number]:
                    raise DemoError(f"a process failed: {latest[number]['failed']}")
                say(_line(number, latest[number], args.limit))

        try:
            async with asyncio.timeout(_START + task["duration"] + _START + _ENDING):
                await _all(follow(number) for number in range(len(workers)))
                for worker in workers:
                    await worker.wait()
        finally:
            # Not those that have ended: kill() would take their status from the loop's watcher.
            for worker in workers:
                if worker.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        worker.kill()
                    await worker.wait()
        return _result(latest, args.limit, None if args.url else await _peak_at(url))


async def _all(steps: Iterator[Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _start(task: dict[str, Any]) -> asyncio.subprocess.Process:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-c",
        f"from {__package__}._fleet_demo import work; work()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The process must find the package at the same place as this one.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert worker.stdin is not None
    # Not as an argument: the URL of Redis may have a password, and others can list arguments.
    worker.stdin.write(json.dumps(task).encode() + b"\n")
    await worker.stdin.drain()
    return worker


def _line(number: int, told: dict[str, Any], limit: int) -> str:
    used = f"{told['used']:,} of {limit:,}"
    if told["learning"]:
        used = "Redis is new"
    return (
        f"{number + 1:>7} {told['places']:>7,} {told['waiting']:>8,} {told['requests']:>9,}"
        f" {used:>13}"
    )


async def _peak_at(url: str) -> int:
    """Return the largest number of connections that the built-in server had."""
    async with aiohttp.ClientSession() as client, client.get(URL(url).with_path(PEAK)) as reply:
        return int(await reply.text())


def _result(latest: list[dict[str, Any]], limit: int, peak: int | None) -> dict[str, Any]:
    handshakes = sum(told.get("handshakes", 0) for told in latest)
    return {
        "processes": len(latest),
        "limit": limit,
        "peak_connections": peak,
        "requests": [told.get("requests", 0) for told in latest],
        "handshakes": handshakes,
        "calls_to_redis": sum(told.get("syncs", 0) for told in latest),
    }


@contextlib.contextmanager
def _redis(url: str) -> Iterator[str]:
    """Return the URL of the given Redis, or of a redis-server that runs inside the block."""
    if url:
        yield url
        return
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise DemoError(
            "--fleet needs a Redis: install redis-server, or name a running Redis as in"
            " --fleet redis://localhost"
        )
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        path = Path(directory) / "socket"
        options = ("--port", "0", "--unixsocket", str(path), "--dir", directory)
        nothing_saved = ("--save", "", "--appendonly", "no")
        with subprocess.Popen(
            [program, *options, *nothing_saved],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as server:
            try:
                _wait_for(path, server)
                yield f"unix://{path}"
            finally:
                server.kill()


def _wait_for(path: Path, server: "subprocess.Popen[bytes]") -> None:
    end = perf_counter() + _START
    while not path.exists():
        if perf_counter() > end:
            raise DemoError("redis-server did not start")
        try:
            server.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        raise DemoError("redis-server ended at once")


def summary(result: dict[str, Any]) -> str:
    """Return the last lines of the demonstration."""
    requests, handshakes, calls = (
        result[name] for name in ("requests", "handshakes", "calls_to_redis")
    )
    # Without a request or a handshake there is no share to tell.
    share = each = peak = ""
    if any(requests):
        share = f"; fewest of a process: {min(requests) / max(requests):.0%} of the most"
    if handshakes:
        each = f" ({calls / handshakes:.1f} per handshake, none per reuse)"
    if result["peak_connections"] is not None:
        peak = f"the server saw at most {result['peak_connections']:,} connections at once\n"
    return (
        f"\n{sum(requests):,} requests{share}\n{peak}"
        f"{handshakes:,} handshakes, {calls:,} calls to Redis{each}"
    )
