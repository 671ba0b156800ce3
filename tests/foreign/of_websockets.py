"""A server of ``websockets``, which SIGTERM ends as its documentation shows."""

import asyncio
import contextlib
import signal

import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from .book import Book, Options


async def main(options: Options) -> None:
    book = Book(f"websockets {websockets.__version__}")

    async def handle(ws: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed), book.entered(ws.close) as connection:
            async for request in ws:
                if not connection.is_closing:
                    await ws.send(book.answer(connection, str(request)))

    async with serve(
        handle,
        sock=options.listen(),
        ping_interval=options.ping_interval,
        ping_timeout=options.ping_timeout,
    ) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
        obeying = asyncio.create_task(book.obey())
        await server.wait_closed()
    obeying.cancel()


if __name__ == "__main__":
    asyncio.run(main(Options.read()))
