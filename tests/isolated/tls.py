"""How much memory an idle TLS connection takes: when it is new, and after large messages.

Takes the URL of a server that echoes binary messages, a file with its authority, and the number of
connections.
"""

import asyncio
import ctypes
import gc
import ssl
import sys
from typing import Any

import psutil
from common import answer

from aiowebsocketclient import WebSocketClientSession

MB = 1_000_000


def rss() -> int:
    gc.collect()
    # Of freed memory, glibc keeps up to some large messages, however many connections there are.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss


async def main(url: str, authority: str, count: int) -> None:
    context = ssl.create_default_context(cafile=authority)
    data = bytes(MB)
    async with WebSocketClientSession(max_connecting=10) as session:

        async def connect() -> Any:
            return await session.ws_connect(url, ssl=context)

        async def use(ws: Any) -> None:
            await ws.send_bytes(data)
            assert len(await ws.receive_bytes()) == MB

        # What the process needs once.
        first = [await connect() for _ in range(5)]
        for ws in first:
            await use(ws)
        before = rss()
        handles = await asyncio.gather(*[connect() for _ in range(count)])
        idle = rss()
        for ws in handles:
            await use(ws)
            await ws.release()
        used = rss()
        for ws in first:
            await ws.release()
        answer(new=(idle - before) / count / 1000, used=(used - before) / count / 1000)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
