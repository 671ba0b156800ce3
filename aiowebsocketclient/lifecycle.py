"""Carries out the decisions of the core: opens and closes connections, and owns the timer.

Only the core decides what may be open, and who gets it.  A :class:`Lifecycle` does not refer to its
session: a dropped session must be collected at once, while handshakes and connections still refer
to the lifecycle.
"""

import asyncio
import math
import random
import weakref
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from functools import partial
from typing import Any, Final

from ._aiohttp_private import check_connection
from ._compat import DONE, Express, Plan, Pool, Slot, Waiter, clock
from ._pool_py import ACQUIRED, CLOSE_REASONS, CLOSING, GAUGES, IDLE, Completion
from .connecting import Client, abort, connect
from .connection import Connection, failure_of
from .exceptions import (
    HandshakeFailure,
    PoolClosedError,
    WebSocketPoolError,
    in_session,
    twin_of,
)
from .http_memory import forget_handshake
from .implied import Implied
from .keepalive import Keepalives
from .keys import HandshakeKey, Target
from .lessee import Lessee
from .limiter import LimiterLine
from .logs import fields_of_failure, is_debugging, log
from .response import Pending
from .reuse import ReuseWatch
from .settings import Settings
from .tls_memory import shrink
from .tracing import Tracer

__all__ = ("ABORT_GRACE", "REASONS", "Failure", "Lifecycle", "fail_waiter")

#: Reasons for ``discard`` of the core, by name.
REASONS: Final = {name: index for index, name in enumerate(CLOSE_REASONS)}
_GAUGE_OF_IDLE: Final = GAUGES.index("idle")

_CLOSED: Final = "the WebSocketClientSession is closed"
_OF_PARENT: Final = (
    "this WebSocketClientSession belongs to the parent process, which was forked after its first"
    " use: create a session in each process"
)

# The largest random reduction of max_lifetime, so that connections opened together do not end
# together.
_LIFETIME_JITTER: Final = 0.05
# The share of max_lifetime between two searches for old idle connections.
_LIFETIME_TICK: Final = 0.05

# Minimum number of idle connections to close after a handshake that could not open a file, and the
# seconds for their closing handshakes.
_FEWEST_FREED: Final = 4
_FREEING_GRACE: Final = 1.0

# A timer that is later than this many seconds means that the machine is busy.
_BUSY: Final = 0.1

# Seconds after which an overdue timer counts as lost.
_LATEST: Final = 1.0

#: Seconds for aborted transports to end; they need a few turns of the loop.
ABORT_GRACE: Final = 0.1


