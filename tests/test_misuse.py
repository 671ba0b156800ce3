"""What is wrong is refused where it was done, with one error that names it; nothing is half-done.

Wrong arguments of the constructor are in ``test_session.py``, with its other arguments.
"""

import asyncio
import contextlib
import copy
import gc
import inspect
import math
import os
import pickle
import re
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from yarl import URL

import aiowebsocketclient
from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    PooledClientSession,
    PoolTimeoutError,
    WebSocketClientSession,
    arguments,
)

from .conftest import SessionFactory, told, until
from .servers import Server, serving

UNUSED = "ws://127.0.0.1:1/"
CONTROL = ["\r\n", "\n", "\r", "\0", "\x7f"]


def basic(*arguments: str) -> aiohttp.BasicAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp 3.14
        return aiohttp.BasicAuth(*arguments)


async def assert_nothing_happened(session: WebSocketClientSession, url: str) -> None:
    """The good call after a bad one finds an untouched pool."""
    stats = session.stats()
    assert (stats.connecting, stats.acquired, stats.closing, stats.waiting) == (0, 0, 0, 0)
    async with session.ws_connect(url) as ws:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
    stats = session.stats()
    assert (stats.connecting, stats.acquired, stats.closing, stats.waiting) == (0, 0, 0, 0)


# -- the client session ------------------------------------------------------------------------

CLOSED = "client_session .* was closed"


async def test_a_client_session_that_somebody_else_closes(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session)
    held = await session.ws_connect(server.url())
    await (await session.ws_connect(server.url())).release()
    await client_session.close()
    for _ in range(2):
        # What lay idle is closed, too.
        with pytest.raises(PoolClosedError, match=CLOSED):
            await session.ws_connect(server.url())
        with pytest.raises(PoolClosedError, match=CLOSED):
            async with session.ws_connect(server.url(), heartbeat=30.0):
                pass
    with pytest.raises(PoolClosedError, match=CLOSED):
        await session.prewarm(server.url(), 1)
    with pytest.raises(PoolClosedError, match=CLOSED):
        session.set_min_idle(server.url(), 1)
    await held.release()
    await session.close()
    assert session.closed


async def test_a_client_session_that_is_closed_before_the_first_use(server: Server) -> None:
    client_session = aiohttp.ClientSession()
    session = WebSocketClientSession(client_session=client_session)
    call = session.ws_connect(server.url())
    await client_session.close()
    with pytest.raises(PoolClosedError, match=CLOSED):
        await call
    with pytest.raises(PoolClosedError, match=CLOSED):
        async with session:
            pass
    await session.close()


@pytest.mark.parametrize("limits", [{"limit": 1}, {"max_connecting": 1}], ids=told)
async def test_a_client_session_that_is_closed_under_those_who_wait(
    server: Server, make_session: SessionFactory, limits: dict[str, Any]
) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session, **limits)
    server.gate.clear()
    calls = [asyncio.ensure_future(session.ws_connect(server.url())) for _ in range(3)]
    await until(lambda: server.arrived)
    await client_session.close()
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, PoolClosedError), result
        assert "client_session" in str(result)
    server.gate.set()
    assert session.stats().connecting == session.stats().waiting == 0


async def test_a_client_session_that_is_closed_while_callers_wait_for_what_is_in_use(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session, limit=1)
    held = await session.ws_connect(server.url())
    call = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting)
    await client_session.close()
    await held.release()
    with pytest.raises(PoolClosedError, match=CLOSED):
        await call


async def test_a_client_session_whose_connector_was_taken(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session)
    connector = client_session.connector
    client_session.detach()
    with pytest.raises(PoolClosedError, match=CLOSED):
        await session.ws_connect(server.url())
    assert connector is not None
    await connector.close()


# -- the words of aiohttp ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"ssl": "no"},
        {"ssl": 3},
        {"ssl_context": 3},
        {"ssl_context": ssl.create_default_context(), "verify_ssl": False},
        {"fingerprint": bytes(3)},
        {"fingerprint": bytes(16)},
        {"auth": "u:p"},
        {"method": "GE T"},
        {"compress": 8},
        {"auth": basic("u", "p"), "headers": {"Authorization": "x"}},
        {"auth": basic("u", "p"), "userinfo": "u:p@"},
    ],
    ids=told,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_words_are_aiohttps_where_the_argument_is(options: dict[str, Any]) -> None:
    options = dict(options)
    url = f"ws://{options.pop('userinfo', '')}127.0.0.1:1/"
    async with aiohttp.ClientSession() as client_session:
        with pytest.raises((TypeError, ValueError)) as theirs:
            await client_session.ws_connect(url, **options)
    with pytest.raises(theirs.type) as ours:
        WebSocketClientSession().ws_connect(url, **options)
    words = re.split(r", got|[:'.]", str(theirs.value))[0].strip()
    assert str(ours.value).startswith(words)
    assert "3 instead" not in str(ours.value)


