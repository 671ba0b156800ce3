"""What happens where a process has no more files to open."""

import asyncio
import errno
import os
import sys
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import (
    PoolClosedError,
    PrewarmError,
    WebSocketClientSession,
    connecting,
    lifecycle,
)

from .conftest import SessionFactory, until
from .servers import Server

pytest.importorskip("resource")


class Files:
    """Lets handshakes fail for want of a file: so many of them, one after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lacking = 0
        self.attempts = 0
        self.error: BaseException = aiohttp.ClientOSError(errno.EMFILE, "Too many open files")
        attempt = connecting._Attempt.connect

        async def connect(this: Any, target: Any) -> Any:
            self.attempts += 1
            if self.lacking:
                self.lacking -= 1
                raise self.error
            return await attempt(this, target)

        monkeypatch.setattr(connecting._Attempt, "connect", connect)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


def caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def in_context_of(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


def connector_error(os_error: OSError) -> BaseException:
    error: Any = aiohttp.ClientConnectorError.__new__(aiohttp.ClientConnectorError)
    error._os_error = os_error
    return error  # type: ignore[no-any-return]


def no_files(number: int = errno.EMFILE) -> OSError:
    return OSError(number, os.strerror(number))


LACKING = {
    "EMFILE": no_files(),
    "ENFILE": no_files(errno.ENFILE),
    "aiohttp's": aiohttp.ClientOSError(errno.EMFILE, "Too many open files"),
    "of a connector": connector_error(no_files()),
    "as a cause": caused_by(aiohttp.ClientError(), no_files()),
    "as a context": in_context_of(aiohttp.ClientError(), caused_by(LookupError(), no_files())),
    "of one of several addresses": connector_error(
        OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] refused, {no_files()}")
    ),
    "in a group": caused_by(
        aiohttp.ClientError(), ExceptionGroup("addresses", [OSError(), no_files()])
    ),
}
OTHERS = {
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "refused by several addresses": OSError(
        f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] 24 refused, [Errno 2] no file"
    ),
    "no cause": aiohttp.ClientError(),
    "its own cause": aiohttp.ClientError(),
}
in_context_of(OTHERS["its own cause"], caused_by(LookupError(), OTHERS["its own cause"]))


async def idle_ones(session: WebSocketClientSession, server: Server, count: int) -> None:
    held = [await session.ws_connect(server.url("/old")) for _ in range(count)]
    for ws in held:
        await ws.release()


@pytest.mark.parametrize("error", LACKING.values(), ids=LACKING)
async def test_idle_connections_are_closed_for_want_of_a_file(
    server: Server, make_session: SessionFactory, files: Files, error: BaseException
) -> None:
    session = make_session()
    await idle_ones(session, server, 6)
    files.lacking, files.error, files.attempts = 1, error, 0
    async with session.ws_connect(server.url("/new")) as ws:
        # It was tried again once the sockets were closed.
        assert server.close_codes == [1000] * 4
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
    assert files.attempts == 2
    stats = session.stats()
    assert (stats.closed_evicted, stats.connects, stats.connect_errors) == (4, 7, 0)


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
async def test_nothing_is_closed_for_what_fails_for_another_reason(
    server: Server, make_session: SessionFactory, files: Files, error: BaseException
) -> None:
    session = make_session()
    await idle_ones(session, server, 2)
    files.lacking, files.error, files.attempts = 1, error, 0
    with pytest.raises(type(error)):
        await session.ws_connect(server.url("/new"))
    assert files.attempts == 1
    assert session.stats().idle == 2


async def test_it_is_tried_once_more_only(
    server: Server, make_session: SessionFactory, files: Files
) -> None:
    session = make_session()
    await idle_ones(session, server, 6)
    files.lacking, files.attempts = 2, 0
    with pytest.raises(aiohttp.ClientOSError) as caught:
        await session.ws_connect(server.url("/new"))
    assert caught.value is files.error
    assert files.attempts == 2
    assert session.stats().idle == 2


async def test_with_nothing_idle_the_error_passes(
    server: Server, make_session: SessionFactory, files: Files
) -> None:
    session = make_session()
    async with session.ws_connect(server.url()):
        files.lacking, files.attempts = 1, 0
        with pytest.raises(aiohttp.ClientOSError):
            await session.ws_connect(server.url())
        assert files.attempts == 1


async def test_who_comes_second_waits_for_what_is_closed_for_the_first(
    server: Server, make_session: SessionFactory, files: Files
) -> None:
    session = make_session()
    await idle_ones(session, server, 2)
    files.lacking = 2
    callers = [session.ws_connect(server.url(path)) for path in ("/a", "/b")]
    for ws in await asyncio.gather(*callers):
        await ws.release()
    assert session.stats().closed_evicted == 2


async def test_files_that_were_freed_meanwhile_are_used(
    server: Server, make_session: SessionFactory, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was freed before the handshake told that it had found none: nothing is left idle."""
    session = make_session()
    await idle_ones(session, server, 1)
    attempt = connecting._Attempt.connect

    async def connect(this: Any, target: Any) -> Any:
        if files.lacking:
            await session.drain()
        return await attempt(this, target)

    monkeypatch.setattr(connecting._Attempt, "connect", connect)
    files.lacking, files.attempts = 1, 0
    await (await session.ws_connect(server.url("/new"))).release()
    assert files.attempts == 2
    # What was closed before the handshake began is no reason to try again.
    await session.drain()
    monkeypatch.setattr(connecting._Attempt, "connect", attempt)
    files.lacking, files.attempts = 1, 0
    with pytest.raises(aiohttp.ClientOSError):
        await session.ws_connect(server.url("/new"))
    assert files.attempts == 1


