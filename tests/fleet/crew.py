"""Workers of one fleet in processes of their own, their Redis, and the server that counts."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiowebsocketclient.redis import RedisFleet

from ..redis_server import PROGRAM, RedisServer
from .counting import CountingServer

WORKER = Path(__file__).with_name("worker.py")
NAME = "account of the tests"
#: Seconds that only something that hangs takes.
HANGS = 60.0


class Worker:
    """A process of the fleet, ``who`` in the count of the server."""

    def __init__(self, who: str, errors: Path) -> None:
        self.who = who
        self.events: list[dict[str, Any]] = []
        self.errors = errors
        self.process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]
        self._heard = asyncio.Condition()

    async def start(self, options: dict[str, Any], *flags: str) -> None:
        command = [sys.executable, "-P", "-W", "always", *flags, str(WORKER), json.dumps(options)]
        with self.errors.open("wb") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=1 << 20,
            )
        self._reading = asyncio.create_task(self._read())
        await self.hear("ready")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.events.append(json.loads(line))
            async with self._heard:
                self._heard.notify_all()
        await self.process.wait()
        async with self._heard:
            self._heard.notify_all()

    async def hear(self, event: str, *, name: str | None = None, skip: int = 0) -> dict[str, Any]:
        """Return an event, if need be one yet to come; ``name`` is that of a log record."""

        def found() -> dict[str, Any] | None:
            fit = [e for e in self.events if e["event"] == event and name in (None, e.get("name"))]
            return fit[skip] if len(fit) > skip else None

        async with asyncio.timeout(HANGS), self._heard:
            while (heard := found()) is None:
                assert self.process.returncode is None, self.errors.read_text()
                await self._heard.wait()
        return heard

    def logged(self, name: str) -> int:
        return sum(e["event"] == "log" and e["name"] == name for e in self.events)

    def tell(self, do: str, **options: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | options).encode() + b"\n")

    async def ask(self, do: str, answer: str, **options: Any) -> dict[str, Any]:
        """Give a command, and return what it says in the end."""
        skip = sum(event["event"] == answer for event in self.events)
        self.tell(do, **options)
        return await self.hear(answer, skip=skip)

    async def stats(self) -> dict[str, Any]:
        return await self.ask("stats", "stats")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def stop(self) -> dict[str, Any]:
        """End it as its users do; nobody may have complained of anything."""
        ended = await self.ask("stop", "ended")
        async with asyncio.timeout(HANGS):
            code = await self.process.wait()
            await self._reading
        complaints = self.errors.read_text()
        assert (code, complaints) == (0, ""), complaints
        return ended

    async def kill(self) -> None:
        """End it without a chance to say anything."""
        if self.process.returncode is None:
            self.send(signal.SIGKILL)
        async with asyncio.timeout(HANGS):
            await self.process.wait()
            await self._reading


class Crew:
    """Starts workers with the same options, and stops them in the end."""

    def __init__(self, directory: Path, redis: RedisServer, server: CountingServer) -> None:
        self.redis = redis
        self.server = server
        self.workers: list[Worker] = []
        self.client: dict[str, Any] = {"url": redis.url}
        self.fleet: dict[str, Any] = {"name": NAME, "lease": 5.0}
        self.session: dict[str, Any] = {"acquire_timeout": HANGS, "close_timeout": 5.0}
        self.others: dict[str, Any] = {}
        self.flags: tuple[str, ...] = ()
        self._directory = directory
        #: Of the fleet, without the parts.
        self.key = RedisFleet(_NO_CLIENT, NAME, limit=1).key

    def settle(self, client: Any) -> None:
        """Make a Redis that has just started look like one that has been up for a lease."""
        run = client.info("server")["run_id"]
        client.hset(f"{self.key}:state", mapping={"used": 0, "run": run})

    async def start(self, count: int, **client: Any) -> Sequence[Worker]:
        """Start so many workers, with another ``client`` if given."""
        begun = []
        for _ in range(count):
            who = f"w{len(self.workers)}"
            worker = Worker(who, self._directory / f"{who}.err")
            self.workers.append(worker)
            options = {
                "client": client or self.client,
                "fleet": self.fleet,
                "session": self.session,
                "url": self.server.url(who),
            }
            begun.append(worker.start(options | self.others, *self.flags))
        await asyncio.gather(*begun)
        return self.workers[-count:]

    async def stop(self) -> list[dict[str, Any]]:
        """Stop all that run, and return what they have counted."""
        running = [worker for worker in self.workers if worker.process.returncode is None]
        return await asyncio.gather(*[worker.stop() for worker in running])

    async def kill(self) -> None:
        for worker in self.workers:
            if hasattr(worker, "process"):
                await worker.kill()


class _NoClient:
    """Has the methods by which a client is known, for a fleet that never calls it."""

    def evalsha(self) -> None: ...

    def aclose(self) -> None: ...


_NO_CLIENT = _NoClient()


@contextlib.asynccontextmanager
async def crew_of(
    directory: Path,
    *arguments: str,
    settle: bool = True,
    program: str = PROGRAM,
    server: CountingServer | None = None,
) -> AsyncIterator[Crew]:
    """Return a crew with a Redis of its own, and nobody in it yet; none is left at the end.

    :param arguments: of the Redis.
    :param program: in place of redis-server.
    :param settle: whether that looks as if it had been up for long.
    """
    async with contextlib.AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(directory, *arguments, program=program))
        server = await stack.enter_async_context((server or CountingServer()).serving())
        crew = Crew(directory, redis, server)
        stack.push_async_callback(crew.kill)
        if settle:
            with redis.client() as client:
                crew.settle(client)
        yield crew
