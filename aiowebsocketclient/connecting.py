"""Opens connections: makes one handshake with aiohttp.

``_aiohttp_private.py`` lists the private names of aiohttp that this module uses.
"""

import asyncio
import errno
import math
import re
import socket
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import Context
from functools import partial
from http import HTTPStatus
from inspect import signature
from itertools import pairwise
from types import coroutine
from typing import Any, Final
from weakref import ref

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from ._aiohttp_private import LOG_ON_EXCEPTION, check_client_session
from .deadlines import Bound
from .exceptions import PoolClosedError, WebSocketPoolError, in_session
from .hooks import run_hook
from .keys import Target, is_tls_in_tls, version_of
from .logs import log
from .resolving import RandomOrder
from .settings import Settings
from .tls_memory import sharing

__all__ = (
    "Client",
    "Forerunner",
    "abort",
    "check_open",
    "connect",
    "is_answer",
    "is_failure_of_server",
    "own_client_session",
    "take_from_connector",
)

_SUPPRESSED: Final = "connect_limiter suppressed the exception of a handshake"

# The process or the machine has reached its limit of open files and sockets.
_NO_FILES_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


async def connect(
    client_session: aiohttp.ClientSession,
    target: Target,
    response_class: Any,
    *,
    limiter: Any,
    conn_timeout: float | None,
    admit: Callable[[], Awaitable[None]] | None,
    begin: Callable[[], None],
    free_files: Callable[[], Awaitable[None] | None],
    session_name: str | None,
) -> aiohttp.ClientWebSocketResponse:
    """Make one handshake inside ``limiter``, which then takes at most ``conn_timeout`` seconds.

    Waits inside the limiter until ``admit()`` has ended, and calls ``begin``.  When the handshake
    fails or is cancelled, its socket is closed.  When it fails because no file can be opened,
    ``free_files()`` begins to close idle connections, and returns what to wait for before one more
    try; or None, if there are none.
    """
    check_open(client_session, session_name)
    handshake = partial(
        _handshake, client_session, target, response_class, conn_timeout, free_files, session_name
    )
    if limiter is None:
        if admit is not None:
            await admit()
        begin()
        return await handshake()
    ws: aiohttp.ClientWebSocketResponse | None = None
    try:
        async with limiter:
            if admit is not None:
                await admit()
            begin()
            ws = await handshake()
    except BaseException:
        if ws is not None:
            # The limiter failed when it was left.
            abort(ws)
        raise
    if ws is None:
        raise WebSocketPoolError(in_session(session_name, _SUPPRESSED))
    return ws


async def _handshake(
    client_session: aiohttp.ClientSession,
    target: Target,
    response_class: Any,
    conn_timeout: float | None,
    free_files: Callable[[], Awaitable[None] | None],
    session_name: str | None,
) -> aiohttp.ClientWebSocketResponse:
    check_open(client_session, session_name)
    attempt = _Attempt(client_session, response_class)
    bound = Bound(conn_timeout, partial(_too_late, target, session_name))
    try:
        with bound:
            async with bound.deadline:
                try:
                    return await attempt.connect(target)
                except Exception as exc:
                    freed = free_files() if _lacks_files(exc) else None
                    if freed is None:
                        raise
                attempt.abort()
                await freed
                attempt = _Attempt(client_session, response_class)
                return await attempt.connect(target)
    except TimeoutError:
        attempt.abort()
        raise
    except BaseException as exc:
        attempt.abort()
        if client_session.closed and isinstance(exc, Exception):
            check_open(client_session, session_name)
        raise


def _too_late(
    target: Target, session_name: str | None, seconds: float
) -> aiohttp.ConnectionTimeoutError:
    said = f"no connection to {target.key.endpoint} within conn_timeout ({seconds:g} s)"
    return aiohttp.ConnectionTimeoutError(in_session(session_name, said))


