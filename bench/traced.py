"""Memory of connections, to the byte.

tracemalloc counts what Python's allocators hand out, and the same is handed out in every run: two
contenders can be compared by a few bytes.  RSS goes by pages and by what the allocators keep for
later, and differs by some 100 bytes a connection from run to run; it is there as a check, since it
has what tracemalloc cannot see as well, OpenSSL's memory for one.
"""

import gc
from typing import Final

from .fleet import Fleet
from .scenario import LeftOut
from .timing import quiet

# Opened before anything is counted: imports, caches, and what there is once only.
_WARM_UP: Final = 200


def rss() -> int:
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError as exc:
        raise LeftOut("psutil is not installed") from exc
    found: int = psutil.Process().memory_info().rss
    return found


async def warm_up(fleet: Fleet) -> None:
    await fleet.open(_WARM_UP)
    await quiet()


async def traced_bytes(fleet: Fleet, count: int) -> float:
    """Open ``count`` more, and return the bytes of each."""
    try:
        import tracemalloc
    except ImportError as exc:
        raise LeftOut("this interpreter has no tracemalloc") from exc
    await quiet()
    tracemalloc.start()
    try:
        await fleet.open(count)
        await quiet()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


async def rss_bytes(fleet: Fleet, count: int) -> float:
    """Do the same by what the system says, roughly."""
    await quiet()
    before = rss()
    await fleet.open(count)
    await quiet()
    return (rss() - before) / count