# -- arguments ---------------------------------------------------------------------------------

NO_URL: list[Any] = [None, 3, b"ws://host/", Path("/ws"), True, object(), ["ws://host/"], 1.5]
BAD_URL = [
    *("", "/", "host", "//host/", "ws:", "ws:host", "ws:/path", "ws://", "ws:///path", "://host/"),
    *("ftp://host/", "file:///etc/passwd", "javascript:alert(1)", "unix:///tmp/socket", "mailto:a"),
    *("ws+unix://host/", "ws://host:port/", "ws://host:99999/", "ws://host:-1/", "ws://[::1/"),
    *("ws://a b/", "ws://host\\path/", "ws://us:er@/", "ws://\u20ac:p@host/"),
    URL("ws://host/a b", encoded=True),
    *(URL.build(scheme="ws", host="host", path=f"/a{bad}b", encoded=True) for bad in CONTROL),
    URL.build(scheme="ws", host="host", query_string="a\r\nX: 1", encoded=True),
    URL("/path"),
]


@pytest.mark.parametrize("url", NO_URL, ids=told)
def test_what_is_no_url(url: Any) -> None:
    with pytest.raises(TypeError, match=r"^url must be a str or a yarl.URL"):
        WebSocketClientSession().ws_connect(url)


@pytest.mark.parametrize("url", BAD_URL, ids=told)
def test_bad_urls(url: Any) -> None:
    with pytest.raises(aiohttp.ClientError, match=r"\burl\b"):
        WebSocketClientSession().ws_connect(url)


class Borrower:
    """Has a method of another class, as a mock or an adapter may."""

    ws_connect: Any = WebSocketClientSession.ws_connect


@pytest.mark.parametrize(
    "call",
    [
        Borrower().ws_connect,
        partial(Borrower.ws_connect, object()),
        partial(Borrower.ws_connect, 3),
    ],
    ids=["bound", "object", "int"],
)
def test_on_what_is_no_session(call: Callable[..., Any]) -> None:
    for _ in range(3):
        with pytest.raises((TypeError, AttributeError)):
            call("ws://host/")


def test_a_session_whose_constructor_has_not_run() -> None:
    class Forgetful(WebSocketClientSession):
        def __init__(self) -> None:
            pass

    for url in (UNUSED, URL(UNUSED)):
        for options in ({}, {"acquire_timeout": 1.0}, {"headers": {"a": "b"}}):
            with pytest.raises(RuntimeError, match=r"must call super\(\).__init__\(\)"):
                Forgetful().ws_connect(url, **options)
    assert Forgetful().closed


NUMBERS: list[Any] = ["3", b"3", [], object(), True, math.nan, math.inf, -1, -0.5, 10**400]
BAD_OPTIONS: list[tuple[str, Any]] = [
    *(("method", f"GET{bad}X: 1") for bad in CONTROL),
    *(("method", value) for value in ("", "GET /", "\u00c9", None, 3, b"GET")),
    *(("origin", f"http://a{bad}X: 1") for bad in CONTROL),
    *(("origin", value) for value in (3, b"http://a", URL("http://a"), "\ud800")),
    *(("protocols", [f"a{bad}X: 1"]) for bad in CONTROL),
    *(("protocols", value) for value in ("chat", b"chat", 3, None, [3], [b"chat"], [None])),
    *((name, {"X": f"1{bad}Y: 2"}) for name in ("headers", "proxy_headers") for bad in CONTROL),
    *((name, {f"X{bad}Y": "1"}) for name in ("headers", "proxy_headers") for bad in CONTROL),
    *(("headers", {name: "1"}) for name in ("", " ", "X Y", "X:", ":path", "\u00dc", "(X)")),
    *(("headers", {"X": value}) for value in (1, None, b"1", 1.5, ["1"], "\udc80")),
    *(
        ("headers", value)
        for value in (3, "X: 1", b"X", [1], [("X",)], [("X", "1", "2")], {1: "1"})
    ),
    *((name, value) for name in ("auth", "proxy_auth") for value in ("u:p", ("u", "p"), 3)),
    *(("proxy", value) for value in (3, b"http://proxy", Path("/proxy"), True)),
    *(("proxy", value) for value in ("", "proxy", "socks5://proxy", "http://", "http://a:b:c")),
    *(("compress", value) for value in (-1, 1, 8, 16, 2**70, 1.5, math.nan, "15", None, True, [])),
    *(("max_msg_size", value) for value in (-1, 2**70, 1.5, math.nan, "1", None, True, [])),
    *(("heartbeat", value) for value in NUMBERS),
    *(("receive_timeout", value) for value in NUMBERS),
    *(("timeout", value) for value in NUMBERS),
    *(("timeout", aiohttp.ClientWSTimeout(ws_receive=value)) for value in (-1, math.nan, "1")),
    *(("timeout", aiohttp.ClientWSTimeout(ws_close=value)) for value in (-1, math.nan, "1")),
    *(("acquire_timeout", value) for value in NUMBERS),
    *(("ssl", value) for value in (3, "no", b"", object())),
    *(("ssl_context", value) for value in (3, True, aiohttp.Fingerprint(bytes(32)))),
    *(("fingerprint", value) for value in (3, "00", bytes(16), bytes(3))),
    *(("server_hostname", value) for value in (3, b"host", "a\0b", "a\r\n")),
    *(("params", value) for value in (3, object(), {"a": None}, {"a": object()}, [("a",)])),
    ("reuse_key", []),
    ("reuse_key", ({},)),
    ("heart_beat", 1),
]


