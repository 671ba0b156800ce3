"""The core alone: limits, and what gives way at a limit."""

import pytest

from aiowebsocketclient._pool_py import CLOSING, GONE, IDLE

from .driver import Drive

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


# -- a limit that many processes share -----------------------------------------------------------


def test_a_led_pool_opens_only_as_many_as_it_is_told(drive: Drive) -> None:
    pool = drive()
    pool.lead(0)
    first, second = pool.request("a1"), pool.request("b1")
    assert pool.did_nothing()
    assert pool.core.lacking() == 2
    pool.lead(1)
    assert pool.opened == [first.opening]
    assert pool.core.lacking() == 1
    pool.lead(2)
    assert pool.opened == [second.opening]
    assert pool.core.lacking() == 0


def test_limit_total_holds_beside_what_others_leave(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.lead(5)
    pool.hold("a1")
    pool.request("b1")
    assert not pool.opened
    # More places would not help.
    assert pool.core.situation("b", pool.now)[1] == "limit_total"
    pool.lead(1)
    pool.resize(limit_total=0)
    assert not pool.opened
    assert pool.core.situation("b", pool.now)[1] == "fleet"


def test_a_place_that_others_need_comes_from_what_is_idle(drive: Drive) -> None:
    pool = drive()
    pool.lead(3)
    used, idle = pool.hold("a1"), pool.hold("b1")
    pool.release(idle)
    pool.lead(1)
    assert pool.closing == [idle]
    pool.lead(0)
    assert pool.did_nothing()
    pool.release(used)
    assert pool.closing == [used]


def test_nothing_is_closed_for_a_place_that_would_serve_nobody(drive: Drive) -> None:
    pool = drive()
    pool.lead(2)
    idle = pool.idle("a1")
    used = pool.hold("a2")
    pool.lead(0, keep=100)
    waiter = pool.request("b1")
    assert pool.did_nothing()
    # Open connections serve their own callers as ever.
    pool.release(used)
    assert pool.acquire("a2") is used
    assert pool.core.stranded() == [waiter]
    pool.release(used)
    pool.lead(2)
    assert pool.closing == [idle]
    pool.closed(idle)
    assert pool.opened == [waiter.opening]


@pytest.mark.parametrize("way", ["discard", "evict", "drain", "expire"])
def test_places_are_cleared_as_soon_as_a_waiter_could_use_them(drive: Drive, way: str) -> None:
    """What begins to close is no longer too much for the places there are."""
    pool = drive(max_idle=50)
    oldest = pool.idle("a1")
    pool.now += 10
    other = pool.idle("b1")
    used = pool.hold("a2")
    pool.lead(2, 3)
    waiter = pool.request("c1")
    # Three are open on two places: what is closed for the waiter would leave none.
    assert pool.did_nothing()
    assert waiter.queued
    if way == "discard":
        pool.discard(used)
        expected = {oldest}
    elif way == "evict":
        pool.evict(1)
        expected = {oldest, other}
    elif way == "drain":
        pool.drain("a1")
        expected = {oldest, other}
    else:
        pool.now += 40
        pool.expire()
        expected = {oldest, other}
    assert set(pool.closing) == expected


def test_nothing_is_closed_while_there_may_be_more_places(drive: Drive) -> None:
    pool = drive(max_waiting=0)
    pool.lead(1)
    idle = pool.idle("a1")
    pool.lead(1, holds=True)
    waiter = pool.request("b1")
    # It is admitted, since it may be served at once.
    assert waiter.queued
    assert pool.did_nothing()
    assert pool.core.lacking() == 1
    pool.lead(1)
    assert pool.closing == [idle]
    pool.closed(idle)
    assert pool.opened == [waiter.opening]


def test_where_the_own_total_is_reached_more_places_would_not_help(drive: Drive) -> None:
    pool = drive(limit_total=1)
    pool.lead(5, holds=True)
    idle = pool.idle("a1")
    pool.request("b1")
    assert pool.closing == [idle]


def test_handshakes_under_way_are_stopped(drive: Drive) -> None:
    pool = drive()
    pool.lead(3)
    waiter, slot = pool.opening("a1")
    orphan = pool.orphan("b1")
    used = pool.hold("c1")
    pool.lead(0, keep=100)
    pool.stop_opening()
    assert set(pool.closing) == {slot, orphan}
    assert waiter.queued
    assert waiter.opening is None
    assert pool.core.stranded() == [waiter]
    pool.closed(slot)
    pool.closed(orphan)
    assert not pool.opened
    pool.lead(3)
    assert pool.opened == [waiter.opening]
    pool.release(used)


def test_how_many_are_idle_for_long(drive: Drive) -> None:
    pool = drive()
    first, second = pool.hold("a1"), pool.hold("b1")
    pool.release(first)
    pool.now = 1.0
    pool.release(second)
    assert [pool.core.idle_since(then, 9) for then in (-1.0, 0.0, 1.0)] == [0, 1, 2]
    assert pool.core.idle_since(1.0, 1) == 1
