"""Several servers for one service: implements ``session.balanced()``.

:class:`Servers` chooses a server for each call.  A :class:`Call` waits for a connection: at one
server, and beside it at others if that one fails or hangs.  Each :class:`Try` of a call waits at
one server, as a call of ``session.ws_connect()`` does.
"""

import asyncio
import math
import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextvars import Context
from typing import Any, Final, Generic, Protocol, Unpack

import aiohttp
from aiohttp.typedefs import StrOrURL
from yarl import URL

from . import _compat
from ._compat import UNSET, Pool, Waiter, clock, ensure_room, signature_of
from ._pool_py import LATE_FLOOR
from .acquiring import note_acquired, take_idle, wait
from .connecting import is_answer, is_failure_of_server
from .exceptions import (
    FleetUnavailableError,
    HandshakeFailure,
    PoolTimeoutError,
    TooManyWaitersError,
)
from .keys import HandshakeKey, Target
from .lifecycle import Failure, Lifecycle
from .response import ClientWebSocketResponse
from .servers import Server, Servers
from .stats import BalancedStats
from .typedefs import Acquisition, WS_co, WSConnectOptions

__all__ = ("Balanced",)

# Seconds between two looks at calls that wait: whether they hang, or another server has room.
_PERIOD: Final = 0.1

# A timer that is later than this many seconds means that the machine is busy.
_BUSY: Final = 0.1


class Session(Protocol):
    """The part of a session that :class:`Balanced` needs."""

    _acquire_timeout: float | None
    _atoms: frozenset[type]
    _bound: bool
    _default_headers: Any
    _express: Any
    _give_up: Any
    _lifecycle: Lifecycle
    _loop: Any
    _pool: Pool
    _targets: Any
    _time_out: Any
    _watches_headers: bool

    def _bind(self) -> None: ...

    def _check_timeout(self, acquire_timeout: float | None, /) -> object: ...

    def _forget_stale_targets(self) -> None: ...

    def _resolve(self, url: str | URL, options: dict[str, Any], reuse_key: Hashable) -> Target: ...

    def _resolve_anew(
        self, signature: Hashable, url: str | URL, options: dict[str, Any], reuse_key: Hashable
    ) -> Target: ...


