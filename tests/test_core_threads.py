"""What the core counts is read in one thread while another goes on, as a scrape does."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from aiowebsocketclient import _core, _lists, _pool_py, _records
from aiowebsocketclient._pool_py import CLOSE_REASONS, COUNTERS, GAUGES

LOST = CLOSE_REASONS.index("lost")
REQUESTS = COUNTERS.index("requests")
CLOSED = COUNTERS.index("closed_lost")
ENDPOINTS = GAUGES.index("endpoints")


def open_one(pool: Any, endpoint: str) -> Any:
    waiter, plan = pool.request(endpoint, endpoint + "/", 0.0)
    (slot,) = plan.opened
    pool.connected(slot, 0.0, sys.float_info.max, endpoint + "/")
    return pool.take(waiter)


def drop(pool: Any, slot: Any) -> None:
    """Let a connection go, and its endpoint with it."""
    pool.discard(slot, LOST, 0.0)
    pool.closed(slot, 0.0)


@contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_another_thread_reads_while_endpoints_come_and_go(core: ModuleType) -> None:
    pool = core.Pool()
    lasting = [open_one(pool, f"lasting{n}") for n in range(50)]
    errors: list[BaseException] = []
    seen: set[float] = set()
    done = threading.Event()

    def read() -> None:
        last: tuple[float, ...] = (0,) * len(COUNTERS)
        try:
            while not done.is_set():
                counters = pool.counters()
                assert all(a <= b for a, b in zip(last, counters, strict=True))
                assert 50 <= pool.gauges()[ENDPOINTS] <= 52
                assert 50 <= len(pool.by_endpoint()) <= 52
                last = counters
                seen.add(counters[REQUESTS])
        except BaseException as exc:
            errors.append(exc)

    reader = threading.Thread(target=read)
    with switching_often():
        reader.start()
        for n in range(100_000):
            drop(pool, open_one(pool, f"brief{n % 10}"))
            if errors or (n > 5_000 and len(seen) > 200):
                break
        done.set()
        reader.join()
    assert not errors, errors
    # It did look while they changed.
    assert len(seen) > 20
    assert pool.counters()[REQUESTS] == len(lasting) + n + 1


# -- every place where the threads may change, in the core that is stopped at any line -------------


def at_each_line(function: Any, act: Callable[[], object]) -> Callable[..., Any]:
    """Return what sys.settrace() is to be given for ``act`` to happen at each line of a function.

    It is called before the line, and when the function returns.
    """

    def local(frame: FrameType, event: str, arg: object) -> Any:
        if event in ("line", "return"):
            act()
        return local

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        return local if frame.f_code is function.__code__ else None

    return trace


@contextmanager
def tracing(function: Any, act: Callable[[], object]) -> Iterator[None]:
    # A debugger, or what measures coverage, has its own.
    before = sys.gettrace()
    sys.settrace(at_each_line(function, act))
    try:
        yield
    finally:
        sys.settrace(before)


def test_at_no_point_of_a_drop_is_an_endpoint_counted_twice_or_not_at_all() -> None:
    pool = _pool_py.Pool()
    open_one(pool, "lasting")
    slot = open_one(pool, "brief")
    seen = []

    def read() -> None:
        counters, endpoints = pool.counters(), set(pool.by_endpoint())
        gauges = pool.gauges()
        seen.append((counters[REQUESTS], counters[CLOSED], gauges[ENDPOINTS], len(endpoints)))

    with tracing(_pool_py.Pool._drop_dead, read):
        drop(pool, slot)
    read()
    assert {requests for requests, *_ in seen} == {2}
    assert {closed for _, closed, *_ in seen} == {1}
    shown = [(gauge, endpoints) for *_, gauge, endpoints in seen]
    assert shown == [(2, 2)] * shown.count((2, 2)) + [(1, 1)] * shown.count((1, 1))
    assert set(shown) == {(2, 2), (1, 1)}


def requests_read_while_one_goes(stop_at: int) -> tuple[float, bool]:
    """Drop an endpoint before a line of a reading; return it, and whether it had that line."""
    pool = _pool_py.Pool()
    open_one(pool, "lasting")
    slot = open_one(pool, "brief")
    lines = 0

    def drop_at_line() -> None:
        nonlocal lines
        lines += 1
        if lines == stop_at:
            drop(pool, slot)

    with tracing(_pool_py.Pool._records, drop_at_line):
        counters = pool.counters()
    return counters[REQUESTS], lines >= stop_at


def test_an_endpoint_that_goes_at_any_point_of_a_reading_is_counted_once() -> None:
    for line in range(1, 100):
        requests, was_reached = requests_read_while_one_goes(line)
        assert requests == 2
        if not was_reached:
            break
    assert 5 < line < 99


def test_no_counter_falls_between_two_lines() -> None:
    """Where another thread may read them."""
    pool = _pool_py.Pool(limit=2, limit_total=3, max_waiting=1)
    last: tuple[float, ...] = (0,) * len(COUNTERS)

    def read(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal last
        if frame.f_code.co_filename not in (_core.__file__, _lists.__file__, _records.__file__):
            return None
        sys.settrace(None)
        counters = pool.counters()
        assert all(a <= b for a, b in zip(last, counters, strict=True)), frame.f_code.co_name
        last = counters
        sys.settrace(read)
        frame.f_trace = read
        return read

    def use_all() -> None:
        prewarmed = pool.open("host", "host/", 0.0)
        assert prewarmed is not None
        pool.connected(prewarmed, 1.0)
        for now in (2.0, 3.0):
            assert pool.acquire("host/", now) is prewarmed
            assert pool.release(prewarmed, now) is None
        assert pool.acquire("host/", 4.0) is prewarmed
        second, plan = pool.request("host", "host/", 5.0)
        third, _ = pool.request("host", "host/", 6.0)
        fourth, _ = pool.request("host", "host/", 7.0)
        assert second is not None
        assert third is not None
        assert fourth is None
        pool.connect_failed(plan.opened[0], 8.0)
        pool.release(prewarmed, 9.0)
        slot = pool.take(third)
        assert slot is prewarmed
        timed, plan = pool.request("other", "other/", 10.0)
        assert timed is not None
        pool.give_up(timed, 11.0, True)
        pool.connected(plan.opened[0], 12.0)
        pool.detach(slot, 13.0)
        pool.expire(14.0)
        drop(pool, plan.opened[0])
        pool.request("gone", "gone/", 15.0, False)
        pool.shutdown(LOST, 16.0)

    sys.settrace(read)
    try:
        use_all()
    finally:
        sys.settrace(None)
    assert last[REQUESTS] == 8
    assert last[COUNTERS.index("reused")] == 3


def test_a_first_use_is_no_reuse(core: ModuleType) -> None:
    pool = core.Pool()
    slot = pool.open("host", "host/", 0.0)
    pool.connected(slot, 0.0)
    for uses in range(3):
        assert pool.acquire("host/", 1.0) is slot
        counters = dict(zip(COUNTERS, pool.counters(), strict=True))
        assert (counters["requests"], counters["reused"]) == (uses + 1, uses)
        pool.release(slot, 1.0)
