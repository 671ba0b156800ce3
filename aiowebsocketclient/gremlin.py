"""A pool for ``gremlinpython``, the synchronous client of Gremlin Server: ``GremlinPool``.

::

    from gremlin_python.driver.client import Client

    with GremlinPool(limit=4) as pool:
        client = Client(
            "ws://localhost:8182/gremlin",
            "g",
            transport_factory=pool.transport_factory,
            protocol_factory=pool.protocol_factory,
        )
        print(client.submit("g.V().count()").all().result())
        client.close()

All transports of a pool share one :class:`WebSocketClientSession`, which runs in an event loop in a
thread of its own.  A transport acquires a connection for each request, and releases it when the
last reply has been read, even if that is an error.

The extra ``aiowebsocketclient[gremlin]`` installs ``gremlinpython``.
"""

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import aiohttp

from . import arguments
from .deadlines import Bound
from .exceptions import PoolClosedError, in_session
from .forking import note_use
from .response import ClientWebSocketResponse
from .session import WebSocketClientSession

try:
    from gremlin_python.driver.protocol import GremlinServerError, GremlinServerWSProtocol
    from gremlin_python.driver.serializer import GraphBinarySerializersV1
    from gremlin_python.driver.transport import AbstractBaseTransport
except ImportError as exc:
    raise ImportError(
        "aiowebsocketclient.gremlin needs gremlinpython: pip install 'aiowebsocketclient[gremlin]'",
        name=exc.name,
    ) from exc

__all__ = ("GremlinConnectionError", "GremlinPool")

_T = TypeVar("_T")

_PARTIAL_CONTENT: Final = 206
# After these, the server may go on waiting for a login on the connection.
_LOGIN_FAILED: Final = frozenset({401, 407})

# The default of gremlinpython, in bytes; that of aiohttp is 4 MiB.
_MAX_MSG_SIZE: Final = 10 * 1024 * 1024

# Options of a session that cannot come from another thread.
# Options that callers may expect, with what to do instead.
_NOT_TAKEN: Final = {
    "client_session": "an aiohttp.ClientSession belongs to the event loop in which it was created",
    "compress": 'pass connect_options={"compress": ...}',
    "heartbeat": 'pass connect_options={"heartbeat": ...}',
    "loop": "the pool runs an event loop of its own; loop_factory= creates it",
    "max_content_length": 'pass connect_options={"max_msg_size": ...}',
    "max_msg_size": 'pass connect_options={"max_msg_size": ...}',
    "pool_size": "it is an option of the client; limit= bounds the connections of the pool",
    "proxy": 'pass connect_options={"proxy": ...}',
    "ssl": 'pass connect_options={"ssl": ...}',
    "ssl_options": 'pass connect_options={"ssl": ...}',
}


class GremlinConnectionError(aiohttp.ServerDisconnectedError, RuntimeError):
    """The connection ended before the last reply to a request was read.

    Nothing is repeated: the server may have carried out the request.  It is also a
    ``RuntimeError``, as in gremlinpython's own transport.
    """


