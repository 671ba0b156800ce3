"""``python -m aiowebsocketclient``, run as its users run it: in a process of its own."""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiohttp
import pytest
import trustme
from aiohttp import web

from aiowebsocketclient import IMPLEMENTATION, __version__, _fleet_demo
from aiowebsocketclient.__main__ import Latencies, _echo

from .conftest import until
from .redis_server import RedisServer, require_redis
from .servers import Server, serving

# Signals and terminals are those of POSIX here.
pty = pytest.importorskip("pty")

# The loop that is tested is the one in the other process.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])

# -P: what is tested is what is installed, whatever the working directory holds.
PYTHON = (sys.executable, "-P")
CLI = (*PYTHON, "-m", "aiowebsocketclient")

# Enough to see, and soon over.
FEW = ("--requests", "100", "--callers", "20", "--limit", "3")

SECRET = "sEcrEt"


class Finished(NamedTuple):
    code: int | None
    out: str
    err: str

    @property
    def result(self) -> Any:
        return json.loads(self.out)


@contextlib.asynccontextmanager
async def started(
    *command: str, stdout: int = subprocess.PIPE, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
        # A shell lets what it runs in the background ignore Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def finished(process: asyncio.subprocess.Process) -> Finished:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Finished(process.returncode, (out or b"").decode(), err.decode())


async def cli(*args: str, **environment: str) -> Finished:
    async with started(*CLI, *args, **environment) as process:
        return await finished(process)


async def terminal(*command: str) -> Finished:
    """Run a command with a terminal for its standard output."""
    try:
        ours, theirs = pty.openpty()
    except OSError:
        pytest.skip("there is no pseudo-terminal to be had")
    try:
        async with started(*command, stdout=theirs, TERM="xterm", COLUMNS="100") as process:
            os.close(theirs)
            (_, err, code), out = await asyncio.gather(
                _ended(process), asyncio.to_thread(_read_all, ours)
            )
            return Finished(code, out, err)
    finally:
        os.close(ours)


async def _ended(process: asyncio.subprocess.Process) -> tuple[str, str, int | None]:
    end = await finished(process)
    return end.out, end.err, end.code


def _read_all(fd: int) -> str:
    read = b""
    # Linux says EIO when the other side is closed, others return nothing.
    with contextlib.suppress(OSError):
        while chunk := os.read(fd, 65536):
            read += chunk
    return read.decode()


def without_module(name: str) -> tuple[str, ...]:
    """Return the command line tool where a module is missing."""
    code = (
        f"import sys, runpy; sys.modules[{name!r}] = None;"
        " runpy.run_module('aiowebsocketclient', run_name='__main__', alter_sys=True)"
    )
    return (*PYTHON, "-c", code)


def complaint(end: Finished) -> str:
    """Return the one line of a failure."""
    assert end.code == 1
    assert end.err.startswith("aiowebsocketclient: ")
    assert end.err.count("\n") == 1
    return end.err


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def port_of_own_server(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    return int(line.decode().partition("127.0.0.1:")[2].split()[0])


# -- its own server ------------------------------------------------------------------------------


@one_loop
async def test_plain_lines() -> None:
    end = await cli(*FEW, "--protocol", "chat")
    assert end.err == ""
    assert end.code == 0
    lines = end.out.splitlines()
    assert lines[0].startswith(f"aiowebsocketclient {__version__} ({IMPLEMENTATION} core), aiohttp")
    assert lines[1].startswith("20 callers, limit 3, server 127.0.0.1:")
    assert "\x1b" not in end.out
    cells = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines[4:]}
    assert cells["requests"][0] == "100"
    for row in ("throughput", "latency p50", "latency p90", "latency p99", "latency max"):
        assert any(name.startswith(row) for name in cells), row
    assert "connections reused" in end.out
    assert "total wait" in end.out
    assert "peak connections" in end.out
    assert "times as fast" in lines[-1]


@pytest.mark.slow
@one_loop
async def test_json() -> None:
    end = await cli("--json", "--requests", "3000", "--callers", "50", "--limit", "5")
    assert end.err == ""
    assert end.code == 0
    result = end.result
    assert result["implementation"] == IMPLEMENTATION
    assert result["version"] == __version__
    assert result["aiohttp"] == aiohttp.__version__
    assert (result["callers"], result["limit"], result["uvloop"]) == (50, 5, False)
    pool, each = result["pool"], result["connecting_each_time"]
    assert pool["requests"] == 3000
    assert 1 <= pool["handshakes"] <= 5
    assert 1 <= pool["peak_connections"] <= 5
    assert pool["reused"] == pytest.approx(1 - pool["handshakes"] / 3000)
    assert pool["throughput"] == pytest.approx(pool["requests"] / pool["seconds"])
    assert 0 < pool["p50_ms"] <= pool["p90_ms"] <= pool["p99_ms"] <= pool["max_ms"]
    assert pool["wait_ms"] == pytest.approx(pool["wait_seconds"] / 3000 * 1e3)
    assert each["handshakes"] == each["requests"] > 0
    assert each["reused"] == 0
    assert result["speedup"] == pytest.approx(pool["throughput"] / each["throughput"])
    assert result["speedup"] > 0


@pytest.mark.slow
@one_loop
async def test_duration() -> None:
    end = await cli("--json", "--duration", "0.3")
    assert end.code == 0
    assert end.result["pool"]["requests"] > 0
    assert end.result["pool"]["seconds"] >= 0.3


@pytest.mark.slow
@one_loop
async def test_uvloop() -> None:
    version = pytest.importorskip("uvloop").__version__
    end = await cli(*FEW, "--uvloop")
    assert (end.code, end.err) == (0, "")
    assert end.out.splitlines()[0].endswith(f"uvloop {version}")


@pytest.mark.slow
@one_loop
async def test_uvloop_missing() -> None:
    async with started(*without_module("uvloop"), *FEW, "--uvloop") as process:
        end = await finished(process)
    assert end.code == 2
    assert "pip install 'aiowebsocketclient[uvloop]'" in end.err


@pytest.mark.slow
@one_loop
async def test_terminal() -> None:
    pytest.importorskip("rich")
    end = await terminal(*CLI, *FEW)
    assert (end.code, end.err) == (0, "")
    assert "through the pool" in end.out
    assert "100%" in end.out
    assert "│ handshakes" in end.out
    assert "times as fast" in end.out


@pytest.mark.slow
@one_loop
async def test_rich_missing() -> None:
    end = await terminal(*without_module("rich"), *FEW)
    assert (end.code, end.err) == (0, "")
    assert "\x1b" not in end.out
    assert "\nhandshakes" in end.out


@pytest.mark.slow
@one_loop
async def test_own_server_ends_on_interrupt() -> None:
    async with started(*CLI, "--duration", "30") as process:
        port = await port_of_own_server(process)
        assert is_listening(port)
        process.send_signal(signal.SIGINT)
        end = await finished(process)
    assert end.code == 130
    assert end.err == "aiowebsocketclient: interrupted\n"
    assert not is_listening(port)


@pytest.mark.slow
@one_loop
async def test_own_server_ends_when_killed() -> None:
    async with started(*CLI, "--duration", "30") as process:
        port = await port_of_own_server(process)
        process.kill()
        # It has the same standard error, which ends when both have.
        end = await finished(process)
    assert end.err == ""
    assert not is_listening(port)


@pytest.mark.slow
@one_loop
async def test_nobody_reads_on() -> None:
    ours, theirs = os.pipe()
    async with started(*CLI, *FEW, stdout=theirs) as process:
        os.close(theirs)
        await asyncio.to_thread(os.read, ours, 1)
        os.close(ours)
        end = await finished(process)
    assert end.err == ""


@pytest.mark.slow
async def test_own_server_is_not_upset_by_clients_that_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it logs would stand on the terminal among the figures."""
    app = web.Application()
    app.router.add_get("/", _echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                ws = await session.ws_connect(url)
                for _ in range(200):
                    await ws.send_str("unanswered")
                assert ws._conn is not None
                assert ws._conn.transport is not None
                ws._conn.transport.abort()
    finally:
        await runner.cleanup()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- a given server ------------------------------------------------------------------------------


@one_loop
async def test_given_server(server: Server) -> None:
    end = await cli(server.url(), *FEW, "--json", "--message", "how are you?")
    assert (end.code, end.err) == (0, "")
    result = end.result
    assert result["endpoint"] == f"127.0.0.1:{server.port}"
    pool, each = result["pool"], result["connecting_each_time"]
    assert pool["handshakes"] <= 3
    # On a slow machine the time is up for the sample while some requests are under way.
    assert 0 <= server.handshakes - pool["handshakes"] - each["handshakes"] <= 3
    assert 0 <= len(server.received) - pool["requests"] - each["requests"] <= 3
    assert set(server.received) == {"how are you?"}
    await until(lambda: not server.sockets)


@pytest.mark.slow
@one_loop
async def test_headers_and_protocols_reach_the_server(server: Server) -> None:
    end = await cli(
        server.url(f"/path?token={SECRET}").replace("//", f"//user:{SECRET}@"),
        *FEW,
        *("--header", f"X-Token: {SECRET}", "--header", "X-Other:also: this"),
        *("--protocol", "chat", "--protocol", "audit"),
    )
    assert (end.code, end.err) == (0, "")
    assert SECRET not in end.out
    # Those of the pool, and those without.
    for request in server.requests[0], server.requests[-1]:
        assert request.headers["X-Token"] == SECRET
        assert request.headers["X-Other"] == "also: this"
        assert request.headers["Sec-WebSocket-Protocol"] == "chat,audit"
        basic = base64.b64encode(f"user:{SECRET}".encode()).decode()
        assert request.headers["Authorization"] == f"Basic {basic}"
        assert request.path_qs == f"/path?token={SECRET}"


@pytest.mark.slow
@one_loop
async def test_unasked_messages_do_not_stop_it(server: Server) -> None:
    end = await cli(server.url("/greet"), "--requests", "30", "--json")
    assert (end.code, end.err) == (0, "")
    assert end.result["pool"]["requests"] == 30


@one_loop
async def test_interrupt_tells_what_was_done(server: Server) -> None:
    async with started(*CLI, server.url(), "--duration", "30", "--json") as process:
        await until(lambda: len(server.received) > 100, 30)
        process.send_signal(signal.SIGINT)
        end = await finished(process)
    assert end.code == 130
    assert end.err == "aiowebsocketclient: interrupted\n"
    assert 0 < end.result["pool"]["requests"] <= len(server.received)
    assert end.result["connecting_each_time"] is None
    assert end.result["speedup"] is None


@pytest.mark.slow
@one_loop
async def test_interrupt_before_anything_was_done(server: Server) -> None:
    async with started(*CLI, server.url("/hang"), "--timeout", "30", "--json") as process:
        await until(lambda: server.arrived, 30)
        process.send_signal(signal.SIGINT)
        end = await finished(process)
    assert end == (130, "", "aiowebsocketclient: interrupted\n")


# -- servers that fail ---------------------------------------------------------------------------


@one_loop
async def test_refused_port(unused_tcp_port: int) -> None:
    end = await cli(f"ws://127.0.0.1:{unused_tcp_port}/?token={SECRET}")
    assert complaint(end) == (
        f"aiowebsocketclient: 127.0.0.1:{unused_tcp_port} cannot be reached: Connection refused\n"
    )
    assert SECRET not in end.out


@pytest.mark.slow
@one_loop
async def test_unknown_host() -> None:
    end = await cli("ws://nowhere.invalid/", "--json")
    assert "nowhere.invalid:80 cannot be reached: " in complaint(end)
    assert end.out == ""


@pytest.mark.slow
@one_loop
async def test_refused_handshake(server: Server) -> None:
    url = server.url(f"/refuse?token={SECRET}").replace("//", f"//user:{SECRET}@")
    end = await cli(url, "--header", f"X-Token: {SECRET}")
    assert f"127.0.0.1:{server.port} refused the handshake: HTTP status 403" in complaint(end)
    assert SECRET not in end.out + end.err


@pytest.mark.slow
@one_loop
async def test_credentials_twice(server: Server) -> None:
    url = server.url().replace("//", f"//user:{SECRET}@")
    end = await cli(url, "--header", f"Authorization: Bearer {SECRET}")
    assert "the headers and the URL contradict each other" in complaint(end)
    assert SECRET not in end.out + end.err


@pytest.mark.slow
@one_loop
@pytest.mark.parametrize(
    ("path", "seconds", "words"),
    [
        ("/hang", "0.2", "did not complete the handshake within 0.2 s"),
        ("/silent", "1", "did not answer within 1 s"),
    ],
)
async def test_no_answer(server: Server, path: str, seconds: str, words: str) -> None:
    end = await cli(server.url(path), "--timeout", seconds, "--json", "--callers", "20")
    assert words in complaint(end)
    assert end.out == ""


@pytest.mark.slow
@one_loop
async def test_no_answer_while_it_goes_on(server: Server) -> None:
    end = await cli(server.url("/silent"), "--duration", "0.2", "--json")
    assert "did not answer within 0.2 s" in complaint(end)
    assert end.out == ""


@pytest.mark.slow
@one_loop
async def test_server_that_stops_answering() -> None:
    class Tired(Server):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                self.received.append(message.data)
                if len(self.received) > 50:
                    break
                await ws.send_str(message.data)
            return ws

    async with serving(Tired()) as server:
        end = await cli(server.url(), "--json")
    assert "closed the connection instead of answering" in complaint(end)
    # What was done until then is told.
    assert 0 < end.result["pool"]["requests"] <= 50


@pytest.mark.slow
@one_loop
async def test_server_that_refuses_one_connection_per_request(server: Server) -> None:
    end = await cli(server.url("/once"), *FEW, "--limit", "1", "--json")
    assert "HTTP status 403" in complaint(end)
    assert end.result["pool"]["requests"] == 100
    assert end.result["connecting_each_time"] is None


@pytest.mark.slow
@one_loop
async def test_no_http_server() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listener:
        end = await cli(f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
    assert "does not answer like an HTTP server" in complaint(end)


# -- TLS -----------------------------------------------------------------------------------------


@one_loop
async def test_untrusted_certificate(tls_server: Server) -> None:
    end = await cli(tls_server.url(), *FEW, "--json")
    assert "has a certificate that is not trusted (--no-verify" in complaint(end)
    assert end.out == ""


@pytest.mark.slow
@one_loop
async def test_no_verify(tls_server: Server) -> None:
    end = await cli(tls_server.url(), *FEW, "--no-verify", "--json")
    assert (end.code, end.err) == (0, "")
    assert end.result["pool"]["handshakes"] <= 3


@pytest.mark.slow
@one_loop
async def test_trusted_certificate(
    tls_server: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    end = await cli(tls_server.url(), *FEW, **{variable: str(tmp_path / "ca.pem")})
    assert (end.code, end.err) == (0, "")


@pytest.mark.slow
@one_loop
async def test_no_tls_server(server: Server) -> None:
    end = await cli(server.url().replace("http:", "wss:"))
    assert "cannot be reached by TLS" in complaint(end)


# -- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--limit", "0"], "--limit: must be an integer >= 1, got '0'"),
        (["--callers", "ten"], "--callers: must be an integer >= 1, got 'ten'"),
        (["--duration", "nan"], "--duration: must be a number of seconds > 0, got 'nan'"),
        (["--timeout", "0"], "--timeout: must be a number of seconds > 0, got '0'"),
        (["--requests", "1", "--duration", "1"], "not allowed with argument --requests"),
        (["--header", SECRET], "--header: must look like 'Name: value'"),
        (["--header", f"A: {SECRET}\r\nB: c"], "--header: the value of A has unprintable"),
        (["--protocol", "a b"], "--protocol: not a valid name of a subprotocol: 'a b'"),
        (
            [f"ftp://u:{SECRET}@host/"],
            "URL: url must have the scheme ws, wss, http or https, got 'ftp'",
        ),
        ([f"ws://u:{SECRET}@host:99999/"], "URL: url cannot be parsed"),
        ([f"ws://u:{SECRET}\u20ac@host/"], "url has credentials that cannot be sent"),
        (["ws://"], "URL: url has no host"),
        (["ws://a", f"ws://u:{SECRET}@b"], "more than one URL"),
        ([f"--heder=A:{SECRET}"], "unknown option: --heder"),
        (["--message", "\udcff"], "not valid text"),
        (["--processes", "2"], "--processes needs --fleet"),
        (["--fleet", f"ws://u:{SECRET}@host/"], "--fleet takes the URL of a Redis"),
    ],
)
def test_bad_arguments(
    args: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from aiowebsocketclient.__main__ import main

    monkeypatch.setattr("sys.argv", ["aiowebsocketclient", *args])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert words in printed.err.splitlines()[-1]
    assert SECRET not in printed.err
    assert printed.out == ""


FLEET = ("--processes", "3", "--callers", "5", "--limit", "4", "--duration", "6")


@one_loop
async def test_processes_that_share_a_redis(server: Server, redis_server: RedisServer) -> None:
    end = await cli("--fleet", redis_server.url, server.url(), *FLEET)
    assert (end.code, end.err) == (0, "")
    assert "3 processes, 5 callers each, limit 4" in end.out
    # A line of each process.
    assert {line.split()[0] for line in end.out.splitlines() if "of 4" in line} >= {"1", "2", "3"}
    assert "calls to Redis" in end.out
    assert 0 < server.peak <= 4


@pytest.mark.slow
@one_loop
async def test_processes_with_a_redis_of_their_own() -> None:
    require_redis()
    # The last of an option counts.
    end = await cli("--fleet", "--json", *FLEET, "--duration", "1")
    assert (end.code, end.err) == (0, "")
    assert 0 < end.result["peak_connections"] <= end.result["limit"] == 4
    assert len(end.result["requests"]) == end.result["processes"] == 3
    assert sum(end.result["requests"]) > 0


@one_loop
async def test_a_short_time_begins_when_the_fleet_gives_places() -> None:
    """A Redis that has just started gives none for a lease."""
    told = []
    stats = [(0, 0.0), (1, 2.0), (2, 0.5), (3, 0.0), (4, 0.0)]

    class Session:
        def fleet_stats(self) -> Any:
            syncs, learning = stats.pop(0)
            return SimpleNamespace(syncs=syncs, learning=learning)

    session: Any = Session()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fleet_demo, "_PERIOD", 0.0)
        patch.setattr(_fleet_demo, "_tell", lambda *args: told.append(args))
        call: Any = asyncio.get_running_loop().create_future()
        await _fleet_demo._until_ready(session, [call])
        assert stats == [(4, 0.0)]
        assert told == [(session, 0)] * 2
        # The callers of a process without a fleet have failed.
        call.set_result(None)
        await _fleet_demo._until_ready(session, [call])
    assert stats == [(4, 0.0)]


def test_the_summary_divides_by_nothing() -> None:
    result = {
        "requests": [0, 0],
        "peak_connections": 0,
        "handshakes": 0,
        "calls_to_redis": 6,
    }
    assert _fleet_demo.summary(result) == (
        "\n0 requests\nthe server saw at most 0 connections at once\n0 handshakes, 6 calls to Redis"
    )
    result |= {"requests": [5, 10], "peak_connections": None, "handshakes": 4}
    assert _fleet_demo.summary(result) == (
        "\n15 requests; fewest of a process: 50% of the most\n"
        "4 handshakes, 6 calls to Redis (1.5 per handshake, none per reuse)"
    )


@one_loop
async def test_processes_without_a_redis() -> None:
    assert "needs a Redis" in complaint(await cli("--fleet", PATH=""))


@one_loop
async def test_bad_arguments_exit_2() -> None:
    end = await cli("--limit", "0")
    assert end.code == 2
    assert end.err.splitlines()[-1].startswith("python -m aiowebsocketclient: error: ")


@one_loop
async def test_help() -> None:
    end = await cli("--help", COLUMNS="80")
    assert (end.code, end.err) == (0, "")
    assert "examples:\n  python -m aiowebsocketclient" in end.out
    assert "concurrent callers (default: 100)" in end.out
    assert all(len(line) <= 80 for line in end.out.splitlines())


def test_quantiles() -> None:
    drawn = random.Random(1)
    seconds = sorted(drawn.lognormvariate(-6, 1) for _ in range(10_000))
    latencies = Latencies()
    for one in seconds:
        latencies.record(one)
    assert latencies.count == 10_000
    assert latencies.max == seconds[-1]
    for share in (0.5, 0.9, 0.99):
        assert latencies.quantile(share) == pytest.approx(seconds[int(share * 10_000)], rel=0.01)
    assert latencies.quantile(1.0) <= latencies.max


def test_quantiles_of_nothing_and_of_no_time() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) == 0
    latencies.record(0.0)
    assert latencies.quantile(0.5) == latencies.max == 0
