"""A thousand endpoints, by as many loopback addresses."""

import argparse
import asyncio

from common import Growth, run, settled

from aiowebsocketclient import WebSocketClientSession

# Open at once, so that the usual limit of files will do.
AT_ONCE = 250


async def main(port: int, options: argparse.Namespace) -> None:
    async with WebSocketClientSession() as session:

        async def caller(number: int) -> None:
            url = f"http://127.0.{number // 250}.{number % 250 + 1}:{port}/"
            async with session.ws_connect(url):
                pass
            ws = await session.ws_connect(url)
            assert ws.reused
            await ws.close()

        async def work(operations: int) -> None:
            for first in range(0, operations, AT_ONCE):
                await asyncio.gather(*map(caller, range(first, first + AT_ONCE)))
            await settled(session)
            assert session.stats().endpoints == 0
            # Who looks for what expires next throws out what is gone.
            session._pool.next_deadline()

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 1_000)
