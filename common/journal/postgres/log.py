"""Reading the log, and taking its oldest part away. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from common.core.append import StatedRange
from common.core.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.ids import SEPARATOR, SliceRange
from common.core.judge import EntityHead
from common.fail_points import fail_point
from common.journal.interface import JournalStats, LogPage, TrimLimit
from common.journal.postgres.connection import SCHEMA

# With a condition a statement looks through at most so many events, however few it finds.
_LOOK_MAX_EVENTS = 50_000
_NAMES_MAX = 100_000

_COLUMNS = (
    "position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, seq_nr - 1, origin_seq_nr,"
    " event_type, codec, payload, tags, metadata"
)
_ENTITY_COLUMN = 4


class EntityNames:
    """Names by number, as far as they were needed; a name never changes. One for each session."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def clear(self) -> None:
        """Forget them all."""
        self._names.clear()

    async def of(self, connection: asyncpg.Connection, numbers: Sequence[int]) -> list[str]:
        """The name for each number."""
        missing = set(numbers) - self._names.keys()
        if missing:
            if len(self._names) > _NAMES_MAX:
                self._names.clear()
                missing = set(numbers)
            rows = await connection.fetch(
                "SELECT entity_no, persistence_id FROM entity WHERE entity_no = ANY ($1::bigint[])", sorted(missing)
            )
            self._names.update(map(tuple, rows))
        return list(map(self._names.__getitem__, numbers))


async def _batch(connection: asyncpg.Connection, names: EntityNames, columns: list[list[Any]]) -> EventBatch:
    columns[_ENTITY_COLUMN] = await names.of(connection, columns[_ENTITY_COLUMN])
    return EventBatch(*columns)


# Head and rows come from one snapshot, so a position that is missing at or below the head was deleted. The first event
# always fits; the first one that does not comes without its payload and says that there is more.
_PAGE = f"""
SELECT h.position, h.through, e.* FROM (SELECT position, {{through}} AS through FROM head) AS h
LEFT JOIN LATERAL (
    SELECT position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, prev, origin_seq_nr, event_type, codec,
           CASE WHEN number = 1 OR number <= $2 AND size <= $3 THEN payload END AS payload, tags, metadata
    FROM (
        SELECT *, row_number() OVER log AS number,
               sum(octet_length(payload) + {EVENT_OVERHEAD_BYTES}) OVER log AS size
        FROM (
            SELECT {_COLUMNS.replace("seq_nr - 1", "seq_nr - 1 AS prev")} FROM event
            WHERE position > $1 {{condition}} ORDER BY position LIMIT $2 + 1
        ) AS wanted
        WINDOW log AS (ORDER BY position ROWS UNBOUNDED PRECEDING)
    ) AS measured
    WHERE number <= 2 OR size - octet_length(payload) - {EVENT_OVERHEAD_BYTES} <= $3
) AS e ON true ORDER BY e.position
"""
_WHOLE_PAGE = _PAGE.format(through="position", condition="")
_BOUND = (
    f"coalesce((SELECT position FROM event WHERE position > $1 ORDER BY position OFFSET {_LOOK_MAX_EVENTS} LIMIT 1),"
    " position)"
)
TYPE_CONDITION = (
    " AND EXISTS (SELECT FROM entity WHERE entity.entity_no = event.entity_no"
    f" AND split_part(persistence_id, '{SEPARATOR}', 1) = ANY (${{}}::text[]))"
)


async def read(
    connection: asyncpg.Connection,
    names: EntityNames,
    after: int,
    *,
    max_events: int,
    max_bytes: int,
    slices: SliceRange,
    entity_type: str | None,
) -> LogPage:
    """See ``Journal.read``; with a condition a page may end before its bounds (``through`` says where)."""
    args: list[Any] = [after, max_events, max_bytes]
    condition = "AND position <= h.through"
    if not slices.is_all:
        condition += f" AND slice BETWEEN ${len(args) + 1} AND ${len(args) + 2}"
        args += [slices.first, slices.last]
    if entity_type is not None:
        args.append([entity_type])
        condition += TYPE_CONDITION.format(len(args))
    whole = len(args) == 3
    sql = _WHOLE_PAGE if whole else _PAGE.format(through=_BOUND, condition=condition)
    rows = await connection.fetch(sql, *args)
    head, through, *_ = rows[0]
    if rows[0][2] is None:
        return LogPage(EventBatch(), max(through, min(after, head)), head)
    _, _, *columns = map(list, zip(*rows, strict=True))
    payloads = columns[10]
    fit = len(payloads)
    while payloads[fit - 1] is None:
        fit -= 1
    if fit < len(payloads):
        columns = [column[:fit] for column in columns]
        through = columns[0][-1]
    return LogPage(await _batch(connection, names, columns), through, head)


