"""Large numbers of connections, and their server."""

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

    #: Whether idle connections answer the PINGs of a server.
    answers_pings: bool

    async def open(self, count: int) -> None:
        """Open ``count`` connections, at most ``AT_ONCE`` at a time, and leave them idle."""
        ...

    async def take(self) -> int:
        """Acquire all connections; return the ns taken."""
        ...

    async def give(self) -> int:
        """Release all connections; return the ns taken."""
        ...

    def alive(self) -> int:
        """Return the number of idle connections that appear open."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


@asynccontextmanager
async def serving(
    *, tls: bool = False, heartbeat: float | None = None
) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    """Start a separate server, and create a client session like the pool's own."""
    if tls and find_spec("trustme") is None:
        raise LeftOut("trustme is not installed")
    with Server(tls=tls, heartbeat=heartbeat) as server:
        trust = tls and ssl.create_default_context(cadata=server.authority)
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=trust or True)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The default timeout would keep a timer for each connection for five minutes.
            timeout=aiohttp.ClientTimeout(),
        ) as client_session:
            yield server, client_session


async def ping(server: Server, *, answered: bool) -> int:
    """Make the server send a PING to each client; return the number of clients."""
    server.tell({"answered": answered})
    pings: int = (await asyncio.to_thread(server.hear))["pings"]
    if not answered:
        # Clients that do not answer must receive the PINGs nevertheless.
        await asyncio.sleep(_ON_THE_WAY)
    if not pings:
        raise BenchError("no client is connected to the server")
    return pings
