"""Remembers where connections were acquired, and tells of those that are held for too long.

What is held for long has most likely been forgotten by somebody who still refers to it, or waits
for something that never comes.
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

#: The code and the line of each frame of a stack, the innermost last; unlike frames, these keep
#: nothing else alive, and cost little until they are shown.
Place = list[tuple[CodeType, int]]

# What lies farther out than so many frames tells nobody more.
_MAX_FRAMES: Final = 32

_OURS: Final = os.path.dirname(__file__) + os.sep
# Where the standard library and installed packages are, and what importlib calls itself.
_INSTALLED: Final = (
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    os.path.dirname(os.__file__) + os.sep,
    "<frozen ",
)
# Below a loop nobody called us.
_LOOPS: Final = {
    module.__file__ for module in (asyncio.base_events, asyncio.events, asyncio.runners)
}


def place_of_caller() -> Place:
    """Return where the package was called; empty, if by a task of its own."""
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
    """Return ``file:line in function`` for each frame of the program's own.

    Frames of the standard library and of installed packages, such as web frameworks, are left out,
    unless there are no others: a program may be installed itself.
    """
    own = [(code, line) for code, line in place if not code.co_filename.startswith(_INSTALLED)]
    lines = [f"{code.co_filename}:{line} in {code.co_qualname}" for code, line in own or place]
    return lines or ["a task of its own"]


class LeakWatch:
    """Logs each connection that is held for longer than ``threshold`` seconds, once.

    It is logged in the context of who acquired it.

    It has one timer, as the one that was acquired first is overdue first.  The timer does not keep
    it alive.
    """

    __slots__ = ("__weakref__", "_held", "_session_name", "_threshold", "_timer")

    def __init__(self, threshold: float, session_name: str | None) -> None:
        self._threshold = threshold
        self._session_name = session_name
        # Those not yet told of, with the time of their acquisition, in this order, and where and
        # for whom that was.
        self._held: dict[Slot, tuple[float, Place, Context]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def acquired(self, slot: Slot, place: Place, loop: asyncio.AbstractEventLoop) -> None:
        """Take it that somebody holds the connection in ``slot`` from now on."""
        self._held[slot] = (clock(), place, copy_context())
        if self._timer is None:
            self._arm(self._threshold, loop)

    def released(self, slot: Slot) -> None:
        """Take it that it is held no more; it may be said more than once."""
        self._held.pop(slot, None)

    def stop(self) -> None:
        """Tell nothing more."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, delay: float, loop: asyncio.AbstractEventLoop) -> None:
        # In nobody's context: it outlives whoever arms it.
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
        log(
            "leak",
            session_name=self._session_name,
            endpoint=str(slot.endpoint),
            seconds=seconds,
            acquired_at=lines_of(place),
        )


def _call_look(this: Callable[[], LeakWatch | None], loop: asyncio.AbstractEventLoop) -> None:
    watch = this()
    if watch is not None:
        watch._look(loop)