async def read_entity(
    connection: asyncpg.Connection,
    names: EntityNames,
    persistence_id: str,
    from_seq_nr: int,
    to_seq_nr: int,
    max_events: int,
) -> EventBatch:
    """See ``Journal.read_entity``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM event WHERE entity_no = (SELECT entity_no FROM entity WHERE persistence_id = $1)"
        " AND seq_nr BETWEEN $2 AND $3 ORDER BY seq_nr LIMIT $4",
        persistence_id,
        from_seq_nr,
        to_seq_nr,
        max_events,
    )
    return await _batch(connection, names, list(map(list, zip(*rows, strict=True)))) if rows else EventBatch()


async def entity_head(connection: asyncpg.Connection, persistence_id: str) -> EntityHead | None:
    """See ``Journal.entity_head``."""
    row = await connection.fetchrow(
        "SELECT persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, coalesce(deleted_to, 0),"
        " coalesce(deleted_position, 0), coalesce(reason, '')"
        " FROM entity LEFT JOIN entity_deleted USING (entity_no) WHERE persistence_id = $1",
        persistence_id,
    )
    return EntityHead(*row) if row else None


async def stats(connection: asyncpg.Connection) -> JournalStats:
    """See ``Journal.stats``."""
    row = await connection.fetchrow(
        "SELECT head.position, head.timestamp_us, deleted_through,"
        " coalesce((SELECT min(position) FROM event), head.position + 1),"
        " (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        "  WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'), 0,"
        " (SELECT coalesce(sum(parked), 0)::bigint FROM origin) FROM head, journal",
        SCHEMA,
    )
    return JournalStats(*row)


async def deleted_ranges(connection: asyncpg.Connection, after: int, through: int) -> list[StatedRange]:
    """See ``Journal.deleted_ranges``."""
    rows = await connection.fetch(
        "SELECT persistence_id, 1, deleted_to, reason FROM entity_deleted JOIN entity USING (entity_no)"
        " WHERE deleted_position > $1 AND deleted_position <= $2 ORDER BY deleted_position",
        after,
        through,
    )
    return [StatedRange(*row) for row in rows]


_COVERED = (
    "EXISTS (SELECT FROM snapshot WHERE snapshot.entity_no = event.entity_no AND snapshot.seq_nr >= event.seq_nr)"
)
# Whoever begins in the middle must not leave an entity's older events behind.
_OLDEST_IS_AFTER = (
    " AND (SELECT oldest.position FROM event AS oldest WHERE oldest.entity_no = event.entity_no"
    " ORDER BY oldest.seq_nr LIMIT 1) > $5"
)
_TRIM = """
WITH oldest AS (
    SELECT position, entity_no, seq_nr, stored_us FROM event
    WHERE position > $5 AND position <= $1 {condition} ORDER BY position LIMIT $3
), doomed AS (  -- up to the first that is too young: the clock may have stepped back between two events of an entity
    SELECT position, entity_no, seq_nr FROM oldest
    WHERE position < coalesce((SELECT min(position) FROM oldest WHERE stored_us >= $2), $1 + 1)
), gone AS (
    DELETE FROM event USING doomed WHERE event.position = doomed.position
), kept AS (
    INSERT INTO entity_deleted AS d (entity_no, deleted_to, deleted_position, reason)
    SELECT entity_no, max(seq_nr), max(position), $4 FROM doomed GROUP BY entity_no
    ON CONFLICT (entity_no) DO UPDATE
    SET deleted_to = excluded.deleted_to, deleted_position = excluded.deleted_position, reason = excluded.reason
), floor AS (
    UPDATE journal SET deleted_through = greatest(deleted_through, (SELECT max(position) FROM doomed))
)
SELECT count(*) FROM doomed
"""


async def trim(connection: asyncpg.Connection, limit: TrimLimit) -> int:
    """See ``Journal.trim``. Never waits for appends, nor they for it: no row of theirs is touched."""
    args: list[Any] = [limit.through, limit.stored_before_us, limit.max_events, limit.reason, limit.after]
    condition = ""
    if limit.entity_types:
        args.append(sorted(limit.entity_types))
        condition = TYPE_CONDITION.format(len(args))
    if limit.covered_types:
        args.append(sorted(limit.covered_types))
        condition += f" AND ({_COVERED} OR NOT (true {TYPE_CONDITION.format(len(args))}))"
    if limit.after:
        condition += _OLDEST_IS_AFTER
    async with connection.transaction():
        # One at a time: two nodes may want the same events.
        await connection.execute("SELECT FROM journal FOR UPDATE")
        removed: int = await connection.fetchval(_TRIM.format(condition=condition), *args)
        fail_point("trim.before_commit")
    return removed


async def forget_append_ids(connection: asyncpg.Connection, stored_before_us: int, max_rows: int) -> int:
    """See ``Journal.forget_append_ids``."""
    removed: int = await connection.fetchval(
        "WITH old AS (SELECT append_id FROM append_id WHERE stored_us < $1 ORDER BY stored_us LIMIT $2),"
        " gone AS (DELETE FROM append_id USING old WHERE append_id.append_id = old.append_id RETURNING 1)"
        " SELECT count(*) FROM gone",
        stored_before_us,
        max_rows,
    )
    return removed
