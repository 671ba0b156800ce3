"""The end and the new start of a server, with callers that go on meanwhile."""

import asyncio
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Final

from ..conftest import until
from .load import Before, Closes, Load, is_settled
from .server import ForeignServer

#: Ways to end a server: two signals, and a CLOSE with this code to each connection, then SIGTERM.
WAYS: Final = ("SIGTERM", "SIGKILL", "1012")
SERVICE_RESTART: Final = 1012


@dataclass(frozen=True, slots=True)
class Restart:
    """What happened at a restart."""

    #: Uses whose connection ended, and uses that got no connection because no server was there.
    cut: int
    refused: int
    #: Close codes of the connections that the server ended; None: no CLOSE came.
    codes: Counter[int | None]
    #: For the sums of the server's new life.
    before: Before


async def end(server: ForeignServer, way: str) -> None:
    if way == "1012":
        await server.ask("close", code=SERVICE_RESTART)
        way = "SIGTERM"
    await server.end(signal.Signals[way])


async def restart(
    server: ForeignServer, load: Load, closes: Closes, way: str, *, callers: int
) -> Restart:
    """Restart a server while callers use it; return once they all use the new one.

    The callers end before this returns, and all is settled.
    """
    ended = asyncio.Event()
    codes, cut, refused = closes.codes.copy(), load.cut, load.refused
    calling = asyncio.create_task(load.run_until(ended, callers=callers))
    try:
        done = load.done
        await until(lambda: load.done >= done + 5 * callers)
        await end(server, way)
        # Nothing is begun with the old server any more.
        await until(lambda: not (load.session.stats().connecting or load.session.stats().acquired))
        before = Before(load.session.stats().connects, load.done, load.sent)
        await server.start()
        await until(lambda: load.done >= before.done + 5 * callers)
    finally:
        ended.set()
        await calling
    await until(lambda: is_settled(load.session.stats()))
    await until(lambda: closes.are_told(load.session.stats()))
    return Restart(load.cut - cut, load.refused - refused, closes.codes - codes, before)