class _LoopThread:
    """A session in an event loop in a thread of its own, until :meth:`stop`."""

    def __init__(
        self,
        session: WebSocketClientSession,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        name: str | None,
    ) -> None:
        self.session: Final = session
        #: Whether the loop has ended; in a forked child, it has stayed with the parent.
        self.is_over = False
        #: Whether an exception is ending the loop.
        self.is_ending = False
        self._name = name
        # What ended the loop, if it was not stop().
        self._cause: BaseException | None = None
        #: Exchanges with a connection.  The garbage collector must not take them with a transport,
        #: which closes its connection itself.
        self.exchanges: set[_Exchange] = set()
        # Calls that have no result yet; None: the loop has not begun the call.
        self._calls: dict[Future[Any], asyncio.Task[Any] | None] = {}
        self._lock = threading.Lock()
        self._stopping = asyncio.Event()
        self._serves = True
        self._loop = loop_factory()
        called = "aiowebsocketclient.gremlin" if name is None else f"aiowebsocketclient {name}"
        self._thread = threading.Thread(target=self._run, name=called, daemon=True)
        self._has_begun = False

    def begin(self) -> None:
        """Start the thread unless it has been started; if that fails, the object is of no use."""
        if self._has_begun:
            return
        try:
            self._has_begun = True
            self._thread.start()
        except RuntimeError:
            # The process has too many threads.
            self.is_over = True
            self._loop.close()
            raise
        except BaseException:
            # An interrupted start: the thread may run.
            self.stop()
            self.is_over = True
            raise

    # -- in any thread -----------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return self._thread is threading.current_thread()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop if the loop has not ended; return without waiting."""
        if self.is_over:
            return
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop has been closed since.
            return

    def start(self, function: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> Future[_T]:
        """Run a coroutine function in the loop; return the future of its result."""
        future: Future[_T] = Future()
        try:
            with self._lock:
                if self.is_over:
                    raise self.end_error()
                self._calls[future] = None
            self.post(self._begin, future, function, args)
        except BaseException:
            # Also if the thread of the caller is interrupted.
            self._calls.pop(future, None)
            raise
        return future

    def call(self, function: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        """Run a coroutine function in the loop and wait for its result."""
        return self.start(function, *args).result()

    def stop(self) -> None:
        """Close the session and end the loop and the thread, without waiting."""
        self.post(self._stopping.set)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def leave_to_parent(self) -> None:
        """Mark the loop as ended in a forked child, which has no such thread."""
        # A thread of the parent may have held the lock.
        self._lock = threading.Lock()
        self.is_over = True

    def end_error(self) -> PoolClosedError:
        """Return the error of calls after the end of the loop."""
        if self._cause is None:
            said = "this GremlinPool is closed, or was closed while a call was under way"
        else:
            said = f"the event loop of this GremlinPool was ended by {type(self._cause).__name__}"
        error = PoolClosedError(in_session(self._name, said))
        error.__cause__ = self._cause
        return error

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                try:
                    runner.run(self._serve())
                except BaseException as exc:
                    # For example SystemExit in a hook. Callers get it as the cause of their errors.
                    self._cause = exc
                    self.is_ending = True
        finally:
            with self._lock:
                self.is_over = True
            for future in list(self._calls):
                self._fail(future, self.end_error())

    async def _serve(self) -> None:
        try:
            async with self.session:
                await self._stopping.wait()
        finally:
            self._serves = False

    def _begin(
        self,
        future: Future[_T],
        function: Callable[..., Coroutine[Any, Any, _T]],
        args: tuple[Any, ...],
    ) -> None:
        if future not in self._calls:
            # The caller was interrupted.
            return
        if not self._serves:
            # Nobody would wait for the task.
            self._fail(future, self.end_error())
            return
        task = self._calls[future] = self._loop.create_task(function(*args))
        task.add_done_callback(partial(self._finish, future))

    def _finish(self, future: Future[_T], task: "asyncio.Task[_T]") -> None:
        if task.cancelled():
            closed = self.session.closed
            self._fail(future, self.end_error() if closed else _cut_error())
            return
        error = task.exception()
        if error is None:
            self._calls.pop(future, None)
            future.set_result(task.result())
        elif isinstance(error, PoolClosedError):
            self._fail(future, self.end_error())
        elif isinstance(error, Exception):
            self._fail(future, error)
        else:
            # It ends this loop. It must not end the thread of the caller.
            self._cause = error
            self.is_ending = True
            self._fail(future, self.end_error())

    def _fail(self, future: Future[Any], error: Exception) -> None:
        self._calls.pop(future, None)
        future.set_exception(error)


def _cut_error() -> GremlinConnectionError:
    return GremlinConnectionError("Connection was closed by this client during a request.")


class _Exchange:
    """A connection for one request, or for one session of Gremlin Server.

    Its public methods may be called in any thread. All others run in the loop, which owns the
    connection: the first of them to call ``_take()`` gives the connection back, exactly once.
    """

    def __init__(self, thread: _LoopThread, url: str, options: dict[str, Any]) -> None:
        self._thread = thread
        self._url = url
        self._options = options
        self._ws: ClientWebSocketResponse | None = None
        # The task of the call that is under way.
        self._task: asyncio.Task[Any] | None = None
        self._is_over = False

    # -- in any thread -----------------------------------------------------------------------------

    def write(self, message: bytes, seconds: float | None) -> None:
        """Send a message; the first acquires the connection."""
        self._thread.call(self._step, self._send, message, seconds)

    def read(self, seconds: float | None) -> bytes:
        """Wait for the next message and return it."""
        data: bytes = self._thread.call(self._step, self._receive, seconds)
        return data

    def release(self) -> None:
        """Give the connection back to the pool; do not wait."""
        self._thread.post(self._release)

    def close(self, *, cut: bool) -> None:
        """Close the connection, and let a call that is under way fail; do not wait.

        ``cut``: replies may be on the way.
        """
        self._thread.post(self._begin_to_close, cut)

    # -- in the loop -------------------------------------------------------------------------------

    async def _step(self, function: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        if self._is_over:
            raise _cut_error()
        self._task = asyncio.current_task()
        try:
            return await function(*args)
        except BaseException as exc:
            await self._leave(exc)
            raise
        finally:
            self._task = None

    async def _leave(self, error: BaseException) -> None:
        """Close the connection as a block that an exception leaves, without waiting."""
        ws = self._take()
        if ws is not None:
            await ws.__aexit__(type(error), error, error.__traceback__)

    def _take(self) -> ClientWebSocketResponse | None:
        """End the exchange; return the connection to whoever comes first."""
        self._is_over = True
        self._thread.exchanges.discard(self)
        ws, self._ws = self._ws, None
        return ws

    async def _send(self, message: bytes, seconds: float | None) -> None:
        if self._ws is None:
            self._ws = await self._thread.session.ws_connect(self._url, **self._options)
            self._thread.exchanges.add(self)
        with Bound(seconds, _write_timed_out) as bound:
            async with bound.deadline:
                await self._ws.send_bytes(message)

    async def _receive(self, seconds: float | None) -> bytes:
        ws = self._ws
        assert ws is not None
        with Bound(seconds, _read_timed_out) as bound:
            async with bound.deadline:
                message = await ws.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is aiohttp.WSMsgType.TEXT:
            # With decode_text=False, it is bytes already.
            text: str | bytes = message.data
            return (text.encode() if isinstance(text, str) else text).strip()
        if self._thread.session.closed:
            raise self._thread.end_error()
        raise _end_error(ws, message)

    def _release(self) -> None:
        ws = self._take()
        if ws is not None:
            ws.release()

    def _begin_to_close(self, cut: bool) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        elif cut:
            self._thread.start(self._leave, _cut_error())
        else:
            ws = self._take()
            if ws is not None:
                self._thread.start(ws.close)


def _write_timed_out(seconds: float) -> TimeoutError:
    return TimeoutError(f"the request could not be sent within write_timeout={seconds:g} seconds")


def _read_timed_out(seconds: float) -> TimeoutError:
    return TimeoutError(f"no reply arrived within read_timeout={seconds:g} seconds")


def _end_error(ws: ClientWebSocketResponse, message: aiohttp.WSMessage) -> GremlinConnectionError:
    """Return the error for a message that is not a reply."""
    if message.type is aiohttp.WSMsgType.ERROR:
        error = message.data
        said = f"Connection was closed after an error: {type(error).__name__}"
        if getattr(error, "code", None) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            said += ": a reply exceeds max_msg_size: pass connect_options={'max_msg_size': bytes}"
    else:
        code = "" if ws.close_code is None else f", with code {ws.close_code}"
        said = f"Connection was closed by server{code}."
    return GremlinConnectionError(said)


class _Transport(AbstractBaseTransport):
    """The transport of one connection of gremlinpython, which has at most one request under way."""

    def __init__(self, pool: "GremlinPool") -> None:
        self._pool = pool
        self._url = ""
        self._headers: Any = None
        self._exchange: _Exchange | None = None
        self._closed = False
        # Whether the protocol of the pool is used.
        self._has_begun = False
        # Whether the connection belongs to a session of Gremlin Server, which has begun.
        self._in_session = False
        self._session_has_begun = False
        # Whether the request under way closes that session.
        self._ends_session = False
        # Whether the last reply to a request is still to come.
        self._is_waiting = False

    def connect(self, url: str, headers: Any = None) -> None:
        """Remember where to connect: each request acquires a connection."""
        self._url = url
        self._headers = headers

    def begin(self, *, in_session: bool, ends_session: bool) -> None:
        """Prepare for the first message of a request.

        ``in_session``, ``ends_session``: whether it belongs to a session of Gremlin Server, and
        whether it closes the session.
        """
        self._has_begun = True
        self._ends_session = ends_session
        if in_session and self._in_session and not self._is_waiting and self._exchange is not None:
            return
        # If there is a connection, nobody has read the last reply to the request before.
        self.discard()
        self._in_session = in_session
        if in_session and self._session_has_begun:
            # On another connection, the server would begin a new session with the same name.
            error = GremlinConnectionError(
                "Connection was closed, and the session of Gremlin Server ended with it:"
                " create a client with a new session"
            )
            self._fail(error)
            raise error

    def write(self, message: bytes) -> None:
        """Send a message; acquire a connection for the first message of a request."""
        if not self._has_begun:
            raise TypeError(
                "transport_factory=pool.transport_factory needs protocol_factory="
                "pool.protocol_factory, which recognizes the last reply to a request"
            )
        try:
            if self._exchange is None:
                self._exchange = self._pool._exchange(self._url, self._headers)
            exchange = self._exchange
            # Only now: close() may run in another thread.
            if self._closed:
                raise PoolClosedError("this client of gremlinpython is closed")
            self._is_waiting = True
            exchange.write(message, self._pool._write_timeout)
        except BaseException as exc:
            self._fail(exc)
            raise
        if self._in_session:
            self._session_has_begun = True

    def read(self) -> bytes:
        """Return the next message of the server."""
        try:
            exchange = self._exchange
            if exchange is None:
                raise _cut_error()
            return exchange.read(self._pool._read_timeout)
        except BaseException as exc:
            self._fail(exc)
            raise

    def _fail(self, error: BaseException) -> None:
        """Close the connection after an error.

        A session ends with its connection, so it needs no request any more that closes it: raise
        the only error that ``Client.close()`` then ignores.
        """
        self.discard()
        if self._ends_session and isinstance(error, Exception):
            said = f"the session ended with its connection: {type(error).__name__}"
            status = {"code": 500, "message": said, "attributes": {}}
            raise GremlinServerError(status) from error

    def finish(self) -> None:
        """Release the connection after the last reply; a session keeps it until it is closed."""
        self._is_waiting = False
        if self._ends_session:
            self.discard()
        elif not self._in_session:
            exchange, self._exchange = self._exchange, None
            if exchange is not None:
                exchange.release()

    def discard(self) -> None:
        """Close the connection, if there is one: replies may be on the way."""
        cut, self._is_waiting = self._is_waiting, False
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close(cut=cut)

    def close(self) -> None:
        """Close the connection, if there is one; a request under way in another thread fails."""
        self._closed = True
        self.discard()

    @property
    def closed(self) -> bool:
        """Whether the transport was closed."""
        return self._closed

    def __del__(self) -> None:
        """Close the connection of a client that was not closed."""
        self.discard()


class _Serializer:
    """A serializer for one protocol, which reads only replies to its own request."""

    def __init__(self, serializer: Any) -> None:
        self._serializer = serializer
        self.request_id = ""

    def serialize_message(self, request_id: str, request_message: Any) -> bytes:
        self.request_id = request_id
        message: bytes = self._serializer.serialize_message(request_id, request_message)
        return message

    def deserialize_message(self, data: bytes) -> dict[str, Any]:
        message: dict[str, Any] = self._serializer.deserialize_message(data)
        if str(message["requestId"]) != self.request_id:
            raise GremlinConnectionError("Connection was closed: a reply belongs to no request")
        return message


class _Login(NamedTuple):
    username: str
    password: str
    kerberized_service: str


class _Protocol(GremlinServerWSProtocol):
    """Tells the transport where a request begins and ends."""

    def __init__(self, pool: "GremlinPool", serializer: Any, login: _Login) -> None:
        super().__init__(_Serializer(serializer), **login._asdict())
        self._pool = pool
        self._given_username = login.username

    def connection_made(self, transport: Any) -> None:
        """Take a transport, which must be one of the same pool."""
        if not isinstance(transport, _Transport) or transport._pool is not self._pool:
            is_foreign = not isinstance(transport, _Transport)
            given = type(transport).__name__ if is_foreign else "that of another pool"
            raise TypeError(
                "protocol_factory=pool.protocol_factory needs transport_factory="
                f"pool.transport_factory of the same pool, not {given}"
            )
        super().connection_made(transport)

    def write(self, request_id: str, request_message: Any) -> None:
        """Send a request, or the answer to a challenge of the server."""
        if request_message.op != "authentication":
            # The connection may be another one. Kerberos begins anew on each.
            self._kerberos_context = None
            self._username = self._given_username
            in_session = request_message.processor == "session"
            self._transport.begin(
                in_session=in_session, ends_session=in_session and request_message.op == "close"
            )
        super().write(request_id, request_message)

    def data_received(self, message: bytes, results_dict: dict[str, Any]) -> int:
        """Hand on a reply, return its status, and release the connection after the last reply."""
        # gremlinpython keeps the results of requests that were cut, for ever.
        for request_id in results_dict.keys() - {self._message_serializer.request_id}:
            del results_dict[request_id]
        try:
            status: int = super().data_received(message, results_dict)
        except GremlinServerError as exc:
            # An error is the last reply to its request.
            if exc.status_code in _LOGIN_FAILED:
                self._transport.discard()
            else:
                self._transport.finish()
            raise
        except BaseException:
            # The reply is not understood.
            self._transport.discard()
            raise
        if status != _PARTIAL_CONTENT:
            self._transport.finish()
        return status


class GremlinPool:
    """A pool for ``Client`` and ``DriverRemoteConnection`` of gremlinpython.

    :param message_serializer: the serializer of all clients, such as ``GraphSONSerializersV3d0()``;
        default: that of gremlinpython, GraphBinary.  The same option of a client has no effect.
    :param username: for SASL; all connections of a pool belong to this user.
    :param password: for SASL.
    :param kerberized_service: for Kerberos.
    :param read_timeout: seconds to wait for each message of the server; then ``TimeoutError``, and
        the connection is closed.  None: no timeout.
    :param write_timeout: the same for sending a request, once there is a connection.
    :param connect_options: options of ``ws_connect()`` for all connections: ``{"ssl": context,
        "heartbeat": 30.0}``.  ``max_msg_size`` is 10 MiB unless given, as in gremlinpython.
    :param loop_factory: creates the event loop: ``uvloop.new_event_loop``.
    :param session_options: options of the :class:`WebSocketClientSession`: ``limit``,
        ``acquire_timeout``, ``conn_timeout``, ``max_idle`` and so on.  Hooks run in the loop of the
        pool.  Not ``loop`` and ``client_session``.

    A client passes its ``headers`` to the pool.  All its other options of transport and protocol
    (``username``, ``ssl_options``, ``max_content_length``, ``heartbeat`` and so on) have no effect:
    gremlinpython applies them only to its own transport and protocol.  Pass them to the pool.

    All methods are thread-safe.  The thread of the pool starts at the first request.  A forked
    child gets a thread and connections of its own, and must make its own clients.  Invalid
    arguments raise ``TypeError`` or ``ValueError``.

    Close the clients first, then the pool.
    """

    # For __del__, which runs even if the constructor raises.
    _thread: _LoopThread | None = None
    _has_run = False

    def __init__(
        self,
        *,
        message_serializer: Any = None,
        username: str = "",
        password: str = "",
        kerberized_service: str = "",
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        connect_options: Mapping[str, Any] | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        **session_options: Any,
    ) -> None:
        self._serializer = _serializer(message_serializer)
        self._login = _Login(
            _text("username", username),
            _text("password", password),
            _text("kerberized_service", kerberized_service),
        )
        self._read_timeout = arguments.positive("read_timeout", read_timeout)
        self._write_timeout = arguments.positive("write_timeout", write_timeout)
        self._connect_options = _connect_options(connect_options)
        if not callable(loop_factory):
            raise TypeError(f"loop_factory must be callable, not {type(loop_factory).__name__}")
        self._loop_factory = loop_factory
        for name, why in _NOT_TAKEN.items():
            if name in session_options:
                raise TypeError(f"GremlinPool() takes no {name}: {why}")
        self._session_options = session_options
        self._session = WebSocketClientSession(**session_options)
        self._name: str | None = session_options.get("name")
        self._closed = False
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def session(self) -> WebSocketClientSession:
        """The session of the pool, for statistics and metrics.

        ``session.stats()``, ``session.stats_by_endpoint()``, ``PoolCollector(session)`` and the
        like are thread-safe.  Use everything else only in the event loop of the pool.
        """
        return self._session

    def transport_factory(self) -> AbstractBaseTransport:
        """Return a new transport; it is the ``transport_factory`` of a client."""
        return _Transport(self)

    def protocol_factory(self) -> GremlinServerWSProtocol:
        """Return a new protocol; it is the ``protocol_factory`` of a client."""
        return _Protocol(self, self._serializer, self._login)

    def drain(self) -> None:
        """Retire all connections, as by ``WebSocketClientSession.drain()``.

        It waits until the idle connections are closed: at most ``close_timeout`` seconds.
        """
        with self._lock:
            self._check_open()
            thread = self._thread
        if thread is not None and not thread.is_over:
            self._refuse_in_loop(thread, "drain()")
            thread.call(_drain, thread.session)

    def close(self) -> None:
        """Close all connections and end the thread; requests under way fail.

        Waiting requests get :exc:`PoolClosedError`.  Further calls are allowed.
        """
        thread = self._thread
        if thread is not None:
            self._refuse_in_loop(thread, "close()")
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.stop()
            thread.join()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    def __repr__(self) -> str:
        """Return the numbers of the session; login and options may contain secrets."""
        return f"<{type(self).__name__} {'closed ' if self._closed else ''}{self._session!r}>"

    def __del__(self) -> None:
        """Warn about a pool that was not closed, and close its connections."""
        thread = self._thread
        if thread is None or thread.is_over or self._closed:
            return
        # Without waiting: the garbage collector may run in any thread.
        thread.stop()
        warnings.warn(f"Unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def _exchange(self, url: str, headers: Any) -> _Exchange:
        options = self._connect_options
        if headers:
            options = options | {"headers": headers}
        return _Exchange(self._running(), url, options)

    def _running(self) -> _LoopThread:
        """Return the thread; start it at the first use, and again if a hook has ended its loop."""
        with self._lock:
            self._check_open()
            thread = self._thread
            if thread is not None and thread.is_ending:
                # Its connections count until they are closed.
                thread.join()
            if thread is None or thread.is_over:
                if self._has_run:
                    self._session = WebSocketClientSession(**self._session_options)
                self._has_run = True
                thread = self._thread = _LoopThread(self._session, self._loop_factory, self._name)
                note_use(self)
            thread.begin()
            return thread

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosedError(in_session(self._name, "this GremlinPool is closed"))

    def _refuse_in_loop(self, thread: _LoopThread, method: str) -> None:
        if thread.is_current:
            said = f"call GremlinPool.{method} in another thread than that of the pool's event loop"
            raise RuntimeError(in_session(self._name, said))

    def _leave_to_parent(self) -> object:
        """Begin anew in a forked child; return objects that must stay alive."""
        # A thread of the parent may have held the lock.
        self._lock = threading.Lock()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.leave_to_parent()
        return thread


async def _drain(session: WebSocketClientSession) -> None:
    await session.drain()


def _serializer(given: Any) -> Any:
    if given is None:
        return GraphBinarySerializersV1()
    methods = ("serialize_message", "deserialize_message")
    is_class = isinstance(given, type)
    if is_class or not all(callable(getattr(given, method, None)) for method in methods):
        raise TypeError(
            "message_serializer must be a serializer of gremlin_python.driver.serializer, such as"
            " GraphSONSerializersV3d0(), not"
            f" {f'the class {given.__name__}' if is_class else type(given).__name__}"
        )
    return given


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def _connect_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"connect_options must be a mapping, not {type(given).__name__}")
    options = {"max_msg_size": _MAX_MSG_SIZE} | dict(given or {})
    if "headers" in options:
        raise TypeError("connect_options takes no headers: pass headers= to GremlinPool()")
    return arguments.options_of_ws_connect(options, "ws_connect")
