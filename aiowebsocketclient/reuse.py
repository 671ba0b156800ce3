"""Detects that no connection to an endpoint is ever reused, and logs the reason once.

A header that changes with each call, such as a request id, makes each handshake different, and a
pool that never reuses connections is worse than none.  This module knows by name what differs
between handshakes; of the values it keeps only hashes and weak references.

It sees connections open and close, but not their uses.
"""

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from types import MethodType
from typing import Any, Final

from ._compat import Slot
from ._pool_py import CLOSE_REASONS, IDLE
from .hooks import Hooks
from .keys import EndpointKey, Target
from .logs import log

__all__ = ("ReuseWatch",)

#: Number of handshakes without reuse after which the warning is logged.
_MANY: Final = 20
# Number of recent handshakes to look at, per endpoint.
_LOOKED_AT: Final = 32
# Number of reused handshakes after which an endpoint is no longer watched, and number of endpoints.
_MAX_REUSED: Final = 1024
_MAX_ENDPOINTS: Final = 1024

# Reasons for closing an idle connection.
_FROM_IDLE: Final = {CLOSE_REASONS.index("idle"), CLOSE_REASONS.index("evicted")}

#: Something that can differ: its kind, and its name if the kind has names.
_Name = tuple[str, str]
#: Identifies a value without containing it.
_Mark = Hashable
_Marks = tuple[tuple[_Name, _Mark], ...]


class ReuseWatch:
    """Logs once per endpoint that every handshake is different, and what differs."""

    __slots__ = ("_endpoints", "_session_name")

    def __init__(self, session_name: str | None) -> None:
        self._session_name = session_name
        self._endpoints: OrderedDict[EndpointKey, _Handshakes] = OrderedDict()

    def opened(self, slot: Slot, target: Target) -> None:
        """Record that a connection was opened for ``target``."""
        endpoint = target.key.endpoint
        handshakes = self._endpoints.get(endpoint)
        if handshakes is None:
            handshakes = self._endpoints[endpoint] = _Handshakes()
            if len(self._endpoints) > _MAX_ENDPOINTS:
                self._endpoints.popitem(last=False)
        if handshakes.is_settled:
            return
        handshakes.add(slot, target)
        idle = handshakes.idle_and_never_reused()
        if len(idle) >= _MANY:
            handshakes.settle()
            log(
                "nothing_reused",
                session_name=self._session_name,
                endpoint=str(endpoint),
                connections=len(idle),
                differs=_told(_differing(idle)),
            )

    def closed(self, slot: Slot) -> None:
        """Record that the socket of a connection is closed, and drop what refers to it."""
        endpoint: Any = slot.endpoint
        handshakes = self._endpoints.get(endpoint)
        if handshakes is not None:
            handshakes.closed(slot)


class _Handshakes:
    """Recent handshakes of one endpoint whose connections have not been reused."""

    __slots__ = ("_recent", "_reused", "is_settled")

    def __init__(self) -> None:
        #: Connections by the marks of their handshakes; None: closed after being idle.
        self._recent: OrderedDict[_Marks, Slot | None] = OrderedDict()
        # Hashes of the keys of reused handshakes.
        self._reused: set[int] = set()
        #: Whether the endpoint is no longer watched.
        self.is_settled = False

    def add(self, slot: Slot, target: Target) -> None:
        if hash(slot.key) in self._reused:
            return
        marks = _marks_of(slot, target)
        if marks in self._recent:
            # The same handshake is needed again, although its connection is in use or closed.
            del self._recent[marks]
            self._note_reuse(slot)
            return
        self._recent[marks] = slot
        if len(self._recent) > _LOOKED_AT:
            self._recent.popitem(last=False)

    def idle_and_never_reused(self) -> list[_Marks]:
        for marks, slot in list(self._recent.items()):
            if slot is not None and slot.uses > 1:
                del self._recent[marks]
                self._note_reuse(slot)
        return [
            marks
            for marks, slot in self._recent.items()
            if slot is None or (slot.state == IDLE and slot.uses == 1)
        ]

    def closed(self, slot: Slot) -> None:
        if slot.uses > 1:
            self._note_reuse(slot)
        for marks, other in self._recent.items():
            if other is slot:
                if slot.uses == 1 and slot.reason in _FROM_IDLE:
                    self._recent[marks] = None
                else:
                    del self._recent[marks]
                break

    def _note_reuse(self, slot: Slot) -> None:
        if not self.is_settled:
            self._reused.add(hash(slot.key))
            if len(self._reused) > _MAX_REUSED:
                # Enough connections are reused here.
                self.settle()

    def settle(self) -> None:
        self.is_settled = True
        self._recent.clear()
        self._reused.clear()


