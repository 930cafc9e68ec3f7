"""What a journal keeps of its entities' snapshots (``core.snapshot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from common.core.journal.snapshot import NewSnapshot, Snapshot


class SnapshotStore(Protocol):
    """The latest snapshot of each entity."""

    async def put(self, snapshots: Sequence[NewSnapshot]) -> list[bool]:
        """Store them, all or none; False for one that is no news: not above the stored one, or above which events are gone.

        Raises ``snapshot.no_entity``, and ``snapshot.ahead`` for a number the entity has not reached.
        """

    async def get(self, persistence_id: str) -> Snapshot | None:
        """An entity's latest."""

    async def page(
        self,
        after_persistence_id: str,
        *,
        max_rows: int,
        max_bytes: int,
        entity_types: frozenset[str] = frozenset(),
    ) -> list[Snapshot]:
        """The next ones by persistence id in byte order, at least one if there is one; of these types when not empty.

        Paged while others are stored, each entity's comes once, the old or the new one.
        """

    async def uncovered_after(self, through: int, *, entity_types: frozenset[str] = frozenset()) -> int:
        """Highest position <= ``through`` up to which every event (of these types) is deleted or at or below its
        entity's snapshot: from there on the log must be read by who has taken all snapshots."""
