"""Snapshots, and up to where they cover the log. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.journal.snapshot import (
    NewSnapshot,
    Snapshot,
    SnapshotsBeside,
    admit_snapshot,
    check_deletable,
    id_ranges,
    no_snapshot,
    snapshot_batch,
)
from common.journal.postgres.log import TYPE_CONDITION
from common.journal.postgres.sessions import PostgresSessions
from common.journal.snapshot_watermark import LOOK_EVENTS

_COLUMNS = (
    "persistence_id, seq_nr, position, timestamp_us, stored_us, event_time_us, event_type, codec, payload, tags,"
    " metadata, taken_position, says_last_event"
)
# What is known of the event stays when it is gone and a snapshot of the same number is replaced.
_OF_EVENT = ("position", "timestamp_us", "stored_us", "event_time_us", "tags")
# Another node may have stored a later one meanwhile: that one stays.
_PUT = f"""
INSERT INTO snapshot (entity_no, {_COLUMNS})
SELECT u.no, u.name, u.seq_nr, coalesce(event.position, 0), coalesce(event.timestamp_us, 0),
       coalesce(event.stored_us, $8), coalesce(event.event_time_us, 0), u.type, u.codec, u.payload,
       coalesce(event.tags, u.tags), u.metadata, head.position, u.says_last AND event.position IS NOT NULL
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::text[], $9::text[], $10::bool[])
     AS u (no, name, seq_nr, type, codec, payload, tags, metadata, says_last)
CROSS JOIN head LEFT JOIN event ON event.entity_no = u.no AND event.seq_nr = u.seq_nr
ON CONFLICT (entity_no) DO UPDATE
SET {
    ", ".join(
        f"{name} = CASE WHEN excluded.seq_nr = snapshot.seq_nr AND excluded.position = 0 THEN snapshot.{name}"
        f" ELSE excluded.{name} END"
        if name in _OF_EVENT
        else f"{name} = excluded.{name}"
        for name in _COLUMNS.split(", ")[1:]
    )
}
WHERE snapshot.seq_nr < excluded.seq_nr OR ($11 AND snapshot.seq_nr = excluded.seq_nr)
RETURNING persistence_id
"""


async def put(
    connection: asyncpg.Connection, snapshots: Sequence[NewSnapshot], now_us: int, keep: int, replaces: bool
) -> list[bool]:
    """See ``SnapshotStore.put``."""
    async with connection.transaction():
        rows = await connection.fetch(
            "SELECT entity.persistence_id, entity_no, entity.seq_nr, coalesce(deleted_to, 0),"
            " coalesce(snapshot.seq_nr, 0)"
            " FROM entity LEFT JOIN entity_deleted USING (entity_no) LEFT JOIN snapshot USING (entity_no)"
            " WHERE entity.persistence_id = ANY ($1::text[])",
            list({new.persistence_id for new in snapshots}),
        )
        heads = {name: (number, reached, deleted_to) for name, number, reached, deleted_to, _ in rows}
        before = {row[0]: row[4] for row in rows}
        stored = dict(before)
        latest: dict[str, NewSnapshot] = {}
        answer = []
        for new in snapshots:
            name = new.persistence_id
            _, reached, deleted_to = heads.get(name, (0, 0, 0))
            known = stored.get(name, 0)
            is_news = admit_snapshot(new, reached=reached, deleted_to=deleted_to, stored=known, replaces=replaces)
            if is_news:
                stored[name] = new.seq_nr
                latest[name] = new
            answer.append(is_news)
        entity_no = {name: row[0] for name, row in heads.items()}
        raised = sorted(entity_no[name] for name, new in latest.items() if new.seq_nr > before[name])
        if raised:
            await connection.execute(_KEEP, raised) if keep > 1 else None
            await connection.execute(_DROP_OLDER, raised, keep - 1)
        written = await _write(connection, entity_no, latest, now_us, replaces)
    return [is_news and new.persistence_id in written for is_news, new in zip(answer, snapshots, strict=True)]


# The latest are put aside before they are replaced; in the order of their numbers: two nodes must not wait for each other.
_KEEP = f"""
INSERT INTO older_snapshot (entity_no, {_COLUMNS})
SELECT entity_no, {_COLUMNS} FROM snapshot WHERE entity_no = ANY ($1::bigint[]) ORDER BY entity_no
ON CONFLICT DO NOTHING
"""
_DROP_OLDER = """
DELETE FROM older_snapshot WHERE entity_no = ANY ($1::bigint[]) AND seq_nr NOT IN (
    SELECT seq_nr FROM older_snapshot AS last WHERE last.entity_no = older_snapshot.entity_no ORDER BY seq_nr DESC LIMIT $2
)
"""


async def _write(
    connection: asyncpg.Connection,
    entity_no: dict[str, int],
    latest: dict[str, NewSnapshot],
    now_us: int,
    replaces: bool,
) -> set[str]:
    """Who was written. In the order of their names: two nodes must not wait for each other."""
    if not latest:
        return set()
    snapshots = [latest[name] for name in sorted(latest)]
    rows = await connection.fetch(
        _PUT,
        [entity_no[new.persistence_id] for new in snapshots],
        [new.persistence_id for new in snapshots],
        [new.seq_nr for new in snapshots],
        [new.event_type for new in snapshots],
        [new.codec for new in snapshots],
        [new.payload for new in snapshots],
        [new.tags for new in snapshots],
        now_us,
        [new.metadata for new in snapshots],
        [new.says_last_event for new in snapshots],
        replaces,
    )
    return {row[0] for row in rows}


async def get(connection: asyncpg.Connection, persistence_id: str) -> Snapshot | None:
    """See ``SnapshotStore.snapshot``."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = $1", persistence_id)
    return Snapshot(*row) if row else None


