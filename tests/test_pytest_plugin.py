"""The pytest plugin, in runs of pytest of their own, under each plugin that runs async tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiowebsocketclient

pytest_plugins = ("pytester",)

# An environment where the package is not installed, but only in the path, has no entry points.
pytestmark = pytest.mark.timeout(300)

INI = """
[pytest]
addopts = -p no:cacheprovider --strict-markers --strict-config
filterwarnings = error
"""
# pytest-asyncio warns where it is told nothing.
STRICT = "asyncio_default_fixture_loop_scope = function\n"
AUTO = STRICT + "asyncio_mode = auto\n"

# What async tests do, whoever runs them.
ASYNC_TESTS = """
import asyncio
import pytest
from aiowebsocketclient import WebSocketClientSession

LEFT = []

async def ask(session, server):
    async with session.ws_connect(server.url) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"

async def test_first(ws_session, ws_server):
    assert isinstance(ws_session, WebSocketClientSession)
    await ask(ws_session, ws_server)
    await ask(ws_session, ws_server)
    assert ws_server.connections == 1
    LEFT.append((ws_session, ws_server))

async def test_each_has_its_own(ws_server, ws_session):
    (session, server), = LEFT
    assert session.closed
    assert server.open == 0
    assert ws_server is not server
    assert ws_server.connections == 0
    await ask(ws_session, ws_server)

@pytest.fixture
def service(ws_session):
    yield ws_session
    # It is there for as long as what depends on it.
    assert not ws_session.closed

async def test_through_a_fixture(service, ws_server):
    await ask(service, ws_server)

async def test_unused(ws_session):
    pass

async def test_tls(ws_session, ws_server_tls):
    async with ws_session.ws_connect(ws_server_tls.url, ssl=ws_server_tls.client_ssl) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
"""

# pytest-aiohttp asks for options of pytest-asyncio's.
NO_ASYNCIO = ("-p", "no:asyncio", "-p", "no:aiohttp")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on this source, in another process."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run(source: str, *args: str, ini: str = STRICT) -> pytest.RunResult:
        pytester.makeini(INI + ini)
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess(*args, timeout=120)

    return run


def passed(result: pytest.RunResult, count: int) -> None:
    assert result.ret == 0
    result.assert_outcomes(passed=count)


# -- whoever runs the tests ----------------------------------------------------------------------


@pytest.mark.slow
def test_with_asyncio_in_auto_mode(run: Run) -> None:
    passed(run(ASYNC_TESTS, ini=AUTO), 5)


@pytest.mark.slow
def test_with_asyncio_in_strict_mode(run: Run) -> None:
    passed(run(ASYNC_TESTS + "\npytestmark = pytest.mark.asyncio"), 5)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_in_a_loop_of_many_tests(run: Run, scope: str) -> None:
    source = f"""
        import asyncio
        import pytest

        LOOPS = set()

        @pytest.mark.asyncio(loop_scope={scope!r})
        class TestTogether:
            @pytest.mark.parametrize("n", range(3))
            async def test_it(self, ws_session, ws_server, n):
                LOOPS.add(asyncio.get_running_loop())
                async with ws_session.ws_connect(ws_server.url):
                    assert len(LOOPS) == 1
    """
    passed(run(source), 3)


@pytest.mark.slow
def test_where_all_tests_share_a_loop(run: Run) -> None:
    passed(run(ASYNC_TESTS, ini=AUTO + "asyncio_default_test_loop_scope = session"), 5)


@pytest.mark.slow
def test_on_several_loops(run: Run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("uvloop")
    pytester.makeconftest("""
        import asyncio, uvloop

        def pytest_asyncio_loop_factories():
            return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    """)
    source = """
        import asyncio

        LOOPS = []

        async def test_it(ws_session, ws_server):
            LOOPS.append(type(asyncio.get_running_loop()).__module__)
            async with ws_session.ws_connect(ws_server.url) as ws:
                await ws.send_str("hello")
                assert await ws.receive_str() == "hello"

        def test_both():
            assert sorted(LOOPS) == ["asyncio.unix_events", "uvloop"]
    """
    passed(run(source, ini=AUTO), 3)


@pytest.mark.slow
def test_with_anyio(run: Run) -> None:
    backend = "\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    passed(run(f"{ASYNC_TESTS}{backend}\npytestmark = pytest.mark.anyio"), 5)


@pytest.mark.slow
def test_with_anyio_alone_on_uvloop(run: Run) -> None:
    pytest.importorskip("uvloop")
    backend = "\n\n@pytest.fixture\ndef anyio_backend():\n"
    backend += "    return 'asyncio', {'use_uvloop': True}\n"
    source = f"{ASYNC_TESTS}{backend}\npytestmark = pytest.mark.anyio"
    passed(run(source, *NO_ASYNCIO, ini=""), 5)


@pytest.mark.slow
def test_with_trio_it_says_that_it_cannot(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_it(ws_session):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*anyio runs test_it with trio: define a fixture anyio_backend*"])


@pytest.mark.slow
def test_with_pytest_aiohttp(run: Run) -> None:
    pytest.importorskip("pytest_aiohttp")
    source = """
        from aiohttp import web

        async def test_it(ws_session, ws_server, aiohttp_client):
            async def ask(request):
                async with ws_session.ws_connect(ws_server.url) as ws:
                    await ws.send_str(request.query["question"])
                    return web.Response(text=await ws.receive_str())

            app = web.Application()
            app.router.add_get("/", ask)
            client = await aiohttp_client(app)
            async with client.get("/", params={"question": "hello"}) as reply:
                assert await reply.text() == "hello"
    """
    passed(run(source, ini=AUTO), 1)


@pytest.mark.slow
def test_without_a_loop_there_is_a_server_but_no_session(run: Run) -> None:
    result = run("""
        import asyncio
        from aiowebsocketclient import WebSocketClientSession

        def test_server(ws_server):
            async def main():
                async with WebSocketClientSession() as session:
                    async with session.ws_connect(ws_server.url) as ws:
                        await ws.send_str("hello")
                        return await ws.receive_str()

            assert asyncio.run(main()) == "hello"

        def test_session(ws_session):
            pass
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ws_session needs a test in an event loop, *runs test_session: *"])


