"""Parked events in memory."""

from __future__ import annotations

from dataclasses import replace

import trio

from common.core.errors import BackhaulError
from common.core.events.batch import concat
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead, admit_parked, discard_parked
from common.core.journal.append import NOT_ALLOWED
from common.core.journal.ownership import MayWrite, Transfer, owner_for_retry, transfer_head, unknown_origin
from common.journal.memory.append import keep_ranges, store
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.state import DraftHeads, MemoryState
from common.journal.stores.origins import StoredRange
from common.journal.stores.parked import ParkedRow


class MemoryParked:
    """``ParkedStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def rows(self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000) -> list[ParkedRow]:
        """See ``Journal.parked``."""
        await trio.lowlevel.checkpoint()
        chosen = [
            parked
            for parked in self._connections.database.state.parked
            if parked.id > after_id and origin_id in {None, parked.origin_id}
        ]
        return [parked.row for parked in chosen[:max_rows]]

    async def row(self, row_id: int) -> ParkedRow | None:
        """See ``Journal.parked_row``."""
        await trio.lowlevel.checkpoint()
        return next((parked.row for parked in self._connections.database.state.parked if parked.id == row_id), None)

    async def retry(
        self, persistence_id: str, *, accept_gap: bool, may_write: MayWrite | None = None
    ) -> tuple[int, str]:
        """See ``ParkedStore.retry``."""
        async with self._connections.transaction() as draft:
            of_entity = [parked for parked in draft.parked if parked.persistence_id == persistence_id]
            heads = DraftHeads(draft.heads)
            head = heads.get(persistence_id)
            owner = owner_for_retry(head, [parked.origin_id for parked in of_entity], may_write)
            if owner is None:
                return 0, NOT_ALLOWED if of_entity else ""
            if head is None:
                head = heads[persistence_id] = EntityHead(persistence_id, owner=owner, branch=_branch_of(draft, owner))
            stored, left = self._admit(draft, heads, head, accept_gap=accept_gap)
            return stored, left or ("" if stored or not of_entity else of_entity[0].code)

    async def transfer(self, persistence_id: str, to: str, *, accept_gap: bool) -> Transfer:
        """See ``ParkedStore.transfer``."""
        async with self._connections.transaction() as draft:
            heads = DraftHeads(draft.heads)
            head = heads.get(persistence_id)
            old_owner = head.owner if head else None
            branch = _branch_of(draft, to) if to else 0
            if head is None:
                head = heads[persistence_id] = EntityHead(persistence_id, owner=to, branch=branch)
            of_new = [(of, kept.stated) for of, kept in draft.ranges if _is_of(kept, persistence_id, to)]
            old_branch = head.branch
            gone = transfer_head(head, to, branch, of_new)
            if gone:
                keep_ranges(self._connections, draft, old_owner or "", old_branch, [gone])
            return Transfer(old_owner, *self._admit(draft, heads, head, accept_gap=accept_gap))

    async def names(self, prefix: str, *, after: str = "", max_rows: int = 1_000) -> list[str]:
        """See ``ParkedStore.names``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        names = {*state.heads, *(parked.persistence_id for parked in state.parked)}
        return sorted(name for name in names if name.startswith(prefix) and name > after)[:max_rows]

    def _admit(self, draft: MemoryState, heads: DraftHeads, head: EntityHead, *, accept_gap: bool) -> tuple[int, str]:
        own = {
            parked.id: parked
            for parked in draft.parked
            if parked.persistence_id == head.persistence_id and parked.origin_id == head.owner
        }
        if not own:
            heads.keep()
            return 0, ""
        numbers = [parked.numbers for parked in own.values()]
        admission = admit_parked(head, numbers, _ranges_of(draft, head), accept_gap=accept_gap)
        events = concat(own[row_id].event for row_id in admission.accepted)
        store(self._connections, draft, heads, replace(events, seq_nr=admission.seq_nr, origin_seq_nr=events.seq_nr))
        heads.keep()
        draft.parked = [parked for parked in draft.parked if parked.id not in admission.accepted]
        keep_ranges(self._connections, draft, head.owner, numbers[0].branch, admission.skipped)
        return len(events), admission.left

    async def discard(self, row_id: int) -> bool:
        """See ``Journal.discard_parked``."""
        async with self._connections.transaction() as draft:
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
            keep_ranges(self._connections, draft, parked.origin_id, parked.branch, [gone])
            return True


def _branch_of(draft: MemoryState, origin_id: str) -> int:
    state = draft.origins.get(origin_id)
    if state is None:
        raise unknown_origin(origin_id)
    return state.branch


def _is_of(kept: StoredRange, persistence_id: str, origin_id: str) -> bool:
    return kept.stated.persistence_id == persistence_id and kept.origin_id == origin_id


def _ranges_of(draft: MemoryState, head: EntityHead) -> list[tuple[int, StatedRange]]:
    """What the entity's owner stated, each with its branch, oldest first."""
    return [
        (branch, kept.stated)
        for branch, kept in draft.ranges
        if kept.stated.persistence_id == head.persistence_id and kept.origin_id == head.owner
    ]