async def of(connection: asyncpg.Connection, persistence_ids: Collection[str]) -> list[Snapshot]:
    """See ``SnapshotStore.of``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = ANY ($1::text[])", sorted(set(persistence_ids))
    )
    return [Snapshot(*row) for row in rows]


_WITHOUT_PAYLOAD = _COLUMNS.replace("payload", "''::bytea AS payload")


async def sized(connection: asyncpg.Connection, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
    """See ``SnapshotStore.sized``."""
    rows = await connection.fetch(
        f"SELECT {_WITHOUT_PAYLOAD}, octet_length(snapshot.payload) FROM snapshot WHERE persistence_id = ANY ($1::text[])",
        sorted(set(persistence_ids)),
    )
    return [(Snapshot(*row[:-1]), row[-1]) for row in map(tuple, rows)]


async def numbers(
    connection: asyncpg.Connection, persistence_ids: Collection[str]
) -> tuple[list[str], list[int], list[int]]:
    """See ``SnapshotStore.numbers``."""
    rows = await connection.fetch(
        "SELECT persistence_id, seq_nr, position FROM snapshot WHERE persistence_id = ANY ($1::text[])",
        list(persistence_ids),
    )
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


# In one statement, so in one state.
_BESIDE = """
WITH stretch AS MATERIALIZED (
    SELECT event.entity_no, event.position,
           event.seq_nr <= snapshot.seq_nr AND ($3::bigint IS NULL OR deleted_position > $3) IS TRUE AS is_covered
    FROM event LEFT JOIN snapshot USING (entity_no) LEFT JOIN entity_deleted USING (entity_no)
    WHERE event.position > $1 AND event.position <= $2
), found AS (
    SELECT entity_no, min(at) AS at
    FROM (
        SELECT entity_no, position AS at FROM stretch WHERE is_covered
        UNION ALL
        SELECT entity_no, deleted_position FROM entity_deleted
        WHERE deleted_position > $1 AND deleted_position <= $2 AND ($3::bigint IS NULL OR deleted_position > $3)
    ) AS places
    GROUP BY entity_no
), columns AS (
    SELECT persistence_id, seq_nr, position, octet_length(payload) AS size, coalesce(deleted_to, 0) AS deleted_to,
           coalesce(deleted_position, 0) AS deleted_position, at
    FROM found JOIN snapshot USING (entity_no) LEFT JOIN entity_deleted USING (entity_no)
)
SELECT array_agg(persistence_id ORDER BY at), array_agg(seq_nr ORDER BY at), array_agg(position ORDER BY at),
       array_agg(size ORDER BY at), array_agg(deleted_to ORDER BY at), array_agg(deleted_position ORDER BY at),
       array_agg(at ORDER BY at), (SELECT count(*) FROM stretch),
       (SELECT coalesce(min(position), 0) FROM stretch WHERE is_covered IS NOT TRUE)
