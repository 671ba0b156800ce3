"""Connections that end in every other way: by the user, the server, an exception, too early."""

import argparse
import asyncio
from typing import Any

from common import Growth, run, settled, until

from aiowebsocketclient import WebSocketClientSession


def is_dying(slot: Any) -> bool:
    return slot.uses > 0 and slot.key.target == "/dies"


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}"

    async with WebSocketClientSession(limit=10) as session:

        async def by_the_user() -> None:
            ws = await session.ws_connect(url)
            await ws.close()

        async def by_an_exception() -> None:
            try:
                async with session.ws_connect(url) as ws:
                    await ws.send_str("hello")
                    raise LookupError
            except LookupError:
                pass

        async def while_idle() -> None:
            async with session.ws_connect(url + "/dies") as ws:
                await ws.send_str("now")

        async def while_receiving() -> None:
            ws = await session.ws_connect(url + "/dies")
            await ws.send_str("now")
            await ws.receive()
            await ws.release()

        async def unread() -> None:
            ws = await session.ws_connect(url)
            await ws.send_str("hello")
            receiving = asyncio.create_task(ws.receive())
            await asyncio.sleep(0)
            await ws.release()
            await receiving

        ways = (by_the_user, by_an_exception, while_idle, while_receiving, unread)

        async def work(operations: int) -> None:
            for _ in range(operations // len(ways)):
                await asyncio.gather(*(way() for way in ways))
            # The last one to die idle may take its time; what nobody has used does not die.
            await until(lambda: not any(map(is_dying, session._pool.slots())))
            await settled(session)

        await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 1_000)
