"""Subscriptions and their inboxes in the journal's file. Runs in the storage's threads; callers hold transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

import apsw
import orjson

from common.core.events.batch import EVENT_OVERHEAD_BYTES, Envelope, EventBatch, split_metadata, split_tags
from common.core.events.ids import SEPARATOR
from common.core.events.stated_range import StatedRange, last_of_each
from common.core.journal.append import OriginBlocked, PushedAppend
from common.core.subscription.place import (
    NO_RESUME_POINT,
    FilterState,
    Subscription,
    place_as_text,
    place_of_text,
)
from common.fail_points import fail_point
from common.journal.sqlite import leases
from common.journal.sqlite.append import append_within
from common.journal.sqlite.connection import head_position, insert_rows, select, transaction
from common.journal.sqlite.connection import snapshot as one_state
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.entities import EntityRows
from common.journal.sqlite_tables import run_statements
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

_ROWS_EACH = 1 << 40
_STATE = "name, place, desired_version, desired_criteria, revision, received, updated_us"
_EVENT = (
    "position", "timestamp_us", "stored_us", "event_time_us", "persistence_id", "seq_nr", "prev_seq_nr",
    "origin_seq_nr", "event_type", "codec", "payload", "tags", "metadata",
)  # fmt: skip
_EVENT_COLUMNS = ", ".join(_EVENT)
_SIZE = f"length(payload) + {EVENT_OVERHEAD_BYTES}"


def _subscription(row: tuple[Any, ...]) -> Subscription:
    name, place, version, criteria, revision, received, updated_us = row
    return Subscription(name, place_of_text(place), FilterState(version, criteria), revision, received, updated_us)


def subscriptions(reader: apsw.Connection) -> list[Subscription]:
    """See ``SubscriptionStore.subscriptions``."""
    return [_subscription(row) for row in select(reader, f"SELECT {_STATE} FROM subscription ORDER BY name")]


def subscription(reader: apsw.Connection, name: str) -> Subscription | None:
    """See ``SubscriptionStore.subscription``."""
    row = reader.execute(f"SELECT {_STATE} FROM subscription WHERE name = ?", (name,)).get
    return _subscription(row) if row else None


def _number(connection: apsw.Connection, name: str) -> int:
    """What stands for the name in rows; 0 when there is no such subscription."""
    number: int = connection.execute("SELECT subscription_no FROM subscription WHERE name = ?", (name,)).get or 0
    return number


def _make(writer: apsw.Connection, name: str, now_us: int) -> None:
    writer.execute(
        "INSERT INTO subscription (name, place, desired_version, desired_criteria, revision, received, updated_us,"
        " inbox_last_id, inbox_acked_id, inbox_bytes) VALUES (?, ?, 0, '', 0, 0, ?, 0, 0, 0) ON CONFLICT DO NOTHING",
        (name, place_as_text(NO_RESUME_POINT), now_us),
    )


def set_requested(writer: apsw.Connection, name: str, criteria: str, if_new: bool, now_us: int) -> FilterState:
    """See ``SubscriptionStore.set_requested``."""
    is_known = bool(_number(writer, name))
    _make(writer, name, now_us)
    if not (if_new and is_known):
        writer.execute(
            "UPDATE subscription SET desired_version = desired_version + 1, desired_criteria = ?"
            " WHERE name = ? AND desired_criteria <> ?",
            (criteria, name, criteria),
        )
    requested = "SELECT desired_version, desired_criteria FROM subscription WHERE name = ?"
    return FilterState(*writer.execute(requested, (name,)).get)


def forget(writer: apsw.Connection, name: str) -> bool:
    """See ``SubscriptionStore.forget_subscription``."""
    leases.take_away(writer, lease_name(name))
    number = _number(writer, name)
    if not number:
        return False
    writer.execute("DELETE FROM inbox WHERE row_no BETWEEN ? AND ?", _rows(number, 0, _ROWS_EACH - 1))
    for table in ("subscription_known", "subscription_deleted"):
        writer.execute(f"DELETE FROM {table} WHERE subscription_no = ?", (number,))
    writer.execute("DELETE FROM subscription WHERE subscription_no = ?", (number,))
    return True


def restart(writer: apsw.Connection, name: str, lease: Lease, now_us: int) -> bool:
    """See ``SubscriptionStore.restart_subscription``."""
    leases.check(writer, lease)
    number = _number(writer, name)
    if not number:
        return False
    for table in ("subscription_known", "subscription_deleted"):
        writer.execute(f"DELETE FROM {table} WHERE subscription_no = ?", (number,))
    writer.execute(
        "UPDATE subscription SET place = ?, revision = revision + 1, updated_us = ? WHERE subscription_no = ?",
        (place_as_text(NO_RESUME_POINT), now_us, number),
    )
    fail_point("subscription.in_transaction")
    return True


def known(reader: apsw.Connection, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
    """See ``SubscriptionStore.known``."""
    rows = select(
        reader,
        "SELECT persistence_id, known FROM json_each(?) CROSS JOIN subscription_known ON persistence_id = value"
        " AND subscription_no = (SELECT subscription_no FROM subscription WHERE name = ?)",
        (orjson.dumps(list(dict.fromkeys(persistence_ids))).decode(), name),
    )
    found: dict[str, int] = dict(rows)
    bare = [one for one in persistence_ids if SEPARATOR not in one]
    if bare:
        rows = select(
            reader,
            "SELECT persistence_id, known FROM subscription_known"
            " WHERE subscription_no = (SELECT subscription_no FROM subscription WHERE name = ?)"
            f" AND substr(persistence_id, instr(persistence_id, '{SEPARATOR}') + 1) IN (SELECT value FROM json_each(?))",
            (name, orjson.dumps(bare).decode()),
        )
        found |= dict(rows)
    return found


def awaiting(reader: apsw.Connection, name: str, max_rows: int) -> list[tuple[str, int]]:
    """See ``SubscriptionStore.awaiting``."""
    return [
        (persistence_id, number)
        for persistence_id, number in select(
            reader,
            "SELECT persistence_id, known FROM subscription_known WHERE awaiting = 1 AND subscription_no ="
            " (SELECT subscription_no FROM subscription WHERE name = ?) ORDER BY persistence_id LIMIT ?",
            (name, max_rows),
        )
    ]


def deleted_of(reader: apsw.Connection, persistence_id: str) -> list[tuple[str, StatedRange]]:
    """See ``SubscriptionStore.deleted_of``."""
    rows = select(
        reader,
        "SELECT name, persistence_id, from_seq_nr, to_seq_nr, reason FROM subscription_deleted"
        " JOIN subscription USING (subscription_no) WHERE persistence_id = ? ORDER BY name",
        (persistence_id,),
    )
    return [(name, StatedRange(*values)) for name, *values in rows]


def commit_received(
    writer: apsw.Connection,
    entities: EntityRows,
    name: str,
    lease: Lease,
    revision: int,
    commit: ReceivedCommit,
    *,
    lease_s: float,
    inbox_max_bytes: int | None,
    now_us: int,
) -> int:
    """See ``SubscriptionStore.commit_received``. When it fails, ``entities`` must be forgotten."""
    leases.renew(writer, lease, leases.lease_end(now_us, lease_s))
    _make(writer, name, now_us)
    number, stored, last_id, waiting = writer.execute(
        "SELECT subscription_no, revision, inbox_last_id, inbox_bytes FROM subscription WHERE name = ?", (name,)
    ).get
    check_revision(name, stored, revision)
    if commit.inbox:
        size = commit.inbox.byte_size()
        check_room(name, waiting, size, inbox_max_bytes)
        _store_inbox(writer, number, last_id, commit.inbox, commit.leaving, commit.replaces)
        last_id, waiting = last_id + len(commit.inbox), waiting + size
    _store_known(writer, number, commit)
    writer.execute(
        "UPDATE subscription SET place = ?, revision = revision + 1, received = received + ?, updated_us = ?,"
        " inbox_last_id = ?, inbox_bytes = ? WHERE subscription_no = ?",
        (place_as_text(commit.place), commit.received, now_us, last_id, waiting, number),
    )
    if commit.append:
        _append(writer, entities, name, commit.append, now_us)
    run_statements(writer, commit.statements)
    fail_point("subscription.in_transaction")
    return revision + 1


def _store_known(writer: apsw.Connection, number: int, commit: ReceivedCommit) -> None:
    if commit.known:
        n = len(commit.known)
        columns: tuple[Iterable[Any], ...] = (repeat(number, n), commit.known, commit.known.values(), repeat(0, n))
        insert_rows(writer, "subscription_known", 4, columns, "ON CONFLICT DO UPDATE SET known = excluded.known")
    if commit.awaiting:
        n = len(commit.awaiting)
        columns = (repeat(number, n), commit.awaiting, repeat(0, n), map(int, commit.awaiting.values()))
        insert_rows(writer, "subscription_known", 4, columns, "ON CONFLICT DO UPDATE SET awaiting = excluded.awaiting")
    writer.executemany(
        "INSERT INTO subscription_deleted AS t VALUES (?, ?, ?, ?, ?)"
        f" ON CONFLICT DO UPDATE SET {JOIN_DELETED.format(least='min')}",
        [
            (number, one.persistence_id, one.from_seq_nr, one.to_seq_nr, one.reason)
            for one in last_of_each(commit.deleted)
        ],
    )


def _store_inbox(
    writer: apsw.Connection,
    number: int,
    last_id: int,
    events: EventBatch,
    leaving: frozenset[int],
    replaces: frozenset[int],
) -> None:
    n = len(events)
    first, last = _rows(number, last_id + 1, last_id + n)
    columns: tuple[Iterable[Any], ...] = (
        range(first, last + 1),
        [int(index in leaving) for index in range(n)] if leaving else repeat(0, n),
        [int(index in replaces) for index in range(n)] if replaces else repeat(0, n),
        *(getattr(events, name) for name in _EVENT),
    )
    insert_rows(writer, "inbox", 16, columns)


def _rows(number: int, first_id: int, last_id: int) -> tuple[int, int]:
    return number * _ROWS_EACH + first_id, number * _ROWS_EACH + last_id


def _append(writer: apsw.Connection, entities: EntityRows, name: str, append: PushedAppend, now_us: int) -> None:
    # Lease and revision are the guard: the origin's row only counts where it is.
    writer.execute(
        "INSERT INTO origin (origin_id, session, instance, branch, journal_id, generation_id, position, timestamp_us,"
        " persistence_id, seq_nr, generations, superseded, last_seen_us, fenced_instance)"
        " VALUES (?, 1, '', ?, '', '', 0, 0, '', 0, '[]', '[]', ?, '') ON CONFLICT DO NOTHING",
        (append.origin_id, append.branch, now_us),
    )
    session, position = writer.execute(
        "SELECT session, position FROM origin WHERE origin_id = ?", (append.origin_id,)
    ).get
    request = replace(append, session=session, after_position=position)
    outcome = append_within(writer, entities, request, now_us)
    if isinstance(outcome, OriginBlocked):
        raise blocked(name, outcome.parked, outcome.parked_max)


def inbox(reader: apsw.Connection, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
    """See ``SubscriptionStore.inbox``."""
    with one_state(reader):
        number = _number(reader, name)
        after, last = _rows(number, min(after_id, _ROWS_EACH - 1), _ROWS_EACH - 1)
        where = "row_no > ? AND row_no <= ? ORDER BY row_no LIMIT ?"
        sizes = f"SELECT row_no, {_SIZE} AS size FROM inbox WHERE {where}"
        sums = f"SELECT sum(size) OVER (ORDER BY row_no) AS total FROM ({sizes})"
        args = (after, last, max_rows)
        count, fit = reader.execute(
            f"SELECT count(*), coalesce(sum(total <= ?), 0) FROM ({sums})", (max_bytes, *args)
        ).get
        wanted = max(fit, 1) if count else 0
        rows = select(
            reader, f"SELECT row_no, leaving, replaces, {_EVENT_COLUMNS} FROM inbox WHERE {where}", (*args[:-1], wanted)
        )
    return [
        _inbox_row(row_no - number * _ROWS_EACH, leaving, replaces, event) for row_no, leaving, replaces, *event in rows
    ]


def _inbox_row(row_id: int, leaving: int, replaces: int, values: Sequence[Any]) -> InboxRow:
    answer = dict(zip(_EVENT, values, strict=True))
    answer["tags"], answer["metadata"] = split_tags(answer["tags"]), split_metadata(answer["metadata"])
    return InboxRow(row_id, Envelope(**answer), bool(leaving), bool(replaces))


def ack_inbox(writer: apsw.Connection, name: str, through_id: int) -> int:
    """See ``SubscriptionStore.ack_inbox``."""
    number, last_id, acked_id = writer.execute(
        "SELECT subscription_no, inbox_last_id, inbox_acked_id FROM subscription WHERE name = ?", (name,)
    ).get or (0, 0, 0)
    check_ack(name, through_id, last_id)
    if through_id <= acked_id:
        return 0
    rows = _rows(number, acked_id + 1, through_id)
    size = writer.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM inbox WHERE row_no BETWEEN ? AND ?", rows).get
    writer.execute("DELETE FROM inbox WHERE row_no BETWEEN ? AND ?", rows)
    writer.execute(
        "UPDATE subscription SET inbox_acked_id = ?, inbox_bytes = inbox_bytes - ? WHERE subscription_no = ?",
        (through_id, size, number),
    )
    fail_point("inbox.in_transaction")
    return through_id - acked_id


def inbox_stats(reader: apsw.Connection, name: str) -> InboxStats:
    """See ``SubscriptionStore.inbox_stats``."""
    row = reader.execute(
        "SELECT inbox_last_id - inbox_acked_id, inbox_bytes, inbox_acked_id + 1, inbox_last_id, inbox_acked_id"
        " FROM subscription WHERE name = ?",
        (name,),
    ).get
    return InboxStats(*row) if row else InboxStats(0, 0, 0, 0, 0)


class SqliteSubscriptions:
    """``SubscriptionStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def get(self, name: str) -> Subscription | None:
        """See ``SubscriptionStore.subscription``."""
        return await self._connections.read(subscription, name)

    async def rows(self) -> list[Subscription]:
        """See ``SubscriptionStore.subscriptions``."""
        return await self._connections.read(subscriptions)

    async def set_requested(self, name: str, criteria: str, *, if_new: bool = False) -> FilterState:
        """See ``SubscriptionStore.set_requested``."""
        return await self._connections.write(set_requested, name, criteria, if_new, self._connections.now_us())

    async def forget(self, name: str) -> bool:
        """See ``SubscriptionStore.forget_subscription``."""
        return await self._connections.write(forget, name)

    async def restart(self, name: str, lease: Lease) -> bool:
        """See ``SubscriptionStore.restart_subscription``."""
        return await self._connections.write(restart, name, lease, self._connections.now_us())

    async def known(self, name: str, persistence_ids: Sequence[str]) -> dict[str, int]:
        """See ``SubscriptionStore.known``."""
        return await self._connections.read(known, name, persistence_ids)

    async def awaiting(self, name: str, max_rows: int) -> list[tuple[str, int]]:
        """See ``SubscriptionStore.awaiting``."""
        return await self._connections.read(awaiting, name, max_rows)

    async def deleted_of(self, persistence_id: str) -> list[tuple[str, StatedRange]]:
        """See ``SubscriptionStore.deleted_of``."""
        return await self._connections.read(deleted_of, persistence_id)

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
        """See ``SubscriptionStore.commit_received``. What is received may not use the pages kept in reserve."""

        def work() -> tuple[int, int]:
            try:
                with self._connections.file.coded_errors(), transaction(self._connections.file.writer):
                    following = commit_received(
                        self._connections.file.writer,
                        self._connections.entities,
                        name,
                        lease,
                        revision,
                        commit,
                        lease_s=lease_s,
                        inbox_max_bytes=inbox_max_bytes,
                        now_us=self._connections.now_us(),
                    )
                    return following, head_position(self._connections.file.writer)
            except BaseException:
                if commit.append:
                    self._connections.entities.forget_all()
                raise

        async with self._connections.writer_lock:
            await self._connections.make_ready()
            following, head = await self._connections.run(work)
        self._connections.head_signal.raise_to(head)
        return following

    async def inbox(self, name: str, after_id: int, *, max_rows: int, max_bytes: int) -> list[InboxRow]:
        """See ``SubscriptionStore.inbox``."""
        return await self._connections.read(inbox, name, after_id, max_rows=max_rows, max_bytes=max_bytes)

    async def ack_inbox(self, name: str, through_id: int) -> int:
        """See ``SubscriptionStore.ack_inbox``."""
        return await self._connections.write(ack_inbox, name, through_id)

    async def inbox_stats(self, name: str) -> InboxStats:
        """See ``SubscriptionStore.inbox_stats``."""
        return await self._connections.read(inbox_stats, name)
