"""The lease of one session: what it may hold, what it reports, and when."""

from math import inf
from random import Random
from typing import Any

import pytest

from aiowebsocketclient.fleet import Grant, Report
from aiowebsocketclient.lease import Lease, Need

SECONDS = 30.0
#: From a report to the loss of its lease: a tenth is left.
VALID = 27.0


def grant(places: int, target: int | None = None, **more: Any) -> Grant:
    named = {"until": 1000, "waiting": 0, "used": places, "learning": 0.0}
    return Grant(places, places if target is None else target, **{**named, **more})


def leased(places: int, held: int, now: float = 100.0, **more: Any) -> Lease:
    """Return the lease of a session that was granted so many and has opened so many."""
    lease = Lease(SECONDS, **more)
    lease.begin(Need(0, places), now)
    lease.granted(grant(places), now)
    lease.begin(Need(held, places), now)
    lease.granted(grant(places), now)
    return lease


# -- what it may hold ----------------------------------------------------------------------------


def test_it_holds_nothing_before_it_is_granted() -> None:
    lease = Lease(SECONDS)
    assert (lease.places, lease.keep) == (0, 0)
    assert lease.begin(Need(0, 3), 5.0) == Report(1, 0, 0, 0, 0, 3, 0, 0, 0)
    assert lease.places == 0
    lease.granted(grant(2, until=77), 5.1)
    assert (lease.places, lease.keep) == (2, 2)
    assert lease.begin(Need(2, 3, 4, 1, 6), 5.2) == Report(2, 2, 2, 2, 77, 3, 4, 1, 6)


def test_the_cap_falls_before_the_report_is_on_its_way() -> None:
    lease = leased(5, 5)
    assert lease.begin(Need(2, 3), 101.0).cap == 3
    assert lease.places == 3
    # Whatever becomes of it: the engine may have given the places to others.
    lease.failed(102.0)
    assert lease.places == 3
    assert lease.begin(Need(2, 9), 103.0).cap == 3


def test_a_like_has_a_use_for_places() -> None:
    assert leased(5, 5).begin(Need(2, 2, like=4), 101.0).cap == 4


def test_asked_back_it_opens_none_and_gives_what_it_does_not_hold() -> None:
    lease = leased(5, 4)
    lease.begin(Need(4, 5), 101.0)
    lease.granted(grant(5, 3), 101.0)
    assert (lease.places, lease.keep) == (3, 3)
    # It holds 4, and a caller waits for the fifth.
    report = lease.begin(Need(4, 5), 101.0)
    assert (report.cap, report.demand) == (4, 5)
    assert lease.begin(Need(2, 5), 101.0).cap == 3


def test_an_answer_raises_the_cap_again() -> None:
    lease = leased(5, 5)
    lease.begin(Need(2, 2), 101.0)
    lease.granted(grant(4), 101.0)
    assert (lease.cap, lease.known) == (4, 4)


def test_the_fallback_is_beside_the_fleet() -> None:
    lease = Lease(SECONDS, 2)
    assert (lease.places, lease.keep) == (2, 2)
    need = Need(2, 5, 3, 2, 1)
    assert lease.begin(need, 100.0) == Report(1, 0, 0, 0, 0, 3, 1, 0, 1)
    lease.granted(grant(3, 2), 100.0)
    assert (lease.cap, lease.target) == (3, 2)
    assert (lease.places, lease.keep) == (4, 4)
    assert lease.begin(Need(5, 5, spare=5), 101.0).spare == 3


def test_a_session_within_its_fallback_is_no_member() -> None:
    lease = Lease(SECONDS, 2)
    assert lease.due(Need(2, 2), 100.0) == inf
    assert lease.due(Need(2, 3), 100.0) == 100.0
    assert not lease.is_member


# -- losing it -----------------------------------------------------------------------------------


def test_the_deadline_counts_from_before_the_report() -> None:
    lease = Lease(SECONDS)
    assert lease.deadline == inf
    lease.begin(Need(0, 1), 100.0)
    lease.granted(grant(1), 104.0)
    assert lease.deadline == 100.0 + VALID
    assert not lease.is_lost(126.9)
    assert lease.is_lost(127.0)