# -- differences between handshakes --------------------------------------------------------------


def _marks_of(slot: Slot, target: Target) -> _Marks:
    """Return a mark of each part of the handshake of a connection."""
    key: Any = slot.key
    named = chain(
        _of_resource(key.resource),
        _of_headers(key.headers, target),
        _of_cookies(key.cookies),
        _of_options(key.options),
        [(("environment", ""), key.environment)] if key.environment else (),
    )
    return tuple([(name, _mark(value)) for name, value in named])


def _of_resource(resource: str) -> Iterator[tuple[_Name, Any]]:
    path, _, query = resource.partition("?")
    yield ("path", ""), path
    by_name: dict[str, list[str]] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        # A pair without a name may be a secret as a whole.
        by_name.setdefault(name if equals else "", []).append(value if equals else name)
    for name, values in by_name.items():
        yield ("query", name), tuple(values)


def _of_headers(headers: Any, target: Target) -> Iterator[tuple[_Name, Any]]:
    if target.has_reuse_key:
        yield ("reuse_key", ""), headers[1]
        return
    # In the caller's spelling.
    spelt = {name.lower(): name for name in target.options.get("headers", ())}
    for name, values in headers:
        yield ("headers", spelt.get(name) or name.title()), values


def _of_cookies(cookies: Any) -> Iterator[tuple[_Name, Any]]:
    by_name: dict[str, list[Any]] = {}
    for name, value in cookies:
        # The cookies of the URL come first, then those of each redirect.
        pairs = [(name, value)] if isinstance(value, str) else value
        for cookie, content in pairs:
            by_name.setdefault(cookie, []).append(content)
    for name, values in by_name.items():
        yield ("cookies", name), tuple(values)


def _of_options(options: Any) -> Iterator[tuple[_Name, Any]]:
    for name, value in options:
        if isinstance(value, Hooks):
            for hook, function in zip(value._fields, value, strict=True):
                yield ("hooks", hook), function
        else:
            yield (name, ""), value


def _mark(value: Any) -> _Mark:
    """Return an object that is equal for equal values, and does not contain or keep them."""
    if isinstance(value, MethodType):
        return (_identity(value.__self__), _mark(value.__func__))
    hash_of: Any = type(value).__hash__
    if hash_of is object.__hash__:
        return _identity(value)
    try:
        return hash(value)
    except TypeError:
        # A hook may be an object without a hash.
        return id(value)


def _identity(value: Any) -> _Mark:
    """Return a mark that is equal only for the same object."""
    hash_of: Any = type(value).__hash__
    if hash_of is object.__hash__:
        # A later object may have the same address as a collected one, and so the same hash.
        with suppress(TypeError):
            mark = weakref.ref(value)
            # A weak reference is only hashable later if it is hashed while its object lives.
            hash(mark)
            return mark
    return id(value)


def _differing(handshakes: Iterable[_Marks]) -> list[_Name]:
    """Return what differs between handshakes.

    A name that only a minority has may be a secret value, such as a token in a query; it is not
    shown.
    """
    all_marks = [dict(marks) for marks in handshakes]
    names = dict.fromkeys(name for marks in all_marks for name in marks)
    found: dict[_Name, None] = {}
    for kind, name in names:
        marks = {named[kind, name] for named in all_marks if (kind, name) in named}
        having = sum((kind, name) in named for named in all_marks)
        if len(marks) > 1 or having < len(all_marks):
            found[kind, name if having > len(all_marks) // 2 else ""] = None
    return list(found)


def _told(differing: Iterable[_Name]) -> str:
    """Return differences as text, as in ``headers: X-Request-Id, X-Trace; path``."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in differing:
        by_kind.setdefault(kind, []).extend([name] if name else [])
    return "; ".join(
        f"{kind}: {', '.join(names)}" if names else kind for kind, names in by_kind.items()
    )
