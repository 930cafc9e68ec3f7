"""Subscriptions and their inboxes. Asyncio-flavoured functions on a session; lease time is the database's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

import asyncpg

from common.core.events.batch import EVENT_OVERHEAD_BYTES, Envelope, EventBatch, split_metadata, split_tags
from common.core.events.ids import SEPARATOR
from common.core.events.stated_range import StatedRange, last_of_each
from common.core.journal.append import OriginBlocked, PushedAppend
from common.core.subscription.place import NO_RESUME_POINT, FilterState, Subscription, place_as_text, place_of_text
from common.fail_points import fail_point
from common.journal.postgres import leases
from common.journal.postgres.appends.batch import APPEND_SQL, AppendCall
from common.journal.postgres.connection import SCHEMA
from common.journal.postgres.offsets import run_statements
from common.journal.postgres.sessions import PostgresSessions
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import (
    JOIN_DELETED,
    InboxRow,
    InboxStats,
    ReceivedCommit,
    blocked,
    check_ack,
    check_revision,
    check_room,
    lease_name,
)

_STATE = "name, place, desired_version, desired_criteria, revision, received, updated_us"
_EVENT = (
    "position", "timestamp_us", "stored_us", "event_time_us", "persistence_id", "seq_nr", "prev_seq_nr",
    "origin_seq_nr", "event_type", "codec", "payload", "tags", "metadata",
)  # fmt: skip
_EVENT_COLUMNS = ", ".join(_EVENT)
_NUMBER = "(SELECT subscription_no FROM subscription WHERE name = $1)"
_SIZE = f"octet_length(payload) + {EVENT_OVERHEAD_BYTES}"
_MAKE = (
    "INSERT INTO subscription (name, place, desired_version, desired_criteria, revision, received, updated_us,"
    " inbox_last_id, inbox_acked_id, inbox_bytes) VALUES ($1, $2, 0, '', 0, 0, $3, 0, 0, 0) ON CONFLICT DO NOTHING"
)


def _subscription(row: asyncpg.Record) -> Subscription:
    name, place, version, criteria, revision, received, updated_us = row
    return Subscription(name, place_of_text(place), FilterState(version, criteria), revision, received, updated_us)


async def subscription(connection: asyncpg.Connection, name: str) -> Subscription | None:
    """See ``SubscriptionStore.subscription``."""
    row = await connection.fetchrow(f"SELECT {_STATE} FROM subscription WHERE name = $1", name)
    return _subscription(row) if row else None


async def subscriptions(connection: asyncpg.Connection) -> list[Subscription]:
    """See ``SubscriptionStore.subscriptions``."""
    return [_subscription(row) for row in await connection.fetch(f"SELECT {_STATE} FROM subscription ORDER BY name")]


async def set_requested(
    connection: asyncpg.Connection, name: str, criteria: str, if_new: bool, now_us: int
) -> FilterState:
    """See ``SubscriptionStore.set_requested``."""
    async with connection.transaction():
        made = await connection.execute(_MAKE, name, place_as_text(NO_RESUME_POINT), now_us)
        stays = if_new and made == "INSERT 0 0"
        row = await connection.fetchrow(
            "UPDATE subscription SET desired_version = desired_version + (desired_criteria <> $2 AND NOT $3)::int,"
            " desired_criteria = CASE WHEN $3 THEN desired_criteria ELSE $2 END"
            " WHERE name = $1 RETURNING desired_version, desired_criteria",
            name,
            criteria,
            stays,
        )
    return FilterState(*row)


async def forget(connection: asyncpg.Connection, name: str) -> bool:
    """See ``SubscriptionStore.forget_subscription``."""
    async with connection.transaction():
        await leases.take_away(connection, lease_name(name))
        number = await connection.fetchval("DELETE FROM subscription WHERE name = $1 RETURNING subscription_no", name)
        if number is None:
            return False
        await connection.execute("DELETE FROM inbox WHERE subscription_no = $1", number)
        for table in ("subscription_known", "subscription_deleted"):
            await connection.execute(f"DELETE FROM {table} WHERE subscription_no = $1", number)
    return True


async def restart(connection: asyncpg.Connection, name: str, lease: Lease, now_us: int) -> bool:
    """See ``SubscriptionStore.restart_subscription``."""
    async with connection.transaction():
        await leases.lock(connection, lease)
        number = await connection.fetchval(
            "UPDATE subscription SET place = $2, revision = revision + 1, updated_us = $3"
            " WHERE name = $1 RETURNING subscription_no",
            *(name, place_as_text(NO_RESUME_POINT), now_us),
        )
        if number is None:
            return False
        for table in ("subscription_known", "subscription_deleted"):
            await connection.execute(f"DELETE FROM {table} WHERE subscription_no = $1", number)
        fail_point("subscription.in_transaction")
    return True


async def known(connection: asyncpg.Connection, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
    """See ``SubscriptionStore.known``."""
    rows = await connection.fetch(
        f"SELECT persistence_id, known FROM subscription_known WHERE subscription_no = {_NUMBER}"
        " AND persistence_id = ANY ($2::text[])",
        name,
        list(dict.fromkeys(persistence_ids)),
    )
    bare = [one for one in persistence_ids if SEPARATOR not in one]
    if bare:
        rows += await connection.fetch(
            f"SELECT persistence_id, known FROM subscription_known WHERE subscription_no = {_NUMBER}"
            f" AND substr(persistence_id, strpos(persistence_id, '{SEPARATOR}') + 1) = ANY ($2::text[])",
            name,
            bare,
        )
    return dict(map(tuple, rows))


async def awaiting(connection: asyncpg.Connection, name: str, max_rows: int) -> list[tuple[str, int]]:
    """See ``SubscriptionStore.awaiting``."""
    rows = await connection.fetch(
        f"SELECT persistence_id, known FROM subscription_known WHERE awaiting AND subscription_no = {_NUMBER}"
        " ORDER BY persistence_id LIMIT $2",
        name,
        max_rows,
    )
    return [(persistence_id, number) for persistence_id, number in rows]


async def deleted_of(connection: asyncpg.Connection, persistence_id: str) -> list[tuple[str, StatedRange]]:
    """See ``SubscriptionStore.deleted_of``."""
    rows = await connection.fetch(
        "SELECT name, persistence_id, from_seq_nr, to_seq_nr, reason FROM subscription_deleted"
        " JOIN subscription USING (subscription_no) WHERE persistence_id = $1 ORDER BY name",
        persistence_id,
    )
    return [(name, StatedRange(*values)) for name, *values in rows]


async def commit_received(
    connection: asyncpg.Connection,
    name: str,
    lease: Lease,
    revision: int,
    commit: ReceivedCommit,
    lease_s: float,
    inbox_max_bytes: int | None,
    now_us: int,
) -> tuple[int, int]:
    """See ``SubscriptionStore.commit_received``; the new revision, and the log's head if events were appended, else 0."""
    async with connection.transaction():
        await run_statements(connection, commit.statements)
        await leases.renew(connection, lease, lease_s)
        await connection.execute(_MAKE, name, place_as_text(NO_RESUME_POINT), now_us)
        number, stored, last_id, waiting = await connection.fetchrow(
            "SELECT subscription_no, revision, inbox_last_id, inbox_bytes FROM subscription WHERE name = $1 FOR UPDATE",
            name,
        )
        check_revision(name, stored, revision)
        if commit.inbox:
            size = commit.inbox.byte_size()
            check_room(name, waiting, size, inbox_max_bytes)
            await _store_inbox(connection, number, last_id, commit.inbox, commit)
            last_id, waiting = last_id + len(commit.inbox), waiting + size
        await _store_known(connection, number, commit)
        await connection.execute(
            "UPDATE subscription SET place = $2, revision = revision + 1, received = received + $3, updated_us = $4,"
            " inbox_last_id = $5, inbox_bytes = $6 WHERE subscription_no = $1",
            *(number, place_as_text(commit.place), commit.received, now_us, last_id, waiting),
        )
        head = await _append(connection, name, commit.append, now_us) if commit.append else 0
        fail_point("subscription.in_transaction")
    return revision + 1, head


