"""Blocked identities in memory."""

from __future__ import annotations

import trio

from common.journal.memory.connections import MemoryConnections
from common.journal.stores.identities import BlockedIdentity


class MemoryIdentities:
    """``IdentityStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def blocked(self) -> list[BlockedIdentity]:
        """See ``IdentityStore.blocked``."""
        await trio.lowlevel.checkpoint()
        return [row for _, row in sorted(self._connections.database.state.blocked.items())]

    async def block(self, identity: str, reason: str) -> BlockedIdentity:
        """See ``IdentityStore.block``."""
        async with self._connections.transaction() as draft:
            known = draft.blocked.get(identity)
            row = BlockedIdentity(identity, reason, known.blocked_us if known else self._connections.now_us())
            draft.blocked[identity] = row
            return row

    async def allow(self, identity: str) -> bool:
        """See ``IdentityStore.allow``."""
        async with self._connections.transaction() as draft:
            return draft.blocked.pop(identity, None) is not None
