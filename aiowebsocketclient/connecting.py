"""Opens connections: one handshake of aiohttp's, in the pool's own way.

What is private to aiohttp here is in ``_aiohttp_private.py``.
"""

import asyncio
import errno
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import Context
from functools import partial
from http import HTTPStatus
from inspect import signature
from types import coroutine
from typing import Any, Final

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from ._aiohttp_private import LOG_ON_EXCEPTION, check_client_session
from .exceptions import PoolClosedError, WebSocketPoolError, in_session
from .keys import Target, version_of
from .logs import log
from .settings import Settings

__all__ = (
    "Client",
    "Forerunner",
    "abort",
    "check_open",
    "connect",
    "own_client_session",
    "take_from_connector",
)

_SUPPRESSED: Final = "connect_limiter suppressed the failure of a handshake"

# The process, or the machine, has as many files and sockets open as it may have.
_NO_FILES_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


async def connect(
    client_session: aiohttp.ClientSession,
    target: Target,
    response_class: Any,
    *,
    limiter: Any,
    conn_timeout: float | None,
    begin: Callable[[], None],
    free_files: Callable[[], Awaitable[None] | None],
    session_name: str | None,
) -> aiohttp.ClientWebSocketResponse:
    """Make one handshake inside ``limiter``, and within ``conn_timeout`` seconds from then.

    ``begin`` is called when the limiter has let it pass.  When the handshake fails, or is
    cancelled, the socket is closed.  Where it fails for want of a file, ``free_files()`` begins to
    close what can be done without, and returns what to wait for before the handshake is tried once
    more; None: there is nothing.
    """
    check_open(client_session, session_name)
    handshake = partial(
        _handshake, client_session, target, response_class, conn_timeout, free_files, session_name
    )
    if limiter is None:
        begin()
        return await handshake()
    ws: aiohttp.ClientWebSocketResponse | None = None
    try:
        async with limiter:
            begin()
            ws = await handshake()
    except BaseException:
        if ws is not None:
            # The limiter failed on the way out.
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
    scope = asyncio.timeout(conn_timeout)
    try:
        async with scope:
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
    except TimeoutError as exc:
        attempt.abort()
        if not scope.expired():
            raise
        # That keeps the frame of asyncio's timeout, which knows the task.
        exc.__traceback__ = None
        said = f"no connection to {target.key.endpoint} within conn_timeout ({conn_timeout:g} s)"
        raise aiohttp.ConnectionTimeoutError(in_session(session_name, said)) from None
    except BaseException as exc:
        attempt.abort()
        if client_session.closed and isinstance(exc, Exception):
            check_open(client_session, session_name)
        raise
    finally:
        # It knows its task, which keeps the exception, whose traceback keeps this frame.
        del scope


def _lacks_files(error: BaseException) -> bool:
    """Whether a handshake failed since no more files can be opened, for a socket or a resolver."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        exc = pending.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        if isinstance(exc, OSError) and exc.errno in _NO_FILES_LEFT:
            return True
        if isinstance(exc, BaseExceptionGroup):
            pending += exc.exceptions
        pending += (exc.__cause__, exc.__context__, getattr(exc, "os_error", None))
    return False


def check_open(client_session: aiohttp.ClientSession, session_name: str | None) -> None:
    """Refuse a client session that somebody has closed, or taken the connector of."""
    if client_session.closed:
        said = (
            "the client_session of the WebSocketClientSession was closed by somebody else: close"
            " the WebSocketClientSession instead, or give it a client_session of its own"
        )
        raise PoolClosedError(in_session(session_name, said)) from None


def own_client_session() -> aiohttp.ClientSession:
    """Return a client session that only connects: the pool limits, pools and times out."""
    return aiohttp.ClientSession(
        connector=_Connector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        # conn_timeout bounds a handshake as a whole.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
    )


def abort(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Close a connection that is not, or not yet, the pool's."""
    transport = None if ws._conn is None else ws._conn.transport
    ws._response.close()
    if transport is not None:
        transport.abort()


