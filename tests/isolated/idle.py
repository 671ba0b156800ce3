"""How many bytes an idle connection takes, as tracemalloc counts them."""

import argparse
import gc
import tracemalloc

from common import answer, run, settled

from aiowebsocketclient import WebSocketClientSession

# For what exists only once.
WARM_UP = 100


async def main(port: int, options: argparse.Namespace) -> None:
    url = f"http://127.0.0.1:{port}/"
    async with WebSocketClientSession(max_idle_connections=None) as session:
        await session.prewarm(url, WARM_UP, compress=options.compress)
        await settled(session)
        gc.collect()
        tracemalloc.start()
        await session.prewarm(url, WARM_UP + options.operations, compress=options.compress)
        await settled(session)
        gc.collect()
        traced, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        answer(each=traced / options.operations)


if __name__ == "__main__":
    run(main, operations=300, compress=0)