@pytest.mark.parametrize(
    ("name", "value"), BAD_OPTIONS, ids=[f"{name}-{told(value)}" for name, value in BAD_OPTIONS]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bad_options(name: str, value: Any) -> None:
    session = WebSocketClientSession()
    with pytest.raises((TypeError, ValueError, aiohttp.ClientError), match=rf"\b{name}\b"):
        session.ws_connect(UNUSED, **{name: value})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_prewarm_refuses_the_same(make_session: SessionFactory) -> None:
    session = make_session()
    for name, value in BAD_OPTIONS:
        if name == "acquire_timeout":
            continue
        with pytest.raises((TypeError, ValueError, aiohttp.ClientError), match=rf"\b{name}\b"):
            await session.prewarm(UNUSED, 1, **{name: value})
    assert not session.stats_by_endpoint()


@pytest.mark.parametrize("given", [{"verify_ssl": False}, {"fingerprint": bytes(32)}], ids=str)
async def test_options_that_exclude_each_other(
    make_session: SessionFactory, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="ssl_context"):
        make_session().ws_connect(UNUSED, ssl_context=ssl.create_default_context(), **given)


CONTEXT = ssl.create_default_context()
DEPRECATED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"timeout": 5},
        r"number as timeout=: pass timeout=aiohttp.ClientWSTimeout\(ws_receive=None, ws_close=5\)",
        {"timeout": aiohttp.ClientWSTimeout(ws_close=5)},
    ),
    ({"timeout": None}, "number as timeout=", {"timeout": aiohttp.ClientWSTimeout(ws_close=None)}),
    (
        {"receive_timeout": 5},
        r"receive_timeout=: pass timeout=aiohttp.ClientWSTimeout\(ws_receive=5, ws_close=10.0\)",
        {"timeout": aiohttp.ClientWSTimeout(ws_receive=5, ws_close=10.0)},
    ),
    ({"verify_ssl": False}, "verify_ssl=: pass ssl=False", {"ssl": False}),
    ({"ssl_context": CONTEXT}, "ssl_context=: pass ssl=context", {"ssl": CONTEXT}),
    (
        {"fingerprint": bytes(32)},
        r"fingerprint=: pass ssl=aiohttp.Fingerprint\(",
        {"ssl": aiohttp.Fingerprint(bytes(32))},
    ),
]


@pytest.mark.parametrize(
    ("given", "said", "instead"), DEPRECATED, ids=[str({*given}) for given, *_ in DEPRECATED]
)
async def test_the_line_with_a_deprecated_option_is_warned_of(
    server: Server,
    make_session: SessionFactory,
    given: dict[str, Any],
    said: str,
    instead: dict[str, Any],
) -> None:
    """Not a line of the package, in the task of the handshake; and aiohttp does not warn, too."""
    session = make_session()
    url = server.url()
    balanced = session.balanced([url])
    calls: list[Any] = [session, balanced, PooledClientSession(session, session_owner=False)]
    for call in calls:
        urls = () if call is balanced else (url,)
        with pytest.warns(DeprecationWarning, match=said) as caught:
            async with call.ws_connect(*urls, **given):
                pass
        assert [warning.filename for warning in caught] == [__file__]
        session._targets.clear()
    with pytest.warns(DeprecationWarning, match=said) as caught:
        await session.prewarm(url, 1, **given)
    with pytest.warns(DeprecationWarning, match=said) as caught_too:
        session.set_min_idle(url, 0, **given)
    assert [warning.filename for warning in [*caught, *caught_too]] == [__file__, __file__]
    # aiohttp makes the same of it.
    handshakes = server.handshakes
    async with session.ws_connect(url, **instead):
        assert server.handshakes == handshakes


def test_options_that_are_not_deprecated_are_not_warned_of() -> None:
    session = WebSocketClientSession()
    options: Any = dict.fromkeys(("receive_timeout", "ssl_context", "fingerprint"))
    session.ws_connect(UNUSED, timeout=aiohttp.ClientWSTimeout(), **options).close()
    session.ws_connect(UNUSED, timeout=arguments.DEFAULTS["timeout"], verify_ssl=True).close()


