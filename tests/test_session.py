"""The session itself: its arguments, its client session, its loop and its end."""

import asyncio
import contextlib
import gc
import inspect
import logging
import math
import warnings
import weakref
from collections.abc import Awaitable, Generator
from typing import Any

import aiohttp
import pytest

import aiowebsocketclient
from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    TraceConfig,
    WebSocketClientSession,
)
from aiowebsocketclient._compat import UNSET

from .conftest import SessionFactory, until
from .servers import Server, serving

URL = "ws://127.0.0.1:1/"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp 3.14
    AUTH = aiohttp.BasicAuth("a", "b")

# -- arguments ---------------------------------------------------------------------------------

DEFAULTS = {
    "conn_timeout": None,
    "force_close": False,
    "limit": None,
    "headers": None,
    "client_session": None,
    "loop": None,
    "ws_response_class": ClientWebSocketResponse,
    "limit_total": None,
    "max_connecting": 100,
    "acquire_timeout": None,
    "max_waiting": None,
    "max_idle": 600.0,
    "max_idle_connections": UNSET,
    "max_lifetime": None,
    "close_timeout": 10.0,
    "cooldown": 0.0,
    "client_session_owner": True,
    "connect_limiter": None,
    "load_balance_hosts": None,
    "configure": None,
    "check": None,
    "reset": None,
    "on_idle_message": None,
    "keepalive": None,
    "goodbye": None,
    "hook_timeout": 10.0,
    "retire_on": (),
    "leak_threshold": None,
    "trace_configs": (),
    "name": None,
    "fleet": None,
}


def test_parameters_and_their_defaults() -> None:
    parameters = inspect.signature(WebSocketClientSession).parameters
    assert {name: p.default for name, p in parameters.items()} == DEFAULTS
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    session = WebSocketClientSession()
    assert session.limit is None
    assert session.force_close is False
    assert session.closed is False


