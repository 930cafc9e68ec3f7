"""The log's tables: read them, take old events away, say how big they are. Runs in the storage's threads."""

from __future__ import annotations

from typing import Any

import apsw

from common.core.append import StatedRange
from common.core.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.ids import SliceRange
from common.core.judge import EntityHead
from common.fail_points import fail_point
from common.journal.interface import JournalStats, LogPage, TrimLimit
from common.journal.sqlite.connection import SqliteFile, insert_rows, select, snapshot

# A condition may leave little of the log; a look is a short read, so that the WAL can always be taken over.
_POSITIONS_PER_LOOK = 20_000
# Free pages are used again; what is beyond a quarter of the file goes back to the file system, some at each trim.
_VACUUM_PAGES = 256

_COLUMNS = (
    "position, timestamp_us, stored_us, event_time_us, persistence_id, seq_nr, seq_nr - 1, origin_seq_nr,"
    " event_type, codec, payload, tags, metadata"
)
HEAD_COLUMNS = (
    "persistence_id, seq_nr, owner, origin_seq_nr, branch, parked, deleted_to, deleted_position, deleted_reason"
)


def _batch(rows: list[tuple[Any, ...]]) -> EventBatch:
    return EventBatch(*map(list, zip(*rows, strict=True)))


def head_position(connection: apsw.Connection) -> int:
    """The position of the last event ever stored."""
    position: int = connection.execute("SELECT head_position FROM journal").get
    return position


def look(
    reader: apsw.Connection,
    after: int,
    max_events: int,
    max_bytes: int,
    slices: SliceRange,
    entity_type: str | None,
) -> LogPage:
    """One look at the log: as ``Journal.read``, but it may end short of the first event that fits a condition."""
    condition = ""
    args: list[int | str] = []
    if not slices.is_all:
        condition += " AND slice BETWEEN ? AND ?"
        args += [slices.first, slices.last]
    if entity_type is not None:
        # '}' is the character after '|'.
        condition += " AND persistence_id >= ? AND persistence_id < ?"
        args += [f"{entity_type}|", f"{entity_type}}}"]
    with snapshot(reader):
        head = head_position(reader)
        last = head
        if condition:
            first = reader.execute("SELECT min(position) FROM event WHERE position > ?", (after,)).get or head
            last = min(head, first + _POSITIONS_PER_LOOK)
        where = f"WHERE position > ? AND position <= ?{condition} ORDER BY position LIMIT ?"
        bounds = (after, last, *args, max_events)
        sizes = f"SELECT position, length(payload) + {EVENT_OVERHEAD_BYTES} AS size FROM event {where}"
        count, size = reader.execute(f"SELECT count(*), sum(size) FROM ({sizes})", bounds).get
        fitting = count
        if count and size > max_bytes:
            sums = f"SELECT sum(size) OVER (ORDER BY position) AS total FROM ({sizes})"
            fits = reader.execute(f"SELECT count(*) FROM ({sums}) WHERE total <= ?", (*bounds, max_bytes)).get
            fitting = max(1, fits)
        if not fitting:
            return LogPage(EventBatch(), max(after, last), head)
        events = _batch(select(reader, f"SELECT {_COLUMNS} FROM event {where}", (*bounds[:-1], fitting)))
    through = last if fitting == count < max_events else events.position[-1]
    return LogPage(events, through, head)


def read_entity(
    reader: apsw.Connection, persistence_id: str, from_seq_nr: int, to_seq_nr: int, max_events: int
) -> EventBatch:
    """See ``Journal.read_entity``."""
    rows = select(
        reader,
        f"SELECT {_COLUMNS} FROM event WHERE persistence_id = ? AND seq_nr BETWEEN ? AND ? ORDER BY seq_nr LIMIT ?",
        (persistence_id, from_seq_nr, to_seq_nr, max_events),
    )
    return _batch(rows) if rows else EventBatch()


