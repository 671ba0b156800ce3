"""Handshakes that wait for ``connect_limiter``, and handshakes to stop for them."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Final

from ._compat import Slot
from ._pool_py import CLOSING, CONNECTING

__all__ = ("LimiterLine",)

# Maximum number of waiting handshakes to look at.
_LOOKED_AT: Final = 100


class LimiterLine:
    """The handshakes of a session that wait for its ``connect_limiter``, or are inside it.

    A handshake that hangs keeps its place in the limiter, and a limiter such as a semaphore has few
    places.  A handshake that is late, or whose caller has given up, continues for a while, because
    it may still be useful; it is stopped if it keeps other handshakes from beginning.
    """

    __slots__ = ("_inside", "_waiting")

    def __init__(self) -> None:
        # Both in the order of arrival.
        self._inside: dict[Slot, None] = {}
        self._waiting: dict[Slot, None] = {}

    def wait(self, slot: Slot) -> None:
        """Record that a handshake waits, unless it has already begun."""
        if slot.state == CONNECTING and slot.began == math.inf:
            self._waiting[slot] = None

    def enter(self, slot: Slot) -> None:
        """Record that a handshake has begun."""
        self._waiting.pop(slot, None)
        self._inside[slot] = None

    def leave(self, slot: Slot) -> None:
        """Record that a handshake has left the limiter or the queue."""
        self._waiting.pop(slot, None)
        self._inside.pop(slot, None)

    def let_begin(self, stop: Callable[[Slot], None]) -> None:
        """Stop handshakes that keep handshakes of callers from beginning."""
        if self._waiting:
            for slot in self.dispensable():
                stop(slot)

    def dispensable(self) -> list[Slot]:
        """Return handshakes to stop, at most one per waiting handshake of a caller.

        A handshake that is not late may still serve callers with the same key, so it is only
        stopped for callers with other keys.
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
