"""What an operator decides about an event that an entity cannot take: it is left out, or stands for another one.

The stored event stays as it is. A decision is used only when the event fails while the entity's state is made, so a state
never depends on one for an event that it can take; commands then go on on every node. Projections have decisions of
their own (``common.projection.skips``).
"""

from __future__ import annotations

from typing import Final

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.journal.statement import Statement
from common.entity.definition import Definition
from common.journal.stores.journal import Journal

SCHEMA: Final = "decisions about events of entities"
MIGRATIONS: Final = (
    (
        """
        CREATE TABLE entity_mend (
            persistence_id TEXT NOT NULL,
            seq_nr BIGINT NOT NULL,
            is_skipped BIGINT NOT NULL,
            event_type TEXT NOT NULL,
            codec TEXT NOT NULL,
            payload BYTEA NOT NULL,
            metadata TEXT NOT NULL,
            PRIMARY KEY (persistence_id, seq_nr)
        )
        """,
    ),
)
_UPSERT: Final = (
    "INSERT INTO entity_mend (persistence_id, seq_nr, is_skipped, event_type, codec, payload, metadata)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (persistence_id, seq_nr) DO UPDATE SET"
    " is_skipped = excluded.is_skipped, event_type = excluded.event_type, codec = excluded.codec,"
    " payload = excluded.payload, metadata = excluded.metadata"
)


async def mended(journal: Journal, events: EventBatch, seq_nr: object) -> EventBatch | None:
    """The events with what was decided about ``seq_nr``, which one of them has; None when nothing was."""
    if not isinstance(seq_nr, int) or seq_nr not in events.seq_nr:
        return None
    await journal.projections.migrate(SCHEMA, MIGRATIONS)
    index = events.seq_nr.index(seq_nr)
    rows = await journal.projections.query(
        "SELECT is_skipped, event_type, codec, payload, metadata FROM entity_mend"
        " WHERE persistence_id = $1 AND seq_nr = $2",
        (events.persistence_id[index], seq_nr),
    )
    if not rows:
        return None
    is_skipped, event_type, codec, payload, metadata = rows[0]
    if is_skipped:
        return events.select([other for other in range(len(events)) if other != index])
    instead = events.select(list(range(len(events))))
    now = (instead.event_type[index], instead.codec[index], instead.payload[index], instead.metadata[index])
    if now == (event_type, codec, payload, metadata):
        return None  # the other one fails too
    instead.event_type[index], instead.codec[index] = event_type, codec
    instead.payload[index], instead.metadata[index] = payload, metadata
    return instead


async def leave_out(journal: Journal, persistence_id: str, seq_nr: int) -> None:
    """Have the entity go on without an event that it cannot take.

    Raises:
        BackhaulError: ``entity.no_such_event``.
    """
    await _store(journal, persistence_id, seq_nr, 1, ("", "", b"", ""))


async def replace(
    journal: Journal, definition: Definition, persistence_id: str, seq_nr: int, event: tuple[str, str, bytes, str]
) -> None:
    """Have the entity take another event in place of one that it cannot take: event type, codec, payload, metadata.

    Raises:
        BackhaulError: ``entity.no_such_event``; ``events.unfit`` for an event that is of no type of the entity's.
    """
    event_type, codec, payload, metadata = event
    if definition.registry.class_of(event_type) is None:
        raise _unfit(f"{event_type[:80]!r} is no event of {definition.entity_type}")
    try:
        definition.registry.decode(event_type, codec, payload, metadata)
    except BackhaulError as error:
        raise _unfit(error.message) from error
    await _store(journal, persistence_id, seq_nr, 0, event)


async def _store(
    journal: Journal, persistence_id: str, seq_nr: int, is_skipped: int, event: tuple[str, str, bytes, str]
) -> None:
    if not await journal.log.read_entity(persistence_id, seq_nr, seq_nr, max_events=1):
        raise BackhaulError(
            "entity.no_such_event",
            f"{persistence_id} has no event {seq_nr}",
            "the failed command's answer names the number",
            kind=ErrorKind.NOT_FOUND,
        )
    await journal.projections.migrate(SCHEMA, MIGRATIONS)
    await journal.projections.intervene(SCHEMA, [Statement(_UPSERT, [(persistence_id, seq_nr, is_skipped, *event)])])


def _unfit(why: str) -> BackhaulError:
    return BackhaulError("events.unfit", f"the event in its place: {why}", "give one that the entity can take")
