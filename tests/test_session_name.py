"""A session's ``name`` is wherever the session tells of itself; without one nothing changes."""

import ast
import asyncio
import enum
import gc
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import aiowebsocketclient
from aiowebsocketclient import (
    ConnectionReleasedError,
    PoolClosedError,
    PoolTimeoutError,
    PrewarmError,
    TooManyWaitersError,
    TraceConfig,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, until
from .servers import Server

PACKAGE = Path(aiowebsocketclient.__file__).parent
NAME = "speech"
PREFIX = "session 'speech': "


class Pools(str, enum.Enum):  # noqa: UP042
    SPEECH = NAME


def test_in_the_repr() -> None:
    unnamed = repr(WebSocketClientSession())
    named = WebSocketClientSession(name=NAME)
    assert repr(named) == unnamed.replace("Session ", "Session 'speech' ")
    assert named.name == NAME
    assert WebSocketClientSession().name is None


def test_a_subclass_of_str_is_made_plain() -> None:
    session = WebSocketClientSession(name=Pools.SPEECH)
    assert type(session.name) is str
    assert session.name == NAME
    assert "'speech'" in repr(session)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, "name must be a str or None, not int"),
        (b"speech", "name must be a str or None, not bytes"),
        (False, "name must be a str or None, not bool"),
        ("", "name must not be empty: leave it out if the session has no name"),
    ],
)
def test_what_is_no_name(value: Any, error: str) -> None:
    kind = ValueError if value == "" else TypeError
    with pytest.raises(kind, match=f"^{re.escape(error)}$"):
        WebSocketClientSession(name=value)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        WebSocketClientSession().name = NAME  # type: ignore[misc]


# -- errors --------------------------------------------------------------------------------------


async def time_out(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()):
        await session.ws_connect(server.url(), acquire_timeout=0)


async def be_too_many(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()):
        waiter = asyncio.ensure_future(session.ws_connect(server.url()))
        await until(lambda: session.stats().waiting)
        try:
            await session.ws_connect(server.url())
        finally:
            waiter.cancel()


async def use_closed(session: WebSocketClientSession, server: Server) -> None:
    await session.close()
    await session.ws_connect(server.url())


async def use_released(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    await ws.release()
    await ws.send_str("late")


async def detach_released(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    await ws.release()
    ws.detach()


async def detach_closed(session: WebSocketClientSession, server: Server) -> None:
    ws = await session.ws_connect(server.url())
    await ws.close()
    ws.detach()


async def mark_dirty(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("hello")
        await until(lambda: ws._reader._buffer)
        ws.mark_clean()


async def prewarm_in_vain(session: WebSocketClientSession, server: Server) -> None:
    await session.prewarm(server.url("/refuse"), 1)


async def connect_too_slowly(session: WebSocketClientSession, server: Server) -> None:
    server.gate.clear()
    await session.ws_connect(server.url())


async def use_a_closed_client_session(session: WebSocketClientSession, server: Server) -> None:
    await session.client_session.close()
    await session.ws_connect(server.url())


ERRORS: list[tuple[Callable[[Any, Server], Awaitable[None]], type[Exception], dict[str, Any]]] = [
    (time_out, PoolTimeoutError, {"limit": 1}),
    (be_too_many, TooManyWaitersError, {"limit": 1, "max_waiting": 1}),
    (use_closed, PoolClosedError, {}),
    (use_released, ConnectionReleasedError, {}),
    (detach_released, ConnectionReleasedError, {}),
    (detach_closed, WebSocketPoolError, {}),
    (mark_dirty, WebSocketPoolError, {}),
    (prewarm_in_vain, PrewarmError, {}),
    (connect_too_slowly, aiohttp.ConnectionTimeoutError, {"conn_timeout": 0.05}),
    (use_a_closed_client_session, PoolClosedError, {}),
]


@pytest.mark.parametrize(
    ("fail", "kind", "settings"), ERRORS, ids=lambda value: getattr(value, "__name__", "")
)
async def test_in_errors(
    server: Server,
    make_session: SessionFactory,
    fail: Callable[[Any, Server], Awaitable[None]],
    kind: type[Exception],
    settings: dict[str, Any],
) -> None:
    texts = []
    for name in (NAME, None):
        session = make_session(name=name, **settings)
        with pytest.raises(kind) as caught:
            await fail(session, server)
        server.gate.set()
        texts.append(str(caught.value))
        if issubclass(kind, PoolTimeoutError | TooManyWaitersError):
            assert caught.value.session_name == name  # type: ignore[attr-defined]
    assert texts[0] == PREFIX + texts[1]


async def test_in_warnings(server: Server, make_session: SessionFactory) -> None:
    session = make_session(name=NAME)
    ws: Any = await session.ws_connect(server.url())
    with pytest.warns(ResourceWarning, match=f"^{PREFIX}.* was never released"):
        del ws
        gc.collect()
    await until(lambda: not session.stats().acquired)


# -- records -------------------------------------------------------------------------------------


def calls_of_log() -> list[tuple[str, ast.Call]]:
    found = []
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            callee = node.func
            if isinstance(callee, ast.Name) and callee.id == "partial":
                callee = node.args[0]
            if isinstance(callee, ast.Name) and callee.id == "log":
                found.append((f"{path.name}:{node.lineno}", node))
    return found


def test_each_call_that_logs_tells_the_session() -> None:
    calls = calls_of_log()
    assert len(calls) >= 9
    for place, call in calls:
        assert "session_name" in {keyword.arg for keyword in call.keywords}, place


@pytest.mark.parametrize("name", [NAME, "100 % 'ours'", None])
async def test_in_records(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    async def check(ws: Any) -> None:
        raise ValueError

    def records() -> list[Any]:
        return [record for record in caplog.records if record.name == "aiowebsocketclient"]

    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")
    trace = TraceConfig()

    @trace.on_close.append
    async def fail(*_: object) -> None:
        raise ValueError

    session = make_session(name=name, leak_threshold=0.01, check=check, trace_configs=[trace])
    await (await session.ws_connect(server.url())).release()
    async with session.ws_connect(server.url()):
        await until(lambda: any(record.event == "leak" for record in records()))
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(server.url("/refuse"))
    ws = await session.ws_connect(server.url())
    ws.detach()
    await ws.close()
    await session.close()
    expected = {"opened", "closed", "connect_failed", "hook_failed", "leak", "detached"}
    assert {record.event for record in records()} == expected | {"trace_failed"}
    for record in records():
        assert record.getMessage().startswith(f"session {name!r}: ") is (name is not None)
        assert getattr(record, "session_name", None) == name
        assert hasattr(record, "session_name") is (name is not None)


async def test_in_traces(server: Server, make_session: SessionFactory) -> None:
    names = []
    trace = TraceConfig()

    @trace.on_close.append
    async def closed(session: WebSocketClientSession, *_: object) -> None:
        names.append(session.name)

    for name in (NAME, None):
        session = make_session(name=name, trace_configs=[trace])
        await (await session.ws_connect(server.url())).close()
        await session.close()
    assert names == [NAME, None]
