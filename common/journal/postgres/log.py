"""Reading the log, and taking its oldest part away. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import SEPARATOR, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import BLOCK_BITS, Selection
from common.core.journal.admission import EntityHead, Heads
from common.fail_points import fail_point
from common.journal.postgres import selected
from common.journal.postgres.connection import SCHEMA
from common.journal.stores.journal import JournalStats, LogPage, TrimLimit

_NAMES_MAX = 100_000

_COLUMNS = (
    "position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, seq_nr - 1, origin_seq_nr,"
    " event_type, codec, payload, tags, metadata, prev_tags"
)
_ENTITY_COLUMN, _PAYLOAD_COLUMN = 4, 10


class EntityNameCache:
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


async def _batch(connection: asyncpg.Connection, names: EntityNameCache, columns: list[list[Any]]) -> EventBatch:
    columns[_ENTITY_COLUMN] = await names.of(connection, columns[_ENTITY_COLUMN])
    return EventBatch(*columns)


# The first event always fits; the first one that does not comes without its payload and says that there is more.
_PAGE = f"""
    SELECT position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, prev, origin_seq_nr, event_type, codec,
           CASE WHEN number = 1 OR number <= $2 AND size <= $3 THEN payload END AS payload, tags, metadata, prev_tags
    FROM (
        SELECT *, row_number() OVER log AS number,
               sum(octet_length(payload) + {EVENT_OVERHEAD_BYTES}) OVER log AS size
        FROM ({{wanted}}) AS wanted
        WINDOW log AS (ORDER BY position ROWS UNBOUNDED PRECEDING)
    ) AS measured
    WHERE number <= 2 OR size - octet_length(payload) - {EVENT_OVERHEAD_BYTES} <= $3
"""
_WANTED = _COLUMNS.replace("seq_nr - 1", "seq_nr - 1 AS prev")
# Head and rows come from one snapshot, so a position that is missing at or below the head was deleted.
_ALONG_THE_LOG = f"""
SELECT h.position, h.through, e.* FROM (SELECT position, {{through}} AS through FROM head) AS h
LEFT JOIN LATERAL (
    {_PAGE.format(wanted=f"SELECT {_WANTED} FROM event WHERE position > $1 {{condition}} ORDER BY position LIMIT $2 + 1")}
) AS e ON true ORDER BY e.position
"""
_WHOLE_PAGE = _ALONG_THE_LOG.format(through="position", condition="")
_BOUND = (
    f"coalesce((SELECT position FROM event WHERE position > $1 ORDER BY position OFFSET {selected.POSITIONS_PER_LOOK}"
    " LIMIT 1), position)"
)
# Only positions that a look before it found, all of them at or below its head. The order is that of the stretches.
_IN_STRETCHES = _PAGE.format(
    wanted=f"SELECT {_WANTED} FROM unnest($1::bigint[], $4::bigint[]) WITH ORDINALITY AS s (low, high, i)"
    " CROSS JOIN LATERAL (SELECT * FROM event WHERE position BETWEEN s.low AND s.high {condition} ORDER BY position"
    " LIMIT $2 + 1) AS event ORDER BY s.i, position LIMIT $2 + 1"
)
# A value to compare, not an EXISTS: that could become a join, which looks at every event before the first is found.
TYPE_CONDITION = (
    " AND split_part((SELECT persistence_id FROM entity WHERE entity.entity_no = event.entity_no),"
    f" '{SEPARATOR}', 1) = ANY (${{}}::text[])"
)


async def read(
    connection: asyncpg.Connection,
    names: EntityNameCache,
    after: int,
    *,
    through: int | None,
    max_events: int,
    max_bytes: int,
    slices: SliceRange,
    selection: Selection,
) -> LogPage:
    """See ``Journal.read``; with a condition a page may end before its bounds (``through`` says where)."""
    in_slices = "" if slices.is_all else f" AND slice BETWEEN {slices.first} AND {slices.last}"
    args: list[Any]
    if selection.is_all:
        sql, args = _WHOLE_PAGE, [after, max_events, max_bytes]
        if in_slices or through is not None:
            bound = _BOUND if in_slices else "position"
            if through is not None:
                bound = f"least({bound}, $4)"
                args.append(through)
            sql = _ALONG_THE_LOG.format(through=bound, condition=f"AND position <= h.through{in_slices}")
        rows = await connection.fetch(sql, *args)
        head, done, *_ = rows[0]
        rows = [] if rows[0][2] is None else [row[2:] for row in map(tuple, rows)]
    else:
        where, done, head = await selected.look(
            connection, selection, after=after, through=through, max_events=max_events
        )
        args = [[low for low, _ in where], max_events, max_bytes, [high for _, high in where]]
        condition = in_slices
        if not selection.has_keys:
            args.append(sorted(selection.entity_types))
            condition += TYPE_CONDITION.format(len(args))
        rows = where and await connection.fetch(_IN_STRETCHES.format(condition=condition), *args)
    if not rows:
        return LogPage(EventBatch(), max(done, min(after, head)), head)
    columns = list(map(list, zip(*rows, strict=True)))
    payloads = columns[_PAYLOAD_COLUMN]
    fit = len(payloads)
    while payloads[fit - 1] is None:
        fit -= 1
    if fit < len(payloads):
        columns = [column[:fit] for column in columns]
        done = columns[0][-1]
    return LogPage(selection.of(await _batch(connection, names, columns)), done, head)


async def read_entity(
    connection: asyncpg.Connection,
    names: EntityNameCache,
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


async def read_entities(
    connection: asyncpg.Connection, names: EntityNameCache, known: Mapping[str, int], each_max: int
) -> EventBatch:
    """See ``Journal.read_entities``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM event JOIN ("
        "  SELECT found.entity_no AS no, asked.known FROM unnest($1::text[], $2::bigint[]) AS asked (name, known)"
        "  JOIN entity AS found ON found.persistence_id = asked.name"
        ") AS asked ON event.entity_no = asked.no AND event.seq_nr BETWEEN asked.known + 1 AND asked.known + $3"
        " ORDER BY event.entity_no, event.seq_nr",
        list(known),
        list(known.values()),
        each_max,
    )
    return await _batch(connection, names, list(map(list, zip(*rows, strict=True)))) if rows else EventBatch()


