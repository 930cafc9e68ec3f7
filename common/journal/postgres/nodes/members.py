"""Members in PostgreSQL. Asyncio-flavoured functions on a session of its own, which holds the lock of this node's row."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from common.core.members.assignment import RangeKey
from common.core.members.member import Member, MemberList, MemberReport
from common.journal.change_signal import ChangeSignal
from common.journal.postgres.offsets import key_columns
from common.journal.postgres.opening import MEMBER_LOCK
from common.journal.postgres.sessions import PostgresSessions

_LOOK = """
, held AS MATERIALIZED (
    SELECT objid::bigint AS pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = $1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT instance, node, started_us, weight, runs, sessions, edges, renewals,
       extract(epoch FROM member_left((
           instance, node, started_us, weight, runs, sessions, edges, renewals, renewed_at, lease_until, lock_pid
       )::member))::float8 AS left_s,
       greatest(0, extract(epoch FROM clock_timestamp() - renewed_at))::float8 AS silent_s,
       lock_pid IN (SELECT pid FROM held) AS has_lock,
       node IN (SELECT node FROM drained_node) AS is_drained,
       greatest(0, extract(epoch FROM settles_at - clock_timestamp()))::float8 AS settles_in_s,
       (SELECT position FROM head) AS head
FROM everyone, membership ORDER BY instance
"""
_LOOK_ONLY = f"WITH everyone AS (SELECT * FROM member){_LOOK}"
_RENEW = f"""
WITH renewed AS (
    INSERT INTO member AS known VALUES (
        $2, $3, $4, $5, $6, $7, $8, 1, clock_timestamp(), clock_timestamp() + make_interval(secs => $9), pg_backend_pid()
    ) ON CONFLICT (instance) DO UPDATE SET weight = excluded.weight, runs = excluded.runs, sessions = excluded.sessions,
        edges = excluded.edges, renewals = known.renewals + 1, renewed_at = excluded.renewed_at,
        lease_until = excluded.lease_until, lock_pid = excluded.lock_pid
    RETURNING *
), everyone AS (SELECT * FROM member WHERE instance <> $2 UNION ALL SELECT * FROM renewed){_LOOK}"""
# Rows of ranges in the order in which their commits lock them (``offsets.commit_together``).
_LEAVE = """
WITH successors AS (
    SELECT * FROM unnest($2::text[], $3::int[], $4::int[], $5::text[]) AS named (name, first_slice, last_slice, successor)
), mine AS MATERIALIZED (
    SELECT name, first_slice FROM projection WHERE owner = $1 ORDER BY name, first_slice FOR NO KEY UPDATE
), handed AS (
    UPDATE projection AS held SET (owner, directed, epoch, lease_until, moved_at) = (
        SELECT coalesce(max(successor), ''), count(*) > 0, held.epoch + 1, '-infinity'::timestamptz, clock_timestamp()
        FROM successors WHERE successors.name = held.name AND successors.first_slice = held.first_slice
            AND successors.last_slice = held.last_slice
    ) FROM mine WHERE held.name = mine.name AND held.first_slice = mine.first_slice RETURNING 1
), gone AS (
    DELETE FROM member WHERE instance = $1
)
SELECT count(*)::int FROM handed
"""


def _members(rows: list[asyncpg.Record]) -> MemberList:
    return MemberList(
        [
            Member(
                MemberReport(
                    row["instance"],
                    row["node"],
                    row["started_us"],
                    row["weight"],
                    frozenset(row["runs"]),
                    row["sessions"],
                    row["edges"],
                ),
                row["left_s"],
                row["silent_s"],
                row["renewals"],
                row["has_lock"],
                row["is_drained"],
            )
            for row in rows
        ],
        rows[0]["settles_in_s"] if rows else 0.0,
    )


async def renew(connection: asyncpg.Connection, report: MemberReport, lease_s: float) -> tuple[MemberList, int]:
    """See ``MemberStore.renew``; and where the log ends, which is then not asked for by another statement."""
    rows = await connection.fetch(
        _RENEW,
        MEMBER_LOCK,
        report.instance,
        report.node,
        report.started_us,
        report.weight,
        sorted(report.runs),
        report.sessions,
        report.edges,
        lease_s,
    )
    return _members(rows), rows[0]["head"]


async def look(connection: asyncpg.Connection) -> MemberList:
    """See ``MemberStore.look``."""
    return _members(await connection.fetch(_LOOK_ONLY, MEMBER_LOCK))


async def declare_dead(connection: asyncpg.Connection, member: Member) -> bool:
    """See ``MemberStore.declare_dead``."""
    done: str = await connection.execute(
        "UPDATE member SET lease_until = 'epoch' WHERE instance = $1 AND renewals = $2",
        member.instance,
        member.renewals,
    )
    return done == "UPDATE 1"


async def leave(connection: asyncpg.Connection, instance: str, successors: Mapping[RangeKey, str]) -> int:
    """See ``MemberStore.leave``."""
    left: int = await connection.fetchval(_LEAVE, instance, *key_columns(successors), list(successors.values()))
    return left


async def forget(connection: asyncpg.Connection, instance: str) -> None:
    """See ``MemberStore.forget``."""
    await connection.execute("DELETE FROM member WHERE instance = $1 AND member_left(member) = interval '0'", instance)


async def set_drained(connection: asyncpg.Connection, node: str, is_drained: bool) -> bool:
    """See ``MemberStore.set_drained``."""
    put = "INSERT INTO drained_node VALUES ($1) ON CONFLICT DO NOTHING"
    done: str = await connection.execute(put if is_drained else "DELETE FROM drained_node WHERE node = $1", node)
    return done.endswith(" 1")


def _has_others(found: MemberList, instance: str) -> bool:
    return found.settles_in_s > 0 or any(one.instance != instance for one in found.members)


class PostgresMembers:
    """``MemberStore`` over an open database."""

    holds_leases = True

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    @property
    def changed(self) -> ChangeSignal:
        """See ``MemberStore.changed``."""
        return self._sessions.members_changed

    async def renew(self, report: MemberReport, lease_s: float) -> MemberList:
        """See ``MemberStore.renew``."""
        found, head = await self._sessions.members.run(renew, report, lease_s)
        self._sessions.hints.saw_others(_has_others(found, report.instance))
        self._sessions.head_signal.looked(head)
        return found

    async def look(self) -> MemberList:
        """See ``MemberStore.look``."""
        return await self._sessions.read(look)

    async def declare_dead(self, member: Member) -> bool:
        """See ``MemberStore.declare_dead``."""
        return await self._sessions.members.run(declare_dead, member)

    async def leave(self, instance: str, successors: Mapping[RangeKey, str]) -> int:
        """See ``MemberStore.leave``."""
        self._sessions.hints.saw_others(True)  # whoever comes from now on is not seen
        return await self._sessions.members.run(leave, instance, successors)

    async def forget(self, instance: str) -> None:
        """See ``MemberStore.forget``."""
        await self._sessions.members.run(forget, instance)

    async def set_drained(self, node: str, is_drained: bool) -> bool:
        """See ``MemberStore.set_drained``."""
        return await self._sessions.state.run(set_drained, node, is_drained)
