"""TLS on uvloop: one shared context, and files for many connections."""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiowebsocketclient import WebSocketClientSession

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    # uvloop is not available on Windows and PyPy.
    from asyncio import new_event_loop


def allow_many_files() -> int:
    """Raise the soft limit of open files to the hard limit; return it."""
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return -1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


def make_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def share_context(url: str, authority: trustme.CA) -> None:
    context = make_context(authority)
    async with WebSocketClientSession() as session:
        for reused in (False, True):
            async with session.ws_connect(url, ssl=context) as ws:
                await ws.send_str("hello")
                assert await ws.receive_str() == "hello"
                assert ws.reused is reused
        # A context says whom to trust, so another context never shares connections.
        async with session.ws_connect(url, ssl=make_context(authority)) as ws:
            assert not ws.reused
        assert session.stats().connects == 2


async def main() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    app = web.Application()
    app.router.add_get("/", echo)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=server_context)
    async with server:
        await share_context(str(server.make_url("/")), authority)
    print(type(asyncio.get_running_loop()).__module__)


if __name__ == "__main__":
    allow_many_files()
    # The size of the read buffer that asyncio allocates for each TLS connection.
    assert SSLProtocol.max_size == 256 * 1024
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
