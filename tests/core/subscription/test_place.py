"""The state of a subscription as it is stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.subscription.place import (
    NO_RESUME_POINT,
    FilterState,
    LogCursor,
    ResumePoint,
    SnapshotScan,
    Unstated,
    place_as_text,
    place_of_text,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
positions = st.integers(0, 2**62)
scans = st.builds(SnapshotScan, head=positions, low=positions, after=texts)
cursors = st.builds(LogCursor, positions, texts, positions, st.none() | scans)
filters = st.builds(FilterState, st.integers(0, 9), texts)
places = st.builds(
    ResumePoint,
    texts,
    texts,
    cursors,
    filters,
    st.none() | cursors,
    next=st.none() | filters,
    change_position=positions,
    reached=positions,
    begin=positions,
    unstated=st.none() | st.builds(Unstated, positions, positions, texts),
)


@given(places)
def test_a_place_survives_being_stored(place: ResumePoint) -> None:
    assert place_of_text(place_as_text(place)) == place


@pytest.mark.parametrize("later", [["reached", "begin", "unstated"], ["begin", "unstated"], ["unstated"]])
def test_a_place_that_was_stored_before_it_had_all_its_parts_is_read(later: list[str]) -> None:
    stored = json.loads(place_as_text(NO_RESUME_POINT))
    for name in later:
        del stored[name]
    text = json.dumps(stored)
    assert place_of_text(text) == NO_RESUME_POINT


def test_nowhere_is_before_everything() -> None:
    assert NO_RESUME_POINT.live.position == 0
    assert NO_RESUME_POINT.backfill is None
