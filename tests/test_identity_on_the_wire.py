"""Who shares a connection, held against the bytes that a handshake really sends."""

import asyncio
import base64
import hashlib
import inspect
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, istr
from yarl import URL

from aiowebsocketclient import WebSocketClientSession

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AIOHTTP = tuple(map(int, aiohttp.__version__.split(".")[:2]))
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# What is not written here: the option is not given.
ABSENT: Any = object()


class Recorder:
    """A WebSocket server, and a proxy before it, that keeps the head of every request."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.ports: dict[str, int] = {}

    def taken(self) -> list[bytes]:
        """Return what came since this was last asked."""
        taken, self.heads = self.heads, []
        return taken

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if head.startswith(b"CONNECT "):
                await self.tunnel(reader, writer)
            elif b" /elsewhere" in head.partition(b"\r\n")[0]:
                writer.write(
                    b"HTTP/1.1 307 Elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n"
                    b"Location: http://other.example:8080/there\r\n\r\n"
                )
            else:
                accept = base64.b64encode(hashlib.sha1(key_of(head) + GUID).digest())
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
                # The first that comes is CLOSE: nobody sends anything else.
                if await reader.read(100):
                    writer.write(b"\x88\x02\x03\xe8")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", self.ports["tls"])
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))


def key_of(head: bytes) -> bytes:
    return next(value for name, value in fields_of(head) if name.lower() == b"sec-websocket-key")


def fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (line.partition(b": ")[0], line.partition(b": ")[2])
        for line in head.split(b"\r\n")[1:]
        if line
    ]


def canonical(head: bytes) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """Return what two handshakes have in common that are the same.

    Names of headers have no case, and headers of different names no order.
    """
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in fields_of(head):
        by_name.setdefault(name.lower(), []).append(value)
    by_name.pop(b"sec-websocket-key", None)
    return head.partition(b"\r\n")[0], by_name


class Everywhere(AbstractResolver):
    """Every host is the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        kind = "tls" if port in (443, 8443) else "plain"
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=self.recorder.ports[kind],
                family=socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def everywhere_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org", "other.example", "xn--bcher-kva.example").configure_cert(
        context
    )
    return context


@pytest_asyncio.fixture
async def recorder(everywhere_tls: ssl.SSLContext) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with AsyncExitStack() as stack:
        for kind, context in (("plain", None), ("tls", everywhere_tls)):
            server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, ssl=context)
            await stack.enter_async_context(server)
            recorder.ports[kind] = server.sockets[0].getsockname()[1]
        yield recorder


# -- what a call is made of --------------------------------------------------------------------


class Spelling(NamedTuple):
    """A value as a caller writes it, and what it means to our own side of the connection."""

    value: Any
    meaning: Any = None

    def __repr__(self) -> str:
        return "ABSENT" if self.value is ABSENT else repr(self.value)


def plain(*values: Any) -> list[Spelling]:
    """Values which show on the wire, so that our side need not be asked."""
    return [Spelling(ABSENT), *map(Spelling, values)]


def basic(*arguments: Any) -> aiohttp.BasicAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp 3.14
        return aiohttp.BasicAuth(*arguments)


class Word(str):
    """What looks like one text and is another, as members of an enumeration may be."""

    __slots__ = ()

    def __str__(self) -> str:
        return "w" + super().__str__()


SSL_CONTEXT = "a context"
TIMEOUT = aiohttp.ClientWSTimeout

