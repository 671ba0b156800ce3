"""What every operation of a core does to the reference counts of what is given to it.

``refcounts.py c`` and ``refcounts.py py`` must print the same.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Singletons of CPython >= 3.12 are immortal: their counts say nothing there, and do no harm.
SINGLETONS = {"None": None, "True": True, "False": False, "()": ()}

WARM_UP, TIMES = 10, 160


class Conn:
    """Stands for a key: the core asks nothing of it."""


class Drive:
    """Walks a pool through its operations and notes the counts after each."""

    def __init__(self, core: Any, **limits: Any) -> None:
        self.pool = core.Pool(**limits)
        self.core = core
        self.now = 1.5
        self.endpoint = Conn()
        self.keys = [Conn() for _ in range(3)]
        self.conns = [core.Parkable() for _ in range(8)]
        self.slots: list[Any] = []
        self.waiters: list[Any] = []
        self.steps: list[tuple[str, list[int]]] = []

    def note(self, step: str) -> None:
        gc.collect()
        watched = (self.endpoint, *self.keys, *self.conns, *self.slots, *self.waiters)
        self.steps.append((step, [sys.getrefcount(thing) for thing in watched]))

    def do(self, name: str, *arguments: Any) -> Any:
        answer = getattr(self.pool, name)(*arguments)
        self.note(name)
        return answer

    def take(self, plan: Any) -> None:
        """Keep what a plan names, and let go of the plan."""
        if plan is None:
            return
        for slot in (*plan.opened, *plan.closing):
            if not any(slot is known for known in self.slots):
                self.slots.append(slot)

    def request(self, key: int, *, may_wait: bool = True) -> Any:
        waiter, plan = self.do("request", self.endpoint, self.keys[key], self.now, may_wait)
        self.take(plan)
        if waiter is not None:
            self.waiters.append(waiter)
        self.note("request taken")
        return waiter


def walk(core: Any) -> list[tuple[str, list[int]]]:
    drive = Drive(core, limit=2, limit_total=2, max_connecting=2, max_waiting=3, max_idle=10.0)
    pool, do = drive.pool, drive.do
    drive.note("made")
    # Refused, and without a place.
    drive.request(0, may_wait=False)
    # Opened for a waiter, and taken.
    first = drive.request(0)
    slot = drive.slots[0]
    slot.conn, slot.task = drive.conns[0], drive.conns[1]
    drive.note("conn set")
    drive.take(do("connected", slot, drive.now, 100.0))
    assert do("take", first) is slot
    assert do("take", first) is None
    # Released, acquired, released; errors of the two.
    assert do("release", slot, drive.now) is None
    for wrong in (slot, None):
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            pool.release(wrong, drive.now)
        drive.note("refused")
    assert do("acquire", drive.keys[0], drive.now) is slot
    assert do("acquire", drive.keys[0], drive.now) is None
    assert do("acquire", drive.keys[2], drive.now) is None
    # The line: of two handshakes, one that gives up, one that times out, one too many.
    waiters = [drive.request(number % 2) for number in range(1, 5)]
    assert drive.request(0) is None
    drive.take(do("give_up", waiters[2], drive.now, False))
    drive.take(do("give_up", waiters[2], drive.now, False))
    drive.take(do("give_up", waiters[3], drive.now, True))
    # Handed over; dead before it is taken; back in line; failed.
    drive.take(do("release", slot, drive.now))
    drive.take(do("discard", slot, 2, drive.now))
    drive.take(do("closed", slot, drive.now))
    drive.take(do("closed", slot, drive.now))
    for opened in list(drive.slots[1:]):
        if opened.state == 0:
            failed, plan = do("connect_failed", opened, drive.now)
            drive.take(plan)
            del plan, failed
            drive.note("failure taken")
    # Orphans, kept and not; adopted, given way, faded.
    opened = do("open", drive.endpoint, drive.keys[2], drive.now)
    if opened is not None:
        drive.slots.append(opened)
        do("abandon", opened, drive.now)
        drive.take(do("expire", drive.now + 50.0))
        drive.take(do("closed", opened, drive.now))
    opened = do("open", drive.endpoint, drive.keys[0], drive.now)
    drive.slots.append(opened)
    # Connected under another key.
    drive.take(do("connected", opened, drive.now, 1e9, drive.keys[1]))
    do("next_deadline")
    for look in ("gauges", "counters", "by_endpoint", "sizes", "slots"):
        do(look)
    assert do("open_count", drive.keys[1]) == 1
    assert do("spare_count", drive.keys[1], 9) == 1
    # Idle too long, looked for and found out.
    drive.request(1)
    drive.take(do("expire", drive.now + 20.0))
    drive.request(0)
    waiters_left, plan = do("shutdown", 5, drive.now)
    drive.take(plan)
    del waiters_left, plan
    for slot in drive.slots:
        drive.take(do("closed", slot, drive.now))
    del slot, opened, first, waiters, wrong
    assert len(pool) == 0
    pool = None
    drive.pool = None
    drive.note("pool dropped")
    drive.waiters.clear()
    drive.note("waiters dropped")
    drive.slots.clear()
    drive.note("slots dropped")
    return drive.steps


class Protocol:
    _paused = False


class Transport:
    _closing = False


class Loop:
    def is_running(self) -> bool:
        return True

    def create_future(self) -> Any:
        raise NotImplementedError


class Owner:
    """Stands for a session."""

    def __init__(self, express: Any, slot: Any, lend: Callable[..., Any]) -> None:
        self.express, self.slot, self.lend = express, slot, lend
        self.lost: list[bool] = []

    def _released(self, handle: Any, plan: Any) -> Any:
        return plan

    def _handle_lost(self, handle: Any) -> None:
        self.lost.append(handle._reused)

    async def _acquire(self, target: Any, acquire_timeout: float | None) -> Any:
        await Pause()
        return self.lend(self.express, self, self.slot)


class Pause:
    def __await__(self) -> Any:
        yield


def finish(step: Callable[..., Any], *arguments: Any) -> Any:
    """Take the step that ends a coroutine, and return what it returns, or the error's class."""
    try:
        step(*arguments)
    except StopIteration as stop:
        return stop.value
    except Exception as error:
        return type(error)
    raise AssertionError("it goes on")


