"""The policies under the same loads, and the tables of what came of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import ModuleType
from typing import Any, Final, NamedTuple

from . import loads
from .loads import CALLERS, LONG, SHAPES
from .simulation import AT_ONCE, DEFAULT, ONE_AT_A_TIME, Load, Outcome, Policy, Simulation

#: A timer of a loop is a millisecond late, and the core looks no more often than each millisecond.
SLACK: Final = 0.002
#: What an issue asks for.
MOST_TIME: Final = 1.2
MOST_LATE: Final = 1.1


class Comparison(NamedTuple):
    """What came of one load."""

    load: Load
    at_once: Outcome
    one_at_a_time: Outcome
    default: Outcome

    @property
    def best(self) -> float:
        """When all were served with the better of the other two policies."""
        return min(self.at_once.served, self.one_at_a_time.served)

    @property
    def time(self) -> float:
        """When all were served, in multiples of the best."""
        return self.default.served / self.best if self.best else 1.0

    @property
    def lateness(self) -> list[float]:
        """By use: the wait, in multiples of the wait at once or of a handshake, if that is more."""
        return [
            wait / max(at_once, self.load.handshake)
            for waits, others in zip(self.default.waits, self.at_once.waits, strict=True)
            for wait, at_once in zip(waits, others, strict=True)
        ]

    @property
    def is_in_time(self) -> bool:
        """Whether all are served, and each is, as soon as is asked for; but for the timers."""
        served = self.default.served <= max(MOST_TIME * self.best, self.best + SLACK)
        late = max(self.lateness)
        return served and late <= MOST_LATE + SLACK / self.load.handshake


def compare(core: ModuleType, load: Load) -> Comparison:
    def run(policy: Policy) -> Outcome:
        return Simulation(core, policy, load).run()

    return Comparison(load, run(AT_ONCE), run(ONE_AT_A_TIME), run(DEFAULT))


# -- rushes --------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A rush with uses that are known, and one with uses that have suddenly become long."""

    use: float
    handshake: float
    known: Comparison
    surprise: Comparison


def grid(core: ModuleType, tick: float) -> list[Cell]:
    """Run a rush for each time of a use, in milliseconds, and of a handshake."""
    return [
        Cell(
            use,
            handshake,
            compare(core, loads.rush(use / 1000, handshake / 1000, tick=tick)),
            compare(core, loads.rush(use / 1000, handshake / 1000, LONG, tick=tick)),
        )
        for handshake in loads.HANDSHAKES
        for use in loads.USES
    ]


def grid_table(cells: Sequence[Cell], text: Callable[[Cell], str]) -> str:
    """Return a row for each time of a use, with a column for each time of a handshake."""
    rows = [["use / handshake, ms", *map(str, loads.HANDSHAKES)]]
    rows += [
        [f"{use:,g}", *(text(cell) for cell in cells if cell.use == use)] for use in loads.USES
    ]
    return _aligned(rows)


# -- mixed loads ---------------------------------------------------------------------------------


@dataclass
class Mixed:
    """Many runs of one shape."""

    name: str
    comparisons: list[Comparison]

    def opened(self, policy: str) -> float:
        return fmean(len(getattr(run, policy).begun) for run in self.comparisons)

    @property
    def lateness(self) -> list[float]:
        return sorted(late for run in self.comparisons for late in run.lateness)

    @property
    def later(self) -> float:
        """Return the share of callers that are later than is asked for."""
        return _share(late > MOST_LATE for late in self.lateness)

    def row(self) -> list[str]:
        lateness = self.lateness
        waits = [
            fmean(getattr(run, policy).mean_wait / run.load.handshake for run in self.comparisons)
            for policy in ("at_once", "default")
        ]
        return [
            self.name,
            *(f"{self.opened(policy):.1f}" for policy in ("at_once", "one_at_a_time", "default")),
            f"{100 * self.later:.3f} %",
            f"{lateness[int(0.999 * len(lateness))]:.2f}",
            f"{lateness[-1]:.2f}",
            *(f"{wait:.3f}" for wait in waits),
        ]


