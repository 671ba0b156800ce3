"""One run: every scenario, round by round, with all contenders that support it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from .contenders import CONTENDERS, OURS
from .processes import BenchError, Server, Worker
from .report import Result, Run
from .scenario import LeftOut, Scenario


@contextmanager
def running(contenders: Sequence[str], *, insist: bool) -> Iterator["Running"]:
    """Start the contenders; a missing contender is left out, or with ``insist`` an error."""
    with ExitStack() as stack:
        url = stack.enter_context(Server()).url
        left_out = {name: CONTENDERS[name].missing() for name in contenders}
        workers = [
            stack.enter_context(Worker(name, url)) for name in contenders if left_out[name] is None
        ]
        for worker in workers:
            worker.meet()
            left_out[worker.name] = _wrong_core(worker)
        why = {name: reason for name, reason in left_out.items() if reason is not None}
        if insist and why:
            raise BenchError("; ".join(f"{name}: {reason}" for name, reason in why.items()))
        there = [worker for worker in workers if worker.name not in why]
        yield Running(url, there, why, stack)


def _wrong_core(worker: Worker) -> str | None:
    found = worker.about.get("implementation")
    if worker.name not in OURS or found == worker.name:
        return None
    return (
        f"{worker.about['path']} only has the core {found!r}, not {worker.name!r}:"
        f" build the other core, or use --impl {found}"
    )


class Running:
    """The contenders of a run that has started."""

    def __init__(
        self, url: str, workers: list[Worker], left_out: dict[str, str], stack: ExitStack
    ) -> None:
        self._url = url
        self._stack = stack
        self._workers = {(worker.name, "asyncio"): worker for worker in workers}
        self._names = [worker.name for worker in workers]
        self.about = {worker.name: self._about(worker) for worker in workers}
        self.left_out = left_out
        #: Failures of scenarios.
        self.failures: list[str] = []
        self._abilities = {worker.name: worker.abilities for worker in workers}

    def _about(self, worker: Worker) -> dict[str, object]:
        entry = CONTENDERS[worker.name]
        return {"about": entry.about, "versions": entry.versions(), **worker.about}

    def measure(self, scenario: Scenario, run: Run) -> list[Result]:
        """Run all rounds of a scenario."""
        names = [n for n in self._names if self._abilities[n].issuperset(scenario.needs)]
        results = {
            (point, name): Result(scenario.name, scenario.axis, point, name)
            for point in scenario.points_of(run.quick)
            for name in names
        }
        rounds = scenario.rounds_of(run.rounds, run.quick)
        for number in range(rounds):
            _show(f"{scenario.name}: round {number + 1} of {rounds}")
            # The order changes: no contender always comes first, or always after the same one.
            pending = list(results) if number % 2 else list(reversed(results))
            for point, name in pending:
                result = results[point, name]
                if result.left_out is None:
                    self._sample(scenario, result, run.seconds)
        self._forget(scenario, list(results.values()))
        _show("")
        return list(results.values())

    def _sample(self, scenario: Scenario, result: Result, seconds: float) -> None:
        try:
            if scenario.loop == "uvloop" and find_spec("uvloop") is None:
                raise LeftOut("uvloop is not installed")
            if scenario.own_process:
                with Worker(result.contender, self._url, scenario.loop) as worker:
                    worker.meet()
                    sample = worker.measure(scenario.name, result.point, seconds)
                    worker.forget()
            else:
                worker = self._worker(result.contender, scenario.loop)
                sample = worker.measure(scenario.name, result.point, seconds)
        except LeftOut as exc:
            result.leave_out(str(exc))
        except BenchError as exc:
            self._fail(scenario, [result], exc)
            if not scenario.own_process:
                # A new process takes over.
                self._workers.pop((result.contender, scenario.loop), None)
        else:
            result.samples.append(sample)

    def _forget(self, scenario: Scenario, results: Sequence[Result]) -> None:
        """Tear down the scenario; a contender that finds an error then has failed."""
        for (name, loop), worker in list(self._workers.items()):
            try:
                worker.forget()
            except BenchError as exc:
                self._fail(scenario, [r for r in results if r.contender == name], exc)
                del self._workers[name, loop]

    def _fail(self, scenario: Scenario, results: Sequence[Result], error: BenchError) -> None:
        """Continue without these results, to keep those of the other contenders."""
        self.failures.append(f"{scenario.name}: {error}")
        for result in results:
            result.leave_out(str(error))

    def _worker(self, name: str, loop: str) -> Worker:
        if (name, loop) not in self._workers:
            worker = self._stack.enter_context(Worker(name, self._url, loop))
            worker.meet()
            self._workers[name, loop] = worker
        return self._workers[name, loop]


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
