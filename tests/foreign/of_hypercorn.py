"""A server of hypercorn."""

import asyncio
from importlib.metadata import version

from hypercorn.asyncio import serve
from hypercorn.config import Config

from .asgi import App
from .book import Book, Options


async def main(options: Options) -> None:
    book = Book(f"Hypercorn {version('hypercorn')}")
    config = Config()
    config.bind = [f"fd://{options.listen().detach()}"]
    config.websocket_ping_interval = options.ping_interval
    config.graceful_timeout = options.others["graceful_timeout"]
    config.loglevel = "WARNING"
    obeying = asyncio.create_task(book.obey())
    await serve(App(book), config)
    obeying.cancel()


if __name__ == "__main__":
    asyncio.run(main(Options.read()))
