"""When a daily task is due: once for each day, the last of those that were missed, and never because a clock stepped back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.schedule import DAY_US, last_due_us, next_due_us, time_of_day_us

HOUR_US = DAY_US // 24
times = st.integers(0, DAY_US - 1)
moments = st.integers(0, 100_000 * DAY_US)


@pytest.mark.parametrize(
    ("text", "us"),
    [("00:00", 0), ("02:30", 2 * HOUR_US + HOUR_US // 2), ("23:59:59", DAY_US - 1_000_000)],
)
def test_a_time_of_day_is_read(text: str, us: int) -> None:
    assert time_of_day_us(text) == us


@pytest.mark.parametrize("text", ["24:00", "2:30", "12:60", "12:00:60", "noon", "", "12:00 ", "-1:00"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    assert time_of_day_us(text) is None


@given(times, moments)
def test_the_last_time_is_of_this_time_of_day_and_within_a_day(at_us: int, now_us: int) -> None:
    last = last_due_us(at_us, now_us)
    assert last % DAY_US == at_us
    assert now_us - DAY_US < last <= now_us


@given(times, moments, st.integers(0, 10 * DAY_US))
def test_each_day_is_due_once(at_us: int, begin_us: int, later_us: int) -> None:
    done = last_due_us(at_us, begin_us)
    now = begin_us + later_us
    ran = 0
    while next_due_us(at_us, done, now) <= now:
        done = last_due_us(at_us, now)  # of several that were missed, one is made up for
        ran += 1
    assert ran == (1 if last_due_us(at_us, now) > last_due_us(at_us, begin_us) else 0)
    assert next_due_us(at_us, done, now) - now <= DAY_US


@given(times, moments, st.integers(0, DAY_US))
def test_a_clock_that_steps_back_within_a_day_repeats_nothing(at_us: int, now_us: int, back_us: int) -> None:
    done = last_due_us(at_us, now_us)
    assert next_due_us(at_us, done, now_us - back_us) > now_us - back_us
    assert next_due_us(at_us, done, now_us - back_us) == done + DAY_US


@given(times, moments, st.integers(2 * DAY_US, 50_000 * DAY_US))
def test_a_time_done_in_a_wrong_future_does_not_put_off_for_years(at_us: int, now_us: int, ahead_us: int) -> None:
    done = last_due_us(at_us, now_us + ahead_us)
    due = next_due_us(at_us, done, now_us)
    assert now_us < due <= now_us + DAY_US
