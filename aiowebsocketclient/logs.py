"""Log records of the package, all from the logger ``aiowebsocketclient``.

The logger is quiet until the program configures logging.  Each record has a message for people, and
the fields of its event as attributes (``extra``) for programs: ``record.event`` is one of the
events below, ``record.endpoint`` is ``"host:port"``, ``record.seconds`` is a ``float``,
``record.error`` is the name of an exception class.
If the session has a ``name``, ``record.session_name`` contains it, and the message begins with it:
``session 'speech': Opened ...``.
No field and no message contains a header, a query, a cookie or a credential.

====================== ======= =====================================================================
Event                  Level   Fields
====================== ======= =====================================================================
``opened``             DEBUG   ``endpoint``, ``seconds`` since the handshake began
``connect_failed``     DEBUG   ``endpoint``, ``seconds`` since the handshake began, ``error``,
                               ``status``: the HTTP status of the server's refusal, or None
``closed``             DEBUG   ``endpoint``, ``reason`` (as in ``PoolStats.closed_...``),
                               ``seconds`` since the handshake began, ``uses``, ``close_code`` of
                               the server's CLOSE, or None, and ``close_reason``, its text
``detached``           DEBUG   ``endpoint``, ``seconds`` since the handshake began
``hook_failed``        WARNING ``endpoint``, ``hook`` (``"configure"``, ``"check"``, ``"reset"``,
                               ``"on_idle_message"`` or ``"keepalive"``), ``function``, ``error``;
                               not if the connection had ended
``hook_not_async``     ERROR   ``hook``, ``function``
``keepalive_answered`` WARNING ``endpoint``; the server has answered a ``keepalive`` without
                               ``on_idle_message``; once per session
``keepalive_timeout``  WARNING ``endpoint``, ``seconds`` (``hook_timeout``)
``leak``               WARNING ``endpoint``, ``seconds`` since it was acquired, ``acquired_at``: the
                               caller's stack as a list of ``"file:line in function"``, innermost
                               last, without the standard library and installed packages
``nothing_reused``     WARNING ``endpoint``, ``connections``: how many went idle and were never used
                               again, ``differs``: the names of what differs between their
                               handshakes (``"headers: X-Request-Id; path"``); once per endpoint
``min_idle_failing``   WARNING ``endpoint``, ``error`` (or the reason why a new connection was
                               closed, or ``"late"`` for a handshake that takes several times as
                               long as usual), ``status`` (HTTP) or None, ``retry_in`` seconds; only
                               the first failure
``min_idle_unchanged`` DEBUG   ``endpoint``, ``error``, ``status``, ``retry_in`` and ``failures`` so
                               far; each further failure
``min_idle_recovered`` INFO    ``endpoint``, ``failures``, ``seconds`` since the first
``fleet_lost``         WARNING ``held`` connections, ``policy`` (``lost`` of the fleet)
``fleet_restored``     INFO    ``seconds`` since the loss
``fleet_unreachable``  WARNING ``error``; only the first failed report in a row
``fleet_failed``       ERROR   ``error``; the engine refuses reports; only the first in a row
``fleet_disagrees``    WARNING ``limit`` of this session's fleet, ``other``: of another session's
``endpoint_out``       WARNING ``endpoint`` of a ``Balanced``, ``error`` (or ``"late"``),
                               ``status`` (HTTP) or None, ``retry_in`` seconds; only the first
                               failure
``endpoint_still_out`` DEBUG   ``endpoint``, ``error``, ``status``, ``retry_in`` and ``failures`` so
                               far; each further failure
``endpoint_back``      INFO    ``endpoint``, ``failures``, ``seconds`` since the first
``still_in_use``       WARNING ``connections``, ``seconds`` (``wait`` of ``close()``)
``connector_limited``  WARNING ``setting`` (of the client session's connector), ``limit``
``not_cancellable``    WARNING ``session``
``close_failed``       ERROR   ``endpoint``, ``error``
``cookie_jar_failed``  ERROR   ``endpoint``, ``error``
``trace_failed``       ERROR   ``signal`` (of ``TraceConfig``), ``error``
``trace_dropped``      WARNING none
====================== ======= =====================================================================

A record about an exception of a hook or a trace handler has a traceback only if the logger is
enabled for DEBUG: the text of aiohttp's exceptions may contain secrets.
"""

import logging
import traceback
from logging import DEBUG, ERROR, INFO, WARNING
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .exceptions import HandshakeFailure

__all__ = ("fields_of_failure", "is_debugging", "log")

logger = logging.getLogger("aiowebsocketclient")
# Without a handler, Python would write warnings to stderr if logging is not configured.
logger.addHandler(logging.NullHandler())

