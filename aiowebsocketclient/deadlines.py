"""Limits the time of a step, with an error of the pool when the time is over."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ("Bound",)


class Bound:
    """Limits the block inside ``deadline`` to some seconds, then raises ``error(seconds)``.

    ::

        bound = Bound(seconds, error)
        with bound:
            async with bound.deadline:
                ...

    Afterwards it keeps nothing alive.  (A timeout of asyncio refers to its task, which keeps the
    exception, whose traceback keeps the frames that refer to the timeout.)
    """

    __slots__ = ("_error", "_seconds", "deadline")

    def __init__(self, seconds: float | None, error: Callable[[float], BaseException]) -> None:
        self.deadline = asyncio.timeout(seconds)
        self._seconds = seconds
        self._error = error

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Raise the error if the deadline has passed."""
        deadline = self.deadline
        del self.deadline
        try:
            seconds = self._seconds
            if seconds is not None and isinstance(exc_val, TimeoutError) and deadline.expired():
                # The traceback keeps the frame of asyncio's timeout, which refers to the task.
                exc_val.__traceback__ = None
                raise self._error(seconds) from None
        finally:
            # The traceback of the exception has this frame.
            del deadline, exc_val, exc_tb
