"""Several servers for one service: implements ``session.balanced()``.

:class:`Balanced` chooses a server for each call, and leaves a server out whose handshakes fail.  A
:class:`_Call` waits for a connection: at one server, and beside it at others if that one fails or
hangs.  Each :class:`_Try` of a call waits at one server, as a call of ``ws_connect()`` does.
"""

import asyncio
import random
import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, Protocol, Unpack

import aiohttp
from aiohttp.typedefs import StrOrURL
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from . import _compat
from ._compat import UNSET, Pool, Slot, Waiter, clock, ensure_room, signature_of
from ._pool_py import GAUGES, LATE_FACTOR, LATE_FLOOR
from .connecting import is_answer, is_failure_of_server
from .exceptions import (
    HandshakeFailure,
    PoolTimeoutError,
    TooManyWaitersError,
    in_session,
    twin_of,
)
from .keys import HandshakeKey, Target
from .lifecycle import Failure, Lifecycle
from .logs import log
from .pausing import Pauses
from .response import ClientWebSocketResponse
from .stats import BalancedStats
from .typedefs import Acquisition, WS_co, WSConnectOptions

__all__ = ("Balanced",)

# Seconds between two looks at calls that wait: whether they hang, or another server has room.
_PERIOD: Final = 0.1

# The longest pause while all servers are out.
_LONGEST_PAUSE_IF_ALL_OUT: Final = 1.0

# A timer that is later than this many seconds means that the machine is busy.
_BUSY: Final = 0.1

# How much a handshake counts for what is usual, where it took less than that.
_NEWEST_SHARE: Final = 0.125

_CONNECTING, _ACQUIRED, _IDLE, _WAITING = map(
    GAUGES.index, ("connecting", "acquired", "idle", "waiting")
)


class Session(Protocol):
    """The part of a session that :class:`Balanced` needs."""

    _acquire_timeout: float | None
    _atoms: frozenset[type]
    _bound: bool
    _default_headers: Any
    _detour: Any
    _lifecycle: Lifecycle
    _loop: Any
    _pool: Pool
    _targets: Any
    _time_out: Any
    _watches_headers: bool

    def _bind(self) -> None: ...

    def _check_timeout(self, acquire_timeout: float | None) -> None: ...

    def _forget_stale_targets(self) -> None: ...

    def _resolve(self, url: str | URL, options: dict[str, Any], reuse_key: Hashable) -> Target: ...

    def _resolve_anew(
        self, signature: Hashable, url: str | URL, options: dict[str, Any], reuse_key: Hashable
    ) -> Target: ...

    def _take_idle(self, target: Target) -> Any: ...

    def _told_of(self, ws: Any) -> Any: ...

    async def _wait(
        self, target: Target, acquire_timeout: float | None, lined_up: Any = None
    ) -> Any: ...


class _Server:
    """A URL of a :class:`Balanced`, and how its handshakes go."""

    __slots__ = (
        "beginning",
        "endpoint",
        "is_silent",
        "key",
        "last_error",
        "last_failure",
        "pauses",
        "probe",
        "url",
    )

    def __init__(self, url: str | URL, key: HandshakeKey) -> None:
        self.url = url
        self.endpoint = key.endpoint
        #: Identifies the server: the handshake of a call without options.
        self.key = key
        self.pauses = Pauses()
        #: Tries that have begun, and that the core does not know yet.
        self.beginning = 0
        #: The handshake that shows whether a server that is out is back: a slot that nobody waits
        #: for, or the try of a call.
        self.probe: Slot | _Try | None = None
        #: Whether the server is out because it did not answer.
        self.is_silent = False
        self.last_error: BaseException | None = None
        self.last_failure: HandshakeFailure | None = None

    @property
    def is_out(self) -> bool:
        """Whether the server gets no new connections, because handshakes have failed."""
        return self.pauses.failures > 0

    def retries_at(self, are_all_out: bool) -> float:
        """Return when the next probe may begin."""
        not_before = self.pauses.not_before
        if are_all_out:
            not_before = min(not_before, self.pauses.failed_at + _LONGEST_PAUSE_IF_ALL_OUT)
        return not_before

    def is_due(self, now: float, are_all_out: bool) -> bool:
        """Whether it is time for a probe."""
        return self.is_out and self.probe is None and self.retries_at(are_all_out) <= now

    def end_probe(self, probe: "Slot | _Try") -> None:
        """Let the next probe begin when it is due."""
        if self.probe is probe:
            self.probe = None


