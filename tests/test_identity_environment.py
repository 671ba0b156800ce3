"""With ``trust_env``, proxies and credentials of the environment are part of a handshake."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from .conftest import SessionFactory, until

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Recorder:
    """A WebSocket server and a plain proxy; it keeps the heads of requests."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self.gate.wait()
            if b" /moved" in head:
                writer.write(
                    b"HTTP/1.1 307 Elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n"
                    + f"Location: http://localhost:{self.port}/there\r\n\r\n".encode()
                )
                return
            key = next(
                line.partition(b": ")[2]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key")
            )
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            # The first that comes is CLOSE: nobody sends anything else.
            if await reader.read(100):
                writer.write(b"\x88\x02\x03\xe8")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def sent(self, name: bytes) -> list[bytes | None]:
        """Return that header of each request."""
        return [
            next(
                (
                    line.partition(b": ")[2]
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(name + b":")
                ),
                None,
            )
            for head in self.heads
        ]


@pytest_asyncio.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with await asyncio.start_server(recorder.serve, "127.0.0.1", 0) as server:
        recorder.port = server.sockets[0].getsockname()[1]
        yield recorder


@pytest.fixture(autouse=True)
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a netrc file that is not there yet, in an environment without proxies."""
    for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    file = tmp_path / "netrc"
    file.write_text("")
    monkeypatch.setenv("NETRC", str(file))
    return file


def write(netrc: Path, machine: str, user: str) -> None:
    netrc.write_text(f"machine {machine} login {user} password secret\n")


def basic(user: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:secret".encode())


async def reused(session: Any, url: str, **options: Any) -> bool:
    async with session.ws_connect(url, **options) as ws:
        is_reused: bool = ws.reused
        return is_reused


@pytest.mark.parametrize("options", [{}, {"reuse_key": "k"}], ids=["bare", "reuse_key"])
async def test_credentials_of_a_proxy_that_change(
    recorder: Recorder,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    session = make_session(client_session=aiohttp.ClientSession(trust_env=True))
    for user, expected in (("alice", False), ("alice", True), ("bob", False), ("alice", True)):
        monkeypatch.setenv("ws_proxy", f"http://{user}:secret@127.0.0.1:{recorder.port}")
        assert await reused(session, "ws://example.org/", **options) is expected
    assert recorder.sent(b"proxy-authorization") == [basic("alice"), basic("bob")]


@pytest.mark.parametrize("options", [{}, {"reuse_key": "k"}], ids=["bare", "reuse_key"])
async def test_credentials_of_a_netrc_file_that_changes(
    recorder: Recorder, make_session: SessionFactory, netrc: Path, options: dict[str, Any]
) -> None:
    session = make_session(client_session=aiohttp.ClientSession(trust_env=True))
    url = f"ws://127.0.0.1:{recorder.port}/"
    for user, expected in (("alice", False), ("alice", True), ("robert", False), ("alice", True)):
        write(netrc, "127.0.0.1", user)
        assert await reused(session, url, **options) is expected
    assert recorder.sent(b"authorization") == [basic("alice"), basic("robert")]


async def test_credentials_for_where_a_redirect_leads(
    recorder: Recorder, make_session: SessionFactory, netrc: Path
) -> None:
    session = make_session(client_session=aiohttp.ClientSession(trust_env=True))
    url = f"ws://127.0.0.1:{recorder.port}/moved"
    for user, expected in (("alice", False), ("alice", True), ("robert", False), ("alice", True)):
        write(netrc, "localhost", user)
        assert await reused(session, url) is expected
    sent = recorder.sent(b"authorization")
    assert sent == [None, basic("alice"), None, basic("robert")]


async def test_an_environment_that_changes_during_the_handshake(
    recorder: Recorder, make_session: SessionFactory, netrc: Path
) -> None:
    session = make_session(client_session=aiohttp.ClientSession(trust_env=True))
    url = f"ws://127.0.0.1:{recorder.port}/"
    write(netrc, "127.0.0.1", "alice")
    recorder.gate.clear()
    first = asyncio.ensure_future(session.ws_connect(url))
    await until(lambda: recorder.heads)
    write(netrc, "127.0.0.1", "robert")
    recorder.gate.set()
    # It was begun for this caller, and is for nobody else.
    await (await first).release()
    for user, expected in (("robert", False), ("robert", True), ("alice", False)):
        write(netrc, "127.0.0.1", user)
        assert await reused(session, url) is expected


async def test_who_trusts_no_environment_reads_none(
    recorder: Recorder,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ws_proxy", "http://127.0.0.1:1")
    session = make_session()
    assert not await reused(session, f"ws://127.0.0.1:{recorder.port}/")
    assert session._lifecycle.implied is None
