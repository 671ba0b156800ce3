"""A stand-in for ``aiohttp.ClientSession``, for libraries that open WebSockets with one.

Such a library calls ``session.ws_connect()`` and later ``ws.close()``, and may make HTTP requests.
:class:`PooledClientSession` takes its WebSockets from a pool, and everything else from the client
session of the pool.
"""

import sys
from collections.abc import Generator, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Self, Unpack

import aiohttp
from aiohttp import WSCloseCode
from aiohttp.typedefs import StrOrURL

from ._compat import UNSET
from ._pool_py import Completion
from .exceptions import PoolClosedError, in_session
from .response import ClientWebSocketResponse, Owner
from .session import WebSocketClientSession
from .typedefs import Acquisition, WS_co, WSConnectOptions

__all__ = ("PooledClientSession",)

_WRAP: Final = ": pass WebSocketClientSession(client_session=...), which connects with it"

if TYPE_CHECKING:
    # Type checkers take it for the class that libraries ask for.  At run time it is no subclass:
    # aiohttp warns of subclasses, and the constructor would make a connector.
    _ClientSession = aiohttp.ClientSession
else:

    class _ClientSession:
        __slots__ = ()


class PooledClientSession(_ClientSession, Generic[WS_co]):
    """A stand-in for ``aiohttp.ClientSession`` whose WebSockets come from a pool.

    Pass it to a library that takes an ``aiohttp.ClientSession``::

        pool = WebSocketClientSession(limit=8)
        http = PooledClientSession(pool)
        client = Library(session=http)

    :meth:`ws_connect` acquires a connection of ``session``, within its limits and with its hooks
    and traces.  All other attributes (``get()``, ``post()``, ``headers``, ``cookie_jar``) are those
    of ``session.client_session``.

    A connection that the library closes is closed, and ``async with`` on a connection ends with
    ``close()``, as in aiohttp.

    :param session: the pool.
    :param release_on_close: let ``ws.close()`` and the clean end of ``async with`` release a
        connection that is fit for reuse.  See below.
    :param session_owner: whether :meth:`close` closes ``session``.

    With ``release_on_close=True``, the next call of :meth:`ws_connect` with the same handshake gets
    the open connection, as its last user left it.  Use it only if you know that

    * the library expects no message that the server sends once, after the handshake, such as a
      greeting or a challenge: it would wait for ever;
    * the library closes a connection only when all messages for it have arrived.  If it closes a
      connection in the middle of a stream, **the next user receives the rest of the stream.**

    The pool only notices messages that have arrived: a connection is closed if a message, or the
    beginning of one, is unread when the library closes it, and if one arrives while it is idle.
    ``reset=check_ping()`` also notices messages that the server sent before it answers a PING;
    nobody waits for that.

    ``ws.close()`` still closes the connection if its code is not 1000 or it has a message, while an
    exception is being handled (as in ``finally``), if another task is in ``receive()``, if the last
    ``receive()`` was cancelled or timed out (unless ``ws.mark_clean()`` was called), after an error
    of the connection, and if the server has closed it.  In both cases, ``ws`` behaves afterwards
    like aiohttp's response after ``close()``.

    ``isinstance(http, aiohttp.ClientSession)`` is False, although type checkers accept the stand-in
    where a library asks for that class.  Attributes cannot be set.
    """

    __slots__ = ("__weakref__", "_borrower", "_is_closed", "_is_owner", "_pool")

    def __init__(
        self,
        session: WebSocketClientSession[WS_co],
        *,
        release_on_close: bool = False,
        session_owner: bool = True,
    ) -> None:
        if not isinstance(session, WebSocketClientSession):
            raise TypeError(
                f"session must be a WebSocketClientSession, not {type(session).__name__}"
                f"{_WRAP if isinstance(session, aiohttp.ClientSession) else ''}"
            )
        if session.closed:
            raise session._lifecycle.closed_error()
        self._pool = session
        self._borrower = _Borrower(session, bool(release_on_close))
        self._is_owner = bool(session_owner)
        self._is_closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` or :meth:`detach` was called, or the pool is closed."""
        return self._is_closed or self._pool.closed

    def ws_connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        url: StrOrURL,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> Acquisition[WS_co]:
        """Acquire a connection, as :meth:`WebSocketClientSession.ws_connect` does.

        It has the options of :meth:`aiohttp.ClientSession.ws_connect` and those of the pool, and
        the same errors.  Await the result, or use it with ``async with``, whose end closes the
        connection.
        """
        if self._is_closed:
            said = f"{type(self).__name__} is closed: make another one for the same session"
            raise PoolClosedError(in_session(self._pool.name, said))
        acquisition = self._pool.ws_connect(
            url, reuse_key=reuse_key, acquire_timeout=acquire_timeout, **options
        )
        return _Borrowing(acquisition, self._borrower)

    def detach(self) -> None:
        """Close the stand-in, and leave the pool open."""
        self._is_closed = True

    async def close(self) -> None:
        """Close the stand-in, and the pool if ``session_owner`` is True.

        Otherwise the connections of the library stay open until it closes them.
        """
        is_owner = self._is_owner and not self._is_closed
        self._is_closed = True
        if is_owner:
            await self._pool.close()

    async def __aenter__(self) -> Self:
        """Return the stand-in."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close the stand-in, and the pool as its own ``async with`` does if it owns the pool."""
        is_owner = self._is_owner and not self._is_closed
        self._is_closed = True
        if is_owner:
            await self._pool.__aexit__(exc_type, exc_val, exc_tb)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python looks for some methods that objects may have, such as __deepcopy__.
            if name.startswith("__") or name in PooledClientSession.__slots__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._pool.client_session, name)

    def __reduce__(self) -> NoReturn:
        """Raise: a stand-in cannot be copied or pickled, because its session cannot."""
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: its connections are open"
        )

    def __repr__(self) -> str:
        """Return the class, and the session with its current numbers."""
        state = "closed " if self._is_closed else ""
        release_on_close = self._borrower.releases
        return f"<{type(self).__name__} {state}{release_on_close=} {self._pool!r}>"


class _Borrower:
    """The owner of the handles that a library gets, in place of the session."""

    __slots__ = ("_session", "releases")

    _closes_at_exit = True

    def __init__(self, session: WebSocketClientSession[Any], releases: bool) -> None:
        self._session = session
        #: Whether ``close()`` releases a connection that is fit for reuse.
        self.releases = releases

    def _released(self, handle: ClientWebSocketResponse, plan: Any) -> Completion:
        return self._session._released(handle, plan)

    def _handle_lost(self, handle: ClientWebSocketResponse) -> None:
        self._session._handle_lost(handle)

    def _begin_close(
        self, handle: ClientWebSocketResponse, code: int, message: bytes
    ) -> Completion | None:
        # An exception that is being handled, as in a ``finally`` block of the library, may have
        # come between a request and its reply.
        if self.releases and code == WSCloseCode.OK and not message and sys.exception() is None:
            completion = self._session._returning.release_instead(handle)
            if completion is not None:
                return completion
        self._session._begin_close(handle, code, message)
        return None

    def _detach(self, handle: ClientWebSocketResponse) -> None:
        self._session._detach(handle)

    def _fail(self, handle: ClientWebSocketResponse, kind: type[BaseException]) -> None:
        self._session._fail(handle, kind)


class _Borrowing(Acquisition[WS_co]):
    """What ``ws_connect()`` of a stand-in returns: an acquisition for a :class:`_Borrower`."""

    __slots__ = ("_acquisition", "_borrower", "_steps", "_ws")

    def __init__(self, acquisition: Acquisition[WS_co], borrower: _Borrower) -> None:
        self._acquisition = acquisition
        self._borrower = borrower
        self._steps: Generator[Any, Any, WS_co] | None = None

    @property
    def __name__(self) -> str:
        # For the repr of tasks.
        return "ws_connect"

    def __await__(self) -> Generator[Any, Any, WS_co]:
        ws = yield from self._acquisition.__await__()
        ws._owner = self._borrower
        self._ws = ws
        return ws

    def send(self, value: Any) -> Any:
        """Run one step, for ``asyncio.Task``."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any:
        """Throw an exception in, for ``asyncio.Task`` on cancellation."""
        # Thrown into steps that have not begun, it would not reach the acquisition.
        steps: Any = self._acquisition if self._steps is None else self._steps
        try:
            return steps.throw(typ if val is None else val)
        finally:
            # The exception propagates, and its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """Stop the acquisition."""
        if self._steps is not None:
            self._steps.close()
        self._acquisition.close()

    async def __aenter__(self) -> WS_co:
        """Acquire a connection."""
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close the connection; after an exception, in the background."""
        await self._ws.__aexit__(exc_type, exc_val, exc_tb)


if TYPE_CHECKING:

    def _is_owner(borrower: _Borrower) -> Owner:
        return borrower