FROM columns
"""


async def beside(connection: asyncpg.Connection, after: int, through: int, lost_after: int | None) -> SnapshotsBeside:
    """See ``SnapshotStore.beside``."""
    *arrays, events, kept_at = await connection.fetchrow(_BESIDE, after, through, lost_after)
    columns: list[Any] = [*(array or [] for array in arrays), events, kept_at]
    return SnapshotsBeside(*columns)


async def kept(connection: asyncpg.Connection, persistence_id: str) -> list[Snapshot]:
    """See ``SnapshotStore.kept``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = $1 UNION ALL"
        f" SELECT {_COLUMNS} FROM older_snapshot WHERE entity_no = (SELECT entity_no FROM snapshot"
        " WHERE persistence_id = $1) ORDER BY seq_nr DESC",
        persistence_id,
    )
    return [Snapshot(*row) for row in rows]


async def delete(connection: asyncpg.Connection, persistence_id: str, seq_nr: int) -> None:
    """See ``SnapshotStore.delete``."""
    async with connection.transaction():
        # As retention does: what it deletes now may be what this snapshot stands for.
        await connection.execute("SELECT FROM journal FOR UPDATE")
        row = await connection.fetchrow(
            "SELECT entity_no, snapshot.seq_nr, coalesce(deleted_to, 0) FROM snapshot LEFT JOIN entity_deleted USING (entity_no)"
            " WHERE persistence_id = $1 FOR UPDATE OF snapshot",
            persistence_id,
        )
        if row is None:
            raise no_snapshot(persistence_id, seq_nr)
        entity_no, latest_seq_nr, deleted_to = row
        is_latest = seq_nr == latest_seq_nr
        if is_latest:
            before = await connection.fetchval(
                "SELECT coalesce(max(seq_nr), 0) FROM older_snapshot WHERE entity_no = $1", entity_no
            )
            check_deletable(persistence_id, seq_nr, before=before, deleted_to=deleted_to)
            await connection.execute("DELETE FROM snapshot WHERE entity_no = $1", entity_no)
            await connection.execute(
                f"INSERT INTO snapshot (entity_no, {_COLUMNS}) SELECT entity_no, {_COLUMNS} FROM older_snapshot"
                " WHERE entity_no = $1 AND seq_nr = $2",
                *(entity_no, before),
            )
            await connection.execute("UPDATE journal SET snapshot_deletions = snapshot_deletions + 1")
            seq_nr = before
        done: str = await connection.execute(
            "DELETE FROM older_snapshot WHERE entity_no = $1 AND seq_nr = $2", entity_no, seq_nr
        )
        if not is_latest and done == "DELETE 0":
            raise no_snapshot(persistence_id, seq_nr)


async def deletions(connection: asyncpg.Connection) -> int:
    """How often a latest snapshot was deleted."""
    count: int = await connection.fetchval("SELECT snapshot_deletions FROM journal")
    return count


_SIZE = f"octet_length(payload) + {EVENT_OVERHEAD_BYTES}"
_PAGE = f"""
SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = ANY (ARRAY (
    SELECT persistence_id FROM (
        SELECT persistence_id, row_number() OVER named AS number, sum({_SIZE}) OVER named AS total
        FROM (
            SELECT persistence_id, payload FROM snapshot
            WHERE persistence_id > $1 AND ($2::text IS NULL OR persistence_id < $2)
            ORDER BY persistence_id LIMIT $3
        ) AS next
        WINDOW named AS (ORDER BY persistence_id ROWS UNBOUNDED PRECEDING)
    ) AS measured
    WHERE total <= $4 OR number = 1 AND $5
))
ORDER BY persistence_id
"""


