"""The records of the core: what it knows of a place, a caller, a handshake and an endpoint.

Compiled as a part of ``_pool.pyx``; see ``_cython.py``.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

from . import _cython as cython

if not cython.compiled:
    from ._lists import InnerList, Node, OuterList, Stack

#: Seconds, or for ever.
Timeout = float | None

INFINITY = cython.declare(cython.double, math.inf)

#: The states of a slot.
CONNECTING = cython.declare(cython.int, 0)
ACQUIRED = cython.declare(cython.int, 1)
IDLE = cython.declare(cython.int, 2)
CLOSING = cython.declare(cython.int, 3)
GONE = cython.declare(cython.int, 4)

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
REASON_IDLE = cython.declare(cython.int, CLOSE_REASONS.index("idle"))
REASON_LIFETIME = cython.declare(cython.int, CLOSE_REASONS.index("lifetime"))
REASON_LOST = cython.declare(cython.int, CLOSE_REASONS.index("lost"))
REASON_EVICTED = cython.declare(cython.int, CLOSE_REASONS.index("evicted"))
REASON_FORCED = cython.declare(cython.int, CLOSE_REASONS.index("forced"))

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

#: Seconds after which a handshake is late where none has succeeded yet.  Doubled by each late one.
FIRST_PATIENCE = cython.declare(cython.double, 5.0)

# Who profits from a connection that gives way: nobody in particular, a waiter that stands at its
# endpoint's limit, or one that stands at the limit over all endpoints.
FOR_NOBODY = cython.declare(cython.int, 0)
FOR_LIMIT = cython.declare(cython.int, 1)
FOR_TOTAL = cython.declare(cython.int, 2)
# Not a place is wanted but fewer idle connections.
FOR_BOUND = cython.declare(cython.int, 3)


@cython.final
@cython.cclass
class Endpoint:
    """One ``(host, port, is_ssl)`` with what counts against its limit."""

    __slots__ = (
        "acquired",
        "being_cleared",
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

    def __init__(self, key: Hashable, serial: cython.Py_ssize_t) -> None:
        self.key = key
        self.serial = serial
        self.handshakes = 0
        self.count = 0
        self.connecting = 0
        self.acquired = 0
        self.closing = 0
        #: Closing ones that make room for a waiter which stands at this endpoint's limit.
        self.being_cleared = 0
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


@cython.final
@cython.cclass
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

    def __init__(self, endpoint: Endpoint, key: Hashable) -> None:
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


@cython.final
@cython.cclass
class Slot(Node):
    """A place in the pool and, once it is connected, the connection in it."""

    __slots__ = (
        "began",
        "begun_for",
        "born",
        "cleared_for",
        "conn",
        "cools",
        "doubted",
        "drained",
        "expires",
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

    def __init__(self, handshake: Handshake, now: cython.double) -> None:
        if not cython.compiled:
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
        self.began = INFINITY
        #: A handshake that is not counted on any more: who it was begun for has given it up, or it
        #: is late.
        self.doubted = False
        self.late = False
        #: When it may not be handed out again, whatever its use; since ever, once it is drained.
        self.retires = INFINITY
        #: The same, and not longer than ``max_idle`` from the last release.
        self.expires = INFINITY
        self.uses = 0
        #: An orphan that somebody wants all the same: it is not stopped for want of a waiter.
        self.kept = False
        #: Whether it was in use, or being opened, when all of its kind were drained.
        self.drained = False
        #: For which of ``CLOSE_REASONS`` it is closing.
        self.reason = -1
        self.cleared_for = FOR_NOBODY
        #: Whether its place stays taken for ``cooldown`` once its socket is gone.  The caller may
        #: say so of what is not connected yet, while something else than the handshake runs on it.
        self.cools = False

    @property
    def crowded_out(self) -> bool:
        """Whether it was closed since too many connections were idle."""
        return self.cleared_for == FOR_BOUND

    @property
    def key(self) -> Hashable:
        return self.handshake.key

    @property
    def endpoint(self) -> Hashable:
        return self.handshake.endpoint.key


#: Slots in an order.
OrderedSlots = OrderedDict[Slot, None]


@cython.final
@cython.cclass
class Waiter(Node):
    """A caller that found nothing idle."""

    __slots__ = (
        "handshake",
        "hedges",
        "may_wait",
        "opening",
        "passed",
        "queued",
        "since",
        "slot",
        "token",
    )

    def __init__(
        self, handshake: Handshake, token: Any, ticket: cython.Py_ssize_t, now: cython.double
    ) -> None:
        if not cython.compiled:
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


@cython.cfunc
def first_waiter(handshake: Handshake) -> Waiter | None:
    """Return the caller that has waited longest for a connection of a handshake."""
    placeless: Waiter | None = handshake.placeless.head
    opening: Waiter | None = handshake.opening.head
    if placeless is None:
        return opening
    if opening is None or placeless.ticket < opening.ticket:
        return placeless
    return opening


@cython.freelist(8)
@cython.final
@cython.cclass
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

    @cython.cfunc
    def open(self, slot: Slot) -> None:
        if self._opened is None:
            self._opened = []
        self._opened.append(slot)

    @cython.cfunc
    def close(self, slot: Slot) -> None:
        if self._closing is None:
            self._closing = []
        self._closing.append(slot)

    @cython.cfunc
    def wake(self, waiter: Waiter) -> None:
        if self._woken is None:
            self._woken = []
        self._woken.append(waiter)

    @cython.cfunc
    def is_empty(self) -> cython.bint:
        return not (self._opened or self._closing or self._woken)

    @cython.cfunc
    def is_to_wake_only(self) -> cython.bint:
        return not (self._opened or self._closing)


@cython.cclass
class Route:
    """Where calls of one handshake go in one pool."""

    __slots__ = ("endpoint", "handshake", "is_checked", "is_direct", "key")

    def __init__(
        self,
        endpoint: Hashable,
        key: Hashable,
        is_direct: cython.bint = True,
        is_checked: cython.bint = False,
    ) -> None:
        self.endpoint = endpoint
        self.key = key
        #: Whether an idle connection goes out and comes back without anything done to it.
        self.is_direct = is_direct
        #: Whether something is done to it before it goes out.
        self.is_checked = is_checked
        #: The record of the last call, so that the next need not look for it.
        self.handshake: Handshake | None = None

    @cython.cfunc
    def record(self) -> Handshake | None:
        """Return the record that stands for the key, as far as is known."""
        handshake = self.handshake
        return None if handshake is None or handshake.dropped else handshake
