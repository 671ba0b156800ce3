"""No header, credential, query or cookie in anything that the package writes or shows.

Everything that is planted here begins with ``SECRET``.  In asyncio's debug mode, where every
callback counts as slow, the loop logs the ``repr`` of each handle and task that it runs.
"""

import asyncio
import base64
import functools
import gc
import io
import logging
import re
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from yarl import URL

from aiowebsocketclient import (
    ConnectionReleasedError,
    PoolClosedError,
    PoolTimeoutError,
    PrewarmError,
    TooManyWaitersError,
    WebSocketClientSession,
    WebSocketPoolError,
)

from .conftest import SessionFactory, until
from .servers import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SECRET = "s3cr3t"
ENCODED = base64.b64encode(SECRET.encode()).decode()
FOUND = re.compile(f"{SECRET}|{ENCODED}", re.IGNORECASE)


def secret(of: str) -> str:
    return f"{SECRET}-{of}"


def basic(of: str) -> aiohttp.BasicAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return aiohttp.BasicAuth(secret(f"{of}-user"), secret(f"{of}-password"))


QUERY = f"/?token=%73{SECRET[1:]}-query"
OPTIONS: dict[str, Any] = {
    "headers": {"X-Call": secret("call"), "Cookie": f"c={secret('cookie')}"},
    "params": {"p": secret("param")},
    "origin": f"http://{secret('origin')}",
    "protocols": (secret("protocol"),),
}


