"""What ``ws_connect`` returns: aiohttp's response, which can be given back.

aiohttp makes one response for a connection; that one is never handed out.  Each acquisition gets a
handle of its own, an object of the same class that borrows the instance dictionary of aiohttp's:
what aiohttp's methods find and change through ``self`` is the connection's.  On release the handle
is left with a dictionary of its own, an empty one, so that every look-up of what belongs to the
connection ends at the class, where :class:`_Spent` raises.
"""

import asyncio
import sys
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from ._compat import DONE, Handle, spend
from ._pool_py import Completion
from .exceptions import ConnectionReleasedError, WebSocketPoolError, in_session

__all__ = ("CLOSE", "CONNECTION", "USUAL", "ClientWebSocketResponse", "Pending")


class Pending(Completion):
    """What ``release()`` returns for a connection that is being closed, or reset, and ``drain()``.

    It is a coroutine to asyncio, so that ``gather``, ``wait_for`` and ``create_task`` take it: one
    that can be the coroutine of several tasks.
    """

    __slots__ = ("_future", "_steps")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._steps: dict[asyncio.Task[Any] | None, Generator[Any, Any, None]] = {}

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the connection is pooled or closed, or all of them are."""
        if not self._future.done():
            # Not the future itself: who is cancelled here must not cancel it for all the others.
            yield from asyncio.shield(self._future).__await__()

    def send(self, value: Any) -> Any:
        """Step it, as ``asyncio.Task`` does."""
        return self._step("send", value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any:
        """Throw into it, as ``asyncio.Task`` does on cancellation."""
        try:
            return self._step("throw", typ if val is None else val)
        finally:
            # It comes out again, and its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """Stop waiting."""
        steps = self._steps.pop(self._task(), None)
        if steps is not None:
            steps.close()

    def _task(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task(self._future.get_loop())

    def _step(self, how: str, argument: Any) -> Any:
        task = self._task()
        # Not left there while it runs: once it has ended, or failed, another begins anew.
        steps = self._steps.pop(task, None) or self.__await__()
        try:
            yielded = getattr(steps, how)(argument)
            self._steps[task] = steps
        finally:
            # The traceback of what it raises has this frame, and the task has what it raises.
            del task, steps, argument
        return yielded


#: Where the dictionary of a pooled connection's attributes holds the connection itself.
CONNECTION: Final = "_aiowebsocketclient_connection"
#: Where it holds code and reason of the server's CLOSE once the connection is gone.
CLOSE: Final = "_aiowebsocketclient_close"


# What aiohttp raises on a connection that has ended.
_ENDS: Final = (aiohttp.ClientError, aiohttp.WSMessageTypeError, ConnectionError)


class _Spent:
    """Stands at the class for what a handle finds in its connection's dictionary.

    Not a data descriptor: an instance that has the name finds its own.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        said = f"{instance!r} was used after its release(): acquire another with ws_connect()"
        raise ConnectionReleasedError(_in_session_of(instance, said))


def _in_session_of(handle: Any, text: str) -> str:
    """Return the text of an error about a handle, after the name of its session."""
    express = handle._express
    return text if express is None else in_session(express.session_name, text)


