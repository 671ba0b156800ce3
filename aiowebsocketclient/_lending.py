"""The fast path: how an idle connection goes to a caller, and comes back.

Compiled as a part of ``_pool.pyx``; see ``_cython.py``.
"""

import asyncio
import sys
from collections.abc import Awaitable, Hashable
from contextvars import Context
from typing import Any, Protocol, Self

from . import _cython as cython
from ._plain import Completion

if not cython.compiled:
    from contextvars import copy_context

    from ._core import Pool
    from ._plain import (
        DONE,
        ROOM,
        clock,
        coarse_clock,
        current_thread,
        ensure_room,
        finalize_quickly,
        is_on,
        make_future,
        running_loop,
        size,
    )
    from ._records import INFINITY, Handshake, Plan, Route, Slot, Timeout, Waiter

# What the first two bytes of a frame hold (RFC 6455, 5.2).
_FIN = cython.declare(cython.int, 0x80)
_OPCODE = cython.declare(cython.int, 0x0F)
_FIRST_CONTROL_OPCODE = cython.declare(cython.int, 0x8)
_MASKED = cython.declare(cython.int, 0x80)
_LENGTH = cython.declare(cython.int, 0x7F)
# The first byte of a CLOSE, a PING and a PONG.
_CLOSE_BYTE = cython.declare(cython.int, 0x88)
_PONG_BYTE = cython.declare(cython.int, 0x8A)
# What a control frame may hold, and a frame.
_LONGEST_CONTROL = cython.declare(cython.int, 125)
_LONGEST_FRAME = cython.declare(cython.ulonglong, (1 << 63) - 1)
_MASK_SIZE = cython.declare(cython.int, 4)

# The part of a frame that the next byte belongs to.
_IN_FIRST = cython.declare(cython.int, 0)
_IN_SECOND = cython.declare(cython.int, 1)
_IN_LENGTH = cython.declare(cython.int, 2)
_IN_PAYLOAD = cython.declare(cython.int, 3)

#: Where the last byte received lies: between frames, in a control frame, or in a message.
BETWEEN_FRAMES = cython.declare(cython.int, 0)
IN_CONTROL_FRAME = cython.declare(cython.int, 1)
IN_MESSAGE = cython.declare(cython.int, 2)


