"""Filters of origins in memory; a part of ``MemoryJournal``."""

from __future__ import annotations

from collections.abc import Collection

import trio

from common.core.events.stated_range import StatedRange
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import UNFILTERED, PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.journal.memory.subscriptions import MemorySubscriptions


class MemoryPushFilters(MemorySubscriptions):
    """``common.journal.stores.push_filters.PushFilterStore`` over a ``MemoryDatabase``."""

    async def ask_filter(self, pattern: str, criteria: str) -> RequestedFilter:
        """See ``PushFilterStore.ask_filter``."""
        async with self._transaction() as draft:
            asked = draft.requested_filters.get(pattern)
            if asked is None or asked.criteria != criteria:
                draft.last_filter_version += 1
                asked = RequestedFilter(pattern, draft.last_filter_version, criteria, self._now_us())
                draft.requested_filters[pattern] = asked
            return asked

    async def withdraw_filter(self, pattern: str) -> bool:
        """See ``PushFilterStore.withdraw_filter``."""
        async with self._transaction() as draft:
            return draft.requested_filters.pop(pattern, None) is not None

    async def requested_filters(self) -> list[RequestedFilter]:
        """See ``PushFilterStore.requested_filters``."""
        await trio.lowlevel.checkpoint()
        return [asked for _, asked in sorted(self._database.state.requested_filters.items())]

    async def push_filter_state(self, origin_id: str) -> PushFilterState:
        """See ``PushFilterStore.push_filter_state``."""
        await trio.lowlevel.checkpoint()
        return self._database.state.push_filter_states.get(origin_id, UNFILTERED)

    async def change_push_filter(
        self, origin_id: str, session: int, change: PushFilterApplied
    ) -> Fenced | OutOfStep | None:
        """See ``PushFilterStore.change_push_filter``."""
        async with self._transaction() as draft:
            origin = draft.origins.get(origin_id)
            place = draft.push_filter_states.get(origin_id, UNFILTERED)
            if origin is None or origin.session != session:
                return Fenced(origin.session if origin else 0)
            if origin.stored.position != change.position or not place.is_settled:
                return OutOfStep(origin.stored.position)
            draft.push_filter_states[origin_id] = place.changed(change.filter, change.position, change.needs_backfill)
            return None

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """See ``PushFilterStore.deleted_of``."""
        await trio.lowlevel.checkpoint()
        heads = self._database.state.heads
        known = (heads[name] for name in sorted(set(persistence_ids)) if name in heads)
        return [
            (StatedRange(head.persistence_id, 1, head.deleted_to, head.deleted_reason), head.tags)
            for head in known
            if head.deleted_to
        ]
