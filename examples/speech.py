"""A speech provider: rotating tokens, limits of age, interrupted turns."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession


class ProviderError(Exception):
    pass


@dataclass(frozen=True)
class SessionUpdate:
    """The first message of a connection. Equal settings share connections."""

    voice: str
    rate: int = 24_000

    async def __call__(self, ws: ClientWebSocketResponse) -> None:
        settings = {"voice": self.voice, "rate": self.rate}
        await ws.send_json({"type": "session.update", "session": settings})
        reply = await ws.receive_json()
        if reply["type"] != "session.updated":
            raise ProviderError(reply)


class Speech:
    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        # The provider ends a connection after an hour, even in use,
        max_lifetime: float = 55 * 60,
        # and after a minute without messages.
        max_idle: float = 50,
    ) -> None:
        self._url = url
        self._token = token
        self.pool = WebSocketClientSession(
            limit=20,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            conn_timeout=5,
            acquire_timeout=5,
        )

    def _options(self, voice: str) -> dict[str, Any]:
        return {
            "headers": {"Authorization": f"Bearer {self._token()}"},
            # Share connections although the token in the headers changes.
            "reuse_key": "our account",
            "configure": SessionUpdate(voice),
            # Detects a server that vanished, within 15 s.
            "heartbeat": 10,
        }

    async def warm_up(self, voice: str, count: int) -> int:
        return await self.pool.prewarm(self._url, count, **self._options(voice))

    async def speak(self, text: str, voice: str = "ada") -> AsyncGenerator[bytes, None]:
        """Yield the sound of a text. Closing the generator early closes the connection."""
        async with self.pool.ws_connect(self._url, **self._options(voice)) as ws:
            await ws.send_json({"type": "speak", "text": text})
            while True:
                message = await ws.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    yield message.data
                elif message.type is not aiohttp.WSMsgType.TEXT:
                    raise aiohttp.ServerDisconnectedError(f"closed with {ws.close_code}")
                elif (event := message.json())["type"] == "done":
                    return
                else:
                    raise ProviderError(event)


class Provider:
    def __init__(self) -> None:
        self.valid = "token 1"
        self.handshakes = 0
        self.open = 0
        self.spoken = 0
        self.close_codes: list[int | None] = []

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        if request.headers["Authorization"] != f"Bearer {self.valid}":
            raise web.HTTPUnauthorized
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        self.handshakes += 1
        self.open += 1
        voice = ""
        try:
            async for message in ws:
                event = json.loads(message.data)
                if event["type"] == "session.update":
                    voice = event["session"]["voice"]
                    await ws.send_json({"type": "session.updated"})
                elif event["type"] == "speak":
                    for word in event["text"].split():
                        self.spoken += 1
                        await ws.send_bytes(f"{voice}: {word}".encode())
                    await ws.send_json({"type": "done"})
        finally:
            self.open -= 1
            self.close_codes.append(ws.close_code)
        return ws


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def use_tokens(speech: Speech, provider: Provider) -> None:
    # Before the first turn, the handshake and the reply to session.update are done.
    assert await speech.warm_up("ada", 2) == 2
    assert provider.handshakes == 2
    assert [sound async for sound in speech.speak("good day")] == [b"ada: good", b"ada: day"]
    assert provider.handshakes == 2

    # A new token does not cost the connections that were opened with the old token.
    provider.valid = "token 2"
    assert [sound async for sound in speech.speak("again")] == [b"ada: again"]
    assert provider.handshakes == 2

    # Another voice needs another session.update, and so another connection.
    assert [sound async for sound in speech.speak("again", "bob")] == [b"bob: again"]
    assert provider.handshakes == 3


async def use_barge_in(speech: Speech, provider: Provider) -> None:
    before = speech.pool.stats()
    async with contextlib.aclosing(speech.speak("a sentence that is long")) as sounds:
        async for _ in sounds:
            # The user interrupts.
            break
    # The rest of the reply is on its way: the pool closes the connection.
    after = speech.pool.stats()
    assert after.closed_cancelled == before.closed_cancelled + 1
    assert after.acquired == 0
    await until(lambda: provider.close_codes)
    assert provider.close_codes == [aiohttp.WSCloseCode.OK]
    # The next turn does not wait for the close if another connection is idle.
    assert [sound async for sound in speech.speak("next")] == [b"ada: next"]
    assert speech.pool.stats().connects == before.connects


async def use_limits(url: str, provider: Provider) -> None:
    # After max_idle, the pool closes an unused connection before the provider does.
    speech = Speech(url, lambda: provider.valid, max_idle=0.1)
    async with speech.pool as pool:
        await speech.warm_up("ada", 1)
        await until(lambda: pool.stats().closed_idle == 1)

    # After max_lifetime, a connection is not handed out again, however busy it is.
    speech = Speech(url, lambda: provider.valid, max_lifetime=0.1)
    async with speech.pool as pool:
        while pool.stats().closed_lifetime == 0:
            assert [sound async for sound in speech.speak("busy")] == [b"ada: busy"]
            await asyncio.sleep(0.01)
        assert pool.stats().closed_lost == 0


async def main() -> None:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/", provider.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        speech = Speech(url, lambda: provider.valid)
        async with speech.pool:
            await use_tokens(speech, provider)
            await use_barge_in(speech, provider)
        await use_limits(url, provider)
    print(f"{provider.spoken} words over {provider.handshakes} connections")


asyncio.run(main())
