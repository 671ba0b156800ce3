"""The session: the methods that users call.

Its parts do the work: ``acquiring.py``, ``returning.py``, ``prewarming.py``, ``keeping.py`` and
``ending.py``, all by way of ``lifecycle.py``.  The core alone decides what may be open and who gets
it.
"""

import asyncio
import warnings
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Self, Unpack

import aiohttp
from aiohttp.typedefs import LooseHeaders, StrOrURL
from multidict import CIMultiDict
from yarl import URL

from . import _compat, arguments
from ._aiohttp_private import get_running_loop
from ._compat import DONE, UNSET, Express, SessionBase, Slot, clock, ensure_room
from ._pool_py import Completion
from .acquiring import Acquiring, wait_traced
from .connecting import Client, check_open
from .ending import Ending
from .forking import note_use
from .hooks import Hook
from .implied import Implied
from .keeping import Keeping
from .keys import EndpointKey, Target, is_with, parse_url, resolve, version_of
from .leaks import LeakWatch, place_of_caller
from .lifecycle import Lifecycle
from .loops import refuse_to_close, running_loop
from .prewarming import Prewarm
from .response import ClientWebSocketResponse, Owner
from .returning import Returning
from .settings import Settings
from .stats import PoolStats
from .targets import ATOMS, Targets
from .tracing import TraceConfig, Tracer
from .typedefs import Acquisition, WS_co, WSConnectOptions

__all__ = ("GOING_AWAY", "WebSocketClientSession")

#: For ``retire_on=``: the close codes of a server that goes away (1001), restarts (1012), or has
#: too much to do (1013).
GOING_AWAY: Final = frozenset({1001, 1012, 1013})

# asyncio asks what it is to run whether it is a coroutine, which an Acquisition is.
Acquisition.register(_compat.Acquisition)
Completion.register(type(DONE))  # pyright: ignore[reportAttributeAccessIssue]


