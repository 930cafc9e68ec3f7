"""Which events of a page do not go to the handler now: those of entities that have parked events, and one at fault.

Belongs to the one range that holds the lease; loaded anew each time it is taken, so the table is always the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import SliceRange
from common.journal.stores.projections import ProjectionStore
from common.projection import parking
from common.projection.handlers import Handler


@dataclass(slots=True)
class ParkedEntities:
    """The parked entities of one range. ``park_next`` names the event that the next page parks."""

    handler: Handler
    slices: SliceRange
    entities: dict[str, int] = field(default_factory=dict)
    _next: tuple[int, str, str] = (0, "", "")

    async def load(self, store: ProjectionStore) -> None:
        """Read what is parked."""
        self.entities = await parking.parked_entities(store, self.handler.name, self.slices)

    def park_next(self, position: int, error: BackhaulError) -> None:
        """The event at ``position`` has had its chances."""
        self._next = (position, error.code, error.message)

    def split(self, events: EventBatch) -> tuple[list[int], list[int], list[tuple[str, str]]]:
        """Indexes of the events for the handler, of those to park, and (code, reason) of each of the latter.

        Raises:
            BackhaulError: ``projection.parked_full``.
        """
        position, code, reason = self._next
        kept: list[int] = []
        parked: list[int] = []
        reasons: list[tuple[str, str]] = []
        room = self.handler.parked_max - sum(self.entities.values())
        for index, persistence_id in enumerate(events.persistence_id):
            if persistence_id in self.entities:
                why = (parking.BEHIND, "an earlier event of the entity is parked")
            elif events.position[index] == position:
                why = (code, reason)
            else:
                kept.append(index)
                continue
            self.entities[persistence_id] = self.entities.get(persistence_id, 0) + 1
            parked.append(index)
            reasons.append(why)
        if len(parked) > room:
            raise self._full(events, parked)
        return kept, parked, reasons

    def _full(self, events: EventBatch, parked: Sequence[int]) -> BackhaulError:
        return BackhaulError(
            "projection.parked_full",
            f"projection {self.handler.name} {self.slices} would have more than {self.handler.parked_max} parked events",
            "mend the handler, then retry or discard what is parked; until then the range stands still",
            kind=ErrorKind.FULL,
            details={"position": events.position[parked[0]], "persistence_id": events.persistence_id[parked[0]]},
        )
