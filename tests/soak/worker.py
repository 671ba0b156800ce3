"""The clients of one run, on one loop."""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import platform
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import aiohttp
from rich.console import Console
from rich.live import Live

import aiowebsocketclient

from . import chaos, verdict
from .calls import Caller
from .fleet import Fleet, Stop
from .ledger import Field
from .subject import PLANS, Lane

# Seconds between two lines, where nobody sees a live one.
_LINE: Final = 5.0
# Seconds without a connection for anybody of a lane after which it is taken that somebody was
# forgotten. A server is down for less.
_LANE_STANDS: Final = 60.0
# One caller was forgotten if so many connections went to others for each caller of its lane. Among
# those of one handshake that would be 1; others may pass over it, 16 times each.
_PASSED_OVER: Final = 20

# How many of a kind are told in full.
_DETAILS: Final = 5

#: What must not happen, in the order of the table.
FAILURES: Final = (
    "wrong replies",
    "dead or unclean",
    "limits exceeded",
    "lost places",
    "lost waiters",
    "leaked tasks",
    "leaked fds",
    "leaked objects",
    "growing memory",
    "sums that are wrong",
    "unexpected errors",
    "unexpected warnings",
)


class Soak:
    """One run: what is going on, what was counted, what went wrong."""

    def __init__(self, options: argparse.Namespace, fleet: Fleet) -> None:
        self.options = options
        self.fleet = fleet
        self.stop = Stop()
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.details: list[str] = []
        self.lanes: list[Lane] = []
        self.callers: dict[asyncio.Task[None], Caller] = {}
        self.memory: list[int] = []
        self.asked = 0
        self.began = time.monotonic()
        self.lasted = 0.0
        self.loop_name = type(asyncio.get_running_loop()).__module__.partition(".")[0]

    def fail(self, kind: str, detail: str, count: int = 1) -> None:
        """Note what must not happen, which ends the run."""
        self.failures[kind] += count
        if self.failures[kind] - count < _DETAILS:
            self.details.append(f"{kind}: {detail}")
            print(f"\n!! {kind}: {detail}", file=sys.stderr, flush=True)
        self.stop.set()

    # -- what would go unseen --------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Any:
        """Take log records, warnings and what a loop reports for what they are."""
        handler = _Records(self)
        logging.getLogger().addHandler(handler)
        asyncio.get_running_loop().set_exception_handler(self._on_exception)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self._on_warning
            try:
                yield
                gc.collect()
            finally:
                logging.getLogger().removeHandler(handler)

    def _on_exception(self, loop: Any, context: dict[str, Any]) -> None:
        text = str(context)
        exc = context.get("exception")
        if isinstance(exc, BaseException):
            text += "\n" + "".join(traceback.format_exception(exc))
            where = [frame.filename for frame in traceback.extract_tb(exc.__traceback__)]
            if where and all(name.startswith("uvloop/") for name in where):
                # Of TLS handshakes that fail or are cancelled: of any client, with or without a
                # pool.
                self.counts["complaints of uvloop"] += 1
                return
        self.fail("unexpected errors", text)

    def _on_warning(self, message: Any, category: Any, *where: Any, **more: Any) -> None:
        if "was never released" in str(message) and category is ResourceWarning:
            self.counts["lost handles warned of"] += 1
        elif self.loop_name == "uvloop" and str(message).startswith("unclosed <socket"):
            # A TLS handshake that fails, with or without a pool.
            self.counts["complaints of uvloop"] += 1
        else:
            self.fail("unexpected warnings", f"{category.__name__}: {message} {where[:2]}")

    # -- the run ---------------------------------------------------------------------------------

    async def run(self) -> None:
        await self.fleet.until_up()
        self.lanes = [Lane(PLANS[0], 0, self.fleet)]
        self.fleet.ledger.calm = True
        await self._use_everything_once()
        self.fleet.ledger.calm = False
        before = verdict.Resources()
        self.began = time.monotonic()
        self.lanes = [Lane(plan, number, self.fleet) for number, plan in enumerate(PLANS)]
        self._start_callers()
        pause = max(0.5, min(5.0, self.options.seconds / 20))
        harm = chaos.begin(self, str(self.options.seed), pause)
        await self._watch()
        self.stop.set()
        self.lasted = time.monotonic() - self.began
        await self._calm_down(harm)
        await self._examine()
        await self._clear_away(before)

    async def _use_everything_once(self) -> None:
        """Have loops and libraries open what they open once and keep, which is not a leak."""
        (lane,) = self.lanes
        for fault in await verdict.take_all(lane, Caller(self, lane, Random(0)), 20.0):
            self.fail("lost places", fault)
        await lane.close()

    def _start_callers(self) -> None:
        shares = sum(plan.share for plan in PLANS)
        for lane in self.lanes:
            for number in range(max(2, self.options.callers * lane.plan.share // shares)):
                random = Random(f"{self.options.seed} {lane.name} {number}")
                caller = Caller(self, lane, random)
                self.callers[asyncio.create_task(caller.live())] = caller

    async def _watch(self) -> None:
        deadline = self.began + self.options.seconds
        parent = os.getppid()
        with _Display() as display:
            while (now := time.monotonic()) < deadline and not self.stop.is_set():
                await self.stop.within(min(1.0, deadline - now))
                if os.getppid() != parent:
                    raise SystemExit("whoever started this has gone")
                self.memory.append(verdict.rss())
                display.show(self._line())
                self._look_for_the_forgotten()
                for lane in self.lanes:
                    if excess := lane.excess():
                        self.fail("limits exceeded", excess)
                for task in self.callers:
                    if task.done() and not self.stop.is_set():
                        self.fail("unexpected errors", f"a caller has ended: {task!r}")

    def _line(self) -> str:
        seconds = time.monotonic() - self.began
        stats = [lane.session.stats() for lane in self.lanes]
        events = self.fleet.events
        return (
            f"{self.loop_name} {seconds:5.0f} s: {self.counts['replies']:,} replies,"
            f" {self.counts['cancellations']:,} cancellations, {self.faults():,} faults,"
            f" {events['kill'] + events['stop']} restarts, {self.counts['resizes']} resizes;"
            f" {sum(s.acquired for s in stats)} in use, {sum(s.idle for s in stats)} idle,"
            f" {sum(s.connecting for s in stats)} connecting,"
            f" {sum(s.closing for s in stats)} closing, {sum(s.waiting for s in stats)} waiting;"
            f" {verdict.rss() >> 20} MB; {self.failures.total()} failures"
        )

    def _look_for_the_forgotten(self) -> None:
        now = asyncio.get_running_loop().time()
        for lane in self.lanes:
            if lane.session.stats().waiting and now - lane.progress > _LANE_STANDS:
                self.fail("lost waiters", f"{lane.name} stands: {lane.session!r}")
        crowds = Counter(caller.lane for caller in self.callers.values())
        for caller in self.callers.values():
            granted = caller.lane.tenure.granted - caller.others
            if caller.stage == "waiting" and granted > _PASSED_OVER * (crowds[caller.lane] + 10):
                self.fail("lost waiters", f"{caller}, while others got {granted}")

    def faults(self) -> int:
        """Return how often something was broken on purpose."""
        ours = ("sockets shut down", "lost handles", "slow readers")
        theirs = (Field.ABORTS, Field.CLOSES, Field.UNSOLICITED, Field.GARBAGE, Field.REFUSALS)
        return (
            sum(self.counts[name] for name in ours)
            + sum(self.fleet.ledger.sum(field) for field in theirs)
            + self.fleet.events.total()
        )

    async def _calm_down(self, harm: list[asyncio.Task[None]]) -> None:
        self.fleet.ledger.calm = True
        for result in await asyncio.gather(*harm, return_exceptions=True):
            if isinstance(result, BaseException):
                self.fail("unexpected errors", "".join(traceback.format_exception(result)))
        await self.fleet.until_up()

    async def _examine(self) -> None:
        for lost in await verdict.lost_waiters(self.callers, 10.0 if self.failures else 30.0):
            self.fail("lost waiters", lost)
        self.callers.clear()
        # What servers were asked to do later is done by then.
        await asyncio.sleep(0.2)
        for lane in self.lanes:
            # Who knows already that something is wrong need not wait for long.
            patience = 2.0 if self.failures else 20.0
            faults = await verdict.lost_places(lane, patience)
            faults += await verdict.take_all(lane, Caller(self, lane, Random(0)), patience)
            for fault in faults:
                self.fail("lost places", fault)
            if excess := lane.excess():
                self.fail("limits exceeded", excess)

    async def _clear_away(self, before: verdict.Resources) -> None:
        for lane in self.lanes:
            for fault in await lane.close():
                self.fail("sums that are wrong", fault)
            del lane.tenure
        for kind, left in (await verdict.leaks(before)).items():
            if left:
                self.fail(f"leaked {kind}", str(left[:20]), len(left))
        warned, lost = self.counts["lost handles warned of"], self.counts["lost handles"]
        if warned != lost:
            self.fail("sums that are wrong", f"{lost} handles lost, {warned} warnings")
        half, end, most = verdict.growth(self.memory)
        if end - half > most:
            self.fail("growing memory", f"from {half >> 20} MB half way to {end >> 20} MB")
        if log := self.fleet.log():
            self.fail("unexpected warnings", f"the servers say\n{log}")

    def result(self) -> dict[str, Any]:
        """Return what was counted, for JSON."""
        total: Counter[str] = Counter()
        for lane in self.lanes:
            total.update(lane.totals)
        half, end, most = verdict.growth(self.memory)
        ledger = self.fleet.ledger
        return {
            "loop": self.loop_name,
            "core": aiowebsocketclient.IMPLEMENTATION,
            "python": platform.python_version(),
            "aiohttp": aiohttp.__version__,
            "seed": self.options.seed,
            "seconds": round(self.lasted, 1),
            "callers": self.options.callers,
            "acquisitions": total["requests"],
            "connects": total["connects"],
            "accepted": ledger.sum(Field.ACCEPTED),
            "faults": self.faults(),
            "pool": {name: round(n, 3) for name, n in sorted(total.items()) if n},
            "counts": dict(sorted(self.counts.items())),
            "servers": {how: self.fleet.events[how] for how in ("kill", "stop", "freeze")}
            | {field.name.lower(): ledger.sum(field) for field in Field},
            "peaks": {
                lane.name: {
                    "limit": lane.plan.settings.get("limit"),
                    "peak": lane.peaks()[0],
                    "limit_total": lane.plan.settings.get("limit_total"),
                    "peak_total": lane.peaks()[1],
                    "resized": lane.plan.resized,
                }
                for lane in self.lanes
            },
            "rss": {"half": half, "end": end, "allowed": most},
            "failures": {name: self.failures[name] for name in FAILURES},
            "details": self.details,
        }


class _Records(logging.Handler):
    def __init__(self, soak: Soak) -> None:
        super().__init__(logging.WARNING)
        self._soak = soak

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == "hook_failed":
            # Some are made to fail, and are counted where they do.
            return
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self._soak.fail("unexpected warnings", f"log: {record.name}: {text}")


class _Display:
    """One line that changes on a terminal, and some lines elsewhere."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(line, refresh=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE
            print(line, flush=True)


async def _soak(options: argparse.Namespace, fleet: Fleet) -> dict[str, Any]:
    soak = Soak(options, fleet)
    with soak.listening():
        await soak.run()
    return soak.result()


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--loop")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--callers", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        Fleet(len(PLANS), options.seed, heartbeat=5.0) as fleet,
        asyncio.Runner(loop_factory=lambda: _new_loop(options.loop)) as runner,
    ):
        result = runner.run(_soak(options, fleet))
    options.json.write_text(json.dumps(result))
    sys.exit(any(result["failures"].values()))