def test_a_short_lease_leaves_a_fifth_of_a_second() -> None:
    lease = Lease(1.0)
    lease.begin(Need(0, 1), 100.0)
    assert lease.deadline == pytest.approx(100.8)


def test_a_first_report_without_an_answer_is_lost_too() -> None:
    lease = Lease(SECONDS)
    lease.begin(Need(0, 1), 100.0)
    lease.failed(102.0)
    lease.begin(Need(0, 1), 103.0)
    assert lease.deadline == 100.0 + VALID


def test_lost_it_opens_nothing_and_reports_what_it_holds() -> None:
    lease = leased(5, 3)
    # The timer was late.
    report = lease.begin(Need(3, 5), 200.0)
    assert lease.lost
    assert (report.held, report.cap, report.until, report.known) == (3, 0, 0, 5)
    assert lease.places == 0
    lease.granted(grant(3, 1), 200.1)
    assert not lease.lost
    assert (lease.places, lease.keep) == (1, 1)


def test_an_answer_to_a_lost_report_is_no_use() -> None:
    lease = leased(5, 3)
    lease.begin(Need(3, 5), 101.0)
    lease.lose()
    lease.granted(grant(5, until=77), 101.0 + VALID)
    assert lease.lost
    assert lease.cap == 0
    assert lease.begin(Need(3, 5), 130.0).until == 0


def test_losing_it_keeps_its_fallback() -> None:
    lease = leased(5, 5, fallback=1)
    lease.lose()
    assert lease.places == 1


def test_a_report_that_was_too_late_is_sent_again_without_its_lease() -> None:
    lease = leased(5, 3)
    lease.begin(Need(3, 5), 110.0)
    lease.granted(None, 111.0)
    assert lease.until == 0
    assert 111.0 < lease.due(Need(3, 5), 111.0) <= 111.05
    assert lease.cap == 5
    assert lease.begin(Need(3, 5), 112.0).until == 0


# -- when to report ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "need", [Need(0, 1), Need(0, 0, like=1), Need(0, 0, handshakes=1)], ids=str
)
def test_a_first_need_is_reported_at_once(need: Need) -> None:
    lease = Lease(SECONDS)
    assert lease.due(Need(0, 0), 100.0) == inf
    assert lease.due(need, 100.0) == 100.0


def test_it_renews_three_times_a_lease() -> None:
    assert leased(5, 5).due(Need(5, 5), 101.0) == 110.0


def test_who_waits_looks_every_second() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 6), 101.0)
    lease.granted(grant(5), 101.5)
    assert lease.due(Need(5, 6), 101.5) == 102.0


@pytest.mark.parametrize(
    "need",
    [
        Need(5, 6),
        Need(4, 4),
        Need(5, 5, like=6),
        Need(5, 5, spare=1),
        Need(5, 5, handshakes=1),
    ],
    ids=str,
)
def test_news_are_reported_at_once(need: Need) -> None:
    assert leased(5, 5).due(need, 101.0) == 101.0


@pytest.mark.parametrize("need", [Need(3, 5), Need(5, 5, like=5), Need(1, 2, like=5)], ids=str)
def test_what_changes_nothing_for_others_can_wait(need: Need) -> None:
    assert leased(5, 5).due(need, 101.0) == 110.0


def test_what_matters_is_the_difference_to_what_was_reported() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 5), 101.0)
    # While the call runs, a caller comes: its place is not granted with the answer.
    lease.granted(grant(5), 101.1)
    assert lease.due(Need(5, 6), 101.1) == 101.1


def test_in_line_only_much_more_is_news() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 7), 101.0)
    lease.granted(grant(5), 101.0)
    assert lease.due(Need(5, 9), 101.0) == 102.0
    assert lease.due(Need(5, 10), 101.0) == 101.0
    assert lease.due(Need(5, 6), 101.0) == 102.0
    assert lease.due(Need(5, 5), 101.0) == 101.0


@pytest.mark.parametrize(("spare", "is_news"), [(3, False), (5, False), (8, True), (2, True)])
def test_an_offer_is_news_when_it_is_twice_or_half_as_large(spare: int, is_news: bool) -> None:
    lease = leased(9, 9)
    lease.begin(Need(9, 9, spare=4), 101.0)
    lease.granted(grant(9), 101.0)
    assert (lease.due(Need(9, 9, spare=spare), 101.0) == 101.0) == is_news


