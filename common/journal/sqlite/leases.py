"""Leases in the journal's file, the age clock, which is advanced under one, and the one member that a file has.

Lease time is this process's clock: one process has the file.

Runs in the storage's threads; callers of the functions hold transactions.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw
import trio

from common.core.journal.ages import AgeMark, JournalAge
from common.core.members.assignment import RangeKey
from common.core.members.member import Member, MemberList, MemberReport, lease_left
from common.journal.change_signal import ChangeSignal
from common.journal.sqlite import projections
from common.journal.sqlite.connection import select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.stores.leases import Lease, LeaseRow, lease_fenced

_MICROSECONDS = 1_000_000


def lease_end(now_us: int, lease_s: float) -> int:
    """When a lease taken now ends."""
    return now_us + round(lease_s * _MICROSECONDS)


def acquire(writer: apsw.Connection, name: str, owner: str, *, lease_s: float, now_us: int) -> Lease | None:
    """See ``LeaseStore.acquire``."""
    holder, epoch, held_until_us = writer.execute(
        "SELECT owner, epoch, until_us FROM lease WHERE name = ?", (name,)
    ).get or ("", 0, 0)
    until_us = lease_end(now_us, lease_s)
    if holder not in {"", owner} and now_us < held_until_us <= until_us:
        return None
    epoch += holder != owner
    writer.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?)", (name, owner, epoch, until_us))
    return Lease(name, epoch)


def release(writer: apsw.Connection, lease: Lease) -> None:
    """See ``LeaseStore.release``."""
    writer.execute("UPDATE lease SET owner = '', until_us = 0 WHERE name = ? AND epoch = ?", (lease.name, lease.epoch))


def renew(writer: apsw.Connection, lease: Lease, until_us: int) -> None:
    """Renew the lease within a transaction that is guarded by it.

    Raises:
        BackhaulError: ``lease.fenced``.
    """
    writer.execute("UPDATE lease SET until_us = ? WHERE name = ? AND epoch = ?", (until_us, lease.name, lease.epoch))
    if not writer.changes():
        raise lease_fenced(lease)


def check(writer: apsw.Connection, lease: Lease) -> None:
    """Let only the lease's owner go on; raises as ``renew``."""
    if not writer.execute("SELECT 1 FROM lease WHERE name = ? AND epoch = ?", (lease.name, lease.epoch)).get:
        raise lease_fenced(lease)


def take_away(writer: apsw.Connection, name: str) -> None:
    """Fence the present owner, if there is one."""
    writer.execute("UPDATE lease SET epoch = epoch + 1, owner = '', until_us = 0 WHERE name = ?", (name,))


def rows(reader: apsw.Connection, now_us: int) -> list[LeaseRow]:
    """See ``LeaseStore.rows``."""
    return [
        LeaseRow(name, owner, epoch, max(0.0, (until_us - now_us) / _MICROSECONDS))
        for name, owner, epoch, until_us in select(
            reader, "SELECT name, owner, epoch, until_us FROM lease ORDER BY name"
        )
    ]


