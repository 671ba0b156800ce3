"""The pool for gremlinpython, with the real gremlinpython and a server that speaks its protocol."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PoolClosedError, PoolTimeoutError, TooManyWaitersError

from .conftest import run_program, uvloop

pytest.importorskip("gremlin_python", reason="gremlinpython is not there")

from gremlin_python.driver.client import Client
from gremlin_python.driver.driver_remote_connection import DriverRemoteConnection
from gremlin_python.driver.protocol import ConfigurationError, GremlinServerError
from gremlin_python.driver.request import RequestMessage
from gremlin_python.process.anonymous_traversal import traversal
from gremlin_python.process.graph_traversal import GraphTraversalSource

from aiowebsocketclient.arguments import DEFAULTS
from aiowebsocketclient.gremlin import GremlinConnectionError, GremlinPool

from . import gremlin_calls
from .gremlin_calls import ServerProcess, server_process
from .gremlin_server import BATCH, BINARY, SERIALIZERS, GremlinServer, ServerThread

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop

MakePool = Callable[..., GremlinPool]


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something in another thread; only a hang reaches the bound."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Log no errors of the server: gremlinpython tells each at length."""
    caplog.set_level(logging.CRITICAL, "gremlinpython")


@pytest.fixture
def server() -> Iterator[ServerThread]:
    with ServerThread(GremlinServer()) as thread:
        yield thread


