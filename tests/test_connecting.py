"""Handshakes: failed, refused, hanging, limited, and made ahead."""

import asyncio
import contextlib
import copy
import dataclasses
import gc
import os
import pickle
import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest
from aiolimiter import AsyncLimiter

from aiowebsocketclient import (
    PoolClosedError,
    PoolTimeoutError,
    PrewarmError,
    WebSocketPoolError,
)
from aiowebsocketclient.connecting import _CAN_MAKE_SOCKETS, _make_socket, own_client_session

from .conftest import SessionFactory, until
from .proxy import NO_LINGER
from .servers import Server


async def test_connection_refused(make_session: SessionFactory, refusing_port: int) -> None:
    session = make_session(limit=1)
    url = f"ws://127.0.0.1:{refusing_port}/"
    for _ in range(3):
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.ws_connect(url)
    assert session.stats().connect_errors == 3
    assert session.stats().endpoints == 0


async def test_refused_by_the_server(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(server.url("/refuse"))
    assert caught.value.status == 403
    assert not isinstance(caught.value, WebSocketPoolError)
    async with asyncio.timeout(30), session.ws_connect(server.url()):
        pass


async def test_a_failure_fails_one_caller_and_the_next_has_its_turn(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    callers = [
        asyncio.ensure_future(session.ws_connect(server.url(path)))
        for path in ("/refuse", "/refuse", "/", "/")
    ]
    await until(lambda: server.arrived == 1)
    server.gate.set()
    for caller in callers[:2]:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await caller
    ws = await callers[2]
    await ws.release()
    await (await callers[3]).release()
    assert server.handshakes == 1


async def test_of_one_handshake_each_failure_fails_its_own(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_connecting=2)
    callers = [session.ws_connect(server.url("/once")) for _ in range(6)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    served = [r for r in results if not isinstance(r, BaseException)]
    assert len(served) == 1
    assert sum(isinstance(r, aiohttp.WSServerHandshakeError) for r in results) == 5
    await served[0].release()


async def test_conn_timeout(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1, conn_timeout=0.1)
    with pytest.raises(aiohttp.ConnectionTimeoutError, match="conn_timeout") as caught:
        await session.ws_connect(server.url("/hang"))
    assert not isinstance(caught.value, PoolTimeoutError)
    session._pool_settings.conn_timeout = None
    async with asyncio.timeout(30), session.ws_connect(server.url()):
        pass


async def test_conn_timeout_covers_tcp_and_tls(make_session: SessionFactory) -> None:
    """A server that accepts and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        session = make_session(conn_timeout=0.1)
        for scheme in ("ws", "wss"):
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await session.ws_connect(f"{scheme}://127.0.0.1:{port}/")


async def test_a_lookup_that_fails_after_conn_timeout_upsets_nobody(
    make_session: SessionFactory,
) -> None:
    """The fixture fails where the exception handler of the loop is called."""
    fails = asyncio.Event()

    class Resolver(aiohttp.abc.AbstractResolver):
        async def resolve(self, *args: Any, **options: Any) -> Any:
            await fails.wait()
            raise OSError("no such host")

        async def close(self) -> None:
            pass

    connector = aiohttp.TCPConnector(resolver=Resolver())
    client_session = aiohttp.ClientSession(connector=connector)
    session = make_session(client_session=client_session, conn_timeout=0.05)
    with pytest.raises(aiohttp.ConnectionTimeoutError):
        await session.ws_connect("ws://host.invalid/")
    assert connector._resolve_host_tasks
    fails.set()
    await until(lambda: not connector._resolve_host_tasks)


@pytest.mark.parametrize("conn_timeout", [None, 0])
async def test_no_conn_timeout(
    server: Server, make_session: SessionFactory, conn_timeout: float | None
) -> None:
    session = make_session(conn_timeout=conn_timeout)
    server.gate.clear()
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await asyncio.sleep(0.2)
    assert not caller.done()
    server.gate.set()
    await (await caller).release()


async def test_a_timeout_of_the_users_own_is_not_taken_for_conn_timeout(
    server: Server, make_session: SessionFactory
) -> None:
    timeout = aiohttp.ClientTimeout(total=0.1)
    session = make_session(client_session=aiohttp.ClientSession(timeout=timeout), conn_timeout=600)
    with pytest.raises(asyncio.TimeoutError) as caught:
        await session.ws_connect(server.url("/hang"))
    assert "conn_timeout" not in str(caught.value)


async def test_certificate_is_verified(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session()
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await session.ws_connect(tls_server.url())
    async with session.ws_connect(tls_server.url(), ssl=client_tls) as ws:
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
    async with session.ws_connect(tls_server.url(), ssl=False) as ws:
        assert not ws.reused


async def test_every_option_of_aiohttp_passes_through(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    async with session.ws_connect(
        url=server.url("/path?a=1"),
        method="GET",
        protocols=("one", "two"),
        timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        autoclose=False,
        autoping=True,
        heartbeat=5.0,
        origin="http://origin",
        params={"b": "2"},
        headers={"X-Test": "1"},
        compress=15,
        max_msg_size=100,
    ) as ws:
        request = server.requests[0]
        assert request.path_qs == "/path?a=1&b=2"
        assert request.headers["Origin"] == "http://origin"
        assert request.headers["X-Test"] == "1"
        assert ws.protocol == "one"
        assert ws.compress
        await ws.send_str("x" * 50)
        assert await ws.receive_str() == "x" * 50
        with pytest.raises(aiohttp.WSMessageTypeError):
            await ws.send_str("x" * 200)
            await ws.receive_str()


class Limiter:
    """Counts who is inside."""

    def __init__(self, places: int) -> None:
        self.semaphore = asyncio.Semaphore(places)
        self.inside = self.peak = self.entered = 0

    async def __aenter__(self) -> None:
        await self.semaphore.acquire()
        self.entered += 1
        self.inside += 1
        self.peak = max(self.peak, self.inside)

    async def __aexit__(self, *exc: object) -> None:
        self.inside -= 1
        self.semaphore.release()


async def test_connect_limiter(server: Server, make_session: SessionFactory) -> None:
    limiter = Limiter(2)
    session = make_session(connect_limiter=limiter)
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(8)])
    assert (limiter.entered, limiter.peak, limiter.inside) == (8, 2, 0)
    await asyncio.gather(*[ws.release() for ws in held])
    # A connection at hand asks no limiter.
    await (await session.ws_connect(server.url())).release()
    assert limiter.entered == 8


async def test_aiolimiter(server: Server, make_session: SessionFactory) -> None:
    session = make_session(connect_limiter=AsyncLimiter(2, 0.2))
    loop = asyncio.get_running_loop()
    started = loop.time()
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(4)])
    assert loop.time() - started > 0.15
    await asyncio.gather(*[ws.release() for ws in held])


class Broken:
    def __init__(self, where: str) -> None:
        self.where = where

    async def __aenter__(self) -> None:
        if self.where == "enter":
            raise ZeroDivisionError

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self.where == "exit":
            raise ZeroDivisionError
        return True


@pytest.mark.parametrize("where", ["enter", "exit"])
async def test_broken_connect_limiter(
    server: Server, make_session: SessionFactory, where: str
) -> None:
    session = make_session(connect_limiter=Broken(where), limit=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await session.ws_connect(server.url())
    await until(lambda: server.open == 0)
    assert session.stats().endpoints == 0


async def test_connection_that_ends_before_the_limiter_lets_go(
    server: Server, make_session: SessionFactory
) -> None:
    class Slow:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *exc: object) -> None:
            server.transports[0].abort()
            await asyncio.sleep(0.05)

    session = make_session(connect_limiter=Slow(), limit=1)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.ws_connect(server.url())
    assert session.stats().endpoints == 0


async def test_connection_that_ends_before_its_answer_is_looked_at(
    server: Server, make_session: SessionFactory
) -> None:
    """A 101 came, and by the time that aiohttp makes a WebSocket of it the socket is gone."""

    async def kill(session: object, context: object, params: Any) -> None:
        await until(lambda: server.transports)
        server.transports[0].abort()
        connection = params.response.connection
        await until(lambda: connection.transport is None)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(kill)
    connector = aiohttp.TCPConnector(limit=0)
    client_session = aiohttp.ClientSession(connector=connector, trace_configs=[trace])
    session = make_session(client_session=client_session, limit=1)
    for _ in range(2):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.ws_connect(server.url())
    assert session.stats().endpoints == 0


async def test_limiter_that_swallows_failures(server: Server, make_session: SessionFactory) -> None:
    session = make_session(connect_limiter=Broken("nowhere"))
    with pytest.raises(WebSocketPoolError, match="connect_limiter"):
        await session.ws_connect(server.url("/refuse"))
    async with session.ws_connect(server.url()):
        pass


# -- prewarm -----------------------------------------------------------------------------------


async def test_prewarm(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    seen: list[tuple[int, int]] = []
    assert await session.prewarm(server.url(), 5, progress=lambda *n: seen.append(n)) == 5
    assert session.stats().idle == 5
    assert seen == [(n, 5) for n in range(1, 6)]
    assert await session.prewarm(server.url(), 5) == 0
    assert await session.prewarm(server.url(), 7) == 2
    async with session.ws_connect(server.url()) as ws:
        assert not ws.reused
    assert server.handshakes == 7


async def test_prewarm_is_bounded(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=4, max_connecting=2)
    assert await session.prewarm(server.url(), 10) == 4
    assert server.handshakes == 4
    session = make_session(limit_total=3)
    assert await session.prewarm(server.url(), 10) == 3


async def test_prewarm_keeps_to_its_handshake(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    await session.prewarm(server.url(), 2, headers={"X": "1"})
    async with session.ws_connect(server.url()):
        assert server.handshakes == 3
    async with session.ws_connect(server.url(), headers={"X": "1"}):
        assert server.handshakes == 3


async def test_a_caller_during_prewarm_gets_what_is_being_opened(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    server.gate.clear()
    warming = asyncio.create_task(session.prewarm(server.url(), 2))
    await until(lambda: server.arrived == 2)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await asyncio.sleep(0.02)
    assert server.arrived == 2
    server.gate.set()
    ws = await caller
    assert await warming == 2
    await ws.release()


async def test_two_prewarms(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    server.gate.clear()
    first = asyncio.create_task(session.prewarm(server.url(), 3))
    await until(lambda: server.arrived == 3)
    second = asyncio.create_task(session.prewarm(server.url(), 3))
    await asyncio.sleep(0.02)
    # They are not open yet.
    assert not second.done()
    server.gate.set()
    assert await first == 3
    assert await second == 0
    assert session.stats().idle == 3


async def test_prewarm_gives_way(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    server.gate.clear()
    warming = asyncio.create_task(session.prewarm(server.url("/a"), 1))
    await until(lambda: server.arrived == 1)
    caller = asyncio.ensure_future(session.ws_connect(server.url("/b")))
    await until(lambda: server.arrived == 2)
    server.gate.set()
    await (await caller).release()
    assert await warming == 0


async def test_prewarm_does_not_wait_for_what_was_stopped(
    server: Server, make_session: SessionFactory
) -> None:
    class Stubborn:
        """A limiter in which the first handshake does not let itself be cancelled."""

        def __init__(self) -> None:
            self.entered = 0
            self.gate = asyncio.Event()

        async def __aenter__(self) -> None:
            self.entered += 1
            is_first = self.entered == 1
            while is_first and not self.gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.gate.wait()

        async def __aexit__(self, *exc: object) -> None:
            pass

    limiter = Stubborn()
    session = make_session(max_connecting=1, connect_limiter=limiter)
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: limiter.entered)
    caller.cancel()
    try:
        async with asyncio.timeout(30):
            # The handshake that nobody waits for gives way to this one.
            await (await session.ws_connect(server.url("/other"))).release()
            assert session.stats().closing == 1
            assert await session.prewarm(server.url(), 1) == 1
    finally:
        limiter.gate.set()
    await until(lambda: session.stats().closing == 0)


async def test_failed_prewarm(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    with pytest.raises(PrewarmError) as caught:
        await session.prewarm(server.url("/once"), 3)
    assert session.stats().connecting == 0
    assert session.stats().idle == 1
    error = caught.value
    assert error.message == (
        f"2 of 3 handshakes with 127.0.0.1:{server.port} failed: WSServerHandshakeError, status 403"
    )
    assert error.opened == 1
    assert [type(each) for each in error.exceptions] == [aiohttp.WSServerHandshakeError] * 2


async def test_a_failure_of_prewarm_ends_what_is_not_begun(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_connecting=2)
    with pytest.raises(PrewarmError) as caught:
        await session.prewarm(server.url("/refuse"), 100)
    assert server.arrived == len(caught.value.exceptions) == 2
    # Those under way when it fails are waited for.
    server.gate.clear()
    warming = asyncio.create_task(session.prewarm(server.url(), 3))
    await until(lambda: server.arrived == 4)
    next(iter(session._lifecycle.under_way)).task.cancel()
    await until(lambda: len(session._lifecycle.under_way) == 1)
    await asyncio.sleep(0.02)
    assert not warming.done()
    server.gate.set()
    with pytest.raises(PrewarmError) as caught:
        await warming
    assert caught.value.opened == session.stats().idle == 1
    assert [str(each) for each in caught.value.exceptions] == [
        f"the handshake with 127.0.0.1:{server.port} was cancelled"
    ]


async def test_a_failed_prewarm_can_be_caught_in_every_way(make_session: SessionFactory) -> None:
    async def prewarm() -> None:
        await make_session().prewarm("ws://127.0.0.1:1/", 2)

    for kind in (aiohttp.ClientError, WebSocketPoolError, ExceptionGroup, PrewarmError):
        with pytest.raises(kind):
            await prewarm()
    caught: list[Any] = []
    try:
        await prewarm()
    except* aiohttp.ClientConnectorError as group:
        caught.append(group)
    (group,) = caught
    assert isinstance(group, PrewarmError)
    assert group.opened == 0
    assert len(group.exceptions) == 2
    matching, rest = group.split(lambda error: error is group.exceptions[0])
    assert isinstance(matching, PrewarmError)
    assert isinstance(rest, PrewarmError)
    assert matching.message == rest.message == group.message
    assert matching.exceptions + rest.exceptions == group.exceptions
    assert group.subgroup(OSError).exceptions == group.exceptions
    assert group.subgroup(LookupError) is None
    with pytest.raises(PrewarmError):
        try:
            await prewarm()
        except* LookupError:
            raise AssertionError("there was none") from None


async def test_a_prewarm_that_fails_in_no_exception(make_session: SessionFactory) -> None:
    class End(BaseException):
        pass

    class Limiter:
        async def __aenter__(self) -> None:
            raise End

        async def __aexit__(self, *_: object) -> None: ...

    session = make_session(connect_limiter=Limiter())
    with pytest.raises(End):
        await session.prewarm("ws://127.0.0.1:1/", 2)


def test_a_prewarm_error_can_be_copied() -> None:
    error = PrewarmError("1 of 2 handshakes with host:1 failed", [OSError("secret")], 1)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is PrewarmError
        assert (other.message, other.opened) == (error.message, 1)
    assert repr(error) == "PrewarmError('1 of 2 handshakes with host:1 failed', [OSError])"


async def test_cancelled_prewarm(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    server.gate.clear()
    warming = asyncio.create_task(session.prewarm(server.url(), 3))
    await until(lambda: server.arrived == 3)
    warming.cancel()
    await asyncio.wait([warming])
    assert warming.cancelled()
    server.gate.set()
    await until(lambda: session.stats().idle == 3)


async def test_prewarm_opens_nothing_in_a_session_that_was_closed(
    server: Server, make_session: SessionFactory
) -> None:
    """Closed between the end of a handshake and the waking of who asked for it."""
    session = make_session(max_connecting=1, close_timeout=600.0)
    warming = asyncio.create_task(session.prewarm(server.url(), 2))
    await until(lambda: session.stats().idle, pause=0)
    async with asyncio.timeout(30):
        await session.close()
        with pytest.raises(PoolClosedError):
            await warming
    assert session.stats().endpoints == 0
    assert server.handshakes == 1


@pytest.mark.parametrize("count", [-1, 1.5, True, None, "2"])
async def test_bad_count(make_session: SessionFactory, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="count"):
        await make_session().prewarm("ws://127.0.0.1:1/", count)


async def test_prewarm_of_what_greets_first(server: Server, make_session: SessionFactory) -> None:
    """Nobody is there to read the greeting, so none of these can be kept."""
    session = make_session()
    await session.prewarm(server.url("/greet"), 2)
    await until(lambda: session.stats().idle == 0 and session.stats().closing == 0)
    assert session.stats().closed_dirty == 2
    async with session.ws_connect(server.url("/greet")) as ws:
        assert await ws.receive_str() == "welcome"
    assert session.stats().idle == 1


async def test_a_handshake_given_up_as_tls_gets_ready_closes_its_socket_at_once(
    monkeypatch: pytest.MonkeyPatch, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """The end of TLS, to which the other side says nothing, is not waited for."""
    loop = asyncio.get_running_loop()
    create_connection = loop.create_connection
    numbers: list[int] = []

    async def give_up(make: Any, *args: Any, sock: socket.socket, **kwargs: Any) -> Any:
        def make_protocol() -> Any:
            protocol = make()
            made = protocol.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                made(transport)
                call.cancel()

            protocol.connection_made = connection_made
            return protocol

        numbers.append(sock.fileno())
        return await create_connection(make_protocol, *args, sock=sock, **kwargs)

    monkeypatch.setattr(loop, "create_connection", give_up)
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.ensure_future(
            asyncio.to_thread(answer_no_end, listener, server_tls, is_over)
        )
        try:
            async with own_client_session() as client_session:
                url = f"wss://127.0.0.1:{listener.getsockname()[1]}/"
                call = asyncio.ensure_future(client_session.ws_connect(url, ssl=client_tls))
                await asyncio.wait({call})
                assert call.cancelled()
                (number,) = numbers
                await until(lambda: not is_open(number), 20.0)
        finally:
            is_over.set()
            await server


def answer_no_end(listener: socket.socket, tls: ssl.SSLContext, is_over: threading.Event) -> None:
    accepted, _ = listener.accept()
    with accepted, suppress(OSError), tls.wrap_socket(accepted, server_side=True):
        is_over.wait(60.0)


def reset(accepted: socket.socket, task: asyncio.Task[Any]) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    accepted.close()


def cancel(accepted: socket.socket, task: asyncio.Task[Any]) -> None:
    asyncio.get_running_loop().call_soon(task.cancel)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("fault", [reset, cancel])
async def test_a_socket_is_closed_once(
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[socket.socket, asyncio.Task[Any]], None],
    scheme: str,
) -> None:
    """What fails when TCP is connected, and TLS has not begun; then the number is another's."""
    loop = asyncio.get_running_loop()
    if not _CAN_MAKE_SOCKETS and not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("aiohttp before 3.12 makes its sockets itself")
    create_connection = loop.create_connection
    numbers: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        async def fail(*args: Any, sock: socket.socket, **kwargs: Any) -> Any:
            accepted = stack.enter_context(listener.accept()[0])
            numbers.append(sock.fileno())
            task = asyncio.current_task()
            assert task is not None
            fault(accepted, task)
            return await create_connection(*args, sock=sock, **kwargs)

        monkeypatch.setattr(loop, "create_connection", fail)
        async with own_client_session() as client_session:
            url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
            call = asyncio.ensure_future(client_session.ws_connect(url))
            await asyncio.wait({call})
            assert call.cancelled() or isinstance(call.exception(), aiohttp.ClientError)
            (number,) = set(numbers)
            await until(lambda: not is_open(number))
            os.dup2(listener.fileno(), number)
            del call
        gc.collect()
        assert is_open(number)
        os.close(number)


def is_open(number: int) -> bool:
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def test_a_socket_that_was_not_connected_is_closed_by_its_end() -> None:
    sock = _make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)))
    number = sock.fileno()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del sock
        gc.collect()
    assert not is_open(number)