def _lacks_files(error: BaseException) -> bool:
    """Return whether a handshake failed because no socket or file could be opened."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        exc = pending.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        if isinstance(exc, OSError) and _numbers_of(exc) & _NO_FILES_LEFT:
            return True
        if isinstance(exc, BaseExceptionGroup):
            pending += exc.exceptions
        pending += (exc.__cause__, exc.__context__, getattr(exc, "os_error", None))
    return False


def _numbers_of(error: OSError) -> set[int | None]:
    """Return the numbers of an error; that of several addresses has them in its text alone.

    So asyncio, uvloop and aiohappyeyeballs report that the addresses of a host failed in different
    ways: ``Multiple exceptions: [Errno 111] ..., [Errno 24] ...``.
    """
    if type(error) is OSError and error.errno is None:
        return {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
    return {error.errno}


# Statuses with which a server, or a balancer in front of it, says that it takes no connection now.
_UNAVAILABLE: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


def is_failure_of_server(error: BaseException) -> bool:
    """Return whether an error of :func:`connect` says that its server takes no connections.

    An answer of the server to this caller (401, 404) does not say so, nor does an error of the
    limiter, or that this process can open no socket.
    """
    if not _is_of_handshake(error) or _lacks_files(error):
        return False
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in _UNAVAILABLE
    return isinstance(error, OSError | TimeoutError | aiohttp.ClientConnectionError)


def is_answer(error: BaseException) -> bool:
    """Return whether an error of :func:`connect` is the answer of a server that works."""
    is_response = isinstance(error, aiohttp.ClientResponseError)
    return is_response and _is_of_handshake(error) and not is_failure_of_server(error)


def _is_of_handshake(error: BaseException) -> bool:
    """Return whether the handshake has raised an error, and not a limiter or a hook around it."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    for code, inner in pairwise(codes):
        if code is run_hook.__code__:
            # The hook may have connected elsewhere.
            return False
        if code is connect.__code__:
            return inner is _handshake.__code__
    return False


def check_open(client_session: aiohttp.ClientSession, session_name: str | None) -> None:
    """Raise if the client session was closed, or has lost its connector."""
    if client_session.closed:
        said = (
            "the client_session of this WebSocketClientSession was closed too early: close the"
            " WebSocketClientSession first, or leave out client_session"
        )
        raise PoolClosedError(in_session(session_name, said)) from None


