# cython: language_level=3, nonecheck=True, embedsignature=False, binding=False, always_allow_keywords=False
"""The core of the pool, compiled.

It is ``_pool_py.py`` line for line, with types: read that one for the reference, and change the two
together.  The tests run on both, and drive them side by side with a model of them.
"""

import asyncio
import heapq
import math
import sys
import warnings
from asyncio.events import _get_running_loop
from collections import OrderedDict
from contextvars import Context, copy_context

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.time cimport monotonic

from ._pool_py import CLOSE_REASONS, COUNTERS, GAUGES, NO_HEADERS, ROOM, UNSET


cdef extern from "Python.h":
    int PyObject_GenericSetDict(object obj, object value, void *context) except -1
    unsigned long PyThread_get_thread_ident()

    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(object steps, object value, PyObject **result) except PYGEN_ERROR

    ctypedef PySendResult (*sendfunc)(
        PyObject *this, PyObject *value, PyObject **result
    ) except PYGEN_ERROR
    ctypedef PyObject *(*iternextfunc)(PyObject *this) except NULL

    ctypedef struct PyAsyncMethods:
        sendfunc am_send

    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *cls, tuple args, void *kwargs)
        PyAsyncMethods *tp_as_async
        iternextfunc tp_iternext

    void PyErr_SetObject(object kind, object value)


cdef extern from *:
    """
    #include <time.h>

    /* Linux has the time of its last tick at hand, which is a seventh of the price. */
    static int time_of_last_tick(double *seconds) {
    #ifdef CLOCK_MONOTONIC_COARSE
        struct timespec now;
        if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) == 0) {
            *seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
            return 1;
        }
    #endif
        return 0;
    }
    """
    bint time_of_last_tick(double *seconds)


cdef extern from *:
    """
    /* Frames that may still be called. CPython 3.12 and later count those of C apart, and by the
       size of their stack from 3.14 on. */
    static int frames_left(void) {
        PyThreadState *state = PyThreadState_Get();
    #if PY_VERSION_HEX < 0x030C0000
        return state->recursion_remaining;
    #elif PY_VERSION_HEX < 0x030E0000
        return state->py_recursion_remaining < state->c_recursion_remaining
            ? state->py_recursion_remaining : state->c_recursion_remaining;
    #else
        return state->py_recursion_remaining;
    #endif
    }
    """
    int frames_left()


IMPLEMENTATION = "c"

cdef enum:
    CONNECTING = 0
    ACQUIRED = 1
    IDLE = 2
    CLOSING = 3
    GONE = 4

cdef enum:
    _IDLE = 0
    _LIFETIME = 1
    _LOST = 2
    _EVICTED = 4
    _FORCED = 5

cdef enum:
    _FOR_NOBODY = 0
    _FOR_LIMIT = 1
    _FOR_TOTAL = 2
    # Not a place is wanted but fewer idle connections.
    _FOR_BOUND = 3

cdef enum:
    MAX_PASSED_OVER = 16

cdef double ORPHAN_GRACE = 5.0

cdef double LATE_FACTOR = 4.0
cdef double LATE_FLOOR = 0.5
cdef double FIRST_PATIENCE = 5.0
cdef double _NEWEST_SHARE = 0.125

cdef double INFINITY = math.inf


cdef class Node:
    """What stands in up to two lists at once: one of its handshake, one of its endpoint."""

    cdef Node inner_prev, inner_next, outer_prev, outer_next
    # Of waiters: the order of arrival, and whether they came back to the head of the line.
    cdef readonly Py_ssize_t ticket
    cdef bint returned


cdef class InnerList:
    """A doubly linked list through the ``inner`` links."""

    cdef Node head, tail
    cdef Py_ssize_t size

    cdef int append(self, Node node) except -1:
        cdef Node tail
        tail = self.tail
        node.inner_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.inner_next = node
        self.tail = node
        self.size += 1
        return 0

    cdef int remove(self, Node node) except -1:
        cdef Node tail, before, after
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
        return 0

    cdef int insert_by_ticket(self, Waiter waiter) except -1:
        """Keep the order of arrival; nearly every waiter belongs at one of the two ends."""
        cdef Node tail, before, after
        tail = self.tail
        if tail is None or tail.ticket < waiter.ticket:
            self.append(waiter)
            return 0
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
        return 0


cdef class Stack:
    """A stack through the ``inner`` links, of which any can be taken out."""

    cdef Node top

    cdef int push(self, Node node) except -1:
        cdef Node below = self.top
        if below is not None:
            node.inner_prev = below
            below.inner_next = node
        self.top = node
        return 0

    cdef int pop(self, Node top) except -1:
        cdef Node below = top.inner_prev
        self.top = below
        if below is not None:
            top.inner_prev = below.inner_next = None
        return 0

    cdef int remove(self, Node node) except -1:
        cdef Node below, above
        below, above = node.inner_prev, node.inner_next
        if below is not None:
            below.inner_next = above
            node.inner_prev = None
        if above is None:
            self.top = below
        else:
            above.inner_prev = below
            node.inner_next = None
        return 0


cdef class OuterList:
    """A doubly linked list through the ``outer`` links."""

    cdef Node head, tail
    cdef Py_ssize_t size

    cdef int append(self, Node node) except -1:
        cdef Node tail
        tail = self.tail
        node.outer_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.outer_next = node
        self.tail = node
        self.size += 1
        return 0

    cdef int remove(self, Node node) except -1:
        cdef Node tail, before, after
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
        return 0

    cdef int insert_returned(self, Waiter waiter) except -1:
        """Put a waiter that lost what it had at the head of the line.

        Only others that came back likewise, and had arrived before it, stay in front: their number
        does not grow with the line.
        """
        cdef Node before, after
        after = self.head
        while after is not None and after.returned and after.ticket < waiter.ticket:
            after = after.outer_next
        if after is None:
            self.append(waiter)
            return 0
        before = after.outer_prev
        waiter.outer_prev, waiter.outer_next = before, after
        after.outer_prev = waiter
        if before is None:
            self.head = waiter
        else:
            before.outer_next = waiter
        self.size += 1
        return 0


cdef class Slot(Node):
    """A place in the pool and, once it is connected, the connection in it."""

    cdef readonly Handshake handshake
    cdef readonly int state
    # The caller's own: the connection, and the task that opens it. The core never looks.
    cdef public object conn, task
    # The waiter that this handshake belongs to, and the one that was given the connection.
    cdef readonly Waiter owner, waiter
    cdef readonly double born, began, since, retires, expires
    cdef readonly Py_ssize_t uses
    cdef Py_ssize_t begun_for
    cdef readonly bint kept, doubted, late, drained
    cdef readonly int reason
    cdef int giving
    cdef public bint cools

    def __init__(self, Handshake handshake, double now):
        self.handshake = handshake
        self.state = CONNECTING
        #: The caller's own: the connection, and the task that opens it.  The core never looks.
        self.conn = None
        self.task = None
        #: The waiter that this handshake belongs to, while it is under way.
        self.owner = None
        #: The ticket of the waiter that it was begun for; -1: of none.
        self.begun_for = -1
        #: The waiter that was given the connection and has not woken yet.
        self.waiter = None
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
        self.giving = _FOR_NOBODY
        #: Whether its place stays taken for ``cooldown`` once its socket is gone.  The caller may
        #: say so of what is not connected yet, while something else than the handshake runs on it.
        self.cools = False

    @property
    def crowded_out(self):
        """Whether it was closed since too many connections were idle."""
        return self.giving == _FOR_BOUND

    @property
    def key(self):
        return self.handshake.key

    @property
    def endpoint(self):
        return self.handshake.endpoint.key


@cython.freelist(64)
cdef class Waiter(Node):
    """A caller that found nothing idle."""

    cdef readonly Handshake handshake
    # The caller's own; the core never looks.
    cdef public object token
    cdef readonly double since
    cdef readonly Slot opening, slot
    cdef readonly bint queued
    cdef public bint may_wait
    cdef readonly int passed
    cdef readonly int hedges

    def __init__(self, Handshake handshake, token, Py_ssize_t ticket, double now):
        self.handshake = handshake
        #: The caller's own; the core never looks.
        self.token = token
        self.ticket = ticket
        self.since = now
        #: The handshake under way that belongs to it; without one it waits for a place.
        self.opening = None
        #: The connection given to it and not yet taken.
        self.slot = None
        self.queued = False
        self.returned = False
        #: Whether it goes back into the line if what it was given dies and nothing idle is left.
        self.may_wait = True
        self.passed = 0
        #: How many of its own handshakes were late, so that it has had another.
        self.hedges = 0


@cython.freelist(8)
cdef class Plan:
    """What is to be done, in this order, before anything else happens to the pool."""

    # Most are empty, or wake one waiter.
    cdef list _opened, _closing, _woken

    @property
    def opened(self):
        """Slots whose connection is to be opened; each has an owner."""
        if self._opened is None:
            self._opened = []
        return self._opened

    @property
    def closing(self):
        """Slots to be closed: the handshake stopped, or the connection closed."""
        if self._closing is None:
            self._closing = []
        return self._closing

    @property
    def woken(self):
        """Waiters that were given a connection."""
        if self._woken is None:
            self._woken = []
        return self._woken

    cdef int open(self, Slot slot) except -1:
        if self._opened is None:
            self._opened = []
        self._opened.append(slot)
        return 0

    cdef int close(self, Slot slot) except -1:
        if self._closing is None:
            self._closing = []
        self._closing.append(slot)
        return 0

    cdef int wake(self, Waiter waiter) except -1:
        if self._woken is None:
            self._woken = []
        self._woken.append(waiter)
        return 0

    cdef bint is_empty(self) except -1:
        return not (self._opened or self._closing or self._woken)

    cdef bint is_to_wake_only(self) except -1:
        return not (self._opened or self._closing)


