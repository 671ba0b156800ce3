"""What a call brought is not kept for long: what is remembered of calls is bounded."""

import asyncio
import gc
import ssl
import sys
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from aiowebsocketclient import WebSocketClientSession, check_ping, checks, targets

from .conftest import SessionFactory, until
from .servers import Server

NOWHERE = "ws://127.0.0.1:1/"


class Request:
    """Stands for what the caller of a call works on."""

    async def hook(self, ws: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


def closure() -> tuple[Any, dict[str, Any]]:
    request = Request()

    async def hook(ws: Any) -> None:
        assert request

    return request, {"configure": hook}


def default() -> tuple[Any, dict[str, Any]]:
    request = Request()

    async def hook(ws: Any, request: Request = request) -> None:
        pass

    return request, {"check": hook}


def keyword() -> tuple[Any, dict[str, Any]]:
    request = Request()

    async def hook(ws: Any, *, request: Request = request) -> None:
        pass

    return request, {"check": hook}


def attribute() -> tuple[Any, dict[str, Any]]:
    request = Request()

    async def hook(ws: Any) -> None:
        pass

    hook.request = request  # type: ignore[attr-defined]
    return request, {"reset": hook}


def method() -> tuple[Any, dict[str, Any]]:
    request = Request()
    return request, {"reset": request.hook}


def reuse_key() -> tuple[Any, dict[str, Any]]:
    request = Request()
    return request, {"reuse_key": request}


def part_of_reuse_key() -> tuple[Any, dict[str, Any]]:
    request = Request()
    return request, {"reuse_key": ("user", (1, frozenset({request})))}


def context() -> tuple[Any, dict[str, Any]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context, {"ssl": context}


BROUGHT = [closure, default, keyword, attribute, method, reuse_key, part_of_reuse_key, context]


def alive(references: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("bring", BROUGHT, ids=lambda function: function.__name__)
async def test_few_objects_from_calls_are_kept_and_none_after_a_drain(
    server: Server, make_session: SessionFactory, bring: Callable[[], tuple[Any, dict[str, Any]]]
) -> None:
    session = make_session(limit=1)
    references = []
    for _ in range(30):
        brought, options = bring()
        references.append(weakref.ref(brought))
        async with session.ws_connect(server.url(), **options) as ws:
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
    del brought, options, ws
    await until(lambda: server.open == 1)
    assert alive(references) <= targets._MAX_OBJECTS + 1
    await session.drain()
    await until(lambda: server.open == 0)
    # What the closing tasks had is gone a turn later.
    await asyncio.sleep(0.01)
    assert alive(references) == 0
    assert not session._targets._by_object
    assert session._targets._size == 0


async def test_what_calls_that_are_redirected_brought(
    server: Server, make_session: SessionFactory
) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"a": "b"})
    session = make_session(limit=1, client_session=aiohttp.ClientSession(cookie_jar=jar))
    references = []
    for _ in range(40):
        brought, options = closure()
        references.append(weakref.ref(brought))
        async with session.ws_connect(server.url("/moved"), **options):
            pass
    del brought, options
    await until(lambda: server.open == 1)
    assert alive(references) <= 30
    await session.drain()
    await until(lambda: alive(references) == 0, pause=0.01)


async def test_contexts_of_tls_connections(
    tls_server: Server, make_session: SessionFactory, authority: Any
) -> None:
    session = make_session(limit=1)
    references = []
    for _ in range(15):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        references.append(weakref.ref(context))
        async with session.ws_connect(tls_server.url(), ssl=context) as ws:
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
    del context, ws
    # Those of sockets that close are the loop's for some turns.
    await until(lambda: alive(references) <= targets._MAX_OBJECTS + 1, pause=0.01)
    await session.drain()
    await until(lambda: alive(references) == 0, pause=0.01)


def remembered(session: WebSocketClientSession) -> int:
    return len(session._targets)


def call(session: WebSocketClientSession, url: Any = NOWHERE, **options: Any) -> None:
    session.ws_connect(url, **options).close()


@pytest.mark.parametrize(
    "options",
    [
        lambda text: {"headers": {"X-Context": text}},
        lambda text: {"params": {"context": text}},
        lambda text: {"protocols": (text,)},
        lambda text: {"origin": text},
        lambda text: {"reuse_key": text},
        lambda text: {"reuse_key": (1, (text.encode(), None))},
        lambda text: {"reuse_key": int.from_bytes(text.encode(), "big")},
        lambda text: {"url": f"{NOWHERE}?{text}"},
        lambda text: {"url": URL(f"{NOWHERE}{text}")},
    ],
)
async def test_bytes_are_bounded(
    make_session: SessionFactory, options: Callable[[str], dict[str, Any]]
) -> None:
    session = make_session()
    most = 0
    for number in range(400):
        call(session, **options(f"{number:x}".rjust(20_000, "a")))
        most = max(most, remembered(session))
    assert 10 < most <= targets._MAX_SIZE // 40_000
    assert session._targets._size <= targets._MAX_SIZE
    # One that is larger than all may be is not remembered, and no other is forgotten for it.
    before = remembered(session)
    call(session, **options("b" * 100_000))
    assert remembered(session) == before


async def test_what_is_shared_by_many_calls_counts_once(make_session: SessionFactory) -> None:
    session = make_session()
    shared = ssl.create_default_context()
    check = check_ping(2.0)
    for number in range(500):
        call(session, f"wss://127.0.0.1:1/{number}", ssl=shared, check=check)
    assert remembered(session) == 500
    # Calls with one of their own push out each other; and what they share with them stays.
    for _ in range(20):
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        call(session, "wss://127.0.0.1:1/", ssl=own, check=check)
    assert len(session._targets._by_object) == targets._MAX_OBJECTS
    assert check in session._targets._by_object
    assert remembered(session) == targets._MAX_OBJECTS - 1


async def test_functions_that_hold_nothing_are_not_counted(make_session: SessionFactory) -> None:
    session = make_session()
    for _ in range(20):

        async def hook(ws: Any) -> None:
            pass

        call(session, configure=hook, timeout=aiohttp.ClientWSTimeout(ws_close=1.0), heartbeat=3)
    assert remembered(session) == 20


async def test_more_objects_in_one_call_than_are_kept(make_session: SessionFactory) -> None:
    session = make_session()
    call(session, reuse_key=tuple(Request() for _ in range(targets._MAX_OBJECTS + 1)))
    assert remembered(session) == 0
    call(session, reuse_key=tuple(Request() for _ in range(targets._MAX_OBJECTS)))
    assert remembered(session) == 1
    call(session, reuse_key=Request())
    assert remembered(session) == 1


async def test_forgotten_with_a_drain_and_at_the_end(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    call(session, reuse_key=Request())
    await session.drain()
    assert remembered(session) == 0
    # The first use forgets what was remembered before.
    async with session.ws_connect(server.url()):
        call(session)
        assert remembered(session) == 1
        # Also where it is told which connections; what is in use goes on.
        session.drain(server.url("/another"))
        assert remembered(session) == 0
    call(session)
    await session.close()
    call(session)
    assert remembered(session) == 0
    never_used = make_session()
    call(never_used)
    await never_used.close()
    assert remembered(never_used) == 0


def test_check_ping_keeps_no_hook_that_nobody_has() -> None:
    gc.collect()
    before = len(checks._hooks)
    hook = check_ping(123.25)
    assert check_ping(123.25) is hook
    for number in range(100):
        check_ping(200.0 + number)
    assert len(checks._hooks) <= before + 1
    del hook
    assert len(checks._hooks) <= before
    assert sys.getrefcount(check_ping(None)) <= 3


# -- calls with something new each time ----------------------------------------------------------


async def sent_by(session: WebSocketClientSession, server: Server, **options: Any) -> Any:
    """Return the headers of the handshake that a call makes."""
    # The first use of a session forgets what was resolved before.
    assert session.client_session
    async with session.ws_connect(server.url(), **options):
        return server.requests[-1].headers


async def test_only_values_of_headers_are_new(
    make_session: SessionFactory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(headers={"X-Session": "s"}, force_close=True)
    resolved: list[Any] = []
    resolve = session._resolve
    monkeypatch.setattr(
        session, "_resolve", lambda *args: resolved.append(args) or resolve(*args), raising=True
    )
    for number in range(5):
        headers = {"X-Trace": str(number), "Authorization": f"Bearer {number}"}
        sent = await sent_by(session, server, headers=headers, reuse_key="me")
        assert sent["X-Trace"] == str(number)
        assert sent["Authorization"] == f"Bearer {number}"
        assert sent["X-Session"] == "s"
    assert len(resolved) == 1
    # Another name, another key, another option: each is resolved.
    await sent_by(session, server, headers={"X-Other": "1"}, reuse_key="me")
    await sent_by(session, server, headers=headers | {"X-Trace": "n"}, reuse_key="you")
    await sent_by(session, server, headers=headers | {"X-Trace": "m"}, reuse_key="me", heartbeat=60)
    # Without a reuse_key, values are part of what is compared.
    await sent_by(session, server, headers=headers | {"X-Trace": "o"})
    assert len(resolved) == 5


async def test_they_share_connections(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    for number in range(20):
        await sent_by(session, server, headers={"X": str(number)}, reuse_key=1)
    assert session.stats().connects == 1
    assert len(session._targets) == 1


@pytest.mark.parametrize("value", ["a\nb", "a\x00", 5, None, b"x", "\ud800"])
async def test_a_bad_value_is_refused_at_the_call(
    make_session: SessionFactory, server: Server, value: Any
) -> None:
    session = make_session()
    await sent_by(session, server, headers={"X": "a"}, reuse_key=1)
    assert session._targets._patterns
    with pytest.raises((TypeError, ValueError), match="headers"):
        session.ws_connect(server.url(), headers={"X": value}, reuse_key=1)


async def test_the_callers_dict_may_change_meanwhile(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(force_close=True)
    headers = {"X": "a"}
    await sent_by(session, server, headers=headers, reuse_key=1)
    headers["X"] = "b"
    acquisition = session.ws_connect(server.url(), headers=headers, reuse_key=1)
    headers["X"] = "c"
    async with acquisition:
        assert server.requests[-1].headers["X"] == "b"


async def test_two_spellings_of_a_name(make_session: SessionFactory, server: Server) -> None:
    """aiohttp sends the second; so does a later call."""
    session = make_session(force_close=True)
    for value in ("1", "2"):
        headers = {"X-A": "first", "x-a": value}
        sent = await sent_by(session, server, headers=headers, reuse_key=1)
        expected = await sent_by(make_session(force_close=True), server, headers=headers)
        assert sent.getall("X-A") == expected.getall("X-A")


async def test_headers_of_the_client_session_that_come_later(
    make_session: SessionFactory, server: Server
) -> None:
    async with aiohttp.ClientSession() as client_session:
        session = make_session(
            client_session=client_session, client_session_owner=False, force_close=True
        )
        await sent_by(session, server, headers={"X": "1"}, reuse_key=1)
        client_session.headers["X-Default"] = "yes"
        for number in range(2):
            sent = await sent_by(session, server, headers={"X": str(number)}, reuse_key=1)
            assert sent["X-Default"] == "yes"
        del client_session.headers["X-Default"]
        sent = await sent_by(session, server, headers={"X": "3"}, reuse_key=1)
        assert "X-Default" not in sent


async def test_cookies_are_those_of_now(make_session: SessionFactory, server: Server) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as client_session:
        session = make_session(
            client_session=client_session, client_session_owner=False, force_close=True
        )
        await sent_by(session, server, headers={"X": "1"}, reuse_key=1)
        jar.update_cookies({"c": "2"}, URL(server.url()))
        sent = await sent_by(session, server, headers={"X": "2"}, reuse_key=1)
        assert sent["Cookie"] == "c=2"
        assert sent["X"] == "2"


async def test_patterns_are_bounded(make_session: SessionFactory, server: Server) -> None:
    session = make_session()
    for number in range(500):
        session.ws_connect(server.url(), headers={"X": "1"}, reuse_key=number).close()
    assert len(session._targets._patterns) <= 64
    session.drain()
    assert not session._targets._patterns
