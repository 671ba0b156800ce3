"""A warning where nothing is ever reused: it tells what differs, by name, and no value."""

import asyncio
import gc
import logging
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from aiowebsocketclient import WebSocketClientSession, reuse
from aiowebsocketclient.reuse import _of_cookies

from .conftest import SessionFactory, until
from .servers import Server, serving

SECRET = "s3cret"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """Return what returns the records of the warning."""
    caplog.set_level(logging.DEBUG, "aiowebsocketclient")

    def records() -> list[Any]:
        assert SECRET not in caplog.text
        return [r for r in caplog.records if getattr(r, "event", "") == "nothing_reused"]

    return records


async def call(session: WebSocketClientSession, url: str | URL, **options: Any) -> None:
    async with session.ws_connect(url, **options) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


def hook() -> Any:
    async def check(ws: Any) -> None:
        pass

    return check


class Request:
    async def hook(self, ws: Any) -> None:
        pass


# The options of a call, by its number, and what differs between them.
DIFFERENT: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "a header": (lambda n: {"headers": {"X-Request-Id": n}}, "headers: X-Request-Id"),
    "as it was spelt": (lambda n: {"headers": {"traceparent": n}}, "headers: traceparent"),
    "two headers": (
        lambda n: {"headers": {"X-A": n, "Same": SECRET, "X-B": n}},
        "headers: X-A, X-B",
    ),
    "credentials": (lambda n: {"user": n}, "headers: Authorization"),
    "an origin": (lambda n: {"origin": f"http://{n}"}, "headers: Origin"),
    "a header that few have": (lambda n: {"headers": {f"X-{n}": "1"}}, "headers"),
    "a query": (lambda n: {"params": {"id": n, "same": SECRET}}, "query: id"),
    "a query without a name": (lambda n: {"path": f"/?{n}"}, "query"),
    "a query of a name that few have": (lambda n: {"params": {n: "1"}}, "query"),
    "a path": (lambda n: {"path": f"/calls/{n}?a={SECRET}"}, "path"),
    "a path and a header": (
        lambda n: {"path": f"/{n}", "headers": {"X-Id": n}},
        "path; headers: X-Id",
    ),
    "a reuse_key": (lambda n: {"reuse_key": n, "headers": {"X-Id": n}}, "reuse_key"),
    "an object as a reuse_key": (lambda n: {"reuse_key": Request()}, "reuse_key"),
    "a context": (lambda n: {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, "ssl"),
    "hooks": (lambda n: {"check": hook(), "reset": Request().hook}, "hooks: check, reset"),
    "subprotocols": (lambda n: {"protocols": [n]}, "protocols"),
    "a timeout": (
        lambda n: {"timeout": aiohttp.ClientWSTimeout(ws_close=100.0 + int(n[-4:], 16))},
        "timeout",
    ),
}


@pytest.mark.parametrize(("options_of", "differs"), DIFFERENT.values(), ids=DIFFERENT)
async def test_what_differs_is_told_once(
    server: Server,
    make_session: SessionFactory,
    told: Any,
    options_of: Callable[[str], dict[str, Any]],
    differs: str,
) -> None:
    # Where each gives way to the next, an object of the one may have the address of another's.
    session = make_session(limit=1 if differs in ("ssl", "hooks: check, reset") else None)
    for number in range(24):
        options = options_of(f"{SECRET}-{number:04x}")
        url = URL(server.url(options.pop("path", "/"))).with_user(options.pop("user", None))
        await call(session, url, **options)
        if number < 20:
            assert not told()
    (record,) = told()
    assert record.levelno == logging.WARNING
    assert record.endpoint == f"127.0.0.1:{server.port}"
    assert record.connections == 20
    assert record.differs == differs
    assert differs in record.getMessage()
    assert "reuse_key" in record.getMessage()


async def test_cookies(server: Server, make_session: SessionFactory, told: Any) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    for number in range(21):
        jar.update_cookies({"session": f"{SECRET}{number}", "same": SECRET})
        await call(session, server.url())
    assert told()[0].differs == "cookies: session"


