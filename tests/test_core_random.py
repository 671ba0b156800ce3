"""The two cores in lockstep, through random histories, held to what must always hold.

Compiled, the core must do exactly what the reference does.  The reference alone goes the same way,
so that a pure build is held to the invariants too.
"""

import math
from collections import Counter
from collections.abc import Iterable
from random import Random
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aiowebsocketclient import _pool_py as reference
from aiowebsocketclient._pool_py import (
    ACQUIRED,
    CLOSE_REASONS,
    CLOSING,
    CONNECTING,
    COUNTERS,
    GAUGES,
    GONE,
    IDLE,
    MAX_PASSED_OVER,
    ORPHAN_GRACE,
)

# The endpoints are "a", "b" and "c"; most happens at the first.
KEYS = ["a1", "a2", "a1", "a2", "a3", "b1", "b2", "c1"]
STATE_GAUGES = {"connecting": CONNECTING, "acquired": ACQUIRED, "idle": IDLE, "closing": CLOSING}

# A failure takes its time to be made small.
pytestmark = pytest.mark.timeout(300)


class Limits(NamedTuple):
    limit: int
    limit_total: int
    max_connecting: int
    max_waiting: int
    max_idle: float


class Plan(NamedTuple):
    """A plan in numbers."""

    opened: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    woken: tuple[int, ...] = ()


