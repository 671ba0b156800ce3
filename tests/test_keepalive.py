"""What the pool sends over idle connections: ``keepalive``, and ``goodbye`` at their end."""

import asyncio
import contextlib
import gc
import logging
import random
import weakref
from typing import Any

import pytest

from aiowebsocketclient import (
    ClientWebSocketResponse,
    PoolTimeoutError,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, until
from .servers import Server

# Longer than any test, and as short as the pool can do.
NEVER, OFTEN = 600.0, 0.001
# On the path /short, the server does not answer it.
WORD = "k" * 1001


def is_answer(message: Any) -> bool:
    return bool(message.data == "answer")


async def exchange(session: WebSocketClientSession, url: str, text: str = "hello") -> bool:
    """Return whether the connection was used before."""
    async with session.ws_connect(url) as ws:
        await ws.send_str(text)
        assert await ws.receive_str() == text
        return ws.reused


def conns_of(session: WebSocketClientSession) -> list[Any]:
    return [slot.conn for slot in session._pool.slots()]


class Asker:
    """A hook that sends a word and reads its echo, when the gate is open."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None

    async def __call__(self, ws: ClientWebSocketResponse) -> None:
        self.begun += 1
        await ws.send_str("ask")
        await self.gate.wait()
        assert await ws.receive_str() == "ask"
        if self.error is not None:
            raise self.error
        self.ended += 1


@pytest.fixture
def asker() -> Asker:
    return Asker()


# -- when ----------------------------------------------------------------------------------------


async def test_an_idle_connection_is_kept_alive(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(keepalive=(OFTEN, WORD))
    await session.prewarm(server.url("/short"), 2)
    await until(lambda: server.received.count(WORD) >= 6)
    assert session.stats().idle == 2
    assert await exchange(session, server.url("/short")) is False
    assert session.stats().connects == 2


async def test_bytes(make_session: SessionFactory, server: Server) -> None:
    session = make_session(keepalive=(OFTEN, b"\x00"))
    await session.prewarm(server.url("/short"), 1)
    await until(lambda: server.received.count(b"\x00") >= 2)


async def test_a_connection_in_use_is_not(make_session: SessionFactory, server: Server) -> None:
    session = make_session(keepalive=(OFTEN, WORD))
    other = make_session(keepalive=(OFTEN, WORD))
    async with session.ws_connect(server.url("/short")) as ws:
        await other.prewarm(server.url("/short"), 1)
        await until(lambda: server.received.count(WORD) >= 10)
        await other.close()
        del server.received[:]
        await asyncio.sleep(0.1)
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        assert server.received == ["hello"]


@pytest.mark.slow
async def test_it_counts_from_the_release(make_session: SessionFactory, server: Server) -> None:
    """A connection that is used often enough sends none."""
    loop = asyncio.get_running_loop()
    sent: list[float] = []
    released: list[float] = []

    async def note(ws: ClientWebSocketResponse) -> None:
        sent.append(loop.time())

    interval = 0.3
    session = make_session(keepalive=(interval, note))
    for _ in range(5):
        await exchange(session, server.url())
        released.append(loop.time())
        await asyncio.sleep(interval / 3)
    await until(lambda: len(sent) >= 3)
    assert session.stats().connects == 1
    for before, after in zip([released[-1], *sent], sent, strict=False):
        # The clock of a release is a few milliseconds late.
        assert after - before > interval - 0.05


async def test_each_call_may_have_its_own(make_session: SessionFactory, server: Server) -> None:
    session = make_session(keepalive=(NEVER, "never"))
    for word in ("a", "b", None):
        option = None if word is None else (OFTEN, word * 1001)
        await (await session.ws_connect(server.url("/short"), keepalive=option)).release()
    await until(lambda: {"a" * 1001, "b" * 1001} <= set(server.received))
    assert session.stats().idle == 3
    assert "never" not in server.received


async def test_one_timer_serves_all(
    make_session: SessionFactory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(keepalive=(NEVER, WORD), max_idle=None)
    await session.prewarm(server.url(), 20)
    beats = session._lifecycle.keepalives
    assert len(beats._beats) == 20
    timer = beats._timer
    await session.prewarm(server.url(), 40)
    assert beats._timer is timer


async def test_a_connection_that_has_ended_is_forgotten(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(keepalive=(NEVER, WORD))
    await session.prewarm(server.url(), 1)
    conn = weakref.ref(conns_of(session)[0].ws)
    await session.drain()
    await until(lambda: len(session._pool) == 0)
    await asyncio.sleep(0)
    gc.collect()
    assert conn() is None


async def test_a_detached_connection_is_the_users(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(keepalive=(OFTEN, WORD))
    ws = await session.ws_connect(server.url("/short"))
    ws.detach()
    await asyncio.sleep(0.1)
    await session.close()
    assert server.received == []
    await ws.close()


# -- age and order -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["message", "answered", "hook"])
async def test_max_idle_is_not_extended(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    options = options_of(kind, asker, "hello")
    session = make_session(max_idle=0.5, **options)
    url = server.url() if kind != "message" else server.url("/short")
    await session.prewarm(url, 1)
    await until(lambda: session.stats().closed_idle == 1)
    assert len(server.received) > 1


def options_of(kind: str, asker: Asker, word: str) -> dict[str, Any]:
    """Return the options of one of the three kinds, whose answer is an echo."""
    if kind == "message":
        return {"keepalive": (OFTEN, WORD)}
    if kind == "answered":
        return {"keepalive": (OFTEN, word), "on_idle_message": lambda m: m.data == word}
    return {"keepalive": (OFTEN, asker)}


async def test_callers_still_take_the_last_released(
    make_session: SessionFactory, server: Server, asker: Asker
) -> None:
    session = make_session(keepalive=(0.05, asker))
    first = await session.ws_connect(server.url())
    second = await session.ws_connect(server.url())
    await first.release()
    await second.release()
    await until(lambda: asker.ended >= 4)
    await until(lambda: not any(conn.busy for conn in conns_of(session)))
    ws = await session.ws_connect(server.url())
    assert ws == second
    await ws.release()


# -- answers -------------------------------------------------------------------------------------


async def begin_busy(
    session: WebSocketClientSession, server: Server, kind: str, asker: Asker
) -> Any:
    """Return the only connection, whose keep-alive is not answered yet."""
    asker.gate.clear()
    await session.prewarm(server.url("/short"), 1)
    (conn,) = conns_of(session)
    await until(lambda: conn.busy and server.received)
    return conn


async def answer(server: Server, kind: str, asker: Asker) -> None:
    if kind == "answered":
        await server.sockets[0].send_str("answer")
    asker.gate.set()


def busy_options(kind: str, asker: Asker, **options: Any) -> dict[str, Any]:
    # So that only one keep-alive is sent: its interval begins anew when it is sent.
    word = WORD if kind == "answered" else asker
    extra = {"on_idle_message": is_answer} if kind == "answered" else {}
    return {"keepalive": (0.01, word), **extra, **options}


KINDS = ["answered", "hook"]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_caller_gets_it_before_the_answer(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    session = make_session(**busy_options(kind, asker, limit=1))
    conn = await begin_busy(session, server, kind, asker)
    assert session.stats().idle == 1
    waiting = asyncio.ensure_future(exchange(session, server.url("/short")))
    await until(lambda: session.stats().waiting == 1)
    assert conn.slot.uses == 0
    await answer(server, kind, asker)
    await waiting
    assert session.stats().connects == 1
    assert session.stats().closed_dirty == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_below_the_limit_a_caller_connects_meanwhile(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    session = make_session(**busy_options(kind, asker))
    await begin_busy(session, server, kind, asker)
    server.received.clear()
    async with session.ws_connect(server.url("/short")) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        assert session.stats().connects == 2
        await answer(server, kind, asker)
        await until(lambda: session.stats().idle == 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_must_not_wait(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    session = make_session(**busy_options(kind, asker))
    conn = await begin_busy(session, server, kind, asker)
    with pytest.raises(PoolTimeoutError):
        await session.ws_connect(server.url("/short"), acquire_timeout=0)
    assert not conn.closing
    await answer(server, kind, asker)
    await until(lambda: session.stats().idle == 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_closes_it(
    make_session: SessionFactory,
    server: Server,
    asker: Asker,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    session = make_session(**busy_options(kind, asker, hook_timeout=0.2))
    await begin_busy(session, server, kind, asker)
    await until(lambda: session.stats().closed_failed == 1)
    event = "keepalive_timeout" if kind == "answered" else "hook_failed"
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    told: Any = record
    assert told.event == event
    assert kind == "answered" or told.hook == "keepalive"


async def test_an_unexpected_answer_is_explained_once(
    make_session: SessionFactory, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(keepalive=(OFTEN, "echo"))
    await session.prewarm(server.url(), 3)
    await until(lambda: session.stats().closed_dirty == 3)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    told: Any = record
    assert told.event == "keepalive_answered"
    assert "on_idle_message=" in record.getMessage()


async def test_a_hook_that_fails_closes(
    make_session: SessionFactory, server: Server, asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    asker.error = ValueError("secret")
    session = make_session(keepalive=(OFTEN, asker))
    await session.prewarm(server.url(), 1)
    await until(lambda: session.stats().closed_failed == 1)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "keepalive" in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_a_ping_from_the_server_is_no_answer(
    make_session: SessionFactory, server: Server, asker: Asker
) -> None:
    """What is answered was a question of the server, not its answer."""

    def judge(message: Any) -> str | bool:
        return "x" * 1001 if message.data == "question" else is_answer(message)

    session = make_session(keepalive=(0.01, WORD), on_idle_message=judge)
    conn = await begin_busy(session, server, "answered", asker)
    await server.sockets[0].send_str("question")
    await until(lambda: "x" * 1001 in server.received)
    assert conn.busy
    assert server.received.count(WORD) == 1
    await server.sockets[0].send_str("answer")
    # The next keep-alive may follow at once.
    await until(lambda: not conn.busy or server.received.count(WORD) > 1)


# -- while it is under way -----------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "set aside"])
@pytest.mark.parametrize("end", ["drain", "close", "lose", "abort", "resize", "evict"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_ends_it_meanwhile(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str, end: str, asked: bool
) -> None:
    session = make_session(**busy_options(kind, asker, limit=1))
    conn = await begin_busy(session, server, kind, asker)
    waiting = None
    if asked:
        waiting = asyncio.ensure_future(exchange(session, server.url("/short")))
        await until(lambda: session.stats().waiting == 1)
    if end == "drain":
        session.drain()
    elif end == "close":
        await session.close()
    elif end == "lose":
        server.transports[0].abort()
    elif end == "abort":
        conn.abort()
    elif end == "resize":
        session.resize(limit=2)
    else:
        session._lifecycle.carry_out(session._pool.evict(1))
    if end in ("resize", "evict") or (end == "drain" and asked):
        # It is not ended, or when its answer has come.
        asker.gate.set()
        with contextlib.suppress(ConnectionError):
            await answer(server, kind, asker)
    asker.gate.set()
    if waiting is not None:
        result = await asyncio.gather(waiting, return_exceptions=True)
        assert result == [False] or end == "close" or not conn.closing, result
    await session.close()
    assert session.stats().acquired == session.stats().idle == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dropped_session(server: Server, asker: Asker, kind: str) -> None:
    session = WebSocketClientSession(**busy_options(kind, asker))
    await begin_busy(session, server, kind, asker)
    with pytest.warns(ResourceWarning):
        del session
        gc.collect()
    asker.gate.set()
    await until(lambda: server.open == 0)


async def test_checks_in_the_background_leave_it_alone(
    make_session: SessionFactory, server: Server, asker: Asker
) -> None:
    """A failed check sets other connections aside: not one whose hook is running."""
    failing = True

    async def check(ws: ClientWebSocketResponse) -> None:
        if failing:
            raise WebSocketPoolError("dead")

    session = make_session(check=check, keepalive=(0.01, asker))
    conn = await begin_busy(session, server, "hook", asker)
    ws = await session.ws_connect(server.url("/short"))
    await ws.release()
    await exchange(session, server.url("/short"))
    failing = False
    assert not conn.closing
    asker.gate.set()
    await until(lambda: asker.ended or not conn.busy)


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_failed_check_a_busy_connection_is_not_next(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    checked: list[Any] = []
    failing: list[Any] = []

    async def check(ws: ClientWebSocketResponse) -> None:
        checked.append(ws)
        if ws in failing:
            # Meanwhile, the other falls idle, and is asked.
            await other.release()
            await until(lambda: conn.busy and server.received)
            raise WebSocketPoolError("dead")

    url = server.url("/short")
    session = make_session(**busy_options(kind, asker, check=check, limit=2))
    asker.gate.clear()
    first = await session.ws_connect(url)
    other = await session.ws_connect(url)
    conn = other._slot.conn  # type: ignore[union-attr]
    failing.append(first)
    await first.release()
    calling = asyncio.ensure_future(exchange(session, url))
    await until(lambda: session.stats().closed_failed == 1)
    assert other not in checked
    assert not conn.closing
    await answer_over(server, conn, kind, asker)
    await calling
    assert not conn.closing


async def answer_over(server: Server, conn: Any, kind: str, asker: Asker) -> None:
    """Answer the keep-alive of a connection, whichever it is of the server's."""
    if kind == "answered":
        port = conn._transport.get_extra_info("sockname")[1]
        (number,) = (
            number
            for number, transport in enumerate(server.transports)
            if transport.get_extra_info("peername")[1] == port
        )
        await server.sockets[number].send_str("answer")
    asker.gate.set()


async def test_a_waiter_whose_connection_has_ended_gets_no_busy_one(
    make_session: SessionFactory, server: Server
) -> None:
    """Both happen between the turn in which it is given a connection and the one it wakes in."""
    session = make_session(keepalive=(OFTEN, "answer"), on_idle_message=is_answer, limit=2)
    first = await session.ws_connect(server.url())
    second = await session.ws_connect(server.url())
    conn = second._slot.conn  # type: ignore[union-attr]
    waiting = asyncio.ensure_future(exchange(session, server.url()))
    await until(lambda: session.stats().waiting == 1)
    first.release()
    second.release()
    while not conn.busy:
        # The loop does not get on, as when it is busy.
        session._lifecycle.keepalives._run()
    first._slot.conn._transport.abort()  # type: ignore[union-attr]
    await waiting
    assert session.stats().closed_lost == 1
    assert not conn.closing


@pytest.mark.parametrize("hook", ["keepalive", "reset"])
async def test_aborted_while_a_hook_runs(
    make_session: SessionFactory, server: Server, asker: Asker, hook: str
) -> None:
    """A fleet that loses its lease does that; the socket may be closed before the hook ends."""

    async def hold(ws: ClientWebSocketResponse) -> None:
        asker.begun += 1
        await asker.gate.wait()

    asker.gate.clear()
    options: dict[str, Any] = {"keepalive": (OFTEN, hold)} if hook == "keepalive" else {}
    session = make_session(reset=hold if hook == "reset" else None, **options)
    released = (await session.ws_connect(server.url())).release()
    await until(lambda: asker.begun == 1)
    session._lifecycle.abort_open()
    await until(lambda: len(session._pool) == 0)
    asker.gate.set()
    await asyncio.wait_for(released, 30)
    assert not await exchange(session, server.url())


@pytest.mark.parametrize("kind", KINDS)
async def test_drain_waits_for_its_end(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    session = make_session(**busy_options(kind, asker))
    await begin_busy(session, server, kind, asker)
    await session.drain()
    assert len(session._pool) == 0


async def test_a_log_handler_that_closes_the_session(
    make_session: SessionFactory, server: Server, asker: Asker
) -> None:
    """No timer stays."""

    class Closing(logging.Handler):
        def emit(self, record: Any) -> None:
            if record.event == "keepalive_timeout":
                session._begin_to_close()

    session = make_session(**busy_options("answered", asker, hook_timeout=0.05))
    handler, logger = Closing(), logging.getLogger("aiowebsocketclient")
    logger.addHandler(handler)
    try:
        await begin_busy(session, server, "answered", asker)
        await until(lambda: session.closed)
    finally:
        logger.removeHandler(handler)
    keepalives = session._lifecycle.keepalives
    await session.close()
    assert keepalives._timer is None


async def test_an_interval_below_the_resolution_of_the_clock(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(keepalive=(5e-324, WORD))
    await session.prewarm(server.url("/short"), 1)
    await until(lambda: server.received.count(WORD) >= 3)


@pytest.mark.parametrize("option", ["keepalive", "goodbye"])
def test_text_that_cannot_be_sent(option: str) -> None:
    value: Any = "secret \ud800" if option == "goodbye" else (5.0, "secret \ud800")
    with pytest.raises(ValueError, match=option) as raised:
        WebSocketClientSession(**{option: value})
    assert "secret" not in str(raised.value)


async def test_min_idle_counts_it(
    make_session: SessionFactory, server: Server, asker: Asker
) -> None:
    asker.gate.clear()
    session = make_session(keepalive=(0.01, asker))
    session.set_min_idle(server.url(), 2)
    await until(lambda: asker.begun == 2)
    await asyncio.sleep(0.05)
    assert session.stats().connects == 2
    asker.gate.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_callers_never_get_the_answer(
    make_session: SessionFactory, server: Server, asker: Asker, kind: str
) -> None:
    """Callers that come at all times get only their own replies."""
    drawn = random.Random(kind)
    session = make_session(limit=4, **(options_of(kind, asker, "kept")))

    async def call(number: int) -> None:
        for turn in range(30):
            await exchange(session, server.url(), f"{number} {turn}")
            await asyncio.sleep(drawn.choice((0, 0, 0.005, 0.012, 0.02)))

    await asyncio.gather(*(call(number) for number in range(8)))
    stats = session.stats()
    assert stats.closed_dirty == stats.closed_failed == stats.closed_lost == 0
    kept = server.received.count("kept") + server.received.count("ask")
    assert kept > 0
    assert stats.connects <= 4


# -- goodbye -------------------------------------------------------------------------------------


async def end_drain(session: WebSocketClientSession, server: Server) -> None:
    await session.drain()


async def end_close(session: WebSocketClientSession, server: Server) -> None:
    await session.close()


async def end_resize(session: WebSocketClientSession, server: Server) -> None:
    other = await session.ws_connect(server.url())
    session.resize(limit=1)
    await other.release()


@pytest.mark.parametrize("goodbye", ["bye", b"bye"])
@pytest.mark.parametrize("end", [end_drain, end_close])
async def test_goodbye(
    make_session: SessionFactory, server: Server, goodbye: str | bytes, end: Any
) -> None:
    session = make_session(goodbye=goodbye)
    await session.prewarm(server.url("/short"), 2)
    await end(session, server)
    await until(lambda: len(server.close_codes) == 2)
    assert server.received == [goodbye, goodbye]
    assert server.close_codes == [1000, 1000]


@pytest.mark.parametrize(
    "options",
    [{"max_idle": 0.05}, {"max_lifetime": 0.05, "max_idle": 0.1}, {"force_close": True}],
    ids=["max_idle", "max_lifetime", "force_close"],
)
async def test_goodbye_of_a_connection_that_the_pool_no_longer_needs(
    make_session: SessionFactory, server: Server, options: dict[str, Any]
) -> None:
    session = make_session(goodbye="bye", **options)
    await exchange(session, server.url())
    await until(lambda: server.received == ["hello", "bye"])


async def test_goodbye_of_a_connection_drained_in_use(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(goodbye="bye")
    async with session.ws_connect(server.url()):
        session.drain()
    await until(lambda: server.received == ["bye"])


async def test_no_goodbye_out_of_order(make_session: SessionFactory, server: Server) -> None:
    """After a failure, an unread message, a close by the user or by the server."""
    session = make_session(goodbye="bye")
    with contextlib.suppress(ValueError):
        async with session.ws_connect(server.url()):
            raise ValueError
    async with session.ws_connect(server.url()) as ws:
        await ws.send_str("hello")
        await until(lambda: vars(ws)["_reader"]._buffer)
    async with session.ws_connect(server.url()) as ws:
        await ws.close()
    await session.prewarm(server.url(), 1)
    await server.sockets[-1].close(code=1001)
    await until(lambda: len(session._pool) == 0)
    await session.close()
    await until(lambda: server.open == 0)
    assert server.received == ["hello"]


async def test_goodbye_to_a_server_that_reads_nothing(
    make_session: SessionFactory, server: Server
) -> None:
    session = make_session(goodbye="x" * 8_000_000, close_timeout=0.3)
    await session.prewarm(server.url("/silent"), 1)
    await session.close()
    assert len(session._pool) == 0


def test_no_secret_is_shown() -> None:
    session = WebSocketClientSession(goodbye="secret", keepalive=(5.0, "secret"))
    assert "secret" not in repr(session._pool_settings.hooks)
    with pytest.raises(TypeError) as raised:
        WebSocketClientSession(keepalive=("secret", "secret", "secret"))  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)
