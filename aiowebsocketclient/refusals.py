"""Makes the errors of callers that got no connection: the reason, and the endpoint's numbers."""

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from ._compat import Pool, Waiter, clock
from .exceptions import AcquireError, PoolTimeoutError, TooManyWaitersError, in_session
from .keys import EndpointKey
from .settings import Settings

__all__ = ("Refusals", "Situation")

_Error = TypeVar("_Error", bound=AcquireError)

# Why a caller got no connection, and what to do about it.
_WAITED_FOR: Final = {
    "limit": ("limit is reached", ("release connections sooner", "raise limit")),
    "limit_total": (
        "limit_total ({limit_total}) is reached, counting all endpoints",
        ("release connections sooner", "raise limit_total"),
    ),
    "fleet": ("the fleet grants no more places", ()),
    "max_connecting": (
        "max_connecting ({max_connecting}) is reached",
        ("open connections earlier with prewarm()", "raise max_connecting"),
    ),
    "handshake": (
        "the handshake is still under way",
        ("see why the server takes so long", "raise acquire_timeout"),
    ),
    "release": (
        "a released connection was expected sooner than a handshake would end",
        ("raise acquire_timeout", "keep more connections idle with set_min_idle()"),
    ),
    "check": (
        "the check of a pooled connection is still running",
        ("shorten the timeout of the check", "raise acquire_timeout"),
    ),
}


class Situation(NamedTuple):
    """What a fleet knows of its places."""

    #: For the numbers of an error.
    text: str
    #: What to do if the fleet grants no more places.
    remedies: tuple[str, ...]


class Refusals:
    """Makes the errors of one session."""

    __slots__ = ("_fleet_situation", "_pool", "_settings")

    def __init__(
        self, pool: Pool, settings: Settings, fleet_situation: Callable[[], Situation] | None = None
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
        allowed = self._settings.max_waiting
        said = f"{endpoint} has as many queued callers as max_waiting ({allowed}) allows"
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
        fleet = None if self._fleet_situation is None else self._fleet_situation()
        if fleet is not None:
            numbers += f"; {fleet.text}"
        why = self._why(waited_for, fleet, is_later=kind is TooManyWaitersError)
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

    def _why(self, waited_for: str, fleet: Situation | None, *, is_later: bool) -> str:
        """Return the end of a sentence: the reason, and what to do about it."""
        reason, remedies = _WAITED_FOR.get(waited_for, ("", ()))
        reason = reason.format(
            limit_total=self._settings.limit_total, max_connecting=self._settings.max_connecting
        )
        if waited_for == "fleet" and fleet is not None:
            remedies = fleet.remedies
        elif waited_for == "handshake" and self._settings.connect_limiter is not None:
            remedies = ("see whether the server or connect_limiter takes so long", *remedies[1:])
        if is_later:
            remedies = ("try again later", *remedies, "raise max_waiting")
        to_do = f"so {_alternatives(remedies)}" if remedies else ""
        said = ", ".join(part for part in (reason, to_do) if part)
        if not said:
            return ""
        return f": {said}" if reason else f", {said}"


def _alternatives(remedies: tuple[str, ...]) -> str:
    """Return words as in ``wait, ask or go``."""
    *others, last = remedies
    return f"{', '.join(others)} or {last}" if others else last
