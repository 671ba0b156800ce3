"""Checks that a session is used in its own event loop."""

import asyncio
from typing import NoReturn

from ._aiohttp_private import get_running_loop
from .exceptions import in_session

__all__ = ("refuse_to_close", "running_loop")


def running_loop(
    loop: asyncio.AbstractEventLoop | None, session_name: str | None
) -> asyncio.AbstractEventLoop:
    """Return the running loop, which must be ``loop`` if that is not None."""
    running = get_running_loop()
    if running is None:
        said = "a WebSocketClientSession needs a running event loop: use it in a coroutine"
        raise RuntimeError(in_session(session_name, said))
    if loop is not None and loop is not running:
        said = (
            "this WebSocketClientSession belongs to another event loop"
            + (", which is closed" if loop.is_closed() else "")
            + ": create a session in each loop"
        )
        raise RuntimeError(in_session(session_name, said))
    return running


def refuse_to_close(loop: asyncio.AbstractEventLoop, session_name: str | None) -> NoReturn:
    """Raise the error of ``close()`` in another loop than that of the session."""
    said = "this WebSocketClientSession belongs to another event loop: await close() in that loop"
    if loop.is_closed():
        said = (
            "the event loop of this WebSocketClientSession is closed: await close() before the end"
            " of the loop"
        )
    raise RuntimeError(in_session(session_name, said))
