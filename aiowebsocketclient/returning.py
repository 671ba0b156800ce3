"""The end of a use: release, an exception that leaves the block, close, detach, a lost handle."""

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
from .leaks import LeakWatch, lines_of
from .logs import is_debugging
from .response import ClientWebSocketResponse, Pending
from .reuse import ReuseWatch
from .settings import Settings
from .tracing import Tracer

__all__ = ("Returning",)


#: What ``Express.release`` returns where it has done nothing: the connection is not fit for another
#: use, or not yet; somebody watches its releases; or this is another thread.  Otherwise it returns
#: what is left to be done, a plan or None.
UNRELEASED: Final = False


class Closing(Protocol):
    """What :class:`Returning` needs of a lifecycle."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    settings: Settings
    express: Express
    is_parents: bool
    reuse_watch: ReuseWatch | None

    def carry_out(self, plan: Plan | None) -> None:
        """Do all that a plan says."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def closed_error(self) -> PoolClosedError:
        """Return what a call gets that comes too late."""
        ...

    def discard(self, slot: Slot, reason: str) -> None:
        """Take a connection out of the pool that its user closes."""

    def heed_unread_close(self, slot: Slot) -> None:
        """Retire others because of a CLOSE that nobody has read."""

    def is_fit_after(self, conn: Connection, task: asyncio.Task[bool]) -> bool:
        """Park a connection whose hook has succeeded, or close it."""
        ...

    def log(self, slot: Slot, event: str) -> None:
        """Log an event of a connection."""


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
        """Finish a release: ``plan`` is what ``Express.release`` has left to be done."""
        slot = handle._slot
        assert slot is not None
        if plan is UNRELEASED:
            ensure_room()
            has_moved = self._check_thread("release()", handle)
            self._end_use(slot)
            if has_moved:
                plan = self._lifecycle.express.release(handle)
        if plan is UNRELEASED:
            conn: Connection | None = slot.conn
            if conn is None or self._lifecycle.settings.force_close or not conn.clear():
                return self._release_unfit(handle)
            if conn.resets:
                return self._begin_reset(handle, conn)
            plan = self._lifecycle.express.release(handle)
        if plan is not UNRELEASED:
            self._lifecycle.carry_out(plan)
        # Too old, or one too many.
        return slot.conn.completion() if slot.state == CLOSING and slot.conn else DONE

    def _end_use(self, slot: Slot) -> None:
        """Tell those who watch that nobody uses a connection any more; at least once for each."""
        if self._tracer is not None:
            self._tracer.released(slot)
        if self._leak_watch is not None:
            self._leak_watch.released(slot)

    def _release_unfit(self, handle: ClientWebSocketResponse) -> Completion:
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or slot.state == CLOSING:
            # The session was closed under it.
            handle._cut_off()
            if conn is None:
                return DONE
            # Its closing handshake would wait for a receive() that no longer tells it of its end.
            conn.wake_pending_receive()
            return conn.completion()
        reason = "forced" if conn.is_clean() else conn.why_unfit()
        self._lifecycle.heed_unread_close(slot)
        handle._cut_off()
        conn.wake_pending_receive()
        self._lifecycle.close_acquired(slot, reason)
        return conn.completion()

    def _begin_reset(self, handle: ClientWebSocketResponse, conn: Connection) -> Completion:
        spend(handle, {})
        completion = Pending(conn.until_settled())
        conn.run_behind("reset", self._finish_reset)
        return completion

    def _finish_reset(self, conn: Connection, task: asyncio.Task[bool]) -> None:
        if self._lifecycle.is_fit_after(conn, task):
            self._lifecycle.carry_out(self._lifecycle.pool.release(conn.slot, clock()))
            if not conn.closing:
                conn.settle()

    def fail(self, handle: ClientWebSocketResponse, kind: type[BaseException]) -> None:
        """Close a connection whose block was left by an exception; nobody waits for the server."""
        ensure_room()
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if not self._lifecycle.loop.is_closed():
            # The garbage collector may end a coroutine in any thread; its handle is lost then.
            self._check_thread("__aexit__()", handle)
            self._end_use(slot)
        handle._cut_off()
        if conn is None or self._lifecycle.loop.is_closed():
            return
        conn.give_up()
        if slot.state != CLOSING:
            self._lifecycle.close_acquired(slot, reason_after(kind))

    def detach(self, handle: ClientWebSocketResponse) -> None:
        """Leave a connection to its user for good."""
        ensure_room()
        self._check_thread("detach()", handle)
        slot = handle._slot
        assert slot is not None
        conn: Connection | None = slot.conn
        if conn is None or slot.state == CLOSING:
            raise self._lifecycle.closed_error()
        if conn.state["_closed"] or conn.state["_closing"]:
            said = f"{handle!r} is closed: release() it instead"
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
        if is_debugging():
            self._lifecycle.log(slot, "detached")

    def begin_close(self, handle: ClientWebSocketResponse) -> None:
        """Take a connection out of the pool that its user is about to close."""
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

    def handle_lost(self, handle: ClientWebSocketResponse) -> None:
        """Get back what a handle held that was collected unreleased; called by its finalizer."""
        slot = handle._slot
        assert slot is not None
        if slot.state != ACQUIRED or self._lifecycle.is_parents:
            # The session was closed under it.
            return
        if not self._lifecycle.loop.is_closed():
            # The garbage collector may run in any thread, and in anybody's context.
            self._lifecycle.loop.call_soon_threadsafe(self._reclaim, slot, context=Context())
        place = None if slot.conn is None else slot.conn.acquired_at
        where = "" if place is None else "\n  ".join(["\nAcquired at:", *lines_of(place)])
        said = f"{handle!r} was never released: its connection is closed{where}"
        warnings.warn(
            in_session(self._lifecycle.settings.name, said),
            ResourceWarning,
            source=handle,
            # Of whoever has dropped it.
            stacklevel=3,
        )

    def _reclaim(self, slot: Slot) -> None:
        self._end_use(slot)
        if slot.conn is not None and slot.state != CLOSING:
            self._lifecycle.close_acquired(slot, "failed")

    def _check_thread(self, what: str, handle: ClientWebSocketResponse) -> bool:
        """Refuse what cannot be done from here, before anything is.

        Returns whether the loop has gone on in another thread than before.
        """
        slot = handle._slot
        assert slot is not None
        if slot.conn is None or slot.state == CLOSING:
            # The session was closed under it: nothing will be done.
            return False
        if self._lifecycle.loop.is_closed():
            said = f"{what} came too late: the event loop of the session is closed"
            raise RuntimeError(in_session(self._lifecycle.settings.name, said))
        if get_ident() == self._lifecycle.express.thread:
            return False
        if self._lifecycle.loop.is_running() and get_running_loop() is not self._lifecycle.loop:
            said = (
                f"{what} was called in another thread than that of the session's event loop:"
                " use loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
            )
            raise RuntimeError(in_session(self._lifecycle.settings.name, said))
        self._lifecycle.express.thread = get_ident()
        return True