SPELLINGS: dict[str, list[Spelling]] = {
    "scheme": [*map(Spelling, ("ws", "http", "WS", "wss", "https", "HTTPS"))],
    "userinfo": [*map(Spelling, ("", "", "", "u:p@", "%75:p@", "u@", "u:@", ":p@", ":@", "@"))],
    "host": [
        *map(
            Spelling,
            (
                *("example.org", "EXAMPLE.org", "other.example"),
                *("bücher.example", "xn--bcher-kva.example", "B\u00dcCHER.example"),
            ),
        )
    ],
    "port": [*map(Spelling, ("", "", ":default", ":other"))],
    "path": [
        *map(
            Spelling,
            (
                *("", "/", "/a", "/%61", "/A", "/a/", "/b/../a", "//a", "/a b", "/a%20b", "/a+b"),
                *("/é", "/%C3%A9", "/%c3%a9", "/a%2Fb", "/a%2fb", "/a/b", "/elsewhere"),
            ),
        )
    ],
    "query": [
        *map(
            Spelling,
            (
                *("", "", "?", "?a=1", "?a=%31", "?a=2", "?a=1&b=2", "?b=2&a=1", "?a=1&a=1"),
                *("?a=1+2", "?a=1%202", "?a=1 2", "?a=1%2B2", "?a=é", "?a=%C3%A9", "?a"),
            ),
        )
    ],
    "fragment": [*map(Spelling, ("", "", "#f", "#"))],
    "as_url": [Spelling(False), Spelling(True)],
    "params": plain({}, {"a": "1"}, [("a", "1")], "a=1", {"b": 2}, [("b", "2"), ("a", "1")]),
    "headers": plain(
        *({}, {"X": "1"}, {"x": "1"}, [("X", "1")], CIMultiDict({"X": "1"}), {istr("X"): "1"}),
        *([("X", "1"), ("X", "2")], [("X", "2"), ("X", "1")], [("X", "1"), ("x", "2")]),
        *([("Y", "2"), ("X", "1")], {"X": "1", "y": "2"}, {"X": ""}, {"X": "1,2"}, {"X": "1, 2"}),
        *({"X": "é"}, {"X": " 1"}, {"X": "1 "}, {"X": Word("1")}, {"X": "w1"}),
        *({"Accept": "*/*"}, {"accept": "text/plain"}, {"User-Agent": "other"}),
        *({"User-Agent": aiohttp.http.SERVER_SOFTWARE}, {"Host": "example.org"}, {"Host": "x"}),
        *({"Upgrade": "websocket"}, {"Connection": "upgrade"}, {"Sec-WebSocket-Version": "8"}),
        *({"Authorization": "Basic dTpw"}, {"Authorization": "Bearer t"}, {"Cookie": "c=1"}),
        *({"Cookie": "d=2"}, {"Cookie": "c=1; d=2"}, {"Origin": "http://o"}),
        *({"Sec-WebSocket-Protocol": "a"}, {"Sec-WebSocket-Key": "x"}, {"X-Pool": "1"}),
        *({"Proxy-Authorization": "Bearer t"}, {"Proxy-Authorization": "Basic dTpw"}),
    ),
    "auth": [Spelling(ABSENT)] * 3
    + plain(None, basic("u", "p"), basic("u", "é"), basic("u", "é", "utf-8")),
    "origin": plain(None, "http://o", "http://O"),
    "protocols": [
        Spelling(ABSENT, ()),
        Spelling((), ()),
        Spelling(["a"], ("a",)),
        Spelling(("a",), ("a",)),
        Spelling(("a", "b"), ("a", "b")),
        Spelling(("b", "a"), ("b", "a")),
        Spelling(["a", "b"], ("a", "b")),
    ],
    "method": plain("GET", "get", "POST"),
    "compress": plain(0, 15, 12),
    "max_msg_size": [
        Spelling(ABSENT, 4 * 2**20),
        Spelling(4 * 2**20, 4 * 2**20),
        Spelling(0, 0),
    ],
    "heartbeat": [Spelling(ABSENT, None), Spelling(60, 60.0), Spelling(60.0, 60.0)],
    "autoping": [Spelling(ABSENT, True), Spelling(True, True), Spelling(False, False)],
    "autoclose": [Spelling(ABSENT, True), Spelling(True, True), Spelling(False, False)],
    "timeout": [
        Spelling(ABSENT, (None, 10.0)),
        Spelling(TIMEOUT(ws_close=10.0), (None, 10.0)),
        Spelling(TIMEOUT(ws_receive=5.0), (5.0, None)),
        Spelling(TIMEOUT(ws_receive=5.0, ws_close=10.0), (5.0, 10.0)),
        Spelling(10.0, (None, 10.0)),
        Spelling(3.0, (None, 3.0)),
    ],
    "ssl": [Spelling(SSL_CONTEXT, "context"), Spelling(False, False)],
    "server_hostname": [Spelling(ABSENT), Spelling(None), Spelling("other.example", "other")],
    "proxy": [Spelling(ABSENT)] * 4
    + [
        Spelling("http://proxy.example:3128", "proxy"),
        Spelling(URL("HTTP://proxy.example:3128/"), "proxy"),
        Spelling("http://u:p@proxy.example:3128", "proxy"),
        Spelling("http://:p@proxy.example:3128", "proxy"),
        Spelling("http://@proxy.example:3128", "proxy"),
    ],
    "proxy_auth": [Spelling(ABSENT)] * 3 + plain(basic("u", "p"), basic("v", "q")),
    "proxy_headers": plain(
        *({}, {"P": "1"}, {"p": "1"}, {"P": "2"}),
        *({"Authorization": "Basic dTpw"}, {"authorization": "Bearer t"}),
        *([("Authorization", "Bearer t"), ("Authorization", "x")],),
        *({"Proxy-Authorization": "Basic dTpw"}, {"Proxy-Authorization": "Bearer t"}),
        *({"Host": "x"},),
    ),
    "decode_text": [Spelling(ABSENT, True), Spelling(True, True), Spelling(False, False)],
}
OF_THE_URL = ("scheme", "userinfo", "host", "port", "path", "query", "fragment", "as_url")
if "decode_text" not in inspect.signature(aiohttp.ClientSession.ws_connect).parameters:
    del SPELLINGS["decode_text"]

