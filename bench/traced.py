"""Memory of connections, to the byte.

tracemalloc counts the memory of Python's allocators, which is the same in every run: contenders can
be compared to a few bytes.  RSS depends on pages and on memory that the allocators keep, and varies
by about 100 bytes per connection from run to run.  It serves as a check, because it includes memory
that tracemalloc does not see, such as that of OpenSSL.
"""

import gc
from typing import Final

from .fleet import Fleet
from .scenario import LeftOut
from .timing import quiet

# Connections to open before counting, for imports, caches and other objects that exist only once.
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
    """Open ``count`` more connections, and return the bytes per connection."""
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
    """Do the same with the RSS of the process, which is less precise."""
    await quiet()
    before = rss()
    await fleet.open(count)
    await quiet()
    return (rss() - before) / count
