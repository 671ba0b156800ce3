"""A process forks while it uses a session: ``inherited_session.py CHILD LOOP``.

The child may do with the session what it likes: the parent and its server notice nothing.
"""

import asyncio
import gc
import math
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolClosedError,
    TraceConfig,
    WebSocketClientSession,
)

warnings.simplefilter("error")
# CPython 3.12 advises against it, and 3.15 counts the threads of uvloop, too.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

RECEIVED: list[Any] = []
SESSIONS: list[WebSocketClientSession] = []
HELD: list[ClientWebSocketResponse] = []


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(autoping=False)
    await ws.prepare(request)
    async for message in ws:
        RECEIVED.append(message.data)
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
    RECEIVED.append("closed")
    return ws


async def misuse(url: str) -> None:
    session, (ws, *_) = SESSIONS[0], HELD
    assert session.closed
    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: session.ws_connect(url),
        lambda: session.prewarm(url, 5),
        lambda: ws.send_str("child"),
        lambda: ws.ping(),
        lambda: ws.detach(),
    ]
    for use in uses:
        refused = ""
        try:
            await use()
        except PoolClosedError as error:
            refused = str(error)
        assert "parent process" in refused
    try:
        session.set_min_idle(url, 5)
    except PoolClosedError:
        pass
    else:
        raise AssertionError("not refused")
    assert ws.closed
    await ws.release()
    assert not await HELD[1].close()
    await session.close()


def run_by_hand(work: Any) -> None:
    """Run what does not wait: the running loop is the parent's, and asyncio says there is none."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("waited")


def goes_on(url: str) -> None:
    run_by_hand(misuse(url))


def makes_a_loop(url: str) -> None:
    asyncio.events._set_running_loop(None)
    asyncio.run(misuse(url))


def drops_all(url: str) -> None:
    SESSIONS.clear()
    HELD.clear()
    gc.collect()


def is_unused(url: str) -> None:
    asyncio.events._set_running_loop(None)

    async def use() -> None:
        async with SESSIONS[1] as session, session.ws_connect(url) as ws:
            await ws.send_str("from the child")
            assert await ws.receive_str() == "from the child"

    # What was not used before belongs to who uses it first. The server is the parent's.
    asyncio.run(asyncio.wait_for(use(), 60))


def in_a_thread(url: str) -> None:
    # Which is the child's only one.
    asyncio.run(misuse(url))


def fork(child: Callable[[str], None], url: str) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        child(url)
        status = 0
    finally:
        print("the child is done", flush=True)
        # A loop that was inherited shares its selector with the parent: it must not be closed.
        os._exit(status)


async def in_parent(child: Callable[[str], None]) -> None:
    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    arguments: dict[str, Any] = {}
    told = asyncio.Event()
    if child is in_a_thread:
        # Where asyncio is strict about threads, and a handler is under way.
        asyncio.get_running_loop().set_debug(True)
        # It would warn of each callback that takes long, as all do on a busy machine.
        asyncio.get_running_loop().slow_callback_duration = math.inf
        trace = TraceConfig()

        @trace.on_connect_end.append
        async def wait(*_: Any) -> None:
            await told.wait()

        arguments = {"trace_configs": [trace], "leak_threshold": 30.0}
    SESSIONS.extend([WebSocketClientSession(**arguments), WebSocketClientSession()])
    session = SESSIONS[0]
    HELD.extend([await session.ws_connect(url, heartbeat=30) for _ in range(3)])
    await HELD.pop().release()

    if child is in_a_thread:
        pid = await asyncio.to_thread(fork, child, url)
    else:
        pid = fork(child, url)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):  # noqa: ASYNC222
        await asyncio.sleep(0.01)

    RECEIVED[:] = [data for data in RECEIVED if data not in ("from the child", "closed")]
    assert RECEIVED == [], RECEIVED
    told.set()
    for number, ws in enumerate(HELD):
        await ws.send_str(str(number))
        assert await ws.receive_str() == str(number)
        await ws.release()
    assert session.stats().idle == 3
    async with session.ws_connect(url, heartbeat=30) as ws:
        assert ws.reused
    assert RECEIVED == ["0", "1"], RECEIVED
    for each in SESSIONS:
        await each.close()
    await runner.cleanup()
    print("the parent is whole")


CHILDREN = (goes_on, makes_a_loop, in_a_thread, drops_all, is_unused)


def main() -> None:
    child = {f.__name__: f for f in CHILDREN}[sys.argv[1]]
    factory: Any = None
    if sys.argv[2] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(in_parent(child), 90))


if __name__ == "__main__":
    main()
