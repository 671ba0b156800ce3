"""A server of uvicorn, with the implementation of WebSocket that it is told."""

import asyncio

import uvicorn

from .asgi import App
from .book import Book, Options


async def main(options: Options) -> None:
    ws = options.others["ws"]
    book = Book(f"uvicorn {uvicorn.__version__}, {ws}")
    config = uvicorn.Config(
        App(book),
        interface="asgi3",
        ws=ws,
        ws_ping_interval=options.ping_interval,
        ws_ping_timeout=options.ping_timeout,
        # A connection whose handshake is under way at SIGTERM stays open, and uvicorn waits for its
        # end: without a timeout, for as long as the client keeps it.
        timeout_graceful_shutdown=1,
        log_level="warning",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[options.listen()]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    obeying = asyncio.create_task(book.obey())
    await serving
    obeying.cancel()


if __name__ == "__main__":
    asyncio.run(main(Options.read()))
