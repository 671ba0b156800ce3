"""Limits, queues and hand-over, as a server and callers see them."""

import asyncio
import ssl
import sys
from collections import Counter
from typing import Any

import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    EndpointKey,
    PoolClosedError,
    PoolTimeoutError,
    TooManyWaitersError,
    TraceConfig,
    WebSocketClientSession,
    WebSocketPoolError,
    settings,
)

from .conftest import SessionFactory, until
from .servers import Server, serving

resource = pytest.importorskip("resource")


async def test_limit_is_reached_waited_for_and_handed_over_in_order(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=2)
    held = [await session.ws_connect(server.url()) for _ in range(2)]
    served: list[int] = []

    async def caller(number: int) -> None:
        async with session.ws_connect(server.url()) as ws:
            served.append(number)
            assert ws.reused
            await asyncio.sleep(0)

    callers = [asyncio.create_task(caller(number)) for number in range(10)]
    await until(lambda: session.stats().waiting == 10)
    assert server.handshakes == 2
    for ws in held:
        await ws.release()
    await asyncio.gather(*callers)
    assert served == list(range(10))
    assert server.handshakes == server.peak == 2


async def test_later_callers_overtake_no_waiter(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    ws = await session.ws_connect(server.url())
    waiter = asyncio.create_task(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    await ws.release()
    late = asyncio.create_task(session.ws_connect(server.url()))
    first = await waiter
    assert not late.done()
    await first.release()
    await (await late).release()


async def test_limit_is_per_endpoint(server: Server, make_session: SessionFactory) -> None:
    async with serving(Server()) as other:
        session = make_session(limit=1)
        async with session.ws_connect(server.url()), session.ws_connect(other.url()):
            assert session.stats().endpoints == 2
            by_endpoint = session.stats_by_endpoint()
            key = EndpointKey("127.0.0.1", server.port, False)
            assert by_endpoint[key].acquired == 1
            with pytest.raises(PoolTimeoutError):
                await session.ws_connect(server.url(), acquire_timeout=0.05)


async def test_plain_and_tls_are_different_endpoints(
    server: Server,
    tls_server: Server,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
) -> None:
    session = make_session(limit=1)
    async with (
        session.ws_connect(server.url()),
        session.ws_connect(tls_server.url(), ssl=client_tls),
    ):
        assert {key.is_ssl for key in session.stats_by_endpoint()} == {False, True}


@pytest.mark.parametrize("limit", [None, 0])
async def test_no_limit(server: Server, make_session: SessionFactory, limit: int | None) -> None:
    session = make_session(limit=limit)
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(150)])
    assert session.limit is None
    assert server.open == 150
    await asyncio.gather(*[ws.release() for ws in held])


async def test_max_connecting(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_connecting=3)
    server.gate.clear()
    callers = [asyncio.ensure_future(session.ws_connect(server.url())) for _ in range(10)]
    await until(lambda: server.arrived == 3)
    await asyncio.sleep(0.05)
    assert server.arrived == 3
    assert session.stats().connecting == 3
    assert session.stats().waiting == 7
    server.gate.set()
    held = await asyncio.gather(*callers)
    assert server.handshakes == 10
    await asyncio.gather(*[ws.release() for ws in held])


async def test_limit_total_closes_the_longest_idle(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as second, serving(Server()) as third:
        session = make_session(limit_total=2)
        await (await session.ws_connect(server.url())).release()
        await (await session.ws_connect(second.url())).release()
        async with session.ws_connect(third.url()):
            assert (server.open, second.open, third.open) == (0, 1, 1)
            assert session.stats().closed_evicted == 1
        # Now the second server's is the longest idle.
        async with session.ws_connect(server.url()):
            assert (server.open, second.open, third.open) == (1, 0, 1)


async def test_limit_total_is_waited_for_across_endpoints(
    server: Server, make_session: SessionFactory
) -> None:
    async with serving(Server()) as other:
        session = make_session(limit_total=1)
        held = await session.ws_connect(server.url())
        waiter = asyncio.ensure_future(session.ws_connect(other.url()))
        await until(lambda: session.stats().waiting == 1)
        await held.release()
        ws = await waiter
        assert (server.open, other.open) == (0, 1)
        await ws.release()


async def test_an_idle_connection_of_another_handshake_gives_way(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1)
    await (await session.ws_connect(server.url("/a"))).release()
    async with session.ws_connect(server.url("/b")) as ws:
        assert not ws.reused
        assert server.open == server.peak == 1
    assert session.stats().closed_evicted == 1


async def test_two_handshakes_share_a_limit_without_a_connect_for_each_use(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=4)
    used: Counter[str] = Counter()

    async def caller(path: str) -> None:
        for _ in range(20):
            async with session.ws_connect(server.url(path)) as ws:
                await ws.send_str(path)
                assert await ws.receive_str() == path
                used[path] += 1

    await asyncio.gather(*[caller(path) for path in ("/a", "/b") for _ in range(8)])
    assert used == {"/a": 160, "/b": 160}
    assert server.peak <= 4
    # In strict order of arrival it would be a handshake for nearly every second use.
    assert server.handshakes <= 40


async def test_fair_among_many_callers(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=5)
    uses = [0] * 50
    stop = False

    async def caller(number: int) -> None:
        while not stop:
            async with session.ws_connect(server.url()):
                uses[number] += 1
                await asyncio.sleep(0)

    callers = [asyncio.create_task(caller(number)) for number in range(50)]
    await until(lambda: sum(uses) > 5_000)
    stop = True
    await asyncio.gather(*callers)
    assert min(uses) >= max(uses) - 2


async def test_acquire_timeout(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1, acquire_timeout=0.05)
    # A handshake may take longer on a busy machine.
    async with session.ws_connect(server.url(), acquire_timeout=None):
        with pytest.raises(PoolTimeoutError, match="acquire_timeout") as caught:
            await session.ws_connect(server.url())
        assert isinstance(caught.value, asyncio.TimeoutError)
        assert isinstance(caught.value, WebSocketPoolError)
        assert session.stats().timeouts == 1
        assert session.stats().waiting == 0
    async with session.ws_connect(server.url()) as ws:
        assert ws.reused


async def test_acquire_timeout_while_connecting(
    server: Server, make_session: SessionFactory
) -> None:
    # With room for a second handshake, the next caller would begin its own beside the first.
    session = make_session(limit=1)
    server.gate.clear()
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.05)
    # The handshake is the pool's: it goes on, and is there for the next caller.
    server.gate.set()
    async with session.ws_connect(server.url()):
        assert server.handshakes == 1


