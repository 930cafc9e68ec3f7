"""Events that a projection's handler could not digest, set aside with those of their entity that came after.

They lie in a table that is a projection's table like any other: rows come and go in the commits that move offsets, so
an event is parked or has taken effect, never both and never neither. While an entity has rows here, what follows of it
is added behind them. An operator's decision is a change of rows that also takes the range from its owner
(``ProjectionStore.intervene``): the next one to hold it reads what was decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import COLUMNS, Envelope, EventBatch
from common.core.events.ids import SliceRange, slice_of
from common.core.journal.statement import Statement
from common.journal.stores.projections import ProjectionStore

SCHEMA: Final = "parked events of projections"
MIGRATIONS: Final = (
    (
        """
        CREATE TABLE projection_parked (
            projection TEXT NOT NULL,
            slice BIGINT NOT NULL,
            code TEXT NOT NULL,
            reason TEXT NOT NULL,
            tries BIGINT NOT NULL,
            is_wanted BIGINT NOT NULL,
            parked_us BIGINT NOT NULL,
            position BIGINT NOT NULL,
            timestamp_us BIGINT NOT NULL,
            stored_us BIGINT NOT NULL,
            event_time_us BIGINT NOT NULL,
            persistence_id TEXT NOT NULL,
            seq_nr BIGINT NOT NULL,
            prev_seq_nr BIGINT NOT NULL,
            origin_seq_nr BIGINT NOT NULL,
            event_type TEXT NOT NULL,
            codec TEXT NOT NULL,
            payload BYTEA NOT NULL,
            tags TEXT NOT NULL,
            metadata TEXT NOT NULL,
            PRIMARY KEY (projection, position)
        )
        """,
        "CREATE INDEX projection_parked_by_entity ON projection_parked (projection, persistence_id, position)",
    ),
    ("ALTER TABLE projection_parked ADD COLUMN is_snapshot BIGINT NOT NULL DEFAULT 0",),
)
_ABOUT: Final = ("projection", "slice", "code", "reason", "tries", "is_wanted", "parked_us")
_EVENT: Final = (
    "position", "timestamp_us", "stored_us", "event_time_us", "persistence_id", "seq_nr", "prev_seq_nr",
    "origin_seq_nr", "event_type", "codec", "payload", "tags", "metadata",
)  # fmt: skip
_ALL: Final = (*_ABOUT, *_EVENT, "is_snapshot")
# The same event may come once more where the offset is saved after it was parked (effects elsewhere).
_INSERT: Final = (
    f"INSERT INTO projection_parked ({', '.join(_ALL)}) "
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(_ALL) + 1))}) ON CONFLICT DO NOTHING"
)
_SELECT: Final = f"SELECT code, reason, tries, is_wanted, parked_us, {', '.join(_EVENT)} FROM projection_parked"
_OF_RANGE: Final = "projection = $1 AND slice BETWEEN $2 AND $3"
BEHIND: Final = "projection.parked_behind"


@dataclass(frozen=True, slots=True)
class ParkedForProjection:
    """One row: ``code`` and ``reason`` say why, ``tries`` how often it was tried again since."""

    code: str
    reason: str
    tries: int
    is_wanted: bool
    parked_us: int
    event: Envelope


async def make_tables(store: ProjectionStore) -> None:
    """See that there is a place for parked events."""
    await store.migrate(SCHEMA, MIGRATIONS)


async def parked_entities(store: ProjectionStore, name: str, slices: SliceRange) -> dict[str, int]:
    """Persistence id → number of parked events, of one range."""
    rows = await store.query(
        f"SELECT persistence_id, count(*) FROM projection_parked WHERE {_OF_RANGE} GROUP BY persistence_id",
        (name, slices.first, slices.last),
    )
    return {persistence_id: int(count) for persistence_id, count in rows}


async def wanted_entities(store: ProjectionStore, name: str, slices: SliceRange) -> list[str]:
    """Entities of one range whose parked events an operator wants tried again."""
    rows = await store.query(
        f"SELECT DISTINCT persistence_id FROM projection_parked WHERE {_OF_RANGE} AND is_wanted = 1"
        " ORDER BY persistence_id",
        (name, slices.first, slices.last),
    )
    return [persistence_id for (persistence_id,) in rows]


async def parked_events(
    store: ProjectionStore, name: str, *, persistence_id: str | None = None, after: int = 0, max_rows: int = 100
) -> list[ParkedForProjection]:
    """Parked events of a projection in log order, behind position ``after``."""
    condition, args = "", [name, after, max_rows]
    if persistence_id is not None:
        condition, args = " AND persistence_id = $4", [*args, persistence_id]
    rows = await store.query(
        f"{_SELECT} WHERE projection = $1 AND position > $2{condition} ORDER BY position LIMIT $3", args
    )
    return [
        ParkedForProjection(row[0], row[1], row[2], bool(row[3]), row[4], batch_of_row(row[5:]).envelope(0))
        for row in rows
    ]


def batch_of_row(row: Sequence[Any]) -> EventBatch:
    """The one event of a row as columns; what is not kept here (the tags before it) is empty."""
    kept = dict(zip(_EVENT, row, strict=True))
    return EventBatch(**{name: [kept.get(name, "")] for name in COLUMNS})


async def first_parked(store: ProjectionStore, name: str, persistence_id: str) -> tuple[EventBatch, bool]:
    """The first parked event of an entity, as columns, and whether it is a snapshot; none when there is none left."""
    rows = await store.query(
        f"SELECT is_snapshot, {', '.join(_EVENT)} FROM projection_parked WHERE projection = $1 AND persistence_id = $2"
        " ORDER BY position LIMIT 1",
        (name, persistence_id),
    )
    return (batch_of_row(rows[0][1:]), bool(rows[0][0])) if rows else (EventBatch(), False)


# -- statements for the commits of the range's owner ----------------------------------------------------------------
def park(
    name: str,
    events: EventBatch,
    reasons: Sequence[tuple[str, str]],
    now_us: int,
    replaced: frozenset[str] = frozenset(),
) -> Statement:
    """Set ``events`` aside, each with code and reason; those of ``replaced`` entities are snapshots."""
    about = [
        (name, slice_of(persistence_id), code, reason, 0, 0, now_us)
        for persistence_id, (code, reason) in zip(events.persistence_id, reasons, strict=True)
    ]
    kept = zip(*(getattr(events, column) for column in _EVENT), strict=True)
    snapshots = (int(persistence_id in replaced) for persistence_id in events.persistence_id)
    return Statement(
        _INSERT, [(*row, *event, is_one) for row, event, is_one in zip(about, kept, snapshots, strict=True)]
    )


def done(name: str, position: int) -> Statement:
    """A parked event has taken effect."""
    return Statement("DELETE FROM projection_parked WHERE projection = $1 AND position = $2", [(name, position)])


def failed_again(name: str, persistence_id: str, position: int, error: BackhaulError) -> list[Statement]:
    """A parked event was tried and still does not take: the entity waits for the next decision."""
    return [
        Statement(
            "UPDATE projection_parked SET is_wanted = 0 WHERE projection = $1 AND persistence_id = $2",
            [(name, persistence_id)],
        ),
        Statement(
            "UPDATE projection_parked SET tries = tries + 1, code = $3, reason = $4"
            " WHERE projection = $1 AND position = $2",
            [(name, position, error.code, error.message)],
        ),
    ]


# -- an operator's decisions --------------------------------------------------------------------------------------------
async def want(store: ProjectionStore, name: str, persistence_id: str) -> int:
    """Have an entity's parked events tried again by the range's owner; returns how many there are."""
    await make_tables(store)
    waiting = await store.query(
        "SELECT count(*) FROM projection_parked WHERE projection = $1 AND persistence_id = $2", (name, persistence_id)
    )
    if waiting[0][0]:
        wish = "UPDATE projection_parked SET is_wanted = 1 WHERE projection = $1 AND persistence_id = $2"
        await store.intervene(name, [Statement(wish, [(name, persistence_id)])])
    return int(waiting[0][0])


async def discard(store: ProjectionStore, name: str, position: int) -> ParkedForProjection:
    """Drop the first parked event of its entity for good; returns it.

    Raises:
        BackhaulError: ``parked.no_such_row``, ``parked.not_first``.
    """
    await make_tables(store)
    found = await parked_events(store, name, after=position - 1, max_rows=1)
    if not found or found[0].event.position != position:
        raise no_such_row(name, position)
    persistence_id = found[0].event.persistence_id
    first, _ = await first_parked(store, name, persistence_id)
    if first.position != [position]:
        raise BackhaulError(
            "parked.not_first",
            f"event {position} waits behind an earlier one of {persistence_id}",
            "retry or discard the first parked event of the entity",
            kind=ErrorKind.CONFLICT,
        )
    await store.intervene(name, [done(name, position)])
    return found[0]


def no_such_row(name: str, position: int) -> BackhaulError:
    """Nothing is parked there."""
    return BackhaulError(
        "parked.no_such_row",
        f"projection {name[:80]!r} has no parked event {position}",
        "list its parked events again: it may have taken effect or been discarded meanwhile",
        kind=ErrorKind.NOT_FOUND,
    )


def forget_all(name: str) -> Statement:
    """Drop everything a projection has parked: it begins again, or is no more."""
    return Statement("DELETE FROM projection_parked WHERE projection = $1", [(name,)])
