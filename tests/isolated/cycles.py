"""Acquire and release on one live connection, by every way there is."""

import argparse

from common import Growth, run, settled

from aiowebsocketclient import WebSocketClientSession


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/"

    async with WebSocketClientSession() as session:

        async def work(operations: int) -> None:
            for _ in range(operations // 4):
                ws = await session.ws_connect(url)
                await ws.release()
                async with session.ws_connect(url):
                    pass
                ws = await session.ws_connect(url, headers={"A": "B"}, protocols=("chat",))
                await ws.release()
                async with session.ws_connect(url, headers={"A": "B"}, protocols=("chat",)):
                    pass
            await settled(session)

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=100_000)
