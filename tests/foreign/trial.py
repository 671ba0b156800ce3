"""What one server does, measured for the table."""

import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiowebsocketclient import WebSocketClientSession

from ..conftest import until
from .load import Closes, Load, faults_of, is_settled
from .restarts import WAYS, Restart, restart
from .server import ForeignServer, running

LIMIT: Final = 8
CALLERS: Final = 16
COMPRESS: Final[dict[str, Any]] = {"compress": 15}
#: Uses by one caller, of which the median is told; uses after a restart, of which none may fail.
ALONE: Final = 200
AFTER: Final = 200


@dataclass(slots=True)
class Trial:
    """The numbers of one server."""

    name: str
    version: str = ""
    replies: int = 0
    wrong: int = 0
    cancelled: int = 0
    handshakes: int = 0
    reused: int = 0
    #: Whether each connection was compressed.
    is_compressed: bool = False
    #: Median of a use, while there are no others.
    milliseconds: float = 0.0
    #: What happened, and how many of the later uses failed.
    restarts: dict[str, tuple[Restart, int]] = field(default_factory=dict)
    #: Sums that do not add up.
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.wrong or self.faults or any(late for _, late in self.restarts.values()))

    async def run(self, cycles: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with running(self.name, Path(directory), ping_interval=0.1) as server:
                self.version = server.version
                await self._use(server, cycles)
            async with running(self.name, Path(directory)) as server:
                await self._restart(server)

    async def _use(self, server: ForeignServer, cycles: int) -> None:
        async with WebSocketClientSession(limit=LIMIT) as session:
            load = Load(session, server.url, **COMPRESS)
            await load.run(cycles, callers=CALLERS, cancel_every=10)
            stats = session.stats()
            self.replies, self.cancelled = load.done, load.cancelled.total()
            self.handshakes, self.reused = stats.connects, stats.reused
            self.is_compressed = load.compressed == load.granted
            load.seconds.clear()
            await load.run(ALONE, callers=1)
            self.milliseconds = 1000 * statistics.median(load.seconds)
            await self._check(load, server)

    async def _restart(self, server: ForeignServer) -> None:
        closes = Closes()
        async with WebSocketClientSession(limit=LIMIT, trace_configs=[closes]) as session:
            load = Load(session, server.url, **COMPRESS)
            for way in WAYS:
                happened = await restart(server, load, closes, way, callers=CALLERS)
                failed: Counter[Any] = load.failed.copy()
                await load.run(AFTER, callers=CALLERS, may_fail=True)
                self.restarts[way] = happened, (load.failed - failed).total()
                await self._check(load, server, happened.before)

    async def _check(self, load: Load, server: ForeignServer, *before: Any) -> None:
        await until(lambda: is_settled(load.session.stats()))
        self.wrong += len(load.wrong)
        self.faults += faults_of(
            load, await server.count_settled(load.session.stats().idle), *before
        )
