"""The response of ``ws_connect``: aiohttp's response, which can be released to the pool.

aiohttp creates one response for a connection; the pool never hands it out.  Each acquisition gets
its own handle, an object of the same class that shares the ``__dict__`` of aiohttp's response:
aiohttp's methods find and change the state of the connection through ``self``.  On release the
handle gets an empty ``__dict__`` of its own.  So every lookup of the connection's state ends at the
class, where :class:`_Spent` raises.
"""

import asyncio
import sys
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol, Self

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from ._compat import DONE, Handle, Slot, spend
from ._pool_py import Completion, Holder
from .exceptions import ConnectionReleasedError, WebSocketPoolError, in_session

__all__ = ("CLOSE", "CONNECTION", "USUAL", "ClientWebSocketResponse", "Owner", "Pending")


class Pending(Completion):
    """Result of ``drain()``, and of ``release()`` if the connection is being closed or reset.

    For asyncio it is a coroutine, so ``gather``, ``wait_for`` and ``create_task`` accept it.
    Several tasks may await it.
    """

    __slots__ = ("_future", "_steps")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._steps: dict[asyncio.Task[Any] | None, Generator[Any, Any, None]] = {}

    def __repr__(self) -> str:
        """Return the class, and whether there is still something to wait for."""
        return f"<Completion {'done' if self._future.done() else 'pending'}>"

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the connection, or every connection, is pooled or closed."""
        if not self._future.done():
            # Not the future itself: cancelling one waiter must not cancel it for the others.
            yield from asyncio.shield(self._future).__await__()

    def send(self, value: Any) -> Any:
        """Run one step, for ``asyncio.Task``."""
        return self._step("send", value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any:
        """Throw an exception in, for ``asyncio.Task`` on cancellation."""
        try:
            return self._step("throw", typ if val is None else val)
        finally:
            # The exception propagates, and its traceback has this frame.
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
        # Removed while it runs: after its end or failure, the next wait begins anew.
        steps = self._steps.pop(task, None) or self.__await__()
        try:
            yielded = getattr(steps, how)(argument)
            self._steps[task] = steps
        finally:
            # The task keeps the exception, whose traceback has this frame.
            del task, steps, argument
        return yielded


#: Key of the connection in the ``__dict__`` of a pooled connection.
CONNECTION: Final = "_aiowebsocketclient_connection"
#: Key of the code and reason of the server's CLOSE, once the connection is gone.
CLOSE: Final = "_aiowebsocketclient_close"


# Exceptions that aiohttp raises on a connection that has ended.
_ENDS: Final = (aiohttp.ClientError, aiohttp.WSMessageTypeError, ConnectionError)


class _Spent:
    """Class attribute that raises if a handle has no connection any more.

    Not a data descriptor: the ``__dict__`` of the connection takes precedence.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        said = f"{instance!r} was used after release(): acquire a connection with ws_connect()"
        raise ConnectionReleasedError(_in_session_of(instance, said))


def _in_session_of(handle: Any, text: str) -> str:
    """Return the text of an error about a handle, after the name of its session."""
    express = handle._express
    return text if express is None else in_session(express.session_name, text)


