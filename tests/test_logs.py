"""What the package logs."""

import asyncio
import contextlib
import errno
import inspect
import json
import logging
import os
import re
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PrewarmError, WebSocketClientSession, logs

from .conftest import SessionFactory, until
from .servers import Server

NAME = "aiowebsocketclient"
HOOKS = ["configure", "check", "reset"]

# What a record has anyhow, and ours.
_PLAIN = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def table() -> dict[str, tuple[str, set[str]]]:
    """Return the levels and the fields of the events in the docstring."""
    rows = re.split(r"^``(\w+)`` +([A-Z]+)", inspect.getdoc(logs) or "", flags=re.MULTILINE)
    rows[-1] = rows[-1].partition("\n===")[0]
    events = zip(rows[1::3], rows[2::3], rows[3::3], strict=True)
    return {event: (level, set(re.findall(r"``(\w+)``", text))) for event, level, text in events}


class Records(logging.Handler):
    """Keeps what is logged, and holds it to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of the records of an event."""
        level, names = table()[event]
        found = []
        for record in self.all:
            if record.event == event:  # type: ignore[attr-defined]
                assert record.levelname == level
                assert fields(record).keys() == names | {"event"}
                assert record.pathname != logs.__file__
                json.dumps(fields(record))
                record.getMessage()
                found.append(fields(record))
        return found

    @property
    def events(self) -> list[str]:
        return [record.event for record in self.all]  # type: ignore[attr-defined]


@pytest.fixture
def records(request: pytest.FixtureRequest) -> Any:
    """Return what is logged while the test runs; ``indirect`` with another level than DEBUG."""
    handler, logger = Records(), logging.getLogger(NAME)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(getattr(request, "param", logging.DEBUG))
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


def test_the_table_has_all_events() -> None:
    levels = {event: level for event, (level, _) in table().items()}
    assert levels == {
        event: logging.getLevelName(level) for event, (level, _) in logs._EVENTS.items()
    }
    for event, (_, message) in logs._EVENTS.items():
        names = table()[event][1]
        # "detail" is for the message alone; what it says has fields of its own.
        assert set(re.findall(r"%\((\w+)\)", message)) - {"detail"} <= names, event
        # logging refuses fields that a record has already.
        assert not (names | {"event"}) & _PLAIN