async def entity_numbers(connection: asyncpg.Connection, names: Iterable[str]) -> tuple[int, Heads]:
    """The log's last position and, of these entities, the heads of those that exist: their numbers only."""
    rows = await connection.fetch(
        "SELECT head.position, entity.persistence_id, entity.seq_nr"
        " FROM head LEFT JOIN entity ON entity.persistence_id = ANY ($1::text[])",
        list(names),
    )
    return rows[0]["position"], {name: EntityHead(name, seq_nr) for _, name, seq_nr in rows if name is not None}


async def entity_head(connection: asyncpg.Connection, persistence_id: str) -> EntityHead | None:
    """See ``Journal.entity_head``."""
    row = await connection.fetchrow(
        "SELECT persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, coalesce(deleted_to, 0),"
        " coalesce(deleted_position, 0), coalesce(reason, ''), tags"
        " FROM entity LEFT JOIN entity_deleted USING (entity_no) WHERE persistence_id = $1",
        persistence_id,
    )
    return EntityHead(*row) if row else None


async def stats(connection: asyncpg.Connection) -> tuple[JournalStats, str]:
    """See ``Journal.stats``; and the generations as they are stored now."""
    *row, generations = await connection.fetchrow(
        "SELECT head.position, head.timestamp_us, deleted_through,"
        " coalesce((SELECT min(position) FROM event), head.position + 1),"
        " (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        "  WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'), 0,"
        " (SELECT coalesce(sum(parked), 0)::bigint FROM origin), generations FROM head, journal",
        SCHEMA,
    )
    return JournalStats(*row), generations


