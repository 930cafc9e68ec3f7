"""Journals received here: their sessions and places, what they stated, what was parked. Runs in the writer's thread.

Functions on a connection are for both threads; ``Origins`` is what a group of appends needs inside its transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import repeat
from typing import Any

import apsw
import orjson

from common.core.events.batch import EVENT_COLUMNS
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import RETURNING_REASONS
from common.core.journal.append import Fenced, OutOfStep, ParkedEvent, PushedAppend, PushLane
from common.core.journal.history import Generation, History, Offset, OriginState, Resume, ResumeDecision, decide_resume
from common.core.push.past import known_of
from common.journal.sqlite.connection import insert_rows, select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.push_filters import load_place, write_place
from common.journal.stores.identities import BlockedIdentity
from common.journal.stores.origins import StoredRange

_GONE = orjson.dumps(sorted(RETURNING_REASONS)).decode()

_ORIGIN_COLUMNS = (
    "origin_id, session, instance, branch, journal_id, generation_id, position, timestamp_us, persistence_id, seq_nr,"
    " generations, superseded, left_behind, last_seen_us, fenced_instance"
)


class Origins:
    """The origins of one group of appends, inside its transaction."""

    def __init__(self, writer: apsw.Connection, now_us: int) -> None:
        self._writer = writer
        self._now_us = now_us

    def compare(self, request: PushedAppend) -> Fenced | OutOfStep | None:
        """Why the batch is not the next one of its origin's newest connection, or None."""
        row = self._writer.execute("SELECT session, position FROM origin WHERE origin_id = ?", (request.origin_id,)).get
        session, position = row or (0, 0)
        if session != request.session or not session:
            return Fenced(session)
        if request.lane is PushLane.PAST:
            return None
        if request.lane is PushLane.BACKFILL:
            position = load_place(self._writer, request.origin_id).backfill_position
        return None if position == request.after_position else OutOfStep(position)

    def move(self, request: PushedAppend) -> None:
        """Everything of the lane up to the batch's end is stored or parked by this transaction."""
        origin_id, through = request.origin_id, request.through
        if request.lane is PushLane.PAST or through.position == request.after_position:
            return  # the last event stored stays the one it is
        if request.lane is PushLane.BACKFILL:
            self._writer.execute("UPDATE origin SET last_seen_us = ? WHERE origin_id = ?", (self._now_us, origin_id))
            self._writer.execute(
                "UPDATE push_place SET backfill_position = ? WHERE origin_id = ?", (through.position, origin_id)
            )
            return
        self._writer.execute(
            "UPDATE origin SET journal_id = ?, generation_id = ?, position = ?, timestamp_us = ?, persistence_id = ?,"
            " seq_nr = ?, last_seen_us = ? WHERE origin_id = ?",
            (*astuple(through), self._now_us, origin_id),
        )

    def parked_to(self, request: PushedAppend) -> dict[str, int]:
        """The last number each entity of the origin has parked; asked for where repeats are to be known."""
        if request.lane is PushLane.LIVE:
            return {}
        rows = select(
            self._writer,
            "SELECT persistence_id, max(seq_nr) FROM parked WHERE origin_id = ? GROUP BY persistence_id",
            (request.origin_id,),
        )
        return dict(rows)

    def parked_count(self, origin_id: str) -> int:
        """How many events of the origin are parked."""
        count: int = self._writer.execute("SELECT count(*) FROM parked WHERE origin_id = ?", (origin_id,)).get
        return count

    def park(self, request: PushedAppend, parked: Sequence[tuple[int, ParkedEvent]]) -> None:
        """Set the events at these indexes of the batch aside, as they came."""
        n = len(parked)
        events = request.events.select([index for index, _ in parked])
        columns: tuple[Iterable[Any], ...] = (
            repeat(None, n),  # the next id
            repeat(request.origin_id, n),
            repeat(request.branch, n),
            [event.code for _, event in parked],
            repeat(self._now_us, n),
            *(getattr(events, name) for name in EVENT_COLUMNS),
        )
        insert_rows(self._writer, "parked", 18, columns)

    def ranges_of(self, request: PushedAppend, persistence_id: str) -> list[StatedRange]:
        """What was stated of an entity by this origin on this branch."""
        rows = select(
            self._writer,
            "SELECT persistence_id, from_seq_nr, to_seq_nr, reason FROM stated_range"
            " WHERE persistence_id = ? AND origin_id = ? AND branch = ?",
            (persistence_id, request.origin_id, request.branch),
        )
        return [StatedRange(*row) for row in rows]

    def cut_ranges(self, request: PushedAppend, returned: Mapping[str, int]) -> None:
        """See ``PushAdmission.returned``."""
        for persistence_id, seq_nr in returned.items():
            gone = (
                "persistence_id = ? AND origin_id = ? AND branch = ? AND to_seq_nr >= ?"
                " AND reason IN (SELECT value FROM json_each(?))"
            )
            args = (persistence_id, request.origin_id, request.branch, seq_nr, _GONE)
            self._writer.execute(f"DELETE FROM stated_range WHERE {gone} AND from_seq_nr >= ?", (*args, seq_nr))
            self._writer.execute(f"UPDATE stated_range SET to_seq_nr = ? WHERE {gone}", (seq_nr - 1, *args))

    def keep_ranges(self, origin_id: str, branch: int, ranges: Sequence[StatedRange]) -> None:
        """Remember why these numbers will never come."""
        n = len(ranges)
        columns = (
            repeat(None, n),
            [stated.persistence_id for stated in ranges],
            repeat(origin_id, n),
            [stated.from_seq_nr for stated in ranges],
            [stated.to_seq_nr for stated in ranges],
            repeat(branch, n),
            [stated.reason for stated in ranges],
            repeat(self._now_us, n),
        )
        insert_rows(self._writer, "stated_range", 8, columns)


