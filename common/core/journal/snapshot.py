"""An entity's latest snapshot: an event that stands in the place of all its events up to a number.

Who starts late, or comes back after the log was trimmed, takes the snapshots first and then the log: a snapshot is an
event of its entity that replaces 1 … ``seq_nr``. A journal keeps the latest one an entity, beside the log, so it outlives
the events it replaces, and what it replaces may be deleted (``retention``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import SEPARATOR, entity_type_of
from common.core.events.leaving import is_mark


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """What an application or a rule gives: the state of an entity after its event ``seq_nr``, as an event.

    Tags are those of that event; ``tags`` is used only when the event is no longer there. ``tags`` and ``metadata`` are
    joined as in a batch's columns. ``says_last_event``: it says no more than that event; it counts
    only while the event is there when the snapshot is stored.
    """

    persistence_id: str
    seq_nr: int
    event_type: str
    codec: str
    payload: bytes
    tags: str = ""
    metadata: str = ""
    says_last_event: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored snapshot. Position and times are those of the event with its number, 0 when that was deleted before."""

    persistence_id: str
    seq_nr: int
    position: int
    timestamp_us: int
    stored_us: int
    event_time_us: int
    event_type: str
    codec: str
    payload: bytes
    tags: str
    metadata: str
    taken_position: int
    """Head of the log when it was stored."""
    says_last_event: bool = False
    """It says no more than the event with its number, whose tags it has."""


@dataclass(slots=True)
class SnapshotsBeside:
    """Latest snapshots beside a stretch of the log, in columns that have an entry an entity, in the order of ``at``.

    They are of entities that have events there at or below their snapshot, or whose last deleted event stood there. ``seq_nr``,
    ``position`` and ``size`` (bytes of its payload) are the snapshot's, ``deleted_to`` and ``deleted_position`` the
    entity's; ``at`` is the first of those positions. ``events`` counts what the stretch has; at ``kept_at`` is the first
    of it that is not at or below one of these snapshots (0 = all are).
    """

    persistence_id: list[str] = field(default_factory=list)
    seq_nr: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    deleted_to: list[int] = field(default_factory=list)
    deleted_position: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    events: int = 0
    kept_at: int = 0


def admit_snapshot(new: NewSnapshot, *, reached: int, deleted_to: int, stored: int, replaces: bool = False) -> bool:
    """Whether it becomes its entity's latest. ``reached`` is the entity's last number (0 = there is no such entity).

    With ``replaces`` one of the stored number is news, too.

    One below what is deleted is no news: the numbers between would be missing for a consumer that begins with it.

    Raises:
        BackhaulError: ``snapshot.no_entity``, ``snapshot.ahead``.
    """
    if not reached:
        raise BackhaulError(
            "snapshot.no_entity",
            f"there is no entity {new.persistence_id}",
            hint="take snapshots of entities that this journal has events of",
            kind=ErrorKind.NOT_FOUND,
        )
    if not 1 <= new.seq_nr <= reached:
        raise BackhaulError(
            "snapshot.ahead",
            f"{new.persistence_id} is at {reached}: a snapshot of {new.seq_nr} says more than its events do",
            hint="give the number of the last event that the snapshot includes, between 1 and the entity's last",
            kind=ErrorKind.CONFLICT,
            details={"persistence_id": new.persistence_id, "seq_nr": new.seq_nr, "reached": reached},
        )
    if replaces and new.seq_nr == stored:
        return True
    return new.seq_nr > stored and new.seq_nr >= deleted_to


def check_deletable(persistence_id: str, seq_nr: int, *, before: int, deleted_to: int) -> None:
    """Refuse to delete an entity's latest snapshot that stands for deleted events; ``before`` is the number of the next older.

    Raises:
        BackhaulError: ``snapshot.needed``.
    """
    if before < deleted_to:
        raise BackhaulError(
            "snapshot.needed",
            f"the snapshot {seq_nr} of {persistence_id} stands for its events up to {deleted_to}, which are deleted",
            hint="store another one in its place: the same number, or a later one",
            kind=ErrorKind.CONFLICT,
            details={"persistence_id": persistence_id, "seq_nr": seq_nr, "deleted_to": deleted_to},
        )


