"""The core alone: what is kept and counted, misuse, and the end."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from aiowebsocketclient._pool_py import CLOSE_REASONS, CLOSING, COUNTERS, IDLE, ORPHAN_GRACE

from .conftest import told
from .driver import Drive

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


def test_a_graceful_shutdown_spares_what_is_in_use(drive: Drive) -> None:
    pool = drive(limit=4, cooldown=60)
    used, given, idle = pool.hold("a1"), pool.hold("a1"), pool.hold("a1")
    receiver = pool.request("a1")
    waiters = [pool.request("a1")]
    pool.release(given)
    assert set(pool.shutdown(spares_used=True)) == {receiver, *waiters}
    assert used not in pool.closing
    assert given in pool.closing
    # A given connection is taken back: its caller has not begun to use it.
    assert pool.take(receiver) is None
    pool.release(used)
    assert pool.closing == [used]
    pool.detach(idle)
    for slot in (used, given, *(slot for slot in pool.core.slots() if slot.state == CLOSING)):
        pool.closed(slot)
    assert len(pool.core) == 0


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
        lambda: pool.core.request([], "a1", 0.0),
        lambda: pool.core.request("a", [], 0.0),
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
        lambda: pool.core.request("a", "a1", None),
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
        lambda: blank.request("a", "a1", 0.0),
        lambda: core.Pool().connected(slot, 0.0),
        lambda: core.Pool().connect_failed(slot, 0.0),
        lambda: slot.key,
        lambda: slot.endpoint,
    ):
        with pytest.raises((TypeError, AttributeError)):
            call()


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
    waiter, _ = pool.request("a", key, 0.0, True, slot.handshake)
    pool.release(slot, 0.0)
    assert pool.take(waiter) is slot
    pool.release(slot, 0.0)
    assert key.looked_up == 0
    assert pool.acquire(key, 0.0) is slot
    assert key.looked_up == 1


def test_a_stale_connection_takes_its_record_along(core: ModuleType) -> None:
    pool = core.Pool(max_idle=1.0)
    waiter, plan = pool.request("a", "a1", 0.0)
    (slot,) = plan.opened
    pool.connected(slot, 0.0)
    pool.release(pool.take(waiter), 0.0)
    record = slot.handshake
    assert pool.acquire("a1", 5.0, record) is None
    assert not record.dropped
    # Closed for being stale, while another record is made for who asks.
    waiter, plan = pool.request("a", "a1", 5.0, True, record)
    assert record.dropped
    assert len(plan.closing) == len(plan.opened) == 1
    assert waiter.handshake is plan.opened[0].handshake is not record
    assert not waiter.handshake.dropped
    assert pool.sizes()["handshakes"] == 1


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
