"""A server of Tornado, which has no handler for SIGTERM."""

import asyncio
import contextlib
from typing import Any

import tornado
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from .book import Book, Connection, Options


class Handler(WebSocketHandler):
    """Answers texts, compressed if the client can read that."""

    def initialize(self, book: Book) -> None:
        self.book = book
        self.connection: Connection

    def get_compression_options(self) -> dict[str, Any]:
        return {}

    def open(self, *args: str, **kwargs: str) -> None:
        self.connection = self.book.enter(self.close)

    async def on_message(self, message: str | bytes) -> None:
        if not self.connection.is_closing:
            with contextlib.suppress(WebSocketClosedError):
                await self.write_message(self.book.answer(self.connection, str(message)))

    def on_close(self) -> None:
        self.book.leave(self.connection)


async def main(options: Options) -> None:
    book = Book(f"Tornado {tornado.version}")
    application = Application(
        [("/.*", Handler, {"book": book})],
        websocket_ping_interval=options.ping_interval,
        websocket_ping_timeout=options.ping_timeout or 0,
    )
    server = HTTPServer(application)
    sock = options.listen()
    sock.setblocking(False)
    server.add_sockets([sock])
    await book.obey()


if __name__ == "__main__":
    asyncio.run(main(Options.read()))
