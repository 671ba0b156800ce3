"""Each operation, cut short at every point where it can be, in every way."""

import pytest
import trustme

from aiowebsocketclient import IMPLEMENTATION

from .cutting import FAMILIES, OPERATIONS, Arena, Operation, cut_everywhere
from .redis_server import RedisServer

CASES = [
    pytest.param(operation, cuts, id=f"{operation.name}, {family}")
    for operation in OPERATIONS
    for family, names in FAMILIES.items()
    if (cuts := [name for name in names if name in operation.cuts()])
]


def redis_of(operation: Operation, request: pytest.FixtureRequest) -> RedisServer | None:
    """Return the Redis of operations that have a fleet; skip them where there is none."""
    if operation.fleet is None:
        return None
    server: RedisServer = request.getfixturevalue("redis_server")
    return server


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "cuts"), CASES)
async def test_every_await(
    operation: Operation, cuts: list[str], authority: trustme.CA, request: pytest.FixtureRequest
) -> None:
    # "python -m tests.cutting" takes no such strides. The awaits are those of the session, which is
    # the same above both cores.
    thinned = 2 if IMPLEMENTATION == "py" else 1
    if operation.fleet is not None:
        # Much of it is the same as without, and each cut waits for a real Redis.
        thinned *= 5
    redis = redis_of(operation, request)
    async with Arena(authority if operation.tls else None, redis).open() as arena:
        await cut_everywhere(arena, operation, cuts, 6 * thinned, thinned)


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=lambda n: OPERATIONS[n].name)
async def test_one_await_of_many(
    number: int, authority: trustme.CA, request: pytest.FixtureRequest
) -> None:
    """Each operation, in some of the ways, at a few points: many mistakes fail here already."""
    operation = OPERATIONS[number]
    redis = redis_of(operation, request)
    async with Arena(authority if operation.tls else None, redis).open() as arena:
        await cut_everywhere(arena, operation, operation.cuts()[number % 4 :: 4], 120, 20)