class Side:
    """One core, with its slots and waiters numbered in the order in which they come out of it."""

    def __init__(self, core: ModuleType, limits: Limits) -> None:
        self.core = core
        self.pool = core.Pool(**limits._asdict())
        self.slots: list[Any] = []
        self.waiters: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, thing: Any) -> int | None:
        if thing is None:
            return None
        if thing not in self._numbers:
            things = self.slots if isinstance(thing, self.core.Slot) else self.waiters
            self._numbers[thing] = len(things)
            things.append(thing)
        return self._numbers[thing]

    def numbers(self, things: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(self.number(thing) for thing in things)

    def call(self, name: str, arguments: tuple[Any, ...], slot: Any, waiter: Any) -> Any:
        if slot is not None:
            arguments = (self.slots[slot], *arguments)
        elif waiter is not None:
            arguments = (self.waiters[waiter], *arguments)
        return self.in_numbers(getattr(self.pool, name)(*arguments))

    def in_numbers(self, answer: Any) -> Any:
        if isinstance(answer, self.core.Plan):
            plan = (answer.opened, answer.closing, answer.woken)
            return Plan(*(self.numbers(things) for things in plan))
        if isinstance(answer, (tuple, list)):
            return tuple(self.in_numbers(item) for item in answer)
        if isinstance(answer, (self.core.Slot, self.core.Waiter)):
            return self.number(answer)
        return answer

    def slot_in_numbers(self, number: int) -> tuple[Any, ...]:
        slot = self.slots[number]
        return (
            slot.state,
            slot.key,
            slot.endpoint,
            self.number(slot.owner),
            self.number(slot.waiter),
            (slot.born, slot.since, slot.retires, slot.expires),
            (slot.uses, slot.kept),
        )

    def waiter_in_numbers(self, number: int) -> tuple[Any, ...]:
        waiter = self.waiters[number]
        return (
            waiter.handshake.key,
            waiter.queued,
            self.number(waiter.opening),
            self.number(waiter.slot),
            (waiter.ticket, waiter.since, waiter.passed),
        )

    def seen(self, slots: Iterable[int], waiters: Iterable[int]) -> tuple[Any, ...]:
        """Return all that can be seen from outside."""
        pool = self.pool
        return (
            len(pool),
            pool.gauges(),
            pool.counters(),
            pool.by_endpoint(),
            pool.sizes(),
            pool.next_deadline(),
            self.numbers(pool.slots()),
            [pool.open_count(key) for key in KEYS],
            [self.slot_in_numbers(number) for number in slots],
            [self.waiter_in_numbers(number) for number in waiters],
        )


def pick(things: Iterable[Any], which: int) -> Any:
    """Return one of them, or None where there are none."""
    things = list(things)
    return things[which % len(things)] if things else None


class History:
    """What was done to the cores, and a model of what must have come of it."""

    def __init__(self, core: ModuleType, limits: Limits) -> None:
        self.limits = limits
        self.reference = Side(reference, limits)
        self.sides = [self.reference]
        if core is not reference:
            self.sides.append(Side(core, limits))
        self.now = 0.0
        #: The states of the slots that are not gone, as the plans and answers tell them.
        self.states: dict[int, int] = {}
        self.uses: Counter[int] = Counter()
        self.kept: list[int] = []
        #: Waiters in line, with the time they came, and those that were given a slot.
        self.waiting: dict[int, float] = {}
        self.given: dict[int, int] = {}
        self.given_at: dict[int, float] = {}
        self.seconds_in_vain = 0.0
        self.counted: Counter[str] = Counter()
        self.passed: Counter[int] = Counter()

    # -- asking the cores ------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any, slot: Any = None, waiter: Any = None) -> Any:
        answers = [side.call(name, arguments, slot, waiter) for side in self.sides]
        assert all(answer == answers[0] for answer in answers), (name, answers)
        return answers[0]

    def slot(self, number: int) -> Any:
        return self.sides[-1].slots[number]

    def waiter(self, number: int) -> Any:
        return self.sides[-1].waiters[number]

    def in_state(self, *states: int) -> list[int]:
        return [number for number, state in self.states.items() if state in states]

    def in_hand(self) -> list[int]:
        """Return the slots that callers have taken."""
        given = set(self.given.values())
        return [number for number in self.in_state(ACQUIRED) if number not in given]

    # -- the model -------------------------------------------------------------------------------

    def carry_out(self, plan: Plan | None, owner: int | None = None) -> None:
        if plan is None:
            return
        for number in plan.opened:
            assert number not in self.states
            assert self.slot(number).owner is not None
            self.states[number] = CONNECTING
        evicted = [number for number in plan.closing if self.states[number] == IDLE]
        for number in plan.closing:
            self.close(number)
        for number in plan.woken:
            self.serve(number)
        self.check_order(plan, owner)
        self.check_giving(evicted)

    def close(self, number: int) -> None:
        if self.states[number] != CONNECTING:
            self.counted["closed"] += 1
        assert self.states[number] != CLOSING
        self.states[number] = CLOSING

    def serve(self, number: int) -> None:
        self.leave(number)
        self.give(number, self.sides[-1].number(self.waiter(number).slot))

    def give(self, waiter: int, slot: Any) -> None:
        self.given[waiter] = slot
        self.given_at[waiter] = self.now
        self.use(slot)
        self.counted["reused"] += self.uses[slot] > 1

    def use(self, slot: int) -> None:
        self.states[slot] = ACQUIRED
        self.uses[slot] += 1

    def park(self, slot: int) -> None:
        """Say that a connection is idle if the plan did not say otherwise."""
        if self.states[slot] == ACQUIRED and self.slot(slot).waiter is None:
            assert self.slot(slot).retires > self.now
            self.states[slot] = IDLE

    def leave(self, number: int) -> None:
        self.counted["wait_seconds"] += self.now - self.waiting.pop(number)

    def check_order(self, plan: Plan, owner: int | None) -> None:
        """Check that first come is first served: among callers of one handshake, and for places."""
        for number in plan.woken:
            if number != owner:
                key = self.waiter(number).handshake.key
                assert not any(
                    other < number and self.waiter(other).handshake.key == key
                    for other in self.waiting
                )
        if self.has_returned():
            return
        for opened in plan.opened:
            waiter = self.reference.slots[opened].owner
            for endpoint in "abc":
                if endpoint == self.endpoint_of(opened) or self.lacks_only_room_over_all(endpoint):
                    first = min(self.line(endpoint), default=math.inf)
                    assert waiter.returned or first > self.reference.number(waiter)

    def check_fresh(self, number: int) -> None:
        """Check what is handed out to one who need not wait for it."""
        slot = self.slot(number)
        assert self.states[number] == IDLE
        assert not self.is_stale(slot)
        for other in map(self.slot, self.in_state(IDLE)):
            assert other.key != slot.key or other.since <= slot.since or self.is_stale(other)

    def check_giving(self, evicted: list[int]) -> None:
        """Check that no more connections give way than are asked for, and the longest idle ones."""
        pool = self.reference.pool
        for number in evicted:
            slot = self.reference.slots[number]
            if slot.giving == reference._FOR_LIMIT:
                assert slot.handshake.endpoint.giving <= self.wanted(slot.endpoint)
                rest = [*self.in_state(IDLE), *self.orphans()]
                self.check_victim(slot, [n for n in rest if self.endpoint_of(n) == slot.endpoint])
            elif slot.giving == reference._FOR_TOTAL:
                assert pool._giving <= sum(self.wanted(endpoint) for endpoint in "abc")
                self.check_victim(slot, [*self.in_state(IDLE), *self.orphans()])

    def check_victim(self, slot: Any, rest: list[int]) -> None:
        for number in rest:
            assert self.states[number] == IDLE
            assert self.slot(number).since >= slot.since

    # -- what is done ----------------------------------------------------------------------------

    def tick(self, a: int, b: int) -> None:
        self.now += (0.25, 1.0, 2.0, ORPHAN_GRACE)[a % 4]

    def acquire(self, a: int, b: int) -> None:
        slot = self.call("acquire", pick(KEYS, a), self.now)
        if slot is not None:
            self.check_fresh(slot)
            self.counted["requests"] += 1
            self.use(slot)
            self.counted["reused"] += self.uses[slot] > 1

    def request(self, a: int, b: int) -> None:
        key = pick(KEYS, a)
        may_wait = b % 8 != 0
        line, has_room = len(self.line(key[0])), self.has_room(key[0])
        waiter, plan = self.call("request", key[0], key, None, self.now, may_wait)
        self.counted["requests"] += 1
        if waiter is None:
            self.counted["rejected" if may_wait else "timeouts"] += 1
            assert not plan.opened
            assert not plan.woken
            assert not may_wait or line >= self.limits.max_waiting >= 0
            assert not may_wait or not has_room
        elif (slot := self.sides[-1].number(self.waiter(waiter).slot)) is not None:
            self.check_fresh(slot)
            self.give(waiter, slot)
        else:
            self.counted["queued"] += 1
            self.waiting[waiter] = self.now
        self.carry_out(plan)
        if waiter in self.waiting and self.limits.max_waiting >= 0:
            self.check_admission(waiter, key[0])

    def check_admission(self, waiter: int, endpoint: str) -> None:
        """Check that the line is not longer than it may be, without those as good as served."""
        if self.waiter(waiter).opening is None:
            wanted, cleared = self.wanted(endpoint), self.count(endpoint, CLOSING)
            if not self.is_at_limit(endpoint):
                # These may have to wait for one after the other.
                wanted = min(wanted, self.places_below_limit(endpoint) + cleared)
                cleared = len(self.in_state(CLOSING, IDLE)) + len(self.orphans())
            line = len(self.line(endpoint)) - min(cleared, wanted)
            assert line <= self.limits.max_waiting

    def take(self, a: int, b: int) -> None:
        waiter = pick((*self.given, *self.waiting), a)
        if waiter is not None:
            assert self.call("take", waiter=waiter) == self.given.pop(waiter, None)

    def give_up(self, a: int, b: int) -> None:
        waiter = pick((*self.waiting, *self.given), a)
        if waiter is None:
            return
        timed_out = bool(b % 2)
        if waiter in self.waiting:
            self.leave(waiter)
        self.counted["timeouts"] += timed_out
        self.carry_out(self.call("give_up", self.now, timed_out, waiter=waiter))

    def connected(self, a: int, b: int) -> None:
        slot = pick(self.in_state(CONNECTING), a)
        if slot is None:
            return
        owner = self.slot(slot).owner
        number = self.sides[-1].number(owner)
        retires = math.inf if b % 4 else self.now + b % 9 - 1.0
        key = None
        if b % 5 == 0:
            key = self.slot(slot).endpoint + "123"[b % 3]
        is_other = key is not None and key != self.slot(slot).key
        self.counted["connects"] += 1
        self.counted["connect_seconds"] += self.now - self.slot(slot).born
        self.states[slot] = ACQUIRED
        plan = self.call("connected", self.now, retires, key, slot=slot)
        self.carry_out(plan, number if is_other else None)
        self.park(slot)
        assert owner is None or not owner.queued or not is_other

    def connect_failed(self, a: int, b: int) -> None:
        slot = pick(self.in_state(CONNECTING), a)
        if slot is None:
            return
        expected = self.sides[-1].number(self.slot(slot).owner)
        self.counted["connect_errors"] += 1
        self.counted["connect_seconds"] += self.now - self.slot(slot).born
        del self.states[slot]
        owner, plan = self.call("connect_failed", self.now, slot=slot)
        assert owner == expected
        if owner is not None:
            self.leave(owner)
        self.carry_out(plan)

    def release(self, a: int, b: int) -> None:
        slot = pick(self.in_hand(), a)
        if slot is None:
            return
        rival = self.passed_over(slot)
        self.counted["released"] += 1
        plan = self.call("release", self.now, slot=slot)
        self.carry_out(plan)
        self.park(slot)
        if rival is not None and self.states[slot] == ACQUIRED:
            self.passed[rival] += 1
            assert self.passed[rival] <= MAX_PASSED_OVER

    def discard(self, a: int, b: int) -> None:
        slot = pick(self.states, a)
        if slot is None:
            return
        if self.states[slot] in (IDLE, ACQUIRED):
            self.close(slot)
        waiter = self.sides[-1].number(self.slot(slot).waiter)
        if waiter is not None:
            assert self.given.pop(waiter) == slot
            self.waiting[waiter] = self.now
            self.seconds_in_vain += self.now - self.given_at[waiter]
            self.counted["reused"] -= self.uses[slot] > 1
        self.carry_out(self.call("discard", b % len(CLOSE_REASONS), self.now, slot=slot))

    def closed(self, a: int, b: int) -> None:
        # Now and then of one that is not closing, which says nothing.
        slot = pick(self.in_state(CLOSING) if b % 8 else self.states, a)
        if slot is None:
            return
        if self.states[slot] == CLOSING:
            del self.states[slot]
        self.carry_out(self.call("closed", self.now, slot=slot))

    def misuse(self, a: int, b: int) -> None:
        slot = pick(self.in_state(CONNECTING, IDLE, CLOSING), a)
        if slot is not None:
            with pytest.raises(ValueError, match="acquired"):
                self.sides[b % len(self.sides)].call("release", (self.now,), slot, None)

    def expire(self, a: int, b: int) -> None:
        due = {number for number in self.in_state(IDLE) if self.is_stale(self.slot(number))}
        for number in self.orphans():
            slot = self.slot(number)
            if number not in self.kept and slot.since + ORPHAN_GRACE <= self.now:
                due.add(number)
        plan = self.call("expire", self.now)
        assert {*plan.closing} == due
        self.carry_out(plan)

    def is_stale(self, slot: Any) -> bool:
        return min(slot.since + self.limits.max_idle, slot.retires) <= self.now

    def open(self, a: int, b: int) -> None:
        key = pick(KEYS, a)
        slot = self.call("open", key[0], key, self.now)
        if slot is not None:
            self.states[slot] = CONNECTING
            self.kept.append(slot)

    def abandon(self, a: int, b: int) -> None:
        slot = pick(self.kept, a)
        if slot is not None:
            self.kept.remove(slot)
            self.call("abandon", self.now, slot=slot)

    # -- what must hold --------------------------------------------------------------------------

    def orphans(self) -> list[int]:
        return [slot for slot in self.in_state(CONNECTING) if self.slot(slot).owner is None]

    def endpoint_of(self, slot: int) -> str:
        return self.slot(slot).endpoint

    def placeless(self) -> list[int]:
        return [waiter for waiter in self.waiting if self.waiter(waiter).opening is None]

    def line(self, endpoint: str) -> list[int]:
        return [n for n in self.placeless() if self.waiter(n).handshake.key[0] == endpoint]

    def count(self, endpoint: str, *states: int) -> int:
        return sum(self.endpoint_of(slot) == endpoint for slot in self.in_state(*states))

    def places_below_limit(self, endpoint: str) -> float:
        limit = self.limits.limit or math.inf
        return limit - self.count(endpoint, CONNECTING, ACQUIRED, IDLE, CLOSING)

    def is_at_limit(self, endpoint: str) -> bool:
        return self.places_below_limit(endpoint) <= 0

    def is_at_total(self) -> bool:
        return 0 < self.limits.limit_total <= len(self.states)

    def lacks_only_room_over_all(self, endpoint: str) -> bool:
        connecting = self.count(endpoint, CONNECTING)
        is_connecting_full = 0 < self.limits.max_connecting <= connecting
        return not (is_connecting_full or self.is_at_limit(endpoint))

    def has_room(self, endpoint: str) -> bool:
        return self.lacks_only_room_over_all(endpoint) and not self.is_at_total()

    def wanted(self, endpoint: str) -> int:
        """Return how many handshakes could begin if there were places, orphans stopped for them."""
        wanted = len(self.line(endpoint))
        if self.limits.max_connecting:
            orphans = sum(self.endpoint_of(slot) == endpoint for slot in self.orphans())
            under_way = self.count(endpoint, CONNECTING) - orphans
            wanted = min(wanted, self.limits.max_connecting - under_way)
        return wanted

    def has_returned(self) -> bool:
        return any(self.reference.waiters[number].returned for number in self.placeless())

    def passed_over(self, slot: int) -> int | None:
        """Return the oldest waiter that could use the place of an acquired connection."""
        endpoint, key = self.endpoint_of(slot), self.slot(slot).key
        own = [n for n in self.waiting if self.waiter(n).handshake.key == key]
        # Those that came back stand in front of others that are older.
        if not own or self.in_state(CLOSING) or self.has_returned():
            return None
        rivals = [
            waiter
            for other in "abc"
            if self.wanted(other) > 0
            if other == endpoint or (self.is_at_total() and not self.is_at_limit(other))
            for waiter in self.line(other)
            if waiter < min(own)
        ]
        return min(rivals, default=None)

    def check(self) -> None:
        self.check_same()
        self.check_limits()
        self.check_counters()
        self.check_waiters()
        self.check_liveness()
        self.check_records()
        self.check_deadline()
        self.check_lists()

    def check_same(self) -> None:
        waiters = (*self.waiting, *self.given)
        seen = [side.seen(self.states, waiters) for side in self.sides]
        for other in seen[1:]:
            for mine, theirs in zip(seen[0], other, strict=True):
                assert mine == theirs

    def check_limits(self) -> None:
        pool = self.sides[-1].pool
        by_endpoint = pool.by_endpoint()
        for number, state in self.states.items():
            assert self.slot(number).state == state
            assert self.slot(number).uses == self.uses[number]
            assert self.slot(number).kept == (number in self.kept)
        for endpoint, (gauges, _) in by_endpoint.items():
            expected = {name: self.count(endpoint, state) for name, state in STATE_GAUGES.items()}
            expected |= {"waiting": len(self.line(endpoint)), "endpoints": 1}
            assert dict(zip(GAUGES, gauges, strict=True)) == expected
            assert sum(gauges[:4]) <= (self.limits.limit or math.inf)
            assert gauges[0] <= (self.limits.max_connecting or math.inf)
        assert len(pool) == len(self.states) <= (self.limits.limit_total or math.inf)
        totals = zip(
            [0] * len(GAUGES), *(gauges for gauges, _ in by_endpoint.values()), strict=True
        )
        assert pool.gauges() == tuple(map(sum, totals))

    def check_counters(self) -> None:
        counters = dict(zip(COUNTERS, self.sides[-1].pool.counters(), strict=True))
        counters["closed"] = sum(counters.pop(f"closed_{reason}") for reason in CLOSE_REASONS)
        # Whether the time between gift and death counts, of one that came back, is left open.
        surplus = counters["wait_seconds"] - self.counted["wait_seconds"]
        assert 0 <= surplus <= self.seconds_in_vain
        counters["wait_seconds"] -= surplus
        assert counters == {name: self.counted[name] for name in counters}

    def check_waiters(self) -> None:
        for number in self.waiting:
            waiter = self.waiter(number)
            assert waiter.queued
            assert waiter.slot is None
            if waiter.opening is not None:
                assert waiter.opening.state == CONNECTING
                assert waiter.opening.owner is waiter
        for number, slot in self.given.items():
            waiter = self.waiter(number)
            assert not waiter.queued
            assert waiter.opening is None
            assert waiter.slot is self.slot(slot)
            assert waiter.slot.waiter is waiter
            assert self.states[slot] == ACQUIRED
        owners = [self.slot(slot).owner for slot in self.in_state(CONNECTING)]
        for owner in owners:
            assert owner is None or self.sides[-1].number(owner) in self.waiting
        given = set(self.given.values())
        for key in KEYS:
            slots = self.in_state(CONNECTING, ACQUIRED, IDLE)
            count = sum(self.slot(slot).key == key for slot in slots)
            assert self.sides[-1].pool.open_count(key) == count
        for number in self.states:
            assert number in given or self.slot(number).waiter is None

    def check_liveness(self) -> None:
        queued = {self.waiter(number).handshake.key for number in self.waiting}
        assert not any(self.slot(slot).key in queued for slot in self.in_state(IDLE))
        placeless = {self.waiter(number).handshake.key for number in self.placeless()}
        assert not any(self.slot(slot).key in placeless for slot in self.orphans())
        claims = sum(self.check_liveness_of(endpoint) for endpoint in "abc")
        if claims:
            assert self.is_at_total()
            assert claims <= len(self.in_state(CLOSING)) or not (
                self.in_state(IDLE) or self.orphans()
            )

    def check_liveness_of(self, endpoint: str) -> float:
        """Return how many waiters at the endpoint lack room over all endpoints only."""
        wanted = self.wanted(endpoint)
        if wanted <= 0:
            return 0
        if self.is_at_limit(endpoint):
            assert self.count(endpoint, CLOSING) >= wanted or not (
                self.count(endpoint, IDLE)
                or any(self.endpoint_of(slot) == endpoint for slot in self.orphans())
            )
            return 0
        return min(wanted, self.places_below_limit(endpoint))

    def check_records(self) -> None:
        keys = {self.waiter(number).handshake.key for number in self.waiting}
        endpoints = {key[0] for key in keys} | {self.endpoint_of(slot) for slot in self.states}
        keys |= {self.slot(slot).key for slot in self.in_state(CONNECTING, ACQUIRED, IDLE)}
        pool = self.sides[-1].pool
        assert set(pool.by_endpoint()) == endpoints
        sizes = pool.sizes()
        # They are cleared when they hold more than twice the endpoints there are, of three.
        assert sizes.pop("place_heap") <= 2 * 3 + 17
        assert sizes.pop("idle_heap") <= 2 * 3 + 17
        assert sizes == {
            "endpoints": len(endpoints),
            "handshakes": len(keys),
            "slots": len(self.states),
            "waiters": len(self.waiting),
            "orphans": len(self.orphans()),
        }

    def check_deadline(self) -> None:
        idle = [self.slot(slot).since + self.limits.max_idle for slot in self.in_state(IDLE)]
        orphans = [self.slot(slot) for slot in self.orphans()]
        grace = [slot.since + ORPHAN_GRACE for slot in orphans if not slot.kept]
        assert self.sides[-1].pool.next_deadline() <= min([*idle, *grace, math.inf])

    def check_lists(self) -> None:
        """Look into the reference, for what will only show later."""
        pool = self.reference.pool
        for endpoint in pool._endpoints.values():
            idle = through(endpoint.idle, "outer")
            assert [slot.since for slot in idle] == sorted(slot.since for slot in idle)
            line = through(endpoint.waiting, "outer")
            returned = [waiter.returned for waiter in line]
            assert returned == sorted(returned, reverse=True)
            tickets = [waiter.ticket for waiter in line if waiter.returned]
            assert tickets == sorted(tickets)
            closing = [slot for slot in pool._slots if slot.handshake.endpoint is endpoint]
            assert endpoint.giving == sum(
                slot.state == CLOSING and slot.giving == reference._FOR_LIMIT for slot in closing
            )
        assert pool._giving == sum(
            slot.state == CLOSING and slot.giving == reference._FOR_TOTAL for slot in pool._slots
        )
        assert pool._claims == sum(endpoint.claim for endpoint in pool._endpoints.values())
        for handshake in pool._handshakes.values():
            through(handshake.idle, "inner")
            for queue in (handshake.placeless, handshake.opening):
                tickets = [waiter.ticket for waiter in through(queue, "inner")]
                assert tickets == sorted(tickets)

    # -- the end ---------------------------------------------------------------------------------

    def serve_all(self) -> None:
        """Let everything that is under way end well, until nobody waits any more."""
        for _ in range(50 + 2 * MAX_PASSED_OVER * len(self.waiting)):
            if not (self.waiting or self.given):
                return
            for operation, states in (
                (self.closed, [CLOSING]),
                (self.connected, [CONNECTING]),
                (self.take, None),
                (self.release, None),
            ):
                rounds = self.given if states is None else self.in_state(*states)
                if operation == self.release:
                    rounds = self.in_hand()
                for _ in list(rounds):
                    operation(0, 1)
                    self.check()
        raise AssertionError(f"{len(self.waiting)} waiters are never served")

    def shut_down(self) -> None:
        waiters, plan = self.call("shutdown", CLOSE_REASONS.index("forced"), self.now)
        assert sorted(waiters) == sorted((*self.waiting, *self.given))
        assert not plan.opened
        assert not plan.woken
        assert {*plan.closing} == {*self.in_state(CONNECTING, ACQUIRED, IDLE)}
        for waiter in list(self.waiting):
            self.leave(waiter)
        for slot in self.given.values():
            self.counted["reused"] -= self.uses[slot] > 1
        self.given.clear()
        self.carry_out(plan)
        self.check()
        for slot in list(self.states):
            self.closed(0, 1)
            assert self.slot(slot).state == GONE
            self.check()
        assert not self.states
        assert len(self.sides[-1].pool) == 0


def through(nodes: Any, links: str) -> list[Any]:
    """Return what is in a linked list, and check it from both ends."""
    for start, step in (("tail", "prev"), ("head", "next")):
        found = []
        node = getattr(nodes, start)
        while node is not None:
            found.append(node)
            node = getattr(node, f"{links}_{step}")
        assert len(found) == nodes.size
    return found


OPERATIONS = (
    *("request",) * 8,
    *("acquire", "take", "release", "closed", "connected") * 4,
    *("give_up", "discard", "open", "tick") * 2,
    *("connect_failed", "expire", "abandon", "misuse"),
)

any_limits = st.builds(
    Limits,
    limit=st.integers(0, 3),
    limit_total=st.integers(0, 6),
    max_connecting=st.integers(0, 3),
    max_waiting=st.sampled_from([-1, -1, 0, 1, 3]),
    max_idle=st.sampled_from([math.inf, 3.0]),
)
step = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 99), st.integers(0, 99))
# Left to itself, a list of any length would hold a few.
steps = st.integers(0, 120).flatmap(lambda size: st.lists(step, min_size=size, max_size=size))
# The modules are the same each time. Histories found before belong to another core's tests.
random_settings = settings(
    deadline=None,
    database=None,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def run(history: History, history_steps: Iterable[tuple[str, int, int]], is_served: bool) -> None:
    for operation, a, b in history_steps:
        getattr(history, operation)(a, b)
        history.check()
    if is_served:
        history.serve_all()
    history.shut_down()


@settings(random_settings, max_examples=250)
@given(limits=any_limits, history_steps=steps, is_served=st.booleans())
def test_short_histories(
    core: ModuleType, limits: Limits, history_steps: list[tuple[str, int, int]], is_served: bool
) -> None:
    run(History(core, limits), history_steps, is_served)


# Of a seed, nothing shorter can be made.
@settings(random_settings, max_examples=20, phases=[Phase.generate])
@given(limits=any_limits, seed=st.integers(0, 2**32))
def test_long_histories(core: ModuleType, limits: Limits, seed: int) -> None:
    random = Random(seed)
    operations = random.choices(OPERATIONS, k=1000)
    history_steps = [(name, random.randrange(100), random.randrange(100)) for name in operations]
    run(History(core, limits), history_steps, is_served=True)
