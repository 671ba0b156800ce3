"""The cores and the model of them in lockstep, through histories of any length.

Every answer, counter and gauge of each is compared after every step, and what must always hold is
asked of the core's own state.

    python -m tests.lockstep --seconds 60
    python -m tests.lockstep --steps 1000000

runs random histories until the time is up, or until that many steps are done;
``test_core_model.py`` has Hypothesis make them.
"""

import argparse
import importlib
import importlib.util
import json
import math
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from random import Random
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple

from aiowebsocketclient import _pool_py as reference
from aiowebsocketclient._pool_py import ACQUIRED, CLOSING, CONNECTING, GONE, IDLE

from . import model as naive
from .model import MAX_PASSED_OVER, ORPHAN_GRACE, OVER_ALL, REASONS, Model, Plan

# An endpoint's key is the first letter of its handshakes'; most happens at the first.
HANDSHAKES = ("a1", "a2", "a3", "b1", "b2", "c1", "c2")
KEYS = ("a1", "a2", "a1", "a2", "a3", "b1", "b2", "c1", "c2")
ENDPOINTS = ("a", "b", "c")
ANY = tuple(range(100))

# Of callers that come at once.
RUSH: dict[str, Sequence[Any]] = {
    "key": KEYS,
    "seconds": (1.0, 4.0),
    "callers": (2, 5, 9),
    "pauses": tuple(product((0.0, 0.03125, 0.125, 0.5), repeat=3)),
    "falls_free": tuple(product((0, 1, 4), repeat=3)),
    "opens": (0, 0, 2),
}

#: What can be done, with what: ``which`` is counted round those with which it can be done.
OPERATIONS: dict[str, dict[str, Sequence[Any]]] = {
    "tick": {"seconds": (0.03125, 0.03125, 0.25, 1.0, 3.0, ORPHAN_GRACE)},
    "acquire": {"key": KEYS, "is_known": (True, False)},
    "request": {"key": KEYS, "may_wait": (True,) * 7 + (False,), "is_known": (True, False)},
    "take": {"which": ANY},
    "give_up": {"which": ANY, "timed_out": (True, False)},
    "connected": {
        "which": ANY,
        "lifetime": (None, None, None, None, 8.0, 2.0, 0.0, -1.0),
        "another": (None, None, None, None, 0, 1),
        "moves": (True, True, False),
    },
    "connect_failed": {"which": ANY},
    "open": {"key": KEYS},
    "abandon": {"which": ANY},
    "begin": {"which": ANY},
    "stop": {"which": ANY},
    "configure": {"which": ANY},
    "release": {"which": ANY},
    "discard": {"which": ANY, "reason": tuple(range(len(REASONS)))},
    "lose_idle": {"which": ANY},
    "lose_given": {"which": ANY},
    "hurry": {"which": ANY},
    "decline": {"which": ANY},
    "closed": {"which": ANY},
    "expire": {},
    "postpone_look": {},
    "drain": {"keys": (None, ("a1",), ("a1",), ("a2", "b1"))},
    "retire": {"which": ANY},
    "set_aside": {"which": ANY},
    "put_back": {"which": ANY},
    "evict": {"count": (1, 2, 5)},
    "detach": {"which": ANY},
    "resize": {"limit": (0, 1, 2, 3, 5), "limit_total": (0, 0, 1, 3, 6)},
    "lead": {
        "places": (0, 1, 2, 3, 6, 9, 15),
        "extra": (0, 0, 0, 2, 9),
        "holds": (False, False, True),
    },
    "stop_opening": {},
    "misuse": {"which": ANY},
    "churn": {"times": (2, 30)},
    "hog": {"which": ANY, "times": (2, 20)},
    "rush": RUSH,
    "spare": RUSH
    | {
        "limits": (None, (4, 0), (0, 4), (3, 6)),
        "others": (0, 0, 1),
        "idle": ("", "", "acquire", "lose", "free"),
    },
    "relay": {
        "key": KEYS,
        "seconds": (1.0, 4.0),
        "times": (3, 9, 18),
        "use": (0.015625, 0.03125, 0.0625),
        "pause": (0.0, 0.0, 0.0078125, 0.03125),
        "given_up": (1, 2, 5, 99),
    },
}
#: How often each is done in a history made at random.
WEIGHTS = dict.fromkeys(OPERATIONS, 2) | {
    "acquire": 6,
    "request": 9,
    "take": 8,
    "release": 9,
    "connected": 8,
    "closed": 8,
    "give_up": 3,
    "tick": 6,
    "open": 4,
    "abandon": 4,
    "begin": 8,
    "stop": 2,
    "configure": 1,
    "lose_idle": 1,
    "misuse": 1,
    "resize": 1,
    "lead": 1.5,
    "stop_opening": 0.3,
    "drain": 1,
    "retire": 1,
    "evict": 1,
    "detach": 1,
    "churn": 0.5,
    "hog": 1,
    "rush": 1,
    "relay": 0.5,
    "spare": 2,
}

# As many slots as a limit allows, or as are enough where there is none.
MANY = 12

LIMITS: dict[str, Sequence[Any]] = {
    "limit": (0, 1, 2, 3, 9),
    "limit_total": (0, 0, 1, 2, 3, 4, 5, 6, 12),
    "max_connecting": (0, 1, 2, 3, 9),
    "max_waiting": (-1, -1, 0, 1, 3),
    "max_idle": (math.inf, 3.0),
    "max_idle_connections": (0, 0, 1, 2, 3),
    "cooldown": (0.0, 0.0, 0.25, 2.0),
    "defers": (False, True, True),
}

#: How many steps there are in a history made at random: some short, some long.
SIZES = (50, 100, 200, 1000)
#: How the state of a slot may change in one operation.
MOVES = {(state, state) for state in range(5)} | {
    (CONNECTING, ACQUIRED),
    (CONNECTING, IDLE),
    (CONNECTING, CLOSING),
    (CONNECTING, GONE),
    (ACQUIRED, IDLE),
    (ACQUIRED, CLOSING),
    (ACQUIRED, GONE),
    (IDLE, ACQUIRED),
    (IDLE, CLOSING),
    (CLOSING, GONE),
}

