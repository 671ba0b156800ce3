"""Who waits for ``connect_limiter``, and which handshakes are stopped for them."""

import math
from itertools import islice
from typing import Final

from ._compat import Slot
from ._pool_py import CLOSING, CONNECTING

__all__ = ("LimiterLine",)

# How many of those who wait are looked at, where more do.
_LOOKED_AT: Final = 100


class LimiterLine:
    """The handshakes of a session inside its ``connect_limiter``, and those that wait for it.

    A limiter that lets few handshakes run at once, such as a semaphore, is held by a handshake that
    hangs for as long as this runs.  A handshake that its caller has given up, or that is late, goes
    on for a while, since it may still serve; it is stopped where it keeps others from beginning.
    """

    __slots__ = ("_inside", "_waiting")

    def __init__(self) -> None:
        # Both in order of arrival.
        self._inside: dict[Slot, None] = {}
        self._waiting: dict[Slot, None] = {}

    def __bool__(self) -> bool:
        """Return whether a handshake waits."""
        return bool(self._waiting)

    def wait(self, slot: Slot) -> None:
        """Record that a handshake waits, unless it has begun by now."""
        if slot.state == CONNECTING and slot.began == math.inf:
            self._waiting[slot] = None

    def enter(self, slot: Slot) -> None:
        """Record that a handshake has begun."""
        self._waiting.pop(slot, None)
        self._inside[slot] = None

    def leave(self, slot: Slot) -> None:
        """Record that a handshake has left the limiter, or the line."""
        self._waiting.pop(slot, None)
        self._inside.pop(slot, None)

    def dispensable(self) -> list[Slot]:
        """Return handshakes to stop, at most one for each that waits on behalf of a caller.

        A handshake that is not late may yet serve callers of its own kind, so it is stopped for
        other callers alone.
        """
        callers = [slot for slot in islice(self._waiting, _LOOKED_AT) if slot.owner is not None]
        if not callers:
            return []
        wanted = len(callers) - sum(slot.state == CLOSING for slot in self._inside)
        candidates = (
            slot
            for slot in self._inside
            if slot.state == CONNECTING
            and slot.owner is None
            and slot.doubted
            and (slot.late or any(other.key != slot.key for other in callers))
        )
        return list(islice(candidates, max(0, wanted)))
