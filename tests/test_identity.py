"""Who may share a connection with whom."""

import asyncio
import ssl
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from aiowebsocketclient import WebSocketClientSession
from aiowebsocketclient.keys import Target, resolve

from .conftest import SessionFactory
from .servers import Server


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
    assert plain != target("wss://example.org/", proxy_headers={"X": "1"}).key
    values = [("X", "1"), ("x", "2")]
    assert (
        target("wss://example.org/", proxy_headers=values).key
        != target("wss://example.org/", proxy_headers=values[::-1]).key
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


async def test_own_session_has_no_jar(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    for _ in range(3):
        await (await session.ws_connect(server.url("/cookie"))).release()
    assert server.handshakes == 1


async def test_targets_are_remembered_within_bounds(make_session: SessionFactory) -> None:
    session = make_session()
    for number in range(3_000):
        session.ws_connect(f"ws://127.0.0.1:1/{number}").close()
    assert len(session._targets) <= 1_024
