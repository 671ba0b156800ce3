"""The end of a session: waits for users, if asked to, then closes all within ``close_timeout``."""

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from ._pool_py import GAUGES
from .connecting import Client
from .hooks import is_being_cancelled
from .lifecycle import ABORT_GRACE, Lifecycle
from .logs import log
from .tracing import Tracer

__all__ = ("Deadline", "Ending")

_GAUGE_OF_USED: Final = GAUGES.index("acquired")


class Deadline:
    """The time at which a closing session stops waiting; it can be brought forward."""

    __slots__ = ("_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._passed: asyncio.Future[None] = loop.create_future()
        self._timer = self._arm(seconds)

    def bring_forward(self, seconds: float) -> None:
        """Let the deadline pass in at most ``seconds`` from now."""
        if self._timer.when() - self._loop.time() > seconds:
            self._timer.cancel()
            self._timer = self._arm(seconds)

    async def wait_for(self, *futures: asyncio.Future[Any]) -> None:
        """Wait until one of ``futures`` is done, or a few turns of the loop past the deadline."""
        await asyncio.wait({*futures, self._passed}, return_when=asyncio.FIRST_COMPLETED)
        if not any(future.done() for future in futures):
            await asyncio.wait(futures, timeout=ABORT_GRACE, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _arm(self, seconds: float) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, self._pass, context=Context())

    def _pass(self) -> None:
        self._passed.set_result(None)


class Ending:
    """Closes the connections of a lifecycle, then the client session; once for each session."""

    def __init__(self, lifecycle: Lifecycle, client: Client, tracer: Tracer | None) -> None:
        self._lifecycle = lifecycle
        self._client = client
        self._tracer = tracer
        #: The task that closes the session; None: closing has not begun.
        self.task: asyncio.Task[None] | None = None
        # Until when connections in use are waited for; None: they are not.
        self._patience: Deadline | None = None
        # Until when closing handshakes are waited for; None: not all have begun.
        self._deadline: Deadline | None = None
        self._is_finishing = False

    def begin(self, describe: Callable[[], str], wait: float = 0.0) -> None:
        """Close everything in a task; ``describe()`` names the session in the log.

        Connections in use get ``wait`` seconds to be released.
        """
        if wait:
            self._patience = Deadline(self._lifecycle.loop, wait)
            self._lifecycle.shut_down(spares_used=True)
        else:
            self._close_used()
        self._run(self._finish(describe, wait), describe)

    def shorten(self, wait: float) -> None:
        """Wait at most ``wait`` seconds more for connections in use."""
        if self._patience is not None:
            self._patience.bring_forward(wait)

    async def wait(self) -> None:
        """Wait until everything is closed; if cancelled, closing continues in the background."""
        if self._tracer is not None:
            self._tracer.outbox.note_close()
        while (closing := self.task) is not None:
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                if is_being_cancelled() or not closing.cancelled():
                    raise
                # The task was cancelled, not this caller. It has closed everything at once, or it
                # had not begun, and another task has replaced it.
            if self.task is closing:
                return

    def hasten(self) -> None:
        """Shorten the time for closing, also for a close() that is under way."""
        settings = self._lifecycle.settings
        settings.close_timeout = settings.hasty_timeout
        if self._deadline is not None:
            self._deadline.bring_forward(settings.close_timeout)

    async def close_client(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the client session of a session that was never used."""
        deadline = Deadline(loop, self._lifecycle.settings.close_timeout)
        try:
            await self._client.close(deadline.wait_for)
        finally:
            deadline.cancel()

    def abandon(self, session: object, loop: asyncio.AbstractEventLoop) -> None:
        """Abort the connections of a session that was dropped without close(), and warn."""
        if self._client.session is not None and self._client.is_owned:
            # It would warn a second time.
            self._client.session.detach()
        if not loop.is_closed():
            # The garbage collector may run in any thread.
            loop.call_soon_threadsafe(self._lifecycle.abandon)
        try:
            # As if __del__() had warned.
            warnings.warn(f"Unclosed {session!r}", ResourceWarning, source=session, stacklevel=3)
            if not loop.is_closed():
                context = {"session": session, "message": "Unclosed WebSocketClientSession"}
                loop.call_exception_handler(context)
        finally:
            # Only now: the repr must not call the session closed.
            self._lifecycle.is_closed = True

    def leave_to_parent(self) -> None:
        """Wait for nothing, in a forked child."""
        self.task = None

    def _run(self, steps: Coroutine[Any, Any, None], describe: Callable[[], str]) -> None:
        loop = self._lifecycle.loop

        def close_if_not_begun(task: asyncio.Task[None]) -> None:
            # The program has cancelled all tasks.
            if task.cancelled() and not self._is_finishing and not loop.is_closed():
                self._run(self._abort_all(describe), describe)

        self.task = asyncio.Task(steps, loop=loop)
        self.task.add_done_callback(close_if_not_begun)

    def _close_used(self) -> Deadline:
        """Close connections in use, too; return the deadline of all closing handshakes."""
        if self._deadline is None:
            self._deadline = Deadline(self._lifecycle.loop, self._lifecycle.settings.close_timeout)
            self._lifecycle.shut_down()
        return self._deadline

    async def _wait_for_users(self, emptied: asyncio.Future[None], wait: float) -> None:
        if self._patience is None:
            return
        try:
            if not emptied.done():
                await self._patience.wait_for(emptied)
        finally:
            self._patience.cancel()
            self._patience = None
        used = self._lifecycle.pool.gauges()[_GAUGE_OF_USED]
        if used:
            name = self._lifecycle.settings.name
            log("still_in_use", session_name=name, connections=used, seconds=wait)

    async def _finish(self, describe: Callable[[], str], wait: float) -> None:
        emptied = self._lifecycle.emptied
        assert emptied is not None
        self._is_finishing = True
        try:
            await self._wait_for_users(emptied, wait)
            deadline = self._close_used()
            # Connections have their own timers. Only a handshake may hang, if it ignores its
            # cancellation, in a connect_limiter for example.
            if not emptied.done():
                await deadline.wait_for(emptied)
        except asyncio.CancelledError:
            # The program has cancelled all tasks. (GeneratorExit is different: the loop is gone.)
            await self._abort_all(describe)
            raise
        await self._abort_all(describe)

    async def _abort_all(self, describe: Callable[[], str]) -> None:
        emptied, deadline = self._lifecycle.emptied, self._close_used()
        assert emptied is not None
        self._is_finishing = True
        self._lifecycle.abort_all()
        try:
            if not emptied.done():
                await asyncio.wait({emptied}, timeout=ABORT_GRACE)
            if not emptied.done():
                name = self._lifecycle.settings.name
                log("not_cancellable", session_name=name, session=describe())
        finally:
            try:
                await self._leave_fleet(deadline)
            finally:
                await self._close_others(deadline)

    async def _leave_fleet(self, deadline: Deadline) -> None:
        """Give the places back, now that the sockets are closed; leave no task behind."""
        lessee = self._lifecycle.lessee
        if lessee is None:
            return
        leaving = asyncio.ensure_future(lessee.leave())
        try:
            await deadline.wait_for(leaving)
        finally:
            leaving.cancel()
            # It may not have begun.
            lessee.stop()

    async def _close_others(self, deadline: Deadline) -> None:
        try:
            await self._client.close(deadline.wait_for)
            if self._tracer is not None:
                await self._tracer.outbox.flush(deadline.wait_for)
        finally:
            # Even if cancelled: the timer would keep the session alive.
            deadline.cancel()
            self._deadline = None
