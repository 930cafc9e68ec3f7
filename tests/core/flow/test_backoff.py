"""Delays stay in their bounds, spread a fleet, honour hints and forget only after progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.flow.backoff import Backoff

chances = st.floats(0, 1, exclude_max=True)


@given(st.lists(chances, min_size=1, max_size=100))
def test_delays_stay_between_the_bounds(drawn: list[float]) -> None:
    backoff = Backoff(0.5, 30)
    for chance in drawn:
        assert 0.5 <= backoff.next_delay(chance) <= 30


def test_the_longest_possible_delay_doubles_up_to_the_bound() -> None:
    backoff = Backoff(0.5, 30)
    longest = [backoff.next_delay(1.0) for _ in range(8)]
    assert longest == [1, 2, 4, 8, 16, 30, 30, 30]
    assert Backoff(0.5, 30).next_delay(0.0) == 0.5


def test_even_the_first_delay_spreads_a_fleet() -> None:
    delays = {Backoff(0.5, 30).next_delay(edge / 1_000) for edge in range(1_000)}
    assert len(delays) == 1_000
    assert max(delays) - min(delays) > 0.4


def test_progress_makes_the_next_delay_small_again() -> None:
    backoff = Backoff(0.5, 30)
    for _ in range(1_000):
        backoff.next_delay(0.9)
    assert backoff.failures == 1_000
    backoff.progressed()
    assert backoff.next_delay(1.0) == 1.0


@given(chances, st.floats(0, 300))
def test_a_hint_is_honoured_and_spread(chance: float, hint_s: float) -> None:
    delay_s = Backoff(0.5, 30).next_delay(chance, at_least_s=hint_s)
    assert hint_s <= delay_s <= max(1.0, hint_s * 1.25)


@given(chances, st.floats(0.5, 300))
def test_links_that_are_sent_away_spread_over_the_time_they_are_given(chance: float, within_s: float) -> None:
    delay_s = Backoff(0.5, 30).next_delay_within(chance, within_s)
    assert delay_s == pytest.approx(0.5 + chance * (max(min(1.0, 8 * within_s), within_s) - 0.5))


def test_a_link_that_is_sent_away_again_and_again_waits_longer() -> None:
    backoff = Backoff(0.5, 30)
    longest = [backoff.next_delay_within(1.0, 1.0) for _ in range(6)]
    assert longest == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    ("within_s", "longest_s"),
    [(1e9, 300), (float("inf"), 300), (float("-inf"), 0.5), (float("nan"), 1.0), (0.0, 0.5)],
)
def test_no_such_time_is_longer_than_the_longest_wait_or_shorter_than_the_shortest(
    within_s: float, longest_s: float
) -> None:
    assert Backoff(0.5, 30).next_delay_within(0.0, within_s) == 0.5
    assert Backoff(0.5, 30).next_delay_within(1.0, within_s) == longest_s


@pytest.mark.parametrize("hint_s", [1e9, float("inf")])
def test_no_hint_keeps_away_for_ever(hint_s: float) -> None:
    assert Backoff(0.5, 30).next_delay(0.0, at_least_s=hint_s) == 300


def test_a_peer_that_soon_answers_again_is_not_left_alone_for_long() -> None:
    backoff = Backoff(0.5, 30)
    for _ in range(20):
        backoff.next_delay(0.9, at_least_s=1.0)
    assert backoff.next_delay(0.999, at_least_s=1.0) < 8.0
    assert backoff.next_delay(0.999, at_least_s=20.0) > 29.0


def test_a_hint_below_the_own_delay_changes_nothing() -> None:
    assert Backoff(0.5, 30).next_delay(0.0, at_least_s=0.1) == 0.5


@given(chances)
def test_what_only_an_operator_lifts_waits_long(chance: float) -> None:
    assert 150 <= Backoff(0.5, 30).next_long_delay(chance) <= 300


@pytest.mark.parametrize(("min_s", "max_s"), [(0, 1), (-1, 1), (2, 1)])
def test_bounds_must_make_sense(min_s: float, max_s: float) -> None:
    with pytest.raises(AssertionError):
        Backoff(min_s, max_s)
