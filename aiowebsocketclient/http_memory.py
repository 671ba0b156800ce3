"""Drops the parts of a handshake that aiohttp keeps and an open WebSocket does not need.

aiohttp keeps the HTTP parser, the queue of HTTP responses, the headers of the request, and the
headers of the response, decoded and as received.  They take almost half the memory of an idle
connection.  :func:`forget_handshake` drops them once, when the connection is open:

* All connections share one object in place of the parser, and one in place of the queue.
* The response keeps only values that differ between connections.  The values of its headers are
  joined, and become headers again when they are read.  Public attributes return the same as before.
* A client session with a timeout has a timer for the whole request, which would do nothing when it
  fires.  The timer is cancelled.

``_aiohttp_private.py`` lists the private names of aiohttp that this module uses.  On versions of
aiohttp whose code is not known, nothing changes.
"""

from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from http import HTTPStatus
from operator import itemgetter
from typing import Any, Final

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from ._aiohttp_private import TIMER_NOOP, has_known_http, is_known_response

__all__ = ("forget_handshake",)

# Keys in the __dict__ of a response.
# The names of the headers: of the response as received, of the response as aiohttp spells them, and
# of the request.
_NAMES: Final = "_aiowebsocketclient_names"
# The values of the headers of the response and of the request, one a line.
_RECEIVED: Final = "_aiowebsocketclient_received"
_SENT: Final = "_aiowebsocketclient_sent"

# How aiohttp decodes the headers of a response.
_CODEC: Final = ("utf-8", "surrogateescape")

# How many different sets of header names are shared.
_MANY: Final = 64


