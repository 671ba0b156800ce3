"""Tells those who ask what happens to callers and connections, after ``aiohttp.TraceConfig``.

A :class:`TraceConfig` has a signal for each kind of event, to which ``async`` functions are added::

    trace = TraceConfig()


    @trace.on_connect_end.append
    async def connected(session, trace_config_ctx, params):
        print(f"connected to {params.endpoint} in {params.seconds:.3f} s")


    session = WebSocketClientSession(trace_configs=[trace])

Unlike aiohttp's they are not run by the caller: most events come where nothing may wait, such as a
release.  They run one after another in the order of the events, soon after these, each in the
context (``contextvars``) of who has caused the event; an empty one where nobody has, as when the
server ends an idle connection, or ``max_idle`` does.  So a handler that is slow, or fails, delays
and breaks nothing but other handlers; what it raises is logged.  Where handlers fall behind by
10,000 events, those that come then are dropped, and that is logged.

``WebSocketClientSession.close()`` lets handlers finish, within ``close_timeout``.  A handler may
call it, too, itself or in a task that it waits for: what is left to tell is told after that one.
"""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, ContextVar, copy_context
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

if TYPE_CHECKING:
    from .session import WebSocketClientSession

__all__ = (
    "TraceCloseParams",
    "TraceConfig",
    "TraceConnectEndParams",
    "TraceConnectExceptionParams",
    "TraceConnectStartParams",
    "TraceQueuedEndParams",
    "TraceQueuedStartParams",
    "TraceReleaseParams",
    "TraceReuseParams",
    "Tracer",
    "trace_configs_of",
)

_Params = TypeVar("_Params")

# The tracer whose handler runs, and what is told. Tasks that a handler starts have it from there;
# who calls close() from one of those may be waited for by the handler.
_telling: ContextVar[tuple["Tracer", object] | None] = ContextVar(
    "aiowebsocketclient.telling", default=None
)

# Events that wait for handlers; one is some 500 bytes.
_MAX_PENDING: Final = 10_000


@dataclass(frozen=True, slots=True)
class TraceQueuedStartParams:
    """A caller found nothing idle and waits, for a place or for a handshake."""

    #: Host, port and whether there is TLS.
    endpoint: EndpointKey
    #: When it happened, in seconds since the epoch (``time.time()``).
    time: float


@dataclass(frozen=True, slots=True)
class TraceQueuedEndParams:
    """A caller that waited has a connection, or has not and waits no more."""

    endpoint: EndpointKey
    time: float
    #: Seconds that it waited.
    seconds: float
    #: What it got instead of a connection: ``PoolTimeoutError``, ``asyncio.CancelledError``, what
    #: the handshake failed with, ...  Not in the ``repr``, as its own may have secrets.
    exception: BaseException | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TraceConnectStartParams:
    """A handshake begins: for a caller, for ``prewarm()`` or for ``set_min_idle()``."""

    endpoint: EndpointKey
    time: float


@dataclass(frozen=True, slots=True)
class TraceConnectEndParams:
    """A connection is open, and configured where there is a ``configure``."""

    endpoint: EndpointKey
    time: float
    #: Seconds since the start, those in ``connect_limiter`` and in ``configure`` among them.
    seconds: float


@dataclass(frozen=True, slots=True)
class TraceConnectExceptionParams:
    """A handshake failed, or was stopped because nobody needed it any more."""

    endpoint: EndpointKey
    time: float
    seconds: float
    #: What aiohttp, ``connect_limiter`` or ``configure`` raised; ``asyncio.CancelledError`` where
    #: it was stopped.  Not in the ``repr``, as its own may have secrets: the URL's query, headers.
    exception: BaseException = field(repr=False)
    #: The HTTP status with which the server refused it; None: it did not.
    status: int | None = None


@dataclass(frozen=True, slots=True)
class TraceReuseParams:
    """A caller gets a connection that was used before."""

    endpoint: EndpointKey
    time: float


@dataclass(frozen=True, slots=True)
class TraceReleaseParams:
    """The use of a connection has ended: released, closed, detached, or its handle collected."""

    endpoint: EndpointKey
    time: float
    #: Seconds that it was in use.
    seconds: float


