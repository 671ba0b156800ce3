"""The lease of one session in a fleet: what to report, when, and what it may hold meanwhile.

No sockets, tasks or clocks: the time is an argument, in seconds of a monotonic clock.  Who uses a
:class:`Lease` sends the reports, one after the other, and gives the pool :attr:`Lease.places` and
:attr:`Lease.keep` after each method that changes them, before it sends anything.

Methods take and give the session's own numbers.  Of these, ``fallback`` places are the session's in
any case, and the engine never hears of them: inside, all numbers are what exceeds these.
"""

from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final

from .fleet import Grant, Report

__all__ = ("Lease", "Need")

#: Seconds between two reports of a session that lacks places: a nudge may have been lost.
LOOK: Final = 1.0
#: Seconds of the longest first pause after a failed call; each further pause is twice as long.
FIRST_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Need:
    """What a session holds and needs now.

    :param held: open sockets, and sockets being opened or closed.
    :param demand: ``held``, and the places that waiting callers lack.
    :param like: as ``demand``, for connections that nobody waits for.
    :param spare: idle connections that other sessions may have.
    :param handshakes: handshakes that have no turn yet.
    :param closing: of ``held``, those being closed.  What is closed because it was asked back is
        still offered: the engine would take an offer that vanishes for one that is withdrawn.
    """

    held: int
    demand: int
    like: int = 0
    spare: int = 0
    handshakes: int = 0
    closing: int = 0

    @property
    def wanted(self) -> int:
        """The places that it has a use for."""
        return max(self.held, self.demand, self.like)


