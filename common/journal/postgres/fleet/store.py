"""The fleet's tables in the database. Asyncio-flavoured functions on a session."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg
import orjson

from common.core.events.stated_range import StatedRange
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.fleet import HOURS_KEPT_US, NODE_KEPT_US, NOTES_MAX, FleetNote, FleetRow, OriginTally
from common.journal.stores.origins import StoredRange

_EDGES = """
INSERT INTO fleet_edge AS known
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[]) ORDER BY 1
ON CONFLICT (origin_id) DO UPDATE
SET session = excluded.session, node = excluded.node, at_us = excluded.at_us, facts = excluded.facts
WHERE excluded.session >= known.session
"""
_NOTES = """
INSERT INTO fleet_note SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) ORDER BY 1, 2
ON CONFLICT (origin_id, at_us, kind) DO UPDATE SET facts = excluded.facts
"""
_TRIM = """
DELETE FROM fleet_note AS old USING unnest($1::text[]) AS edge (id)
WHERE old.origin_id = edge.id AND ((old.kind = 'hour' AND old.at_us < $2) OR old.at_us <= (
    SELECT at_us FROM fleet_note WHERE origin_id = edge.id ORDER BY at_us DESC LIMIT 1 OFFSET $3
))
"""

# A tally of everything reads all entities once; of one origin, those that it owns.
_TALLIES = """
SELECT origin_id, coalesce(owned.stored, 0)::bigint, coalesce(aside.parked, 0)::bigint, coalesce(gone.stated, '{}')
FROM origin
LEFT JOIN (
    SELECT owner AS origin_id, sum(seq_nr) AS stored FROM entity WHERE $1::text IS NULL OR owner = $1 GROUP BY owner
) AS owned USING (origin_id)
LEFT JOIN (
    SELECT origin_id, count(*) AS parked FROM parked WHERE $1::text IS NULL OR origin_id = $1 GROUP BY origin_id
) AS aside USING (origin_id)
LEFT JOIN (
    SELECT origin_id, json_object_agg(reason, numbers)::text AS stated FROM (
        SELECT origin_id, reason, sum(to_seq_nr - from_seq_nr + 1)::bigint AS numbers FROM stated_range
        WHERE $1::text IS NULL OR origin_id = $1 GROUP BY origin_id, reason
    ) AS by_reason GROUP BY origin_id
) AS gone USING (origin_id)
WHERE $1::text IS NULL OR origin_id = $1
ORDER BY origin_id
"""


async def record(
    connection: asyncpg.Connection, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]
) -> None:
    """See ``FleetStore.record``."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO fleet_node VALUES ($1, $2) ON CONFLICT (node) DO UPDATE SET at_us = excluded.at_us",
            node,
            now_us,
        )
        await connection.execute("DELETE FROM fleet_node WHERE at_us < $1", now_us - NODE_KEPT_US)
        if rows:
            columns = zip(*((row.origin_id, row.session, row.node, row.at_us, row.facts) for row in rows), strict=True)
            await connection.execute(_EDGES, *map(list, columns))
        if notes:
            found = {(note.origin_id, note.at_us, note.kind): note.facts for note in notes}
            ids, times, kinds = (list(column) for column in zip(*found, strict=True))
            await connection.execute(_NOTES, ids, times, kinds, list(found.values()))
            await connection.execute(_TRIM, sorted(set(ids)), now_us - HOURS_KEPT_US, NOTES_MAX)


async def rows_of(connection: asyncpg.Connection, origin_ids: Collection[str] | None) -> list[FleetRow]:
    """See ``FleetStore.rows``."""
    found = await connection.fetch(
        "SELECT origin_id, session, node, at_us, facts FROM fleet_edge"
        " WHERE $1::text[] IS NULL OR origin_id = ANY ($1) ORDER BY origin_id",
        None if origin_ids is None else list(origin_ids),
    )
    return [FleetRow(*row) for row in found]


async def notes_of(connection: asyncpg.Connection, origin_id: str) -> list[FleetNote]:
    """See ``FleetStore.notes``."""
    query = "SELECT origin_id, at_us, kind, facts FROM fleet_note WHERE origin_id = $1 ORDER BY at_us, kind"
    return [FleetNote(*row) for row in await connection.fetch(query, origin_id)]


async def tallies_of(connection: asyncpg.Connection, origin_id: str | None) -> list[OriginTally]:
    """See ``FleetStore.tallies``."""
    found = await connection.fetch(_TALLIES, origin_id)
    return [OriginTally(name, stored, parked, orjson.loads(stated)) for name, stored, parked, stated in found]


async def stated_of(connection: asyncpg.Connection, origin_id: str, most: int) -> list[StoredRange]:
    """See ``FleetStore.stated``."""
    rows = await connection.fetch(
        "SELECT persistence_id, from_seq_nr, to_seq_nr, reason, received_us FROM stated_range WHERE origin_id = $1"
        " ORDER BY id DESC LIMIT $2",
        origin_id,
        most,
    )
    return [StoredRange(origin_id, StatedRange(*stated), at) for *stated, at in rows]


async def nodes_of(connection: asyncpg.Connection) -> dict[str, int]:
    """See ``FleetStore.nodes``."""
    return dict(await connection.fetch("SELECT node, at_us FROM fleet_node"))


class PostgresFleet:
    """``FleetStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def record(self, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]) -> None:
        """See ``FleetStore.record``."""
        await self._sessions.committer().connection.run(record, node, now_us, rows, notes)

    async def rows(self, origin_ids: Collection[str] | None = None) -> list[FleetRow]:
        """See ``FleetStore.rows``."""
        return await self._sessions.read(rows_of, origin_ids)

    async def notes(self, origin_id: str) -> list[FleetNote]:
        """See ``FleetStore.notes``."""
        return await self._sessions.read(notes_of, origin_id)

    async def tallies(self, origin_id: str | None = None) -> list[OriginTally]:
        """See ``FleetStore.tallies``."""
        return await self._sessions.read(tallies_of, origin_id)

    async def stated(self, origin_id: str, most: int) -> list[StoredRange]:
        """See ``FleetStore.stated``."""
        return await self._sessions.read(stated_of, origin_id, most)

    async def nodes(self) -> dict[str, int]:
        """See ``FleetStore.nodes``."""
        return await self._sessions.read(nodes_of)
