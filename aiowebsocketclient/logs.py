"""What the package logs: to one logger, ``aiowebsocketclient``, which is quiet until it is set up.

Each record has a message for people, and for what takes records apart it has the fields of its
event as attributes (``extra``): ``record.event`` is one of the following, ``record.endpoint`` is
``"host:port"``, ``record.seconds`` a ``float``, ``record.error`` the name of an exception's class.
Where the session has a ``name``, it is ``record.session_name``, and the message begins with it:
``session 'speech': Opened ...``.
No field and no message has a header, a query, a cookie or a credential in it.

====================== ======= =====================================================================
Event                  Level   Fields
====================== ======= =====================================================================
``opened``             DEBUG   ``endpoint``, ``seconds`` since the handshake began
``connect_failed``     DEBUG   ``endpoint``, ``seconds`` since the handshake began, ``error``,
                               ``status`` (of HTTP) with which the server refused it, or None
``closed``             DEBUG   ``endpoint``, ``reason`` (of ``PoolStats.closed_...``), ``seconds``
                               since the handshake began, ``uses``, ``close_code`` of the server's
                               CLOSE, or None, and ``close_reason``, its text
``detached``           DEBUG   ``endpoint``, ``seconds`` since the handshake began
``hook_failed``        WARNING ``endpoint``, ``hook`` (``"configure"``, ``"check"`` or ``"reset"``),
                               ``function``, ``error``; not where the connection had ended
``hook_not_async``     ERROR   ``hook``, ``function``
``leak``               WARNING ``endpoint``, ``seconds`` since it was acquired, ``acquired_at``: the
                               caller's stack as a list of ``"file:line in function"``, innermost
                               last, without the standard library and installed packages
``nothing_reused``     WARNING ``endpoint``, ``connections``: how many have gone idle and were never
                               used again, ``differs``: in what their handshakes differ, by name
                               (``"headers: X-Request-Id; path"``); once for each endpoint
``min_idle_failing``   WARNING ``endpoint``, ``error`` (or the reason for which a new connection was
                               closed, or ``"late"`` for a handshake that takes several times as
                               long as is usual), ``retry_in`` seconds; the first failure
``min_idle_unchanged`` DEBUG   ``endpoint``, ``error``, ``retry_in`` and ``failures`` so far; each
                               further one
``min_idle_recovered`` INFO    ``endpoint``, ``failures``, ``seconds`` since the first
``connector_limited``  WARNING ``setting`` (of the client session's connector), ``limit``
``not_cancellable``    WARNING ``session``
``close_failed``       ERROR   ``endpoint``, ``error``
``cookie_jar_failed``  ERROR   ``endpoint``, ``error``
``trace_failed``       ERROR   ``signal`` (of ``TraceConfig``), ``error``
``trace_dropped``      WARNING none
====================== ======= =====================================================================

What a hook, or a handler of a trace, raised comes with its traceback only where the logger is
enabled for DEBUG: exceptions of aiohttp's may have secrets in their text.
"""

import logging
import traceback
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Any, Final

__all__ = ("is_debugging", "log")

logger = logging.getLogger("aiowebsocketclient")
# Otherwise Python itself would write warnings to stderr where logging is not set up.
logger.addHandler(logging.NullHandler())

# Of a session that has a name. As that of errors: see in_session().
_PREFIX: Final = "session %(session_name)r: "

_EVENTS: Final = {
    "opened": (DEBUG, "Opened a connection to %(endpoint)s in %(seconds).3f s"),
    "connect_failed": (
        DEBUG,
        "A handshake with %(endpoint)s failed after %(seconds).3f s: %(error)s%(detail)s",
    ),
    "closed": (
        DEBUG,
        "Closed a connection to %(endpoint)s (%(reason)s) after %(seconds).3f s, uses: %(uses)d"
        "%(detail)s",
    ),
    "detached": (DEBUG, "Detached a connection to %(endpoint)s after %(seconds).3f s"),
    "hook_failed": (
        WARNING,
        "%(hook)s (%(function)s) failed: %(error)s; its connection to %(endpoint)s is closed",
    ),
    "hook_not_async": (
        ERROR,
        "%(hook)s: %(function)s was given as a hook, which must be async: write async def",
    ),
    "leak": (
        WARNING,
        "A connection to %(endpoint)s has been held for %(seconds).1f s, which is longer than"
        " leak_threshold; it was acquired at %(acquired_at)s",
    ),
    "nothing_reused": (
        WARNING,
        "%(connections)d connections to %(endpoint)s have gone idle, and no call could use any of"
        " them again, because the calls differ in %(differs)s. Leave out what differs, or make it"
        " the same in all calls; where headers or cookies do not matter, pass the same reuse_key=",
    ),
    "min_idle_failing": (
        WARNING,
        "Connections to %(endpoint)s cannot be kept idle (%(error)s): next try in %(retry_in).1f s,"
        " and so on",
    ),
    "min_idle_unchanged": (
        DEBUG,
        "Connections to %(endpoint)s cannot be kept idle (%(error)s, %(failures)d failures):"
        " next try in %(retry_in).1f s",
    ),
    "min_idle_recovered": (
        INFO,
        "Connections to %(endpoint)s can be kept idle again, after %(failures)d failures in"
        " %(seconds).1f s",
    ),
    "connector_limited": (
        WARNING,
        "The connector of client_session has %(setting)s=%(limit)d, which is less than the pool's:"
        " handshakes beyond that will hang. Give it %(setting)s=0.",
    ),
    "not_cancellable": (
        WARNING,
        "%(session)s: handshakes or hooks that do not let themselves be cancelled",
    ),
    "close_failed": (ERROR, "Closing a connection to %(endpoint)s failed: %(error)s"),
    "cookie_jar_failed": (
        ERROR,
        "The cookie jar of client_session failed (%(error)s) for a connection to %(endpoint)s",
    ),
    "trace_failed": (ERROR, "A handler of %(signal)s failed: %(error)s"),
    "trace_dropped": (WARNING, "Trace handlers fall behind: events are dropped"),
}


def is_debugging() -> bool:
    """Return whether it is worth while to make up fields for DEBUG."""
    return logger.isEnabledFor(DEBUG)


def log(
    event: str,
    exc_info: BaseException | None = None,
    *,
    session_name: str | None = None,
    **fields: Any,
) -> None:
    """Log an event of the table above with its fields."""
    level, message = _EVENTS[event]
    fields["event"] = event
    if session_name is not None:
        message = _PREFIX + message
        fields["session_name"] = session_name
    # What is there for the message alone.
    extra = {name: value for name, value in fields.items() if name != "detail"}
    try:
        logger.log(level, message, fields, exc_info=exc_info, extra=extra, stacklevel=2)
    except Exception:
        # A filter, or a handler, that fails must cost no place in the pool. It is shown as logging
        # shows what fails in its own handlers.
        if logging.raiseExceptions:
            traceback.print_exc()
