"""What every door refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.core.events.batch import EventBatch, join_metadata, join_tags, new_events
from common.core.events.ids import new_id_problem
from common.core.events.rules import METADATA_MAX, TAGS_MAX, TIME_MAX_US, problems, storable


def one(**columns: Sequence[object]) -> EventBatch:
    batch = new_events(["Sensor|a"], ["Read"], [b"{}"])
    for name, column in columns.items():
        setattr(batch, name, column)
    return batch


def test_a_good_batch_has_no_problem() -> None:
    tags, metadata = [join_tags(["t:site/1", "é"])], [join_metadata({"trace": "1", "empty": ""})]
    assert problems(one(tags=tags, metadata=metadata, event_time_us=[1]), 10) == {}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"persistence_id": ["Sensor"]}, "entity.invalid_name"),
        ({"persistence_id": ["|a"]}, "entity.invalid_name"),
        ({"persistence_id": ["Sensor|a|b"]}, "entity.invalid_name"),
        ({"persistence_id": ["Sensor|a\x00"]}, "entity.invalid_name"),
        ({"persistence_id": ["Sensor|" + "é" * 129]}, "entity.invalid_name"),
        ({"persistence_id": ["Sensor|\ud800"]}, "entity.invalid_name"),
        ({"persistence_id": ["Sensor|a\u202eb"]}, "entity.invalid_name"),
        ({"persistence_id": ["Sen\u200bsor|a"]}, "entity.invalid_name"),
        ({"payload": [b"x" * 11]}, "events.too_large"),
        ({"event_type": [""]}, "events.invalid"),
        ({"event_type": ["a\nb"]}, "events.invalid"),
        ({"codec": ["x" * 257]}, "events.invalid"),
        ({"tags": ["\x1f".join(["t"] * (TAGS_MAX + 1))]}, "events.invalid"),
        ({"tags": ["a\x1f\x1fb"]}, "events.invalid"),
        ({"tags": ["a\x00"]}, "events.invalid"),
        ({"metadata": ["key"]}, "events.invalid"),
        ({"metadata": [join_metadata({str(n): "" for n in range(METADATA_MAX + 1)})]}, "events.invalid"),
        ({"metadata": [join_metadata({"k": "v" * 257})]}, "events.invalid"),
        ({"event_time_us": [-1]}, "events.invalid"),
        ({"event_time_us": [TIME_MAX_US]}, "events.invalid"),
    ],
)
def test_an_unfit_event_is_named_with_its_code(columns: dict[str, Sequence[object]], code: str) -> None:
    found = problems(one(**columns), 10)
    assert found[0][0] == code
    assert found[0][1]


def test_only_the_bad_ones_of_a_batch_are_named() -> None:
    batch = new_events(["Sensor|a"] * 4, ["Read"] * 4, [b"", b"x" * 11, b"", b"x" * 12])
    assert sorted(problems(batch, 10)) == [1, 3]


def test_what_no_database_takes_is_escaped() -> None:
    assert storable("Sensor|a\x00") == "Sensor|a\\x00"
    assert storable("plain") == "plain"


def test_an_invisible_character_in_a_stored_id_is_no_fault_of_the_source() -> None:
    """A journal may be older than the rule: its consumers go on."""
    name = "Sensor|a\u200db"
    events = new_events([name], ["Read"], [b"1"])
    assert problems(events, 100)[0][0] == "entity.invalid_name"
    assert problems(events, 100, is_stored=True) == {}
    assert new_id_problem("Sensor|münchen") == ""
