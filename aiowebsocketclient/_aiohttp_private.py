"""The private names of aiohttp and asyncio that the package uses, with their purposes.

aiohttp may change them in any release.  :func:`check_client_session` checks them when a process
first uses a client session, and :func:`check_connection` when its first connection is open.  Both
raise :exc:`WebSocketPoolError` for a missing name.  ``tests/test_aiohttp_internals.py`` tests how
the names behave.
"""

import asyncio
import gc
import inspect
import ssl
import sys
from asyncio import selector_events, sslproto
from asyncio.events import _get_running_loop as get_running_loop
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import client_ws, helpers
from aiohttp.client_proto import ResponseHandler

from .exceptions import WebSocketPoolError

if TYPE_CHECKING:
    from aiohttp.client_ws import DEFAULT_WS_CLIENT_TIMEOUT
    from aiohttp.helpers import basicauth_from_netrc, get_env_proxy_for_url, netrc_from_env
else:
    # A missing name is reported at the first use, like all others.
    DEFAULT_WS_CLIENT_TIMEOUT = getattr(client_ws, "DEFAULT_WS_CLIENT_TIMEOUT", None)
    basicauth_from_netrc = getattr(helpers, "basicauth_from_netrc", None)
    get_env_proxy_for_url = getattr(helpers, "get_env_proxy_for_url", None)
    netrc_from_env = getattr(helpers, "netrc_from_env", None)

__all__ = (
    "DEFAULT_WS_CLIENT_TIMEOUT",
    "HTTP_NAMES",
    "LOG_ON_EXCEPTION",
    "NAMES",
    "OPTIONAL",
    "PLAIN_TRANSPORT",
    "TIMER_NOOP",
    "TLS_ESTABLISHED",
    "TLS_NAMES",
    "TLS_PROTOCOL",
    "basicauth_from_netrc",
    "check_client_session",
    "check_connection",
    "fragments_of",
    "get_env_proxy_for_url",
    "get_running_loop",
    "has_known_http",
    "has_known_tls",
    "is_known_response",
    "makes_known_tls",
    "netrc_from_env",
    "unsafe",
)

#: The callback with which CPython 3.14 reports failures of shielded futures to the loop's exception
#: handler.  The package removes it from futures whose failures must not be reported.
LOG_ON_EXCEPTION: Final = getattr(asyncio.tasks, "_log_on_exception", None)

#: The transport of asyncio's own loops.  Its ``is_closing()`` only returns ``_closing``, which the
#: core reads directly on acquire and release.
PLAIN_TRANSPORT: Final[Any] = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]

# Some loops derived from asyncio's make other connections.
_MAKE_TLS_TRANSPORT: Final[Any] = getattr(
    selector_events.BaseSelectorEventLoop, "_make_ssl_transport", object()
)
_TLS_TRANSPORT: Final[Any] = getattr(sslproto, "_SSLProtocolTransport", None)
#: The protocol of TLS connections on asyncio's own loops.
TLS_PROTOCOL: Final[Any] = getattr(sslproto, "SSLProtocol", object)

#: The state of such a connection between its handshakes.
TLS_ESTABLISHED: Final[Any] = getattr(getattr(sslproto, "SSLProtocolState", None), "WRAPPED", None)
# Versions whose asyncio/sslproto.py was read. A later version may use the parts in another way.
_IS_KNOWN_PYTHON: Final = sys.version_info < (3, 16)

# The same for what aiohttp keeps of a handshake.
_IS_KNOWN_AIOHTTP: Final = tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 15)

#: The timer of a response without a timeout.
TIMER_NOOP: Final[Any] = getattr(helpers, "TimerNoop", object)()

