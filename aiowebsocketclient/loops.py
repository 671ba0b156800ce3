"""The event loop that a session belongs to: no other one will do."""

import asyncio
from typing import NoReturn

from ._aiohttp_private import get_running_loop
from .exceptions import in_session

__all__ = ("refuse_to_close", "running_loop")


def running_loop(
    loop: asyncio.AbstractEventLoop | None, session_name: str | None
) -> asyncio.AbstractEventLoop:
    """Return the running loop, which has to be that of the session where it has one already."""
    running = get_running_loop()
    if running is None:
        said = "a WebSocketClientSession is used inside a running event loop only"
        raise RuntimeError(in_session(session_name, said))
    if loop is not None and loop is not running:
        said = (
            "this WebSocketClientSession belongs to another event loop"
            + (", which is closed" if loop.is_closed() else "")
            + ": make one for each loop"
        )
        raise RuntimeError(in_session(session_name, said))
    return running


def refuse_to_close(loop: asyncio.AbstractEventLoop, session_name: str | None) -> NoReturn:
    """Raise what ``close()`` raises in another loop than that of the session."""
    said = "this WebSocketClientSession belongs to another event loop"
    if loop.is_closed():
        said = (
            "the event loop of this WebSocketClientSession is closed: close a session in its loop"
        )
    raise RuntimeError(in_session(session_name, said))
