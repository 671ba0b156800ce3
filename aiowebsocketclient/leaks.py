"""Remembers where connections were acquired, and logs those that are in use for too long.

Such a connection is most likely forgotten by code that still refers to it, or by code that waits
for a message that never comes.
"""

import asyncio
import os
import sys
import sysconfig
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType, FrameType
from typing import Final

from ._compat import Slot, clock
from .logs import log

__all__ = ("LeakWatch", "Place", "lines_of", "place_of_caller")

#: Code and line of each frame of a stack, innermost last.  Unlike frames, they keep no locals
#: alive, and they cost little until they are shown.
Place = list[tuple[CodeType, int]]

# Frames further out than this are of little use.
_MAX_FRAMES: Final = 32

_OURS: Final = os.path.dirname(__file__) + os.sep
# Prefixes of files in the standard library and in installed packages, and of importlib's code.
_INSTALLED: Final = (
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    os.path.dirname(os.__file__) + os.sep,
    "<frozen ",
)
# Frames of a loop, and below it, are not part of the call.
_LOOPS: Final = {
    module.__file__ for module in (asyncio.base_events, asyncio.events, asyncio.runners)
}


def place_of_caller() -> Place:
    """Return the stack of the code that called the package; empty in the package's own tasks."""
    place: Place = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(place) < _MAX_FRAMES:
        code = frame.f_code
        if code.co_filename in _LOOPS:
            break
        if not code.co_filename.startswith(_OURS):
            place.append((code, frame.f_lineno))
        frame = frame.f_back
    place.reverse()
    return place


def lines_of(place: Place) -> list[str]:
    """Return ``file:line in function`` for each frame of the program.

    Leaves out frames of the standard library and of installed packages, such as web frameworks,
    unless there are no others: the program itself may be installed.
    """
    own = [(code, line) for code, line in place if not code.co_filename.startswith(_INSTALLED)]
    lines = [f"{code.co_filename}:{line} in {code.co_qualname}" for code, line in own or place]
    return lines or ["a separate task"]


class LeakWatch:
    """Logs each connection that is in use for longer than ``threshold`` seconds, once.

    Logs in the context of the caller that acquired the connection.  One timer is enough, because
    the connection that was acquired first is overdue first.  The timer does not keep the watch
    alive.
    """

    __slots__ = ("__weakref__", "_held", "_session_name", "_threshold", "_timer")

    def __init__(self, threshold: float, session_name: str | None) -> None:
        self._threshold = threshold
        self._session_name = session_name
        # Connections not logged yet, with time, place and context of their acquisition; oldest
        # first.
        self._held: dict[Slot, tuple[float, Place, Context]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def acquired(self, slot: Slot, place: Place, loop: asyncio.AbstractEventLoop) -> None:
        """Record that a caller acquired the connection in ``slot``."""
        self._held[slot] = (clock(), place, copy_context())
        if self._timer is None:
            self._arm(self._threshold, loop)

    def released(self, slot: Slot) -> None:
        """Record that the connection was released; repeated calls change nothing."""
        self._held.pop(slot, None)

    def stop(self) -> None:
        """Stop logging."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, delay: float, loop: asyncio.AbstractEventLoop) -> None:
        # In an empty context: the timer outlives the caller that arms it.
        self._timer = loop.call_later(delay, _call_look, weakref.ref(self), loop, context=Context())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = clock()
        overdue: list[tuple[Slot, float, Place, Context]] = []
        for slot, (since, place, context) in self._held.items():
            if since + self._threshold > now:
                self._arm(since + self._threshold - now, loop)
                break
            overdue.append((slot, now - since, place, context))
        for slot, *_ in overdue:
            del self._held[slot]
        for slot, seconds, place, context in overdue:
            context.run(self._log, slot, seconds, place)

    def _log(self, slot: Slot, seconds: float, place: Place) -> None:
        lines = lines_of(place)
        log(
            "leak",
            session_name=self._session_name,
            endpoint=str(slot.endpoint),
            seconds=seconds,
            acquired_at=lines,
            detail="".join(f"\n  {line}" for line in lines),
        )


def _call_look(this: Callable[[], LeakWatch | None], loop: asyncio.AbstractEventLoop) -> None:
    watch = this()
    if watch is not None:
        watch._look(loop)
