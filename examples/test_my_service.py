"""Tests of a small service, with the fixtures of the pytest plugin."""

import asyncio

import aiohttp
import pytest

from aiowebsocketclient import WebSocketClientSession


class Translator:
    """The service: asks a server to translate words, and retries once."""

    def __init__(self, session: WebSocketClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def translate(self, word: str) -> str:
        try:
            return await self._ask(word)
        except (aiohttp.ClientError, aiohttp.WSMessageTypeError):
            return await self._ask(word)

    async def _ask(self, word: str) -> str:
        async with self.session.ws_connect(self.url) as ws:
            await ws.send_str(word)
            return await ws.receive_str(timeout=0.5)


pytestmark = pytest.mark.asyncio


@pytest.fixture
def translator(ws_session, ws_server):
    ws_server.reply_with({"house": "maison", "tree": "arbre"})
    return Translator(ws_session, ws_server.url)


async def test_words_go_over_one_connection(translator, ws_server):
    assert await translator.translate("house") == "maison"
    assert await translator.translate("tree") == "arbre"
    assert ws_server.received == ["house", "tree"]
    assert ws_server.connections == 1


async def test_refused_once(translator, ws_server):
    ws_server.refuse(503, times=1)
    assert await translator.translate("house") == "maison"
    assert len(ws_server.handshakes) == 2


async def test_refused_for_good(translator, ws_server):
    ws_server.refuse(403)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await translator.translate("house")


async def test_server_is_replaced(translator, ws_server):
    await translator.translate("house")
    ws_server.close(aiohttp.WSCloseCode.GOING_AWAY)
    assert await translator.translate("tree") == "arbre"
    assert ws_server.connections == 2


async def test_connection_is_reset_before_the_reply(translator, ws_server):
    def reset_at_first(word):
        ws_server.reply_with({word: "maison"})
        ws_server.abort()
        return "too late"

    ws_server.reply_with(reset_at_first)
    assert await translator.translate("house") == "maison"


async def test_slow_reply(translator, ws_server):
    ws_server.delay(replies=60)
    with pytest.raises(TimeoutError):
        await translator.translate("house")


async def test_outage(translator, ws_server):
    await translator.translate("house")
    ws_server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await translator.translate("house")
    ws_server.start()
    assert await translator.translate("house") == "maison"


@pytest.mark.ws_session(limit=2, acquire_timeout=5)
async def test_many_words_over_two_connections(translator, ws_server):
    await asyncio.gather(*(translator.translate("tree") for _ in range(100)))
    assert ws_server.peak == 2
