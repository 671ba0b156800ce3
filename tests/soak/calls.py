"""What callers do with a session: most of it as it should be done, some of it not."""

import asyncio
import contextlib
import itertools
import os
import socket
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import WSMsgType

from aiowebsocketclient import (
    ClientWebSocketResponse,
    ConnectionReleasedError,
    PoolClosedError,
    PoolTimeoutError,
    TooManyWaitersError,
    WebSocketPoolError,
)
from aiowebsocketclient._pool_py import ACQUIRED

from .fleet import Stop
from .subject import Ask, HookError, Lane

# Seconds for what is bound to happen soon, such as a reply that has been sent.
_SOON: Final = 20.0

_NUMBERS: Final = itertools.count(1)


class EndedError(Exception):
    """The connection ended while it was in use; there is always somebody who ends some."""


class NoPatienceError(Exception):
    """A caller leaves in the middle of what it does."""


class Run(Protocol):
    """What a caller knows of the whole."""

    stop: Stop
    counts: Counter[str]

    def fail(self, kind: str, detail: str) -> None: ...


class Caller:
    """One task that calls again and again."""

    def __init__(self, run: Run, lane: Lane, random: Random) -> None:
        self.run = run
        self.lane = lane
        self.random = random
        self.kind = "none"
        self.stage = "elsewhere"
        self.since = 0.0
        #: What its lane's session had handed out when it began to wait.
        self.others = 0
        self.url = ""
        self.identity = ""
        self.options: dict[str, Any] = {}

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.run.stop.is_set():
            self.url, self.identity, self.options = self.lane.target(self.random)
            (action,) = self.random.choices(_ACTIONS, _WEIGHTS)
            self.kind = action.__name__
            self.since = loop.time()
            await self._try(action)
            self.stage = "elsewhere"
            await self.run.stop.within(self.random.random() ** 4 * self.lane.plan.pause)

    def __str__(self) -> str:
        seconds = asyncio.get_running_loop().time() - self.since
        return f"{self.lane.name}: {self.kind}, {self.stage}, {self.url}, for {seconds:.1f} s"

    async def _try(self, action: Callable[["Caller"], Awaitable[None]]) -> None:
        try:
            await action(self)
        except Exception as exc:
            self._judge(exc)
        else:
            self.run.counts[f"done {self.kind}"] += 1

    def _judge(self, exc: BaseException) -> None:
        name = self._name_of(exc)
        if name is None:
            self.run.fail("unexpected errors", "".join(traceback.format_exception(exc)))
            name = "unexpected"
        self.run.counts[name] += 1

    def _name_of(self, exc: BaseException) -> str | None:
        """Return what to count an exception as; None: it should not have come."""
        settings = self.lane.plan.settings
        if isinstance(exc, WebSocketPoolError):
            expected = (
                (isinstance(exc, TooManyWaitersError) and "max_waiting" in settings)
                or (
                    isinstance(exc, PoolTimeoutError)
                    and ("acquire_timeout" in settings or self.kind == "be_impatient")
                )
                or (isinstance(exc, PoolClosedError) and self.lane.plan.remade)
            )
            return type(exc).__name__ if expected else None
        if isinstance(exc, aiohttp.WSServerHandshakeError):
            return "refused handshakes" if exc.status == 503 else None
        if isinstance(exc, HookError) and self.lane.plan.hooked:
            return "hook errors"
        if isinstance(exc, EndedError | NoPatienceError):
            return type(exc).__name__
        # A server that is down, frozen, or was killed this moment.
        expected_while_connecting = (
            aiohttp.ClientConnectionError,
            aiohttp.ConnectionTimeoutError,
            ConnectionResetError,
        )
        return "connection errors" if isinstance(exc, expected_while_connecting) else None

    # -- parts of what they do -------------------------------------------------------------------

    def pause(self, most: float) -> Awaitable[None]:
        """Sleep, for one turn of the loop or for longer."""
        return asyncio.sleep(0 if self.random.random() < 0.2 else most * self.random.random() ** 2)

    async def acquire(self, **options: Any) -> ClientWebSocketResponse:
        with Ask(self.lane, self) as ask:
            return ask.granted(
                await self.lane.session.ws_connect(self.url, **self.options, **options)
            )

    def size(self) -> int:
        return int(10 ** (self.random.random() * (4.5 if self.random.random() < 0.05 else 2.5)))

    async def say(self, ws: ClientWebSocketResponse, verb: str, argument: float, size: int) -> int:
        number = next(_NUMBERS)
        await ws.send_str(f"{number} {verb} {argument} {size} " + "x" * self.size())
        return number

    async def hear(self, ws: ClientWebSocketResponse, number: int, size: int) -> None:
        """Read one reply, which must be the one to this request over this handshake."""
        while True:
            self.stage = "receiving"
            message = await ws.receive()
            self.stage = "using"
            if message.type is not WSMsgType.TEXT:
                raise EndedError(message.type)
            # It came after the connection had been handed out; no pool can tell.
            if message.data != "unsolicited":
                break
            self.run.counts["unsolicited, in use"] += 1
        expected = f"{number} {self.identity} "
        if message.data != expected + "x" * size:
            self.run.fail(
                "wrong replies",
                f"{self}: asked {expected!r}, {size} long; got {message.data[:60]!r},"
                f" {len(message.data)} long",
            )
        self.run.counts["replies"] += 1

    async def ask(
        self,
        ws: ClientWebSocketResponse,
        verb: str = "echo",
        argument: float = 0,
        replies: int = 1,
        size: int | None = None,
    ) -> None:
        size = self.size() if size is None else size
        number = await self.say(ws, verb, argument, size)
        for _ in range(replies):
            await self.hear(ws, number, size)

    async def until_unread(self, ws: ClientWebSocketResponse) -> None:
        async with asyncio.timeout(_SOON):
            while not ws._reader._buffer:
                if ws._reader.is_eof() or ws._conn is None or ws._conn.transport is None:
                    raise EndedError
                await asyncio.sleep(0.001)

    # -- what they do ----------------------------------------------------------------------------

    async def exchange(self) -> None:
        """Hold a connection for some round trips."""
        with Ask(self.lane, self) as ask:
            async with self.lane.session.ws_connect(self.url, **self.options) as ws:
                ask.granted(ws)
                for _ in range(self.random.randint(1, 4)):
                    await self.ask(ws)

    async def release_by_hand(self) -> None:
        """Release, or close, as one does without a context manager."""
        ws = await self.acquire()
        try:
            await self.ask(ws)
            if self.random.random() < 0.5:
                await self.pause(0.02)
                await self.ask(ws)
        except BaseException:
            await ws.close()
            raise
        how = self.random.random()
        if how < 0.15:
            await ws.close()
        elif how < 0.6:
            await ws.release()
        else:
            ws.release()
            await self._use_spent(ws)

    async def _use_spent(self, ws: ClientWebSocketResponse) -> None:
        if self.random.random() < 0.5:
            await self.pause(0.02)
        ws.release()
        assert ws.closed
        assert not await ws.close()
        for use in (ws.send_str("0 echo 0 0 "), ws.receive(), ws.ping()):
            try:
                await use
            except ConnectionReleasedError:
                self.run.counts["uses of spent handles"] += 1
            else:
                self.run.fail("wrong replies", f"{self}: a spent handle could be used")

    async def release_unread(self) -> None:
        """Release while replies lie unread, which must not reach the next one."""
        ws = await self.acquire()
        try:
            size = self.size()
            number = await self.say(ws, "burst", 3, size)
            await self.hear(ws, number, size)
            await self.until_unread(ws)
        finally:
            # That it ended is a reason to release it, too.
            await ws.release()

    async def release_while_receiving(self) -> None:
        """Release while another task receives."""
        ws = await self.acquire()
        receiver = asyncio.create_task(ws.receive())
        await self.pause(0.01)
        if self.random.random() < 0.3:
            await asyncio.sleep(0)
            receiver.cancel()
        released = ws.release()
        await asyncio.wait({receiver})
        exc = None if receiver.cancelled() else receiver.exception()
        # One that had just got a PING or a CLOSE finds the connection gone.
        if exc is not None and not isinstance(exc, ConnectionReleasedError):
            raise exc
        await released

    async def release_after_cancelled_receive(self) -> None:
        """Give up on a reply that may still come, and release all the same."""
        ws = await self.acquire()
        self.stage = "using"
        try:
            async with asyncio.timeout(self.random.random() * 0.02):
                await self.ask(ws, "slow", self.random.random() * 0.04)
        except TimeoutError:
            self.run.counts["cancellations"] += 1
        except BaseException:
            await ws.close()
            raise
        # Sent and not yet received is what no pool can know.
        await (ws.release() if self.stage == "receiving" else ws.close())

    async def be_cancelled(self) -> None:
        """Leave at any moment; replies come, or do not, when nobody is there."""
        after = self.random.random() ** 2 * 0.1
        if self.random.random() < 0.1:
            after = 0
        body = self._exchange_slowly() if self.random.random() < 0.6 else self.release_by_hand()
        (how,) = self.random.choices((_cancel, _cancel_twice, _time_out, _wait_for), (3, 2, 2, 2))
        if await how(body, after):
            self.run.counts["cancellations"] += 1

    async def _exchange_slowly(self) -> None:
        with Ask(self.lane, self) as ask:
            async with self.lane.session.ws_connect(self.url, **self.options) as ws:
                ask.granted(ws)
                await self.ask(ws, "slow", self.random.random() * 0.05)
                await self.ask(ws)

    async def acquire_and_time_out(self) -> None:
        """Bound ``ws_connect`` from outside."""
        try:
            ws = await asyncio.wait_for(self.acquire(), self.random.random() * 0.05)
        except TimeoutError:
            self.run.counts["cancellations"] += 1
        else:
            await ws.release()

    async def be_impatient(self) -> None:
        """Take a connection only if there is one soon."""
        ws = await self.acquire(acquire_timeout=self.random.choice((0, 0.001, 0.02)))
        await ws.release()

    async def detach(self) -> None:
        """Keep a connection for oneself, unless it were one more than the servers may see."""
        ws = await self.acquire()
        try:
            if self.lane.limit is None:
                ws.detach()
                self.run.counts["detached"] += 1
            await self.ask(ws)
            await self.pause(0.1)
            await self.ask(ws)
        finally:
            await ws.close()

    async def lose(self) -> None:
        """Forget to release."""
        ws = await self.acquire()
        try:
            if self.random.random() < 0.5:
                await self.ask(ws)
        finally:
            # What the session's end has taken is nobody's to lose.
            if ws._slot.state == ACQUIRED:
                self.run.counts["lost handles"] += 1
            del ws

    async def read_slowly(self) -> None:
        """Let a flood lie until reading pauses; read it then, or leave."""
        count, size = self.random.randint(20, 100), self.random.randint(1_000, 10_000)
        with Ask(self.lane, self) as ask:
            async with self.lane.session.ws_connect(self.url, **self.options) as ws:
                ask.granted(ws)
                self.run.counts["slow readers"] += 1
                number = await self.say(ws, "burst", count, size)
                await self.pause(1.0)
                for _ in range(count):
                    if self.random.random() < 0.01:
                        raise NoPatienceError
                    await self.hear(ws, number, size)

    async def shut_down(self) -> None:
        """Shut down the socket under a connection in use, then go on or release."""
        ws = await self.acquire()
        try:
            await self.ask(ws)
            if ws._conn is not None and shut_down(ws._conn.transport):
                self.run.counts["sockets shut down"] += 1
            await self.pause(0.005)
            if self.random.random() < 0.5:
                await self.ask(ws)
        finally:
            await ws.release()

    async def have_it_ended(self) -> None:
        """Ask the server to end or spoil the connection, at once or when it may be idle."""
        verb = self.random.choice(("abort", "goodbye", "unsolicited", "garbage", "ping"))
        with Ask(self.lane, self) as ask:
            async with self.lane.session.ws_connect(self.url, **self.options) as ws:
                ask.granted(ws)
                await self.ask(ws, verb, self.random.random() ** 2 * 0.05)
                if self.random.random() < 0.5:
                    await self.ask(ws)

    async def leave_it_deaf(self) -> None:
        """Close, or release, a connection whose server answers nothing for a while."""
        ws = await self.acquire()
        try:
            await self.ask(ws, "deaf", self.random.random() * 2)
        except BaseException:
            await ws.close()
            raise
        await (ws.close() if self.random.random() < 0.7 else ws.release())

    async def be_refused(self) -> None:
        """Ask for a handshake that is always refused."""
        self.url = self.url.rpartition("/")[0] + "/refuse"
        ws = await self.acquire()
        await ws.close()
        self.run.fail("unexpected errors", f"{self}: a handshake succeeded that was refused")


