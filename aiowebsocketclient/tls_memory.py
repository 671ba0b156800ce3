"""Keeps TLS connections of asyncio's own loops small.

asyncio gives each TLS connection a read buffer of 256 KiB, which it fills with zeros, and two
memory BIOs, which OpenSSL reads from and writes to.  A BIO keeps the size that it once had: a
message of 1 MB leaves up to 1.4 MB behind.  No method makes a BIO smaller, or replaces it.

Here, all TLS connections of a loop use the same buffers in turn (:class:`_Workspace`).  This is
possible because the buffers contain data only during an operation: asyncio's protocol writes what
it has received to a BIO, and has OpenSSL decrypt all of it; or it has OpenSSL encrypt data, and
reads the result from a BIO.  So an operation takes as long as asyncio's.

OpenSSL gets its BIOs before the handshake, and asyncio's protocol is known only afterwards.  So two
functions are needed:

* :func:`sharing` returns a context whose connections use the BIOs of the workspace.  asyncio's
  protocol does not notice: each operation copies from and to the protocol's own BIOs.
* :func:`shrink` takes away the read buffer after the handshake, and makes the protocol use the
  workspace directly.

``_aiohttp_private.py`` lists the private names of asyncio that this module uses.  On other loops,
and on versions of Python whose ``sslproto.py`` is not known, nothing changes.  Nor does anything if
``AIOWEBSOCKETCLIENT_NO_TLS_MEMORY`` is set and not empty.
"""

import asyncio
import contextlib
import os
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock
from typing import Any, Final, Self, TypeVar
from weakref import WeakKeyDictionary, ref

from ._aiohttp_private import (
    TLS_ESTABLISHED,
    TLS_PROTOCOL,
    get_running_loop,
    has_known_tls,
    makes_known_tls,
)

__all__ = ("sharing", "shrink")

_T = TypeVar("_T")

_IS_OFF: Final = bool(os.environ.get("AIOWEBSOCKETCLIENT_NO_TLS_MEMORY"))

# Bytes to receive at once, as in asyncio.
_BUFFER: Final = 256 << 10
# The plaintext of a TLS record has at most 16 KiB. OpenSSL decrypts no more at once.
_RECORD: Final = 1 << 14
# Bytes to give to OpenSSL at once before shrink(): a record, and what encryption adds.
_PIECE: Final = _RECORD + 128
_NOTHING: Final = memoryview(b"")
# Bytes to encrypt, and to pass to the transport at once.
_BATCH: Final = 1 << 16
# The end of a message goes with what is before it.
_LARGEST_BATCH: Final = _BATCH + _RECORD

# OpenSSL needs more data; as in asyncio.
_AGAIN: Final = (ssl.SSLWantReadError, ssl.SSLSyscallError)

# When OpenSSL before 3.2 receives a session ticket, it allocates 16 KiB for writing, and keeps them
# until the next write.
_IS_OPENSSL: Final = ssl.OPENSSL_VERSION.startswith("OpenSSL ")
_KEEPS_MEMORY_TO_WRITE: Final = _IS_OPENSSL and ssl.OPENSSL_VERSION_INFO < (3, 2)


class _Workspace:
    """The buffers that all TLS connections of a loop use in turn.

    An operation holds ``lock``, sets ``user`` to its connection, and leaves the BIOs empty.

    A finalizer can run at any moment, and in any thread, and may close another connection.  So an
    operation that finds ``user`` set has interrupted another operation of the same thread.  Then it
    first takes away what the BIOs contain, and finally writes it back.
    """

    __slots__ = ("buffer", "incoming", "lock", "outgoing", "user")

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_BUFFER))
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.lock = RLock()
        self.user: _SharingObject | None = None


_workspaces: Final["WeakKeyDictionary[asyncio.AbstractEventLoop, _Workspace]"] = WeakKeyDictionary()

# Sharing contexts by the id() of the contexts of users. A subclass may define its own equality, or
# have no hash.
_contexts: Final[dict[int, "_SharingContext"]] = {}