#: Required names by their owner, each with its purpose.
NAMES: Final[dict[str, dict[str, str]]] = {
    "aiohttp.client_ws": {
        "DEFAULT_WS_CLIENT_TIMEOUT": "is the default timeout of a call",
    },
    "aiohttp.helpers": {
        "basicauth_from_netrc": "reads credentials, as aiohttp does with trust_env",
        "get_env_proxy_for_url": "reads proxies, as aiohttp does with trust_env",
        "netrc_from_env": "reads the netrc file, as aiohttp does with trust_env",
    },
    "ClientSession": {
        "_base_url": "resolves relative URLs, and limits the session's credentials to an origin",
        "_build_url": "makes the URL of a call absolute",
        "_default_headers": "are removed from a request that already has them",
        "_default_proxy": "is part of the key of a handshake",
        "_default_proxy_auth": "is part of the key of a handshake",
        "_loop": "shows the event loop of the client session",
        "_prepare_headers": "adds the headers of the session",
        "_request_class": "shows whether aiohttp's own class makes the headers of a request",
        "_ws_connect": "makes a handshake",
        "_ws_response_class": "is the class of the response of a handshake",
    },
    "BaseConnector": {
        "_factory": "makes the protocol of a connection",
        "_release_acquired": "lets a connection outlive its connector",
    },
    "Connection": {
        "_connector": "learns when a connection is closed",
        "_key": "identifies the connection for the connector",
    },
    "ClientWebSocketResponse": {
        "_autoping": "lets check_ping() see the PONG",
        "_cancel_heartbeat": "stops a heartbeat that was started for one user",
        "_close_code": "shows an abandoned receive(), and the end of the connection",
        "_closed": "shows the end of the connection",
        "_closing": "shows the end of the connection",
        "_conn": "has the protocol and the transport",
        "_exception": "must not keep the connection alive by its traceback",
        "_handle_ping_pong_exception": "reports that the heartbeat got no answer",
        "_heartbeat": "shows whether there is a heartbeat",
        "_reader": "contains the unread messages",
        "_reset_heartbeat": "restarts the heartbeat of an idle connection",
        "_response": "closes the transport",
        "_timeout": "is hidden from released handles",
        "_waiting": "shows a receive() that is under way",
        "_writer": "answers PINGs on an idle connection",
    },
    "ResponseHandler": {
        "_drain_waiter": "waits while the server does not read",
        "_parser": "is dropped when the socket is closed",
        "_paused": "shows that the server does not read",
        "_payload_parser": "is replaced by the pool, to see all data",
        "connection_lost": "tells the parser that the connection has ended",
        "read_timeout": "is for HTTP bodies, and would end an idle connection",
        "set_parser": "is called between the answer to a handshake and its first bytes",
        "start_timeout": "makes the protocol forget its timeout",
    },
    "WebSocketDataQueue": {
        "_buffer": "contains the unread messages",
        "feed_data": "wakes a receive() on a closing connection",
        "is_eof": "shows the end of the connection",
        "read": "reads control frames of an idle connection",
    },
    "WebSocketWriter": {
        "send_frame": "answers PINGs on an idle connection",
        "transport": "shows the end to a send that a thread compresses",
    },
    "asyncio.BaseEventLoop": {
        "is_running": "only reads _thread_id, which a call then reads directly",
    },
}

#: Names that exist only in some versions, and are used if they exist.
OPTIONAL: Final[dict[str, str]] = {
    "_background_tasks": "frames that a thread is compressing",
    "_closing": "whether a transport is closing; only of PLAIN_TRANSPORT",
    "_data_received_cb": "resets the heartbeat (aiohttp 3.14), and is a reference cycle",
    "_get_ssl_context": "is the TLS context of a connection of a TCPConnector",
    "_log_on_exception": "LOG_ON_EXCEPTION (CPython 3.14)",
    "_make_ssl_transport": "makes the TLS connections of a loop",
    "_on_data_received": "resets the heartbeat of an idle connection, too (aiohttp 3.14)",
    "_payload_fragments": "parts of an unfinished frame in the pure-Python parser",
    "_ssl_protocol": "the protocol of a TLS connection on asyncio's own loops",
    "_sslobj": "what an ssl.SSLObject stands for; its methods save a call",
    "_resolve_host_tasks": "lookups of hosts, which continue after the cancellation of a handshake",
    "_thread_id": "the thread of a running asyncio loop",
}