class Failure:
    """Hides the exception of a failed handshake from the ``repr`` of tasks and futures.

    The debug mode of asyncio logs their ``repr`` with the exception, and exceptions of aiohttp
    contain the headers of the handshake.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Lifecycle:
    """Opens and closes the connections of one session, as the core decides."""

    #: The session sets it at its first use.
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        client: Client,
        express: Express,
        tracer: Tracer | None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        #: Creates the handles, also those for hooks.
        self.express = express
        self._client = client
        self._tracer = tracer
        # With force_close, connections are not meant to be reused.
        self.reuse_watch = None if settings.force_close else ReuseWatch(settings.name)
        self._limiter_line = None if settings.connect_limiter is None else LimiterLine()
        self.lessee: Lessee | None = None
        if settings.fleet is not None:
            self.lessee = Lessee(settings.fleet, self, settings.name, tracer)
        self._on_place_left: Callable[[], Callable[[Slot], None] | None] | None = None
        self.implied: Implied | None = None
        self.is_closed = False
        #: Whether this is a forked child, and the session belongs to the parent process.
        self.is_parents = False
        # Whether the session was dropped without close().
        self._is_abandoned = False
        # One timer serves the whole pool.
        self._tick = min(
            settings.max_idle or math.inf, (settings.max_lifetime or math.inf) * _LIFETIME_TICK
        )
        self.timer: asyncio.TimerHandle | None = None
        self._timer_when = math.inf
        self.keepalives = Keepalives()
        #: Futures that end with the handshakes under way.
        self.under_way: dict[Slot, asyncio.Future[Failure | None]] = {}
        #: Closing handshakes; the loop itself only refers to tasks weakly.
        self.goodbyes: set[asyncio.Task[None]] = set()
        # Number of sockets that were closed.
        self._sockets_closed = 0
        #: Number of calls of drain(), and the completion of the last one.
        self.drain_count = 0
        self.draining: Completion = DONE
        #: Done when a closing session has no connections left.
        self.emptied: asyncio.Future[None] | None = None

    def when_place_left(self, callback: Callable[[Slot], None]) -> None:
        """Call ``callback``, held weakly, with the slot of each connection that is gone."""
        self._on_place_left = weakref.WeakMethod(callback)

    def with_cookies(self, target: Target) -> Target:
        """Return a target with the current cookies and environment."""
        return target if self.implied is None else self.implied.added_to(target)

    def closed_error(self) -> PoolClosedError:
        """Return the error of a call after the end of the session."""
        return PoolClosedError(
            in_session(self.settings.name, _OF_PARENT if self.is_parents else _CLOSED)
        )

    def handshakes_of(self, key: HandshakeKey) -> list[asyncio.Future[Failure | None]]:
        """Return a future for each handshake under way that is expected to succeed."""
        return [
            done
            for slot, done in self.under_way.items()
            if slot.key == key and slot.state != CLOSING and not slot.doubted
        ]

    # -- carrying out plans ----------------------------------------------------------------------

    def carry_out(self, plan: Plan | None) -> None:
        """Carry out a plan completely: the core assumes that it is done.

        A step that fails (for lack of memory, or because of a KeyboardInterrupt) is repeated in the
        next turn of the loop; its exception is raised after the other steps.
        """
        if self.lessee is not None:
            self.lessee.look()
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
        # The waiters of a session are callers.
        callers: list[Any] = plan.woken
        for caller in callers:
            try:
                caller.wake()
            except BaseException as exc:
                error = exc
                self._do_soon(caller.wake)
        try:
            self.arm()
            if self._limiter_line is not None:
                self._limiter_line.let_begin(self._stop)
            if error is not None:
                raise error
        finally:
            # The traceback of the error has this frame.
            del error

    def _open_for_owner(self, slot: Slot) -> None:
        # The plan has opened it for a waiter.
        caller: Any = slot.owner
        target: Target = caller.route
        self.start_connecting(slot, target, caller.context)

    def _do_soon(self, function: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon(partial(function, *arguments), context=Context())

    def _fail_unopened(self, slot: Slot, error: BaseException) -> None:
        """Fail a handshake that could not even begin."""
        if slot.task is not None:
            # The handshake has begun; only a tracer or a log failed.
            return
        if slot.state == CLOSING:
            self._closed_slot(slot)
            return
        owner, plan = self.pool.connect_failed(slot, clock(), HandshakeFailure.of(error))
        if owner is not None:
            fail_waiter(owner, error)
        self.carry_out(plan)

    def start_closing(self, slot: Slot) -> None:
        """Stop a handshake, or close its connection, for a plan."""
        if slot.task is not None:
            # _finish_connecting(), or the end of the hook, does the rest.
            slot.task.cancel()
        else:
            conn: Connection = slot.conn
            conn.watch_closing()
            conn.say_goodbye()

    def arm(self) -> None:
        """Set the timer of the pool for the next deadline.

        The timer runs as long as there are connections, at least once per tick.  A connection
        released later never expires before the next tick, so a release need not set the timer.
        """
        if self.is_closed:
            return
        now = clock()
        deadline = self.pool.next_deadline()
        if len(self.pool):
            deadline = min(deadline, now + self._tick)
        elif deadline == math.inf:
            return
        # If a test has moved the loop's clock, the timer may never fire.
        if deadline >= self._timer_when > now - _LATEST:
            return
        if self.timer is not None:
            self.timer.cancel()
        self._timer_when = deadline
        # The clock of the core may differ from the loop's.
        delay = max(0.0, deadline - now)
        # In an empty context: the timer outlives the caller.
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
        """Begin a handshake in a task of its own; return a future that ends with it."""
        finished: asyncio.Future[Failure | None] = self.loop.create_future()
        # Not with create_task(): a task factory may start tasks eagerly, and the core must not be
        # called while a plan is being carried out.
        task = asyncio.Task(self._try_to_open(slot, target), loop=self.loop, context=context)
        slot.task = task
        self.under_way[slot] = finished
        if self._tracer is not None:
            self._tracer.connect_start(slot, context)
        # Not inside the coroutine, which never runs if cancelled before its first step.
        finish = partial(self._finish_connecting, slot, target, finished, slot.owner)
        task.add_done_callback(finish, context=context)
        if self._limiter_line is not None:
            # After the first step of the task, in which the handshake begins or starts to wait.
            self.loop.call_soon(self._see_whether_it_waits, slot, context=Context())
        return finished

    def _see_whether_it_waits(self, slot: Slot) -> None:
        if self._limiter_line is not None:
            self._limiter_line.wait(slot)
            self._limiter_line.let_begin(self._stop)

    def _stop(self, slot: Slot) -> None:
        self.carry_out(self.pool.stop(slot))

    async def _try_to_open(self, slot: Slot, target: Target) -> Failure | None:
        try:
            await self._open(slot, target)
        except Exception as error:
            return Failure(error)
        return None

    async def _open(self, slot: Slot, target: Target) -> None:
        """Make the handshake, and configure the new connection."""
        endpoint: Any = slot.endpoint
        ws = await connect(
            self._client.get(),
            target,
            self.settings.response_class,
            limiter=self.settings.connect_limiter,
            conn_timeout=self.settings.conn_timeout,
            admit=None if self.lessee is None else partial(self.lessee.admit, endpoint),
            begin=partial(self._begin_handshake, slot),
            free_files=partial(self._free_files, slot, self._sockets_closed),
            session_name=self.settings.name,
        )
        if self._limiter_line is not None:
            self._limiter_line.succeed(slot)
        try:
            check_connection(ws)
            if ws._conn is not None:
                shrink(ws._conn.transport)
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

    def _free_files(self, slot: Slot, closed_before: int) -> Coroutine[Any, Any, None] | None:
        """Close the longest idle connections after a handshake that could not open a file.

        Returns None if no caller waits for the handshake, or if no connection is idle or closing,
        and none was closed since the handshake began.
        """
        if slot.owner is None:
            return None
        # Several, because other handshakes and other parts of the program fail at the same time.
        plan = self.pool.evict(max(_FEWEST_FREED, self.pool.gauges()[_GAUGE_OF_IDLE] // 8))
        closing = list(plan.closing)
        self.carry_out(plan)
        if not closing:
            # Another failed handshake may already be closing the last of them.
            closing = [other for other in self.pool.slots() if other.state == CLOSING]
        conns: list[Connection] = [other.conn for other in closing if other.conn is not None]
        if not conns and self._sockets_closed == closed_before:
            return None
        return _until_gone(conns)

    def _finish_connecting(
        self,
        slot: Slot,
        target: Target,
        finished: asyncio.Future[Failure | None],
        begun_for: Waiter | None,
        task: asyncio.Task[Failure | None],
    ) -> None:
        """Handle the end of a handshake: it failed, was stopped, or succeeded."""
        del self.under_way[slot]
        if self._limiter_line is not None:
            self._limiter_line.leave(slot)
        error = _error_of(slot, task, self.settings.name)
        key: Any = slot.key
        moves = False
        if error is None and slot.state != CLOSING:
            key, moves = self._key_once_open(slot, target)
        # Only now: the cookie jar or a log handler may call drain(), which stops tasks.
        slot.task = None
        is_stopped = slot.state == CLOSING
        if self._tracer is not None:
            # A handshake that was stopped too late does not count as open.
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

    def _finish_stopped(self, slot: Slot) -> None:
        """End a handshake that was stopped, maybe too late."""
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
        """Pass the exception of a handshake to its caller, if there is one."""
        failure = HandshakeFailure.of(error)
        owner, plan = self.pool.connect_failed(slot, clock(), failure)
        # The twin is made before the caller raises the original, which adds frames and a context.
        # Only prewarm() and set_min_idle(), which begin handshakes for no waiter, look at it.
        is_shared = owner is not None and begun_for is None
        finished.set_result(Failure(twin_of(error) if is_shared else error))
        if owner is not None:
            fail_waiter(owner, error)
        self.carry_out(plan)
        if owner is None and begun_for is not None and begun_for.queued:
            self._fail_if_timed_out(begun_for, error)
        # Only after the core knows: a log handler may call drain().
        if is_debugging():
            self.log(slot, "connect_failed", **fields_of_failure(failure))

    def _fail_if_timed_out(self, waiter: Waiter, error: BaseException) -> None:
        """Fail a waiter whose first, late handshake has timed out, even if it has another one.

        The waiter has waited as long as a connection may take.  With each further handshake it
        would wait as long again.
        """
        if isinstance(error, asyncio.TimeoutError):
            plan = self.pool.give_up(waiter, clock(), False)
            fail_waiter(waiter, error)
            self.carry_out(plan)

    def _finish_connected(self, slot: Slot, key: HandshakeKey, moves: bool) -> None:
        """Give a new connection to the waiting caller, or to the pool."""
        retires = math.inf
        if self.settings.max_lifetime is not None:
            jitter = 1 - _LIFETIME_JITTER * random.random()
            retires = slot.born + self.settings.max_lifetime * jitter
        conn: Connection = slot.conn
        forget_handshake(conn.ws)
        if self.lessee is not None:
            # Without the wait for connect_rate and connect_limiter.
            self.lessee.connected(clock() - slot.began)
        if self._is_abandoned:
            conn.shut()
            conn.abort()
        plan = self.pool.connected(slot, clock(), retires, key, moves)
        # Without a waiter it is idle, and must be watched.
        if slot.state == IDLE:
            conn.fresh = False
            # The server may have sent a PING during configure.
            if conn.park_cleared():
                # The hook on_idle_message may have asked for it.
                self.keepalives.answered(conn)
            else:
                self.close_unfit(slot)
        if conn.hooks.keepalive is not None:
            self.keepalives.watch(conn, self.loop)
        self.carry_out(plan)

    def _tell_connected(self, slot: Slot, target: Target) -> None:
        if is_debugging():
            self.log(slot, "opened")
        if self.reuse_watch is not None and slot.state in (ACQUIRED, IDLE):
            self.reuse_watch.opened(slot, target)

    def _key_once_open(self, slot: Slot, target: Target) -> tuple[HandshakeKey, bool]:
        """Return the key of a new connection, and whether waiting callers look for it now."""
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

    # -- closing ---------------------------------------------------------------------------------

    def close_unfit(self, slot: Slot) -> None:
        """Close a connection that cannot be reused."""
        self.close_after_use(slot, slot.conn.why_unfit())

    def close_after_use(self, slot: Slot, reason: str) -> None:
        """Close a connection after its use, or after a hook.

        A CLOSE that nobody has read counts as if it had arrived while the connection was idle.
        """
        self.heed_close(slot, slot.conn.unread_close_code)
        # Retiring runs callbacks of users, such as log handlers, which may close the session.
        if slot.state != CLOSING:
            self.close_acquired(slot, reason)

    def heed_close(self, slot: Slot, code: int) -> None:
        """Retire other connections if the server has sent a CLOSE with a code of ``retire_on``.

        To be called before the connection itself is closed: a waiter that loses it must not get one
        of the others.
        """
        if code in self.settings.retire_on:
            self.carry_out(self.pool.retire(slot))

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection that is in use or idle."""
        self.discard(slot, reason)
        self.start_closing(slot)

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection if its hook succeeded; otherwise close it."""
        slot: Slot = conn.slot
        slot.task = None
        failure = failure_of(task)
        if slot.conn is None:
            # It was aborted during the hook, and its socket is closed.
            return False
        if slot.state == CLOSING:
            # The session was closed during the hook.
            self.start_closing(slot)
        elif failure or not conn.park_cleared():
            reason = conn.why_unfit() if conn.has_ended or not failure else failure
            self.close_after_use(slot, reason)
        else:
            return True
        return False

    def discard(self, slot: Slot, reason: str) -> None:
        """Remove a connection that is being closed from the pool."""
        if slot.waiter is not None and slot.conn.hooks.holds_back:
            # Its waiter may get the next idle connection.
            _end_held_back(self.pool.idle_beside(slot), slot.key)
        self.carry_out(self.pool.discard(slot, REASONS[reason], clock()))

    def ended(self, conn: Connection, how: str, code: int) -> None:
        """Remove a connection that ended while parked from the pool at once.

        ``code`` is the code of the server's CLOSE, or 0.
        """
        slot: Slot = conn.slot
        if self._is_abandoned:
            conn.abort()
            conn.forget()
            slot.conn = None
            return
        if slot.state == CLOSING:
            return
        self.heed_close(slot, code)
        self.close_acquired(slot, how)

    def gone(self, conn: Connection) -> None:
        """Free the place of a connection whose socket is closed."""
        slot: Slot = conn.slot
        slot.conn = None
        self._sockets_closed += 1
        close = conn.server_close
        if self.reuse_watch is not None:
            self.reuse_watch.closed(slot)
        if self._tracer is not None:
            self._tracer.closed(slot, close)
        # A handshake that was stopped too late was not logged as opened, either.
        if is_debugging() and slot.reason >= 0:
            self.log(slot, "closed", **_fields_of_end(slot, close))
        self._closed_slot(slot)
        on_place_left = None if self._on_place_left is None else self._on_place_left()
        if on_place_left is not None:
            on_place_left(slot)

    def fail(self, waiter: Waiter, error: BaseException) -> None:
        """Take a waiter out of its line, and make it raise ``error``."""
        plan = self.pool.give_up(waiter, clock(), False)
        fail_waiter(waiter, error)
        self.carry_out(plan)

    def abort_open(self) -> None:
        """Close all connections, in use or not, without a closing handshake."""
        for slot in self.pool.slots():
            conn: Connection | None = slot.conn
            if conn is None:
                continue
            if slot.state in (ACQUIRED, IDLE):
                self.discard(slot, "forced")
                conn.watch_closing()
                conn.wake_pending_receive()
            conn.abort()

    def _closed_slot(self, slot: Slot) -> None:
        self.carry_out(self.pool.closed(slot, clock()))
        self.note_emptied()

    # -- draining --------------------------------------------------------------------------------

    def drain(self, keys: set[HandshakeKey] | None) -> Completion:
        """Retire the connections of these handshakes, or all connections."""
        self.drain_count += 1
        which: Any = keys
        plan = self.pool.drain(which)
        if self.implied is not None:
            self.implied.drop_routes()
        idle = [slot.conn for slot in plan.closing if slot not in self.under_way]
        self.carry_out(plan)
        self.draining = _all_gone(idle, self.loop)
        return self.draining

    # -- the end ---------------------------------------------------------------------------------

    def shut_down(self, *, spares_used: bool = False) -> None:
        """Begin to close everything; ``emptied`` is done at the end.

        With ``spares_used``, connections in use stay open until they are released.
        """
        self.is_closed = True
        self._stop_timers()
        if self.emptied is None:
            self.emptied = self.loop.create_future()
        waiters, plan = self.pool.shutdown(REASONS["forced"], clock(), spares_used)
        for waiter in waiters:
            fail_waiter(waiter, self.closed_error())
        self.carry_out(plan)
        for slot in self.pool.slots():
            if _is_set_aside(slot):
                # No user has it, and nothing else would close it.
                self.close_acquired(slot, "forced")
        self.note_emptied()

    def note_emptied(self) -> None:
        """Complete ``emptied`` if the last connection of a closing session has left the pool."""
        if self.emptied is not None and not self.emptied.done() and not len(self.pool):
            self.emptied.set_result(None)

    def _stop_timers(self) -> None:
        self.keepalives.stop()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def abort_all(self) -> None:
        """Close all sockets at once."""
        for slot in self.pool.slots():
            if slot.conn is not None:
                slot.conn.abort()

    def abandon(self) -> None:
        """Close the connections of a session that was dropped without close()."""
        self._is_abandoned = True
        self._stop_timers()
        if self.lessee is not None:
            self.lessee.stop()
        for slot in self.pool.slots():
            if slot.task is not None:
                slot.task.cancel()
            if slot.conn is not None:
                slot.conn.shut()
                slot.conn.abort()

    def leave_to_parent(self) -> object:
        """Mark everything as closed in a forked child, without touching shared sockets.

        Returns objects that must never be collected.
        """
        self.is_closed = self.is_parents = True
        self._stop_timers()
        slots = self.pool.slots()
        conns = [slot.conn for slot in slots if slot.conn is not None]
        states = [dict(conn.state) for conn in conns]
        if self._tracer is not None:
            # Not drop(), which calls the loop, and the loop may refuse calls in another thread.
            self._tracer.fall_silent()
        lease = None if self.lessee is None else self.lessee.leave_to_parent()
        held = (slots, conns, states, set(self.goodbyes), self._client.session, self._tracer, lease)
        for conn in conns:
            conn.leave_to_parent(self.closed_error)
            conn.slot.conn = None
        return held


def _call_expire(this: Callable[[], Lifecycle | None]) -> None:
    lifecycle = this()
    if lifecycle is not None:
        lifecycle._expire()


def _is_set_aside(slot: Slot) -> bool:
    """Whether a connection waits for the answer to a keep-alive, or for a check."""
    conn: Connection | None = slot.conn
    if slot.state != ACQUIRED or conn is None:
        return False
    # The release waits for the hook reset, for others nobody does.
    return conn.parked or (slot.task is not None and conn.settled is None)


def _end_held_back(slots: list[Slot], key: Hashable) -> None:
    """Take idle connections out that no waiter of a handshake may get now."""
    for slot in slots:
        conn: Connection | None = slot.conn
        if slot.state == IDLE and slot.key == key and conn is not None and conn.is_held_back():
            conn.end_held_back()


def fail_waiter(waiter: Waiter, error: BaseException) -> None:
    """Make a waiting caller raise ``error``."""
    caller: Any = waiter
    caller.error = error
    caller.wake()


def _fields_of_end(slot: Slot, close: tuple[int, str] | None) -> dict[str, Any]:
    """Return the fields of a log record, ``close`` being code and reason of the server's CLOSE."""
    code, reason = (None, "") if close is None else close
    return {
        "reason": CLOSE_REASONS[slot.reason],
        "uses": slot.uses,
        "close_code": code,
        "close_reason": reason,
        "detail": "" if close is None else f"; the server's CLOSE: {code} {reason}".rstrip(),
    }


