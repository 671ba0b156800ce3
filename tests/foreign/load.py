"""Callers of a pool that hold each reply against its request, and the sums of what they did."""

import asyncio
import random
import time
from collections import Counter
from typing import Any, Final, NamedTuple

import aiohttp

from aiowebsocketclient import PoolStats, TraceConfig, WebSocketClientSession
from aiowebsocketclient._pool_py import CLOSE_REASONS
from aiowebsocketclient.tracing import TraceCloseParams

#: Seconds that only a reply that never comes takes.
HANGS: Final = 30.0
#: Seconds between a use that failed and the next of this caller.
PAUSE: Final = 0.02

#: Where a use is when it is cancelled, or fails.
ACQUIRING, SENDING, RECEIVING = STAGES = ("acquiring", "sending", "receiving")

#: Characters of a request.  aiohttp compresses the longest in a thread, so that sending waits.
SHORT, LONG = range(10, 200), range(17_000, 20_000)

#: What a caller may get while a server goes and comes again.
FAILURES: Final = (aiohttp.ClientError, aiohttp.WSMessageTypeError)


class Load:
    """Callers of one URL.

    :param options: of each ``ws_connect()``.
    :param seed: of the lengths of requests.
    """

    def __init__(
        self, session: WebSocketClientSession, url: str, *, seed: int = 1, **options: Any
    ) -> None:
        self.session = session
        self.url = url
        self.options = options
        self.random = random.Random(seed)
        self.started = 0
        #: Uses that got a connection, a reused one, one that compresses.
        self.granted = 0
        self.reused = 0
        self.compressed = 0
        #: Requests that were sent, or whose sending was begun.
        self.sent = 0
        #: Uses that got a reply.
        self.done = 0
        #: Replies to something else, or on a connection that is not what its handle says.
        self.wrong: list[str] = []
        #: Uses that ended otherwise, by the stage that they were in.
        self.cancelled: Counter[str] = Counter()
        self.failed: Counter[tuple[str, type[Exception]]] = Counter()
        #: Seconds of each use that got a reply.
        self.seconds: list[float] = []

    @property
    def refused(self) -> int:
        """Uses that got no connection."""
        return sum(count for (stage, _), count in self.failed.items() if stage == ACQUIRING)

    @property
    def cut(self) -> int:
        """Uses whose connection ended."""
        return sum(self.failed.values()) - self.refused

    async def run(
        self, count: int, *, callers: int, cancel_every: int = 0, may_fail: bool = False
    ) -> None:
        """Let callers use the pool so often together; the error of a use is raised, or counted.

        :param cancel_every: one use of so many is cancelled besides, each time at the next of
            ``STAGES``; 0: none.
        """
        numbers = iter(range(count))

        async def call() -> None:
            for number in numbers:
                if cancel_every and number % cancel_every == 0:
                    await self._use_and_cancel(STAGES[number // cancel_every % len(STAGES)])
                try:
                    await self.use()
                except FAILURES:
                    if not may_fail:
                        raise

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call())

    async def _use_and_cancel(self, stage: str) -> None:
        using = asyncio.create_task(self.use(cancel_at=stage))
        try:
            await asyncio.wait([using])
        finally:
            using.cancel()
        # The error of a use that was not cancelled in time is raised here.
        if not using.cancelled():
            using.result()

    async def run_until(self, ended: asyncio.Event, *, callers: int) -> None:
        """Let callers use the pool until they are told to end; they go on after a failure."""

        async def call() -> None:
            while not ended.is_set():
                try:
                    await self.use()
                except FAILURES:
                    await asyncio.sleep(PAUSE)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call())

    async def use(self, *, cancel_at: str | None = None) -> None:
        """Send a request on a connection of the pool, and check the reply.

        :param cancel_at: cancel the caller's task in the turn after this stage begins.
        """
        number = self.started = self.started + 1
        lengths = LONG if cancel_at == SENDING or self.random.random() < 0.05 else SHORT
        request = f"{number} {'x' * self.random.choice(lengths)} {number}"
        began = time.perf_counter()
        stage = ACQUIRING

        def enter(new: str) -> None:
            nonlocal stage
            stage = new
            if stage == cancel_at:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)

        try:
            enter(ACQUIRING)
            async with self.session.ws_connect(self.url, **self.options) as ws:
                self._got(ws)
                enter(SENDING)
                self.sent += 1
                await ws.send_str(request)
                enter(RECEIVING)
                reply = await ws.receive_str(timeout=HANGS)
                self._check(request, reply, ws.reused)
        except asyncio.CancelledError:
            self.cancelled[stage] += 1
            raise
        except FAILURES as exc:
            self.failed[stage, type(exc)] += 1
            raise
        self.done += 1
        self.seconds.append(time.perf_counter() - began)

    def _got(self, ws: Any) -> None:
        self.granted += 1
        self.reused += ws.reused
        self.compressed += bool(ws.compress)

    def _check(self, request: str, reply: str, is_reused: bool) -> None:
        """Hold the reply against the request, and what the server has counted against the handle.

        A connection is reused if, and only if, the server has had a request on it: each use has
        exactly one, unless it ends the connection.
        """
        count, _, answered = reply.partition(" ")
        if answered != request or (int(count) > 1) is not is_reused:
            self.wrong.append(f"{reply[:40]!r} to {request[:40]!r}, {is_reused=}")


