"""The options of ws_connect() are aiohttp's, the hooks, and no others."""

import ssl
from typing import Any, Unpack, assert_type

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from aiowebsocketclient import (
    Acquisition,
    ClientWebSocketResponse,
    WebSocketClientSession,
    WSConnectOptions,
)


async def all_of_them(session: WebSocketClientSession) -> None:
    ws = session.ws_connect(
        "wss://host/",
        reuse_key=("tenant", 1),
        acquire_timeout=1.5,
        method="GET",
        protocols=["a", "b"],
        timeout=aiohttp.ClientWSTimeout(),
        receive_timeout=None,
        autoclose=False,
        autoping=False,
        heartbeat=20,
        auth=aiohttp.BasicAuth("login", "password"),
        origin="https://host",
        params={"a": 1, "b": ["c", "d"]},
        headers=CIMultiDict(a="b"),
        proxy=URL("http://proxy"),
        proxy_auth=None,
        ssl=ssl.create_default_context(),
        verify_ssl=None,
        fingerprint=None,
        ssl_context=None,
        server_hostname="host",
        proxy_headers=[("a", "b")],
        compress=15,
        max_msg_size=0,
        decode_text=False,
        configure=None,
        check=None,
        reset=None,
    )
    assert_type(ws, Acquisition[ClientWebSocketResponse])
    session.ws_connect("ws://host/", acquire_timeout=None, ssl=False, headers=None)
    session.ws_connect(url="ws://host/", protocols=(), params="a=b")


async def mistakes(session: WebSocketClientSession) -> None:
    session.ws_connect()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.ws_connect("ws://host/", "a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.ws_connect(b"ws://host/")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.ws_connect("ws://host/", hedaers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.ws_connect("ws://host/", headers={"a": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.ws_connect("ws://host/", heartbeat="20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.ws_connect("ws://host/", acquire_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.ws_connect("ws://host/", reuse_key=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session.ws_connect("ws://host/", check=print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # Of aiohttp's request(), and of the session.
    session.ws_connect("ws://host/", json={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.ws_connect("ws://host/", limit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def prewarm(session: WebSocketClientSession) -> None:
    def progress(opened: int, begun: int) -> None:
        pass

    opened = await session.prewarm(URL("ws://host/"), 10, progress=progress, protocols=["a"])
    assert_type(opened, int)
    await session.prewarm("ws://host/", 10, progress=print, reuse_key="a", heartbeat=1)
    await session.prewarm("ws://host/", 10, hedaers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await session.prewarm("ws://host/", 10, heartbeat="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await session.prewarm("ws://host/", "10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await session.prewarm("ws://host/", 10, progress=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def set_min_idle(session: WebSocketClientSession) -> None:
    session.set_min_idle("ws://host/", 10, reuse_key="a", heartbeat=1)
    session.set_min_idle(URL("ws://host/"), 0)
    session.set_min_idle("ws://host/", 10, hedaers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.set_min_idle("ws://host/", "10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Client:
    """Hands options on, as they are and with some of its own."""

    def __init__(self, session: WebSocketClientSession, **options: Unpack[WSConnectOptions]):
        self.session = session
        self.options = options

    async def connect(self, **options: Unpack[WSConnectOptions]) -> ClientWebSocketResponse:
        merged: WSConnectOptions = {**self.options, **options}
        return await self.session.ws_connect("ws://host/", **merged)


async def handed_on(session: WebSocketClientSession, untyped: dict[str, Any]) -> None:
    client = Client(session, heartbeat=20)
    await client.connect(headers={"a": "b"})
    await client.connect(hedaers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    options: WSConnectOptions = {"heartbeat": 20, "headers": {"a": "b"}}
    await session.ws_connect("ws://host/", **options)
    await session.ws_connect("ws://host/", **untyped)
