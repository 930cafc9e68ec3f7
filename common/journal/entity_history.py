"""What a journal has of one entity from a number on, read at one time: events, and what stands for those that are gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from common.core.events.batch import EventBatch
from common.core.journal.admission import EntityHead
from common.core.journal.snapshot import Snapshot, folded_by
from common.journal.stores.journal import Journal

TO_THE_LAST = 2**62


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """Numbers ``from_seq_nr`` to ``to_seq_nr`` of an entity, as many as ``max_events``.

    ``wants_snapshot``: the snapshot also where nothing is deleted. ``wants_tag_sets``: the tags of the events that it folds.
    Of its snapshots only those up to ``snapshots_to`` are of use.
    """

    persistence_id: str
    from_seq_nr: int
    to_seq_nr: int
    max_events: int
    wants_snapshot: bool
    wants_tag_sets: bool
    snapshots_to: int = TO_THE_LAST


@dataclass(slots=True)
class EntityHistory:
    """The answer. ``events`` are consecutive; ``head`` is there where the first of them is not the one asked for.

    ``snapshot`` is the latest that is of use; ``tag_sets`` are the tags of the events that it folds, None where not known.
    """

    events: EventBatch
    head: EntityHead | None = None
    snapshot: Snapshot | None = None
    tag_sets: frozenset[str] | None = None
    _encoded: bytes = field(default=b"", repr=False)

    def encoded(self, events: EventBatch, encode: Callable[[EventBatch], bytes]) -> bytes:
        """``events`` as bytes; made once where they are all of this history, unchanged."""
        if events is not self.events:
            return encode(events)
        self._encoded = self._encoded or encode(events)
        return self._encoded


ReadHistory = Callable[[HistoryRequest], Awaitable[EntityHistory]]


def history_reader(journal: Journal) -> ReadHistory:
    """Reads histories in ``journal``."""
    return partial(read_history, journal)


async def read_history(journal: Journal, asked: HistoryRequest) -> EntityHistory:
    """Read it in ``journal``: the events first, so that none is in neither the events nor what is gone."""
    name, first = asked.persistence_id, asked.from_seq_nr
    history = EntityHistory(await journal.log.read_entity(name, first, asked.to_seq_nr, max_events=asked.max_events))
    found = history.events
    if not found or found.seq_nr[0] > first:
        history.head = await journal.log.entity_head(name)
    deleted_to = history.head.deleted_to if history.head is not None else 0
    first_stored = found.seq_nr[0] if found else min(asked.to_seq_nr, deleted_to) + 1
    if first >= first_stored and not asked.wants_snapshot:
        return history
    snapshot = await journal.snapshots.get(name)
    if snapshot is not None and snapshot.seq_nr > asked.snapshots_to:
        older = (one for one in await journal.snapshots.kept(name) if one.seq_nr <= asked.snapshots_to)
        snapshot = next(older, None)
    history.snapshot = snapshot
    if snapshot is not None and asked.wants_tag_sets:
        history.tag_sets = folded_by(snapshot, (await journal.log.tag_sets([name])).get(name))
    return history
