"""For tests: a scriptable WebSocket server, and a session that reports leaked connections.

The pytest plugin provides them as the fixtures ``ws_server`` and ``ws_session``; without pytest,
use each as a context manager.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import functools
import inspect
import linecache
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDictProxy

from . import arguments
from ._pool_py import ACQUIRED
from .hooks import is_being_cancelled
from .response import ClientWebSocketResponse
from .session import WebSocketClientSession

__all__ = ("CheckedSession", "Handshake", "WebSocketServer")

Message = str | bytes
#: The reply to a message: nothing, one message, or several.
Reply = Message | Iterable[Message] | None

_T = TypeVar("_T")

_HOST: Final = "127.0.0.1"

# Seconds to wait: for the server's thread to carry out a command, for its port to become free again
# after stop(), and between two checks of a condition.
_PATIENCE: Final = 10.0
_PORT_PATIENCE: Final = 5.0
_PAUSE: Final = 0.005

# Set before a socket is closed, it makes the peer get a reset.
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

# Code to which an acquisition may be passed, as in wait_for(session.ws_connect(...)); the caller of
# that code is the place to report.
_CARRIERS: Final = (os.path.dirname(asyncio.__file__) + os.sep, contextlib.__file__)

_ENDS: Final = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that the server received, accepted or not."""

    #: Path and query.
    path: str
    #: All headers; their names are case-insensitive.
    headers: CIMultiDictProxy[str]


