"""Validates the arguments of users: each function returns the valid value.

An invalid value raises a ``TypeError`` or a ``ValueError`` that names the argument and shows no
value that may be secret.
"""

import asyncio
import inspect
import operator
import re
import ssl
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import update_wrapper, wraps
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp import BasicAuth
from multidict import CIMultiDict

from .response import ClientWebSocketResponse

__all__ = (
    "DEFAULTS",
    "client_session",
    "close_codes",
    "count",
    "encoded_auth",
    "header_dict",
    "hinting",
    "idle_connections",
    "implemented_by",
    "interval",
    "is_token",
    "limiter",
    "load_balance_hosts",
    "loop",
    "options_of_ws_connect",
    "places",
    "positive",
    "response_class",
    "seconds",
    "session_name",
    "some_seconds",
    "warn_of_deprecated",
)

#: The options of the installed aiohttp, with their defaults.
DEFAULTS: Final[Mapping[str, Any]] = {
    name: parameter.default
    for name, parameter in inspect.signature(aiohttp.ClientSession.ws_connect).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}

# RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# Characters that aiohttp refuses to send, and lone surrogates, which it drops.
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_TLS_TYPES: Final = (ssl.SSLContext, bool, aiohttp.Fingerprint, type(None))
# The error text of aiohttp, for arguments of aiohttp.
_SSL_SHOULD_BE: Final = "ssl should be SSLContext, bool, Fingerprint or None"


# -- of the session -------------------------------------------------------------------------------


def places(name: str, value: Any) -> int | None:
    """Return ``value``: an integer >= 0, or None."""
    return None if value is None else _number(name, value, " or None")


def count(value: Any) -> int:
    """Return ``value``: a number of connections."""
    return _number("count", value, "")


def at_least_one(name: str, value: Any) -> int:
    """Return ``value``: an integer >= 1."""
    number = _number(name, value, "")
    if number == 0:
        raise ValueError(f"{name} must be an integer >= 1, got 0")
    return number


def idle_connections(name: str, value: Any) -> int | None:
    """Return ``value``: a maximum number of idle connections, or None."""
    number = places(name, value)
    if number == 0:
        raise ValueError(
            f"{name} must be >= 1 or None (no limit), got 0: to pool nothing, use force_close=True"
        )
    return number


def _number(name: str, value: Any, or_none: str) -> int:
    number = _integer(name, value, or_none)
    if number < 0:
        raise ValueError(f"{name} must be an integer >= 0{or_none}, got {_shown(number)}")
    if number > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, got {_shown(number)}")
    return number


def positive(name: str, value: Any) -> float | None:
    """Return ``value``: a number of seconds > 0, or None."""
    return None if value is None else _seconds(name, value, "> 0 or None")


def interval(name: str, value: Any) -> float:
    """Return ``value``: a number of seconds > 0."""
    if value is None:
        raise TypeError(f"{name} must be a number > 0, not None")
    return float(_seconds(name, value, "> 0"))


def some_seconds(name: str, value: Any) -> float:
    """Return ``value``: a number of seconds, but not None."""
    number: float | None = seconds(name, value)
    if number is None:
        raise TypeError(f"{name} must be a number of seconds, not None")
    return number


def client_session(value: Any) -> aiohttp.ClientSession | None:
    """Return ``value``: a client session that is open, or None."""
    if value is None:
        return None
    if not isinstance(value, aiohttp.ClientSession):
        raise TypeError(
            f"client_session must be an aiohttp.ClientSession, not {type(value).__name__}"
        )
    if value.closed:
        raise ValueError("client_session is closed: pass an open one, or leave it out")
    return value


