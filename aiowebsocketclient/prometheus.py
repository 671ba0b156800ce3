"""Metrics for Prometheus: a collector for ``prometheus_client``, read at each scrape.

::

    from prometheus_client import REGISTRY

    REGISTRY.register(PoolCollector(session))

The statistics of a pool are exported under their names in :class:`PoolStats`: over all endpoints,
as ``aiowebsocketclient_requests_total{pool="default"}``, and for each endpoint in separate
families, as ``aiowebsocketclient_endpoint_requests_total{pool="default",
endpoint="wss://example.com:443"}``.  Separate families keep the sum over each of them correct.

* The counters of a pool never decrease while its session lives.
* The pool drops the counters of an endpoint as soon as the endpoint has no connection, handshake or
  waiting caller.  Its series then end, and begin anew at 0 with the next connection.  This is an
  ordinary reset for ``rate()`` and ``increase()``.  Only the counters of the pool contain what was
  counted between the last scrape and the drop.
* A limit that is not set has no series.
* The families ``aiowebsocketclient_fleet_...`` are the fields of :class:`FleetStats`, for sessions
  with ``fleet=``.  ``fleet_limit``, ``fleet_used``, ``fleet_waiting_sessions`` and
  ``fleet_learning_seconds`` are of the whole fleet, as each session knows it: use ``max`` instead
  of ``sum``.

The extra ``aiowebsocketclient[prometheus]`` installs ``prometheus_client``.
"""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from threading import RLock
from typing import Final

from . import arguments
from .fleet import METRICS, FleetStats, Metric
from .keys import EndpointKey
from .session import WebSocketClientSession
from .stats import PoolStats

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise ImportError(
        "aiowebsocketclient.prometheus needs prometheus_client:"
        " pip install 'aiowebsocketclient[prometheus]'",
        name=exc.name,
    ) from exc

__all__ = ("PoolCollector",)

_PREFIX: Final = "aiowebsocketclient_"
# The label of a session without a name.
_DEFAULT_NAME: Final = "default"

# Gauges of PoolStats that form one family, with a state each.
_STATES: Final = ("connecting", "acquired", "idle", "closing")
# Counters of PoolStats that form one family, with a reason each.
_CLOSED: Final = tuple(
    field.name for field in fields(PoolStats) if field.name.startswith("closed_")
)
# Counters of PoolStats with a family each, and their descriptions.
_COUNTERS: Final = {
    "requests": "Connections requested by callers.",
    "reused": "Requests that got a connection used before.",
    "queued": "Requests that found no idle connection and had to wait.",
    "wait_seconds": "Seconds that these requests waited in total.",
    "timeouts": "Callers whose acquire_timeout ran out.",
    "rejected": "Callers rejected because of max_waiting.",
    "connects": "Handshakes that succeeded.",
    "connect_errors": "Handshakes that failed.",
    "connect_seconds": "Seconds that handshakes took in total.",
    "released": "Connections released in a state that allows reuse.",
    "detached": "Connections removed from the pool by detach().",
}

_Family = GaugeMetricFamily | CounterMetricFamily


class PoolCollector(Collector):
    """Collector for a ``prometheus_client`` registry, with the pools of one or more sessions.

    :param session: the first session, or None.
    :param name: the label ``pool`` of the session; default: the ``name`` of the session, or
        "default" if it has none.
    :param max_endpoints: maximum number of endpoints with series of their own; the first endpoints
        that a scrape finds get them.  An endpoint has about 25 series per pool.  0: no endpoint;
        None: no limit.

    A registry accepts only one collector: add further sessions with :meth:`add`.  The collector
    refers to sessions weakly; a closed or dropped session has no series.

    Scrapes may come from any thread, as with ``prometheus_client.start_http_server()``.
    """

    def __init__(
        self,
        session: WebSocketClientSession | None = None,
        *,
        name: str | None = None,
        max_endpoints: int | None = 100,
    ) -> None:
        self._max_endpoints = arguments.places("max_endpoints", max_endpoints)
        self._pools: dict[str, _Pool] = {}
        # Several scrapes may run at once, also while a session is added. Reentrant, because the
        # garbage collector may run code at any point.
        self._lock = RLock()
        if session is not None:
            self.add(session, name=name)

    def add(self, session: WebSocketClientSession, *, name: str | None = None) -> None:
        """Export another session, with the label ``pool="<name>"``.

        The default of ``name`` is that of the constructor.  Raises ``ValueError`` if another open
        session has the name; the name of a closed or dropped session is free.
        """
        if not isinstance(session, WebSocketClientSession):
            raise TypeError(
                f"session must be a WebSocketClientSession, not {type(session).__name__}"
            )
        if name is None:
            name = session.name or _DEFAULT_NAME
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        with self._lock:
            pools = {name: pool for name, pool in self._pools.items() if pool.session() is not None}
            if name in pools and pools[name].session() is not session:
                raise ValueError(
                    f"name must be unique: there is already an open session named {name!r}"
                )
            pools.setdefault(name, _Pool(session))
            self._pools = pools

    def describe(self) -> Iterable[_Family]:
        """Return the families without samples, so that registering does not scrape."""
        return _Families().all()

    def collect(self) -> Iterator[_Family]:
        """Return the families with the current samples of all open sessions."""
        families = _Families()
        with self._lock:
            for name, pool in self._pools.items():
                session = pool.session()
                if session is not None:
                    families.add(name, session, pool.shown(session, self._max_endpoints))
        return (family for family in families.all() if family.samples)