class Balanced(Generic[WS_co]):
    """Several servers for one service, whose connections belong to one session.

    A call gets an idle connection if there is one, of the server with the fewest connections in
    use.  Otherwise it opens a connection to the server with the fewest connections in use and
    handshakes under way; a server that has reached a limit comes last.

    A handshake that is refused, times out, fails in DNS or TLS, or gets one of the HTTP statuses
    429, 502, 503 and 504, puts its server out, and the call goes on to the next server: to each
    server once, and within its ``acquire_timeout``.  If a handshake takes several times as long as
    usual, the call begins one with the next server beside it.  A server that is out gets no new
    connections.  After a pause, at random up to 0.1 s, 0.2 s, 0.4 s and so on, at most 30 s, a call
    begins one handshake with it in the background, and a success takes the server back.  If all
    servers are out, calls raise the last error at once, and pauses last up to a second.

    Once a call has returned a connection, nothing is repeated.
    """

    __slots__ = ("__weakref__", "_calls", "_next_look", "_servers", "_session", "_timer", "_usual")

    def __init__(self, session: Session, urls: Iterable[StrOrURL]) -> None:
        self._session = session
        # Calls that wait, oldest first.
        self._calls: dict[_Call, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = 0.0
        # Seconds that handshakes take. The core forgets it with the last connection to an endpoint.
        self._usual = float("inf")
        if session._lifecycle.is_closed:
            raise session._lifecycle.closed_error()
        self._servers = self._servers_of(urls)

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
        call = _Call(self, reuse_key, dict(options))
        target, *_ = [call.target_of(server) for server in self._servers]
        # The core's, for an owner of which it asks only _acquire().
        acquisition: Any = _compat.Acquisition(session._detour, call, target, acquire_timeout)
        return acquisition  # type: ignore[no-any-return]

    def set_urls(self, urls: Iterable[StrOrURL]) -> None:
        """Replace the URLs of the servers; a URL that stays keeps its state.

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
        old, known = self._servers, {server.key: server for server in self._servers}
        self._servers = [known.get(server.key, server) for server in self._servers_of(urls)]
        removed = [server for server in old if server not in self._servers]
        if removed and session._bound:
            every: Any = session._pool.keys()
            session._lifecycle.drain({key for key in every if self._is_left(key, removed)})

    def _is_left(self, key: HandshakeKey, removed: list[_Server]) -> bool:
        """Return whether a handshake is with a server that was removed, and not with another."""
        return _is_with_any(key, removed) and not _is_with_any(key, self._servers)

    def stats(self) -> tuple[BalancedStats, ...]:
        """Return the state of each URL, in the order of the URLs."""
        now, are_all_out = clock(), self._are_all_out()
        return tuple([self._stats_of(server, now, are_all_out) for server in self._servers])

    def _stats_of(self, server: _Server, now: float, are_all_out: bool) -> BalancedStats:
        gauges = self._session._pool.situation(server.endpoint, now)[0]
        return BalancedStats(
            endpoint=server.endpoint,
            connecting=gauges[_CONNECTING],
            acquired=gauges[_ACQUIRED],
            idle=gauges[_IDLE],
            out=server.is_out,
            failures=server.pauses.failures,
            retry_in=max(0.0, server.retries_at(are_all_out) - now) if server.is_out else None,
            last_failure=server.last_failure,
        )

    def __repr__(self) -> str:
        """Return the endpoints, and whether they are out; URLs may be secret."""
        states = [f"{s.endpoint}{' (out)' if s.is_out else ''}" for s in self._servers]
        return f"<{type(self).__name__}({', '.join(states)})>"

    # -- servers ---------------------------------------------------------------------------------

    def _servers_of(self, urls: Iterable[StrOrURL]) -> list[_Server]:
        if isinstance(urls, str | bytes | URL) or not isinstance(urls, Iterable):
            raise TypeError(
                f"urls must be an iterable of str or yarl.URL, not {type(urls).__name__}"
            )
        servers: dict[HandshakeKey, _Server] = {}
        for number, url in enumerate(urls):
            try:
                key = self._session._resolve(url, {}, None).key
            except (TypeError, ValueError, aiohttp.ClientError) as exc:
                exc.add_note(f"(urls has it at index {number})")
                raise
            if key in servers:
                raise ValueError(
                    f"urls must differ, but index {number} has the same URL as an index before it:"
                    f" on {key.endpoint}"
                )
            servers[key] = _Server(url, key)
        if not servers:
            raise ValueError("urls must contain at least one URL, got none")
        return list(servers.values())

    def _are_all_out(self) -> bool:
        return all(server.is_out for server in self._servers)

    def _load_of(self, server: _Server, now: float) -> tuple[int, int, float]:
        """Return how busy a server is: the least goes first, ties at random."""
        gauges, lacking, *_ = self._session._pool.situation(server.endpoint, now)
        load = gauges[_CONNECTING] + gauges[_ACQUIRED] + server.beginning
        if not lacking:
            return 0, load, random.random()
        if gauges[_IDLE]:
            # An idle connection of another handshake gives way.
            return 1, load, random.random()
        return 2, load + gauges[_WAITING], random.random()

    def choose(self, tried: "dict[_Server, _Try]") -> _Server | None:
        """Return the server for the next handshake of a call; None: there is none left.

        If all are out, it is one that is due for a probe.
        """
        now = clock()
        if self._are_all_out():
            left = [s for s in self._servers if s not in tried and s.is_due(now, True)]
        else:
            left = [s for s in self._servers if s not in tried and not s.is_out]
        return min(left, key=lambda server: self._load_of(server, now), default=None)

    def count_left(self, tried: "dict[_Server, _Try]") -> int:
        """Return how many servers are not out, and not tried."""
        return sum(not server.is_out and server not in tried for server in self._servers)

    def with_idle_first(self) -> list[_Server]:
        """Return the servers whose idle connections may be used, the least busy first.

        That a server refuses new connections says nothing about its idle ones, which notice their
        end at once; that it does not answer does.
        """
        gauges_of = self._session._pool.situation
        now = clock()
        loads = {
            server: (sum(gauges_of(server.endpoint, now)[0][:2]), random.random())
            for server in self._servers
            if not (server.is_out and server.is_silent)
        }
        return sorted(loads, key=lambda server: loads[server])

    def room(self) -> dict[_Server, int]:
        """Return how many calls that wait for a place elsewhere each server could serve now."""
        now = clock()
        room = {}
        for server in self._servers:
            gauges, lacking, *_ = self._session._pool.situation(server.endpoint, now)
            free = max(gauges[_IDLE], not lacking) - gauges[_WAITING] - server.beginning
            if free > 0 and not server.is_out:
                room[server] = free
        return room

    # -- how handshakes go -----------------------------------------------------------------------

    def failed(self, server: _Server, error: BaseException, begun: float, name: str = "") -> None:
        """Put a server out, because a handshake failed."""
        pause = server.pauses.failed(begun, clock())
        if pause is None:
            return
        failure = server.last_failure = HandshakeFailure.of(error)
        server.last_error = _for_others(error, server)
        server.is_silent = isinstance(error, TimeoutError)
        is_first = server.pauses.failures == 1
        fields: dict[str, Any] = {} if is_first else {"failures": server.pauses.failures}
        log(
            "endpoint_out" if is_first else "endpoint_still_out",
            session_name=self._session._lifecycle.settings.name,
            endpoint=str(server.endpoint),
            error=name or failure.error,
            status=failure.status,
            detail="" if failure.status is None else f", status {failure.status}",
            retry_in=pause,
            **fields,
        )

    def late(self, server: _Server, begun: float) -> None:
        """Put a server out, because a handshake takes much longer than usual."""
        said = f"a handshake with {server.endpoint} takes several times as long as usual"
        name = self._session._lifecycle.settings.name
        error = aiohttp.ConnectionTimeoutError(in_session(name, said))
        self.failed(server, error, begun, "late")

    def learn(self, seconds: float) -> None:
        """Learn how long handshakes take: the time rises at once, and falls slowly."""
        if seconds > self._usual or self._usual == float("inf"):
            self._usual = seconds
        else:
            self._usual += (seconds - self._usual) * _NEWEST_SHARE

    def patience(self, server: _Server) -> float:
        """Return after how many seconds a handshake takes several times as long as usual."""
        gauges = self._session._pool.situation(server.endpoint, clock())[0]
        # Among a hundred handshakes that begin together, the last waits for all the others.
        return LATE_FACTOR * self._usual * (1 + gauges[_CONNECTING] // 8)

    def answered(self, server: _Server, begun: float) -> None:
        """Take a server back, because it has answered a handshake."""
        failures = server.pauses.ended(begun)
        if failures:
            log(
                "endpoint_back",
                session_name=self._session._lifecycle.settings.name,
                endpoint=str(server.endpoint),
                failures=failures,
                seconds=clock() - server.pauses.failing_since,
            )

    def last_error(self) -> BaseException:
        """Return the error of a call if all servers are out and none is due."""
        last = max(self._servers, key=lambda server: server.pauses.failed_at)
        assert last.last_error is not None
        error = twin_of(last.last_error)
        error.add_note(f"(all {len(self._servers)} URLs are left out after failed handshakes)")
        return error

    def begin_probes(self, call: "_Call") -> None:
        """Begin a handshake with each server that is due, which the call does not wait for."""
        now, are_all_out = clock(), self._are_all_out()
        for server in self._servers:
            probe = server.probe
            if probe is not None and probe.late:
                server.probe = None
                self.late(server, probe.born)
            if not are_all_out and server.is_due(now, False):
                self._begin_probe(server, call)

    def _begin_probe(self, server: _Server, call: "_Call") -> None:
        lifecycle = self._session._lifecycle
        target = lifecycle.with_cookies(call.target_of(server))
        ensure_room()
        slot = self._session._pool.open(target.endpoint, target.key, clock())
        if slot is None:
            # There is no room. A later call tries again.
            return
        server.probe = slot
        finished = lifecycle.start_connecting(slot, target, copy_context())
        finished.add_done_callback(partial(_call_probed, weakref.ref(self), server, slot))

    def _probed(
        self, server: _Server, slot: Slot, finished: "asyncio.Future[Failure | None]"
    ) -> None:
        server.end_probe(slot)
        if finished.cancelled():
            # It gave way to a caller, or was drained.
            if slot.late:
                self.late(server, slot.born)
            return
        failure = finished.result()
        if failure is None:
            self.learn(clock() - slot.began)
        if failure is None or is_answer(failure.error):
            self.answered(server, slot.born)
        elif is_failure_of_server(failure.error):
            self.failed(server, failure.error, slot.born)

    # -- calls that wait -------------------------------------------------------------------------

    def enter(self, call: "_Call") -> None:
        """Look at a call from time to time until it leaves."""
        self._calls[call] = None
        if self._timer is None:
            self._arm()

    def leave(self, call: "_Call") -> None:
        """Look at a call no longer."""
        del self._calls[call]
        if not self._calls and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._next_look = clock() + _PERIOD
        self._timer = self._session._loop.call_later(
            _PERIOD, _call_look, weakref.ref(self), context=Context()
        )

    def _look(self) -> None:
        now, are_all_out = clock(), self._are_all_out()
        is_busy = now - self._next_look > _BUSY
        self._arm()
        room = self.room()
        is_due = any(server.is_due(now, are_all_out) for server in self._servers)
        for call in self._calls:
            call.look(now, room, is_due, is_busy)
            # Only the first call, the oldest, probes.
            is_due = False


class _Try:
    """One server that a call waits at."""

    __slots__ = ("born", "is_blamed", "server", "task", "waiter")

    #: Deleted at the end: its result may be an exception, whose traceback leads here.
    task: "asyncio.Task[Any]"

    def __init__(self, server: _Server) -> None:
        self.server = server
        self.born = clock()
        #: What waits in the core; None: the task has not begun.
        self.waiter: Waiter | None = None
        #: Whether the server was put out because this is late.
        self.is_blamed = False
        server.beginning += 1

    async def run(self, session: Session, target: Target) -> Any:
        """Return a connection, or the :class:`Failure` to get one."""
        try:
            return await session._wait(target, None, self._line_up)
        except Exception as error:
            # Not raised: the repr of a task shows its exception, which has headers.
            return Failure(error)

    def _line_up(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.server.beginning -= 1

    @property
    def late(self) -> bool:
        """Whether a handshake takes much longer than usual, so that another one began beside it."""
        return self.waiter is not None and self.waiter.hedges > 0

    @property
    def is_connecting(self) -> bool:
        """Whether it waits for a handshake."""
        return self.late or (self.waiter is not None and self.waiter.opening is not None)

    def seconds(self, now: float) -> float:
        """Return how long its handshake has been under way; negative: there is none."""
        slot = None if self.waiter is None else self.waiter.opening
        return -1.0 if slot is None else now - slot.began

    @property
    def lacks_place(self) -> bool:
        """Whether it waits for a place within the limits."""
        waiter = self.waiter
        return waiter is not None and waiter.queued and not self.is_connecting

    def end(self) -> "asyncio.Task[Any]":
        """Take it off the books of its server; return its task."""
        if self.waiter is None:
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


class _Call:
    """A call of ``ws_connect()``: the owner of an acquisition of the core."""

    __slots__ = (
        "_acquire_timeout",
        "_balanced",
        "_deadline",
        "_failures",
        "_options",
        "_reuse_key",
        "_stirred",
        "_targets",
        "_tried",
        "_tries",
        "_wants_another",
    )

    _stirred: "asyncio.Future[None]"

    def __init__(
        self, balanced: Balanced[Any], reuse_key: Hashable, options: dict[str, Any]
    ) -> None:
        self._balanced = balanced
        self._reuse_key = reuse_key
        # What can be read only once is needed for each server.
        self._options = {
            name: tuple(value) if isinstance(value, Iterator) else value
            for name, value in options.items()
        }
        self._targets: dict[_Server, Target] = {}
        self._acquire_timeout: float | None = None
        self._deadline: float | None = None
        # The tries under way, oldest first; and all tries, by their servers.
        self._tries: list[_Try] = []
        self._tried: dict[_Server, _Try] = {}
        self._wants_another = False
        self._failures: list[str] = []

    def target_of(self, server: _Server) -> Target:
        """Return the target of the call at a server."""
        target = self._targets.get(server)
        if target is None:
            target = self._targets[server] = self._resolve(server.url)
        return target

    def _resolve(self, url: str | URL) -> Target:
        session, options = self._balanced._session, self._options
        target: Target | None = None
        signature: Any = signature_of(url, self._reuse_key, options, session._atoms)
        try:
            target = None if signature is None else session._targets.get(signature)
        except TypeError:
            # Something in it has no hash.
            signature = None
        return target or session._resolve_anew(signature, url, options, self._reuse_key)

    async def _acquire(self, _: Target, acquire_timeout: float | None) -> Any:
        """Return a connection, as the core asks of the owner of an acquisition."""
        session, balanced = self._balanced._session, self._balanced
        session._bind()
        balanced.begin_probes(self)
        ws = self._take_idle()
        if ws is None and acquire_timeout == 0:
            ws = await self._acquire_at_once()
        elif ws is None:
            ws = await self._wait(acquire_timeout)
        return session._told_of(ws)

    def _take_idle(self) -> Any:
        session = self._balanced._session
        for server in self._balanced.with_idle_first():
            target = session._lifecycle.with_cookies(self.target_of(server))
            ws = session._take_idle(target)
            if ws is not None:
                return ws
        return None

    async def _acquire_at_once(self) -> Any:
        """Return an idle connection whose check succeeds, or raise :exc:`PoolTimeoutError`."""
        session = self._balanced._session
        servers = self._balanced.with_idle_first() or self._balanced._servers
        targets = [session._lifecycle.with_cookies(self.target_of(server)) for server in servers]
        targets.sort(key=lambda target: session._pool.spare_count(target.key, 1) == 0)
        for target in targets[:-1]:
            if session._pool.spare_count(target.key, 1):
                try:
                    return await session._wait(target, 0)
                except PoolTimeoutError:
                    pass
        return await session._wait(targets[-1], 0)

    # -- waiting ---------------------------------------------------------------------------------

    async def _wait(self, acquire_timeout: float | None) -> Any:
        loop = self._balanced._session._loop
        self._stirred = loop.create_future()
        timer = None
        if acquire_timeout is not None:
            self._acquire_timeout, self._deadline = acquire_timeout, clock() + acquire_timeout
            timer = loop.call_later(acquire_timeout, self._time_out, context=Context())
        self._balanced.enter(self)
        try:
            if not self._begin_next():
                raise self._balanced.last_error()
            ws = None
            while ws is None:
                await self._stirred
                self._stirred = loop.create_future()
                ws = self._take_result()
                if ws is None and self._wants_another:
                    self._wants_another = False
                    ws = self._look_elsewhere()
            # Where no time was left for that, servers that hang are known by now.
            self._blame()
            return ws
        finally:
            self._balanced.leave(self)
            if timer is not None:
                timer.cancel()
            for attempt in self._tries:
                attempt.drop()
            self._tries.clear()

    def _begin_next(self) -> bool:
        """Begin to wait at another server; False: there is none."""
        if self._deadline is not None and clock() >= self._deadline:
            return False
        server = self._balanced.choose(self._tried)
        if server is None:
            return False
        session = self._balanced._session
        target = session._lifecycle.with_cookies(self.target_of(server))
        attempt = _Try(server)
        if server.is_out:
            server.probe = attempt
        self._tried[server] = attempt
        self._tries.append(attempt)
        # Not with create_task(): a task factory may start tasks eagerly.
        attempt.task = asyncio.Task(attempt.run(session, target), loop=session._loop)
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

    def _note_success(self, attempt: _Try, ws: Any) -> None:
        slot = ws._slot
        if ws.reused or slot.born < attempt.born:
            # It says nothing about handshakes now.
            return
        self._balanced.learn(clock() - slot.began)
        self._balanced.answered(attempt.server, slot.born)

    def _note_failure(self, attempt: _Try, error: BaseException) -> None:
        """Go on after the failure of a try, or raise its error."""
        try:
            if is_failure_of_server(error):
                self._balanced.failed(attempt.server, error, attempt.born)
                failure = HandshakeFailure.of(error)
                if self._begin_next() or self._tries:
                    self._failures.append(f"{attempt.server.endpoint}: {failure}")
                    return
            elif is_answer(error):
                self._balanced.answered(attempt.server, attempt.born)
            elif isinstance(error, TooManyWaitersError) and self._tries:
                return
            if self._failures:
                error.add_note(f"(failed before: {'; '.join(self._failures)})")
            raise error
        finally:
            # Its traceback has this frame.
            del error

    def _look_elsewhere(self) -> Any:
        """Return an idle connection, or begin another try."""
        self._blame(LATE_FLOOR)
        self._balanced.begin_probes(self)
        ws = self._take_idle()
        if ws is None:
            self._begin_next()
        return ws

    def _blame(self, at_least: float = 0.0) -> None:
        """Put out the servers whose handshakes take several times as long as usual."""
        now = clock()
        for attempt in self._tries:
            if self._hangs(attempt, now, at_least):
                attempt.is_blamed = True
                attempt.server.end_probe(attempt)
                self._balanced.late(attempt.server, attempt.born)

    def _hangs(self, attempt: _Try, now: float, at_least: float) -> bool:
        if attempt.is_blamed:
            return False
        patience = max(at_least, self._balanced.patience(attempt.server))
        return attempt.late or attempt.seconds(now) >= patience

    # -- timers ----------------------------------------------------------------------------------

    def look(self, now: float, room: dict[_Server, int], is_due: bool, is_busy: bool) -> None:
        """Look whether the call should look elsewhere, beside the server that it waits at."""
        newest = self._tries[-1] if self._tries else None
        if newest is None or newest.waiter is None or newest.task.done():
            return
        hangs = any(self._hangs(attempt, now, LATE_FLOOR) for attempt in self._tries)
        if is_due or (hangs and not is_busy):
            self._wants_another = True
        elif newest.lacks_place:
            server = next((server for server in room if server not in self._tried), None)
            if server is not None:
                room[server] -= 1
                if not room[server]:
                    del room[server]
                self._wants_another = True
        elif self._deadline is not None:
            # Each server that is left gets an equal share of the time that is left.
            left = self._balanced.count_left(self._tried)
            share = (self._deadline - newest.born) / (left + 1)
            self._wants_another = left > 0 and now - newest.born >= share
        if self._wants_another:
            self._stir()

    def _time_out(self) -> None:
        """End the call: its time is over."""
        session = self._balanced._session
        for attempt in reversed(self._tries):
            if attempt.waiter is not None and not attempt.task.done():
                session._time_out(attempt.waiter, self._acquire_timeout)
                return
        if self._tries:
            # The task of a try has not begun.
            session._loop.call_soon(self._time_out, context=Context())


def _is_with_any(key: HandshakeKey, servers: list[_Server]) -> bool:
    """Return whether a handshake is with one of some URLs, with any headers, options and params."""
    for server in servers:
        resource = server.key.resource
        more = resource + ("&" if "?" in resource else "?")
        if key.endpoint == server.endpoint and (
            key.resource == resource or key.resource.startswith(more)
        ):
            return True
    return False


def _give_back(task: "asyncio.Task[Any]") -> None:
    """Release the connection of a try that its call does not wait for any more."""
    if not task.cancelled() and task.exception() is None:
        result = task.result()
        if isinstance(result, ClientWebSocketResponse):
            result.release()


def _for_others(error: BaseException, server: _Server) -> BaseException:
    """Return a twin of an error without what belongs to its caller: headers, query, frames."""
    twin = twin_of(error)
    twin.__cause__ = twin.__context__ = None
    if isinstance(twin, aiohttp.ClientResponseError):
        host, port, is_ssl = server.endpoint
        url = URL.build(scheme="wss" if is_ssl else "ws", host=host, port=port or None)
        nothing: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
        twin.request_info = aiohttp.RequestInfo(url, twin.request_info.method, nothing, url)
        twin.history = ()
        said = CIMultiDict(twin.headers or ()).get("Retry-After")
        twin.headers = CIMultiDict() if said is None else CIMultiDict({"Retry-After": said})
        twin.args = (twin.request_info, twin.history)
    return twin


def _call_look(this: "weakref.ref[Balanced[Any]]") -> None:
    balanced = this()
    if balanced is not None:
        balanced._look()


def _call_probed(
    this: "weakref.ref[Balanced[Any]]",
    server: _Server,
    slot: Slot,
    finished: "asyncio.Future[Failure | None]",
) -> None:
    balanced = this()
    if balanced is not None:
        balanced._probed(server, slot, finished)
