"""Opens connections before callers need them: implements ``prewarm()``."""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Protocol

import aiohttp

from ._compat import Pool, Slot, clock, ensure_room
from ._pool_py import LATE_FLOOR, Completion
from .exceptions import HandshakeFailure, PoolClosedError, PrewarmError, in_session
from .keys import HandshakeKey, Target
from .lessee import Lessee
from .lifecycle import Failure
from .settings import Settings

__all__ = ("Prewarm",)


class Opening(Protocol):
    """The part of a lifecycle that :class:`Prewarm` needs."""

    pool: Pool
    settings: Settings
    is_closed: bool
    drain_count: int
    draining: Completion
    lessee: Lessee | None

    def arm(self) -> None:
        """Set the timer of the pool."""

    def closed_error(self) -> PoolClosedError:
        """Return the error of a call after the end of the session."""
        ...

    def handshakes_of(self, key: HandshakeKey) -> list[asyncio.Future[Failure | None]]:
        """Return a future for each handshake under way that is expected to succeed."""
        ...

    def start_connecting(
        self, slot: Slot, target: Target, context: Context
    ) -> asyncio.Future[Failure | None]:
        """Begin a handshake; return a future that ends with it."""
        ...


class Prewarm:
    """One run of ``prewarm()``.

    It begins handshakes until enough connections are open, a handshake has failed or given way to a
    caller, or the session is closed.  Then it waits for the handshakes under way.
    """

    def __init__(
        self,
        lifecycle: Opening,
        target: Target,
        wanted: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._lifecycle = lifecycle
        self._target = target
        self._wanted = wanted
        self._progress = progress
        # Since the last drain.
        self._begun = 0
        self._gave_way = False
        self._has_asked = False
        self._drain_count = lifecycle.drain_count
        self._opened = 0
        # Handshakes under way.
        self._pending: dict[asyncio.Future[Failure | None], Slot] = {}
        # Doubted handshakes, and the exceptions of handshakes, prompt and late.
        self._doubted: set[Slot] = set()
        self._errors: list[BaseException] = []
        self._late_errors: list[BaseException] = []

    async def run(self) -> int:
        """Return the number of opened connections, or raise the exceptions of handshakes."""
        try:
            while True:
                if self._drain_count != self._lifecycle.drain_count:
                    await self._begin_anew()
                self._doubted.update(slot for slot in self._pending.values() if slot.doubted)
                self._begin_handshakes()
                if self._lifecycle.lessee is not None:
                    await self._ask_fleet(self._lifecycle.lessee)
                under_way = self._counted_on()
                if not under_way:
                    break
                # With a timeout, because a handshake that becomes late causes no event.
                await asyncio.wait(
                    under_way, timeout=LATE_FLOOR, return_when=asyncio.FIRST_COMPLETED
                )
                self._take_ended()
        finally:
            if self._lifecycle.lessee is not None:
                self._lifecycle.lessee.wish(self, 0)
            for slot in self._pending.values():
                self._lifecycle.pool.abandon(slot, clock())
            self._lifecycle.arm()
        self._raise_errors()
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        return self._opened

    async def _begin_anew(self) -> None:
        self._drain_count, self._begun, self._gave_way = self._lifecycle.drain_count, 0, False
        self._has_asked = False
        if self._lifecycle.settings.limit or self._lifecycle.settings.limit_total:
            # The new connections may need the places of the old ones.
            await self._lifecycle.draining

    def _begin_handshakes(self) -> None:
        while self._may_begin():
            ensure_room()
            key = self._target.key
            slot = self._lifecycle.pool.open(key.endpoint, key, clock())
            if slot is None:
                break
            self._begun += 1
            finished = self._lifecycle.start_connecting(slot, self._target, copy_context())
            self._pending[finished] = slot

    async def _ask_fleet(self, lessee: Lessee) -> None:
        """Wish the places that are lacking, and wait once until the fleet has heard of them.

        Other sessions do not give way for them.
        """
        self._wish(lessee)
        endpoint = self._target.key.endpoint
        lacking = self._lifecycle.pool.situation(endpoint, clock())[1]
        if self._has_asked or lacking != "fleet" or not self._may_begin():
            return
        self._has_asked = True
        await lessee.answered()
        self._begin_handshakes()
        # As long as others are under way, it keeps the places that max_connecting leaves unused.
        self._wish(lessee)

    def _wish(self, lessee: Lessee) -> None:
        lacking = self._wanted - self._open_count() if self._may_begin() else 0
        lessee.wish_for(self, self._target.key.endpoint, lacking)

    def _may_begin(self) -> bool:
        if self._errors or self._gave_way or self._lifecycle.is_closed:
            return False
        # At most as many as wanted: a connection that the server closes at once is not replaced.
        most = self._wanted + min(len(self._doubted), self._wanted)
        return self._begun < most and self._open_count() < self._wanted

    def _open_count(self) -> int:
        return self._lifecycle.pool.open_count(self._target.key)

    def _counted_on(self) -> list[asyncio.Future[Failure | None]]:
        """Return the handshakes to wait for; empty at the end."""
        # Callers and other prewarms open connections, too.
        under_way = self._lifecycle.handshakes_of(self._target.key)
        if self._open_count() - len(under_way) >= self._wanted or self._errors:
            return [future for future, slot in self._pending.items() if not slot.doubted]
        # A handshake that a caller has abandoned may still succeed; a late handshake is not
        # expected to.
        return under_way + [future for future, slot in self._pending.items() if not slot.late]

    def _take_ended(self) -> None:
        for future in [future for future in self._pending if future.done()]:
            self._take(future)

    def _take(self, future: asyncio.Future[Failure | None]) -> None:
        """Record the result of a handshake."""
        slot = self._pending.pop(future)
        if future.cancelled():
            if slot.drained:
                return
            if slot.late:
                self._late_errors.append(self._late_error())
            elif slot.kept:
                # It gave way to a caller that needed the place.
                self._gave_way = True
            else:
                # A caller has given it up.
                self._doubted.add(slot)
        elif (failure := future.result()) is not None:
            (self._late_errors if slot.late else self._errors).append(failure.error)
        else:
            self._opened += 1
            if self._progress is not None:
                self._progress(self._opened, self._opened + len(self._pending))

    def _raise_errors(self) -> None:
        errors, self._errors = self._errors, []
        late_errors, self._late_errors = self._late_errors, []
        is_short = self._open_count() < self._wanted
        if is_short and not (self._gave_way or self._lifecycle.is_closed):
            errors += late_errors
            errors += [self._late_error() for slot in self._pending.values() if slot.late]
        try:
            if errors:
                raise self._error_of(errors)
        finally:
            # The traceback of the error has this frame.
            del errors, late_errors

    def _error_of(self, errors: list[BaseException]) -> BaseException:
        exceptions = [error for error in errors if isinstance(error, Exception)]
        if len(exceptions) < len(errors):
            # A connect_limiter may raise a BaseException, which must not be hidden in a group.
            return next(error for error in errors if not isinstance(error, Exception))
        number = len(errors) + self._opened
        # Each reason once: a log often shows only this text, not the exceptions of the group.
        reasons = "; ".join(dict.fromkeys(str(HandshakeFailure.of(each)) for each in exceptions))
        endpoint = self._target.endpoint
        said = f"{len(errors)} of {number} handshakes with {endpoint} failed: {reasons}"
        said = in_session(self._lifecycle.settings.name, said)
        return PrewarmError(said, exceptions, self._opened)

    def _late_error(self) -> aiohttp.ConnectionTimeoutError:
        said = (
            f"a handshake with {self._target.endpoint} takes several times as long as usual, or"
            " several seconds, if no handshake has succeeded there yet"
        )
        return aiohttp.ConnectionTimeoutError(in_session(self._lifecycle.settings.name, said))
