"""Events in columns: the one unit that moves through Backhaul.

An ``EventBatch`` is a struct of arrays. SQLite rows become columns, columns become protobuf, protobuf becomes columns,
columns become database arrays, and no object per event is made on the way. ``Envelope`` is the row a user sees.

Every column has one entry an event. Tags and metadata hold one string an event, their parts joined by U+001F, which
no tag, key or value may contain: so they are plain columns too, and an event without them costs one empty string.
``prev_tags`` alone is no part of the event: a journal stores it beside, for those who select entities by their tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from common.core.errors import BackhaulError

UNIT_SEPARATOR = "\x1f"
# In ``prev_tags``: the predecessor had none, and this event has some.
NO_TAGS = UNIT_SEPARATOR
# In ``tags``: this is a leaving mark (``core.events.leaving``). No event has it: a tag is never empty.
LEFT_TAGS = UNIT_SEPARATOR * 2
# A tag of a snapshot that stands in a log like an event and folds events of other tags: no wall by tags lets it through.
FOLDS_TAG = "backhaul.folds"
_WITHOUT_TAGS = frozenset({NO_TAGS, LEFT_TAGS})
# What an event weighs beside its payload, for bounds in bytes: ids, numbers and framing, roughly.
EVENT_OVERHEAD_BYTES = 120


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event as user code sees it. Times are UTC microseconds; ``event_time_us`` is 0 when the source gave none."""

    position: int
    timestamp_us: int
    stored_us: int
    event_time_us: int
    persistence_id: str
    seq_nr: int
    prev_seq_nr: int
    origin_seq_nr: int
    event_type: str
    codec: str
    payload: bytes
    tags: tuple[str, ...]
    metadata: Mapping[str, str]


@dataclass(slots=True)
class EventBatch:
    """n events in log order; each column is a list of length n. Mutable while it is built, shared read-only after."""

    position: list[int] = field(default_factory=list)
    timestamp_us: list[int] = field(default_factory=list)
    stored_us: list[int] = field(default_factory=list)
    event_time_us: list[int] = field(default_factory=list)
    persistence_id: list[str] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    prev_seq_nr: list[int] = field(default_factory=list)
    origin_seq_nr: list[int] = field(default_factory=list)
    event_type: list[str] = field(default_factory=list)
    codec: list[str] = field(default_factory=list)
    payload: list[bytes] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    prev_tags: list[str] = field(default_factory=list)
    """Tags of the entity's previous event in this journal where they differ as a set, else ''. Never sent."""

    def __len__(self) -> int:
        return len(self.persistence_id)

    def check(self) -> None:
        """Refuse a batch whose columns differ in length.

        Raises:
            BackhaulError: ``events.ragged`` naming the first column that is off.
        """
        n = len(self)
        if set(map(len, self.columns())) == {n}:
            return
        for name in COLUMNS:
            length = len(getattr(self, name))
            if length != n:
                raise BackhaulError(
                    "events.ragged",
                    f"column {name} has {length} entries for {n} events",
                    hint="give every column exactly one entry an event",
                )

    def columns(self) -> tuple[list[Any], ...]:
        """All columns in the order of ``COLUMNS``."""
        columns: tuple[list[Any], ...] = _columns_of(self)
        return columns

    def slice(self, start: int, stop: int) -> EventBatch:
        """Events ``start`` to ``stop - 1`` as a batch of their own."""
        return EventBatch(*(column[start:stop] for column in self.columns()))

    def select(self, indexes: Sequence[int]) -> EventBatch:
        """The events at ``indexes``, in that order."""
        return EventBatch(*([column[i] for i in indexes] for column in self.columns()))

    def extend(self, other: EventBatch) -> None:
        """Append the events of ``other``."""
        for mine, theirs in zip(self.columns(), other.columns(), strict=True):
            mine.extend(theirs)

    def weights(self) -> list[int]:
        """Bytes each event counts for in bounds: its payload and a flat share for what goes with it."""
        return [len(payload) + EVENT_OVERHEAD_BYTES for payload in self.payload]

    def byte_size(self) -> int:
        """Bytes the batch counts for in bounds."""
        return sum(map(len, self.payload)) + EVENT_OVERHEAD_BYTES * len(self)

    def envelope(self, index: int) -> Envelope:
        """Event ``index`` as a row."""
        row: dict[str, Any] = {name: getattr(self, name)[index] for name in EVENT_COLUMNS}
        row["tags"] = split_tags(row["tags"])
        row["metadata"] = split_metadata(row["metadata"])
        return Envelope(**row)

    def envelopes(self) -> Iterator[Envelope]:
        """All events as rows, for user code."""
        return map(self.envelope, range(len(self)))


