"""Large numbers of connections of this library."""

from time import perf_counter_ns

from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession


class Parked:
    answers_pings = True

    def __init__(self, session: WebSocketClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self._count = 0
        self._held: list[ClientWebSocketResponse] = []

    async def open(self, count: int) -> None:
        self._count += count
        await self.session.prewarm(self.url, self._count)

    async def take(self) -> int:
        session, url, hold = self.session, self.url, self._held.append
        started = perf_counter_ns()
        for _ in range(self._count):
            hold(await session.ws_connect(url))
        return perf_counter_ns() - started

    async def give(self) -> int:
        started = perf_counter_ns()
        for ws in self._held:
            await ws.release()
        ns = perf_counter_ns() - started
        self._held.clear()
        return ns

    def alive(self) -> int:
        return self.session.stats().idle

    async def close(self) -> None:
        await self.session.close()