class _CloseCode:
    """Stands at the class for the close code, and hears of each ``receive()`` that is given up.

    aiohttp then sets 1006 on a connection that is open, and leaves it there whatever is received
    later.  It hears of each CLOSE that is received, too.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        # What a spent handle may be asked tells nothing of the connection.
        return self if instance is None else instance.__dict__.get("_close_code")

    def __set__(self, instance: Any, code: int | None) -> None:
        state = instance.__dict__
        state["_close_code"] = code
        connection = state.get(CONNECTION)
        if connection is None:
            return
        # The reason of a CLOSE is in the message only, which aiohttp keeps in a local variable. To
        # look there costs nothing where a message is received.
        message = sys._getframe(1).f_locals.get("msg")
        if getattr(message, "type", None) is WSMsgType.CLOSE:
            connection.note_close(message)
        elif code == WSCloseCode.ABNORMAL_CLOSURE and not (
            state.get("_closed") or state.get("_closing")
        ):
            connection.note_given_up_read()


class ClientWebSocketResponse(Handle, aiohttp.ClientWebSocketResponse):
    """One acquisition of a pooled WebSocket connection.

    Everything of :class:`aiohttp.ClientWebSocketResponse` is there and behaves the same, until
    :meth:`release`.  Handles of one connection are equal and have the same hash, but each is good
    for one acquisition only: once released it is spent.  ``send_*()``, ``receive*()``, ``ping()``
    and ``pong()`` then raise :exc:`ConnectionReleasedError`, :attr:`closed` is True, and
    :meth:`release` and :meth:`close` change nothing, whoever uses the connection by then.

    Attributes belong to the connection, not to the handle: what one user sets, the next one finds,
    and on a spent handle there are none (``AttributeError``).  In a subclass, ``__init__`` runs
    once for each connection, on the object that aiohttp made.  Do not keep that ``self``: it is not
    the handle.  Do not store a handle, or a method of one, in an attribute: lost, it would never be
    collected.  A subclass must be without ``__slots__``: they would belong to one handle only.
    """

    _writer: Any = _Spent()
    _reader: Any = _Spent()
    _response: Any = _Spent()
    _timeout: Any = _Spent()
    _waiting: Any = _Spent()
    _closed: Any = _Spent()
    _close_code: Any = _CloseCode()
    # What may be asked of a spent handle tells nothing of the connection.
    _conn: Any = None
    _exception: Any = None
    _protocol: Any = None
    # The same, and most of what a connection's dictionary would take up in memory.
    _client_notakeover: Any = False
    _close_wait: Any = None
    _compress: Any = 0
    _heartbeat: Any = None
    _heartbeat_cb: Any = None
    _heartbeat_reset_handle: Any = None
    _need_heartbeat_reset: Any = False
    _ping_task: Any = None
    _pong_response_cb: Any = None
    # Of a connection that is its user's, once detach() has been called.
    _detached: bool = False

    def __repr__(self) -> str:
        """Return the class and the endpoint."""
        slot = self._slot
        where = "unpooled" if slot is None else str(slot.endpoint)
        return f"<{type(self).__name__}({where})>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            f"a {type(self).__name__} can be neither copied nor pickled: it stands for a connection"
        )

    def __eq__(self, other: object) -> bool:
        """Tell whether both are handles of one connection."""
        if not isinstance(other, ClientWebSocketResponse):
            return NotImplemented
        return self is other or (self._slot is not None and self._slot is other._slot)

    def __hash__(self) -> int:
        """Return the same for all handles of one connection."""
        return object.__hash__(self) if self._slot is None else hash(self._slot)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or was released and is not this caller's any more."""
        return self._spent or bool(self._closed)

    @property
    def reused(self) -> bool:
        """Whether the connection had been used before this acquisition began."""
        return self._reused

    def detach(self) -> None:
        """Take the connection out of the pool for good, open: it is the caller's from now on.

        Its place is free at once, so it does not count against the limits any more, and it stays
        open when the session is closed, unless its ``client_session`` is somebody else's to close
        (``client_session_owner=False``).  :meth:`release` then changes nothing, ``async with``
        leaves it open, and :meth:`close` closes it, which is for the caller to call.  To call it
        again changes nothing.

        Raises :exc:`ConnectionReleasedError` after :meth:`release`, :exc:`PoolClosedError` when the
        session was closed meanwhile, and :exc:`WebSocketPoolError` where it is closed already (by
        :meth:`close`, or a ``receive()`` that met the end), as there is no open connection to be
        had, and inside a hook, whose connection is the pool's.
        """
        if self._spent:
            said = f"{self!r} was released: what is in the pool cannot be detached"
            raise ConnectionReleasedError(_in_session_of(self, said))
        if self._slot is None or self._detached:
            return
        if self._owner is None:
            said = f"{self!r} was closed, or is lent to a hook: it stays the pool's"
            raise WebSocketPoolError(_in_session_of(self, said))
        self._owner._detach(self)

    def mark_clean(self) -> None:
        """Declare that everything that was sent to this caller has been read.

        A ``receive()`` that was cancelled or timed out leaves it open whether its message is still
        on its way, so :meth:`release` closes the connection, unless a later ``receive()`` has
        returned a message.  Call this before :meth:`release` where you have stopped a task that
        reads, and know that nothing more can come, to keep the connection.  It counts for what was
        given up until now.

        If you are wrong, **the next user receives what was meant for you.**

        On a connection of which nothing was given up, or that was detached, it changes nothing.
        Raises :exc:`ConnectionReleasedError` after :meth:`release`, and :exc:`WebSocketPoolError`
        where the connection is closed or has ended, a ``receive()`` is under way, or a message lies
        unread or has begun to come.
        """
        if self._spent:
            said = f"{self!r} was released: call mark_clean() before release()"
            raise ConnectionReleasedError(_in_session_of(self, said))
        connection = self.__dict__.get(CONNECTION)
        if connection is not None:
            obstacle = connection.mark_clean()
        else:
            obstacle = "it is closed" if self.closed else None
        if obstacle is not None:
            said = f"a connection cannot be marked clean: {obstacle}"
            raise WebSocketPoolError(_in_session_of(self, said))

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"") -> bool:
        """Close the connection, as aiohttp does, instead of giving it back.

        Returns whether this call closed it.  The place in the pool is free when the socket is gone.
        """
        if self._spent:
            return False
        owner = self._owner
        if owner is None:
            return await super().close(code=code, message=message)
        owner._begin_close(self)
        self._owner = None
        try:
            return await super().close(code=code, message=message)
        finally:
            self._response.close()

    async def __aenter__(self) -> Self:
        """Return the handle itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Give the connection back; after an exception close it, as a reply may be on its way.

        After an exception nothing is waited for: the closing handshake goes on in the background.
        """
        if exc_type is None:
            slot = self._slot
            completion = self.release()
            # A reset goes on without the caller.
            if completion is not DONE and slot is not None and slot.conn and slot.conn.closing:
                await completion
            return
        self._explain(exc_val)
        if self._owner is not None:
            # The caller of a server that is slow is wanted elsewhere; the closing handshake goes on
            # without it.
            self._owner._fail(self, exc_type)

    def _explain(self, error: BaseException | None) -> None:
        """Tell what the server said in its CLOSE, where that is most likely why this was raised."""
        if not isinstance(error, _ENDS) or hasattr(error, "close_code"):
            return
        connection = self.__dict__.get(CONNECTION)
        # Its socket may be gone by now.
        close = self.__dict__.get(CLOSE) if connection is None else connection.look_for_close()
        if close is None:
            return
        assert self._slot is not None
        this: Any = error
        this.close_code, this.close_reason = close
        said = f"{close[0]} {close[1]}".rstrip()
        error.add_note(f"The server closed the connection to {self._slot.endpoint}: {said}")

    def _reset_heartbeat(self) -> None:
        # Called from receive() in aiohttp < 3.14. It arms timers that hold their response: were it
        # the handle, a lost one would live for ever, and a spent one ping another's connection.
        # (One that is detached is as aiohttp's own.)
        slot = self._slot
        if slot is None or self._detached:
            super()._reset_heartbeat()
        elif slot.conn is not None:
            slot.conn.reset_heartbeat()

    def _handle_ping_pong_exception(self, exc: BaseException) -> None:
        # The connection's own heartbeat has found it dead. Over TLS it takes its time to go.
        super()._handle_ping_pong_exception(exc)
        connection = self.__dict__.get(CONNECTION)
        if connection is not None:
            connection.end_of_heartbeat()

    def _cut_off(self) -> None:
        """Spend the handle of a connection that is being closed.

        A ``receive()`` that runs on it in another task still has to find, and to set, its own
        flags; not so the means to read or write.
        """
        if not self.__dict__.get("_waiting"):
            spend(self, {})
            return
        state = dict(self.__dict__)
        for name in ("_writer", "_reader", "_response", "_timeout", "_closed"):
            del state[name]
        spend(self, state)


#: What has the same value in nearly every connection, whose dictionary is without it then.
USUAL: Final = frozenset(
    {
        "_client_notakeover",
        "_close_wait",
        "_compress",
        "_exception",
        "_heartbeat",
        "_heartbeat_cb",
        "_heartbeat_reset_handle",
        "_need_heartbeat_reset",
        "_ping_task",
        "_pong_response_cb",
        "_protocol",
    }
)
