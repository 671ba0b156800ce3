"""Makes the errors of callers that got no connection: the reason, and the endpoint's numbers."""

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ._compat import Pool, Waiter, clock
from .exceptions import AcquireError, PoolTimeoutError, TooManyWaitersError, in_session
from .keys import EndpointKey
from .settings import Settings

__all__ = ("Refusals",)

_Error = TypeVar("_Error", bound=AcquireError)

_WAITED_FOR: Final = {
    "limit": "limit is reached",
    "limit_total": "limit_total is reached, counting all endpoints",
    "fleet": "the fleet grants no more places",
    "max_connecting": "max_connecting is reached",
    "handshake": "the handshake is still under way",
    "release": "a released connection was expected sooner than a handshake would end",
    "check": "the check of a pooled connection is still running",
}


class Refusals:
    """Makes the errors of one session."""

    __slots__ = ("_fleet_situation", "_pool", "_settings")

    def __init__(
        self, pool: Pool, settings: Settings, fleet_situation: Callable[[], str] | None = None
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._fleet_situation = fleet_situation

    def at_once(self, endpoint: EndpointKey) -> PoolTimeoutError:
        """Return the error of a caller that must not wait: its ``acquire_timeout`` is 0."""
        said = f"no idle connection to {endpoint}, and acquire_timeout is 0"
        return self._make(PoolTimeoutError, endpoint, said)

    def too_many(self, endpoint: EndpointKey) -> TooManyWaitersError:
        """Return the error of a caller that finds ``max_waiting`` callers queued."""
        said = (
            f"{endpoint} has as many queued callers as max_waiting allows"
            f" ({self._settings.max_waiting}): try again later, or raise limit or max_waiting"
        )
        return self._make(TooManyWaitersError, endpoint, said)

    def timed_out(self, waiter: Waiter, seconds: float) -> PoolTimeoutError:
        """Return the error of a caller that waited ``seconds``; the numbers still include it."""
        endpoint: Any = waiter.handshake.endpoint.key
        if waiter.slot is not None:
            waited_for = "check"
        elif waiter.opening is not None or waiter.hedges:
            waited_for = "handshake"
        elif waiter.deferred and not waiter.unplaced:
            waited_for = "release"
        else:
            waited_for = ""
        said = f"no connection to {endpoint} within acquire_timeout ({seconds:g} s)"
        return self._make(PoolTimeoutError, endpoint, said, waited_for)

    def _make(
        self, kind: type[_Error], endpoint: EndpointKey, said: str, waited_for: str = ""
    ) -> _Error:
        gauges, lacking, age, failure = self._pool.situation(endpoint, clock())
        waited_for = waited_for or lacking
        connecting, acquired, idle, closing, waiting, _ = gauges
        limit = "no limit" if self._settings.limit is None else f"limit {self._settings.limit}"
        numbers = f"{limit}: {acquired} in use, {idle} idle, {connecting} connecting"
        if closing:
            numbers += f", {closing} closing"
        reserved = self._pool.reserved_count(endpoint)
        if reserved:
            numbers += f", {reserved} reserved for callers that wait for a release"
        numbers += f"; {waiting} waiting"
        if connecting:
            numbers += f"; oldest handshake: {age:.1f} s"
        if failure is not None:
            since = max(0.0, time.time() - failure.time)
            numbers += f"; last failed handshake: {failure}, {since:.1f} s ago"
        if self._fleet_situation is not None:
            numbers += f"; {self._fleet_situation()}"
        why = f": {_WAITED_FOR[waited_for]}" if waited_for else ""
        error = kind(in_session(self._settings.name, f"{said}{why} ({numbers})"))
        if self._settings.name is not None:
            error.session_name = self._settings.name
        error.endpoint = endpoint
        error.waited_for = waited_for
        error.limit, error.limit_total = self._settings.limit, self._settings.limit_total
        error.max_connecting = self._settings.max_connecting
        error.acquired, error.idle, error.closing = acquired, idle, closing
        error.connecting, error.waiting = connecting, waiting
        error.oldest_handshake = age if connecting else None
        error.last_failure = failure
        return error
