"""The script of a fleet: who gets a place, who is asked for one, and what Redis may forget."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiowebsocketclient.fleet import Grant, Report

from .fleet.script import KEYS, Script
from .redis_server import RedisServer, require_redis

LEASE = 30.0
MOST = 64


class Fleet:
    """A fleet at a time that the test sets."""

    def __init__(self, client: Any, name: str, limit: int) -> None:
        self.script = Script(client, name, limit, lease=LEASE)
        self.script.clear()
        self.script.settle()
        self.now = 1_000_000.0
        #: Members that the last report has nudged.
        self.nudged: list[str] = []

    def member(self, name: str) -> "Member":
        return Member(self, name)

    def members(self, names: str) -> "list[Member]":
        return [self.member(name) for name in names.split()]


class Member:
    """What reports by hand; it keeps to what it is told, or to a ``cap`` of the report."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.seq = self.known = self.until = 0

    def make(self, held: int, demand: int | None = None, **more: Any) -> Report:
        """Make the next report: sockets, what it wants altogether, and anything else by name."""
        self.seq += 1
        named = {"cap": held, "known": self.known, "until": self.until, "seq": self.seq}
        named |= {"demand": held if demand is None else demand, "like": 0, "spare": 0}
        return Report(**{**named, "handshakes": 0, "held": held, **more})

    def send(self, report: Report, *, is_first: bool = False) -> Grant | None:
        """Send it; the answer is not heard."""
        fleet = self.fleet
        answer = fleet.script(self.name, report, fleet.now, is_first=is_first)
        fleet.nudged = sorted(answer.nudged)
        return answer.grant

    def hear(self, grant: Grant | None) -> Grant:
        assert grant is not None
        self.known, self.until = grant.places, grant.until
        return grant

    def says(self, held: int, demand: int | None = None, **more: Any) -> Grant:
        is_first = more.pop("is_first", False)
        return self.hear(self.send(self.make(held, demand, **more), is_first=is_first))

    def has(self, demand: int | None = None, **more: Any) -> Grant:
        """Report that it holds what it was granted last, and return the answer."""
        return self.says(self.known, demand, **more)


MakeFleet = Callable[[int], Fleet]