@dataclass(frozen=True, slots=True)
class TraceCloseParams:
    """The socket of a connection is closed."""

    endpoint: EndpointKey
    time: float
    #: Why, as :class:`PoolStats` counts it: ``"idle"`` (for ``closed_idle``), ``"lifetime"``,
    #: ``"lost"``, ``"dirty"``, ``"evicted"``, ``"forced"``, ``"failed"``, ``"cancelled"`` or
    #: ``"user"``.
    reason: str
    #: Seconds since its handshake began.
    seconds: float
    #: The code of the server's CLOSE, which may be its answer to that of this side (1005: it had
    #: none); None: none has come.
    close_code: int | None = None
    #: The reason in it, as text that can be printed.  The server writes it: not in the ``repr``.
    close_reason: str = field(default="", repr=False)


if TYPE_CHECKING:
    _Signal = Signal[WebSocketClientSession, Any, _Params]


class TraceConfig:
    """What is to be called when something happens in a session's pool.

    Each of its attributes ``on_...`` is an ``aiosignal.Signal``, a list to which ``async``
    functions are appended before a session is made with it, which freezes it.  They are called with
    the session, the ``trace_config_ctx`` and the parameters of the event.

    :param trace_config_ctx_factory: makes a ``trace_config_ctx``, an object in which handlers keep
        what they like.  There is one for each wait, from ``on_queued_start`` to ``on_queued_end``,
        and one for each connection, from ``on_connect_start`` to ``on_connect_exception`` or
        ``on_close``.
    """

    def __init__(self, trace_config_ctx_factory: Callable[[], Any] = SimpleNamespace) -> None:
        self.trace_config_ctx = trace_config_ctx_factory
        #: A caller waits: :class:`TraceQueuedStartParams`.
        self.on_queued_start: _Signal[TraceQueuedStartParams] = Signal(self)
        #: It waits no more: :class:`TraceQueuedEndParams`.
        self.on_queued_end: _Signal[TraceQueuedEndParams] = Signal(self)
        #: A handshake begins: :class:`TraceConnectStartParams`.
        self.on_connect_start: _Signal[TraceConnectStartParams] = Signal(self)
        #: It has succeeded: :class:`TraceConnectEndParams`.
        self.on_connect_end: _Signal[TraceConnectEndParams] = Signal(self)
        #: It has failed: :class:`TraceConnectExceptionParams`.
        self.on_connect_exception: _Signal[TraceConnectExceptionParams] = Signal(self)
        #: A caller gets a connection used before: :class:`TraceReuseParams`.
        self.on_reuse: _Signal[TraceReuseParams] = Signal(self)
        #: A use has ended: :class:`TraceReleaseParams`.
        self.on_release: _Signal[TraceReleaseParams] = Signal(self)
        #: A connection is closed: :class:`TraceCloseParams`.
        self.on_close: _Signal[TraceCloseParams] = Signal(self)

    def freeze(self) -> None:
        """Let nothing be appended any more."""
        for name in _SIGNALS:
            getattr(self, name).freeze()

    def __repr__(self) -> str:
        """Return which events it listens to; the functions may be bound to anything."""
        names = [name for name in _SIGNALS if getattr(self, name)]
        return f"<{type(self).__name__}({', '.join(names)})>"


# How each event is called; the order is that of a connection's life.
_SIGNALS: Final = (
    "on_queued_start",
    "on_queued_end",
    "on_connect_start",
    "on_connect_end",
    "on_connect_exception",
    "on_reuse",
    "on_release",
    "on_close",
)


def trace_configs_of(value: Any) -> tuple[TraceConfig, ...]:
    """Return the trace configs of a session, whatever iterable they were given as."""
    if isinstance(value, str | TraceConfig) or not isinstance(value, Iterable | None):
        raise TypeError("trace_configs must be an iterable of TraceConfig, as in [trace_config]")
    configs = tuple(value or ())
    for config in configs:
        if isinstance(config, aiohttp.TraceConfig):
            raise TypeError(
                "trace_configs must be of aiowebsocketclient.TraceConfig; aiohttp's own belong to a"
                " client session: client_session=aiohttp.ClientSession(trace_configs=...)"
            )
        if not isinstance(config, TraceConfig):
            raise TypeError(
                "trace_configs must be of aiowebsocketclient.TraceConfig,"
                f" not of {type(config).__name__}"
            )
    return configs


