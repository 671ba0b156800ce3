"""The core in plain Python: the fallback, and what the compiled core is compared with.

Both have one source but for what C does in its own way: a caller's first steps, which here are an
``Acquisition`` and a ``SessionBase`` in Python.
"""

import warnings
from collections.abc import Coroutine, Generator, Hashable
from typing import Any, Final, Self

from ._core import (
    LATE_FACTOR,
    LATE_FLOOR,
    MAX_PASSED_OVER,
    NO_LIMIT,
    ORPHAN_GRACE,
    Pool,
)
from ._lending import (
    BETWEEN_FRAMES,
    IN_CONTROL_FRAME,
    IN_MESSAGE,
    Caller,
    Express,
    Handle,
    Holder,
    Lender,
    Parkable,
    is_seconds,
    lend,
    signature_of,
    spend,
)
from ._plain import DONE, NO_HEADERS, ROOM, UNSET, Completion, clock, ensure_room
from ._records import (
    ACQUIRED,
    CLOSE_REASONS,
    CLOSING,
    CONNECTING,
    COUNTERS,
    FIRST_PATIENCE,
    GAUGES,
    GONE,
    IDLE,
    Plan,
    Route,
    Slot,
    Waiter,
)

__all__ = (
    "ACQUIRED",
    "BETWEEN_FRAMES",
    "CLOSE_REASONS",
    "CLOSING",
    "CONNECTING",
    "COUNTERS",
    "DONE",
    "FIRST_PATIENCE",
    "GAUGES",
    "GONE",
    "IDLE",
    "IN_CONTROL_FRAME",
    "IN_MESSAGE",
    "LATE_FACTOR",
    "LATE_FLOOR",
    "MAX_PASSED_OVER",
    "NO_HEADERS",
    "NO_LIMIT",
    "ORPHAN_GRACE",
    "ROOM",
    "UNSET",
    "Acquisition",
    "Caller",
    "Completion",
    "Express",
    "Handle",
    "Holder",
    "Lender",
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
    "signature_of",
    "spend",
)

IMPLEMENTATION: Final = "py"

_ONLY_ONCE: Final = (
    "the result of ws_connect() can be awaited only once: call it again for each use"
)


class Acquisition(Coroutine[Any, Any, Any]):
    """What ``ws_connect`` returns: a coroutine to asyncio, and an asynchronous context manager.

    It goes by :class:`Express` where that is usable; for all else it runs the owner's ``_acquire``.
    """

    __slots__ = (
        "_acquire_timeout",
        "_begun",
        "_express",
        "_handle",
        "_owner",
        "_route",
        "_steps",
    )

    def __init__(
        self, express: Express | None, owner: Lender, route: Route, acquire_timeout: float | None
    ) -> None:
        # None: hooks run on the connection before it goes out or after it comes back.
        self._express = express
        self._owner = owner
        self._route = route
        self._acquire_timeout = acquire_timeout
        self._begun = False
        self._handle: Any = None
        self._steps: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._begun:
            raise RuntimeError(_ONLY_ONCE)
        self._begun = True
        if self._express is not None and self._express.is_usable():
            handle = self._express.acquire(self._owner, self._route)
            if handle is None:
                caller = self._express.line_up(self._owner, self._route, self._acquire_timeout)
                waits = self._express.wait(self._owner, caller, self._acquire_timeout)
                handle = yield from waits.__await__()
        else:
            asks = self._owner._acquire(self._route, self._acquire_timeout)
            handle = yield from asks.__await__()
        self._handle = handle
        return handle

    @property
    def __name__(self) -> str:
        # For the repr of tasks.
        return "ws_connect"

    def _find_steps(self) -> Any:
        """Return what is stepped by hand, unless this has ended."""
        if self._steps is None and not self._begun:
            self._steps = self.__await__()
        # A generator that has ended would say that it returns None.
        if self._steps is None or self._steps.gi_frame is None:
            raise RuntimeError(_ONLY_ONCE)
        return self._steps

    def send(self, value: Any) -> Any:
        """Step it, as ``asyncio.Task`` does."""
        return self._find_steps().send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Throw into it, as ``asyncio.Task`` does on cancellation."""
        steps = self._find_steps()
        self._begun = True
        try:
            return steps.throw(typ if val is None else val)
        finally:
            # It comes out again, and its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """End it where it stands, or before it began."""
        self._begun = True
        if self._steps is not None:
            self._steps.close()

    def __aenter__(self) -> Self:
        return self

    def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        if exc_type is None and self._express is not None and self._express.plain_exit:
            return self._handle.release()
        return self._handle.__aexit__(exc_type, exc_val, exc_tb)

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn("ws_connect() was never awaited", RuntimeWarning, stacklevel=2)


class SessionBase:
    """The call that acquires a connection, where all that it needs is known already.

    The rest of a session is Python, and is asked where something is not.
    """

    # The rest has a value before there is one.
    __slots__ = ("_atoms", "_express", "_loop", "_targets")

    _acquire_timeout: float | None = None
    # The types of arguments that are known by their hash.
    _atoms: frozenset[type]
    # The way of calls without hooks.
    _express: Express
    _loop: Any
    # Targets of calls, by what tells these from each other.
    _targets: Any
    # Those of the client session, which may be changed at any time; and whether it has had some.
    _default_headers: Any = NO_HEADERS
    _watches_headers: bool = False

    def ws_connect(
        self,
        url: Any,
        *,
        reuse_key: Hashable = None,
        acquire_timeout: float | None = UNSET,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Acquire a connection, as is declared at the session."""
        this: Any = self
        if acquire_timeout is UNSET:
            acquire_timeout = self._acquire_timeout
        elif not is_seconds(acquire_timeout):
            this._check_timeout(acquire_timeout)
        if self._watches_headers or self._default_headers:
            this._forget_stale_targets()
        if options or reuse_key is not None:
            signature = signature_of(url, reuse_key, options, self._atoms)
        else:
            signature = url if type(url) is str or type(url) in self._atoms else None
        try:
            route = None if signature is None else self._targets.get(signature)
        except TypeError:
            # Something in it has no hash.
            signature = route = None
        if route is None:
            route = this._resolve_anew(signature, url, options, reuse_key)
        express = self._express if route.is_direct else None
        return Acquisition(express, this, route, acquire_timeout)