#: Reasons of connections that the server ended: the second, if a send fails before the end is read.
ENDED_BY_SERVER: Final = ("lost", "failed")


class Closes(TraceConfig):
    """Counts the close codes of servers that ended a connection; None: without a CLOSE."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: Counter[int | None] = Counter()
        self.on_close.append(self._closed)

    def are_told(self, stats: PoolStats) -> bool:
        """Whether all that were closed are counted: handlers run some time after the events."""
        ended = closed(stats)
        return self.codes.total() == sum(ended.get(reason, 0) for reason in ENDED_BY_SERVER)

    async def _closed(self, session: Any, context: Any, params: TraceCloseParams) -> None:
        if params.reason in ENDED_BY_SERVER:
            self.codes[params.close_code] += 1


def closed(stats: PoolStats) -> dict[str, int]:
    """Return what was closed, by reason."""
    counts = {name: getattr(stats, f"closed_{name}") for name in CLOSE_REASONS}
    return {name: count for name, count in counts.items() if count}


def is_settled(stats: PoolStats) -> bool:
    return not (stats.connecting or stats.acquired or stats.closing or stats.waiting)


class Before(NamedTuple):
    """What was done in earlier lives of the server."""

    connects: int = 0
    done: int = 0
    sent: int = 0


NOTHING: Final = Before()


def sums_of(
    load: Load, counts: dict[str, int], before: Before = NOTHING
) -> list[tuple[str, int, int]]:
    """Return what has to be equal, once all is settled: its name, and both numbers.

    :param counts: what the server has counted in this life.
    """
    stats = load.session.stats()
    ended = closed(stats)
    held = load.cancelled[SENDING] + load.cancelled[RECEIVING]
    uses = load.done + load.cancelled.total() + load.failed.total()
    lost = ended.get("lost", 0)
    # A request that was cancelled may have been sent.
    requests = counts["requests"]
    expected = within(requests, load.done - before.done, load.sent - before.sent)
    return [
        ("requests, uses", stats.requests, load.started),
        ("uses, their ends", load.started, uses),
        ("uses with a connection, their ends", load.granted, load.done + held + load.cut),
        ("reused, as callers saw", stats.reused, load.reused),
        # A connection may end between the reply and the release.
        ("released, replies", stats.released, within(stats.released, load.done - lost, load.done)),
        ("connects, closed or idle", stats.connects, sum(ended.values()) + stats.idle),
        ("connects, accepted", stats.connects - before.connects, counts["accepted"]),
        ("idle, open at the server", stats.idle, counts["open"]),
        ("requests, at the server", requests, expected),
        ("closed by cancellation", ended.get("cancelled", 0), held),
        ("timeouts", stats.timeouts, 0),
        ("rejected", stats.rejected, 0),
    ]


def within(number: int, least: int, most: int) -> int:
    """Return the number, or the bound that it exceeds."""
    return min(max(number, least), most)


def faults_of(*args: Any) -> list[str]:
    """Return the sums that do not add up; the arguments are those of ``sums_of``."""
    return [f"{name}: {a}, {b}" for name, a, b in sums_of(*args) if a != b]
