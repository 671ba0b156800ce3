"""What comes to a pool: rushes, mixed loads, overload, faults.  Each is made from a seed."""

import math
from collections.abc import Callable
from random import Random
from typing import Any, Final

from .simulation import Caller, Load

#: As many callers and idle connections as in the scenario "spike" of the benchmark.
CALLERS: Final = 50
#: Uses that have been before, and seconds of a use that nobody has expected.
HISTORY: Final = 100
LONG: Final = 10.0

#: Milliseconds; what the plot and the tables are drawn for.
USES: Final = (
    *(step * decade for decade in (1, 10, 100, 1000) for step in (1, 1.5, 2, 3, 5, 7)),
    10_000,
)
HANDSHAKES: Final = (1, 2, 5, 10, 20, 50, 100, 150, 200, 500)

Draw = Callable[[Random], float]


def _peaks(share: float, factor: float) -> Draw:
    return lambda random: factor if random.random() < share else 1.0


def _lognormal(sigma: float) -> Draw:
    return lambda random: math.exp(random.gauss(-(sigma**2) / 2, sigma))


#: Of uses, in multiples of the usual use.
SHAPES: Final[dict[str, Draw]] = {
    "constant": lambda _: 1.0,
    "exponential": lambda random: random.expovariate(1.0),
    "lognormal, sigma 1": _lognormal(1.0),
    "lognormal, sigma 2": _lognormal(2.0),
    "20 % 10 times as long": _peaks(0.2, 10),
    "20 % 1,000 times as long": _peaks(0.2, 1000),
    "10 % 100 times as long": _peaks(0.1, 100),
    "5 % 20 times as long": _peaks(0.05, 20),
    "5 % 1,000 times as long": _peaks(0.05, 1000),
    "2 % 1,000 times as long": _peaks(0.02, 1000),
    "1 % 1,000 times as long": _peaks(0.01, 1000),
}


def rush(use: float, handshake: float, then: float | None = None, **options: Any) -> Load:
    """Let callers come at once; their uses are as those before, or are ``then`` another time."""
    random = Random(f"{use} {handshake}")
    uses = [_near(random, use if then is None else then) for _ in range(CALLERS)]
    return Load(
        tuple(Caller(0.0, (seconds,)) for seconds in uses),
        tuple(handshake * random.uniform(1.0, 1.1) for _ in range(2 * CALLERS)),
        tuple(_near(random, use) for _ in range(HISTORY)),
        **options,
    )


def _near(random: Random, seconds: float) -> float:
    return seconds * random.uniform(0.95, 1.05)


def constant_rush(
    use: float, handshake: float, callers: int = CALLERS, times: int = 1, **options: Any
) -> Load:
    """Let callers come at once; nothing is left to chance."""
    caller = Caller(0.0, (use,) * times)
    return Load((caller,) * callers, (handshake,), (use,) * HISTORY, **options)


def turning(use: float, handshake: float, after: int, **options: Any) -> Load:
    """Let callers come at once; the uses of the first are as those before, all others are long."""
    callers = [Caller(0.0, (use if turn < after else LONG,)) for turn in range(CALLERS)]
    return Load(tuple(callers), (handshake,), (use,) * HISTORY, **options)


def closing(use: float, handshake: float, share: float, **options: Any) -> Load:
    """Let callers come at once; a share of them close their connections."""
    random = Random(f"{use} {handshake} {share}")
    callers = [Caller(0.0, (use,), random.random() < share) for _ in range(CALLERS)]
    return Load(tuple(callers), (handshake,), (use,) * HISTORY, **options)


def mixed_rush(shape: str, seed: int, **options: Any) -> Load:
    """Let callers come at once, with uses of that shape and of some time."""
    random = Random(f"rush {shape} {seed}")
    use, handshake, idle = _some(random)
    count = random.choice((20, CALLERS, CALLERS, 200))
    callers = [Caller(0.0, (use * SHAPES[shape](random),)) for _ in range(count)]
    return _mixed(shape, random, use, handshake, callers, idle=idle, **options)


