"""What a journal keeps of the filters its origins push with (``filter_transition``): what is asked for, and their places."""

from __future__ import annotations

from typing import Protocol

from common.core.filters.past import Past
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter


class PushFilterStore(Protocol):
    """The places move with the origins' events, in ``LogStore.append_group`` and ``OriginStore.open_session``."""

    async def ask(self, pattern: str, criteria: str, history: Past = Past.SNAPSHOT) -> RequestedFilter:
        """Ask the origins that fit ``pattern`` for a filter from now on, and for so much past of what comes in by it.

        A new version unless the same is asked already.
        """

    async def withdraw(self, pattern: str) -> bool:
        """Ask for it no more; False when nothing was asked by this pattern."""

    async def requested(self) -> list[RequestedFilter]:
        """All that is asked, by pattern."""

    async def state(self, origin_id: str) -> PushFilterState:
        """Where an origin's lanes are."""

    async def change(self, origin_id: str, session: int, change: PushFilterApplied) -> Fenced | OutOfStep | None:
        """Store that an origin has changed its filter; None when it is done.

        Refused, with nothing stored, when the session is not the newest, or when the origin's position is not the
        change's or another change is under way.
        """
