"""Through proxies: nginx and haproxy with timeouts of their own, and a forward proxy."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from aiowebsocketclient import WebSocketClientSession

from .conftest import SessionFactory, until
from .fronts import Front
from .proxy import Link, Proxy, proxying
from .servers import Server, serving
from .test_faults import LIMIT, check_whole, closed, echo, idle


@asynccontextmanager
async def front_of(
    kind: str, server: Server, directory: Path, **settings: str
) -> AsyncIterator[Front]:
    front = Front(kind, server.port, directory, **settings)
    await front.start()
    try:
        yield front
    finally:
        await front.stop()


kinds = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


async def fill(session: WebSocketClientSession, url: str, **options: Any) -> list[Any]:
    held = await asyncio.gather(*[session.ws_connect(url, **options) for _ in range(LIMIT)])
    await asyncio.gather(*[echo(ws) for ws in held])
    return held


@kinds
@pytest.mark.parametrize("use", ["idle", "in use", "being read", "being closed"])
async def test_its_timeout(
    kind: str, server: Server, make_session: SessionFactory, tmp_path: Path, use: str
) -> None:
    """It is shorter than max_idle: what it ends leaves the pool."""
    session = make_session(limit=LIMIT, close_timeout=600)
    async with front_of(kind, server, tmp_path, timeout="500ms") as front:
        # Nothing is sent that might come too late on a busy machine.
        path = "silent" if use == "being closed" else ""
        calls = [session.ws_connect(front.url + path) for _ in range(LIMIT)]
        held = await asyncio.gather(*calls)
        conns = [ws._slot.conn for ws in held]
        for ws in held:
            if use == "idle":
                await ws.release()
            elif use == "being read":
                assert (await ws.receive(timeout=30)).type is WSMsgType.CLOSED
        if use == "being closed":
            async with asyncio.timeout(30):
                await asyncio.gather(*[ws.close() for ws in held])
        elif use == "in use":
            await until(lambda: all(conn.has_ended for conn in conns))
        await until(lambda: not session.stats().idle)
        for ws in held:
            await ws.release()
        await until(lambda: not session.stats().closing)
        assert closed(session) == {"user" if use == "being closed" else "lost": LIMIT}
        server.stopped.set()
        await until(lambda: not server.open)
        await check_whole(session, front.patient_url, server)


@pytest.mark.slow
@kinds
async def test_heartbeats_that_are_shorter_than_its_timeout(
    kind: str, server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    """The server's on one, the client's on another."""

    async def live_on(front: Front, target: Server, **options: Any) -> None:
        session = make_session(limit=LIMIT)
        used, *others = await fill(session, front.url, **options)
        for ws in others:
            await ws.release()
        # Who holds one has to receive, or its pings go without an answer.
        reading = asyncio.ensure_future(used.receive())
        await asyncio.sleep(6)
        assert session.stats().idle == LIMIT - 1
        assert not reading.done()
        await used.send_str("still there")
        assert (await reading).data == "still there"
        await used.release()
        assert target.handshakes == session.stats().idle == LIMIT

    async with (
        serving(Server(heartbeat=2.0)) as beating,
        front_of(kind, beating, tmp_path / "1", timeout="5s") as first,
        front_of(kind, server, tmp_path / "2", timeout="5s") as second,
    ):
        await asyncio.gather(live_on(first, beating), live_on(second, server, heartbeat=2.0))


@kinds
async def test_close_by_the_server_behind_it(
    kind: str, server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    session = make_session(limit=LIMIT)
    async with front_of(kind, server, tmp_path) as front:
        await idle(session, front.url)
        await server.sockets[0].close(code=aiohttp.WSCloseCode.GOING_AWAY)
        await until(lambda: not session.stats().idle and not session.stats().closing)
        assert closed(session) == {"lost": 1}
        # Ours went through it too.
        await until(lambda: server.close_codes == [aiohttp.WSCloseCode.OK])
        await check_whole(session, front.url, server)


@kinds
async def test_server_behind_it_down(
    kind: str, make_session: SessionFactory, tmp_path: Path
) -> None:
    session = make_session(limit=LIMIT)
    async with serving(Server()) as behind:
        port = behind.port
        front = Front(kind, port, tmp_path)
        await front.start()
        for ws in await fill(session, front.url):
            await ws.release()
    try:
        await until(lambda: not session.stats().idle and not session.stats().closing)
        assert closed(session) == {"lost": LIMIT}
        calls = [session.ws_connect(front.url) for _ in range(2 * LIMIT)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        for failure in failures:
            assert type(failure) is aiohttp.WSServerHandshakeError
            assert failure.status == (502 if kind == "nginx" else 503)
        async with serving(Server(), port=port) as behind:
            await check_whole(session, front.url, behind)
    finally:
        await front.stop()


@kinds
async def test_its_restart(
    kind: str, server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    session = make_session(limit=LIMIT)
    async with front_of(kind, server, tmp_path) as front:
        reading, used, unused = await fill(session, front.url)
        await unused.release()
        reader = asyncio.ensure_future(reading.receive())
        await asyncio.sleep(0)
        await front.stop()
        assert (await asyncio.wait_for(reader, 30)).type is WSMsgType.CLOSED
        await until(lambda: not session.stats().idle)
        await used.release()
        await reading.release()
        await until(lambda: not session.stats().closing)
        assert closed(session) == {"lost": LIMIT}
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.ws_connect(front.url)
        await until(lambda: not server.open)
        await front.start()
        await check_whole(session, front.url, server)


async def test_reload_of_nginx(
    server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    """The old worker ends what it has after its worker_shutdown_timeout."""
    session = make_session(limit=LIMIT)
    async with front_of("nginx", server, tmp_path) as front:
        used, *others = await fill(session, front.url)
        for ws in others:
            await ws.release()
        assert front.process is not None
        front.process.send_signal(signal.SIGHUP)
        assert (await used.receive(timeout=30)).type is WSMsgType.CLOSED
        await used.release()
        await until(lambda: not session.stats().idle and not session.stats().closing)
        assert closed(session) == {"lost": LIMIT}
        await until(lambda: not server.open)
        await check_whole(session, front.url, server)


async def test_maxconn_of_haproxy_for_its_server(
    server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    """It queues a handshake for a while, and then refuses it."""
    session = make_session(limit=2 * LIMIT)
    setting = f"maxconn {LIMIT}"
    async with front_of("haproxy", server, tmp_path, behind=setting) as front:
        held = await fill(session, front.url)
        calls = [session.ws_connect(front.url) for _ in range(LIMIT)]
        for failure in await asyncio.gather(*calls, return_exceptions=True):
            assert type(failure) is aiohttp.WSServerHandshakeError
            assert failure.status == 503
        # One that is given back serves who still waits for a handshake.
        caller = asyncio.ensure_future(session.ws_connect(front.url))
        await until(lambda: session.stats().connecting == 1)
        await held[0].release()
        held[0] = await caller
        assert held[0].reused
        for ws in held:
            await echo(ws)
            await ws.release()
        assert session.stats().idle == LIMIT
        assert server.peak == LIMIT


async def test_maxconn_of_haproxy_for_its_clients(
    server: Server, make_session: SessionFactory, tmp_path: Path
) -> None:
    """It does not even accept more."""
    session = make_session(limit=2 * LIMIT)
    setting = f"maxconn {LIMIT}"
    async with front_of("haproxy", server, tmp_path, frontend=setting) as front:
        held = await fill(session, front.url)
        session._pool_settings.conn_timeout = 0.3
        calls = [session.ws_connect(front.url) for _ in range(LIMIT)]
        for failure in await asyncio.gather(*calls, return_exceptions=True):
            assert type(failure) is aiohttp.ConnectionTimeoutError
        for ws in held:
            await echo(ws)
            await ws.release()
        assert session.stats().idle == LIMIT
        assert server.peak == LIMIT


# -- a forward proxy -----------------------------------------------------------------------------


def tunnel(link: Link, request: bytes) -> None:
    assert request.startswith(b"CONNECT 127.0.0.1:")
    link.client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    link.open()


def refuse(link: Link, request: bytes) -> None:
    link.client.write(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


def bad_gateway(link: Link, request: bytes) -> None:
    link.client.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    link.client.close()


def garbage(link: Link, request: bytes) -> None:
    link.client.write(b"\xff\x00\r\n\r\n")


def end(link: Link, request: bytes) -> None:
    link.client.close()


def reset(link: Link, request: bytes) -> None:
    link.reset()


def silence(link: Link, request: bytes) -> None:
    pass


def tunnel_to_nowhere(link: Link, request: bytes) -> None:
    link.client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    link.answer = silence


REFUSALS: dict[Any, tuple[type[Exception], int | None]] = {
    refuse: (aiohttp.ClientHttpProxyError, 407),
    bad_gateway: (aiohttp.ClientHttpProxyError, 502),
    garbage: (aiohttp.ClientResponseError, 400),
    end: (aiohttp.ServerDisconnectedError, None),
    reset: (aiohttp.ClientOSError, None),
    silence: (aiohttp.ConnectionTimeoutError, None),
    tunnel_to_nowhere: (aiohttp.ConnectionTimeoutError, None),
}


@asynccontextmanager
async def forward_proxy(server: Server) -> AsyncIterator[Proxy]:
    async with proxying(server.port) as proxy:
        proxy.answer = tunnel
        yield proxy


@pytest.mark.parametrize("fault", REFUSALS)
async def test_refusal_by_a_forward_proxy(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext, fault: Any
) -> None:
    expected, status = REFUSALS[fault]
    hangs = expected is aiohttp.ConnectionTimeoutError
    session = make_session(limit=LIMIT, conn_timeout=0.5 if hangs else None)
    async with forward_proxy(tls_server) as proxy:
        options: dict[str, Any] = {"proxy": proxy.url(scheme="http"), "ssl": client_tls}
        proxy.answer = fault
        calls = [session.ws_connect(tls_server.url(), **options) for _ in range(LIMIT + 1)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [expected] * (LIMIT + 1)
        assert getattr(failures[0], "status", None) == status
        await until(lambda: not proxy.links)
        session._pool_settings.conn_timeout = None
        proxy.answer = tunnel
        await check_whole(session, tls_server.url(), proxy, **options)


async def test_no_forward_proxy(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session(limit=LIMIT)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientProxyConnectionError):
            await session.ws_connect(tls_server.url(), proxy="http://127.0.0.1:1", ssl=client_tls)
    await check_whole(session, tls_server.url(), tls_server, ssl=client_tls)


@pytest.mark.parametrize("use", ["idle", "in use", "being read"])
async def test_forward_proxy_dies(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext, use: str
) -> None:
    session = make_session(limit=LIMIT)
    async with forward_proxy(tls_server) as proxy:
        options: dict[str, Any] = {"proxy": proxy.url(scheme="http"), "ssl": client_tls}
        held = await fill(session, tls_server.url(), **options)
        if use == "idle":
            for ws in held:
                await ws.release()
        for link in list(proxy.links):
            link.reset()
        if use == "being read":
            for ws in held:
                assert (await ws.receive(timeout=30)).type is WSMsgType.CLOSED
        conns = [ws._slot.conn for ws in held]
        await until(lambda: all(conn is None or conn.has_ended for conn in conns))
        for ws in held:
            await ws.release()
        await until(lambda: not session.stats().idle and not session.stats().closing)
        assert closed(session) == {"lost": LIMIT}
        await check_whole(session, tls_server.url(), proxy, **options)


@pytest.mark.parametrize("has_reuse_key", [False, True])
async def test_a_redirect_to_tls_asks_for_a_tunnel_with_the_callers_own_headers(
    tls_server: Server,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    has_reuse_key: bool,
) -> None:
    asked: list[bytes] = []

    def redirect_or_tunnel(link: Link, request: bytes) -> None:
        if request.startswith(b"GET http://"):
            location = f"https://127.0.0.1:{tls_server.port}/".encode()
            link.client.write(
                b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n"
                b"Location: " + location + b"\r\n\r\n"
            )
            link.client.close()
            return
        lines = request.split(b"\r\n")
        asked.extend(line for line in lines if line.startswith(b"Proxy-Authorization"))
        tunnel(link, request)

    session = make_session()
    async with forward_proxy(tls_server) as proxy:
        proxy.answer = redirect_or_tunnel
        options: dict[str, Any] = {"proxy": proxy.url(scheme="http"), "ssl": client_tls}
        if has_reuse_key:
            options["reuse_key"] = "the same"
        for user, is_reused in (("alice", False), ("bob", False), ("alice", True)):
            headers = {"Proxy-Authorization": f"Basic {user}"}
            async with session.ws_connect(
                "http://plain.example/", proxy_headers=headers, **options
            ) as ws:
                await echo(ws)
                assert ws.reused is is_reused
    assert asked == [b"Proxy-Authorization: Basic alice", b"Proxy-Authorization: Basic bob"]