Call = Mapping[str, Spelling]


FIELDS = {name: st.sampled_from(spellings) for name, spellings in SPELLINGS.items()}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Call, Call]:
    """Two calls which differ in a few spellings: any two would hardly ever be the same."""
    usual = {name: spellings[0] for name, spellings in SPELLINGS.items()}
    first = usual | draw(st.fixed_dictionaries({}, optional=FIELDS))
    names = draw(st.lists(st.sampled_from(sorted(SPELLINGS)), min_size=1, max_size=3, unique=True))
    return (
        first | {name: draw(FIELDS[name]) for name in names},
        first | {name: draw(FIELDS[name]) for name in names},
    )


def is_tls(call: Call) -> bool:
    return call["scheme"].value.lower() in ("wss", "https")


def url_of(call: Call) -> str | URL:
    tls = is_tls(call)
    port = {":default": f":{443 if tls else 80}", ":other": f":{8443 if tls else 8080}"}
    parts = [call[name].value for name in OF_THE_URL]
    parts[3] = port.get(parts[3], parts[3])
    scheme, userinfo, host, port_, path, query, fragment, as_url = parts
    url = f"{scheme}://{userinfo}{host}{port_}{path}{query}{fragment}"
    return URL(url) if as_url else url


def options_of(call: Call, context: ssl.SSLContext) -> dict[str, Any]:
    options = {
        name: spelling.value
        for name, spelling in call.items()
        if name not in OF_THE_URL and spelling.value is not ABSENT
    }
    if options["ssl"] is SSL_CONTEXT:
        options["ssl"] = context
    return options


def our_side_of(call: Call) -> tuple[object, ...]:
    """Return what is to be the same beside the bytes: where they go, and what we do afterwards."""
    host = call["host"].value.lower().encode("idna")
    port = call["port"].value == ":other"
    meanings = tuple(call[name].meaning for name in SPELLINGS if name not in OF_THE_URL)
    return (host, port, is_tls(call), meanings, *for_a_redirect(call))


def for_a_redirect(call: Call) -> tuple[object, ...]:
    """Return what the handshake itself does not show, and a redirect would: to a host, to TLS."""
    headers, proxy_headers = (
        CIMultiDict() if call[name].value is ABSENT else CIMultiDict(call[name].value)
        for name in ("headers", "proxy_headers")
    )
    if call["proxy"].value is ABSENT or is_tls(call):
        return ("host" in headers,)
    by_name: dict[str, list[str]] = {}
    for name, value in proxy_headers.items():
        by_name.setdefault(name.lower(), []).append(value)
    # aiohttp replaces it.
    by_name.pop("host", None)
    has_credentials = call["proxy_auth"].value is not ABSENT or bool(
        URL(call["proxy"].value).user or URL(call["proxy"].value).password
    )
    if "authorization" in by_name or has_credentials:
        # Those that are used are in the handshake.
        by_name.pop("proxy-authorization", None)
        rest = by_name.pop("authorization", [])[1:]
        if rest and not has_credentials:
            by_name["authorization"] = rest
    return ("host" in headers, tuple(sorted((n, tuple(v)) for n, v in by_name.items())))


def may_hide_what_is_the_same(calls: tuple[Call, Call], setup: "Setup") -> bool:
    """A header may say what the jar says too; the pool does not look into either."""
    return bool(setup.cookies or setup.new_cookies) and any(
        "cookie" in CIMultiDict(call["headers"].value)
        for call in calls
        if call["headers"].value is not ABSENT
    )


