"""What users have done to connections: ``configure``, ``check`` and ``reset``."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    ConnectionReleasedError,
    PoolClosedError,
    PoolTimeoutError,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, until
from .servers import Server

HOOKS = ["configure", "check", "reset"]


class Recorder:
    """A hook that counts, and does what it is told."""

    def __init__(self) -> None:
        self.calls: list[ClientWebSocketResponse] = []
        self.finished = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.does: Callable[[ClientWebSocketResponse], Any] | None = None

    async def __call__(self, ws: ClientWebSocketResponse) -> None:
        self.calls.append(ws)
        await self.gate.wait()
        if self.does is not None:
            await self.does(ws)
        if self.error is not None:
            raise self.error
        self.finished += 1


@pytest.fixture
def hook() -> Recorder:
    return Recorder()


async def say_hello(ws: ClientWebSocketResponse) -> None:
    await ws.send_str("hello")
    assert await ws.receive_str() == "hello"


async def works(session: WebSocketClientSession, url: str) -> bool:
    """Tell whether a connection can be had, and whether it had been used before."""
    async with asyncio.timeout(30), session.ws_connect(url) as ws:
        await ws.send_str("it works")
        assert await ws.receive_str() == "it works"
        return ws.reused


# -- when they run -------------------------------------------------------------------------------


async def test_configure_runs_once_for_each_connection(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.does = say_hello
    session = make_session(configure=hook)
    for reused in (False, True, True):
        assert await works(session, server.url()) is reused
    assert len(hook.calls) == 1
    assert server.received == ["hello", *["it works"] * 3]


async def test_check_runs_before_what_was_pooled_is_handed_out(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.does = say_hello
    session = make_session(check=hook, limit=1)
    for calls in range(3):
        await works(session, server.url())
        assert len(hook.calls) == calls
    # Handed over by one caller to the next, it was pooled too.
    async with session.ws_connect(server.url()):
        waiter = asyncio.create_task(works(session, server.url()))
        await until(lambda: session.stats().waiting == 1)
    assert await waiter
    assert len(hook.calls) == 4
    assert server.handshakes == 1


async def test_check_runs_on_what_was_prewarmed(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook)
    await session.prewarm(server.url(), 1)
    assert not await works(session, server.url())
    assert len(hook.calls) == 1


async def test_reset_runs_before_a_released_one_is_pooled(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.does = say_hello
    session = make_session(reset=hook, limit=1)
    ws = await session.ws_connect(server.url())
    hook.gate.clear()
    completion = ws.release()
    assert ws.closed
    await until(lambda: len(hook.calls) == 1)
    assert session.stats().acquired == 1
    waiter = asyncio.create_task(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    hook.gate.set()
    await completion
    assert (await waiter) == ws
    assert hook.finished == 1
    await (await waiter).release()
    assert session.stats().idle == 1
    assert session.stats().released == 2


async def test_nobody_need_wait_for_reset(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.gate.clear()
    session = make_session(reset=hook)
    async with asyncio.timeout(30):
        async with session.ws_connect(server.url()):
            pass
        async with session.ws_connect(server.url(), reset=None):
            pass
        ws = await session.ws_connect(server.url())
        async with ws:
            pass
    await until(lambda: len(hook.calls) == 2)
    assert session.stats().acquired == 2
    hook.gate.set()
    await until(lambda: session.stats().idle == 3)


async def test_what_nobody_used_is_not_reset(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(reset=hook)
    await session.prewarm(server.url(), 2)
    ws = await session.ws_connect(server.url())
    await ws.close()
    assert not hook.calls


async def test_force_close_needs_no_reset(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(reset=hook, force_close=True)
    await works(session, server.url())
    assert not hook.calls
    assert session.stats().closed_forced == 1


async def test_a_ping_while_configure_runs_costs_nothing(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.gate.clear()
    session = make_session(configure=hook)
    prewarm = asyncio.create_task(session.prewarm(server.url(), 1))
    await until(lambda: hook.calls and server.sockets)
    await server.sockets[0].ping()
    await until(lambda: hook.calls[0]._reader._buffer)
    hook.gate.set()
    assert await prewarm == 1
    assert session.stats().idle == 1


# -- hooks of a call -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
async def test_connections_with_different_hooks_are_not_interchangeable(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    session = make_session()
    other = Recorder()
    for number, hooks in enumerate(({}, {name: hook}, {name: other}), start=1):
        for _ in range(2):
            await (await session.ws_connect(server.url(), **hooks)).release()
        assert server.handshakes == number
    assert hook.calls
    assert other.calls


async def test_hooks_of_a_call_come_before_those_of_the_session(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook, check=hook, reset=hook)
    none: dict[str, Any] = dict.fromkeys(HOOKS)
    for _ in range(2):
        await (await session.ws_connect(server.url(), **none)).release()
    assert not hook.calls
    await session.prewarm(server.url(), 2, **none)
    assert not hook.calls
    await session.prewarm(server.url(), 2)
    assert len(hook.calls) == 2


@pytest.mark.parametrize("name", HOOKS)
async def test_what_is_no_hook_is_refused(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    session = make_session()
    with pytest.raises(TypeError, match=f"{name} must be"):
        session.ws_connect(server.url(), **{name: 5})
    assert session.stats().requests == 0


@pytest.mark.parametrize("name", HOOKS)
def test_one_that_cannot_be_told_from_others_is_refused(name: str) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        async def __call__(self, ws: ClientWebSocketResponse) -> None: ...

    with pytest.raises(TypeError, match=f"{name} must be hashable, not Unhashable"):
        WebSocketClientSession(**{name: Unhashable()})


@dataclasses.dataclass
class Comparable:
    """Has ``__eq__``, so no ``__hash__``."""

    async def hook(self, ws: ClientWebSocketResponse) -> None: ...


@dataclasses.dataclass(frozen=True)
class ComparableByList:
    """Has a ``__hash__`` that fails."""

    tokens: list[str]

    async def hook(self, ws: ClientWebSocketResponse) -> None: ...


class Mapping(dict[str, str]):
    async def hook(self, ws: ClientWebSocketResponse) -> None: ...


@pytest.mark.parametrize("owner", [Comparable(), ComparableByList([]), Mapping()], ids=repr)
@pytest.mark.parametrize("name", HOOKS)
async def test_its_owner_need_not_be_hashable(
    server: Server, make_session: SessionFactory, name: str, owner: Any
) -> None:
    # A callback that fails would fail the fixture, too.
    session = make_session(**{name: owner.hook})
    for number in range(3):
        async with session.ws_connect(server.url(f"/?{number}")):
            pass
    assert not session._lifecycle.under_way
    async with asyncio.timeout(30):
        assert await session.prewarm(server.url(), 2) == 2
    connects = session.stats().connects
    async with session.ws_connect(server.url()):
        assert session.stats().connects == connects


@pytest.mark.parametrize("name", HOOKS)
async def test_one_that_is_not_async_is_told_of(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def not_async(ws: ClientWebSocketResponse) -> None: ...

    session = make_session(**{name: not_async})
    if name == "configure":
        with pytest.raises(TypeError, match=r"not_async must be async"):
            await works(session, server.url())
    else:
        for _ in range(2):
            await works(session, server.url())
        await until(lambda: f"The {name} hook " in caplog.text)
        assert "must be async" in caplog.text


# -- the handle of a hook ------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
async def test_its_handle_is_good_until_the_hook_ends(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    async def release_early(ws: ClientWebSocketResponse) -> None:
        assert isinstance(ws, ClientWebSocketResponse)
        await ws.release()
        assert not ws.closed
        await say_hello(ws)

    hook.does = release_early
    session = make_session(**{name: hook}, limit=1)
    for _ in range(2):
        await works(session, server.url())
    await until(lambda: session.stats().idle == 1)
    (ws, *_) = hook.calls
    assert ws.closed
    with pytest.raises(ConnectionReleasedError):
        await ws.send_str("late")
    assert server.handshakes == 1
    with warnings.catch_warnings(record=True) as warned:
        hook.calls.clear()
        del ws
        gc.collect()
    assert not warned


# -- failures ------------------------------------------------------------------------------------


async def test_configure_that_raises_is_the_callers_error(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook, limit=1)
    hook.error = KeyError("no such user")
    with pytest.raises(KeyError, match="no such user"):
        await session.ws_connect(server.url())
    await until(lambda: server.open == 0)
    assert session.stats().connect_errors == 1
    hook.error = None
    assert not await works(session, server.url())


async def test_configure_fails_only_the_caller_it_belongs_to(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook, limit=1)

    async def fail_once(ws: ClientWebSocketResponse) -> None:
        if len(hook.calls) == 1:
            raise KeyError

    hook.does = fail_once
    hook.gate.clear()
    first, second = (asyncio.create_task(session.ws_connect(server.url())) for _ in range(2))
    await until(lambda: len(hook.calls) == 1)
    hook.gate.set()
    with pytest.raises(KeyError):
        await first
    # The place went on.
    await (await second).release()
    assert server.peak == 1


async def test_configure_that_closes_the_connection(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook)

    async def close(ws: ClientWebSocketResponse) -> None:
        await ws.close()

    hook.does = close
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await session.ws_connect(server.url())
    assert session.stats().connecting == session.stats().acquired == 0


async def test_configure_under_its_deadline(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook, hook_timeout=0.05)
    hook.gate.clear()
    with pytest.raises(aiohttp.ConnectionTimeoutError, match=r"configure .* hook_timeout"):
        await session.ws_connect(server.url())
    await until(lambda: server.open == 0)
    hook.gate.set()
    await works(session, server.url())


async def test_own_timeout_of_configure_is_its_own(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(configure=hook)
    hook.error = TimeoutError("mine")
    with pytest.raises(TimeoutError, match="mine"):
        await session.ws_connect(server.url())


async def test_a_check_that_raises_costs_the_connection_and_the_next_is_tried(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, limit=3)
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    await asyncio.gather(*[ws.release() for ws in held])
    good = held[0]

    async def only_the_first(ws: ClientWebSocketResponse) -> None:
        assert ws == good

    hook.does = only_the_first
    async with session.ws_connect(server.url()) as ws:
        assert ws == good
    assert len(hook.calls) == 3
    assert session.stats().closed_failed == 2
    hook.error = OSError()
    # All fail, and a new one needs no check.
    assert not await works(session, server.url())
    assert server.peak <= 3


async def test_what_a_check_turns_down_is_not_counted_as_reused(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook)
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    await asyncio.gather(*[ws.release() for ws in held])
    hook.error = OSError()
    await works(session, server.url())
    assert (session.stats().requests, session.stats().reused) == (4, 0)
    hook.error = None
    await works(session, server.url())
    assert (session.stats().requests, session.stats().reused) == (5, 1)


async def test_a_waiter_whose_check_failed_keeps_its_turn(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, limit=1)
    order: list[int] = []

    async def caller(number: int) -> None:
        async with session.ws_connect(server.url()):
            order.append(number)

    async with session.ws_connect(server.url()):
        callers = []
        for number in range(3):
            callers.append(asyncio.create_task(caller(number)))
            await until(lambda number=number: session.stats().waiting == number + 1)
        hook.error = OSError()
    await until(lambda: order)
    await asyncio.gather(*callers)
    assert order == [0, 1, 2]
    assert server.peak == 1


async def test_a_check_that_closes_or_leaves_something_unread_has_failed(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, limit=1)
    await works(session, server.url())

    async def ask_and_run(ws: ClientWebSocketResponse) -> None:
        received = len(server.received)
        await ws.send_str("who is there?")
        await until(lambda: len(server.received) > received)
        await until(lambda: ws._reader._buffer)

    hook.does = ask_and_run
    assert not await works(session, server.url())
    assert session.stats().closed_dirty == 1

    async def close(ws: ClientWebSocketResponse) -> None:
        await ws.close()

    hook.does = close
    assert not await works(session, server.url())
    assert session.stats().closed_lost == 1


@pytest.mark.parametrize("name", HOOKS)
async def test_a_hook_that_leaves_a_receive_under_way_has_failed(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    left: list[asyncio.Task[aiohttp.WSMessage]] = []

    async def receive_in_background(ws: ClientWebSocketResponse) -> None:
        if not left:
            left.append(asyncio.create_task(ws.receive()))
            await until(lambda: ws._waiting)

    hook.does = receive_in_background
    session = make_session(**{name: hook}, limit=1, close_timeout=600)
    # It is not waited for when the connection is closed.
    async with asyncio.timeout(30):
        if name == "configure":
            with pytest.raises(WebSocketPoolError, match=r"returned while a receive\(\)"):
                await works(session, server.url())
        else:
            await works(session, server.url())
        assert not await works(session, server.url())
        assert (await left[0]).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    assert session.stats().closed_failed == (name != "configure")


async def test_check_under_its_deadline(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, hook_timeout=0.05, limit=1)
    await works(session, server.url())
    hook.gate.clear()
    assert not await works(session, server.url())
    assert session.stats().closed_failed == 1


async def test_a_check_that_raises_cancelled_error_cancels_nobody(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, limit=1)
    await works(session, server.url())
    hook.error = asyncio.CancelledError()
    assert not await works(session, server.url())


async def test_acquire_timeout_covers_the_check(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook, limit=1)
    await works(session, server.url())
    hook.gate.clear()
    with pytest.raises(PoolTimeoutError):
        async with asyncio.timeout(30):
            await session.ws_connect(server.url(), acquire_timeout=0.05)
    assert session.stats().timeouts == 1
    await until(lambda: session.stats().closing == 0)
    hook.gate.set()
    assert not await works(session, server.url())


async def test_who_gives_up_during_the_check_has_reused_nothing(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(check=hook)
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    await asyncio.gather(*[ws.release() for ws in held])
    hook.gate.clear()
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.05)
    call = asyncio.create_task(works(session, server.url()))
    await until(lambda: len(hook.calls) == 2)
    call.cancel()
    await asyncio.wait([call])
    assert session.stats().reused == 0


async def test_acquire_timeout_of_0_lets_a_check_end(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    hook.does = say_hello
    session = make_session(check=hook, acquire_timeout=0, limit=1)
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url())
    await session.prewarm(server.url(), 1)
    await (await session.ws_connect(server.url())).release()
    hook.error = OSError()
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url())
    assert session.stats().timeouts == 2


@pytest.mark.parametrize("acquire_timeout", [0, 0.05])
async def test_a_check_that_fails_when_time_is_up_costs_nobody_else(
    server: Server, make_session: SessionFactory, hook: Recorder, acquire_timeout: float
) -> None:
    session = make_session(limit=2)
    held = await session.ws_connect(server.url(), check=hook)
    other = await session.ws_connect(server.url())
    await asyncio.gather(held.release(), other.release())
    if acquire_timeout:
        hook.gate.clear()
    hook.error = OSError()
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), check=hook, acquire_timeout=acquire_timeout)
    await until(lambda: server.open == 1)
    # Nothing was opened, and nothing closed, for who waits no longer.
    assert (session.stats().connecting, session.stats().idle) == (0, 1)
    assert session.stats().timeouts == 1
    assert server.arrived == 2


async def test_acquire_timeout_of_0_tries_the_next(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    """The next that has heard something since the one that failed."""
    session = make_session(check=hook)
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    slots = [ws._slot for ws in held]
    await asyncio.gather(*[ws.release() for ws in held])
    # The clock is coarse.
    heard = [slot.conn.heard for slot in slots]
    while slots[0].conn.heard == heard[0] or slots[0].conn.heard <= heard[2]:
        await server.sockets[0].ping()
        await asyncio.sleep(0.01)
    caller = asyncio.current_task()
    tried: list[Any] = []

    async def only_the_first(ws: ClientWebSocketResponse) -> None:
        if asyncio.current_task() is caller:
            tried.append(ws._slot)
        assert ws._slot is slots[0]

    hook.does = only_the_first
    async with session.ws_connect(server.url(), acquire_timeout=0) as ws:
        assert ws._slot is slots[0]
    assert tried == [slots[2], slots[0]]


async def test_reset_that_raises_costs_the_connection(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(reset=hook, limit=1)
    ws = await session.ws_connect(server.url())
    hook.error = OSError()
    async with asyncio.timeout(30):
        await ws.release()
    assert session.stats().closed_failed == 1
    assert session.stats().closing == 0
    hook.error = None
    assert not await works(session, server.url())
    await until(lambda: session.stats().idle == 1)


@pytest.mark.parametrize("whose", ["its task", "what it awaits"])
async def test_reset_that_is_cancelled(
    server: Server, make_session: SessionFactory, hook: Recorder, whose: str
) -> None:
    """Only what ends it from outside is a cancellation; otherwise the hook has failed."""
    session = make_session(reset=hook, limit=1)
    ws = await session.ws_connect(server.url())
    if whose == "its task":
        hook.gate.clear()
    else:
        hook.error = asyncio.CancelledError()
    releasing = asyncio.ensure_future(ws.release())
    if whose == "its task":
        await until(lambda: hook.calls)
        session._pool.slots()[0].task.cancel()
    async with asyncio.timeout(30):
        await releasing
    stats = session.stats()
    is_cancelled = whose == "its task"
    assert (stats.closed_cancelled, stats.closed_failed) == (is_cancelled, not is_cancelled)


async def test_reset_under_its_deadline_and_with_a_place_needed(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(reset=hook, limit=1, hook_timeout=0.05)
    hook.gate.clear()
    for _ in range(3):
        assert not await works(session, server.url())
    assert server.peak == 1


async def test_reset_that_leaves_something_unread(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    async def ask_and_run(ws: ClientWebSocketResponse) -> None:
        await ws.send_str("who is there?")
        await until(lambda: ws._reader._buffer)

    hook.does = ask_and_run
    session = make_session(reset=hook)
    await (await session.ws_connect(server.url())).release()
    assert session.stats().closed_dirty == 1


async def test_what_is_unfit_at_release_is_not_reset(
    server: Server, make_session: SessionFactory, hook: Recorder
) -> None:
    session = make_session(reset=hook)
    ws = await session.ws_connect(server.url())
    await ws.send_str("x")
    await until(lambda: ws._reader._buffer)
    await ws.release()
    with pytest.raises(KeyError):
        async with session.ws_connect(server.url()):
            raise KeyError
    assert not hook.calls
    assert (session.stats().closed_dirty, session.stats().closed_failed) == (1, 1)


# -- the end of everything while one runs --------------------------------------------------------


async def a_caller_of(
    session: WebSocketClientSession, url: str, hook: Recorder, name: str
) -> asyncio.Task[bool]:
    """Return a caller whose hook of this name runs, and does not end."""
    if name != "configure":
        await works(session, url)
        await until(lambda: session.stats().idle == 1)
    hook.calls.clear()
    hook.gate.clear()
    caller = asyncio.create_task(works(session, url))
    await until(lambda: len(hook.calls) == 1)
    return caller


@pytest.mark.parametrize("name", HOOKS)
async def test_session_closed_while_it_runs(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    session = make_session(**{name: hook})
    caller = await a_caller_of(session, server.url(), hook, name)
    async with asyncio.timeout(30):
        await session.close()
    if name == "reset":
        await caller
    else:
        with pytest.raises(PoolClosedError):
            await caller
    assert session.stats().closing == 0
    await until(lambda: server.open == 0)


@pytest.mark.parametrize("name", HOOKS)
async def test_caller_cancelled_while_it_runs(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    session = make_session(**{name: hook}, limit=1)
    caller = await a_caller_of(session, server.url(), hook, name)
    caller.cancel()
    await asyncio.wait([caller])
    if name != "reset":
        assert caller.cancelled()
    hook.gate.set()
    reused = await works(session, server.url())
    # A handshake goes on without its caller; a check that was cut may have left something behind.
    assert reused is (name == "reset")
    assert server.handshakes == (2 if name == "check" else 1)
    assert server.peak == 1


@pytest.mark.parametrize("name", HOOKS)
async def test_socket_dies_while_it_runs(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str
) -> None:
    session = make_session(**{name: hook}, limit=1)
    caller = await a_caller_of(session, server.url(), hook, name)
    server.transports[0].abort()
    await until(lambda: server.open == 0)
    await until(lambda: session._pool.slots()[0].conn.has_ended)
    hook.gate.set()
    if name == "configure":
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller
    else:
        assert await caller is (name == "reset")
    assert await works(session, server.url()) is (name == "check")


async def test_hook_that_goes_on_though_told_to_stop(
    server: Server, make_session: SessionFactory
) -> None:
    async def stubborn(ws: ClientWebSocketResponse) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    session = make_session(check=stubborn, hook_timeout=0.02, limit=1)
    for _ in range(3):
        assert not await works(session, server.url())
    assert session.stats().closed_failed == 2


@pytest.mark.parametrize("how", ["fails", "hangs", "is cancelled"])
@pytest.mark.parametrize("name", HOOKS)
async def test_one_that_fails_leaves_nothing_to_the_cyclic_collector(
    server: Server, make_session: SessionFactory, hook: Recorder, name: str, how: str
) -> None:
    made: weakref.WeakSet[Any] = weakref.WeakSet()

    class Response(ClientWebSocketResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.add(self)

    async def acquire() -> ClientWebSocketResponse:
        ws: ClientWebSocketResponse = await session.ws_connect(server.url())
        return ws

    hook_timeout = 0.05 if how == "hangs" else None
    session = make_session(**{name: hook}, ws_response_class=Response, hook_timeout=hook_timeout)
    if name == "check":
        await works(session, server.url())
    if how == "fails":
        hook.error = OSError()
    else:
        hook.gate.clear()
    gc.collect()
    gc.disable()
    try:
        caller = asyncio.create_task(acquire())
        if name == "reset":
            (await caller).release()
        await until(lambda: hook.calls)
        if how == "is cancelled":
            (slot,) = session._pool.slots()
            (slot.task or caller).cancel()
        # Its exception would be logged, and kept by what captures logs.
        await asyncio.gather(caller, return_exceptions=True)
        if name == "check" and how != "is cancelled":
            await (await caller).close()
        tasks = weakref.WeakSet([caller])
        del caller
        hook.calls.clear()
        await until(lambda: session.stats().endpoints == 0)
        hook.error = None
        slot = None
        await until(lambda: not made and not tasks)
    finally:
        gc.enable()


async def test_a_storm_of_everything(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    turns = iter(range(1_000_000))

    async def hook(ws: ClientWebSocketResponse) -> None:
        turn = next(turns)
        if turn % 7 == 0:
            raise OSError
        if turn % 5 == 0:
            await say_hello(ws)
        if turn % 11 == 0:
            await asyncio.sleep(0.02)

    session = make_session(
        configure=hook, check=hook, reset=hook, hook_timeout=0.01, limit=3, acquire_timeout=30
    )
    served = 0

    async def caller(number: int) -> None:
        nonlocal served
        for turn in range(10):
            try:
                # Who has no timeout is served on the busiest machine.
                patience = (number * 7 + turn * 3) % 11
                async with asyncio.timeout(0.003 * patience if patience < 10 else None):
                    async with session.ws_connect(server.url()) as ws:
                        await ws.send_str(f"{number} {turn}")
                        assert await ws.receive_str() == f"{number} {turn}"
                        served += 1
            except (TimeoutError, aiohttp.ClientError, OSError):
                pass

    with caplog.at_level(logging.ERROR):
        await asyncio.gather(*[caller(number) for number in range(30)])
    assert not caplog.records
    assert served
    assert server.peak <= 3
    async with asyncio.timeout(30):
        for _ in range(10):
            with contextlib.suppress(OSError):
                await works(session, server.url())
    await until(lambda: session.stats().acquired == session.stats().connecting == 0)
