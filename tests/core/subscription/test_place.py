"""The state of a subscription as it is stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.subscription.place import (
    NO_RESUME_POINT,
    FilterState,
    LogCursor,
    ResumePoint,
    SnapshotScan,
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
)


@given(places)
def test_a_place_survives_being_stored(place: ResumePoint) -> None:
    assert place_of_text(place_as_text(place)) == place


def test_a_place_that_was_stored_before_it_said_how_far_snapshots_reach_or_where_it_began_is_read() -> None:
    text = place_as_text(NO_RESUME_POINT).replace(',"reached":0', "").replace(',"begin":0', "")
    assert "reached" not in text
    assert "begin" not in text
    assert place_of_text(text) == NO_RESUME_POINT


def test_nowhere_is_before_everything() -> None:
    assert NO_RESUME_POINT.live.position == 0
    assert NO_RESUME_POINT.backfill is None
