"""Several servers for one service: one is killed and comes back, and no call fails."""

import asyncio
from collections import Counter

import aiohttp
from aiohttp import web

from aiowebsocketclient import Balanced, WebSocketClientSession


class Backend:
    """One of several servers, which answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.runner: web.AppRunner

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:
            await ws.send_str(self.name)
        return ws

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.runner.cleanup()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


async def ask(balanced: Balanced) -> str:
    async with balanced.ws_connect(acquire_timeout=5) as ws:
        await ws.send_str("who are you?")
        return await ws.receive_str()


async def ask_all(balanced: Balanced, times: int) -> Counter[str]:
    return Counter(await asyncio.gather(*(ask(balanced) for _ in range(times))))


async def spread_calls(balanced: Balanced) -> None:
    assert await ask_all(balanced, 9) == {"one": 3, "two": 3, "three": 3}


async def lose_a_server(balanced: Balanced, backend: Backend) -> None:
    await backend.stop()
    # Its idle connections have left the pool. Calls that find it dead go on to the next server.
    answers = await ask_all(balanced, 30)
    assert set(answers) == {"one", "three"}
    _, two, _ = balanced.stats()
    assert two.out
    assert two.last_failure is not None
    assert two.last_failure.error == "ClientConnectorError"
    assert two.retry_in is not None
    assert two.retry_in <= 0.1


async def get_it_back(balanced: Balanced, backend: Backend) -> None:
    await backend.start()
    async with asyncio.timeout(10):
        # After the pause, one of the calls begins a handshake with it in the background.
        while not (await ask_all(balanced, 30))["two"]:
            await asyncio.sleep(0.01)
    assert not any(state.out for state in balanced.stats())


async def move(balanced: Balanced, backends: list[Backend]) -> None:
    # Idle connections to URLs that are left out are closed at once.
    balanced.set_urls([backend.url for backend in backends])
    assert set(await ask_all(balanced, 30)) == {backend.name for backend in backends}


async def lose_all(balanced: Balanced) -> None:
    balanced.set_urls(["ws://127.0.0.1:1/"])
    for _ in range(2):
        # The second call raises at once, without another handshake.
        try:
            await ask(balanced)
        except aiohttp.ClientConnectorError:
            continue
        raise AssertionError("it did not fail")


async def main() -> None:
    backends = [Backend(name) for name in ("one", "two", "three")]
    for backend in backends:
        await backend.start()
    async with WebSocketClientSession() as session:
        balanced = session.balanced([backend.url for backend in backends])
        await spread_calls(balanced)
        await lose_a_server(balanced, backends[1])
        await get_it_back(balanced, backends[1])
        await move(balanced, backends[1:])
        await lose_all(balanced)
        print(f"{session.stats().requests} requests")
    for backend in backends:
        await backend.stop()


asyncio.run(main())
