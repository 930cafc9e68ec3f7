"""What a journal keeps of the filters its origins push with (``core.push_lanes``): what is asked for, and their places."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from common.core.events.stated_range import StatedRange
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter


class PushFilterStore(Protocol):
    """A part of every journal. The places move with the origins' events, in ``append_group`` and ``open_session``."""

    async def ask_filter(self, pattern: str, criteria: str) -> RequestedFilter:
        """Ask the origins that fit ``pattern`` for a filter from now on; a new version unless the same is asked already."""

    async def withdraw_filter(self, pattern: str) -> bool:
        """Ask for it no more; False when nothing was asked by this pattern."""

    async def requested_filters(self) -> list[RequestedFilter]:
        """All that is asked, by pattern."""

    async def push_filter_state(self, origin_id: str) -> PushFilterState:
        """Where an origin's lanes are."""

    async def change_push_filter(
        self, origin_id: str, session: int, change: PushFilterApplied
    ) -> Fenced | OutOfStep | None:
        """Store that an origin has changed its filter; None when it is done.

        Refused, with nothing stored, when the session is not the newest, or when the origin's position is not the
        change's or another change is under way.
        """

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """For those of these entities that lost events to retention: 1 … deleted_to, and the tags of their last event."""
