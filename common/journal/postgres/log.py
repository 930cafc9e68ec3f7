"""Reading the log, and taking its oldest part away. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import asyncpg

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import ALL_SLICES, SEPARATOR, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import BLOCK_BITS, EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.journal.history import History, Offset
from common.fail_points import fail_point
from common.journal.commit_feed import CommitFeed
from common.journal.postgres import opening, selected
from common.journal.postgres.appends.group import Appends
from common.journal.postgres.connection import SCHEMA, refuse_newer
from common.journal.postgres.offsets import load_cursor, save_cursor
from common.journal.postgres.sessions import EntityNameCache, PostgresSessions
from common.journal.stores.log import JournalStats, LogPage, TrimLimit

_COLUMNS = (
    "position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, seq_nr - 1, origin_seq_nr,"
    " event_type, codec, payload, tags, metadata, prev_tags"
)
_ENTITY_COLUMN, _PAYLOAD_COLUMN = 4, 10


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
    """See ``LogStore.read``; with a condition a page may end before its bounds (``through`` says where)."""
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
    """See ``LogStore.read_entity``."""
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
    """See ``LogStore.read_entities``."""
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


# Statistics cannot make it anything but a walk along one index for each entity.
_HISTORIES = f"""
SELECT {_WANTED.replace("entity_no", "name").replace("seq_nr - 1 AS prev", "prev")} FROM (
    SELECT *, coalesce(sum(octet_length(payload) + {EVENT_OVERHEAD_BYTES}) OVER (ORDER BY i), 0) AS total
    FROM (
        SELECT asked.i, asked.name, e.*, count(e.position) OVER (PARTITION BY asked.i) AS n
        FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS asked (name, first, i)
        LEFT JOIN entity ON entity.persistence_id = asked.name
        LEFT JOIN LATERAL (
            SELECT {_WANTED} FROM event WHERE event.entity_no = entity.entity_no AND event.seq_nr >= asked.first
            ORDER BY event.seq_nr LIMIT $3 + 1
        ) AS e ON true
    ) AS counted WHERE n <= $3
) AS measured WHERE total <= $4 ORDER BY i, seq_nr
"""


async def read_histories(
    connection: asyncpg.Connection, first: Mapping[str, int], each_max: int, max_bytes: int
) -> dict[str, EventBatch]:
    """See ``LogStore.read_histories``."""
    rows = await connection.fetch(_HISTORIES, list(first), list(first.values()), each_max, max_bytes)
    return {
        name: EventBatch(*map(list, zip(*of_one, strict=True))) if (of_one := list(group))[0][0] else EventBatch()
        for name, group in groupby(rows, itemgetter(_ENTITY_COLUMN))
    }


async def stats(connection: asyncpg.Connection) -> tuple[JournalStats, str]:
    """See ``LogStore.stats``; and the generations as they are stored now."""
    *row, generations, schema_version = await connection.fetchrow(
        "SELECT head.position, head.timestamp_us, deleted_through,"
        " coalesce((SELECT min(position) FROM event), head.position + 1),"
        " (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        "  WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'), 0,"
        " (SELECT coalesce(sum(parked), 0)::bigint FROM origin), generations,"
        " (SELECT max(version) FROM schema_version) FROM head, journal",
        SCHEMA,
    )
    refuse_newer(schema_version)
    return JournalStats(*row), generations


_COVERED = (
    "EXISTS (SELECT FROM snapshot WHERE snapshot.entity_no = event.entity_no AND snapshot.seq_nr >= event.seq_nr)"
)
# A reader that begins in the middle must not leave an entity's older events behind.
_OLDEST_IS_AFTER = (
    " AND (SELECT oldest.position FROM event AS oldest WHERE oldest.entity_no = event.entity_no"
    " ORDER BY oldest.seq_nr LIMIT 1) > $4"
)
_KEPT = "SELECT h.entity_no FROM entity AS h WHERE h.persistence_id = ANY (${}::text[])"
_TRIM = """
WITH doomed AS MATERIALIZED (
    SELECT position, entity_no, seq_nr FROM (
        SELECT *, sum(size) OVER (ORDER BY position) - size AS before FROM (
            SELECT position, entity_no, seq_nr, octet_length(payload) + {EVENT_OVERHEAD_BYTES} AS size FROM event
            WHERE position > $4 AND position <= $1 {condition} ORDER BY position LIMIT $2
        ) AS oldest
    ) AS weighed WHERE before < $5::bigint
), gone AS (
    DELETE FROM event USING doomed WHERE event.position = doomed.position
    RETURNING event.position, tags || E'\\x1f' || prev_tags AS tags
), forgotten AS (
    DELETE FROM event_tag USING (
        SELECT DISTINCT tag, position FROM gone, unnest(string_to_array(gone.tags, E'\\x1f')) AS t (tag) WHERE tag <> ''
    ) AS t WHERE event_tag.tag = t.tag AND event_tag.position = t.position
), kept AS (
    INSERT INTO entity_deleted AS d (entity_no, deleted_to, deleted_position, reason)
    SELECT entity_no, max(seq_nr), max(position), $3 FROM doomed GROUP BY entity_no
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


async def trim(connection: asyncpg.Connection, limit: TrimLimit) -> int:
    """See ``LogStore.trim``. Never waits for appends, nor they for it: no row of theirs is touched."""
    args: list[Any] = [limit.through, limit.max_events, limit.reason, limit.after, limit.max_bytes]
    condition = ""
    if limit.entity_types:
        args.append(sorted(limit.entity_types))
        condition = TYPE_CONDITION.format(len(args))
    if limit.covered_types:
        args.append(sorted(limit.covered_types))
        condition += f" AND ({_COVERED} OR NOT (true {TYPE_CONDITION.format(len(args))}))"
    if limit.kept:
        args.append(sorted(limit.kept))
        condition += f" AND entity_no <> ALL (ARRAY({_KEPT.format(len(args))}))"
    if limit.after:
        condition += _OLDEST_IS_AFTER
    async with connection.transaction():
        # One at a time: two nodes may want the same events.
        await connection.execute("SELECT FROM journal FOR UPDATE")
        query = _TRIM.format(condition=condition, BLOCK_BITS=BLOCK_BITS, EVENT_OVERHEAD_BYTES=EVENT_OVERHEAD_BYTES)
        row = await connection.fetchrow(query, *args)
        removed: int = row[0]
        if removed:
            await connection.execute(_TRIM_BLOCKS, row[1], row[2])
        fail_point("trim.before_commit")
    return removed


async def event_bytes(connection: asyncpg.Connection, after: int, through: int) -> int:
    """See ``LogStore.event_bytes``."""
    size: int = await connection.fetchval(
        f"SELECT coalesce(sum(octet_length(payload) + {EVENT_OVERHEAD_BYTES}), 0)::bigint FROM event"
        " WHERE position > $1 AND position <= $2",
        after,
        through,
    )
    return size


async def forget_append_ids(connection: asyncpg.Connection, through: int, max_rows: int) -> int:
    """See ``LogStore.forget_append_ids``."""
    removed: int = await connection.fetchval(
        "WITH old AS (SELECT append_id FROM append_id WHERE first_position <= $1 ORDER BY first_position LIMIT $2),"
        " gone AS (DELETE FROM append_id USING old WHERE append_id.append_id = old.append_id RETURNING 1)"
        " SELECT count(*) FROM gone",
        through,
        max_rows,
    )
    return removed


class PostgresLog:
    """``LogStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions
        self.head_signal = sessions.head_signal
        self.feed = CommitFeed()
        self.read_counts: Counter[str] = Counter()
        self.trims: int | None = None  # not known: other nodes may remove events, too
        self._appends = Appends(sessions, self.feed)

    @property
    def history(self) -> History:
        """Journal id; generations as of the last ``stats`` or new session, head as last known here."""
        return self._sessions.history

    @property
    def place_key(self) -> str:
        """See ``LogStore.place_key``."""
        return self._sessions.place_key

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``LogStore.append_group``."""
        return await self._appends.group(requests)

    async def read(
        self,
        after: int,
        *,
        through: int | None = None,
        max_events: int,
        max_bytes: int,
        slices: SliceRange = ALL_SLICES,
        selection: Selection = EVERYTHING,
    ) -> LogPage:
        """See ``LogStore.read``."""
        self.read_counts["log" if selection.is_all else "selected"] += 1
        lane = self._sessions.readers if selection.is_all else self._sessions.searchers
        async with lane.reader() as reader:
            before = self.history
            found = await reader.connection.run(
                read,
                reader.names,
                after,
                through=through,
                max_events=max_events,
                max_bytes=max_bytes,
                slices=slices,
                selection=selection,
            )
            self._sessions.saw_answer(reader.connection, before, found.head)
        return found

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """See ``LogStore.read_entity``."""
        self.read_counts["entity"] += 1
        async with self._sessions.readers.reader() as reader:
            return await reader.connection.run(
                read_entity, reader.names, persistence_id, from_seq_nr, to_seq_nr, max_events
            )

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """See ``LogStore.read_entities``."""
        async with self._sessions.readers.reader() as reader:
            return await reader.connection.run(read_entities, reader.names, known, each_max)

    async def read_histories(self, first: Mapping[str, int], *, each_max: int, max_bytes: int) -> dict[str, EventBatch]:
        """See ``LogStore.read_histories``."""
        self.read_counts["entity"] += 1
        return await self._sessions.read(read_histories, first, each_max, max_bytes)

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``LogStore.entity_head``."""
        return (await self.entity_heads([persistence_id])).get(persistence_id)

    async def entity_heads(self, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
        """See ``LogStore.entity_heads``."""
        return await self._sessions.read(selected.entity_heads, persistence_ids)

    async def probe(self, append_bytes: int) -> None:
        """See ``LogStore.probe``. On the session that appends: others may be on another server."""
        await self._sessions.writer.run(opening.probe, append_bytes)

    async def stats(self) -> JournalStats:
        """See ``LogStore.stats``."""
        async with self._sessions.readers.reader() as reader:
            before = self.history
            found, generations = await reader.connection.run(stats)
            # Another node may have begun a generation, below what was seen here of the one before.
            self._sessions.saw_generations(opening.load_generations(generations), found.head_position)
            self._sessions.saw_answer(reader.connection, before, found.head_position)
        return found

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """See ``LogStore.deleted_ranges``."""
        return [stated for stated, _ in await self._sessions.read(selected.deleted_entities, after, through, max_rows)]

    async def deleted_entities(self, after: int, through: int, *, max_rows: int) -> list[tuple[StatedRange, int]]:
        """See ``LogStore.deleted_entities``."""
        return await self._sessions.read(selected.deleted_entities, after, through, max_rows)

    async def trim(self, limit: TrimLimit) -> int:
        """See ``LogStore.trim``."""
        return await self._sessions.state.run(trim, limit)

    async def event_bytes(self, after: int, through: int) -> int:
        """See ``LogStore.event_bytes``."""
        return await self._sessions.read(event_bytes, after, through)

    async def forget_append_ids(self, through: int, max_rows: int) -> int:
        """See ``LogStore.forget_append_ids``."""
        return await self._sessions.state.run(forget_append_ids, through, max_rows)

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """See ``PushFilterStore.deleted_of``."""
        return await self._sessions.read(selected.deleted_of, persistence_ids)

    async def tag_sets(self, persistence_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
        """See ``LogStore.tag_sets``."""
        return await self._sessions.read(selected.tag_sets, persistence_ids)

    async def load_cursor(self, name: str) -> Offset | None:
        """See ``LogStore.load_cursor``."""
        return await self._sessions.read(load_cursor, name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``LogStore.save_cursor``."""
        await self._sessions.state.run(save_cursor, name, offset)
