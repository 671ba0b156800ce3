"""Computes the keys of the pool from a URL and the options of ``ws_connect``.

Two calls may share a connection if their handshakes are equal byte for byte, except for
``Sec-WebSocket-Key``, and if their connections behave the same.  So a key contains everything that
aiohttp puts into a handshake, in the form in which aiohttp sends it, and every option that changes
how the connection behaves afterwards.
"""

import re
from collections.abc import Hashable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import BasicAuth, hdrs
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict, getversion
from yarl import URL

from ._aiohttp_private import DEFAULT_WS_CLIENT_TIMEOUT
from ._compat import Route
from .arguments import (
    DEFAULTS,
    encoded_auth,
    header_dict,
    options_of_ws_connect,
    warn_of_deprecated,
)
from .hooks import NO_HOOKS, Hooks, hooks_of

__all__ = (
    "EndpointKey",
    "HandshakeKey",
    "Target",
    "Variant",
    "is_tls_in_tls",
    "is_with",
    "parse_url",
    "resolve",
    "version_of",
)

_TLS_SCHEMES: Final = frozenset({"https", "wss"})
_PROXY_SCHEMES: Final = frozenset({"http", "https"})
_SCHEMES: Final = ("ws", "wss", "http", "https")
# Schemes of aiohttp's connectors to a file; their URLs have no port.
_FILE_SCHEMES: Final = frozenset({"unix", "npipe"})

# Headers that aiohttp adds to every handshake unless the caller passes them: passing these values
# changes nothing. The headers of the client session do not replace them.
_IMPLIED_HEADERS: Final = {
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-version": ["13"],
}
# Headers that aiohttp adds to every request, unless the caller or the client session changes them.
_AUTO_HEADERS: Final = {
    name.lower(): [value] for name, value in aiohttp.ClientRequest.DEFAULT_HEADERS.items()
} | {"user-agent": [SERVER_SOFTWARE]}
_NO_HEADERS: Final[CIMultiDict[str]] = CIMultiDict()

# Options that have no entry of their own in the key: they become part of the URL, of a header or of
# another option.
_FOLDED: Final = frozenset(
    {
        "auth",
        "fingerprint",
        "headers",
        "origin",
        "params",
        "proxy",
        "proxy_auth",
        "proxy_headers",
        "receive_timeout",
        "ssl",
        "ssl_context",
        "timeout",
        "verify_ssl",
    }
)


# Characters that would break the first line of a request, or the header Host.
_NO_URL: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")

_OLD_TLS_OPTIONS: Final = frozenset({"verify_ssl", "ssl_context", "fingerprint"})
_TLS_OPTIONS: Final = _OLD_TLS_OPTIONS | {"ssl"}