class Setup(NamedTuple):
    """What goes with every handshake of a session."""

    headers: dict[str, str] | None
    client_headers: dict[str, str] | None
    client_auth: aiohttp.BasicAuth | None
    base_url: str | None
    skip_auto_headers: tuple[str, ...]
    cookies: dict[str, str]
    # Between the first call and the second.
    new_client_headers: dict[str, str] | None
    new_cookies: dict[str, str]


SETUPS = st.builds(
    Setup,
    st.sampled_from([None, None, {"X-Pool": "1"}, {"X": "1"}]),
    st.sampled_from([None, None, {"X": "1"}, {"X": "2", "Y": "2"}, {"Upgrade": "no"}]),
    st.sampled_from([None, basic("u", "p")]),
    st.sampled_from([None, "http://example.org/"] if AIOHTTP >= (3, 12) else [None]),
    st.sampled_from([(), (), ("User-Agent",)]),
    st.sampled_from([{}, {}, {"c": "1"}, {"c": "1", "d": "2"}]),
    st.sampled_from([None, None, {"X": "1"}, {"X": "2"}]),
    st.sampled_from([{}, {}, {"c": "1"}, {"c": "2"}]),
)


@asynccontextmanager
async def client_session_for(
    setup: Setup, recorder: Recorder
) -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar() if setup.cookies or setup.new_cookies else aiohttp.DummyCookieJar()
    jar.update_cookies(setup.cookies, URL("http://example.org/"))
    async with aiohttp.ClientSession(
        setup.base_url,
        connector=aiohttp.TCPConnector(
            resolver=Everywhere(recorder), limit=0, force_close=True, use_dns_cache=False
        ),
        headers=setup.client_headers,
        auth=setup.client_auth,
        skip_auto_headers=setup.skip_auto_headers,
        cookie_jar=jar,
    ) as client_session:
        yield client_session


class Sent(NamedTuple):
    """What came of a call in a pool that shares nothing, and in one that does."""

    heads: Any
    slot: Any
    key: Any
    reused: bool