async def test_after_bad_calls_the_pool_is_as_before(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1, max_waiting=0)
    for name, value in BAD_OPTIONS:
        with contextlib.suppress(TypeError, ValueError, aiohttp.ClientError):
            session.ws_connect(server.url(), **{name: value}).close()
    await assert_nothing_happened(session, server.url())


@pytest.mark.parametrize("count", [-1, True, 1.5, math.nan, math.inf, "1", None, 2**70], ids=told)
async def test_bad_counts(make_session: SessionFactory, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^count"):
        await make_session().prewarm(UNUSED, count)


async def test_progress_that_cannot_be_called(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    with pytest.raises(TypeError, match="progress"):
        await session.prewarm(server.url(), 1, progress=3)  # type: ignore[arg-type]
    assert server.arrived == 0


class Index:
    """As the integers of NumPy are."""

    def __index__(self) -> int:
        return 2


async def test_whatever_is_a_whole_number_will_do(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=Index(), limit_total=Index(), max_connecting=Index())
    assert (session.limit, type(session.limit)) == (2, int)
    assert await session.prewarm(server.url(), Index()) == 2  # type: ignore[arg-type]
    async with session.ws_connect(server.url(), max_msg_size=Index()) as ws:
        assert ws._reader is not None


@pytest.mark.parametrize(
    "headers",
    [{"X": "1\r\nY: 2"}, {"X\n": "1"}, {"X": 1}, [("X", "1", "2")], "X: 1", {"X Y": "1"}],
    ids=told,
)
def test_bad_headers_of_a_session(headers: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^headers"):
        WebSocketClientSession(headers=headers)


async def test_bad_headers_of_the_client_session(
    server: Server, make_session: SessionFactory
) -> None:
    """They are aiohttp's to look at, which it does when it sends them."""
    session = make_session(limit=1)
    session.client_session.headers["X"] = "1\r\nY: 2"
    for _ in range(3):
        with pytest.raises(ValueError, match="header"):
            await session.ws_connect(server.url())
    session.client_session.headers.clear()
    assert not server.requests
    await assert_nothing_happened(session, server.url())


class Slotted(ClientWebSocketResponse):
    __slots__ = ("mine",)


class Grandchild(Slotted):
    pass


@pytest.mark.parametrize(
    "cls", [Slotted, Grandchild, aiohttp.ClientWebSocketResponse, None, "name", object()], ids=told
)
def test_bad_response_classes(cls: Any) -> None:
    with pytest.raises(TypeError, match=r"^ws_response_class"):
        WebSocketClientSession(ws_response_class=cls)


class HalfALimiter:
    async def __aenter__(self) -> None: ...


@pytest.mark.parametrize(
    "limiter", [3, threading.Lock(), asyncio.Semaphore, HalfALimiter(), lambda: None], ids=told
)
def test_bad_limiters(limiter: Any) -> None:
    with pytest.raises(TypeError, match=r"^connect_limiter"):
        WebSocketClientSession(connect_limiter=limiter)


# -- what cannot be copied ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda way: way.__name__
)
async def test_neither_sessions_nor_connections_are_copied(
    server: Server, make_session: SessionFactory, way: Callable[[Any], Any]
) -> None:
    session = make_session()
    with pytest.raises(TypeError, match="WebSocketClientSession"):
        way(session)
    async with session.ws_connect(server.url()) as ws:
        with pytest.raises(TypeError, match="ClientWebSocketResponse"):
            way(ws)
    with pytest.raises(TypeError, match="ClientWebSocketResponse"):
        way(ws)
    await assert_nothing_happened(session, server.url())


# -- the wrong time ----------------------------------------------------------------------------


async def test_awaited_twice(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    call = session.ws_connect(server.url())
    async with await call:
        with pytest.raises(RuntimeError, match="only once"):
            await call
    await assert_nothing_happened(session, server.url())


async def test_awaited_after_its_end(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    async with session.ws_connect(server.url()):
        for end in (lambda call: call.close(), lambda call: call.throw(ZeroDivisionError)):
            for begun in (False, True):
                call = session.ws_connect(server.url())
                if begun:
                    call.send(None)
                    assert session.stats().waiting == 1
                with contextlib.suppress(ZeroDivisionError):
                    end(call)
                assert session.stats().waiting == 0
                with pytest.raises(RuntimeError, match="only once"):
                    await call
                assert_it_has_ended(call)
    await assert_nothing_happened(session, server.url())


def assert_it_has_ended(call: Any) -> None:
    """Step it without what ``await`` checks: it does as a coroutine of Python's."""
    for step in (
        lambda: call.send(None),
        lambda: call.throw(ZeroDivisionError),
        lambda: call.throw(StopIteration(1)),
    ):
        with pytest.raises(RuntimeError, match="awaited"):
            step()
    call.close()


@pytest.mark.parametrize("way", ["idle", "waited", "connected", "refused", "timed out"])
async def test_stepped_after_its_end(
    server: Server, make_session: SessionFactory, way: str
) -> None:
    session = make_session(limit=1)
    if way != "connected":
        await (await session.ws_connect(server.url())).release()
    held = None if way in ("idle", "connected") else await session.ws_connect(server.url())
    timeout = {"refused": 0, "timed out": 0.001}.get(way)
    call = session.ws_connect(server.url(), acquire_timeout=timeout)
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    if way == "waited":
        assert held is not None
        await held.release()
    if held is None or way == "waited":
        held = await task
    else:
        with pytest.raises(PoolTimeoutError):
            await task
    assert_it_has_ended(call)
    with pytest.raises(RuntimeError, match="only once"):
        await call
    await held.release()
    await assert_nothing_happened(session, server.url())


async def test_a_value_before_it_began(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    call = session.ws_connect(server.url())
    with pytest.raises(TypeError, match="just-started"):
        call.send(1)
    await (await call).release()
    await assert_nothing_happened(session, server.url())


#: More often than there are places in a list of what may be used again.
OFTEN = 50


def put_in_cycle(call: Any) -> None:
    """Let nothing but the collector drop it."""
    cycle = [call]
    cycle.append(cycle)


async def test_dropped_while_it_waits(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    for timeout in (None, 600.0):
        for _ in range(OFTEN):
            call = session.ws_connect(server.url(), acquire_timeout=timeout)
            call.send(None)
            assert session.stats().waiting == 1
            del call
            gc.collect()
            assert session.stats().waiting == 0
    await held.release()
    await assert_nothing_happened(session, server.url())


async def test_dropped_with_a_connection_given_to_it(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    for is_in_cycle in (False, True):
        for _ in range(5):
            held = await session.ws_connect(server.url())
            call = session.ws_connect(server.url())
            call.send(None)
            await held.release()
            assert session.stats().acquired == 1
            if is_in_cycle:
                put_in_cycle(call)
            del call
            gc.collect()
            assert session.stats().idle == 1
    await assert_nothing_happened(session, server.url())


async def test_collected_while_it_waits(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    counts = []
    for begin in (True, False):
        for _ in range(2):
            for _ in range(OFTEN):
                call = session.ws_connect(server.url())
                if begin:
                    call.send(None)
                else:
                    call.close()
                put_in_cycle(call)
                del call
            gc.collect()
            assert session.stats().waiting == 0
            # Before CPython 3.12, it counts.
            counts.append(sys.getrefcount(None))
    assert counts[1] - counts[0] < OFTEN
    assert counts[3] - counts[2] < OFTEN
    await held.release()
    await assert_nothing_happened(session, server.url())


async def test_dropped_while_something_is_raised(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())

    def fail(call: Any) -> None:
        call.send(None)
        raise ZeroDivisionError

    for _ in range(OFTEN):
        with pytest.raises(ZeroDivisionError):
            fail(session.ws_connect(server.url()))
        gc.collect(0)
        assert session.stats().waiting == 0
    await held.release()
    await assert_nothing_happened(session, server.url())


async def test_what_fails_when_it_is_dropped_is_told(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    give_up = session._give_up

    def fail(caller: Any) -> None:
        give_up(caller)
        raise ZeroDivisionError

    session._give_up = fail

    def drop() -> None:
        call = session.ws_connect(server.url())
        call.send(None)
        # It is dropped when this is on its way.
        raise LookupError

    with contextlib.suppress(LookupError):
        drop()
    gc.collect()
    session._give_up = give_up
    assert told == [ZeroDivisionError]
    assert session.stats().waiting == 0
    await held.release()
    await assert_nothing_happened(session, server.url())


async def test_brought_back_by_a_finalizer(server: Server, make_session: SessionFactory) -> None:
    """What the collector has finalized, and left, may yet be awaited, and dropped."""
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    kept: list[Any] = []

    class Keeper:
        def __del__(self) -> None:
            kept.append(self.call)

    keeper: Any = Keeper()
    keeper.call = session.ws_connect(server.url())
    keeper.itself = keeper
    del keeper
    with warnings.catch_warnings():
        # The plain core warns where it is finalized.
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()
    call = kept.pop()
    call.send(None)
    assert session.stats().waiting == 1
    del call
    gc.collect()
    assert session.stats().waiting == 0
    await held.release()
    await assert_nothing_happened(session, server.url())


class OddFuture(asyncio.Future[None]):
    """What a loop of its own makes."""

    fails: ClassVar[bool] = False

    def __await__(self) -> Any:
        if self.fails:
            raise MemoryError
        if not self.done():
            self._asyncio_future_blocking = True
            # It takes what is thrown for its end.
            with contextlib.suppress(ZeroDivisionError):
                yield self


@pytest.mark.parametrize("of_its_own", ["class", "instance"])
def test_a_loop_with_futures_of_its_own(monkeypatch: pytest.MonkeyPatch, of_its_own: str) -> None:
    class Loop(asyncio.SelectorEventLoop):
        if of_its_own == "class":

            def create_future(self) -> Any:
                return OddFuture(loop=self)

    async def main() -> None:
        async with serving(Server()) as server, WebSocketClientSession(limit=1) as session:
            held = await session.ws_connect(server.url())
            call = session.ws_connect(server.url())
            with monkeypatch.context() as patch:
                patch.setattr(OddFuture, "fails", True)
                with pytest.raises(MemoryError):
                    call.send(None)
            assert session.stats().waiting == 0
            call = session.ws_connect(server.url())
            future = call.send(None)
            # It waits for another.
            assert call.throw(ZeroDivisionError) is not future
            assert session.stats().waiting == 1
            call.close()
            assert session.stats().waiting == 0
            task = asyncio.create_task(session.ws_connect(server.url()))
            await until(lambda: session.stats().waiting)
            await held.release()
            await (await task).release()

    loop: Any = Loop()
    if of_its_own == "instance":
        loop.create_future = lambda: OddFuture(loop=loop)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


async def test_stepped_when_what_it_waits_for_was_cancelled(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    async with session.ws_connect(server.url()):
        call = session.ws_connect(server.url())
        call.send(None).cancel()
        with pytest.raises(asyncio.CancelledError):
            call.send(None)
        assert session.stats().waiting == 0
        with pytest.raises((RuntimeError, StopIteration)):
            call.send(None)
    await assert_nothing_happened(session, server.url())


async def test_awaited_by_two(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    call = session.ws_connect(server.url())

    async def wait() -> None:
        async with await call:
            pass

    first = asyncio.create_task(wait())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="only once"):
        await wait()
    await held.release()
    await first
    await assert_nothing_happened(session, server.url())


async def test_after_close(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    early = session.ws_connect(server.url())
    await session.close()
    for call in (early, session.ws_connect(server.url()), session.prewarm(server.url(), 1)):
        with pytest.raises(PoolClosedError, match="closed"):
            await call
    assert ws.closed
    assert not await ws.close()
    await ws.release()
    await session.close()
    session.detach()
    assert session.stats().endpoints == 0


def test_without_a_running_loop() -> None:
    session = WebSocketClientSession()
    call = session.ws_connect(UNUSED)
    with pytest.raises(RuntimeError, match="running event loop"):
        call.send(None)
    with pytest.raises(RuntimeError, match="running event loop"):
        session.prewarm(UNUSED, 1).send(None)
    assert session.stats().requests == 0


def test_after_the_end_of_the_loop() -> None:
    held: list[Any] = []

    async def hold() -> None:
        async with serving(Server()) as server:
            held.append(session := WebSocketClientSession())
            held.extend([await session.ws_connect(server.url("/greet")) for _ in range(2)])
            await until(lambda: held[1]._reader._buffer and held[2]._reader._buffer)

    asyncio.run(hold())
    session, first, second = held
    before = session.stats()
    with pytest.raises(RuntimeError, match="loop of the session was closed"):
        first.release()
    with pytest.raises(RuntimeError, match="loop of the session was closed"):
        asyncio.run(second.close())
    assert session.stats() == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        held.clear()
        del session, first, second
        gc.collect()


# -- the wrong thread --------------------------------------------------------------------------


def from_a_thread(call: Callable[[], Any]) -> BaseException | None:
    """Return what ``call``, or awaiting what it returns, raises in a thread of its own."""
    caught: list[BaseException] = []

    async def in_a_loop() -> None:
        result = call()
        if inspect.isawaitable(result):
            await result

    def run() -> None:
        try:
            asyncio.run(in_a_loop())
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0] if caught else None


async def test_from_another_thread(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=2)
    ws = await session.ws_connect(server.url())
    idle = await session.ws_connect(server.url())
    await idle.release()
    before = session.stats()

    async def leave_by_an_exception() -> None:
        async with ws:
            raise LookupError

    for call, match in (
        (lambda: session.ws_connect(server.url()), "another event loop"),
        (lambda: session.prewarm(server.url(), 2), "another event loop"),
        (session.drain, "another event loop"),
        (session.close, "another event loop"),
        (ws.release, "another thread"),
        (ws.close, "another thread"),
        (ws.detach, "another thread"),
        (leave_by_an_exception, "another thread"),
    ):
        error = from_a_thread(call)
        assert isinstance(error, RuntimeError)
        assert match in str(error)
        assert session.stats() == before
    # The caller has it still.
    await ws.send_str("x")
    assert await ws.receive_str() == "x"
    await ws.release()
    assert session.stats().idle == 2
    await assert_nothing_happened(session, server.url())


def test_a_loop_may_go_on_in_another_thread() -> None:
    loop = asyncio.new_event_loop()
    session = WebSocketClientSession()

    def in_a_thread(work: Awaitable[Any]) -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(work)))
        thread.start()
        thread.join()
        return results[0]

    async def use(ws: ClientWebSocketResponse) -> ClientWebSocketResponse:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        await ws.release()
        return await session.ws_connect(url)

    stack = contextlib.AsyncExitStack()
    server = loop.run_until_complete(stack.enter_async_context(serving(Server())))
    url = server.url()
    ws = in_a_thread(session.ws_connect(url))
    ws = loop.run_until_complete(use(ws))
    ws = in_a_thread(use(ws))
    loop.run_until_complete(ws.release())
    assert server.handshakes == 1
    assert session.stats().idle == 1
    in_a_thread(session.close())
    loop.run_until_complete(stack.aclose())
    loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_another_loop_in_a_thread_that_its_own_has_left(kind: str) -> None:
    factory = asyncio.new_event_loop
    if kind == "uvloop":
        if sys.version_info < (3, 12):
            pytest.skip("there it would cost each call a system call")
        factory = pytest.importorskip("uvloop").new_event_loop
    loop = factory()
    stack = contextlib.AsyncExitStack()
    server = loop.run_until_complete(stack.enter_async_context(serving(Server())))
    session = WebSocketClientSession()

    async def use() -> None:
        async with session.ws_connect(server.url()):
            pass

    loop.run_until_complete(use())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(use())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert session.stats().idle == 1
    loop.run_until_complete(session.close())
    loop.run_until_complete(stack.aclose())
    loop.close()


# -- the wrong process -------------------------------------------------------------------------

SCRIPT = Path(__file__).parent / "isolated" / "inherited_session.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "child", ["goes_on", "makes_a_loop", "in_a_thread", "drops_all", "is_unused"]
)
def test_after_a_fork(child: str, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    root = Path(aiowebsocketclient.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, SCRIPT, child, loop],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(SCRIPT.parents[2])])},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout == "the child is done\nthe parent is whole\n"


METHODS = ("ws_connect", "prewarm", "set_min_idle")


async def call(session: WebSocketClientSession, method: str, **options: Any) -> None:
    """Call a method of the session that takes the options of a handshake."""
    numbers = () if method == "ws_connect" else (1,)
    result = getattr(session, method)("ws://localhost/", *numbers, **options)
    if result is not None:
        await result


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_size", "max_msg_size="),
        ("ping_interval", "heartbeat="),
        ("open_timeout", "conn_timeout= of WebSocketClientSession"),
        ("limit_per_host", "limit= of WebSocketClientSession"),
        ("min_size", "prewarm() or set_min_idle()"),
        ("additional_headers", "headers="),
        ("extra_headers", "headers="),
        ("subprotocols", "protocols="),
        ("sslopt", "ssl="),
        ("compression", "compress="),
    ],
)
@pytest.mark.parametrize("method", METHODS)
async def test_names_of_other_libraries_are_translated(
    make_session: SessionFactory, method: str, name: str, hint: str
) -> None:
    with pytest.raises(TypeError) as caught:
        await call(make_session(), method, **{name: "s3cret"})
    assert str(caught.value) == (
        f"{method}() got an unexpected keyword argument {name!r}: use {hint} instead"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ping_interval", "heartbeat= of ws_connect()"),
        (
            "ping_timeout",
            "heartbeat= of ws_connect() (the PONG must arrive within half of it)",
        ),
        ("open_timeout", "conn_timeout="),
        ("limit_per_host", "limit="),
        ("min_size", "prewarm() or set_min_idle()"),
        ("trust_env", "client_session=aiohttp.ClientSession(trust_env=...)"),
        ("additional_headers", "headers="),
        ("extra_headers", "headers="),
        ("header", "headers="),
        ("cookie", 'headers={"Cookie": ...}'),
        ("subprotocols", "protocols= of ws_connect()"),
        ("sslopt", "ssl= of ws_connect()"),
        ("http_proxy_host", "proxy= of ws_connect()"),
    ],
)
@pytest.mark.parametrize("of_its_own", [False, True])
def test_the_constructor_translates_them_too(name: str, hint: str, of_its_own: bool) -> None:
    class Own(WebSocketClientSession):
        def __init__(self, label: str, **options: Any) -> None:
            super().__init__(**options)

    arguments: dict[str, Any] = {"limit": 1, name: "s3cret"}
    with pytest.raises(TypeError) as caught:
        Own("label", **arguments) if of_its_own else WebSocketClientSession(**arguments)
    assert str(caught.value) == (
        f"WebSocketClientSession.__init__() got an unexpected keyword argument {name!r}:"
        f" use {hint} instead"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "max_size",
            "limit= for the number of connections, or max_msg_size= of ws_connect() for the bytes"
            " of a message",
        ),
        (
            "timeout",
            "acquire_timeout= for the wait for a connection, conn_timeout= for one handshake, or"
            " timeout= of ws_connect() for the wait for a message",
        ),
    ],
)
def test_names_with_several_meanings(name: str, hint: str) -> None:
    options: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError) as caught:
        WebSocketClientSession(**options)
    assert str(caught.value) == (
        f"WebSocketClientSession.__init__() got an unexpected keyword argument {name!r}: use {hint}"
    )


