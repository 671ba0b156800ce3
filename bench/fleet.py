"""Connections in large numbers: what holds them, and the server they lead to."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final, Protocol

import aiohttp

from .processes import BenchError, Server
from .scenario import LeftOut

#: Handshakes under way at once.
AT_ONCE: Final = 100

# Seconds.
_ON_THE_WAY: Final = 0.1


class Fleet(Protocol):
    """WebSocket connections to one server."""

    #: Whether a server that pings keeps them.
    answers_pings: bool

    async def open(self, count: int) -> None:
        """Open so many, at most ``AT_ONCE`` at a time, and leave them idle."""
        ...

    async def take(self) -> int:
        """Take all of them into use; returns the ns that took."""
        ...

    async def give(self) -> int:
        """Leave all that are in use idle again; returns the ns that took."""
        ...

    def alive(self) -> int:
        """Return how many are idle, and open as far as it knows."""
        ...

    async def close(self) -> None:
        """Close all of them."""
        ...


@asynccontextmanager
async def serving(
    *, tls: bool = False, heartbeat: float | None = None
) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    """Start a server for this alone, and make a client session, as the pool's own is, for it."""
    if tls and find_spec("trustme") is None:
        raise LeftOut("trustme is not installed")
    with Server(tls=tls, heartbeat=heartbeat) as server:
        trust = tls and ssl.create_default_context(cadata=server.authority)
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=trust or True)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The default one would keep a timer for each connection for its first five minutes.
            timeout=aiohttp.ClientTimeout(),
        ) as client_session:
            yield server, client_session


async def ping(server: Server, *, answered: bool) -> int:
    """Have the server send a PING to everybody; returns how many that were."""
    server.tell({"answered": answered})
    pings: int = (await asyncio.to_thread(server.hear))["pings"]
    if not answered:
        # Who does not answer has to take them all the same.
        await asyncio.sleep(_ON_THE_WAY)
    if not pings:
        raise BenchError("nobody is connected to the server")
    return pings
