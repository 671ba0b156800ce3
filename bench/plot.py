"""Draws the results of a run: cost by connections in use, contention, fairness, the spike."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from .contenders import OURS
from .report import RATIO, Result, spread
from .saved import Record

# The palette of Okabe and Ito.
_BLUE, _SKY, _ORANGE, _GREEN = "#0072B2", "#56B4E9", "#E69F00", "#009E73"
_VERMILION, _PURPLE, _GREY, _DARK = "#D55E00", "#CC79A7", "#999999", "#333333"


class Style(NamedTuple):
    label: str
    colour: str
    marker: str
    line: str = "-"


#: Colours are distinct for any kind of colour vision, and markers and lines without colours.
STYLES: Final = {
    "c": Style("this library, compiled", _BLUE, "o"),
    "py": Style("this library, pure Python", _SKY, "s"),
    "floor": Style("floor", _DARK, ".", ":"),
    "semaphore": Style("Semaphore and deque", _DARK, "^", "--"),
    "queue": Style("asyncio.Queue", _GREY, "v", "--"),
    "aiohttp": Style("aiohttp's connector", _ORANGE, "D"),
    "2015": Style("algorithm of 2015", _VERMILION, "X"),
    "psycopg_pool": Style("psycopg_pool", _GREEN, "P"),
    "asyncio-connection-pool": Style("asyncio-connection-pool", _PURPLE, "<"),
    "generic-connection-pool": Style("generic-connection-pool", _GREEN, ">", ":"),
    "aio-websocket-pool": Style("aio-websocket-pool", _VERMILION, "*", ":"),
    "unread": Style("WebSockets, unread", _GREY, "1", ":"),
    "readers": Style("WebSockets, each read", _GREY, "2", ":"),
}

SETTINGS: Final[dict[str, object]] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#E4E4E4",
    # Keep text as text, and make equal drawings equal files.
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}


def draw_all(record: Record, directory: Path, kind: str = "svg") -> list[Path]:
    """Draw each plot for which the run has results; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with mpl.rc_context(SETTINGS):
        for name, draw in PLOTS.items():
            figure = draw(record.results)
            if figure is None:
                continue
            figure.text(0.01, 0.01, _made_on(record), fontsize=7, color="#666666")
            path = directory / f"{name}.{kind}"
            figure.savefig(path, metadata={"Date": None} if kind == "svg" else None, dpi=110)
            drawn.append(path)
    return drawn


def _made_on(record: Record) -> str:
    made = record.environment
    return (
        f"{made['python']}, aiohttp {made['aiohttp']}, {made['cpu']}, {made['cores']} cores;"
        f" medians and quartiles of up to {record.run.rounds} rounds"
    )


# -- cost ----------------------------------------------------------------------------------------


def _held(results: Sequence[Result]) -> Figure | None:
    panels = [
        (_of(results, "held"), "the core alone"),
        (_of(results, "cycle-held"), "the whole pool (this library on live sockets)"),
    ]
    panels = [(found, title) for found, title in panels if found]
    if not panels:
        return None
    figure = new_figure("Cost of a use while other connections are in use")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (found, title) in zip(drawn, panels, strict=True):
        axes.set_xscale("symlog", linthresh=100)
        _lines(axes, found)
        axes.set_xlim(left=-30)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("other connections in use")
    drawn[0].set_ylabel("acquire and release (multiples of the floor)")
    _in_microseconds(drawn[-1], [result for found, _ in panels for result in found])
    # In the order of the last panel, which is next to the legend.
    last = panels[-1][0]
    there = _contenders(last)
    _legend(figure, last + [r for found, _ in panels for r in found if r.contender not in there])
    return figure


def _contended(results: Sequence[Result]) -> Figure | None:
    found = _of(results, "contended")
    if not found:
        return None
    figure = new_figure("Cost of a use when many callers share 16 connections")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    _lines(axes, found)
    axes.set_xlabel("concurrent callers")
    axes.set_ylabel("acquire, one turn of the loop, release\n(multiples of the floor)")
    _in_microseconds(axes, found)
    _legend(figure, found)
    return figure