cdef class Handshake:
    """Connections and callers of one handshake at one endpoint."""

    cdef readonly Endpoint endpoint
    cdef readonly object key
    cdef readonly bint dropped
    cdef Stack idle
    cdef InnerList placeless, opening
    cdef object orphans, doubted
    cdef Py_ssize_t live, doubts

    def __init__(self, Endpoint endpoint, key):
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
        self.orphans = OrderedDict()
        self.doubted = OrderedDict()
        #: How many handshakes under way are doubted, whoever leans on them.
        self.doubts = 0
        #: Slots that are not closing, and waiters: the record is dropped with the last of them.
        self.live = 0

    cdef Waiter first_waiter(self):
        cdef Waiter placeless = self.placeless.head
        cdef Waiter opening = self.opening.head
        if placeless is None:
            return opening
        if opening is None or placeless.ticket < opening.ticket:
            return placeless
        return opening


cdef class Endpoint:
    """One ``(host, port, is_ssl)`` with what counts against its limit."""

    cdef readonly object key
    cdef Py_ssize_t serial, handshakes, count, connecting, acquired, closing, giving
    cdef OuterList idle, waiting, leaning, under_way
    cdef object failure
    cdef double usual, patience
    cdef Py_ssize_t claim, indexed
    cdef object orphans
    cdef bint in_idle_heap
    cdef Py_ssize_t hits, requests, reused, queued, timeouts, rejected
    cdef Py_ssize_t connects, connect_errors, released, detached
    cdef double wait_seconds, connect_seconds
    cdef list closed

    def __init__(self, key, Py_ssize_t serial):
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
        self.failure = None
        #: Idle connections, the longest idle first.
        self.idle = OuterList()
        #: Waiters without a place, in order of arrival.
        self.waiting = OuterList()
        #: Waiters whose handshake is doubted, for want of room for one of their own.
        self.leaning = OuterList()
        #: Handshakes under way that belong to nobody, those first that are to give way first.
        self.orphans = OrderedDict()
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

    def counters(self):
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

    def gauges(self):
        """Return them in the order of ``GAUGES``."""
        idle = self.idle.size
        return (self.connecting, self.acquired, idle, self.closing, self.waiting.size, 1)


cdef class Route:
    """Where calls of one handshake go in one pool."""

    cdef readonly object endpoint, key
    cdef readonly bint is_checked, is_direct
    cdef readonly Handshake handshake

    def __init__(self, endpoint, key, bint is_direct=True, bint is_checked=False):
        self.endpoint = endpoint
        self.key = key
        #: Whether an idle connection goes out and comes back without anything done to it.
        self.is_direct = is_direct
        #: Whether something is done to it before it goes out.
        self.is_checked = is_checked
        #: The record of the last call, so that the next need not look for it.
        self.handshake = None

    cdef Handshake record(self):
        """Return the record that stands for the key, as far as is known."""
        cdef Handshake handshake = self.handshake
        return None if handshake is None or handshake.dropped else handshake


cdef inline bint _cools_after(int reason, bint is_used) noexcept:
    """Whether a server may still be at work for what is closed for this reason."""
    if reason == _LOST:
        # What was not in use has ended for the server, too.
        return is_used
    return reason not in (_IDLE, _LIFETIME, _EVICTED, _FORCED)


cdef Slot _first_to_go(orphans):
    """Return the first of these handshakes that may serve nobody who is about to have a place.

    Where a server is slow, each caller would have the handshake stopped that the last one gave up.
    """
    cdef Slot slot
    cdef Waiter head
    for slot in orphans:
        head = slot.handshake.endpoint.waiting.head
        if not slot.doubted or slot.late or head is None or head.handshake is not slot.handshake:
            return slot
    return None


def _oldest_leaning(Endpoint endpoint):
    """Return the ticket of the first waiter that leans on a doubted handshake there."""
    cdef Waiter waiter = endpoint.leaning.head
    return waiter.ticket


