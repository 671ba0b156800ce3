"""What stands for a handshake with a slow server where connections are objects."""

import asyncio
from collections.abc import Awaitable, Callable

from .server import CONNECTING

Start = Callable[[], Awaitable[None]]


class SlowStart:
    """Takes its time, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        await asyncio.sleep(CONNECTING)


async def no_start() -> None:
    """Connect at once."""
