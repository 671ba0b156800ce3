"""The core alone: who waits, and who is served first."""

from typing import Any

import pytest

from aiowebsocketclient._pool_py import CLOSING, IDLE, MAX_PASSED_OVER

from .driver import Drive, Driver

# -- queues --------------------------------------------------------------------------------------


def test_released_connection_goes_to_the_longest_waiter(drive: Drive) -> None:
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


def test_the_waiter_passed_over_is_the_oldest_of_all_endpoints(drive: Drive) -> None:
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


def test_a_caller_that_gives_up_too_late_has_a_connection(drive: Drive) -> None:
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
