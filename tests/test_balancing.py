"""Several servers for one service: ``session.balanced()``."""

import asyncio
import contextlib
import gc
import logging
import random
import ssl
import warnings
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from aiowebsocketclient import (
    Balanced,
    PoolClosedError,
    PoolTimeoutError,
    TooManyWaitersError,
    TraceConfig,
    WebSocketClientSession,
    balancing,
    check_ping,
    pausing,
    servers,
)

from .balanced_servers import WAYS, Backend, measure, three_backends
from .conftest import SessionFactory, until
from .servers import Server

NOWHERE = "ws://127.0.0.1:1/"


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[list[Backend]]:
    async with three_backends() as found:
        yield found


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how long servers are left out."""
    monkeypatch.setattr(pausing.random, "random", lambda: 1.0)

    def last(seconds: float) -> None:
        monkeypatch.setattr(pausing, "_FIRST_PAUSE", seconds)
        monkeypatch.setattr(pausing, "_LONGEST_PAUSE", seconds)
        monkeypatch.setattr(servers, "_LONGEST_PAUSE_IF_ALL_OUT", seconds)

    last(1_000.0)
    return last


def urls_of(backends: list[Backend], path: str = "/") -> list[str]:
    return [backend.url(path) for backend in backends]


def out(balanced: Balanced[Any]) -> list[bool]:
    return [state.out for state in balanced.stats()]


def put_out(balanced: Balanced[Any], index: int, error: Exception | None = None) -> None:
    balanced._servers.failed(
        balanced._servers.all[index], error or ConnectionRefusedError(), balancing.clock()
    )


async def use(balanced: Balanced[Any], **options: Any) -> Any:
    async with balanced.ws_connect(**options) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        return ws


async def call(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


# Handles that a test holds until its session is closed.
HELD: list[Any] = []


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    yield
    HELD.clear()


async def acquire(balanced: Balanced[Any], **options: Any) -> Any:
    ws = await balanced.ws_connect(**options)
    HELD.append(ws)
    return ws


async def direct(session: WebSocketClientSession, url: str, **options: Any) -> Any:
    ws = await session.ws_connect(url, **options)
    HELD.append(ws)
    return ws


def server_of(backends: list[Backend], ws: Any) -> Backend:
    port = ws._slot.endpoint.port
    (found,) = [backend for backend in backends if backend.port == port]
    return found


# -- the choice ----------------------------------------------------------------------------------


async def test_connections_are_spread_evenly(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    held = await asyncio.gather(*[acquire(balanced) for _ in range(30)])
    assert [backend.open for backend in backends] == [10, 10, 10]
    await asyncio.gather(*[ws.release() for ws in held])
    # One after another, too.
    for backend in backends:
        backend.handshakes = 0
    balanced = make_session().balanced(urls_of(backends))
    for _ in range(9):
        await acquire(balanced)
    assert [backend.handshakes for backend in backends] == [3, 3, 3]


async def test_an_idle_connection_goes_first(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    held = [await direct(session, backends[2].url()) for _ in range(5)]
    await (await direct(session, backends[2].url())).release()
    # The others have fewer in use, but nothing idle.
    ws = await acquire(balanced)
    assert ws.reused
    assert server_of(backends, ws) is backends[2]
    await ws.release()
    # Of two with idle connections, it is the one that has fewer in use.
    await (await direct(session, backends[1].url())).release()
    for _ in range(20):
        ws = await acquire(balanced)
        assert server_of(backends, ws) is backends[1]
        await ws.release()
    assert len(held) == 5


async def test_an_idle_connection_of_another_handshake_does_not_count(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    held = await direct(session, backends[0].url(), headers={"X": "1"})
    await (await direct(session, backends[0].url(), headers={"X": "1"})).release()
    for _ in range(2):
        ws = await acquire(balanced)
        assert not ws.reused
        assert server_of(backends, ws) is not backends[0]
    assert (await acquire(balanced, headers={"X": "1"})).reused
    assert not held.closed


async def test_ties_are_broken_at_random(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session(force_close=True).balanced(urls_of(backends))
    for _ in range(60):
        await (await acquire(balanced)).release()
    # None of 60 for any one of three: once in ten billion runs.
    assert all(backend.handshakes for backend in backends)


async def test_a_server_at_its_limit_comes_last(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(limit=3)
    balanced = session.balanced(urls_of(backends))
    others = [await direct(session, backends[0].url()) for _ in range(3)]
    held = await asyncio.gather(*[acquire(balanced) for _ in range(6)])
    assert Counter(server_of(backends, ws) for ws in held) == {backends[1]: 3, backends[2]: 3}
    assert len(others) == 3


async def test_a_server_with_room_goes_before_one_where_something_must_give_way(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(limit=2)
    balanced = session.balanced(urls_of(backends))
    others = [await direct(session, backends[0].url("/other")) for _ in range(2)]
    for ws in others:
        await ws.release()
    for backend in backends[1:]:
        await direct(session, backend.url())
    # It has nothing in use, but is full.
    for _ in range(2):
        assert server_of(backends, await acquire(balanced)) is not backends[0]
    assert session.stats().closed_evicted == 0
    assert server_of(backends, await acquire(balanced)) is backends[0]
    assert session.stats().closed_evicted == 1


async def test_who_waits_at_the_limit_gets_what_falls_free_elsewhere(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    held = {server_of(backends, ws): ws for ws in [await acquire(balanced) for _ in range(3)]}
    waiting = [asyncio.ensure_future(acquire(balanced)) for _ in range(3)]
    await until(lambda: session.stats().waiting == 3)
    # Each waits at another server, and only one falls free, again and again.
    for _ in range(3):
        ws = held.pop(backends[1])
        await ws.release()
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        assert len(done) == 1
        waiting = [task for task in waiting if task not in done]
        ws = held[backends[1]] = done.pop().result()
        assert server_of(backends, ws) is backends[1]
    assert [backend.handshakes for backend in backends] == [1, 1, 1]


async def test_limit_total(backends: list[Backend], make_session: SessionFactory) -> None:
    session = make_session(limit_total=2)
    balanced = session.balanced(urls_of(backends))
    peak = 0

    async def count() -> None:
        nonlocal peak
        async with balanced.ws_connect() as ws:
            peak = max(peak, sum(backend.open for backend in backends))
            await use_held(ws)

    await asyncio.gather(*[count() for _ in range(50)])
    assert peak == 2


# -- what puts a server out ----------------------------------------------------------------------


async def test_a_refused_connect_goes_on_to_the_next(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    await backends[0].kill()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    await asyncio.gather(*[use(balanced) for _ in range(30)])
    assert out(balanced) == [True, False, False]
    first, second, _ = balanced.stats()
    assert (first.failures, first.acquired, first.connecting) == (1, 0, 0)
    assert first.last_failure is not None
    assert first.last_failure.error == "ClientConnectorError"
    assert 0 < first.retry_in <= 1_000
    assert (second.failures, second.retry_in, second.last_failure) == (0, None, None)
    # Nobody tries it until then.
    errors = session.stats().connect_errors
    await asyncio.gather(*[use(balanced) for _ in range(60)])
    assert session.stats().connect_errors == errors


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_statuses_that_put_out(
    backends: list[Backend], make_session: SessionFactory, pauses: Any, status: int
) -> None:
    backends[1].status = status
    balanced = make_session().balanced(urls_of(backends))
    await asyncio.gather(*[use(balanced) for _ in range(6)])
    assert out(balanced) == [False, True, False]
    failure = balanced.stats()[1].last_failure
    assert failure is not None
    assert failure.status == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 501])
async def test_statuses_that_do_not(
    backends: list[Backend], make_session: SessionFactory, status: int
) -> None:
    for backend in backends:
        backend.status = status
    balanced = make_session().balanced(urls_of(backends))
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await acquire(balanced)
    assert caught.value.status == status
    assert out(balanced) == [False, False, False]
    # It was asked once.
    assert sum(backend.arrived for backend in backends) == 1


async def test_a_server_that_hangs_up(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    async def hang_up(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        urls = [f"ws://127.0.0.1:{port}/", backends[0].url()]
        balanced = make_session().balanced(urls)
        await asyncio.gather(*[use(balanced) for _ in range(4)])
        assert out(balanced) == [True, False]


async def test_tls(
    backends: list[Backend],
    make_session: SessionFactory,
    tls_server: Server,
    client_tls: ssl.SSLContext,
    pauses: Any,
) -> None:
    # One server speaks no TLS, and the certificate of another is not trusted.
    plain = backends[0].url().replace("http", "https")
    balanced = make_session().balanced([plain, tls_server.url()])
    await asyncio.gather(*[use(balanced, ssl=client_tls) for _ in range(4)])
    assert out(balanced) == [True, False]
    balanced = make_session().balanced([tls_server.url(), backends[0].url()])
    await asyncio.gather(*[use(balanced) for _ in range(4)])
    assert out(balanced) == [True, False]
    failure = balanced.stats()[0].last_failure
    assert failure is not None
    assert failure.error == "ClientConnectorCertificateError"


async def test_dns(backends: list[Backend], make_session: SessionFactory, pauses: Any) -> None:
    balanced = make_session().balanced(["ws://nowhere.invalid/", backends[0].url()])
    await asyncio.gather(*[use(balanced) for _ in range(4)])
    assert out(balanced) == [True, False]


async def test_conn_timeout(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    backends[0].gate.clear()
    balanced = make_session(conn_timeout=0.2).balanced(urls_of(backends[:1]))
    with pytest.raises(aiohttp.ConnectionTimeoutError):
        await acquire(balanced)
    assert out(balanced) == [True]
    backends[0].gate.set()


async def test_a_hook_that_raises_is_the_callers(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    error: Exception = ConnectionRefusedError("of the hook")

    async def configure(ws: Any) -> None:
        raise error

    balanced = make_session(configure=configure).balanced(urls_of(backends))
    for error in (ConnectionRefusedError(), TimeoutError(), aiohttp.ServerDisconnectedError()):
        with pytest.raises(type(error)):
            await acquire(balanced)
    assert sum(backend.handshakes for backend in backends) == 3
    assert out(balanced) == [False, False, False]


async def test_a_hook_with_a_session_of_its_own(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    other = make_session()

    async def configure(ws: Any) -> None:
        await other.ws_connect(NOWHERE)

    balanced = make_session(configure=configure).balanced(urls_of(backends))
    with pytest.raises(aiohttp.ClientConnectorError):
        await acquire(balanced)
    assert out(balanced) == [False, False, False]


@pytest.mark.parametrize("where", ["enters", "leaves"])
async def test_a_limiter_that_raises(
    backends: list[Backend], make_session: SessionFactory, where: str
) -> None:
    class Limiter:
        async def __aenter__(self) -> None:
            if where == "enters":
                await other.ws_connect(NOWHERE)

        async def __aexit__(self, *_: object) -> None:
            if where == "leaves":
                raise ConnectionResetError

    other = make_session()
    balanced = make_session(connect_limiter=Limiter()).balanced(urls_of(backends))
    with pytest.raises((ConnectionResetError, aiohttp.ClientConnectorError)):
        await acquire(balanced)
    assert out(balanced) == [False, False, False]


async def test_no_more_files(
    backends: list[Backend], make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    connector: Any = session.client_session.connector

    async def connect(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(connector, "connect", connect)
    balanced = session.balanced(urls_of(backends))
    with pytest.raises(OSError, match="Too many"):
        await acquire(balanced)
    assert out(balanced) == [False, False, False]


async def test_limits_put_nobody_out(backends: list[Backend], make_session: SessionFactory) -> None:
    session = make_session(limit=1, max_waiting=0)
    balanced = session.balanced(urls_of(backends[:1]))
    held = await acquire(balanced)
    with pytest.raises(TooManyWaitersError):
        await acquire(balanced)
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    held = [await acquire(balanced) for _ in range(3)]
    with pytest.raises(PoolTimeoutError, match=r"within acquire_timeout \(0.05 s\): limit is") as e:
        await balanced.ws_connect(acquire_timeout=0.05)
    assert e.value.waited_for == "limit"
    assert out(balanced) == [False, False, False]
    assert session.stats().timeouts == 1
    assert session.stats().waiting == 0
    assert len(held) == 3


@pytest.mark.parametrize("check", [None, check_ping()])
async def test_acquire_timeout_of_0(
    backends: list[Backend], make_session: SessionFactory, check: Any
) -> None:
    session = make_session(check=check)
    balanced = session.balanced(urls_of(backends))
    with pytest.raises(PoolTimeoutError, match="acquire_timeout is 0"):
        await acquire(balanced, acquire_timeout=0)
    assert session.stats().timeouts == 1
    await (await direct(session, backends[1].url())).release()
    for _ in range(5):
        ws = await acquire(balanced, acquire_timeout=0)
        assert ws.reused
        await ws.release()
    assert sum(backend.handshakes for backend in backends) == 1


async def test_a_check_that_fails_at_one_server_only(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    bad = backends[0].port

    async def check(ws: Any) -> None:
        if ws._slot.endpoint.port == bad:
            raise ValueError

    session = make_session(check=check)
    await (await direct(session, backends[0].url())).release()
    await (await direct(session, backends[1].url())).release()
    balanced = session.balanced(urls_of(backends))
    ws = await acquire(balanced, acquire_timeout=0)
    assert server_of(backends, ws) in backends[:2]
    if server_of(backends, ws) is backends[0]:
        assert not ws.reused


# -- all out -------------------------------------------------------------------------------------


async def test_all_out_raises_the_last_error_at_once(
    make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced([NOWHERE, "ws://127.0.0.1:2/"])
    with pytest.raises(aiohttp.ClientConnectorError) as first:
        await acquire(balanced)
    assert out(balanced) == [True, True]
    assert session.stats().connect_errors == 2
    assert "failed before: 127.0.0.1:" in first.value.__notes__[0]
    errors = set()
    for _ in range(3):
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await acquire(balanced)
        # Of its own, without the frames of another caller.
        errors.add(caught.value)
        assert caught.value is not first.value
        assert caught.value.__notes__ == ["(all 2 URLs are left out after failed handshakes)"]
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert len(errors) == 3
    assert session.stats().connect_errors == 2


async def test_the_error_of_another_caller_shows_nothing_of_it(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    backends[0].status = 503
    balanced = make_session().balanced([backends[0].url("/?key=hidden")])
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await acquire(balanced, headers={"Authorization": "hidden"}, params={"a": "hidden"})
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await acquire(balanced)
    error = caught.value
    assert error.status == 503
    assert dict(error.headers or {}) == {"Retry-After": "7"}
    assert "hidden" not in f"{error!r} {error} {vars(error)} {error.args} {error.request_info}"


async def test_one_call_probes_when_all_are_out(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    for index in range(3):
        put_out(balanced, index)
    backends[0].gate.clear()
    # They are due at once.
    for server in balanced._servers.all:
        server.pauses.not_before = 0.0
    for server in balanced._servers.all[1:]:
        server.pauses.not_before = float("inf")
        server.pauses.failed_at = float("inf")
    prober = asyncio.ensure_future(use(balanced))
    await until(lambda: backends[0].arrived == 1)
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            await acquire(balanced)
    assert backends[0].arrived == 1
    backends[0].gate.set()
    await prober
    assert out(balanced) == [False, True, True]
    await use(balanced)


async def test_an_answer_to_the_prober_takes_the_server_back(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    balanced = make_session().balanced(urls_of(backends[:1]))
    put_out(balanced, 0)
    balanced._servers.all[0].pauses.not_before = 0.0
    backends[0].status = 401
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await balanced.ws_connect()
    assert out(balanced) == [False]


async def test_pauses_are_short_while_all_are_out(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    put_out(balanced, 0)
    assert balanced.stats()[0].retry_in > 900
    put_out(balanced, 1)
    servers._LONGEST_PAUSE_IF_ALL_OUT = 1.0  # type: ignore[misc]
    assert balanced.stats()[1].retry_in > 900
    put_out(balanced, 2)
    assert all(state.retry_in <= 1.0 for state in balanced.stats())


# -- probes --------------------------------------------------------------------------------------


async def test_one_probe_in_the_background_takes_it_back(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    put_out(balanced, 0)
    backends[0].gate.clear()
    await use(balanced)
    assert backends[0].arrived == 0
    balanced._servers.all[0].pauses.not_before = 0.0
    # Nobody waits for it, and there is one.
    await asyncio.gather(*[use(balanced) for _ in range(20)])
    await until(lambda: backends[0].arrived == 1)
    await asyncio.gather(*[use(balanced) for _ in range(20)])
    assert backends[0].arrived == 1
    assert out(balanced) == [True, False, False]
    backends[0].gate.set()
    await until(lambda: out(balanced) == [False, False, False])
    # What it has opened is there for the next call.
    assert balanced.stats()[0].idle == 1


async def test_a_probe_that_fails(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    backends[0].status = 503
    put_out(balanced, 0)
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: balanced.stats()[0].failures == 2)
    assert balanced.stats()[0].retry_in > 900
    # An answer that is about the caller takes it back.
    backends[0].status = 401
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: not out(balanced)[0])


async def test_a_probe_that_hangs_is_no_probe_for_ever(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    backends[0].gate.clear()
    put_out(balanced, 0)
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    (slot,) = [slot for slot in session._pool.slots() if slot.endpoint.port == backends[0].port]
    # Time passes for the core.
    session._lifecycle.carry_out(session._pool.expire(balancing.clock() + 60.0))
    assert slot.late
    await use(balanced)
    assert balanced.stats()[0].failures == 2
    backends[0].gate.set()


async def test_a_probe_gives_way(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    put_out(balanced, 0)
    backends[0].gate.clear()
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: backends[0].arrived == 1)
    # Another handshake needs the place.
    other = asyncio.ensure_future(direct(session, backends[0].url("/other")))
    await until(lambda: backends[0].arrived == 2)
    assert balanced.stats()[0].failures == 1
    backends[0].gate.set()
    await (await other).close()
    await until(lambda: not session.stats().closing)
    # A second later, the next call tries again; here it is a long one.
    await use(balanced)
    assert 900 < balanced.stats()[0].retry_in <= 1_000
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: not out(balanced)[0])


async def test_without_room_there_is_no_probe(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    held = await direct(session, backends[0].url())
    put_out(balanced, 0)
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    assert out(balanced)[0]
    await held.close()
    await until(lambda: not session.stats().closing)
    await use(balanced)
    await until(lambda: not out(balanced)[0])


async def test_calls_that_wait_probe_too(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    put_out(balanced, 0)
    held = [await direct(session, backend.url()) for backend in backends[1:]]
    waiting = asyncio.ensure_future(acquire(balanced))
    await until(lambda: session.stats().waiting == 1)
    balanced._servers.all[0].pauses.not_before = 0.0
    # Nobody calls, and what the probe opens is for who waits.
    ws = await asyncio.wait_for(waiting, 30)
    assert server_of(backends, ws) is backends[0]
    assert len(held) == 2


async def test_idle_connections_of_a_server_that_is_out(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    await (await direct(session, backends[0].url())).release()
    # It refuses new connections, as at its cap: those that are open are as good as ever.
    put_out(balanced, 0)
    ws = await acquire(balanced)
    assert server_of(backends, ws) is backends[0]
    await ws.release()
    # It does not answer.
    put_out(balanced, 0, TimeoutError())
    ws = await acquire(balanced)
    assert server_of(backends, ws) is not backends[0]


# -- servers that hang ---------------------------------------------------------------------------


async def test_a_server_that_hangs_costs_no_call(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    """The share of the time: nothing is known of any server, and nothing is late for 5 s."""
    for backend in backends[:2]:
        backend.gate.clear()
    session = make_session(conn_timeout=600.0)
    balanced = session.balanced(urls_of(backends))
    await asyncio.gather(*[use(balanced, acquire_timeout=3.0) for _ in range(9)])
    assert backends[2].handshakes
    assert out(balanced)[2] is False
    # What hangs is known by now.
    assert True in out(balanced)
    for backend in backends:
        backend.gate.set()


async def test_a_late_handshake_goes_on_beside_the_next(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    # What is usual is known, since something is open.
    held = await asyncio.gather(*[acquire(balanced) for _ in range(3)])
    backends[0].gate.clear()
    for backend in backends[1:]:
        put_out(balanced, backends.index(backend))
    waiting = asyncio.ensure_future(acquire(balanced))
    await until(lambda: backends[0].arrived >= 2)
    for server in balanced._servers.all[1:]:
        server.pauses.ended(float("inf"))
    ws = await asyncio.wait_for(waiting, 30)
    assert server_of(backends, ws) is not backends[0]
    assert balanced.stats()[0].out
    failure = balanced.stats()[0].last_failure
    assert failure is not None
    assert failure.error == "ConnectionTimeoutError"
    assert len(held) == 3
    backends[0].gate.set()


async def test_a_slow_server_still_serves_who_went_on(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    for backend in backends[:2]:
        backend.gate.clear()
    balanced = make_session().balanced(urls_of(backends[:2]))
    waiting = asyncio.ensure_future(acquire(balanced, acquire_timeout=600.0))
    (running,) = await until_calls(balanced, 1)
    await until(lambda: sum(backend.arrived for backend in backends) == 1)
    first = next(backend for backend in backends if backend.arrived)
    running._wants_another = True
    running._stir()
    await until(lambda: sum(backend.arrived for backend in backends) == 2)
    first.gate.set()
    ws = await waiting
    assert server_of(backends, ws) is first
    # The other handshake is left to who comes next, and nobody is out.
    assert out(balanced) == [False, False]
    for backend in backends:
        backend.gate.set()


async def test_a_server_that_was_slow_when_another_served_is_out(
    backends: list[Backend],
    make_session: SessionFactory,
    pauses: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a short acquire_timeout, calls go on before a handshake is late for the core."""
    monkeypatch.setattr(balancing.Call, "_share", lambda call: 0.0)
    balanced = make_session().balanced(urls_of(backends[:2]))
    put_out(balanced, 1)
    backends[0].gate.clear()
    waiting = asyncio.ensure_future(acquire(balanced))
    (running,) = await until_calls(balanced, 1)
    await until(lambda: backends[0].arrived == 1)
    balanced._servers.all[1].pauses.failures = 0
    # Whatever this one takes.
    monkeypatch.setattr(servers.Servers, "patience", lambda *_: 0.0)
    running._wants_another = True
    running._stir()
    assert server_of(backends, await waiting) is backends[1]
    assert out(balanced) == [True, False]
    backends[0].gate.set()


