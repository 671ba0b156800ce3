"""One run: scenarios, round by round, with all contenders that support them."""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import chain
from time import monotonic
from typing import Any, Final

from .contenders import CONTENDERS, OURS
from .machine import machine
from .processes import BenchError, Server, Worker
from .report import Result, Run
from .scenario import LeftOut, Scenario
from .until import ENDLESS, Until

# Rounds of a scenario before the next scenario has its turn. In the first turn they are few, which
# shows how long a round takes.
_FIRST_TURN: Final = 3
_TURN: Final = 8


@contextmanager
def running(
    contenders: Sequence[str],
    *,
    insist: bool,
    until: Until = ENDLESS,
    python: str | None = None,
) -> Iterator["Running"]:
    """Start the contenders; a missing contender is left out, or with ``insist`` an error.

    :param python: another interpreter for all processes.
    """
    with ExitStack() as stack:
        url = stack.enter_context(Server(until=until, python=python)).url
        start = _Start(stack, url, until, python)
        left_out = {name: CONTENDERS[name].missing() for name in contenders}
        workers = [start.worker(name) for name in contenders if left_out[name] is None]
        for worker in workers:
            worker.meet()
            left_out[worker.name] = _wrong_core(worker)
        why = {name: reason for name, reason in left_out.items() if reason is not None}
        if insist and why:
            raise BenchError("; ".join(f"{name}: {reason}" for name, reason in why.items()))
        there = [worker for worker in workers if worker.name not in why]
        yield Running(start, there, why)


def _wrong_core(worker: Worker) -> str | None:
    found = worker.about.get("implementation")
    if worker.name not in OURS or found == worker.name:
        return None
    return (
        f"{worker.about['path']} only has the core {found!r}, not {worker.name!r}:"
        f" build the other core, or use --impl {found}"
    )


class _Start:
    """Starts the workers of a run."""

    def __init__(self, stack: ExitStack, url: str, until: Until, python: str | None) -> None:
        self._stack = stack
        self._url = url
        self._until = until
        self._python = python

    def worker(self, name: str, loop: str = "asyncio") -> Worker:
        """Start a worker that ends with the run."""
        return self._stack.enter_context(self.own(name, loop))

    def own(self, name: str, loop: str) -> Worker:
        """Start a worker that the caller ends."""
        return Worker(name, self._url, loop, self._until, self._python)


class Running:
    """The contenders of a run that has started."""

    def __init__(self, start: _Start, workers: list[Worker], left_out: dict[str, str]) -> None:
        self._start = start
        self._workers = {(worker.name, "asyncio"): worker for worker in workers}
        self._abilities = {worker.name: worker.abilities for worker in workers}
        #: The interpreter, the machine and the contenders.
        self.environment: dict[str, Any] = {
            **(workers[0].machine if workers else machine()),
            "contenders": {worker.name: worker.about for worker in workers},
            "left_out": left_out,
        }
        #: Failures of scenarios.
        self.failures: list[str] = []

    def results(self, scenario: Scenario, run: Run) -> list[Result]:
        """Return results without samples, for the contenders that support the scenario."""
        return [
            Result(scenario.name, scenario.axis, point, name)
            for point in scenario.points_of(run.smoke)
            for name, abilities in self._abilities.items()
            if abilities.issuperset(scenario.needs)
        ]

    def sample(self, scenario: Scenario, result: Result, seconds: float) -> None:
        """Measure once more."""
        try:
            if scenario.loop == "uvloop" and find_spec("uvloop") is None:
                raise LeftOut("uvloop is not installed")
            if scenario.own_process:
                with self._start.own(result.contender, scenario.loop) as worker:
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

    def forget(self, scenario: Scenario, results: Sequence[Result]) -> None:
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
            worker = self._start.worker(name, loop)
            worker.meet()
            self._workers[name, loop] = worker
        return self._workers[name, loop]


class _Task:
    """A scenario and its results so far, in one or several Pythons."""

    def __init__(
        self,
        contests: Sequence[Running],
        scenario: Scenario,
        run: Run,
        places: Collection[tuple[str, int, str]] | None,
    ) -> None:
        self._scenario = scenario
        self._run = run
        self._rounds = scenario.rounds_of(run.rounds, run.smoke)
        self._done = 0
        self.contests = [
            (contest, [r for r in contest.results(scenario, run) if _is_in(places, r, run)])
            for contest in contests
        ]
        #: The most seconds of a round so far, including a share of the set-up.
        self.cost = 0.0

    @property
    def is_done(self) -> bool:
        return self._done >= self._rounds or not any(results for _, results in self.contests)

    def take_turn(self, rounds: int, until: Until) -> None:
        """Set up the scenario, measure some rounds, and tear it down."""
        started, before = monotonic(), self._done
        for _ in range(min(rounds, self._rounds - self._done)):
            if not until.allows(self.cost):
                break
            self._round()
        for contest, results in self.contests:
            contest.forget(self._scenario, results)
        _show("")
        taken = monotonic() - started
        self.cost = max(self.cost, taken / max(1, self._done - before))

    def _round(self) -> None:
        self._done += 1
        _show(f"{self._scenario.name}: round {self._done} of {self._rounds}")
        pending = [(contest, result) for contest, results in self.contests for result in results]
        # The order changes: no contender always comes first, or always after the same one.
        if self._done % 2:
            pending.reverse()
        for contest, result in pending:
            if result.left_out is None:
                contest.sample(self._scenario, result, self._run.seconds)


def _is_in(places: Collection[tuple[str, int, str]] | None, result: Result, run: Run) -> bool:
    if places is None or result.place in places:
        return True
    # A smoke test has points of its own.
    return run.smoke and (result.scenario, result.contender) in {(s, c) for s, _, c in places}


def measure(
    contests: Sequence[Running],
    scenarios: Sequence[Scenario],
    run: Run,
    *,
    until: Until = ENDLESS,
    places: Collection[tuple[str, int, str]] | None = None,
) -> list[list[Result]]:
    """Measure scenarios; return the results of each contest.

    Scenarios take turns, too: in a turn, a scenario is set up and measured for some of its rounds.
    So the rounds of each are spread over the run, and a noisy neighbour of a few seconds affects
    some rounds of some scenarios, instead of all rounds of one.  When the time is up, all scenarios
    have about the same number of rounds.

    :param until: no round begins if the longest round so far of its scenario would take longer.
    :param places: what to measure; ``None``: all points and contenders.
    """
    tasks = [_Task(contests, scenario, run, places) for scenario in scenarios]
    rounds = _FIRST_TURN
    while rounds and (pending := [task for task in tasks if not task.is_done]):
        for task in pending:
            if until.allows(task.cost):
                task.take_turn(rounds, until)
        rounds = _rounds_of_a_turn(tasks, until)
    results = [
        [result for task in tasks for result in task.contests[number][1]]
        for number in range(len(contests))
    ]
    for result in chain.from_iterable(results):
        if not result.samples and result.left_out is None:
            result.leave_out("the time was up")
    return results


def _rounds_of_a_turn(tasks: Sequence[_Task], until: Until) -> int:
    """Return how many rounds of all scenarios fit into the time that is left."""
    left, cost = until.left(), sum(task.cost for task in tasks if not task.is_done)
    if left <= 0:
        return 0
    return _TURN if left >= _TURN * cost else int(left / cost)


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
