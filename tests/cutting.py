"""Cuts operations short, at every point where they can be, and looks at what is left.

An :class:`Operation` is run once to count the points at which it could be cut, on each grid:

* ``step``: where its coroutine suspends; it is driven by hand, and cut while it is suspended;
* ``turn``: before each turn of the loop, from before its first step to its end;
* ``callback``: after each callback that the loop runs on the client's side (asyncio only, where the
  handles of the loop can be counted), which is between any two things that happen at all.

Then, for each point, it is run again from a fresh start, cut there in one of the ways of ``CUTS``,
and everything that must hold afterwards is checked.  ``python -m tests.cutting`` runs all of it,
and prints how many cuts it made.
"""

import argparse
import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import socket
import ssl
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import trustme
from aiolimiter import AsyncLimiter

import aiowebsocketclient
from aiowebsocketclient import (
    ClientWebSocketResponse,
    FleetUnavailableError,
    PoolClosedError,
    PooledClientSession,
    PoolTimeoutError,
    PrewarmError,
    TraceConfig,
    WebSocketClientSession,
    WebSocketPoolError,
    keepalive,
)
from aiowebsocketclient._compat import clock
from aiowebsocketclient.acquiring import Acquiring
from aiowebsocketclient.balancing import Call
from aiowebsocketclient.outbox import State

from .fleet.cut import CutFleet
from .proxy import NO_LINGER
from .redis_server import RedisServer
from .servers import Server, serving
from .tally import TALLY

# Never to be waited for: they are struck by hand.
ACQUIRE_TIMEOUT = 1009.0
CONN_TIMEOUT = 2003.0
HOOK_TIMEOUT = 3001.0
# What is waited for with this has long come about, or never will.
PATIENCE = 30.0

# Whose callback, or timer, it is: both sides of each connection are in one loop.
SIDE: contextvars.ContextVar[str] = contextvars.ContextVar("SIDE", default="client")


class KilledError(aiohttp.ClientError):
    """The connection ended while it was in use."""


async def echo(ws: ClientWebSocketResponse, text: str = "hello") -> None:
    await ws.send_str(text)
    # Cut here, the reply is on its way, and nothing but the pool knows that somebody asked.
    await asyncio.sleep(0)
    message = await ws.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise KilledError(str(message.type))
    assert message.data == text


class Left:
    """Says which tasks are left, when it is asked."""

    def __init__(self, before: "set[asyncio.Task[Any]]") -> None:
        self._before = before

    def __repr__(self) -> str:
        return f"tasks are left: {asyncio.all_tasks() - self._before}"


async def until(condition: Callable[[], object], what: object) -> None:
    """Wait for what takes some turns of the loop; it is looked for in each, then now and then."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, str(what)
        await asyncio.sleep(0.001)


# -- where: the grids ----------------------------------------------------------------------------


class Stepped:
    """Drives a coroutine by hand, and tells where it suspends."""

    def __init__(self, awaitable: Any, suspended: Callable[[], None] = lambda: None) -> None:
        self._steps = awaiting(awaitable)
        self._suspended = suspended
        self._begun: list[Any] = []
        self._over = False

    def begin(self) -> None:
        """Take the first step now, and not when the loop gets to it."""
        try:
            self._begun.append(self._steps.send(None))
        except StopIteration:
            self._over = True

    def __await__(self) -> Iterator[Any]:
        error: BaseException | None = None
        while not self._over:
            try:
                yielded = self._step(error)
            except StopIteration as stop:
                return stop.value
            finally:
                # Its traceback holds this frame.
                error = None
            self._suspended()
            try:
                yield yielded
            except BaseException as thrown:
                error = thrown
        return None

    def _step(self, error: BaseException | None) -> Any:
        try:
            if error is not None:
                return self._steps.throw(error)
            return self._begun.pop() if self._begun else self._steps.send(None)
        finally:
            del error


async def awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Grid:
    """Counts the points of an operation from its beginning to its end; cuts it at one of them."""

    name = ""

    def __init__(self, at: int | None, cut: Callable[[], None], look: Callable[[], None]) -> None:
        self.count = 0
        self._look = look
        self._at = at
        self._cut = cut
        self._running = False

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        self._running = True
        return asyncio.Task(coroutine)

    def stop(self) -> None:
        self._running = False

    def _passes(self) -> None:
        if not self._running:
            return
        number, self.count = self.count, self.count + 1
        self._look()
        if number == self._at:
            self._cut()


class Steps(Grid):
    name = "step"

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return super().start(awaiting(Stepped(coroutine, self._passes)))


class Turns(Grid):
    name = "turn"

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        asyncio.get_running_loop().call_soon(self._turn)
        return super().start(coroutine)

    def _turn(self) -> None:
        self._passes()
        if self._running:
            asyncio.get_running_loop().call_soon(self._turn)


class Callbacks(Grid):
    name = "callback"

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        passes = self._passes
        run: Any = asyncio.Handle._run
        self._original = run

        def run_and_pass(handle: Any) -> None:
            run(handle)
            if handle._context is None or handle._context.get(SIDE, "client") == "client":
                passes()

        asyncio.Handle._run = run_and_pass  # type: ignore[attr-defined]
        return super().start(coroutine)

    def stop(self) -> None:
        super().stop()
        asyncio.Handle._run = self._original  # type: ignore[attr-defined]


def grids() -> list[type[Grid]]:
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        # Which has all the points of the turns, and more.
        return [Steps, Callbacks]
    return [Steps, Turns]


# -- how: the cuts -------------------------------------------------------------------------------


def cancel(trial: "Trial") -> None:
    if trial.task.cancel():
        trial.was_cancelled = True
    trial.cancellations += 1


def cancel_again(trial: "Trial") -> None:
    """Cancel it, and once more while it cleans up."""
    cancel(trial)
    trial.cancellations += 1
    asyncio.get_running_loop().call_soon(trial.task.cancel)


def close(trial: "Trial") -> None:
    trial.was_closed = True
    closing = Stepped(trial.session.close())
    closing.begin()
    trial.helpers.append(asyncio.Task(awaiting(closing)))


def reset(trial: "Trial") -> None:
    """Reset every connection from the server's side."""
    trial.was_killed = True
    for server in trial.arena.servers:
        for transport in server_transports(server):
            # TLS may have lost it already.
            is_lost = getattr(transport, "_ssl_protocol", transport) is None
            sock = None if is_lost else transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            transport.abort()


def end(trial: "Trial") -> None:
    """End every connection from the server's side, without a closing handshake."""
    trial.was_killed = True
    for server in trial.arena.servers:
        for transport in server_transports(server):
            transport.close()


def abort(trial: "Trial") -> None:
    """Abort every transport on the client's side."""
    trial.was_killed = True
    for transport in client_transports(trial.session):
        transport.abort()


def lose(trial: "Trial") -> None:
    """Let the loss of every connection be told here, and not some turns after its cause."""
    trial.was_killed = True
    for transport in client_transports(trial.session):
        protocol = transport.get_protocol()
        transport.abort()
        protocol.connection_lost(None)


