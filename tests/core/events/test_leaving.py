"""The leaving mark says which entity and number, and nothing else; only peers may send one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.events.batch import LEFT_TAGS, NO_TAGS, EventBatch, new_events, predecessor_tags, tags_before
from common.core.events.leaving import LEAVING_TYPE, has_marks, is_mark, mark_problem, marked
from common.core.events.rules import problems
from common.core.events.transformations import transform
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.snapshot import due_snapshots
from common.transport.codec.events import decode_batch, encode_batch

SECRET = "t:patient/7"


def story() -> EventBatch:
    events = new_events(
        ["Order|1"] * 3,
        ["Placed", "Moved", "Closed"],
        [b"1", b"where to", b"3"],
        event_time_us=[1, 2, 3],
        tags=["t:here", SECRET, "t:here"],
        metadata=["by\x1fanne"] * 3,
    )
    events.position, events.seq_nr, events.prev_seq_nr = [11, 12, 13], [1, 2, 3], [0, 1, 2]
    return events


def test_a_mark_keeps_the_entity_its_number_and_its_place() -> None:
    events = story()
    found = marked(events, [1])
    assert [is_mark(found, index) for index in range(3)] == [False, True, False]
    assert (found.seq_nr, found.prev_seq_nr, found.position) == (events.seq_nr, events.prev_seq_nr, events.position)
    assert found.slice(0, 1) == events.slice(0, 1)
    assert all(word not in encode_batch(found) for word in (b"Moved", b"where to", SECRET.encode()))
    assert found.envelope(1).tags == ()
    assert mark_problem(found, 1) == ""
    assert events == story(), "what others share stays as it is"
    assert marked(events, []) is events


def test_a_mark_comes_off_the_wire_as_it_went() -> None:
    found = marked(story(), [1])
    assert decode_batch(encode_batch(found)) == found


def test_a_mark_matches_no_filter_and_what_follows_it_enters() -> None:
    for criteria in ("[]", '[{"exclude_tags":["red"]}]', '[{"exclude_all":true},{"include_ids":["1"]}]'):
        assert not parse_filter(criteria).matches("Order|1", LEFT_TAGS)
    assert not EVERY_ENTITY.matches("Order|1", LEFT_TAGS)
    for before, tags, entry in [
        ("", LEFT_TAGS, NO_TAGS),
        (LEFT_TAGS, "", LEFT_TAGS),
        ("t:a", LEFT_TAGS, "t:a"),
        (LEFT_TAGS, "t:a", LEFT_TAGS),
        (LEFT_TAGS, LEFT_TAGS, ""),
    ]:
        assert tags_before(before, tags) == entry
        assert predecessor_tags(tags, entry) == before


@pytest.mark.parametrize(
    "columns",
    [
        {"payload": [b"x"]},
        {"metadata": ["a\x1fb"]},
        {"event_time_us": [5]},
        {"tags": [""]},
        {"tags": ["t:a"]},
        {"event_type": ["Placed"]},
    ],
)
def test_only_a_bare_mark_is_taken_and_only_from_peers(columns: dict[str, list[object]]) -> None:
    mark = marked(story(), [1]).slice(1, 2)
    assert problems(mark, 100, may_leave=True) == {}
    assert problems(mark, 100)[0][0] == "events.invalid"
    false = replace(mark, **columns)  # type: ignore[arg-type]
    assert problems(false, 100, may_leave=True)[0][0] == "events.invalid"


def test_a_program_cannot_make_one() -> None:
    forged = new_events(["Order|1"], [LEAVING_TYPE], [b""])
    assert "reserved" in problems(forged, 100)[0][1]


def test_no_function_of_an_application_sees_a_mark_and_it_is_nobodys_snapshot() -> None:
    events = marked(story(), [1])
    seen: list[str] = []
    found = transform(lambda event: seen.append(event.event_type), events)
    assert seen == ["Placed", "Closed"]
    assert has_marks(found.events)
    assert [(one.from_seq_nr, one.to_seq_nr) for one in found.ranges] == [(1, 1), (3, 3)]
    assert len(transform(lambda event: event, events, maps_ids=True).events) == 2
    assert due_snapshots(events.slice(0, 2), {"Order": 2}) == []
