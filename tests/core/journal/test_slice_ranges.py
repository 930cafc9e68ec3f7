"""Which ranges of slices may run beside the stored ones, and offsets that go on when ranges are split and merged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.ids import SliceRange, slice_of, slice_ranges
from common.core.journal.slice_ranges import (
    RangeOffset,
    ahead_as_text,
    ahead_of_text,
    check_ranges,
    divide,
    missing_ranges,
    not_yet_done,
    still_ahead,
)


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


# -- splitting and merging ---------------------------------------------------------------------------------------------
@st.composite
def divisions(draw: st.DrawFn) -> list[SliceRange]:
    """All slices, cut at some places."""
    cuts = sorted(draw(st.sets(st.sampled_from([1, 7, 256, 300, 511, 512, 700, 1000, 1023]), max_size=5)))
    return [SliceRange(first, last - 1) for first, last in pairwise([0, *cuts, 1024])]


def done(offsets: Sequence[RangeOffset]) -> list[int]:
    """Slice → how far it is."""
    at = [0] * 1024
    for offset in offsets:
        for slice_ in range(offset.slices.first, offset.slices.last + 1):
            at[slice_] = offset.position
        for one in offset.ahead:
            for slice_ in range(one.slices.first, one.slices.last + 1):
                at[slice_] = one.position
    return at


@given(st.lists(divisions(), min_size=1, max_size=5), st.data())
def test_whatever_is_split_and_merged_each_event_takes_effect_once(
    steps: list[list[SliceRange]], data: st.DataObject
) -> None:
    log = [f"Sensor|{number}" for number in range(60)]  # event of position p is log[p - 1]
    offsets = [RangeOffset(slices, 0) for slices in steps[0]]
    seen: list[int] = []

    def move(offset: RangeOffset, position: int) -> RangeOffset:
        positions = list(range(offset.position + 1, position + 1))
        entities = [log[at - 1] for at in positions]
        within = [i for i, entity in enumerate(entities) if slice_of(entity) in offset.slices]
        positions, entities = [positions[i] for i in within], [entities[i] for i in within]
        seen.extend(positions[i] for i in not_yet_done(offset.ahead, entities, positions))
        return RangeOffset(offset.slices, position, still_ahead(offset.ahead, position))

    for ranges in steps:
        before = done(offsets)
        offsets = divide("tally", offsets, ranges)
        assert done(offsets) == before
        assert [ahead_of_text(ahead_as_text(one.ahead)) for one in offsets] == [one.ahead for one in offsets]
        offsets = [move(one, data.draw(st.integers(one.position, len(log)))) for one in offsets]
    for one in offsets:
        move(one, len(log))
    assert sorted(seen) == list(range(1, len(log) + 1))


@given(divisions(), st.sets(st.integers(0, 4)), divisions())
def test_what_is_missing_completes_what_is_stored(
    stored: list[SliceRange], kept: set[int], wanted: list[SliceRange]
) -> None:
    known = [one for number, one in enumerate(stored) if number in kept]
    together = [*known, *missing_ranges(known, wanted)]
    assert sorted(slice_ for one in together for slice_ in range(one.first, one.last + 1)) == list(range(1024))


@pytest.mark.parametrize(
    ("stored", "wanted", "code"),
    [
        ([], slice_ranges(2), "projection.unknown"),
        (slice_ranges(2), slice_ranges(4)[1:], "projection.other_slices"),
        (slice_ranges(2), [*slice_ranges(1), *slice_ranges(2)], "projection.other_slices"),
    ],
)
def test_other_slices_than_the_stored_ones_are_refused(
    stored: list[SliceRange], wanted: list[SliceRange], code: str
) -> None:
    with pytest.raises(BackhaulError) as refused:
        divide("tally", [RangeOffset(slices, 5) for slices in stored], wanted)
    assert refused.value.code == code
