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
    from . import _pool_py as _core
else:
    from . import _pool as _core

DONE = _core.DONE
IMPLEMENTATION = _core.IMPLEMENTATION
UNSET = _core.UNSET
Acquisition = _core.Acquisition
Caller = _core.Caller
Express = _core.Express
Handle = _core.Handle
Parkable = _core.Parkable
Plan = _core.Plan
Pool = _core.Pool
Route = _core.Route
SessionBase = _core.SessionBase
Slot = _core.Slot
Waiter = _core.Waiter
clock = _core.clock
ensure_room = _core.ensure_room
lend = _core.lend
spend = _core.spend
