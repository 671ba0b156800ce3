"""Each symptom of ``docs/reuse.csv`` comes about by its cause, and is gone by its remedy."""

import asyncio
import contextlib
import csv
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import WebSocketClientSession

from .conftest import SessionFactory, until
from .servers import Server

TABLE = Path(__file__).parent.parent / "docs" / "reuse.csv"
Calls = Callable[[WebSocketClientSession, Server], Awaitable[None]]


async def ask(session: WebSocketClientSession, server: Server, **options: Any) -> None:
    async with session.ws_connect(server.url(), **options) as ws:
        await ws.send_str("question")
        await ws.receive_str()


async def with_a_header_of_its_own(session: WebSocketClientSession, server: Server) -> None:
    for number in count():
        await ask(session, server, headers={"X-Request-Id": str(number)})
        if number >= 1:
            break
    await until(lambda: session.stats().closed_evicted == 1)


async def far_apart(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server)
    await until(lambda: session.stats().closed_idle == 1)
    await ask(session, server)


async def by_turns(session: WebSocketClientSession, server: Server) -> None:
    for path in ("/a", "/b"):
        async with session.ws_connect(server.url(path)):
            pass


async def unread(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("question")
        await until(lambda: bool(ws._reader._buffer))


async def given_up(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        with contextlib.suppress(asyncio.TimeoutError):
            await ws.receive(timeout=0.01)


async def sent_while_idle(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server)
    await server.sockets[0].send_str("news")
    await until(lambda: session.stats().closed_dirty == 1)


async def closed_while_idle(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server)
    await server.sockets[0].close(code=1001)
    await until(lambda: session.stats().closed_lost == 1)


async def left_by_an_exception(session: WebSocketClientSession, server: Server) -> None:
    with contextlib.suppress(KeyError):
        async with session.ws_connect(server.url()):
            raise KeyError


async def cancelled_in_the_block(session: WebSocketClientSession, server: Server) -> None:
    # The connection counts as acquired a turn before the caller wakes.
    is_inside = asyncio.Event()

    async def use() -> None:
        async with session.ws_connect(server.url("/silent")) as ws:
            is_inside.set()
            await ws.receive()

    task = asyncio.create_task(use())
    await asyncio.wait_for(is_inside.wait(), 60)
    task.cancel()
    await asyncio.wait([task])


async def reset_raises(session: WebSocketClientSession, server: Server) -> None:
    async def reset(ws: Any) -> None:
        raise aiohttp.ClientError

    await ask(session, server, reset=reset)
    await until(lambda: session.stats().closed_failed == 1)


async def keepalive_unanswered(session: WebSocketClientSession, server: Server) -> None:
    # At this path, the server does not answer long texts.
    async with session.ws_connect(server.url("/short")):
        pass
    await until(lambda: session.stats().closed_failed == 1)


async def plainly(session: WebSocketClientSession, server: Server) -> None:
    await ask(session, server)


async def closed_by_the_user(session: WebSocketClientSession, server: Server) -> None:
    async with session.ws_connect(server.url()) as ws:
        await ws.close()


#: In the order of the table.
CAUSES: list[tuple[Calls, dict[str, Any]]] = [
    (with_a_header_of_its_own, {"max_idle_connections": 1}),
    (far_apart, {"max_idle": 0.05}),
    (by_turns, {"limit": 1}),
    (unread, {}),
    (given_up, {}),
    (sent_while_idle, {}),
    (closed_while_idle, {}),
    (left_by_an_exception, {}),
    (cancelled_in_the_block, {}),
    (reset_raises, {}),
    (
        keepalive_unanswered,
        {"keepalive": (0.01, 1001 * "k"), "on_idle_message": bool, "hook_timeout": 0.05},
    ),
    (plainly, {"force_close": True}),
    (closed_by_the_user, {}),
]


def rows() -> list[list[str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_each_row_has_a_test() -> None:
    assert len(rows()) == len(CAUSES)


@pytest.mark.parametrize("number", range(len(CAUSES)), ids=[row[1] for row in rows()])
async def test_a_symptom(number: int, server: Server, make_session: SessionFactory) -> None:
    call, settings = CAUSES[number]
    session = make_session(**settings)
    await call(session, server)
    stats = asdict(session.stats())
    assert stats["reused"] == 0
    named = re.findall(r"closed_\w+", rows()[number][0])
    grown = {name for name, value in stats.items() if name.startswith("closed_") and value}
    assert grown
    assert grown <= {*named}


async def test_nothing_of_it_where_all_is_well(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    for _ in range(3):
        await ask(session, server)
    stats = asdict(session.stats())
    assert stats["reused"] == 2
    assert not any(value for name, value in stats.items() if name.startswith("closed_"))
