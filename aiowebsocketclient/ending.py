"""The end of a session: closes everything within ``close_timeout``."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from .connecting import Client
from .hooks import is_being_cancelled
from .lifecycle import ABORT_GRACE, Lifecycle
from .logs import log
from .tracing import Tracer

__all__ = ("Deadline", "Ending")


class Deadline:
    """The moment at which a session that is being closed stops waiting; it can come earlier."""

    __slots__ = ("_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._passed: asyncio.Future[None] = loop.create_future()
        self._timer = self._arm(seconds)

    def bring_forward(self, seconds: float) -> None:
        """Let it pass in so many seconds at the latest."""
        if self._timer.when() - self._loop.time() > seconds:
            self._timer.cancel()
            self._timer = self._arm(seconds)

    async def wait_for(self, *futures: asyncio.Future[Any]) -> None:
        """Wait for the first of these until the deadline, but for a few turns of the loop."""
        await asyncio.wait({*futures, self._passed}, return_when=asyncio.FIRST_COMPLETED)
        if not any(future.done() for future in futures):
            await asyncio.wait(futures, timeout=ABORT_GRACE, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Stop its timer."""
        self._timer.cancel()

    def _arm(self, seconds: float) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, self._pass, context=Context())

    def _pass(self) -> None:
        self._passed.set_result(None)


class Ending:
    """Closes what a lifecycle has opened, then the client session; once for each session."""

    def __init__(self, lifecycle: Lifecycle, client: Client, tracer: Tracer | None) -> None:
        self._lifecycle = lifecycle
        self._client = client
        self._tracer = tracer
        #: Closes the session; None: it has not begun to.
        self.task: asyncio.Task[None] | None = None
        self._deadline: Deadline | None = None
        self._is_finishing = False

    def begin(self, describe: Callable[[], str]) -> None:
        """Close everything, in a task; ``describe()`` is what is logged where something hangs."""
        self._deadline = Deadline(self._lifecycle.loop, self._lifecycle.settings.close_timeout)
        self._lifecycle.shut_down()
        self._run(self._finish(describe), describe)

    async def wait(self) -> None:
        """Wait until all is closed; cancelled, that goes on in the background."""
        if self._tracer is not None:
            self._tracer.closing()
        while (closing := self.task) is not None:
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                if is_being_cancelled() or not closing.cancelled():
                    raise
                # Not this caller was cancelled: the task was, which then has closed all the faster,
                # or had not begun, and another has.
            if self.task is closing:
                return

    def hasten(self) -> None:
        """Let the session be closed soon, by a close() that is under way already, too."""
        settings = self._lifecycle.settings
        settings.close_timeout = settings.hasty_timeout
        if self._deadline is not None:
            self._deadline.bring_forward(settings.close_timeout)

    async def close_client(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the client session of a session that was not used."""
        deadline = Deadline(loop, self._lifecycle.settings.close_timeout)
        try:
            await self._client.close(deadline.wait_for)
        finally:
            deadline.cancel()

    def leave_to_parent(self) -> None:
        """In a forked child, wait for nothing."""
        self.task = None

    def _run(self, steps: Coroutine[Any, Any, None], describe: Callable[[], str]) -> None:
        loop = self._lifecycle.loop

        def close_if_not_begun(task: asyncio.Task[None]) -> None:
            # Somebody has cancelled all the tasks there are.
            if task.cancelled() and not self._is_finishing and not loop.is_closed():
                self._run(self._abort_all(describe), describe)

        self.task = asyncio.Task(steps, loop=loop)
        self.task.add_done_callback(close_if_not_begun)

    async def _finish(self, describe: Callable[[], str]) -> None:
        emptied, deadline = self._lifecycle.emptied, self._deadline
        assert emptied is not None
        assert deadline is not None
        self._is_finishing = True
        try:
            # A connection is aborted by its own timer; what else may hang is a handshake that does
            # not let itself be cancelled, in a connect_limiter say.
            if not emptied.done():
                await deadline.wait_for(emptied)
        except asyncio.CancelledError:
            # Somebody has cancelled all the tasks there are. (Not so where the loop was left and
            # is gone: nothing can be asked of that any more.)
            await self._abort_all(describe)
            raise
        await self._abort_all(describe)

    async def _abort_all(self, describe: Callable[[], str]) -> None:
        emptied, deadline = self._lifecycle.emptied, self._deadline
        assert emptied is not None
        assert deadline is not None
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
                await self._client.close(deadline.wait_for)
                if self._tracer is not None:
                    await self._tracer.finish(deadline.wait_for)
            finally:
                # Cancelled, it leaves no timer behind that keeps the session.
                deadline.cancel()
                self._deadline = None