def sharing(context: Any) -> Any:
    """Return a context like ``context``, whose connections share the buffers of the running loop.

    The caller must keep ``context`` until the connection is open.  Returns ``context`` itself where
    sharing is not possible.
    """
    if _IS_OFF or not makes_known_tls(get_running_loop()):
        return context
    if not isinstance(context, ssl.SSLContext) or isinstance(context, _SharingContext):
        return context
    # Somebody may replace ssl.SSLContext, and asyncio checks the class.
    if not issubclass(_SharingContext, ssl.SSLContext):
        return context
    found = _contexts.get(id(context))
    if found is None:
        found = _contexts[id(context)] = _SharingContext(context)
    return found


def shrink(transport: Any) -> bool:
    """Make a connection small that has just done its TLS handshake.

    Returns whether that was possible: only with a context from :func:`sharing`.  Must not be called
    while data is received: between ``get_buffer()`` and ``buffer_updated()`` of asyncio's protocol.
    """
    _restore_context(transport)
    if not has_known_tls(transport):
        return False
    protocol = transport._ssl_protocol
    sslobj = protocol._sslobj
    if not isinstance(sslobj, _SharingObject):
        return False
    protocol._ssl_buffer = protocol._ssl_buffer_view = sslobj.workspace.buffer
    # Those that the handshake has used are larger.
    if not protocol._incoming.pending:
        protocol._incoming = sslobj.incoming = ssl.MemoryBIO()
    if not protocol._outgoing.pending:
        protocol._outgoing = sslobj.outgoing = ssl.MemoryBIO()
    if _KEEPS_MEMORY_TO_WRITE:
        # Sends nothing. A connection that has just failed ends by itself.
        with contextlib.suppress(ssl.SSLError):
            sslobj.write(b"")
    protocol.__class__ = _SmallProtocol
    # The protocol above may already pause.
    protocol._control_ssl_reading()
    return True


def _restore_context(transport: Any) -> None:
    """Let a connection show the context of the user."""
    protocol = getattr(transport, "_ssl_protocol", None)
    stand_in = getattr(protocol, "_sslcontext", None)
    if protocol is None or not isinstance(stand_in, _SharingContext):
        return
    context = stand_in.context()
    if context is None:
        # The connector has made it for this connection.
        context = protocol._sslobj.context
    protocol._sslcontext = protocol._extra["sslcontext"] = context


# -- before and during the handshake ---------------------------------------------------------------


class _SharingContext(ssl.SSLContext):
    """Stands in for a user's context when asyncio opens a connection."""

    #: The user's context.  Weakly: this context lives as long as the other.
    context: "ref[ssl.SSLContext]"

    def __new__(cls, context: ssl.SSLContext) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self.context = ref(context, partial(_forget_context, id(context)))
        return self

    def __init__(self, context: ssl.SSLContext) -> None:
        # ssl.SSLContext may have been replaced by a class whose __init__() takes a protocol.
        pass

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any
    ) -> ssl.SSLObject:
        """Return a connection of the user's context."""
        context = self.context()
        assert context is not None
        loop = get_running_loop()
        if loop is None or not makes_known_tls(loop):
            return context.wrap_bio(incoming, outgoing, *args, **options)
        workspace = _workspaces.get(loop)
        if workspace is None:
            workspace = _workspaces[loop] = _Workspace()
        made: Any = context.wrap_bio(workspace.incoming, workspace.outgoing, *args, **options)
        try:
            kind: type[ssl.SSLObject] = type(made)
            made.__class__ = _sharing_kind(kind)
        except TypeError:
            # A class of the user's, which may do more.
            return context.wrap_bio(incoming, outgoing, *args, **options)
        made.workspace, made.rest = workspace, _NOTHING
        made.incoming, made.outgoing = incoming, outgoing
        if made.context is not context:
            # OpenSSL's connection does not keep it.
            made.given = context
        sslobj: ssl.SSLObject = made
        return sslobj


def _forget_context(key: int, _: object) -> None:
    _contexts.pop(key, None)