def loop(value: Any) -> asyncio.AbstractEventLoop | None:
    """Return ``value``: an event loop that is not closed, or None."""
    if value is None:
        return None
    if not isinstance(value, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an event loop, not {type(value).__name__}")
    if value.is_closed():
        raise ValueError("loop is closed: pass an open event loop, or leave it out")
    return value


def response_class(value: Any) -> type[ClientWebSocketResponse]:
    """Return ``value``: a class of which handles can be made."""
    if not isinstance(value, type) or not issubclass(value, ClientWebSocketResponse):
        given = value if isinstance(value, type) else type(value)
        raise TypeError(
            "ws_response_class must be a subclass of aiowebsocketclient.ClientWebSocketResponse,"
            f" not {given.__module__}.{given.__qualname__}"
        )
    for cls in value.__mro__[: value.__mro__.index(ClientWebSocketResponse)]:
        if vars(cls).get("__slots__"):
            raise TypeError(
                f"ws_response_class must not have __slots__, but {cls.__name__} has: slots would"
                " belong to one handle, not to the connection; use ordinary attributes"
            )
    return value


def limiter(value: Any) -> Any:
    """Return ``value``: an asynchronous context manager, or None."""
    if value is not None and not all(
        hasattr(type(value), name) for name in ("__aenter__", "__aexit__")
    ):
        raise TypeError(
            "connect_limiter must be an asynchronous context manager, such as"
            f" asyncio.Semaphore(10), not {type(value).__name__}"
        )
    return value


def fleet(value: Any) -> Any:
    """Return ``value``: an engine with the attributes of a ``Fleet``, or None."""
    names = ("limit", "lease", "lost", "connect_rate", "fallback", "keep_idle", "sync", "listen")
    missing = [name for name in names if not hasattr(value, name)]
    if value is not None and missing:
        raise TypeError(
            "fleet must be an aiowebsocketclient.redis.RedisFleet, or another object with the"
            f" attributes of a Fleet, not {type(value).__name__} (without {missing[0]})"
        )
    return value


def load_balance_hosts(value: Any, client_session: Any) -> str | None:
    """Return ``value``: ``"random"`` or ``"disable"``, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(
            f'load_balance_hosts must be "disable", "random" or None, not {type(value).__name__}'
        )
    if value not in (None, "disable", "random"):
        raise ValueError(f'load_balance_hosts must be "disable", "random" or None, got {value!r}')
    if value == "random" and client_session is not None:
        raise ValueError(
            "load_balance_hosts has no effect on client_session, whose connector resolves names:"
            " leave out one of them, or give that connector a resolver that shuffles"
        )
    return value


def close_codes(name: str, value: Any) -> frozenset[int]:
    """Return the close codes in ``value``."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable | None):
        raise TypeError(
            f"{name} must be an iterable of close codes, such as {{1001, 1012}},"
            f" not {type(value).__name__}"
        )
    codes = {_integer(f"each code in {name}", code) for code in value or ()}
    for code in codes:
        # RFC 6455, 7.4.
        if not 1000 <= code <= 4999:
            raise ValueError(f"each code in {name} must be from 1000 to 4999, got {_shown(code)}")
    return frozenset(codes)


def session_name(name: str, value: Any) -> str | None:
    """Return ``value``: the name of a session, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty: leave it out if the session has no name")
    # A subclass of str may return another text each time.
    return str.__str__(value)


# -- of ws_connect() ------------------------------------------------------------------------------


# Options of websockets, websocket-client, psycopg_pool and aiohttp's connectors, with what to use
# instead.
_ELSEWHERE: Final = {
    "additional_headers": "headers=",
    "compression": "compress=",
    "cookie": 'headers={"Cookie": ...}',
    "extra_headers": "headers=",
    "header": "headers=",
    "http_proxy_auth": "proxy_auth=",
    "http_proxy_host": "proxy=",
    "http_proxy_port": "proxy=",
    "limit_per_host": "limit= of WebSocketClientSession",
    "max_size": "max_msg_size=",
    "min_size": "prewarm() or set_min_idle()",
    "open_timeout": "conn_timeout= of WebSocketClientSession",
    "ping_interval": "heartbeat=",
    "ping_timeout": "heartbeat= (the PONG must arrive within half of it)",
    "sslopt": "ssl=",
    "subprotocols": "protocols=",
    "user_agent_header": 'headers={"User-Agent": ...}',
}

# Options with another meaning for the constructor of psycopg_pool or of aiohttp.ClientSession.
_ELSEWHERE_OF_SESSION: Final = {
    "max_size": (
        "limit= for the number of connections, or max_msg_size= of ws_connect() for the bytes of a"
        " message"
    ),
    "timeout": (
        "acquire_timeout= for the wait for a connection, conn_timeout= for one handshake, or"
        " timeout= of ws_connect() for the wait for a message"
    ),
}

# Options of aiohttp.ClientSession that the pool does not have.
_OF_CLIENT_SESSION: Final = frozenset(
    {
        "base_url",
        "connector",
        "cookie_jar",
        "cookies",
        "middlewares",
        "trust_env",
    }
)

# Options of WebSocketClientSession; hinting() adds them.
_OF_SESSION: Final[set[str]] = set()


def _hint_for_session(name: str) -> str | None:
    """Return what to do about an unexpected keyword argument of the constructor of a session."""
    if name in _ELSEWHERE_OF_SESSION:
        return f"use {_ELSEWHERE_OF_SESSION[name]}"
    if name in _OF_CLIENT_SESSION:
        return f"use client_session=aiohttp.ClientSession({name}=...) instead"
    if name in DEFAULTS or name == "reuse_key":
        return "it is an option of ws_connect(), not of WebSocketClientSession"
    hint = _ELSEWHERE.get(name)
    if hint is None:
        return None
    option, of_session, _ = hint.partition(" of WebSocketClientSession")
    if not of_session and not hint.startswith("headers="):
        option = hint.replace("=", "= of ws_connect()", 1)
    return f"use {option} instead"


def _hint_for_options(name: str, method: str) -> str | None:
    """Return what to do about an unexpected keyword argument of a method of the session."""
    if name in _OF_SESSION:
        return f"it is an option of WebSocketClientSession, not of {method}()"
    return f"use {_ELSEWHERE[name]} instead" if name in _ELSEWHERE else None


_Declaration = TypeVar("_Declaration", bound=Callable[..., Any])
_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


def implemented_by(function: Any) -> Callable[[_Declaration], _Declaration]:
    """Replace a declaration by a function of the core, with the declaration's signature and text.

    So both cores have the same signature, and no Python code runs between a call and the core.
    """

    def implement(declaration: _Declaration) -> _Declaration:
        implementation: Any = update_wrapper(function, declaration)
        return implementation  # type: ignore[no-any-return]

    return implement


def hinting(constructor: _Constructor) -> _Constructor:
    """Make a constructor suggest the right option in place of an unexpected keyword argument.

    The signature stays the same for tools and type checkers.
    """
    known = inspect.signature(constructor).parameters
    _OF_SESSION.update(known.keys() - {"self"})

    @wraps(constructor)
    def construct(*args: Any, **options: Any) -> None:
        for name in options:
            hint = None if name in known else _hint_for_session(name)
            if hint is not None:
                raise TypeError(
                    f"{constructor.__qualname__}() got an unexpected keyword argument {name!r}:"
                    f" {hint}"
                )
        constructor(*args, **options)

    implementation: Any = construct
    return implementation  # type: ignore[no-any-return]


def options_of_ws_connect(options: dict[str, Any], method: str) -> dict[str, Any]:
    """Return a copy of valid options, whose values can be sent more than once.

    ``method`` is the method of the session that was called with them.
    """
    options = dict(options)
    for name, value in options.items():
        if name not in DEFAULTS:
            hint = _hint_for_options(name, method)
            said = f"{method}() got an unexpected keyword argument {name!r}"
            raise TypeError(said if hint is None else f"{said}: {hint}")
        check = _CHECKS.get(name)
        if check is not None and value is not DEFAULTS[name]:
            options[name] = check(name, value)
    return options


def warn_of_deprecated(said: str) -> None:
    """Warn of an option that aiohttp deprecates, at the line that calls the package."""
    frame = sys._getframe(1)
    # 1 would be the line below.
    level = 2
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
        level += 1
    warnings.warn(said, DeprecationWarning, stacklevel=level)


def header_dict(name: str, headers: Any) -> CIMultiDict[str]:
    """Return the headers of the argument ``name`` in a form that can be sent."""
    try:
        given: CIMultiDict[Any] = CIMultiDict(headers or ())
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a mapping of str to str, or an iterable of pairs (name, value)"
        ) from None
    for field, value in given.items():
        if type(value) is not str or not value.isprintable() or _TOKEN(field) is None:
            return CIMultiDict([_header(name, *pair) for pair in given.items()])
    return given


def _header(name: str, field: str, value: Any) -> tuple[str, str]:
    if not is_token(field):
        # The name is not shown: it may be a value in the wrong place.
        raise ValueError(
            f"{name} must have valid names: only letters, digits and !#$%&'*+-.^_`|~ are allowed"
        )
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must have values of type str: {field!r} has a value of type"
            f" {type(value).__name__}"
        )
    # For a subclass of str, aiohttp sends the result of str().
    value = str(value)
    if not _is_text(value):
        raise ValueError(f"{name} must not have line breaks or control characters: check {field!r}")
    return str(field), value


def _is_text(value: str) -> bool:
    # isprintable() is faster, and is true of nearly all texts.
    return value.isprintable() or _NO_TEXT.search(value) is None


def is_token(value: str) -> bool:
    """Return whether ``value`` is valid as a header name, method or subprotocol (RFC 9110)."""
    return _TOKEN(value) is not None


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    text = str(value)
    if not _is_text(text):
        raise ValueError(f"{name} must not have line breaks or control characters")
    return text


def _method(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    method = str(value)
    if not is_token(method):
        raise ValueError(
            f"Method cannot contain non-token characters: {name} must be a single word such as GET"
        )
    return method


def _protocols(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(
            f'{name} must be an iterable of str, such as ("graphql-ws",), not'
            f" {type(value).__name__}"
        )
    protocols = tuple(value)
    for protocol in protocols:
        if not isinstance(protocol, str):
            raise TypeError(f"each of {name} must be a str, not {type(protocol).__name__}")
        if not _is_text(protocol):
            raise ValueError(f"{name} must not have line breaks or control characters")
    return protocols


def _basic_auth(name: str, value: Any) -> BasicAuth | None:
    if not isinstance(value, BasicAuth | None):
        if name == "proxy_auth":
            raise TypeError(f"proxy_auth must be None or BasicAuth() tuple, not {_a(value)}")
        raise TypeError(f"BasicAuth() tuple is required instead of {_a(value)} as {name}")
    if value is not None:
        encoded_auth(name, value)
    return value


def encoded_auth(name: str, auth: BasicAuth) -> str:
    """Return the value of the header for ``auth``."""
    with suppress(ValueError, LookupError):
        return auth.encode()
    # Not chained: the original error contains the credentials.
    raise ValueError(
        f"{name} cannot be encoded: pass an encoding, such as"
        " aiohttp.BasicAuth(login, password, 'utf-8')"
    )


def _optional_headers(name: str, value: Any) -> CIMultiDict[str] | None:
    return None if value is None else header_dict(name, value)


def seconds(name: str, value: Any) -> Any:
    """Return ``value``: a number of seconds >= 0, or None."""
    return None if value is None else _seconds(name, value, ">= 0")


def _seconds(name: str, value: Any, allowed: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    # The loop converts an int to a float, for which it may be too large.
    if not 0 <= value <= sys.float_info.max or (value == 0 and allowed != ">= 0"):
        raise ValueError(f"{name} must be a finite number {allowed}, got {_shown(value)}")
    return value


def _shown(number: Any) -> str:
    """Return the text of a number; Python refuses to convert an int of thousands of digits."""
    if isinstance(number, float) or abs(number) <= 10 * sys.maxsize:
        return str(number)
    return "a very large number" if number > 0 else "a negative number"


def _ws_timeout(name: str, value: Any) -> Any:
    if isinstance(value, aiohttp.ClientWSTimeout):
        seconds(f"{name}.ws_receive", value.ws_receive)
        seconds(f"{name}.ws_close", value.ws_close)
        return value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return seconds(name, value)
    raise TypeError(f"{name} must be an aiohttp.ClientWSTimeout, not {type(value).__name__}")


def _window(name: str, value: Any) -> int:
    number = _integer(name, value)
    if number != 0 and not 9 <= number <= 15:
        raise ValueError(
            "Compress wbits must between 9 and 15, zlib does not support wbits=8:"
            f" {name} must be 0 or from 9 to 15, got {_shown(number)}"
        )
    return number


def _size(name: str, value: Any) -> int:
    number = _integer(name, value)
    if not 0 <= number <= sys.maxsize:
        raise ValueError(f"{name} must be from 0 (no limit) to {sys.maxsize}, got {_shown(number)}")
    return number


def _integer(name: str, value: Any, or_none: str = "") -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer{or_none}, not bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer{or_none}, not {type(value).__name__}") from None


def _tls(name: str, value: Any) -> Any:
    if not isinstance(value, _TLS_TYPES):
        raise TypeError(f"{_SSL_SHOULD_BE}, got {_a(value)} instead.")
    return value


def _tls_context(name: str, value: Any) -> Any:
    if not isinstance(value, ssl.SSLContext | None):
        raise TypeError(
            f"{_SSL_SHOULD_BE}: {name} must be an SSLContext or None, got {_a(value)} instead."
        )
    return value


def _fingerprint(name: str, value: Any) -> Any:
    if value is not None:
        if not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
        try:
            aiohttp.Fingerprint(value)
        except ValueError as exc:
            raise ValueError(f"{exc} ({name} must be a SHA-256 digest)") from None
    return value


def _a(value: Any) -> str:
    """Return the type of ``value`` with its article; the value itself may be secret."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _flag(name: str, value: Any) -> bool:
    try:
        return bool(value)
    except Exception:
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}") from None


_CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "auth": _basic_auth,
    "autoclose": _flag,
    "autoping": _flag,
    "compress": _window,
    "decode_text": _flag,
    "fingerprint": _fingerprint,
    "headers": _optional_headers,
    "heartbeat": seconds,
    "max_msg_size": _size,
    "method": _method,
    "origin": _text,
    "protocols": _protocols,
    "proxy_auth": _basic_auth,
    "proxy_headers": _optional_headers,
    "receive_timeout": seconds,
    "server_hostname": _text,
    "ssl": _tls,
    "ssl_context": _tls_context,
    "timeout": _ws_timeout,
}
