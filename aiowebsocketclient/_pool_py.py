"""The core of the pool in plain Python: the typed reference, and the fallback.

``_pool.pyx`` is the same core compiled.  The two are changed together: the tests run on both, and
drive them side by side with a model of them.

The core counts places, keeps free lists and waiter queues, and decides who gets what.  It is
synchronous, does no I/O and knows nothing of sessions, sockets and URLs.  Time comes in as an
argument (seconds of one monotonic clock); what is to be opened, closed or woken comes out as a
:class:`Plan`, to be carried out before anything else happens.

A place (:class:`Slot`) moves ``CONNECTING -> ACQUIRED <-> IDLE -> CLOSING -> GONE`` and counts
against the limits until it is gone.  Every path that frees a place ends in :meth:`Pool._freed`,
every connection that falls free in :meth:`Pool._hand_on`.
"""

import asyncio
import heapq
import math
import sys
import warnings
from asyncio.events import _get_running_loop
from collections import OrderedDict
from collections.abc import Container, Coroutine, Generator, Hashable, Iterator
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final, NoReturn, Self

__all__ = (
    "ACQUIRED",
    "CLOSE_REASONS",
    "CLOSING",
    "CONNECTING",
    "COUNTERS",
    "DONE",
    "FIRST_PATIENCE",
    "GAUGES",
    "GONE",
    "IDLE",
    "LATE_FACTOR",
    "LATE_FLOOR",
    "MAX_PASSED_OVER",
    "ORPHAN_GRACE",
    "Acquisition",
    "Caller",
    "Completion",
    "Express",
    "Handle",
    "Parkable",
    "Plan",
    "Pool",
    "Route",
    "SessionBase",
    "Slot",
    "Waiter",
    "clock",
    "ensure_room",
)

IMPLEMENTATION: Final = "py"

#: The states of a slot.
CONNECTING: Final = 0
ACQUIRED: Final = 1
IDLE: Final = 2
CLOSING: Final = 3
GONE: Final = 4

#: Why a connection was closed; ``discard`` takes the index of one of these.
CLOSE_REASONS: Final = (
    "idle",
    "lifetime",
    "lost",
    "dirty",
    "evicted",
    "forced",
    "failed",
    "cancelled",
    "user",
)
_IDLE: Final = 0
_LIFETIME: Final = 1
_LOST: Final = 2
_EVICTED: Final = 4
_FORCED: Final = 5

GAUGES: Final = ("connecting", "acquired", "idle", "closing", "waiting", "endpoints")
COUNTERS: Final = (
    "requests",
    "reused",
    "queued",
    "wait_seconds",
    "timeouts",
    "rejected",
    "connects",
    "connect_errors",
    "connect_seconds",
    "released",
    "detached",
    *(f"closed_{reason}" for reason in CLOSE_REASONS),
)

#: How often the oldest waiter that could use a place is passed over by a younger one of the
#: released connection's own handshake, before that connection gives way.
MAX_PASSED_OVER: Final = 16
#: Seconds that a handshake nobody waits for any more is let run on.
ORPHAN_GRACE: Final = 5.0

#: A handshake is late when it takes so many times as long as is usual at its endpoint, but not
#: before so many seconds; late ones are looked for no more often than that.
LATE_FACTOR: Final = 4.0
LATE_FLOOR: Final = 0.5
#: Seconds after which a handshake is late where none has succeeded yet.  Doubled by each late one.
FIRST_PATIENCE: Final = 5.0
# How much a handshake counts for what is usual, where it took less than that.
_NEWEST_SHARE: Final = 0.125

# Who profits from a connection that gives way: nobody in particular, a waiter that stands at its
# endpoint's limit, or one that stands at the limit over all endpoints.
_FOR_NOBODY: Final = 0
_FOR_LIMIT: Final = 1
_FOR_TOTAL: Final = 2
# Not a place is wanted but fewer idle connections.
_FOR_BOUND: Final = 3


class Node:
    """What stands in up to two lists at once: one of its handshake, one of its endpoint."""

    __slots__ = ("inner_next", "inner_prev", "outer_next", "outer_prev")

    def __init__(self) -> None:
        self.inner_prev: Any = None
        self.inner_next: Any = None
        self.outer_prev: Any = None
        self.outer_next: Any = None


class InnerList:
    """A doubly linked list through the ``inner`` links."""

    __slots__ = ("head", "size", "tail")

    def __init__(self) -> None:
        self.head: Any = None
        self.tail: Any = None
        self.size = 0

    def append(self, node: Any) -> None:
        tail = self.tail
        node.inner_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.inner_next = node
        self.tail = node
        self.size += 1

    def remove(self, node: Any) -> None:
        before, after = node.inner_prev, node.inner_next
        if before is None:
            self.head = after
        else:
            before.inner_next = after
            node.inner_prev = None
        if after is None:
            self.tail = before
        else:
            after.inner_prev = before
            node.inner_next = None
        self.size -= 1

    def insert_by_ticket(self, waiter: Any) -> None:
        """Keep the order of arrival; nearly every waiter belongs at one of the two ends."""
        tail = self.tail
        if tail is None or tail.ticket < waiter.ticket:
            self.append(waiter)
            return
        after = self.head
        while after.ticket < waiter.ticket:
            after = after.inner_next
        before = after.inner_prev
        waiter.inner_prev, waiter.inner_next = before, after
        after.inner_prev = waiter
        if before is None:
            self.head = waiter
        else:
            before.inner_next = waiter
        self.size += 1


class Stack:
    """A stack through the ``inner`` links, of which any can be taken out."""

    __slots__ = ("top",)

    def __init__(self) -> None:
        self.top: Any = None

    def push(self, node: Any) -> None:
        below = self.top
        if below is not None:
            node.inner_prev = below
            below.inner_next = node
        self.top = node

    def pop(self, top: Any) -> None:
        below = top.inner_prev
        self.top = below
        if below is not None:
            top.inner_prev = below.inner_next = None

    def remove(self, node: Any) -> None:
        below, above = node.inner_prev, node.inner_next
        if below is not None:
            below.inner_next = above
            node.inner_prev = None
        if above is None:
            self.top = below
        else:
            above.inner_prev = below
            node.inner_next = None


class OuterList:
    """A doubly linked list through the ``outer`` links."""

    __slots__ = ("head", "size", "tail")

    def __init__(self) -> None:
        self.head: Any = None
        self.tail: Any = None
        self.size = 0

    def append(self, node: Any) -> None:
        tail = self.tail
        node.outer_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.outer_next = node
        self.tail = node
        self.size += 1

    def remove(self, node: Any) -> None:
        before, after = node.outer_prev, node.outer_next
        if before is None:
            self.head = after
        else:
            before.outer_next = after
            node.outer_prev = None
        if after is None:
            self.tail = before
        else:
            after.outer_prev = before
            node.outer_next = None
        self.size -= 1

    def insert_returned(self, waiter: Any) -> None:
        """Put a waiter that lost what it had at the head of the line.

        Only others that came back likewise, and had arrived before it, stay in front: their number
        does not grow with the line.
        """
        after = self.head
        while after is not None and after.returned and after.ticket < waiter.ticket:
            after = after.outer_next
        if after is None:
            self.append(waiter)
            return
        before = after.outer_prev
        waiter.outer_prev, waiter.outer_next = before, after
        after.outer_prev = waiter
        if before is None:
            self.head = waiter
        else:
            before.outer_next = waiter
        self.size += 1


class Slot(Node):
    """A place in the pool and, once it is connected, the connection in it."""

    __slots__ = (
        "began",
        "begun_for",
        "born",
        "conn",
        "cools",
        "doubted",
        "drained",
        "expires",
        "giving",
        "handshake",
        "kept",
        "late",
        "owner",
        "reason",
        "retires",
        "since",
        "state",
        "task",
        "uses",
        "waiter",
    )

    def __init__(self, handshake: "Handshake", now: float) -> None:
        super().__init__()
        self.handshake = handshake
        self.state = CONNECTING
        #: The caller's own: the connection, and the task that opens it.  The core never looks.
        self.conn: Any = None
        self.task: Any = None
        #: The waiter that this handshake belongs to, while it is under way.
        self.owner: Waiter | None = None
        #: The ticket of the waiter that it was begun for; -1: of none.
        self.begun_for = -1
        #: The waiter that was given the connection and has not woken yet.
        self.waiter: Waiter | None = None
        #: When it got its place, and since when it is idle, an orphan, doubted, or cools down.
        self.born = now
        self.since = now
        #: When its handshake began, before which it cannot be late: see :meth:`Pool.begin`.
        self.began = math.inf
        #: A handshake that is not counted on any more: who it was begun for has given it up, or it
        #: is late.
        self.doubted = False
        self.late = False
        #: When it may not be handed out again, whatever its use; since ever, once it is drained.
        self.retires = math.inf
        #: The same, and not longer than ``max_idle`` from the last release.
        self.expires = math.inf
        self.uses = 0
        #: An orphan that somebody wants all the same: it is not stopped for want of a waiter.
        self.kept = False
        #: Whether it was in use, or being opened, when all of its kind were drained.
        self.drained = False
        #: For which of ``CLOSE_REASONS`` it is closing.
        self.reason = -1
        self.giving = _FOR_NOBODY
        #: Whether its place stays taken for ``cooldown`` once its socket is gone.  The caller may
        #: say so of what is not connected yet, while something else than the handshake runs on it.
        self.cools = False

    @property
    def crowded_out(self) -> bool:
        """Whether it was closed since too many connections were idle."""
        return self.giving == _FOR_BOUND

    @property
    def key(self) -> Hashable:
        return self.handshake.key

    @property
    def endpoint(self) -> Hashable:
        return self.handshake.endpoint.key


class Waiter(Node):
    """A caller that found nothing idle."""

    __slots__ = (
        "handshake",
        "hedges",
        "may_wait",
        "opening",
        "passed",
        "queued",
        "returned",
        "since",
        "slot",
        "ticket",
        "token",
    )

    def __init__(self, handshake: "Handshake", token: Any, ticket: int, now: float) -> None:
        super().__init__()
        self.handshake = handshake
        #: The caller's own; the core never looks.
        self.token = token
        self.ticket = ticket
        self.since = now
        #: The handshake under way that belongs to it; without one it waits for a place.
        self.opening: Slot | None = None
        #: The connection given to it and not yet taken.
        self.slot: Slot | None = None
        self.queued = False
        self.returned = False
        #: Whether it goes back into the line if what it was given dies and nothing idle is left.
        self.may_wait = True
        self.passed = 0
        #: How many of its own handshakes were late, so that it has had another.
        self.hedges = 0


class Plan:
    """What is to be done, in this order, before anything else happens to the pool."""

    __slots__ = ("_closing", "_opened", "_woken")

    def __init__(self) -> None:
        # Most are empty, or wake one waiter.
        self._opened: list[Slot] | None = None
        self._closing: list[Slot] | None = None
        self._woken: list[Waiter] | None = None

    @property
    def opened(self) -> list[Slot]:
        """Slots whose connection is to be opened; each has an owner."""
        if self._opened is None:
            self._opened = []
        return self._opened

    @property
    def closing(self) -> list[Slot]:
        """Slots to be closed: the handshake stopped, or the connection closed."""
        if self._closing is None:
            self._closing = []
        return self._closing

    @property
    def woken(self) -> list[Waiter]:
        """Waiters that were given a connection."""
        if self._woken is None:
            self._woken = []
        return self._woken

    def open(self, slot: Slot) -> None:
        if self._opened is None:
            self._opened = []
        self._opened.append(slot)

    def close(self, slot: Slot) -> None:
        if self._closing is None:
            self._closing = []
        self._closing.append(slot)

    def wake(self, waiter: Waiter) -> None:
        if self._woken is None:
            self._woken = []
        self._woken.append(waiter)

    def is_empty(self) -> bool:
        return not (self._opened or self._closing or self._woken)

    def is_to_wake_only(self) -> bool:
        return not (self._opened or self._closing)


