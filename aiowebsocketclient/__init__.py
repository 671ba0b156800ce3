"""A pool of WebSocket client connections on aiohttp.

``WebSocketClientSession.ws_connect(url)`` acquires a connection, ``ws.release()`` returns it to the
pool, and the next caller gets the same open socket.
"""

from importlib.metadata import version

from ._compat import IMPLEMENTATION
from .balancing import Balanced
from .checks import check_ping
from .client_session import PooledClientSession
from .exceptions import (
    AcquireError,
    ConnectionReleasedError,
    FleetUnavailableError,
    HandshakeFailure,
    PoolClosedError,
    PoolTimeoutError,
    PrewarmError,
    TooManyWaitersError,
    WebSocketPoolError,
)
from .fleet import FleetStats
from .keys import EndpointKey
from .response import ClientWebSocketResponse
from .session import GOING_AWAY, WebSocketClientSession
from .stats import BalancedStats, PoolStats
from .tracing import TraceConfig
from .typedefs import (
    Acquisition,
    Completion,
    Hook,
    IdleMessageHook,
    Keepalive,
    WSConnectOptions,
)

__all__ = (
    "GOING_AWAY",
    "IMPLEMENTATION",
    "AcquireError",
    "Acquisition",
    "Balanced",
    "BalancedStats",
    "ClientWebSocketResponse",
    "Completion",
    "ConnectionReleasedError",
    "EndpointKey",
    "FleetStats",
    "FleetUnavailableError",
    "HandshakeFailure",
    "Hook",
    "IdleMessageHook",
    "Keepalive",
    "PoolClosedError",
    "PoolStats",
    "PoolTimeoutError",
    "PooledClientSession",
    "PrewarmError",
    "TooManyWaitersError",
    "TraceConfig",
    "WSConnectOptions",
    "WebSocketClientSession",
    "WebSocketPoolError",
    "check_ping",
)

__version__ = version("aiowebsocketclient")
