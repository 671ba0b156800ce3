"""One use of each library, as its documentation shows it, again and again with new clients."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from aiowebsocketclient import PooledClientSession, WebSocketClientSession

from .servers import Backend, Deepgram, HomeAssistant, Slack, SocketIO

#: Makes a session that the library may close.
MakeHttp = Callable[[], Any]
#: A use of a library.
Use = Callable[[MakeHttp, Any], Awaitable[None]]

#: Seconds, which only a use that hangs takes.
PATIENCE = 30.0


@asynccontextmanager
async def plain() -> AsyncIterator[MakeHttp]:
    """Sessions of aiohttp's own class."""
    async with AsyncExitStack() as stack:

        def make() -> aiohttp.ClientSession:
            http = aiohttp.ClientSession()
            stack.push_async_callback(http.close)
            return http

        yield make


def standing_in(pool: WebSocketClientSession, *, release_on_close: bool = False) -> MakeHttp:
    """Stand-ins, which leave their pool open."""
    return lambda: PooledClientSession(pool, release_on_close=release_on_close, session_owner=False)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def use_socketio(make_http: MakeHttp, backend: SocketIO) -> None:
    """Connect by long polling, change to a WebSocket, call, disconnect."""
    import socketio

    client = socketio.AsyncClient(http_session=make_http(), handle_sigint=False)
    await client.connect(backend.url)
    assert client.transport() == "websocket"
    assert await client.call("echo", "hello", timeout=PATIENCE) == "hello"
    await client.disconnect()


async def use_hass(make_http: MakeHttp, backend: HomeAssistant) -> None:
    """Log in, read in a task, send two commands, disconnect."""
    from hass_client import HomeAssistantClient

    client = HomeAssistantClient(f"{backend.url}/api/websocket", "token", make_http())
    await client.connect()
    listening = asyncio.create_task(client.start_listening())
    for _ in range(2):
        (state,) = await client.get_states()
        assert state["entity_id"] == "light.hall"
    await client.disconnect()
    await listening


async def use_slack(make_http: MakeHttp, backend: Slack) -> None:
    """Call the Web API, get an event in Socket Mode, acknowledge it, close."""
    from slack_sdk.socket_mode.aiohttp import SocketModeClient
    from slack_sdk.socket_mode.response import SocketModeResponse
    from slack_sdk.web.async_client import AsyncWebClient

    web = AsyncWebClient(token="xoxb", base_url=f"{backend.url}/api/", session=make_http())
    assert (await web.auth_test())["user"] == "tester"
    client = SocketModeClient(app_token="xapp", web_client=web)
    # It takes no session, but makes one of its own.
    await client.aiohttp_client_session.close()
    client.aiohttp_client_session = make_http()

    async def acknowledge(client: Any, request: Any) -> None:
        response = SocketModeResponse(envelope_id=request.envelope_id)
        await client.send_socket_mode_response(response)

    client.socket_mode_request_listeners.append(acknowledge)
    before = len(backend.acknowledged)
    await client.connect()
    await until(lambda: len(backend.acknowledged) > before)
    await client.close()
    # It cancels its tasks, and does not wait for them.
    tasks = [client.message_processor, client.message_receiver, client.current_session_monitor]
    await asyncio.wait(tasks)


_texts = itertools.count()


async def ask(transport: Any) -> None:
    """Ask one query, as gql's pages show."""
    from gql import Client, GraphQLRequest

    query = "query ($text: String!) { echo(text: $text) }"
    text = f"text {next(_texts)}"
    async with Client(transport=transport) as session:
        reply = await session.execute(GraphQLRequest(query, variable_values={"text": text}))
    assert reply == {"echo": text}


async def use_gql(make_http: MakeHttp, backend: Any) -> None:
    """Ask with gql's own transport."""
    from gql.transport.aiohttp_websockets import AIOHTTPWebsocketsTransport

    await ask(AIOHTTPWebsocketsTransport(graphql_url(backend), session=make_http()))


def graphql_url(backend: Any) -> str:
    return str(backend.url())


def speech(make_http: MakeHttp, backend: Deepgram) -> Any:
    """Return a TTS of livekit-agents."""
    from livekit.plugins import deepgram

    base_url = f"{backend.url}/v1/speak"
    return deepgram.TTS(api_key="key", base_url=base_url, http_session=make_http())


async def speak(tts: Any) -> int:
    """Synthesize a turn, and return the number of frames."""
    async with tts.stream() as stream:
        stream.push_text("Hello, how are you?")
        stream.end_input()
        return len([event async for event in stream])


async def use_tts(make_http: MakeHttp, backend: Deepgram) -> None:
    """Synthesize two turns with a TTS of its own, as each session of an agent has it."""
    tts = speech(make_http, backend)
    for _ in range(2):
        assert await speak(tts) > 0
    await tts.aclose()


async def use_interrupted_tts(make_http: MakeHttp, backend: Deepgram) -> None:
    """Interrupt a turn, then synthesize another."""
    tts = speech(make_http, backend)
    backend.may_speak.clear()
    stream = tts.stream()
    stream.push_text("Hello, how are you?")
    stream.end_input()
    async for _ in stream:
        break
    await stream.aclose()
    backend.may_speak.set()
    assert await speak(tts) > 0
    await tts.aclose()


async def use_stt(make_http: MakeHttp, backend: Deepgram) -> None:
    """Transcribe a turn."""
    from livekit import rtc
    from livekit.plugins import deepgram

    base_url = f"{backend.url}/v1/listen"
    stt = deepgram.STT(api_key="key", base_url=base_url, http_session=make_http())
    stream = stt.stream()
    for _ in range(5):
        stream.push_frame(rtc.AudioFrame(bytes(1600), 16000, 1, 800))
    stream.end_input()
    heard = [event.alternatives[0].text async for event in stream if event.alternatives]
    assert any(text.startswith("hello") for text in heard), heard
    await stream.aclose()


__all__ = (
    "PATIENCE",
    "Backend",
    "MakeHttp",
    "Use",
    "ask",
    "graphql_url",
    "plain",
    "speak",
    "speech",
    "standing_in",
    "until",
    "use_gql",
    "use_hass",
    "use_interrupted_tts",
    "use_slack",
    "use_socketio",
    "use_stt",
    "use_tts",
)
