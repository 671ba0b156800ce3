"""Types for the annotations of users, and of the session.

Those of the options are aiohttp's own; ``tests/test_annotations.py`` compares them with what the
installed aiohttp has.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Generic, TypedDict

from aiohttp import BasicAuth, ClientWSTimeout, Fingerprint
from aiohttp.typedefs import LooseHeaders, Query, StrOrURL

from ._pool_py import Completion
from .response import ClientWebSocketResponse

if TYPE_CHECKING:
    # That of typing has a default from CPython 3.13 on.
    from typing_extensions import TypeVar

    WS = TypeVar("WS", bound=ClientWebSocketResponse, default=ClientWebSocketResponse)
    WS_co = TypeVar(
        "WS_co", bound=ClientWebSocketResponse, default=ClientWebSocketResponse, covariant=True
    )
else:
    from typing import TypeVar

    WS = TypeVar("WS", bound=ClientWebSocketResponse)
    WS_co = TypeVar("WS_co", bound=ClientWebSocketResponse, covariant=True)

__all__ = ("WS", "Acquisition", "Completion", "Hook", "WSConnectOptions", "WS_co")

#: What a hook is: ``async (ws) -> None``.  What it returns is ignored.
Hook = Callable[[WS], Awaitable[object]]


class WSConnectOptions(TypedDict, Generic[WS], total=False):
    """What ``ws_connect()`` takes besides what is the pool's own.

    For functions that hand them on: ``**options: Unpack[WSConnectOptions]``, or
    ``Unpack[WSConnectOptions[MyWS]]`` where the hooks are those of a subclass.
    """

    # Those of aiohttp.ClientSession.ws_connect().
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
    # In place of the session's.
    configure: Hook[WS] | None
    check: Hook[WS] | None
    reset: Hook[WS] | None


class Acquisition(Coroutine[Any, Any, WS_co], AbstractAsyncContextManager[WS_co, None]):
    """What ``ws_connect()`` returns: to be awaited, or entered with ``async with``."""

    __slots__ = ()
