"""What the arguments of users may be: each function returns what it lets pass.

Whatever it does not is refused with a ``TypeError`` or a ``ValueError`` that names the argument and
shows no value that may be secret.
"""

import asyncio
import inspect
import operator
import re
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import wraps
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
    "is_token",
    "limiter",
    "loop",
    "options_of_ws_connect",
    "places",
    "positive",
    "response_class",
    "seconds",
    "session_name",
    "some_seconds",
)

#: The options of the installed aiohttp, with their defaults.
DEFAULTS: Final[Mapping[str, Any]] = {
    name: parameter.default
    for name, parameter in inspect.signature(aiohttp.ClientSession.ws_connect).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}

# RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# What aiohttp refuses to send, and half a character, which it leaves out.
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_TLS_TYPES: Final = (ssl.SSLContext, bool, aiohttp.Fingerprint, type(None))
# aiohttp's own words, where the argument is aiohttp's.
_SSL_SHOULD_BE: Final = "ssl should be SSLContext, bool, Fingerprint or None"


# -- of the session -------------------------------------------------------------------------------


def places(name: str, value: Any) -> int | None:
    """Return ``value`` if it is a number of places, or None."""
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number or None, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number or None, not {type(value).__name__}"
        ) from None
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}")
    if number > sys.maxsize:
        raise ValueError(f"{name} must not be more than {sys.maxsize}; None: no limit")
    return number


def count(value: Any) -> int:
    """Return ``value`` if it is a number of connections."""
    number = places("count", value)
    if number is None:
        raise TypeError("count must be a number of connections, not None")
    return number


def idle_connections(name: str, value: Any) -> int | None:
    """Return ``value`` if it is a bound to what may be idle, or None."""
    number = places(name, value)
    if number == 0:
        raise ValueError(
            f"{name} must be at least 1, got 0: None sets no bound, force_close=True pools nothing"
        )
    return number


def positive(name: str, value: Any) -> float | None:
    """Return ``value`` if it is a number of seconds and not 0, or None."""
    if seconds(name, value) == 0:
        raise ValueError(f"{name} must be more than 0 seconds; None: no limit")
    return value  # type: ignore[no-any-return]


def some_seconds(name: str, value: Any) -> float:
    """Return ``value`` if it is a number of seconds, and not None."""
    number: float | None = seconds(name, value)
    if number is None:
        raise TypeError(f"{name} must be a number of seconds, not None")
    return number


def client_session(value: Any) -> aiohttp.ClientSession | None:
    """Return it if it can be used to connect, or None."""
    if value is None:
        return None
    if not isinstance(value, aiohttp.ClientSession):
        raise TypeError(
            f"client_session must be an aiohttp.ClientSession, not {type(value).__name__}"
        )
    if value.closed:
        raise ValueError("client_session is closed: give an open one, or none")
    return value


