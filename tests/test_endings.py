"""For each way in which a connection ends: the exception, the record, the trace, the counters.

``docs/endings.csv`` is the table of the documentation; each row of it has its test here.
"""

import asyncio
import contextlib
import csv
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PoolClosedError, TraceConfig, WebSocketClientSession
from aiowebsocketclient.tracing import TraceCloseParams, TraceConnectExceptionParams

from .conftest import SessionFactory, until
from .servers import Server

TABLE = Path(__file__).parent.parent / "docs" / "endings.csv"
SAID = "said why"


class Scene:
    """A session with one connection, and what is told of its end."""

    def __init__(self, server: Server, make_session: SessionFactory, **settings: Any) -> None:
        self.server = server
        trace = TraceConfig()
        trace.on_close.append(self.note)
        self.closes: list[TraceCloseParams] = []
        self.session: WebSocketClientSession = make_session(trace_configs=[trace], **settings)
        self.error: BaseException | None = None

    async def note(self, session: Any, ctx: Any, params: TraceCloseParams) -> None:
        self.closes.append(params)

    async def idle(self, **options: Any) -> Any:
        """Leave one connection idle; returns the server's end."""
        await (await self.session.ws_connect(self.server.url(), **options)).release()
        return self.server.sockets[0]

    async def used(self, using: Callable[[Any, Any], Awaitable[object]]) -> None:
        """Use one connection in a block, and keep what leaves the block."""
        try:
            async with self.session.ws_connect(self.server.url()) as ws:
                await using(ws, self.server.sockets[0])
        except BaseException as exc:
            self.error = exc


async def server_closes(peer: Any, code: int, reason: str = SAID) -> None:
    with contextlib.suppress(ConnectionError):
        await peer.close(code=code, message=reason.encode(), drain=False)


def closing(code: int) -> Any:
    async def end(scene: Scene) -> None:
        closed = asyncio.ensure_future(server_closes(await scene.idle(), code))
        await until(lambda: bool(scene.closes))
        await closed

    return end


async def without_a_code(scene: Scene) -> None:
    peer = await scene.idle()
    await peer._writer.send_frame(b"", aiohttp.WSMsgType.CLOSE)


async def message_and_close(scene: Scene) -> None:
    peer = await scene.idle()
    frames = b"\x81\x03bye" + b"\x88\x0a" + (1008).to_bytes(2, "big") + SAID.encode()
    peer._writer.transport.write(frames)


async def message_then_close(scene: Scene) -> None:
    # One that reads nothing: the CLOSE is its own, and no answer.
    await (await scene.session.ws_connect(scene.server.url("/silent"))).release()
    peer: Any = scene.server.sockets[0]
    await peer.send_str("bye")
    await until(lambda: scene.session.stats().closing)
    await peer._writer.send_frame((1008).to_bytes(2, "big") + SAID.encode(), 8)


async def message_only(scene: Scene) -> None:
    await (await scene.idle()).send_str("news")


async def reset_idle(scene: Scene) -> None:
    await scene.idle()
    scene.server.transports[0].abort()


async def silence(scene: Scene) -> None:
    ws = await scene.session.ws_connect(scene.server.url("/silent"), heartbeat=0.05)
    await ws.release()


async def leave_idle(scene: Scene) -> None:
    # On a busy machine its time may be up by now.
    await (await scene.session.ws_connect(scene.server.url())).release()


async def evict(scene: Scene) -> None:
    await scene.idle()
    async with scene.session.ws_connect(scene.server.url("/other")):
        await until(lambda: bool(scene.closes))


async def crowd_out(scene: Scene) -> None:
    both = [await scene.session.ws_connect(scene.server.url()) for _ in range(2)]
    for ws in both:
        await ws.release()


async def retire(scene: Scene) -> None:
    both = [await scene.session.ws_connect(scene.server.url()) for _ in range(2)]
    for ws in both:
        await ws.release()
    closed = asyncio.ensure_future(server_closes(scene.server.sockets[1], 1012))
    await until(lambda: len(scene.closes) == 2)
    await closed
    # The one that the server closes is told of in another row.
    scene.closes.sort(key=lambda close: close.reason)
    assert [close.reason for close in scene.closes] == ["forced", "lost"]


async def fail_check(scene: Scene) -> None:
    async def check(ws: Any) -> None:
        raise ValueError

    await scene.idle(check=check)
    async with scene.session.ws_connect(scene.server.url(), check=check):
        await until(lambda: bool(scene.closes))


