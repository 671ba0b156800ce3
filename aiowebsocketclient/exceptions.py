"""What the pool itself raises.

What aiohttp raises while connecting (``ClientConnectorError``, ``WSServerHandshakeError``, ...)
passes through as it is, so that a caller can always tell waiting for a place from failing to
connect.
"""

import asyncio
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
