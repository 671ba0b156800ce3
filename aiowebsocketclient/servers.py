"""The servers of a ``Balanced``: which of them comes next, and which are left out.

A server is *out* after a handshake with it has failed, until a *probe* has succeeded: one handshake
at a time, after growing pauses, which a call begins and does not wait for.
"""

import asyncio
import math
import random
import sys
import weakref
from collections.abc import Callable, Container, Hashable, Iterable
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ._compat import Pool, Slot, clock, ensure_room
from ._pool_py import GAUGES, LATE_FACTOR
from .connecting import is_answer, is_failure_of_server
from .exceptions import HandshakeFailure, in_session, twin_of
from .keys import HandshakeKey, Target
from .lifecycle import Failure, Lifecycle
from .logs import fields_of_failure, log
from .pausing import Pauses
from .stats import BalancedStats

__all__ = ("Attempt", "Server", "Servers")

# The longest pause while all servers are out, and the pause after a probe that had to give way.
_LONGEST_PAUSE_IF_ALL_OUT: Final = 1.0

# How much a handshake counts for what is usual, where it took less than that.
_NEWEST_SHARE: Final = 0.125

_CONNECTING, _ACQUIRED, _IDLE, _CLOSING, _WAITING = map(
    GAUGES.index, ("connecting", "acquired", "idle", "closing", "waiting")
)


class Attempt(Protocol):
    """A handshake that can show whether a server is back: a slot, or the try of a call."""

    @property
    def born(self) -> float:
        """When it began."""
        ...

    @property
    def late(self) -> bool:
        """Whether it takes much longer than usual."""
        ...


class Server:
    """One URL, and how its handshakes go."""

    __slots__ = (
        "beginning",
        "endpoint",
        "is_silent",
        "key",
        "last_error",
        "last_failure",
        "path",
        "pauses",
        "probe",
        "url",
    )

    def __init__(self, url: str | URL, key: HandshakeKey) -> None:
        self.url = url
        self.endpoint = key.endpoint
        #: Identifies the server: the handshake of a call without options.
        self.key = key
        self.path = _path_of(key)
        self.pauses = Pauses()
        #: Tries that have begun, and that the core does not know yet.
        self.beginning = 0
        #: The handshake that shows whether the server is back; None: none is under way.
        self.probe: Attempt | None = None
        #: Whether the server is out because it did not answer.
        self.is_silent = False
        self.last_error: BaseException | None = None
        self.last_failure: HandshakeFailure | None = None

    @property
    def is_out(self) -> bool:
        """Whether the server gets no new connections, because handshakes have failed."""
        return self.pauses.failures > 0

    def retries_at(self, are_all_out: bool) -> float:
        """Return when the next probe may begin."""
        not_before = self.pauses.not_before
        if are_all_out:
            not_before = min(not_before, self.pauses.failed_at + _LONGEST_PAUSE_IF_ALL_OUT)
        return not_before

    def is_due(self, now: float, are_all_out: bool) -> bool:
        """Whether it is time for a probe."""
        return self.is_out and self.probe is None and self.retries_at(are_all_out) <= now

    def end_probe(self, probe: Attempt) -> None:
        """Let the next probe begin when it is due."""
        if self.probe is probe:
            self.probe = None

    def is_with(self, key: HandshakeKey) -> bool:
        """Whether a handshake is with this URL, with any headers, options and params."""
        if key.endpoint != self.endpoint:
            return False
        path = _path_of(key)
        return path == self.path or path.startswith(self.path + ("&" if "?" in self.path else "?"))


