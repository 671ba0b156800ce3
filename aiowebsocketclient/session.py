"""The session: the methods that users call.

Its parts do the work: ``acquiring.py``, ``returning.py``, ``prewarming.py``, ``keeping.py`` and
``ending.py``, all by means of ``lifecycle.py``.  Only the core decides what may be open, and who
gets it.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, Self, Unpack

import aiohttp
from aiohttp.typedefs import LooseHeaders, StrOrURL
from multidict import CIMultiDict
from yarl import URL

from . import _compat, arguments
from ._aiohttp_private import get_running_loop
from ._compat import DONE, UNSET, SessionBase, clock, ensure_room
from ._pool_py import Completion
from .acquiring import Acquiring, note_acquired, take_idle, wait
from .arity import check_arity
from .balancing import Balanced
from .connecting import Client, check_open
from .ending import Ending
from .fleet import Fleet, FleetStats
from .forking import note_use
from .hooks import Hook
from .implied import Implied
from .keeping import Keeping
from .keys import EndpointKey, Target, is_with, parse_url, resolve, version_of
from .leaks import LeakWatch
from .lifecycle import Lifecycle
from .loops import refuse_to_close, running_loop
from .prewarming import Prewarm
from .response import ClientWebSocketResponse, Owner
from .returning import Returning
from .settings import Settings
from .stats import PoolStats
from .targets import ATOMS, Targets
from .tracing import TraceConfig, Tracer
from .typedefs import Acquisition, IdleMessageHook, Keepalive, WS_co, WSConnectOptions

__all__ = ("GOING_AWAY", "WebSocketClientSession")

#: For ``retire_on=``: the close codes of a server that goes away (1001), restarts (1012), or is
#: overloaded (1013).
GOING_AWAY: Final = frozenset({1001, 1012, 1013})

# asyncio only runs coroutines; these classes are coroutines for it.
Acquisition.register(_compat.Acquisition)
Completion.register(type(DONE))  # pyright: ignore[reportAttributeAccessIssue]


class WebSocketClientSession(SessionBase, Generic[WS_co]):
    """A pool of WebSocket client connections.

    :param conn_timeout: seconds for one connection to be established: DNS, TCP, TLS and the
        upgrade; then ``aiohttp.ConnectionTimeoutError``.  0 or None: no timeout.
    :param force_close: close connections on release instead of pooling them.
    :param limit: maximum number of connections to one endpoint ``(host, port, is_ssl)``; None or 0:
        no limit.
    :param headers: headers of every handshake.
    :param client_session: the ``aiohttp.ClientSession`` used to connect; default: the session's
        own, without limit and without cookies.
    :param loop: the event loop; default: the loop that runs at the first use.
    :param ws_response_class: a subclass of :class:`ClientWebSocketResponse` to return.  For type
        checkers, the session is then a ``WebSocketClientSession[MyWS]``.
    :param limit_total: maximum number of connections to all endpoints; None or 0: no limit.
    :param max_connecting: maximum number of handshakes under way to one endpoint; None or 0: no
        limit.
    :param acquire_timeout: seconds that a caller waits for a connection, for any reason; then
        :exc:`PoolTimeoutError`.  None: no timeout.  0: only an idle connection, at once.
    :param max_waiting: maximum number of callers queued for one endpoint; the next caller gets
        :exc:`TooManyWaitersError`.  None: no limit.
    :param max_idle: seconds after which an unused idle connection is closed.  None: never.
    :param max_idle_connections: maximum number of idle connections of all endpoints; if one more
        becomes idle, the longest idle connection is closed.  Default: half of the process's soft
        limit of open files (``ulimit -n``) when the session is created; 256 on Windows.  None: no
        limit.  0 raises ``ValueError``: use ``force_close=True`` to pool nothing.
    :param max_lifetime: seconds since the start of the handshake after which a connection is not
        handed out again, less up to 5 % at random.  None: no limit.
    :param close_timeout: seconds for a closing handshake before the transport is aborted; also the
        limit of :meth:`close` as a whole.  At most a second is used after a ``receive()`` that was
        cancelled or timed out, after a hook that timed out or failed in silence, and if an
        exception leaves the session's own block.
    :param cooldown: seconds for which a place stays taken after a connection was closed while in
        use, or with a reply on the way, since the server may still count it.  0: no cooldown.
    :param client_session_owner: whether :meth:`close` closes ``client_session``.
    :param connect_limiter: an asynchronous context manager entered around each handshake:
        ``aiolimiter.AsyncLimiter(300, 300)``, ``asyncio.Semaphore(10)``.
    :param load_balance_hosts: ``"random"``: connect to the addresses of a name in random order,
        within each address family; after a refusal, the next address follows; not with
        ``client_session``.  None or ``"disable"``: in the order of the lookup.
    :param configure: hook ``async (ws) -> None``, called once for each connection after its
        handshake, for example to authenticate.  If it raises, the caller gets the exception.
    :param check: hook, called before a pooled connection is handed out.  If it raises, the
        connection is closed, and the caller gets another or a new connection.  Idle connections to
        the endpoint that have been silent for longer are then checked in the background before they
        are handed out: a caller pays for one failed check, not for each.  With
        ``acquire_timeout=0``, the caller gets neither these nor a new connection.
    :param reset: hook, called after a release, before the connection is pooled or handed on, for
        example to unsubscribe.  If it raises, the connection is closed.  No caller waits for it.
    :param on_idle_message: function ``(message) -> str | bytes | bool | None`` for messages that
        come while a connection is idle, or are unread at its release.  A str or bytes is sent as
        the answer.  True keeps the connection.  False or None closes the connection.
    :param keepalive: ``(seconds, message or hook)``: sent or called each time a connection has been
        idle for that time.  A hook reads the answer itself.  With ``on_idle_message``, the server
        must answer a message: no caller gets the connection until the function has returned True
        for the answer; after ``hook_timeout`` without an answer, the connection is closed.
    :param goodbye: a str or bytes, sent before the pool closes a connection that is fit for reuse.
    :param hook_timeout: seconds after which a hook has failed.  None: no timeout.
    :param retire_on: close codes, such as :data:`GOING_AWAY`.  If the server closes an idle
        connection with one of them, idle connections with the same handshake that are as old or
        older are closed, too.
    :param leak_threshold: seconds in use after which a connection is logged once, with the place
        where it was acquired.  None: no logging.
    :param trace_configs: handlers for events of the pool: see :class:`TraceConfig`.
    :param name: name of the session: in its ``repr``, in log records, in errors of the pool, and,
        as the name of the pool, in metrics.  None: no name.
    :param fleet: a limit over the sessions of many processes, such as a
        :class:`~aiowebsocketclient.redis.RedisFleet`, which stays open when the session is closed.
        ``limit`` and ``limit_total`` of the session apply as well.  None: no such limit.

    A hook gets its own handle, whose ``release()`` does nothing.  A hook fails if it closes the
    connection, ``check`` and ``reset`` also if they leave a message unread.  A connection counts as
    acquired during ``check`` and ``reset``, and as connecting during ``configure``.

    Invalid arguments raise ``TypeError`` or ``ValueError``.  A session belongs to one event loop
    and is not thread-safe.
    """

    # CPython looks up methods faster while the __dict__ of an object has at most 30 names.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_begin_close",
        "_carry_out",
        "_check",
        "_detach",
        "_ending",
        "_fail",
        "_give_up",
        "_keeping",
        "_leak_watch",
        "_lifecycle",
        "_pool_client",
        "_pool_settings",
        "_raise_if_overdue",
        "_refusal",
        "_released",
        "_returning",
        "_time_out",
        "_tracer",
    )

    # For __del__, which runs even if the constructor raises.
    _bound = False
    # For handles: ``async with`` releases.
    _closes_at_exit = False

    @arguments.hinting
    def __init__(
        self,
        *,
        conn_timeout: float | None = None,
        force_close: bool = False,
        limit: int | None = None,
        headers: LooseHeaders | None = None,
        client_session: aiohttp.ClientSession | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        ws_response_class: type[WS_co] = ClientWebSocketResponse,  # type: ignore[assignment]
        limit_total: int | None = None,
        max_connecting: int | None = 100,
        acquire_timeout: float | None = None,
        max_waiting: int | None = None,
        max_idle: float | None = 600.0,
        max_idle_connections: int | None = UNSET,
        max_lifetime: float | None = None,
        close_timeout: float = 10.0,
        cooldown: float = 0.0,
        client_session_owner: bool = True,
        connect_limiter: AbstractAsyncContextManager[Any, Any] | None = None,
        load_balance_hosts: Literal["disable", "random"] | None = None,
        configure: Hook[WS_co] | None = None,
        check: Hook[WS_co] | None = None,
        reset: Hook[WS_co] | None = None,
        on_idle_message: IdleMessageHook | None = None,
        keepalive: Keepalive[WS_co] | None = None,
        goodbye: str | bytes | None = None,
        hook_timeout: float | None = 10.0,
        retire_on: Iterable[int] = (),
        leak_threshold: float | None = None,
        trace_configs: Iterable[TraceConfig] = (),
        name: str | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        # The options by name: there are no other local variables yet.
        settings = self._pool_settings = Settings(locals())
        self._pool_client = Client(
            arguments.client_session(client_session), bool(client_session_owner)
        )
        self._loop = arguments.loop(loop)
        self._acquire_timeout = settings.acquire_timeout
        threshold = settings.leak_threshold
        self._leak_watch = None if threshold is None else LeakWatch(threshold, settings.name)
        self._tracer = Tracer(self, settings.trace_configs) if settings.trace_configs else None
        # Whether each acquisition and each release must go through the session.
        self._is_watched = self._tracer is not None or self._leak_watch is not None
        self._pool = settings.make_pool()
        self._targets = Targets(settings.headers)
        self._atoms = ATOMS
        self._default_headers: CIMultiDict[str] = CIMultiDict()
        self._default_headers_version = 0
        self._watches_headers = False
        if client_session is not None:
            self._watch_headers(client_session)
        self._debug = False
        self._divide_work()

    def _divide_work(self) -> None:
        """Create the parts of the session.

        No part refers to the session, so a dropped session is collected at once.  The core calls
        methods of the parts directly, by attributes of the session.
        """
        self._express = self._pool_settings.make_express(self._pool, self._is_watched)
        self._lifecycle = Lifecycle(
            self._pool, self._pool_settings, self._pool_client, self._express, self._tracer
        )
        self._keeping = Keeping(self._lifecycle)
        self._ending = Ending(self._lifecycle, self._pool_client, self._tracer)
        self._carry_out = self._lifecycle.carry_out
        acquiring = Acquiring(self._lifecycle)
        self._refusal = acquiring.refusal
        self._raise_if_overdue = acquiring.raise_if_overdue
        self._check = acquiring.check
        self._time_out = acquiring.time_out
        self._give_up = acquiring.give_up
        returning = Returning(self._lifecycle, self._pool_client, self._tracer, self._leak_watch)
        self._returning = returning
        self._released = returning.released
        self._fail = returning.fail
        self._detach = returning.detach
        self._begin_close = returning.begin_close

    # -- reading ---------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        lifecycle = getattr(self, "_lifecycle", None)
        # If the constructor has failed, nothing is open.
        return lifecycle is None or lifecycle.is_closed

    @property
    def name(self) -> str | None:
        """The name of the session, or None."""
        return self._pool_settings.name

    @property
    def limit(self) -> int | None:
        """Maximum connections to one endpoint; None: no limit.  :meth:`resize` changes it."""
        return self._pool_settings.limit

    @property
    def force_close(self) -> bool:
        """Whether connections are closed on release instead of being pooled."""
        return self._pool_settings.force_close

    @property
    def client_session(self) -> aiohttp.ClientSession:
        """The ``aiohttp.ClientSession`` used to connect.

        The first use creates the session's own.  This raises ``RuntimeError`` without a running
        event loop, and :exc:`PoolClosedError` after :meth:`close`.
        """
        if self._pool_client.session is None:
            self._bind()
        return self._pool_client.get()

    def stats(self) -> PoolStats:
        """Return gauges and counters of all endpoints together.

        This method and :meth:`stats_by_endpoint` are thread-safe; the counters never decrease.
        """
        return PoolStats.from_core(self._pool.gauges(), self._pool.counters())

    def stats_by_endpoint(self) -> dict[EndpointKey, PoolStats]:
        """Return the statistics of each endpoint with a connection, handshake or waiting caller."""
        by_endpoint: Any = self._pool.by_endpoint()
        return {key: PoolStats.from_core(*numbers) for key, numbers in by_endpoint.items()}

    def fleet_stats(self) -> FleetStats | None:
        """Return the numbers of the session's fleet; None: the session has no ``fleet``."""
        lessee = self._lifecycle.lessee
        return None if lessee is None else lessee.stats()

    def __reduce__(self) -> NoReturn:
        """Raise: a session cannot be copied or pickled."""
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: its connections are open"
        )

    def __repr__(self) -> str:
        """Return the class and the name with the current numbers."""
        connecting, acquired, idle, closing, waiting, endpoints = self._pool.gauges()
        state = "" if self._pool_settings.name is None else f"{self._pool_settings.name!r} "
        state += "closed " if self._lifecycle.is_closed else ""
        return (
            f"<{type(self).__name__} {state}{acquired=} {idle=} {connecting=} {closing=}"
            f" {waiting=} {endpoints=}>"
        )

    # -- acquiring -------------------------------------------------------------------------------

    # The core accepts any keyword arguments, and refuses unknown ones.
    @arguments.implemented_by(SessionBase.ws_connect)
    def ws_connect(  # type: ignore[override]
        self,
        url: StrOrURL,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> Acquisition[WS_co]:
        """Acquire a connection to ``url``: an idle connection if there is one, or a new one.

        Await the result, a coroutine that returns a :class:`ClientWebSocketResponse`, or use it as
        ``async with session.ws_connect(url) as ws``: a clean exit releases the connection, and any
        exception closes it in the background.

        :param url: a ``str`` or a ``yarl.URL``.
        :param reuse_key: any hashable object; replaces headers and cookies in the comparison that
            decides which open connections fit.
        :param acquire_timeout: seconds to wait for a connection, in place of the session's
            ``acquire_timeout``.  None: no timeout.  0: only an idle connection, at once.
        :param options: options of :meth:`aiohttp.ClientSession.ws_connect`, with its defaults; and
            ``configure``, ``check``, ``reset``, ``on_idle_message``, ``keepalive`` and ``goodbye``,
            which default to those of the session.

        Raises :exc:`PoolTimeoutError` (with a ``fleet``, also :exc:`FleetUnavailableError`),
        :exc:`TooManyWaitersError`, :exc:`PoolClosedError`, and the exceptions of aiohttp while
        connecting.  Invalid arguments raise immediately, before the result is awaited.
        """
        raise NotImplementedError

    def balanced(self, urls: Iterable[StrOrURL]) -> Balanced[WS_co]:
        """Return a :class:`Balanced`, which spreads its calls over several servers of a service.

        Create it once and keep it: it knows which servers are down.

        :param urls: the URLs of the servers: at least one ``str`` or ``yarl.URL``, and no server
            twice; otherwise ``ValueError`` or ``TypeError``.
        """
        return Balanced(self, urls)

    async def prewarm(
        self,
        url: StrOrURL,
        count: int,
        *,
        progress: Callable[[int, int], object] | None = None,
        reuse_key: Hashable = None,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> int:
        """Open connections until at least ``count`` are open for these options.

        Limits, ``max_connecting`` and ``max_idle_connections`` apply: ``prewarm()`` opens only as
        many connections as there is room for, closes none for it, and gives way to callers.  A
        caller that arrives meanwhile gets a connection that is being opened.  After a
        :meth:`drain`, ``prewarm()`` starts again.

        :param count: number of connections with this handshake that are open at the end, idle or in
            use; >= 0.
        :param progress: called with the number of connections opened so far, and the number opened
            or under way.
        :return: the number of connections opened by this call.

        After a failed handshake it starts no more, waits for the handshakes under way, and raises
        :exc:`PrewarmError` with the exceptions of all failed handshakes; opened connections stay
        open.  It does not wait for a handshake that takes several times as long as usual at its
        endpoint: it starts another one, up to ``count`` in total.  If these are late, too, they
        count as failed.  ``conn_timeout`` bounds each handshake; to bound the whole call, use
        ``asyncio.timeout()``.  Other arguments and exceptions are those of :meth:`ws_connect`.
        """
        wanted = arguments.count(count)
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable, not {type(progress).__name__}")
        if progress is not None:
            check_arity("progress", progress, "opened so far", "opened or under way")
        self._bind()
        target = self._resolve(url, dict(options), reuse_key, "prewarm")
        target = self._lifecycle.with_cookies(target)
        return await Prewarm(self._lifecycle, target, wanted, progress).run()

    def set_min_idle(
        self,
        url: StrOrURL,
        count: int,
        *,
        reuse_key: Hashable = None,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> None:
        """Keep at least ``count`` connections idle for these options, in the background.

        If fewer are idle, missing connections are opened: at once after a connection was closed,
        for any reason (including ``max_idle`` and :meth:`drain`), and within a second after callers
        have acquired some.  Limits, ``max_connecting`` and ``max_idle_connections`` apply: the
        session opens only as many connections as there is room for, closes none for it, and gives
        way to callers.  If a connection was closed because too many were idle, it opens none for
        10 s.

        Failed handshakes, and connections that the server closes at once, are retried one at a
        time, after random pauses of up to 0.1 s, 0.2 s, 0.4 s and so on, at most 30 s, until a
        connection has lasted a second or was used.  The first failure is logged as a warning, and
        so is the recovery.  If each reply replaces a cookie of its request, only the newest
        connection fits, so only one is kept.

        :param count: replaces the previous number for the same options; 0: keep none.  Connections
            that are already idle stay open.

        Handshakes and failures are traced and logged in the context (``contextvars``) of the last
        call, like those of a task that it had started; so call it where the service starts.

        :meth:`close` ends it.  Invalid arguments raise as in :meth:`ws_connect`.  The first use of
        a session needs a running event loop (``RuntimeError``).
        """
        wanted = arguments.count(count)
        self._bind()
        target = self._resolve(url, dict(options), reuse_key, "set_min_idle")
        ensure_room()
        self._keeping.keep(target, wanted)

    def _watch_headers(self, client_session: aiohttp.ClientSession) -> None:
        self._default_headers = client_session.headers
        self._watches_headers = bool(client_session.headers)
        self._default_headers_version = version_of(client_session.headers)

    def _forget_stale_targets(self) -> None:
        """Drop all targets if the headers of the client session have changed."""
        self._watches_headers = True
        version = version_of(self._default_headers)
        if version != self._default_headers_version:
            self._default_headers_version = version
            self._targets.clear()

    def _resolve(
        self, url: StrOrURL, options: dict[str, Any], reuse_key: Hashable, by: str = "ws_connect"
    ) -> Target:
        return resolve(
            url,
            options,
            headers=self._targets.headers,
            reuse_key=reuse_key,
            client_session=self._pool_client.session,
            hooks=self._pool_settings.hooks,
            method=by,
        )

    def _resolve_anew(
        self, signature: Hashable, url: str | URL, options: dict[str, Any], reuse_key: Hashable
    ) -> Target:
        """Resolve the arguments of a call, and cache the target if it has a signature."""
        target: Target | None = self._targets.variant_of(url, reuse_key, options)
        if target is not None:
            return target
        target = self._resolve(url, options, reuse_key)
        if signature is not None and not self._lifecycle.is_closed:
            self._targets.remember(signature, target)
            if not self._default_headers:
                self._targets.note_pattern(url, reuse_key, options, target)
        return target

    _check_timeout = staticmethod(partial(arguments.seconds, "acquire_timeout"))

    async def _acquire(self, target: Target, acquire_timeout: float | None) -> WS_co:
        """Acquire a connection if the fast path of the core does not apply."""
        self._bind()
        target = self._lifecycle.with_cookies(target)
        ws: Any = take_idle(self, target)
        if ws is None:
            ws = await wait(self, target, acquire_timeout)
        note_acquired(self, ws)
        return ws  # type: ignore[no-any-return]

    def _bind(self) -> None:
        """Ensure that the session is open, and has its loop and its client session."""
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        loop = self._loop
        if loop is None or get_running_loop() is not loop:
            loop = self._loop = running_loop(loop, self._pool_settings.name)
        if self._pool_client.session is not None:
            check_open(self._pool_client.session, self._pool_settings.name)
        if not self._bound:
            self._begin(loop)
        # The loop may continue in another thread.
        self._express.thread = get_ident()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set up, at the first use, what depends on the loop and the client session."""
        client_session = self._pool_client.begin(loop, self._pool_settings)
        self._lifecycle.implied = Implied(client_session, self._pool.keys) or None
        self._watch_headers(client_session)
        self._targets.clear()
        self._debug = loop.get_debug()
        self._express.begin(loop, get_ident())
        self._express.open = not (self._lifecycle.implied or self._debug or self._is_watched)
        self._lifecycle.loop = loop
        if self._lifecycle.lessee is not None:
            self._lifecycle.lessee.begin(loop)
        self._bound = True
        note_use(self)

    # -- changing limits -------------------------------------------------------------------------

    def resize(self, *, limit: int | None = UNSET, limit_total: int | None = UNSET) -> None:
        """Change the limits; a limit that is not passed stays the same.

        Raising a limit admits waiting callers at once.  Lowering a limit closes surplus idle
        connections, the longest idle first; surplus connections in use are closed when they are
        released.

        :param limit: maximum number of connections to one endpoint; None or 0: no limit.
        :param limit_total: maximum number of connections to all endpoints; None or 0: no limit.

        Raises ``TypeError`` or ``ValueError`` for an invalid limit, :exc:`PoolClosedError` after
        :meth:`close`, and ``RuntimeError`` outside of the session's event loop.
        """
        ensure_room()
        settings = self._pool_settings
        limits = settings.with_limits(limit, limit_total)
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        if self._bound:
            # Raises in another loop.
            self._bind()
        settings.limit, settings.limit_total = limits
        if self._bound:
            self._pool_client.warn_of_limits(settings)
        self._lifecycle.carry_out(self._pool.resize(limits[0] or 0, limits[1] or 0, clock()))

    # -- retiring --------------------------------------------------------------------------------

    def drain(self, url: StrOrURL | None = None) -> Completion:
        """Retire all existing connections, for example after a change of the server.

        Also call it after loading a certificate into a TLS context that is already in use: the pool
        cannot see the content of a context.

        It takes effect immediately, without ``await``.  Idle connections are closed now, and
        connections in use when they are released.  Later callers get connections opened after the
        call.  Waiting callers still get the connections that are being opened for them.

        :param url: retire only connections to this URL, including its query, with any headers and
            options; a ``str`` or a ``yarl.URL``.  None: retire all connections.

        The result can be awaited, also several times.  It completes when the sockets of the idle
        connections are closed: at most ``close_timeout`` seconds later.

        Raises :exc:`PoolClosedError` after :meth:`close`, ``RuntimeError`` outside of the session's
        event loop, and the errors of :meth:`ws_connect` for an invalid URL.
        """
        ensure_room()
        parsed = None if url is None else parse_url(url, self._pool_client.session)
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        # An argument of a call, such as a TLS context, may be the reason for the drain.
        self._targets.clear()
        if not self._bound:
            return DONE
        self._bind()
        keys = None
        if parsed is not None:
            every: Any = self._pool.keys()
            keys = {key for key in every if is_with(key, parsed)}
        return self._lifecycle.drain(keys)

    # -- the end ---------------------------------------------------------------------------------

    def _handle_lost(self, handle: ClientWebSocketResponse) -> None:
        self._returning.handle_lost(handle)

    def detach(self) -> None:
        """Leave ``client_session`` open when :meth:`close` is called."""
        self._pool_client.is_owned = False

    async def close(self, *, wait: float = 0.0) -> None:
        """Close all connections, in use or not, and the client session if the session owns it.

        Waiting and later callers get :exc:`PoolClosedError`.  All connections are closed
        concurrently; after ``close_timeout`` seconds, connections whose servers do not answer are
        aborted.  If the call is cancelled, closing continues in the background.

        :param wait: seconds to wait until connections in use are released; then they are closed,
            too.  A further call can shorten it.

        Raises ``RuntimeError`` in another event loop than that of the session.  Further calls wait
        for the same end.
        """
        arguments.some_seconds("wait", wait)
        if self._ending.task is None:
            if self._lifecycle.is_closed:
                return
            running = asyncio.get_running_loop()
            if self._loop is not None and self._loop is not running:
                # The connections were lost with their loop.
                self._lifecycle.is_closed = self._loop.is_closed()
                refuse_to_close(self._loop, self._pool_settings.name)
            if not self._bound:
                self._lifecycle.is_closed = True
                self._targets.clear()
                await self._ending.close_client(running)
                return
            self._begin_to_close(wait)
        self._ending.shorten(wait)
        await self._ending.wait()

    def _begin_to_close(self, wait: float = 0.0) -> None:
        ensure_room()
        self._targets.clear()
        self._stop_work()
        self._ending.begin(self.__repr__, wait)

    def _stop_work(self) -> None:
        self._express.open = False
        if self._leak_watch is not None:
            self._leak_watch.stop()
        self._keeping.stop()

    def _leave_to_parent(self) -> object:
        """Mark the session as closed in a forked child; return objects that must stay alive."""
        self._ending.leave_to_parent()
        self._stop_work()
        return self._lifecycle.leave_to_parent()

    def _close_behind(self) -> None:
        """Close the session in the background: a generator that is being closed cannot wait."""
        if type(self).close is WebSocketClientSession.close:
            self._begin_to_close()
            return
        task = asyncio.Task(self.close(), loop=self._loop)
        self._lifecycle.goodbyes.add(task)
        task.add_done_callback(self._lifecycle.goodbyes.discard)

    async def __aenter__(self) -> Self:
        """Return the session."""
        self._bind()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close the session; after an exception, within about a second."""
        if exc_type is not None and get_running_loop() is self._loop:
            self._ending.hasten()
        if exc_type is None or not issubclass(exc_type, GeneratorExit):
            await self.close()
        elif get_running_loop() is self._loop and not self._lifecycle.is_closed:
            self._close_behind()

    def __del__(self) -> None:
        """Warn about a session that was not closed, and abort its connections."""
        if not self._bound or self._lifecycle.is_closed:
            return
        assert self._loop is not None
        self._ending.abandon(self, self._loop)


if TYPE_CHECKING:

    def _is_owner(session: WebSocketClientSession[Any]) -> Owner:
        return session
