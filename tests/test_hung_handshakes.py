"""Handshakes that a server leaves unanswered, and those that merely take long."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from websockets.asyncio.server import serve

from aiowebsocketclient import PrewarmError, WebSocketClientSession, keeping, lifecycle
from aiowebsocketclient._pool_py import CONNECTING, LATE_FLOOR, ORPHAN_GRACE

from .conftest import SessionFactory, until
from .servers import Server, serving

# What a caller waits for, in seconds, before it gives up: long enough for a handshake that is
# answered, on a busy machine.
PATIENCE = 1.0


class Balancer(Server):
    """A server behind a balancer, some of whose backends never answer a handshake."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether the handshake of this number, from 0, goes to a dead backend.
        self.is_dead: Callable[[int], bool] = lambda number: number == 0
        #: Seconds that all the others take.
        self.seconds = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        number = self.arrived
        if self.is_dead(number):
            self.arrived += 1
            await self.stopped.wait()
            raise web.HTTPServiceUnavailable
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return await super().handle(request)


@pytest_asyncio.fixture
async def balancer() -> AsyncIterator[Balancer]:
    async with serving(Balancer()) as server:
        assert isinstance(server, Balancer)
        yield server


async def use(session: WebSocketClientSession, url: str, patience: float = PATIENCE) -> str:
    try:
        async with asyncio.timeout(patience), session.ws_connect(url) as ws:
            await ws.send_str("hello")
            return await ws.receive_str()
    except TimeoutError:
        return "gave up"


