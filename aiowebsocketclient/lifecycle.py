"""Carries out what the core decides: opens connections, closes them, and keeps the one timer.

What may be open and who gets it is decided in the core alone.  A :class:`Lifecycle` has no
reference to the session that it works for: a session that its user drops has to be collected at
once, while handshakes and connections still refer to the lifecycle.
"""

import asyncio
import math
import random
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Final

from ._aiohttp_private import check_connection
from ._compat import DONE, Caller, Express, Plan, Pool, Slot, Waiter, clock
from ._pool_py import ACQUIRED, CLOSE_REASONS, CLOSING, GAUGES, IDLE, Completion
from .connecting import Client, abort, connect
from .connection import Connection, failure_of
from .exceptions import (
    HandshakeFailure,
    PoolClosedError,
    WebSocketPoolError,
    in_session,
    status_of,
    twin_of,
)
from .implied import Implied
from .keys import HandshakeKey, Target
from .limiter import LimiterLine
from .logs import is_debugging, log
from .response import Pending
from .reuse import ReuseWatch
from .settings import Settings
from .tracing import Tracer

__all__ = ("ABORT_GRACE", "REASONS", "Failure", "Lifecycle", "fail_waiter")

#: What ``discard`` of the core takes for each reason.
REASONS: Final = {name: index for index, name in enumerate(CLOSE_REASONS)}
_GAUGE_OF_IDLE: Final = GAUGES.index("idle")

# The largest share of max_lifetime that is taken off at random, so that connections that were
# opened together do not all end together.
_LIFETIME_JITTER: Final = 0.05
# The share of max_lifetime after which idle connections are looked through for old ones.
_LIFETIME_TICK: Final = 0.05

# Idle connections that are closed, at least, for a handshake that failed for want of a file, and
# the seconds that their closing handshakes have.
_FEWEST_FREED: Final = 4
_FREEING_GRACE: Final = 1.0

# Seconds that a timer may be late where the machine is not busy.
_BUSY: Final = 0.1

# Seconds after which a timer that has not gone off is taken for lost.
_LATEST: Final = 1.0

#: Seconds that transports which were aborted have to go away; they need a few turns of the loop.
ABORT_GRACE: Final = 0.1


