"""Handshakes that fail: refused by the machine, by the server, out of time."""

import argparse
import asyncio
import socket

import aiohttp
from common import Growth, run, settled

from aiowebsocketclient import WebSocketClientSession


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}"
    # Bound and not listening: nobody else gets it meanwhile.
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    refused = f"http://127.0.0.1:{nobody.getsockname()[1]}/"

    async with (
        WebSocketClientSession(limit=10) as session,
        WebSocketClientSession(conn_timeout=0.05) as hasty,
    ):

        async def fail(
            url: str, error: type[BaseException], callers: int, session: WebSocketClientSession
        ) -> None:
            calls = [session.ws_connect(url) for _ in range(callers)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(one, error) for one in ended), ended

        async def work(operations: int) -> None:
            for _ in range(operations // 50):
                await fail(refused, aiohttp.ClientConnectorError, 25, session)
                await fail(url + "/refuse", aiohttp.WSServerHandshakeError, 25, session)
            await fail(url + "/hang", aiohttp.ConnectionTimeoutError, 10, hasty)
            await settled(session)
            await settled(hasty)
            assert session.stats().endpoints == 0

        await Growth(options).of(work)
    nobody.close()


if __name__ == "__main__":
    run(main, operations=4 * 2_000)