class EndpointKey(NamedTuple):
    """An endpoint: host, port and TLS.  ``limit`` applies to each endpoint."""

    host: str
    port: int
    is_ssl: bool

    def __str__(self) -> str:
        """Return ``host:port``, as a URL has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


class HandshakeKey(NamedTuple):
    """Two calls can share a connection if they have equal keys.

    The ``repr`` shows only the endpoint, because the other fields may contain secrets.
    """

    #: Host, port and TLS; ``ws`` and ``http`` are the same scheme, so are ``wss`` and ``https``.
    endpoint: EndpointKey
    #: Path and query as sent, with ``params``; for a proxy, the whole URL.
    resource: str
    #: Headers with names in lower case and sorted, values in order; or the caller's ``reuse_key``,
    #: which replaces headers and cookies, but not ``auth``, ``origin`` and credentials in the URL.
    headers: Hashable
    #: All other options that differ from their defaults: proxy, TLS, subprotocols, and options that
    #: only affect the client's side (``max_msg_size``, ``heartbeat``, ...).
    options: Hashable
    #: What aiohttp adds: cookies and environment, or an empty tuple.  Two fields would cost two
    #: hashes per lookup, and both are nearly always empty.
    implied: tuple[()] | tuple[tuple[Any, ...], tuple[Hashable, ...]] = ()

    @property
    def cookies(self) -> tuple[Any, ...]:
        """Cookies from the jar: of the first request, then of each redirect, by place."""
        return self.implied[0] if self.implied else ()

    @property
    def environment(self) -> tuple[Hashable, ...]:
        """With ``trust_env``: proxies and credentials from the environment, by place."""
        return self.implied[1] if self.implied else ()

    def with_implied(
        self, cookies: tuple[Any, ...], environment: tuple[Hashable, ...]
    ) -> "HandshakeKey":
        """Return the key with what aiohttp adds to the handshake."""
        implied = (cookies, environment) if cookies or environment else ()
        return self._replace(implied=implied)

    def base(self) -> "HandshakeKey":
        """Return the key without what aiohttp adds, which may change at any time."""
        return self._replace(implied=())

    def __repr__(self) -> str:
        """Return the endpoint; everything else may be secret."""
        return f"<HandshakeKey({self.endpoint})>"


class Target(Route):
    """A call of ``ws_connect`` as the pool sees it: the key to look up, and how to connect."""

    __slots__ = ("has_reuse_key", "headers_version", "hooks", "options", "url")

    key: HandshakeKey

    def __init__(
        self,
        key: HandshakeKey,
        url: URL,
        options: dict[str, Any],
        has_reuse_key: bool,
        hooks: Hooks,
        headers_version: int | None,
    ) -> None:
        is_checked = hooks.check is not None
        super().__init__(key.endpoint, key, not is_checked and hooks.reset is None, is_checked)
        #: The arguments for aiohttp, without iterators: a handshake can be repeated.
        self.url = url
        self.options = options
        #: Whether a ``reuse_key`` replaces headers and cookies in the key.
        self.has_reuse_key = has_reuse_key
        self.hooks = hooks
        #: The version of the client session's headers, which are in ``options`` too; or None.
        self.headers_version = headers_version

    def with_key(self, key: HandshakeKey) -> "Target":
        """Return the target of the same call under another key."""
        return Target(
            key,
            self.url,
            self.options,
            self.has_reuse_key,
            self.hooks,
            self.headers_version,
        )

    def __repr__(self) -> str:
        """Return the endpoint; everything else may be secret."""
        return f"<Target({self.endpoint})>"


class Variant(Target):
    """The target of a call that differs from another only in values of headers under a reuse_key.

    Those are no part of the key, so nothing is resolved anew.  The options for aiohttp are made
    when a handshake needs them, which most calls do not.
    """

    __slots__ = ("_base", "_headers", "_like")

    def __init__(self, like: Target, headers: dict[str, str], base: CIMultiDict[str]) -> None:
        Route.__init__(self, like.endpoint, like.key, like.is_direct, like.is_checked, like)
        self._like = like
        self._headers = headers
        self._base = base
        self.url = like.url
        self.has_reuse_key = True
        self.hooks = like.hooks
        self.headers_version = like.headers_version

    @property
    def options(self) -> dict[str, Any]:  # type: ignore[override]
        """The arguments for aiohttp."""
        given = _merged(self._base, header_dict("headers", self._headers))
        return self._like.options | {"headers": _unified(given)}


def resolve(
    url: str | URL,
    options: dict[str, Any],
    *,
    headers: CIMultiDict[str],
    reuse_key: Hashable,
    client_session: aiohttp.ClientSession | None,
    hooks: Hooks = NO_HOOKS,
    method: str = "ws_connect",
) -> Target:
    """Return the target of one call of ``method``, whose name errors contain.

    ``headers`` and ``hooks`` are those of the pool.  ``client_session`` is the session that will
    connect, or None if there is none yet: its base URL and default headers are part of the target.

    Raises ``TypeError`` for an argument of the wrong type, ``ValueError`` for arguments that
    contradict each other, and ``aiohttp.InvalidURL`` or ``aiohttp.NonHttpUrlClientError`` for an
    invalid URL.
    """
    options = dict(options)
    hooks = hooks_of(options, hooks)
    options = options_of_ws_connect(options, method)
    url = parse_url(url, client_session)
    if params := options.pop("params", None):
        url = _extended(url, params)
    given = _merged(headers, options.get("headers"))
    sent = _prepared(given, client_session)
    if sent:
        options["headers"] = sent
    else:
        options.pop("headers", None)
    if client_session is not None and client_session.headers:
        # aiohttp sends the current headers of the session to a proxy, too.
        options["proxy_headers"] = client_session._prepare_headers(options.get("proxy_headers"))
    wire_headers = _wire_headers(url, options, given, client_session)
    key = HandshakeKey(
        _endpoint(url),
        _resource(url, options, client_session),
        wire_headers if reuse_key is None else _reuse_key(reuse_key),
        _other_options(url, options, hooks, client_session, with_reuse_key=reuse_key is not None),
    )
    try:
        hash(key)
    except TypeError as exc:
        raise TypeError(f"options of {method}() must be hashable: {exc}") from None
    _replace_deprecated(options)
    version = None if client_session is None else version_of(client_session.headers)
    return Target(key, url, options, reuse_key is not None, hooks, version)


def parse_url(url: str | URL, client_session: aiohttp.ClientSession | None) -> URL:
    """Return the absolute URL to which aiohttp would connect."""
    if not isinstance(url, str | URL):
        raise TypeError(f"url must be a str or a yarl.URL, not {type(url).__name__}")
    why = ""
    try:
        parsed = URL(url) if client_session is None else client_session._build_url(url)
    except ValueError:
        why = "url cannot be parsed: check its host and port"
    except AssertionError:
        why = "url must begin with a slash: aiohttp before 3.12 joins only such paths to a base_url"
    if why:
        # Not chained: the message of the parser may quote a password.
        raise aiohttp.InvalidUrlClientError("<url>", why)
    if not parsed.scheme:
        raise aiohttp.InvalidUrlClientError(
            "<url>",
            "url must be absolute, such as wss://example.com/path; a relative URL needs a"
            " client_session with a base_url",
        )
    schemes = _schemes_of(client_session)
    if parsed.scheme not in schemes:
        got = f", got {parsed.scheme!r}" if _is_no_secret(parsed) else ""
        raise aiohttp.NonHttpUrlClientError(
            f"url must have the scheme {_alternatives(schemes)}{got}"
        )
    if not parsed.raw_host:
        raise aiohttp.InvalidUrlClientError(f"{parsed.scheme}:...", "url has no host")
    if parsed.port is None and parsed.scheme not in _FILE_SCHEMES:
        raise aiohttp.InvalidUrlClientError(f"{parsed.scheme}:...", "url has no port")
    # A yarl.URL created with encoded=True may contain any character.
    if _NO_URL.search(parsed.raw_host) or _NO_URL.search(parsed.raw_path_qs):
        raise aiohttp.InvalidUrlClientError(
            f"{parsed.scheme}:...", "url must not have spaces, line breaks or control characters"
        )
    return parsed


def _is_no_secret(url: URL) -> bool:
    """Return whether the scheme is one, and not a user name or a token in the wrong place."""
    scheme = url.scheme
    is_word = len(scheme) <= 10 and scheme.replace("+", "").isalpha()
    return is_word and str(url).startswith(f"{scheme}://")


def _alternatives(words: tuple[str, ...]) -> str:
    """Return words as in ``ws, wss or http``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _schemes_of(client_session: aiohttp.ClientSession | None) -> tuple[str, ...]:
    """Return the schemes that the connector of the session supports."""
    connector = None if client_session is None else client_session.connector
    if connector is None:
        return _SCHEMES
    allowed = connector.allowed_protocol_schema_set - {""}
    others = sorted(allowed.difference(_SCHEMES))
    return (*(scheme for scheme in _SCHEMES if scheme in allowed), *others)