def entity_head(connection: apsw.Connection, persistence_id: str) -> EntityHead | None:
    """See ``Journal.entity_head``."""
    row = connection.execute(f"SELECT {HEAD_COLUMNS} FROM entity WHERE persistence_id = ?", (persistence_id,)).get
    return EntityHead(*row) if row else None


def stats(file: SqliteFile) -> JournalStats:
    """See ``Journal.stats``; sizes are those of this moment."""
    reader = file.reader
    with snapshot(reader):
        head, timestamp_us, deleted = reader.execute(
            "SELECT head_position, head_timestamp_us, deleted_through FROM journal"
        ).get
        first = reader.execute("SELECT min(position) FROM event").get
        parked = reader.execute("SELECT count(*) FROM parked").get
        used_bytes, wal_bytes = file.used_bytes()
    return JournalStats(
        head_position=head,
        head_timestamp_us=timestamp_us,
        deleted_through=deleted,
        first_position=first or head + 1,
        used_bytes=used_bytes,
        wal_bytes=wal_bytes,
        parked=parked,
    )


def deleted_ranges(reader: apsw.Connection, after: int, through: int) -> list[StatedRange]:
    """See ``Journal.deleted_ranges``."""
    rows = select(
        reader,
        "SELECT persistence_id, 1, deleted_to, deleted_reason FROM entity"
        " WHERE deleted_position > 0 AND deleted_position > ? AND deleted_position <= ? ORDER BY deleted_position",
        (after, through),
    )
    return [StatedRange(*row) for row in rows]


def trim(writer: apsw.Connection, limit: TrimLimit) -> int:
    """See ``Journal.trim``; the caller holds the transaction.

    Ends at the first event that is too young: an entity always loses its oldest events first, also when the clock
    stepped back between two of them.
    """
    types, args = "", sorted(limit.entity_types)
    if limit.entity_types:
        types = f" AND substr(persistence_id, 1, instr(persistence_id, '|') - 1) IN ({','.join('?' * len(args))})"
    oldest = select(
        writer,
        f"SELECT position, persistence_id, seq_nr, stored_us FROM event WHERE position <= ?{types}"
        " ORDER BY position LIMIT ?",
        (limit.through, *args, limit.max_events),
    )
    young = next((at for at, row in enumerate(oldest) if row[3] >= limit.stored_before_us), len(oldest))
    removed = oldest[:young]
    if not removed:
        return 0
    last = removed[-1][0]
    writer.execute(f"DELETE FROM event WHERE position <= ?{types}", (last, *args))
    newest = {persistence_id: (seq_nr, position) for position, persistence_id, seq_nr, _ in removed}
    seq_nrs, positions = zip(*newest.values(), strict=True)
    n = len(newest)
    insert_rows(
        writer,
        "entity",
        9,
        (newest, seq_nrs, [""] * n, [0] * n, [0] * n, [0] * n, seq_nrs, positions, [limit.reason] * n),
        "ON CONFLICT DO UPDATE SET deleted_to = excluded.deleted_to,"
        " deleted_position = excluded.deleted_position, deleted_reason = excluded.deleted_reason",
    )
    writer.execute("UPDATE journal SET deleted_through = max(deleted_through, ?)", (last,))
    free, pages = writer.execute("PRAGMA freelist_count").get, writer.execute("PRAGMA page_count").get
    if free > max(pages // 4, _VACUUM_PAGES):
        writer.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    fail_point("trim.before_commit")
    return len(removed)


def forget_append_ids(writer: apsw.Connection, stored_before_us: int, max_rows: int) -> int:
    """See ``Journal.forget_append_ids``."""
    writer.execute(
        "DELETE FROM append_id WHERE append_id IN"
        " (SELECT append_id FROM append_id WHERE stored_us < ? ORDER BY stored_us LIMIT ?)",
        (stored_before_us, max_rows),
    )
    return writer.changes()
