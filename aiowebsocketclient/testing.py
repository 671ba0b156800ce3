"""For tests: a WebSocket server that does what it is told, and a session that knows its leaks.

The pytest plugin gives both to tests, as its fixtures ``ws_server`` and ``ws_session``; elsewhere
each is a context manager.
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
#: What is sent for a message: nothing, one message, or several.
Reply = Message | Iterable[Message] | None

_T = TypeVar("_T")

_HOST: Final = "127.0.0.1"

# Seconds: for the thread to do what it was told, which takes a few turns of its loop; for a port
# to be free again that others may have taken meanwhile; between two looks at a condition.
_PATIENCE: Final = 10.0
_PORT_PATIENCE: Final = 5.0
_PAUSE: Final = 0.005

# To be set before a socket is closed, so that its peer gets a reset.
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

# What an acquisition may be handed to, as in wait_for(session.ws_connect(...)): who does that is
# of interest.
_CARRIERS: Final = (os.path.dirname(asyncio.__file__) + os.sep, contextlib.__file__)

_ENDS: Final = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake as the server got it, whether it accepted it or not."""

    #: The path, with the query.
    path: str
    #: All headers, whatever the case of their names.
    headers: CIMultiDictProxy[str]


class _Connection:
    """One that was accepted."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self.ws = ws
        self.transport = transport
        self.closing: asyncio.Task[object] | None = None
        #: Messages that wait for their reply, with the loop's time at which they came.
        self.inbox: asyncio.Queue[tuple[float, Message]] = asyncio.Queue()
        self.replied = 0


class WebSocketServer:
    """A real aiohttp server on loopback, at a free port of its own, that echoes what it gets.

    It lives in a thread with a loop of its own.  So it serves tests with any loop and tests without
    one, and goes on while a test blocks; what it is told from a test is done when the call returns.
    What follows on the other side of a socket takes its time: see :meth:`until`.

    .. code-block:: python

       with WebSocketServer() as server:
           server.refuse(503, times=2)
           ...
           assert server.connections == 1

    :param tls: serve ``wss://``, with a certificate of an authority made for it, which
       :attr:`client_ssl` trusts.  It takes `trustme <https://trustme.readthedocs.io/>`_.
    """

    def __init__(self, *, tls: bool = False) -> None:
        #: Each handshake that came, in their order.
        self.handshakes: list[Handshake] = []
        #: Each message that came, from whichever connection, in their order.
        self.received: list[Message] = []
        #: Connections accepted so far.
        self.connections: int = 0
        #: The most that were open at once.
        self.peak: int = 0
        #: What the replies given to :meth:`reply_with` raised.  The end of the server raises it.
        self.errors: list[BaseException] = []
        #: With ``tls``, what to give to ``ws_connect(ssl=...)``.
        self.client_ssl: ssl.SSLContext | None = None
        self._ssl: ssl.SSLContext | None = None
        if tls:
            self._ssl, self.client_ssl = _tls_contexts()
        self._port = 0
        self._open: dict[_Connection, None] = {}
        self._handshake_delay = 0.0
        self._reply_delay = 0.0
        self._refusal = 503
        #: Handshakes that will be refused still; None: all.
        self._refusals: int | None = 0
        #: The number of messages after which a connection is closed, and the code.
        self._close_after: tuple[int, int] | None = None
        self._reply: Callable[[Any], Any] = _echo
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        """Return the class with the URL and live counts."""
        return (
            f"<{type(self).__name__} {self.url if self._port else 'not started'}"
            f" handshakes={len(self.handshakes)} connections={self.connections} open={self.open}"
            f" received={len(self.received)}>"
        )

    # -- what can be seen ------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it listens; every path is served."""
        return f"{'wss' if self._ssl else 'ws'}://{_HOST}:{self.port}/"

    @property
    def port(self) -> int:
        """The port at which it listens, which :meth:`stop` and :meth:`start` do not change."""
        if not self._port:
            raise RuntimeError("the server has no port before it is started")
        return self._port

    @property
    def open(self) -> int:
        """The number of connections that are open: no side has begun to close them."""
        return len(self._open)

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait in a test's loop for what happens on the server's side, or elsewhere.

        :raises TimeoutError: ``condition()`` was false for so long.
        """
        end = time.monotonic() + seconds
        # No asyncio.Event: it may be about another thread.
        while not self._holds(condition, end):  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)

    def wait_until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Do the same in a test without a loop."""
        end = time.monotonic() + seconds
        while not self._holds(condition, end):
            time.sleep(_PAUSE)

    def _holds(self, condition: Callable[[], object], end: float) -> bool:
        if condition():
            return True
        if time.monotonic() > end:
            raise TimeoutError(f"what was waited for did not come true; {self!r}")
        return False

    # -- what it is to do ------------------------------------------------------------------------

    def delay(self, *, handshake: float | None = None, replies: float | None = None) -> None:
        """Answer handshakes, and messages, so many seconds late; ``None`` leaves it as it is.

        Meanwhile it goes on reading: it answers pings, and closes when the client does.
        """
        handshake = arguments.seconds("handshake", handshake)
        replies = arguments.seconds("replies", replies)
        if handshake is not None:
            self._handshake_delay = handshake
        if replies is not None:
            self._reply_delay = replies

    def refuse(self, status: int = 503, *, times: int | None = None) -> None:
        """Answer handshakes with this HTTP status: the next ``times``, or all from now on.

        ``times=0`` accepts them again.
        """
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"status must be that of a refusal, 400 to 599, not {status!r}")
        self._refusal, self._refusals = status, arguments.places("times", times)

    def reply_with(
        self,
        replies: Mapping[Any, Reply] | Callable[[Any], Reply | Awaitable[Reply]] | None,
    ) -> None:
        """Answer messages by a mapping or by a function of each, instead of with an echo.

        A reply is a ``str`` or ``bytes``, an iterable of them, or ``None``: no reply.  The
        function, which may be a coroutine function, runs in the server's thread.  When it raises,
        and for a message that the mapping does not have, the connection is closed with code 1011;
        the error is in :attr:`errors`, and is raised at the end.  ``None``: echo again.
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
        """Close each connection when it has had so many replies; ``None``: no more."""
        count = arguments.places("messages", messages)
        if count == 0:
            raise ValueError("messages must be 1 or more; to close what is open, call close()")
        self._close_after = None if count is None else (count, _close_code(code))

    # -- what it is to do now --------------------------------------------------------------------

    def send(self, message: Message) -> int:
        """Send a message to all that are open, unasked; return to how many."""
        if not isinstance(message, str | bytes):
            raise TypeError(f"message must be a str or bytes, not {type(message).__name__}")
        return self._to_each(lambda connection: self._spawn(_send(connection.ws, message)))

    def close(self, code: int = WSCloseCode.OK, reason: str = "") -> int:
        """Begin to close all that are open; return how many those were."""
        code = _close_code(code)
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        message = reason.encode()
        if len(message) > 123:
            raise ValueError("reason must not be more than 123 bytes long")
        return self._to_each(lambda connection: self._begin_close(connection, code, message))

    def abort(self) -> int:
        """Reset (RST) all that are open; return how many those were."""
        return self._to_each(self._reset)

    def stop(self) -> None:
        """Listen no more, and cut off whatever is open: an outage, until :meth:`start`."""
        thread = self._thread
        if thread is None:
            return
        if thread is threading.current_thread():
            raise RuntimeError("a function of reply_with() cannot stop its own server")
        # Its loop is closed if it was told before, and has stopped since.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise self._blocked()
        self._thread = None

    def start(self) -> None:
        """Listen, after a :meth:`stop` at the same port as before."""
        if self._thread is not None:
            raise RuntimeError(f"{self!r} is started already")
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
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Stop it, and raise what its replies have raised, if anything."""
        self.stop()
        if len(self.errors) > 1:
            raise BaseExceptionGroup("replies of the WebSocketServer failed", self.errors)
        if self.errors:
            raise self.errors[0]

    # -- from the test's thread to the server's --------------------------------------------------

    def _in_loop(self, function: Callable[[], _T]) -> _T:
        """Run it between two steps of the server's loop."""
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
        return RuntimeError(f"{self!r} does not react: is a function of reply_with() blocking?")

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
        # The same loop whatever the policy: this is not what is tested.
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
        # It goes on to other requests of the same connection, but is here while there is a handler.
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
            # Not before it is counted here: who closes is to find it closed.
            autoclose=False,
            protocols=[name.strip() for name in offered.split(",") if name.strip()],
            max_msg_size=0,
        )
        if not ws.can_prepare(request) or request.transport is None:
            return web.Response(status=400, text="a WebSocket handshake is expected")
        connection = _Connection(ws, request.transport)
        # Before it is answered: whoever has a connection finds it counted.
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
                # By the server; otherwise it is what the function for replies has raised.
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
    # Those that are never sent, RFC 6455, 7.4, are not to be told to a server either.
    sent = isinstance(code, int) and 1000 <= code <= 4999
    if not sent or code in (1004, 1005, 1006, 1015):
        raise ValueError(f"code must be a close code that can be sent, not {code!r}")
    return int(code)


