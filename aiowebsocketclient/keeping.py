"""Keeps idle connections at hand: what ``set_min_idle()`` asks for.

A :class:`Keeper` says how many handshakes are to be begun, and when; :class:`Keeping` begins them.
It is told of connections that are closed, and looks once a second besides, since who takes an idle
connection tells nobody.  It has a timer, and no task that could be cancelled.
"""

import asyncio
import random
import weakref
from collections.abc import Callable, Hashable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Protocol

from ._compat import Pool, Slot, clock
from ._pool_py import CLOSE_REASONS, CLOSING, GONE, IDLE
from .keys import HandshakeKey, Target
from .lifecycle import Failure
from .logs import log
from .settings import Settings

__all__ = ("Keeper", "Keeping")

# Seconds between two looks at what is there.
_PERIOD: Final = 1.0

# The longest pause after a first failure; each further one doubles it. Pauses are anything up to
# that at random, so that the clients of a server that comes back do not all come at once.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0

# Seconds for which nothing is opened after a connection was closed since too many were idle: what
# would be opened at once would be closed soon, or another one for it.
_REST: Final = 10.0

# Seconds after which a new connection has shown that the server does not end each at once.
_PROBATION: Final = 1.0
_SERVERS_DOING: Final = {CLOSE_REASONS.index("lost"), CLOSE_REASONS.index("dirty")}


class Opening(Protocol):
    """What :class:`Keeping` needs of a lifecycle."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    settings: Settings

    def arm(self) -> None:
        """Let the pool's timer go off in time."""

    def close_acquired(self, slot: Slot, reason: str) -> None:
        """Close a connection."""

    def start_connecting(
        self, slot: Slot, target: Target, context: Context
    ) -> asyncio.Future[Failure | None]:
        """Begin a handshake; returns what ends with it."""
        ...

    def when_place_left(self, callback: Callable[[Slot], None]) -> None:
        """Call this, held weakly, with the slot of each connection that is gone."""

    def with_cookies(self, target: Target) -> Target:
        """Return a target with the cookies and the environment of now."""
        ...