def _error_of(
    slot: Slot, task: asyncio.Task[Failure | None], session_name: str | None
) -> BaseException | None:
    """Return the exception of a handshake; None: it has succeeded."""
    if task.cancelled():
        said = f"the handshake with {slot.endpoint} was cancelled"
        return WebSocketPoolError(in_session(session_name, said))
    error = task.exception()
    if error is not None:
        return error
    failure = task.result()
    return None if failure is None else failure.error


async def _until_gone(conns: list[Connection]) -> None:
    """Wait up to a second until the sockets of closing connections, if any, are closed.

    Then abort connections that were idle, and whose servers do not answer.
    """
    ends = {conn: conn.until_settled() for conn in conns}
    if not ends:
        return
    await asyncio.wait(ends.values(), timeout=_FREEING_GRACE)
    left = [conn for conn, end in ends.items() if not end.done() and conn.slot.crowded_out]
    for conn in left:
        conn.abort()
    if left:
        await asyncio.wait([ends[conn] for conn in left], timeout=ABORT_GRACE)


def _all_gone(conns: list[Connection], loop: asyncio.AbstractEventLoop) -> Completion:
    """Return a completion that ends when the sockets of closing connections are closed."""
    if not conns:
        return DONE
    gone: asyncio.Future[None] = loop.create_future()
    left = len(conns)

    def count_down(_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            gone.set_result(None)

    for conn in conns:
        conn.until_settled().add_done_callback(count_down)
    return Pending(gone)
