"""The limit of a fleet in Redis or Valkey: ``RedisFleet``, for ``fleet=`` of a session.

It needs the extra ``redis`` (redis-py), or valkey-py with the same API.  ``fleet.lua`` decides who
gets which places; a session calls it once for each change, not for each connection.
"""

import asyncio
import hashlib
import re
import weakref
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final, Literal, NoReturn

from . import arguments
from .fleet import TURN_GRACE, EngineError, Grant, Report
from .hooks import is_being_cancelled

__all__ = ("RedisFleet",)

_SCRIPT: Final = (files("aiowebsocketclient") / "fleet.lua").read_text(encoding="utf-8")
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

# The keys of the script, in its order; all in the slot of the hash tag.
_KEYS: Final = ("state", "members", "expiry", "rich", "line", "spare", "turns")

# Seconds for which a session that waits is passed over, where there are more sessions than places.
_TURN: Final = 1.0

# Errors with which Redis answers, but which pass by themselves.
_OUTAGES: Final = frozenset(
    {
        "AskError",
        "BusyLoadingError",
        "ClusterDownError",
        "ConnectionError",
        "MasterDownError",
        "MovedError",
        "ReadOnlyError",
        "TryAgainError",
    }
)

# Seconds without a message after which the subscribed connection is asked for a sign of life.
_SILENCE: Final = 5.0