async def deleted_ranges(
    connection: asyncpg.Connection, after: int, through: int, max_rows: int | None
) -> list[StatedRange]:
    """See ``Journal.deleted_ranges``."""
    rows = await connection.fetch(
        "SELECT persistence_id, 1, deleted_to, reason FROM entity_deleted JOIN entity USING (entity_no)"
        " WHERE deleted_position > $1 AND deleted_position <= $2 ORDER BY deleted_position LIMIT $3",
        after,
        through,
        max_rows,
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
), doomed AS (  -- common.core.journal.retention.old_enough
    SELECT position, entity_no, seq_nr FROM oldest
    WHERE position <= (
        SELECT max(position) FROM oldest WHERE stored_us < $2 AND position < coalesce(
            (SELECT min(position) FROM oldest WHERE stored_us >= $2 AND stored_us <= $6), $1 + 1)
    )
), gone AS (
    DELETE FROM event USING doomed WHERE event.position = doomed.position
    RETURNING event.position, tags || E'\\x1f' || prev_tags AS tags
), forgotten AS (
    DELETE FROM event_tag USING (
        SELECT DISTINCT tag, position FROM gone, unnest(string_to_array(gone.tags, E'\\x1f')) AS t (tag) WHERE tag <> ''
    ) AS t WHERE event_tag.tag = t.tag AND event_tag.position = t.position
), kept AS (
    INSERT INTO entity_deleted AS d (entity_no, deleted_to, deleted_position, reason)
    SELECT entity_no, max(seq_nr), max(position), $4 FROM doomed GROUP BY entity_no
    ON CONFLICT (entity_no) DO UPDATE
    SET deleted_to = excluded.deleted_to, deleted_position = excluded.deleted_position, reason = excluded.reason
), floor AS (
    UPDATE journal SET deleted_through = greatest(deleted_through, (SELECT max(position) FROM doomed))
)
SELECT count(*), array_agg(DISTINCT position >> {BLOCK_BITS}), (SELECT position FROM head) FROM doomed
"""
# Blocks that have no event of a type any more, but not that of the head as it was before: an append may count on it.
_TRIM_BLOCKS = f"""
WITH RECURSIVE types (entity_type) AS (
    (SELECT entity_type FROM type_block ORDER BY entity_type LIMIT 1)
    UNION ALL
    SELECT (
        SELECT b.entity_type FROM type_block AS b WHERE b.entity_type > types.entity_type ORDER BY b.entity_type LIMIT 1
    ) FROM types WHERE types.entity_type IS NOT NULL
), floor AS (
    SELECT least(coalesce((SELECT min(position) FROM event), $2 + 1), $2 + 1) >> {BLOCK_BITS} AS block
), below AS (
    DELETE FROM type_block AS b USING types, floor WHERE b.entity_type = types.entity_type AND b.block < floor.block
)
DELETE FROM type_block AS b USING types, floor, unnest($1::bigint[]) AS lost (block)
WHERE b.entity_type = types.entity_type AND b.block = lost.block
  AND b.block >= floor.block AND b.block < $2 >> {BLOCK_BITS}
  AND NOT EXISTS (
    SELECT FROM event JOIN entity USING (entity_no)
    WHERE position >= b.block << {BLOCK_BITS} AND position < (b.block + 1) << {BLOCK_BITS}
      AND split_part(persistence_id, '{SEPARATOR}', 1) = b.entity_type
  )
"""


async def trim(connection: asyncpg.Connection, limit: TrimLimit, now_us: int) -> int:
    """See ``Journal.trim``. Never waits for appends, nor they for it: no row of theirs is touched."""
    args: list[Any] = [limit.through, limit.stored_before_us, limit.max_events, limit.reason, limit.after, now_us]
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
        row = await connection.fetchrow(_TRIM.format(condition=condition, BLOCK_BITS=BLOCK_BITS), *args)
        removed: int = row[0]
        if removed:
            await connection.execute(_TRIM_BLOCKS, row[1], row[2])
        fail_point("trim.before_commit")
    return removed


async def event_bytes(connection: asyncpg.Connection, after: int, through: int) -> int:
    """See ``Journal.event_bytes``."""
    size: int = await connection.fetchval(
        f"SELECT coalesce(sum(octet_length(payload) + {EVENT_OVERHEAD_BYTES}), 0)::bigint FROM event"
        " WHERE position > $1 AND position <= $2",
        after,
        through,
    )
    return size


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