cdef class Pool:
    """Places, free lists and queues of any number of endpoints.

    ``limit``, ``limit_total`` and ``max_connecting`` are numbers of places, 0 for no limit;
    ``max_waiting`` is a number of waiters, -1 for no limit; ``max_idle`` is in seconds;
    ``max_idle_connections`` is a number of idle connections over all endpoints, 0 for no bound;
    ``cooldown`` is in seconds.

    Keys are any hashable objects; a handshake's key must determine its endpoint's.
    """

    cdef Py_ssize_t _limit, _limit_total, _max_connecting, _max_waiting
    cdef double _max_idle, _cooldown
    cdef dict _endpoints, _handshakes, _slots
    cdef Py_ssize_t _count, _waiters, _ticket, _serial, _claims, _giving, _closing
    cdef Py_ssize_t _idle, _max_idle_connections
    cdef bint _retiring, _lowered
    cdef list _place_heap, _idle_heap
    cdef tuple _past
    cdef object _orphans, _fading, _watched, _cooling
    cdef dict _leaning
    cdef double _next_look

    def __init__(
        self,
        *,
        Py_ssize_t limit=0,
        Py_ssize_t limit_total=0,
        Py_ssize_t max_connecting=0,
        Py_ssize_t max_waiting=-1,
        double max_idle=INFINITY,
        Py_ssize_t max_idle_connections=0,
        double cooldown=0.0,
    ):
        self._limit = limit
        self._limit_total = limit_total
        self._max_connecting = max_connecting
        self._max_waiting = max_waiting
        self._max_idle = max_idle
        self._max_idle_connections = max_idle_connections or sys.maxsize
        self._cooldown = cooldown
        self._endpoints = {}
        self._handshakes = {}
        #: Every slot that is not gone.
        self._slots = {}
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
        self._place_heap = []
        # Endpoints with idle connections: (not after the longest idle one's since, ., endpoint).
        self._idle_heap = []
        self._orphans = OrderedDict()
        # Those of them that are not kept, in the order in which they are to be stopped.
        self._fading = OrderedDict()
        # Endpoints with waiters that lean on doubted handshakes.
        self._leaning = {}
        # Handshakes that have begun and are not late, in this order; when to look for late ones.
        self._watched = OrderedDict()
        self._next_look = -INFINITY
        # Closing slots whose sockets are gone and whose places are taken for cooldown, in the order
        # in which they are to be set free: all stay for equally long.
        self._cooling = OrderedDict()
        # Counters of endpoints that are gone, and the serial of the last one that they have.
        self._past = ((0,) * len(COUNTERS), 0)

    # -- the two operations of the hot path ------------------------------------------------------

    cpdef Slot acquire(self, key, double now, Handshake handshake=None):
        """Take an idle connection of the handshake ``key``, if there is a fresh one on top.

        ``handshake``, if it is known, is the record of that, which then need not be looked up; it
        must not be dropped.
        """
        cdef Slot slot
        cdef Endpoint endpoint
        if handshake is None:
            handshake = self._handshakes.get(key)
            if handshake is None:
                return None
        slot = handshake.idle.top
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

    cpdef Handshake find(self, key):
        """Return the record of the handshake ``key``, if there is anything alive of it."""
        return self._handshakes.get(key)

    cpdef Plan release(self, Slot slot, double now):
        """Give an acquired connection back; it must be fit for another's use."""
        cdef Plan plan
        cdef Handshake handshake
        cdef Endpoint endpoint
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

    # -- callers that found nothing idle ---------------------------------------------------------

    cpdef tuple request(
        self,
        endpoint_key,
        key,
        token,
        double now,
        bint may_wait=True,
        Handshake handshake=None,
    ):
        """Queue a caller.

        The waiter that comes back may hold a connection already: see :meth:`take`.  ``None`` in its
        place: the line at this endpoint is full, or it would have to wait and may not.
        ``handshake`` is as for :meth:`acquire`.
        """
        cdef Plan plan
        cdef Endpoint endpoint
        cdef Waiter waiter
        cdef Slot slot
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
        slot = handshake.idle.top
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

    def take(self, Waiter waiter not None):
        """Return the connection given to a waiter, which is now its own to release or discard.

        ``None``: it has none, or what it was given has died since; then it is back at the head of
        its line, unless it may not wait.
        """
        cdef Slot slot
        slot = self.decline(waiter)
        if slot is not None and slot.uses > 1:
            slot.handshake.endpoint.reused += 1
        return slot

    cpdef Slot decline(self, Waiter waiter):
        """Do the same for a waiter that will not use it: nothing is counted as reused."""
        cdef Slot slot
        slot = waiter.slot
        if slot is not None:
            waiter.slot = None
            slot.waiter = None
        return slot

    def give_up(self, Waiter waiter not None, double now, bint timed_out):
        """Take a waiter out of the line; what it was given already, :meth:`take` returns.

        ``timed_out`` counts a timeout, unless it has had its connection.
        """
        cdef Plan plan
        cdef Handshake handshake
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

    def open(self, endpoint_key, key, double now):
        """Return a place for a handshake that no caller waits for; ``None``: there is no room.

        There is none either where its connection, once open, would be one idle connection too many.
        A caller that comes meanwhile takes it over.  It gives way to one that needs the place, but
        is not stopped for want of a waiter until :meth:`abandon`.
        """
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Slot slot
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

    def abandon(self, Slot slot not None, double now):
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

    def begin(self, Slot slot not None, double now):
        """Tell that the handshake in ``slot`` is under way; from now on it can be late.

        One that still waits for something else, such as a limit of connects a minute, is not.
        """
        if slot.state == CONNECTING and slot.began == INFINITY:
            slot.began = now
            self._watched[slot] = None

    def connected(
        self,
        Slot slot not None,
        double now,
        double retires=INFINITY,
        key=None,
        bint moves=True,
    ):
        """Tell that a handshake succeeded.

        ``retires`` is when the connection may not be handed out again.  ``key`` is the handshake
        that it answers to from now on, where this is not the one it was opened for.  With
        ``moves``, callers that wait for a place move along, since theirs would turn out the same.
        Without, it is for the caller that it was begun for; a caller that has taken it over goes
        back to the line.
        """
        cdef Plan plan
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Waiter owner, first
        cdef Slot theirs
        cdef bint is_another, is_owners
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
        if retires != INFINITY:
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

    def connect_failed(self, Slot slot not None, double now, failure=None):
        """Tell that a handshake failed; returns the waiter that fails with it, if it has one.

        ``failure`` is what :meth:`situation` tells of it; the core never looks.
        """
        cdef Plan plan
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Waiter owner
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

    def resize(self, Py_ssize_t limit, Py_ssize_t limit_total, double now):
        """Set new limits, 0 for none.

        Where they leave room, it goes to who waits.  What is too much is closed, handshakes that
        belong to nobody first, then the longest idle connections; never what is in use or opened
        for a waiter, which is closed when it falls free.
        """
        cdef Plan plan
        cdef Endpoint endpoint
        cdef list endpoints
        cdef bint lowered
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

    def drain(self, keys):
        """Close what is idle of these handshakes (``None``: of all), and the rest as it falls free.

        Whoever comes from now on gets nothing that was begun before.
        """
        cdef Plan plan
        cdef Slot slot
        plan = Plan()
        for slot in list(self._slots):
            if slot.state == CLOSING or (keys is not None and slot.handshake.key not in keys):
                continue
            if slot.state == IDLE:
                self._close_idle(slot, _FORCED, plan)
                continue
            slot.drained = True
            slot.retires = -INFINITY
            if slot.state == CONNECTING and slot.owner is None:
                self._give_way(slot, _FOR_NOBODY, plan)
        return plan

    def retire(self, Slot slot not None):
        """Close the other idle connections of its handshake that are as old, or older."""
        cdef Plan plan
        cdef Slot other, below
        plan = Plan()
        other = slot.handshake.idle.top
        while other is not None:
            below = other.inner_prev
            if other is not slot and other.born <= slot.born:
                self._close_idle(other, _FORCED, plan)
            other = below
        return plan

    def evict(self, Py_ssize_t count):
        """Close up to ``count`` idle connections, the longest idle of all endpoints first."""
        cdef Plan plan
        plan = Plan()
        while count > 0 and self._evict_longest_idle(plan):
            count -= 1
        return plan

    def detach(self, Slot slot not None, double now):
        """Let an acquired connection go out of the pool for good; its place is free at once."""
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Plan plan
        if slot.state != ACQUIRED or slot.waiter is not None:
            raise ValueError("only an acquired slot can be detached")
        handshake = slot.handshake
        endpoint = handshake.endpoint
        endpoint.acquired -= 1
        endpoint.detached += 1
        handshake.live -= 1
        self._freed(slot)
        plan = None
        if self._waiters:
            plan = Plan()
            self._settle(endpoint, plan, now)
        self._drop_dead(handshake)
        return plan

    # -- setting aside ---------------------------------------------------------------------------

    def idle_beside(self, Slot slot not None):
        """Return the idle connections of the endpoint of ``slot``, the longest idle first."""
        cdef list found
        cdef Slot other
        found = []
        other = slot.handshake.endpoint.idle.head
        while other is not None:
            found.append(other)
            other = other.outer_next
        return found

    def set_aside(self, Slot slot not None):
        """Take an idle connection that nobody asked for, until :meth:`put_back` or a discard."""
        if slot.state != IDLE:
            raise ValueError("only an idle slot can be set aside")
        self._unpark(slot)

    def put_back(self, Slot slot not None, double now):
        """Give a connection that was set aside to who waits for one, or let it be idle again."""
        cdef Plan plan
        if slot.state != ACQUIRED or slot.waiter is not None:
            raise ValueError("only an acquired slot can be put back")
        plan = Plan()
        self._hand_on(slot, plan, now)
        return plan

    # -- connections that end --------------------------------------------------------------------

    def discard(self, Slot slot not None, int reason, double now):
        """Tell that a connection is being closed; its place is kept until :meth:`closed`.

        A waiter that was given it and has not woken gets another idle one, or goes back to the head
        of its line; one that may not wait has timed out.

        The place cools down if the connection was in use, or has sent what nobody asked for; not
        if it was released and is fit for another's use, but is not pooled.
        """
        cdef Plan plan
        cdef Waiter waiter
        cdef Handshake handshake
        cdef bint is_used
        is_used = slot.state == ACQUIRED and slot.waiter is None
        if slot.state == IDLE:
            self._unpark(slot)
        elif slot.state != ACQUIRED:
            return None
        slot.cools = _cools_after(reason, is_used)
        plan = None
        waiter = self._take_back(slot)
        handshake = slot.handshake
        self._start_closing(slot, reason)
        if waiter is not None:
            plan = Plan()
            self._come_back(waiter, plan, now)
        self._drop_dead(handshake)
        return plan

    def closed(self, Slot slot not None, double now):
        """Tell that a closing connection's socket, or a stopped handshake's, is gone."""
        cdef Plan plan
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

    def postpone_look(self, double now):
        """Look for late handshakes later: the machine is busy, and each takes longer than usual."""
        self._next_look = now + LATE_FLOOR

    def expire(self, double now):
        """Close what has been idle, or has lived, too long, and handshakes nobody waits for.

        Places that have cooled down are free.
        """
        cdef Plan plan
        cdef Endpoint endpoint
        cdef Slot slot, orphan, after
        cdef Waiter leaning
        plan = Plan()
        slot = self._longest_idle()
        while slot is not None and slot.since + self._max_idle <= now:
            self._close_idle(slot, _IDLE, plan)
            slot = self._longest_idle()
        if self._retiring:
            for endpoint in list(self._endpoints.values()):
                slot = endpoint.idle.head
                while slot is not None:
                    after = slot.outer_next
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
            slot = next(iter(self._cooling))
            if slot.since + self._cooldown > now:
                break
            del self._cooling[slot]
            self._end_closing(slot, plan, now)
        return plan

    def next_deadline(self):
        """Return when :meth:`expire` next has something to do (lifetimes apart)."""
        cdef Slot slot
        cdef double deadline
        cdef Slot orphan
        slot = self._longest_idle()
        deadline = INFINITY if slot is None else slot.since + self._max_idle
        if self._fading:
            orphan = next(iter(self._fading))
            deadline = min(deadline, orphan.since + ORPHAN_GRACE)
        if self._watched:
            deadline = min(deadline, self._look_deadline())
        if self._cooling:
            slot = next(iter(self._cooling))
            deadline = min(deadline, slot.since + self._cooldown)
        return deadline

    def shutdown(self, int reason, double now):
        """Empty the line and start closing everything; returns who waited, and what to close.

        No place cools down any more.
        """
        cdef list waiters
        cdef Plan plan
        cdef Handshake handshake
        cdef Waiter waiter
        cdef Slot slot
        waiters = []
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

    def __len__(self):
        """Return the number of places that are taken."""
        return self._count

    def slots(self):
        """Return every slot that is not gone."""
        return list(self._slots)

    def keys(self):
        """Return the handshakes with anything alive."""
        return list(self._handshakes)

    def open_count(self, key):
        """Return how many connections of the handshake are open or being opened.

        Handshakes that are doubted do not count.
        """
        cdef Handshake handshake
        cdef Py_ssize_t waiters
        handshake = self._handshakes.get(key)
        if handshake is None:
            return 0
        waiters = handshake.placeless.size + handshake.opening.size
        return handshake.live - waiters - handshake.doubts

    def spare_count(self, key, Py_ssize_t most):
        """Return how many connections of the handshake are idle or being opened for nobody.

        Handshakes that are doubted do not count.  What is idle is counted on the way, up to
        ``most``, as a number kept of it would be paid for by each use.
        """
        cdef Handshake handshake
        cdef Slot slot
        cdef Py_ssize_t spare
        handshake = self._handshakes.get(key)
        if handshake is None:
            return 0
        spare = len(handshake.orphans)
        slot = handshake.idle.top
        while slot is not None and spare < most:
            spare += 1
            slot = slot.inner_prev
        return spare

    def gauges(self):
        """Return them over all endpoints, in the order of ``GAUGES``.

        This, :meth:`counters` and :meth:`by_endpoint` can be called in any thread.
        """
        cdef list totals
        cdef Endpoint endpoint
        totals = [0] * len(GAUGES)
        for endpoint in self._records()[1]:
            totals = [a + b for a, b in zip(totals, endpoint.gauges(), strict=True)]
        return tuple(totals)

    def counters(self):
        """Return them since the beginning, in the order of ``COUNTERS``; none ever falls."""
        cdef Endpoint endpoint
        totals, endpoints = self._records()
        for endpoint in endpoints:
            totals = tuple([a + b for a, b in zip(totals, endpoint.counters(), strict=True)])
        return totals

    def by_endpoint(self):
        """Return the gauges and counters of each endpoint that has anything alive."""
        return {e.key: (e.gauges(), e.counters()) for e in self._records()[1]}

    def situation(self, endpoint_key, double now):
        """Return the gauges of an endpoint, what it is short of, and how its handshakes go.

        It is short of ``"limit"``, ``"limit_total"`` or ``"max_connecting"``; ``""``: of nothing.
        Then come the seconds since the oldest handshake under way got its place, -1 without one,
        and the ``failure`` of the last that failed.
        """
        cdef Endpoint endpoint
        cdef Slot oldest
        cdef double age
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
        oldest = endpoint.under_way.head
        age = -1.0 if oldest is None else now - oldest.born
        return endpoint.gauges(), lacking, age, endpoint.failure

    cdef tuple _records(self):
        """Return the counters of endpoints that are gone, and all others: no one twice, or missing.

        Another thread may ask at any point of :meth:`_drop_dead`, and be stopped at any here.  What
        is in the past already and not yet deleted is known by its serial.  An endpoint that goes
        later goes on to be read from its record, which nobody changes any more.
        """
        cdef tuple past
        cdef list endpoints
        cdef Endpoint e
        cdef Py_ssize_t last
        while True:
            past = self._past
            # One step, which no other thread comes between, as it would between those of a loop.
            endpoints = list(self._endpoints.values())
            if past is self._past:
                totals, last = past
                return totals, [e for e in endpoints if e.serial != last]

    def sizes(self):
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

    cdef Handshake _handshake(self, endpoint_key, key):
        cdef Handshake handshake
        cdef Endpoint endpoint
        handshake = self._handshakes.get(key)
        if handshake is None:
            endpoint = self._endpoints.get(endpoint_key)
            if endpoint is None:
                self._serial += 1
                endpoint = self._endpoints[endpoint_key] = Endpoint(endpoint_key, self._serial)
            endpoint.handshakes += 1
            handshake = self._handshakes[key] = Handshake(endpoint, key)
        return handshake

    cdef int _drop_dead(self, Handshake handshake) except -1:
        cdef Endpoint endpoint
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
        return 0

    cdef Slot _new_slot(self, Handshake handshake, double now):
        cdef Slot slot
        slot = Slot(handshake, now)
        self._slots[slot] = None
        handshake.live += 1
        handshake.endpoint.count += 1
        handshake.endpoint.connecting += 1
        handshake.endpoint.under_way.append(slot)
        self._count += 1
        return slot

    cdef int _freed(self, Slot slot) except -1:
        """Set a place free; nothing else does."""
        slot.state = GONE
        slot.handshake.endpoint.count -= 1
        self._count -= 1
        del self._slots[slot]
        return 0

    # -- idle connections ------------------------------------------------------------------------

    cdef int _park(
        self, Slot slot, Handshake handshake, Endpoint endpoint, double now
    ) except -1:
        cdef double expires
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
        return 0

    cdef int _unpark(self, Slot slot) except -1:
        cdef Handshake handshake
        cdef Endpoint endpoint
        handshake = slot.handshake
        endpoint = handshake.endpoint
        handshake.idle.remove(slot)
        endpoint.idle.remove(slot)
        self._idle -= 1
        endpoint.acquired += 1
        slot.state = ACQUIRED
        return 0

    cdef int _index_idle(self, Endpoint endpoint, double since) except -1:
        cdef list heap
        heap = self._idle_heap
        if len(heap) > 2 * len(self._endpoints) + 16:
            # Entries of endpoints that are gone would pile up where nothing ever expires.
            heap[:] = [entry for entry in heap if self._endpoints.get(entry[2].key) is entry[2]]
            heapq.heapify(heap)
        endpoint.in_idle_heap = True
        heapq.heappush(heap, (since, endpoint.serial, endpoint))
        return 0

    cdef Slot _longest_idle(self):
        cdef list heap
        cdef Py_ssize_t serial
        cdef Endpoint endpoint
        cdef Slot slot
        # An endpoint's longest idle connection only ever gets younger, so an entry is a lower
        # bound, put right when it comes to the top.
        heap = self._idle_heap
        while heap:
            since, serial, endpoint = heap[0]
            slot = endpoint.idle.head
            if slot is None:
                heapq.heappop(heap)
                endpoint.in_idle_heap = False
            elif slot.since > since:
                heapq.heapreplace(heap, (slot.since, serial, endpoint))
            else:
                return slot
        return None

    cdef bint _evict_longest_idle(self, Plan plan) except -1:
        """Close what has been idle for longest; False: nothing is idle."""
        cdef Slot slot
        slot = self._longest_idle()
        if slot is None:
            return False
        slot.giving = _FOR_BOUND
        self._close_idle(slot, _EVICTED, plan)
        return True

    cdef int _close_stale(self, Handshake handshake, Plan plan, double now) except -1:
        cdef Slot slot
        while (slot := handshake.idle.top) is not None and slot.expires <= now:
            self._close_idle(slot, _LIFETIME if slot.retires <= now else _IDLE, plan)
        return 0

    cdef int _close_idle(self, Slot slot, int reason, Plan plan) except -1:
        self._unpark(slot)
        self._start_closing(slot, reason)
        plan.close(slot)
        self._drop_dead(slot.handshake)
        return 0

    cdef int _start_closing(self, Slot slot, int reason) except -1:
        """From acquired to closing; what closes it is told by the caller."""
        cdef Handshake handshake
        cdef Endpoint endpoint
        handshake = slot.handshake
        endpoint = handshake.endpoint
        slot.state = CLOSING
        slot.reason = reason
        endpoint.acquired -= 1
        endpoint.closing += 1
        self._closing += 1
        endpoint.closed[reason] += 1
        handshake.live -= 1
        return 0

    cdef int _cool_down(self, Slot slot, double now) except -1:
        slot.since = now
        self._cooling[slot] = None
        return 0

    cdef int _end_closing(self, Slot slot, Plan plan, double now) except -1:
        """Set the place of a closing slot free; ``plan`` may be None where nobody waits."""
        cdef Endpoint endpoint
        endpoint = slot.handshake.endpoint
        endpoint.closing -= 1
        self._closing -= 1
        if slot.giving == _FOR_LIMIT:
            endpoint.giving -= 1
        elif slot.giving == _FOR_TOTAL:
            self._giving -= 1
        self._freed(slot)
        if self._waiters:
            self._settle(endpoint, plan, now)
        self._drop_dead(slot.handshake)
        return 0

    # -- handshakes under way --------------------------------------------------------------------

    cdef int _own(self, Waiter waiter, Slot slot) except -1:
        waiter.opening = slot
        slot.owner = waiter
        waiter.handshake.opening.insert_by_ticket(waiter)
        if slot.doubted:
            waiter.handshake.endpoint.leaning.append(waiter)
            self._leaning[waiter.handshake.endpoint] = None
        return 0

    cdef int _disown(self, Waiter waiter, Slot slot) except -1:
        cdef Endpoint endpoint
        waiter.opening = None
        slot.owner = None
        waiter.handshake.opening.remove(waiter)
        if slot.doubted:
            endpoint = waiter.handshake.endpoint
            endpoint.leaning.remove(waiter)
            if endpoint.leaning.head is None:
                del self._leaning[endpoint]
        return 0

    cdef int _orphan(self, Slot slot, double now) except -1:
        cdef Handshake handshake
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
            return 0
        slot.since = now
        handshake.orphans[slot] = None
        if not slot.kept:
            self._fading[slot] = None
        return 0

    cdef int _leave_to_nobody(self, Slot slot, Plan plan, double now) except -1:
        """Let nobody have a handshake, until somebody takes it over."""
        self._orphan(slot, now)
        if slot.drained:
            # Who comes from now on is to have one that was begun since.
            self._give_way(slot, _FOR_NOBODY, plan)
        return 0

    cdef int _adopt(self, Slot slot) except -1:
        cdef Handshake handshake
        handshake = slot.handshake
        del handshake.endpoint.orphans[slot]
        del self._orphans[slot]
        if slot.doubted:
            # Its grace goes on.
            handshake.doubted.pop(slot, None)
        else:
            del handshake.orphans[slot]
            self._fading.pop(slot, None)
        return 0

    cdef int _stop_connecting(self, Slot slot) except -1:
        """Take a handshake from its owner, which then stands in line without a place."""
        cdef Waiter owner
        owner = slot.owner
        if owner is None:
            self._adopt(slot)
        else:
            self._disown(owner, slot)
            self._return_to_line(owner)
        slot.handshake.endpoint.connecting -= 1
        slot.handshake.endpoint.under_way.remove(slot)
        if slot.began < INFINITY:
            self._watched.pop(slot, None)
        if slot.doubted:
            del self._fading[slot]
            slot.handshake.doubts -= 1
            slot.doubted = False
        return 0

    # -- handshakes that hang --------------------------------------------------------------------

    cdef int _doubt(self, Slot slot, double now) except -1:
        """Count on a handshake no more: from now on it has its grace, whoever leans on it."""
        slot.doubted = True
        slot.kept = False
        slot.since = now
        slot.handshake.doubts += 1
        self._fading[slot] = None
        return 0

    cdef int _learn(self, Endpoint endpoint, double seconds) except -1:
        """Take what a handshake has taken for what is usual.

        That rises at once and falls slowly: of handshakes that begin together the last take much
        longer than the first, and are not late.
        """
        if seconds > endpoint.usual:
            endpoint.usual = seconds
        else:
            endpoint.usual += (seconds - endpoint.usual) * _NEWEST_SHARE
        return 0

    cdef double _patience(self, Endpoint endpoint) except -1:
        """Return after how many seconds a handshake is late."""
        cdef double patience
        if endpoint.usual < 0:
            return endpoint.patience
        patience = LATE_FACTOR * endpoint.usual
        if patience < LATE_FLOOR:
            patience = LATE_FLOOR
        # Of a hundred that begin together, the last waits for all the others.
        return patience * (1 + endpoint.connecting // 8)

    cdef double _patience_of(self, Waiter owner, Endpoint endpoint) except -1:
        """Return after how many seconds the handshake of a waiter is late.

        That doubles with each it has had: where a server hangs, there would be a storm otherwise.
        """
        cdef double patience
        patience = self._patience(endpoint)
        # Until one has succeeded, that of the endpoint doubles.
        return patience if endpoint.usual < 0 else patience * 2.0**owner.hedges

    cdef double _look_deadline(self) except? -1:
        cdef Slot oldest
        oldest = next(iter(self._watched))
        return max(self._next_look, oldest.began + LATE_FLOOR)

    cdef int _look(self, Plan plan, double now) except -1:
        """Look for handshakes that are late."""
        cdef list late
        cdef Slot slot
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
        return 0

    cdef int _turn_late(self, Slot slot, Plan plan, double now) except -1:
        """Let a waiter that has nothing but a late handshake have another beside it.

        That is one which belongs to nobody, where there is such, or a new one.
        """
        cdef Endpoint endpoint
        cdef Waiter owner
        endpoint = slot.handshake.endpoint
        owner = slot.owner
        if owner is None:
            self._adopt(slot)
        elif not slot.doubted and slot.began + self._patience_of(owner, endpoint) > now:
            return 0
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
        return 0

    cdef bint _has_free_room(self, Endpoint endpoint) except -1:
        """Whether a handshake could begin for which nothing has to give way, and nobody to wait."""
        return not (
            endpoint.waiting.head is not None
            or 0 < self._max_connecting <= endpoint.connecting
            or self._is_at_limit(endpoint)
            or self._is_at_total()
        )

    cdef int _open_beside(self, Endpoint endpoint, Plan plan, double now) except -1:
        """Let waiters that lean on doubted handshakes have others, as far as there is room."""
        cdef Waiter waiter
        cdef Slot doubted, orphan
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
        return 0

    cdef int _rekey(
        self, Slot slot, key, Waiter owner, bint moves, Plan plan, double now
    ) except -1:
        """Let a slot answer to another handshake, with all who wait for a place, or its owner."""
        cdef Handshake old, new
        cdef Waiter waiter
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
        return 0

    cdef int _move(self, Waiter waiter, Handshake new) except -1:
        cdef Handshake old
        old = waiter.handshake
        old.placeless.remove(waiter)
        new.placeless.insert_by_ticket(waiter)
        old.live -= 1
        new.live += 1
        waiter.handshake = new
        return 0

    # -- waiters ---------------------------------------------------------------------------------

    cdef int _line_up(self, Waiter waiter, double now) except -1:
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Slot slot
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
        return 0

    cdef bint _leans(self, Handshake handshake, Py_ssize_t ticket) except -1:
        """Whether a waiter would rather lean on a doubted handshake than have that give way to it.

        Not where a waiter that came earlier lacks a place, which may be this one; and not where
        there is room, or something else that can give way.
        """
        cdef Endpoint endpoint
        cdef Py_ssize_t others
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

    cdef bint _has_come_earlier(self, Endpoint endpoint, Py_ssize_t ticket) except -1:
        """Whether an older waiter lacks a place, at the endpoint or, under a limit, at another."""
        cdef Waiter waiter
        cdef Endpoint claimant
        waiter = self._oldest_waiting(endpoint)
        if waiter is not None and waiter.ticket < ticket:
            return True
        if not self._is_at_total():
            return False
        self._index(endpoint)
        claimant = self._oldest_claimant()
        return claimant is not None and claimant.indexed < ticket

    cdef int _return_to_line(self, Waiter waiter) except -1:
        """Let a waiter that lost what it had stand at the head of the line."""
        waiter.returned = True
        waiter.handshake.placeless.insert_by_ticket(waiter)
        waiter.handshake.endpoint.waiting.insert_returned(waiter)
        return 0

    cdef int _come_back(self, Waiter waiter, Plan plan, double now) except -1:
        cdef Handshake handshake
        handshake = waiter.handshake
        if not waiter.may_wait:
            self._close_stale(handshake, plan, now)
            if handshake.idle.top is None:
                handshake.endpoint.timeouts += 1
                return 0
        waiter.returned = True
        self._line_up(waiter, now)
        self._serve_at_hand(handshake, plan, now)
        self._settle(handshake.endpoint, plan, now)
        return 0

    cdef int _serve_at_hand(self, Handshake handshake, Plan plan, double now) except -1:
        """Serve waiters that have come to a handshake with what lies there."""
        cdef Slot slot
        cdef Waiter waiter
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
        return 0

    cdef int _give_orphans(self, Handshake handshake) except -1:
        """Give handshakes that belong to nobody, and are counted on, to waiters without any."""
        cdef Waiter waiter
        cdef Slot orphan
        while handshake.orphans and (waiter := handshake.placeless.head) is not None:
            orphan = next(iter(handshake.orphans))
            self._adopt(orphan)
            self._leave_line(waiter)
            self._own(waiter, orphan)
        return 0

    cdef int _leave_line(self, Waiter waiter) except -1:
        waiter.handshake.placeless.remove(waiter)
        waiter.handshake.endpoint.waiting.remove(waiter)
        return 0

    cdef int _leave(self, Waiter waiter, Plan plan, double now, bint gave_up=False) except -1:
        """Take a waiter out; a handshake of its own passes to the next of its kind.

        One that has begun and was given up is doubted from then on: the next waiter of its kind
        leans on it if nobody who waits for a place has come earlier; otherwise it belongs to
        nobody, and gives way.
        """
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Slot slot
        cdef Waiter heir
        handshake = waiter.handshake
        endpoint = handshake.endpoint
        slot = waiter.opening
        if slot is None:
            self._leave_line(waiter)
        else:
            self._disown(waiter, slot)
            if gave_up and slot.began <= now and not slot.doubted:
                self._doubt(slot, now)
            heir = handshake.placeless.head
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
        return 0

    cdef Waiter _take_back(self, Slot slot):
        """Undo a gift that has not been taken yet."""
        cdef Waiter waiter
        waiter = slot.waiter
        if waiter is not None:
            slot.waiter = None
            waiter.slot = None
        return waiter

    cdef int _give(self, Slot slot, Waiter waiter) except -1:
        slot.uses += 1
        slot.waiter = waiter
        waiter.slot = slot
        return 0

    cdef int _serve(self, Waiter waiter, Slot slot, Plan plan, double now) except -1:
        self._leave(waiter, plan, now)
        self._give(slot, waiter)
        plan.wake(waiter)
        return 0

    # -- who gets what ---------------------------------------------------------------------------

    cdef int _hand_on(self, Slot slot, Plan plan, double now) except -1:
        """Decide who gets a connection that has fallen free; nothing else does."""
        cdef Handshake handshake
        cdef Endpoint endpoint
        cdef Waiter first
        cdef int giving
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
        return 0

    cdef int _passed_over(self, Endpoint endpoint, Waiter first) except -1:
        """Count that the oldest waiter that could use the place is passed over for ``first``.

        Returns for whom the connection gives way, where that is one time too many.  A waiter for
        which a place is being cleared already is not passed over.
        """
        cdef Waiter rival
        cdef int giving
        cdef Endpoint claimant
        cdef Waiter waiter
        rival = None
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

    cdef bint _is_connecting_full(self, Endpoint endpoint) except -1:
        cdef Py_ssize_t busy
        # What belongs to nobody is stopped for who needs its place.
        busy = endpoint.connecting - len(endpoint.orphans)
        return 0 < self._max_connecting <= busy

    cdef bint _is_at_limit(self, Endpoint endpoint) except -1:
        return 0 < self._limit <= endpoint.count

    cdef bint _is_at_total(self) except -1:
        return 0 < self._limit_total <= self._count

    cdef bint _is_over_limit(self, Endpoint endpoint) except -1:
        return 0 < self._limit < endpoint.count - endpoint.closing

    cdef bint _is_over_total(self) except -1:
        return 0 < self._limit_total < self._count - self._closing

    cdef bint _is_surplus(self, Endpoint endpoint) except -1:
        return self._is_over_limit(endpoint) or self._is_over_total()

    cdef bint _has_room(self, Endpoint endpoint) except -1:
        return not (
            self._is_connecting_full(endpoint) or self._is_at_limit(endpoint) or self._is_at_total()
        )

    cdef bint _is_full(self, Handshake handshake) except -1:
        """Whether one more caller would have to queue, and may not."""
        cdef Endpoint endpoint
        cdef Py_ssize_t ahead, claim, wanted, elsewhere, cleared, served
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

    cdef bint _can_be_placed(self, Endpoint endpoint) except -1:
        cdef Py_ssize_t ahead, busy
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

    cdef int _settle(self, Endpoint endpoint, Plan plan, double now) except -1:
        """Give free places to who waits for one, and clear places for the rest."""
        if self._lowered:
            self._trim_to_limit(endpoint, plan)
            self._trim_to_total(plan)
        self._grant(endpoint, plan, now)
        self._make_room(endpoint, plan)
        return 0

    cdef int _grant(self, Endpoint endpoint, Plan plan, double now) except -1:
        cdef Endpoint claimant
        if not self._limit_total:
            while endpoint.waiting.head is not None and self._has_room(endpoint):
                self._open_for(endpoint.waiting.head, plan, now)
            self._open_beside(endpoint, plan, now)
            return 0
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
        return 0

    cdef int _open_for(self, Waiter waiter, Plan plan, double now) except -1:
        cdef Endpoint endpoint
        cdef Slot orphan
        endpoint = waiter.handshake.endpoint
        if 0 < self._max_connecting <= endpoint.connecting:
            orphan = _first_to_go(endpoint.orphans) or next(iter(endpoint.orphans))
            self._give_way(orphan, _FOR_NOBODY, plan)
        self._leave_line(waiter)
        self._begin_for(waiter, plan, now)
        return 0

    cdef int _begin_for(self, Waiter waiter, Plan plan, double now) except -1:
        cdef Slot slot
        slot = self._new_slot(waiter.handshake, now)
        self._own(waiter, slot)
        slot.begun_for = waiter.ticket
        plan.open(slot)
        return 0

    cdef int _index(self, Endpoint endpoint) except -1:
        """Under ``limit_total``: keep an endpoint's place among those that want room, in order."""
        cdef Waiter waiter
        cdef Endpoint other
        cdef Py_ssize_t claim
        cdef list heap
        if not self._limit_total:
            return 0
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
        return 0

    cdef Waiter _oldest_waiting(self, Endpoint endpoint):
        """Return who came first of those in line; in front may stand some that came back."""
        cdef Waiter oldest = endpoint.waiting.head
        cdef Waiter waiter = oldest
        while waiter is not None and waiter.returned:
            waiter = waiter.outer_next
            if waiter is not None and oldest is not None and waiter.ticket < oldest.ticket:
                oldest = waiter
        return oldest

    cdef Endpoint _oldest_claimant(self):
        cdef list heap
        cdef Endpoint endpoint
        heap = self._place_heap
        while heap:
            ticket, _, endpoint = heap[0]
            if endpoint.indexed == ticket:
                return endpoint
            heapq.heappop(heap)
        return None

    cdef int _wanted(self, Endpoint endpoint, int callers=0) except -1:
        """Return how many more handshakes the endpoint would begin if there were places.

        With ``callers``: if so many more came.
        """
        cdef Py_ssize_t wanted, busy
        wanted = endpoint.waiting.size + callers
        if self._max_connecting:
            busy = endpoint.connecting - len(endpoint.orphans)
            wanted = max(0, min(wanted, self._max_connecting - busy))
        return wanted

    cdef int _make_room(self, Endpoint endpoint, Plan plan) except -1:
        cdef Py_ssize_t wanted
        cdef Slot victim
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
        return 0

    cdef Slot _dispensable(self, Endpoint endpoint):
        """Return what can best be done without, if anything can."""
        cdef Slot slot
        slot = _first_to_go(endpoint.orphans)
        if slot is None:
            slot = endpoint.idle.head
        if slot is None and endpoint.orphans:
            slot = next(iter(endpoint.orphans))
        return slot

    cdef Slot _dispensable_of_all(self):
        cdef Slot slot
        slot = _first_to_go(self._orphans)
        if slot is None:
            slot = self._longest_idle()
        if slot is None and self._orphans:
            slot = next(iter(self._orphans))
        return slot

    cdef int _trim_to_limit(self, Endpoint endpoint, Plan plan) except -1:
        """Close what is more than a lowered limit allows and nobody uses or waits for."""
        cdef Slot victim
        while self._is_over_limit(endpoint):
            victim = self._dispensable(endpoint)
            if victim is None:
                break
            self._give_way(victim, _FOR_NOBODY, plan)
        return 0

    cdef int _trim_to_total(self, Plan plan) except -1:
        cdef Slot victim
        while self._is_over_total():
            victim = self._dispensable_of_all()
            if victim is None:
                break
            self._give_way(victim, _FOR_NOBODY, plan)
        return 0

    cdef int _give_way(self, Slot slot, int giving, Plan plan) except -1:
        """Close a connection, or stop a handshake, so that its place can go to another."""
        cdef Handshake handshake
        cdef Endpoint endpoint
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
        return 0



# What the first two bytes of a frame hold (RFC 6455, 5.2).
cdef enum:
    _FIN = 0x80
    _OPCODE = 0x0F
    _FIRST_CONTROL_OPCODE = 0x8
    _MASKED = 0x80
    _LENGTH = 0x7F
    # The first byte of a CLOSE, a PING and a PONG.
    _CLOSE_BYTE = 0x88
    _PONG_BYTE = 0x8A
    # What a control frame may hold.
    _LONGEST_CONTROL = 125
    _MASK_SIZE = 4

# What a frame may hold.
cdef unsigned long long _LONGEST_FRAME = (1 << 63) - 1

# The part of a frame that the next byte belongs to.
cdef enum:
    _IN_FIRST = 0
    _IN_SECOND = 1
    _IN_LENGTH = 2
    _IN_PAYLOAD = 3

# Where the last byte received lies: between frames, in a control frame, or in a message.
cdef enum:
    _BETWEEN_FRAMES = 0
    _IN_CONTROL_FRAME = 1
    _IN_MESSAGE = 2


cdef class Parkable:
    """What release and hand-out ask of a connection and do to it, without the connection.

    It stands in front of the connection's parser, and hands on to that what comes.  It follows the
    frames on the way, from the first byte of the connection on, since no parser shows whether it is
    in the middle of one.  The names are those of aiohttp's WebSocket response (``state``: its
    instance dictionary) and of its protocol; ``idle.py`` says what they mean and sets the fields.
    """

    cdef public object _buffer, _parser, _protocol, _transport
    cdef public set _background
    # Whether the transport is one of asyncio's that has its answer in an attribute.
    cdef public bint _has_closing
    cdef public dict state
    cdef public bint closing, failed, fresh, gone, parked, resets
    # When something came last, by the coarse clock.
    cdef public double heard
    # The frame that the last byte belongs to, with its mask for a part of its payload.
    cdef int _frame_part
    cdef unsigned long long _frame_left, _frame_length
    cdef int _length_left
    cdef bint _in_control
    # Whether it ends its message, and whether there is a message that has not ended.
    cdef bint _is_final, _in_message
    #: Whether what has come ends between two frames, in a control frame or in a message.
    cdef readonly int midway
    #: Frames and messages that have come whole.
    cdef readonly unsigned long long control_frames, messages
    #: Whether all frames that began to come since it was set were sound control frames.
    cdef public bint only_control

    def __cinit__(self):
        # All else is 0.
        self.only_control = True

    def feed_data(self, data):
        """Take what the transport received, in place of the real parser."""
        self.heard = _coarse_clock()
        if not self.failed:
            if self.parked or self.closing:
                self.take(data)
            else:
                self.follow(data)
                self.failed = self._parser.feed_data(data)[0]
        return _GO_ON

    def take(self, data):
        """Take what has come while nobody uses the connection; a subclass's own."""
        raise NotImplementedError

    cpdef int follow(self, data) except -1:
        """Follow the frames in what has come."""
        cdef const unsigned char[::1] view
        if type(data) is bytes:
            self._follow(<const unsigned char *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        elif len(data):
            view = data
            self._follow(&view[0], view.shape[0])
        return 0

    @cython.final
    cdef int _follow(self, const unsigned char *data, Py_ssize_t end) except -1:
        cdef Py_ssize_t at = 0, taken
        while at < end:
            if self._frame_part == _IN_PAYLOAD:
                taken = end - at
                if <unsigned long long> taken > self._frame_left:
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
            self.midway = _IN_MESSAGE
        else:
            self.midway = _BETWEEN_FRAMES if self._frame_part == _IN_FIRST else _IN_CONTROL_FRAME
        return 0

    @cython.final
    cdef int _follow_header(self, unsigned char byte) except -1:
        cdef int length
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
        return 0

    def is_clean(self):
        """Whether it can go to another user: nothing unread, nothing under way, no error seen.

        A control frame may have begun to come; until all of it is there, it is in the pool and is
        not handed out.
        """
        return self._is_clean()

    def park(self):
        """Begin to watch a connection that nobody reads; False: it is not clean."""
        return self._park()

    def has_closing_transport(self):
        """Whether its end is known to the transport, which tells the protocol a turn later."""
        return self._has_closing_transport()

    def is_held_back(self):
        """Whether it must not be handed out: it is ending, or in the middle of a frame."""
        return self._is_held_back()

    def end_held_back(self):
        """Take it out of the pool, as somebody asks for it; a subclass's own."""
        raise NotImplementedError

    # Not cpdef: that would look for what overrides it, at each call.
    @cython.final
    cdef bint _has_closing_transport(self) except -1:
        transport = self._transport
        return transport._closing if self._has_closing else transport.is_closing()

    @cython.final
    cdef bint _is_held_back(self) except -1:
        return self.midway != _BETWEEN_FRAMES or self._has_closing_transport()

    @cython.final
    cdef bint _is_clean(self) except -1:
        cdef dict ws = self.state
        return not (
            self.closing
            or self.failed
            or self.gone
            or self._buffer
            or self.midway == _IN_MESSAGE
            or ws["_waiting"]
            # aiohttp sets it wherever it sets _closing or _exception.
            or ws["_close_code"] is not None
            or ws["_closed"]
            or self._background
            or self._protocol._paused
            or self._has_closing_transport()
        )

    @cython.final
    cdef bint _park(self) except -1:
        if not self._is_clean():
            return False
        self.parked = True
        return True


# What a parser returns for "go on". A "protocol error" of the real one is kept from the protocol,
# which would drop its parser, and with it the only one to be told that the socket is gone.
cdef object _GO_ON = (False, b"")


cdef class Done:
    """What is complete from the start: nothing to wait for, and nothing kept between two uses."""

    def __await__(self):
        return self

    def __iter__(self):
        # What __await__() returns is gone through by "yield from", too.
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        """End at once."""
        raise StopIteration

    def throw(self, typ, val=None, tb=None):
        """End with what is thrown."""
        # A traceback has no variables of what is compiled.
        raise typ if val is None else val

    def close(self):
        """Do nothing."""


cdef PySendResult _step_done(PyObject *this, PyObject *value, PyObject **result) noexcept:
    Py_INCREF(None)
    result[0] = <PyObject *> None
    return PYGEN_RETURN


cdef PyObject *_next_of_done(PyObject *this) noexcept:
    # The end of an iteration that returns nothing need not be raised.
    return NULL


(<PyTypeObject *> Done).tp_as_async.am_send = <sendfunc> _step_done
(<PyTypeObject *> Done).tp_iternext = <iternextfunc> _next_of_done

# What ``release()`` returns for a connection that is pooled.
DONE = Done()
cdef object _DONE = DONE


cdef class Handle:
    """What a response adds to aiohttp's: the fields of one acquisition.

    A handle borrows its instance dictionary from the connection (:func:`lend`) and loses it on
    release (:func:`spend`), so that nothing done with it afterwards can reach the connection.
    """

    # Whom to tell when the handle is collected unreleased; None: it holds nothing (any more).
    cdef public object _owner
    cdef readonly Express _express
    cdef public Slot _slot
    cdef public bint _spent, _reused

    def release(self):
        """Give the connection back.

        It takes effect when called.  A connection that is fit for another's use goes to the pool,
        or straight to the caller that has waited longest; one that has an unread message, a
        ``receive()`` under way, or that saw an error or the beginning of a close, is closed.

        What it returns can be awaited, by many and more than once, and ends when the connection is
        pooled or closed: at most ``close_timeout`` seconds later, or after a reset if there is one.
        """
        owner = self._owner
        if owner is None:
            return _DONE
        plan = self._express.release(self)
        if plan is None:
            return _DONE
        return owner._released(self, plan)

    def __del__(self):
        if self._owner is not None:
            self._owner._handle_lost(self)


cpdef object lend(Express express, owner, Slot slot):
    """Return a new handle on the connection in ``slot``, which is parked no more."""
    cdef Parkable conn = slot.conn
    conn.parked = False
    # Not by the class's own: a subclass's may want aiohttp's arguments.
    cdef PyTypeObject *cls = <PyTypeObject *> express._cls
    cdef Handle handle = (<PyTypeObject *> Handle).tp_new(cls, (), NULL)
    PyObject_GenericSetDict(handle, conn.state, NULL)
    handle._express = express
    handle._slot = slot
    handle._reused = slot.uses > 1
    handle._owner = owner
    return handle


cpdef object hand_out(Express express, owner, Slot slot):
    """Do the same for a connection that was given to a waiter."""
    cdef Parkable conn = slot.conn
    conn.fresh = False
    return lend(express, owner, slot)


cdef int end_if_held_back(Waiter waiter) except -1:
    """Take back what a waiter was given, if it has ended since, or is in the middle of a frame.

    Not so a new one: a server that ends each at once would be connected to for ever.
    """
    cdef Slot slot = waiter.slot
    cdef Parkable conn
    if slot is not None:
        conn = slot.conn
        if not conn.fresh and conn._is_held_back():
            conn.end_held_back()
    return 0


cpdef int spend(Handle handle, dict state) except -1:
    """Take the connection from a handle, and leave it ``state`` for attributes."""
    handle._owner = None
    handle._spent = True
    PyObject_GenericSetDict(handle, state, NULL)
    return 0


cdef double _latest = 0.0


cpdef double clock():
    """Return what the session takes for the time."""
    global _latest
    _latest = monotonic()
    return _latest


cdef double _coarse_clock():
    """Return what is asked at each acquisition and release.

    It may be some milliseconds behind, but not behind what the other has said: what is idle stands
    in the order of its time.
    """
    cdef double now
    if not time_of_last_tick(&now):
        return monotonic()
    return now if now > _latest else _latest


cdef int _ROOM = ROOM


cpdef int ensure_room() except -1:
    """Raise ``RecursionError`` where an operation might fail half way, before it has begun."""
    if frames_left() <= _ROOM:
        raise RecursionError("too near to the recursion limit for an operation of the pool")
    return 0


@cython.freelist(64)
cdef class Caller:
    """A caller that waits: what a waiter of the pool stands for."""

    cdef readonly Route route
    cdef public object check_deadline, context, error, future, overdue, timer

    def __init__(self, Route route, future):
        self.route = route
        self.future = future
        #: A handshake made for this caller is traced and logged as the caller's.
        self.context = copy_context()
        self.error = None
        #: Its time ran out after it had been given a connection, which may yet turn out dead.
        self.overdue = None
        #: While a check runs on what it was given.
        self.check_deadline = None
        #: Its acquire_timeout.
        self.timer = None

    cpdef int wake(self) except -1:
        """Tell it that there is something for it, or nothing more to wait for."""
        try:
            self.future.set_result(None)
        except asyncio.InvalidStateError:
            # It was told before, or is cancelled.
            pass
        if self.check_deadline is not None:
            self.stop_check()
        return 0

    def stop_check(self):
        """Do not let it wait for its check any longer."""
        if self.check_deadline is not None and not self.check_deadline.expired():
            try:
                # In the past, whatever the loop's clock says.
                self.check_deadline.reschedule(-INFINITY)
            except RuntimeError:
                # The check has ended, which is being logged.
                pass

    cpdef int finish(self) except -1:
        """Let go of what its wait has left."""
        # Their tracebacks have its frame.
        self.error = self.overdue = None
        if self.timer is not None:
            self.timer.cancel()
        return 0


# To ask for the running loop costs a system call on CPython 3.11.
cdef bint _KNOWS_RUNNING_LOOP = sys.version_info >= (3, 12)


cdef class Express:
    """The way of a connection to its user and back, as long as the core alone can see to it.

    While it is ``open``, in the thread and the loop it was made for, nothing else need be asked
    when an idle connection is at hand; otherwise the session is.
    """

    cdef Pool _pool
    cdef type _cls
    cdef object _loop
    cdef bint _has_thread_id
    cdef public unsigned long thread
    cdef public bint open, pooling, plain_exit
    cdef public str session_name

    def __init__(self, Pool pool not None, type cls not None, loop, unsigned long thread):
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
        self.session_name = None

    cdef bint is_usable(self) except -1:
        """Return whether a caller need not ask the session."""
        # A loop that runs, in the thread that asks, is the running loop.
        if not self.open or PyThread_get_thread_ident() != self.thread:
            return False
        if self._has_thread_id:
            thread_id = self._loop._thread_id
            return thread_id is not None and <unsigned long> thread_id == self.thread
        if _KNOWS_RUNNING_LOOP:
            return _get_running_loop() is self._loop
        # It may run in another thread than before; nobody has told.
        return self._loop.is_running()

    cpdef object acquire(self, owner, Route route):
        """Return a handle on an idle connection; None: there is none."""
        cdef Handshake handshake = route.handshake
        cdef Slot top, slot
        cdef Parkable conn
        ensure_room()
        if handshake is None or handshake.dropped:
            handshake = route.handshake = self._pool.find(route.key)
            if handshake is None:
                return None
        top = handshake.idle.top
        if top is not None:
            conn = top.conn
            if conn._is_held_back():
                self._end_held_back(handshake)
        slot = self._pool.acquire(route.key, _coarse_clock(), handshake)
        return None if slot is None else lend(self, owner, slot)

    cdef int _end_held_back(self, Handshake handshake) except -1:
        """Take out of the pool those on top that must not be handed out.

        They have ended, and nobody has been told yet; or a frame has begun to come, and the rest of
        it is late.
        """
        cdef Slot top
        while (top := handshake.idle.top) is not None and top.conn.is_held_back():
            top.conn.end_held_back()
        return 0

    cpdef Waiter line_up(self, owner, Route route, acquire_timeout):
        """Ask for a connection that is released, or a new one; either may be there at once."""
        cdef Caller caller
        cdef Handshake handshake = route.record()
        cdef Waiter waiter
        cdef Plan plan
        cdef bint may_wait = acquire_timeout is None or acquire_timeout != 0
        ensure_room()
        caller = Caller(route, self._loop.create_future())
        if handshake is not None:
            self._end_held_back(handshake)
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

    async def wait(self, owner, Waiter waiter, acquire_timeout):
        """Return a handle on what a waiter is given."""
        cdef Caller caller = waiter.token
        cdef Slot slot
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

    cpdef object release(self, Handle handle):
        """Park the connection of a handle, and release it: what :meth:`Pool.release` returns.

        ``None``: there is nothing left to do.  ``False``: it is not fit for another's use, or not
        yet, and nothing was done.
        """
        cdef Slot slot = handle._slot
        cdef Parkable conn = slot.conn
        cdef Plan plan
        cdef Waiter waiter
        cdef Caller caller
        if not self.pooling or PyThread_get_thread_ident() != self.thread:
            return False
        ensure_room()
        if conn is None or conn.resets or not conn._park():
            return False
        spend(handle, {})
        # How long others have waited is told by the clock they began with.
        plan = self._pool.release(slot, clock() if self._pool._waiters else _coarse_clock())
        # A handshake that nobody waits for any more is to be stopped in time.
        if plan is None or self._pool._fading or not plan.is_to_wake_only():
            return plan
        for waiter in plan.woken:
            caller = waiter.token
            caller.wake()
        return None


cdef class Wait:
    """:meth:`Express.wait` for one that waits once and is served: a coroutine's part of memory.

    Whoever is woken otherwise goes on with the coroutine.
    """

    cdef Express _express
    # None: this has ended, or goes on with the coroutine.
    cdef Waiter _waiter
    # None: this has ended. (That of a future says nothing when it is stepped again.)
    cdef object _owner, _acquire_timeout, _steps

    def __await__(self):
        # What it is stepped by hangs where this is.
        return self

    def throw(self, error):
        """Throw into it; where it waits for its future, that ends it."""
        self._check_ended()
        try:
            return self._steps.throw(error)
        except BaseException:
            self._end()
            raise

    def close(self):
        """End it where it stands."""
        if self._steps is not None:
            self._steps.close()
        self._end()

    cdef int _check_ended(self) except -1:
        if self._steps is None:
            raise RuntimeError("what ws_connect() returned can be awaited only once")
        return 0

    cdef int _end(self) except -1:
        cdef Waiter waiter = self._waiter
        cdef Caller caller
        self._steps = None
        if waiter is not None:
            self._waiter = None
            caller = waiter.token
            caller.finish()
            self._owner._give_up(waiter)
        return 0

    def __del__(self):
        if self._waiter is not None:
            self._end()


cdef object _wait(Express express, owner, Waiter waiter, acquire_timeout):
    cdef Caller caller = waiter.token
    cdef Wait self
    if caller.route.is_checked or waiter.slot is not None:
        return express.wait(owner, waiter, acquire_timeout)
    self = Wait.__new__(Wait)
    self._express = express
    self._owner = owner
    self._waiter = waiter
    self._acquire_timeout = acquire_timeout
    self._steps = caller.future.__await__()
    return self


cdef PySendResult _step_wait(
    PyObject *this, PyObject *value, PyObject **result
) except PYGEN_ERROR:
    cdef Wait self = <Wait> this
    cdef Waiter waiter
    cdef Caller caller
    cdef Slot slot
    cdef PySendResult how
    # As in _step_acquisition().
    result[0] = NULL
    self._check_ended()
    try:
        how = PyIter_Send(self._steps, <object> value, result)
    except BaseException:
        self._end()
        raise
    if how != PYGEN_RETURN or self._waiter is None:
        return how
    Py_DECREF(<object> result[0])
    waiter = self._waiter
    end_if_held_back(waiter)
    self._waiter = None
    slot = self._express._pool.take(waiter)
    if slot is None:
        self._steps = self._express.wait(self._owner, waiter, self._acquire_timeout)
        return PyIter_Send(self._steps, None, result)
    caller = waiter.token
    caller.finish()
    handle = hand_out(self._express, self._owner, slot)
    Py_INCREF(handle)
    result[0] = <PyObject *> handle
    return PYGEN_RETURN


(<PyTypeObject *> Wait).tp_as_async.am_send = _step_wait


@cython.freelist(16)
cdef class Acquisition:
    """What ``ws_connect`` returns: a coroutine to asyncio, and an asynchronous context manager.

    It goes by :class:`Express` where that is usable; for all else it runs the owner's ``_acquire``.
    """

    cdef Express _express
    cdef Route _route
    cdef object _owner, _acquire_timeout, _handle, _steps
    cdef bint _begun

    def __init__(self, Express express not None, owner, Route route not None, acquire_timeout):
        self._express = express
        self._owner = owner
        self._route = route
        self._acquire_timeout = acquire_timeout

    def __await__(self):
        # Here too, as the steps of one that waits do not tell who goes by them.
        self._check_begun()
        return self

    def __iter__(self):
        # As that of Done.
        return self

    def __next__(self):
        return self.send(None)

    cdef int _check_begun(self) except -1:
        if self._begun:
            raise RuntimeError("what ws_connect() returned can be awaited only once")
        return 0


    @property
    def __name__(self):
        # For the repr of tasks.
        return "ws_connect"

    def send(self, value):
        """Step it, as ``asyncio.Task`` does."""
        cdef PyObject *result
        how = _step_acquisition(<PyObject *> self, <PyObject *> value, &result)
        step = <object> result
        Py_DECREF(step)
        if how == PYGEN_RETURN:
            raise StopIteration(step)
        return step

    def throw(self, typ, val=None, tb=None):
        """Throw into it, as ``asyncio.Task`` does on cancellation."""
        self._begun = True
        if self._steps is None:
            self._steps = self._owner._acquire(self._route, self._acquire_timeout)
        try:
            return self._steps.throw(typ if val is None else val)
        except StopIteration as stop:
            # A check was told to stop, and something else could be had.
            self._handle = stop.value
            raise

    def close(self):
        """End it where it stands, or before it began."""
        self._begun = True
        if self._steps is not None:
            self._steps.close()

    def __aenter__(self):
        return self

    def __aexit__(self, exc_type, exc_val, exc_tb):
        if exc_type is None and self._express.plain_exit:
            return self._handle.release()
        return self._handle.__aexit__(exc_type, exc_val, exc_tb)

    def __dealloc__(self):
        # Not __del__: CPython runs that once in the life of an object, and one that comes from a
        # free list has had a life before.
        if not self._begun:
            warnings.warn("ws_connect() was never awaited", RuntimeWarning, stacklevel=2)


cdef PySendResult _step_acquisition(
    PyObject *this, PyObject *value, PyObject **result
) except PYGEN_ERROR:
    """Go on to the next suspension, or to the end, with nothing made on the way to an idle one."""
    cdef Acquisition self = <Acquisition> this
    cdef Express express
    cdef Waiter waiter
    cdef PySendResult how
    # Asked for together with an error; a debug build of CPython looks.
    result[0] = NULL
    if self._steps is None:
        self._check_begun()
        self._begun = True
        express = self._express
        if express.is_usable():
            self._handle = express.acquire(self._owner, self._route)
            if self._handle is not None:
                Py_INCREF(self._handle)
                result[0] = <PyObject *> self._handle
                return PYGEN_RETURN
            waiter = express.line_up(self._owner, self._route, self._acquire_timeout)
            self._steps = _wait(express, self._owner, waiter, self._acquire_timeout)
        else:
            self._steps = self._owner._acquire(self._route, self._acquire_timeout)
    elif self._handle is not None:
        self._check_begun()
    how = PyIter_Send(self._steps, <object> value, result)
    if how == PYGEN_RETURN:
        self._handle = <object> result[0]
    return how


cdef PyObject *_next_of_acquisition(PyObject *this) except NULL:
    """Do the same where it is iterated over, without the traceback that ``raise`` would make."""
    cdef PyObject *result
    if _step_acquisition(this, <PyObject *> None, &result) == PYGEN_RETURN:
        step = <object> result
        Py_DECREF(step)
        PyErr_SetObject(StopIteration, step)
        return NULL
    return result


# Cython has no name for the first. It is what a task steps by, and ``await`` before CPython 3.12,
# where that goes by the second.
(<PyTypeObject *> Acquisition).tp_as_async.am_send = _step_acquisition
(<PyTypeObject *> Acquisition).tp_iternext = _next_of_acquisition


cdef object _LONGEST = sys.float_info.max

cdef object _UNSET = UNSET


cpdef tuple signature_of(url, reuse_key, dict options, frozenset atoms):
    """Return what tells the arguments of a call from those of others; None: it cannot be told.

    Only exact types count, since one that is derived may be equal and mean something else: of
    ``str``, dicts and sequences of them, and of ``atoms``.
    """
    cdef list parts
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
            for field, content in (<dict> value).items():
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


cdef bint _is_seconds(value) except -1:
    return (type(value) is float or type(value) is int) and 0 <= value <= _LONGEST


cdef class SessionBase:
    """The call that acquires a connection, where all that it needs is known already.

    The rest of a session is Python, and is asked where something is not.
    """

    cdef public object _acquire_timeout, _loop
    # The types of arguments that are known by their hash.
    cdef public frozenset _atoms
    # The way of connections that hooks are to be run on, and that of all others.
    cdef public Express _detour, _express
    # Targets of calls, by what tells these from each other.
    cdef public object _targets
    # Those of the client session, which may be changed at any time; and whether it has had some.
    cdef public object _default_headers
    cdef public bint _watches_headers

    def __cinit__(self):
        self._default_headers = NO_HEADERS

    @cython.binding(True)
    def ws_connect(self, url, *, reuse_key=None, acquire_timeout=_UNSET, **options):
        """Acquire a connection, as is declared at the session."""
        cdef Route route
        cdef PyObject *found
        cdef Acquisition acquisition
        # What is bound like a function is called with anything, as where it is borrowed by another
        # class, and Cython does not look.
        if not isinstance(self, SessionBase):
            raise TypeError(f"ws_connect() needs a session, not {type(<object> self).__name__}")
        if acquire_timeout is _UNSET:
            acquire_timeout = self._acquire_timeout
        elif not _is_seconds(acquire_timeout):
            self._check_timeout(acquire_timeout)
        if self._watches_headers or self._default_headers:
            self._forget_stale_targets()
        if options or reuse_key is not None:
            signature = signature_of(url, reuse_key, options, self._atoms)
        else:
            signature = url if type(url) is str or type(url) in self._atoms else None
        route = None
        if signature is not None:
            try:
                found = PyDict_GetItemWithError(self._targets, signature)
                if found is not NULL:
                    route = <Route> found
            except TypeError:
                # Something in it has no hash.
                signature = None
        if route is None:
            route = self._resolve_anew(signature, url, options, reuse_key)
        acquisition = Acquisition.__new__(Acquisition)
        acquisition._express = self._express if route.is_direct else self._detour
        acquisition._owner = self
        acquisition._route = route
        acquisition._acquire_timeout = acquire_timeout
        return acquisition
