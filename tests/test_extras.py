"""Modules for libraries that an extra installs."""

import pytest

from .conftest import run_program

EXTRAS = [
    ("gql", "gql", "gql"),
    ("prometheus", "prometheus_client", "prometheus_client"),
    ("opentelemetry", "opentelemetry", "the API of OpenTelemetry"),
    ("gremlin", "gremlin_python", "gremlinpython"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "library", "called"), EXTRAS)
def test_without_its_library_the_import_says_what_to_install(
    extra: str, library: str, called: str
) -> None:
    program = f"import sys; sys.modules[{library!r}] = None\n"
    done = run_program(f"{program}import aiowebsocketclient.{extra}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: aiowebsocketclient.{extra} needs {called}:"
        f" pip install 'aiowebsocketclient[{extra}]'"
    )
    assert run_program(f"{program}import aiowebsocketclient").returncode == 0


@pytest.mark.parametrize("library", [library for _, library, _ in EXTRAS])
def test_it_is_not_imported_unless_asked_for(library: str) -> None:
    done = run_program(f"import sys, aiowebsocketclient; print({library!r} in sys.modules)")
    assert done.stdout == "False\n"
