"""OpenTelemetry: metrics of pools, and spans of handshakes and of waits.

::

    session = WebSocketClientSession(trace_configs=[OpenTelemetry()])

The metrics follow OpenTelemetry's semantic conventions for connection pools of clients,
``db.client.connection.*``, in units, kinds and meanings.  There are no conventions for WebSockets
yet.  A WebSocket is not a database connection, and after the handshake not an HTTP connection, so
the names have the prefix of this library:

.. list-table::
   :header-rows: 1

   * - Metric
     - Kind, unit
     - Meaning
   * - ``aiowebsocketclient.connection.count``
     - up-down counter, ``{connection}``
     - Connections by ``aiowebsocketclient.connection.state``: ``idle`` and ``used`` as in the
       conventions, and ``connecting`` and ``closing``, which also count against the limits
   * - ``aiowebsocketclient.connection.max``
     - up-down counter, ``{connection}``
     - ``limit_total``, if set
   * - ``aiowebsocketclient.connection.max_per_endpoint``
     - up-down counter, ``{connection}``
     - ``limit``, if set
   * - ``aiowebsocketclient.connection.pending_requests``
     - up-down counter, ``{request}``
     - Callers queued for a place or a release
   * - ``aiowebsocketclient.connection.timeouts``
     - counter, ``{timeout}``
     - Callers whose ``acquire_timeout`` ran out while they waited
   * - ``aiowebsocketclient.connection.create_time``
     - histogram, ``s``
     - Handshakes; failed handshakes have ``error.type``
   * - ``aiowebsocketclient.connection.wait_time``
     - histogram, ``s``
     - Waits of callers that found no idle connection; waits that ended without a connection have
       ``error.type``.  Callers that need not wait are not included
   * - ``aiowebsocketclient.connection.use_time``
     - histogram, ``s``
     - From when a caller gets a connection until its release
   * - ``aiowebsocketclient.connection.duration``
     - histogram, ``s``
     - From the beginning of a handshake until the socket is closed, by
       ``aiowebsocketclient.connection.close_reason``, the last part of a ``PoolStats.closed_...``;
       detached connections are not included

A session with ``fleet=`` also has the fields of :class:`FleetStats`, as
``aiowebsocketclient.fleet.limit``, ``.used``, ``.places``, ``.wanted``, ``.waiting_sessions`` and
``.learning`` (gauges; the first two and ``waiting_sessions`` are of the whole fleet, as the session
knows it), and ``.syncs``, ``.sync_errors``, ``.sync_seconds``, ``.yielded`` and ``.losses``
(counters).

Each metric has ``aiowebsocketclient.connection.pool.name`` and, except for the two limits and the
fleet, ``server.address``, ``server.port`` and ``url.scheme``.  There is no ``idle.max`` or
``idle.min``: the pool has no such limits, and ``set_min_idle()`` applies to one handshake.

The spans are ``WebSocket connect`` (of kind client) and ``WebSocket wait`` (internal), with the
same attributes; a reuse has no span.  Their parent is the span in which ``ws_connect()`` was
called.  A span that ended with an exception has the status "error".  Its ``error.type`` is the name
of the exception class, or the HTTP status of the server's or a proxy's refusal (also in
``http.response.status_code``).  The text of the exception is not recorded, because aiohttp's
exceptions contain URLs and headers.  If the pool stopped a handshake because no caller needed it
any more, this is not an error: the span has ``aiowebsocketclient.stopped``.

Each use costs about 50 µs more, to report its end and to record ``use_time``.  To avoid this cost,
call ``telemetry.on_release.clear()`` before you create the session.

The extra ``aiowebsocketclient[opentelemetry]`` installs the API of OpenTelemetry; without its SDK
nothing is recorded.
"""

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from threading import RLock
from typing import Any, Final

