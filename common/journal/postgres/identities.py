"""Blocked identities. Asyncio-flavoured functions on a session."""

from __future__ import annotations

import asyncpg

from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.identities import BlockedIdentity


async def blocked_identities(connection: asyncpg.Connection) -> list[BlockedIdentity]:
    """See ``IdentityStore.blocked``."""
    rows = await connection.fetch("SELECT id, reason, blocked_us FROM blocked_identity ORDER BY id")
    return [BlockedIdentity(*row) for row in rows]


async def block(connection: asyncpg.Connection, identity: str, reason: str, now_us: int) -> BlockedIdentity:
    """See ``IdentityStore.block``."""
    row = await connection.fetchrow(
        "INSERT INTO blocked_identity VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET reason = excluded.reason"
        " RETURNING id, reason, blocked_us",
        identity,
        reason,
        now_us,
    )
    return BlockedIdentity(*row)


async def allow(connection: asyncpg.Connection, identity: str) -> bool:
    """See ``IdentityStore.allow``."""
    return bool(await connection.execute("DELETE FROM blocked_identity WHERE id = $1", identity) == "DELETE 1")


class PostgresIdentities:
    """``IdentityStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def blocked(self) -> list[BlockedIdentity]:
        """See ``IdentityStore.blocked``."""
        return await self._sessions.read(blocked_identities)

    async def block(self, identity: str, reason: str) -> BlockedIdentity:
        """See ``IdentityStore.block``."""
        return await self._sessions.state.run(block, identity, reason, self._sessions.now_us())

    async def allow(self, identity: str) -> bool:
        """See ``IdentityStore.allow``."""
        return await self._sessions.state.run(allow, identity)