def strike_acquire_timeout(trial: "Trial") -> None:
    for timer in trial.arena.watch.alive():
        if getattr(timer.callback, "__func__", None) is Acquiring.time_out:
            trial.must_time_out = bool(timer.args[0].queued)
            trial.was_struck = True
            timer.strike()
        elif getattr(timer.callback, "__func__", None) is Call._time_out:
            trial.was_struck = True
            timer.strike()


def strike_conn_timeout(trial: "Trial") -> None:
    strike(trial, CONN_TIMEOUT)


def strike_hook_timeout(trial: "Trial") -> None:
    strike(trial, HOOK_TIMEOUT)


def strike(trial: "Trial", seconds: float) -> None:
    for timer in trial.arena.watch.alive():
        owner = getattr(timer.callback, "__self__", None)
        if isinstance(owner, asyncio.Timeout) and abs(timer.delay - seconds) < 100:
            trial.was_struck = True
            timer.strike()


def expire(trial: "Trial") -> None:
    """Let all that lies idle, and all that nobody waits for, be too old by now."""
    session = trial.session
    if session._bound and not session.closed:
        session._carry_out(session._pool.expire(time.monotonic() + 10_000))


def resize(trial: "Trial") -> None:
    """Let the limit be 1 for three turns."""
    session, limit, turns = trial.session, trial.session.limit, 3

    def grow() -> None:
        nonlocal turns
        turns -= 1
        if turns:
            asyncio.get_running_loop().call_soon(grow)
        elif not session.closed:
            session.resize(limit=limit)

    if limit is not None and session._bound and not session.closed:
        trial.was_resized = True
        session.resize(limit=1)
        asyncio.get_running_loop().call_soon(grow)


def drain(trial: "Trial") -> None:
    if not trial.session.closed:
        trial.session.drain()


def cancel_tasks(trial: "Trial") -> None:
    """Cancel the tasks of the pool's own, as somebody does who cancels all there are."""
    trial.was_killed = trial.was_stopped = True
    session = trial.session
    tasks = [slot.task for slot in session._pool.slots()] + list(session._lifecycle.goodbyes)
    if (lessee := session._lifecycle.lessee) is not None:
        tasks += [lessee._reporting, lessee._listening]
    for task in [*tasks, session._ending.task]:
        if task is not None:
            task.cancel()


def fail_the_fleet(trial: "Trial") -> None:
    """Let the call to the fleet that is under way fail; it may be carried out all the same."""
    if trial.fleet is not None:
        trial.has_fleet_failed |= trial.fleet.fail()


def lose_the_lease(trial: "Trial") -> None:
    """Let the lease be lost here, as if the fleet had not answered for so long."""
    lessee = trial.session._lifecycle.lessee
    if lessee is None or lessee._has_stopped or lessee.is_lost:
        return
    if lessee._lease.is_member:
        trial.was_lease_lost = True
        lessee._lease.deadline = time.monotonic() - 1.0
        lessee.look()


def collect(trial: "Trial") -> None:
    """Collect garbage here; nothing that is needed may be."""
    gc.collect()


def server_transports(server: Server) -> list[Any]:
    connections = [c for c in server.runner.server.connections if c.transport is not None]
    return [c.transport for c in connections]


def client_transports(session: WebSocketClientSession) -> list[Any]:
    client_session = session._pool_client.session
    if client_session is None or client_session.connector is None:
        return []
    # Older aiohttp keeps something else here while it connects.
    transports = [getattr(p, "transport", None) for p in client_session.connector._acquired]
    return [transport for transport in transports if transport is not None]


Cut = Callable[["Trial"], None]

CUTS: dict[str, tuple[Cut, ...]] = {
    "cancel": (cancel,),
    "close": (close,),
    "reset": (reset,),
    "end": (end,),
    "abort": (abort,),
    "lose": (lose,),
    "acquire_timeout": (strike_acquire_timeout,),
    "conn_timeout": (strike_conn_timeout,),
    "hook_timeout": (strike_hook_timeout,),
    "expire": (expire,),
    "collect": (collect,),
    "resize": (resize,),
    "drain": (drain,),
    "cancel tasks": (cancel_tasks,),
    "fail the fleet": (fail_the_fleet,),
    "lose the lease": (lose_the_lease,),
    "fail the fleet and cancel": (fail_the_fleet, cancel),
    "lose the lease and close": (lose_the_lease, close),
    "cancel, cancel again": (cancel_again,),
    "cancel and close": (cancel, close),
    "close and cancel": (close, cancel),
    "reset and cancel": (reset, cancel),
    "cancel and reset": (cancel, reset),
    "abort and cancel": (abort, cancel),
    "lose and cancel": (lose, cancel),
    "lose and close": (lose, close),
    "conn_timeout and cancel": (strike_conn_timeout, cancel),
    "hook_timeout and cancel": (strike_hook_timeout, cancel),
    "acquire_timeout and close": (strike_acquire_timeout, close),
}


FAMILIES = {
    "cancelled": ("cancel", "cancel, cancel again"),
    "closed": (
        "close",
        "cancel and close",
        "close and cancel",
        "acquire_timeout and close",
        "lose and close",
    ),
    "killed": (
        "reset",
        "end",
        "abort",
        "lose",
        "reset and cancel",
        "cancel and reset",
        "abort and cancel",
        "lose and cancel",
    ),
    "timed out": (
        "acquire_timeout",
        "conn_timeout",
        "hook_timeout",
        "conn_timeout and cancel",
        "hook_timeout and cancel",
    ),
    "disturbed": ("expire", "collect", "resize", "drain", "cancel tasks"),
    "left alone by its fleet": (
        "fail the fleet",
        "lose the lease",
        "fail the fleet and cancel",
        "lose the lease and close",
    ),
}
assert set(CUTS) == set().union(*FAMILIES.values())

#: What is done at every few points only, as are turns, where time is short.
THINNED = {
    "end",
    "abort",
    "expire",
    "collect",
    "resize",
    "drain",
    *(name for name in CUTS if " and " in name),
}


# -- what is watched meanwhile -------------------------------------------------------------------


class Timer:
    def __init__(self, delay: float, callback: Any, args: tuple[Any, ...]) -> None:
        self.delay = delay
        self.callback = callback
        self.args = args
        self.side = SIDE.get()
        self.has_run = self.was_struck = False
        self.handle: Any = None

    def __call__(self, *args: Any) -> None:
        self.has_run = True
        self.callback(*args)

    def strike(self) -> None:
        """Let it go off now."""
        self.handle.cancel()
        self.was_struck = True
        self(*self.args)

    def __repr__(self) -> str:
        return f"<{self.callback} after {self.delay:.3f} s>"

    @property
    def is_alive(self) -> bool:
        return not self.has_run and not self.handle.cancelled()


#: Hooks and handshakes fail where they are cut, and some are made to; and so do fleets.
EXPECTED = ("hook_failed", "min_idle_failing", "endpoint_out", "fleet_lost", "fleet_unreachable")


