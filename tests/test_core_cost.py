"""What an operation of the core costs does not grow with what there is.

Counted are the lines of the reference that run; the compiled core is the same, line for line.
"""

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from aiowebsocketclient import _core, _lists, _pool_py, _records
from aiowebsocketclient._pool_py import ACQUIRED, IDLE, Pool, Slot, Waiter

FEW, MANY = 30, 1000

SOURCES = {module.__file__ for module in (_core, _lists, _records)}


def lines_run(action: Callable[[], object]) -> int:
    """Return how many lines of the core an action runs."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in SOURCES:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


class Crowd:
    """A pool, and callers of it.  The first item of a handshake's key is its endpoint's."""

    def __init__(self, **limits: Any) -> None:
        self.pool = Pool(**limits)
        self.held: list[Slot] = []
        self.idle_slots: list[Slot] = []
        self.queued: list[Waiter] = []

    def request(self, key: tuple[str, ...]) -> tuple[Waiter, list[Slot]]:
        waiter, plan = self.pool.request(key[0], key, 0.0)
        assert waiter is not None
        for slot in plan.closing:
            self.pool.closed(slot, 0.0)
        return waiter, plan.opened

    def hold(self, key: tuple[str, ...]) -> None:
        waiter, opened = self.request(key)
        for slot in opened:
            self.pool.connected(slot, 0.0)
        assert waiter.slot is not None
        self.held.append(waiter.slot)
        self.pool.take(waiter)

    def idle(self, key: tuple[str, ...]) -> None:
        self.hold(key)
        self.idle_slots.append(self.held[-1])

    def wait(self, key: tuple[str, ...]) -> None:
        self.queued.append(self.request(key)[0])

    def park(self) -> None:
        for slot in self.idle_slots:
            self.pool.release(slot, 0.0)
            self.held.remove(slot)


def idle_of_one_handshake(size: int) -> Crowd:
    crowd = Crowd(max_idle=60.0)
    for _ in range(size):
        crowd.idle(("a", "1"))
    crowd.park()
    return crowd


def idle_of_many_handshakes(size: int) -> Crowd:
    crowd = Crowd(max_idle=60.0)
    for number in range(size):
        crowd.idle(("a", str(number)))
    crowd.park()
    return crowd


def idle_at_many_endpoints(size: int) -> Crowd:
    crowd = Crowd(limit=3, limit_total=2 * size, max_idle=60.0)
    for number in range(size):
        crowd.idle((f"a{number}", "1"))
    crowd.park()
    return crowd


def idle_at_the_limit(size: int) -> Crowd:
    crowd = Crowd(limit=size, max_idle=60.0)
    for number in range(size):
        crowd.idle(("a", str(number % 7)))
    crowd.park()
    return crowd


def idle_at_the_total(size: int) -> Crowd:
    crowd = Crowd(limit_total=size, max_idle=60.0)
    for number in range(size):
        crowd.idle((f"a{number}", "1"))
    crowd.park()
    return crowd


def idle_at_the_bound(size: int) -> Crowd:
    crowd = Crowd(max_idle_connections=size, max_idle=60.0)
    for number in range(size):
        crowd.idle(("a", str(number)))
    crowd.park()
    return crowd


def idle_at_the_bound_at_many_endpoints(size: int) -> Crowd:
    crowd = Crowd(max_idle_connections=size, max_idle=60.0)
    for number in range(size):
        crowd.idle((f"a{number}", "1"))
    crowd.park()
    return crowd


def in_use(size: int) -> Crowd:
    crowd = Crowd()
    for _ in range(size):
        crowd.hold(("a", "1"))
    return crowd


def waiting_for_one_handshake(size: int) -> Crowd:
    crowd = Crowd(limit=1)
    crowd.hold(("a", "1"))
    for _ in range(size):
        crowd.wait(("a", "1"))
    return crowd


def waiting_for_many_handshakes(size: int) -> Crowd:
    crowd = Crowd(limit=2, max_waiting=10 * size)
    crowd.hold(("a", "1"))
    crowd.hold(("a", "2"))
    for number in range(size):
        crowd.wait(("a", str(number)))
    return crowd


def waiting_at_many_endpoints(size: int) -> Crowd:
    crowd = Crowd(limit=2, limit_total=2)
    crowd.hold(("a1", "1"))
    crowd.hold(("a2", "1"))
    for number in range(size):
        crowd.wait((f"a{number}", "1"))
    return crowd


def connecting(size: int) -> Crowd:
    crowd = Crowd(max_connecting=size)
    for _ in range(2 * size):
        crowd.wait(("a", "1"))
    return crowd


def deferred(size: int) -> Crowd:
    crowd = Crowd(defers=True)
    _, (slot,) = crowd.request(("a", "1"))
    crowd.pool.begin(slot, -1000.0)
    crowd.pool.connected(slot, 0.0)
    assert slot.waiter is not None
    crowd.pool.take(slot.waiter)
    crowd.pool.release(slot, 0.0)
    crowd.hold(("a", "1"))
    for _ in range(size):
        crowd.wait(("a", "1"))
    assert crowd.pool.sizes()["deferred"] == size
    return crowd


def connecting_for_nobody(size: int) -> Crowd:
    crowd = Crowd(limit_total=2 * size)
    for number in range(size):
        slot = crowd.pool.open("a", ("a", str(number)), 0.0)
        assert slot is not None
        if number % 2:
            crowd.pool.abandon(slot, 0.0)
    return crowd


CROWDS = [
    idle_of_one_handshake,
    idle_of_many_handshakes,
    idle_at_many_endpoints,
    idle_at_the_limit,
    idle_at_the_total,
    idle_at_the_bound,
    idle_at_the_bound_at_many_endpoints,
    in_use,
    waiting_for_one_handshake,
    waiting_for_many_handshakes,
    waiting_at_many_endpoints,
    connecting,
    deferred,
    connecting_for_nobody,
]


def day(crowd: Crowd, numbers: "count[int]") -> None:
    """Do a little of everything, beside the crowd and in it."""
    pool = crowd.pool
    for key in (("a", "1"), ("a", "new"), (f"new{next(numbers)}", "1")):
        waiter, plan = pool.request(key[0], key, 1.0)
        assert waiter is not None
        carry_out(pool, plan)
        slot = pool.take(waiter)
        if slot is None:
            carry_out(pool, pool.give_up(waiter, 1.0, True))
            continue
        carry_out(pool, pool.release(slot, 1.0))
        again = pool.acquire(key, 1.0)
        if again is not None:
            carry_out(pool, pool.release(again, 1.0))
        if slot.state == IDLE:
            carry_out(pool, pool.discard(slot, 2, 1.0))
            carry_out(pool, pool.closed(slot, 1.0))
    for key in (("a", "1"), ("b", "1")):
        opened = pool.open(key[0], key, 1.0)
        if opened is not None:
            pool.abandon(opened, 1.0)
            carry_out(pool, pool.connect_failed(opened, 1.0)[1])
        pool.open_count(key)
        pool.spare_count(key, 3)
    for leave in (pool.release, pool.detach):
        slot = crowd.held.pop() if crowd.held else None
        if slot is not None and slot.state == ACQUIRED and slot.waiter is None:
            carry_out(pool, leave(slot, 1.0))
    for place in (0, len(crowd.queued) // 2, -1):
        if crowd.queued:
            carry_out(pool, pool.give_up(crowd.queued.pop(place), 1.0, False))
    carry_out(pool, pool.expire(1.0))
    pool.next_deadline()


def days(crowd: Crowd, numbers: "count[int]", times: int) -> None:
    for _ in range(times):
        day(crowd, numbers)


def carry_out(pool: Pool, plan: Any) -> None:
    """Let all that is opened come to be, and all that is closing end."""
    if isinstance(plan, _pool_py.Plan):
        for slot in plan.opened:
            carry_out(pool, pool.connected(slot, 1.0))
        for slot in plan.closing:
            carry_out(pool, pool.closed(slot, 1.0))


@pytest.mark.parametrize("crowd_of", CROWDS, ids=lambda function: function.__name__)
def test_cost_does_not_grow_with_what_there_is(crowd_of: Callable[[int], Crowd]) -> None:
    def cost(size: int) -> int:
        crowd, numbers = crowd_of(size), count()
        # What is put right now and then is put right on the way.
        return lines_run(lambda: days(crowd, numbers, 10))

    assert cost(MANY) <= 1.2 * cost(FEW)


@pytest.mark.parametrize("crowd_of", CROWDS, ids=lambda function: function.__name__)
def test_cost_of_a_crowd_is_that_of_each(crowd_of: Callable[[int], Crowd]) -> None:
    def cost(size: int) -> float:
        return lines_run(lambda: crowd_of(size)) / size

    assert cost(MANY) <= 1.2 * cost(FEW)


def test_cost_of_taking_reserved_places_back_is_that_of_each() -> None:
    def cost(size: int) -> float:
        crowd = deferred(size)
        return lines_run(lambda: crowd.pool.resize(1, 0, 1.0)) / size

    assert cost(MANY) <= 1.2 * cost(FEW)
