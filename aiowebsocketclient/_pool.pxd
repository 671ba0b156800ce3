"""The C types of what the sources of the core define."""


cdef class Node:
    cdef Node inner_prev, inner_next, outer_prev, outer_next
    cdef readonly Py_ssize_t ticket
    cdef bint returned


cdef class InnerList:
    cdef Node head, tail
    cdef Py_ssize_t size
    cdef int append(self, Node node) except? -1
    cdef int remove(self, Node node) except? -1
    cdef int insert_by_ticket(self, Node waiter) except? -1


cdef class Stack:
    cdef Node top
    cdef int push(self, Node node) except? -1
    cdef int pop(self, Node top) except? -1
    cdef int remove(self, Node node) except? -1


cdef class OuterList:
    cdef Node head, tail
    cdef Py_ssize_t size
    cdef int append(self, Node node) except? -1
    cdef int remove(self, Node node) except? -1
    cdef int insert_returned(self, Node waiter) except? -1


cdef class Slot(Node):
    cdef readonly Handshake handshake
    cdef readonly int state
    cdef public Parkable conn
    cdef public object task
    cdef readonly Waiter owner, waiter
    cdef readonly double born, began, since, retires, expires
    cdef readonly Py_ssize_t uses
    cdef Py_ssize_t begun_for
    cdef readonly bint kept, doubted, late, drained
    cdef readonly int reason
    cdef int cleared_for
    cdef public bint cools


cdef class Waiter(Node):
    cdef readonly Handshake handshake
    cdef readonly double since
    cdef readonly Slot opening, slot
    cdef readonly bint queued
    cdef public bint may_wait
    cdef readonly int passed
    cdef readonly int hedges
    cdef readonly bint deferred, unplaced
    cdef double deferred_at


cdef class Plan:
    cdef list _opened, _closing, _others_woken
    cdef Waiter _first_woken
    cdef open(self, Slot slot)
    cdef close(self, Slot slot)
    cdef wake(self, Waiter waiter)
    cdef bint is_empty(self) except? -1
    cdef bint is_to_wake_only(self) except? -1


cdef class Handshake:
    cdef readonly Endpoint endpoint
    cdef readonly object key
    cdef readonly bint dropped
    cdef Stack idle
    cdef InnerList placeless, opening
    cdef object orphans, doubted
    cdef Py_ssize_t live, connecting, doubts
    cdef readonly double use
    cdef OuterList deferred
    cdef double deferring_since, look_at, ended_at, use_then, counted_from
    cdef Py_ssize_t fallen_free, turn
    cdef bint postponed


cdef class Endpoint:
    cdef readonly object key
    cdef readonly Py_ssize_t serial
    cdef Py_ssize_t handshakes, count, connecting, acquired, closing, being_cleared
    cdef OuterList idle, waiting, leaning, under_way
    cdef object failure
    cdef double usual, patience, shortest
    cdef Py_ssize_t deferred
    cdef Py_ssize_t claim, indexed
    cdef object orphans, unplaced
    cdef bint in_idle_heap
    cdef Py_ssize_t hits, requests, reused, queued, timeouts, rejected
    cdef Py_ssize_t connects, connect_errors, released, detached
    cdef double wait_seconds, connect_seconds
    cdef list closed


cdef class Route:
    cdef readonly object endpoint, key
    cdef readonly bint is_checked, is_direct
    cdef readonly Handshake handshake
    cdef Handshake record(self)

cdef Waiter first_waiter(Handshake handshake)


cdef bint _cools_after(int reason, bint is_used) except? -1
cdef double _longest_deferral(Endpoint endpoint) except? -1
cdef double _look_interval(Handshake handshake) except? -1
cdef Slot _first_to_go(orphans)
cdef Slot _first_dispensable(orphans, Slot longest_idle)


