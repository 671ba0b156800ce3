"""Sessions of a fleet with callers, uses and handshakes, in virtual time, on the real script.

A session is what the pool is to the fleet: it has waiting callers, connections in use, idle, being
opened and being closed, and the package's own :class:`Lease`.  Whatever is random comes from the
seed.
"""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from statistics import quantiles
from typing import Any, Final

from aiowebsocketclient.fleet import Grant, Report
from aiowebsocketclient.lease import Lease, Need

from .script import Answer, Script

#: Seconds since 1970 at the beginning.
START: Final = 1_000_000.0
#: Seconds of a handshake, of a closing handshake, and on the way to Redis: least and most.
HANDSHAKE: Final = (0.05, 0.15)
GOODBYE: Final = (0.002, 0.02)
WAY: Final = (0.0002, 0.0015)
#: Seconds that a turn may be late, and is then not used.
GRACE: Final = 2.0


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    :param load: connections that the callers of all sessions would use at once on average.
    :param use: seconds of a use, on average.
    :param patience: seconds after which a waiting caller gives up.
    :param seconds: measured, after as many of ``warmup``.
    :param killed: sessions that die at once when the measurement begins.
    :param failing: share of calls that are lost, not answered, or late.
    """

    title: str
    sessions: int
    limit: int
    load: float
    use: float
    patience: float = 5.0
    lease: float = 30.0
    keep_idle: float = 0.1
    fallback: int = 0
    like: int = 0
    rate: tuple[int, float] | None = None
    warmup: float = 10.0
    seconds: float = 20.0
    killed: int = 0
    failing: float = 0.0
    closes: bool = False

    @property
    def most(self) -> int:
        """The sockets that the server may see at once."""
        return self.limit + self.sessions * self.fallback


class Session:
    """A session: its callers, its connections, and what it reports."""

    def __init__(self, world: "Simulation", name: str, load: float) -> None:
        self.world = world
        self.name = name
        self.load = load
        setting = world.setting
        self.lease = Lease(setting.lease, setting.fallback, Random(world.random.random()))
        self.waiting: deque[float] = deque()
        self.idle: list[float] = []
        self.busy = self.connecting = self.closing = 0
        #: Of those that connect: without a turn, and with a handshake under way.
        self.turnless = self.shaking = 0
        self.under_way: int | None = None
        self.timer = float("inf")
        self.is_alive = True
        #: Seconds times places, while measured, and until when they are counted.
        self.got, self.counted = 0.0, 0.0
        self.arrive_later()

    @property
    def held(self) -> int:
        return self.busy + self.connecting + self.closing + len(self.idle)

    @property
    def lacking(self) -> int:
        """The callers that have no handshake under way."""
        return max(0, len(self.waiting) - self.connecting)

    def need(self) -> Need:
        held = self.held
        spare = bisect_right(self.idle, self.world.now - self.world.setting.keep_idle)
        like = self.world.setting.like
        return Need(held, held + self.lacking, like, spare, self.turnless, self.closing)

    def count(self) -> None:
        now = self.world.now
        since = max(self.counted, self.world.measured)
        self.got += (self.busy + self.shaking) * max(0.0, now - since)
        self.counted = now

    # -- callers -----------------------------------------------------------------------------------

    def arrive_later(self) -> None:
        if self.load:
            rate = self.load / self.world.setting.use
            self.world.after(self.world.random.expovariate(rate), self.arrive)

    def arrive(self) -> None:
        if not self.is_alive:
            return
        self.arrive_later()
        if self.idle:
            self.idle.pop()
            self.use(0.0)
        else:
            self.waiting.append(self.world.now)
            self.world.after(self.world.setting.patience, partial(self.give_up, self.world.now))
        self.settle()

    def give_up(self, since: float) -> None:
        if self.waiting and self.waiting[0] == since:
            self.world.waited(self.world.now - self.waiting.popleft())
            self.settle()

    def use(self, waited: float) -> None:
        self.world.waited(waited)
        self.count()
        self.busy += 1
        self.world.after(self.world.random.expovariate(1 / self.world.setting.use), self.release)

    def release(self) -> None:
        if not self.is_alive or not self.busy:
            return
        self.count()
        self.busy -= 1
        self.pool(self.held + 1 > self.keep)
        self.settle()

    @property
    def keep(self) -> float:
        return float("inf") if self.lease.lost else self.lease.keep

    def pool(self, gives_way: bool) -> None:
        """Give a connection to a caller, or keep it idle, or close it."""
        if gives_way:
            self.close()
        elif self.waiting:
            self.use(self.world.now - self.waiting.popleft())
        else:
            self.idle.append(self.world.now)
            self.world.after(max(self.world.setting.keep_idle, 0.1), self.settle)

    # -- connections -------------------------------------------------------------------------------

    def open(self) -> None:
        self.connecting += 1
        self.world.opened(1)
        if self.world.setting.rate is None:
            self.connect()
        else:
            self.turnless += 1

    def connect(self) -> None:
        if self.is_alive and self.connecting:
            self.count()
            self.shaking += 1
            self.world.begun.append(self.world.now)
            self.world.after(self.world.random.uniform(*HANDSHAKE), self.connected)

    def connected(self) -> None:
        if not self.is_alive or not self.connecting:
            return
        self.count()
        self.connecting -= 1
        self.shaking -= 1
        self.pool(self.held + 1 > self.keep)
        self.settle()

    def close(self) -> None:
        self.closing += 1
        self.world.after(self.world.random.uniform(*GOODBYE), self.closed)

    def closed(self) -> None:
        if self.is_alive and self.closing:
            self.closing -= 1
            self.world.opened(-1)
            self.settle()

    def end(self) -> None:
        """Close all at once: it is killed, or its lease is lost."""
        self.count()
        self.world.opened(-self.held)
        self.idle.clear()
        self.busy = self.connecting = self.closing = self.turnless = self.shaking = 0

    # -- the fleet ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do what the pool does with its places, and report when it is time."""
        if not self.is_alive:
            return
        lease, setting, now = self.lease, self.world.setting, self.world.now
        if not lease.lost and lease.is_lost(now):
            lease.lose()
            self.world.losses += 1
            if setting.closes:
                self.end()
        while self.idle and self.held > self.keep:
            del self.idle[0]
            self.close()
        while self.held < lease.places and (self.lacking or self.held < setting.like):
            self.open()
        if self.under_way is None:
            due = lease.due(self.need(), now)
            if due <= now:
                self.send()
            else:
                self.wake(due)
        self.wake(lease.deadline)

    def wake(self, at: float) -> None:
        if self.world.now < at < self.timer:
            self.timer = at
            self.world.after(at - self.world.now, partial(self.woken, at))

    def woken(self, timer: float) -> None:
        if timer == self.timer:
            self.timer = float("inf")
            self.settle()

    def send(self) -> None:
        report = self.lease.begin(self.need(), self.world.now)
        self.under_way = report.seq
        self.world.send(self, report)

    def answered(self, report: Report, grant: Grant | None) -> None:
        if not self.is_alive or self.under_way != report.seq:
            return
        self.under_way = None
        self.lease.granted(grant, self.world.now)
        for delay in grant.turns if grant is not None else ():
            if self.turnless:
                self.turnless -= 1
                self.world.after(delay, self.connect)
        self.settle()

    def failed(self, report: Report) -> None:
        if self.is_alive and self.under_way == report.seq:
            self.under_way = None
            self.lease.failed(self.world.now)
            self.settle()

    def nudged(self) -> None:
        if self.is_alive:
            self.lease.nudged()
            self.settle()


