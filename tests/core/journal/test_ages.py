"""Ages by marks of a clock that runs while a service does: never more than they are, and not much less."""

from __future__ import annotations

from bisect import bisect_right
from math import log

from hypothesis import given
from hypothesis import strategies as st

from common.core.journal.ages import EVERY_POSITION, AgeMark, JournalAge, age_interval_s

SECOND = 1_000_000


def test_what_is_there_when_the_clock_begins_begins_to_age_then() -> None:
    age = JournalAge().advanced(0, 7)
    assert age == JournalAge(0, (AgeMark(0, 7),))
    assert age.older_than(1) == 0
    assert age.advanced(SECOND, 7).older_than(1) == 7


def test_no_age_asked_is_reached_by_everything() -> None:
    assert JournalAge().older_than(0) == EVERY_POSITION


def test_an_idle_log_ages_without_a_mark_more() -> None:
    age = JournalAge().advanced(0, 3)
    for _ in range(100):
        age = age.advanced(SECOND, 3)
    assert (len(age.marks), age.older_than(100), age.older_than(101)) == (1, 3, 0)


def test_time_that_went_backwards_is_none() -> None:
    assert JournalAge().advanced(SECOND, 1).advanced(-SECOND, 1).age_us == SECOND


def test_two_heads_at_one_age_are_one_mark() -> None:
    assert JournalAge().advanced(0, 1).advanced(0, 5).marks == (AgeMark(0, 5),)


def test_a_head_below_its_mark_makes_nothing_older_that_comes_there_again() -> None:
    age = JournalAge().advanced(0, 9).advanced(SECOND, 4)
    assert age.marks == (AgeMark(0, 4),)
    assert age.advanced(SECOND, 9).older_than(1) == 4


@given(st.lists(st.tuples(st.integers(0, 40 * SECOND), st.integers(0, 3)), max_size=120), st.data())
def test_ages_are_at_least_and_a_share_late_at_most(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    clock, now_us, stored_us = JournalAge(), 0, list[int]()
    for elapsed_us, events in steps:
        stored_us += [now_us] * events  # right after the last advance: the worst that they can be noted late
        now_us += elapsed_us
        clock = clock.advanced(elapsed_us, len(stored_us))
    asked_s = data.draw(st.integers(1, 2_000))
    old = clock.older_than(asked_s)
    assert old <= bisect_right(stored_us, now_us - asked_s * SECOND)
    late_us = asked_s * SECOND * 33 // 32 + 2 * 40 * SECOND
    assert old >= bisect_right(stored_us, now_us - late_us)
    assert clock.age_us == now_us
    assert [mark.position for mark in clock.marks] == sorted({mark.position for mark in clock.marks})


def test_marks_grow_with_the_logarithm_of_the_age() -> None:
    clock, ticks = JournalAge(), 6_000
    for tick in range(ticks):
        clock = clock.advanced(15 * SECOND, tick + 1)
    assert len(clock.marks) < 64 * log(ticks)
    gone, come = clock.changes_from(JournalAge(marks=(AgeMark(1, 1), *clock.marks[1:])))
    assert (gone, come) == ([AgeMark(1, 1)], [clock.marks[0]])


def test_the_clock_is_advanced_often_enough_for_the_shortest_age_asked_for() -> None:
    assert age_interval_s([86_400, None, 604_800]) == 15
    assert age_interval_s([0, 20]) == 2
    assert age_interval_s([0.001]) == 0.05
    assert age_interval_s([]) == 15
