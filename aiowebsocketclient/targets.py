"""Caches the targets of calls, by their arguments, within limits of number and size.

The arguments of a call belong to its caller: a TLS context, a closure, an object with a bound
method.  A cache keeps them alive, so it keeps only a few of them.
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

from ._compat import signature_of
from .keys import Target, Variant

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

# Maximum number of targets; most services need few, and others pay for parsing again.
_MAX_TARGETS: Final = 1024
_MAX_PATTERNS: Final = 64
# Maximum number of bytes, of all targets and of one target.
_MAX_SIZE: Final = 4 * 1024 * 1024
_MAX_SIZE_OF_ONE: Final = 64 * 1024
# Estimated bytes of a target besides its strings, and copies of each string: as passed by the
# caller and as sent.
_BASE_SIZE: Final = 2048
_COPIES: Final = 2
# Maximum number of objects of unknown size in the arguments; a TLS context may take a megabyte.
_MAX_OBJECTS: Final = 8

# Numbers, None, and classes that precede their instances in a signature.
_SMALL: Final = frozenset({bool, float, type(None), type, aiohttp.ClientWSTimeout})
_SIZED: Final = frozenset({str, bytes, int})


class Targets(dict[Any, Target]):
    """Cache of targets, by the signature of the arguments of a call."""

    __slots__ = ("_by_object", "_patterns", "_size", "headers")

    def __init__(self, headers: CIMultiDict[str]) -> None:
        #: The headers of the pool, part of every handshake.
        self.headers = headers
        # Total size in bytes, and the signatures that contain each object of unknown size; the
        # least recently resolved object comes first.
        self._size = 0
        self._by_object: OrderedDict[Any, dict[Hashable, None]] = OrderedDict()
        # Targets under a reuse_key, by all but the values of their headers.
        self._patterns: dict[Hashable, Target] = {}

    def variant_of(self, url: Any, reuse_key: Hashable, options: dict[str, Any]) -> Variant | None:
        """Return the target of a call like an earlier one, but for values of headers.

        None: there was none, or a value needs a closer look.
        """
        pattern = self._patterns.get(_pattern(url, reuse_key, options)) if self._patterns else None
        if pattern is None:
            return None
        headers = options["headers"]
        for value in headers.values():
            if type(value) is not str or not value.isprintable():
                return None
        # A copy: the caller may change the dict before a handshake needs it.
        return Variant(pattern, headers.copy(), self.headers)

    def note_pattern(
        self, url: Any, reuse_key: Hashable, options: dict[str, Any], target: Target
    ) -> None:
        """Remember a target for calls that differ in values of headers only."""
        pattern = _pattern(url, reuse_key, options)
        if pattern is None:
            return
        size, objects = _weighed(pattern)
        if size > _MAX_SIZE_OF_ONE or objects:
            return
        if len(self._patterns) >= _MAX_PATTERNS:
            self._patterns.clear()
        self._patterns[pattern] = target

    def remember(self, signature: Hashable, target: Target) -> None:
        """Cache the target of a call, and drop others if the cache is full."""
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
        """Drop all targets."""
        super().clear()
        self._patterns.clear()
        self._by_object.clear()
        self._size = 0

    def __repr__(self) -> str:
        """Return the number of targets; URLs and headers may be secret."""
        return f"<{len(self)} targets>"


def _pattern(url: Any, reuse_key: Hashable, options: dict[str, Any]) -> Hashable:
    """Return a hashable form of the arguments of a call, without values of headers.

    None: there is none, or nothing to gain.
    """
    headers = options.get("headers")
    if reuse_key is None or type(headers) is not dict:
        return None
    others = options.copy()
    del others["headers"]
    signature = signature_of(url, reuse_key, others, ATOMS)
    return None if signature is None else (*signature, *headers)


def _weighed(signature: Hashable) -> tuple[int, list[Any]]:
    """Return the estimated size of a target, and its arguments of unknown size."""
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
    """Return whether a function keeps only its code and its module alive."""
    return not (
        function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)
    )
