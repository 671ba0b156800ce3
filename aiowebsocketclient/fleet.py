"""One limit for the sessions of many processes: what a session and an engine tell each other.

A session reports what it holds and needs, and the engine answers how many connections it may hold.
:class:`~aiowebsocketclient.redis.RedisFleet` is the engine in this package.  Another engine has the
two methods of :class:`Fleet`: deadlines, retries, pauses and batching are the session's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, NoReturn, Protocol

__all__ = ("EngineError", "Fleet", "FleetStats", "Grant", "Report")

#: Seconds after its time in which a handshake may use its turn.  An engine spaces the turns for a
#: window that is so much longer than that of ``connect_rate``.
TURN_GRACE: Final = 2.0


class EngineError(Exception):
    """The engine refuses a report, and will go on doing so: it lacks a permission, for example.

    A session logs its text, which must contain no secret, as an error.
    """


@dataclass(frozen=True, slots=True)
class FleetStats:
    """What a session knows of its fleet: as of the engine's last answer, and counters of its own.

    The first six fields are gauges, the others count since the session was created.
    """

    #: Maximum number of connections of all sessions.
    limit: int
    #: Places granted to all sessions.
    used: int
    #: Connections that this session may have now, with those of ``fallback``.
    places: int
    #: Places that this session uses, and places that its waiting callers lack.
    wanted: int
    #: Sessions that lack places.
    waiting_sessions: int
    #: Seconds for which no session gets more places, because the engine has restarted, and may have
    #: forgotten what it granted; 0.0 normally.
    learning: float

    #: Reports that were answered.
    syncs: int
    #: Reports that failed, or had no answer in time.
    sync_errors: int
    #: Seconds until the answers in total.
    sync_seconds: float
    #: Places that other sessions asked back.
    yielded: int
    #: How often the lease was lost.
    losses: int


class Metric(NamedTuple):
    """How a field of :class:`FleetStats` is exported: a counter, or else a gauge."""

    is_counter: bool
    #: ``"s"``: seconds; otherwise what is counted.
    unit: str
    description: str


#: By the fields of :class:`FleetStats`, for the exporters.
METRICS: Final = {
    "limit": Metric(False, "connection", "Maximum number of connections of the fleet."),
    "used": Metric(False, "connection", "Places granted to all sessions of the fleet."),
    "places": Metric(False, "connection", "Places granted to this session."),
    "wanted": Metric(False, "connection", "Places that this session holds or lacks."),
    "waiting_sessions": Metric(False, "session", "Sessions of the fleet that lack places."),
    "learning": Metric(False, "s", "Seconds for which the fleet gives no more places."),
    "syncs": Metric(True, "report", "Reports to the fleet that were answered."),
    "sync_errors": Metric(True, "report", "Reports to the fleet that failed."),
    "sync_seconds": Metric(True, "s", "Seconds until the answers in total."),
    "yielded": Metric(True, "connection", "Places that other sessions asked back."),
    "losses": Metric(True, "loss", "How often the lease was lost."),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What one session says to the engine.  All numbers are absolute: a report may be lost.

    :param seq: number of the report, growing.  The engine ignores a report whose number is not
        greater than the greatest that it has seen of this member.
    :param held: open sockets, and sockets being opened or closed, in places of the fleet.
    :param cap: the session holds no more than so many until it hears from the engine again.
    :param known: ``places`` of the last answer.
    :param until: ``until`` of the last answer, unchanged; 0: there is none, or its lease has run
        out.
    :param demand: ``held``, and the places that callers wait for.
    :param like: as ``demand``, for connections that nobody waits for.
    :param spare: of ``held``, the idle connections that others may have.
    :param handshakes: handshakes that want a turn of ``connect_rate``.
    """

    seq: int
    held: int
    cap: int
    known: int
    until: int
    demand: int
    like: int
    spare: int
    handshakes: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The engine's answer to a report.

    :param places: the session may hold so many connections until its lease runs out.
    :param target: the session is asked to go down to so many: idle connections at once, connections
        in use at their release.  At most ``places``.
    :param until: end of the lease, for the next report.  The engine's own time: a session does
        nothing else with it.
    :param waiting: sessions that lack places.
    :param used: places granted to all sessions.
    :param learning: seconds for which the engine gives nobody more, because it may have forgotten
        what it gave; 0.0 normally.
    :param turns: seconds to wait for the handshakes of the report; may be fewer than asked for, and
        the session asks again for the rest.
    :param limit: ``limit`` of the call before this call, of any session; 0: there was none.
    """

    places: int
    target: int
    until: int
    waiting: int
    used: int
    learning: float
    turns: tuple[float, ...] = ()
    limit: int = 0


class Fleet(Protocol):
    """An engine: what sessions with ``fleet=`` need of it.

    It has to give out at most :attr:`limit` places, and to count a member's places until the lease
    of its last report ends, or the member reports that it holds fewer.  A member holds, whatever
    the engine remembers, ``max(report.held, report.cap)``.  The lease of an answer begins no sooner
    than the call: the session reckons from the time before it.

    The docstrings of the attributes name the defaults of the engine in this package.
    """

    @property
    def limit(self) -> int:
        """Connections of all sessions; at least 1."""
        ...

    @property
    def lease(self) -> float:
        """Seconds after which the places of a session that is not heard of are free; 30.0."""
        ...

    @property
    def lost(self) -> Literal["keep", "close"]:
        """What a session does with its connections if it gets no answer for a lease; ``"keep"``.

        ``"keep"``: open none and go on using those that are open.  ``"close"``: abort all before
        others can get the places.
        """
        ...

    @property
    def connect_rate(self) -> tuple[int, float] | None:
        """Handshakes of all sessions in any window of so many seconds; None: no limit."""
        ...

    @property
    def fallback(self) -> int:
        """Connections that a session may hold in any case, beside the places of the fleet; 0."""
        ...

    @property
    def keep_idle(self) -> float | None:
        """Seconds after which an idle connection is offered to other sessions.

        None: as long as this session's handshakes take on average, at least 0.05 and at most 1.
        """
        ...

    async def sync(self, member: str, report: Report) -> Grant | None:
        """Deliver one report, in one try, and return the answer.

        It may raise anything, and it may be cancelled: the session then takes the report as lost
        and sends another later.  A report that was taken as lost may still arrive.

        :param member: name of the session, unique in the fleet and never used again.
        :return: None if the lease of ``report.until`` had run out when the report arrived.  Nothing
            has changed then.
        """
        ...

    async def listen(self, member: str, nudge: Callable[[], None]) -> NoReturn:
        """Call ``nudge`` when the engine has granted this member places, or asks some back.

        It runs until it is cancelled, and may raise if the engine cannot be reached: the session
        then calls it again.  A nudge that is lost costs a second: sessions that lack places look
        that often.
        """
        ...