class WebSocketClientSession(SessionBase, Generic[WS_co]):
    """A pool of WebSocket client connections.

    :param conn_timeout: seconds for one connection to be established: DNS, TCP, TLS and the
        upgrade; then ``aiohttp.ConnectionTimeoutError``.  0 or None: no timeout.
    :param force_close: close the connection on release instead of pooling it.
    :param limit: simultaneous connections to one endpoint ``(host, port, is_ssl)``; None or 0: no
        limit.
    :param headers: sent with every handshake.
    :param client_session: the ``aiohttp.ClientSession`` used to connect; default: one of its own,
        without limit and without cookies.
    :param loop: the event loop; default: the one running at first use.
    :param ws_response_class: a subclass of :class:`ClientWebSocketResponse` to return.  The session
        is a ``WebSocketClientSession[MyWS]`` then, to type checkers.
    :param limit_total: simultaneous connections over all endpoints; None or 0: no limit.
    :param max_connecting: handshakes under way at once to one endpoint; None or 0: no limit.
    :param acquire_timeout: seconds a caller waits for a connection, whatever the cause; then
        :exc:`PoolTimeoutError`.  None: no timeout.  0: only if one can be had at once: an idle one,
        whose ``check`` may end.
    :param max_waiting: callers queued for one endpoint; one more gets :exc:`TooManyWaitersError`.
        None: no limit.
    :param max_idle: seconds unused before an idle connection is closed.  None: never.
    :param max_idle_connections: idle connections over all endpoints; where one more becomes idle,
        the longest idle is closed.  Default: half of the soft limit of open files of the process
        (``ulimit -n``), when the session is made; 256 on Windows, where there is no such limit and
        ``select()`` takes 512 sockets.  None: no bound.  0 is refused, as it means "no limit" with
        the other options: ``force_close=True`` is what pools nothing.
    :param max_lifetime: seconds since its handshake began after which a connection is not handed
        out again, less up to 5 % at random.  None: no limit.
    :param close_timeout: seconds for a closing handshake before the transport is aborted;
        :meth:`close` as a whole takes no longer either.  At most a second after a read that was
        given up, after a hook that ran into a timeout or failed before the server had sent
        anything, and where the session's own block is left by an exception.
    :param cooldown: seconds for which a place stays taken after a connection was closed while it
        was in use, or with a reply on its way.  A server may count it until its handler has
        noticed, and would refuse the next one.  0: none.
    :param client_session_owner: whether :meth:`close` closes ``client_session``.
    :param connect_limiter: an asynchronous context manager entered around each handshake, such as
        ``aiolimiter.AsyncLimiter(300, 300)`` or ``asyncio.Semaphore(10)``.
    :param configure: ``async (ws) -> None``, called once for each connection after its handshake,
        to authenticate, say.  One that raises fails the caller that the handshake was made for.
    :param check: the same, called before a connection that was pooled is handed out.  One that
        raises costs the connection; the caller gets the next, or a new one.  Idle connections of
        that endpoint that have received nothing since the failed one last did are checked in the
        background before anybody gets them: a caller pays for one failed check, not for each.  With
        ``acquire_timeout=0`` it gets none of these, and no new one, either.
    :param reset: the same, called after a release and before the connection is pooled or handed on,
        to unsubscribe, say.  One that raises costs the connection.  Nobody need wait for it.
    :param hook_timeout: seconds for one run of a hook, which has failed then.  None: no timeout.
    :param retire_on: codes, such as those in :data:`GOING_AWAY`.  When the server closes an idle
        connection with one of them, the idle ones of the same handshake that are as old, or older,
        are closed too, before they are handed out and their users find them closed one by one.
    :param leak_threshold: seconds in use after which a connection is logged, once, with where it
        was acquired.  None: none is.
    :param trace_configs: what is to be called when something happens in the pool: see
        :class:`TraceConfig`.
    :param name: tells this session from others of the process: in its ``repr``, in log records, in
        the errors of the pool, and in metrics, as the pool's name.  None: it has none.

    A hook gets a handle of its own, whose ``release()`` does nothing; to close it, or to leave a
    message unread after ``check`` or ``reset``, is a failure too.  A connection counts as acquired
    while ``check`` or ``reset`` runs, and as connecting while ``configure`` does.

    Bad arguments raise ``TypeError`` or ``ValueError`` here.  A session belongs to one event loop
    and is not thread-safe.
    """

    # What hardly changes. CPython looks up a method of an object faster while its dictionary has no
    # more than 30 names, and a subclass adds some of its own.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_begin_close",
        "_carry_out",
        "_check",
        "_client",
        "_detach",
        "_ending",
        "_fail",
        "_give_up",
        "_keeping",
        "_leak_watch",
        "_lifecycle",
        "_raise_if_overdue",
        "_refusal",
        "_released",
        "_returning",
        "_settings",
        "_time_out",
        "_tracer",
    )

    # Read by __del__, which runs even where the constructor is refused its arguments.
    _bound = False

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
        # Type checkers do without the default: that of the type variable is the same.
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
        configure: Hook[WS_co] | None = None,
        check: Hook[WS_co] | None = None,
        reset: Hook[WS_co] | None = None,
        hook_timeout: float | None = 10.0,
        retire_on: Iterable[int] = (),
        leak_threshold: float | None = None,
        trace_configs: Iterable[TraceConfig] = (),
        name: str | None = None,
    ) -> None:
        # The options by name, and no other local variable yet.
        settings = self._settings = Settings(locals())
        self._client = Client(arguments.client_session(client_session), bool(client_session_owner))
        self._loop = arguments.loop(loop)
        self._acquire_timeout = settings.acquire_timeout
        threshold = settings.leak_threshold
        self._leak_watch = None if threshold is None else LeakWatch(threshold, settings.name)
        self._tracer = Tracer(self, settings.trace_configs) if settings.trace_configs else None
        # Whether each acquisition and each end of one has to go through here.
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
        """Make the parts of the session: none refers to it, so that it is collected when dropped.

        What the core asks of a session by name are their methods, without a call in between.
        """
        self._lifecycle = Lifecycle(self._pool, self._settings, self._client, self._tracer)
        self._keeping = Keeping(self._lifecycle)
        self._ending = Ending(self._lifecycle, self._client, self._tracer)
        self._carry_out = self._lifecycle.carry_out
        acquiring = Acquiring(self._lifecycle)
        self._refusal = acquiring.refusal
        self._raise_if_overdue = acquiring.raise_if_overdue
        self._check = acquiring.check
        self._time_out = acquiring.time_out
        self._give_up = acquiring.give_up
        returning = Returning(self._lifecycle, self._client, self._tracer, self._leak_watch)
        self._returning = returning
        self._released = returning.released
        self._fail = returning.fail
        self._detach = returning.detach
        self._begin_close = returning.begin_close
        self._express = self._lending = self._make_express(None, 0)
        # Where there is a check or a reset, the session itself has to see to every call.
        self._detour = self._make_express(None, 0)
        self._detour.plain_exit = False

    # -- what can be seen ------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        lifecycle = getattr(self, "_lifecycle", None)
        # A subclass whose constructor has not come so far has nothing open.
        return lifecycle is None or lifecycle.is_closed

    @property
    def name(self) -> str | None:
        """The name that the session was given; None: it has none."""
        return self._settings.name

    @property
    def limit(self) -> int | None:
        """Simultaneous connections to one endpoint; None: no limit.  :meth:`resize` changes it."""
        return self._settings.limit

    @property
    def force_close(self) -> bool:
        """Whether a connection is closed on release instead of being pooled."""
        return self._settings.force_close

    @property
    def client_session(self) -> aiohttp.ClientSession:
        """The ``aiohttp.ClientSession`` used to connect.

        The session's own is made at first use, which needs a running event loop.
        """
        if self._client.session is None:
            self._bind()
        return self._client.get()

    def stats(self) -> PoolStats:
        """Return gauges and counters over all endpoints.

        This and :meth:`stats_by_endpoint` can be called in any thread; the counters never fall.
        """
        return PoolStats.from_core(self._pool.gauges(), self._pool.counters())

    def stats_by_endpoint(self) -> dict[EndpointKey, PoolStats]:
        """Return the same for each endpoint that has anything alive."""
        by_endpoint: Any = self._pool.by_endpoint()
        return {key: PoolStats.from_core(*numbers) for key, numbers in by_endpoint.items()}

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            f"a {type(self).__name__} can be neither copied nor pickled: its connections are open"
        )

    def __repr__(self) -> str:
        """Return the class and the name with live counts."""
        connecting, acquired, idle, closing, waiting, endpoints = self._pool.gauges()
        state = "" if self._settings.name is None else f"{self._settings.name!r} "
        state += "closed " if self._lifecycle.is_closed else ""
        return (
            f"<{type(self).__name__} {state}{acquired=} {idle=} {connecting=} {closing=}"
            f" {waiting=} {endpoints=}>"
        )

    # -- acquiring -------------------------------------------------------------------------------

    # The core takes any options, and refuses those that are none.
    @arguments.implemented_by(SessionBase.ws_connect)
    def ws_connect(  # type: ignore[override]
        self,
        url: StrOrURL,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> Acquisition[WS_co]:
        """Acquire a connection to ``url``: an open one where there is one, or a new one.

        The result is a coroutine that returns a :class:`ClientWebSocketResponse`, or is used as
        ``async with session.ws_connect(url) as ws``: a clean exit releases the connection, any
        exception closes it, in the background.

        :param url: a ``str`` or a ``yarl.URL``.
        :param reuse_key: stands for the headers and the cookies when it is decided which open
            connections will do; any hashable.
        :param acquire_timeout: overrides the session's.
        :param options: those of :meth:`aiohttp.ClientSession.ws_connect`, with its defaults; and
            ``configure``, ``check`` and ``reset``, with the session's.

        Raises :exc:`PoolTimeoutError`, :exc:`TooManyWaitersError`, :exc:`PoolClosedError`, and what
        aiohttp raises while connecting.  A wrong argument is refused at the call.
        """
        raise NotImplementedError

    async def prewarm(
        self,
        url: StrOrURL,
        count: int,
        *,
        progress: Callable[[int, int], object] | None = None,
        reuse_key: Hashable = None,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> int:
        """See to it that at least ``count`` connections of this handshake are open.

        Limits, ``max_connecting`` and ``max_idle_connections`` hold: it opens what there is room
        for, closes nothing for it and gives way to callers.  A caller that comes meanwhile gets
        what is being opened.  After a :meth:`drain` meanwhile it begins anew.

        :param progress: called with the number opened so far and the number begun or opened.
        :return: how many it opened.

        Once a handshake has failed it begins no more, waits for those under way, and raises
        :exc:`PrewarmError` with what all that failed have raised; what was opened stays open.  A
        handshake that takes several times as long as is usual at its endpoint is not waited for:
        another is begun beside it, ``count`` in all.  Where these are late too, they count as
        failed.  The rest as for :meth:`ws_connect`.
        """
        wanted = arguments.count(count)
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable, which {type(progress).__name__} is not")
        self._bind()
        target = self._lifecycle.with_cookies(self._resolve(url, dict(options), reuse_key))
        return await Prewarm(self._lifecycle, target, wanted, progress).run()

    def set_min_idle(
        self,
        url: StrOrURL,
        count: int,
        *,
        reuse_key: Hashable = None,
        **options: Unpack[WSConnectOptions[WS_co]],
    ) -> None:
        """Keep at least ``count`` connections of this handshake idle, in the background.

        Where fewer are idle it opens what is lacking: at once where one was closed, whatever the
        reason (``max_idle`` and :meth:`drain` among them), and within a second where callers have
        taken some.  Limits, ``max_connecting`` and ``max_idle_connections`` hold: it opens what
        there is room for, closes nothing for it and gives way to callers.  Where one was closed
        because too many connections were idle, it opens nothing for 10 s.

        Handshakes that fail, and connections that the server ends as soon as they are there, are
        tried again one at a time, after pauses at random of up to 0.1 s, 0.2 s, 0.4 s and so on, 30
        s at most, until one has lasted a second or was used.  The first failure is logged as a
        warning, and its end too.  Where each reply replaces a cookie that it was asked with, only
        the newest connection will do, and one is kept.

        :param count: another number of the same handshake replaces the last one; 0: no more.  What
            is idle stays so.

        Handshakes and failures are traced and logged in the context (``contextvars``) of the last
        call, as those of a task that it had started; so call it where the service starts.

        :meth:`close` ends it.  Bad arguments are refused as by :meth:`ws_connect`, and before the
        session is used for the first time a loop must be running (``RuntimeError``).
        """
        wanted = arguments.count(count)
        self._bind()
        target = self._resolve(url, dict(options), reuse_key)
        ensure_room()
        self._keeping.keep(target, wanted)

    def _watch_headers(self, client_session: aiohttp.ClientSession) -> None:
        self._default_headers = client_session.headers
        self._watches_headers = bool(client_session.headers)
        self._default_headers_version = version_of(client_session.headers)

    def _forget_stale_targets(self) -> None:
        """See whether somebody has changed the headers that go with every handshake."""
        self._watches_headers = True
        version = version_of(self._default_headers)
        if version != self._default_headers_version:
            self._default_headers_version = version
            self._targets.clear()

    def _resolve(self, url: str | URL, options: dict[str, Any], reuse_key: Hashable) -> Target:
        return resolve(
            url,
            options,
            headers=self._targets.headers,
            reuse_key=reuse_key,
            client_session=self._client.session,
            hooks=self._settings.hooks,
        )

    def _resolve_anew(
        self, signature: Hashable, url: str | URL, options: dict[str, Any], reuse_key: Hashable
    ) -> Target:
        """Resolve the arguments of a call, and remember what has a signature."""
        target = self._resolve(url, options, reuse_key)
        if signature is not None and not self._lifecycle.is_closed:
            self._targets.remember(signature, target)
        return target

    @staticmethod
    def _check_timeout(acquire_timeout: float | None) -> None:
        arguments.seconds("acquire_timeout", acquire_timeout)

    async def _acquire(self, target: Target, acquire_timeout: float | None) -> WS_co:
        """Acquire where there is more to do than to hand out what is idle."""
        self._bind()
        target = self._lifecycle.with_cookies(target)
        ws: Any = None
        if not target.is_checked:
            ws = self._lending.acquire(self, target)
        if ws is None:
            if self._tracer is None:
                waiter = self._lending.line_up(self, target, acquire_timeout)
                ws = await self._lending.wait(self, waiter, acquire_timeout)
            else:
                ws = await wait_traced(self._tracer, self._lending, self, target, acquire_timeout)
        if self._tracer is not None:
            self._tracer.acquired(ws._slot, ws.reused)
        if self._debug or self._leak_watch is not None:
            self._note_place(ws._slot)
        handle: WS_co = ws
        return handle

    def _note_place(self, slot: Slot) -> None:
        place = slot.conn.acquired_at = place_of_caller()
        if self._leak_watch is not None:
            assert self._loop is not None
            self._leak_watch.acquired(slot, place, self._loop)

    def _bind(self) -> None:
        """Make sure of an open session, of its loop and of its client session."""
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        loop = self._loop
        if loop is None or get_running_loop() is not loop:
            loop = self._loop = running_loop(loop, self._settings.name)
        if self._client.session is not None:
            check_open(self._client.session, self._settings.name)
        if not self._bound:
            self._begin(loop)
        # A loop may go on in another thread.
        self._express.thread = get_ident()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Settle, at first use, what depends on the loop and on the client session."""
        client_session = self._client.begin(loop, self._settings)
        self._lifecycle.implied = Implied(client_session, self._pool.keys) or None
        self._watch_headers(client_session)
        self._targets.clear()
        self._debug = loop.get_debug()
        self._express = self._make_express(loop, get_ident())
        self._express.open = not (self._lifecycle.implied or self._debug or self._is_watched)
        self._lending = self._express
        if self._is_watched:
            self._lending = self._make_express(loop, get_ident())
            # What is released then comes here.
            self._lending.pooling = False
        self._lifecycle.begin(loop, self._express)
        self._bound = True
        note_use(self)

    def _make_express(self, loop: asyncio.AbstractEventLoop | None, thread: int) -> Express:
        cls = self._settings.response_class
        express = Express(self._pool, cls, loop, thread)
        express.session_name = self._settings.name
        express.pooling = not self._settings.force_close
        express.plain_exit = cls.__aexit__ is ClientWebSocketResponse.__aexit__
        return express

    # -- changing limits -------------------------------------------------------------------------

    def resize(self, *, limit: int | None = UNSET, limit_total: int | None = UNSET) -> None:
        """Change the limits; one that is not given stays as it is.

        Raised, they let in at once who waits for a place.  Lowered, they close idle connections
        that are too many, the longest idle first; connections in use are closed when they are
        released, until there are no more than allowed.

        :param limit: simultaneous connections to one endpoint; None or 0: no limit.
        :param limit_total: simultaneous connections over all endpoints; None or 0: no limit.
        """
        ensure_room()
        settings = self._settings
        new_limit, new_total = settings.limit, settings.limit_total
        if limit is not UNSET:
            new_limit = arguments.places("limit", limit) or None
        if limit_total is not UNSET:
            new_total = arguments.places("limit_total", limit_total) or None
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        if self._bound:
            # In its own loop and thread only.
            self._bind()
        settings.limit, settings.limit_total = new_limit, new_total
        if self._bound:
            self._client.warn_of_limits(settings)
        self._lifecycle.carry_out(self._pool.resize(new_limit or 0, new_total or 0, clock()))

    # -- retiring --------------------------------------------------------------------------------

    def drain(self, url: StrOrURL | None = None) -> Completion:
        """Let no connection that there is be handed out again, as after a change of the server's.

        Call it, too, after a certificate was loaded into a TLS context that is in use already: the
        pool cannot see what is in a context.

        It takes effect when called.  Idle connections are closed now, those in use when they are
        released; who calls :meth:`ws_connect` from now on gets a connection that was begun since.
        Callers that wait already get what is being opened for them.

        :param url: only connections whose handshake was with this URL, its query included,
            whatever their headers and options; a ``str`` or a ``yarl.URL``.  None: all.

        What it returns can be awaited, by many and more than once, and ends when the sockets of
        the idle ones are closed: at most ``close_timeout`` seconds later.
        """
        ensure_room()
        parsed = None if url is None else parse_url(url, self._client.session)
        if self._lifecycle.is_closed:
            raise self._lifecycle.closed_error()
        # What a call brought, a TLS context for one, may be why.
        self._targets.clear()
        if not self._bound:
            return DONE
        # In its own loop and thread only.
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
        """Leave the client session open when this session is closed."""
        self._client.is_owned = False

    async def close(self) -> None:
        """Close every connection, in use or not, and the client session if it is owned.

        Callers that wait get :exc:`PoolClosedError`.  All connections are closed at once; after
        ``close_timeout`` seconds those whose server does not answer are aborted.  It can be called
        again; cancelled, it goes on in the background.
        """
        if self._ending.task is None:
            if self._lifecycle.is_closed:
                return
            running = asyncio.get_running_loop()
            if self._loop is not None and self._loop is not running:
                # Whatever was open went with its loop.
                self._lifecycle.is_closed = self._loop.is_closed()
                refuse_to_close(self._loop, self._settings.name)
            if not self._bound:
                self._lifecycle.is_closed = True
                self._targets.clear()
                await self._ending.close_client(running)
                return
            self._begin_to_close()
        await self._ending.wait()

    def _begin_to_close(self) -> None:
        ensure_room()
        self._express.open = False
        self._targets.clear()
        if self._leak_watch is not None:
            self._leak_watch.stop()
        self._keeping.stop()
        self._ending.begin(self.__repr__)

    def _leave_to_parent(self) -> object:
        """Be closed, in a forked child; returns what must never be collected."""
        self._express.open = False
        self._ending.leave_to_parent()
        if self._leak_watch is not None:
            self._leak_watch.stop()
        self._keeping.stop()
        return self._lifecycle.leave_to_parent()

    def _close_behind(self) -> None:
        """Close the session for a generator that is closed, which cannot wait for anything."""
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
        """Close the session; after an exception within about a second, whatever the servers do."""
        if exc_type is not None and get_running_loop() is self._loop:
            self._ending.hasten()
        if exc_type is None or not issubclass(exc_type, GeneratorExit):
            await self.close()
        elif get_running_loop() is self._loop and not self._lifecycle.is_closed:
            self._close_behind()

    def __del__(self) -> None:
        """Warn of a session that was not closed, and close what can be closed."""
        if not self._bound or self._lifecycle.is_closed:
            return
        assert self._loop is not None
        if self._client.session is not None and self._client.is_owned:
            # It would warn a second time of the same.
            self._client.session.detach()
        if not self._loop.is_closed():
            # The garbage collector may run in any thread.
            self._loop.call_soon_threadsafe(self._lifecycle.abandon)
        try:
            warnings.warn(f"Unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not self._loop.is_closed():
                context = {"session": self, "message": "Unclosed WebSocketClientSession"}
                self._loop.call_exception_handler(context)
        finally:
            # Not earlier: its repr would say so of a session that nobody has closed.
            self._lifecycle.is_closed = True


if TYPE_CHECKING:

    def _is_owner(session: WebSocketClientSession[Any]) -> Owner:
        return session
