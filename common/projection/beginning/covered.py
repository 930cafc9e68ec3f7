"""Up to which number each entity was led by a snapshot or a mark, while the log behind may still have such numbers.

Two tables that are a projection's like any other: rows come with the commits that led the range over what they say, and go when
it has passed the log's end of that time. A range that was interrupted on its way, was split or merged, goes through the
snapshots again and takes those that say more than its rows do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange, slice_of
from common.core.journal.statement import Statement
from common.journal.stores.projections import ProjectionStore

SCHEMA: Final = "beginnings of projections"
MIGRATIONS: Final = (
    (
        # Of a slice: deletions up to this position are dealt with.
        "CREATE TABLE projection_settled (projection TEXT NOT NULL, slice BIGINT NOT NULL, position BIGINT NOT NULL,"
        " PRIMARY KEY (projection, slice))",
        "CREATE TABLE projection_covered (projection TEXT NOT NULL, persistence_id TEXT NOT NULL, slice BIGINT NOT NULL,"
        " seq_nr BIGINT NOT NULL, PRIMARY KEY (projection, persistence_id))",
    ),
)
_COVER: Final = (
    "INSERT INTO projection_covered (projection, persistence_id, slice, seq_nr) VALUES ($1, $2, $3, $4)"
    " ON CONFLICT (projection, persistence_id) DO UPDATE SET seq_nr = excluded.seq_nr"
)
_SETTLE: Final = (
    "INSERT INTO projection_settled (projection, slice, position) VALUES ($1, $2, $3)"
    " ON CONFLICT (projection, slice) DO UPDATE SET position = excluded.position"
)
# Names are asked for by so many: one text, which both databases keep prepared.
_NAMES: Final = 100
_FIND: Final = (
    "SELECT persistence_id, seq_nr FROM projection_covered WHERE projection = $1 AND persistence_id IN ("
    + ", ".join(f"${number}" for number in range(2, 2 + _NAMES))
    + ")"
)


@dataclass(slots=True)
class Covered:
    """The numbers that one range passes over; up to position ``through`` the log may have such."""

    store: ProjectionStore
    name: str
    through: int = 0

    async def without(self, events: EventBatch) -> EventBatch:
        """The events of a page that are behind their entity's number."""
        if not events or events.position[0] > self.through:
            return events
        found = await self.find(events.persistence_id)
        rows = enumerate(zip(events.persistence_id, events.seq_nr, strict=True))
        kept = [index for index, (name, seq_nr) in rows if seq_nr > found.get(name, 0)]
        return events if len(kept) == len(events) else events.select(kept)

    async def find(self, names: Iterable[str]) -> Mapping[str, int]:
        """The numbers of those of these entities that have one."""
        wanted = sorted(set(names))
        found: dict[str, int] = {}
        for start in range(0, len(wanted), _NAMES):
            some = wanted[start : start + _NAMES]
            rows = await self.store.query(_FIND, (self.name, *some, *[""] * (_NAMES - len(some))))
            found.update({name: int(seq_nr) for name, seq_nr in rows})
        return found


async def make_tables(store: ProjectionStore) -> None:
    """See that there is a place for the numbers."""
    await store.migrate(SCHEMA, MIGRATIONS)


async def settled(store: ProjectionStore, name: str, slices: SliceRange) -> tuple[int, int]:
    """Up to which position the deletions of all these slices are dealt with, and those of any of them; 0 = of none."""
    rows = await store.query(
        "SELECT position FROM projection_settled WHERE projection = $1 AND slice BETWEEN $2 AND $3",
        (name, slices.first, slices.last),
    )
    positions = [int(position) for (position,) in rows]
    is_whole = len(positions) == slices.last - slices.first + 1
    return (min(positions) if is_whole else 0), max(positions, default=0)


async def any_of(store: ProjectionStore, name: str, slices: SliceRange) -> bool:
    """Whether an entity of these slices has a number; the log of now may have it anywhere."""
    rows = await store.query(
        "SELECT seq_nr FROM projection_covered WHERE projection = $1 AND slice BETWEEN $2 AND $3 LIMIT 1",
        (name, slices.first, slices.last),
    )
    return bool(rows)


# -- statements -----------------------------------------------------------------------------------------------------
def cover(name: str, events: EventBatch) -> Statement:
    """These events lead their entities to their numbers."""
    rows = zip(events.persistence_id, events.seq_nr, strict=True)
    return Statement(_COVER, [(name, entity, slice_of(entity), seq_nr) for entity, seq_nr in rows])


def settle(name: str, slices: SliceRange, position: int) -> Statement:
    """The deletions up to a position are dealt with."""
    return Statement(_SETTLE, [(name, slice_, position) for slice_ in range(slices.first, slices.last + 1)])


def accept(name: str, position: int) -> list[Statement]:
    """An operator's decision: the projection goes on with what is left of the log up to a position."""
    return [*forget(name), settle(name, ALL_SLICES, position)]


def forget(name: str, slices: SliceRange = ALL_SLICES) -> Sequence[Statement]:
    """Nothing is known of these slices: they are past all of it, or begin again."""
    condition = "WHERE projection = $1 AND slice BETWEEN $2 AND $3"
    row = (name, slices.first, slices.last)
    return [
        Statement(f"DELETE FROM projection_settled {condition}", [row]),
        Statement(f"DELETE FROM projection_covered {condition}", [row]),
    ]
