"""Chooses the core: the compiled core if it was built, otherwise the plain-Python core.

A non-empty ``AIOWEBSOCKETCLIENT_NO_EXTENSIONS`` selects the plain-Python core.  At run time, only
this module reads the variable; ``setup.py`` reads it at build time.
"""

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Final

NO_EXTENSIONS: Final = bool(os.environ.get("AIOWEBSOCKETCLIENT_NO_EXTENSIONS"))


def _use_extension() -> bool:
    if NO_EXTENSIONS or sys.implementation.name != "cpython":
        return False
    # Without an extension, the wheel is pure Python. If an extension exists but fails to import,
    # the installation is broken: the error must be visible, instead of a silently slower library.
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
signature_of = _core.signature_of
spend = _core.spend