@contextlib.contextmanager
def running(loop: Any) -> Iterator[None]:
    """Let a loop seem to run, also to CPython >= 3.12, which is asked which one does."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def walk_handles(core: Any) -> list[tuple[str, list[int]]]:
    """Do the same with what stands between a caller and the pool."""
    loop = Loop()
    with running(loop):
        return _walk_handles(core, loop)


def _walk_handles(core: Any, loop: Any) -> list[tuple[str, list[int]]]:
    pool, key = core.Pool(), Conn()

    class Response(core.Handle):  # type: ignore[misc, name-defined]
        pass

    conn = core.Parkable()
    conn.state = state = {"_waiting": False, "_close_code": None, "_closed": False}
    conn._buffer = buffer = []
    conn._background = set()
    conn._has_closing = True
    conn._transport = transport = Transport()
    conn._protocol = protocol = Protocol()
    conn._parser = parser = object()
    conn.busy = conn.closing = conn.failed = conn.gone = conn.parked = conn.resets = False
    waiter, _ = pool.request("endpoint", key, 0.0)
    slot = waiter.opening
    slot.conn = conn
    pool.connected(slot, 0.0)
    pool.take(waiter)
    del waiter, _
    express = core.Express(pool, Response)
    express.begin(loop, threading.get_ident())
    express.open = True
    owner = Owner(express, slot, core.lend)
    target = core.Route("endpoint", key)
    steps: list[tuple[str, list[int]]] = []
    watched = (pool, key, conn, state, buffer, protocol, parser, slot, express, owner)
    watched += (target, Response, transport, loop)

    def note(step: str) -> None:
        gc.collect()
        steps.append((step, [sys.getrefcount(thing) for thing in watched]))

    note("made")
    handle = core.lend(express, owner, slot)
    note("lent")
    assert handle.release() is core.DONE
    note("released")
    assert handle.release() is core.DONE
    note("released again")
    acquisition = core.Acquisition(express, owner, target, None)
    handle = finish(acquisition.send, None)
    note("acquired")
    assert finish(acquisition.send, None) is RuntimeError
    note("acquired again")
    buffer.append("unread")
    assert handle.release() is False
    note("refused")
    buffer.clear()
    assert acquisition.__aenter__() is acquisition
    assert acquisition.__aexit__(None, None, None) is core.DONE
    note("left")
    del acquisition, handle
    note("forgotten")
    # By way of the owner.
    express.open = False
    acquisition = core.Acquisition(express, owner, target, 1.0)
    acquisition.send(None)
    note("waiting")
    handle = finish(acquisition.send, None)
    note("served")
    del acquisition
    note("coroutine forgotten")
    del handle
    note("lost")
    assert owner.lost == [True]
    for end in ("throw", "close"):
        for begun in (False, True):
            acquisition = core.Acquisition(express, owner, target, 1.0)
            if begun:
                acquisition.send(None)
            if end == "throw":
                assert finish(acquisition.throw, LookupError()) is LookupError
            else:
                acquisition.close()
            note(end)
            del acquisition
            note("forgotten")
    assert list(core.DONE.__await__()) == []
    assert finish(core.DONE.send, None) is None
    assert finish(core.DONE.throw, LookupError()) is LookupError
    note("done")
    state["handle"] = core.lend(express, owner, slot)
    note("in its own attributes")
    core.spend(state.pop("handle"), {})
    note("spent")
    return steps


def blocks(work: Callable[[], object]) -> int:
    """Return how many blocks a piece of work leaves behind, when done many times over."""
    work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(TIMES):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before


def both(core: Any) -> list[tuple[str, list[int]]]:
    return walk(core) + walk_handles(core)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("core", choices=("c", "py"))
    core = importlib.import_module(
        f"aiowebsocketclient._pool{'_py' if parser.parse_args().core == 'py' else ''}"
    )
    # What is here already is not looked at by the many collections to come.
    gc.collect()
    gc.freeze()
    for _ in range(WARM_UP):
        both(core)
    things = SINGLETONS | {"DONE": core.DONE}
    counts = {name: sys.getrefcount(thing) for name, thing in things.items()}
    for _ in range(TIMES):
        both(core)
    drift = {name: sys.getrefcount(thing) - counts[name] for name, thing in things.items()}
    print(
        json.dumps(
            {
                "core": core.IMPLEMENTATION,
                "steps": both(core),
                "times": TIMES,
                "drift": drift,
                "blocks": blocks(lambda: both(core)),
            }
        )
    )


if __name__ == "__main__":
    main()
