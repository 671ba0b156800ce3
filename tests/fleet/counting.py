"""An echo server that counts its connections, as the provider with the limit does.

It is an asyncio protocol without tasks: a connection counts from the answer to its handshake to the
end of its socket, and both are seen in the order in which they happen.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class CountingServer:
    """Counts connections by the first part of the path: who has opened them.

    :param heartbeat: seconds between two PINGs; a peer that is silent for as long is dropped.
    :param delay: seconds before the answer to a handshake.
    """

    def __init__(self, *, heartbeat: float | None = None, delay: float = 0.0) -> None:
        self.heartbeat = heartbeat
        self.delay = delay
        self.port = 0
        self.by_who: Counter[str] = Counter()
        #: Of each change: the time (monotonic, the same in all processes) and how many are open.
        self.changes: list[tuple[float, int]] = [(-math.inf, 0)]
        #: When each handshake arrived, and who made it.
        self.handshakes: list[tuple[float, str]] = []
        #: When each message arrived.
        self.messages: list[float] = []
        self.uses: Counter[str] = Counter()
        self.connections: set[_Connection] = set()

    def url(self, who: str) -> str:
        return f"http://127.0.0.1:{self.port}/{who}"

    @property
    def open(self) -> int:
        return self.changes[-1][1]

    def peak(self, since: float = -math.inf, until: float = math.inf) -> int:
        """Return the most connections open at once in a span of time."""
        at_start = max((change for change in self.changes if change[0] <= since), default=(0.0, 0))
        within = [count for when, count in self.changes if since < when <= until]
        return max([at_start[1], *within])

    def least(self, since: float, until: float = math.inf) -> int:
        """Return the fewest connections open at once in a span of time."""
        at_start = max(change for change in self.changes if change[0] <= since)
        return min([at_start[1], *(n for when, n in self.changes if since < when <= until)])

    def longest_gap(self, since: float, until: float) -> float:
        """Return the most seconds without a message in a span of time."""
        times = [since, *(when for when in self.messages if since < when < until), until]
        return max(after - before for before, after in itertools.pairwise(times))

    def most_handshakes(self, seconds: float) -> int:
        """Return the most handshakes that arrived in any span of so many seconds."""
        times = [when for when, _ in self.handshakes]
        first = most = 0
        for last, when in enumerate(times):
            while when - times[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    def change(self, who: str, by: int) -> None:
        self.by_who[who] += by
        self.changes.append((time.monotonic(), self.open + by))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["CountingServer"]:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=2048)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for connection in list(self.connections):
                connection.transport.abort()
            while self.connections:
                await asyncio.sleep(0.001)


class _Connection(asyncio.Protocol):
    transport: Any

    def __init__(self, server: CountingServer) -> None:
        self._server = server
        self._received = b""
        self._who = ""
        self._is_open = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.connections.discard(self)
        if self._is_open:
            self._is_open = False
            self._server.change(self._who, -1)

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._received += data
        if not self._who:
            self._shake_hands()
        while self._is_open and self._read_frame():
            pass

    def _shake_hands(self) -> None:
        head, end, self._received = self._received.partition(b"\r\n\r\n")
        if not end:
            self._received = head
            return
        lines = head.split(b"\r\n")
        self._who = lines[0].split()[1].split(b"/")[1].decode()
        headers = dict(line.lower().split(b":", 1) for line in lines[1:])
        key = next(line for line in lines if line.lower().startswith(b"sec-websocket-key:"))
        assert headers[b"upgrade"].strip() == b"websocket"
        digest = hashlib.sha1(key.split(b":")[1].strip() + _GUID).digest()
        self._server.handshakes.append((time.monotonic(), self._who))
        # It counts from here on: the client may take it as open when it pleases.
        self._is_open = True
        self._server.change(self._who, 1)
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        asyncio.get_running_loop().call_later(self._server.delay, self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        self._write(answer)
        if self._server.heartbeat is not None:
            self._beat()

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def _beat(self) -> None:
        heartbeat = self._server.heartbeat
        assert heartbeat is not None
        if time.monotonic() - self._heard > heartbeat:
            self.transport.abort()
            return
        self._write(bytes([0x80 | _PING, 0]))
        self._timer = asyncio.get_running_loop().call_later(heartbeat / 3, self._beat)

    def _read_frame(self) -> bool:
        received = self._received
        if len(received) < 6:
            return False
        size = received[1] & 0x7F
        assert size < 126, "only short messages are understood here"
        if len(received) < 6 + size:
            return False
        self._received = received[6 + size :]
        mask = received[2:6]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(received[6 : 6 + size]))
        self._take(received[0] & 0x0F, payload)
        return True

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self._server.messages.append(time.monotonic())
            self._server.uses[self._who] += 1
            self._write(bytes([0x80 | _TEXT, len(payload)]) + payload)
        elif opcode == _PING:
            self._write(bytes([0x80 | _PONG, len(payload)]) + payload)
        elif opcode == _CLOSE:
            self._write(bytes([0x80 | _CLOSE, len(payload)]) + payload)
            self.transport.close()