def test_what_is_being_closed_as_asked_is_still_offered() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 5, spare=2), 101.0)
    lease.granted(grant(5, 3), 101.0)
    closing = Need(5, 5, closing=2)
    # Otherwise the engine would take the offer as withdrawn, and ask somebody else.
    assert lease.due(closing, 101.0) == 111.0
    assert lease.begin(closing, 101.0).spare == 2
    assert lease.due(Need(4, 4, closing=1), 101.0) == 101.0


def test_what_is_closed_for_another_reason_is_not_offered() -> None:
    assert leased(5, 5).begin(Need(5, 5, closing=2), 101.0).spare == 0


def test_asked_back_it_reports_when_it_can_give() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 5), 101.0)
    lease.granted(grant(5, 4), 101.0)
    assert lease.due(Need(5, 5), 101.0) == 111.0
    assert lease.due(Need(4, 5), 101.0) == 101.0


def test_a_nudge_is_answered_at_once_also_if_it_comes_during_a_call() -> None:
    lease = leased(5, 5)
    lease.begin(Need(5, 5), 101.0)
    lease.nudged()
    lease.granted(grant(5), 101.1)
    assert lease.due(Need(5, 5), 101.1) == 101.1
    lease.begin(Need(5, 5), 101.1)
    lease.granted(grant(5), 101.2)
    assert lease.due(Need(5, 5), 101.2) == pytest.approx(111.1)


def test_after_failures_pauses_grow_and_are_bounded() -> None:
    lease = leased(5, 5, rng=Random(1))
    now, pauses = 101.0, []
    for _ in range(60):
        lease.begin(Need(5, 9), now)
        lease.failed(now)
        pauses.append(lease.due(Need(5, 9), now) - now)
    assert 0.0 < pauses[0] <= 0.05
    assert max(pauses) <= 1.0
    assert min(pauses[10:]) >= 0.5 - 1e-9
    assert len(set(pauses)) > 30
    lease.begin(Need(5, 5), now)
    lease.granted(grant(5), now)
    assert lease.due(Need(5, 5), now) == now + 10.0


def test_pauses_of_a_short_lease_are_a_tenth_of_it() -> None:
    lease = Lease(2.0)
    for _ in range(20):
        lease.begin(Need(0, 1), 100.0)
        lease.failed(100.0)
        assert lease.due(Need(0, 1), 100.0) <= 100.2
    assert lease.timeout == 0.5
    assert Lease(SECONDS).timeout == 2.0


# -- leaving -------------------------------------------------------------------------------------


def test_a_session_that_needs_nothing_leaves() -> None:
    lease = leased(2, 2)
    assert lease.is_member
    assert lease.due(Need(0, 0), 101.0) == 101.0
    assert lease.begin(Need(0, 0), 101.0) == Report(3, 0, 0, 2, 1000, 0, 0, 0, 0)
    # Until the engine has heard of it, it may count the places.
    assert lease.is_member
    lease.granted(grant(0), 101.0)
    assert not lease.is_member
    assert lease.due(Need(0, 0), 101.0) == inf
    assert lease.deadline == inf
    # It comes back as a new session does, but for the number.
    assert lease.begin(Need(0, 1), 500.0) == Report(4, 0, 0, 0, 0, 1, 0, 0, 0)
    assert lease.deadline == 500.0 + VALID


def test_leaving_that_failed_is_tried_again() -> None:
    lease = leased(2, 2)
    lease.begin(Need(0, 0), 101.0)
    lease.failed(101.0)
    assert lease.is_member
    assert lease.due(Need(0, 0), 101.0) < inf


def test_who_gives_up_waiting_leaves_the_line() -> None:
    lease = Lease(SECONDS)
    lease.begin(Need(0, 1), 100.0)
    lease.granted(grant(0), 100.0)
    assert lease.due(Need(0, 0), 100.1) == 100.1


def test_its_repr_holds_numbers_only() -> None:
    assert repr(leased(5, 5)) == "<Lease 5 to 5 until 127.0, report 2>"
