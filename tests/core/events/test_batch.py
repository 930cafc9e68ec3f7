"""Columns: every one has one entry an event, whatever is cut out of a batch or joined to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.batch import (
    COLUMNS,
    EVENT_OVERHEAD_BYTES,
    EventBatch,
    concat,
    join_metadata,
    join_tags,
    new_events,
    split_metadata,
    split_tags,
)

part = st.text(st.characters(exclude_characters="\x1f"), min_size=1, max_size=8)


def numbered(n: int, *, start: int = 0) -> EventBatch:
    """A batch in which every entry of every column is different."""
    batch = new_events(
        [f"A|{start + i}" for i in range(n)],
        [f"type-{start + i}" for i in range(n)],
        [b"x" * (start + i) for i in range(n)],
        codec=[f"codec-{start + i}" for i in range(n)],
        event_time_us=[start + i for i in range(n)],
        tags=[join_tags([f"tag-{start + i}", "second"]) for i in range(n)],
        metadata=[join_metadata({"key": f"{start + i}"}) for i in range(n)],
    )
    for offset, name in enumerate(("position", "timestamp_us", "stored_us", "seq_nr", "prev_seq_nr", "origin_seq_nr")):
        setattr(batch, name, [1_000 * offset + start + i for i in range(n)])
    return batch


def rows(batch: EventBatch) -> list[tuple[object, ...]]:
    return list(zip(*batch.columns(), strict=True))


def test_new_events_have_every_column() -> None:
    new_events(["A|1", "A|2"], ["a", "b"], [b"", b"1"]).check()
    EventBatch().check()


@pytest.mark.parametrize("name", COLUMNS)
def test_a_ragged_column_is_refused_by_name(name: str) -> None:
    batch = numbered(3)
    ragged = replace(batch, **{name: getattr(batch, name)[:-1]})
    with pytest.raises(BackhaulError) as refused:
        ragged.check()
    assert refused.value.code == "events.ragged"
    if name != "persistence_id":  # by which the others are measured
        assert name in refused.value.message


@given(st.integers(0, 8), st.integers(-2, 10), st.integers(-2, 10))
def test_a_slice_is_the_same_events(n: int, start: int, stop: int) -> None:
    batch = numbered(n)
    part_of_it = batch.slice(start, stop)
    part_of_it.check()
    assert rows(part_of_it) == rows(batch)[start:stop]


@given(st.lists(st.integers(0, 4), max_size=8))
def test_a_selection_is_the_named_events_in_that_order(indexes: list[int]) -> None:
    batch = numbered(5)
    selected = batch.select(indexes)
    selected.check()
    assert rows(selected) == [rows(batch)[index] for index in indexes]


@given(st.lists(st.integers(0, 3), max_size=5))
def test_joining_keeps_every_event_in_order_and_the_parts_untouched(sizes: list[int]) -> None:
    parts = [numbered(size, start=10 * index) for index, size in enumerate(sizes)]
    before = [rows(each) for each in parts]
    joined = concat(parts)
    joined.check()
    assert rows(joined) == [row for each in before for row in each]
    joined.extend(numbered(2))
    assert [rows(each) for each in parts] == before


def test_a_copy_of_all_is_apart_from_the_original() -> None:
    batch = numbered(2)
    copy = batch.slice(0, 2)
    copy.extend(numbered(1))
    assert len(batch) == 2
    batch.check()


def test_weights_add_up_to_the_size() -> None:
    batch = numbered(4)
    assert batch.weights() == [size + EVENT_OVERHEAD_BYTES for size in range(4)]
    assert batch.byte_size() == sum(batch.weights())


def test_an_envelope_is_one_row() -> None:
    envelope = numbered(3).envelope(2)
    assert (envelope.position, envelope.seq_nr, envelope.persistence_id) == (2, 3_002, "A|2")
    assert (envelope.payload, envelope.codec, envelope.event_type) == (b"xx", "codec-2", "type-2")
    assert (envelope.tags, envelope.metadata) == (("tag-2", "second"), {"key": "2"})
    assert [each.position for each in numbered(3).envelopes()] == [0, 1, 2]


@given(st.lists(part, max_size=5))
def test_tags_come_back(tags: list[str]) -> None:
    assert list(split_tags(join_tags(tags))) == tags


@given(st.dictionaries(part, st.text(st.characters(exclude_characters="\x1f"), max_size=8), max_size=5))
def test_metadata_comes_back(metadata: dict[str, str]) -> None:
    assert split_metadata(join_metadata(metadata)) == metadata
