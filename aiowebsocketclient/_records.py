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

#: Seconds after which a handshake is late if none has succeeded yet.  Each late one doubles them.
FIRST_PATIENCE = cython.declare(cython.double, 5.0)

# For whom a connection gives way: nobody in particular, a waiter at its endpoint's limit, or a
# waiter at limit_total.
FOR_NOBODY = cython.declare(cython.int, 0)
FOR_LIMIT = cython.declare(cython.int, 1)
FOR_TOTAL = cython.declare(cython.int, 2)
# No place is wanted, but fewer idle connections.
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
        "deferred",
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
        "shortest",
        "timeouts",
        "under_way",
        "unplaced",
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
        #: Slots that are closing to make room for waiters at this endpoint's limit.
        self.being_cleared = 0
        #: Handshakes under way, the oldest first, and the failure of the last that failed.
        self.under_way = OuterList()
        self.failure: Any = None
        #: Idle connections, the longest idle first.
        self.idle = OuterList()
        #: Waiters without a place, in order of arrival.
        self.waiting = OuterList()
        #: Waiters that rely on a doubted handshake, for lack of room for another.
        self.leaning = OuterList()
        #: Handshakes under way without an owner, in the order in which they give way.
        self.orphans: OrderedDict[Slot, None] = OrderedDict()
        #: Seconds that handshakes usually take, -1 before the first has succeeded; until then,
        #: ``patience`` is the number of seconds after which a handshake is late.
        self.usual = -1.0
        self.patience = FIRST_PATIENCE
        #: Seconds that the faster handshakes take, -1 before the first has succeeded.
        self.shortest = -1.0
        #: Waiters for whom a place is reserved in which no handshake has begun.
        self.deferred = 0
        #: Waiters whose handshakes are deferred without a place, in order of arrival: an idle
        #: connection of another handshake gives way for them if they are not served before.
        self.unplaced: OrderedDict[Waiter, None] = OrderedDict()
        #: How many more places the endpoint could use if ``limit_total`` had room.
        self.claim = 0
        #: Its ticket in the pool's queue for such room; -1: it is not queued.
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
        # A hit is a request and a reuse, and is counted in one number.
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
        waiting = self.waiting.size + self.deferred + len(self.unplaced)
        return (self.connecting, self.acquired, idle, self.closing, waiting, 1)


@cython.final
@cython.cclass
class Handshake:
    """Connections and callers of one handshake at one endpoint."""

    __slots__ = (
        "connecting",
        "counted_from",
        "deferred",
        "deferring_since",
        "doubted",
        "doubts",
        "dropped",
        "ended_at",
        "endpoint",
        "fallen_free",
        "idle",
        "key",
        "live",
        "look_at",
        "opening",
        "orphans",
        "placeless",
        "postponed",
        "turn",
        "use",
        "use_then",
    )

    def __init__(self, endpoint: Endpoint, key: Hashable) -> None:
        self.endpoint = endpoint
        self.key = key
        #: Whether the record is out of use: the key has another record, or none.
        self.dropped = False
        #: Idle connections, last in, first out, so that surplus connections age.
        self.idle = Stack()
        #: Waiters without a handshake of their own, and those with one, each in order of arrival.
        self.placeless = InnerList()
        self.opening = InnerList()
        #: Handshakes under way without an owner: those that are counted on, and those that were
        #: given up and are not late; a waiter relies on the latter only for lack of room.
        self.orphans: OrderedDict[Slot, None] = OrderedDict()
        self.doubted: OrderedDict[Slot, None] = OrderedDict()
        #: How many handshakes are under way, and how many of them are doubted, with or without an
        #: owner.
        self.connecting = 0
        self.doubts = 0
        #: Seconds for which connections are in use when it takes long, -1 before the first release.
        self.use = -1.0
        #: Waiters whose handshake is deferred, in order of arrival.
        self.deferred = OuterList()
        #: While there are any: since when, when the core looks at them next, and how many
        #: connections have fallen free to waiters since when.
        self.deferring_since = 0.0
        self.look_at = INFINITY
        #: ``use`` at that time, which each release changes.
        self.use_then = -1.0
        #: When the last of them left, unless handshakes have begun since.
        self.ended_at = -INFINITY
        self.counted_from = 0.0
        self.fallen_free = 0
        #: Whether the last look came too late to judge by, and the order among equal ``look_at``.
        self.postponed = False
        self.turn = 0
        #: Slots that are not closing, plus waiters: the record is dropped when there are none.
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
        #: The session's: the connection, and the task that opens it.  The core never looks.
        self.conn: Any = None
        self.task: Any = None
        #: The waiter that the handshake belongs to, while it is under way.
        self.owner: Waiter | None = None
        #: The ticket of the waiter that the handshake was begun for; -1: none.
        self.begun_for = -1
        #: The waiter that was given the connection and has not woken yet.
        self.waiter: Waiter | None = None
        #: When the slot got its place, and since when it is in use, idle, an orphan, doubted or
        #: cooling.
        self.born = now
        self.since = now
        #: When the handshake began; before that it cannot be late: see :meth:`Pool.begin`.
        self.began = INFINITY
        #: Whether the handshake is not counted on any more: its caller has given it up, or it is
        #: late.
        self.doubted = False
        self.late = False
        #: From when on the connection is not handed out again; ``-INFINITY`` once it is drained.
        self.retires = INFINITY
        #: The earlier of that and ``max_idle`` seconds after the last release.
        self.expires = INFINITY
        self.uses = 0
        #: An orphan that prewarm() or set_min_idle() wants: it is not stopped for lack of a waiter.
        self.kept = False
        #: Whether the connection was in use, or being opened, when its key was drained.
        self.drained = False
        #: The index in ``CLOSE_REASONS`` of the reason for closing.
        self.reason = -1
        self.cleared_for = FOR_NOBODY
        #: Whether the place stays taken for ``cooldown`` once the socket is gone.  The session may
        #: set this before the core knows of the connection, while ``configure`` runs on it.
        self.cools = False

    @property
    def crowded_out(self) -> bool:
        """Whether it was closed because too many connections were idle."""
        return self.cleared_for == FOR_BOUND

    @property
    def key(self) -> Hashable:
        return self.handshake.key

    @property
    def endpoint(self) -> Hashable:
        return self.handshake.endpoint.key