# -- errors ------------------------------------------------------------------------------------


class PickyError(Exception):
    """One that cannot be copied: it wants an argument that it does not keep."""

    def __init__(self, *, why: str) -> None:
        super().__init__("not fit")
        self.why = why


class UnmakeableError(Exception):
    def __new__(cls, *, why: str) -> Self:
        return super().__new__(cls)

    def __init__(self, *, why: str) -> None:
        self.why = why


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    why: str = "no luck"


def unlucky() -> Exception:
    error = PickyError(why="no luck")
    error.add_note("a note")
    return error


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: OSError(22, "not fit"), OSError),
        (unlucky, PickyError),
        (lambda: UnmakeableError(why="no luck"), WebSocketPoolError),
        (FrozenError, WebSocketPoolError),
    ],
)
async def test_a_prewarm_and_a_caller_fail_with_errors_of_their_own(
    server: Server, make_session: SessionFactory, make: Any, expected: type[Exception]
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def configure(ws: object) -> None:
        begun.set()
        await gate.wait()
        raise make() from ZeroDivisionError()

    async def use() -> BaseException:
        try:
            raise ValueError("what the caller was about")
        except ValueError:
            try:
                await session.ws_connect(server.url())
            except Exception as exc:
                return exc
        raise AssertionError

    session = make_session(configure=configure)
    prewarm = asyncio.create_task(session.prewarm(server.url(), 1))
    await begun.wait()
    caller = asyncio.create_task(use())
    await until(lambda: session.stats().queued)
    gate.set()
    callers = await caller
    with pytest.raises(PrewarmError) as caught:
        await prewarm
    (theirs,) = caught.value.exceptions
    assert theirs is not callers
    assert type(theirs) is expected
    frames = {frame for frame, _ in traceback.walk_tb(callers.__traceback__)}
    assert frames
    assert not frames & {frame for frame, _ in traceback.walk_tb(theirs.__traceback__)}
    assert isinstance(theirs.__cause__, ZeroDivisionError)
    assert not isinstance(theirs.__context__, ValueError)
    if expected is not WebSocketPoolError:
        assert str(theirs) == str(callers)
        assert vars(theirs) == vars(callers)
        assert theirs.args == callers.args
    if expected is PickyError:
        assert theirs.__notes__ == callers.__notes__ == ["a note"]
        assert theirs.__notes__ is not callers.__notes__


async def test_a_refused_handshake_fails_both_with_what_the_server_said(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    server.gate.clear()
    prewarm = asyncio.create_task(session.prewarm(server.url("/refuse"), 1))
    await until(lambda: server.arrived)
    caller = asyncio.ensure_future(session.ws_connect(server.url("/refuse")))
    await until(lambda: session.stats().queued)
    server.gate.set()
    with pytest.raises(aiohttp.WSServerHandshakeError) as callers:
        await caller
    with pytest.raises(PrewarmError) as caught:
        await prewarm
    (theirs,) = caught.value.exceptions
    assert isinstance(theirs, aiohttp.WSServerHandshakeError)
    assert theirs is not callers.value
    assert (theirs.status, theirs.message) == (403, callers.value.message)
    assert theirs.headers == callers.value.headers
