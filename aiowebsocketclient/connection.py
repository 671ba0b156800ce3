"""Watches parked connections: nobody reads them, but the pool must notice data at once.

aiohttp handles PING, PONG and CLOSE only inside ``receive()``, and notices neither CLOSE nor EOF
without it (``closed`` stays False on a dead socket).  So a :class:`Connection` replaces the
WebSocket parser in aiohttp's protocol: it passes all data to the real parser and, while parked,
then drains the queue.  The pool learns of every event in the same turn of the loop as the loop
itself.  A parked connection has no task and no timer.

A message that has begun to arrive at release would reach the next user.  The parser does not show
whether it is inside a message: the compiled parser hides its state, and may have only the header of
a frame.  So a connection follows the frames itself (:meth:`Parkable.follow`), from the first byte
after the handshake (:class:`~.connecting.Forerunner`) to the last, also while in use.  This takes a
few instructions per frame, none for its payload, and a release only needs a comparison.  A
connection inside a message is not pooled.  A connection inside a control frame is pooled, but it is
only handed out after the end of the frame, and closed if a caller needs it before.  A parked
connection accepts only valid control frames, and the parser must report the same number of them;
anything else ends the connection.  With the hook ``on_idle_message``, it also accepts messages that
the hook expects; until such a message is complete, the connection is not handed out.

``_aiohttp_private.py`` lists the private names of aiohttp that this module uses.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import WSMsgType

from ._aiohttp_private import LOG_ON_EXCEPTION, PLAIN_TRANSPORT, fragments_of, unsafe
from ._compat import DONE, Express, Parkable, Plan, Pool, Slot, clock
from ._pool_py import BETWEEN_FRAMES, CLOSE_REASONS, IDLE, IN_MESSAGE, Completion
from .connecting import Forerunner
from .deadlines import Bound
from .exceptions import in_session
from .hooks import NO_HOOKS, Frame, Hooks, frame_of, judge, run_hook
from .keepalive import Beat, Keepalives
from .leaks import Place
from .logs import log
from .response import CLOSE, CONNECTION, USUAL, Pending
from .settings import Settings

__all__ = ("DIRTY", "LOST", "Connection", "Owner", "failure_of", "reason_after")

#: How a parked connection ended: by the server or the network, or by an unexpected message.
LOST: Final = "lost"
DIRTY: Final = "dirty"

_CONTROL: Final = frozenset({WSMsgType.PING, WSMsgType.PONG})
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})

# Reasons for which the pool itself closes a connection that is fit for another use.
_IN_GOOD_ORDER: Final = frozenset({"idle", "lifetime", "forced"})

# Exceptions that end a use from outside, without a failure.
_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)

# RFC 6455, 7.1.5: the code for a CLOSE frame without a code.
_NO_CLOSE_CODE: Final = 1005
# RFC 6455, 5.5: a control frame has at most 125 bytes, and the code takes two of them.
_MAX_REASON: Final = 123

# Bytes to read from a server that keeps sending to a connection that the pool is closing. An
# unfinished message stays in memory, and may be as large as max_msg_size.
_MAX_UNWANTED: Final = 1 << 20


class _ParentsOwn:
    """Replaces, in a forked child, objects that would write to a socket or close it."""

    __slots__ = ("_error",)

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self._error = error

    async def send_frame(self, *args: Any, **kwargs: Any) -> None:
        raise self._error()

    def close(self) -> None:
        pass


class Owner(Protocol):
    """The part of a lifecycle that a connection needs."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    settings: Settings
    #: Creates the handles for hooks.
    express: Express
    #: Closing handshakes; the loop itself only refers to tasks weakly.
    goodbyes: set[asyncio.Task[None]]
    keepalives: Keepalives

    def ended(self, conn: "Connection", how: str, code: int) -> None:
        """Remove a connection that ended while parked from the pool.

        ``how`` is LOST or DIRTY; ``code`` is the code of the server's CLOSE, or 0.  Called inside
        the callbacks of the protocol, so it must be synchronous and short.
        """

    def gone(self, conn: "Connection") -> None:
        """Free the place of a closing connection whose socket is closed."""

    # For keep-alives.

    def carry_out(self, plan: Plan | None) -> None:
        """Carry out a plan of the core."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection that is in use or idle."""

    def is_fit_after(self, conn: "Connection", task: asyncio.Task[bool]) -> bool:
        """Park a connection if its hook succeeded; otherwise close it."""
        ...


