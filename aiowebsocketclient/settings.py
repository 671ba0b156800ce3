"""The options of a session: validated, and in the form that the pool needs."""

import math
from typing import Any, Final

from . import arguments
from ._compat import UNSET, Express, Pool
from .hooks import NO_HOOKS, Hooks, hooks_of
from .response import ClientWebSocketResponse
from .tracing import trace_configs_of

__all__ = ("Settings",)

# Number of sockets that select() of CPython accepts on Windows, where an asyncio loop uses it.
_MAX_SELECTED_ON_WINDOWS: Final = 512

# Maximum seconds for a closing handshake with a server that is known to be slow, and for a session
# whose block was left by an exception.
_HASTE: Final = 1.0


class Settings:
    """The options that the parts of a session read; invalid options raise in the constructor."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.name = arguments.session_name("name", given["name"])
        self.conn_timeout = arguments.seconds("conn_timeout", given["conn_timeout"]) or None
        self.force_close = bool(given["force_close"])
        self.limit = arguments.places("limit", given["limit"]) or None
        self.limit_total = arguments.places("limit_total", given["limit_total"]) or None
        self.acquire_timeout = arguments.seconds("acquire_timeout", given["acquire_timeout"])
        self.max_lifetime = arguments.positive("max_lifetime", given["max_lifetime"])
        self.close_timeout = arguments.some_seconds("close_timeout", given["close_timeout"])
        self.connect_limiter = arguments.limiter(given["connect_limiter"])
        self.load_balance_hosts = arguments.load_balance_hosts(
            given["load_balance_hosts"], given["client_session"]
        )
        self.hooks = hooks_of({name: given[name] for name in Hooks._fields}, NO_HOOKS)
        self.hook_timeout = arguments.positive("hook_timeout", given["hook_timeout"])
        self.retire_on = arguments.close_codes("retire_on", given["retire_on"])
        self.response_class = arguments.response_class(given["ws_response_class"])
        self.leak_threshold = arguments.positive("leak_threshold", given["leak_threshold"])
        self.trace_configs = trace_configs_of(given["trace_configs"])
        self.max_waiting = arguments.places("max_waiting", given["max_waiting"])
        self.max_connecting = arguments.places("max_connecting", given["max_connecting"]) or None
        self.max_idle = arguments.positive("max_idle", given["max_idle"])
        self.max_idle_connections = _max_idle_connections(given["max_idle_connections"])
        self.fleet = arguments.fleet(given["fleet"])
        self.cooldown = arguments.some_seconds("cooldown", given["cooldown"])
        #: Sent with every handshake.
        self.headers = arguments.header_dict("headers", given["headers"])

    @property
    def hasty_timeout(self) -> float:
        """The ``close_timeout`` for closing without waiting long for a server."""
        return min(self.close_timeout, _HASTE)

    def with_limits(self, limit: Any, limit_total: Any) -> tuple[int | None, int | None]:
        """Return valid new limits, without changing any; UNSET: the current limit."""
        new = self.limit if limit is UNSET else arguments.places("limit", limit) or None
        if limit_total is UNSET:
            return new, self.limit_total
        return new, arguments.places("limit_total", limit_total) or None

    def make_express(self, pool: Pool, is_watched: bool) -> Express:
        """Return the fast path of the session; ``is_watched``: it must hear of each release."""
        express = Express(pool, self.response_class)
        express.session_name = self.name
        express.led = self.fleet is not None
        express.direct_release = not (self.force_close or is_watched)
        own_exit = self.response_class.__aexit__
        express.plain_exit = own_exit is ClientWebSocketResponse.__aexit__
        return express

    def make_pool(self) -> Pool:
        """Return a core with the limits of the session."""
        return Pool(
            limit=self.limit or 0,
            limit_total=self.limit_total or 0,
            max_connecting=self.max_connecting or 0,
            max_waiting=-1 if self.max_waiting is None else self.max_waiting,
            max_idle=self.max_idle or math.inf,
            max_idle_connections=self.max_idle_connections or 0,
            defers=True,
            cooldown=self.cooldown,
        )


def _max_idle_connections(value: Any) -> int | None:
    if value is UNSET:
        soft_limit = _soft_limit_of_files()
        return None if soft_limit is None else max(1, soft_limit // 2)
    return arguments.idle_connections("max_idle_connections", value)


def _soft_limit_of_files() -> int | None:
    """Return the maximum number of open files and sockets of the process; None: no limit."""
    try:
        import resource
    except ImportError:
        return _MAX_SELECTED_ON_WINDOWS
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft_limit == resource.RLIM_INFINITY else soft_limit