def own_client_session(resolver: RandomOrder | None = None) -> aiohttp.ClientSession:
    """Return a client session that only connects; limits and timeouts are those of the pool."""
    return aiohttp.ClientSession(
        connector=_Connector(resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        # conn_timeout limits the whole handshake.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
    )


def abort(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Abort a connection that does not belong to the pool, or not yet."""
    transport = None if ws._conn is None else ws._conn.transport
    ws._response.close()
    if transport is not None:
        transport.abort()


def take_from_connector(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Detach a connection from its connector, which closes its connections when it is closed."""
    connection: Any = ws._conn
    connector = connection._connector
    connector._release_acquired(connection._key, connection.protocol)
    connection._connector = _Outlived(connector)


class Client:
    """The client session that connects: the user's, or the pool's own."""

    __slots__ = ("is_owned", "session")

    def __init__(self, session: aiohttp.ClientSession | None, is_owned: bool) -> None:
        if session is not None:
            check_client_session(session)
        #: The pool's own session is created at the first use.
        self.session = session
        #: Whether the pool closes the session.
        self.is_owned = is_owned

    def get(self) -> aiohttp.ClientSession:
        """Return the session, which must exist."""
        assert self.session is not None
        return self.session

    def begin(self, loop: asyncio.AbstractEventLoop, settings: Settings) -> aiohttp.ClientSession:
        """Return the session at the first use, and check that it belongs to ``loop``."""
        if self.session is None:
            is_random = settings.load_balance_hosts == "random"
            self.session = own_client_session(RandomOrder() if is_random else None)
        elif self.session._loop is not loop:
            said = (
                "client_session belongs to another event loop: create it in the loop of the"
                " WebSocketClientSession"
            )
            raise RuntimeError(in_session(settings.name, said))
        else:
            self.warn_of_limits(settings)
        check_client_session(self.session)
        return self.session

    def warn_of_limits(self, settings: Settings) -> None:
        """Log a warning if the connector of the session allows fewer connections than the pool."""
        connector = None if self.session is None else self.session.connector
        if connector is None:
            return
        for name, theirs, ours in (
            ("limit", connector.limit, settings.limit_total),
            ("limit_per_host", connector.limit_per_host, settings.limit),
        ):
            if theirs and theirs < (ours or math.inf):
                log("connector_limited", session_name=settings.name, setting=name, limit=theirs)

    async def close(self, wait_for: Callable[..., Awaitable[object]]) -> None:
        """Close the session if the pool owns it, and wait as long as ``wait_for`` does."""
        if self.session is None or not self.is_owned:
            return
        # The connector of a user's session may wait for anything.
        closing = asyncio.ensure_future(self.session.close())
        await wait_for(closing)
        if closing.done():
            closing.result()
        else:
            closing.cancel()


class Forerunner:
    """Stands in front of the parser of a new connection until the pool's own wrapper replaces it.

    Keeps the received bytes.  The first bytes may arrive with the answer to the handshake, and
    aiohttp passes them to the parser before the pool has the response.
    """

    __slots__ = ("parser", "taken")

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.taken: list[bytes] = []

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep what the transport received, and pass it to the parser."""
        self.taken.append(data)
        result: tuple[bool, bytes] = self.parser.feed_data(data)
        return result

    def feed_eof(self) -> None:
        """Pass the end of the connection to the parser."""
        self.parser.feed_eof()


def _set_forerunner(protocol: Any, parser: Any, *args: Any, **kwargs: Any) -> None:
    """Call ``set_parser()`` of the protocol with a forerunner in place of the parser."""
    type(protocol).set_parser(protocol, Forerunner(parser), *args, **kwargs)


class _Outlived:
    """Replaces the connector of a connection that outlives the connector.

    A closed connector assumes that all its connections are closed, too.
    """

    __slots__ = ("_connector",)

    def __init__(self, connector: Any) -> None:
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        protocol.close()


def _leave_lookups_unlogged(connector: Any) -> None:
    """Keep aiohttp from logging a failed lookup of a host after its handshake was cancelled.

    aiohttp shields the lookup, because other handshakes may wait for it.
    """
    if LOG_ON_EXCEPTION is not None:
        for lookup in getattr(connector, "_resolve_host_tasks", ()):
            lookup.remove_done_callback(LOG_ON_EXCEPTION)


class _Attempt:
    """Acts as the client session in aiohttp's ``_ws_connect``, for one handshake.

    It differs from the real session in two ways: the class of the response (``ws_connect`` of a
    user's session still returns the session's own class), and it keeps what the handshake opened
    and received.
    """

    __slots__ = (
        "_is_complete",
        "_protocol",
        "_response",
        "_session",
        "_transports",
        "_ws_response_class",
    )

    def __init__(self, session: aiohttp.ClientSession, ws_response_class: Any) -> None:
        self._session = session
        self._ws_response_class = ws_response_class
        self._response: aiohttp.ClientResponse | None = None
        self._protocol: Any = None
        self._transports: list[asyncio.Transport] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def connect(self, target: Target) -> aiohttp.ClientWebSocketResponse:
        connect: Any = type(self._session)._ws_connect
        url = _relative(target.url, self._session._base_url)
        # The options contain the headers that the session had at the time of the call.
        self._is_complete = bool(
            target.headers_version != version_of(self._session.headers) and self._session.headers
        )
        connector = self._session.connector
        noting = (
            connector.noting(self._transports)
            if isinstance(connector, _Connector)
            else nullcontext()
        )
        # Inside another TLS connection, a connection stays as it is, and sharing only takes time.
        sharing_buffers = (
            nullcontext()
            if is_tls_in_tls(target.url, target.options, self._session)
            else _sharing_buffers(connector)
        )
        try:
            with noting, sharing_buffers:
                ws: aiohttp.ClientWebSocketResponse = await connect(self, url, **target.options)
        except asyncio.CancelledError:
            _leave_lookups_unlogged(connector)
            raise
        finally:
            if self._protocol is not None:
                # It would be a reference cycle. (vars() would create a dict for each protocol.)
                del self._protocol.set_parser
        return ws

    async def request(self, *args: Any, **kwargs: Any) -> aiohttp.ClientResponse:
        request: Any = self._session.request(*args, **kwargs)
        if self._is_complete:
            request = _without_default_headers(self._session, request)
        response: aiohttp.ClientResponse = await request
        self._response = response
        connection = response.connection
        if connection is not None and connection.transport is not None:
            self._transports.append(connection.transport)
            # From here on, aiohttp's _ws_connect() does not await anything.
            protocol: Any = connection.protocol
            protocol.set_parser = partial(_set_forerunner, protocol)
            self._protocol = protocol
        elif _is_switching(response):
            # aiohttp assumes that the connection still exists.
            raise aiohttp.ServerDisconnectedError
        return response

    def abort(self) -> None:
        """Close the socket of a failed handshake at once.

        aiohttp leaves it open if the class of the response raises, and waits for the peer if the
        connection uses TLS.
        """
        if self._response is not None:
            self._response.close()
        for transport in self._transports:
            transport.abort()


def _relative(url: URL, base: URL | None) -> URL:
    """Return ``url`` relative to ``base`` if that means the same, credentials included.

    With a base_url, aiohttp before 3.12 accepts no absolute URL.
    """
    if base is None:
        return url
    relative = url.relative()
    return relative if str(base.join(relative)) == str(url) else url


def _is_switching(response: aiohttp.ClientResponse) -> bool:
    headers = response.headers
    return (
        response.status == HTTPStatus.SWITCHING_PROTOCOLS
        and headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        and headers.get(hdrs.CONNECTION, "").lower() == "upgrade"
    )


# Tasks that make a handshake whose TLS connections share buffers, and the TLS contexts that they
# use: a connector may create one for each connection.
_sharing_tasks: Final[dict[asyncio.Task[Any] | None, list[Any]]] = {}


@contextmanager
def _sharing_buffers(connector: Any) -> Iterator[None]:
    """Let TLS connections that the current task opens share the buffers of the loop."""
    name = "_get_ssl_context"
    is_users = isinstance(connector, aiohttp.TCPConnector) and not isinstance(connector, _Connector)
    if is_users and name not in vars(connector):
        find = getattr(type(connector), name, None)
        if find is not None:
            # Not by ssl= of the request: aiohttp's limit_per_host would count the connections of
            # another context separately.
            setattr(connector, name, partial(_context_of_task, find, ref(connector)))
    task = asyncio.current_task()
    _sharing_tasks[task] = []
    try:
        yield
    finally:
        _sharing_tasks.pop(task, None)


def _context_of_task(
    find: Callable[..., Any], connector: "ref[aiohttp.TCPConnector]", *args: Any
) -> Any:
    """Return the TLS context of a connection, as the connector itself does."""
    return _sharing_in_task(find(connector(), *args))


def _sharing_in_task(context: Any) -> Any:
    used = _sharing_tasks.get(asyncio.current_task())
    if used is None:
        return context
    used.append(context)
    return sharing(context)


class _Socket(socket.socket):
    """A socket that only uvloop closes once uvloop has connected it.

    uvloop's ``create_connection(sock=...)`` opens a transport on the descriptor, and attaches the
    socket one turn of the loop later.  If the transport ends before that, the socket is not told:
    after a reset before the first bytes of TLS (uvloop 0.23), or after a cancellation (before
    0.23).  When collected, the socket would then close a descriptor that may by now belong to
    another connection.
    """

    __slots__ = ("_is_uvloops",)

    def __init__(self, *args: Any) -> None:
        self._is_uvloops = False
        super().__init__(*args)

    def connect(self, address: Any) -> None:
        # While uvloop connects, it increments _io_refs. If it fails, it closes the socket itself.
        self._is_uvloops = self._io_refs > 0  # type: ignore[attr-defined]
        super().connect(address)

    def __del__(self) -> None:
        if self._is_uvloops:
            self.detach()
        # Closes the socket if it is still open, with a ResourceWarning.
        super().__del__()  # type: ignore[misc]


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    return _Socket(family, kind, protocol)


# aiohttp before 3.12 has no socket_factory.
_CAN_MAKE_SOCKETS = "socket_factory" in signature(aiohttp.TCPConnector).parameters


class _Connector(aiohttp.TCPConnector):
    """The connector of the pool's own client session; knows what each handshake has opened."""

    def __init__(self, resolver: RandomOrder | None = None) -> None:
        # Limits and pooling are the pool's task; the connector only connects.
        settings: dict[str, Any] = {"limit": 0, "force_close": True, "resolver": resolver}
        is_asyncios = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
        if _CAN_MAKE_SOCKETS and not is_asyncios:
            settings["socket_factory"] = _make_socket
        super().__init__(**settings)
        # aiohttp closes only a resolver that it has made.
        self._own_resolver = resolver
        self._noted: dict[Any, list[asyncio.Transport]] = {}
        self._protocols: dict[Any, list[Any]] = {}
        self._factory = partial(_make_protocol, self._factory, self._protocols)

    @contextmanager
    def noting(self, transports: list[asyncio.Transport]) -> Iterator[None]:
        """Add each transport that the current task opens to ``transports``."""
        task = asyncio.current_task()
        self._noted[task] = transports
        try:
            yield
        finally:
            del self._noted[task]

    async def close(self, **options: Any) -> None:
        """Close the connector and its resolver."""
        await super().close(**options)
        if self._own_resolver is not None:
            await self._own_resolver.close()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Open a connection, after closing the one that it replaces in the same handshake."""
        transports = self._noted.get(asyncio.current_task(), [])
        for transport in transports:
            # After a redirect or a retry. aiohttp closes it, but with TLS waits for the peer.
            transport.abort()
        if transports:
            transports.clear()
            # A transport closes its socket in the next turn of the loop.
            await asyncio.sleep(0)
        # A transport always calls its protocol in the context in which it was created. The context
        # of the first caller would be kept alive with everything in it.
        connection = await _in_empty_context(self._connect(*args, **kwargs))
        if connection.transport is not None:
            transports.append(connection.transport)
        return connection

    def _get_ssl_context(self, *args: Any) -> Any:
        return _sharing_in_task(super()._get_ssl_context(*args))

    async def _connect(self, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        protocols = self._protocols[task] = []
        try:
            return await super().connect(*args, **kwargs)
        except BaseException:
            for protocol in protocols:
                # TLS was ready, but its caller was gone: the loop has closed the transport, and
                # waits for the peer.
                if protocol.transport is not None:
                    protocol.transport.abort()
            raise
        finally:
            del self._protocols[task]


def _make_protocol(make: Any, protocols: dict[Any, list[Any]]) -> Any:
    """Create a protocol as aiohttp does, and record it for the task that connects."""
    protocol = make()
    protocols[asyncio.current_task()].append(protocol)
    return protocol


@coroutine
def _in_empty_context(steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine in an empty context, in the current task."""
    context = Context()
    resume = partial(steps.send, None)
    while True:
        try:
            step = context.run(resume)
        except StopIteration as stop:
            return stop.value
        finally:
            # It may hold the exception that was thrown in, whose traceback has this frame.
            del resume
        try:
            resume = partial(steps.send, (yield step))
        except BaseException as exc:
            resume = partial(steps.throw, exc)


@coroutine
def _without_default_headers(
    session: aiohttp.ClientSession, request: Any
) -> Generator[Any, Any, Any]:
    """Make a request without the default headers, which aiohttp adds in the first step."""
    # Not with throw() of the request, whose frame would form a cycle with the exception.
    steps = request.__await__()
    headers, session._default_headers = session._default_headers, CIMultiDict()
    try:
        step = steps.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        session._default_headers = headers
    while True:
        try:
            resume = partial(steps.send, (yield step))
        except BaseException as exc:
            resume = partial(steps.throw, exc)
        try:
            step = resume()
        except StopIteration as stop:
            return stop.value
        finally:
            # It may hold the exception that was thrown in, whose traceback has this frame.
            del resume
