"""What is told of callers and connections to those who ask: ``trace_configs``."""

import asyncio
import contextvars
import dataclasses
import gc
import logging
import random
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    EndpointKey,
    PoolClosedError,
    PoolTimeoutError,
    TraceConfig,
    WebSocketClientSession,
)
from aiowebsocketclient.tracing import (
    TraceCloseParams,
    TraceConnectExceptionParams,
    TraceQueuedEndParams,
    TraceReleaseParams,
)

from .conftest import SessionFactory, until
from .servers import Server

EVENTS = [
    "queued_start",
    "queued_end",
    "connect_start",
    "connect_end",
    "connect_exception",
    "reuse",
    "release",
    "close",
]
OPENED = ["queued_start", "connect_start", "connect_end", "queued_end"]


class Recorder(TraceConfig):
    """Writes down each event, with its context and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, Any, Any]] = []
        for name in EVENTS:
            getattr(self, f"on_{name}").append(self._record(name))

    def _record(self, name: str) -> Callable[..., Any]:
        async def record(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
            self.events.append((name, ctx, params))

        return record

    def names(self) -> list[str]:
        return [name for name, _, _ in self.events]

    def of(self, name: str) -> list[Any]:
        return [params for event, _, params in self.events if event == name]


@pytest.fixture
def trace() -> Recorder:
    return Recorder()


async def echo(session: WebSocketClientSession, url: str) -> None:
    async with session.ws_connect(url) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


# -- what is told --------------------------------------------------------------------------------


async def test_the_life_of_a_connection(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    before = time.time()
    session = make_session(trace_configs=[trace])
    await echo(session, server.url())
    await echo(session, server.url())
    await session.close()
    assert trace.names() == [*OPENED, "release", "reuse", "release", "close"]
    (endpoint,) = {params.endpoint for _, _, params in trace.events}
    assert endpoint == ("127.0.0.1", server.port, False)
    times = [params.time for _, _, params in trace.events]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= time.time()
    (queued,), (connected,), (closed,) = map(trace.of, ("queued_end", "connect_end", "close"))
    assert queued.exception is None
    assert 0 < connected.seconds <= queued.seconds
    assert closed.reason == "forced"
    assert closed.seconds >= sum(params.seconds for params in trace.of("release")) > 0


async def test_one_context_for_a_wait_and_one_for_a_connection(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(trace_configs=[trace])
    await asyncio.gather(echo(session, server.url()), echo(session, server.url("/other")))
    await session.close()
    assert all(type(ctx) is SimpleNamespace for _, ctx, _ in trace.events)
    together: dict[int, list[str]] = {}
    for name, ctx, _ in trace.events:
        together.setdefault(id(ctx), []).append(name)
    wait = ["queued_start", "queued_end"]
    connection = ["connect_start", "connect_end", "release", "close"]
    assert sorted(together.values()) == [connection, connection, wait, wait]


async def test_each_config_has_contexts_of_its_own(
    server: Server, make_session: SessionFactory
) -> None:
    made: list[object] = []

    def factory() -> object:
        made.append(object())
        return made[-1]

    configs = [TraceConfig(factory), TraceConfig(trace_config_ctx_factory=factory)]
    seen: list[tuple[int, object]] = []
    for index, config in enumerate(configs):

        async def handler(session: Any, ctx: Any, params: Any, index: int = index) -> None:
            seen.append((index, ctx))

        config.on_connect_end.append(handler)
        config.on_close.append(handler)
    session = make_session(trace_configs=iter(configs))
    await echo(session, server.url())
    await session.close()
    assert seen == [(0, made[0]), (1, made[1]), (0, made[0]), (1, made[1])]


async def test_a_wait_for_a_place(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(limit=1, trace_configs=[trace])
    ws = await session.ws_connect(server.url())
    waiting = asyncio.create_task(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting)
    await ws.release()
    await (await waiting).release()
    await until(lambda: len(trace.events) == 9)
    expected = [*OPENED, "queued_start", "release", "queued_end", "reuse", "release"]
    assert trace.names() == expected


async def test_waits_that_fail(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(limit=1, trace_configs=[trace])
    async with session.ws_connect(server.url()):
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(server.url(), acquire_timeout=0.01)
        waiting = asyncio.create_task(session.ws_connect(server.url()))
        await until(lambda: session.stats().waiting)
        waiting.cancel()
        await asyncio.wait({waiting})
        # Who may not wait is not queued, as in the counters.
        with pytest.raises(PoolTimeoutError):
            await session.ws_connect(server.url(), acquire_timeout=0)
    await until(lambda: "release" in trace.names())
    errors = [type(params.exception) for params in trace.of("queued_end")]
    assert errors == [type(None), PoolTimeoutError, asyncio.CancelledError]
    assert len(trace.of("queued_start")) == 3 == session.stats().queued


@pytest.mark.parametrize("path", ["/refuse", None])
async def test_a_handshake_that_fails(
    server: Server, make_session: SessionFactory, trace: Recorder, path: str | None
) -> None:
    url = "http://127.0.0.1:1/" if path is None else server.url(path)
    session = make_session(trace_configs=[trace])
    with pytest.raises(aiohttp.ClientError) as caught:
        await session.ws_connect(url)
    await until(lambda: len(trace.events) == 4)
    assert trace.names() == ["queued_start", "connect_start", "connect_exception", "queued_end"]
    for name in ("connect_exception", "queued_end"):
        (params,) = trace.of(name)
        assert params.exception is caught.value
        assert params.status == (None if path is None else 403)


async def test_a_handshake_that_is_stopped(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(trace_configs=[trace])
    waiting = asyncio.create_task(session.ws_connect(server.url("/hang")))
    await until(lambda: server.arrived)
    await session.close()
    with pytest.raises(PoolClosedError):
        await waiting
    (params,) = trace.of("connect_exception")
    assert type(params) is TraceConnectExceptionParams
    assert isinstance(params.exception, asyncio.CancelledError)
    assert trace.names().count("close") == 0


async def test_a_handshake_that_is_stopped_too_late(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    class Stubborn:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            left.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    left = asyncio.Event()
    session = make_session(trace_configs=[trace], connect_limiter=Stubborn())
    waiting = asyncio.create_task(session.ws_connect(server.url()))
    await left.wait()
    await session.close()
    with pytest.raises(PoolClosedError):
        await waiting
    assert trace.names() == ["queued_start", "connect_start", "queued_end", "connect_exception"]
    assert session.stats().connects == 0


async def test_prewarmed_connections(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(trace_configs=[trace])
    await session.prewarm(server.url(), 2)
    await echo(session, server.url())
    await session.close()
    first_use = ["connect_start"] * 2 + ["connect_end"] * 2 + ["release"]
    assert trace.names() == [*first_use, "close", "close"]


async def _release(session: WebSocketClientSession, ws: Any) -> None:
    await ws.release()


async def _close(session: WebSocketClientSession, ws: Any) -> None:
    await ws.close()


async def _leave_by_an_error(session: WebSocketClientSession, ws: Any) -> None:
    with suppress(ZeroDivisionError):
        async with ws:
            raise ZeroDivisionError


async def _close_session(session: WebSocketClientSession, ws: Any) -> None:
    await session.close()


async def _release_unread(session: WebSocketClientSession, ws: Any) -> None:
    await ws.send_str("hello")
    await until(lambda: ws._reader._buffer)
    await ws.release()


ENDS = {
    _release: "forced",
    _close: "user",
    _leave_by_an_error: "failed",
    _close_session: "forced",
    _release_unread: "dirty",
}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.strip("_"))
async def test_each_use_ends_once(
    server: Server, make_session: SessionFactory, trace: Recorder, end: Any
) -> None:
    session = make_session(trace_configs=[trace])
    ws = await session.ws_connect(server.url())
    await end(session, ws)
    # Nothing of it counts a second time.
    await ws.release()
    await ws.close()
    await session.close()
    assert trace.names() == [*OPENED, "release", "close"]
    (release,), (close,) = trace.of("release"), trace.of("close")
    assert type(release) is TraceReleaseParams
    assert type(close) is TraceCloseParams
    assert close.reason == ENDS[end]


async def test_a_lost_handle_ends_its_use(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(trace_configs=[trace])
    ws: Any = await session.ws_connect(server.url())
    with pytest.warns(ResourceWarning, match="never released"):
        del ws
        gc.collect()
    await until(lambda: "close" in trace.names())
    assert trace.names() == [*OPENED, "release", "close"]
    assert trace.of("close")[0].reason == "failed"


async def test_reasons_of_idle_connections(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(max_idle=0.05, limit=1, trace_configs=[trace])
    reasons = []

    async def closed() -> None:
        await until(lambda: len(trace.of("close")) > len(reasons))
        reasons.append(trace.of("close")[-1].reason)

    await echo(session, server.url())
    await closed()
    await echo(session, server.url())
    await server.sockets[0].close()
    await closed()
    await echo(session, server.url())
    await server.sockets[0].send_str("unsolicited")
    await closed()
    await echo(session, server.url())
    await echo(session, server.url("/other"))
    await closed()
    assert reasons == ["idle", "lost", "dirty", "evicted"]


async def test_the_reason_of_an_old_one(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(max_lifetime=0.05, trace_configs=[trace])
    async with session.ws_connect(server.url()):
        await asyncio.sleep(0.1)
    await until(lambda: trace.of("close"))
    assert trace.of("close")[0].reason == "lifetime"


async def test_what_is_told_adds_up_to_what_is_counted(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    session = make_session(limit=5, limit_total=7, max_idle=0.05, trace_configs=[trace])
    chance = random.Random(1)

    async def call(number: int) -> None:
        url = server.url(chance.choice(["/", "/other", "/refuse"]))
        with suppress(aiohttp.ClientError, ZeroDivisionError, TimeoutError):
            async with (
                asyncio.timeout(chance.choice([30, 0.01])),
                session.ws_connect(url, acquire_timeout=chance.choice([0, 0.02, 30])) as ws,
            ):
                await asyncio.sleep(chance.random() / 100)
                if number % 7 == 0:
                    raise ZeroDivisionError
                if number % 5 == 0:
                    await ws.close()
                if number % 3 == 0:
                    await ws.send_str("never read")

    for _ in range(3):
        await asyncio.gather(*map(call, range(60)))
        await asyncio.sleep(0.1)
    await session.close()
    stats = session.stats()
    told = Counter(trace.names())
    assert told["connect_end"] == stats.connects > 10
    assert told["connect_exception"] >= stats.connect_errors > 0
    assert told["connect_start"] == told["connect_end"] + told["connect_exception"]
    assert told["queued_start"] == told["queued_end"] == stats.queued > 50
    assert told["reuse"] == stats.reused > 0
    assert told["close"] == stats.connects
    closed = dict(Counter(params.reason for params in trace.of("close")))
    counted = {
        name.removeprefix("closed_"): count
        for name, count in dataclasses.asdict(stats).items()
        if name.startswith("closed_") and count
    }
    assert closed == counted
    assert sum(isinstance(p.exception, PoolTimeoutError) for p in trace.of("queued_end")) > 0


# -- how it is told ------------------------------------------------------------------------------

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nobody's")


async def test_handlers_run_in_the_context_of_who_caused_the_event(
    server: Server, make_session: SessionFactory
) -> None:
    seen: list[tuple[str, str]] = []
    trace = TraceConfig()
    for name in EVENTS:

        async def handler(session: Any, ctx: Any, params: Any, name: str = name) -> None:
            seen.append((name, VARIABLE.get()))

        getattr(trace, f"on_{name}").append(handler)
    session = make_session(limit=1, trace_configs=[trace])

    async def call(who: str) -> None:
        VARIABLE.set(who)
        await echo(session, server.url())

    await asyncio.gather(call("first"), call("second"))
    await until(lambda: len(seen) == 9)
    assert seen == [
        ("queued_start", "first"),
        ("connect_start", "first"),
        ("queued_start", "second"),
        ("connect_end", "first"),
        ("queued_end", "first"),
        ("release", "first"),
        ("queued_end", "second"),
        ("reuse", "second"),
        ("release", "second"),
    ]


async def test_slow_handlers_keep_nobody_waiting_and_order(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    gate = asyncio.Event()

    async def slow(session: Any, ctx: Any, params: Any) -> None:
        await gate.wait()

    trace.on_queued_start.insert(0, slow)
    session = make_session(trace_configs=[trace])
    for _ in range(3):
        await echo(session, server.url())
    assert trace.events == []
    gate.set()
    await until(lambda: len(trace.events) == 9)
    assert trace.names() == [*OPENED, "release", *["reuse", "release"] * 2]


async def test_a_handler_that_fails_breaks_nothing(
    server: Server,
    make_session: SessionFactory,
    trace: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = TraceConfig()

    async def fail(session: Any, ctx: Any, params: Any) -> None:
        raise ZeroDivisionError("secret")

    def no_context() -> Any:
        raise RuntimeError("secret")

    first.on_queued_start.append(fail)
    second = TraceConfig(no_context)
    second.on_connect_end.append(fail)
    session = make_session(trace_configs=[first, second, trace])
    await echo(session, server.url())
    await session.close()
    assert trace.names() == [*OPENED, "release", "close"]
    assert [record.getMessage() for record in caplog.records] == [
        "A handler of on_queued_start failed: ZeroDivisionError",
        "A handler of on_connect_end failed: RuntimeError",
    ]
    assert "secret" not in caplog.text


async def test_a_handler_may_use_the_session(server: Server, make_session: SessionFactory) -> None:
    trace = TraceConfig()
    done = asyncio.Event()

    @trace.on_connect_end.append
    async def use(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
        if not done.is_set():
            await echo(session, server.url("/other"))
            done.set()

    session = make_session(trace_configs=[trace])
    await echo(session, server.url())
    await asyncio.wait_for(done.wait(), 30)


async def test_close_waits_for_handlers(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    async def slow(session: Any, ctx: Any, params: Any) -> None:
        await asyncio.sleep(0.05)

    trace.on_connect_start.insert(0, slow)
    session = make_session(trace_configs=[trace])
    await session.prewarm(server.url(), 3)
    await session.close()
    assert trace.names().count("close") == 3


@pytest.mark.parametrize("name", ["on_connect_end", "on_release", "on_close"])
@pytest.mark.parametrize("is_closing", [False, True])
async def test_a_handler_may_close_the_session(
    server: Server, make_session: SessionFactory, trace: Recorder, name: str, is_closing: bool
) -> None:
    first = TraceConfig()
    closed = []

    @getattr(first, name).append
    async def close(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
        if is_closing:
            # Until somebody else's close() waits for this handler.
            await until(lambda: session.closed and session.client_session.closed)
        await session.close()
        closed.append(params)

    session = make_session(trace_configs=[first, trace], close_timeout=600.0)
    ws = await session.ws_connect(server.url())
    await (ws.close() if name == "on_close" and not is_closing else ws.release())
    async with asyncio.timeout(30):
        if is_closing:
            await session.close()
        await until(lambda: trace.names() == [*OPENED, "release", "close"])
    assert len(closed) == 1
    assert session.closed


async def through_gather(session: WebSocketClientSession) -> None:
    await asyncio.gather(session.close())


async def through_a_group(session: WebSocketClientSession) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(session.close())


async def through_a_task(session: WebSocketClientSession) -> None:
    async def close() -> None:
        await asyncio.create_task(session.close())

    await asyncio.create_task(close())


async def through_wait_for(session: WebSocketClientSession) -> None:
    await asyncio.wait_for(session.close(), 60)


async def through_a_block(session: WebSocketClientSession) -> None:
    async with asyncio.timeout(60), session:
        pass


@pytest.mark.parametrize(
    "close", [through_gather, through_a_group, through_a_task, through_wait_for, through_a_block]
)
@pytest.mark.parametrize("is_closing", [False, True])
async def test_a_handler_may_close_the_session_in_a_task_that_it_waits_for(
    server: Server, make_session: SessionFactory, trace: Recorder, close: Any, is_closing: bool
) -> None:
    first = TraceConfig()
    ended = asyncio.Event()

    @first.on_connect_end.append
    async def handle(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
        if is_closing and close is not through_a_block:
            await until(lambda: session.closed and session.client_session.closed)
        await close(session)
        ended.set()

    session = make_session(trace_configs=[first, trace], close_timeout=600.0)
    ws = await session.ws_connect(server.url())
    async with asyncio.timeout(30):
        if is_closing and close is not through_a_block:
            await session.close()
        await ended.wait()
        await until(lambda: trace.names() == [*OPENED, "release", "close"])
    await ws.release()


async def test_close_waits_for_handlers_though_an_earlier_one_left_a_task_that_closes(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    """That one is over, and waits for nothing."""
    first = TraceConfig()
    tasks = []
    released = asyncio.Event()

    async def close_later(session: WebSocketClientSession) -> None:
        await released.wait()
        await session.close()

    @first.on_connect_end.append
    async def connected(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
        tasks.append(asyncio.create_task(close_later(session)))

    @first.on_release.append
    async def release(session: WebSocketClientSession, ctx: Any, params: Any) -> None:
        released.set()
        await until(lambda: session.closed)
        await asyncio.sleep(0.05)

    session = make_session(trace_configs=[first, trace])
    await (await session.ws_connect(server.url())).release()
    await until(lambda: tasks)
    await tasks[0]
    assert trace.names() == [*OPENED, "release", "close"]


async def test_a_handler_that_ends_with_a_cancellation_breaks_nothing(
    server: Server,
    make_session: SessionFactory,
    trace: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = TraceConfig()

    @first.on_connect_end.append
    async def fail(session: Any, ctx: Any, params: Any) -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    session = make_session(trace_configs=[first, trace])
    await echo(session, server.url())
    await session.close()
    assert trace.names() == [*OPENED, "release", "close"]
    assert [record.getMessage() for record in caplog.records] == [
        "A handler of on_connect_end failed: CancelledError"
    ]


async def test_close_does_not_wait_for_ever(server: Server, make_session: SessionFactory) -> None:
    trace = TraceConfig()
    cancelled = []

    async def stuck(session: Any, ctx: Any, params: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(params)
            raise

    trace.on_connect_end.append(stuck)
    trace.on_close.append(stuck)
    session = make_session(trace_configs=[trace], close_timeout=0.2)
    await session.prewarm(server.url(), 3)
    async with asyncio.timeout(30):
        await session.close()
    await until(lambda: cancelled)
    await asyncio.sleep(0)
    assert len(cancelled) == 1


async def test_handlers_that_fall_behind_lose_events(
    server: Server,
    make_session: SessionFactory,
    trace: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aiowebsocketclient.outbox._MAX_PENDING", 10)
    gate = asyncio.Event()

    async def slow(session: Any, ctx: Any, params: Any) -> None:
        await gate.wait()

    trace.on_queued_start.insert(0, slow)
    session = make_session(trace_configs=[trace])
    for _ in range(20):
        await echo(session, server.url())
    gate.set()
    await until(lambda: len(trace.events) == 11)
    await echo(session, server.url())
    await until(lambda: len(trace.events) == 13)
    assert trace.names()[-2:] == ["reuse", "release"]
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [r.getMessage() for r in told] == [
        "Trace handlers are too slow: some events are dropped"
    ]


async def test_a_wait_that_its_loop_has_left_behind(server: Server, trace: Recorder) -> None:
    def leave() -> None:
        loop = asyncio.new_event_loop()
        session = WebSocketClientSession(trace_configs=[trace])
        waiting = session.ws_connect(server.url("/hang"))

        async def step() -> None:
            waiting.send(None)
            await until(lambda: len(trace.events) >= 2)

        loop.run_until_complete(step())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(session.close())
        waiting.close()
        loop.close()

    await asyncio.to_thread(leave)
    assert trace.names()[:2] == ["queued_start", "connect_start"]


def test_params_show_no_exception() -> None:
    endpoint = EndpointKey("127.0.0.1", 1, False)
    error = ValueError("secret")
    assert "secret" not in repr(TraceQueuedEndParams(endpoint, 1.0, 2.0, error))
    assert "secret" not in repr(TraceConnectExceptionParams(endpoint, 1.0, 2.0, error))


async def test_where_all_tasks_are_cancelled(
    server: Server, make_session: SessionFactory, trace: Recorder
) -> None:
    @trace.on_connect_end.append
    async def hang(session: Any, ctx: Any, params: Any) -> None:
        await asyncio.get_running_loop().create_future()

    session = make_session(trace_configs=[trace])
    await echo(session, server.url())
    await until(lambda: trace.names()[-1:] == ["connect_end"])
    (reporting,) = (task for task in asyncio.all_tasks() if "outbox.py" in repr(task))
    reporting.cancel()
    await echo(session, server.url())
    await until(lambda: trace.names()[-2:] == ["reuse", "release"])


async def test_a_dropped_session_is_collected(server: Server, trace: Recorder) -> None:
    session: Any = WebSocketClientSession(trace_configs=[trace])
    ws: Any = await session.ws_connect(server.url())
    await ws.release()
    reference = weakref.ref(session)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    with pytest.warns(ResourceWarning, match="Unclosed"):
        del session, ws
        # What is being told by then holds it for a turn or two.
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
    assert reference() is None
    await until(lambda: not server.open)


@pytest.mark.parametrize("hook", ["check", "reset", "configure"])
async def test_with_hooks(
    server: Server, make_session: SessionFactory, trace: Recorder, hook: str
) -> None:
    async def does_nothing(ws: Any) -> None:
        await asyncio.sleep(0)

    session = make_session(trace_configs=[trace], **{hook: does_nothing})
    await echo(session, server.url())
    await until(lambda: session.stats().idle)
    await echo(session, server.url())
    await until(lambda: session.stats().idle)
    await session.close()
    assert trace.names() == [*OPENED, "release", "reuse", "release", "close"]


async def test_without_receivers_nothing_is_made(
    server: Server, make_session: SessionFactory
) -> None:
    trace = TraceConfig(trace_config_ctx_factory=lambda: pytest.fail("nobody has asked"))
    session = make_session(trace_configs=[trace])
    await echo(session, server.url())
    await echo(session, server.url())


async def test_without_trace_configs_a_hit_asks_nobody(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    await echo(session, server.url())
    for name in ("_acquire", "_released"):
        monkeypatch.setattr(session, name, lambda *args: pytest.fail("it went a longer way"))
    await echo(session, server.url())


# -- arguments -----------------------------------------------------------------------------------


async def test_a_config_is_frozen_with_its_session(
    make_session: SessionFactory, trace: Recorder
) -> None:
    make_session(trace_configs=[trace])
    # It may serve several.
    make_session(trace_configs=(trace, TraceConfig()))
    with pytest.raises(RuntimeError):
        trace.on_close.append(trace.on_close[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (TraceConfig(), r"an iterable of TraceConfig, such as \[trace_config\]"),
        ("on_close", "an iterable of TraceConfig"),
        (5, "an iterable of TraceConfig"),
        ([aiohttp.TraceConfig()], r"pass an aiohttp.TraceConfig to client_session"),
        ([None], "objects, not NoneType"),
        ([TraceConfig], "objects, not type"),
    ],
)
def test_wrong_trace_configs(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"trace_configs must .*{message}"):
        WebSocketClientSession(trace_configs=wrong)


@pytest.mark.parametrize("none", [None, (), []])
def test_no_trace_configs(none: Any) -> None:
    assert WebSocketClientSession(trace_configs=none)._tracer is None


def test_repr_shows_no_functions() -> None:
    trace = TraceConfig()
    trace.on_close.append(lambda session, ctx, params: None)  # type: ignore[arg-type,return-value]
    assert repr(trace) == "<TraceConfig(on_close)>"


def test_events_are_those_of_a_trace_config() -> None:
    signals = {name for name in vars(TraceConfig()) if name.startswith("on_")}
    of_fleets = {"on_fleet_places_changed", "on_fleet_lost", "on_fleet_restored"}
    assert signals == {f"on_{name}" for name in EVENTS} | of_fleets


async def test_a_config_need_not_be_hashable(server: Server, make_session: SessionFactory) -> None:
    @dataclasses.dataclass
    class Counting(TraceConfig):
        seen: list[Any] = dataclasses.field(default_factory=list)

        def __post_init__(self) -> None:
            super().__init__()
            self.on_connect_start.append(self.note)
            self.on_connect_end.append(self.note)

        async def note(self, session: WebSocketClientSession, ctx: Any, params: Any) -> None:
            self.seen.append(ctx)

    # They are equal, and each has contexts of its own.
    configs = [Counting(), Counting()]
    session = make_session(trace_configs=configs)
    await (await session.ws_connect(server.url())).release()
    await until(lambda: all(len(config.seen) == 2 for config in configs))
    contexts = [{id(ctx) for ctx in config.seen} for config in configs]
    assert [len(ids) for ids in contexts] == [1, 1]
    assert contexts[0] != contexts[1]
