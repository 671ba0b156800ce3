"""Ever new handshakes at one endpoint: by path, by headers, by reuse_key.

At the limit each of them closes an idle connection of another.
"""

import argparse
import asyncio
import itertools

from common import Growth, run, settled

from aiowebsocketclient import WebSocketClientSession

CALLERS = 16


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}"
    numbers = itertools.count()

    async with WebSocketClientSession(limit=CALLERS) as session:

        async def caller(operations: int) -> None:
            for _ in range(operations):
                number = next(numbers)
                if number % 3 == 0:
                    acquisition = session.ws_connect(f"{url}/{number}")
                elif number % 3 == 1:
                    acquisition = session.ws_connect(url, headers={"Number": str(number)})
                else:
                    acquisition = session.ws_connect(url, reuse_key=number)
                async with acquisition:
                    pass

        async def work(operations: int) -> None:
            await asyncio.gather(*(caller(operations // CALLERS) for _ in range(CALLERS)))
            await settled(session)

        await Growth(options).of(work)


if __name__ == "__main__":
    # By path as many in a round as there are targets by URL that the session remembers, so that it
    # remembers the same number after each.
    run(main, operations=4 * 3 * 1_024)
