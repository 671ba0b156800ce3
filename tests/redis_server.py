"""A Redis of the tests' own, which they may stop, kill, freeze and start again on the same port."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

#: Seconds that only a server that does not start, or does not end, takes.
HANGS = 30.0
PROGRAM = "redis-server"


def require_redis() -> None:
    """Skip the test where there is no Redis, or no library for it."""
    pytest.importorskip("redis")
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")


def free_port() -> int:
    """Return a free port, with another 10,000 above it for the bus of a cluster."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            if port < 55_536:
                return port


class RedisServer:
    """A redis-server on a loopback port and a Unix socket, with nothing saved unless told so.

    :param directory: its own; log, socket and what it saves are there.
    :param arguments: more arguments of the program, ``"--appendonly", "yes"``; the last of several
        for one setting counts.
    :param port: default: a free one.  The server is on the same port after each :meth:`start`.
    :param program: another that takes the same arguments.
    """

    def __init__(
        self, directory: Path, *arguments: str, port: int | None = None, program: str = PROGRAM
    ) -> None:
        self.directory = directory
        self.arguments = arguments
        self.program = program
        self.host = "127.0.0.1"
        self.port = free_port() if port is None else port
        # Paths of sockets are short: 104 characters on some systems.
        self.socket = str(directory / "s")
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer {self.url}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def client(self, **options: Any) -> Any:
        """Return a synchronous client on the Unix socket; close it."""
        import redis

        return redis.Redis(unix_socket_path=self.socket, **options)

    def start(self, *arguments: str) -> None:
        """Start the server, with more arguments if given, and wait until it serves."""
        assert self.process is None, f"{self} runs"
        command = [self.program, "--port", str(self.port), "--bind", self.host]
        command += ["--unixsocket", self.socket, "--dir", str(self.directory)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_it_serves(self.process)

    def _wait_until_it_serves(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + HANGS
        while not self._serves():
            assert process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.01)

    def _serves(self) -> bool:
        # Not with a client: a user other than the default may be the only one, with a password.
        with socket.socket() as asking, contextlib.suppress(OSError):
            asking.settimeout(HANGS)
            asking.connect((self.host, self.port))
            asking.sendall(b"PING\r\n")
            return not asking.recv(64).startswith((b"-LOADING", b"-MASTERDOWN"))
        return False

    def stop(self) -> None:
        """End it as a service manager does: it saves what it is told to save."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with nothing saved, also while it is frozen."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        process.wait(HANGS)

    def restart(self, *arguments: str) -> None:
        """Stop it and start it again, as another process on the same port."""
        self.stop()
        self.start(*arguments)

    def freeze(self) -> None:
        """Stop it in its tracks: it answers nobody, and its connections stand."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
