"""Computes what aiohttp adds to a handshake without an argument, and what may change at any time.

These are the cookies of the jar and, with ``trust_env``, proxies and credentials from the
environment.  They are read twice: for a call, to look up an open connection, and for a new
connection, when it is ready.  A redirect sends the cookies of its own target, which are therefore
part of the key.

Cookies are compared as the header that aiohttp makes from the jar and from the header of the call.
A header that was sent is never split into cookies: a value may contain the separator.
"""

import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any, Final
from urllib.request import getproxies

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict
from yarl import URL

from ._aiohttp_private import basicauth_from_netrc, get_env_proxy_for_url, netrc_from_env
from .keys import HandshakeKey, Target

__all__ = ("Implied",)

#: Cookies that a jar sends, by name.
Cookies = dict[str, Morsel[str]]
#: The values of the ``Cookie`` headers of a request, usually none or one.
Sent = tuple[str, ...]
#: The same in a key, with names; empty if the jar adds nothing.
Form = tuple[tuple[str, str], ...]
#: Targets of redirects by place, and whether aiohttp sends the call's ``Cookie`` header there.
Stops = Mapping[str, tuple[URL, bool]]

# Limits memory for a server that redirects each handshake elsewhere.
_MAX_HOPS: Final = 8
# Number of redirected handshakes to remember before those without a connection are dropped. A key
# keeps the arguments of a call alive, such as a TLS context.
_MANY_ROUTES: Final = 16
# Number of cached answers of the environment; a change drops them.
_MAX_ANSWERS: Final = 256
# Number of cached cookie headers, which take aiohttp some time to make.
_MAX_FORMS: Final = 64


