"""Keeps the lease of one session in a fleet: reports to the engine, and carries out its answers.

A :class:`~aiowebsocketclient.lease.Lease` decides what to report, and when.  A :class:`Lessee` has
one timer for that, a task for each report, and a task that listens for nudges.  It hands the number
of places to the core (``Pool.lead``), so acquiring and releasing an open connection ask nobody.
"""

import asyncio
import contextlib
import math
import secrets
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol

from ._compat import Plan, Pool, Waiter, clock
from ._pool_py import GAUGES, NO_LIMIT
from .exceptions import FleetUnavailableError, in_session
from .fleet import TURN_GRACE, EngineError, Fleet, FleetStats, Grant, Report
from .keys import EndpointKey
from .lease import Lease, Need
from .logs import log
from .refusals import Situation
from .settings import Settings
from .tracing import Tracer

__all__ = ("Lessee",)

_GAUGE_OF_IDLE: Final = GAUGES.index("idle")
# The first gauges are those of what has a place.
_GAUGES_OF_PLACES: Final = GAUGES.index("waiting")

# Seconds that an idle connection is kept from other sessions: as long as a handshake takes, but
# not less or more than this.
_LEAST_KEPT: Final = 0.05
_MOST_KEPT: Final = 1.0
# Minimum number of seconds between two looks at idle connections.
_LOOK_AT_IDLE: Final = 0.1

# Seconds of TURN_GRACE kept back for the way of the first packet.
_TURN_MARGIN: Final = 0.5

# Seconds of the longest pause before it listens again.
_LONGEST_PAUSE: Final = 1.0
# Maximum seconds for the last report of a session that is closed.
LEAVING: Final = 1.0


class Governed(Protocol):
    """The part of a lifecycle that :class:`Lessee` needs."""

    pool: Pool
    settings: Settings

    def carry_out(self, plan: Plan | None) -> None:
        """Carry out a plan of the core."""

    def fail(self, waiter: Waiter, error: BaseException) -> None:
        """Take a waiter out of its line, and make it raise ``error``."""

    def abort_open(self) -> None:
        """Close all connections, in use or not, without a closing handshake."""


class _Said:
    """The limits that sessions with the same fleet object have reported lately.

    The engine may name any of these as the limit of the call before.  Each session reports the
    limit that the object has then, so these sessions never disagree.
    """

    __slots__ = ("_limits", "_number", "_oldest", "_unanswered")

    def __init__(self) -> None:
        # Each with a number, in order.  Replaced at once: sessions may be in several threads.
        self._limits: tuple[tuple[int, int], ...] = ()
        self._number = 0
        # The oldest limit that the answer to a report that is sent now may name.
        self._oldest = 0
        # By session, for the first of its reports without an answer: the number of its limit, and
        # of the oldest limit that the answer may name.
        self._unanswered: dict[str, tuple[int, int]] = {}

    def __contains__(self, limit: int) -> bool:
        return any(limit == said for _, said in self._limits)

    def sent(self, member: str, limit: int) -> int:
        """Take down the limit of a report that is sent now; return a number for its answer.

        Reports of limits with smaller numbers have been answered, so the engine had them before.
        """
        if not self._limits or self._limits[-1][1] != limit:
            self._number += 1
            self._limits = (*self._limits, (self._number, limit))
        number = self._limits[-1][0]
        others = [at for other, (at, _) in tuple(self._unanswered.items()) if other != member]
        self._unanswered.setdefault(member, (number, self._oldest))
        return min([number, *others])

    def answered(self, member: str, first: int) -> None:
        """Forget the limits before ``first``, which :meth:`sent` returned for the report.

        Those that the answer to an earlier report may still name are kept until then.
        """
        self.left(member)
        self._oldest = max(self._oldest, first)
        named = [oldest for _, oldest in tuple(self._unanswered.values())]
        kept = min([self._oldest, *named])
        self._limits = tuple(each for each in self._limits if each[0] >= kept)

    def left(self, member: str) -> None:
        """Wait for no answer to an earlier report of the session."""
        self._unanswered.pop(member, None)


_said: "weakref.WeakKeyDictionary[Fleet, _Said]" = weakref.WeakKeyDictionary()


def _said_of(fleet: Fleet) -> _Said:
    try:
        return _said.setdefault(fleet, _Said())
    except TypeError:
        # An engine that is not hashable, or to which there are no weak references.
        return _Said()


