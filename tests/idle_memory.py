"""Lists what idle connections consist of, by type, before and after aiohttp's rest is dropped.

    python -m tests.idle_memory --connections 10000

"Before" leaves out ``forget_handshake()`` of ``http_memory.py``.  The server is a process of its
own, and so is each measurement: the memory is that of the client alone.  Objects are found in the
heap before and after the connections were opened, and counted by type; for a built-in type, by the
type of the object that holds them.  ``sys.getsizeof()`` does not see all memory: attributes of
instances on CPython 3.11 and 3.12, and structures of C.  They are the difference between the sum
and what tracemalloc counts, "not in an object".  The resident memory is measured without
tracemalloc, in one more process.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, Final

import aiohttp

from aiowebsocketclient import IMPLEMENTATION, WebSocketClientSession, lifecycle
from bench.fleet import serving
from bench.timing import quiet
from bench.traced import rss

# Connections that are open before: for imports, caches and other objects that exist only once.
WARM_UP: Final = 200

# Objects of these types are told apart by their holders.
BUILT_IN: Final = (
    *(bytearray, bytes, dict, float, int, list, set, str, tuple),
    *(BuiltinMethodType, FunctionType, MethodType, partial),
)

# Types with fewer objects for each connection are summed up.
FEW: Final = 0.1

Sizes = dict[str, tuple[int, int]]


def name_of(thing: object) -> str:
    kind = type(thing)
    package = str(kind.__module__).partition(".")[0]
    return kind.__qualname__ if package == "builtins" else f"{package}.{kind.__qualname__}"


def sizes() -> Sizes:
    """Return the number and the bytes of all objects in the heap, by type."""
    gc.collect()
    found: dict[int, object] = {id(each): each for each in gc.get_objects()}
    holders: dict[int, object] = {}
    own = {id(found), id(holders)}
    pending = [each for key, each in found.items() if key not in own]
    own.add(id(pending))
    # It grows while it is read: the collector does not list objects like bytes.
    for holder in pending:
        for each in gc.get_referents(holder):
            key = id(each)
            if key in own:
                continue
            if key not in found:
                found[key] = each
                pending.append(each)
            known = holders.get(key)
            if known is None or (isinstance(known, BUILT_IN) and not isinstance(holder, BUILT_IN)):
                holders[key] = holder
    counts: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for each in found.values():
        label = name_of(each)
        if type(each) in BUILT_IN:
            label += f" of {name_of(owner_of(each, holders))}"
        counts[label] += 1
        total[label] += sys.getsizeof(each)
    return {label: (counts[label], total[label]) for label in counts}


def owner_of(thing: object, holders: dict[int, object]) -> object:
    """Return the nearest holder that is not of a built-in type."""
    for _ in range(4):
        thing = holders.get(id(thing))
        if type(thing) not in BUILT_IN:
            break
    return thing


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    async with serving(tls=options.tls) as (server, client_session):
        # Without TLS, the pool's own: only the other trusts the server.
        given = {"client_session": client_session, "client_session_owner": False}
        session = WebSocketClientSession(
            max_idle=None, max_idle_connections=None, **given if options.tls else {}
        )
        async with session:
            return await measure_opening(session, server.url, options)


async def measure_opening(
    session: WebSocketClientSession, url: str, options: argparse.Namespace
) -> dict[str, Any]:
    count = options.connections
    arguments = {"compress": options.compress} if options.compress else {}
    open_all = partial(session.prewarm, url, **arguments)
    await open_all(WARM_UP)
    await quiet()
    if options.measure == "resident":
        before = rss()
        await open_all(WARM_UP + count)
        await quiet()
        return {"resident": (rss() - before) / count}
    kinds = sizes()
    tracemalloc.start()
    await open_all(WARM_UP + count)
    await quiet()
    traced = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    more = {
        label: [(number - was[0]) / count, (size - was[1]) / count]
        for label, (number, size) in sizes().items()
        if (was := kinds.get(label, (0, 0)))[0] < number
    }
    return {"traced": traced, "kinds": more}


def ask(options: argparse.Namespace, kind: str, measured: str) -> Any:
    arguments = [*options.arguments, "--kind", kind, "--measure", measured]
    command = [sys.executable, "-m", "tests.idle_memory", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def table(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    nothing = [0.0, 0.0]
    rows = [
        (label, before["kinds"].get(label, nothing), after["kinds"].get(label, nothing))
        for label in before["kinds"].keys() | after["kinds"].keys()
    ]
    rows.sort(key=lambda row: (-row[1][1], -row[2][1], row[0]))
    few = [row for row in rows if max(row[1][0], row[2][0]) < FEW]
    rows = [row for row in rows if row not in few]
    rest = [[sum(row[side][part] for row in few) for part in (0, 1)] for side in (1, 2)]
    rows.append(("others", *rest))
    hidden = [
        found["traced"] - sum(size for _, size in found["kinds"].values())
        for found in (before, after)
    ]
    lines = [f"{'':<58} {'before':>15} {'after':>15}"]
    lines.append(f"{'type':<58} {'count':>7} {'bytes':>7} {'count':>7} {'bytes':>7}")
    lines += [
        f"{label:<58} {old[0]:7.2f} {old[1]:7,.0f} {new[0]:7.2f} {new[1]:7,.0f}"
        for label, old, new in rows
    ]
    for label, old, new in (
        ("not in an object", *hidden),
        ("allocated, by tracemalloc", before["traced"], after["traced"]),
        ("resident", before["resident"], after["resident"]),
    ):
        lines.append(f"{label:<58} {'':7} {old:7,.0f} {'':7} {new:7,.0f}")
    return lines


def main(options: argparse.Namespace) -> None:
    if options.kind:
        if options.kind == "before":
            lifecycle.forget_handshake = lambda ws: None
        if options.uvloop:
            import uvloop

            print(json.dumps(uvloop.run(measure(options))))
        else:
            print(json.dumps(asyncio.run(measure(options))))
        return
    options.arguments = sys.argv[1:]
    found = {
        kind: ask(options, kind, "objects") | ask(options, kind, "resident")
        for kind in ("before", "after")
    }
    print(
        f"For each of {options.connections:,} idle connections, CPython"
        f" {sys.version.split()[0]}, aiohttp {aiohttp.__version__}, core: {IMPLEMENTATION}\n"
    )
    print("\n".join(table(found["before"], found["after"])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.idle_memory", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--compress", type=int, default=0, help="window bits; default: none")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--kind", choices=("before", "after"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("objects", "resident"), help=argparse.SUPPRESS)
    main(parser.parse_args())
