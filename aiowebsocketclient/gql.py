"""GraphQL over a pool: a transport for ``gql``, whose clients share connections.

::

    pool = WebSocketClientSession(limit=8)
    transport = PooledWebsocketsTransport("wss://example.com/graphql", pool)
    async with gql.Client(transport=transport) as session:
        result = await session.execute(query)

gql's own ``AIOHTTPWebsocketsTransport`` opens a connection for each ``async with``, and closes it.
The extra ``aiowebsocketclient[gql]`` installs gql.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import aiohttp
from aiohttp.typedefs import StrOrURL

from .client_session import PooledClientSession
from .exceptions import WebSocketPoolError
from .session import WebSocketClientSession

try:
    from gql import GraphQLRequest
    from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport
    from gql.transport.exceptions import TransportQueryError, TransportServerError
    from graphql import ExecutionResult
except ImportError as exc:
    raise ImportError(
        "aiowebsocketclient.gql needs gql: pip install 'aiowebsocketclient[gql]'"
    ) from exc

__all__ = ("PooledWebsocketsTransport",)

_PONG: Final = json.dumps({"type": "pong"})

# No two queries of a process have the same id, so no transport takes the reply to another's query.
_ids: Final = count(1)


class PooledWebsocketsTransport(AIOHTTPWebsocketsTransport):
    """A transport of gql that acquires its connection from a pool, and releases it.

    Entering ``async with gql.Client(transport=...)`` acquires a connection, and leaving it releases
    the connection if the server has completed all its queries.  Otherwise, for example after a
    query that was cancelled or a subscription that was left, the connection is closed.

    It speaks the protocol ``graphql-transport-ws``.  A connection sends ``connection_init`` once,
    in the hook ``configure``, and answers a ``ping`` of the server while it is idle, by
    ``on_idle_message``.  Transports share connections if their URL, their options and their
    ``init_payload`` are equal.

    :param url: of the server, a ``str`` or a ``yarl.URL``.
    :param session: the pool, which stays open.
    :param options: options of ``gql.transport.aiohttp_websockets.AIOHTTPWebsocketsTransport``,
        without ``session`` and ``subprotocols``.  ``connect_args`` may have any option of
        :meth:`WebSocketClientSession.ws_connect` but ``configure`` and ``on_idle_message``.
        ``connect_timeout`` includes the wait for a connection.  ``ack_timeout`` has no effect:
        ``hook_timeout`` of ``session`` bounds the wait for the acknowledgement.
    """

    def __init__(self, url: StrOrURL, session: WebSocketClientSession[Any], **options: Any) -> None:
        connect_args = options.get("connect_args") or {}
        if not isinstance(connect_args, Mapping):
            raise TypeError(f"connect_args must be a mapping, not {type(connect_args).__name__}")
        for name in ("configure", "on_idle_message"):
            if name in connect_args:
                raise TypeError(f"connect_args must not have {name}: the transport uses this hook")
        if "subprotocols" in options:
            raise TypeError(
                "PooledWebsocketsTransport() takes no subprotocols: it speaks"
                f" {self.GRAPHQLWS_SUBPROTOCOL} only"
            )
        init = {"type": "connection_init", "payload": options.get("init_payload") or {}}
        hooks = {"configure": _Login(json.dumps(init)), "on_idle_message": _answer}
        options["connect_args"] = hooks | dict(connect_args)
        options["session"] = PooledClientSession(session, session_owner=False)
        super().__init__(url, subprotocols=[self.GRAPHQLWS_SUBPROTOCOL], **options)
        # The ids of the queries that the server has not completed.
        self._incomplete: set[int] = set()

    async def _initialize(self) -> None:
        # The hook has initialized the connection.
        self._incomplete.clear()

    async def _send_query(self, request: GraphQLRequest) -> int:
        self.next_query_id = next(_ids)
        self._incomplete.add(self.next_query_id)
        return await super()._send_query(request)

    def _parse_answer(self, answer: str) -> tuple[str, int | None, ExecutionResult | None]:
        try:
            kind, query_id, result = super()._parse_answer(answer)
        except TransportQueryError as error:
            # It completes the query.
            self._incomplete.discard(error.query_id or 0)
            raise
        if kind == "complete":
            self._incomplete.discard(query_id or 0)
        return kind, query_id, result

    async def execute(self, request: GraphQLRequest) -> ExecutionResult:
        """Return the first result of a query, when the server has completed the query."""
        received = self.subscribe(request, send_stop=False)
        if (result := await anext(received, None)) is None:
            raise TransportQueryError("the query ended without a result")
        # The end, or the second result of a subscription, which costs the connection.
        await anext(received, None)
        await received.aclose()
        return result

    async def _connection_terminate(self) -> None:
        # gql calls it before it closes the connection in good order.
        if self._incomplete or self.receive_data_task is None:
            return
        self.receive_data_task.cancel()
        await asyncio.wait([self.receive_data_task])
        ws: Any = self.adapter.websocket
        with suppress(WebSocketPoolError):
            ws.mark_clean()
        # Afterwards, close() changes nothing.
        await ws.release()


@dataclass(frozen=True)
class _Login:
    """The hook ``configure``; equal payloads make equal hooks, whose connections are shared."""

    init: str = field(repr=False)

    async def __call__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        await ws.send_str(self.init)
        while (kind := _kind_of(await ws.receive())) != "connection_ack":
            if kind != "ping":
                raise TransportServerError(f"no connection_ack (close code {ws.close_code})")
            await ws.send_str(_PONG)


def _answer(message: aiohttp.WSMessage) -> str | bool:
    """Answer a ``ping``; a ``pong`` may come after the release of a transport that sent a ping."""
    kind = _kind_of(message)
    return _PONG if kind == "ping" else kind == "pong"


def _kind_of(message: aiohttp.WSMessage) -> Any:
    """Return the type of a message of the protocol; None: it is no such message."""
    try:
        return json.loads(message.data)["type"]
    except (LookupError, TypeError, ValueError):
        return None
