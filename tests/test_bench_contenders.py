"""What the pool is compared with: each is a pool, and is used as one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any

import pytest

from . import benchmark  # noqa: F401

# isort: split
from bench.contenders import CONTENDERS, OURS, find

LIMIT = 4

#: The library itself has tests of its own; the floor, and connections without a pool, are none.
POOLS = [name for name in CONTENDERS if name not in (*OURS, "floor", "unread", "readers")]

#: Those whose connections are made by the pool, of the class that their module has for that.
MAKERS = [name for name in POOLS if name not in ("semaphore", "queue", "aiohttp")]


def contender(name: str) -> Any:
    if reason := CONTENDERS[name].missing():
        pytest.skip(reason)
    return find(name)


def waiting(name: str) -> Any:
    found = contender(name)
    if not hasattr(found, "use"):
        pytest.skip("nobody waits there")
    return found


def full(pool: Any, url: str) -> AbstractAsyncContextManager[Any]:
    filled: AbstractAsyncContextManager[Any] = pool.filled(url, limit=LIMIT, connections=LIMIT)
    return filled


class Server:
    """It accepts, says nothing, and counts."""

    def __init__(self) -> None:
        self.accepted = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await reader.read()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    silent = Server()
    async with await asyncio.start_server(silent.serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        silent.url = f"http://{host}:{port}/"
        yield silent


class Out:
    """How many have a connection: each goes to sleep once while it has one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0
        self.most = 0
        self.turns = 0
        self._sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", self._counted)

    async def _counted(self, delay: float) -> None:
        if delay:
            await self._sleep(delay)
            return
        self._now += 1
        self.turns += 1
        self.most = max(self.most, self._now)
        # Long enough for all the others to get theirs, where locks are passed round for that.
        for _ in range(50):
            await self._sleep(0)
        self._now -= 1


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Out:
    return Out(monkeypatch)


@pytest.mark.parametrize("name", POOLS)
async def test_never_more_than_limit_are_out(name: str, server: Server, out: Out) -> None:
    async with full(waiting(name), server.url) as pool:
        out.most = out.turns = 0
        await asyncio.gather(*(pool.use(5) for _ in range(LIMIT * 5)))
        assert out.most == LIMIT
        assert out.turns == LIMIT * 5 * 5


@pytest.mark.parametrize("name", POOLS)
async def test_each_use_is_counted_until_told_to_stop(name: str, server: Server, out: Out) -> None:
    async with full(waiting(name), server.url) as pool:
        out.turns = 0
        stop = asyncio.Event()
        users = [asyncio.create_task(pool.use_until(stop)) for _ in range(LIMIT * 2)]
        while out.turns < 100:
            await out._sleep(0)
        stop.set()
        assert sum(await asyncio.gather(*users)) == out.turns
        assert await pool.use_until(stop) == 0


@pytest.mark.parametrize("name", POOLS)
async def test_what_is_held_is_not_to_be_had_and_comes_back(name: str, server: Server) -> None:
    async with full(waiting(name), server.url) as pool:
        for _ in range(2):
            async with pool.hold(LIMIT - 1):
                await pool.use(3)
            async with pool.hold(LIMIT):
                user = asyncio.create_task(pool.use(1))
                done, _ = await asyncio.wait([user], timeout=0.05)
                assert not done
            await user


@pytest.mark.parametrize("name", POOLS)
async def test_cycles_leave_everything_where_it_was(name: str, server: Server) -> None:
    async with full(contender(name), server.url) as pool:
        assert await pool.cycle(50) > 0
        # All of it can still be had, and no more than that is needed.
        async with pool.hold(LIMIT):
            pass


@pytest.mark.parametrize("name", MAKERS)
async def test_same_connections_are_used_again(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool_class = contender(name)
    made = 0
    connection_class = import_module(pool_class.__module__).Connection
    init = connection_class.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        init(self, *args, **kwargs)

    monkeypatch.setattr(connection_class, "__init__", counted)
    async with full(pool_class, server.url) as pool:
        assert made == LIMIT
        await pool.cycle(20)
        async with pool.hold(LIMIT - 1):
            await pool.cycle(20)
        if hasattr(pool, "use"):
            await asyncio.gather(*(pool.use(5) for _ in range(LIMIT * 5)))
        assert made == LIMIT


async def test_aiohttp_connects_no_more_than_once_for_each(server: Server) -> None:
    async with full(contender("aiohttp"), server.url) as pool:
        await pool.cycle(20)
        async with pool.hold(LIMIT - 1):
            await pool.cycle(20)
        await asyncio.gather(*(pool.use(5) for _ in range(LIMIT * 5)))
        # Who connects does not wait for the server to accept.
        while server.accepted < LIMIT:
            await asyncio.sleep(0.01)
        assert server.accepted == LIMIT


@pytest.mark.parametrize("name", POOLS)
async def test_more_are_held_where_there_is_no_limit(name: str, server: Server) -> None:
    pool_class = contender(name)
    # The semaphore and the queue have what they have been given.
    connections = 1 if name in (*MAKERS, "aiohttp") else LIMIT + 1
    async with pool_class.filled(server.url, limit=0, connections=connections) as pool:
        async with pool.hold(LIMIT):
            assert await pool.cycle(5) > 0
        assert await pool.cycle(5) > 0


async def test_pool_that_does_not_wait_says_so(server: Server) -> None:
    async with full(contender("aio-websocket-pool"), server.url) as pool:
        from aio_websocket_pool import ConnectionPoolExhaustedError

        async with pool.hold(LIMIT):
            with pytest.raises(ConnectionPoolExhaustedError):
                await pool.cycle(1)