def forget_handshake(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Drop the parts of its handshake that an open connection does not need."""
    try:  # noqa: SIM105 (which would cost more than this)
        _forget_handshake(ws)
    except Exception:
        # The connection is usable with them and without them, and a caller waits for it.
        pass


def _forget_handshake(ws: aiohttp.ClientWebSocketResponse) -> None:
    connection: Any = ws._conn
    if connection is None:
        return
    protocol: Any = connection.protocol
    writer: Any = ws._writer
    if not has_known_http(protocol, connection, writer):
        return
    protocol._parser = _NO_PARSER
    if type(protocol._buffer) is deque and not protocol._buffer:
        protocol._buffer = ()
    _share_random_bits(writer)
    if connection._callbacks:
        _cancel_timers(connection)
    response: Any = ws._response
    for reply in response._history:
        # Only the class of a redirect's response has it.
        reply._history = reply._history
        _shrink(reply)
    _shrink(response)


class _NoParser:
    """Replaces the HTTP parser of a WebSocket.

    As with the parser, the protocol drops it when the socket is closed, and calls ``feed_eof()``.
    """

    __slots__ = ()

    def feed_eof(self) -> None:
        """Return that no HTTP response is incomplete."""


_NO_PARSER: Final = _NoParser()

# aiohttp's source of masks, which is the same for all writers.
_random_bits: Final[list[Any]] = []


def _share_random_bits(writer: Any) -> None:
    own = writer.get_random_bits
    if type(own) is not partial:
        return
    if not _random_bits:
        _random_bits.append(own)
    shared = _random_bits[0]
    if own.func == shared.func and own.args == shared.args and own.keywords == shared.keywords:
        writer.get_random_bits = shared


def _cancel_timers(connection: Any) -> None:
    """Cancel the timers that aiohttp would cancel when it closes the connection."""
    for callback in list(connection._callbacks):
        timer: Any = getattr(callback, "__self__", None)
        if hasattr(timer, "when") and callback == timer.cancel:
            connection._callbacks.remove(callback)
            timer.cancel()


# -- the response ----------------------------------------------------------------------------------


class _Rebuilt:
    """Attribute of a response that is created when it is first read.

    Not a data descriptor: the ``__dict__`` of the response takes precedence.
    """

    __slots__ = ("_create", "_name")

    def __init__(self, create: Callable[[Any], Any]) -> None:
        self._create = create

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, response: Any, owner: Any = None) -> Any:
        if response is None:
            return self
        value = vars(response)[self._name] = self._create(response)
        return value


def _raw_headers_of(response: Any) -> Any:
    state = vars(response)
    return tuple(zip(state[_NAMES][0], state[_RECEIVED].split(b"\n"), strict=True))


def _headers_of(response: Any) -> CIMultiDictProxy[str]:
    state = vars(response)
    return _headers(state[_NAMES][1], state[_RECEIVED].decode(*_CODEC))


def _request_info_of(response: Any) -> aiohttp.RequestInfo:
    state = vars(response)
    headers = _headers(state[_NAMES][2], state[_SENT])
    return aiohttp.RequestInfo(response._url, response.method, headers, response._real_url)


def _protocol_of(response: Any) -> Any:
    return None if response.connection is None else response.connection.protocol


def _headers(names: tuple[str, ...], values: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(zip(names, values.split("\n"), strict=True)))


class _Response(aiohttp.ClientResponse):
    """The response to a handshake; its ``__dict__`` has only values that differ from these."""

    # For users, and in what shows types, it is aiohttp's.
    __module__ = aiohttp.ClientResponse.__module__
    __qualname__ = aiohttp.ClientResponse.__qualname__

    _closed = False
    method = hdrs.METH_GET
    version = aiohttp.HttpVersion11
    status = HTTPStatus.SWITCHING_PROTOCOLS.value
    reason = HTTPStatus.SWITCHING_PROTOCOLS.phrase
    content = aiohttp.EMPTY_PAYLOAD
    _history = ()

    _url: Any = _Rebuilt(lambda response: response._real_url)
    _headers: Any = _Rebuilt(_headers_of)
    _raw_headers: Any = _Rebuilt(_raw_headers_of)
    _request_info: Any = _Rebuilt(_request_info_of)
    _traces: Any = _Rebuilt(lambda _: [])
    _protocol: Any = _Rebuilt(_protocol_of)
    # The values of properties, which compute them again.
    _cache: Any = _Rebuilt(lambda _: {})
    # A timeout for reading the response, which was read.
    _timer = TIMER_NOOP


# Attributes that are dropped, and those that are dropped if they have this value.
_DROPPED: Final = frozenset(
    {"_cache", "_headers", "_protocol", "_raw_headers", "_request_info", "_timer", "_url"}
)
_USUAL: Final = {
    name: getattr(_Response, name)
    for name in ("_closed", "_history", "content", "method", "reason", "status", "version")
} | {"_traces": []}
_usual_of: Final = itemgetter(*_USUAL)
_USUAL_VALUES: Final = tuple(_USUAL.values())


def _shrink(response: Any) -> None:
    """Let a response keep only values that differ between responses."""
    if type(response) is not aiohttp.ClientResponse:
        return
    state = vars(response)
    unusual = _unusual(tuple(state))
    if unusual is None:
        return
    kept = _join_headers(state)
    if not kept:
        return
    names, values_of = unusual
    kept.update(zip(names, values_of(state), strict=True))
    if _usual_of(state) != _USUAL_VALUES:
        for name, usual in _USUAL.items():
            if state[name] != usual:
                kept[name] = state[name]
    response.__class__ = _Response
    response.__dict__ = kept


@lru_cache(maxsize=_MANY)
def _unusual(names: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[Any], Any]] | None:
    """Return the attributes of a response that are always kept, and a function for their values.

    None: a response with attributes of these names is not known.
    """
    if not is_known_response(names):
        return None
    kept = tuple(name for name in names if name not in _DROPPED and name not in _USUAL)
    return kept, itemgetter(*kept)


def _join_headers(state: dict[str, Any]) -> dict[str, Any]:
    """Return the joined headers of a response; an empty dict: they would not become the same."""
    info, url, raw = state["_request_info"], state["_real_url"], state["_raw_headers"]
    # With a fragment, the URLs differ.
    if not raw or not (state["_url"] is url is info.url is info.real_url):
        return {}
    # Not keys(), which leaves out repeated names.
    names, values = zip(*state["_headers"].items(), strict=True)
    raw_names, raw_values = zip(*raw, strict=True)
    sent_names, sent_values = zip(*info.headers.items(), strict=True)
    received, sent = b"\n".join(raw_values), "\n".join(sent_values)
    if (
        received.count(b"\n") >= len(raw_values)
        or sent.count("\n") >= len(sent_values)
        or received.decode(*_CODEC) != "\n".join(values)
        or info.method != state["method"]
    ):
        return {}
    shared = _shared((raw_names, names, sent_names))
    return {_NAMES: shared, _RECEIVED: received, _SENT: sent}


@lru_cache(maxsize=_MANY)
def _shared(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same object for the same names of headers."""
    return names