def mixed(
    core: ModuleType, make: Callable[..., Load], runs: int, seed: int, tick: float
) -> list[Mixed]:
    return [
        Mixed(
            shape,
            [compare(core, make(shape, seed + run, tick=tick)) for run in range(runs)],
        )
        for shape in SHAPES
    ]


def mixed_table(found: Sequence[Mixed]) -> str:
    head = ["uses", "opened at once", "one at a time", "default", "later than 1.1", "99.9 %"]
    head += ["latest", "mean wait at once", "default"]
    everything = Mixed("all", [run for row in found for run in row.comparisons])
    return _aligned([head, *(row.row() for row in found), everything.row()])


# -- what else may happen ------------------------------------------------------------------------


def others(tick: float) -> dict[str, Load]:
    """Return loads that are hard on the default: it has to notice something in the middle."""
    found: dict[str, Load] = {}

    def add(name: str, make: Callable[..., Load], *arguments: Any, **options: Any) -> None:
        found[name] = make(*arguments, tick=tick, **options)

    rush, turning, closing = loads.constant_rush, loads.turning, loads.closing
    for after in (5, 10, 20, 30):
        add(f"the first {after} uses 2 ms, the others {LONG:g} s", turning, 0.002, 0.15, after)
    for share in (0.1, 0.3, 1.0):
        add(f"uses 5 ms, {100 * share:g} % close", closing, 0.005, 0.15, share)
    add("uses 2 ms, all in use die after 4 ms", rush, 0.002, 0.15, dies_at=0.004)
    add("uses 5 ms, all in use die after 30 ms", rush, 0.005, 0.15, dies_at=0.03)
    add("uses 2 ms, process held up for 20 ms", rush, 0.002, 0.15, held_up=(0.01, 0.03))
    add("uses 2 ms, process held up for 100 ms", rush, 0.002, 0.15, held_up=(0.001, 0.101))
    add("uses 1 ms, 1,000 callers", rush, 0.001, 0.15, 1000)
    add("uses 2 ms, 1,000 callers", rush, 0.002, 0.15, 1000)
    add("uses 2 ms, limit 10", rush, 0.002, 0.15, limit=10)
    add("uses 10 ms, limit 20, 200 callers", rush, 0.01, 0.15, 200, limit=20)
    return found


def others_table(core: ModuleType, tick: float) -> str:
    rows = [["load", "opened at once", "one at a time", "default", "time", "latest"]]
    for name, load in others(tick).items():
        found = compare(core, load)
        opened = [len(outcome.begun) for outcome in found[1:]]
        rows.append(
            [name, *map(str, opened), f"{found.time:.2f}", f"{max(found.lateness):.2f}"],
        )
    return _aligned(rows)


def overload_table(core: ModuleType, tick: float) -> str:
    """Callers come again at once, for longer than a handshake takes: how fast does a pool grow?"""
    rows = [["load", "10 open", "20 open", "40 open", "opened", "done", "one at a time"]]
    for use, handshake in ((0.002, 0.05), (0.002, 0.15), (0.005, 0.15), (0.02, 0.5)):
        load = loads.constant_rush(use, handshake, times=100, tick=tick)
        found = compare(core, load)
        open_after = [begun + handshake for begun in sorted(found.default.begun)]
        grown = [
            f"{open_after[more] / handshake:.1f}" if more < len(open_after) else "-"
            for more in (10 - 1 - load.idle, 20 - 1 - load.idle, 40 - 1 - load.idle)
        ]
        rows.append(
            [
                f"{CALLERS} callers, 100 uses of {1000 * use:g} ms, handshakes"
                f" {1000 * handshake:g} ms",
                *grown,
                str(len(found.default.begun)),
                f"{found.default.done / found.at_once.done:.2f}",
                f"{found.one_at_a_time.done / found.at_once.done:.2f}",
            ]
        )
    return _aligned(rows)


# -- helpers -------------------------------------------------------------------------------------


def _share(found: Iterable[bool]) -> float:
    return fmean(map(float, found))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return "\n".join(lines)
