"""Keeps a minimum of idle connections: implements ``set_min_idle()``.

A :class:`Keeper` decides how many handshakes to begin, and when; :class:`Keeping` begins them.  A
keeper is notified of closed connections.  It also looks once a second, because acquiring an idle
connection causes no event.  It uses a timer instead of a task, which could be cancelled.
"""

import asyncio
import weakref
from collections.abc import Callable, Hashable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Protocol

from ._compat import Pool, Slot, clock
from ._pool_py import CLOSE_REASONS, CLOSING, GONE, IDLE
from .exceptions import HandshakeFailure
from .keys import HandshakeKey, Target
from .lessee import Lessee
from .lifecycle import Failure
from .logs import fields_of_failure, log
from .pausing import Pauses
from .settings import Settings

__all__ = ("Keeper", "Keeping")

# Seconds between two looks at the pool.
_PERIOD: Final = 1.0

# Seconds without new handshakes after a connection was closed because too many were idle: a new
# connection would soon be closed, or another one for it.
_REST: Final = 10.0

# Seconds after which a new connection shows that the server does not close each one at once.
_PROBATION: Final = 1.0
_SERVERS_DOING: Final = {CLOSE_REASONS.index("lost"), CLOSE_REASONS.index("dirty")}


class Opening(Protocol):
    """The part of a lifecycle that :class:`Keeping` needs."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    settings: Settings
    lessee: Lessee | None

    def arm(self) -> None:
        """Set the timer of the pool."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def start_connecting(
        self, slot: Slot, target: Target, context: Context
    ) -> asyncio.Future[Failure | None]:
        """Begin a handshake; return a future that ends with it."""
        ...

    def when_place_left(self, callback: Callable[[Slot], None]) -> None:
        """Call ``callback``, held weakly, with the slot of each connection that is gone."""

    def with_cookies(self, target: Target) -> Target:
        """Return a target with the current cookies and environment."""
        ...


class Keeping:
    """The keepers of all handshakes of a session."""

    __slots__ = ("__weakref__", "_lifecycle", "_on_look", "keepers")

    def __init__(self, lifecycle: Opening) -> None:
        self._lifecycle = lifecycle
        #: Keepers by handshake without cookies, which may change.
        self.keepers: dict[HandshakeKey, Keeper] = {}
        # Weak: a keeper must not keep a dropped session alive.
        self._on_look = partial(_call_keep_up, weakref.ref(self))
        lifecycle.when_place_left(self._wake)
        if lifecycle.lessee is not None:
            lifecycle.lessee.when_places_came(self._wake_all)

    def keep(self, target: Target, wanted: int) -> None:
        """Keep ``wanted`` connections of a handshake idle; 0: stop keeping."""
        keeper = self.keepers.get(target.key)
        if wanted:
            if keeper is None:
                lifecycle = self._lifecycle
                keeper = Keeper(target, lifecycle.loop, self._on_look, lifecycle.settings.name)
                self.keepers[target.key] = keeper
            keeper.want(target, wanted)
        elif keeper is not None:
            del self.keepers[target.key]
            if self._lifecycle.lessee is not None:
                self._lifecycle.lessee.wish(keeper, 0)
            for slot in keeper.stop():
                self._lifecycle.pool.abandon(slot, clock())
            self._lifecycle.arm()

    def stop(self) -> None:
        """Stop all keepers."""
        for keeper in self.keepers.values():
            keeper.stop()
        self.keepers.clear()

    def _keep_up(self, keeper: "Keeper") -> None:
        """Begin the handshakes that a keeper needs."""
        lifecycle = self._lifecycle
        try:
            target = lifecycle.with_cookies(keeper.target)
        except Exception as exc:
            # The cookie jar of client_session failed.
            keeper.failed(HandshakeFailure.of(exc), clock())
            return
        last = keeper.rotated
        if last is not None and last.state == IDLE and not last.uses and last.key != target.key:
            # Others have replaced the cookies since. Such connections would accumulate.
            lifecycle.close_acquired(last, "evicted")
        spare = lifecycle.pool.spare_count(target.key, keeper.wanted)
        lacking = keeper.lacking(spare)
        while lacking:
            slot = lifecycle.pool.open(target.key.endpoint, target.key, clock())
            if slot is None:
                break
            lacking -= 1
            context = keeper.context.copy()
            keeper.begun(slot, lifecycle.start_connecting(slot, target, context))
        if lifecycle.lessee is not None:
            lifecycle.lessee.wish_for(keeper, target.key.endpoint, lacking)

    def _wake_all(self) -> None:
        for keeper in self.keepers.values():
            keeper.wake()

    def _wake(self, slot: Slot) -> None:
        if not self.keepers:
            return
        key: Any = slot.key
        keeper = self.keepers.get(key.base())
        if keeper is None:
            return
        if slot.crowded_out:
            keeper.rest()
        else:
            keeper.wake()