COLUMNS = tuple(column.name for column in fields(EventBatch))
_columns_of = attrgetter(*COLUMNS)
# What an event is, wherever it is kept or sent; the rest is about its neighbours in one journal.
EVENT_COLUMNS = COLUMNS[:-1]


def batch_of_row(values: Sequence[Any]) -> EventBatch:
    """A batch of one event, its values in the order of ``EVENT_COLUMNS``."""
    return EventBatch(*([value] for value in (*values, "")))


def new_events(
    persistence_id: list[str],
    event_type: list[str],
    payload: list[bytes],
    *,
    codec: list[str] | None = None,
    event_time_us: list[int] | None = None,
    tags: list[str] | None = None,
    metadata: list[str] | None = None,
) -> EventBatch:
    """Events that are in no journal yet: what an appender supplies; the journal gives numbers, order and times."""
    n = len(persistence_id)
    return EventBatch(
        position=[0] * n,
        timestamp_us=[0] * n,
        stored_us=[0] * n,
        event_time_us=event_time_us or [0] * n,
        persistence_id=persistence_id,
        seq_nr=[0] * n,
        prev_seq_nr=[0] * n,
        origin_seq_nr=[0] * n,
        event_type=event_type,
        codec=codec or ["json"] * n,
        payload=payload,
        tags=tags or [""] * n,
        metadata=metadata or [""] * n,
        prev_tags=[""] * n,
    )


def concat(batches: Iterable[EventBatch]) -> EventBatch:
    """One batch of all events of ``batches``, in order."""
    whole = EventBatch()
    for batch in batches:
        whole.extend(batch)
    return whole


def join_tags(tags: Iterable[str]) -> str:
    """Tags as one column entry."""
    return UNIT_SEPARATOR.join(tags)


def split_tags(joined: str) -> tuple[str, ...]:
    """The tags of one column entry."""
    return tuple(joined.split(UNIT_SEPARATOR)) if joined and joined not in _WITHOUT_TAGS else ()


def folding(tags: str) -> str:
    """The tags of a snapshot that stands in a log like an event, and says something of events of other tags, or may do so."""
    own = split_tags(tags)
    return tags if FOLDS_TAG in own else join_tags((*own, FOLDS_TAG))


def tags_before(before: str, tags: str) -> str:
    """The entry in ``prev_tags`` of an event with ``tags`` whose predecessor had the tags ``before``."""
    if before == tags or (LEFT_TAGS not in (before, tags) and set(split_tags(before)) == set(split_tags(tags))):
        return ""
    return before or NO_TAGS


def predecessor_tags(tags: str, prev_tags: str) -> str:
    """The tags that the entity's previous event had, from both entries of an event; one without predecessor: its own."""
    if not prev_tags:
        return tags
    return "" if prev_tags == NO_TAGS else prev_tags


def tags_to_find_by(tags: str, prev_tags: str) -> set[str]:
    """The tags under which an index must find an event: its own and its predecessor's."""
    return set(split_tags(tags)).union(split_tags(prev_tags))


def join_metadata(metadata: Mapping[str, str]) -> str:
    """Metadata as one column entry: key, value, key, value …"""
    return UNIT_SEPARATOR.join(part for item in metadata.items() for part in item)


def split_metadata(joined: str) -> dict[str, str]:
    """The metadata of one column entry."""
    if not joined:
        return {}
    parts = joined.split(UNIT_SEPARATOR)
    return dict(zip(parts[::2], parts[1::2], strict=True))
