"""Sessions of a process that is forked: the child must not touch what it shares with its parent."""

import os
import weakref
from typing import Protocol

__all__ = ("note_use",)


class Inherited(Protocol):
    """A session, in the child."""

    def _leave_to_parent(self) -> object:
        """Be closed, without touching anything; returns what must never be collected."""


#: The sessions that a process which is forked from here inherits, and must not use.
#: By their ``id()``, since a subclass may be equal to another by what it likes, or have no hash.
_used_here: weakref.WeakValueDictionary[int, Inherited] = weakref.WeakValueDictionary()

# What they hold, in the child. A transport that is collected is taken from the loop's selector, and
# that is the parent's too.
_inherited: list[object] = []


def note_use(session: Inherited) -> None:
    """Record that a session is used in this process."""
    _used_here[id(session)] = session


def _after_fork_in_child() -> None:
    _inherited.extend(session._leave_to_parent() for session in list(_used_here.values()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
