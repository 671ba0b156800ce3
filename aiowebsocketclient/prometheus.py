"""Pools as Prometheus sees them: a collector for ``prometheus_client``, read at each scrape.

::

    from prometheus_client import REGISTRY

    REGISTRY.register(PoolCollector(session))

What a pool counts is exported under the names that :class:`PoolStats` has for it, as
``aiowebsocketclient_requests_total{pool="default"}``: over all endpoints, and for each endpoint in
families of their own, as ``aiowebsocketclient_endpoint_requests_total{pool="default",
endpoint="wss://example.com:443"}``.  They are two so that a sum over either is right.

* The pool's own counters never fall while its session lives.
* An endpoint's are those of its record, which the pool drops as soon as the endpoint has nothing
  alive: its series end then, and begin anew at 0 with the next connection.  To ``rate()`` and
  ``increase()`` that is a reset like any other, after which they go on; what came between the last
  scrape and the drop is in the pool's own only.
* A limit that is not set has no series.

The extra ``aiowebsocketclient[prometheus]`` installs what is needed.
"""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from threading import RLock
from typing import Final

from . import arguments
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

# Gauges of PoolStats that are one family, of which each is a state.
_STATES: Final = ("connecting", "acquired", "idle", "closing")
# Counters of PoolStats that are one family, of which each is a reason.
_CLOSED: Final = tuple(
    field.name for field in fields(PoolStats) if field.name.startswith("closed_")
)
# Those that are a family each, with what they count.
_COUNTERS: Final = {
    "requests": "Connections asked for.",
    "reused": "Requests answered with a connection used before.",
    "queued": "Requests that found nothing idle and had to wait.",
    "wait_seconds": "Seconds that these waited altogether.",
    "timeouts": "Callers whose acquire_timeout ran out.",
    "rejected": "Callers turned away because of max_waiting.",
    "connects": "Handshakes that succeeded.",
    "connect_errors": "Handshakes that failed.",
    "connect_seconds": "Seconds that handshakes took altogether.",
    "released": "Connections given back fit for another's use.",
    "detached": "Connections taken out of the pool by detach().",
}

_Family = GaugeMetricFamily | CounterMetricFamily


class PoolCollector(Collector):
    """What the pools of one or more sessions count, for a ``prometheus_client`` registry.

    :param session: the first session, or None.
    :param name: its label ``pool``; default: the ``name`` of the session, or "default" where it has
        none.
    :param max_endpoints: how many endpoints have series of their own: the first that a scrape
        meets.  Each has about 25 for each pool, and Prometheus keeps them for ever.  0: none has;
        None: all have.

    A registry takes one collector: further sessions are for :meth:`add`.  Sessions are held
    weakly, and one that is closed or was dropped has no series any more.

    Scrapes may come from any thread, as they do with ``prometheus_client.start_http_server()``.
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
        # Scrapes may be several at once, and come while a session is added; the garbage collector
        # may run something in the middle of either.
        self._lock = RLock()
        if session is not None:
            self.add(session, name=name)

    def add(self, session: WebSocketClientSession, *, name: str | None = None) -> None:
        """Export another session, with the label ``pool="<name>"``.

        The default is that of the constructor.
        A name that belonged to a session which is closed or was dropped is free again.  One that is
        taken raises ``ValueError``.
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
                raise ValueError(f"name must be unique: there is an open session named {name!r}")
            pools.setdefault(name, _Pool(session))
            self._pools = pools

    def describe(self) -> Iterable[_Family]:
        """Return the families without their samples, so that to register scrapes nothing."""
        return _Families().all()

    def collect(self) -> Iterator[_Family]:
        """Return the families of all open sessions, as they are now."""
        families = _Families()
        with self._lock:
            for name, pool in self._pools.items():
                session = pool.session()
                if session is not None:
                    families.add(name, session, pool.shown(session, self._max_endpoints))
        return (family for family in families.all() if family.samples)


class _Pool:
    """A session, and those of its endpoints that have series of their own."""

    def __init__(self, session: WebSocketClientSession) -> None:
        self._session = weakref.ref(session)
        self._shown: set[EndpointKey] = set()

    def session(self) -> WebSocketClientSession | None:
        """Return it, unless it is closed or was dropped."""
        session = self._session()
        return None if session is None or session.closed else session

    def shown(
        self, session: WebSocketClientSession, max_endpoints: int | None
    ) -> dict[EndpointKey, PoolStats]:
        """Return the statistics of those endpoints, of which there may be new ones."""
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
    """All that is exported in one scrape."""

    def __init__(self) -> None:
        self._pools = _Group("", ("pool",))
        self._endpoints = _Group("endpoint_", ("pool", "endpoint"))
        self._alive = GaugeMetricFamily(
            f"{_PREFIX}endpoints", "Endpoints with anything alive.", labels=["pool"]
        )
        self._limit = GaugeMetricFamily(
            f"{_PREFIX}endpoint_connections_limit",
            "Connections that one endpoint may have.",
            labels=["pool"],
        )
        self._limit_total = GaugeMetricFamily(
            f"{_PREFIX}connections_limit",
            "Connections that all endpoints together may have.",
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
        for family, limit in (
            (self._limit, session.limit),
            (self._limit_total, session._settings.limit_total),
        ):
            if limit is not None:
                family.add_metric((name,), limit)

    def all(self) -> list[_Family]:
        own: list[_Family] = [self._alive, self._limit, self._limit_total]
        return [*self._pools.all(), *self._endpoints.all(), *own]


class _Group:
    """The families of either pools or endpoints."""

    def __init__(self, prefix: str, labels: tuple[str, ...]) -> None:
        prefix = _PREFIX + prefix
        self._connections = GaugeMetricFamily(
            f"{prefix}connections", "Connections, by their state.", labels=[*labels, "state"]
        )
        self._waiting = GaugeMetricFamily(
            f"{prefix}waiting", "Callers queued for a place.", labels=labels
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
            "Connections closed, by the reason.",
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
    # The port alone does not tell TLS: the same one may be spoken to in both ways.
    return f"{'wss' if endpoint.is_ssl else 'ws'}://{endpoint}"
