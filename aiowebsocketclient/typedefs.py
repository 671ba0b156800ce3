"""Types for annotations, of users and of the session.

The types of the options are those of aiohttp; ``tests/test_annotations.py`` compares them with the
installed aiohttp.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Generic, TypedDict

from aiohttp import BasicAuth, ClientWSTimeout, Fingerprint, WSMessage
from aiohttp.typedefs import LooseHeaders, Query, StrOrURL

from ._pool_py import Completion
from .response import ClientWebSocketResponse

if TYPE_CHECKING:
    # typing.TypeVar supports defaults since CPython 3.13.
    from typing_extensions import TypeVar

    WS = TypeVar("WS", bound=ClientWebSocketResponse, default=ClientWebSocketResponse)
    WS_co = TypeVar(
        "WS_co", bound=ClientWebSocketResponse, default=ClientWebSocketResponse, covariant=True
    )
else:
    from typing import TypeVar

    WS = TypeVar("WS", bound=ClientWebSocketResponse)
    WS_co = TypeVar("WS_co", bound=ClientWebSocketResponse, covariant=True)

__all__ = (
    "WS",
    "Acquisition",
    "Completion",
    "Hook",
    "IdleMessageHook",
    "Keepalive",
    "WSConnectOptions",
    "WS_co",
)

#: Type of a hook: ``async (ws) -> None``.  The result is ignored.
Hook = Callable[[WS], Awaitable[object]]

#: Type of ``on_idle_message``: it gets a message that nobody has asked for.  A ``str`` or ``bytes``
#: is the answer to send, True means that there is nothing to answer, and False or None that the
#: message was not expected.
IdleMessageHook = Callable[[WSMessage], str | bytes | bool | None]

#: Type of ``keepalive``: the seconds of idleness, and a message or a hook.
Keepalive = tuple[float, str | bytes | Hook[WS]]


class WSConnectOptions(TypedDict, Generic[WS], total=False):
    """Options of ``ws_connect()``, without ``acquire_timeout`` and ``reuse_key``.

    For functions that pass options on: ``**options: Unpack[WSConnectOptions]``, or
    ``Unpack[WSConnectOptions[MyWS]]`` if the hooks take a subclass.
    """

    # Options of aiohttp.ClientSession.ws_connect().
    method: str
    protocols: Iterable[str]
    timeout: ClientWSTimeout
    receive_timeout: float | None
    autoclose: bool
    autoping: bool
    heartbeat: float | None
    auth: BasicAuth | None
    origin: str | None
    params: Query
    headers: LooseHeaders | None
    proxy: StrOrURL | None
    proxy_auth: BasicAuth | None
    ssl: SSLContext | bool | Fingerprint
    verify_ssl: bool | None
    fingerprint: bytes | None
    ssl_context: SSLContext | None
    server_hostname: str | None
    proxy_headers: LooseHeaders | None
    compress: int
    max_msg_size: int
    # New in aiohttp 3.14.
    decode_text: bool
    # In place of the hooks of the session.
    configure: Hook[WS] | None
    check: Hook[WS] | None
    reset: Hook[WS] | None
    on_idle_message: IdleMessageHook | None
    keepalive: Keepalive[WS] | None
    goodbye: str | bytes | None


class Acquisition(Coroutine[Any, Any, WS_co], AbstractAsyncContextManager[WS_co, None]):
    """Result of ``ws_connect()``: await it, or enter it with ``async with``."""

    __slots__ = ()
