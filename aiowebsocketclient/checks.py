"""Ready-made ``check`` hooks.

A connection that the network drops silently (a full table in a firewall or balancer, a machine
without power) looks open until the client sends something and gets no answer.
"""

from functools import partial
from itertools import count
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import WSMsgType

from . import arguments
from .arity import factory
from .deadlines import Bound
from .exceptions import WebSocketPoolError
from .hooks import Hook

__all__ = ("check_ping",)

_ENDED: Final = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})

# Each PING of a connection has its own number; the PINGs of the heartbeat are empty.
_numbers: Final = count(1)


@factory
def check_ping(timeout: float | None = 5.0) -> Hook:
    """Return a hook that sends a PING and waits for the PONG.

    As ``check``, it ensures that a pooled connection is alive before a caller gets it.  This costs
    one round trip::

        session = WebSocketClientSession(check=check_ping(timeout=2.0))

    If the server does not answer in time, the hook aborts the connection without a closing
    handshake, and its place is free at once.  A message or a close from the server is a failure,
    too; the hook answers PINGs.  It also works as ``configure`` or ``reset``.

    :param timeout: seconds to wait for the PONG.  None: only ``hook_timeout``, which limits the
        hook in any case.
    :return: the same hook for equal arguments, because the pool compares the hooks of connections.

    Raises ``TypeError`` or ``ValueError`` for an invalid timeout.  The hook raises
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


# Weak: a hook that nobody refers to can be made again.
_hooks: Final[WeakValueDictionary[float | None, Hook]] = WeakValueDictionary()


def _check_ping(seconds: float | None) -> Hook:
    async def check_ping(ws: aiohttp.ClientWebSocketResponse) -> None:
        state = vars(ws)
        autoping = state["_autoping"]
        # With autoping, receive() does not return PONGs.
        state["_autoping"] = False
        bound = Bound(seconds, partial(_too_late, ws))
        try:
            with bound:
                async with bound.deadline:
                    await _ping_and_wait(ws, seconds)
        finally:
            state["_autoping"] = autoping

    return check_ping


async def _ping_and_wait(ws: aiohttp.ClientWebSocketResponse, seconds: float | None) -> None:
    payload = b"%d" % next(_numbers)
    await ws.ping(payload)
    while True:
        # Not the receive() of a subclass, which may expect only messages.
        message: Any = await aiohttp.ClientWebSocketResponse.receive(ws, seconds)
        if message.type is WSMsgType.PING:
            await ws.pong(message.data)
        elif message.type in _ENDED:
            raise aiohttp.ServerDisconnectedError("the connection ended before the PONG arrived")
        elif message.type is not WSMsgType.PONG:
            raise WebSocketPoolError("a message arrived before the PONG")
        elif bytes(message.data) == payload:
            return


def _too_late(ws: aiohttp.ClientWebSocketResponse, seconds: float) -> aiohttp.ServerTimeoutError:
    _abort(ws)
    return aiohttp.ServerTimeoutError(f"no PONG within {seconds:g} s")


def _abort(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Abort the connection: the server would not answer a closing handshake, either."""
    transport = None if ws._conn is None else ws._conn.transport
    if transport is not None:
        transport.abort()