class Implied:
    """The cookies and the environment of a client session."""

    __slots__ = (
        "_environment",
        "_forms",
        "_live_keys",
        "_many",
        "_routes",
        "_sends_cookies",
        "_session",
    )

    def __init__(
        self,
        client_session: aiohttp.ClientSession,
        live_keys: Callable[[], Iterable[Any]],
    ) -> None:
        self._session = client_session
        # A subclass of DummyCookieJar may send cookies.
        self._sends_cookies = type(client_session.cookie_jar) is not aiohttp.DummyCookieJar
        self._environment = _Environment() if client_session.trust_env else None
        #: Targets of redirects, by key of the handshake.
        self._routes: dict[HandshakeKey, dict[str, tuple[URL, bool]]] = {}
        #: Cached forms of cookies in a key.
        self._forms: dict[Hashable, Form] = {}
        self._live_keys = live_keys
        self._many = _MANY_ROUTES

    def __bool__(self) -> bool:
        """Return whether aiohttp may add anything."""
        return self._sends_cookies or self._environment is not None

    def added_to(self, target: Target) -> Target:
        """Return the target of the same call with what aiohttp would add now."""
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
        """Return the key of a new connection, and whether callers look for this key now.

        ``asked`` is the key with which the handshake began.  If a reply has set a cookie, and the
        jar still has its value, the key contains the jar's value: otherwise the cookie of a
        balancer would prevent reuse.  In all other cases the key contains what was sent.
        """
        if target.has_reuse_key and self._environment is None:
            return asked, True
        hops = self._hops_of(target, response)
        route = self._learn(asked.base(), hops)
        if route is None:
            return self.key_of_nobody(asked), False
        jars = self._jars_now(target, route)
        now = self._forms_of(target, route, jars)
        environment = self._environment_now(target, route)
        if not set(asked.environment) <= set(environment):
            # The environment has changed: it is unknown which of the two was used.
            return self.key_of_nobody(asked), False
        if target.has_reuse_key or all(hop.would_send(jars.get(hop.place, {})) for hop in hops):
            return asked.with_implied(now, environment), True
        sent = _as_sent(hops)
        if sent is None:
            return self.key_of_nobody(asked), False
        if sent == asked.cookies:
            return asked, True
        return asked.with_implied(sent, environment), False

    def key_of_nobody(self, asked: HandshakeKey) -> HandshakeKey:
        """Return a key that matches no other connection and no caller."""
        return asked.with_implied(asked.cookies, (_Unique(),))

    def _hops_of(self, target: Target, response: aiohttp.ClientResponse) -> "list[_Hop]":
        given = _cookie_headers(target.options.get("headers"))
        replies = (*response.history, response)
        urls = [target.url, *(reply.request_info.url for reply in replies[1:])]
        exchanges = _Exchanges(replies, urls, self._session.cookie_jar)
        hops: list[_Hop] = []
        is_carried = True
        for index, (reply, url) in enumerate(zip(replies, urls, strict=True)):
            # On a redirect to another origin, aiohttp drops the header for good.
            is_carried = is_carried and (index == 0 or url.origin() == target.url.origin())
            hops.append(
                _Hop(
                    "" if index == 0 else _place(url),
                    url,
                    is_carried,
                    _cookie_headers(reply.request_info.headers),
                    given if is_carried else (),
                    exchanges.replied_to(index) if self._sends_cookies else {},
                )
            )
        return hops

    def _learn(self, base: HandshakeKey, hops: "list[_Hop]") -> Stops | None:
        """Remember the targets of the redirects of a handshake.

        Returns None if there are too many, or if two ways lead to the same place.
        """
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
                route[hop.place] = (hop.url, hop.is_carried)
            elif route[hop.place][1] is not hop.is_carried:
                return None
        return route

    def drop_routes(self) -> None:
        """Drop routes without a connection; the next handshake adds them again."""
        live = {key.base() for key in self._live_keys()}
        self._routes = {key: route for key, route in self._routes.items() if key in live}
        self._many = max(_MANY_ROUTES, 2 * len(self._routes))

    def _cookies_now(self, target: Target, route: Stops) -> tuple[Any, ...]:
        return self._forms_of(target, route, self._jars_now(target, route))

    def _jars_now(self, target: Target, route: Stops) -> dict[str, Cookies]:
        """Return the cookies that the jar sends to each place."""
        jar = self._session.cookie_jar
        if (
            not self._sends_cookies
            or target.has_reuse_key
            or (not route and type(jar) is aiohttp.CookieJar and not len(jar))
        ):
            return {}
        cookies = {"": _cookies_for(jar, target.url)}
        for place, (url, _) in route.items():
            cookies[place] = _cookies_for(jar, url)
        return cookies

    def _forms_of(
        self, target: Target, route: Stops, jars: Mapping[str, Cookies]
    ) -> tuple[Any, ...]:
        if not jars:
            return ()
        given = _cookie_headers(target.options.get("headers"))
        return _canonical(
            {
                place: self._form_of(given if not place or route[place][1] else (), cookies)
                for place, cookies in jars.items()
            }
        )

    def _form_of(self, given: Sent, cookies: Cookies) -> Form:
        if not cookies:
            return ()
        parts = (
            given,
            *((name, cookie.key, cookie.coded_value) for name, cookie in cookies.items()),
        )
        form = self._forms.get(parts)
        if form is None:
            if len(self._forms) >= _MAX_FORMS:
                self._forms.clear()
            form = self._forms[parts] = _form(_sent_with(given, cookies), given)
        return form

    def _environment_now(self, target: Target, route: Stops) -> tuple[Hashable, ...]:
        if self._environment is None:
            return ()
        places = [("", target.url), *((place, url) for place, (url, _) in route.items())]
        return tuple((place, self._environment.answer_for(url)) for place, url in places)


