"""The built-in projection ``latest``: the last event of every entity, ready to be asked for.

A batch costs one upsert per entity in it, not per event: the last one of each wins.
"""

from __future__ import annotations

from typing import Any, Final

from common.core.events.batch import EVENT_COLUMNS, Envelope, EventBatch, batch_of_row
from common.core.events.ids import persistence_id
from common.core.journal.statement import Statement
from common.journal.stores.projections import ProjectionStore
from common.projection.handlers import Handler

_CREATE: Final = """
CREATE TABLE latest (
    position BIGINT NOT NULL,
    timestamp_us BIGINT NOT NULL,
    stored_us BIGINT NOT NULL,
    event_time_us BIGINT NOT NULL,
    persistence_id TEXT NOT NULL PRIMARY KEY,
    seq_nr BIGINT NOT NULL,
    prev_seq_nr BIGINT NOT NULL,
    origin_seq_nr BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    codec TEXT NOT NULL,
    payload BYTEA NOT NULL,
    tags TEXT NOT NULL,
    metadata TEXT NOT NULL
)
"""

# The table's columns are an event's, so a row is an event and back without a mapping between them.
_UPSERT: Final = (
    f"INSERT INTO latest ({', '.join(EVENT_COLUMNS)}) "
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(EVENT_COLUMNS) + 1))}) "
    "ON CONFLICT (persistence_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in EVENT_COLUMNS if name != "persistence_id")
)
_SELECT: Final = f"SELECT {', '.join(EVENT_COLUMNS)} FROM latest WHERE persistence_id = $1"


def _rows(batch: EventBatch) -> list[tuple[Any, ...]]:
    return list(zip(*(getattr(batch, name) for name in EVENT_COLUMNS), strict=True))


def latest_statements(batch: EventBatch) -> list[Statement]:
    """The last event of each entity in a stretch of the log."""
    last = {entity: index for index, entity in enumerate(batch.persistence_id)}
    return [Statement(_UPSERT, _rows(batch.select(list(last.values()))))]


LATEST: Final = Handler(
    "latest", ((_CREATE,),), latest_statements, snapshots=True, reset=("DELETE FROM latest",), is_quick=True
)


async def latest_of(store: ProjectionStore, entity_type: str, entity_id: str) -> Envelope | None:
    """The last event of an entity that the projection has seen, or None when it has seen none.

    Raises:
        BackhaulError: ``entity.invalid_name``, or what the store raises.
    """
    rows = await store.query(_SELECT, (persistence_id(entity_type, entity_id),))
    return batch_of_row(rows[0]).envelope(0) if rows else None
