"""Remembers what the arguments of calls were resolved to, and for how many and how large ones.

The arguments of a call belong to its caller: a TLS context, a function with what it has closed
over, the object that a method is bound to.  A cache keeps them alive, so it keeps few of them.
"""

import ssl
import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from types import FunctionType, MethodType
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from .keys import Target

__all__ = ("ATOMS", "Targets")

#: What may be in the arguments of a call that is remembered, besides str, and dicts and sequences
#: of them.
ATOMS: Final = frozenset(
    {
        *(bool, bytes, float, int, URL),
        *(aiohttp.ClientWSTimeout, ssl.SSLContext),
        *(FunctionType, MethodType),
    }
)

# Calls whose target is remembered; a service has few, and one that has many pays for a parse.
_MAX_TARGETS: Final = 1024
# Bytes that they may take altogether, and one of them.
_MAX_SIZE: Final = 4 * 1024 * 1024
_MAX_SIZE_OF_ONE: Final = 64 * 1024
# About what a target takes besides its strings, and how often a string may be there: as it was
# given, and in the form in which it is sent.
_BASE_SIZE: Final = 2048
_COPIES: Final = 2
# Objects in the arguments of those calls whose size is not known: a TLS context has a megabyte.
_MAX_OBJECTS: Final = 8

# Numbers, None, and the classes that stand in a signature before their instances.
_SMALL: Final = frozenset({bool, float, type(None), type, aiohttp.ClientWSTimeout})
_SIZED: Final = frozenset({str, bytes, int})


class Targets(dict[Any, Target]):
    """Targets by what tells the arguments of calls from each other, which are resolved once."""

    __slots__ = ("_by_object", "_size", "headers")

    def __init__(self, headers: CIMultiDict[str]) -> None:
        #: Those of the pool, which go with every handshake.
        self.headers = headers
        # The bytes that all of them take, and the signatures with each object of unknown size, the
        # object that was longest in no call that was resolved first.
        self._size = 0
        self._by_object: OrderedDict[Any, dict[Hashable, None]] = OrderedDict()

    def remember(self, signature: Hashable, target: Target) -> None:
        """Remember the target of a call; others are forgotten for it where there are too many."""
        size, objects = _weighed(signature)
        if size > _MAX_SIZE_OF_ONE or len(objects) > _MAX_OBJECTS:
            return
        if len(self) >= _MAX_TARGETS or self._size + size > _MAX_SIZE:
            self.clear()
        for thing in objects:
            self._by_object.setdefault(thing, {})[signature] = None
            self._by_object.move_to_end(thing)
        self._size += size
        self[signature] = target
        while len(self._by_object) > _MAX_OBJECTS:
            for other in list(next(iter(self._by_object.values()))):
                self._forget(other)

    def _forget(self, signature: Hashable) -> None:
        del self[signature]
        size, objects = _weighed(signature)
        self._size -= size
        for thing in objects:
            signatures = self._by_object[thing]
            del signatures[signature]
            if not signatures:
                del self._by_object[thing]

    def clear(self) -> None:
        """Forget all of them."""
        super().clear()
        self._by_object.clear()
        self._size = 0

    def __repr__(self) -> str:
        """Return how many there are; URLs and headers may be secret."""
        return f"<{len(self)} targets>"


def _weighed(signature: Hashable) -> tuple[int, list[Any]]:
    """Return the bytes that a target takes, and the objects in its arguments of unknown size."""
    objects: dict[Any, None] = {}
    parts: Iterable[Any] = signature if type(signature) is tuple else (signature,)
    size = _BASE_SIZE + _COPIES * _size_of(parts, objects)
    return size, list(objects)


def _size_of(parts: Iterable[Any], objects: dict[Any, None]) -> int:
    size = 0
    for part in parts:
        kind = type(part)
        if kind in _SIZED:
            size += sys.getsizeof(part)
        elif kind is URL:
            size += sys.getsizeof(str(part))
        elif kind is tuple or kind is frozenset:
            # A reuse_key.
            size += sys.getsizeof(part) + _size_of(part, objects)
        elif kind not in _SMALL and not (kind is FunctionType and _holds_nothing(part)):
            objects[part] = None
    return size


def _holds_nothing(function: FunctionType) -> bool:
    """Whether a function keeps nothing alive but its code and its module."""
    return not (
        function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)
    )
