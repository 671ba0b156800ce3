"""What the pool does for nobody in particular runs in an empty context, and keeps nobody's."""

import asyncio
import gc
import logging
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from aiowebsocketclient import TraceConfig, WebSocketClientSession

from .conftest import SessionFactory, until
from .servers import Server

user: ContextVar["Request"] = ContextVar("user")


class Request:
    """What a framework keeps in a context while it serves a request."""

    def __init__(self, name: str) -> None:
        self.name = name


async def serve(name: str, use: Callable[[], Awaitable[Any]]) -> tuple["weakref.ref[Request]", Any]:
    """Do something in a request of its own; returns what tells whether anybody keeps that."""

    async def respond() -> tuple["weakref.ref[Request]", Any]:
        request = Request(name)
        user.set(request)
        return weakref.ref(request), await use()

    return await asyncio.create_task(respond())


async def is_freed(request: "weakref.ref[Request]") -> None:
    # asyncio keeps the contexts of cancelled timers until their time, or until they are too many.
    gc.collect()
    await until(lambda: request() is None, pause=0.01)


class Logged(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        name = user.get(Request("nobody")).name
        self.seen.append((record.event, name))  # type: ignore[attr-defined]


@pytest.fixture
def logged() -> Iterator[Logged]:
    handler = Logged()
    logger = logging.getLogger("aiowebsocketclient")
    before = logger.level
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.parametrize("heartbeat", [None, 0.05])
@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_connection_keeps_none_of_its_users(
    server: Server,
    tls_server: Server,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    heartbeat: float | None,
    with_tls: bool,
) -> None:
    session = make_session(leak_threshold=60.0, max_lifetime=600.0)
    options: dict[str, Any] = {"heartbeat": heartbeat}
    if with_tls:
        options["ssl"] = client_tls
    url = (tls_server if with_tls else server).url()

    async def ask() -> None:
        async with session.ws_connect(url, **options) as ws:
            await ws.send_str("a question")
            await ws.receive_str()

    alice, _ = await serve("alice", ask)
    bob, _ = await serve("bob", ask)
    assert session.stats().idle == session.stats().reused == 1
    if heartbeat is not None:
        await asyncio.sleep(3 * heartbeat)
    await is_freed(alice)
    await is_freed(bob)


async def test_the_timers_of_the_pool_keep_nobody(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(leak_threshold=0.05, max_idle=0.05)

    async def acquire() -> Any:
        return await session.ws_connect(server.url())

    alice, ws = await serve("alice", acquire)
    await ws.close()
    _, held = await serve("bob", acquire)
    await asyncio.sleep(0.15)
    del ws
    await is_freed(alice)
    await held.release()


async def test_a_leak_is_logged_as_that_of_who_acquired(
    server: Server, make_session: SessionFactory, logged: Logged
) -> None:
    session = make_session(leak_threshold=0.05)

    async def acquire() -> Any:
        return await session.ws_connect(server.url())

    _, alices = await serve("alice", acquire)
    await alices.release()
    _, bobs = await serve("bob", acquire)
    await until(lambda: logged.seen)
    assert logged.seen == [("leak", "bob")]
    await bobs.release()


async def test_what_nobody_does_is_told_as_nobodys(
    server: Server, make_session: SessionFactory, logged: Logged
) -> None:
    logging.getLogger("aiowebsocketclient").setLevel(logging.DEBUG)
    trace = TraceConfig()
    told: list[tuple[str, str]] = []

    @trace.on_connect_end.append
    async def connected(*_: object) -> None:
        told.append(("connected", user.get(Request("nobody")).name))

    @trace.on_close.append
    async def closed(_: object, __: object, params: Any) -> None:
        told.append((params.reason, user.get(Request("nobody")).name))

    session = make_session(trace_configs=[trace], max_idle=0.05)

    async def ask() -> None:
        async with session.ws_connect(server.url()) as ws:
            await ws.send_str("a question")
            await ws.receive_str()

    await serve("alice", ask)
    await until(lambda: len(told) == 2)
    await serve("bob", ask)
    server.transports[-1].abort()
    await until(lambda: len(told) == 4)
    assert told == [
        *[("connected", "alice"), ("idle", "nobody")],
        *[("connected", "bob"), ("lost", "nobody")],
    ]
    assert logged.seen == [
        *[("opened", "alice"), ("closed", "nobody")],
        *[("opened", "bob"), ("closed", "nobody")],
    ]


async def test_a_handshake_is_logged_as_that_of_its_caller(
    server: Server, make_session: SessionFactory, logged: Logged
) -> None:
    """Though another has made room for it."""
    logging.getLogger("aiowebsocketclient").setLevel(logging.DEBUG)
    session = make_session(limit=1)
    _, ws = await serve("bob", lambda: session.ws_connect(server.url("/bobs")))
    alice = asyncio.create_task(serve("alice", lambda: session.ws_connect(server.url("/alices"))))
    await until(lambda: session.stats().waiting)
    await serve("bob", ws.close)
    _, hers = await alice
    await until(lambda: len(logged.seen) == 3)
    assert logged.seen == [("opened", "bob"), ("closed", "nobody"), ("opened", "alice")]
    await hers.release()


async def test_what_is_kept_idle_is_logged_as_that_of_who_asked_for_it(
    server: Server, make_session: SessionFactory, logged: Logged
) -> None:
    session = make_session()
    url = server.url("/once")

    async def keep() -> None:
        session.set_min_idle(url, 1)

    await serve("the start", keep)
    await until(lambda: session.stats().idle)

    async def take() -> Any:
        return await session.ws_connect(url)

    _, ws = await serve("alice", take)
    await serve("alice", ws.close)
    await until(lambda: logged.seen)
    assert set(logged.seen) == {("min_idle_failing", "the start")}


async def test_a_goodbye_keeps_nobody(server: Server) -> None:
    session = WebSocketClientSession(close_timeout=600.0)

    async def leave() -> None:
        try:
            async with session.ws_connect(server.url("/silent")):
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    alice, _ = await serve("alice", leave)
    assert session.stats().closing == 1
    await is_freed(alice)
    server.transports[0].abort()
    await session.close()