cdef class Pool:
    cdef Py_ssize_t _limit, _limit_total, _max_connecting, _max_waiting
    cdef Py_ssize_t _places, _places_to_keep, _most, _keep
    cdef bint _has_total, _holds, _holds_idle, _lowered_limit
    cdef double _max_idle, _cooldown
    cdef dict _endpoints, _handshakes, _slots
    cdef Py_ssize_t _count, _waiters, _ticket, _serial, _claims, _being_cleared, _closing
    cdef Py_ssize_t _idle, _max_idle_connections
    cdef bint _retiring, _lowered
    cdef list _place_heap, _idle_heap
    cdef tuple _past
    cdef object _orphans, _fading, _watched, _cooling
    cdef dict _leaning
    cdef double _next_look
    cdef bint _defers, _is_look_new
    cdef Py_ssize_t _deferred, _turn
    cdef object _unplaced
    cdef list _look_heap
    cpdef Slot acquire(self, key, double now, Handshake handshake=*)
    cpdef Handshake find(self, key)
    cpdef Plan release(self, Slot slot, double now)
    cpdef object request(self, endpoint_key, key, double now, bint may_wait=*, Handshake handshake=*)
    cdef bint queue(
        self, Waiter waiter, Plan plan, endpoint_key, key, double now, bint may_wait,
        Handshake handshake
    ) except? -1
    cpdef Slot take(self, Waiter waiter)
    cpdef Slot decline(self, Waiter waiter)
    cdef str _total_reached(self)
    cdef _records(self)
    cdef Handshake _handshake(self, endpoint_key, key)
    cdef _drop_dead(self, Handshake handshake)
    cdef Slot _new_slot(self, Handshake handshake, double now)
    cdef _freed(self, Slot slot)
    cdef _park(self, Slot slot, Handshake handshake, Endpoint endpoint, double now)
    cdef _unpark(self, Slot slot)
    cdef _index_idle(self, Endpoint endpoint, double since)
    cdef Slot _longest_idle(self)
    cdef bint _evict_longest_idle(self, Plan plan) except? -1
    cdef _close_stale(self, Handshake handshake, Plan plan, double now)
    cdef _close_idle(self, Slot slot, int reason, Plan plan)
    cdef _start_closing(self, Slot slot, int reason)
    cdef _cool_down(self, Slot slot, double now)
    cdef _end_closing(self, Slot slot, Plan plan, double now)
    cdef _own(self, Waiter waiter, Slot slot)
    cdef _disown(self, Waiter waiter, Slot slot)
    cdef _orphan(self, Slot slot, double now)
    cdef _leave_to_nobody(self, Slot slot, Plan plan, double now)
    cdef _adopt(self, Slot slot)
    cdef _stop_connecting(self, Slot slot)
    cdef _doubt(self, Slot slot, double now)
    cdef _learn(self, Endpoint endpoint, double seconds)
    cdef double _patience(self, Endpoint endpoint) except? -1
    cdef double _patience_of(self, Waiter owner, Endpoint endpoint) except? -1
    cdef double _look_deadline(self) except? -1
    cdef _look(self, Plan plan, double now)
    cdef _turn_late(self, Slot slot, Plan plan, double now)
    cdef bint _has_free_room(self, Endpoint endpoint) except? -1
    cdef _open_beside(self, Endpoint endpoint, Plan plan, double now)
    cdef Endpoint _longest_leaning(self)
    cdef _give_to_first(self, Slot slot)
    cdef _turn_open(self, Slot slot, double now, double retires)
    cdef Waiter _rekey(self, Slot slot, key, Waiter owner, bint moves, Plan plan, double now)
    cdef _move(self, Waiter waiter, Handshake new)
    cdef bint _may_defer(self, Waiter waiter, double now) except? -1
    cdef Py_ssize_t _count_open(self, Handshake handshake) except? -1
    cdef bint _goes_on(self, Handshake handshake, double now) except? -1
    cdef bint _spares_idle(self, Waiter waiter, double now) except? -1
    cdef _defer(self, Waiter waiter, double now, bint reserves)
    cdef _place(self, Waiter waiter)
    cdef bint _places_older(self, Endpoint endpoint, Waiter younger) except? -1
    cdef Waiter _first_bare(self, Endpoint endpoint)
    cdef _undefer(self, Waiter waiter)
    cdef _leave_deferred(self, Waiter waiter, double now, bint gave_up)
    cdef _stop_deferring(self)
    cdef _plan_look(self, Handshake handshake, double now)
    cdef double _next_look_at_deferred(self) except? -1
    cdef _stand_first(self, Waiter waiter)
    cdef _look_at_deferred(self, Plan plan, double now)
    cdef _judge(self, Handshake handshake, Plan plan, double now)
    cdef _begin_deferred(self, Handshake handshake, Plan plan, double now)
    cdef _begin_hopeless(self, Handshake handshake, Plan plan, double now)
    cdef _line_up(self, Waiter waiter, double now)
    cdef bint _leans(self, Handshake handshake, Py_ssize_t ticket) except? -1
    cdef bint _has_come_earlier(self, Endpoint endpoint, Py_ssize_t ticket) except? -1
    cdef _return_to_line(self, Waiter waiter)
    cdef _come_back(self, Waiter waiter, Plan plan, double now)
    cdef _serve_at_hand(self, Handshake handshake, Plan plan, double now)
    cdef _give_orphans(self, Handshake handshake)
    cdef _take_over(self, Waiter waiter, Slot orphan)
    cdef _leave_line(self, Waiter waiter)
    cdef _leave(self, Waiter waiter, Plan plan, double now, bint gave_up=*)
    cdef Waiter _take_back(self, Slot slot)
    cdef _give(self, Slot slot, Waiter waiter, double now)
    cdef _serve(self, Waiter waiter, Slot slot, Plan plan, double now)
    cdef _hand_on(self, Slot slot, Plan plan, double now)
    cdef int _passed_over(self, Endpoint endpoint, Waiter first) except? -1
    cdef bint _is_connecting_full(self, Endpoint endpoint) except? -1
    cdef bint _is_at_limit(self, Endpoint endpoint) except? -1
    cdef bint _is_at_total(self) except? -1
    cdef bint _is_beyond_total(self) except? -1
    cdef _set_totals(self)
    cdef bint _is_over_limit(self, Endpoint endpoint) except? -1
    cdef bint _is_over_total(self) except? -1
    cdef bint _is_surplus(self, Endpoint endpoint) except? -1
    cdef bint _has_room(self, Endpoint endpoint) except? -1
    cdef bint _is_full(self, Handshake handshake) except? -1
    cdef bint _can_be_placed(self, Endpoint endpoint) except? -1
    cdef _settle(self, Endpoint endpoint, Plan plan, double now)
    cdef _grant(self, Endpoint endpoint, Plan plan, double now)
    cdef _give_places(self, Endpoint endpoint, Plan plan, double now)
    cdef _open_for(self, Waiter waiter, Plan plan, double now)
    cdef _begin_for(self, Waiter waiter, Plan plan, double now)
    cdef _index(self, Endpoint endpoint)
    cdef _index_all(self)
    cdef Waiter _oldest_waiting(self, Endpoint endpoint)
    cdef Endpoint _oldest_claimant(self)
    cdef int _wanted(self, Endpoint endpoint, int callers=*) except? -1
    cdef _make_room(self, Endpoint endpoint, Plan plan)
    cdef _clear_places(self, Plan plan)
    cdef Slot _dispensable(self, Endpoint endpoint)
    cdef Slot _dispensable_of_all(self)
    cdef _trim_to_limit(self, Endpoint endpoint, Plan plan)
    cdef _trim_to_total(self, Plan plan)
    cdef _give_way(self, Slot slot, int cleared_for, Plan plan)


