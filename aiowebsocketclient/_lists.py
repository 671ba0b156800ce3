"""The lists of the core: a node stands in up to two of them, and leaves either in one step.

Compiled as a part of ``_pool.pyx``; see ``_cython.py``.
"""

from typing import Any

from . import _cython as cython


@cython.cclass
class Node:
    """An item of up to two lists: one of its handshake, one of its endpoint."""

    __slots__ = ("inner_next", "inner_prev", "outer_next", "outer_prev", "returned", "ticket")

    if not cython.compiled:

        def __init__(self) -> None:
            self.inner_prev: Any = None
            self.inner_next: Any = None
            self.outer_prev: Any = None
            self.outer_next: Any = None
            #: Of waiters: the order of arrival, and whether they came back to the head of the line.
            self.ticket = 0
            self.returned = False


@cython.final
@cython.cclass
class InnerList:
    """A doubly linked list through the ``inner`` links."""

    __slots__ = ("head", "size", "tail")

    def __init__(self) -> None:
        self.head: Any = None
        self.tail: Any = None
        self.size = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def append(self, node: Node) -> cython.int:
        tail = self.tail
        node.inner_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.inner_next = node
        self.tail = node
        self.size += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def remove(self, node: Node) -> cython.int:
        before, after = node.inner_prev, node.inner_next
        if before is None:
            self.head = after
        else:
            before.inner_next = after
            node.inner_prev = None
        if after is None:
            self.tail = before
        else:
            after.inner_prev = before
            node.inner_next = None
        self.size -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def insert_by_ticket(self, waiter: Node) -> cython.int:
        """Insert in order of arrival; nearly every waiter belongs at one of the two ends."""
        tail = self.tail
        if tail is None or tail.ticket < waiter.ticket:
            self.append(waiter)
            return 0
        after = self.head
        while after.ticket < waiter.ticket:
            after = after.inner_next
        before = after.inner_prev
        waiter.inner_prev, waiter.inner_next = before, after
        after.inner_prev = waiter
        if before is None:
            self.head = waiter
        else:
            before.inner_next = waiter
        self.size += 1
        return 0


@cython.final
@cython.cclass
class Stack:
    """A stack through the ``inner`` links, from which any node can be removed."""

    __slots__ = ("top",)

    def __init__(self) -> None:
        self.top: Any = None

    @cython.cfunc
    @cython.exceptval(-1)
    def push(self, node: Node) -> cython.int:
        below = self.top
        if below is not None:
            node.inner_prev = below
            below.inner_next = node
        self.top = node
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def pop(self, top: Node) -> cython.int:
        below = top.inner_prev
        self.top = below
        if below is not None:
            top.inner_prev = below.inner_next = None
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def remove(self, node: Node) -> cython.int:
        below, above = node.inner_prev, node.inner_next
        if below is not None:
            below.inner_next = above
            node.inner_prev = None
        if above is None:
            self.top = below
        else:
            above.inner_prev = below
            node.inner_next = None
        return 0


@cython.final
@cython.cclass
class OuterList:
    """A doubly linked list through the ``outer`` links."""

    __slots__ = ("head", "size", "tail")

    def __init__(self) -> None:
        self.head: Any = None
        self.tail: Any = None
        self.size = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def append(self, node: Node) -> cython.int:
        tail = self.tail
        node.outer_prev = tail
        if tail is None:
            self.head = node
        else:
            tail.outer_next = node
        self.tail = node
        self.size += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def remove(self, node: Node) -> cython.int:
        before, after = node.outer_prev, node.outer_next
        if before is None:
            self.head = after
        else:
            before.outer_next = after
            node.outer_prev = None
        if after is None:
            self.tail = before
        else:
            after.outer_prev = before
            node.outer_next = None
        self.size -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def insert_returned(self, waiter: Node) -> cython.int:
        """Put a waiter that lost its connection or handshake at the head of the line.

        Only waiters that came back likewise and had arrived earlier stay in front: their number
        does not grow with the line.
        """
        after = self.head
        while after is not None and after.returned and after.ticket < waiter.ticket:
            after = after.outer_next
        if after is None:
            self.append(waiter)
            return 0
        before = after.outer_prev
        waiter.outer_prev, waiter.outer_next = before, after
        after.outer_prev = waiter
        if before is None:
            self.head = waiter
        else:
            before.outer_next = waiter
        self.size += 1
        return 0
