"""Journals received here: their sessions, their places, what they stated; and this service's places in other logs.

Asyncio-flavoured functions on a session.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple

import asyncpg

from common.core.events.stated_range import StatedRange
from common.core.journal.history import History, Offset, OriginState, Resume, ResumeDecision, decide_resume
from common.core.push.past import known_of
from common.journal.postgres.opening import dump_generations, load_generations
from common.journal.postgres.push_filters import load_place, write_place
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.identities import BlockedIdentity
from common.journal.stores.origins import StoredRange

_COLUMNS = (
    "origin_id, session, instance, branch, journal_id, generation_id, position, timestamp_us, persistence_id, seq_nr,"
    " generations, superseded, left_behind, last_seen_us, fenced_instance"
)


def _state(row: asyncpg.Record) -> OriginState:
    origin_id, session, instance, branch, *offset, generations, superseded, left_behind, last_seen_us, fenced = row
    return OriginState(
        origin_id=origin_id,
        session=session,
        instance=instance,
        branch=branch,
        stored=Offset(*offset),
        generations=load_generations(generations),
        superseded=tuple(json.loads(superseded)),
        left_behind=load_generations(left_behind),
        last_seen_us=last_seen_us,
        fenced_instance=fenced,
    )


async def open_session(
    connection: asyncpg.Connection, origin_id: str, instance: str, history: History, now_us: int
) -> ResumeDecision:
    """See ``OriginStore.open_session``."""
    select = f"SELECT {_COLUMNS} FROM origin WHERE origin_id = $1 FOR UPDATE"
    async with connection.transaction():
        row = await connection.fetchrow(select, origin_id)
        decision = decide_resume(row and _state(row), origin_id, instance, history, now_us)
        if decision.resume is Resume.SUPERSEDED:
            return decision
        state = decision.state
        values = (
            origin_id,
            state.session,
            state.instance,
            state.branch,
            *astuple(state.stored),
            dump_generations(state.generations),
            json.dumps(state.superseded),
            dump_generations(state.left_behind),
            state.last_seen_us,
            state.fenced_instance,
        )
        numbers = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        if row is None:
            stored = await connection.execute(
                f"INSERT INTO origin ({_COLUMNS}) VALUES ({numbers}) ON CONFLICT DO NOTHING", *values
            )
        else:
            stored = await connection.execute(
                f"UPDATE origin SET ({_COLUMNS}) = ({numbers}) WHERE origin_id = $1", *values
            )
        place = await load_place(connection, origin_id)
        there = place.at(state.stored.position)
        if there != place:
            await write_place(connection, origin_id, there)
    if stored == "INSERT 0 0":
        # Two first Hellos at once: the other one was first.
        return await open_session(connection, origin_id, instance, history, now_us)
    return decision


async def origins(connection: asyncpg.Connection) -> list[OriginState]:
    """See ``OriginStore.rows``."""
    return list(map(_state, await connection.fetch(f"SELECT {_COLUMNS} FROM origin ORDER BY origin_id")))


async def known_numbers(connection: asyncpg.Connection, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
    """See ``OriginStore.known``."""
    rows = await connection.fetch(
        "SELECT h.owner, h.origin_seq_nr,"
        " (SELECT max(q.seq_nr) FROM parked AS q WHERE q.origin_id = $1 AND q.persistence_id = u.name)"
        " FROM unnest($2::text[]) WITH ORDINALITY AS u (name, at)"
        " LEFT JOIN entity AS h ON h.persistence_id = u.name ORDER BY u.at",
        origin_id,
        list(persistence_ids),
    )
    return [known_of(origin_id, *row) for row in rows]


async def forget_superseded(connection: asyncpg.Connection, origin_id: str) -> bool:
    """See ``OriginStore.forget_superseded``."""
    done = await connection.execute(
        "UPDATE origin SET (superseded, left_behind) = ('[]', '[]') WHERE origin_id = $1", origin_id
    )
    return bool(done == "UPDATE 1")


async def stored_ranges(connection: asyncpg.Connection, persistence_id: str) -> list[StoredRange]:
    """See ``OriginStore.stored_ranges``."""
    rows = await connection.fetch(
        "SELECT origin_id, persistence_id, from_seq_nr, to_seq_nr, reason, received_us FROM stated_range"
        " WHERE persistence_id = $1 ORDER BY id",
        persistence_id,
    )
    return [StoredRange(origin_id, StatedRange(*stated), at) for origin_id, *stated, at in rows]


class PostgresOrigins:
    """``OriginStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``OriginStore.open_session``."""
        return await self._sessions.state.run(open_session, origin_id, instance, history, self._sessions.now_us())

    async def rows(self) -> list[OriginState]:
        """See ``OriginStore.rows``."""
        return await self._sessions.read(origins)

    async def known(self, origin_id: str, persistence_ids: Sequence[str]) -> list[int]:
        """See ``OriginStore.known``."""
        return await self._sessions.read(known_numbers, origin_id, persistence_ids)

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``OriginStore.forget_superseded``."""
        return await self._sessions.state.run(forget_superseded, origin_id)

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``OriginStore.stored_ranges``."""
        return await self._sessions.read(stored_ranges, persistence_id)


# -- peers that are shut out ---------------------------------------------------------------------------------------


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
