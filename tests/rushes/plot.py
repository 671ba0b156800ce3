"""Draws the rushes: connections opened, and when callers are served, by the time of a use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from bench.plot import SETTINGS, new_figure

from .loads import CALLERS, LONG
from .measure import MOST_LATE, MOST_TIME, Cell

#: Milliseconds of a handshake, each with its marker. The colours go from dark to light.
_HANDSHAKES: Final = {1: "v", 5: "s", 20: "D", 50: "^", 150: "o", 500: "P"}


def draw(cells: Sequence[Cell], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": "rushes"}):
        figure = new_figure(f"A rush: {CALLERS} callers at once, 5 connections open")
        figure.set_size_inches(12, 4.4)
        opened, time, late = figure.subplots(1, 3)
        _opened(opened, cells)
        _time(time, cells)
        _late(late, cells)
        figure.legend(
            *opened.get_legend_handles_labels(),
            title="a handshake takes",
            loc="outside right center",
            frameon=False,
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _opened(axes: Axes, cells: Sequence[Cell]) -> None:
    axes.set_title("Connections opened for the rush\nby default", fontsize=10)
    _curves(axes, cells, lambda cell: len(cell.known.default.begun))
    axes.axhline(CALLERS - 5, color="#999999", linestyle=":", label="any: at once")
    axes.set_ylim(-1, CALLERS)


def _time(axes: Axes, cells: Sequence[Cell]) -> None:
    axes.set_title(
        "Time until all are served, in multiples\nof the better of the former ways",
        fontsize=10,
    )
    _curves(axes, cells, lambda cell: cell.known.time)
    axes.axhline(MOST_TIME, color="#999999", linestyle="--")
    axes.set_ylim(0.95, 1.25)


def _late(axes: Axes, cells: Sequence[Cell]) -> None:
    axes.set_title(
        f"Longest wait if the uses turn out to take\n{LONG:g} s, in multiples of a handshake",
        fontsize=10,
    )
    _curves(axes, cells, lambda cell: max(cell.surprise.lateness))
    axes.axhline(MOST_LATE, color="#999999", linestyle="--")
    axes.set_ylim(0.95, 1.25)


def _curves(axes: Axes, cells: Sequence[Cell], value: Callable[[Cell], Any]) -> None:
    colours = mpl.colormaps["viridis"]
    for turn, (handshake, marker) in enumerate(_HANDSHAKES.items()):
        own = [cell for cell in cells if cell.handshake == handshake]
        axes.plot(
            [cell.use for cell in own],
            [value(cell) for cell in own],
            color=colours(turn / len(_HANDSHAKES)),
            marker=marker,
            markersize=4,
            linewidth=1.3,
            label=f"{handshake} ms",
        )
    axes.set_xscale("log")
    axes.set_xlabel("a use has taken (ms)")
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