async def test_acquire_timeout_of_zero(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    with pytest.raises(PoolTimeoutError, match="is 0"):
        await session.ws_connect(server.url(), acquire_timeout=0)
    assert server.arrived == 0
    await (await session.ws_connect(server.url())).release()
    async with session.ws_connect(server.url(), acquire_timeout=0) as ws:
        assert ws.reused
    assert session.stats().timeouts == 1


async def test_max_waiting(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1, max_waiting=1)
    ws = await session.ws_connect(server.url())
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().waiting == 1)
    with pytest.raises(TooManyWaitersError, match="max_waiting"):
        await session.ws_connect(server.url())
    assert session.stats().rejected == 1
    await ws.release()
    await (await waiter).release()


async def test_max_waiting_of_zero_never_queues(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1, max_waiting=0)
    async with session.ws_connect(server.url("/a")):
        with pytest.raises(TooManyWaitersError):
            await session.ws_connect(server.url("/a"))
    # Room can be made for this one, so it does not queue.
    async with session.ws_connect(server.url("/b")):
        pass


async def test_force_close(server: Server, make_session: SessionFactory) -> None:
    session = make_session(force_close=True, limit=1)
    assert session.force_close
    for _ in range(3):
        ws = await session.ws_connect(server.url())
        await ws.send_str("x")
        assert await ws.receive_str() == "x"
        await ws.release()
        assert session.stats().closing == 0 or server.open == 0
    assert server.handshakes == 3
    assert server.peak == 1
    assert session.stats().closed_forced == 3


async def test_place_is_free_only_when_the_socket_is_closed(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=1, close_timeout=0.2)
    ws = await session.ws_connect(server.url("/silent"))
    closing = asyncio.ensure_future(ws.close())
    waiter = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().closing)
    while session.stats().closing:
        assert not waiter.done()
        await asyncio.sleep(0)
    second = await waiter
    await closing
    await second.release()


async def test_1000_connections(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1_000)
    held = await asyncio.gather(*[session.ws_connect(server.url()) for _ in range(1_000)])
    assert server.open == session.stats().acquired == 1_000

    async def talk(number: int) -> None:
        await held[number].send_str(str(number))
        assert await held[number].receive_str() == str(number)

    await asyncio.gather(*[talk(number) for number in range(1_000)])
    await asyncio.gather(*[ws.release() for ws in held])
    assert session.stats().idle == 1_000
    await session.close()
    await until(lambda: server.open == 0)
    assert server.handshakes == 1_000


