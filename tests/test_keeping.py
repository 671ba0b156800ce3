"""Idle connections that are kept at hand: ``set_min_idle()``."""

import asyncio
import contextlib
import gc
import itertools
import logging
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aiowebsocketclient import PoolClosedError, WebSocketClientSession, keeping, pausing

from .conftest import SessionFactory, until
from .servers import Server, serving
from .test_frames import raw

NOWHERE = "ws://127.0.0.1:1/"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a second."""
    monkeypatch.setattr(keeping, "_PERIOD", 0.05)
    monkeypatch.setattr(keeping, "_PROBATION", 0.05)


@pytest.fixture
def without_chance(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let each pause be as long as it may."""
    monkeypatch.setattr(pausing.random, "random", lambda: 1.0)
    return monkeypatch


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    """Return what returns the records of an event."""
    caplog.set_level(logging.DEBUG, "aiowebsocketclient")

    def of(event: str) -> list[Any]:
        return [record for record in caplog.records if getattr(record, "event", "") == event]

    return of


def idle(session: WebSocketClientSession) -> int:
    return session.stats().idle


def keeper_of(session: WebSocketClientSession) -> keeping.Keeper:
    (keeper,) = session._keeping.keepers.values()
    return keeper


async def look(session: WebSocketClientSession) -> None:
    """Let the keepers look, and what they begin get under way."""
    for keeper in session._keeping.keepers.values():
        keeper.look()
    for _ in range(5):
        await asyncio.sleep(0)


# -- what is kept --------------------------------------------------------------------------------


