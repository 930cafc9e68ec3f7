"""A log that a test writes as it goes, and what a consumer of it makes of stretches: both as simple as can be."""

from __future__ import annotations

from common.core.events.batch import NO_TAGS, EventBatch, new_events, predecessor_tags
from common.core.events.ids import entity_type_of
from common.core.filters.predicates import EntityPredicate
from common.core.firehose.fetch_result import FetchResult
from tests.support.builders import START_US


class GrowingLog:
    """Positions 1, 2, 3 …, numbers per entity, and the tags of predecessors."""

    def __init__(self) -> None:
        self.events = EventBatch()
        self._last: dict[str, tuple[int, str]] = {}

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.events)

    def append(self, *rows: tuple[str, str], payload_bytes: int = 20) -> EventBatch:
        """Events of (persistence id, joined tags)."""
        batch = EventBatch()
        for entity, tags in rows:
            position = self.head + len(batch) + 1
            seq_nr, before = self._last.get(entity, (0, tags))
            self._last[entity] = (seq_nr + 1, tags)
            payload = (b"%d " % position).ljust(payload_bytes, b".")
            event = new_events([entity], ["happened"], [payload], tags=[tags])
            event.position, event.timestamp_us, event.stored_us = [position], [START_US + position], [START_US]
            event.seq_nr, event.prev_seq_nr = [seq_nr + 1], [seq_nr]
            if set(before.split("\x1f")) != set(tags.split("\x1f")):
                event.prev_tags = [before or NO_TAGS]
            batch.extend(event)
        self.events.extend(batch)
        return batch

    def between(self, after: int, through: int) -> EventBatch:
        """Events at ``after`` < position <= ``through``."""
        return self.events.slice(after, through)

    def selected(self, predicate: EntityPredicate, entity_types: frozenset[str], after: int, through: int) -> list[int]:
        """Positions of what a cursor must be given: by an event's own tags or by its predecessor's."""
        return selected_positions(self.between(after, through), predicate, entity_types)


def selected_positions(events: EventBatch, predicate: EntityPredicate, entity_types: frozenset[str]) -> list[int]:
    """Positions of the events a cursor must be given, judged one by one."""
    rows = zip(events.position, events.persistence_id, events.tags, events.prev_tags, strict=True)
    return [
        position
        for position, entity, tags, before in rows
        if (not entity_types or entity_type_of(entity) in entity_types)
        and (predicate.matches(entity, tags) or predicate.matches(entity, predecessor_tags(tags, before)))
    ]


class Consumer:
    """Takes stretches as a receiver does, and fails at the first loss, repeat or disorder.

    It must have begun at the start of the log with one predicate: then every number is explained.
    """

    def __init__(self, *, checks_numbers: bool = True) -> None:
        self.positions: list[int] = []
        self.position = 0
        self.known: dict[str, int] = {}
        self._checks_numbers = checks_numbers

    def take(self, stretch: FetchResult) -> None:
        """Another stretch has come."""
        assert stretch.after == self.position, (stretch, self.position)
        assert stretch.after < stretch.through <= stretch.head or not stretch.is_empty, stretch
        events = stretch.events
        assert len(events) == stretch.n
        assert set(stretch.leaving) <= set(events.position)
        for stated in stretch.ranges:
            if stated.from_seq_nr <= self.known.get(stated.persistence_id, 0) + 1:
                self.known[stated.persistence_id] = max(self.known.get(stated.persistence_id, 0), stated.to_seq_nr)
        for index in range(stretch.n):
            self._take_event(stretch, events, index)
        self.position = stretch.through

    def _take_event(self, stretch: FetchResult, events: EventBatch, index: int) -> None:
        entity, seq_nr, position = events.persistence_id[index], events.seq_nr[index], events.position[index]
        if index < stretch.snapshots:
            self.known[entity] = max(self.known.get(entity, 0), seq_nr)
            return
        assert stretch.after < position <= stretch.through, (position, stretch)
        assert position > (self.positions[-1] if self.positions else 0), (position, self.positions)
        known = self.known.get(entity, 0)
        if self._checks_numbers:
            assert seq_nr <= known or events.prev_seq_nr[index] == known, f"{entity}: {seq_nr} after {known}"
        self.known[entity] = max(known, seq_nr)
        self.positions.append(position)


def plain_encoding(events: EventBatch) -> bytes:
    """An encoding that may be concatenated and read by eye: position, number and payload of each event."""
    rows = zip(events.position, events.persistence_id, events.seq_nr, events.payload, strict=True)
    return b"".join(b"<%d %s %d %s>" % (p, entity.encode(), n, payload) for p, entity, n, payload in rows)