class Balanced(Generic[WS_co]):
    """Several servers for one service, whose connections belong to one session.

    A call gets an idle connection if there is one, of the server with the fewest connections in use
    and handshakes under way.  Otherwise it waits for a connection to the server with the fewest of
    these; a server that has reached a limit comes last.

    A handshake that is refused, times out, fails in DNS or TLS, or gets the HTTP status 429, 502,
    503 or 504, puts its server out, and the call goes on to the next server: to each server once,
    and within its ``acquire_timeout``.  If a handshake takes several times as long as usual, the
    call begins another one with the next server beside it.

    A server that is out gets no new connections.  After a pause, at random up to 0.1 s, 0.2 s,
    0.4 s and so on, at most 30 s, the next call begins one handshake with it in the background; a
    success takes the server back.  If all servers are out, calls raise the last error at once, and
    pauses last up to a second.

    Once a call has returned a connection, nothing is repeated.
    """

    __slots__ = ("__weakref__", "_line", "_servers", "_session")

    def __init__(self, session: Session, urls: Iterable[StrOrURL]) -> None:
        if session._lifecycle.is_closed:
            raise session._lifecycle.closed_error()
        self._session = session
        self._servers = Servers(session._lifecycle, _servers_of(session, urls))
        self._line = Line(self._servers)

    def ws_connect(
        self,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> Acquisition[WS_co]:
        """Acquire a connection to one of the servers.

        Await the result, or use it with ``async with``, as that of
        :meth:`WebSocketClientSession.ws_connect`, which has the same options and errors.  The error
        of a handshake is raised if it says nothing about the server (401, 403, 404, a hook that
        raises), or if no other server is left.
        """
        session = self._session
        if acquire_timeout is UNSET:
            acquire_timeout = session._acquire_timeout
        else:
            session._check_timeout(acquire_timeout)
        if session._watches_headers or session._default_headers:
            session._forget_stale_targets()
        call = Call(session, self._servers, self._line, reuse_key, dict(options))
        target, *_ = [call.target_of(server) for server in self._servers.all]
        # The core's, for an owner of which it asks only _acquire(), since there is no express.
        owner: Any = call
        acquisition: Any = _compat.Acquisition(None, owner, target, acquire_timeout)
        return acquisition  # type: ignore[no-any-return]

    def set_urls(self, urls: Iterable[StrOrURL]) -> None:
        """Replace the URLs of the servers; a URL that stays keeps its state.

        :param urls: as for :meth:`WebSocketClientSession.balanced`, with the same errors;
            :exc:`PoolClosedError` if the session is closed.

        Connections to a URL that is removed are retired as by
        :meth:`WebSocketClientSession.drain`, whoever else uses that URL in the session: idle
        connections now, connections in use when they are released.  Calls that wait there get the
        connections that are being opened for them.
        """
        session = self._session
        if session._lifecycle.is_closed:
            raise session._lifecycle.closed_error()
        ensure_room()
        if session._bound:
            # Raises in another loop.
            session._bind()
        is_removed = self._servers.replace(_servers_of(session, urls))
        every: Any = session._pool.keys()
        keys: set[HandshakeKey] = {key for key in every if is_removed(key)}
        if keys:
            session._lifecycle.drain(keys)

    def stats(self) -> tuple[BalancedStats, ...]:
        """Return the state of each URL, in the order of the URLs."""
        return self._servers.stats()

    def __repr__(self) -> str:
        """Return the endpoints, and whether they are out; URLs may be secret."""
        states = [f"{s.endpoint}{' (out)' if s.is_out else ''}" for s in self._servers.all]
        return f"<{type(self).__name__}({', '.join(states)})>"


def _servers_of(session: Session, urls: Iterable[StrOrURL]) -> list[Server]:
    """Return the servers of valid URLs."""
    if isinstance(urls, str | bytes | URL) or not isinstance(urls, Iterable):
        raise TypeError(f"urls must be an iterable of str or yarl.URL, not {type(urls).__name__}")
    servers: dict[HandshakeKey, Server] = {}
    for number, url in enumerate(urls):
        try:
            key = session._resolve(url, {}, None).key
        except (TypeError, ValueError, aiohttp.ClientError) as exc:
            exc.add_note(f"(urls has it at index {number})")
            raise
        if key in servers:
            raise ValueError(
                f"urls must differ, but index {number} has the same URL as an index before it:"
                f" on {key.endpoint}"
            )
        servers[key] = Server(url, key)
    if not servers:
        raise ValueError("urls must contain at least one URL, got none")
    return list(servers.values())


class Line:
    """The calls that wait, oldest first, and the timer that looks at them."""

    __slots__ = ("__weakref__", "_next_look", "_servers", "_timer", "calls")

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.calls: dict[Call, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = 0.0

    def enter(self, call: "Call", loop: asyncio.AbstractEventLoop) -> None:
        """Look at a call from time to time until it leaves."""
        self.calls[call] = None
        if self._timer is None:
            self._arm(loop)

    def leave(self, call: "Call") -> None:
        """Look at a call no longer."""
        del self.calls[call]
        if not self.calls and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next_look = clock() + _PERIOD
        this: weakref.ref[Line] = weakref.ref(self)
        # In an empty context: the timer outlives the call that arms it.
        self._timer = loop.call_later(_PERIOD, _call_look, this, loop, context=Context())

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let calls look elsewhere that hang, or that wait for a place another server has."""
        is_busy = clock() - self._next_look > _BUSY
        self._arm(loop)
        room = self._servers.room()
        is_due = self._servers.is_any_due()
        for call in self.calls:
            call.look(room, is_due, is_busy)
            # Only the oldest call begins probes.
            is_due = False


def _call_look(this: "weakref.ref[Line]", loop: asyncio.AbstractEventLoop) -> None:
    line = this()
    if line is not None:
        line.look(loop)


class Try:
    """One server that a call waits at."""

    __slots__ = ("_waiter", "born", "is_blamed", "is_slow", "server", "task")

    #: Deleted at the end: its result may be an exception, whose traceback leads here.
    task: "asyncio.Task[Any]"

    def __init__(self, server: Server) -> None:
        self.server = server
        self.born = clock()
        # What waits in the core; None: the task has not begun.
        self._waiter: Waiter | None = None
        #: Whether the call went on to another server because this takes long, and whether this
        #: server was put out for it.
        self.is_slow = self.is_blamed = False

    def begin(self, session: Session, target: Target) -> None:
        """Begin to wait, in a task."""
        ensure_room()
        # Not with create_task(): a task factory may start tasks eagerly.
        self.task = asyncio.Task(self._run(session, target), loop=session._loop)
        self.server.beginning += 1
        if self.server.is_out:
            self.server.probe = self

    async def _run(self, session: Session, target: Target) -> Any:
        """Return a connection, or the :class:`Failure` to get one."""
        try:
            # The session may have been closed since the try began.
            session._bind()
            return await wait(session, target, None, self._line_up)
        except Exception as error:
            # Not raised: the repr of a task shows its exception, which has headers.
            return Failure(error)

    def _line_up(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self.server.beginning -= 1

    @property
    def waiter(self) -> Waiter | None:
        """What waits in the core; None: it has not begun, or has ended."""
        return None if self.task.done() else self._waiter

    @property
    def late(self) -> bool:
        """Whether the core has begun another handshake beside that of this, which is late."""
        return self._waiter is not None and self._waiter.hedges > 0

    def lacks_place(self) -> bool:
        """Return whether it waits for a place within the limits."""
        waiter = self.waiter
        return waiter is not None and waiter.queued and waiter.opening is None and not self.late

    def waits_for_others(self) -> bool:
        """Return whether it waits for a place, or for the ``connect_limiter``."""
        waiter = self.waiter
        opening = None if waiter is None else waiter.opening
        return self.lacks_place() or (opening is not None and opening.began == math.inf)

    def seconds(self, now: float) -> float:
        """Return how long its handshake has been under way; negative: there is none."""
        waiter = self.waiter
        slot = None if waiter is None else waiter.opening
        return -1.0 if slot is None else now - slot.began

    def end(self) -> "asyncio.Task[Any]":
        """Take it off the books of its server; return its task."""
        if self._waiter is None:
            self.server.beginning -= 1
        self.server.end_probe(self)
        task = self.task
        del self.task
        return task

    def drop(self) -> None:
        """Stop waiting; a connection that it gets nevertheless goes back to the pool."""
        task = self.end()
        if not task.get_loop().is_closed():
            task.add_done_callback(_give_back)
            task.cancel()


def _give_back(task: "asyncio.Task[Any]") -> None:
    """Release the connection of a try that its call does not wait for any more."""
    if not task.cancelled() and task.exception() is None:
        result = task.result()
        if isinstance(result, ClientWebSocketResponse):
            result.release()


class Call:
    """A call of ``ws_connect()``: the owner of an acquisition of the core."""

    __slots__ = (
        "_acquire_timeout",
        "_deadline",
        "_failures",
        "_is_to_probe",
        "_line",
        "_options",
        "_reuse_key",
        "_servers",
        "_session",
        "_stirred",
        "_targets",
        "_tried",
        "_tries",
        "_wants_another",
    )

    # Done when there is something to do. Set when the call begins to wait.
    _stirred: "asyncio.Future[None]"

    def __init__(
        self,
        session: Session,
        servers: Servers,
        line: Line,
        reuse_key: Hashable,
        options: dict[str, Any],
    ) -> None:
        self._session = session
        self._servers = servers
        self._line = line
        self._reuse_key = reuse_key
        # What can be read only once is needed for each server.
        self._options = {
            name: tuple(value) if isinstance(value, Iterator) else value
            for name, value in options.items()
        }
        self._targets: dict[Server, Target] = {}
        self._acquire_timeout: float | None = None
        self._deadline: float | None = None
        # The tries under way, oldest first, and the servers of all tries.
        self._tries: list[Try] = []
        self._tried: set[Server] = set()
        self._wants_another = self._is_to_probe = False
        # Of the servers that the call has gone on from.
        self._failures: list[str] = []

    def target_of(self, server: Server) -> Target:
        """Return the target of the call at a server."""
        target = self._targets.get(server)
        if target is None:
            target = self._targets[server] = self._resolve(server.url)
        return target

    def _resolve(self, url: str | URL) -> Target:
        session, options = self._session, self._options
        target: Target | None = None
        signature: Any = signature_of(url, self._reuse_key, options, session._atoms)
        try:
            target = None if signature is None else session._targets.get(signature)
        except TypeError:
            # Something in it has no hash.
            signature = None
        return target or session._resolve_anew(signature, url, options, self._reuse_key)

    def _target_now(self, server: Server) -> Target:
        """Return the target with the current cookies and environment."""
        return self._session._lifecycle.with_cookies(self.target_of(server))

    async def _acquire(self, _: Target, acquire_timeout: float | None) -> Any:
        """Return a connection, as the core asks of the owner of an acquisition."""
        self._session._bind()
        self._servers.begin_probes(self._target_now)
        ws = self._take_idle()
        if ws is None and acquire_timeout == 0:
            ws = await self._acquire_at_once()
        elif ws is None:
            ws = await self._wait(acquire_timeout)
        note_acquired(self._session, ws)
        return ws

    def _take_idle(self) -> Any:
        for server in self._servers.with_idle_first():
            ws = take_idle(self._session, self._target_now(server))
            if ws is not None:
                return ws
        return None

    async def _acquire_at_once(self) -> Any:
        """Return an idle connection whose check succeeds, or raise :exc:`PoolTimeoutError`."""
        spare_count = self._session._pool.spare_count
        servers = self._servers.with_idle_first() or self._servers.all
        targets = [self._target_now(server) for server in servers]
        for target in targets:
            if target.is_checked and spare_count(target.key, 1):
                try:
                    return await wait(self._session, target, 0)
                except PoolTimeoutError:
                    # The check has failed.
                    continue
        return await wait(self._session, targets[0], 0)

    # -- waiting ---------------------------------------------------------------------------------

    async def _wait(self, acquire_timeout: float | None) -> Any:
        loop: asyncio.AbstractEventLoop = self._session._loop
        self._stirred = loop.create_future()
        timer = None
        if acquire_timeout is not None:
            self._acquire_timeout, self._deadline = acquire_timeout, clock() + acquire_timeout
            timer = loop.call_later(acquire_timeout, self._time_out, context=Context())
        self._line.enter(self, loop)
        try:
            if not self._begin_next():
                raise self._servers.last_error()
            ws = None
            while ws is None:
                await self._stirred
                self._stirred = loop.create_future()
                ws = self._take_result()
                if ws is None:
                    ws = self._look_elsewhere()
            self._blame(self._share())
            if self._session._lifecycle.is_closed:
                # Closed after the try had its connection.
                ws.release()
                raise self._session._lifecycle.closed_error()
            return ws
        finally:
            self._line.leave(self)
            if timer is not None:
                timer.cancel()
            for attempt in self._tries:
                attempt.drop()
            self._tries.clear()

    def _begin_next(self) -> bool:
        """Begin to wait at another server; False: there is none."""
        if self._tried and self._deadline is not None and clock() >= self._deadline:
            return False
        server = self._servers.choose(self._tried, self._target_now)
        if server is None:
            return False
        attempt = Try(server)
        attempt.begin(self._session, self._target_now(server))
        self._tried.add(server)
        self._tries.append(attempt)
        attempt.task.add_done_callback(self._stir)
        return True

    def _stir(self, _: object = None) -> None:
        if not self._stirred.done():
            self._stirred.set_result(None)

    def _take_result(self) -> Any:
        """Return the connection that a try has got, or go on after failures."""
        for attempt in [attempt for attempt in self._tries if attempt.task.done()]:
            self._tries.remove(attempt)
            result = attempt.end().result()
            if not isinstance(result, Failure):
                self._note_success(attempt, result)
                return result
            try:
                self._note_failure(attempt, result.error)
            finally:
                # The traceback of its error has this frame.
                del result
        return None

    def _note_success(self, attempt: Try, ws: Any) -> None:
        slot = ws._slot
        if ws.reused:
            # It says nothing about handshakes now.
            return
        self._servers.answered(attempt.server, slot.born)
        if slot.born >= attempt.born:
            self._servers.learn(clock() - slot.began)

    def _note_failure(self, attempt: Try, error: BaseException) -> None:
        """Go on after the failure of a try, or raise its error."""
        try:
            if is_failure_of_server(error):
                self._servers.failed(attempt.server, error, attempt.born)
                if self._begin_next() or self._tries:
                    failure = HandshakeFailure.of(error)
                    self._failures.append(f"{attempt.server.endpoint}: {failure}")
                    return
            elif is_answer(error):
                self._servers.answered(attempt.server, attempt.born)
            elif isinstance(error, TooManyWaitersError) and self._tries:
                return
            elif isinstance(error, FleetUnavailableError) and (self._begin_next() or self._tries):
                # Nothing is open there, and nothing may be opened; elsewhere something may be open.
                return
            if self._failures:
                error.add_note(f"(failed before: {'; '.join(self._failures)})")
            raise error
        finally:
            # Its traceback has this frame.
            del error

    def _look_elsewhere(self) -> Any:
        """Begin probes and another try, as the last look at the call has found."""
        if self._is_to_probe:
            self._is_to_probe = False
            self._servers.begin_probes(self._target_now)
        ws = None
        if self._wants_another:
            self._wants_another = False
            self._blame(LATE_FLOOR)
            ws = self._take_idle()
            if ws is None:
                self._begin_next()
        return ws

    def _blame(self, at_least: float) -> None:
        """Put out the servers whose handshakes take several times as long as usual."""
        now = clock()
        for attempt in self._tries:
            if self._hangs(attempt, now, at_least):
                attempt.is_blamed = True
                attempt.server.end_probe(attempt)
                self._servers.late(attempt.server, attempt.born)

    def _hangs(self, attempt: Try, now: float, at_least: float) -> bool:
        if attempt.is_blamed or attempt.late:
            return not attempt.is_blamed
        seconds = attempt.seconds(now)
        return seconds >= at_least and seconds >= self._servers.patience(attempt.server)

    def _share(self) -> float:
        """Return after how many seconds a handshake may count as late, where time is short."""
        if self._acquire_timeout is None:
            return LATE_FLOOR
        return min(LATE_FLOOR, self._acquire_timeout / (len(self._servers.all) + 1))

    # -- timers ----------------------------------------------------------------------------------

    def look(self, room: dict[Server, int], is_due: bool, is_busy: bool) -> None:
        """Look whether to wait at another server, beside those that the call waits at."""
        now = clock()
        newest = self._tries[-1] if self._tries else None
        if newest is None or newest.waiter is None:
            return
        self._is_to_probe = self._is_to_probe or is_due
        if newest.waits_for_others():
            self._drop_slow_tries(newest)
        if newest.lacks_place():
            # Connections in use at a server that is out may yet be released.
            self._wants_another = newest.server.is_out or self._takes_room(room)
        elif self._is_slow(newest, now, is_busy):
            newest.is_slow = self._wants_another = True
        if self._servers.are_all_out() and is_due:
            self._wants_another = True
        if self._wants_another or self._is_to_probe:
            self._stir()

    def _is_slow(self, newest: Try, now: float, is_busy: bool) -> bool:
        """Return whether to go on, beside a handshake or a check that takes long."""
        left = self._servers.count_left(self._tried)
        if self._deadline is not None and left:
            # Each server that is left gets an equal share of the time that is left.
            share = (self._deadline - newest.born) / (left + 1)
            if now - newest.born >= share:
                return True
        return not is_busy and any(self._hangs(t, now, LATE_FLOOR) for t in self._tries)

    def _drop_slow_tries(self, newest: Try) -> None:
        """Stop slow handshakes, which may have what the newest try waits for."""
        for attempt in [attempt for attempt in self._tries if attempt.is_slow]:
            if attempt is newest:
                continue
            self._tries.remove(attempt)
            waiter = attempt.waiter
            if waiter is not None:
                self._session._give_up(waiter)
                self._servers.stop_unneeded(waiter.handshake.key)
            attempt.drop()

    def _takes_room(self, room: dict[Server, int]) -> bool:
        """Return whether another server has room for the call, and take that from the others."""
        server = next((server for server in room if server not in self._tried), None)
        if server is None:
            return False
        room[server] -= 1
        if not room[server]:
            del room[server]
        return True

    def _time_out(self) -> None:
        """End the call: its time is over."""
        for attempt in reversed(self._tries):
            if attempt.waiter is not None:
                self._session._time_out(attempt.waiter, self._acquire_timeout)
                return
        if self._tries:
            # The task of a try has not begun, or has just ended.
            self._session._loop.call_soon(self._time_out, context=Context())
