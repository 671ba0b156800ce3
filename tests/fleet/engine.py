"""An engine in memory, for sessions whose engine is not what a test is about."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from aiowebsocketclient.fleet import Grant, Report

PATIENCE = 30.0


class Engine:
    """Grants what is wanted, within its limit; only for one session."""

    def __init__(self, limit: int = 10, lease: float = 100.0, fallback: int = 0) -> None:
        self.limit, self.lease, self.fallback = limit, lease, fallback
        self.lost: Literal["keep", "close"] = "keep"
        self.connect_rate: tuple[int, float] | None = None
        self.keep_idle: float | None = None
        self.reports: list[Report] = []
        #: The limit of the last call.
        self.said = 0
        #: What the next calls return or raise in place of a grant.
        self.answers: list[Any] = []
        self.listeners = 0

    async def sync(self, member: str, report: Report) -> Grant | None:
        self.reports.append(report)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer  # type: ignore[no-any-return]
        before, self.said = self.said, self.limit
        places = min(self.limit, max(report.demand, report.like))
        return Grant(places, places, report.seq, 0, places, 0.0, limit=before)

    async def listen(self, member: str, nudge: Callable[[], None]) -> NoReturn:
        self.listeners += 1
        while True:
            await asyncio.sleep(PATIENCE)
