"""Notices that nothing is ever reused, and says why: once for each endpoint.

A header that is new in each call, such as a request id, makes each handshake another one, and a
pool that never reuses a connection is worse than none.  What tells the handshakes apart is known
here by name; of the values only hashes are kept, and weak references.

Only the opening and the end of a connection come by here, and no use of it.
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

#: Handshakes whose connections have gone idle and were not used again, of which is told.
_MANY: Final = 20
# Of the last handshakes of an endpoint so many are looked at.
_LOOKED_AT: Final = 32
# Handshakes of an endpoint that were used again, after which it is no concern any more; and
# endpoints of which something is known.
_MAX_REUSED: Final = 1024
_MAX_ENDPOINTS: Final = 1024

# Why a connection is closed that was idle.
_FROM_IDLE: Final = {CLOSE_REASONS.index("idle"), CLOSE_REASONS.index("evicted")}

#: What can differ: its kind, and its name where the kind has any.
_Name = tuple[str, str]
#: What tells a value from others without being it.
_Mark = Hashable
_Marks = tuple[tuple[_Name, _Mark], ...]


class ReuseWatch:
    """Logs for each endpoint, once, that its handshakes are new each time, and what differs."""

    __slots__ = ("_endpoints", "_session_name")

    def __init__(self, session_name: str | None) -> None:
        self._session_name = session_name
        self._endpoints: OrderedDict[EndpointKey, _Handshakes] = OrderedDict()

    def opened(self, slot: Slot, target: Target) -> None:
        """Record that a connection was opened; its handshake may have been another one before."""
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
        """Record that the socket of a connection is closed: nothing of it is to be kept."""
        endpoint: Any = slot.endpoint
        handshakes = self._endpoints.get(endpoint)
        if handshakes is not None:
            handshakes.closed(slot)


class _Handshakes:
    """Those of one endpoint that were made last, and have not been used again as far as known."""

    __slots__ = ("_recent", "_reused", "is_settled")

    def __init__(self) -> None:
        #: By what tells them apart: their connection; None: it went idle and is closed.
        self._recent: OrderedDict[_Marks, Slot | None] = OrderedDict()
        # Hashes of those used again.
        self._reused: set[int] = set()
        #: Whether there is nothing more to tell.
        self.is_settled = False

    def add(self, slot: Slot, target: Target) -> None:
        if hash(slot.key) in self._reused:
            return
        marks = _marks_of(slot, target)
        if marks in self._recent:
            # Its connection is in use, or was closed: the handshake is wanted again, all the same.
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
                # So much is reused here that the rest can be what it likes.
                self.settle()

    def settle(self) -> None:
        self.is_settled = True
        self._recent.clear()
        self._reused.clear()


# -- what tells handshakes apart -----------------------------------------------------------------


def _marks_of(slot: Slot, target: Target) -> _Marks:
    """Return a mark of each thing that makes up the handshake of a connection."""
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
        # A pair without a name may be all secret.
        by_name.setdefault(name if equals else "", []).append(value if equals else name)
    for name, values in by_name.items():
        yield ("query", name), tuple(values)


def _of_headers(headers: Any, target: Target) -> Iterator[tuple[_Name, Any]]:
    if target.has_reuse_key:
        yield ("reuse_key", ""), headers[1]
        return
    # As the caller has spelt them.
    spelt = {name.lower(): name for name in target.options.get("headers", ())}
    for name, values in headers:
        yield ("headers", spelt.get(name) or name.title()), values


def _of_cookies(cookies: Any) -> Iterator[tuple[_Name, Any]]:
    by_name: dict[str, list[Any]] = {}
    for name, value in cookies:
        # After those of the URL come those of each place that the server redirects to.
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
    """Return what is equal for equal values, and is neither them nor keeps them alive."""
    if isinstance(value, MethodType):
        return (_mark(value.__self__), _mark(value.__func__))
    hash_of: Any = type(value).__hash__
    if hash_of is object.__hash__:
        # Where one is gone, another may have its address, and so its hash.
        with suppress(TypeError):
            mark = weakref.ref(value)
            # A reference has the hash of what it refers to only if it was asked for in time.
            hash(mark)
            return mark
    return hash(value)


def _differing(handshakes: Iterable[_Marks]) -> list[_Name]:
    """Return what is not the same in all of them.

    A name that few have is no name but a value, a token in a query say, and is not shown.
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
    """Return them as in ``headers: X-Request-Id, X-Trace; path``."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in differing:
        by_kind.setdefault(kind, []).extend([name] if name else [])
    return "; ".join(
        f"{kind}: {', '.join(names)}" if names else kind for kind, names in by_kind.items()
    )
