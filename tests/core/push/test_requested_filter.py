"""Which filter is asked of an edge."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.push.filter_transition import NO_FILTER, PushFilter
from common.core.push.requested_filter import RequestedFilter, check_pattern, filter_for, fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_star_stands_for_any_text(pattern: str, origin_id: str) -> None:
    naive = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), origin_id) is not None
    assert fits(pattern, origin_id) == naive


def test_a_pattern_of_many_stars_is_decided_at_once() -> None:
    assert not fits("a*" * 100 + "b", "a" * 250)


def test_the_id_goes_before_patterns_and_the_one_that_says_more_before_others() -> None:
    asked = [
        RequestedFilter("*", 9, "[9]", 0),
        RequestedFilter("line-*", 3, "[3]", 0),
        RequestedFilter("line-7*", 2, "[2]", 0),
        RequestedFilter("*7-e1", 4, "[4]", 0),
        RequestedFilter("line-7-e1", 1, "[1]", 0),
    ]
    assert filter_for("line-7-e1", asked) == PushFilter(1, "[1]")
    assert filter_for("line-7-e2", asked) == PushFilter(2, "[2]")
    assert filter_for("line-8-e1", asked) == PushFilter(3, "[3]")
    assert filter_for("other", asked) == PushFilter(9, "[9]")
    assert filter_for("other", asked[1:]) == NO_FILTER


def test_of_patterns_that_say_as_much_the_last_one_set_counts() -> None:
    asked = [RequestedFilter("*b", 2, "[2]", 0), RequestedFilter("a*", 1, "[1]", 0)]
    assert filter_for("ab", asked) == PushFilter(2, "[2]")


@pytest.mark.parametrize("bad", ["", "a\x00", "x" * 300])
def test_a_pattern_that_fits_nothing_is_refused(bad: str) -> None:
    with pytest.raises(BackhaulError, match=r"filter\.bad_pattern"):
        check_pattern(bad)