#: Names of asyncio's TLS protocol that ``tls_memory.py`` uses where all of them exist: only on
#: asyncio's own loops.
TLS_NAMES: Final[dict[str, str]] = {
    "_app_protocol": "gets decrypted data",
    "_app_protocol_is_buffer": "shows a protocol that provides the memory for decrypted data",
    "_app_reading_paused": "shows that the protocol takes no data",
    "_control_app_writing": "tells the protocol whether too much waits to be sent",
    "_control_ssl_reading": "resumes reading from the socket",
    "_do_flush": "begins to close TLS",
    "_do_read": "decrypts, finds the end of TLS, and sends what OpenSSL answers",
    "_do_write": "encrypts all that is to be sent",
    "_extra": "contains the TLS context for get_extra_info()",
    "_fatal_error": "ends the connection after an error",
    "_get_write_buffer_size": "is how much is to be sent for the protocol above",
    "_incoming": "is the BIO of received data, which grows to the largest read",
    "_loop": "runs a callback before the next read",
    "_outgoing": "is the BIO of data to send, which grows to the largest message",
    "_pause_reading": "stops reading",
    "_process_outgoing": "sends what is encrypted, unless the transport is full",
    "_ssl_buffer": "is the buffer of the socket, of 256 KiB",
    "_ssl_buffer_view": "is the same buffer",
    "_ssl_reading_paused": "shows that the socket is not read",
    "_ssl_writing_paused": "shows that the transport is full",
    "_sslcontext": "is the TLS context",
    "_sslobj": "encrypts and decrypts",
    "_state": "shows whether TLS is established",
    "_transport": "is the transport of the socket",
    "_write_appdata": "takes what is to be sent",
    "_write_backlog": "contains what is to be sent",
    "_write_buffer_size": "is the size of what is to be sent",
    "max_size": "is the size of the buffer, and of a read from OpenSSL",
}

#: Names of aiohttp that ``http_memory.py`` uses where all of them exist.
HTTP_NAMES: Final[dict[str, dict[str, str]]] = {
    "ClientResponse": {
        "_cache": "contains the values of properties",
        "_closed": "shows whether the response is closed",
        "_headers": "contains the headers",
        "_history": "contains the responses of redirects",
        "_protocol": "is the protocol of the connection",
        "_raw_headers": "contains the headers as received",
        "_real_url": "is the URL with its fragment",
        "_request_info": "contains the headers of the request",
        "_timer": "limits the time to read the response",
        "_traces": "are told of the body",
        "_url": "is the URL",
        "content": "is the body",
        "method": "is the method of the request",
        "reason": "is the text of the status",
        "status": "is the status",
        "version": "is the version of HTTP",
    },
    "Connection": {
        "_callbacks": "cancel the timer of the request",
    },
    "ResponseHandler": {
        "_buffer": "contains HTTP responses",
        "_parser": "parses HTTP responses",
        "_upgraded": "shows that the parser is not used any more",
    },
    "WebSocketWriter": {
        "get_random_bits": "creates masks",
    },
}

_MISSING: Final = object()
# Classes of protocols, connections and writers that have the names of HTTP_NAMES.
_kinds_of_http: Final[set[tuple[type, ...]]] = set()
# Checks that have passed in this process.
_checked: Final[set[str]] = set()


def check_client_session(session: aiohttp.ClientSession) -> None:
    """Check the names that a handshake needs, once per process."""
    if "handshake" in _checked:
        return
    _check("aiohttp.client_ws", client_ws)
    _check("aiohttp.helpers", helpers)
    _check("ClientSession", session)
    if session.connector is not None:
        _check("BaseConnector", session.connector)
    _check("asyncio.BaseEventLoop", asyncio.BaseEventLoop)
    _checked.add("handshake")