async def until_calls(balanced: Balanced[Any], number: int) -> list[Any]:
    await until(lambda: len(balanced._line.calls) == number)
    return list(balanced._line.calls)


@pytest.mark.parametrize("what", ["limit_total", "connect_limiter"])
async def test_a_server_that_hangs_gives_way(
    backends: list[Backend], make_session: SessionFactory, pauses: Any, what: str
) -> None:
    """It has the only place, or the limiter, when the call goes on to the next server."""
    arguments: dict[str, Any] = {"connect_limiter": asyncio.Semaphore(1), "limit_total": 1}
    session = make_session(**{what: arguments[what]})
    balanced = session.balanced(urls_of(backends))
    # Once it is known how long a handshake takes, one that hangs is late after half a second.
    await use(balanced)
    session.drain()
    for backend in backends[:2]:
        backend.gate.clear()
    for _ in range(3):
        await use(balanced, acquire_timeout=60.0)
        session.drain()
    for backend in backends:
        backend.gate.set()


async def test_who_waits_for_a_server_that_is_put_out_goes_on(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    session = make_session(max_connecting=1)
    balanced = session.balanced(urls_of(backends))
    backends[0].gate.clear()
    put_out(balanced, 1)
    put_out(balanced, 2)
    waiting = [asyncio.ensure_future(use(balanced)) for _ in range(30)]
    await until(lambda: session.stats().waiting == 29)
    for server in balanced._servers.all[1:]:
        server.pauses.failures = 0
    put_out(balanced, 0)
    # The first waits for its handshake.
    await until(lambda: sum(task.done() for task in waiting) == 29)
    (first,) = [task for task in waiting if not task.done()]
    backends[0].gate.set()
    await first
    assert backends[0].handshakes == 1


async def test_acquire_timeout_over_all(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    for backend in backends:
        backend.gate.clear()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    with pytest.raises(PoolTimeoutError, match=r"acquire_timeout \(0.3 s\): the handshake") as e:
        await balanced.ws_connect(acquire_timeout=0.3)
    assert e.value.waited_for == "handshake"
    assert session.stats().timeouts == 1
    assert not balanced._line.calls
    for backend in backends:
        backend.gate.set()


# -- URLs ----------------------------------------------------------------------------------------


BAD_URLS: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "urls must contain at least one"),
    ("ws://host/", TypeError, "urls must be an iterable"),
    (URL("ws://host/"), TypeError, "urls must be an iterable"),
    (b"ws://host/", TypeError, "urls must be an iterable"),
    (None, TypeError, "urls must be an iterable"),
    (5, TypeError, "urls must be an iterable"),
    (["ws://host/", 5], TypeError, "url must be a str"),
    (["ws://host/", "ws://host:80/"], ValueError, "index 1 has the same URL"),
    (["ws://host/", "http://host/#x"], ValueError, "index 1 has the same URL"),
    (["ftp://host/"], aiohttp.NonHttpUrlClientError, "scheme"),
    (["/path"], aiohttp.InvalidURL, "absolute"),
    (["ws://host:hidden/"], aiohttp.InvalidURL, "parsed"),
]