async def _store_known(connection: asyncpg.Connection, number: int, commit: ReceivedCommit) -> None:
    if commit.known:
        await connection.execute(
            "INSERT INTO subscription_known SELECT $1, u.name, u.known, false"
            " FROM unnest($2::text[], $3::bigint[]) AS u (name, known)"
            " ON CONFLICT (subscription_no, persistence_id) DO UPDATE SET known = excluded.known",
            *(number, list(commit.known), list(commit.known.values())),
        )
    if commit.awaiting:
        await connection.execute(
            "INSERT INTO subscription_known SELECT $1, u.name, 0, u.awaiting"
            " FROM unnest($2::text[], $3::boolean[]) AS u (name, awaiting)"
            " ON CONFLICT (subscription_no, persistence_id) DO UPDATE SET awaiting = excluded.awaiting",
            *(number, list(commit.awaiting), list(commit.awaiting.values())),
        )
    if commit.deleted:
        await connection.executemany(
            "INSERT INTO subscription_deleted AS t VALUES ($1, $2, $3, $4, $5)"
            f" ON CONFLICT (subscription_no, persistence_id) DO UPDATE SET {JOIN_DELETED.format(least='least')}",
            [
                (number, one.persistence_id, one.from_seq_nr, one.to_seq_nr, one.reason)
                for one in last_of_each(commit.deleted)
            ],
        )


