"""A pool of a core with a clock, for the tests of the core alone."""

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from aiowebsocketclient._pool_py import CLOSE_REASONS, COUNTERS, GAUGES

NEVER = float("inf")


class Driver:
    """A pool with a clock, and what the last operation's plan says.

    The first item of a handshake's key is its endpoint's: "a1" and "a2" are at "a".
    """

    def __init__(self, core: ModuleType, **limits: float) -> None:
        self.core = core.Pool(**limits)
        self.now = 0.0
        self._plan(None)

    def _plan(self, plan: Any) -> None:
        self.opened = [] if plan is None else plan.opened
        self.closing = [] if plan is None else plan.closing
        self.woken = [] if plan is None else plan.woken

    def acquire(self, key: Any) -> Any:
        return self.core.acquire(key, self.now)

    def request(self, key: Any, may_wait: bool = True) -> Any:
        waiter, plan = self.core.request(key[0], key, self.now, may_wait)
        self._plan(plan)
        return waiter

    def take(self, waiter: Any) -> Any:
        return self.core.take(waiter)

    def give_up(self, waiter: Any, timed_out: bool = False) -> None:
        self._plan(self.core.give_up(waiter, self.now, timed_out))

    def connected(
        self, slot: Any, retires: float = NEVER, key: Hashable = None, moves: bool = True
    ) -> None:
        self._plan(self.core.connected(slot, self.now, retires, key, moves))

    def failed(self, slot: Any) -> Any:
        owner, plan = self.core.connect_failed(slot, self.now)
        self._plan(plan)
        return owner

    def release(self, slot: Any) -> None:
        self._plan(self.core.release(slot, self.now))

    def discard(self, slot: Any, reason: str = "lost") -> None:
        self._plan(self.core.discard(slot, CLOSE_REASONS.index(reason), self.now))

    def closed(self, slot: Any) -> None:
        self._plan(self.core.closed(slot, self.now))

    def open(self, key: Any) -> Any:
        return self.core.open(key[0], key, self.now)

    def abandon(self, slot: Any) -> None:
        self.core.abandon(slot, self.now)

    def stop(self, slot: Any) -> None:
        self._plan(self.core.stop(slot))

    def begin(self, slot: Any) -> None:
        self.core.begin(slot, self.now)

    def resize(self, limit: int = 0, limit_total: int = 0) -> None:
        self._plan(self.core.resize(limit, limit_total, self.now))

    def lead(self, places: int, keep: int | None = None, holds: bool = False) -> None:
        keep = places if keep is None else keep
        self._plan(self.core.lead(places, keep, self.now, holds))

    def stop_opening(self) -> None:
        self._plan(self.core.stop_opening(self.now))

    def drain(self, *keys: Any) -> None:
        self._plan(self.core.drain(frozenset(keys) or None))

    def put_back(self, slot: Any) -> None:
        self._plan(self.core.put_back(slot, self.now))

    def retire(self, slot: Any) -> None:
        self._plan(self.core.retire(slot))

    def evict(self, count: int) -> None:
        self._plan(self.core.evict(count))

    def detach(self, slot: Any) -> None:
        self._plan(self.core.detach(slot, self.now))

    def expire(self) -> None:
        self._plan(self.core.expire(self.now))

    def shutdown(self, *, spares_used: bool = False) -> list[Any]:
        waiters, plan = self.core.shutdown(CLOSE_REASONS.index("forced"), self.now, spares_used)
        self._plan(plan)
        return waiters

    # -- several operations at once --------------------------------------------------------------

    def opening(self, key: Any) -> tuple[Any, Any]:
        """Return a caller, and the handshake that was begun for it."""
        waiter = self.request(key)
        (slot,) = self.opened
        assert slot.owner is waiter
        return waiter, slot

    def beginning(self, key: Any) -> tuple[Any, Any]:
        """Do the same for a handshake that does not wait for anything else first."""
        waiter, slot = self.opening(key)
        self.begin(slot)
        return waiter, slot

    def given_up(self, key: Any) -> Any:
        """Return a handshake that its caller has given up."""
        waiter, slot = self.beginning(key)
        self.give_up(waiter)
        return slot

    def hold(self, key: Any, retires: float = NEVER) -> Any:
        """Return a new connection in a caller's hands."""
        waiter, slot = self.opening(key)
        self.connected(slot, retires)
        assert self.take(waiter) is slot
        return slot

    def idle(self, key: Any, retires: float = NEVER) -> Any:
        """Return a new connection that was used once."""
        slot = self.hold(key, retires)
        self.release(slot)
        return slot

    def orphan(self, key: Any) -> Any:
        """Return a handshake whose caller has left."""
        waiter, slot = self.opening(key)
        self.give_up(waiter)
        assert slot.owner is None
        return slot

    def lose(self, slot: Any) -> None:
        """Let a connection end, socket and all; the plan is that of the freed place."""
        self.discard(slot)
        self.closed(slot)

    # -- what can be seen ------------------------------------------------------------------------

    def gauge(self, name: str) -> int:
        return self.core.gauges()[GAUGES.index(name)]

    def counter(self, name: str) -> float:
        return self.core.counters()[COUNTERS.index(name)]

    def size(self, name: str) -> int:
        return self.core.sizes()[name]

    def did_nothing(self) -> bool:
        return not any((self.opened, self.closing, self.woken))

    def is_empty(self) -> bool:
        """Whether no record is left of anything; heaps are cleared on occasion."""
        sizes = self.core.sizes()
        return not any(size for name, size in sizes.items() if not name.endswith("_heap"))


Drive = Callable[..., Driver]
