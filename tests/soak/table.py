"""The table of one or several runs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

Result = dict[str, Any]


def _number(*path: str) -> Callable[[Result], str]:
    def number(result: Result) -> str:
        value: Any = result
        for name in path:
            value = value.get(name, 0)
        return f"{value:,}"

    return number


def _restarts(result: Result) -> str:
    servers = result["servers"]
    kill, stop, freeze = (servers.get(name, 0) for name in ("kill", "stop", "freeze"))
    return f"{kill} / {stop} / {freeze}"


def _ended(result: Result) -> str:
    servers = result["servers"]
    return f"{result['counts'].get('sockets shut down', 0):,} / {servers['aborts']:,}"


def _peaks(result: Result) -> str:
    fixed = {name: peak for name, peak in result["peaks"].items() if not peak["resized"]}
    return ", ".join(f"{peak['peak']}/{peak['limit']}" for peak in fixed.values())


def _peaks_total(result: Result) -> str:
    fixed = [p for p in result["peaks"].values() if not p["resized"] and p["limit_total"]]
    return ", ".join(f"{peak['peak_total']}/{peak['limit_total']}" for peak in fixed)


def _memory(result: Result) -> str:
    return f"{result['rss']['half'] >> 20} / {result['rss']['end'] >> 20} MB"


def _failed(*names: str) -> Callable[[Result], str]:
    return lambda result: str(sum(result["failures"][name] for name in names))


_ROWS: Final[Sequence[tuple[str, Callable[[Result], str]]]] = (
    ("Loop", lambda result: str(result["loop"])),
    ("Core", lambda result: str(result["core"])),
    ("Seconds", _number("seconds")),
    ("Callers at once", _number("callers")),
    ("Acquisitions", _number("acquisitions")),
    ("Replies checked", _number("counts", "replies")),
    ("Connections opened", _number("connects")),
    ("Cancellations", _number("counts", "cancellations")),
    ("Faults tried, all kinds together", _number("faults")),
    ("Timeouts and rejections of the pool", lambda r: f"{_refused(r):,}"),
    ("Servers killed / stopped / frozen", _restarts),
    ("Sockets shut down by clients / aborted by servers", _ended),
    ("Closed by servers", _number("servers", "closes")),
    ("Unsolicited messages", _number("servers", "unsolicited")),
    ("Protocol errors", _number("servers", "garbage")),
    ("Slow readers", _number("counts", "slow readers")),
    ("Handles lost", _number("counts", "lost handles")),
    ("Handshakes failed", _number("pool", "connect_errors")),
    ("Resizes", _number("counts", "resizes")),
    ("Drains", _number("counts", "drains")),
    ("Connections detached", _number("counts", "detached")),
    ("Sessions closed in full use", _number("counts", "sessions remade")),
    ("Peak per endpoint / limit", _peaks),
    ("Peak of all endpoints / limit_total", _peaks_total),
    ("Memory half way / at the end", _memory),
    ("Wrong replies", _failed("wrong replies")),
    ("Idle connections dead or with a message unread", _failed("dead or unclean")),
    ("Limits exceeded", _failed("limits exceeded")),
    ("Lost places", _failed("lost places")),
    ("Lost waiters", _failed("lost waiters")),
    (
        "Leaked tasks, file descriptors, objects, memory",
        _failed("leaked tasks", "leaked fds", "leaked objects", "growing memory"),
    ),
    (
        "Counters that do not add up, unexpected errors and warnings",
        _failed("sums that are wrong", "unexpected errors", "unexpected warnings"),
    ),
)


def _refused(result: Result) -> int:
    pool = result["pool"]
    return int(pool.get("timeouts", 0) + pool.get("rejected", 0))


def _rows(results: Sequence[Result]) -> list[list[str]]:
    return [[name, *(show(result) for result in results)] for name, show in _ROWS]


def as_text(results: Sequence[Result]) -> str:
    rows = _rows(results)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def as_rst(results: Sequence[Result]) -> str:
    lines = [".. list-table::", "   :stub-columns: 1", ""]
    for row in _rows(results):
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}")
    return "\n".join(lines)