class _SharingObject(ssl.SSLObject):
    """A TLS connection on the BIOs of a workspace.

    The other side of both BIOs are the BIOs of asyncio's protocol, ``incoming`` and ``outgoing``.
    """

    workspace: _Workspace
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    # What was read from ``incoming``, and not by OpenSSL.
    rest: memoryview
    #: A context that has had another one make this connection.
    given: ssl.SSLContext

    def do_handshake(self) -> None:
        """Begin or continue the handshake."""
        self._run(super().do_handshake)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        """Decrypt at most ``len`` bytes."""
        return self._run(super().read, len, buffer)

    def write(self, data: Any) -> int:
        """Encrypt data."""
        return self._run(super().write, data)

    def unwrap(self) -> None:
        """Begin or continue the end of TLS."""
        self._run(super().unwrap)

    def _left(self) -> int:
        return len(self.rest) + self.incoming.pending

    def _run(self, operation: Callable[..., _T], *args: Any) -> _T:
        while True:
            before = self._left()
            try:
                return self._run_on_piece(operation, *args)
            except _AGAIN:
                # If OpenSSL has taken a piece and needs more, it gets the next piece.
                if self._left() in (0, before):
                    raise

    def _run_on_piece(self, operation: Callable[..., _T], *args: Any) -> _T:
        workspace = self.workspace
        incoming, outgoing = workspace.incoming, workspace.outgoing
        with workspace.lock:
            user, workspace.user = workspace.user, self
            interrupted = None if user is None else (incoming.read(), outgoing.read())
            given = 0
            try:
                if not self.rest and self.incoming.pending:
                    self.rest = memoryview(self.incoming.read())
                if self.rest:
                    given = incoming.write(self.rest[:_PIECE])
                return operation(*args)
            finally:
                if given:
                    self.rest = self.rest[given - incoming.pending :] or _NOTHING
                    incoming.read()
                if outgoing.pending:
                    self.outgoing.write(outgoing.read())
                if interrupted is not None:
                    incoming.write(interrupted[0])
                    outgoing.write(interrupted[1])
                workspace.user = user


def _sharing_kind(kind: type[ssl.SSLObject]) -> type[_SharingObject]:
    """Return a subclass of a class of TLS connections that shares buffers."""
    if kind is ssl.SSLObject:
        return _SharingObject
    if (kind.read, kind.write) != (ssl.SSLObject.read, ssl.SSLObject.write):
        raise TypeError
    # A cache would keep it: some contexts have a class of their own.
    for found in kind.__subclasses__():
        if found.__bases__ == (_SharingObject, kind):
            return found  # type: ignore[return-value]
    return type(kind.__name__, (_SharingObject, kind), {"__module__": kind.__module__})


# -- after the handshake ---------------------------------------------------------------------------


