"""A fleet whose calls a test can let fail, and another member of it."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any, NoReturn

from aiowebsocketclient.fleet import Grant, Report
from aiowebsocketclient.redis import RedisFleet

from ..redis_server import RedisServer
from .script import Script

_numbers = itertools.count()


class Rival:
    """Another session of the fleet: it says at once, and in no task, what it holds and lacks."""

    def __init__(self, fleet: "CutFleet") -> None:
        self._fleet = fleet
        self._seq = 0
        self._known = self._until = 0
        self.held = 0

    def report(self, *, held: int, demand: int) -> None:
        """Report; take what is granted as held."""
        self._seq += 1
        report = Report(self._seq, held, held, self._known, self._until, demand, 0, 0, 0)
        script, channel = self._fleet.script, f"{self._fleet.key}:nudge:"
        *command, _, _, _ = script.command("rival", report, None)
        reply = self._fleet.asking.execute_command(*command, channel, "p", "0")
        if len(reply) > 1:
            self._known, _, self._until = reply[:3]
            # It opens them when it pleases; the places are its own from now on.
            self.held = max(held, self._known)

    def take(self) -> None:
        """Hold what was granted since."""
        if self._seq:
            self.report(held=self.held, demand=max(self.held, 1))

    def leave(self) -> None:
        if self._seq:
            self.report(held=0, demand=0)
            self.held = 0


class CutFleet:
    """A RedisFleet of an account of its own; with a client of its own, which :meth:`close` closes.

    Its calls are made in tasks, so that they are carried out also if nobody waits for the answer.
    """

    def __init__(self, server: RedisServer, **arguments: Any) -> None:
        import redis.asyncio

        self._client = redis.asyncio.Redis(unix_socket_path=server.socket)
        self.asking = server.client()
        name = f"cut {os.getpid()} {next(_numbers)}"
        self._fleet = RedisFleet(self._client, name, **({"lease": 60.0} | arguments))
        run = self.asking.info("server")["run_id"]
        self.key = self._fleet.key
        self.asking.hset(f"{self.key}:state", mapping={"used": 0, "run": run})
        self.script = Script(self.asking, self.key[5:-1], self.limit, lease=60.0)
        self.rival = Rival(self)
        self._failing: asyncio.Future[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def fail(self) -> bool:
        """Let the call under way fail for who has made it; return whether there is one."""
        if self._failing is None or self._failing.done():
            return False
        self._failing.set_exception(ConnectionError("cut"))
        return True

    async def sync(self, member: str, report: Report) -> Grant | None:
        loop = asyncio.get_running_loop()
        call = loop.create_task(self._fleet.sync(member, report))
        self._calls.add(call)
        call.add_done_callback(self._forget)
        self._failing = failing = loop.create_future()
        call.add_done_callback(lambda _: failing.done() or failing.set_result(None))
        try:
            await failing
        finally:
            if self._failing is failing:
                self._failing = None
        return call.result()

    def _forget(self, call: "asyncio.Task[Any]") -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()

    async def listen(self, member: str, nudge: Callable[[], None]) -> NoReturn:
        await self._fleet.listen(member, nudge)

    def used(self) -> int:
        return int(self.asking.hget(f"{self.key}:state", "used") or 0)

    async def close(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls)
        await self._client.aclose()
        self.asking.delete(*self.script.keys)
        self.asking.close()
