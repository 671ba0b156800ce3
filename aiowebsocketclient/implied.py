"""What aiohttp adds to a handshake that no argument states, and that may change at any time.

These are the cookies of the jar and, with ``trust_env``, the proxies and credentials of the
environment.  They are read twice: for a call, when an open connection is looked for, and for a new
connection, when it is ready.  A redirect sends what belongs to where it leads, so this counts, too.

Cookies are compared as the header that aiohttp makes of the jar and of the call's own header, and
never as parts of a header that was sent: a value may contain whatever separates cookies.
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

#: What a jar sends, by name.
Cookies = dict[str, Morsel[str]]
#: The values of the headers ``Cookie`` of a request: as a rule none, or one.
Sent = tuple[str, ...]
#: The same as it stands in a key, where names are wanted: nothing where the jar adds nothing.
Form = tuple[tuple[str, str], ...]
#: Where redirects led, and whether the call's own header ``Cookie`` goes there too, by place.
Stops = Mapping[str, tuple[URL, bool]]

# A server that redirects each handshake elsewhere would make the pool remember ever more.
_MAX_HOPS: Final = 8
# Handshakes with a redirect that are remembered before those without a connection are dropped. A
# key keeps alive what a call brought, such as a TLS context.
_MANY_ROUTES: Final = 16
# Answers of the environment that are kept until it changes.
_MAX_ANSWERS: Final = 256
# Headers made of cookies that are kept, since aiohttp takes a while to make one.
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
        # A class derived from it may send cookies.
        self._sends_cookies = type(client_session.cookie_jar) is not aiohttp.DummyCookieJar
        self._environment = _Environment() if client_session.trust_env else None
        #: Where handshakes were redirected to, by key.
        self._routes: dict[HandshakeKey, dict[str, tuple[URL, bool]]] = {}
        #: What cookies come to in a key, by what goes into it.
        self._forms: dict[Hashable, Form] = {}
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
        jars = self._jars_now(target, route)
        now = self._forms_of(target, route, jars)
        environment = self._environment_now(target, route)
        if not set(asked.environment) <= set(environment):
            # Nobody knows with which of the two it was opened.
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
        """Return a key that no other connection and no caller has."""
        return asked.with_implied(asked.cookies, (_Unique(),))

    def _hops_of(self, target: Target, response: aiohttp.ClientResponse) -> "list[_Hop]":
        given = _cookie_headers(target.options.get("headers"))
        responses = (*response.history, response)
        hops: list[_Hop] = []
        quotes = getattr(self._session.cookie_jar, "quote_cookie", True)
        is_carried = True
        for index, reply in enumerate(responses):
            url = target.url if index == 0 else reply.request_info.url
            # aiohttp drops it on the way to somewhere else, for good.
            is_carried = is_carried and (index == 0 or url.origin() == target.url.origin())
            hops.append(
                _Hop(
                    "" if index == 0 else _place(url),
                    url,
                    is_carried,
                    _cookie_headers(reply.request_info.headers),
                    given if is_carried else (),
                    _cookies_set_by(responses[index:], url, quotes) if self._sends_cookies else {},
                )
            )
        return hops

    def _learn(self, base: HandshakeKey, hops: "list[_Hop]") -> Stops | None:
        """Remember where a handshake was redirected to.

        None: it is led to too many places, or on two ways to the same.
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
        """Forget routes without a connection; the next one tells of them again."""
        live = {key.base() for key in self._live_keys()}
        self._routes = {key: route for key, route in self._routes.items() if key in live}
        self._many = max(_MANY_ROUTES, 2 * len(self._routes))

    def _cookies_now(self, target: Target, route: Stops) -> tuple[Any, ...]:
        return self._forms_of(target, route, self._jars_now(target, route))

    def _jars_now(self, target: Target, route: Stops) -> dict[str, Cookies]:
        """Return what the jar sends to each place."""
        jar = self._session.cookie_jar
        if (
            not self._sends_cookies
            or target.has_reuse_key
            or (type(jar) is aiohttp.CookieJar and not len(jar))
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
    """A request of a handshake: the first, or where a redirect has led."""

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
        #: What tells it from others: empty for the first.
        self.place = place
        self.url = url
        #: Whether the call's own header goes there.
        self.is_carried = is_carried
        #: What was sent, what the call itself has of it, and the cookies, as they are sent, that
        #: the reply, and replies after it, have set for this place.
        self.sent = sent
        self.given = given
        self.replied = replied

    def would_send(self, cookies: Cookies) -> bool:
        """Return whether a jar with ``cookies`` would send what was sent.

        A cookie that has the value that the reply set may have been sent with any, or not at all.
        One that is gone may have been deleted by anybody, so the one sent counts.
        """
        if _sent_with(self.given, cookies) == self.sent:
            return True
        replied = {
            name for name, cookie in cookies.items() if self.replied.get(name) == cookie.coded_value
        }
        if not replied:
            return False
        if self.sent == self.given:
            # The jar had none.
            return len(replied) == len(cookies)
        return len(self.sent) == 1 and self._differs_by(cookies, replied)

    def _differs_by(self, cookies: Cookies, replied: set[str]) -> bool:
        """Return whether it was sent with the same cookies but for those in ``replied``."""
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
    """Part of a key that is equal to no other."""

    __slots__ = ()


_NO_HOPS: Final[Stops] = {}

# A value of a cookie as it is sent: one in quotes may contain anything.
_VALUE: Final = r'(?:"(?:[^"\\]|\\.)*"|(?!")[^;]*)'
_PAIR: Final = re.compile(rf"([^=;]+)=({_VALUE})(?:; |\Z)")
# Stands for any value.
_MARK: Final = "aiowebsocketclient-any-value"


def _place(url: URL) -> str:
    """Return what decides which cookies are sent to a URL."""
    return str(url.with_query(None).with_fragment(None))


def _cookies_for(jar: AbstractCookieJar, url: URL) -> Cookies:
    """Return what ``jar`` would send to ``url`` as it stands."""
    cookies: Any = jar.filter_cookies(url)
    if type(cookies) is SimpleCookie:
        return cookies
    # That of a jar which is not aiohttp's may have plain values.
    named: SimpleCookie = SimpleCookie()
    for name, value in cookies.items() if isinstance(cookies, Mapping) else cookies:
        named[name] = value
    return named


class _Request:
    """What ``aiohttp.ClientRequest.update_cookies`` needs of a request."""

    __slots__ = ("headers",)

    def __init__(self, given: Sent) -> None:
        self.headers = CIMultiDict((hdrs.COOKIE, value) for value in given)


def _sent_with(given: Sent, cookies: Cookies) -> Sent:
    """Return what aiohttp sends of the jar's cookies with a call that has ``given`` itself."""
    if not cookies:
        return given
    request: Any = _Request(given)
    aiohttp.ClientRequest.update_cookies(request, cookies)
    return _cookie_headers(request.headers)


def _cookie_headers(headers: Any) -> Sent:
    return tuple(headers.getall(hdrs.COOKIE, ())) if headers else ()


def _form(sent: Sent, given: Sent) -> Form:
    """Return what was sent as it stands in a key: equal only where this is, for equal ``given``.

    A header that is not a plain row of cookies has no names.
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
    """Return the cookie with a value that stands for any."""
    marked: Any = Morsel()
    # Not by set(), which refuses names that servers use.
    marked.__setstate__({"key": cookie.key, "value": _MARK, "coded_value": _MARK})
    return marked  # type: ignore[no-any-return]


def _canonical(cookies: Mapping[str, Form]) -> tuple[Any, ...]:
    """Return cookies by place as they are in a key: nothing where none are sent."""
    return (*cookies[""], *sorted((p, form) for p, form in cookies.items() if p and form))


def _as_sent(hops: "list[_Hop]") -> tuple[Any, ...] | None:
    """Return the cookies of the requests; None: other ones were sent to the same place."""
    cookies: dict[str, Form] = {}
    for hop in hops:
        form = _form(hop.sent, hop.given)
        if cookies.setdefault(hop.place, form) != form:
            return None
    return _canonical(cookies)


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
    return {name: cookie.coded_value for name, cookie in jar.filter_cookies(url).items()}


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