def open_session(
    writer: apsw.Connection, origin_id: str, instance: str, history: History, now_us: int
) -> ResumeDecision:
    """See ``LogStore.open_session``; the caller holds the transaction."""
    known = next(iter(origins(writer, origin_id)), None)
    decision = decide_resume(known, origin_id, instance, history, now_us)
    if decision.resume is not Resume.SUPERSEDED:
        _write_origin(writer, decision.state)
        place = load_place(writer, origin_id)
        there = place.at(decision.state.stored.position)
        if there != place:
            write_place(writer, origin_id, there)
    return decision


def origins(connection: apsw.Connection, origin_id: str | None = None) -> list[OriginState]:
    """All origins ever seen, or the one asked for."""
    condition = "" if origin_id is None else "WHERE origin_id = ?"
    rows = select(
        connection,
        f"SELECT {_ORIGIN_COLUMNS} FROM origin {condition} ORDER BY origin_id",
        () if origin_id is None else (origin_id,),
    )
    return [
        OriginState(
            origin_id=row[0],
            session=row[1],
            instance=row[2],
            branch=row[3],
            stored=Offset(*row[4:10]),
            generations=_load_generations(row[10]),
            superseded=tuple(orjson.loads(row[11])),
            left_behind=_load_generations(row[12]),
            last_seen_us=row[13],
            fenced_instance=row[14],
        )
        for row in rows
    ]