async def test_a_dead_backend_costs_one_call(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    answers = [await use(session, balancer.url(), 0.2)]
    answers += [await use(session, balancer.url(), 30.0) for _ in range(3)]
    assert answers == ["gave up", "hello", "hello", "hello"]
    assert balancer.arrived == 2


async def test_of_a_server_that_is_not_aiohttp(make_session: SessionFactory) -> None:
    """One that does not accept TCP connections while it hangs, but for the kernel that does."""

    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    hung: list[asyncio.StreamWriter] = []

    async def balance(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not hung:
            hung.append(writer)
            return
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    async with serve(echo, "127.0.0.1", 0) as backend:
        port = backend.sockets[0].getsockname()[1]
        front = await asyncio.start_server(balance, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{front.sockets[0].getsockname()[1]}/"
        session = make_session()
        answers = [await use(session, url, 0.2), await use(session, url, 30.0)]
        assert answers == ["gave up", "hello"]
        await session.close()
        hung[0].close()
        front.close()


async def test_each_that_gives_up_has_tried_a_handshake_of_its_own(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session(max_connecting=4)
    balancer.is_dead = lambda number: True
    for number in range(4):
        assert await use(session, balancer.url(), 0.1) == "gave up"
        await until(lambda number=number: balancer.arrived == number + 1)  # type: ignore[misc]
    # No more than may be under way: the next leans on one of these.
    assert await use(session, balancer.url(), 0.1) == "gave up"
    assert session.stats().connecting == balancer.arrived == 4


@pytest.mark.parametrize("limits", [{}, {"limit": 1}, {"limit_total": 2}, {"max_connecting": 1}])
async def test_a_slow_server_is_given_its_time(
    balancer: Balancer, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    """Callers that wait for less than a handshake takes get one of those that were begun."""
    session = make_session(**limits)
    balancer.is_dead = lambda number: False
    balancer.seconds = 0.5
    answers = []
    while "hello" not in answers:
        answers.append(await use(session, balancer.url(), 0.2))
    assert answers[0] == "gave up"
    assert len(answers) < ORPHAN_GRACE / 0.2
    assert await use(session, balancer.url(), 30.0) == "hello"


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"limit": 1}, {"max_connecting": 1}], ids=str)
async def test_grace_is_not_begun_anew_by_each_caller(
    balancer: Balancer, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    session = make_session(**limits)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while await use(session, balancer.url(), 0.3) == "gave up":
        # Were it begun anew, this would go on for ever.
        assert loop.time() - begun < 4 * ORPHAN_GRACE
    assert balancer.arrived == 2


@pytest.mark.parametrize("dead", [1, 2])
async def test_a_late_handshake_gets_another_beside_it(
    balancer: Balancer, make_session: SessionFactory, dead: int
) -> None:
    session = make_session(force_close=True)
    balancer.is_dead = lambda number: 1 <= number <= dead
    held = await session.ws_connect(balancer.url())
    # Nobody has to give up for it.
    async with asyncio.timeout(30), session.ws_connect(balancer.url()) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
    assert balancer.arrived == 2 + dead
    await held.release()


async def test_conn_timeout_counts_from_the_first_handshake(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    """A caller whose handshakes are all late fails when the first of them times out."""
    session = make_session(conn_timeout=1.5)
    balancer.is_dead = lambda number: number > 0
    held = await session.ws_connect(balancer.url())
    with pytest.raises(aiohttp.ConnectionTimeoutError):
        await session.ws_connect(balancer.url())
    assert balancer.arrived >= 3
    assert session.stats().connect_errors == 1
    assert session.stats().connecting >= 1
    await held.release()


async def test_a_handshake_that_waits_for_connect_limiter_is_not_late(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    limiter = asyncio.Semaphore(1)
    session = make_session(connect_limiter=limiter)
    balancer.is_dead = lambda number: False
    async with limiter:
        for _ in range(3):
            assert await use(session, balancer.url(), 0.02) == "gave up"
        assert session.stats().connecting == 1
    assert await use(session, balancer.url(), 30.0) == "hello"
    assert balancer.arrived == 1


# -- prewarm() and set_min_idle() ----------------------------------------------------------------


async def test_prewarm_does_not_count_on_a_late_one(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    balancer.is_dead = lambda number: number % 3 == 1
    async with asyncio.timeout(30):
        assert await session.prewarm(balancer.url(), 3) == 3
    assert session.stats().idle == 3


async def test_prewarm_tells_of_those_that_hang(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    balancer.is_dead = lambda number: number > 0
    async with asyncio.timeout(30):
        with pytest.raises(PrewarmError) as raised:
            await session.prewarm(balancer.url(), 2)
    assert raised.value.opened == 1
    assert all(type(e) is aiohttp.ConnectionTimeoutError for e in raised.value.exceptions)
    # It does not stop them at once: they may still come to something.
    assert session.stats().connecting == len(raised.value.exceptions)
    assert balancer.arrived == 1 + 3


async def test_prewarm_does_not_count_on_what_a_caller_gave_up(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    assert await use(session, balancer.url(), 0.2) == "gave up"
    async with asyncio.timeout(30):
        assert await session.prewarm(balancer.url(), 1) == 1


async def test_min_idle_does_not_count_on_what_a_caller_gave_up(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    assert await use(session, balancer.url(), 0.2) == "gave up"
    session.set_min_idle(balancer.url(), 1)
    await until(lambda: session.stats().idle == 1, 30.0)


async def test_min_idle_does_not_count_on_a_late_one(
    balancer: Balancer,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(keeping, "_PERIOD", 0.05)
    caplog.set_level(logging.WARNING, "aiowebsocketclient")
    session = make_session()
    balancer.is_dead = lambda number: number == 1
    held = await session.ws_connect(balancer.url())
    session.set_min_idle(balancer.url(), 1)
    await until(lambda: session.stats().idle == 1, 30.0)
    assert [(record.event, record.error) for record in caplog.records] == [
        ("min_idle_failing", "late")
    ]
    await held.release()


@pytest.mark.slow
async def test_min_idle_begins_again_where_the_very_first_hangs(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session()
    session.set_min_idle(balancer.url(), 1)
    await until(lambda: session.stats().idle == 1, 30.0)
    assert balancer.arrived == 2


@pytest.mark.parametrize("limit", ["limit", "limit_total", "max_connecting"])
async def test_callers_of_a_path_that_hangs_leave_places_to_others(
    server: Server, make_session: SessionFactory, limit: str
) -> None:
    """However many come: each is counted by when it came, not by what it has lost."""
    session = make_session(**{limit: 1})

    async def use_what_hangs() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await session.ws_connect(server.url("/hang"))

    async def keep_coming() -> None:
        async with asyncio.TaskGroup() as callers:
            while True:
                callers.create_task(use_what_hangs())
                await asyncio.sleep(0.1)

    crowd = asyncio.create_task(keep_coming())
    await until(lambda: session.stats().waiting)
    try:
        assert await use(session, server.url(), 30.0) == "hello"
    finally:
        crowd.cancel()
        await asyncio.wait([crowd])


@pytest.mark.parametrize("limit", ["limit", "limit_total"])
async def test_at_a_limit_what_is_idle_gives_way_to_another_handshake(
    balancer: Balancer, make_session: SessionFactory, limit: str
) -> None:
    session = make_session(**{limit: 2})
    balancer.is_dead = lambda number: number == 1
    async with session.ws_connect(balancer.url(), headers={"X-User": "another"}):
        pass
    assert await use(session, balancer.url(), 0.2) == "gave up"
    assert await use(session, balancer.url(), 30.0) == "hello"
    assert balancer.arrived == 3
    assert session.stats().closed_evicted == 1


async def test_limits_hold_where_everything_hangs(
    balancer: Balancer, make_session: SessionFactory
) -> None:
    session = make_session(limit=3, max_connecting=2)
    balancer.is_dead = lambda number: True
    peak = 0
    for _ in itertools.repeat(None, 10):
        callers = [asyncio.create_task(use(session, balancer.url(), 0.05)) for _ in range(5)]
        await asyncio.wait(callers)
        stats = session.stats()
        peak = max(peak, stats.connecting)
        assert stats.connecting + stats.closing <= 3
    assert peak <= 2


async def test_prewarm_waits_for_one_that_a_caller_gave_up(
    server: Server, make_session: SessionFactory
) -> None:
    server.gate.clear()
    session = make_session(limit=1)
    warming = asyncio.create_task(session.prewarm(server.url(), 1))
    await until(lambda: server.arrived)
    # A caller takes the handshake over, and leaves it.
    assert await use(session, server.url(), 0.05) == "gave up"
    await asyncio.sleep(2 * LATE_FLOOR)
    assert not warming.done()
    server.gate.set()
    assert await warming == 1
    assert server.arrived == 1


async def test_prewarm_and_a_caller_share_no_exception(
    server: Server, make_session: SessionFactory
) -> None:
    server.gate.clear()
    session = make_session(limit=2)
    warming = asyncio.create_task(session.prewarm(server.url("/refuse"), 2))
    await until(lambda: server.arrived == 2)
    assert await use(session, server.url("/refuse"), 0.05) == "gave up"
    calls = [asyncio.create_task(use(session, server.url("/refuse"), 30.0)) for _ in range(2)]
    await until(lambda: session.stats().waiting or all(s.owner for s in session._pool.slots()))
    server.gate.set()
    theirs = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in theirs] == [aiohttp.WSServerHandshakeError] * 2
    with pytest.raises(PrewarmError) as caught:
        await warming
    assert not {id(error) for error in theirs} & {id(error) for error in caught.value.exceptions}


async def test_one_that_a_caller_gave_up_is_no_failure_of_what_is_kept_idle(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aiowebsocketclient")
    server.gate.clear()
    session = make_session()
    session.set_min_idle(server.url(), 1)
    await until(lambda: server.arrived)
    assert await use(session, server.url(), 0.05) == "gave up"
    await until(lambda: server.arrived == 2)
    (keeper,) = session._keeping.keepers.values()
    keeper.look()
    server.gate.set()
    await until(lambda: session.stats().idle == 2)
    assert not [r for r in caplog.records if getattr(r, "event", "").startswith("min_idle")]
    session.set_min_idle(server.url(), 0)


async def test_given_up_handshakes_do_not_hold_up_others_in_a_limiter(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is stopped in time.
    monkeypatch.setattr(lifecycle.Lifecycle, "_expire", lambda _: None)
    async with serving(Server()) as dead:
        session = make_session(connect_limiter=asyncio.Semaphore(3))
        callers = [use(session, dead.url("/hang"), 0.2) for _ in range(3)]
        assert await asyncio.gather(*callers) == ["gave up"] * 3
        hung = session._pool.slots()
        assert [slot.state for slot in hung] == [CONNECTING] * 3
        assert await use(session, server.url(), 30.0) == "hello"
        # One place was wanted, and the oldest may yet come to a connection.
        assert [slot.state == CONNECTING for slot in hung] == [True, False, True]
        both = [use(session, server.url(f"/{number}"), 30.0) for number in range(2)]
        assert await asyncio.gather(*both) == ["hello"] * 2
        assert hung[0].state == CONNECTING


async def test_a_slow_server_beside_others_in_a_limiter(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its callers give up before a handshake is over, and one of these is used all the same."""
    monkeypatch.setattr(lifecycle.Lifecycle, "_expire", lambda _: None)
    async with serving(Server()) as slow:
        slow.gate.clear()
        session = make_session(connect_limiter=asyncio.Semaphore(2))
        callers = [use(session, slow.url(), 0.2) for _ in range(3)]
        assert await asyncio.gather(*callers) == ["gave up"] * 3
        first = session._pool.slots()[0]
        others = [use(session, server.url(f"/{number}"), 30.0) for number in range(4)]
        assert await asyncio.gather(*others) == ["hello"] * 4
        slow.gate.set()
        assert await use(session, slow.url(), 30.0) == "hello"
        assert first.uses == 1


async def test_one_that_may_serve_the_caller_who_waits_for_the_limiter_goes_on(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle.Lifecycle, "_expire", lambda _: None)
    server.gate.clear()
    session = make_session(connect_limiter=asyncio.Semaphore(1))
    assert await use(session, server.url(), 0.2) == "gave up"
    (slot,) = session._pool.slots()
    caller = asyncio.create_task(use(session, server.url(), 30.0))
    await until(lambda: len(session._pool) == 2)
    await asyncio.sleep(0.01)
    assert slot.state == CONNECTING
    server.gate.set()
    assert await caller == "hello"
    assert slot.uses == 1


async def test_one_that_is_stopped_while_it_waits_for_the_limiter(
    server: Server, make_session: SessionFactory
) -> None:
    limiter = asyncio.Semaphore(1)
    await limiter.acquire()
    session = make_session(connect_limiter=limiter)
    assert await use(session, server.url(), 0.05) == "gave up"
    session.drain()
    await until(lambda: not len(session._pool))
    assert not session._lifecycle._limiter_line._waiting  # type: ignore[union-attr]
    limiter.release()
    assert await use(session, server.url(), 30.0) == "hello"
