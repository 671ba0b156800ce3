"""Statistics of the pool."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exceptions import HandshakeFailure
    from .keys import EndpointKey

__all__ = ("BalancedStats", "PoolStats")


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Snapshot of the statistics of a pool, or of one endpoint.

    The first six fields are gauges.  The others count since the session was created, or, for an
    endpoint, since it last had no connection, handshake or waiting caller.
    """

    #: Handshakes under way.
    connecting: int
    #: Connections in use.
    acquired: int
    #: Open connections that are free.
    idle: int
    #: Connections whose socket is not closed yet, and places that ``cooldown`` still holds.
    closing: int
    #: Callers queued for a place or a release, without callers whose own handshake is under way.
    waiting: int
    #: Endpoints with a connection, a handshake or a waiting caller.
    endpoints: int

    #: Connections requested by callers.
    requests: int
    #: Requests that got a connection used before.
    reused: int
    #: Requests that found no idle connection and had to wait: for a place, a release, a handshake.
    queued: int
    #: Seconds that these requests waited in total.
    wait_seconds: float
    #: Callers whose ``acquire_timeout`` ran out.
    timeouts: int
    #: Callers rejected because of ``max_waiting``.
    rejected: int
    #: Handshakes that succeeded.
    connects: int
    #: Handshakes that failed.
    connect_errors: int
    #: Seconds that all these handshakes took in total.
    connect_seconds: float
    #: Connections released in a state that allows reuse.
    released: int
    #: Connections removed from the pool by ``detach()``.
    detached: int

    #: Closed after ``max_idle``.
    closed_idle: int
    #: Closed after ``max_lifetime``.
    closed_lifetime: int
    #: Closed by the server or lost by the network.
    closed_lost: int
    #: Released with an unread message or an unfinished call, or written to by the server while
    #: idle.
    closed_dirty: int
    #: Closed to make room for another caller, or because too many were idle.
    closed_evicted: int
    #: Closed by ``force_close``, ``drain()`` or ``retire_on``, or with the session.
    closed_forced: int
    #: Closed after an exception in ``async with`` or in a hook, or because the handle was lost.
    closed_failed: int
    #: Closed after a cancellation: ``asyncio.CancelledError``, ``GeneratorExit``,
    #: ``KeyboardInterrupt``.
    closed_cancelled: int
    #: Closed by the caller with ``close()``.
    closed_user: int

    @classmethod
    def from_core(cls, gauges: tuple[int, ...], counters: tuple[Any, ...]) -> "PoolStats":
        """Return the statistics of the core, whose numbers are in the order of the fields."""
        return cls(*gauges, *counters)


@dataclass(frozen=True, slots=True)
class BalancedStats:
    """Snapshot of one URL of a :class:`Balanced`.

    The gauges are those of its endpoint, with the connections of all other callers of the session.
    """

    #: Host, port and TLS of the URL.
    endpoint: "EndpointKey"
    #: Handshakes under way.
    connecting: int
    #: Connections in use.
    acquired: int
    #: Open connections that are free.
    idle: int
    #: Whether the URL is left out, because handshakes have failed.
    out: bool
    #: Failed handshakes in a row; those that began together count once.
    failures: int
    #: Seconds until the next call tries the URL again; None: it is not left out.
    retry_in: float | None
    #: The last failed handshake that put it out, or kept it out; None: there was none.
    last_failure: "HandshakeFailure | None"
