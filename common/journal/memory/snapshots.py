"""Snapshots in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import replace

import trio

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import entity_type_of
from common.core.journal.snapshot import (
    NewSnapshot,
    Snapshot,
    SnapshotsBeside,
    admit_snapshot,
    check_deletable,
    id_ranges,
    no_snapshot,
    snapshot_batch,
)
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.state import MemoryState


class MemorySnapshots:
    """``SnapshotStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def put(self, snapshots: Sequence[NewSnapshot], *, keep: int = 1, replaces: bool = False) -> list[bool]:
        """See ``SnapshotStore.put``."""
        async with self._connections.transaction() as draft:
            before = {new.persistence_id: draft.snapshots.get(new.persistence_id) for new in snapshots}
            answer = [self._put(draft, new, replaces) for new in snapshots]
            for name, old in before.items():
                if old is not None and draft.snapshots[name].seq_nr > old.seq_nr:
                    older = (old, *draft.older_snapshots.get(name, ()))[: keep - 1]
                    draft.older_snapshots[name] = older
            return answer

    def _put(self, draft: MemoryState, new: NewSnapshot, replaces: bool) -> bool:
        head, stored = draft.heads.get(new.persistence_id), draft.snapshots.get(new.persistence_id)
        is_news = admit_snapshot(
            new,
            reached=head.seq_nr if head else 0,
            deleted_to=head.deleted_to if head else 0,
            stored=stored.seq_nr if stored else 0,
            replaces=replaces,
        )
        if is_news:
            made = self._as_stored(draft, new)
            if stored is not None and stored.seq_nr == made.seq_nr and not made.position:
                made = replace(
                    made,
                    position=stored.position,
                    timestamp_us=stored.timestamp_us,
                    stored_us=stored.stored_us,
                    event_time_us=stored.event_time_us,
                    tags=stored.tags,
                )
            draft.snapshots[new.persistence_id] = made
        return is_news

    def _as_stored(self, draft: MemoryState, new: NewSnapshot) -> Snapshot:
        log = draft.log
        rows = zip(log.persistence_id, log.seq_nr, strict=True)
        index = next((i for i, row in enumerate(rows) if row == (new.persistence_id, new.seq_nr)), None)
        gone = (0, 0, self._connections.now_us(), 0, new.tags)
        position, timestamp_us, stored_us, event_time_us, tags = (
            gone
            if index is None
            else (
                log.position[index],
                log.timestamp_us[index],
                log.stored_us[index],
                log.event_time_us[index],
                log.tags[index],
            )
        )
        return Snapshot(
            new.persistence_id,
            new.seq_nr,
            position,
            timestamp_us,
            stored_us,
            event_time_us,
            new.event_type,
            new.codec,
            new.payload,
            tags,
            new.metadata,
            draft.head_position,
            new.says_last_event and index is not None,
        )

    async def get(self, persistence_id: str) -> Snapshot | None:
        """See ``SnapshotStore.snapshot``."""
        await trio.lowlevel.checkpoint()
        return self._connections.database.state.snapshots.get(persistence_id)

    async def of(self, persistence_ids: Collection[str]) -> list[Snapshot]:
        """See ``SnapshotStore.of``."""
        await trio.lowlevel.checkpoint()
        snapshots = self._connections.database.state.snapshots
        return [snapshots[name] for name in sorted(set(persistence_ids)) if name in snapshots]

    async def batch(self, persistence_ids: Sequence[str]) -> tuple[EventBatch, list[bool]]:
        """See ``SnapshotStore.batch``."""
        found = {one.persistence_id: one for one in await self.of(persistence_ids)}
        ordered = [found[name] for name in persistence_ids if name in found]
        return snapshot_batch(ordered), [one.says_last_event for one in ordered]

    async def sized(self, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
        """See ``SnapshotStore.sized``."""
        return [(replace(one, payload=b""), len(one.payload)) for one in await self.of(persistence_ids)]

    async def numbers(self, persistence_ids: Collection[str]) -> tuple[list[str], list[int], list[int]]:
        """See ``SnapshotStore.numbers``."""
        found = await self.of(persistence_ids)
        return [one.persistence_id for one in found], [one.seq_nr for one in found], [one.position for one in found]

    async def beside(self, after: int, through: int, *, lost_after: int | None = None) -> SnapshotsBeside:
        """See ``SnapshotStore.beside``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        log, at = state.log, dict[str, int]()

        def is_asked(name: str) -> bool:
            return lost_after is None or state.heads[name].deleted_position > lost_after

        for name in state.snapshots:
            if after < state.heads[name].deleted_position <= through and is_asked(name):
                at[name] = state.heads[name].deleted_position
        indexes = range(bisect_right(log.position, after), bisect_right(log.position, through))
        found = SnapshotsBeside(events=len(indexes))
        for index in indexes:
            name, position = log.persistence_id[index], log.position[index]
            if is_covered(state, index) and is_asked(name):
                at[name] = min(position, at.get(name, position))
            elif not found.kept_at:
                found.kept_at = position
        for name in sorted(at, key=at.__getitem__):
            one, head = state.snapshots[name], state.heads[name]
            found.persistence_id.append(name)
            found.seq_nr.append(one.seq_nr)
            found.position.append(one.position)
            found.size.append(len(one.payload))
            found.deleted_to.append(head.deleted_to)
            found.deleted_position.append(head.deleted_position)
            found.at.append(at[name])
        return found

    async def kept(self, persistence_id: str) -> list[Snapshot]:
        """See ``SnapshotStore.kept``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        latest = state.snapshots.get(persistence_id)
        return [latest, *state.older_snapshots.get(persistence_id, ())] if latest else []

    async def delete(self, persistence_id: str, seq_nr: int) -> None:
        """See ``SnapshotStore.delete``."""
        async with self._connections.transaction() as draft:
            latest, older = draft.snapshots.get(persistence_id), draft.older_snapshots.get(persistence_id, ())
            if latest is not None and latest.seq_nr == seq_nr:
                deleted_to = draft.heads[persistence_id].deleted_to
                check_deletable(persistence_id, seq_nr, before=older[0].seq_nr if older else 0, deleted_to=deleted_to)
                if older:
                    draft.snapshots[persistence_id] = older[0]
                else:
                    del draft.snapshots[persistence_id]
                draft.older_snapshots[persistence_id] = older[1:]
                return
            left = tuple(one for one in older if one.seq_nr != seq_nr)
            if len(left) == len(older):
                raise no_snapshot(persistence_id, seq_nr)
            draft.older_snapshots[persistence_id] = left

    async def page(
        self,
        after_persistence_id: str,
        *,
        max_rows: int,
        max_bytes: int,
        entity_types: frozenset[str] = frozenset(),
    ) -> list[Snapshot]:
        """See ``SnapshotStore.snapshots``."""
        await trio.lowlevel.checkpoint()
        stretches = id_ranges(after_persistence_id, entity_types)
        found: list[Snapshot] = []
        size = 0
        for persistence_id, snapshot in sorted(self._connections.database.state.snapshots.items()):
            if any(first < persistence_id and (end is None or persistence_id < end) for first, end in stretches):
                size += len(snapshot.payload) + EVENT_OVERHEAD_BYTES
                if found and (len(found) >= max_rows or size > max_bytes):
                    break
                found.append(snapshot)
        return found

    async def uncovered_after(self, through: int, *, entity_types: frozenset[str] = frozenset()) -> int:
        """See ``SnapshotStore.uncovered_after``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        log = state.log
        for index in range(bisect_right(log.position, through)):
            of_type = not entity_types or entity_type_of(log.persistence_id[index]) in entity_types
            if of_type and not is_covered(state, index):
                return log.position[index] - 1
        return through


def is_covered(state: MemoryState, index: int) -> bool:
    """Whether the log's event at this index is at or below its entity's snapshot."""
    snapshot = state.snapshots.get(state.log.persistence_id[index])
    return snapshot is not None and state.log.seq_nr[index] <= snapshot.seq_nr
