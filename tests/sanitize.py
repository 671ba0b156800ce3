"""Builds the compiled core with AddressSanitizer, elsewhere, and drives it: ``make sanitize``.

``python tests/sanitize.py [--pools N] [--valgrind]``.  It needs gcc or clang, and Cython.  A first
build with a fault in it shows that faults are seen.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "aiowebsocketclient"
DRIVE = Path(__file__).with_name("isolated") / "drive.py"

# One reference too few, once, to what is taken soon after.
FAULT = ("            if slot.uses > 1:\n", "            Py_DECREF(waiter.handshake)\n")


def libasan() -> str | None:
    """Return the library to be loaded before the interpreter; None: there is none here."""
    compiler = (sysconfig.get_config_var("CC") or "gcc").split()[0]
    if shutil.which(compiler) is None:
        return None
    asks = [compiler, "-print-file-name=libasan.so"]
    path = subprocess.run(asks, capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else None


def build(directory: Path, *, sanitizer: bool, fault: bool) -> None:
    """Build the extension in a copy of the package."""
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / PACKAGE, directory / PACKAGE, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    if fault:
        source = directory / PACKAGE / "_core.py"
        text = source.read_text()
        before, what = FAULT
        assert text.count(before) == 1
        source.write_text(text.replace(before, what + before))
    flags = "-g -O1 -fno-omit-frame-pointer"
    env = clean_environment()
    if sanitizer:
        flags += " -fsanitize=address"
        env["LDFLAGS"] = "-fsanitize=address"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=directory,
        env=env | {"CFLAGS": flags},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def clean_environment() -> dict[str, str]:
    dropped = ("AIOWEBSOCKETCLIENT_NO_EXTENSIONS", "LD_PRELOAD", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def drive(directory: Path, command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script on what was built; the sanitizer's library must be the first to be loaded."""
    env = clean_environment() | {
        "PYTHONPATH": str(directory),
        # Each object an allocation of its own, to be watched.
        "PYTHONMALLOC": "malloc",
        # CPython itself leaves much to the end of the process.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    library = libasan()
    if library is not None and not command[0].endswith("valgrind"):
        env["LD_PRELOAD"] = library
    return subprocess.run(
        [*command, *arguments], cwd=directory, env=env, capture_output=True, text=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, default=20_000, help="how many are driven at random")
    parser.add_argument("--valgrind", action="store_true", help="drive it under valgrind, too")
    options = parser.parse_args()
    if libasan() is None:
        sys.exit("There is no AddressSanitizer here: install a compiler with its libraries.")
    script = [sys.executable, str(DRIVE)]
    with tempfile.TemporaryDirectory() as scratch:
        for name, sanitizer, fault in (
            ("faulty", True, True),
            ("sanitized", True, False),
            ("plain", False, False),
        ):
            if sanitizer or options.valgrind:
                build(Path(scratch, name), sanitizer=sanitizer, fault=fault)
        report(drive(Path(scratch, "faulty"), script, "--pools=20"), fault=True)
        report(drive(Path(scratch, "sanitized"), script, f"--pools={options.pools}"))
        tests = [sys.executable, "-Pm", "pytest", "-q", "-p", "no:cacheprovider"]
        parts = ("handshakes", "idle", "limits", "queues", "records", "time")
        tests += [str(ROOT / "tests" / f"test_core_{part}.py") for part in parts]
        report(drive(Path(scratch, "sanitized"), tests))
        if options.valgrind:
            # What is not initialised is left out: there CPython itself has too much to say.
            valgrind = ["valgrind", "--error-exitcode=99", "--undef-value-errors=no", "--quiet"]
            report(drive(Path(scratch, "plain"), [*valgrind, *script], "--pools=100"))


def report(done: subprocess.CompletedProcess[str], *, fault: bool = False) -> None:
    seen = "AddressSanitizer" in done.stderr or done.returncode == 99
    print(" ".join(map(str, done.args)), "fault seen" if seen else f"ended with {done.returncode}")
    if seen != fault or (done.returncode and not fault):
        sys.exit(done.stdout[-8_000:] + done.stderr[-8_000:])


if __name__ == "__main__":
    main()
