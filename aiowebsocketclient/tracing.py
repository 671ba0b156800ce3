"""Reports events of callers and connections to handlers, in the style of ``aiohttp.TraceConfig``.

A :class:`TraceConfig` has a signal for each kind of event.  Append ``async`` functions to it::

    trace = TraceConfig()


    @trace.on_connect_end.append
    async def connected(session, trace_config_ctx, params):
        print(f"connected to {params.endpoint} in {params.seconds:.3f} s")


    session = WebSocketClientSession(trace_configs=[trace])

Unlike in aiohttp, the caller does not run the handlers: most events happen where nothing may wait,
such as in a release.  Handlers run one after another, in the order of the events and soon after
them.  Each runs in the context (``contextvars``) of the code that caused the event, or in an empty
context if no code did: for example, when the server or ``max_idle`` ends an idle connection.  So a
slow or failing handler affects only other handlers; its exceptions are logged.  If 10,000 events
are pending, further events are dropped, and this is logged.

``WebSocketClientSession.close()`` lets handlers finish, within ``close_timeout``.  A handler may
call it, too, directly or in a task that it waits for: pending events are then reported after that
handler.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
from aiosignal import Signal

from ._aiohttp_private import get_running_loop
from ._compat import Slot, clock
from ._pool_py import CLOSE_REASONS
from .exceptions import status_of
from .hooks import is_being_cancelled
from .keys import EndpointKey
from .logs import is_debugging, log
from .outbox import Outbox

if TYPE_CHECKING:
    from .session import WebSocketClientSession

__all__ = (
    "TraceCloseParams",
    "TraceConfig",
    "TraceConnectEndParams",
    "TraceConnectExceptionParams",
    "TraceConnectStartParams",
    "TraceFleetLostParams",
    "TraceFleetPlacesChangedParams",
    "TraceFleetRestoredParams",
    "TraceQueuedEndParams",
    "TraceQueuedStartParams",
    "TraceReleaseParams",
    "TraceReuseParams",
    "Tracer",
    "trace_configs_of",
)

_Params = TypeVar("_Params")


@dataclass(frozen=True, slots=True)
class TraceQueuedStartParams:
    """A caller found no idle connection and waits, for a place or for a handshake."""

    #: Host, port and TLS.
    endpoint: EndpointKey
    #: Time of the event, in seconds since the epoch (``time.time()``).
    time: float


@dataclass(frozen=True, slots=True)
class TraceQueuedEndParams:
    """A caller stopped waiting, with or without a connection."""

    endpoint: EndpointKey
    time: float
    #: Seconds that the caller waited.
    seconds: float
    #: The exception that the caller got: ``PoolTimeoutError``, ``asyncio.CancelledError``, that of
    #: the handshake, ...; None: it got a connection.  Not in the ``repr``: it may contain secrets.
    exception: BaseException | None = field(repr=False)
    #: The HTTP status with which the server or a proxy refused the caller's handshake, or None.
    status: int | None = None


@dataclass(frozen=True, slots=True)
class TraceConnectStartParams:
    """A handshake begins: for a caller, for ``prewarm()`` or for ``set_min_idle()``."""

    endpoint: EndpointKey
    time: float


@dataclass(frozen=True, slots=True)
class TraceConnectEndParams:
    """A connection is open, and ``configure`` has run, if there is one."""

    endpoint: EndpointKey
    time: float
    #: Seconds since the start, including ``connect_limiter`` and ``configure``.
    seconds: float


@dataclass(frozen=True, slots=True)
class TraceConnectExceptionParams:
    """A handshake failed, or was stopped because no caller needed it any more."""

    endpoint: EndpointKey
    time: float
    #: Seconds since the start, including ``connect_limiter`` and ``configure``.
    seconds: float
    #: The exception of aiohttp, ``connect_limiter`` or ``configure``; ``asyncio.CancelledError`` if
    #: the handshake was stopped.  Not in the ``repr``: it may contain a query or headers.
    exception: BaseException = field(repr=False)
    #: The HTTP status with which the server or a proxy refused the handshake, or None.
    status: int | None = None


@dataclass(frozen=True, slots=True)
class TraceReuseParams:
    """A caller gets a connection that was used before."""

    endpoint: EndpointKey
    time: float


@dataclass(frozen=True, slots=True)
class TraceReleaseParams:
    """A use of a connection ended: it was released, closed or detached, or its handle was lost."""

    endpoint: EndpointKey
    time: float
    #: Seconds that the connection was in use.
    seconds: float


@dataclass(frozen=True, slots=True)
class TraceCloseParams:
    """The socket of a connection is closed."""

    endpoint: EndpointKey
    time: float
    #: The reason, as counted in :class:`PoolStats`: ``"idle"`` (for ``closed_idle``),
    #: ``"lifetime"``, ``"lost"``, ``"dirty"``, ``"evicted"``, ``"forced"``, ``"failed"``,
    #: ``"cancelled"`` or ``"user"``.
    reason: str
    #: Seconds since the handshake began.
    seconds: float
    #: The code of the server's CLOSE, which may be the answer to the client's CLOSE (1005: a CLOSE
    #: without a code); None: the server sent no CLOSE.
    close_code: int | None = None
    #: The reason in the server's CLOSE, as printable text.  Not in the ``repr``: it is untrusted.
    close_reason: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TraceFleetPlacesChangedParams:
    """The fleet lets the session have more or fewer connections."""

    #: Time of the event, in seconds since the epoch (``time.time()``).
    time: float
    #: Places before, and now.
    before: int
    places: int


@dataclass(frozen=True, slots=True)
class TraceFleetLostParams:
    """The fleet was not reached for a lease: nothing more may be opened."""

    time: float
    #: Connections that are open.
    held: int


@dataclass(frozen=True, slots=True)
class TraceFleetRestoredParams:
    """The fleet answers again."""

    time: float
    #: Seconds since the lease was lost.
    seconds: float


if TYPE_CHECKING:
    _Signal = Signal[WebSocketClientSession, Any, _Params]


class TraceConfig:
    """Handlers for the events of a session's pool.

    Each attribute ``on_...`` is an ``aiosignal.Signal``, a list of ``async`` functions.  Append
    handlers before you create the session, which freezes the lists.  A handler gets the session,
    the ``trace_config_ctx`` and the parameters of the event.

    :param trace_config_ctx_factory: creates a ``trace_config_ctx``, an object for data of the
        handlers.  Each wait has one, from ``on_queued_start`` to ``on_queued_end``, and each
        connection has one, from ``on_connect_start`` to ``on_connect_exception`` or ``on_close``.
    """

    def __init__(self, trace_config_ctx_factory: Callable[[], Any] = SimpleNamespace) -> None:
        self.trace_config_ctx = trace_config_ctx_factory
        #: A caller waits: :class:`TraceQueuedStartParams`.
        self.on_queued_start: _Signal[TraceQueuedStartParams] = Signal(self)
        #: The caller stops waiting: :class:`TraceQueuedEndParams`.
        self.on_queued_end: _Signal[TraceQueuedEndParams] = Signal(self)
        #: A handshake begins: :class:`TraceConnectStartParams`.
        self.on_connect_start: _Signal[TraceConnectStartParams] = Signal(self)
        #: The handshake succeeded: :class:`TraceConnectEndParams`.
        self.on_connect_end: _Signal[TraceConnectEndParams] = Signal(self)
        #: The handshake failed: :class:`TraceConnectExceptionParams`.
        self.on_connect_exception: _Signal[TraceConnectExceptionParams] = Signal(self)
        #: A caller gets a connection used before: :class:`TraceReuseParams`.
        self.on_reuse: _Signal[TraceReuseParams] = Signal(self)
        #: A use of a connection ended: :class:`TraceReleaseParams`.
        self.on_release: _Signal[TraceReleaseParams] = Signal(self)
        #: A connection is closed: :class:`TraceCloseParams`.
        self.on_close: _Signal[TraceCloseParams] = Signal(self)
        #: The fleet changes the number of places: :class:`TraceFleetPlacesChangedParams`.
        self.on_fleet_places_changed: _Signal[TraceFleetPlacesChangedParams] = Signal(self)
        #: The lease is lost: :class:`TraceFleetLostParams`.
        self.on_fleet_lost: _Signal[TraceFleetLostParams] = Signal(self)
        #: The fleet answers again: :class:`TraceFleetRestoredParams`.
        self.on_fleet_restored: _Signal[TraceFleetRestoredParams] = Signal(self)

    def freeze(self) -> None:
        """Make the lists of handlers immutable."""
        for name in _SIGNALS:
            getattr(self, name).freeze()

    def __repr__(self) -> str:
        """Return the events with handlers; the functions may be bound to secrets."""
        names = [name for name in _SIGNALS if getattr(self, name)]
        return f"<{type(self).__name__}({', '.join(names)})>"


# The names of the events, in the order of a connection's life.
_SIGNALS: Final = (
    "on_queued_start",
    "on_queued_end",
    "on_connect_start",
    "on_connect_end",
    "on_connect_exception",
    "on_reuse",
    "on_release",
    "on_close",
    "on_fleet_places_changed",
    "on_fleet_lost",
    "on_fleet_restored",
)


def trace_configs_of(value: Any) -> tuple[TraceConfig, ...]:
    """Return the trace configs of a session as a tuple."""
    if isinstance(value, str | TraceConfig) or not isinstance(value, Iterable | None):
        raise TypeError(
            "trace_configs must be an iterable of TraceConfig, such as [trace_config], not"
            f" {type(value).__name__}"
        )
    configs = tuple(value or ())
    for config in configs:
        if isinstance(config, aiohttp.TraceConfig):
            raise TypeError(
                "trace_configs must contain aiowebsocketclient.TraceConfig objects: pass an"
                " aiohttp.TraceConfig to client_session=aiohttp.ClientSession(trace_configs=...)"
            )
        if not isinstance(config, TraceConfig):
            raise TypeError(
                "trace_configs must contain aiowebsocketclient.TraceConfig objects,"
                f" not {type(config).__name__}"
            )
    return configs


class Trace:
    """A wait or a connection, with several events."""

    __slots__ = ("_contexts", "began", "bookmark", "caller", "endpoint", "time", "used_since")

    def __init__(self, endpoint: EndpointKey, caller: Context | None = None) -> None:
        self.endpoint = endpoint
        self.began = clock()
        self.time = time.time()
        #: Its place among the pending events when it began.
        self.bookmark = 0
        #: The context of the caller that needs the handshake.
        self.caller = caller
        #: When the current use began; None: not in use.
        self.used_since: float | None = None
        #: By the identity of the trace config, which may have no hash.
        self._contexts: dict[int, Any] = {}

    def context_of(self, config: TraceConfig) -> Any:
        """Return the context object of ``config``, created at the first use by a handler."""
        if id(config) not in self._contexts:
            self._contexts[id(config)] = config.trace_config_ctx()
        return self._contexts[id(config)]


class Tracer:
    """Reports the events of a session to its trace configs."""

    def __init__(self, session: "WebSocketClientSession", configs: tuple[TraceConfig, ...]) -> None:
        # Weak: pending events must not keep a dropped session alive.
        self._session = weakref.ref(session)
        self._session_name = session.name
        self._configs = configs
        for config in configs:
            config.freeze()
        self._listened = {name for name in _SIGNALS if any(getattr(c, name) for c in configs)}
        self.outbox = Outbox(session.name)
        self._connections: dict[Slot, Trace] = {}
        # Its events belong to no endpoint; their handlers share a trace_config_ctx.
        no_endpoint: Any = None
        self._fleet = Trace(no_endpoint)

    # -- waits -----------------------------------------------------------------------------------

    def waiting(self, endpoint: EndpointKey) -> Trace:
        """Return the trace of a caller that may have to wait, without an event yet."""
        trace = Trace(endpoint)
        trace.bookmark = self.outbox.bookmark()
        return trace

    def queued_start(self, trace: Trace) -> None:
        """Record that the caller waits, before all events since then."""
        params = TraceQueuedStartParams(trace.endpoint, trace.time)
        self._emit(trace, "on_queued_start", params, bookmark=trace.bookmark)

    def queued_end(self, trace: Trace, exception: BaseException | None = None) -> None:
        """Record that the caller stopped waiting."""
        seconds = clock() - trace.began
        status = None if exception is None else status_of(exception)
        params = TraceQueuedEndParams(trace.endpoint, time.time(), seconds, exception, status)
        self._emit(trace, "on_queued_end", params)

    # -- connections -----------------------------------------------------------------------------

    def connect_start(self, slot: Slot, caller: Context) -> None:
        """Record that a handshake begins."""
        endpoint: Any = slot.endpoint
        trace = self._connections[slot] = Trace(endpoint, caller)
        params = TraceConnectStartParams(endpoint, trace.time)
        self._emit(trace, "on_connect_start", params, caller)

    def connected(self, slot: Slot, exception: BaseException | None) -> None:
        """Record that the handshake succeeded, or failed with an exception."""
        trace = self._connections[slot]
        caller, trace.caller = trace.caller, None
        now, seconds = time.time(), clock() - trace.began
        if exception is None:
            ended = TraceConnectEndParams(trace.endpoint, now, seconds)
            self._emit(trace, "on_connect_end", ended, caller)
            return
        del self._connections[slot]
        status = status_of(exception)
        failed = TraceConnectExceptionParams(trace.endpoint, now, seconds, exception, status)
        self._emit(trace, "on_connect_exception", failed, caller)

    def acquired(self, slot: Slot, is_reused: bool) -> None:
        """Record that a caller got the connection."""
        trace = self._connections[slot]
        trace.used_since = clock()
        if is_reused:
            self._emit(trace, "on_reuse", TraceReuseParams(trace.endpoint, time.time()))

    def released(self, slot: Slot) -> None:
        """Record that the use ended; repeated calls change nothing."""
        trace = self._connections.get(slot)
        if trace is None or trace.used_since is None:
            return
        seconds = clock() - trace.used_since
        trace.used_since = None
        params = TraceReleaseParams(trace.endpoint, time.time(), seconds)
        self._emit(trace, "on_release", params)

    def closed(self, slot: Slot, close: tuple[int, str] | None = None) -> None:
        """Record that the socket is closed; ``close`` has code and reason of the server's CLOSE."""
        self.released(slot)
        trace = self._connections.pop(slot, None)
        if trace is None:
            # Its handshake was stopped.
            return
        seconds = clock() - trace.began
        reason = CLOSE_REASONS[slot.reason]
        code, said = (None, "") if close is None else close
        params = TraceCloseParams(trace.endpoint, time.time(), reason, seconds, code, said)
        self._emit(trace, "on_close", params)

    def detached(self, slot: Slot) -> None:
        """Record that the connection was detached."""
        del self._connections[slot]

    # -- the fleet -------------------------------------------------------------------------------

    def fleet_places_changed(self, before: int, places: int) -> None:
        """Record that the fleet lets the session have another number of connections."""
        params = TraceFleetPlacesChangedParams(time.time(), before, places)
        self._emit(self._fleet, "on_fleet_places_changed", params, Context())

    def fleet_lost(self, held: int) -> None:
        """Record that the lease is lost, with so many connections open."""
        self._emit(self._fleet, "on_fleet_lost", TraceFleetLostParams(time.time(), held), Context())

    def fleet_restored(self, seconds: float) -> None:
        """Record that the fleet answers again, so long after the loss."""
        params = TraceFleetRestoredParams(time.time(), seconds)
        self._emit(self._fleet, "on_fleet_restored", params, Context())

    # -- reporting -------------------------------------------------------------------------------

    def fall_silent(self) -> None:
        """Report nothing more, in a forked child: there is no loop that may be asked."""
        self._listened.clear()

    def _emit(
        self,
        trace: Trace,
        name: str,
        params: Any,
        context: Context | None = None,
        bookmark: int | None = None,
    ) -> None:
        if name not in self._listened:
            return
        running = get_running_loop()
        if running is None:
            # The garbage collector closes a coroutine after the end of its loop.
            return
        report = partial(self._report, trace, name, params)
        context = copy_context() if context is None else context
        self.outbox.put(report, context, running, bookmark)

    async def _report(self, trace: Trace, name: str, params: Any) -> None:
        session = self._session()
        if session is None:
            return
        for config in self._configs:
            signal: Signal[Any, Any, Any] = getattr(config, name)
            try:
                if signal:
                    await signal.send(session, trace.context_of(config), params)
            except (Exception, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and is_being_cancelled():
                    raise
                # It may be the exception of the event, whose text may contain secrets.
                shown = exc if is_debugging() else None
                log(
                    "trace_failed",
                    shown,
                    session_name=self._session_name,
                    signal=name,
                    error=type(exc).__name__,
                )
