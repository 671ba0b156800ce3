"""The core alone: who gets what, what is opened and closed for it, and what is kept."""

import time
from collections.abc import Callable, Hashable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from aiowebsocketclient._pool_py import (
    ACQUIRED,
    CLOSE_REASONS,
    CLOSING,
    CONNECTING,
    COUNTERS,
    FIRST_PATIENCE,
    GAUGES,
    GONE,
    IDLE,
    LATE_FACTOR,
    LATE_FLOOR,
    MAX_PASSED_OVER,
    ORPHAN_GRACE,
)

from .conftest import told

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
        waiter, plan = self.core.request(key[0], key, None, self.now, may_wait)
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

    def shutdown(self) -> list[Any]:
        waiters, plan = self.core.shutdown(CLOSE_REASONS.index("forced"), self.now)
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


@pytest.fixture
def drive(core: ModuleType) -> Drive:
    return partial(Driver, core)


# -- idle connections ----------------------------------------------------------------------------


def test_release_with_nobody_waiting_parks(drive: Drive) -> None:
    pool = drive()
    slot = pool.hold("a1")
    pool.release(slot)
    assert slot.state == IDLE
    assert not pool.closing
    assert pool.core.gauges() == (0, 0, 1, 0, 0, 1)


def test_idle_connection_is_handed_out(drive: Drive) -> None:
    pool = drive()
    slot = pool.idle("a1")
    assert pool.acquire("a1") is slot
    assert slot.state == ACQUIRED
    assert slot.uses == 2
    assert pool.acquire("a1") is None


def test_last_in_is_first_out(drive: Drive) -> None:
    pool = drive()
    slots = [pool.hold("a1") for _ in range(3)]
    for slot in slots:
        pool.release(slot)
    assert [pool.acquire("a1") for _ in range(3)] == slots[::-1]


def test_unknown_handshake_has_nothing_idle(drive: Drive) -> None:
    pool = drive()
    pool.idle("a1")
    assert pool.acquire("a2") is None
    assert pool.acquire("b1") is None
    assert pool.size("handshakes") == 1


