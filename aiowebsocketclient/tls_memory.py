"""Keeps TLS connections of asyncio's own loops small.

asyncio gives each TLS connection a read buffer of 256 KiB, which it fills with zeros.  The two
memory BIOs between asyncio and OpenSSL keep the size that they once had: a message of 1 MB leaves
up to 1.4 MB behind.  No method makes a BIO smaller, so :func:`shrink` bounds what a BIO holds:

* All connections of a loop share one read buffer.  The transport of a selector loop fills the
  buffer and passes it on in the same callback, and the protocol copies or decrypts all of it before
  other code runs.
* Large reads go to OpenSSL piece by piece, and each piece is decrypted at once.
* Large messages are encrypted piece by piece.  While the transport is full, the rest waits as it
  is, and counts as unsent.

``_aiohttp_private.py`` lists the private names of asyncio that this module uses.  On other loops,
and on versions of Python whose ``sslproto.py`` is not known, nothing changes.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from ._aiohttp_private import TLS_ESTABLISHED, TLS_PROTOCOL, has_known_tls

__all__ = ("PIECE", "shrink")

#: Bytes to pass to OpenSSL at once: a TLS record of the largest size, and a small record. OpenSSL
#: reports the lack of a part of a record by an exception, which takes as long as to decrypt some
#: kilobytes.
PIECE: Final = (1 << 14) + 128

# The plaintext of a TLS record has at most 16 KiB.
_LARGEST_RECORD: Final = 1 << 14
# Bytes to encrypt at once: a record, and the header of a frame.
_AT_ONCE: Final = _LARGEST_RECORD + 16
# Bytes to pass to the transport at once.
_BATCH: Final = 1 << 16

# Bytes to receive at once. From 128 KiB on, malloc may map new pages for what is decrypted.
_BUFFER: Final = 124 << 10

# Three quarters of a piece.
_ROOM: Final = bytes(PIECE * 3 // 4)

# A TLS record begins with its kind (RFC 8446, 5.1), its version (two bytes), and its length (two).
_HEADER: Final = 5
_KINDS: Final = range(20, 25)
_VERSION: Final = 3

# Read buffers, shared by the connections of a loop.
_buffers: Final["WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview]"] = WeakKeyDictionary()


def shrink(transport: Any, loop: asyncio.AbstractEventLoop) -> bool:
    """Make a connection small that has just done its TLS handshake.

    Returns whether that was possible.  Must not be called while data is received: between
    ``get_buffer()`` and ``buffer_updated()`` of asyncio's protocol.
    """
    if not has_known_tls(transport):
        return False
    protocol = transport._ssl_protocol
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(_BUFFER))
    protocol._ssl_buffer = protocol._ssl_buffer_view = buffer
    protocol.__class__ = _SmallProtocol
    return True


def _make_room(bio: ssl.MemoryBIO) -> bool:
    """Let a BIO grow to a piece, and no more: OpenSSL adds a third to what is asked for.

    Returns False if the BIO is in use.
    """
    if bio.pending:
        return False
    bio.write(_ROOM)
    bio.read()
    return True


def _size_of_record(header: bytes) -> int:
    return _HEADER + int.from_bytes(header[3:_HEADER])


class _SmallProtocol(TLS_PROTOCOL):  # type: ignore[misc]
    """asyncio's protocol of an established TLS connection, which keeps its BIOs small."""

    # From now on, only the size of a read from OpenSSL, which returns no more than a record. Python
    # allocates that size before. The shared buffer is larger, and asyncio passes it on as it is.
    max_size = _LARGEST_RECORD

    # Bytes missing of the record in which the last large read ended, and the part of its header
    # that had arrived.
    _record_left = 0
    _record_header = b""
    # Whether the BIOs have grown to a piece.
    _has_room_to_receive = False
    _has_room_to_send = False

    # -- receiving -------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the transport has received."""
        if nbytes > len(_ROOM) and not self._has_room_to_receive:
            self._has_room_to_receive = _make_room(self._incoming)
        if nbytes <= PIECE or not self._can_decrypt():
            if self._record_left or self._record_header:
                # Small reads almost always end with a record. After others, the next large read
                # does not find the ends of records, and takes longer.
                self._record_left, self._record_header = 0, b""
            super().buffer_updated(nbytes)
            return
        decrypted: list[bytes] = []
        try:
            self._decrypt(self._ssl_buffer_view[:nbytes], decrypted)
            if decrypted:
                self._app_protocol.data_received(b"".join(decrypted))
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")
        else:
            # Finds the end of TLS, and sends what OpenSSL has to answer.
            self._do_read()

    def _can_decrypt(self) -> bool:
        return self._state is TLS_ESTABLISHED and not (
            self._app_reading_paused or self._app_protocol_is_buffer
        )

    def _decrypt(self, data: memoryview, decrypted: list[bytes]) -> None:
        bio, read = self._incoming, self._sslobj.read
        at, size = 0, len(data)
        ends = self._ends_of_records(data)
        while at < size:
            end = ends.pop() if ends else size
            # Small records go together.
            while ends and ends[-1] - at <= PIECE:
                end = ends.pop()
            while at < end:
                until = min(at + PIECE, end)
                bio.write(data[at:until])
                at = until
                try:
                    while chunk := read(_LARGEST_RECORD):
                        decrypted.append(chunk)
                        if not bio.pending:
                            break
                    else:
                        # The end of TLS, which the next read finds again.
                        return
                except ssl.SSLWantReadError:
                    pass

    def _ends_of_records(self, data: memoryview) -> list[int]:
        """Return where records end in received data, the last first, as far as that is known."""
        size, at = len(data), self._record_left
        ends = [at] if 0 < at < size else []
        if self._record_header:
            header = self._record_header + data[: _HEADER - len(self._record_header)]
            at = _size_of_record(header) - len(self._record_header)
            self._record_header = b""
            ends.append(at)
        while at + _HEADER <= size:
            if data[at] not in _KINDS or data[at + 1] != _VERSION:
                # Not a header, because the start of a record was not known.
                at = size
                break
            at += _HEADER + (data[at + 3] << 8 | data[at + 4])
            ends.append(at)
        self._record_left = max(0, at - size)
        if at < size:
            self._record_header = bytes(data[at:])
        while ends and ends[-1] >= size:
            ends.pop()
        ends.reverse()
        return ends

    def _pause_reading(self) -> None:
        # asyncio's would let the BIO grow up to 256 KiB first.
        super()._pause_reading()
        if not self._ssl_reading_paused:
            self._ssl_reading_paused: bool = True
            self._transport.pause_reading()

    def _control_ssl_reading(self) -> None:
        if not self._app_reading_paused:
            super()._control_ssl_reading()

    # -- sending ---------------------------------------------------------------------------------

    def _do_write(self) -> None:
        """Encrypt and send what is to be sent, as far as the transport takes it."""
        if self._state is not TLS_ESTABLISHED:
            # The end of TLS comes after everything.
            super()._do_write()
            return
        backlog, write, transport = self._write_backlog, self._sslobj.write, self._transport
        try:
            # asyncio logs repeated writes to a socket that has failed.
            while backlog and not (self._ssl_writing_paused or transport.is_closing()):
                data = backlog[0]
                if self._outgoing.pending + len(data) > _AT_ONCE:
                    self._send(self._outgoing.read())
                if len(data) > len(_ROOM) and not self._has_room_to_send:
                    self._has_room_to_send = _make_room(self._outgoing)
                if len(data) <= _AT_ONCE:
                    count = write(data)
                else:
                    data = backlog[0] = memoryview(data)
                    count = self._encrypt_batch(data, write)
                self._write_buffer_size -= count
                if count == len(data):
                    del backlog[0]
                else:
                    backlog[0] = data[count:]
        except ssl.SSLWantReadError:
            # The server wants a handshake first.
            pass
        self._process_outgoing()

    def _encrypt_batch(self, data: memoryview, write: Callable[[memoryview], int]) -> int:
        """Encrypt and send a part of a large message; return its size."""
        encrypted: list[bytes] = []
        # The end of a message goes with what is before it.
        at, end = 0, len(data) if len(data) <= _BATCH + _LARGEST_RECORD else _BATCH
        try:
            while at < end:
                at += write(data[at : at + _LARGEST_RECORD])
                encrypted.append(self._outgoing.read())
        except ssl.SSLWantReadError:
            if not at:
                raise
        self._send(b"".join(encrypted))
        return at

    def _send(self, encrypted: bytes) -> None:
        if encrypted:
            self._transport.write(encrypted)

    def resume_writing(self) -> None:
        """Go on with what waits for the transport."""
        super().resume_writing()
        try:
            if self._write_backlog and self._state is TLS_ESTABLISHED:
                self._do_write()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    def _do_flush(self) -> None:
        # The closing handshake would send its last record before what waits for the transport.
        if self._write_backlog:
            super()._do_write()
        super()._do_flush()