class _Pool:
    """A session, and its endpoints with series of their own."""

    def __init__(self, session: WebSocketClientSession) -> None:
        self._session = weakref.ref(session)
        self._shown: set[EndpointKey] = set()

    def session(self) -> WebSocketClientSession | None:
        """Return the session, or None if it is closed or was dropped."""
        session = self._session()
        return None if session is None or session.closed else session

    def shown(
        self, session: WebSocketClientSession, max_endpoints: int | None
    ) -> dict[EndpointKey, PoolStats]:
        """Return the statistics of the endpoints with series, after adding new endpoints."""
        if max_endpoints == 0:
            return {}
        by_endpoint = session.stats_by_endpoint()
        if max_endpoints is None:
            return by_endpoint
        unknown = (endpoint for endpoint in by_endpoint if endpoint not in self._shown)
        self._shown.update(islice(unknown, max_endpoints - len(self._shown)))
        return {
            endpoint: stats for endpoint, stats in by_endpoint.items() if endpoint in self._shown
        }


class _Families:
    """All families of one scrape."""

    def __init__(self) -> None:
        self._pools = _Group("", ("pool",))
        self._endpoints = _Group("endpoint_", ("pool", "endpoint"))
        self._alive = GaugeMetricFamily(
            f"{_PREFIX}endpoints",
            "Endpoints with a connection, a handshake or a waiting caller.",
            labels=["pool"],
        )
        self._limit = GaugeMetricFamily(
            f"{_PREFIX}endpoint_connections_limit",
            "Maximum number of connections per endpoint.",
            labels=["pool"],
        )
        self._fleet = {field: _fleet_family(field, metric) for field, metric in METRICS.items()}
        self._limit_total = GaugeMetricFamily(
            f"{_PREFIX}connections_limit",
            "Maximum number of connections of all endpoints together.",
            labels=["pool"],
        )

    def add(
        self, name: str, session: WebSocketClientSession, shown: dict[EndpointKey, PoolStats]
    ) -> None:
        stats = session.stats()
        self._pools.add((name,), stats)
        for endpoint, its_stats in shown.items():
            self._endpoints.add((name, _label(endpoint)), its_stats)
        self._alive.add_metric((name,), stats.endpoints)
        fleet = session.fleet_stats()
        if fleet is not None:
            self._add_fleet(name, fleet)
        for family, limit in (
            (self._limit, session.limit),
            (self._limit_total, session._pool_settings.limit_total),
        ):
            if limit is not None:
                family.add_metric((name,), limit)

    def _add_fleet(self, name: str, stats: FleetStats) -> None:
        for field, family in self._fleet.items():
            family.add_metric((name,), getattr(stats, field))

    def all(self) -> list[_Family]:
        own: list[_Family] = [self._alive, self._limit, self._limit_total, *self._fleet.values()]
        return [*self._pools.all(), *self._endpoints.all(), *own]


def _fleet_family(field: str, metric: Metric) -> _Family:
    name = f"{_PREFIX}fleet_{field}"
    unit = "seconds" if metric.unit == "s" else ""
    if metric.is_counter:
        return CounterMetricFamily(name, metric.description, labels=["pool"], unit=unit)
    name += f"_{unit}" if unit else ""
    return GaugeMetricFamily(name, metric.description, labels=["pool"])


class _Group:
    """The families of either pools or endpoints."""

    def __init__(self, prefix: str, labels: tuple[str, ...]) -> None:
        prefix = _PREFIX + prefix
        self._connections = GaugeMetricFamily(
            f"{prefix}connections", "Connections by state.", labels=[*labels, "state"]
        )
        self._waiting = GaugeMetricFamily(
            f"{prefix}waiting", "Callers queued for a place or a release.", labels=labels
        )
        self._counters = {
            name: CounterMetricFamily(
                prefix + name,
                what,
                labels=labels,
                unit="seconds" if name.endswith("_seconds") else "",
            )
            for name, what in _COUNTERS.items()
        }
        self._closed = CounterMetricFamily(
            f"{prefix}closed",
            "Closed connections by reason.",
            labels=[*labels, "reason"],
        )

    def add(self, labels: tuple[str, ...], stats: PoolStats) -> None:
        for state in _STATES:
            self._connections.add_metric((*labels, state), getattr(stats, state))
        self._waiting.add_metric(labels, stats.waiting)
        for name, counter in self._counters.items():
            counter.add_metric(labels, getattr(stats, name))
        for name in _CLOSED:
            reason = name.removeprefix("closed_")
            self._closed.add_metric((*labels, reason), getattr(stats, name))

    def all(self) -> list[_Family]:
        return [self._connections, self._waiting, *self._counters.values(), self._closed]


def _label(endpoint: EndpointKey) -> str:
    # With the scheme, because a port may be used both with TLS and without.
    return f"{'wss' if endpoint.is_ssl else 'ws'}://{endpoint}"
