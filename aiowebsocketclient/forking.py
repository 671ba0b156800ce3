"""Sessions in a forked child, which must not touch the sockets that it shares with its parent."""

import os
import weakref
from typing import Protocol

__all__ = ("note_use",)


class Inherited(Protocol):
    """A session in a forked child."""

    def _leave_to_parent(self) -> object:
        """Mark the session as closed; return objects that must never be collected."""


#: Sessions that a forked child inherits, and must not use.  By ``id()``, because a subclass may
#: define its own equality, or have no hash.
_used_here: weakref.WeakValueDictionary[int, Inherited] = weakref.WeakValueDictionary()

# Objects of these sessions, in the child. Collecting a transport would remove it from the selector,
# which the child shares with the parent.
_inherited: list[object] = []


def note_use(session: Inherited) -> None:
    """Record that this process uses a session."""
    _used_here[id(session)] = session


def _after_fork_in_child() -> None:
    _inherited.extend(session._leave_to_parent() for session in list(_used_here.values()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