#: A handshake that waits for its turn: done with the first and the last time at which it may begin.
_Turn = asyncio.Future[tuple[float, float]]


class Lessee:
    """Holds the lease of one session."""

    def __init__(
        self, fleet: Fleet, lifecycle: Governed, name: str | None, tracer: Tracer | None
    ) -> None:
        self._fleet = fleet
        self._lifecycle = lifecycle
        self._name = name
        self._tracer = tracer
        self._lease = Lease(fleet.lease, fleet.fallback)
        self._member = secrets.token_hex(8)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_stopped = False
        #: Whether the lease is lost: nothing may be opened but within ``fallback``.
        self.is_lost = False
        self._lost_at = 0.0
        # Whether the next step happens in the next turn of the loop.
        self._is_due = False
        self._timer: asyncio.Handle | None = None
        self._reporting: asyncio.Task[Grant | None] | None = None
        self._report_began = 0.0
        # When the report under way is cancelled although it has a timeout.
        self._overdue_at = math.inf
        self._listening: asyncio.Task[None] | None = None
        # Handshakes that want turns, and those for which the report under way asks.
        self._turns: deque[_Turn] = deque()
        self._asked: deque[_Turn] = deque()
        # By who wishes them: connections that no caller waits for.
        self._wishes: dict[object, int] = {}
        self._on_places_came: Callable[[], Callable[[], None] | None] | None = None
        # Done with the next report that begins, and with the report under way.
        self._unanswered: list[asyncio.Future[None]] = []
        self._awaited: list[asyncio.Future[None]] = []
        self._last: Grant | None = None
        # Handshakes that succeeded, for their mean duration.
        self._connects = 0
        self._connect_seconds = 0.0
        # What was logged of failures since the last answer.
        self._failed_as: set[str] = set()
        # The limit of the last report, what sent() returned for it, and the last two warnings.
        self._said = _said_of(fleet)
        self._limit = self._first_said = 0
        self._warned_of: tuple[tuple[int, int], ...] = ()
        self._syncs = self._sync_errors = self._yielded = self._losses = 0
        self._sync_seconds = 0.0
        # Whether the fleet has no places for what is wanted here, as far as is known.
        self._is_short = False
        # What the core knows: places, what to keep, and whether more may come; it is still empty.
        self._led = (self._lease.places, self._lease.keep, True)
        lifecycle.pool.lead(self._led[0], self._led[1], clock(), True)

    # -- what the parts of the session say -------------------------------------------------------

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the loop, at the first use of the session."""
        self._loop = loop

    def look(self) -> None:
        """Look at the pool in the next turn of the loop: something may have changed."""
        if self._is_due or self._has_stopped or self._loop is None:
            return
        self._is_due = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_soon(self._step, context=Context())

    def connected(self, seconds: float) -> None:
        """Record how long a handshake took: an idle connection is kept for about as long."""
        self._connects += 1
        self._connect_seconds += seconds

    def wish(self, who: object, count: int) -> None:
        """Wish ``count`` places that no caller waits for; it makes no other session give way."""
        if self._wishes.get(who, 0) == count:
            return
        if count:
            self._wishes[who] = count
        else:
            del self._wishes[who]
        self.look()

    def wish_for(self, who: object, endpoint: EndpointKey, count: int) -> None:
        """Wish at most ``count`` places at one endpoint.

        The session holds the places that it wishes, so its own limits must let it use them.
        """
        limit = self._lifecycle.settings.limit
        if limit:
            gauges = self._lifecycle.pool.situation(endpoint, clock())[0]
            count = min(count, limit - sum(gauges[:_GAUGES_OF_PLACES]))
        self.wish(who, self._wishable_in_all(count))

    def _wishable_in_all(self, count: int) -> int:
        """Return how many of ``count`` connections the limits over all endpoints allow."""
        settings, pool = self._lifecycle.settings, self._lifecycle.pool
        room = [count]
        if settings.limit_total:
            room.append(settings.limit_total - len(pool))
        if settings.max_idle_connections is not None:
            room.append(settings.max_idle_connections - pool.gauges()[_GAUGE_OF_IDLE])
        return max(0, min(room))

    def when_places_came(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, held weakly, when there are more places while some are wished."""
        self._on_places_came = weakref.WeakMethod(callback)

    async def answered(self) -> None:
        """Wait until a report that begins from now on was answered, or has failed."""
        assert self._loop is not None
        if self._has_stopped:
            return
        # The report under way does not say what is wished now, and no other may be due for long.
        answered: asyncio.Future[None] = self._loop.create_future()
        self._unanswered.append(answered)
        self._nudge()
        await answered

    async def admit(self, endpoint: EndpointKey) -> None:
        """Wait for the turn of a handshake that has a place; raise if the lease is lost.

        The timer of the deadline may be late, where the process was stopped for example.
        """
        self._raise_if_lost(endpoint)
        # Without the engine, a handshake within fallback has nobody to give it a turn.
        while self._fleet.connect_rate is not None and not self.is_lost:
            first, last = await self._next_turn()
            await asyncio.sleep(max(0.0, first - clock()))
            if clock() <= last:
                self._raise_if_lost(endpoint)
                return

    async def leave(self) -> None:
        """Give all places back, after the last connection is closed; never raises."""
        tasks = [task for task in (self._reporting, self._listening) if task is not None]
        self.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVING)
        if not self._lease.is_member:
            return
        try:
            held = len(self._lifecycle.pool)
            async with asyncio.timeout(LEAVING):
                report = self._lease.begin(Need(held, held, closing=held), clock())
                await self._send(report)
        except Exception as exc:
            # The lease ends it.
            self._log_failure(exc)
        finally:
            self._said.left(self._member)

    def stop(self) -> None:
        """Report nothing more; the lease ends by itself."""
        self._has_stopped = True
        self._said.left(self._member)
        self._tell_answered(self._awaited)
        self._tell_answered(self._unanswered)
        if self._timer is not None:
            self._timer.cancel()
        if self._reporting is not None:
            self._reporting.cancel()
        if self._listening is not None:
            self._listening.cancel()

    def leave_to_parent(self) -> object:
        """Fall silent in a forked child; return objects that must never be collected."""
        self._has_stopped = True
        return (self, self._reporting, self._listening)

    def _unavailable(self, endpoint: EndpointKey) -> FleetUnavailableError:
        """Return the error of a caller that finds the lease lost and nothing of its own open."""
        # The timer may be late.
        lost_at = self._lost_at if self.is_lost else self._lease.deadline
        said = (
            f"the fleet could not be reached for a whole lease, which ended"
            f" {max(0.0, clock() - lost_at):.1f} s ago, so no connection may be opened"
            f" ({len(self._lifecycle.pool)} are open): check the server of the fleet"
        )
        error = FleetUnavailableError(in_session(self._name, said))
        error.session_name, error.endpoint, error.waited_for = self._name, endpoint, "fleet"
        return error

    def stats(self) -> FleetStats:
        """Return what is known of the fleet, and what this session has done in it."""
        last = self._last
        return FleetStats(
            limit=self._fleet.limit,
            used=0 if last is None else last.used,
            places=self._led[0],
            wanted=len(self._lifecycle.pool) + self._lifecycle.pool.lacking(),
            waiting_sessions=0 if last is None else last.waiting,
            learning=0.0 if last is None else last.learning,
            syncs=self._syncs,
            sync_errors=self._sync_errors,
            sync_seconds=self._sync_seconds,
            yielded=self._yielded,
            losses=self._losses,
        )

    def situation(self) -> Situation:
        """Return, for the error of a caller, whose places are taken, and what to do."""
        if self._failed_as:
            said = "the fleet cannot be reached, or refuses reports"
            return Situation(said, ("look at its server and the log",))
        if self._last is None:
            return Situation("the fleet has not answered yet", ("allow it more time",))
        held = len(self._lifecycle.pool)
        said = (
            f"the fleet's limit is {self._fleet.limit}: {self._last.used} places are taken, {held}"
            f" of them here; sessions that wait: {self._last.waiting}"
        )
        if self._last.learning:
            seconds = self._last.learning
            said += f"; its server is new or was restarted, and gives no more for {seconds:.1f} s"
            return Situation(said, ("wait until its server knows all sessions",))
        remedies = ("release connections sooner in all its sessions", "raise its limit")
        return Situation(said, remedies)

    # -- one step --------------------------------------------------------------------------------

    def _step(self) -> None:
        self._is_due = False
        if self._has_stopped:
            return
        now = clock()
        if self._lease.is_lost(now) and not self.is_lost:
            self._lose(now)
        if self.is_lost:
            self._fail_stranded()
        need = self._need(now)
        due = self._lease.due(need, now)
        if self._reporting is None and due <= now:
            self._report(need, now)
        elif self._reporting is not None and self._overdue_at <= now:
            # The client has lost its cancellation at the timeout, while it connected for example.
            self._reporting.cancel()
            self._overdue_at = now + self._lease.timeout
        elif math.isinf(due):
            # It is no member, or not any more, and has nothing to say.
            self._tell_answered(self._unanswered)
            if self._listening is not None:
                self._listening.cancel()
                self._listening = None
        if not self._is_due:
            self._arm(due if self._reporting is None else self._overdue_at, now)

    def _arm(self, due: float, now: float) -> None:
        when = due
        if not self.is_lost:
            when = min(when, self._lease.deadline)
        if len(self._lifecycle.pool):
            # A release tells nobody, so it looks whether anything is idle, or will be.
            when = min(when, now + max(self._keep_idle(), _LOOK_AT_IDLE))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when < math.inf:
            assert self._loop is not None
            delay = max(0.0, when - now)
            self._timer = self._loop.call_later(delay, self._step, context=Context())

    def _need(self, now: float) -> Need:
        pool = self._lifecycle.pool
        held, like = len(pool), 0
        if self._wishes:
            # Each wish was within the limits, but not all of them together.
            like = held + self._wishable_in_all(sum(self._wishes.values()))
        return Need(
            held=held,
            # Its callers may have to connect in the reserved places at any moment.
            demand=held + pool.reserved_count() + pool.lacking(),
            like=like,
            spare=pool.idle_since(now - self._keep_idle(), held),
            handshakes=len(self._turns),
            closing=pool.closing_count(),
        )

    def _keep_idle(self) -> float:
        if self._fleet.keep_idle is not None:
            return self._fleet.keep_idle
        if not self._connects:
            return _MOST_KEPT
        return min(max(self._connect_seconds / self._connects, _LEAST_KEPT), _MOST_KEPT)

    def _lead(self) -> None:
        """Tell the core how many places there are."""
        if self.is_lost:
            places, keep = self._fleet.fallback, NO_LIMIT
        else:
            places, keep = self._lease.places, self._lease.keep
        # Before it closes an idle connection for a caller, it asks for another place.
        may_get_more = not (self.is_lost or self._is_short)
        if (places, keep, may_get_more) == self._led:
            return
        before, self._led = self._led[0], (places, keep, may_get_more)
        self._lifecycle.carry_out(self._lifecycle.pool.lead(places, keep, clock(), may_get_more))
        if self._tracer is not None and places != before:
            self._tracer.fleet_places_changed(before, places)
        if places > before and self._wishes and self._on_places_came is not None:
            on_places_came = self._on_places_came()
            if on_places_came is not None:
                on_places_came()

    # -- reports ---------------------------------------------------------------------------------

    def _report(self, need: Need, now: float) -> None:
        report = self._lease.begin(need, now)
        # The cap is lower before the engine can hear of it.
        self._lead()
        self._asked, self._turns = self._turns, deque()
        self._awaited, self._unanswered = self._unanswered, []
        self._report_began = now
        self._overdue_at = now + 2 * self._lease.timeout
        self._reporting = self._run(self._sync(report))
        self._reporting.add_done_callback(self._reported, context=Context())
        if self._listening is None or self._listening.done():
            # At first, or after the program has cancelled all tasks.
            self._listening = self._run(self._listen())

    def _run(self, steps: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        # Not with create_task(): a task factory may start tasks eagerly.
        return asyncio.Task(steps, loop=self._loop, context=Context())

    async def _sync(self, report: Report) -> Grant | None:
        async with asyncio.timeout(self._lease.timeout):
            grant = await self._send(report)
        if not isinstance(grant, Grant | None):
            raise EngineError(f"sync() must return a Grant or None, not {type(grant).__name__}")
        return grant

    async def _send(self, report: Report) -> Grant | None:
        # As late as this: the engine reads it now, and it may have changed since the report.
        self._limit = self._fleet.limit
        self._first_said = self._said.sent(self._member, self._limit)
        return await self._fleet.sync(self._member, report)

    def _reported(self, task: "asyncio.Task[Grant | None]") -> None:
        """Take the answer to a report, or its failure."""
        self._reporting = None
        if self._has_stopped:
            if not task.cancelled():
                task.exception()
            return
        now = clock()
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._sync_errors += 1
            self._lease.failed(now)
            self._is_short = True
            if error is not None:
                self._log_failure(error)
        else:
            self._syncs += 1
            self._sync_seconds += now - self._report_began
            self._take(task.result(), now)
        # Those that got no turn ask again, before the others.
        self._turns.extendleft(reversed(self._asked))
        self._asked = deque()
        self._lead()
        self._tell_answered(self._awaited)
        self.look()

    def _tell_answered(self, futures: "list[asyncio.Future[None]]") -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
        futures.clear()

    def _take(self, grant: Grant | None, now: float) -> None:
        self._lease.granted(grant, now)
        self._is_short = grant is None or self._lease.is_short
        if grant is None:
            return
        self._failed_as.clear()
        self._last = grant
        self._yielded += max(0, min(self._led[0], grant.places) - grant.target)
        self._give_turns(grant, now)
        self._compare_limits(grant.limit)
        self._said.answered(self._member, self._first_said)
        if self.is_lost and not self._lease.is_lost(now):
            self._restore(now)

    def _compare_limits(self, other: int) -> None:
        """Warn, once of each, of another limit in the call before this session's."""
        told = (self._limit, other)
        if other and other not in self._said and told not in self._warned_of:
            self._warned_of = (*self._warned_of[-1:], told)
            log("fleet_disagrees", session_name=self._name, limit=self._limit, other=other)

    def _log_failure(self, error: BaseException) -> None:
        """Log the first failure of its kind in a row; the text of an exception may name a user."""
        event = "fleet_failed" if isinstance(error, EngineError) else "fleet_unreachable"
        detail = f": {error}" if isinstance(error, EngineError) else ""
        if event not in self._failed_as:
            self._failed_as.add(event)
            log(event, session_name=self._name, error=type(error).__name__, detail=detail)

    async def _listen(self) -> None:
        pause = _LONGEST_PAUSE / 16
        while True:
            # If it fails, reports fail, too, and say so; without nudges they are only later.
            with contextlib.suppress(Exception):
                await self._fleet.listen(self._member, self._nudge)
            # Also for an engine that returns at once, since it cannot nudge.
            pause = min(2 * pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
            self._nudge()

    def _nudge(self) -> None:
        self._lease.nudged()
        self.look()

    # -- a lost lease ----------------------------------------------------------------------------

    def _lose(self, now: float) -> None:
        self._lease.lose()
        self.is_lost = True
        self._lost_at = now
        self._losses += 1
        held = len(self._lifecycle.pool)
        self._lead()
        self._lifecycle.carry_out(self._lifecycle.pool.stop_opening(clock()))
        if self._fleet.lost == "close":
            self._lifecycle.abort_open()
        log("fleet_lost", session_name=self._name, held=held, policy=self._fleet.lost)
        if self._tracer is not None:
            self._tracer.fleet_lost(held)

    def _fail_stranded(self) -> None:
        """Fail the callers for which nothing is open, and nothing may be opened."""
        pool = self._lifecycle.pool
        if len(pool) - pool.closing_count() < self._fleet.fallback:
            # A place is free, or is being cleared; they wait for a limit of the session at most.
            return
        for waiter in pool.stranded():
            if waiter.queued:
                endpoint: Any = waiter.handshake.endpoint.key
                self._lifecycle.fail(waiter, self._unavailable(endpoint))

    def _restore(self, now: float) -> None:
        self.is_lost = False
        seconds = now - self._lost_at
        log("fleet_restored", session_name=self._name, seconds=seconds)
        if self._tracer is not None:
            self._tracer.fleet_restored(seconds)

    def _raise_if_lost(self, endpoint: EndpointKey) -> None:
        if self._lease.is_lost(clock()) and len(self._lifecycle.pool) > self._fleet.fallback:
            self.look()
            raise self._unavailable(endpoint)

    # -- handshake turns -------------------------------------------------------------------------

    async def _next_turn(self) -> tuple[float, float]:
        assert self._loop is not None
        turn: _Turn = self._loop.create_future()
        self._turns.append(turn)
        self.look()
        try:
            return await turn
        except BaseException:
            # A turn that was asked for is lost, and delays others for one handshake.
            if turn in self._turns:
                self._turns.remove(turn)
            raise

    def _give_turns(self, grant: Grant, now: float) -> None:
        for delay in grant.turns:
            if not self._asked:
                break
            turn = self._asked.popleft()
            if not turn.done():
                # Neither sooner nor later than the engine means, whose clock is not known here.
                last = self._report_began + delay + TURN_GRACE - _TURN_MARGIN
                turn.set_result((now + delay, last))
