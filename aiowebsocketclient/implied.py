"""What aiohttp adds to a handshake that no argument states, and that may change at any time.

These are the cookies of the jar and, with ``trust_env``, the proxies and credentials of the
environment.  They are read twice: for a call, when an open connection is looked for, and for a new
connection, when it is ready.  A redirect sends what belongs to where it leads, so this counts, too.
"""

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.request import getproxies

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractCookieJar
from aiohttp.helpers import basicauth_from_netrc, get_env_proxy_for_url, netrc_from_env
from yarl import URL

from .keys import HandshakeKey, Target

__all__ = ("Implied",)

#: Cookies as they go over the wire, by name.
Cookies = dict[str, str]

# A server that redirects each handshake elsewhere would make the pool remember ever more.
_MAX_HOPS: Final = 8
# Handshakes with a redirect that are remembered before those without a connection are dropped. A
# key keeps alive what a call brought, such as a TLS context.
_MANY_ROUTES: Final = 16
# Answers of the environment that are kept until it changes.
_MAX_ANSWERS: Final = 256


class Implied:
    """The cookies and the environment of a client session."""

    __slots__ = ("_environment", "_live_keys", "_many", "_routes", "_sends_cookies", "_session")

    def __init__(
        self,
        client_session: aiohttp.ClientSession,
        live_keys: Callable[[], Iterable[Any]],
    ) -> None:
        self._session = client_session
        # A class derived from it may send cookies.
        self._sends_cookies = type(client_session.cookie_jar) is not aiohttp.DummyCookieJar
        self._environment = _Environment() if client_session.trust_env else None
        #: Where handshakes were redirected to, by key.
        self._routes: dict[HandshakeKey, dict[str, URL]] = {}
        self._live_keys = live_keys
        self._many = _MANY_ROUTES

    def __bool__(self) -> bool:
        """Return whether there is ever anything to add."""
        return self._sends_cookies or self._environment is not None

    def added_to(self, target: Target) -> Target:
        """Return the target of the same call with what aiohttp would add to it now."""
        key = target.key
        hops = self._routes.get(key, _NO_HOPS) if self._routes else _NO_HOPS
        cookies = self._cookies_now(target, hops)
        environment = self._environment_now(target, hops)
        if not cookies and not environment:
            return target
        return target.with_key(key.with_implied(cookies, environment))

    def key_once_open(
        self, asked: HandshakeKey, target: Target, response: aiohttp.ClientResponse
    ) -> tuple[HandshakeKey, bool]:
        """Return the key of a new connection, and whether it is what callers ask for now.

        ``asked`` is the key that the handshake was begun under.  For each cookie that a reply has
        set, the jar counts where it still holds the reply's value: a balancer's cookie would defeat
        reuse otherwise.  In all other cases the connection is of who sends what was sent with it.
        """
        if target.has_reuse_key and self._environment is None:
            return asked, True
        hops = self._hops_of(target, response)
        route = self._learn(asked.base(), hops)
        if route is None:
            return self.key_of_nobody(asked), False
        now = self._cookies_now(target, route)
        environment = self._environment_now(target, route)
        if not set(asked.environment) <= set(environment):
            # Nobody knows with which of the two it was opened.
            return self.key_of_nobody(asked), False
        if target.has_reuse_key or _are_sent(hops, now, with_replies=True):
            return asked.with_implied(now, environment), True
        if _are_sent(hops, asked.cookies):
            return asked, True
        return asked.with_implied(_as_sent(hops), environment), False

    def key_of_nobody(self, asked: HandshakeKey) -> HandshakeKey:
        """Return a key that no other connection and no caller has."""
        return asked.with_implied(asked.cookies, (_Unique(),))

    def _hops_of(self, target: Target, response: aiohttp.ClientResponse) -> "list[_Hop]":
        given = _cookie_pairs(target.options.get("headers", {}))
        responses = (*response.history, response)
        hops: list[_Hop] = []
        quotes = getattr(self._session.cookie_jar, "quote_cookie", True)
        for index, reply in enumerate(responses):
            url = target.url if index == 0 else reply.request_info.url
            is_elsewhere = index > 0 and url.origin() != target.url.origin()
            hops.append(
                _Hop(
                    "" if index == 0 else _place(url),
                    url,
                    _cookie_pairs(reply.request_info.headers),
                    {} if is_elsewhere else given,
                    _cookies_set_by(responses[index:], url, quotes) if self._sends_cookies else {},
                )
            )
        return hops

    def _learn(self, base: HandshakeKey, hops: "list[_Hop]") -> Mapping[str, URL] | None:
        """Remember where a handshake was redirected to.  None: it is led to too many places."""
        route = self._routes.get(base)
        if len(hops) == 1:
            return route or _NO_HOPS
        if route is None:
            if len(self._routes) >= self._many:
                self.drop_routes()
            route = self._routes[base] = {}
        for hop in hops[1:]:
            if hop.place not in route:
                if len(route) >= _MAX_HOPS:
                    return None
                route[hop.place] = hop.url
        return route

    def drop_routes(self) -> None:
        """Forget routes without a connection; the next one tells of them again."""
        live = {key.base() for key in self._live_keys()}
        self._routes = {key: route for key, route in self._routes.items() if key in live}
        self._many = max(_MANY_ROUTES, 2 * len(self._routes))

    def _cookies_now(self, target: Target, route: Mapping[str, URL]) -> tuple[Any, ...]:
        jar = self._session.cookie_jar
        if (
            not self._sends_cookies
            or target.has_reuse_key
            or (type(jar) is aiohttp.CookieJar and not len(jar))
        ):
            return ()
        cookies = {"": _cookies_for(jar, target.url)}
        for place, url in route.items():
            cookies[place] = _cookies_for(jar, url)
        return _canonical(cookies)

    def _environment_now(self, target: Target, route: Mapping[str, URL]) -> tuple[Hashable, ...]:
        if self._environment is None:
            return ()
        places = [("", target.url), *route.items()]
        return tuple((place, self._environment.answer_for(url)) for place, url in places)


