"""What is built from the checkout, how it installs, and which core it then chooses.

Everything is built in a copy, by way of pip's build isolation, as users and package indexes do.
"""

import email
import email.message
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAG = "AIOWEBSOCKETCLIENT_NO_EXTENSIONS"

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "aiowebsocketclient" / "_pool.pyx").is_file(), reason="not in a checkout"
    ),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("build", "twine")),
        reason="build and twine are not installed",
    ),
    pytest.mark.skipif(os.name == "nt", reason="environments are laid out in another way"),
    # Environments are made and filled here, and C is compiled.
    pytest.mark.timeout(600),
    pytest.mark.slow,
]

NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "*.c", "*.so", "*.pyd"
)
# What builds of other kinds, and of other times, may have left in a checkout.
STALE = (
    "aiowebsocketclient/_pool.cpython-399-somewhere.so",
    "aiowebsocketclient/_pool.c",
    "build/lib/aiowebsocketclient/_pool.cpython-399-somewhere.so",
    "build/lib/aiowebsocketclient/removed_long_ago.py",
)


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command that must succeed, without what this environment would lend it."""
    lent = (FLAG, "PYTHONPATH", "PYTEST_ADDOPTS")
    clean = {name: value for name, value in os.environ.items() if name not in lent}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, dist: Path, *options: str, flag: str) -> Path:
    command = [sys.executable, "-Im", "build", *options, "--outdir", dist, source]
    run(*command, cwd=dist.parent, **{FLAG: flag})
    (built,) = dist.iterdir()
    return built


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, with stale files of every kind in it."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES)
    for name in STALE:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("stale")
    return copy


@pytest.fixture(scope="session")
def sdist(checkout: Path) -> Path:
    return build(checkout, checkout.parent / "sdist", "--sdist", flag="")


@pytest.fixture(scope="session")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent.parent, filter="data")
    return sdist.parent.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="session")
def wheel(unpacked: Path) -> Path:
    # Set and empty is the same as not set.
    return build(unpacked, unpacked.parent / "wheel", "--wheel", flag="")


@pytest.fixture(scope="session")
def pure_wheel(checkout: Path) -> Path:
    return build(checkout, checkout.parent / "pure", "--wheel", flag="1")


def unzip(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """Return a directory that holds what the compiled wheel installs."""
    return unzip(wheel, tmp_path / "installed")


@pytest.fixture
def installed_pure(pure_wheel: Path, tmp_path: Path) -> Path:
    return unzip(pure_wheel, tmp_path / "installed")


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, name: str) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return email.message_from_bytes(archive.read(path))


def implementation(python: Path, where: Path, **env: str) -> str:
    """Return which core the package in ``where`` chooses in a new process."""
    code = "import aiowebsocketclient as a; print(a.IMPLEMENTATION, a.__file__)"
    said = run(python, "-P", "-c", code, cwd=where, PYTHONPATH=str(where), **env)
    chosen, path = said.split(maxsplit=1)
    assert Path(path.strip()).is_relative_to(where)
    return chosen


# -- what is in them -----------------------------------------------------------------------------


def test_sdist_holds_all_that_is_needed_to_build_and_to_test(unpacked: Path) -> None:
    for name in (
        "CHANGES.rst",
        "CHANGES/README.rst",
        "CONTRIBUTING.rst",
        "LICENSE",
        "Makefile",
        "README.rst",
        "SECURITY.md",
        "aiowebsocketclient/_core.py",
        "aiowebsocketclient/_pool.pxd",
        "aiowebsocketclient/_pool.pyx",
        "aiowebsocketclient/_pool_py.py",
        "aiowebsocketclient/fleet.lua",
        "aiowebsocketclient/py.typed",
        "bench/__main__.py",
        "bench/scenarios/core.py",
        "docs/_static/bench/held.svg",
        "examples/README.rst",
        "examples/quickstart.py",
        "pyproject.toml",
        "pytest_aiowebsocketclient.py",
        "setup.py",
        "tests/conftest.py",
        "tests/test_packaging.py",
    ):
        assert (unpacked / name).is_file(), name


def test_sdist_holds_nothing_that_was_generated(unpacked: Path) -> None:
    files = [path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".c", ".so", ".pyd", ".pyc")]
    assert not [path for path in files if path.parts[0] in ("build", "dist", ".venv")]


def test_sdist_holds_every_source_file(checkout: Path, unpacked: Path) -> None:
    for folder in ("aiowebsocketclient", "bench", "examples", "tests"):
        for path in (checkout / folder).rglob("*.py*"):
            assert (unpacked / path.relative_to(checkout)).is_file(), path


def test_compiled_wheel_holds_the_package_and_the_extension(checkout: Path, wheel: Path) -> None:
    extensions = {name for name in names(wheel) if name.endswith((".so", ".pyd"))}
    assert len(extensions) == 1
    assert "399" not in extensions.pop()
    assert_package(checkout, wheel)


def test_pure_wheel_holds_the_package_alone(checkout: Path, pure_wheel: Path) -> None:
    assert not [name for name in names(pure_wheel) if name.endswith((".so", ".pyd"))]
    assert_package(checkout, pure_wheel)


def test_free_threaded_cpython_gets_a_pure_wheel(unpacked: Path, tmp_path: Path) -> None:
    source = shutil.copytree(unpacked, tmp_path / "source")
    says_so = (
        "import sysconfig\n"
        "asked = sysconfig.get_config_var\n"
        "sysconfig.get_config_var = lambda name: name == 'Py_GIL_DISABLED' or asked(name)\n"
    )
    (source / "setup.py").write_text(says_so + (source / "setup.py").read_text())
    wheel = build(source, tmp_path / "dist", "--wheel", flag="")
    assert wheel.name.endswith("-py3-none-any.whl")


def assert_package(checkout: Path, wheel: Path) -> None:
    found = {name for name in names(wheel) if not name.endswith((".so", ".pyd"))}
    modules = {
        f"aiowebsocketclient/{p.name}" for p in (checkout / "aiowebsocketclient").glob("*.py")
    }
    metadata = {name for name in found if PurePosixPath(name).parts[0].endswith(".dist-info")}
    others = {
        "aiowebsocketclient/fleet.lua",
        "aiowebsocketclient/py.typed",
        "pytest_aiowebsocketclient.py",
    }
    assert found - metadata == modules | others
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_tags(wheel: Path, pure_wheel: Path) -> None:
    assert read(pure_wheel, "WHEEL").get_all("Tag") == ["py3-none-any"]
    assert read(pure_wheel, "WHEEL")["Root-Is-Purelib"] == "true"
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (tag,) = read(wheel, "WHEEL").get_all("Tag", [])
    assert tag.startswith(f"{version}-{version}-")
    assert read(wheel, "WHEEL")["Root-Is-Purelib"] == "false"


def test_metadata(wheel: Path) -> None:
    metadata = read(wheel, "METADATA")
    assert metadata["Name"] == "aiowebsocketclient"
    # Other people's versions, up to this one, are on the index.
    assert tuple(map(int, metadata["Version"].split("."))) > (0, 0, 5)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/x-rst"
    assert metadata.get_all("Provides-Extra") == [
        "bench",
        "cli",
        "gql",
        "gremlin",
        "opentelemetry",
        "prometheus",
        "redis",
        "uvloop",
    ]
    assert "aiowebsocketclient" in metadata.get_payload()


def test_twine_finds_nothing(sdist: Path, wheel: Path, pure_wheel: Path) -> None:
    command = [sys.executable, "-Im", "twine", "check", "--strict"]
    said = run(*command, sdist, wheel, pure_wheel, cwd=sdist.parent)
    assert said.count("PASSED") == 3


def test_check_wheel_contents_finds_nothing(wheel: Path, pure_wheel: Path) -> None:
    pytest.importorskip("check_wheel_contents")
    command = [sys.executable, "-Im", "check_wheel_contents", "--config", ROOT / "pyproject.toml"]
    run(*command, wheel, pure_wheel, cwd=wheel.parent)


# -- installed -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment(wheel: Path) -> Path:
    """Return the interpreter of a new environment, with the compiled wheel as a user installs it.

    An editable installation, as the one that runs these tests may be, lends its extension to any
    other that has none.
    """
    path = wheel.parent.parent / "venv"
    venv.create(path, with_pip=True)
    python = path / "bin" / "python"
    tools = ("pytest", "pytest-asyncio", "pytest-timeout", "trustme")
    run(python, "-m", "pip", "install", "--quiet", wheel, *tools, cwd=path)
    return python


def test_compiled_wheel_passes_elsewhere(environment: Path, unpacked: Path, tmp_path: Path) -> None:
    run(environment, "-m", "pip", "check", cwd=tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(unpacked / "pyproject.toml", tmp_path)
    shared = ("conftest.py", "driver.py", "redis_server.py", "servers.py", "tally.py")
    for name in ("__init__.py", *shared, "test_usage.py"):
        shutil.copy(unpacked / "tests" / name, tmp_path / "tests")
    said = run(environment.with_name("pytest"), "--impl", "c", cwd=tmp_path)
    assert f"(c: {environment.parents[1]}" in said
    closing = said.splitlines()[-1]
    assert " passed" in closing
    for word in ("failed", "skipped", "error"):
        assert word not in closing


def test_pip_takes_the_pure_wheel(environment: Path, pure_wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [environment, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    run(*command, pure_wheel, cwd=tmp_path)
    assert implementation(environment, target) == "py"


def test_flag_at_import(environment: Path, installed: Path) -> None:
    assert implementation(environment, installed) == "c"
    assert implementation(environment, installed, **{FLAG: ""}) == "c"
    assert implementation(environment, installed, **{FLAG: "1"}) == "py"
    # Whatever it is, it is not empty.
    assert implementation(environment, installed, **{FLAG: "0"}) == "py"


def test_absent_extension_is_a_pure_installation(environment: Path, installed: Path) -> None:
    extension(installed).unlink()
    assert implementation(environment, installed) == "py"


def test_pure_wheel_falls_back_by_itself(environment: Path, installed_pure: Path) -> None:
    assert implementation(environment, installed_pure) == "py"
    assert implementation(environment, installed_pure, **{FLAG: "1"}) == "py"


def test_broken_extension_is_an_import_error(environment: Path, installed: Path) -> None:
    extension(installed).write_bytes(b"garbage")
    env = {k: v for k, v in os.environ.items() if k != FLAG} | {"PYTHONPATH": str(installed)}
    command = [environment, "-P", "-c", "import aiowebsocketclient"]
    done = subprocess.run(command, cwd=installed, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError:")
    assert extension(installed).name in last
    # Who asks for the other core gets it all the same.
    assert implementation(environment, installed, **{FLAG: "1"}) == "py"


def extension(installed: Path) -> Path:
    (path,) = (installed / "aiowebsocketclient").glob("_pool.*.so")
    return path