from . import __version__, arguments
from .exceptions import PoolTimeoutError, status_of
from .fleet import METRICS
from .keys import EndpointKey
from .session import WebSocketClientSession
from .stats import PoolStats
from .tracing import (
    TraceCloseParams,
    TraceConfig,
    TraceConnectEndParams,
    TraceConnectExceptionParams,
    TraceConnectStartParams,
    TraceQueuedEndParams,
    TraceQueuedStartParams,
    TraceReleaseParams,
)

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        Meter,
        MeterProvider,
        Observation,
        get_meter,
        get_meter_provider,
    )
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_tracer
except ImportError as exc:
    raise ImportError(
        "aiowebsocketclient.opentelemetry needs the API of OpenTelemetry:"
        " pip install 'aiowebsocketclient[opentelemetry]'",
        name=exc.name,
    ) from exc

__all__ = ("OpenTelemetry",)

_SCOPE: Final = "aiowebsocketclient"
_PREFIX: Final = "aiowebsocketclient.connection."
_POOL_NAME: Final = f"{_PREFIX}pool.name"
# The pool name of a session without a name.
_DEFAULT_NAME: Final = "default"
_STATE: Final = f"{_PREFIX}state"
_CLOSE_REASON: Final = f"{_PREFIX}close_reason"

# States in the conventions, and their fields in PoolStats.
_STATES: Final = {
    "idle": "idle",
    "used": "acquired",
    "connecting": "connecting",
    "closing": "closing",
}

# Bucket boundaries in seconds; the defaults of the SDK are in milliseconds.
_SHORT: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_LONG: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)

_Attributes = Mapping[str, str | int]

_FLEET: Final = "aiowebsocketclient.fleet."
# Of the whole fleet: sessions of one pool do not add up.
_OF_FLEET: Final = frozenset({"limit", "used", "waiting_sessions", "learning"})


