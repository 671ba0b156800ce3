"""From a URL and the options of ``ws_connect`` to the keys of the pool.

Two calls may share a connection when the handshakes they would make are the same, byte for byte,
but for ``Sec-WebSocket-Key``, and the connections that come of them would behave the same.  So
everything that aiohttp puts into a handshake is brought here into the form in which it goes over
the wire, and everything that shapes the connection afterwards stands beside it.
"""

import inspect
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import BasicAuth, hdrs
from aiohttp.client_ws import DEFAULT_WS_CLIENT_TIMEOUT
from multidict import CIMultiDict
from yarl import URL

from .hooks import NO_HOOKS, Hooks, hooks_of

__all__ = ("EndpointKey", "HandshakeKey", "Target", "cookies_for", "parse_url", "resolve")

# The options of the installed aiohttp, with their defaults.
_DEFAULTS: Final[Mapping[str, Any]] = {
    name: parameter.default
    for name, parameter in inspect.signature(aiohttp.ClientSession.ws_connect).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}

_TLS_SCHEMES: Final = frozenset({"https", "wss"})
_SCHEMES: Final = frozenset({"http", "ws"}) | _TLS_SCHEMES

# What aiohttp adds to every handshake unless the caller gave it: stating it changes nothing.
_IMPLIED_HEADERS: Final = {
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-version": ["13"],
}

# Options that are not looked up by their own name in the key, since they end up in the URL, in a
# header or in another option.
_FOLDED: Final = frozenset(
    {
        "auth",
        "fingerprint",
        "headers",
        "origin",
        "params",
        "receive_timeout",
        "ssl",
        "ssl_context",
        "timeout",
        "verify_ssl",
    }
)


