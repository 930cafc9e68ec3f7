"""Projections in the journal's file: tables, leases, and effects that move with the offset.

Lease time is this process's clock: one process has the file. Runs in the storage's threads; callers hold transactions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import trio

from common.core.events.ids import SliceRange
from common.core.journal.range_failure import RangeFailure, failure_as_text, failure_of_text
from common.core.journal.slice_ranges import RangeOffset, ahead_as_text, ahead_of_text, check_ranges
from common.core.journal.statement import Statement
from common.core.members.assignment import RangeKey
from common.fail_points import fail_point
from common.journal.migrations import check_not_newer
from common.journal.sqlite import ranges as range_changes
from common.journal.sqlite.connection import select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.handler_transaction import HandlerTransaction
from common.journal.sqlite_tables import run_query, run_statements
from common.journal.stores.projections import ProjectionLease, ProjectionRow, fenced, moved_to
from common.journal.tables import Tables

P = ParamSpec("P")
T = TypeVar("T")

_MICROSECONDS = 1_000_000
_RANGE = "name = ? AND first_slice = ? AND last_slice = ?"


def migrate(writer: apsw.Connection, name: str, steps: Sequence[Sequence[str]]) -> None:
    """See ``ProjectionStore.migrate``."""
    done = writer.execute("SELECT steps FROM projection_schema WHERE name = ?", (name,)).get or 0
    check_not_newer(f"projection {name}", done, len(steps))
    for step in steps[done:]:
        run_statements(writer, [Statement(sql) for sql in step])
    if done < len(steps):
        writer.execute("INSERT OR REPLACE INTO projection_schema VALUES (?, ?)", (name, len(steps)))
        fail_point("migration.in_transaction")


def acquire(
    writer: apsw.Connection, name: str, slices: SliceRange, owner: str, *, lease_s: float, now_us: int
) -> ProjectionLease | None:
    """See ``ProjectionStore.acquire``."""
    stored = select(writer, "SELECT first_slice, last_slice FROM projection WHERE name = ?", (name,))
    check_ranges(name, slices, [SliceRange(first, last) for first, last in stored])
    key = (name, slices.first, slices.last)
    writer.execute("INSERT OR IGNORE INTO projection VALUES (?, ?, ?, 0, 0, '', 0, 0, ?, '', '', 0)", (*key, now_us))
    position, epoch, holder, lease_until_us, paused, ahead, failing = writer.execute(
        f"SELECT position, epoch, owner, lease_until_us, paused, ahead, failing FROM projection WHERE {_RANGE}", key
    ).get
    until_us = _lease_end(now_us, lease_s)
    if paused or (holder not in {"", owner} and now_us < lease_until_us <= until_us):
        return None
    epoch += holder != owner
    writer.execute(
        f"UPDATE projection SET epoch = ?, owner = ?, lease_until_us = ? WHERE {_RANGE}",
        (epoch, owner, until_us, *key),
    )
    return ProjectionLease(name, slices, epoch, position, ahead_of_text(ahead), failure_of_text(failing))


def release(writer: apsw.Connection, lease: ProjectionLease) -> None:
    """See ``ProjectionStore.release``."""
    writer.execute(
        f"UPDATE projection SET owner = '', lease_until_us = 0 WHERE {_RANGE} AND epoch = ?",
        (lease.name, lease.slices.first, lease.slices.last, lease.epoch),
    )


def take_all(
    writer: apsw.Connection, owner: str, keys: Collection[RangeKey], *, lease_s: float, now_us: int
) -> list[RangeKey]:
    """See ``ProjectionStore.take_all``."""
    until_us, taken = _lease_end(now_us, lease_s), []
    for name, slices in keys:
        writer.execute(
            f"UPDATE projection SET epoch = epoch + 1, owner = ?, lease_until_us = ? WHERE {_RANGE} AND NOT paused"
            " AND owner <> ? AND (owner = '' OR lease_until_us <= ? OR lease_until_us > ?)",
            (owner, until_us, name, slices.first, slices.last, owner, now_us, until_us),
        )
        if writer.changes():
            taken.append((name, slices))
    return taken


def hand_over(writer: apsw.Connection, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
    """See ``ProjectionStore.hand_over``."""
    for lease, successor in moves:
        writer.execute(
            f"UPDATE projection SET epoch = epoch + 1, owner = ?, lease_until_us = 0 WHERE {_RANGE} AND epoch = ?"
            " AND NOT paused",
            (successor, lease.name, lease.slices.first, lease.slices.last, lease.epoch),
        )


def leave(writer: apsw.Connection, instance: str, successors: Mapping[RangeKey, str]) -> int:
    """See ``MemberStore.leave``."""
    held = select(writer, "SELECT name, first_slice, last_slice FROM projection WHERE owner = ?", (instance,))
    for name, first, last in held:
        writer.execute(
            f"UPDATE projection SET epoch = epoch + 1, owner = ?, lease_until_us = 0 WHERE {_RANGE}",
            (successors.get((name, SliceRange(first, last)), ""), name, first, last),
        )
    return len(held)


def commit(
    writer: apsw.Connection,
    lease: ProjectionLease,
    position: int,
    statements: Sequence[Statement],
    *,
    lease_s: float,
    now_us: int,
) -> ProjectionLease:
    """See ``ProjectionStore.commit``."""
    moved = move(writer, lease, position, lease_s=lease_s, now_us=now_us)
    run_statements(writer, statements)
    fail_point("projection.in_transaction")
    return moved


def move(
    writer: apsw.Connection, lease: ProjectionLease, position: int, *, lease_s: float, now_us: int
) -> ProjectionLease:
    """Move the offset and renew the lease, if both are still ours."""
    moved = moved_to(lease, position)
    writer.execute(
        "UPDATE projection SET position = ?1, ahead = ?2, lease_until_us = ?3, updated_us = ?4,"
        " failing = CASE WHEN position = ?1 THEN failing ELSE '' END"
        f" WHERE {_RANGE} AND epoch = ? AND position = ? AND NOT paused",
        (
            position,
            ahead_as_text(moved.ahead),
            _lease_end(now_us, lease_s),
            now_us,
            lease.name,
            lease.slices.first,
            lease.slices.last,
            lease.epoch,
            lease.position,
        ),
    )
    if not writer.changes():
        raise fenced(lease)
    return moved


def set_failing(writer: apsw.Connection, lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
    """See ``ProjectionStore.set_failing``."""
    writer.execute(
        f"UPDATE projection SET failing = ? WHERE {_RANGE} AND epoch = ?",
        (failure_as_text(failing), lease.name, lease.slices.first, lease.slices.last, lease.epoch),
    )
    if not writer.changes():
        raise fenced(lease)
    return replace(lease, failing=failing)


def _lease_end(now_us: int, lease_s: float) -> int:
    return now_us + round(lease_s * _MICROSECONDS)


def rows(reader: apsw.Connection, now_us: int) -> list[ProjectionRow]:
    """See ``ProjectionStore.rows``."""
    stored = select(
        reader,
        "SELECT name, first_slice, last_slice, position, epoch, owner, lease_until_us, paused, updated_us, ahead, failing,"
        " begin_position FROM projection ORDER BY name, first_slice, last_slice",
    )
    return [
        ProjectionRow(
            name=name,
            slices=SliceRange(first_slice, last_slice),
            position=position,
            epoch=epoch,
            owner=owner,
            lease_left_s=max(0.0, (lease_until_us - now_us) / _MICROSECONDS),
            paused=bool(paused),
            updated_us=updated_us,
            ahead=ahead_of_text(ahead),
            failing=failure_of_text(failing),
            begin=begin,
        )
        for (
            name,
            first_slice,
            last_slice,
            position,
            epoch,
            owner,
            lease_until_us,
            paused,
            updated_us,
            ahead,
            failing,
            begin,
        ) in stored
    ]


def set_paused(writer: apsw.Connection, name: str, paused: bool) -> int:
    """See ``ProjectionStore.set_paused``."""
    writer.execute("UPDATE projection SET paused = ?, epoch = epoch + ? WHERE name = ?", (paused, paused, name))
    return writer.changes()


class SqliteProjections:
    """``ProjectionStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def warm_up(self) -> None:
        """See ``ProjectionStore.warm_up``: there are none."""
        await trio.lowlevel.checkpoint()

    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """See ``ProjectionStore.migrate``."""
        await self._connections.write(migrate, name, steps)

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """See ``ProjectionStore.acquire``."""
        return await self._connections.write(
            acquire, name, slices, owner, lease_s=lease_s, now_us=self._connections.now_us()
        )

    async def release(self, lease: ProjectionLease) -> None:
        """See ``ProjectionStore.release``."""
        await self._connections.write(release, lease)

    async def take_all(self, owner: str, keys: Collection[RangeKey], lease_s: float) -> list[RangeKey]:
        """See ``ProjectionStore.take_all``."""
        return await self._changed(take_all, owner, keys, lease_s=lease_s, now_us=self._connections.now_us())

    async def hand_over(self, moves: Sequence[tuple[ProjectionLease, str]]) -> None:
        """See ``ProjectionStore.hand_over``."""
        await self._changed(hand_over, moves)

    async def accept(self, owner: str) -> None:
        """See ``ProjectionStore.accept``: a file has one process, and nothing is on its way."""

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit``."""
        return await self._connections.write(
            commit, lease, position, statements, lease_s=lease_s, now_us=self._connections.now_us()
        )

    async def commit_in_transaction(
        self,
        lease: ProjectionLease,
        position: int,
        work: Callable[[Tables], Awaitable[None]],
        statements: Sequence[Statement],
        lease_s: float,
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit_in_transaction``."""

        def begin(in_transaction: HandlerTransaction) -> ProjectionLease:
            return in_transaction.begin(lambda writer: move(writer, lease, position, lease_s=lease_s, now_us=now_us))

        async with self._connections.writer_lock:
            await self._connections.make_ready()
            now_us = self._connections.now_us()
            in_transaction = HandlerTransaction(self._connections.file)
            moved = await self._connections.run(begin, in_transaction)
            try:
                await work(in_transaction.tables)
            except BaseException:
                with trio.CancelScope(shield=True):  # bounded: what runs is interrupted
                    await self._connections.run(in_transaction.roll_back)
                raise
            with trio.CancelScope(shield=True):
                await self._connections.run(in_transaction.commit, statements)
        return moved

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """See ``ProjectionStore.intervene``."""
        return await self._changed(range_changes.intervene, name, statements, restart=restart)

    async def move(self, name: str, position: int, statements: Sequence[Statement] = ()) -> int:
        """See ``ProjectionStore.move``."""
        return await self._changed(range_changes.move, name, position, statements)

    async def declare(self, name: str, ranges: Sequence[SliceRange], begin: int = 0) -> list[SliceRange]:
        """See ``ProjectionStore.declare``."""
        return await self._changed(range_changes.declare, name, ranges, begin, self._connections.now_us())

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """See ``ProjectionStore.reshape``."""
        return await self._changed(range_changes.reshape, name, ranges, self._connections.now_us())

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """See ``ProjectionStore.forget``."""
        return await self._changed(range_changes.forget, name, statements, self._connections.now_us())

    async def _changed(self, fn: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A change of ranges, or of who has them: the node looks at once."""
        try:
            return await self._connections.write(fn, *args, **kwargs)
        finally:
            self._connections.members_changed.fire()

    async def set_failing(self, lease: ProjectionLease, failing: RangeFailure | None) -> ProjectionLease:
        """See ``ProjectionStore.set_failing``."""
        return await self._connections.write(set_failing, lease, failing)

    async def rows(self) -> list[ProjectionRow]:
        """See ``ProjectionStore.rows``."""
        return await self._connections.read(rows, self._connections.now_us())

    async def set_paused(self, name: str, paused: bool) -> int:
        """See ``ProjectionStore.set_paused``."""
        return await self._changed(set_paused, name, paused)

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See ``ProjectionStore.query``."""
        return await self._connections.read(run_query, sql, args)
