"""A contender's process: measures what it is told to, until its input ends."""

import asyncio
import json
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiowebsocketclient

from .scenario import Run
from .scenarios import SCENARIOS


class Timed:
    """A scenario that is set up, with as many cycles as fill the time."""

    def __init__(self, run: Run, cycles: int) -> None:
        self._run = run
        self._cycles = cycles

    async def ns(self) -> float:
        """Return the ns of one cycle."""
        return await self._run(self._cycles) / self._cycles


async def _timed(run: Run, seconds: float) -> Timed:
    # This is the warm-up as well.
    cycles = 100
    while (ns := await run(cycles)) < seconds * 1e9 / 2:
        cycles *= 2
    return Timed(run, max(1, round(cycles * seconds * 1e9 / ns)))


class Bench:
    """The scenarios asked for so far."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._timed: dict[str, Timed] = {}

    async def measure(self, scenario: str, seconds: float) -> tuple[float, float]:
        """Return the ns of a cycle of ``scenario``, and of the floor just before."""
        for name in ("floor", scenario):
            if name not in self._timed:
                run = await self._stack.enter_async_context(SCENARIOS[name](self._url))
                self._timed[name] = await _timed(run, seconds)
        # What is still to be done from before is done before anything is timed.
        await asyncio.sleep(0)
        floor_ns = await self._timed["floor"].ns()
        return await self._timed[scenario].ns(), floor_ns


def main() -> None:
    _say(_about())
    stack = AsyncExitStack()
    bench = Bench(sys.argv[1], stack)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            _say(runner.run(bench.measure(**json.loads(line))))
        runner.run(stack.aclose())


def _about() -> dict[str, str | None]:
    return {
        "implementation": aiowebsocketclient.IMPLEMENTATION,
        "path": aiowebsocketclient.__file__,
        "cython": _cython(),
    }


def _cython() -> str | None:
    """Return the version of the Cython that made the core in use, if one did and it can be told."""
    path = getattr(sys.modules.get("aiowebsocketclient._pool"), "__file__", None)
    if path is None:
        return None
    # What Cython makes shares its types by a module that is named after the version.
    found = re.search(rb"_cython_(\d+(?:_\d+)+)", Path(path).read_bytes())
    return found[1].decode().replace("_", ".") if found else None


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)