Step = tuple[str, dict[str, Any]]


class History(NamedTuple):
    limits: dict[str, Any]
    steps: list[Step]
    is_served: bool = True


class Known(NamedTuple):
    """Stands for the record of a key's handshake that each side has seen."""

    key: str


class Side:
    """One core, with its slots and waiters numbered in the order in which they come out of it."""

    def __init__(self, core: ModuleType, limits: dict[str, Any]) -> None:
        self.core = core
        self.pool = core.Pool(**limits)
        self.slots: list[Any] = []
        self.waiters: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._records: dict[str, Any] = {}

    def record(self, key: str) -> Any:
        """Return the record of a handshake, as long as it is good and was seen once."""
        record = self._records.get(key)
        return None if record is None or record.dropped else record

    def number(self, thing: Any) -> Any:
        if thing is None:
            return None
        if isinstance(thing, self.core.Slot | self.core.Waiter):
            self._records[thing.handshake.key] = thing.handshake
        if thing not in self._numbers:
            things = self.slots if isinstance(thing, self.core.Slot) else self.waiters
            self._numbers[thing] = len(things)
            things.append(thing)
        return self._numbers[thing]

    def in_numbers(self, answer: Any) -> Any:
        if isinstance(answer, self.core.Plan):
            plan = (answer.opened, answer.closing, answer.woken)
            opened, closing, woken = (tuple(map(self.number, things)) for things in plan)
            return Plan(opened, closing, woken)
        if isinstance(answer, (tuple, list)):
            return tuple(map(self.in_numbers, answer))
        if isinstance(answer, (self.core.Slot, self.core.Waiter)):
            return self.number(answer)
        return answer

    def slot_in_numbers(self, slot: Any) -> tuple[Any, ...]:
        return (
            (slot.state, slot.key, slot.endpoint, self.number(slot.owner)),
            (self.number(slot.waiter), slot.born, slot.since, slot.retires),
            (slot.uses, slot.kept, slot.drained),
            (slot.began, slot.doubted, slot.late, slot.cools),
        )

    def waiter_in_numbers(self, waiter: Any) -> tuple[Any, ...]:
        return (
            (waiter.handshake.key, waiter.queued, waiter.since, waiter.ticket, waiter.passed),
            (self.number(waiter.opening), self.number(waiter.slot), waiter.hedges),
            (waiter.deferred, waiter.unplaced),
        )


def model_slot_in_numbers(slot: naive.Slot) -> tuple[Any, ...]:
    return (
        (slot.state, slot.key, slot.endpoint, slot.owner and slot.owner.number),
        (slot.given and slot.given.number, slot.born, slot.since, slot.retires),
        (slot.uses, slot.kept, slot.is_drained),
        (slot.began, slot.is_doubted, slot.is_late, slot.cools),
    )


def in_numbers(answer: Any) -> Any:
    """Say an answer of the model in numbers."""
    if isinstance(answer, Plan):
        return answer
    if isinstance(answer, (tuple, list)):
        return tuple(map(in_numbers, answer))
    return answer.number if isinstance(answer, (naive.Slot, naive.Waiter)) else answer


