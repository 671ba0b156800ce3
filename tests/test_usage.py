"""The usage example, to the letter."""

import asyncio
from typing import Any

import pytest

from aiowebsocketclient import WebSocketClientSession

from .servers import Server, serving


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *args: lines.append(" ".join(map(str, args))))
    return lines


async def test_usage_example(printed: list[Any], unused_tcp_port: int) -> None:
    async with serving(Server(), port=58793) as server:
        session = WebSocketClientSession()
        ws1 = await session.ws_connect("http://127.0.0.1:58793/")
        print(ws1)
        ws2 = await session.ws_connect("http://127.0.0.1:58793/")
        ws3 = await session.ws_connect("http://127.0.0.1:58793/")
        await asyncio.gather(ws1.release(), ws2.release(), ws3.release())
        # The last one released is the first one handed out.
        ws4 = await session.ws_connect("http://127.0.0.1:58793/")
        assert ws3 == ws4
        assert hash(ws3) == hash(ws4)
        assert ws1 != ws4
        await session.close()
        assert printed == ["<ClientWebSocketResponse(127.0.0.1:58793)>"]
        assert server.handshakes == 3
        assert ws4.closed


async def test_one_connection(printed: list[Any]) -> None:
    async with serving(Server(), port=58793):
        session = WebSocketClientSession()
        ws1 = await session.ws_connect("http://127.0.0.1:58793/")
        await ws1.release()
        ws4 = await session.ws_connect("http://127.0.0.1:58793/")
        assert ws1 == ws4
        assert ws1 is not ws4
        assert ws4.reused
        assert not ws1.reused
        await session.close()