class Keeping:
    """What ``set_min_idle()`` asked for, of all handshakes."""

    __slots__ = ("__weakref__", "_lifecycle", "_on_look", "keepers")

    def __init__(self, lifecycle: Opening) -> None:
        self._lifecycle = lifecycle
        #: By handshake; its cookies may change.
        self.keepers: dict[HandshakeKey, Keeper] = {}
        # What a keeper calls must not keep alive what the user of the session has dropped.
        self._on_look = partial(_call_keep_up, weakref.ref(self))
        lifecycle.when_place_left(self._wake)

    def keep(self, target: Target, wanted: int) -> None:
        """Keep so many connections of a handshake idle from now on; 0: no more."""
        keeper = self.keepers.get(target.key)
        if wanted:
            if keeper is None:
                lifecycle = self._lifecycle
                keeper = Keeper(target, lifecycle.loop, self._on_look, lifecycle.settings.name)
                self.keepers[target.key] = keeper
            keeper.want(target, wanted)
        elif keeper is not None:
            del self.keepers[target.key]
            for slot in keeper.stop():
                self._lifecycle.pool.abandon(slot, clock())
            self._lifecycle.arm()

    def stop(self) -> None:
        """Keep nothing any more."""
        for keeper in self.keepers.values():
            keeper.stop()
        self.keepers.clear()

    def _keep_up(self, keeper: "Keeper") -> None:
        """Open what is lacking of the connections that are to be idle."""
        lifecycle = self._lifecycle
        try:
            target = lifecycle.with_cookies(keeper.target)
        except Exception as exc:
            # The cookie jar of client_session failed.
            keeper.failed(type(exc).__name__, clock())
            return
        last = keeper.rotated
        if last is not None and last.state == IDLE and not last.uses and last.key != target.key:
            # Others have replaced the cookies since. Such connections would pile up.
            lifecycle.close_acquired(last, "evicted")
        spare = lifecycle.pool.spare_count(target.key, keeper.wanted)
        for _ in range(keeper.lacking(spare)):
            slot = lifecycle.pool.open(target.key.endpoint, target.key, clock())
            if slot is None:
                break
            context = keeper.context.copy()
            keeper.begun(slot, lifecycle.start_connecting(slot, target, context))

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
    """How many connections of one handshake are to be idle, and how that goes.

    ``keep_up(keeper)`` begins handshakes: as many as :meth:`lacking` says.  Nothing here keeps the
    keeper alive but whoever made it.
    """

    __slots__ = (
        "__weakref__",
        "_failed_at",
        "_failing_since",
        "_failures",
        "_is_due",
        "_keep_up",
        "_loop",
        "_not_before",
        "_on_probation",
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
        #: Of who asked for it: what its handshakes and its failures are traced and logged in.
        self.context: Context = copy_context()
        self._loop = loop
        self._keep_up = keep_up
        self._timer: asyncio.Handle | None = None
        # Whether the next look is in the next turn of the loop.
        self._is_due = False
        # Handshakes, with the keys that they were begun with.
        self._under_way: dict[Slot, Hashable] = {}
        #: The last connection, if its reply replaced cookies that it was asked with.  Then each may
        #: make all before it useless, and no more than one is opened at a time.
        self.rotated: Slot | None = None
        # New connections that nobody has used yet, with the time since when they are open.
        self._on_probation: list[tuple[float, Slot]] = []
        self._failures = 0
        self._failing_since = 0.0
        self._failed_at = self._not_before = float("-inf")

    def want(self, target: Target, wanted: int) -> None:
        """Keep ``wanted`` connections idle from now on."""
        self.target = target
        self.wanted = wanted
        self.context = copy_context()
        self.look()

    def stop(self) -> set[Slot]:
        """Begin nothing more; returns the handshakes that are under way."""
        self.wanted = 0
        if self._timer is not None:
            self._timer.cancel()
        under_way, self._under_way = self._under_way, {}
        return set(under_way)

    # -- looking ---------------------------------------------------------------------------------

    def look(self) -> None:
        """See to it that there is what is wanted."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_due = False
        now = clock()
        try:
            self._judge(now)
            self._keep_up(self)
        finally:
            pause = self._not_before - now
            delay = pause if 0 < pause < _PERIOD else _PERIOD
            if self.wanted:
                self._timer = self._loop.call_later(
                    delay, _call_look, weakref.ref(self), context=self.context.copy()
                )

    def wake(self) -> None:
        """Look in the next turn of the loop: something has changed."""
        if self.wanted and not self._is_due:
            self._is_due = True
            if self._timer is not None:
                self._timer.cancel()
            # Not in the context of whoever has taken, or closed, a connection.
            self._timer = self._loop.call_soon(
                _call_look, weakref.ref(self), context=self.context.copy()
            )

    def rest(self) -> None:
        """Begin nothing for a while: there is no room for what is idle."""
        self._not_before = max(self._not_before, clock() + _REST)

    def lacking(self, spare: int) -> int:
        """Return how many handshakes may be begun, where so many connections are idle or to be."""
        if clock() < self._not_before:
            return 0
        # A connection that has ended already is judged once its handshake is known to be over.
        unjudged = sum(slot.reason >= 0 for slot in self._under_way)
        lacking = max(0, self.wanted - spare - unjudged)
        if self.rotated is not None:
            lacking = 0 if spare or self._under_way else min(lacking, 1)
        if self._failures:
            # One at a time, until one has turned out well.
            lacking = min(lacking, 0 if self._under_way or self._on_probation else 1)
        return lacking

    # -- how it goes -----------------------------------------------------------------------------

    def begun(self, slot: Slot, finished: "asyncio.Future[Any]") -> None:
        """Take it that a handshake was begun, with which ``finished`` ends."""
        self._under_way[slot] = slot.key
        finished.add_done_callback(partial(_call_ended, weakref.ref(self), slot))

    def failed(self, error: str, begun: float) -> None:
        """Record that a handshake failed or is late, or that a new connection ended at once."""
        if begun < self._failed_at:
            # Of those begun together one counts.
            return
        now = clock()
        if not self._failures:
            self._failing_since = now
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        pause = longest * random.random()
        self._failures += 1
        self._failed_at = now
        self._not_before = now + pause
        if self._failures == 1:
            self._log("min_idle_failing", error=error, retry_in=pause)
        else:
            self._log("min_idle_unchanged", error=error, failures=self._failures, retry_in=pause)

    def _ended(self, slot: Slot, finished: "asyncio.Future[Any]") -> None:
        if slot not in self._under_way:
            # Nothing is kept any more.
            return
        key: Any = self._under_way.pop(slot)
        # Cancelled: it gave way to a caller that needed the place, or was drained.
        if not finished.cancelled():
            failure = finished.result()
            if failure is None:
                self.rotated = slot if key.cookies and key != slot.key else None
                self._on_probation.append((clock(), slot))
            else:
                self.failed(type(failure.error).__name__, slot.born)
        self.wake()

    def _judge(self, now: float) -> None:
        """See what has become of the newest handshakes and connections."""
        for slot in [slot for slot in self._under_way if slot.late]:
            # It may still come to a connection, but is not counted on.
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
        if self._failures and slot.born >= self._failed_at:
            seconds = clock() - self._failing_since
            self._log("min_idle_recovered", failures=self._failures, seconds=seconds)
            self._failures = 0

    def _log(self, event: str, **fields: Any) -> None:
        endpoint = str(self.target.endpoint)
        log(event, session_name=self._session_name, endpoint=endpoint, **fields)

    def __repr__(self) -> str:
        """Return only what is no secret."""
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
