"""The fleet's tables in the journal's file. Callers of the functions hold transactions."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import apsw

from common.core.events.stated_range import StatedRange
from common.journal.sqlite.connection import select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.stores.fleet import HOURS_KEPT_US, NODE_KEPT_US, NOTES_MAX, FleetNote, FleetRow, OriginTally
from common.journal.stores.origins import StoredRange


def record(
    writer: apsw.Connection, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]
) -> None:
    """See ``FleetStore.record``."""
    writer.execute("INSERT OR REPLACE INTO fleet_node VALUES (?, ?)", (node, now_us))
    writer.execute("DELETE FROM fleet_node WHERE at_us < ?", (now_us - NODE_KEPT_US,))
    writer.executemany(
        "INSERT INTO fleet_edge VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin_id) DO UPDATE SET session = excluded.session,"
        " node = excluded.node, at_us = excluded.at_us, facts = excluded.facts WHERE excluded.session >= session",
        [(row.origin_id, row.session, row.node, row.at_us, row.facts) for row in rows],
    )
    writer.executemany(
        "INSERT OR REPLACE INTO fleet_note VALUES (?, ?, ?, ?)",
        [(note.origin_id, note.at_us, note.kind, note.facts) for note in notes],
    )
    for origin_id in {note.origin_id for note in notes}:
        writer.execute(
            "DELETE FROM fleet_note WHERE origin_id = ? AND kind = 'hour' AND at_us < ?",
            (origin_id, now_us - HOURS_KEPT_US),
        )
        writer.execute(
            "DELETE FROM fleet_note WHERE origin_id = ?1 AND at_us <= (SELECT at_us FROM fleet_note"
            " WHERE origin_id = ?1 ORDER BY at_us DESC LIMIT 1 OFFSET ?2)",
            (origin_id, NOTES_MAX),
        )


def rows_of(reader: apsw.Connection, origin_ids: Collection[str] | None) -> list[FleetRow]:
    """See ``FleetStore.rows``."""
    query, bound = "SELECT origin_id, session, node, at_us, facts FROM fleet_edge", ()
    if origin_ids is not None:
        ids = json.dumps(list(origin_ids))
        found = select(
            reader, f"{query} WHERE origin_id IN (SELECT value FROM json_each(?)) ORDER BY origin_id", (ids,)
        )
        return [FleetRow(*row) for row in found]
    return [FleetRow(*row) for row in select(reader, f"{query} ORDER BY origin_id", bound)]


def notes_of(reader: apsw.Connection, origin_id: str) -> list[FleetNote]:
    """See ``FleetStore.notes``."""
    query = "SELECT origin_id, at_us, kind, facts FROM fleet_note WHERE origin_id = ? ORDER BY at_us, kind"
    return [FleetNote(*row) for row in select(reader, query, (origin_id,))]


def tallies_of(reader: apsw.Connection, origin_id: str | None) -> list[OriginTally]:
    """See ``FleetStore.tallies``."""
    wanted = "origin_id" if origin_id is None else "?1"
    bound = () if origin_id is None else (origin_id,)
    stored = dict(
        select(
            reader,
            "SELECT owner, sum(seq_nr) FROM entity JOIN entity_head USING (entity_no)"
            f" WHERE owner = {wanted.replace('origin_id', 'owner')} GROUP BY owner",
            bound,
        )
    )
    parked = dict(
        select(reader, f"SELECT origin_id, count(*) FROM parked WHERE origin_id = {wanted} GROUP BY origin_id", bound)
    )
    stated: dict[str, dict[str, int]] = {}
    for name, reason, count in select(
        reader,
        "SELECT origin_id, reason, sum(to_seq_nr - from_seq_nr + 1) FROM stated_range"
        f" WHERE origin_id = {wanted} GROUP BY origin_id, reason",
        bound,
    ):
        stated.setdefault(name, {})[reason] = count
    names = [name for (name,) in select(reader, f"SELECT origin_id FROM origin WHERE origin_id = {wanted}", bound)]
    return [OriginTally(name, stored.get(name, 0), parked.get(name, 0), stated.get(name, {})) for name in sorted(names)]


def stated_of(reader: apsw.Connection, origin_id: str, most: int) -> list[StoredRange]:
    """See ``FleetStore.stated``."""
    rows = select(
        reader,
        "SELECT persistence_id, from_seq_nr, to_seq_nr, reason, received_us FROM stated_range WHERE origin_id = ?"
        " ORDER BY id DESC LIMIT ?",
        (origin_id, most),
    )
    return [StoredRange(origin_id, StatedRange(*stated), at) for *stated, at in rows]


def nodes_of(reader: apsw.Connection) -> dict[str, int]:
    """See ``FleetStore.nodes``."""
    return {node: at_us for node, at_us in select(reader, "SELECT node, at_us FROM fleet_node")}  # noqa: C416


class SqliteFleet:
    """``FleetStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def record(self, node: str, now_us: int, rows: Sequence[FleetRow], notes: Sequence[FleetNote]) -> None:
        """See ``FleetStore.record``."""
        await self._connections.write(record, node, now_us, rows, notes)

    async def rows(self, origin_ids: Collection[str] | None = None) -> list[FleetRow]:
        """See ``FleetStore.rows``."""
        return await self._connections.read(rows_of, origin_ids)

    async def notes(self, origin_id: str) -> list[FleetNote]:
        """See ``FleetStore.notes``."""
        return await self._connections.read(notes_of, origin_id)

    async def tallies(self, origin_id: str | None = None) -> list[OriginTally]:
        """See ``FleetStore.tallies``."""
        return await self._connections.read(tallies_of, origin_id)

    async def stated(self, origin_id: str, most: int) -> list[StoredRange]:
        """See ``FleetStore.stated``."""
        return await self._connections.read(stated_of, origin_id, most)

    async def nodes(self) -> dict[str, int]:
        """See ``FleetStore.nodes``."""
        return await self._connections.read(nodes_of)