async def cancel_during_check(scene: Scene) -> None:
    begun = asyncio.Event()

    async def check(ws: Any) -> None:
        begun.set()
        await asyncio.sleep(600)

    await scene.idle(check=check)
    caller = asyncio.ensure_future(scene.session.ws_connect(scene.server.url(), check=check))
    await begun.wait()
    caller.cancel()
    scene.error = (await asyncio.gather(caller, return_exceptions=True))[0]


async def drain(scene: Scene) -> None:
    await scene.idle()
    await scene.session.drain()


def in_use(code: int) -> Any:
    async def end(scene: Scene) -> None:
        async def using(ws: Any, peer: Any) -> None:
            closed = asyncio.ensure_future(server_closes(peer, code))
            try:
                await ws.receive_str()
            finally:
                await closed

        await scene.used(using)

    return end


async def send_after_close(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        await peer._writer.send_frame((1008).to_bytes(2, "big") + SAID.encode(), 8)
        scene.server.transports[0].close()
        await until(lambda: ws._response.connection is None or ws._conn.transport is None)
        await ws.send_str("question")

    await scene.used(using)


async def reset_in_use(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        scene.server.transports[0].abort()
        await ws.receive_str()

    await scene.used(using)


async def an_error(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        raise KeyError("mine")

    await scene.used(using)


async def a_cancellation(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        raise asyncio.CancelledError

    await scene.used(using)


async def a_timeout_around(scene: Scene) -> None:
    async def use() -> None:
        async with scene.session.ws_connect(scene.server.url()) as ws:
            await ws.receive()

    try:
        await asyncio.wait_for(use(), 0.05)
    except TimeoutError as exc:
        scene.error = exc


async def a_timeout_inside(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        await ws.receive(timeout=0.01)

    await scene.used(using)


async def closed_generator(scene: Scene) -> None:
    async def words() -> AsyncIterator[str]:
        async with scene.session.ws_connect(scene.server.url()):
            yield "a word"

    async with contextlib.aclosing(words()) as speech:
        async for _ in speech:
            break


async def an_error_with_cooldown(scene: Scene) -> None:
    await an_error(scene)
    # It is told of when the socket is gone; the place is not free yet.
    await until(lambda: bool(scene.closes))
    assert not scene.server.open
    assert scene.session.stats().closing == 1


async def users_close_in_vain(scene: Scene) -> None:
    ws = await scene.session.ws_connect(scene.server.url("/silent"))
    await ws.close()


async def given_up(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await ws.receive(timeout=0.01)

    await scene.used(using)


async def fail_reset(scene: Scene) -> None:
    async def reset(ws: Any) -> None:
        raise ValueError

    await (await scene.session.ws_connect(scene.server.url(), reset=reset)).release()


async def release(scene: Scene) -> None:
    await (await scene.session.ws_connect(scene.server.url())).release()


async def forget(scene: Scene) -> None:
    ws: Any = await scene.session.ws_connect(scene.server.url())
    with pytest.warns(ResourceWarning, match="was never released"):
        del ws
        gc.collect()


async def close_session_when_idle(scene: Scene) -> None:
    await scene.idle()
    await scene.session.close()


async def users_close(scene: Scene) -> None:
    await scene.used(lambda ws, peer: ws.close())


async def unread(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        await peer.send_str("news")
        await until(lambda: bool(ws._reader._buffer))

    await scene.used(using)


async def close_session(scene: Scene) -> None:
    async def using(ws: Any, peer: Any) -> None:
        await scene.session.close()
        await ws.send_str("question")

    await scene.used(using)


#: In the order of the table: how it comes about, and with which settings of the session.
WAYS: list[tuple[Callable[[Scene], Awaitable[None]], dict[str, Any]]] = [
    (closing(1000), {}),
    (closing(1001), {}),
    (closing(1008), {}),
    (closing(1011), {}),
    (without_a_code, {}),
    (message_and_close, {}),
    (message_then_close, {}),
    (message_only, {}),
    (reset_idle, {}),
    (silence, {}),
    (leave_idle, {"max_idle": 0.05}),
    (leave_idle, {"max_lifetime": 0.05}),
    (evict, {"limit": 1}),
    (crowd_out, {"max_idle_connections": 1}),
    (retire, {"retire_on": {1012}}),
    (fail_check, {}),
    (cancel_during_check, {}),
    (drain, {}),
    (close_session_when_idle, {}),
    (in_use(1000), {}),
    (in_use(1008), {}),
    (send_after_close, {}),
    (reset_in_use, {}),
    (an_error, {}),
    (an_error_with_cooldown, {"cooldown": 600}),
    (a_cancellation, {}),
    (a_timeout_around, {}),
    (a_timeout_inside, {}),
    (closed_generator, {}),
    (users_close, {}),
    (users_close_in_vain, {"close_timeout": 0.05}),
    (unread, {}),
    (given_up, {}),
    (fail_reset, {}),
    (release, {"force_close": True}),
    (forget, {}),
    (close_session, {}),
]


def rows() -> list[list[str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_each_row_has_a_test() -> None:
    assert len(rows()) == len(WAYS)


@pytest.mark.parametrize("number", range(len(WAYS)), ids=[row[0] for row in rows()])
async def test_a_row(
    number: int,
    server: Server,
    make_session: SessionFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")
    _, exception, reason, code = (cell.strip("`") for cell in rows()[number])
    bring_about, settings = WAYS[number]
    scene = Scene(server, make_session, **settings)
    await bring_about(scene)
    await until(lambda: bool(scene.closes))
    expected = {"none": None, "the answer": 1000}.get(code, code)
    expected = None if expected is None else int(expected)
    # The trace.
    close = scene.closes[0]
    assert (close.reason, close.close_code) == (reason, expected)
    # The record.
    records: list[Any] = [r for r in caplog.records if getattr(r, "event", "") == "closed"]
    record = next(record for record in records if record.reason == reason)
    assert record.close_code == expected
    assert record.close_reason == close.close_reason
    is_said = code.isdigit() and code != "1005"
    assert close.close_reason == (SAID if is_said else "")
    if is_said:
        assert record.getMessage().endswith(f"; the server's CLOSE: {code} {SAID}")
    # The counters.
    counted = {k: v for k, v in asdict(scene.session.stats()).items() if k.startswith("closed_")}
    assert counted[f"closed_{reason}"] >= 1
    assert sum(counted.values()) == len(scene.closes)
    # The exception of the user.
    if exception == "—":
        assert scene.error is None
        return
    assert scene.error is not None
    names = [kind.__name__ for kind in type(scene.error).__mro__]
    assert exception in names if exception != "that error" else names[0] == "KeyError"
    if is_said:
        error: Any = scene.error
        assert (error.close_code, error.close_reason) == (int(code), SAID)
        assert error.__notes__ == [
            f"The server closed the connection to 127.0.0.1:{server.port}: {code} {SAID}"
        ]
    else:
        assert not hasattr(scene.error, "__notes__") or code == "the answer"


async def test_an_error_of_the_users_own_is_left_as_it_is(
    server: Server, make_session: SessionFactory
) -> None:
    scene = Scene(server, make_session)

    async def using(ws: Any, peer: Any) -> None:
        closed = asyncio.ensure_future(server_closes(peer, 1008))
        await ws.receive()
        await closed
        raise KeyError("mine")

    await scene.used(using)
    assert isinstance(scene.error, KeyError)
    assert not hasattr(scene.error, "__notes__")


async def test_a_session_closed_while_it_connects(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")
    server.gate.clear()
    trace = TraceConfig()
    failures: list[TraceConnectExceptionParams] = []

    @trace.on_connect_exception.append
    async def note(session: Any, ctx: Any, params: TraceConnectExceptionParams) -> None:
        failures.append(params)

    session = make_session(trace_configs=[trace])
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: server.arrived == 1)
    await session.close()
    with pytest.raises(PoolClosedError):
        await caller
    assert isinstance(failures[0].exception, asyncio.CancelledError)
    # It was no connection yet, and has not failed.
    assert not [r for r in caplog.records if r.name == "aiowebsocketclient"]
    stats = asdict(session.stats())
    assert not any(n for name, n in stats.items() if name.startswith(("closed_", "connect_err")))


async def test_a_refused_handshake(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")
    failures: list[TraceConnectExceptionParams] = []
    trace = TraceConfig()

    async def note(session: Any, ctx: Any, params: TraceConnectExceptionParams) -> None:
        failures.append(params)

    trace.on_connect_exception.append(note)
    session = make_session(trace_configs=[trace])
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(server.url("/refuse"))
    await until(lambda: bool(failures))
    record: Any = next(r for r in caplog.records if getattr(r, "event", "") == "connect_failed")
    assert failures[0].status == record.status == caught.value.status == 403
    assert record.getMessage().endswith("WSServerHandshakeError, status 403")


async def test_what_a_server_says_is_bounded_and_printable(
    server: Server, make_session: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiowebsocketclient")
    scene = Scene(server, make_session)
    peer = await scene.idle()
    said = "a\nERROR forged\x1b[31m" + "x" * 100
    closed = asyncio.ensure_future(server_closes(peer, 1008, said))
    await until(lambda: bool(scene.closes))
    await closed
    shown = scene.closes[0].close_reason
    assert shown.isprintable()
    assert len(shown) <= 123
    assert "\n" not in caplog.records[-1].getMessage()
    assert said not in repr(scene.closes[0])