class Servers:
    """The servers of one ``Balanced``, in the order of their URLs."""

    __slots__ = ("__weakref__", "_lifecycle", "_pool", "_usual", "all")

    def __init__(self, lifecycle: Lifecycle, servers: list[Server]) -> None:
        self._lifecycle = lifecycle
        self._pool: Pool = lifecycle.pool
        self.all = servers
        # Seconds that handshakes take, with any server. The core knows it of each endpoint, and
        # forgets it with the last connection.
        self._usual = math.inf

    def replace(self, servers: list[Server]) -> Callable[[HandshakeKey], bool]:
        """Replace the servers, and keep the state of those that stay.

        Returns a function that tells whether a handshake is with a server that was removed.
        """
        old, known = self.all, {server.key: server for server in self.all}
        new = self.all = [known.get(server.key, server) for server in servers]
        removed = [server for server in old if server not in new]

        def is_removed(key: HandshakeKey) -> bool:
            return any(s.is_with(key) for s in removed) and not any(s.is_with(key) for s in new)

        return is_removed

    def stats(self) -> tuple[BalancedStats, ...]:
        """Return the state of each server."""
        now, are_all_out = clock(), self.are_all_out()
        return tuple([self._stats_of(server, now, are_all_out) for server in self.all])

    def _stats_of(self, server: Server, now: float, are_all_out: bool) -> BalancedStats:
        gauges = self._pool.situation(server.endpoint, now)[0]
        return BalancedStats(
            endpoint=server.endpoint,
            connecting=gauges[_CONNECTING],
            acquired=gauges[_ACQUIRED],
            idle=gauges[_IDLE],
            out=server.is_out,
            failures=server.pauses.failures,
            retry_in=max(0.0, server.retries_at(are_all_out) - now) if server.is_out else None,
            last_failure=server.last_failure,
        )

    # -- the choice ------------------------------------------------------------------------------

    def are_all_out(self) -> bool:
        """Whether no server is left."""
        return all(server.is_out for server in self.all)

    def with_idle_first(self) -> list[Server]:
        """Return the servers whose idle connections may be used, the least busy first.

        That a server refuses new connections says nothing about its idle ones, which notice their
        end at once; that it does not answer does.
        """
        now = clock()
        loads = [
            (self._load_of(server, now), server)
            for server in self.all
            if not (server.is_out and server.is_silent)
        ]
        loads.sort(key=_load)
        return [server for _, server in loads]

    def _load_of(self, server: Server, now: float) -> tuple[int, float]:
        """Return how many callers use, open or wait for connections; ties are broken at random."""
        gauges = self._pool.situation(server.endpoint, now)[0]
        callers = gauges[_CONNECTING] + gauges[_ACQUIRED] + gauges[_WAITING]
        return callers + server.beginning, random.random()

    def choose(
        self, tried: Container[Server], target_of: Callable[[Server], Target]
    ) -> Server | None:
        """Return the server for the next try of a call; None: there is none left.

        If all are out, it is one that is due for a probe.
        """
        now = clock()
        left = [server for server in self.all if server not in tried]
        if self.are_all_out():
            left = [server for server in left if server.is_due(now, True)]
        else:
            left = [server for server in left if not server.is_out]
        if not left:
            return None
        return min(left, key=lambda server: self._rank_of(server, target_of(server), now))

    def _rank_of(self, server: Server, target: Target, now: float) -> tuple[int, int, float]:
        """Return how far from the front a server stands."""
        gauges, lacking, *_ = self._pool.situation(server.endpoint, now)
        load, chance = self._load_of(server, now)
        if target.is_checked and self._pool.spare_count(target.key, 1):
            # An idle connection. Others were found before.
            return 0, load, chance
        if not lacking:
            return 1, load, chance
        if gauges[_IDLE]:
            # An idle connection of another handshake gives way.
            return 2, load, chance
        return 3, load, chance

    def count_left(self, tried: Container[Server]) -> int:
        """Return how many servers are not out, and not tried."""
        return sum(not server.is_out and server not in tried for server in self.all)

    def room(self) -> dict[Server, int]:
        """Return how many calls that wait for a place elsewhere each server could serve now."""
        now = clock()
        room = {}
        for server in self.all:
            gauges, lacking, *_ = self._pool.situation(server.endpoint, now)
            free = gauges[_IDLE] + (0 if lacking else self._free_places(gauges))
            free -= gauges[_WAITING] + server.beginning
            if free > 0 and not server.is_out:
                room[server] = free
        return room

    def _free_places(self, gauges: tuple[int, ...]) -> int:
        """Return how many handshakes could begin, but for limit_total."""
        settings = self._lifecycle.settings
        used = sum(gauges[index] for index in (_CONNECTING, _ACQUIRED, _IDLE, _CLOSING))
        places = sys.maxsize if settings.limit is None else settings.limit - used
        if settings.max_connecting is not None:
            places = min(places, settings.max_connecting - gauges[_CONNECTING])
        return max(1, places)

    # -- how handshakes go -----------------------------------------------------------------------

    def failed(self, server: Server, error: BaseException, begun: float, name: str = "") -> None:
        """Put a server out, because a handshake failed."""
        pause = server.pauses.failed(begun, clock())
        if pause is None:
            return
        failure = server.last_failure = HandshakeFailure.of(error)
        server.last_error = _for_others(error, server)
        server.is_silent = isinstance(error, TimeoutError)
        fields = fields_of_failure(failure) | {"retry_in": pause}
        if name:
            fields["error"] = name
        failures = server.pauses.failures
        if failures == 1:
            self._log("endpoint_out", server, **fields)
        else:
            self._log("endpoint_still_out", server, failures=failures, **fields)

    def late(self, server: Server, begun: float) -> None:
        """Put a server out, because a handshake takes several times as long as usual."""
        said = f"a handshake with {server.endpoint} takes several times as long as usual"
        error = aiohttp.ConnectionTimeoutError(in_session(self._lifecycle.settings.name, said))
        self.failed(server, error, begun, "late")

    def answered(self, server: Server, begun: float) -> None:
        """Take a server back, because it has answered a handshake."""
        failures = server.pauses.ended(begun)
        if failures:
            seconds = clock() - server.pauses.failing_since
            self._log("endpoint_back", server, failures=failures, seconds=seconds)

    def _log(self, event: str, server: Server, **fields: Any) -> None:
        name = self._lifecycle.settings.name
        log(event, session_name=name, endpoint=str(server.endpoint), **fields)

    def learn(self, seconds: float) -> None:
        """Learn how long handshakes take: the time rises at once, and falls slowly."""
        if seconds > self._usual or self._usual == math.inf:
            self._usual = seconds
        else:
            self._usual += (seconds - self._usual) * _NEWEST_SHARE

    def patience(self, server: Server) -> float:
        """Return after how many seconds a handshake takes several times as long as usual."""
        gauges = self._pool.situation(server.endpoint, clock())[0]
        # Among a hundred handshakes that begin together, the last waits for all the others.
        return LATE_FACTOR * self._usual * (1 + gauges[_CONNECTING] // 8)

    def stop_unneeded(self, key: Hashable) -> None:
        """Stop handshakes that nobody waits for, and that may hold up others."""
        for slot in list(self._lifecycle.under_way):
            if slot.key == key and not slot.kept:
                self._lifecycle.carry_out(self._pool.stop(slot))

    def last_error(self) -> BaseException:
        """Return the error of a call if all servers are out and none is due."""
        last = max(self.all, key=lambda server: server.pauses.failed_at)
        assert last.last_error is not None
        error = twin_of(last.last_error)
        error.add_note(f"(all {len(self.all)} URLs are left out after failed handshakes)")
        return error

    # -- probes ----------------------------------------------------------------------------------

    def is_any_due(self) -> bool:
        """Whether it is time for a probe."""
        now, are_all_out = clock(), self.are_all_out()
        return any(server.is_due(now, are_all_out) for server in self.all)

    def begin_probes(self, target_of: Callable[[Server], Target]) -> None:
        """Begin a handshake with each server that is due, for which nobody waits.

        If all are out, a call probes: it has nothing else to wait for.
        """
        now, are_all_out = clock(), self.are_all_out()
        for server in self.all:
            probe = server.probe
            if probe is not None and probe.late:
                server.probe = None
                self.late(server, probe.born)
            if not are_all_out and server.is_due(now, False):
                self._begin_probe(server, target_of(server))

    def _begin_probe(self, server: Server, target: Target) -> None:
        ensure_room()
        slot = self._pool.open(target.endpoint, target.key, clock())
        if slot is None:
            # There is no room. A later call tries again.
            return
        server.probe = slot
        finished = self._lifecycle.start_connecting(slot, target, copy_context())
        finished.add_done_callback(partial(_call_probed, weakref.ref(self), server, slot))

    def _probed(
        self, server: Server, slot: Slot, finished: "asyncio.Future[Failure | None]"
    ) -> None:
        server.end_probe(slot)
        failure = None if finished.cancelled() else finished.result()
        if finished.cancelled() and slot.late:
            self.late(server, slot.born)
        elif failure is None and not finished.cancelled():
            self.learn(clock() - slot.began)
            self.answered(server, slot.born)
        elif failure is not None and is_answer(failure.error):
            self.answered(server, slot.born)
        elif failure is not None and is_failure_of_server(failure.error):
            self.failed(server, failure.error, slot.born)
        else:
            # It gave way to a caller, was drained, or has failed in a hook.
            server.pauses.not_before = clock() + _LONGEST_PAUSE_IF_ALL_OUT


def _load(pair: tuple[tuple[int, float], Server]) -> tuple[int, float]:
    return pair[0]


def _path_of(key: HandshakeKey) -> str:
    """Return path and query of a handshake; for a proxy, it has the whole URL."""
    resource = key.resource
    return resource if resource.startswith("/") else URL(resource, encoded=True).raw_path_qs


def _call_probed(
    this: "weakref.ref[Servers]",
    server: Server,
    slot: Slot,
    finished: "asyncio.Future[Failure | None]",
) -> None:
    servers = this()
    if servers is not None:
        servers._probed(server, slot, finished)


# -- errors that others get too ------------------------------------------------------------------


def _for_others(error: BaseException, server: Server) -> BaseException:
    """Return a twin of an error without what belongs to its caller: headers, query, frames."""
    twin = _bare(error)
    if isinstance(twin, aiohttp.ClientResponseError):
        host, port, is_ssl = server.endpoint
        url = URL.build(scheme="wss" if is_ssl else "ws", host=host, port=port or None)
        nothing: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
        twin.request_info = aiohttp.RequestInfo(url, twin.request_info.method, nothing, url)
        twin.history = ()
        said = CIMultiDict(twin.headers or ()).get("Retry-After")
        twin.headers = CIMultiDict() if said is None else CIMultiDict({"Retry-After": said})
        twin.args = (twin.request_info, twin.history)
    return twin


def _bare(error: BaseException) -> BaseException:
    """Return a twin of an error, and of the errors that it has, without frames and credentials."""
    twin = twin_of(error)
    twin.__cause__ = twin.__context__ = None
    twin.args = tuple(_bared(twin.args))
    fields = vars(twin)
    fields.update(zip(fields, _bared(fields.values()), strict=True))
    return twin


def _bared(values: Iterable[Any]) -> list[Any]:
    bared: list[Any] = []
    for value in values:
        if isinstance(value, BaseException):
            bared.append(_bare(value))
        elif isinstance(value, tuple) and hasattr(value, "proxy_auth"):
            # The key of a connection of aiohttp.
            bared.append(value._replace(proxy_auth=None))  # type: ignore[attr-defined]
        else:
            bared.append(value)
    return bared
