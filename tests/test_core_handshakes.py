"""The core alone: handshakes under way, given up, late, or for another key."""

from typing import Any

import pytest

from aiowebsocketclient._pool_py import (
    CLOSING,
    CONNECTING,
    FIRST_PATIENCE,
    GONE,
    IDLE,
    LATE_FACTOR,
    LATE_FLOOR,
    ORPHAN_GRACE,
)

from .driver import NEVER, Drive, Driver

# -- handshakes under way ------------------------------------------------------------------------


def test_handshake_serves_who_came_first(drive: Drive) -> None:
    pool = drive()
    (first, slot1), (second, slot2) = pool.opening("a1"), pool.opening("a1")
    pool.connected(slot2)
    assert pool.woken == [first]
    assert slot1.owner is second
    pool.connected(slot1)
    assert pool.woken == [second]


def test_handshake_of_a_waiter_served_otherwise_passes_on(drive: Drive) -> None:
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
