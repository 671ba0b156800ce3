"""Cycles through every object of a core that can be in one: the cyclic collector must take them.

``canaries.py c`` or ``canaries.py py``; prints what was not collected, and long lists of nodes are
dropped on a thread whose stack would not bear a recursion.
"""

import argparse
import gc
import importlib
import json
import threading
import weakref
from typing import Any

NODES = 20_000
STACK = 64 * 1024


class Canary:
    """Something to hang into a cycle, with a weak reference and a way back."""

    back: Any = None
    # Where it stands for a loop.
    create_future: Any = None


def cycles(core: Any) -> dict[str, Any]:
    """Return a cycle of each kind, by one object of it."""

    class Response(core.Handle):  # type: ignore[misc, name-defined]
        pass

    class Connection(core.Parkable):  # type: ignore[misc, name-defined]
        """As that of the package."""

    class Stepping:
        """An owner whose way of acquiring waits."""

        canary: Any

        async def _acquire(self, target: Any, acquire_timeout: Any) -> Any:
            await Waiting()

        def _handle_lost(self, handle: Any) -> None:
            self.lost = handle

    class Waiting:
        def __await__(self) -> Any:
            yield

    made: dict[str, Any] = {}

    def canary(name: str) -> Any:
        made[name] = Canary()
        return made[name]

    def pool_with_slot() -> tuple[Any, Any, Any]:
        pool = core.Pool()
        waiter, _ = pool.request("endpoint", Canary(), 0.0)
        slot = waiter.opening
        pool.connected(slot, 0.0)
        return pool, slot, waiter

    pool, slot, _ = pool_with_slot()
    slot.conn = conn = Connection()
    conn.state = {"slot": slot, "canary": canary("Slot.conn")}
    pool, slot, _ = pool_with_slot()
    slot.task = canary("Slot.task")
    slot.task.back = slot
    pool, _, waiter = pool_with_slot()
    key = canary("Waiter.handshake")
    key.back = pool.request("endpoint", key, 0.0)[0]
    caller = core.Caller()
    caller.future = canary("Caller")
    caller.future.back = caller
    # Through the pool, its dictionaries, heaps and lists.
    pool = core.Pool(limit=2, limit_total=2)
    thing = canary("Pool")
    thing.back = pool
    for number in range(6):
        pool.request((f"endpoint {number % 2}", thing), ("key", number % 3), 0.0)
    pool = core.Pool()
    key = canary("key")
    key.back = pool
    opened = pool.open(key, (key, 1), 0.0)
    pool.connected(opened, 0.0)
    plan = core.Plan()
    plan.opened.append(plan)
    plan.closing.append(canary("Plan"))
    conn = Connection()
    conn._transport = conn
    conn._protocol = canary("Parkable")
    conn.state = {"conn": conn}
    # Slot and connection, parked, as in the package.
    pool, slot, _ = pool_with_slot()
    slot.conn = conn = Connection()
    conn.state = {"": conn}
    conn._buffer = (slot, canary("Slot and Parkable"))
    express = core.Express(pool, Response)
    express.begin(canary("Express"), 0)
    express_pool = core.Pool()
    express_pool.request("endpoint", (express_pool, made["Express"]), 0.0)
    made["Express"].back = express
    # Handles that never told anybody, and one that is in its own attributes.
    handle = Response()
    handle.itself = handle
    handle.canary = canary("Handle")
    pool, slot, waiter = pool_with_slot()
    pool.take(waiter)
    slot.conn = conn = core.Parkable()
    conn.parked = False
    conn.state = {"canary": canary("lent handle")}
    owner = Stepping()
    handle = core.lend(core.Express(pool, Response), owner, slot)
    conn.state["handle"] = handle
    # Coroutines that have begun, and are never ended.
    for step in ("send", "throw"):
        owner = Stepping()
        owner.canary = canary(f"Acquisition.{step}")
        express = core.Express(core.Pool(), Response)
        acquisition = core.Acquisition(express, owner, core.Route("endpoint", ("key", owner)), None)
        owner.back = acquisition  # type: ignore[attr-defined]
        acquisition.send(None)
    owner = Stepping()
    owner.canary = canary("Acquisition, begun otherwise")
    acquisition = core.Acquisition(express, owner, core.Route("endpoint", ("key", owner)), None)
    owner.steps = acquisition.__await__()  # type: ignore[attr-defined]
    owner.steps.send(None)
    acquisition.close()
    owner.back = acquisition
    return made


def survivors(core: Any) -> list[str]:
    watched = {name: weakref.ref(thing) for name, thing in cycles(core).items()}
    for _ in range(3):
        gc.collect()
    return [name for name, thing in watched.items() if thing() is not None]


def drop_long_lists(core: Any) -> None:
    """Drop, all at once, as many idle slots, opening ones, waiters: by count and by collector."""
    for limit in (0, 1):
        pool = core.Pool(limit=limit)
        for number in range(NODES):
            pool.request("endpoint", number % 2, 0.0)
        del pool
        gc.collect()
    for how in ("collected", "shut down", "expired"):
        pool = core.Pool(max_idle=10.0)
        for slot in [pool.open("endpoint", "key", 0.0) for _ in range(NODES)]:
            pool.connected(slot, 0.0)
        del slot
        if how == "expired":
            pool.expire(20.0)
        elif how == "shut down":
            pool.shutdown(0, 0.0)
        del pool
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("core", choices=("c", "py"))
    core = importlib.import_module(
        f"aiowebsocketclient._pool{'_py' if parser.parse_args().core == 'py' else ''}"
    )
    left = survivors(core)
    threading.stack_size(STACK)
    thread = threading.Thread(target=drop_long_lists, args=(core,))
    thread.start()
    thread.join()
    print(json.dumps({"core": core.IMPLEMENTATION, "survivors": left}))


if __name__ == "__main__":
    main()