class _Hop:
    """A request of a handshake: the first request, or one after a redirect."""

    __slots__ = ("given", "is_carried", "place", "replied", "sent", "url")

    def __init__(
        self,
        place: str,
        url: URL,
        is_carried: bool,
        sent: Sent,
        given: Sent,
        replied: Mapping[str, str],
    ) -> None:
        #: Identifies the target; empty for the first request.
        self.place = place
        self.url = url
        #: Whether aiohttp sends the call's own ``Cookie`` header there.
        self.is_carried = is_carried
        #: The ``Cookie`` headers that were sent, those of the call itself, and the cookies that
        #: this reply, and later replies to the same user, have set for this place.
        self.sent = sent
        self.given = given
        self.replied = replied

    def would_send(self, cookies: Cookies) -> bool:
        """Return whether a jar with ``cookies`` would send what was sent.

        A cookie with the value that the reply set may have been sent with any value, or not at all.
        A cookie that is no longer in the jar counts as sent, because anybody may have deleted it.
        """
        if _sent_with(self.given, cookies) == self.sent:
            return True
        replied = {
            name for name, cookie in cookies.items() if self.replied.get(name) == cookie.coded_value
        }
        if not replied:
            return False
        if self.sent == self.given:
            # The jar was empty.
            return len(replied) == len(cookies)
        return len(self.sent) == 1 and self._differs_by(cookies, replied)

    def _differs_by(self, cookies: Cookies, replied: set[str]) -> bool:
        """Return whether the same cookies were sent, except for those in ``replied``."""
        marked = {
            name: _marked(cookie) if name in replied else cookie for name, cookie in cookies.items()
        }
        (now,) = _sent_with(self.given, marked)
        pattern = re.escape(f"{now}; ")
        for name in replied:
            key = re.escape(f"{cookies[name].key}=")
            pattern = pattern.replace(key + re.escape(f"{_MARK}; "), f"(?:{key}{_VALUE}; )?")
        return re.fullmatch(pattern, f"{self.sent[0]}; ") is not None


class _Unique:
    """Part of a key; equal only to itself."""

    __slots__ = ()


_NO_HOPS: Final[Stops] = {}

# The value of a cookie as sent; a value in quotes may contain any character.
_VALUE: Final = r'(?:"(?:[^"\\]|\\.)*"|(?!")[^;]*)'
_PAIR: Final = re.compile(rf"([^=;]+)=({_VALUE})(?:; |\Z)")
# Placeholder for any value.
_MARK: Final = "aiowebsocketclient-any-value"


def _place(url: URL) -> str:
    """Return the part of a URL that decides which cookies are sent."""
    return str(url.with_query(None).with_fragment(None))


def _cookies_for(jar: AbstractCookieJar, url: URL) -> Cookies:
    """Return the cookies that ``jar`` would send to ``url``."""
    cookies: Any = jar.filter_cookies(url)
    if type(cookies) is SimpleCookie:
        return cookies
    # A jar that is not aiohttp's may return plain values.
    named: SimpleCookie = SimpleCookie()
    for name, value in cookies.items() if isinstance(cookies, Mapping) else cookies:
        named[name] = value
    return named


class _Request:
    """The part of a request that ``aiohttp.ClientRequest.update_cookies`` needs."""

    __slots__ = ("headers",)

    def __init__(self, given: Sent) -> None:
        self.headers = CIMultiDict((hdrs.COOKIE, value) for value in given)


def _sent_with(given: Sent, cookies: Cookies) -> Sent:
    """Return the ``Cookie`` headers that aiohttp makes from the jar's cookies and the call's."""
    if not cookies:
        return given
    request: Any = _Request(given)
    aiohttp.ClientRequest.update_cookies(request, cookies)
    return _cookie_headers(request.headers)


def _cookie_headers(headers: Any) -> Sent:
    return tuple(headers.getall(hdrs.COOKIE, ())) if headers else ()


def _form(sent: Sent, given: Sent) -> Form:
    """Return the form of sent headers in a key; for equal ``given``, equal only if ``sent`` is.

    A header that is not a plain list of cookies has no names.
    """
    if sent == given:
        return ()
    if len(sent) == 1:
        (text,) = sent
        pairs = _PAIR.findall(text)
        if "; ".join([f"{name}={value}" for name, value in pairs]) == text:
            return tuple(pairs)
    return tuple(("", value) for value in sent)


def _marked(cookie: Morsel[str]) -> Morsel[str]:
    """Return the cookie with the placeholder for any value."""
    marked: Any = Morsel()
    # Not with set(), which refuses names that servers use.
    marked.__setstate__({"key": cookie.key, "value": _MARK, "coded_value": _MARK})
    return marked  # type: ignore[no-any-return]


def _canonical(cookies: Mapping[str, Form]) -> tuple[Any, ...]:
    """Return cookies by place in the form of a key.

    A place to which none are sent is part of it: a key that was made before the place was known
    says nothing of the cookies there.
    """
    return (*cookies[""], *sorted((place, form) for place, form in cookies.items() if place))