@pytest.mark.parametrize("name", ["heartbeat", "ssl", "reuse_key"])
def test_options_of_ws_connect_are_not_for_the_constructor(name: str) -> None:
    options: dict[str, Any] = {name: "s3cret"}
    with pytest.raises(TypeError) as caught:
        WebSocketClientSession(**options)
    assert str(caught.value) == (
        f"WebSocketClientSession.__init__() got an unexpected keyword argument {name!r}:"
        " it is an option of ws_connect(), not of WebSocketClientSession"
    )


@pytest.mark.parametrize("name", ["limit", "conn_timeout", "close_timeout", "trace_configs"])
@pytest.mark.parametrize("method", METHODS)
async def test_options_of_the_constructor_are_not_for_its_methods(
    make_session: SessionFactory, method: str, name: str
) -> None:
    with pytest.raises(TypeError) as caught:
        await call(make_session(), method, **{name: "s3cret"})
    assert str(caught.value) == (
        f"{method}() got an unexpected keyword argument {name!r}:"
        f" it is an option of WebSocketClientSession, not of {method}()"
    )


@pytest.mark.parametrize("method", METHODS)
async def test_a_name_that_nobody_knows(make_session: SessionFactory, method: str) -> None:
    with pytest.raises(TypeError) as caught:
        await call(make_session(), method, nonsense="s3cret")
    assert str(caught.value) == f"{method}() got an unexpected keyword argument 'nonsense'"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/", "url must have the scheme ws, wss, http or https, got 'ftp'"),
        ("socket:s3cret@host", "url must have the scheme ws, wss, http or https"),
        (
            "host/path",
            "<url> - url must be absolute, such as wss://example.com/path; a relative URL needs a"
            " client_session with a base_url",
        ),
    ],
)
def test_what_errors_of_urls_say(url: str, said: str) -> None:
    with pytest.raises(aiohttp.ClientError) as caught:
        WebSocketClientSession().ws_connect(url)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"acquire_timeout": -1}, "acquire_timeout must be a finite number >= 0, got -1"),
        ({"acquire_timeout": math.nan}, "acquire_timeout must be a finite number >= 0, got nan"),
        (
            {"acquire_timeout": 10**5000},
            "acquire_timeout must be a finite number >= 0, got a very large number",
        ),
        ({"heartbeat": "1"}, "heartbeat must be a number of seconds, not str"),
        ({"reuse_key": []}, "reuse_key must be hashable, not list"),
        ({"reuse_key": ([],)}, "reuse_key must be hashable, not tuple with unhashable contents"),
    ],
    ids=range(6),
)
def test_what_errors_of_values_say(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        WebSocketClientSession().ws_connect(UNUSED, **options)
    assert str(caught.value) == said


def test_what_nobody_knows_is_refused_as_ever() -> None:
    unknown: dict[str, Any] = {"blimit": 1}
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected .*'blimit'"):
        WebSocketClientSession(**unknown)
    with pytest.raises(TypeError, match=r"__init__\(\) takes 1 positional argument"):
        WebSocketClientSession(5)  # type: ignore[misc]


def test_a_subclass_may_call_its_own_options_so() -> None:
    class Own(WebSocketClientSession):
        def __init__(self, *, ping_interval: float, max_size: int, **options: Any) -> None:
            super().__init__(**options)
            self.interval = ping_interval

    session = Own(ping_interval=20.0, max_size=5, limit=3)
    assert (session.interval, session.limit) == (20.0, 3)
    assert list(inspect.signature(Own).parameters) == ["ping_interval", "max_size", "options"]


def test_the_constructor_shows_its_own_signature() -> None:
    parameters = inspect.signature(WebSocketClientSession).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert "conn_timeout" in {parameter.name for parameter in parameters}
    assert WebSocketClientSession.__init__.__qualname__ == "WebSocketClientSession.__init__"
    assert WebSocketClientSession.__init__.__module__ == "aiowebsocketclient.session"


def test_each_translation_names_an_option_that_there_is() -> None:
    options = set(inspect.signature(WebSocketClientSession).parameters) | arguments.DEFAULTS.keys()
    for name, hint in arguments._ELSEWHERE.items():
        assert name not in arguments.DEFAULTS
        assert "=" not in hint or hint.partition("=")[0] in options, name
    # aiohttp has middlewares since 3.12.
    of_aiohttp = {"middlewares", *inspect.signature(aiohttp.ClientSession).parameters}
    assert of_aiohttp - options >= arguments._OF_CLIENT_SESSION
