"""What the pool itself raises.

What aiohttp raises while connecting (``ClientConnectorError``, ``WSServerHandshakeError``, ...)
passes through as it is, so that a caller can always tell waiting for a place from failing to
connect.
"""

import asyncio

import aiohttp

__all__ = (
    "ConnectionReleasedError",
    "PoolClosedError",
    "PoolTimeoutError",
    "TooManyWaitersError",
    "WebSocketPoolError",
)


class WebSocketPoolError(aiohttp.ClientError):
    """The base of all errors of the pool."""


class PoolTimeoutError(WebSocketPoolError, asyncio.TimeoutError):
    """No connection could be had within ``acquire_timeout``, whatever the cause."""


class TooManyWaitersError(WebSocketPoolError):
    """``max_waiting`` callers are queued for the endpoint already."""


class PoolClosedError(WebSocketPoolError, RuntimeError):
    """The session is closed, or was closed while the caller waited."""


class ConnectionReleasedError(WebSocketPoolError, RuntimeError):
    """The response was used after its ``release()``: the connection may be another's by now."""
