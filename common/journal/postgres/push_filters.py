"""Filters of origins: the part of a ``PostgresJournal`` that keeps them (``push_filter_states``)."""

from __future__ import annotations

from collections.abc import Collection

from common.core.events.stated_range import StatedRange
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.journal.postgres import push_filter_states
from common.journal.postgres.received import PostgresReceived


class PostgresPushFilters(PostgresReceived):
    """``common.journal.stores.push_filters.PushFilterStore`` over an open database."""

    async def ask_filter(self, pattern: str, criteria: str) -> RequestedFilter:
        """See ``PushFilterStore.ask_filter``."""
        return await self._state.run(push_filter_states.ask, pattern, criteria, self._now_us())

    async def withdraw_filter(self, pattern: str) -> bool:
        """See ``PushFilterStore.withdraw_filter``."""
        return await self._state.run(push_filter_states.withdraw, pattern)

    async def requested_filters(self) -> list[RequestedFilter]:
        """See ``PushFilterStore.requested_filters``."""
        return await self._read(push_filter_states.requested_filters)

    async def push_filter_state(self, origin_id: str) -> PushFilterState:
        """See ``PushFilterStore.push_filter_state``."""
        return await self._read(push_filter_states.load_place, origin_id)

    async def change_push_filter(
        self, origin_id: str, session: int, change: PushFilterApplied
    ) -> Fenced | OutOfStep | None:
        """See ``PushFilterStore.change_push_filter``."""
        return await self._state.run(push_filter_states.change_filter, origin_id, session, change)

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """See ``PushFilterStore.deleted_of``."""
        return await self._read(push_filter_states.deleted_of, persistence_ids)
