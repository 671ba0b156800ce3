"""Orders the addresses of a host: implements ``load_balance_hosts``.

aiohttp connects to the addresses in the order of the lookup, and rotates them only while it caches
the lookup.  A client with few handshakes therefore connects to the first address nearly always.
"""

import random
import socket
from typing import Any

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ("RandomOrder",)


class RandomOrder(AbstractResolver):
    """aiohttp's resolver, with the addresses of each lookup in random order.

    The order of the address families stays the same, because aiohttp (happy eyeballs) and the
    machine (RFC 6724) decide which family comes first.
    """

    def __init__(self) -> None:
        self._resolver: AbstractResolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host."""
        return shuffled(await self._resolver.resolve(host, port, family))

    async def close(self) -> None:
        """Close aiohttp's resolver."""
        await self._resolver.close()


def shuffled(found: list[ResolveResult]) -> list[ResolveResult]:
    """Return addresses in random order, each in the place of an address of its own family."""
    by_family: dict[Any, list[ResolveResult]] = {}
    for address in found:
        by_family.setdefault(address["family"], []).append(address)
    for addresses in by_family.values():
        random.shuffle(addresses)
    return [by_family[address["family"]].pop() for address in found]
