"""What the core has decided is carried out, whatever happens meanwhile."""

import asyncio
import contextlib
import logging
import sys
from typing import Any

import aiohttp
import pytest

from aiowebsocketclient import PoolClosedError, WebSocketClientSession
from aiowebsocketclient.lifecycle import Lifecycle

from .conftest import SessionFactory, until
from .servers import Server


class Closing(logging.Handler):
    """Closes the session as soon as something is logged, in an eager task where there are such."""

    def __init__(self, session: WebSocketClientSession, event: str) -> None:
        super().__init__()
        self.session = session
        self.event = event
        self.tasks: list[asyncio.Task[None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.event == self.event and not self.tasks:  # type: ignore[attr-defined]
            self.tasks.append(asyncio.get_running_loop().create_task(self.session.close()))


async def refuse(ws: object) -> None:
    raise OSError("not fit")


@pytest.mark.parametrize("event", ["hook_failed", "opened", "connect_failed", "closed", "detached"])
async def test_closed_by_a_log_handler(
    server: Server, make_session: SessionFactory, event: str
) -> None:
    loop = asyncio.get_running_loop()
    # uvloop calls a task factory with arguments that this one may not take.
    if sys.version_info >= (3, 12) and isinstance(loop, asyncio.BaseEventLoop):
        loop.set_task_factory(asyncio.eager_task_factory)
    session = make_session()
    handler = Closing(session, event)
    logger = logging.getLogger("aiowebsocketclient")
    before = logger.level
    held = [await session.ws_connect(server.url()) for _ in range(3)]
    url = server.url("/refuse" if event == "connect_failed" else "/other")
    if event == "hook_failed":
        await (await session.ws_connect(url, check=refuse)).release()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    ws: Any = None
    try:
        with contextlib.suppress(PoolClosedError, aiohttp.WSServerHandshakeError):
            ws = await session.ws_connect(url, check=refuse if event == "hook_failed" else None)
        if ws is not None and event == "closed":
            await ws.close()
        elif ws is not None and event == "detached":
            ws.detach()
        await until(lambda: handler.tasks)
        await asyncio.gather(*handler.tasks)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        asyncio.get_running_loop().set_task_factory(None)
    await until(lambda: all(ws._conn is None or ws.closed for ws in held))
    if ws is not None:
        await ws.close()
    for ws in held:
        await ws.release()
    assert not session._pool.sizes()["slots"]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("what", ["start_connecting", "start_closing"])
async def test_a_step_that_fails_does_not_prevent_the_others(
    server: Server,
    make_session: SessionFactory,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    error: type[BaseException],
) -> None:
    session = make_session(limit=2)
    idle = [await session.ws_connect(server.url("/one")) for _ in range(2)]
    for ws in idle:
        await ws.release()
    done = getattr(Lifecycle, what)
    failed = []

    def fail_once(self: Any, *arguments: Any) -> Any:
        if not failed:
            failed.append(arguments)
            raise error
        return done(self, *arguments)

    monkeypatch.setattr(Lifecycle, what, fail_once)
    if what == "start_closing":
        with pytest.raises(error):
            session.drain()
    else:
        session.resize(limit=3)
        with pytest.raises(error):
            await session.ws_connect(server.url("/two"))
    assert failed
    session.drain()
    await until(lambda: not session.stats().idle and not session.stats().closing)
    assert not session.stats().connecting
    async with asyncio.timeout(30):
        for path in ("/one", "/two"):
            await (await session.ws_connect(server.url(path))).release()


async def test_who_is_not_woken_at_once_is_woken_later(
    server: Server, make_session: SessionFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(limit=1)
    held = await session.ws_connect(server.url())
    callers = [asyncio.ensure_future(session.ws_connect(server.url())) for _ in range(2)]
    await until(lambda: session.stats().waiting == 2)
    plan = session._pool.release(held._slot, 1e9)
    assert plan is not None
    waiter: Any = plan.woken[0]

    class Failing:
        failed = False

        @staticmethod
        def wake() -> None:
            if not Failing.failed:
                Failing.failed = True
                raise MemoryError
            waiter.wake()

    class Part:
        opened = ()
        closing = ()
        woken = (Failing,)

    with pytest.raises(MemoryError):
        session._carry_out(Part())  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        first = await callers[0]
        await first.release()
        await (await callers[1]).release()
    held._owner = None


def test_sessions_without_a_hash() -> None:
    """A subclass may be equal to others by what it likes."""

    class Session(WebSocketClientSession):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Session)

    async def use() -> None:
        async with Session() as first, Session() as second:
            assert first == second
            assert {id(first), id(second)} <= {id(each) for each in sessions()}

    def sessions() -> list[Any]:
        from aiowebsocketclient import forking as module

        return list(module._used_here.values())

    asyncio.run(use())
