"""The ASGI application that uvicorn and hypercorn run."""

import contextlib
from typing import Any

from .book import Book


class App:
    """Accepts every WebSocket, and answers its texts until it is disconnected."""

    def __init__(self, book: Book) -> None:
        self.book = book

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._talk(receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def _talk(self, receive: Any, send: Any) -> None:
        async def close(code: int) -> None:
            await send({"type": "websocket.close", "code": code})

        await receive()
        await send({"type": "websocket.accept"})
        # Uvicorn raises OSError if the connection has ended.
        with contextlib.suppress(OSError), self.book.entered(close) as connection:
            while (message := await receive())["type"] == "websocket.receive":
                if connection.is_closing:
                    continue
                reply = self.book.answer(connection, message["text"])
                await send({"type": "websocket.send", "text": reply})