def _as_sent(hops: "list[_Hop]") -> tuple[Any, ...] | None:
    """Return the cookies of the requests, or None if two requests to one place differ."""
    cookies: dict[str, Form] = {}
    for hop in hops:
        form = _form(hop.sent, hop.given)
        if cookies.setdefault(hop.place, form) != form:
            return None
    return _canonical(cookies)


def _cookies_set_by(reply: aiohttp.ClientResponse, url: URL, quotes: bool) -> Mapping[str, str]:
    """Return what a jar that knows only this reply would send to ``url``."""
    if hdrs.SET_COOKIE not in reply.headers:
        return {}
    jar = aiohttp.CookieJar(unsafe=True, quote_cookie=quotes)
    if _TAKES_HEADERS:
        jar.update_cookies_from_headers(reply.headers.getall(hdrs.SET_COOKIE, []), reply.url)
    else:
        jar.update_cookies(reply.cookies, reply.url)
    return {name: cookie.coded_value for name, cookie in jar.filter_cookies(url).items()}


class _Exchanges:
    """The requests of one handshake and their replies; a redirect adds a request.

    The jar may change between two requests, so the second may belong to another user.
    """

    __slots__ = ("_jar", "_quotes", "_replies", "_sent", "_set", "_urls")

    def __init__(
        self,
        replies: "tuple[aiohttp.ClientResponse, ...]",
        urls: list[URL],
        jar: AbstractCookieJar,
    ) -> None:
        self._replies = replies
        self._urls = urls
        self._jar = jar
        self._quotes = getattr(jar, "quote_cookie", True)
        self._sent = [_values(_cookie_headers(reply.request_info.headers)) for reply in replies]
        # Cookies by reply and place: with redirects, each is asked for several times.
        self._set: dict[tuple[int, URL], Mapping[str, str]] = {}

    def replied_to(self, index: int) -> Mapping[str, str]:
        """Return the cookies that replies to the same user have set for the place of a request."""
        replied: dict[str, str] = {}
        for later in range(index, len(self._replies)):
            for name, value in self._set_by(later, self._urls[index]).items():
                if all(self._goes_on(name, between) for between in range(index, later)):
                    replied[name] = value
                else:
                    replied.pop(name, None)
        return replied

    def _goes_on(self, name: str, index: int) -> bool:
        """Return whether a cookie shows the same user in a request and in the next one.

        The next request must have the value that the reply in between has set, or else the same
        value as the first.
        """
        before, after = self._sent[index], self._sent[index + 1]
        if before is None or after is None:
            return False
        replied = self._set_by(index, self._urls[index + 1])
        if name in self._replies[index].cookies:
            return after.get(name) == replied.get(name)
        if before.get(name) == after.get(name):
            return True
        # A cookie that only one of the two places gets says nothing about the other place.
        places = ((before, self._urls[index]), (after, self._urls[index + 1]))
        return any(
            name not in sent and name not in _cookies_for(self._jar, url) for sent, url in places
        )

    def _set_by(self, index: int, url: URL) -> Mapping[str, str]:
        cookies = self._set.get((index, url))
        if cookies is None:
            cookies = _cookies_set_by(self._replies[index], url, self._quotes)
            self._set[index, url] = cookies
        return cookies


def _values(sent: Sent) -> Mapping[str, str] | None:
    """Return the cookies that were sent, or None if the header is not a plain list of cookies."""
    pairs = _form(sent, ())
    values = dict(pairs)
    return None if len(values) < len(pairs) or "" in values else values


_TAKES_HEADERS: Final = hasattr(aiohttp.CookieJar, "update_cookies_from_headers")


class _Environment:
    """Proxies and credentials (of a netrc file) that aiohttp takes from the environment.

    Caches answers until a variable or the file changes: aiohttp would read both for each handshake,
    and log their faults each time.
    """

    __slots__ = ("_answers", "_seen")

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._answers: dict[tuple[str, str | None], Hashable] = {}

    def answer_for(self, url: URL) -> Hashable:
        """Return the proxy for ``url`` with its credentials, and the credentials for the server."""
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