class RedisFleet:
    """A limit over all sessions with the same ``name`` and the same Redis, in any process.

    :param client: a client of ``redis.asyncio`` or ``valkey.asyncio``: ``Redis``,
        ``Sentinel.master_for()`` or ``RedisCluster``.  It stays open; close it after the sessions.
        It belongs to one event loop.  Its pool must allow at least 2 connections, and one more than
        there are sessions with this client.
    :param name: the account whose connections are limited.  It may be an API key: only its hash
        goes to Redis.
    :param limit: maximum number of connections of all sessions together.  All processes pass the
        same number, and the same values of the other arguments.
    :param connect_rate: ``(count, seconds)``: maximum number of handshakes of all sessions in any
        window of so many seconds.  None: no limit.
    :param lease: seconds after which the places of a process that was killed are free.  At least 1.
    :param lost: if Redis was not reached for ``lease`` seconds: ``"keep"``: open nothing and go on
        using what is open; ``"close"``: abort all connections before others can get the places.
    :param fallback: connections that each session may have in any case, beside ``limit``, also
        while Redis cannot be reached: subtract the number of sessions times ``fallback`` from the
        provider's limit.
    :param keep_idle: seconds for which an idle connection is kept although another process waits.
        None: as long as the session's handshakes take on average, 0.05 to 1.

    One object can serve any number of sessions of one event loop, which share one subscribed
    connection to Redis.  Until a Redis server has been up for ``lease`` seconds, nobody gets a
    place, since it may have forgotten what it granted.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        limit: int,
        connect_rate: tuple[int, float] | None = None,
        lease: float = 30.0,
        lost: Literal["keep", "close"] = "keep",
        fallback: int = 0,
        keep_idle: float | None = None,
    ) -> None:
        if not hasattr(client, "evalsha") or not hasattr(client, "aclose"):
            raise TypeError(
                "client must be a client of redis.asyncio or valkey.asyncio, such as"
                f" redis.asyncio.Redis(), not {type(client).__module__}.{type(client).__name__}"
            )
        _check_pool(client)
        self._client = client
        self._hash = hashlib.blake2b(_name(name).encode(), digest_size=16).hexdigest()
        self._keys = tuple(f"{self.key}:{part}" for part in _KEYS)
        self._limit = arguments.at_least_one("limit", limit)
        self._connect_rate = _rate(connect_rate)
        self._lease = _lease(lease)
        if lost not in ("keep", "close"):
            raise ValueError(f"lost must be 'keep' or 'close', got {lost!r}")
        self._lost: Literal["keep", "close"] = lost
        self._fallback = arguments.places("fallback", fallback) or 0
        self._keep_idle = (
            None if keep_idle is None else arguments.some_seconds("keep_idle", keep_idle)
        )

    @property
    def key(self) -> str:
        """The prefix of the keys in Redis, with a hash of ``name`` in place of ``name``."""
        return f"awc:{{{self._hash}}}"

    @property
    def limit(self) -> int:
        """Maximum number of connections of all sessions; :meth:`resize` changes it."""
        return self._limit

    @property
    def lease(self) -> float:
        """Seconds after which the places of a process that was killed are free."""
        return self._lease

    @property
    def lost(self) -> Literal["keep", "close"]:
        """Action on open connections after a lease without Redis: ``"keep"`` or ``"close"``."""
        return self._lost

    @property
    def connect_rate(self) -> tuple[int, float] | None:
        """Maximum number of handshakes, and the seconds of the window; None: no limit."""
        return self._connect_rate

    @property
    def fallback(self) -> int:
        """Connections that each session may have in any case."""
        return self._fallback

    @property
    def keep_idle(self) -> float | None:
        """Seconds for which an idle connection is kept although another process waits, or None."""
        return self._keep_idle

    def __repr__(self) -> str:
        """Return the key and the limit; name and client may contain secrets."""
        return f"<RedisFleet {self.key} limit={self._limit}>"

    def resize(self, limit: int) -> None:
        """Set a new limit: call it in each process, as each report carries the limit.

        It takes effect with the next reports, within a third of the lease.  Sessions above a lower
        limit give idle connections back at once, and others at their release.

        :param limit: maximum number of connections of all sessions together, >= 1; otherwise
            ``TypeError`` or ``ValueError``.
        """
        self._limit = arguments.at_least_one("limit", limit)

    async def sync(self, member: str, report: Report) -> Grant | None:
        """Deliver a report: see :class:`~aiowebsocketclient.fleet.Fleet`."""
        allowed, seconds = self._connect_rate or (0, 0.0)
        window = round((seconds + TURN_GRACE) * 1000) if allowed else 0
        try:
            reply = await self._call(
                (member, report.seq, round(self._lease * 1000), self._limit, round(_TURN * 1000)),
                (report.held, report.cap, report.known, report.until, report.demand, report.like),
                (report.spare, report.handshakes, allowed, window, self._channel(""), "p", "1"),
            )
        except Exception as exc:
            names = {base.__name__ for base in type(exc).__mro__}
            if "ResponseError" in names and not names & _OUTAGES:
                raise EngineError(f"{type(exc).__name__}: {_without_user(str(exc))}") from None
            raise
        if reply[0] < 0:
            return None
        places, target, until, waiting, used, learning, limit, *turns = reply
        delays = tuple(delay / 1000 for delay in turns)
        return Grant(places, target, until, waiting, used, learning / 1000, delays, limit)

    async def listen(self, member: str, nudge: Callable[[], None]) -> NoReturn:
        """Wait for nudges: see :class:`~aiowebsocketclient.fleet.Fleet`."""
        await _Listener.of(self._client).listen(self._channel(member), nudge)

    def _channel(self, member: str) -> str:
        return f"{self.key}:nudge:{member}"

    async def _call(self, *parts: tuple[Any, ...]) -> list[int]:
        sent = [argument for part in parts for argument in part]
        for is_last in (False, True):
            try:
                reply: list[int]
                reply = await self._client.evalsha(_SHA, len(_KEYS), *self._keys, *sent)
                return reply
            except Exception as exc:
                # By name: it may be of redis-py or of valkey-py.
                if is_last or type(exc).__name__ != "NoScriptError":
                    raise
            await self._client.script_load(_SCRIPT)
        raise AssertionError


# Listeners by the identities of client and loop, which a listener keeps alive.
_listeners: "weakref.WeakValueDictionary[tuple[int, int], _Listener]"
_listeners = weakref.WeakValueDictionary()


class _Listener:
    """One subscribed connection for all sessions that use a client in a loop."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._nudges: dict[str, Callable[[], None]] = {}
        # Channels that nobody listens to any more, and that are subscribed yet.
        self._left: set[str] = set()
        self._broken: asyncio.Future[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pubsub: Any = None
        self._subscribing = asyncio.Lock()

    @classmethod
    def of(cls, client: Any) -> "_Listener":
        """Return the listener of a client in the running loop."""
        loop = asyncio.get_running_loop()
        listener = _listeners.get((id(client), id(loop)))
        if listener is None:
            listener = _listeners[id(client), id(loop)] = cls(client, loop)
        return listener

    async def listen(self, channel: str, nudge: Callable[[], None]) -> NoReturn:
        """Call ``nudge`` for each message; raise if the connection breaks."""
        self._nudges[channel] = nudge
        try:
            await self._subscribe(channel)
            if is_being_cancelled():
                # The client has lost the cancellation, while it connected for example.
                raise asyncio.CancelledError
            assert self._broken is not None
            await asyncio.shield(self._broken)
            raise ConnectionError("the subscribed connection has ended")
        finally:
            # A session that has left and come back may listen again before this has ended.
            if self._nudges.get(channel) is nudge:
                del self._nudges[channel]
                self._left.add(channel)
            if not self._nudges and self._reading is not None:
                self._reading.cancel()
                self._reading = None

    async def _subscribe(self, channel: str) -> None:
        if not hasattr(self._client, "pubsub"):
            # A cluster client of an older redis-py. Sessions that wait look once a second.
            self._broken = self._broken or self._loop.create_future()
            return
        async with self._subscribing:
            if self._reading is None or self._reading.done():
                self._pubsub = await self._subscribed(channel)
                self._left.clear()
                self._broken = self._loop.create_future()
                self._reading = self._loop.create_task(self._read(self._pubsub, self._broken))
            else:
                await self._pubsub.subscribe(channel)

    async def _subscribed(self, channel: str) -> Any:
        """Return a new connection that is subscribed to the channel."""
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(channel)
        except BaseException:
            await pubsub.aclose()
            raise
        return pubsub

    async def _read(self, pubsub: Any, broken: "asyncio.Future[None]") -> None:
        is_asked = False
        try:
            while True:
                await self._unsubscribe(pubsub)
                message = await pubsub.get_message(timeout=_SILENCE)
                if message is not None:
                    is_asked = False
                    self._deliver(message)
                elif is_asked:
                    break
                else:
                    is_asked = True
                    await pubsub.ping()
        except Exception:
            # Who listens begins anew.
            pass
        finally:
            if not broken.done():
                broken.set_result(None)
            await pubsub.aclose()

    def _deliver(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        if isinstance(channel, bytes):
            channel = channel.decode()
        nudge = self._nudges.get(channel)
        # After "subscribe", too: if the client has connected again, messages may be lost.
        if nudge is not None and message["type"] in ("message", "subscribe"):
            nudge()

    async def _unsubscribe(self, pubsub: Any) -> None:
        """Unsubscribe from what sessions that have left listened to, before the next message."""
        if not self._left:
            return
        async with self._subscribing:
            channels = [channel for channel in self._left if channel not in self._nudges]
            self._left.clear()
            if channels:
                await pubsub.unsubscribe(*channels)


def _without_user(text: str) -> str:
    """Return the text of an error without the name of the user, which may be of the URL."""
    return re.sub(r"\b[Uu]ser \S+ has\b", "the user has", text)


def _check_pool(client: Any) -> None:
    """Raise if a client has one connection only: it is subscribed, and reports need another."""
    pool = getattr(client, "connection_pool", None)
    if getattr(pool, "max_connections", None) == 1:
        raise ValueError(
            "client must have a connection pool with max_connections of at least 2, not 1: nudges"
            " come on one connection, and reports need another"
        )


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"name must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError("name must not be empty: it identifies the account")
    return value


def _lease(value: Any) -> float:
    seconds = arguments.some_seconds("lease", value)
    if seconds < 1:
        raise ValueError(f"lease must be at least 1 second, got {seconds:g}")
    return seconds


def _rate(value: Any) -> tuple[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError("connect_rate must be (count, seconds), such as (300, 300.0), or None")
    count = arguments.at_least_one("the count of connect_rate", value[0])
    seconds = arguments.some_seconds("the seconds of connect_rate", value[1])
    if not seconds:
        raise ValueError("the seconds of connect_rate must be more than 0")
    return count, seconds
