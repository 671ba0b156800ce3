"""What the core asks of C where it is compiled, for the interpreter, and what both cores share."""

import asyncio
from asyncio.events import _get_running_loop
from collections.abc import Coroutine, Iterator
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final, NoReturn


class Completion(Coroutine[Any, Any, None]):
    """The result of ``release()`` and ``drain()``: several tasks can await it, more than once.

    Nobody has to await it, since the calls take effect at once; so type checkers do not treat it as
    a coroutine that must be awaited.
    """

    __slots__ = ()


class Done(Completion):
    """A completion that is complete from the start."""

    __slots__ = ()

    def __await__(self) -> Iterator[Any]:  # type: ignore[override]
        return _NO_STEPS

    def send(self, value: Any) -> Any:
        """End at once."""
        raise StopIteration

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """End with what is thrown."""
        try:
            raise typ if val is None else val
        finally:
            # Its traceback has this frame.
            del typ, val

    def close(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        """Return the same as other completions do once they are complete."""
        return "<Completion done>"


# Used up, as an iterator over nothing is from the start.
_NO_STEPS: Final[Iterator[Any]] = iter(())

#: What ``release()`` returns for a connection that is pooled.
DONE: Final = Done()


def finalize_quickly(_cls: type) -> None:
    """Let C tell a spent handle from a lost one before it calls ``__del__``."""


#: Whether a value of a dict is true.  In C, this costs less than to get the value.
is_on: Final = dict.__getitem__

#: The number of items of a dict of any kind.  C reads it where an ``OrderedDict`` has to be called.
size: Final = len

#: What the session asks for the time.  Tools that freeze the time of tests (freezegun) replace each
#: attribute of a module that is the function itself; sockets and servers do not stand still.
clock: Final = partial(monotonic)

#: What is asked at each acquisition and release.  C has a cheaper clock, which may be some
#: milliseconds behind, but not behind what the other has said.
coarse_clock: Final = clock

current_thread: Final = get_ident

#: The loop that runs in this thread, or None.  C calls the function of C behind it.
running_loop: Final = _get_running_loop


def make_future(options: dict[str, Any]) -> asyncio.Future[None]:
    """Return a future; C need not copy the options."""
    return asyncio.Future(**options)


#: How many frames below the recursion limit an operation needs: from its call to the last of what
#: it asks of asyncio, in debug mode too.
ROOM: Final = 64


def ensure_room(frames: int = ROOM) -> None:
    """Raise ``RecursionError`` where an operation might fail half way, before it has begun."""
    if frames:
        ensure_room(frames - 1)


class _Unset:
    """The value of an argument that was not given, where None has a meaning."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "..."


UNSET: Final[Any] = _Unset()


class _NoHeaders:
    """The headers of a session until its constructor has run."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise RuntimeError(
            "the session was not initialized: the __init__() of a subclass must call"
            " super().__init__()"
        )


NO_HEADERS: Final = _NoHeaders()
