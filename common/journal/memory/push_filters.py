"""Filters of origins in memory."""

from __future__ import annotations

import trio

from common.core.filters.past import Past
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import UNFILTERED, PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.journal.memory.connections import MemoryConnections


class MemoryPushFilters:
    """``PushFilterStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def ask(self, pattern: str, criteria: str, history: Past = Past.SNAPSHOT) -> RequestedFilter:
        """See ``PushFilterStore.ask_filter``."""
        async with self._connections.transaction() as draft:
            asked = draft.requested_filters.get(pattern)
            if asked is None or (asked.criteria, asked.history) != (criteria, history):
                draft.last_filter_version += 1
                now_us = self._connections.now_us()
                asked = RequestedFilter(pattern, draft.last_filter_version, criteria, now_us, history)
                draft.requested_filters[pattern] = asked
            return asked

    async def withdraw(self, pattern: str) -> bool:
        """See ``PushFilterStore.withdraw_filter``."""
        async with self._connections.transaction() as draft:
            return draft.requested_filters.pop(pattern, None) is not None

    async def requested(self) -> list[RequestedFilter]:
        """See ``PushFilterStore.requested_filters``."""
        await trio.lowlevel.checkpoint()
        return [asked for _, asked in sorted(self._connections.database.state.requested_filters.items())]

    async def state(self, origin_id: str) -> PushFilterState:
        """See ``PushFilterStore.push_filter_state``."""
        await trio.lowlevel.checkpoint()
        return self._connections.database.state.push_filter_states.get(origin_id, UNFILTERED)

    async def change(self, origin_id: str, session: int, change: PushFilterApplied) -> Fenced | OutOfStep | None:
        """See ``PushFilterStore.change_push_filter``."""
        async with self._connections.transaction() as draft:
            origin = draft.origins.get(origin_id)
            place = draft.push_filter_states.get(origin_id, UNFILTERED)
            if origin is None or origin.session != session:
                return Fenced(origin.session if origin else 0)
            if origin.stored.position != change.position or not place.is_settled:
                return OutOfStep(origin.stored.position)
            draft.push_filter_states[origin_id] = place.changed(change.filter, change.position, change.needs_backfill)
            return None
