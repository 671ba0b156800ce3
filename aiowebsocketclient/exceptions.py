"""What the pool itself raises.

What aiohttp raises while connecting (``ClientConnectorError``, ``WSServerHandshakeError``, ...)
passes through as it is, so that a caller can always tell waiting for a place from failing to
connect.
"""

import asyncio
import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from .keys import EndpointKey

__all__ = (
    "AcquireError",
    "ConnectionReleasedError",
    "HandshakeFailure",
    "PoolClosedError",
    "PoolTimeoutError",
    "PrewarmError",
    "TooManyWaitersError",
    "WebSocketPoolError",
    "in_session",
    "status_of",
    "twin_of",
)


class WebSocketPoolError(aiohttp.ClientError):
    """The base of all errors of the pool."""


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """What is known of a handshake that failed.

    It is not the exception: that has the URL and the headers in its text, and keeps alive the
    frames that it went through.
    """

    #: The name of the exception's class, such as ``"WSServerHandshakeError"``.
    error: str
    #: The HTTP status of a server that refused it.
    status: int | None
    #: The ``errno`` of the operating system.
    errno: int | None
    #: When it failed, in seconds since the epoch (``time.time()``).
    time: float

    @classmethod
    def of(cls, error: BaseException) -> "HandshakeFailure":
        """Make one of an exception, now."""
        return cls(type(error).__name__, status_of(error), _errno_of(error), time.time())

    def __str__(self) -> str:
        """Return the class of the exception, and the status or the text of the ``errno``."""
        if self.status is not None:
            return f"{self.error}, status {self.status}"
        return self.error if self.errno is None else f"{self.error}, {os.strerror(self.errno)}"


def in_session(name: str | None, text: str) -> str:
    """Return the text of an error, after the name of the session where it has one."""
    return text if name is None else f"session {name!r}: {text}"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which a server refused a handshake."""
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    return status if isinstance(status, int) else None


def _errno_of(error: BaseException) -> int | None:
    errno: Any = error.errno if isinstance(error, OSError) else None
    # That of a resolver is negative, and has another text.
    return errno if isinstance(errno, int) and errno > 0 else None


class AcquireError(WebSocketPoolError):
    """A caller got no connection: the base of the two errors below, which say why.

    The numbers are those of the endpoint when the error was made, as in :class:`PoolStats`; a
    caller that waited for a place is one of the ``waiting``.  They are None, and ``waited_for`` is
    empty, in an error that was not raised by a session.
    """

    #: The ``name`` of the session; None: it has none.
    session_name: str | None = None
    #: The endpoint of the call: an :class:`EndpointKey`.
    endpoint: "EndpointKey | None" = None
    #: What the caller waited for, or would have had to wait for: a place at one of the limits
    #: (``"limit"``, ``"limit_total"``, ``"max_connecting"``), its own handshake, which was under
    #: way (``"handshake"``), or the health check of the connection it was given (``"check"``).
    waited_for: str = ""
    #: The limits of the session; None: no limit.
    limit: int | None = None
    limit_total: int | None = None
    max_connecting: int | None = None
    #: Connections in use, idle and closing, handshakes under way, callers queued for a place.
    acquired: int | None = None
    idle: int | None = None
    closing: int | None = None
    connecting: int | None = None
    waiting: int | None = None
    #: Seconds since the oldest handshake under way began, those in ``connect_limiter`` among them.
    oldest_handshake: float | None = None
    #: What the last handshake with the endpoint that failed has failed with; None where none has
    #: since the endpoint last had nothing alive.
    last_failure: HandshakeFailure | None = None


class PoolTimeoutError(AcquireError, asyncio.TimeoutError):
    """No connection could be had within ``acquire_timeout``, whatever the cause."""


class TooManyWaitersError(AcquireError):
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
