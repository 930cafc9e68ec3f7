"""Filters of origins: what is asked for, and where their lanes are. Asyncio-flavoured functions on a session."""

from __future__ import annotations

import asyncpg

from common.core.filters.past import Past
from common.core.journal.append import Fenced, OutOfStep
from common.core.push.filter_transition import UNFILTERED, PushFilter, PushFilterApplied, PushFilterState
from common.core.push.requested_filter import RequestedFilter
from common.journal.postgres.sessions import PostgresSessions

_ASKED = "SELECT pattern, version, criteria, set_us, history FROM asked_filter"
_PLACE = (
    "old_version, old_criteria, old_producer, new_version, new_criteria, new_producer, change_position,"
    " backfill_position"
)


async def ask(
    connection: asyncpg.Connection, pattern: str, criteria: str, history: Past, now_us: int
) -> RequestedFilter:
    """See ``PushFilterStore.ask_filter``."""
    async with connection.transaction():
        # One at a time: two may set the same pattern.
        await connection.execute("LOCK TABLE asked_filter IN SHARE ROW EXCLUSIVE MODE")
        row = await connection.fetchrow(f"{_ASKED} WHERE pattern = $1", pattern)
        if row is None or (row["criteria"], row["history"]) != (criteria, history):
            await connection.execute("DELETE FROM asked_filter WHERE pattern = $1", pattern)
            row = await connection.fetchrow(
                "INSERT INTO asked_filter (pattern, criteria, set_us, history) VALUES ($1, $2, $3, $4)"
                " RETURNING pattern, version, criteria, set_us, history",
                pattern,
                criteria,
                now_us,
                history.value,
            )
    return _requested(row)


def _requested(row: asyncpg.Record) -> RequestedFilter:
    pattern, version, criteria, set_us, history = row
    return RequestedFilter(pattern, version, criteria, set_us, Past(history))


async def withdraw(connection: asyncpg.Connection, pattern: str) -> bool:
    """See ``PushFilterStore.withdraw_filter``."""
    return bool(await connection.execute("DELETE FROM asked_filter WHERE pattern = $1", pattern) == "DELETE 1")


async def requested_filters(connection: asyncpg.Connection) -> list[RequestedFilter]:
    """See ``PushFilterStore.requested_filters``."""
    return [_requested(row) for row in await connection.fetch(f"{_ASKED} ORDER BY pattern")]


async def load_place(connection: asyncpg.Connection, origin_id: str) -> PushFilterState:
    """See ``PushFilterStore.push_filter_state``."""
    row = await connection.fetchrow(f"SELECT {_PLACE} FROM push_place WHERE origin_id = $1", origin_id)
    return PushFilterState(PushFilter(*row[:3]), PushFilter(*row[3:6]), *row[6:]) if row else UNFILTERED


async def write_place(connection: asyncpg.Connection, origin_id: str, place: PushFilterState) -> None:
    """Store an origin's place; the caller holds a transaction and the origin's row."""
    old, new = place.old, place.new
    await connection.execute(
        f"INSERT INTO push_place (origin_id, {_PLACE}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        f" ON CONFLICT (origin_id) DO UPDATE SET ({_PLACE}) = ($2, $3, $4, $5, $6, $7, $8, $9)",
        origin_id,
        *(old.version, old.criteria, old.producer, new.version, new.criteria, new.producer),
        *(place.change_position, place.backfill_position),
    )


async def change_filter(
    connection: asyncpg.Connection, origin_id: str, session: int, change: PushFilterApplied
) -> Fenced | OutOfStep | None:
    """See ``PushFilterStore.change_push_filter``."""
    async with connection.transaction():
        row = await connection.fetchrow(
            "SELECT session, position FROM origin WHERE origin_id = $1 FOR UPDATE", origin_id
        )
        newest, position = row or (0, 0)
        if newest != session or not newest:
            return Fenced(newest)
        place = await load_place(connection, origin_id)
        if position != change.position or not place.is_settled:
            return OutOfStep(position)
        await write_place(connection, origin_id, place.changed(change.filter, change.position, change.needs_backfill))
    return None


class PostgresPushFilters:
    """``PushFilterStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def ask(self, pattern: str, criteria: str, history: Past = Past.SNAPSHOT) -> RequestedFilter:
        """See ``PushFilterStore.ask_filter``."""
        return await self._sessions.state.run(ask, pattern, criteria, history, self._sessions.now_us())

    async def withdraw(self, pattern: str) -> bool:
        """See ``PushFilterStore.withdraw_filter``."""
        return await self._sessions.state.run(withdraw, pattern)

    async def requested(self) -> list[RequestedFilter]:
        """See ``PushFilterStore.requested_filters``."""
        return await self._sessions.read(requested_filters)

    async def state(self, origin_id: str) -> PushFilterState:
        """See ``PushFilterStore.push_filter_state``."""
        return await self._sessions.read(load_place, origin_id)

    async def change(self, origin_id: str, session: int, change: PushFilterApplied) -> Fenced | OutOfStep | None:
        """See ``PushFilterStore.change_push_filter``."""
        return await self._sessions.state.run(change_filter, origin_id, session, change)
