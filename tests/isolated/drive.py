"""Drives the compiled core at random, with the collector at work all the time; for the sanitizers.

It checks nothing itself but that all places come back: memory is watched from outside.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import sys
import types
from random import Random
from typing import Any

import canaries
import refcounts

ENDPOINTS, KEYS = 3, 3


class Driver:
    def __init__(self, core: Any, random: Random) -> None:
        limits = {
            "limit": random.choice((0, 1, 3)),
            "limit_total": random.choice((0, 2, 5)),
            "max_connecting": random.choice((0, 1, 2)),
            "max_waiting": random.choice((-1, 0, 4)),
            "max_idle": random.choice((5.0, 1e9)),
        }
        self.pool = core.Pool(**limits)
        self.parkable = core.Parkable
        self.random = random
        self.now = 0.0
        self.connecting: list[Any] = []
        self.acquired: list[Any] = []
        self.closing: list[Any] = []
        self.waiters: list[Any] = []

    def carry_out(self, plan: Any) -> None:
        if plan is None:
            return
        for slot in plan.opened:
            slot.task = [slot]
            self.connecting.append(slot)
        for slot in plan.closing:
            if slot in self.connecting:
                self.connecting.remove(slot)
            self.closing.append(slot)

    def draw(self, things: list[Any]) -> Any:
        return things.pop(self.random.randrange(len(things))) if things else None

    def key(self) -> tuple[int, int]:
        return self.random.randrange(ENDPOINTS), self.random.randrange(KEYS)

    def acquire(self) -> None:
        if (slot := self.pool.acquire(self.key(), self.now)) is not None:
            self.acquired.append(slot)

    def request(self) -> None:
        key = self.key()
        waiter, plan = self.pool.request(key[0], key, self.now, self.random.random() < 0.9)
        self.carry_out(plan)
        if waiter is not None:
            self.waiters.append(waiter)

    def take(self) -> None:
        if (waiter := self.draw(self.waiters)) is not None:
            if (slot := self.pool.take(waiter)) is not None:
                self.acquired.append(slot)
            elif self.random.random() < 0.3:
                late = self.random.random() < 0.5
                self.carry_out(self.pool.give_up(waiter, self.now, late))
            elif waiter.queued:
                self.waiters.append(waiter)

    def release(self) -> None:
        if (slot := self.draw(self.acquired)) is not None:
            self.carry_out(self.pool.release(slot, self.now))

    def connect(self) -> None:
        if (slot := self.draw(self.connecting)) is not None:
            if self.random.random() < 0.3:
                self.carry_out(self.pool.connect_failed(slot, self.now)[1])
                return
            slot.conn = conn = self.parkable()
            conn.state = {"slot": slot}
            retires = self.now + self.random.choice((3.0, 1e9))
            key = self.key() if self.random.random() < 0.2 else slot.key
            key = (slot.endpoint, key[1])
            moves = self.random.random() < 0.7
            self.carry_out(self.pool.connected(slot, self.now, retires, key, moves))

    def end(self) -> None:
        slots = self.acquired if self.random.random() < 0.5 else self.idle()
        if (slot := self.draw(slots)) is not None:
            self.carry_out(self.pool.discard(slot, self.random.randrange(8), self.now))
            self.closing.append(slot)

    def idle(self) -> list[Any]:
        return [slot for slot in self.pool.slots() if slot.state == 2]

    def closed(self) -> None:
        if (slot := self.draw(self.closing)) is not None:
            slot.conn = None
            self.carry_out(self.pool.closed(slot, self.now))

    def open(self) -> None:
        key = self.key()
        if (slot := self.pool.open(key[0], key, self.now)) is not None:
            self.connecting.append(slot)
            if self.random.random() < 0.5:
                self.pool.abandon(slot, self.now)

    def pass_time(self) -> None:
        self.now += self.random.random() * 4
        self.carry_out(self.pool.expire(self.now))
        self.pool.next_deadline()

    def look(self) -> None:
        for name in ("gauges", "counters", "by_endpoint", "sizes", "slots"):
            getattr(self.pool, name)()

    def run(self, steps: int) -> None:
        ways = (
            *(self.acquire, self.request, self.request, self.take, self.take, self.take),
            *(self.release, self.release, self.connect, self.connect, self.end, self.closed),
            *(self.closed, self.open, self.pass_time, self.look),
        )
        for _ in range(steps):
            self.random.choice(ways)()
        if self.random.random() < 0.5:
            # Dropped as it stands.
            return
        _, plan = self.pool.shutdown(5, self.now)
        self.carry_out(plan)
        for slot in self.pool.slots():
            self.pool.closed(slot, self.now)
        assert len(self.pool) == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", choices=("c", "py"), default="c")
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # The core alone: aiohttp would take most of the time.
    (path,) = importlib.util.find_spec("aiowebsocketclient").submodule_search_locations
    sys.modules["aiowebsocketclient"] = package = types.ModuleType("aiowebsocketclient")
    package.__path__ = [path]
    name = "_pool" if options.core == "c" else "_pool_py"
    core = importlib.import_module(f"aiowebsocketclient.{name}")
    gc.collect()
    gc.freeze()
    gc.set_threshold(50)
    refcounts.both(core)
    left = canaries.survivors(core)
    assert not left
    random = Random(options.seed)
    for _ in range(options.pools):
        Driver(core, random).run(options.steps)
    gc.collect()
    print(json.dumps({"core": core.IMPLEMENTATION, "file": core.__file__}))


if __name__ == "__main__":
    main()
