"""Events set aside: list and show them, judge them again, give one up. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EVENT_COLUMNS, Envelope, new_events, split_metadata, split_tags
from common.core.events.ids import entity_type_of, slice_of
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import BLOCK_BITS
from common.core.journal.admission import EntityHead, ParkedNumbers, admit_parked, discard_parked, link_tags
from common.core.journal.append import NOT_ALLOWED
from common.core.journal.ownership import MayWrite, Transfer, owner_for_retry, transfer_head, unknown_origin
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.parked import ParkedRow

_COLUMNS = f"id, origin_id, code, parked_us, {', '.join(EVENT_COLUMNS)}"


def _row(record: asyncpg.Record) -> ParkedRow:
    values = dict(record)
    row_id, origin_id, code, parked_us = (values.pop(name) for name in ("id", "origin_id", "code", "parked_us"))
    values["tags"] = split_tags(values["tags"])
    values["metadata"] = split_metadata(values["metadata"])
    return ParkedRow(row_id, origin_id, code, parked_us, Envelope(**values))


async def parked(
    connection: asyncpg.Connection, origin_id: str | None, after_id: int, max_rows: int
) -> list[ParkedRow]:
    """See ``LogStore.parked``."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM parked WHERE id > $1 AND ($2::text IS NULL OR origin_id = $2) ORDER BY id LIMIT $3",
        after_id,
        origin_id,
        max_rows,
    )
    return list(map(_row, rows))


async def parked_row(connection: asyncpg.Connection, row_id: int) -> ParkedRow | None:
    """See ``LogStore.parked_row``."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM parked WHERE id = $1", row_id)
    return _row(row) if row else None


async def retry(
    connection: asyncpg.Connection, persistence_id: str, accept_gap: bool, may_write: MayWrite | None, now_us: int
) -> tuple[int, str, int]:
    """See ``ParkedStore.retry``; the head after it comes third."""
    async with connection.transaction():
        head, position = await _lock(connection, persistence_id)
        rows = await _rows_of(connection, persistence_id)
        owner = owner_for_retry(head, [row["origin_id"] for row in rows], may_write)
        if owner is None:
            return 0, NOT_ALLOWED if rows else "", position
        if head is None:
            head = EntityHead(persistence_id, owner=owner, branch=await _branch_of(connection, owner))
            await _make(connection, head)
        stored, left, position = await _admit(connection, head, rows, position, accept_gap=accept_gap, now_us=now_us)
    return stored, left or ("" if stored or not rows else rows[0]["code"]), position


async def transfer(
    connection: asyncpg.Connection, persistence_id: str, to: str, accept_gap: bool, now_us: int
) -> tuple[Transfer, int]:
    """See ``ParkedStore.transfer``; the head after it comes second."""
    async with connection.transaction():
        head, position = await _lock(connection, persistence_id, to)
        branch = await _branch_of(connection, to) if to else 0
        old_owner = head.owner if head else None
        if head is None:
            head = EntityHead(persistence_id, owner=to, branch=branch)
            await _make(connection, head)
        of_new = await _ranges_of(connection, replace(head, owner=to))
        old_branch = head.branch
        gone = transfer_head(head, to, branch, of_new)
        await connection.execute("UPDATE entity SET owner = $2 WHERE persistence_id = $1", persistence_id, to)
        await _keep(connection, head, old_owner or "", old_branch, 0, [gone] if gone else [], now_us)
        rows = await _rows_of(connection, persistence_id)
        stored, left, position = await _admit(connection, head, rows, position, accept_gap=accept_gap, now_us=now_us)
    return Transfer(old_owner, stored, left), position


async def names(connection: asyncpg.Connection, prefix: str, after: str, max_rows: int) -> list[str]:
    """See ``ParkedStore.names``."""
    rows = await connection.fetch(
        'SELECT persistence_id COLLATE "C" AS name FROM entity'
        " WHERE persistence_id >= $1 AND persistence_id > $2 AND starts_with(persistence_id, $1)"
        ' UNION SELECT persistence_id COLLATE "C" FROM parked'
        ' WHERE persistence_id COLLATE "C" > $2 AND starts_with(persistence_id, $1) ORDER BY name LIMIT $3',
        prefix,
        after,
        max_rows,
    )
    return [row["name"] for row in rows]


async def _rows_of(connection: asyncpg.Connection, persistence_id: str) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT id, origin_id, code, branch, seq_nr, prev_seq_nr, tags FROM parked WHERE persistence_id = $1 ORDER BY id",
        persistence_id,
    )
    return rows


async def _branch_of(connection: asyncpg.Connection, origin_id: str) -> int:
    branch: int | None = await connection.fetchval("SELECT branch FROM origin WHERE origin_id = $1", origin_id)
    if branch is None:
        raise unknown_origin(origin_id)
    return branch


async def _make(connection: asyncpg.Connection, head: EntityHead) -> None:
    """The row of an entity that has none; the caller holds the log's head."""
    await connection.execute(
        "WITH counted AS (UPDATE head SET entities = entities + 1 RETURNING entities)"
        " INSERT INTO entity (entity_no, seq_nr, origin_seq_nr, branch, parked, owner, persistence_id)"
        " SELECT entities, 0, 0, $2, 0, $3, $1 FROM counted",
        head.persistence_id,
        head.branch,
        head.owner,
    )


