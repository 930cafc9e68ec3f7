"""Logs of others that are received here: their sessions and positions, and what they stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.core.events.stated_range import StatedRange
from common.core.journal.history import History, OriginState, ResumeDecision


@dataclass(frozen=True, slots=True)
class StoredRange:
    """A stated range as it was received and kept."""

    origin_id: str
    stated: StatedRange
    received_us: int


class OriginStore(Protocol):
    """A row for each origin; its position moves with its events, in ``LogStore.append_group``."""

    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """Decide (``history.decide_resume``) and store the new session in one transaction; refused ones change nothing."""

    async def rows(self) -> list[OriginState]:
        """All origins ever seen."""

    async def known(self, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
        """The last number of each entity that is stored, stated or parked from this origin.

        0 of one that there is not, ``core.push.past.UNWANTED`` of one that belongs to another.
        """

    async def forget_superseded(self, origin_id: str) -> bool:
        """Let an origin's superseded journals, and logs left behind at forks, back in (an operator's decision).

        False when the origin is unknown.
        """

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """What was stated as never to come for one entity, oldest first."""
