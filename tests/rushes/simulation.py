"""A core in virtual time: callers come, handshakes take their time, connections are used.

The core is the real one.  What a session does for it is done here: carry out plans, and call
``expire`` when ``next_deadline`` says so.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, NamedTuple

from aiowebsocketclient._pool_py import ACQUIRED, CONNECTING, IDLE

from ..driver import Driver


class Policy(NamedTuple):
    """When a pool begins handshakes."""

    name: str
    max_connecting: int
    defers: bool


AT_ONCE: Final = Policy("at once", 100, defers=False)
ONE_AT_A_TIME: Final = Policy("one at a time", 1, defers=False)
DEFAULT: Final = Policy("default", 100, defers=True)
POLICIES: Final = (AT_ONCE, ONE_AT_A_TIME, DEFAULT)


class Caller(NamedTuple):
    """Who comes so many seconds after the start, and uses connections one after another."""

    arrival: float
    uses: tuple[float, ...]
    #: Whether it closes its connections instead of releasing them.
    closes: bool = False
    #: Of the handshake that it needs: the first letter is that of the endpoint.
    key: str = "a1"
    #: How long it waits for a connection before it gives up.
    patience: float = math.inf


@dataclass(frozen=True)
class Load:
    """What happens to a pool, in seconds."""

    callers: tuple[Caller, ...]
    #: How long the first handshake takes, the second, and so on, and then from the first again.
    handshakes: tuple[float, ...]
    #: Uses that have been before the start, one after another.
    history: tuple[float, ...]
    #: Connections of each handshake that are idle at the start.
    idle: int = 5
    keys: tuple[str, ...] = ("a1",)
    limit: int = 0
    limit_total: int = 0
    #: The pool's, unless the policy has less.
    max_connecting: int = 0
    #: Which handshakes fail, counted from 0.
    failures: frozenset[int] = frozenset()
    #: When a connection is lost, and which of those that are open, counted round.
    losses: tuple[tuple[float, int], ...] = ()
    #: When all connections in use are lost.
    dies_at: float = math.inf
    #: From when until when the process does nothing.
    held_up: tuple[float, float] = (math.inf, math.inf)
    #: Timers end at multiples of so many seconds, like those of uvloop; 0: exactly.
    tick: float = 0.0

    @property
    def handshake(self) -> float:
        return sum(self.handshakes) / len(self.handshakes)


@dataclass
class Outcome:
    """What came of it, in seconds after the start."""

    #: By caller: how long it waited for each connection that it used.
    waits: list[list[float]]
    #: When each handshake has begun.
    begun: list[float] = field(default_factory=list)
    #: When the last caller had its last connection, and when it had used it.
    served: float = 0.0
    done: float = 0.0
    #: How often the timer has ended.
    timers: int = 0

    @property
    def mean_wait(self) -> float:
        waits = [wait for waits in self.waits for wait in waits]
        return sum(waits) / len(waits)


class _Visit:
    """What is known of a caller meanwhile."""

    def __init__(self, caller: Caller, waits: list[float]) -> None:
        self.caller = caller
        self.waits = waits
        self.since = 0.0


class Simulation:
    """One pool under one load."""

    def __init__(self, core: ModuleType, policy: Policy, load: Load) -> None:
        self.load = load
        most = policy.max_connecting
        self.pool = Driver(
            core,
            max_connecting=min(most, load.max_connecting or most),
            defers=policy.defers,
            limit=load.limit,
            limit_total=load.limit_total,
        )
        self.outcome = Outcome([[] for _ in load.callers])
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._timer = math.inf
        self._start = 0.0
        self._handshakes = 0
        self._waiting: dict[Any, _Visit] = {}
        self._using: dict[Any, _Visit] = {}

    def run(self) -> Outcome:
        self._prepare()
        self._start = self.pool.now
        for caller, waits in zip(self.load.callers, self.outcome.waits, strict=True):
            self._after(caller.arrival, self._come, _Visit(caller, waits))
        if self.load.dies_at < math.inf:
            self._after(self.load.dies_at, self._die)
        for seconds, which in self.load.losses:
            self._after(seconds, self._lose, which)
        while self._events:
            when, _, function, arguments = heapq.heappop(self._events)
            since, until = (self._start + seconds for seconds in self.load.held_up)
            self.pool.now = max(self.pool.now, until if since < when < until else when)
            function(*arguments)
        # Nobody is forgotten.
        assert not self._waiting
        assert self.pool.size("waiters") == 0
        return self.outcome

    def _prepare(self) -> None:
        """Open the connections that are idle at the start, and use one of them again and again."""
        for key in self.load.keys:
            for _ in range(self.load.idle):
                slot = self.pool.open(key)
                if slot is None:
                    # A limit is reached.
                    break
                self.pool.begin(slot)
                self.pool.now += self._next_duration()
                self.pool.connected(slot)
            for use in self.load.history if self.pool.core.find(key) else ():
                slot = self.pool.acquire(key)
                self.pool.now += use
                self.pool.release(slot)
        if self.load.tick:
            self.pool.now = math.ceil(self.pool.now / self.load.tick) * self.load.tick

    def _next_duration(self) -> float:
        self._handshakes += 1
        return self.load.handshakes[(self._handshakes - 1) % len(self.load.handshakes)]

    # -- time ------------------------------------------------------------------------------------

    def _after(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        self._at(self.pool.now + seconds, function, *arguments)

    def _at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, function, arguments))

    def _arm(self) -> None:
        """Set the timer, as a session does."""
        deadline = self.pool.core.next_deadline()
        if self.load.tick and deadline < math.inf:
            deadline = max(deadline, math.ceil(deadline / self.load.tick) * self.load.tick)
        if deadline < self._timer:
            self._timer = deadline
            self._at(deadline, self._expire, deadline)

    def _expire(self, deadline: float) -> None:
        if deadline == self._timer:
            self._timer = math.inf
            self.outcome.timers += 1
            self.pool.expire()
            self._carry_out()

    # -- connections -----------------------------------------------------------------------------

    def _carry_out(self) -> None:
        opened, closing, woken = self.pool.opened, self.pool.closing, self.pool.woken
        for slot in opened:
            self.pool.begin(slot)
            self.outcome.begun.append(self.pool.now - self._start)
            fails = self._handshakes in self.load.failures
            ended = self._failed if fails else self._connected
            self._after(self._next_duration(), ended, slot)
        for slot in closing:
            self._after(0.0, self._closed, slot)
        for waiter in woken:
            self._after(0.0, self._take, waiter)
        self._arm()

    def _connected(self, slot: Any) -> None:
        # Otherwise it has been stopped.
        if slot.state == CONNECTING:
            self.pool.connected(slot)
            self._carry_out()

    def _failed(self, slot: Any) -> None:
        if slot.state == CONNECTING:
            # Its caller has the error, and goes.
            self._waiting.pop(self.pool.failed(slot), None)
            self._carry_out()

    def _closed(self, slot: Any) -> None:
        self.pool.closed(slot)
        self._carry_out()

    def _die(self) -> None:
        for slot, visit in list(self._using.items()):
            self._discard(slot, "lost")
            self._leave(visit)

    def _lose(self, which: int) -> None:
        slots = [slot for slot in self.pool.core.slots() if slot.state in (ACQUIRED, IDLE)]
        if slots:
            slot = slots[which % len(slots)]
            visit = self._using.get(slot)
            self._discard(slot, "lost")
            if visit is not None:
                self._leave(visit)

    def _discard(self, slot: Any, reason: str) -> None:
        self._using.pop(slot, None)
        self.pool.discard(slot, reason)
        self._after(0.0, self._closed, slot)
        self._carry_out()

    # -- callers ---------------------------------------------------------------------------------

    def _come(self, visit: _Visit) -> None:
        visit.since = self.pool.now
        slot = self.pool.acquire(visit.caller.key)
        if slot is not None:
            self._use(visit, slot)
            return
        waiter = self.pool.request(visit.caller.key)
        self._waiting[waiter] = visit
        if visit.caller.patience < math.inf:
            self._after(visit.caller.patience, self._give_up, waiter)
        self._carry_out()

    def _take(self, waiter: Any) -> None:
        slot = self.pool.take(waiter)
        # Otherwise the connection has died, and the waiter is back in the line.
        if slot is not None:
            self._use(self._waiting.pop(waiter), slot)

    def _give_up(self, waiter: Any) -> None:
        # Otherwise it has been served.
        if self._waiting.pop(waiter, None) is not None:
            self.pool.give_up(waiter, timed_out=True)
            self._carry_out()
            slot = self.pool.core.decline(waiter)
            if slot is not None:
                self.pool.put_back(slot)
                self._carry_out()

    def _use(self, visit: _Visit, slot: Any) -> None:
        self._using[slot] = visit
        self.outcome.served = self.pool.now - self._start
        seconds = visit.caller.uses[len(visit.waits)]
        visit.waits.append(self.pool.now - visit.since)
        self._after(seconds, self._end_use, visit, slot)

    def _end_use(self, visit: _Visit, slot: Any) -> None:
        if self._using.get(slot) is not visit:
            # The connection has died.
            return
        if visit.caller.closes:
            self._discard(slot, "user")
        else:
            del self._using[slot]
            self.pool.release(slot)
            self._carry_out()
        self._leave(visit)

    def _leave(self, visit: _Visit) -> None:
        self.outcome.done = self.pool.now - self._start
        if len(visit.waits) < len(visit.caller.uses):
            self._come(visit)


class Watched(Simulation):
    """The same, with a watch on how long handshakes are deferred."""

    def __init__(self, core: ModuleType, policy: Policy, load: Load) -> None:
        super().__init__(core, policy, load)
        #: Seconds; and since when that of a waiter is.
        self.longest_deferral = 0.0
        self._deferred: dict[Any, float] = {}

    def _carry_out(self) -> None:
        super()._carry_out()
        now = self.pool.now
        self._deferred = {
            waiter: self._deferred.get(waiter, now) for waiter in self._waiting if waiter.deferred
        }
        waits = [now - since for since in self._deferred.values()]
        self.longest_deferral = max([self.longest_deferral, *waits])
