"""What an operator changes about a projection: its ranges, its offsets, whether it has any. Asyncio-flavoured.

Every change raises epochs under the rows' locks: a commit that runs meanwhile is either seen or refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from common.core.events.ids import SliceRange
from common.core.journal.slice_ranges import (
    RangeOffset,
    ahead_as_text,
    ahead_of_text,
    changes,
    divide,
    missing_ranges,
    projection_in_use,
    projection_not_paused,
)
from common.core.journal.statement import Statement
from common.journal.postgres.offsets import lock_ranges, run_statements

_INSERT = (
    "INSERT INTO projection (name, first_slice, last_slice, position, epoch, owner, lease_until, paused, updated_us, ahead,"
    " begin_position) VALUES ($1, $2, $3, $4, $5, '', '-infinity', $6, $7, $8, $9)"
)


async def declare(
    connection: asyncpg.Connection, name: str, ranges: Sequence[SliceRange], begin: int, now_us: int
) -> list[SliceRange]:
    """See ``ProjectionStore.declare``."""
    async with connection.transaction():
        await lock_ranges(connection, name)
        stored = [
            SliceRange(*row)
            for row in await connection.fetch("SELECT first_slice, last_slice FROM projection WHERE name = $1", name)
        ]
        missing = missing_ranges(stored, ranges)
        for slices in missing:
            await connection.execute(_INSERT, name, slices.first, slices.last, begin, 0, False, now_us, "", begin)
    return sorted([*stored, *missing])


async def reshape(
    connection: asyncpg.Connection, name: str, ranges: Sequence[SliceRange], now_us: int
) -> list[RangeOffset]:
    """See ``ProjectionStore.reshape``."""
    async with connection.transaction():
        await lock_ranges(connection, name)
        rows = await connection.fetch(
            "SELECT first_slice, last_slice, position, ahead, epoch, paused, begin_position FROM projection"
            " WHERE name = $1 ORDER BY first_slice FOR UPDATE",
            name,
        )
        stored = [
            RangeOffset(SliceRange(row["first_slice"], row["last_slice"]), row["position"], ahead_of_text(row["ahead"]))
            for row in rows
        ]
        divided = divide(name, stored, ranges)
        epoch, paused = max(row["epoch"] for row in rows) + 1, any(row["paused"] for row in rows)
        begin = max(row["begin_position"] for row in rows)
        gone, new = changes(stored, divided)
        await connection.execute(
            "DELETE FROM projection WHERE name = $1 AND first_slice = ANY ($2::integer[])",
            name,
            [slices.first for slices in gone],
        )
        for one in new:
            ahead = ahead_as_text(one.ahead)
            await connection.execute(
                _INSERT, name, one.slices.first, one.slices.last, one.position, epoch, paused, now_us, ahead, begin
            )
    return divided


async def move(connection: asyncpg.Connection, name: str, position: int, statements: Sequence[Statement]) -> int:
    """See ``ProjectionStore.move``."""
    async with connection.transaction():
        await run_statements(connection, statements)
        await lock_ranges(connection, name)
        rows = await connection.fetch(
            "SELECT paused FROM projection WHERE name = $1 ORDER BY first_slice FOR UPDATE", name
        )
        if not all(row["paused"] for row in rows):
            raise projection_not_paused(name)
        await connection.execute(
            "UPDATE projection SET position = $2, ahead = $3, epoch = epoch + 1, failing = '' WHERE name = $1",
            *(name, position, ahead_as_text(())),
        )
    return len(rows)


async def forget(connection: asyncpg.Connection, name: str, statements: Sequence[Statement]) -> int:
    """See ``ProjectionStore.forget``."""
    async with connection.transaction():
        await run_statements(connection, statements)
        await lock_ranges(connection, name)
        rows = await connection.fetch(
            "SELECT owner, lease_left(owner, lease_until) > interval '0' AS is_held FROM projection"
            " WHERE name = $1 ORDER BY first_slice FOR UPDATE",
            name,
        )
        for row in rows:
            if row["is_held"]:
                raise projection_in_use(name, row["owner"])
        await connection.execute("DELETE FROM projection WHERE name = $1", name)
    return len(rows)


async def intervene(connection: asyncpg.Connection, name: str, statements: Sequence[Statement], restart: bool) -> int:
    """See ``ProjectionStore.intervene``."""
    async with connection.transaction():
        await run_statements(connection, statements)
        done: str = await connection.execute(
            "UPDATE projection SET epoch = epoch + 1, owner = '', directed = false, lease_until = '-infinity',"
            " position = CASE WHEN $2 THEN begin_position ELSE position END, ahead = CASE WHEN $2 THEN '' ELSE ahead END,"
            " failing = CASE WHEN $2 THEN '' ELSE failing END WHERE name = $1",
            name,
            restart,
        )
    return int(done.split()[-1])