async def _store_inbox(
    connection: asyncpg.Connection, number: int, last_id: int, events: EventBatch, commit: ReceivedCommit
) -> None:
    n = len(events)
    columns = (
        repeat(number, n),
        range(last_id + 1, last_id + n + 1),
        [index in commit.leaving for index in range(n)],
        [index in commit.replaces for index in range(n)],
        *(getattr(events, name) for name in _EVENT),
    )
    await connection.copy_records_to_table(
        "inbox",
        schema_name=SCHEMA,
        columns=["subscription_no", "id", "leaving", "replaces", *_EVENT],
        records=zip(*columns, strict=True),
    )


async def _append(connection: asyncpg.Connection, name: str, append: PushedAppend, now_us: int) -> int:
    # Lease and revision are the guard: the origin's row only counts where it is.
    await connection.execute(
        "INSERT INTO origin (origin_id, session, instance, branch, journal_id, generation_id, position, timestamp_us,"
        " persistence_id, seq_nr, generations, superseded, last_seen_us, fenced_instance)"
        " VALUES ($1, 1, '', $2, '', '', 0, 0, '', 0, '[]', '[]', $3, '') ON CONFLICT DO NOTHING",
        *(append.origin_id, append.branch, now_us),
    )
    session, position = await connection.fetchrow(
        "SELECT session, position FROM origin WHERE origin_id = $1 FOR UPDATE", append.origin_id
    )
    call = AppendCall.of([replace(append, session=session, after_position=position)], now_us, {})
    answer = await connection.fetchrow(APPEND_SQL, *call.arguments)
    [outcome] = call.outcomes(answer)
    if isinstance(outcome, OriginBlocked):
        raise blocked(name, outcome.parked, outcome.parked_max)
    head: int = answer["head_position"]
    return head


_INBOX = f"""
SELECT id, leaving, replaces, {_EVENT_COLUMNS} FROM inbox
WHERE subscription_no = $1 AND id > $2 AND id <= (
    SELECT max(id) FROM (
        SELECT id, row_number() OVER numbered AS number, sum({_SIZE}) OVER numbered AS total
        FROM (SELECT id, payload FROM inbox WHERE subscription_no = $1 AND id > $2 ORDER BY id LIMIT $3) AS next
        WINDOW numbered AS (ORDER BY id ROWS UNBOUNDED PRECEDING)
    ) AS measured
    WHERE number = 1 OR total <= $4
)
ORDER BY id
"""


async def inbox(
    connection: asyncpg.Connection, name: str, after_id: int, max_rows: int, max_bytes: int
) -> list[InboxRow]:
    """See ``SubscriptionStore.inbox``."""
    number = await connection.fetchval("SELECT subscription_no FROM subscription WHERE name = $1", name)
    if number is None:
        return []
    rows = await connection.fetch(_INBOX, number, after_id, max_rows, max_bytes)
    return [_inbox_row(row_id, leaving, replaces, values) for row_id, leaving, replaces, *values in rows]


def _inbox_row(row_id: int, leaving: bool, replaces: bool, values: Sequence[Any]) -> InboxRow:
    reported = dict(zip(_EVENT, values, strict=True))
    reported["tags"], reported["metadata"] = split_tags(reported["tags"]), split_metadata(reported["metadata"])
    return InboxRow(row_id, Envelope(**reported), leaving, replaces)


