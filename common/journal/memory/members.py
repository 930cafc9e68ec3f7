"""Members in memory, and whose leases hold because of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import trio

from common.core.members.assignment import RangeKey
from common.core.members.member import Member, MemberList, MemberReport, lease_left
from common.journal.change_signal import ChangeSignal
from common.journal.memory.connections import MemoryConnections
from common.journal.memory.state import MemberEntry, MemoryState, ProjectionEntry

_MICROSECONDS = 1_000_000


def is_held(state: MemoryState, owner: str, until_us: int, now_us: int, new_until_us: int) -> bool:
    """Whether a lease keeps another owner out: a member's while it is one, any other's until it lapses."""
    member = state.members.get(owner)
    if member is not None:
        return lease_left(now_us, member.until_us, member.renewed_us) > 0
    return bool(owner) and now_us < until_us <= new_until_us


def left_s(state: MemoryState, owner: str, until_us: int, now_us: int) -> float:
    """What is left of a lease."""
    member = state.members.get(owner)
    if member is not None:
        return lease_left(now_us, member.until_us, member.renewed_us) / _MICROSECONDS
    return max(0.0, (until_us - now_us) / _MICROSECONDS) if owner else 0.0


def handed(row: ProjectionEntry, successor: str, now_us: int) -> ProjectionEntry:
    """A range's row with the owner that the one before has named, '' for none."""
    return replace(
        row,
        epoch=row.epoch + 1,
        owner=successor,
        lease_until_us=0,
        is_directed=bool(successor),
        moved_us=now_us if successor else row.moved_us,
    )


def disconnect(connections: MemoryConnections) -> None:
    """The process of these connections is gone: its sessions close, whatever it had time for."""
    database = connections.database
    database.member_locks -= connections.member_locks
    if connections.members_changed in database.member_signals:
        database.member_signals.remove(connections.members_changed)


class MemoryMembers:
    """``MemberStore`` over a ``MemoryDatabase``."""

    holds_leases = True

    def __init__(self, connections: MemoryConnections) -> None:
        self._connections = connections
        connections.database.member_signals.append(connections.members_changed)

    @property
    def changed(self) -> ChangeSignal:
        """See ``MemberStore.changed``."""
        return self._connections.members_changed

    async def renew(self, report: MemberReport, lease_s: float) -> MemberList:
        """See ``MemberStore.renew``."""
        database = self._connections.database
        async with database.lock:
            # Not a draft: twice a second the whole log would be copied.
            now_us = self._connections.now_us()
            known = database.state.members.get(report.instance)
            until_us = now_us + round(lease_s * _MICROSECONDS)
            entry = MemberEntry(report, known.renewals + 1 if known else 1, now_us, until_us)
            database.state = replace(database.state, members={**database.state.members, report.instance: entry})
        if known is None or (known.report.weight, known.report.runs) != (report.weight, report.runs):
            for signal in database.member_signals:
                signal.fire()
        self._connections.member_locks.add(report.instance)
        self._connections.database.member_locks.add(report.instance)
        return await self.look()

    async def look(self) -> MemberList:
        """See ``MemberStore.look``."""
        await trio.lowlevel.checkpoint()
        database, now_us = self._connections.database, self._connections.now_us()
        return MemberList(
            [
                Member(
                    entry.report,
                    lease_left(now_us, entry.until_us, entry.renewed_us) / _MICROSECONDS,
                    max(0.0, (now_us - entry.renewed_us) / _MICROSECONDS),
                    entry.renewals,
                    instance in database.member_locks,
                    entry.report.node in database.state.drained,
                )
                for instance, entry in sorted(database.state.members.items())
            ]
        )

    async def declare_dead(self, member: Member) -> bool:
        """See ``MemberStore.declare_dead``."""
        async with self._connections.transaction() as draft:
            entry = draft.members.get(member.instance)
            if entry is None or entry.renewals != member.renewals:
                return False
            draft.members[member.instance] = replace(entry, until_us=0)
            return True

    async def leave(self, instance: str, successors: Mapping[RangeKey, str]) -> int:
        """See ``MemberStore.leave``."""
        async with self._connections.transaction() as draft:
            now_us = self._connections.now_us()
            draft.members.pop(instance, None)
            keys = [key for key, row in draft.projections.items() if row.owner == instance]
            for key in keys:
                draft.projections[key] = handed(draft.projections[key], successors.get(key, ""), now_us)
            return len(keys)

    async def forget(self, instance: str) -> None:
        """See ``MemberStore.forget``."""
        async with self._connections.transaction() as draft:
            entry = draft.members.get(instance)
            if entry is not None and not lease_left(self._connections.now_us(), entry.until_us, entry.renewed_us):
                del draft.members[instance]

    async def set_drained(self, node: str, is_drained: bool) -> bool:
        """See ``MemberStore.set_drained``."""
        async with self._connections.transaction() as draft:
            was_drained = node in draft.drained
            draft.drained = draft.drained | {node} if is_drained else draft.drained - {node}
        return was_drained != is_drained
