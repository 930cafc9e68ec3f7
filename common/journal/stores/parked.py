"""Events set aside with the reason, in the order they came; an operator retries or discards them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.core.events.batch import Envelope
from common.core.journal.ownership import MayWrite, Transfer


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """An event set aside, as it came; ``id`` orders the rows of an entity."""

    id: int
    origin_id: str
    code: str
    parked_us: int
    event: Envelope


class ParkedStore(Protocol):
    """What did not fit: gaps, conflicts, poison, and all of an entity that came behind such an event."""

    async def rows(self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000) -> list[ParkedRow]:
        """Parked events in order of id."""

    async def row(self, row_id: int) -> ParkedRow | None:
        """One parked event with its payload."""

    async def retry(
        self, persistence_id: str, *, accept_gap: bool, may_write: MayWrite | None = None
    ) -> tuple[int, str]:
        """Judge an entity's parked events again, in order, and store those that fit; (how many, code of the first left).

        With ``accept_gap`` an operator accepts that numbers before the first parked event are missing: the jump is
        kept as a stated range with reason "accepted". An entity without a head gets the first parked origin that
        ``may_write`` lets write it as its owner; an owner that it does not let is not judged (``parked.not_allowed``).
        """

    async def transfer(self, persistence_id: str, to: str, *, accept_gap: bool) -> Transfer:
        """Make an origin the entity's owner ('' is this service), a head included, and judge its parked events again.

        Raises:
            BackhaulError: ``origin.unknown``.
        """

    async def names(self, prefix: str, *, after: str = "", max_rows: int = 1_000) -> list[str]:
        """Entities that begin with the prefix and have a head or parked events, by code points, behind ``after``."""

    async def discard(self, row_id: int) -> bool:
        """Drop the first parked event of its entity for good: its number is kept as a stated range "discarded".

        Only the first one of an entity may go (``parked.not_first`` is raised otherwise); False when there is no such row.
        """
