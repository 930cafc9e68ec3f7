"""What an application lets in through the raw doors: its registered types must fit, its own entities decide for themselves.

A payload that does not fit its type would fail every command of its entity and every projection over it, for as long as
it is stored; a raw event of an entity that takes commands was decided by nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import entity_type_of
from common.core.events.types import EventTypes


@dataclass(frozen=True, slots=True)
class Admitted:
    """``registry`` has the types that payloads must fit, ``decided`` the entity types that take commands or values."""

    registry: EventTypes = field(default_factory=EventTypes)
    decided: Collection[str] = frozenset()

    def check(self, events: EventBatch) -> None:
        """Refuse a request for the first of its events that may not come in.

        Raises:
            BackhaulError: ``events.decided_here``, ``events.unfit``; both name the event's index.
        """
        if self.decided:
            for index, persistence_id in enumerate(events.persistence_id):
                self.check_entity(entity_type_of(persistence_id), index)
        known = {name for name in set(events.event_type) if self.registry.class_of(name) is not None}
        if not known:
            return
        for index, name in enumerate(events.event_type):
            if name in known:
                try:
                    self.registry.decode(name, events.codec[index], events.payload[index], events.metadata[index])
                except BackhaulError as error:
                    raise BackhaulError(
                        "events.unfit",
                        f"event {index}: {error.message}",
                        "nothing of the request was stored: mend the event and send it again",
                        details={"index": index, "why": error.code},
                    ) from error

    def check_entity(self, entity_type: str, index: int = 0) -> None:
        """Refuse an entity type that the application decides. Raises BackhaulError ``events.decided_here``."""
        if entity_type in self.decided:
            raise BackhaulError(
                "events.decided_here",
                f"event {index}: the application decides about {entity_type}, nothing else may write its events",
                "send a command to /v1/entities, or a value to /v1/states",
                kind=ErrorKind.CONFLICT,
                details={"index": index, "entity_type": entity_type},
            )


ALL_ADMITTED: Final = Admitted()
