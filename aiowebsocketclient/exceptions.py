"""What the pool itself raises.

What aiohttp raises while connecting (``ClientConnectorError``, ``WSServerHandshakeError``, ...)
passes through as it is, so that a caller can always tell waiting for a place from failing to
connect.
"""

import asyncio
import copy
from collections.abc import Sequence
from typing import Self

import aiohttp

__all__ = (
    "ConnectionReleasedError",
    "PoolClosedError",
    "PoolTimeoutError",
    "PrewarmError",
    "TooManyWaitersError",
    "WebSocketPoolError",
    "twin_of",
)


class WebSocketPoolError(aiohttp.ClientError):
    """The base of all errors of the pool."""


class PoolTimeoutError(WebSocketPoolError, asyncio.TimeoutError):
    """No connection could be had within ``acquire_timeout``, whatever the cause."""


class TooManyWaitersError(WebSocketPoolError):
    """``max_waiting`` callers are queued for the endpoint already."""


class PoolClosedError(WebSocketPoolError, RuntimeError):
    """The session is closed, or was closed while the caller waited."""


class ConnectionReleasedError(WebSocketPoolError, RuntimeError):
    """The response was used after its ``release()``: the connection may be another's by now."""


class PrewarmError(WebSocketPoolError, ExceptionGroup[Exception]):
    """Handshakes of ``prewarm()`` failed; ``exceptions`` has what each of them raised.

    As any group it can be taken apart by ``except*``; ``except aiohttp.ClientError`` catches it as
    a whole.
    """

    #: How many of its handshakes succeeded; these connections stay open.
    opened: int

    def __new__(cls, message: str, exceptions: Sequence[Exception], opened: int = 0) -> Self:
        """Make one of all that the handshakes raised."""
        self = super().__new__(cls, message, exceptions)
        self.opened = opened
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], opened: int = 0) -> None:
        super().__init__(message, exceptions)

    def derive(self, exceptions: Sequence[Exception]) -> "PrewarmError":  # type: ignore[override]
        """Return one of a part of what was raised; ``split()`` and ``except*`` ask for it."""
        return PrewarmError(self.message, exceptions, self.opened)

    def __repr__(self) -> str:
        """Return the message and the kinds of errors; what aiohttp's say may be secret."""
        kinds = ", ".join(type(error).__name__ for error in self.exceptions)
        return f"{type(self).__name__}({self.message!r}, [{kinds}])"


def twin_of(error: BaseException) -> BaseException:
    """Return an equal exception for another who fails with the same.

    Who raises an exception adds frames to it, and with these the locals of the caller; one object
    for two would show, and keep alive, the one caller's to the other.
    """
    try:
        twin = copy.copy(error)
        if type(twin) is not type(error) or twin is error:
            raise TypeError
    except Exception:
        twin = _made_like(error)
    twin.__traceback__ = None
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    notes = getattr(error, "__notes__", None)
    if notes is not None:
        twin.__notes__ = list(notes)
    return twin


def _made_like(error: BaseException) -> BaseException:
    """Return a twin of one that cannot be copied, as its constructor wants other arguments."""
    cls = type(error)
    try:
        twin = cls.__new__(cls, *error.args)
        twin.args = error.args
        twin.__dict__.update(error.__dict__)
    except Exception:
        return WebSocketPoolError(f"a handshake failed: {cls.__name__}")
    return twin