@pytest.mark.parametrize(("urls", "error", "match"), BAD_URLS, ids=range(len(BAD_URLS)))
async def test_bad_urls(
    make_session: SessionFactory, urls: Any, error: type[Exception], match: str
) -> None:
    session = make_session()
    with pytest.raises(error, match=match) as caught:
        session.balanced(urls)
    assert "hidden" not in str(caught.value)
    balanced = session.balanced(["ws://host/1", URL("ws://host/2")])
    with pytest.raises(error, match=match):
        balanced.set_urls(urls)
    assert [state.endpoint.host for state in balanced.stats()] == ["host", "host"]


async def test_bad_arguments_raise_at_once(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    for arguments in (
        {"hedaers": {}},
        {"acquire_timeout": -1},
        {"reuse_key": []},
        {"headers": 3},
        {"configure": 5},
    ):
        with pytest.raises((TypeError, ValueError)):
            balanced.ws_connect(**arguments)
    with pytest.raises(TypeError):
        balanced.ws_connect("ws://host/")  # type: ignore[misc]


async def test_what_can_be_read_once_is_read_for_each_server(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    held = [await acquire(balanced, protocols=iter(["a", "b"])) for _ in range(3)]
    assert len({server_of(backends, ws) for ws in held}) == 3
    assert [ws.protocol for ws in held] == ["a", "a", "a"]


async def test_options_are_those_of_ws_connect(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(headers={"X": "1"})
    balanced = session.balanced(urls_of(backends))
    async with balanced.ws_connect(
        protocols=["a", "b"], headers={"Y": "2"}, params={"z": "3"}, reuse_key="k"
    ) as ws:
        server = server_of(backends, ws)
        assert ws.protocol == "a"
    (request,) = server.requests
    assert request.headers["X"] == "1"
    assert request.headers["Y"] == "2"
    assert request.query_string == "z=3"
    ws = await acquire(
        balanced, protocols=["a", "b"], headers={"Y": "4"}, params={"z": "3"}, reuse_key="k"
    )
    assert ws.reused


async def test_a_generator_of_urls(backends: list[Backend], make_session: SessionFactory) -> None:
    balanced = make_session().balanced(backend.url() for backend in backends)
    await asyncio.gather(*[use(balanced) for _ in range(3)])
    assert [backend.handshakes for backend in backends] == [1, 1, 1]


async def test_a_relative_url(backends: list[Backend], make_session: SessionFactory) -> None:
    async with aiohttp.ClientSession(backends[0].url()) as client_session:
        session = make_session(client_session=client_session)
        balanced = session.balanced(["/a", "/b"])
        await asyncio.gather(*[use(balanced) for _ in range(2)])
        assert sorted(r.path for r in backends[0].requests) == ["/a", "/b"]
        await session.close()


async def test_set_urls(backends: list[Backend], make_session: SessionFactory, pauses: Any) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends[:2]))
    held = await asyncio.gather(*[acquire(balanced) for _ in range(4)])
    for ws in held[:2]:
        await ws.release()
    put_out(balanced, 1)
    balanced.set_urls(urls_of(backends[1:]))
    # What stays keeps its state.
    assert out(balanced) == [True, False]
    # Idle connections are closed at once, those in use at their release.
    await until(lambda: all(not ws.closed or backends[0].open <= 2 for ws in held))
    for ws in held[2:]:
        await use_held(ws)
        await ws.release()
    await until(lambda: backends[0].open == 0)
    assert backends[1].open == 2
    for _ in range(5):
        await use(balanced)
    assert backends[0].handshakes == 2
    assert session.stats().closed_forced == 2


async def use_held(ws: Any) -> None:
    await ws.send_str("x")
    assert await ws.receive_str() == "x"


async def test_set_urls_retires_whatever_the_options(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session()
    balanced = session.balanced([backends[0].url("/a"), backends[0].url("/b?x=1")])
    await (await direct(session, backends[0].url("/a"), params={"p": "1"})).release()
    await (await direct(session, backends[0].url("/a"), headers={"X": "1"})).release()
    await (await direct(session, backends[0].url("/ab"))).release()
    await (await direct(session, backends[0].url("/b?x=1"), params={"p": "1"})).release()
    await (await direct(session, backends[0].url("/b?x=11"))).release()
    balanced.set_urls([backends[0].url("/c")])
    await until(lambda: not session.stats().closing)
    assert session.stats().closed_forced == 3
    assert session.stats().idle == 2


async def test_a_call_in_flight_goes_on_to_a_new_url(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    backends[0].gate.clear()
    balanced = make_session().balanced(urls_of(backends[:1]))
    waiting = asyncio.ensure_future(use(balanced))
    await until(lambda: backends[0].arrived == 1)
    balanced.set_urls(urls_of(backends[1:]))
    backends[0].status = 503
    backends[0].gate.set()
    await waiting
    assert sum(backend.handshakes for backend in backends[1:]) == 1


async def test_set_urls_before_the_first_use(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced([NOWHERE])
    acquisition = balanced.ws_connect()
    balanced.set_urls(urls_of(backends))
    await (await acquisition).release()


# -- the end -------------------------------------------------------------------------------------


async def test_a_closed_session(backends: list[Backend], make_session: SessionFactory) -> None:
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    acquisition = balanced.ws_connect()
    for backend in backends:
        backend.gate.clear()
    waiting = asyncio.ensure_future(acquire(balanced))
    await until(lambda: sum(backend.arrived for backend in backends))
    await session.close()
    with pytest.raises(PoolClosedError):
        await waiting
    with pytest.raises(PoolClosedError):
        await acquisition
    with pytest.raises(PoolClosedError):
        await acquire(balanced)
    with pytest.raises(PoolClosedError):
        balanced.set_urls(urls_of(backends))
    with pytest.raises(PoolClosedError):
        session.balanced(urls_of(backends))
    assert out(balanced) == [False, False, False]
    assert "out" not in repr(balanced)


async def test_a_client_session_closed_too_early(backends: list[Backend]) -> None:
    client_session = aiohttp.ClientSession()
    async with WebSocketClientSession(client_session=client_session) as session:
        balanced = session.balanced(urls_of(backends))
        for backend in backends:
            backend.gate.clear()
        waiting = asyncio.ensure_future(acquire(balanced))
        await until(lambda: sum(backend.arrived for backend in backends))
        await client_session.close()
        with pytest.raises(PoolClosedError):
            await asyncio.wait_for(waiting, 30)
        assert out(balanced) == [False, False, False]


async def test_never_awaited(backends: list[Backend], make_session: SessionFactory) -> None:
    balanced = make_session().balanced(urls_of(backends))
    with pytest.warns(RuntimeWarning, match="never awaited"):
        balanced.ws_connect()
        gc.collect()


async def test_nothing_of_it_is_kept(backends: list[Backend], make_session: SessionFactory) -> None:
    session = make_session()
    balanced = session.balanced([*urls_of(backends), NOWHERE])
    await asyncio.gather(*[use(balanced) for _ in range(12)])
    with contextlib.suppress(PoolTimeoutError):
        backends[0].gate.clear()
        await acquire(balanced, acquire_timeout=0.01, headers={"X": "1"})
    backends[0].gate.set()
    await asyncio.sleep(0)
    gone = weakref.ref(balanced)
    del balanced
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("ends", ["fails", "is refused", "times out"])
async def test_no_cycles(
    backends: list[Backend], make_session: SessionFactory, ends: str, pauses: Any
) -> None:
    """What a failed call has held is gone with it, without the collector."""

    class Held:
        pass

    async def failing(gone: list[Any]) -> None:
        held = Held()
        gone.append(weakref.ref(held))
        await balanced.ws_connect(acquire_timeout=0.05)

    backends[0].status = 503 if ends == "fails" else 404
    if ends == "times out":
        backends[0].gate.clear()
        backends[0].status = 0
    balanced = make_session().balanced([backends[0].url(), NOWHERE])
    put_out(balanced, 1)
    gone: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            with contextlib.suppress(aiohttp.ClientError):
                await failing(gone)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
    backends[0].gate.set()


async def test_a_dropped_session_is_collected(backends: list[Backend]) -> None:
    session = WebSocketClientSession()
    balanced = session.balanced(urls_of(backends))
    ws = await acquire(balanced)
    await ws.close()
    await session.close()
    gone = weakref.ref(session)
    del session, balanced, ws
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


# -- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize("hung", [0, 1, 3])
async def test_cancelled_in_each_turn(
    backends: list[Backend], make_session: SessionFactory, hung: int
) -> None:
    """Whatever the turn of the loop, nothing is lost, and nobody is blamed."""
    for backend in backends[:hung]:
        backend.gate.clear()
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    for turns in range(1, 40):
        task = asyncio.ensure_future(acquire(balanced))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            ws = await task
        except asyncio.CancelledError:
            pass
        else:
            await ws.close()
        assert not balanced._line.calls
        assert all(server.beginning in (0, 1) for server in balanced._servers.all)
        await asyncio.sleep(0)
        assert all(server.beginning == 0 for server in balanced._servers.all)
        session.drain()
    assert out(balanced) == [False, False, False]
    for backend in backends:
        backend.gate.set()
    await until(lambda: not session.stats().acquired and not session.stats().closing)
    await asyncio.gather(*[asyncio.wait_for(use(balanced), 30) for _ in range(6)])


async def test_cancelled_when_the_connection_is_there(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends[:1]))
    held = await acquire(balanced)
    task = asyncio.ensure_future(acquire(balanced))
    await until(lambda: session.stats().waiting == 1)
    for _ in range(20):
        # It is given the connection, and cancelled in the same turn or the next ones.
        await held.release()
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        held = await asyncio.wait_for(acquire(balanced), 30)
        task = asyncio.ensure_future(acquire(balanced))
        await asyncio.sleep(0)
    task.cancel()
    await held.release()
    await until(lambda: session.stats().idle == 1)
    assert session.stats().acquired == 0
    assert backends[0].handshakes == 1


async def test_two_tries_succeed_in_one_turn(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    for backend in backends:
        backend.gate.clear()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    waiting = asyncio.ensure_future(acquire(balanced))
    (running,) = await until_calls(balanced, 1)
    for number in (2, 3):
        running._wants_another = True
        running._stir()
        await until(lambda number=number: sum(b.arrived for b in backends) == number)  # type: ignore[misc]
    for backend in backends:
        backend.gate.set()
    ws = await waiting
    await until(lambda: session.stats().connecting == 0)
    # The caller has one; what else was opened is idle.
    assert session.stats().acquired == 1
    assert session.stats().idle == session.stats().connects - 1
    assert not ws.closed
    assert out(balanced) == [False, False, False]


async def test_the_loop_cancels_all(backends: list[Backend], make_session: SessionFactory) -> None:
    for backend in backends:
        backend.gate.clear()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(acquire(balanced))
    await until(lambda: sum(backend.arrived for backend in backends))
    for task in asyncio.all_tasks() - before:
        if "Try._run" in repr(task) or task is waiting:
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert out(balanced) == [False, False, False]
    for backend in backends:
        backend.gate.set()


async def test_a_coroutine_that_is_closed(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    for backend in backends:
        backend.gate.clear()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    acquisition = balanced.ws_connect()
    acquisition.send(None)
    assert len(balanced._line.calls) == 1
    acquisition.close()
    assert not balanced._line.calls
    for backend in backends:
        backend.gate.set()
    await use(balanced)


# -- what is told --------------------------------------------------------------------------------


async def test_logs(
    backends: list[Backend],
    make_session: SessionFactory,
    caplog: pytest.LogCaptureFixture,
    pauses: Any,
) -> None:
    caplog.set_level(logging.DEBUG, "aiowebsocketclient")
    session = make_session(name="speech")
    balanced = session.balanced([backends[0].url("/?key=hidden"), backends[1].url()])
    backends[0].status = 503
    await asyncio.gather(*[use(balanced) for _ in range(4)])
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: balanced.stats()[0].failures == 2)
    backends[0].status = 0
    balanced._servers.all[0].pauses.not_before = 0.0
    await use(balanced)
    await until(lambda: not out(balanced)[0])
    told = [r for r in caplog.records if getattr(r, "event", "").startswith("endpoint_")]
    assert [(r.event, r.levelname) for r in told] == [  # type: ignore[attr-defined]
        ("endpoint_out", "WARNING"),
        ("endpoint_still_out", "DEBUG"),
        ("endpoint_back", "INFO"),
    ]
    first, second, third = map(vars, told)
    assert (first["error"], first["status"]) == ("WSServerHandshakeError", 503)
    assert first["session_name"] == "speech"
    assert second["failures"] == third["failures"] == 2
    assert "WSServerHandshakeError, status 503" in told[0].getMessage()
    assert all("hidden" not in f"{r.getMessage()} {vars(r)}" for r in told)
    assert first["endpoint"] == f"127.0.0.1:{backends[0].port}"


async def test_reprs_show_no_secret(backends: list[Backend], make_session: SessionFactory) -> None:
    url = f"ws://user:hidden@127.0.0.1:{backends[0].port}/hidden?key=hidden"
    balanced = make_session().balanced([url, NOWHERE])
    put_out(balanced, 1)
    assert repr(balanced) == f"<Balanced(127.0.0.1:{backends[0].port}, 127.0.0.1:1 (out))>"
    assert "hidden" not in repr(balanced.stats()) + str(balanced)
    with pytest.raises(ValueError, match="same URL") as caught:
        balanced.set_urls([url, url])
    assert "hidden" not in str(caught.value)


async def test_traces_and_leaks(
    backends: list[Backend], make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Counter[str] = Counter()
    trace = TraceConfig()

    def counting(name: str) -> Any:
        async def count(*_: Any) -> None:
            seen[name] += 1

        return count

    for name in ("queued_start", "queued_end", "connect_end", "reuse", "release", "close"):
        getattr(trace, f"on_{name}").append(counting(name))
    session = make_session(trace_configs=[trace], leak_threshold=0.01)
    balanced = session.balanced(urls_of(backends))
    ws = await acquire(balanced)
    await until(lambda: any("test_balancing.py" in r.getMessage() for r in caplog.records))
    await ws.release()
    await use(balanced)
    await session.close()
    assert seen == {
        "queued_start": 1,
        "queued_end": 1,
        "connect_end": 1,
        "reuse": 1,
        "release": 2,
        "close": 1,
    }


async def test_a_class_of_the_user(backends: list[Backend], make_session: SessionFactory) -> None:
    from aiowebsocketclient import ClientWebSocketResponse

    class Mine(ClientWebSocketResponse):
        pass

    balanced = make_session(ws_response_class=Mine).balanced(urls_of(backends))
    assert type(await use(balanced)) is Mine


# -- all together --------------------------------------------------------------------------------


async def test_servers_die_and_come_back_under_load(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    """Callers go on while one server after another is killed; no call fails."""
    session = make_session(limit=20, max_lifetime=0.5)
    balanced = session.balanced(urls_of(backends))
    is_over = False
    failures: list[BaseException] = []
    uses = 0

    async def caller() -> None:
        nonlocal uses
        while not is_over:
            try:
                ws = await balanced.ws_connect(acquire_timeout=30.0)
            except Exception as exc:
                failures.append(exc)
                continue
            uses += 1
            # The server may die meanwhile: that is the caller's to see.
            with contextlib.suppress(aiohttp.ClientError, TypeError, ConnectionError):
                async with ws:
                    await ws.send_str("x")
                    await ws.receive_str()
            await asyncio.sleep(0.005)

    callers = [asyncio.ensure_future(caller()) for _ in range(12)]
    for backend in backends:
        before = uses
        await until(lambda before=before: uses > before + 50)  # type: ignore[misc]
        await backend.kill()
        index = backends.index(backend)
        await until(lambda index=index: out(balanced)[index])  # type: ignore[misc]
        before = uses
        await until(lambda before=before: uses > before + 50)  # type: ignore[misc]
        await backend.start()
        await until(lambda: not any(out(balanced)))
    is_over = True
    await asyncio.gather(*callers)
    assert not failures


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_measured(way: str) -> None:
    """``python -m tests.balanced_servers`` prints these figures."""
    result = await measure(way, 1.0, 9, max_lifetime=0.25, acquire_timeout=60.0)
    assert result.failed == 0
    assert result.calls > 100
    assert result.out_after is not None


# -- more that could go wrong --------------------------------------------------------------------


async def test_an_idle_connection_that_is_checked_goes_first(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(check=check_ping())
    balanced = session.balanced(urls_of(backends))
    others = [await direct(session, backends[2].url()) for _ in range(3)]
    await others.pop().release()
    for _ in range(5):
        ws = await acquire(balanced)
        assert ws.reused
        await ws.release()
    assert sum(backend.handshakes for backend in backends) == 3


async def test_a_timeout_that_is_over_at_once(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    for _ in range(5):
        with contextlib.suppress(PoolTimeoutError):
            await (await balanced.ws_connect(acquire_timeout=1e-12)).close()
    assert not balanced._line.calls
    assert [server.beginning for server in balanced._servers.all] == [0, 0, 0]


async def test_the_kept_error_keeps_nothing(make_session: SessionFactory, pauses: Any) -> None:
    balanced = make_session().balanced([NOWHERE])
    with contextlib.suppress(aiohttp.ClientConnectorError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        await balanced.ws_connect(
            proxy="http://127.0.0.1:1/", proxy_auth=aiohttp.BasicAuth("user", "hidden")
        )
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await balanced.ws_connect()
    kept: Any = balanced._servers.all[0].last_error
    for error in (kept, kept.os_error):
        assert error.__traceback__ is error.__cause__ is error.__context__ is None
    assert "hidden" not in f"{vars(caught.value)} {caught.value!r}"


async def test_a_prober_that_is_cancelled(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    balanced = make_session().balanced(urls_of(backends[:1]))
    put_out(balanced, 0)
    backends[0].gate.clear()
    balanced._servers.all[0].pauses.not_before = 0.0
    prober = asyncio.ensure_future(use(balanced))
    await until(lambda: backends[0].arrived == 1)
    with pytest.raises(ConnectionRefusedError):
        await balanced.ws_connect()
    prober.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await prober
    # The next call probes, and takes over its handshake.
    backends[0].gate.set()
    await use(balanced)
    assert out(balanced) == [False]


async def test_a_task_of_the_acquisition_itself(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    balanced = make_session().balanced(urls_of(backends))
    task: Any = asyncio.create_task(balanced.ws_connect())
    ws = await task
    await ws.release()
    acquisition = balanced.ws_connect()
    again = await acquisition
    assert again == ws
    with pytest.raises(RuntimeError, match="only once"):
        await acquisition
    await again.release()


def test_made_outside_a_loop() -> None:
    session = WebSocketClientSession()
    balanced = session.balanced([NOWHERE])
    balanced.set_urls(["ws://127.0.0.1:2/"])

    async def main() -> None:
        with contextlib.suppress(aiohttp.ClientConnectorError):
            await balanced.ws_connect()
        await session.close()

    asyncio.run(main())
    assert out(balanced) == [True]


async def test_a_burst_on_servers_that_are_down(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    """Callers queue for handshakes with a server that refuses, and one that hangs."""
    session = make_session(max_connecting=5, limit=20)
    balanced = session.balanced(urls_of(backends))
    await backends[0].kill()
    backends[1].gate.clear()
    await asyncio.gather(*[use(balanced, acquire_timeout=600.0) for _ in range(300)])
    assert out(balanced) == [True, True, False]
    assert session.stats().waiting == 0
    assert not balanced._line.calls
    backends[1].gate.set()


async def test_limits_that_are_raised_admit_who_waits(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends))
    for _ in range(3):
        await acquire(balanced)
    waiting = [asyncio.ensure_future(use(balanced)) for _ in range(6)]
    await until(lambda: session.stats().waiting == 6)
    session.resize(limit=3)
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_drained_while_a_call_waits(
    backends: list[Backend], make_session: SessionFactory
) -> None:
    for backend in backends:
        backend.gate.clear()
    session = make_session()
    balanced = session.balanced(urls_of(backends))
    waiting = asyncio.ensure_future(use(balanced))
    await until(lambda: sum(backend.arrived for backend in backends))
    session.drain()
    for backend in backends:
        backend.gate.set()
    await waiting
    assert out(balanced) == [False, False, False]


async def test_who_waits_has_its_turn_although_others_fail(
    backends: list[Backend], make_session: SessionFactory, pauses: Any
) -> None:
    """A server dies whose connections are in use, and callers wait for these."""
    session = make_session(limit=1)
    balanced = session.balanced(urls_of(backends[:2]))
    held = {server_of(backends, ws): ws for ws in [await acquire(balanced) for _ in range(2)]}
    waiting = [asyncio.ensure_future(use(balanced)) for _ in range(6)]
    await until(lambda: session.stats().waiting == 6)
    await backends[0].kill()
    await held[backends[0]].close()
    await until(lambda: out(balanced) == [True, False])
    await held[backends[1]].release()
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_random_interleavings(backends: list[Backend], make_session: SessionFactory) -> None:
    """Callers, cancellations, failures and changes at random: at the end, all is as it was."""
    choices = random.Random(7)
    session = make_session(limit=3, limit_total=7, max_waiting=50)
    balanced = session.balanced(urls_of(backends))
    ended: Counter[str] = Counter()

    async def caller() -> None:
        try:
            async with balanced.ws_connect(acquire_timeout=choices.choice([0, 0.01, 30.0])) as ws:
                if choices.random() < 0.2:
                    await ws.close()
                await asyncio.sleep(choices.choice([0, 0, 0.001, 0.01]))
        except (asyncio.CancelledError, Exception) as exc:
            ended[type(exc).__name__] += 1
        else:
            ended["fine"] += 1

    for _ in range(40):
        tasks = [asyncio.ensure_future(caller()) for _ in range(choices.randint(1, 20))]
        victim = choices.choice(backends)
        what = choices.randrange(8)
        victim.status = 503 if what == 0 else 0
        if what == 1:
            victim.gate.clear()
        elif what == 2:
            for transport in list(victim.transports):
                transport.abort()
        elif what == 3:
            balanced.set_urls(urls_of(choices.sample(backends, 2)))
        elif what == 4:
            balanced.set_urls(urls_of(backends))
        elif what == 5:
            session.drain()
        elif what == 6:
            session.resize(limit=choices.randint(1, 4), limit_total=choices.randint(1, 9))
        for _ in range(choices.randint(0, 30)):
            await asyncio.sleep(0)
        for task in choices.sample(tasks, len(tasks) // 3):
            task.cancel()
        await asyncio.sleep(choices.choice([0, 0.005]))
        victim.gate.set()
        victim.status = 0
        await asyncio.wait(tasks, timeout=60)
        assert all(task.done() for task in tasks)
    assert not balanced._line.calls
    balanced.set_urls(urls_of(backends))
    assert [server.beginning for server in balanced._servers.all] == [0, 0, 0]
    await until(lambda: session.stats().acquired == session.stats().connecting == 0)
    assert session.stats().waiting == 0
    assert ended["fine"] > 30, ended
    assert ended["CancelledError"] > 10, ended
    balanced._servers.all[0].pauses.not_before = 0.0
    await asyncio.wait_for(asyncio.gather(*[use(balanced) for _ in range(9)]), 30)
