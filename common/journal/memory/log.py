"""The log in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import trio

from common.core.events.batch import EventBatch, concat
from common.core.events.ids import ALL_SLICES, SliceRange, entity_type_of, slice_of
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest, LocalAppend
from common.core.journal.history import History, Offset
from common.core.journal.tag_sets import known_tag_sets
from common.journal.memory.append import append_local, append_pushed
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.snapshots import is_covered
from common.journal.memory.state import DraftHeads, MemoryState
from common.journal.stores.log import JournalStats, LogPage, TrimLimit


class MemoryLog:
    """``LogStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections
        self.head_signal = connections.head_signal
        self.feed = connections.feed
        self.read_counts: Counter[str] = Counter()

    @property
    def history(self) -> History:
        """Journal id; generations as of opening or the last ``stats``, head as last known here."""
        state = self._connections.database.state
        return History(state.journal_id, self._connections.generations, state.head_position)

    @property
    def trims(self) -> int | None:
        """See ``LogStore.trims``."""
        return self._connections.database.state.trims

    @property
    def place_key(self) -> str:
        """See ``LogStore.place_key``; what is in memory alone is no secret of anybody's."""
        return f"key of {self._connections.database.state.journal_id}"[:64]

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``Journal.append_group``."""
        async with self._connections.transaction() as draft:
            return [
                append_local(self._connections, draft, request)
                if isinstance(request, LocalAppend)
                else append_pushed(self._connections, draft, request)
                for request in requests
            ]

    async def read(
        self,
        after: int,
        *,
        through: int | None = None,
        max_events: int,
        max_bytes: int,
        slices: SliceRange = ALL_SLICES,
        selection: Selection = EVERYTHING,
    ) -> LogPage:
        """See ``Journal.read``."""
        self.read_counts["log" if selection.is_all else "selected"] += 1
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        log = state.log
        weights = log.weights()
        chosen: list[int] = []
        size = 0
        end = state.head_position if through is None else min(through, state.head_position)
        for index in range(bisect_right(log.position, after), bisect_right(log.position, end)):
            persistence_id = log.persistence_id[index]
            if slice_of(persistence_id) not in slices:
                continue
            if not selection.wants(persistence_id, log.tags[index], log.prev_tags[index]):
                continue
            size += weights[index]
            if chosen and (len(chosen) >= max_events or size > max_bytes):
                break
            chosen.append(index)
        else:
            return LogPage(log.select(chosen), max(end, min(after, state.head_position)), state.head_position)
        return LogPage(log.select(chosen), log.position[chosen[-1]], state.head_position)

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """See ``Journal.read_entity``."""
        self.read_counts["entity"] += 1
        await trio.lowlevel.checkpoint()
        log = self._connections.database.state.log
        chosen = [
            index
            for index, (stored_id, seq_nr) in enumerate(zip(log.persistence_id, log.seq_nr, strict=True))
            if stored_id == persistence_id and from_seq_nr <= seq_nr <= to_seq_nr
        ]
        return log.select(chosen[:max_events])

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """See ``Journal.read_entities``."""
        return concat(
            [await self.read_entity(name, at + 1, at + each_max, max_events=each_max) for name, at in known.items()]
        )

    async def read_histories(self, first: Mapping[str, int], *, each_max: int, max_bytes: int) -> dict[str, EventBatch]:
        """See ``LogStore.read_histories``."""
        self.read_counts["entity"] += 1
        await trio.lowlevel.checkpoint()
        log = self._connections.database.state.log
        indexes: dict[str, list[int]] = {name: [] for name in first}
        for index, (name, seq_nr) in enumerate(zip(log.persistence_id, log.seq_nr, strict=True)):
            if name in first and seq_nr >= first[name]:
                indexes[name].append(index)
        found: dict[str, EventBatch] = {}
        for name in first:
            if len(indexes[name]) <= each_max:
                events = log.select(indexes[name])
                max_bytes -= events.byte_size()
                if max_bytes < 0:
                    break
                found[name] = events
        return found

    async def probe(self, append_bytes: int) -> None:
        """See ``LogStore.probe``."""
        await trio.lowlevel.checkpoint()

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``Journal.entity_head``."""
        return (await self.entity_heads([persistence_id])).get(persistence_id)

    async def entity_heads(self, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
        """See ``LogStore.entity_heads``."""
        await trio.lowlevel.checkpoint()
        heads = self._connections.database.state.heads
        return {name: replace(heads[name]) for name in persistence_ids if name in heads}

    async def stats(self) -> JournalStats:
        """See ``Journal.stats``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        self._connections.generations = state.generations
        return JournalStats(
            head_position=state.head_position,
            head_timestamp_us=state.head_timestamp_us,
            deleted_through=state.deleted_through,
            first_position=state.log.position[0] if state.log.position else state.head_position + 1,
            used_bytes=state.log.byte_size() + sum(entry.inbox_bytes for entry in state.subscriptions.values()),
            wal_bytes=0,
            parked=len(state.parked),
        )

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """See ``Journal.deleted_ranges``."""
        await trio.lowlevel.checkpoint()
        return [stated for stated, _ in self._deleted(after, through)[:max_rows]]

    async def deleted_entities(self, after: int, through: int, *, max_rows: int) -> list[tuple[StatedRange, int]]:
        """See ``LogStore.deleted_entities``."""
        await trio.lowlevel.checkpoint()
        return self._deleted(after, through)[:max_rows]

    def _deleted(self, after: int, through: int) -> list[tuple[StatedRange, int]]:
        heads = [
            head for head in self._connections.database.state.heads.values() if after < head.deleted_position <= through
        ]
        heads.sort(key=lambda head: head.deleted_position)
        return [
            (StatedRange(head.persistence_id, 1, head.deleted_to, head.deleted_reason), head.deleted_position)
            for head in heads
        ]

    async def forget_append_ids(self, through: int, max_rows: int) -> int:
        """See ``Journal.forget_append_ids``."""
        async with self._connections.transaction() as draft:
            old = [key for key, row in draft.append_ids.items() if row.outcome.first_position <= through]
            for key in old[:max_rows]:
                del draft.append_ids[key]
            return len(old[:max_rows])

    async def load_cursor(self, name: str) -> Offset | None:
        """See ``Journal.load_cursor``."""
        await trio.lowlevel.checkpoint()
        return self._connections.database.state.cursors.get(name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``Journal.save_cursor``."""
        async with self._connections.transaction() as draft:
            draft.cursors[name] = offset

    async def event_bytes(self, after: int, through: int) -> int:
        """See ``Journal.event_bytes``."""
        await trio.lowlevel.checkpoint()
        log = self._connections.database.state.log
        return log.slice(bisect_right(log.position, after), bisect_right(log.position, through)).byte_size()

    async def trim(self, limit: TrimLimit) -> int:
        """See ``Journal.trim``."""
        async with self._connections.transaction() as draft:
            log, heads = draft.log, DraftHeads(draft.heads)
            older = set(log.persistence_id[: bisect_right(log.position, limit.after)])
            wanted = [
                index
                for index in range(bisect_right(log.position, limit.after), bisect_right(log.position, limit.through))
                if log.persistence_id[index] not in older and _may_go(draft, index, limit)
            ]
            weights = log.weights()
            before = accumulate((weights[index] for index in wanted), initial=0)
            weighed = [index for index, weight in zip(wanted, before, strict=False) if weight < limit.max_bytes]
            removed = weighed[: limit.max_events]
            draft.trims += bool(removed)
            for index in removed:
                head = heads[log.persistence_id[index]]
                head.deleted_to = log.seq_nr[index]
                head.deleted_position = log.position[index]
                head.deleted_reason = limit.reason
                draft.deleted_through = max(draft.deleted_through, log.position[index])
            heads.keep()
            gone = set(removed)
            draft.log = log.select([index for index in range(len(log)) if index not in gone])
            return len(removed)

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """See ``PushFilterStore.deleted_of``."""
        await trio.lowlevel.checkpoint()
        heads = self._connections.database.state.heads
        known = (heads[name] for name in sorted(set(persistence_ids)) if name in heads)
        return [
            (StatedRange(head.persistence_id, 1, head.deleted_to, head.deleted_reason), head.tags)
            for head in known
            if head.deleted_to
        ]

    async def tag_sets(self, persistence_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
        """See ``LogStore.tag_sets``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        return {name: known_tag_sets(state.tag_sets.get(name, ())) for name in persistence_ids if name in state.heads}


def _may_go(state: MemoryState, index: int, limit: TrimLimit) -> bool:
    entity_type = entity_type_of(state.log.persistence_id[index])
    if state.log.persistence_id[index] in limit.kept:
        return False
    if limit.entity_types and entity_type not in limit.entity_types:
        return False
    return entity_type not in limit.covered_types or is_covered(state, index)