class Lockstep:
    """The cores, and the model of what they must do."""

    def __init__(self, cores: Sequence[ModuleType], limits: dict[str, Any]) -> None:
        self.sides = [Side(core, limits) for core in cores]
        # Held to what must always hold: the compiled core, where there is one.
        self.side = self.sides[-1]
        self.pool = self.side.pool
        self.model = Model(**limits)
        self.now = 0.0
        #: Waiters that hold what they have not taken yet, and slots that `open` returned.
        self.given: list[naive.Waiter] = []
        self.opened: list[naive.Slot] = []
        self.waiters: dict[int, naive.Waiter] = {}
        self.passed: Counter[int] = Counter()
        #: The states of the slots that are not gone, and whose sockets are gone since.
        self.states: dict[int, int] = {}
        self.freed: set[int] = set()
        #: By slot that was alive when it was drained: who comes with this ticket came later.
        self.drained: dict[int, int] = {}
        #: By endpoint, how many places were taken before: what is over a limit may not grow.
        self.excess: Counter[str] = Counter()
        self.most_endpoints = self.most_handshakes = 0
        #: Whether all that was to expire by now has.
        self.expired = False
        self.done: Counter[str] = Counter()

    # -- one operation ---------------------------------------------------------------------------

    def do(self, name: str, **arguments: Any) -> bool:
        """Do it everywhere and compare; False: there is nothing with which it can be done."""
        things = []
        if "which" in arguments:
            subjects = self.subjects(name)
            if not subjects:
                return False
            things.append(subjects[arguments.pop("which") % len(subjects)])
        self.step(getattr(self, name), *things, **arguments)
        return True

    def step(self, operation: Callable[..., None], *things: Any, **arguments: Any) -> None:
        operation(*things, **arguments)
        self.expired = operation.__name__ == "expire"
        self.model.forget()
        self.check()
        self.done[operation.__name__] += 1

    def subjects(self, name: str) -> Sequence[Any]:
        """Return with what an operation can be done."""
        slots, queued = self.model.slots, self.model.waiters
        held = [slot for slot in slots if slot.state == ACQUIRED and slot.given is None]
        opened = [slot for slot in self.opened if slot.state != GONE]
        choices: dict[str, Sequence[Any]] = {
            "take": [*self.given, *queued],
            "give_up": [*queued, *self.given],
            "connected": [slot for slot in slots if slot.state == CONNECTING],
            "abandon": [slot for slot in opened if slot.state == CONNECTING] or opened,
            "configure": [slot for slot in slots if slot.state == CONNECTING],
            "begin": [s for s in slots if s.state == CONNECTING and s.began == math.inf] or slots,
            "stop": [slot for slot in slots if slot.state == CONNECTING] or slots,
            "release": held,
            "hog": held,
            "detach": held,
            "discard": slots,
            "set_aside": [slot for slot in slots if slot.state == IDLE],
            "put_back": held,
            "lose_idle": [slot for slot in slots if slot.state == IDLE],
            "retire": [slot for slot in slots if slot.state in (IDLE, ACQUIRED)],
            "lose_given": [slot for slot in slots if slot.given is not None],
            "hurry": self.given,
            "decline": self.given,
            "closed": [s for s in slots if s.state == CLOSING and not s.is_cooling],
            "misuse": [slot for slot in slots if slot not in held],
        }
        return choices["connected" if name == "connect_failed" else name]

    def call(self, name: str, thing: Any, expected: Any, *arguments: Any) -> None:
        """Call the cores, and compare what they answer with what the model did."""
        expected, answers = in_numbers(expected), []
        for side in self.sides:
            if isinstance(thing, naive.Slot):
                arguments_of_side = (side.slots[thing.number], *arguments)
            elif isinstance(thing, naive.Waiter):
                arguments_of_side = (side.waiters[thing.number], *arguments)
            elif isinstance(thing, Known):
                arguments_of_side = (*arguments, side.record(thing.key))
            else:
                arguments_of_side = arguments
            answer = side.in_numbers(getattr(side.pool, name)(*arguments_of_side))
            answers.append(answer)
            assert answer == answers[0], (name, answers)
            if name == "shutdown":
                # Who waited comes back by handshake, and so do handshakes that go with who waited;
                # which handshake is first is nobody's concern.
                waiters, plan = answer
                closing = tuple(sorted(plan.closing))
                answer = (tuple(sorted(waiters)), plan._replace(closing=closing))
            assert answer == expected, (side.core.__name__, name, answer, expected)

    def keep_book(self, plan: Plan | None) -> None:
        for number in plan.woken if plan else ():
            self.given.append(self.waiters[number])

    def tick(self, seconds: float) -> None:
        self.now += seconds

    def acquire(self, key: str, is_known: bool) -> None:
        slot = self.model.acquire(key, self.now)
        self.call("acquire", Known(key) if is_known else None, slot, key, self.now)
        self.check_fresh(slot)
        assert slot is None or slot.number not in self.drained

    def request(self, key: str, may_wait: bool, is_known: bool) -> None:
        waiter, plan = self.model.request(key, self.now, may_wait)
        arguments = (key[0], key, self.now, may_wait)
        self.call("request", Known(key) if is_known else None, (waiter, plan), *arguments)
        if waiter is not None:
            self.waiters[waiter.number] = waiter
            if not waiter.is_queued:
                self.given.append(waiter)
                self.check_fresh(self.model.slot_given_to(waiter))
        self.keep_book(plan)
        self.check_order(plan)

    def take(self, waiter: naive.Waiter) -> None:
        self.call("take", waiter, self.model.take(waiter))
        if waiter in self.given:
            self.given.remove(waiter)

    def decline(self, waiter: naive.Waiter) -> None:
        self.call("decline", waiter, self.model.decline(waiter))
        self.given.remove(waiter)

    def give_up(self, waiter: naive.Waiter, timed_out: bool) -> None:
        plan = self.model.give_up(waiter, self.now, timed_out)
        self.call("give_up", waiter, plan, self.now, timed_out)
        self.keep_book(plan)

    def connected(
        self, slot: naive.Slot, lifetime: float | None, another: int | None, moves: bool
    ) -> None:
        retires = math.inf if lifetime is None else self.now + lifetime
        key = None
        if another is not None:
            key = [key for key in HANDSHAKES if key[0] == slot.endpoint][another]
        owner, is_another = slot.owner, key not in (None, slot.key)
        plan = self.model.connected(slot, self.now, retires, key, moves)
        self.call("connected", slot, plan, self.now, retires, key, moves)
        self.keep_book(plan)
        # What turns out to be another's handshake is its owner's all the same.
        self.check_order(plan, but=owner if is_another else None)

    def connect_failed(self, slot: naive.Slot) -> None:
        owner, plan = self.model.connect_failed(slot, self.now, slot.number)
        self.note_freed(slot)
        self.call("connect_failed", slot, (owner, plan), self.now, slot.number)
        self.keep_book(plan)
        self.check_order(plan)

    def open(self, key: str) -> None:
        slot = self.model.open(key, self.now)
        self.call("open", None, slot, key[0], key, self.now)
        if slot is not None:
            self.opened.append(slot)

    def abandon(self, slot: naive.Slot) -> None:
        # It may be said more than once, and of what is connected.
        self.model.abandon(slot, self.now)
        self.call("abandon", slot, None, self.now)

    def begin(self, slot: naive.Slot) -> None:
        # It may be said more than once, and of what is connected.
        self.model.begin(slot, self.now)
        self.call("begin", slot, None, self.now)

    def stop(self, slot: naive.Slot) -> None:
        self.call("stop", slot, self.model.stop(slot))

    def configure(self, slot: naive.Slot) -> None:
        """Say of what is being opened that something runs on it."""
        slot.cools = True
        for side in self.sides:
            side.slots[slot.number].cools = True

    def release(self, slot: naive.Slot) -> None:
        rivals = self.rivals(slot)
        plan = self.model.release(slot, self.now)
        self.call("release", slot, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)
        if rivals and slot.given is not None:
            rival = min(rivals, key=lambda waiter: waiter.ticket)
            if rival.ticket < slot.given.ticket:
                self.passed[rival.number] += 1
                assert self.passed[rival.number] <= MAX_PASSED_OVER

    def discard(self, slot: naive.Slot, reason: int) -> None:
        waiter = slot.given
        plan = self.model.discard(slot, reason, self.now)
        if waiter is not None:
            self.given.remove(waiter)
        self.call("discard", slot, plan, reason, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def lose_idle(self, slot: naive.Slot) -> None:
        """Let a connection die that nobody uses."""
        self.discard(slot, REASONS.index("lost"))

    def lose_given(self, slot: naive.Slot) -> None:
        """Let a connection die between being given to a waiter and being taken."""
        self.discard(slot, REASONS.index("lost"))

    def hurry(self, waiter: naive.Waiter) -> None:
        """Say of who was given something that it will not wait for another."""
        waiter.may_wait = False
        for side in self.sides:
            side.waiters[waiter.number].may_wait = False

    def closed(self, slot: naive.Slot) -> None:
        plan = self.model.closed(slot, self.now)
        self.note_freed(slot)
        self.call("closed", slot, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def note_freed(self, *slots: naive.Slot) -> None:
        self.freed |= {slot.number for slot in slots if slot.state == GONE}

    def postpone_look(self) -> None:
        self.call("postpone_look", None, self.model.postpone_look(self.now), self.now)

    def expire(self) -> None:
        cooling = self.model.cooling()
        plan = self.model.expire(self.now)
        self.note_freed(*cooling)
        self.call("expire", None, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)
        assert self.pool.next_deadline() > self.now

    def resize(self, limit: int, limit_total: int) -> None:
        self.excess = self.taken()
        plan = self.model.resize(limit, limit_total, self.now)
        self.call("resize", None, plan, limit, limit_total, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def lead(self, places: int, extra: int, holds: bool) -> None:
        self.excess = self.taken()
        plan = self.model.lead(places, places + extra, self.now, holds)
        self.call("lead", None, plan, places, places + extra, self.now, holds)
        self.keep_book(plan)
        self.check_order(plan)

    def stop_opening(self) -> None:
        plan = self.model.stop_opening(self.now)
        self.call("stop_opening", None, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def drain(self, keys: tuple[str, ...] | None) -> None:
        for slot in self.model.slots:
            if keys is None or slot.key in keys:
                self.drained.setdefault(slot.number, self.model.tickets)
        self.call("drain", None, self.model.drain(keys), keys)

    def retire(self, slot: naive.Slot) -> None:
        self.call("retire", slot, self.model.retire(slot))

    def evict(self, count: int) -> None:
        self.call("evict", None, self.model.evict(count), count)

    def set_aside(self, slot: naive.Slot) -> None:
        for side in self.sides:
            beside = side.pool.idle_beside(side.slots[slot.number])
            idle = self.model.idle(slot.endpoint)
            assert [side.number(other) for other in beside] == [other.number for other in idle]
        self.model.set_aside(slot)
        self.call("set_aside", slot, None)

    def put_back(self, slot: naive.Slot) -> None:
        plan = self.model.put_back(slot, self.now)
        self.call("put_back", slot, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def detach(self, slot: naive.Slot) -> None:
        plan = self.model.detach(slot, self.now)
        self.freed.add(slot.number)
        self.call("detach", slot, plan, self.now)
        self.keep_book(plan)
        self.check_order(plan)

    def misuse(self, slot: naive.Slot) -> None:
        """Say of a slot what cannot be true; nothing changes."""
        for side, name in product(self.sides, ("release", "detach", "put_back")):
            try:
                getattr(side.pool, name)(side.slots[slot.number], self.now)
            except ValueError:
                pass
            else:
                raise AssertionError(f"{name} of what is not in use")
        if slot.state != CLOSING or slot.is_cooling:
            self.call("closed", slot, None, self.now)
        if slot.state in (CONNECTING, CLOSING):
            self.call("discard", slot, None, 0, self.now)

    def churn(self, times: int) -> None:
        """Let a caller come to an endpoint that nobody knows, and all it had end."""
        for _ in range(times):
            self.step(self.request, "z1", True, True)
            if self.model.first("z1") is None:
                # The line is full.
                continue
            waiter = self.model.waiters[-1]
            slot = self.model.under_way_for(waiter)
            if slot is None:
                self.step(self.give_up, waiter, False)
                continue
            self.step(self.connected, slot, None, None, True)
            self.step(self.take, waiter)
            self.step(self.release, slot)
            if slot.state == IDLE:
                self.step(self.lose_idle, slot)
            self.step(self.closed, slot)

    def hog(self, slot: naive.Slot, times: int) -> None:
        """Let callers of a connection's own handshake come for it again and again."""
        for _ in range(times):
            self.step(self.request, slot.key, True, False)
            if slot.state == ACQUIRED and slot.given is None:
                self.step(self.release, slot)
            if slot.given is not None:
                self.step(self.take, slot.given)

    def rush(
        self,
        key: str,
        seconds: float,
        callers: int,
        pauses: tuple[float, ...],
        falls_free: tuple[int, ...],
        opens: int,
    ) -> None:
        """Let callers come at once, where connections are used for a shorter time than opened."""
        self.learn(key, seconds)
        self.come_at_once(key, callers, pauses, falls_free, opens)

    def spare(
        self,
        key: str,
        seconds: float,
        callers: int,
        pauses: tuple[float, ...],
        falls_free: tuple[int, ...],
        opens: int,
        limits: tuple[int, int] | None,
        others: int,
        idle: str,
    ) -> None:
        """Do the same where idle connections of another handshake have all other places.

        These may be used or lost before callers of other handshakes come.
        """
        for waiter in list(self.model.waiters):
            self.step(self.give_up, waiter, False)
        self.clear(key[0])
        if limits:
            self.step(self.resize, *limits)
        self.learn(key, seconds)
        other = next(each for each in HANDSHAKES if each[0] == key[0] and each != key)
        while self.model.has_room(key[0]) and len(self.model.slots) < MANY:
            before = len(self.model.slots)
            self.step(self.open, other)
            for slot in self.model.slots[before:]:
                self.step(self.connected, slot, None, None, True)
            if len(self.model.slots) == before:
                break
        for _ in self.model.idle(key=key):
            self.step(self.acquire, key, False)
        for _ in range(others):
            self.step(self.request, key, True, False)
            self.step(self.request, other, True, False)
        for _ in self.model.idle(other[0]) if idle else ():
            self.step(self.request, key, True, False)
        for slot in self.model.idle() if idle else ():
            if idle == "acquire":
                self.step(self.acquire, slot.key, False)
            elif slot.state == IDLE:
                self.step(self.lose_idle, slot)
                if idle == "free":
                    self.step(self.closed, slot)
        for late in ("a3", "b2", "c2") if idle else ():
            self.step(self.request, late, True, False)
        self.come_at_once(key, callers, pauses, falls_free, opens)

    def clear(self, endpoint: str) -> None:
        """End handshakes that belong to nobody, and all connections of an endpoint."""
        for slot in self.model.orphans():
            self.step(self.connect_failed, slot)
        for waiter in list(self.given):
            self.step(self.take, waiter)
        for slot in self.model.at(endpoint, ACQUIRED):
            self.step(self.release, slot)
        for slot in self.model.at(endpoint, IDLE):
            self.step(self.lose_idle, slot)
        for slot in list(self.subjects("closed")):
            self.step(self.closed, slot)

    def come_at_once(
        self,
        key: str,
        callers: int,
        pauses: tuple[float, ...],
        falls_free: tuple[int, ...],
        opens: int,
    ) -> None:
        """Let callers come; with ``opens``, one comes back to the line, and then the pool opens."""
        for _ in range(callers):
            self.step(self.request, key, True, False)
        used = [s for s in self.model.slots if (s.key, s.state, s.given) == (key, ACQUIRED, None)]
        for slot in used[:1] if opens else ():
            self.step(self.release, slot)
            self.step(self.request, key, True, False)
            if slot.given is not None:
                self.step(self.lose_given, slot)
        for _ in range(opens):
            self.step(self.open, key)
        for pause, times in zip(pauses, falls_free, strict=True):
            self.step(self.tick, pause)
            for _ in range(times):
                self.release_one(key)
            self.step(self.expire)

    def relay(
        self, key: str, seconds: float, times: int, use: float, pause: float, given_up: int
    ) -> None:
        """Let callers come one after another; some give up."""
        self.learn(key, seconds)
        for turn in range(times):
            self.step(self.request, key, True, False)
            self.step(self.tick, use)
            if turn % given_up:
                self.release_one(key)
            elif self.model.deferred(key):
                self.step(self.give_up, self.model.deferred(key)[-1], True)
            if turn % 3:
                self.step(self.expire)
            self.step(self.tick, pause)

    def learn(self, key: str, seconds: float) -> None:
        """Let connections be opened that slowly, and used for no time."""
        for _ in range(2):
            self.step(self.request, key, True, False)
        for slot in [s for s in self.model.slots if s.key == key and s.state == CONNECTING]:
            self.step(self.begin, slot)
        self.step(self.tick, seconds)
        for slot in [s for s in self.model.slots if s.key == key and s.state == CONNECTING]:
            if slot.state == CONNECTING:
                self.step(self.connected, slot, None, None, True)
            if slot.state == ACQUIRED and slot.given is not None:
                self.step(self.take, slot.given)
        self.release_one(key)

    def release_one(self, key: str) -> None:
        """Release a connection of a handshake that is in use, and let who is given it take it."""
        for slot in self.model.slots:
            if (slot.key, slot.state, slot.given) == (key, ACQUIRED, None):
                self.step(self.release, slot)
                if slot.given is not None:
                    self.step(self.take, slot.given)
                return

    # -- the end ---------------------------------------------------------------------------------

    def finish(self, is_served: bool) -> None:
        if is_served:
            self.serve_all()
        self.shut_down()

    def serve_all(self) -> None:
        """Let everything that is under way end well, until nobody waits any more."""
        if self.model.places < math.inf:
            self.step(self.lead, 100, 0, False)
        for _ in range(50 + 2 * MAX_PASSED_OVER * len(self.model.waiters)):
            if not (self.model.waiters or self.given):
                return
            if self.model.cooling() or self.model.deferring:
                self.step(self.tick, max(self.model.cooldown, 1.0))
                self.step(self.expire)
            for name in ("closed", "connected", "take", "release"):
                for _ in list(self.subjects(name)):
                    extra: dict[str, Any] = {}
                    if name == "connected":
                        extra = {"lifetime": None, "another": None, "moves": True}
                    if name != "take" or self.given:
                        self.do(name, which=0, **extra)
        raise AssertionError(f"{len(self.model.waiters)} waiters are never served")

    def shut_down(self) -> None:
        used = self.subjects("release")
        if len(used) % 2:
            # Gracefully: what is in use may be released, or leave the pool in other ways.
            self.shut(spares_used=True)
            assert self.subjects("release") == used
            for name in ("put_back", "detach", "release", "discard"):
                if self.subjects(name):
                    self.do(name, which=0, **({"reason": 0} if name == "discard" else {}))
            assert all(slot.state != IDLE for slot in self.model.slots)
        self.shut(spares_used=False)
        self.model.forget()
        self.check()
        while self.model.slots:
            self.do("closed", which=0)
        assert all(slot.state == GONE for slot in self.side.slots)
        sizes = {name: size for name, size in self.pool.sizes().items() if "heap" not in name}
        assert sizes == dict.fromkeys(sizes, 0)

    def shut(self, *, spares_used: bool) -> None:
        waiting = [*self.model.waiters, *self.given]
        cooling = self.model.cooling()
        reason = REASONS.index("forced")
        waiters, plan = self.model.shutdown(reason, self.now, spares_used)
        assert {*waiters} == {*waiting}
        assert not plan.opened
        assert not plan.woken
        waiters.sort(key=lambda waiter: waiter.number)
        plan = plan._replace(closing=tuple(sorted(plan.closing)))
        self.note_freed(*cooling)
        self.call("shutdown", None, (waiters, plan), reason, self.now, spares_used)
        self.given.clear()

    # -- the same everywhere ---------------------------------------------------------------------

    def check(self) -> None:
        expected = self.seen_in_model()
        for side in self.sides:
            for name, value in self.seen(side).items():
                assert value == expected[name], (side.core.__name__, name, value, expected[name])
        self.check_between_cores()
        self.check_limits()
        self.check_places()
        self.check_hand_over()
        self.check_idle()
        self.check_giving_way()
        self.check_records()
        self.check_inside()

    def seen_in_model(self) -> dict[str, Any]:
        model = self.model
        by_endpoint = model.by_endpoint()
        gauges = [gauges for gauges, _ in by_endpoint.values()]
        return {
            "len": len(model.slots),
            "gauges": tuple(map(sum, zip((0,) * 6, *gauges, strict=True))),
            "counters": model.in_order(model.totals),
            "by_endpoint": by_endpoint,
            "situation": [model.situation(endpoint, self.now) for endpoint in ENDPOINTS],
            "sizes": {
                "endpoints": len(model.endpoints),
                "handshakes": len(model.handshakes()),
                "slots": len(model.slots),
                "waiters": len(model.waiters),
                "orphans": len(model.orphans()),
                "watched": len(model.watched()),
                "cooling": len(model.cooling()),
                "leaning": len([e for e in ENDPOINTS if model.leaning(e)]),
                "deferred": len(model.reserved()),
                "unplaced": len(model.deferring) - len(model.reserved()),
            },
            "next_deadline": model.next_deadline(),
            "lacking": model.lacking(),
            "closing_count": sum(slot.state == naive.CLOSING for slot in model.slots),
            "stranded": sorted(waiter.number for waiter in model.stranded()),
            "idle_since": [model.idle_since(self.now - n, n + 1) for n in range(3)],
            "slots": [slot.number for slot in model.slots],
            "open_count": [model.open_count(key) for key in HANDSHAKES],
            "spare_count": [model.spare_count(key, n) for key in HANDSHAKES for n in (1, 3)],
            "slots_in_numbers": [model_slot_in_numbers(slot) for slot in model.slots],
            "waiters_in_numbers": [
                self.model_waiter_in_numbers(w) for w in (*model.waiters, *self.given)
            ],
        }

    def model_waiter_in_numbers(self, waiter: naive.Waiter) -> tuple[Any, ...]:
        opening, slot = self.model.under_way_for(waiter), self.model.slot_given_to(waiter)
        return (
            (waiter.key, waiter.is_queued, waiter.since, waiter.ticket, waiter.passed),
            (opening and opening.number, slot and slot.number, waiter.hedges),
            (waiter in self.model.deferring, waiter.is_unplaced),
        )

    def seen(self, side: Side) -> dict[str, Any]:
        pool, model = side.pool, self.model
        return {
            "len": len(pool),
            "gauges": pool.gauges(),
            "counters": pool.counters(),
            "by_endpoint": pool.by_endpoint(),
            "situation": [pool.situation(endpoint, self.now) for endpoint in ENDPOINTS],
            "sizes": {name: n for name, n in pool.sizes().items() if "heap" not in name},
            "next_deadline": pool.next_deadline(),
            "lacking": pool.lacking(),
            "closing_count": pool.closing_count(),
            "stranded": sorted(map(side.number, pool.stranded())),
            "idle_since": [pool.idle_since(self.now - n, n + 1) for n in range(3)],
            "slots": [side.number(slot) for slot in pool.slots()],
            "open_count": [pool.open_count(key) for key in HANDSHAKES],
            "spare_count": [pool.spare_count(key, n) for key in HANDSHAKES for n in (1, 3)],
            "slots_in_numbers": [
                side.slot_in_numbers(side.slots[slot.number]) for slot in model.slots
            ],
            "waiters_in_numbers": [
                side.waiter_in_numbers(side.waiters[waiter.number])
                for waiter in (*model.waiters, *self.given)
            ],
        }

    def check_between_cores(self) -> None:
        """Compare what only the cores know."""
        first, last = self.sides[0], self.sides[-1]
        assert first.pool.sizes() == last.pool.sizes()
        for slot in self.model.slots:
            expires = first.slots[slot.number].expires
            assert expires == last.slots[slot.number].expires
            if slot.state == IDLE:
                assert expires == min(slot.since + self.model.max_idle, slot.retires)

    # -- what must always hold, asked of the core itself -----------------------------------------

    def living(self, *states: int) -> list[Any]:
        return [slot for slot in self.pool.slots() if slot.state in states]

    def queued(self) -> list[Any]:
        return [self.side.waiters[waiter.number] for waiter in self.model.waiters]

    def taken(self) -> Counter[str]:
        """Return how many places are taken or reserved, by endpoint and over all."""
        taken = Counter(slot.endpoint for slot in self.pool.slots())
        for endpoint in ENDPOINTS:
            taken[endpoint] += self.pool.reserved_count(endpoint)
        taken[OVER_ALL] = taken.total()
        return taken

    def check_limits(self) -> None:
        """There are never more than allowed; what a lowered limit leaves over only gets less."""
        limits, taken = self.model, self.taken()
        for whom, number in taken.items():
            limit: float = limits.limit or math.inf
            if whom == OVER_ALL:
                limit = min(limits.limit_total or math.inf, limits.places)
            assert number <= max(limit, self.excess[whom])
            slots = [s for s in self.pool.slots() if whom in (OVER_ALL, s.endpoint)]
            if whom == OVER_ALL:
                limit = min(limits.limit_total or math.inf, limits.keep)
            if sum(slot.state != CLOSING for slot in slots) > limit:
                # No more than what is in use, or being opened for who waits.
                assert not any(map(is_unused, slots))
            if whom != OVER_ALL:
                connecting = sum(slot.state == CONNECTING for slot in slots)
                assert connecting <= (limits.max_connecting or math.inf)
        self.excess = taken

    def check_places(self) -> None:
        """A place is free only when its socket is closed or detached; what is closing stays so."""
        before = self.states
        self.states = {self.side.number(slot): slot.state for slot in self.pool.slots()}
        for number in before.keys() | self.states.keys():
            move = (before.get(number, CONNECTING), self.side.slots[number].state)
            assert move in MOVES
        assert before.keys() - self.states.keys() == self.freed
        self.freed.clear()

    def check_hand_over(self) -> None:
        """What is given or opened is one's alone; nothing of a waiter's kind belongs to nobody."""
        given = [slot for slot in self.living(ACQUIRED) if slot.waiter is not None]
        assert all(slot.waiter.slot is slot and not slot.waiter.queued for slot in given)
        assert {slot.waiter for slot in given} == {self.side.waiters[w.number] for w in self.given}
        owned = [slot for slot in self.living(CONNECTING) if slot.owner is not None]
        assert all(slot.owner.opening is slot and slot.owner.queued for slot in owned)
        queued = self.queued()
        assert {slot.owner for slot in owned} == {waiter for waiter in queued if waiter.opening}
        assert not any(waiter.slot for waiter in queued)
        for slot in self.living(IDLE, CLOSING):
            assert slot.owner is None
            assert slot.waiter is None
        self.check_drained()
        placeless = {waiter.handshake.key for waiter in queued if waiter.opening is None}
        orphans = [slot for slot in self.living(CONNECTING) if slot.owner is None]
        assert not any(slot.key in placeless for slot in orphans if not slot.doubted)
        self.check_doubted()

    def check_doubted(self) -> None:
        """Who leans on a doubted handshake stands where there is no room; nobody does on a late."""
        for slot in self.living(CONNECTING):
            assert slot.late <= slot.doubted
            assert not (slot.doubted and slot.kept)
            assert not (slot.late and slot.owner)
            # The grace of a doubted one is over when it is over.
            if slot.doubted and self.expired:
                assert slot.since + ORPHAN_GRACE > self.now

    def check_drained(self) -> None:
        """Who came after a drain has nothing that was begun before, nor will have it."""
        drained = [self.side.slots[number] for number in self.drained]
        for slot in drained:
            waiter = slot.waiter or slot.owner
            assert waiter is None or waiter.ticket < self.drained[self.side.number(slot)]
            assert slot.state != IDLE
            assert slot.state != CONNECTING or slot.owner is not None

    def check_idle(self) -> None:
        """No connection is idle while its handshake has a waiter."""
        keys = {waiter.handshake.key for waiter in self.queued()}
        idle = self.living(IDLE)
        assert not any(slot.key in keys for slot in idle)
        assert len(idle) <= (self.model.max_idle_connections or math.inf)

    def check_order(self, plan: Plan | None, but: naive.Waiter | None = None) -> None:
        """Nobody overtakes a waiter of its own handshake by coming later."""
        for number in plan.woken if plan else ():
            served = self.side.waiters[number]
            if but is None or number != but.number:
                assert not any(
                    waiter.handshake.key == served.handshake.key and waiter.ticket < served.ticket
                    for waiter in self.queued()
                )
            assert served.slot.retires > self.now or served.slot.uses == 1
        self.check_unplaced(plan)

    def check_unplaced(self, plan: Plan | None) -> None:
        """No place is given to a waiter before an older one for whom nothing could give way."""
        if plan is None or plan.closing:
            # What gives way now may have been left when the place was given.
            return
        model = self.model
        unplaced = [waiter for waiter in self.queued() if waiter.unplaced]
        idle = self.living(IDLE)
        for number in plan.opened if unplaced else ():
            owner = self.side.slots[number].owner
            endpoint = owner.handshake.key[0]
            bare: list[Any] = []
            if model.has_total() and len(unplaced) > len(idle):
                bare = [w for w in unplaced if not model.is_at_limit(w.handshake.key[0])]
            here = [waiter for waiter in unplaced if waiter.handshake.key[0] == endpoint]
            if model.limit and len(here) > sum(slot.endpoint == endpoint for slot in idle):
                bare += here
            for waiter in bare:
                is_full = model.is_connecting_full(waiter.handshake.key[0])
                assert is_full or owner.returned or waiter.ticket > owner.ticket

    def check_fresh(self, slot: naive.Slot | None) -> None:
        """What is handed out at once has been idle, and has lived, not too long."""
        assert slot is None or self.side.slots[slot.number].expires > self.now

    def rivals(self, slot: naive.Slot) -> list[naive.Waiter]:
        """Return the waiters of others that could use the place of a connection."""
        model = self.model
        if any(other.cleared_for for other in model.slots):
            return []
        found: list[naive.Waiter] = []
        for endpoint in model.endpoints:
            is_at_limit = model.is_at_limit(endpoint)
            is_open = not is_at_limit and model.is_at_total() and not model.is_beyond_total()
            if model.wanted(endpoint) and (is_open or (endpoint == slot.endpoint and is_at_limit)):
                found += model.line(endpoint)
        return [waiter for waiter in found if waiter.key != slot.key]

    def check_giving_way(self) -> None:
        """Nobody stands in line for a place that is free, or that nobody uses."""
        limits, claims = self.model, 0
        for endpoint in limits.endpoints:
            slots = [slot for slot in self.pool.slots() if slot.endpoint == endpoint]
            owned = sum(slot.state == CONNECTING and slot.owner is not None for slot in slots)
            queued = [w for w in self.queued() if w.handshake.key[0] == endpoint]
            deferred = sum(w.deferred and not w.unplaced for w in queued)
            line = sum(not (w.opening or w.deferred) for w in queued)
            wanted = min(line, (limits.max_connecting or math.inf) - owned - deferred)
            if wanted <= 0:
                continue
            places = (limits.limit or math.inf) - len(slots) - deferred
            if places > 0:
                claims += min(wanted, places)
            elif any(map(is_unused, slots)):
                assert sum(slot.state == CLOSING for slot in slots) >= wanted
        if claims:
            assert limits.is_at_total()
            if any(map(is_unused, self.pool.slots())) and not limits.is_beyond_total():
                assert len(self.living(CLOSING)) >= claims

    def check_records(self) -> None:
        """Heaps are cleared when they hold more than twice what there is, and a few."""
        sizes = self.pool.sizes()
        self.most_endpoints = max(self.most_endpoints, sizes["endpoints"])
        self.most_handshakes = max(self.most_handshakes, sizes["handshakes"])
        assert sizes["place_heap"] <= 2 * self.most_endpoints + 17
        assert sizes["idle_heap"] <= 2 * self.most_endpoints + 17
        assert sizes["look_heap"] <= 2 * self.most_handshakes + 17

    def check_inside(self) -> None:
        """Look into the reference, for what will only show later."""
        pool = next(side.pool for side in self.sides if side.core is reference)
        idle_of: defaultdict[Any, set[Any]] = defaultdict(set)
        for endpoint in pool._endpoints.values():
            idle = through(endpoint.idle, "outer")
            for slot in idle:
                idle_of[slot.handshake].add(slot)
            assert [slot.since for slot in idle] == sorted(slot.since for slot in idle)
            numbers = [
                self.sides[0].number(waiter) for waiter in through(endpoint.waiting, "outer")
            ]
            assert numbers == [waiter.number for waiter in self.model.line(endpoint.key)]
            assert endpoint.being_cleared == self.model.cleared(endpoint.key)
            if self.model.has_total():
                assert endpoint.claim == self.model.claim(endpoint.key)
        assert pool._idle == len(self.model.idle())
        assert pool._being_cleared == self.model.cleared(OVER_ALL)
        assert pool._claims == sum(endpoint.claim for endpoint in pool._endpoints.values())
        for handshake in pool._handshakes.values():
            assert {*down(handshake.idle.top)} == idle_of[handshake]
            for queue in (handshake.placeless, handshake.opening):
                tickets = [waiter.ticket for waiter in through(queue, "inner")]
                assert tickets == sorted(tickets)


def is_unused(slot: Any) -> bool:
    return slot.state == IDLE or (slot.state == CONNECTING and slot.owner is None)


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


def down(top: Any) -> list[Any]:
    """Return what is in a stack, and check its links."""
    found: list[Any] = []
    above, node = None, top
    while node is not None:
        assert node.inner_next is above
        found.append(node)
        above, node = node, node.inner_prev
    return found


# -- histories made at random --------------------------------------------------------------------


def installed_cores() -> list[ModuleType]:
    """Return the reference, and the compiled core where there is one."""
    if importlib.util.find_spec("aiowebsocketclient._pool") is None:
        return [reference]
    return [reference, importlib.import_module("aiowebsocketclient._pool")]


def random_history(seed: object, size: int) -> History:
    random = Random(str(seed))
    limits = {name: random.choice(values) for name, values in LIMITS.items()}
    # With many callers nothing is ever idle, and so on: what is rare differs.
    weights = [weight * random.choice((0.2, 1, 1, 3)) for weight in WEIGHTS.values()]
    names = random.choices(list(WEIGHTS), weights, k=size)
    steps = []
    for name in names:
        choices = OPERATIONS[name].items()
        steps.append((name, {name: random.choice(values) for name, values in choices}))
    return History(limits, steps, is_served=random.random() < 0.5)


def run(cores: Sequence[ModuleType], history: History) -> Counter[str]:
    """Return how often each operation was done."""
    lockstep = Lockstep(cores, history.limits)
    for name, arguments in history.steps:
        lockstep.do(name, **arguments)
    lockstep.finish(history.is_served)
    return lockstep.done


def failure(cores: Sequence[ModuleType], history: History) -> Exception | None:
    try:
        run(cores, history)
    except Exception as error:
        return error
    return None


def shortened(cores: Sequence[ModuleType], history: History) -> History:
    """Leave out of a failing history what it fails without."""
    history = history._replace(steps=list(history.steps))
    size = len(history.steps)
    while size:
        start = len(history.steps)
        while start > 0:
            start = max(0, start - size)
            shorter = [*history.steps[:start], *history.steps[start + size :]]
            if failure(cores, history._replace(steps=shorter)) is not None:
                history = history._replace(steps=shorter)
        size //= 2
    for is_served in (False, True):
        shorter_end = history._replace(is_served=is_served)
        if failure(cores, shorter_end) is not None:
            return shorter_end
    return history


def check_history(cores: Sequence[ModuleType], seed: object, size: int) -> Counter[str]:
    """Run a history made from a seed; where it fails, say which shorter one does too."""
    history = random_history(seed, size)
    try:
        return run(cores, history)
    except Exception as error:
        print(f"seed {seed!r} of size {size} fails. Shorter:")
        print_history(shortened(cores, history))
        raise error


def print_history(history: History) -> None:
    print(f"limits {history.limits}; served at the end: {history.is_served}")
    for name, arguments in history.steps:
        print(f"    {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lockstep", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0, help="default: 60")
    length.add_argument("--steps", type=int, help="end after this many steps, not after a time")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32))
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers as well")
    arguments = parser.parse_args(argv)
    cores = installed_cores()
    names = ", ".join(core.IMPLEMENTATION for core in cores)
    print(f"cores: {names}; seed {arguments.seed}", flush=True)
    done: Counter[str] = Counter()
    histories = disagreements = 0
    end = monotonic() + arguments.seconds

    def is_over() -> bool:
        if arguments.steps is not None:
            return done.total() >= arguments.steps
        return monotonic() >= end

    while not is_over() and not disagreements:
        seed = f"{arguments.seed}/{histories}"
        try:
            done += check_history(cores, seed, SIZES[histories % len(SIZES)])
        except Exception:
            traceback.print_exc()
            disagreements += 1
        histories += 1
    print(f"{histories:,} histories, {done.total():,} steps, {disagreements} disagreements")
    for name, number in done.most_common():
        print(f"    {name:<16}{number:>12,}")
    if arguments.json:
        numbers = {
            "cores": [core.IMPLEMENTATION for core in cores],
            "seed": arguments.seed,
            "histories": histories,
            "steps": done.total(),
            "operations": dict(done.most_common()),
            "disagreements": disagreements,
        }
        Path(arguments.json).write_text(json.dumps(numbers, indent=2) + "\n")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