class EndpointKey(NamedTuple):
    """What ``limit`` counts for."""

    host: str
    port: int
    is_ssl: bool

    def __str__(self) -> str:
        """Return ``host:port``, as a URL has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class HandshakeKey(NamedTuple):
    """What two calls must have in common to share a connection.

    Its ``repr`` shows the endpoint only, since all the rest may be secret.
    """

    #: Where it goes, and whether by TLS; ``ws`` and ``http`` are one scheme, ``wss`` and ``https``.
    endpoint: EndpointKey
    #: Path and query as on the wire, ``params`` included.
    target: str
    #: Names folded and sorted, values in order; or the caller's ``reuse_key``, which stands for
    #: headers and cookies, but not for ``auth``, ``origin`` and credentials in the URL.
    headers: Hashable
    #: What the jar sends with it.
    cookies: Hashable
    #: Every other option whose value is not the default: proxy, TLS, subprotocols, and what shapes
    #: the connection on our side only (``max_msg_size``, ``heartbeat``, ...).
    options: Hashable

    def __repr__(self) -> str:
        """Return only what is no secret."""
        return f"<HandshakeKey({self.endpoint})>"


class Target(NamedTuple):
    """A call of ``ws_connect`` as the pool sees it: where to look, and how to connect."""

    key: HandshakeKey
    #: What goes to aiohttp. Iterators are used up, so that a handshake can be made more than once.
    url: URL
    options: dict[str, Any]
    #: The caller knows better than headers and cookies what connections are alike.
    has_reuse_key: bool
    hooks: Hooks

    def __repr__(self) -> str:
        """Return only what is no secret."""
        return f"<Target({self.key.endpoint})>"


def resolve(
    url: str | URL,
    options: dict[str, Any],
    *,
    headers: CIMultiDict[str],
    reuse_key: Hashable,
    client_session: aiohttp.ClientSession | None,
    hooks: Hooks = NO_HOOKS,
) -> Target:
    """Return the target of one call.

    ``headers`` and ``hooks`` are the pool's own; ``client_session`` is the one that will connect,
    if there is one already: its base URL and default headers count.  Raises ``TypeError`` for an
    argument of the wrong type, ``ValueError`` where two say different things, and
    ``aiohttp.InvalidURL`` and ``aiohttp.NonHttpUrlClientError`` for a URL that cannot be connected
    to.
    """
    options = dict(options)
    hooks = hooks_of(options, hooks)
    options = _checked(options)
    url = parse_url(url, client_session)
    if params := options.pop("params", None):
        url = url.extend_query(params)
    sent = _merged(headers, options.get("headers"))
    if sent:
        options["headers"] = sent
    else:
        options.pop("headers", None)
    endpoint = _endpoint(url)
    key = HandshakeKey(
        endpoint,
        url.raw_path_qs,
        _reuse_key(reuse_key) or _wire_headers(url, options, client_session),
        (),
        _other_options(url, options, hooks, with_auth=reuse_key is not None),
    )
    try:
        hash(key)
    except TypeError as exc:
        raise TypeError(f"an option of ws_connect() has a value of the wrong type: {exc}") from None
    return Target(key, url, options, reuse_key is not None, hooks)


def parse_url(url: str | URL, client_session: aiohttp.ClientSession | None) -> URL:
    """Return the absolute URL that aiohttp would connect to."""
    if not isinstance(url, str | URL):
        raise TypeError(f"url must be a str or a yarl.URL, not {type(url).__name__}")
    try:
        parsed = URL(url) if client_session is None else client_session._build_url(url)
    except ValueError:
        # The parser's own message may quote a password.
        raise aiohttp.InvalidUrlClientError("<url>", "url cannot be parsed") from None
    except AssertionError:
        raise aiohttp.InvalidUrlClientError(
            "<url>", "aiohttp before 3.12 joins a base_url only with paths beginning with a slash"
        ) from None
    if not parsed.scheme:
        raise aiohttp.InvalidUrlClientError("<url>", "url must begin with ws:// or wss://")
    if parsed.scheme not in _SCHEMES:
        raise aiohttp.NonHttpUrlClientError(
            f"{parsed.scheme}:...", "url must be one of ws, wss, http, https"
        )
    if not parsed.raw_host:
        raise aiohttp.InvalidUrlClientError(f"{parsed.scheme}:...", "url names no host")
    return parsed


def cookies_for(jar: aiohttp.abc.AbstractCookieJar, url: URL) -> Hashable:
    """Return what ``jar`` would send to ``url`` as it stands."""
    cookies = jar.filter_cookies(url)
    return tuple((name, morsel.coded_value) for name, morsel in cookies.items())


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with every iterable that can be used only once turned into one that lasts."""
    options = dict(options)
    for name in options:
        if name not in _DEFAULTS:
            raise TypeError(f"ws_connect() got an unexpected keyword argument {name!r}")
    protocols = options.get("protocols", ())
    if isinstance(protocols, str | bytes) or not isinstance(protocols, Iterable):
        raise TypeError('protocols must be an iterable of str, as in ("graphql-ws",)')
    if "protocols" in options:
        options["protocols"] = tuple(protocols)
    for name in ("auth", "proxy_auth"):
        if not isinstance(options.get(name), BasicAuth | None):
            raise TypeError(f"{name} must be an aiohttp.BasicAuth or None")
    for name in ("headers", "proxy_headers"):
        if options.get(name) is not None:
            options[name] = _header_dict(name, options[name])
    return options


def _header_dict(name: str, headers: Any) -> CIMultiDict[str]:
    try:
        return CIMultiDict(headers)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a mapping of str to str, or pairs of them") from None


def _merged(base: CIMultiDict[str], more: CIMultiDict[str] | None) -> CIMultiDict[str]:
    """Return both; a name in ``more`` replaces all of that name in ``base``."""
    if not more:
        return base.copy()
    merged = base.copy()
    for name in more:
        merged.popall(name, None)
    merged.extend(more)
    return merged


def _endpoint(url: URL) -> EndpointKey:
    host, port = url.raw_host, url.port
    # parse_url() has seen to both: every scheme that it lets pass has a default port.
    assert host is not None
    assert port is not None
    return EndpointKey(host, port, url.scheme in _TLS_SCHEMES)


def _reuse_key(reuse_key: Hashable) -> Hashable:
    if reuse_key is None:
        return None
    try:
        hash(reuse_key)
    except TypeError:
        raise TypeError(
            f"reuse_key must be hashable, which {type(reuse_key).__name__} is not"
        ) from None
    # Never equal to what _wire_headers() returns, whatever the caller chose.
    return ("reuse_key", reuse_key)


