"""The log's tables: read them, take old events away, say how big they are. Runs in the storage's threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple
from itertools import accumulate, groupby
from typing import Any

import apsw
import orjson

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.journal.history import History, Offset
from common.fail_points import fail_point
from common.journal.commit_feed import CommitFeed
from common.journal.sqlite import indexes, selected
from common.journal.sqlite.append import OpenAppend, append_group, forget_append_ids
from common.journal.sqlite.connection import begin_at_once, cut, head_position, select, snapshot
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.entities import EntityNames, deleted_of, entity_heads
from common.journal.sqlite.file import SqliteFile
from common.journal.stores.log import JournalStats, LogPage, TrimLimit

# Free pages are used again; what is beyond a quarter of the file goes back to the file system, some at each trim.
_VACUUM_PAGES = 256
# What is written without a thread: some hundred microseconds of work on pages that are mostly in memory.
_HERE_MAX_ROWS = 128
_HERE_MAX_BYTES = 128 * 1024
# Read at a time: as text it takes several times the room that it has as events.
_STEP_EVENTS = 1_000
_STEP_BYTES = 1024 * 1024

# As in ``EventBatch``, without ``prev_seq_nr``: it is one less than ``seq_nr``.
_COLUMNS = (
    "position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, event_type, codec, payload,"
    " tags, metadata, prev_tags"
)
_ENTITY, _SEQ_NR, _PAYLOAD = (_COLUMNS.split(", ").index(name) for name in ("entity_no", "seq_nr", "payload"))
# One row, a JSON array a column: SQLite then reads a whole page in one step, without Python's lock. Payloads, which are any
# bytes, come one behind the other, with their lengths as a column.
_AS_ARRAYS = ", ".join(
    f"json_group_array({name})" for name in _COLUMNS.replace("payload", "length(payload)").split(", ")
)
_PAGE = f"SELECT {_AS_ARRAYS}, CAST(group_concat(payload, '') AS BLOB)"


def _events(reader: apsw.Connection, names: EntityNames, source: str, args: tuple[Any, ...]) -> EventBatch:
    """The events of a source of ``_COLUMNS``, in its order.

    Not row by row: a thread that reads and one that writes would take Python's lock from each other at every row, and
    wait longer for it than all the work takes; and a tuple for each row sets Python's collector to work.
    """
    try:
        *arrays, payloads = reader.execute(f"{_PAGE} FROM {source}", args).get
        columns = list(map(orjson.loads, arrays))
        columns[_PAYLOAD] = cut(payloads, columns[_PAYLOAD])
    except apsw.TooBigError:  # some 1,000 MB of payloads
        columns = list(map(list, zip(*select(reader, f"SELECT {_COLUMNS} FROM {source}", args), strict=True)))
    columns[_ENTITY] = names.of(columns[_ENTITY])
    columns.insert(_SEQ_NR + 1, [seq_nr - 1 for seq_nr in columns[_SEQ_NR]])
    return EventBatch(*columns)


def look(
    reader: apsw.Connection,
    names: EntityNames,
    *,
    after: int,
    through: int | None,
    max_events: int,
    max_bytes: int,
    slices: SliceRange,
    selection: Selection,
) -> LogPage:
    """One look at the log: as ``LogStore.read``, but it may end short of the first event that fits a condition."""
    with snapshot(reader):
        head = head_position(reader)
        last = head if through is None else min(head, through)
        if selection.is_all:
            return _look_at_all(reader, names, head, last, after, max_events, max_bytes, slices)
        rows, last = selected.look(reader, selection, after=after, last=last, max_events=max_events, slices=slices)
        sizes = accumulate(size for _, size in rows)
        positions = [position for (position, _), size in zip(rows, sizes, strict=True) if size <= max_bytes]
        if len(positions) < len(rows):
            positions = positions or [rows[0][0]]
            last = positions[-1]
        found = _events(
            reader,
            names,
            f"(SELECT {_COLUMNS} FROM event WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position)",
            (orjson.dumps(positions).decode(),),
        )
        return LogPage(selection.of(found), max(last, min(after, head)), head)


def _look_at_all(
    reader: apsw.Connection,
    names: EntityNames,
    head: int,
    last: int,
    after: int,
    max_events: int,
    max_bytes: int,
    slices: SliceRange,
) -> LogPage:
    condition = ""
    args: list[int] = []
    if not slices.is_all:
        condition = " AND slice BETWEEN ? AND ?"
        last = selected.end_of_look(reader, after, last)
        args = [slices.first, slices.last]
    where = f"event WHERE position > ? AND position <= ?{condition}"
    sizes = f"SELECT position, length(payload) + {EVENT_OVERHEAD_BYTES} AS size FROM {where} ORDER BY position LIMIT ?"
    in_reach = (after, last, *args, max_events)
    count, size, end = reader.execute(f"SELECT count(*), sum(size), max(position) FROM ({sizes})", in_reach).get
    if not count:
        return LogPage(EventBatch(), max(last, min(after, head)), head)
    is_cut = count == max_events
    if size > max_bytes:
        sums = f"SELECT position, sum(size) OVER (ORDER BY position) AS total FROM ({sizes})"
        fits = f"SELECT count(*), max(total), max(position) FROM ({sums}) WHERE total <= max(?, (SELECT size FROM ({sizes})))"
        count, size, end = reader.execute(fits, (*in_reach, max_bytes, *in_reach)).get
        is_cut = True
    # Of as many positions as hold a step's events on average: a hole in the log is no reason for many steps.
    reach = end - after
    span = max(1, min(_STEP_EVENTS * reach // count, _STEP_BYTES * reach // size))
    events = EventBatch()
    for begin in range(after, end, span):
        # Without an order of its own, which costs a fifth: a table is walked by its key.
        events.extend(_events(reader, names, where, (begin, min(begin + span, end), *args)))
    return LogPage(events, end if is_cut else last, head)


def read_entity(
    reader: apsw.Connection,
    names: EntityNames,
    persistence_id: str,
    *,
    from_seq_nr: int,
    to_seq_nr: int,
    max_events: int,
) -> EventBatch:
    """See ``LogStore.read_entity``."""
    return _events(
        reader,
        names,
        f"(SELECT {_COLUMNS} FROM event WHERE entity_no = (SELECT entity_no FROM entity WHERE persistence_id = ?)"
        " AND seq_nr BETWEEN ? AND ? ORDER BY seq_nr LIMIT ?)",
        (persistence_id, from_seq_nr, to_seq_nr, max_events),
    )


def read_entities(
    reader: apsw.Connection, names: EntityNames, known: Mapping[str, int], *, each_max: int
) -> EventBatch:
    """See ``LogStore.read_entities``."""
    return _events(
        reader,
        names,
        f"(SELECT {_COLUMNS} FROM (SELECT key AS name, value AS known FROM json_each(?))"
        " CROSS JOIN entity ON persistence_id = name CROSS JOIN event USING (entity_no)"
        " WHERE seq_nr BETWEEN known + 1 AND known + ? ORDER BY entity_no, seq_nr)",
        (orjson.dumps(known).decode(), each_max),
    )


_HISTORY = "FROM event WHERE event.entity_no = entity.entity_no AND seq_nr >= asked.value ORDER BY seq_nr LIMIT ?"
_HISTORY_SIZES = (
    f"SELECT asked.key, (SELECT count(*) FROM (SELECT 1 {_HISTORY})),"
    f" (SELECT total(size) FROM (SELECT length(payload) + {EVENT_OVERHEAD_BYTES} AS size {_HISTORY}))"
    " FROM json_each(?) AS asked CROSS JOIN entity ON persistence_id = asked.key"
)
_WHOLE_HISTORIES = (
    f"(SELECT {_COLUMNS} FROM json_each(?) AS asked CROSS JOIN entity ON persistence_id = asked.key"
    " CROSS JOIN event USING (entity_no) WHERE seq_nr >= asked.value ORDER BY entity_no, seq_nr)"
)


def read_histories(
    reader: apsw.Connection, names: EntityNames, first: Mapping[str, int], *, each_max: int, max_bytes: int
) -> dict[str, EventBatch]:
    """See ``LogStore.read_histories``."""
    found: dict[str, EventBatch] = {}
    with snapshot(reader):
        rows = select(reader, _HISTORY_SIZES, (each_max + 1, each_max + 1, orjson.dumps(first).decode()))
        sizes = {name: (count, size) for name, count, size in rows}
        for name in first:
            count, size = sizes.get(name, (0, 0))
            if count <= each_max:
                max_bytes -= size
                if max_bytes < 0:
                    break
                found[name] = EventBatch()
        whole = orjson.dumps({name: first[name] for name in found if name in sizes}).decode()
        events = _events(reader, names, _WHOLE_HISTORIES, (whole,))
    for name, group in groupby(range(len(events)), events.persistence_id.__getitem__):
        found[name] = events.select(list(group))
    return found


def stats(file: SqliteFile) -> JournalStats:
    """See ``LogStore.stats``; sizes are those of this moment."""
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


def deleted_entities(
    reader: apsw.Connection, after: int, through: int, max_rows: int | None
) -> list[tuple[StatedRange, int]]:
    """See ``LogStore.deleted_entities``."""
    # SQLite takes the first lower bound for the index's range: the condition of the partial index is not to be that one.
    rows = select(
        reader,
        "SELECT persistence_id, deleted_to, deleted_reason, deleted_position FROM entity"
        " WHERE deleted_position > ? AND deleted_position <= ? AND deleted_position > 0 ORDER BY deleted_position"
        " LIMIT ?",
        (after, through, -1 if max_rows is None else max_rows),
    )
    return [(StatedRange(name, 1, to_seq_nr, reason), position) for name, to_seq_nr, reason, position in rows]


_COVERED = "event.seq_nr <= (SELECT snapshot.seq_nr FROM snapshot WHERE snapshot.entity_no = event.entity_no)"

_OLDEST = "(SELECT oldest.position FROM event AS oldest WHERE oldest.entity_no = event.entity_no ORDER BY oldest.seq_nr LIMIT 1)"


def _may_go(limit: TrimLimit) -> tuple[str, list[str]]:
    """A condition on events, whatever their age and place, and its arguments."""
    wanted, args = selected.of_types(limit.entity_types) if limit.entity_types else ("true", [])
    if limit.covered_types:
        needs_cover, more = selected.of_types(limit.covered_types)
        wanted = f"{wanted} AND (NOT {needs_cover} OR coalesce({_COVERED}, false))"
        args = args + more
    if limit.kept:
        kept = "SELECT entity_no FROM json_each(?) CROSS JOIN entity ON persistence_id = value"
        wanted = f"{wanted} AND entity_no NOT IN ({kept})"
        args = [*args, orjson.dumps(sorted(limit.kept)).decode()]
    # A reader that begins in the middle must not leave an entity's older events behind.
    return (f"{wanted} AND {_OLDEST} > {limit.after}" if limit.after else wanted), args


def trim(writer: apsw.Connection, limit: TrimLimit) -> int:
    """See ``LogStore.trim``; the caller holds the transaction."""
    wanted, args = _may_go(limit)
    oldest = (
        f"SELECT position, tags, prev_tags, length(payload) + {EVENT_OVERHEAD_BYTES} AS size FROM event"
        f" WHERE position > ? AND position <= ? AND {wanted} ORDER BY position LIMIT ?"
    )
    old = select(
        writer,
        "SELECT position, tags, prev_tags FROM"
        f" (SELECT *, sum(size) OVER (ORDER BY position) - size AS before FROM ({oldest})) WHERE before < ?",
        (limit.after, limit.through, *args, limit.max_events, limit.max_bytes),
    )
    if not old:
        return 0
    last = old[-1][0]
    writer.execute(
        "UPDATE entity SET deleted_to = gone.seq_nr, deleted_position = gone.position, deleted_reason = ?"
        " FROM (SELECT entity_no, max(seq_nr) AS seq_nr, max(position) AS position FROM event"
        f" WHERE position > ? AND position <= ? AND {wanted} GROUP BY entity_no) AS gone"
        " WHERE entity.entity_no = gone.entity_no",
        (limit.reason, limit.after, last, *args),
    )
    writer.execute(f"DELETE FROM event WHERE position > ? AND position <= ? AND {wanted}", (limit.after, last, *args))
    indexes.remove_tags(writer, old)
    indexes.remove_blocks(writer, (row[0] for row in old), head_position(writer))
    writer.execute("UPDATE journal SET deleted_through = max(deleted_through, ?)", (last,))
    free, pages = writer.execute("PRAGMA freelist_count").get, writer.execute("PRAGMA page_count").get
    if free > max(pages // 4, _VACUUM_PAGES):
        writer.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    fail_point("trim.before_commit")
    return len(old)


def event_bytes(reader: apsw.Connection, after: int, through: int) -> int:
    """See ``LogStore.event_bytes``."""
    size: int = reader.execute(
        f"SELECT coalesce(sum(length(payload) + {EVENT_OVERHEAD_BYTES}), 0) FROM event"
        " WHERE position > ? AND position <= ?",
        (after, through),
    ).get
    return size


def load_cursor(reader: apsw.Connection, name: str) -> Offset | None:
    """See ``LogStore.load_cursor``."""
    row = reader.execute(
        "SELECT journal_id, generation_id, position, timestamp_us, persistence_id, seq_nr FROM cursor WHERE name = ?",
        (name,),
    ).get
    return Offset(*row) if row else None


def save_cursor(writer: apsw.Connection, name: str, offset: Offset) -> None:
    """See ``LogStore.save_cursor``; the caller holds the transaction."""
    writer.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?, ?, ?, ?)", (name, *astuple(offset)))


class SqliteLog:
    """``LogStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections
        self.head_signal = connections.head_signal
        self.feed = CommitFeed()
        self.read_counts: Counter[str] = Counter()
        self._trims = self._trimming = 0

    @property
    def history(self) -> History:
        """Journal id and generations as of opening, head as last known here."""
        return self._connections.history

    @property
    def trims(self) -> int | None:
        """See ``LogStore.trims``."""
        return None if self._trimming else self._trims

    @property
    def place_key(self) -> str:
        """See ``LogStore.place_key``."""
        return self._connections.place_key

    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``LogStore.append_group``."""

        async with self._connections.writer_lock:
            await self._connections.make_ready()
            append = self._write_here(requests)
            if append is None:
                append = await self._connections.run(self._append, requests)
            else:
                try:
                    await self._connections.run(self._commit, append)
                except BaseException:
                    append.undo()  # also when it was cancelled before it began
                    raise
        self.feed.give(append.stored)
        self.head_signal.raise_to(append.head)
        return append.outcomes

    def _write_here(self, requests: Sequence[AppendRequest]) -> OpenAppend | None:
        """Do all but the sync at once, if it is little: that takes less than asking a thread to do it."""
        rows = sum(request.rows for request in requests)
        if rows > _HERE_MAX_ROWS or sum(request.events.byte_size() for request in requests) > _HERE_MAX_BYTES:
            return None
        with self._connections.file.coded_errors():
            if not begin_at_once(self._connections.file.writer):
                return None
            return OpenAppend(
                self._connections.file.writer, self._connections.entities, requests, self._connections.now_us()
            )

    def _append(self, requests: Sequence[AppendRequest]) -> OpenAppend:
        with self._connections.file.coded_errors():
            return append_group(
                self._connections.file.writer, self._connections.entities, requests, self._connections.now_us()
            )

    def _commit(self, append: OpenAppend) -> None:
        with self._connections.file.coded_errors():
            append.commit()

    async def read(
        self,
        after: int,
        *,
        through: int | None = None,
        max_events: int,
        max_bytes: int,
        slices: SliceRange = ALL_SLICES,
        selection: Selection = EVERYTHING,
    ) -> LogPage:
        """See ``LogStore.read``. A condition that leaves nothing of a stretch makes it look at the next one."""

        async def look_from(after: int) -> LogPage:
            self.read_counts["log" if selection.is_all else "selected"] += 1
            run = self._connections.read if selection.is_all else self._connections.search
            return await run(
                look,
                self._connections.names,
                after=after,
                through=through,
                max_events=max_events,
                max_bytes=max_bytes,
                slices=slices,
                selection=selection,
            )

        page = await look_from(after)
        while not page.events and page.through < (page.head if through is None else min(through, page.head)):
            page = await look_from(page.through)
        return page

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """See ``LogStore.read_entity``."""
        self.read_counts["entity"] += 1
        return await self._connections.read(
            read_entity,
            self._connections.names,
            persistence_id,
            from_seq_nr=from_seq_nr,
            to_seq_nr=to_seq_nr,
            max_events=max_events,
        )

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """See ``LogStore.read_entities``."""
        return await self._connections.read(read_entities, self._connections.names, known, each_max=each_max)

    async def read_histories(self, first: Mapping[str, int], *, each_max: int, max_bytes: int) -> dict[str, EventBatch]:
        """See ``LogStore.read_histories``."""
        self.read_counts["entity"] += 1
        return await self._connections.read(
            read_histories, self._connections.names, first, each_max=each_max, max_bytes=max_bytes
        )

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``LogStore.entity_head``."""
        return (await self.entity_heads([persistence_id])).get(persistence_id)

    async def entity_heads(self, persistence_ids: Collection[str]) -> dict[str, EntityHead]:
        """See ``LogStore.entity_heads``."""
        return await self._connections.read(entity_heads, persistence_ids)

    async def probe(self, append_bytes: int) -> None:
        """See ``LogStore.probe``."""
        async with self._connections.writer_lock:
            await self._connections.make_ready()
            await self._connections.run(self._connections.file.probe, append_bytes)

    async def stats(self) -> JournalStats:
        """See ``LogStore.stats``."""
        return await self._connections.read(lambda _: stats(self._connections.file))

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """See ``LogStore.deleted_ranges``."""
        return [stated for stated, _ in await self._connections.read(deleted_entities, after, through, max_rows)]

    async def deleted_entities(self, after: int, through: int, *, max_rows: int) -> list[tuple[StatedRange, int]]:
        """See ``LogStore.deleted_entities``."""
        return await self._connections.read(deleted_entities, after, through, max_rows)

    async def trim(self, limit: TrimLimit) -> int:
        """See ``LogStore.trim``."""
        self._trimming += 1
        try:
            return await self._connections.write(trim, limit)
        finally:
            self._trimming -= 1
            self._trims += 1

    async def event_bytes(self, after: int, through: int) -> int:
        """See ``LogStore.event_bytes``."""
        return await self._connections.read(event_bytes, after, through)

    async def forget_append_ids(self, through: int, max_rows: int) -> int:
        """See ``LogStore.forget_append_ids``."""
        return await self._connections.write(forget_append_ids, through, max_rows)

    async def deleted_of(self, persistence_ids: Collection[str]) -> list[tuple[StatedRange, str]]:
        """See ``PushFilterStore.deleted_of``."""
        return await self._connections.read(deleted_of, persistence_ids)

    async def tag_sets(self, persistence_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
        """See ``LogStore.tag_sets``."""
        return await self._connections.read(indexes.tag_sets, persistence_ids)

    async def load_cursor(self, name: str) -> Offset | None:
        """See ``LogStore.load_cursor``."""
        return await self._connections.read(load_cursor, name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``LogStore.save_cursor``."""
        await self._connections.write(save_cursor, name, offset)
