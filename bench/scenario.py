"""What a scenario is.

An asynchronous context manager, given the URL of an echo server in another process: it sets up all
that is not to be timed, and yields a function of a number of cycles that goes through so many and
returns the ns they took.  The loop around a cycle is written out in each, so that the cycle stands
there as in a user's own function; what the loop itself costs (some 10 ns) is in the floor too.
"""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

Run = Callable[[int], Coroutine[Any, Any, int]]
Scenario = Callable[[str], AbstractAsyncContextManager[Run]]
