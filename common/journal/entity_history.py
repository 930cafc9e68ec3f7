"""What a journal has of one entity from a number on, read at one time: events, and what stands for those that are gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
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
    name = asked.persistence_id
    events = await journal.log.read_entity(name, asked.from_seq_nr, asked.to_seq_nr, max_events=asked.max_events)
    history = EntityHistory(events)
    if _begins_behind(asked, history):
        history.head = await journal.log.entity_head(name)
    if not _wants_snapshot(asked, history):
        return history
    snapshot = await journal.snapshots.get(name)
    if snapshot is not None and snapshot.seq_nr > asked.snapshots_to:
        older = (one for one in await journal.snapshots.kept(name) if one.seq_nr <= asked.snapshots_to)
        snapshot = next(older, None)
    history.snapshot = snapshot
    if snapshot is not None and asked.wants_tag_sets:
        history.tag_sets = folded_by(snapshot, (await journal.log.tag_sets([name])).get(name))
    return history


async def read_histories(
    journal: Journal, asked: Sequence[HistoryRequest], *, each_max: int, max_bytes: int
) -> dict[HistoryRequest, EntityHistory]:
    """Read those of ``asked`` that are short, in a few statements for all, each in the order of ``read_history``.

    At most one of an entity. One with more than ``each_max`` events is left out, and so is what does not fit in ``max_bytes``
    with those before it, or is not asked for to the last number and with the latest snapshot: that is for ``read_history``.
    """
    by_name = {one.persistence_id: one for one in asked}
    most = min([each_max, *(one.max_events - 1 for one in asked)])
    first = {name: one.from_seq_nr for name, one in by_name.items() if one.to_seq_nr == one.snapshots_to == TO_THE_LAST}
    events = await journal.log.read_histories(first, each_max=most, max_bytes=max_bytes)
    found = {name: EntityHistory(batch) for name, batch in events.items()}
    behind = [name for name, history in found.items() if _begins_behind(by_name[name], history)]
    heads = await journal.log.entity_heads(behind) if behind else {}
    for name in behind:
        found[name].head = heads.get(name)
    left_bytes = max_bytes - sum(history.events.byte_size() for history in found.values())
    await _add_snapshots(journal, by_name, found, left_bytes)
    return {by_name[name]: history for name, history in found.items()}


async def _add_snapshots(
    journal: Journal, asked: Mapping[str, HistoryRequest], found: dict[str, EntityHistory], max_bytes: int
) -> None:
    """Where one is of use; a history whose snapshot does not fit is left out."""
    wanting = [name for name, history in found.items() if _wants_snapshot(asked[name], history)]
    fitting = []
    for latest, size in await journal.snapshots.sized(wanting) if wanting else []:
        name = latest.persistence_id
        max_bytes -= size + EVENT_OVERHEAD_BYTES
        if max_bytes < 0:
            del found[name]
        else:
            fitting.append(name)
    snapshots = await journal.snapshots.of(fitting) if fitting else []
    tagged = [one.persistence_id for one in snapshots if asked[one.persistence_id].wants_tag_sets]
    tag_sets = await journal.log.tag_sets(tagged) if tagged else {}
    for snapshot in snapshots:
        history = found[snapshot.persistence_id]
        history.snapshot = snapshot
        if asked[snapshot.persistence_id].wants_tag_sets:
            history.tag_sets = folded_by(snapshot, tag_sets.get(snapshot.persistence_id))


def _begins_behind(asked: HistoryRequest, history: EntityHistory) -> bool:
    return not history.events or history.events.seq_nr[0] > asked.from_seq_nr


def _wants_snapshot(asked: HistoryRequest, history: EntityHistory) -> bool:
    """Whether its entity's snapshot may be of use."""
    deleted_to = history.head.deleted_to if history.head is not None else 0
    first_stored = history.events.seq_nr[0] if history.events else min(asked.to_seq_nr, deleted_to) + 1
    return asked.wants_snapshot or asked.from_seq_nr < first_stored
