"""The end of a run."""

import math
from time import monotonic
from typing import Final


class Until:
    """A point in time.

    :param seconds: from now on; ``math.inf``: there is no end.
    """

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; less than 0 afterwards."""
        return self._end - monotonic()

    def allows(self, seconds: float) -> bool:
        """Return whether something that takes so long ends in time."""
        return seconds < self.left()

    def but(self, seconds: float) -> "Until":
        """Return a point in time that is earlier."""
        return Until(self.left() - seconds)


ENDLESS: Final = Until(math.inf)