def _extended(url: URL, params: Any) -> URL:
    with suppress(TypeError, ValueError):
        return url.extend_query(params)
    # Not chained: the original error shows a value.
    raise TypeError(
        "params must be a str, a mapping of str to str, int or float, or an iterable of such pairs"
    )


def is_with(key: HandshakeKey, url: URL) -> bool:
    """Return whether ``key`` is of a handshake with ``url``, with any headers and options."""
    resource = key.resource
    if not resource.startswith("/"):
        # For a proxy, the resource is the whole URL.
        resource = URL(resource, encoded=True).raw_path_qs
    return key.endpoint == _endpoint(url) and resource == url.raw_path_qs


def version_of(headers: Any) -> int:
    """Return a number that changes when ``headers`` change."""
    # getversion() accepts any multidict, but its type does not.
    return getversion(headers)


def _merged(base: CIMultiDict[str], more: CIMultiDict[str] | None) -> CIMultiDict[str]:
    """Return both; a name in ``more`` replaces all values of that name in ``base``."""
    if not more:
        return base.copy()
    merged = base.copy()
    for name in more:
        merged.popall(name, None)
    merged.extend(more)
    return merged


def _endpoint(url: URL) -> EndpointKey:
    host, port = url.raw_host, url.port
    # parse_url() has checked both.
    assert host is not None
    return EndpointKey(host, port or 0, url.scheme in _TLS_SCHEMES)


