"""Idle connections that answer pings, with a heartbeat of their own and without."""

import argparse

from common import Growth, run, settled, until

from aiowebsocketclient import WebSocketClientSession

CONNECTIONS = 10


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/pings"

    async with WebSocketClientSession() as session:

        async def work(operations: int) -> None:
            # The server closes each when all of its pings have been answered.
            lost = session.stats().closed_lost
            pings = operations // CONNECTIONS
            for heartbeat in (None, 30.0):
                acquired = [
                    await session.ws_connect(url, heartbeat=heartbeat)
                    for _ in range(CONNECTIONS // 2)
                ]
                for ws in acquired:
                    await ws.send_str(str(pings))
                    await ws.release()
                del acquired, ws
            await until(lambda: session.stats().closed_lost == lost + CONNECTIONS)
            await settled(session)

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 10_000)