class _Connection:
    """A connection that the server accepted."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.ws = ws
        self.transport = transport
        self.closing: asyncio.Task[object] | None = None
        #: Messages without a reply so far, with the loop's time of their arrival.
        self.inbox: asyncio.Queue[tuple[float, Message]] = asyncio.Queue()
        self.replied = 0


class WebSocketServer:
    """A real aiohttp server on a free port of loopback that echoes messages.

    It runs in a thread with its own loop.  So it serves tests with any loop or without a loop, and
    keeps running while a test blocks.  Commands from a test have taken effect on the server when
    the call returns; the client learns of them a little later, see :meth:`until`.

    .. code-block:: python

       with WebSocketServer() as server:
           server.refuse(503, times=2)
           ...
           assert server.connections == 1

    :param tls: serve ``wss://``, with a new certificate that :attr:`client_ssl` trusts.  Requires
       `trustme <https://trustme.readthedocs.io/>`_.
    """

    def __init__(self, *, tls: bool = False) -> None:
        #: Handshakes received so far, in order.
        self.handshakes: list[Handshake] = []
        #: Messages received so far, from all connections, in order.
        self.received: list[Message] = []
        #: Connections accepted so far.
        self.connections: int = 0
        #: Highest number of connections open at once.
        self.peak: int = 0
        #: Exceptions of the replies of :meth:`reply_with`.  Leaving the server raises them.
        self.errors: list[BaseException] = []
        #: With ``tls``, the context for ``ws_connect(ssl=...)``.
        self.client_ssl: ssl.SSLContext | None = None
        self._ssl: ssl.SSLContext | None = None
        if tls:
            self._ssl, self.client_ssl = _tls_contexts()
        self._port = 0
        self._open: dict[_Connection, None] = {}
        self._handshake_delay = 0.0
        self._reply_delay = 0.0
        self._refusal = 503
        #: Number of handshakes still to refuse; None: all.
        self._refusals: int | None = 0
        #: Number of replies after which a connection is closed, and the code.
        self._close_after: tuple[int, int] | None = None
        self._reply: Callable[[Any], Any] = _echo
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        """Return the class with the URL and the current numbers."""
        return (
            f"<{type(self).__name__} {self.url if self._port else 'not started'}"
            f" handshakes={len(self.handshakes)} connections={self.connections} open={self.open}"
            f" received={len(self.received)}>"
        )

    # -- reading ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL of the server, which accepts any path."""
        return f"{'wss' if self._ssl else 'ws'}://{_HOST}:{self.port}/"

    @property
    def port(self) -> int:
        """The port of the server; it stays the same after :meth:`stop` and :meth:`start`."""
        if not self._port:
            raise RuntimeError("the server has no port before it is started: call start()")
        return self._port

    @property
    def open(self) -> int:
        """The number of open connections that neither side has begun to close."""
        return len(self._open)

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait in the loop of a test until ``condition()`` is true.

        :raises TimeoutError: ``condition()`` stayed false for ``seconds``.
        """
        end = time.monotonic() + seconds
        # Not an asyncio.Event: the condition may depend on another thread.
        while not self._holds(condition, end):  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)

    def wait_until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait like :meth:`until`, but in a test without a loop."""
        end = time.monotonic() + seconds
        while not self._holds(condition, end):
            time.sleep(_PAUSE)

    def _holds(self, condition: Callable[[], object], end: float) -> bool:
        if condition():
            return True
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not become true in time: {self!r}")
        return False

    # -- configuring -----------------------------------------------------------------------------

    def delay(self, *, handshake: float | None = None, replies: float | None = None) -> None:
        """Delay handshakes and replies by this many seconds; ``None`` keeps the current delay.

        Meanwhile the server keeps reading: it answers pings, and closes when the client does.
        """
        handshake = arguments.seconds("handshake", handshake)
        replies = arguments.seconds("replies", replies)
        if handshake is not None:
            self._handshake_delay = handshake
        if replies is not None:
            self._reply_delay = replies

    def refuse(self, status: int = 503, *, times: int | None = None) -> None:
        """Refuse the next ``times`` handshakes, or all further ones, with this HTTP status.

        ``times=0`` accepts handshakes again.
        """
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"status must be an HTTP error status, 400 to 599, got {status!r}")
        self._refusal, self._refusals = status, arguments.places("times", times)

    def reply_with(
        self,
        replies: Mapping[Any, Reply] | Callable[[Any], Reply | Awaitable[Reply]] | None,
    ) -> None:
        """Reply to messages from a mapping or with a function, instead of an echo.

        A reply is a ``str``, ``bytes``, an iterable of these, or ``None`` for no reply.  The
        function may be a coroutine function, and runs in the server's thread.  If it raises, or if
        the mapping has no reply, the server closes the connection with code 1011, adds the
        exception to :attr:`errors`, and raises it at the end.  ``reply_with(None)`` echoes again.
        """
        if replies is None:
            self._reply = _echo
        elif isinstance(replies, Mapping):
            self._reply = functools.partial(_look_up, replies)
        elif callable(replies):
            self._reply = replies
        else:
            raise TypeError(
                f"replies must be a mapping, a function or None, not {type(replies).__name__}"
            )

    def close_after(self, messages: int | None, code: int = WSCloseCode.OK) -> None:
        """Close each connection after this many replies; ``None``: do not close any more."""
        count = arguments.places("messages", messages)
        if count == 0:
            raise ValueError(
                "messages must be >= 1 or None, got 0: to close open connections, call close()"
            )
        self._close_after = None if count is None else (count, _close_code(code))

    # -- acting ----------------------------------------------------------------------------------

    def send(self, message: Message) -> int:
        """Send a message to all open connections; return their number."""
        if not isinstance(message, str | bytes):
            raise TypeError(f"message must be a str or bytes, not {type(message).__name__}")
        return self._to_each(lambda connection: self._spawn(_send(connection.ws, message)))

    def close(self, code: int = WSCloseCode.OK, reason: str = "") -> int:
        """Begin to close all open connections; return their number."""
        code = _close_code(code)
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        message = reason.encode()
        if len(message) > 123:
            raise ValueError(f"reason must be at most 123 bytes long, got {len(message)} bytes")
        return self._to_each(lambda connection: self._begin_close(connection, code, message))

    def abort(self) -> int:
        """Reset (RST) all open connections; return their number."""
        return self._to_each(self._reset)

    def stop(self) -> None:
        """Stop listening, and abort all connections: an outage, until :meth:`start`."""
        thread = self._thread
        if thread is None:
            return
        if thread is threading.current_thread():
            raise RuntimeError("a function of reply_with() cannot stop its own server")
        # The loop is closed if an earlier stop() has ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise self._blocked()
        self._thread = None

    def start(self) -> None:
        """Listen; after :meth:`stop`, at the same port as before."""
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is already started")
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread = None
            raise

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Stop the server, and raise the exceptions of its replies, if any."""
        self.stop()
        if len(self.errors) > 1:
            raise BaseExceptionGroup("replies of the WebSocketServer failed", self.errors)
        if self.errors:
            raise self.errors[0]

    # -- from the test's thread to the server's --------------------------------------------------

    def _in_loop(self, function: Callable[[], _T]) -> _T:
        """Run a function in the server's loop, and return its result."""
        if threading.current_thread() is self._thread:
            return function()
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as exc:
                done.set_exception(exc)

        self._loop.call_soon_threadsafe(run)
        try:
            return done.result(_PATIENCE)
        except concurrent.futures.TimeoutError:
            if done.done():
                raise
            raise self._blocked() from None

    def _blocked(self) -> RuntimeError:
        return RuntimeError(f"{self!r} does not respond: is a function of reply_with() blocking?")

    def _to_each(self, function: Callable[[_Connection], object]) -> int:
        if self._thread is None:
            return 0

        def run() -> int:
            connections = list(self._open)
            for connection in connections:
                function(connection)
            return len(connections)

        return self._in_loop(run)

    # -- in the server's thread ------------------------------------------------------------------

    def _run(self, started: concurrent.futures.Future[None]) -> None:
        # The same loop under any policy: the server's loop is not under test.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            try:
                runner.run(self._serve(started))
            except BaseException as exc:
                if started.done():
                    raise
                started.set_exception(exc)

    async def _serve(self, started: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner)
            self._port = runner.addresses[0][1]
            started.set_result(None)
            await self._stopping.wait()
        finally:
            for site in list(runner.sites):
                await site.stop()
            for connection in self._open:
                connection.transport.abort()
            self._open.clear()
            for task in self._tasks:
                task.cancel()
            await runner.cleanup()

    async def _listen(self, runner: web.ServerRunner) -> None:
        end = time.monotonic() + _PORT_PATIENCE
        while True:
            site = web.TCPSite(runner, _HOST, self._port, ssl_context=self._ssl, backlog=1024)
            try:
                return await site.start()
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise
            await site.stop()
            await asyncio.sleep(0.05)

    def _spawn(self, steps: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = self._loop.create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        # aiohttp uses the task for other requests, too; it is listed only while the handler runs.
        self._tasks.add(task)
        try:
            return await self._answer_handshake(request)
        finally:
            self._tasks.discard(task)

    async def _answer_handshake(self, request: web.BaseRequest) -> web.StreamResponse:
        self.handshakes.append(Handshake(request.path_qs, request.headers))
        status = self._next_refusal()
        await asyncio.sleep(self._handshake_delay)
        if status is not None:
            return web.Response(status=status)
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        ws = web.WebSocketResponse(
            # The server closes only after it has updated its numbers.
            autoclose=False,
            protocols=[name.strip() for name in offered.split(",") if name.strip()],
            max_msg_size=0,
        )
        if not ws.can_prepare(request) or request.transport is None:
            return web.Response(status=400, text="a WebSocket handshake is expected")
        connection = _Connection(ws, request.transport)
        # Before the answer: a client with a connection must find it counted.
        self._open[connection] = None
        self.connections += 1
        self.peak = max(self.peak, len(self._open))
        with contextlib.suppress(ConnectionResetError):
            try:
                await ws.prepare(request)
                await self._serve_connection(connection)
            finally:
                self._forget(connection)
        return ws

    def _next_refusal(self) -> int | None:
        if self._refusals == 0:
            return None
        if self._refusals is not None:
            self._refusals -= 1
        return self._refusal

    async def _serve_connection(self, connection: _Connection) -> None:
        replying = self._spawn(self._reply_to_all(connection))
        try:
            while (message := await connection.ws.receive()).type not in _ENDS:
                self.received.append(message.data)
                connection.inbox.put_nowait((self._loop.time(), message.data))
            self._forget(connection)
        finally:
            replying.cancel()
        await (connection.closing or connection.ws.close())

    async def _reply_to_all(self, connection: _Connection) -> None:
        try:
            while connection.closing is None:
                came, message = await connection.inbox.get()
                await asyncio.sleep(came + self._reply_delay - self._loop.time())
                await self._reply_to(connection, message)
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and is_being_cancelled():
                # Cancelled by the server; otherwise the reply function has raised it.
                raise
            self.errors.append(exc)
            self._begin_close(connection, WSCloseCode.INTERNAL_ERROR, b"")

    async def _reply_to(self, connection: _Connection, message: Message) -> None:
        reply = self._reply(message)
        if inspect.isawaitable(reply):
            reply = await reply
        for one in _messages(reply):
            await _send(connection.ws, one)
        connection.replied += 1
        if self._close_after is not None and connection.replied >= self._close_after[0]:
            self._begin_close(connection, self._close_after[1], b"")

    def _begin_close(self, connection: _Connection, code: int, message: bytes) -> None:
        self._forget(connection)
        if connection.closing is None:
            connection.closing = self._spawn(connection.ws.close(code=code, message=message))

    def _reset(self, connection: _Connection) -> None:
        self._forget(connection)
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        connection.transport.abort()

    def _forget(self, connection: _Connection) -> None:
        self._open.pop(connection, None)


def _tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    try:
        import trustme
    except ImportError as exc:
        raise RuntimeError("a server with TLS needs trustme: pip install trustme") from exc
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def _close_code(code: int) -> int:
    # RFC 6455, 7.4: an endpoint must not send these codes.
    sent = isinstance(code, int) and 1000 <= code <= 4999
    if not sent or code in (1004, 1005, 1006, 1015):
        raise ValueError(
            "code must be a close code that can be sent, from 1000 to 4999 without 1004, 1005, 1006"
            f" and 1015, got {code!r}"
        )
    return int(code)


def _echo(message: Message) -> Reply:
    return message


def _look_up(replies: Mapping[Any, Reply], message: Message) -> Reply:
    try:
        return replies[message]
    except KeyError:
        raise LookupError(f"reply_with() has no reply for {message!r}") from None


def _messages(reply: object) -> list[Message]:
    if reply is None:
        return []
    messages = [reply] if isinstance(reply, str | bytes) else reply
    # A mapping is refused: probably meant as JSON, it would be sent as its keys.
    if isinstance(messages, Iterable) and not isinstance(messages, Mapping):
        messages = list(messages)
        if all(isinstance(message, str | bytes) for message in messages):
            return messages
    raise TypeError(f"a reply must be a str, bytes, an iterable of these, or None, not {reply!r}")


async def _send(ws: web.WebSocketResponse, message: Message) -> None:
    # The client may disconnect at any moment.
    with contextlib.suppress(ConnectionResetError):
        if isinstance(message, str):
            await ws.send_str(message)
        else:
            await ws.send_bytes(message)


class CheckedSession(WebSocketClientSession):
    """A session that reports connections that were acquired and not released, and where.

    It is as slow as a session in the debug mode of asyncio, because it remembers the place of each
    acquisition.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._forgotten: dict[Any, str] = {}

    def leaks(self) -> list[str]:
        """Return a line for each connection in use, and for each whose handle was lost."""
        in_use = [
            _describe(slot)
            for slot in self._pool.slots()
            # A slot with a task was released, and is being reset.
            if slot.state == ACQUIRED and slot.task is None and slot not in self._forgotten
        ]
        return [*self._forgotten.values(), *in_use]

    def _bind(self) -> None:
        super()._bind()
        self._debug = True
        self._express.open = False

    def _handle_lost(self, handle: ClientWebSocketResponse) -> None:
        slot: Any = handle._slot
        if slot.state == ACQUIRED:
            self._forgotten[slot] = f"{_describe(slot)} (forgotten)"
        super()._handle_lost(handle)


def _describe(slot: Any) -> str:
    place = None if slot.conn is None else slot.conn.acquired_at
    if place is None:
        return str(slot.endpoint)
    called = [frame for frame in place if not frame[0].co_filename.startswith(_CARRIERS)]
    if not called:
        return f"{slot.endpoint}, acquired in a separate task"
    code, line = called[-1]
    source = linecache.getline(code.co_filename, line).strip()
    where = f"{code.co_filename}:{line}, in {code.co_qualname}: {source}"
    return f"{slot.endpoint}, acquired at {where}"
