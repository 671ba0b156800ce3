"""The errors of callers that got no connection say why, with the numbers of the endpoint."""

import asyncio
import copy
import pickle
import re
import socket
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    AcquireError,
    EndpointKey,
    HandshakeFailure,
    PoolTimeoutError,
    TooManyWaitersError,
)
from aiowebsocketclient.refusals import Refusals, Situation

from .conftest import SessionFactory, until
from .servers import Server

SHORT = 0.05


async def refused(asking: Awaitable[object], kind: type[AcquireError] = PoolTimeoutError) -> Any:
    with pytest.raises(kind) as caught:
        await asking
    return caught.value


async def test_all_places_are_in_use(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=2)
    async with session.ws_connect(server.url()), session.ws_connect(server.url()):
        waiters = [asyncio.ensure_future(session.ws_connect(server.url())) for _ in range(3)]
        await until(lambda: session.stats().waiting == 3)
        error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
        for waiter in waiters:
            waiter.cancel()
    assert str(error) == (
        f"no connection to 127.0.0.1:{server.port} within acquire_timeout (0.05 s): limit is"
        " reached, so release connections sooner or raise limit (limit 2: 2 in use, 0 idle, 0"
        " connecting; 4 waiting)"
    )
    assert vars(error) == {
        "endpoint": EndpointKey("127.0.0.1", server.port, False),
        "waited_for": "limit",
        "limit": 2,
        "limit_total": None,
        "max_connecting": 100,
        "acquired": 2,
        "idle": 0,
        "closing": 0,
        "connecting": 0,
        "waiting": 4,
        "oldest_handshake": None,
        "last_failure": None,
    }
    assert error.__cause__ is None


async def test_the_handshake_does_not_end(server: Server, make_session: SessionFactory) -> None:
    session = make_session()
    server.gate.clear()
    first = asyncio.ensure_future(session.ws_connect(server.url("/first")))
    await until(lambda: session.stats().connecting == 1)
    error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
    first.cancel()
    assert error.waited_for == "handshake"
    assert error.connecting == 2
    assert error.oldest_handshake > SHORT
    assert re.search(
        r": the handshake is still under way, so see why the server takes so long or raise"
        r" acquire_timeout \(no limit: 0 in use, 0 idle, 2 connecting; 0 waiting;"
        r" oldest handshake: \d+\.\d s\)$",
        str(error),
    )


@pytest.mark.parametrize(
    "limits",
    [{"limit": 1}, {"limit_total": 1}, {"max_connecting": 1}],
    ids=["limit", "limit_total", "max_connecting"],
)
async def test_which_limit_it_was(
    server: Server, make_session: SessionFactory, limits: dict[str, int]
) -> None:
    [name] = limits
    session = make_session(**limits, max_waiting=0)
    server.gate.clear()
    first = asyncio.ensure_future(session.ws_connect(server.url("/first")))
    await until(lambda: session.stats().connecting == 1)
    rejected = await refused(session.ws_connect(server.url()), TooManyWaitersError)
    at_once = await refused(session.ws_connect(server.url(), acquire_timeout=0))
    first.cancel()
    for error in (rejected, at_once):
        assert error.waited_for == name
        assert getattr(error, name) == 1
        assert error.connecting == 1
        value = "" if name == "limit" else " (1)"
        assert f": {name}{value} is reached, " in str(error)
        sentence = str(error).removeprefix(str(error.endpoint)).rpartition(" (")[0]
        assert sentence.count(": ") == 1
        advice = {*re.findall(r"raise (\w+)", sentence)}
        assert advice == ({name, "max_waiting"} if error is rejected else {name})
        assert ("try again later" in sentence) is (error is rejected)
    assert "max_waiting" in str(rejected)
    assert "acquire_timeout is 0" in str(at_once)


