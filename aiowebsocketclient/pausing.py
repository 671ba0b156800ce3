"""Pauses between attempts to connect to a server that fails."""

import random
from typing import Final

__all__ = ("Pauses",)

# The longest pause after the first failure; each further failure doubles it. The actual pause is
# random, from 0 to the longest, so that the clients of a restarted server do not all come at once.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0


class Pauses:
    """Counts failures in a row, and says when the next attempt may begin."""

    __slots__ = ("failed_at", "failing_since", "failures", "not_before")

    def __init__(self) -> None:
        self.failures = 0
        self.failing_since = 0.0
        self.failed_at = self.not_before = float("-inf")

    def failed(self, begun: float, now: float) -> float | None:
        """Record the failure of an attempt; return the pause.

        Of attempts that began together, only one failure counts; None for the others.
        """
        if begun < self.failed_at:
            return None
        if not self.failures:
            self.failing_since = now
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        pause = longest * random.random()
        self.failures += 1
        self.failed_at = now
        self.not_before = now + pause
        return pause

    def ended(self, begun: float) -> int:
        """Record that an attempt succeeded; return the failures that this ends.

        An attempt that began before the last failure ends nothing.
        """
        if begun < self.failed_at:
            return 0
        failures, self.failures = self.failures, 0
        return failures
