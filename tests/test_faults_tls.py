"""Faults of TLS: certificates, what is no TLS, and ends that the other side takes no part in."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import WSMsgType

from aiowebsocketclient import PoolClosedError

from .conftest import SessionFactory, strike_heartbeat, until
from .proxy import Link, Proxy, proxying, text
from .servers import Server, serving
from .test_faults import LIMIT, check_whole, closed, echo, idle


@pytest_asyncio.fixture
async def proxy(tls_server: Server) -> AsyncIterator[Proxy]:
    async with proxying(tls_server.port) as proxy:
        yield proxy


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def expired(authority: trustme.CA) -> trustme.LeafCert:
    then = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return authority.issue_cert("127.0.0.1", not_before=then, not_after=then.replace(year=2021))


def not_yet_valid(authority: trustme.CA) -> trustme.LeafCert:
    then = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
    return authority.issue_cert("127.0.0.1", not_before=then, not_after=then.replace(year=2121))


def of_another_host(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("elsewhere.test")


def self_signed(authority: trustme.CA) -> trustme.LeafCert:
    return trustme.CA().issue_cert("127.0.0.1")


@pytest.mark.parametrize("certificate", [expired, not_yet_valid, of_another_host, self_signed])
async def test_bad_certificate(
    make_session: SessionFactory,
    authority: trustme.CA,
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
    certificate: Callable[[trustme.CA], trustme.LeafCert],
) -> None:
    session = make_session(limit=LIMIT)
    tls = context_of(certificate(authority))
    async with serving(Server(), ssl_context=tls) as server, proxying(server.port) as proxy:
        url = proxy.url(scheme="wss")
        calls = [session.ws_connect(url, ssl=client_tls) for _ in range(2 * LIMIT)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        expected = aiohttp.ClientConnectorCertificateError
        assert [type(failure) for failure in failures] == [expected] * 2 * LIMIT
        assert session.stats().endpoints == 0
        await until(lambda: not proxy.links)
        async with serving(Server(), ssl_context=server_tls) as mended:
            proxy.target = mended.port
            await check_whole(session, url, proxy, ssl=client_tls)


async def test_wrong_fingerprint(
    proxy: Proxy, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session(limit=LIMIT)
    for _ in range(2):
        with pytest.raises(aiohttp.ServerFingerprintMismatch):
            await session.ws_connect(proxy.url(scheme="wss"), ssl=aiohttp.Fingerprint(bytes(32)))
    await until(lambda: not proxy.links)
    await check_whole(session, proxy.url(scheme="wss"), proxy, ssl=client_tls)


async def test_tls_to_a_plain_port(
    server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session(limit=LIMIT)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.ws_connect(f"wss://127.0.0.1:{server.port}/", ssl=client_tls)
    assert session.stats().endpoints == 0
    await check_whole(session, server.url(), server)


async def test_plain_to_a_tls_port(
    tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session(limit=LIMIT)
    for _ in range(2):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.ws_connect(f"ws://127.0.0.1:{tls_server.port}/")
    assert session.stats().endpoints == 0
    await check_whole(session, tls_server.url(), tls_server, ssl=client_tls)


# -- during the handshakes -----------------------------------------------------------------------


def no_hello(link: Link) -> None:
    link.swallow()


def cut_hello(link: Link) -> None:
    link.to_client.budget = 100


def reset_in_hello(link: Link) -> None:
    link.to_client.budget = 100
    asyncio.get_running_loop().call_later(0.03, link.reset)


def end_in_hello(link: Link) -> None:
    link.to_client.budget = 100
    asyncio.get_running_loop().call_later(0.03, link.client.close)


TLS_FAULTS: dict[Callable[[Link], None], type[Exception]] = {
    no_hello: aiohttp.ConnectionTimeoutError,
    cut_hello: aiohttp.ConnectionTimeoutError,
    reset_in_hello: aiohttp.ClientConnectorError,
    end_in_hello: aiohttp.ClientConnectorError,
}


@pytest.mark.parametrize("fault", TLS_FAULTS)
async def test_tls_handshake(
    proxy: Proxy,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    fault: Callable[[Link], None],
) -> None:
    hangs = TLS_FAULTS[fault] is aiohttp.ConnectionTimeoutError
    session = make_session(limit=LIMIT, conn_timeout=0.5 if hangs else None)
    url = proxy.url(scheme="wss")
    proxy.on_link = fault
    calls = [session.ws_connect(url, ssl=client_tls) for _ in range(LIMIT + 1)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [TLS_FAULTS[fault]] * (LIMIT + 1)
    await until(lambda: not proxy.links)
    proxy.on_link = None
    session._pool_settings.conn_timeout = None
    await check_whole(session, url, proxy, ssl=client_tls)


@pytest.mark.parametrize(
    "how", ["conn_timeout", "refused", "redirected", "session closed", "cancelled"]
)
async def test_handshake_whose_end_of_tls_is_not_answered(
    proxy: Proxy,
    tls_server: Server,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    how: str,
) -> None:
    """The place is free when the socket is closed, and not when aiohttp has begun to close it."""
    session = make_session(limit=LIMIT, conn_timeout=1.0 if how == "conn_timeout" else None)
    url = proxy.url({"refused": "/refuse", "redirected": "/moved"}.get(how, "/"), scheme="wss")
    tls_server.gate.clear()
    calls = [asyncio.ensure_future(session.ws_connect(url, ssl=client_tls)) for _ in range(LIMIT)]
    await until(lambda: tls_server.arrived == LIMIT)
    for link in proxy.links:
        # The server reads nothing any more, and so no close_notify.
        link.to_server.swallows = True
    if how in ("refused", "redirected"):
        tls_server.gate.set()
    elif how == "cancelled":
        for call in calls:
            call.cancel()
    elif how == "session closed":
        await session.close()
    await asyncio.wait(calls)
    tls_server.gate.set()
    if how == "session closed":
        await until(lambda: not proxy.links)
        assert all(type(call.exception()) is PoolClosedError for call in calls)
        return
    if how == "redirected":
        for call in calls:
            await call.result().release()
    elif how != "cancelled":
        expected = {
            "refused": aiohttp.WSServerHandshakeError,
            "conn_timeout": aiohttp.ConnectionTimeoutError,
        }
        assert [type(call.exception()) for call in calls] == [expected[how]] * LIMIT
    session._pool_settings.conn_timeout = None
    # Of another handshake: what was cancelled has to make room for it.
    await check_whole(session, proxy.url("/other", scheme="wss"), proxy, ssl=client_tls)


# -- later -----------------------------------------------------------------------------------------


def reset(link: Link) -> None:
    link.reset()


def end_without_close_notify(link: Link) -> None:
    link.end()


def garbage(link: Link) -> None:
    """A record that cannot be decrypted."""
    link.client.write(b"\x17\x03\x03\x00\x20" + bytes(32))


def not_tls(link: Link) -> None:
    link.client.write(text("in the clear"))


@pytest.mark.parametrize("use", ["idle", "in use", "being read"])
@pytest.mark.parametrize("fault", [reset, end_without_close_notify, garbage, not_tls])
async def test_end_of_a_connection(
    proxy: Proxy,
    make_session: SessionFactory,
    client_tls: ssl.SSLContext,
    fault: Callable[[Link], None],
    use: str,
) -> None:
    session = make_session(limit=LIMIT, close_timeout=1.0)
    url = proxy.url(scheme="wss")
    ws = await session.ws_connect(url, ssl=client_tls)
    await echo(ws)
    conn = ws._slot.conn
    if use == "idle":
        await ws.release()
    fault(proxy.links[0])
    if use == "being read":
        assert (await ws.receive(timeout=30)).type is WSMsgType.CLOSED
        assert ws.closed
    elif use == "in use":
        await until(lambda: conn.has_ended)
    await until(lambda: not session.stats().idle)
    await ws.release()
    await until(lambda: not session.stats().closing)
    assert closed(session) == {"lost": 1}
    await check_whole(session, url, proxy, ssl=client_tls)


@pytest.mark.parametrize("use", ["idle", "in use", "being read"])
async def test_silence_with_a_heartbeat(
    proxy: Proxy, make_session: SessionFactory, client_tls: ssl.SSLContext, use: str
) -> None:
    """Who does not answer a ping does not answer close_notify: that is not waited for."""
    session = make_session(limit=LIMIT, close_timeout=600)
    url = proxy.url(scheme="wss")
    ws = await session.ws_connect(url, ssl=client_tls, heartbeat=600.0)
    inner = ws._slot.conn.ws
    await echo(ws)
    if use == "idle":
        await ws.release()
    link = proxy.links[0]
    link.swallow()
    strike_heartbeat(inner, patience=0.05)
    if use == "being read":
        message = await asyncio.wait_for(ws.receive(), 30)
        assert message.type is WSMsgType.ERROR
        assert isinstance(message.data, aiohttp.ServerTimeoutError)
    await until(lambda: not session.stats().idle and (use == "idle" or ws.closed))
    await ws.release()
    await until(lambda: not session.stats().closing)
    await until(lambda: link not in proxy.links)
    assert closed(session) == {"lost": 1}
    await check_whole(session, url, proxy, ssl=client_tls)


@pytest.mark.parametrize("how", ["release", "close", "session"])
async def test_close_that_is_never_answered(
    proxy: Proxy, make_session: SessionFactory, client_tls: ssl.SSLContext, how: str
) -> None:
    """Neither the CLOSE nor the close_notify is."""
    session = make_session(limit=LIMIT, close_timeout=0.2)
    url = proxy.url(scheme="wss")
    held = [await session.ws_connect(url, ssl=client_tls) for _ in range(LIMIT)]
    for link in proxy.links:
        link.swallow()
    async with asyncio.timeout(30):
        if how == "session":
            await session.close()
            await until(lambda: not proxy.links)
            return
        for ws in held:
            if how == "release":
                ws._waiting = True
                ws.release()
            else:
                await ws.close()
    await check_whole(session, url, proxy, ssl=client_tls)


async def test_close_answered_but_not_close_notify(
    proxy: Proxy, tls_server: Server, make_session: SessionFactory, client_tls: ssl.SSLContext
) -> None:
    session = make_session(limit=LIMIT, close_timeout=0.3)
    url = proxy.url(scheme="wss")
    await idle(session, url, ssl=client_tls)
    link = proxy.links[0]
    link.to_server.swallows = True
    await tls_server.sockets[0]._writer.close(1001)
    await until(lambda: not session.stats().idle)
    # Its socket is still there, and so its place is taken.
    assert session.stats().closing == 1
    await until(lambda: not session.stats().closing)
    await until(lambda: link not in proxy.links)
    assert closed(session) == {"lost": 1}
    await check_whole(session, url, proxy, ssl=client_tls)
