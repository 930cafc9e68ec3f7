"""Events changed and withheld by a function: columns in, columns and stated ranges out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import Envelope, EventBatch, new_events
from common.core.events.stated_range import StatedRange
from common.core.events.transformations import transform


def log(*names: str) -> EventBatch:
    """Events of these entities, numbered as a journal does."""
    events = new_events(list(names), ["Measured"] * len(names), [b"%d" % at for at in range(len(names))])
    events.position = list(range(1, len(names) + 1))
    events.seq_nr = [names[: at + 1].count(name) for at, name in enumerate(names)]
    events.prev_seq_nr = [number - 1 for number in events.seq_nr]
    return events


def test_what_is_not_touched_is_the_same_batch() -> None:
    events = log("A|1", "A|2")
    assert transform(lambda event: event, events).events is events


def test_an_event_becomes_another_one_and_keeps_its_numbers() -> None:
    events = log("A|1", "A|2", "A|1")

    def tagged(event: Envelope) -> Envelope:
        return replace(event, tags=(*event.tags, "t:new"), payload=b"!") if event.position == 2 else event

    found = transform(tagged, events)
    assert (found.events.tags, found.events.payload) == (["", "t:new", ""], [b"0", b"!", b"2"])
    assert (found.events.position, found.events.seq_nr) == (events.position, events.seq_nr)
    assert events.tags == ["", "", ""]
    assert (found.ranges, found.faults) == ((), {})


def test_what_is_withheld_is_stated() -> None:
    found = transform(
        lambda event: None if event.position in {2, 3, 5} else event, log("A|1", "A|1", "A|1", "A|2", "A|2", "A|1")
    )
    assert found.events.position == [1, 4, 6]
    assert found.ranges == (StatedRange("A|1", 2, 3, "withheld"), StatedRange("A|2", 2, 2, "withheld"))


def test_mapped_entities_may_go_on_anywhere() -> None:
    events = log("A|1", "A|1", "A|1")
    found = transform(
        lambda event: replace(event, persistence_id="B|1") if event.position > 1 else event, events, maps_ids=True
    )
    assert found.events.persistence_id == ["A|1", "B|1", "B|1"]
    assert found.ranges == (StatedRange("B|1", 1, 1, "mapped"),)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _event: 7,
        lambda event: 1 // 0 if event else event,
        lambda event: replace(event, seq_nr=99),
        lambda event: replace(event, persistence_id="B|1"),
    ],
)
def test_a_fault_is_told_with_its_event_and_place(wrong: object) -> None:
    found = transform(lambda event: wrong(event) if event.position == 2 else event, log("A|1", "A|2"))  # type: ignore[operator]
    assert found.events.position == [1, 2]
    [(index, fault)] = found.faults.items()
    assert (index, fault.code, fault.details["position"]) == (1, "transformation.failed", 2)
    assert "test_transformations.py:" in fault.message
    with pytest.raises(BackhaulError):
        found.checked()
