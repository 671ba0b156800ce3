"""What the sources of the core ask of Cython, for the interpreter: nothing.

``_lists.py``, ``_records.py``, ``_core.py`` and ``_lending.py`` are compiled as parts of
``_pool.pyx``, where ``cython`` is Cython's own module, and run as they are otherwise, where it is
this one.  ``_pool.pxd`` has the C types of attributes and of functions.

A ``cfunc`` can be called from C alone, a ``ccall`` from Python too.  A function that returns None
returns a Python object in C; the few that return 0 instead are called in every cycle.  What stands
under ``if not cython.compiled:`` is not compiled.
"""

import builtins
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)

compiled: Final = False

bint: TypeAlias = bool
double: TypeAlias = float
int: TypeAlias = builtins.int  # noqa: A001
Py_ssize_t: TypeAlias = builtins.int
uchar: TypeAlias = builtins.int
ulong: TypeAlias = builtins.int
ulonglong: TypeAlias = builtins.int


def cclass(cls: _Class) -> _Class:
    """Make a class an extension type."""
    return cls


def final(cls_or_function: _T) -> _T:
    """Let nothing be derived from a class, or override a function, so that C calls it directly."""
    return cls_or_function


def cfunc(function: _Function) -> _Function:
    """Make a function one of C."""
    return function


def ccall(function: _Function) -> _Function:
    """Make a function one of C that Python can call."""
    return function


def exceptval(_value: builtins.int) -> Callable[[_Function], _Function]:
    """Let C ask for an exception only where this value is returned, not after each call."""
    return cfunc


def freelist(_size: builtins.int) -> Callable[[_Class], _Class]:
    """Keep so many objects of a class for those to come."""
    return cclass


def boundscheck(_on: builtins.bool) -> Callable[[_Function], _Function]:
    """Let C check that an index is in range, or not."""
    return cfunc


def wraparound(_on: builtins.bool) -> Callable[[_Function], _Function]:
    """Let C take negative indices as Python does, or not."""
    return cfunc


def declare(_kind: Any, value: _T) -> _T:
    """Return the first value of a variable of C."""
    return value
