"""Sessions made and closed: never used, used, closed with everything going on; and dropped."""

import argparse
import asyncio
import warnings

from common import Growth, run, settled, until

from aiowebsocketclient import PoolClosedError, WebSocketClientSession


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}"
    loop = asyncio.get_running_loop()
    reported: list[str] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    warned = 0

    def count(message: Warning | str, category: type[Warning], *_: object) -> None:
        nonlocal warned
        assert category is ResourceWarning
        assert "Unclosed <WebSocketClientSession" in str(message)
        warned += 1

    warnings.simplefilter("always")
    warnings.showwarning = count  # type: ignore[assignment]

    async def used() -> None:
        async with WebSocketClientSession() as session, session.ws_connect(url):
            pass

    async def busy() -> None:
        async with WebSocketClientSession(limit=2, close_timeout=1.0) as session:
            held = await session.ws_connect(url)
            waiting = [
                asyncio.create_task(session.ws_connect(url + path))
                for path in ("/hang", "/", "/other")
            ]
            await asyncio.sleep(0)
            await session.close()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(one, PoolClosedError) for one in ended)
            await held.release()

    async def dropped() -> None:
        session = WebSocketClientSession()
        async with session.ws_connect(url):
            pass
        before = warned
        await settled(session)
        conn = session._pool.slots()[0].conn
        del session
        assert warned == before + 1
        assert reported.pop() == "Unclosed WebSocketClientSession"
        await until(lambda: conn.is_gone)

    async def work(operations: int) -> None:
        for _ in range(operations // 4):
            async with WebSocketClientSession():
                pass
            await used()
            await busy()
            await dropped()
        # The loop's own view of sockets that were aborted.
        await asyncio.sleep(0)

    await Growth(options).of(work)


if __name__ == "__main__":
    run(main, operations=4 * 1_000)