class SqliteLeases:
    """``LeaseStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def acquire(self, name: str, owner: str, lease_s: float) -> Lease | None:
        """See ``LeaseStore.acquire``."""
        connections = self._connections
        return await connections.write(acquire, name, owner, lease_s=lease_s, now_us=connections.now_us())

    async def release(self, lease: Lease) -> None:
        """See ``LeaseStore.release``."""
        await self._connections.write(release, lease)

    async def rows(self) -> list[LeaseRow]:
        """See ``LeaseStore.rows``."""
        return await self._connections.read(rows, self._connections.now_us())


def load_age(connection: apsw.Connection) -> JournalAge:
    """See ``AgeStore.load``."""
    age_us: int = connection.execute("SELECT age_us FROM age").get
    marks = select(connection, "SELECT age_us, position FROM age_mark ORDER BY age_us")
    return JournalAge(age_us, tuple(AgeMark(*row) for row in marks))


def advance_age(writer: apsw.Connection, lease: Lease, elapsed_us: int, head: int, until_us: int) -> JournalAge:
    """See ``AgeStore.advance``."""
    renew(writer, lease, until_us)
    before = load_age(writer)
    after = before.advanced(elapsed_us, head)
    writer.execute("UPDATE age SET age_us = ?", (after.age_us,))
    gone, come = after.changes_from(before)
    writer.executemany("DELETE FROM age_mark WHERE age_us = ?", [(mark.age_us,) for mark in gone])
    writer.executemany("INSERT INTO age_mark VALUES (?, ?)", [(mark.age_us, mark.position) for mark in come])
    return after


class SqliteAges:
    """``AgeStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def load(self) -> JournalAge:
        """See ``AgeStore.load``."""
        return await self._connections.read(load_age)

    async def advance(self, lease: Lease, elapsed_us: int, head: int, lease_s: float) -> JournalAge:
        """See ``AgeStore.advance``."""
        until_us = lease_end(self._connections.now_us(), lease_s)
        return await self._connections.write(advance_age, lease, elapsed_us, head, until_us)


class SqliteMembers:
    """``MemberStore`` of an open file. Leases are renewed one by one here: a synced commit for each look would cost more."""

    holds_leases = False

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections
        self._rows: dict[str, tuple[MemberReport, int, int, int]] = {}
        self._drained: set[str] = set()

    @property
    def changed(self) -> ChangeSignal:
        """See ``MemberStore.changed``."""
        return self._connections.members_changed

    async def renew(self, report: MemberReport, lease_s: float) -> MemberList:
        """See ``MemberStore.renew``."""
        now_us = self._connections.now_us()
        if report.instance not in self._rows:
            self.changed.fire()
        _, renewals, _, _ = self._rows.get(report.instance, (report, 0, 0, 0))
        until_us = now_us + round(lease_s * _MICROSECONDS)
        self._rows[report.instance] = (report, renewals + 1, now_us, until_us)
        return await self.look()

    async def look(self) -> MemberList:
        """See ``MemberStore.look``."""
        await trio.lowlevel.checkpoint()
        now_us = self._connections.now_us()
        return MemberList(
            [
                Member(
                    report,
                    lease_left(now_us, until_us, renewed_us) / _MICROSECONDS,
                    max(0.0, (now_us - renewed_us) / _MICROSECONDS),
                    renewals,
                    is_drained=report.node in self._drained,
                )
                for _, (report, renewals, renewed_us, until_us) in sorted(self._rows.items())
            ]
        )

    async def declare_dead(self, member: Member) -> bool:
        """See ``MemberStore.declare_dead``."""
        await trio.lowlevel.checkpoint()
        report, renewals, renewed_us, _ = self._rows.get(member.instance, (member.report, -1, 0, 0))
        if renewals != member.renewals:
            return False
        self._rows[member.instance] = (report, renewals, renewed_us, 0)
        return True

    async def leave(self, instance: str, successors: Mapping[RangeKey, str]) -> int:
        """See ``MemberStore.leave``."""
        self._rows.pop(instance, None)
        left = await self._connections.write(projections.leave, instance, successors)
        self.changed.fire()
        return left

    async def forget(self, instance: str) -> None:
        """See ``MemberStore.forget``."""
        await trio.lowlevel.checkpoint()
        if instance in self._rows and self._rows[instance][3] <= self._connections.now_us():
            del self._rows[instance]

    async def set_drained(self, node: str, is_drained: bool) -> bool:
        """See ``MemberStore.set_drained``. Kept until the process ends."""
        await trio.lowlevel.checkpoint()
        was_drained = node in self._drained
        (self._drained.add if is_drained else self._drained.discard)(node)
        self.changed.fire()
        return was_drained != is_drained
