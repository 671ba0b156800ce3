"""What each operation leaves for the cyclic garbage collector, by type."""

import argparse
import asyncio
import contextlib
import gc
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp
from common import answer, run, settled, until

from aiowebsocketclient import (
    PoolTimeoutError,
    PrewarmError,
    WebSocketClientSession,
    WebSocketPoolError,
)

TIMES = 10


async def unreachable(
    operation: Callable[[], Awaitable[object]], session: WebSocketClientSession
) -> dict[str, int]:
    async def several() -> None:
        for _ in range(TIMES):
            await operation()
        await settled(session)

    await several()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await several()
        gc.collect()
        kinds = (type(thing) for thing in gc.garbage)
        return dict(Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/"
    warnings.simplefilter("ignore")

    async with WebSocketClientSession(limit=1, conn_timeout=60.0) as session:

        async def release() -> None:
            ws = await session.ws_connect(url)
            await ws.release()

        async def context() -> None:
            async with session.ws_connect(url, headers={"A": "B"}) as ws:
                await ws.send_str("hello")
                await ws.receive()

        async def task() -> None:
            ws = await asyncio.create_task(session.ws_connect(url))
            await asyncio.create_task(ws.release())

        async def wait() -> None:
            held = await session.ws_connect(url)
            waiting = asyncio.create_task(session.ws_connect(url))
            await asyncio.sleep(0)
            await held.release()
            await (await waiting).release()

        async def cancel() -> None:
            async with session.ws_connect(url):
                waiting = asyncio.create_task(session.ws_connect(url))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])

        async def time_out() -> None:
            async with session.ws_connect(url):
                with contextlib.suppress(PoolTimeoutError):
                    await session.ws_connect(url, acquire_timeout=0.001)

        async def time_out_late() -> None:
            held = await session.ws_connect(url)
            waiting = asyncio.create_task(session.ws_connect(url, acquire_timeout=30))
            await asyncio.sleep(0)
            (slot,) = session._pool.slots()
            held.release()
            session._time_out(slot.waiter, 30)
            slot.conn._transport.abort()
            slot.conn._protocol.connection_lost(None)
            await asyncio.wait([waiting])
            assert isinstance(waiting.exception(), PoolTimeoutError)

        async def close() -> None:
            ws = await session.ws_connect(url)
            await ws.close()

        async def aiohttps_close() -> None:
            ws = await session.client_session.ws_connect(url)
            await ws.close()

        async def aiohttps_abort() -> None:
            ws = await session.client_session.ws_connect(url)
            ws._conn.transport.abort()
            await asyncio.sleep(0)
            await ws.close()

        async def leave_by_an_exception() -> None:
            with contextlib.suppress(LookupError):
                async with session.ws_connect(url):
                    raise LookupError

        async def cancel_a_release_that_closes() -> None:
            ws = await session.ws_connect(url + "silent")
            conn = ws._slot.conn
            receiving = asyncio.create_task(ws.receive())
            await asyncio.sleep(0)
            releasing = asyncio.create_task(ws.release())
            await asyncio.sleep(0)
            assert not releasing.done()
            releasing.cancel()
            conn.abort()
            await asyncio.wait([releasing, receiving])

        async def lose() -> None:
            await session.ws_connect(url, heartbeat=30)

        async def end_while_idle() -> None:
            async with session.ws_connect(url + "dies") as ws:
                await ws.send_str("now")
            while session.stats().idle:
                await asyncio.sleep(0.001)

        async def fail() -> None:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url + "refuse")

        async def aiohttps_fail() -> None:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                await session.client_session.ws_connect(url + "refuse")

        async def fail_to_prewarm() -> None:
            with contextlib.suppress(PrewarmError):
                await session.prewarm(url + "refuse", 1)

        async def stop_after_a_change_of_headers() -> None:
            headers = session.client_session.headers
            waiting = asyncio.create_task(session.ws_connect(url + "hang"))
            headers["A"] = "B"
            # It is connected, and waits for an answer.
            await until(lambda: any(session.client_session.connector._noted.values()))
            await asyncio.sleep(0.001)
            (task,) = (slot.task for slot in session._pool.slots() if slot.task)
            headers.clear()
            task.cancel()
            await asyncio.wait([waiting])
            assert isinstance(waiting.exception(), WebSocketPoolError)

        operations = [thing for thing in locals().values() if asyncio.iscoroutinefunction(thing)]
        answer(found={o.__name__: await unreachable(o, session) for o in operations})


if __name__ == "__main__":
    run(main)
