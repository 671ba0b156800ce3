"""A library that asks for ``aiohttp.ClientSession`` takes the stand-in without a cast."""

from typing import assert_type

import aiohttp

from aiowebsocketclient import (
    Acquisition,
    ClientWebSocketResponse,
    PooledClientSession,
    WebSocketClientSession,
)


class MyWS(ClientWebSocketResponse):
    pass


class Library:
    def __init__(self, session: aiohttp.ClientSession | None = None) -> None:
        self.session = session

    async def ask(self) -> str:
        assert self.session is not None
        async with self.session.ws_connect("ws://host/", heartbeat=30.0) as ws:
            await ws.send_str("?")
            return await ws.receive_str()


async def what_the_stand_in_is(pool: WebSocketClientSession[MyWS]) -> None:
    http = PooledClientSession(pool, release_on_close=True, session_owner=False)
    assert_type(http, PooledClientSession[MyWS])
    assert_type(await Library(session=http).ask(), str)
    assert_type(http.ws_connect("ws://host/", reuse_key="tenant"), Acquisition[MyWS])
    assert_type(await http.ws_connect("ws://host/"), MyWS)
    async with http.ws_connect("ws://host/") as ws:
        assert_type(ws, MyWS)
    async with http.get("http://host/") as reply:
        assert_type(reply.status, int)
    assert_type(http.closed, bool)
    async with http as same:
        assert_type(same, PooledClientSession[MyWS])


async def what_is_wrong(http: PooledClientSession) -> None:
    http.ws_connect("ws://host/", max_size=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    http.no_such_method()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    PooledClientSession(http)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await http.ws_connect(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
