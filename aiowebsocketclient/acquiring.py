"""A caller that waits for a connection: its check, its timeout, and what it gets instead."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, Final, Protocol

from ._compat import Caller, Express, Plan, Pool, Slot, Waiter, clock
from ._pool_py import ACQUIRED
from .connection import Connection, reason_after
from .exceptions import WebSocketPoolError
from .hooks import is_being_cancelled, run_hook
from .keys import Target
from .lifecycle import fail_waiter
from .refusals import Refusals
from .response import ClientWebSocketResponse
from .settings import Settings
from .tracing import Tracer

__all__ = ("Acquiring", "wait_traced")

# Checks in the background that run at once.
_MAX_CHECKING: Final = 50
# Seconds after which a check that its caller gives up has failed, if nothing has come meanwhile.
_SILENCE: Final = 0.1


class Closing(Protocol):
    """What :class:`Acquiring` needs of a lifecycle."""

    pool: Pool
    settings: Settings
    express: Express

    def carry_out(self, plan: Plan | None) -> None:
        """Do all that a plan says."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def close_unfit(self, slot: Slot) -> None:
        """Close a connection for the reason that it shows."""

    def heed_unread_close(self, slot: Slot) -> None:
        """Retire others because of a CLOSE that nobody has read."""

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection whose hook has succeeded, or close it."""
        ...


class Acquiring:
    """Sees to callers that found nothing idle, or whose connection has to be checked."""

    __slots__ = ("_checking", "_lifecycle", "_refusals", "_set_aside")

    def __init__(self, lifecycle: Closing) -> None:
        self._lifecycle = lifecycle
        self._refusals = Refusals(lifecycle.pool, lifecycle.settings)
        # Idle connections that wait for their check in the background, and how many are checked.
        self._set_aside: deque[Slot] = deque()
        self._checking = 0

    def refusal(self, target: Target, acquire_timeout: float | None) -> WebSocketPoolError:
        """Return what a caller gets who was not let into the line."""
        if acquire_timeout == 0:
            return self._refusals.at_once(target.key.endpoint)
        return self._refusals.too_many(target.key.endpoint)

    def raise_if_overdue(self, waiter: Waiter, acquire_timeout: float | None) -> None:
        """Let a caller go that may not stand at the head of its line again."""
        caller: Caller = waiter.token
        if acquire_timeout == 0:
            endpoint: Any = caller.route.endpoint
            caller.overdue = self._refusals.at_once(endpoint)
        if caller.overdue is not None:
            self._lifecycle.carry_out(self._lifecycle.pool.give_up(waiter, clock(), True))
            raise caller.overdue

    async def check(self, waiter: Waiter) -> None:
        """Check what a waiter was given, and the next where that fails, as long as there is one.

        Where there is none, the waiter stands at the head of its line again.
        """
        caller: Caller = waiter.token
        while (slot := waiter.slot) is not None and not slot.conn.fresh:
            if caller.overdue is not None:
                self._lifecycle.pool.give_up(waiter, clock(), True)
                raise caller.overdue
            reason = await self._fails_check(waiter, slot)
            if waiter.slot is slot:
                if reason is None:
                    return
                self._lifecycle.heed_unread_close(slot)
                # Who may not wait for a new one gets the next that has heard something since.
                self._set_aside_like(slot)
                self._lifecycle.close_acquired(slot, reason)

    async def _fails_check(self, waiter: Waiter, slot: Slot) -> str | None:
        conn: Connection = slot.conn
        begun = clock()
        deadline = asyncio.timeout(self._lifecycle.settings.hook_timeout)
        waiter.token.check_deadline = deadline
        try:
            await run_hook("check", self._lifecycle.express, conn, deadline)
        except Exception:
            if conn.closing:
                # The hook closes it by itself.
                conn.watch_closing()
            return "lost" if conn.has_ended else "failed"
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and not is_being_cancelled():
                return "failed"
            # A reply may be on its way, so it is not for the next one either.
            if waiter.slot is slot:
                self._lifecycle.pool.decline(waiter)
                if conn.heard < begun <= clock() - _SILENCE:
                    conn.is_silent = True
                    self._set_aside_like(slot)
                self._lifecycle.close_acquired(slot, reason_after(type(exc)))
            raise
        finally:
            waiter.token.check_deadline = None
            # It knows its task, which keeps the exception, whose traceback keeps this frame.
            del deadline
        return None if conn.clear() and not conn.is_held_back() else conn.why_unfit()

    def _set_aside_like(self, slot: Slot) -> None:
        """Let no caller try idle connections that may have ended as the one in ``slot`` has.

        These are the ones of its endpoint that have heard nothing since before that one last did:
        a firewall that forgot the one has most likely forgotten them, too.  They are checked in
        the background, so that a caller pays for one failed check and not for each.
        """
        failed: Connection = slot.conn
        for other in self._lifecycle.pool.idle_beside(slot):
            conn: Connection = other.conn
            if conn.hooks.check is not None and conn.heard <= failed.heard:
                self._lifecycle.pool.set_aside(other)
                self._set_aside.append(other)
        self._check_set_aside()

    def _check_set_aside(self) -> None:
        while self._set_aside and self._checking < _MAX_CHECKING:
            slot = self._set_aside.popleft()
            if slot.state == ACQUIRED and slot.conn is not None:
                self._checking += 1
                # In nobody's context: no caller asked for this check.
                slot.conn.run_behind("check", self._finish_check, Context())

    def _finish_check(self, conn: Connection, task: asyncio.Task[bool]) -> None:
        self._checking -= 1
        if self._lifecycle.is_fit_after(conn, task):
            plan = self._lifecycle.pool.put_back(conn.slot, clock())
            # A caller that it goes straight to need not check it a second time.
            conn.fresh = conn.slot.waiter is not None
            self._lifecycle.carry_out(plan)
        self._check_set_aside()

    def time_out(self, waiter: Waiter, acquire_timeout: float) -> None:
        """Let a caller go whose ``acquire_timeout`` has passed, once its check has ended."""
        error = self._refusals.timed_out(waiter, acquire_timeout)
        if waiter.queued:
            plan = self._lifecycle.pool.give_up(waiter, clock(), True)
            fail_waiter(waiter, error)
            self._lifecycle.carry_out(plan)
        else:
            waiter.may_wait = False
            waiter.token.overdue = error
            waiter.token.stop_check()

    def give_up(self, waiter: Waiter) -> None:
        """Undo a wait that ends without a connection: cancelled, or failed."""
        slot = self._lifecycle.pool.decline(waiter)
        if slot is None:
            self._lifecycle.carry_out(self._lifecycle.pool.give_up(waiter, clock(), False))
            return
        # It was given one all the same, which goes on to the next.
        conn: Connection = slot.conn
        if self._lifecycle.settings.force_close:
            self._lifecycle.close_acquired(slot, "forced")
        elif conn.park_cleared():
            conn.fresh = False
            self._lifecycle.carry_out(self._lifecycle.pool.release(slot, clock()))
        else:
            self._lifecycle.close_unfit(slot)


async def wait_traced(
    tracer: Tracer, lending: Express, owner: Any, target: Target, acquire_timeout: float | None
) -> ClientWebSocketResponse:
    """Wait for a connection, and tell how long that takes; ``owner`` is the session."""
    trace = tracer.waiting(target.key.endpoint)
    waiter = lending.line_up(owner, target, acquire_timeout)
    if waiter.slot is not None:
        handle: ClientWebSocketResponse
        handle = await lending.wait(owner, waiter, acquire_timeout)
        return handle
    tracer.queued_start(trace)
    try:
        handle = await lending.wait(owner, waiter, acquire_timeout)
    except BaseException as exc:
        tracer.queued_end(trace, exc)
        raise
    tracer.queued_end(trace)
    return handle