async def test_what_nobody_waits_for_closes_nothing(
    server: Server, make_session: SessionFactory, files: Files
) -> None:
    session = make_session()
    await idle_ones(session, server, 2)
    files.lacking = 1
    with pytest.raises(PrewarmError):
        await session.prewarm(server.url("/new"), 1)
    assert session.stats().idle == 2


async def test_servers_that_do_not_answer_are_waited_for_within_bounds(
    server: Server,
    make_session: SessionFactory,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "_FREEING_GRACE", 0.05)
    session = make_session(close_timeout=60.0)
    await (await session.ws_connect(server.url("/silent"))).release()
    files.lacking = 1
    async with session.ws_connect(server.url("/new")):
        assert session.stats().closing == 0


@pytest.mark.parametrize("how", ["cancelled", "closed", "timed out", "reset"])
async def test_cut_short_while_files_are_freed(
    server: Server, make_session: SessionFactory, files: Files, how: str
) -> None:
    arguments = {"conn_timeout": 0.1} if how == "timed out" else {}
    session = make_session(limit=2, close_timeout=0.5, **arguments)
    await (await session.ws_connect(server.url("/silent"))).release()
    files.lacking = 1
    caller = asyncio.ensure_future(session.ws_connect(server.url("/new")))
    await until(lambda: session.stats().closing == 1)
    if how == "cancelled":
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        # The handshake goes on for whoever comes next.
        async with session.ws_connect(server.url("/new")):
            pass
    elif how == "closed":
        closing = asyncio.ensure_future(session.close())
        with pytest.raises(PoolClosedError):
            await caller
        await closing
    elif how == "timed out":
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await caller
    else:
        server.transports[0].abort()
        await (await caller).release()
    await until(lambda: not session.stats().connecting)


PROGRAM = """
import asyncio, os, resource, sys
from aiowebsocketclient import WebSocketClientSession

def fill():
    files = []
    while True:
        try:
            files.append(os.dup(0))
        except OSError:
            return files

async def call(session, number):
    async with session.ws_connect(sys.argv[1], headers={"X-Request-Id": str(number)}) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"

async def main():
    async with WebSocketClientSession(max_idle_connections=None) as session:
        await call(session, -1)
        await session.drain()
        next_file = os.dup(0)
        os.close(next_file)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_file + 20, hard))
        for number in range(0, 100, 5):
            await asyncio.gather(*[call(session, number + n) for n in range(5)])
        stats = session.stats()
        assert stats.connects == 101, stats
        assert stats.connect_errors == 0, stats
        assert stats.closed_evicted >= 70, stats
        await session.drain()
        held = fill()
        try:
            await call(session, 0)
        except OSError as error:
            assert error.errno == 24, error
        else:
            raise AssertionError("there was a file left")
        finally:
            for file in held:
                os.close(file)
        await call(session, 0)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="files are counted as on Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("localhost", marks=pytest.mark.slow)])
async def test_a_process_with_few_files(server: Server, host: str) -> None:
    url = server.url().replace("127.0.0.1", host)
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    command = (sys.executable, "-P", "-W", "error", "-c", PROGRAM, url, loop)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