def check_connection(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Check the names that an open connection needs, once per process."""
    if "connection" in _checked:
        return
    names = NAMES["ClientWebSocketResponse"]
    # Without class attributes: the pool's own class has some of them, too.
    fields = {name for name in names if not hasattr(aiohttp.ClientWebSocketResponse, name)}
    for name in sorted(fields - vars(ws).keys()):
        raise _lacks("ClientWebSocketResponse", name)
    connection: Any = ws._conn
    if connection is None:
        # This connection has already ended; the next one is checked.
        return
    _check("Connection", connection)
    if isinstance(connection.protocol, ResponseHandler):
        _check("ResponseHandler", connection.protocol)
    _check("WebSocketDataQueue", ws._reader)
    _check("WebSocketWriter", ws._writer)
    _checked.add("connection")


def _check(kind: str, thing: Any) -> None:
    for name in NAMES[kind]:
        # Statically: some of these are properties.
        if inspect.getattr_static(thing, name, _MISSING) is _MISSING:
            raise _lacks(kind, name)


def _lacks(kind: str, name: str) -> WebSocketPoolError:
    return _unsupported(f"{kind} has no {name}, which {NAMES[kind][name]}")


def _unsupported(what: str) -> WebSocketPoolError:
    """Return the error for an unsupported version of aiohttp."""
    return WebSocketPoolError(
        f"aiohttp {aiohttp.__version__} is not supported by this version of aiowebsocketclient:"
        f" {what}; install another version of aiohttp (3.11.18 or later), or of aiowebsocketclient"
    )


def fragments_of(parser: Any) -> list[bytes]:
    """Return the received parts of an unfinished frame's payload: always the same list object.

    The compiled parser shows its fields only to the garbage collector.
    """
    fragments = getattr(parser, "_payload_fragments", None)
    lists = [fragments] if fragments is not None else gc.get_referents(parser)
    found: list[list[bytes]] = [held for held in lists if type(held) is list]
    if len(found) != 1:
        raise unsafe("the parser of a WebSocket does not show the parts of an unfinished frame")
    return found[0]


def has_known_http(protocol: Any, connection: Any, writer: Any) -> bool:
    """Return whether a connection is open, and keeps its handshake in a known way."""
    kinds = (type(protocol), type(connection), type(writer))
    if kinds not in _kinds_of_http:
        if not (
            _IS_KNOWN_AIOHTTP
            and isinstance(protocol, ResponseHandler)
            and _has(protocol, "ResponseHandler")
            and _has(connection, "Connection")
            and _has(writer, "WebSocketWriter")
        ):
            return False
        # Looked at once: all instances have the same attributes.
        _kinds_of_http.add(kinds)
    # The parser is None once the socket is closed.
    return protocol._upgraded and protocol._parser is not None


def is_known_response(names: Iterable[str]) -> bool:
    """Return whether a response with attributes of these names has all that are known."""
    return HTTP_NAMES["ClientResponse"].keys() <= set(names)


def _has(owner: Any, kind: str) -> bool:
    return all(hasattr(owner, name) for name in HTTP_NAMES[kind])


def makes_known_tls(loop: Any) -> bool:
    """Return whether a loop makes the TLS connections of asyncio, as they are known."""
    return _IS_KNOWN_PYTHON and (
        getattr(type(loop), "_make_ssl_transport", None) is _MAKE_TLS_TRANSPORT
    )


def has_known_tls(transport: Any) -> bool:
    """Return whether a transport is an established TLS connection of asyncio, as it is known.

    Not on other loops, nor on a proactor loop, whose kernel may be filling a buffer, nor inside
    another TLS connection (to a proxy).
    """
    if not _IS_KNOWN_PYTHON or type(transport) is not _TLS_TRANSPORT:
        return False
    protocol = transport._ssl_protocol
    return (
        type(protocol) is TLS_PROTOCOL
        and all(hasattr(protocol, name) for name in TLS_NAMES)
        and type(protocol._incoming) is type(protocol._outgoing) is ssl.MemoryBIO
        and isinstance(protocol._sslobj, ssl.SSLObject)
        and hasattr(protocol._sslobj, "_sslobj")
        and type(protocol._transport) is PLAIN_TRANSPORT
        and protocol._state is TLS_ESTABLISHED
    )


def unsafe(what: str) -> WebSocketPoolError:
    """Return the error for an aiohttp with which a message could reach the wrong user."""
    return _unsupported(f"{what}, so a message of one user could reach the next user")