class Watch(logging.Handler):
    """Takes down every timer, and everything that somebody complains of."""

    def __init__(self, loop: Any) -> None:
        super().__init__(logging.WARNING)
        self.loop = loop
        self.timers: list[Timer] = []
        self.complaints: list[str] = []
        self.warnings: list[warnings.WarningMessage] = []
        self._in_call = False

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watch"]:
        loop, originals = self.loop, {}
        for name in ("call_later", "call_at"):
            originals[name] = getattr(loop, name)
            setattr(loop, name, self._recording(originals[name], name == "call_at"))
        loop.set_exception_handler(self._complain_of_context)
        hook, sys.unraisablehook = sys.unraisablehook, self._complain_of_unraisable
        logging.getLogger().addHandler(self)
        try:
            with warnings.catch_warnings(record=True) as self.warnings:
                warnings.simplefilter("always")
                yield self
        finally:
            logging.getLogger().removeHandler(self)
            sys.unraisablehook = hook
            loop.set_exception_handler(None)
            for name in originals:
                delattr(loop, name)

    def _recording(self, original: Any, is_absolute: bool) -> Any:
        def call(when: float, callback: Any, *args: Any, **context: Any) -> Any:
            if self._in_call:
                return original(when, callback, *args, **context)
            delay = when - self.loop.time() if is_absolute else when
            timer = Timer(delay, callback, args)
            self._in_call = True
            try:
                timer.handle = original(when, timer, *args, **context)
            finally:
                self._in_call = False
            self.timers.append(timer)
            return timer.handle

        return call

    def alive(self) -> list[Timer]:
        return [timer for timer in self.timers if timer.side == "client" and timer.is_alive]

    def waited_for(self) -> list[Timer]:
        """Return timers that have gone off although nothing here takes that long."""
        long = [timer for timer in self.timers if timer.side == "client" and timer.delay >= 1]
        return [timer for timer in long if timer.has_run and not timer.was_struck]

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if record.name != "aiohttp.server" and event not in EXPECTED:
            self.complaints.append(f"log record: {self.format(record)}")

    def _complain_of_context(self, loop: Any, context: dict[str, Any]) -> None:
        self.complaints.append(f"exception handler: {context}")

    def _complain_of_unraisable(self, unraisable: Any) -> None:
        self.complaints.append(f"unraisable: {unraisable}")

    def reset(self) -> None:
        self.timers.clear()
        self.complaints.clear()
        self.warnings.clear()


