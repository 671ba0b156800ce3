"""Protocols of contenders.

A contender defines :meth:`Contender.filled`, and those of the methods below that it supports.  A
scenario lists the methods that it needs.  Each contender has its own loops, so that a cycle looks
as in a function of a user.  The cost of the loop (about 10 ns) is also part of the floor.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    # The processes of other contenders do not import these.
    import aiohttp

    from .fleet import Fleet


class Contender(Protocol):
    """A pool that is ready to be timed."""

    @classmethod
    def filled(cls, url: str, *, limit: int, connections: int) -> AbstractAsyncContextManager[Self]:
        """Create a pool of at most ``limit`` connections (0: no limit), with ``connections`` idle.

        If the library lets its users create connections, they are trivial objects.  This library
        uses live sockets to the echo server at ``url``.
        """
        ...

    @classmethod
    def about(cls) -> dict[str, Any]:
        """Return further details for the header, such as the path of the library."""
        return {}


class Cycling(Contender, Protocol):
    """One caller that always finds an idle connection."""

    async def cycle(self, cycles: int) -> int:
        """Acquire and release this many times, with nothing in between; return the ns taken."""
        ...


class Crowded(Contender, Protocol):
    """Many callers."""

    async def use(self, cycles: int) -> None:
        """Acquire, ``await asyncio.sleep(0)``, release, this many times.

        Without that turn of the loop, no caller would ever have to wait.
        """
        ...

    async def use_until(self, stop: asyncio.Event) -> int:
        """Do the same until ``stop`` is set (``while not stop.is_set()``); return the count."""
        ...


class Holding(Contender, Protocol):
    """Connections that stay in use."""

    def hold(self, count: int) -> AbstractAsyncContextManager[None]:
        """Acquire ``count`` connections one after another, and release them at the end.

        The pool has enough idle connections, or enough room.
        """
        ...


class Slow(Contender, Protocol):
    """A pool whose connections take ``server.CONNECTING`` seconds to open."""

    @classmethod
    def slow(cls, url: str, *, connections: int, at_once: int) -> AbstractAsyncContextManager[Self]:
        """Create a pool without limit, with ``connections`` idle.

        It opens at most ``at_once`` connections at a time; a library without such a setting raises
        ``LeftOut``.
        """
        ...

    async def use_for(self, seconds: float) -> None:
        """Acquire, sleep, release."""
        ...

    async def begun(self) -> int:
        """Return how many connections the pool has begun to open."""
        ...


class Many(Contender, Protocol):
    """Live WebSocket connections, in large numbers."""

    @classmethod
    def fleet(
        cls, client_session: "aiohttp.ClientSession", url: str
    ) -> "AbstractAsyncContextManager[Fleet]":
        """Create a fleet without connections, which opens them with ``client_session``."""
        ...


class CyclingAndHolding(Cycling, Holding, Protocol):
    """Cycling and Holding."""


class CrowdedAndHolding(Cycling, Crowded, Holding, Protocol):
    """Cycling, Crowded and Holding."""