def shut_down(transport: Any) -> bool:
    """Cut a connection below its transport, which hears of it as of any that is lost."""
    if transport is None or transport.is_closing():
        return False
    fd = transport.get_extra_info("socket").fileno()
    if fd < 0:
        return False
    with socket.socket(fileno=os.dup(fd)) as copy, contextlib.suppress(OSError):
        copy.shutdown(socket.SHUT_RDWR)
    return True


async def _cancel(body: Any, after: float) -> bool:
    task = asyncio.create_task(body)
    await asyncio.sleep(after)
    task.cancel()
    return await _outcome(task)


async def _cancel_twice(body: Any, after: float) -> bool:
    task = asyncio.create_task(body)
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    return await _outcome(task)


async def _time_out(body: Any, after: float) -> bool:
    try:
        async with asyncio.timeout(after):
            await body
    except TimeoutError:
        return True
    return False


async def _wait_for(body: Any, after: float) -> bool:
    task = asyncio.create_task(body)
    try:
        await asyncio.wait_for(task, after)
    except TimeoutError:
        return True
    return False


async def _outcome(task: asyncio.Task[None]) -> bool:
    await asyncio.wait({task})
    if task.cancelled():
        return True
    if (exc := task.exception()) is not None:
        raise exc
    return False


_SHARES: Final = {
    Caller.exchange: 350,
    Caller.release_by_hand: 200,
    Caller.be_cancelled: 200,
    Caller.acquire_and_time_out: 40,
    Caller.be_impatient: 60,
    Caller.release_unread: 30,
    Caller.release_while_receiving: 15,
    Caller.release_after_cancelled_receive: 30,
    Caller.detach: 10,
    Caller.lose: 10,
    Caller.read_slowly: 6,
    Caller.shut_down: 15,
    Caller.have_it_ended: 30,
    Caller.leave_it_deaf: 2,
    Caller.be_refused: 3,
}
_ACTIONS: Final = list(_SHARES)
_WEIGHTS: Final = list(_SHARES.values())