def _wire_headers(
    url: URL, options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> Hashable:
    headers: Any = options.get("headers")
    if client_session is not None:
        headers = client_session._prepare_headers(headers)
    by_name: dict[str, list[str]] = {}
    for name, value in (headers or {}).items():
        by_name.setdefault(name.lower(), []).append(value)
    if (authorization := _authorization(url, options)) is not None:
        if "authorization" in by_name:
            raise ValueError(
                "headers have an Authorization, and so have the URL or auth: give one of them"
            )
        by_name["authorization"] = [authorization]
    if options.get("origin") is not None:
        by_name[hdrs.ORIGIN.lower()] = [options["origin"]]
    by_name.pop("sec-websocket-key", None)
    return tuple(
        (name, tuple(values))
        for name, values in sorted(by_name.items())
        if _IMPLIED_HEADERS.get(name) != values
    )


def _authorization(url: URL, options: dict[str, Any]) -> str | None:
    """Return what aiohttp makes of ``auth`` and of credentials in the URL."""
    auth: BasicAuth | None = options.get("auth")
    if url.raw_user is None and url.raw_password is None:
        return None if auth is None else auth.encode()
    if auth is not None:
        raise ValueError("the URL has credentials, and auth is given: give one of them")
    try:
        in_url = BasicAuth.from_url(url)
        return None if in_url is None else in_url.encode()
    except ValueError:
        # Its own message would show them.
        raise aiohttp.InvalidUrlClientError(
            "<url>", "url has credentials that cannot be sent (latin-1, no colon in the name)"
        ) from None


def _other_options(url: URL, options: dict[str, Any], hooks: Hooks, *, with_auth: bool) -> Hashable:
    others: dict[str, Hashable] = {
        name: canonical
        for name, value in options.items()
        if name not in _FOLDED and (canonical := _canonical(name, value)) != _DEFAULTS[name]
    }
    # With a reuse_key the headers do not say so; otherwise it says it twice.
    if options.get("origin") is not None:
        others["origin"] = options["origin"]
    if with_auth:
        others["auth"] = _authorization(url, options)
    if (timeout := _timeout(options)) != DEFAULT_WS_CLIENT_TIMEOUT:
        others["timeout"] = (timeout.ws_receive, timeout.ws_close)
    if (ssl := _ssl(options)) is not True:
        others["ssl"] = ssl
    if hooks != NO_HOOKS:
        others["hooks"] = hooks
    return tuple(sorted(others.items(), key=lambda item: item[0]))


def _canonical(name: str, value: Any) -> Hashable:
    if name == "method" and isinstance(value, str):
        return value.upper()
    if name == "proxy" and value is not None:
        return _proxy(value)
    if name == "proxy_headers" and value is not None:
        return tuple(sorted(((n.lower(), v) for n, v in value.items()), key=lambda item: item[0]))
    return value  # type: ignore[no-any-return]


def _proxy(proxy: str | URL) -> Hashable:
    if not isinstance(proxy, str | URL):
        raise TypeError(f"proxy must be a str or a yarl.URL, not {type(proxy).__name__}")
    try:
        url = URL(proxy)
    except ValueError:
        raise aiohttp.InvalidUrlClientError("<proxy>", "proxy cannot be parsed") from None
    return (url.scheme, url.raw_host, url.port, url.user, url.password)


def _timeout(options: dict[str, Any]) -> aiohttp.ClientWSTimeout:
    """Return what aiohttp makes of ``timeout`` and ``receive_timeout``."""
    timeout = options.get("timeout", _DEFAULTS["timeout"])
    if timeout is _DEFAULTS["timeout"]:
        timeout = DEFAULT_WS_CLIENT_TIMEOUT
    elif not isinstance(timeout, aiohttp.ClientWSTimeout):
        timeout = aiohttp.ClientWSTimeout(ws_close=timeout)
    if (receive := options.get("receive_timeout")) is not None:
        timeout = aiohttp.ClientWSTimeout(ws_receive=receive, ws_close=timeout.ws_close)
    return timeout


def _ssl(options: dict[str, Any]) -> Hashable:
    """Return what aiohttp makes of ``ssl`` and its three deprecated forerunners."""
    ssl = options.get("ssl", True)
    if options.get("verify_ssl") is False:
        ssl = False
    if options.get("ssl_context") is not None:
        ssl = options["ssl_context"]
    fingerprint = options.get("fingerprint")
    if isinstance(ssl, aiohttp.Fingerprint):
        fingerprint = ssl.fingerprint
    if fingerprint is not None:
        return ("fingerprint", fingerprint)
    return True if ssl is None else ssl
