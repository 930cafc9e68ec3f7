"""What the nodes know of the edges, with a bounded history of each; nothing depends on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from common.journal.stores.origins import StoredRange

NOTES_MAX: Final = 500
"""Kept of an edge."""
HOURS_KEPT_US: Final = 2 * 86_400 * 1_000_000
"""How long summaries of an hour are kept; those of a day stay until there are too many notes."""
NODE_KEPT_US: Final = 7 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class FleetRow:
    """An edge as a node knew it at ``at_us``. ``facts`` is JSON (``core.fleet.facts``)."""

    origin_id: str
    session: int
    node: str
    at_us: int
    facts: str


@dataclass(frozen=True, slots=True)
class FleetNote:
    """A line of an edge's history: ``connected``, ``disconnected``, or a summary: ``hour``, ``day``."""

    origin_id: str
    at_us: int
    kind: str
    facts: str


@dataclass(frozen=True, slots=True)
class OriginTally:
    """Where an origin's events are in this journal.

    ``stored`` counts every event of the entities that it owns, also those that retention has removed since; ``parked``
    those that are set aside now; ``stated`` the numbers that will never come, by the reason that was given.
    """

    origin_id: str
    stored: int
    parked: int
    stated: Mapping[str, int]


class FleetStore(Protocol):
    """Three small tables, and questions over those of entities, parked events and stated ranges."""

    async def record(self, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]) -> None:
        """Store what ``node`` knows, in one transaction; a row of an older session than the stored one is left out.

        Of each edge with new notes the oldest beyond ``NOTES_MAX`` go, and summaries of hours older than ``HOURS_KEPT_US``.
        """

    async def rows(self, origin_ids: Collection[str] | None = None) -> list[FleetRow]:
        """The rows of these edges, or of all, by id."""

    async def notes(self, origin_id: str) -> list[FleetNote]:
        """An edge's history, oldest first."""

    async def tallies(self, origin_id: str | None = None) -> list[OriginTally]:
        """Of one origin or of all that ever pushed, by id. Reads all entities' heads: for questions of people."""

    async def stated(self, origin_id: str, most: int) -> list[StoredRange]:
        """What an origin stated as never to come, and what an operator gave up of it, newest first."""

    async def nodes(self) -> dict[str, int]:
        """When each node wrote last, microseconds; nodes of which nothing came for a week are not among them."""
