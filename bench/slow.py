"""Simulates a handshake with a slow server, for pools whose connections are objects."""

import asyncio
from collections.abc import Awaitable, Callable

from .server import CONNECTING

Start = Callable[[], Awaitable[None]]


class SlowStart:
    """Sleeps like a slow handshake, and counts the calls."""

    def __init__(self) -> None:
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        await asyncio.sleep(CONNECTING)


async def no_start() -> None:
    """Connect at once."""
