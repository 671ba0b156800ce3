"""Reports events one after another, soon after them, where nothing may wait for that.

:class:`Outbox` knows no events, only how to report them; ``tracing.py`` says what they are.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple

from .logs import log

__all__ = ("Outbox", "State")

# Maximum number of pending events, of about 500 bytes each.
_MAX_PENDING: Final = 10_000

# Identifies the event whose handler runs. Tasks started by a handler inherit it: the handler may be
# waiting for a task that calls close().
_reported: ContextVar[object] = ContextVar("aiowebsocketclient.reported", default=None)


class State(Enum):
    """What an outbox is doing."""

    #: No event is pending, and no handler runs.
    EMPTY = "empty"
    #: Events are reported; the end of the session waits for them.
    REPORTING = "reporting"
    #: The same, but a handler waits for the end of the session, which does not wait for events.
    LEFT = "left"


class _Event(NamedTuple):
    report: Callable[[], Coroutine[Any, Any, None]]
    context: Context


class Outbox:
    """Events that are pending, and the task that reports the first of them.

    ``EMPTY -> REPORTING -> EMPTY``, as often as there are events.  A handler that closes the
    session makes it ``LEFT``, now and each time that there are events again.
    """

    __slots__ = (
        "_has_dropped",
        "_is_closed_by_handler",
        "_loop",
        "_pending",
        "_session_name",
        "_task",
        "_token",
        "_unwaited",
        "state",
    )

    def __init__(self, session_name: str | None) -> None:
        self._session_name = session_name
        self.state = State.EMPTY
        self._pending: deque[_Event] = deque()
        self._has_dropped = False
        self._is_closed_by_handler = False
        self._task: asyncio.Task[None] | None = None
        #: Identifies the event that is being reported.
        self._token: object = None
        # Set with the first event.
        self._loop: asyncio.AbstractEventLoop
        #: Done once REPORTING ends.
        self._unwaited: asyncio.Future[None]

    def bookmark(self) -> int:
        """Return the place of the next event, to put another event there later."""
        return len(self._pending)

    def put(
        self,
        report: Callable[[], Coroutine[Any, Any, None]],
        context: Context,
        loop: asyncio.AbstractEventLoop,
        bookmark: int | None = None,
    ) -> None:
        """Have ``report()`` run after what is pending, or at a bookmark; drop it if all is full."""
        if len(self._pending) >= _MAX_PENDING:
            if not self._has_dropped:
                # Deferred: the session may be in the middle of a plan of the core.
                loop.call_soon(partial(log, "trace_dropped", session_name=self._session_name))
            self._has_dropped = True
            return
        place = len(self._pending) if bookmark is None else bookmark
        self._pending.insert(place, _Event(report, context))
        if self.state is State.EMPTY:
            self._loop = loop
            self._unwaited = loop.create_future()
            self.state = State.REPORTING
            if self._is_closed_by_handler:
                self._leave()
            # Deferred: the core may be running.
            loop.call_soon(self._report_next, context=Context())

    def note_close(self) -> None:
        """Record that the session is being closed, maybe by a handler that waits for the end."""
        is_handler = self._token is not None and _reported.get() is self._token
        if self.state is State.REPORTING and is_handler:
            self._is_closed_by_handler = True
            self._leave()

    async def flush(self, wait_for: Callable[..., Awaitable[object]]) -> None:
        """Wait until all events are reported, as long as ``wait_for`` does; then drop the rest.

        Does not wait for a handler that waits for this call: the rest is reported after it.
        """
        self.note_close()
        if self.state is not State.REPORTING:
            return
        # If this wait is cancelled, as at the end of a program, the rest is reported nevertheless.
        await wait_for(self._unwaited)
        if not self._is_closed_by_handler:
            self.drop()

    def drop(self) -> None:
        """Drop all pending events, and stop the handler that runs."""
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()

    def _leave(self) -> None:
        self.state = State.LEFT
        self._unwaited.set_result(None)

    def _report_next(self, _ended: asyncio.Task[None] | None = None) -> None:
        self._task = self._token = None
        if not self._pending:
            self._has_dropped = False
            if self.state is State.REPORTING:
                self._unwaited.set_result(None)
            self.state = State.EMPTY
            return
        event = self._pending.popleft()
        self._token = object()
        # One task per event, because a task has only one context; a copy, because connections are
        # also opened in the contexts of their callers.
        steps = _run(event.report, self._token)
        self._task = asyncio.Task(steps, loop=self._loop, context=event.context.copy())
        self._task.add_done_callback(self._report_next, context=Context())


async def _run(report: Callable[[], Coroutine[Any, Any, None]], token: object) -> None:
    _reported.set(token)
    await report()