async def _admit(
    connection: asyncpg.Connection,
    head: EntityHead,
    rows: Sequence[asyncpg.Record],
    position: int,
    *,
    accept_gap: bool,
    now_us: int,
) -> tuple[int, str, int]:
    """Judge and store the owner's; the log's head after it comes third."""
    own = [row for row in rows if row["origin_id"] == head.owner]
    if not own:
        return 0, "", position
    admission = admit_parked(
        head,
        [ParkedNumbers(row["id"], row["branch"], row["seq_nr"], row["prev_seq_nr"]) for row in own],
        await _ranges_of(connection, head),
        accept_gap=accept_gap,
    )
    accepted, persistence_id = admission.accepted, head.persistence_id
    if accepted:
        prev_tags = _prev_tags(head, own[: len(accepted)], admission.seq_nr)
        before, position = (
            position,
            await connection.fetchval(
                _STORE_PARKED,
                accepted,
                admission.seq_nr,
                now_us,
                persistence_id,
                slice_of(persistence_id),
                prev_tags,
            ),
        )
        await connection.execute(_INDEX, before + 1, position, entity_type_of(persistence_id))
    await _keep(connection, head, head.owner, head.branch, len(accepted), admission.skipped, now_us)
    return len(accepted), admission.left, position


def _prev_tags(head: EntityHead, rows: Sequence[asyncpg.Record], seq_nr: list[int]) -> list[str]:
    n = len(rows)
    events = new_events([head.persistence_id] * n, [""] * n, [b""] * n, tags=[row["tags"] for row in rows])
    events.seq_nr = seq_nr
    return link_tags(events, {head.persistence_id: head})


async def discard(connection: asyncpg.Connection, row_id: int, now_us: int) -> bool:
    """See ``LogStore.discard_parked``."""
    async with connection.transaction():
        persistence_id = await connection.fetchval("SELECT persistence_id FROM parked WHERE id = $1", row_id)
        if persistence_id is None:
            return False
        head, _ = await _lock(connection, persistence_id)
        rows = await connection.fetch(
            "SELECT id, origin_id, branch, seq_nr, prev_seq_nr FROM parked WHERE persistence_id = $1 AND origin_id ="
            " (SELECT origin_id FROM parked WHERE id = $2) ORDER BY id LIMIT 1",
            persistence_id,
            row_id,
        )
        if not rows:
            return False  # another caller was quicker
        [first] = rows
        if first["id"] != row_id:
            raise BackhaulError(
                "parked.not_first",
                f"row {row_id} is not the first parked event of {persistence_id}",
                f"discard or retry row {first['id']} first",
                kind=ErrorKind.CONFLICT,
            )
        seq_nr, origin_id = first["seq_nr"], first["origin_id"]
        gone = StatedRange(persistence_id, seq_nr, seq_nr, "discarded")
        if head and head.owner == origin_id:
            numbers = ParkedNumbers(row_id, first["branch"], seq_nr, first["prev_seq_nr"])
            gone = discard_parked(head, numbers, await _ranges_of(connection, head))
        await connection.execute("DELETE FROM parked WHERE id = $1", row_id)
        await _keep(connection, head, origin_id, first["branch"], 1, [gone], now_us)
    return True


async def _lock(connection: asyncpg.Connection, persistence_id: str, to: str = "") -> tuple[EntityHead | None, int]:
    """Origins, then the head, as every transaction locks them; then nothing of the entity can change."""
    await connection.execute(
        "SELECT FROM origin WHERE origin_id IN (SELECT origin_id FROM parked WHERE persistence_id = $1 UNION SELECT $2)"
        " ORDER BY origin_id FOR UPDATE",
        persistence_id,
        to,
    )
    position: int = await connection.fetchval("SELECT position FROM head FOR UPDATE")
    row = await connection.fetchrow(
        "SELECT persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, 0, 0, '', tags FROM entity"
        " WHERE persistence_id = $1",
        persistence_id,
    )
    return EntityHead(*row) if row else None, position