class Handshake:
    """Connections and callers of one handshake at one endpoint."""

    __slots__ = (
        "doubted",
        "doubts",
        "dropped",
        "endpoint",
        "idle",
        "key",
        "live",
        "opening",
        "orphans",
        "placeless",
    )

    def __init__(self, endpoint: "Endpoint", key: Hashable) -> None:
        self.endpoint = endpoint
        self.key = key
        #: Whether another record stands for the key by now, or none.
        self.dropped = False
        #: Free connections; the last one in is the first one out, so that surplus ones age.
        self.idle = Stack()
        #: Waiters without a handshake of their own, and those with one, each in order of arrival.
        self.placeless = InnerList()
        self.opening = InnerList()
        #: Handshakes under way that belong to nobody: those that are counted on, and those that
        #: were given up and are not late, on which a caller leans only where there is no room.
        self.orphans: OrderedDict[Slot, None] = OrderedDict()
        self.doubted: OrderedDict[Slot, None] = OrderedDict()
        #: How many handshakes under way are doubted, whoever leans on them.
        self.doubts = 0
        #: Slots that are not closing, and waiters: the record is dropped with the last of them.
        self.live = 0

    def first_waiter(self) -> Waiter | None:
        placeless: Waiter | None = self.placeless.head
        opening: Waiter | None = self.opening.head
        if placeless is None:
            return opening
        if opening is None or placeless.ticket < opening.ticket:
            return placeless
        return opening


class Endpoint:
    """One ``(host, port, is_ssl)`` with what counts against its limit."""

    __slots__ = (
        "acquired",
        "claim",
        "closed",
        "closing",
        "connect_errors",
        "connect_seconds",
        "connecting",
        "connects",
        "count",
        "detached",
        "failure",
        "giving",
        "handshakes",
        "hits",
        "idle",
        "in_idle_heap",
        "indexed",
        "key",
        "leaning",
        "orphans",
        "patience",
        "queued",
        "rejected",
        "released",
        "requests",
        "reused",
        "serial",
        "timeouts",
        "under_way",
        "usual",
        "wait_seconds",
        "waiting",
    )

    def __init__(self, key: Hashable, serial: int) -> None:
        self.key = key
        self.serial = serial
        self.handshakes = 0
        self.count = 0
        self.connecting = 0
        self.acquired = 0
        self.closing = 0
        #: Closing ones that make room for a waiter which stands at this endpoint's limit.
        self.giving = 0
        #: Handshakes under way, the oldest first, and what is known of the last that failed.
        self.under_way = OuterList()
        self.failure: Any = None
        #: Idle connections, the longest idle first.
        self.idle = OuterList()
        #: Waiters without a place, in order of arrival.
        self.waiting = OuterList()
        #: Waiters whose handshake is doubted, for want of room for one of their own.
        self.leaning = OuterList()
        #: Handshakes under way that belong to nobody, those first that are to give way first.
        self.orphans: OrderedDict[Slot, None] = OrderedDict()
        #: Seconds that handshakes have taken lately, -1 before the first; until then, those after
        #: which one is late.
        self.usual = -1.0
        self.patience = FIRST_PATIENCE
        #: How many more places it could use if there were room over all endpoints.
        self.claim = 0
        #: The ticket under which it stands in the pool's queue for such room; -1: not at all.
        self.indexed = -1
        self.in_idle_heap = False
        self.hits = 0
        self.requests = 0
        self.reused = 0
        self.queued = 0
        self.wait_seconds = 0.0
        self.timeouts = 0
        self.rejected = 0
        self.connects = 0
        self.connect_errors = 0
        self.connect_seconds = 0.0
        self.released = 0
        self.detached = 0
        self.closed = [0] * len(CLOSE_REASONS)

    def counters(self) -> tuple[float, ...]:
        """Return them in the order of ``COUNTERS``."""
        # A hit, with which a connection is reused, is counted once, in one number.
        return (
            self.requests + self.hits,
            self.reused + self.hits,
            self.queued,
            self.wait_seconds,
            self.timeouts,
            self.rejected,
            self.connects,
            self.connect_errors,
            self.connect_seconds,
            self.released,
            self.detached,
            *self.closed,
        )

    def gauges(self) -> tuple[int, ...]:
        """Return them in the order of ``GAUGES``."""
        idle = self.idle.size
        return (self.connecting, self.acquired, idle, self.closing, self.waiting.size, 1)