@pytest.fixture(params=list(LOOPS))
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Make pools that are closed at the end, after which nothing of them may be left."""
    complaints: list[Any] = []
    pools: list[GremlinPool] = []
    before = set(threading.enumerate())

    def loop_factory() -> asyncio.AbstractEventLoop:
        loop = LOOPS[request.param]()
        loop.set_exception_handler(lambda _, told: complaints.append(told))
        return loop

    def make(**options: Any) -> GremlinPool:
        pool = GremlinPool(**{"loop_factory": loop_factory, "close_timeout": 2.0} | options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()
        sizes = pool.session._pool.sizes()
        assert {size for name, size in sizes.items() if not name.endswith("_heap")} == {0}
    gc.collect()
    left = {t for t in set(threading.enumerate()) - before if "aiowebsocketclient" in t.name}
    assert not left
    assert not complaints


def client_of(pool: GremlinPool, url: str, **options: Any) -> Client:
    return Client(
        url,
        "g",
        transport_factory=pool.transport_factory,
        protocol_factory=pool.protocol_factory,
        **options,
    )


@contextlib.contextmanager
def calling(
    pool: GremlinPool, server: ServerThread | ServerProcess, **options: Any
) -> Iterator[Client]:
    client = client_of(pool, server.url, **options)
    try:
        yield client
    finally:
        client.close()


def call(client: Client, script: str, **options: Any) -> list[Any]:
    results: list[Any] = client.submit(script, **options).all().result(60)
    return results


def begin(client: Client, script: str) -> "Future[list[Any]]":
    """Send a request, and return the future of its results."""
    future: Future[list[Any]] = client.submit(script).all()
    return future


def is_at_rest(pool: GremlinPool) -> bool:
    stats = pool.session.stats()
    return stats.acquired == stats.connecting == stats.closing == stats.waiting == 0


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERIALIZERS)
def test_replies_are_read_to_their_end(
    make_pool: MakePool, server: ServerThread, name: str
) -> None:
    pool = make_pool(message_serializer=SERIALIZERS[name]())
    with calling(pool, server) as client:
        assert call(client, f"range {3 * BATCH + 1}") == list(range(3 * BATCH + 1))
        assert call(client, "nothing") == []
        assert call(client, "bound x", bindings={"x": "y"}) == ["y"]
        with pytest.raises(GremlinServerError, match="597: in the middle"):
            call(client, "fail 597 after parts")
        with pytest.raises(GremlinServerError, match="500: as it was told"):
            call(client, "fail 500")
        assert call(client, "echo hello") == ["hello"]
        wait_until(lambda: is_at_rest(pool))
    assert server.server.handshakes == 1
    assert pool.session.stats().released == 6


def test_graphbinary_is_the_default_as_in_gremlinpython(
    make_pool: MakePool, server: ServerThread
) -> None:
    alone = Client(server.url, "g")
    assert call(alone, "echo hello") == ["hello"]
    alone.close()
    with calling(make_pool(), server) as client:
        assert call(client, "echo hello") == ["hello"]
    assert server.server.mimes == [BINARY, BINARY]


# decode_text is new in aiohttp 3.14.
@pytest.mark.parametrize("decode_text", [True, False] if "decode_text" in DEFAULTS else [None])
def test_a_reply_as_text(
    make_pool: MakePool, server: ServerThread, decode_text: bool | None
) -> None:
    options = {} if decode_text is None else {"decode_text": decode_text}
    pool = make_pool(message_serializer=SERIALIZERS["GraphSON 3"](), connect_options=options)
    with calling(pool, server) as client:
        assert call(client, "text") == ["text"]


def test_results_come_as_they_arrive(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool()
    server.shut_gate()
    with calling(pool, server) as client:
        results = client.submit("part and hold")
        assert results.one() == ["first"]
        assert pool.session.stats().acquired == 1
        server.open_gate()
        assert results.one() == ["last"]
        wait_until(lambda: is_at_rest(pool))
    assert pool.session.stats().released == 1


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("garbage", UnicodeDecodeError, "invalid start byte"),
        ("stray", GremlinConnectionError, "a reply belongs to no request"),
    ],
)
@pytest.mark.parametrize("name", ["GraphSON 2", "GraphSON 3"])
def test_a_reply_that_is_not_understood_costs_the_connection(
    make_pool: MakePool, server: ServerThread, name: str, script: str, error: Any, said: str
) -> None:
    pool = make_pool(message_serializer=SERIALIZERS[name]())
    with calling(pool, server) as client:
        with pytest.raises(error, match=said):
            call(client, script)
        assert call(client, "echo hello") == ["hello"]
        wait_until(lambda: is_at_rest(pool))
    assert server.server.handshakes == 2
    assert pool.session.stats().closed_failed == 1


def test_a_second_reply_reaches_nobody(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=1)
    with calling(pool, server) as client:
        for n in range(50):
            assert call(client, "twice") == ["once"]
            # If it came while nobody had the connection, the pool has closed that.
            with contextlib.suppress(GremlinConnectionError):
                assert call(client, f"echo {n}") == [str(n)]


@pytest.mark.parametrize(
    ("script", "code"), [("drop", 1006), ("close 1011", 1011), ("close 1001", 1001)]
)
def test_a_request_that_is_cut_fails(
    make_pool: MakePool, server: ServerThread, script: str, code: int
) -> None:
    with calling(make_pool(), server) as client:
        with pytest.raises(GremlinConnectionError, match=f"closed by server.* {code}") as caught:
            call(client, script)
        # As gremlinpython's own transport, and as aiohttp.
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value, aiohttp.ServerDisconnectedError)
        assert call(client, "echo hello") == ["hello"]


def test_a_large_reply(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool()
    with calling(pool, server) as client:
        size = 6 * 2**20
        assert len(call(client, f"big {size}")[0]) == size
    small = make_pool(connect_options={"max_msg_size": 1_000})
    with calling(small, server) as client:
        with pytest.raises(GremlinConnectionError, match="exceeds max_msg_size"):
            call(client, "big 2000")
        assert call(client, "echo hello") == ["hello"]


def test_headers_reach_the_server(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool()
    for agent in ("one", "two"):
        for _ in range(2):
            with calling(
                pool, server, headers={"User-Agent": agent}, enable_user_agent_on_connect=False
            ) as client:
                call(client, "nothing")
    # Clients with the same headers share connections.
    assert server.server.agents == ["one", "two"]


# -- logging in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERIALIZERS)
def test_each_connection_logs_in_once(make_pool: MakePool, name: str) -> None:
    pool = make_pool(
        username="reader", password="secret", limit=2, message_serializer=SERIALIZERS[name]()
    )
    with ServerThread(GremlinServer({"reader": "secret"})) as server:
        with calling(pool, server) as client:
            futures = [client.submit_async(f"range {BATCH + n}") for n in range(20)]
            for n, future in enumerate(futures):
                assert future.result(60).all().result(60) == list(range(BATCH + n))
            assert call(client, "user") == ["reader"]
        assert server.server.logins == server.server.handshakes <= 2
    assert "secret" not in repr(pool) + repr(vars(pool)["_session"])


def test_a_failed_login_costs_the_connection(make_pool: MakePool) -> None:
    with ServerThread(GremlinServer({"reader": "secret"})) as server:
        wrong = make_pool(username="reader", password="guess", limit=1)
        with calling(wrong, server) as client:
            for _ in range(3):
                with pytest.raises(GremlinServerError, match="401"):
                    call(client, "user")
        without = make_pool(limit=1)
        with calling(without, server) as client:
            for _ in range(3):
                with pytest.raises(ConfigurationError):
                    call(client, "user")
        wait_until(lambda: server.server.open == 0)
        assert server.server.handshakes == 6
        assert server.server.requests == 0


def test_kerberos_begins_anew_on_each_connection(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def init(service: str, gssflags: int) -> tuple[int, object]:
        begun.append(service)
        return 0, SimpleNamespace(steps=0)

    fake = SimpleNamespace(
        GSS_C_MUTUAL_FLAG=2,
        AUTH_GSS_COMPLETE=1,
        KrbError=RuntimeError,
        authGSSClientInit=init,
        authGSSClientStep=lambda context, challenge: 1,
        authGSSClientUserName=lambda context: "someone",
        authGSSClientResponse=lambda context: "AQAAAA==",
        authGSSClientUnwrap=lambda context, challenge: 1,
        authGSSClientWrap=lambda context, data: 1,
    )
    monkeypatch.setitem(sys.modules, "kerberos", fake)
    pool = make_pool(kerberized_service="gremlin@server")
    with ServerThread(GremlinServer(kerberos=3)) as server:
        # With one connection of gremlinpython, and so one protocol, over three of the pool.
        with calling(pool, server, pool_size=1) as client:
            for _ in range(3):
                assert call(client, "user") == ["of the realm"]
                assert call(client, "user") == ["of the realm"]
                with pytest.raises(GremlinConnectionError):
                    call(client, "drop")
        assert server.server.logins == server.server.handshakes == 3
    assert begun == ["gremlin@server"] * 3


# -- waiting -------------------------------------------------------------------------------------


def test_a_late_reply_reaches_nobody(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(read_timeout=0.05, limit=1)
    server.shut_gate()
    with calling(pool, server) as client:
        with pytest.raises(TimeoutError, match=r"read_timeout=0\.05 seconds"):
            call(client, "hold")
        server.open_gate()
        for n in range(5):
            # On a busy machine, this may take longer, too.
            with contextlib.suppress(TimeoutError):
                assert call(client, f"echo {n}") == [str(n)]


def test_limits_of_the_session(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=1, acquire_timeout=0.05, max_waiting=1, name="graph")
    server.shut_gate()
    with calling(pool, server, pool_size=4) as client:
        held = begin(client, "hold")
        with pytest.raises(PoolTimeoutError, match="session 'graph'"):
            call(client, "nothing")
        patient = make_pool(limit=1, max_waiting=1)
        with calling(patient, server, pool_size=4) as another:
            first = begin(another, "hold")
            second = another.submit_async("echo second")
            wait_until(lambda: patient.session.stats().waiting == 1)
            with pytest.raises(TooManyWaitersError):
                call(another, "echo third")
            server.open_gate()
            assert first.result(60) == held.result(60) == ["held"]
            assert second.result(60).all().result(60) == ["second"]


def test_failed_handshakes_use_up_nothing(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=1)
    server.kill()
    # More of them than gremlinpython has connections.
    with calling(pool, server, pool_size=2) as client:
        for _ in range(6):
            with pytest.raises(aiohttp.ClientConnectorError):
                client.submit("nothing")
        server.start()
        assert call(client, "echo hello") == ["hello"]
    forbidden = client_of(pool, server.url.replace("/gremlin", "/forbidden"))
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        forbidden.submit("nothing")
    assert caught.value.status == 403
    forbidden.close()


def test_a_wrong_url_fails_in_the_call(make_pool: MakePool) -> None:
    client = client_of(make_pool(), "ftp://127.0.0.1/gremlin", pool_size=1)
    for _ in range(3):
        with pytest.raises(aiohttp.NonHttpUrlClientError):
            client.submit("nothing")
    client.close()


def test_threads_share_few_connections(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=4)
    clients = [client_of(pool, server.url, pool_size=8) for _ in range(4)]

    def work(number: int) -> None:
        client = clients[number % len(clients)]
        for n in range(10):
            said = f"{number}-{n}"
            assert call(client, f"echo {said}") == [said]

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(work, range(32)))
    for client in clients:
        client.close()
    assert server.server.peak <= 4
    assert server.server.handshakes <= 4
    wait_until(lambda: is_at_rest(pool))
    assert pool.session.stats().released == 320


# -- the end of connections ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "go_away"])
def test_no_call_fails_after_a_restart(make_pool: MakePool, server: ServerThread, how: str) -> None:
    pool = make_pool(limit=4)
    with calling(pool, server) as client, calling(pool, server, pool_size=1) as another:
        for _ in range(3):
            futures = [client.submit_async("echo hello") for _ in range(16)]
            assert {f.result(60).all().result(60)[0] for f in futures} == {"hello"}
            call(another, "nothing")
            getattr(server, how)()
            server.start()
            # The pool has seen the end of all connections.
            wait_until(lambda: pool.session.stats().idle == 0)


def test_only_requests_under_way_see_a_restart(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=4)
    server.shut_gate()
    with calling(pool, server) as client:
        held = [begin(client, "hold") for _ in range(4)]
        wait_until(lambda: server.server.held == 4)
        server.kill()
        server.start()
        for future in held:
            with pytest.raises(GremlinConnectionError):
                future.result(60)
        assert call(client, "echo hello") == ["hello"]


def test_drain(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool()
    # Nothing is open, and no thread runs.
    pool.drain()
    with calling(pool, server) as client:
        first = call(client, "connection")
        assert call(client, "connection") == first
        pool.drain()
        assert pool.session.stats().idle == 0
        call(client, "nothing")
    assert server.server.handshakes == 2


# -- sessions ------------------------------------------------------------------------------------


def test_a_session_has_one_connection(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=2)
    with calling(pool, server, session="mine") as mine, calling(pool, server) as client:
        call(mine, "x = 5")
        other = call(client, "connection")
        own = call(mine, "connection")
        assert own != other
        for _ in range(3):
            assert call(mine, "x") == ["5"]
            with pytest.raises(GremlinServerError, match="597"):
                # An error costs neither the session nor its connection.
                call(mine, "y")
            assert call(mine, "connection") == own
            assert call(client, "connection") == other
            with pytest.raises(GremlinServerError, match="597"):
                call(client, "x")
        wait_until(lambda: pool.session.stats().acquired == 1)
    # The end of a session is the end of its connection.
    wait_until(lambda: is_at_rest(pool))
    assert pool.session.stats().closed_user == 1
    assert server.server.handshakes == 2


def test_a_session_that_was_lost_is_not_begun_anew(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool()
    client = client_of(pool, server.url, session="mine")
    call(client, "x = 5")
    server.kill()
    server.start()
    # Whether this request was sent or not, the session is gone.
    with pytest.raises((GremlinConnectionError, aiohttp.ClientConnectionError)):
        call(client, "x = 6")
    for _ in range(3):
        with pytest.raises(GremlinConnectionError, match="session of Gremlin Server ended"):
            call(client, "x = 7")
    assert server.server.handshakes == 1
    # There is nothing left to close.
    client.close()
    assert client.is_closed()


@pytest.mark.parametrize("end", ["server", "pool"])
def test_closing_a_session_whose_connection_is_gone(
    make_pool: MakePool, server: ServerThread, end: str
) -> None:
    pool = make_pool()
    client = client_of(pool, server.url, session="mine")
    call(client, "x = 5")
    if end == "server":
        server.kill()
    else:
        pool.close()
    client.close()
    assert client.is_closed()


def test_a_session_that_begins_with_a_failed_handshake(
    make_pool: MakePool, server: ServerThread
) -> None:
    server.kill()
    with calling(make_pool(), server, session="mine") as client:
        with pytest.raises(aiohttp.ClientConnectorError):
            call(client, "x = 5")
        server.start()
        call(client, "x = 6")
        assert call(client, "x") == ["6"]


def test_a_login_in_a_session(make_pool: MakePool) -> None:
    pool = make_pool(username="reader", password="secret")
    with ServerThread(GremlinServer({"reader": "secret"})) as server:
        with calling(pool, server, session="mine") as client:
            call(client, "x = 5")
            assert call(client, "x") == ["5"]
        assert server.server.logins == 1


@contextlib.contextmanager
def traversing(
    pool: GremlinPool, server: ServerThread
) -> Iterator[tuple[GraphTraversalSource, DriverRemoteConnection]]:
    connection = DriverRemoteConnection(
        server.url,
        "g",
        transport_factory=pool.transport_factory,
        protocol_factory=pool.protocol_factory,
    )
    source = traversal()
    # The name is new in gremlinpython 3.8.
    with_ = getattr(source, "with_", None) or source.with_remote
    try:
        yield with_(connection), connection
    finally:
        connection.close()


@pytest.mark.parametrize("name", SERIALIZERS)
def test_traversals_and_transactions(make_pool: MakePool, server: ServerThread, name: str) -> None:
    pool = make_pool(message_serializer=SERIALIZERS[name](), limit=2)
    with traversing(pool, server) as (g, _):
        assert g.inject(1, 2, "x").to_list() == [1, 2, "x"]
        for n in range(5):
            transaction = g.tx()
            in_transaction = transaction.begin()
            assert in_transaction.inject(n).to_list() == [n]
            assert in_transaction.inject(-n).to_list() == [-n]
            if n % 2:
                transaction.commit()
            else:
                transaction.rollback()
        assert g.inject("end").to_list() == ["end"]
        wait_until(lambda: is_at_rest(pool))
    assert server.server.written == [1, -1, 3, -3]
    assert server.server.peak <= 2


def test_a_transaction_that_loses_its_connection_writes_nothing(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool()
    with traversing(pool, server) as (g, _):
        transaction = g.tx()
        in_transaction = transaction.begin()
        in_transaction.inject("first").to_list()
        server.kill()
        server.start()
        with pytest.raises(aiohttp.ClientError):
            in_transaction.inject("second").to_list()
        with pytest.raises(GremlinConnectionError):
            in_transaction.inject("third").to_list()
        with pytest.raises(GremlinConnectionError):
            transaction.commit()
    assert server.server.written == []


# -- threads -------------------------------------------------------------------------------------


def test_it_works_inside_a_running_loop(make_pool: MakePool, server: ServerThread) -> None:
    pool = make_pool(limit=2)

    async def main() -> list[Any]:
        # Both ways: in the thread of the loop, which waits, and in others.
        assert call(client, "echo here") == ["here"]
        calls = (asyncio.to_thread(call, client, f"echo {n}") for n in range(10))
        return await asyncio.gather(*calls)

    with calling(pool, server) as client:
        assert asyncio.run(main()) == [[str(n)] for n in range(10)]


def test_closing_a_transport_while_another_thread_reads(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool(limit=1)
    server.shut_gate()
    client = client_of(pool, server.url, pool_size=1)
    connection = client._pool.queue[0]
    held = begin(client, "hold")
    wait_until(lambda: server.server.held == 1)
    connection.close()
    with pytest.raises(GremlinConnectionError, match="closed by this client"):
        held.result(60)
    with pytest.raises(PoolClosedError, match="client of gremlinpython is closed"):
        client.submit("nothing")
    server.open_gate()
    wait_until(lambda: is_at_rest(pool))
    assert connection._transport.closed
    client.close()


def test_closing_a_transport_while_another_thread_waits_for_a_place(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool(limit=1)
    server.shut_gate()
    with calling(pool, server) as holder:
        held = begin(holder, "hold")
        client = client_of(pool, server.url, pool_size=1)
        connection = client._pool.queue[0]
        waiting = client.submit_async("nothing")
        wait_until(lambda: pool.session.stats().waiting == 1)
        connection.close()
        with pytest.raises(GremlinConnectionError, match="closed by this client"):
            waiting.result(60)
        assert pool.session.stats().waiting == 0
        client.close()
        server.open_gate()
        assert held.result(60) == ["held"]


def test_closing_clients_while_threads_call(
    make_pool: MakePool, server: ServerThread, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that were begun end somehow, and the pool serves others."""
    # A record of the exception in gremlinpython's callback would keep the connection alive.
    caplog.set_level(logging.CRITICAL + 1, "concurrent.futures")
    pool = make_pool(limit=4)
    with calling(pool, server) as lasting:
        for _ in range(3):
            client = client_of(pool, server.url, pool_size=4)
            futures = [client.submit_async("echo hello") for _ in range(4)]
            client.close()
            for future in futures:
                # gremlinpython itself leaves a future undone if its executor has ended.
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    assert future.result(0.05).all().result(60) == ["hello"]
            del client, futures, future
            gc.collect()
            assert call(lasting, "echo hello") == ["hello"]
        wait_until(lambda: is_at_rest(pool))


