"""Selections: what they want, and the arithmetic that finds it by prefix and by block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import NO_TAGS, UNIT_SEPARATOR, new_events, predecessor_tags, split_tags, tags_before
from common.core.events.ids import entity_type_of
from common.core.filters.selection import (
    BLOCK_POSITIONS,
    EVERYTHING,
    Selection,
    block_of,
    blocks_by_type,
    prefix_end,
    stretches,
    widths,
)

CHARACTERS = st.sampled_from("ab\x7f\ud7ff\ue000\uffff\U0010ffff")
TEXTS = st.text(CHARACTERS, max_size=4)
TAGS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(UNIT_SEPARATOR.join)


@given(prefix=TEXTS, text=TEXTS)
def test_a_prefix_ends_where_no_text_begins_with_it_any_more(prefix: str, text: str) -> None:
    end = prefix_end(prefix)
    assert text.startswith(prefix) == (prefix <= text and (end is None or text < end))


@given(blocks=st.sets(st.integers(0, 12)), first=st.integers(1, 900), last=st.integers(1, 900))
def test_stretches_are_the_positions_of_the_blocks(blocks: set[int], first: int, last: int) -> None:
    found = list(stretches(sorted(blocks), first, last))
    assert all(low <= high for low, high in found)
    covered = [position for low, high in found for position in range(low, high + 1)]
    assert covered == [position for position in range(first, last + 1) if block_of(position) in blocks]


@given(
    first=st.integers(1, 500), names=st.lists(st.sampled_from(["A|1", "A|2", "AB|1", "B|1"]), min_size=1, max_size=200)
)
def test_the_blocks_of_a_type_have_all_its_events(first: int, names: list[str]) -> None:
    positions = range(first, first + len(names))
    found = blocks_by_type(positions, names)
    assert found >= {
        (entity_type_of(name), position // BLOCK_POSITIONS) for position, name in zip(positions, names, strict=True)
    }
    assert {entity_type for entity_type, _ in found} == set(map(entity_type_of, names))


@given(before=TAGS, tags=TAGS)
def test_the_predecessors_tags_come_back_as_a_set(before: str, tags: str) -> None:
    kept = tags_before(before, tags)
    assert set(split_tags(predecessor_tags(tags, kept))) == set(split_tags(before))
    assert (kept == "") == (set(split_tags(before)) == set(split_tags(tags)))
    assert split_tags(NO_TAGS) == ()


@given(entries=st.integers(1, 10**7), wanted=st.integers(1, 5_000), at_most=st.integers(1, 10**5))
def test_a_search_widens_up_to_its_bound_and_little_is_gathered_twice(entries: int, wanted: int, at_most: int) -> None:
    steps = list(widths(entries, wanted, at_most))
    if entries <= at_most:
        assert steps == [None]
    else:
        answer = [step for step in steps if step is not None]
        assert answer[-1] == at_most
        assert sum(answer) < at_most * 7 / 3


def test_an_event_is_wanted_by_its_own_tags_its_predecessors_or_its_entity() -> None:
    events = new_events(["A|1", "A|2", "B|1", "B|2"], ["x"] * 4, [b""] * 4, tags=["t:a/1", "t:b", "", "t:a"])
    events.position = [1, 2, 3, 4]
    events.prev_tags = ["", "t:a", NO_TAGS, "t:a/2"]
    for selection, positions in (
        (EVERYTHING, [1, 2, 3, 4]),
        (Selection(tags=frozenset({"t:a"})), [2, 4]),
        (Selection(tag_prefixes=frozenset({"t:a/"})), [1, 4]),
        (Selection(frozenset({"B"}), tag_prefixes=frozenset({"t:"})), [4]),
        (Selection(frozenset({"B"}), persistence_ids=frozenset({"B|1", "A|1"})), [3]),
        (Selection(tags=frozenset({"t:b"}), persistence_ids=frozenset({"B|1"})), [2, 3]),
    ):
        assert selection.of(events).position == positions
    assert EVERYTHING.of(events) is events
