"""Up to where snapshots cover the log: looked for in short reads, and remembered, because it only ever goes up.

An event that is deleted or at or below its entity's snapshot stays so: snapshots are replaced by later ones, and what is
stored later is stored behind. So the search may go on where it last ended, in this process and for the same types. Only where
an operator deletes a snapshot all of it is forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

_TYPES_KEPT = 64
LOOK_EVENTS = 20_000

WatermarkRead = Callable[[int, int], Awaitable[tuple[int | None, int]]]
"""Of the events with after < position <= through: the first that is not covered, if any, and how far was looked."""


class SnapshotWatermark:
    """For each set of entity types the position up to which all was covered when it was last asked for."""

    def __init__(self) -> None:
        self._marks: dict[frozenset[str], int] = {}
        self._clearings = 0
        self._deletions = 0

    def clear(self) -> None:
        """Forget them all, and what searches under way have found: the log may be another one."""
        self._marks.clear()
        self._clearings += 1

    def holds_at(self, deletions: int) -> None:
        """So many snapshots were ever deleted by operators: with more than last time it begins anew."""
        if deletions != self._deletions:
            self._deletions = deletions
            self.clear()

    async def find(self, look: WatermarkRead, through: int, entity_types: frozenset[str]) -> int:
        """See ``SnapshotStore.uncovered_after``."""
        position, clearings = self._marks.get(entity_types, 0), self._clearings
        while position < through:
            first, looked = await look(position, through)
            if clearings != self._clearings:  # a new session, which this look may have opened
                position, clearings = 0, self._clearings
                continue
            position = looked if first is None else first - 1
            if first is not None:
                break
        if len(self._marks) >= _TYPES_KEPT:
            self._marks.clear()
        self._marks[entity_types] = max(position, self._marks.get(entity_types, 0))
        return min(position, through)