def no_snapshot(persistence_id: str, seq_nr: int | None = None) -> BackhaulError:
    """There is none of the entity, or none of this number."""
    return BackhaulError(
        "snapshot.none",
        f"there is no snapshot of {persistence_id}" + (f" at {seq_nr}" if seq_nr is not None else ""),
        "take one, or name the type in snapshot_every" if seq_nr is None else "list its snapshots",
        kind=ErrorKind.NOT_FOUND,
    )


def folded_by(snapshot: Snapshot, tag_sets: frozenset[str] | None) -> frozenset[str] | None:
    """The tags of the events that a snapshot says something of, where its entity's had ``tag_sets`` (None = unknown)."""
    return frozenset({snapshot.tags}) if snapshot.says_last_event else tag_sets


class LeadOver(StrEnum):
    """How a reader of the log is led over numbers of an entity that are deleted before it has seen them."""

    SNAPSHOT = "snapshot"
    """The entity's latest snapshot stands for them."""
    MARK = "mark"
    """The reader is told which they are."""
    PASSED = "passed"
    """They mean nothing to it: its last event of an entity is all that it keeps."""
    REFUSED = "refused"
    """It would make something wrong of what is left."""


def lead_over(
    deleted_to: int, snapshot_seq_nr: int, *, takes_snapshots: bool, takes_marks: bool, keeps_last: bool
) -> LeadOver:
    """How to lead a reader over 1 … ``deleted_to``; ``snapshot_seq_nr`` is 0 where there is no snapshot."""
    if takes_snapshots and snapshot_seq_nr >= deleted_to:
        return LeadOver.SNAPSHOT
    if takes_marks:
        return LeadOver.MARK
    return LeadOver.PASSED if takes_snapshots and keeps_last else LeadOver.REFUSED


def id_ranges(after: str, entity_types: frozenset[str]) -> list[tuple[str, str | None]]:
    """Stretches of persistence ids in byte order, each (after, before): all ids above ``after``, or those of the types."""
    if not entity_types:
        return [(after, None)]
    past = chr(ord(SEPARATOR) + 1)
    stretches = [(f"{name}{SEPARATOR}", f"{name}{past}") for name in entity_types]
    return sorted((max(after, first), end) for first, end in stretches if after < end)


def snapshot_batch(snapshots: Sequence[Snapshot]) -> EventBatch:
    """Snapshots as events in columns, in their order. ``prev_seq_nr`` is one less: what each replaces is stated separately."""
    return EventBatch(
        position=[snapshot.position for snapshot in snapshots],
        timestamp_us=[snapshot.timestamp_us for snapshot in snapshots],
        stored_us=[snapshot.stored_us for snapshot in snapshots],
        event_time_us=[snapshot.event_time_us for snapshot in snapshots],
        persistence_id=[snapshot.persistence_id for snapshot in snapshots],
        seq_nr=[snapshot.seq_nr for snapshot in snapshots],
        prev_seq_nr=[snapshot.seq_nr - 1 for snapshot in snapshots],
        origin_seq_nr=[0] * len(snapshots),
        event_type=[snapshot.event_type for snapshot in snapshots],
        codec=[snapshot.codec for snapshot in snapshots],
        payload=[snapshot.payload for snapshot in snapshots],
        tags=[snapshot.tags for snapshot in snapshots],
        metadata=[snapshot.metadata for snapshot in snapshots],
        prev_tags=[""] * len(snapshots),
    )


def reached_by_snapshots(snapshots: Sequence[Snapshot]) -> int:
    """The highest position of an event that one of them stands for, or one that is not below it."""
    return max((snapshot.position or snapshot.taken_position for snapshot in snapshots), default=0)


def due_snapshots(events: EventBatch, every: Mapping[str, int]) -> list[int]:
    """Indexes of the events that become their entity's snapshot by the rule "every N events the last one is".

    ``every`` maps an entity type to its N. Of one entity only the last is named: it replaces the others.
    """
    due: dict[str, int] = {}
    for index, (persistence_id, seq_nr) in enumerate(zip(events.persistence_id, events.seq_nr, strict=True)):
        n = every.get(entity_type_of(persistence_id))
        if n and seq_nr % n == 0 and not is_mark(events, index):
            due[persistence_id] = index
    return sorted(due.values())