@pytest.mark.slow
def test_without_a_plugin_for_async_tests(run: Run) -> None:
    source = "async def test_it(ws_session):\n    pass"
    result = run(source, *NO_ASYNCIO, "-p", "no:anyio", ini="")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["ws_session needs a test in an event loop, *runs test_it: *"])


@pytest.mark.slow
def test_in_several_processes(run: Run) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("n", range(8))
        async def test_it(ws_session, ws_server, n):
            async with ws_session.ws_connect(ws_server.url) as ws:
                await ws.send_str(str(n))
                assert await ws.receive_str() == str(n)
            assert ws_server.received == [str(n)]
    """
    passed(run(source, "-n", "2", ini=AUTO), 8)


# -- leaks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_leaks(run: Run) -> None:
    result = run(
        """
        import gc
        import pytest

        KEPT = []

        async def test_kept(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))

        @pytest.mark.filterwarnings("default")
        async def test_forgotten(ws_session, ws_server):
            ws = await ws_session.ws_connect(ws_server.url)

        async def test_another_goes_on(ws_session, ws_server):
            async with ws_session.ws_connect(ws_server.url):
                pass

        @pytest.mark.ws_session(check_leaks=False)
        async def test_allowed(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))

        async def test_failed_anyway(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))
            assert False

        async def test_skipped(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))
            pytest.skip("later")
        """,
        ini=AUTO,
    )
    result.assert_outcomes(passed=4, failed=1, skipped=1, errors=2, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_kept*",
            "Connections left acquired in ws_session: 1. Call release() *",
            "127.0.0.1:*, acquired at *.py:*, in test_kept: KEPT.append(await ws_session.ws_co*",
            "*ERROR at teardown of test_forgotten*",
            "127.0.0.1:*, in test_forgotten: ws = await *(forgotten)",
        ]
    )


@pytest.mark.slow
def test_leaks_may_be_allowed_everywhere(run: Run) -> None:
    source = """
        import pytest

        KEPT = []

        async def test_it(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))

        @pytest.mark.ws_session(check_leaks=True)
        async def test_not_here(ws_session, ws_server):
            KEPT.append(await ws_session.ws_connect(ws_server.url))
    """
    result = run(source, ini=AUTO + "ws_session_check_leaks = false")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_not_here*"])


@pytest.mark.slow
def test_replies_that_fail_fail_the_test(run: Run) -> None:
    source = """
        async def test_it(ws_session, ws_server):
            ws_server.reply_with({"question": "answer"})
            async with ws_session.ws_connect(ws_server.url) as ws:
                await ws.send_str("another")
                await ws.receive()
    """
    result = run(source, ini=AUTO)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*LookupError: reply_with() has no reply for 'another'"])


# -- options -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_options(run: Run) -> None:
    source = """
        import pytest

        pytestmark = pytest.mark.ws_session(limit=1, limit_total=9)

        async def test_of_the_module(ws_session):
            assert ws_session.limit == 1

        @pytest.mark.ws_session(limit=2)
        class TestClass:
            async def test_of_the_class(self, ws_session):
                assert ws_session.limit == 2

            @pytest.mark.ws_session(limit=3, force_close=True)
            async def test_of_its_own(self, ws_session):
                assert ws_session.limit == 3
                assert ws_session.force_close
                assert ws_session._pool_settings.limit_total == 9
    """
    passed(run(source, ini=AUTO), 3)


@pytest.mark.slow
def test_wrong_options(run: Run) -> None:
    source = """
        import pytest

        @pytest.mark.ws_session(5)
        async def test_positional(ws_session):
            pass

        @pytest.mark.ws_session(limits=5)
        async def test_misspelt(ws_session):
            pass

        @pytest.mark.ws_session(limit="5")
        async def test_mistaken(ws_session):
            pass
    """
    result = run(source, ini=AUTO)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*UsageError: pytest.mark.ws_session() takes keyword arguments only",
            # CPython 3.13 asks whether limit was meant.
            "*TypeError: *'limits'*",
            "*TypeError: limit must be an integer or None, not str",
        ]
    )


# -- in the way of nobody ------------------------------------------------------------------------


def test_it_is_the_installed_one(pytestconfig: pytest.Config) -> None:
    plugin: Any = pytestconfig.pluginmanager.get_plugin("aiowebsocketclient")
    assert plugin is not None, "the package is not installed, or without its entry point"
    installed = Path(aiowebsocketclient.__file__).parents[1]
    assert Path(plugin.__file__) == installed / "pytest_aiowebsocketclient.py"


@pytest.mark.slow
def test_it_can_be_turned_off(run: Run) -> None:
    source = "def test_it(ws_server):\n    pass"
    result = run(source, "-p", "no:aiowebsocketclient")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'ws_server' not found"])


@pytest.mark.slow
def test_who_does_not_use_it_does_not_import_the_package(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other plugins have their own ways.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    source = """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("aiowebsocketclient")
            assert "pytest_aiowebsocketclient" in sys.modules
            assert "aiowebsocketclient" not in sys.modules
            assert "aiohttp" not in sys.modules
    """
    passed(run(source, "-p", "aiowebsocketclient", ini=""), 1)


@pytest.mark.slow
def test_it_works_without_the_other_plugins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    Path("absent.py").write_text("import sys\nsys.modules['pytest_asyncio'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]))
    source = "def test_it(ws_server):\n    assert ws_server.open == 0"
    passed(run(source, "-p", "absent", "-p", "aiowebsocketclient", ini=""), 1)


@pytest.mark.slow
def test_it_explains_itself(run: Run) -> None:
    result = run("", "--fixtures")
    described = ("ws_server -- *", "    Run *", "ws_server_tls -- *", "    Run *")
    result.stdout.fnmatch_lines([*described, "ws_session -- *", "    Create *"])
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.ws_session(*): options of*"])