def known_numbers(reader: apsw.Connection, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
    """See ``OriginStore.known``."""
    rows = select(
        reader,
        "SELECT e.owner, h.origin_seq_nr,"
        " (SELECT max(q.seq_nr) FROM parked AS q WHERE q.origin_id = ? AND q.persistence_id = asked.value)"
        " FROM json_each(?) AS asked LEFT JOIN entity AS e ON e.persistence_id = asked.value"
        " LEFT JOIN entity_head AS h USING (entity_no) ORDER BY asked.key",
        (origin_id, orjson.dumps(list(persistence_ids)).decode()),
    )
    return [known_of(origin_id, *row) for row in rows]


def forget_superseded(writer: apsw.Connection, origin_id: str) -> bool:
    """See ``LogStore.forget_superseded``; the caller holds the transaction."""
    for known in origins(writer, origin_id):
        _write_origin(writer, replace(known, superseded=(), left_behind=()))
        return True
    return False


def _write_origin(writer: apsw.Connection, state: OriginState) -> None:
    writer.execute(
        f"INSERT OR REPLACE INTO origin ({_ORIGIN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            state.origin_id,
            state.session,
            state.instance,
            state.branch,
            *astuple(state.stored),
            _dump_generations(state.generations),
            orjson.dumps(state.superseded).decode(),
            _dump_generations(state.left_behind),
            state.last_seen_us,
            state.fenced_instance,
        ),
    )


def _load_generations(stored: str) -> tuple[Generation, ...]:
    return tuple(Generation(*generation) for generation in orjson.loads(stored))


def _dump_generations(generations: Iterable[Generation]) -> str:
    return orjson.dumps([(generation.id, generation.first_position) for generation in generations]).decode()


def stored_ranges(connection: apsw.Connection, persistence_id: str) -> list[tuple[int, StoredRange]]:
    """The entity's stated ranges with the branch each was stated on, oldest first."""
    rows = select(
        connection,
        "SELECT branch, origin_id, from_seq_nr, to_seq_nr, reason, received_us FROM stated_range"
        " WHERE persistence_id = ? ORDER BY id",
        (persistence_id,),
    )
    return [
        (branch, StoredRange(origin_id, StatedRange(persistence_id, from_seq_nr, to_seq_nr, reason), received_us))
        for branch, origin_id, from_seq_nr, to_seq_nr, reason, received_us in rows
    ]


class SqliteOrigins:
    """``OriginStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``LogStore.open_session``."""
        return await self._connections.write(open_session, origin_id, instance, history, self._connections.now_us())

    async def rows(self) -> list[OriginState]:
        """See ``LogStore.origins``."""
        return await self._connections.read(origins)

    async def known(self, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
        """See ``OriginStore.known``."""
        return await self._connections.read(known_numbers, origin_id, persistence_ids)

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``LogStore.forget_superseded``."""
        return await self._connections.write(forget_superseded, origin_id)

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``LogStore.stored_ranges``."""
        return [kept for _, kept in await self._connections.read(stored_ranges, persistence_id)]


# -- peers that are shut out ---------------------------------------------------------------------------------------


def blocked_identities(reader: apsw.Connection) -> list[BlockedIdentity]:
    """See ``IdentityStore.blocked``."""
    rows = select(reader, "SELECT id, reason, blocked_us FROM blocked_identity ORDER BY id")
    return [BlockedIdentity(*row) for row in rows]


def block(writer: apsw.Connection, identity: str, reason: str, now_us: int) -> BlockedIdentity:
    """See ``IdentityStore.block``; the caller holds the transaction."""
    row = writer.execute(
        "INSERT INTO blocked_identity VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason"
        " RETURNING id, reason, blocked_us",
        (identity, reason, now_us),
    ).get
    return BlockedIdentity(*row)


def allow(writer: apsw.Connection, identity: str) -> bool:
    """See ``IdentityStore.allow``; the caller holds the transaction."""
    writer.execute("DELETE FROM blocked_identity WHERE id = ?", (identity,))
    return writer.changes() > 0


class SqliteIdentities:
    """``IdentityStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def blocked(self) -> list[BlockedIdentity]:
        """See ``IdentityStore.blocked``."""
        return await self._connections.read(blocked_identities)

    async def block(self, identity: str, reason: str) -> BlockedIdentity:
        """See ``IdentityStore.block``."""
        return await self._connections.write(block, identity, reason, self._connections.now_us())

    async def allow(self, identity: str) -> bool:
        """See ``IdentityStore.allow``."""
        return await self._connections.write(allow, identity)
