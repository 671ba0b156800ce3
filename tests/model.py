"""What the core has to do, written down as plainly as can be: lists, looked through each time.

It is slow and obvious where the cores are fast, and was written from the rules rather than from
them.  What it answers, and the numbers it keeps, are what theirs must be; see ``lockstep.py``.

Where the rules leave something open, the sentence that closes it stands here, marked "Rule:".
"""

import copy
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CONNECTING, ACQUIRED, IDLE, CLOSING, GONE = range(5)
STATES = {"connecting": CONNECTING, "acquired": ACQUIRED, "idle": IDLE, "closing": CLOSING}
REASONS = ("idle", "lifetime", "lost", "dirty", "evicted", "forced", "failed", "cancelled", "user")
#: After which a server may still be at work for a connection, whether it was in use or not.
COOLING_REASONS = set(REASONS) - {"idle", "lifetime", "evicted", "forced", "lost"}
COUNTED = (
    "requests",
    "reused",
    "queued",
    "wait_seconds",
    "timeouts",
    "rejected",
    "connects",
    "connect_errors",
    "connect_seconds",
    "released",
    "detached",
    *(f"closed_{reason}" for reason in REASONS),
)

MAX_PASSED_OVER = 16
ORPHAN_GRACE = 5.0
LATE_FACTOR = 4.0
LATE_FLOOR = 0.5
FIRST_PATIENCE = 5.0
NEWEST_SHARE = 0.125
NEWEST_USE_SHARE = 0.0625
LONGER = 0.01
DEFER_SHARE = 0.5
LONG_WAIT = 0.1
LOOK_FACTOR = 1.25
LOOK_SHARE = 0.09
SHORTEST_LOOK = 0.001
RATE_SHARE = 0.75

#: For whom a place is cleared that is not cleared for the waiters of one endpoint.
OVER_ALL = "over all"


class Plan(NamedTuple):
    """A plan in numbers: of slots, of slots, of waiters."""

    opened: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    woken: tuple[int, ...] = ()


@dataclass(eq=False)
class Waiter:
    ticket: int
    key: str
    since: float
    number: int = -1
    is_queued: bool = False
    #: Whether it lost what it had, and stands at the head of the line.
    has_returned: bool = False
    may_wait: bool = True
    passed: int = 0
    #: How many of its handshakes were late, so that it has had another.
    hedges: int = 0
    #: The order among those that lean on doubted handshakes.
    leant: int = 0
    #: Since when its handshake is deferred: it has a place, and waits for what falls free.
    deferred_at: float | None = None
    #: Whether it has no place, but is expected to be served before what is idle must give way.
    is_unplaced: bool = False

    @property
    def endpoint(self) -> str:
        return self.key[0]


@dataclass(eq=False)
class Slot:
    number: int
    key: str
    born: float
    #: Since when it is idle, or a handshake that belongs to nobody, and the order among such.
    since: float
    turn: int = 0
    #: The order in which handshakes are stopped that nobody wants.
    fading: int = 0
    state: int = CONNECTING
    owner: Waiter | None = None
    begun_for: Waiter | None = None
    given: Waiter | None = None
    retires: float = math.inf
    uses: int = 0
    kept: bool = False
    #: When its handshake began; one that is only to begin cannot be late.
    began: float = math.inf
    began_turn: int = 0
    #: Not counted on: given up by who it was begun for, or late.
    is_doubted: bool = False
    is_late: bool = False
    is_drained: bool = False
    #: The endpoint for whose waiters its place is cleared, or OVER_ALL.
    cleared_for: str | None = None
    #: Whether its place stays taken for a while when its socket is gone, and whether that is so.
    cools: bool = False
    is_cooling: bool = False

    @property
    def endpoint(self) -> str:
        return self.key[0]


@dataclass
class Deferral:
    """What is known while handshakes of a kind are deferred."""

    #: The order among those looked at at the same time.
    turn: int
    #: Since when there are any without an end, or since handshakes last began for that.
    since: float
    look_at: float = math.inf
    #: Since when what falls free to waiters is counted, and how often it did.
    counted_from: float = 0.0
    fallen_free: int = 0
    #: Whether the last look came too late to judge by.
    is_postponed: bool = False
    #: How long uses took by then: each release changes it.
    use_then: float = math.nan


