"""A free lock means dead only with silence, and only when two looks agree."""

from __future__ import annotations

from dataclasses import replace

from common.core.members.liveness import DeathWatch
from common.core.members.member import Member, MemberReport

ALIVE = Member(MemberReport("n1/1", "n1", 0), left_s=1.5, silent_s=1.5, renewals=7)
KILLED = replace(ALIVE, has_lock=False)


def test_two_looks_that_find_the_lock_free_and_no_renewal_mean_dead() -> None:
    watch = DeathWatch()
    assert watch.dead([KILLED]) == []
    assert watch.dead([replace(KILLED, silent_s=2.0)]) == [replace(KILLED, silent_s=2.0)]


def test_a_held_lock_proves_nothing() -> None:
    watch = DeathWatch()
    assert [watch.dead([ALIVE]) for _ in range(3)] == [[], [], []]


def test_a_session_that_was_cut_is_not_a_node_that_died() -> None:
    watch = DeathWatch()
    assert watch.dead([KILLED]) == []
    assert watch.dead([replace(KILLED, renewals=8)]) == []
    assert watch.dead([replace(ALIVE, renewals=9)]) == []
    assert watch.dead([replace(KILLED, renewals=9)]) == []


def test_a_short_silence_is_waited_for() -> None:
    watch = DeathWatch()
    assert watch.dead([replace(KILLED, silent_s=0.4)]) == []
    assert watch.dead([replace(KILLED, silent_s=0.9)]) == []
    assert watch.dead([replace(KILLED, silent_s=1.4)]) != []


def test_one_whose_lease_has_lapsed_is_dead_already() -> None:
    watch = DeathWatch()
    gone = replace(KILLED, left_s=0.0)
    assert not gone.is_live
    assert [watch.dead([gone]) for _ in range(2)] == [[], []]
