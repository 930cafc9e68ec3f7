"""Origins in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from common.core.journal.history import History, OriginState, Resume, ResumeDecision, decide_resume
from common.core.push.past import known_of
from common.journal.memory.connections import MemoryConnections
from common.journal.stores.identities import BlockedIdentity
from common.journal.stores.origins import StoredRange


class MemoryOrigins:
    """``OriginStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``OriginStore.open_session``."""
        async with self._connections.transaction() as draft:
            known = draft.origins.get(origin_id)
            decision = decide_resume(known, origin_id, instance, history, self._connections.now_us())
            if decision.resume is not Resume.SUPERSEDED:
                draft.origins[origin_id] = decision.state
                if origin_id in draft.push_filter_states:
                    place = draft.push_filter_states[origin_id]
                    draft.push_filter_states[origin_id] = place.at(decision.state.stored.position)
            return decision

    async def rows(self) -> list[OriginState]:
        """See ``OriginStore.rows``."""
        await trio.lowlevel.checkpoint()
        return [state for _, state in sorted(self._connections.database.state.origins.items())]

    async def known(self, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
        """See ``OriginStore.known``."""
        await trio.lowlevel.checkpoint()
        state = self._connections.database.state
        parked_to: dict[str, int] = {}
        for parked in state.parked:
            if parked.origin_id == origin_id:
                parked_to[parked.persistence_id] = max(parked.numbers.seq_nr, parked_to.get(parked.persistence_id, 0))
        heads = ((name, state.heads.get(name)) for name in persistence_ids)
        return [
            known_of(origin_id, head.owner if head else None, head.origin_seq_nr if head else 0, parked_to.get(name))
            for name, head in heads
        ]

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``OriginStore.forget_superseded``."""
        async with self._connections.transaction() as draft:
            known = draft.origins.get(origin_id)
            if known:
                draft.origins[origin_id] = replace(known, superseded=(), left_behind=())
            return known is not None

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``OriginStore.stored_ranges``."""
        await trio.lowlevel.checkpoint()
        ranges = self._connections.database.state.ranges
        return [kept for _, kept in ranges if kept.stated.persistence_id == persistence_id]


# -- peers that are shut out ---------------------------------------------------------------------------------------


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
