"""Snapshots as events, and the rule that takes every N-th event as one."""

from __future__ import annotations

from dataclasses import replace

from common.core.events.batch import new_events
from common.core.journal.snapshot import Snapshot, due_snapshots, snapshot_batch


def test_a_snapshot_becomes_an_event_in_place_of_those_before_it() -> None:
    taken = Snapshot("Sensor|a", 5, 17, 1_000, 900, 800, "Reading", "json", b"{}", "x", "", 20)
    batch = snapshot_batch([taken])
    batch.check()
    event = batch.envelope(0)
    assert (event.persistence_id, event.seq_nr, event.prev_seq_nr, event.position) == ("Sensor|a", 5, 4, 17)
    assert (event.timestamp_us, event.stored_us, event.event_time_us) == (1_000, 900, 800)
    assert (event.event_type, event.codec, event.payload, event.tags) == ("Reading", "json", b"{}", ("x",))


def test_every_nth_event_is_due_and_only_the_last_of_an_entity() -> None:
    names = ["Sensor|a", "Sensor|a", "Order|a", "Sensor|b", "Sensor|a", "Sensor|a"]
    events = replace(new_events(names, ["E"] * 6, [b""] * 6), seq_nr=[1, 2, 2, 2, 3, 4])
    assert due_snapshots(events, {"Sensor": 2}) == [3, 5]
    assert due_snapshots(events, {"Order": 3}) == []
    assert due_snapshots(events, {}) == []
