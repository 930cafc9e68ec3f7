"""What part of a range's work one slice or one entity is: counts in memory, bounded whatever the number of entities.

A slice is the least that ranges can be divided into, and an entity stays in one: when most of the events are one slice's,
more ranges do not help, and that is worth saying. Slices are counted exactly (1024 at most), entities by the Misra-Gries
algorithm: the busiest are found, and their counts are never too high.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from common.core.events.ids import slice_of

_ENTITIES_MAX = 64
# Fewer events than these say nothing; a share below this can still be divided.
_LEAST_EVENTS = 1_000
_HOT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class HotSlice:
    """A slice with ``events`` of the ``of_events`` that were counted; its busiest entity had at least ``entity_events``."""

    slice: int
    events: int
    of_events: int
    persistence_id: str
    entity_events: int


class SliceLoad:
    """Counts since the last ``take``."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._events = 0
        self._slices: Counter[int] = Counter()
        self._entities: Counter[str] = Counter()

    def add(self, persistence_ids: Sequence[str]) -> None:
        """These events took effect."""
        self._events += len(persistence_ids)
        found = Counter(persistence_ids)
        for persistence_id, n in found.items():
            self._slices[slice_of(persistence_id)] += n
        self._entities.update(found)
        if len(self._entities) > _ENTITIES_MAX:
            [*_, (_, least)] = self._entities.most_common(_ENTITIES_MAX + 1)
            self._entities = Counter({name: n - least for name, n in self._entities.items() if n > least})

    def take(self) -> HotSlice | None:
        """The slice that has most of what was counted, if one has; counting begins anew."""
        events, slices, entities = self._events, self._slices, self._entities
        self._begin()
        if events < _LEAST_EVENTS:
            return None
        [(hottest, n)] = slices.most_common(1)
        if n < _HOT_SHARE * events:
            return None
        busiest, most = max(
            ((name, m) for name, m in entities.items() if slice_of(name) == hottest),
            key=lambda entry: entry[1],
            default=("", 0),
        )
        return HotSlice(hottest, n, events, busiest, most)
