"""The pool itself: who gets what.

The core counts places, keeps free lists and waiter queues, and decides who gets what.  It is
synchronous, does no I/O and knows nothing of sessions, sockets and URLs.  Time comes in as an
argument (seconds of one monotonic clock); what is to be opened, closed or woken comes out as a
:class:`Plan`, to be carried out before anything else happens.

A place (:class:`Slot`) moves ``CONNECTING -> ACQUIRED <-> IDLE -> CLOSING -> GONE`` and counts
against the limits until it is gone.  Every path that frees a place ends in :meth:`Pool._freed`,
every connection that falls free in :meth:`Pool._hand_on`.

A handshake under way belongs to a waiter, its owner, or to nobody: then it is an *orphan*.  A
handshake that its caller has given up, or that is *late*, is *doubted*: it may still serve, but is
not counted on.  A waiter *leans* on a doubted handshake while there is no room for another.

Compiled as a part of ``_pool.pyx``; see ``_cython.py``.
"""

import heapq
import sys
from collections import OrderedDict
from collections.abc import Container, Hashable
from typing import Any

from . import _cython as cython

if not cython.compiled:
    from ._plain import size
    from ._records import (
        ACQUIRED,
        CLOSING,
        CONNECTING,
        COUNTERS,
        FOR_BOUND,
        FOR_LIMIT,
        FOR_NOBODY,
        FOR_TOTAL,
        GAUGES,
        GONE,
        IDLE,
        INFINITY,
        REASON_EVICTED,
        REASON_FORCED,
        REASON_IDLE,
        REASON_LIFETIME,
        REASON_LOST,
        Endpoint,
        Handshake,
        OrderedSlots,
        Plan,
        Slot,
        Waiter,
        first_waiter,
    )

#: How often the oldest waiter that could use a place is passed over by a younger one of the
#: released connection's own handshake, before that connection gives way.
MAX_PASSED_OVER = cython.declare(cython.int, 16)
#: Seconds that a handshake nobody waits for any more is let run on.
ORPHAN_GRACE = cython.declare(cython.double, 5.0)

#: A handshake is late when it takes so many times as long as is usual at its endpoint, but not
#: before so many seconds; late ones are looked for no more often than that.
LATE_FACTOR = cython.declare(cython.double, 4.0)
LATE_FLOOR = cython.declare(cython.double, 0.5)
# How much the newest duration of a handshake counts in a mean of durations, and how fast a long use
# of a connection is forgotten.
_NEWEST_SHARE = cython.declare(cython.double, 0.125)
_NEWEST_USE_SHARE = cython.declare(cython.double, 0.0625)
# How many seconds longer than usual a long use takes; the coarse clock may make a short use look as
# long as one of its ticks.
_LONGER = cython.declare(cython.double, 0.01)

#: A handshake is deferred while a released connection is expected within this share of a
#: handshake's duration.
DEFER_SHARE = cython.declare(cython.double, 0.5)
#: Where a waiter is expected to wait for more seconds than this, one handshake at a time begins all
#: the same: what is known of handshakes may be out of date.
LONG_WAIT = cython.declare(cython.double, 0.1)
#: The core looks at deferred handshakes when connections should have been released, after so many
#: times a use; at the latest after this share of a handshake's duration, and not before a third of
#: that.  It does not look after fewer seconds than a timer is exact to.
LOOK_FACTOR = cython.declare(cython.double, 1.25)
LOOK_SHARE = cython.declare(cython.double, 0.09)
SHORTEST_LOOK = cython.declare(cython.double, 0.001)
#: How much of the rate of releases in the last interval is expected from then on: while connections
#: fall into long uses one after another, each interval has fewer releases than the last.
RATE_SHARE = cython.declare(cython.double, 0.75)


#: More places than there can be.
NO_LIMIT = cython.declare(cython.Py_ssize_t, sys.maxsize)


#: A waiter, where there is one, and what is to be done.
Served = tuple[Waiter | None, Plan]
#: The counters of endpoints that are gone, and the endpoints that are not.
Counted = tuple[tuple[float, ...], list[Endpoint]]


@cython.cfunc
@cython.exceptval(-1)
def _cools_after(reason: cython.int, is_used: cython.bint) -> cython.bint:
    """Whether a server may still be working for a connection closed for this reason."""
    if reason == REASON_LOST:
        # A connection that was not in use has ended for the server, too.
        return is_used
    return reason not in (REASON_IDLE, REASON_LIFETIME, REASON_EVICTED, REASON_FORCED)


@cython.cfunc
@cython.exceptval(-1)
def _longest_deferral(endpoint: Endpoint) -> cython.double:
    """Return for how many seconds a handshake may be deferred."""
    return DEFER_SHARE * endpoint.shortest


@cython.cfunc
@cython.exceptval(-1)
def _look_interval(handshake: Handshake) -> cython.double:
    """Return the seconds between two looks at deferred handshakes."""
    longest: cython.double = LOOK_SHARE * handshake.endpoint.shortest
    seconds: cython.double = max(LOOK_FACTOR * handshake.use, longest / 3)
    return max(min(seconds, longest), SHORTEST_LOOK)


@cython.cfunc
def _first_to_go(orphans: OrderedSlots) -> Slot | None:
    """Return the first orphan that will not serve the waiter that is next for a place.

    With a slow server, each caller would otherwise stop the handshake that the last caller gave up.
    """
    slot: Slot
    for slot in orphans:
        head: Waiter | None = slot.handshake.endpoint.waiting.head
        if not slot.doubted or slot.late or head is None or head.handshake is not slot.handshake:
            return slot
    return None


@cython.cfunc
def _first_dispensable(orphans: OrderedSlots, longest_idle: Slot | None) -> Slot | None:
    """Return the slot that gives way first, if any can.

    First an orphan that serves nobody, then an idle connection, then an orphan that may yet serve
    the waiter who needs the place.
    """
    if not size(orphans):
        return longest_idle
    slot = _first_to_go(orphans)
    if slot is not None:
        return slot
    return next(iter(orphans)) if longest_idle is None else longest_idle


