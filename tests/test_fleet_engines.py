"""Sessions whose engine is not Redis, fails in unusual ways, or is not there at all."""

import asyncio
import contextlib
import itertools
import logging
import time
from typing import Any

import pytest

from aiowebsocketclient import FleetUnavailableError, PoolTimeoutError
from aiowebsocketclient.fleet import EngineError, Grant, Report

from .conftest import SessionFactory, until
from .fleet.engine import PATIENCE, Engine
from .servers import Server


class Absent(Engine):
    """Never answers."""

    async def sync(self, member: str, report: Report) -> Grant | None:
        raise ConnectionError


async def _used(session: Any, url: str) -> None:
    async with asyncio.timeout(PATIENCE), session.ws_connect(url):
        pass


# -- limits --------------------------------------------------------------------------------------


async def _report(session: Any) -> None:
    """Begin a report; it is sent in the next turn of the loop."""
    lessee = session._lifecycle.lessee
    await until(lambda: lessee._reporting is None)
    now = time.monotonic()
    lessee._report(lessee._need(now), now)


async def _answered(session: Any, engine: Engine, count: int) -> None:
    lessee = session._lifecycle.lessee
    await until(lambda: len(engine.reports) == count and lessee._reporting is None)


async def test_a_limit_changed_before_the_report_is_sent_is_its_own(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(limit=10)
    session = make_session(fleet=engine)
    await _used(session, server.url())
    count = len(engine.reports)
    await _report(session)
    engine.limit = 30
    await _answered(session, engine, count + 1)
    engine.limit = 10
    await _report(session)
    await _answered(session, engine, count + 2)
    assert "disagree" not in caplog.text


async def test_a_limit_before_reports_that_were_lost_is_its_own(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(limit=30)
    session = make_session(fleet=engine)
    await _used(session, server.url())
    count = len(engine.reports)
    engine.limit = 10
    engine.answers += [ConnectionError(), ConnectionError()]
    for number in (1, 2, 3):
        await _report(session)
        await _answered(session, engine, count + number)
    assert "disagree" not in caplog.text
    # Its own of then is not its own any more.
    engine.said = 30
    await _report(session)
    await _answered(session, engine, count + 4)
    assert "10 here, 30 in another session" in caplog.text


async def _says(session: Any) -> None:
    """Let a session report once, and wait for the answer."""
    await _report(session)
    lessee = session._lifecycle.lessee
    await until(lambda: lessee._reporting is None)


async def _two(make_session: SessionFactory, url: str, engine: Engine) -> list[Any]:
    """Return two sessions of one engine that have reported."""
    # They report nothing by themselves.
    engine.keep_idle = 10 * PATIENCE
    sessions = [make_session(fleet=engine) for _ in range(2)]
    for session in sessions:
        await _used(session, url)
        await _says(session)
    return sessions


async def test_sessions_of_one_engine_do_not_disagree(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(limit=10)
    first, second = await _two(make_session, server.url(), engine)
    engine.limit = 20
    await _says(first)
    engine.limit = 30
    await _says(second)
    await _says(first)
    assert "disagree" not in caplog.text
    # None of them has said that since.
    engine.said = 10
    await _says(first)
    assert "30 here, 10 in another session" in caplog.text


async def test_a_session_does_not_disagree_with_one_of_its_engine_that_has_left(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(limit=10)
    async with make_session(fleet=engine) as session:
        await _used(session, server.url())
        # It says this last.
        engine.limit = 20
    engine.limit = 30
    await _used(make_session(fleet=engine), server.url())
    assert "disagree" not in caplog.text


async def test_a_limit_that_is_on_its_way_is_its_own(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Engine):
        """Gets the next report late, as it was."""

        held: asyncio.Event | None = None

        async def sync(self, member: str, report: Report) -> Grant | None:
            limit, held, self.held = self.limit, self.held, None
            if held is not None:
                await held.wait()
            now, self.limit = self.limit, limit
            try:
                return await super().sync(member, report)
            finally:
                self.limit = now

    engine = Slow(limit=10)
    first, second = await _two(make_session, server.url(), engine)
    engine.held = held = asyncio.Event()
    await _report(first)
    await until(lambda: engine.held is None)
    engine.limit = 30
    await _says(second)
    held.set()
    await until(lambda: first._lifecycle.lessee._reporting is None)
    await _says(second)
    assert "disagree" not in caplog.text


async def test_a_limit_that_an_answer_on_its_way_names_is_its_own(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Engine):
        """Takes the next report at once, and answers it late."""

        held: asyncio.Event | None = None

        async def sync(self, member: str, report: Report) -> Grant | None:
            held, self.held = self.held, None
            grant = await super().sync(member, report)
            if held is not None:
                await held.wait()
            return grant

    engine = Slow(limit=10)
    first, second = await _two(make_session, server.url(), engine)
    await _says(first)
    await _says(second)
    engine.limit = 30
    engine.held = held = asyncio.Event()
    await _report(first)
    await until(lambda: engine.held is None)
    await _says(second)
    held.set()
    await until(lambda: first._lifecycle.lessee._reporting is None)
    assert "disagree" not in caplog.text


async def test_an_engine_need_not_be_hashable(make_session: SessionFactory, server: Server) -> None:
    class Unhashable(Engine):
        __hash__ = None  # type: ignore[assignment]

    await _used(make_session(fleet=Unhashable()), server.url())


# -- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(2, 2, 1), "2", 0])
async def test_an_answer_that_is_none_counts_as_a_failure(
    make_session: SessionFactory, server: Server, answer: Any
) -> None:
    engine = Engine()
    engine.answers.append(answer)
    session = make_session(fleet=engine)
    # In the next report, not a lease later.
    await _used(session, server.url())
    assert session.fleet_stats().sync_errors == 1


async def test_a_report_that_has_lost_its_cancellation_is_cancelled_again(
    make_session: SessionFactory, server: Server
) -> None:
    class Deaf(Engine):
        """Hangs, and goes on after the timeout, as a client that is connecting may do."""

        async def sync(self, member: str, report: Report) -> Grant | None:
            if not self.reports:
                self.reports.append(report)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(10 * PATIENCE)
                await asyncio.sleep(10 * PATIENCE)
            return await super().sync(member, report)

    session = make_session(fleet=Deaf(lease=1.0))
    session.set_min_idle(server.url(), 1)
    await until(lambda: session.stats().idle == 1)
    assert session.fleet_stats().sync_errors == 1


async def test_a_listener_that_the_program_has_cancelled_begins_anew(
    make_session: SessionFactory, server: Server
) -> None:
    engine = Engine()
    session = make_session(fleet=engine)
    await _used(session, server.url())
    await until(lambda: engine.listeners == 1)
    lessee = session._lifecycle.lessee
    lessee._listening.cancel()
    await until(lambda: lessee._listening.done())
    async with session.ws_connect(server.url()), session.ws_connect(server.url()):
        await until(lambda: engine.listeners == 2)


async def test_what_is_refused_is_logged_after_an_outage_too(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    engine.answers += [ConnectionError(), EngineError("no permission"), ConnectionError()] * 2
    await _used(make_session(fleet=engine), server.url())
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events == ["fleet_unreachable", "fleet_failed"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


# -- fallback ------------------------------------------------------------------------------------


async def test_within_fallback_an_idle_connection_gives_way_without_a_fleet(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=Absent(lease=1.0, fallback=1))
    await _used(session, server.url())
    await until(lambda: session._lifecycle.lessee.is_lost or session.fleet_stats().sync_errors == 0)
    with pytest.raises(FleetUnavailableError):
        async with session.ws_connect(server.url()):
            async with asyncio.timeout(PATIENCE):
                await until(lambda: session.stats().acquired == 1)
                # A second one is beyond fallback: the lease of the first report is lost.
                await session.ws_connect(server.url("/other"))
    # The connection that is idle is closed for another handshake, which waits for its place.
    await _used(session, server.url("/another"))
    assert server.peak == 1


async def test_within_fallback_a_caller_waits_for_its_turn_to_connect(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=Absent(lease=1.0, fallback=3), max_connecting=1)
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    with pytest.raises(FleetUnavailableError):
        await asyncio.wait_for(session.ws_connect(server.url("/other")), PATIENCE)
    for ws in held:
        await ws.close()
    urls = [server.url(f"/{number}") for number in range(3)]
    await asyncio.gather(*(_used(session, url) for url in urls))


# -- what it reports -----------------------------------------------------------------------------


async def test_keepers_wish_no_more_together_than_the_session_may_open(
    make_session: SessionFactory, server: Server
) -> None:
    engine = Engine()
    session = make_session(fleet=engine, limit_total=3)
    for number in range(3):
        session.set_min_idle(server.url(f"/{number}"), 2)
    await until(lambda: session.stats().idle == 3)
    assert max(report.like for report in engine.reports) == 3


async def test_a_wait_for_the_limiter_is_no_part_of_a_handshake(
    make_session: SessionFactory, server: Server
) -> None:
    class Limiter:
        left = 0.0

        async def __aenter__(self) -> None:
            await asyncio.sleep(0.2)
            self.left = time.monotonic()

        async def __aexit__(self, *_: object) -> None:
            pass

    limiter = Limiter()
    session = make_session(fleet=Engine(), connect_limiter=limiter)
    await _used(session, server.url())
    assert session._lifecycle.lessee._connect_seconds <= time.monotonic() - limiter.left


# -- a lost lease --------------------------------------------------------------------------------


async def test_the_error_of_a_late_timer_has_the_seconds_since_the_loss(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=Engine())
    await _used(session, server.url())
    lessee = session._lifecycle.lessee
    lessee._lease.deadline = time.monotonic() - 5.0
    with pytest.raises(FleetUnavailableError, match=r" 5\.\d s ago") as caught:
        lessee._raise_if_lost("the endpoint")
    assert caught.value.endpoint == "the endpoint"


async def test_the_error_says_for_which_endpoint_nothing_may_be_opened(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(fleet=Absent(lease=1.0), name="speech")
    with pytest.raises(FleetUnavailableError) as caught:
        await asyncio.wait_for(session.ws_connect(server.url()), PATIENCE)
    assert caught.value.session_name == "speech"
    assert str(caught.value.endpoint) == f"127.0.0.1:{server.port}"
    assert caught.value.waited_for == "fleet"


async def test_the_error_says_that_the_fleet_does_not_answer(
    make_session: SessionFactory, server: Server
) -> None:
    engine = Engine()
    session = make_session(fleet=engine, acquire_timeout=0.3)
    async with session.ws_connect(server.url()):
        engine.answers += [ConnectionError() for _ in range(1000)]
        with pytest.raises(
            PoolTimeoutError, match=r"no more places, so look at its server .* cannot be reached"
        ) as caught:
            await session.ws_connect(server.url())
    # It knows nothing of the others now.
    assert "places are taken" not in str(caught.value)


async def test_balanced_waits_where_a_connection_is_open(
    make_session: SessionFactory, server: Server
) -> None:
    engine = Engine(lease=1.0)
    session = make_session(fleet=engine)
    ws = await session.ws_connect(server.url("/a"))
    engine.answers += [ConnectionError() for _ in range(1000)]
    await until(lambda: session.fleet_stats().losses == 1)
    balanced = session.balanced([server.url("/a"), server.url("/b"), server.url("/c")])
    for _ in itertools.repeat(None, 5):
        waiting = asyncio.ensure_future(balanced.ws_connect())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await ws.release()
        ws = await asyncio.wait_for(waiting, PATIENCE)
    await ws.release()
    assert server.peak == 1
