"""What a contender is, and what it may be able to do.

A contender defines :meth:`Contender.filled` and those of the methods below that it is able to do;
a scenario names the ones it needs.  Loops are written out in each contender, so that the cycle
stands there as in a user's own function; what the loop itself costs (some 10 ns) is in the floor
too.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    # Others' processes do without.
    import aiohttp

    from .fleet import Fleet


class Contender(Protocol):
    """A pool at work, with everything done that is not to be timed."""

    @classmethod
    def filled(cls, url: str, *, limit: int, connections: int) -> AbstractAsyncContextManager[Self]:
        """Make a pool of at most ``limit`` (0: no limit), with ``connections`` open and idle.

        A connection is a trivial object where the library lets its user make it; those of this
        library are live sockets to the echo server at ``url``.
        """
        ...

    @classmethod
    def about(cls) -> dict[str, Any]:
        """Return what else the header is to say: the path of what is measured, and the like."""
        return {}


class Cycling(Contender, Protocol):
    """One caller, and what it wants is idle."""

    async def cycle(self, cycles: int) -> int:
        """Acquire and release so many times, nothing between; return the ns that took."""
        ...


class Crowded(Contender, Protocol):
    """One of many callers."""

    async def use(self, cycles: int) -> None:
        """Acquire, ``await asyncio.sleep(0)``, release, so many times.

        Without that turn of the loop nobody would ever find everything taken.
        """
        ...

    async def use_until(self, stop: asyncio.Event) -> int:
        """Do the same until ``stop`` is set (``while not stop.is_set()``); return how often."""
        ...


class Holding(Contender, Protocol):
    """Connections that are in use for long."""

    def hold(self, count: int) -> AbstractAsyncContextManager[None]:
        """Acquire so many, one after the other, and release them at the end.

        There are as many idle, or as much room.
        """
        ...


class Slow(Contender, Protocol):
    """A pool whose connections take ``server.CONNECTING`` seconds to open."""

    @classmethod
    def slow(cls, url: str, *, connections: int, at_once: int) -> AbstractAsyncContextManager[Self]:
        """Make one without limit, with ``connections`` open and idle.

        It opens at most ``at_once`` at a time; a library that cannot be told raises ``LeftOut``.
        """
        ...

    async def use_for(self, seconds: float) -> None:
        """Acquire, sleep, release."""
        ...

    async def begun(self) -> int:
        """Return how many connections it has begun to open so far."""
        ...


class Many(Contender, Protocol):
    """Live WebSocket connections, in large numbers."""

    @classmethod
    def fleet(
        cls, client_session: "aiohttp.ClientSession", url: str
    ) -> "AbstractAsyncContextManager[Fleet]":
        """Make something that opens connections by ``client_session``, and has none yet."""
        ...


class CyclingAndHolding(Cycling, Holding, Protocol):
    """Both."""


class CrowdedAndHolding(Cycling, Crowded, Holding, Protocol):
    """All three."""