def mixed_stream(shape: str, seed: int, **options: Any) -> Load:
    """Let callers come one by one for the time of some handshakes, and three times many at once.

    The open connections can serve those that come one by one, or nearly.
    """
    random = Random(f"stream {shape} {seed}")
    use, handshake, idle = _some(random)
    rate = idle / use * random.uniform(0.2, 1.1)
    end, arrivals, now = 4 * handshake, [], 0.0
    while (now := now + random.expovariate(rate)) < end and len(arrivals) < 400:
        arrivals.append(now)
    for _ in range(3):
        arrivals += [random.uniform(0, end)] * random.choice((10, CALLERS))
    callers = [Caller(now, (use * SHAPES[shape](random),)) for now in sorted(arrivals)]
    return _mixed(shape, random, use, handshake, callers, idle=idle, **options)


def _some(random: Random) -> tuple[float, float, int]:
    """Return some time of a use, some time of a handshake, and some number of idle connections."""
    handshake = math.exp(random.uniform(math.log(0.01), math.log(0.5)))
    use = handshake * math.exp(random.uniform(math.log(0.005), math.log(0.7)))
    return use, handshake, random.choice((1, 2, 5, 5, 5, 20))


def _mixed(
    shape: str,
    random: Random,
    use: float,
    handshake: float,
    callers: list[Caller],
    **options: Any,
) -> Load:
    most = handshake * random.choice((1.05, 1.3, 2.0))
    return Load(
        tuple(callers),
        tuple(random.uniform(handshake, most) for _ in range(64)),
        tuple(use * SHAPES[shape](random) for _ in range(HISTORY)),
        **options,
    )


def crowd(seed: object, is_limited: bool) -> Load:
    """Let callers of several handshakes come at any time, with limits, faults and little patience.

    Without limits, no caller has to wait for another.
    """
    random = Random(f"crowd {seed}")
    handshake = math.exp(random.uniform(math.log(0.01), math.log(0.5)))
    use = handshake * math.exp(random.uniform(math.log(0.005), math.log(0.7)))
    draw = SHAPES[random.choice([shape for shape in SHAPES if "1,000" not in shape])]
    keys = ("a1", "a2", "a3", "b1", "b2")[: random.choice((1, 2, 3, 5))]
    end = handshake * random.uniform(0.5, 4)
    at_once = [random.uniform(0, end) for _ in range(3)]

    def caller() -> Caller:
        return Caller(
            random.choice((random.uniform(0, end), random.choice(at_once))),
            tuple(use * draw(random) for _ in range(random.choice((1, 1, 1, 3, 10)))),
            closes=random.random() < 0.05,
            key=random.choice((random.choice(keys), keys[0])),
            patience=random.choice((math.inf,) * 4 + (random.uniform(0, 2) * handshake,)),
        )

    callers = sorted(caller() for _ in range(random.choice((5, 20, 60))))
    most = handshake * random.choice((1.0, 1.3, 2.0))
    return Load(
        tuple(callers),
        tuple(random.uniform(handshake, most) for _ in range(64)),
        tuple(use * draw(random) for _ in range(random.choice((1, 20)))),
        idle=random.choice((1, 1, 2, 5)),
        keys=keys,
        limit=random.choice((0, 1, 2, 3, 5, 10)) if is_limited else 0,
        limit_total=random.choice((0, 0, 1, 3, 6, 12)) if is_limited else 0,
        max_connecting=random.choice((0, 1, 2, 5)) if is_limited else 0,
        failures=frozenset(random.sample(range(64), random.choice((0, 3)))),
        losses=tuple(
            (random.uniform(0, end), random.randrange(99)) for _ in range(random.choice((0, 1, 9)))
        ),
        tick=random.choice((0.0, 0.001)),
    )