class Route:
    """Where calls of one handshake go in one pool."""

    __slots__ = ("endpoint", "handshake", "is_checked", "is_direct", "key")

    def __init__(
        self,
        endpoint: Hashable,
        key: Hashable,
        is_direct: bool = True,
        is_checked: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.key = key
        #: Whether an idle connection goes out and comes back without anything done to it.
        self.is_direct = is_direct
        #: Whether something is done to it before it goes out.
        self.is_checked = is_checked
        #: The record of the last call, so that the next need not look for it.
        self.handshake: Handshake | None = None

    def record(self) -> Handshake | None:
        """Return the record that stands for the key, as far as is known."""
        handshake = self.handshake
        return None if handshake is None or handshake.dropped else handshake


def _cools_after(reason: int, is_used: bool) -> bool:
    """Whether a server may still be at work for what is closed for this reason."""
    if reason == _LOST:
        # What was not in use has ended for the server, too.
        return is_used
    return reason not in (_IDLE, _LIFETIME, _EVICTED, _FORCED)


def _first_to_go(orphans: "OrderedDict[Slot, None]") -> Slot | None:
    """Return the first of these handshakes that may serve nobody who is about to have a place.

    Where a server is slow, each caller would have the handshake stopped that the last one gave up.
    """
    for slot in orphans:
        head = slot.handshake.endpoint.waiting.head
        if not slot.doubted or slot.late or head is None or head.handshake is not slot.handshake:
            return slot
    return None


def _oldest_leaning(endpoint: Endpoint) -> int:
    """Return the ticket of the first waiter that leans on a doubted handshake there."""
    waiter: Waiter = endpoint.leaning.head
    return waiter.ticket


class Pool:
    """Places, free lists and queues of any number of endpoints.

    ``limit``, ``limit_total`` and ``max_connecting`` are numbers of places, 0 for no limit;
    ``max_waiting`` is a number of waiters, -1 for no limit; ``max_idle`` is in seconds;
    ``max_idle_connections`` is a number of idle connections over all endpoints, 0 for no bound;
    ``cooldown`` is in seconds.

    Keys are any hashable objects; a handshake's key must determine its endpoint's.
    """

    __slots__ = (
        "_claims",
        "_closing",
        "_cooldown",
        "_cooling",
        "_count",
        "_endpoints",
        "_fading",
        "_giving",
        "_handshakes",
        "_idle",
        "_idle_heap",
        "_leaning",
        "_limit",
        "_limit_total",
        "_lowered",
        "_max_connecting",
        "_max_idle",
        "_max_idle_connections",
        "_max_waiting",
        "_next_look",
        "_orphans",
        "_past",
        "_place_heap",
        "_retiring",
        "_serial",
        "_slots",
        "_ticket",
        "_waiters",
        "_watched",
    )

    def __init__(
        self,
        *,
        limit: int = 0,
        limit_total: int = 0,
        max_connecting: int = 0,
        max_waiting: int = -1,
        max_idle: float = math.inf,
        max_idle_connections: int = 0,
        cooldown: float = 0.0,
    ) -> None:
        self._limit = limit
        self._limit_total = limit_total
        self._max_connecting = max_connecting
        self._max_waiting = max_waiting
        self._max_idle = max_idle
        self._max_idle_connections = max_idle_connections or sys.maxsize
        self._cooldown = cooldown
        self._endpoints: dict[Hashable, Endpoint] = {}
        self._handshakes: dict[Hashable, Handshake] = {}
        #: Every slot that is not gone.
        self._slots: dict[Slot, None] = {}
        self._count = 0
        self._idle = 0
        self._closing = 0
        self._waiters = 0
        # Whether any connection has a limited lifetime.
        self._retiring = False
        # Whether a limit was lowered to less than is open; from then on more may be than it allows.
        self._lowered = False
        self._ticket = 0
        self._serial = 0
        # Under limit_total: places wanted, and places being cleared for those who want them.
        self._claims = 0
        self._giving = 0
        # Endpoints whose oldest waiter lacks only room over all endpoints: (ticket, ., endpoint).
        self._place_heap: list[tuple[int, int, Endpoint]] = []
        # Endpoints with idle connections: (not after the longest idle one's since, ., endpoint).
        self._idle_heap: list[tuple[float, int, Endpoint]] = []
        self._orphans: OrderedDict[Slot, None] = OrderedDict()
        # Those of them that are not kept, in the order in which they are to be stopped.
        self._fading: OrderedDict[Slot, None] = OrderedDict()
        # Endpoints with waiters that lean on doubted handshakes.
        self._leaning: dict[Endpoint, None] = {}
        # Handshakes that have begun and are not late, in this order; when to look for late ones.
        self._watched: OrderedDict[Slot, None] = OrderedDict()
        self._next_look = -math.inf
        # Closing slots whose sockets are gone and whose places are taken for cooldown, in the order
        # in which they are to be set free: all stay for equally long.
        self._cooling: OrderedDict[Slot, None] = OrderedDict()
        # Counters of endpoints that are gone, and the serial of the last one that they have.
        self._past: tuple[tuple[float, ...], int] = ((0,) * len(COUNTERS), 0)

    # -- the two operations of the hot path ------------------------------------------------------

    def acquire(self, key: Hashable, now: float, handshake: Handshake | None = None) -> Slot | None:
        """Take an idle connection of the handshake ``key``, if there is a fresh one on top.

        ``handshake``, if it is known, is the record of that, which then need not be looked up; it
        must not be dropped.
        """
        if handshake is None:
            handshake = self._handshakes.get(key)
            if handshake is None:
                return None
        slot: Slot | None = handshake.idle.top
        if slot is None or slot.expires <= now:
            return None
        endpoint = handshake.endpoint
        handshake.idle.pop(slot)
        endpoint.idle.remove(slot)
        self._idle -= 1
        endpoint.acquired += 1
        slot.state = ACQUIRED
        slot.uses += 1
        # One addition for each: another thread may read the counters between any two lines.
        if slot.uses == 1:
            # Opened for nobody, and used for the first time: a request, but no reuse.
            endpoint.requests += 1
        else:
            endpoint.hits += 1
        return slot

    def find(self, key: Hashable) -> Handshake | None:
        """Return the record of the handshake ``key``, if there is anything alive of it."""
        return self._handshakes.get(key)

    def release(self, slot: Slot, now: float) -> Plan | None:
        """Give an acquired connection back; it must be fit for another's use."""
        if slot.state != ACQUIRED:
            raise ValueError("only an acquired slot can be released")
        if slot.waiter is not None:
            raise ValueError("a slot that was given must be taken before it can be released")
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.released += 1
        if (
            self._waiters == 0
            and now < slot.retires
            and self._idle < self._max_idle_connections
            and not (self._lowered and self._is_surplus(endpoint))
        ):
            self._park(slot, handshake, endpoint, now)
            return None
        plan = Plan()
        self._hand_on(slot, plan, now)
        return plan

    def only_parks(self, slot: Slot, now: float) -> bool:
        """Whether :meth:`release` is sure to have nothing to do but to park the connection."""
        return not (
            self._waiters
            or slot.retires <= now
            or self._lowered
            or self._idle >= self._max_idle_connections
        )

    # -- callers that found nothing idle ---------------------------------------------------------

    def request(
        self,
        endpoint_key: Hashable,
        key: Hashable,
        token: Any,
        now: float,
        may_wait: bool = True,
        handshake: Handshake | None = None,
    ) -> tuple[Waiter | None, Plan]:
        """Queue a caller.

        The waiter that comes back may hold a connection already: see :meth:`take`.  ``None`` in its
        place: the line at this endpoint is full, or it would have to wait and may not.
        ``handshake`` is as for :meth:`acquire`.
        """
        if handshake is None:
            handshake = self._handshake(endpoint_key, key)
        plan = Plan()
        self._close_stale(handshake, plan, now)
        if handshake.dropped:
            # It had nothing but what was stale.
            handshake = self._handshake(endpoint_key, key)
        endpoint = handshake.endpoint
        endpoint.requests += 1
        waiter = Waiter(handshake, token, self._ticket, now)
        waiter.may_wait = may_wait
        self._ticket += 1
        slot: Slot | None = handshake.idle.top
        if slot is not None:
            self._unpark(slot)
            self._give(slot, waiter)
        elif not may_wait:
            endpoint.timeouts += 1
            self._drop_dead(handshake)
            return None, plan
        elif self._is_full(handshake):
            endpoint.rejected += 1
            self._drop_dead(handshake)
            return None, plan
        else:
            endpoint.queued += 1
            self._line_up(waiter, now)
            self._settle(endpoint, plan, now)
        return waiter, plan

    def take(self, waiter: Waiter) -> Slot | None:
        """Return the connection given to a waiter, which is now its own to release or discard.

        ``None``: it has none, or what it was given has died since; then it is back at the head of
        its line, unless it may not wait.
        """
        slot = self.decline(waiter)
        if slot is not None and slot.uses > 1:
            slot.handshake.endpoint.reused += 1
        return slot

    def decline(self, waiter: Waiter) -> Slot | None:
        """Do the same for a waiter that will not use it: nothing is counted as reused."""
        slot = waiter.slot
        if slot is not None:
            waiter.slot = None
            slot.waiter = None
        return slot

    def give_up(self, waiter: Waiter, now: float, timed_out: bool) -> Plan | None:
        """Take a waiter out of the line; what it was given already, :meth:`take` returns.

        ``timed_out`` counts a timeout, unless it has had its connection.
        """
        handshake = waiter.handshake
        if timed_out and (waiter.queued or waiter.slot is not None):
            handshake.endpoint.timeouts += 1
        if not waiter.queued:
            return None
        plan = Plan()
        self._leave(waiter, plan, now, gave_up=True)
        self._settle(handshake.endpoint, plan, now)
        self._drop_dead(handshake)
        return plan

    # -- handshakes ------------------------------------------------------------------------------

    def open(self, endpoint_key: Hashable, key: Hashable, now: float) -> Slot | None:
        """Return a place for a handshake that no caller waits for; ``None``: there is no room.

        There is none either where its connection, once open, would be one idle connection too many.
        A caller that comes meanwhile takes it over.  It gives way to one that needs the place, but
        is not stopped for want of a waiter until :meth:`abandon`.
        """
        handshake = self._handshake(endpoint_key, key)
        endpoint = handshake.endpoint
        if (
            0 < self._max_connecting <= endpoint.connecting
            or not self._has_room(endpoint)
            or self._idle + len(self._orphans) >= self._max_idle_connections
        ):
            self._drop_dead(handshake)
            return None
        slot = self._new_slot(handshake, now)
        slot.kept = True
        self._orphan(slot, now)
        return slot

    def abandon(self, slot: Slot, now: float) -> None:
        """Say that nobody wants what :meth:`open` returned any more."""
        if slot.kept and slot in self._orphans:
            if slot.began <= now:
                self._adopt(slot)
                self._doubt(slot, now)
                self._orphan(slot, now)
            else:
                slot.since = now
                self._fading[slot] = None
        slot.kept = False

    def begin(self, slot: Slot, now: float) -> None:
        """Tell that the handshake in ``slot`` is under way; from now on it can be late.

        One that still waits for something else, such as a limit of connects a minute, is not.
        """
        if slot.state == CONNECTING and slot.began == math.inf:
            slot.began = now
            self._watched[slot] = None

    def connected(
        self,
        slot: Slot,
        now: float,
        retires: float = math.inf,
        key: Hashable = None,
        moves: bool = True,
    ) -> Plan:
        """Tell that a handshake succeeded.

        ``retires`` is when the connection may not be handed out again.  ``key`` is the handshake
        that it answers to from now on, where this is not the one it was opened for.  With
        ``moves``, callers that wait for a place move along, since theirs would turn out the same.
        Without, it is for the caller that it was begun for; a caller that has taken it over goes
        back to the line.
        """
        plan = Plan()
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.connects += 1
        endpoint.connect_seconds += now - slot.born
        owner = slot.owner
        first = handshake.first_waiter()
        is_another = key is not None and key != handshake.key
        theirs = None if first is None or first is owner else first.opening
        # (Who owns this one may have come after theirs was drained.)
        if not is_another and owner and first and theirs and not theirs.drained:
            # First come, first served: they change handshakes, and the owner keeps its place.
            self._disown(owner, slot)
            self._disown(first, theirs)
            self._own(owner, theirs)
            self._own(first, slot)
            owner = first
        if slot.began <= now:
            self._learn(endpoint, now - slot.began)
        self._stop_connecting(slot)
        slot.state = ACQUIRED
        slot.cools = False
        endpoint.acquired += 1
        if not slot.drained:
            slot.retires = retires
        if retires != math.inf:
            self._retiring = True
        if is_another:
            self._rekey(slot, key, owner, moves, plan, now)
            is_owners = owner is not None and owner.queued and owner.handshake is slot.handshake
            first = owner if is_owners else None
        else:
            first = handshake.first_waiter()
        if first is not None:
            # Never a question of passing over: it was opened for one of these.
            self._serve(first, slot, plan, now)
        # Its owner may be back in the line.
        self._give_orphans(handshake)
        if first is not None:
            self._settle(endpoint, plan, now)
        else:
            self._hand_on(slot, plan, now)
        self._drop_dead(handshake)
        return plan

    def connect_failed(
        self, slot: Slot, now: float, failure: Any = None
    ) -> tuple[Waiter | None, Plan]:
        """Tell that a handshake failed; returns the waiter that fails with it, if it has one.

        ``failure`` is what :meth:`situation` tells of it; the core never looks.
        """
        plan = Plan()
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.connect_errors += 1
        endpoint.failure = failure
        endpoint.connect_seconds += now - slot.born
        owner = slot.owner
        self._stop_connecting(slot)
        if owner is not None:
            self._leave(owner, plan, now)
        handshake.live -= 1
        if slot.cools and self._cooldown > 0:
            # It was open, and a reply to what was sent over it may be on its way.
            slot.state = CLOSING
            endpoint.closing += 1
            self._closing += 1
            self._cool_down(slot, now)
        else:
            self._freed(slot)
        self._settle(endpoint, plan, now)
        self._drop_dead(handshake)
        return owner, plan

    # -- limits ----------------------------------------------------------------------------------

    def resize(self, limit: int, limit_total: int, now: float) -> Plan:
        """Set new limits, 0 for none.

        Where they leave room, it goes to who waits.  What is too much is closed, handshakes that
        belong to nobody first, then the longest idle connections; never what is in use or opened
        for a waiter, which is closed when it falls free.
        """
        plan = Plan()
        self._limit = limit
        self._limit_total = limit_total
        self._lowered = True
        # Who wants room over all endpoints is known only while that is limited.
        self._claims = 0
        self._place_heap.clear()
        endpoints = list(self._endpoints.values())
        for endpoint in endpoints:
            endpoint.claim = 0
            endpoint.indexed = -1
        for endpoint in endpoints:
            self._trim_to_limit(endpoint, plan)
            self._index(endpoint)
        for endpoint in endpoints:
            self._settle(endpoint, plan, now)
        lowered = False
        for endpoint in endpoints:
            lowered = lowered or self._is_surplus(endpoint)
        self._lowered = lowered
        return plan

    # -- retiring --------------------------------------------------------------------------------

    def drain(self, keys: Container[Hashable] | None) -> Plan:
        """Close what is idle of these handshakes (``None``: of all), and the rest as it falls free.

        Whoever comes from now on gets nothing that was begun before.
        """
        plan = Plan()
        for slot in list(self._slots):
            if slot.state == CLOSING or (keys is not None and slot.handshake.key not in keys):
                continue
            if slot.state == IDLE:
                self._close_idle(slot, _FORCED, plan)
                continue
            slot.drained = True
            slot.retires = -math.inf
            if slot.state == CONNECTING and slot.owner is None:
                self._give_way(slot, _FOR_NOBODY, plan)
        return plan

    def retire(self, slot: Slot) -> Plan:
        """Close the other idle connections of its handshake that are as old, or older."""
        plan = Plan()
        other: Slot | None = slot.handshake.idle.top
        while other is not None:
            below: Slot | None = other.inner_prev
            if other is not slot and other.born <= slot.born:
                self._close_idle(other, _FORCED, plan)
            other = below
        return plan

    def evict(self, count: int) -> Plan:
        """Close up to ``count`` idle connections, the longest idle of all endpoints first."""
        plan = Plan()
        while count > 0 and self._evict_longest_idle(plan):
            count -= 1
        return plan

    def detach(self, slot: Slot, now: float) -> Plan | None:
        """Let an acquired connection go out of the pool for good; its place is free at once."""
        if slot.state != ACQUIRED or slot.waiter is not None:
            raise ValueError("only an acquired slot can be detached")
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.acquired -= 1
        endpoint.detached += 1
        handshake.live -= 1
        self._freed(slot)
        plan: Plan | None = None
        if self._waiters:
            plan = Plan()
            self._settle(endpoint, plan, now)
        self._drop_dead(handshake)
        return plan

    # -- setting aside ---------------------------------------------------------------------------

    def idle_beside(self, slot: Slot) -> list[Slot]:
        """Return the idle connections of the endpoint of ``slot``, the longest idle first."""
        found: list[Slot] = []
        other: Slot | None = slot.handshake.endpoint.idle.head
        while other is not None:
            found.append(other)
            other = other.outer_next
        return found

    def set_aside(self, slot: Slot) -> None:
        """Take an idle connection that nobody asked for, until :meth:`put_back` or a discard."""
        if slot.state != IDLE:
            raise ValueError("only an idle slot can be set aside")
        self._unpark(slot)

    def put_back(self, slot: Slot, now: float) -> Plan:
        """Give a connection that was set aside to who waits for one, or let it be idle again."""
        if slot.state != ACQUIRED or slot.waiter is not None:
            raise ValueError("only an acquired slot can be put back")
        plan = Plan()
        self._hand_on(slot, plan, now)
        return plan

    # -- connections that end --------------------------------------------------------------------

    def discard(self, slot: Slot, reason: int, now: float) -> Plan | None:
        """Tell that a connection is being closed; its place is kept until :meth:`closed`.

        A waiter that was given it and has not woken gets another idle one, or goes back to the head
        of its line; one that may not wait has timed out.

        The place cools down if the connection was in use, or has sent what nobody asked for; not
        if it was released and is fit for another's use, but is not pooled.
        """
        is_used = slot.state == ACQUIRED and slot.waiter is None
        if slot.state == IDLE:
            self._unpark(slot)
        elif slot.state != ACQUIRED:
            return None
        slot.cools = _cools_after(reason, is_used)
        plan: Plan | None = None
        waiter = self._take_back(slot)
        handshake = slot.handshake
        self._start_closing(slot, reason)
        if waiter is not None:
            plan = Plan()
            self._come_back(waiter, plan, now)
        self._drop_dead(handshake)
        return plan

    def closed(self, slot: Slot, now: float) -> Plan | None:
        """Tell that a closing connection's socket, or a stopped handshake's, is gone."""
        if slot.state != CLOSING:
            return None
        if slot.cools and self._cooldown > 0:
            if slot in self._cooling:
                return None
            self._cool_down(slot, now)
            # From now on there is something to expire.
            return Plan()
        plan = Plan() if self._waiters else None
        self._end_closing(slot, plan, now)
        return plan

    def postpone_look(self, now: float) -> None:
        """Look for late handshakes later: the machine is busy, and each takes longer than usual."""
        self._next_look = now + LATE_FLOOR

    def expire(self, now: float) -> Plan:
        """Close what has been idle, or has lived, too long, and handshakes nobody waits for.

        Places that have cooled down are free.
        """
        plan = Plan()
        slot = self._longest_idle()
        while slot is not None and slot.since + self._max_idle <= now:
            self._close_idle(slot, _IDLE, plan)
            slot = self._longest_idle()
        if self._retiring:
            for endpoint in list(self._endpoints.values()):
                slot = endpoint.idle.head
                while slot is not None:
                    after: Slot | None = slot.outer_next
                    if slot.retires <= now:
                        self._close_idle(slot, _LIFETIME, plan)
                    slot = after
        while self._fading:
            orphan = next(iter(self._fading))
            if orphan.since + ORPHAN_GRACE > now:
                break
            leaning = orphan.owner
            self._give_way(orphan, _FOR_NOBODY, plan)
            if leaning is not None:
                self._give_orphans(leaning.handshake)
                self._settle(leaning.handshake.endpoint, plan, now)
        if self._watched and self._look_deadline() <= now:
            self._look(plan, now)
        while self._cooling:
            cooled = next(iter(self._cooling))
            if cooled.since + self._cooldown > now:
                break
            del self._cooling[cooled]
            self._end_closing(cooled, plan, now)
        return plan

    def next_deadline(self) -> float:
        """Return when :meth:`expire` next has something to do (lifetimes apart)."""
        slot = self._longest_idle()
        deadline = math.inf if slot is None else slot.since + self._max_idle
        if self._fading:
            orphan = next(iter(self._fading))
            deadline = min(deadline, orphan.since + ORPHAN_GRACE)
        if self._watched:
            deadline = min(deadline, self._look_deadline())
        if self._cooling:
            cooling = next(iter(self._cooling))
            deadline = min(deadline, cooling.since + self._cooldown)
        return deadline

    def shutdown(self, reason: int, now: float) -> tuple[list[Waiter], Plan]:
        """Empty the line and start closing everything; returns who waited, and what to close.

        No place cools down any more.
        """
        waiters: list[Waiter] = []
        plan = Plan()
        for handshake in list(self._handshakes.values()):
            while (waiter := handshake.first_waiter()) is not None:
                self._leave(waiter, plan, now)
                waiters.append(waiter)
            self._index(handshake.endpoint)
        for slot in list(self._slots):
            if slot.state == CONNECTING:
                self._give_way(slot, _FOR_NOBODY, plan)
            elif slot.state in (IDLE, ACQUIRED):
                if slot.state == IDLE:
                    self._unpark(slot)
                if (waiter := self._take_back(slot)) is not None:
                    waiters.append(waiter)
                self._start_closing(slot, reason)
                plan.close(slot)
                self._drop_dead(slot.handshake)
        for handshake in list(self._handshakes.values()):
            self._drop_dead(handshake)
        # What closes from now on makes room for nobody.
        self._cooldown = 0.0
        for slot in list(self._cooling):
            self._end_closing(slot, None, now)
        self._cooling.clear()
        return waiters, plan

    # -- what can be seen ------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of places that are taken."""
        return self._count

    def slots(self) -> list[Slot]:
        """Return every slot that is not gone."""
        return list(self._slots)

    def keys(self) -> list[Hashable]:
        """Return the handshakes with anything alive."""
        return list(self._handshakes)

    def open_count(self, key: Hashable) -> int:
        """Return how many connections of the handshake are open or being opened.

        Handshakes that are doubted do not count.
        """
        handshake = self._handshakes.get(key)
        if handshake is None:
            return 0
        waiters = handshake.placeless.size + handshake.opening.size
        return handshake.live - waiters - handshake.doubts

    def spare_count(self, key: Hashable, most: int) -> int:
        """Return how many connections of the handshake are idle or being opened for nobody.

        Handshakes that are doubted do not count.  What is idle is counted on the way, up to
        ``most``, as a number kept of it would be paid for by each use.
        """
        handshake = self._handshakes.get(key)
        if handshake is None:
            return 0
        spare = len(handshake.orphans)
        slot: Slot | None = handshake.idle.top
        while slot is not None and spare < most:
            spare += 1
            slot = slot.inner_prev
        return spare

    def gauges(self) -> tuple[int, ...]:
        """Return them over all endpoints, in the order of ``GAUGES``.

        This, :meth:`counters` and :meth:`by_endpoint` can be called in any thread.
        """
        totals = [0] * len(GAUGES)
        for endpoint in self._records()[1]:
            totals = [a + b for a, b in zip(totals, endpoint.gauges(), strict=True)]
        return tuple(totals)

    def counters(self) -> tuple[float, ...]:
        """Return them since the beginning, in the order of ``COUNTERS``; none ever falls."""
        totals, endpoints = self._records()
        for endpoint in endpoints:
            totals = tuple([a + b for a, b in zip(totals, endpoint.counters(), strict=True)])
        return totals

    def by_endpoint(self) -> dict[Hashable, tuple[tuple[int, ...], tuple[float, ...]]]:
        """Return the gauges and counters of each endpoint that has anything alive."""
        return {e.key: (e.gauges(), e.counters()) for e in self._records()[1]}

    def situation(
        self, endpoint_key: Hashable, now: float
    ) -> tuple[tuple[int, ...], str, float, Any]:
        """Return the gauges of an endpoint, what it is short of, and how its handshakes go.

        It is short of ``"limit"``, ``"limit_total"`` or ``"max_connecting"``; ``""``: of nothing.
        Then come the seconds since the oldest handshake under way got its place, -1 without one,
        and the ``failure`` of the last that failed.
        """
        endpoint = self._endpoints.get(endpoint_key)
        if endpoint is None:
            return (0,) * len(GAUGES), "limit_total" if self._is_at_total() else "", -1.0, None
        lacking = ""
        if self._is_at_limit(endpoint):
            lacking = "limit"
        elif self._is_at_total():
            lacking = "limit_total"
        elif self._is_connecting_full(endpoint):
            lacking = "max_connecting"
        oldest: Slot | None = endpoint.under_way.head
        age = -1.0 if oldest is None else now - oldest.born
        return endpoint.gauges(), lacking, age, endpoint.failure

    def _records(self) -> tuple[tuple[float, ...], list[Endpoint]]:
        """Return the counters of endpoints that are gone, and all others: no one twice, or missing.

        Another thread may ask at any point of :meth:`_drop_dead`, and be stopped at any here.  What
        is in the past already and not yet deleted is known by its serial.  An endpoint that goes
        later goes on to be read from its record, which nobody changes any more.
        """
        while True:
            past = self._past
            # One step, which no other thread comes between, as it would between those of a loop.
            endpoints = list(self._endpoints.values())
            if past is self._past:
                totals, last = past
                return totals, [e for e in endpoints if e.serial != last]

    def sizes(self) -> dict[str, int]:
        """Return how many records of each kind are held, for tests of what is kept."""
        return {
            "endpoints": len(self._endpoints),
            "handshakes": len(self._handshakes),
            "slots": len(self._slots),
            "waiters": self._waiters,
            "orphans": len(self._orphans),
            "watched": len(self._watched),
            "cooling": len(self._cooling),
            "leaning": len(self._leaning),
            "place_heap": len(self._place_heap),
            "idle_heap": len(self._idle_heap),
        }

    # -- records ---------------------------------------------------------------------------------

    def _handshake(self, endpoint_key: Hashable, key: Hashable) -> Handshake:
        handshake = self._handshakes.get(key)
        if handshake is None:
            endpoint = self._endpoints.get(endpoint_key)
            if endpoint is None:
                self._serial += 1
                endpoint = self._endpoints[endpoint_key] = Endpoint(endpoint_key, self._serial)
            endpoint.handshakes += 1
            handshake = self._handshakes[key] = Handshake(endpoint, key)
        return handshake

    def _drop_dead(self, handshake: Handshake) -> None:
        endpoint = handshake.endpoint
        if handshake.live == 0 and not handshake.dropped:
            handshake.dropped = True
            del self._handshakes[handshake.key]
            endpoint.handshakes -= 1
        if (
            endpoint.handshakes == 0
            and endpoint.count == 0
            and self._endpoints.get(endpoint.key) is endpoint
        ):
            past = zip(self._past[0], endpoint.counters(), strict=True)
            # In this order, and in one step each: see _records().
            self._past = (tuple([a + b for a, b in past]), endpoint.serial)
            del self._endpoints[endpoint.key]

    def _new_slot(self, handshake: Handshake, now: float) -> Slot:
        slot = Slot(handshake, now)
        self._slots[slot] = None
        handshake.live += 1
        handshake.endpoint.count += 1
        handshake.endpoint.connecting += 1
        handshake.endpoint.under_way.append(slot)
        self._count += 1
        return slot

    def _freed(self, slot: Slot) -> None:
        """Set a place free; nothing else does."""
        slot.state = GONE
        slot.handshake.endpoint.count -= 1
        self._count -= 1
        del self._slots[slot]

    # -- idle connections ------------------------------------------------------------------------

    def _park(self, slot: Slot, handshake: Handshake, endpoint: Endpoint, now: float) -> None:
        slot.state = IDLE
        slot.since = now
        expires = now + self._max_idle
        slot.expires = expires if expires < slot.retires else slot.retires
        endpoint.acquired -= 1
        self._idle += 1
        handshake.idle.push(slot)
        endpoint.idle.append(slot)
        if not endpoint.in_idle_heap:
            self._index_idle(endpoint, now)

    def _unpark(self, slot: Slot) -> None:
        handshake = slot.handshake
        endpoint = handshake.endpoint
        handshake.idle.remove(slot)
        endpoint.idle.remove(slot)
        self._idle -= 1
        endpoint.acquired += 1
        slot.state = ACQUIRED

    def _index_idle(self, endpoint: Endpoint, since: float) -> None:
        heap = self._idle_heap
        if len(heap) > 2 * len(self._endpoints) + 16:
            # Entries of endpoints that are gone would pile up where nothing ever expires.
            heap[:] = [entry for entry in heap if self._endpoints.get(entry[2].key) is entry[2]]
            heapq.heapify(heap)
        endpoint.in_idle_heap = True
        heapq.heappush(heap, (since, endpoint.serial, endpoint))

    def _longest_idle(self) -> Slot | None:
        # An endpoint's longest idle connection only ever gets younger, so an entry is a lower
        # bound, put right when it comes to the top.
        heap = self._idle_heap
        while heap:
            since, serial, endpoint = heap[0]
            slot: Slot | None = endpoint.idle.head
            if slot is None:
                heapq.heappop(heap)
                endpoint.in_idle_heap = False
            elif slot.since > since:
                heapq.heapreplace(heap, (slot.since, serial, endpoint))
            else:
                return slot
        return None

    def _evict_longest_idle(self, plan: Plan) -> bool:
        """Close what has been idle for longest; False: nothing is idle."""
        slot = self._longest_idle()
        if slot is None:
            return False
        slot.giving = _FOR_BOUND
        self._close_idle(slot, _EVICTED, plan)
        return True

    def _close_stale(self, handshake: Handshake, plan: Plan, now: float) -> None:
        while (slot := handshake.idle.top) is not None and slot.expires <= now:
            self._close_idle(slot, _LIFETIME if slot.retires <= now else _IDLE, plan)

    def _close_idle(self, slot: Slot, reason: int, plan: Plan) -> None:
        self._unpark(slot)
        self._start_closing(slot, reason)
        plan.close(slot)
        self._drop_dead(slot.handshake)

    def _start_closing(self, slot: Slot, reason: int) -> None:
        """From acquired to closing; what closes it is told by the caller."""
        handshake = slot.handshake
        endpoint = handshake.endpoint
        slot.state = CLOSING
        slot.reason = reason
        endpoint.acquired -= 1
        endpoint.closing += 1
        self._closing += 1
        endpoint.closed[reason] += 1
        handshake.live -= 1

    def _cool_down(self, slot: Slot, now: float) -> None:
        slot.since = now
        self._cooling[slot] = None

    def _end_closing(self, slot: Slot, plan: Plan | None, now: float) -> None:
        """Set the place of a closing slot free; ``plan`` may be None where nobody waits."""
        endpoint = slot.handshake.endpoint
        endpoint.closing -= 1
        self._closing -= 1
        if slot.giving == _FOR_LIMIT:
            endpoint.giving -= 1
        elif slot.giving == _FOR_TOTAL:
            self._giving -= 1
        self._freed(slot)
        if self._waiters:
            assert plan is not None
            self._settle(endpoint, plan, now)
        self._drop_dead(slot.handshake)

    # -- handshakes under way --------------------------------------------------------------------

    def _own(self, waiter: Waiter, slot: Slot) -> None:
        waiter.opening = slot
        slot.owner = waiter
        waiter.handshake.opening.insert_by_ticket(waiter)
        if slot.doubted:
            waiter.handshake.endpoint.leaning.append(waiter)
            self._leaning[waiter.handshake.endpoint] = None

    def _disown(self, waiter: Waiter, slot: Slot) -> None:
        waiter.opening = None
        slot.owner = None
        waiter.handshake.opening.remove(waiter)
        if slot.doubted:
            endpoint = waiter.handshake.endpoint
            endpoint.leaning.remove(waiter)
            if endpoint.leaning.head is None:
                del self._leaning[endpoint]

    def _orphan(self, slot: Slot, now: float) -> None:
        handshake = slot.handshake
        slot.owner = None
        handshake.endpoint.orphans[slot] = None
        self._orphans[slot] = None
        if slot.doubted:
            # It gives way before all that are counted on.
            handshake.endpoint.orphans.move_to_end(slot, last=False)
            self._orphans.move_to_end(slot, last=False)
            if not slot.late:
                handshake.doubted[slot] = None
            return
        slot.since = now
        handshake.orphans[slot] = None
        if not slot.kept:
            self._fading[slot] = None

    def _leave_to_nobody(self, slot: Slot, plan: Plan, now: float) -> None:
        """Let nobody have a handshake, until somebody takes it over."""
        self._orphan(slot, now)
        if slot.drained:
            # Who comes from now on is to have one that was begun since.
            self._give_way(slot, _FOR_NOBODY, plan)

    def _adopt(self, slot: Slot) -> None:
        handshake = slot.handshake
        del handshake.endpoint.orphans[slot]
        del self._orphans[slot]
        if slot.doubted:
            # Its grace goes on.
            handshake.doubted.pop(slot, None)
        else:
            del handshake.orphans[slot]
            self._fading.pop(slot, None)

    def _stop_connecting(self, slot: Slot) -> None:
        """Take a handshake from its owner, which then stands in line without a place."""
        owner = slot.owner
        if owner is None:
            self._adopt(slot)
        else:
            self._disown(owner, slot)
            self._return_to_line(owner)
        slot.handshake.endpoint.connecting -= 1
        slot.handshake.endpoint.under_way.remove(slot)
        if slot.began < math.inf:
            self._watched.pop(slot, None)
        if slot.doubted:
            del self._fading[slot]
            slot.handshake.doubts -= 1
            slot.doubted = False

    # -- handshakes that hang --------------------------------------------------------------------

    def _doubt(self, slot: Slot, now: float) -> None:
        """Count on a handshake no more: from now on it has its grace, whoever leans on it."""
        slot.doubted = True
        slot.kept = False
        slot.since = now
        slot.handshake.doubts += 1
        self._fading[slot] = None

    def _learn(self, endpoint: Endpoint, seconds: float) -> None:
        """Take what a handshake has taken for what is usual.

        That rises at once and falls slowly: of handshakes that begin together the last take much
        longer than the first, and are not late.
        """
        if seconds > endpoint.usual:
            endpoint.usual = seconds
        else:
            endpoint.usual += (seconds - endpoint.usual) * _NEWEST_SHARE

    def _patience(self, endpoint: Endpoint) -> float:
        """Return after how many seconds a handshake is late."""
        if endpoint.usual < 0:
            return endpoint.patience
        patience = LATE_FACTOR * endpoint.usual
        if patience < LATE_FLOOR:
            patience = LATE_FLOOR
        # Of a hundred that begin together, the last waits for all the others.
        return patience * (1 + endpoint.connecting // 8)

    def _patience_of(self, owner: Waiter, endpoint: Endpoint) -> float:
        """Return after how many seconds the handshake of a waiter is late.

        That doubles with each it has had: where a server hangs, there would be a storm otherwise.
        """
        patience = self._patience(endpoint)
        # Until one has succeeded, that of the endpoint doubles.
        return patience if endpoint.usual < 0 else patience * 2.0**owner.hedges

    def _look_deadline(self) -> float:
        oldest = next(iter(self._watched))
        return max(self._next_look, oldest.began + LATE_FLOOR)

    def _look(self, plan: Plan, now: float) -> None:
        """Look for handshakes that are late."""
        self._next_look = now + LATE_FLOOR
        late = []
        for slot in self._watched:
            if slot.began + LATE_FLOOR > now:
                break
            if slot.began + self._patience(slot.handshake.endpoint) <= now:
                late.append(slot)
        for slot in late:
            # One of them may have given way to the waiter of another.
            if slot in self._watched:
                self._turn_late(slot, plan, now)

    def _turn_late(self, slot: Slot, plan: Plan, now: float) -> None:
        """Let a waiter that has nothing but a late handshake have another beside it.

        That is one which belongs to nobody, where there is such, or a new one.
        """
        endpoint = slot.handshake.endpoint
        owner = slot.owner
        if owner is None:
            self._adopt(slot)
        elif not slot.doubted and slot.began + self._patience_of(owner, endpoint) > now:
            return
        else:
            owner.hedges += 1
            self._disown(owner, slot)
            self._return_to_line(owner)
        if endpoint.usual < 0:
            # Those that were begun together count once.
            endpoint.patience = max(endpoint.patience, 2 * (now - slot.began))
        del self._watched[slot]
        slot.late = True
        if not slot.doubted:
            self._doubt(slot, now)
        self._leave_to_nobody(slot, plan, now)
        self._give_orphans(slot.handshake)
        self._settle(endpoint, plan, now)

    def _has_free_room(self, endpoint: Endpoint) -> bool:
        """Whether a handshake could begin for which nothing has to give way, and nobody to wait."""
        return not (
            endpoint.waiting.head is not None
            or 0 < self._max_connecting <= endpoint.connecting
            or self._is_at_limit(endpoint)
            or self._is_at_total()
        )

    def _open_beside(self, endpoint: Endpoint, plan: Plan, now: float) -> None:
        """Let waiters that lean on doubted handshakes have others, as far as there is room."""
        while (waiter := endpoint.leaning.head) is not None and self._has_free_room(endpoint):
            doubted = waiter.opening
            self._disown(waiter, doubted)
            self._leave_to_nobody(doubted, plan, now)
            if waiter.handshake.orphans:
                orphan = next(iter(waiter.handshake.orphans))
                self._adopt(orphan)
                self._own(waiter, orphan)
            else:
                self._begin_for(waiter, plan, now)

    def _rekey(
        self,
        slot: Slot,
        key: Hashable,
        owner: Waiter | None,
        moves: bool,
        plan: Plan,
        now: float,
    ) -> None:
        """Let a slot answer to another handshake, with all who wait for a place, or its owner."""
        old = slot.handshake
        new = self._handshake(old.endpoint.key, key)
        old.live -= 1
        new.live += 1
        slot.handshake = new
        if moves:
            while (waiter := old.placeless.head) is not None:
                self._move(waiter, new)
            self._serve_at_hand(new, plan, now)
        elif owner is not None and owner.ticket == slot.begun_for:
            self._move(owner, new)

    def _move(self, waiter: Waiter, new: Handshake) -> None:
        old = waiter.handshake
        old.placeless.remove(waiter)
        new.placeless.insert_by_ticket(waiter)
        old.live -= 1
        new.live += 1
        waiter.handshake = new

    # -- waiters ---------------------------------------------------------------------------------

    def _line_up(self, waiter: Waiter, now: float) -> None:
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        waiter.queued = True
        waiter.since = now
        handshake.live += 1
        self._waiters += 1
        theirs = handshake.orphans
        if not theirs and self._leans(handshake, waiter.ticket):
            theirs = handshake.doubted
        if theirs:
            slot = next(iter(theirs))
            self._adopt(slot)
            self._own(waiter, slot)
        elif waiter.returned:
            self._return_to_line(waiter)
        else:
            handshake.placeless.insert_by_ticket(waiter)
            endpoint.waiting.append(waiter)

    def _leans(self, handshake: Handshake, ticket: int) -> bool:
        """Whether a waiter would rather lean on a doubted handshake than have that give way to it.

        Not where a waiter that came earlier lacks a place, which may be this one; and not where
        there is room, or something else that can give way.
        """
        if not handshake.doubted or self._has_come_earlier(handshake.endpoint, ticket):
            return False
        endpoint = handshake.endpoint
        others = len(endpoint.orphans) - len(handshake.doubted)
        if 0 < self._max_connecting <= endpoint.connecting - others:
            return True
        if self._is_at_limit(endpoint):
            return not others and endpoint.idle.head is None
        if self._is_at_total():
            others = len(self._orphans) - len(handshake.doubted)
            return not others and self._longest_idle() is None
        return False

    def _has_come_earlier(self, endpoint: Endpoint, ticket: int) -> bool:
        """Whether an older waiter lacks a place, at the endpoint or, under a limit, at another."""
        waiter = self._oldest_waiting(endpoint)
        if waiter is not None and waiter.ticket < ticket:
            return True
        if not self._is_at_total():
            return False
        self._index(endpoint)
        claimant = self._oldest_claimant()
        return claimant is not None and claimant.indexed < ticket

    def _return_to_line(self, waiter: Waiter) -> None:
        """Let a waiter that lost what it had stand at the head of the line."""
        waiter.returned = True
        waiter.handshake.placeless.insert_by_ticket(waiter)
        waiter.handshake.endpoint.waiting.insert_returned(waiter)

    def _come_back(self, waiter: Waiter, plan: Plan, now: float) -> None:
        handshake = waiter.handshake
        if not waiter.may_wait:
            self._close_stale(handshake, plan, now)
            if handshake.idle.top is None:
                handshake.endpoint.timeouts += 1
                return
        waiter.returned = True
        self._line_up(waiter, now)
        self._serve_at_hand(handshake, plan, now)
        self._settle(handshake.endpoint, plan, now)

    def _serve_at_hand(self, handshake: Handshake, plan: Plan, now: float) -> None:
        """Serve waiters that have come to a handshake with what lies there."""
        self._close_stale(handshake, plan, now)
        while (slot := handshake.idle.top) is not None:
            waiter = handshake.first_waiter()
            if waiter is None:
                break
            self._unpark(slot)
            self._serve(waiter, slot, plan, now)
            # What lies below may be older.
            self._close_stale(handshake, plan, now)
        self._give_orphans(handshake)

    def _give_orphans(self, handshake: Handshake) -> None:
        """Give handshakes that belong to nobody, and are counted on, to waiters without any."""
        while handshake.orphans and (waiter := handshake.placeless.head) is not None:
            orphan = next(iter(handshake.orphans))
            self._adopt(orphan)
            self._leave_line(waiter)
            self._own(waiter, orphan)

    def _leave_line(self, waiter: Waiter) -> None:
        waiter.handshake.placeless.remove(waiter)
        waiter.handshake.endpoint.waiting.remove(waiter)

    def _leave(self, waiter: Waiter, plan: Plan, now: float, gave_up: bool = False) -> None:
        """Take a waiter out; a handshake of its own passes to the next of its kind.

        One that has begun and was given up is doubted from then on: the next waiter of its kind
        leans on it if nobody who waits for a place has come earlier; otherwise it belongs to
        nobody, and gives way.
        """
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        slot = waiter.opening
        if slot is None:
            self._leave_line(waiter)
        else:
            self._disown(waiter, slot)
            if gave_up and slot.began <= now and not slot.doubted:
                self._doubt(slot, now)
            heir: Waiter | None = handshake.placeless.head
            if slot.drained or heir is None:
                self._leave_to_nobody(slot, plan, now)
            elif slot.doubted:
                self._orphan(slot, now)
                if not self._has_come_earlier(endpoint, heir.ticket):
                    self._adopt(slot)
                    self._leave_line(heir)
                    self._own(heir, slot)
            else:
                self._leave_line(heir)
                self._own(heir, slot)
        waiter.queued = False
        handshake.live -= 1
        endpoint.wait_seconds += now - waiter.since
        self._waiters -= 1

    def _take_back(self, slot: Slot) -> Waiter | None:
        """Undo a gift that has not been taken yet."""
        waiter = slot.waiter
        if waiter is not None:
            slot.waiter = None
            waiter.slot = None
        return waiter

    def _give(self, slot: Slot, waiter: Waiter) -> None:
        slot.uses += 1
        slot.waiter = waiter
        waiter.slot = slot

    def _serve(self, waiter: Waiter, slot: Slot, plan: Plan, now: float) -> None:
        self._leave(waiter, plan, now)
        self._give(slot, waiter)
        plan.wake(waiter)

    # -- who gets what ---------------------------------------------------------------------------

    def _hand_on(self, slot: Slot, plan: Plan, now: float) -> None:
        """Decide who gets a connection that has fallen free; nothing else does."""
        handshake = slot.handshake
        endpoint = handshake.endpoint
        first = handshake.first_waiter()
        if slot.retires <= now:
            self._start_closing(slot, _FORCED if slot.drained else _LIFETIME)
            plan.close(slot)
        elif self._lowered and self._is_surplus(endpoint):
            self._give_way(slot, _FOR_NOBODY, plan)
        elif first is None:
            self._park(slot, handshake, endpoint, now)
            if self._idle > self._max_idle_connections:
                # Of all endpoints. The slot itself goes only where others are as young as it is.
                self._evict_longest_idle(plan)
        else:
            giving = self._passed_over(endpoint, first)
            if giving == _FOR_NOBODY:
                self._serve(first, slot, plan, now)
            else:
                self._give_way(slot, giving, plan)
        self._settle(endpoint, plan, now)
        self._drop_dead(handshake)

    def _passed_over(self, endpoint: Endpoint, first: Waiter) -> int:
        """Count that the oldest waiter that could use the place is passed over for ``first``.

        Returns for whom the connection gives way, where that is one time too many.  A waiter for
        which a place is being cleared already is not passed over.
        """
        rival: Waiter | None = None
        giving = _FOR_TOTAL
        if not self._is_connecting_full(endpoint):
            rival = self._oldest_waiting(endpoint)
            if self._is_at_limit(endpoint):
                giving = _FOR_LIMIT
        if self._is_at_total():
            claimant = self._oldest_claimant()
            if claimant is not None:
                waiter = self._oldest_waiting(claimant)
                if waiter and (rival is None or waiter.ticket < rival.ticket):
                    rival, giving = waiter, _FOR_TOTAL
        if rival is None or rival.ticket >= first.ticket:
            return _FOR_NOBODY
        if (endpoint.giving if giving == _FOR_LIMIT else self._giving) > 0:
            return _FOR_NOBODY
        rival.passed += 1
        return giving if rival.passed > MAX_PASSED_OVER else _FOR_NOBODY

    def _is_connecting_full(self, endpoint: Endpoint) -> bool:
        # What belongs to nobody is stopped for who needs its place.
        busy = endpoint.connecting - len(endpoint.orphans)
        return 0 < self._max_connecting <= busy

    def _is_at_limit(self, endpoint: Endpoint) -> bool:
        return 0 < self._limit <= endpoint.count

    def _is_at_total(self) -> bool:
        return 0 < self._limit_total <= self._count

    def _is_over_limit(self, endpoint: Endpoint) -> bool:
        return 0 < self._limit < endpoint.count - endpoint.closing

    def _is_over_total(self) -> bool:
        return 0 < self._limit_total < self._count - self._closing

    def _is_surplus(self, endpoint: Endpoint) -> bool:
        return self._is_over_limit(endpoint) or self._is_over_total()

    def _has_room(self, endpoint: Endpoint) -> bool:
        return not (
            self._is_connecting_full(endpoint) or self._is_at_limit(endpoint) or self._is_at_total()
        )

    def _is_full(self, handshake: Handshake) -> bool:
        """Whether one more caller would have to queue, and may not."""
        endpoint = handshake.endpoint
        if self._max_waiting < 0 or handshake.orphans or self._leans(handshake, self._ticket):
            return False
        ahead = endpoint.waiting.size
        claim = wanted = self._wanted(endpoint, 1)
        if self._limit:
            claim = max(0, min(wanted, self._limit - endpoint.count))
        # Who has a place being cleared, and may use it, is as good as served.
        elsewhere = self._claims - endpoint.claim
        cleared = endpoint.giving + min(claim, max(0, self._giving - elsewhere))
        served = min(wanted, cleared)
        if served > ahead:
            return False
        return ahead - served >= self._max_waiting and not self._can_be_placed(endpoint)

    def _can_be_placed(self, endpoint: Endpoint) -> bool:
        ahead = endpoint.waiting.size
        busy = endpoint.connecting - len(endpoint.orphans) + ahead
        if 0 < self._max_connecting <= busy:
            return False
        if self._is_at_limit(endpoint):
            return endpoint.idle.head is not None or bool(endpoint.orphans)
        if 0 < self._limit <= endpoint.count + ahead - endpoint.giving:
            return False
        if self._is_at_total():
            return bool(self._orphans) or self._longest_idle() is not None
        return True

    def _settle(self, endpoint: Endpoint, plan: Plan, now: float) -> None:
        """Give free places to who waits for one, and clear places for the rest."""
        if self._lowered:
            self._trim_to_limit(endpoint, plan)
            self._trim_to_total(plan)
        self._grant(endpoint, plan, now)
        self._make_room(endpoint, plan)

    def _grant(self, endpoint: Endpoint, plan: Plan, now: float) -> None:
        if not self._limit_total:
            while endpoint.waiting.head is not None and self._has_room(endpoint):
                self._open_for(endpoint.waiting.head, plan, now)
            self._open_beside(endpoint, plan, now)
            return
        self._index(endpoint)
        while not self._is_at_total():
            claimant = self._oldest_claimant()
            if claimant is None:
                break
            self._open_for(claimant.waiting.head, plan, now)
            self._index(claimant)
            if claimant is not endpoint:
                # It may stand at its own limit now.
                self._make_room(claimant, plan)
        if self._leaning and not self._is_at_total():
            # The place that fell free may be one that these, too, have waited for.
            for leaning in sorted(self._leaning, key=_oldest_leaning):
                self._open_beside(leaning, plan, now)

    def _open_for(self, waiter: Waiter, plan: Plan, now: float) -> None:
        endpoint = waiter.handshake.endpoint
        if 0 < self._max_connecting <= endpoint.connecting:
            orphan = _first_to_go(endpoint.orphans) or next(iter(endpoint.orphans))
            self._give_way(orphan, _FOR_NOBODY, plan)
        self._leave_line(waiter)
        self._begin_for(waiter, plan, now)

    def _begin_for(self, waiter: Waiter, plan: Plan, now: float) -> None:
        slot = self._new_slot(waiter.handshake, now)
        self._own(waiter, slot)
        slot.begun_for = waiter.ticket
        plan.open(slot)

    def _index(self, endpoint: Endpoint) -> None:
        """Under ``limit_total``: keep an endpoint's place among those that want room, in order."""
        if not self._limit_total:
            return
        waiter = self._oldest_waiting(endpoint)
        claim = self._wanted(endpoint)
        if self._limit:
            claim = max(0, min(claim, self._limit - endpoint.count))
        self._claims += claim - endpoint.claim
        endpoint.claim = claim
        if waiter is None or claim == 0:
            endpoint.indexed = -1
        elif endpoint.indexed != waiter.ticket:
            endpoint.indexed = waiter.ticket
            heap = self._place_heap
            if len(heap) > 2 * len(self._endpoints) + 16:
                heap.clear()
                for other in self._endpoints.values():
                    if other.indexed >= 0:
                        heap.append((other.indexed, other.serial, other))
                heapq.heapify(heap)
            else:
                heapq.heappush(heap, (waiter.ticket, endpoint.serial, endpoint))

    def _oldest_waiting(self, endpoint: Endpoint) -> Waiter | None:
        """Return who came first of those in line; in front may stand some that came back."""
        oldest: Waiter | None = endpoint.waiting.head
        waiter = oldest
        while waiter is not None and waiter.returned:
            waiter = waiter.outer_next
            if waiter is not None and oldest is not None and waiter.ticket < oldest.ticket:
                oldest = waiter
        return oldest

    def _oldest_claimant(self) -> Endpoint | None:
        heap = self._place_heap
        while heap:
            ticket, _, endpoint = heap[0]
            if endpoint.indexed == ticket:
                return endpoint
            heapq.heappop(heap)
        return None

    def _wanted(self, endpoint: Endpoint, callers: int = 0) -> int:
        """Return how many more handshakes the endpoint would begin if there were places.

        With ``callers``: if so many more came.
        """
        wanted = endpoint.waiting.size + callers
        if self._max_connecting:
            busy = endpoint.connecting - len(endpoint.orphans)
            wanted = max(0, min(wanted, self._max_connecting - busy))
        return wanted

    def _make_room(self, endpoint: Endpoint, plan: Plan) -> None:
        if endpoint.waiting.head is not None and self._is_at_limit(endpoint):
            wanted = self._wanted(endpoint)
            while endpoint.giving < wanted:
                victim = self._dispensable(endpoint)
                if victim is None:
                    break
                self._give_way(victim, _FOR_LIMIT, plan)
        if self._claims > self._giving and self._is_at_total():
            while self._giving < self._claims:
                victim = self._dispensable_of_all()
                if victim is None:
                    break
                self._give_way(victim, _FOR_TOTAL, plan)

    def _dispensable(self, endpoint: Endpoint) -> Slot | None:
        """Return what can best be done without, if anything can."""
        slot = _first_to_go(endpoint.orphans)
        if slot is None:
            slot = endpoint.idle.head
        if slot is None and endpoint.orphans:
            slot = next(iter(endpoint.orphans))
        return slot

    def _dispensable_of_all(self) -> Slot | None:
        slot = _first_to_go(self._orphans)
        if slot is None:
            slot = self._longest_idle()
        if slot is None and self._orphans:
            slot = next(iter(self._orphans))
        return slot

    def _trim_to_limit(self, endpoint: Endpoint, plan: Plan) -> None:
        """Close what is more than a lowered limit allows and nobody uses or waits for."""
        while self._is_over_limit(endpoint):
            victim = self._dispensable(endpoint)
            if victim is None:
                break
            self._give_way(victim, _FOR_NOBODY, plan)

    def _trim_to_total(self, plan: Plan) -> None:
        while self._is_over_total():
            victim = self._dispensable_of_all()
            if victim is None:
                break
            self._give_way(victim, _FOR_NOBODY, plan)

    def _give_way(self, slot: Slot, giving: int, plan: Plan) -> None:
        """Close a connection, or stop a handshake, so that its place can go to another."""
        handshake = slot.handshake
        endpoint = handshake.endpoint
        if slot.state == CONNECTING:
            self._stop_connecting(slot)
            slot.state = CLOSING
            handshake.live -= 1
            endpoint.closing += 1
            self._closing += 1
        else:
            if slot.state == IDLE:
                self._unpark(slot)
            self._start_closing(slot, _EVICTED)
        slot.giving = giving
        if giving == _FOR_LIMIT:
            endpoint.giving += 1
        elif giving == _FOR_TOTAL:
            self._giving += 1
        plan.close(slot)
        self._drop_dead(handshake)


# What the first two bytes of a frame hold (RFC 6455, 5.2).
_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_FIRST_CONTROL_OPCODE: Final = 0x8
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
# The first byte of a CLOSE, a PING and a PONG.
_CLOSE_BYTE: Final = 0x88
_PONG_BYTE: Final = 0x8A
# What a control frame may hold, and a frame.
_LONGEST_CONTROL: Final = 125
_LONGEST_FRAME: Final = (1 << 63) - 1
_MASK_SIZE: Final = 4

# The part of a frame that the next byte belongs to.
_IN_FIRST: Final = 0
_IN_SECOND: Final = 1
_IN_LENGTH: Final = 2
_IN_PAYLOAD: Final = 3

#: Where the last byte received lies: between frames, in a control frame, or in a message.
BETWEEN_FRAMES: Final = 0
IN_CONTROL_FRAME: Final = 1
IN_MESSAGE: Final = 2


class Parkable:
    """What release and hand-out ask of a connection and do to it, without the connection.

    It stands in front of the connection's parser, and hands on to that what comes.  It follows the
    frames on the way, from the first byte of the connection on, since no parser shows whether it is
    in the middle of one.  The names are those of aiohttp's WebSocket response (``state``: its
    instance dictionary) and of its protocol; ``idle.py`` says what they mean and sets the fields.
    """

    __slots__ = (
        "_background",
        "_buffer",
        "_frame_left",
        "_frame_length",
        "_frame_part",
        "_has_closing",
        "_in_control",
        "_in_message",
        "_is_final",
        "_length_left",
        "_parser",
        "_protocol",
        "_transport",
        "closing",
        "control_frames",
        "failed",
        "fresh",
        "gone",
        "heard",
        "messages",
        "midway",
        "only_control",
        "parked",
        "resets",
        "state",
    )

    _background: set[Any]
    _buffer: Any
    # Whether the transport is one of asyncio's that has its answer in an attribute.
    _has_closing: bool
    _parser: Any
    _protocol: Any
    _transport: Any
    closing: bool
    failed: bool
    fresh: bool
    gone: bool
    # When something came last, by the coarse clock.
    heard: float
    parked: bool
    resets: bool
    state: dict[str, Any]

    def __init__(self) -> None:
        # The frame that the last byte belongs to, with its mask for a part of its payload.
        self._frame_part = _IN_FIRST
        self._frame_left = 0
        self._frame_length = 0
        self._length_left = 0
        self._in_control = False
        # Whether it ends its message, and whether there is a message that has not ended.
        self._is_final = False
        self._in_message = False
        #: Whether what has come ends between two frames, in a control frame or in a message.
        self.midway = BETWEEN_FRAMES
        #: Frames and messages that have come whole.
        self.control_frames = 0
        self.messages = 0
        #: Whether all frames that began to come since it was set were sound control frames.
        self.only_control = True

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the transport received, in place of the real parser."""
        self.heard = _coarse_clock()
        if not self.failed:
            if self.parked or self.closing:
                self.take(data)
            else:
                self.follow(data)
                self.failed = self._parser.feed_data(data)[0]
        return _GO_ON

    def take(self, data: bytes) -> None:
        """Take what has come while nobody uses the connection; a subclass's own."""
        raise NotImplementedError

    def follow(self, data: bytes) -> None:
        """Follow the frames in what has come."""
        at = 0
        end = len(data)
        while at < end:
            if self._frame_part == _IN_PAYLOAD:
                taken = end - at
                if taken > self._frame_left:
                    taken = self._frame_left
                at += taken
                self._frame_left -= taken
            else:
                self._follow_header(data[at])
                at += 1
            if self._frame_part == _IN_PAYLOAD and self._frame_left == 0:
                self._frame_part = _IN_FIRST
                if self._in_control:
                    self.control_frames += 1
                elif self._is_final:
                    self._in_message = False
                    self.messages += 1
        if self._in_message:
            self.midway = IN_MESSAGE
        else:
            self.midway = BETWEEN_FRAMES if self._frame_part == _IN_FIRST else IN_CONTROL_FRAME

    def _follow_header(self, byte: int) -> None:
        if self._frame_part == _IN_FIRST:
            self._frame_part = _IN_SECOND
            self._in_control = byte & _OPCODE >= _FIRST_CONTROL_OPCODE
            if not self._in_control:
                self._in_message = True
                self._is_final = byte & _FIN != 0
            if byte < _CLOSE_BYTE or byte > _PONG_BYTE:
                self.only_control = False
        elif self._frame_part == _IN_SECOND:
            if byte > _LONGEST_CONTROL:
                self.only_control = False
            self._frame_left = _MASK_SIZE if byte & _MASKED else 0
            length = byte & _LENGTH
            if length <= _LONGEST_CONTROL:
                self._frame_left += length
                self._frame_part = _IN_PAYLOAD
            else:
                self._frame_length = 0
                self._length_left = 2 if length == _LONGEST_CONTROL + 1 else 8
                self._frame_part = _IN_LENGTH
        else:
            self._frame_length = self._frame_length << 8 | byte
            self._length_left -= 1
            if self._length_left == 0:
                # A parser refuses what is longer.
                self._frame_left += min(self._frame_length, _LONGEST_FRAME)
                self._frame_part = _IN_PAYLOAD

    def is_clean(self) -> bool:
        """Whether it can go to another user: nothing unread, nothing under way, no error seen.

        A control frame may have begun to come; until all of it is there, it is in the pool and is
        not handed out.
        """
        ws = self.state
        return not (
            self.closing
            or self.failed
            or self.gone
            or self._buffer
            or self.midway == IN_MESSAGE
            or ws["_waiting"]
            # aiohttp sets it wherever it sets _closing or _exception.
            or ws["_close_code"] is not None
            or ws["_closed"]
            or self._background
            or self._protocol._paused
            or self.has_closing_transport()
        )

    def has_closing_transport(self) -> bool:
        """Whether its end is known to the transport, which tells the protocol a turn later."""
        transport = self._transport
        return bool(transport._closing if self._has_closing else transport.is_closing())

    def is_held_back(self) -> bool:
        """Whether it must not be handed out: it is ending, or in the middle of a frame."""
        return self.midway != BETWEEN_FRAMES or self.has_closing_transport()

    def end_held_back(self) -> None:
        """Take it out of the pool, as somebody asks for it; a subclass's own."""
        raise NotImplementedError

    def park(self) -> bool:
        """Begin to watch a connection that nobody reads; False: it is not clean."""
        if not self.is_clean():
            return False
        self.parked = True
        return True


# What a parser returns for "go on". A "protocol error" of the real one is kept from the protocol,
# which would drop its parser, and with it the only one to be told that the socket is gone.
_GO_ON: Final = (False, b"")


class Completion(Coroutine[Any, Any, None]):
    """What ``release()`` and ``drain()`` return: it can be awaited, by many and more than once.

    It need not be, since what they do is done when they are called; so to type checkers it is none
    of the coroutines that must be.
    """

    __slots__ = ()


class Done(Completion):
    """What is complete from the start: nothing to wait for, and nothing kept between two uses."""

    __slots__ = ()

    def __await__(self) -> Iterator[Any]:  # type: ignore[override]
        return _NO_STEPS

    def send(self, value: Any) -> Any:
        """End at once."""
        raise StopIteration

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """End with what is thrown."""
        try:
            raise typ if val is None else val
        finally:
            # Its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """Do nothing."""


# Used up, as an iterator over nothing is from the start.
_NO_STEPS: Final[Iterator[Any]] = iter(())

#: What ``release()`` returns for a connection that is pooled.
DONE: Final = Done()


class Handle:
    """What a response adds to aiohttp's: the fields of one acquisition.

    A handle borrows its instance dictionary from the connection (:func:`lend`) and loses it on
    release (:func:`spend`), so that nothing done with it afterwards can reach the connection.
    """

    __slots__ = ("_express", "_owner", "_reused", "_slot", "_spent")

    #: Whom to tell when the handle is collected unreleased; None: it holds nothing (any more).
    _owner: Any
    _express: Any
    _slot: Slot | None
    _spent: bool
    _reused: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._owner = None
        self._express = None
        self._slot = None
        self._spent = False
        self._reused = False
        return self

    def release(self) -> Completion:
        """Give the connection back.

        It takes effect when called.  A connection that is fit for another's use goes to the pool,
        or straight to the caller that has waited longest; one that has an unread message, a
        ``receive()`` under way, or that saw an error or the beginning of a close, is closed.

        What it returns can be awaited, by many and more than once, and ends when the connection is
        pooled or closed: at most ``close_timeout`` seconds later, or after a reset if there is one.
        """
        owner = self._owner
        if owner is None:
            return DONE
        plan = self._express.release(self)
        if plan is None:
            return DONE
        completion: Completion = owner._released(self, plan)
        return completion

    def __del__(self) -> None:
        if self._owner is not None:
            self._owner._handle_lost(self)


def lend(express: "Express", owner: Any, slot: Slot) -> Any:
    """Return a new handle on the connection in ``slot``, which is parked no more."""
    conn = slot.conn
    conn.parked = False
    # Not by the class's own: a subclass's may want aiohttp's arguments.
    handle: Any = Handle.__new__(express._cls)
    handle.__dict__ = conn.state
    handle._express = express
    handle._slot = slot
    handle._reused = slot.uses > 1
    handle._owner = owner
    return handle


def hand_out(express: "Express", owner: Any, slot: Slot) -> Any:
    """Do the same for a connection that was given to a waiter."""
    slot.conn.fresh = False
    return lend(express, owner, slot)


def end_if_held_back(waiter: Waiter) -> None:
    """Take back what a waiter was given, if it has ended since, or is in the middle of a frame.

    Not so a new one: a server that ends each at once would be connected to for ever.
    """
    slot = waiter.slot
    if slot is not None and not slot.conn.fresh and slot.conn.is_held_back():
        slot.conn.end_held_back()


def spend(handle: Handle, state: dict[str, Any]) -> None:
    """Take the connection from a handle, and leave it ``state`` for attributes."""
    handle._owner = None
    handle._spent = True
    handle.__dict__ = state  # type: ignore[misc]


#: What the session asks for the time.  Tools that freeze the time of tests (freezegun) replace each
#: attribute of a module that is the function itself; sockets and servers do not stand still.
clock: Final = partial(monotonic)

# What is asked at each acquisition and release; the compiled core has a cheaper one, which may be
# some milliseconds behind, but not behind what the other has said.
_coarse_clock: Final = clock

#: How many frames below the recursion limit an operation needs: from its call to the last of what
#: it asks of asyncio, in debug mode too.
ROOM: Final = 64
# The same for a hit, and for a release to the pool, where nothing is asked of asyncio.
_LITTLE_ROOM: Final = 8


def ensure_room(frames: int = ROOM) -> None:
    """Raise ``RecursionError`` where an operation might fail half way, before it has begun."""
    if frames:
        ensure_room(frames - 1)


class Caller:
    """A caller that waits: what a waiter of the pool stands for."""

    __slots__ = ("check_deadline", "context", "error", "future", "overdue", "route", "timer")

    def __init__(self, route: Route, future: "asyncio.Future[None]") -> None:
        self.route = route
        self.future = future
        #: A handshake made for this caller is traced and logged as the caller's.
        self.context = copy_context()
        self.error: BaseException | None = None
        #: Its time ran out after it had been given a connection, which may yet turn out dead.
        self.overdue: BaseException | None = None
        #: While a check runs on what it was given.
        self.check_deadline: Any = None
        #: Its acquire_timeout.
        self.timer: Any = None

    def wake(self) -> None:
        """Tell it that there is something for it, or nothing more to wait for."""
        try:  # noqa: SIM105 (which would cost more than this)
            self.future.set_result(None)
        except asyncio.InvalidStateError:
            # It was told before, or is cancelled.
            pass
        if self.check_deadline is not None:
            self.stop_check()

    def stop_check(self) -> None:
        """Do not let it wait for its check any longer."""
        if self.check_deadline is not None and not self.check_deadline.expired():
            try:  # noqa: SIM105 (as above)
                # In the past, whatever the loop's clock says.
                self.check_deadline.reschedule(-math.inf)
            except RuntimeError:
                # The check has ended, which is being logged.
                pass

    def finish(self) -> None:
        """Let go of what its wait has left."""
        # Their tracebacks have its frame.
        self.error = self.overdue = None
        if self.timer is not None:
            self.timer.cancel()


# To ask for the running loop costs a system call on CPython 3.11.
_KNOWS_RUNNING_LOOP: Final = sys.version_info >= (3, 12)


class Express:
    """The way of a connection to its user and back, as long as the core alone can see to it.

    While it is ``open``, in the thread and the loop it was made for, nothing else need be asked
    when an idle connection is at hand; otherwise the session is.
    """

    __slots__ = (
        "_cls",
        "_has_thread_id",
        "_loop",
        "_pool",
        "open",
        "plain_exit",
        "pooling",
        "session_name",
        "thread",
    )

    def __init__(self, pool: Pool, cls: Any, loop: Any, thread: int) -> None:
        self._pool = pool
        self._cls = cls
        self._loop = loop
        # What is_running() of asyncio's loops looks at, at a third of the price of asking.
        self._has_thread_id = (
            getattr(type(loop), "is_running", None) is asyncio.BaseEventLoop.is_running
        )
        self.thread = thread
        self.open = False
        # Whether what is released is pooled, and whether the class leaves by that alone.
        self.pooling = True
        self.plain_exit = True
        # For errors.
        self.session_name: str | None = None

    def is_usable(self) -> bool:
        """Return whether a caller need not ask the session."""
        # A loop that runs, in the thread that asks, is the running loop.
        if not self.open or get_ident() != self.thread:
            return False
        if self._has_thread_id:
            thread_id: int | None = self._loop._thread_id
            return thread_id == self.thread
        if _KNOWS_RUNNING_LOOP:
            return _get_running_loop() is self._loop
        # It may run in another thread than before; nobody has told.
        return bool(self._loop.is_running())

    def acquire(self, owner: Any, route: Route) -> Any:
        """Return a handle on an idle connection; None: there is none."""
        ensure_room(_LITTLE_ROOM)
        handshake = route.handshake
        if handshake is None or handshake.dropped:
            handshake = route.handshake = self._pool.find(route.key)
            if handshake is None:
                return None
        top = handshake.idle.top
        if top is not None and top.conn.is_held_back():
            self._end_held_back(handshake)
        slot = self._pool.acquire(route.key, _coarse_clock(), handshake)
        return None if slot is None else lend(self, owner, slot)

    def _end_held_back(self, handshake: Handshake) -> None:
        """Take out of the pool those on top that must not be handed out.

        They have ended, and nobody has been told yet; or a frame has begun to come, and the rest of
        it is late.
        """
        while (top := handshake.idle.top) is not None and top.conn.is_held_back():
            top.conn.end_held_back()

    def line_up(self, owner: Any, route: Route, acquire_timeout: float | None) -> Waiter:
        """Ask for a connection that is released, or a new one; either may be there at once."""
        ensure_room()
        caller = Caller(route, self._loop.create_future())
        handshake = route.record()
        if handshake is not None:
            self._end_held_back(handshake)
        may_wait = acquire_timeout is None or acquire_timeout != 0
        waiter, plan = self._pool.request(
            route.endpoint, route.key, caller, clock(), may_wait, route.record()
        )
        if not plan.is_empty():
            owner._carry_out(plan)
        if waiter is None:
            raise owner._refusal(route, acquire_timeout)
        route.handshake = waiter.handshake
        # With 0 nothing is waited for; a check takes its own time.
        if acquire_timeout and (waiter.slot is None or route.is_checked):
            caller.timer = self._loop.call_later(
                acquire_timeout, owner._time_out, waiter, acquire_timeout, context=Context()
            )
        return waiter

    async def wait(self, owner: Any, waiter: Waiter, acquire_timeout: float | None) -> Any:
        """Return a handle on what a waiter is given."""
        caller: Caller = waiter.token
        try:
            while True:
                if waiter.slot is None:
                    await caller.future
                end_if_held_back(waiter)
                if caller.route.is_checked and waiter.slot is not None:
                    await owner._check(waiter)
                slot = self._pool.take(waiter)
                if slot is not None:
                    return hand_out(self, owner, slot)
                if caller.error is not None:
                    raise caller.error
                owner._raise_if_overdue(waiter, acquire_timeout)
                # What it was given died before it woke. It stands at the head of its line again.
                caller.future = self._loop.create_future()
        except BaseException:
            owner._give_up(waiter)
            raise
        finally:
            caller.finish()

    def release(self, handle: Handle) -> Any:
        """Park the connection of a handle, and release it: what :meth:`Pool.release` returns.

        ``None``: there is nothing left to do.  ``False``: it is not fit for another's use, or not
        yet, and nothing was done.
        """
        slot = handle._slot
        assert slot is not None
        conn = slot.conn
        if not self.pooling or get_ident() != self.thread:
            return False
        now = _coarse_clock()
        ensure_room(_LITTLE_ROOM if self._pool.only_parks(slot, now) else ROOM)
        if conn is None or conn.resets or not conn.park():
            return False
        spend(handle, {})
        plan = self._pool.release(slot, now)
        # A handshake that nobody waits for any more is to be stopped in time.
        if plan is None or self._pool._fading or not plan.is_to_wake_only():
            return plan
        for waiter in plan.woken:
            waiter.token.wake()
        return None


class Acquisition(Coroutine[Any, Any, Any]):
    """What ``ws_connect`` returns: a coroutine to asyncio, and an asynchronous context manager.

    It goes by :class:`Express` where that is usable; for all else it runs the owner's ``_acquire``.
    """

    __slots__ = (
        "_acquire_timeout",
        "_begun",
        "_express",
        "_handle",
        "_owner",
        "_route",
        "_steps",
    )

    def __init__(
        self, express: Express, owner: Any, route: Route, acquire_timeout: float | None
    ) -> None:
        self._express = express
        self._owner = owner
        self._route = route
        self._acquire_timeout = acquire_timeout
        self._begun = False
        self._handle: Any = None
        self._steps: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._begun:
            raise RuntimeError("what ws_connect() returned can be awaited only once")
        self._begun = True
        if self._express.is_usable():
            handle = self._express.acquire(self._owner, self._route)
            if handle is None:
                waiter = self._express.line_up(self._owner, self._route, self._acquire_timeout)
                waits = self._express.wait(self._owner, waiter, self._acquire_timeout)
                handle = yield from waits.__await__()
        else:
            asks = self._owner._acquire(self._route, self._acquire_timeout)
            handle = yield from asks.__await__()
        self._handle = handle
        return handle

    @property
    def __name__(self) -> str:
        # For the repr of tasks.
        return "ws_connect"

    def send(self, value: Any) -> Any:
        """Step it, as ``asyncio.Task`` does."""
        if self._steps is None or self._handle is not None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Throw into it, as ``asyncio.Task`` does on cancellation."""
        self._begun = True
        if self._steps is None:
            self._steps = self.__await__()
        try:
            return self._steps.throw(typ if val is None else val)
        finally:
            # It comes out again, and its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """End it where it stands, or before it began."""
        self._begun = True
        if self._steps is not None:
            self._steps.close()

    def __aenter__(self) -> Self:
        return self

    def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        if exc_type is None and self._express.plain_exit:
            return self._handle.release()
        return self._handle.__aexit__(exc_type, exc_val, exc_tb)

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn("ws_connect() was never awaited", RuntimeWarning, stacklevel=2)


_LONGEST: Final = sys.float_info.max


class _Unset:
    """What an argument is that was not given, where None means something."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "..."


UNSET: Final[Any] = _Unset()


class _NoHeaders:
    """What a session has in place of headers until its constructor has run."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise RuntimeError(
            "the session was not initialized: the __init__() of a subclass must call"
            " super().__init__()"
        )


NO_HEADERS: Final = _NoHeaders()


def signature_of(
    url: Any, reuse_key: Hashable, options: dict[str, Any], atoms: frozenset[type]
) -> tuple[Any, ...] | None:
    """Return what tells the arguments of a call from those of others; None: it cannot be told.

    Only exact types count, since one that is derived may be equal and mean something else: of
    ``str``, dicts and sequences of them, and of ``atoms``.
    """
    if type(url) is not str and type(url) not in atoms:
        return None
    parts = [url, reuse_key]
    for name, value in options.items():
        kind = type(value)
        parts.append(name)
        if kind is str or value is None:
            parts.append(value)
            continue
        parts.append(kind)
        if kind is dict:
            parts.append(len(value))
            for field, content in value.items():
                if type(field) is not str or type(content) is not str:
                    return None
                parts.append(field)
                parts.append(content)
        elif kind is tuple or kind is list:
            parts.append(len(value))
            for item in value:
                if type(item) is not str:
                    return None
                parts.append(item)
        elif kind in atoms:
            parts.append(value)
        else:
            return None
    return tuple(parts)


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _LONGEST


class SessionBase:
    """The call that acquires a connection, where all that it needs is known already.

    The rest of a session is Python, and is asked where something is not.
    """

    # The rest has a value before there is one.
    __slots__ = ("_atoms", "_detour", "_express", "_loop", "_targets")

    _acquire_timeout: float | None = None
    # The types of arguments that are known by their hash.
    _atoms: frozenset[type]
    # The way of connections that hooks are to be run on, and that of all others.
    _detour: Express
    _express: Express
    _loop: Any
    # Targets of calls, by what tells these from each other.
    _targets: Any
    # Those of the client session, which may be changed at any time; and whether it has had some.
    _default_headers: Any = NO_HEADERS
    _watches_headers: bool = False

    def ws_connect(
        self,
        url: Any,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Acquire a connection, as is declared at the session."""
        this: Any = self
        if acquire_timeout is UNSET:
            acquire_timeout = self._acquire_timeout
        elif not _is_seconds(acquire_timeout):
            this._check_timeout(acquire_timeout)
        if self._watches_headers or self._default_headers:
            this._forget_stale_targets()
        if options or reuse_key is not None:
            signature = signature_of(url, reuse_key, options, self._atoms)
        else:
            signature = url if type(url) is str or type(url) in self._atoms else None
        try:
            route = None if signature is None else self._targets.get(signature)
        except TypeError:
            # Something in it has no hash.
            signature = route = None
        if route is None:
            route = this._resolve_anew(signature, url, options, reuse_key)
        express = self._express if route.is_direct else self._detour
        return Acquisition(express, self, route, acquire_timeout)
