"""Servers on loopback that speak as much of each protocol as the library needs.

A server closes a connection that breaks the protocol, so that a connection which is used again at
the wrong time shows.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web


class Backend:
    """An application on a free port, which counts handshakes of WebSockets."""

    def __init__(self) -> None:
        self.handshakes = 0
        self.requests = 0
        self.open = 0
        self.peak = 0
        #: What broke the protocol.
        self.complaints: list[str] = []
        self.url = ""
        self.app = web.Application(middlewares=[self._count])

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            self.requests += 1
            response: web.StreamResponse = await handler(request)
            return response
        self.handshakes += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            response = await handler(request)
        finally:
            self.open -= 1
        return response

    def complain(self, about: object) -> None:
        self.complaints.append(str(about))


@contextlib.asynccontextmanager
async def serving(backend: Backend) -> AsyncIterator[None]:
    runner = web.AppRunner(backend.app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    backend.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


async def prepare(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(timeout=1.0)
    await ws.prepare(request)
    return ws


class SocketIO(Backend):
    """The server of python-socketio: it answers ``echo``."""

    def __init__(self) -> None:
        import socketio

        super().__init__()
        self.sio = socketio.AsyncServer(async_mode="aiohttp")
        self.sio.attach(self.app)
        self.sio.on("echo", self._echo)

    async def _echo(self, sid: str, data: Any) -> Any:
        return data


class HomeAssistant(Backend):
    """The WebSocket API of Home Assistant: a challenge, a token, and numbered commands."""

    def __init__(self) -> None:
        super().__init__()
        self.app.router.add_get("/api/websocket", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        ws = await prepare(request)
        await ws.send_json({"type": "auth_required", "ha_version": "2026.11.0"})
        login = await ws.receive()
        if login.type is not WSMsgType.TEXT:
            return ws
        if json.loads(login.data) != {"type": "auth", "access_token": "token"}:
            await ws.send_json({"type": "auth_invalid", "message": "wrong"})
            await ws.close()
            return ws
        await ws.send_json({"type": "auth_ok", "ha_version": "2026.11.0"})
        last = 0
        async for message in ws:
            command = json.loads(message.data)
            if command["type"] == "auth" or command.get("id", 0) <= last:
                self.complain(command["type"])
                await ws.close(code=4000)
                break
            last = command["id"]
            states = [{"entity_id": "light.hall", "state": "on"}]
            reply = {"id": last, "type": "result", "success": True, "result": states}
            await ws.send_json(reply)
        return ws


class Slack(Backend):
    """Slack's Socket Mode: an HTTP call names a URL that is good once; then hello and events."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self._tickets: set[str] = set()
        self._number = 0
        self.app.router.add_post("/api/apps.connections.open", self._open)
        self.app.router.add_post("/api/auth.test", self._test)
        self.app.router.add_get("/link/", self._serve)

    async def _open(self, request: web.Request) -> web.Response:
        self._number += 1
        ticket = str(self._number)
        self._tickets.add(ticket)
        url = f"{self.url.replace('http', 'ws', 1)}/link/?ticket={ticket}"
        return web.json_response({"ok": True, "url": url})

    async def _test(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "user": "tester"})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query["ticket"]
        if ticket not in self._tickets:
            self.complain("a ticket was used again")
            raise web.HTTPForbidden
        self._tickets.remove(ticket)
        ws = await prepare(request)
        await ws.send_json({"type": "hello", "num_connections": 1})
        event = {"type": "events_api", "envelope_id": ticket, "payload": {"event": {}}}
        await ws.send_json(event | {"accepts_response_payload": False})
        async for message in ws:
            self.acknowledged.append(json.loads(message.data)["envelope_id"])
        return ws


class Deepgram(Backend):
    """Deepgram: ``/v1/speak`` synthesizes, ``/v1/listen`` transcribes.

    While ``may_speak`` is not set, the rest of a synthesized reply is held back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.urls: set[str] = set()
        self.app.router.add_get("/v1/speak", self._speak)
        self.app.router.add_get("/v1/listen", self._listen)

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        self.urls.add(str(request.rel_url))
        ws = await prepare(request)
        text = ""
        number = 0
        async for message in ws:
            command = json.loads(message.data)
            if command["type"] == "Speak":
                text += command["text"]
            elif command["type"] == "Flush":
                # 20 ms of silence for each letter.
                await ws.send_bytes(bytes(960) * max(1, len(text)))
                await self.may_speak.wait()
                text = ""
                await ws.send_json({"type": "Flushed", "sequence_id": number})
                number += 1
            elif command["type"] == "Close":
                break
            else:
                self.complain(command)
        await ws.close()
        return ws

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        self.urls.add(str(request.rel_url))
        ws = await prepare(request)
        heard = 0
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                heard += len(message.data)
                continue
            command = json.loads(message.data)
            if command["type"] == "CloseStream":
                break
            if command["type"] == "Finalize":
                words = [{"word": "hello", "start": 0.0, "end": 0.1, "confidence": 1.0}]
                found = {"transcript": f"hello {heard}", "confidence": 1.0, "words": words}
                result = {"type": "Results", "is_final": True, "speech_final": True}
                result |= {"start": 0.0, "duration": 0.1, "channel": {"alternatives": [found]}}
                await ws.send_json(result | {"metadata": {"request_id": "1"}})
        await ws.close()
        return ws
