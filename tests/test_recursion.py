"""Near the recursion limit an operation is done, or raises before it has begun: nothing is lost."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self

import pytest

from aiowebsocketclient import WebSocketClientSession

from .conftest import SessionFactory, until
from .servers import Server

# What fails with a handle in its hands loses that, which is told of.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")

Operation = Callable[[], Awaitable[object]]


def depth_left(depth: int = 0) -> int:
    """Return how many more frames there may be."""
    try:
        return depth_left(depth + 1)
    except RecursionError:
        return depth


async def run_with(frames: int, operation: Operation) -> None:
    """Run it with so many frames left, more or less: as CPython counts them."""

    async def descend(left: int) -> object:
        return await (descend(left - 1) if left else operation())

    with contextlib.suppress(RecursionError):
        await descend(max(0, depth_left() - frames))


@pytest.fixture(autouse=True)
def low_limit() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield
    sys.setrecursionlimit(limit)


class Trial:
    """A session with one place, and a connection in use."""

    def __init__(self, session: WebSocketClientSession, server: Server, path: str) -> None:
        self.session = session
        self.url = server.url(path)
        self.ws: Any = None
        self.tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self.ws = await self.session.ws_connect(self.url)
        if self.url.endswith("/greet"):
            await until(lambda: self.ws._reader._buffer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ws.release()
        self.ws = None
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        stats = self.session.stats
        await until(lambda: not (stats().acquired or stats().closing or stats().connecting))
        assert not stats().waiting
        # The place can still be had.
        async with asyncio.timeout(30):
            await (await self.session.ws_connect(self.url)).release()

    def wait(self) -> None:
        async def use() -> None:
            await (await self.session.ws_connect(self.url)).release()

        self.tasks.append(asyncio.create_task(use()))


async def release(trial: Trial) -> None:
    await trial.ws.release()


async def release_to_a_waiter(trial: Trial) -> None:
    await trial.ws.release()


async def close(trial: Trial) -> None:
    await trial.ws.close()


async def leave(trial: Trial) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with trial.ws:
            raise ZeroDivisionError


async def detach(trial: Trial) -> None:
    trial.ws.detach()


async def drain(trial: Trial) -> None:
    trial.session.drain()


async def use(trial: Trial) -> None:
    await trial.ws.release()
    async with trial.session.ws_connect(trial.url):
        pass


async def give_up(trial: Trial) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await trial.session.ws_connect(trial.url)


async def prewarm(trial: Trial) -> None:
    await trial.ws.close()
    await trial.session.prewarm(trial.url, 1)


OPERATIONS: list[Callable[[Trial], Awaitable[None]]] = [
    *(release, release_to_a_waiter, close, leave, detach, drain, use, give_up, prewarm),
]


async def try_all(
    server: Server, make_session: SessionFactory, operation: Any, path: str, depths: Any
) -> None:
    session = make_session(limit=1, close_timeout=2.0)
    for frames in depths:
        async with Trial(session, server, path) as trial:
            ws = trial.ws
            if operation is release_to_a_waiter:
                trial.wait()
                await asyncio.sleep(0)
            await run_with(frames, lambda: operation(trial))
        if ws._detached:
            await ws.close()


@pytest.mark.parametrize("path", ["/", "/greet"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_near_the_limit(
    server: Server, make_session: SessionFactory, operation: Any, path: str
) -> None:
    await try_all(server, make_session, operation, path, [1, 3, 7, 11, 18, 30, 55, 75])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/greet"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_at_every_depth(
    server: Server, make_session: SessionFactory, operation: Any, path: str
) -> None:
    await try_all(server, make_session, operation, path, range(1, 110))


async def test_close_of_a_session(server: Server) -> None:
    for frames in [1, 3, 7, 11, 18, 30, 55, 75]:
        session = WebSocketClientSession(close_timeout=2.0)
        ws = await session.ws_connect(server.url())
        await run_with(frames, session.close)
        await session.close()
        assert session.closed
        assert session.client_session.closed
        assert not session._pool.sizes()["slots"]
        await ws.release()
