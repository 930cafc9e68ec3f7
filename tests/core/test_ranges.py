"""Which ranges of slices may run beside the stored ones."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError
from common.core.ids import SliceRange, slice_ranges
from common.core.ranges import check_ranges


@pytest.mark.parametrize("count", [1, 2, 4, 1024])
def test_the_same_division_is_accepted_whatever_of_it_is_stored(count: int) -> None:
    ranges = slice_ranges(count)
    for wanted in ranges[:3]:
        check_ranges("tally", wanted, [])
        check_ranges("tally", wanted, ranges)
        check_ranges("tally", wanted, ranges[1:])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2), (4, 8)])
def test_every_range_of_another_division_is_refused(before: int, after: int) -> None:
    for wanted in slice_ranges(after):
        with pytest.raises(BackhaulError) as refused:
            check_ranges("tally", wanted, slice_ranges(before))
        assert refused.value.code == "projection.ranges_changed"


def test_ranges_that_only_touch_are_no_conflict() -> None:
    check_ranges("tally", SliceRange(10, 19), [SliceRange(0, 9), SliceRange(20, 1023)])
