"""``python -m tests.rushes``: see ``--help``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from aiowebsocketclient import IMPLEMENTATION

from . import loads
from .measure import (
    MOST_LATE,
    MOST_TIME,
    Cell,
    Comparison,
    compare,
    grid,
    grid_table,
    mixed,
    mixed_table,
    others_table,
    overload_table,
)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    core = importlib.import_module(
        f"aiowebsocketclient.{'_pool' if IMPLEMENTATION == 'c' else '_pool_py'}"
    )
    print(f"core: {IMPLEMENTATION}; timers end at multiples of {options.tick:g} ms\n")
    tick = options.tick / 1000
    cells = grid(core, tick)
    is_met = _show_goals(core, cells, tick)
    _show_grid(cells)
    for name, make in (("rush", loads.mixed_rush), ("stream", loads.mixed_stream)):
        print(f"Mixed loads, {name}, {options.runs} runs each")
        print(mixed_table(mixed(core, make, options.runs, options.seed, tick)), end="\n\n")
    print("Rushes with handshakes of 150 ms, and what happens in the middle")
    print(others_table(core, tick), end="\n\n")
    print("Overload: when so many are open, in handshakes; until all is done, 1: at once")
    print(overload_table(core, tick))
    if options.plot:
        # Not before: it needs matplotlib.
        from .plot import draw

        draw(cells, options.plot)
    return 0 if is_met else 1


def _show_goals(core: ModuleType, cells: list[Cell], tick: float) -> bool:
    spike = compare(core, loads.constant_rush(0.002, 0.15, tick=tick))
    met = len(spike.default.begun) <= 3 and spike.is_in_time
    _show("spike (uses 2 ms, handshakes 150 ms)", spike, is_met=met)
    long = compare(core, loads.constant_rush(loads.LONG, 0.15, tick=tick))
    is_same = long.default.begun == long.at_once.begun
    met &= is_same and long.is_in_time
    _show(f"long uses ({loads.LONG:g} s)", long, is_met=is_same and long.is_in_time)
    for name in ("known", "surprise"):
        found: list[Comparison] = [getattr(cell, name) for cell in cells]
        worst = max(found, key=lambda run: max(run.lateness))
        slowest = max(found, key=lambda run: run.time)
        failed = [run for run in found if not run.is_in_time]
        met &= not failed
        print(
            f"{name} uses, {len(found)} cells: {len(failed)} beyond {MOST_TIME} times the better"
            f" or {MOST_LATE} times as late; all served in {slowest.time:.3f} times, latest caller"
            f" {max(worst.lateness):.3f} (handshakes {1000 * worst.load.handshake:.1f} ms)"
        )
    print()
    return met


def _show(name: str, found: Comparison, *, is_met: bool) -> None:
    opened = ", ".join(
        f"{field.replace('_', ' ')} {len(getattr(found, field).begun)}"
        for field in ("at_once", "one_at_a_time", "default")
    )
    print(
        f"{'met' if is_met else 'MISSED'}: {name}: opened {opened}; all served in"
        f" {found.time:.3f} times the better; latest caller {max(found.lateness):.3f}"
    )


def _show_grid(cells: list[Cell]) -> None:
    print("A rush of 50 callers to 5 idle connections, uses as before: connections opened")
    print(grid_table(cells, lambda cell: str(len(cell.known.default.begun))), end="\n\n")
    print("The same with one handshake at a time")
    print(grid_table(cells, lambda cell: str(len(cell.known.one_at_a_time.begun))), end="\n\n")
    print("Time until all are served, in multiples of the better of the other two")
    print(grid_table(cells, lambda cell: f"{cell.known.time:.2f}"), end="\n\n")
    print("Latest caller: its wait, in multiples of that at once or of a handshake")
    print(grid_table(cells, lambda cell: f"{max(cell.known.lateness):.2f}"), end="\n\n")
    print(f"The same where uses have become {loads.LONG:g} s; the table says how long they were")
    print(grid_table(cells, lambda cell: f"{max(cell.surprise.lateness):.2f}"), end="\n\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rushes",
        description="Many callers at once, in virtual time: with max_connecting=100, with"
        " max_connecting=1, and with deferred handshakes, the default. It fails if the default is"
        " not as good as it should be.",
    )
    parser.add_argument("--runs", type=int, default=200, help="of each mixed load; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="of the mixed loads; default: 0")
    parser.add_argument(
        "--tick", type=float, default=1.0, help="of timers, in milliseconds; default: 1"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw the rushes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
