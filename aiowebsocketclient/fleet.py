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
    """The engine refuses reports until its setup changes: for example, a permission is missing.

    The session logs the text of the exception as an error.  The text must contain no secret.
    """


@dataclass(frozen=True, slots=True)
class FleetStats:
    """Snapshot of a session's fleet: the engine's last answer, and counters of the session.

    The first six fields are gauges.  The others count since the session was created.
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
    """A session's message to the engine.  All numbers are absolute, because a report may be lost.

    :param seq: number of the report; each report of a member has a greater number.  The engine
        ignores a report if it has seen the same or a greater number of this member.
    :param held: open sockets, and sockets being opened or closed, in places of the fleet.
    :param cap: maximum number of places that the session holds until the engine's next answer.
    :param known: ``places`` of the last answer.
    :param until: ``until`` of the last answer, unchanged; 0: there was no answer, or its lease has
        ended.
    :param demand: ``held`` plus the number of places that callers wait for.
    :param like: ``held`` plus the number of places for connections that no caller waits for, as of
        ``prewarm()``; 0: there are none.
    :param spare: the part of ``held`` that other sessions may have: idle connections.
    :param handshakes: number of handshakes that wait for a turn of ``connect_rate``.
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

    :param places: maximum number of connections of the session until its lease ends.
    :param target: number of connections to which the engine asks the session to go down, by idle
        connections at once and by connections in use at their release.  At most ``places``.
    :param until: end of the lease, in the engine's own time.  The session only returns it in the
        next report.
    :param waiting: number of sessions that lack places.
    :param used: number of places granted to all sessions.
    :param learning: seconds for which the engine grants no session more places, because it may have
        forgotten earlier grants; 0.0 normally.
    :param turns: for each handshake of the report, the seconds until its turn.  There may be fewer
        turns than handshakes: the session then asks again.
    :param limit: ``limit`` of the previous call of any session; 0: there was no call.
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
    """The interface of an engine, for ``fleet=`` of sessions.  A *member* is a session.

    The engine grants at most :attr:`limit` places.  It counts the places of a member until the
    lease of the member's last report ends, or until the member reports fewer.  Whatever the engine
    remembers, a member holds ``max(report.held, report.cap)`` places.  The lease of an answer must
    not end before :attr:`lease` seconds after the call of :meth:`sync`: the session measures from
    the time before the call.

    The descriptions of the attributes end with the defaults of ``RedisFleet``.
    """

    @property
    def limit(self) -> int:
        """Maximum number of connections of all sessions; at least 1."""
        ...

    @property
    def lease(self) -> float:
        """Seconds after which the places of a session without reports are free; 30.0."""
        ...

    @property
    def lost(self) -> Literal["keep", "close"]:
        """The action of a session that gets no answer for a lease; ``"keep"``.

        ``"keep"``: use open connections, and open no more.  ``"close"``: abort all connections
        before other sessions can get the places.
        """
        ...

    @property
    def connect_rate(self) -> tuple[int, float] | None:
        """Maximum number of handshakes of all sessions, and the seconds of the window; None.

        The maximum holds in any window.  None: no limit.
        """
        ...

    @property
    def fallback(self) -> int:
        """Connections that a session may hold in any case, beside the places of the fleet; 0."""
        ...

    @property
    def keep_idle(self) -> float | None:
        """Seconds after which an idle connection is offered to other sessions.

        None, the default: the average duration of this session's handshakes, at least 0.05 and at
        most 1 second.
        """
        ...

    async def sync(self, member: str, report: Report) -> Grant | None:
        """Deliver a report once, without retries, and return the answer.

        The method may raise any exception, and the session may cancel it.  In both cases the
        session assumes that the report is lost, and sends another report later.  The lost report
        may still arrive.  :exc:`EngineError` means that the engine refuses reports.

        :param member: name of the session, unique in the fleet and never used again.
        :return: the answer; None if the lease of ``report.until`` had ended when the report
            arrived.  Then the engine has changed nothing.
        """
        ...

    async def listen(self, member: str, nudge: Callable[[], None]) -> NoReturn:
        """Call ``nudge`` when the engine grants this member places, or asks it to give some back.

        The method runs until it is cancelled.  It may raise if the engine cannot be reached: the
        session then calls it again.  If a nudge is lost, the session notices the change up to a
        second later, because a session that lacks places reports every second.
        """
        ...
