"""Cookies: the jar, the replies and the callers change in any order, and nobody gets another's."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from aiowebsocketclient import WebSocketClientSession, implied

from .conftest import SessionFactory, until
from .servers import Server

Cookies = dict[str, str]

# Where the jar may be changed, and how.
CHANGES = ("nothing", "alice", "bob", "gone")
POINTS = (
    *("before the request", "before the redirect", "during the handshake"),
    *("during configure", "afterwards"),
)
# What a reply does to the cookie "user", and whether it is the first of two or the only one.
REPLIES = ("nothing", "rolls", "deletes", "sets another")
WAYS = ("direct", "redirected", "redirected by the reply")


class Order(NamedTuple):
    """One history: what happens to the jar at each point, and what the server does."""

    changes: tuple[str, ...]
    reply: str
    way: str
    #: The first caller leaves during the handshake, and the second takes it over.
    leaves: bool


ORDERS = [
    Order(changes, reply, way, leaves)
    for changes, reply, way, leaves in itertools.product(
        itertools.product(CHANGES, repeat=len(POINTS)), REPLIES, WAYS, (False, True)
    )
]


def user_of(cookies: Mapping[str, str]) -> str:
    return cookies.get("user", "").partition(".")[0]


class Keeper:
    """A server that knows with which cookies each connection was opened, on each of its ways."""

    def __init__(self) -> None:
        self.reply = "nothing"
        self.way = "direct"
        self.number = 0
        self.hops: dict[str, list[Cookies]] = {}
        #: What replies have set for a connection, and whose request they replied to.
        self.replied: dict[str, dict[str, tuple[str, str]]] = {}
        self.redirecting: Callable[[], None] | None = None
        self.during: Callable[[], Any] | None = None
        self.url = URL()

    @property
    def there(self) -> URL:
        return self.url / "there/"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        number = request.query.get("n")
        if number is None:
            self.number += 1
            number = str(self.number)
            self.hops[number], self.replied[number] = [], {}
        self.hops[number].append(dict(request.cookies))
        if request.path == "/" and self.way != "direct":
            if (redirecting := self.redirecting) is not None:
                self.redirecting = None
                redirecting()
            moved = web.HTTPTemporaryRedirect(f"/there/?n={number}")
            if self.way == "redirected by the reply":
                self.set_cookies(moved, number, request)
            raise moved
        if (during := self.during) is not None:
            self.during = None
            await during()
        ws = web.WebSocketResponse(timeout=1.0)
        if self.way != "redirected by the reply":
            self.set_cookies(ws, number, request)
        await ws.prepare(request)
        async for _ in ws:
            await ws.send_str(number)
        return ws

    def set_cookies(self, response: web.StreamResponse, number: str, request: web.Request) -> None:
        if self.reply == "rolls":
            value = request.cookies.get("user", "new").partition(".")[0] + f".{number}"
            response.set_cookie("user", value, path="/")
            self.replied[number]["user"] = value, user_of(request.cookies)
        elif self.reply == "deletes":
            response.del_cookie("user", path="/")
        elif self.reply == "sets another":
            response.set_cookie("visited", number, path="/")
            self.replied[number]["visited"] = number, user_of(request.cookies)


@pytest_asyncio.fixture
async def keeper() -> AsyncIterator[Keeper]:
    keeper = Keeper()
    app = web.Application()
    app.router.add_get("/{path:.*}", keeper.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    keeper.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    yield keeper
    await runner.cleanup()


class History:
    """Plays one order, and holds each connection against what the jar would send for its caller."""

    def __init__(self, keeper: Keeper, order: Order) -> None:
        self.keeper = keeper
        self.order = order
        self.jar = aiohttp.CookieJar(unsafe=True)
        self.changes = dict(zip(POINTS, order.changes, strict=True))
        self.configured = 0
        self.begun = 0
        self.first: asyncio.Task[Any] | None = None
        self.second: asyncio.Task[Any] | None = None

    def change(self, point: str) -> None:
        change = self.changes[point]
        if change == "gone":
            self.jar.clear(lambda cookie: cookie.key in ("user", "deep"))
        elif change != "nothing":
            self.log_in(change)

    def log_in(self, user: str) -> None:
        self.jar.update_cookies({"user": user}, self.keeper.url)
        self.jar.update_cookies({"deep": user}, self.keeper.there)

    def now(self) -> list[Cookies]:
        """Return what the jar sends on each way."""
        urls = [self.keeper.url, self.keeper.there][: 1 if self.order.way == "direct" else 2]
        filtered = [self.jar.filter_cookies(url) for url in urls]
        return [{name: c.coded_value for name, c in cookies.items()} for cookies in filtered]

    async def __aenter__(self) -> None:
        self.begun += 1
        if self.begun == 1:
            self.change("before the request")

    async def __aexit__(self, *_: object) -> None:
        pass

    async def configure(self, _: Any) -> None:
        self.configured += 1
        if self.configured == 1:
            self.change("during configure")

    async def during(self) -> None:
        if self.order.leaves:
            assert self.first is not None
            self.first.cancel()
            await asyncio.wait({self.first})
        self.change("during the handshake")
        if self.order.leaves:
            self.second = asyncio.ensure_future(self.call())
            await asyncio.sleep(0)

    async def call(self) -> tuple[Any, list[Cookies], set[str]]:
        asked, begun = self.now(), set(self.keeper.hops)
        return await self.session.ws_connect(self.keeper.url), asked, begun

    def matches(self, number: str, cookies: list[Cookies]) -> bool:
        replied = self.keeper.replied[number]
        return all(
            seen.get(name) == now.get(name)
            or replied.get(name) == (now.get(name, "gone"), user_of(seen))
            for seen, now in zip(self.keeper.hops[number], cookies, strict=True)
            for name in seen.keys() | now.keys()
        )

    async def check(self, call: Any) -> tuple[bool, str]:
        ws, asked, begun = await call
        await ws.send_str("?")
        number = await ws.receive_str()
        fits = self.matches(number, self.now()) or self.matches(number, asked)
        told = json.dumps([self.keeper.hops[number], self.keeper.replied[number], self.now()])
        # What was begun for it was sent what the jar held then, as by aiohttp itself.
        assert number not in begun or fits, told
        reused = ws.reused
        await ws.release()
        return reused, number

    async def play(self) -> None:
        self.keeper.reply, self.keeper.way = self.order.reply, self.order.way
        self.keeper.during = self.during
        self.keeper.redirecting = lambda: self.change("before the redirect")
        self.log_in("alice")
        self.session = WebSocketClientSession(
            client_session=aiohttp.ClientSession(
                cookie_jar=self.jar, connector=aiohttp.TCPConnector(limit=0)
            ),
            connect_limiter=self,
            configure=self.configure,
            close_timeout=2.0,
        )
        async with self.session:
            self.first = asyncio.ensure_future(self.call())
            if self.order.leaves:
                await until(lambda: self.second)
                await self.check(self.second)
            else:
                await self.check(self.first)
            # A handshake that its caller left goes on, and its reply changes the jar, too.
            await until(lambda: not self.session.stats().connecting)
            self.change("afterwards")
            second, number = await self.check(self.call())
            # Nobody changes the jar any more, so the connection used last is reused.
            third, another = await self.check(self.call())
            if self.order.reply != "deletes":
                assert third
                assert another == number
            if set(self.order.changes) == {"nothing"} and self.order.reply != "deletes":
                assert second or self.order.leaves


async def play(keeper: Keeper, orders: list[Order]) -> None:
    for order in orders:
        try:
            await History(keeper, order).play()
        except BaseException as exc:
            exc.add_note(str(order))
            raise


async def test_some_orders(keeper: Keeper) -> None:
    await play(keeper, random.Random(11).sample(ORDERS, 25))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_orders(keeper: Keeper) -> None:
    await play(keeper, random.Random(12).sample(ORDERS, 500))


class TokenJar(aiohttp.DummyCookieJar):
    """Stores nothing, and sends a cookie of its own all the same."""

    token = "alice"

    def filter_cookies(self, request_url: URL) -> Any:
        return SimpleCookie({"user": self.token})


async def test_a_jar_derived_from_the_one_without_cookies(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    jar = TokenJar()
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    for user, reused in (("alice", False), ("alice", True), ("bob", False), ("alice", True)):
        jar.token = user
        async with session.ws_connect(keeper.url) as ws:
            assert ws.reused is reused
            await ws.send_str("?")
            assert keeper.hops[await ws.receive_str()] == [{"user": user}]


async def test_cookies_of_where_a_redirect_leads(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.way = "redirected"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    calls = [("alice", False), ("alice", True), ("bob", False), ("alice", True), ("bob", True)]
    for user, reused in calls:
        jar.update_cookies({"user": user}, keeper.there)
        async with session.ws_connect(keeper.url) as ws:
            assert ws.reused is reused
            await ws.send_str("?")
            assert keeper.hops[await ws.receive_str()] == [{}, {"user": user}]


async def test_each_reply_is_asked_for_its_cookies_once_for_each_place(
    keeper: Keeper, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_two_cookies(response: web.StreamResponse, *_: Any) -> None:
        response.set_cookie("first", "1", path="/")
        response.set_cookie("second", "2", path="/")

    keeper.way = "redirected"
    keeper.set_cookies = set_two_cookies  # type: ignore[method-assign]
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    asked: Counter[tuple[URL, URL]] = Counter()
    cookies_set_by = implied._cookies_set_by

    def count(reply: aiohttp.ClientResponse, url: URL, quotes: bool) -> Any:
        asked[reply.url, url] += 1
        return cookies_set_by(reply, url, quotes)

    monkeypatch.setattr(implied, "_cookies_set_by", count)
    async with session.ws_connect(keeper.url):
        pass
    assert len(asked) > 1
    assert set(asked.values()) == {1}


async def test_cookies_of_a_redirect_that_come_later(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.way = "redirected"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    for user, reused in ((None, False), (None, True), ("bob", False), (None, True)):
        jar.clear()
        if user is not None:
            jar.update_cookies({"user": user}, keeper.there)
        async with session.ws_connect(keeper.url) as ws:
            assert ws.reused is reused


async def test_a_redirect_to_somewhere_else_each_time(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(client_session=aiohttp.ClientSession())
    for number in range(12):
        server.redirect_to = server.url(f"/{number}/")
        async with session.ws_connect(server.url("/redirect")) as ws:
            assert not ws.reused
        # Of nine places and more, nobody asks what the jar would send to each.
        async with session.ws_connect(server.url("/redirect")) as ws:
            assert ws.reused is (number < 8)
            # Not by drain(), which forgets where handshakes without a connection were led.
            await ws.close()
    (route,) = session._lifecycle.implied._routes.values()  # type: ignore[union-attr]
    assert len(route) == 8


async def test_routes_without_a_connection_are_forgotten(
    keeper: Keeper, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implied, "_MANY_ROUTES", 4)
    keeper.way = "redirected"
    session = make_session(client_session=aiohttp.ClientSession(), max_idle=60.0)
    async with session.ws_connect(keeper.url, params={"a": "kept"}):
        for number in range(20):
            async with session.ws_connect(keeper.url, params={"a": number}) as ws:
                pass
            await ws.close()
            await session.drain()
    routes = session._lifecycle.implied._routes  # type: ignore[union-attr]
    assert len(routes) <= 8
    assert any(key.resource == "/?a=kept" for key in routes)


async def test_a_rolled_cookie_that_somebody_else_has_replaced(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.reply = "rolls"
    jar = aiohttp.CookieJar(unsafe=True)
    users: list[str | None] = ["bob", None]

    async def configure(_: Any) -> None:
        if users:
            user = users.pop(0)
            jar.clear()
            if user is not None:
                jar.update_cookies({"user": user}, keeper.url)

    session = make_session(
        client_session=aiohttp.ClientSession(cookie_jar=jar), configure=configure
    )
    for user, seen, reused in (
        ("alice", {"user": "alice"}, False),
        # While it was configured, bob logged in; and while his was, he logged out.
        (None, {"user": "bob"}, False),
        (None, {}, False),
        (None, {}, True),
        # What was opened as alice is hers only.
        ("alice", {"user": "alice"}, True),
    ):
        if user is not None:
            jar.update_cookies({"user": user}, keeper.url)
        async with session.ws_connect(keeper.url) as ws:
            assert ws.reused is reused
            await ws.send_str("?")
            assert keeper.hops[await ws.receive_str()] == [seen]


async def test_who_takes_over_what_was_sent_as_somebody_else(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    gate = asyncio.Semaphore(0)
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"user": "alice"}, keeper.url)
    session = make_session(
        client_session=aiohttp.ClientSession(cookie_jar=jar), connect_limiter=gate
    )
    first = asyncio.ensure_future(session.ws_connect(keeper.url))
    await until(lambda: session.stats().connecting == 1)
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.ensure_future(session.ws_connect(keeper.url))
    await until(lambda: session.stats().waiting == 0 and session.stats().requests == 2)
    arrived = asyncio.Event()

    async def log_in_again() -> None:
        jar.update_cookies({"user": "alice"}, keeper.url)
        arrived.set()

    # The handshake that alice took over is made as bob.
    keeper.during = log_in_again
    jar.update_cookies({"user": "bob"}, keeper.url)
    gate.release()
    await arrived.wait()
    gate.release()
    async with await second as ws:
        await ws.send_str("?")
        assert keeper.hops[await ws.receive_str()] == [{"user": "alice"}]
    assert session.stats().connects == 2


async def test_a_header_may_state_what_the_jar_sends_too(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.reply = "rolls"
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"user": "alice"}, keeper.url)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    headers = {"Cookie": "lang=en; theme=dark"}
    for reused in (False, True):
        async with session.ws_connect(keeper.url, headers=headers) as ws:
            assert ws.reused is reused


# What a jar may hold: values by name, or headers Set-Cookie that a server has sent.
HELD: list[Any] = [
    {"sid": "x"},
    {"sid": "x;y"},
    {"sid": "x; y=1"},
    {"sid": "x", "y": "1"},
    {"sid": "x", "y": ""},
    {"sid": ""},
    {"sid": "a b"},
    {"sid": "a,b"},
    {"sid": " x "},
    {"sid": "b=c=="},
    {"sid": '"'},
    {"sid": '"x"'},
    {"sid": '"x'},
    {"sid": 'x"y'},
    {"sid": "x\\"},
    {"sid": '"x; y=\\"1"'},
    {"sid": "\u00fc"},
    {"sid": "x;", "y": "1"},
    {"y": '1"', "sid": '"x'},
    ['sid="x;y"; Path=/'],
    ['sid="x; y=1"; Path=/'],
    ["sid=x; Path=/", "y=1; Path=/"],
    ['sid={"x":[1,2]}; Path=/'],
    ['sid="x\\073y"; Path=/'],
    ['sid="x\\"y"; Path=/'],
    ["sid=x; Path=/", "sid=deep; Path=/deep"],
    ["sid=y; Path=/", "sid=x; Path=/deep"],
]
OWN: list[Any] = [None, "flag", 'sid="x;y"; lang=en;', "z=1; a=2", 'lang="e\\"n"']


def fill(jar: aiohttp.CookieJar, held: Any, url: URL) -> None:
    jar.clear()
    if isinstance(held, dict):
        jar.update_cookies(held, url)
    elif hasattr(jar, "update_cookies_from_headers"):
        jar.update_cookies_from_headers(held, url)
    else:
        for header in held:
            jar.update_cookies(SimpleCookie(header), url)


def header_of(server: Server) -> list[str]:
    return server.requests[-1].headers.getall("Cookie", [])


@pytest.mark.parametrize("own", OWN, ids=str)
@pytest.mark.parametrize("quotes", [True, False], ids=["quoted", "as they are"])
async def test_only_callers_that_send_the_same_header_share(
    server: Server, make_session: SessionFactory, quotes: bool, own: str | None
) -> None:
    """Whatever values contain: beside each call stands what aiohttp itself would have sent."""
    jar = aiohttp.CookieJar(unsafe=True, quote_cookie=quotes)
    client_session = aiohttp.ClientSession(cookie_jar=jar)
    session = make_session(client_session=client_session)
    headers = {} if own is None else {"Cookie": own}
    url = URL(server.url("/deep/"))
    opened: dict[int, list[str]] = {}
    for held in [*HELD, *HELD[::-1], {}]:
        fill(jar, held, url.origin())
        async with client_session.ws_connect(url, headers=headers):
            wanted = header_of(server)
        async with session.ws_connect(url, headers=headers) as ws:
            number = id(ws._slot)
            assert ws.reused is (wanted in opened.values()), held
            opened.setdefault(number, header_of(server))
            assert opened[number] == wanted, held


@pytest.mark.parametrize("own", [None, "flag", "z=1; a=2", "user=own"])
@pytest.mark.parametrize(
    "held", ['prefs="a;b"', 'prefs="a; b=c"', 'prefs={"a":1}', 'zone="x y"', "a=", 'z="\\073"']
)
async def test_a_rolled_cookie_beside_what_separates_cookies(
    keeper: Keeper, make_session: SessionFactory, held: str, own: str | None
) -> None:
    keeper.reply = "rolls"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    headers = {} if own is None else {"Cookie": own}
    fill(jar, [f"{held}; Path=/"], keeper.url)
    for reused in (False, True, True):
        async with session.ws_connect(keeper.url, headers=headers) as ws:
            assert ws.reused is reused
    jar.update_cookies({held.partition("=")[0]: "bobs"}, keeper.url)
    async with session.ws_connect(keeper.url, headers=headers) as ws:
        assert not ws.reused


async def test_a_rolled_cookie_does_not_stand_for_others(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    """A value without quotes may look like other cookies; what was sent was not theirs."""
    keeper.reply = "rolls"
    jar = aiohttp.CookieJar(unsafe=True, quote_cookie=False)
    jar.update_cookies({"user": "alice; visited=1", "visited": "2"}, keeper.url)

    async def configure(_: Any) -> None:
        # The reply has replaced "user", and somebody else logs in.
        jar.update_cookies({"visited": "3"}, keeper.url)

    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    async with session.ws_connect(keeper.url, configure=configure):
        pass
    async with session.ws_connect(keeper.url, configure=configure) as ws:
        assert not ws.reused


async def test_a_jar_of_plain_values(server: Server, make_session: SessionFactory) -> None:
    class PlainJar(aiohttp.DummyCookieJar):
        user = "alice"

        def filter_cookies(self, request_url: URL) -> Any:
            return {"user": self.user}

    jar = PlainJar()
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    for user, reused in (("a;b", False), ("a;b", True), ("a", False), ("a;b", True)):
        jar.user = user
        async with session.ws_connect(server.url()) as ws:
            assert ws.reused is reused


async def test_what_was_sent_to_one_place_twice_is_nobodys(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    """The jar changes between two hops to the same URL, and each has sent another cookie there."""
    jar = aiohttp.CookieJar(unsafe=True)
    # The jar's cookies are those of the address, whatever the port.
    there = keeper.url / "again/"
    jar.update_cookies({"user": "alice"}, there)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    hops = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal hops
        hops += 1
        if request.path == "/" or hops == 2:
            if hops == 2:
                jar.update_cookies({"user": "bob"}, there)
            raise web.HTTPTemporaryRedirect("/again")
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:
            pass
        return ws

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        for user in (None, "bob", "alice"):
            if user is not None:
                jar.update_cookies({"user": user}, there)
            async with session.ws_connect(url) as ws:
                assert not ws.reused
        await session.close()
    finally:
        await runner.cleanup()


async def test_an_earlier_request_of_another_user_is_not_excused_by_a_later_reply(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.reply, keeper.way = "rolls", "redirected"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))

    def log_in(user: str) -> None:
        jar.update_cookies({"user": user}, keeper.url)

    keeper.redirecting = lambda: log_in("alice")
    log_in("bob")
    await (await session.ws_connect(keeper.url)).release()
    async with session.ws_connect(keeper.url) as ws:
        assert not ws.reused
        await ws.send_str("?")
        seen = keeper.hops[await ws.receive_str()]
        assert [user_of(cookies) for cookies in seen] == ["alice", "alice"]
    async with session.ws_connect(keeper.url) as ws:
        assert ws.reused


async def test_a_caller_who_waits_is_not_given_a_place_that_its_key_does_not_know(
    keeper: Keeper, make_session: SessionFactory
) -> None:
    keeper.way = "redirected"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar), limit=1)
    waits: list[asyncio.Task[Any]] = []

    async def log_in_and_call() -> None:
        jar.update_cookies({"deep": "alice"}, keeper.there)
        waits.append(asyncio.ensure_future(session.ws_connect(keeper.url)))
        await asyncio.sleep(0)

    keeper.during = log_in_and_call
    await (await session.ws_connect(keeper.url)).release()
    async with await waits.pop() as ws:
        await ws.send_str("?")
        assert keeper.hops[await ws.receive_str()] == [{}, {"deep": "alice"}]


async def test_cookies_of_others_come_and_go(keeper: Keeper, make_session: SessionFactory) -> None:
    keeper.way = "redirected"
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    await (await session.ws_connect(keeper.url)).release()
    for change in (
        lambda: jar.update_cookies({"a": "b"}, URL("http://other.example/")),
        jar.clear,
    ):
        change()
        async with session.ws_connect(keeper.url) as ws:
            assert ws.reused