class OpenTelemetry(TraceConfig):
    """Records metrics of a session's pool, and spans of its handshakes and waits.

    Pass it in the ``trace_configs`` of one or more sessions.  Sessions with the same name, or
    without a name, appear as one pool; with ``pool_name``, all sessions do.  You can append
    handlers of your own, as to any other ``TraceConfig``.

    :param tracer_provider: provider for spans; default: the global provider.
    :param meter_provider: provider for metrics; default: the global provider.
    :param pool_name: ``aiowebsocketclient.connection.pool.name``; default: the ``name`` of the
        session, or "default" if it has none.
    :param max_endpoints: maximum number of endpoints per pool with points of their own in metrics;
        the first endpoints get them.  Points of other endpoints have no ``server.address``, so sums
        stay correct.  0: no endpoint; None: no limit.

    A closed or dropped session is not counted, and is not kept alive.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        pool_name: str | None = None,
        max_endpoints: int | None = 100,
    ) -> None:
        super().__init__()
        if not isinstance(tracer_provider, TracerProvider | None):
            raise TypeError(
                "tracer_provider must be an opentelemetry.trace.TracerProvider,"
                f" not {type(tracer_provider).__name__}"
            )
        if not isinstance(meter_provider, MeterProvider | None):
            raise TypeError(
                "meter_provider must be an opentelemetry.metrics.MeterProvider,"
                f" not {type(meter_provider).__name__}"
            )
        if not isinstance(pool_name, str | None):
            raise TypeError(f"pool_name must be a str, not {type(pool_name).__name__}")
        self._max_endpoints = arguments.places("max_endpoints", max_endpoints)
        self._pool_name = pool_name
        # Attributes of endpoints, by the names of their pools.
        self._endpoints: dict[str, dict[EndpointKey, _Attributes]] = {}
        self._sessions: weakref.WeakSet[WebSocketClientSession] = weakref.WeakSet()
        # Readers read metrics in their own threads.
        self._lock = RLock()
        self._tracer = get_tracer(_SCOPE, __version__, tracer_provider)
        self._instruments = _instruments_of(meter_provider)
        self._instruments.add(self)
        self.on_queued_start.append(self._queued_start)
        self.on_queued_end.append(self._queued_end)
        self.on_connect_start.append(self._connect_start)
        self.on_connect_end.append(self._connect_end)
        self.on_connect_exception.append(self._connect_exception)
        self.on_release.append(self._release)
        self.on_close.append(self._close)

    # -- reading metrics ---------------------------------------------------------------------------

    def readings(self) -> Iterator[tuple[_Attributes, PoolStats]]:
        """Return statistics to sum up, with their attributes."""
        for session in self.sessions():
            if self._max_endpoints == 0:
                yield self.attributes_of(session), session.stats()
                continue
            for endpoint, stats in session.stats_by_endpoint().items():
                yield self._attributes_at(session, endpoint), stats

    def sessions(self) -> list[WebSocketClientSession]:
        """Return the open sessions."""
        with self._lock:
            return [session for session in self._sessions if not session.closed]

    def _watch(self, session: WebSocketClientSession) -> None:
        with self._lock:
            self._sessions.add(session)

    # -- handling events ---------------------------------------------------------------------------

    async def _queued_start(
        self, session: WebSocketClientSession, ctx: Any, params: TraceQueuedStartParams
    ) -> None:
        self._watch(session)
        attributes = {**self.attributes_of(session), **_server(params.endpoint)}
        ctx.span = self._span("WebSocket wait", SpanKind.INTERNAL, attributes, params.time)

    async def _queued_end(
        self, session: WebSocketClientSession, ctx: Any, params: TraceQueuedEndParams
    ) -> None:
        error = None if params.exception is None else _error_type(params.exception)
        if isinstance(params.exception, PoolTimeoutError):
            self._instruments.timeouts.add(1, self._attributes_at(session, params.endpoint))
        outcome = self._outcome(session, params.endpoint, error)
        self._instruments.wait_time.record(params.seconds, outcome)
        _end(ctx, params.time, params.exception)

    async def _connect_start(
        self, session: WebSocketClientSession, ctx: Any, params: TraceConnectStartParams
    ) -> None:
        self._watch(session)
        attributes = {**self.attributes_of(session), **_server(params.endpoint)}
        ctx.span = self._span("WebSocket connect", SpanKind.CLIENT, attributes, params.time)

    async def _connect_end(
        self, session: WebSocketClientSession, ctx: Any, params: TraceConnectEndParams
    ) -> None:
        attributes = self._attributes_at(session, params.endpoint)
        self._instruments.create_time.record(params.seconds, attributes)
        _end(ctx, params.time)

    async def _connect_exception(
        self, session: WebSocketClientSession, ctx: Any, params: TraceConnectExceptionParams
    ) -> None:
        if isinstance(params.exception, asyncio.CancelledError):
            _end(ctx, params.time, stopped=True)
            return
        outcome = self._outcome(session, params.endpoint, _error_type(params.exception))
        self._instruments.create_time.record(params.seconds, outcome)
        _end(ctx, params.time, params.exception)

    async def _release(
        self, session: WebSocketClientSession, ctx: Any, params: TraceReleaseParams
    ) -> None:
        attributes = self._attributes_at(session, params.endpoint)
        self._instruments.use_time.record(params.seconds, attributes)

    async def _close(
        self, session: WebSocketClientSession, ctx: Any, params: TraceCloseParams
    ) -> None:
        attributes = self._attributes_at(session, params.endpoint)
        attributes = {**attributes, _CLOSE_REASON: params.reason}
        self._instruments.duration.record(params.seconds, attributes)

    # -- attributes --------------------------------------------------------------------------------

    def attributes_of(self, session: WebSocketClientSession) -> _Attributes:
        """Return the attributes of the whole pool."""
        return {_POOL_NAME: self._name_of(session)}

    def _name_of(self, session: WebSocketClientSession) -> str:
        return self._pool_name if self._pool_name is not None else session.name or _DEFAULT_NAME

    def _span(self, name: str, kind: SpanKind, attributes: _Attributes, time: float) -> Span:
        return self._tracer.start_span(
            name, kind=kind, attributes=attributes, start_time=_nanoseconds(time)
        )

    def _outcome(
        self, session: WebSocketClientSession, endpoint: EndpointKey, error: str | None
    ) -> _Attributes:
        attributes = self._attributes_at(session, endpoint)
        return attributes if error is None else {**attributes, "error.type": error}

    def _attributes_at(self, session: WebSocketClientSession, endpoint: EndpointKey) -> _Attributes:
        """Return the attributes of an endpoint, or of the pool after ``max_endpoints``."""
        name = self._name_of(session)
        endpoints = self._endpoints.get(name)
        known = None if endpoints is None else endpoints.get(endpoint)
        if known is not None:
            return known
        own = {_POOL_NAME: name}
        with self._lock:
            endpoints = self._endpoints.setdefault(name, {})
            if self._max_endpoints is not None and len(endpoints) >= self._max_endpoints:
                return own
            return endpoints.setdefault(endpoint, {**own, **_server(endpoint)})


def _server(endpoint: EndpointKey) -> _Attributes:
    return {
        "server.address": endpoint.host,
        "server.port": endpoint.port,
        "url.scheme": "wss" if endpoint.is_ssl else "ws",
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _error_type(exception: BaseException) -> str:
    status = status_of(exception)
    return type(exception).__qualname__ if status is None else str(status)


def _end(
    ctx: Any, time: float, exception: BaseException | None = None, stopped: bool = False
) -> None:
    # If handlers were too slow, the event of the start may have been dropped.
    span: Span | None = getattr(ctx, "span", None)
    if span is None:
        return
    # The context lives until the connection is closed, longer than the span.
    del ctx.span
    if stopped:
        span.set_attribute("aiowebsocketclient.stopped", True)
    if exception is not None:
        span.set_attribute("error.type", _error_type(exception))
        status = status_of(exception)
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        span.set_status(StatusCode.ERROR)
    span.end(_nanoseconds(time))


# -- instruments -----------------------------------------------------------------------------------


class _Points:
    """Result of a callback: numbers by attributes, each set of attributes once."""

    def __init__(self) -> None:
        self._numbers: Counter[tuple[tuple[str, str | int], ...]] = Counter()

    def add(self, attributes: _Attributes, number: int) -> None:
        self._numbers[tuple(attributes.items())] += number

    def add_largest(self, attributes: _Attributes, number: int) -> None:
        key = tuple(attributes.items())
        self._numbers[key] = max(self._numbers[key], number)

    def observations(self) -> list[Observation]:
        return [Observation(number, dict(key)) for key, number in self._numbers.items()]


class _Instruments:
    """The instruments of a meter provider, shared by all pools."""

    def __init__(self, meter: Meter) -> None:
        # Weak: the provider keeps this object, to which its callbacks are bound.
        self._pools: weakref.WeakSet[OpenTelemetry] = weakref.WeakSet()
        self._lock = RLock()
        self.timeouts = meter.create_counter(
            f"{_PREFIX}timeouts",
            "{timeout}",
            "Callers whose acquire_timeout ran out while they waited.",
        )
        self.create_time = meter.create_histogram(
            f"{_PREFIX}create_time",
            "s",
            "The time it took to open a connection.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self.wait_time = meter.create_histogram(
            f"{_PREFIX}wait_time",
            "s",
            "The time that callers waited who found no idle connection.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self.use_time = meter.create_histogram(
            f"{_PREFIX}use_time",
            "s",
            "The time from when a caller gets a connection until its release.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.duration = meter.create_histogram(
            f"{_PREFIX}duration",
            "s",
            "The time from the start of a handshake until the socket is closed.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self._create_observables(meter)

    def _create_observables(self, meter: Meter) -> None:
        meter.create_observable_up_down_counter(
            f"{_PREFIX}count", [self._count], "{connection}", "Connections by state."
        )
        meter.create_observable_up_down_counter(
            f"{_PREFIX}pending_requests",
            [self._pending],
            "{request}",
            "Callers queued for a place or a release.",
        )
        meter.create_observable_up_down_counter(
            f"{_PREFIX}max",
            [self._max],
            "{connection}",
            "Maximum number of connections of all endpoints together.",
        )
        meter.create_observable_up_down_counter(
            f"{_PREFIX}max_per_endpoint",
            [self._max_per_endpoint],
            "{connection}",
            "Maximum number of connections per endpoint.",
        )

        for field, metric in METRICS.items():
            read = partial(self._fleet, field)
            unit = "s" if metric.unit == "s" else f"{{{metric.unit}}}"
            kind = (
                meter.create_observable_counter
                if metric.is_counter
                else meter.create_observable_gauge
            )
            kind(_FLEET + field, [read], unit, metric.description)

    def add(self, pool: OpenTelemetry) -> None:
        with self._lock:
            self._pools.add(pool)

    def pools(self) -> list[OpenTelemetry]:
        """Return the pools that use these instruments."""
        with self._lock:
            return list(self._pools)

    def _all(self) -> list[OpenTelemetry]:
        pools = self.pools()
        # A provider that was passed first, and later became the global one, already has these
        # instruments, and accepts no others with the same names.
        if _global is not None and _by_provider.get(get_meter_provider()) is self:
            pools += _global.pools()
        return pools

    def _count(self, options: CallbackOptions) -> Iterable[Observation]:
        points = _Points()
        for pool in self._all():
            for attributes, stats in pool.readings():
                for state, gauge in _STATES.items():
                    points.add({**attributes, _STATE: state}, getattr(stats, gauge))
        return points.observations()

    def _pending(self, options: CallbackOptions) -> Iterable[Observation]:
        points = _Points()
        for pool in self._all():
            for attributes, stats in pool.readings():
                points.add(attributes, stats.waiting)
        return points.observations()

    def _max(self, options: CallbackOptions) -> Iterable[Observation]:
        return self._limits(lambda session: session._pool_settings.limit_total)

    def _max_per_endpoint(self, options: CallbackOptions) -> Iterable[Observation]:
        return self._limits(lambda session: session.limit)

    def _fleet(self, field: str, options: CallbackOptions) -> Iterable[Observation]:
        points = _Points()
        add = points.add_largest if field in _OF_FLEET else points.add
        for pool in self._all():
            for session in pool.sessions():
                stats = session.fleet_stats()
                if stats is not None:
                    add(pool.attributes_of(session), getattr(stats, field))
        return points.observations()

    def _limits(
        self, limit_of: Callable[[WebSocketClientSession], int | None]
    ) -> Iterable[Observation]:
        points = _Points()
        for pool in self._all():
            for session in pool.sessions():
                limit = limit_of(session)
                if limit is not None:
                    points.add(pool.attributes_of(session), limit)
        return points.observations()


# Instruments of the global provider, which may be set later.
_global: _Instruments | None = None
# Instruments of other providers. A second observable instrument with the same name would never be
# read.
_by_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()
_lock = RLock()


def _instruments_of(provider: MeterProvider | None) -> _Instruments:
    global _global
    with _lock:
        the_global = get_meter_provider()
        provider = the_global if provider is None else provider
        # Checked first: a provider that was passed before may be the global one by now.
        if provider in _by_provider:
            return _by_provider[provider]
        if provider is the_global:
            if _global is None:
                _global = _Instruments(get_meter(_SCOPE, __version__))
            return _global
        instruments = _Instruments(provider.get_meter(_SCOPE, __version__))
        _by_provider[provider] = instruments
        return instruments