cdef class Parkable:
    cdef public object _buffer, _parser, _protocol, _transport
    cdef public set _background
    cdef public bint _has_closing
    cdef public dict state
    cdef public bint busy, closing, failed, fresh, gone, parked, resets
    cdef public double heard
    cdef int _frame_part
    cdef unsigned long long _frame_left, _frame_length
    cdef int _length_left
    cdef bint _in_control
    cdef bint _is_final, _in_message
    cdef readonly int midway
    cdef readonly unsigned long long control_frames, messages
    cdef public bint only_control
    cdef _follow(self, bytes data)
    cdef _follow_header(self, unsigned char byte)

cdef bint has_closing_transport(Parkable conn) except? -1
cdef bint is_held_back(Parkable conn) except? -1
cdef bint is_clean(Parkable conn) except? -1
cdef bint park(Parkable conn) except? -1


cdef class Handle:
    cdef public object _owner
    cdef readonly Express _express
    cdef public Slot _slot
    cdef public bint _spent, _reused

cpdef object lend(Express express, owner, Slot slot)
cpdef object hand_out(Express express, owner, Slot slot)
cpdef object spend(Handle handle, dict state=*)
cdef end_if_held_back(Waiter waiter)


cdef class Caller(Waiter):
    cdef readonly Route route
    cdef public object check_deadline, context, error, future, overdue, timer
    cpdef object wake(self)
    cpdef object finish(self)

cdef Caller new_caller(Route route, future)


cdef class Express:
    cdef Pool _pool
    cdef type _cls
    cdef object _create_future, _loop
    cdef dict _future_options
    cdef _new_future(self)
    cdef bint _has_thread_id
    cdef public unsigned long thread
    cdef public bint led, open, direct_release, plain_exit
    cdef public str session_name
    cdef bint is_usable(self) except? -1
    cpdef object acquire(self, owner, Route route)
    cdef _end_held_back(self, Handshake handshake)
    cpdef Caller line_up(self, owner, Route route, acquire_timeout)
    cpdef object release(self, Handle handle)


cpdef object signature_of(url, reuse_key, options, atoms)
cdef bint is_seconds(value) except? -1

cpdef double clock()
cdef double coarse_clock()
cdef unsigned long current_thread()
cpdef object ensure_room(int frames=*)