class Connection(Parkable):
    """One WebSocket connection of the pool, in use, ``parked`` or ``closing``.

    ``ws`` is the response that aiohttp created, which the pool never hands out.  ``state`` is its
    ``__dict__``, which handles share.  ``owner`` is notified of the end.
    """

    __slots__ = (
        "_fragments",
        "_has_given_up",
        "_read_before",
        "_reader",
        "_resets_heartbeat",
        "_unwanted",
        "_writer",
        "acquired_at",
        "beat",
        "hooks",
        "is_polite",
        "is_silent",
        "owner",
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
        #: The lifecycle of the session.
        self.owner = owner
        self.hooks = hooks
        self.resets = hooks.reset is not None
        #: Code and reason of the server's CLOSE, once it was seen.
        self.server_close: tuple[int, str] | None = None
        #: Whether a hook failed while the server sent nothing.
        self.is_silent = False
        #: Whether it is new, and was not pooled yet.
        self.fresh = True
        self.busy = False
        #: Its entry in the timetable of keep-alives, if it has any.
        self.beat: Beat | None = None
        #: Whether to send ``goodbye``: it is closed in good order.
        self.is_polite = False
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
        # Frames that a thread is compressing. Older aiohttp does not count them.
        background = getattr(self._writer, "_background_tasks", None)
        self._background = _account_for_sends(self._writer) if background is None else background
        # aiohttp < 3.14 resets its heartbeat only in receive(), so never while parked.
        self._resets_heartbeat = ws._heartbeat is not None and not hasattr(ws, "_on_data_received")
        # Bytes that are still accepted while the pool closes the connection.
        self._unwanted = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.settled: asyncio.Future[None] | None = None
        self.acquired_at: Place | None = None
        self._has_given_up = False
        # Messages that had been read when a receive() was abandoned.
        self._read_before = 0
        self._disarm()

    def _disarm(self) -> None:
        """Stop timers of aiohttp that must not run on an idle connection."""
        # ClientTimeout(sock_read=...) of a user's session is for HTTP bodies. If it stayed active,
        # it would end an idle connection with SocketTimeoutError. ws_receive has its own timer.
        self._protocol.read_timeout = None
        self._protocol.start_timeout()
        if self.ws._heartbeat is not None:
            # It was started in the context of the caller of the handshake.
            self.ws._cancel_heartbeat()
            self.reset_heartbeat()

    def _take_over(self, forerunner: Any) -> None:
        # After an error, the protocol has no parser.
        self.failed = forerunner is None
        self._parser = None
        self._fragments: list[bytes] = []
        # Looked up once, because every release needs it.
        self._buffer = getattr(self._reader, "_buffer", None)
        if self._buffer is None or not hasattr(self._reader, "is_eof"):
            raise unsafe("the queue of a WebSocket shows neither its content nor its end")
        if self.failed:
            return
        if type(forerunner) is not Forerunner:
            raise unsafe("a WebSocket does not get its parser from set_parser()")
        self._parser = forerunner.parser
        self._fragments = fragments_of(self._parser)
        for data in forerunner.taken:
            self.follow(data)

    # -- in use ------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the server or the network has ended the connection."""
        ws = self.state
        return bool(
            ws["_closed"] or ws["_closing"] or self._reader.is_eof() or self._transport.is_closing()
        )

    def why_unfit(self) -> str:
        """Return the reason for closing a connection that is not clean."""
        return LOST if self.has_ended or self._is_ended_by_server() else DIRTY

    def _is_ended_by_server(self) -> bool:
        # A CLOSE after an unread message does not count: the message makes the connection dirty.
        kinds = [item[0].type for item in self._buffer or () if item[0].type not in _CONTROL]
        return kinds[:1] == [WSMsgType.CLOSE]

    @property
    def unread_close_code(self) -> int:
        """The code of an unread CLOSE; 0: there is none."""
        close = self._unread_close()
        return 0 if close is None else close[0]

    def _unread_close(self) -> tuple[int, str] | None:
        for item in self._buffer or ():
            if item[0].type is WSMsgType.CLOSE:
                return _close_of(item[0])
        return None

    def note_close(self, message: aiohttp.WSMessage) -> None:
        """Record a CLOSE of the server that was received."""
        self.server_close = _close_of(message)

    def look_for_close(self) -> tuple[int, str] | None:
        """Return code and reason of the server's CLOSE, read or unread, or None."""
        if self.server_close is None:
            self.server_close = self._unread_close()
        return self.server_close

    def clear(self) -> bool:
        """Remove harmless obstacles to reuse; return whether the connection is clean.

        These are unread control frames, unread messages that ``on_idle_message`` expects, and an
        abandoned ``receive()``, if a later one returned a message.
        """
        if self._is_read_given_up() and self._messages_read() > self._read_before:
            self.state["_close_code"] = None
        return self.is_clean() or self._answer_unread()

    def mark_clean(self) -> str | None:
        """Ignore an abandoned ``receive()``: the user knows that everything was read.

        Returns an obstacle, if there is one; then nothing changes.
        """
        obstacle = self._obstacle_to_clean()
        if obstacle is None:
            self.state["_close_code"] = None
        return obstacle

    def _obstacle_to_clean(self) -> str | None:
        if self.closing or self.failed or self.has_ended or self._is_ended_by_server():
            return "it is closed or has ended"
        if self.state["_waiting"]:
            return "a receive() is under way; cancel it, and wait for the end of its task"
        # With on_idle_message, the release judges what is unread.
        if self._messages_unread() and self.hooks.on_idle_message is None:
            return "a message is unread; receive() it first"
        if self.midway == IN_MESSAGE:
            return "a message has begun to arrive; receive() it first"
        return None

    def note_given_up_read(self) -> None:
        """Record that a ``receive()`` was abandoned: cancelled or timed out."""
        self._read_before = self._messages_read()

    def _messages_unread(self) -> int:
        return sum(item[0].type in _MESSAGES for item in self._buffer or ())

    def _messages_read(self) -> int:
        return self.messages - self._messages_unread()

    def park_cleared(self) -> bool:
        """Park the connection if it is clean, or can be made clean."""
        return self.clear() and self.park()

    def _answer_unread(self) -> bool:
        """Handle unread frames that need no caller; return whether the connection is clean then.

        All are judged before any is read, which could not be undone.
        """
        if not self._buffer or self.state["_waiting"]:
            return False
        # Reading some of them may make the parser go on with data that it has kept.
        while self._buffer:
            unread = len(self._buffer)
            answers = [self._answer_to(item[0]) for item in self._buffer]
            # The hook may have closed the session.
            if False in answers or len(self._buffer) != unread:
                return False
            for answer in answers:
                _read_now(self._reader)
                if not isinstance(answer, bool) and not self.send_now(answer):
                    return False
        if self._resets_heartbeat:
            self.reset_heartbeat()
        return self.is_clean()

    def _answer_to(self, message: aiohttp.WSMessage) -> Frame | bool:
        """Return the answer to a message that nobody has asked for.

        True: the message needs no answer.  False: it was not expected.
        """
        if message.type is WSMsgType.PING:
            return message.data, WSMsgType.PONG
        if message.type is WSMsgType.PONG:
            return True
        if message.type not in _MESSAGES or self.hooks.on_idle_message is None:
            return False
        # Nobody gets the connection meanwhile: the hook may run code that acquires one.
        was_busy, self.busy = self.busy, True
        try:
            return judge(self.owner.express, self, message)
        finally:
            self.busy = was_busy

    def reset_heartbeat(self) -> None:
        """Restart the heartbeat of the connection, in an empty context: it outlives users."""
        Context().run(self.ws._reset_heartbeat)

    # -- hooks -----------------------------------------------------------------------------------

    async def configure(self) -> None:
        """Run the hook ``configure`` of a new connection; raise its exception."""
        settings = self.owner.settings
        bound = Bound(settings.hook_timeout, self._configured_too_late)
        # From now on, the server may be busy with a request of the hook.
        self.slot.cools = True
        with bound:
            await run_hook("configure", self.owner.express, self, bound.deadline)
        if self.has_ended:
            said = f"the connection to {self.slot.endpoint} ended during its configure hook"
            raise aiohttp.ServerDisconnectedError(in_session(settings.name, said))
        self.slot.cools = False

    def _configured_too_late(self, seconds: float) -> aiohttp.ConnectionTimeoutError:
        said = (
            f"the configure hook of a connection to {self.slot.endpoint} did not end within"
            f" hook_timeout ({seconds:g} s)"
        )
        return aiohttp.ConnectionTimeoutError(in_session(self.owner.settings.name, said))

    # -- closing ---------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether the socket is closed."""
        # Before feed_eof(), the missing HTTP parser shows the end: only connection_lost() drops it.
        return self.gone or self._protocol._parser is None

    def watch_closing(self) -> None:
        """Start the timer of the closing handshake; the owner learns when the socket is closed.

        A second call may shorten the time: for a hook that closes the connection and then fails.
        """
        loop, settings = self.owner.loop, self.owner.settings
        # A server that was too slow to answer gets less time for the closing handshake.
        seconds = settings.hasty_timeout if self.is_given_up else settings.close_timeout
        if self.closing and (self.timer is None or self.timer.when() - loop.time() <= seconds):
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer = loop.call_later(seconds, self.abort, context=Context())
        if not self.closing:
            reason = CLOSE_REASONS[self.slot.reason]
            self.is_polite = reason in _IN_GOOD_ORDER and self.is_clean()
            self._stop_using()

    def _stop_using(self) -> None:
        self.parked = False
        self.closing = True
        sends = [sending for sending in self._background if isinstance(sending, asyncio.Task)]
        for sending in sends:
            # The send will fail, and nobody may be waiting for it.
            sending.add_done_callback(_retrieve_exception)
        if sends and LOG_ON_EXCEPTION is not None:
            self._writer.transport = _UnloggedTransport(self._transport)
        if self.is_gone:
            self._tell_gone()

    def say_goodbye(self) -> None:
        """Start the closing handshake in the background."""
        owner = self.owner
        # In an empty context: it outlives the caller.
        task = asyncio.Task(self._goodbye(), loop=owner.loop, context=Context())
        owner.goodbyes.add(task)
        # Not inside the coroutine, which never runs if cancelled before its first step.
        task.add_done_callback(self._goodbye_said, context=Context())

    async def _goodbye(self) -> None:
        try:
            if self.is_polite and self.hooks.goodbye is not None:
                with suppress(aiohttp.ClientError, ConnectionError):
                    await self._writer.send_frame(*frame_of(self.hooks.goodbye))
            await self.close(aiohttp.WSCloseCode.OK, b"")
        except Exception as exc:
            log(
                "close_failed",
                exc,
                session_name=self.owner.settings.name,
                endpoint=str(self.slot.endpoint),
                error=type(exc).__name__,
            )
            self.abort()

    def _goodbye_said(self, task: asyncio.Task[None]) -> None:
        self.owner.goodbyes.discard(task)
        if task.cancelled():
            self.abort()

    def until_settled(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection is closed, or pooled after a reset."""
        if self.settled is None:
            self.settled = self.owner.loop.create_future()
        return self.settled

    def completion(self) -> Completion:
        """Return the result of a release."""
        return DONE if self.slot.conn is None else Pending(self.until_settled())

    def settle(self) -> None:
        """Complete the release: the connection is pooled or closed."""
        settled, self.settled = self.settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)

    def _tell_gone(self) -> None:
        # Deferred, because aiohttp swallows exceptions inside connection_lost().
        self.owner.loop.call_soon(self._finish, context=Context())

    def _finish(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.settle()
        self.look_for_close()
        self.forget()
        self.owner.gone(self)

    async def close(self, code: int, message: bytes) -> None:
        """Do aiohttp's closing handshake; the caller limits its time."""
        ws = self.ws
        self.forget_cancelled_receive()
        self._unwanted = _MAX_UNWANTED
        try:
            await ws.close(code=code, message=message)
        finally:
            self.shut()
            if ws._exception is not None:
                # The traceback keeps the frame of close(), which keeps the connection (about 300 kB
                # with TLS) until the next cyclic collection.
                ws._exception.__traceback__ = None

    def forget_cancelled_receive(self) -> None:
        """Make ``close()`` do its handshake after a ``receive()`` that was cancelled or timed out.

        Such a ``receive()`` sets the close code 1006, with which ``close()`` skips the handshake.
        """
        if self._has_given_up or self._is_read_given_up():
            self._has_given_up = True
            self.state["_close_code"] = None

    @property
    def is_given_up(self) -> bool:
        """Whether the last user or a hook has abandoned the server, which was too slow."""
        return self.is_silent or self._has_given_up or self._is_read_given_up()

    def _is_read_given_up(self) -> bool:
        ws = self.state
        return ws["_close_code"] == aiohttp.WSCloseCode.ABNORMAL_CLOSURE and not (
            ws["_closed"] or ws["_closing"] or self._reader.is_eof()
        )

    def give_up(self) -> None:
        """Record that the user has abandoned a read or a send."""
        if self._protocol._paused:
            # The server does not read.
            self._has_given_up = True
        self.wake_pending_receive()

    def wake_pending_receive(self) -> None:
        """End a ``receive()`` that is under way, as aiohttp's ``close()`` does."""
        if self.state["_waiting"]:
            self._has_given_up = True
            self.state["_waiting"] = False
            self._reader.feed_data(aiohttp.http.WS_CLOSING_MESSAGE, 0)

    def shut(self) -> None:
        """Close the transport without a closing handshake."""
        # After an error in receive(), aiohttp marks a response as closed without closing it.
        self.ws._response.close()

    def abort(self) -> None:
        """Close the transport at once, and drop unsent data."""
        self._transport.abort()

    def leave_to_parent(self, error: Callable[[], BaseException]) -> None:
        """Mark the connection as closed in a forked child, without touching its socket."""
        self.ws._cancel_heartbeat()
        if self.timer is not None:
            self.timer.cancel()
        self.state["_closed"] = True
        self.state["_writer"] = self.state["_response"] = _ParentsOwn(error)

    def forget(self) -> None:
        """Drop references that a handle or a timer would keep alive."""
        if self.state.pop(CONNECTION, None) is not None and self.server_close is not None:
            self.state[CLOSE] = self.server_close
        self._leave_timetable()
        # aiohttp restarts its heartbeat for the server's CLOSE, after its own close(). The timer
        # would keep the connection alive for another one and a half heartbeats.
        self.ws._cancel_heartbeat()
        self._stop_accounting_for_sends()
        if hasattr(self._protocol, "_data_received_cb"):
            # Another reference cycle of connections with a heartbeat, in aiohttp 3.14 and later.
            self._protocol._data_received_cb = None

    def let_go(self) -> None:
        """Restore the connection as aiohttp created it, for its user."""
        if self._is_read_given_up():
            # With this code, close() would skip the closing handshake.
            self.state["_close_code"] = None
        self.state.pop(CONNECTION, None)
        self._leave_timetable()
        self._stop_accounting_for_sends()
        # A connection that is gone has no parser any more.
        if self._protocol._payload_parser is self:
            self._protocol._payload_parser = self._parser

    def _leave_timetable(self) -> None:
        if self.beat is not None:
            self.beat.conn = None
            self.beat = None

    def _stop_accounting_for_sends(self) -> None:
        if "send_frame" in getattr(self._writer, "__dict__", ()):
            # It is a reference cycle.
            del self._writer.send_frame

    # -- callbacks of the protocol ---------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Handle data that arrives while the connection is not in use."""
        self.only_control = True
        told_before = self.control_frames + self.messages
        self.follow(data)
        self.failed, _ = self._parser.feed_data(data)
        if self.parked:
            if self._resets_heartbeat:
                self.reset_heartbeat()
            is_idle = self.busy or self.slot.state == IDLE
            told = self._drain()
            if told is None:
                return
            # The parser reports a message only when it is complete. A caller that got the
            # connection before would receive it.
            if not (
                (self.only_control or self.hooks.on_idle_message is not None)
                and told == self.control_frames + self.messages - told_before
                and self._agrees()
            ):
                self._end(DIRTY)
            elif is_idle:
                self.owner.keepalives.answered(self)
        elif self.closing:
            # The server's CLOSE comes after everything that it has sent before.
            self._unwanted -= len(data)
            if self._unwanted < 0:
                self.abort()

    def feed_eof(self) -> None:
        """Handle the end of the connection, and pass it to the parser."""
        self.gone = True
        if (waiter := self._protocol._drain_waiter) is not None:
            # Older aiohttp shields it from the cancellation of its sender, so nobody may retrieve
            # its exception.
            waiter.add_done_callback(_retrieve_exception)
        if not self.failed:
            self._parser.feed_eof()
        if self.parked:
            self._end(LOST)
        elif self.closing:
            self._tell_gone()

    def end_unheard(self) -> None:
        """End a connection whose server is gone, as its heartbeat or a keep-alive shows."""
        if self.parked:
            self._end(LOST)
        # The server is gone, so there is no closing handshake, and none of TLS.
        self.abort()

    def end_held_back(self) -> None:
        """End a connection that a caller needs but must not get.

        Either it has ended and the protocol does not know yet, or a frame is incomplete, or it is
        busy with a keep-alive, after which it is pooled again.
        """
        if self.busy and self.slot.state == IDLE:
            self.owner.keepalives.set_aside(self)
            return
        self._end(LOST if self.has_closing_transport() else DIRTY)

    def _agrees(self) -> bool:
        """Return whether the parser agrees that no frame is incomplete."""
        return self.midway != BETWEEN_FRAMES or not any(self._fragments)

    def _drain(self) -> int | None:
        """Handle the messages in the queue; return their number, or None after the end."""
        told = 0
        while self._buffer:
            message = _read_now(self._reader)
            told += 1
            if message.type is WSMsgType.CLOSE:
                self._end_by_close(message)
                return None
            try:
                answer = self._answer_to(message)
            except BaseException:
                self._end(DIRTY)
                raise
            if self.closing:
                # The hook has closed the connection, for example by drain().
                return None
            if answer is False:
                self._end_by_message()
                return None
            if not isinstance(answer, bool):
                if not self.send_now(answer):
                    self._end(LOST)
                    return None
            elif message.type is not WSMsgType.PONG:
                # The answer to the keep-alive, if there was one.
                self.busy = False
        if self.failed or self._reader.is_eof():
            self._end(LOST)
            return None
        return told

    def _end_by_close(self, message: aiohttp.WSMessage) -> None:
        self.note_close(message)
        # With the code, close() answers the CLOSE and does not wait for another one.
        code = self.state["_close_code"] = message.data or _NO_CLOSE_CODE
        self._end(LOST, code)

    def _end_by_message(self) -> None:
        """End a connection after an unexpected message, which a CLOSE may follow."""
        if self.beat is not None:
            self.owner.keepalives.note_unexpected(self)
        while self._buffer:
            message = _read_now(self._reader)
            if message.type is WSMsgType.CLOSE:
                self._end_by_close(message)
                return
        self._end(DIRTY)

    def send_now(self, frame: Frame) -> bool:
        """Send a frame without waiting; return whether that was possible."""
        step = self._writer.send_frame(*frame)
        try:
            pending = step.send(None)
        except StopIteration:
            return True
        except (aiohttp.ClientError, ConnectionError):
            return False
        # The transport is full: the server sends and does not read. More frames would only fill
        # memory. Or the frame is so large that a thread compresses it, which may fail later.
        pending.cancel()
        step.close()
        return False

    def _end(self, how: str, code: int = 0) -> None:
        self.parked = False
        # In an empty context: no code of the program caused this.
        Context().run(self.owner.ended, self, how, code)


def _read_now(reader: Any) -> aiohttp.WSMessage:
    """Return the first message of a queue that has one."""
    step = reader.read()
    try:
        step.send(None)
    except StopIteration as stop:
        message: aiohttp.WSMessage = stop.value
        return message
    raise AssertionError("read() of a queue with a message did not return at once")


def _share_state(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """Give a response a ``__dict__`` that its handles can share, and return it.

    CPython stores keys and values of an ordinary ``__dict__`` separately, which makes lookups
    through a second object several times slower; a separately created dict is combined.  Values
    equal to class attributes are left out, except if a subclass overrides them.
    """
    cls = type(ws)
    state = ws.__dict__ = {
        name: value
        for name, value in ws.__dict__.items()
        if name not in USUAL or value is not getattr(cls, name)
    }
    return state


def reason_after(kind: type[BaseException]) -> str:
    """Return the reason for closing a connection after an exception of this class."""
    return "cancelled" if issubclass(kind, _CANCELLATIONS) else "failed"


def failure_of(task: asyncio.Task[bool]) -> str:
    """Return the reason for closing a connection after the task of a hook; empty: success."""
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is not None:
        return reason_after(type(error))
    return "" if task.result() else "failed"


def _close_of(message: aiohttp.WSMessage) -> tuple[int, str]:
    """Return code and reason of a CLOSE; the reason is untrusted, so it is made printable."""
    text = message.extra if isinstance(message.extra, str) else ""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return message.data or _NO_CLOSE_CODE, shown[:_MAX_REASON]


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class _UnloggedTransport:
    """Replaces the transport of a closing connection, for sends that a thread compresses.

    After compressing, the task of the send calls ``is_closing()`` and fails.  A waiting sender gets
    the exception; if the sender was cancelled, the exception handler of the loop does not get it.
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
    """Return a set that is empty only if no send is under way, and all sends were complete.

    A send that is cancelled while a thread compresses leaves the compressor out of step with the
    server.
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