@pytest.fixture
def make_fleet(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[MakeFleet]:
    with redis_server.client() as client:
        yield lambda limit: Fleet(client, request.node.nodeid, limit)


# -- free places ---------------------------------------------------------------------------------


def test_free_places_are_granted_at_once(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(5).members("a b")
    grant = a.says(0, 3)
    assert (grant.places, grant.target, grant.waiting, grant.used) == (3, 3, 0, 3)
    grant = b.says(0, 9)
    assert (grant.places, grant.target, grant.waiting, grant.used) == (2, 2, 1, 5)


def test_until_is_a_lease_from_now(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(5)
    assert fleet.member("a").says(0, 1).until == (fleet.now + LEASE) * 1000


def test_a_freed_place_is_granted_to_the_first_in_line_which_is_nudged(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(2)
    a, b, c = fleet.members("a b c")
    a.says(0, 2)
    b.says(0, 1)
    c.says(0, 1)
    a.says(1)
    assert fleet.nudged == ["b"]
    # It was granted before b comes to ask: nobody can take it away.
    assert c.says(0, 1).places == 0
    assert b.says(0, 1).places == 1


def test_the_poorest_goes_first_and_of_these_the_first(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(5)
    a, b, c, d = fleet.members("a b c d")
    a.says(0, 4)
    b.says(0, 1)
    b.has(3)
    c.says(0, 1)
    d.says(0, 1)
    a.says(2)
    assert fleet.nudged == ["c", "d"]
    a.says(1)
    assert fleet.nudged == ["b"]


def test_free_places_are_dealt_out_one_by_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(7)
    a, b, c = fleet.members("a b c")
    a.says(0, 7)
    b.says(0, 9)
    c.says(0, 9)
    a.says(0)
    assert sorted([b.says(0, 9).places, c.says(0, 9).places]) == [3, 4]


def test_who_no_longer_waits_leaves_the_line(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    a, b, c = fleet.members("a b c")
    a.says(0, 1)
    b.says(0, 1)
    c.says(0, 1)
    assert b.says(0).waiting == 1
    a.says(0)
    assert fleet.nudged == ["c"]


# -- places that are asked back ------------------------------------------------------------------


def test_the_richest_is_asked_if_it_has_two_more(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(5)
    a, b, c = fleet.members("a b c")
    a.says(0, 3)
    b.says(0, 2)
    c.says(0, 1)
    assert fleet.nudged == ["a"]
    grant = a.has()
    assert (grant.places, grant.target) == (3, 2)
    a.says(2)
    assert fleet.nudged == ["c"]
    # 2, 2 and 1: nobody has 2 more.
    assert c.says(0, 2).places == 1
    assert fleet.nudged == []
    assert (a.has().target, b.has().target) == (2, 2)


def test_each_in_line_is_promised_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(9)
    a, *others = fleet.members("a b c d")
    a.says(0, 9)
    for other in others:
        # However many it lacks: a batch takes no more than its share.
        other.says(0, 50)
    assert a.has().target == 6


def test_nobody_is_asked_twice_for_the_same(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(4)
    a, b = fleet.members("a b")
    a.says(0, 4)
    for _ in range(5):
        b.says(0, 2)
    assert a.has().target == 3
    assert a.has().target == 3


def test_what_nobody_needs_any_more_is_not_asked_back(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(4).members("a b")
    a.says(0, 4)
    b.says(0, 1)
    assert a.has().target == 3
    b.says(0)
    assert a.has().target == 4


@pytest.mark.parametrize("members", [2, 3, 5])
def test_shares_become_even(make_fleet: MakeFleet, members: int) -> None:
    fleet = make_fleet(12)
    everybody = fleet.members(" ".join("abcde"[:members]))
    everybody[0].says(0, 12)
    held = [12] + [0] * (members - 1)
    for _ in range(40):
        for i, member in enumerate(everybody):
            grant = member.says(held[i], 100)
            held[i] = min(grant.places, grant.target)
            assert sum(held) <= 12
    assert sum(held) == 12
    assert max(held) - min(held) <= 1


def test_with_more_members_than_places_each_gets_a_turn(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    a, b, c = fleet.members("a b c")
    a.says(0, 1)
    fleet.now += 0.5
    b.says(0, 1)
    c.says(0, 1)
    fleet.now += 0.999
    assert c.says(0, 1).waiting == 1
    assert fleet.nudged == []
    fleet.now += 0.001
    c.says(0, 1)
    # a has held its place longer.
    assert fleet.nudged == ["a"]
    assert a.has().target == 0
    a.says(0, 1)
    assert c.says(0, 1).places == 1
    # a has just lost its place: b is not asked before a has waited a turn.
    assert b.has().target == 1


# -- offers --------------------------------------------------------------------------------------


def test_who_offers_is_asked_before_the_richest(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(10)
    a, b, c = fleet.members("a b c")
    a.says(0, 7)
    b.says(0, 3)
    b.has(spare=1)
    c.says(0, 1)
    assert fleet.nudged == ["b"]
    assert b.has(spare=1).target == 2
    assert a.has().target == 7


def test_as_many_are_asked_for_as_are_lacking(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(10)
    a, b = fleet.members("a b")
    a.says(0, 10)
    a.has(spare=8)
    b.says(0, 6)
    assert a.has(spare=8).target == 4
    # It gives what it can; the rest stays asked for.
    assert a.says(6, spare=4).target == 4
    assert b.says(0, 6).places == 4


def test_an_offer_is_asked_for_whatever_was_promised_before(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(6)
    a, b, c = fleet.members("a b c")
    a.says(0, 4)
    b.says(0, 2)
    c.says(0, 1)
    # a is in a long call.
    assert a.has().target == 3
    b.has(spare=1)
    assert b.has(spare=1).target == 1
    b.says(1)
    assert c.says(0, 1).places == 1


def test_an_offer_that_is_used_is_withdrawn(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(2).members("a b")
    a.says(0, 2)
    a.has(spare=2)
    b.says(0, 2)
    assert a.has(spare=1).target == 1
    # The remaining place is asked for as of any richer member.
    assert a.has(spare=0).target == 1
    b.says(0)
    assert a.has(spare=0).target == 2


def test_an_offer_is_not_given_to_who_makes_it(make_fleet: MakeFleet) -> None:
    a = make_fleet(2).member("a")
    a.says(0, 2)
    assert a.has(3, spare=1).target == 2


# -- likes ---------------------------------------------------------------------------------------


def test_likes_get_what_is_free(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(5)
    a, b = fleet.members("a b")
    a.says(0, 3)
    grant = b.says(0, 0, like=4)
    assert (grant.places, grant.waiting) == (2, 0)
    assert fleet.nudged == []
    assert a.has().target == 3
    assert b.has(0, like=4).places == 2


def test_likes_wait_for_who_is_in_line(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    a, b, c = fleet.members("a b c")
    a.says(0, 2)
    b.says(0, 1)
    a.says(1)
    assert fleet.nudged == ["b"]
    assert c.says(0, 0, like=1).places == 0
    assert b.says(0, 1).places == 1


# -- reports that are lost or late ---------------------------------------------------------------


def test_what_was_granted_since_and_not_heard_of_is_kept(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(3).members("a b")
    a.says(0, 3)
    b.says(0, 2)
    a.says(1)
    # b has not heard that it was granted 2, and says so.
    assert b.says(0, 2).places == 2
    lost = b.make(2, 2)
    b.send(lost)
    assert b.says(2, 2).places == 2


def test_what_was_heard_of_and_given_back_is_not_kept(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b = fleet.members("a b")
    a.says(0, 3)
    b.says(0, 1)
    # a gives one back, and wants three again: it is poorer now, but not the poorest.
    assert a.says(2, 3, cap=2).places == 2
    assert fleet.nudged == ["b"]


def test_what_is_not_heard_of_and_not_needed_is_free(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(2).members("a b")
    a.send(a.make(0, 2))
    assert a.says(0, 1).places == 1
    assert b.says(0, 1).places == 1


def test_sockets_and_cap_count_whatever_was_granted(make_fleet: MakeFleet) -> None:
    a, b = make_fleet(4).members("a b")
    assert a.says(1, 1, cap=3).places == 3
    assert b.says(2, 2).used == 5
    assert b.has().target == 1


def test_an_old_report_changes_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b = fleet.members("a b")
    old = a.make(0, 0)
    a.says(0, 3)
    b.says(0, 3)
    before = fleet.script.records()
    grant = a.send(old)
    assert grant is not None
    assert grant.places == 3
    assert fleet.script.records() == before


def test_a_report_that_comes_twice_gets_the_same_answer(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a = fleet.member("a")
    report = a.make(0, 2)
    first = a.send(report)
    fleet.now += 5.0
    second = a.send(report)
    assert first is not None
    assert second is not None
    assert (second.places, second.until) == (first.places, first.until)


def test_a_report_after_its_lease_changes_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b = fleet.members("a b")
    a.says(0, 3)
    late = a.make(3)
    fleet.now += LEASE - 0.001
    b.says(0, 1)
    fleet.now += 0.001
    before = fleet.script.records(), fleet.script.state()
    assert a.send(late) is None
    assert (fleet.script.records(), fleet.script.state()) == before


# -- members that leave or die -------------------------------------------------------------------


def test_who_leaves_frees_its_places_and_refuses_what_comes_late(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    a, b = fleet.members("a b")
    a.says(0, 2)
    b.says(0, 2)
    late = a.make(2)
    a.says(0)
    assert fleet.nudged == ["b"]
    a.send(late)
    assert b.says(0, 2).used == 2
    for _ in range(3):
        fleet.now += LEASE / 3
        b.has()
    assert set(fleet.script.records()) == {"b"}


def test_places_of_the_dead_come_back_after_a_lease(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    a, b = fleet.members("a b")
    a.says(0, 2)
    b.says(0, 2)
    for _ in range(3):
        fleet.now += LEASE / 3 - 0.001
        assert b.says(0, 2).places == 0
    fleet.now += 0.003
    assert b.says(0, 2).places == 2
    assert set(fleet.script.records()) == {"b"}


def test_who_comes_back_after_its_lease_gives_back_first(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b = fleet.members("a b")
    a.says(0, 2)
    b.says(0, 1)
    for _ in range(3):
        fleet.now += LEASE / 3
        b.has(3)
    assert b.has(3).places == 3
    a.until = 0
    grant = a.says(2, cap=0)
    assert (grant.places, grant.target, grant.used) == (2, 0, 5)
    # b has as many as it may.
    assert b.has().target == 3


def test_nobody_is_dropped_if_redis_was_away_for_all(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b, c = fleet.members("a b c")
    a.says(0, 2)
    b.says(0, 1)
    fleet.now += 2 * LEASE
    assert c.says(0, 1).places == 0
    a.until = 0
    assert a.says(2, cap=0).places == 2
    # b has not come back, and has a lease for that.
    for _ in range(3):
        fleet.now += LEASE / 3 - 0.001
        a.has()
        assert c.says(0, 1).used == 3
    fleet.now += 0.003
    a.has()
    assert c.says(0, 1).places == 1
    assert set(fleet.script.records()) == {"a", "c"}


def test_being_away_is_noticed_before_anybody_is_late(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    a, b = fleet.members("a b")
    a.says(0, 1)
    b.says(0, 1)
    fleet.now += 0.9 * LEASE
    a.has()
    fleet.now += 0.2 * LEASE
    assert a.has(2).places == 1
    b.until = 0
    assert b.says(1, cap=0).target == 1


# -- what Redis may have forgotten ---------------------------------------------------------------


def test_emptied_it_learns_what_is_held(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(4)
    a, b, c = fleet.members("a b c")
    a.says(0, 2)
    b.says(0, 2)
    fleet.script.clear()
    grant = a.has()
    assert (grant.places, grant.learning) == (2, LEASE)
    assert c.says(0, 1).places == 0
    assert b.has().used == 4
    assert c.says(0, 1).places == 0
    # From the last member that was found unknown.
    for _ in range(3):
        fleet.now += LEASE / 3 - 0.001
        a.has()
        assert b.says(1).learning > 0
        assert c.says(0, 1).places == 0
    fleet.now += 0.003
    assert c.says(0, 1).places == 1


@pytest.mark.parametrize("part", KEYS)
def test_a_lost_key_is_made_up_for_within_a_lease(make_fleet: MakeFleet, part: str) -> None:
    fleet = make_fleet(3)
    a, b, c = fleet.members("a b c")
    a.says(0, 2)
    b.says(0, 1)
    c.says(0, 1)
    fleet.script.client.delete(fleet.script.keys[KEYS.index(part)])
    # Nobody gets more than there is meanwhile.
    for _ in range(7):
        fleet.now += LEASE / 3
        grants = [a.has(), b.has(), c.has(1)]
        assert sum(max(grant.places, 0) for grant in grants) <= 3
    assert a.says(1).used <= 3
    assert c.has(1).places == 1
    assert b.has().used == 3


def test_a_place_that_is_closing_is_the_first_of_what_was_asked(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    (a,) = fleet.members("a")
    a.says(0, 3)
    fleet.script.limit = 1
    assert a.has(3).target == 1
    # It has closed one, and closes another.
    assert a.says(2, 2, spare=1).target == 1
    assert a.says(1).target == 1


def test_another_process_with_the_same_data_learns_too(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(4)
    a, b = fleet.members("a b")
    a.says(0, 2)
    fleet.script.client.hset(fleet.script.keys[0], "run", "another")
    # A connection that stands has the same process at its end.
    assert b.says(0, 1).places == 1
    grant = b.has(2, is_first=True)
    assert (grant.places, grant.learning) == (1, LEASE)
    # Once is enough.
    fleet.now += 5.0
    assert a.has(is_first=True).learning == LEASE - 5.0


def test_lost_writes_grant_nothing_twice(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    a, b = fleet.members("a b")
    a.says(0, 3)
    client, keys = fleet.script.client, fleet.script.keys
    saved = [(key, client.dump(key)) for key in keys if client.exists(key)]
    # What follows is not replicated: a gives two back, and b gets them.
    a.says(1, cap=1)
    b.says(0, 2)
    fleet.script.clear()
    for key, dump in saved:
        client.restore(key, 0, dump)
    client.hset(keys[0], "run", "another")
    # Redis has three for a, but they are not its own any more.
    assert a.has(3, is_first=True).places == 1
    assert b.has().used == 3


def test_learning_ends_within_a_lease_when_the_clock_goes_back(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(4)
    a = fleet.member("a")
    a.says(0, 1)
    fleet.script.clear()
    a.has()
    fleet.now -= 10 * LEASE
    assert a.has(2).learning == LEASE
    fleet.now += LEASE / 2
    assert a.has(2).places == 1
    fleet.now += LEASE / 2
    assert a.has(2).places == 2


def test_on_a_redis_that_has_just_started_nobody_gets_anything(tmp_path: Path) -> None:
    require_redis()
    with RedisServer(tmp_path) as server, server.client() as client:
        script = Script(client, "x", 3, lease=3600.0)
        grant = script("a", Report(1, 0, 0, 0, 0, 1, 0, 0, 0), None).grant
        assert grant is not None
        assert grant.places == 0
        assert 3000.0 < grant.learning <= 3600.0
        script.clear()
        # One that has been up for longer than a lease has nothing to learn.
        script.lease = 0.001
        while int(client.info("server")["uptime_in_seconds"]) < 1:
            time.sleep(0.05)
        grant = script("b", Report(1, 0, 0, 0, 0, 1, 0, 0, 0), None).grant
        assert grant is not None
        assert grant.places == 1


def test_a_restart_is_noticed_whatever_was_saved(tmp_path: Path) -> None:
    require_redis()
    with RedisServer(tmp_path, "--appendonly", "yes") as server:
        with server.client() as client:
            script = Script(client, "x", 3)
            script.settle()
            first = script("a", Report(1, 0, 0, 0, 0, 2, 0, 0, 0), None).grant
        assert first is not None
        assert first.places == 2
        server.restart()
        with server.client() as client:
            script = Script(client, "x", 3)
            again = Report(2, 2, 2, 2, first.until, 3, 0, 0, 0)
            grant = script("a", again, None, is_first=True).grant
        assert grant is not None
        assert (grant.places, grant.used) == (2, 2)
        assert grant.learning > 0


# -- the limit -----------------------------------------------------------------------------------


def test_a_lower_limit_is_asked_back_of_the_richest(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(9)
    a, b = fleet.members("a b")
    a.says(0, 6)
    b.says(0, 3)
    fleet.script.limit = 4
    assert b.has().limit == 9
    assert fleet.nudged == ["a"]
    # Down to 4 altogether: the two of them have 2 each.
    assert a.has().target == 2
    assert b.has().target == 2
    a.says(2)
    b.says(2)
    assert b.has(9).used == 4


def test_a_higher_limit_serves_the_line(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    a, b = fleet.members("a b")
    a.says(0, 3)
    b.says(0, 3)
    fleet.script.limit = 6
    assert a.has(3).limit == 1
    assert b.says(0, 3).places == 3


def test_an_older_report_that_comes_late_brings_no_old_limit(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(9)
    a, b = fleet.members("a b")
    a.says(0, 1)
    lost = a.make(1)
    fleet.script.limit = 2
    a.says(1)
    b.says(0, 9)
    fleet.script.limit = 9
    # Nobody is served beyond the new limit, nor told of the old one.
    a.send(lost)
    fleet.script.limit = 2
    grant = b.has(9)
    assert (grant.limit, grant.used) == (2, 2)


def test_the_first_call_had_none_before(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    assert [fleet.member("a").says(0).limit for _ in range(2)] == [0, 3]


# -- turns of handshakes -------------------------------------------------------------------------


def test_turns_fill_no_window_with_more(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(99)
    fleet.script.rate = (3, 10.0)
    a, b = fleet.members("a b")
    assert a.says(0, handshakes=2).turns == (0.0, 0.0)
    fleet.now += 4.0
    assert b.says(0, handshakes=3).turns == (0.0, 6.0, 6.0)
    assert a.says(0, handshakes=1).turns == (10.0,)
    fleet.now += 20.0
    assert a.has(handshakes=4).turns == (0.0, 0.0, 0.0, 10.0)


def test_turns_come_first_come_first_served(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(99)
    fleet.script.rate = (1, 2.0)
    a, b = fleet.members("a b")
    turns = [member.has(handshakes=1).turns[0] for member in (a, b, a, b)]
    assert turns == [0.0, 2.0, 4.0, 6.0]


def test_only_turns_end_by_themselves(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    fleet.script.rate = (5, 60.0)
    a, b = fleet.members("a b")
    a.says(0, 1, handshakes=7)
    b.says(0, 1)
    a.has(spare=1)
    left = [fleet.script.client.pttl(key) for key in fleet.script.keys]
    assert left[:-1] == [-1] * 5 + [-2]
    assert 60_000 < left[-1] <= 120_000
    assert fleet.script.client.llen(fleet.script.keys[-1]) == 5


def test_an_old_report_gets_no_turn(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(9)
    fleet.script.rate = (1, 10.0)
    a = fleet.member("a")
    report = a.make(0, handshakes=1)
    first, again = a.send(report), a.send(report)
    assert first is not None
    assert again is not None
    assert (first.turns, again.turns) == ((0.0,), ())


# -- the work of one call ------------------------------------------------------------------------


def test_a_call_grants_a_bounded_number_and_who_is_nudged_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    waiting = {f"m{i}": fleet.member(f"m{i}") for i in range(3 * MOST)}
    for member in waiting.values():
        member.says(0, 1)
    fleet.script.limit = 1000
    # Of what is left, nobody gets any who can do without.
    assert fleet.member("another").says(0, 0, like=5).places == 0
    assert len(fleet.nudged) == MOST
    served = 0
    while fleet.nudged:
        nudged, fleet.nudged = fleet.nudged, []
        told = []
        for name in nudged:
            assert waiting[name].says(0, 1).places == 1
            served += 1
            told += fleet.nudged
        fleet.nudged = told
    # The first had its place from the beginning.
    assert served == 3 * MOST - 1


def test_a_call_asks_a_bounded_number(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(300)
    a = fleet.member("a")
    a.says(0, 300)
    fleet.script.limit = 100
    assert a.has().target == 300 - MOST
    assert [a.has().target for _ in range(3)] == [172, 108, 100]


def test_a_call_gives_a_bounded_number_of_turns(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    fleet.script.rate = (1000, 1.0)
    assert len(fleet.member("a").says(0, handshakes=500).turns) == MOST


# -- Redis itself --------------------------------------------------------------------------------

RIGHTS = (
    "~awc:* &awc:* +evalsha +script|load +@hash +@sortedset +@list +del +pexpire +time +publish"
    " +subscribe +unsubscribe +hello +ping"
)


@pytest.mark.parametrize("may_ask", [True, False])
def test_the_rights_that_are_documented_are_enough(tmp_path: Path, may_ask: bool) -> None:
    require_redis()
    with RedisServer(tmp_path) as server, server.client() as client:
        rights = RIGHTS.split() + (["+info"] if may_ask else [])
        client.execute_command("ACL", "SETUSER", "fleet", "on", ">secret", *rights)
        with server.client(username="fleet", password="secret") as user:
            script = Script(user, "x", 1, rate=(1, 9.0))
            for seq, member in enumerate(("a", "b", "a"), 1):
                report = Report(seq, 0, 0, 0, 0, 1, 0, 0, 1)
                grant = script(member, report, None, is_first=True).grant
                assert grant is not None
                # Without INFO, a restart goes unnoticed.
                assert bool(grant.learning) == may_ask


@pytest.mark.slow
def test_all_keys_are_in_one_slot_of_a_cluster(tmp_path: Path) -> None:
    require_redis()
    with (
        RedisServer(tmp_path, "--cluster-enabled", "yes") as server,
        server.client() as client,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            time.sleep(0.05)
        script = Script(client, "x", 1)
        script.settle()
        grant = script("a", Report(1, 0, 0, 0, 0, 1, 0, 0, 0), None).grant
        assert grant is not None
        assert grant.places == 1


def test_nudges_are_published(redis_server: RedisServer) -> None:
    with redis_server.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        script = Script(client, "published", 2)
        script.clear()
        script.settle()
        pubsub.subscribe("awc:a", "awc:b")
        while client.pubsub_numsub("awc:b") != [(b"awc:b", 1)]:
            time.sleep(0.01)
        for name, report in (
            ("a", Report(1, 0, 0, 0, 0, 2, 0, 0, 0)),
            ("b", Report(1, 0, 0, 0, 0, 1, 0, 0, 0)),
        ):
            command = script.command(name, report, None)
            at = command.index("r", len(KEYS))
            command[at - 1 : at + 1] = ["awc:", "p"]
            reply = client.execute_command(*command)
            assert all(isinstance(number, int) for number in reply)
        message = None
        while message is None:
            message = pubsub.get_message(timeout=30.0)
        assert (message["channel"], message["data"]) == (b"awc:a", b"")
        # Of the member that calls, nothing is published: it is told.
        assert pubsub.get_message(timeout=0.0) is None
