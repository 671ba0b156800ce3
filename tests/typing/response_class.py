"""The class of the responses goes from the session to whoever gets one."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, assert_type

import aiohttp
from yarl import URL

from aiowebsocketclient import Acquisition, ClientWebSocketResponse, WebSocketClientSession


class MyWS(ClientWebSocketResponse):
    async def ask(self, question: str) -> str:
        await self.send_str(question)
        return await self.receive_str()


class OtherWS(ClientWebSocketResponse):
    pass


async def what_the_constructor_infers(client_session: aiohttp.ClientSession) -> None:
    assert_type(WebSocketClientSession(), WebSocketClientSession[ClientWebSocketResponse])
    assert_type(WebSocketClientSession(ws_response_class=MyWS), WebSocketClientSession[MyWS])
    assert_type(
        WebSocketClientSession(limit=10, headers={"a": "b"}, client_session=client_session),
        WebSocketClientSession[ClientWebSocketResponse],
    )
    assert_type(
        WebSocketClientSession[MyWS](limit=10, ws_response_class=MyWS),
        WebSocketClientSession[MyWS],
    )
    WebSocketClientSession[MyWS](ws_response_class=OtherWS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession(ws_response_class=aiohttp.ClientWebSocketResponse)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    WebSocketClientSession[int]  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]


async def what_ws_connect_returns(session: WebSocketClientSession[MyWS]) -> str:
    assert_type(session.ws_connect("ws://host/"), Acquisition[MyWS])
    coroutine: Coroutine[Any, Any, MyWS] = session.ws_connect(URL("ws://host/"))
    awaitable: Awaitable[MyWS] = session.ws_connect("ws://host/")
    assert_type(await coroutine, MyWS)
    assert_type(await awaitable, MyWS)

    ws = await session.ws_connect("ws://host/")
    assert_type(ws, MyWS)
    assert_type(await ws.ask("?"), str)
    async with ws as same:
        assert_type(same, MyWS)

    # No return after it: what is raised inside goes on.
    async with session.ws_connect("ws://host/") as ws:
        assert_type(ws, MyWS)
        return await ws.ask("?")


async def what_becomes_of_it_in_asyncio(session: WebSocketClientSession[MyWS]) -> None:
    task = asyncio.create_task(session.ws_connect("ws://host/"))
    assert_type(task, asyncio.Task[MyWS])
    assert_type(await task, MyWS)
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(session.ws_connect("ws://host/")), asyncio.Task[MyWS])
    assert_type(await asyncio.wait_for(session.ws_connect("ws://host/"), 1.0), MyWS)
    assert_type(await asyncio.shield(session.ws_connect("ws://host/")), MyWS)
    one, other = await asyncio.gather(
        session.ws_connect("ws://host/"), WebSocketClientSession().ws_connect("ws://host/")
    )
    assert_type(one, MyWS)
    assert_type(other, ClientWebSocketResponse)
    assert_type(await asyncio.gather(one.release(), other.release()), tuple[None, None])
    many = await asyncio.gather(*(session.ws_connect("ws://host/") for _ in range(3)))
    assert_type(many, list[MyWS])


async def the_session_as_a_context_manager() -> None:
    async with WebSocketClientSession(ws_response_class=MyWS) as session:
        assert_type(session, WebSocketClientSession[MyWS])
    async with WebSocketClientSession() as plain:
        assert_type(plain, WebSocketClientSession[ClientWebSocketResponse])
        assert_type(await plain.ws_connect("ws://host/"), ClientWebSocketResponse)


# Without a class it is the default.
async def of_any_class(session: WebSocketClientSession) -> ClientWebSocketResponse:
    assert_type(session, WebSocketClientSession[ClientWebSocketResponse])
    return await session.ws_connect("ws://host/")


async def of_an_unknown_class(session: WebSocketClientSession[Any]) -> None:
    ws = await session.ws_connect("ws://host/")
    await ws.what_nobody_knows_of()


R = TypeVar("R", bound=ClientWebSocketResponse)


async def of_the_same_class(session: WebSocketClientSession[R]) -> R:
    return await session.ws_connect("ws://host/")


async def of_one_class(session: WebSocketClientSession[OtherWS]) -> None:
    pass


async def sessions_as_arguments(
    mine: WebSocketClientSession[MyWS], plain: WebSocketClientSession
) -> None:
    # Who can deal with any response can deal with those of a subclass.
    await of_any_class(mine)
    await of_any_class(plain)
    await of_an_unknown_class(mine)
    assert_type(await of_the_same_class(mine), MyWS)
    assert_type(await of_the_same_class(plain), ClientWebSocketResponse)
    await of_one_class(mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await of_one_class(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class MySession(WebSocketClientSession[MyWS]):
    def __init__(self, tenant: str) -> None:
        super().__init__(ws_response_class=MyWS)
        self.tenant = tenant


class PlainSession(WebSocketClientSession):
    pass


class AnySession(WebSocketClientSession[R]):
    async def first(self) -> R:
        return await self.ws_connect("ws://host/")


async def subclasses() -> None:
    async with MySession("a") as session:
        assert_type(session, MySession)
        assert_type(await session.ws_connect("ws://host/"), MyWS)
        await of_any_class(session)
    async with PlainSession(limit=1) as plain:
        assert_type(await plain.ws_connect("ws://host/"), ClientWebSocketResponse)
    async with AnySession(ws_response_class=MyWS) as generic:
        assert_type(generic, AnySession[MyWS])
        assert_type(await generic.first(), MyWS)