def test_a_client_that_is_dropped_gives_its_connection_back(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool(limit=1)
    client = client_of(pool, server.url, session="mine")
    call(client, "x = 5")
    assert pool.session.stats().acquired == 1
    client._executor.shutdown()
    del client
    gc.collect()
    wait_until(lambda: is_at_rest(pool))
    with calling(pool, server) as another:
        assert call(another, "echo hello") == ["hello"]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, whatever another test has left behind."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_thread(make_pool: MakePool, server: ServerThread) -> None:
    """Ctrl-C while the main thread is in the transport itself."""
    pool = make_pool(limit=1)
    server.shut_gate()
    protocol, transport = connected(pool, server)

    def interrupt(condition: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            wait_until(condition)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    for _ in range(5):
        ask(protocol, "part and hold")
        transport.read()
        # The reply to this call does not come.
        thread = interrupt(lambda: server.server.held == 1 and pool._thread._calls)
        with pytest.raises(KeyboardInterrupt):
            transport.read()
        thread.join()
        server.open_gate()
        wait_until(lambda: is_at_rest(pool) and server.server.held == 0)
        server.shut_gate()
    with calling(pool, server) as client:
        held = begin(client, "hold")
        thread = interrupt(lambda: pool.session.stats().waiting == 1)
        with pytest.raises(KeyboardInterrupt):
            ask(protocol, "nothing")
        thread.join()
        wait_until(lambda: pool.session.stats().waiting == 0)
        server.open_gate()
        assert held.result(60) == ["held"]


REQUEST_ID = "41d2e28a-20a4-4ab0-b379-d810dede3786"


def ask(protocol: Any, script: str, processor: str = "") -> None:
    """Send a request as a connection of gremlinpython does, in this thread."""
    args = {"gremlin": script, "session": "mine"}
    protocol.write(REQUEST_ID, RequestMessage(processor, "eval", args))


def answer(protocol: Any, transport: Any) -> list[Any]:
    """Read the replies to :func:`ask`."""
    parts: list[list[Any]] = []
    results = {REQUEST_ID: SimpleNamespace(stream=SimpleNamespace(put_nowait=parts.append))}
    while protocol.data_received(transport.read(), results) == 206:
        pass
    return [result for part in parts for result in part]


def connected(pool: GremlinPool, server: ServerThread) -> tuple[Any, Any]:
    """Return a protocol and its transport."""
    transport, protocol = pool.transport_factory(), pool.protocol_factory()
    transport.connect(server.url)
    protocol.connection_made(transport)
    return protocol, transport


@pytest.mark.slow
# It may be raised where nothing can come out of, such as a callback of a weakref.
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_is_interrupted_anywhere(make_pool: MakePool, server: ServerThread) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    dice = random.Random(1)
    pool = make_pool(limit=1)
    protocol, transport = connected(pool, server)
    ask(protocol, "echo hello")
    assert answer(protocol, transport) == ["hello"]
    answered = 0
    delivered: list[int] = []
    again = threading.Semaphore(0)

    def handle(*_: object) -> None:
        delivered.append(n)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handle)

    def interrupt() -> None:
        for _ in range(300):
            if not again.acquire(timeout=60):
                return
            time.sleep(dice.random() * 0.003)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        for n in range(300):
            with contextlib.suppress(KeyboardInterrupt):
                again.release()
                for said in (f"{n}", f"{n} again"):
                    ask(protocol, f"echo {said.replace(' ', '-')}")
                    assert answer(protocol, transport) == [said.replace(" ", "-")]
                    answered += 1
                # The signal comes here, if it comes too late for the calls.
                wait_until(lambda: delivered[-1:] == [n])  # noqa: B023
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert delivered == list(range(300))
    assert 0 < answered < 600
    del protocol, transport
    wait_until(lambda: is_at_rest(pool))
    assert not pool._thread._calls  # type: ignore[union-attr]
    assert server.server.peak == 1


def test_a_reply_that_nobody_read(make_pool: MakePool, server: ServerThread) -> None:
    """The executor of a client ended between the request and its reply."""
    pool = make_pool(limit=1)
    protocol, transport = connected(pool, server)
    ask(protocol, "echo first")
    ask(protocol, "echo second")
    assert answer(protocol, transport) == ["second"]
    wait_until(lambda: is_at_rest(pool))
    assert server.server.handshakes == 2
    # There is nothing to read, and no connection to read from.
    with pytest.raises(GremlinConnectionError):
        transport.read()


# -- the end of the pool -------------------------------------------------------------------------


def test_closing_the_pool_while_requests_are_under_way(
    make_pool: MakePool, server: ServerThread
) -> None:
    pool = make_pool(limit=2, name="graph", close_timeout=0.1)
    server.shut_gate()
    client = client_of(pool, server.url)
    held = [begin(client, "hold") for _ in range(2)]
    waiting = client.submit_async("nothing")
    wait_until(lambda: server.server.held == 2)
    wait_until(lambda: pool.session.stats().waiting == 1)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: pool.close(), range(4)))
    assert pool.closed
    for future in held:
        with pytest.raises((GremlinConnectionError, PoolClosedError)):
            future.result(60)
    with pytest.raises(PoolClosedError):
        waiting.result(60)
    with pytest.raises(PoolClosedError, match="session 'graph': this GremlinPool is closed"):
        client.submit("nothing")
    with pytest.raises(PoolClosedError):
        pool.drain()
    client.close()
    pool.close()
    server.open_gate()
    wait_until(lambda: server.server.open == 0)


