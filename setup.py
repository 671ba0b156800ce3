"""Builds the compiled core, unless AIOWEBSOCKETCLIENT_NO_EXTENSIONS is set and not empty.

Everything else about the package is in pyproject.toml.
"""

import os
import platform
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build

# On PyPy the compiled core would not be faster, and the pure one is chosen at import anyway. On
# free-threaded CPython it would bring the GIL back for the whole process: what it does in one step
# is one only under that.
WITH_EXTENSION = (
    platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not os.environ.get("AIOWEBSOCKETCLIENT_NO_EXTENSIONS")
)


class FreshBuild(build):
    """Builds into an empty directory."""

    def run(self) -> None:
        """Empty the directory first."""
        # A wheel takes all there is, so also what an earlier build of another kind left there.
        if Path(self.build_base) in Path(self.build_lib).parents:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


def extensions() -> list[Extension]:
    if not WITH_EXTENSION:
        return []
    from Cython.Build import cythonize

    # Most interpreters pass on -g, with which the extension takes twice as long to compile and six
    # times the room. Where CFLAGS are given, these alone count.
    plain = os.name == "posix" and not os.environ.get("CFLAGS")
    pool = Extension(
        "aiowebsocketclient._pool",
        ["aiowebsocketclient/_pool.pyx"],
        extra_compile_args=["-g0"] if plain else [],
    )
    module: list[Extension] = cythonize(
        [pool],
        # The generated C stays out of the source tree, and so out of sdists.
        build_dir="build/cython",
    )
    return module


setup(ext_modules=extensions(), cmdclass={"build": FreshBuild})
