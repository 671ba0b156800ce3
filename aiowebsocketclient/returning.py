"""The end of a use: release, close, detach, an exception in the block, a lost handle."""

import asyncio
import warnings
from contextvars import Context
from threading import get_ident
from typing import Final, Literal, Protocol

from ._aiohttp_private import get_running_loop
from ._compat import DONE, Express, Plan, Pool, Slot, clock, ensure_room, spend
from ._pool_py import ACQUIRED, CLOSING, Completion
from .connecting import Client, take_from_connector
from .connection import Connection, reason_after
from .exceptions import PoolClosedError, WebSocketPoolError, in_session
from .hooks import run_behind
from .leaks import LeakWatch, lines_of
from .logs import is_debugging
from .response import ClientWebSocketResponse, Pending
from .reuse import ReuseWatch
from .settings import Settings
from .tracing import Tracer

__all__ = ("Returning",)


#: In place of the result of ``Express.release``, a plan or None, if nothing was done yet: the
#: connection cannot be reused, or not yet; the session must be asked; or this is another thread.
UNRELEASED: Final = False


class Closing(Protocol):
    """The part of a lifecycle that :class:`Returning` needs."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    settings: Settings
    express: Express
    is_parents: bool
    reuse_watch: ReuseWatch | None

    def carry_out(self, plan: Plan | None) -> None:
        """Carry out a plan of the core."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def close_after_use(self, slot: Slot, reason: str) -> None:
        """Close a connection, after others that an unread CLOSE retires."""

    def closed_error(self) -> PoolClosedError:
        """Return the error of a call after the end of the session."""
        ...

    def discard(self, slot: Slot, reason: str) -> None:
        """Remove a connection that its user closes from the pool."""

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection if its hook succeeded; otherwise close it."""
        ...

    def log(self, slot: Slot, event: str) -> None:
        """Log an event of a connection."""

    def note_emptied(self) -> None:
        """Record that a connection has left the pool without being closed."""


class Returning:
    """Takes connections back from their users."""

    __slots__ = ("_client", "_leak_watch", "_lifecycle", "_tracer")

    def __init__(
        self,
        lifecycle: Closing,
        client: Client,
        tracer: Tracer | None,
        leak_watch: LeakWatch | None,
    ) -> None:
        self._lifecycle = lifecycle
        self._client = client
        self._tracer = tracer
        self._leak_watch = leak_watch

    def released(self, handle: ClientWebSocketResponse, plan: Plan | Literal[False]) -> Completion:
        """Finish a release: ``plan`` is the result of ``Express.release``, or ``UNRELEASED``."""
        slot = handle._slot
        assert slot is not None
        if plan is UNRELEASED:
            ensure_room()
            self._check_thread("release()", handle)
            self._end_use(slot)
            conn: Connection | None = slot.conn
            if conn is None or self._lifecycle.settings.force_close or not conn.clear():
                return self._release_unfit(handle)
            if conn.resets:
                return self._begin_reset(handle, conn)
            plan = self._lifecycle.express.release(handle)
        if plan is not UNRELEASED:
            self._lifecycle.carry_out(plan)
        # The pool closes it if it is too old, or if too many connections are idle.
        return slot.conn.completion() if slot.state == CLOSING and slot.conn else DONE

    def _end_use(self, slot: Slot) -> None:
        """Report the end of a use to the tracer and the leak watch, at least once."""
        if self._tracer is not None:
            self._tracer.released(slot)
        if self._leak_watch is not None:
            self._leak_watch.released(slot)

    def _release_unfit(self, handle: ClientWebSocketResponse) -> Completion:
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or slot.state == CLOSING:
            # The session was closed during the use.
            handle._cut_off()
            if conn is None:
                return DONE
            # The closing handshake would wait for a receive() that no longer reports its end.
            conn.wake_pending_receive()
            return conn.completion()
        reason = "forced" if conn.is_clean() else conn.why_unfit()
        handle._cut_off()
        conn.wake_pending_receive()
        self._lifecycle.close_after_use(slot, reason)
        return conn.completion()

    def _begin_reset(self, handle: ClientWebSocketResponse, conn: Connection) -> Completion:
        spend(handle)
        completion = Pending(conn.until_settled())
        run_behind(conn, "reset", self._finish_reset)
        return completion

    def _finish_reset(self, conn: Connection, task: asyncio.Task[bool]) -> None:
        if self._lifecycle.is_fit_after(conn, task):
            self._lifecycle.carry_out(self._lifecycle.pool.release(conn.slot, clock()))
            if not conn.closing:
                conn.settle()

    def fail(self, handle: ClientWebSocketResponse, kind: type[BaseException]) -> None:
        """Close a connection after an exception in its block, without waiting for the server."""
        ensure_room()
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if not self._lifecycle.loop.is_closed():
            # With a closed loop, the garbage collector may end the coroutine in any thread.
            self._check_thread("__aexit__()", handle)
            self._end_use(slot)
        handle._cut_off()
        if conn is None or self._lifecycle.loop.is_closed():
            return
        conn.give_up()
        if slot.state != CLOSING:
            self._lifecycle.close_after_use(slot, reason_after(kind))

    def detach(self, handle: ClientWebSocketResponse) -> None:
        """Hand a connection over to its user for good."""
        ensure_room()
        self._check_thread("detach()", handle)
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or slot.state == CLOSING:
            raise self._lifecycle.closed_error()
        if conn.state["_closed"] or conn.state["_closing"]:
            said = f"{handle!r} cannot be detached, because it is closed: release() it instead"
            raise WebSocketPoolError(in_session(self._lifecycle.settings.name, said))
        self._end_use(slot)
        if self._client.is_owned:
            take_from_connector(conn.ws)
        conn.let_go()
        slot.conn = None
        handle._owner = None
        handle._detached = True
        if self._tracer is not None:
            self._tracer.detached(slot)
        if self._lifecycle.reuse_watch is not None:
            self._lifecycle.reuse_watch.closed(slot)
        self._lifecycle.carry_out(self._lifecycle.pool.detach(slot, clock()))
        self._lifecycle.note_emptied()
        if is_debugging():
            self._lifecycle.log(slot, "detached")

    def begin_close(self, handle: ClientWebSocketResponse, code: int, message: bytes) -> None:
        """Remove a connection from the pool before its user closes it."""
        ensure_room()
        self._check_thread("close()", handle)
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or slot.state == CLOSING:
            return
        self._end_use(slot)
        reason = "lost" if conn.has_ended else "user"
        conn.forget_cancelled_receive()
        self._lifecycle.discard(slot, reason)
        conn.watch_closing()

    def release_instead(self, handle: ClientWebSocketResponse) -> Completion | None:
        """Release a connection whose user closes it, if it is fit for reuse.

        Returns None if it is not; then nothing has changed for its user.
        """
        ensure_room()
        self._check_thread("close()", handle)
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or self._lifecycle.settings.force_close or not conn.clear():
            return None
        # A subclass may have another release().
        completion = ClientWebSocketResponse.release(handle)
        handle._end_as_closed(conn.state)
        return completion

    def handle_lost(self, handle: ClientWebSocketResponse) -> None:
        """Close the connection of a handle that was collected unreleased, and warn."""
        slot = handle._slot
        assert slot is not None
        if slot.state != ACQUIRED or self._lifecycle.is_parents:
            # The session was closed during the use.
            return
        if not self._lifecycle.loop.is_closed():
            # The garbage collector may run in any thread, and in any context.
            self._lifecycle.loop.call_soon_threadsafe(self._reclaim, slot, context=Context())
        place = None if slot.conn is None else slot.conn.acquired_at
        where = "" if place is None else "\n  ".join(["\nAcquired at:", *lines_of(place)])
        said = f"{handle!r} was never released: its connection is closed{where}"
        warnings.warn(
            in_session(self._lifecycle.settings.name, said),
            ResourceWarning,
            source=handle,
            # The code that dropped the handle.
            stacklevel=3,
        )

    def _reclaim(self, slot: Slot) -> None:
        self._end_use(slot)
        if slot.conn is not None and slot.state != CLOSING:
            self._lifecycle.close_acquired(slot, "failed")

    def _check_thread(self, what: str, handle: ClientWebSocketResponse) -> None:
        """Raise if the call comes from another thread, or after the end of the loop.

        The loop may run in another thread than before, which is the thread of calls then.
        """
        slot = handle._slot
        assert slot is not None
        if slot.conn is None or slot.state == CLOSING:
            # The session was closed during the use: there is nothing to do.
            return
        if self._lifecycle.loop.is_closed():
            said = f"{what} was called after the event loop of the session was closed"
            raise RuntimeError(in_session(self._lifecycle.settings.name, said))
        if get_ident() == self._lifecycle.express.thread:
            return
        if self._lifecycle.loop.is_running() and get_running_loop() is not self._lifecycle.loop:
            said = (
                f"{what} was called in another thread than the session's event loop:"
                " use loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
            )
            raise RuntimeError(in_session(self._lifecycle.settings.name, said))
        self._lifecycle.express.thread = get_ident()
