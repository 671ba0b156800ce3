"""What the pool tells of itself."""

from dataclasses import dataclass
from typing import Any

__all__ = ("PoolStats",)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The state of a pool, or of one of its endpoints, at one moment.

    The first six are gauges; the others count since the session began (those of an endpoint: since
    it last had nothing alive).
    """

    #: Handshakes under way.
    connecting: int
    #: Connections in use.
    acquired: int
    #: Connections open and free.
    idle: int
    #: Connections whose socket is not gone yet, and places that ``cooldown`` keeps after that.
    closing: int
    #: Callers queued for a place; one whose own handshake is under way is not.
    waiting: int
    #: Endpoints with anything alive.
    endpoints: int

    #: Connections asked for.
    requests: int
    #: Those of them that were answered with a connection used before.
    reused: int
    #: Those of them that found nothing idle and had to wait, for a place or for a handshake.
    queued: int
    #: Seconds that these waited altogether.
    wait_seconds: float
    #: Callers whose ``acquire_timeout`` ran out.
    timeouts: int
    #: Callers turned away because of ``max_waiting``.
    rejected: int
    #: Handshakes that succeeded.
    connects: int
    #: Those that failed.
    connect_errors: int
    #: Seconds that both took altogether.
    connect_seconds: float
    #: Connections given back fit for another's use.
    released: int
    #: Connections taken out of the pool for good, open.
    detached: int

    #: Closed after ``max_idle``.
    closed_idle: int
    #: Closed after ``max_lifetime``.
    closed_lifetime: int
    #: Ended by the server or the network.
    closed_lost: int
    #: Given back with something unread or under way, or written to by the server while idle.
    closed_dirty: int
    #: Closed to make room for another caller, or since too many were idle.
    closed_evicted: int
    #: Closed by ``force_close``, ``drain()`` or ``retire_on``, or with the session.
    closed_forced: int
    #: Left by an error, failed by a hook, or collected unreleased.
    closed_failed: int
    #: Left by a cancellation: ``asyncio.CancelledError``, ``GeneratorExit``, ``KeyboardInterrupt``.
    closed_cancelled: int
    #: Closed by the caller.
    closed_user: int

    @classmethod
    def from_core(cls, gauges: tuple[int, ...], counters: tuple[Any, ...]) -> "PoolStats":
        """Make one of what the core counts, which is in the order of the fields."""
        return cls(*gauges, *counters)