def _lines(axes: Axes, results: Sequence[Result]) -> None:
    """Draw a line through the medians of each contender, with quartiles as bars."""
    for contender in _contenders(results):
        own = sorted(_of_contender(results, contender), key=lambda result: result.point)
        numbers = [spread(result.values(RATIO)) for result in own]
        style = STYLES[contender]
        axes.errorbar(
            [result.point for result in own],
            [n["median"] for n in numbers],
            yerr=[
                [n["median"] - n["lower_quartile"] for n in numbers],
                [n["upper_quartile"] - n["median"] for n in numbers],
            ],
            color=style.colour,
            marker=style.marker,
            linestyle=style.line,
            linewidth=2.5 if contender in OURS else 1.3,
            zorder=3 if contender in OURS else 2,
            elinewidth=1,
            capsize=3,
            clip_on=False,
        )
    axes.set_yscale("log")
    axes.set_xticks(sorted({result.point for result in results}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda number, _: f"{number:,g}")
        axis.set_minor_locator(NullLocator())


def _in_microseconds(axes: Axes, results: Sequence[Result]) -> None:
    """Add a scale in µs, which is that of the median floor."""
    floor = median(ns for result in results for ns in result.values("floor_ns")) / 1000
    scale = axes.secondary_yaxis(
        "right", functions=(lambda y: np.multiply(y, floor), lambda us: np.divide(us, floor))
    )
    scale.set_ylabel("µs")
    scale.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    scale.yaxis.set_major_formatter(lambda number, _: f"{number:,g}")
    scale.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, results: Sequence[Result]) -> None:
    """Name the lines in the order of their right ends."""
    last = {r.contender: median(r.values(RATIO)) for r in sorted(results, key=lambda r: r.point)}
    handles = [
        Line2D(
            *([], []),
            color=STYLES[name].colour,
            marker=STYLES[name].marker,
            linestyle=STYLES[name].line,
            label=STYLES[name].label,
            linewidth=2.5 if name in OURS else 1.3,
        )
        for name in sorted(last, key=lambda name: -last[name])
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)


# -- fairness and the spike ----------------------------------------------------------------------


def _fairness(results: Sequence[Result]) -> Figure | None:
    found = _of(results, "fairness", "fewest_by_most")
    if not found:
        return None
    found.sort(key=lambda result: median(result.values("fewest_by_most")))
    figure = new_figure("Fairness: 100 callers, 10 connections", len(found))
    axes = figure.subplots()
    _bars(
        axes,
        found,
        "fewest_by_most",
        [STYLES[result.contender].label for result in found],
        lambda r: f"{median(r.values('fewest_by_most')):.3f}{_uses(r)}",
    )
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlim(0, 1.4)
    axes.set_xlabel("uses of the least served caller / uses of the most served caller (1: fair)")
    return figure


def _uses(result: Result) -> str:
    fewest, most = (result.values(name) for name in ("fewest_uses", "most_uses"))
    return f"  ({median(fewest):,.0f} and {median(most):,.0f} uses)" if fewest and most else ""


def _spike(results: Sequence[Result]) -> Figure | None:
    found = _of(results, "spike", "opened")
    if not found:
        return None
    # From the top, in the order of the report.
    found.reverse()
    figure = new_figure(
        "A spike: 50 callers at once, 5 connections open, a handshake takes 150 ms, a use 2 ms",
        len(found),
    )
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{STYLES[r.contender].label}, {_at_once(r.point)}" for r in found]
    for axes, metric, label in (
        (left, "opened", "connections opened in total, including the first 5"),
        (right, "ms_to_serve_all", "time until all callers were served (ms)"),
    ):
        _bars(axes, found, metric, names, partial(_rounded, metric))
        axes.set_xlabel(label)
    return figure


def _rounded(metric: str, result: Result) -> str:
    return f"{median(result.values(metric)):,.0f}"


def _at_once(handshakes: int) -> str:
    return (
        "one handshake at a time" if handshakes == 1 else f"up to {handshakes} handshakes at a time"
    )


def _bars(
    axes: Axes,
    results: Sequence[Result],
    metric: str,
    names: Sequence[str],
    text: Callable[[Result], str],
) -> None:
    """Draw a bar for the median of each result, with quartiles and a label."""
    numbers = [spread(result.values(metric)) for result in results]
    bars = axes.barh(
        range(len(results)),
        [n["median"] for n in numbers],
        xerr=[
            [n["median"] - n["lower_quartile"] for n in numbers],
            [n["upper_quartile"] - n["median"] for n in numbers],
        ],
        color=[STYLES[result.contender].colour for result in results],
        height=0.65,
        capsize=3,
    )
    axes.bar_label(bars, [f" {text(result)}" for result in results], fontsize=9)
    axes.set_yticks(range(len(results)), names)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.15)


# -- helpers -------------------------------------------------------------------------------------


def new_figure(title: str, rows: int = 0) -> Figure:
    height = 1.8 + 0.34 * rows if rows else 5.0
    # With room for a line of text at the bottom.
    margin = 0.2 / height
    layout = ConstrainedLayoutEngine(rect=(0, margin, 1, 1 - margin), hspace=0.1)
    figure = Figure(figsize=(10, height), layout=layout)
    figure.suptitle(title, fontweight="bold", fontsize=12)
    return figure


def _of(results: Sequence[Result], scenario: str, metric: str = RATIO) -> list[Result]:
    return [r for r in results if r.scenario == scenario and r.values(metric)]


def _of_contender(results: Sequence[Result], contender: str) -> list[Result]:
    return [result for result in results if result.contender == contender]


def _contenders(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.contender for result in results))


PLOTS: Final[dict[str, Callable[[Sequence[Result]], Figure | None]]] = {
    "held": _held,
    "contended": _contended,
    "fairness": _fairness,
    "spike": _spike,
}
