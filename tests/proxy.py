"""A TCP proxy between client and server that does to connections what networks do."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

# What closes a socket with a reset instead of an end.
NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)

Answer = Callable[["Link", bytes], None]


def text(payload: str) -> bytes:
    """Return a whole TEXT frame, as a server sends it."""
    return frame(0x81, payload.encode())


def frame(first: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + struct.pack("!H", size) + payload
    return bytes([first, 127]) + struct.pack("!Q", size) + payload


class Way:
    """One direction of a link."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.passed = 0
        #: Bytes that still go through; what comes after them is held. None: all go through.
        self.budget: int | None = None
        self.swallows = False
        #: One byte in each turn of the loop.
        self.trickles = False
        #: Seconds that everything is late.
        self.delay = 0.0
        self._held = bytearray()
        self._trickling = bytearray()

    def take(self, data: bytes) -> None:
        if self.swallows:
            return
        if self.transport is None:
            # Not connected yet.
            self._held += data
            return
        if self.budget is not None:
            self._held += data[self.budget :]
            data = data[: self.budget]
            self.budget -= len(data)
        self.send(data)

    def send(self, data: bytes) -> None:
        if self.trickles:
            if not self._trickling:
                asyncio.get_running_loop().call_soon(self._trickle)
            self._trickling += data
        elif self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.write, data)
        else:
            self.write(data)

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        if data and not self.transport.is_closing():
            self.passed += len(data)
            self.transport.write(data)

    def let_go(self) -> None:
        """Send what was held, and let the rest through."""
        self.budget = None
        held, self._held = bytes(self._held), bytearray()
        self.send(held)

    def _trickle(self) -> None:
        self.write(bytes(self._trickling[:1]))
        del self._trickling[:1]
        if self._trickling:
            asyncio.get_running_loop().call_soon(self._trickle)


class Link:
    """A connection of a client, and the one to the server that belongs to it."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.to_client = Way()
        self.to_server = Way()
        self.request = b""
        #: See ``Proxy.answer``.
        self.answer = proxy.answer
        self._opening: asyncio.Task[None] | None = None
        #: Whether the client has closed its side.
        self.client_ended = False
        #: Go on as if the client had not.
        self.ignores_end_of_client = False

    @property
    def client(self) -> asyncio.Transport:
        assert self.to_client.transport is not None
        return self.to_client.transport

    def open(self) -> None:
        """Go on to the server with what comes from now on."""
        self.answer = None
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                lambda: _ServerSide(self), "127.0.0.1", self.proxy.target
            )
        except OSError:
            self.close()
            return
        if self.client_ended:
            transport.abort()
            return
        self.to_server.transport = transport
        self.to_server.let_go()

    def reset(self) -> None:
        """Close with a TCP reset, to both sides."""
        for way in (self.to_client, self.to_server):
            if way.transport is not None and not way.transport.is_closing():
                sock = way.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                way.transport.abort()

    def end(self) -> None:
        """Send the client the end of the stream, and go on reading from it."""
        self.client.write_eof()

    def swallow(self) -> None:
        """Let nothing through any more, either way, and tell nobody."""
        self.to_client.swallows = self.to_server.swallows = True

    def close(self) -> None:
        for way in (self.to_client, self.to_server):
            if way.transport is not None:
                way.transport.abort()


class _ClientSide(asyncio.Protocol):
    def __init__(self, proxy: "Proxy") -> None:
        self.link = Link(proxy)

    # A transport of uvloop's is no asyncio.Transport, though it has all that one has.
    def connection_made(self, transport: Any) -> None:
        link = self.link
        link.to_client.transport = transport
        link.proxy.accept(link)
        if link.answer is None and not transport.is_closing():
            link.open()

    def data_received(self, data: bytes) -> None:
        link = self.link
        answer = link.answer
        if answer is None:
            link.to_server.take(data)
            return
        link.request += data
        if b"\r\n\r\n" in link.request:
            request, link.request = link.request, b""
            answer(link, request)

    def eof_received(self) -> bool:
        link = self.link
        link.proxy.leave(link)
        if link.ignores_end_of_client:
            return True
        if link.to_server.transport is not None:
            link.to_server.transport.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        link = self.link
        link.proxy.leave(link)
        link.proxy.forget(link)
        if link.to_server.transport is not None:
            link.to_server.transport.abort()


class _ServerSide(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self.link = link

    def data_received(self, data: bytes) -> None:
        self.link.to_client.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.link.to_client.swallows:
            self.link.client.close()


class Proxy:
    """Stands in front of ``target``, a port.

    ``links`` are the connections open now, as the far side sees them, oldest first; ``peak`` is
    the most that there were.  ``on_link`` is called with each new one.  With ``answer``, no server
    is asked: it is called with the link and the request once that is whole.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.port = 0
        self.links: list[Link] = []
        self.accepted = 0
        self.peak = 0
        self.answer: Answer | None = None
        self.on_link: Callable[[Link], None] | None = None
        self._all: set[Link] = set()

    def url(self, path: str = "/", scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def accept(self, link: Link) -> None:
        self.links.append(link)
        self._all.add(link)
        self.accepted += 1
        self.peak = max(self.peak, len(self.links))
        if self.on_link is not None:
            self.on_link(link)

    def leave(self, link: Link) -> None:
        link.client_ended = True
        if link in self.links:
            self.links.remove(link)

    def forget(self, link: Link) -> None:
        self._all.discard(link)

    async def close(self) -> None:
        async with asyncio.timeout(30):
            while self._all:
                for link in self._all:
                    link.ignores_end_of_client = False
                    link.close()
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def proxying(target: int = 0, *, port: int = 0) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _ClientSide(proxy), "127.0.0.1", port, backlog=2048)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
