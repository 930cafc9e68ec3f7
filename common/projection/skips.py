"""Events that a projection leaves out: by its policy, or because an operator said so of one that stands in its way.

An operator's decision is stored until its range has passed the event, whichever node runs the range then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import slice_of
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionStore

SCHEMA: Final = "skipped events of projections"
MIGRATIONS: Final = (
    (
        "CREATE TABLE projection_skip (projection TEXT NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (projection, position))",
    ),
)
BY_OPERATOR: Final = ("projection.skipped_by_operator", "an operator decided that it is left out")


@dataclass(slots=True)
class Skips:
    """The events that one range leaves out when it comes to them: position → (code, reason)."""

    name: str
    found: dict[int, tuple[str, str]] = field(default_factory=dict)

    def begin(self, decided: Iterable[int], after: int) -> None:
        """Take over what operators ``decided`` about events behind ``after``; what the policy skips is not stored."""
        self.found = {position: why for position, why in self.found.items() if position > after}
        self.found |= {position: BY_OPERATOR for position in decided if position > after}

    def add(self, position: int, error: BackhaulError) -> None:
        """The event has had its chances, and the policy is to skip it."""
        self.found[position] = (error.code, error.message)

    def split(self, events: EventBatch) -> tuple[EventBatch, EventBatch]:
        """The events that stay, and those that are left out."""
        if not self.found or not events:
            return events, EventBatch()
        skipped = [index for index, position in enumerate(events.position) if position in self.found]
        if not skipped:
            return events, EventBatch()
        kept = [index for index, position in enumerate(events.position) if position not in self.found]
        return events.select(kept), events.select(skipped)

    def done(self, skipped: EventBatch) -> list[Statement]:
        """What the commit that passes them does: a decision is used once."""
        rows = [(self.name, position) for position in skipped.position if self.found[position] == BY_OPERATOR]
        return [Statement("DELETE FROM projection_skip WHERE projection = $1 AND position = $2", rows)] if rows else []


async def make_tables(store: ProjectionStore) -> None:
    """See that there is a place for decisions."""
    await store.migrate(SCHEMA, MIGRATIONS)


async def all_decided(store: ProjectionStore) -> Mapping[str, Sequence[int]]:
    """What operators have decided, by projection: few rows, since each is deleted when its event is passed."""
    decided: dict[str, list[int]] = defaultdict(list)
    for name, position in await store.query("SELECT projection, position FROM projection_skip"):
        decided[name].append(int(position))
    return decided


async def skip(journal: Journal, name: str, position: int) -> EventBatch:
    """Have a projection leave out the event at ``position``, which it has not passed; returns the event.

    Raises:
        BackhaulError: ``projection.no_such_event``, ``projection.passed``.
    """
    await make_tables(journal.projections)
    page = await journal.log.read(position - 1, max_events=1, max_bytes=1)
    if not page.events or page.events.position[0] != position:
        raise BackhaulError(
            "projection.no_such_event",
            f"the log has no event at position {position}",
            "take the position from `projections list` or the log's projection.failed",
            kind=ErrorKind.NOT_FOUND,
        )
    wanted = slice_of(page.events.persistence_id[0])
    at: Sequence[int] = [
        row.position
        for row in await journal.projections.rows()
        if row.name == name and row.slices.first <= wanted <= row.slices.last
    ]
    if not at or at[0] >= position:
        raise BackhaulError(
            "projection.passed",
            f"projection {name[:80]!r} has no range that still comes to position {position}",
            "list the projections: it may have taken effect, been parked, or been skipped meanwhile",
            kind=ErrorKind.CONFLICT,
        )
    insert = "INSERT INTO projection_skip (projection, position) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    await journal.projections.intervene(name, [Statement(insert, [(name, position)])])
    return page.events