async def make(
    call: Call,
    context: ssl.SSLContext,
    recorder: Recorder,
    alone: WebSocketClientSession,
    pool: WebSocketClientSession,
) -> Sent | None:
    """Return None for what is refused, at the call, by both."""
    url, options = url_of(call), options_of(call, context)
    recorder.taken()
    try:
        acquisition = alone.ws_connect(url, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            pool.ws_connect(url, **options)
        return None
    ws = await acquisition
    heads = [canonical(head) for head in recorder.taken()]
    await ws.close()
    pooled = await pool.ws_connect(url, **options)
    slot = pooled._slot
    key = pool._lifecycle.with_cookies(pool._resolve(url, options, None)).key
    reused = pooled.reused
    await pooled.release()
    return Sent(heads, slot, key, reused)


SETTINGS = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def spelt(**values: Any) -> Call:
    """Return the call with these values, and the usual ones for the rest."""
    return {
        name: Spelling(values[name]) if name in values else spellings[0]
        for name, spellings in SPELLINGS.items()
    }


NO_SETUP = Setup(None, None, None, None, (), {}, None, {})
BASE_URL = "http://example.org/" if AIOHTTP >= (3, 12) else None
PROXY = "http://proxy.example:3128"


PLAIN = [name for name in SPELLINGS if name not in ("ssl", "server_hostname", "as_url")]
PROXIED = [
    *("scheme", "userinfo", "host", "port", "path", "query", "fragment"),
    *("proxy", "proxy_auth", "proxy_headers", "headers"),
]
TUNNELLED = ["proxy", "proxy_auth", "proxy_headers", "headers", "ssl", "server_hostname"]
ALONE = [
    *((name, spelt()) for name in PLAIN),
    *((name, spelt(proxy=PROXY)) for name in PROXIED),
    *((name, spelt(proxy=PROXY, scheme="wss")) for name in TUNNELLED),
]


@pytest.mark.parametrize(
    ("name", "around"),
    ALONE,
    ids=[f"{name}-{around['scheme']!r}-{around['proxy']!r}" for name, around in ALONE],
)
async def test_all_spellings_of_one_thing(
    recorder: Recorder, client_tls: ssl.SSLContext, name: str, around: Call
) -> None:
    """Each is held against all the others, while the rest stays the same."""
    slots: list[tuple[object, object]] = []
    async with (
        client_session_for(NO_SETUP, recorder) as client_session,
        WebSocketClientSession(
            client_session=client_session, client_session_owner=False, force_close=True
        ) as alone,
        WebSocketClientSession(client_session=client_session, client_session_owner=False) as pool,
    ):
        for spelling in SPELLINGS[name]:
            call = {**around, name: spelling}
            sent = await make(call, client_tls, recorder, alone, pool)
            assert sent is not None
            what = (sent.heads, our_side_of(call))
            before = [slot for other, slot in slots if other == what]
            assert sent.reused == bool(before), spelling
            assert sent.slot in before or not before, spelling
            slots.append((what, sent.slot))


# What was wrong once, and is hard to come by.
@example(
    calls=(spelt(scheme="http"), spelt(scheme="ws")),
    setup=NO_SETUP._replace(base_url=BASE_URL, client_auth=basic("u", "p")),
)
@example(calls=(spelt(scheme="http", proxy=PROXY), spelt(proxy=PROXY)), setup=NO_SETUP)
@example(
    calls=(spelt(headers={"X": Word("1")}), spelt(headers={"X": "1"})),
    setup=NO_SETUP,
)
@example(
    calls=(spelt(headers=[("X", "1"), ("x", "2")]), spelt(headers=[("X", "1"), ("X", "2")])),
    setup=NO_SETUP,
)
@example(
    calls=(spelt(), spelt(headers={"User-Agent": aiohttp.http.SERVER_SOFTWARE})),
    setup=NO_SETUP._replace(skip_auto_headers=("User-Agent",)),
)
@example(
    calls=(
        spelt(scheme="wss", proxy=PROXY, proxy_headers={"P": "1"}),
        spelt(scheme="wss", proxy=PROXY, proxy_headers={"P": "2"}),
    ),
    setup=NO_SETUP,
)
@example(
    calls=(
        spelt(proxy=PROXY, proxy_headers={"Authorization": "Bearer a"}),
        spelt(proxy=PROXY, proxy_headers={"Authorization": "Bearer b"}),
    ),
    setup=NO_SETUP,
)
@example(
    calls=(
        spelt(proxy=PROXY, proxy_headers={"Authorization": "Basic dTpw"}),
        spelt(proxy=PROXY, proxy_auth=basic("u", "p")),
    ),
    setup=NO_SETUP,
)
@example(
    calls=(spelt(proxy=PROXY), spelt(proxy=PROXY)),
    setup=NO_SETUP._replace(
        client_headers={"Authorization": "Bearer a"},
        new_client_headers={"Authorization": "Bearer b"},
    ),
)
@example(
    calls=(
        spelt(proxy=PROXY, proxy_auth=basic("u", "p")),
        spelt(proxy="http://u:q@proxy.example:3128"),
    ),
    setup=NO_SETUP,
)
@SETTINGS
@given(calls=pairs(), setup=SETUPS)
async def test_only_callers_that_send_the_same_share(
    recorder: Recorder, client_tls: ssl.SSLContext, calls: tuple[Call, Call], setup: Setup
) -> None:
    async with (
        client_session_for(setup, recorder) as client_session,
        WebSocketClientSession(
            client_session=client_session,
            client_session_owner=False,
            headers=setup.headers,
            force_close=True,
        ) as alone,
        WebSocketClientSession(
            client_session=client_session, client_session_owner=False, headers=setup.headers
        ) as pool,
    ):
        first = await make(calls[0], client_tls, recorder, alone, pool)
        client_session.headers.update(setup.new_client_headers or {})
        client_session.cookie_jar.update_cookies(setup.new_cookies, URL("http://example.org/"))
        second = await make(calls[1], client_tls, recorder, alone, pool)
        if first is None or second is None:
            return
        same = first.heads == second.heads and our_side_of(calls[0]) == our_side_of(calls[1])
        if not same or not may_hide_what_is_the_same(calls, setup):
            assert second.reused == same, (first, second)
        assert (first.key == second.key) == second.reused


@settings(SETTINGS, max_examples=50)
@given(calls=pairs(), keys=st.sampled_from([("k", "k"), ("k", "l"), ("k", None)]))
async def test_a_reuse_key_replaces_headers_and_nothing_else(
    recorder: Recorder,
    client_tls: ssl.SSLContext,
    calls: tuple[Call, Call],
    keys: tuple[str, str | None],
) -> None:
    async with (
        client_session_for(NO_SETUP, recorder) as client_session,
        WebSocketClientSession(client_session=client_session, client_session_owner=False) as pool,
    ):
        heads = []
        for call, key in zip(calls, keys, strict=True):
            headers = call["headers"]
            bare = {**call, "headers": Spelling(ABSENT)}
            options = options_of(call, client_tls)
            try:
                async with client_session.ws_connect(url_of(call), **options_of(bare, client_tls)):
                    heads.append([canonical(head) for head in recorder.taken()])
            except ValueError:
                # Credentials twice.
                with pytest.raises(ValueError, match=r"credentials"):
                    pool.ws_connect(url_of(call), reuse_key=key, **options)
                return
            if "Authorization" in str(headers):
                options.pop("headers")
            async with pool.ws_connect(url_of(call), reuse_key=key, **options) as ws:
                recorder.taken()
                reused = ws.reused
        same = heads[0] == heads[1] and our_side_of(calls[0]) == our_side_of(calls[1])
        assert reused == (same and keys[0] == keys[1])


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_reuse_key_does_not_stand_for_what_a_proxy_gets_to_see(
    recorder: Recorder, client_tls: ssl.SSLContext, scheme: str
) -> None:
    calls: list[dict[str, Any]] = [
        {"proxy": PROXY},
        {"proxy": PROXY, "proxy_headers": {"Authorization": "Bearer a"}},
        {"proxy": PROXY, "proxy_headers": {"Authorization": "Bearer b"}},
        {"proxy": PROXY, "proxy_auth": basic("u", "p")},
        {"proxy": "http://v:q@proxy.example:3128"},
    ]
    async with (
        client_session_for(NO_SETUP, recorder) as client_session,
        WebSocketClientSession(client_session=client_session, client_session_owner=False) as pool,
    ):
        for expected in (False, True):
            for call in calls:
                async with pool.ws_connect(
                    f"{scheme}://example.org/", reuse_key="k", ssl=client_tls, **call
                ) as ws:
                    assert ws.reused is expected


@pytest.mark.skipif(AIOHTTP < (3, 12), reason="takes nothing absolute with a base_url")
@pytest.mark.parametrize("at_base", ["", "u:p@"])
@pytest.mark.parametrize(
    "userinfo", ["", "u:p@", "u@", "u:@", ":p@", ":@", "@", "%75:p%40@", ":%70@", "v:q@"]
)
async def test_credentials_with_a_base_url_are_sent_as_by_aiohttp(
    recorder: Recorder, userinfo: str, at_base: str
) -> None:
    setup = NO_SETUP._replace(base_url=f"http://{at_base}example.org/base/")
    async with (
        client_session_for(setup, recorder) as client_session,
        WebSocketClientSession(client_session=client_session, client_session_owner=False) as pool,
    ):
        for url in (f"http://{userinfo}example.org/a?b=c", f"ws://{userinfo}example.org/a", "a"):
            async with client_session.ws_connect(url):
                expected = [canonical(head) for head in recorder.taken()]
            async with pool.ws_connect(url):
                assert [canonical(head) for head in recorder.taken()] == expected


async def test_over_the_own_client_session(recorder: Recorder) -> None:
    """The same, with nothing between the pool and the sockets."""
    port = recorder.ports["plain"]
    async with WebSocketClientSession(headers={"X": "1"}) as pool:
        calls: list[tuple[str, dict[str, Any], bool]] = [
            (f"ws://127.0.0.1:{port}/a", {}, False),
            (f"HTTP://127.0.0.1:{port}/%61#f", {"headers": {"x": "1"}}, True),
            (f"ws://127.0.0.1:{port}/A", {}, False),
            (f"ws://u:p@127.0.0.1:{port}/a", {}, False),
            (f"ws://127.0.0.1:{port}/a", {"headers": {"authorization": "Basic dTpw"}}, True),
            (f"ws://127.0.0.1:{port}/a", {"headers": {"X": "2"}}, False),
        ]
        sent = []
        for url, options, shared in calls:
            async with pool.ws_connect(url, **options) as ws:
                assert ws.reused is shared, url
            sent += [canonical(head) for head in recorder.taken()]
        assert [sent.count(head) for head in sent] == [1, 1, 1, 1]
