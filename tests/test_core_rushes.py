"""The core alone: handshakes that are deferred while released connections are expected.

``python -m tests.rushes`` simulates more of what is simulated here.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiowebsocketclient._core import DEFER_SHARE, LONG_WAIT, LOOK_FACTOR, LOOK_SHARE, RATE_SHARE
from aiowebsocketclient._pool_py import CLOSE_REASONS, CLOSING

from .driver import NEVER, Drive, Driver
from .rushes import loads
from .rushes.__main__ import main
from .rushes.loads import LONG
from .rushes.measure import MOST_LATE, MOST_TIME, SLACK, Comparison, compare, others
from .rushes.simulation import DEFAULT, Watched

#: Seconds of a handshake, of a use, and between two looks with such uses.
HANDSHAKE, USE, LOOK = 1.0, 0.0078125, LOOK_SHARE / 3


def learnt(drive: Drive, count: int = 5, use: float = USE, **options: Any) -> Driver:
    """Return a pool with idle connections, which knows how long handshakes and uses take."""
    pool = drive(defers=True, **options)
    opened = [pool.beginning("a1") for _ in range(count)]
    pool.now += HANDSHAKE
    for waiter, slot in opened:
        pool.connected(slot)
        assert pool.take(waiter) is slot
    pool.now += use
    for _, slot in opened:
        pool.release(slot)
    return pool


def busy(drive: Drive, count: int = 5, **options: Any) -> tuple[Driver, list[Any]]:
    """Return the same with all connections in use."""
    pool = learnt(drive, count, **options)
    return pool, [pool.acquire("a1") for _ in range(count)]


def slow(drive: Drive, use: float) -> tuple[Driver, list[Any]]:
    """Return the same with long uses, and with a handshake under way that nobody below waits for.

    Without that one, a handshake would begin for a caller that is expected to wait for long.
    """
    pool, slots = busy(drive, use=use)
    pool.beginning("a9")
    return pool, slots


def defer(pool: Driver, count: int = 1) -> list[Any]:
    """Return callers whose handshakes are deferred."""
    waiters = []
    for _ in range(count):
        waiters.append(pool.request("a1"))
        assert not pool.opened
        assert waiters[-1].deferred
    return waiters


def begun(pool: Driver) -> list[Any]:
    """Return for whom the last operation has begun handshakes."""
    return [slot.owner for slot in pool.opened]


# -- when a handshake is deferred ----------------------------------------------------------------


def test_a_released_connection_serves_who_waits_for_it(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive)
    first, second = defer(pool, 2)
    pool.release(slot)
    assert pool.woken == [first]
    assert pool.take(first) is slot
    pool.release(slot)
    assert pool.woken == [second]
    assert pool.size("deferred") == 0
    assert pool.counter("connects") == 5
    # There is nothing to look at.
    assert pool.core.next_deadline() == NEVER


def test_waiters_for_a_release_are_counted_as_waiting(drive: Drive) -> None:
    pool, _ = busy(drive)
    defer(pool, 3)
    assert pool.core.gauges() == (0, 5, 0, 0, 3, 1)
    assert pool.counter("queued") == 5 + 3
    assert pool.size("waiters") == pool.size("deferred") == 3


def test_all_begin_in_a_pool_that_does_not_defer(drive: Drive) -> None:
    pool = drive()
    slot = pool.beginning("a1")[1]
    pool.now += HANDSHAKE
    pool.connected(slot)
    pool.take(slot.waiter)
    pool.now += USE
    pool.release(slot)
    assert pool.acquire("a1") is slot
    pool.opening("a1")


def test_all_begin_where_no_use_is_known(drive: Drive) -> None:
    pool = drive(defers=True)
    waiter, slot = pool.beginning("a1")
    pool.now += HANDSHAKE
    pool.connected(slot)
    pool.take(waiter)
    pool.opening("a1")


def test_all_begin_where_no_handshake_is_known(drive: Drive) -> None:
    pool = drive(defers=True)
    # It has never said that it began.
    slot = pool.hold("a1")
    pool.now += USE
    pool.release(slot)
    assert pool.acquire("a1") is slot
    pool.opening("a1")


def test_all_begin_where_nothing_is_in_use(drive: Drive) -> None:
    pool, slots = busy(drive, 2)
    for slot in slots:
        pool.lose(slot)
    # Uses of the handshake are known no more, but those of another are not asked for either.
    pool.opening("a1")
    pool.opening("a2")


def test_all_begin_where_connections_of_another_handshake_are_in_use(drive: Drive) -> None:
    pool, _ = busy(drive)
    pool.opening("a2")


def test_who_would_wait_too_long_has_a_handshake_begun_for_the_oldest(drive: Drive) -> None:
    # 4 rounds of 1/8 s end after half a handshake.
    assert DEFER_SHARE * HANDSHAKE == 4 * 0.125
    pool, slots = slow(drive, 0.125)
    waiters = defer(pool, 3 * 5)
    last = pool.request("a1")
    assert begun(pool) == [waiters[0]]
    assert last.deferred
    assert not waiters[0].deferred
    # A release serves the oldest all the same, and the next has its handshake.
    (opening,) = pool.opened
    pool.release(slots[0])
    assert pool.woken == [waiters[0]]
    assert opening.owner is waiters[1]


def test_who_has_a_handshake_stands_before_who_has_none(drive: Drive) -> None:
    pool, _ = slow(drive, 0.125)
    waiters = defer(pool, 3 * 5)
    pool.request("a1")
    assert begun(pool) == waiters[:1]
    pool.give_up(waiters[1])
    pool.request("a1")
    assert begun(pool) == waiters[2:3]


def test_all_begin_where_a_use_takes_longer_than_looks_would_notice(drive: Drive) -> None:
    pool, _ = busy(drive, use=5 * LOOK_SHARE + USE)
    pool.opening("a1")
    pool, _ = slow(drive, 5 * LOOK_SHARE - USE)
    defer(pool)


def test_a_long_use_counts_at_once_and_is_forgotten_slowly(drive: Drive) -> None:
    pool = learnt(drive)
    pool.beginning("a9")

    def use(seconds: float) -> None:
        slot = pool.acquire("a1")
        pool.now += seconds
        pool.release(slot)

    def defers() -> bool:
        slots = [pool.acquire("a1") for _ in range(5)]
        waiter = pool.request("a1")
        is_deferred: bool = waiter.deferred
        pool.give_up(waiter)
        for slot in slots:
            pool.core.put_back(slot, pool.now)
        for slot in [s for s in pool.core.slots() if s.key == "a1" and s not in slots]:
            pool.stop(slot)
            pool.closed(slot)
        return is_deferred

    assert defers()
    use(HANDSHAKE)
    assert not defers()
    for _ in range(10):
        use(USE)
    assert not defers()
    for _ in range(20):
        use(USE)
    assert defers()


def test_a_use_of_a_drained_connection_says_nothing(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive)
    pool.drain("a1")
    # What is in use will not fall free: all is forgotten, too.
    pool.opening("a1")
    pool.now += USE
    pool.release(slot)
    assert slot.state == CLOSING
    pool.opening("a1")


def test_who_has_lost_a_connection_waits_for_no_other(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive)
    (waiter,) = defer(pool)
    pool.release(slot)
    pool.discard(slot)
    assert begun(pool) == [waiter]


# -- one handshake at a time for a long wait -----------------------------------------------------

#: Seconds of uses of which the second is expected to end too late.
HALF_LONG = 0.0625


def test_for_a_long_wait_a_handshake_begins_for_the_oldest(drive: Drive) -> None:
    assert HALF_LONG < LONG_WAIT < 2 * HALF_LONG
    pool, _ = busy(drive, use=HALF_LONG)
    waiters = defer(pool, 5)
    last = pool.request("a1")
    assert begun(pool) == waiters[:1]
    assert last.deferred
    # One at a time.
    defer(pool, 5)


def test_for_a_long_wait_a_handshake_begins_for_who_comes_first(drive: Drive) -> None:
    pool, _ = busy(drive, use=2 * HALF_LONG)
    pool.opening("a1")
    defer(pool)


def test_where_a_handshake_of_another_key_is_under_way_none_begins(drive: Drive) -> None:
    pool, _ = busy(drive, use=2 * HALF_LONG)
    pool.beginning("a2")
    defer(pool)


def test_where_the_next_handshake_failed_another_begins(drive: Drive) -> None:
    pool, _ = busy(drive, use=2 * HALF_LONG)
    waiter, slot = pool.opening("a1")
    defer(pool)
    assert pool.failed(slot) is waiter
    pool.request("a1")
    assert len(pool.opened) == 1


def test_where_handshakes_have_become_faster_all_begin(drive: Drive) -> None:
    pool, slots = busy(drive, use=HALF_LONG)
    waiters = defer(pool, 5)
    waiters.append(pool.request("a1"))
    (slot,) = pool.opened
    waiters += defer(pool, 20)
    pool.begin(slot)
    fast = HANDSHAKE / 32
    pool.now += fast
    pool.connected(slot)
    assert pool.take(waiters[0]) is slot
    # Not when it would have been looked at: by what is known now.
    assert pool.core.next_deadline() == pool.now + LOOK_SHARE * fast
    look(pool)
    assert begun(pool) == waiters[1:]
    for slot in slots:
        pool.release(slot)


def test_where_handshakes_are_as_slow_as_ever_nothing_is_looked_at_anew(drive: Drive) -> None:
    pool, _ = busy(drive, use=HALF_LONG)
    defer(pool, 5)
    due = pool.core.next_deadline()
    pool.request("a1")
    (slot,) = pool.opened
    pool.begin(slot)
    pool.now += LOOK_SHARE / 4
    defer(pool)
    assert pool.core.next_deadline() == due


# -- where an idle connection of another handshake would give way --------------------------------


def crowded(drive: Drive, spare: int = 1, **options: Any) -> tuple[Driver, list[Any], list[Any]]:
    """Return a pool at its limit: connections in use, and idle ones of another handshake."""
    options = options or {"limit": 5 + spare}
    pool, slots = busy(drive, **options)
    held = [pool.hold("a2") for _ in range(spare)]
    for slot in held:
        pool.release(slot)
    return pool, slots, held


def wait_unplaced(pool: Driver, count: int = 1) -> list[Any]:
    """Return callers for whom nothing gives way yet."""
    waiters = []
    for _ in range(count):
        waiters.append(pool.request("a1"))
        assert pool.did_nothing()
        assert waiters[-1].unplaced
    return waiters


@pytest.mark.parametrize("name", ["limit", "limit_total"])
def test_what_is_idle_stays_for_who_is_served_soon(drive: Drive, name: str) -> None:
    pool, (slot, *_), (idle,) = crowded(drive, **{name: 6})
    (waiter,) = wait_unplaced(pool)
    assert pool.gauge("waiting") == 1
    assert pool.core.reserved_count() == pool.size("deferred") == 0
    pool.release(slot)
    assert pool.woken == [waiter]
    assert pool.take(waiter) is slot
    assert pool.acquire("a2") is idle
    assert pool.size("unplaced") == 0
    assert pool.core.next_deadline() == NEVER


@pytest.mark.parametrize("name", ["limit", "limit_total"])
def test_what_is_idle_gives_way_where_nothing_falls_free(drive: Drive, name: str) -> None:
    pool, _, (idle,) = crowded(drive, **{name: 6})
    (waiter,) = wait_unplaced(pool)
    look(pool)
    assert pool.closing == [idle]
    assert not waiter.deferred
    pool.closed(idle)
    assert begun(pool) == [waiter]


def test_as_many_wait_so_as_can_have_what_is_idle(drive: Drive) -> None:
    pool, _, idle = crowded(drive, 2)
    wait_unplaced(pool, 2)
    pool.request("a1")
    assert pool.closing == idle[:1]


def test_what_is_idle_gives_way_at_once_for_who_would_wait_too_long(drive: Drive) -> None:
    pool, _, (idle,) = crowded(drive, limit=6, use=0.125)
    pool.request("a1")
    assert pool.closing == [idle]


def test_what_is_idle_gives_way_at_once_for_who_stands_behind_others(drive: Drive) -> None:
    pool, _, idle = crowded(drive, 2)
    pool.request("a3")
    assert pool.closing == idle[:1]
    # It would stand before the first, were it sent back to the line.
    pool.request("a1")
    assert pool.closing == idle[1:]


def test_what_is_idle_gives_way_at_once_where_the_line_is_bounded(drive: Drive) -> None:
    pool, _, (idle,) = crowded(drive, limit=6, max_waiting=3)
    pool.request("a1")
    assert pool.closing == [idle]


def test_a_handshake_that_belongs_to_nobody_is_stopped_as_ever(drive: Drive) -> None:
    pool, _ = busy(drive, limit=6)
    orphan = pool.open("a2")
    pool.request("a1")
    assert pool.closing == [orphan]


def test_a_place_that_falls_free_is_for_who_has_waited_longest(drive: Drive) -> None:
    pool, slots, _ = crowded(drive)
    (first,) = wait_unplaced(pool)
    pool.lose(slots.pop())
    # It has room, but a release will serve it soon.
    assert pool.did_nothing()
    second = pool.request("a1")
    assert pool.did_nothing()
    assert (first.unplaced, second.unplaced) == (False, True)
    look(pool)
    assert begun(pool) == [first]
    for slot in slots:
        pool.release(slot)


def begins_in_the_end(pool: Driver, waiter: Any) -> bool:
    """Return whether a handshake begins for a waiter although nothing is ever released."""
    while pool.core.next_deadline() < NEVER:
        look(pool)
        for slot in pool.closing:
            pool.closed(slot)
    return waiter.opening is not None


#: A limit that is reached, and the handshake of a caller that comes later.
LATER = [("limit", "a3"), ("limit_total", "a3"), ("limit_total", "b1")]


@pytest.mark.parametrize(("name", "later"), LATER)
@pytest.mark.parametrize("is_used", [False, True])
def test_a_free_place_is_not_for_who_comes_later(
    drive: Drive, name: str, later: str, is_used: bool
) -> None:
    pool, _, (idle,) = crowded(drive, **{name: 6})
    (first,) = wait_unplaced(pool)
    if is_used:
        assert pool.acquire("a2") is idle
    # Nothing is left that could give way.
    pool.lose(idle)
    second = pool.request(later)
    assert pool.did_nothing()
    assert begins_in_the_end(pool, first)
    pool.lose(first.opening)
    assert second.opening is None


@pytest.mark.parametrize(("name", "later"), LATER)
def test_what_gives_way_for_who_comes_later_is_not_for_it(
    drive: Drive, name: str, later: str
) -> None:
    pool, _, (idle,) = crowded(drive, **{name: 6})
    (first,) = wait_unplaced(pool)
    pool.request(later)
    assert pool.closing == [idle]
    pool.closed(idle)
    assert pool.did_nothing()
    assert begins_in_the_end(pool, first)


@pytest.mark.parametrize(("name", "later"), LATER)
def test_what_gives_way_is_for_who_comes_later_once_the_first_is_served(
    drive: Drive, name: str, later: str
) -> None:
    pool, (slot, *_), (idle,) = crowded(drive, **{name: 6})
    (first,) = wait_unplaced(pool)
    second = pool.request(later)
    pool.closed(idle)
    pool.release(slot)
    assert pool.woken == [first]
    assert begun(pool) == [second]


@pytest.mark.parametrize(("name", "later"), LATER)
def test_who_comes_later_has_what_is_more_than_enough(drive: Drive, name: str, later: str) -> None:
    pool, _, idle = crowded(drive, 2, **{name: 7})
    (first,) = wait_unplaced(pool)
    second = pool.request(later)
    assert pool.closing == idle[:1]
    pool.closed(idle[0])
    assert begun(pool) == [second]
    assert not pool.closing
    assert begins_in_the_end(pool, first)


def test_a_free_place_is_not_for_who_leans_on_a_doubted_handshake(drive: Drive) -> None:
    pool, _, (idle, other) = crowded(drive, 2)
    pool.lose(other)
    gone, _ = pool.beginning("a3")
    (first,) = wait_unplaced(pool)
    pool.give_up(gone)
    assert pool.acquire("a2") is idle
    second = pool.request("a3")
    assert second.opening.doubted
    pool.lose(idle)
    assert pool.did_nothing()
    assert begins_in_the_end(pool, first)


def test_who_waits_so_may_give_up(drive: Drive) -> None:
    pool, _, (idle,) = crowded(drive)
    (waiter,) = wait_unplaced(pool)
    pool.give_up(waiter)
    assert pool.did_nothing()
    assert pool.size("unplaced") == pool.gauge("waiting") == 0
    assert pool.acquire("a2") is idle


def test_prewarm_has_no_place_of_who_waits_without(drive: Drive) -> None:
    pool, _, _ = crowded(drive)
    wait_unplaced(pool)
    assert pool.core.open("a", "a1", pool.now) is None


def test_resize_sends_who_waits_so_back_to_the_line(drive: Drive) -> None:
    pool, _, (idle,) = crowded(drive)
    (waiter,) = wait_unplaced(pool)
    pool.resize(limit=6)
    assert pool.did_nothing()
    assert waiter.unplaced
    pool.resize(limit=5)
    assert not waiter.unplaced
    assert pool.closing == [idle]


# -- looks ---------------------------------------------------------------------------------------


def look(pool: Driver) -> None:
    pool.now = pool.core.next_deadline()
    pool.expire()


def test_a_look_is_due_after_a_share_of_a_handshake(drive: Drive) -> None:
    pool, _ = busy(drive)
    began = pool.now
    defer(pool)
    assert pool.core.next_deadline() == began + LOOK
    pool.now += LOOK / 2
    pool.expire()
    assert pool.did_nothing()
    assert pool.core.next_deadline() == began + LOOK


@pytest.mark.parametrize(
    ("use", "due"),
    [(USE, LOOK), (0.0625, LOOK_FACTOR * 0.0625), (0.125, LOOK_SHARE)],
)
def test_a_look_is_due_when_something_should_have_been_released(
    drive: Drive, use: float, due: float
) -> None:
    pool, _ = slow(drive, use)
    defer(pool)
    assert pool.core.next_deadline() == pool.now + due


def test_a_look_is_not_due_sooner_than_timers_are_exact(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1)
    pool.opening("a2")
    other = pool.opened[0]
    pool.begin(other)
    pool.now += USE
    pool.connected(other)
    pool.take(other.waiter)
    pool.release(slot)
    # A use of no time, or it would take longer than a handshake.
    for _ in range(100):
        assert pool.acquire("a1") is slot
        pool.release(slot)
    assert pool.acquire("a1") is slot
    defer(pool)
    assert pool.core.next_deadline() == pool.now + 0.001


def test_where_nothing_falls_free_all_begin(drive: Drive) -> None:
    pool, _ = busy(drive)
    waiters = defer(pool, 20)
    look(pool)
    assert begun(pool) == waiters
    assert pool.core.next_deadline() == NEVER
    # Uses have become long: who comes now does not wait first.
    pool.opening("a1")


def test_where_enough_falls_free_nothing_begins(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive)
    waiters = defer(pool, 20)
    for waiter in waiters[:3]:
        pool.release(slot)
        assert pool.take(waiter) is slot
    look(pool)
    # At that rate all are served within the time.
    assert pool.did_nothing()
    assert pool.core.next_deadline() == pool.now + LOOK
    # What fell free before that does not count again.
    look(pool)
    assert begun(pool) == waiters[3:]


def test_where_too_little_falls_free_so_many_begin_as_it_will_not_serve(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1)
    pool.beginning("a9")
    waiters = defer(pool, 36)
    pool.now += LOOK / 4
    waiters += defer(pool)
    for waiter in waiters[:2]:
        pool.release(slot)
        assert pool.take(waiter) is slot
    look(pool)
    # In the time that is left to the last.
    left = DEFER_SHARE * HANDSHAKE - LOOK * 3 / 4
    assert 23.1 < RATE_SHARE * left * 2 / LOOK < 23.9
    assert begun(pool) == waiters[2:-23]
    assert pool.size("deferred") == 23


def test_who_waits_for_a_place_is_in_the_same_line(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1, limit=11)
    waiters = defer(pool, 10)
    line = [pool.request("a1") for _ in range(40)]
    assert not any(waiter.deferred for waiter in line)
    for waiter in waiters[:2]:
        pool.release(slot)
        assert pool.take(waiter) is slot
        # Their places go to the next.
    look(pool)
    # Without the line, all of the ten would have been served in time.
    assert begun(pool) == [*waiters[2:], *line[:2]]


def test_a_late_look_tells_nothing_once(drive: Drive) -> None:
    pool, _ = busy(drive)
    waiters = defer(pool, 3)
    pool.now += 3 * LOOK
    pool.expire()
    assert pool.did_nothing()
    assert pool.core.next_deadline() == pool.now + LOOK
    pool.now += 3 * LOOK
    pool.expire()
    assert begun(pool) == waiters


def test_nobody_waits_for_longer_than_half_a_handshake(drive: Drive) -> None:
    pool, _ = busy(drive)
    (early,) = defer(pool)
    pool.now += 3 * LOOK
    (late,) = defer(pool)
    # Too late to tell anything, but not for the first.
    pool.now += DEFER_SHARE * HANDSHAKE - 3 * LOOK
    pool.expire()
    assert begun(pool) == [early]
    assert late.deferred


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["limit", "limit_total"])
def test_who_gets_the_place_of_another_has_no_more_time(
    drive: Drive, name: str, count: int
) -> None:
    pool, (slot, *_) = busy(drive, **{name: 5 + count})
    waiters = defer(pool, count)
    waiters.append(pool.request("a1"))
    assert not waiters[-1].deferred
    pool.now += DEFER_SHARE * HANDSHAKE / 2
    # (Not a use of that time.)
    pool.put_back(slot)
    assert pool.take(waiters[0]) is slot
    assert waiters[-1].deferred
    # A handshake in that place would have been under way all the time.
    pool.now += DEFER_SHARE * HANDSHAKE / 2
    pool.expire()
    assert begun(pool) == waiters[1:]


def test_who_comes_while_others_wait_has_time_of_its_own(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive, limit=7)
    defer(pool)
    pool.now += DEFER_SHARE * HANDSHAKE / 2
    (late,) = defer(pool)
    pool.put_back(slot)
    pool.now += DEFER_SHARE * HANDSHAKE / 2
    pool.expire()
    assert pool.did_nothing()
    assert late.deferred


def test_for_a_line_that_lasts_half_of_the_handshakes_begin(drive: Drive) -> None:
    pool, slots = busy(drive)
    defer(pool, 10)
    end = pool.now + DEFER_SHARE * HANDSHAKE

    def go_on() -> None:
        """Serve all, and let others come."""
        for slot in [*slots, *slots]:
            pool.release(slot)
            pool.take(slot.waiter)
            defer(pool)
        look(pool)

    while pool.core.next_deadline() < end:
        go_on()
        assert pool.did_nothing()
    go_on()
    assert len(pool.opened) == 5
    assert pool.size("deferred") == 5
    # The next time comes as late.
    go_on()
    assert pool.did_nothing()


# -- what else happens to who waits --------------------------------------------------------------


def test_who_waits_for_a_release_may_give_up(drive: Drive) -> None:
    pool, _ = busy(drive)
    first, second = defer(pool, 2)
    pool.give_up(first, timed_out=True)
    assert pool.did_nothing()
    assert pool.counter("timeouts") == 1
    pool.give_up(second)
    assert pool.did_nothing()
    assert pool.gauge("waiting") == pool.size("deferred") == 0
    look(pool)
    assert pool.did_nothing()
    assert pool.core.next_deadline() == NEVER


def test_reserved_places_count_for_the_limit(drive: Drive) -> None:
    pool, _ = busy(drive, limit=7)
    first, second = defer(pool, 2)
    third = pool.request("a2")
    assert not pool.opened
    assert pool.gauge("waiting") == 3
    assert pool.core.situation("a", pool.now)[1] == "limit"
    pool.give_up(first)
    assert begun(pool) == [third]
    look(pool)
    assert begun(pool) == [second]


def test_reserved_places_count_for_the_limit_of_all(drive: Drive) -> None:
    pool, _ = busy(drive, limit_total=7)
    first, _ = defer(pool, 2)
    other = pool.request("b1")
    assert not pool.opened
    assert pool.core.situation("b", pool.now)[1] == "limit_total"
    pool.give_up(first)
    assert begun(pool) == [other]


def test_reserved_places_count_for_max_connecting(drive: Drive) -> None:
    pool, _ = busy(drive, max_connecting=6)
    defer(pool, 6)
    other = pool.request("a2")
    assert not pool.opened
    look(pool)
    assert len(pool.opened) == 6
    assert other.opening is None


def test_prewarm_does_not_take_what_is_reserved(drive: Drive) -> None:
    pool, _ = busy(drive, max_connecting=6)
    orphan = pool.orphan("a2")
    defer(pool, 5)
    # The handshake that nobody waits for would give way, but only to callers.
    assert pool.open("a3") is None
    pool.stop(orphan)
    pool.closed(orphan)
    assert pool.open("a3") is not None


@pytest.mark.parametrize("limits", [{"max_connecting": 6}, {"limit": 11}, {"limit_total": 11}])
def test_prewarm_begins_in_a_place_that_is_reserved_for_its_handshake(
    drive: Drive, limits: dict[str, int]
) -> None:
    pool, _ = busy(drive, **limits)
    first, *others = defer(pool, 6)
    slot = pool.open("a1")
    assert slot.owner is first
    assert all(waiter.deferred for waiter in others)
    assert pool.size("deferred") == 5
    # Until there is none.
    assert [pool.open("a1") is None for _ in range(6)] == [False] * 5 + [True]
    assert pool.gauge("connecting") == 6


@pytest.mark.parametrize("name", ["limit", "limit_total"])
def test_prewarm_gives_nobody_a_place_that_is_reserved_for_another(drive: Drive, name: str) -> None:
    pool, (slot, _) = busy(drive, 2, **{name: 3})
    (first,) = defer(pool)
    pool.release(slot)
    assert slot.waiter is first
    (second,) = defer(pool)
    # The first is back in line, and the place of its connection is not free yet.
    pool.discard(slot)
    assert pool.did_nothing()
    assert pool.core.open("a", "a1", pool.now) is None
    assert len(pool.core) + pool.core.reserved_count() == 3
    pool.closed(slot)
    assert begun(pool) == [first]
    assert second.deferred


def test_reserved_places_are_counted(drive: Drive) -> None:
    pool, _ = busy(drive)
    defer(pool, 3)
    assert pool.core.reserved_count() == pool.core.reserved_count("a") == 3
    assert pool.core.reserved_count("b") == 0


def test_who_has_a_place_reserved_is_not_queued(drive: Drive) -> None:
    pool, _ = busy(drive, limit=7, max_waiting=1)
    defer(pool, 2)
    assert pool.request("a1").queued
    assert pool.request("a1") is None
    assert pool.counter("rejected") == 1


def test_who_waits_after_drain_gets_a_handshake(drive: Drive) -> None:
    pool, slots = busy(drive)
    (waiter,) = defer(pool)
    pool.drain("a1")
    pool.release(slots[0])
    assert pool.closing == [slots[0]]
    look(pool)
    assert begun(pool) == [waiter]


def test_resize_takes_reserved_places_back(drive: Drive) -> None:
    pool, slots = busy(drive)
    first, second, third = defer(pool, 3)
    pool.resize(limit=6)
    assert begun(pool) == [first]
    assert pool.size("deferred") == 0
    pool.release(slots[0])
    assert pool.woken == [first]
    pool.resize(limit=7)
    assert begun(pool) == [third]
    assert second.opening is not None


@pytest.mark.parametrize("limits", [{}, {"limit": 8}, {"limit_total": 8}, {"limit": 9}])
def test_resize_begins_nothing_where_all_places_are_left(
    drive: Drive, limits: dict[str, int]
) -> None:
    pool, slots = busy(drive, limit=20)
    waiters = defer(pool, 3)
    pool.resize(**limits)
    assert pool.did_nothing()
    assert pool.size("deferred") == 3
    pool.release(slots[0])
    assert pool.woken == waiters[:1]


def test_a_fleet_takes_reserved_places_back(drive: Drive) -> None:
    pool, _ = busy(drive)
    waiters = defer(pool, 3)
    # Enough for what is taken and reserved.
    pool.lead(8)
    assert pool.size("deferred") == 3
    pool.lead(6)
    assert begun(pool) == [waiters[0]]
    assert pool.size("deferred") == 0
    assert pool.core.lacking() == 2


def test_a_handshake_of_prewarm_goes_to_who_waits_longest(drive: Drive) -> None:
    pool, _ = busy(drive)
    first, second = defer(pool, 2)
    slot = pool.open("a1")
    assert slot.owner is first
    assert pool.size("deferred") == 1
    pool.connected(slot)
    assert pool.woken == [first]
    assert second.deferred


def test_who_moves_to_another_key_waits_for_no_release(drive: Drive) -> None:
    pool, _ = slow(drive, 0.125)
    waiters = defer(pool, 3 * 5)
    last = pool.request("a1")
    (slot,) = pool.opened
    pool.connected(slot, key="a2")
    assert pool.woken == waiters[:1]
    assert pool.size("deferred") == 0
    assert begun(pool) == [*waiters[1:], last]


def test_a_failure_leaves_those_alone_that_wait_for_a_release(drive: Drive) -> None:
    pool, _ = slow(drive, 0.125)
    waiters = defer(pool, 3 * 5)
    pool.request("a1")
    (slot,) = pool.opened
    assert pool.failed(slot) is waiters[0]
    assert pool.did_nothing()
    assert pool.size("deferred") == 15


def test_shutdown_returns_who_waits_for_a_release(drive: Drive) -> None:
    pool, slots = busy(drive)
    waiters = defer(pool, 2)
    left, plan = pool.core.shutdown(CLOSE_REASONS.index("forced"), pool.now)
    assert left == waiters
    assert not plan.opened
    for slot in slots:
        pool.closed(slot)
    assert pool.core.next_deadline() == NEVER
    assert pool.is_empty()


def test_who_gives_up_a_handshake_leaves_it_to_no_waiter_with_a_place(drive: Drive) -> None:
    pool, _ = slow(drive, 0.125)
    waiters = defer(pool, 3 * 5)
    waiters.append(pool.request("a1"))
    (slot,) = pool.opened
    pool.begin(slot)
    # Each would get another beside it, and leave that to the next.
    for waiter in waiters:
        pool.give_up(waiter)
        assert pool.did_nothing()
    assert pool.gauge("connecting") == 1 + 1
    assert pool.core.next_deadline() <= pool.now + LOOK_SHARE


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_lost_or_too_old_does_not_tell_that_uses_are_long(
    drive: Drive, is_lost: bool
) -> None:
    pool = drive(defers=True)
    opened = [pool.beginning("a1") for _ in range(2)]
    pool.now += HANDSHAKE
    retires = pool.now + 4 * USE
    for waiter, slot in opened:
        pool.connected(slot, retires)
        assert pool.take(waiter) is slot
    pool.now += USE
    for _, slot in opened:
        pool.release(slot)
    slots = [pool.acquire("a1") for _ in range(2)]
    waiters = defer(pool, 2)
    pool.now = retires
    for slot in slots:
        if is_lost:
            pool.discard(slot)
        else:
            pool.release(slot)
        pool.closed(slot)
    look(pool)
    assert begun(pool) == waiters
    for opening in list(pool.opened):
        pool.connected(opening)
    for waiter in waiters:
        pool.take(waiter)
    defer(pool)


# -- callers that have less time than until a look -----------------------------------------------


def try_briefly(pool: Driver, seconds: float) -> Any:
    """Return who has waited for so long, and given up."""
    waiter = pool.request("a1")
    pool.now += seconds
    pool.expire()
    pool.give_up(waiter, timed_out=True)
    return waiter


@pytest.mark.parametrize("pause", [0.0, LOOK / 4, 10 * LOOK])
def test_long_uses_are_noticed_though_nobody_waits_until_a_look(drive: Drive, pause: float) -> None:
    pool, _ = busy(drive)
    tries = 0
    while pool.gauge("connecting") == 0:
        tries += 1
        assert tries <= 3
        try_briefly(pool, LOOK * 3 / 4)
        end = pool.now + pause
        while pool.core.next_deadline() <= end:
            look(pool)
        pool.now = end
    # Who comes back later finds what was begun.
    pool.now += 1
    assert pool.request("a1").opening is not None


def test_a_look_after_the_last_has_given_up_is_the_last(drive: Drive) -> None:
    pool, _ = busy(drive)
    try_briefly(pool, LOOK / 2)
    look(pool)
    assert pool.did_nothing()
    assert pool.core.next_deadline() == NEVER


def test_a_look_after_the_last_has_given_up_tells_nothing_if_it_is_late(drive: Drive) -> None:
    pool, _ = busy(drive)
    try_briefly(pool, LOOK / 2)
    pool.now += 3 * LOOK
    pool.expire()
    defer(pool)
    look(pool)
    assert len(pool.opened) == 1


def test_a_release_tells_that_uses_are_short_as_ever(drive: Drive) -> None:
    pool, (slot, *_) = busy(drive)
    try_briefly(pool, LOOK / 4)
    pool.release(slot)
    assert pool.acquire("a1") is slot
    # It is looked at from now on.
    defer(pool)
    assert pool.core.next_deadline() == pool.now + LOOK
    pool.release(slot)
    pool.take(slot.waiter)
    try_briefly(pool, LOOK / 4)
    pool.release(slot)
    assert pool.acquire("a1") is slot
    # Nor does it tell anything that nobody was served.
    look(pool)
    assert pool.core.next_deadline() == NEVER
    defer(pool)


def test_nothing_is_looked_at_once_nothing_is_left(drive: Drive) -> None:
    pool, slots = busy(drive)
    try_briefly(pool, LOOK / 4)
    for slot in slots:
        pool.lose(slot)
    assert pool.core.next_deadline() == NEVER
    assert pool.is_empty()


# -- lines that end and begin again --------------------------------------------------------------


def test_where_callers_come_one_after_another_one_more_begins_in_the_end(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1)
    began = pool.now
    (waiter,) = defer(pool)
    while True:
        pool.now += USE
        pool.release(slot)
        assert pool.take(waiter) is slot
        # Who has released comes again.
        waiter = pool.request("a1")
        if pool.opened:
            break
    assert pool.now == began + DEFER_SHARE * HANDSHAKE
    # Until that is open, others wait as before.
    defer(pool)


def test_a_line_has_ended_where_nobody_has_waited_for_as_long_as_a_use(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1)
    for _ in range(200):
        (waiter,) = defer(pool)
        pool.now += USE
        pool.release(slot)
        assert pool.take(waiter) is slot
        pool.now += USE
        pool.release(slot)
        pool.now += USE / 4
        assert pool.acquire("a1") is slot


def test_handshakes_that_are_due_together_begin_in_the_order_of_the_lines(drive: Drive) -> None:
    pool = learnt(drive)
    other = pool.hold("a2")
    pool.now += USE
    pool.release(other)
    assert pool.acquire("a2") is other
    (slot, *_) = [pool.acquire("a1") for _ in range(5)]
    # A line that ends, and begins again behind that of another handshake.
    (first,) = defer(pool)
    pool.release(slot)
    assert pool.take(first) is slot
    second = pool.request("a2")
    assert second.deferred
    (third,) = defer(pool)
    look(pool)
    assert begun(pool) == [second, third]


def test_lines_that_come_and_go_leave_nothing_behind(drive: Drive) -> None:
    pool, (slot,) = busy(drive, 1)
    for _ in range(200):
        (waiter,) = defer(pool)
        pool.release(slot)
        assert pool.take(waiter) is slot
    # Each has said when to look.
    assert pool.size("look_heap") <= 2 + 17


# -- rushes, in virtual time ---------------------------------------------------------------------

#: Timers that are exact, and those of uvloop.
TICKS = (0.0, 0.001)


def check(found: Comparison) -> None:
    assert found.is_in_time, (found.time, max(found.lateness))


@pytest.mark.parametrize("tick", TICKS)
def test_a_spike_opens_few_connections(core: ModuleType, tick: float) -> None:
    found = compare(core, loads.constant_rush(0.002, 0.15, tick=tick))
    assert len(found.at_once.begun) == 45
    assert len(found.default.begun) + found.load.idle <= 8
    assert found.time <= MOST_TIME
    check(found)


@pytest.mark.parametrize("tick", TICKS)
@pytest.mark.parametrize("use", [0.001, 0.005, 0.01])
def test_where_uses_end_together_nobody_connects_before(
    core: ModuleType, use: float, tick: float
) -> None:
    found = compare(core, loads.constant_rush(use, 0.15, 20, tick=tick))
    assert len(found.at_once.begun) == 15
    assert not found.default.begun
    check(found)


@pytest.mark.parametrize("tick", TICKS)
def test_for_long_uses_all_connect_at_once(core: ModuleType, tick: float) -> None:
    found = compare(core, loads.constant_rush(LONG, 0.15, tick=tick))
    assert found.default.begun == found.at_once.begun == [0.0] * 45
    assert found.default.waits == found.at_once.waits


@pytest.mark.parametrize("tick", TICKS)
@pytest.mark.parametrize("handshake", [0.02, 0.05, 0.15, 0.5])
def test_uses_that_have_become_long_are_noticed(
    core: ModuleType, handshake: float, tick: float
) -> None:
    found = compare(core, loads.rush(0.002, handshake, LONG, tick=tick))
    assert len(found.default.begun) == 45
    # A timer fires up to a tick late.
    assert max(found.lateness) <= MOST_LATE + tick / handshake
    check(found)


@pytest.mark.parametrize("handshake", [0.001, 0.01, 0.05, 0.15, 0.5])
@pytest.mark.parametrize("use", [0.001, 0.003, 0.01, 0.03, 0.1, 1.0, LONG])
def test_no_rush_is_served_later_than_otherwise(
    core: ModuleType, use: float, handshake: float
) -> None:
    known = compare(core, loads.rush(use, handshake, tick=0.001))
    check(known)
    assert len(known.default.begun) <= len(known.at_once.begun)
    check(compare(core, loads.rush(use, handshake, LONG, tick=0.001)))


@pytest.mark.parametrize("make", [loads.mixed_rush, loads.mixed_stream])
@pytest.mark.parametrize("shape", loads.SHAPES)
def test_no_caller_of_a_mixed_load_is_much_later(core: ModuleType, make: Any, shape: str) -> None:
    lateness: list[float] = []
    for seed in range(5):
        found = compare(core, make(shape, seed, tick=0.001))
        lateness += found.lateness
        if len(found.load.callers) <= 100:
            # Beyond that, callers wait for others' handshakes as well.
            longest = max(found.load.handshakes) + SLACK
            most = longest + (DEFER_SHARE + 2 * LOOK_SHARE) * min(found.load.handshakes)
            assert max(map(max, found.default.waits)) <= most
    assert sum(late > MOST_LATE for late in lateness) <= 0.02 * len(lateness)


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_nobody_is_forgotten_in_a_crowd(core: ModuleType, seed: int, is_limited: bool) -> None:
    load = loads.crowd(seed, is_limited)
    simulation = Watched(core, DEFAULT, load)
    # It ends when nothing is left to happen, and then nobody waits.
    found = simulation.run()
    longest = max(load.handshakes)
    # A timer may be late for each of two looks.
    most = (DEFER_SHARE + 2 * LOOK_SHARE) * longest + SLACK
    assert simulation.longest_deferral <= most
    if not is_limited:
        assert max(wait for waits in found.waits for wait in waits) <= longest + most


@pytest.mark.parametrize("name", others(0.0))
@pytest.mark.parametrize("tick", TICKS)
def test_what_happens_in_the_middle_is_noticed(core: ModuleType, name: str, tick: float) -> None:
    found = compare(core, others(tick)[name])
    # With one handshake at a time, some of these take 40 times as long.
    assert max(found.lateness) <= 1 + 0.05 + max(DEFER_SHARE / 2, 2 * LOOK_SHARE)
    assert len(found.default.begun) <= len(found.at_once.begun)


def test_where_callers_come_again_and_again_the_pool_grows(core: ModuleType) -> None:
    found = compare(core, loads.constant_rush(0.002, 0.15, times=100, tick=0.001))
    assert len(found.default.begun) > 35
    assert found.default.done < 1.5 * found.at_once.done
    assert found.one_at_a_time.done > 3 * found.at_once.done


@pytest.mark.parametrize(("callers", "idle"), [(2, 1), (3, 2), (4, 1), (6, 5), (12, 5)])
@pytest.mark.parametrize("use", [0.002, 0.005, 0.02])
def test_few_callers_that_come_again_and_again_do_not_share_for_ever(
    core: ModuleType, callers: int, idle: int, use: float
) -> None:
    load = loads.constant_rush(use, 0.15, callers, times=400, idle=idle, tick=0.001)
    found = compare(core, load)
    assert found.default.done <= found.at_once.done + 2 * load.handshake
    assert len(found.default.begun) <= callers - idle


@pytest.mark.slow
def test_tables_and_plot_show_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    tables = []
    for name in ("first.svg", "second.svg"):
        assert main(["--runs", "1", "--plot", str(tmp_path / name)]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert all(shape in tables[0] for shape in loads.SHAPES)
    assert tables[0].count("\nmet: ") == 2
    assert "MISSED" not in tables[0]
    drawn = (tmp_path / "first.svg").read_text()
    assert drawn == (tmp_path / "second.svg").read_text()
    assert "150 ms" in drawn