def loop(value: Any) -> asyncio.AbstractEventLoop | None:
    """Return it if it can be run in, or None."""
    if value is None:
        return None
    if not isinstance(value, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an event loop, not {type(value).__name__}")
    if value.is_closed():
        raise ValueError("loop is closed: give an open one, or none")
    return value


def response_class(value: Any) -> type[ClientWebSocketResponse]:
    """Return it if handles can be made of it."""
    if not isinstance(value, type) or not issubclass(value, ClientWebSocketResponse):
        raise TypeError(
            "ws_response_class must be a subclass of aiowebsocketclient.ClientWebSocketResponse"
        )
    for cls in value.__mro__[: value.__mro__.index(ClientWebSocketResponse)]:
        if vars(cls).get("__slots__"):
            raise TypeError(
                f"ws_response_class must be without __slots__, which {cls.__name__} has:"
                " they would belong to one handle, not to the connection"
            )
    return value


def limiter(value: Any) -> Any:
    """Return it if it can be entered, or None."""
    if value is not None and not all(
        hasattr(type(value), name) for name in ("__aenter__", "__aexit__")
    ):
        raise TypeError("connect_limiter must be an asynchronous context manager")
    return value


def close_codes(name: str, value: Any) -> frozenset[int]:
    """Return the codes of closing handshakes that are in ``value``."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable | None):
        raise TypeError(f"{name} must be an iterable of close codes, as in {{1001, 1012}}")
    codes = {_whole(f"each code in {name}", code) for code in value or ()}
    for code in codes:
        # RFC 6455, 7.4.
        if not 1000 <= code <= 4999:
            raise ValueError(f"{name} must be of close codes, from 1000 to 4999, not {code}")
    return frozenset(codes)


def session_name(name: str, value: Any) -> str | None:
    """Return ``value`` if a session can be named by it, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty; None: the session has no name")
    # A subclass may call itself something else in each place.
    return str.__str__(value)


# -- of ws_connect() ------------------------------------------------------------------------------


# What options of websockets and of websocket-client are called here.
_ELSEWHERE: Final = {
    "additional_headers": "headers=",
    "close_timeout": "close_timeout= of the session",
    "compression": "compress=",
    "conn_timeout": "conn_timeout= of the session",
    "cookie": 'headers={"Cookie": ...}',
    "extra_headers": "headers=",
    "header": "headers=",
    "http_proxy_auth": "proxy_auth=",
    "http_proxy_host": "proxy=",
    "http_proxy_port": "proxy=",
    "max_size": "max_msg_size=",
    "open_timeout": "conn_timeout= of the session",
    "ping_interval": "heartbeat=",
    "ping_timeout": "heartbeat=, half of which is waited for the PONG,",
    "sslopt": "ssl=",
    "subprotocols": "protocols=",
    "user_agent_header": 'headers={"User-Agent": ...}',
}


def _hint_for_session(name: str) -> str | None:
    """Return what to write where the constructor of a session was given such a keyword."""
    if name in DEFAULTS or name == "reuse_key":
        return f"{name}= of ws_connect()"
    hint = _ELSEWHERE.get(name)
    if hint is None or hint.startswith("headers="):
        return hint
    option, of_session, rest = hint.partition(" of the session")
    return option + rest if of_session else hint.replace("=", "= of ws_connect()", 1)


_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


def hinting(constructor: _Constructor) -> _Constructor:
    """Let a constructor tell what an option of another library, or of ``ws_connect()``, is here.

    Its signature stays the same, as tools show it and type checkers know it.
    """
    known = inspect.signature(constructor).parameters

    @wraps(constructor)
    def construct(*args: Any, **options: Any) -> None:
        for name in options:
            hint = None if name in known else _hint_for_session(name)
            if hint is not None:
                raise TypeError(
                    f"{constructor.__qualname__}() got an unexpected keyword argument {name!r}:"
                    f" use {hint} instead"
                )
        constructor(*args, **options)

    implementation: Any = construct
    return implementation  # type: ignore[no-any-return]


def options_of_ws_connect(options: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which every value can be sent, and more than once."""
    options = dict(options)
    for name, value in options.items():
        if name not in DEFAULTS:
            hint = f": use {_ELSEWHERE[name]} instead" if name in _ELSEWHERE else ""
            raise TypeError(f"ws_connect() got an unexpected keyword argument {name!r}{hint}")
        check = _CHECKS.get(name)
        if check is not None and value is not DEFAULTS[name]:
            options[name] = check(name, value)
    return options


def header_dict(name: str, headers: Any) -> CIMultiDict[str]:
    """Return headers of the argument ``name`` as they can go over the wire."""
    try:
        given: CIMultiDict[Any] = CIMultiDict(headers or ())
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a mapping of str to str, or pairs of them") from None
    for field, value in given.items():
        if type(value) is not str or not value.isprintable() or _TOKEN(field) is None:
            return CIMultiDict([_header(name, *pair) for pair in given.items()])
    return given


def _header(name: str, field: str, value: Any) -> tuple[str, str]:
    if not is_token(field):
        # It may be a value that somebody has put in the wrong place.
        raise ValueError(f"{name} must have names of letters, digits and !#$%&'*+-.^_`|~ only")
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str: {field!r} is {type(value).__name__}")
    # A subclass may call itself something else, and that is what goes over the wire.
    value = str(value)
    if not _is_text(value):
        raise ValueError(
            f"{name} must be without line breaks and control characters: see {field!r}"
        )
    return str(field), value


def _is_text(value: str) -> bool:
    # Nearly everything is what isprintable() finds faster than an expression does.
    return value.isprintable() or _NO_TEXT.search(value) is None


def is_token(value: str) -> bool:
    """Return whether it can be a header's name, a method or a subprotocol (RFC 9110, 5.6.2)."""
    return _TOKEN(value) is not None


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    text = str(value)
    if not _is_text(text):
        raise ValueError(f"{name} must be without line breaks and control characters")
    return text


def _method(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    method = str(value)
    if not is_token(method):
        raise ValueError(
            f"Method cannot contain non-token characters: {name} must be a word such as GET"
        )
    return method


def _protocols(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f'{name} must be an iterable of str, as in ("graphql-ws",)')
    protocols = tuple(value)
    for protocol in protocols:
        if not isinstance(protocol, str):
            raise TypeError(f"{name} must be of str, not of {type(protocol).__name__}")
        if not _is_text(protocol):
            raise ValueError(f"{name} must be without line breaks and control characters")
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
    """Return the header that ``auth`` makes."""
    with suppress(ValueError, LookupError):
        return auth.encode()
    # Not from inside, as the error there has it.
    raise ValueError(
        f"{name} cannot be encoded: give it an encoding, as in"
        " aiohttp.BasicAuth(login, password, 'utf-8')"
    )


def _optional_headers(name: str, value: Any) -> CIMultiDict[str] | None:
    return None if value is None else header_dict(name, value)


def seconds(name: str, value: Any) -> Any:
    """Return ``value`` if it is a number of seconds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    # An int may be too large for a float, which the loop makes of it.
    if not 0 <= value <= sys.float_info.max:
        shown = value if isinstance(value, float) else "what is given"
        raise ValueError(f"{name} must be 0 or more seconds, and finite, not {shown}")
    return value


def _ws_timeout(name: str, value: Any) -> Any:
    if isinstance(value, aiohttp.ClientWSTimeout):
        seconds(f"{name}.ws_receive", value.ws_receive)
        seconds(f"{name}.ws_close", value.ws_close)
        return value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return seconds(name, value)
    raise TypeError(f"{name} must be an aiohttp.ClientWSTimeout, not {type(value).__name__}")


def _window(name: str, value: Any) -> int:
    number = _whole(name, value)
    if number != 0 and not 9 <= number <= 15:
        raise ValueError(
            "Compress wbits must between 9 and 15, zlib does not support wbits=8:"
            f" {name} must be one of these, or 0, not {number}"
        )
    return number


def _size(name: str, value: Any) -> int:
    number = _whole(name, value)
    if not 0 <= number <= sys.maxsize:
        raise ValueError(f"{name} must be from 0 (no limit) to {sys.maxsize}, not {number}")
    return number


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}") from None


def _tls(name: str, value: Any) -> Any:
    if not isinstance(value, _TLS_TYPES):
        raise TypeError(f"{_SSL_SHOULD_BE}, got {_a(value)} instead.")
    return value


def _tls_context(name: str, value: Any) -> Any:
    if not isinstance(value, ssl.SSLContext | None):
        raise TypeError(f"{_SSL_SHOULD_BE}, and {name} an SSLContext, got {_a(value)} instead.")
    return value


def _fingerprint(name: str, value: Any) -> Any:
    if value is not None:
        if not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
        try:
            aiohttp.Fingerprint(value)
        except ValueError as exc:
            raise ValueError(f"{exc} ({name} must be a digest of SHA-256)") from None
    return value


def _a(value: Any) -> str:
    """Return what kind of value it is; the value may be secret."""
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
