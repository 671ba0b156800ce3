"""Waiters that are cancelled, and that run out of time, in every state of their wait."""

import argparse
import asyncio
from typing import Any

from common import Growth, run, settled

from aiowebsocketclient import PoolTimeoutError, WebSocketClientSession

AT_ONCE = 100
# Some find the place connecting, some in use, and some are given it in the same turn.
SECONDS = 0.001


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/"

    async with WebSocketClientSession(limit=1) as session:

        async def cancelled() -> None:
            held = await session.ws_connect(url)
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(session.ws_connect(url)) for _ in range(AT_ONCE)
            ]
            await asyncio.sleep(0)
            await held.release()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)

        async def timed_out() -> None:
            held = await session.ws_connect(url)
            ended = await asyncio.gather(
                *(session.ws_connect(url, acquire_timeout=SECONDS) for _ in range(AT_ONCE)),
                session.ws_connect(url, acquire_timeout=0),
                return_exceptions=True,
            )
            assert all(isinstance(one, PoolTimeoutError) for one in ended)
            await held.release()

        async def work(operations: int) -> None:
            for _ in range(operations // AT_ONCE // 2):
                await cancelled()
                await timed_out()
            await settled(session)
            assert session.stats().idle == 1

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 10_000)
