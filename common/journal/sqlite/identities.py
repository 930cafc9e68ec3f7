"""Blocked identities. Functions on a connection."""

from __future__ import annotations

import apsw

from common.journal.sqlite.connection import select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.stores.identities import BlockedIdentity


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
