"""The core alone: idle connections, and which of them are closed."""

import pytest

from aiowebsocketclient._pool_py import ACQUIRED, CONNECTING, COUNTERS, GONE, IDLE

from .driver import NEVER, Drive

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


def test_what_is_declined_is_nobodys_use(drive: Drive) -> None:
    pool = drive()
    waiter, slot = pool.opening("a1")
    pool.connected(slot)
    assert pool.core.decline(waiter) is slot
    pool.put_back(slot)
    assert slot.state == IDLE
    assert pool.acquire("a1") is slot
    counters = ("requests", "reused", "released")
    assert [pool.counter(name) for name in counters] == [2, 0, 0]


def test_only_what_is_idle_is_set_aside_and_only_what_is_in_use_put_back(drive: Drive) -> None:
    pool = drive()
    slot = pool.hold("a1")
    with pytest.raises(ValueError, match="only an idle slot can be set aside"):
        pool.core.set_aside(slot)
    pool.release(slot)
    with pytest.raises(ValueError, match="only an acquired slot can be put back"):
        pool.put_back(slot)


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


def test_a_waiter_served_otherwise_leaves_no_drained_handshake(drive: Drive) -> None:
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
