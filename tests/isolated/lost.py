"""Handles that are collected unreleased, with and without heartbeat."""

import argparse
import warnings

from common import Growth, run, settled

from aiowebsocketclient import WebSocketClientSession


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/"
    warned = 0

    def count(message: Warning | str, category: type[Warning], *_: object) -> None:
        nonlocal warned
        assert category is ResourceWarning
        assert "was never released" in str(message)
        warned += 1

    warnings.simplefilter("always")
    warnings.showwarning = count  # type: ignore[assignment]

    async with WebSocketClientSession(limit=1) as session:

        async def work(operations: int) -> None:
            before = warned
            for number in range(operations):
                # Each waits for the place that the last one has lost.
                if number % 2:
                    await session.ws_connect(url, heartbeat=30.0)
                else:
                    ws = await session.ws_connect(url)
                    await ws.send_str("hello")
                    await ws.receive()
                    del ws
            await settled(session)
            assert session.stats().idle == 0
            assert warned == before + operations

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 1_000)
