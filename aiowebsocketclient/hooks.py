"""Hooks: what the user wants done with a connection that no caller uses.

``configure`` runs once after the handshake, ``check`` before a pooled connection is handed out, and
``reset`` before a released connection is pooled.  Names and meaning are those of psycopg_pool.
``on_idle_message`` judges messages that come while a connection is idle, ``keepalive`` is sent over
idle connections (``keepalive.py``), and ``goodbye`` before the pool closes a connection.
The session decides when hooks run, and what happens to a connection whose hook fails.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import aiohttp
from aiohttp import WSMsgType

from . import arguments
from ._compat import Express, Slot, lend
from .arity import check_arity, name_of
from .exceptions import WebSocketPoolError, in_session
from .logs import is_debugging, log
from .typedefs import Hook, IdleMessageHook, Keepalive

__all__ = (
    "NO_HOOKS",
    "Frame",
    "Hook",
    "Hooks",
    "NotAsyncError",
    "frame_of",
    "hooks_of",
    "is_being_cancelled",
    "judge",
    "run_behind",
    "run_hook",
)

#: The payload of a frame, and its opcode.
Frame = tuple[bytes, WSMsgType]


class Hooks(NamedTuple):
    """The hooks of a connection; connections with different hooks are not interchangeable."""

    configure: Hook[Any] | None = None
    check: Hook[Any] | None = None
    reset: Hook[Any] | None = None
    on_idle_message: IdleMessageHook | None = None
    keepalive: Keepalive[Any] | None = None
    goodbye: str | bytes | None = None

    def function(self, name: str) -> Hook[Any]:
        """Return the async function of a hook that is set."""
        hook: Any = getattr(self, name)
        function: Hook[Any] = hook[1] if name == "keepalive" else hook
        return function

    @property
    def holds_back(self) -> bool:
        """Whether idle connections may be busy, or inside a message, without being closed."""
        return self.keepalive is not None or self.on_idle_message is not None

    def __repr__(self) -> str:
        """Return the names of the hooks; the functions may be bound to secrets."""
        names = [name for name, hook in zip(self._fields, self, strict=True) if hook is not None]
        return f"<Hooks({', '.join(names)})>"


NO_HOOKS: Final = Hooks()


class NotAsyncError(TypeError):
    """A hook is not an async function; this shows only when the hook is called."""

    def __init__(self, hook: Hook[Any], result: object) -> None:
        #: What to do if the hook has returned a function.
        self.detail = ""
        if callable(result):
            self.detail = (
                f", or pass {name_of(hook)}(...), with parentheses, if it returns the hook"
            )
        said = f"the hook {name_of(hook)} must be async: define it with async def"
        super().__init__(said + self.detail)


def hooks_of(options: dict[str, Any], defaults: Hooks) -> Hooks:
    """Remove the hooks from the options of a call; ``defaults`` has those of the session."""
    given = {name: options.pop(name) for name in Hooks._fields if name in options}
    for name, hook in given.items():
        if hook is not None:
            given[name] = _VALIDATORS.get(name, _function)(name, hook)
    return defaults._replace(**given) if given else defaults


def _function(name: str, hook: Any) -> Any:
    if not callable(hook):
        raise TypeError(
            f"{name} must be an async function of one argument, or None, not {type(hook).__name__}"
        )
    check_arity(name, hook, "the connection")
    return _hashable(name, hook)


def _hashable(name: str, hook: Any) -> Any:
    try:
        hash(hook)
    except TypeError:
        raise TypeError(
            f"{name} must be hashable, not {type(hook).__name__}: the pool compares the hooks"
            " of connections"
        ) from None
    return hook


def _plain_function(name: str, hook: Any) -> Any:
    if not callable(hook):
        raise TypeError(
            f"{name} must be a function of one argument, or None, not {type(hook).__name__}"
        )
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
        raise TypeError(
            f"{name} must be an ordinary function, not an async function: it returns the answer"
        )
    check_arity(name, hook, "the message")
    return _hashable(name, hook)


def _keepalive(name: str, value: Any) -> Any:
    if not isinstance(value, tuple) or len(value) != 2:
        given = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
        raise TypeError(
            f"{name} must be (seconds, message or hook), such as (5.0, '{{}}'), or None,"
            f" not {given}"
        )
    seconds = arguments.interval(f"the seconds of {name}", value[0])
    word = value[1]
    if not isinstance(word, str | bytes) and not callable(word):
        raise TypeError(
            f"the second part of {name} must be a str, bytes or an async function of one argument,"
            f" not {type(word).__name__}"
        )
    if isinstance(word, str):
        _message(name, word)
    elif not isinstance(word, bytes):
        check_arity(f"the hook of {name}", word, "the connection")
    return seconds, _hashable(f"the hook of {name}", word)


def _message(name: str, value: Any) -> Any:
    if not isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a str, bytes or None, not {type(value).__name__}")
    try:
        frame_of(value)
    except UnicodeEncodeError:
        # Without its text, which may be a secret.
        raise ValueError(f"the text of {name} has a surrogate, so UTF-8 cannot encode it") from None
    return value


_VALIDATORS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "on_idle_message": _plain_function,
    "keepalive": _keepalive,
    "goodbye": _message,
}


def frame_of(message: str | bytes) -> Frame:
    """Return the frame of a text or binary message."""
    if isinstance(message, str):
        return message.encode("utf-8"), WSMsgType.TEXT
    return message, WSMsgType.BINARY


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


class Timed(Protocol):
    """The part of the settings of a session that a hook in the background needs."""

    #: Seconds.
    hook_timeout: float | None


class Owner(Protocol):
    """The part of a lifecycle that a hook in the background needs."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the session."""
        ...

    @property
    def express(self) -> Express:
        """Creates the handles for hooks."""
        ...

    @property
    def settings(self) -> Timed:
        """The options of the session."""
        ...


