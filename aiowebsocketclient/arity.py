"""Whether a function of the user can be called with the arguments that the pool passes.

A function that cannot would fail each time, in the background.

``inspect.signature()`` would take several microseconds, and it believes ``__wrapped__`` and
``__signature__``: a decorator may take other arguments than the function inside.  What counts is
the code of the function that is called; where that is not known, the function is accepted.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, TypeVar

__all__ = ("check_arity", "factory", "name_of")

_Function = TypeVar("_Function", bound=Callable[..., Any])

# More steps from a callable to its code than this are not followed: there may be no end.
_MOST_STEPS: Final = 8

# Stands for an argument to come, in CPython 3.14 and later.
_PLACEHOLDER: Final[Any] = getattr(functools, "Placeholder", object())

# Functions of the package that return a hook.
_factories: Final[set[Any]] = set()


def factory(function: _Function) -> _Function:
    """Mark a function that returns a hook, so that it is not taken for one itself."""
    _factories.add(function)
    return function


def check_arity(name: str, function: Any, *arguments: str) -> None:
    """Raise ``TypeError`` if ``function`` cannot be called with the positional ``arguments``.

    ``name`` is the parameter that it was passed for.
    """
    called = _called(function, len(arguments))
    if called is None:
        return
    if called.function in _factories:
        shown = name_of(called.function)
        raise TypeError(
            f"{name} must be what {shown}() returns, not {shown} itself: pass {shown}(), with"
            " parentheses"
        )
    if not _is_sure_to_fit(*called):
        reason = _refusal(*called)
        if reason:
            number = "one argument" if len(arguments) == 1 else f"{len(arguments)} arguments"
            raise TypeError(
                f"{name} must be callable with {number} ({', '.join(arguments)}), but"
                f" {name_of(function)} is not: {reason}{_hint(function)}"
            )


class _Called(NamedTuple):
    """The function whose code runs, and what it gets."""

    function: FunctionType
    #: Positional arguments, and names of keyword arguments.
    positional: int
    keywords: Collection[str]


def _called(function: Any, count: int) -> _Called | None:
    """Return what a call of ``function`` with ``count`` arguments calls; None: not known."""
    keywords: Collection[str] = ()
    for _ in range(_MOST_STEPS):
        if type(function) is FunctionType:
            return _Called(function, count, keywords)
        if type(function) is MethodType:
            count += 1
            function = function.__func__
        elif type(function) is partial:
            if any(argument is _PLACEHOLDER for argument in function.args):
                return None
            count += len(function.args)
            keywords = {*keywords, *function.keywords}
            function = function.func
        else:
            # Not isinstance(), which believes __class__, as of a Mock.
            is_class = issubclass(type(function), type)
            method = _constructor(function) if is_class else _attribute(type(function), "__call__")
            if type(method) is FunctionType:
                count += 1
            elif isinstance(method, staticmethod):
                # In a class, __new__ gets the class nevertheless.
                count += is_class
                method = method.__func__
            else:
                return None
            function = method
    return None


def _constructor(cls: type) -> Any:
    """Return the method that takes the arguments of a class; None: not known."""
    if _attribute(type(cls), "__call__") is not vars(type)["__call__"]:
        return None
    new, init = _attribute(cls, "__new__"), _attribute(cls, "__init__")
    if new is not vars(object)["__new__"]:
        # What it returns may have no __init__.
        return new if init is vars(object)["__init__"] else None
    return _without_arguments if init is vars(object)["__init__"] else init


def _without_arguments(self: object) -> None: ...


def _attribute(cls: type, name: str) -> Any:
    """Return an attribute of a class as Python finds it for a call, without binding it."""
    return next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)


def _is_sure_to_fit(function: FunctionType, count: int, keywords: Collection[str]) -> bool:
    """Return whether the arguments fit; False: they may nevertheless."""
    code = function.__code__
    positional, by_name = code.co_argcount, code.co_kwonlyargcount
    least = positional - len(function.__defaults__ or ())
    if count > positional:
        return bool(code.co_flags & inspect.CO_VARARGS) and not (keywords or by_name)
    if not keywords:
        return count >= least and not by_name
    if code.co_posonlyargcount > count:
        return False
    names = code.co_varnames[count : positional + by_name]
    needed = {*names} - {*names[max(0, least - count) : positional - count]}
    return needed - {*(function.__kwdefaults__ or ())} <= {*keywords} <= {*names}


def _refusal(function: FunctionType, count: int, keywords: Collection[str]) -> str:
    """Return why Python refuses the arguments; empty: it accepts them."""
    code = function.__code__
    # Without what inspect.signature() would believe.
    bare = FunctionType(code, {}, "", function.__defaults__, function.__closure__)
    bare.__kwdefaults__ = function.__kwdefaults__
    if code.co_flags & inspect.CO_VARKEYWORDS:
        # Names of positional-only parameters are free, but Signature.bind() may not know that.
        keywords = {*keywords} - {*code.co_varnames[: code.co_posonlyargcount]}
    try:
        inspect.signature(bare).bind(*[None] * count, **dict.fromkeys(keywords))
    except TypeError as exc:
        return str(exc)
    return ""


def _hint(function: Any) -> str:
    """Return what to do about a function that cannot be called."""
    shown = name_of(function)
    if issubclass(type(function), type):
        return f". Pass an object of the class, such as {shown}()"
    if type(function) is FunctionType and function.__code__.co_varnames[:1] == ("self",):
        return f". Pass the method of an object, not {shown}"
    if type(function) is FunctionType and not inspect.iscoroutinefunction(function):
        return f". If {shown} returns the function to call, pass {shown}(...), with parentheses"
    return ""


def name_of(function: Any) -> str:
    """Return the name of a function, or of the class of another callable."""
    name: Any = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__name__