class _Hop:
    """A request of a handshake: the first, or where a redirect has led."""

    __slots__ = ("given", "place", "replied", "sent", "url")

    def __init__(
        self, place: str, url: URL, sent: Cookies, given: Cookies, replied: Mapping[str, str]
    ) -> None:
        #: What tells it from others: empty for the first.
        self.place = place
        self.url = url
        #: Cookies that were sent, those among them that a header of the call states, and those that
        #: the reply, and replies after it, have set for this place.
        self.sent = sent
        self.given = given
        self.replied = replied

    def would_send(self, cookies: Mapping[str, str], *, with_replies: bool) -> bool:
        """Return whether a jar with ``cookies`` would send what was sent."""
        for name in self.sent.keys() | cookies.keys():
            sent, now = self.sent.get(name), cookies.get(name)
            if sent == now or (now is None and sent == self.given.get(name)):
                continue
            # A cookie that is gone may have been deleted by anybody, so the one sent counts.
            if not with_replies or now is None or self.replied.get(name) != now:
                return False
        return True


class _Unique:
    """Part of a key that is equal to no other."""

    __slots__ = ()


_NO_HOPS: Final[Mapping[str, URL]] = {}


def _place(url: URL) -> str:
    """Return what decides which cookies are sent to a URL."""
    return str(url.with_query(None).with_fragment(None))


def _cookies_for(jar: AbstractCookieJar, url: URL) -> Cookies:
    """Return what ``jar`` would send to ``url`` as it stands."""
    return {name: morsel.coded_value for name, morsel in jar.filter_cookies(url).items()}


def _canonical(cookies: Mapping[str, Cookies]) -> tuple[Any, ...]:
    """Return cookies by place as they are in a key: nothing where none are sent."""
    first = sorted(cookies[""].items())
    others = sorted((p, tuple(sorted(c.items()))) for p, c in cookies.items() if p and c)
    return (*first, *others)


def _by_place(cookies: Iterable[Any]) -> dict[str, Cookies]:
    """Return the cookies of a key by place."""
    by_place: dict[str, Cookies] = {"": {}}
    for name, value in cookies:
        if isinstance(value, str):
            by_place[""][name] = value
        else:
            by_place[name] = dict(value)
    return by_place


def _are_sent(hops: "list[_Hop]", cookies: Any, *, with_replies: bool = False) -> bool:
    by_place = _by_place(cookies)
    return all(
        hop.would_send(by_place.get(hop.place, {}), with_replies=with_replies) for hop in hops
    )


def _as_sent(hops: "list[_Hop]") -> tuple[Any, ...]:
    cookies = {}
    for hop in hops:
        cookies[hop.place] = {
            name: value for name, value in hop.sent.items() if hop.given.get(name) != value
        }
    return _canonical(cookies)


def _cookie_pairs(headers: Mapping[str, str]) -> Cookies:
    pairs = (pair.strip().partition("=") for pair in headers.get(hdrs.COOKIE, "").split(";"))
    return {name: value for name, equals, value in pairs if equals}


def _cookies_set_by(
    replies: "tuple[aiohttp.ClientResponse, ...]", url: URL, quotes: bool
) -> Mapping[str, str]:
    """Return what a jar would send to ``url`` that has seen these replies alone."""
    if not any(hdrs.SET_COOKIE in reply.headers for reply in replies):
        return {}
    jar = aiohttp.CookieJar(unsafe=True, quote_cookie=quotes)
    for reply in replies:
        if _TAKES_HEADERS:
            jar.update_cookies_from_headers(reply.headers.getall(hdrs.SET_COOKIE, []), reply.url)
        else:
            jar.update_cookies(reply.cookies, reply.url)
    return _cookies_for(jar, url)


_TAKES_HEADERS: Final = hasattr(aiohttp.CookieJar, "update_cookies_from_headers")


class _Environment:
    """Proxies, and credentials in a netrc file, that aiohttp takes from the environment.

    Answers are kept until a variable or the file changes: aiohttp reads both, and logs what is
    wrong with them, for each handshake.
    """

    __slots__ = ("_answers", "_seen")

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._answers: dict[tuple[str, str | None], Hashable] = {}

    def answer_for(self, url: URL) -> Hashable:
        """Return the proxy for ``url``, with its credentials, and those for the server."""
        netrc = _netrc_file()
        seen = (tuple(sorted(getproxies().items())), netrc, _stamp(netrc))
        if seen != self._seen or len(self._answers) >= _MAX_ANSWERS:
            self._seen = seen
            self._answers.clear()
        about = (url.scheme, url.host)
        answer = self._answers.get(about)
        if answer is None:
            answer = self._answers[about] = _ask_environment(url)
        return answer


def _ask_environment(url: URL) -> Hashable:
    proxy: Any = None
    credentials: Any = None
    with suppress(LookupError):
        proxy = get_env_proxy_for_url(url)
    if url.host is not None:
        with suppress(LookupError):
            credentials = basicauth_from_netrc(netrc_from_env(), url.host)
    return (proxy, credentials)


def _netrc_file() -> str | None:
    if (file := os.environ.get("NETRC")) is not None:
        return file
    try:
        return str(Path.home() / ("_netrc" if os.name == "nt" else ".netrc"))
    except RuntimeError:
        return None


def _stamp(file: str | None) -> Hashable:
    if file is None:
        return None
    try:
        status = os.stat(file)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
