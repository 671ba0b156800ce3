"""Keep-alives: what the pool sends over connections that are idle for long.

One timer serves the whole pool.  Each connection with a ``keepalive`` has one entry in a heap, its
next visit.  A visit that finds the connection in use, or idle for less than the interval, only
computes the time of the next one, so acquire and release cost nothing more.

While the answer to a keep-alive is under way, the connection is ``busy``: it stays among the idle
connections, with its age and its place in the order, and is not handed out.  Only if a caller would
get it next, it is set aside until the answer has come.  An answer is under way while the hook runs,
and after a message of a connection whose ``on_idle_message`` judges what comes.  A message without
``on_idle_message`` expects no answer, and an answer closes the connection.
"""

import asyncio
import heapq
import math
import weakref
from collections.abc import Callable
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from ._compat import clock
from ._pool_py import ACQUIRED, IDLE
from .hooks import frame_of, run_behind
from .logs import log

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ("Beat", "Keepalives")

# Seconds between two runs of the timer, so that thousands of connections do not wake the loop
# thousands of times a second.
_GRAIN: Final = 0.01


class Beat:
    """The entry of a connection in the timetable."""

    __slots__ = ("answer_due", "conn", "sent")

    def __init__(self, conn: "Connection") -> None:
        #: None: the connection has left the pool.
        self.conn: Connection | None = conn
        #: When the last keep-alive was sent, and when its answer must have come.
        self.sent = -math.inf
        self.answer_due = math.inf


class Keepalives:
    """The timetable of the keep-alives of a pool."""

    __slots__ = (
        "__weakref__",
        "_beats",
        "_has_stopped",
        "_loop",
        "_numbers",
        "_timer",
        "_timer_when",
        "_told",
    )

    def __init__(self) -> None:
        self._beats: list[tuple[float, int, Beat]] = []
        # Entries of the same time are not compared.
        self._numbers = count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_when = math.inf
        self._has_stopped = False
        # Whether an unexpected answer was logged: it would come with each keep-alive.
        self._told = False

    def watch(self, conn: "Connection", loop: asyncio.AbstractEventLoop) -> None:
        """Add a new connection that has a ``keepalive``."""
        self._loop = loop
        conn.beat = Beat(conn)
        now = clock()
        self._push(now + _interval(conn), conn.beat)
        self._arm(now)

    def stop(self) -> None:
        """Send nothing any more."""
        self._has_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._beats.clear()

    def set_aside(self, conn: "Connection") -> None:
        """Take a busy connection from the idle ones: a caller would get it next."""
        conn.owner.pool.set_aside(conn.slot)

    def answered(self, conn: "Connection") -> None:
        """Pool a connection again if it was set aside and is not busy any more."""
        if not conn.busy and conn.slot.state == ACQUIRED and conn.slot.waiter is None:
            conn.owner.carry_out(conn.owner.pool.put_back(conn.slot, clock()))

    def note_unexpected(self, conn: "Connection") -> None:
        """Log, once, that a connection ends because a server answers a message."""
        assert conn.beat is not None
        if self._told or conn.beat.sent < 0 or conn.hooks.on_idle_message is not None:
            return
        self._told = True
        log(
            "keepalive_answered",
            session_name=conn.owner.settings.name,
            endpoint=str(conn.slot.endpoint),
        )

    # -- the timer -------------------------------------------------------------------------------

    def _push(self, when: float, beat: Beat) -> None:
        heapq.heappush(self._beats, (when, next(self._numbers), beat))

    def _arm(self, now: float) -> None:
        # A log handler may have closed the session while the timer ran.
        if self._has_stopped or not self._beats:
            return
        when = max(self._beats[0][0], now + _GRAIN)
        if self._timer is not None:
            if self._timer_when <= when:
                return
            self._timer.cancel()
        assert self._loop is not None
        self._timer_when = when
        # In an empty context, and weakly: the timer outlives the caller.
        self._timer = self._loop.call_later(
            when - now, _call_run, weakref.ref(self), context=Context()
        )

    def _run(self) -> None:
        self._timer = None
        now = clock()
        try:
            while self._beats and self._beats[0][0] <= now:
                beat = heapq.heappop(self._beats)[2]
                if beat.conn is not None:
                    self._visit(beat, beat.conn, now)
        finally:
            self._arm(clock())

    def _visit(self, beat: Beat, conn: "Connection", now: float) -> None:
        """Do what is due on a connection, and enter the time of its next visit."""
        interval = _interval(conn)
        when = now + interval
        try:
            if conn.busy:
                when = min(when, beat.answer_due)
                if beat.answer_due <= now:
                    when = now + interval
                    _fail(conn)
            elif conn.slot.state == IDLE and conn.parked and not conn.is_held_back():
                due = max(conn.slot.since, beat.sent) + interval
                when = due if due > now else min(when, _send(beat, conn, now))
        finally:
            # Even if the visit has failed: it must not be the last.
            if beat.conn is not None:
                # Not at once: for the clock, a tiny interval may be none.
                self._push(max(when, now + _GRAIN), beat)


def _call_run(this: Callable[[], Keepalives | None]) -> None:
    keepalives = this()
    if keepalives is not None:
        keepalives._run()


def _interval(conn: "Connection") -> float:
    assert conn.hooks.keepalive is not None
    return conn.hooks.keepalive[0]


def _send(beat: Beat, conn: "Connection", now: float) -> float:
    """Send a keep-alive, or start its hook; return when an answer must have come."""
    assert conn.hooks.keepalive is not None
    word: Any = conn.hooks.keepalive[1]
    beat.sent = now
    beat.answer_due = math.inf
    if not isinstance(word, str | bytes):
        conn.busy = True
        # In an empty context: no caller has requested it.
        run_behind(conn, "keepalive", _finish_hook, Context())
    elif not conn.send_now(frame_of(word)):
        # The server does not read.
        conn.end_unheard()
    elif conn.hooks.on_idle_message is not None:
        conn.busy = True
        beat.answer_due = now + (conn.owner.settings.hook_timeout or math.inf)
    return beat.answer_due


def _finish_hook(conn: "Connection", task: asyncio.Task[bool]) -> None:
    conn.busy = False
    if conn.owner.is_fit_after(conn, task):
        conn.owner.keepalives.answered(conn)


def _fail(conn: "Connection") -> None:
    """Close a connection whose keep-alive was not answered in time."""
    lifecycle = conn.owner
    log(
        "keepalive_timeout",
        session_name=lifecycle.settings.name,
        endpoint=str(conn.slot.endpoint),
        seconds=lifecycle.settings.hook_timeout,
    )
    # A log handler may have closed the session.
    if conn.slot.state in (IDLE, ACQUIRED) and conn.parked:
        conn.is_silent = True
        lifecycle.close_acquired(conn.slot, "failed")
