"""``python -m tests.clients``: try each library that is installed, and print a table."""

import argparse
import asyncio
import importlib.metadata
import importlib.util
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiowebsocketclient import WebSocketClientSession

from . import libraries
from .libraries import MakeHttp, Use, plain, standing_in, until
from .servers import Backend, Deepgram, HomeAssistant, Slack, SocketIO, serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Uses the library so many times, with what the library needs to profit from a pool.
Helped = Callable[[WebSocketClientSession, Any, int], Awaitable[None]]


class Trial(NamedTuple):
    """A library, and a use of it."""

    distribution: str
    module: str
    use: Use
    backend: Callable[[], Any]
    helped: Helped | None = None
    #: Uses at the same time.
    workers: int = 1


async def repeat(use: Callable[[], Awaitable[None]], rounds: int, workers: int) -> None:
    left = iter(range(rounds))

    async def work() -> None:
        for _ in left:
            await asyncio.wait_for(use(), libraries.PATIENCE)

    await asyncio.gather(*(work() for _ in range(workers)))


async def help_gql(pool: WebSocketClientSession, backend: Any, rounds: int) -> None:
    """Ask with the transport of this package."""
    from aiowebsocketclient.gql import PooledWebsocketsTransport

    url = libraries.graphql_url(backend)
    transports = [PooledWebsocketsTransport(url, pool) for _ in range(16)]
    left = iter(range(rounds))

    async def work(transport: PooledWebsocketsTransport) -> None:
        for _ in left:
            await libraries.ask(transport)

    await asyncio.gather(*map(work, transports))


async def help_tts(pool: WebSocketClientSession, backend: Deepgram, rounds: int) -> None:
    """Put the pool of the example in place of the pool of each TTS."""
    spec = importlib.util.spec_from_file_location("livekit_tts", EXAMPLES / "livekit_tts.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for _ in range(rounds):
        tts = libraries.speech(standing_in(pool, release_on_close=True), backend)
        tts._pool = example.SharedPool(connect_cb=tts._connect_ws)
        for _ in range(2):
            assert await libraries.speak(tts) > 0
        await tts.aclose()


async def help_stt(pool: WebSocketClientSession, backend: Deepgram, rounds: int) -> None:
    """Keep a connection open for the next stream, which then waits for no handshake."""
    (path,) = backend.urls
    options: Any = {"headers": {"Authorization": "Token key"}, "heartbeat": 30.0}
    pool.set_min_idle(f"{backend.url.replace('http', 'ws', 1)}{path}", rounds, **options)
    await until(lambda: pool.stats().idle == rounds)
    make_http = standing_in(pool)
    await repeat(lambda: libraries.use_stt(make_http, backend), rounds, rounds)


def graphql() -> Any:
    from .graphql import GraphQLServer

    return GraphQLServer()


TRIALS = [
    Trial("gql", "gql", libraries.use_gql, graphql, help_gql, workers=16),
    Trial(
        "livekit-plugins-deepgram",
        "livekit.plugins.deepgram",
        libraries.use_tts,
        Deepgram,
        help_tts,
    ),
    Trial(
        "livekit-plugins-deepgram",
        "livekit.plugins.deepgram",
        libraries.use_interrupted_tts,
        Deepgram,
    ),
    Trial(
        "livekit-plugins-deepgram",
        "livekit.plugins.deepgram",
        libraries.use_stt,
        Deepgram,
        help_stt,
        # The plugin ends a stream with its next keep-alive, up to 5 s later.
        workers=20,
    ),
    Trial("python-socketio", "socketio", libraries.use_socketio, SocketIO),
    Trial("hass-client", "hass_client", libraries.use_hass, HomeAssistant),
    Trial("slack-sdk", "slack_sdk", libraries.use_slack, Slack),
]


@asynccontextmanager
async def backend_of(trial: Trial) -> AsyncIterator[Any]:
    backend = trial.backend()
    if isinstance(backend, Backend):
        async with serving(backend):
            yield backend
        assert not backend.complaints, backend.complaints
    else:
        from ..servers import serving as serving_graphql

        async with serving_graphql(backend) as served:
            yield served


async def run(trial: Trial, rounds: int) -> list[str]:
    """Return the numbers of handshakes: aiohttp, two stand-ins, and with help.

    In parentheses: the number of handshakes that a use has waited for.
    """
    counts = []
    async with backend_of(trial) as backend:

        async def count(use: Awaitable[None]) -> None:
            backend.handshakes = 0
            await use
            counts.append(str(backend.handshakes))

        def with_(make_http: MakeHttp) -> Awaitable[None]:
            return repeat(lambda: trial.use(make_http, backend), rounds, trial.workers)

        async with plain() as make_http:
            await count(with_(make_http))
        for release_on_close in (False, True):
            async with WebSocketClientSession(limit=max(8, trial.workers)) as pool:
                await count(with_(standing_in(pool, release_on_close=release_on_close)))
        if trial.helped is None:
            counts.append("-")
        else:
            limit = 8 if trial.distribution == "gql" else None
            async with WebSocketClientSession(limit=limit) as pool:
                await count(trial.helped(pool, backend, rounds))
                if trial.helped is help_stt:
                    # Each was opened before its stream.
                    counts[-1] = f"({pool.stats().queued})"
    return counts


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="uses of each library (20)")
    parser.add_argument("--gql", type=int, default=200, help="queries with gql (200)")
    options = parser.parse_args()
    # They log each connection that they lose.
    logging.disable(logging.WARNING)
    row = "{:<34} {:<22} {:>5} {:>8} {:>9} {:>10} {:>7}"
    print(row.format("library", "use", "uses", "aiohttp", "stand-in", "releasing", "helped"))
    for trial in TRIALS:
        use = trial.use.__name__.removeprefix("use_")
        if not is_installed(trial.module):
            print(f"{trial.distribution:<34} {use:<22} is not installed")
            continue
        rounds = options.gql if trial.distribution == "gql" else options.rounds
        version = importlib.metadata.version(trial.distribution)
        counts = await run(trial, rounds)
        print(row.format(f"{trial.distribution} {version}", use, rounds, *counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
