"""The processes of a run: one for each contender, and an echo server for all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

#: What is compared, each with the environment that makes it so.
CONTENDERS: Final = {
    "c": {"AIOWEBSOCKETCLIENT_NO_EXTENSIONS": ""},
    "py": {"AIOWEBSOCKETCLIENT_NO_EXTENSIONS": "1"},
}

_ROOT: Final = str(Path(__file__).resolve().parents[1])

# With -P the package that is measured is the installed one, if there is one: the checkout, where
# this very file is, would come first, and may be without the compiled core.
_START: Final = "import sys; sys.path.append(sys.argv.pop(1)); from bench.{} import main; main()"


class BenchError(Exception):
    """A process of the run could not do its part."""


class Process:
    """A module of this package in a process of its own, spoken to in lines of JSON."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START.format(module), _ROOT, *arguments],
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # An interrupt is for the one who drives; the others end with their standard input.
            start_new_session=True,
        )

    def tell(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the process of {self._module} has ended, see above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        # It closes the pipes and waits.
        self._process.__exit__(exc_type, exc_val, exc_tb)


class Echo(Process):
    """The server."""

    def __init__(self) -> None:
        super().__init__("server")
        self.url: str = self.hear()


class Worker(Process):
    """A contender; it measures when it is told, and sleeps otherwise."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__("worker", url, env=CONTENDERS[name])
        self.name = name
        #: Its ``implementation`` and ``path``, and the version of ``cython`` that made it.
        self.about: dict[str, str | None] = self.hear()
        found = self.about["implementation"]
        if found != name:
            raise BenchError(
                f"{self.about['path']} has the core {found!r} only, not {name!r}:"
                f" build the other, or ask for --impl {found}"
            )

    def measure(self, scenario: str, seconds: float) -> tuple[float, float]:
        """Return the ns of a cycle of ``scenario``, and of one of the floor next to it."""
        self.tell({"scenario": scenario, "seconds": seconds})
        ns, floor_ns = self.hear()
        return ns, floor_ns
