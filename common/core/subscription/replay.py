"""What is sent of one entity when a consumer asks for it again, or asks about it once.

The events that a predicate selects, in their order, so that each follows the one before: a jump over withheld numbers is
stated before the event that ends it, and what is deleted is replaced by a snapshot or stated as trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.core.events.batch import EventBatch
from common.core.events.leaving import marked
from common.core.events.stated_range import StatedRange
from common.core.filters.permission import match_batch, may_see_folded
from common.core.filters.predicates import EntityPredicate
from common.core.journal.snapshot import Snapshot, reached_by_snapshots, snapshot_batch

WITHHELD = "withheld"
TRIMMED = "trimmed"


@dataclass(frozen=True, slots=True)
class ReplayPart:
    """One message of a replay: ``ranges`` hold before its first event; the first ``snapshots`` events are snapshots.

    ``reached`` is the highest position of what snapshots and ranges stand for, where that is not an event's of the part.
    """

    events: EventBatch
    ranges: tuple[StatedRange, ...] = ()
    leaving: tuple[int, ...] = ()
    snapshots: int = 0
    reached: int = 0


def beginning(
    persistence_id: str,
    from_seq_nr: int,
    first_stored: int,
    snapshot: Snapshot | None,
    wanted: EntityPredicate,
    deleted_position: int,
    tag_sets: frozenset[str] | None,
) -> ReplayPart | None:
    """What stands for the numbers from ``from_seq_nr`` on that are deleted, the last one at ``deleted_position``.

    ``first_stored`` is the first number that is not; ``tag_sets`` are the tags that the entity's events had, if known.
    """
    if from_seq_nr >= first_stored:
        return None
    if (
        snapshot is not None
        and snapshot.seq_nr >= max(from_seq_nr, first_stored - 1)
        and wanted.matches(persistence_id, snapshot.tags)
        and may_see_folded(wanted, persistence_id, tag_sets)
    ):
        return ReplayPart(snapshot_batch([snapshot]), snapshots=1, reached=reached_by_snapshots([snapshot]))
    trimmed = StatedRange(persistence_id, 1, first_stored - 1, TRIMMED)
    return ReplayPart(EventBatch(), (trimmed,), reached=deleted_position)


def replay_parts(events: EventBatch, wanted: EntityPredicate) -> list[ReplayPart]:
    """Consecutive stored events of one entity as the messages that a consumer of ``wanted`` may be sent."""
    matched = match_batch(wanted, events)
    entering, leaving, marks = set(matched.entering), set(matched.leaving), set(matched.marks)
    runs: list[list[int]] = []
    for index in matched.indexes:
        if not runs or index in entering:
            runs.append([])
        runs[-1].append(index)
    parts = []
    for run in runs:
        first = run[0]
        stated = (
            (StatedRange(events.persistence_id[first], 1, events.seq_nr[first] - 1, WITHHELD),)
            if first in entering and events.seq_nr[first] > 1
            else ()
        )
        gone = tuple(events.position[index] for index in run if index in leaving)
        shown = marked(events.select(run), [at for at, index in enumerate(run) if index in marks])
        parts.append(ReplayPart(shown, stated, gone))
    return parts
