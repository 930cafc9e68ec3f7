"""What a journal keeps of its entities' snapshots (``core.snapshot``)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from common.core.events.batch import EventBatch
from common.core.journal.snapshot import NewSnapshot, Snapshot, SnapshotsBeside


class SnapshotStore(Protocol):
    """The latest snapshot of each entity, and some older ones to look at."""

    async def put(self, snapshots: Sequence[NewSnapshot], *, keep: int = 1, replaces: bool = False) -> list[bool]:
        """Store them, all or none; False for one that is no news: not above the stored one, or above which events are gone.

        Of each entity that gets one the latest ``keep`` stay. With ``replaces`` one takes the place of a stored
        one of its number; what is known of its event stays.

        Raises ``snapshot.no_entity``, and ``snapshot.ahead`` for a number the entity has not reached.
        """

    async def get(self, persistence_id: str) -> Snapshot | None:
        """An entity's latest."""

    async def of(self, persistence_ids: Collection[str]) -> list[Snapshot]:
        """The latest of each of these entities that has one."""

    async def batch(self, persistence_ids: Sequence[str]) -> tuple[EventBatch, list[bool]]:
        """The same as events in columns (``snapshot_batch``), in the order of the ids, and ``says_last_event`` of each."""

    async def sized(self, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
        """The same without their payloads (they are empty), each with the size of its payload."""

    async def numbers(self, persistence_ids: Collection[str]) -> tuple[list[str], list[int], list[int]]:
        """Of the latest of those of them that have one, in columns and any order: id, number and position."""

    async def beside(self, after: int, through: int, *, lost_after: int | None = None) -> SnapshotsBeside:
        """What stands beside the events with ``after`` < position <= ``through``, read in one state of the journal.

        With ``lost_after`` only of entities whose last deleted event stood behind it; the others' events are kept.
        """

    async def kept(self, persistence_id: str) -> list[Snapshot]:
        """All of an entity that are kept, the latest first."""

    async def delete(self, persistence_id: str, seq_nr: int) -> None:
        """Remove one; of the latest the next older one takes the place.

        Raises ``snapshot.none``, and ``snapshot.needed`` where deleted events would be without one.
        """

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