async def ack_inbox(connection: asyncpg.Connection, name: str, through_id: int) -> int:
    """See ``SubscriptionStore.ack_inbox``."""
    async with connection.transaction():
        row = await connection.fetchrow(
            "SELECT subscription_no, inbox_last_id, inbox_acked_id FROM subscription WHERE name = $1 FOR UPDATE", name
        )
        number, last_id, acked_id = row or (0, 0, 0)
        check_ack(name, through_id, last_id)
        if through_id <= acked_id:
            return 0
        size = await connection.fetchval(
            "WITH gone AS (DELETE FROM inbox WHERE subscription_no = $1 AND id <= $2 RETURNING payload)"
            f" SELECT coalesce(sum({_SIZE}), 0)::bigint FROM gone",
            *(number, through_id),
        )
        await connection.execute(
            "UPDATE subscription SET inbox_acked_id = $2, inbox_bytes = inbox_bytes - $3 WHERE subscription_no = $1",
            *(number, through_id, size),
        )
        fail_point("inbox.in_transaction")
    freed: int = through_id - acked_id
    return freed


async def inbox_stats(connection: asyncpg.Connection, name: str) -> InboxStats:
    """See ``SubscriptionStore.inbox_stats``."""
    row = await connection.fetchrow(
        "SELECT inbox_last_id - inbox_acked_id, inbox_bytes, inbox_acked_id + 1, inbox_last_id, inbox_acked_id"
        " FROM subscription WHERE name = $1",
        name,
    )
    return InboxStats(*row) if row else InboxStats(0, 0, 0, 0, 0)


class PostgresSubscriptions:
    """``SubscriptionStore`` over an open database."""

    def __init__(self, sessions: PostgresSessions) -> None:
        self._sessions = sessions

    async def get(self, name: str) -> Subscription | None:
        """See ``SubscriptionStore.subscription``."""
        return await self._sessions.read(subscription, name)

    async def rows(self) -> list[Subscription]:
        """See ``SubscriptionStore.subscriptions``."""
        return await self._sessions.read(subscriptions)

    async def set_requested(self, name: str, criteria: str, *, if_new: bool = False) -> FilterState:
        """See ``SubscriptionStore.set_requested``."""
        return await self._sessions.state.run(set_requested, name, criteria, if_new, self._sessions.now_us())

    async def forget(self, name: str) -> bool:
        """See ``SubscriptionStore.forget_subscription``."""
        return await self._sessions.state.run(forget, name)

    async def restart(self, name: str, lease: Lease) -> bool:
        """See ``SubscriptionStore.restart_subscription``."""
        return await self._sessions.state.run(restart, name, lease, self._sessions.now_us())

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """See ``SubscriptionStore.known``."""
        return await self._sessions.read(known, name, persistence_ids)

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """See ``SubscriptionStore.awaiting``."""
        return await self._sessions.read(awaiting, name, max_rows)

    async def deleted_of(self, persistence_id: str) -> list[tuple[str, StatedRange]]:
        """See ``SubscriptionStore.deleted_of``."""
        return await self._sessions.read(deleted_of, persistence_id)

    async def commit(
        self,
        name: str,
        lease: Lease,
        revision: int,
        commit: ReceivedCommit,
        lease_s: float,
        *,
        inbox_max_bytes: int | None = None,
    ) -> int:
        """See ``SubscriptionStore.commit_received``."""
        following, head = await self._sessions.committer().connection.run(
            commit_received,
            name,
            lease,
            revision,
            commit,
            lease_s,
            inbox_max_bytes,
            self._sessions.now_us(),
        )
        if head:
            self._sessions.saw_head(head)
            self._sessions.hints.committed(head)
        return following

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """See ``SubscriptionStore.inbox``."""
        return await self._sessions.read(inbox, name, after_id, max_rows, max_bytes)

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """See ``SubscriptionStore.ack_inbox``."""
        return await self._sessions.state.run(ack_inbox, name, through_id)

    async def inbox_stats(self, name: str) -> InboxStats:
        """See ``SubscriptionStore.inbox_stats``."""
        return await self._sessions.read(inbox_stats, name)
