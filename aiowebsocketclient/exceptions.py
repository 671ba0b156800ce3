"""Exceptions of the pool.

Exceptions that aiohttp raises while connecting (``ClientConnectorError``,
``WSServerHandshakeError``, ...) reach the caller unchanged.  So a caller can always distinguish
waiting for a place from failing to connect.
"""

import asyncio
import copy
import os
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

if TYPE_CHECKING:
    from .keys import EndpointKey

__all__ = (
    "AcquireError",
    "ConnectionReleasedError",
    "FleetUnavailableError",
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


# Classes whose errno is not one of the operating system.
_OTHER_NUMBERS: Final = (
    ssl.SSLError,
    socket.gaierror,
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorDNSError,
)
# The largest number that os.strerror() takes.
_LARGEST_INT: Final = 0x7FFFFFFF


class WebSocketPoolError(aiohttp.ClientError):
    """Base class of all exceptions of the pool."""


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """Summary of a failed handshake.

    It does not contain the exception, whose text has the URL and headers, and whose traceback keeps
    frames alive.
    """

    #: Name of the exception class, such as ``"WSServerHandshakeError"``.
    error: str
    #: HTTP status with which the server or a proxy refused the handshake; or None.
    status: int | None
    #: ``errno`` of the operating system; or None.
    errno: int | None
    #: Time of the failure, in seconds since the epoch (``time.time()``).
    time: float

    @classmethod
    def of(cls, error: BaseException) -> "HandshakeFailure":
        """Return the summary of an exception that was raised now."""
        return cls(type(error).__name__, status_of(error), _errno_of(error), time.time())

    def __str__(self) -> str:
        """Return the exception class, with the HTTP status or the text of the ``errno``."""
        if self.status is not None:
            return f"{self.error}, status {self.status}"
        return self.error if self.errno is None else f"{self.error}, {os.strerror(self.errno)}"


def in_session(name: str | None, text: str) -> str:
    """Return the text of an error, after the name of the session if it has one."""
    return text if name is None else f"session {name!r}: {text}"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which a server or a proxy refused a handshake, or None."""
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    # Without a status, as after too many redirects, aiohttp says 0.
    return status if isinstance(status, int) and status > 0 else None


def _errno_of(error: BaseException) -> int | None:
    if not isinstance(error, OSError) or isinstance(error, _OTHER_NUMBERS):
        return None
    errno: Any = error.errno
    return errno if isinstance(errno, int) and 0 < errno <= _LARGEST_INT else None


class AcquireError(WebSocketPoolError):
    """A caller got no connection: base class of ``PoolTimeoutError`` and ``TooManyWaitersError``.

    The numbers describe the endpoint when the error was raised, as in :class:`PoolStats`;
    ``waiting`` includes a caller that waited for a place.  In an error that was not raised by a
    session they are None, and ``waited_for`` is empty.
    """

    #: The ``name`` of the session, or None.
    session_name: str | None = None
    #: The endpoint of the call: an :class:`EndpointKey`.
    endpoint: "EndpointKey | None" = None
    #: What the caller waited for, or would have waited for: a place within one of the limits
    #: (``"limit"``, ``"limit_total"``, ``"max_connecting"``, ``"fleet"``), its own handshake
    #: (``"handshake"``), a released connection that was expected sooner than a handshake would end
    #: (``"release"``), or the health check of the connection that it got (``"check"``).
    waited_for: str = ""
    #: Limits of the session; None: no limit.
    limit: int | None = None
    limit_total: int | None = None
    max_connecting: int | None = None
    #: Connections in use, idle and closing, handshakes under way, and callers queued for a
    #: place or a release.
    acquired: int | None = None
    idle: int | None = None
    closing: int | None = None
    connecting: int | None = None
    waiting: int | None = None
    #: Seconds since the oldest handshake under way began, including time in ``connect_limiter``.
    oldest_handshake: float | None = None
    #: The last failed handshake with the endpoint; None if none has failed since the endpoint last
    #: had no connection, handshake or waiting caller.
    last_failure: HandshakeFailure | None = None


class PoolTimeoutError(AcquireError, asyncio.TimeoutError):
    """The caller got no connection within ``acquire_timeout``."""


class FleetUnavailableError(PoolTimeoutError):
    """The session could not reach its fleet for a whole lease, so it may open no connection.

    The caller gets it at once if no connection with its URL and options is open either.  Only the
    attributes ``session_name``, ``endpoint`` and ``waited_for`` have values.  See ``fleet=`` of
    :class:`WebSocketClientSession`.
    """


class TooManyWaitersError(AcquireError):
    """``max_waiting`` callers are already queued for the endpoint."""


class PoolClosedError(WebSocketPoolError, RuntimeError):
    """The session is closed, or was closed while the caller waited."""


class ConnectionReleasedError(WebSocketPoolError, RuntimeError):
    """The response was used after ``release()``: another caller may have the connection."""


class PrewarmError(WebSocketPoolError, ExceptionGroup[Exception]):
    """Handshakes of ``prewarm()`` failed; ``exceptions`` has the exception of each of them.

    ``except*`` splits it like any exception group; ``except aiohttp.ClientError`` catches the whole
    group.
    """

    #: Number of handshakes of the call that succeeded; these connections stay open.
    opened: int

    def __new__(cls, message: str, exceptions: Sequence[Exception], opened: int = 0) -> Self:
        """Create the group from the exceptions of the handshakes."""
        self = super().__new__(cls, message, exceptions)
        self.opened = opened
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], opened: int = 0) -> None:
        super().__init__(message, exceptions)

    def derive(self, exceptions: Sequence[Exception]) -> "PrewarmError":  # type: ignore[override]
        """Return a group with some of the exceptions, for ``split()`` and ``except*``."""
        return PrewarmError(self.message, exceptions, self.opened)

    def __repr__(self) -> str:
        """Return the message and the exception classes; the texts may contain secrets."""
        kinds = ", ".join(type(error).__name__ for error in self.exceptions)
        return f"{type(self).__name__}({self.message!r}, [{kinds}])"


def twin_of(error: BaseException) -> BaseException:
    """Return an equal exception, for another caller that fails for the same reason.

    Raising an exception adds frames to it, and with them the locals of the caller.  A shared object
    would expose the locals of one caller to the other, and keep them alive.
    """
    for make in (copy.copy, _made_like):
        # A class may refuse any of this: its constructor, its arguments, its attributes.
        with suppress(Exception):
            twin = make(error)
            if type(twin) is type(error) and twin is not error:
                return _with_causes_of(error, twin)
    said = f"a handshake failed: {HandshakeFailure.of(error)}"
    return _with_causes_of(error, WebSocketPoolError(said))


def _made_like(error: BaseException) -> BaseException:
    """Return a twin of an exception that cannot be copied because of its constructor."""
    cls = type(error)
    twin = cls.__new__(cls, *error.args)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    return twin


def _with_causes_of(error: BaseException, twin: BaseException) -> BaseException:
    twin.__traceback__ = None
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    notes = getattr(error, "__notes__", None)
    if notes is not None:
        twin.__notes__ = list(notes)
    return twin
