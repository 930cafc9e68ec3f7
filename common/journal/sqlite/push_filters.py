"""Filters of origins: what is asked for, and where their lanes are. Functions on a connection."""

from __future__ import annotations

from typing import Any

import apsw

from common.core.filters.past import Past
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import UNFILTERED, PushFilter, PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.journal.sqlite.connection import select
from common.journal.sqlite.connections import SqliteConnections

_ASKED = "SELECT pattern, version, criteria, set_us, history FROM asked_filter"


def ask(writer: apsw.Connection, pattern: str, criteria: str, history: Past, now_us: int) -> RequestedFilter:
    """See ``PushFilterStore.ask_filter``; the caller holds the transaction."""
    row = writer.execute(f"{_ASKED} WHERE pattern = ?", (pattern,)).get
    if row is None or (row[2], row[4]) != (criteria, history):
        writer.execute("DELETE FROM asked_filter WHERE pattern = ?", (pattern,))
        writer.execute(
            "INSERT INTO asked_filter (pattern, criteria, set_us, history) VALUES (?, ?, ?, ?)",
            (pattern, criteria, now_us, history.value),
        )
        row = writer.execute(f"{_ASKED} WHERE pattern = ?", (pattern,)).get
    return _requested(row)


def _requested(row: tuple[Any, ...]) -> RequestedFilter:
    pattern, version, criteria, set_us, history = row
    return RequestedFilter(pattern, version, criteria, set_us, Past(history))


def withdraw(writer: apsw.Connection, pattern: str) -> bool:
    """See ``PushFilterStore.withdraw_filter``; the caller holds the transaction."""
    writer.execute("DELETE FROM asked_filter WHERE pattern = ?", (pattern,))
    return writer.changes() > 0


def requested_filters(reader: apsw.Connection) -> list[RequestedFilter]:
    """See ``PushFilterStore.requested_filters``."""
    return [_requested(row) for row in select(reader, f"{_ASKED} ORDER BY pattern")]


def load_place(connection: apsw.Connection, origin_id: str) -> PushFilterState:
    """See ``PushFilterStore.push_filter_state``."""
    row = connection.execute(
        "SELECT old_version, old_criteria, old_producer, new_version, new_criteria, new_producer, change_position,"
        " backfill_position FROM push_place WHERE origin_id = ?",
        (origin_id,),
    ).get
    return PushFilterState(PushFilter(*row[:3]), PushFilter(*row[3:6]), *row[6:]) if row else UNFILTERED


def write_place(writer: apsw.Connection, origin_id: str, place: PushFilterState) -> None:
    """Store an origin's place; the caller holds the transaction."""
    old, new = place.old, place.new
    writer.execute(
        "INSERT OR REPLACE INTO push_place VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            origin_id,
            *(old.version, old.criteria, old.producer, new.version, new.criteria, new.producer),
            *(place.change_position, place.backfill_position),
        ),
    )


def change_filter(
    writer: apsw.Connection, origin_id: str, session: int, change: PushFilterApplied
) -> Fenced | OutOfStep | None:
    """See ``PushFilterStore.change_push_filter``; the caller holds the transaction."""
    row = writer.execute("SELECT session, position FROM origin WHERE origin_id = ?", (origin_id,)).get
    newest, position = row or (0, 0)
    if newest != session or not newest:
        return Fenced(newest)
    place = load_place(writer, origin_id)
    if position != change.position or not place.is_settled:
        return OutOfStep(position)
    write_place(writer, origin_id, place.changed(change.filter, change.position, change.needs_backfill))
    return None


class SqlitePushFilters:
    """``PushFilterStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def ask(self, pattern: str, criteria: str, history: Past = Past.SNAPSHOT) -> RequestedFilter:
        """See ``PushFilterStore.ask_filter``."""
        return await self._connections.write(ask, pattern, criteria, history, self._connections.now_us())

    async def withdraw(self, pattern: str) -> bool:
        """See ``PushFilterStore.withdraw_filter``."""
        return await self._connections.write(withdraw, pattern)

    async def requested(self) -> list[RequestedFilter]:
        """See ``PushFilterStore.requested_filters``."""
        return await self._connections.read(requested_filters)

    async def state(self, origin_id: str) -> PushFilterState:
        """See ``PushFilterStore.push_filter_state``."""
        return await self._connections.read(load_place, origin_id)

    async def change(self, origin_id: str, session: int, change: PushFilterApplied) -> Fenced | OutOfStep | None:
        """See ``PushFilterStore.change_push_filter``."""
        return await self._connections.write(change_filter, origin_id, session, change)
