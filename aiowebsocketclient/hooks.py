"""Hooks: what a user has done to a connection at three moments of its life.

``configure`` runs once after the handshake, ``check`` before a pooled connection is handed out, and
``reset`` before a released one is pooled; the names and their meaning are psycopg_pool's.  When
they run, and what becomes of a connection whose hook fails, is decided in ``session.py``.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

from ._compat import Express, lend
from .exceptions import WebSocketPoolError, in_session
from .logs import is_debugging, log
from .typedefs import Hook

__all__ = (
    "NO_HOOKS",
    "Hook",
    "Hooks",
    "NotAsyncError",
    "hooks_of",
    "is_being_cancelled",
    "run_hook",
)


class Hooks(NamedTuple):
    """The hooks of a connection; those with other ones are not interchangeable with it."""

    configure: Hook[Any] | None = None
    check: Hook[Any] | None = None
    reset: Hook[Any] | None = None

    def __repr__(self) -> str:
        """Return which there are; the functions may be bound to anything."""
        names = [name for name, hook in zip(self._fields, self, strict=True) if hook is not None]
        return f"<Hooks({', '.join(names)})>"


NO_HOOKS: Final = Hooks()


class NotAsyncError(TypeError):
    """A hook is no async function, which shows only when it has been called."""

    def __init__(self, hook: Hook[Any]) -> None:
        super().__init__(
            f"{_name_of(hook)} was given as a hook, which must be async: write async def"
        )


def hooks_of(options: dict[str, Any], defaults: Hooks) -> Hooks:
    """Take the hooks out of the options of a call; those not given are the session's."""
    given = {name: options.pop(name) for name in Hooks._fields if name in options}
    for name, hook in given.items():
        if hook is not None and not callable(hook):
            raise TypeError(f"{name} must be an async function of one argument, or None")
        try:
            hash(hook)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, which {type(hook).__name__} is not: connections are told"
                " apart by their hooks"
            ) from None
    return defaults._replace(**given) if given else defaults


async def run_hook(name: str, express: Express, conn: Any, deadline: asyncio.Timeout) -> None:
    """Run a hook of ``conn`` on a handle that is good until the hook ends.

    What it raises is logged here: where nobody waits for a hook, nobody else would learn of it.
    A server that has let a hook run into its deadline, or fail unheard, gets little time for the
    closing handshake, as the place may be needed.
    """
    hook: Hook[Any] = getattr(conn.hooks, name)
    heard = conn.heard
    ws = lend(express, None, conn.slot)
    try:
        async with deadline:
            awaitable = hook(ws)
            if not isinstance(awaitable, Awaitable):
                raise NotAsyncError(hook)
            await awaitable
        if deadline.expired():
            # It went on although it was told to stop.
            raise TimeoutError
        if conn.state["_waiting"]:
            # It would take what is meant for the next user.
            said = "a hook left a receive() under way"
            raise WebSocketPoolError(in_session(express.session_name, said))
    except NotAsyncError:
        # Otherwise it would only show in that nothing is ever reused.
        log(
            "hook_not_async",
            session_name=express.session_name,
            hook=name,
            function=_name_of(hook),
        )
        raise
    except asyncio.CancelledError:
        if deadline.expired() or (conn.heard == heard and not is_being_cancelled()):
            conn.is_silent = True
        raise
    except Exception as exc:
        if deadline.expired() or conn.heard == heard:
            conn.is_silent = True
        # With a deadline in the past it was told to stop by who would have waited for it.
        if not conn.has_ended and deadline.when() != -math.inf:
            _log_failure(name, express, conn, exc)
        raise
    finally:
        ws._cut_off()
        conn.wake_pending_receive()
        # It knows its task, which keeps the exception, whose traceback keeps this frame.
        del deadline


def _log_failure(name: str, express: Express, conn: Any, error: Exception) -> None:
    log(
        "hook_failed",
        session_name=express.session_name,
        endpoint=str(conn.slot.endpoint),
        hook=name,
        function=_name_of(getattr(conn.hooks, name)),
        error=type(error).__name__,
        exc_info=error if is_debugging() else None,
    )


def _name_of(hook: Hook[Any]) -> str:
    name: str = getattr(hook, "__qualname__", type(hook).__name__)
    return name


def is_being_cancelled() -> bool:
    """Return whether a cancellation is the running task's own, not that of what a user awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