def _echo(message: Message) -> Reply:
    return message


def _look_up(replies: Mapping[Any, Reply], message: Message) -> Reply:
    try:
        return replies[message]
    except KeyError:
        raise LookupError(f"there is no reply for {message!r}") from None


def _messages(reply: object) -> list[Message]:
    if reply is None:
        return []
    messages = [reply] if isinstance(reply, str | bytes) else reply
    # What was meant as JSON would be sent as its keys.
    if isinstance(messages, Iterable) and not isinstance(messages, Mapping):
        messages = list(messages)
        if all(isinstance(message, str | bytes) for message in messages):
            return messages
    raise TypeError(f"a reply must be a str, bytes, some of them or None, not {reply!r}")


async def _send(ws: web.WebSocketResponse, message: Message) -> None:
    # The client may go at any moment.
    with contextlib.suppress(ConnectionResetError):
        if isinstance(message, str):
            await ws.send_str(message)
        else:
            await ws.send_bytes(message)


class CheckedSession(WebSocketClientSession):
    """A session that can tell what was acquired and not given back, and where.

    It is as slow as one in the debug mode of asyncio, since it remembers each acquisition.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._forgotten: dict[Any, str] = {}

    def leaks(self) -> list[str]:
        """Return a line for each connection in use, and for each that was forgotten in use."""
        in_use = [
            _describe(slot)
            for slot in self._pool.slots()
            # One with a task was released, and is being reset.
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
        return f"{slot.endpoint}, acquired in a task of its own"
    code, line = called[-1]
    source = linecache.getline(code.co_filename, line).strip()
    where = f"{code.co_filename}:{line}, in {code.co_qualname}: {source}"
    return f"{slot.endpoint}, acquired at {where}"