def test_request_gives_what_is_idle(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.idle("a1")
    waiter = pool.request("a1")
    assert not waiter.queued
    assert not pool.woken
    assert pool.take(waiter) is slot
    assert pool.take(waiter) is None


def test_connection_idle_too_long_is_not_handed_out(drive: Drive) -> None:
    pool = drive(max_idle=10.0)
    slot = pool.idle("a1")
    pool.now = 9.75
    assert pool.acquire("a1") is slot
    pool.release(slot)
    pool.now = 19.75
    assert pool.acquire("a1") is None
    assert slot.state == IDLE


def test_connection_past_its_lifetime_is_not_handed_out(drive: Drive) -> None:
    pool = drive()
    pool.idle("a1", retires=10.0)
    pool.now = 10.0
    assert pool.acquire("a1") is None


def test_connection_past_its_lifetime_is_closed_at_release(drive: Drive) -> None:
    pool = drive()
    slot = pool.hold("a1", retires=10.0)
    pool.now = 10.0
    pool.release(slot)
    assert pool.closing == [slot]
    assert pool.counter("closed_lifetime") == 1


def test_connection_past_its_lifetime_goes_to_no_waiter(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1", retires=10.0)
    waiter = pool.request("a1")
    pool.now = 10.0
    pool.release(slot)
    assert not pool.woken
    assert pool.closing == [slot]
    pool.closed(slot)
    assert pool.opened == [waiter.opening]


def test_request_closes_stale_ones_and_takes_the_fresh_one_below(drive: Drive) -> None:
    pool = drive()
    fresh, stale = pool.hold("a1"), pool.hold("a1", retires=10.0)
    pool.release(fresh)
    pool.release(stale)
    pool.now = 10.0
    waiter = pool.request("a1")
    assert pool.closing == [stale]
    assert not pool.opened
    assert pool.take(waiter) is fresh


@pytest.mark.parametrize(("retires", "reason"), [(NEVER, "idle"), (10.0, "lifetime")])
def test_request_says_why_it_closed_a_stale_one(drive: Drive, retires: float, reason: str) -> None:
    pool = drive(max_idle=10.0)
    slot = pool.idle("a1", retires)
    pool.now = 10.0
    pool.request("a1")
    assert pool.closing == [slot]
    assert pool.counter(f"closed_{reason}") == 1


def test_what_follows_a_stale_connection_is_pooled(drive: Drive) -> None:
    pool = drive(max_idle=10.0)
    pool.idle("a1")
    pool.now = 10.0
    slot = pool.idle("a1")
    assert pool.core.open_count("a1") == 1
    assert pool.acquire("a1") is slot


def test_callers_that_find_a_stale_connection_keep_to_the_limit(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=3, max_connecting=1, max_idle=10.0)
    stale, held = pool.idle("a1"), pool.hold("c1")
    waiter, slot = pool.opening("b1")
    rival = pool.request("b2")
    pool.now = 10.0
    caller = pool.request("a1")
    assert pool.closing == [stale]
    # Now the oldest of all can use a place; the stale one's goes to it.
    pool.connected(slot)
    pool.closed(stale)
    assert pool.opened == [rival.opening]
    assert caller.queued
    assert set(pool.core.by_endpoint()) == {"a", "b", "c"}
    pool.lose(held)
    assert pool.opened == [caller.opening]
    pool.connected(caller.opening)
    pool.failed(rival.opening)
    pool.lose(pool.take(waiter))
    pool.hold("a1")
    pool.request("a1")
    assert pool.did_nothing()
    assert pool.core.gauges() == (0, 2, 0, 0, 1, 1)


# -- limits --------------------------------------------------------------------------------------


def test_caller_queues_at_the_limit(drive: Drive) -> None:
    pool = drive(limit=2)
    for _ in range(2):
        pool.hold("a1")
    waiter = pool.request("a1")
    assert waiter.queued
    assert waiter.opening is None
    assert not pool.opened
    assert pool.gauge("waiting") == 1


def test_limit_is_per_endpoint(drive: Drive) -> None:
    pool = drive(limit=1)
    for key in ("a1", "b1", "c1"):
        pool.hold(key)
    assert len(pool.core) == 3
    pool.request("a2")
    assert not pool.opened


def test_limit_total_is_over_endpoints(drive: Drive) -> None:
    pool = drive(limit_total=2)
    pool.hold("a1")
    pool.hold("b1")
    pool.request("c1")
    assert not pool.opened
    assert pool.gauge("waiting") == 1


def test_zero_is_no_limit(drive: Drive) -> None:
    pool = drive(limit=0, limit_total=0, max_connecting=0)
    for _ in range(300):
        pool.opening("a1")
    assert pool.gauge("connecting") == 300


def test_max_connecting_bounds_the_handshakes_of_an_endpoint(drive: Drive) -> None:
    pool = drive(max_connecting=2)
    (_, first), (_, second) = pool.opening("a1"), pool.opening("a2")
    third, fourth = pool.request("a1"), pool.request("a3")
    assert not pool.opened
    pool.opening("b1")
    pool.connected(second)
    assert pool.opened == [third.opening]
    pool.failed(first)
    assert pool.opened == [fourth.opening]


def test_place_is_free_only_when_its_socket_is_closed(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiter = pool.request("a1")
    pool.discard(slot)
    assert slot.state == CLOSING
    assert not pool.opened
    assert waiter.opening is None
    assert pool.core.gauges() == (0, 0, 0, 1, 1, 1)
    pool.closed(slot)
    assert slot.state == GONE
    assert pool.opened == [waiter.opening]


def test_connection_is_discarded_and_closed_once(drive: Drive) -> None:
    pool = drive()
    slot = pool.idle("a1")
    pool.discard(slot, "lost")
    pool.discard(slot, "user")
    pool.closed(slot)
    pool.closed(slot)
    pool.discard(slot, "user")
    assert pool.counter("closed_lost") == 1
    assert pool.counter("closed_user") == 0
    assert pool.is_empty()


def test_idle_connection_that_ends_leaves_the_free_list(drive: Drive) -> None:
    pool = drive()
    first, second, third = (pool.hold("a1") for _ in range(3))
    for slot in (first, second, third):
        pool.release(slot)
    pool.discard(second)
    assert pool.acquire("a1") is third
    assert pool.acquire("a1") is first
    assert pool.acquire("a1") is None


# -- queues --------------------------------------------------------------------------------------


def test_released_connection_goes_to_who_came_first(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiters = [pool.request("a1") for _ in range(4)]
    for waiter in waiters:
        pool.release(slot)
        assert pool.woken == [waiter]
        assert slot.waiter is waiter
        assert not waiter.queued
        assert pool.take(waiter) is slot
    pool.release(slot)
    assert slot.state == IDLE


def test_nobody_overtakes_a_waiter(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiter = pool.request("a1")
    pool.release(slot)
    assert pool.acquire("a1") is None
    late = pool.request("a1")
    assert late.queued
    assert pool.take(waiter) is slot


def test_freed_place_goes_to_the_oldest_of_the_endpoint(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiters = [pool.request(key) for key in ("a2", "a1", "a3")]
    for waiter in waiters:
        pool.lose(slot)
        (slot,) = pool.opened
        assert slot.owner is waiter
        assert slot.key == waiter.handshake.key
        pool.connected(slot)
        assert pool.take(waiter) is slot


def test_freed_place_goes_to_the_oldest_of_all_endpoints(drive: Drive) -> None:
    pool = drive(limit_total=3)
    slots = [pool.hold(key) for key in ("a1", "b1", "b1")]
    waiters = [pool.request(key) for key in ("c1", "b2", "a2")]
    for waiter, slot in zip(waiters, slots, strict=True):
        pool.lose(slot)
        assert pool.opened == [waiter.opening]


def test_freed_place_passes_by_who_stands_at_its_own_limit(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=2)
    first, second = pool.hold("a1"), pool.hold("b1")
    older, younger = pool.request("a2"), pool.request("c1")
    pool.lose(second)
    assert pool.opened == [younger.opening]
    pool.lose(first)
    assert pool.opened == [older.opening]


def test_max_waiting_zero_never_queues(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=0)
    slot = pool.hold("a1")
    assert pool.request("a1") is None
    assert pool.counter("rejected") == 1
    pool.release(slot)
    assert pool.take(pool.request("a1")) is slot


def test_max_waiting_bounds_the_line_of_an_endpoint(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=2)
    pool.hold("a1")
    pool.hold("b1")
    first, _ = pool.request("a1"), pool.request("a2")
    assert pool.request("a3") is None
    assert pool.request("b1") is not None
    pool.give_up(first)
    assert pool.request("a3") is not None
    assert pool.request("a3") is None


def test_rejection_changes_nothing(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=0)
    pool.hold("a1")
    gauges, sizes = pool.core.gauges(), pool.core.sizes()
    assert pool.request("a2") is None
    assert pool.did_nothing()
    assert (pool.core.gauges(), pool.core.sizes()) == (gauges, sizes)


def test_max_waiting_admits_who_can_be_placed(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=2, max_waiting=0)
    idle = pool.idle("a1")
    assert pool.request("a2") is not None
    assert pool.closing == [idle]
    other = pool.idle("b1")
    assert pool.request("c1") is not None
    assert pool.closing == [other]


def test_max_waiting_admits_who_takes_over_a_handshake(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=0)
    slot = pool.orphan("a1")
    waiter = pool.request("a1")
    assert slot.owner is waiter


def test_place_cleared_for_another_endpoint_admits_nobody_here(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=2, max_waiting=0)
    pool.hold("a1")
    idle = pool.idle("b1")
    pool.request("c1")
    assert pool.closing == [idle]
    assert pool.request("a1") is None


def test_place_cleared_for_an_older_one_elsewhere_admits_nobody_here(drive: Drive) -> None:
    pool = drive(limit_total=2, max_waiting=1)
    pool.hold("c1")
    idle = pool.idle("c2")
    older = pool.request("b1")
    assert pool.closing == [idle]
    assert pool.request("a1") is not None
    assert pool.request("a1") is None
    pool.closed(idle)
    assert pool.opened == [older.opening]


@pytest.mark.parametrize("limits", [{"limit": 1}, {"limit_total": 1}])
def test_place_cleared_for_who_left_admits_the_next(drive: Drive, limits: dict[str, int]) -> None:
    pool = drive(max_waiting=0, **limits)
    idle = pool.idle("a1")
    pool.give_up(pool.request("a2"))
    assert idle.state == CLOSING
    waiter = pool.request("a3")
    assert waiter is not None
    assert pool.request("a3") is None
    pool.closed(idle)
    assert pool.opened == [waiter.opening]


def test_max_waiting_holds_where_max_connecting_is_what_lacks(drive: Drive) -> None:
    pool = drive(limit=3, max_connecting=1, max_waiting=1)
    for slot in [pool.hold("a1") for _ in range(3)]:
        pool.release(slot)
    # One place is being cleared, one caller may wait; there is no third handshake to begin.
    pool.request("a2")
    pool.request("a2")
    assert pool.request("a2") is None


def test_max_waiting_holds_where_the_endpoint_has_no_more_places(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=2, max_waiting=0)
    first, second = pool.idle("b1"), pool.idle("c1")
    pool.request("a1")
    assert pool.closing == [first]
    # The other idle connection is of no use to one more.
    assert pool.request("a1") is None
    assert second.state == IDLE


def test_who_may_not_wait_gets_only_what_is_idle(drive: Drive) -> None:
    pool = drive()
    assert pool.request("a1", may_wait=False) is None
    assert pool.is_empty()
    assert pool.counter("timeouts") == 1
    slot = pool.idle("a1")
    assert pool.take(pool.request("a1", may_wait=False)) is slot


def test_who_may_not_wait_evicts_nothing(drive: Drive) -> None:
    pool = drive(limit=1)
    pool.idle("a1")
    assert pool.request("a2", may_wait=False) is None
    assert not pool.closing
    pool.open("b1")
    assert pool.request("b1", may_wait=False) is None


# -- giving way ----------------------------------------------------------------------------------


def test_idle_connection_of_another_handshake_gives_way(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.idle("a1")
    waiter = pool.request("a2")
    assert pool.closing == [slot]
    assert not pool.opened
    assert pool.counter("closed_evicted") == 1
    pool.closed(slot)
    assert pool.opened == [waiter.opening]


def test_longest_idle_of_the_endpoint_gives_way(drive: Drive) -> None:
    pool = drive(limit=3)
    slots = [pool.hold(key) for key in ("a1", "a2", "a1")]
    pool.idle("b1")
    for slot in (slots[1], slots[2], slots[0]):
        pool.now += 1.0
        pool.release(slot)
    for slot in (slots[1], slots[2], slots[0]):
        pool.request("a3")
        assert pool.closing == [slot]
    pool.request("a3")
    assert not pool.closing


def test_longest_idle_of_all_endpoints_gives_way(drive: Drive) -> None:
    pool = drive(limit_total=3)
    slots = [pool.hold(key) for key in ("a1", "b1", "c1")]
    for slot in (slots[1], slots[2], slots[0]):
        pool.now += 1.0
        pool.release(slot)
    # It is the longest idle one no more.
    pool.now += 1.0
    pool.release(pool.acquire("b1"))
    for slot in (slots[2], slots[0], slots[1]):
        pool.request("d1")
        assert pool.closing == [slot]
    pool.request("d1")
    assert not pool.closing


def test_nothing_gives_way_below_the_limit(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=2)
    pool.idle("a1")
    pool.request("a2")
    assert pool.opened
    assert not pool.closing


def test_nothing_gives_way_where_max_connecting_is_what_lacks(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=2, max_connecting=1)
    pool.idle("a1")
    pool.opening("a2")
    pool.request("a3")
    assert not pool.closing


def test_released_connection_nobody_wants_gives_way(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    pool.request("a2")
    pool.release(slot)
    assert pool.closing == [slot]


def test_released_connection_gives_way_to_another_endpoint(drive: Drive) -> None:
    pool = drive(limit_total=1)
    slot = pool.hold("a1")
    waiter = pool.request("b1")
    pool.release(slot)
    assert pool.closing == [slot]
    pool.closed(slot)
    assert pool.opened == [waiter.opening]


def test_each_waiter_has_one_place_cleared(drive: Drive) -> None:
    pool = drive(limit=3)
    for slot in [pool.hold("a1") for _ in range(3)]:
        pool.release(slot)
    first = pool.request("a2")
    assert len(pool.closing) == 1
    pool.give_up(first)
    assert not pool.closing
    # What was being cleared for the first serves the second.
    pool.request("a2")
    assert not pool.closing
    pool.request("a2")
    assert len(pool.closing) == 1


@pytest.mark.parametrize(
    ("limits", "other"), [({"limit": 1}, "a2"), ({"limit_total": 1}, "b1")], ids=str
)
def test_places_are_cleared_again_and_again(
    drive: Drive, limits: dict[str, int], other: str
) -> None:
    pool = drive(**limits)
    idle = pool.idle("a1")
    for key in (other, "a1", other, "a1"):
        waiter = pool.request(key)
        assert pool.closing == [idle]
        pool.closed(idle)
        assert pool.opened == [waiter.opening]
        pool.connected(waiter.opening)
        idle = pool.take(waiter)
        pool.release(idle)


def test_handshakes_nobody_waits_for_give_way_first(drive: Drive) -> None:
    pool = drive(limit=2)
    pool.idle("a1")
    orphan = pool.orphan("a2")
    waiter = pool.request("a3")
    assert pool.closing == [orphan]
    assert orphan.state == CLOSING
    pool.closed(orphan)
    assert pool.opened == [waiter.opening]


def test_handshakes_nobody_waits_for_give_way_to_other_endpoints(drive: Drive) -> None:
    pool = drive(limit_total=2)
    pool.idle("a1")
    orphan = pool.open("b1")
    waiter = pool.request("c1")
    assert pool.closing == [orphan]
    pool.closed(orphan)
    assert pool.opened == [waiter.opening]


def test_handshakes_nobody_waits_for_give_way_under_max_connecting(drive: Drive) -> None:
    pool = drive(max_connecting=1)
    orphan = pool.orphan("a1")
    waiter = pool.request("a2")
    assert pool.closing == [orphan]
    # It begins while the other one is stopped: only the latter's place is still taken.
    assert pool.opened == [waiter.opening]
    assert pool.core.gauges() == (1, 0, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("limits", "idle"), [({"limit": 2}, "a9"), ({"limit_total": 2}, "b1")], ids=str
)
def test_nothing_else_gives_way_for_who_gets_a_handshakes_place(
    drive: Drive, limits: dict[str, int], idle: str
) -> None:
    pool = drive(**limits, max_connecting=1)
    pool.idle(idle)
    orphan = pool.orphan("a1")
    waiter = pool.request("a2")
    assert pool.closing == [orphan]
    pool.closed(orphan)
    assert pool.opened == [waiter.opening]
    assert not pool.closing


def test_handshake_given_up_gives_way_at_once(drive: Drive) -> None:
    pool = drive(limit=1)
    waiter, slot = pool.opening("a1")
    other = pool.request("a2")
    pool.give_up(waiter)
    assert pool.closing == [slot]
    pool.closed(slot)
    assert pool.opened == [other.opening]


def test_all_handshakes_that_must_give_way_do_so_at_once(drive: Drive) -> None:
    pool = drive(limit=3, max_connecting=3)
    orphans = [pool.open("a1") for _ in range(3)]
    closing = []
    for _ in range(3):
        pool.request("a2")
        closing += pool.closing
    assert closing == orphans


def test_place_from_another_endpoint_clears_the_next_one_here(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=3)
    older = pool.idle("b1")
    pool.hold("b2")
    pool.now = 1.0
    idle = pool.idle("a1")
    first, second = pool.request("a2"), pool.request("a3")
    assert first.queued
    assert older.state == CLOSING
    pool.closed(older)
    assert pool.opened == [first.opening]
    # Now the second stands at the limit of its endpoint, where one is idle.
    assert second.queued
    assert idle.state == CLOSING


def test_place_from_another_endpoint_stops_handshakes_nobody_waits_for(drive: Drive) -> None:
    pool = drive(limit_total=2, max_connecting=2)
    idle = pool.idle("b1")
    leaver, orphan = pool.opening("a1")
    first, second = pool.request("a2"), pool.request("a3")
    assert first.queued
    pool.give_up(leaver)
    pool.closed(idle)
    assert first.opening is not None
    assert second.queued
    assert orphan.state == CLOSING


# -- fairness between handshakes -----------------------------------------------------------------


def pass_over(pool: Driver, slot: Any, times: int) -> None:
    """Release a connection to one waiter of its own after the other."""
    for _ in range(times):
        pool.release(slot)
        (waiter,) = pool.woken
        assert waiter.handshake.key == slot.key
        pool.take(waiter)


@pytest.mark.parametrize(
    ("limits", "other"), [({"limit": 1}, "a2"), ({"limit_total": 1}, "b1")], ids=str
)
def test_oldest_waiter_is_passed_over_a_few_times_only(
    drive: Drive, limits: dict[str, int], other: str
) -> None:
    pool = drive(**limits)
    slot = pool.hold("a1")
    rival = pool.request(other)
    for _ in range(MAX_PASSED_OVER + 3):
        pool.request("a1")
    pass_over(pool, slot, MAX_PASSED_OVER)
    assert rival.passed == MAX_PASSED_OVER
    pool.release(slot)
    assert not pool.woken
    assert pool.closing == [slot]
    pool.closed(slot)
    assert pool.opened == [rival.opening]


def test_younger_waiter_is_not_passed_over(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=1)
    slot = pool.hold("a1")
    for _ in range(MAX_PASSED_OVER + 3):
        pool.request("a1")
    younger = [pool.request("a2"), pool.request("b1")]
    pass_over(pool, slot, MAX_PASSED_OVER + 3)
    assert [waiter.passed for waiter in younger] == [0, 0]


@pytest.mark.parametrize(
    ("limits", "idle", "other"),
    [({"limit": 2}, "a9", "a2"), ({"limit_total": 2}, "b9", "b1")],
    ids=str,
)
def test_who_has_a_place_being_cleared_is_not_passed_over(
    drive: Drive, limits: dict[str, int], idle: str, other: str
) -> None:
    pool = drive(**limits)
    slot = pool.hold("a1")
    giving = pool.idle(idle)
    rival = pool.request(other)
    assert pool.closing == [giving]
    for _ in range(MAX_PASSED_OVER + 3):
        pool.request("a1")
    pass_over(pool, slot, MAX_PASSED_OVER + 3)
    assert rival.passed == 0
    pool.closed(giving)
    assert pool.opened == [rival.opening]


def test_who_could_not_use_the_place_is_not_passed_over(drive: Drive) -> None:
    pool = drive(limit=2, max_connecting=1)
    slot = pool.hold("a1")
    pool.opening("a2")
    rival = pool.request("a3")
    pool.request("a1")
    pass_over(pool, slot, 1)
    assert rival.passed == 0


def test_who_is_passed_over_is_the_oldest_of_all_endpoints(drive: Drive) -> None:
    pool = drive(limit=1, limit_total=1)
    slot = pool.hold("a1")
    older, younger = pool.request("b1"), pool.request("a2")
    for _ in range(MAX_PASSED_OVER + 1):
        pool.request("a1")
    pass_over(pool, slot, MAX_PASSED_OVER)
    assert (older.passed, younger.passed) == (MAX_PASSED_OVER, 0)
    pool.release(slot)
    pool.closed(slot)
    assert pool.opened == [older.opening]


def test_connection_that_is_lost_is_no_reason_to_pass_over_again(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    rival = pool.request("a2")
    late = pool.request("a1")
    pass_over(pool, slot, 1)
    assert not late.queued
    pool.lose(slot)
    assert pool.opened == [rival.opening]


def test_waiter_that_came_back_is_not_passed_over_by_older_ones(drive: Drive) -> None:
    pool = drive(limit=2)
    slot, fragile = pool.hold("a1"), pool.hold("a2")
    for _ in range(MAX_PASSED_OVER + 3):
        pool.request("a1")
    returned = pool.request("a2")
    pool.release(fragile)
    pool.discard(fragile)
    pass_over(pool, slot, MAX_PASSED_OVER + 3)
    assert returned.passed == 0
    pool.closed(fragile)
    assert pool.opened == [returned.opening]


@pytest.mark.parametrize(
    ("limits", "line"), [({"limit": 2}, "a"), ({"limit_total": 2}, "b")], ids=str
)
def test_waiter_that_came_back_hides_nobody_who_is_passed_over(
    drive: Drive, limits: dict[str, int], line: str
) -> None:
    pool = drive(**limits)
    slot, fragile = pool.hold("a1"), pool.hold(line + "3")
    rival = pool.request(line + "2")
    for _ in range(MAX_PASSED_OVER + 3):
        pool.request("a1")
    # It stands in front of the oldest, but is younger than all that are served.
    returned = pool.request(line + "3")
    pool.release(fragile)
    assert pool.woken == [returned]
    pool.discard(fragile)
    assert returned.queued
    for _ in range(MAX_PASSED_OVER + 3):
        pool.release(slot)
        if slot.state == CLOSING:
            break
        pool.take(slot.waiter)
    assert rival.passed > MAX_PASSED_OVER
    assert slot.state == CLOSING


# -- handshakes under way ------------------------------------------------------------------------


def test_handshake_serves_who_came_first(drive: Drive) -> None:
    pool = drive()
    (first, slot1), (second, slot2) = pool.opening("a1"), pool.opening("a1")
    pool.connected(slot2)
    assert pool.woken == [first]
    assert slot1.owner is second
    pool.connected(slot1)
    assert pool.woken == [second]


def test_handshake_of_who_is_served_otherwise_passes_on(drive: Drive) -> None:
    pool = drive(limit=2)
    slot = pool.hold("a1")
    first, opening = pool.opening("a1")
    second, third = pool.request("a1"), pool.request("a1")
    pool.release(slot)
    assert pool.woken == [first]
    assert opening.owner is second
    assert second.opening is opening
    assert third.opening is None
    pool.connected(opening)
    assert pool.woken == [second]


def test_handshake_left_with_nobody_is_pooled(drive: Drive) -> None:
    pool = drive(limit=2)
    slot = pool.hold("a1")
    _, opening = pool.opening("a1")
    pool.release(slot)
    assert opening.owner is None
    assert pool.size("orphans") == 1
    pool.connected(opening)
    assert opening.state == IDLE
    assert pool.acquire("a1") is opening
    assert pool.size("orphans") == 0


def test_finished_handshake_nobody_wants_gives_way(drive: Drive) -> None:
    pool = drive(limit=1, max_connecting=1)
    waiter, slot = pool.opening("a1")
    pool.connected(slot)
    pool.request("a2")
    pool.give_up(waiter)
    pool.release(pool.take(waiter))
    assert pool.closing == [slot]


def test_caller_takes_over_a_handshake_nobody_waits_for(drive: Drive) -> None:
    pool = drive()
    slot = pool.orphan("a1")
    waiter = pool.request("a1")
    assert not pool.opened
    assert slot.owner is waiter
    assert waiter.opening is slot
    pool.connected(slot)
    assert pool.woken == [waiter]


def test_handshake_given_up_passes_to_the_next(drive: Drive) -> None:
    pool = drive(limit=1)
    first, slot = pool.opening("a1")
    second, third = pool.request("a1"), pool.request("a1")
    pool.give_up(first)
    assert slot.owner is second
    assert third.opening is None
    assert not pool.closing


def test_failed_handshake_fails_its_owner_only(drive: Drive) -> None:
    pool = drive(limit=1)
    first, slot = pool.opening("a1")
    second, third = pool.request("a1"), pool.request("a1")
    assert pool.failed(slot) is first
    assert slot.state == GONE
    assert not first.queued
    assert pool.opened == [second.opening]
    assert third.queued


def test_failed_handshake_fails_whom_it_passed_to(drive: Drive) -> None:
    pool = drive(limit=2)
    slot = pool.hold("a1")
    _, opening = pool.opening("a1")
    second = pool.request("a1")
    pool.release(slot)
    assert pool.failed(opening) is second


def test_failed_handshake_nobody_waits_for_fails_nobody(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.open("a1")
    assert pool.failed(slot) is None
    assert pool.is_empty()
    assert pool.counter("connect_errors") == 1


def test_new_connection_goes_to_its_caller_past_its_lifetime_too(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.now = 10.0
    pool.connected(slot, retires=5.0)
    assert pool.woken == [waiter]


def test_new_connection_nobody_wants_past_its_lifetime_is_closed(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    pool.now = 10.0
    pool.connected(slot, retires=5.0)
    assert pool.closing == [slot]


# -- giving up -----------------------------------------------------------------------------------


def test_who_gave_up_is_skipped(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    first, second = pool.request("a1"), pool.request("a1")
    pool.give_up(first)
    assert not first.queued
    pool.release(slot)
    assert pool.woken == [second]


def test_giving_up_lets_the_next_begin(drive: Drive) -> None:
    pool = drive(max_connecting=1)
    first, slot = pool.opening("a1")
    second = pool.request("a2")
    pool.give_up(first)
    assert pool.closing == [slot]
    assert pool.opened == [second.opening]


@pytest.mark.parametrize("timed_out", [False, True])
def test_only_timeouts_are_counted(drive: Drive, timed_out: bool) -> None:
    pool = drive(limit=1)
    pool.hold("a1")
    waiter = pool.request("a1")
    pool.give_up(waiter, timed_out)
    pool.give_up(waiter, timed_out)
    assert pool.counter("timeouts") == timed_out


def test_who_may_not_wait_and_loses_what_it_was_given(drive: Drive) -> None:
    pool = drive(limit=3)
    slots = [pool.hold(key) for key in ("a1", "a1", "a2")]
    for slot in slots:
        pool.release(slot)
    first, second, other = slots
    waiter = pool.request("a1", may_wait=False)
    pool.discard(second)
    assert pool.woken == [waiter]
    assert waiter.slot is first
    pool.discard(first)
    # Nothing is opened or closed for it.
    assert pool.did_nothing()
    assert other.state == IDLE
    assert not waiter.queued
    assert pool.take(waiter) is None
    pool.give_up(waiter, True)
    assert pool.counter("timeouts") == 1
    # One whose time is up likewise.
    waiter = pool.request("a2")
    waiter.may_wait = False
    pool.discard(other)
    assert pool.did_nothing()
    assert pool.counter("timeouts") == 2


def test_who_gives_up_too_late_has_a_connection(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    first, second = pool.request("a1"), pool.request("a1")
    pool.release(slot)
    # A timeout all the same, if it does not want it any more.
    assert pool.core.give_up(first, pool.now, True) is None
    assert pool.counter("timeouts") == 1
    assert pool.take(first) is slot
    assert pool.core.give_up(first, pool.now, True) is None
    assert pool.counter("timeouts") == 1
    pool.release(slot)
    assert pool.woken == [second]


# -- connections that die between gift and wake --------------------------------------------------


def test_waiter_whose_connection_died_is_next_again(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    first, second = pool.request("a1"), pool.request("a1")
    pool.release(slot)
    pool.discard(slot)
    assert first.queued
    assert pool.take(first) is None
    pool.closed(slot)
    assert pool.opened == [first.opening]
    assert second.opening is None


def test_waiter_whose_connection_died_is_at_the_head_of_the_endpoint(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    other, waiter = pool.request("a2"), pool.request("a1")
    pool.release(slot)
    assert pool.woken == [waiter]
    pool.lose(slot)
    assert pool.opened == [waiter.opening]
    assert other.queued


def test_waiter_whose_connection_died_gets_another_idle_one(drive: Drive) -> None:
    pool = drive(limit=2)
    first, second = pool.hold("a1"), pool.hold("a1")
    waiter = pool.request("a1")
    pool.release(first)
    pool.release(second)
    assert second.state == IDLE
    pool.discard(first)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is second


def test_waiter_whose_connection_died_gets_no_stale_one(drive: Drive) -> None:
    pool = drive(limit=2)
    first, second = pool.hold("a1"), pool.hold("a1", retires=10.0)
    waiter = pool.request("a1")
    pool.release(first)
    pool.release(second)
    pool.now = 10.0
    pool.discard(first)
    assert waiter.queued
    assert pool.closing == [second]
    pool.closed(second)
    assert pool.opened == [waiter.opening]


def test_waiter_whose_connection_died_takes_its_handshake_back(drive: Drive) -> None:
    pool = drive(limit=2)
    slot = pool.hold("a1")
    waiter, opening = pool.opening("a1")
    pool.release(slot)
    assert opening.owner is None
    pool.discard(slot)
    assert opening.owner is waiter
    assert pool.size("orphans") == 0


def test_waiter_whose_connection_died_is_served_by_the_next_release(drive: Drive) -> None:
    pool = drive(limit=2)
    first, second = pool.hold("a1"), pool.hold("a1")
    waiter, late = pool.request("a1"), pool.request("a1")
    pool.release(first)
    pool.discard(first)
    pool.release(second)
    assert pool.woken == [waiter]
    assert late.queued


def test_waiters_whose_connections_died_keep_their_order(drive: Drive) -> None:
    pool = drive(limit=3)
    slots = [pool.hold("a1") for _ in range(3)]
    waiters = [pool.request("a1") for _ in range(4)]
    for slot in slots:
        pool.release(slot)
    for slot in (slots[1], slots[0], slots[2]):
        pool.discard(slot)
    for slot, waiter in zip(slots, waiters, strict=False):
        pool.closed(slot)
        assert pool.opened == [waiter.opening]
    assert waiters[3].queued


def test_waiter_with_its_handshake_back_keeps_its_turn(drive: Drive) -> None:
    pool = drive()
    slot = pool.hold("a1")
    (first, slot1), (second, slot2), (third, slot3) = (pool.opening("a1") for _ in range(3))
    pool.release(slot)
    pool.discard(slot)
    assert slot1.owner is first
    for waiter, opening in ((first, slot3), (second, slot1), (third, slot2)):
        pool.connected(opening)
        assert pool.woken == [waiter]


def test_waiter_whose_handshake_served_an_older_one_keeps_its_turn(drive: Drive) -> None:
    pool = drive(limit=4)
    slot, fragile = pool.hold("a1"), pool.hold("a2")
    (first, _), (second, opening) = pool.opening("a1"), pool.opening("a1")
    third, fourth = pool.request("a1"), pool.request("a2")
    late = pool.request("a3")
    pool.release(slot)
    pool.discard(slot)
    assert third.opening is not None
    # The first is back without a handshake, and takes what the second waited for.
    pool.connected(opening)
    assert pool.woken == [first]
    assert second.queued
    # Another one comes back, but had not arrived before the second.
    pool.release(fragile)
    assert pool.woken == [fourth]
    pool.discard(fragile)
    pool.closed(slot)
    assert pool.opened == [second.opening]
    pool.closed(fragile)
    assert pool.opened == [fourth.opening]
    assert late.queued


def test_waiter_given_something_at_once_keeps_its_turn_too(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.idle("a1")
    first, second = pool.request("a1"), pool.request("a1")
    assert first.slot is slot
    assert first.ticket < second.ticket
    pool.discard(slot)
    pool.closed(slot)
    assert pool.opened == [first.opening]


def test_connection_that_dies_after_it_was_taken_concerns_nobody(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiter = pool.request("a1")
    pool.release(slot)
    pool.take(waiter)
    pool.discard(slot)
    assert not waiter.queued
    pool.closed(slot)
    assert pool.is_empty()


def test_time_is_not_counted_twice_for_who_came_back(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiter = pool.request("a1")
    pool.now = 3.0
    pool.release(slot)
    pool.lose(slot)
    pool.now = 4.0
    pool.connected(waiter.opening)
    assert pool.woken == [waiter]
    assert pool.counter("wait_seconds") == 4.0


def test_reuse_is_not_counted_for_who_did_not_get_it(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.hold("a1")
    waiter = pool.request("a1")
    pool.release(slot)
    assert pool.woken == [waiter]
    pool.lose(slot)
    assert pool.counter("reused") == 0
    slot = waiter.opening
    pool.connected(slot)
    pool.release(pool.take(waiter))
    pool.release(pool.acquire("a1"))
    assert pool.counter("reused") == 1


# -- time ----------------------------------------------------------------------------------------


def test_unused_connections_expire(drive: Drive) -> None:
    pool = drive(max_idle=10.0)
    first, used, other = pool.hold("a1"), pool.hold("a1"), pool.hold("b1")
    for slot in (first, used, other):
        pool.release(slot)
        pool.now += 1.0
    assert pool.core.next_deadline() == 10.0
    pool.now = 9.75
    pool.expire()
    assert not pool.closing
    assert pool.acquire("a1") is used
    pool.release(used)
    pool.now = 12.0
    pool.expire()
    assert pool.closing == [first, other]
    assert pool.counter("closed_idle") == 2
    assert pool.core.next_deadline() == 19.75


def test_connections_past_their_lifetime_expire(drive: Drive) -> None:
    pool = drive()
    lasting, first, second = (
        pool.idle(key, retires) for key, retires in (("a1", NEVER), ("a2", 10.0), ("b1", 20.0))
    )
    in_use = pool.hold("a3", retires=10.0)
    pool.now = 10.0
    pool.expire()
    assert pool.closing == [first]
    pool.now = 20.0
    pool.expire()
    assert pool.closing == [second]
    assert pool.counter("closed_lifetime") == 2
    assert lasting.state == IDLE
    assert in_use.state == ACQUIRED


def test_handshakes_nobody_waits_for_expire(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.now = 2.0
    assert pool.core.next_deadline() == NEVER
    pool.give_up(waiter)
    assert pool.core.next_deadline() == 2.0 + ORPHAN_GRACE
    pool.now = 1.75 + ORPHAN_GRACE
    pool.expire()
    assert not pool.closing
    pool.now = 2.0 + ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [slot]
    assert pool.core.gauges() == (0, 0, 0, 1, 0, 1)


def test_handshakes_taken_over_do_not_expire(drive: Drive) -> None:
    pool = drive()
    pool.orphan("a1")
    pool.request("a1")
    pool.now = 100.0
    pool.expire()
    assert not pool.closing
    assert pool.core.next_deadline() == NEVER


def test_opened_handshakes_expire_once_they_are_abandoned(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    pool.now = 100.0
    pool.expire()
    assert not pool.closing
    assert pool.core.next_deadline() == NEVER
    pool.abandon(slot)
    assert pool.core.next_deadline() == 100.0 + ORPHAN_GRACE
    pool.now = 100.0 + ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [slot]


def test_handshake_abandoned_again_expires_no_later(drive: Drive) -> None:
    pool = drive()
    first, second = pool.open("a1"), pool.open("a1")
    pool.abandon(first)
    pool.now = 1.0
    pool.abandon(second)
    pool.now = 2.0
    pool.abandon(first)
    assert pool.core.next_deadline() == ORPHAN_GRACE
    pool.now = 1.0 + ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [first, second]


def test_deadline_is_that_of_the_first_to_expire(drive: Drive) -> None:
    pool = drive()
    opened = pool.open("a1")
    pool.now = 1.0
    orphan = pool.orphan("a2")
    pool.now = 4.0
    pool.abandon(opened)
    assert pool.core.next_deadline() == 1.0 + ORPHAN_GRACE
    pool.now = 1.0 + ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [orphan]


def test_deadline_of_nothing_is_never(drive: Drive) -> None:
    assert drive().core.next_deadline() == NEVER
    pool = drive(max_idle=10.0)
    pool.hold("a1")
    assert pool.core.next_deadline() == NEVER


# -- setting aside -------------------------------------------------------------------------------


def test_what_is_set_aside_is_nobodys_use(drive: Drive) -> None:
    pool = drive()
    first, other = pool.hold("a1"), pool.hold("a2")
    elsewhere = pool.hold("b1")
    for slot in (first, other, elsewhere):
        pool.release(slot)
    assert pool.core.idle_beside(first) == [first, other]
    before = pool.core.counters()
    pool.core.set_aside(first)
    assert pool.core.idle_beside(first) == [other]
    assert pool.acquire("a1") is None
    waiter = pool.request("a1")
    pool.put_back(first)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is first
    pool.release(first)
    pool.core.set_aside(first)
    pool.put_back(first)
    assert first.state == IDLE
    names = ("released", "reused", "requests")
    after = dict(zip(COUNTERS, pool.core.counters(), strict=True))
    changed = {n: after[n] - dict(zip(COUNTERS, before, strict=True))[n] for n in names}
    assert changed == {"released": 1, "reused": 1, "requests": 1}


def test_only_what_is_idle_is_set_aside_and_only_what_is_in_use_put_back(drive: Drive) -> None:
    pool = drive()
    slot = pool.hold("a1")
    with pytest.raises(ValueError, match="only an idle slot can be set aside"):
        pool.core.set_aside(slot)
    pool.release(slot)
    with pytest.raises(ValueError, match="only an acquired slot can be put back"):
        pool.put_back(slot)


# -- handshakes that hang ------------------------------------------------------------------------


def test_handshake_that_was_given_up_is_not_counted_on(drive: Drive) -> None:
    pool = drive()
    hung = pool.given_up("a1")
    waiter, slot = pool.opening("a1")
    assert hung.doubted
    assert slot is not hung
    assert pool.core.open_count("a1") == 1
    assert pool.core.spare_count("a1", 9) == 0
    # It may serve all the same, whoever is first.
    pool.connected(hung)
    assert pool.woken == [waiter]
    assert slot.owner is None
    assert not slot.doubted


def test_handshake_that_has_not_begun_is_counted_on(drive: Drive) -> None:
    """It waits for a limit of connects, say, and another would wait longer."""
    pool = drive()
    orphan = pool.orphan("a1")
    waiter = pool.request("a1")
    assert not orphan.doubted
    assert waiter.opening is orphan


def test_grace_counts_from_when_it_was_first_given_up(drive: Drive) -> None:
    pool = drive(limit=1)
    hung = pool.given_up("a1")
    for second in (1.0, 2.0, 3.0, 4.0):
        pool.now = second
        waiter = pool.request("a1")
        # No room for another: it leans on this one.
        assert waiter.opening is hung
        assert not pool.closing
        pool.give_up(waiter)
        pool.expire()
        assert not pool.closing
    assert pool.core.next_deadline() < ORPHAN_GRACE
    waiter = pool.request("a1")
    pool.now = ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [hung]
    pool.closed(hung)
    assert pool.opened == [waiter.opening]


def test_who_leans_on_it_gets_another_as_soon_as_there_is_room(drive: Drive) -> None:
    pool = drive(limit=2)
    used, hung = pool.hold("a1"), pool.given_up("a1")
    waiter = pool.request("a1")
    assert waiter.opening is hung
    pool.lose(used)
    assert pool.opened == [waiter.opening]
    assert waiter.opening is not hung
    assert hung.owner is None


def test_who_leans_on_it_gets_a_place_that_another_endpoint_sets_free(drive: Drive) -> None:
    pool = drive(limit_total=2)
    used, hung = pool.hold("b1"), pool.given_up("a1")
    waiter = pool.request("a1")
    assert waiter.opening is hung
    pool.lose(used)
    assert pool.opened == [waiter.opening]
    assert waiter.opening is not hung


@pytest.mark.parametrize(
    "limits", [{"limit": 1}, {"limit_total": 1}, {"max_connecting": 1}], ids=str
)
def test_what_was_given_up_gives_way_to_who_has_waited_longer(
    drive: Drive, limits: dict[str, int]
) -> None:
    """Not to the next of its kind, which has come later."""
    pool = drive(**limits)
    first, slot = pool.beginning("a1")
    other, next_of_its_kind = pool.request("a2"), pool.request("a1")
    pool.give_up(first)
    assert pool.closing == [slot]
    pool.closed(slot)
    assert other.opening is not None
    assert next_of_its_kind.opening is None


@pytest.mark.parametrize(
    "limits", [{"limit": 1}, {"limit_total": 1}, {"max_connecting": 1}], ids=str
)
def test_who_comes_later_does_not_lean_on_what_an_older_waiter_needs(
    drive: Drive, limits: dict[str, int]
) -> None:
    pool = drive(**limits)
    first, slot = pool.beginning("a1")
    leaning = pool.request("a1")
    pool.give_up(first)
    assert leaning.opening is slot
    other = pool.request("a2")
    pool.give_up(leaning)
    assert pool.closing == [slot]
    late = pool.request("a1")
    assert late.opening is None
    pool.closed(slot)
    assert other.opening is not None


@pytest.mark.parametrize(
    ("limits", "idle"), [({"limit": 2}, "a2"), ({"limit_total": 2}, "b1")], ids=str
)
@pytest.mark.parametrize("is_orphan", [False, True])
def test_nobody_leans_where_something_else_can_give_way(
    drive: Drive, limits: dict[str, int], idle: str, is_orphan: bool
) -> None:
    """What a slow server may still answer is kept; what is idle goes, or another's handshake."""
    pool = drive(**limits)
    other = pool.orphan(idle) if is_orphan else pool.idle(idle)
    hung = pool.given_up("a1")
    waiter = pool.request("a1")
    assert waiter.opening is None
    assert pool.closing == [other]
    pool.closed(other)
    assert pool.opened == [waiter.opening]
    pool.connected(hung)
    assert pool.woken == [waiter]


def test_who_leans_on_it_fails_with_it(drive: Drive) -> None:
    pool = drive(limit=1)
    hung = pool.given_up("a1")
    waiter = pool.request("a1")
    assert pool.failed(hung) is waiter
    assert not pool.opened


def test_who_waits_in_line_leans_on_what_is_given_up(drive: Drive) -> None:
    pool = drive(limit=1)
    first, slot = pool.beginning("a1")
    second = pool.request("a1")
    pool.give_up(first)
    assert second.opening is slot
    assert not pool.closing
    pool.connected(slot)
    assert pool.woken == [second]


@pytest.mark.parametrize("limits", [{"limit": 3}, {"limit_total": 3}], ids=str)
def test_it_gives_way_before_all_others(drive: Drive, limits: dict[str, int]) -> None:
    pool = drive(**limits)
    idle, orphan, hung = pool.idle("a2"), pool.orphan("a4"), pool.given_up("a1")
    for victim in (hung, orphan, idle):
        pool.request("a3")
        assert pool.closing == [victim]


def test_with_max_connecting_it_gives_way_to_others_only(drive: Drive) -> None:
    pool = drive(max_connecting=1)
    hung = pool.given_up("a1")
    waiter = pool.request("a1")
    assert waiter.opening is hung
    pool.give_up(waiter)
    other = pool.request("a2")
    assert pool.closing == [hung]
    assert pool.opened == [other.opening]


def usual(pool: Driver, key: str, seconds: float) -> None:
    """Let a handshake take so long, and its connection be gone again but for one in use."""
    waiter, slot = pool.beginning(key)
    pool.now += seconds
    pool.connected(slot)
    pool.take(waiter)


@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_a_late_handshake_gets_another_beside_it(drive: Drive, seconds: float) -> None:
    pool = drive()
    usual(pool, "a1", seconds)
    waiter, hung = pool.beginning("a2")
    begun = pool.now
    patience = max(LATE_FLOOR, LATE_FACTOR * seconds)
    pool.now = begun + 0.9 * patience
    pool.expire()
    assert waiter.opening is hung
    pool.now = begun + patience + LATE_FLOOR
    pool.expire()
    assert pool.opened == [waiter.opening]
    assert hung.late
    assert hung.owner is None
    # Each after it is given twice the time of the last, so that there is no storm.
    for factor in (2, 4):
        later = waiter.opening
        pool.begin(later)
        pool.now += 0.9 * factor * patience
        pool.expire()
        assert waiter.opening is later
        pool.now += 0.1 * factor * patience + LATE_FLOOR
        pool.expire()
        assert pool.opened == [waiter.opening]
        assert later.late
    assert pool.failed(waiter.opening) is waiter


def test_of_a_late_handshake_and_its_second_the_first_serves(drive: Drive) -> None:
    pool = drive()
    usual(pool, "a1", 0.001)
    waiter, hung = pool.beginning("a1")
    pool.now += 1.0
    pool.expire()
    (second,) = pool.opened
    pool.connected(hung)
    assert pool.woken == [waiter]
    # The other one is counted on by who comes next.
    assert pool.request("a1").opening is second


def test_a_late_handshake_that_fails_fails_nobody(drive: Drive) -> None:
    pool = drive()
    usual(pool, "a1", 0.001)
    waiter, hung = pool.beginning("a1")
    pool.now += 1.0
    pool.expire()
    assert pool.failed(hung) is None
    assert waiter.queued


def test_a_late_handshake_gives_way_to_its_own_caller(drive: Drive) -> None:
    pool = drive(limit=2)
    usual(pool, "a1", 0.001)
    waiter, hung = pool.beginning("a1")
    pool.now += 1.0
    pool.expire()
    assert pool.closing == [hung]
    pool.closed(hung)
    assert pool.opened == [waiter.opening]


def test_before_any_has_succeeded_a_handshake_is_late_after_some_seconds(drive: Drive) -> None:
    pool = drive()
    slots = [pool.open("a1"), pool.open("a1")]
    for slot in slots:
        pool.begin(slot)
    pool.now = FIRST_PATIENCE - 0.01
    pool.expire()
    assert not any(slot.doubted for slot in slots)
    pool.now = FIRST_PATIENCE + LATE_FLOOR
    pool.expire()
    assert all(slot.doubted and not slot.kept for slot in slots)
    # It may be a slow server: the next get more time, and those begun together count once.
    _, next_slot = pool.beginning("a1")
    begun = pool.now
    pool.now = begun + 2 * FIRST_PATIENCE - 0.01
    pool.expire()
    assert not next_slot.late
    pool.now = begun + 2 * (FIRST_PATIENCE + LATE_FLOOR) + LATE_FLOOR
    pool.expire()
    assert next_slot.late


def test_what_is_usual_rises_at_once_and_falls_slowly(drive: Drive) -> None:
    pool = drive()
    usual(pool, "a1", 0.001)
    usual(pool, "a1", 1.0)
    usual(pool, "a1", 0.001)
    _, slot = pool.beginning("a1")
    pool.now += 3.0
    pool.expire()
    assert not slot.late
    pool.now += 1.0
    pool.expire()
    assert slot.late


def test_what_is_late_is_looked_for_while_a_handshake_is_under_way(drive: Drive) -> None:
    pool = drive()
    assert pool.core.next_deadline() == NEVER
    _, slot = pool.beginning("a1")
    assert pool.core.next_deadline() == LATE_FLOOR
    pool.now = 0.6
    pool.expire()
    assert pool.core.next_deadline() == 0.6 + LATE_FLOOR
    pool.connected(slot)
    assert pool.core.next_deadline() == NEVER
    assert pool.size("watched") == 0


def test_what_is_late_is_looked_for_later_where_the_machine_is_busy(drive: Drive) -> None:
    pool = drive()
    usual(pool, "a1", 0.001)
    waiter, slot = pool.beginning("a1")
    pool.now += 2.0
    pool.core.postpone_look(pool.now)
    pool.expire()
    assert waiter.opening is slot
    assert pool.core.next_deadline() == pool.now + LATE_FLOOR
    pool.now += LATE_FLOOR
    pool.expire()
    assert slot.late


def test_a_drained_handshake_is_stopped_once_nobody_has_it(drive: Drive) -> None:
    pool = drive()
    usual(pool, "a1", 0.001)
    waiter, slot = pool.beginning("a1")
    pool.drain()
    pool.now += 1.0
    pool.expire()
    assert pool.closing == [slot]
    assert pool.opened == [waiter.opening]


def test_abandoned_handshakes_are_not_counted_on(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    pool.begin(slot)
    pool.now = 1.0
    pool.abandon(slot)
    assert slot.doubted
    waiter = pool.request("a1")
    assert waiter.opening is not slot


# -- waiters back in the line, beside a handshake that belongs to nobody -------------------------


def unowned(pool: Driver, key: str) -> Any:
    """Return a handshake that belongs to nobody and is counted on."""
    waiter, slot = pool.opening(key)
    # It has not begun, so it is counted on.
    pool.give_up(waiter)
    assert slot.owner is None
    return slot


@pytest.mark.parametrize("limit", [0, 3])
def test_a_waiter_whose_handshake_is_late_gets_an_unowned_one(drive: Drive, limit: int) -> None:
    pool = drive(limit=limit)
    usual(pool, "a1", 0.001)
    waiter, hung = pool.beginning("a1")
    spare = unowned(pool, "a1")
    pool.now += 1.0
    pool.expire()
    assert hung.late
    assert waiter.opening is spare
    assert not pool.opened
    assert not pool.closing


def test_a_waiter_whose_doubted_handshake_is_stopped_gets_an_unowned_one(drive: Drive) -> None:
    pool = drive(limit=2)
    hung = pool.given_up("a1")
    other, spare = pool.opening("a1")
    waiter = pool.request("a1")
    assert waiter.opening is hung
    pool.give_up(other)
    pool.now += ORPHAN_GRACE
    pool.expire()
    assert pool.closing == [hung]
    assert waiter.opening is spare


def test_a_waiter_that_leans_gets_an_unowned_one_where_there_is_room(drive: Drive) -> None:
    pool = drive(limit=3)
    held = pool.hold("a2")
    hung = pool.given_up("a1")
    other, spare = pool.opening("a1")
    waiter = pool.request("a1")
    assert waiter.opening is hung
    pool.give_up(other)
    pool.detach(held)
    assert waiter.opening is spare
    assert not pool.opened


def test_a_waiter_that_loses_its_handshake_gets_an_unowned_one(drive: Drive) -> None:
    pool = drive()
    older, drained = pool.opening("a1")
    pool.drain()
    waiter, slot = pool.opening("a1")
    spare = unowned(pool, "a1")
    pool.connected(slot)
    assert pool.woken == [older]
    assert pool.closing == [drained]
    assert waiter.opening is spare
    assert not pool.opened


def test_a_waiter_whose_handshake_is_of_another_key_gets_an_unowned_one(drive: Drive) -> None:
    pool = drive()
    slot = unowned(pool, "a1")
    waiter = pool.request("a1")
    spare = unowned(pool, "a1")
    pool.connected(slot, key="a2", moves=False)
    assert waiter.opening is spare
    assert not pool.opened


# -- handshakes that no caller waits for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "blocked", "free"),
    [
        ({"limit": 2}, "a2", "b1"),
        ({"limit_total": 2}, "b1", None),
        ({"max_connecting": 2}, "a2", "b1"),
    ],
    ids=str,
)
def test_open_takes_free_places_only(
    drive: Drive, limits: dict[str, int], blocked: str, free: str | None
) -> None:
    pool = drive(**limits)
    assert pool.open("a1").state == CONNECTING
    assert pool.open("a1").kept
    assert pool.open(blocked) is None
    assert pool.size("handshakes") == 1
    assert free is None or pool.open(free)


def test_open_closes_nothing(drive: Drive) -> None:
    pool = drive(limit=1)
    slot = pool.idle("a1")
    assert pool.open("a2") is None
    assert slot.state == IDLE


def test_opened_connection_is_pooled(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    pool.connected(slot)
    assert slot.state == IDLE
    assert pool.acquire("a1") is slot
    assert slot.uses == 1


def test_opened_handshake_keeps_its_welcome(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    waiter = pool.request("a1")
    assert slot.owner is waiter
    pool.give_up(waiter)
    pool.now = 100.0
    pool.expire()
    assert not pool.closing
    assert slot.kept


def test_stop_is_for_what_belongs_to_nobody(drive: Drive) -> None:
    pool = drive()
    waiter = pool.request("a1")
    pool.stop(waiter.opening)
    assert not pool.closing
    slot = pool.open("a2")
    pool.stop(slot)
    assert pool.closing == [slot]
    assert slot.state == CLOSING
    pool.stop(slot)
    assert not pool.closing
    open_one = pool.idle("a3")
    pool.stop(open_one)
    assert open_one.state == IDLE


def test_spare_count_is_of_what_a_caller_would_find(drive: Drive) -> None:
    pool = drive()

    def counts() -> list[int]:
        return [pool.core.spare_count("a1", most) for most in (0, 1, 2, 9)]

    assert counts() == [0, 0, 0, 0]
    held = [pool.hold("a1") for _ in range(3)]
    pool.idle("a2")
    assert counts() == [0, 0, 0, 0]
    for slot in held[:2]:
        pool.release(slot)
    assert counts() == [0, 1, 2, 2]
    for _ in range(2):
        pool.open("a1")
    assert counts() == [2, 2, 2, 4]
    # The first two take what is idle, and the third what is being opened.
    for left in (3, 2, 1):
        pool.request("a1")
        assert pool.core.spare_count("a1", 9) == left


def test_open_count_is_of_connections_not_of_waiters(drive: Drive) -> None:
    pool = drive(limit=4)
    assert pool.core.open_count("a1") == 0
    pool.idle("a1")
    held, _ = pool.acquire("a1"), pool.open("a1")
    pool.idle("a2")
    assert pool.core.open_count("a1") == 2
    pool.request("a1")
    pool.request("a1")
    assert pool.core.open_count("a1") == 3
    pool.request("a1")
    pool.request("a1")
    assert pool.core.open_count("a1") == 3
    pool.discard(held)
    assert pool.core.open_count("a1") == 2


# -- handshakes that turn out to be others -------------------------------------------------------


def test_owner_gets_what_turned_out_otherwise(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.connected(slot, key="a9")
    assert pool.woken == [waiter]
    assert slot.key == "a9"
    assert pool.take(waiter) is slot
    pool.release(slot)
    assert pool.acquire("a1") is None
    assert pool.acquire("a9") is slot
    assert pool.size("handshakes") == 1


def test_waiters_without_a_place_move_along(drive: Drive) -> None:
    pool = drive(limit=1)
    first, slot = pool.opening("a1")
    second, third = pool.request("a1"), pool.request("a1")
    pool.connected(slot, key="a9")
    for waiter in (first, second, third):
        assert pool.woken == [waiter]
        assert pool.take(waiter) is slot
        pool.release(slot)
    assert pool.size("handshakes") == 1


def test_waiters_with_a_handshake_of_their_own_stay(drive: Drive) -> None:
    pool = drive()
    (first, slot1), (second, slot2) = pool.opening("a1"), pool.opening("a1")
    pool.connected(slot1, key="a9")
    assert pool.woken == [first]
    assert slot2.owner is second
    assert second.handshake.key == "a1"
    pool.connected(slot2)
    assert pool.woken == [second]


def test_waiters_that_move_are_served_by_what_is_there(drive: Drive) -> None:
    pool = drive(max_connecting=1)
    idle = pool.idle("a9")
    first, slot = pool.opening("a1")
    second = pool.request("a1")
    pool.connected(slot, key="a9")
    assert pool.woken == [first, second]
    assert {pool.take(first), pool.take(second)} == {idle, slot}


@pytest.mark.parametrize("retires", [NEVER, 3.0])
def test_waiters_that_move_get_no_stale_one(drive: Drive, retires: float) -> None:
    pool = drive(max_connecting=1, max_idle=3.0)
    first, second = pool.hold("a9", retires), pool.hold("a9")
    pool.release(first)
    pool.now = 2.0
    pool.release(second)
    owner, slot = pool.opening("a1")
    waiter = pool.request("a1")
    pool.now = 4.0
    pool.connected(slot, key="a9")
    assert pool.woken == [owner, waiter]
    assert {pool.take(owner), pool.take(waiter)} == {second, slot}
    assert pool.closing == [first]
    reason = "idle" if retires == NEVER else "lifetime"
    assert pool.counter(f"closed_{reason}") == 1


def test_waiters_that_move_take_over_handshakes_nobody_waits_for(drive: Drive) -> None:
    pool = drive(limit=3)
    idle = pool.idle("a8")
    first, slot = pool.opening("a1")
    leaver, orphan = pool.opening("a9")
    second = pool.request("a1")
    assert pool.closing == [idle]
    pool.give_up(leaver)
    pool.connected(slot, key="a9")
    assert pool.woken == [first]
    assert orphan.owner is second
    assert pool.size("orphans") == 0


def test_owner_comes_before_older_ones_of_the_other_kind(drive: Drive) -> None:
    pool = drive()
    older, _ = pool.opening("a9")
    owner, slot = pool.opening("a1")
    pool.connected(slot, key="a9")
    assert pool.woken == [owner]
    assert older.queued


def test_waiters_that_move_line_up_by_arrival(drive: Drive) -> None:
    pool = drive(limit=2)
    slot1 = pool.hold("a9")
    owner, slot2 = pool.opening("a1")
    waiters = [pool.request(key) for key in ("a9", "a1", "a9", "a1")]
    pool.connected(slot2, key="a9")
    assert pool.woken == [owner]
    for waiter in waiters:
        pool.release(slot1)
        assert pool.woken == [waiter]
        assert pool.take(waiter) is slot1


def test_connection_nobody_waits_for_goes_to_waiters_of_its_new_kind(drive: Drive) -> None:
    pool = drive()
    slot = pool.open("a1")
    waiter, opening = pool.opening("a9")
    pool.connected(slot, key="a9")
    assert pool.woken == [waiter]
    assert pool.take(waiter) is slot
    assert opening.owner is None


def test_owner_gets_what_is_for_nobody_else(drive: Drive) -> None:
    pool = drive(limit=1)
    first, slot = pool.opening("a1")
    second = pool.request("a1")
    pool.connected(slot, key="a9", moves=False)
    assert pool.woken == [first]
    assert (slot.key, second.handshake.key) == ("a9", "a1")
    # It is of the waiter's endpoint only, and has to give way.
    assert pool.take(first) is slot
    pool.release(slot)
    assert pool.closing == [slot]
    assert second.queued


def test_owner_whose_own_connection_dies_before_it_wakes(drive: Drive) -> None:
    pool = drive(limit=1)
    owner, slot = pool.opening("a1")
    pool.connected(slot, key="a9", moves=False)
    pool.discard(slot)
    assert owner.queued
    pool.closed(slot)
    (another,) = pool.opened
    assert another.owner is owner
    pool.connected(another, key="a8", moves=False)
    assert pool.take(owner) is another
    pool.release(another)
    assert pool.size("handshakes") == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_who_took_a_handshake_over_does_not_get_what_is_for_nobody_else(
    drive: Drive, limit: int
) -> None:
    pool = drive(limit=limit)
    slot = pool.orphan("a1")
    newcomer = pool.request("a1")
    assert slot.owner is newcomer
    second = pool.request("a1") if limit == 1 else None
    pool.connected(slot, key="a9", moves=False)
    assert pool.woken == []
    if limit == 1:
        assert pool.closing == [slot]
        pool.closed(slot)
    # It comes first, and what is begun for it is its own, whatever that turns out to be.
    (own,) = pool.opened
    assert own.owner is newcomer
    pool.connected(own, key="a8", moves=False)
    assert pool.woken == [newcomer]
    assert pool.take(newcomer) is own
    if limit == 2:
        assert pool.acquire("a9") is slot
    else:
        assert second.queued


def test_what_is_for_nobody_else_goes_to_waiters_of_its_kind(drive: Drive) -> None:
    pool = drive(limit=2)
    slot = pool.orphan("a1")
    newcomer = pool.request("a1")
    held = pool.hold("a9")
    waiter = pool.request("a9")
    pool.connected(slot, key="a9", moves=False)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is slot
    assert newcomer.queued
    assert held.key == "a9"


def test_same_key_changes_nothing(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.connected(slot, key="a1", moves=False)
    assert pool.woken == [waiter]
    assert slot.key == "a1"


# -- resizing ------------------------------------------------------------------------------------


def test_a_raised_limit_lets_in_who_waits(drive: Drive) -> None:
    pool = drive(limit=1)
    pool.hold("a1")
    waiters = [pool.request(key) for key in ("a1", "a2", "a1")]
    pool.resize(limit=3)
    assert [slot.owner for slot in pool.opened] == waiters[:2]
    pool.resize()
    assert [slot.owner for slot in pool.opened] == waiters[2:]


def test_a_raised_total_lets_in_who_waits_longest(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.hold("a1")
    waiters = [pool.request(key) for key in ("b1", "a1", "c1", "b2")]
    pool.resize(limit_total=4)
    assert [slot.owner for slot in pool.opened] == waiters[:3]


def test_a_total_can_come_and_go(drive: Drive) -> None:
    pool = drive(limit=1)
    held, other = pool.hold("a1"), pool.hold("b1")
    waiters = [pool.request("b1"), pool.request("a1")]
    pool.resize(limit=2, limit_total=2)
    assert pool.did_nothing()
    # The oldest first, wherever the place is.
    pool.lose(held)
    assert [slot.owner for slot in pool.opened] == waiters[:1]
    pool.resize(limit=2)
    assert [slot.owner for slot in pool.opened] == waiters[1:]
    pool.lose(other)
    assert pool.did_nothing()


def test_a_lowered_limit_closes_what_is_idle(drive: Drive) -> None:
    pool = drive(limit=4)
    orphan = pool.orphan("a2")
    idle = []
    for slot in [pool.hold("a1") for _ in range(3)]:
        pool.now += 1
        pool.release(slot)
        idle.append(slot)
    pool.resize(limit=2)
    assert pool.closing == [orphan, idle[0]]
    assert pool.counter("closed_evicted") == 1
    pool.resize(limit=2)
    assert pool.did_nothing()
    # Closing ones count all the same.
    assert pool.acquire("a1") is idle[2]
    assert pool.acquire("a1") is idle[1]
    waiter = pool.request("a1")
    pool.closed(orphan)
    pool.closed(idle[0])
    assert pool.did_nothing()
    pool.lose(idle[1])
    assert pool.opened == [waiter.opening]


def test_a_lowered_total_closes_the_longest_idle_of_any_endpoint(drive: Drive) -> None:
    pool = drive(limit_total=4)
    held = [pool.hold(key) for key in ("a1", "b1", "c1", "c1")]
    for slot in held[:3]:
        pool.now += 1
        pool.release(slot)
    pool.resize(limit_total=2)
    assert pool.closing == held[:2]


def test_what_one_limit_closes_counts_for_the_other(drive: Drive) -> None:
    pool = drive()
    slots = [pool.hold(key) for key in ("a1", "b1", "b1")]
    for slot in slots:
        pool.now += 1
        pool.release(slot)
    # The longest idle one is at "a", but the limit for "b" takes one already.
    pool.resize(limit=1, limit_total=2)
    assert pool.closing == [slots[1]]


@pytest.mark.parametrize("limits", [{"limit": 1}, {"limit_total": 1}])
def test_what_is_in_use_is_closed_when_it_falls_free(drive: Drive, limits: dict[str, int]) -> None:
    pool = drive()
    first, second, third = (pool.hold("a1") for _ in range(3))
    pool.resize(**limits)
    assert pool.did_nothing()
    pool.release(first)
    assert pool.closing == [first]
    # Nor is it handed on.
    waiter = pool.request("a1")
    pool.release(second)
    assert pool.closing == [second]
    assert not pool.woken
    pool.closed(first)
    pool.closed(second)
    assert pool.did_nothing()
    pool.release(third)
    assert pool.woken == [waiter]
    pool.take(waiter)
    pool.release(third)
    assert third.state == IDLE


@pytest.mark.parametrize("limits", [{"limit": 1}, {"limit_total": 1}])
def test_what_is_opened_for_a_waiter_is_its_own(drive: Drive, limits: dict[str, int]) -> None:
    pool = drive()
    pool.hold("a1")
    (waiter, slot), (leaver, other) = pool.opening("a1"), pool.opening("a2")
    pool.resize(**limits)
    assert pool.did_nothing()
    # Until there is no waiter any more.
    pool.give_up(leaver)
    assert pool.closing == [other]
    pool.connected(slot)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is slot
    pool.release(slot)
    assert pool.closing == [slot]


def test_nothing_is_closed_for_good_after_a_limit_was_lowered(drive: Drive) -> None:
    pool = drive()
    slots = [pool.hold("a1") for _ in range(3)]
    pool.resize(limit=2)
    for slot in slots:
        pool.release(slot)
    assert slots[0].state == CLOSING
    for _ in range(3):
        slot = pool.acquire("a1")
        pool.release(slot)
        assert slot.state == IDLE


# -- retiring ------------------------------------------------------------------------------------


def test_draining_closes_what_is_idle_now_and_what_is_used_on_release(drive: Drive) -> None:
    pool = drive()
    held = pool.hold("a1")
    idle, elsewhere = pool.idle("a2"), pool.idle("b1")
    pool.drain()
    assert pool.closing == [idle, elsewhere]
    assert held.state == ACQUIRED
    pool.release(held)
    assert pool.closing == [held]
    assert pool.counter("closed_forced") == 3
    assert pool.counter("released") == 3
    pool.closed(idle)
    # What is opened from now on is as good as ever.
    again = pool.idle("a1")
    assert pool.acquire("a1") is again


def test_draining_some_leaves_the_rest(drive: Drive) -> None:
    pool = drive()
    held, drained = pool.hold("a2"), pool.hold("a1")
    idle, other = pool.idle("a1"), pool.idle("a3")
    (waiter, opening), orphan = pool.opening("a2"), pool.orphan("b1")
    pool.drain("a1", "nobody's")
    assert pool.closing == [idle]
    assert (other.state, opening.state, orphan.state) == (IDLE, CONNECTING, CONNECTING)
    pool.release(held)
    assert pool.woken == [waiter]
    pool.release(drained)
    assert pool.closing == [drained]


def test_a_drained_connection_goes_to_no_waiter(drive: Drive) -> None:
    pool = drive(limit=1)
    held = pool.hold("a1")
    waiter = pool.request("a1")
    pool.drain()
    assert pool.did_nothing()
    pool.release(held)
    assert (pool.closing, pool.woken) == ([held], [])
    pool.closed(held)
    (slot,) = pool.opened
    assert slot.owner is waiter


def test_what_was_given_before_it_was_drained_is_in_use(drive: Drive) -> None:
    pool = drive()
    idle = pool.idle("a1")
    waiter = pool.request("a1")
    pool.drain()
    assert pool.did_nothing()
    assert pool.take(waiter) is idle
    pool.release(idle)
    assert pool.closing == [idle]


def test_a_drained_handshake_serves_its_caller(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.drain()
    assert pool.did_nothing()
    pool.connected(slot, retires=1_000.0)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is slot
    pool.release(slot)
    assert pool.closing == [slot]
    assert pool.counter("closed_forced") == 1
    assert pool.counter("closed_lifetime") == 0


def test_a_drained_handshake_nobody_waits_for_is_stopped(drive: Drive) -> None:
    pool = drive()
    orphan, opened = pool.orphan("a1"), pool.open("a1")
    pool.drain()
    assert pool.closing == [orphan, opened]
    assert opened.drained
    assert pool.counter("closed_forced") == 0
    assert pool.core.next_deadline() == NEVER


def test_who_comes_after_a_drain_takes_over_no_handshake_begun_before(drive: Drive) -> None:
    pool = drive(max_connecting=1)
    first, slot = pool.opening("a1")
    pool.drain()
    second = pool.request("a1")
    assert pool.did_nothing()
    pool.give_up(first)
    assert pool.closing == [slot]
    (another,) = pool.opened
    assert another.owner is second


def test_who_is_served_otherwise_leaves_no_drained_handshake_behind(drive: Drive) -> None:
    """The older one is served by what was opened for the younger, which does not get its."""
    pool = drive()
    older, drained = pool.opening("a1")
    pool.drain()
    younger, fresh = pool.opening("a1")
    pool.connected(fresh)
    assert pool.woken == [older]
    assert pool.closing == [drained]
    (another,) = pool.opened
    assert another.owner is younger
    pool.connected(another)
    assert pool.woken == [younger]


def test_retiring_closes_idle_ones_of_a_handshake_that_are_as_old(drive: Drive) -> None:
    pool = drive()
    older, held = pool.hold("a1"), pool.hold("a1")
    pool.now = 1.0
    one, twin = pool.hold("a1"), pool.hold("a1")
    pool.now = 2.0
    younger, other = pool.hold("a1"), pool.hold("a2")
    # What counts is when it was opened, not when it was used.
    for slot in (younger, one, twin, other, older):
        pool.release(slot)
    pool.retire(one)
    assert pool.closing == [older, twin]
    assert pool.counter("closed_forced") == 2
    assert (one.state, younger.state, held.state) == (IDLE, IDLE, ACQUIRED)
    pool.release(held)
    assert held.state == IDLE


# -- a bound to what is idle ---------------------------------------------------------------------


def test_the_longest_idle_of_all_endpoints_goes_when_too_many_are_idle(drive: Drive) -> None:
    pool = drive(max_idle_connections=2)
    slots = [pool.hold(key) for key in ("a1", "b1", "c1", "a2")]
    for slot in slots[:2]:
        pool.now += 1.0
        pool.release(slot)
        assert pool.did_nothing()
    for slot, longest in zip(slots[2:], slots[:2], strict=True):
        pool.now += 1.0
        pool.release(slot)
        assert pool.closing == [longest]
        assert longest.crowded_out
        assert slot.state == IDLE
    assert pool.gauge("idle") == 2
    assert pool.counter("closed_evicted") == 2
    for slot in slots[:2]:
        pool.closed(slot)
    assert pool.gauge("closing") == 0


def test_what_is_used_is_not_the_longest_idle(drive: Drive) -> None:
    pool = drive(max_idle_connections=2)
    first, second = pool.idle("a1"), pool.idle("b1")
    pool.now += 1.0
    assert pool.acquire("a1") is first
    # While it is in use there is room for one more.
    third = pool.idle("c1")
    assert third.state == IDLE
    pool.now += 1.0
    pool.release(first)
    assert pool.closing == [second]


def test_a_connection_that_somebody_waits_for_closes_no_other(drive: Drive) -> None:
    pool = drive(max_idle_connections=1, limit=2)
    held = pool.hold("a1")
    other = pool.idle("b1")
    pool.hold("a1")
    waiter = pool.request("a1")
    pool.release(held)
    assert pool.woken == [waiter]
    assert not pool.closing
    assert other.state == IDLE


def test_a_handshake_that_nobody_waits_for_any_more_closes_the_longest_idle(drive: Drive) -> None:
    pool = drive(max_idle_connections=1)
    idle, orphan = pool.idle("a1"), pool.orphan("b1")
    pool.now += 1.0
    pool.connected(orphan)
    assert pool.closing == [idle]
    assert orphan.state == IDLE


def test_of_those_idle_equally_long_the_one_just_released_may_go(drive: Drive) -> None:
    pool = drive(max_idle_connections=1)
    held = pool.hold("a1")
    other = pool.idle("b1")
    pool.release(held)
    assert pool.closing == [held]
    assert other.state == IDLE


def test_nothing_is_opened_for_nobody_that_would_be_one_too_many(drive: Drive) -> None:
    pool = drive(max_idle_connections=2)
    pool.idle("a1")
    first = pool.open("b1")
    assert first is not None
    assert pool.open("b1") is None
    assert pool.open("z1") is None
    assert pool.size("endpoints") == 2
    pool.connected(first)
    assert pool.did_nothing()
    assert pool.open("b1") is None
    # What is in use is not idle.
    assert pool.acquire("b1") is first
    assert pool.open("b1") is not None


def test_no_bound_to_what_is_idle(drive: Drive) -> None:
    for pool in (drive(), drive(max_idle_connections=0)):
        for slot in [pool.hold(f"{key}1") for key in "ab" for _ in range(100)]:
            pool.release(slot)
            assert not pool.closing


def test_evicting_closes_the_longest_idle_of_all_endpoints(drive: Drive) -> None:
    pool = drive()
    slots = [pool.hold(key) for key in ("a1", "b1", "a2", "b2")]
    for slot in reversed(slots):
        pool.now += 1.0
        pool.release(slot)
    held = pool.hold("c1")
    pool.evict(0)
    assert pool.did_nothing()
    pool.evict(3)
    assert pool.closing == [slots[3], slots[2], slots[1]]
    assert pool.counter("closed_evicted") == 3
    pool.evict(3)
    assert pool.closing == [slots[0]]
    pool.evict(3)
    assert pool.did_nothing()
    assert held.state == ACQUIRED


def test_what_gives_way_was_not_crowded_out(drive: Drive) -> None:
    pool = drive(limit=1, max_idle_connections=5)
    slot = pool.idle("a1")
    pool.request("a2")
    assert pool.closing == [slot]
    assert not slot.crowded_out


def test_a_detached_connection_leaves_its_place_at_once(drive: Drive) -> None:
    pool = drive(limit=1)
    held = pool.hold("a1")
    waiter = pool.request("a2")
    pool.detach(held)
    assert held.state == GONE
    (slot,) = pool.opened
    assert slot.owner is waiter
    assert pool.counter("detached") == 1
    pool.give_up(waiter)
    pool.failed(slot)
    assert pool.is_empty()


def test_detaching_the_last_drops_its_records(drive: Drive) -> None:
    pool = drive()
    pool.detach(pool.hold("a1"))
    assert pool.did_nothing()
    assert pool.is_empty()
    assert pool.counter("detached") == 1


# -- the end -------------------------------------------------------------------------------------


def test_shutdown_returns_all_waiters_and_all_to_close(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=4)
    given, taken = pool.hold("a1"), pool.hold("a1")
    receiver = pool.request("a1")
    pool.release(given)
    opener, opening = pool.opening("b1")
    orphan = pool.open("b2")
    waiters = [pool.request("a1"), pool.request("a2")]
    assert set(pool.shutdown()) == {receiver, opener, *waiters}
    assert set(pool.closing) == {given, taken, opening, orphan}
    assert not pool.opened
    assert not pool.woken
    for waiter in (receiver, opener, *waiters):
        assert not waiter.queued
        assert pool.take(waiter) is None


def test_nothing_is_left_after_shutdown(drive: Drive) -> None:
    pool = drive(limit=2, limit_total=5, max_connecting=1)
    pool.idle("a1")
    pool.hold("a2")
    pool.opening("b1")
    pool.open("c1")
    for key in ("a3", "b1", "b2", "d1"):
        pool.request(key)
    dead = pool.core.slots()[0]
    pool.discard(dead)
    pool.shutdown()
    assert pool.gauge("waiting") == 0
    for slot in pool.core.slots():
        assert slot.state == CLOSING
        pool.closed(slot)
        assert pool.did_nothing()
    assert pool.is_empty()
    assert len(pool.core) == 0
    assert pool.core.gauges() == (0, 0, 0, 0, 0, 0)
    assert pool.core.by_endpoint() == {}


def test_shutdown_tells_only_once(drive: Drive) -> None:
    pool = drive()
    first, second = pool.hold("a1"), pool.hold("a1")
    pool.discard(first)
    pool.shutdown()
    assert pool.closing == [second]
    assert pool.shutdown() == []
    assert not pool.closing
    assert pool.counter("closed_forced") == 1


# -- what is kept --------------------------------------------------------------------------------


def test_records_are_dropped_with_the_last_that_is_alive(drive: Drive) -> None:
    pool = drive()
    slots = [pool.idle((f"host{i}", j)) for i in range(100) for j in range(10)]
    assert (pool.size("endpoints"), pool.size("handshakes")) == (100, 1000)
    for slot in slots:
        pool.discard(slot)
    # The places are still taken, at endpoints that have no handshakes any more.
    assert (pool.size("endpoints"), pool.size("handshakes")) == (100, 0)
    for slot in slots:
        pool.closed(slot)
    assert pool.is_empty()


@pytest.mark.parametrize("limits", [{}, {"limit_total": 1}], ids=str)
def test_callers_that_leave_nothing_leave_no_record(drive: Drive, limits: dict[str, int]) -> None:
    pool = drive(**limits)
    for i in range(1000):
        waiter, slot = pool.opening((f"host{i}", i))
        if i % 2:
            pool.failed(slot)
        else:
            pool.give_up(waiter)
            pool.now += ORPHAN_GRACE
            pool.expire()
            pool.closed(slot)
        assert pool.acquire((f"host{i}", i)) is None
    assert pool.is_empty()


def test_endpoint_lives_as_long_as_somebody_waits(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.hold("a1")
    waiter = pool.request("b1")
    assert set(pool.core.by_endpoint()) == {"a", "b"}
    pool.give_up(waiter)
    assert set(pool.core.by_endpoint()) == {"a"}


def test_cancelled_waiters_do_not_pile_up(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.hold("a1")
    pool.request("a1")
    for i in range(10_000):
        pool.give_up(pool.request((f"host{i % 7}", i)))
    assert pool.size("place_heap") < 64
    assert pool.size("endpoints") == 1


def test_waiters_in_turns_do_not_pile_up(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.hold("a1")
    pool.request("a1")
    waiters = [pool.request("b1") for _ in range(3)]
    for _ in range(10_000):
        pool.give_up(waiters.pop(0))
        waiters.append(pool.request("b1"))
    assert pool.size("place_heap") < 64


def test_waiter_that_keeps_coming_back_does_not_pile_up(drive: Drive) -> None:
    pool = drive(limit_total=500)
    slots = [pool.hold("a1") for _ in range(500)]
    pool.request("b1")
    waiter = pool.request("a1")
    for slot in slots:
        pool.release(slot)
        if slot.waiter is waiter:
            pool.discard(slot)
            assert waiter.queued
    assert pool.size("place_heap") < 64


def test_endpoints_that_come_and_go_do_not_pile_up(drive: Drive) -> None:
    pool = drive()
    # It stays on top of the heap, and nothing below it ever expires.
    pool.idle("a1")
    for i in range(10_000):
        pool.lose(pool.idle((f"host{i}", i)))
    assert pool.size("idle_heap") < 64
    assert pool.size("endpoints") == 1


# -- what is counted -----------------------------------------------------------------------------


def test_counters_tell_the_story(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=1, max_idle=10.0)
    first, slot = pool.opening("a1")
    pool.now = 1.0
    pool.connected(slot)
    pool.take(first)
    second = pool.request("a1")
    assert pool.request("a1") is None
    pool.now = 3.0
    pool.release(slot)
    pool.release(pool.take(second))
    pool.release(pool.acquire("a1"))
    pool.request("a2", may_wait=False)
    third = pool.request("a2")
    pool.now = 3.5
    pool.give_up(third, timed_out=True)
    pool.closed(slot)
    fourth, slot = pool.opening("b1")
    pool.now = 4.0
    assert pool.failed(slot) is fourth
    assert pool.is_empty()
    assert dict(zip(COUNTERS, pool.core.counters(), strict=True)) == dict.fromkeys(COUNTERS, 0) | {
        "requests": 7,
        "reused": 2,
        "queued": 4,
        "wait_seconds": 1.0 + 2.0 + 0.5 + 0.5,
        "timeouts": 2,
        "rejected": 1,
        "connects": 1,
        "connect_errors": 1,
        "connect_seconds": 1.5,
        "released": 3,
        "closed_evicted": 1,
    }


def test_each_reason_is_counted(drive: Drive) -> None:
    pool = drive()
    for reason in CLOSE_REASONS:
        pool.discard(pool.hold("a1"), reason)
    assert [pool.counter(f"closed_{reason}") for reason in CLOSE_REASONS] == [1] * 9


def test_gauges_tell_what_there_is(drive: Drive) -> None:
    pool = drive(limit=4)
    slots = [pool.hold("a1") for _ in range(3)]
    pool.release(slots[0])
    pool.discard(slots[1])
    pool.opening("a2")
    pool.opening("b1")
    pool.hold("b2")
    assert pool.core.gauges() == (2, 2, 1, 1, 0, 2)
    by_endpoint = pool.core.by_endpoint()
    assert by_endpoint["a"][0] == (1, 1, 1, 1, 0, 1)
    assert by_endpoint["b"][0] == (1, 1, 0, 0, 0, 1)
    # Of the two, one gets the idle connection's place, and one none.
    pool.request("a3")
    pool.request("a3")
    assert pool.core.gauges() == (2, 2, 0, 2, 2, 2)


def test_counters_of_an_endpoint_are_its_own(drive: Drive) -> None:
    pool = drive()
    pool.idle("a1")
    pool.idle("b1")
    pool.lose(pool.idle("b2"))
    by_endpoint = pool.core.by_endpoint()
    requests = COUNTERS.index("requests")
    assert by_endpoint["a"][1][requests] == 1
    assert by_endpoint["b"][1][requests] == 2
    assert pool.counter("requests") == 3


def test_slots_are_those_that_are_not_gone(drive: Drive) -> None:
    pool = drive()
    first, second = pool.hold("a1"), pool.idle("b1")
    pool.discard(second)
    assert pool.core.slots() == [first, second]
    pool.closed(second)
    assert pool.core.slots() == [first]
    assert (first.key, first.endpoint) == ("a1", "a")


# -- misuse --------------------------------------------------------------------------------------


def test_release_of_what_is_not_acquired_is_refused(drive: Drive) -> None:
    pool = drive()
    _, connecting = pool.opening("a1")
    closing, gone = pool.hold("a2"), pool.hold("a2")
    pool.discard(closing)
    pool.lose(gone)
    idle = pool.idle("a2")
    gauges = pool.core.gauges()
    for slot in (connecting, idle, closing, gone):
        for leave in (pool.release, pool.detach):
            with pytest.raises(ValueError, match="only an acquired slot"):
                leave(slot)
    assert pool.core.gauges() == gauges
    assert pool.counter("released") == 1
    assert pool.counter("detached") == 0


@pytest.mark.parametrize("garbage", [None, 1, "slot", object()], ids=told)
@pytest.mark.parametrize(
    "call",
    [
        lambda pool, garbage: pool.release(garbage, 0.0),
        lambda pool, garbage: pool.take(garbage),
        lambda pool, garbage: pool.give_up(garbage, 0.0, False),
        lambda pool, garbage: pool.abandon(garbage, 0.0),
        lambda pool, garbage: pool.retire(garbage),
        lambda pool, garbage: pool.detach(garbage, 0.0),
        lambda pool, garbage: pool.connected(garbage, 0.0),
        lambda pool, garbage: pool.connect_failed(garbage, 0.0),
        lambda pool, garbage: pool.discard(garbage, 0, 0.0),
        lambda pool, garbage: pool.closed(garbage, 0.0),
    ],
    ids=[
        *("release", "take", "give_up", "abandon", "retire", "detach"),
        *("connected", "failed", "discard", "closed"),
    ],
)
def test_what_is_not_of_the_pool_is_refused(
    drive: Drive, call: Callable[[Any, Any], object], garbage: Any
) -> None:
    pool = drive()
    with pytest.raises((TypeError, AttributeError)):
        call(pool.core, garbage)
    assert pool.is_empty()


def test_keys_must_be_hashable(drive: Drive) -> None:
    pool = drive()
    for call in (
        lambda: pool.core.acquire([], 0.0),
        lambda: pool.core.request([], "a1", None, 0.0),
        lambda: pool.core.request("a", [], None, 0.0),
        lambda: pool.core.open("a", [], 0.0),
        lambda: pool.core.open_count([]),
        lambda: pool.core.spare_count([], 1),
    ):
        with pytest.raises(TypeError):
            call()
    assert pool.is_empty()


def test_time_must_be_a_number(drive: Drive) -> None:
    pool = drive(max_idle=10.0)
    held, slot = pool.hold("a1"), pool.idle("a1")
    for call in (
        lambda: pool.core.acquire("a1", None),
        lambda: pool.core.request("a", "a1", None, None),
        lambda: pool.core.release(held, "now"),
        lambda: pool.core.expire(None),
    ):
        with pytest.raises(TypeError):
            call()
    assert slot.state == IDLE


def test_handshake_ends_once(drive: Drive) -> None:
    pool = drive()
    slot = pool.idle("a1")
    for call in (pool.connected, pool.failed):
        with pytest.raises(KeyError):
            call(slot)
    assert slot.state == IDLE


def test_what_was_never_set_up_is_refused(core: ModuleType) -> None:
    blank = core.Pool.__new__(core.Pool)
    slot = core.Slot.__new__(core.Slot)
    for call in (
        lambda: blank.acquire("a1", 0.0),
        lambda: blank.request("a", "a1", None, 0.0),
        lambda: core.Pool().connected(slot, 0.0),
        lambda: core.Pool().connect_failed(slot, 0.0),
        lambda: slot.key,
        lambda: slot.endpoint,
    ):
        with pytest.raises((TypeError, AttributeError)):
            call()


# -- places that cool down -----------------------------------------------------------------------


def test_a_place_cools_down_after_a_connection_in_use(drive: Drive) -> None:
    pool = drive(limit=1, cooldown=0.5)
    slot = pool.hold("a1")
    pool.discard(slot, "failed")
    pool.now = 3.0
    pool.closed(slot)
    assert pool.core.gauges() == (0, 0, 0, 1, 0, 1)
    assert pool.core.next_deadline() == 3.5
    waiter = pool.request("a2")
    assert pool.did_nothing()
    pool.closed(slot)
    assert pool.did_nothing()
    pool.now = 3.25
    pool.expire()
    assert pool.did_nothing()
    pool.now = 3.5
    pool.expire()
    assert [opened.owner for opened in pool.opened] == [waiter]
    assert slot.state == GONE
    assert pool.core.next_deadline() == NEVER
    assert pool.size("cooling") == 0


def end_idle(pool: Driver, reason: str) -> Any:
    slot = pool.idle("a1")
    pool.discard(slot, reason)
    return slot


def end_given(pool: Driver, reason: str) -> Any:
    """End what a waiter was given, and has not taken."""
    slot = pool.hold("a1")
    pool.request("a1")
    pool.release(slot)
    pool.discard(slot, reason)
    return slot


def end_used(pool: Driver, reason: str) -> Any:
    slot = pool.hold("a1")
    pool.discard(slot, reason)
    return slot


# Of the other reasons the core itself gives some, and none of them is for what is in use.
COOL_DOWN = [
    *[(end_used, reason) for reason in ("lost", "dirty", "failed", "cancelled", "user")],
    *[(end_idle, reason) for reason in ("dirty", "failed")],
    *[(end_given, reason) for reason in ("dirty", "failed", "cancelled")],
]
STAY_WARM = [
    *[(end_used, reason) for reason in ("forced", "evicted", "idle", "lifetime")],
    *[(end, "lost") for end in (end_idle, end_given)],
    (end_idle, "evicted"),
]


@pytest.mark.parametrize(
    ("end", "reason", "cools"),
    [*[(*how, True) for how in COOL_DOWN], *[(*how, False) for how in STAY_WARM]],
)
def test_which_ends_cool_down(
    drive: Drive, end: Callable[[Driver, str], Any], reason: str, cools: bool
) -> None:
    pool = drive(limit=1, cooldown=0.5)
    slot = end(pool, reason)
    pool.closed(slot)
    assert (slot.state == CLOSING) is cools
    assert pool.size("cooling") == cools


def test_what_is_closed_at_release_stays_warm(drive: Drive) -> None:
    pool = drive(cooldown=0.5)
    old, drained, surplus = pool.hold("a1", retires=1.0), pool.hold("b1"), pool.hold("c1")
    pool.now = 1.0
    pool.drain("b1")
    pool.resize(limit_total=2)
    for slot in (surplus, old, drained):
        pool.release(slot)
        assert pool.closing == [slot]
        pool.closed(slot)
        assert slot.state == GONE


def test_what_is_closed_idle_or_detached_stays_warm(drive: Drive) -> None:
    pool = drive(limit=1, max_idle=1.0, cooldown=0.5)
    evicted = pool.idle("a1")
    pool.request("a2")
    assert pool.closing == [evicted]
    pool.closed(evicted)
    (slot,) = pool.opened
    pool.connected(slot)
    pool.release(pool.take(pool.woken[0]))
    pool.now = 2.0
    pool.expire()
    assert pool.closing == [slot]
    pool.closed(slot)
    assert pool.is_empty()
    pool.detach(pool.hold("a1"))
    assert pool.is_empty()


def test_a_handshake_that_fails_cools_down_once_it_is_open(drive: Drive) -> None:
    """What is configured may have been asked for something."""
    pool = drive(limit=1, cooldown=0.5)
    waiter, slot = pool.opening("a1")
    assert pool.failed(slot) is waiter
    assert pool.is_empty()
    waiter, slot = pool.opening("a1")
    slot.cools = True
    assert pool.failed(slot) is waiter
    assert pool.core.gauges() == (0, 0, 0, 1, 0, 1)
    other = pool.request("a1")
    pool.now = 0.5
    pool.expire()
    assert [slot.owner for slot in pool.opened] == [other]


def test_what_was_configured_is_like_any_other(drive: Drive) -> None:
    pool = drive(limit=1, cooldown=0.5)
    waiter, slot = pool.opening("a1")
    slot.cools = True
    pool.connected(slot)
    pool.release(pool.take(waiter))
    pool.lose(slot)
    assert pool.is_empty()


def test_a_place_that_is_cleared_for_a_waiter_stays_so(drive: Drive) -> None:
    """It cools down, as it was being configured; no other place is cleared for the same waiter."""
    pool = drive(limit=2, cooldown=0.5)
    other = pool.idle("a3")
    orphan = pool.orphan("a1")
    orphan.cools = True
    waiter = pool.request("a2")
    assert pool.closing == [orphan]
    pool.closed(orphan)
    assert pool.did_nothing()
    late = pool.request("a4")
    assert pool.closing == [other]
    pool.closed(other)
    assert [slot.owner for slot in pool.opened] == [waiter]
    pool.now = 0.5
    pool.expire()
    assert [slot.owner for slot in pool.opened] == [late]


def test_a_cooling_place_gives_way_to_nobody(drive: Drive) -> None:
    """An idle one is closed for a waiter as if the cooling one were in use."""
    pool = drive(limit=2, cooldown=0.5)
    idle = pool.idle("a1")
    pool.lose(pool.hold("a2"))
    waiter = pool.request("a3")
    assert pool.closing == [idle]
    pool.closed(idle)
    assert [slot.owner for slot in pool.opened] == [waiter]
    pool.request("a3")
    assert pool.did_nothing()


def test_cooling_under_limit_total(drive: Drive) -> None:
    pool = drive(limit_total=1, cooldown=0.5)
    pool.lose(pool.hold("a1"))
    waiter = pool.request("b1")
    assert pool.did_nothing()
    pool.now = 0.5
    pool.expire()
    assert [slot.owner for slot in pool.opened] == [waiter]
    assert pool.core.by_endpoint().keys() == {"b"}


def test_max_waiting_and_who_may_not_wait_while_a_place_cools(drive: Drive) -> None:
    pool = drive(limit=1, max_waiting=1, cooldown=0.5)
    pool.lose(pool.hold("a1"))
    assert pool.request("a1", may_wait=False) is None
    assert pool.request("a1") is not None
    assert pool.request("a1") is None
    assert pool.counter("rejected") == pool.counter("timeouts") == 1
    assert pool.open("a1") is None


def test_resize_and_drain_pass_a_cooling_place_by(drive: Drive) -> None:
    pool = drive(limit=1, cooldown=0.5)
    pool.lose(pool.hold("a1"))
    waiter = pool.request("a1")
    pool.drain()
    assert pool.did_nothing()
    pool.resize(limit=2)
    assert [slot.owner for slot in pool.opened] == [waiter]
    pool.resize(limit=1)
    assert pool.did_nothing()
    assert pool.gauge("closing") == 1
    pool.now = 0.5
    pool.expire()
    assert pool.gauge("closing") == 0
    assert pool.did_nothing()


def test_places_cool_down_in_order(drive: Drive) -> None:
    pool = drive(cooldown=0.5)
    slots = [pool.hold("a1") for _ in range(3)]
    for slot in slots:
        pool.discard(slot)
    for pool.now, slot in enumerate(reversed(slots)):
        pool.closed(slot)
    assert pool.core.next_deadline() == 0.5
    pool.now = 1.5
    pool.expire()
    assert [slot.state for slot in slots] == [CLOSING, GONE, GONE]
    assert pool.core.next_deadline() == 2.5


def test_shutdown_waits_for_no_cooldown(drive: Drive) -> None:
    pool = drive(limit=3, cooldown=0.5)
    pool.lose(pool.hold("a1"))
    closing, used = pool.hold("a1"), pool.hold("a1")
    pool.discard(closing)
    waiter = pool.request("a1")
    assert pool.shutdown() == [waiter]
    assert len(pool.core) == 2
    for slot in (closing, used):
        pool.closed(slot)
    assert pool.is_empty()


def test_without_cooldown_a_place_is_free_at_once(drive: Drive) -> None:
    pool = drive(limit=1)
    pool.lose(pool.hold("a1"))
    assert pool.is_empty()


# -- records that are known ------------------------------------------------------------------------


def test_a_record_that_is_known_need_not_be_looked_up(core: ModuleType) -> None:
    class Key(str):
        """Counts how often it is looked up."""

        looked_up = 0

        def __hash__(self) -> int:
            self.looked_up += 1
            return super().__hash__()

        def __eq__(self, other: object) -> bool:
            return super().__eq__(other)

    pool, key = core.Pool(limit=1), Key("a1")
    slot = pool.open("a", key, 0.0)
    pool.connected(slot, 0.0)
    key.looked_up = 0
    assert pool.acquire(key, 0.0, slot.handshake) is slot
    waiter, _ = pool.request("a", key, None, 0.0, True, slot.handshake)
    pool.release(slot, 0.0)
    assert pool.take(waiter) is slot
    pool.release(slot, 0.0)
    assert key.looked_up == 0
    assert pool.acquire(key, 0.0) is slot
    assert key.looked_up == 1


def test_a_stale_connection_takes_its_record_along(core: ModuleType) -> None:
    pool = core.Pool(max_idle=1.0)
    waiter, plan = pool.request("a", "a1", None, 0.0)
    (slot,) = plan.opened
    pool.connected(slot, 0.0)
    pool.release(pool.take(waiter), 0.0)
    record = slot.handshake
    assert pool.acquire("a1", 5.0, record) is None
    assert not record.dropped
    # Closed for being stale, while another record is made for who asks.
    waiter, plan = pool.request("a", "a1", None, 5.0, True, record)
    assert record.dropped
    assert len(plan.closing) == len(plan.opened) == 1
    assert waiter.handshake is plan.opened[0].handshake is not record
    assert not waiter.handshake.dropped
    assert pool.sizes()["handshakes"] == 1


# -- the clock ------------------------------------------------------------------------------------


def test_the_clock(core: ModuleType) -> None:
    before = time.monotonic()
    now = core.clock()
    assert before <= now <= time.monotonic()


# -- how things stand at an endpoint ---------------------------------------------------------------


def test_situation_of_an_endpoint(drive: Drive) -> None:
    pool = drive(limit=3, max_connecting=2)
    assert pool.core.situation("a", 0.0) == ((0,) * 6, "", -1.0, None)
    _, first = pool.opening("a1")
    pool.now = 2.0
    _, second = pool.opening("a2")
    pool.request("a3")
    pool.now = 5.0
    assert pool.core.situation("a", 5.0) == ((2, 0, 0, 0, 1, 1), "max_connecting", 5.0, None)
    pool.core.connect_failed(first, 5.0, "why")
    assert pool.core.situation("a", 5.0) == ((2, 0, 0, 0, 0, 1), "max_connecting", 3.0, "why")
    pool.connected(second)
    assert pool.core.situation("a", 6.0) == ((1, 1, 0, 0, 0, 1), "", 1.0, "why")