WHOLE = ["limit", "limit_total", "max_connecting", "max_waiting", "max_idle_connections"]
SECONDS = [
    "conn_timeout",
    "acquire_timeout",
    "max_idle",
    "max_lifetime",
    "close_timeout",
    "cooldown",
    "hook_timeout",
]
BAD: list[tuple[str, Any]] = [
    *[(name, value) for name in WHOLE for value in (-1, 1.5, True, "3", math.nan, [], object())],
    *[
        (name, value)
        for name in SECONDS
        for value in (-0.1, True, "3", math.nan, math.inf, [], -math.inf)
    ],
    *[(name, 2**70) for name in WHOLE],
    ("max_idle", 0),
    ("max_idle_connections", 0),
    ("max_lifetime", 0),
    ("close_timeout", None),
    ("cooldown", None),
    ("hook_timeout", 0),
    *[(name, value) for name in ("configure", "check", "reset") for value in ("x", 5, True)],
    *[("on_idle_message", value) for value in ("x", 5, True, asyncio.sleep)],
    *[("keepalive", value) for value in ("x", 5.0, (5.0,), [5.0, "x"], (5.0, "x", 1))],
    *[("keepalive", (seconds, "x")) for seconds in (0, -1, None, True, "5", math.inf, math.nan)],
    *[("keepalive", (5.0, word)) for word in (None, 5, bytearray(b"x"))],
    *[("goodbye", value) for value in (5, True, bytearray(b"x"), asyncio.sleep)],
    ("headers", 3),
    ("headers", [("a", "b", "c")]),
    ("client_session", object()),
    ("loop", object()),
    ("ws_response_class", aiohttp.ClientWebSocketResponse),
    ("ws_response_class", ClientWebSocketResponse.__name__),
    ("connect_limiter", object()),
    *[("load_balance_hosts", value) for value in (True, 5, "", "Random", "prefer-standby")],
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v!r:.20}" for n, v in BAD])
def test_bad_arguments(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        WebSocketClientSession(**{name: value})


def test_unknown_and_positional_arguments() -> None:
    with pytest.raises(TypeError, match="limits"):
        WebSocketClientSession(limits=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        WebSocketClientSession(1.0)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["limit", "force_close", "closed", "client_session"])
async def test_read_only(make_session: SessionFactory, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(make_session(), name, 1)


BAD_CALLS: dict[str, tuple[type[Exception], str, tuple[Any, dict[str, Any]]]] = {
    "unknown option": (TypeError, "heartbeats", (URL, {"heartbeats": 1})),
    "protocols": (TypeError, "protocols", (URL, {"protocols": "chat"})),
    "protocols of none": (TypeError, "protocols", (URL, {"protocols": None})),
    "headers": (TypeError, "headers", (URL, {"headers": 3})),
    "proxy_headers": (TypeError, "proxy_headers", (URL, {"proxy_headers": 3})),
    "auth": (TypeError, "auth", (URL, {"auth": "user:secret"})),
    "proxy": (TypeError, "proxy", (URL, {"proxy": 3})),
    "proxy's port": (aiohttp.InvalidURL, "proxy", (URL, {"proxy": "http://a:b:c"})),
    "unhashable": (TypeError, "compress", (URL, {"compress": []})),
    "reuse_key": (TypeError, "reuse_key", (URL, {"reuse_key": []})),
    "acquire_timeout": (ValueError, "acquire_timeout", (URL, {"acquire_timeout": -1})),
    "url": (TypeError, "url", (3, {})),
    "url of none": (TypeError, "url", (None, {})),
    "unhashable url": (TypeError, "url", ([], {})),
    "scheme": (
        aiohttp.NonHttpUrlClientError,
        "ws, wss, http or https, got 'ftp'",
        ("ftp://host/", {}),
    ),
    "relative": (aiohttp.InvalidURL, "wss://", ("/path", {})),
    "empty": (aiohttp.InvalidURL, "wss://", ("", {})),
    "no host": (aiohttp.InvalidURL, "url", ("ws://", {})),
    "auth twice": (ValueError, "auth", ("ws://a:b@host/", {"auth": AUTH})),
    "authorization twice": (
        ValueError,
        "AUTHORIZATION header",
        ("ws://a:b@host/", {"headers": {"Authorization": "x"}}),
    ),
    "credentials": (aiohttp.InvalidURL, "credentials", ("ws://a:\u20ac@host/", {})),
    "colon in the name": (aiohttp.InvalidURL, "credentials", ("ws://a%3Ab:c@host/", {})),
    "port": (aiohttp.InvalidURL, "url", ("ws://host:port/", {})),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_bad_calls_are_refused_at_once(make_session: SessionFactory, name: str) -> None:
    error, match, (url, options) = BAD_CALLS[name]
    session = make_session()
    with pytest.raises(error, match=match):
        session.ws_connect(url, **options)
    assert session.stats().requests == 0


async def test_unhashable_url_where_there_are_default_headers(
    make_session: SessionFactory,
) -> None:
    session = make_session(client_session=aiohttp.ClientSession(headers={"X": "1"}))
    await session.__aenter__()
    with pytest.raises(TypeError, match="url"):
        session.ws_connect([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["ftp://user:hidden@host/?token=hidden", "ws://user:hidden@host:port/", "hidden"]
)
async def test_errors_show_no_secret(make_session: SessionFactory, url: str) -> None:
    with pytest.raises(aiohttp.ClientError) as caught:
        make_session().ws_connect(url)
    assert "hidden" not in str(caught.value) + repr(caught.value)


async def test_ws_connect_that_is_never_awaited(make_session: SessionFactory) -> None:
    session = make_session()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        session.ws_connect(URL)
        gc.collect()


async def test_a_collection_while_it_warns(
    make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    shown: list[str] = []

    def show(message: Warning | str, *_: object, **__: object) -> None:
        gc.collect()
        shown.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        for _ in range(40):
            session.ws_connect(URL)
    assert shown == ["ws_connect() was never awaited"] * 40


async def test_repr(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    async with session.ws_connect(server.url("/?token=hidden")):
        assert repr(session) == (
            "<WebSocketClientSession acquired=1 idle=0 connecting=0 closing=0"
            " waiting=0 endpoints=1>"
        )
        assert "hidden" not in repr(session._targets) + repr(session.stats_by_endpoint())
    await session.close()
    assert "closed" in repr(session)


# -- the client session ------------------------------------------------------------------------


async def test_given_client_session_is_used_and_closed(
    server: Server, make_session: SessionFactory
) -> None:
    class Own(aiohttp.ClientWebSocketResponse):
        pass

    client_session = aiohttp.ClientSession(headers={"X-Given": "1"}, ws_response_class=Own)
    session = make_session(client_session=client_session)
    assert session.client_session is client_session
    async with session.ws_connect(server.url()) as ws:
        assert type(ws) is ClientWebSocketResponse
    assert server.requests[0].headers["X-Given"] == "1"
    # Its own ws_connect goes on returning its own class.
    async with client_session.ws_connect(server.url()) as own:
        assert type(own) is Own
    await session.close()
    assert client_session.closed


async def test_detached(server: Server, make_session: SessionFactory) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session)
    await (await session.ws_connect(server.url())).release()
    session.detach()
    await session.close()
    assert session.closed
    assert not client_session.closed
    assert server.open == 0
    async with client_session.ws_connect(server.url()):
        pass
    await client_session.close()


async def test_not_owned(server: Server, make_session: SessionFactory) -> None:
    client_session = aiohttp.ClientSession()
    async with WebSocketClientSession(
        client_session=client_session, client_session_owner=False
    ) as session:
        await (await session.ws_connect(server.url())).release()
    assert not client_session.closed
    await client_session.close()


async def test_owned_and_never_used() -> None:
    client_session = aiohttp.ClientSession()
    await WebSocketClientSession(client_session=client_session).close()
    assert client_session.closed


async def test_closed_client_session() -> None:
    client_session = aiohttp.ClientSession()
    await client_session.close()
    with pytest.raises(ValueError, match="client_session"):
        WebSocketClientSession(client_session=client_session)


async def test_client_session_closed_by_somebody_else(
    server: Server, make_session: SessionFactory
) -> None:
    client_session = aiohttp.ClientSession()
    session = make_session(client_session=client_session)
    idle, used = [await session.ws_connect(server.url()) for _ in range(2)]
    await idle.release()
    await client_session.close()
    await until(lambda: session.stats().idle == 0)
    await used.release()
    await until(lambda: session.stats().closing == 0)
    with pytest.raises(RuntimeError, match="closed"):
        await session.ws_connect(server.url())
    assert session.stats().endpoints == 0


async def test_base_url_of_a_given_session(server: Server, make_session: SessionFactory) -> None:
    session = make_session(client_session=aiohttp.ClientSession(base_url=server.url()))
    async with session.ws_connect("/base/room"):
        assert server.requests[0].path == "/base/room"
    async with session.ws_connect("/base/./room") as ws:
        assert ws.reused


async def test_absolute_url_with_a_base_url(server: Server, make_session: SessionFactory) -> None:
    session = make_session(client_session=aiohttp.ClientSession(base_url=server.url()))
    if tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 12):
        with pytest.raises(aiohttp.InvalidURL, match=r"before 3\.12"):
            session.ws_connect(server.url("/room"))
    else:
        async with session.ws_connect(server.url("/room")):
            assert server.requests[0].path == "/room"


async def test_a_connector_that_limits_lower_is_told_of(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aiowebsocketclient")
    connector = aiohttp.TCPConnector(limit=2)
    session = make_session(
        client_session=aiohttp.ClientSession(connector=connector), acquire_timeout=30
    )
    for _ in range(2):
        await (await session.ws_connect(server.url())).release()
    assert len(caplog.records) == 1
    assert "limit=0" in caplog.text


async def test_so_is_one_that_limits_lower_per_host(
    make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=1)
    session = make_session(client_session=aiohttp.ClientSession(connector=connector), limit=2)
    assert session.client_session.connector is connector
    await session.__aenter__()
    assert "limit_per_host=0" in caplog.text


async def test_one_that_limits_lower_than_the_pool_was_resized_to_is_told_of(
    make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    connector = aiohttp.TCPConnector(limit=2)
    client_session = aiohttp.ClientSession(connector=connector)
    session = make_session(client_session=client_session, limit_total=2)
    await session.__aenter__()
    assert not caplog.records
    session.resize(limit_total=3)
    assert "limit=0" in caplog.text


async def test_own_client_session_does_not_limit(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(130)])
    assert server.open == 130
    await asyncio.gather(*[ws.release() for ws in held])


# -- the loop ----------------------------------------------------------------------------------


def test_made_outside_a_loop() -> None:
    session = WebSocketClientSession(limit=1)
    with pytest.raises(RuntimeError, match="event loop"):
        _ = session.client_session

    async def main() -> None:
        assert not session.client_session.closed
        await session.close()

    asyncio.run(main())


def test_two_loops() -> None:
    session = WebSocketClientSession()

    async def use() -> None:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.ws_connect(URL)

    asyncio.run(use())

    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop, which is closed"):
            await session.ws_connect(URL)
        with pytest.raises(RuntimeError, match="is closed"):
            await session.close()
        # Whatever was open went with its loop.
        assert session._pool_client.session is not None
        session._pool_client.session.detach()

    asyncio.run(misuse())


def test_idle_connections_of_a_closed_loop_are_not_handed_out() -> None:
    async def use(session: WebSocketClientSession) -> str:
        async with serving(Server()) as server:
            await (await session.ws_connect(server.url())).release()
            # To the next loop it would look like an open one.
            (slot,) = session._pool.slots()
            slot.conn._protocol._payload_parser = None
            slot.conn._transport.abort()
            return server.url()

    async def misuse(session: WebSocketClientSession, url: str) -> None:
        assert session.stats().idle == 1
        with pytest.raises(RuntimeError, match="another event loop"):
            await session.ws_connect(url)

    session = WebSocketClientSession()
    url = asyncio.run(use(session))
    asyncio.run(misuse(session, url))
    # It went with its loop; that it was not closed is told when it is dropped.
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession acquired="):
        del session
        gc.collect()


def test_given_loop() -> None:
    loop = asyncio.new_event_loop()
    session = WebSocketClientSession(loop=loop)

    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await session.ws_connect(URL)

    asyncio.run(misuse())
    loop.close()
    with pytest.raises(ValueError, match="loop"):
        WebSocketClientSession(loop=loop)


def test_client_session_of_another_loop() -> None:
    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    client_session = asyncio.run(make())
    session = WebSocketClientSession(client_session=client_session, client_session_owner=False)

    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="client_session"):
            await session.ws_connect(URL)
        await client_session.close()

    asyncio.run(misuse())


# -- the end -----------------------------------------------------------------------------------


async def test_close_with_everything_going_on(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=4, close_timeout=0.3)
    used = await session.ws_connect(server.url())
    silent = await session.ws_connect(server.url("/silent"))
    idle = await session.ws_connect(server.url())
    await idle.release()
    receiver = asyncio.create_task(used.receive())
    server.gate.clear()
    connecting = asyncio.ensure_future(session.ws_connect(server.url("/connecting")))
    await until(lambda: server.arrived == 4)
    waiting = [asyncio.ensure_future(session.ws_connect(server.url("/waiting"))) for _ in range(3)]
    await until(lambda: session.stats().waiting)
    async with asyncio.timeout(30):
        await session.close()
    for caller in [connecting, *waiting]:
        with pytest.raises(PoolClosedError):
            await caller
    assert (await receiver).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    assert used.closed
    with pytest.raises(ConnectionError):
        await used.send_str("late")
    for ws in (used, silent, idle):
        await ws.release()
        await ws.close()
    assert session.client_session.closed
    await until(lambda: server.open <= 1)  # the silent one does not look
    assert session.stats().closing == 0


async def test_release_in_the_turn_of_close_while_receiving(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    receiver = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    closing = asyncio.create_task(session.close())
    # Its closing handshake is to begin in the next turn.
    await asyncio.sleep(0)
    assert session.closed
    released = ws.release()
    assert (await receiver).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    await released
    await closing
    await until(lambda: not session._lifecycle.goodbyes)
    assert server.close_codes == [aiohttp.WSCloseCode.OK]


async def test_close_during_prewarm(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    server.gate.clear()
    warming = asyncio.create_task(session.prewarm(server.url(), 3))
    await until(lambda: server.arrived == 3)
    await session.close()
    with pytest.raises(PoolClosedError):
        await warming


async def test_many_silent_servers_are_closed_at_once(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(close_timeout=0.5)
    held = [await session.ws_connect(server.url("/silent")) for _ in range(100)]
    for ws in held[:50]:
        await ws.release()
    # Half of what it takes one by one.
    async with asyncio.timeout(25):
        await session.close()
    for ws in held:
        await ws.release()


async def test_a_limiter_that_cannot_be_cancelled_does_not_hold_up_close(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    class Stubborn:
        async def __aenter__(self) -> None:
            entered.set()
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()

        async def __aexit__(self, *exc: object) -> None:
            pass

    session = WebSocketClientSession(connect_limiter=Stubborn(), close_timeout=0.1)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await entered.wait()
    async with asyncio.timeout(30):
        await session.close()
    assert "ignored cancellation" in caplog.text
    with pytest.raises(PoolClosedError):
        await caller
    released.set()
    await until(lambda: session._pool.sizes()["slots"] == 0)


@pytest.mark.parametrize("turns", [1, 2, 5, 100])
async def test_close_where_all_tasks_are_cancelled(
    server: Server, make_session: SessionFactory, turns: int
) -> None:
    """As asyncio.run() does at the end; also before the session's own have begun."""
    session = make_session(close_timeout=600)
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.create_task(session.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert session.closed
    for task in asyncio.all_tasks():
        if "Ending" in repr(task) or "_goodbye" in repr(task):
            task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([closing])
        # Nobody has cancelled this one.
        await session.close()
    assert session.client_session.closed
    assert session.stats().closing == 0
    await ws.release()


async def test_closed_session(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    ws = await session.ws_connect(server.url())
    await session.close()
    await session.close()
    assert session.closed
    for use in (
        lambda: session.ws_connect(server.url()),
        lambda: session.prewarm(server.url(), 1),
    ):
        with pytest.raises(PoolClosedError, match="closed") as caught:
            await use()
        assert isinstance(caught.value, RuntimeError)
    await ws.release()


async def test_cancelled_close_goes_on(server: Server, make_session: SessionFactory) -> None:
    session = make_session(close_timeout=0.3)
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    async with asyncio.timeout(30):
        await session.close()
    assert session.client_session.closed
    await ws.release()


async def test_context_manager(server: Server) -> None:
    async with WebSocketClientSession() as session:
        await (await session.ws_connect(server.url())).release()
    assert session.closed
    await until(lambda: server.open == 0)


async def test_unclosed_session(server: Server) -> None:
    session = WebSocketClientSession()
    ws = await session.ws_connect(server.url())
    await ws.release()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    # The handler may begin after the client has its handshake.
    await until(lambda: server.open == 1)
    timer = session._lifecycle.timer
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession acquired="):
        del session
        gc.collect()
    # What can be closed is closed, and the loop need not keep a timer for max_idle.
    await until(lambda: server.open == 0)
    assert timer is not None
    assert timer.cancelled()


async def test_dropped_sessions_are_not_left_to_the_cyclic_collector(server: Server) -> None:
    """A failed handshake leaves no cycle that keeps the session."""
    session = WebSocketClientSession(conn_timeout=600)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.url("/refuse"))
    await session.close()
    dropped = weakref.ref(session)
    gc.collect()
    gc.disable()
    try:
        await asyncio.sleep(0)
        del session
        assert dropped() is None
    finally:
        gc.enable()


async def no_hook(ws: ClientWebSocketResponse) -> None:
    pass


@pytest.mark.parametrize("hooks", [{}, {"check": no_hook, "reset": no_hook}], ids=["", "hooks"])
async def test_no_part_of_a_session_keeps_it(server: Server, hooks: dict[str, Any]) -> None:
    """Neither what is idle, closing or being opened, nor timers, traces and watches."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    made = [
        WebSocketClientSession(
            trace_configs=[TraceConfig()],
            leak_threshold=60.0,
            max_lifetime=60.0,
            conn_timeout=600,
            **hooks,
        )
    ]
    made[0].set_min_idle(server.url("/kept"), 1)
    for path in ("/", "/silent"):
        await (await made[0].ws_connect(server.url(path))).release()
    await until(lambda: made[0].stats().idle == 3)
    made[0].drain(server.url("/silent"))
    made[0].set_min_idle(server.url("/hang"), 1)
    await until(lambda: server.arrived == 4)
    assert (made[0].stats().closing, made[0].stats().connecting) == (1, 1)
    dropped = weakref.ref(made[0])
    gc.collect()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession acquired="):
            made.clear()
        assert dropped() is None
    finally:
        gc.enable()
    # The silent server does not notice.
    await until(lambda: all(transport.is_closing() for transport in server.transports))


class HoldingBack:
    """A ``connect_limiter`` that ends when it is told to, and ignores cancellation."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        while not self.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.gate.wait()


@pytest.mark.parametrize("ignores_cancellation", [False, True])
async def test_handshakes_of_a_dropped_session_leave_nothing_open(
    server: Server, ignores_cancellation: bool
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    limiter = HoldingBack()
    made = [WebSocketClientSession(connect_limiter=limiter if ignores_cancellation else None)]
    prewarming = asyncio.create_task(made[0].prewarm(server.url(), 1))
    if not ignores_cancellation:
        server.gate.clear()
    await until(lambda: server.open if ignores_cancellation else server.arrived)
    prewarming.cancel()
    await asyncio.wait([prewarming])
    assert made[0].stats().connecting == 1
    (opening,) = [slot.task for slot in made[0]._pool.slots()]
    del prewarming
    with pytest.warns(ResourceWarning, match="Unclosed <WebSocketClientSession acquired="):
        made.clear()
        gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert opening.done() is not ignores_cancellation
    limiter.gate.set()
    server.gate.set()
    async with asyncio.timeout(30):
        await asyncio.wait([opening])
    await until(lambda: not server.open)


async def test_a_handle_keeps_its_session(server: Server) -> None:
    async def acquire() -> ClientWebSocketResponse:
        ws: ClientWebSocketResponse = await WebSocketClientSession().ws_connect(server.url())
        return ws

    ws = await acquire()
    gc.collect()
    await ws.send_str("x")
    assert await ws.receive_str() == "x"
    session = ws._owner
    await ws.release()
    await session.close()


async def test_unused_session_does_not_warn() -> None:
    WebSocketClientSession()
    gc.collect()


# -- statistics --------------------------------------------------------------------------------


async def test_stats(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    async with session.ws_connect(server.url()):
        waiter = asyncio.ensure_future(session.ws_connect(server.url()))
        await asyncio.sleep(0.05)
        stats = session.stats()
        assert (stats.acquired, stats.waiting, stats.endpoints) == (1, 1, 1)
    await (await waiter).release()
    stats = session.stats()
    assert (stats.requests, stats.reused, stats.queued) == (2, 1, 2)
    assert stats.connects == 1
    assert stats.released == 2
    assert stats.wait_seconds > 0.04
    assert 0 < stats.connect_seconds < stats.wait_seconds
    assert list(session.stats_by_endpoint().values()) == [stats]
    with pytest.raises(AttributeError):
        stats.idle = 3  # type: ignore[misc]
    await session.close()
    assert session.stats().closed_forced == 1
    assert session.stats().requests == 2


async def test_waiting_never_counts_backwards(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    for _ in range(100):
        before = session.stats().wait_seconds
        caller = asyncio.create_task(session.ws_connect(server.url()))
        await asyncio.sleep(0)
        await ws.release()
        ws = await caller
        assert session.stats().wait_seconds >= before
    await ws.release()


def test_all_is_exported() -> None:
    for name in aiowebsocketclient.__all__:
        assert hasattr(aiowebsocketclient, name)
    assert aiowebsocketclient.IMPLEMENTATION in ("c", "py")


async def test_awaited_by_yield_from(server: Server, make_session: SessionFactory) -> None:
    """As awaitable objects written by hand do it."""

    class Uses:
        def __await__(self) -> Generator[Any, Any, ClientWebSocketResponse]:
            ws = yield from session.ws_connect(server.url()).__await__()
            yield from ws.release().__await__()
            return ws

    session = make_session(limit=1)
    for reused in (False, True):
        assert (await Uses()).reused is reused
    held = await session.ws_connect(server.url())
    waiting = asyncio.create_task(uses_of(Uses()))
    await until(lambda: session.stats().waiting)
    await held.release()
    assert await waiting == held


async def uses_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def test_what_is_idle_stands_in_the_order_of_its_time(
    server: Server, make_session: SessionFactory
) -> None:
    """Whichever clock was asked: that of who connects, or the cheaper one of who releases."""
    session = make_session(max_idle=60.0)
    for number in range(1, 21):
        await session.prewarm(server.url(), number)
        handles = [await session.ws_connect(server.url()) for _ in range(min(number, 3))]
        for ws in handles:
            await ws.release()
        oldest = min(slot.since for slot in session._pool.slots())
        assert session._pool.next_deadline() == oldest + 60.0


def test_attributes_leave_room_for_those_of_a_subclass() -> None:
    """With more than 30 names in its dictionary, each call of a session costs 5 % more."""
    assert len(vars(WebSocketClientSession())) <= 25