async def test_each_endpoint_is_told_of(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    async with serving(Server()) as other:
        session = make_session()
        for number in range(25):
            for each in (server, other):
                await call(session, each.url(), headers={"X-Request-Id": str(number)})
        ports = [f"127.0.0.1:{each.port}" for each in (server, other)]
        assert [record.endpoint for record in told()] == ports


async def test_what_is_reused_does_not_count(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    for number in range(25):
        for _ in range(2):
            await call(session, server.url(), headers={"X-User": str(number)})
    assert not told()


async def test_beside_what_is_reused(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    for number in range(25):
        await call(session, server.url("/same"))
        await call(session, server.url("/new"), headers={"X-Request-Id": str(number)})
    assert told()[0].differs == "headers: X-Request-Id"


async def test_handshakes_of_many_connections(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    """A crowd that has gone, of two handshakes: neither is new for each call."""
    session = make_session()
    for _ in range(2):
        held = await asyncio.gather(
            *[session.ws_connect(server.url(f"/{number % 2}")) for number in range(25)]
        )
        for ws in held:
            await ws.release()
        await session.drain()
    assert not told()


async def test_those_that_were_reused_before_a_restart(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    urls = [server.url(f"/user/{number}") for number in range(25)]
    for url in urls:
        await call(session, url)
        await call(session, url)
    await session.drain()
    for url in urls:
        await call(session, url)
    assert session.stats().connects == 50
    assert not told()


async def test_what_is_opened_ahead_does_not_count(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    for number in range(30):
        await session.prewarm(server.url(f"/{number}"), 1)
    assert not told()


@pytest.mark.parametrize("how", ["in use", "force_close", "failed", "detached"])
async def test_what_has_not_gone_idle_does_not_count(
    server: Server, make_session: SessionFactory, told: Any, how: str
) -> None:
    session = make_session(force_close=how == "force_close")
    held = []
    for number in range(30):
        ws = await session.ws_connect(server.url(f"/{number}"))
        if how == "force_close":
            await ws.release()
        elif how == "failed":
            await ws.close()
        elif how == "detached":
            ws.detach()
            held.append(ws)
        else:
            held.append(ws)
    assert not told()
    for ws in held:
        await ws.close()


@pytest.mark.parametrize("how", ["context", "hook", "method", "reuse_key"])
async def test_it_keeps_nothing_alive(
    server: Server, make_session: SessionFactory, how: str
) -> None:
    session = make_session()
    references = []
    for _ in range(15):
        brought: Any = hook() if how == "hook" else Request()
        if how == "context":
            brought = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            options = {"ssl": brought}
        elif how == "reuse_key":
            options = {"reuse_key": brought}
        else:
            options = {"check": brought.hook if how == "method" else brought}
        references.append(weakref.ref(brought))
        await call(session, server.url(), **options)
    del brought, options
    await session.drain()

    def nothing_is_left() -> bool:
        gc.collect()
        return not any(reference() for reference in references)

    await until(nothing_is_left, pause=0.01)


async def test_what_is_known_of_endpoints_is_bounded(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.setattr(reuse, "_MAX_ENDPOINTS", 1)
    monkeypatch.setattr(reuse, "_MAX_REUSED", 3)
    session = make_session()
    watch = session._lifecycle.reuse_watch
    assert watch is not None
    async with serving(Server()) as other:
        for number in range(5):
            for _ in range(2):
                await call(session, server.url(f"/{number}"))
        await session.drain()
        # So much is reused there that nothing more is told.
        for number in range(30):
            await call(session, server.url(f"/new/{number}"))
        assert not told()
        await call(session, other.url())
        assert len(watch._endpoints) == 1
    for number in range(30):
        await call(session, server.url(f"/new/{number}?again"))
    assert len(told()) == 1


async def test_who_is_told_may_drain_and_close(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session()
    closing = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "event", "") == "nothing_reused":
                session.drain()
                closing.append(asyncio.ensure_future(session.close()))

    handler = Handler()
    logging.getLogger("aiowebsocketclient").addHandler(handler)
    try:
        for number in range(21):
            await call(session, server.url(f"/{number}"))
    except (aiohttp.ClientError, aiohttp.WSMessageTypeError):
        # The session is closed under the last one.
        pass
    finally:
        logging.getLogger("aiowebsocketclient").removeHandler(handler)
    (closed,) = closing
    await closed
    assert session.stats().idle == 0


def test_cookies_of_where_a_redirect_leads_are_named_not_the_place() -> None:
    cookies = (("a", "1"), ("http://host/secret", (("a", "2"), ("b", "3"))))
    assert dict(_of_cookies(cookies)) == {("cookies", "a"): ("1", "2"), ("cookies", "b"): ("3",)}