class _SmallProtocol(TLS_PROTOCOL):  # type: ignore[misc]
    """asyncio's protocol of an established TLS connection, which uses a workspace.

    Its own BIOs are only for what arrives while nothing may be decrypted, for answers of OpenSSL to
    the server, and for the end of TLS.
    """

    # From now on, only the size of a read from OpenSSL. Python allocates that size before. The
    # shared buffer is larger, and asyncio passes it on as it is.
    max_size = _RECORD

    # Whether the protocol above is taking data.
    _is_delivering = False

    # How much of what is to be sent has come while the transport was full. asyncio passes all that
    # comes before at once to the transport, which takes any amount, and counts only the rest.
    _late_size = 0

    # -- receiving -------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the transport has received."""
        sslobj = self._sslobj
        if (
            self._state is not TLS_ESTABLISHED
            or self._app_reading_paused
            or self._app_protocol_is_buffer
            or sslobj.workspace.user is not None
            or sslobj.rest
            or self._incoming.pending
        ):
            super().buffer_updated(nbytes)
            return
        decrypted: list[bytes] = []
        try:
            is_open = self._decrypt(sslobj, nbytes, decrypted)
            if decrypted:
                self._deliver(decrypted[0] if len(decrypted) == 1 else b"".join(decrypted))
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")
            return
        if not is_open:
            # Finds the end of TLS again.
            self._do_read()
        elif self._write_backlog:
            self._do_write()
        elif self._outgoing.pending:
            self._process_outgoing()

    def _decrypt(self, sslobj: _SharingObject, nbytes: int, decrypted: list[bytes]) -> bool:
        """Decrypt all records that are complete; return False at the end of TLS."""
        workspace, read = sslobj.workspace, sslobj._sslobj.read  # type: ignore[attr-defined]
        incoming = workspace.incoming
        with workspace.lock:
            workspace.user = sslobj
            try:
                incoming.write(workspace.buffer[:nbytes])
                while chunk := read(_RECORD):
                    decrypted.append(chunk)
                    # OpenSSL takes whole records from the BIO. It reports the lack of a record by
                    # an exception, which takes as long as to decrypt some kilobytes.
                    if not incoming.pending:
                        break
                else:
                    return False
            except _AGAIN:
                # OpenSSL has taken the part of a record.
                pass
            finally:
                if incoming.pending:
                    # After the end of TLS, or an error.
                    self._incoming.write(incoming.read())
                if workspace.outgoing.pending:
                    self._outgoing.write(workspace.outgoing.read())
                workspace.user = None
        return True

    def _deliver(self, data: bytes) -> None:
        self._is_delivering = True
        try:
            self._app_protocol.data_received(data)
        finally:
            self._is_delivering = False
        if self._app_reading_paused and not self._ssl_reading_paused:
            # Before the transport reads again. By then, the data may have been taken.
            self._loop.call_soon(self._pause_socket)

    def _pause_reading(self) -> None:
        # asyncio's would receive up to 256 KiB more.
        super()._pause_reading()
        if not self._is_delivering:
            self._pause_socket()

    def _pause_socket(self) -> None:
        if self._may_pause_socket() and not self._ssl_reading_paused:
            self._ssl_reading_paused: bool = True
            self._transport.pause_reading()

    def _control_ssl_reading(self) -> None:
        self._pause_socket()
        if self._ssl_reading_paused and not self._may_pause_socket() and self._transport:
            self._ssl_reading_paused = False
            self._transport.resume_reading()

    def _may_pause_socket(self) -> bool:
        # The end of TLS has an answer, which does not concern the protocol above.
        is_paused: bool = self._app_reading_paused
        return is_paused and self._state is TLS_ESTABLISHED

    # -- sending ---------------------------------------------------------------------------------

    def _write_appdata(self, list_of_data: Iterable[Any]) -> None:
        if self._state is not TLS_ESTABLISHED:
            super()._write_appdata(list_of_data)
            return
        try:
            for data in list_of_data:
                if type(data) is memoryview:
                    # Its items may be larger than a byte.
                    data = data.cast("B")
                size = len(data)
                self._write_backlog.append(data)
                self._write_buffer_size += size
                if self._ssl_writing_paused:
                    self._late_size += size
            self._do_write()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    def _do_write(self) -> None:
        """Encrypt and send what is to be sent, as far as the transport takes it."""
        sslobj = self._sslobj
        user = sslobj.workspace.user
        if self._state is not TLS_ESTABLISHED or user is not None:
            # The end of TLS comes after everything. A finalizer may write at any moment, but must
            # not overtake what its own connection is writing.
            if user is not sslobj:
                super()._do_write()
            return
        backlog, transport = self._write_backlog, self._transport
        if self._outgoing.pending:
            self._process_outgoing()
        try:
            # asyncio logs repeated writes to a socket that has failed.
            while backlog and not (self._ssl_writing_paused or transport.is_closing()):
                transport.write(self._encrypt(sslobj, backlog))
                if self._late_size >= self._write_buffer_size:
                    # The transport has taken all that came before.
                    self._late_size = 0
        except _AGAIN:
            # The server wants a handshake first.
            self._late_size = self._write_buffer_size
            self._process_outgoing()
        else:
            self._control_app_writing()

    def _encrypt(self, sslobj: _SharingObject, backlog: deque[Any]) -> bytes:
        """Encrypt as much as the transport gets at once."""
        workspace, write = sslobj.workspace, sslobj._sslobj.write  # type: ignore[attr-defined]
        left = _LARGEST_BATCH
        with workspace.lock:
            workspace.user = sslobj
            try:
                while backlog and left > _RECORD:
                    data = backlog[0]
                    is_short = len(data) <= left
                    size = write(data if is_short else memoryview(data)[: left - _RECORD])
                    if size == len(data):
                        del backlog[0]
                    else:
                        backlog[0] = memoryview(data)[size:]
                    self._write_buffer_size -= size
                    left -= size
                return workspace.outgoing.read()
            except BaseException:
                # An alert, or a part of a handshake.
                self._outgoing.write(workspace.outgoing.read())
                raise
            finally:
                workspace.user = None

    def _get_write_buffer_size(self) -> int:
        size: int = min(self._late_size, self._write_buffer_size) + self._outgoing.pending
        return size

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