def take_from_connector(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Let a connection outlive its connector, which closes all that it knows of with itself."""
    connection: Any = ws._conn
    connector = connection._connector
    connector._release_acquired(connection._key, connection.protocol)
    connection._connector = _Outlived(connector)


class Client:
    """The client session that connects: one that was given, or the pool's own."""

    __slots__ = ("is_owned", "session")

    def __init__(self, session: aiohttp.ClientSession | None, is_owned: bool) -> None:
        if session is not None:
            check_client_session(session)
        #: The pool's own is made at first use.
        self.session = session
        #: Whether it is closed with the pool.
        self.is_owned = is_owned

    def get(self) -> aiohttp.ClientSession:
        """Return it, once there is one."""
        assert self.session is not None
        return self.session

    def begin(self, loop: asyncio.AbstractEventLoop, settings: Settings) -> aiohttp.ClientSession:
        """Return it at first use, in this loop."""
        if self.session is None:
            self.session = own_client_session()
        elif self.session._loop is not loop:
            said = "client_session belongs to another event loop"
            raise RuntimeError(in_session(settings.name, said))
        else:
            self.warn_of_limits(settings)
        check_client_session(self.session)
        return self.session

    def warn_of_limits(self, settings: Settings) -> None:
        """Log where the connector of a given one allows fewer connections than the pool."""
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
        """Close it if it is owned, and wait for that as long as ``wait_for`` does."""
        if self.session is None or not self.is_owned:
            return
        # That of a given session may be anybody's, and wait for anything.
        closing = asyncio.ensure_future(self.session.close())
        await wait_for(closing)
        if closing.done():
            closing.result()
        else:
            closing.cancel()


class Forerunner:
    """Stands in front of the parser of a new connection until the pool's own does.

    It keeps what comes.  The first bytes may come with the answer to the handshake, and aiohttp
    hands them to the parser before anybody has the response.
    """

    __slots__ = ("parser", "taken")

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.taken: list[bytes] = []

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the transport received, in place of the parser."""
        self.taken.append(data)
        result: tuple[bool, bytes] = self.parser.feed_data(data)
        return result

    def feed_eof(self) -> None:
        """Take the end of the connection, in place of the parser."""
        self.parser.feed_eof()


def _set_forerunner(protocol: Any, parser: Any, *args: Any, **kwargs: Any) -> None:
    """Do what ``set_parser()`` of the protocol does, with a forerunner for the parser."""
    type(protocol).set_parser(protocol, Forerunner(parser), *args, **kwargs)


class _Outlived:
    """Stands for the connector of a connection that outlives it.

    A connector that is closed takes it that all its connections are closed, too.
    """

    __slots__ = ("_connector",)

    def __init__(self, connector: Any) -> None:
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        protocol.close()


def _leave_lookups_unlogged(connector: Any) -> None:
    """Let a lookup of a host fail in silence, now that the handshake that began it is cancelled.

    aiohttp shields it, since others may come to wait for it.
    """
    if LOG_ON_EXCEPTION is not None:
        for lookup in getattr(connector, "_resolve_host_tasks", ()):
            lookup.remove_done_callback(LOG_ON_EXCEPTION)


class _Attempt:
    """Stands for a client session in aiohttp's ``_ws_connect``, for one handshake.

    It differs in the class of the response (a given session goes on returning its own class from
    its own ``ws_connect``), and in keeping hold of what the handshake opened and was answered with.
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
        # Those of the session that counted when the caller called are in the options.
        self._is_complete = bool(
            target.headers_version != version_of(self._session.headers) and self._session.headers
        )
        connector = self._session.connector
        noting = (
            connector.noting(self._transports)
            if isinstance(connector, _Connector)
            else nullcontext()
        )
        try:
            with noting:
                ws: aiohttp.ClientWebSocketResponse = await connect(self, url, **target.options)
        except asyncio.CancelledError:
            _leave_lookups_unlogged(connector)
            raise
        finally:
            if self._protocol is not None:
                # It would be a cycle.
                vars(self._protocol).pop("set_parser", None)
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
            # From here on, aiohttp's _ws_connect() waits for nothing.
            protocol: Any = connection.protocol
            protocol.set_parser = partial(_set_forerunner, protocol)
            self._protocol = protocol
        elif _is_switching(response):
            # aiohttp takes it for granted that the connection is still there.
            raise aiohttp.ServerDisconnectedError
        return response

    def abort(self) -> None:
        """Close the socket of a handshake that failed, at once.

        aiohttp leaves it open where the class of the response raises, and waits for the other side
        where there is TLS.
        """
        if self._response is not None:
            self._response.close()
        for transport in self._transports:
            transport.abort()


def _relative(url: URL, base: URL | None) -> URL:
    """Return a URL relative to ``base`` where that means the same, credentials included.

    With a base_url, aiohttp before 3.12 takes nothing absolute.
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


class _Socket(socket.socket):
    """A socket that only uvloop closes, once uvloop has connected it.

    uvloop's ``create_connection(sock=...)`` opens a transport on the descriptor, and one turn later
    attaches the socket, which the transport's end is then told to. A transport that has ended by
    that time tells nobody: one reset before the first bytes of TLS, which 0.23 sends in that turn,
    or one whose task was cancelled (before 0.23). The socket, when collected, would close a number
    that by then is another connection's.
    """

    __slots__ = ("_is_uvloops",)

    def __init__(self, *args: Any) -> None:
        self._is_uvloops = False
        super().__init__(*args)

    def connect(self, address: Any) -> None:
        # uvloop counts itself in while it connects. Who fails to connect closes by hand.
        self._is_uvloops = self._io_refs > 0  # type: ignore[attr-defined]
        super().connect(address)

    def __del__(self) -> None:
        if self._is_uvloops:
            self.detach()
        # It closes one that nobody has closed, and warns of it.
        super().__del__()  # type: ignore[misc]


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    return _Socket(family, kind, protocol)


# aiohttp before 3.12 makes its sockets itself.
_CAN_MAKE_SOCKETS = "socket_factory" in signature(aiohttp.TCPConnector).parameters


class _Connector(aiohttp.TCPConnector):
    """Of the pool's own client session: knows what each handshake has opened."""

    def __init__(self) -> None:
        # The pool limits and pools; what is left to the connector is to connect.
        settings: dict[str, Any] = {"limit": 0, "force_close": True}
        is_asyncios = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
        if _CAN_MAKE_SOCKETS and not is_asyncios:
            settings["socket_factory"] = _make_socket
        super().__init__(**settings)
        self._noted: dict[Any, list[asyncio.Transport]] = {}
        self._protocols: dict[Any, list[Any]] = {}
        self._factory = partial(_make_protocol, self._factory, self._protocols)

    @contextmanager
    def noting(self, transports: list[asyncio.Transport]) -> Iterator[None]:
        """Note in ``transports`` what the current task opens."""
        task = asyncio.current_task()
        self._noted[task] = transports
        try:
            yield
        finally:
            del self._noted[task]

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Open a connection, after closing what it replaces in its handshake."""
        transports = self._noted.get(asyncio.current_task(), [])
        for transport in transports:
            # A redirect, or a second try. aiohttp has closed it, and with TLS waits for an answer.
            transport.abort()
        if transports:
            transports.clear()
            # A transport closes its socket in the next turn.
            await asyncio.sleep(0)
        # The transport calls its protocol in the context that it was made in, as long as it lives:
        # that of the first caller would be kept, with all that it holds.
        connection = await _in_nobodys_context(self._connect(*args, **kwargs))
        if connection.transport is not None:
            transports.append(connection.transport)
        return connection

    async def _connect(self, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        protocols = self._protocols[task] = []
        try:
            return await super().connect(*args, **kwargs)
        except BaseException:
            for protocol in protocols:
                # TLS was ready, which its caller did not learn any more: the loop has closed it,
                # and waits for an answer.
                if protocol.transport is not None:
                    protocol.transport.abort()
            raise
        finally:
            del self._protocols[task]


def _make_protocol(make: Any, protocols: dict[Any, list[Any]]) -> Any:
    """Make what aiohttp makes, and note it with the task that connects."""
    protocol = make()
    protocols[asyncio.current_task()].append(protocol)
    return protocol


@coroutine
def _in_nobodys_context(steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine in an empty context, in the task of whoever awaits this."""
    context = Context()
    resume = partial(steps.send, None)
    while True:
        try:
            step = context.run(resume)
        except StopIteration as stop:
            return stop.value
        finally:
            # It may have what was thrown in, whose traceback has this frame.
            del resume
        try:
            resume = partial(steps.send, (yield step))
        except BaseException as exc:
            resume = partial(steps.throw, exc)


@coroutine
def _without_default_headers(
    session: aiohttp.ClientSession, request: Any
) -> Generator[Any, Any, Any]:
    """Make a request that has all its headers; aiohttp adds its session's in the first step."""
    # Not by its own throw(), whose frame would keep what is thrown, and that the frame.
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
            # It may have what was thrown in, whose traceback has this frame.
            del resume