class Keeper:
    """Keeps the connections of one handshake idle, and tracks failures.

    ``keep_up(keeper)`` begins as many handshakes as :meth:`lacking` returns.  Only its creator
    keeps a keeper alive.
    """

    __slots__ = (
        "__weakref__",
        "_is_due",
        "_keep_up",
        "_loop",
        "_on_probation",
        "_pauses",
        "_session_name",
        "_timer",
        "_under_way",
        "context",
        "rotated",
        "target",
        "wanted",
    )

    def __init__(
        self,
        target: Target,
        loop: asyncio.AbstractEventLoop,
        keep_up: Callable[["Keeper"], None],
        session_name: str | None,
    ) -> None:
        self.target = target
        self._session_name = session_name
        self.wanted = 0
        #: Context of the last call; handshakes and failures are traced and logged in it.
        self.context: Context = copy_context()
        self._loop = loop
        self._keep_up = keep_up
        self._timer: asyncio.Handle | None = None
        # Whether the next look happens in the next turn of the loop.
        self._is_due = False
        # Handshakes under way, with the keys with which they began.
        self._under_way: dict[Slot, Hashable] = {}
        #: The last connection, if its reply replaced cookies of its request.  A new connection then
        #: may make the previous ones useless, so only one is opened at a time.
        self.rotated: Slot | None = None
        # New connections that were not used yet, with the time of their opening.
        self._on_probation: list[tuple[float, Slot]] = []
        self._pauses = Pauses()

    def want(self, target: Target, wanted: int) -> None:
        """Keep ``wanted`` connections idle."""
        self.target = target
        self.wanted = wanted
        self.context = copy_context()
        self.look()

    def stop(self) -> set[Slot]:
        """Stop; return the handshakes that are under way."""
        self.wanted = 0
        if self._timer is not None:
            self._timer.cancel()
        under_way, self._under_way = self._under_way, {}
        return set(under_way)

    # -- looking ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Evaluate recent handshakes, begin new ones, and set the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_due = False
        now = clock()
        try:
            self._judge(now)
            self._keep_up(self)
        finally:
            pause = self._pauses.not_before - now
            delay = pause if 0 < pause < _PERIOD else _PERIOD
            if self.wanted:
                self._timer = self._loop.call_later(
                    delay, _call_look, weakref.ref(self), context=self.context.copy()
                )

    def wake(self) -> None:
        """Look in the next turn of the loop, after a change."""
        if self.wanted and not self._is_due:
            self._is_due = True
            if self._timer is not None:
                self._timer.cancel()
            # Not in the context of the code that acquired or closed a connection.
            self._timer = self._loop.call_soon(
                _call_look, weakref.ref(self), context=self.context.copy()
            )

    def rest(self) -> None:
        """Begin no handshakes for a while: there is no room for idle connections."""
        self._pauses.not_before = max(self._pauses.not_before, clock() + _REST)

    def lacking(self, spare: int) -> int:
        """Return how many handshakes to begin, if ``spare`` connections are idle or under way."""
        if clock() < self._pauses.not_before:
            return 0
        # A connection that has already ended is judged after the end of its handshake.
        unjudged = sum(slot.reason >= 0 for slot in self._under_way)
        lacking = max(0, self.wanted - spare - unjudged)
        if self.rotated is not None:
            lacking = 0 if spare or self._under_way else min(lacking, 1)
        if self._pauses.failures:
            # One at a time, until a connection has proved good.
            lacking = min(lacking, 0 if self._under_way or self._on_probation else 1)
        return lacking

    # -- tracking handshakes ---------------------------------------------------------------------

    def begun(self, slot: Slot, finished: "asyncio.Future[Any]") -> None:
        """Record that a handshake began; ``finished`` ends with it."""
        self._under_way[slot] = slot.key
        finished.add_done_callback(partial(_call_ended, weakref.ref(self), slot))

    def failed(self, failure: HandshakeFailure | str, begun: float) -> None:
        """Record that a handshake failed or is late, or that a new connection ended at once."""
        pause = self._pauses.failed(begun, clock())
        if pause is None:
            return
        if isinstance(failure, str):
            fields = {"error": failure, "status": None, "detail": ""}
        else:
            fields = fields_of_failure(failure)
        failures = self._pauses.failures
        if failures == 1:
            self._log("min_idle_failing", retry_in=pause, **fields)
        else:
            self._log("min_idle_unchanged", failures=failures, retry_in=pause, **fields)

    def _ended(self, slot: Slot, finished: "asyncio.Future[Any]") -> None:
        if slot not in self._under_way:
            # The keeper was stopped.
            return
        key: Any = self._under_way.pop(slot)
        # A cancelled handshake gave way to a caller that needed the place, or was drained.
        if not finished.cancelled():
            failure = finished.result()
            if failure is None:
                self.rotated = slot if key.cookies and key != slot.key else None
                self._on_probation.append((clock(), slot))
            else:
                self.failed(HandshakeFailure.of(failure.error), slot.born)
        self.wake()

    def _judge(self, now: float) -> None:
        """Evaluate the newest handshakes and connections."""
        for slot in [slot for slot in self._under_way if slot.late]:
            # It may still succeed, but is no longer expected to.
            del self._under_way[slot]
            self.failed("late", slot.born)
        undecided = []
        for since, slot in self._on_probation:
            if slot.state in (CLOSING, GONE) and not slot.uses:
                if slot.reason in _SERVERS_DOING:
                    self.failed(CLOSE_REASONS[slot.reason], slot.born)
            elif slot.uses or now - since >= _PROBATION:
                self._turned_out_well(slot)
            else:
                undecided.append((since, slot))
        self._on_probation = undecided

    def _turned_out_well(self, slot: Slot) -> None:
        failures = self._pauses.ended(slot.born)
        if failures:
            seconds = clock() - self._pauses.failing_since
            self._log("min_idle_recovered", failures=failures, seconds=seconds)

    def _log(self, event: str, **fields: Any) -> None:
        endpoint = str(self.target.endpoint)
        log(event, session_name=self._session_name, endpoint=endpoint, **fields)

    def __repr__(self) -> str:
        """Return the endpoint and the number; everything else may be secret."""
        return f"<Keeper({self.target.endpoint}) wanted={self.wanted}>"


def _call_keep_up(this: Callable[[], Keeping | None], keeper: Keeper) -> None:
    keeping = this()
    if keeping is not None:
        keeping._keep_up(keeper)


def _call_look(this: Callable[[], Keeper | None]) -> None:
    keeper = this()
    if keeper is not None:
        keeper.look()


def _call_ended(
    this: Callable[[], Keeper | None], slot: Slot, finished: "asyncio.Future[Any]"
) -> None:
    keeper = this()
    if keeper is not None:
        keeper._ended(slot, finished)