class Arena:
    """Servers, and the watch over the loop, shared by the trials of a test."""

    def __init__(
        self, authority: trustme.CA | None = None, redis: RedisServer | None = None
    ) -> None:
        self.redis = redis
        self.server = Server()
        self.second = Server()
        self.tls_server = Server()
        self.servers = [self.server, self.second]
        self.watch = Watch(asyncio.get_running_loop())
        self.client_tls: ssl.SSLContext | None = None
        self._authority = authority

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Arena"]:
        async with contextlib.AsyncExitStack() as stack:
            side = SIDE.set("server")
            for server in self.servers:
                await stack.enter_async_context(serving(server))
            if self._authority is not None:
                self.servers.append(self.tls_server)
                await self._open_tls(stack, self._authority)
            SIDE.reset(side)
            stack.enter_context(self.watch.watching())
            # What is there by now is looked at no more, which makes a collection cheap.
            gc.freeze()
            yield self

    async def _open_tls(self, stack: contextlib.AsyncExitStack, authority: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.client_tls = ssl.create_default_context()
        authority.configure_trust(self.client_tls)
        await stack.enter_async_context(serving(self.tls_server, ssl_context=context))

    def reset(self) -> None:
        self.watch.reset()
        for server in self.servers:
            server.handshakes = server.arrived = server.peak = 0
            server.stopped.clear()
            for record in (server.requests, server.received, server.close_codes):
                record.clear()


class Account(TraceConfig):
    """Counts what is told of callers and connections."""

    def __init__(self) -> None:
        super().__init__()
        self.told: Counter[str] = Counter()
        signals = [name for name in vars(self) if name.startswith("on_")]
        for name in signals:
            getattr(self, name).append(self._counts(name.removeprefix("on_")))

    def _counts(self, name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def count(session: object, ctx: object, params: object) -> None:
            self.told[name] += 1

        return count

    def check(self, session: WebSocketClientSession) -> None:
        """See whether each beginning has its end, by the time the session is closed."""
        told, stats = self.told, session.stats()
        assert told["queued_start"] == told["queued_end"] == stats.queued, told
        assert told["connect_start"] == told["connect_end"] + told["connect_exception"], told
        assert told["connect_end"] == told["close"] == stats.connects, told
        assert told["reuse"] == stats.reused, told
        assert told["release"] <= stats.requests, told


# -- one operation, cut once ---------------------------------------------------------------------


async def nothing(trial: "Trial") -> None:
    pass


@dataclass(frozen=True)
class Operation:
    """Something that a user does, and the state in which it is done."""

    name: str
    run: Callable[["Trial"], Coroutine[Any, Any, Any]]
    prepare: Callable[["Trial"], Awaitable[None]] = nothing
    #: Arguments of the session; called, since some belong to a loop.
    arguments: Callable[[], dict[str, Any]] = dict
    #: What it raises where nobody cuts it.
    raises: type[BaseException] | tuple[type[BaseException], ...] = ()
    #: It uses connections, and so may meet their end.
    talks: bool = False
    #: It does nothing but to acquire: it cannot succeed once the session is closed.
    acquires: bool = False
    #: It ends with the session closed, whatever the cut; so bystanders are turned away.
    closes: bool = False
    #: Cuts that have nothing to cut here.
    without: tuple[str, ...] = ()
    #: How many of its points are cut at most; what waits for the clock has turns without end.
    points: int = 120
    #: Handles that are lost on purpose.
    loses: int = 0
    #: It can leave behind handshakes that never end.
    orphans: bool = False
    #: Arguments of its fleet; None: it has none.
    fleet: dict[str, Any] | None = None
    tls: bool = False
    has_hooks: bool = False

    def cuts(self) -> list[str]:
        """Return the names of those of CUTS that have something to cut."""
        left_out = self.without if self.has_hooks else (*self.without, *NO_HOOK_TIMEOUT)
        if self.fleet is None:
            left_out += FAMILIES["left alone by its fleet"]
        return [name for name in CUTS if name not in left_out]


class Trial:
    """One run of an operation, in a session of its own, cut or not."""

    def __init__(self, arena: Arena, operation: Operation) -> None:
        self.arena = arena
        self.operation = operation
        self.server = arena.tls_server if operation.tls else arena.server
        options = {"limit": 2, "close_timeout": 4.0, "conn_timeout": CONN_TIMEOUT}
        options |= {"acquire_timeout": ACQUIRE_TIMEOUT, "hook_timeout": HOOK_TIMEOUT}
        options |= operation.arguments()
        self.fleet: CutFleet | None = None
        if operation.fleet is not None:
            assert arena.redis is not None
            self.fleet = CutFleet(arena.redis, **operation.fleet)
            options["fleet"] = self.fleet
        self.session = WebSocketClientSession(**options)
        #: Handles that the stage, or the operation, holds.
        self.held: list[ClientWebSocketResponse] = []
        self.bystanders: list[asyncio.Task[None]] = []
        self.helpers: list[asyncio.Task[Any]] = []
        self.task: asyncio.Task[Any]
        self.was_cancelled = self.was_closed = self.was_killed = self.was_struck = False
        self.must_time_out = self.was_resized = self.was_stopped = False
        self.was_lease_lost = self.has_fleet_failed = False
        self.was_cut = False
        self.had_ended = False
        self.cancellations = 0

    # What operations are made of.

    def connect(self, path: str = "/", **options: Any) -> Any:
        if self.operation.tls:
            options["ssl"] = self.arena.client_tls
        return self.session.ws_connect(self.server.url(path), **options)

    async def hold(self, path: str = "/", *, second: bool = False) -> None:
        url = self.arena.second.url(path) if second else None
        connecting = self.connect(path) if url is None else self.session.ws_connect(url)
        self.held.append(await connecting)

    def release_held(self) -> None:
        self.held.pop(0).release()

    def lose_held(self) -> None:
        self.held.pop(0)

    def later(self, turns: int, action: Callable[[], None]) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            action()

        self.helpers.append(asyncio.Task(wait()))

    async def join(self, path: str = "/", *, second: bool = False) -> None:
        """Add somebody who wants the same, and must get it whatever happens to the operation."""
        url = (self.arena.second if second else self.server).url(path)
        self.bystanders.append(asyncio.Task(self._stand_by(url, f"bystander {path}")))
        await asyncio.sleep(0)

    def follow(self, path: str = "/") -> None:
        """Add somebody who comes right after the operation."""

        async def come() -> None:
            await asyncio.sleep(0)
            await self._stand_by(self.server.url(path), f"follower {path}")

        self.bystanders.append(asyncio.Task(come()))

    async def _stand_by(self, url: str, text: str) -> None:
        options = {"ssl": self.arena.client_tls} if self.operation.tls else {}
        for _ in range(6):
            try:
                async with self.session.ws_connect(url, acquire_timeout=None, **options) as ws:
                    await echo(ws, text)
                return
            except PoolClosedError:
                if self.may_be_closed:
                    return
                raise
            except FleetUnavailableError:
                if not self.was_lease_lost:
                    raise
                await until(self._has_lease, "the lease is lost for good")
            except aiohttp.ClientError as error:
                may_fail = self.was_killed or self.was_struck or self.may_be_closed
                may_fail = may_fail or self.was_lease_lost
                if not may_fail or (isinstance(error, WebSocketPoolError) and not self.was_stopped):
                    raise
        raise AssertionError("a bystander met more failures than there were")

    def _has_lease(self) -> bool:
        lessee = self.session._lifecycle.lessee
        return lessee is None or not lessee.is_lost or self.session.closed

    @property
    def may_be_closed(self) -> bool:
        return self.was_closed or self.operation.closes

    # The trial itself.

    async def run(self, grid: type[Grid], at: int | None, cuts: tuple[Cut, ...]) -> int:
        """Return how many points there were."""
        points = 0
        before = asyncio.all_tasks()
        self.arena.reset()
        descriptors = count_descriptors()
        try:
            await self.operation.prepare(self)
            points = await self._run_cut(grid, at, cuts)
            self._check_outcome()
            await self._check_what_is_left()
            await self._check_whole()
            await self._check_end()
            for server in self.arena.servers:
                # aiohttp lets a handler that waits here go on when its client has gone.
                server.stopped.set()
            await until(lambda: not asyncio.all_tasks() - before, Left(before))
            await until(lambda: count_descriptors() <= descriptors, "a descriptor is left")
            self._check_watch()
        except BaseException as error:
            error.add_note(f"{self.operation.name}: {[c.__name__ for c in cuts]}")
            error.add_note(f"cut at {grid.name} {at} of {points}: {self.session!r}")
            await self._clean_up(before)
            raise
        return points

    async def _clean_up(self, before: "set[asyncio.Task[Any]]") -> None:
        """Leave nothing of a failure to the next trial."""
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.session.close(), PATIENCE)
        if self.fleet is not None:
            await self.fleet.close()
        if left:
            await asyncio.wait(left, timeout=PATIENCE)
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()

    async def _run_cut(self, kind: type[Grid], at: int | None, cuts: tuple[Cut, ...]) -> int:
        def cut() -> None:
            self.was_cut = True
            self.had_ended = self.task.done()
            for each in cuts:
                each(self)

        grid = kind(at, cut, self.look)
        self.task = grid.start(self.operation.run(self))
        try:
            _, running = await asyncio.wait({self.task}, timeout=PATIENCE)
        finally:
            grid.stop()
        assert not running, "the operation hangs"
        return grid.count

    def _check_outcome(self) -> None:
        task = self.task
        assert task.cancelled() == self.was_cancelled, f"cancelled: {self.was_cancelled}; {task}"
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, PrewarmError):
            for each in error.exceptions:
                self._check_error(each)
        else:
            self._check_error(error)

    def _check_error(self, error: BaseException | None) -> None:
        task, operation = self.task, self.operation
        if isinstance(error, operation.raises):
            return
        if self.must_time_out and not self.was_killed and not self.was_closed:
            assert isinstance(error, PoolTimeoutError), repr(error)
        if self.was_closed and not self.had_ended and operation.acquires:
            assert isinstance(error, PoolClosedError | PoolTimeoutError), repr(error)
        if error is None:
            assert not (operation.raises and not self.was_cut), "it should have failed"
            if isinstance(task.result(), ClientWebSocketResponse):
                self.held.append(task.result())
        else:
            assert isinstance(error, self._allowed()), repr(error)
            if isinstance(error, WebSocketPoolError) and not self.was_stopped:
                assert isinstance(error, PoolClosedError | PoolTimeoutError), repr(error)

    def _allowed(self) -> tuple[type[BaseException], ...]:
        allowed: list[type[BaseException]] = []
        if self.was_closed:
            allowed.append(PoolClosedError)
            if self.operation.talks:
                allowed.append(aiohttp.ClientError)
        if self.was_killed:
            allowed.append(aiohttp.ClientError)
        if self.was_lease_lost:
            allowed.append(FleetUnavailableError)
        if self.was_struck:
            allowed += [PoolTimeoutError, aiohttp.ConnectionTimeoutError]
        return tuple(allowed)

    async def _check_what_is_left(self) -> None:
        """Nobody waits for nothing, and what is counted is there."""
        if self.helpers:
            done, running = await asyncio.wait(self.helpers, timeout=PATIENCE)
            assert not running, "close() hangs"
            for task in done:
                task.result()
        # They hold frames, and these what the operation held.
        del self.task
        self.helpers.clear()
        while self.held:
            await asyncio.wait_for(awaiting(self.held.pop().release()), PATIENCE)
        if self.bystanders:
            done, waiting = await asyncio.wait(self.bystanders, timeout=PATIENCE)
            assert not waiting, "a waiter is lost"
            for task in done:
                task.result()
            self.bystanders.clear()
        if self.operation.orphans:
            # What nobody waits for any more would be stopped 5 s later.
            expire(self)
        stats = self.session.stats
        # On which side a connection ended, the other learns a moment later.
        await until(lambda: not self._closing_transports(), "a transport does not close")
        # A reset goes on without who released.
        busy = ("connecting", "closing", *(["acquired"] if self.operation.has_hooks else []))
        await until(lambda: not any(getattr(stats(), n) for n in busy), "a place is lost")
        assert stats().acquired == stats().waiting == 0, self.session
        assert self.session._pool.sizes()["waiters"] == 0
        await until(lambda: self._open_transports() == stats().idle, "the server sees others")

    def _closing_transports(self) -> list[Any]:
        transports = client_transports(self.session)
        for server in self.arena.servers:
            transports += server_transports(server)
        return [transport for transport in transports if transport.is_closing()]

    def _open_transports(self) -> int:
        return sum(len(server_transports(server)) for server in self.arena.servers)

    async def _check_whole(self) -> None:
        """The whole limit can be taken at once, and each connection is nobody else's."""
        session = self.session
        if session.closed:
            return
        limit = session._pool_settings.limit_total or session._pool_settings.limit or 2
        if self.fleet is not None:
            self.fleet.rival.leave()
            await until(self._has_lease, "the lease is lost for good")
        async with asyncio.timeout(PATIENCE):
            held = await asyncio.gather(*[self.connect(acquire_timeout=None) for _ in range(limit)])
            assert len(set(held)) == limit
            await asyncio.gather(*[echo(ws, f"number {n}") for n, ws in enumerate(held)])
        assert session.stats().acquired == limit
        self._check_limits()
        await asyncio.gather(*[ws.release() for ws in held])
        assert session.stats().acquired == 0
        if not session.force_close and session._pool_settings.hooks.reset is not fail:
            # A place may have been asked back for a rival that was there a moment ago.
            assert session.stats().idle >= (limit if self.fleet is None else 1)

    def look(self) -> None:
        """Look at what must hold at any time."""
        try:
            self._check_limits()
        except AssertionError as error:
            self.arena.watch.complaints.append(str(error))

    def _check_limits(self) -> None:
        if self.was_resized:
            return
        limit, limit_total = (
            self.session._pool_settings.limit,
            self.session._pool_settings.limit_total,
        )
        for server in self.arena.servers:
            assert not limit or server.peak <= limit, f"{server.peak} of {limit} connections"
        open_now = sum(server.open for server in self.arena.servers)
        if self.fleet is not None:
            most = self.fleet.limit - self.fleet.rival.held
            assert open_now <= most, f"{open_now} connections, and {most} places"
        assert not limit_total or open_now <= limit_total, f"{open_now} connections altogether"

    async def _check_end(self) -> None:
        session = self.session
        await asyncio.wait_for(session.close(), PATIENCE)
        sizes = session._pool.sizes()
        assert not any(size for name, size in sizes.items() if not name.endswith("_heap")), sizes
        assert len(session._pool) == 0
        assert not session._lifecycle.under_way
        assert not session._lifecycle.goodbyes or await_gone(session._lifecycle.goodbyes)
        if session._tracer is not None:
            tracer = session._tracer
            assert not tracer._connections
            # Not so where the task was cancelled that waits for it.
            await until(lambda: tracer.outbox.state is State.EMPTY, "not all is told")
            for config in tracer._configs:
                assert isinstance(config, Account)
                config.check(session)
        if self.fleet is not None:
            await self._check_fleet(self.fleet)
        servers = self.arena.servers
        await until(lambda: not sum(map(len, map(server_transports, servers))), "a socket is left")
        # Its handler ends a turn of the loop after its socket.
        await until(lambda: not any(server.open for server in servers), "a handler goes on")

    async def _check_fleet(self, fleet: CutFleet) -> None:
        """No place is left in Redis; the lease ends those of a session that could not say so."""
        fleet.rival.leave()
        if not self.has_fleet_failed and not self.was_stopped:
            await until(lambda: not fleet.used(), "a place of the fleet is lost")
        await fleet.close()

    def _check_watch(self) -> None:
        watch = self.arena.watch
        # uvloop forgets that of a TLS handshake which is broken off, for the minute it takes.
        alive = [timer for timer in watch.alive() if "SSLProtocol" not in str(timer.callback)]
        assert not alive, f"timers are left: {alive}"
        assert not watch.waited_for(), f"was waited for: {watch.waited_for()}"
        gc.collect()
        lost = [w for w in watch.warnings if "never released" in str(w.message)]
        others = [str(w.message) for w in watch.warnings if w not in lost]
        # What is lost after the session was closed is nobody's loss.
        expected = {self.operation.loses} | ({0} if self.was_closed else set())
        assert len(lost) in expected, [str(w.message) for w in lost]
        assert not others, others
        assert not watch.complaints, watch.complaints