async def test_it_opens_what_is_lacking(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It does not look while a connection is in use, when it would open another.
    monkeypatch.setattr(keeping, "_PERIOD", 1_000.0)
    monkeypatch.setattr(keeping, "_PROBATION", 1_000.0)
    session = make_session()
    session.set_min_idle(server.url(), 3)
    assert session.stats().connecting == 3
    await until(lambda: idle(session) == 3 and not keeper_of(session)._under_way)
    # Each new connection has woken it.
    await look(session)
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
    await look(session)
    assert idle(session) == server.handshakes == 3


async def test_what_callers_take_is_made_up_for(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    session.set_min_idle(server.url(), 2)
    await until(lambda: idle(session) == 2)
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    assert server.handshakes == 2
    await until(lambda: idle(session) == 2)
    await asyncio.gather(*[ws.release() for ws in held])
    # More than wanted is left to max_idle.
    await look(session)
    assert idle(session) == server.handshakes == 4


@pytest.mark.parametrize("how", ["reset", "closed", "written to"])
async def test_what_the_server_ends_is_made_up_for(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # It is told, and need not look.
    monkeypatch.setattr(keeping, "_PERIOD", 1_000.0)
    monkeypatch.setattr(keeping, "_PROBATION", 0.0)
    session = make_session()
    session.set_min_idle(server.url(), 3)
    await until(lambda: idle(session) == 3)
    await look(session)
    for ws, transport in zip(server.sockets[:2], server.transports[:2], strict=True):
        if how == "reset":
            transport.abort()
        elif how == "closed":
            await ws.close()
        else:
            await ws.send_str("unasked")
    await until(lambda: server.handshakes == 5 and idle(session) == 3)


async def test_what_is_too_old_is_made_up_for(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session(max_idle=0.1)
    session.set_min_idle(server.url(), 2)
    await until(lambda: server.handshakes >= 6)
    assert session.stats().closed_idle >= 4
    assert not told("min_idle_failing")


async def test_no_more_are_kept_than_may_be_idle(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_idle_connections=3)
    session.set_min_idle(server.url(), 5)
    await until(lambda: idle(session) == 3)
    for _ in range(5):
        await look(session)
    assert server.handshakes == 3
    assert session.stats().closed_evicted == 0


async def test_connections_closed_because_too_many_were_idle_are_not_opened_again(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_idle_connections=3)
    session.set_min_idle(server.url("/kept"), 3)
    await until(lambda: idle(session) == 3)
    for number in range(3):
        # Callers' connections push out those that were kept.
        await (await session.ws_connect(server.url(f"/{number}"))).release()
        await until(lambda: session.stats().closing == 0)
        await look(session)
    assert session.stats().closed_evicted == 3
    held = [await session.ws_connect(server.url(f"/{number}")) for number in range(3)]
    assert all(ws.reused for ws in held)
    # There is room now; but what took it away comes back.
    await look(session)
    for ws in held:
        await ws.release()
    await look(session)
    assert server.handshakes == 6


async def test_what_is_drained_is_made_up_for(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    session.set_min_idle(server.url(), 2)
    await until(lambda: idle(session) == 2)
    await session.drain()
    await until(lambda: server.handshakes == 4 and idle(session) == 2)
    # While it connects.
    server.gate.clear()
    await session.drain()
    await until(lambda: server.arrived == 6)
    await session.drain()
    server.gate.set()
    await until(lambda: idle(session) == 2 and not session.stats().connecting)
    assert not told("min_idle_failing")


async def test_the_number_can_be_changed(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    for wanted, there in ((2, 2), (4, 4), (1, 4)):
        session.set_min_idle(server.url(), wanted)
        await until(lambda there=there: idle(session) == there)
    held = [await session.ws_connect(server.url()) for _ in range(4)]
    await until(lambda: idle(session) == 1)
    session.set_min_idle(server.url(), 0)
    session.set_min_idle(server.url(), 0)
    assert session._keeping.keepers == {}
    # What is idle stays so, and is not made up for.
    assert idle(session) == 1
    held.append(await session.ws_connect(server.url()))
    await asyncio.sleep(0.15)
    assert server.handshakes == 5
    await asyncio.gather(*[ws.release() for ws in held])


async def test_each_handshake_has_a_number_of_its_own(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    session.set_min_idle(server.url(), 1)
    session.set_min_idle(server.url(), 2, headers={"X": "1"})
    session.set_min_idle(server.url(), 3, headers={"X": "2"}, reuse_key="key")
    await until(lambda: idle(session) == 6)
    # The same handshake; of the same reuse_key the headers given last go out.
    session.set_min_idle(server.url().replace("http", "ws"), 2)
    session.set_min_idle(server.url(), 4, headers={"X": "3"}, reuse_key="key")
    await until(lambda: idle(session) == 8)
    assert len(session._keeping.keepers) == 3
    sent = [request.headers.get("X") for request in server.requests]
    assert sorted(map(str, sent)) == ["1", "1", "2", "2", "2", "3", "None", "None"]
    async with session.ws_connect(server.url(), headers={"X": "1"}):
        assert server.handshakes == 8
    async with session.ws_connect(server.url(), headers={"X": "9"}, reuse_key="key"):
        assert server.handshakes == 8


async def test_with_the_cookies_of_the_jar(server: Server, make_session: SessionFactory) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    session.set_min_idle(server.url(), 1)
    await until(lambda: idle(session) == 1)
    jar.update_cookies({"c": "1"})
    # Now a caller would make another handshake.
    await until(lambda: idle(session) == 2)
    async with session.ws_connect(server.url()):
        assert server.handshakes == 2
    assert [request.cookies.get("c") for request in server.requests] == [None, "1"]
    server.transports[1].abort()
    await until(lambda: server.handshakes == 3 and idle(session) == 2)


@contextlib.asynccontextmanager
async def balancing() -> AsyncIterator[str]:
    """Run a server that sets another cookie with each handshake, as some balancers do."""
    numbers = itertools.count()

    async def handle(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        ws.set_cookie("node", str(next(numbers)))
        await ws.prepare(request)
        async for _ in ws:
            pass
        return ws

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def with_a_jar(make_session: SessionFactory, **arguments: Any) -> WebSocketClientSession:
    jar, connector = aiohttp.CookieJar(unsafe=True), aiohttp.TCPConnector(limit=0)
    client_session = aiohttp.ClientSession(cookie_jar=jar, connector=connector)
    return make_session(client_session=client_session, **arguments)


async def test_with_a_cookie_that_each_reply_replaces(make_session: SessionFactory) -> None:
    """No connection but the newest would be handed out, however many are opened."""
    async with balancing() as url:
        session = with_a_jar(make_session, max_connecting=1)
        session.set_min_idle(url, 3)
        await until(lambda: session.stats().connects == 2)
        await asyncio.sleep(0.3)
        assert session.stats().connects == 2
        for connects in range(2, 5):
            async with session.ws_connect(url):
                await until(lambda n=connects: session.stats().connects > n)
            await asyncio.sleep(0.1)
            assert session.stats().connects == connects + 1
        assert session.stats().queued == 0
        await session.close()


async def test_with_a_cookie_that_others_replace(make_session: SessionFactory) -> None:
    """What nobody has used, nor will, is not left to pile up."""
    async with balancing() as url:
        session = with_a_jar(make_session)
        session.set_min_idle(url + "a", 1)
        await until(lambda: idle(session) == 1)
        session.set_min_idle(url + "b", 1)
        await until(lambda: session.stats().connects >= 10)
        assert idle(session) <= 4
        await session.close()


async def test_with_hooks(server: Server, make_session: SessionFactory) -> None:
    async def say_hello(ws: aiohttp.ClientWebSocketResponse) -> None:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"

    session = make_session()
    session.set_min_idle(server.url(), 2, configure=say_hello)
    await until(lambda: idle(session) == 2)
    assert server.received == ["hello"] * 2
    async with session.ws_connect(server.url(), configure=say_hello):
        assert server.handshakes == 2


async def test_in_the_context_of_who_asked(server: Server, make_session: SessionFactory) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen: list[str] = []

    class Limiter:
        async def __aenter__(self) -> None:
            seen.append(variable.get())
            variable.set("of a handshake")

        async def __aexit__(self, *_: object) -> None: ...

    session = make_session(connect_limiter=Limiter())
    variable.set("of who asked")
    session.set_min_idle(server.url(), 2)
    variable.set("later")
    await until(lambda: idle(session) == 2)
    assert seen == ["of who asked"] * 2


# -- limits, and others --------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"limit": 3}, {"limit_total": 3}])
async def test_limits_hold(
    server: Server, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    session = make_session(**limits)
    session.set_min_idle(server.url(), 5)
    await until(lambda: idle(session) == 3)
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    for _ in range(5):
        await look(session)
    await asyncio.gather(*[ws.close() for ws in held])
    await until(lambda: idle(session) == 3)
    # Lowered, and raised again.
    session.resize(**dict.fromkeys(limits, 1))
    await until(lambda: server.open == 1)
    for _ in range(5):
        await look(session)
    assert idle(session) == 1
    session.resize(**dict.fromkeys(limits, 2))
    await until(lambda: idle(session) == 2)
    assert server.peak == 3


async def test_max_connecting_holds(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_connecting=2)
    server.gate.clear()
    session.set_min_idle(server.url(), 5)
    await until(lambda: server.arrived == 2)
    await asyncio.sleep(0.1)
    assert server.arrived == session.stats().connecting == 2
    server.gate.set()
    # Each that ends makes room for the next.
    await until(lambda: idle(session) == 5)


async def test_waiting_callers_come_first(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=2)
    held = [await session.ws_connect(server.url("/b")) for _ in range(2)]
    waiters = [asyncio.ensure_future(session.ws_connect(server.url("/b"))) for _ in range(2)]
    await until(lambda: session.stats().waiting == 2)
    session.set_min_idle(server.url("/a"), 1)
    for _ in range(2):
        await look(session)
        await held.pop().close()
    held += await asyncio.gather(*waiters)
    await held.pop().release()
    # It closes nothing for itself.
    for _ in range(3):
        await look(session)
    assert {request.path for request in server.requests} == {"/b"}
    await held.pop().close()
    await until(lambda: server.requests[-1].path == "/a")
    await until(lambda: idle(session) == 2)
    assert server.peak == 2


async def test_it_gives_way(server: Server, make_session: SessionFactory, told: Any) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    session.set_min_idle(server.url("/a"), 1)
    await until(lambda: server.arrived == 1)
    caller = asyncio.ensure_future(session.ws_connect(server.url("/b")))
    await until(lambda: server.arrived == 2)
    server.gate.set()
    ws = await caller
    await look(session)
    assert session.stats().connecting == 0
    await ws.close()
    await until(lambda: idle(session) == 1)
    # An idle one gives way, too.
    ws = await session.ws_connect(server.url("/b"))
    await ws.close()
    await until(lambda: idle(session) == 1)
    assert server.requests[-1].path == "/a"
    assert server.peak == 1
    assert not told("min_idle_failing")


async def test_a_caller_takes_over_what_is_being_opened(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    server.gate.clear()
    session.set_min_idle(server.url(), 1)
    await until(lambda: server.arrived == 1)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    # And that is made up for.
    await until(lambda: server.arrived == 2)
    server.gate.set()
    await (await caller).release()
    await until(lambda: idle(session) == 2)
    assert server.handshakes == 2


# -- failures ------------------------------------------------------------------------------------


async def test_pauses_double(
    make_session: SessionFactory, told: Any, without_chance: pytest.MonkeyPatch
) -> None:
    without_chance.setattr(pausing, "_FIRST_PAUSE", 0.001)
    without_chance.setattr(pausing, "_LONGEST_PAUSE", 0.032)
    session = make_session()
    session.set_min_idle(NOWHERE, 3)
    await until(lambda: len(told("min_idle_unchanged")) >= 7)
    session.set_min_idle(NOWHERE, 0)
    (first,), others = told("min_idle_failing"), told("min_idle_unchanged")[:7]
    pauses = [round(record.retry_in, 6) for record in (first, *others)]
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.032, 0.032]
    assert first.levelno == logging.WARNING
    assert {record.levelno for record in others} == {logging.DEBUG}
    assert {record.error for record in (first, *others)} == {"ClientConnectorError"}
    assert [record.failures for record in others] == [2, 3, 4, 5, 6, 7, 8]
    # All at the first time, and then one at a time.
    assert len(told("connect_failed")) == 3 + len(told("min_idle_unchanged"))


async def test_pauses_are_at_random(
    make_session: SessionFactory, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing.random, "random", lambda: 0.25)
    session = make_session()
    session.set_min_idle(NOWHERE, 1)
    await until(lambda: told("min_idle_unchanged"))
    pauses = [told("min_idle_failing")[0].retry_in, told("min_idle_unchanged")[0].retry_in]
    assert pauses == [0.025, 0.05]


async def test_nothing_is_tried_before_its_time(
    make_session: SessionFactory, told: Any, without_chance: pytest.MonkeyPatch
) -> None:
    without_chance.setattr(pausing, "_FIRST_PAUSE", 20.0)
    session = make_session()
    session.set_min_idle(NOWHERE, 1)
    await until(lambda: told("min_idle_failing"))
    for _ in range(5):
        keeper_of(session).wake()
        await look(session)
    session.set_min_idle(NOWHERE, 2)
    assert session.stats().connect_errors == 1
    assert session.stats().connecting == 0
    now = keeping.clock()
    without_chance.setattr(keeping, "clock", lambda: now + 21.0)
    await look(session)
    await until(lambda: session.stats().connect_errors == 2)


async def test_a_server_that_comes_back(
    make_session: SessionFactory, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "_LONGEST_PAUSE", 0.1)
    session = make_session()
    async with serving(Server()) as server:
        url, port = server.url(), server.port
        session.set_min_idle(url, 3)
        await until(lambda: idle(session) == 3)
        await asyncio.sleep(0.1)
    await until(lambda: len(told("min_idle_unchanged")) >= 2)
    assert session.stats().endpoints <= 1
    async with serving(Server(), port=port):
        await until(lambda: idle(session) == 3)
        (recovered,) = told("min_idle_recovered")
        assert recovered.levelno == logging.INFO
        assert recovered.failures == 1 + len(told("min_idle_unchanged"))
        assert recovered.seconds > 0
        assert len(told("min_idle_failing")) == 1
        # The next time it begins with the first pause again, and is told of again.
        assert keeper_of(session)._pauses.failures == 0
        await session.close()


@pytest.mark.parametrize(("path", "reason"), [("/greet", "dirty"), ("/bye", "lost")])
async def test_a_server_that_ends_each_at_once(
    make_session: SessionFactory,
    told: Any,
    without_chance: pytest.MonkeyPatch,
    path: str,
    reason: str,
) -> None:
    class Bye(Server):
        async def handle(self, request: Any) -> Any:
            if request.path == "/bye":
                asyncio.get_running_loop().call_later(0.01, request.transport.abort)
            return await super().handle(request)

    without_chance.setattr(pausing, "_FIRST_PAUSE", 0.02)
    # On a busy machine the end comes late, and none of these has turned out well.
    without_chance.setattr(keeping, "_PROBATION", 1_000.0)
    async with serving(Bye()) as server:
        session = make_session()
        session.set_min_idle(server.url(path), 3)
        await until(lambda: len(told("min_idle_unchanged")) >= 3)
        session.set_min_idle(server.url(path), 0)
        assert server.arrived <= 3 + len(told("min_idle_unchanged"))
        (first,) = told("min_idle_failing")
        assert (first.error, first.status) == (reason, None)
        assert not told("min_idle_recovered")
        await session.close()


async def test_a_server_that_ends_each_with_its_answer(
    make_session: SessionFactory, told: Any, without_chance: pytest.MonkeyPatch
) -> None:
    """The connection is closed before its handshake is known to be over."""
    without_chance.setattr(pausing, "_FIRST_PAUSE", 0.02)
    async with raw(b"\x81\x05hello") as server:
        session = make_session()
        session.set_min_idle(server.url, 3)
        keeper = keeper_of(session)
        for slot in session._pool.slots():
            # As its timer may, on a busy machine.
            slot.task.add_done_callback(lambda _: keeper.look())
        await until(lambda: len(told("min_idle_unchanged")) >= 3)
        session.set_min_idle(server.url, 0)
        assert len(server.peers) <= 3 + len(told("min_idle_unchanged"))
        assert told("min_idle_failing")[0].error == "dirty"
        await session.close()


async def test_one_that_is_used_at_once_has_turned_out_well(
    server: Server,
    make_session: SessionFactory,
    told: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "_PROBATION", 1_000.0)
    session = make_session()
    session.set_min_idle(server.url(), 2)
    keeper = keeper_of(session)
    await until(lambda: idle(session) == 2)
    for transport in list(server.transports):
        transport.abort()
    # Ended while nobody knew what to think of them.
    await until(lambda: idle(session) == 1)
    assert keeper._pauses.failures == 1
    ws = await session.ws_connect(server.url())
    await look(session)
    assert keeper._pauses.failures == 0
    assert len(told("min_idle_recovered")) == 1
    await until(lambda: idle(session) == 2)
    # What the server ends in somebody's hands says nothing.
    server.transports[0].abort()
    await ws.receive()
    await ws.release()
    await look(session)
    assert len(told("min_idle_failing")) == 1


async def test_configure_that_fails(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    async def fail(ws: aiohttp.ClientWebSocketResponse) -> None:
        raise KeyError

    session = make_session()
    session.set_min_idle(server.url(), 1, configure=fail)
    await until(lambda: told("min_idle_failing"))
    assert told("min_idle_failing")[0].error == "KeyError"


async def test_a_cookie_jar_that_fails(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    class Jar(aiohttp.CookieJar):
        def filter_cookies(self, *args: Any) -> Any:
            if not mended:
                raise LookupError
            return super().filter_cookies(*args)

    mended = False
    jar = Jar(unsafe=True)
    jar.update_cookies({"c": "1"})
    session = make_session(client_session=aiohttp.ClientSession(cookie_jar=jar))
    session.set_min_idle(server.url(), 1)
    assert told("min_idle_failing")[0].error == "LookupError"
    await until(lambda: told("min_idle_unchanged"))
    mended = True
    await until(lambda: idle(session) == 1)


# -- the end -------------------------------------------------------------------------------------


async def test_close_ends_it(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    session.set_min_idle(server.url(), 2)
    await until(lambda: idle(session) == 2)
    await session.close()
    await asyncio.sleep(0.15)
    assert server.handshakes == 2
    with pytest.raises(PoolClosedError):
        session.set_min_idle(server.url(), 2)


async def test_close_during_a_handshake(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    server.gate.clear()
    session.set_min_idle(server.url(), 2)
    await until(lambda: server.arrived == 2)
    await session.close()
    server.gate.set()
    await asyncio.sleep(0.15)
    assert server.arrived == 2
    assert not told("min_idle_failing")


async def test_no_more_during_a_handshake(
    server: Server, make_session: SessionFactory, told: Any
) -> None:
    session = make_session()
    server.gate.clear()
    session.set_min_idle(server.url(), 2)
    await until(lambda: server.arrived == 2)
    session.set_min_idle(server.url(), 0)
    # Those that nobody wants any more may be stopped, but have some time.
    assert not any(slot.kept for slot in session._pool.slots())
    assert session._lifecycle.timer is not None
    server.gate.set()
    await until(lambda: idle(session) == 2)
    assert not told("min_idle_failing")


@pytest.mark.parametrize("is_connecting", [True, False])
async def test_who_cancels_all_tasks_ends_nothing(
    server: Server, make_session: SessionFactory, is_connecting: bool
) -> None:
    others = asyncio.all_tasks()
    session = make_session()
    if is_connecting:
        server.gate.clear()
    session.set_min_idle(server.url(), 2)
    await until(lambda: server.arrived == 2 and (is_connecting or idle(session) == 2))
    for task in asyncio.all_tasks() - others:
        if "RequestHandler" not in repr(task):
            task.cancel()
    server.gate.set()
    if not is_connecting:
        server.transports[0].abort()
        await until(lambda: server.handshakes == 3)
    await until(lambda: idle(session) == 2)


async def test_it_keeps_no_session_alive(
    server: Server, without_chance: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    without_chance.setattr(pausing, "_FIRST_PAUSE", 1_000.0)
    sessions = [WebSocketClientSession()]
    sessions[0].set_min_idle(server.url(), 2)
    # One that works, and one that waits for its next try.
    sessions[0].set_min_idle(NOWHERE, 1)
    await until(lambda: sessions[0].stats().connect_errors and idle(sessions[0]) == 2)
    dropped = [weakref.ref(sessions[0]), *map(weakref.ref, sessions[0]._keeping.keepers.values())]
    # The tasks of its handshakes end some turns later.
    for _ in range(5):
        await asyncio.sleep(0)
    # What aiohttp leaves of a handshake that failed has our frames.
    gc.collect()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="Unclosed"):
            sessions.clear()
        assert [thing() for thing in dropped] == [None] * 3
    finally:
        gc.enable()
    await until(lambda: not server.open)
    await asyncio.sleep(0.15)
    assert server.handshakes == 2


# -- arguments -----------------------------------------------------------------------------------


def test_a_loop_must_be_running() -> None:
    with pytest.raises(RuntimeError, match="running event loop"):
        WebSocketClientSession().set_min_idle(NOWHERE, 1)


@pytest.mark.parametrize("count", [-1, 1.5, True, None, "2"])
async def test_bad_count(make_session: SessionFactory, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="count"):
        make_session().set_min_idle(NOWHERE, count)


async def test_bad_arguments(make_session: SessionFactory) -> None:
    session = make_session()
    for url, options in (
        ("host", {}),
        (5, {}),
        (NOWHERE, {"headers": 5}),
        (NOWHERE, {"no_option": 5}),
        (NOWHERE, {"reuse_key": []}),
        (NOWHERE, {"check": 5}),
    ):
        with pytest.raises((TypeError, ValueError)):
            session.set_min_idle(url, 1, **options)  # type: ignore[arg-type]
    assert session._keeping.keepers == {}
    assert session.stats().connecting == 0
