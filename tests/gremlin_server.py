"""A server that speaks the WebSocket protocol of Gremlin Server, for the real gremlinpython.

    python -m tests.gremlin_server --port 8182

It understands GraphSON 2 and 3 and GraphBinary, scripts and bytecode, replies in parts, logins by
SASL, and sessions that end with their connection.  Its scripts are those of :meth:`evaluate`.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import WSCloseCode, web
from gremlin_python.driver.serializer import (
    GraphBinarySerializersV1,
    GraphSONSerializersV2d0,
    GraphSONSerializersV3d0,
)
from gremlin_python.process.traversal import Bytecode, Traverser
from gremlin_python.structure.io import graphbinaryV1, graphsonV2d0, graphsonV3d0

from .servers import serving

#: The messages of the protocol fit into one part if they have no more results than this.
BATCH = 64

READERS = {
    "application/vnd.gremlin-v2.0+json": (graphsonV2d0.GraphSONReader, graphsonV2d0.GraphSONWriter),
    "application/vnd.gremlin-v3.0+json": (graphsonV3d0.GraphSONReader, graphsonV3d0.GraphSONWriter),
}
BINARY = "application/vnd.graphbinary-v1.0"

#: What gremlinpython calls each.
SERIALIZERS: dict[str, Callable[[], Any]] = {
    "GraphSON 2": GraphSONSerializersV2d0,
    "GraphSON 3": GraphSONSerializersV3d0,
    "GraphBinary": GraphBinarySerializersV1,
}


@dataclass
class Request:
    """A request of a client, and how to answer it."""

    id: str
    op: str
    processor: str
    args: dict[str, Any]
    mime: str

    def encode(self, code: int, data: list[Any], message: str, attributes: dict[str, Any]) -> bytes:
        if self.mime == BINARY:
            return self._in_graphbinary(code, data, message, attributes)
        _, writer = READERS[self.mime]
        reply = {
            "requestId": self.id,
            "status": {"code": code, "message": message, "attributes": attributes},
            "result": {"data": writer().to_dict(data), "meta": {}},
        }
        return json.dumps(reply).encode()

    def _in_graphbinary(
        self, code: int, data: list[Any], message: str, attributes: dict[str, Any]
    ) -> bytes:
        writer = graphbinaryV1.GraphBinaryWriter()
        reply = bytearray(b"\x81\x00" + uuid.UUID(self.id).bytes + code.to_bytes(4, "big"))
        text = message.encode()
        reply += b"\x00" + len(text).to_bytes(4, "big") + text
        for mapping in (attributes, {}):
            reply += len(mapping).to_bytes(4, "big")
            for name, value in mapping.items():
                writer.to_dict(name, reply)
                writer.to_dict(value, reply)
        writer.to_dict(data, reply)
        return bytes(reply)


def decode(message: bytes) -> Request:
    length = message[0]
    mime, body = message[1 : 1 + length].decode(), message[1 + length :]
    if mime != BINARY:
        reader, _ = READERS[mime]
        plain = json.loads(body)
        request = reader().to_object(plain)
        args = request["args"]
        if isinstance(args.get("gremlin"), dict):
            # The reader of a client does not know bytecode.
            args["gremlin"] = bytecode_of(plain["args"]["gremlin"]["@value"], reader())
        return Request(str(request["requestId"]), request["op"], request["processor"], args, mime)
    stream = io.BytesIO(body[1:])
    reader = graphbinaryV1.GraphBinaryReader()
    request_id = str(uuid.UUID(bytes=stream.read(16)))

    def number() -> int:
        return int.from_bytes(stream.read(4), "big")

    op = stream.read(number()).decode()
    processor = stream.read(number()).decode()
    args = {}
    for _ in range(number()):
        name = reader.to_object(stream)
        args[name] = reader.to_object(stream)
    return Request(request_id, op, processor, args, mime)


def bytecode_of(value: dict[str, Any], reader: Any) -> Bytecode:
    bytecode = Bytecode()
    bytecode.step_instructions = [reader.to_object(step) for step in value.get("step", [])]
    bytecode.source_instructions = [reader.to_object(source) for source in value.get("source", [])]
    return bytecode


@dataclass
class Conversation:
    """What the server knows of a connection."""

    ws: web.WebSocketResponse
    number: int
    user: str | None = None
    #: Challenges that were sent for the request that waits for the login.
    challenges: int = 0
    waiting: Request | None = None
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def reply(
        self,
        request: Request,
        code: int,
        data: list[Any] | None = None,
        message: str = "",
        attributes: dict[str, Any] | None = None,
    ) -> None:
        encoded = request.encode(code, data or [], message, attributes or {})
        await self.ws.send_bytes(encoded)


class GremlinServer:
    """A server that counts, and can be told to misbehave.

    :param users: passwords by user; if there are any, each connection needs a login.
    :param kerberos: how many challenges a login takes, of any user, if not 0.
    """

    def __init__(self, users: dict[str, str] | None = None, *, kerberos: int = 0) -> None:
        self.users = users or {}
        self.kerberos = kerberos
        self.gate = asyncio.Event()
        self.gate.set()
        self.stopped = asyncio.Event()
        self.handshakes = 0
        self.requests = 0
        #: Requests that wait for the gate.
        self.held = 0
        self.logins = 0
        self.peak = 0
        self.agents: list[str] = []
        self.mimes: list[str] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.transports: list[asyncio.Transport] = []
        self.close_codes: list[int | None] = []
        self.written: list[Any] = []
        #: Set by :func:`serving`.
        self.port = 0
        self.scheme = "http"
        self.runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/gremlin"

    @property
    def open(self) -> int:
        return len(self.transports)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/forbidden":
            raise web.HTTPForbidden
        if request.path == "/numbers":
            return web.json_response({"handshakes": self.handshakes, "peak": self.peak})
        ws = web.WebSocketResponse(max_msg_size=0, timeout=1.0)
        try:
            await ws.prepare(request)
        except ConnectionResetError:
            # The client went before.
            return web.Response()
        self.handshakes += 1
        self.agents.append(request.headers.get("User-Agent", ""))
        transport = request.transport
        assert transport is not None
        self.sockets.append(ws)
        self.transports.append(transport)
        self.peak = max(self.peak, self.open)
        conversation = Conversation(ws, self.handshakes)
        try:
            async for message in ws:
                asked = decode(message.data)
                if await self.has_logged_in(conversation, asked):
                    answered = conversation.waiting or asked
                    conversation.waiting = None
                    await self.evaluate(conversation, answered)
        except ConnectionResetError:
            # The client went, or a test has cut the connection.
            pass
        finally:
            self.sockets.remove(ws)
            self.transports.remove(transport)
            self.close_codes.append(ws.close_code)
        return ws

    async def go_away(self) -> None:
        """Close all connections in good order, as a server that is shut down."""
        await asyncio.gather(*(ws.close(code=WSCloseCode.GOING_AWAY) for ws in self.sockets))

    async def has_logged_in(self, conversation: Conversation, asked: Request) -> bool:
        if conversation.user is not None or not (self.users or self.kerberos):
            return True
        if asked.op != "authentication":
            conversation.waiting = asked
            conversation.challenges = 0
        elif self.kerberos:
            if conversation.challenges == self.kerberos:
                conversation.user = "of the realm"
        else:
            _, user, password = base64.b64decode(asked.args["sasl"]).decode().split("\0")
            if self.users.get(user) != password:
                await conversation.reply(asked, 401, message="wrong password")
                return False
            conversation.user = user
        if conversation.user is None:
            conversation.challenges += 1
            sasl = {"sasl": base64.b64encode(b"\1\0\0\0").decode()}
            await conversation.reply(asked, 407, attributes=sasl)
            return False
        self.logins += 1
        return True

    async def evaluate(self, conversation: Conversation, request: Request) -> None:
        self.requests += 1
        self.mimes.append(request.mime)
        reply = conversation.reply
        if request.op == "close":
            conversation.sessions.pop(request.args["session"], None)
            return await reply(request, 204)
        if isinstance(request.args["gremlin"], Bytecode):
            return await self.traverse(conversation, request, request.args["gremlin"])
        match request.args["gremlin"].split():
            case ["range", count]:
                return await self.send_parts(conversation, request, list(range(int(count))))
            case ["echo", text]:
                return await reply(request, 200, [text])
            case ["bound", name]:
                return await reply(request, 200, [request.args["bindings"][name]])
            case ["connection"]:
                return await reply(request, 200, [conversation.number])
            case ["user"]:
                return await reply(request, 200, [conversation.user])
            case ["nothing"]:
                return await reply(request, 204)
            case ["text"]:
                encoded = request.encode(200, ["text"], "", {})
                return await conversation.ws.send_str(encoded.decode() + "\n")
            case ["big", size]:
                return await reply(request, 200, ["x" * int(size)])
            case ["fail", code]:
                return await reply(request, int(code), message="as it was told")
            case ["fail", code, "after", "parts"]:
                await reply(request, 206, [1, 2])
                return await reply(request, int(code), message="in the middle")
            case _:
                return await self.evaluate_more(conversation, request)

    async def evaluate_more(self, conversation: Conversation, request: Request) -> None:
        """Misbehave, wait, or use the variables of a session."""
        reply = conversation.reply
        variables = conversation.sessions.setdefault(request.args.get("session", ""), {})
        match request.args["gremlin"].split():
            case ["hold"]:
                self.held += 1
                await self.gate.wait()
                self.held -= 1
                return await reply(request, 200, ["held"])
            case ["part", "and", "hold"]:
                await reply(request, 206, ["first"])
                self.held += 1
                await self.gate.wait()
                self.held -= 1
                return await reply(request, 200, ["last"])
            case ["drop"]:
                self.transports[-1].abort()
                return None
            case ["close", code]:
                await conversation.ws.close(code=int(code), message=b"as it was told")
                return None
            case ["garbage"]:
                return await conversation.ws.send_bytes(b"\x81garbage")
            case ["stray"]:
                request.id = str(uuid.uuid4())
                return await reply(request, 200, ["to another request"])
            case ["twice"]:
                await reply(request, 200, ["once"])
                return await reply(request, 200, ["twice"])
            case [name, "=", value]:
                variables[name] = value
                return await reply(request, 204)
            case [name] if name in variables:
                return await reply(request, 200, [variables[name]])
            case _:
                return await reply(request, 597, message="no such property")

    async def send_parts(
        self, conversation: Conversation, request: Request, data: list[Any]
    ) -> None:
        while len(data) > BATCH:
            part, data = data[:BATCH], data[BATCH:]
            await conversation.reply(request, 206, part)
        await conversation.reply(request, 200, data)

    async def traverse(
        self, conversation: Conversation, request: Request, bytecode: Bytecode
    ) -> None:
        """Answer ``g.inject(...)``, and write what is injected before a commit."""
        session = conversation.sessions.setdefault(request.args.get("session", ""), {})
        match bytecode.step_instructions, bytecode.source_instructions:
            case [["inject", *values]], _:
                session.setdefault("uncommitted", []).extend(values)
                traversers = [Traverser(value, 1) for value in values]
                await self.send_parts(conversation, request, traversers)
            case [], [["tx", "commit"]]:
                self.written += session.pop("uncommitted", [])
                await conversation.reply(request, 204)
            case [], [["tx", "rollback"]]:
                session.clear()
                await conversation.reply(request, 204)
            case _:
                await conversation.reply(request, 500, message="no such step")


class ServerThread:
    """A server in a thread of its own, since gremlinpython blocks that of the test."""

    def __init__(self, server: GremlinServer) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gremlin server")
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        return self.server.url

    def do(self, action: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(60)

    async def _start(self) -> None:
        self.server.stopped.clear()
        await self._stack.enter_async_context(serving(self.server, port=self.server.port))

    def start(self) -> None:
        self.do(self._start())

    def kill(self) -> None:
        """Cut all connections, and refuse others."""
        self.do(self._stack.aclose())

    def go_away(self) -> None:
        """Close all connections in good order, and refuse others."""
        self.do(self.server.go_away())
        self.kill()

    def shut_gate(self) -> None:
        self._loop.call_soon_threadsafe(self.server.gate.clear)

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self.server.gate.set)

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def running(server: GremlinServer) -> Iterator[ServerThread]:
    with ServerThread(server) as thread:
        yield thread


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[GremlinServer]:
    async with serving(GremlinServer(), port=port) as server:  # type: ignore[arg-type]
        yield server  # type: ignore[misc]


async def main(port: int) -> None:
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    async with listening(port) as server:
        print(server.url, flush=True)
        await told_to_end.wait()
        await server.go_away()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.gremlin_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: any")
    asyncio.run(main(parser.parse_args().port))