async def _ranges_of(connection: asyncpg.Connection, head: EntityHead) -> list[tuple[int, StatedRange]]:
    """What the entity's owner stated, each with its branch, oldest first."""
    rows = await connection.fetch(
        "SELECT branch, persistence_id, from_seq_nr, to_seq_nr, reason FROM stated_range"
        " WHERE persistence_id = $1 AND origin_id = $2 ORDER BY id",
        head.persistence_id,
        head.owner,
    )
    return [(branch, StatedRange(*stated)) for branch, *stated in rows]


_STORE_PARKED = """
WITH taken AS (
    DELETE FROM parked USING unnest($1::bigint[], $2::bigint[], $6::text[]) WITH ORDINALITY AS u (id, seq_nr, before, i)
    WHERE parked.id = u.id RETURNING parked.*, u.seq_nr AS seq_here, u.before, u.i
), before AS (
    SELECT position, greatest($3::bigint - 1, timestamp_us) AS timestamp_us FROM head
), stored AS (
    INSERT INTO event (position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, slice,
                       event_type, codec, tags, metadata, payload, prev_tags)
    SELECT before.position + i, before.timestamp_us + i, $3::bigint, event_time_us,
           (SELECT entity_no FROM entity WHERE persistence_id = $4), seq_here, seq_nr, $5::int,
           event_type, codec, tags, metadata, payload, taken.before
    FROM taken, before
)
UPDATE head SET position = head.position + n, timestamp_us = before.timestamp_us + n, is_tagged = is_tagged OR any_tags,
                block_type = ''
FROM before, (SELECT count(*) AS n, bool_or(tags <> '') AS any_tags FROM taken) AS counted RETURNING head.position
"""
_INDEX = f"""
WITH types AS (
    INSERT INTO type_block SELECT $3, block
    FROM generate_series($1::bigint >> {BLOCK_BITS}, $2::bigint >> {BLOCK_BITS}) AS b (block) ON CONFLICT DO NOTHING
)
SELECT index_tags($1, $2)
"""


async def _keep(
    connection: asyncpg.Connection,
    head: EntityHead | None,
    origin_id: str,
    branch: int,
    removed: int,
    ranges: Sequence[StatedRange],
    now_us: int,
) -> None:
    await connection.execute("UPDATE origin SET parked = parked - $2 WHERE origin_id = $1", origin_id, removed)
    if head:
        await connection.execute(
            "UPDATE entity SET seq_nr = $2, origin_seq_nr = $3, branch = $4, parked = $5, tags = $6"
            " WHERE persistence_id = $1",
            head.persistence_id,
            head.seq_nr,
            head.origin_seq_nr,
            head.branch,
            head.parked,
            head.tags,
        )
    await connection.executemany(
        "INSERT INTO stated_range (origin_id, branch, persistence_id, from_seq_nr, to_seq_nr, reason, received_us)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (origin_id, branch, kept.persistence_id, kept.from_seq_nr, kept.to_seq_nr, kept.reason, now_us)
            for kept in ranges
        ],
    )


class PostgresParked:
    """``ParkedStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def rows(self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000) -> list[ParkedRow]:
        """See ``LogStore.parked``."""
        return await self._sessions.read(parked, origin_id, after_id, max_rows)

    async def row(self, row_id: int) -> ParkedRow | None:
        """See ``LogStore.parked_row``."""
        return await self._sessions.read(parked_row, row_id)

    async def retry(
        self, persistence_id: str, *, accept_gap: bool, may_write: MayWrite | None = None
    ) -> tuple[int, str]:
        """See ``ParkedStore.retry``."""
        stored, left, head = await self._sessions.state.run(
            retry, persistence_id, accept_gap, may_write, self._sessions.now_us()
        )
        self._sessions.saw_head(head)
        self._sessions.hints.committed(head)
        return stored, left

    async def transfer(self, persistence_id: str, to: str, *, accept_gap: bool) -> Transfer:
        """See ``ParkedStore.transfer``."""
        outcome, head = await self._sessions.state.run(
            transfer, persistence_id, to, accept_gap, self._sessions.now_us()
        )
        self._sessions.saw_head(head)
        self._sessions.hints.committed(head)
        return outcome

    async def names(self, prefix: str, *, after: str = "", max_rows: int = 1_000) -> list[str]:
        """See ``ParkedStore.names``."""
        return await self._sessions.read(names, prefix, after, max_rows)

    async def discard(self, row_id: int) -> bool:
        """See ``LogStore.discard_parked``."""
        return await self._sessions.state.run(discard, row_id, self._sessions.now_us())