def await_gone(tasks: "set[asyncio.Task[None]]") -> bool:
    """Whether all have ended, and only their callbacks are still to run."""
    return all(task.done() for task in tasks)


def count_descriptors() -> int:
    if not os.path.isdir("/proc/self/fd"):
        return 0
    return len(os.listdir("/proc/self/fd"))


# -- the operations ------------------------------------------------------------------------------


async def an_idle_one(trial: Trial) -> None:
    await trial.hold()
    await trial.held.pop().release()


async def one_being_kept_alive(trial: Trial) -> None:
    await an_idle_one(trial)
    (slot,) = trial.session._pool.slots()
    keepalive._send(slot.conn.beat, slot.conn, clock())
    assert slot.conn.busy


async def an_idle_one_of_another_handshake(trial: Trial) -> None:
    await trial.hold("/other")
    await trial.held.pop().release()


async def all_in_use(trial: Trial) -> None:
    """One is released soon; who comes after the operation is to have one too."""
    await trial.hold()
    await trial.hold()
    trial.follow()
    trial.later(4, trial.release_held)


async def all_in_use_and_a_crowd(trial: Trial) -> None:
    await trial.hold()
    await trial.hold("/other")
    await trial.join()
    await trial.join("/other")
    trial.later(4, trial.release_held)
    trial.later(6, trial.release_held)


async def one_lost(trial: Trial) -> None:
    await trial.hold()
    await trial.hold()
    await trial.join()
    trial.later(3, trial.lose_held)


async def a_follower(trial: Trial) -> None:
    trial.follow()


async def a_follower_of_what_never_answers(trial: Trial) -> None:
    trial.follow()
    give_up_later(trial)


async def what_never_answers(trial: Trial) -> None:
    give_up_later(trial)


def give_up_later(trial: Trial) -> None:
    """Let conn_timeout strike where nothing else has ended the operation."""

    def give_up() -> None:
        if not trial.task.done():
            strike_conn_timeout(trial)
            # After a drain it is begun anew.
            give_up_later(trial)

    trial.later(15, give_up)


async def somebody_connecting(trial: Trial) -> None:
    await trial.join()


async def another_handshake_connecting(trial: Trial) -> None:
    await trial.join("/other")


async def others_at_both_endpoints(trial: Trial) -> None:
    await trial.hold()
    await trial.hold(second=True)
    await trial.held.pop().release()


async def others_in_use_at_both_endpoints(trial: Trial) -> None:
    await trial.hold()
    await trial.hold(second=True)
    trial.later(4, trial.release_held)
    trial.later(8, trial.release_held)


