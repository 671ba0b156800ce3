"""Members of a fleet, the script and a network that loses, delays and doubles, in virtual time.

The members are models of sessions: a few numbers, and the package's own :class:`Lease`.  The script
is the package's own, on a real Redis.  After each call, its records and totals are compared, and
after each event no more places may be held than there are.

A history, an :class:`Episode`, is in one of two modes.  In ``close``, members close their sockets
when their lease is lost, and anything may happen to a message.  In ``keep`` they go on holding
them; the promise is then only that Redis may be away for all of them, so no member alone is cut
off.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiowebsocketclient.fleet import Report
from aiowebsocketclient.lease import Lease, Need

from .script import Script, milliseconds

#: Seconds.  Time-outs and pauses are short beside it, as they are with the default.
LEASE = 20.0
RATE = (5, 3.0)
#: Seconds since 1970 at the beginning.
START = 1_000_000.0
MakeLease = Callable[[float, int, Random], Lease]


class BrokenError(AssertionError):
    """What must always hold does not."""


def expect(holds: bool, *told: Any) -> None:
    if not holds:
        raise BrokenError(*told)


@dataclass(eq=False)
class Member:
    """A session in numbers: sockets, callers, and its lease."""

    name: str
    lease: Lease
    fallback: int
    held: int = 0
    callers: int = 0
    like: int = 0
    offers: bool = False
    handshakes: int = 0
    #: Number of the report under way.
    under_way: int | None = None
    timer: int = 0
    #: No call on its connection was answered so far.
    is_new: bool = True
    is_alive: bool = True
    #: Until when nothing of it arrives.
    cut_off: float = 0.0
    heard: float = START

    @property
    def idle(self) -> int:
        return max(0, self.held - self.callers)

    @property
    def weight(self) -> int:
        """What it holds of the fleet's places, or may hold without asking."""
        return max(self.held - self.fallback, self.lease.cap, 0)

    def need(self) -> Need:
        spare = self.idle if self.offers else 0
        demand = max(self.held, self.callers)
        return Need(self.held, demand, self.like, spare, self.handshakes)