# For a session with a name; the same prefix as in errors, see in_session().
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
        "The %(hook)s hook %(function)s failed (%(error)s): its connection to %(endpoint)s is"
        " closed",
    ),
    "hook_not_async": (
        ERROR,
        "The %(hook)s hook %(function)s must be async: define it with async def%(detail)s",
    ),
    "keepalive_answered": (
        WARNING,
        "The server at %(endpoint)s has answered the keepalive, so the pool closes the connection:"
        " pass on_idle_message= to accept the answer, or keepalive=(seconds, hook) with a hook that"
        " reads it",
    ),
    "keepalive_timeout": (
        WARNING,
        "No answer to the keepalive of a connection to %(endpoint)s within %(seconds).1f s: the"
        " connection is closed",
    ),
    "leak": (
        WARNING,
        "A connection to %(endpoint)s has been in use for %(seconds).1f s, longer than"
        " leak_threshold. Acquired at:%(detail)s",
    ),
    "nothing_reused": (
        WARNING,
        "%(connections)d connections to %(endpoint)s went idle and none was reused, because the"
        " calls differ in %(differs)s. Leave these out or make them the same in all calls. If only"
        " headers or cookies differ, pass the same reuse_key= in all calls that may share"
        " connections: one key per user if they contain the token of a user",
    ),
    "min_idle_failing": (
        WARNING,
        "Cannot open idle connections to %(endpoint)s (%(error)s%(detail)s): trying again in"
        " %(retry_in).2f s, then at growing intervals",
    ),
    "min_idle_unchanged": (
        DEBUG,
        "Still cannot open idle connections to %(endpoint)s (%(error)s%(detail)s, %(failures)d"
        " failures): trying again in %(retry_in).2f s",
    ),
    "min_idle_recovered": (
        INFO,
        "Opened idle connections to %(endpoint)s again, after %(failures)d failures in"
        " %(seconds).1f s",
    ),
    "fleet_lost": (
        WARNING,
        "The fleet was not reached for a lease: nothing is opened until it answers"
        " (%(held)d connections are open; lost=%(policy)r)",
    ),
    "fleet_restored": (INFO, "The fleet answers again, %(seconds).1f s after the lease was lost"),
    "fleet_unreachable": (
        WARNING,
        "The fleet cannot be reached (%(error)s): open connections are used as ever, and places"
        " are kept until the lease ends",
    ),
    "fleet_failed": (ERROR, "The fleet refuses reports (%(error)s)%(detail)s"),
    "fleet_disagrees": (
        WARNING,
        "Sessions of one fleet disagree on its limit: %(limit)d here, %(other)d in another session."
        " Call resize() in each process",
    ),
    "endpoint_out": (
        WARNING,
        "Left %(endpoint)s out of balancing (%(error)s%(detail)s): trying again in %(retry_in).2f"
        " s, then at growing intervals",
    ),
    "endpoint_still_out": (
        DEBUG,
        "Still left %(endpoint)s out of balancing (%(error)s%(detail)s, %(failures)d failures):"
        " trying again in %(retry_in).2f s",
    ),
    "endpoint_back": (
        INFO,
        "Took %(endpoint)s back into balancing, after %(failures)d failures in %(seconds).1f s",
    ),
    "still_in_use": (
        WARNING,
        "%(connections)d connections were still in use %(seconds).1f s after close(wait=...) was"
        " called: they are closed",
    ),
    "connector_limited": (
        WARNING,
        "The connector of client_session has %(setting)s=%(limit)d, less than the pool's own limit:"
        " handshakes beyond it will hang. Create the connector with %(setting)s=0",
    ),
    "not_cancellable": (
        WARNING,
        "%(session)s: some handshakes or hooks ignored cancellation and may still be running",
    ),
    "close_failed": (ERROR, "Closing a connection to %(endpoint)s failed: %(error)s"),
    "cookie_jar_failed": (
        ERROR,
        "The cookie jar of client_session failed for a connection to %(endpoint)s: %(error)s",
    ),
    "trace_failed": (ERROR, "A handler of %(signal)s failed: %(error)s"),
    "trace_dropped": (WARNING, "Trace handlers are too slow: some events are dropped"),
}


def is_debugging() -> bool:
    """Return whether DEBUG records are logged, so that their fields are worth computing."""
    return logger.isEnabledFor(DEBUG)


def fields_of_failure(failure: "HandshakeFailure") -> dict[str, Any]:
    """Return the fields of each event that names a failed handshake."""
    detail = str(failure).removeprefix(failure.error)
    return {"error": failure.error, "status": failure.status, "detail": detail}


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
    # "detail" is only for the message.
    extra = {name: value for name, value in fields.items() if name != "detail"}
    try:
        logger.log(level, message, fields, exc_info=exc_info, extra=extra, stacklevel=2)
    except Exception:
        # A failing filter or handler must not cost a place in the pool. Print its error as logging
        # prints those of its own handlers.
        if logging.raiseExceptions:
            traceback.print_exc()
