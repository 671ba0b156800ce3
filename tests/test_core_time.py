"""The core alone: what expires, places that cool down, and the clock."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from aiowebsocketclient._pool_py import ACQUIRED, CLOSING, GONE, IDLE, ORPHAN_GRACE

from .driver import NEVER, Drive, Driver

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


# -- the clock ------------------------------------------------------------------------------------


def test_the_clock(core: ModuleType) -> None:
    before = time.monotonic()
    now = core.clock()
    assert before <= now <= time.monotonic()