@cython.cclass
class Parkable:
    """The part of a connection that acquire and release need.

    It stands in front of aiohttp's parser and passes the received data on.  It follows the frames
    in that data from the first byte on, since no parser shows whether it is inside a frame.  The
    names are those of aiohttp's WebSocket response (``state``: its instance dictionary) and of its
    protocol; ``connection.py`` explains and sets the fields.
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
        "busy",
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

    if not cython.compiled:
        _background: set[Any]
        _buffer: Any
        # Whether the transport is asyncio's, which has ``is_closing()`` in an attribute.
        _has_closing: bool
        _parser: Any
        _protocol: Any
        _transport: Any
        # Whether a keep-alive is under way, whose answer must not reach a caller.
        busy: bool
        closing: bool
        failed: bool
        fresh: bool
        gone: bool
        # When data came last, by the coarse clock.
        heard: float
        parked: bool
        resets: bool
        state: dict[str, Any]

    def __init__(self) -> None:
        # The frame that the last byte belongs to; its mask counts as payload.
        self._frame_part = _IN_FIRST
        self._frame_left = 0
        self._frame_length = 0
        self._length_left = 0
        self._in_control = False
        # Whether the frame is the last of its message, and whether a message is incomplete.
        self._is_final = False
        self._in_message = False
        #: Whether the data so far ends between two frames, in a control frame or in a message.
        self.midway = BETWEEN_FRAMES
        #: Control frames and messages that are complete.
        self.control_frames = 0
        self.messages = 0
        #: Whether all frames that began since it was set are valid control frames.
        self.only_control = True

    def feed_data(self, data: Any) -> tuple[bool, bytes]:
        """Take received data in place of the real parser."""
        self.heard = coarse_clock()
        if not self.failed:
            if self.parked or self.closing:
                self.take(data)
            else:
                self._follow(data if type(data) is bytes else bytes(data))
                self.failed = self._parser.feed_data(data)[0]
        return _GO_ON

    def take(self, data: Any) -> None:
        """Take data received while nobody uses the connection; a subclass defines it."""
        raise NotImplementedError

    def follow(self, data: Any) -> None:
        """Follow the frames in received data."""
        self._follow(data if type(data) is bytes else bytes(data))

    @cython.final
    @cython.cfunc
    @cython.boundscheck(False)
    @cython.wraparound(False)
    def _follow(self, data: bytes) -> None:
        at: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t = len(data)
        while at < end:
            if self._frame_part == _IN_PAYLOAD:
                taken: cython.ulonglong = end - at
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

    @cython.final
    @cython.cfunc
    def _follow_header(self, byte: cython.uchar) -> None:
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
            length: cython.int = byte & _LENGTH
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
                # A parser refuses longer frames.
                self._frame_left += min(self._frame_length, _LONGEST_FRAME)
                self._frame_part = _IN_PAYLOAD

    def is_clean(self) -> bool:
        """Whether another user can have the connection: nothing unread or under way, no error.

        A control frame may be incomplete; until it is complete, the connection is in the pool and
        is not handed out.
        """
        return is_clean(self)

    def park(self) -> bool:
        """Mark the connection as unused; False: it is not clean."""
        return park(self)

    def has_closing_transport(self) -> bool:
        """Whether the transport is closing; it tells the protocol in a later turn of the loop."""
        return has_closing_transport(self)

    def is_held_back(self) -> bool:
        """Whether the connection must not be handed out now.

        It is ending, inside a frame, or busy with a keep-alive.
        """
        return is_held_back(self)

    def end_held_back(self) -> None:
        """Take the connection from the idle ones: a caller asks for it; a subclass defines it."""
        raise NotImplementedError


# Functions, not methods: for a method of a class with subclasses, C looks for an override at each
# call.


@cython.cfunc
@cython.exceptval(-1)
def has_closing_transport(conn: Parkable) -> cython.bint:
    transport = conn._transport
    return bool(transport._closing if conn._has_closing else transport.is_closing())


@cython.cfunc
@cython.exceptval(-1)
def is_held_back(conn: Parkable) -> cython.bint:
    return conn.midway != BETWEEN_FRAMES or conn.busy or has_closing_transport(conn)


@cython.cfunc
@cython.exceptval(-1)
def is_clean(conn: Parkable) -> cython.bint:
    ws = conn.state
    return not (
        conn.closing
        or conn.failed
        or conn.gone
        or conn._buffer
        or conn.midway == IN_MESSAGE
        or is_on(ws, "_waiting")
        # aiohttp sets it wherever it sets _closing or _exception.
        or ws["_close_code"] is not None
        or is_on(ws, "_closed")
        or conn._background
        or conn._protocol._paused
        or has_closing_transport(conn)
    )


@cython.cfunc
@cython.exceptval(-1)
def park(conn: Parkable) -> cython.bint:
    if not is_clean(conn):
        return False
    conn.parked = True
    return True


if not cython.compiled:

    class Holder(Protocol):
        """The owner of a handle, as its release needs it."""

        def _released(self, handle: Any, plan: Any, /) -> Completion:
            """Finish a release that the fast path has begun, or left alone."""
            ...

        def _handle_lost(self, handle: Any, /) -> None:
            """Close the connection of a handle that was collected unreleased."""

    class Lender(Holder, Protocol):
        """The session, as the fast path needs it.

        A route is one of its own making.
        """

        def _acquire(self, route: Any, acquire_timeout: Timeout, /) -> Awaitable[Any]:
            """Acquire a connection where the fast path does not apply."""
            ...

        def _carry_out(self, plan: Plan, /) -> None:
            """Carry out a plan of the core."""

        def _refusal(self, route: Any, acquire_timeout: Timeout, /) -> BaseException:
            """Return the error of a caller that may not queue."""
            ...

        def _time_out(self, caller: "Caller", acquire_timeout: float, /) -> None:
            """End the wait of a caller whose time is over."""

        def _check(self, caller: "Caller", /) -> Awaitable[None]:
            """Check the connection of a caller."""
            ...

        def _raise_if_overdue(self, caller: "Caller", acquire_timeout: Timeout, /) -> None:
            """Raise if a caller may not queue again."""

        def _give_up(self, caller: "Caller", /) -> None:
            """End a wait without a connection."""


_DONE = cython.declare(object, DONE)

# What a parser returns for "go on". A "protocol error" of the real one is kept from the protocol,
# which would drop its parser, and with it the only one to be told that the socket is gone.
_GO_ON = cython.declare(object, (False, b""))


@cython.cclass
class Handle:
    """The fields of one acquisition, which a response adds to aiohttp's.

    A handle borrows its instance dictionary from the connection (:func:`lend`) and loses it on
    release (:func:`spend`), so that a later use of the handle cannot reach the connection.
    """

    __slots__ = ("_express", "_owner", "_reused", "_slot", "_spent")

    if not cython.compiled:
        #: The session to tell when the handle is collected unreleased; None: it holds nothing.
        _owner: Holder | None
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
        """Return the connection to the pool.

        The call takes effect at once.  A connection fit for reuse goes to the pool, or straight to
        the caller that has waited longest.  A connection with an unread message, a pending
        ``receive()``, an error or the beginning of a close is closed.  A second call changes
        nothing.

        Awaiting the result is optional; several tasks may await it, more than once.  It completes
        when the connection is pooled or closed: at most ``close_timeout`` seconds later, or after
        the ``reset`` hook.
        """
        owner = self._owner
        if owner is None:
            return _DONE
        express: Express = self._express
        if express.direct_release and current_thread() == express.thread:
            plan = express.release(self)
            if plan is None:
                return _DONE
        else:
            plan = False
        completion: Completion = owner._released(self, plan)
        return completion

    def __del__(self) -> None:
        if self._owner is not None:
            self._owner._handle_lost(self)


@cython.final
@cython.cclass
class Caller(Waiter):
    """A caller that waits: what the core knows of it, and what the session knows."""

    __slots__ = ("check_deadline", "context", "error", "future", "overdue", "route", "timer")

    # In C, all of this is so without a constructor, as in Plan.
    if not cython.compiled:
        route: Route
        future: Any
        #: The context for traces and logs of a handshake made for this caller.
        context: Context

        def __init__(self) -> None:
            super().__init__()
            self.error: BaseException | None = None
            #: The timeout error, if the time ran out after the caller was given a connection.
            self.overdue: BaseException | None = None
            #: The deadline of a check that runs on the connection it was given.
            self.check_deadline: Any = None
            #: The timer of its acquire_timeout.
            self.timer: Any = None

    @cython.ccall
    def wake(self) -> None:
        """Wake the caller: it has a connection, or nothing more to wait for."""
        try:  # noqa: SIM105 (which would cost more than this)
            self.future.set_result(None)
        except asyncio.InvalidStateError:
            # It was woken before, or is cancelled.
            pass
        if self.check_deadline is not None:
            self.stop_check()

    def stop_check(self) -> None:
        """Stop the check that the caller waits for."""
        if self.check_deadline is not None and not self.check_deadline.expired():
            try:  # noqa: SIM105 (as above)
                # In the past, whatever the loop's clock says.
                self.check_deadline.reschedule(-INFINITY)
            except RuntimeError:
                # The check has ended, which is being logged.
                pass

    @cython.ccall
    def finish(self) -> None:
        """Drop the errors and the timer of the wait."""
        # Their tracebacks have its frame.
        self.error = self.overdue = None
        if self.timer is not None:
            self.timer.cancel()


@cython.cfunc
def new_caller(route: Route, future: Any) -> Caller:
    """Return a caller; in C, a constructor with arguments would parse them."""
    caller: Caller = Caller()
    caller.route = route
    caller.future = future
    caller.context = copy_context()
    return caller


@cython.cfunc
def _wake(caller: Caller) -> None:
    caller.wake()


#: How many frames below the recursion limit a hit needs, and a release to the pool, where nothing
#: is asked of asyncio.  C has no frames to save.
HIT_ROOM = cython.declare(cython.int, ROOM if cython.compiled else 8)

# As asyncio has it, whatever is put in its place later.
_PLAIN_CREATE_FUTURE = cython.declare(object, asyncio.BaseEventLoop.create_future)

# To ask for the running loop costs a system call on CPython 3.11.
_KNOWS_RUNNING_LOOP = cython.declare(cython.bint, sys.version_info >= (3, 12))


@cython.final
@cython.cclass
class Express:
    """The fast path of acquire and release, which needs the core alone.

    Each session has one.  While it is ``open``, and in its thread and loop, a call that finds an
    idle connection asks nothing else; otherwise the session decides.
    """

    __slots__ = (
        "_cls",
        "_create_future",
        "_future_options",
        "_has_thread_id",
        "_loop",
        "_pool",
        "direct_release",
        "led",
        "open",
        "plain_exit",
        "session_name",
        "thread",
    )

    def __init__(self, pool: Pool, cls: Any) -> None:
        self._pool = pool
        self._cls = cls
        finalize_quickly(cls)
        self._loop: Any = None
        self._create_future: Any = None
        # For a future without the frame of the loop's method; None: the loop has one of its own.
        self._future_options: dict[str, Any] | None = None
        self._has_thread_id = False
        self.thread: cython.ulong = 0
        # Whether a caller need not ask the session, and whether a release need not.
        self.open = False
        self.direct_release = True
        # Whether __aexit__ only releases.
        self.plain_exit = True
        # Whether the session has to hear of each caller that lines up.
        self.led = False
        # For error messages.
        self.session_name: str | None = None

    def begin(self, loop: Any, thread: cython.ulong) -> None:
        """Set the loop, and the thread that it runs in."""
        self._loop = loop
        self._create_future = loop.create_future
        # Not by the type: a loop may have been given one of its own.
        is_plain = getattr(loop.create_future, "__func__", None) is _PLAIN_CREATE_FUTURE
        self._future_options = {"loop": loop} if is_plain else None
        # asyncio's is_running() reads this attribute; to read it here costs a third.
        self._has_thread_id = (
            getattr(type(loop), "is_running", None) is asyncio.BaseEventLoop.is_running
        )
        self.thread = thread

    @cython.cfunc
    def _new_future(self) -> Any:
        options: dict[str, Any] | None = self._future_options
        return self._create_future() if options is None else make_future(options)

    @cython.cfunc
    @cython.exceptval(-1)
    def is_usable(self) -> cython.bint:
        """Return whether a caller need not ask the session."""
        if not self.open or current_thread() != self.thread:
            return False
        if _KNOWS_RUNNING_LOOP:
            return running_loop() is self._loop
        # A loop that runs, in the thread that asks, is the running loop.
        if self._has_thread_id:
            thread_id = self._loop._thread_id
            if thread_id is None:
                return False
            number: cython.ulong = thread_id
            return number == self.thread
        # The loop may run in another thread than before.
        return bool(self._loop.is_running())

    @cython.ccall
    def acquire(self, owner: Lender, route: Route) -> Any:
        """Return a handle on an idle connection; None: there is none."""
        ensure_room(HIT_ROOM)
        handshake = route.handshake
        if handshake is None or handshake.dropped:
            handshake = route.handshake = self._pool.find(route.key)
            if handshake is None:
                return None
        top: Slot | None = handshake.idle.top
        if top is None:
            return None
        conn: Parkable = top.conn
        if is_held_back(conn):
            self._end_held_back(handshake)
        slot = self._pool.acquire(route.key, coarse_clock(), handshake)
        return None if slot is None else lend(self, owner, slot)

    @cython.cfunc
    def _end_held_back(self, handshake: Handshake) -> None:
        """Take connections that must not be handed out now from the top of the idle ones.

        They have ended, which the protocol does not know yet, a frame is incomplete, or a
        keep-alive is under way.
        """
        top: Slot | None
        while (top := handshake.idle.top) is not None:
            conn: Parkable = top.conn
            if not is_held_back(conn):
                break
            conn.end_held_back()

    @cython.ccall
    def line_up(self, owner: Lender, route: Route, acquire_timeout: Timeout) -> Caller:
        """Queue a caller for a released or a new connection; it may have one at once."""
        ensure_room()
        caller = new_caller(route, self._new_future())
        handshake = route.record() or self._pool.find(route.key)
        if handshake is not None:
            self._end_held_back(handshake)
        may_wait = acquire_timeout is None or acquire_timeout != 0
        plan = Plan()
        is_queued: cython.bint = self._pool.queue(
            caller, plan, route.endpoint, route.key, clock(), may_wait, route.record()
        )
        if self.led or self._pool._is_look_new or not plan.is_empty():
            owner._carry_out(plan)
        if not is_queued:
            raise owner._refusal(route, acquire_timeout)
        route.handshake = caller.handshake
        # With 0 there is no wait; a check has its own timeout.
        if acquire_timeout and (caller.slot is None or route.is_checked):
            caller.timer = self._loop.call_later(
                acquire_timeout, owner._time_out, caller, acquire_timeout, context=Context()
            )
        return caller

    async def wait(self, owner: Lender, caller: Caller, acquire_timeout: Timeout) -> Any:
        """Return a handle on the connection that a caller is given."""
        try:
            while True:
                if caller.slot is None:
                    await caller.future
                end_if_held_back(caller)
                if caller.route.is_checked and caller.slot is not None:
                    await owner._check(caller)
                slot = self._pool.take(caller)
                if slot is not None:
                    return hand_out(self, owner, slot)
                if caller.error is not None:
                    raise caller.error
                owner._raise_if_overdue(caller, acquire_timeout)
                # Its connection died before it woke. It is at the head of its line again.
                caller.future = self._new_future()
        except BaseException:
            owner._give_up(caller)
            raise
        finally:
            caller.finish()

    @cython.ccall
    def release(self, handle: Handle) -> Any:
        """Park and release the connection of a handle; returns the plan of :meth:`Pool.release`.

        ``None``: there is nothing left to do.  ``False``: the connection is not fit for reuse, or
        not yet, and nothing was done.  To be called in the thread of the loop.
        """
        slot = handle._slot
        assert slot is not None
        conn: Parkable | None = slot.conn
        # Waiting times are measured by one clock.
        now = clock() if self._pool._waiters else coarse_clock()
        if cython.compiled:
            ensure_room()
        else:
            ensure_room(HIT_ROOM if self._pool.only_parks(slot, now) else ROOM)
        if conn is None or conn.resets or not park(conn):
            return False
        spend(handle)
        plan: Plan | None = self._pool.release(slot, now)
        # The timer must stop a handshake that nobody waits for any more, and look at the deferred.
        pool = self._pool
        if plan is None or size(pool._fading) or pool._is_look_new or not plan.is_to_wake_only():
            return plan
        # The waiters of a session are callers.
        waiter: Any = plan._first_woken
        if waiter is not None:
            _wake(waiter)
            for waiter in plan._others_woken or ():
                _wake(waiter)
        return None


if not cython.compiled:

    def lend(express: Express, owner: Lender | None, slot: Slot) -> Any:
        """Return a new handle on the connection in ``slot``, which is now in use."""
        conn = slot.conn
        conn.parked = False
        # Not the class's own __new__: a subclass's may want aiohttp's arguments.
        handle: Any = Handle.__new__(express._cls)
        handle.__dict__ = conn.state
        handle._express = express
        handle._slot = slot
        handle._reused = slot.uses > 1
        handle._owner = owner
        return handle

    def spend(handle: Handle, state: dict[str, Any] | None = None) -> None:
        """Take the connection from a handle, and leave it ``state`` for attributes."""
        handle._owner = None
        handle._spent = True
        handle.__dict__ = {} if state is None else state  # type: ignore[misc]


@cython.ccall
def hand_out(express: Express, owner: Lender, slot: Slot) -> Any:
    """Like :func:`lend`, for a connection that was given to a waiter."""
    conn: Parkable = slot.conn
    conn.fresh = False
    return lend(express, owner, slot)


@cython.cfunc
def end_if_held_back(waiter: Waiter) -> None:
    """Take back the connection given to a waiter if it must not be handed out now.

    A new connection is not taken back: a server that ends each at once would be connected to for
    ever.
    """
    slot: Slot | None
    # The next idle connection may be given instead, at once.
    while (slot := waiter.slot) is not None:
        conn: Parkable = slot.conn
        if conn.fresh or not is_held_back(conn):
            break
        conn.end_held_back()


#: A hashable form of the arguments of a call.
Signature = tuple[Any, ...] | None
Options = dict[str, Any]
Types = frozenset[type]


@cython.ccall
def signature_of(url: Any, reuse_key: Hashable, options: Options, atoms: Types) -> Signature:
    """Return a hashable form of the arguments of a call; None: there is none.

    Only exact types count, since an instance of a subclass may be equal and mean something else:
    ``str``, ``atoms``, sequences of these, and dicts of ``str``.
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
                    if type(item) not in atoms:
                        return None
                    parts.append(type(item))
                parts.append(item)
        elif kind in atoms:
            parts.append(value)
        else:
            return None
    return tuple(parts)


# As many seconds as asyncio can wait for.
_LONGEST = cython.declare(object, sys.float_info.max)


@cython.cfunc
@cython.exceptval(-1)
def is_seconds(value: Any) -> cython.bint:
    kind = type(value)
    return (kind is float or kind is int) and 0 <= value <= _LONGEST
