"""gql's transport over the pool, with the real gql and a real server."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSMsgType

from .conftest import SessionFactory, until
from .servers import serving

pytest.importorskip("gql")

from gql import Client, GraphQLRequest, gql
from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport
from gql.transport.exceptions import (
    TransportConnectionFailed,
    TransportQueryError,
    TransportServerError,
)

from aiowebsocketclient.gql import PooledWebsocketsTransport, _answer

from .clients.graphql import GraphQLServer

ECHO = "query ($text: String!) { echo(text: $text) }"
SLOW = "query ($text: String!) { slow(text: $text) }"

_texts = itertools.count()


@pytest_asyncio.fixture
async def graphql() -> AsyncIterator[GraphQLServer]:
    async with serving(GraphQLServer()) as server:
        assert isinstance(server, GraphQLServer)
        yield server


def request(query: str = ECHO, **variables: Any) -> GraphQLRequest:
    return GraphQLRequest(gql(query), variable_values=variables)


async def ask(session: Any, query: str = ECHO) -> None:
    text = f"text {next(_texts)}"
    (reply,) = (await session.execute(request(query, text=text))).values()
    assert reply == text


def client(transport: AIOHTTPWebsocketsTransport) -> Client:
    return Client(transport=transport)


async def ask_in_turn(transports: list[AIOHTTPWebsocketsTransport], queries: int) -> None:
    """Let as many callers as there are transports ask so many queries, each as gql's pages show."""
    left = iter(range(queries))

    async def call(transport: AIOHTTPWebsocketsTransport) -> None:
        for _ in left:
            async with client(transport) as session:
                await ask(session)

    await asyncio.gather(*map(call, transports))


async def test_200_queries(make_session: SessionFactory, graphql: GraphQLServer) -> None:
    pool = make_session(limit=8)
    await ask_in_turn([AIOHTTPWebsocketsTransport(graphql.url()) for _ in range(4)], 20)
    assert (graphql.handshakes, graphql.inits, graphql.queries) == (20, 20, 20)
    graphql.handshakes = graphql.inits = graphql.peak = 0
    await until(lambda: not graphql.open)
    await ask_in_turn([PooledWebsocketsTransport(graphql.url(), pool) for _ in range(16)], 200)
    assert graphql.queries == 220
    assert graphql.handshakes == graphql.inits <= 8
    assert graphql.peak <= 8
    assert pool.stats().released == 200
    assert pool.stats().idle == graphql.handshakes


