"""Deleted marks stand where the entity's numbers leave a hole, and the events around them stay as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.batch import EventBatch
from common.core.events.deleted import DELETED_TYPE, deleted_mark, stated_by, with_deleted
from common.core.events.rules import problems
from common.core.events.stated_range import StatedRange, last_of_each
from tests.support.builders import events


def stretch(steps: list[tuple[int, bool]]) -> tuple[EventBatch, list[StatedRange], dict[int, list[int]]]:
    """Events and ranges of three entities, whose numbers are without holes, in a random order; and the numbers."""
    batch, ranges, numbers = EventBatch(), [], dict[int, list[int]]()
    for entity, is_range in steps:
        name, last = f"Order|{entity}", len(numbers.setdefault(entity, []))
        if is_range:
            ranges.append(StatedRange(name, last + 1, last + 2, "trimmed"))
            numbers[entity] += [-1, last + 2]
        else:
            one = events(name)
            one.seq_nr, one.prev_seq_nr, one.prev_tags = [last + 1], [last], [""]
            batch.extend(one)
            numbers[entity].append(last + 1)
    return batch, ranges, numbers


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_each_entity_is_told_in_the_order_of_its_numbers(steps: list[tuple[int, bool]]) -> None:
    batch, ranges, numbers = stretch(steps)
    found, moved = with_deleted(batch, ranges)
    assert len(found) == len(batch) + len(ranges)
    assert [(found.persistence_id[at], found.seq_nr[at]) for at in moved] == list(
        zip(batch.persistence_id, batch.seq_nr, strict=True)
    )
    for entity, expected in numbers.items():
        of_entity = [at for at in range(len(found)) if found.persistence_id[at] == f"Order|{entity}"]
        assert [found.seq_nr[at] for at in of_entity] == [number for number in expected if number > 0]
    marks = [envelope for envelope in found.envelopes() if envelope.event_type == DELETED_TYPE]
    assert sorted(map(stated_by, marks), key=repr) == sorted(ranges, key=repr)


def test_nobody_stores_an_event_of_the_type_of_a_mark() -> None:
    mark = deleted_mark(StatedRange("Order|a", 1, 3, "trimmed"))
    assert problems(mark, 1_000, may_leave=True) == {0: ("events.invalid", "event_type 'backhaul.deleted' is reserved")}


def test_of_an_entity_the_last_stretch_is_kept_with_those_it_goes_on_from() -> None:
    ranges = [("a", 1, 3), ("b", 1, 1), ("a", 4, 6), ("b", 5, 6), ("a", 6, 8)]
    kept = last_of_each(StatedRange(name, first, last, "trimmed") for name, first, last in ranges)
    assert [(one.persistence_id, one.from_seq_nr, one.to_seq_nr) for one in kept] == [("a", 1, 8), ("b", 5, 6)]
