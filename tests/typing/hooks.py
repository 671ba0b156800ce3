"""A hook takes the session's response, or what that is derived from."""

from typing import Any, Unpack, assert_type

import aiohttp

from aiowebsocketclient import (
    ClientWebSocketResponse,
    Hook,
    WebSocketClientSession,
    WSConnectOptions,
    check_ping,
)


class MyWS(ClientWebSocketResponse):
    async def log_in(self) -> bool:
        return True


async def of_aiohttp(ws: aiohttp.ClientWebSocketResponse) -> None: ...


async def of_the_default(ws: ClientWebSocketResponse) -> None: ...


async def of_mine(ws: MyWS) -> bool:
    return await ws.log_in()


async def of_anything(ws: Any) -> None: ...


async def of_no_response(ws: int) -> None: ...


async def of_two(ws: MyWS, tenant: str) -> None: ...


def not_async(ws: ClientWebSocketResponse) -> None: ...


class Hooks:
    async def configure(self, ws: MyWS) -> None: ...


assert_type(
    WebSocketClientSession(configure=of_aiohttp, check=of_the_default, reset=None),
    WebSocketClientSession[ClientWebSocketResponse],
)
assert_type(
    WebSocketClientSession(
        ws_response_class=MyWS,
        configure=of_mine,
        check=of_the_default,
        reset=of_aiohttp,
        hook_timeout=1,
    ),
    WebSocketClientSession[MyWS],
)
assert_type(
    WebSocketClientSession(ws_response_class=MyWS, configure=Hooks().configure, check=of_anything),
    WebSocketClientSession[MyWS],
)
WebSocketClientSession(ws_response_class=MyWS, check=lambda ws: ws.log_in())

WebSocketClientSession(configure=of_no_response)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
WebSocketClientSession(configure=not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
WebSocketClientSession(ws_response_class=MyWS, reset=not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
WebSocketClientSession(ws_response_class=ClientWebSocketResponse, check=of_mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
# mypy takes the class from the hook, and finds the mistake where the session is used as another.
WebSocketClientSession(check=of_mine)  # pyright: ignore[reportArgumentType]
plain: WebSocketClientSession = WebSocketClientSession(check=of_mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def refused() -> None:
    """It fails when it runs, too."""
    WebSocketClientSession(ws_response_class=MyWS, reset=of_two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def per_call(session: WebSocketClientSession[MyWS], plain: WebSocketClientSession) -> None:
    await session.ws_connect("ws://host/", configure=of_mine, check=of_aiohttp, reset=None)
    await session.prewarm("ws://host/", 1, configure=of_mine)
    await plain.ws_connect("ws://host/", configure=of_the_default, check=of_anything)
    await plain.ws_connect("ws://host/", configure=of_mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await plain.prewarm("ws://host/", 1, configure=of_mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await session.ws_connect("ws://host/", reset=not_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def with_hooks(
    session: WebSocketClientSession[MyWS], **options: Unpack[WSConnectOptions[MyWS]]
) -> None:
    options.setdefault("configure", of_mine)
    session.ws_connect("ws://host/", **options)
    WebSocketClientSession().ws_connect("ws://host/", **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def authenticating(token: str) -> Hook[MyWS]:
    async def configure(ws: MyWS) -> None:
        await ws.send_str(token)

    return configure


def logging(hook: Hook) -> Hook:
    async def logged(ws: ClientWebSocketResponse) -> None:
        assert_type(await hook(ws), object)

    return logged


WebSocketClientSession(ws_response_class=MyWS, configure=authenticating("a"))
WebSocketClientSession(configure=logging(of_the_default), check=check_ping(1.0))
WebSocketClientSession(ws_response_class=MyWS, check=check_ping())


def judge(message: aiohttp.WSMessage) -> str | None:
    return "pong" if message.data == "ping" else None


def float_of(message: aiohttp.WSMessage) -> float:
    return float(message.data)


assert_type(
    WebSocketClientSession(on_idle_message=judge, keepalive=(5, "ping"), goodbye=b"bye"),
    WebSocketClientSession[ClientWebSocketResponse],
)
WebSocketClientSession(keepalive=(5.0, of_the_default))
WebSocketClientSession(ws_response_class=MyWS, keepalive=(5.0, of_mine))
WebSocketClientSession(on_idle_message=float_of)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def not_called() -> None:
    WebSocketClientSession(keepalive=("5", "ping"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(goodbye=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
