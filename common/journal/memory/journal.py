"""A journal in memory: the fake that tests and the simulation use, held to the same contract as the real ones.

``MemoryDatabase`` is what a disk would be: it outlives the services that open it, and several nodes may share one. A
change is computed on a copy of its state, waits as long as a commit would take, and is published by one assignment:
who is cancelled before that changed nothing, who is cancelled after it has changed everything. Written to be obviously
right, not fast: every commit copies the lists of references that make up the state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, concat
from common.core.events.ids import ALL_SLICES, SliceRange, slice_of
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import (
    EntityHead,
    admit_local,
    admit_parked,
    admit_pushed,
    admit_repeat,
    discard_parked,
    link_tags,
)
from common.core.journal.append import (
    Appended,
    AppendOutcome,
    AppendRefused,
    AppendRequest,
    Fenced,
    LocalAppend,
    OriginBlocked,
    OutOfStep,
    Pushed,
    PushedAppend,
    PushLane,
)
from common.core.journal.history import (
    History,
    Offset,
    OriginState,
    Resume,
    ResumeDecision,
    begin_generation,
    decide_resume,
)
from common.core.push.filter_transition import UNFILTERED
from common.journal.head_signal import HeadSignal
from common.journal.memory.push_filters import MemoryPushFilters
from common.journal.memory.state import AppendIdEntry, DraftHeads, MemoryDatabase, MemoryState, ParkedEntry
from common.journal.stores.journal import (
    JournalStats,
    LogPage,
    ParkedRow,
    StoredRange,
)

__all__ = ["MemoryDatabase", "MemoryJournal", "open_memory_journal"]


@asynccontextmanager
async def open_memory_journal(
    database: MemoryDatabase,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    commit_delay_s: float = 0.0,
) -> AsyncIterator[MemoryJournal]:
    """A journal over ``database`` that begins a new generation; every commit takes ``commit_delay_s``."""
    async with database.lock:
        draft = database.state.draft()
        draft.journal_id = draft.journal_id or new_id()
        draft.generations = begin_generation(draft.generations, new_id(), draft.head_position)
        database.state = draft
    journal = MemoryJournal(database, now_us, commit_delay_s)
    database.open_journals.append(journal)
    try:
        yield journal
    finally:
        database.open_journals.remove(journal)


class MemoryJournal(MemoryPushFilters):
    """``common.journal.stores.journal.Journal`` over a ``MemoryDatabase``."""

    def __init__(self, database: MemoryDatabase, now_us: Callable[[], int], commit_delay_s: float) -> None:
        super().__init__(database, now_us, commit_delay_s)
        self._generations = database.state.generations
        self.head_signal = HeadSignal(database.state.head_position)

    @property
    def history(self) -> History:
        """Journal id; generations as of opening or the last ``stats``, head as last known here."""
        state = self._database.state
        return History(state.journal_id, self._generations, state.head_position)

    # -- the log -------------------------------------------------------------------------------------------------
    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``Journal.append_group``."""
        async with self._transaction() as draft:
            return [
                self._append_local(draft, request)
                if isinstance(request, LocalAppend)
                else self._append_pushed(draft, request)
                for request in requests
            ]

    def _append_local(self, draft: MemoryState, request: LocalAppend) -> Appended | AppendRefused:
        seen = draft.append_ids.get(request.append_id)
        if seen:
            return admit_repeat(request, seen.digest, seen.outcome)
        heads = DraftHeads(draft.heads)
        judged = admit_local(request, heads)
        if isinstance(judged, AppendRefused):
            return judged
        appended = Appended(draft.head_position + 1, judged)
        self._store(draft, heads, replace(request.events, seq_nr=judged, origin_seq_nr=[0] * len(judged)))
        heads.keep()
        self._database.tables.run(request.statements)
        if request.append_id:
            draft.append_ids[request.append_id] = AppendIdEntry(request.digest, appended, self._now_us())
        return appended

    def _append_pushed(self, draft: MemoryState, request: PushedAppend) -> Pushed | Fenced | OutOfStep | OriginBlocked:
        origin = draft.origins.get(request.origin_id)
        if origin is None or origin.session != request.session:
            return Fenced(origin.session if origin else 0)
        place = draft.push_filter_states.get(request.origin_id, UNFILTERED)
        position = origin.stored.position if request.lane is PushLane.LIVE else place.backfill_position
        if position != request.after_position:
            return OutOfStep(position)
        heads = DraftHeads(draft.heads)
        own_parked = [parked for parked in draft.parked if parked.origin_id == request.origin_id]
        parked_to = {parked.persistence_id: parked.numbers.seq_nr for parked in own_parked}
        admission = admit_pushed(request, heads, parked_to, partial(draft.ranges_of, request))
        already = len(own_parked)
        if admission.parked and already + len(admission.parked) > request.parked_max:
            return OriginBlocked(already, request.parked_max)
        now_us = self._now_us()
        accepted = request.events.select(admission.accepted)
        self._store(draft, heads, replace(accepted, seq_nr=admission.seq_nr, origin_seq_nr=accepted.seq_nr))
        heads.keep()
        for index, parked in admission.parked:
            draft.last_parked_id += 1
            event = request.events.slice(index, index + 1)
            draft.parked.append(
                ParkedEntry(draft.last_parked_id, request.origin_id, request.branch, parked.code, now_us, event)
            )
        draft.cut_ranges(request, admission.returned)
        self._keep_ranges(draft, request.origin_id, request.branch, admission.skipped)
        if request.through.position == request.after_position:
            pass  # ranges alone: the last event stored stays the one it is
        elif request.lane is PushLane.LIVE:
            draft.origins[request.origin_id] = replace(origin, stored=request.through)
        else:
            draft.push_filter_states[request.origin_id] = replace(place, backfill_position=request.through.position)
        told = tuple(parked for _, parked in admission.parked)
        return Pushed(request.through.position, len(accepted), told)

    def _store(self, draft: MemoryState, heads: DraftHeads, events: EventBatch) -> None:
        n = len(events)
        now_us = self._now_us()
        first = draft.head_position + 1
        first_us = max(now_us, draft.head_timestamp_us + 1)
        draft.log.extend(
            replace(
                events,
                position=list(range(first, first + n)),
                timestamp_us=list(range(first_us, first_us + n)),
                stored_us=[now_us] * n,
                prev_seq_nr=[number - 1 for number in events.seq_nr],
                prev_tags=link_tags(events, heads),
            )
        )
        if n:
            draft.head_position = first + n - 1
            draft.head_timestamp_us = first_us + n - 1

    def _keep_ranges(self, draft: MemoryState, origin_id: str, branch: int, ranges: Sequence[StatedRange]) -> None:
        now_us = self._now_us()
        draft.ranges.extend((branch, StoredRange(origin_id, stated, now_us)) for stated in ranges)

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
        state = self._database.state
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
        log = self._database.state.log
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

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``Journal.entity_head``."""
        await trio.lowlevel.checkpoint()
        head = self._database.state.heads.get(persistence_id)
        return replace(head) if head else None

    async def stats(self) -> JournalStats:
        """See ``Journal.stats``."""
        await trio.lowlevel.checkpoint()
        state = self._database.state
        self._generations = state.generations
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
        heads = [head for head in self._database.state.heads.values() if after < head.deleted_position <= through]
        heads.sort(key=lambda head: head.deleted_position)
        return [StatedRange(head.persistence_id, 1, head.deleted_to, head.deleted_reason) for head in heads[:max_rows]]

    async def forget_append_ids(self, stored_before_us: int, max_rows: int) -> int:
        """See ``Journal.forget_append_ids``."""
        async with self._transaction() as draft:
            old = [key for key, row in draft.append_ids.items() if row.stored_us < stored_before_us]
            for key in old[:max_rows]:
                del draft.append_ids[key]
            return len(old[:max_rows])

    # -- origins -------------------------------------------------------------------------------------------------
    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``Journal.open_session``."""
        async with self._transaction() as draft:
            known = draft.origins.get(origin_id)
            decision = decide_resume(known, origin_id, instance, history, self._now_us())
            if decision.resume is not Resume.SUPERSEDED:
                draft.origins[origin_id] = decision.state
                if origin_id in draft.push_filter_states:
                    place = draft.push_filter_states[origin_id]
                    draft.push_filter_states[origin_id] = place.at(decision.state.stored.position)
            return decision

    async def origins(self) -> list[OriginState]:
        """See ``Journal.origins``."""
        await trio.lowlevel.checkpoint()
        return [state for _, state in sorted(self._database.state.origins.items())]

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``Journal.forget_superseded``."""
        async with self._transaction() as draft:
            known = draft.origins.get(origin_id)
            if known:
                draft.origins[origin_id] = replace(known, superseded=(), left_behind=())
            return known is not None

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``Journal.stored_ranges``."""
        await trio.lowlevel.checkpoint()
        ranges = self._database.state.ranges
        return [kept for _, kept in ranges if kept.stated.persistence_id == persistence_id]

    # -- parked events -------------------------------------------------------------------------------------------
    async def parked(
        self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000
    ) -> list[ParkedRow]:
        """See ``Journal.parked``."""
        await trio.lowlevel.checkpoint()
        chosen = [
            parked
            for parked in self._database.state.parked
            if parked.id > after_id and origin_id in {None, parked.origin_id}
        ]
        return [parked.row for parked in chosen[:max_rows]]

    async def parked_row(self, row_id: int) -> ParkedRow | None:
        """See ``Journal.parked_row``."""
        await trio.lowlevel.checkpoint()
        return next((parked.row for parked in self._database.state.parked if parked.id == row_id), None)

    async def retry_parked(self, persistence_id: str, *, accept_gap: bool) -> tuple[int, str]:
        """See ``Journal.retry_parked``."""
        async with self._transaction() as draft:
            of_entity = [parked for parked in draft.parked if parked.persistence_id == persistence_id]
            heads = DraftHeads(draft.heads)
            head = heads.get(persistence_id)
            own = {parked.id: parked for parked in of_entity if head and parked.origin_id == head.owner}
            if head is None or not own:
                return 0, of_entity[0].code if of_entity else ""
            ranges = _ranges_of(draft, head)
            numbers = [parked.numbers for parked in own.values()]
            admission = admit_parked(head, numbers, ranges, accept_gap=accept_gap)
            events = concat(own[row_id].event for row_id in admission.accepted)
            self._store(draft, heads, replace(events, seq_nr=admission.seq_nr, origin_seq_nr=events.seq_nr))
            heads.keep()
            draft.parked = [parked for parked in draft.parked if parked.id not in admission.accepted]
            self._keep_ranges(draft, head.owner, numbers[0].branch, admission.skipped)
            return len(events), admission.left

    async def discard_parked(self, row_id: int) -> bool:
        """See ``Journal.discard_parked``."""
        async with self._transaction() as draft:
            parked = next((parked for parked in draft.parked if parked.id == row_id), None)
            if parked is None:
                return False
            queue = (parked.origin_id, parked.persistence_id)
            first = next(row for row in draft.parked if (row.origin_id, row.persistence_id) == queue)
            if first is not parked:
                raise BackhaulError(
                    "parked.not_first",
                    f"row {row_id} is not the first parked event of {parked.persistence_id}",
                    f"discard or retry row {first.id} first",
                )
            heads = DraftHeads(draft.heads)
            seq_nr = parked.numbers.seq_nr
            gone = StatedRange(parked.persistence_id, seq_nr, seq_nr, "discarded")
            head = heads.get(parked.persistence_id)
            if head and head.owner == parked.origin_id:
                gone = discard_parked(head, parked.numbers, _ranges_of(draft, head))
                heads.keep()
            draft.parked.remove(parked)
            self._keep_ranges(draft, parked.origin_id, parked.branch, [gone])
            return True

    # -- cursors -------------------------------------------------------------------------------------------------
    async def load_cursor(self, name: str) -> Offset | None:
        """See ``Journal.load_cursor``."""
        await trio.lowlevel.checkpoint()
        return self._database.state.cursors.get(name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``Journal.save_cursor``."""
        async with self._transaction() as draft:
            draft.cursors[name] = offset


def _ranges_of(draft: MemoryState, head: EntityHead) -> list[tuple[int, StatedRange]]:
    """What the entity's owner stated, each with its branch, oldest first."""
    return [
        (branch, kept.stated)
        for branch, kept in draft.ranges
        if kept.stated.persistence_id == head.persistence_id and kept.origin_id == head.owner
    ]
