"""Sessions that share a limit through a real Redis, in one process: what their users see."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from aiowebsocketclient import (
    FleetUnavailableError,
    PoolTimeoutError,
    TraceConfig,
    WebSocketClientSession,
)

from .conftest import SessionFactory, until
from .fleet.counting import CountingServer
from .redis_server import RedisServer, require_redis
from .servers import Server

redis = pytest.importorskip("redis.asyncio")

from aiowebsocketclient.redis import RedisFleet  # noqa: E402

#: A lease that no test outlasts: what happens before its end, happens for another reason.
LONG = 100.0
PATIENCE = 30.0

_numbers = itertools.count()


class Fleets:
    """Makes fleets on a Redis, each call another account unless it is named."""

    def __init__(self, server: RedisServer, stack: contextlib.AsyncExitStack) -> None:
        self.server = server
        self._stack = stack
        self.asking = server.client()
        stack.callback(self.asking.close)

    def client(self, url: str | None = None, **options: Any) -> Any:
        client = redis.from_url(url or self.server.url, **options)
        self._stack.push_async_callback(client.aclose)
        return client

    def __call__(self, name: str | None = None, client: Any = None, **arguments: Any) -> RedisFleet:
        """Return a fleet on a Redis that looks as if it had been up for long."""
        if name is None:
            name = f"{os.getpid()} {next(_numbers)}"
        arguments = {"limit": 2, "lease": LONG} | arguments
        fleet = RedisFleet(client or self.client(), name, **arguments)
        key = f"{fleet.key}:state"
        if not self.asking.exists(key):
            run = self.asking.info("server")["run_id"]
            self.asking.hset(key, mapping={"used": 0, "run": run})
        return fleet

    def used(self, fleet: RedisFleet) -> int:
        return int(self.asking.hget(f"{fleet.key}:state", "used") or 0)

    def members(self, fleet: RedisFleet) -> int:
        return int(self.asking.zcard(f"{fleet.key}:expiry"))

    def waiting(self, fleet: RedisFleet) -> int:
        return int(self.asking.zcard(f"{fleet.key}:line"))

    def calls(self) -> int:
        statistics = self.asking.info("commandstats")
        return int(statistics.get("cmdstat_evalsha", {"calls": 0})["calls"])


@pytest_asyncio.fixture
async def fleets(redis_server: RedisServer) -> AsyncIterator[Fleets]:
    async with contextlib.AsyncExitStack() as stack:
        yield Fleets(redis_server, stack)


@pytest_asyncio.fixture
async def own(tmp_path: Path) -> AsyncIterator[Fleets]:
    """Return fleets on a Redis that a test may stop."""
    require_redis()
    async with contextlib.AsyncExitStack() as stack:
        yield Fleets(stack.enter_context(RedisServer(tmp_path)), stack)


@pytest_asyncio.fixture
async def counting() -> AsyncIterator[CountingServer]:
    async with CountingServer().serving() as server:
        yield server


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[..., list[logging.LogRecord]]:
    """Return what gives the records of an event."""
    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")

    def of(event: str) -> list[logging.LogRecord]:
        return [r for r in caplog.records if getattr(r, "event", None) == event]

    return of


Records = Callable[..., list[logging.LogRecord]]


# What a test holds in use to its end; a handle that is dropped gives its place back.
_kept: list[Any] = []


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    yield
    _kept.clear()


async def hold(session: WebSocketClientSession, server: Server, count: int) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        held = [await session.ws_connect(server.url()) for _ in range(count)]
    _kept.extend(held)
    return held


def member_of(session: WebSocketClientSession) -> str:
    return session._lifecycle.lessee._member  # type: ignore[union-attr]


def waiter(session: WebSocketClientSession, url: str) -> "asyncio.Task[Any]":
    async def wait() -> Any:
        return await session.ws_connect(url)

    return asyncio.create_task(wait())


async def result_of(task: "asyncio.Task[Any]") -> Any:
    ws = await asyncio.wait_for(task, PATIENCE)
    _kept.append(ws)
    return ws


# -- one limit -----------------------------------------------------------------------------------


async def test_two_sessions_share_the_limit(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=3)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    held = await hold(first, server, 2)
    await hold(second, server, 1)
    waiting = waiter(second, server.url())
    await until(lambda: fleets.waiting(fleet) == 1)
    assert server.peak == 3
    await held[0].close()
    await result_of(waiting)
    assert server.peak == 3
    assert fleets.used(fleet) == 3


async def test_an_idle_connection_goes_to_a_session_that_waits(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=1, keep_idle=0.05)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    async with first.ws_connect(server.url()):
        pass
    assert first.stats().idle == 1
    await hold(second, server, 1)
    assert server.peak == 1
    assert first.stats().closed_evicted == 1
    assert first.fleet_stats().yielded == 1


async def test_a_connection_that_is_released_late_is_offered_all_the_same(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    """A release tells nobody; and sessions that have equally many take no turns."""
    fleet = fleets(limit=2, keep_idle=0.05)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    (ws,) = await hold(first, server, 1)
    await hold(second, server, 1)
    waiting = waiter(second, server.url())
    # All timers of the time when it was opened have gone off.
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await ws.release()
    await result_of(waiting)
    assert server.peak == 2


async def test_an_idle_connection_is_kept_as_long_as_it_says(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    """Not for one that lacks all places, nor for one that has two fewer: that is their share."""
    fleet = fleets(limit=2, keep_idle=1000.0)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet, acquire_timeout=1.5)
    async with first.ws_connect(server.url()):
        pass
    await hold(second, server, 1)
    with pytest.raises(PoolTimeoutError):
        await second.ws_connect(server.url())
    assert first.stats().idle == 1
    assert first.fleet_stats().yielded == 0


async def test_a_smaller_limit_of_the_session_holds_besides(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=fleets(limit=5), limit_total=2, acquire_timeout=0.5)
    await hold(session, server, 2)
    with pytest.raises(PoolTimeoutError) as caught:
        await session.ws_connect(server.url())
    assert caught.value.waited_for == "limit_total"


async def test_the_error_says_whose_places_are_taken(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=3)
    first = make_session(fleet=fleet)
    second = make_session(fleet=fleet, acquire_timeout=0.5, name="second")
    await hold(second, server, 1)
    await hold(first, server, 2)
    with pytest.raises(PoolTimeoutError, match="second") as caught:
        await second.ws_connect(server.url())
    assert caught.value.waited_for == "fleet"
    said = "the fleet grants no more places, so release connections sooner in all its sessions or"
    assert f"{said} raise its limit (" in str(caught.value)
    assert "the fleet's limit is 3: 3 places are taken, 1 of them here" in str(caught.value)
    assert "sessions that wait: 1" in str(caught.value)


async def test_statistics(fleets: Fleets, make_session: SessionFactory, server: Server) -> None:
    assert make_session().fleet_stats() is None
    fleet = fleets(limit=3)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    assert first.fleet_stats().syncs == 0
    held = await hold(first, server, 3)
    waiting = waiter(second, server.url())
    await until(lambda: second.fleet_stats().waiting_sessions == 1)
    stats = second.fleet_stats()
    assert (stats.limit, stats.used, stats.places, stats.wanted) == (3, 3, 0, 1)
    assert (stats.learning, stats.sync_errors, stats.losses) == (0.0, 0, 0)
    assert stats.syncs >= 1
    assert 0 < stats.sync_seconds < PATIENCE
    await until(lambda: first.fleet_stats().yielded == 1)
    await held[0].release()
    await result_of(waiting)
    assert first.fleet_stats().wanted == 2
    assert second.fleet_stats().places == 1


@pytest.mark.parametrize("limit", [2, 1])
async def test_an_idle_connection_is_closed_only_if_the_fleet_has_no_place(
    fleets: Fleets, make_session: SessionFactory, server: Server, limit: int
) -> None:
    # So is a caller refused only then.
    session = make_session(fleet=fleets(limit=limit, keep_idle=1000.0), max_waiting=1)
    async with session.ws_connect(server.url("/")):
        pass
    async with session.ws_connect(server.url("/other")):
        assert session.stats().idle == limit - 1
    assert session.stats().closed_evicted == 2 - limit
    assert server.peak == limit


async def test_reuse_asks_nobody(own: Fleets, make_session: SessionFactory, server: Server) -> None:
    # Long: it says so when a connection is idle, and when it is not idle any more.
    session = make_session(fleet=own(keep_idle=1000.0))
    async with session.ws_connect(server.url()):
        pass
    await until(lambda: session.fleet_stats().syncs == 2)
    before = own.calls()
    for _ in range(200):
        for _ in range(100):
            async with session.ws_connect(server.url()):
                pass
        await asyncio.sleep(0)
    assert session.stats().reused == 20_000
    assert own.calls() == before


@pytest.mark.parametrize("leaves_first", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_sessions_on_one_client_share_one_subscribed_connection(
    fleets: Fleets, make_session: SessionFactory, server: Server, leaves_first: bool
) -> None:
    name = secrets.token_hex(4)
    client = fleets.client(client_name=name)
    sessions = [make_session(fleet=fleets(client=client)) for _ in range(4)]
    for session in sessions:
        await hold(session, server, 1)

    def subscribed() -> list[int]:
        clients = fleets.asking.client_list()
        return [int(c["sub"]) for c in clients if c["name"] == name and int(c["sub"])]

    await until(lambda: subscribed() == [4])
    if leaves_first:
        # Its channel goes with the next message, or a look at the connection.
        await sessions[0].close()
        await until(lambda: subscribed() == [3])
    for session in sessions:
        await session.close()
    await until(lambda: subscribed() == [])


async def test_a_session_with_nothing_open_is_no_member(
    own: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = own(lease=1.0)
    session = make_session(fleet=fleet)
    async with session.ws_connect(server.url()) as ws:
        await ws.close()
    # It has heard so, too.
    await until(lambda: not [c for c in own.asking.client_list() if int(c["sub"])])
    assert own.used(fleet) == 0
    syncs = session.fleet_stats().syncs
    # More than a renewal of the lease, which is in a third of it.
    await asyncio.sleep(1.0)
    assert session.fleet_stats().syncs == syncs
    assert not [c for c in own.asking.client_list() if int(c["sub"])]
    assert session.fleet_stats().losses == 0
    # And back.
    await hold(session, server, 1)


# -- places that come back -----------------------------------------------------------------------


async def test_close_gives_the_places_back_at_once(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=2)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    await hold(first, server, 2)
    waiting = waiter(second, server.url())
    await until(lambda: fleets.waiting(fleet) == 1)
    await first.close()
    await result_of(waiting)
    await second.close()
    assert fleets.used(fleet) == 0
    assert server.peak == 2


async def test_close_is_bounded_when_redis_hangs(
    own: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    session = make_session(fleet=own(), close_timeout=PATIENCE)
    await hold(session, server, 2)
    own.server.freeze()
    began = time.monotonic()
    await session.close()
    assert time.monotonic() - began < PATIENCE / 2
    assert server.open == 0
    (record,) = records("fleet_unreachable")
    assert record.levelno == logging.WARNING


async def test_close_leaves_no_task_when_redis_hangs(
    own: Fleets, make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=own(), close_timeout=0.0)
    await hold(session, server, 2)
    own.server.freeze()
    await session.close()
    for _ in range(5):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if "aiowebsocketclient" in repr(task)]
    assert not left
    await until(lambda: not server.open)


async def test_a_detached_connection_does_not_count(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=1)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    (ws,) = await hold(first, server, 1)
    ws.detach()
    await hold(second, server, 1)
    assert server.open == 2
    assert fleets.used(fleet) == 1
    await ws.close()


async def test_drain_gives_idle_places_back(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=2)
    session = make_session(fleet=fleet)
    for ws in await hold(session, server, 2):
        await ws.release()
    await session.drain()
    await until(lambda: fleets.used(fleet) == 0)
    await hold(session, server, 2)


async def test_a_lost_handle_gives_its_place_back(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=1)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    lost = await first.ws_connect(server.url())
    with pytest.warns(ResourceWarning, match="never released"):
        del lost
        gc.collect()
    await hold(second, server, 1)
    assert server.peak == 1


async def test_the_lease_ends_a_session_that_is_dropped(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    name = secrets.token_hex(4)
    fleet = fleets(name, limit=1, lease=1.5)
    asyncio.get_running_loop().set_exception_handler(lambda _, told: None)
    dropped = WebSocketClientSession(fleet=fleet)
    async with dropped.ws_connect(server.url()):
        pass
    with pytest.warns(ResourceWarning, match="Unclosed"):
        del dropped
        gc.collect()
    await until(lambda: not server.open)
    await hold(make_session(fleet=fleets(name, limit=1, lease=1.5)), server, 1)
    assert server.peak == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_a_forked_child_does_not_leave_for_its_parent(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=2)
    session = make_session(fleet=fleet)
    (ws,) = await hold(session, server, 1)
    pid = os.fork()
    if not pid:
        # A child that does no harm ends with 0.
        try:
            gc.collect()
            os._exit(0 if session.closed and session.fleet_stats() is not None else 1)
        finally:
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (fleets.used(fleet), fleets.members(fleet)) == (1, 1)
    await ws.send_str("x")
    assert await ws.receive_str() == "x"
    await hold(session, server, 1)
    await session.close()
    assert fleets.used(fleet) == 0


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_fleet_serves_two_loops_one_after_the_other(redis_server: RedisServer, kind: str) -> None:
    factory = pytest.importorskip(kind).new_event_loop
    client = redis.from_url(redis_server.url)
    fleet = RedisFleet(client, secrets.token_hex(4), limit=2, lease=LONG)

    async def use(server: CountingServer) -> None:
        first = WebSocketClientSession(fleet=fleet, acquire_timeout=PATIENCE)
        second = WebSocketClientSession(fleet=fleet, acquire_timeout=PATIENCE)
        async with first, second, first.ws_connect(server.url("a")):
            waiting = [waiter(second, server.url("b")) for _ in range(2)]
            (await result_of(waiting[0])).release()
            await result_of(waiting[1])
        await client.aclose()

    async def main() -> None:
        async with CountingServer().serving() as server:
            # A fresh Redis grants nothing before it has been up for a lease.
            with redis_server.client() as asking:
                run = asking.info("server")["run_id"]
                asking.hset(f"{fleet.key}:state", mapping={"used": 0, "run": run})
            await use(server)
            assert server.peak() == 2

    for _ in range(2):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())


# -- connections that nobody waits for -----------------------------------------------------------


async def test_prewarm_takes_what_is_free_and_no_more(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=3, keep_idle=0.0)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    assert await first.prewarm(server.url(), 2) == 2
    assert await second.prewarm(server.url(), 3) == 1
    assert await second.prewarm(server.url(), 3) == 0
    assert (first.stats().idle, second.stats().idle) == (2, 1)
    assert first.fleet_stats().yielded == 0
    assert server.peak == 3


@pytest.mark.slow
async def test_idle_connections_are_kept_from_free_places_only(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=3, keep_idle=0.0, lease=5.0)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    assert await first.prewarm(server.url(), 2) == 2
    await hold(second, server, 1)
    second.set_min_idle(server.url(), 2)
    # It asks in each third of a lease, and gets none.
    syncs = second.fleet_stats().syncs
    await until(lambda: second.fleet_stats().syncs >= syncs + 2)
    assert first.stats().idle == 2
    assert first.fleet_stats().yielded == 0
    await first.close()
    await until(lambda: second.stats().idle == 2)
    assert server.peak == 3


async def test_callers_come_before_connections_that_nobody_waits_for(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=2, keep_idle=0.0)
    first, second = make_session(fleet=fleet), make_session(fleet=fleet)
    first.set_min_idle(server.url(), 2)
    await until(lambda: first.stats().idle == 2)
    await hold(second, server, 1)
    await hold(second, server, 1)
    assert first.stats().idle == 0
    assert server.peak == 2


@pytest.mark.parametrize("arguments", [{"limit": 2}, {"limit_total": 2}, {"fallback": 2}])
async def test_no_place_is_taken_for_what_a_session_may_not_open(
    fleets: Fleets, make_session: SessionFactory, server: Server, arguments: dict[str, Any]
) -> None:
    arguments = {"limit": 2} | arguments
    fallback = arguments.pop("fallback", 0)
    fleet = fleets(limit=5, fallback=fallback)
    first, second = make_session(fleet=fleet, **arguments), make_session(fleet=fleet)
    first.set_min_idle(server.url(), 5)
    async with asyncio.timeout(PATIENCE):
        await first.prewarm(server.url(), 5)
    await until(lambda: first.stats().idle == 2)
    await hold(second, server, 3 + 2 * fallback)
    assert fleets.used(fleet) == (5 if not fallback else 2 * fallback + 1)
    assert first.stats().idle == 2


# -- handshakes in any window --------------------------------------------------------------------


async def test_no_more_handshakes_than_the_rate_in_any_window(
    fleets: Fleets, make_session: SessionFactory, counting: CountingServer
) -> None:
    fleet = fleets(limit=20, connect_rate=(3, 0.5))
    sessions = [make_session(fleet=fleet, acquire_timeout=PATIENCE) for _ in range(2)]
    waiting = [waiter(session, counting.url("x")) for session in sessions for _ in range(3)]
    for task in waiting:
        await result_of(task)
    assert len(counting.handshakes) == 6
    assert counting.most_handshakes(0.5) <= 3
    # All have come in two windows, which are 2 s longer than said.
    first, last = counting.handshakes[0][0], counting.handshakes[-1][0]
    assert last - first >= 0.5


@pytest.mark.slow
async def test_a_cancelled_handshake_loses_its_turn_only(
    fleets: Fleets, make_session: SessionFactory, counting: CountingServer
) -> None:
    fleet = fleets(limit=20, connect_rate=(1, 0.5))
    session = make_session(fleet=fleet, acquire_timeout=PATIENCE)
    await result_of(waiter(session, counting.url("x")))
    first, second = waiter(session, counting.url("a")), waiter(session, counting.url("b"))
    await asyncio.sleep(0.3)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await result_of(second)
    assert counting.most_handshakes(0.5) == 1


# -- a lost lease --------------------------------------------------------------------------------


async def test_nobody_waits_for_a_fleet_that_is_away(
    own: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    session = make_session(fleet=own(lease=1.0, limit=2), acquire_timeout=PATIENCE)
    (ws,) = await hold(session, server, 1)
    own.server.freeze()
    # Those who wait, and whose handshake nobody has a connection for.
    others = [waiter(session, server.url("/other")) for _ in range(2)]
    await until(lambda: session.fleet_stats().losses == 1)
    for task in others:
        with pytest.raises(FleetUnavailableError, match=r"a whole lease, which .* \(1 are open\)"):
            await result_of(task)
    # At once, with no regard to acquire_timeout.
    with pytest.raises(FleetUnavailableError):
        await asyncio.wait_for(session.ws_connect(server.url("/other")), PATIENCE / 2)
    # What is open for this handshake is waited for, and used.
    waiting = waiter(session, server.url())
    await asyncio.sleep(0.1)
    await ws.release()
    await (await result_of(waiting)).release()
    (record,) = records("fleet_lost")
    assert (record.levelno, record.held, record.policy) == (logging.WARNING, 1, "keep")
    assert len(records("fleet_unreachable")) == 1
    own.server.thaw()
    await until(lambda: records("fleet_restored"))
    await hold(session, server, 2)
    assert not records("fleet_failed")
    assert server.peak == 2


async def test_close_as_the_answer_to_a_lost_lease(
    own: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    session = make_session(fleet=own(lease=1.0, lost="close"))
    in_use, idle = await hold(session, server, 2)
    await idle.release()
    receiving = asyncio.create_task(in_use.receive())
    own.server.freeze()
    await until(lambda: not server.open)
    message = await asyncio.wait_for(receiving, PATIENCE)
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING), message
    await in_use.release()
    assert session.stats().closed_forced == 2
    assert records("fleet_lost")[0].policy == "close"
    with pytest.raises(FleetUnavailableError, match="0 are open"):
        await asyncio.wait_for(session.ws_connect(server.url()), PATIENCE)
    own.server.thaw()
    await until(lambda: records("fleet_restored"))
    await hold(session, server, 1)


async def test_a_fleet_that_was_never_there(
    own: Fleets,
    make_session: SessionFactory,
    server: Server,
    records: Records,
    refusing_port: int,
) -> None:
    client = own.client(f"redis://127.0.0.1:{refusing_port}")
    session = make_session(fleet=own(client=client, lease=1.0), acquire_timeout=PATIENCE)
    with pytest.raises(FleetUnavailableError, match="could not be reached for a whole lease"):
        await session.ws_connect(server.url())
    assert len(records("fleet_unreachable")) == 1
    assert session.fleet_stats().sync_errors > 1
    assert server.arrived == 0


async def test_fallback_without_a_fleet(
    own: Fleets, make_session: SessionFactory, server: Server, refusing_port: int
) -> None:
    client = own.client(f"redis://127.0.0.1:{refusing_port}")
    fleet = own(client=client, lease=1.0, fallback=2)
    session = make_session(fleet=fleet, acquire_timeout=PATIENCE)
    for ws in await hold(session, server, 2):
        await ws.release()
    held = await hold(session, server, 2)
    with pytest.raises(FleetUnavailableError):
        await session.ws_connect(server.url("/other"))
    assert server.peak == 2
    await held[0].close()
    await hold(session, server, 1)
    assert server.peak == 2


async def test_fallback_counts_beside_the_limit(
    fleets: Fleets, make_session: SessionFactory, server: Server
) -> None:
    fleet = fleets(limit=1, fallback=2)
    first = make_session(fleet=fleet, acquire_timeout=0.5)
    second = make_session(fleet=fleet, acquire_timeout=0.5)
    await hold(first, server, 3)
    assert fleets.used(fleet) == 1
    await hold(second, server, 2)
    with pytest.raises(PoolTimeoutError):
        await second.ws_connect(server.url())
    assert server.peak == 5


# -- changing the limit --------------------------------------------------------------------------


async def test_resize(
    fleets: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    fleet = fleets(limit=1, lease=3.0)
    session = make_session(fleet=fleet, acquire_timeout=PATIENCE)
    held = await hold(session, server, 1)
    waiting = [waiter(session, server.url()) for _ in range(2)]
    await until(lambda: fleets.waiting(fleet) == 1)
    fleet.resize(3)
    held += [await result_of(task) for task in waiting]
    assert session.fleet_stats().limit == 3
    fleet.resize(1)
    await held.pop().release()
    # In use, they go at their release.
    await until(lambda: session.fleet_stats().places == 1)
    for size in (2, 1):
        await until(lambda size=size: server.open == size and not session.stats().closing)
        await held.pop().release()
    await until(lambda: fleets.used(fleet) == 1)
    assert session.stats().idle == 1
    # It does not disagree with what it has said itself.
    assert not records("fleet_disagrees")


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3", None])
async def test_a_wrong_limit_changes_nothing(fleets: Fleets, limit: Any) -> None:
    fleet = fleets(limit=2)
    with pytest.raises((TypeError, ValueError), match="limit must be"):
        fleet.resize(limit)
    assert fleet.limit == 2


# -- what is told --------------------------------------------------------------------------------


async def test_traces(own: Fleets, make_session: SessionFactory, server: Server) -> None:
    told: list[Any] = []

    async def take(session: object, ctx: object, params: object) -> None:
        told.append(params)

    config = TraceConfig()
    config.on_fleet_places_changed.append(take)
    config.on_fleet_lost.append(take)
    config.on_fleet_restored.append(take)
    session = make_session(fleet=own(limit=2, lease=1.0), trace_configs=[config])
    (ws,) = await hold(session, server, 1)
    await until(lambda: told)
    assert (told[0].before, told[0].places) == (0, 1)
    own.server.freeze()
    await until(lambda: session.fleet_stats().losses)
    own.server.thaw()
    kinds = ["TraceFleetPlacesChangedParams", "TraceFleetLostParams", "TraceFleetRestoredParams"]
    await until(lambda: {type(each).__name__ for each in told} == set(kinds))
    lost = next(each for each in told if type(each).__name__ == kinds[1])
    restored = next(each for each in told if type(each).__name__ == kinds[2])
    assert lost.held == 1
    assert 0 < restored.seconds < PATIENCE
    assert abs(restored.time - time.time()) < PATIENCE
    # The restored places come after the word of it.
    await until(lambda: type(told[-1]).__name__ == kinds[0])
    assert (told[-1].before, told[-1].places) == (0, 1)
    await ws.release()


async def test_sessions_that_disagree(
    fleets: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    name = secrets.token_hex(4)
    first = make_session(fleet=fleets(name, limit=30))
    second = make_session(fleet=fleets(name, limit=50), name="second")
    for session in (first, second, second, first, first, second, second, first):
        await hold(session, server, 1)
    others, record = sorted(records("fleet_disagrees"), key=lambda r: r.limit)
    assert (others.limit, others.other) == (30, 50)
    assert (record.levelno, record.limit, record.other) == (logging.WARNING, 50, 30)
    assert record.session_name == "second"


@pytest.mark.parametrize("without", ["-hset", "-evalsha", "resetkeys"])
async def test_a_script_that_fails(
    fleets: Fleets, make_session: SessionFactory, server: Server, records: Records, without: str
) -> None:
    """A missing permission is an error to mend, not an outage to wait for."""
    user, password = f"u-{secrets.token_hex(8)}", secrets.token_hex(8)
    fleets.asking.execute_command(
        "ACL", "SETUSER", user, "on", f">{password}", "~awc:*", "&awc:*", *ACL, without
    )
    port = fleets.server.port
    client = fleets.client(f"redis://{user}:{password}@127.0.0.1:{port}")
    fleet = fleets(client=client, lease=1.0)
    session = make_session(fleet=fleet, acquire_timeout=PATIENCE)
    with pytest.raises(FleetUnavailableError) as caught:
        await session.ws_connect(server.url())
    (record,) = records("fleet_failed")
    assert record.levelno == logging.ERROR
    said = record.getMessage() + str(caught.value) + repr(fleet) + repr(session)
    assert "can't" in said or "permission" in said, said
    assert user not in said
    assert password not in said
    fleets.asking.execute_command("ACL", "DELUSER", user)


async def test_a_wrong_password_is_in_no_text(
    own: Fleets,
    make_session: SessionFactory,
    server: Server,
    records: Records,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own.asking.config_set("requirepass", "right")
    client = own.client(f"redis://:s3cret-wrong@127.0.0.1:{own.server.port}/0")
    fleet = RedisFleet(client, "s3cret-account", limit=2, lease=1.0)
    caplog.set_level(logging.DEBUG)
    session = make_session(fleet=fleet, acquire_timeout=PATIENCE)
    with pytest.raises(FleetUnavailableError) as caught:
        await session.ws_connect(server.url())
    assert records("fleet_unreachable") or records("fleet_failed")
    said = [caplog.text, str(caught.value), repr(caught.value), repr(session), repr(fleet)]
    lessee = session._lifecycle.lessee
    said += [fleet.key, repr(lessee), repr(lessee.stats()), repr(lessee._lease)]
    assert "s3cret" not in " ".join(said)
    own.asking.config_set("requirepass", "")


# -- permissions ---------------------------------------------------------------------------------

#: What the documentation asks for, and no more.
ACL = (
    *("+evalsha", "+script|load", "+@hash", "+@sortedset", "+@list", "+del", "+pexpire", "+time"),
    *("+publish", "+subscribe", "+unsubscribe", "+hello", "+ping", "+info"),
)


async def test_a_minimal_user(
    fleets: Fleets, make_session: SessionFactory, server: Server, records: Records
) -> None:
    """All goes as for any other user: nudges come, and nothing is refused."""
    user = f"u-{secrets.token_hex(8)}"
    fleets.asking.execute_command("ACL", "SETUSER", user, "on", ">s3cret", "~awc:*", "&awc:*", *ACL)
    fleets.asking.acl_log_reset()
    client = fleets.client(f"redis://{user}:s3cret@127.0.0.1:{fleets.server.port}")
    fleet = fleets(client=client, limit=2, connect_rate=(10, 1.0), keep_idle=0.05)
    sessions = [make_session(fleet=fleet) for _ in range(3)]
    for session in sessions:
        async with session.ws_connect(server.url()):
            pass
    await until(lambda: any(int(c["sub"]) for c in fleets.asking.client_list()))
    for session in sessions:
        await session.close()
    assert fleets.used(fleet) == 0
    assert not records("fleet_failed")
    assert not records("fleet_unreachable")
    refused = [e for e in fleets.asking.acl_log() if e["username"] == user]
    # redis-py asks for it, and does without.
    assert {e["object"] for e in refused} <= {"client|setinfo"}
    fleets.asking.execute_command("ACL", "DELUSER", user)


# -- wrong arguments -----------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"client": "redis://u:s3cret@host"}, TypeError, "client must be a client of redis.asyncio"),
    ({"client": None}, TypeError, "client must be"),
    ({"name": ""}, ValueError, "name must not be empty"),
    ({"name": b"s3cret"}, TypeError, "name must be a str, not bytes"),
    ({"limit": 0}, ValueError, "limit must be"),
    ({"limit": None}, TypeError, "limit must be"),
    ({"limit": True}, TypeError, "limit must be"),
    ({"connect_rate": 5}, TypeError, r"connect_rate must be \(count, seconds\)"),
    ({"connect_rate": (5,)}, TypeError, r"connect_rate must be \(count, seconds\)"),
    ({"connect_rate": (0, 1.0)}, ValueError, "count of connect_rate"),
    ({"connect_rate": (5, 0)}, ValueError, "seconds of connect_rate"),
    ({"connect_rate": (5, -1)}, ValueError, "seconds of connect_rate"),
    ({"lease": 0.5}, ValueError, "lease must be at least 1 second, got 0.5"),
    ({"lease": float("inf")}, ValueError, "lease must be"),
    ({"lease": float("nan")}, ValueError, "lease must be"),
    ({"lease": "30"}, TypeError, "lease must be"),
    ({"lost": "drain"}, ValueError, "lost must be 'keep' or 'close', got 'drain'"),
    ({"fallback": -1}, ValueError, "fallback must be"),
    ({"keep_idle": -1}, ValueError, "keep_idle must be"),
    ({"keep_idle": float("nan")}, ValueError, "keep_idle must be"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_arguments(wrong: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"client": redis.Redis(), "name": "account", "limit": 2} | wrong
    with pytest.raises(error, match=text) as caught:
        RedisFleet(**arguments)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("pool", [redis.ConnectionPool, redis.BlockingConnectionPool])
async def test_a_client_with_one_connection_is_refused(
    fleets: Fleets, make_session: SessionFactory, server: Server, pool: Any
) -> None:
    client = redis.Redis(connection_pool=pool.from_url(fleets.server.url, max_connections=1))
    with pytest.raises(ValueError, match="max_connections of at least 2, not 1"):
        RedisFleet(client, "account", limit=2)
    client = redis.Redis(connection_pool=pool.from_url(fleets.server.url, max_connections=2))
    fleet = fleets(client=client)
    session = make_session(fleet=fleet)
    await hold(session, server, 1)
    await until(
        lambda: fleets.asking.pubsub_numsub(f"{fleet.key}:nudge:{member_of(session)}")[0][1]
    )
    await hold(session, server, 1)
    assert session.fleet_stats().sync_errors == 0
    await session.close()
    await client.aclose()
    await client.connection_pool.aclose()


async def test_a_session_that_comes_back_hears_while_its_old_subscription_ends() -> None:
    class SlowPubSub:
        """Takes its time to subscribe, and to close."""

        def __init__(self) -> None:
            self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def subscribe(self, channel: str) -> None:
            await going_on.wait()

        async def aclose(self) -> None:
            await going_on.wait()

        async def get_message(self, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
            return await self.messages.get()

        async def ping(self) -> None: ...

        async def unsubscribe(self, *channels: str) -> None:
            unsubscribed.update(channels)

    class Client:
        def pubsub(self) -> SlowPubSub:
            made.append(SlowPubSub())
            return made[-1]

        async def evalsha(self) -> None: ...

        async def aclose(self) -> None: ...

    going_on, nudged = asyncio.Event(), asyncio.Event()
    made: list[SlowPubSub] = []
    unsubscribed: set[str] = set()
    fleet = RedisFleet(Client(), "account", limit=2)
    old = asyncio.create_task(fleet.listen("member", lambda: None))
    await until(lambda: made)
    old.cancel()
    await asyncio.sleep(0)
    new = asyncio.create_task(fleet.listen("member", nudged.set))
    await asyncio.sleep(0)
    going_on.set()
    await asyncio.wait([old])
    await until(lambda: len(made) == 2)
    made[-1].messages.put_nowait({"type": "message", "channel": f"{fleet.key}:nudge:member"})
    await asyncio.wait_for(nudged.wait(), PATIENCE)
    assert not unsubscribed
    new.cancel()
    await asyncio.wait([new])


def test_a_client_that_is_not_asynchronous_is_refused() -> None:
    import redis as synchronous

    with pytest.raises(TypeError, match=r"redis\.asyncio"):
        RedisFleet(synchronous.Redis(), "account", limit=2)


@pytest.mark.parametrize("wrong", [5, "redis://u:s3cret@host", object()])
def test_what_is_no_fleet(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"fleet must be an aiowebsocketclient\.redis\.RedisFleet"):
        WebSocketClientSession(fleet=wrong)


def test_the_account_is_in_no_text() -> None:
    fleet = RedisFleet(redis.from_url("redis://user:s3cret@host"), "s3cret-account", limit=2)
    assert "s3cret" not in fleet.key + repr(fleet) + str(vars(fleet).get("_keys"))


async def test_the_account_goes_to_redis_as_a_hash_only(
    own: Fleets, make_session: SessionFactory, server: Server
) -> None:
    with own.asking.monitor() as monitor:
        session = make_session(fleet=own("s3cret-account", connect_rate=(5, 1.0)))
        await hold(session, server, 1)
        await session.close()
        own.asking.set("the end", "")
        seen = []
        while "the end" not in (command := monitor.next_command()["command"]):
            seen.append(command)
    assert any("EVALSHA" in command.upper() for command in seen)
    assert not any("s3cret" in command for command in seen)