@dataclass
class Model:
    """The pool.  An endpoint's key is the first letter of its handshakes'."""

    limit: int = 0
    limit_total: int = 0
    max_connecting: int = 0
    max_waiting: int = -1
    max_idle: float = math.inf
    max_idle_connections: int = 0
    cooldown: float = 0.0
    defers: bool = False
    #: What others leave: how many places may be taken, and above how many they are cleared.
    places: float = math.inf
    keep: float = math.inf
    #: Whether there may be more places soon.
    holds: bool = False

    #: Every slot that is not gone, as they came to be, and every waiter queued.
    slots: list[Slot] = field(default_factory=list)
    waiters: list[Waiter] = field(default_factory=list)
    #: Those of them whose handshakes are deferred, in the order of this.
    deferring: list[Waiter] = field(default_factory=list)
    #: The endpoints with anything alive, those known longest first.
    endpoints: list[str] = field(default_factory=list)
    #: By endpoint, from when it is known, and since the beginning.
    counters: dict[str, Counter[str]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    #: By endpoint that is known: how long handshakes have taken lately, if any has succeeded, and
    #: after how long one is late until then.
    usual: dict[str, float] = field(default_factory=dict)
    first_patience: dict[str, float] = field(default_factory=dict)
    #: Likewise: how long the faster handshakes take; by key: how long connections are in use.
    shortest: dict[str, float] = field(default_factory=dict)
    uses: dict[str, float] = field(default_factory=dict)
    #: By key, while handshakes are deferred, or a look is still due.
    deferrals: dict[str, Deferral] = field(default_factory=dict)
    #: By key: since when handshakes were deferred, and when the last such waiter left, unless
    #: handshakes have begun since.
    ended: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: By endpoint that is known: what is known of the last handshake that failed.
    failures: dict[str, Any] = field(default_factory=dict)
    next_look: float = -math.inf
    tickets: int = 0
    slots_numbered: int = 0
    waiters_numbered: int = 0
    turns: int = 0
    opened: list[Slot] = field(default_factory=list)
    closing: list[Slot] = field(default_factory=list)
    woken: list[Waiter] = field(default_factory=list)

    # -- the operations --------------------------------------------------------------------------

    def acquire(self, key: str, now: float) -> Slot | None:
        """Hand out the connection used last, if it is fresh."""
        idle = self.idle(key=key)
        if not idle or self.is_stale(idle[-1], now):
            return None
        slot = idle[-1]
        self.count(slot.endpoint, "requests")
        self.use(slot, now)
        self.count_reuse(slot)
        return slot

    def request(self, key: str, now: float, may_wait: bool) -> tuple[Waiter | None, Plan]:
        endpoint = key[0]
        self.know(endpoint)
        self.close_stale(key, now)
        # Rule: what is known of uses is forgotten as soon as nothing of the handshake is left.
        self.forget_uses()
        self.count(endpoint, "requests")
        waiter = Waiter(self.tickets, key, now)
        # Rule: whoever asks draws a ticket, even if it is turned away.
        self.tickets += 1
        idle = self.idle(key=key)
        if idle:
            self.number(waiter)
            waiter.may_wait = may_wait
            self.give(idle[-1], waiter, now)
            self.make_room_over_all()
        elif not may_wait:
            # Rule: who may not wait gets what is idle, or nothing; no handshake is begun for it.
            self.count(endpoint, "timeouts")
            self.make_room_over_all()
            return None, self.plan()
        elif not self.would_admit(waiter, now):
            self.count(endpoint, "rejected")
            self.make_room_over_all()
            return None, self.plan()
        else:
            self.number(waiter)
            self.count(endpoint, "queued")
            self.line_up(waiter, now)
            if self.spares_idle(waiter, now):
                waiter.is_unplaced = True
                self.defer(waiter, now)
            self.settle(endpoint, now)
        return waiter, self.plan()

    def take(self, waiter: Waiter) -> Slot | None:
        slot = self.slot_given_to(waiter)
        if slot is not None:
            slot.given = None
            # Rule: reuse is counted for who takes what it was given.
            self.count_reuse(slot)
        return slot

    def decline(self, waiter: Waiter) -> Slot | None:
        slot = self.slot_given_to(waiter)
        if slot is not None:
            slot.given = None
            # Rule: who declines what it was given has not used it.
            slot.uses -= 1
        return slot

    def give_up(self, waiter: Waiter, now: float, timed_out: bool) -> Plan | None:
        # Rule: it timed out, too, if it was given something and has not taken it.
        if timed_out and (waiter.is_queued or self.slot_given_to(waiter) is not None):
            self.count(waiter.endpoint, "timeouts")
        if not waiter.is_queued:
            return None
        self.leave(waiter, now, gave_up=True)
        self.settle(waiter.endpoint, now)
        return self.plan()

    def open(self, key: str, now: float) -> Slot | None:
        endpoint = key[0]
        # Rule: what nobody waits for does not begin at the cost of another such handshake.
        connecting = len(self.at(endpoint, CONNECTING)) + len(self.reserved(endpoint=endpoint))
        # Rule: but it begins in a place that is reserved for who will have it.
        if any(waiter in self.reserved(key) for waiter in self.placeless(key)[:1]):
            if 0 < self.max_connecting <= len(self.at(endpoint, CONNECTING)):
                return None
        elif 0 < self.max_connecting <= connecting or not self.has_room(endpoint):
            return None
        # Rule: nor where it would be one too many once it is idle.
        if self.max_idle_connections:
            unused = len(self.idle()) + len(self.orphans())
            if unused >= self.max_idle_connections:
                return None
        self.know(endpoint)
        slot = self.new_slot(key, now)
        slot.kept = True
        self.orphan(slot, now)
        self.adopt(key)
        return slot

    def abandon(self, slot: Slot, now: float) -> None:
        # Rule: its grace begins when it is abandoned; to abandon it again changes nothing.
        if slot.kept and slot in self.orphans():
            if slot.began <= now:
                self.doubt(slot, now)
            else:
                slot.since = now
                slot.fading = self.turn()
        slot.kept = False

    def stop(self, slot: Slot) -> Plan:
        if slot in self.orphans():
            self.give_way(slot, None)
            self.make_room_over_all()
        return self.plan()

    def begin(self, slot: Slot, now: float) -> None:
        if slot.state == CONNECTING and slot.began == math.inf:
            slot.began = now
            slot.began_turn = self.turn()

    def connected(
        self, slot: Slot, now: float, retires: float, key: str | None, moves: bool
    ) -> Plan:
        self.count(slot.endpoint, "connects")
        self.count(slot.endpoint, "connect_seconds", now - slot.born)
        if slot.began <= now:
            took = now - slot.began
            shortest = self.shortest.get(slot.endpoint, took)
            # Rule: of the faster ones it is the other way round.
            self.shortest[slot.endpoint] = min(took, shortest + (took - shortest) * NEWEST_SHARE)
            usual = self.usual.get(slot.endpoint, took)
            # Rule: what is usual rises at once, and falls slowly.
            self.usual[slot.endpoint] = max(took, usual + (took - usual) * NEWEST_SHARE)
        self.end_connecting(slot, ACQUIRED)
        waiting = self.deferrals.get(slot.key)
        # Rule: if they have become faster, who waits for a release is looked at sooner.
        if waiting and self.deferred(slot.key) and waiting.look_at > now + self.interval(slot.key):
            self.plan_look(slot.key, now)
        slot.cools = False
        if not slot.is_drained:
            slot.retires = retires
        if key is None or key == slot.key:
            self.connected_as_expected(slot, now)
        else:
            self.connected_as_another(slot, key, moves, now)
        return self.plan()

    def connected_as_expected(self, slot: Slot, now: float) -> None:
        """Serve the oldest of the handshake; the owner has what that one had."""
        owner, slot.owner = slot.owner, None
        first = self.first(slot.key)
        if first is None:
            self.hand_on(slot, now)
            return
        if owner is not None and owner is not first:
            theirs = self.under_way_for(first)
            if theirs is not None and not theirs.is_drained:
                self.own(owner, theirs)
            else:
                # Rule: who loses its handshake to an older one stands at the head of the line. It
                # does not get that one's in turn where that is drained.
                owner.has_returned = True
        # Rule: what was opened for a waiter is given to one even if its lifetime is over.
        self.serve(first, slot, now)
        self.adopt(slot.key)
        self.settle(slot.endpoint, now)

    def connected_as_another(self, slot: Slot, key: str, moves: bool, now: float) -> None:
        """Rule: the owner gets what was opened for it, unless it is served at once by what lies at
        the other handshake.  All who wait for a place move along, or none; then who owns what was
        begun for somebody else goes back to the line."""
        old, owner, slot.owner = slot.key, slot.owner, None
        if owner is not None:
            owner.has_returned = True
        if moves:
            for waiter in self.placeless(slot.key):
                # Rule: who moves expects nothing any more of what is in use.
                if waiter.deferred_at is not None:
                    self.undefer(waiter)
                    waiter.has_returned = True
                waiter.key = key
        elif owner is not None and owner is slot.begun_for:
            owner.key = key
        slot.key = key
        if moves:
            self.serve_at_hand(key, now)
        if owner is not None and owner.is_queued and owner.key == key:
            self.serve(owner, slot, now)
            self.adopt(old)
            self.settle(slot.endpoint, now)
        else:
            self.adopt(old)
            self.hand_on(slot, now)

    def connect_failed(
        self, slot: Slot, now: float, failure: Any = None
    ) -> tuple[Waiter | None, Plan]:
        self.count(slot.endpoint, "connect_errors")
        self.failures[slot.endpoint] = failure
        self.count(slot.endpoint, "connect_seconds", now - slot.born)
        owner, slot.owner = slot.owner, None
        if slot.cools and self.cooldown:
            # Rule: what fails while it is configured was open.
            self.end_connecting(slot, CLOSING)
            self.cool_down(slot, now)
        else:
            self.free(slot)
        if owner is not None:
            self.leave(owner, now)
        self.settle(slot.endpoint, now)
        return owner, self.plan()

    def release(self, slot: Slot, now: float) -> Plan | None:
        is_plain = not (
            self.waiters
            or slot.retires <= now
            or self.is_surplus(slot.endpoint)
            or 0 < self.max_idle_connections <= len(self.idle())
        )
        self.count(slot.endpoint, "released")
        if not slot.is_drained:
            took = now - slot.since
            use = self.uses.get(slot.key, took)
            # Rule: a long use counts at once, and is forgotten slowly.
            is_long = took > use + LONGER
            self.uses[slot.key] = took if is_long else use + (took - use) * NEWEST_USE_SHARE
        self.hand_on(slot, now)
        plan = self.plan()
        assert not is_plain or plan == Plan()
        return None if is_plain else plan

    def discard(self, slot: Slot, reason: int, now: float) -> Plan | None:
        if slot.state not in (IDLE, ACQUIRED):
            return None
        is_used = slot.state == ACQUIRED and slot.given is None
        slot.cools = REASONS[reason] in COOLING_REASONS or (REASONS[reason] == "lost" and is_used)
        waiter, slot.given = slot.given, None
        self.start_closing(slot, reason)
        if waiter is None:
            self.make_room_over_all()
            return self.plan() if self.closing else None
        # Rule: who may not wait has timed out, unless something else lies idle.
        if not waiter.may_wait:
            self.close_stale(waiter.key, now)
            if not self.idle(key=waiter.key):
                self.count(waiter.endpoint, "timeouts")
                self.make_room_over_all()
                return self.plan()
        # Rule: who is back waits anew (its waiting before was counted when it was served).
        waiter.has_returned = True
        self.line_up(waiter, now)
        self.serve_at_hand(waiter.key, now)
        self.settle(waiter.endpoint, now)
        return self.plan()

    def set_aside(self, slot: Slot) -> None:
        """Rule: it is in use from then on, but nobody's use of it is counted."""
        slot.state = ACQUIRED

    def put_back(self, slot: Slot, now: float) -> Plan:
        self.hand_on(slot, now)
        return self.plan()

    def closed(self, slot: Slot, now: float) -> Plan | None:
        if slot.state != CLOSING or slot.is_cooling:
            return None
        if slot.cools and self.cooldown:
            self.cool_down(slot, now)
            return self.plan()
        self.free(slot)
        if not self.waiters:
            return None
        self.settle(slot.endpoint, now)
        return self.plan()

    def expire(self, now: float) -> Plan:
        for slot in self.idle():
            if slot.since + self.max_idle <= now:
                self.close_idle(slot, "idle")
        for endpoint in self.endpoints:
            for slot in self.idle(endpoint):
                if slot.retires <= now:
                    self.close_idle(slot, "lifetime")
        while (fading := self.fading()) and fading[0].since + ORPHAN_GRACE <= now:
            owner = fading[0].owner
            self.give_way(fading[0], None)
            if owner is not None:
                self.adopt(owner.key)
                self.settle(owner.endpoint, now)
        if self.look_deadline() <= now:
            self.look(now)
        self.forget_uses()
        due = [(d.look_at, d.turn, key) for key, d in self.deferrals.items() if d.look_at <= now]
        for _, _, key in sorted(due):
            if key in self.deferrals and self.deferrals[key].look_at <= now:
                self.judge(key, now)
        for slot in self.cooling():
            if slot.since + self.cooldown <= now:
                self.free(slot)
                self.settle(slot.endpoint, now)
        self.make_room_over_all()
        return self.plan()

    def postpone_look(self, now: float) -> None:
        self.next_look = now + LATE_FLOOR

    def look(self, now: float) -> None:
        """Rule: who is late is looked for at most every LATE_FLOOR seconds, and told at once: all
        that were late then are, whatever comes of the first."""
        self.next_look = now + LATE_FLOOR
        late = [slot for slot in self.watched() if slot.began + self.patience(slot.endpoint) <= now]
        for slot in late:
            if slot in self.watched():
                self.turn_late(slot, now)

    def turn_late(self, slot: Slot, now: float) -> None:
        owner = slot.owner
        if owner is not None:
            # Rule: each of one waiter is given twice the time of the last, but what it leant on.
            factor = 2.0**owner.hedges if slot.endpoint in self.usual else 1.0
            if not slot.is_doubted and slot.began + self.patience(slot.endpoint) * factor > now:
                return
            owner.hedges += 1
            owner.has_returned = True
            slot.owner = None
        if slot.endpoint not in self.usual:
            patience = max(self.first_patience[slot.endpoint], 2 * (now - slot.began))
            self.first_patience[slot.endpoint] = patience
        slot.is_late = True
        if not slot.is_doubted:
            self.doubt(slot, now)
        self.leave_to_nobody(slot, now)
        self.adopt(slot.key)
        self.settle(slot.endpoint, now)

    def doubt(self, slot: Slot, now: float) -> None:
        """Rule: its grace begins when it is first doubted, and goes on whoever leans on it."""
        slot.is_doubted = True
        slot.kept = False
        slot.since = now
        slot.turn = slot.fading = self.turn()

    def patience(self, endpoint: str) -> float:
        if endpoint not in self.usual:
            return self.first_patience[endpoint]
        # Rule: it is longer where many are under way, each of which waits for the others.
        many = 1 + len(self.at(endpoint, CONNECTING)) // 8
        return max(LATE_FACTOR * self.usual[endpoint], LATE_FLOOR) * many

    def watched(self) -> list[Slot]:
        """Return handshakes that have begun and are not late yet, the longest under way first."""
        found = [
            s for s in self.slots if s.state == CONNECTING and s.began < math.inf and not s.is_late
        ]
        return sorted(found, key=lambda slot: slot.began_turn)

    def look_deadline(self) -> float:
        watched = self.watched()
        return max(self.next_look, watched[0].began + LATE_FLOOR) if watched else math.inf

    def next_deadline(self) -> float:
        """Rule: it is exact, lifetimes apart."""
        idle = [slot.since + self.max_idle for slot in self.idle()]
        fading = [slot.since + ORPHAN_GRACE for slot in self.fading()]
        cooling = [slot.since + self.cooldown for slot in self.cooling()]
        looks = [deferral.look_at for deferral in self.deferrals.values()]
        return min([*idle, *fading, *cooling, *looks, self.look_deadline()])

    # -- handshakes that are deferred ------------------------------------------------------------

    def reserved(self, key: str | None = None, endpoint: str | None = None) -> list[Waiter]:
        """Return who has a place in which nothing has begun, in the order of this."""
        return [waiter for waiter in self.deferred(key, endpoint) if not waiter.is_unplaced]

    def spares_idle(self, waiter: Waiter, now: float) -> bool:
        """Rule: who comes first, and will soon be served by a release, lets what is idle be.

        Not more of them than there are idle connections to give way, and not where the line is
        bounded.
        """
        endpoint = waiter.endpoint
        if self.max_waiting >= 0 or self.line(endpoint) != [waiter]:
            return False
        if self.has_room(endpoint) or self.is_connecting_full(endpoint):
            return False
        where = endpoint if self.is_at_limit(endpoint) else None
        if where is None and self.is_beyond_total():
            return False
        if self.orphans(where) or len(self.unplaced(where)) >= len(self.idle(where)):
            return False
        return self.may_defer(waiter, now)

    def unplaced(self, endpoint: str | None = None) -> list[Waiter]:
        return [waiter for waiter in self.deferred(endpoint=endpoint) if waiter.is_unplaced]

    def places_older(self, endpoint: str, rivals: list[Waiter]) -> bool:
        """Rule: a place that is free is reserved for who let be what is not idle any more.

        But not before those that came earlier.
        """
        here, over_all = self.unplaced(endpoint), self.unplaced()
        found: list[Waiter] = []
        if self.limit and len(here) > len(self.idle(endpoint)):
            found = here
        elif self.has_total() and len(over_all) > len(self.idle()):
            found = [waiter for waiter in over_all if self.has_room(waiter.endpoint)]
        if not found or found[0].ticket > min(rival.ticket for rival in rivals):
            return False
        found[0].is_unplaced = False
        return True

    def deferred(self, key: str | None = None, endpoint: str | None = None) -> list[Waiter]:
        """Return whose handshakes are deferred, in the order of this."""
        return [
            waiter
            for waiter in self.deferring
            if key in (None, waiter.key) and endpoint in (None, waiter.endpoint)
        ]

    def may_defer(self, waiter: Waiter, now: float) -> bool:
        """Whether what is in use is expected to fall free to a waiter sooner than one is opened.

        Rule: nothing is expected where nothing is known, and by who lost what it had.  Nor where
        there were such waiters, one after another, for as long as one may be deferred.
        """
        key, endpoint = waiter.key, waiter.endpoint
        used = [slot for slot in self.slots if slot.key == key and slot.state == ACQUIRED]
        if not self.defers or waiter.has_returned or key not in self.uses or not used:
            return False
        if endpoint not in self.shortest or self.uses[key] > len(used) * self.interval(key):
            return False
        line_since = now if self.deferred(key) else self.line_since(key, now)
        if line_since + self.longest_deferral(endpoint) <= now:
            return False
        opening = [slot for slot in self.slots if slot.key == key and slot.owner is not None]
        rounds = 1 + (len(opening) + len(self.deferred(key))) // len(used)
        wait = rounds * self.uses[key]
        # Rule: for a long wait one begins at a time, since handshakes may have become faster.
        if wait > LONG_WAIT and not self.at(endpoint, CONNECTING):
            return False
        return wait < self.longest_deferral(endpoint)

    def longest_deferral(self, endpoint: str) -> float:
        return DEFER_SHARE * self.shortest[endpoint]

    def interval(self, key: str) -> float:
        """Rule: what is in use should have been released by then, but that must not take long."""
        longest = LOOK_SHARE * self.shortest[key[0]]
        expected = LOOK_FACTOR * self.uses.get(key, -1.0)
        return max(min(max(expected, longest / 3), longest), SHORTEST_LOOK)

    def defer(self, waiter: Waiter, now: float) -> None:
        known = self.deferrals.get(waiter.key)
        # Rule: the look due after one gave up is the next one's, unless there was a release.
        is_new = known is None or not (
            self.deferred(waiter.key) or known.use_then == self.uses[waiter.key]
        )
        self.deferring.append(waiter)
        if is_new:
            self.deferrals[waiter.key] = Deferral(self.turn(), self.line_since(waiter.key, now))
            self.plan_look(waiter.key, now)
        # Rule: who gets the place of another has no more time than that one had.
        waiter.deferred_at = max(waiter.since, self.deferrals[waiter.key].since)

    def line_since(self, key: str, now: float) -> float:
        """Return since when handshakes of the kind have been deferred, if one is now.

        Rule: it goes on if the last such waiter left less than a use ago, so that nothing was idle.
        """
        since, ended = self.ended.get(key, (now, -math.inf))
        return since if now <= ended + self.uses[key] else now

    def leave_deferred(self, waiter: Waiter, now: float, gave_up: bool) -> None:
        deferral = self.deferrals[waiter.key]
        self.undefer(waiter)
        if self.deferred(waiter.key):
            return
        self.ended[waiter.key] = (deferral.since, now)
        # Rule: the look is due all the same, or who has little time would never be noticed.
        if gave_up and not deferral.fallen_free:
            self.deferrals[waiter.key] = deferral

    def undefer(self, waiter: Waiter) -> None:
        if waiter.deferred_at is not None:
            waiter.deferred_at = None
            waiter.is_unplaced = False
            self.deferring.remove(waiter)
            if not self.deferred(waiter.key):
                del self.deferrals[waiter.key]

    def stop_deferring(self) -> None:
        for waiter in list(self.deferring):
            self.undefer(waiter)
            waiter.has_returned = True

    def plan_look(self, key: str, now: float) -> None:
        deferral = self.deferrals[key]
        deferral.look_at = now + self.interval(key)
        deferral.counted_from = now
        deferral.fallen_free = 0
        deferral.use_then = self.uses.get(key, -1.0)

    def judge(self, key: str, now: float) -> None:
        """Begin what is deferred and is not expected to be needless any more."""
        deferral, longest = self.deferrals[key], self.longest_deferral(key[0])

        def begin() -> None:
            self.begin_deferred(self.deferred(key)[0], now)

        # Rule: a look that comes too late shows nothing, but two in a row do.
        is_late = now > deferral.look_at + self.interval(key)
        deferral.is_postponed = is_late and not deferral.is_postponed
        while (waiting := self.deferred(key)) and since(waiting[0]) + longest <= now:
            begin()
        if not deferral.is_postponed:
            # Rule: uses have become longer if none has ended, unless all were lost.
            use = self.uses.get(key, -1.0)
            is_open = any(s.key == key and s.state in (ACQUIRED, IDLE) for s in self.slots)
            if not deferral.fallen_free and use == deferral.use_then and is_open:
                self.uses[key] = max(use, self.shortest[key[0]])
            rate = RATE_SHARE * deferral.fallen_free / (now - deferral.counted_from)
            while waiting := self.deferred(key):
                # Rule: all in the line count, though some have no place.
                if len(self.placeless(key)) <= rate * (since(waiting[-1]) + longest - now):
                    break
                begin()
            # Rule: where it goes on for as long as one may be deferred, half of them begin.
            if deferral.since + longest <= now:
                deferral.since = now
                for _ in range((len(self.deferred(key)) + 1) // 2):
                    begin()
        if self.deferred(key) or (deferral.is_postponed and key in self.deferrals):
            self.plan_look(key, now)
        else:
            self.deferrals.pop(key, None)
        self.settle(key[0], now)

    def begin_deferred(self, waiter: Waiter, now: float) -> None:
        """Rule: a handshake that would have given way to it may belong to another by now; then it
        stands at the head of the line."""
        self.undefer(waiter)
        waiter.has_returned = True
        if self.has_room(waiter.endpoint):
            self.open_for(waiter, now)

    # -- limits ----------------------------------------------------------------------------------

    def resize(self, limit: int, limit_total: int, now: float) -> Plan:
        self.limit, self.limit_total = limit, limit_total
        endpoints = list(self.endpoints)
        # Rule: where there are too many, who has a place reserved has none any more, but stands at
        # the head of its line.
        is_over = any(0 < limit < self.taken(endpoint) for endpoint in endpoints)
        if is_over or min(limit_total or math.inf, self.places) < self.taken_over_all():
            self.stop_deferring()
        for endpoint in endpoints:
            self.trim_to_limit(endpoint)
        for endpoint in endpoints:
            self.settle(endpoint, now)
        return self.plan()

    def lead(self, places: float, keep: float, now: float, holds: bool) -> Plan:
        self.places, self.keep, self.holds = places, keep, holds
        if min(self.limit_total or math.inf, places) < self.taken_over_all():
            self.stop_deferring()
        self.trim_to_total()
        if self.has_total():
            while (chosen := self.next_with_room("")) is not None:
                if not self.places_older(chosen, self.line(chosen)):
                    self.open_for(self.line(chosen)[0], now)
                    self.make_room(chosen)
            self.open_beside_all("", now)
            self.make_room_over_all()
        return self.plan()

    def stop_opening(self, now: float) -> Plan:
        """Rule: those that waited for these handshakes stand at the heads of their lines."""
        for slot in list(self.slots):
            if slot.state == CONNECTING:
                self.give_way(slot, None)
        for endpoint in list(self.endpoints):
            self.settle(endpoint, now)
        return self.plan()

    def lacking(self) -> int:
        """Rule: only what a limit over all refuses is lacking."""
        return max(0, self.claims() - self.cleared(OVER_ALL)) if self.has_total() else 0

    def stranded(self) -> list[Waiter]:
        open_keys = {slot.key for slot in self.slots if slot.state != CLOSING}
        return [waiter for waiter in self.waiters if waiter.key not in open_keys]

    def idle_since(self, then: float, most: int) -> int:
        return min(most, sum(slot.since <= then for slot in self.idle()))

    def drain(self, keys: Iterable[str] | None) -> Plan:
        """Rule: what is given to a waiter, and not taken yet, is in use."""
        for slot in list(self.slots):
            if slot.state == CLOSING or (keys is not None and slot.key not in keys):
                continue
            if slot.state == IDLE:
                self.close_idle(slot, "forced")
                continue
            slot.is_drained = True
            slot.retires = -math.inf
            # Rule: nothing is expected of what is in use then.
            self.uses.pop(slot.key, None)
            if slot in self.orphans():
                self.give_way(slot, None)
        self.make_room_over_all()
        return self.plan()

    def retire(self, slot: Slot) -> Plan:
        # Rule: what was used last is closed first.
        for other in reversed(self.idle(key=slot.key)):
            if other is not slot and other.born <= slot.born:
                self.close_idle(other, "forced")
        self.make_room_over_all()
        return self.plan()

    def evict(self, count: int) -> Plan:
        while count > 0 and self.idle():
            self.evict_longest_idle()
            count -= 1
        self.make_room_over_all()
        return self.plan()

    def detach(self, slot: Slot, now: float) -> Plan | None:
        self.count(slot.endpoint, "detached")
        self.free(slot)
        if not self.waiters:
            return None
        self.settle(slot.endpoint, now)
        return self.plan()

    def shutdown(
        self, reason: int, now: float, spares_used: bool = False
    ) -> tuple[list[Waiter], Plan]:
        waiters = list(self.waiters)
        for queued in waiters:
            self.leave(queued, now)
        for slot in list(self.slots):
            if slot.state == CONNECTING:
                self.give_way(slot, None)
            elif slot.state == ACQUIRED and spares_used and slot.given is None:
                slot.is_drained = True
                slot.retires = -math.inf
            elif slot.state in (IDLE, ACQUIRED):
                waiter, slot.given = slot.given, None
                if waiter is not None:
                    waiters.append(waiter)
                self.start_closing(slot, reason)
                self.closing.append(slot)
        # Rule: nothing cools down after the end.
        self.cooldown = 0.0
        for slot in self.cooling():
            self.free(slot)
        return waiters, self.plan()

    # -- what can be seen ------------------------------------------------------------------------

    def gauges(self, endpoint: str) -> tuple[int, ...]:
        states = (len(self.at(endpoint, state)) for state in STATES.values())
        waiting = len(self.line(endpoint)) + len(self.deferred(endpoint=endpoint))
        return (*states, waiting, 1)

    def by_endpoint(self) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
        return {
            endpoint: (self.gauges(endpoint), self.in_order(self.counters[endpoint]))
            for endpoint in self.endpoints
        }

    def situation(self, endpoint: str, now: float) -> tuple[tuple[int, ...], str, float, Any]:
        lacking = ""
        if self.is_at_limit(endpoint):
            lacking = "limit"
        elif self.is_at_total():
            is_own = 0 < self.limit_total <= self.taken_over_all()
            lacking = "limit_total" if is_own else "fleet"
        elif self.is_connecting_full(endpoint):
            lacking = "max_connecting"
        gauges = self.gauges(endpoint) if endpoint in self.endpoints else (0,) * 6
        ages = [now - slot.born for slot in self.at(endpoint, CONNECTING)]
        return gauges, lacking, max(ages, default=-1.0), self.failures.get(endpoint)

    def in_order(self, counter: Counter[str]) -> tuple[float, ...]:
        return tuple(counter[name] for name in COUNTED)

    def open_count(self, key: str) -> int:
        """Rule: a handshake that is doubted does not count."""
        found = [slot for slot in self.slots if slot.key == key and slot.state != CLOSING]
        return sum(not slot.is_doubted for slot in found)

    def spare_count(self, key: str, most: int) -> int:
        orphans = sum(slot.key == key and not slot.is_doubted for slot in self.orphans())
        return max(orphans, min(orphans + len(self.idle(key=key)), most))

    def handshakes(self) -> set[str]:
        slots = {slot.key for slot in self.slots if slot.state != CLOSING}
        return slots | {waiter.key for waiter in self.waiters}

    # -- who is where ----------------------------------------------------------------------------

    def at(self, endpoint: str, *states: int) -> list[Slot]:
        return [s for s in self.slots if s.endpoint == endpoint and s.state in states]

    def idle(self, endpoint: str | None = None, key: str | None = None) -> list[Slot]:
        """Return idle connections, the longest idle first.

        Rule: of those idle equally long, first of the endpoint known longer, then parked first.
        """
        found = [
            slot
            for slot in self.slots
            if slot.state == IDLE and endpoint in (None, slot.endpoint) and key in (None, slot.key)
        ]
        return sorted(found, key=lambda s: (s.since, self.endpoints.index(s.endpoint), s.turn))

    def orphans(self, endpoint: str | None = None, key: str | None = None) -> list[Slot]:
        """Return handshakes under way that belong to nobody, in the order of giving way.

        Rule: first those that are doubted, the last one first, then those that are nobody's
        longest.
        """
        found = [
            slot
            for slot in self.slots
            if slot.state == CONNECTING
            and slot.owner is None
            and endpoint in (None, slot.endpoint)
            and key in (None, slot.key)
        ]
        key_of = {slot: (not slot.is_doubted, slot.turn) for slot in found}
        for slot in found:
            if slot.is_doubted:
                key_of[slot] = (False, -slot.turn)
        return sorted(found, key=key_of.__getitem__)

    def to_adopt(self, key: str) -> list[Slot]:
        """Return handshakes that a caller can count on, and belong to nobody."""
        return [slot for slot in self.orphans(key=key) if not slot.is_doubted]

    def to_lean_on(self, key: str) -> list[Slot]:
        """Return those that it can lean on, that is, wait for; the longest nobody's first."""
        found = [slot for slot in self.orphans(key=key) if slot.is_doubted and not slot.is_late]
        return sorted(found, key=lambda slot: slot.turn)

    def leaning(self, endpoint: str) -> list[Waiter]:
        found = [
            slot.owner
            for slot in self.slots
            if slot.endpoint == endpoint and slot.owner is not None and slot.is_doubted
        ]
        return sorted(found, key=lambda waiter: waiter.leant)

    def fading(self) -> list[Slot]:
        doubted = [slot for slot in self.slots if slot.is_doubted]
        found = {*doubted, *(slot for slot in self.orphans() if not slot.kept)}
        return sorted(found, key=lambda slot: slot.fading)

    def cooling(self) -> list[Slot]:
        """Return slots whose places are taken though their sockets are gone, in that order."""
        found = [slot for slot in self.slots if slot.is_cooling]
        return sorted(found, key=lambda slot: slot.turn)

    def under_way_for(self, waiter: Waiter) -> Slot | None:
        return next((slot for slot in self.slots if slot.owner is waiter), None)

    def slot_given_to(self, waiter: Waiter) -> Slot | None:
        return next((slot for slot in self.slots if slot.given is waiter), None)

    def first(self, key: str) -> Waiter | None:
        """Return the oldest waiter of a handshake."""
        waiters = [waiter for waiter in self.waiters if waiter.key == key]
        return min(waiters, key=lambda waiter: waiter.ticket, default=None)

    def placeless(self, key: str) -> list[Waiter]:
        """Return the waiters of a handshake that have none under way, the oldest first."""
        waiters = [waiter for waiter in self.waiters if waiter.key == key]
        return sorted(self.without_handshake(waiters), key=lambda waiter: waiter.ticket)

    def without_handshake(self, waiters: list[Waiter]) -> list[Waiter]:
        owners = {id(slot.owner) for slot in self.slots} if waiters else ()
        return [waiter for waiter in waiters if id(waiter) not in owners]

    def line(self, endpoint: str) -> list[Waiter]:
        """Return who waits for a place.

        Rule: who lost what it had stands in front of all others, among such in order of arrival.
        """
        waiters = [w for w in self.waiters if w.endpoint == endpoint and w.deferred_at is None]
        found = self.without_handshake(waiters)
        return sorted(found, key=lambda waiter: (not waiter.has_returned, waiter.ticket))

    def is_stale(self, slot: Slot, now: float) -> bool:
        return min(slot.since + self.max_idle, slot.retires) <= now

    # -- the limits ------------------------------------------------------------------------------

    def taken(self, endpoint: str) -> int:
        """Rule: who has a place in which nothing has begun counts as what it may have begun."""
        reserved = len(self.reserved(endpoint=endpoint))
        return reserved + sum(slot.endpoint == endpoint for slot in self.slots)

    def taken_over_all(self) -> int:
        return len(self.slots) + len(self.reserved())

    def owned(self, endpoint: str) -> int:
        """Return how many handshakes are under way, or may be, and belong to somebody."""
        connecting = len(self.at(endpoint, CONNECTING)) + len(self.reserved(endpoint=endpoint))
        return connecting - len(self.orphans(endpoint))

    def is_at_limit(self, endpoint: str) -> bool:
        return 0 < self.limit <= self.taken(endpoint)

    def is_at_total(self) -> bool:
        return min(self.limit_total or math.inf, self.places) <= self.taken_over_all()

    def has_total(self) -> bool:
        return min(self.limit_total or math.inf, self.places) < math.inf

    def holds_idle(self) -> bool:
        """Rule: where limit_total alone is in the way, nothing is held."""
        return self.holds and self.places < (self.limit_total or math.inf)

    def is_beyond_total(self) -> bool:
        """Rule: then no place is cleared over all: a waiter could not use it."""
        if self.holds_idle():
            return True
        staying = sum(slot.state != CLOSING for slot in self.slots) + len(self.reserved())
        return min(self.limit_total or math.inf, self.places) < staying

    def is_connecting_full(self, endpoint: str) -> bool:
        """Rule: what belongs to nobody does not count; it is stopped for who needs its place."""
        return 0 < self.max_connecting <= self.owned(endpoint)

    def has_room(self, endpoint: str) -> bool:
        return not (
            self.is_connecting_full(endpoint) or self.is_at_limit(endpoint) or self.is_at_total()
        )

    def has_free_room(self, endpoint: str) -> bool:
        """Whether a handshake can begin although nothing gives way, and nobody waits for that."""
        connecting = len(self.at(endpoint, CONNECTING)) + len(self.reserved(endpoint=endpoint))
        return not (
            self.line(endpoint)
            or 0 < self.max_connecting <= connecting
            or self.is_at_limit(endpoint)
            or self.is_at_total()
        )

    def is_over_limit(self, endpoint: str) -> bool:
        used = sum(slot.endpoint == endpoint and slot.state != CLOSING for slot in self.slots)
        return 0 < self.limit < used

    def is_over_total(self) -> bool:
        most = min(self.limit_total or math.inf, self.keep)
        return most < sum(slot.state != CLOSING for slot in self.slots)

    def is_surplus(self, endpoint: str) -> bool:
        return self.is_over_limit(endpoint) or self.is_over_total()

    def wanted(self, endpoint: str) -> int:
        """Return how many handshakes could begin if there were places."""
        wanted = len(self.line(endpoint))
        if self.max_connecting:
            wanted = min(wanted, self.max_connecting - self.owned(endpoint))
        return max(0, wanted)

    def claim(self, endpoint: str) -> int:
        """Return how many of them lack only room over all endpoints."""
        if not self.limit:
            return self.wanted(endpoint)
        return max(0, min(self.wanted(endpoint), self.limit - self.taken(endpoint)))

    def claims(self) -> int:
        return sum(self.claim(endpoint) for endpoint in self.endpoints)

    def cleared(self, whom: str) -> int:
        return sum(slot.cleared_for == whom for slot in self.slots)

    def would_admit(self, waiter: Waiter, now: float) -> bool:
        """Try it, on a copy.

        Rule: a caller is admitted if it then has a handshake of its own or stands where a place is
        being cleared, or if the line without those for whom one is cleared is within bounds.
        """
        if self.max_waiting < 0:
            return True
        # Rule: who lacks only a place that there may be soon is admitted.
        is_at_limit = self.is_at_limit(waiter.endpoint)
        if self.holds_idle() and not is_at_limit and self.is_at_total():
            return True
        trial, newcomer = copy.deepcopy((self, waiter))
        trial.line_up(newcomer, now)
        trial.settle(newcomer.endpoint, now)
        line = trial.line(newcomer.endpoint)
        if newcomer not in line:
            return True
        uncovered = len(line) - trial.covered(newcomer.endpoint)
        return uncovered <= self.max_waiting

    def covered(self, endpoint: str) -> int:
        """Return how many of the line are as good as served: a place is being cleared for them."""
        elsewhere = self.claims() - self.claim(endpoint)
        from_total = max(0, self.cleared(OVER_ALL) - elsewhere)
        if self.is_beyond_total():
            from_total = 0
        cleared = self.cleared(endpoint) + min(self.claim(endpoint), from_total)
        return min(self.wanted(endpoint), cleared)

    # -- who gets what ---------------------------------------------------------------------------

    def hand_on(self, slot: Slot, now: float) -> None:
        """Decide who gets a connection that has fallen free."""
        first = self.first(slot.key)
        if slot.retires <= now:
            reason = "forced" if slot.is_drained else "lifetime"
            self.start_closing(slot, REASONS.index(reason))
            self.closing.append(slot)
        elif self.is_surplus(slot.endpoint):
            self.give_way(slot, None)
        elif first is None:
            self.park(slot, now)
        else:
            whom = self.gives_way_for(slot, first)
            if whom is None:
                if slot.key in self.deferrals:
                    self.deferrals[slot.key].fallen_free += 1
                self.serve(first, slot, now)
            else:
                self.give_way(slot, whom)
        self.settle(slot.endpoint, now)

    def gives_way_for(self, slot: Slot, first: Waiter) -> str | None:
        """Count that somebody is passed over, and say for whom the connection must give way."""
        rivals: list[Waiter] = []
        serves_any = not self.is_beyond_total()
        is_at_limit = self.is_at_limit(slot.endpoint)
        if (is_at_limit or serves_any) and not self.is_connecting_full(slot.endpoint):
            rivals += self.line(slot.endpoint)
        if serves_any and self.is_at_total():
            for endpoint in self.endpoints:
                if self.claim(endpoint):
                    rivals += self.line(endpoint)
        rival = min(rivals, key=lambda waiter: waiter.ticket, default=first)
        if rival.ticket >= first.ticket:
            return None
        is_here = rival.endpoint == slot.endpoint and self.is_at_limit(slot.endpoint)
        whom = slot.endpoint if is_here else OVER_ALL
        # Rule: who has a place being cleared is not passed over.
        if self.cleared(whom):
            return None
        rival.passed += 1
        return whom if rival.passed > MAX_PASSED_OVER else None

    def settle(self, endpoint: str, now: float) -> None:
        """Open for who has room, oldest first, and clear places for the rest."""
        self.trim_to_limit(endpoint)
        self.trim_to_total()
        while (chosen := self.next_with_room(endpoint)) is not None:
            if self.places_older(chosen, self.line(chosen)):
                continue
            self.open_for(self.line(chosen)[0], now)
            if chosen != endpoint:
                self.make_room(chosen)
        self.open_beside_all(endpoint, now)
        self.make_room(endpoint)

    def open_beside_all(self, endpoint: str, now: float) -> None:
        # Rule: who leans on a doubted handshake gets another where there is room, but only as
        # something else happens at its endpoint or, under a limit over all, anywhere.
        candidates = self.endpoints if self.has_total() else [endpoint]
        leant = [candidate for candidate in candidates if self.leaning(candidate)]
        for candidate in sorted(leant, key=lambda c: self.leaning(c)[0].ticket):
            self.open_beside(candidate, now)

    def open_beside(self, endpoint: str, now: float) -> None:
        while (leaning := self.leaning(endpoint)) and self.has_free_room(endpoint):
            if self.places_older(endpoint, leaning[:1]):
                continue
            slot = self.under_way_for(leaning[0])
            assert slot is not None
            self.leave_to_nobody(slot, now)
            theirs = self.to_adopt(slot.key)
            if theirs:
                self.own(leaning[0], theirs[0])
            else:
                self.begin_for(leaning[0], now)

    def next_with_room(self, endpoint: str) -> str | None:
        """Return the endpoint whose oldest waiter is the oldest of all that a place would serve.

        Rule: without a limit over all, each endpoint is a matter of its own.
        """
        if self.is_at_total():
            return None
        candidates = self.endpoints if self.has_total() else [endpoint]
        claimants = [candidate for candidate in candidates if self.claim(candidate)]
        return min(claimants, key=lambda e: min(w.ticket for w in self.line(e)), default=None)

    def open_for(self, waiter: Waiter, now: float) -> None:
        defers = self.may_defer(waiter, now)
        first = self.deferred(waiter.key)[:1]
        # Rule: what begins belongs to who waits longest.
        if defers or (first and not waiter.has_returned):
            if first and first[0].is_unplaced:
                first[0].is_unplaced, waiter.is_unplaced = False, True
            self.defer(waiter, now)
            if not defers:
                self.begin_deferred(first[0], now)
            return
        endpoint = waiter.endpoint
        orphans = self.orphans(endpoint)
        if orphans and 0 < self.max_connecting <= len(self.at(endpoint, CONNECTING)):
            self.give_way([*self.to_go_first(orphans), *orphans][0], None)
        self.ended.pop(waiter.key, None)
        self.begin_for(waiter, now)

    def begin_for(self, waiter: Waiter, now: float) -> None:
        slot = self.new_slot(waiter.key, now)
        slot.owner = slot.begun_for = waiter
        self.opened.append(slot)

    def own(self, waiter: Waiter, slot: Slot) -> None:
        self.undefer(waiter)
        slot.owner = waiter
        waiter.leant = self.turn()

    def make_room(self, endpoint: str) -> None:
        """Rule: what is closing for another reason does not count as cleared."""
        if self.is_at_limit(endpoint):
            self.clear(endpoint, self.wanted(endpoint), endpoint)
        self.make_room_over_all()

    def make_room_over_all(self) -> None:
        """Rule: also as something begins to close, which may let a cleared place be used."""
        if self.is_at_total() and not self.is_beyond_total():
            self.clear(OVER_ALL, self.claims(), None)

    def clear(self, whom: str, wanted: int, endpoint: str | None) -> None:
        """Stop or close what nobody uses, until enough is cleared."""
        while self.cleared(whom) < wanted:
            victims = self.dispensable(endpoint)
            if not victims:
                break
            self.give_way(victims[0], whom)

    def dispensable(self, endpoint: str | None = None) -> list[Slot]:
        """Rule: handshakes first, then idle ones, then handshakes that may serve the next."""
        orphans = self.orphans(endpoint)
        return [*self.to_go_first(orphans), *self.idle(endpoint), *orphans]

    def to_go_first(self, orphans: list[Slot]) -> list[Slot]:
        """Rule: who stands at the head of a line does not have a doubted one of its kind stopped.

        But for one that is late.
        """
        heads = {self.line(endpoint)[0].key for endpoint in self.endpoints if self.line(endpoint)}
        return [s for s in orphans if not s.is_doubted or s.is_late or s.key not in heads]

    def trim_to_limit(self, endpoint: str) -> None:
        """Close what a lowered limit does not allow and nobody uses or waits for."""
        while self.is_over_limit(endpoint):
            victims = self.dispensable(endpoint)
            if not victims:
                break
            self.give_way(victims[0], None)

    def trim_to_total(self) -> None:
        while self.is_over_total():
            victims = self.dispensable()
            if not victims:
                break
            self.give_way(victims[0], None)

    def serve_at_hand(self, key: str, now: float) -> None:
        """Serve those that came to a handshake with what lies there: no passing over."""
        self.close_stale(key, now)
        while (idle := self.idle(key=key)) and (first := self.first(key)):
            self.serve(first, idle[-1], now)
            self.close_stale(key, now)
        self.adopt(key)

    def adopt(self, key: str) -> None:
        """Rule: handshakes that belong to nobody go to who has none, oldest to oldest.

        So who is back in the line has one of these, if there is any, in place of a new one.
        """
        for slot, waiter in zip(self.to_adopt(key), self.placeless(key), strict=False):
            self.undefer(waiter)
            slot.owner = waiter

    # -- what happens to one ---------------------------------------------------------------------

    def line_up(self, waiter: Waiter, now: float) -> None:
        """Let it have a handshake of its kind, or stand in line."""
        self.know(waiter.endpoint)
        waiter.is_queued = True
        waiter.since = now
        leans = self.leans(waiter)
        self.waiters.append(waiter)
        theirs = self.to_adopt(waiter.key)
        if not theirs and leans:
            theirs = self.to_lean_on(waiter.key)
        if theirs:
            self.own(waiter, theirs[0])

    def leans(self, waiter: Waiter) -> bool:
        """Whether a waiter that is not in line would rather lean on a doubted handshake.

        Rule: it does so at a limit where nothing else can give way, but does not overtake those
        that lack a place.
        """
        mine = self.to_lean_on(waiter.key)
        if not mine or self.has_come_earlier(waiter):
            return False
        here = [slot for slot in self.orphans(waiter.endpoint) if slot not in mine]
        connecting = len(self.at(waiter.endpoint, CONNECTING)) - len(here)
        connecting += len(self.reserved(endpoint=waiter.endpoint))
        if 0 < self.max_connecting <= connecting:
            return True
        if self.is_at_limit(waiter.endpoint):
            return not here and not self.idle(waiter.endpoint)
        if self.is_at_total() and self.is_beyond_total():
            return True
        if self.is_at_total():
            return not self.idle() and all(slot in mine for slot in self.orphans())
        return False

    def has_come_earlier(self, waiter: Waiter) -> bool:
        rivals = self.line(waiter.endpoint)
        if self.is_at_total():
            for endpoint in self.endpoints:
                if self.claim(endpoint):
                    rivals += self.line(endpoint)
        return any(rival.ticket < waiter.ticket for rival in rivals)

    def leave(self, waiter: Waiter, now: float, gave_up: bool = False) -> None:
        """Take it out; its handshake goes to the oldest of its kind that has none, or to nobody.

        Rule: one that is drained is stopped, since nobody else is to have it.  One that is doubted
        goes to nobody rather than to who came later than others that lack a place, or to who has
        a place reserved.
        """
        slot = self.under_way_for(waiter)
        if waiter.deferred_at is not None:
            self.leave_deferred(waiter, now, gave_up)
        self.waiters.remove(waiter)
        waiter.is_queued = False
        self.count(waiter.endpoint, "wait_seconds", now - waiter.since)
        if slot is not None:
            slot.owner = None
            if gave_up and slot.began <= now and not slot.is_doubted:
                self.doubt(slot, now)
            heirs = [] if slot.is_drained else self.placeless(waiter.key)
            if slot.is_doubted:
                heirs = [heir for heir in heirs[:1] if heir.deferred_at is None]
                heirs = [heir for heir in heirs if not self.has_come_earlier(heir)]
            if heirs:
                self.own(heirs[0], slot)
            else:
                self.leave_to_nobody(slot, now)

    def serve(self, waiter: Waiter, slot: Slot, now: float) -> None:
        self.leave(waiter, now)
        self.give(slot, waiter, now)
        self.woken.append(waiter)

    def give(self, slot: Slot, waiter: Waiter, now: float) -> None:
        self.use(slot, now)
        slot.given = waiter

    def use(self, slot: Slot, now: float) -> None:
        slot.state = ACQUIRED
        slot.since = now
        slot.uses += 1

    def count_reuse(self, slot: Slot) -> None:
        if slot.uses > 1:
            self.count(slot.endpoint, "reused")

    def park(self, slot: Slot, now: float) -> None:
        slot.state = IDLE
        slot.since = now
        slot.turn = self.turn()
        if 0 < self.max_idle_connections < len(self.idle()):
            # Rule: what is parked now may be what goes, where others are idle since now as well.
            self.evict_longest_idle()

    def evict_longest_idle(self) -> None:
        self.close_idle(self.idle()[0], "evicted")

    def orphan(self, slot: Slot, now: float) -> None:
        slot.owner = None
        slot.turn = self.turn()
        if not slot.is_doubted:
            slot.since = now
            slot.fading = slot.turn

    def leave_to_nobody(self, slot: Slot, now: float) -> None:
        self.orphan(slot, now)
        if slot.is_drained:
            self.give_way(slot, None)

    def close_stale(self, key: str, now: float) -> None:
        """Rule: stale ones are closed as they come to the top; those under a fresh one later."""
        for slot in reversed(self.idle(key=key)):
            if not self.is_stale(slot, now):
                break
            self.close_idle(slot, "lifetime" if slot.retires <= now else "idle")

    def close_idle(self, slot: Slot, reason: str) -> None:
        self.start_closing(slot, REASONS.index(reason))
        self.closing.append(slot)

    def start_closing(self, slot: Slot, reason: int) -> None:
        slot.state = CLOSING
        self.count(slot.endpoint, f"closed_{REASONS[reason]}")

    def give_way(self, slot: Slot, whom: str | None) -> None:
        """Close it, or stop it: a handshake that is stopped is none of the connections closed."""
        if slot.state != CONNECTING:
            self.count(slot.endpoint, "closed_evicted")
        if slot.owner is not None:
            slot.owner.has_returned = True
            slot.owner = None
        self.end_connecting(slot, CLOSING)
        slot.cleared_for = whom
        self.closing.append(slot)

    def end_connecting(self, slot: Slot, state: int) -> None:
        slot.state = state
        slot.is_doubted = False

    def cool_down(self, slot: Slot, now: float) -> None:
        """Rule: what is cleared for a waiter stays cleared for it."""
        slot.is_cooling = True
        slot.since = now
        slot.turn = self.turn()

    def free(self, slot: Slot) -> None:
        self.end_connecting(slot, GONE)
        slot.cleared_for = None
        slot.is_cooling = False
        self.slots.remove(slot)

    def new_slot(self, key: str, now: float) -> Slot:
        slot = Slot(self.slots_numbered, key, now, now)
        self.slots_numbered += 1
        self.slots.append(slot)
        return slot

    # -- records ---------------------------------------------------------------------------------

    def number(self, waiter: Waiter) -> None:
        waiter.number = self.waiters_numbered
        self.waiters_numbered += 1

    def turn(self) -> int:
        self.turns += 1
        return self.turns

    def count(self, endpoint: str, name: str, amount: Any = 1) -> None:
        self.totals[name] += amount
        self.counters[endpoint][name] += amount

    def know(self, endpoint: str) -> None:
        if endpoint not in self.endpoints:
            self.endpoints.append(endpoint)
            self.counters[endpoint] = Counter()
            self.first_patience[endpoint] = FIRST_PATIENCE

    def forget_uses(self) -> None:
        known = self.handshakes()
        self.uses = {key: use for key, use in self.uses.items() if key in known}
        self.deferrals = {key: value for key, value in self.deferrals.items() if key in known}
        self.ended = {key: value for key, value in self.ended.items() if key in known}

    def forget(self) -> None:
        """Drop the endpoints with nothing alive: no place taken, and nobody in line."""
        self.forget_uses()
        alive = {slot.endpoint for slot in self.slots} | {w.endpoint for w in self.waiters}
        for endpoint in set(self.endpoints) - alive:
            self.endpoints.remove(endpoint)
            del self.counters[endpoint]
            del self.first_patience[endpoint]
            self.usual.pop(endpoint, None)
            self.shortest.pop(endpoint, None)
            self.failures.pop(endpoint, None)

    def plan(self) -> Plan:
        plan = Plan(numbers(self.opened), numbers(self.closing), numbers(self.woken))
        self.opened, self.closing, self.woken = [], [], []
        return plan


def since(waiter: Waiter) -> float:
    assert waiter.deferred_at is not None
    return waiter.deferred_at


def numbers(things: Iterable[Any]) -> tuple[int, ...]:
    return tuple(thing.number for thing in things)