class _NoSocket:
    """Replaces the writer and the response of a handle whose ``close()`` released it."""

    __slots__ = ()

    #: The connection of an ``aiohttp.ClientResponse`` that is closed.
    connection = None

    async def send_frame(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise what aiohttp raises after ``close()``."""
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")


_NO_SOCKET: Final = _NoSocket()
# Settings that aiohttp's response has after close(), too, and that reveal nothing of later users.
_KEPT_AFTER_CLOSE: Final = ("_timeout", "_protocol", "_compress", "_client_notakeover")


def _is_being_closed(slot: Slot | None, completion: Completion) -> bool:
    """Whether a release closes the connection; a reset continues without the caller."""
    return bool(completion is not DONE and slot is not None and slot.conn and slot.conn.closing)


class _CloseCode:
    """Property of the close code that notices abandoned calls of ``receive()`` and each CLOSE.

    When a ``receive()`` is abandoned, aiohttp sets 1006 on a connection that is still open, and
    leaves it there, whatever it receives later.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        # On a spent handle, it reveals nothing about the connection.
        return self if instance is None else instance.__dict__.get("_close_code")

    def __set__(self, instance: Any, code: int | None) -> None:
        state = instance.__dict__
        state["_close_code"] = code
        connection = state.get(CONNECTION)
        if connection is None:
            return
        # Only the message contains the reason of a CLOSE, and aiohttp keeps it in a local variable.
        # Looking there costs nothing when a message is received.
        message = sys._getframe(1).f_locals.get("msg")
        if getattr(message, "type", None) is WSMsgType.CLOSE:
            connection.note_close(message)
        elif code == WSCloseCode.ABNORMAL_CLOSURE and not (
            state.get("_closed") or state.get("_closing")
        ):
            connection.note_given_up_read()


class Owner(Holder, Protocol):
    """The session, or what stands for it, as a handle needs it."""

    #: Whether ``async with`` on a handle ends with ``close()``, as in aiohttp, not a release.
    _closes_at_exit: bool

    def _begin_close(
        self, handle: "ClientWebSocketResponse", code: int, message: bytes
    ) -> Completion | None:
        """Take a connection out of the pool that its user is about to close.

        Returns None, or the completion of a release, if the connection was released instead.
        """

    def _detach(self, handle: "ClientWebSocketResponse") -> None:
        """Leave a connection to its user for good."""

    def _fail(self, handle: "ClientWebSocketResponse", kind: type[BaseException]) -> None:
        """Close a connection whose block was left by an exception."""


class ClientWebSocketResponse(Handle, aiohttp.ClientWebSocketResponse):
    """One acquisition of a pooled WebSocket connection.

    It behaves like :class:`aiohttp.ClientWebSocketResponse` until :meth:`release`.  Handles of the
    same connection are equal and have the same hash, but each handle is for one acquisition only.
    After :meth:`release`, ``send_*()``, ``receive*()``, ``ping()`` and ``pong()`` raise
    :exc:`ConnectionReleasedError`, :attr:`closed` is True, and :meth:`release` and :meth:`close`
    change nothing, even if another caller uses the connection by then.

    Attributes belong to the connection, not to the handle: the next user finds what the previous
    user has set, and a released handle has none (``AttributeError``).  In a subclass, ``__init__``
    runs once for each connection, on the object that aiohttp creates.  Do not keep that ``self``:
    it is not the handle.  Do not store a handle, or one of its methods, in an attribute: if the
    handle were lost, it would never be collected.  A subclass must not have ``__slots__``: slots
    would belong to one handle only.
    """

    # None: it holds nothing, or nothing any more.
    _owner: Owner | None
    _writer: Any = _Spent()
    _reader: Any = _Spent()
    _response: Any = _Spent()
    _timeout: Any = _Spent()
    _waiting: Any = _Spent()
    _closed: Any = _Spent()
    _close_code: Any = _CloseCode()
    # On a spent handle, these reveal nothing about the connection.
    _conn: Any = None
    _exception: Any = None
    _protocol: Any = None
    # Defaults at the class save most of the memory of a connection's __dict__.
    _client_notakeover: Any = False
    _close_wait: Any = None
    _compress: Any = 0
    _heartbeat: Any = None
    _heartbeat_cb: Any = None
    _heartbeat_reset_handle: Any = None
    _need_heartbeat_reset: Any = False
    _ping_task: Any = None
    _pong_response_cb: Any = None
    # Whether detach() was called: the connection belongs to its user.
    _detached: bool = False

    def __repr__(self) -> str:
        """Return the class and the endpoint."""
        slot = self._slot
        where = "unpooled" if slot is None else str(slot.endpoint)
        return f"<{type(self).__name__}({where})>"

    def __reduce__(self) -> NoReturn:
        """Raise: a connection cannot be copied or pickled."""
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it represents an open connection"
        )

    def __eq__(self, other: object) -> bool:
        """Return whether both are handles of the same connection."""
        if not isinstance(other, ClientWebSocketResponse):
            return NotImplemented
        return self is other or (self._slot is not None and self._slot is other._slot)

    def __hash__(self) -> int:
        """Return a hash that is the same for all handles of a connection."""
        return object.__hash__(self) if self._slot is None else hash(self._slot)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or this handle was released."""
        return self._spent or bool(self._closed)

    @property
    def reused(self) -> bool:
        """Whether the connection was used before this acquisition."""
        return self._reused

    def detach(self) -> None:
        """Remove the open connection from the pool for good; it then belongs to the caller.

        Its place is free at once: the connection no longer counts against the limits.  It stays
        open when the session is closed, unless the user closes its ``client_session``
        (``client_session_owner=False``).  Afterwards :meth:`release` changes nothing,
        ``async with`` leaves the connection open, and the caller must call :meth:`close`.  A second
        call changes nothing.

        Raises :exc:`ConnectionReleasedError` after :meth:`release`, :exc:`PoolClosedError` if the
        session is closed, and :exc:`WebSocketPoolError` if the connection is closed (by
        :meth:`close`, or by the server, as a ``receive()`` has reported), or inside a hook.
        """
        if self._spent:
            said = f"{self!r} was released: call detach() before release()"
            raise ConnectionReleasedError(_in_session_of(self, said))
        if self._slot is None or self._detached:
            return
        if self._owner is None:
            said = f"{self!r} cannot be detached: it was closed, or is lent to a hook"
            raise WebSocketPoolError(_in_session_of(self, said))
        self._owner._detach(self)

    def mark_clean(self) -> None:
        """Declare that no more messages for this caller can arrive.

        After a ``receive()`` that was cancelled or timed out, its message may still be on the way.
        So :meth:`release` closes the connection, unless a later ``receive()`` returned a message.
        To keep the connection, call this before :meth:`release`: for example, if you have stopped a
        task that reads, and know that nothing more can arrive.  It applies to calls of
        ``receive()`` that ended before.

        If you are wrong, **the next user receives a message that was meant for you.**

        If no ``receive()`` was cancelled or timed out, or the connection was detached, the call
        changes nothing.  Raises :exc:`ConnectionReleasedError` after :meth:`release`, and
        :exc:`WebSocketPoolError` if the connection is closed or has ended, if a ``receive()`` is
        under way, if a message has begun to arrive, or if a message is unread.  With
        ``on_idle_message``, which judges unread messages at the release, those are no error.
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
        """Close the connection, as aiohttp does, instead of releasing it.

        Returns whether this call closed it.  Its place in the pool is free once the socket is
        closed.  With :class:`PooledClientSession` and ``release_on_close=True``, the call releases
        a connection that is fit for reuse.
        """
        if self._spent:
            return False
        owner = self._owner
        if owner is None:
            return await super().close(code=code, message=message)
        completion = owner._begin_close(self, code, message)
        if completion is not None:
            if _is_being_closed(self._slot, completion):
                await completion
            return True
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
        """Release the connection; after an exception close it, because a reply may be on the way.

        After an exception, the closing handshake continues in the background.
        """
        if exc_type is None:
            if self._owner is not None and self._owner._closes_at_exit:
                await self.close()
                return
            slot = self._slot
            completion = self.release()
            if _is_being_closed(slot, completion):
                await completion
            return
        self._explain(exc_val)
        if self._owner is not None:
            # The closing handshake continues without the caller: the server may be slow.
            self._owner._fail(self, exc_type)

    def _explain(self, error: BaseException | None) -> None:
        """Add code and reason of the server's CLOSE to an exception that it most likely caused."""
        if not isinstance(error, _ENDS) or hasattr(error, "close_code"):
            return
        connection = self.__dict__.get(CONNECTION)
        # The socket may be closed by now.
        close = self.__dict__.get(CLOSE) if connection is None else connection.look_for_close()
        if close is None:
            return
        assert self._slot is not None
        this: Any = error
        this.close_code, this.close_reason = close
        said = f"{close[0]} {close[1]}".rstrip()
        error.add_note(f"The server closed the connection to {self._slot.endpoint}: {said}")

    def _reset_heartbeat(self) -> None:
        # Called from receive() in aiohttp < 3.14. It starts timers that keep their response alive.
        # With a handle as response, a lost handle would live for ever, and a spent handle would
        # ping the connection of another caller. (A detached handle behaves like aiohttp's own.)
        slot = self._slot
        if slot is None or self._detached:
            super()._reset_heartbeat()
        elif slot.conn is not None:
            slot.conn.reset_heartbeat()

    def _handle_ping_pong_exception(self, exc: BaseException) -> None:
        # The heartbeat found the connection dead. With TLS, closing it takes time.
        super()._handle_ping_pong_exception(exc)
        connection = self.__dict__.get(CONNECTION)
        if connection is not None:
            connection.end_unheard()

    def _end_as_closed(self, state: dict[str, Any]) -> None:
        """Make a released handle behave like aiohttp's response after ``close()``.

        ``state`` is the ``__dict__`` of the connection, which the handle had.
        """
        kept = {name: state[name] for name in _KEPT_AFTER_CLOSE if name in state}
        ended = {"_closed": True, "_close_code": WSCloseCode.OK, "_waiting": False}
        spend(self, kept | ended | {"_writer": _NO_SOCKET, "_response": _NO_SOCKET})

    def _cut_off(self) -> None:
        """Spend the handle of a connection that is being closed.

        A ``receive()`` that runs on it in another task must still find and set its flags, but not
        read or write.
        """
        if not self.__dict__.get("_waiting"):
            spend(self)
            return
        state = dict(self.__dict__)
        for name in ("_writer", "_reader", "_response", "_timeout", "_closed"):
            del state[name]
        spend(self, state)


#: Attributes with the same value in nearly every connection; its ``__dict__`` omits that value.
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
