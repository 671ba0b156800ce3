"""Three servers for one service, one of which fails and comes back, while callers go on.

    python -m tests.balanced_servers

It prints how many calls failed, when the server was left out and taken back, and how the uses were
spread before, meanwhile and afterwards.  A use that was cut because its server was killed is not a
failed call: the caller had its connection.
"""

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from aiowebsocketclient import IMPLEMENTATION, Balanced, WebSocketClientSession

from .servers import Server, serving

#: What callers do between two uses, in seconds: so the machine is not what is measured.
PAUSE = 0.01


class Backend(Server):
    """A server that can be killed, brought back, made to hang, and told to refuse."""

    def __init__(self) -> None:
        super().__init__()
        #: The status with which handshakes are refused; 0: they are not.
        self.status = 0
        self._stack = AsyncExitStack()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.arrived += 1
        await self.gate.wait()
        if self.status:
            return web.Response(status=self.status, headers={"Retry-After": "7", "Set-Cookie": "s"})
        self.arrived -= 1
        return await super().handle(request)

    async def start(self) -> None:
        self.stopped.clear()
        await self._stack.enter_async_context(serving(self, port=self.port))

    async def kill(self) -> None:
        await self._stack.aclose()

    async def hang(self) -> None:
        self.gate.clear()

    async def go_on(self) -> None:
        self.gate.set()
        self.status = 0

    async def refuse(self) -> None:
        self.status = 503


#: How a server fails, and how it comes back.
WAYS: dict[str, tuple[Callable[[Backend], Awaitable[None]], Callable[[Backend], Awaitable[None]]]]
WAYS = {
    "killed": (Backend.kill, Backend.start),
    "hanging": (Backend.hang, Backend.go_on),
    "answers 503": (Backend.refuse, Backend.go_on),
}


@contextlib.asynccontextmanager
async def three_backends() -> AsyncIterator[list[Backend]]:
    async with AsyncExitStack() as stack:
        backends = [Backend() for _ in range(3)]
        for backend in backends:
            await backend.start()
            stack.push_async_callback(backend.kill)
        yield backends


@dataclass
class Result:
    """What callers have seen."""

    calls: int = 0
    failed: int = 0
    cut: int = 0
    #: The longest wait for a connection in each phase, and uses by server.
    longest: dict[str, float] = field(default_factory=dict)
    spread: dict[str, list[int]] = field(default_factory=dict)
    out_after: float | None = None
    back_after: float | None = None
    used_after: float | None = None


class Scene:
    """Callers that use a connection again and again, and what they see."""

    def __init__(self, balanced: Balanced, ports: list[int], acquire_timeout: float) -> None:
        self._balanced = balanced
        self._ports = ports
        self._acquire_timeout = acquire_timeout
        self._uses: Counter[int] = Counter()
        self._longest = 0.0
        self.is_over = False
        self.result = Result()

    async def call_again_and_again(self) -> None:
        loop, result = asyncio.get_running_loop(), self.result
        while not self.is_over:
            began = loop.time()
            result.calls += 1
            try:
                ws = await self._balanced.ws_connect(acquire_timeout=self._acquire_timeout)
            except aiohttp.ClientError:
                result.failed += 1
                await asyncio.sleep(PAUSE)
                continue
            self._longest = max(self._longest, loop.time() - began)
            try:
                async with ws:
                    await ws.send_str("hello")
                    await ws.receive_str()
                    self._uses[ws._slot.endpoint.port] += 1
            except (aiohttp.ClientError, TypeError, ConnectionError):
                result.cut += 1
            await asyncio.sleep(PAUSE)

    async def phase(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.result.spread[name] = [self._uses[port] for port in self._ports]
        self.result.longest[name] = self._longest
        self._uses.clear()
        self._longest = 0.0

    async def seconds_until(self, condition: Callable[[], object], most: float) -> float | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            if loop.time() - began > most:
                return None
            await asyncio.sleep(0.001)
        return loop.time() - began

    async def fail_and_come_back(self, way: str, backend: Backend, seconds: float) -> None:
        begin, end = WAYS[way]
        index = self._ports.index(backend.port)
        await self.phase("before", seconds)

        def is_out() -> bool:
            return self._balanced.stats()[index].out

        outside = asyncio.ensure_future(self.seconds_until(is_out, seconds))
        await begin(backend)
        await self.phase("meanwhile", seconds)
        self.result.out_after = await outside
        await end(backend)
        # Pauses have grown to at most twice the time that it was out.
        self.result.back_after = await self.seconds_until(lambda: not is_out(), 60.0)
        self._uses.clear()
        used = asyncio.ensure_future(
            self.seconds_until(lambda: self._uses[backend.port] > 0, seconds)
        )
        await self.phase("afterwards", seconds)
        self.result.used_after = await used


async def measure(
    way: str,
    seconds: float,
    callers: int,
    max_lifetime: float | None = None,
    acquire_timeout: float = 5.0,
) -> Result:
    """Return what callers see while the second of three servers fails and comes back."""
    async with (
        three_backends() as backends,
        WebSocketClientSession(max_lifetime=max_lifetime, conn_timeout=60.0) as session,
    ):
        balanced = session.balanced([backend.url() for backend in backends])
        scene = Scene(balanced, [backend.port for backend in backends], acquire_timeout)
        calling = [asyncio.ensure_future(scene.call_again_and_again()) for _ in range(callers)]
        await scene.fail_and_come_back(way, backends[1], seconds)
        scene.is_over = True
        await asyncio.gather(*calling)
        return scene.result


def told(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.3f} s"


async def main(seconds: float, callers: int) -> None:
    print(f"core: {IMPLEMENTATION}, {callers} callers, phases of {seconds:g} s")
    # Without max_lifetime, nothing is opened at a server that hangs or refuses.
    for way, max_lifetime in (("killed", None), *((way, seconds / 4) for way in WAYS)):
        result = await measure(way, seconds, callers, max_lifetime)
        print(
            f"{way}, max_lifetime={max_lifetime}: {result.calls} calls, {result.failed} failed,"
            f" {result.cut} uses cut; out after {told(result.out_after)}, back after"
            f" {told(result.back_after)}, then used after {told(result.used_after)}"
        )
        for name, spread in result.spread.items():
            print(f"  {name:<10} uses {spread}, longest wait {result.longest[name]:.3f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.balanced_servers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each phase; default: 1.5")
    parser.add_argument("--callers", type=int, default=9, help="default: 9")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.callers))
