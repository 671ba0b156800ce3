"""Who may share a connection with whom."""

import asyncio
import enum
import ssl
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import trustme
from multidict import CIMultiDict
from yarl import URL

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.keys import HandshakeKey, Target, resolve

from .conftest import SessionFactory, until
from .servers import Server, serving

OLD_AIOHTTP = tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 12)


async def shared(
    session: WebSocketClientSession,
    first: tuple[str | URL, dict[str, Any]],
    second: tuple[str | URL, dict[str, Any]],
) -> bool:
    """Return whether the second call gets the connection of the first."""
    async with session.ws_connect(first[0], **first[1]):
        pass
    async with session.ws_connect(second[0], **second[1]) as ws:
        return ws.reused


class Role(str, enum.Enum):  # noqa: UP042
    """As a header aiohttp sends it as ``Role.USER``."""

    USER = "user"


DIFFERENT: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "path": (("/a", {}), ("/b", {})),
    "case of path": (("/a", {}), ("/A", {})),
    "trailing slash": (("/a", {}), ("/a/", {})),
    "query": (("/?token=1", {}), ("/?token=2", {})),
    "order of query": (("/?a=1&b=2", {}), ("/?b=2&a=1", {})),
    "params": (("/", {"params": {"token": "1"}}), ("/", {"params": {"token": "2"}})),
    "header": (("/", {"headers": {"X-User": "a"}}), ("/", {"headers": {"X-User": "b"}})),
    "header or none": (("/", {"headers": {"X-User": "a"}}), ("/", {})),
    "order of values": (
        ("/", {"headers": [("X", "1"), ("X", "2")]}),
        ("/", {"headers": [("X", "2"), ("X", "1")]}),
    ),
    "authorization": (
        ("/", {"headers": {"Authorization": "Bearer a"}}),
        ("/", {"headers": {"Authorization": "Bearer b"}}),
    ),
    "cookie header": (("/", {"headers": {"Cookie": "a=1"}}), ("/", {"headers": {"Cookie": "a=2"}})),
    "origin": (("/", {"origin": "http://a"}), ("/", {"origin": "http://b"})),
    "protocols": (("/", {"protocols": ("a",)}), ("/", {"protocols": ("b",)})),
    "order of protocols": (("/", {"protocols": ("a", "b")}), ("/", {"protocols": ("b", "a")})),
    "compress": (("/", {"compress": 15}), ("/", {})),
    "max_msg_size": (("/", {"max_msg_size": 1}), ("/", {})),
    "heartbeat": (("/", {"heartbeat": 30}), ("/", {})),
    "autoping": (("/", {"autoping": False}), ("/", {})),
    "autoclose": (("/", {"autoclose": False}), ("/", {})),
    "timeout": (("/", {"timeout": aiohttp.ClientWSTimeout(ws_receive=5.0)}), ("/", {})),
    "server_hostname": (("/", {"server_hostname": "localhost"}), ("/", {})),
    "ssl": (("/", {"ssl": False}), ("/", {})),
    "text that calls itself otherwise": (
        ("/", {"headers": {"X": Role.USER}}),
        ("/", {"headers": {"X": "user"}}),
    ),
    "reuse_key": (("/", {"reuse_key": "a"}), ("/", {"reuse_key": "b"})),
    "reuse_key or headers": (("/", {"reuse_key": "a"}), ("/", {})),
    "reuse_key and path": (("/a", {"reuse_key": 1}), ("/b", {"reuse_key": 1})),
    "reuse_key and protocols": (
        ("/", {"reuse_key": 1, "protocols": ("a",)}),
        ("/", {"reuse_key": 1}),
    ),
    "reuse_key and origin": (
        ("/", {"reuse_key": 1, "origin": "http://a"}),
        ("/", {"reuse_key": 1}),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
async def test_different_handshakes_never_share(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    first, second = DIFFERENT[name]
    session = make_session()
    assert not await shared(
        session, (server.url(first[0]), first[1]), (server.url(second[0]), second[1])
    )
    assert not await shared(
        make_session(), (server.url(second[0]), second[1]), (server.url(first[0]), first[1])
    )


SAME: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "fragment": (("/", {}), ("/#part", {})),
    "percent encoding": (("/%7Euser", {}), ("/~user", {})),
    "params or query": (("/", {"params": {"a": "1"}}), ("/?a=1", {})),
    "case of header": (("/", {"headers": {"X-User": "a"}}), ("/", {"headers": {"x-user": "a"}})),
    "order of headers": (
        ("/", {"headers": {"X": "1", "Y": "2"}}),
        ("/", {"headers": [("y", "2"), ("x", "1")]}),
    ),
    "kind of headers": (
        ("/", {"headers": {"X": "1"}}),
        ("/", {"headers": CIMultiDict({"X": "1"})}),
    ),
    "no headers": (("/", {"headers": None}), ("/", {"headers": {}})),
    "implied headers": (("/", {"headers": {"Upgrade": "websocket"}}), ("/", {})),
    "origin or header": (
        ("/", {"origin": "http://a"}),
        ("/", {"origin": "http://a", "headers": {"origin": "http://b"}}),
    ),
    "kind of protocols": (("/", {"protocols": ["a", "b"]}), ("/", {"protocols": ("a", "b")})),
    "origin as a header": (
        ("/", {"origin": "http://a"}),
        ("/", {"headers": {"Origin": "http://a"}}),
    ),
    "what aiohttp says of itself": (
        ("/", {}),
        ("/", {"headers": {"accept": "*/*", "User-Agent": aiohttp.http.SERVER_SOFTWARE}}),
    ),
    "headers that aiohttp replaces": (
        ("/", {"protocols": ("a",)}),
        ("/", {"protocols": ("a",), "headers": {"Sec-WebSocket-Protocol": "b"}}),
    ),
    "a name in two spellings": (
        ("/", {"headers": [("X", "1"), ("x", "2")]}),
        ("/", {"headers": {"X": "2"}}),
    ),
    "method": (("/", {"method": "get"}), ("/", {"method": "GET"})),
    "defaults stated": (
        ("/", {"autoping": True, "heartbeat": None, "compress": 0, "ssl": True, "timeout": None}),
        ("/", {"timeout": aiohttp.ClientWSTimeout(ws_close=None)}),
    ),
    "reuse_key": (
        ("/", {"reuse_key": "a", "headers": {"X-Trace": "1"}}),
        ("/", {"reuse_key": "a", "headers": {"X-Trace": "2"}}),
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_other_spellings_of_the_same_share(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    first, second = SAME[name]
    session = make_session()
    assert await shared(
        session, (server.url(first[0]), first[1]), (server.url(second[0]), second[1])
    )


async def test_protocols_that_can_be_read_only_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    for _ in range(2):
        protocols = (name for name in ("a", "b"))
        async with session.ws_connect(server.url(), protocols=protocols) as ws:
            assert ws.protocol == "a"
    assert server.handshakes == 1


async def test_spellings_of_the_scheme_and_the_host(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    spellings = [
        f"http://127.0.0.1:{server.port}",
        f"ws://127.0.0.1:{server.port}",
        f"WS://127.0.0.1:{server.port}/",
        URL(f"ws://127.0.0.1:{server.port}/"),
    ]
    for url in spellings:
        await (await session.ws_connect(url)).release()
    assert server.handshakes == 1


def target(url: str, **options: Any) -> Target:
    return resolve(url, options, headers=CIMultiDict(), reuse_key=None, client_session=None)


def test_default_ports_and_case_of_the_host() -> None:
    assert target("ws://example.org:80/a").key == target("HTTP://EXAMPLE.org/a").key
    assert target("wss://example.org:443/").key == target("https://example.org").key
    assert target("wss://example.org").key != target("ws://example.org").key
    assert target("ws://[::1]/").key.endpoint == ("::1", 80, False)
    assert str(target("ws://[::1]/").key.endpoint) == "[::1]:80"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_credentials_are_a_header() -> None:
    auth = aiohttp.BasicAuth("user", "secret")
    in_url = target("ws://user:secret@example.org/")
    assert in_url.key == target("ws://example.org/", auth=auth).key
    header = {"Authorization": auth.encode()}
    assert in_url.key == target("ws://example.org/", headers=header).key
    assert in_url.key != target("ws://user:other@example.org/").key
    assert in_url.key != target("ws://example.org/").key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reuse_key_does_not_stand_for_credentials() -> None:
    def with_key(url: str, **options: Any) -> Target:
        return resolve(url, options, headers=CIMultiDict(), reuse_key="k", client_session=None)

    alice = aiohttp.BasicAuth("alice", "a")
    bob = aiohttp.BasicAuth("bob", "b")
    url = "ws://example.org/"
    assert with_key(url, auth=alice).key != with_key(url, auth=bob).key
    assert with_key(url, auth=alice).key == with_key("ws://alice:a@example.org/").key
    assert with_key(url).key != with_key("ws://alice:a@example.org/").key
    # A header is what it stands for.
    assert with_key(url, headers={"Authorization": "x"}).key == with_key(url).key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_proxies_and_tls() -> None:
    context = ssl.create_default_context()
    plain = target("wss://example.org/").key
    assert plain != target("wss://example.org/", proxy="http://proxy/").key
    assert (
        target("wss://example.org/", proxy="http://proxy").key
        == target("wss://example.org/", proxy=URL("HTTP://proxy/")).key
    )
    assert plain == target("wss://example.org/", proxy_headers={"X": "1"}).key
    values = [("X", "1"), ("X", "2")]
    proxied = target("wss://example.org/", proxy="http://proxy/").key
    assert (
        len(
            {
                proxied,
                target("wss://example.org/", proxy="http://proxy/", proxy_headers=values).key,
                target("wss://example.org/", proxy="http://proxy/", proxy_headers=values[::-1]).key,
            }
        )
        == 3
    )
    assert plain != target("wss://example.org/", ssl=context).key
    assert (
        target("wss://example.org/", ssl=context).key
        == target("wss://example.org/", ssl_context=context).key
    )
    assert (
        target("wss://example.org/", ssl=False).key
        == target("wss://example.org/", verify_ssl=False).key
    )
    digest = bytes(32)
    assert (
        target("wss://example.org/", ssl=aiohttp.Fingerprint(digest)).key
        == target("wss://example.org/", ssl=aiohttp.Fingerprint(bytes(32))).key
        == target("wss://example.org/", fingerprint=digest).key
    )


def test_keys_show_no_secret() -> None:
    secret = target("ws://user:hidden@example.org/?token=hidden", headers={"X": "hidden"})
    assert "hidden" not in repr(secret) + repr(secret.key) + str(secret.key)
    assert "example.org:80" in repr(secret.key)


async def test_headers_of_the_pool_and_of_the_client_session(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession(headers={"X-Client": "1", "X-Both": "client"})
    session = make_session(client_session=client_session, headers={"X-Pool": "1", "x-both": "pool"})
    async with session.ws_connect(server.url(), headers={"X-Call": "1"}):
        sent = server.requests[0].headers
        assert [sent[name] for name in ("X-Client", "X-Pool", "X-Call")] == ["1", "1", "1"]
        assert sent.getall("X-Both") == ["pool"]
    async with session.ws_connect(server.url(), headers={"X-Pool": "2", "X-Call": "1"}) as ws:
        assert not ws.reused
        assert server.requests[1].headers.getall("X-Pool") == ["2"]


async def test_client_session_headers_may_change(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    await (await session.ws_connect(server.url())).release()
    for value, reused in (("1", False), ("1", True), ("2", False)):
        session.client_session.headers["X-User"] = value
        async with session.ws_connect(server.url()) as ws:
            assert ws.reused is reused
    session.client_session.headers.clear()
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused
    assert server.handshakes == 3


async def test_client_session_headers_that_change_before_the_handshake(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    headers = session.client_session.headers
    holder = await session.ws_connect(server.url())
    calls = []
    for user in "ab":
        headers["X-User"] = user
        calls.append(asyncio.ensure_future(session.ws_connect(server.url())))
    await until(lambda: session.stats().waiting == 2)
    headers["X-Later"] = "1"
    await holder.close()
    # Each is sent what stood when its caller called.
    for user, call in zip("ab", calls, strict=True):
        async with await call as ws:
            assert not ws.reused
            sent = server.requests[-1].headers
            assert (sent["X-User"], "X-Later" in sent) == (user, False)
    assert headers == {"X-User": "b", "X-Later": "1"}
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        assert server.requests[-1].headers["X-Later"] == "1"


async def test_client_session_headers_that_change_before_a_handshake_that_fails(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    session.client_session.headers["X-User"] = "a"
    refused = session.ws_connect(server.url("/refuse"))
    cancelled = session.ws_connect(server.url("/hang"))
    session.client_session.headers["X-User"] = "b"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await refused
    task = asyncio.ensure_future(cancelled)
    await until(lambda: server.arrived == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.client_session.headers == {"X-User": "b"}


async def test_client_session_headers_that_change_before_a_proxy_is_asked(
    make_session: SessionFactory,
) -> None:
    asked: list[bytes] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        writer.close()

    session = make_session()
    session.client_session.headers["X-User"] = "a"
    async with await asyncio.start_server(ask, "127.0.0.1", 0) as server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        call = session.ws_connect("wss://example.org/", proxy=proxy, proxy_headers={"X-Own": "1"})
        session.client_session.headers["X-User"] = "b"
        with pytest.raises(aiohttp.ClientHttpProxyError):
            await call
    (head,) = asked
    assert b"X-User: a\r\n" in head
    assert b"X-Own: 1\r\n" in head


async def test_cookies_of_a_given_jar(server: Server, make_session: SessionFactory) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    await (await session.ws_connect(server.url())).release()
    jar.update_cookies({"user": "a"}, URL(server.url()))
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        assert server.requests[-1].cookies == {"user": "a"}
    jar.update_cookies({"user": "b"}, URL(server.url()))
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        assert server.requests[-1].cookies == {"user": "b"}
    jar.update_cookies({"user": "a"}, URL(server.url()))
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused


async def test_a_cookie_set_by_the_handshake_does_not_defeat_reuse(
    server: Server, make_session: SessionFactory
) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar), limit=2)

    async def caller() -> None:
        async with session.ws_connect(server.url("/cookie")) as ws:
            await ws.send_str("x")
            assert await ws.receive_str() == "x"

    # Most of these come before the cookie does.
    await asyncio.gather(*[caller() for _ in range(50)])
    await caller()
    assert server.handshakes <= 4
    assert server.peak <= 2


async def test_a_cookie_that_somebody_else_sets_meanwhile_was_not_sent(
    server: Server, make_session: SessionFactory
) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"user": "a"}, URL(server.url()))
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    for path in ("/", "/cookie"):
        server.gate.clear()
        opening = asyncio.ensure_future(session.ws_connect(server.url(path)))
        arrived = server.arrived
        await until(lambda arrived=arrived: server.arrived > arrived)
        jar.update_cookies({"user": "b"}, URL(server.url()))
        server.gate.set()
        await (await opening).release()
        async with session.ws_connect(server.url(path)) as ws:
            assert not ws.reused
            assert server.requests[-1].cookies["user"] == "b"
        jar.update_cookies({"user": "a"}, URL(server.url()))


async def test_the_order_of_the_jar_does_not_count(
    server: Server, make_session: SessionFactory
) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    jar.update_cookies({"a": "1", "b": "2"}, URL(server.url()))
    await (await session.ws_connect(server.url())).release()
    jar.clear()
    jar.update_cookies({"b": "2", "a": "1"}, URL(server.url()))
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused


async def test_own_session_has_no_jar(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    for _ in range(3):
        await (await session.ws_connect(server.url("/cookie"))).release()
    assert server.handshakes == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_auth_of_the_client_session() -> None:
    auth = aiohttp.BasicAuth("user", "secret")
    headers = CIMultiDict[str]()

    def key(url: str, **options: Any) -> HandshakeKey:
        return resolve(
            url, options, headers=headers, reuse_key=None, client_session=client_session
        ).key

    url = "ws://example.org/"
    async with aiohttp.ClientSession(auth=auth) as client_session:
        assert key(url) == key(url, auth=auth) == key("ws://user:secret@example.org/")
        assert key(url) != key("ws://user:other@example.org/")
        with pytest.raises(ValueError, match="AUTHORIZATION header"):
            key(url, headers={"Authorization": "x"})
    async with aiohttp.ClientSession("http://example.org/", auth=auth) as client_session:
        # To aiohttp ws:// is another origin, to which it does not send what is meant for this one.
        assert (
            key("/")
            == resolve("/", {}, headers=headers, reuse_key=None, client_session=client_session).key
        )
        if not OLD_AIOHTTP:
            assert key(url) != key("/")
            assert key("/") == key("http://user:secret@example.org/")


async def test_proxies_that_tell_one_spelling_of_the_scheme_from_the_other() -> None:
    async with (
        aiohttp.ClientSession() as direct,
        aiohttp.ClientSession(proxy="http://proxy/") as proxied,
        aiohttp.ClientSession(trust_env=True) as by_environment,
    ):

        def keys(client_session: aiohttp.ClientSession, *schemes: str) -> int:
            return len(
                {
                    resolve(
                        f"{scheme}://example.org/",
                        {},
                        headers=CIMultiDict(),
                        reuse_key=None,
                        client_session=client_session,
                    ).key
                    for scheme in schemes
                }
            )

        for schemes in (("ws", "http"), ("wss", "https")):
            assert keys(direct, *schemes) == 1
            assert keys(by_environment, *schemes) == 2
        # It is asked for all the URL, but for a tunnel where there is TLS.
        assert keys(proxied, "ws", "http") == 2
        assert keys(proxied, "wss", "https") == 1


async def test_a_redirected_connection_is_of_the_url_that_was_asked_for(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as elsewhere:
        server.redirect_to = elsewhere.url("/there")
        session = make_session(limit=1)
        async with session.ws_connect(server.url("/redirect")):
            assert elsewhere.open == 1
            (endpoint,) = session.stats_by_endpoint()
            assert endpoint.port == server.port
        async with session.ws_connect(elsewhere.url("/there")) as direct:
            assert not direct.reused
        async with session.ws_connect(server.url("/redirect")) as ws:
            assert ws.reused
        assert elsewhere.handshakes == 2


async def test_a_host_that_is_given_counts_where_a_redirect_carries_it(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as elsewhere:
        server.redirect_to = elsewhere.url("/there")
        session = make_session()
        url = server.url("/redirect")
        usual = {"Host": f"127.0.0.1:{server.port}"}
        async with session.ws_connect(url, headers=usual), session.ws_connect(url) as ws:
            assert not ws.reused
        async with session.ws_connect(url, headers=usual) as ws:
            assert ws.reused


async def test_targets_are_remembered_within_bounds(make_session: SessionFactory) -> None:
    session = make_session()
    for number in range(3_000):
        session.ws_connect(f"ws://127.0.0.1:1/{number}").close()
    assert len(session._targets) <= 1_024


# -- what is remembered of calls with options -----------------------------------------------------

ATOMS = frozenset({bool, int, float})
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a number and a bool": ({"x": 1}, {"x": True}),
    "a whole number and another": ({"x": 1}, {"x": 1.0}),
    "text and text of a kind of its own": ({"x": "user"}, {"x": Role.USER}),
    "the same in a dict": ({"x": {"y": "user"}}, {"x": {"y": Role.USER}}),
    "the same as a name": ({"x": {"user": "y"}}, {"x": {Role.USER: "y"}}),
    "the same in a tuple": ({"x": ("user",)}, {"x": (Role.USER,)}),
    "a list and a tuple": ({"x": ["a"]}, {"x": ("a",)}),
    "a pair and a dict": ({"x": ("a", "b")}, {"x": {"a": "b"}}),
    "text and a tuple of it": ({"x": "a"}, {"x": ("a",)}),
    "two options and one of two": ({"x": "a", "y": "b"}, {"x": ("a", "y", "b")}),
    "names with a value each and values of a dict": (
        {"x": {"a": "b"}, "c": "d"},
        {"x": {"a": "b", "c": "d"}},
    ),
    "nothing and none": ({}, {"x": None}),
    "numbers in a tuple": ({"x": (1, "a")}, {"x": (1.0, "a")}),
    "a tuple and an option": ({"x": (1.5, "y")}, {"x": (1.5,), "y": None}),
    "order": ({"x": {"a": "1", "b": "2"}}, {"x": {"b": "2", "a": "1"}}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_calls_are_told_from_each_other(core: ModuleType, name: str) -> None:
    first, second = (core.signature_of("ws://a", None, o, ATOMS) for o in ALIKE[name])
    assert first is not None
    assert first == core.signature_of("ws://a", None, dict(ALIKE[name][0]), ATOMS)
    assert first != second


def test_what_cannot_be_told(core: ModuleType) -> None:
    for value in (Role.USER, b"", {"a": 1}, {1: "a"}, ("a", b""), [("a", "b")], {"a"}, object()):
        assert core.signature_of("ws://a", None, {"x": value}, ATOMS) is None
    assert core.signature_of(Role.USER, None, {}, ATOMS) is None
    assert core.signature_of("ws://a", 1, {}, ATOMS) != core.signature_of("ws://a", 2, {}, ATOMS)


async def test_calls_with_options_are_resolved_once(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    resolved = 0
    resolve_anew = session._resolve_anew

    def count(*arguments: Any) -> Target:
        nonlocal resolved
        resolved += 1
        return resolve_anew(*arguments)

    monkeypatch.setattr(session, "_resolve_anew", count)

    async def use(**options: Any) -> None:
        async with session.ws_connect(server.url(), **options):
            pass

    for number in range(3):
        await use(headers={"X": "1", "Y": "2"}, protocols=("a", "b"), heartbeat=30.0)
        await use(headers={"X": "1"}, timeout=aiohttp.ClientWSTimeout(ws_close=1.0))
        # The first call binds the session, and what was remembered before is forgotten.
        assert resolved == (2 if number == 0 else 3)
    for _ in range(2):
        # Of these nobody knows whether they are the same before they are looked at.
        await use(headers=CIMultiDict({"X": "1"}))
    assert resolved == 5
    assert session.stats().connects == 3


class Alias(str):
    """A URL that goes by another name, and is equal to that."""

    real: str

    def __str__(self) -> str:
        return self.real


@pytest.mark.parametrize("options", [{}, {"heartbeat": 30.0}], ids=["bare", "options"])
async def test_urls_that_are_equal_and_not_the_same(
    server: Server, make_session: SessionFactory, options: dict[str, Any]
) -> None:
    session = make_session()
    await session.prewarm(server.url(), 1)
    alias = Alias(server.url("/a"))
    alias.real = server.url("/b")
    calls: list[Any] = [(alias, "/b"), (server.url("/a"), "/a")]
    for url, path in [*calls, *calls[::-1], (URL(server.url("/a")), "/a")]:
        async with session.ws_connect(url, **options) as ws:
            assert ws._slot.key.resource == path
    assert [request.path for request in server.requests] == ["/", "/b", "/a"]
    with pytest.raises(TypeError, match="url must be"):
        session.ws_connect((server.url("/a"), None, "heartbeat", float, 30.0))  # type: ignore


async def test_headers_that_are_changed_between_two_calls(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    headers = {"X": "1"}
    for value, reused in (("1", False), ("1", True), ("2", False), ("1", True)):
        headers["X"] = value
        async with session.ws_connect(server.url(), headers=headers) as ws:
            assert ws.reused is reused


async def test_calls_with_options_follow_the_client_session(server: Server) -> None:
    async with aiohttp.ClientSession() as client_session:
        session = WebSocketClientSession(client_session=client_session, client_session_owner=False)
        for value, reused in (("1", False), ("2", False), ("1", True)):
            client_session.headers["X"] = value
            async with session.ws_connect(server.url(), heartbeat=30.0) as ws:
                assert ws.reused is reused
        await session.close()


async def test_client_session_headers_that_change_before_the_first_handshake(
    server: Server,
) -> None:
    async with aiohttp.ClientSession(headers={"X": "1"}) as client_session:
        session = WebSocketClientSession(client_session=client_session, client_session_owner=False)
        first = session.ws_connect(server.url())
        client_session.headers["X"] = "2"
        second = session.ws_connect(server.url())
        for call in (first, second):
            async with call as ws:
                assert not ws.reused
        assert [request.headers["X"] for request in server.requests] == ["1", "2"]
        await session.close()


async def test_another_certificate_is_loaded_into_a_context(
    authority: trustme.CA, make_session: SessionFactory
) -> None:
    """The recipe of ``docs/guides/tls.rst``: drain() after it."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(server_tls)
    server_tls.verify_mode = ssl.CERT_REQUIRED
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def user_of(server: Server) -> str:
        certificate = server.transports[-1].get_extra_info("peercert")
        return dict(certificate["subjectAltName"])["email"]

    async with serving(Server(), ssl_context=server_tls) as server:
        session = make_session()
        authority.issue_cert("alice@example.org").configure_cert(context)
        in_use = await session.ws_connect(server.url(), ssl=context)
        await (await session.ws_connect(server.url(), ssl=context)).release()
        assert user_of(server) == "alice@example.org"
        authority.issue_cert("bob@example.org").configure_cert(context)
        session.drain()
        async with session.ws_connect(server.url(), ssl=context) as ws:
            assert not ws.reused
            assert user_of(server) == "bob@example.org"
            # That of alice is closed.
            await in_use.release()
        async with session.ws_connect(server.url(), ssl=context) as ws:
            assert ws.reused
        assert server.handshakes == 3
