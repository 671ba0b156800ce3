"""Contenders by name."""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Entry:
    """The class of a contender, and its requirements."""

    #: ``module:Class`` in this package.
    where: str
    #: One line.
    about: str
    #: Required distributions; the header shows their versions.
    distributions: tuple[str, ...] = ()
    #: The environment of its process.
    env: dict[str, str] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in self.distributions}

    def missing(self) -> str | None:
        """Return why the contender cannot run here, or None."""
        try:
            self.versions()
        except PackageNotFoundError as exc:
            return f"{exc.name} is not installed"
        return None


#: The environment variable that chooses between the cores of this library.
_NO_EXTENSIONS: Final = "AIOWEBSOCKETCLIENT_NO_EXTENSIONS"

CONTENDERS: Final[dict[str, Entry]] = {
    "c": Entry("ours:Ours", "this library, compiled core", env={_NO_EXTENSIONS: ""}),
    "py": Entry("ours:Ours", "this library, pure core", env={_NO_EXTENSIONS: "1"}),
    "floor": Entry("floor:Floor", "a deque inside one awaited coroutine"),
    "semaphore": Entry("semaphore:Semaphore", "asyncio.Semaphore and a deque"),
    "queue": Entry("queue:Queue", "asyncio.Queue"),
    "aiohttp": Entry(
        "aiohttp_connector:AiohttpConnector",
        "aiohttp's connector, kept-alive connections",
        distributions=("aiohttp",),
    ),
    "2015": Entry("algorithm_2015:Algorithm2015", "this library's algorithm of 2015"),
    "psycopg_pool": Entry(
        "psycopg_pool:PsycopgPool",
        "AsyncConnectionPool, fake connections",
        distributions=("psycopg-pool", "psycopg"),
    ),
    "asyncio-connection-pool": Entry(
        "asyncio_connection_pool:AsyncioConnectionPool",
        "ConnectionPool, fake connections",
        distributions=("asyncio-connection-pool",),
    ),
    "generic-connection-pool": Entry(
        "generic_connection_pool:GenericConnectionPool",
        "ConnectionPool, fake connections",
        distributions=("generic-connection-pool",),
    ),
    "aio-websocket-pool": Entry(
        "aio_websocket_pool:AioWebsocketPool",
        "WebsocketConnectionPool, fake connections",
        distributions=("aio-websocket-pool", "websockets"),
    ),
    "unread": Entry("plain:Unread", "WebSockets of aiohttp without a reader"),
    "readers": Entry("plain:Readers", "WebSockets of aiohttp, each with a task in receive()"),
}

#: The cores of this library.
OURS: Final = ("c", "py")


def find(name: str) -> type[Any]:
    """Return the class of a contender; call it only in a process with the right environment."""
    module, _, cls = CONTENDERS[name].where.partition(":")
    found: type[Any] = getattr(import_module(f"{__name__}.{module}"), cls)
    return found
