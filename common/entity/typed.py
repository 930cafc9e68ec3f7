"""One type of entities or of durable state, with its own commands and values as types: ``running.of(Drones)``.

The same calls as those of all entities and states; what is asked for and what comes back is checked by a type checker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from common.entity import refusals
from common.entity.decisions import Accepted, Rejected
from common.entity.durable_state import Versioned, Where

if TYPE_CHECKING:
    from common.entity.runtime import Entities
    from common.entity.states import States

S = TypeVar("S")
C = TypeVar("C")
V = TypeVar("V")


class EntitiesOf(Generic[S, C]):
    """Entities of one type; errors are those of ``Entities``."""

    def __init__(self, entities: Entities, entity_type: str, *, raises: bool = False) -> None:
        self._entities = entities
        self._entity_type = entity_type
        self._raises = raises

    async def ask(
        self, entity_id: str, command: C, *, key: str = "", raises: bool | None = None
    ) -> Accepted | Rejected:
        """Have the entity decide on a command; answered when what it decided is on disk.

        With ``raises`` a rejection is the BackhaulError ``entity.rejected``; without it an answer. Not given, it raises in
        ``act``, where an answer that nobody looks at would let the place move on, and nowhere else.
        """
        answer = await self._entities.ask(self._entity_type, entity_id, command, key=key)
        if isinstance(answer, Rejected) and (self._raises if raises is None else raises):
            raise refusals.rejected(answer)
        return answer

    async def state(self, entity_id: str) -> S:
        """The present state, as of a moment within this call."""
        return cast(S, (await self._entities.look(self._entity_type, entity_id)).state)


class StatesOf(Generic[V]):
    """Durable state of one type; errors are those of ``States``."""

    def __init__(self, states: States, entity_type: str) -> None:
        self._states = states
        self._entity_type = entity_type

    async def get(self, entity_id: str) -> Versioned[V]:
        """The value, or None with the revision that the next change goes on from."""
        return await self._states.get(self._entity_type, entity_id)

    async def query(
        self, *, tag: str = "", where: Sequence[Where] = (), after: str = "", max_rows: int = 100
    ) -> list[Versioned[V]]:
        """Values with this tag, for which all conditions hold, by entity id after ``after``."""
        return await self._states.query(self._entity_type, tag=tag, where=where, after=after, max_rows=max_rows)

    async def upsert(self, entity_id: str, value: V, *, expected: int | None = None) -> int:
        """Make ``value`` the stored one; returns its revision, when it is on disk."""
        return await self._states.upsert(self._entity_type, entity_id, value, expected=expected)

    async def delete(self, entity_id: str, *, expected: int | None = None) -> int:
        """Remove the value; returns the revision of that change."""
        return await self._states.delete(self._entity_type, entity_id, expected=expected)
