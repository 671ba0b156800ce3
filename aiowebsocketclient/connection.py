"""Watches parked connections: nobody reads them, yet what arrives must be seen at once.

aiohttp handles PING, PONG and CLOSE only inside ``receive()``, and notices neither CLOSE nor EOF
without one (``closed`` stays False on a dead socket).  So a :class:`Connection` stands where
aiohttp's protocol keeps its WebSocket parser: it hands everything to the real one and, while it is
parked, then drains the queue.  Whatever happens to the connection arrives as an event in the tick
in which the loop learns of it; there is no task and no timer for a parked connection.

A message that has begun to come at release would reach the next user.  No parser shows that it is
in the middle of one: the compiled one hides its state, and what it holds of a frame may be nothing
but the header.  So a connection follows the frames by itself (:meth:`Parkable.follow`), from the
first byte behind the handshake (:class:`~.connecting.Forerunner`) to the last, in use too.  That
takes a few instructions for each frame, none for its payload, and makes the question of a release
a comparison.  A connection in the middle of a message is not pooled; one in the middle of a control
frame is pooled, but not handed out until the frame is whole, and given up where somebody needs it
before.  While it is parked, what comes has to be sound control frames, and the parser has to tell
of as many; anything else ends the connection.

The private names of aiohttp that this relies on are in ``_aiohttp_private.py``.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import WSMsgType

from ._aiohttp_private import LOG_ON_EXCEPTION, PLAIN_TRANSPORT, fragments_of, unsafe
from ._compat import DONE, Express, Parkable, Slot, clock
from ._pool_py import BETWEEN_FRAMES, IN_MESSAGE, Completion
from .connecting import Forerunner
from .deadlines import Bound
from .exceptions import in_session
from .hooks import NO_HOOKS, Hooks, is_being_cancelled, run_hook
from .leaks import Place
from .logs import log
from .response import CLOSE, CONNECTION, USUAL, Pending
from .settings import Settings

__all__ = ("DIRTY", "LOST", "Connection", "Owner", "failure_of", "reason_after")

#: How a parked connection ended: by the server or the network, or by a message nobody asked for.
LOST: Final = "lost"
DIRTY: Final = "dirty"

_CONTROL: Final = frozenset({WSMsgType.PING, WSMsgType.PONG})
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})

# With these somebody outside ends the use of a connection, which has not failed.
_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)

# RFC 6455, 7.1.5: the code of a CLOSE frame that has none.
_NO_CLOSE_CODE: Final = 1005
# RFC 6455, 5.5: a control frame has no more than 125 bytes, and two of them are the code.
_MAX_REASON: Final = 123

# What is read, for the sake of a clean end, from one who goes on sending to a connection that the
# pool closes. A message is in memory until it is whole, and may be as large as max_msg_size.
_MAX_UNWANTED: Final = 1 << 20


class _ParentsOwn:
    """Stands in a forked child for what would write to a socket, or close it."""

    __slots__ = ("_error",)

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self._error = error

    async def send_frame(self, *args: Any, **kwargs: Any) -> None:
        raise self._error()

    def close(self) -> None:
        pass


class Owner(Protocol):
    """Whoever opened a connection: what it asks of them, and what it tells them."""

    loop: asyncio.AbstractEventLoop
    settings: Settings
    #: What hooks get their handles by.
    express: Express
    #: Closing handshakes; the loop itself holds tasks by weak references only.
    goodbyes: set[asyncio.Task[None]]

    def ended(self, conn: "Connection", how: str, code: int) -> None:
        """Take a connection out of the pool that has ended while it was parked.

        ``how`` is LOST or DIRTY; ``code`` is that of the server's CLOSE, 0: there was none.  It is
        called inside the protocol's callbacks, where only what is synchronous and short may be
        done.
        """

    def gone(self, conn: "Connection") -> None:
        """Free the place of a connection that was closing, and whose socket is gone."""


class Connection(Parkable):
    """One WebSocket connection of the pool, in use, ``parked`` or ``closing``.

    ``ws`` is the response that aiohttp made, which is never handed out; ``state`` is its instance
    dictionary, which handles borrow.  ``owner`` is told of its end.
    """

    __slots__ = (
        "_fragments",
        "_has_given_up",
        "_owner",
        "_read_before",
        "_reader",
        "_resets_heartbeat",
        "_unwanted",
        "_writer",
        "acquired_at",
        "hooks",
        "is_silent",
        "server_close",
        "settled",
        "slot",
        "timer",
        "ws",
    )

    def __init__(
        self,
        ws: aiohttp.ClientWebSocketResponse,
        slot: Slot,
        owner: Owner,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        conn: Any = ws._conn
        if conn is None or conn.transport is None:
            raise aiohttp.ServerDisconnectedError
        super().__init__()
        self.ws = ws
        self.slot = slot
        self._owner = owner
        self.hooks = hooks
        self.resets = hooks.reset is not None
        #: Code and reason of the server's CLOSE, once it has been seen.
        self.server_close: tuple[int, str] | None = None
        #: Whether a hook of it has failed for want of an answer, or without one.
        self.is_silent = False
        #: Whether it comes straight from its handshake, and has not been pooled yet.
        self.fresh = True
        self.state = _share_state(ws)
        self.state[CONNECTION] = self
        self.parked = False
        self.closing = False
        self._protocol = conn.protocol
        self._transport = conn.transport
        self._reader: Any = ws._reader
        self._take_over(self._protocol._payload_parser)
        self.gone = False
        self._protocol._payload_parser = self
        self.heard = clock()
        self._writer: Any = ws._writer
        self._has_closing = type(self._transport) is PLAIN_TRANSPORT
        # Frames that are being compressed in a thread. Older aiohttp does not keep account of them.
        background = getattr(self._writer, "_background_tasks", None)
        self._background = _account_for_sends(self._writer) if background is None else background
        # aiohttp < 3.14 resets its heartbeat in receive() only, that is, never while parked.
        self._resets_heartbeat = ws._heartbeat is not None and not hasattr(ws, "_on_data_received")
        # Bytes that are still taken while the pool closes it.
        self._unwanted = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.settled: asyncio.Future[None] | None = None
        self.acquired_at: Place | None = None
        self._has_given_up = False
        # Messages that had been read when a receive() was given up.
        self._read_before = 0
        self._disarm()

    def _disarm(self) -> None:
        """Stop the timers of aiohttp's that are not for an idle connection."""
        # ClientTimeout(sock_read=...) of a given session is for HTTP bodies; left armed, it would
        # poison an idle connection with SocketTimeoutError. ws_receive has a timer of its own.
        self._protocol.read_timeout = None
        self._protocol.start_timeout()
        if self.ws._heartbeat is not None:
            # It was armed in the context of the caller whom the handshake was made for.
            self.ws._cancel_heartbeat()
            self.reset_heartbeat()

    def _take_over(self, forerunner: Any) -> None:
        # A protocol that saw an error has dropped its parser; then there is nothing to hand on to.
        self.failed = forerunner is None
        self._parser = None
        self._fragments: list[bytes] = []
        # Looked up once, since every release asks it.
        self._buffer = getattr(self._reader, "_buffer", None)
        if self._buffer is None or not hasattr(self._reader, "is_eof"):
            raise unsafe("the queue of a WebSocket shows neither its content nor its end")
        if self.failed:
            return
        if type(forerunner) is not Forerunner:
            raise unsafe("a WebSocket gets its parser in another way than by set_parser()")
        self._parser = forerunner.parser
        self._fragments = fragments_of(self._parser)
        for data in forerunner.taken:
            self.follow(data)

    # -- in use ------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the server or the network has ended it."""
        ws = self.state
        return bool(
            ws["_closed"] or ws["_closing"] or self._reader.is_eof() or self._transport.is_closing()
        )

    def why_unfit(self) -> str:
        """Return the reason for which it is closed that is not clean."""
        return LOST if self.has_ended or self._is_ended_by_server() else DIRTY

    def _is_ended_by_server(self) -> bool:
        # A CLOSE behind a message that nobody has read does not make up for that.
        kinds = [item[0].type for item in self._buffer or () if item[0].type not in _CONTROL]
        return kinds[:1] == [WSMsgType.CLOSE]

    @property
    def unread_close_code(self) -> int:
        """The code of a CLOSE that nobody has read; 0: there is none."""
        close = self._unread_close()
        return 0 if close is None else close[0]

    def _unread_close(self) -> tuple[int, str] | None:
        for item in self._buffer or ():
            if item[0].type is WSMsgType.CLOSE:
                return _close_of(item[0])
        return None

    def note_close(self, message: aiohttp.WSMessage) -> None:
        """Record a CLOSE of the server's that somebody has received."""
        self.server_close = _close_of(message)

    def look_for_close(self) -> tuple[int, str] | None:
        """Return code and reason of the server's CLOSE, read or unread; None: none has come."""
        if self.server_close is None:
            self.server_close = self._unread_close()
        return self.server_close

    def clear(self) -> bool:
        """Make it fit for another's use where only this keeps it from that.

        Control frames that lie unread, and a ``receive()`` that was given up before another one
        returned a message.
        """
        if self._is_read_given_up() and self._messages_read() > self._read_before:
            self.state["_close_code"] = None
        return self.is_clean() or self.answer_control_frames()

    def mark_clean(self) -> str | None:
        """Make nothing of a ``receive()`` that was given up: its user knows that all was read.

        Returns why that is visibly not so, in which case nothing changes; None: it may be so.
        """
        obstacle = self._obstacle_to_clean()
        if obstacle is None:
            self.state["_close_code"] = None
        return obstacle

    def _obstacle_to_clean(self) -> str | None:
        if self.closing or self.failed or self.has_ended or self._is_ended_by_server():
            return "it is closed, or has ended"
        if self.state["_waiting"]:
            return "a receive() is under way; cancel it, and wait until its task has ended"
        if self._messages_unread():
            return "a message lies unread; receive() it first"
        if self.midway == IN_MESSAGE:
            return "a message has begun to come; receive() it first"
        return None

    def note_given_up_read(self) -> None:
        """Record that a ``receive()`` was cancelled, or timed out."""
        self._read_before = self._messages_read()

    def _messages_unread(self) -> int:
        return sum(item[0].type in _MESSAGES for item in self._buffer or ())

    def _messages_read(self) -> int:
        return self.messages - self._messages_unread()

    def park_cleared(self) -> bool:
        """Begin to watch it where it is, or can be made, fit for another's use."""
        return self.clear() and self.park()

    def answer_control_frames(self) -> bool:
        """Take PINGs and PONGs that lie unread; True if nothing else keeps it from being clean.

        Who holds a connection and does not receive has not answered the server's pings.
        """
        if not self._buffer or self.state["_waiting"]:
            return False
        if any(item[0].type not in _CONTROL for item in self._buffer):
            return False
        while self._buffer:
            message = self._read()
            if message.type is WSMsgType.PING and not self._pong(message.data):
                return False
        if self._resets_heartbeat:
            self.reset_heartbeat()
        return self.is_clean()

    def reset_heartbeat(self) -> None:
        """Arm the connection's own heartbeat anew, in no user's context: it outlives them."""
        Context().run(self.ws._reset_heartbeat)

    # -- hooks -----------------------------------------------------------------------------------

    async def configure(self) -> None:
        """Run the hook of a new connection; raises what that has failed with."""
        settings = self._owner.settings
        bound = Bound(settings.hook_timeout, self._configured_too_late)
        # From now on the server may be at work for it.
        self.slot.cools = True
        with bound:
            await run_hook("configure", self._owner.express, self, bound.deadline)
        if self.has_ended:
            said = "the connection ended while it was configured"
            raise aiohttp.ServerDisconnectedError(in_session(settings.name, said))
        self.slot.cools = False

    def _configured_too_late(self, seconds: float) -> aiohttp.ConnectionTimeoutError:
        said = (
            f"configure of a connection to {self.slot.endpoint} did not end within"
            f" hook_timeout ({seconds:g} s)"
        )
        return aiohttp.ConnectionTimeoutError(in_session(self._owner.settings.name, said))

    def run_behind(
        self,
        name: str,
        finish: Callable[["Connection", asyncio.Task[bool]], None],
        context: Context | None = None,
    ) -> None:
        """Run a hook that no caller waits for; ``finish`` does the rest."""
        # From now on its end is the hook's to find: were it closed before the task's first step,
        # there would be no connection left for ``finish``.
        self.parked = False
        task = asyncio.Task(self._succeeds(name), loop=self._owner.loop, context=context)
        self.slot.task = task
        # Not inside the coroutine: one that is cancelled before its first step never runs.
        task.add_done_callback(partial(finish, self), context=context)

    async def _succeeds(self, name: str) -> bool:
        """Return whether a hook succeeded; nobody asks for the exception, which would be kept."""
        seconds = self._owner.settings.hook_timeout
        try:
            await run_hook(name, self._owner.express, self, asyncio.timeout(seconds))
        except Exception:
            return False
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            # The hook awaited something that was cancelled, and has failed.
            return False
        return True

    # -- closing ---------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether the socket is closed."""
        # Whoever has not been told sees that the protocol's connection_lost() has dropped its HTTP
        # parser, which nothing else does.
        return self.gone or self._protocol._parser is None

    def watch_closing(self) -> None:
        """Bound the closing, and tell the owner when the socket is gone; it is not used again.

        The second time is for a hook that has begun to close it, and has failed since.
        """
        loop, settings = self._owner.loop, self._owner.settings
        # A server that was too slow to answer is too slow to say goodbye.
        seconds = settings.hasty_timeout if self.is_given_up else settings.close_timeout
        if self.closing and (self.timer is None or self.timer.when() - loop.time() <= seconds):
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer = loop.call_later(seconds, self.abort, context=Context())
        if not self.closing:
            self._stop_using()

    def _stop_using(self) -> None:
        self.parked = False
        self.closing = True
        sends = [sending for sending in self._background if isinstance(sending, asyncio.Task)]
        for sending in sends:
            # It will find the connection closed, and its sender may be cancelled.
            sending.add_done_callback(_retrieve_exception)
        if sends and LOG_ON_EXCEPTION is not None:
            self._writer.transport = _UnloggedTransport(self._transport)
        if self.is_gone:
            self._tell_gone()

    def say_goodbye(self) -> None:
        """Do the closing handshake in the background."""
        owner = self._owner
        # In nobody's context: who leaves does not wait for it.
        task = asyncio.Task(self._goodbye(), loop=owner.loop, context=Context())
        owner.goodbyes.add(task)
        # Not inside the coroutine: one that is cancelled before its first step never runs.
        task.add_done_callback(self._goodbye_said, context=Context())

    async def _goodbye(self) -> None:
        try:
            await self.close(aiohttp.WSCloseCode.OK, b"")
        except Exception as exc:
            log(
                "close_failed",
                exc,
                session_name=self._owner.settings.name,
                endpoint=str(self.slot.endpoint),
                error=type(exc).__name__,
            )
            self.abort()

    def _goodbye_said(self, task: asyncio.Task[None]) -> None:
        self._owner.goodbyes.discard(task)
        if task.cancelled():
            self.abort()

    def until_settled(self) -> asyncio.Future[None]:
        """Return what ends when it is closed, or pooled after its reset."""
        if self.settled is None:
            self.settled = self._owner.loop.create_future()
        return self.settled

    def completion(self) -> Completion:
        """Return what a release returns."""
        return DONE if self.slot.conn is None else Pending(self.until_settled())

    def settle(self) -> None:
        """End what waits for its release: it is pooled, or closed."""
        settled, self.settled = self.settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)

    def _tell_gone(self) -> None:
        # aiohttp swallows what is raised inside connection_lost().
        self._owner.loop.call_soon(self._finish, context=Context())

    def _finish(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.settle()
        self.look_for_close()
        self.forget()
        self._owner.gone(self)

    async def close(self, code: int, message: bytes) -> None:
        """Do the closing handshake as aiohttp does; whoever calls this bounds it."""
        ws = self.ws
        self.forget_cancelled_receive()
        self._unwanted = _MAX_UNWANTED
        try:
            await ws.close(code=code, message=message)
        finally:
            self.shut()
            if ws._exception is not None:
                # That of a dead connection. Its traceback keeps the frame of close(), and that the
                # connection: with TLS some 300 kB, until the cyclic collector comes.
                ws._exception.__traceback__ = None

    def forget_cancelled_receive(self) -> None:
        """Let ``close()`` do its handshake after a ``receive()`` that was cancelled or timed out.

        That leaves 1006 for the close code, which ``close()`` takes for a connection that is lost.
        """
        if self._has_given_up or self._is_read_given_up():
            self._has_given_up = True
            self.state["_close_code"] = None

    @property
    def is_given_up(self) -> bool:
        """Whether its last user, or a hook, has given up what the server did not do in time."""
        return self.is_silent or self._has_given_up or self._is_read_given_up()

    def _is_read_given_up(self) -> bool:
        ws = self.state
        return ws["_close_code"] == aiohttp.WSCloseCode.ABNORMAL_CLOSURE and not (
            ws["_closed"] or ws["_closing"] or self._reader.is_eof()
        )

    def give_up(self) -> None:
        """Record that its user left in the middle of a read, or of a send."""
        if self._protocol._paused:
            # The server does not take what it is sent.
            self._has_given_up = True
        self.wake_pending_receive()

    def wake_pending_receive(self) -> None:
        """End a ``receive()`` that still runs as aiohttp's ``close()`` would."""
        if self.state["_waiting"]:
            self._has_given_up = True
            self.state["_waiting"] = False
            self._reader.feed_data(aiohttp.http.WS_CLOSING_MESSAGE, 0)

    def shut(self) -> None:
        """Close the transport without a closing handshake."""
        # aiohttp marks a response closed without closing it where receive() meets an error.
        self.ws._response.close()

    def abort(self) -> None:
        """Close the transport without waiting for anything, unsent data included."""
        self._transport.abort()

    def leave_to_parent(self, error: Callable[[], BaseException]) -> None:
        """In a forked child, take the connection for closed; not a byte goes over its socket."""
        self.ws._cancel_heartbeat()
        if self.timer is not None:
            self.timer.cancel()
        self.state["_closed"] = True
        self.state["_writer"] = self.state["_response"] = _ParentsOwn(error)

    def forget(self) -> None:
        """Let go of what is kept alive by a handle that somebody still has, or by a timer."""
        if self.state.pop(CONNECTION, None) is not None and self.server_close is not None:
            self.state[CLOSE] = self.server_close
        # aiohttp arms its heartbeat anew for the server's CLOSE, which comes after its own close().
        # The timer would keep all of this connection for another heartbeat and a half.
        self.ws._cancel_heartbeat()
        self._stop_accounting_for_sends()
        if hasattr(self._protocol, "_data_received_cb"):
            # Another cycle, where there is a heartbeat; aiohttp < 3.14 has none.
            self._protocol._data_received_cb = None

    def let_go(self) -> None:
        """Leave a connection in use to its user, as aiohttp made it."""
        if self._is_read_given_up():
            # Otherwise its close() would skip the closing handshake.
            self.state["_close_code"] = None
        self.state.pop(CONNECTION, None)
        self._stop_accounting_for_sends()
        # One that is gone has none any more.
        if self._protocol._payload_parser is self:
            self._protocol._payload_parser = self._parser

    def _stop_accounting_for_sends(self) -> None:
        if "send_frame" in getattr(self._writer, "__dict__", ()):
            # It would be a cycle.
            del self._writer.send_frame

    # -- what the protocol calls -----------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Take what has come while nobody uses the connection."""
        self.only_control = True
        told_before = self.control_frames
        self.follow(data)
        self.failed, _ = self._parser.feed_data(data)
        if self.parked:
            if self._resets_heartbeat:
                self.reset_heartbeat()
            told = self._drain()
            # The parser tells of a message once it is whole. Who is handed the connection before
            # would receive it.
            if self.parked and not (
                self.only_control and told == self.control_frames - told_before and self._agrees()
            ):
                self._end(DIRTY)
        elif self.closing:
            # The other side's CLOSE lies behind everything that it has sent before.
            self._unwanted -= len(data)
            if self._unwanted < 0:
                self.abort()

    def feed_eof(self) -> None:
        """Take the end of the connection, in place of the real parser."""
        self.gone = True
        if (waiter := self._protocol._drain_waiter) is not None:
            # Older aiohttp shields it from the cancellation of its sender, so that nobody may be
            # left to hear of the end.
            waiter.add_done_callback(_retrieve_exception)
        if not self.failed:
            self._parser.feed_eof()
        if self.parked:
            self._end(LOST)
        elif self.closing:
            self._tell_gone()

    def end_of_heartbeat(self) -> None:
        """Take it that the connection's own heartbeat has found it dead."""
        if self.parked:
            self._end(LOST)
        # There is nobody to say goodbye to, nor to end TLS with.
        self.abort()

    def end_held_back(self) -> None:
        """End it where somebody asks for it and must not get it.

        Either it has ended, though the protocol has not been told yet, or a frame has begun to come
        and is not whole.
        """
        self._end(LOST if self.has_closing_transport() else DIRTY)

    def _agrees(self) -> bool:
        """Whether the parser, too, holds no part of a frame where there should be none."""
        return self.midway != BETWEEN_FRAMES or not any(self._fragments)

    def _drain(self) -> int:
        """Take what lies in the queue; each of it is there, so nothing here waits.

        Returns how many PINGs and PONGs there were.
        """
        told = 0
        while self._buffer:
            message = self._read()
            told += 1
            if message.type is WSMsgType.PING:
                if not self._pong(message.data):
                    self._end(LOST)
                    break
            elif message.type is WSMsgType.CLOSE:
                self._end_by_close(message)
                break
            elif message.type is not WSMsgType.PONG:
                self._end_by_message()
                break
        else:
            if self.failed or self._reader.is_eof():
                self._end(LOST)
        return told

    def _end_by_close(self, message: aiohttp.WSMessage) -> None:
        self.note_close(message)
        # So that close() answers it and does not wait for another one.
        code = self.state["_close_code"] = message.data or _NO_CLOSE_CODE
        self._end(LOST, code)

    def _end_by_message(self) -> None:
        """End it for a message that nobody asked for; a server may say why before its CLOSE."""
        while self._buffer:
            message = self._read()
            if message.type is WSMsgType.CLOSE:
                self._end_by_close(message)
                return
        self._end(DIRTY)

    def _read(self) -> aiohttp.WSMessage:
        step = self._reader.read()
        try:
            step.send(None)
        except StopIteration as stop:
            message: aiohttp.WSMessage = stop.value
            return message
        raise AssertionError("a read of a queue with something in it waited")

    def _pong(self, payload: bytes) -> bool:
        """Answer a PING; False: the connection cannot take it."""
        step = self._writer.send_frame(payload, WSMsgType.PONG)
        try:
            step.send(None)
        except StopIteration:
            return True
        except (aiohttp.ClientError, ConnectionError):
            return False
        # Written, but the transport is full: a peer that sends and does not read. To go on
        # answering would only fill memory.
        step.close()
        return False

    def _end(self, how: str, code: int = 0) -> None:
        self.parked = False
        # What happens to an idle connection is nobody's doing.
        Context().run(self._owner.ended, self, how, code)


def _share_state(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """Give a response an instance dictionary that its handles can share; returns it.

    CPython keeps the keys of an ordinary one apart from its values, which makes lookups through a
    second object several times slower; one that is made by itself is whole.  A subclass may have a
    value of its own at the class, which that of the instance hides.
    """
    cls = type(ws)
    state = ws.__dict__ = {
        name: value
        for name, value in ws.__dict__.items()
        if name not in USUAL or value is not getattr(cls, name)
    }
    return state


def reason_after(kind: type[BaseException]) -> str:
    """Return the reason for closing a connection whose use an exception of this class has ended."""
    return "cancelled" if issubclass(kind, _CANCELLATIONS) else "failed"


def failure_of(task: asyncio.Task[bool]) -> str:
    """Return the reason for closing a connection after a hook in a task; empty: none."""
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is not None:
        return reason_after(type(error))
    return "" if task.result() else "failed"


def _close_of(message: aiohttp.WSMessage) -> tuple[int, str]:
    """Return code and reason of a CLOSE; the server chooses the text, and may log into ours."""
    text = message.extra if isinstance(message.extra, str) else ""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return message.data or _NO_CLOSE_CODE, shown[:_MAX_REASON]


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class _UnloggedTransport:
    """Stands for the transport of a closing connection, for sends that a thread compresses.

    A task that has compressed asks it, in its last step, and fails.  A sender that still waits is
    told; the loop's exception handler is not, where the sender has been cancelled.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        task = asyncio.current_task()
        if task is not None:
            task.remove_done_callback(LOG_ON_EXCEPTION)  # type: ignore[arg-type]
        return bool(self._transport.is_closing())


def _account_for_sends(writer: Any) -> set[object]:
    """Return a set that is empty only while nothing is being sent, and all was sent whole.

    A send that is cancelled while a thread compresses leaves the compressor ahead of its peer.
    """
    under_way: set[object] = set()
    send_frame = writer.send_frame

    async def send_accounted(
        message: bytes, opcode: WSMsgType, compress: int | None = None
    ) -> None:
        token = object()
        under_way.add(token)
        whole = True
        try:
            await send_frame(message, opcode, compress)
        except asyncio.CancelledError:
            whole = False
            raise
        finally:
            if whole:
                under_way.discard(token)

    writer.send_frame = send_accounted
    return under_way
