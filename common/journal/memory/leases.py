"""Leases in memory, and the age clock, which is advanced under one."""

from __future__ import annotations

from dataclasses import replace

import trio

from common.core.journal.ages import JournalAge
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.members import is_held, left_s
from common.journal.memory.state import LeaseEntry, MemoryState
from common.journal.stores.leases import Lease, LeaseRow, lease_fenced

_MICROSECONDS = 1_000_000


def lease_end(now_us: int, lease_s: float) -> int:
    """When a lease taken now ends."""
    return now_us + round(lease_s * _MICROSECONDS)


def held(draft: MemoryState, lease: Lease) -> LeaseEntry:
    """The lease's row, if it still gives the right to commit.

    Raises:
        BackhaulError: ``lease.fenced``.
    """
    row = draft.leases.get(lease.name)
    if row is None or row.epoch != lease.epoch:
        raise lease_fenced(lease)
    return row


def take_away(draft: MemoryState, name: str) -> None:
    """Fence the present owner, if there is one."""
    row = draft.leases.get(name)
    if row is not None:
        draft.leases[name] = LeaseEntry("", row.epoch + 1, 0)


class MemoryLeases:
    """``LeaseStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def acquire(self, name: str, owner: str, lease_s: float) -> Lease | None:
        """See ``LeaseStore.acquire``."""
        async with self._connections.transaction() as draft:
            now_us = self._connections.now_us()
            row = draft.leases.get(name) or LeaseEntry("", 0, 0)
            until_us = lease_end(now_us, lease_s)
            if row.owner != owner and is_held(draft, row.owner, row.until_us, now_us, until_us):
                return None
            epoch = row.epoch + (row.owner != owner)
            draft.leases[name] = LeaseEntry(owner, epoch, until_us)
            return Lease(name, epoch)

    async def release(self, lease: Lease) -> None:
        """See ``LeaseStore.release``."""
        async with self._connections.transaction() as draft:
            row = draft.leases.get(lease.name)
            if row and row.epoch == lease.epoch:
                draft.leases[lease.name] = LeaseEntry("", row.epoch, 0)

    async def rows(self) -> list[LeaseRow]:
        """See ``LeaseStore.rows``."""
        await trio.lowlevel.checkpoint()
        now_us, state = self._connections.now_us(), self._connections.database.state
        return [
            LeaseRow(name, row.owner, row.epoch, left_s(state, row.owner, row.until_us, now_us))
            for name, row in sorted(state.leases.items())
        ]


class MemoryAges:
    """``AgeStore`` over a ``MemoryDatabase``."""

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections

    async def load(self) -> JournalAge:
        """See ``AgeStore.load``."""
        await trio.lowlevel.checkpoint()
        return self._connections.database.state.age

    async def advance(self, lease: Lease, elapsed_us: int, head: int, lease_s: float) -> JournalAge:
        """See ``AgeStore.advance``."""
        async with self._connections.transaction() as draft:
            row = held(draft, lease)
            draft.leases[lease.name] = replace(row, until_us=lease_end(self._connections.now_us(), lease_s))
            draft.age = draft.age.advanced(elapsed_us, head)
            return draft.age