class Simulation:
    """One setting, run once.  What is measured is in :class:`Result`."""

    def __init__(self, setting: Setting, client: Any, seed: int) -> None:
        self.setting = setting
        self.random = Random(seed)
        self.now = START
        self.measured = START + setting.warmup
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = self.open = self.peak = self.calls = self.losses = 0
        self.begun: list[float] = []
        self.waits: list[float] = []
        self.unused: list[float] = []
        rate = None if setting.rate is None else (setting.rate[0], setting.rate[1] + GRACE)
        options: dict[str, Any] = {"lease": setting.lease, "rate": rate}
        self.script = Script(client, f"simulation {setting.title}", setting.limit, **options)
        self.script.clear()
        self.script.settle()
        shares = [self.random.lognormvariate(0, 1) for _ in range(setting.sessions)]
        whole = sum(shares)
        self.sessions = {
            f"s{i}": Session(self, f"s{i}", share / whole * setting.load)
            for i, share in enumerate(shares)
        }

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        self.numbers += 1
        heapq.heappush(self.events, (self.now + seconds, self.numbers, function))

    def run(self) -> "Result":
        self.after(self.setting.warmup, self.kill)
        self.after(self.setting.warmup, self.look)
        end = self.measured + self.setting.seconds
        for session in list(self.sessions.values()):
            # Services do not start in the same millisecond.
            self.after(self.random.uniform(0, 1), session.settle)
        while self.events[0][0] < end:
            self.now, _, function = heapq.heappop(self.events)
            function()
        self.now = end
        self.script.clear()
        return Result(self)

    def kill(self) -> None:
        for session in list(self.sessions.values())[: self.setting.killed]:
            session.end()
            session.is_alive = False

    # -- what the server sees, and the callers -----------------------------------------------------

    def opened(self, sockets: int) -> None:
        self.open += sockets
        self.peak = max(self.peak, self.open)

    def waited(self, seconds: float) -> None:
        if self.now >= self.measured:
            self.waits.append(seconds)

    def look(self) -> None:
        """Compare what is unused with what is lacking, now and again."""
        alive = [session for session in self.sessions.values() if session.is_alive]
        lacking = sum(session.lacking for session in alive)
        used = sum(session.busy + session.connecting for session in alive)
        self.unused.append(min(lacking, max(0, self.setting.most - used)) / self.setting.most)
        self.after(0.05, self.look)

    # -- the network -------------------------------------------------------------------------------

    def send(self, session: Session, report: Report) -> None:
        delay = self.random.uniform(*WAY)
        fate = ""
        if self.random.random() < self.setting.failing:
            fate = self.random.choice(("lost", "unanswered", "late"))
        if fate == "late":
            delay = self.random.uniform(0.1, 5.0)
        if fate != "lost":
            self.after(delay, partial(self.arrives, session, report, fate == "unanswered"))
        self.after(session.lease.timeout, partial(session.failed, report))

    def arrives(self, session: Session, report: Report, is_unanswered: bool) -> None:
        if self.now >= self.measured:
            self.calls += 1
        answer: Answer = self.script(session.name, report, self.now)
        for name in answer.nudged:
            if self.random.random() >= self.setting.failing:
                self.after(self.random.uniform(*WAY), self.sessions[name].nudged)
        if not is_unanswered:
            delay = self.random.uniform(*WAY)
            self.after(delay, partial(session.answered, report, answer.grant))