def _reuse_key(reuse_key: Hashable) -> Hashable:
    try:
        hash(reuse_key)
    except TypeError:
        kind = type(reuse_key)
        contents = "" if kind.__hash__ is None else " with unhashable contents"
        raise TypeError(f"reuse_key must be hashable, not {kind.__name__}{contents}") from None
    # The prefix makes it differ from any result of _wire_headers().
    return ("reuse_key", reuse_key)


def _resource(
    url: URL, options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> str:
    """Return the request target that aiohttp sends in the first line of the handshake."""
    if url.scheme not in _TLS_SCHEMES and (
        _proxy(options, client_session) is not None
        or (client_session is not None and client_session.trust_env)
    ):
        return str(url.with_user(None).with_fragment(None))
    return url.raw_path_qs


def _wire_headers(
    url: URL,
    options: dict[str, Any],
    given: CIMultiDict[str],
    client_session: aiohttp.ClientSession | None,
) -> Hashable:
    by_name: dict[str, list[str]] = {}
    for name, value in options.get("headers", _NO_HEADERS).items():
        by_name.setdefault(name.lower(), []).append(value)
    if (authorization := _authorization(url, options, client_session)) is not None:
        if "authorization" in by_name:
            raise ValueError(
                "Cannot combine AUTHORIZATION header with AUTH argument or credentials encoded in"
                " URL: pass only one of them"
            )
        by_name["authorization"] = [authorization]
    if (authorization := _plain_proxy_authorization(url, options, client_session)) is not None:
        by_name[hdrs.PROXY_AUTHORIZATION.lower()] = [authorization]
    if options.get("origin") is not None:
        by_name[hdrs.ORIGIN.lower()] = [options["origin"]]
    if by_name:
        _drop_implied(by_name, options, client_session)
    return tuple((name, tuple(values)) for name, values in sorted(by_name.items()))


def _prepared(
    headers: CIMultiDict[str], client_session: aiohttp.ClientSession | None
) -> CIMultiDict[str]:
    """Return the headers that aiohttp makes from those of a call and of its session."""
    if client_session is None or not client_session.headers:
        return _unified(headers)
    prepared = client_session._prepare_headers(headers)
    for name in _IMPLIED_HEADERS:
        # In a handshake, aiohttp replaces these headers of the session by its own.
        if name in prepared and name not in headers:
            prepared.popall(name)
    return prepared


def _unified(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return headers in which the second spelling of a name has replaced the first."""
    if len(headers) < 2 or len(headers) == len(set(headers)) == len(set(map(str.lower, headers))):
        return headers
    unified: CIMultiDict[str] = CIMultiDict()
    spellings: set[str] = set()
    for name, value in headers.items():
        if name in spellings:
            unified.add(name, value)
        else:
            unified[name] = value
            spellings.add(name)
    return unified


def _drop_implied(
    by_name: dict[str, list[str]],
    options: dict[str, Any],
    client_session: aiohttp.ClientSession | None,
) -> None:
    """Remove headers that aiohttp overwrites, and headers equal to what it sends by default."""
    by_name.pop("sec-websocket-key", None)
    if options.get("protocols"):
        by_name.pop("sec-websocket-protocol", None)
    if options.get("compress"):
        by_name.pop("sec-websocket-extensions", None)
    for name, values in _IMPLIED_HEADERS.items():
        if by_name.get(name) == values:
            del by_name[name]
    if "host" in by_name:
        # The usual value counts, too: a redirect carries it to the next host.
        del by_name["host"][:-1]
    if client_session is None or client_session._request_class is aiohttp.ClientRequest:
        for name, values in _AUTO_HEADERS.items():
            if by_name.get(name) == values and not _is_skipped(name, client_session):
                del by_name[name]


def _is_skipped(name: str, client_session: aiohttp.ClientSession | None) -> bool:
    return client_session is not None and any(
        skipped.lower() == name for skipped in client_session.skip_auto_headers
    )


def _authorization(
    url: URL, options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> str | None:
    """Return what aiohttp makes from ``auth``, credentials in the URL, and the session's."""
    auth: BasicAuth | None = options.get("auth")
    if url.raw_user is None and url.raw_password is None:
        if auth is None and client_session is not None:
            auth = _default_auth(url, client_session)
        return None if auth is None else encoded_auth("auth", auth)
    if auth is not None:
        raise ValueError(
            "Cannot combine AUTH argument with credentials encoded in URL: leave out auth, or these"
        )
    return _credentials("url", url)


def _default_auth(url: URL, client_session: aiohttp.ClientSession) -> BasicAuth | None:
    base = client_session._base_url
    # For aiohttp, ws:// and http:// are different origins.
    return client_session.auth if base is None or base.origin() == url.origin() else None


def _credentials(name: str, url: URL) -> str | None:
    with suppress(ValueError):
        auth = BasicAuth.from_url(url)
        return None if auth is None else auth.encode()
    # Not chained: the original error contains the credentials.
    raise aiohttp.InvalidUrlClientError(
        f"<{name}>",
        f"{name} has credentials that cannot be sent: use only latin-1 characters, and no colon in"
        " the user name",
    )


def _other_options(
    url: URL,
    options: dict[str, Any],
    hooks: Hooks,
    client_session: aiohttp.ClientSession | None,
    *,
    with_reuse_key: bool,
) -> Hashable:
    others: dict[str, Hashable] = {
        name: canonical
        for name, value in options.items()
        if name not in _FOLDED and (canonical := _canonical(name, value)) != DEFAULTS[name]
    }
    if url.scheme not in _SCHEMES:
        # For these, the header Host contains the port, even if it is 80.
        others["scheme"] = url.scheme
    if with_reuse_key:
        # Without a reuse_key, the headers contain these.
        others["origin"] = options.get("origin")
        others["auth"] = _authorization(url, options, client_session)
        others["proxy_auth"] = _plain_proxy_authorization(url, options, client_session)
    if (proxy := _proxy(options, client_session)) is not None:
        others["proxy"] = proxy + _to_proxy(options, client_session)
    if client_session is not None and client_session.trust_env:
        # The environment has a proxy for each scheme, and ws and http are two schemes.
        others["trust_env"] = (url.scheme, options.get("proxy_auth"))
    if (timeout := _timeout(options)) != DEFAULT_WS_CLIENT_TIMEOUT:
        others["timeout"] = (timeout.ws_receive, timeout.ws_close)
    tls = _ssl(options)
    if tls is not True:
        others["ssl"] = tls
    if hooks != NO_HOOKS:
        others["hooks"] = hooks
    return tuple(sorted(others.items(), key=lambda item: item[0]))


def _canonical(name: str, value: Any) -> Hashable:
    if name == "method":
        return value.upper()  # type: ignore[no-any-return]
    return value  # type: ignore[no-any-return]


def _proxy(
    options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> tuple[Hashable, ...] | None:
    url = _proxy_url(options, client_session)
    return None if url is None else (url.scheme, url.raw_host, url.port)


def _proxy_url(options: dict[str, Any], client_session: aiohttp.ClientSession | None) -> URL | None:
    proxy: Any = options.get("proxy")
    if proxy is None and client_session is not None:
        proxy = client_session._default_proxy
    if proxy is None:
        return None
    if not isinstance(proxy, str | URL):
        raise TypeError(f"proxy must be a str or a yarl.URL, not {type(proxy).__name__}")
    url = None
    with suppress(ValueError):
        url = URL(proxy)
    if url is None:
        raise aiohttp.InvalidUrlClientError(
            "<proxy>", "proxy cannot be parsed: check its host and port"
        )
    if url.scheme not in _PROXY_SCHEMES:
        raise aiohttp.NonHttpUrlClientError("proxy must begin with http:// or https://")
    if not url.raw_host:
        raise aiohttp.InvalidUrlClientError("<proxy>", "proxy has no host")
    return url


def is_tls_in_tls(url: URL, options: dict[str, Any], client_session: aiohttp.ClientSession) -> bool:
    """Return whether a call uses TLS inside TLS to a proxy; not of a proxy of the environment."""
    proxy = _proxy_url(options, client_session) if url.scheme in _TLS_SCHEMES else None
    return proxy is not None and proxy.scheme in _TLS_SCHEMES


def _to_proxy(
    options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> tuple[Hashable, ...]:
    """Return the headers of the CONNECT request, which opens a tunnel for TLS.

    A handshake without TLS has no such request, but a redirect may lead it to a server with TLS.
    The proxy then gets these headers, and its credentials, from the first caller.
    """
    by_name: dict[str, list[str]] = {}
    for name, value in _proxy_headers(options, client_session).items():
        by_name.setdefault(name.lower(), []).append(value)
    if (authorization := _proxy_authorization(options, client_session)) is not None:
        # aiohttp moves only the first Authorization; other credentials replace all of them.
        rest = by_name.pop("authorization", [])[1:]
        if rest and _proxy_credentials(options, client_session) is None:
            by_name["authorization"] = rest
        by_name[hdrs.PROXY_AUTHORIZATION.lower()] = [authorization]
    # aiohttp replaces Host by that of the handshake.
    by_name.pop("host", None)
    return tuple((name, tuple(values)) for name, values in sorted(by_name.items()))


def _plain_proxy_authorization(
    url: URL, options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> str | None:
    """Return the Proxy-Authorization that aiohttp adds to a handshake without TLS."""
    if url.scheme in _TLS_SCHEMES or _proxy_url(options, client_session) is None:
        return None
    return _proxy_authorization(options, client_session)


def _proxy_authorization(
    options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> str | None:
    """Return what aiohttp sends to the proxy as Proxy-Authorization."""
    credentials = _proxy_credentials(options, client_session)
    if credentials is not None:
        return credentials
    return _proxy_headers(options, client_session).get(hdrs.AUTHORIZATION)


def _proxy_credentials(
    options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> str | None:
    """Return what aiohttp makes from ``proxy_auth``, the session's, and credentials in the URL."""
    auth: BasicAuth | None = options.get("proxy_auth")
    if auth is None and client_session is not None:
        auth = client_session._default_proxy_auth
    if auth is not None:
        return encoded_auth("proxy_auth", auth)
    proxy = _proxy_url(options, client_session)
    # aiohttp ignores credentials whose user and password are both empty.
    if proxy is None or not (proxy.raw_user or proxy.raw_password):
        return None
    return _credentials("proxy", proxy)


def _proxy_headers(
    options: dict[str, Any], client_session: aiohttp.ClientSession | None
) -> CIMultiDict[str]:
    """Return the headers for the proxy, including those of the client session."""
    headers: CIMultiDict[str] = _prepared(
        options.get("proxy_headers") or _NO_HEADERS, client_session
    )
    return headers


def _timeout(options: dict[str, Any]) -> aiohttp.ClientWSTimeout:
    """Return what aiohttp makes from ``timeout`` and ``receive_timeout``."""
    timeout = options.get("timeout", DEFAULTS["timeout"])
    if timeout is DEFAULTS["timeout"]:
        timeout = DEFAULT_WS_CLIENT_TIMEOUT
    elif not isinstance(timeout, aiohttp.ClientWSTimeout):
        timeout = aiohttp.ClientWSTimeout(ws_close=timeout)  # pyright: ignore[reportCallIssue]
    if (receive := options.get("receive_timeout")) is not None:
        timeout = aiohttp.ClientWSTimeout(
            ws_receive=receive,  # pyright: ignore[reportCallIssue]
            ws_close=timeout.ws_close,  # pyright: ignore[reportCallIssue]
        )
    return timeout


def _replace_deprecated(options: dict[str, Any]) -> None:
    """Replace options that aiohttp deprecates by their equivalents, and warn.

    aiohttp itself would warn in the task of the handshake, at a line of this package.
    """
    plain = options.get("timeout", DEFAULTS["timeout"])
    is_plain = not (plain is DEFAULTS["timeout"] or isinstance(plain, aiohttp.ClientWSTimeout))
    is_for_receive = options.get("receive_timeout") is not None
    timeout = _timeout(options)
    if is_plain:
        warn_of_deprecated(
            f"aiohttp deprecates a number as timeout=: pass timeout=aiohttp.{timeout}. It bounds"
            " only the closing handshake; conn_timeout= and acquire_timeout= bound the wait for a"
            " connection"
        )
    if is_for_receive:
        warn_of_deprecated(f"aiohttp deprecates receive_timeout=: pass timeout=aiohttp.{timeout}")
    if is_plain or is_for_receive:
        options["timeout"] = timeout
        options.pop("receive_timeout", None)
    for name in _OLD_TLS_OPTIONS & options.keys():
        _replace_old_tls(options, name)


def _replace_old_tls(options: dict[str, Any], name: str) -> None:
    """Replace one of the three options for TLS that ``ssl`` has replaced."""
    value = options.pop(name)
    if value is None or (name == "verify_ssl" and value):
        return
    new, shown = value, "context"
    if name == "verify_ssl":
        new, shown = False, "False"
    elif name == "fingerprint":
        new, shown = aiohttp.Fingerprint(value), "aiohttp.Fingerprint(...)"
    warn_of_deprecated(f"aiohttp deprecates {name}=: pass ssl={shown}")
    # At most one of them is set, or their key had been refused.
    options["ssl"] = new


def _ssl(options: dict[str, Any]) -> Hashable:
    """Return what aiohttp makes from ``ssl`` and the three deprecated options for TLS."""
    if _TLS_OPTIONS.isdisjoint(options):
        return True
    verify = options.get("verify_ssl")
    given = [options.get(name) for name in ("ssl", "ssl_context", "fingerprint")]
    given.append(False if verify is not None and not verify else None)
    given = [value for value in given if value is not None and value is not True]
    if len(given) > 1:
        raise ValueError(
            "verify_ssl, ssl_context, fingerprint and ssl parameters are mutually exclusive"
        )
    if not given:
        return True
    (tls,) = given
    digest = tls.fingerprint if isinstance(tls, aiohttp.Fingerprint) else tls
    return ("fingerprint", digest) if isinstance(digest, bytes) else digest