class Trace:
    """A wait, or a connection, of which several events tell."""

    __slots__ = ("_contexts", "began", "caller", "endpoint", "position", "time", "used_since")

    def __init__(self, endpoint: EndpointKey, caller: Context | None = None) -> None:
        self.endpoint = endpoint
        self.began = clock()
        self.time = time.time()
        #: Where, among the events that are to be told, it began.
        self.position = 0
        #: For whom a handshake is made.
        self.caller = caller
        #: Since when somebody uses the connection; None: nobody does.
        self.used_since: float | None = None
        self._contexts: dict[TraceConfig, Any] = {}

    def context_of(self, config: TraceConfig) -> Any:
        """Return what the handlers of ``config`` share; it is theirs to make, so not earlier."""
        if config not in self._contexts:
            self._contexts[config] = config.trace_config_ctx()
        return self._contexts[config]


class Tracer:
    """Tells the trace configs of a session; called by it at each event."""

    def __init__(self, session: "WebSocketClientSession", configs: tuple[TraceConfig, ...]) -> None:
        # What is pending must not keep alive a session that its user has dropped.
        self._session = weakref.ref(session)
        self._session_name = session.name
        self._configs = configs
        for config in configs:
            config.freeze()
        self._listened = {name for name in _SIGNALS if any(getattr(c, name) for c in configs)}
        self._pending: deque[tuple[Trace, str, Any, Context]] = deque()
        self._has_dropped = False
        self._task: asyncio.Task[None] | None = None
        #: Stands for what is being told.
        self._event: object = None
        #: What is set once there is nothing more to tell; None: there is nothing.
        self._told_all: asyncio.Future[None] | None = None
        #: What is set once a handler waits for the session to be closed.
        self._closed_by_handler: asyncio.Future[None] | None = None
        self._connections: dict[Slot, Trace] = {}

    # -- waits -----------------------------------------------------------------------------------

    def waiting(self, endpoint: EndpointKey) -> Trace:
        """Return what stands for a caller that may have to wait; nothing is told yet."""
        trace = Trace(endpoint)
        trace.position = len(self._pending)
        return trace

    def queued_start(self, trace: Trace) -> None:
        """Take it that it waits, since before whatever else has happened meanwhile."""
        params = TraceQueuedStartParams(trace.endpoint, trace.time)
        self._emit(trace, "on_queued_start", params, position=trace.position)

    def queued_end(self, trace: Trace, exception: BaseException | None = None) -> None:
        """Take it that it waits no more."""
        seconds = clock() - trace.began
        params = TraceQueuedEndParams(trace.endpoint, time.time(), seconds, exception)
        self._emit(trace, "on_queued_end", params)

    # -- connections -----------------------------------------------------------------------------

    def connect_start(self, slot: Slot, caller: Context) -> None:
        """Take it that a handshake begins."""
        endpoint: Any = slot.endpoint
        trace = self._connections[slot] = Trace(endpoint, caller)
        params = TraceConnectStartParams(endpoint, trace.time)
        self._emit(trace, "on_connect_start", params, caller)

    def connected(self, slot: Slot, exception: BaseException | None) -> None:
        """Take it that it has succeeded, or failed with an exception."""
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
        """Take it that a caller has a connection."""
        trace = self._connections[slot]
        trace.used_since = clock()
        if is_reused:
            self._emit(trace, "on_reuse", TraceReuseParams(trace.endpoint, time.time()))

    def released(self, slot: Slot) -> None:
        """Take it that the caller has it no more; it may be said more than once."""
        trace = self._connections.get(slot)
        if trace is None or trace.used_since is None:
            return
        seconds = clock() - trace.used_since
        trace.used_since = None
        params = TraceReleaseParams(trace.endpoint, time.time(), seconds)
        self._emit(trace, "on_release", params)

    def closed(self, slot: Slot, close: tuple[int, str] | None = None) -> None:
        """Record that the socket is closed; ``close`` is what the server said in its CLOSE."""
        self.released(slot)
        trace = self._connections.pop(slot, None)
        if trace is None:
            # It was told to stop connecting.
            return
        seconds = clock() - trace.began
        reason = CLOSE_REASONS[slot.reason]
        code, said = (None, "") if close is None else close
        params = TraceCloseParams(trace.endpoint, time.time(), reason, seconds, code, said)
        self._emit(trace, "on_close", params)

    def detached(self, slot: Slot) -> None:
        """Take it that it is the pool's no more."""
        del self._connections[slot]

    # -- telling ---------------------------------------------------------------------------------

    def closing(self) -> None:
        """Take it that the session is being closed, by a handler maybe, which then waits for it."""
        if self._told_all is None:
            return
        if self._closed_by_handler is None:
            self._closed_by_handler = self._told_all.get_loop().create_future()
        telling = _telling.get()
        is_handler = telling is not None and telling == (self, self._event)
        if is_handler and not self._closed_by_handler.done():
            self._closed_by_handler.set_result(None)

    async def finish(self, wait_for: Callable[..., Awaitable[object]]) -> None:
        """Wait until all is told, as long as ``wait_for`` does; what is left is dropped.

        Nobody waits for a handler that waits for this; what is left is told after it.
        """
        self.closing()
        if self._told_all is None or self._closed_by_handler is None:
            return
        # Cancelled here, as all tasks are by who ends a program, what is left is told all the same.
        await wait_for(self._told_all, self._closed_by_handler)
        if not self._closed_by_handler.done():
            self.stop()

    def stop(self) -> None:
        """Tell nothing more."""
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()

    def fall_silent(self) -> None:
        """Tell nothing more, in a forked child: there is no loop that may be asked."""
        self._listened.clear()

    def _emit(
        self,
        trace: Trace,
        name: str,
        params: Any,
        context: Context | None = None,
        position: int | None = None,
    ) -> None:
        if name not in self._listened:
            return
        running = get_running_loop()
        if running is None:
            # The garbage collector ends a coroutine that its loop has left behind.
            return
        if len(self._pending) >= _MAX_PENDING:
            if not self._has_dropped:
                # Not at once: the session may be half way through a plan of the core's.
                dropped = partial(log, "trace_dropped", session_name=self._session_name)
                running.call_soon(dropped)
            self._has_dropped = True
            return
        event = (trace, name, params, copy_context() if context is None else context)
        self._pending.insert(len(self._pending) if position is None else position, event)
        if self._told_all is None:
            self._told_all = running.create_future()
            # Not at once: somebody may be inside the core.
            running.call_soon(self._tell_next, context=Context())

    def _tell_next(self, told: asyncio.Task[None] | None = None) -> None:
        self._task = self._event = None
        assert self._told_all is not None
        if not self._pending:
            self._has_dropped = False
            self._told_all.set_result(None)
            self._told_all = None
            return
        trace, name, params, context = self._pending.popleft()
        self._event = event = object()
        # One for each, as a task has one context for all that it runs; a copy, since connections
        # are opened in the contexts of their callers, too.
        telling = self._tell(trace, name, params, event)
        self._task = asyncio.Task(telling, loop=self._told_all.get_loop(), context=context.copy())
        self._task.add_done_callback(self._tell_next, context=Context())

    async def _tell(self, trace: Trace, name: str, params: Any, event: object) -> None:
        session = self._session()
        if session is None:
            return
        _telling.set((self, event))
        for config in self._configs:
            signal: Signal[Any, Any, Any] = getattr(config, name)
            try:
                if signal:
                    await signal.send(session, trace.context_of(config), params)
            except (Exception, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and is_being_cancelled():
                    raise
                # It may be what the event tells of, which may have secrets in its text.
                shown = exc if is_debugging() else None
                log(
                    "trace_failed",
                    shown,
                    session_name=self._session_name,
                    signal=name,
                    error=type(exc).__name__,
                )