async def test_a_connection_from_its_opening_to_its_close(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    session = make_session()
    for _ in range(3):
        async with session.ws_connect(server.url()) as ws:
            await ws.send_str("hello")
            await ws.receive()
    # Nothing of what takes and gives back what is idle.
    assert records.events == ["opened"]
    await ws.close()
    await session.close()
    assert records.events == ["opened", "closed"]
    (opened,) = records.of("opened")
    assert opened["endpoint"] == f"127.0.0.1:{server.port}"
    assert opened["seconds"] >= 0
    (closed,) = records.of("closed")
    assert closed["seconds"] >= opened["seconds"]
    assert (closed["reason"], closed["uses"]) == ("forced", 3)


async def test_a_connection_lost(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    session = make_session()
    await (await session.ws_connect(server.url())).release()
    server.transports[0].abort()
    await until(lambda: "closed" in records.events)
    (closed,) = records.of("closed")
    assert (closed["reason"], closed["uses"]) == ("lost", 1)


async def test_a_handshake_that_fails(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await make_session().ws_connect(server.url("/refuse"))
    (failed,) = records.of("connect_failed")
    assert failed["error"] == "WSServerHandshakeError"
    assert records.events == ["connect_failed"]


async def test_each_event_about_a_refused_handshake_has_its_status(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    """So that a token that has expired does not look like an outage."""
    session = make_session()
    url = server.url("/refuse").replace("//", "//user:sesame@") + "?token=sesame"
    session.set_min_idle(url, 1, headers={"X-Key": "sesame"})
    await until(lambda: {"min_idle_failing", "min_idle_unchanged"} <= {*records.events})
    session.set_min_idle(url, 0, headers={"X-Key": "sesame"})
    balanced = session.balanced(["ws://127.0.0.1:1/"])
    with pytest.raises(aiohttp.ClientConnectorError):
        await balanced.ws_connect()
    failed = [record for record in records.all if hasattr(record, "error")]
    assert {record.event for record in failed} == {  # type: ignore[attr-defined]
        "connect_failed",
        "min_idle_failing",
        "min_idle_unchanged",
        "endpoint_out",
    }
    for record in failed:
        said = record.getMessage()
        if record.error == "WSServerHandshakeError":
            assert record.status == 403  # type: ignore[attr-defined]
            assert "WSServerHandshakeError, status 403" in said
        else:
            assert record.status is None  # type: ignore[attr-defined]
            assert f"ClientConnectorError, {os.strerror(errno.ECONNREFUSED)}" in said
        assert "sesame" not in said + str(vars(record))


async def test_a_handshake_that_is_stopped_has_not_failed(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    session = make_session()
    caller = asyncio.ensure_future(session.ws_connect(server.url("/hang")))
    await until(lambda: server.arrived)
    await session.close()
    await asyncio.wait([caller])
    assert caller.exception()
    assert records.events == []


async def fail(ws: aiohttp.ClientWebSocketResponse) -> None:
    raise KeyError("s3cr3t")


async def use(session: WebSocketClientSession, url: str) -> None:
    for _ in range(2):
        await (await session.ws_connect(url)).release()


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("records", [logging.DEBUG, logging.WARNING], indirect=True)
async def test_a_hook_that_fails(
    server: Server, make_session: SessionFactory, records: Records, name: str
) -> None:
    session = make_session(**{name: fail}, limit=1)
    try:
        await use(session, server.url())
    except KeyError:
        assert name == "configure"
    await until(lambda: records.of("hook_failed"))
    failed = records.of("hook_failed")[0]
    assert failed["endpoint"] == f"127.0.0.1:{server.port}"
    assert (failed["hook"], failed["function"], failed["error"]) == (name, "fail", "KeyError")
    for record in records.all:
        assert "s3cr3t" not in str(fields(record)) + record.getMessage()
        is_debugging = logging.getLogger(NAME).isEnabledFor(logging.DEBUG)
        has_traceback = is_debugging and record.event == "hook_failed"  # type: ignore[attr-defined]
        assert bool(record.exc_info) is has_traceback


@pytest.mark.parametrize("name", HOOKS)
async def test_a_hook_that_takes_too_long(
    server: Server, make_session: SessionFactory, records: Records, name: str
) -> None:
    async def sleep(ws: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(30)

    session = make_session(**{name: sleep}, limit=1, hook_timeout=0.02)
    try:
        await use(session, server.url())
    except aiohttp.ConnectionTimeoutError:
        assert name == "configure"
    await until(lambda: records.of("hook_failed"))
    assert records.of("hook_failed")[0]["error"] == "TimeoutError"


@pytest.mark.parametrize("name", HOOKS)
async def test_a_hook_that_is_not_async(
    server: Server, make_session: SessionFactory, records: Records, name: str
) -> None:
    session = make_session(**{name: lambda ws: None})
    try:
        await use(session, server.url())
    except TypeError:
        assert name == "configure"
    await until(lambda: records.of("hook_not_async"))
    assert records.of("hook_not_async")[0]["hook"] == name


@pytest.mark.parametrize("name", HOOKS)
async def test_a_hook_that_fails_because_the_connection_has_ended(
    server: Server, make_session: SessionFactory, records: Records, name: str
) -> None:
    async def exchange(ws: aiohttp.ClientWebSocketResponse) -> None:
        server.transports[-1].abort()
        await ws.receive_str()

    session = make_session(**{name: exchange}, limit=1)
    try:
        await use(session, server.url())
    except (aiohttp.ClientError, TypeError):
        assert name == "configure"
    await until(lambda: {"closed", "connect_failed"} & {*records.events})
    assert records.of("hook_failed") == []


async def test_a_check_that_is_stopped_has_not_failed(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    async def sleep(ws: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(30)

    session = make_session(check=sleep, limit=1)
    await (await session.ws_connect(server.url())).release()
    with pytest.raises(asyncio.TimeoutError):
        await session.ws_connect(server.url(), acquire_timeout=0.02)
    await (await session.ws_connect(server.url())).release()
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().acquired)
    caller.cancel()
    await asyncio.wait([caller])
    await (await session.ws_connect(server.url())).release()
    caller = asyncio.ensure_future(session.ws_connect(server.url()))
    await until(lambda: session.stats().acquired)
    await session.close()
    await asyncio.wait([caller])
    assert caller.exception()
    assert set(records.events) == {"opened", "closed"}


async def test_a_connection_held_for_too_long(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    ws = await make_session(leak_threshold=0.01).ws_connect(server.url())
    await until(lambda: records.of("leak"))
    (leak,) = records.of("leak")
    assert leak["endpoint"] == f"127.0.0.1:{server.port}"
    assert leak["seconds"] >= 0.01
    await ws.release()


async def test_a_closing_handshake_that_fails(
    server: Server,
    make_session: SessionFactory,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*args: Any, **kwargs: Any) -> None:
        raise LookupError

    session = make_session(force_close=True)
    ws = await session.ws_connect(server.url())
    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "close", fail)
    await ws.release()
    (failed,) = records.of("close_failed")
    assert failed["error"] == "LookupError"


async def test_a_cookie_jar_that_fails(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    class Jar(aiohttp.CookieJar):
        def filter_cookies(self, *args: Any) -> Any:
            if server.handshakes:
                raise LookupError
            return super().filter_cookies(*args)

    async with aiohttp.ClientSession(cookie_jar=Jar()) as client_session:
        session = make_session(client_session=client_session, client_session_owner=False)
        await (await session.ws_connect(server.url())).release()
        (failed,) = records.of("cookie_jar_failed")
        assert failed["error"] == "LookupError"
        await session.close()


async def test_a_connector_with_a_limit(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    connector = aiohttp.TCPConnector(limit=7)
    session = make_session(client_session=aiohttp.ClientSession(connector=connector))
    await (await session.ws_connect(server.url())).release()
    assert records.of("connector_limited") == [
        {"event": "connector_limited", "setting": "limit", "limit": 7}
    ]


async def test_what_does_not_let_itself_be_cancelled(
    server: Server, make_session: SessionFactory, records: Records
) -> None:
    stop = asyncio.Event()

    async def linger(ws: aiohttp.ClientWebSocketResponse) -> None:
        while not stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()

    session = make_session(reset=linger, close_timeout=0.05)
    (await session.ws_connect(server.url())).release()
    await asyncio.sleep(0)
    await session.close()
    (said,) = records.of("not_cancellable")
    assert said["session"].startswith("<WebSocketClientSession closed")
    stop.set()
    await until(lambda: not session.stats().endpoints)


@pytest.mark.parametrize("is_filter", [True, False])
async def test_what_fails_to_log_costs_no_place(
    server: Server, make_session: SessionFactory, records: Records, is_filter: bool, capsys: Any
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise LookupError("of the filter")

    if is_filter:
        records.addFilter(fail)
    else:
        records.emit = fail  # type: ignore[method-assign,assignment]
    session = make_session(limit=1)
    for _ in range(3):
        async with asyncio.timeout(30), session.ws_connect(server.url()) as ws:
            pass
        async with session.ws_connect(server.url()) as ws:
            await ws.close()
    assert "of the filter" in capsys.readouterr().err
    await session.close()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("path", "is_jar_broken", "events"),
    [
        ("/", False, {"opened", "detached", "closed"}),
        ("/", True, {"opened", "detached", "closed", "cookie_jar_failed"}),
        ("/refuse", False, {"connect_failed"}),
    ],
)
async def test_who_is_logged_to_may_drain(
    server: Server,
    make_session: SessionFactory,
    records: Records,
    path: str,
    is_jar_broken: bool,
    events: set[str],
) -> None:
    class Jar(aiohttp.CookieJar):
        def filter_cookies(self, *args: Any) -> Any:
            if is_jar_broken and server.handshakes == 1 and "cookie_jar_failed" not in asked:
                raise LookupError
            return super().filter_cookies(*args)

    asked: set[str] = set()

    def drain(record: Any) -> bool:
        if record.event not in asked and not session.closed:
            asked.add(record.event)
            session.drain()
        return True

    records.addFilter(drain)
    connector = aiohttp.TCPConnector(limit=0)
    client_session = aiohttp.ClientSession(cookie_jar=Jar(), connector=connector)
    session = make_session(client_session=client_session)
    async with asyncio.timeout(30):
        with contextlib.suppress(PrewarmError):
            await session.prewarm(server.url(path), 1)
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            await (await session.ws_connect(server.url(path))).close()
            ws = await session.ws_connect(server.url(path))
            ws.detach()
            await ws.close()
    await until(lambda: asked == events and not session.stats().closing)
    stats = session.stats()
    assert stats.acquired == stats.connecting == stats.waiting == 0
    await session.close()
    assert not session.stats().endpoints


def test_it_is_quiet_where_logging_is_not_set_up() -> None:
    program = """
import logging
from aiowebsocketclient import logs
logs.log("connector_limited", setting="limit", limit=1)
logging.getLogger("another").warning("heard")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "", "heard")
