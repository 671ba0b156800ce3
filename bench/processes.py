"""The processes of a run: one for each contender, and an echo server."""

import json
import math
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .contenders import CONTENDERS
from .scenario import LeftOut, Sample
from .until import ENDLESS, Until

_ROOT: Final = str(Path(__file__).resolve().parents[1])

# With -P, an installed package is measured in preference to the checkout, which contains this file
# and may lack the compiled core.
_START: Final = "import sys; sys.path.append(sys.argv.pop(1)); from bench.{} import main; main()"


# What another interpreter must not be told.
_OURS: Final = ("PYTHONPATH", "PYTHONHOME")

# Seconds after the end of a run for the measurement that is under way.
_GRACE: Final = 5.0


class BenchError(Exception):
    """A process of the run failed."""


class Process:
    """A module of this package in its own process, which exchanges lines of JSON.

    :param until: an answer that is not there a few seconds later is an error.
    :param python: another interpreter, which has the package installed.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        until: Until = ENDLESS,
        python: str | None = None,
    ) -> None:
        self._name = " ".join((module, *arguments[:1]))
        self._until = until
        inherited = {n: v for n, v in os.environ.items() if python is None or n not in _OURS}
        self._process = subprocess.Popen(
            [python or sys.executable, "-P", "-c", _START.format(module), _ROOT, *arguments],
            env=inherited | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C must reach only the main process; the others end with their standard input.
            start_new_session=True,
        )

    def tell(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self) -> Any:
        assert self._process.stdout is not None
        left = self._until.left()
        if left < math.inf:
            # Nothing is buffered: each answer is one line, and was asked for.
            patience = max(0.0, left + _GRACE)
            if not select.select([self._process.stdout], [], [], patience)[0]:
                self._process.kill()
                raise BenchError(
                    f"the process {self._name!r} did not answer before the time was up"
                )
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> BenchError:
        return BenchError(f"the process {self._name!r} has ended: see its error above")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        # Closes the pipes and waits. Unread output may break the pipe.
        with suppress(BrokenPipeError):
            self._process.__exit__(exc_type, exc_val, exc_tb)


class Server(Process):
    """An echo server."""

    def __init__(
        self,
        *,
        tls: bool = False,
        heartbeat: float | None = None,
        until: Until = ENDLESS,
        python: str | None = None,
    ) -> None:
        arguments = ["--tls"] if tls else []
        if heartbeat is not None:
            arguments += ["--heartbeat", str(heartbeat)]
        super().__init__("server", *arguments, until=until, python=python)
        hello = self.hear()
        self.url: str = hello["url"]
        #: The certificate of the authority, as PEM.
        self.authority: str | None = hello["authority"]


class Worker(Process):
    """A contender; it measures on request, and sleeps otherwise."""

    def __init__(
        self,
        name: str,
        url: str,
        loop: str = "asyncio",
        until: Until = ENDLESS,
        python: str | None = None,
    ) -> None:
        env = CONTENDERS[name].env
        super().__init__("worker", name, url, loop, env=env, until=until, python=python)
        self.name = name
        #: Details for the header.
        self.about: dict[str, Any] = {}
        #: The interpreter and the machine.
        self.machine: dict[str, Any] = {}
        #: The names of the contender's methods.
        self.abilities: set[str] = set()

    def meet(self) -> None:
        """Wait until the process has started; several start concurrently."""
        hello = self.hear()
        self.about = hello["about"]
        self.machine = hello["machine"]
        self.abilities = set(hello["abilities"])

    def measure(self, scenario: str, point: int, seconds: float) -> Sample:
        """Measure once and return the sample; the first call also sets up the scenario."""
        self.tell({"scenario": scenario, "point": point, "seconds": seconds})
        answer = self.hear()
        if "left_out" in answer:
            raise LeftOut(answer["left_out"])
        sample: Sample = answer["sample"]
        return sample

    def forget(self) -> None:
        """Tear down all scenarios."""
        self.tell(None)
        self.hear()
