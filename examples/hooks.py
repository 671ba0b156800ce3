"""Hooks: when they run, and what happens when they fail."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession

ran: Counter[str] = Counter()
fails: set[str] = set()


class NoSuchUserError(Exception):
    pass


class Heard(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.failures: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (fields := vars(record))["event"] == "hook_failed":
            self.failures.append((fields["hook"], fields["error"]))


async def configure(ws: ClientWebSocketResponse) -> None:
    """Log in and set up the session: runs once, after the handshake."""
    ran["configure"] += 1
    await ws.send_str("login")
    if await ws.receive_str() != "login" or "configure" in fails:
        raise NoSuchUserError


async def check(ws: ClientWebSocketResponse) -> None:
    """Test the connection: runs before a pooled connection is handed out."""
    ran["check"] += 1
    await ws.send_str("alive?")
    if await ws.receive_str() != "alive?" or "check" in fails:
        raise aiohttp.ClientError("not alive")


async def reset(ws: ClientWebSocketResponse) -> None:
    """Clear the state of the last user: runs after a release, before pooling."""
    ran["reset"] += 1
    await ws.send_str("unsubscribe")
    if await ws.receive_str() != "unsubscribe" or "reset" in fails:
        raise aiohttp.ClientError("what now?")


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def error_of(call: Awaitable[object]) -> Exception:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


async def use(url: str) -> None:
    session = WebSocketClientSession(configure=configure, check=check, reset=reset)
    async with session:
        await (await session.ws_connect(url)).release()
        assert ran == {"configure": 1, "reset": 1}
        await (await session.ws_connect(url)).release()
        assert ran == {"configure": 1, "check": 1, "reset": 2}

        # check fails: the connection is closed, and the caller gets another.
        fails.add("check")
        ws = await session.ws_connect(url)
        assert not ws.reused
        assert session.stats().closed_failed == 1

        # reset fails: the connection is closed. Callers that do not await release() do not wait.
        fails.add("reset")
        await ws.release()
        assert session.stats().closed_failed == 2
        assert session.stats().idle == 0

        # configure fails: the connection is closed, and the caller gets the error.
        fails.add("configure")
        assert isinstance(await error_of(session.ws_connect(url)), NoSuchUserError)
        assert session.stats().connect_errors == 1

    # A hook that takes longer than hook_timeout has failed.
    async def hang(ws: ClientWebSocketResponse) -> None:
        await ws.receive()

    async with WebSocketClientSession(hook_timeout=0.05, configure=hang) as session:
        assert isinstance(await error_of(session.ws_connect(url)), aiohttp.ConnectionTimeoutError)

        # In a call, None turns the hook off. Calls with different hooks share no connections.
        async with session.ws_connect(url, configure=None) as ws:
            assert not ws.reused
        async with session.ws_connect(url, configure=None) as ws:
            assert ws.reused


async def main() -> None:
    heard = Heard(logging.WARNING)
    logging.getLogger("aiowebsocketclient").addHandler(heard)
    app = web.Application()
    app.router.add_get("/", echo)
    async with TestServer(app) as server:
        await use(str(server.make_url("/")))
    assert heard.failures == [
        ("check", "ClientError"),
        ("reset", "ClientError"),
        ("configure", "NoSuchUserError"),
        ("configure", "TimeoutError"),
    ]
    print(", ".join(f"{name}: {count}" for name, count in ran.items()))


asyncio.run(main())