async def test_pings_are_answered_while_idle(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    for _ in range(3):
        async with client(transport) as session:
            await ask(session)
        before = graphql.pongs
        assert await graphql.ping_all() == 1
        await until(lambda before=before: graphql.pongs > before)
    assert graphql.handshakes == 1
    assert pool.stats().closed_dirty == 0


async def test_pings_are_answered_in_use(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    transport = PooledWebsocketsTransport(graphql.url(), make_session())
    async with client(transport) as session:
        await ask(session)
        before = graphql.pongs
        await graphql.ping_all()
        await until(lambda: graphql.pongs > before)
        await ask(session)
    assert graphql.handshakes == 1


async def test_a_ping_before_the_acknowledgement(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    graphql.pings_first = True
    async with client(PooledWebsocketsTransport(graphql.url(), make_session())) as session:
        await ask(session)
    assert graphql.pongs == 1


async def test_a_late_pong_is_expected(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    async with client(transport) as session:
        await ask(session)
        await transport.send_ping()
        await asyncio.wait_for(transport.pong_received.wait(), 30)
    await graphql.connections[0].send({"type": "pong"})
    # The answer to this one comes after that.
    await graphql.ping_all()
    await until(lambda: graphql.pongs)
    async with client(transport) as session:
        await ask(session)
    assert graphql.handshakes == 1
    assert pool.stats().closed_dirty == 0


async def test_queries_at_once_share_a_connection(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    graphql.may_answer.clear()
    for _ in range(2):
        async with client(transport) as session, asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ask(session, SLOW))
            await until(lambda: graphql.peak_of_queries == 5)
            graphql.may_answer.set()
        graphql.may_answer.clear()
        graphql.peak_of_queries = 0
    assert graphql.handshakes == 1
    assert pool.stats().released == 2


async def test_error_replies_cost_nothing(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    for query in ("{ fails }", "{ nonsense }", "{ echo("):
        async with client(transport) as session:
            with pytest.raises(TransportQueryError):
                await execute_text(session, query)
            await ask(session)
    assert graphql.handshakes == 1
    assert pool.stats().released == 3


async def execute_text(session: Any, query: str) -> None:
    """Execute what gql itself would refuse to parse."""

    class Text(GraphQLRequest):
        def __init__(self) -> None:
            super().__init__("{ fails }")

        @property
        def payload(self) -> dict[str, Any]:
            return {"query": query}

    await session.execute(Text())


async def test_a_subscription_to_its_end(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    transport = PooledWebsocketsTransport(graphql.url(), make_session())
    for _ in range(2):
        async with client(transport) as session:
            numbers = [r["count"] async for r in session.subscribe(gql(COUNT))]
            assert numbers == list(range(50))
    assert graphql.handshakes == 1


COUNT = "subscription { count(to: 50) }"
STREAM = "subscription { stream }"


async def test_a_subscription_that_is_left_costs_the_connection(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session(limit=1)
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    async with client(transport) as session:
        async for result in session.subscribe(gql(STREAM)):
            if result["stream"] == 3:
                break
    async with client(transport) as session:
        await ask(session)
    assert graphql.handshakes == 2
    assert pool.stats().released == 1


async def test_a_subscription_as_a_query_returns_its_first_result(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    async with client(transport) as session:
        assert await session.execute(gql(STREAM)) == {"stream": 0}
    async with client(transport) as session:
        assert await session.execute(gql("subscription { count(to: 1) }")) == {"count": 0}
        with pytest.raises(TransportQueryError):
            await session.execute(gql("subscription { count(to: 0) }"))
    assert graphql.handshakes == 2
    assert pool.stats().released == 1


async def test_a_query_that_is_cancelled_costs_the_connection(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session(limit=1)
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    graphql.may_answer.clear()
    async with client(transport) as session:
        asking = asyncio.create_task(session.execute(request(SLOW, text="of the past")))
        await until(lambda: graphql.queries)
        asking.cancel()
        await asyncio.wait([asking])
    graphql.may_answer.set()
    async with client(transport) as session:
        await ask(session, SLOW)
    assert graphql.handshakes == 2
    assert pool.stats().released == 1


async def test_a_query_that_is_cancelled_while_it_is_sent(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session(limit=1)
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    graphql.may_answer.clear()
    async with client(transport):
        # So it is not in gql's table of queries, either.
        await transport._send_query(request(SLOW, text="of the past"))
    graphql.may_answer.set()
    async with client(transport) as session:
        await ask(session)
    assert graphql.handshakes == 2


async def test_the_server_goes_away(make_session: SessionFactory, graphql: GraphQLServer) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    graphql.may_answer.clear()
    async with client(transport) as session:
        asking = asyncio.create_task(session.execute(request(SLOW, text="?")))
        await until(lambda: graphql.queries)
        graphql.transports[0].abort()
        with pytest.raises(TransportConnectionFailed):
            await asking
    async with client(transport) as session:
        await ask(session)
    # An idle connection that ends is not handed out.
    graphql.transports[0].abort()
    await until(lambda: not pool.stats().idle)
    async with client(transport) as session:
        await ask(session)
    assert graphql.handshakes == 3


async def test_the_pool_is_closed_during_a_query(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    graphql.may_answer.clear()
    async with client(transport) as session:
        asking = asyncio.create_task(session.execute(request(SLOW, text="?")))
        await until(lambda: graphql.queries)
        await pool.close()
        with pytest.raises(TransportConnectionFailed):
            await asking
    with pytest.raises(TransportConnectionFailed):
        async with client(transport):
            raise AssertionError("not reached")


async def test_each_token_has_its_connections(make_session: SessionFactory) -> None:
    pool = make_session(hook_timeout=30.0)
    async with serving(GraphQLServer(token="right")) as server:
        assert isinstance(server, GraphQLServer)
        url = server.url()
        for _ in range(2):
            right = PooledWebsocketsTransport(url, pool, init_payload={"token": "right"})
            async with client(right) as session:
                await ask(session)
        assert server.handshakes == 1
        wrong = PooledWebsocketsTransport(url, pool, init_payload={"token": "wrong"})
        with pytest.raises(TransportConnectionFailed) as caught:
            async with client(wrong):
                raise AssertionError("not reached")
        cause = caught.value.__cause__
        assert isinstance(cause, TransportServerError)
        assert str(cause) == "no connection_ack (close code 4403)"
        assert "wrong" not in repr(wrong.connect_args)
        async with client(right) as session:
            await ask(session)
        assert server.handshakes == 2


async def test_options_of_the_pool(make_session: SessionFactory, graphql: GraphQLServer) -> None:
    pool = make_session()
    url = graphql.url()
    for number in range(3):
        transport = PooledWebsocketsTransport(
            url,
            pool,
            headers={"X-Request": str(number)},
            connect_args={"reuse_key": "tenant", "max_msg_size": 1_000_000},
        )
        async with client(transport) as session:
            await ask(session)
    assert graphql.handshakes == 1
    assert not pool.closed
    with pytest.raises(TypeError, match="takes no subprotocols: it speaks graphql-transport-ws"):
        PooledWebsocketsTransport(url, pool, subprotocols=["graphql-ws"])
    with pytest.raises(TypeError, match="connect_args must be a mapping, not int"):
        PooledWebsocketsTransport(url, pool, connect_args=3)
    for name in ("configure", "on_idle_message"):
        with pytest.raises(TypeError, match=f"connect_args must not have {name}"):
            PooledWebsocketsTransport(url, pool, connect_args={name: None})


async def test_callers_wait_for_a_place(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session(limit=1)
    waiting = PooledWebsocketsTransport(graphql.url(), pool, connect_timeout=0.01)
    async with client(PooledWebsocketsTransport(graphql.url(), pool)) as session:
        await ask(session)
        with pytest.raises(TimeoutError):
            await waiting.connect()
    waiting.connect_timeout = 30
    async with client(waiting) as session:
        await ask(session)
    assert graphql.handshakes == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"type": "ping"}', '{"type": "pong"}'),
        ('{"type": "ping", "payload": {}}', '{"type": "pong"}'),
        ('{"type": "pong"}', True),
        ('{"id": "1", "type": "next", "payload": {}}', False),
        ('{"id": "1", "type": "complete"}', False),
        ('{"type": ["ping"]}', False),
        ("[1]", False),
        ("1", False),
        ("", False),
        ("{", False),
    ],
)
def test_what_is_expected_of_an_idle_connection(data: str, expected: object) -> None:
    assert _answer(aiohttp.WSMessage(WSMsgType.TEXT, data, None)) == expected
    assert _answer(aiohttp.WSMessage(WSMsgType.BINARY, data.encode(), None)) == expected


async def test_a_late_result_closes_an_idle_connection(
    make_session: SessionFactory, graphql: GraphQLServer
) -> None:
    pool = make_session()
    transport = PooledWebsocketsTransport(graphql.url(), pool)
    async with client(transport) as session:
        await ask(session)
    await graphql.connections[0].send({"id": "1", "type": "next", "payload": {"data": {}}})
    await until(lambda: pool.stats().closed_dirty)
    async with client(transport) as session:
        await ask(session)
    assert graphql.handshakes == 2
