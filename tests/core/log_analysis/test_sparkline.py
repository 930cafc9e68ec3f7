"""Series stay small, and the worst moment stays in the picture."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.log_analysis.sparkline import SAMPLES_MAX, ThinnedSeries, sparkline


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=3 * SAMPLES_MAX))
def test_a_thinned_series_is_bounded_in_order_and_keeps_the_highest(steps: list[tuple[int, int]]) -> None:
    series, at_us = ThinnedSeries(), 0
    for step_us, value in steps:
        at_us += step_us
        series.add(at_us, value)
    assert len(series.samples) <= SAMPLES_MAX
    assert series.samples == sorted(series.samples, key=lambda sample: sample[0])
    assert max((value for _, value in series.samples), default=0) == series.highest


def test_a_long_series_is_bounded_and_keeps_its_peak() -> None:
    series = ThinnedSeries()
    for number in range(100_000):
        series.add(number * 1_000, 7 if number == 50_001 else 1)
    assert SAMPLES_MAX // 4 <= len(series.samples) <= SAMPLES_MAX
    assert 7 in [value for _, value in series.samples]
    assert series.highest == 7


def test_a_sparkline_shows_silence_nothing_and_little_apart() -> None:
    assert sparkline([(0, 0), (10, 1), (30, 100)], 0, 40, 4) == "▁▂ █"
    assert sparkline([], 0, 0, 3) == "   "