class Lease:
    """What one session was granted, until when, and what it has to say.

    One report is under way at a time: :meth:`begin`, then :meth:`granted` or :meth:`failed`.

    :param lease: seconds, of the fleet.
    :param fallback: places that the session may hold without a lease.
    :param rng: for the jitter of pauses.

    .. attribute:: cap

       Places of the fleet that the session may hold.  The engine counts at least so many for it as
       long as the lease is valid.

    .. attribute:: target

       Places of the fleet to which the session is asked to go down.

    .. attribute:: known
    .. attribute:: until

       Places and end of the lease of the last answer, as the engine gave them; ``until`` is 0 if
       this lease is over.

    .. attribute:: seq

       Number of the last report.

    .. attribute:: deadline

       Time at which the lease is lost: before the engine's own end of it, because it is reckoned
       from the time before the report was sent, and a margin is left.  Infinite for a session that
       has nothing to lose.

    .. attribute:: lost

       The lease was lost, and no answer has come since.
    """

    __slots__ = (
        "_failures",
        "_fallback",
        "_is_member",
        "_is_nudged",
        "_lease",
        "_reported",
        "_retry_at",
        "_rng",
        "_sent",
        "cap",
        "deadline",
        "known",
        "lost",
        "seq",
        "target",
        "until",
    )

    def __init__(self, lease: float, fallback: int = 0, rng: Random | None = None) -> None:
        self._lease = lease
        self._fallback = fallback
        self._rng = Random() if rng is None else rng
        self.cap = self.target = self.known = self.until = self.seq = 0
        self.deadline = inf
        self.lost = False
        # The engine may count something for this session, or have it in its line.
        self._is_member = False
        self._reported = Need(0, 0)
        self._sent = -inf
        self._failures = 0
        self._retry_at = -inf
        self._is_nudged = False

    def __repr__(self) -> str:
        return f"<Lease {self.cap} to {self.target} until {self.deadline}, report {self.seq}>"

    @property
    def places(self) -> int:
        """The session opens no more connections than so many.

        It opens none above the target, which would be asked back at once.
        """
        return min(self.cap, self.target) + self._fallback

    @property
    def keep(self) -> int:
        """The session closes connections above so many: idle ones now, others at release.

        Not those of a lost lease: ``Fleet.lost`` says what happens to them.
        """
        return self.target + self._fallback

    @property
    def is_short(self) -> bool:
        """Whether there are fewer places than the last report demanded."""
        return min(self.cap, self.target) < self._reported.demand

    @property
    def is_member(self) -> bool:
        """Whether a session that closes has to report zeros, so that others get its places."""
        return self._is_member

    @property
    def timeout(self) -> float:
        """Seconds after which a call has failed."""
        return min(2.0, self._lease / 4)

    def is_lost(self, now: float) -> bool:
        """Whether others may get the places of this session from now on."""
        return self.lost or now >= self.deadline

    def lose(self) -> None:
        """Take the lease as lost, at the deadline or later: the session may open nothing more.

        What it still holds, it reports until the engine answers.  :meth:`begin` does the same if
        the timer was late.
        """
        self.lost = True
        self.cap = 0
        # With it, the next report would be refused.
        self.until = 0

    def begin(self, need: Need, now: float) -> Report:
        """Return the report to send now, and give back what it says is given back.

        The cap falls here, not with the answer.  Once the report is on its way the engine may have
        given the places to others, whether the answer comes or not; so a failed call leaves it low.
        """
        if self.is_lost(now):
            self.lose()
        own = self._own(need)
        self.cap = min(self.cap, self._useful(own))
        if not self._is_member:
            # An answer has to come within a lease for the first report, too.
            self._is_member = True
            self.deadline = now + self._validity
        self._reported, self._sent = own, now
        self._is_nudged = False
        self.seq += 1
        return Report(
            self.seq,
            own.held,
            self.cap,
            self.known,
            self.until,
            own.demand,
            own.like,
            own.spare,
            own.handshakes,
        )

    def granted(self, grant: Grant | None, now: float) -> None:
        """Take the answer to the report; None: its lease had run out when it arrived.

        An answer after its own deadline is no use: the engine may have given the places to others.
        """
        if grant is None:
            self.until = 0
            self.failed(now)
            return
        self.known, self.until, self.target = grant.places, grant.until, grant.target
        self.deadline = self._sent + self._validity
        if now >= self.deadline:
            self.failed(now)
            return
        self.cap, self.lost = grant.places, False
        self._failures = 0
        if self.cap == self._reported.wanted == 0:
            # It has left.  The engine's record ends by itself, and there is nothing to lose.
            self._is_member = False
            self.deadline = inf
            self.known = self.until = self.target = 0

    def failed(self, now: float) -> None:
        """Record that no answer came: the cap stays, and a pause begins."""
        self._failures += 1
        longest = min(1.0, self._lease / 10)
        pause = min(longest, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16))
        self._retry_at = now + pause * self._rng.uniform(0.5, 1.0)

    def nudged(self) -> None:
        """Record that the engine has something to say: the next report is due at once.

        Also while a report is under way, which may have been answered before.
        """
        self._is_nudged = True

    def due(self, need: Need, now: float) -> float:
        """Return when to send the next report, if ``need`` stays as it is; no report is under way.

        What matters is the difference to what was *reported*: much may have changed since, while
        the call ran.
        """
        if self._failures:
            return self._retry_at
        own = self._own(need)
        if not self._is_member:
            return now if own.wanted or own.handshakes else inf
        if self._is_nudged or self.is_lost(now) or self._has_news(own):
            return now
        if own.demand > self.cap:
            return self._sent + min(LOOK, self._lease / 3)
        return self._sent + self._lease / 3

    @property
    def _validity(self) -> float:
        """Seconds from a report to the loss of its lease."""
        return self._lease - max(0.2, self._lease / 10)

    def _own(self, need: Need) -> Need:
        """Return the need in places of the fleet: what exceeds the fallback."""
        held = max(0, need.held - self._fallback)
        asked_back = max(0, self.cap - self.target)
        return Need(
            held,
            max(0, need.demand - self._fallback),
            max(0, need.like - self._fallback),
            min(held, need.spare + min(need.closing, asked_back)),
            need.handshakes,
        )

    def _useful(self, own: Need) -> int:
        """Return the places that it does not give back: sockets, and what it will open."""
        return max(own.held, min(self.target, own.wanted))

    def _has_news(self, own: Need) -> bool:
        """Whether the engine, or another session, can do something with what has changed."""
        said = self._reported
        if self.cap > self._useful(own) or own.handshakes:
            return True
        # It gets in line, or out of it.  A session in line gets the same for one caller as for
        # three, unless many idle connections are offered.
        lacks, lacked = max(0, own.demand - self.cap), max(0, said.demand - self.cap)
        if lacks > 2 * lacked or lacks == 0 < lacked:
            return True
        if own.like > max(said.like, self.cap):
            return True
        return _is_other(own.spare, said.spare)


def _is_other(offered: int, before: int) -> bool:
    """Whether an offer has appeared, gone, or become twice or half as large."""
    less, more = sorted((offered, before))
    return less != more and more >= 2 * less
