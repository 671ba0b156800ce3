"""Handshakes that wait for ``connect_limiter``, and handshakes to stop for them."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Final

from ._compat import Slot, clock
from ._pool_py import CLOSING, CONNECTING, LATE_FLOOR

__all__ = ("LimiterLine",)

# Maximum number of handshakes to look at, inside the limiter and waiting for it.
_LOOKED_AT: Final = 100
# A handshake may take so many times as long as the longest one with its key.
_LONGER: Final = 2
# Number of keys whose longest handshake is remembered.
_MAX_KEYS: Final = 1_024


class LimiterLine:
    """The handshakes of a session that wait for its ``connect_limiter``, or are inside it.

    A handshake that hangs keeps its place in the limiter, and a limiter such as a semaphore has few
    places.  A handshake that is late, or whose caller has given up, continues for a while, because
    it may still be useful; it is stopped if it keeps other handshakes from beginning.
    """

    __slots__ = ("_inside", "_took", "_waiting")

    def __init__(self) -> None:
        # Both in the order of arrival.
        self._inside: dict[Slot, None] = {}
        self._waiting: dict[Slot, None] = {}
        # Seconds that the longest successful handshake took, by the hash of its key.
        self._took: dict[int, float] = {}

    def wait(self, slot: Slot) -> None:
        """Record that a handshake waits, unless it has already begun."""
        if slot.state == CONNECTING and slot.began == math.inf:
            self._waiting[slot] = None

    def enter(self, slot: Slot) -> None:
        """Record that a handshake has begun."""
        self._waiting.pop(slot, None)
        self._inside[slot] = None

    def succeed(self, slot: Slot) -> None:
        """Record that a handshake has succeeded, and has left the limiter."""
        key = hash(slot.key)
        self._took[key] = max(clock() - slot.began, self._took.pop(key, 0.0))
        if len(self._took) > _MAX_KEYS:
            del self._took[next(iter(self._took))]
        self.leave(slot)

    def leave(self, slot: Slot) -> None:
        """Record that a handshake has left the limiter or the queue."""
        self._waiting.pop(slot, None)
        self._inside.pop(slot, None)

    def let_begin(self, stop: Callable[[Slot], None]) -> None:
        """Stop handshakes that keep handshakes of callers from beginning."""
        if self._waiting:
            for slot in self._dispensable():
                stop(slot)

    def _dispensable(self) -> list[Slot]:
        """Return handshakes to stop, at most one per waiting handshake of a caller.

        If handshakes with a key have succeeded, the others with this key may take twice as long as
        the longest of them, and half a second.  If none has succeeded yet, the oldest goes on, so
        that a slow server comes to a connection, and the rest are stopped for other keys.
        """
        callers = [slot for slot in islice(self._waiting, _LOOKED_AT) if slot.owner is not None]
        if not callers:
            return []
        now = clock()
        found: list[Slot] = []
        spared: set[int] = set()
        inside = list(islice(self._inside, _LOOKED_AT))
        left = len(callers) - sum(slot.state == CLOSING for slot in inside)
        for slot in inside:
            if len(found) >= left:
                break
            if slot.state == CLOSING:
                continue
            key = hash(slot.key)
            took = self._took.get(key)
            if took is not None:
                may_stop = now - slot.began > max(LATE_FLOOR, _LONGER * took)
            else:
                may_stop = key in spared and any(caller.key != slot.key for caller in callers)
                spared.add(key)
            if may_stop and slot.owner is None and not slot.kept:
                found.append(slot)
        return found
