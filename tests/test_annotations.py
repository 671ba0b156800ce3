"""What can be asked of the package at run time about its types: the same on both cores."""

import asyncio
import inspect
import os
import ssl
import subprocess
import sys
import typing
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from inspect import Parameter
from types import ModuleType, NoneType, UnionType
from typing import Any, Generic, TypeVar
from unittest import mock

import aiohttp
import pytest
from aiohttp.helpers import _SENTINEL

import aiowebsocketclient
from aiowebsocketclient import (
    Acquisition,
    ClientWebSocketResponse,
    WebSocketClientSession,
    WSConnectOptions,
)
from aiowebsocketclient.arguments import DEFAULTS
from aiowebsocketclient.hooks import Hooks

from .conftest import SessionFactory
from .servers import Server

HOOKS = set(Hooks._fields)


class MyWS(ClientWebSocketResponse):
    pass


# -- options -------------------------------------------------------------------------------------

OPTIONS = typing.get_type_hints(WSConnectOptions)
AIOHTTPS = {
    name: parameter
    for name, parameter in inspect.signature(aiohttp.ClientSession.ws_connect).parameters.items()
    if parameter.kind is Parameter.KEYWORD_ONLY
}


def meaning(annotation: Any) -> Any:
    """Return the same for annotations that say the same in other words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is ssl.SSLContext:
        # aiohttp has something else in its place when it is not being type-checked.
        return aiohttp.client.SSLContext or NoneType
    if origin in (typing.Union, UnionType):
        members = frozenset(map(meaning, arguments)) - {_SENTINEL}
        return members if len(members) > 1 else next(iter(members))
    return annotation if origin is None else (origin, *map(meaning, arguments))


def test_options_are_those_of_aiohttp() -> None:
    ours = OPTIONS.keys() - HOOKS
    # Those of aiohttp 3.14 are declared whichever is installed.
    assert ours - AIOHTTPS.keys() <= {"decode_text"}
    assert AIOHTTPS.keys() <= ours
    assert WSConnectOptions.__required_keys__ == frozenset()
    # They have to be, where they are refused at the call.
    assert AIOHTTPS.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", AIOHTTPS)
def test_an_option_has_the_type_that_it_has_in_aiohttp(name: str) -> None:
    assert meaning(OPTIONS[name]) == meaning(AIOHTTPS[name].annotation)


def test_options_can_be_given_with_a_class() -> None:
    assert typing.get_args(WSConnectOptions[MyWS]) == (MyWS,)


# -- ws_connect() --------------------------------------------------------------------------------

DESCRIBE = """
import inspect, typing
from aiowebsocketclient import WebSocketClientSession
for function in WebSocketClientSession.ws_connect, WebSocketClientSession().ws_connect:
    print(inspect.signature(function))
    print(function.__annotations__, typing.get_type_hints(function))
    print(function.__module__, function.__qualname__, function.__name__)
    print(inspect.getdoc(function))
print(inspect.signature(WebSocketClientSession), WebSocketClientSession.__parameters__)
"""


def described(flag: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", DESCRIBE],
        env=os.environ | {"AIOWEBSOCKETCLIENT_NO_EXTENSIONS": flag},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_cores_are_described_alike() -> None:
    assert described("") == described("1")


def test_the_signature_is_true_of_the_core(core: ModuleType) -> None:
    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert shape(core.SessionBase.ws_connect) == [
        ("self", Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty),
        ("url", Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty),
        ("reuse_key", Parameter.KEYWORD_ONLY, None),
        ("acquire_timeout", Parameter.KEYWORD_ONLY, core.UNSET),
        ("options", Parameter.VAR_KEYWORD, Parameter.empty),
    ]
    declared = WebSocketClientSession.ws_connect.__wrapped__
    assert shape(declared) == shape(core.SessionBase.ws_connect)


def test_nothing_stands_between_a_call_and_the_core() -> None:
    used = "_pool" if aiowebsocketclient.IMPLEMENTATION == "c" else "_pool_py"
    base = sys.modules[f"aiowebsocketclient.{used}"].SessionBase
    assert vars(WebSocketClientSession)["ws_connect"] is vars(base)["ws_connect"]


def test_annotations_are_objects() -> None:
    hints = typing.get_type_hints(WebSocketClientSession.ws_connect)
    assert hints["acquire_timeout"] == float | None
    assert typing.get_origin(hints["return"]) is Acquisition
    assert hints == WebSocketClientSession.ws_connect.__annotations__
    for name in ("__init__", "prewarm", "resize", "stats", "stats_by_endpoint", "close"):
        assert "return" in typing.get_type_hints(getattr(WebSocketClientSession, name))


def test_a_default_that_is_no_value_is_shown_as_such() -> None:
    assert str(inspect.signature(WebSocketClientSession.resize)) == (
        "(self, *, limit: int | None = ..., limit_total: int | None = ...) -> None"
    )


async def test_a_mock_holds_callers_to_the_signature(make_session: SessionFactory) -> None:
    double = mock.create_autospec(make_session())
    double.ws_connect("ws://host/", reuse_key="a", heartbeat=20)
    double.ws_connect.assert_called_once_with("ws://host/", reuse_key="a", heartbeat=20)
    with pytest.raises(TypeError, match="missing a required argument: 'url'"):
        double.ws_connect()
    with pytest.raises(TypeError, match="too many positional arguments"):
        double.ws_connect("ws://host/", {})


async def test_what_it_returns_is_what_it_says(
    server: Server, make_session: SessionFactory
) -> None:
    acquisition = make_session().ws_connect(server.url())
    assert isinstance(acquisition, Acquisition)
    assert isinstance(acquisition, Coroutine)
    assert isinstance(acquisition, AbstractAsyncContextManager)
    assert asyncio.iscoroutine(acquisition)
    async with acquisition as ws:
        assert isinstance(ws, ClientWebSocketResponse)


# -- the session as a generic class --------------------------------------------------------------


async def test_a_session_with_its_class_is_the_session(
    server: Server, make_session: SessionFactory
) -> None:
    alias = WebSocketClientSession[MyWS]
    assert typing.get_origin(alias) is WebSocketClientSession
    assert typing.get_args(alias) == (MyWS,)
    async with alias(ws_response_class=MyWS) as session:
        assert type(session) is WebSocketClientSession
        async with session.ws_connect(server.url()) as ws:
            assert type(ws) is MyWS


async def test_subclasses_of_it(server: Server) -> None:
    R = TypeVar("R", bound=ClientWebSocketResponse)

    class Mine(WebSocketClientSession[MyWS]):
        pass

    class Open(WebSocketClientSession[R], Generic[R]):
        pass

    for cls in (Mine, Open, Open[MyWS]):
        async with (
            cls(ws_response_class=MyWS) as session,
            session.ws_connect(server.url()) as ws,
        ):
            assert type(ws) is MyWS


def test_it_has_one_class() -> None:
    with pytest.raises(TypeError, match="Too many"):
        WebSocketClientSession[MyWS, MyWS]
