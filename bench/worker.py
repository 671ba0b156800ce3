"""The process of a contender: measures on request, until its input ends."""

import asyncio
import gc
import json
import resource
import sys
from contextlib import AsyncExitStack
from typing import Any

from . import contenders, scenarios
from .machine import machine
from .scenario import LeftOut, Measure, Sample
from .timing import freeze, unfreeze


class Bench:
    """The points that are set up."""

    def __init__(self, contender: type[Any], url: str) -> None:
        self._contender = contender
        self._url = url
        self._stack = AsyncExitStack()
        self._measures: dict[tuple[str, int], Measure] = {}

    async def measure(self, scenario: str, point: int, seconds: float) -> Sample:
        measure = self._measures.get((scenario, point))
        if measure is None:
            prepare = scenarios.find(scenario).prepare
            manager = prepare(self._contender, self._url, point)
            measure = await self._stack.enter_async_context(manager)
            self._measures[scenario, point] = measure
            # A collection must not traverse the objects of the set-up.
            gc.collect()
            freeze()
        return await measure(seconds)

    async def forget(self) -> None:
        self._measures.clear()
        await self._stack.aclose()
        unfreeze()
        gc.collect()


async def _serve(contender: type[Any], url: str) -> None:
    bench = Bench(contender, url)
    # The loop runs between measurements, to serve idle connections.
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        order = json.loads(line)
        if order is None:
            await bench.forget()
            _say({})
        else:
            try:
                _say({"sample": await bench.measure(**order)})
            except LeftOut as exc:
                _say({"left_out": str(exc)})
    await bench.forget()


def main() -> None:
    name, url, loop = sys.argv[1:]
    _allow_many_sockets()
    contender = contenders.find(name)
    abilities = [ability for ability in dir(contender) if not ability.startswith("_")]
    entry = contenders.CONTENDERS[name]
    about = {"about": entry.about, "versions": entry.versions(), **contender.about()}
    _say({"about": about, "abilities": abilities, "machine": machine()})
    with asyncio.Runner(loop_factory=_uvloop if loop == "uvloop" else None) as runner:
        runner.run(_serve(contender, url))


def _uvloop() -> asyncio.AbstractEventLoop:
    # An optional dependency.
    import uvloop

    return uvloop.new_event_loop()


def _allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)
