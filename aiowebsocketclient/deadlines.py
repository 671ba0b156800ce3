"""Bounds the time of a step, and says with an error of the pool's that it took too long."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ("Bound",)


class Bound:
    """So many seconds for what runs inside ``deadline``; then ``error(seconds)`` is raised.

    ::

        bound = Bound(seconds, error)
        with bound:
            async with bound.deadline:
                ...

    Afterwards it keeps nothing alive: a deadline of asyncio's knows its task, which keeps the
    exception, whose traceback keeps the frames that know the deadline.
    """

    __slots__ = ("_error", "_seconds", "deadline")

    def __init__(self, seconds: float | None, error: Callable[[float], BaseException]) -> None:
        self.deadline = asyncio.timeout(seconds)
        self._seconds = seconds
        self._error = error

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Raise the error where the deadline has passed."""
        deadline = self.deadline
        del self.deadline
        try:
            seconds = self._seconds
            if seconds is not None and isinstance(exc_val, TimeoutError) and deadline.expired():
                # That keeps the frame of asyncio's timeout, which knows the task.
                exc_val.__traceback__ = None
                raise self._error(seconds) from None
        finally:
            # What is raised has this frame.
            del deadline, exc_val, exc_tb