def test_a_pool_that_was_not_used(make_pool: MakePool) -> None:
    before = threading.active_count()
    with make_pool() as pool:
        assert threading.active_count() == before
        assert pool.session.stats().connects == 0
    with pytest.raises(PoolClosedError):
        client_of(pool, "ws://127.0.0.1:1/gremlin").submit("nothing")


def test_hooks_cannot_close_the_pool(make_pool: MakePool, server: ServerThread) -> None:
    async def configure(ws: object) -> None:
        for method in (pool.close, pool.drain):
            with pytest.raises(RuntimeError, match="in another thread"):
                method()
        called.append(threading.current_thread().name)

    called: list[str] = []
    pool = make_pool(configure=configure, name="graph")
    with calling(pool, server) as client:
        assert call(client, "echo hello") == ["hello"]
    assert called == ["aiowebsocketclient graph"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_hook_that_ends_the_loop(
    make_pool: MakePool, server: ServerThread, kind: type[BaseException]
) -> None:
    """All callers hear of it, and the next one gets a new loop."""

    async def configure(ws: object) -> None:
        if armed:
            raise kind

    armed: list[bool] = []
    pool = make_pool(configure=configure, limit=2)
    server.shut_gate()
    with calling(pool, server, pool_size=4) as client:
        held = begin(client, "hold")
        wait_until(lambda: server.server.held == 1)
        armed.append(True)
        with pytest.raises(PoolClosedError, match=f"was ended by {kind.__name__}") as caught:
            client.submit("nothing")
        assert isinstance(caught.value.__cause__, kind)
        with pytest.raises((PoolClosedError, GremlinConnectionError)):
            held.result(60)
        armed.clear()
        server.open_gate()
        assert call(client, "echo hello") == ["hello"]
        assert pool.session.stats().connects == 1


@pytest.mark.slow
def test_closing_pools_while_threads_call(make_pool: MakePool, server: ServerThread) -> None:
    """Each call ends, with its own reply or with an error."""
    dice = random.Random(2)
    errors: Counter[str] = Counter()

    def work(client: Client) -> None:
        for n in range(30):
            try:
                assert call(client, f"echo {n}") == [str(n)]
            except PoolClosedError as exc:
                errors[type(exc).__name__] += 1

    for _ in range(20):
        pool = make_pool(limit=2)
        with calling(pool, server, pool_size=3) as client, ThreadPoolExecutor(6) as threads:
            working = [threads.submit(work, client) for _ in range(6)]
            time.sleep(dice.random() * 0.05)
            pool.close()
            for future in working:
                future.result(60)
    assert errors["PoolClosedError"]


@pytest.mark.slow
def test_hooks_that_end_the_loop_while_threads_call(
    make_pool: MakePool, server: ServerThread
) -> None:
    """There are never more connections than the limit, though there are several loops."""
    dice = random.Random(3)
    errors: Counter[type[BaseException]] = Counter()

    async def configure(ws: object) -> None:
        if dice.random() < 0.2:
            raise SystemExit

    def work(client: Client) -> None:
        for n in range(25):
            try:
                assert call(client, f"echo {n}") == [str(n)]
            except (PoolClosedError, GremlinConnectionError) as exc:
                errors[type(exc)] += 1
            time.sleep(dice.random() * 0.03)

    pool = make_pool(limit=4, configure=configure, max_idle=0.01)
    with calling(pool, server) as client, ThreadPoolExecutor(6) as threads:
        list(threads.map(work, [client] * 6))
    assert errors[PoolClosedError]
    assert server.server.peak <= 4


def test_an_unclosed_pool_warns(server: ServerThread) -> None:
    pool = GremlinPool(name="graph")
    client = client_of(pool, server.url)
    assert call(client, "echo hello") == ["hello"]
    client.close()
    gone = weakref.ref(pool)
    with pytest.warns(ResourceWarning, match="Unclosed <GremlinPool .*'graph'"):
        del pool, client
        gc.collect()
    assert gone() is None
    wait_until(lambda: server.server.open == 0)
    wait_until(lambda: not any(t.name == "aiowebsocketclient graph" for t in threading.enumerate()))


PROGRAM = """
import logging, os, sys, threading, warnings
from gremlin_python.driver.client import Client
from aiowebsocketclient.gremlin import GremlinPool

def client_of(pool):
    return Client({url!r}, "g", transport_factory=pool.transport_factory,
                  protocol_factory=pool.protocol_factory)

def connection_of(client):
    return client.submit("connection").all().result(60)

pool = GremlinPool(limit=2)
client = client_of(pool)
first = connection_of(client)
"""

FORK = """
# A thread of the parent holds a lock of the pool while another forks.
pool._lock.acquire()
pool._thread._lock.acquire()
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    own = client_of(pool)
    second = connection_of(own)
    assert second != first
    assert connection_of(own) == second
    own.close()
    # The client of the parent has no threads here, but can be closed.
    for connection in list(client._pool.queue):
        connection.close()
    pool.close()
    os._exit(7)
pool._thread._lock.release()
pool._lock.release()
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert connection_of(client) == first
client.close()
pool.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_connections_of_its_own(server: ServerThread) -> None:
    done = run_program(PROGRAM.format(url=server.url) + FORK)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.server.handshakes == 2


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "client.close()", "client.close(); del pool, client"])
def test_a_program_that_forgets_to_close_ends(server: ServerThread, end: str) -> None:
    done = run_program(PROGRAM.format(url=server.url) + end)
    assert done.returncode == 0
    # An exception in __del__ is printed with a traceback; here, only this one may be.
    assert done.stderr.count("ResourceWarning: Unclosed <GremlinPool") == 1
    assert done.stderr.count("Traceback") == 1
    wait_until(lambda: server.server.open == 0)


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"limitt": 4}, TypeError, "unexpected keyword argument 'limitt'"),
        ({"limit": -1}, ValueError, "limit must be"),
        ({"client_session": None}, TypeError, "GremlinPool() takes no client_session: "),
        ({"loop": None}, TypeError, "GremlinPool() takes no loop: the pool runs"),
        ({"heartbeat": 30}, TypeError, 'no heartbeat: pass connect_options={"heartbeat": ...}'),
        ({"ssl_options": None}, TypeError, 'no ssl_options: pass connect_options={"ssl": ...}'),
        ({"pool_size": 4}, TypeError, "GremlinPool() takes no pool_size: it is an option of the"),
        ({"read_timeout": 0}, ValueError, "read_timeout must be a finite number > 0 or None"),
        ({"read_timeout": -1}, ValueError, "read_timeout must be a finite number > 0 or None"),
        ({"write_timeout": "1"}, TypeError, "write_timeout must be"),
        ({"message_serializer": "json"}, TypeError, "message_serializer must be a serializer"),
        (
            {"message_serializer": SERIALIZERS["GraphSON 3"]},
            TypeError,
            "such as GraphSONSerializersV3d0(), not the class GraphSONSerializersV3d0",
        ),
        ({"connect_options": []}, TypeError, "connect_options must be a mapping, not list"),
        ({"connect_options": {"heartbeet": 1}}, TypeError, "argument 'heartbeet'"),
        ({"connect_options": {"heartbeat": "1"}}, TypeError, "heartbeat must be"),
        ({"connect_options": {"headers": {}}}, TypeError, "connect_options takes no headers"),
        ({"loop_factory": None}, TypeError, "loop_factory must be callable, not NoneType"),
        ({"username": None}, TypeError, "username must be a str, not NoneType"),
        ({"password": b""}, TypeError, "password must be a str, not bytes"),
        ({"kerberized_service": 1}, TypeError, "kerberized_service must be a str, not int"),
    ],
)
def test_invalid_arguments_raise_at_once(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        GremlinPool(**options)
    assert said in str(caught.value)


def test_the_factories_belong_together(make_pool: MakePool, server: ServerThread) -> None:
    one, other = make_pool(), make_pool()
    for transports in ({}, {"transport_factory": other.transport_factory}):
        client = Client(server.url, "g", protocol_factory=one.protocol_factory, **transports)
        with pytest.raises(TypeError, match=r"needs transport_factory=pool\.transport_factory"):
            client.submit("nothing")
        client.close()
    client = Client(server.url, "g", transport_factory=one.transport_factory)
    with pytest.raises(TypeError, match=r"needs protocol_factory=pool\.protocol_factory"):
        client.submit("nothing")
    client.close()
    assert server.server.handshakes <= 1
    assert one.session.stats().connects == other.session.stats().connects == 0


def test_a_loop_that_cannot_be_made(server: ServerThread) -> None:
    def loop_factory() -> asyncio.AbstractEventLoop:
        if not loops:
            raise OSError("no file is left")
        return loops.pop()

    loops: list[asyncio.AbstractEventLoop] = []
    with GremlinPool(loop_factory=loop_factory) as pool, calling(pool, server) as client:
        with pytest.raises(OSError, match="no file is left"):
            client.submit("nothing")
        loops.append(asyncio.new_event_loop())
        assert call(client, "echo hello") == ["hello"]


# -- all together --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_of_the_guide() -> None:
    """With gremlinpython alone each call fails after a restart, over the pool none."""
    command = [sys.executable, "-m", "tests.gremlin_calls"]
    done = subprocess.run(
        [*command, "--calls", "100", "--threads", "8", "--times", "10"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    failed = re.findall(r"after (\w+) and a new start, (\d+) of 100 calls failed", done.stdout)
    assert failed == [("SIGTERM", "100"), ("SIGKILL", "100"), ("SIGTERM", "0"), ("SIGKILL", "0")]
    # The first call of each connection of gremlinpython finds out.
    (closed,) = re.findall(r"(\d+) RuntimeError: Event loop is closed", done.stdout)
    assert int(closed) >= 100 - 16
    alone, pooled = map(int, re.findall(r"(\d+) handshakes", done.stdout))
    assert pooled <= gremlin_calls.LIMIT < alone


#: What a client may see of a request that is cut, timed out or wrong.
EXPECTED = (
    GremlinServerError,
    GremlinConnectionError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
    # "garbage", in GraphSON.
    ValueError,
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_anything_in_any_order(make_pool: MakePool, seed: int) -> None:
    """No caller gets a reply of another, and no place is lost."""
    with server_process() as server:
        do_anything(make_pool, server, seed)


def do_anything(make_pool: MakePool, server: ServerProcess, seed: int) -> None:
    pool = make_pool(limit=3, read_timeout=0.5, message_serializer=SERIALIZERS["GraphSON 3"]())
    seen: Counter[str] = Counter()
    stop = threading.Event()
    peaks: list[int] = []
    clients = [client_of(pool, server.url, pool_size=4) for _ in range(3)]

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        for n in range(40):
            said = f"{number}-{n}"
            script = dice.choice(
                [f"echo {said}"] * 6
                + ["range 200", "twice", "garbage", "stray", "drop", "close 1012", "fail 500"]
                + ["fail 597 after parts", "session", "transport"]
            )
            try:
                act(dice.choice(clients), script, said)
            except EXPECTED as exc:
                seen[type(exc).__name__] += 1
            seen["calls"] += 1

    def act(client: Client, script: str, said: str) -> None:
        if script == "session":
            with calling(pool, server, session=said) as session:
                call(session, f"x = {said}")
                assert call(session, "x") == [said]
        elif script == "transport":
            # Close one in the middle of whatever it does.
            with calling(pool, server, pool_size=1) as own:
                connection = own._pool.queue[0]
                future = own.submit_async(f"echo {said}")
                connection.close()
                assert future.result(60).all().result(60) == [said]
        else:
            results = call(client, script)
            expected = {"range 200": list(range(200)), "twice": ["once"]}
            assert results == expected.get(script, [said])

    def restart() -> None:
        dice = random.Random(seed)
        while True:
            # Calls get through in between, however slow the machine is.
            enough = seen["calls"] + 25
            wait_until(lambda enough=enough: stop.is_set() or seen["calls"] >= enough, 100)
            if stop.is_set():
                return
            peaks.append(server.numbers()["peak"])
            server.end(dice.choice([signal.SIGTERM, signal.SIGKILL]))
            server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(12)))
    stop.set()
    restarting.join()
    for client in clients:
        client.close()
    wait_until(lambda: is_at_rest(pool))
    assert max(peaks) <= 3
    with calling(pool, server) as client:
        futures = [client.submit_async(f"echo {n}") for n in range(30)]
        for n, future in enumerate(futures):
            assert future.result(60).all().result(60) == [str(n)]
    assert seen["GremlinServerError"]
