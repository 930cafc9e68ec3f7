"""Leases, and the age clock, which is advanced under one.

Asyncio-flavoured functions on a session; lease time is the database's.

In the lock order of transactions a lease stands where a projection's row stands: after the rows of applications.
"""

from __future__ import annotations

import asyncpg

from common.core.journal.ages import AgeMark, JournalAge
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.leases import Lease, LeaseRow, lease_fenced

_ACQUIRE = """
INSERT INTO lease AS held VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
SET epoch = held.epoch + (held.owner <> excluded.owner)::int, owner = excluded.owner, until = excluded.until
WHERE held.owner = excluded.owner OR NOT is_held(held.owner, held.until, $3)
RETURNING epoch
"""


async def acquire(connection: asyncpg.Connection, name: str, owner: str, lease_s: float) -> Lease | None:
    """See ``LeaseStore.acquire``."""
    epoch = await connection.fetchval(_ACQUIRE, name, owner, lease_s)
    return None if epoch is None else Lease(name, epoch)


async def release(connection: asyncpg.Connection, lease: Lease) -> None:
    """See ``LeaseStore.release``."""
    await connection.execute(
        "UPDATE lease SET owner = '', until = '-infinity' WHERE name = $1 AND epoch = $2", lease.name, lease.epoch
    )


async def renew(connection: asyncpg.Connection, lease: Lease, lease_s: float) -> None:
    """Renew the lease within a transaction that is guarded by it.

    Raises:
        BackhaulError: ``lease.fenced``.
    """
    renewed = await connection.execute(
        "UPDATE lease SET until = clock_timestamp() + make_interval(secs => $3) WHERE name = $1 AND epoch = $2",
        *(lease.name, lease.epoch, lease_s),
    )
    if renewed != "UPDATE 1":
        raise lease_fenced(lease)


async def lock(connection: asyncpg.Connection, lease: Lease) -> None:
    """Let only the lease's owner go on, and no other take it until the transaction ends; raises as ``renew``."""
    held = "SELECT true FROM lease WHERE name = $1 AND epoch = $2 FOR UPDATE"
    if not await connection.fetchval(held, lease.name, lease.epoch):
        raise lease_fenced(lease)


async def take_away(connection: asyncpg.Connection, name: str) -> None:
    """Fence the present owner, if there is one."""
    await connection.execute(
        "UPDATE lease SET epoch = epoch + 1, owner = '', until = '-infinity' WHERE name = $1", name
    )


async def rows(connection: asyncpg.Connection) -> list[LeaseRow]:
    """See ``LeaseStore.rows``."""
    stored = await connection.fetch(
        "SELECT name, owner, epoch, extract(epoch FROM lease_left(owner, until))::float8 FROM lease ORDER BY name"
    )
    return [LeaseRow(*row) for row in stored]


class PostgresLeases:
    """``LeaseStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def acquire(self, name: str, owner: str, lease_s: float) -> Lease | None:
        """See ``LeaseStore.acquire``."""
        return await self._sessions.committer().connection.run(acquire, name, owner, lease_s)

    async def release(self, lease: Lease) -> None:
        """See ``LeaseStore.release``."""
        await self._sessions.committer().connection.run(release, lease)

    async def rows(self) -> list[LeaseRow]:
        """See ``LeaseStore.rows``."""
        return await self._sessions.read(rows)


# Clock and marks in one statement, so that they are of one moment.
_LOAD = """
SELECT age.age_us, coalesce(m.ages, '{}'), coalesce(m.positions, '{}') FROM age, (
    SELECT array_agg(age_us ORDER BY age_us) AS ages, array_agg(position ORDER BY age_us) AS positions FROM age_mark
) AS m
"""


async def load_age(connection: asyncpg.Connection) -> JournalAge:
    """See ``AgeStore.load``."""
    age_us, ages, positions = await connection.fetchrow(_LOAD)
    return JournalAge(age_us, tuple(map(AgeMark, ages, positions)))


async def advance_age(
    connection: asyncpg.Connection, lease: Lease, elapsed_us: int, head: int, lease_s: float
) -> JournalAge:
    """See ``AgeStore.advance``."""
    async with connection.transaction():
        await renew(connection, lease, lease_s)
        before = await load_age(connection)
        after = before.advanced(elapsed_us, head)
        await connection.execute("UPDATE age SET age_us = $1", after.age_us)
        gone, come = after.changes_from(before)
        await connection.execute("DELETE FROM age_mark WHERE age_us = ANY ($1)", [mark.age_us for mark in gone])
        await connection.execute(
            "INSERT INTO age_mark SELECT * FROM unnest($1::bigint[], $2::bigint[])",
            [mark.age_us for mark in come],
            [mark.position for mark in come],
        )
    return after


class PostgresAges:
    """``AgeStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def load(self) -> JournalAge:
        """See ``AgeStore.load``."""
        return await self._sessions.read(load_age)

    async def advance(self, lease: Lease, elapsed_us: int, head: int, lease_s: float) -> JournalAge:
        """See ``AgeStore.advance``."""
        return await self._sessions.state.run(advance_age, lease, elapsed_us, head, lease_s)