class Watch(logging.Handler):
    """Looks through all that is written while it is on."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        if record.name == "aiowebsocketclient":
            # With its extra fields.
            self.texts.append(repr(vars(record)))

    def on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.texts.append(repr(context))
        self.texts.extend(map(str, context.values()))

    def take_error(self, error: BaseException | None) -> None:
        """Take an error with everything that hangs on it."""
        seen: set[int] = set()
        pending = [error]
        while pending:
            error = pending.pop()
            if error is None or id(error) in seen:
                continue
            seen.add(id(error))
            self.texts += [str(error), repr(error), repr(error.args)]
            self.texts += traceback.format_exception(error, chain=False)
            pending += [error.__cause__, error.__context__]

    def take_what_is_there(self) -> None:
        """Take what a debugger, or a monitor of tasks, would show of the package."""
        for task in asyncio.all_tasks():
            self.texts.append(repr(task))
            task.print_stack(file=(stack := io.StringIO()))
            self.texts.append(stack.getvalue())
        for thing in gc.get_objects():
            function = thing.func if isinstance(thing, functools.partial) else thing
            if str(getattr(type(function), "__module__", "")).startswith("aiowebsocketclient") or (
                str(getattr(function, "__module__", "")).startswith("aiowebsocketclient")
            ):
                self.texts.append(repr(thing))
                if isinstance(thing, WebSocketClientSession):
                    self.texts.append(
                        repr({n: v for n, v in vars(thing).items() if not foreign(v)})
                    )

    def found(self) -> list[str]:
        return [text for text in self.texts if FOUND.search(unquote(text))]


def foreign(value: Any) -> bool:
    """Tell what is the caller's own, or aiohttp's: it shows of itself what it likes."""
    return type(value).__module__.partition(".")[0] in ("aiohttp", "multidict")


@contextmanager
def watching() -> Iterator[Watch]:
    loop = asyncio.get_running_loop()
    watch = Watch()
    loggers = [logging.getLogger(), logging.getLogger("asyncio")]
    levels = [logger.level for logger in loggers]
    logging.getLogger().addHandler(watch)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    was_debug, was_slow = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.set_exception_handler(watch.on_error)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield watch
            gc.collect()
            watch.texts.extend(str(warning.message) for warning in warned)
    finally:
        loop.set_debug(was_debug)
        loop.slow_callback_duration = was_slow
        loop.set_exception_handler(None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger().removeHandler(watch)
    assert watch.texts
    assert watch.found() == []


def client_session(**arguments: Any) -> aiohttp.ClientSession:
    jar = aiohttp.CookieJar(unsafe=True)
    jar.update_cookies({"c": secret("jar")}, URL("http://127.0.0.1/"))
    return aiohttp.ClientSession(
        headers={"X-Client": secret("client")}, cookie_jar=jar, auth=basic("client"), **arguments
    )


@asynccontextmanager
async def pool(**arguments: Any) -> AsyncIterator[WebSocketClientSession]:
    async with WebSocketClientSession(
        headers={"X-Session": secret("session")},
        client_session=client_session(),
        close_timeout=1.0,
        **arguments,
    ) as session:
        yield session


async def fails(watch: Watch, error: type[BaseException], call: Any) -> None:
    with pytest.raises(error) as caught:
        await call
    watch.take_error(caught.value)


async def test_calls_that_succeed(server: Server) -> None:
    with watching() as watch:
        async with pool() as session:
            session.set_min_idle(server.url(QUERY), 1, **OPTIONS)
            for options in ({}, OPTIONS, {**OPTIONS, "reuse_key": secret("key")}):
                call = session.ws_connect(server.url(QUERY), **options)
                target = session._resolve(server.url(QUERY), {**OPTIONS}, secret("key"))
                watch.texts += [repr(call), repr(target), repr(target.key)]
                async with call as ws:
                    watch.texts += [repr(ws), str(ws), repr(ws.release)]
                    watch.take_what_is_there()
                watch.take_what_is_there()
            tasks = [
                asyncio.ensure_future(session.ws_connect(server.url(QUERY), **OPTIONS))
                for _ in range(3)
            ]
            watch.take_what_is_there()
            for task in tasks:
                completion = (await task).release()
                watch.texts += [repr(task), repr(completion)]
            watch.texts += [repr(session.stats()), repr(session.stats_by_endpoint())]
        watch.take_what_is_there()
    assert any("took" in text and "_try_to_open" in text for text in watch.texts)


async def test_waiting_in_vain(server: Server) -> None:
    with watching() as watch:
        async with pool(limit=1, max_waiting=1) as session:
            url = server.url(QUERY)
            ws = await session.ws_connect(url, **OPTIONS)
            await fails(watch, PoolTimeoutError, session.ws_connect(url, acquire_timeout=0))
            waiter = asyncio.ensure_future(session.ws_connect(url, **OPTIONS))
            await until(lambda: session.stats().waiting)
            watch.take_what_is_there()
            await fails(watch, TooManyWaitersError, session.ws_connect(url, **OPTIONS))
            waiter.cancel()
            await asyncio.wait([waiter])
            late = session.ws_connect(url, acquire_timeout=0.05, **OPTIONS)
            await fails(watch, PoolTimeoutError, late)
            await ws.release()
            await fails(watch, ConnectionReleasedError, ws.send_str(secret("message")))
            watch.take_error(caught_from(lambda: ws.ping(b"x").send(None)))
        await fails(watch, PoolClosedError, session.ws_connect(url, **OPTIONS))


async def test_handshakes_that_fail(server: Server) -> None:
    async def suppressed(*_: Any) -> bool:
        return True

    class Suppressor:
        async def __aenter__(self) -> None: ...

        __aexit__ = suppressed

    with watching() as watch:
        async with pool() as session:
            # What aiohttp itself raises says what it likes; not so the tasks that it is raised in.
            for path in ("/refuse", "/refuse"):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await session.ws_connect(server.url(path + QUERY[1:]), **OPTIONS)
                with pytest.raises(PrewarmError) as caught:
                    await session.prewarm(server.url(path + QUERY[1:]), 2, **OPTIONS)
                watch.texts += [repr(caught.value), str(caught.value)]
            session.set_min_idle(server.url("/refuse" + QUERY[1:]), 1, **OPTIONS)
            await until(lambda: any("min_idle_unchanged" in text for text in watch.texts))
            session.set_min_idle(server.url("/refuse" + QUERY[1:]), 0, **OPTIONS)
            await fails(
                watch,
                aiohttp.ClientConnectorError,
                session.ws_connect(f"ws://127.0.0.1:1{QUERY}", **OPTIONS),
            )
            watch.take_what_is_there()
        async with pool(conn_timeout=0.2) as session:
            await fails(
                watch,
                aiohttp.ConnectionTimeoutError,
                session.ws_connect(server.url("/hang" + QUERY[1:]), **OPTIONS),
            )
            watch.take_what_is_there()
        async with pool(connect_limiter=Suppressor()) as session:
            await fails(
                watch,
                WebSocketPoolError,
                session.ws_connect(f"ws://127.0.0.1:1{QUERY}", **OPTIONS),
            )
        async with pool() as session:
            server.gate.clear()
            call = asyncio.ensure_future(session.ws_connect(server.url(QUERY), **OPTIONS))
            await until(lambda: session._lifecycle.under_way)
            for slot in session._lifecycle.under_way:
                slot.task.cancel()
            watch.take_what_is_there()
            await fails(watch, WebSocketPoolError, call)
            server.gate.set()
    assert any("took" in text and "_try_to_open" in text for text in watch.texts)


async def test_objects_that_are_forgotten(server: Server) -> None:
    with watching() as watch:
        async with pool() as session:
            url = server.url(QUERY)
            await session.ws_connect(url, **OPTIONS)
            session.ws_connect(url, **OPTIONS)
            with suppress(AttributeError):
                session.prewarm(url, 1, **OPTIONS)
            gc.collect()
            await until(lambda: session.stats().closed_failed)
        dropped = WebSocketClientSession(headers={"X": secret("dropped")})
        await (await dropped.ws_connect(url, **OPTIONS)).release()
        del dropped
        gc.collect()
        await until(lambda: not server.open)
    for text in ("was never released", "ws_connect() was never awaited", "Unclosed <WebSocket"):
        assert any(text in each for each in watch.texts), text


async def test_log_records_of_connections(server: Server) -> None:
    """Each event of ``logs.py`` that needs no misuse."""

    async def fail(ws: Any) -> None:
        raise OSError

    with watching() as watch:
        async with pool(reset=fail) as session:
            await (await session.ws_connect(server.url(QUERY), **OPTIONS)).release()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(server.url("/refuse" + QUERY[1:]), **OPTIONS)
            await until(lambda: not session.stats().endpoints)
    for event in ("opened", "connect_failed", "closed", "hook_failed"):
        assert any(f"'event': '{event}'" in text for text in watch.texts), event


async def test_log_records(server: Server) -> None:
    async def linger() -> None:
        with suppress(asyncio.CancelledError):
            await stop.wait()
        await stop.wait()

    class Lingering:
        async def __aenter__(self) -> None:
            entered.set()
            await linger()

        async def __aexit__(self, *_: object) -> None: ...

    entered, stop = asyncio.Event(), asyncio.Event()
    with watching() as watch:
        connector = aiohttp.TCPConnector(limit=1)
        session = WebSocketClientSession(
            client_session=client_session(connector=connector),
            connect_limiter=Lingering(),
            close_timeout=0.1,
        )
        call = asyncio.ensure_future(session.ws_connect(server.url(QUERY), **OPTIONS))
        await entered.wait()
        await session.close()
        await fails(watch, PoolClosedError, call)
        stop.set()
        await until(lambda: not session.stats().closing)
    for text in ("limit=1", "ignored cancellation"):
        assert any(text in each for each in watch.texts), text


NON_LATIN = "\u20ac"
BAD_CALLS: list[tuple[Any, dict[str, Any]]] = [
    (f"{SECRET}:{SECRET}@host/", {}),
    (f"{SECRET}://{SECRET}/", {}),
    (f"/{SECRET}?{SECRET}", {}),
    (SECRET, {}),
    (f"ws://{SECRET}:{SECRET}@host:port/", {}),
    (f"ws://{SECRET}:{SECRET}@[::1/", {}),
    (f"ws://{SECRET}:{SECRET}@/", {}),
    (f"ws://{SECRET}%3A:{SECRET}@host/", {}),
    (f"ws://{SECRET}{NON_LATIN}:{SECRET}@host/", {}),
    (f"ws://{SECRET}:{SECRET}@host/", {"auth": basic("twice")}),
    (f"ws://{SECRET}:{SECRET}@host/", {"headers": {"Authorization": SECRET}}),
    (URL.build(scheme="ws", host="host", path=f"/{SECRET}\n", encoded=True), {}),
    (SECRET.encode(), {}),
    ([SECRET], {}),
    *(
        ("ws://host/", options)
        for options in (
            {"auth": basic("non-latin")._replace(password=SECRET + NON_LATIN)},
            {"auth": basic("codec")._replace(encoding="no-codec")},
            {"auth": (SECRET, SECRET)},
            {"auth": basic("twice"), "headers": {"Authorization": SECRET}},
            {"proxy_auth": f"{SECRET}:{SECRET}"},
            {"proxy": "http://proxy", "proxy_auth": basic("p")._replace(login=SECRET + NON_LATIN)},
            {"proxy": f"http://{SECRET}:{SECRET}@proxy:port"},
            {"proxy": f"socks5://{SECRET}:{SECRET}@proxy"},
            {"proxy": f"http://{SECRET}{NON_LATIN}:{SECRET}@proxy"},
            {"proxy": f"{SECRET}:{SECRET}@proxy"},
            {"proxy_headers": {"X": f"{SECRET}\r\n"}},
            {"headers": {"X": f"{SECRET}\r\nX: {SECRET}"}},
            {"headers": {"X": SECRET.encode()}},
            {"headers": {f"X: {SECRET}": "1"}},
            {"headers": f"X: {SECRET}"},
            {"headers": [("X", "1", SECRET)]},
            {"headers": [(SECRET,)]},
            {"origin": f"{SECRET}\n"},
            {"protocols": SECRET},
            {"protocols": [f"{SECRET}\n"]},
            {"protocols": [SECRET.encode()]},
            {"method": f"{SECRET} /"},
            {"params": {"a": [object()], "b": SECRET}},
            {"params": {"a": SECRET.encode()}},
            {"params": [(SECRET,)]},
            {"reuse_key": [SECRET]},
            {"reuse_key": ({"a": SECRET},)},
            {"server_hostname": f"{SECRET}\0"},
            {"ssl": SECRET},
            {"fingerprint": SECRET.encode()},
            {"compress": SECRET},
            {"heartbeat": SECRET},
            {"timeout": SECRET},
            {"max_msg_size": SECRET},
            {"acquire_timeout": SECRET},
        )
    ),
]


def caught_from(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as exc:
        return exc
    raise AssertionError("not refused")


async def test_invalid_arguments(make_session: SessionFactory) -> None:
    with watching() as watch:
        session = make_session()
        for url, options in BAD_CALLS:
            error = caught_from(functools.partial(session.ws_connect, url, **options))
            before = len(watch.texts)
            watch.take_error(error)
            # The source of the line above is in no traceback of the package's.
            assert not [t for t in watch.texts[before:] if FOUND.search(unquote(t))], (url, options)
        for headers in ({"X": f"{SECRET}\n"}, {f"{SECRET} ": "1"}, SECRET, [(SECRET,)], {"X": 1}):
            watch.take_error(
                caught_from(functools.partial(WebSocketClientSession, headers=headers))
            )
        for name in ("limit", "conn_timeout", "client_session", "loop", "ws_response_class"):
            wrong: Any = {name: SECRET}
            watch.take_error(caught_from(functools.partial(WebSocketClientSession, **wrong)))
