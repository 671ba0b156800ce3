"""Members, the script and a bad network at random; and that the model misses rules left out.

``python -m tests.fleet --reports 1000000`` goes on for longer.
"""

from itertools import count

import pytest

from .fleet import mutants
from .fleet.model import BrokenError, Episode
from .fleet.script import Script, text
from .redis_server import RedisServer

#: Histories from here on come soon to where the mutant is missed; the order of what happens in
#: them is part of the model.
SOON = {
    "no seq": 2,
    "no until": 3,
    "no hold": 6,
    "held only for who is late": 52,
    "no learning after a failover": 6,
    "no learning after a flush": 16,
    "grants trusted while learning": 32,
}


SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 40))]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_more_is_held_than_there_is(redis_server: RedisServer, seed: int) -> None:
    with redis_server.client() as client:
        Episode(Script(client, f"model {seed}", 1), seed).run()


@pytest.mark.parametrize("mutant", [*mutants.SCRIPTS, *mutants.LEASES])
def test_a_rule_left_out_is_missed(redis_server: RedisServer, mutant: str) -> None:
    changes = [mutants.SCRIPTS[mutant]] if mutant in mutants.SCRIPTS else []
    lease = mutants.LEASES.get(mutant, mutants.Lease)
    with redis_server.client() as client:
        script = Script(client, f"mutant {mutant}", 1, source=text(*changes))
        # Not by the rule that is left out: by what comes of it.
        with pytest.raises(BrokenError):
            for seed in count(SOON.get(mutant, 0)):
                Episode(script, seed, make_lease=lease, by_rule=False).run()
