"""Hooks: functions of the user that run at three moments in the life of a connection.

``configure`` runs once after the handshake, ``check`` before a pooled connection is handed out, and
``reset`` before a released connection is pooled.  Names and meaning are those of psycopg_pool.
The session decides when hooks run, and what happens to a connection whose hook fails.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple, Protocol

from ._compat import Express, Slot, lend
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
    """The hooks of a connection; connections with different hooks are not interchangeable."""

    configure: Hook[Any] | None = None
    check: Hook[Any] | None = None
    reset: Hook[Any] | None = None

    def __repr__(self) -> str:
        """Return the names of the hooks; the functions may be bound to secrets."""
        names = [name for name, hook in zip(self._fields, self, strict=True) if hook is not None]
        return f"<Hooks({', '.join(names)})>"


NO_HOOKS: Final = Hooks()


class NotAsyncError(TypeError):
    """A hook is not an async function; this shows only when the hook is called."""

    def __init__(self, hook: Hook[Any]) -> None:
        super().__init__(f"the hook {_name_of(hook)} must be async: define it with async def")


def hooks_of(options: dict[str, Any], defaults: Hooks) -> Hooks:
    """Remove the hooks from the options of a call; ``defaults`` has those of the session."""
    given = {name: options.pop(name) for name in Hooks._fields if name in options}
    for name, hook in given.items():
        if hook is not None and not callable(hook):
            raise TypeError(
                f"{name} must be an async function of one argument, or None,"
                f" not {type(hook).__name__}"
            )
        try:
            hash(hook)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, not {type(hook).__name__}: the pool compares the hooks"
                " of connections"
            ) from None
    return defaults._replace(**given) if given else defaults


class Hooked(Protocol):
    """What ``run_hook()`` needs of a connection."""

    hooks: Hooks
    slot: Slot
    #: Its instance dictionary.
    state: dict[str, Any]
    #: When something came last.
    heard: float
    #: Whether a hook has failed for want of an answer.
    is_silent: bool

    @property
    def has_ended(self) -> bool:
        """Whether the server or the network has ended it."""
        ...

    def wake_pending_receive(self) -> None:
        """End a ``receive()`` that still runs."""


async def run_hook(name: str, express: Express, conn: Hooked, deadline: asyncio.Timeout) -> None:
    """Run a hook of ``conn`` on a handle that is valid until the hook ends.

    Exceptions of the hook are logged here, because nobody may be waiting for the hook.  If the hook
    ran into its deadline, or failed without hearing from the server, the closing handshake gets
    little time, because a caller may need the place.
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
            # The hook ignored its cancellation.
            raise TimeoutError
        if conn.state["_waiting"]:
            # That receive() would take a message of the next user.
            said = f"the hook {_name_of(hook)} returned while a receive() was still under way"
            raise WebSocketPoolError(in_session(express.session_name, said))
    except NotAsyncError:
        # Without this error, the only symptom would be that no connection is ever reused.
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
        # A deadline in the past: the caller that waited for the hook has stopped it.
        if not conn.has_ended and deadline.when() != -math.inf:
            _log_failure(name, express, conn, exc)
        raise
    finally:
        ws._cut_off()
        conn.wake_pending_receive()
        # It refers to its task, which keeps the exception, whose traceback keeps this frame.
        del deadline


def _log_failure(name: str, express: Express, conn: Hooked, error: Exception) -> None:
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
    """Return whether the running task itself is cancelled, not something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