async def others_in_use_elsewhere(trial: Trial) -> None:
    await trial.hold(second=True)
    await trial.join(second=True)
    trial.later(4, trial.release_held)


async def one_in_use(trial: Trial) -> None:
    await trial.hold()


async def one_with_something_unread(trial: Trial) -> None:
    await trial.hold()
    (ws,) = trial.held
    await ws.send_str("one")
    await until(lambda: ws._reader._buffer, "no echo")


async def one_in_use_and_others_waiting(trial: Trial) -> None:
    await trial.hold()
    await trial.join()
    await trial.join("/other")


async def one_of_each(trial: Trial) -> None:
    """Idle, in use, waiting and connecting."""
    await trial.hold(second=True)
    await trial.held.pop().release()
    await trial.hold()
    await trial.hold()
    await trial.join()
    await trial.join("/other", second=True)


async def two_idle_ones(trial: Trial) -> None:
    await trial.hold()
    await trial.hold()
    while trial.held:
        await trial.held.pop().release()


async def a_follower_with_cookies(trial: Trial) -> None:
    trial.follow("/cookie")
    trial.follow("/cookie")


async def talk(ws: ClientWebSocketResponse) -> None:
    """Do what a hook does."""
    await echo(ws, "from a hook")


async def fail(ws: ClientWebSocketResponse) -> None:
    """Do what a hook does, and fail."""
    await echo(ws, "from a hook")
    raise ZeroDivisionError


def all_hooks() -> dict[str, Any]:
    return {"configure": talk, "check": talk, "reset": talk}


def kept_alive_by_hook() -> dict[str, Any]:
    return {"limit": 1, "keepalive": (600, talk)}


def kept_alive_by_message() -> dict[str, Any]:
    return {"limit": 1, "keepalive": (600, "keep"), "on_idle_message": lambda m: m.data == "keep"}


def with_cookies() -> dict[str, Any]:
    jar = aiohttp.CookieJar(unsafe=True)
    connector = aiohttp.TCPConnector(limit=0)
    return {"client_session": aiohttp.ClientSession(connector=connector, cookie_jar=jar)}


class FewFiles(aiohttp.TCPConnector):
    """Fails for want of a file, once, when it has opened a connection."""

    attempts = 0

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        self.attempts += 1
        if self.attempts == 2:
            raise aiohttp.ClientOSError(errno.EMFILE, "Too many open files")
        return await super().connect(*args, **kwargs)


def few_files() -> dict[str, Any]:
    connector, jar = FewFiles(limit=0), aiohttp.DummyCookieJar()
    return {"client_session": aiohttp.ClientSession(connector=connector, cookie_jar=jar)}


def acquire_unconfigured(trial: Trial) -> Any:
    return trial.connect(configure=fail)


def acquire(trial: Trial) -> Any:
    return trial.connect()


def acquire_one_of_two(trial: Trial) -> Any:
    return trial.session.balanced([trial.server.url(), trial.arena.second.url()]).ws_connect()


def acquire_where_one_refuses(trial: Trial) -> Any:
    urls = ["ws://127.0.0.1:1/", trial.server.url()]
    return trial.session.balanced(urls).ws_connect()


def force_close() -> dict[str, Any]:
    return {"limit": 1, "force_close": True}


def four_by_two() -> dict[str, Any]:
    return {"limit": 4, "max_connecting": 2}


async def exchange(trial: Trial) -> None:
    async with trial.connect() as ws:
        await echo(ws)
        await echo(ws, "again")


async def exchange_and_fail(trial: Trial) -> None:
    async with trial.connect() as ws:
        await echo(ws)
        raise ZeroDivisionError


def standing_in(trial: Trial) -> PooledClientSession:
    return PooledClientSession(trial.session, release_on_close=True, session_owner=False)


async def exchange_through_a_stand_in(trial: Trial) -> None:
    async with standing_in(trial).ws_connect(trial.server.url()) as ws:
        await echo(ws)
        await echo(ws, "again")


async def exchange_by_a_library(trial: Trial) -> None:
    """It closes whatever happens, by which a clean exchange is released."""
    ws = await standing_in(trial).ws_connect(trial.server.url())
    try:
        await echo(ws)
        await echo(ws, "again")
    finally:
        await ws.close()


async def release(trial: Trial) -> None:
    await trial.held.pop().release()


async def release_and_wait(trial: Trial) -> None:
    """Until everybody else has had what was released."""
    await trial.held.pop().release()
    await asyncio.wait(trial.bystanders)


async def close_one(trial: Trial) -> None:
    await trial.held.pop().close()


async def close_session(trial: Trial) -> None:
    await trial.session.close()


async def whole_session(trial: Trial) -> None:
    async with trial.session as session:
        async with trial.connect() as ws:
            await echo(ws)
        assert session is trial.session
        trial.held.append(await trial.connect())


async def prewarm(trial: Trial) -> None:
    opened = await trial.session.prewarm(trial.server.url(), 3)
    # Drained, they are opened once more.
    assert opened == 3 or (trial.was_cut and opened in range(7))


async def prewarm_in_vain(trial: Trial) -> None:
    await trial.session.prewarm(trial.server.url("/once"), 3)


async def detach(trial: Trial) -> None:
    ws = await trial.connect()
    ws.detach()
    # It is not the pool's any more, whose limits are as if it were not there.
    trial.was_resized = True
    try:
        await echo(ws)
        await echo(ws, "again")
    finally:
        await ws.close()


async def drain_session(trial: Trial) -> None:
    await trial.session.drain()


async def keep_some_idle(trial: Trial) -> None:
    trial.session.set_min_idle(trial.server.url(), 3)
    while trial.session.stats().idle < 3 and not trial.was_cut:
        await asyncio.sleep(0)
    if not trial.session.closed:
        trial.session.set_min_idle(trial.server.url(), 0)


# What strikes nobody where nobody waits, or nothing is opened.
NO_CONN_TIMEOUT = tuple(name for name in CUTS if "conn_timeout" in name)
NO_ACQUIRE_TIMEOUT = tuple(name for name in CUTS if "acquire_timeout" in name)
NO_HOOK_TIMEOUT = tuple(name for name in CUTS if "hook_timeout" in name)
TIMEOUTS = NO_CONN_TIMEOUT + NO_ACQUIRE_TIMEOUT

