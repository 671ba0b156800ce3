"""Ready-made ``check`` hooks.

What a network drops without a word (a firewall's or a balancer's table is full, a machine has lost
its power) looks open from here until something is sent and nothing comes back.
"""

import asyncio
from itertools import count
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import WSMsgType

from . import arguments
from .exceptions import WebSocketPoolError
from .hooks import Hook

__all__ = ("check_ping",)

_ENDED: Final = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})

# No two pings of a connection are alike, nor like those of its heartbeat, which are empty.
_numbers: Final = count(1)


def check_ping(timeout: float | None = 5.0) -> Hook:
    """Return a hook that sends a PING and waits for its PONG.

    Given as ``check``, it makes sure that a pooled connection is alive before it is handed out, for
    one round trip::

        session = WebSocketClientSession(check=check_ping(timeout=2.0))

    A connection whose server does not answer in time is cut off at once: its place is free for a
    new one, and no closing handshake is waited for.  What else comes, a message or a close, is a
    failure too; PINGs of the server's are answered.  It may be a ``configure`` or a ``reset`` as
    well.

    :param timeout: seconds to wait for the PONG.  None: ``hook_timeout`` alone counts, which it
        never outlives anyhow.
    :return: for equal arguments the same hook, since connections are told apart by their hooks.

    Raises ``TypeError`` or ``ValueError`` for what is no timeout.  The hook raises
    ``aiohttp.ServerTimeoutError``, ``aiohttp.ServerDisconnectedError`` or
    :exc:`WebSocketPoolError`.
    """
    seconds = arguments.positive("timeout", timeout)
    if seconds is not None:
        seconds = float(seconds)
    hook = _hooks.get(seconds)
    if hook is None:
        hook = _hooks[seconds] = _check_ping(seconds)
    return hook


# As long as somebody has one; nobody can tell a new one from one that is gone.
_hooks: Final[WeakValueDictionary[float | None, Hook]] = WeakValueDictionary()


def _check_ping(seconds: float | None) -> Hook:
    async def check_ping(ws: aiohttp.ClientWebSocketResponse) -> None:
        state = vars(ws)
        autoping = state["_autoping"]
        # Otherwise receive() keeps PONGs to itself.
        state["_autoping"] = False
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await _ping_and_wait(ws, seconds)
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            _cut_off(ws)
            # That keeps the frame of asyncio's timeout, which knows the task.
            exc.__traceback__ = None
            raise aiohttp.ServerTimeoutError(f"no PONG within {seconds:g} s") from None
        finally:
            state["_autoping"] = autoping
            # It knows its task, which keeps the exception, whose traceback keeps this frame.
            del deadline

    return check_ping


async def _ping_and_wait(ws: aiohttp.ClientWebSocketResponse, seconds: float | None) -> None:
    payload = b"%d" % next(_numbers)
    await ws.ping(payload)
    while True:
        # Not that of a subclass, which may expect messages only.
        message: Any = await aiohttp.ClientWebSocketResponse.receive(ws, seconds)
        if message.type is WSMsgType.PING:
            await ws.pong(message.data)
        elif message.type in _ENDED:
            raise aiohttp.ServerDisconnectedError("the connection ended before its PONG came")
        elif message.type is not WSMsgType.PONG:
            raise WebSocketPoolError("a message came before the PONG")
        elif bytes(message.data) == payload:
            return


def _cut_off(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Close the transport of one who would not answer a closing handshake either."""
    transport = None if ws._conn is None else ws._conn.transport
    if transport is not None:
        transport.abort()
