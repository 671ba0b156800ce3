"""Opens connections ahead of their callers: what ``prewarm()`` does."""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Protocol

import aiohttp

from ._compat import Pool, Slot, clock, ensure_room
from ._pool_py import LATE_FLOOR, Completion
from .exceptions import PoolClosedError, PrewarmError, in_session
from .keys import HandshakeKey, Target
from .lifecycle import Failure
from .settings import Settings

__all__ = ("Prewarm",)


class Opening(Protocol):
    """What :class:`Prewarm` needs of a lifecycle."""

    pool: Pool
    settings: Settings
    is_closed: bool
    drain_count: int
    draining: Completion

    def arm(self) -> None:
        """Let the pool's timer go off in time."""

    def closed_error(self) -> PoolClosedError:
        """Return what a call gets that comes too late."""
        ...

    def handshakes_of(self, key: HandshakeKey) -> list[asyncio.Future[Failure | None]]:
        """Return what ends with each handshake under way that is counted on."""
        ...

    def start_connecting(
        self, slot: Slot, target: Target, context: Context
    ) -> asyncio.Future[Failure | None]:
        """Begin a handshake; returns what ends with it."""
        ...


class Prewarm:
    """One run of ``prewarm()``.

    It begins handshakes until as many connections are open as are wanted, a handshake has failed,
    one has given way to a caller, or the session is closed; then it waits for those under way.
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
        # Since the session was drained last.
        self._begun = 0
        self._gave_way = False
        self._drain_count = lifecycle.drain_count
        self._opened = 0
        # Handshakes under way.
        self._pending: dict[asyncio.Future[Failure | None], Slot] = {}
        # Those that were not counted on any more, and what the late ones that ended have raised.
        self._doubted: set[Slot] = set()
        self._errors: list[BaseException] = []
        self._late_errors: list[BaseException] = []

    async def run(self) -> int:
        """Return how many connections it opened, or raise what handshakes have failed with."""
        try:
            while True:
                if self._drain_count != self._lifecycle.drain_count:
                    await self._begin_anew()
                self._doubted.update(slot for slot in self._pending.values() if slot.doubted)
                self._begin_handshakes()
                under_way = self._counted_on()
                if not under_way:
                    break
                # Nobody tells of one that is late.
                await asyncio.wait(
                    under_way, timeout=LATE_FLOOR, return_when=asyncio.FIRST_COMPLETED
                )
                self._take_ended()
        finally:
            for slot in self._pending.values():
                self._lifecycle.pool.abandon(slot, clock())
            self._lifecycle.arm()
        self._raise_errors()
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        return self._opened

    async def _begin_anew(self) -> None:
        self._drain_count, self._begun, self._gave_way = self._lifecycle.drain_count, 0, False
        if self._lifecycle.settings.limit or self._lifecycle.settings.limit_total:
            # Their places may be needed.
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

    def _may_begin(self) -> bool:
        if self._errors or self._gave_way or self._lifecycle.is_closed:
            return False
        # Never more than wanted altogether: what a server ends at once is not made anew.
        most = self._wanted + min(len(self._doubted), self._wanted)
        return self._begun < most and self._open_count() < self._wanted

    def _open_count(self) -> int:
        return self._lifecycle.pool.open_count(self._target.key)

    def _counted_on(self) -> list[asyncio.Future[Failure | None]]:
        """Return the handshakes to wait for; none: it is done."""
        # Callers and other prewarms open some too.
        under_way = self._lifecycle.handshakes_of(self._target.key)
        if self._open_count() - len(under_way) >= self._wanted or self._errors:
            return [future for future, slot in self._pending.items() if not slot.doubted]
        # One that a caller has given up may still come to a connection; one that is late may not.
        return under_way + [future for future, slot in self._pending.items() if not slot.late]

    def _take_ended(self) -> None:
        for future in [future for future in self._pending if future.done()]:
            self._take(future)

    def _take(self, future: asyncio.Future[Failure | None]) -> None:
        """See what has become of a handshake."""
        slot = self._pending.pop(future)
        if future.cancelled():
            if not (slot.drained or slot in self._doubted):
                # It gave way to a caller that needed the place.
                self._gave_way = True
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
            # Its traceback has this frame.
            del errors, late_errors

    def _error_of(self, errors: list[BaseException]) -> BaseException:
        exceptions = [error for error in errors if isinstance(error, Exception)]
        if len(exceptions) < len(errors):
            # What a connect_limiter raises may be no Exception, and would be none in a group.
            return next(error for error in errors if not isinstance(error, Exception))
        number = len(errors) + self._opened
        said = f"{len(errors)} of {number} handshakes with {self._target.endpoint} failed"
        said = in_session(self._lifecycle.settings.name, said)
        return PrewarmError(said, exceptions, self._opened)

    def _late_error(self) -> aiohttp.ConnectionTimeoutError:
        said = (
            f"a handshake with {self._target.endpoint} takes several times as long as is usual"
            " there, or several seconds where none has succeeded yet"
        )
        return aiohttp.ConnectionTimeoutError(in_session(self._lifecycle.settings.name, said))