OPERATIONS = [
    Operation("acquire idle", acquire, an_idle_one, acquires=True, without=TIMEOUTS),
    Operation("acquire at the limit", acquire, all_in_use, acquires=True, without=NO_CONN_TIMEOUT),
    Operation(
        "acquire in a crowd",
        acquire,
        all_in_use_and_a_crowd,
        acquires=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation("acquire a new one", acquire, acquires=True),
    Operation("acquire first", acquire, a_follower, lambda: {"limit": 1}, acquires=True),
    Operation("acquire second", acquire, somebody_connecting, lambda: {"limit": 1}, acquires=True),
    Operation(
        "acquire by eviction",
        acquire,
        an_idle_one_of_another_handshake,
        lambda: {"limit": 1},
        acquires=True,
    ),
    Operation(
        "acquire for want of a file",
        acquire,
        an_idle_one_of_another_handshake,
        few_files,
        acquires=True,
    ),
    Operation(
        "acquire through a semaphore",
        acquire,
        somebody_connecting,
        lambda: {"connect_limiter": asyncio.Semaphore(1)},
        acquires=True,
    ),
    Operation(
        "acquire through aiolimiter",
        acquire,
        another_handshake_connecting,
        lambda: {"connect_limiter": AsyncLimiter(1, 0.002)},
        acquires=True,
        points=40,
    ),
    Operation(
        "acquire with max_connecting=1",
        acquire,
        another_handshake_connecting,
        lambda: {"max_connecting": 1},
        acquires=True,
    ),
    Operation(
        "acquire by eviction elsewhere",
        acquire,
        others_at_both_endpoints,
        lambda: {"limit": None, "limit_total": 2},
        acquires=True,
    ),
    Operation(
        "acquire at limit_total",
        acquire,
        others_in_use_elsewhere,
        lambda: {"limit": None, "limit_total": 1},
        acquires=True,
    ),
    Operation("acquire over TLS", acquire, acquires=True, tls=True),
    Operation("acquire one of two", acquire_one_of_two, a_follower, acquires=True),
    Operation(
        "acquire one of two at the limit",
        acquire_one_of_two,
        others_in_use_at_both_endpoints,
        lambda: {"limit": 1},
        acquires=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation(
        "acquire where one refuses",
        acquire_where_one_refuses,
        a_follower,
        lambda: {"limit": 1},
        acquires=True,
    ),
    Operation(
        "acquire what is refused",
        lambda trial: trial.connect("/refuse"),
        a_follower,
        lambda: {"limit": 1},
        raises=aiohttp.WSServerHandshakeError,
        acquires=True,
    ),
    Operation(
        "acquire what never answers",
        lambda trial: trial.connect("/hang"),
        a_follower_of_what_never_answers,
        lambda: {"limit": 1},
        raises=aiohttp.ConnectionTimeoutError,
        acquires=True,
    ),
    Operation(
        "acquire over TLS what never answers",
        lambda trial: trial.connect("/hang"),
        a_follower_of_what_never_answers,
        lambda: {"limit": 1},
        raises=aiohttp.ConnectionTimeoutError,
        acquires=True,
        tls=True,
    ),
    Operation(
        "prewarm what never answers",
        lambda trial: trial.session.prewarm(trial.server.url("/hang"), 2),
        what_never_answers,
        raises=aiohttp.ConnectionTimeoutError,
        without=NO_ACQUIRE_TIMEOUT,
        orphans=True,
    ),
    Operation("acquire what was lost", acquire, one_lost, acquires=True, loses=1),
    Operation("exchange", exchange, a_follower, lambda: {"limit": 1}, talks=True),
    Operation("exchange over TLS", exchange, talks=True, tls=True),
    Operation("exchange on an idle one", exchange, an_idle_one, talks=True, without=TIMEOUTS),
    Operation(
        "exchange and fail",
        exchange_and_fail,
        a_follower,
        lambda: {"limit": 1},
        raises=ZeroDivisionError,
        talks=True,
    ),
    Operation(
        "exchange through a stand-in",
        exchange_through_a_stand_in,
        a_follower,
        lambda: {"limit": 1},
        talks=True,
    ),
    Operation(
        "exchange by a library",
        exchange_by_a_library,
        a_follower,
        lambda: {"limit": 1},
        talks=True,
    ),
    Operation("exchange by force_close", exchange, a_follower, force_close, talks=True),
    Operation("release", release, one_in_use, without=TIMEOUTS),
    Operation("release what is unread", release, one_with_something_unread, without=TIMEOUTS),
    Operation(
        "release to who waits",
        release_and_wait,
        one_in_use_and_others_waiting,
        lambda: {"limit": 1},
        without=NO_ACQUIRE_TIMEOUT,
    ),
    Operation("close one", close_one, one_in_use, without=TIMEOUTS),
    Operation(
        "close one that others wait for",
        close_one,
        one_in_use_and_others_waiting,
        lambda: {"limit": 1},
        without=TIMEOUTS,
    ),
    Operation("detach", detach, a_follower, lambda: {"limit": 1}, talks=True),
    Operation("detach over TLS", detach, talks=True, tls=True),
    Operation("drain", drain_session, one_of_each, without=TIMEOUTS),
    Operation(
        "drain for who waits",
        drain_session,
        all_in_use_and_a_crowd,
        without=TIMEOUTS,
    ),
    Operation("close the session", close_session, one_of_each, closes=True, without=TIMEOUTS),
    Operation("a whole session", whole_session, closes=True, talks=True),
    Operation("prewarm", prewarm, arguments=four_by_two, without=NO_ACQUIRE_TIMEOUT),
    Operation("keep some idle", keep_some_idle, arguments=four_by_two, without=TIMEOUTS),
    Operation(
        "prewarm in vain",
        prewarm_in_vain,
        arguments=four_by_two,
        raises=aiohttp.WSServerHandshakeError,
        without=NO_ACQUIRE_TIMEOUT,
    ),
    Operation(
        "acquire where cookies change",
        lambda trial: trial.connect("/cookie"),
        a_follower_with_cookies,
        with_cookies,
        acquires=True,
    ),
    Operation(
        "acquire one that is configured",
        acquire,
        a_follower,
        lambda: {"limit": 1, "configure": talk},
        acquires=True,
        has_hooks=True,
    ),
    Operation(
        "acquire one that cannot be configured",
        acquire_unconfigured,
        a_follower,
        lambda: {"limit": 1},
        raises=ZeroDivisionError,
        acquires=True,
        has_hooks=True,
        without=NO_HOOK_TIMEOUT,
    ),
    Operation(
        "acquire what is checked",
        acquire,
        an_idle_one,
        lambda: {"limit": 1, "check": talk},
        acquires=True,
        has_hooks=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation(
        "acquire what fails its check",
        acquire,
        two_idle_ones,
        lambda: {"check": fail},
        acquires=True,
        has_hooks=True,
        without=NO_HOOK_TIMEOUT,
    ),
    Operation(
        "acquire with all hooks",
        acquire,
        all_in_use,
        all_hooks,
        acquires=True,
        has_hooks=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation(
        "exchange with all hooks", exchange, a_follower, all_hooks, talks=True, has_hooks=True
    ),
    Operation(
        "exchange during the hook of a keep-alive",
        exchange,
        one_being_kept_alive,
        kept_alive_by_hook,
        talks=True,
        without=NO_CONN_TIMEOUT,
        has_hooks=True,
    ),
    Operation(
        "exchange before a keep-alive is answered",
        exchange,
        one_being_kept_alive,
        kept_alive_by_message,
        talks=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation(
        "close the session during the hook of a keep-alive",
        close_session,
        one_being_kept_alive,
        lambda: kept_alive_by_hook() | {"goodbye": "bye"},
        closes=True,
        has_hooks=True,
        without=TIMEOUTS + NO_HOOK_TIMEOUT,
    ),
    Operation(
        "release what is reset",
        release,
        one_in_use,
        lambda: {"limit": 1, "reset": talk},
        has_hooks=True,
        without=TIMEOUTS,
    ),
    Operation(
        "release what fails its reset",
        release,
        one_in_use,
        lambda: {"limit": 1, "reset": fail},
        has_hooks=True,
        without=TIMEOUTS + NO_HOOK_TIMEOUT,
    ),
    Operation(
        "release with all hooks to who waits",
        release_and_wait,
        one_in_use_and_others_waiting,
        lambda: all_hooks() | {"limit": 1},
        has_hooks=True,
        without=NO_ACQUIRE_TIMEOUT,
    ),
    Operation(
        "close the session with all hooks",
        close_session,
        one_of_each,
        all_hooks,
        closes=True,
        has_hooks=True,
        without=TIMEOUTS + NO_HOOK_TIMEOUT,
    ),
    Operation(
        "prewarm with all hooks",
        prewarm,
        arguments=lambda: four_by_two() | all_hooks() | {"limit": 4},
        has_hooks=True,
        without=NO_ACQUIRE_TIMEOUT,
    ),
]


# -- operations with a fleet ---------------------------------------------------------------------


async def another_session_has_all(trial: Trial) -> None:
    """It gives them back soon."""
    assert trial.fleet is not None
    trial.fleet.rival.report(held=2, demand=2)
    trial.later(6, trial.fleet.rival.leave)


async def one_idle_that_another_session_wants(trial: Trial) -> None:
    """It lacks one, and has none."""
    assert trial.fleet is not None
    await an_idle_one(trial)
    await trial.hold("/other")
    trial.fleet.rival.report(held=0, demand=1)


async def give_back_and_acquire(trial: Trial) -> None:
    assert trial.fleet is not None
    trial.fleet.rival.take()
    await trial.held.pop().release()
    trial.later(6, trial.fleet.rival.leave)
    trial.held.append(await trial.connect())


TWO: dict[str, Any] = {"limit": 2}
OPERATIONS += [
    Operation("acquire from a fleet", acquire, a_follower, acquires=True, fleet=TWO),
    Operation(
        "acquire what another session has",
        acquire,
        another_session_has_all,
        acquires=True,
        fleet=TWO,
    ),
    Operation(
        "acquire in turns of a fleet",
        acquire,
        a_follower,
        acquires=True,
        fleet=TWO | {"connect_rate": (1000, 0.1)},
    ),
    Operation(
        "acquire from a fleet that closes",
        acquire,
        all_in_use_and_a_crowd,
        acquires=True,
        fleet=TWO | {"lost": "close"},
        talks=True,
        without=NO_CONN_TIMEOUT,
    ),
    Operation(
        "give back and acquire",
        give_back_and_acquire,
        one_idle_that_another_session_wants,
        acquires=True,
        fleet=TWO | {"keep_idle": 0.0},
    ),
    Operation(
        "release in a fleet",
        release_and_wait,
        one_in_use_and_others_waiting,
        lambda: {"limit": 1},
        fleet={"limit": 1},
        without=NO_ACQUIRE_TIMEOUT,
    ),
    Operation("exchange in a fleet", exchange, a_follower, talks=True, fleet=TWO),
    Operation(
        "prewarm from a fleet",
        prewarm,
        arguments=four_by_two,
        without=NO_ACQUIRE_TIMEOUT,
        fleet={"limit": 4},
    ),
    Operation(
        "keep some idle in a fleet",
        keep_some_idle,
        arguments=four_by_two,
        without=TIMEOUTS,
        fleet={"limit": 4},
    ),
    Operation(
        "close the session of a fleet",
        close_session,
        others_in_use_elsewhere,
        closes=True,
        without=TIMEOUTS,
        fleet=TWO,
    ),
    Operation("a whole session of a fleet", whole_session, closes=True, talks=True, fleet=TWO),
]


def traced(operation: Operation) -> Operation:
    return replace(
        operation,
        name=f"{operation.name}, traced",
        arguments=lambda: operation.arguments() | {"trace_configs": [Account()]},
    )


#: Where handlers are told of what happens, everything goes another way.
TRACED = {
    "acquire in a crowd",
    "acquire second",
    "acquire with all hooks",
    "close the session",
    "exchange and fail",
    "prewarm",
    "release to who waits",
    "release with all hooks to who waits",
}
OPERATIONS += [traced(operation) for operation in OPERATIONS if operation.name in TRACED]


# -- all of it -----------------------------------------------------------------------------------


async def cut_everywhere(
    arena: Arena, operation: Operation, names: Sequence[str], stride: int = 1, thinned: int = 1
) -> None:
    """Cut an operation in each of some ways, at one point of ``thinned``.

    In a way of THINNED, and in the turns of the loop, it is one point of ``stride``.
    """
    struck = set()
    for grid in grids():
        await Trial(arena, operation).run(grid, None, ())
        for offset, name in enumerate(names):
            step = stride if name in THINNED or grid is Turns else thinned
            for at in range(offset % step, operation.points, step):
                trial = Trial(arena, operation)
                await trial.run(grid, at, CUTS[name])
                if not trial.was_cut:
                    # It ended before.
                    break
                TALLY.count(operation.name, name, grid.name, trial.cancellations)
                if trial.was_struck:
                    struck.add(name)
    if stride == 1:
        # A timeout with nothing to strike would show nothing.
        assert struck >= {name for name in names if "timeout" in name}


async def main(options: argparse.Namespace, redis: RedisServer) -> int:
    """Return how many operations did not stand it."""
    authority = trustme.CA()
    failures = 0
    for operation in OPERATIONS:
        started, before = time.monotonic(), TALLY.cuts.total()
        for name in operation.cuts():
            if options.only not in f"{operation.name}: {name}":
                continue
            async with Arena(authority if operation.tls else None, redis).open() as arena:
                try:
                    await cut_everywhere(arena, operation, [name])
                except Exception as error:
                    failures += 1
                    print("".join(traceback.format_exception(error, limit=options.frames)))
                    if options.exitfirst:
                        return failures
        if count := TALLY.cuts.total() - before:
            seconds = time.monotonic() - started
            print(f"{operation.name:<32} {count:6} {seconds:7.1f} s", flush=True)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of 'OPERATION: CUT'")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"))
    parser.add_argument("--frames", type=int, default=-3, help="of the traceback of a failure")
    parser.add_argument("-x", "--exitfirst", action="store_true", help="stop at the first failure")
    options = parser.parse_args()
    failures = 0
    for loop_name in [options.loop] if options.loop else ["asyncio", "uvloop"]:
        factory = __import__(loop_name).new_event_loop
        print(f"-- {loop_name}, core: {aiowebsocketclient.IMPLEMENTATION}")
        with (
            tempfile.TemporaryDirectory() as directory,
            RedisServer(Path(directory)) as redis,
            asyncio.Runner(loop_factory=factory) as runner,
        ):
            failures += runner.run(main(options, redis))
    print(TALLY)
    for name, count in TALLY.cuts.items():
        print(f"{name:<28} {count:6}")
    sys.exit(failures > 0)