async def page(
    connection: asyncpg.Connection, after: str, max_rows: int, max_bytes: int, entity_types: frozenset[str]
) -> list[Snapshot]:
    """See ``SnapshotStore.snapshots``."""
    found: list[Snapshot] = []
    for first, end in id_ranges(after, entity_types):
        rows = await connection.fetch(_PAGE, first, end, max_rows - len(found), max_bytes, not found)
        found += [Snapshot(*row) for row in rows]
        max_bytes -= sum(len(row["payload"]) + EVENT_OVERHEAD_BYTES for row in rows)
        if len(found) >= max_rows:
            break
        last = found[-1].persistence_id if rows else first
        more = "SELECT 1 FROM snapshot WHERE persistence_id > $1 AND ($2::text IS NULL OR persistence_id < $2) LIMIT 1"
        if await connection.fetchval(more, last, end):
            break  # the next one does not fit
    return found


async def look(
    connection: asyncpg.Connection, after: int, through: int, entity_types: frozenset[str]
) -> tuple[int | None, int]:
    """See ``snapshot_watermark.WatermarkRead``."""
    last = await connection.fetchval(
        "SELECT position FROM event WHERE position > $1 ORDER BY position OFFSET $2 LIMIT 1", after, LOOK_EVENTS
    )
    looked = min(through, last or through)
    first = await connection.fetchval(
        "SELECT event.position FROM event LEFT JOIN snapshot USING (entity_no)"
        " WHERE event.position > $1 AND event.position <= $2 AND event.seq_nr > coalesce(snapshot.seq_nr, 0)"
        f" {TYPE_CONDITION.format(3) if entity_types else ''} ORDER BY event.position LIMIT 1",
        *(after, looked, *([sorted(entity_types)] if entity_types else ())),
    )
    return first, looked


class PostgresSnapshots:
    """``SnapshotStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def put(self, snapshots: Sequence[NewSnapshot], *, keep: int = 1, replaces: bool = False) -> list[bool]:
        """See ``SnapshotStore.put``."""
        return await self._sessions.state.run(put, snapshots, self._sessions.now_us(), keep, replaces)

    async def get(self, persistence_id: str) -> Snapshot | None:
        """See ``SnapshotStore.snapshot``."""
        return await self._sessions.read(get, persistence_id)

    async def of(self, persistence_ids: Collection[str]) -> list[Snapshot]:
        """See ``SnapshotStore.of``."""
        return await self._sessions.read(of, persistence_ids)

    async def batch(self, persistence_ids: Sequence[str]) -> tuple[EventBatch, list[bool]]:
        """See ``SnapshotStore.batch``."""
        found = {one.persistence_id: one for one in await self.of(persistence_ids)}
        ordered = [found[name] for name in persistence_ids if name in found]
        return snapshot_batch(ordered), [one.says_last_event for one in ordered]

    async def sized(self, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
        """See ``SnapshotStore.sized``."""
        return await self._sessions.read(sized, persistence_ids)

    async def numbers(self, persistence_ids: Collection[str]) -> tuple[list[str], list[int], list[int]]:
        """See ``SnapshotStore.numbers``."""
        return await self._sessions.read(numbers, persistence_ids)

    async def beside(self, after: int, through: int, *, lost_after: int | None = None) -> SnapshotsBeside:
        """See ``SnapshotStore.beside``."""
        return await self._sessions.read(beside, after, through, lost_after)

    async def kept(self, persistence_id: str) -> list[Snapshot]:
        """See ``SnapshotStore.kept``."""
        return await self._sessions.read(kept, persistence_id)

    async def delete(self, persistence_id: str, seq_nr: int) -> None:
        """See ``SnapshotStore.delete``."""
        await self._sessions.state.run(delete, persistence_id, seq_nr)

    async def page(
        self,
        after_persistence_id: str,
        *,
        max_rows: int,
        max_bytes: int,
        entity_types: frozenset[str] = frozenset(),
    ) -> list[Snapshot]:
        """See ``SnapshotStore.snapshots``."""
        return await self._sessions.read(page, after_persistence_id, max_rows, max_bytes, entity_types)

    async def uncovered_after(self, through: int, *, entity_types: frozenset[str] = frozenset()) -> int:
        """See ``SnapshotStore.uncovered_after``."""

        async def look_from(after: int, through: int) -> tuple[int | None, int]:
            return await self._sessions.read(look, after, through, entity_types)

        self._sessions.watermark.holds_at(await self._sessions.read(deletions))
        return await self._sessions.watermark.find(look_from, through, entity_types)
