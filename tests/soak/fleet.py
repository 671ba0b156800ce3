"""The two servers, seen from the clients: where they are, and how they are ended and started."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import trustme

from .ledger import PORTS, SERVERS, Field, Ledger

ROOT: Final = Path(__file__).resolve().parents[2]

# With -P the package that runs is the installed one, if there is one: the checkout would come
# first, and may be without the compiled core.
_START: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from tests.soak.{} import main; main()"
)


def command(module: str, *arguments: str) -> list[str]:
    """Return what runs a module of this package in a process of its own."""
    return [sys.executable, "-P", "-c", _START.format(module), str(ROOT), *arguments]


class Stop(asyncio.Event):
    """What tells those who do harm to leave off; they are not cancelled in the middle of it."""

    async def within(self, seconds: float) -> bool:
        """Tell whether it is set before so many seconds have passed."""
        try:
            async with asyncio.timeout(seconds):
                return await self.wait()
        except TimeoutError:
            return False


class Fleet:
    """Both servers, with ports that stay theirs while they are down."""

    def __init__(self, lanes: int, seed: int, heartbeat: float) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="soak-")
        self.path = Path(self._directory.name)
        self.ledger = Ledger(self.path / "ledger", lanes)
        self.events: Counter[str] = Counter()
        self._lanes = lanes
        self._seed = seed
        self._heartbeat = heartbeat
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            self.path / "server.pem"
        )
        self.client_tls = ssl.create_default_context()
        authority.configure_trust(self.client_tls)
        # Bound and not listening: nobody else gets the port, and who connects is refused.
        self._reserved = [
            [[_reserve() for _ in range(PORTS)] for _ in range(lanes)] for _ in range(SERVERS)
        ]
        self._log = (self.path / "log").open("a+b")
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * SERVERS
        self._starts = 0

    def url(self, server: int, lane: int, port: int) -> str:
        scheme = "wss" if self.has_tls(server) else "ws"
        number = self._reserved[server][lane][port].getsockname()[1]
        return f"{scheme}://127.0.0.1:{number}"

    def has_tls(self, server: int) -> bool:
        return server == 1

    def is_up(self, server: int) -> bool:
        return bool(self.ledger.get(server, Field.LISTENING))

    def start(self, server: int) -> None:
        self._starts += 1
        reserved = self._reserved[server]
        config: dict[str, Any] = {
            "number": server,
            "ledger": str(self.path / "ledger"),
            "lanes": self._lanes,
            "seed": f"{self._seed}-{self._starts}",
            "heartbeat": self._heartbeat,
            "ports": [[each.getsockname()[1] for each in lane] for lane in reserved],
            "certificate": str(self.path / "server.pem") if self.has_tls(server) else None,
        }
        self._processes[server] = subprocess.Popen(
            command("server", json.dumps(config)),
            # It ends with whoever started it.
            stdin=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )

    async def stop(self, server: int, number: signal.Signals) -> None:
        """End a server, by force or not, and wait until it is gone."""
        process = self._processes[server]
        assert process is not None
        if number is signal.SIGKILL:
            self.ledger.put(server, Field.LISTENING, 0)
        process.send_signal(number)
        while process.poll() is None:
            await asyncio.sleep(0.01)
        self._close_pipe(process)
        self._processes[server] = None

    def _close_pipe(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()

    async def freeze(self, server: int, seconds: float) -> None:
        """Have a server say nothing for a while, with all its connections open."""
        process = self._processes[server]
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def until_up(self) -> None:
        async with asyncio.timeout(60):
            while not all(self.is_up(server) for server in range(SERVERS)):
                if any(each is not None and each.poll() is not None for each in self._processes):
                    raise RuntimeError(f"a server has ended by itself\n{self.log()}")
                await asyncio.sleep(0.01)

    async def be_disorderly(self, stop: Stop, random: Random, pause: float) -> None:
        """Restart one of the servers again and again, now gently, now not."""
        while not await stop.within(pause * (0.5 + random.random())):
            server = random.randrange(SERVERS)
            how = random.choice(("kill", "kill", "stop", "freeze"))
            self.events[how] += 1
            if how == "freeze":
                await self.freeze(server, random.random() * 2)
                continue
            await self.stop(server, signal.SIGKILL if how == "kill" else signal.SIGTERM)
            await asyncio.sleep(random.random() ** 2 * pause)
            self.start(server)
            await self.until_up()

    def log(self) -> str:
        """Return what the servers complained of."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines(keepends=True)
        # What asyncio says of a send to a client that has just gone.
        return "".join(line for line in lines if line != "socket.send() raised exception.\n")

    def __enter__(self) -> Self:
        for server in range(SERVERS):
            self.start(server)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process is not None:
                process.kill()
                process.wait()
                self._close_pipe(process)
        for lanes in self._reserved:
            for lane in lanes:
                for reserved in lane:
                    reserved.close()
        self._log.close()
        self.ledger.close()
        self._directory.cleanup()


def _reserve() -> socket.socket:
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
