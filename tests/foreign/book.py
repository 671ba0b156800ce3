"""What a server program counts, and the orders that it gets.

A program reads orders from its standard input and answers each on its standard output, both as a
line of JSON.  The first line of its output says that it listens.  It ends with its input, so that
none is left behind by tests that were killed.
"""

import asyncio
import contextlib
import inspect
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Options:
    """What the arguments of a program say.

    :param port: on which it listens.
    :param ping_interval: seconds between the pings of each connection.
    :param ping_timeout: seconds that the server waits for the answer to a ping, if it can wait at
        all; None: any time is good enough.
    """

    def __init__(
        self,
        *,
        port: int,
        ping_interval: float,
        ping_timeout: float | None = None,
        **others: Any,
    ) -> None:
        self.port = port
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        #: What only one kind of server knows.
        self.others = others

    @classmethod
    def read(cls) -> "Options":
        return cls(**json.loads(sys.argv[1]))

    def listen(self) -> socket.socket:
        """Return a listening socket; handshakes queue until the server accepts them."""
        return socket.create_server(("127.0.0.1", self.port), backlog=128)


class Connection:
    """A connection, as the server sees it.

    :param close: closes it with the code that it is given; may be a coroutine function.
    """

    def __init__(self, close: Callable[[int], Any]) -> None:
        self.close = close
        self.requests = 0
        #: Whether its close was ordered: a reply would come too late.
        self.is_closing = False


class Book:
    """The numbers of one life of a server.

    :param server: its name and version.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.accepted = 0
        self.requests = 0
        self.peak = 0
        self.open: set[Connection] = set()

    def enter(self, close: Callable[[int], Any]) -> Connection:
        connection = Connection(close)
        self.open.add(connection)
        self.accepted += 1
        self.peak = max(self.peak, len(self.open))
        return connection

    def leave(self, connection: Connection) -> None:
        self.open.discard(connection)

    @contextlib.contextmanager
    def entered(self, close: Callable[[int], Any]) -> Iterator[Connection]:
        connection = self.enter(close)
        try:
            yield connection
        finally:
            self.leave(connection)

    def answer(self, connection: Connection, request: str) -> str:
        """Return the reply: how many requests the connection has had, and this request."""
        self.requests += 1
        connection.requests += 1
        return f"{connection.requests} {request}"

    async def obey(self) -> None:
        """Say that the server listens, and follow orders until there are no more."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        self._say({"server": self.server})
        while line := await reader.readline():
            order = json.loads(line)
            self._say(await getattr(self, f"do_{order.pop('do')}")(**order))
        os._exit(0)

    def _say(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)

    async def do_count(self) -> dict[str, int]:
        return {
            "accepted": self.accepted,
            "open": len(self.open),
            "peak": self.peak,
            "requests": self.requests,
        }

    async def do_close(self, code: int) -> dict[str, int]:
        """Close all connections that are open."""
        connections = list(self.open)
        for connection in connections:
            connection.is_closing = True
        closing = [connection.close(code) for connection in connections]
        await asyncio.gather(*filter(inspect.isawaitable, closing))
        return {"closed": len(connections)}
