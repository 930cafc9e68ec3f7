"""Projections in the journal's file: tables, leases, and effects that move with the offset.

Lease time is this process's clock: one process has the file. Runs in the storage's threads; callers hold transactions.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from common.core.events.ids import SliceRange
from common.core.journal.slice_ranges import ahead_as_text, ahead_of_text, check_ranges
from common.fail_points import fail_point
from common.journal.migrations import check_not_newer
from common.journal.sqlite.connection import select
from common.journal.sqlite.statements import run_statements
from common.journal.stores.journal import ProjectionLease, ProjectionRow, Statement
from common.journal.stores.lease import LEASE_MARK, fenced, moved_to

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
    writer.execute("INSERT OR IGNORE INTO projection VALUES (?, ?, ?, 0, 0, '', 0, 0, ?, '')", (*key, now_us))
    position, epoch, holder, lease_until_us, paused, ahead = writer.execute(
        f"SELECT position, epoch, owner, lease_until_us, paused, ahead FROM projection WHERE {_RANGE}", key
    ).get
    until_us = _lease_end(now_us, lease_s)
    if paused or (holder not in {"", owner} and now_us < lease_until_us <= until_us):
        return None
    epoch += holder != owner
    writer.execute(
        f"UPDATE projection SET epoch = ?, owner = ?, lease_until_us = ? WHERE {_RANGE}",
        (epoch, owner, until_us, *key),
    )
    return ProjectionLease(name, slices, epoch, position, ahead_of_text(ahead))


def release(writer: apsw.Connection, lease: ProjectionLease) -> None:
    """See ``ProjectionStore.release``."""
    writer.execute(
        f"UPDATE projection SET owner = '', lease_until_us = 0 WHERE {_RANGE} AND epoch = ?",
        (lease.name, lease.slices.first, lease.slices.last, lease.epoch),
    )


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
        f"UPDATE projection SET position = ?, ahead = ?, lease_until_us = ?, updated_us = ?"
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


def _lease_end(now_us: int, lease_s: float) -> int:
    return now_us + round(lease_s * _MICROSECONDS)


def rows(reader: apsw.Connection, now_us: int) -> list[ProjectionRow]:
    """See ``ProjectionStore.rows``."""
    stored = select(
        reader,
        "SELECT name, first_slice, last_slice, position, epoch, owner, lease_until_us, paused, updated_us, ahead"
        " FROM projection WHERE instr(name, ?) = 0 ORDER BY name, first_slice, last_slice",
        (LEASE_MARK,),
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
        )
        for name, first_slice, last_slice, position, epoch, owner, lease_until_us, paused, updated_us, ahead in stored
    ]


def set_paused(writer: apsw.Connection, name: str, paused: bool) -> int:
    """See ``ProjectionStore.set_paused``."""
    writer.execute("UPDATE projection SET paused = ?, epoch = epoch + ? WHERE name = ?", (paused, paused, name))
    return writer.changes()
