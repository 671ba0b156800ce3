"""Just ends, in every state, with whatever is going on: ``exits.py PORT``, of ``server.py``.

Each time in a process forked for it, which ends as any interpreter does; prints how, and what it
said on its standard error.
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from aiowebsocketclient import WebSocketClientSession

KEPT: list[Any] = []


async def connect(port: int, path: str = "/", **options: Any) -> tuple[Any, Any]:
    session = WebSocketClientSession(limit=1)
    return session, await session.ws_connect(f"http://127.0.0.1:{port}{path}", **options)


async def closed(port: int) -> None:
    session, ws = await connect(port)
    await ws.release()
    await session.close()
    KEPT.extend((session, ws))


async def idle(port: int) -> None:
    session, ws = await connect(port)
    await ws.release()
    KEPT.append(session)


async def in_use(port: int) -> None:
    KEPT.extend(await connect(port, heartbeat=30.0))


async def in_use_in_a_cycle(port: int) -> None:
    session, ws = await connect(port)
    cycle = [session, ws]
    cycle.append(cycle)


async def receiving(port: int) -> None:
    session, ws = await connect(port)
    KEPT.extend((session, ws, asyncio.create_task(ws.receive())))
    await asyncio.sleep(0.01)


async def waiting(port: int) -> None:
    session, ws = await connect(port)
    url = f"http://127.0.0.1:{port}/"
    tasks = [asyncio.create_task(session.ws_connect(url)) for _ in range(3)]
    await asyncio.sleep(0.01)
    KEPT.extend((session, ws, tasks))


async def waiting_by_hand(port: int) -> None:
    """Stepped, and never ended: not even its coroutine is known to the loop."""
    session, ws = await connect(port)
    acquisition = session.ws_connect(f"http://127.0.0.1:{port}/")
    acquisition.send(None)
    KEPT.extend((session, ws, acquisition))


async def connecting(port: int) -> None:
    session = WebSocketClientSession()
    task = asyncio.create_task(session.ws_connect(f"http://127.0.0.1:{port}/hang"))
    await asyncio.sleep(0.05)
    KEPT.extend((session, task))


async def closing(port: int) -> None:
    session, ws = await connect(port, "/silent")
    receiving = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    KEPT.extend((session, ws.release(), receiving))
    await asyncio.sleep(0.01)


async def closing_the_session(port: int) -> None:
    session, ws = await connect(port, "/silent")
    KEPT.extend((session, ws, asyncio.create_task(session.close())))
    await asyncio.sleep(0.01)


async def lost(port: int) -> None:
    session, _ = await connect(port)
    del _
    KEPT.append(session)


async def never_awaited(port: int) -> None:
    session = WebSocketClientSession()
    KEPT.append(session.ws_connect(f"http://127.0.0.1:{port}/"))


async def resurrected(port: int) -> None:
    """Finalizers that run in the middle of everything, and see a handle and a session."""

    class Finalizer:
        def __init__(self, *things: Any) -> None:
            self.things = things
            self.itself = self

        def __del__(self) -> None:
            session, ws, *_ = self.things
            KEPT.append(ws)
            ws.release()
            repr(session)

    session, ws = await connect(port)
    Finalizer(session, ws)
    del session, ws
    gc.collect()


def end(state: Callable[[int], Awaitable[None]], port: int, *, closes_loop: bool) -> None:
    if closes_loop:
        asyncio.run(state(port))  # type: ignore[arg-type]
    else:
        # Nor are its tasks cancelled.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(state(port))
        KEPT.append(loop)


STATES = (
    *(closed, idle, in_use, in_use_in_a_cycle, receiving, waiting, waiting_by_hand, connecting),
    *(closing, closing_the_session, lost, never_awaited, resurrected),
)


def main() -> None:
    port = int(sys.argv[1])
    found: dict[str, tuple[int, str]] = {}
    for state in STATES:
        for closes_loop in (True, False):
            with tempfile.TemporaryFile("w+") as said:
                child = os.fork()
                if not child:
                    os.dup2(said.fileno(), 2)
                    end(state, port, closes_loop=closes_loop)
                    return
                _, status = os.waitpid(child, 0)
                said.seek(0)
                name = f"{state.__name__}, {'closed' if closes_loop else 'open'} loop"
                found[name] = (os.waitstatus_to_exitcode(status), said.read())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
