"""The sessions: their settings, what callers asked of each, and what that must add up to."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiohttp import WSMsgType

from aiowebsocketclient import (
    GOING_AWAY,
    ClientWebSocketResponse,
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketClientSession,
    WebSocketPoolError,
)
from aiowebsocketclient._pool_py import CLOSE_REASONS

from .fleet import Fleet
from .ledger import PORTS, SERVERS, LaneField, Ledger

#: For the closing handshake with a server that is frozen or deaf.
CLOSE_TIMEOUT: Final = 1.0
#: For the handshake with such a server.
CONN_TIMEOUT: Final = 10.0


class Plan(NamedTuple):
    """A lane before it is there: its part of the callers, and the settings of its session."""

    name: str
    share: int
    settings: dict[str, Any]
    #: Makes settings that a session cannot share with the next.
    extras: Callable[[], dict[str, Any]] = dict
    #: Between which numbers ``limit`` goes up and down.
    resized: tuple[int, int] | None = None
    #: Seconds that a caller sleeps between two calls, at most; a fifth of it on average.
    pause: float = 0.5
    #: Whether its session is closed and made anew in the middle of everything.
    remade: bool = False
    #: Whether all its connections have hooks.
    hooked: bool = False


def _limiter() -> dict[str, Any]:
    limiter: AbstractAsyncContextManager[Any] = asyncio.Semaphore(8)
    return {"connect_limiter": limiter}


# At some there is always a queue, at others nearly always something idle.
PLANS: Final = (
    Plan("limit", 36, {"limit": 40, "max_connecting": 10}),
    Plan("limit_total", 20, {"limit": 30, "limit_total": 48, "retire_on": GOING_AWAY}),
    Plan("resized", 16, {"limit": 30, "limit_total": 80}, resized=(4, 40)),
    Plan("idle", 8, {"limit": 30, "retire_on": GOING_AWAY}, pause=5.0),
    # Where servers may see more connections than the pool has.
    Plan("detaching", 4, {}, pause=2.0),
    Plan("queue", 5, {"limit": 8, "max_waiting": 20, "acquire_timeout": 0.5}),
    Plan("ageing", 5, {"limit": 16, "max_idle": 0.3, "max_lifetime": 1.0}, _limiter, pause=2.0),
    Plan("force_close", 2, {"limit": 10, "force_close": True}, pause=2.0),
    Plan("hooks", 8, {"limit": 12, "hook_timeout": 1.0}, hooked=True),
    # With a client_session of its own: docs/guarantees.rst says what a given one does with TLS.
    Plan("remade", 8, {"limit": 20, "limit_total": 40}, pause=1.0, remade=True),
)


class HookError(Exception):
    """What the hooks of a lane raise."""


def hooks(ledger: Ledger) -> dict[str, Any]:
    """Return hooks that talk to the server; while there is chaos, some fail or take too long."""

    async def talk(ws: ClientWebSocketResponse) -> None:
        if not ledger.calm and random.random() < 0.02:
            raise HookError("by chance")
        if not ledger.calm and random.random() < 0.01:
            await asyncio.sleep(2.0)
        await ws.send_str("-1 echo 0 3 hook")
        message = await ws.receive()
        if message.type is not WSMsgType.TEXT or not message.data.startswith("-1 "):
            raise HookError("something else than the reply")

    return {"configure": talk, "check": talk, "reset": talk}


class Tenure:
    """One session, with what was asked of it."""

    def __init__(self, session: WebSocketClientSession) -> None:
        self.session = session
        self.asked = 0
        self.granted = 0
        self.reused = 0
        self.timeouts = 0
        self.rejected = 0
        #: Callers that were cancelled, or that the session's end met, while they waited: the core
        #: may have counted something for them by then.
        self.unsure = 0

    def faults(self) -> list[str]:
        """Return what does not add up, of a session that was closed."""
        stats = self.session.stats()
        closed = sum(getattr(stats, f"closed_{reason}") for reason in CLOSE_REASONS)
        faults = []
        if stats.requests != self.asked:
            faults.append(f"{stats.requests} requests counted, {self.asked} made")
        if stats.connects != closed + stats.detached:
            faults.append(
                f"{stats.connects} connections opened, {closed} closed, {stats.detached} detached"
            )
        for name, own in (
            ("reused", self.reused),
            ("timeouts", self.timeouts),
            ("rejected", self.rejected),
        ):
            counted = getattr(stats, name)
            if not own <= counted <= own + self.unsure:
                faults.append(
                    f"{counted} {name} counted, {own} seen (and {self.unsure} unsure callers)"
                )
        sizes = self.session._pool.sizes()
        left = {name: n for name, n in sizes.items() if n and not name.endswith("_heap")}
        if left:
            faults.append(f"left in the pool of a closed session: {left}")
        return faults


class Ask:
    """One call of ``ws_connect``, kept account of; ``granted`` must follow if it succeeds."""

    def __init__(self, lane: "Lane", caller: Any) -> None:
        self._lane = lane
        self._caller = caller
        self._tenure = lane.tenure
        self._granted = False

    def __enter__(self) -> Self:
        self._caller.stage = "waiting"
        self._caller.others = self._tenure.granted
        if not self._tenure.session.closed:
            self._tenure.asked += 1
        return self

    def granted(self, ws: ClientWebSocketResponse) -> ClientWebSocketResponse:
        self._granted = True
        self._caller.stage = "using"
        self._lane.note_progress()
        if ws.reused and ws._reader._buffer:
            self._caller.run.fail("dead or unclean", f"{self._caller}: a message lies unread")
        if ws.reused and (ws._conn is None or ws._conn.transport.is_closing()):
            # It is being told in this very turn of the loop.
            self._caller.run.counts["ended on hand-out"] += 1
        self._tenure.granted += 1
        self._tenure.reused += ws.reused
        return ws

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._caller.stage = "elsewhere"
        if self._granted or exc_type is None:
            return
        if issubclass(exc_type, TooManyWaitersError):
            self._tenure.rejected += 1
        elif issubclass(exc_type, PoolTimeoutError):
            self._tenure.timeouts += 1
        elif issubclass(exc_type, asyncio.CancelledError | WebSocketPoolError):
            self._tenure.unsure += 1


class Lane:
    """A session, or one after the other, with ports of its own at both servers."""

    def __init__(self, plan: Plan, number: int, fleet: Fleet) -> None:
        self.plan = plan
        self.name = plan.name
        self.number = number
        self.fleet = fleet
        self.limit: int | None = plan.settings.get("limit")
        self.limit_total: int | None = plan.settings.get("limit_total")
        self.tenure: Tenure
        self.totals: Counter[str] = Counter()
        #: When a caller was last given a connection.
        self.progress = 0.0
        self.open()

    def note_progress(self) -> None:
        self.progress = asyncio.get_running_loop().time()

    @property
    def session(self) -> WebSocketClientSession:
        return self.tenure.session

    def open(self) -> None:
        """Begin with a new session."""
        self.fleet.ledger.allow(self.number, self.limit, self.limit_total)
        session = WebSocketClientSession(
            conn_timeout=CONN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            headers={"X-Lane": self.name},
            **self.plan.settings,
            **self.plan.extras(),
            **(hooks(self.fleet.ledger) if self.plan.hooked else {}),
        )
        self.tenure = Tenure(session)
        self.note_progress()

    async def close(self) -> list[str]:
        """End with the session; returns what does not add up."""
        tenure = self.tenure
        await tenure.session.close()
        stats = tenure.session.stats()
        for name in stats.__slots__:
            self.totals[name] += getattr(stats, name)
        return [f"{self.name}: {fault}" for fault in tenure.faults()]

    def target(self, random: Random) -> tuple[str, str, dict[str, Any]]:
        """Return a URL, what the server will know of the handshake, and the options for it."""
        server, port = random.randrange(SERVERS), random.randrange(PORTS)
        return self.target_at(server, port, random.randrange(6))

    def target_at(self, server: int, port: int, kind: int) -> tuple[str, str, dict[str, Any]]:
        options: dict[str, Any] = {}
        path, header = "/", ""
        if self.fleet.has_tls(server):
            options["ssl"] = self.fleet.client_tls
        if kind == 1:
            path = "/other"
        elif kind == 2:
            header = "two"
            options["headers"] = {"X-Kind": header}
        elif kind == 3:
            header = "beating"
            options |= {"headers": {"X-Kind": header}, "heartbeat": 2.0}
        elif kind == 4:
            path = "/compressed"
            options["compress"] = 15
        return self.fleet.url(server, self.number, port) + path, f"{path}:{header}", options

    def excess(self) -> str | None:
        """Return by how much a limit was exceeded, as the servers saw it."""
        times, most = self.fleet.ledger.exceeded(self.number)
        return f"{self.name}: {times} times over the limit, by {most}" if times else None

    def peaks(self) -> tuple[int, int]:
        ledger = self.fleet.ledger
        return (
            ledger.peak(self.number, LaneField.PEAK),
            ledger.peak(self.number, LaneField.PEAK_TOTAL),
        )