class Failure:
    """What a handshake failed with, where tasks and futures do not show it.

    In the debug mode of asyncio their ``repr`` is logged, with that of their exception, and in
    aiohttp's are the headers of the handshake.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Lifecycle:
    """Opens and closes the connections of one session, as the core says."""

    # Both from begin() on.
    loop: asyncio.AbstractEventLoop
    express: Express

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        client: Client,
        tracer: Tracer | None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self._client = client
        self._tracer = tracer
        # What is not pooled is not meant to be reused.
        self.reuse_watch = None if settings.force_close else ReuseWatch(settings.name)
        self._limiter_line = None if settings.connect_limiter is None else LimiterLine()
        self._on_place_left: Callable[[], Callable[[Slot], None] | None] | None = None
        self.implied: Implied | None = None
        self.is_closed = False
        #: In a process that was forked from the one where the session was used.
        self.is_parents = False
        # Whether the session was dropped, open.
        self._is_abandoned = False
        # One timer serves the whole pool.
        self._tick = min(
            settings.max_idle or math.inf, (settings.max_lifetime or math.inf) * _LIFETIME_TICK
        )
        self.timer: asyncio.TimerHandle | None = None
        self._timer_when = math.inf
        #: What ends with each handshake under way.
        self.under_way: dict[Slot, asyncio.Future[Failure | None]] = {}
        #: Closing handshakes; the loop itself holds tasks by weak references only.
        self.goodbyes: set[asyncio.Task[None]] = set()
        #: How often drain() has closed what there was, and the end of the last time.
        self.drain_count = 0
        self.draining: Completion = DONE
        #: Ends when the last place is free, once the session is being closed.
        self.emptied: asyncio.Future[None] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, express: Express) -> None:
        """Work in this loop from now on; hooks get their handles by ``express``."""
        self.loop = loop
        self.express = express

    def when_place_left(self, callback: Callable[[Slot], None]) -> None:
        """Call this, held weakly, with the slot of each connection that is gone."""
        self._on_place_left = weakref.WeakMethod(callback)

    def with_cookies(self, target: Target) -> Target:
        """Return a target with the cookies and the environment of now."""
        return target if self.implied is None else self.implied.added_to(target)

    def closed_error(self) -> PoolClosedError:
        """Return what a call gets that comes too late."""
        said = "the WebSocketClientSession is closed"
        if self.is_parents:
            said = (
                "this WebSocketClientSession belongs to the parent process, which was forked after"
                " its first use: make one in each process"
            )
        return PoolClosedError(in_session(self.settings.name, said))

    def handshakes_of(self, key: HandshakeKey) -> list[asyncio.Future[Failure | None]]:
        """Return what ends with each handshake under way that is counted on."""
        return [
            done
            for slot, done in self.under_way.items()
            if slot.key == key and slot.state != CLOSING and not slot.doubted
        ]

    # -- carrying out what the core decides ------------------------------------------------------

    def carry_out(self, plan: Plan | None) -> None:
        """Do all that a plan says: the core takes it for done.

        What fails on the way (for want of memory, or by a KeyboardInterrupt) is done in the next
        turn of the loop, and raised once the rest is done.
        """
        if plan is None:
            return
        error: BaseException | None = None
        for slot in plan.opened:
            try:
                self._open_for_owner(slot)
            except BaseException as exc:
                error = exc
                self._do_soon(self._fail_unopened, slot, exc)
        for slot in plan.closing:
            try:
                self.start_closing(slot)
            except BaseException as exc:
                error = exc
                self._do_soon(self.start_closing, slot)
        for waiter in plan.woken:
            try:
                waiter.token.wake()
            except BaseException as exc:
                error = exc
                self._do_soon(waiter.token.wake)
        try:
            self.arm()
            if self._limiter_line:
                self._let_begin(self._limiter_line)
            if error is not None:
                raise error
        finally:
            # Its traceback has this frame.
            del error

    def _open_for_owner(self, slot: Slot) -> None:
        # Opened for somebody, in this very plan.
        assert slot.owner is not None
        caller: Caller = slot.owner.token
        target: Any = caller.route
        self.start_connecting(slot, target, caller.context)

    def _do_soon(self, function: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon(partial(function, *arguments), context=Context())

    def _fail_unopened(self, slot: Slot, error: BaseException) -> None:
        """Fail a handshake that could not even begin."""
        if slot.task is not None:
            # It could, but for what was to be told of it.
            return
        if slot.state == CLOSING:
            self._closed_slot(slot)
            return
        owner, plan = self.pool.connect_failed(slot, clock(), HandshakeFailure.of(error))
        if owner is not None:
            fail_waiter(owner, error)
        self.carry_out(plan)

    def start_closing(self, slot: Slot) -> None:
        """Stop a handshake, or close its connection, as a plan says."""
        if slot.task is not None:
            # What is to be done then, is done when it has ended.
            slot.task.cancel()
        else:
            conn: Connection = slot.conn
            conn.watch_closing()
            conn.say_goodbye()

    def arm(self) -> None:
        """See to it that the pool's one timer goes off in time for whatever expires next.

        It runs as long as there is any connection: what is released later than now does not expire
        earlier than what would be released now, so release need not look at it.
        """
        if self.is_closed or not len(self.pool):
            return
        now = clock()
        deadline = min(self.pool.next_deadline(), now + self._tick)
        # A loop's clock that was moved, as tests do, may never reach the time of its timer.
        if deadline >= self._timer_when > now - _LATEST:
            return
        if self.timer is not None:
            self.timer.cancel()
        self._timer_when = deadline
        # The core's clock need not be the loop's.
        delay = max(0.0, deadline - now)
        # In nobody's context: it is armed anew for as long as there is any connection.
        self.timer = self.loop.call_later(delay, _call_expire, weakref.ref(self), context=Context())

    def _expire(self) -> None:
        now = clock()
        if now - self._timer_when > _BUSY:
            # The timer is late, so a handshake may be late for the same reason.
            self.pool.postpone_look(now)
        self.timer = None
        self._timer_when = math.inf
        self.carry_out(self.pool.expire(now))

    # -- opening ---------------------------------------------------------------------------------

    def start_connecting(
        self, slot: Slot, target: Target, context: Context
    ) -> asyncio.Future[Failure | None]:
        """Begin a handshake in a task of the pool's; returns what ends with it."""
        finished: asyncio.Future[Failure | None] = self.loop.create_future()
        # Not by create_task(): a task factory may start tasks eagerly, and the core must not be
        # entered again while one of its plans is being carried out.
        task = asyncio.Task(self._try_to_open(slot, target), loop=self.loop, context=context)
        slot.task = task
        self.under_way[slot] = finished
        if self._tracer is not None:
            self._tracer.connect_start(slot, context)
        # Not inside the coroutine: one that is cancelled before its first step never runs.
        finish = partial(self._finish_connecting, slot, target, finished, slot.owner)
        task.add_done_callback(finish, context=context)
        if self._limiter_line is not None:
            # After the task's first step, with which it begins unless it has to wait.
            self.loop.call_soon(self._see_whether_it_waits, slot, context=Context())
        return finished

    def _see_whether_it_waits(self, slot: Slot) -> None:
        line = self._limiter_line
        assert line is not None
        line.wait(slot)
        if line:
            self._let_begin(line)

    def _let_begin(self, line: LimiterLine) -> None:
        """Stop handshakes that keep those of callers from beginning."""
        for slot in line.dispensable():
            self.carry_out(self.pool.stop(slot))

    async def _try_to_open(self, slot: Slot, target: Target) -> Failure | None:
        try:
            await self._open(slot, target)
        except Exception as error:
            return Failure(error)
        return None

    async def _open(self, slot: Slot, target: Target) -> None:
        """Do the handshake, and configure the connection that comes of it."""
        ws = await connect(
            self._client.get(),
            target,
            self.settings.response_class,
            limiter=self.settings.connect_limiter,
            conn_timeout=self.settings.conn_timeout,
            begin=partial(self._begin_handshake, slot),
            free_files=partial(self._free_files, slot),
            session_name=self.settings.name,
        )
        if self._limiter_line is not None:
            self._limiter_line.leave(slot)
        try:
            check_connection(ws)
            conn = Connection(ws, slot, self, target.hooks)
        except BaseException:
            abort(ws)
            raise
        slot.conn = conn
        if target.hooks.configure is None:
            return
        try:
            await conn.configure()
        except BaseException:
            conn.shut()
            conn.abort()
            conn.forget()
            slot.conn = None
            raise

    def _begin_handshake(self, slot: Slot) -> None:
        self.pool.begin(slot, clock())
        if self._limiter_line is not None:
            self._limiter_line.enter(slot)
        self.arm()

    def _free_files(self, slot: Slot) -> Coroutine[Any, Any, None] | None:
        """Close some of the longest idle, for a handshake that failed for want of a file.

        None: nothing is idle or closing, or nobody waits for that handshake.
        """
        if slot.owner is None:
            return None
        # Other handshakes, and other parts of the program, fail at the same time.
        plan = self.pool.evict(max(_FEWEST_FREED, self.pool.gauges()[_GAUGE_OF_IDLE] // 8))
        closing = list(plan.closing)
        self.carry_out(plan)
        if not closing:
            # Another handshake that failed may have closed the last of them.
            closing = [other for other in self.pool.slots() if other.state == CLOSING]
        conns: list[Connection] = [other.conn for other in closing if other.conn is not None]
        return self._until_gone(conns) if conns else None

    async def _until_gone(self, conns: list[Connection]) -> None:
        """Wait until the sockets of connections that are being closed are gone, at most a second.

        Those that were idle, and whose servers do not answer, are aborted then.
        """
        ends = {conn: conn.until_settled() for conn in conns}
        await asyncio.wait(ends.values(), timeout=_FREEING_GRACE)
        left = [conn for conn, end in ends.items() if not end.done() and conn.slot.crowded_out]
        for conn in left:
            conn.abort()
        if left:
            await asyncio.wait([ends[conn] for conn in left], timeout=ABORT_GRACE)

    def _finish_connecting(
        self,
        slot: Slot,
        target: Target,
        finished: asyncio.Future[Failure | None],
        begun_for: Waiter | None,
        task: asyncio.Task[Failure | None],
    ) -> None:
        """See what has come of a handshake: it failed, was stopped, or is a connection."""
        del self.under_way[slot]
        if self._limiter_line is not None:
            self._limiter_line.leave(slot)
        error = self._error_of(slot, task)
        key: Any = slot.key
        moves = False
        if error is None and slot.state != CLOSING:
            key, moves = self._key_once_open(slot, target)
        # Not earlier: the cookie jar, and who is logged to, may drain what still has a task.
        slot.task = None
        is_stopped = slot.state == CLOSING
        if self._tracer is not None:
            # One that was told to stop, too late, is not taken for open by anybody.
            is_cancelled = is_stopped or task.cancelled()
            self._tracer.connected(slot, asyncio.CancelledError() if is_cancelled else error)
        if is_stopped:
            finished.cancel()
            self._finish_stopped(slot)
        elif error is None:
            self._finish_connected(slot, key, moves)
            finished.set_result(None)
            self._tell_connected(slot, target)
        else:
            self._finish_failed(slot, error, finished, begun_for)

    def _error_of(self, slot: Slot, task: asyncio.Task[Failure | None]) -> BaseException | None:
        if task.cancelled():
            said = f"the handshake with {slot.endpoint} was cancelled"
            return WebSocketPoolError(in_session(self.settings.name, said))
        error = task.exception()
        if error is not None:
            return error
        failure = task.result()
        return None if failure is None else failure.error

    def _finish_stopped(self, slot: Slot) -> None:
        """End a handshake that was told to stop, which it may have been too late for."""
        if slot.conn is None:
            self._closed_slot(slot)
        else:
            self.start_closing(slot)

    def _finish_failed(
        self,
        slot: Slot,
        error: BaseException,
        finished: asyncio.Future[Failure | None],
        begun_for: Waiter | None,
    ) -> None:
        """Pass on what a handshake has failed with: to the caller that it belongs to, if any."""
        owner, plan = self.pool.connect_failed(slot, clock(), HandshakeFailure.of(error))
        # Made before the caller raises its own, which adds frames and a context to that.
        finished.set_result(Failure(error if owner is None else twin_of(error)))
        if owner is not None:
            fail_waiter(owner, error)
        self.carry_out(plan)
        if owner is None and begun_for is not None and begun_for.queued:
            self._fail_if_timed_out(begun_for, error)
        # Not before the core knows, here and above: who is logged to may drain.
        if is_debugging():
            self._log_connect_failed(slot, error)

    def _fail_if_timed_out(self, waiter: Waiter, error: BaseException) -> None:
        """Fail a waiter whose late handshake has timed out, though it has had another since.

        It has waited for as long as a connection may take: each further handshake would give it as
        much time again.
        """
        if isinstance(error, asyncio.TimeoutError):
            plan = self.pool.give_up(waiter, clock(), False)
            fail_waiter(waiter, error)
            self.carry_out(plan)

    def _finish_connected(self, slot: Slot, key: HandshakeKey, moves: bool) -> None:
        """Hand a new connection to the caller who waits for it, or to the pool."""
        retires = math.inf
        if self.settings.max_lifetime is not None:
            jitter = 1 - _LIFETIME_JITTER * random.random()
            retires = slot.born + self.settings.max_lifetime * jitter
        conn: Connection = slot.conn
        if self._is_abandoned:
            conn.shut()
            conn.abort()
        plan = self.pool.connected(slot, clock(), retires, key, moves)
        # If nobody waited it is in the free list, and must be watched like all there.
        if slot.state == IDLE:
            conn.fresh = False
            # While it was configured, the server may have sent a PING.
            if not conn.park_cleared():
                self.close_unfit(slot)
        self.carry_out(plan)

    def _tell_connected(self, slot: Slot, target: Target) -> None:
        if is_debugging():
            self.log(slot, "opened")
        if self.reuse_watch is not None and slot.state in (ACQUIRED, IDLE):
            self.reuse_watch.opened(slot, target)

    def _key_once_open(self, slot: Slot, target: Target) -> tuple[HandshakeKey, bool]:
        """Return the handshake that a new connection answers to from now on.

        And whether callers that wait for a place go along: it is what they would ask for now.
        """
        key: Any = slot.key
        if self.implied is None:
            return key, True
        try:
            return self.implied.key_once_open(key, target, slot.conn.ws._response)
        except Exception as exc:
            log(
                "cookie_jar_failed",
                exc,
                session_name=self.settings.name,
                endpoint=str(slot.endpoint),
                error=type(exc).__name__,
            )
            return self.implied.key_of_nobody(key), False

    # -- logging -----------------------------------------------------------------------------------

    def log(self, slot: Slot, event: str, **fields: Any) -> None:
        """Log an event of a connection, with the seconds since its handshake began."""
        seconds = clock() - slot.born
        endpoint = str(slot.endpoint)
        log(event, session_name=self.settings.name, endpoint=endpoint, seconds=seconds, **fields)

    def _log_connect_failed(self, slot: Slot, error: BaseException) -> None:
        status = status_of(error)
        detail = "" if status is None else f", status {status}"
        self.log(slot, "connect_failed", error=type(error).__name__, status=status, detail=detail)

    def _log_closed(self, slot: Slot, close: tuple[int, str] | None) -> None:
        code, reason = (None, "") if close is None else close
        self.log(
            slot,
            "closed",
            reason=CLOSE_REASONS[slot.reason],
            uses=slot.uses,
            close_code=code,
            close_reason=reason,
            detail="" if close is None else f"; the server's CLOSE: {code} {reason}".rstrip(),
        )

    # -- closing ---------------------------------------------------------------------------------

    def close_unfit(self, slot: Slot) -> None:
        """Close a connection that cannot go to another user, for the reason that it shows."""
        reason = slot.conn.why_unfit()
        self.heed_unread_close(slot)
        self.close_acquired(slot, reason)

    def heed_unread_close(self, slot: Slot) -> None:
        """Let a CLOSE that came before the release count as if it had come after it."""
        if slot.conn.unread_close_code in self.settings.retire_on:
            self.carry_out(self.pool.retire(slot))

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection that is in use, or idle."""
        self.discard(slot, reason)
        conn: Connection = slot.conn
        conn.watch_closing()
        conn.say_goodbye()

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection whose hook has succeeded, or close it."""
        slot: Slot = conn.slot
        slot.task = None
        failure = failure_of(task)
        if slot.state == CLOSING:
            # The session was closed meanwhile.
            self.start_closing(slot)
        elif failure or not conn.park_cleared():
            reason = conn.why_unfit() if conn.has_ended or not failure else failure
            self.heed_unread_close(slot)
            self.close_acquired(slot, reason)
        else:
            return True
        return False

    def discard(self, slot: Slot, reason: str) -> None:
        """Take a connection out of the pool that is being closed."""
        self.carry_out(self.pool.discard(slot, REASONS[reason], clock()))

    def ended(self, conn: Connection, how: str, code: int) -> None:
        """Take a connection that ended while parked out of the pool, at once.

        ``code`` is that of the server's CLOSE; 0: there was none.
        """
        slot: Slot = conn.slot
        if self._is_abandoned:
            conn.abort()
            conn.forget()
            slot.conn = None
            return
        if slot.state == CLOSING:
            return
        if code in self.settings.retire_on:
            # A waiter that was given this one, and looks for another, is not to get one of these.
            self.carry_out(self.pool.retire(slot))
        self.close_acquired(slot, how)

    def gone(self, conn: Connection) -> None:
        """Free the place of a connection whose socket is gone."""
        slot: Slot = conn.slot
        slot.conn = None
        close = conn.server_close
        if self.reuse_watch is not None:
            self.reuse_watch.closed(slot)
        if self._tracer is not None:
            self._tracer.closed(slot, close)
        # A handshake that was stopped too late was not logged as opened either.
        if is_debugging() and slot.reason >= 0:
            self._log_closed(slot, close)
        self._closed_slot(slot)
        on_place_left = None if self._on_place_left is None else self._on_place_left()
        if on_place_left is not None:
            on_place_left(slot)

    def _closed_slot(self, slot: Slot) -> None:
        self.carry_out(self.pool.closed(slot, clock()))
        if self.emptied is not None and not self.emptied.done() and not len(self.pool):
            self.emptied.set_result(None)

    # -- draining --------------------------------------------------------------------------------

    def drain(self, keys: set[HandshakeKey] | None) -> Completion:
        """Let no connection of these handshakes, or of any, be handed out again."""
        self.drain_count += 1
        which: Any = keys
        plan = self.pool.drain(which)
        if self.implied is not None:
            self.implied.drop_routes()
        # A handshake that is stopped has a task.
        idle = [slot.conn for slot in plan.closing if slot.task is None]
        self.carry_out(plan)
        self.draining = self._all_gone(idle)
        return self.draining

    def _all_gone(self, conns: list[Connection]) -> Completion:
        """Return what ends when the sockets of connections that are being closed are gone."""
        if not conns:
            return DONE
        gone: asyncio.Future[None] = self.loop.create_future()
        left = len(conns)

        def count_down(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                gone.set_result(None)

        for conn in conns:
            conn.until_settled().add_done_callback(count_down)
        return Pending(gone)

    # -- the end ---------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Begin to close everything, in use or not; ``emptied`` tells when all is closed."""
        self.is_closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        emptied = self.emptied = self.loop.create_future()
        waiters, plan = self.pool.shutdown(REASONS["forced"], clock())
        for waiter in waiters:
            fail_waiter(waiter, self.closed_error())
        self.carry_out(plan)
        if not len(self.pool):
            emptied.set_result(None)

    def abort_all(self) -> None:
        """Close all sockets that there are, without waiting for anything."""
        for slot in self.pool.slots():
            if slot.conn is not None:
                slot.conn.abort()

    def abandon(self) -> None:
        """Close what a session has left that was dropped, open."""
        self._is_abandoned = True
        if self.timer is not None:
            self.timer.cancel()
        for slot in self.pool.slots():
            if slot.task is not None:
                slot.task.cancel()
            if slot.conn is not None:
                slot.conn.shut()
                slot.conn.abort()

    def leave_to_parent(self) -> object:
        """Take everything for closed, without touching what a child shares with its parent.

        Returns what must never be collected.
        """
        self.is_closed = self.is_parents = True
        if self.timer is not None:
            self.timer.cancel()
        slots = self.pool.slots()
        conns = [slot.conn for slot in slots if slot.conn is not None]
        states = [dict(conn.state) for conn in conns]
        if self._tracer is not None:
            # Not stopped: that would ask the loop, which may refuse it in another thread.
            self._tracer.fall_silent()
        held = (slots, conns, states, set(self.goodbyes), self._client.session, self._tracer)
        for conn in conns:
            conn.leave_to_parent(self.closed_error)
            conn.slot.conn = None
        return held


def _call_expire(this: Callable[[], Lifecycle | None]) -> None:
    lifecycle = this()
    if lifecycle is not None:
        lifecycle._expire()


def fail_waiter(waiter: Waiter, error: BaseException) -> None:
    """Let the caller that waits raise this."""
    caller: Caller = waiter.token
    caller.error = error
    caller.wake()