@cython.final
@cython.cclass
class Pool:
    """Places, free lists and queues of any number of endpoints.

    ``limit``, ``limit_total`` and ``max_connecting`` are numbers of places, 0 for no limit;
    ``max_waiting`` is a number of waiters, -1 for no limit; ``max_idle`` is in seconds;
    ``max_idle_connections`` is a number of idle connections over all endpoints, 0 for no bound;
    ``cooldown`` is in seconds.  With ``defers``, no handshake begins for a waiter as long as a
    connection in use is expected to fall free to it sooner.

    Keys are any hashable objects; a handshake's key must determine its endpoint's.
    """

    __slots__ = (
        "_being_cleared",
        "_claims",
        "_closing",
        "_cooldown",
        "_cooling",
        "_count",
        "_deferred",
        "_defers",
        "_endpoints",
        "_fading",
        "_handshakes",
        "_has_total",
        "_holds",
        "_holds_idle",
        "_idle",
        "_idle_heap",
        "_is_look_new",
        "_keep",
        "_leaning",
        "_limit",
        "_limit_total",
        "_look_heap",
        "_lowered",
        "_lowered_limit",
        "_max_connecting",
        "_max_idle",
        "_max_idle_connections",
        "_max_waiting",
        "_most",
        "_next_look",
        "_orphans",
        "_past",
        "_place_heap",
        "_places",
        "_places_to_keep",
        "_retiring",
        "_serial",
        "_slots",
        "_ticket",
        "_turn",
        "_unplaced",
        "_waiters",
        "_watched",
    )

    def __init__(
        self,
        *,
        limit: cython.Py_ssize_t = 0,
        limit_total: cython.Py_ssize_t = 0,
        max_connecting: cython.Py_ssize_t = 0,
        max_waiting: cython.Py_ssize_t = -1,
        max_idle: cython.double = INFINITY,
        max_idle_connections: cython.Py_ssize_t = 0,
        cooldown: cython.double = 0.0,
        defers: cython.bint = False,
    ) -> None:
        self._limit = limit
        self._limit_total = limit_total
        # What lead() allows: how many places may be taken, and above how many they are cleared.
        self._places = NO_LIMIT
        self._places_to_keep = NO_LIMIT
        self._holds = False
        self._set_totals()
        self._max_connecting = max_connecting
        self._max_waiting = max_waiting
        self._max_idle = max_idle
        self._max_idle_connections = max_idle_connections or NO_LIMIT
        self._cooldown = cooldown
        self._defers = defers
        self._endpoints: dict[Hashable, Endpoint] = {}
        self._handshakes: dict[Hashable, Handshake] = {}
        #: All slots but those that are gone.
        self._slots: dict[Slot, None] = {}
        self._count = 0
        self._idle = 0
        self._closing = 0
        self._waiters = 0
        # Whether any connection has a limited lifetime.
        self._retiring = False
        # Whether a limit was lowered below the number of open connections, which then exceed it;
        # and whether resize() did so for an endpoint or for all.
        self._lowered = False
        self._lowered_limit = False
        self._ticket = 0
        self._serial = 0
        # Under limit_total: places wanted, and places being cleared for those who want them.
        self._claims = 0
        self._being_cleared = 0
        # Endpoints whose oldest waiter lacks only room over all endpoints: (ticket, ., endpoint).
        self._place_heap: list[tuple[int, int, Endpoint]] = []
        # Endpoints with idle connections: (not after the longest idle one's since, ., endpoint).
        self._idle_heap: list[tuple[float, int, Endpoint]] = []
        self._orphans: OrderedDict[Slot, None] = OrderedDict()
        # The orphans that are not kept, in the order in which they will be stopped.
        self._fading: OrderedDict[Slot, None] = OrderedDict()
        # Endpoints with waiters that rely on doubted handshakes.
        self._leaning: dict[Endpoint, None] = {}
        # Handshakes that have begun and are not late, oldest first; when to look for late ones.
        self._watched: OrderedDict[Slot, None] = OrderedDict()
        self._next_look = -INFINITY
        # How many waiters whose handshakes are deferred have a place, and those without, in order
        # of arrival; when to look at them: (look_at, ., handshake); whether the first of these
        # times may be earlier than next_deadline() last said.
        self._deferred = 0
        self._unplaced: OrderedDict[Waiter, None] = OrderedDict()
        self._look_heap: list[tuple[float, int, Handshake]] = []
        self._is_look_new = False
        self._turn = 0
        # Closing slots whose sockets are gone and whose places stay taken for cooldown, in the
        # order in which they become free: all stay for equally long.
        self._cooling: OrderedDict[Slot, None] = OrderedDict()
        # Counters of endpoints that are gone, and the serial number of the last of these endpoints.
        self._past: tuple[tuple[float, ...], int] = ((0,) * len(COUNTERS), 0)

    # -- the two operations of the hot path ------------------------------------------------------

    @cython.ccall
    def acquire(
        self, key: Hashable, now: cython.double, handshake: Handshake | None = None
    ) -> Slot | None:
        """Take an idle connection of the handshake ``key``, if there is a fresh one on top.

        ``handshake`` is the record of the handshake if known, which saves the lookup; it must not
        be dropped.
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
        slot.since = now
        slot.uses += 1
        # One addition each: another thread may read the counters between any two lines.
        if slot.uses == 1:
            # The first use of a connection that was opened ahead: a request, but no reuse.
            endpoint.requests += 1
        else:
            endpoint.hits += 1
        return slot

    @cython.ccall
    def find(self, key: Hashable) -> Handshake | None:
        """Return the record of the handshake ``key``, if there is anything alive of it."""
        return self._handshakes.get(key)

    @cython.ccall
    def release(self, slot: Slot, now: cython.double) -> Plan | None:
        """Give an acquired connection back; it must be fit for another's use."""
        if slot.state != ACQUIRED:
            raise ValueError("only an acquired slot can be released")
        if slot.waiter is not None:
            raise ValueError("a slot that was given must be taken before it can be released")
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.released += 1
        if not slot.drained:
            seconds: cython.double = now - slot.since
            # Before the first release, use is -1.
            if seconds > handshake.use + _LONGER:
                handshake.use = seconds
            else:
                handshake.use += (seconds - handshake.use) * _NEWEST_USE_SHARE
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

    if not cython.compiled:

        def only_parks(self, slot: Slot, now: float) -> bool:
            """Whether :meth:`release` is sure to have nothing to do but to park the connection."""
            return not (
                self._waiters
                or slot.retires <= now
                or self._lowered
                or self._idle >= self._max_idle_connections
            )

    # -- callers that find nothing idle ----------------------------------------------------------

    @cython.ccall
    def request(
        self,
        endpoint_key: Hashable,
        key: Hashable,
        now: cython.double,
        may_wait: cython.bint = True,
        handshake: Handshake | None = None,
    ) -> Served:
        """Queue a caller.

        The waiter that comes back may hold a connection already: see :meth:`take`.  ``None`` in its
        place: the line at this endpoint is full, or it would have to wait and may not.
        ``handshake`` is as for :meth:`acquire`.
        """
        plan = Plan()
        waiter = Waiter()
        if self.queue(waiter, plan, endpoint_key, key, now, may_wait, handshake):
            return waiter, plan
        return None, plan

    @cython.cfunc
    @cython.exceptval(-1)
    def queue(
        self,
        waiter: Waiter,
        plan: Plan,
        endpoint_key: Hashable,
        key: Hashable,
        now: cython.double,
        may_wait: cython.bint,
        handshake: Handshake | None,
    ) -> cython.bint:
        """Do what :meth:`request` does, with a waiter and a plan of the caller's making.

        False: the waiter may not wait.
        """
        if handshake is None:
            handshake = self._handshake(endpoint_key, key)
        self._close_stale(handshake, plan, now)
        if handshake.dropped:
            # It had only stale connections.
            handshake = self._handshake(endpoint_key, key)
        endpoint = handshake.endpoint
        endpoint.requests += 1
        waiter.handshake = handshake
        waiter.ticket = self._ticket
        waiter.may_wait = may_wait
        waiter.since = now
        self._ticket += 1
        slot: Slot | None = handshake.idle.top
        if slot is not None:
            self._unpark(slot)
            self._give(slot, waiter, now)
            self._clear_places(plan)
        elif not may_wait:
            endpoint.timeouts += 1
            self._clear_places(plan)
            self._drop_dead(handshake)
            return False
        elif self._is_full(handshake):
            endpoint.rejected += 1
            self._clear_places(plan)
            self._drop_dead(handshake)
            return False
        else:
            endpoint.queued += 1
            self._line_up(waiter, now)
            if self._spares_idle(waiter, now):
                endpoint.waiting.remove(waiter)
                self._defer(waiter, now, reserves=False)
            self._settle(endpoint, plan, now)
        return True

    @cython.ccall
    def take(self, waiter: Waiter) -> Slot | None:
        """Return the connection given to a waiter, who must now release or discard it.

        ``None``: the waiter has no connection, or it died; then the waiter is back at the head of
        its line, unless it may not wait.
        """
        slot = waiter.slot
        if slot is not None:
            self._take_back(slot)
            if slot.uses > 1:
                slot.handshake.endpoint.reused += 1
        return slot

    @cython.ccall
    def decline(self, waiter: Waiter) -> Slot | None:
        """Like :meth:`take`, for a waiter that will not use the connection: no use is counted.

        The connection must now be put back or discarded.
        """
        slot = waiter.slot
        if slot is not None:
            self._take_back(slot)
            slot.uses -= 1
        return slot

    def give_up(self, waiter: Waiter, now: cython.double, timed_out: cython.bint) -> Plan | None:
        """Take a waiter out of the line; :meth:`take` returns a connection it was given already.

        ``timed_out`` counts a timeout, unless the waiter has had its connection.
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

    def open(self, endpoint_key: Hashable, key: Hashable, now: cython.double) -> Slot | None:
        """Return a place for a handshake that no caller waits for; ``None``: there is no room.

        There is no room either if its connection, once open, would be one idle connection too many.
        A caller that comes meanwhile takes the handshake over.  The handshake gives way to a caller
        that needs the place, but is not stopped for lack of a waiter until :meth:`abandon`.

        If the first waiter with ``key`` that has no handshake has a place reserved, this one begins
        there, and is the waiter's.
        """
        handshake = self._handshake(endpoint_key, key)
        endpoint = handshake.endpoint
        has_room: cython.bint
        first: Waiter | None = handshake.placeless.head
        if first is not None and first.deferred and not first.unplaced:
            has_room = not 0 < self._max_connecting <= endpoint.connecting
        else:
            busy: cython.Py_ssize_t = endpoint.connecting + endpoint.deferred
            has_room = not 0 < self._max_connecting <= busy and self._has_room(endpoint)
        if not has_room or self._idle + len(self._orphans) >= self._max_idle_connections:
            self._drop_dead(handshake)
            return None
        slot = self._new_slot(handshake, now)
        slot.kept = True
        self._orphan(slot, now)
        if first is not None:
            self._give_orphans(handshake)
        return slot

    def abandon(self, slot: Slot, now: cython.double) -> None:
        """Record that nobody wants the slot from :meth:`open` any more."""
        if slot.kept and slot in self._orphans:
            if slot.began <= now:
                self._adopt(slot)
                self._doubt(slot, now)
                self._orphan(slot, now)
            else:
                slot.since = now
                self._fading[slot] = None
        slot.kept = False

    def stop(self, slot: Slot) -> Plan:
        """Stop a handshake that belongs to nobody and holds up others outside the pool."""
        plan = Plan()
        if slot.state == CONNECTING and slot.owner is None:
            self._give_way(slot, FOR_NOBODY, plan)
            self._clear_places(plan)
        return plan

    def begin(self, slot: Slot, now: cython.double) -> None:
        """Record that the handshake in ``slot`` is under way; from now on it can be late.

        A handshake that still waits for something else, such as a limit of connects per minute,
        is not under way.
        """
        if slot.state == CONNECTING and slot.began == INFINITY:
            slot.began = now
            self._watched[slot] = None

    def connected(
        self,
        slot: Slot,
        now: cython.double,
        retires: cython.double = INFINITY,
        key: Hashable = None,
        moves: cython.bint = True,
    ) -> Plan:
        """Record that a handshake succeeded.

        From ``retires`` on the connection is not handed out again.  ``key`` is the handshake that
        the connection is filed under from now on, if it differs from the one it was opened for.
        With ``moves``, callers that wait for a place move to that key, since their handshakes would
        turn out the same.  Without, the connection is for the caller that it was begun for; a
        caller that has taken it over goes back to the line.
        """
        plan = Plan()
        handshake = slot.handshake
        endpoint = handshake.endpoint
        is_another: cython.bint = key is not None and key != handshake.key
        if not is_another:
            self._give_to_first(slot)
        owner = slot.owner
        self._turn_open(slot, now, retires)
        if handshake.deferred.head is not None and handshake.look_at > now + _look_interval(
            handshake
        ):
            # Handshakes have become faster.
            self._plan_look(handshake, now)
        first: Waiter | None
        if is_another:
            first = self._rekey(slot, key, owner, moves, plan, now)
        else:
            first = first_waiter(handshake)
        if first is not None:
            # Nobody is passed over: the connection was opened for one of these waiters.
            self._serve(first, slot, plan, now)
        # The owner may be back in the line.
        self._give_orphans(handshake)
        if first is not None:
            self._settle(endpoint, plan, now)
        else:
            self._hand_on(slot, plan, now)
        self._drop_dead(handshake)
        return plan

    def connect_failed(
        self, slot: Slot, now: cython.double, failure: Any = None
    ) -> tuple[Waiter | None, Plan]:
        """Record that a handshake failed; returns the waiter that fails with it, if there is one.

        :meth:`situation` returns ``failure``; the core never looks at it.
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
            # The connection was open, and a reply to a request on it may be on its way.
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

    def resize(
        self, limit: cython.Py_ssize_t, limit_total: cython.Py_ssize_t, now: cython.double
    ) -> Plan:
        """Set new limits, 0 for none.

        Waiters get the room that the limits leave.  Surplus slots are closed: handshakes without an
        owner first, then the longest idle connections.  A connection in use, or a handshake of
        a waiter, is closed when it falls free.  No handshake is deferred any more if the limits
        leave no room for the places that are taken and reserved.
        """
        endpoint: Endpoint
        plan = Plan()
        self._limit = limit
        self._limit_total = limit_total
        self._set_totals()
        self._lowered = True
        endpoints = list(self._endpoints.values())
        lacks_room: cython.bint = self._most < self._count + self._deferred
        for endpoint in endpoints:
            lacks_room = lacks_room or 0 < limit < endpoint.count + endpoint.deferred
        if lacks_room:
            self._stop_deferring()
        for endpoint in endpoints:
            self._trim_to_limit(endpoint, plan)
        self._index_all()
        for endpoint in endpoints:
            self._settle(endpoint, plan, now)
        lowered: cython.bint = False
        for endpoint in endpoints:
            lowered = lowered or self._is_surplus(endpoint)
        self._lowered = self._lowered_limit = lowered
        return plan

    def lead(
        self,
        places: cython.Py_ssize_t,
        keep: cython.Py_ssize_t,
        now: cython.double,
        holds: cython.bint = False,
    ) -> Plan:
        """Set how many places a limit shared with other processes leaves to this pool.

        Handshakes begin while fewer than ``places`` places are taken; above ``keep``, at least as
        many, surplus slots are closed as by :meth:`resize`.  Between the two, open connections are
        used as ever, and nothing is closed to make room.  ``limit_total`` holds besides.  With
        ``holds``, there may be more places soon: until then, nothing is closed for waiters that
        lack only these, and ``max_waiting`` refuses none of them.  The cost depends on what is
        opened and closed, not on the number of connections.
        """
        plan = Plan()
        had_total: cython.bint = self._has_total
        self._places = places
        self._places_to_keep = keep
        self._holds = holds
        self._set_totals()
        if self._most < self._count + self._deferred:
            self._stop_deferring()
            self._index_all()
        elif had_total != self._has_total:
            self._index_all()
        self._lowered = self._lowered_limit or self._is_over_total()
        self._trim_to_total(plan)
        if self._has_total:
            self._give_places(None, plan, now)
            self._clear_places(plan)
        return plan

    def stop_opening(self, now: cython.double) -> Plan:
        """Stop all handshakes under way; their waiters go back to the heads of their lines."""
        slot: Slot
        endpoint: Endpoint
        plan = Plan()
        for slot in list(self._slots):
            if slot.state == CONNECTING:
                self._give_way(slot, FOR_NOBODY, plan)
        endpoints = list(self._endpoints.values())
        # All first, so that free places go to the oldest waiters.
        for endpoint in endpoints:
            self._index(endpoint)
        for endpoint in endpoints:
            self._settle(endpoint, plan, now)
        return plan

    def lacking(self) -> int:
        """Return how many more places waiters would use at once, if only there were more in all."""
        return max(0, self._claims - self._being_cleared)

    def reserved_count(self, endpoint_key: Hashable = None) -> int:
        """Return how many places are reserved for deferred handshakes, there or in all."""
        if endpoint_key is None:
            return self._deferred
        endpoint: Endpoint | None = self._endpoints.get(endpoint_key)
        return 0 if endpoint is None else endpoint.deferred

    def closing_count(self) -> int:
        """Return how many places are taken by connections that are being closed."""
        return self._closing

    def stranded(self) -> list[Waiter]:
        """Return the waiters with whose handshakes nothing is open or being opened."""
        handshake: Handshake
        found: list[Waiter] = []
        for handshake in self._handshakes.values():
            if handshake.live == handshake.placeless.size:
                waiter: Waiter | None = handshake.placeless.head
                while waiter is not None:
                    found.append(waiter)
                    waiter = waiter.inner_next
        return found

    def idle_since(self, then: cython.double, most: cython.Py_ssize_t) -> int:
        """Return how many connections have been idle since ``then`` or longer, up to ``most``."""
        endpoint: Endpoint
        count: cython.Py_ssize_t = 0
        for endpoint in self._endpoints.values():
            slot: Slot | None = endpoint.idle.head
            while slot is not None and slot.since <= then and count < most:
                count += 1
                slot = slot.outer_next
        return count

    # -- retiring --------------------------------------------------------------------------------

    def drain(self, keys: Container[Hashable] | None) -> Plan:
        """Close the idle connections of these handshakes (``None``: of all), the others when free.

        Later callers get connections that were opened after this call.
        """
        slot: Slot
        plan = Plan()
        for slot in list(self._slots):
            if slot.state == CLOSING or (keys is not None and slot.handshake.key not in keys):
                continue
            if slot.state == IDLE:
                self._close_idle(slot, REASON_FORCED, plan)
                continue
            slot.drained = True
            slot.retires = -INFINITY
            # What is in use will not fall free.
            slot.handshake.use = -1.0
            if slot.state == CONNECTING and slot.owner is None:
                self._give_way(slot, FOR_NOBODY, plan)
        self._clear_places(plan)
        return plan

    def retire(self, slot: Slot) -> Plan:
        """Close the other idle connections of its handshake that are as old, or older."""
        plan = Plan()
        other: Slot | None = slot.handshake.idle.top
        while other is not None:
            below: Slot | None = other.inner_prev
            if other is not slot and other.born <= slot.born:
                self._close_idle(other, REASON_FORCED, plan)
            other = below
        self._clear_places(plan)
        return plan

    def evict(self, count: cython.Py_ssize_t) -> Plan:
        """Close up to ``count`` idle connections, the longest idle of all endpoints first."""
        plan = Plan()
        while count > 0 and self._evict_longest_idle(plan):
            count -= 1
        self._clear_places(plan)
        return plan

    def detach(self, slot: Slot, now: cython.double) -> Plan | None:
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
        """Take an idle connection out for the pool itself, until :meth:`put_back` or discard."""
        if slot.state != IDLE:
            raise ValueError("only an idle slot can be set aside")
        self._unpark(slot)

    def put_back(self, slot: Slot, now: cython.double) -> Plan:
        """Give a connection that was set aside or declined to a waiter, or make it idle again."""
        if slot.state != ACQUIRED or slot.waiter is not None:
            raise ValueError("only an acquired slot can be put back")
        plan = Plan()
        self._hand_on(slot, plan, now)
        return plan

    # -- connections that end --------------------------------------------------------------------

    def discard(self, slot: Slot, reason: cython.int, now: cython.double) -> Plan | None:
        """Record that a connection is being closed; its place is kept until :meth:`closed`.

        A waiter that was given the connection and has not woken gets another idle connection, or
        goes back to the head of its line; a waiter that may not wait has timed out.

        The place cools down if the connection was in use or has sent an unexpected message; not if
        the connection was released, fit for reuse, and is just not pooled.
        """
        is_used: cython.bint = slot.state == ACQUIRED and slot.waiter is None
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
        if self._claims > self._being_cleared:
            cleared = Plan() if plan is None else plan
            self._clear_places(cleared)
            plan = plan if cleared.is_empty() else cleared
        self._drop_dead(handshake)
        return plan

    def closed(self, slot: Slot, now: cython.double) -> Plan | None:
        """Record that the socket of a closing connection or a stopped handshake is gone."""
        if slot.state != CLOSING:
            return None
        if slot.cools and self._cooldown > 0:
            if slot in self._cooling:
                return None
            self._cool_down(slot, now)
            # From now on there is something to expire.
            return Plan()
        plan: Plan | None = Plan() if self._waiters else None
        self._end_closing(slot, plan, now)
        return plan

    def postpone_look(self, now: cython.double) -> None:
        """Look for late handshakes later: on a busy machine all take longer than usual."""
        self._next_look = now + LATE_FLOOR

    def expire(self, now: cython.double) -> Plan:
        """Close connections that were idle or alive for too long, and handshakes nobody waits for.

        Places that have cooled down become free.
        """
        endpoint: Endpoint
        plan = Plan()
        slot: Slot | None = self._longest_idle()
        while slot is not None and slot.since + self._max_idle <= now:
            self._close_idle(slot, REASON_IDLE, plan)
            slot = self._longest_idle()
        if self._retiring:
            for endpoint in list(self._endpoints.values()):
                slot = endpoint.idle.head
                while slot is not None:
                    after: Slot | None = slot.outer_next
                    if slot.retires <= now:
                        self._close_idle(slot, REASON_LIFETIME, plan)
                    slot = after
        while self._fading:
            orphan: Slot = next(iter(self._fading))
            if orphan.since + ORPHAN_GRACE > now:
                break
            leaning = orphan.owner
            self._give_way(orphan, FOR_NOBODY, plan)
            if leaning is not None:
                self._give_orphans(leaning.handshake)
                self._settle(leaning.handshake.endpoint, plan, now)
        if self._watched and self._look_deadline() <= now:
            self._look(plan, now)
        if self._look_heap:
            self._look_at_deferred(plan, now)
        while self._cooling:
            cooled: Slot = next(iter(self._cooling))
            if cooled.since + self._cooldown > now:
                break
            del self._cooling[cooled]
            self._end_closing(cooled, plan, now)
        self._clear_places(plan)
        return plan

    def next_deadline(self) -> float:
        """Return when :meth:`expire` next has something to do (lifetimes apart)."""
        slot = self._longest_idle()
        deadline: cython.double = INFINITY if slot is None else slot.since + self._max_idle
        self._is_look_new = False
        deadline = min(deadline, self._next_look_at_deferred())
        if self._fading:
            orphan: Slot = next(iter(self._fading))
            deadline = min(deadline, orphan.since + ORPHAN_GRACE)
        if self._watched:
            deadline = min(deadline, self._look_deadline())
        if self._cooling:
            cooling: Slot = next(iter(self._cooling))
            deadline = min(deadline, cooling.since + self._cooldown)
        return deadline

    def shutdown(
        self, reason: cython.int, now: cython.double, spares_used: cython.bint = False
    ) -> tuple[list[Waiter], Plan]:
        """Empty the line and start closing everything; returns the waiters, and what to close.

        With ``spares_used``, connections in use are not closed before they are released.  No place
        cools down any more.
        """
        handshake: Handshake
        waiter: Waiter | None
        slot: Slot
        waiters: list[Waiter] = []
        plan = Plan()
        for handshake in list(self._handshakes.values()):
            while (waiter := first_waiter(handshake)) is not None:
                self._leave(waiter, plan, now)
                waiters.append(waiter)
            self._index(handshake.endpoint)
        for slot in list(self._slots):
            if slot.state == CONNECTING:
                self._give_way(slot, FOR_NOBODY, plan)
            elif slot.state == ACQUIRED and spares_used and slot.waiter is None:
                slot.drained = True
                slot.retires = -INFINITY
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
        # From now on, closed connections make room for nobody.
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
        handshake: Handshake | None = self._handshakes.get(key)
        if handshake is None:
            return 0
        waiters: cython.Py_ssize_t = handshake.placeless.size + handshake.opening.size
        return handshake.live - waiters - handshake.doubts

    def spare_count(self, key: Hashable, most: cython.Py_ssize_t) -> int:
        """Return how many connections of the handshake are idle or being opened for nobody.

        Handshakes that are doubted do not count.  What is idle is counted on the way, up to
        ``most``, as a number kept of it would be paid for by each use.
        """
        handshake: Handshake | None = self._handshakes.get(key)
        if handshake is None:
            return 0
        spare: cython.Py_ssize_t = len(handshake.orphans)
        slot: Slot | None = handshake.idle.top
        while slot is not None and spare < most:
            spare += 1
            slot = slot.inner_prev
        return spare

    def gauges(self) -> tuple[int, ...]:
        """Return them over all endpoints, in the order of ``GAUGES``.

        This, :meth:`counters` and :meth:`by_endpoint` can be called in any thread.
        """
        endpoint: Endpoint
        totals = [0] * len(GAUGES)
        for endpoint in self._records()[1]:
            totals = [a + b for a, b in zip(totals, endpoint.gauges(), strict=True)]
        return tuple(totals)

    def counters(self) -> tuple[float, ...]:
        """Return them since the beginning, in the order of ``COUNTERS``; none ever falls."""
        endpoint: Endpoint
        totals, endpoints = self._records()
        for endpoint in endpoints:
            totals = tuple([a + b for a, b in zip(totals, endpoint.counters(), strict=True)])
        return totals

    def by_endpoint(self) -> dict[Hashable, tuple[tuple[int, ...], tuple[float, ...]]]:
        """Return the gauges and counters of each endpoint that has anything alive."""
        return {e.key: (e.gauges(), e.counters()) for e in self._records()[1]}

    def situation(
        self, endpoint_key: Hashable, now: cython.double
    ) -> tuple[tuple[int, ...], str, float, Any]:
        """Return the gauges of an endpoint, the limit it has reached, and how its handshakes go.

        The limit is ``"limit"``, ``"limit_total"``, ``"fleet"`` (that of :meth:`lead`) or
        ``"max_connecting"``; ``""``: none.  Then come the seconds since the oldest handshake under
        way got its place, -1 without one, and the ``failure`` of the last handshake that failed.
        """
        endpoint: Endpoint | None = self._endpoints.get(endpoint_key)
        if endpoint is None:
            return (0,) * len(GAUGES), self._total_reached(), -1.0, None
        lacking = ""
        if self._is_at_limit(endpoint):
            lacking = "limit"
        elif self._is_at_total():
            lacking = self._total_reached()
        elif self._is_connecting_full(endpoint):
            lacking = "max_connecting"
        oldest: Slot | None = endpoint.under_way.head
        age: cython.double = -1.0 if oldest is None else now - oldest.born
        return endpoint.gauges(), lacking, age, endpoint.failure

    @cython.cfunc
    def _total_reached(self) -> str:
        """Return which limit over all endpoints is reached; ``""``: none."""
        if not self._is_at_total():
            return ""
        taken: cython.Py_ssize_t = self._count + self._deferred
        return "limit_total" if 0 < self._limit_total <= taken else "fleet"

    @cython.cfunc
    def _records(self) -> Counted:
        """Return the counters of endpoints that are gone, and all others, each exactly once.

        Another thread may ask at any point of :meth:`_drop_dead`, and be stopped at any here.  What
        is in the past already and not yet deleted is known by its serial.  An endpoint that goes
        later goes on to be read from its record, which nobody changes any more.
        """
        last: cython.Py_ssize_t
        while True:
            past = self._past
            # One step: another thread cannot run in between, as it could inside a loop.
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
            "deferred": self._deferred,
            "unplaced": len(self._unplaced),
            "look_heap": len(self._look_heap),
            "place_heap": len(self._place_heap),
            "idle_heap": len(self._idle_heap),
        }

    # -- records ---------------------------------------------------------------------------------

    @cython.cfunc
    def _handshake(self, endpoint_key: Hashable, key: Hashable) -> Handshake:
        handshake: Handshake | None = self._handshakes.get(key)
        if handshake is None:
            endpoint: Endpoint | None = self._endpoints.get(endpoint_key)
            if endpoint is None:
                self._serial += 1
                endpoint = self._endpoints[endpoint_key] = Endpoint(endpoint_key, self._serial)
            endpoint.handshakes += 1
            handshake = self._handshakes[key] = Handshake(endpoint, key)
        return handshake

    @cython.cfunc
    def _drop_dead(self, handshake: Handshake) -> None:
        endpoint = handshake.endpoint
        if handshake.live == 0 and not handshake.dropped:
            handshake.dropped = True
            handshake.look_at = INFINITY
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

    @cython.cfunc
    def _new_slot(self, handshake: Handshake, now: cython.double) -> Slot:
        slot = Slot(handshake, now)
        self._slots[slot] = None
        handshake.live += 1
        handshake.endpoint.count += 1
        handshake.connecting += 1
        handshake.endpoint.connecting += 1
        handshake.endpoint.under_way.append(slot)
        self._count += 1
        return slot

    @cython.cfunc
    def _freed(self, slot: Slot) -> None:
        """Set a place free; no other code does."""
        slot.state = GONE
        slot.handshake.endpoint.count -= 1
        self._count -= 1
        del self._slots[slot]

    # -- idle connections ------------------------------------------------------------------------

    @cython.cfunc
    def _park(
        self, slot: Slot, handshake: Handshake, endpoint: Endpoint, now: cython.double
    ) -> None:
        slot.state = IDLE
        slot.since = now
        expires: cython.double = now + self._max_idle
        slot.expires = expires if expires < slot.retires else slot.retires
        endpoint.acquired -= 1
        self._idle += 1
        handshake.idle.push(slot)
        endpoint.idle.append(slot)
        if not endpoint.in_idle_heap:
            self._index_idle(endpoint, now)

    @cython.cfunc
    def _unpark(self, slot: Slot) -> None:
        handshake = slot.handshake
        endpoint = handshake.endpoint
        handshake.idle.remove(slot)
        endpoint.idle.remove(slot)
        self._idle -= 1
        endpoint.acquired += 1
        slot.state = ACQUIRED

    @cython.cfunc
    def _index_idle(self, endpoint: Endpoint, since: cython.double) -> None:
        heap = self._idle_heap
        if len(heap) > 2 * len(self._endpoints) + 16:
            # Entries of endpoints that are gone would pile up where nothing ever expires.
            heap[:] = [entry for entry in heap if self._endpoints.get(entry[2].key) is entry[2]]
            heapq.heapify(heap)
        endpoint.in_idle_heap = True
        heapq.heappush(heap, (since, endpoint.serial, endpoint))

    @cython.cfunc
    def _longest_idle(self) -> Slot | None:
        # An endpoint's longest idle connection only ever gets younger, so an entry is a lower
        # bound, put right when it comes to the top.
        serial: cython.Py_ssize_t
        endpoint: Endpoint
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

    @cython.cfunc
    @cython.exceptval(-1)
    def _evict_longest_idle(self, plan: Plan) -> cython.bint:
        """Close the longest idle connection; False: none is idle."""
        slot = self._longest_idle()
        if slot is None:
            return False
        slot.cleared_for = FOR_BOUND
        self._close_idle(slot, REASON_EVICTED, plan)
        return True

    @cython.cfunc
    def _close_stale(self, handshake: Handshake, plan: Plan, now: cython.double) -> None:
        slot: Slot | None
        while (slot := handshake.idle.top) is not None and slot.expires <= now:
            self._close_idle(slot, REASON_LIFETIME if slot.retires <= now else REASON_IDLE, plan)

    @cython.cfunc
    def _close_idle(self, slot: Slot, reason: cython.int, plan: Plan) -> None:
        self._unpark(slot)
        self._start_closing(slot, reason)
        plan.close(slot)
        self._drop_dead(slot.handshake)

    @cython.cfunc
    def _start_closing(self, slot: Slot, reason: cython.int) -> None:
        """From acquired to closing; the caller adds the slot to its plan."""
        handshake = slot.handshake
        endpoint = handshake.endpoint
        slot.state = CLOSING
        slot.reason = reason
        endpoint.acquired -= 1
        endpoint.closing += 1
        self._closing += 1
        endpoint.closed[reason] += 1
        handshake.live -= 1

    @cython.cfunc
    def _cool_down(self, slot: Slot, now: cython.double) -> None:
        slot.since = now
        self._cooling[slot] = None

    @cython.cfunc
    def _end_closing(self, slot: Slot, plan: Plan | None, now: cython.double) -> None:
        """Set the place of a closing slot free; ``plan`` may be None where nobody waits."""
        endpoint = slot.handshake.endpoint
        endpoint.closing -= 1
        self._closing -= 1
        if slot.cleared_for == FOR_LIMIT:
            endpoint.being_cleared -= 1
        elif slot.cleared_for == FOR_TOTAL:
            self._being_cleared -= 1
        self._freed(slot)
        if self._waiters:
            assert plan is not None
            self._settle(endpoint, plan, now)
        self._drop_dead(slot.handshake)

    # -- handshakes under way --------------------------------------------------------------------

    @cython.cfunc
    def _own(self, waiter: Waiter, slot: Slot) -> None:
        waiter.opening = slot
        slot.owner = waiter
        waiter.handshake.opening.insert_by_ticket(waiter)
        if slot.doubted:
            waiter.handshake.endpoint.leaning.append(waiter)
            self._leaning[waiter.handshake.endpoint] = None

    @cython.cfunc
    def _disown(self, waiter: Waiter, slot: Slot) -> None:
        waiter.opening = None
        slot.owner = None
        waiter.handshake.opening.remove(waiter)
        if slot.doubted:
            endpoint = waiter.handshake.endpoint
            endpoint.leaning.remove(waiter)
            if endpoint.leaning.head is None:
                del self._leaning[endpoint]

    @cython.cfunc
    def _orphan(self, slot: Slot, now: cython.double) -> None:
        handshake = slot.handshake
        slot.owner = None
        handshake.endpoint.orphans[slot] = None
        self._orphans[slot] = None
        if slot.doubted:
            # It gives way before the orphans that are counted on.
            handshake.endpoint.orphans.move_to_end(slot, last=False)
            self._orphans.move_to_end(slot, last=False)
            if not slot.late:
                handshake.doubted[slot] = None
            return
        slot.since = now
        handshake.orphans[slot] = None
        if not slot.kept:
            self._fading[slot] = None

    @cython.cfunc
    def _leave_to_nobody(self, slot: Slot, plan: Plan, now: cython.double) -> None:
        """Make a handshake an orphan, until a waiter takes it over."""
        self._orphan(slot, now)
        if slot.drained:
            # Later callers get handshakes that began after drain().
            self._give_way(slot, FOR_NOBODY, plan)

    @cython.cfunc
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

    @cython.cfunc
    def _stop_connecting(self, slot: Slot) -> None:
        """Take a handshake from its owner, who then stands in line without a place."""
        owner = slot.owner
        if owner is None:
            self._adopt(slot)
        else:
            self._disown(owner, slot)
            self._return_to_line(owner)
        slot.handshake.connecting -= 1
        slot.handshake.endpoint.connecting -= 1
        slot.handshake.endpoint.under_way.remove(slot)
        if slot.began < INFINITY:
            self._watched.pop(slot, None)
        if slot.doubted:
            del self._fading[slot]
            slot.handshake.doubts -= 1
            slot.doubted = False

    # -- handshakes that hang --------------------------------------------------------------------

    @cython.cfunc
    def _doubt(self, slot: Slot, now: cython.double) -> None:
        """Stop counting on a handshake: its grace begins, whoever relies on it."""
        slot.doubted = True
        slot.kept = False
        slot.since = now
        slot.handshake.doubts += 1
        self._fading[slot] = None

    @cython.cfunc
    def _learn(self, endpoint: Endpoint, seconds: cython.double) -> None:
        """Update the usual duration of handshakes.

        The usual duration rises at once and falls slowly: among handshakes that begin together, the
        last take much longer than the first, and are not late.  The shortest duration falls at once
        and rises slowly: a waiter with a deferred handshake would rather have begun one too many
        than wait for longer than a handshake takes.
        """
        if endpoint.shortest < 0 or seconds < endpoint.shortest:
            endpoint.shortest = seconds
        else:
            endpoint.shortest += (seconds - endpoint.shortest) * _NEWEST_SHARE
        if seconds > endpoint.usual:
            endpoint.usual = seconds
        else:
            endpoint.usual += (seconds - endpoint.usual) * _NEWEST_SHARE

    @cython.cfunc
    @cython.exceptval(-1)
    def _patience(self, endpoint: Endpoint) -> cython.double:
        """Return after how many seconds a handshake is late."""
        if endpoint.usual < 0:
            return endpoint.patience
        patience: cython.double = LATE_FACTOR * endpoint.usual
        if patience < LATE_FLOOR:
            patience = LATE_FLOOR
        # Among a hundred handshakes that begin together, the last waits for all the others.
        return patience * (1 + endpoint.connecting // 8)

    @cython.cfunc
    @cython.exceptval(-1)
    def _patience_of(self, owner: Waiter, endpoint: Endpoint) -> cython.double:
        """Return after how many seconds the handshake of a waiter is late.

        The time doubles with each late handshake of the waiter, or a server that hangs would get a
        storm of handshakes.
        """
        patience: cython.double = self._patience(endpoint)
        # Until a handshake has succeeded, the patience of the endpoint doubles instead.
        return patience if endpoint.usual < 0 else patience * 2.0**owner.hedges

    @cython.cfunc
    @cython.exceptval(-1)
    def _look_deadline(self) -> cython.double:
        oldest: Slot = next(iter(self._watched))
        return max(self._next_look, oldest.began + LATE_FLOOR)

    @cython.cfunc
    def _look(self, plan: Plan, now: cython.double) -> None:
        """Look for handshakes that are late."""
        slot: Slot
        self._next_look = now + LATE_FLOOR
        late = []
        for slot in self._watched:
            if slot.began + LATE_FLOOR > now:
                break
            if slot.began + self._patience(slot.handshake.endpoint) <= now:
                late.append(slot)
        for slot in late:
            # One late handshake may have given way to the waiter of another.
            if slot in self._watched:
                self._turn_late(slot, plan, now)

    @cython.cfunc
    def _turn_late(self, slot: Slot, plan: Plan, now: cython.double) -> None:
        """Give a waiter whose handshake is late another handshake beside it.

        That is an orphan if there is one, or else a new handshake.
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
            # Handshakes that began together count once.
            endpoint.patience = max(endpoint.patience, 2 * (now - slot.began))
        del self._watched[slot]
        slot.late = True
        if not slot.doubted:
            self._doubt(slot, now)
        self._leave_to_nobody(slot, plan, now)
        self._give_orphans(slot.handshake)
        self._settle(endpoint, plan, now)

    @cython.cfunc
    @cython.exceptval(-1)
    def _has_free_room(self, endpoint: Endpoint) -> cython.bint:
        """Whether a handshake could begin without anything giving way or anybody waiting."""
        return not (
            endpoint.waiting.head is not None
            or 0 < self._max_connecting <= endpoint.connecting + endpoint.deferred
            or self._is_at_limit(endpoint)
            or self._is_at_total()
        )

    @cython.cfunc
    def _open_beside(self, endpoint: Endpoint, plan: Plan, now: cython.double) -> None:
        """Give waiters that rely on doubted handshakes others, as far as there is room."""
        waiter: Waiter | None
        while (waiter := endpoint.leaning.head) is not None and self._has_free_room(endpoint):
            if self._unplaced and self._places_older(endpoint, waiter):
                continue
            doubted = waiter.opening
            assert doubted is not None
            self._disown(waiter, doubted)
            self._leave_to_nobody(doubted, plan, now)
            if waiter.handshake.orphans:
                orphan: Slot = next(iter(waiter.handshake.orphans))
                self._adopt(orphan)
                self._own(waiter, orphan)
            else:
                self._begin_for(waiter, plan, now)

    @cython.cfunc
    def _longest_leaning(self) -> Endpoint | None:
        """Return the endpoint with room whose waiter relies on a doubted handshake longest."""
        endpoint: Endpoint
        found: Endpoint | None = None
        oldest: cython.Py_ssize_t = 0
        for endpoint in self._leaning:
            ticket: cython.Py_ssize_t = endpoint.leaning.head.ticket
            if (found is None or ticket < oldest) and self._has_free_room(endpoint):
                found, oldest = endpoint, ticket
        return found

    @cython.cfunc
    def _give_to_first(self, slot: Slot) -> None:
        """Exchange handshakes, so that the one that is open belongs to the first waiter.

        First come, first served: the owner of this one gets that of the first waiter, and keeps its
        place in the order.
        """
        owner = slot.owner
        first = first_waiter(slot.handshake)
        if owner is None or first is None or first is owner:
            return
        theirs = first.opening
        # (The owner may have come after theirs was drained.)
        if theirs is None or theirs.drained:
            return
        self._disown(owner, slot)
        self._disown(first, theirs)
        self._own(owner, theirs)
        self._own(first, slot)

    @cython.cfunc
    def _turn_open(self, slot: Slot, now: cython.double, retires: cython.double) -> None:
        """From connecting to acquired."""
        endpoint = slot.handshake.endpoint
        endpoint.connects += 1
        endpoint.connect_seconds += now - slot.born
        if slot.began <= now:
            self._learn(endpoint, now - slot.began)
        self._stop_connecting(slot)
        slot.state = ACQUIRED
        slot.cools = False
        endpoint.acquired += 1
        if not slot.drained:
            slot.retires = retires
        if retires != INFINITY:
            self._retiring = True

    @cython.cfunc
    def _rekey(
        self,
        slot: Slot,
        key: Hashable,
        owner: Waiter | None,
        moves: cython.bint,
        plan: Plan,
        now: cython.double,
    ) -> Waiter | None:
        """File a slot under another key, with all waiters without a place, or with its owner.

        Returns the owner if the connection is for it.
        """
        waiter: Waiter | None
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
        is_owners: cython.bint = owner is not None and owner.queued and owner.handshake is new
        return owner if is_owners else None

    @cython.cfunc
    def _move(self, waiter: Waiter, new: Handshake) -> None:
        old = waiter.handshake
        if waiter.deferred:
            # What was expected at the old key need not come at the new one.
            self._undefer(waiter)
            self._stand_first(waiter)
        old.placeless.remove(waiter)
        new.placeless.insert_by_ticket(waiter)
        old.live -= 1
        new.live += 1
        waiter.handshake = new

    # -- deferred handshakes ---------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _may_defer(self, waiter: Waiter, now: cython.double) -> cython.bint:
        """Whether a connection in use is expected to fall free to a waiter soon.

        With 5 connections in use for 10 ms each and handshakes of 100 ms, the 20th waiter is
        expected to be served after 40 ms: its handshake is deferred; the 21st waiter's begins.

        While all are deferred, nothing is learnt of handshakes.  After a first one of 3 s, which
        started the server, callers would wait for up to 1.5 s where the next handshake takes 50 ms.
        So one begins where a waiter is expected to wait for long and none is under way.

        Not where there have been such waiters all the time that a waiter may be deferred, one
        after another: with 2 callers that come again and again to 1 connection, each would be
        served soon, and both together only half as often as with 2 connections.
        """
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        if not self._defers or waiter.returned or handshake.use < 0:
            return False
        # No connection of the handshake is idle while it has a waiter.
        used: cython.Py_ssize_t = self._count_open(handshake)
        if used <= 0 or handshake.use > used * _look_interval(handshake):
            return False
        longest: cython.double = _longest_deferral(endpoint)
        if (
            handshake.deferred.head is None
            and self._goes_on(handshake, now)
            and handshake.deferring_since + longest <= now
        ):
            return False
        rounds: cython.Py_ssize_t = 1 + (handshake.opening.size + handshake.deferred.size) // used
        wait: cython.double = rounds * handshake.use
        return wait < longest and (wait <= LONG_WAIT or endpoint.connecting > 0)

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_open(self, handshake: Handshake) -> cython.Py_ssize_t:
        """Return how many connections are idle or in use."""
        waiters: cython.Py_ssize_t = handshake.placeless.size + handshake.opening.size
        return handshake.live - waiters - handshake.connecting

    @cython.cfunc
    @cython.exceptval(-1)
    def _goes_on(self, handshake: Handshake, now: cython.double) -> cython.bint:
        """Whether the last deferred waiter left less than a use ago, so that nothing was idle."""
        return now <= handshake.ended_at + handshake.use

    @cython.cfunc
    @cython.exceptval(-1)
    def _spares_idle(self, waiter: Waiter, now: cython.double) -> cython.bint:
        """Whether a waiter that a release will serve soon lets an idle connection be.

        The connection is of another handshake and would give way for the waiter, which is the
        first in line.  Where the line is bounded, it would not be in order any more.
        """
        endpoint = waiter.handshake.endpoint
        if self._idle == 0 or endpoint.waiting.head is not waiter or self._max_waiting >= 0:
            return False
        if self._is_connecting_full(endpoint):
            return False
        orphans: OrderedSlots
        unplaced: cython.Py_ssize_t
        idle: cython.Py_ssize_t
        if self._is_at_limit(endpoint):
            orphans, unplaced, idle = endpoint.orphans, len(endpoint.unplaced), endpoint.idle.size
        elif self._is_at_total() and not self._is_beyond_total():
            orphans, unplaced, idle = self._orphans, len(self._unplaced), self._idle
        else:
            return False
        return not orphans and unplaced < idle and self._may_defer(waiter, now)

    @cython.cfunc
    def _defer(self, waiter: Waiter, now: cython.double, reserves: cython.bint) -> None:
        """Defer the handshake of a waiter that has left the line of its endpoint.

        With ``reserves``, a place is reserved for the handshake.
        """
        handshake = waiter.handshake
        waiter.deferred = True
        if reserves:
            handshake.endpoint.deferred += 1
            self._deferred += 1
        else:
            waiter.unplaced = True
            handshake.endpoint.unplaced[waiter] = None
            self._unplaced[waiter] = None
        handshake.deferred.append(waiter)
        # If the last one gave up and nothing was released since, its look is that of this one.
        if handshake.deferred.size == 1 and (
            handshake.look_at == INFINITY or handshake.use != handshake.use_then
        ):
            self._turn += 1
            handshake.turn = self._turn
            if not self._goes_on(handshake, now):
                handshake.deferring_since = now
            handshake.postponed = False
            self._plan_look(handshake, now)
        # A handshake begun instead would have passed to this waiter with its age.
        waiter.deferred_at = max(waiter.since, handshake.deferring_since)

    @cython.cfunc
    def _leave_deferred(self, waiter: Waiter, now: cython.double, gave_up: cython.bint) -> None:
        """Take a waiter whose handshake is deferred out of the line, served or not.

        If the last one gives up before anything fell free, the core looks all the same, so that it
        notices long uses where no caller waits until a look.
        """
        handshake = waiter.handshake
        look_at: cython.double = handshake.look_at
        self._leave_line(waiter)
        if handshake.deferred.head is not None:
            return
        handshake.ended_at = now
        if gave_up and not handshake.fallen_free:
            handshake.look_at = look_at

    @cython.cfunc
    def _undefer(self, waiter: Waiter) -> None:
        handshake = waiter.handshake
        if waiter.unplaced:
            self._place(waiter)
        waiter.deferred = False
        handshake.endpoint.deferred -= 1
        self._deferred -= 1
        handshake.deferred.remove(waiter)
        if handshake.deferred.head is None:
            handshake.look_at = INFINITY

    @cython.cfunc
    def _place(self, waiter: Waiter) -> None:
        """Reserve a place for a waiter whose handshake was deferred without."""
        endpoint = waiter.handshake.endpoint
        waiter.unplaced = False
        del endpoint.unplaced[waiter]
        del self._unplaced[waiter]
        endpoint.deferred += 1
        self._deferred += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _places_older(self, endpoint: Endpoint, younger: Waiter | None) -> cython.bint:
        """Reserve a free place for a waiter that came before the one that would get the place.

        An unplaced waiter counts on an idle connection.  That may have been used or lost since, or
        have given way to the younger waiter, which would then get the place of the older.
        """
        older = self._first_bare(endpoint)
        if older is None or younger is None or older.ticket > younger.ticket:
            return False
        self._place(older)
        self._index(older.handshake.endpoint)
        return True

    @cython.cfunc
    def _first_bare(self, endpoint: Endpoint) -> Waiter | None:
        """Return the first unplaced waiter for which no idle connection is left to give way.

        At the endpoint, if fewer connections are idle there than waiters are unplaced; if that is
        so over all, the first whose endpoint has room.
        """
        waiter: Waiter
        if self._limit and len(endpoint.unplaced) > endpoint.idle.size:
            return next(iter(endpoint.unplaced))
        if self._has_total and len(self._unplaced) > self._idle:
            for waiter in self._unplaced:
                if self._has_room(waiter.handshake.endpoint):
                    return waiter
        return None

    @cython.cfunc
    def _stop_deferring(self) -> None:
        """Let all waiters whose handshakes are deferred stand at the heads of their lines."""
        handshake: Handshake
        waiter: Waiter | None
        is_any: cython.bint = self._deferred > 0 or len(self._unplaced) > 0
        for handshake in list(self._handshakes.values()) if is_any else ():
            # The last first, so that each is put before those that came back so far.
            while (waiter := handshake.deferred.tail) is not None:
                self._undefer(waiter)
                self._stand_first(waiter)

    @cython.cfunc
    def _plan_look(self, handshake: Handshake, now: cython.double) -> None:
        """Look at the deferred handshakes again, by what falls free from now on."""
        other: Handshake
        heap = self._look_heap
        handshake.counted_from = now
        handshake.fallen_free = 0
        handshake.use_then = handshake.use
        handshake.look_at = now + _look_interval(handshake)
        if len(heap) > 2 * len(self._handshakes) + 16:
            # Entries of handshakes that have been looked at since, or whose waiters were served.
            entries = list(heap)
            heap.clear()
            for look_at, turn, other in entries:
                if other.look_at == look_at and other.turn == turn:
                    heap.append((look_at, turn, other))
            heapq.heapify(heap)
        heapq.heappush(heap, (handshake.look_at, handshake.turn, handshake))
        self._is_look_new = True

    @cython.cfunc
    @cython.exceptval(-1)
    def _next_look_at_deferred(self) -> cython.double:
        handshake: Handshake
        heap = self._look_heap
        while heap:
            look_at, turn, handshake = heap[0]
            if handshake.look_at == look_at and handshake.turn == turn:
                return handshake.look_at
            heapq.heappop(heap)
        return INFINITY

    @cython.cfunc
    def _look_at_deferred(self, plan: Plan, now: cython.double) -> None:
        handshake: Handshake
        due: list[Handshake] = []
        while self._next_look_at_deferred() <= now:
            handshake = heapq.heappop(self._look_heap)[2]
            due.append(handshake)
        for handshake in due:
            # It may have served its waiters.
            if handshake.look_at <= now:
                self._judge(handshake, plan, now)

    @cython.cfunc
    def _judge(self, handshake: Handshake, plan: Plan, now: cython.double) -> None:
        """Begin deferred handshakes that are not expected to be needless any more."""
        endpoint = handshake.endpoint
        longest: cython.double = _longest_deferral(endpoint)
        # Where the process was held up, little could fall free; once, that is no reason to connect.
        is_late: cython.bint = now > handshake.look_at + _look_interval(handshake)
        handshake.postponed = is_late and not handshake.postponed
        waiter: Waiter | None
        while (waiter := handshake.deferred.head) and waiter.deferred_at + longest <= now:
            self._begin_deferred(handshake, plan, now)
        if not handshake.postponed:
            # Not if connections were lost, or released and not fit for another use.
            was_released: cython.bint = handshake.use != handshake.use_then
            if not handshake.fallen_free and not was_released and self._count_open(handshake):
                # Uses have become longer.
                handshake.use = max(handshake.use, endpoint.shortest)
            self._begin_hopeless(handshake, plan, now)
        if handshake.deferred.head is not None or (
            handshake.postponed and handshake.look_at < INFINITY
        ):
            self._plan_look(handshake, now)
        else:
            handshake.look_at = INFINITY
        self._settle(endpoint, plan, now)

    @cython.cfunc
    def _begin_hopeless(self, handshake: Handshake, plan: Plan, now: cython.double) -> None:
        """Begin handshakes for waiters that are served too late at the rate that is expected.

        Where there have been such waiters all the time that a waiter may be deferred, the
        connections in use are too few for the load: begin handshakes for half of them.
        """
        longest: cython.double = _longest_deferral(handshake.endpoint)
        waiter: Waiter | None
        rate: cython.double = RATE_SHARE * handshake.fallen_free / (now - handshake.counted_from)
        while waiter := handshake.deferred.tail:
            # Waiters without a reserved place are in the same line.
            if handshake.placeless.size <= rate * (waiter.deferred_at + longest - now):
                break
            self._begin_deferred(handshake, plan, now)
        if handshake.deferring_since + longest <= now:
            handshake.deferring_since = now
            for _ in range((handshake.deferred.size + 1) // 2):
                self._begin_deferred(handshake, plan, now)

    @cython.cfunc
    def _begin_deferred(self, handshake: Handshake, plan: Plan, now: cython.double) -> None:
        """Begin a handshake for the first waiter whose handshake is deferred."""
        waiter: Waiter = handshake.deferred.head
        self._undefer(waiter)
        self._stand_first(waiter)
        # No room: another waiter has taken over a handshake that would have given way.
        if self._has_room(handshake.endpoint):
            self._open_for(waiter, plan, now)

    # -- waiters ---------------------------------------------------------------------------------

    @cython.cfunc
    def _line_up(self, waiter: Waiter, now: cython.double) -> None:
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        waiter.queued = True
        waiter.since = now
        handshake.live += 1
        self._waiters += 1
        theirs = handshake.orphans
        if not size(theirs) and self._leans(handshake, waiter.ticket):
            theirs = handshake.doubted
        if size(theirs):
            slot: Slot = next(iter(theirs))
            self._adopt(slot)
            self._own(waiter, slot)
        elif waiter.returned:
            self._return_to_line(waiter)
        else:
            handshake.placeless.insert_by_ticket(waiter)
            endpoint.waiting.append(waiter)

    @cython.cfunc
    @cython.exceptval(-1)
    def _leans(self, handshake: Handshake, ticket: cython.Py_ssize_t) -> cython.bint:
        """Whether a waiter relies on a doubted handshake instead of having it give way.

        Not if an earlier waiter lacks a place and may get this one, and not if there is room or
        something else can give way.
        """
        if not size(handshake.doubted) or self._has_come_earlier(handshake.endpoint, ticket):
            return False
        endpoint = handshake.endpoint
        others: cython.Py_ssize_t = len(endpoint.orphans) - len(handshake.doubted)
        if 0 < self._max_connecting <= endpoint.connecting - others + endpoint.deferred:
            return True
        if self._is_at_limit(endpoint):
            return not others and endpoint.idle.head is None
        if self._is_at_total():
            if self._is_beyond_total():
                return True
            others = len(self._orphans) - len(handshake.doubted)
            return not others and self._longest_idle() is None
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def _has_come_earlier(self, endpoint: Endpoint, ticket: cython.Py_ssize_t) -> cython.bint:
        """Whether an older waiter lacks a place, at this endpoint or under ``limit_total``."""
        waiter = self._oldest_waiting(endpoint)
        if waiter is not None and waiter.ticket < ticket:
            return True
        if not self._is_at_total():
            return False
        self._index(endpoint)
        claimant = self._oldest_claimant()
        return claimant is not None and claimant.indexed < ticket

    @cython.cfunc
    def _return_to_line(self, waiter: Waiter) -> None:
        """Put a waiter that lost its handshake or connection at the head of the line."""
        waiter.handshake.placeless.insert_by_ticket(waiter)
        self._stand_first(waiter)

    @cython.cfunc
    def _stand_first(self, waiter: Waiter) -> None:
        waiter.returned = True
        waiter.handshake.endpoint.waiting.insert_returned(waiter)

    @cython.cfunc
    def _come_back(self, waiter: Waiter, plan: Plan, now: cython.double) -> None:
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

    @cython.cfunc
    def _serve_at_hand(self, handshake: Handshake, plan: Plan, now: cython.double) -> None:
        """Serve waiters that have moved to a key with the idle connections there."""
        slot: Slot | None
        self._close_stale(handshake, plan, now)
        while (slot := handshake.idle.top) is not None:
            waiter = first_waiter(handshake)
            if waiter is None:
                break
            self._unpark(slot)
            self._serve(waiter, slot, plan, now)
            # The next connection may be older.
            self._close_stale(handshake, plan, now)
        self._give_orphans(handshake)

    @cython.cfunc
    def _give_orphans(self, handshake: Handshake) -> None:
        """Give orphans that are counted on to waiters without a handshake."""
        waiter: Waiter | None
        while handshake.orphans and (waiter := handshake.placeless.head) is not None:
            self._take_over(waiter, next(iter(handshake.orphans)))

    @cython.cfunc
    def _take_over(self, waiter: Waiter, orphan: Slot) -> None:
        """Let a waiter in line have a handshake that belongs to nobody."""
        self._adopt(orphan)
        self._leave_line(waiter)
        self._own(waiter, orphan)

    @cython.cfunc
    def _leave_line(self, waiter: Waiter) -> None:
        waiter.handshake.placeless.remove(waiter)
        if waiter.deferred:
            self._undefer(waiter)
        else:
            waiter.handshake.endpoint.waiting.remove(waiter)

    @cython.cfunc
    def _leave(
        self, waiter: Waiter, plan: Plan, now: cython.double, gave_up: cython.bint = False
    ) -> None:
        """Take a waiter out of the line; its handshake passes to the next waiter with this key.

        A handshake that has begun and is given up is doubted from then on: the next waiter with
        this key relies on it if it has no place reserved and no earlier waiter lacks a place;
        otherwise it becomes an orphan and gives way.
        """
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        slot = waiter.opening
        if waiter.deferred:
            self._leave_deferred(waiter, now, gave_up)
        elif slot is None:
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
                if not heir.deferred and not self._has_come_earlier(endpoint, heir.ticket):
                    self._take_over(heir, slot)
            else:
                self._leave_line(heir)
                self._own(heir, slot)
        waiter.queued = False
        handshake.live -= 1
        endpoint.wait_seconds += now - waiter.since
        self._waiters -= 1

    @cython.cfunc
    def _take_back(self, slot: Slot) -> Waiter | None:
        """Undo a gift that has not been taken yet."""
        waiter = slot.waiter
        if waiter is not None:
            slot.waiter = None
            waiter.slot = None
        return waiter

    @cython.cfunc
    def _give(self, slot: Slot, waiter: Waiter, now: cython.double) -> None:
        slot.since = now
        slot.uses += 1
        slot.waiter = waiter
        waiter.slot = slot

    @cython.cfunc
    def _serve(self, waiter: Waiter, slot: Slot, plan: Plan, now: cython.double) -> None:
        self._leave(waiter, plan, now)
        self._give(slot, waiter, now)
        plan.wake(waiter)

    # -- who gets what ---------------------------------------------------------------------------

    @cython.cfunc
    def _hand_on(self, slot: Slot, plan: Plan, now: cython.double) -> None:
        """Decide who gets a connection that has fallen free; no other code does."""
        handshake = slot.handshake
        endpoint = handshake.endpoint
        first = first_waiter(handshake)
        if slot.retires <= now:
            self._start_closing(slot, REASON_FORCED if slot.drained else REASON_LIFETIME)
            plan.close(slot)
        elif self._lowered and self._is_surplus(endpoint):
            self._give_way(slot, FOR_NOBODY, plan)
        elif first is None:
            self._park(slot, handshake, endpoint, now)
            if self._idle > self._max_idle_connections:
                # Over all endpoints. The slot itself goes only if all others are as young.
                self._evict_longest_idle(plan)
        else:
            cleared_for: cython.int = self._passed_over(endpoint, first)
            if cleared_for == FOR_NOBODY:
                handshake.fallen_free += 1
                self._serve(first, slot, plan, now)
            else:
                self._give_way(slot, cleared_for, plan)
        self._settle(endpoint, plan, now)
        self._drop_dead(handshake)

    @cython.cfunc
    @cython.exceptval(-1)
    def _passed_over(self, endpoint: Endpoint, first: Waiter) -> cython.int:
        """Count that ``first`` is served before the oldest waiter that could use the place.

        Returns for whom the connection gives way if that happens once too often.  A waiter whose
        place is being cleared already is not passed over.
        """
        cleared_for: cython.int
        rival: Waiter | None = None
        cleared_for = FOR_TOTAL
        # Beyond a total, the place would serve nobody.
        serves_any: cython.bint = not self._is_beyond_total()
        at_limit: cython.bint = self._is_at_limit(endpoint)
        if (at_limit or serves_any) and not self._is_connecting_full(endpoint):
            rival = self._oldest_waiting(endpoint)
            if at_limit:
                cleared_for = FOR_LIMIT
        if serves_any and self._is_at_total():
            claimant = self._oldest_claimant()
            if claimant is not None:
                waiter = self._oldest_waiting(claimant)
                if waiter and (rival is None or waiter.ticket < rival.ticket):
                    rival, cleared_for = waiter, FOR_TOTAL
        if rival is None or rival.ticket >= first.ticket:
            return FOR_NOBODY
        if (endpoint.being_cleared if cleared_for == FOR_LIMIT else self._being_cleared) > 0:
            return FOR_NOBODY
        rival.passed += 1
        return cleared_for if rival.passed > MAX_PASSED_OVER else FOR_NOBODY

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_connecting_full(self, endpoint: Endpoint) -> cython.bint:
        if self._max_connecting == 0:
            return False
        # An orphan is stopped for a waiter that needs its place.
        busy: cython.Py_ssize_t = endpoint.connecting - size(endpoint.orphans) + endpoint.deferred
        return self._max_connecting <= busy

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_at_limit(self, endpoint: Endpoint) -> cython.bint:
        return 0 < self._limit <= endpoint.count + endpoint.deferred

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_at_total(self) -> cython.bint:
        return self._most <= self._count + self._deferred

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_beyond_total(self) -> cython.bint:
        """Whether no place is cleared for waiters over all endpoints.

        One that fell free would serve nobody, or there may soon be more.
        """
        return self._holds_idle or self._most < self._count + self._deferred - self._closing

    @cython.cfunc
    def _set_totals(self) -> None:
        """Combine ``limit_total`` with what :meth:`lead` allows."""
        own: cython.Py_ssize_t = self._limit_total or NO_LIMIT
        self._most = min(own, self._places)
        self._keep = min(own, self._places_to_keep)
        self._has_total = self._most < NO_LIMIT
        # With limit_total alone in the way, more places would not help.
        self._holds_idle = self._holds and self._places < own

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_over_limit(self, endpoint: Endpoint) -> cython.bint:
        return 0 < self._limit < endpoint.count - endpoint.closing

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_over_total(self) -> cython.bint:
        return self._keep < self._count - self._closing

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_surplus(self, endpoint: Endpoint) -> cython.bint:
        return self._is_over_limit(endpoint) or self._is_over_total()

    @cython.cfunc
    @cython.exceptval(-1)
    def _has_room(self, endpoint: Endpoint) -> cython.bint:
        return not (
            self._is_connecting_full(endpoint) or self._is_at_limit(endpoint) or self._is_at_total()
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_full(self, handshake: Handshake) -> cython.bint:
        """Whether one more caller would have to queue, and may not.

        A waiter whose place is being cleared does not count as queued.  With ``limit=2`` and
        ``max_waiting=1``, where two connections of other handshakes were idle: the first two
        callers have them closed, and wait for these places.  Neither counts as queued, so a third
        caller may queue; a fourth may not.
        """
        endpoint = handshake.endpoint
        if self._max_waiting < 0 or handshake.orphans or self._leans(handshake, self._ticket):
            return False
        if self._holds_idle and not self._is_at_limit(endpoint) and self._is_at_total():
            return False
        queued: cython.Py_ssize_t = endpoint.waiting.size
        # Of the handshakes that max_connecting lets begin, with this caller's, those within limit.
        may_begin: cython.Py_ssize_t = self._wanted(endpoint, 1)
        within_limit: cython.Py_ssize_t = may_begin
        if self._limit:
            free: cython.Py_ssize_t = self._limit - endpoint.count - endpoint.deferred
            within_limit = max(0, min(may_begin, free))
        # Places being cleared under limit_total that no other endpoint claims.
        claimed_elsewhere: cython.Py_ssize_t = self._claims - endpoint.claim
        unclaimed: cython.Py_ssize_t = 0
        if not self._is_beyond_total():
            unclaimed = max(0, self._being_cleared - claimed_elsewhere)
        cleared: cython.Py_ssize_t = endpoint.being_cleared + min(within_limit, unclaimed)
        as_good_as_served: cython.Py_ssize_t = min(may_begin, cleared)
        if as_good_as_served > queued:
            return False
        if queued - as_good_as_served < self._max_waiting:
            return False
        return not self._can_be_placed(endpoint)

    @cython.cfunc
    @cython.exceptval(-1)
    def _can_be_placed(self, endpoint: Endpoint) -> cython.bint:
        ahead: cython.Py_ssize_t = endpoint.waiting.size
        busy: cython.Py_ssize_t = endpoint.connecting - len(endpoint.orphans) + ahead
        busy += endpoint.deferred
        if 0 < self._max_connecting <= busy:
            return False
        if self._is_at_limit(endpoint):
            return endpoint.idle.head is not None or bool(endpoint.orphans)
        taken: cython.Py_ssize_t = endpoint.count + endpoint.deferred - endpoint.being_cleared
        if 0 < self._limit <= taken + ahead:
            return False
        if self._is_at_total():
            if self._is_beyond_total():
                return False
            return bool(self._orphans) or self._longest_idle() is not None
        return True

    @cython.cfunc
    def _settle(self, endpoint: Endpoint, plan: Plan, now: cython.double) -> None:
        """Give free places to waiters, and clear places for the rest."""
        if self._lowered:
            self._trim_to_limit(endpoint, plan)
            self._trim_to_total(plan)
        if (
            self._is_at_limit(endpoint)
            and not self._has_total
            and self._dispensable(endpoint) is None
        ):
            # The usual state under load: no place is free, and none can be cleared.
            return
        self._grant(endpoint, plan, now)
        self._make_room(endpoint, plan)

    @cython.cfunc
    def _grant(self, endpoint: Endpoint, plan: Plan, now: cython.double) -> None:
        if not self._has_total:
            while endpoint.waiting.head is not None and self._has_room(endpoint):
                if self._unplaced and self._places_older(endpoint, self._oldest_waiting(endpoint)):
                    continue
                self._open_for(endpoint.waiting.head, plan, now)
            if endpoint.leaning.head is not None:
                self._open_beside(endpoint, plan, now)
            return
        self._index(endpoint)
        self._give_places(endpoint, plan, now)

    @cython.cfunc
    def _give_places(self, endpoint: Endpoint | None, plan: Plan, now: cython.double) -> None:
        """Under a limit over all endpoints: give free places to the oldest waiters.

        ``endpoint`` is settled by the caller.
        """
        while not self._is_at_total():
            claimant = self._oldest_claimant()
            if claimant is None:
                break
            if self._unplaced and self._places_older(claimant, self._oldest_waiting(claimant)):
                continue
            self._open_for(claimant.waiting.head, plan, now)
            self._index(claimant)
            if claimant is not endpoint:
                # The claimant may have reached its own limit now.
                self._make_room(claimant, plan)
        # These waiters may use free places, too. Most often one takes the only place.
        while self._leaning and not self._is_at_total():
            leaning = self._longest_leaning()
            if leaning is None:
                break
            self._open_beside(leaning, plan, now)

    @cython.cfunc
    def _open_for(self, waiter: Waiter, plan: Plan, now: cython.double) -> None:
        """Use a free place for a waiter: for a handshake, or to reserve it."""
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        defers: cython.bint = self._may_defer(waiter, now)
        if defers or (handshake.deferred.head is not None and not waiter.returned):
            endpoint.waiting.remove(waiter)
            reserves: cython.bint = True
            first: Waiter | None = handshake.deferred.head
            if first is not None and first.unplaced:
                # The place is for the waiter that has waited longest.
                self._place(first)
                reserves = False
            self._defer(waiter, now, reserves)
            if not defers:
                # A handshake belongs to the waiter that has waited longest.
                self._begin_deferred(handshake, plan, now)
            return
        if endpoint.orphans and 0 < self._max_connecting <= endpoint.connecting:
            orphan: Slot = _first_to_go(endpoint.orphans) or next(iter(endpoint.orphans))
            self._give_way(orphan, FOR_NOBODY, plan)
        self._leave_line(waiter)
        handshake.ended_at = -INFINITY
        self._begin_for(waiter, plan, now)

    @cython.cfunc
    def _begin_for(self, waiter: Waiter, plan: Plan, now: cython.double) -> None:
        slot = self._new_slot(waiter.handshake, now)
        self._own(waiter, slot)
        slot.begun_for = waiter.ticket
        plan.open(slot)

    @cython.cfunc
    def _index(self, endpoint: Endpoint) -> None:
        """Keep an endpoint's place among those that want room over all endpoints, in order."""
        other: Endpoint
        if not self._has_total:
            return
        waiter = self._oldest_waiting(endpoint)
        claim: cython.Py_ssize_t = self._wanted(endpoint)
        if self._limit:
            claim = max(0, min(claim, self._limit - endpoint.count - endpoint.deferred))
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

    @cython.cfunc
    def _index_all(self) -> None:
        """Index all endpoints anew: claims exist only under a limit over all endpoints."""
        endpoint: Endpoint
        self._claims = 0
        self._place_heap.clear()
        for endpoint in self._endpoints.values():
            endpoint.claim = 0
            endpoint.indexed = -1
            self._index(endpoint)

    @cython.cfunc
    def _oldest_waiting(self, endpoint: Endpoint) -> Waiter | None:
        """Return the waiter that came first; waiters that came back may stand in front."""
        oldest: Waiter | None = endpoint.waiting.head
        waiter = oldest
        while waiter is not None and waiter.returned:
            waiter = waiter.outer_next
            if waiter is not None and oldest is not None and waiter.ticket < oldest.ticket:
                oldest = waiter
        return oldest

    @cython.cfunc
    def _oldest_claimant(self) -> Endpoint | None:
        endpoint: Endpoint
        heap = self._place_heap
        while heap:
            ticket, _, endpoint = heap[0]
            if endpoint.indexed == ticket:
                return endpoint
            heapq.heappop(heap)
        return None

    @cython.cfunc
    @cython.exceptval(-1)
    def _wanted(self, endpoint: Endpoint, callers: cython.int = 0) -> cython.int:
        """Return how many more handshakes the endpoint would begin if there were places.

        With ``callers``: if so many more came.
        """
        wanted: cython.Py_ssize_t = endpoint.waiting.size + callers
        if self._max_connecting:
            busy: cython.Py_ssize_t = endpoint.connecting - len(endpoint.orphans)
            busy += endpoint.deferred
            wanted = max(0, min(wanted, self._max_connecting - busy))
        return wanted

    @cython.cfunc
    def _make_room(self, endpoint: Endpoint, plan: Plan) -> None:
        if endpoint.waiting.head is not None and self._is_at_limit(endpoint):
            # Most often nothing can give way, and so nothing is counted.
            victim = self._dispensable(endpoint)
            while victim is not None and endpoint.being_cleared < self._wanted(endpoint):
                self._give_way(victim, FOR_LIMIT, plan)
                victim = self._dispensable(endpoint)
        self._clear_places(plan)

    @cython.cfunc
    def _clear_places(self, plan: Plan) -> None:
        """Clear places for waiters over all endpoints.

        Also after connections have begun to close: until then, there may have been more connections
        than may be used, so that a cleared place would have served nobody.
        """
        if self._claims <= self._being_cleared:
            return
        if self._is_at_total() and not self._is_beyond_total():
            while self._being_cleared < self._claims:
                victim = self._dispensable_of_all()
                if victim is None:
                    break
                self._give_way(victim, FOR_TOTAL, plan)

    @cython.cfunc
    def _dispensable(self, endpoint: Endpoint) -> Slot | None:
        """Return the slot of an endpoint that gives way first, if any can."""
        return _first_dispensable(endpoint.orphans, endpoint.idle.head)

    @cython.cfunc
    def _dispensable_of_all(self) -> Slot | None:
        """Return the slot of all endpoints that gives way first, if any can."""
        return _first_dispensable(self._orphans, self._longest_idle())

    @cython.cfunc
    def _trim_to_limit(self, endpoint: Endpoint, plan: Plan) -> None:
        """Close slots beyond a lowered limit that nobody uses or waits for."""
        while self._is_over_limit(endpoint):
            victim = self._dispensable(endpoint)
            if victim is None:
                break
            self._give_way(victim, FOR_NOBODY, plan)

    @cython.cfunc
    def _trim_to_total(self, plan: Plan) -> None:
        while self._is_over_total():
            victim = self._dispensable_of_all()
            if victim is None:
                break
            self._give_way(victim, FOR_NOBODY, plan)

    @cython.cfunc
    def _give_way(self, slot: Slot, cleared_for: cython.int, plan: Plan) -> None:
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
            self._start_closing(slot, REASON_EVICTED)
        slot.cleared_for = cleared_for
        if cleared_for == FOR_LIMIT:
            endpoint.being_cleared += 1
        elif cleared_for == FOR_TOTAL:
            self._being_cleared += 1
        plan.close(slot)
        self._drop_dead(handshake)
