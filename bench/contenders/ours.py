"""The library itself, on live sockets; the environment chooses the core."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count as count_from
from itertools import repeat
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Self
from uuid import uuid4

import aiohttp
from multidict import CIMultiDict

import aiowebsocketclient
from aiowebsocketclient import ClientWebSocketResponse, WebSocketClientSession
from aiowebsocketclient.keys import HandshakeKey, resolve

from ..contender import Contender
from ..fleet import AT_ONCE
from .parked import Parked


class Ours(Contender):
    def __init__(self, session: WebSocketClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self._opened = 0
        self._traces = 2

    @classmethod
    def about(cls) -> dict[str, Any]:
        return {
            "implementation": aiowebsocketclient.IMPLEMENTATION,
            "path": aiowebsocketclient.__file__,
            "cython": _cython(),
        }

    @classmethod
    @asynccontextmanager
    async def filled(cls, url: str, *, limit: int, connections: int) -> AsyncIterator[Self]:
        async with WebSocketClientSession(limit=limit or None) as session:
            pool = cls(session, url)
            await pool._open(connections)
            yield pool
            # Only reuse was timed.
            assert session.stats().connects == pool._opened

    async def cycle(self, cycles: int) -> int:
        session, url = self.session, self.url
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            ws = await session.ws_connect(url)
            await ws.release()
        return perf_counter_ns() - started

    async def use(self, cycles: int) -> None:
        session, url = self.session, self.url
        for _ in repeat(None, cycles):
            ws = await session.ws_connect(url)
            await asyncio.sleep(0)
            await ws.release()

    async def use_until(self, stop: asyncio.Event) -> int:
        session, url = self.session, self.url
        uses = 0
        while not stop.is_set():
            ws = await session.ws_connect(url)
            await asyncio.sleep(0)
            await ws.release()
            uses += 1
        return uses

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        async with self._held(count):
            yield

    async def _open(self, connections: int) -> None:
        """Open idle connections, and use each of them as a service does: a message each way."""
        # The first caller opens its own connection, as without prewarm().
        for count in (min(connections, 1), connections):
            if count > 1:
                await self.session.prewarm(self.url, count)
            async with self._held(count) as handles:
                for ws in handles:
                    await ws.send_str("hello")
                    assert await ws.receive_str() == "hello"
        self._opened += connections

    @classmethod
    @asynccontextmanager
    async def slow(cls, url: str, *, connections: int, at_once: int) -> AsyncIterator[Self]:
        url = f"{url}slow/{uuid4().hex}"
        async with WebSocketClientSession(max_connecting=at_once) as session:
            await session.prewarm(url, connections)
            yield cls(session, url)

    async def use_for(self, seconds: float) -> None:
        async with self.session.ws_connect(self.url):
            await asyncio.sleep(seconds)

    async def begun(self) -> int:
        async with self.session.client_session.get(f"{self.url}/begun") as response:
            return int(await response.text())

    @classmethod
    @asynccontextmanager
    async def fleet(cls, client_session: aiohttp.ClientSession, url: str) -> AsyncIterator[Parked]:
        async with WebSocketClientSession(
            client_session=client_session, client_session_owner=False, max_connecting=AT_ONCE
        ) as session:
            yield Parked(session, url)

    # -- what our own scenarios do -----------------------------------------------------------------

    @staticmethod
    def key(url: str) -> HandshakeKey:
        """Return the key that the core looks up for a plain URL."""
        target = resolve(url, {}, headers=CIMultiDict(), reuse_key=None, client_session=None)
        return target.key

    async def async_with(self, cycles: int) -> int:
        session, url = self.session, self.url
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            async with session.ws_connect(url):
                pass
        return perf_counter_ns() - started

    async def open_with_options(self) -> None:
        """Open the connection that :meth:`with_options` cycles."""
        await self.with_options(1)
        self._opened += 1

    async def with_options(self, cycles: int) -> int:
        session, url = self.session, self.url
        token, tenant = "qW3v9xLp0aTz7RkY", 4711
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            # Built in each call, as in the code of a user.
            ws = await session.ws_connect(
                url,
                headers={
                    "Authorization": f"Bearer {token}",
                    "X-Tenant": f"{tenant}",
                    "User-Agent": "bench/1.0",
                },
                # The echo server accepts the first of them.
                protocols=["bench.v2", "bench.v1"],
            )
            await ws.release()
        return perf_counter_ns() - started

    async def open_traced(self) -> None:
        """Open the connection that :meth:`traced` and :meth:`untraced` cycle."""
        await self.untraced(1)
        self._opened += 1

    async def traced(self, cycles: int) -> int:
        """Pass a header that is new in each call, as for a trace."""
        traces = count_from(self._traces)
        self._traces += cycles
        return await self._with_traces(traces, cycles)

    async def untraced(self, cycles: int) -> int:
        """Do the same with a header that is the same in each call."""
        return await self._with_traces(repeat(1), cycles)

    async def _with_traces(self, traces: Iterator[int], cycles: int) -> int:
        session, url = self.session, self.url
        token = "qW3v9xLp0aTz7RkY"
        started = perf_counter_ns()
        for _ in repeat(None, cycles):
            ws = await session.ws_connect(
                url,
                headers={"Authorization": f"Bearer {token}", "X-Trace": f"{next(traces):032x}"},
                reuse_key="user 17",
            )
            await ws.release()
        return perf_counter_ns() - started

    @asynccontextmanager
    async def _held(self, count: int) -> AsyncIterator[list[ClientWebSocketResponse]]:
        held = [await self.session.ws_connect(self.url) for _ in range(count)]
        yield held
        for ws in held:
            await ws.release()


def _cython() -> str | None:
    """Return the version of Cython that compiled the core in use, if known."""
    path = getattr(sys.modules.get("aiowebsocketclient._pool"), "__file__", None)
    if path is None:
        return None
    # Cython's modules share types in a module whose name contains the version.
    found = re.search(rb"_cython_(\d+(?:_\d+)+)", Path(path).read_bytes())
    return found[1].decode().replace("_", ".") if found else None