async def test_resize_lets_in_who_waits(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    callers = [asyncio.create_task(session.ws_connect(server.url())) for _ in range(3)]
    await until(lambda: session.stats().waiting == 3)
    session.resize(limit=3)
    assert session.limit == 3
    await until(lambda: session.stats().acquired == 3)
    assert server.peak == 3
    session.resize(limit=None)
    assert session.limit is None
    await until(lambda: session.stats().acquired == 4)
    assert server.peak == 4
    for ws in [held, *[await caller for caller in callers]]:
        await ws.release()


async def test_resize_closes_what_is_idle_now_and_what_is_used_on_release(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=4)
    held = [await session.ws_connect(server.url()) for _ in range(4)]
    await asyncio.gather(*[ws.release() for ws in held[:2]])
    session.resize(limit=1)
    await until(lambda: server.open == 2)
    assert server.close_codes == [1000, 1000]
    for ws in held[2:]:
        await ws.send_str("still here")
        assert await ws.receive_str() == "still here"
        await ws.release()
    await until(lambda: server.open == 1)
    assert session.stats().idle == 1
    assert session.stats().closed_evicted == 3


async def test_resize_of_the_total(server: Server, make_session: SessionFactory) -> None:
    async with serving(Server()) as other:
        session = make_session()
        for url in (server.url(), other.url()):
            await (await session.ws_connect(url)).release()
        session.resize(limit_total=1)
        assert session.limit is None
        await until(lambda: server.open == 0)
        assert session.stats().idle == 1
        # The limit that is not given stays.
        session.resize(limit=5)
        async with session.ws_connect(server.url()):
            assert session.stats().acquired == 1
            await until(lambda: other.open == 0)


async def test_resize_refuses_what_is_no_limit(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(limit=2)
    with pytest.raises(TypeError, match="limit must be"):
        session.resize(limit=True)
    with pytest.raises(ValueError, match="limit_total must be"):
        session.resize(limit=1, limit_total=-1)
    assert session.limit == 2
    session.resize()
    assert session.limit == 2
    await session.close()
    with pytest.raises(PoolClosedError):
        session.resize(limit=1)


# -- a bound to what is idle ---------------------------------------------------------------------


async def call(session: WebSocketClientSession, url: str, **options: Any) -> None:
    async with session.ws_connect(url, **options) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_no_more_are_idle_than_may_be(make_session: SessionFactory, server: Server) -> None:
    async with serving(Server()) as other:
        session = make_session(max_idle_connections=3)
        for number in range(10):
            url = (server, other)[number % 2].url()
            await call(session, url, headers={"X-Request-Id": str(number)})
            assert session.stats().idle <= 3
        await until(lambda: server.open + other.open == 3)
        stats = session.stats()
        assert (stats.connects, stats.closed_evicted, stats.idle) == (10, 7, 3)
        assert server.close_codes == [1000] * len(server.close_codes)
        # Those that are left are those used last.
        for number in (7, 8, 9):
            url = (server, other)[number % 2].url()
            await call(session, url, headers={"X-Request-Id": str(number)})
        assert session.stats().connects == 10


@pytest.mark.parametrize("watched", ["plain", "traced", "reset"])
async def test_release_closes_the_longest_idle_on_every_way_back(
    server: Server, make_session: SessionFactory, watched: str
) -> None:
    reasons: list[str] = []

    async def reset(ws: ClientWebSocketResponse) -> None:
        await asyncio.sleep(0)

    async def on_close(_: Any, __: Any, params: Any) -> None:
        reasons.append(params.reason)

    arguments: dict[str, Any] = {}
    if watched == "traced":
        trace = TraceConfig()
        trace.on_close.append(on_close)
        arguments["trace_configs"] = [trace]
    elif watched == "reset":
        arguments["reset"] = reset
    session = make_session(max_idle_connections=2, **arguments)
    held = [await session.ws_connect(server.url(f"/{number}")) for number in range(5)]
    for ws in held:
        await ws.release()
    await until(lambda: server.open == 2)
    assert session.stats().closed_evicted == 3
    if watched == "traced":
        await until(lambda: reasons == ["evicted"] * 3)


async def test_a_bound_of_one_reuses_the_last(server: Server, make_session: SessionFactory) -> None:
    session = make_session(max_idle_connections=1)
    for _ in range(3):
        await call(session, server.url("/a"))
    assert session.stats().connects == 1
    await call(session, server.url("/b"))
    await call(session, server.url("/a"))
    assert session.stats().connects == 3
    await until(lambda: server.open == 1)


async def test_prewarm_opens_no_more_than_may_be_idle(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(max_idle_connections=4)
    await call(session, server.url("/other"))
    assert await session.prewarm(server.url(), 10) == 3
    assert await session.prewarm(server.url(), 10) == 0
    assert server.handshakes == server.open == 4
    assert session.stats().closed_evicted == 0


def soft_limit(limit: int) -> Any:
    return lambda _: (limit, limit)


@pytest.mark.parametrize(
    ("files", "bound"), [(100, 50), (101, 50), (1, 1), (0, 1), (resource.RLIM_INFINITY, None)]
)
def test_by_default_half_the_files_may_be_idle(
    monkeypatch: pytest.MonkeyPatch, files: int, bound: int | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", soft_limit(files))
    bounds = bounds_of_pools(monkeypatch)
    WebSocketClientSession()
    assert bounds == [bound or 0]


def test_bounds_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = bounds_of_pools(monkeypatch)
    WebSocketClientSession(max_idle_connections=7)
    WebSocketClientSession(max_idle_connections=None)
    # Windows has no such module, and no such limit.
    monkeypatch.setitem(sys.modules, "resource", None)
    WebSocketClientSession()
    assert bounds == [7, 0, 256]


def bounds_of_pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what will be given to the pools that are made."""
    bounds: list[int] = []

    def make(**limits: Any) -> Any:
        bounds.append(limits["max_idle_connections"])
        return pool(**limits)

    pool = settings.Pool
    monkeypatch.setattr(settings, "Pool", make)
    return bounds