#: Slots in an order.
OrderedSlots = OrderedDict[Slot, None]


@cython.cclass
class Waiter(Node):
    """A caller that found nothing idle; what else is known of it, a subclass knows."""

    __slots__ = (
        "deferred",
        "deferred_at",
        "handshake",
        "hedges",
        "may_wait",
        "opening",
        "passed",
        "queued",
        "since",
        "slot",
        "unplaced",
    )

    # In C, all of this is so without a constructor, as in Plan.
    if not cython.compiled:
        handshake: Handshake
        since: float
        deferred_at: float
        #: Whether the waiter goes back into the line if its connection dies and nothing is idle.
        may_wait: bool

        def __init__(self) -> None:
            super().__init__()
            #: The handshake under way that belongs to the waiter; without one it waits for a place.
            self.opening: Slot | None = None
            #: The connection given to the waiter and not yet taken.
            self.slot: Slot | None = None
            self.queued = False
            self.returned = False
            self.passed = 0
            #: Whether its handshake is deferred, and since when, or since when that of the waiter
            #: before in its place was; and whether no place is reserved.
            self.deferred = False
            self.unplaced = False
            #: How many handshakes of the waiter were late, so that it got another.
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
    """What the session must do, in this order, before anything else happens to the pool."""

    __slots__ = ("_closing", "_first_woken", "_opened", "_others_woken")

    # In C, all of this is so without a constructor, whose call costs as much as the object.
    if not cython.compiled:

        def __init__(self) -> None:
            # Most plans are empty, or wake one waiter; neither needs a list.
            self._opened: list[Slot] | None = None
            self._closing: list[Slot] | None = None
            self._first_woken: Waiter | None = None
            self._others_woken: list[Waiter] | None = None

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
        if self._first_woken is None:
            return []
        return [self._first_woken, *(self._others_woken or ())]

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
        if self._first_woken is None:
            self._first_woken = waiter
            return
        if self._others_woken is None:
            self._others_woken = []
        self._others_woken.append(waiter)

    @cython.cfunc
    @cython.exceptval(-1)
    def is_empty(self) -> cython.bint:
        return not (self._opened or self._closing or self._first_woken)

    @cython.cfunc
    @cython.exceptval(-1)
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
        like: "Route | None" = None,
    ) -> None:
        self.endpoint = endpoint
        self.key = key
        #: Whether no hook runs on a connection before it goes out and after it comes back.
        self.is_direct = is_direct
        #: Whether a check runs before it goes out.
        self.is_checked = is_checked
        #: The record that the last call found, which saves the next call the lookup; for a new
        #: route, that of another one with the same key.
        self.handshake: Handshake | None = None if like is None else like.handshake

    @cython.cfunc
    def record(self) -> Handshake | None:
        """Return the record that stands for the key, as far as is known."""
        handshake = self.handshake
        return None if handshake is None or handshake.dropped else handshake