class Result:
    """What came of a simulation."""

    def __init__(self, world: Simulation) -> None:
        setting = world.setting
        self.setting = setting
        self.peak = world.peak
        self.losses = world.losses
        self.calls = world.calls / setting.seconds
        self.connects = sum(at >= world.measured for at in world.begun) / setting.seconds
        self.unused = sum(world.unused) / len(world.unused)
        self.wait = quantiles(world.waits, n=100)[98] if len(world.waits) > 1 else 0.0
        alive = [session for session in world.sessions.values() if session.is_alive]
        loads = [session.load for session in alive]
        for session in alive:
            session.count()
        got = [session.got / setting.seconds for session in alive]
        shares = fair_shares(loads, setting.most)
        parts = [a / b for a, b in zip(got, shares, strict=True) if b >= 0.5]
        self.p10, self.p50 = (quantiles(parts, n=10)[i] for i in (0, 4))
        self.window = most_in_a_window(world.begun, setting.rate)

    @property
    def holds(self) -> bool:
        """Whether no limit was exceeded."""
        rate = self.setting.rate
        return self.peak <= self.setting.most and (rate is None or self.window <= rate[0])


def fair_shares(loads: Sequence[float], limit: float) -> list[float]:
    """Return the max-min shares: nobody can have more but at the cost of who has less."""
    shares = [0.0] * len(loads)
    order = sorted(range(len(loads)), key=loads.__getitem__)
    for done, i in enumerate(order):
        shares[i] = min(loads[i], limit / (len(loads) - done))
        limit -= shares[i]
    return shares


def most_in_a_window(begun: Sequence[float], rate: tuple[int, float] | None) -> int:
    """Return how many handshakes began in the fullest window; 0: nothing limits them."""
    if rate is None:
        return 0
    most, first = 0, 0
    assert all(a <= b for a, b in pairwise(begun))
    for last, at in enumerate(begun):
        while at - begun[first] >= rate[1]:
            first += 1
        most = max(most, last - first + 1)
    return most