@dataclass(eq=False)
class Episode:
    """One history.

    :param script: a fleet of its own.
    :param seed: of everything that happens.
    :param reports: calls of the script after which it comes to rest.
    :param by_rule: miss each rule of the script at the first call that breaks it; otherwise only
        what comes of that: too many places held, grants taken back, learning without a reason.
    """

    script: Script
    seed: int
    reports: int = 1000
    by_rule: bool = True
    make_lease: MakeLease = Lease
    members: list[Member] = field(default_factory=list)
    events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.closes = self.random.random() < 0.5
        self.now = START
        self.leapt = 0.0
        self.calls = self.numbers = self.made = 0
        self.happened: Counter[str] = Counter()
        #: Chances of a message to be lost, to be late, and to come twice.
        nasty = self.random.choice((0.02, 0.1, 0.25))
        self.lossy, self.late, self.doubled = nasty, nasty, nasty
        self.has_faults = True
        #: No second fault before the first has passed.
        self.fault_over = START + LEASE
        self.away: tuple[float, bool] = (0.0, False)
        self.learning_until = 0.0
        self.epoch = 0
        self.turns: list[int] = []
        self.snapshot: list[tuple[str, bytes]] = []
        script = self.script
        script.lease, script.rate = LEASE, RATE
        script.limit = self.bound = self.random.choice((1, 3, 6, 10, 20))
        script.clear()
        script.settle()
        for _ in range(self.random.choice((2, 3, 5, 8))):
            self.add_member()

    # -- time --------------------------------------------------------------------------------------

    def after(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        self.numbers += 1
        heapq.heappush(self.events, (self.now + seconds, self.numbers, function, arguments))

    def run(self) -> None:
        """Run the history, and see that it comes to rest with each having its share."""
        self.after(self.random.uniform(1, 20), self.fault)
        self.run_while(lambda: self.calls < self.reports)
        self.rest()

    def run_while(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            self.now, _, function, arguments = heapq.heappop(self.events)
            function(*arguments)
            held = sum(member.weight for member in self.members)
            expect(held <= self.bound, f"{held} of {self.bound}", self.now, self.members)

    # -- members -----------------------------------------------------------------------------------

    def add_member(self) -> None:
        self.made += 1
        fallback = self.random.choice((0, 0, 0, 2))
        lease = self.make_lease(LEASE, fallback, Random(self.random.random()))
        member = Member(f"m{self.made}", lease, fallback)
        self.members.append(member)
        self.change(member)

    def change(self, member: Member) -> None:
        """Let callers come and go, and sockets with them, again and again."""
        if not member.is_alive or not self.has_faults:
            return
        most = self.script.limit + 2
        member.callers = self.random.choice((0, 0, 1, 2, self.random.randint(0, most)))
        member.like = self.random.choice((0, 0, 0, 2, self.script.limit))
        member.offers = self.random.random() < 0.5
        member.handshakes = self.random.choice((0, 0, 0, 1, 3))
        if self.random.random() < 0.3:
            member.held -= member.idle
        self.settle(member)
        self.after(
            self.random.expovariate(1 / self.random.choice((0.1, 1, 5))), self.change, member
        )

    def settle(self, member: Member) -> None:
        """Do what the pool does with places, and set the timer for the next report."""
        lease = member.lease
        if lease.is_lost(self.now):
            lease.lose()
            if self.closes:
                member.held = min(member.held, member.fallback)
        else:
            member.held = max(min(member.held, lease.keep), member.held - member.idle)
            if member.held > lease.keep:
                self.after(self.random.expovariate(3.0), self.release, member)
        wanted = max(member.callers, min(member.like, self.random.randint(0, 9)))
        member.held = max(member.held, min(lease.places, wanted))
        if member.under_way is None:
            due = lease.due(member.need(), self.now)
            if due <= self.now:
                self.send(member)
            else:
                self.wake(member, due)

    def wake(self, member: Member, due: float) -> None:
        member.timer += 1
        for at in {due, member.lease.deadline}:
            if self.now < at < float("inf"):
                self.after(at - self.now, self.woken, member, member.timer)

    def woken(self, member: Member, timer: int) -> None:
        # One for the deadline counts whatever has happened since.
        is_lost = not member.lease.lost and member.lease.is_lost(self.now)
        if member.is_alive and (timer == member.timer or is_lost):
            self.settle(member)

    def release(self, member: Member) -> None:
        if member.is_alive and not member.lease.lost and member.held > member.lease.keep:
            member.held -= 1
            self.settle(member)

    # -- the network -------------------------------------------------------------------------------

    def send(self, member: Member) -> None:
        lease = member.lease
        report = lease.begin(member.need(), self.now)
        # The cap has fallen; what was opened up to it stays within.
        member.under_way = report.seq
        self.wake(member, self.now + lease.timeout)
        self.after(lease.timeout, self.timed_out, member, report.seq)
        for delay in self.delays_of_report(member):
            self.after(delay, self.arrives, member, report, self.epoch, member.is_new)

    def delays_of_report(self, member: Member) -> Iterator[float]:
        """Return after how long it arrives: never, once or twice."""
        until, is_silence = self.away
        if self.now < max(until, member.cut_off):
            if is_silence or self.now < member.cut_off:
                return
            yield until - self.now + self.random.uniform(0.001, 0.1)
            return
        may_fail = self.closes or self.now - member.heard < LEASE / 10
        if not may_fail or not self.is_unlucky(self.lossy):
            is_late = may_fail and self.is_unlucky(self.late)
            yield self.random.uniform(0.1, 2 * LEASE) if is_late else self.latency()
        if self.is_unlucky(self.doubled):
            yield self.random.choice((self.latency(), self.random.uniform(0.1, 2 * LEASE)))

    def latency(self) -> float:
        return self.random.uniform(0.001, 0.03)

    def is_unlucky(self, chance: float) -> bool:
        return self.random.random() < chance

    def timed_out(self, member: Member, seq: int) -> None:
        if member.under_way == seq and member.is_alive:
            member.under_way = None
            member.lease.failed(self.now)
            self.settle(member)

    def arrives(self, member: Member, report: Report, epoch: int, is_first: bool) -> None:
        # The connections to a server that is gone are gone, with what was on its way.
        if epoch != self.epoch:
            return
        until, _ = self.away
        if self.now < until:
            self.after(until - self.now, self.arrives, member, report, epoch, is_first)
            return
        member.heard = self.now
        answer = self.call(member, report, is_first)
        for name in answer.nudged:
            if not self.is_unlucky(self.lossy):
                self.after(self.latency(), self.nudged, name)
        if not self.is_unlucky(self.lossy):
            is_late = self.is_unlucky(self.late)
            delay = self.random.uniform(0.1, LEASE) if is_late else self.latency()
            self.after(delay, self.answered, member, report, answer, epoch)

    def nudged(self, name: str) -> None:
        for member in self.members:
            if member.name == name:
                member.lease.nudged()
                self.settle(member)

    def answered(self, member: Member, report: Report, answer: Any, epoch: int) -> None:
        if member.under_way != report.seq or not member.is_alive:
            return
        member.under_way = None
        member.is_new = member.is_new and epoch != self.epoch
        member.lease.granted(answer.grant, self.now)
        if answer.grant is not None:
            member.handshakes = max(0, member.handshakes - len(answer.grant.turns))
        self.settle(member)

    # -- faults ------------------------------------------------------------------------------------

    def fault(self) -> None:
        """Let one of many things happen, if the last is over."""
        if not self.has_faults:
            return
        self.after(self.random.expovariate(1 / 20), self.fault)
        if self.now < self.fault_over:
            return
        self.fault_over = self.now + 2 * LEASE
        fault = self.random.choice(
            (
                self.pause,
                self.pause,
                self.flush,
                self.save,
                self.leap,
                self.kill,
                self.set_limit,
                self.cut_off,
            )
        )
        self.happened[fault.__name__] += 1
        fault()

    def pause(self) -> None:
        """Let Redis be away for all; what is sent meanwhile arrives afterwards, or never."""
        seconds = LEASE * self.random.choice((0.1, 0.6, 0.9, 1.1, 2.0))
        self.away = (self.now + seconds, self.random.random() < 0.5)
        self.fault_over += seconds

    def cut_off(self) -> None:
        if self.closes:
            member = self.random.choice(self.members)
            member.cut_off = self.now + LEASE * self.random.choice((0.3, 0.9, 1.5, 2.5))

    def kill(self) -> None:
        member = self.members.pop(self.random.randrange(len(self.members)))
        member.is_alive = False
        self.add_member()

    def leap(self) -> None:
        """Let the clock of Redis leap: back, or forth by more than what goes unnoticed."""
        self.leapt += LEASE * self.random.choice((-2.0, -0.3, 0.7, 1.5, 3.0))

    def set_limit(self) -> None:
        self.script.limit = self.random.choice((1, 3, 6, 10, 20))
        self.bound = max(self.script.limit, self.bound)

    def save(self) -> None:
        """Keep what Redis holds now, for a replica that gets nothing further."""
        dumps = [(key, self.script.client.dump(key)) for key in self.script.keys]
        self.snapshot = [(key, dump) for key, dump in dumps if dump is not None]
        self.after(self.random.choice((0.1, 3.0, LEASE)), self.fail_over)

    def fail_over(self) -> None:
        """Put a replica in the place of Redis, which lacks the writes since it was saved."""
        if not self.snapshot:
            return
        self.script.clear()
        for key, dump in self.snapshot:
            self.script.client.restore(key, 0, dump)
        self.script.client.hset(self.script.keys[0], "run", "another")
        self.snapshot = []
        self.forgot()
        self.epoch += 1
        for member in self.members:
            member.is_new = True

    def flush(self) -> None:
        """Empty Redis; one of those that hold something is the first to call."""
        self.script.clear()
        self.forgot()
        for member in self.members:
            if member.lease.until and not member.lease.is_lost(self.now):
                report = member.lease.begin(member.need(), self.now)
                member.under_way = None
                member.lease.granted(self.call(member, report, False).grant, self.now)
                member.heard = self.now
                self.settle(member)
                return

    def forgot(self) -> None:
        self.turns = []
        self.learning_until = self.now + 3 * LEASE
        self.fault_over = self.now + 4 * LEASE

    # -- the script, and what must hold ------------------------------------------------------------

    def call(self, member: Member, report: Report, is_first: bool) -> Any:
        """Call the script, and compare its records before and after."""
        script, time = self.script, self.now + self.leapt
        self.calls += 1
        with script.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(script.keys[1])
            pipe.execute_command(*script.command(member.name, report, time, is_first=is_first))
            pipe.hgetall(script.keys[1])
            pipe.hgetall(script.keys[0])
            before, reply, after, state = pipe.execute()
        answer = script.answer(reply)
        records = script.parse_records(after)
        was = script.parse_records(before).get(member.name)
        is_late = 0 < report.until <= milliseconds(time)
        expect(not self.by_rule or (answer.grant is None) == is_late, report, answer)
        if answer.grant is None:
            expect(before == after, "a late report changed something", report)
            return answer
        self.check_totals(records, script.parse_state(state))
        self.check_record(report, answer.grant, was, records[member.name])
        self.check_learning(answer.grant.learning)
        if was is None or report.seq > was["seq"]:
            self.check_turns(milliseconds(time), report, answer.grant.turns)
        if self.calls % 50 == 0:
            self.check_order(records)
        if not answer.grant.learning:
            self.bound = max(script.limit, min(self.bound, answer.grant.used))
        return answer

    def check_totals(self, records: dict[str, dict[str, int]], state: dict[str, int]) -> None:
        for total, part in (
            ("used", "granted"),
            ("promised", "asked"),
            ("spared", "lent"),
            ("lacking", "lacks"),
        ):
            expect(state[total] == sum(r[part] for r in records.values()), total, state, records)
        for record in records.values():
            expect(0 <= record["lent"] <= record["asked"] <= record["granted"], record)
            expect(record["offers"] >= 0, record)
            expect((record["lacks"] > 0) == (record["place"] > 0), record)

    def check_record(
        self, report: Report, grant: Any, was: dict[str, int] | None, record: dict[str, int]
    ) -> None:
        expect(grant.places == record["granted"], grant, record)
        expect(grant.target == record["granted"] - record["asked"], grant, record)
        if was is not None and report.seq <= was["seq"]:
            if not self.by_rule:
                return
            expect(record["seq"] == was["seq"], "an old report counted", report)
            expect(record["granted"] >= was["granted"], "an old report gave back", report)
            return
        kept = max(report.held, report.cap)
        unheard = 0 if was is None or grant.learning else max(0, was["granted"] - report.known)
        wanted = max(kept, report.demand, report.like)
        expect(record["seq"] == report.seq, report, record)
        expect(record["granted"] >= min(kept + unheard, wanted), "taken back unheard", report)

    def check_learning(self, learning: float) -> None:
        may_learn = self.now < self.learning_until
        expect(may_learn or not learning, "learning, and nothing was forgotten", self.now)
        expect(learning <= LEASE, learning)

    def check_turns(self, now: int, report: Report, delays: tuple[float, ...]) -> None:
        """See that no more handshakes have a turn in any window."""
        expect(not self.by_rule or len(delays) == report.handshakes, delays, report)
        count, seconds = RATE
        self.turns += [now + round(delay * 1000) for delay in delays]
        for first, last in zip(self.turns, self.turns[count:], strict=False):
            expect(last - first >= seconds * 1000, "too many handshakes", self.turns[-9:])
        del self.turns[: -2 * count]

    def check_order(self, records: dict[str, dict[str, int]]) -> None:
        """Compare the sorted sets with the records."""
        client, room = self.script.client, 2**36
        _, _, expiry, rich, line, spare, _ = self.script.keys
        scores = [dict(client.zrange(k, 0, -1, withscores=True)) for k in (rich, line, spare)]
        expected: list[dict[bytes, float]] = [{}, {}, {}]
        for name, r in records.items():
            key = name.encode()
            expected[0][key] = (r["granted"] - r["asked"] + 1) * room - 1 - r["order"]
            if r["place"]:
                expected[1][key] = r["granted"] * room + r["place"]
            if r["offers"]:
                expected[2][key] = r["offers"]
        expect(scores == expected, scores, expected)
        expect({n.decode() for n in client.zrange(expiry, 0, -1)} == set(records), "expiry")

    def rest(self) -> None:
        """Let all faults end: whoever lacks places gets what is free, and its share."""
        self.has_faults = False
        self.lossy = self.late = self.doubled = 0.0
        self.away = (0.0, False)
        for member in self.members:
            member.cut_off = 0.0
            member.like = member.handshakes = 0
            member.callers = self.random.choice((0, 1, self.script.limit))
            self.settle(member)
        # Records of the dead last until their lease ends, wherever the clock has leapt meanwhile.
        end = self.now + 8 * LEASE
        self.run_until(end)
        expect(not any(member.lease.lost for member in self.members), "lost", self.members)
        # With more members than places, one is always about to change hands.
        while not self.is_shared() and self.now < end + LEASE:
            self.run_until(self.now + 0.01)
        expect(self.is_shared(), "unused while lacking, or not shared evenly", self.members)

    def run_until(self, end: float) -> None:
        self.after(end - self.now, lambda: None)
        self.run_while(lambda: self.now < end)

    def is_shared(self) -> bool:
        lacking = [m.weight for m in self.members if m.callers > m.held]
        held = [m.weight for m in self.members]
        is_even = not lacking or max(held) - min(lacking) <= 1
        return is_even and (not lacking or sum(held) == self.script.limit)
