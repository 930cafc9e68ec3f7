"""What an operator changes about a projection in the journal's file: its ranges, its offsets, whether it has any.

Runs in the storage's threads; callers hold transactions. Every change raises epochs, so an owner finds out at its next
commit, which is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from common.core.events.ids import SliceRange
from common.core.journal.slice_ranges import (
    RangeOffset,
    ahead_as_text,
    ahead_of_text,
    changes,
    divide,
    missing_ranges,
    projection_in_use,
    projection_not_paused,
)
from common.core.journal.statement import Statement
from common.journal.sqlite.connection import select
from common.journal.sqlite_tables import run_statements


def declare(
    writer: apsw.Connection, name: str, ranges: Sequence[SliceRange], begin: int, now_us: int
) -> list[SliceRange]:
    """See ``ProjectionStore.declare``."""
    stored = [one.slices for one in _offsets(writer, name)]
    missing = missing_ranges(stored, ranges)
    for slices in missing:
        _insert(writer, name, RangeOffset(slices, begin), 0, False, now_us, begin)
    return sorted([*stored, *missing])


def reshape(writer: apsw.Connection, name: str, ranges: Sequence[SliceRange], now_us: int) -> list[RangeOffset]:
    """See ``ProjectionStore.reshape``."""
    stored = _offsets(writer, name)
    divided = divide(name, stored, ranges)
    gone, new = changes(stored, divided)
    epoch, paused, begin = writer.execute(
        "SELECT max(epoch), max(paused), max(begin_position) FROM projection WHERE name = ?", (name,)
    ).get
    for slices in gone:
        writer.execute("DELETE FROM projection WHERE name = ? AND first_slice = ?", (name, slices.first))
    for offset in new:
        _insert(writer, name, offset, epoch + 1, paused, now_us, begin)
    return divided


def move(writer: apsw.Connection, name: str, position: int, statements: Sequence[Statement]) -> int:
    """See ``ProjectionStore.move``."""
    if writer.execute("SELECT count(*) FROM projection WHERE name = ? AND NOT paused", (name,)).get:
        raise projection_not_paused(name)
    run_statements(writer, statements)
    writer.execute(
        "UPDATE projection SET position = ?, ahead = ?, epoch = epoch + 1, failing = '' WHERE name = ?",
        (position, ahead_as_text(()), name),
    )
    return writer.changes()


def forget(writer: apsw.Connection, name: str, statements: Sequence[Statement], now_us: int) -> int:
    """See ``ProjectionStore.forget``."""
    held = select(
        writer, "SELECT owner FROM projection WHERE name = ? AND owner <> '' AND lease_until_us > ?", (name, now_us)
    )
    if held:
        raise projection_in_use(name, held[0][0])
    run_statements(writer, statements)
    writer.execute("DELETE FROM projection WHERE name = ?", (name,))
    return writer.changes()


def intervene(writer: apsw.Connection, name: str, statements: Sequence[Statement], *, restart: bool) -> int:
    """See ``ProjectionStore.intervene``."""
    run_statements(writer, statements)
    writer.execute(
        "UPDATE projection SET epoch = epoch + 1, owner = '', lease_until_us = 0,"
        " position = CASE WHEN ?1 THEN begin_position ELSE position END, ahead = CASE WHEN ?1 THEN '' ELSE ahead END,"
        " failing = CASE WHEN ?1 THEN '' ELSE failing END WHERE name = ?2",
        (restart, name),
    )
    return writer.changes()


def _offsets(writer: apsw.Connection, name: str) -> list[RangeOffset]:
    stored = select(
        writer,
        "SELECT first_slice, last_slice, position, ahead FROM projection WHERE name = ? ORDER BY first_slice",
        (name,),
    )
    return [RangeOffset(SliceRange(first, last), at, ahead_of_text(ahead)) for first, last, at, ahead in stored]


def _insert(
    writer: apsw.Connection, name: str, offset: RangeOffset, epoch: int, paused: bool, now_us: int, begin: int
) -> None:
    writer.execute(
        "INSERT INTO projection VALUES (?, ?, ?, ?, ?, '', 0, ?, ?, ?, '', ?)",
        (
            name,
            offset.slices.first,
            offset.slices.last,
            offset.position,
            epoch,
            paused,
            now_us,
            ahead_as_text(offset.ahead),
            begin,
        ),
    )
