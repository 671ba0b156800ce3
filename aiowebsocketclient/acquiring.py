"""Callers that wait for a connection: the check, the timeout, and the errors."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from ._compat import Caller, Express, Plan, Pool, Slot, clock
from ._pool_py import ACQUIRED
from .connection import Connection, reason_after
from .exceptions import WebSocketPoolError
from .hooks import is_being_cancelled, run_behind, run_hook
from .keys import Target
from .leaks import place_of_caller
from .lessee import Lessee
from .lifecycle import fail_waiter
from .refusals import Refusals
from .settings import Settings
from .tracing import Tracer

__all__ = ("Acquiring", "note_acquired", "take_idle", "wait")

# Maximum number of concurrent checks in the background.
_MAX_CHECKING: Final = 50
# Seconds without data after which a check that its caller abandons counts as failed.
_SILENCE: Final = 0.1


class Closing(Protocol):
    """The part of a lifecycle that :class:`Acquiring` needs."""

    pool: Pool
    settings: Settings
    express: Express
    lessee: Lessee | None

    def carry_out(self, plan: Plan | None) -> None:
        """Carry out a plan of the core."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def close_unfit(self, slot: Slot) -> None:
        """Close a connection that cannot be reused."""

    def heed_close(self, slot: Slot, code: int) -> None:
        """Retire other connections because of the code of a CLOSE."""

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection if its hook succeeded; otherwise close it."""
        ...


class Acquiring:
    """Serves callers that found no idle connection, or whose connection needs a check."""

    __slots__ = ("_checking", "_lifecycle", "_refusals", "_set_aside")

    def __init__(self, lifecycle: Closing) -> None:
        self._lifecycle = lifecycle
        lessee = lifecycle.lessee
        self._refusals = Refusals(
            lifecycle.pool, lifecycle.settings, None if lessee is None else lessee.situation
        )
        # Idle connections that wait for a check in the background, and the number being checked.
        self._set_aside: deque[Slot] = deque()
        self._checking = 0

    def refusal(self, target: Target, acquire_timeout: float | None) -> WebSocketPoolError:
        """Return the error of a caller that may not queue."""
        if acquire_timeout == 0:
            return self._refusals.at_once(target.key.endpoint)
        return self._refusals.too_many(target.key.endpoint)

    def raise_if_overdue(self, caller: Caller, acquire_timeout: float | None) -> None:
        """Raise if a caller may not queue again: its time is over, or it must not wait."""
        if acquire_timeout == 0:
            endpoint: Any = caller.route.endpoint
            caller.overdue = self._refusals.at_once(endpoint)
        if caller.overdue is not None:
            self._lifecycle.carry_out(self._lifecycle.pool.give_up(caller, clock(), True))
            raise caller.overdue

    async def check(self, caller: Caller) -> None:
        """Check the connection of a caller; if the check fails, try the next connection.

        If there is no other connection, the caller is at the head of its queue again.
        """
        while (slot := caller.slot) is not None and not slot.conn.fresh:
            if caller.overdue is not None:
                self._lifecycle.pool.give_up(caller, clock(), True)
                raise caller.overdue
            reason = await self._fails_check(caller, slot)
            if caller.slot is slot:
                if reason is None:
                    return
                # Before others are set aside: what was set aside is not retired.
                self._lifecycle.heed_close(slot, slot.conn.unread_close_code)
                # A caller that must not wait gets the next connection that has received data since.
                self._set_aside_like(slot)
                self._lifecycle.close_acquired(slot, reason)

    async def _fails_check(self, caller: Caller, slot: Slot) -> str | None:
        conn: Connection = slot.conn
        begun = clock()
        deadline = asyncio.timeout(self._lifecycle.settings.hook_timeout)
        caller.check_deadline = deadline
        try:
            await run_hook("check", self._lifecycle.express, conn, deadline)
        except Exception:
            if conn.closing:
                # The hook itself is closing it.
                conn.watch_closing()
            return "lost" if conn.has_ended else "failed"
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and not is_being_cancelled():
                return "failed"
            # A reply may be on the way, so the next caller cannot have it, either.
            if caller.slot is slot:
                self._lifecycle.pool.decline(caller)
                if conn.heard < begun <= clock() - _SILENCE:
                    conn.is_silent = True
                    self._set_aside_like(slot)
                self._lifecycle.close_acquired(slot, reason_after(type(exc)))
            raise
        finally:
            caller.check_deadline = None
            # It refers to its task, which keeps the exception, whose traceback keeps this frame.
            del deadline
        return None if conn.clear() and not conn.is_held_back() else conn.why_unfit()

    def _set_aside_like(self, slot: Slot) -> None:
        """Set aside idle connections that may have ended like the connection in ``slot``.

        These are connections to its endpoint that have received nothing since it last did: a
        firewall that dropped one of them has most likely dropped all.  They are checked in the
        background, so that a caller pays for one failed check and not for each.
        """
        failed: Connection = slot.conn
        for other in self._lifecycle.pool.idle_beside(slot):
            conn: Connection = other.conn
            if conn.hooks.check is not None and conn.heard <= failed.heard and not conn.busy:
                self._lifecycle.pool.set_aside(other)
                self._set_aside.append(other)
        self._check_set_aside()

    def _check_set_aside(self) -> None:
        while self._set_aside and self._checking < _MAX_CHECKING:
            slot = self._set_aside.popleft()
            if slot.state == ACQUIRED and slot.conn is not None:
                self._checking += 1
                # In an empty context: no caller has requested this check.
                run_behind(slot.conn, "check", self._finish_check, Context())

    def _finish_check(self, conn: Connection, task: asyncio.Task[bool]) -> None:
        self._checking -= 1
        if self._lifecycle.is_fit_after(conn, task):
            plan = self._lifecycle.pool.put_back(conn.slot, clock())
            # A caller that gets it directly need not check it again.
            conn.fresh = conn.slot.waiter is not None
            self._lifecycle.carry_out(plan)
        self._check_set_aside()

    def time_out(self, caller: Caller, acquire_timeout: float) -> None:
        """Fail a caller whose ``acquire_timeout`` has passed, after the end of its check."""
        error = self._refusals.timed_out(caller, acquire_timeout)
        if caller.queued:
            plan = self._lifecycle.pool.give_up(caller, clock(), True)
            fail_waiter(caller, error)
            self._lifecycle.carry_out(plan)
        else:
            caller.may_wait = False
            caller.overdue = error
            caller.stop_check()

    def give_up(self, caller: Caller) -> None:
        """End a wait without a connection, after a cancellation or a failure."""
        slot = self._lifecycle.pool.decline(caller)
        if slot is None:
            self._lifecycle.carry_out(self._lifecycle.pool.give_up(caller, clock(), False))
            return
        # It already had a connection, which goes to the next caller.
        conn: Connection = slot.conn
        if self._lifecycle.settings.force_close:
            self._lifecycle.close_acquired(slot, "forced")
        elif conn.park_cleared():
            conn.fresh = False
            self._lifecycle.carry_out(self._lifecycle.pool.put_back(slot, clock()))
        else:
            self._lifecycle.close_unfit(slot)


# -- for the session and for Balanced ------------------------------------------------------------


def take_idle(session: Any, target: Target) -> Any:
    """Return a handle on an idle connection that needs no check; None: there is none."""
    return None if target.is_checked else session._express.acquire(session, target)


async def wait(
    session: Any,
    target: Target,
    acquire_timeout: float | None,
    lined_up: Callable[[Caller], None] | None = None,
) -> Any:
    """Wait for a connection; ``lined_up`` is called with the caller, as the core knows it."""
    tracer: Tracer | None = session._tracer
    express: Express = session._express
    trace = None if tracer is None else tracer.waiting(target.key.endpoint)
    caller = express.line_up(session, target, acquire_timeout)
    if lined_up is not None:
        lined_up(caller)
    if tracer is None or trace is None or caller.slot is not None:
        return await express.wait(session, caller, acquire_timeout)
    tracer.queued_start(trace)
    try:
        handle = await express.wait(session, caller, acquire_timeout)
    except BaseException as exc:
        tracer.queued_end(trace, exc)
        raise
    tracer.queued_end(trace)
    return handle


def note_acquired(session: Any, ws: Any) -> None:
    """Tell the tracer and the leak watch that the running caller has got a connection."""
    slot: Slot = ws._slot
    if session._tracer is not None:
        session._tracer.acquired(slot, ws.reused)
    if session._debug or session._leak_watch is not None:
        place = slot.conn.acquired_at = place_of_caller()
        if session._leak_watch is not None:
            session._leak_watch.acquired(slot, place, session._loop)
