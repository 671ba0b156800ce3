"""Chooses the core: compiled where it was built, plain Python elsewhere or on demand.

The only reader of ``AIOWEBSOCKETCLIENT_NO_EXTENSIONS`` at run time (``setup.py`` reads it at build
time).  Set and not empty, it asks for the plain-Python core.
"""

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Final

NO_EXTENSIONS: Final = bool(os.environ.get("AIOWEBSOCKETCLIENT_NO_EXTENSIONS"))


def _use_extension() -> bool:
    if NO_EXTENSIONS or sys.implementation.name != "cpython":
        return False
    # An absent extension is a wheel without one. One that is there and fails to import is a broken
    # installation: that error must be seen, not turned into a slower library.
    return importlib.util.find_spec("aiowebsocketclient._pool") is not None


if TYPE_CHECKING or not _use_extension():
    from ._pool_py import (
        DONE,
        IMPLEMENTATION,
        UNSET,
        Acquisition,
        Caller,
        Express,
        Handle,
        Parkable,
        Plan,
        Pool,
        Route,
        SessionBase,
        Slot,
        Waiter,
        clock,
        ensure_room,
        lend,
        spend,
    )
else:
    from ._pool import (
        DONE,
        IMPLEMENTATION,
        UNSET,
        Acquisition,
        Caller,
        Express,
        Handle,
        Parkable,
        Plan,
        Pool,
        Route,
        SessionBase,
        Slot,
        Waiter,
        clock,
        ensure_room,
        lend,
        spend,
    )

__all__ = (
    "DONE",
    "IMPLEMENTATION",
    "NO_EXTENSIONS",
    "UNSET",
    "Acquisition",
    "Caller",
    "Express",
    "Handle",
    "Parkable",
    "Plan",
    "Pool",
    "Route",
    "SessionBase",
    "Slot",
    "Waiter",
    "clock",
    "ensure_room",
    "lend",
    "spend",
)
