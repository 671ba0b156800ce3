"""What ``python -m tests.fleet`` simulates, and the table of it."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from .simulation import Result, Setting

#: Callers come from the first moment on: after 5 uses, as many use connections as ever will.
ROWS: Final[dict[str, Setting]] = {
    "many": Setting("limit 10,000, load 15,000, uses 2 s", 1000, 10_000, 15_000, 2.0),
    "poor": Setting("limit 500, load 2,000, uses 2 s", 1000, 500, 2000, 2.0, seconds=60.0),
    "long": Setting(
        "limit 60,000, load 80,000, uses 20 s", 1000, 60_000, 80_000, 20.0, warmup=100.0
    ),
    "enough": Setting(
        "limit 100,000, load 80,000, uses 20 s", 1000, 100_000, 80_000, 20.0, warmup=100.0
    ),
    "killed": Setting(
        "limit 2,000, load 3,000, 20 killed, lease 10 s",
        200,
        2000,
        3000,
        2.0,
        lease=10.0,
        killed=20,
        seconds=30.0,
    ),
    "lossy": Setting(
        "20 % of calls lost, unanswered, late",
        20,
        200,
        300,
        2.0,
        failing=0.2,
        closes=True,
        seconds=60.0,
    ),
    "lossier": Setting(
        "30 % of calls lost, unanswered, late",
        30,
        200,
        400,
        2.0,
        failing=0.3,
        closes=True,
        seconds=60.0,
    ),
    "idle 1": Setting("75 % load, keep_idle 1", 20, 100, 75, 1.0, 60.0, keep_idle=1.0, seconds=60),
    "idle 0.25": Setting(
        "75 % load, keep_idle 0.25", 20, 100, 75, 1.0, 60.0, keep_idle=0.25, seconds=60
    ),
    "idle 0.05": Setting(
        "75 % load, keep_idle 0.05", 20, 100, 75, 1.0, 60.0, keep_idle=0.05, seconds=60
    ),
    "rate": Setting(
        "limit 1,000, load 800, connect_rate (100, 2.0)",
        100,
        1000,
        800,
        2.0,
        keep_idle=1.0,
        rate=(100, 2.0),
        warmup=80.0,
    ),
    "slow rate": Setting(
        "limit 200, load 300, connect_rate (300, 30.0)",
        50,
        200,
        300,
        5.0,
        keep_idle=1.0,
        rate=(300, 30.0),
        warmup=60.0,
        seconds=60.0,
    ),
    "like": Setting("limit 1,000, load 700, each likes 10", 100, 1000, 700, 2.0, like=10),
    "fallback": Setting(
        "limit 800, load 1,500, fallback 2 of 100", 100, 800, 1500, 2.0, fallback=2
    ),
}

COLUMNS: Final[dict[str, Callable[[Result], str]]] = {
    "simulated": lambda result: f"{result.setting.sessions:,}: {result.setting.title}",
    "peak": lambda result: f"{result.peak:,}" if result.holds else f"{result.peak:,} EXCEEDED",
    "unused while lacking": lambda result: f"{result.unused:.1%}",
    "calls/s": lambda result: f"{result.calls:,.0f}",
    "got / share p10, p50": lambda result: f"{result.p10:.2f}, {result.p50:.2f}",
    "wait p99": lambda result: f"{result.wait:.2f} s",
    "connects/s": lambda result: f"{result.connects:,.0f}",
    "in a window": lambda result: f"{result.window}" if result.setting.rate else "",
    "leases lost": lambda result: f"{result.losses}",
}


def table(results: Iterable[Result]) -> str:
    """Return a table in Markdown."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [[cell(result) for cell in COLUMNS.values()] for result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def scaled(setting: Setting, sessions: float) -> dict[str, Any]:
    """Return what changes for so many times as many sessions, with as much for each."""
    count = max(2, round(setting.sessions * sessions))
    times = count / setting.sessions
    return {
        "sessions": count,
        "limit": max(1, round(setting.limit * times)),
        "load": setting.load * times,
        "killed": round(setting.killed * times),
    }