async def test_acquire_timeout_of_zero_has_a_text_of_its_own(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    error = await refused(session.ws_connect(server.url(), acquire_timeout=0))
    assert str(error) == (
        f"no idle connection to 127.0.0.1:{server.port}, and acquire_timeout is 0"
        " (no limit: 0 in use, 0 idle, 0 connecting; 0 waiting)"
    )
    assert error.waited_for == ""


async def test_the_check_does_not_end(server: Server, make_session: SessionFactory) -> None:
    async def check(ws: Any) -> None:
        await asyncio.sleep(3600)

    session = make_session(limit=1, check=check)
    await (await session.ws_connect(server.url())).release()
    error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
    assert error.waited_for == "check"
    assert ", so shorten the timeout of the check or raise acquire_timeout (" in str(error)


async def test_the_handshake_waits_for_the_limiter(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session(connect_limiter=asyncio.Semaphore(0))
    error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
    said = "so see whether the server or connect_limiter takes so long or raise acquire_timeout ("
    assert said in str(error)


async def test_callers_wait_for_a_release_and_no_limit_is_reached(make_session: Any) -> None:
    session = make_session(max_waiting=3)
    endpoint = EndpointKey("example.com", 443, True)
    error = Refusals(session._pool, session._pool_settings).too_many(endpoint)
    assert str(error) == (
        "example.com:443 has as many queued callers as max_waiting (3) allows, so try again later"
        " or raise max_waiting (no limit: 0 in use, 0 idle, 0 connecting; 0 waiting)"
    )


async def test_if_the_fleet_is_the_bound_its_limit_is_to_be_raised(make_session: Any) -> None:
    """And not that of the session."""
    session = make_session(max_waiting=3)
    refusals = Refusals(session._pool, session._pool_settings)
    fleet = Situation("what it knows", ("raise its limit",))
    assert refusals._why("fleet", fleet, is_later=True) == (
        ": the fleet grants no more places, so try again later, raise its limit or raise"
        " max_waiting"
    )


async def test_the_last_handshake_that_failed(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=1)
    secret = "s3cret"
    async with session.ws_connect(server.url()):
        await session.drain()
        session.resize(limit=2)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(server.url("/refuse?token=" + secret))
        session.resize(limit=1)
        error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
    failure = error.last_failure
    assert (failure.error, failure.status) == ("WSServerHandshakeError", caught.value.status)
    assert f"last failed handshake: WSServerHandshakeError, status {failure.status}, " in str(error)
    assert secret not in str(error) + repr(vars(error))


def test_what_is_known_of_a_failure_keeps_no_text_of_a_caller() -> None:
    refused = HandshakeFailure.of(ConnectionRefusedError(111, "s3cret"))
    assert str(refused).startswith("ConnectionRefusedError, ")
    assert "s3cret" not in str(refused)
    assert str(HandshakeFailure.of(ValueError("s3cret"))) == "ValueError"
    assert HandshakeFailure.of(OSError(-2, "Name or service not known")).errno is None
    assert HandshakeFailure.of(OSError(2**40, "s3cret")).errno is None


async def test_a_failure_has_no_number_that_means_something_else(
    server: Server, make_session: SessionFactory
) -> None:
    """The numbers of OpenSSL and resolvers, and the status 0 of an error that has none."""
    with pytest.raises(aiohttp.ClientConnectorSSLError) as caught:
        await make_session().ws_connect(server.url().replace("http:", "https:"))
    assert caught.value.errno is not None
    assert str(HandshakeFailure.of(caught.value)) == "ClientConnectorSSLError"
    unknown = socket.gaierror(8, "nodename nor servname provided, or not known")
    assert str(HandshakeFailure.of(unknown)) == "gaierror"
    request: Any = None
    redirected = aiohttp.TooManyRedirects(request, ())
    assert redirected.status == 0
    assert str(HandshakeFailure.of(redirected)) == "TooManyRedirects"
    proxys = aiohttp.ClientHttpProxyError(request, (), status=407)
    assert str(HandshakeFailure.of(proxys)) == "ClientHttpProxyError, status 407"


@pytest.mark.parametrize("kind", [PoolTimeoutError, TooManyWaitersError])
def test_copies_have_the_same_numbers(kind: type[AcquireError]) -> None:
    error = kind("no connection")
    assert error.limit is None
    assert error.waited_for == ""
    error.limit, error.endpoint = 2, EndpointKey("example.com", 443, True)
    error.last_failure = HandshakeFailure("WSServerHandshakeError", 429, None, 1.0)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (str(twin), vars(twin)) == (str(error), vars(error))


async def test_resize_is_seen(server: Server, make_session: SessionFactory) -> None:
    session = make_session(limit=2)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(session.ws_connect(server.url()))
        session.resize(limit=1, limit_total=5)
        error = await refused(session.ws_connect(server.url(), acquire_timeout=SHORT))
    assert (error.limit, error.limit_total, error.acquired) == (1, 5, 2)
