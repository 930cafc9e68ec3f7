"""Which slice and which entity make most of a range's work, in bounded memory."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.ids import slice_of
from common.core.journal.slice_load import SliceLoad

MANY = [f"Sensor|{n}" for n in range(3_000)]


def test_a_slice_with_most_of_the_events_is_named_with_its_busiest_entity() -> None:
    load = SliceLoad()
    for first in range(0, 3_000, 500):
        load.add(MANY[first : first + 500] + ["Pump|hot"] * 600)
    hot = load.take()
    assert hot is not None
    others = sum(slice_of(name) == hot.slice for name in MANY)
    assert (hot.slice, hot.of_events, hot.persistence_id) == (slice_of("Pump|hot"), 6_600, "Pump|hot")
    assert hot.events == 3_600 + others
    assert 3_000 < hot.entity_events <= 3_600
    assert load.take() is None


def test_work_that_can_be_divided_or_is_little_is_not_named() -> None:
    load = SliceLoad()
    load.add(MANY)
    assert load.take() is None
    load.add(["Pump|hot"] * 999)
    assert load.take() is None


@given(st.lists(st.lists(st.integers(0, 200), max_size=300), max_size=8))
def test_counts_of_entities_are_bounded_and_never_too_high(pages: list[list[int]]) -> None:
    load, exact = SliceLoad(), Counter[str]()
    for page in pages:
        names = [f"Pump|{n}" for n in page]
        exact.update(names)
        load.add(names)
        assert len(load._entities) <= 64
        assert all(n <= exact[name] for name, n in load._entities.items())