class Owned(Hooked, Protocol):
    """What ``run_behind()`` needs of a connection."""

    parked: bool

    @property
    def owner(self) -> Owner:
        """The lifecycle of the session."""
        ...


_Owned = TypeVar("_Owned", bound=Owned)


def run_behind(
    conn: _Owned,
    name: str,
    finish: Callable[[_Owned, asyncio.Task[bool]], None],
    context: Context | None = None,
) -> None:
    """Run a hook of ``conn`` in the background; its task calls ``finish`` at the end."""
    # The hook, not the pool, detects the end of the connection from now on. Otherwise the
    # connection might be gone before the first step of the task, and ``finish`` needs it.
    conn.parked = False
    task = asyncio.Task(_succeeds(conn, name), loop=conn.owner.loop, context=context)
    conn.slot.task = task
    # Not inside the coroutine, which never runs if cancelled before its first step.
    task.add_done_callback(partial(finish, conn), context=context)


async def _succeeds(conn: Owned, name: str) -> bool:
    """Return whether a hook succeeded; the task must not keep its exception."""
    owner = conn.owner
    try:
        await run_hook(name, owner.express, conn, asyncio.timeout(owner.settings.hook_timeout))
    except Exception:
        return False
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        # Something that the hook awaited was cancelled: the hook has failed.
        return False
    return True


async def run_hook(name: str, express: Express, conn: Hooked, deadline: asyncio.Timeout) -> None:
    """Run a hook of ``conn`` on a handle that is valid until the hook ends.

    Exceptions of the hook are logged here, because nobody may be waiting for the hook.  If the hook
    ran into its deadline, or failed without hearing from the server, the closing handshake gets
    little time, because a caller may need the place.
    """
    hook = conn.hooks.function(name)
    heard = conn.heard
    ws = lend(express, None, conn.slot)
    try:
        async with deadline:
            awaitable = hook(ws)
            if not isinstance(awaitable, Awaitable):
                raise NotAsyncError(hook, awaitable)
            await awaitable
        if deadline.expired():
            # The hook ignored its cancellation.
            raise TimeoutError
        if conn.state["_waiting"]:
            # That receive() would take a message of the next user.
            said = f"the hook {name_of(hook)} returned while a receive() was still under way"
            raise WebSocketPoolError(in_session(express.session_name, said))
    except NotAsyncError as exc:
        # Without this error, the only symptom would be that no connection is ever reused.
        log(
            "hook_not_async",
            session_name=express.session_name,
            hook=name,
            function=name_of(hook),
            detail=exc.detail,
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


def judge(express: Express, conn: Hooked, message: aiohttp.WSMessage) -> Frame | bool:
    """Ask ``on_idle_message`` of ``conn`` about a message that nobody has asked for.

    Returns the answer to send; True: the message is expected, and there is no answer; False: it is
    not expected, or the hook has failed, which is logged.
    """
    hook = conn.hooks.on_idle_message
    assert hook is not None
    try:
        # In an empty context: no code of the program has caused the message.
        verdict: Any = Context().run(hook, message)
        if isinstance(verdict, str | bytes):
            return frame_of(verdict)
        if verdict is None or isinstance(verdict, bool):
            return bool(verdict)
        if inspect.iscoroutine(verdict):
            verdict.close()
        raise TypeError(
            "on_idle_message must return a str, bytes, True, False or None,"
            f" not {type(verdict).__name__}"
        )
    except (Exception, asyncio.CancelledError) as exc:
        # The result of a future may be a cancellation, which concerns no task here.
        _log_failure("on_idle_message", express, conn, exc)
        return False


def _log_failure(name: str, express: Express, conn: Hooked, error: BaseException) -> None:
    log(
        "hook_failed",
        session_name=express.session_name,
        endpoint=str(conn.slot.endpoint),
        hook=name,
        function=name_of(conn.hooks.function(name)),
        error=type(error).__name__,
        exc_info=error if is_debugging() else None,
    )


def is_being_cancelled() -> bool:
    """Return whether the running task itself is cancelled, not something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
