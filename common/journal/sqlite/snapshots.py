"""Snapshots in the journal's file, and up to where they cover the log. Runs in the storage's threads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any

import apsw
import orjson

from common.core.events.batch import EVENT_OVERHEAD_BYTES, EventBatch
from common.core.journal.snapshot import (
    NewSnapshot,
    Snapshot,
    SnapshotsBeside,
    admit_snapshot,
    check_deletable,
    id_ranges,
    no_snapshot,
)
from common.journal.snapshot_watermark import LOOK_EVENTS, SnapshotWatermark
from common.journal.sqlite.connection import cut, head_position, insert_rows, select
from common.journal.sqlite.connection import snapshot as one_state
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.selected import of_types

_COLUMNS = (
    "persistence_id, seq_nr, position, timestamp_us, stored_us, event_time_us, event_type, codec, payload, tags,"
    " metadata, taken_position, says_last_event"
)
# What is known of the event stays when it is gone and a snapshot of the same number is replaced.
_OF_EVENT = ("position", "timestamp_us", "stored_us", "event_time_us", "tags")
_REPLACE = "ON CONFLICT (entity_no) DO UPDATE SET " + ", ".join(
    f"{name} = iif(excluded.seq_nr = snapshot.seq_nr AND excluded.position = 0, snapshot.{name}, excluded.{name})"
    if name in _OF_EVENT
    else f"{name} = excluded.{name}"
    for name in _COLUMNS.split(", ")[1:]
)


def put(
    writer: apsw.Connection, snapshots: Sequence[NewSnapshot], now_us: int, *, keep: int, replaces: bool
) -> list[bool]:
    """See ``SnapshotStore.put``; the caller holds the transaction."""
    names = orjson.dumps([new.persistence_id for new in snapshots]).decode()
    rows = select(
        writer,
        "SELECT entity.persistence_id, entity_no, entity_head.seq_nr, deleted_to, coalesce(snapshot.seq_nr, 0)"
        " FROM json_each(?) CROSS JOIN entity ON entity.persistence_id = value JOIN entity_head USING (entity_no)"
        " LEFT JOIN snapshot USING (entity_no)",
        (names,),
    )
    heads = {name: numbers for name, *numbers in rows}
    before = {name: seq_nr for name, *_, seq_nr in rows}
    stored = dict(before)
    latest: dict[str, NewSnapshot] = {}
    answer = []
    for new in snapshots:
        _, reached, deleted_to, _ = heads.get(new.persistence_id, (0, 0, 0, 0))
        known = stored.get(new.persistence_id, 0)
        is_news = admit_snapshot(new, reached=reached, deleted_to=deleted_to, stored=known, replaces=replaces)
        if is_news:
            stored[new.persistence_id] = new.seq_nr
            latest[new.persistence_id] = new
        answer.append(is_news)
    if latest:
        _keep_older(writer, [heads[name][0] for name, new in latest.items() if new.seq_nr > before[name]], keep)
        _write(writer, list(latest.values()), {name: heads[name][0] for name in latest}, now_us)
    return answer


def _keep_older(writer: apsw.Connection, entity_nos: list[int], keep: int) -> None:
    """Put the latest snapshots aside, before they are replaced by later ones; all but the last ``keep`` - 1 go."""
    numbers = orjson.dumps(entity_nos).decode()
    if keep > 1:
        writer.execute(
            f"INSERT OR REPLACE INTO older_snapshot (entity_no, {_COLUMNS}) SELECT entity_no, {_COLUMNS} FROM snapshot"
            " WHERE entity_no IN (SELECT value FROM json_each(?))",
            (numbers,),
        )
    writer.execute(
        "DELETE FROM older_snapshot WHERE entity_no IN (SELECT value FROM json_each(?)) AND seq_nr NOT IN ("
        " SELECT seq_nr FROM older_snapshot AS last WHERE last.entity_no = older_snapshot.entity_no"
        " ORDER BY seq_nr DESC LIMIT ?)",
        (numbers, keep - 1),
    )


def _write(writer: apsw.Connection, snapshots: list[NewSnapshot], entity_no: dict[str, int], now_us: int) -> None:
    numbers = [entity_no[new.persistence_id] for new in snapshots]
    found = select(
        writer,
        "SELECT entity_no, position, timestamp_us, stored_us, event_time_us, tags FROM json_each(?) AS wanted"
        " CROSS JOIN event ON event.entity_no = json_extract(wanted.value, '$[0]')"
        " AND event.seq_nr = json_extract(wanted.value, '$[1]')",
        (orjson.dumps([(number, new.seq_nr) for number, new in zip(numbers, snapshots, strict=True)]).decode(),),
    )
    there = {number: facts for number, *facts in found}
    facts = [there.get(number, [0, 0, now_us, 0, new.tags]) for number, new in zip(numbers, snapshots, strict=True)]
    columns: tuple[Iterable[Any], ...] = (
        numbers,
        [new.persistence_id for new in snapshots],
        [new.seq_nr for new in snapshots],
        *([row[i] for row in facts] for i in range(4)),
        [new.event_type for new in snapshots],
        [new.codec for new in snapshots],
        [new.payload for new in snapshots],
        [row[4] for row in facts],
        [new.metadata for new in snapshots],
        repeat(head_position(writer), len(snapshots)),
        [int(new.says_last_event and number in there) for number, new in zip(numbers, snapshots, strict=True)],
    )
    insert_rows(writer, "snapshot", 14, columns, _REPLACE)


def get(reader: apsw.Connection, persistence_id: str) -> Snapshot | None:
    """See ``SnapshotStore.snapshot``."""
    row = reader.execute(f"SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = ?", (persistence_id,)).get
    return _snapshot(row) if row else None


# As arrays, and payloads one behind the other, without Python's lock: see ``log``.
_ARRAYS = ", ".join(f"json_group_array({name})" for name in _COLUMNS.replace("payload", "length(payload)").split(", "))
_PAYLOAD = _COLUMNS.split(", ").index("payload")
_OF = "FROM json_each(?) CROSS JOIN snapshot ON snapshot.persistence_id = value"


def _columns_of(reader: apsw.Connection, persistence_ids: Collection[str]) -> list[list[Any]]:
    """Of the latest of these entities, ``_COLUMNS`` in the order of the ids."""
    args = (orjson.dumps(persistence_ids).decode(),)
    try:
        *arrays, payloads = reader.execute(f"SELECT {_ARRAYS}, CAST(group_concat(payload, '') AS BLOB) {_OF}", args).get
    except apsw.TooBigError:  # some 1,000 MB of payloads
        rows = select(reader, f"SELECT {_COLUMNS} {_OF}", args)
        return list(map(list, zip(*rows, strict=True)))
    columns = list(map(orjson.loads, arrays))
    columns[_PAYLOAD] = cut(payloads, columns[_PAYLOAD])
    return columns


def of(reader: apsw.Connection, persistence_ids: Collection[str]) -> list[Snapshot]:
    """See ``SnapshotStore.of``."""
    return list(map(_snapshot, zip(*_columns_of(reader, sorted(set(persistence_ids))), strict=True)))


def batch(reader: apsw.Connection, persistence_ids: Sequence[str]) -> tuple[EventBatch, list[bool]]:
    """See ``SnapshotStore.batch``."""
    columns = dict(zip(_COLUMNS.split(", "), _columns_of(reader, persistence_ids), strict=True))
    n, seq_nr = len(columns["seq_nr"]), columns["seq_nr"]
    beside = {"prev_seq_nr": [number - 1 for number in seq_nr], "origin_seq_nr": [0] * n, "prev_tags": [""] * n}
    says_last_event, _ = columns.pop("says_last_event"), columns.pop("taken_position")
    return EventBatch(**beside, **columns), list(map(bool, says_last_event))


def sized(reader: apsw.Connection, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
    """See ``SnapshotStore.sized``."""
    args = (orjson.dumps(sorted(set(persistence_ids))).decode(),)
    columns = list(map(orjson.loads, reader.execute(f"SELECT {_ARRAYS} {_OF}", args).get))
    sizes = columns[_PAYLOAD]
    columns[_PAYLOAD] = [b""] * len(sizes)
    return list(zip(map(_snapshot, zip(*columns, strict=True)), sizes, strict=True))


_NUMBERS = (
    "SELECT json_group_array(snapshot.persistence_id), json_group_array(snapshot.seq_nr),"
    f" json_group_array(snapshot.position) {_OF}"
)


def numbers(reader: apsw.Connection, persistence_ids: Collection[str]) -> tuple[list[str], list[int], list[int]]:
    """See ``SnapshotStore.numbers``."""
    names, seq_nr, position = map(
        orjson.loads, reader.execute(_NUMBERS, (orjson.dumps(list(persistence_ids)).decode(),)).get
    )
    return names, seq_nr, position


# An event a row, as arrays: to group them here would sort what mostly has one a page of each entity.
_BESIDE_EVENTS = """
SELECT json_group_array(persistence_id) FILTER (WHERE is_covered), json_group_array(seq_nr) FILTER (WHERE is_covered),
       json_group_array(position) FILTER (WHERE is_covered), json_group_array(size) FILTER (WHERE is_covered),
       json_group_array(deleted_to) FILTER (WHERE is_covered),
       json_group_array(deleted_position) FILTER (WHERE is_covered), json_group_array(at) FILTER (WHERE is_covered),
       count(*), coalesce(min(at) FILTER (WHERE NOT is_covered), 0)
FROM (
    SELECT snapshot.persistence_id, snapshot.seq_nr, snapshot.position, length(snapshot.payload) AS size, deleted_to,
           deleted_position, event.position AS at,
           event.seq_nr <= coalesce(snapshot.seq_nr, 0) AND deleted_position > ?3 AS is_covered
    FROM event CROSS JOIN entity USING (entity_no) LEFT JOIN snapshot USING (entity_no)
    WHERE event.position > ?1 AND event.position <= ?2
    ORDER BY event.position
)
"""
# SQLite takes the first lower bound for the index's range: the condition of the partial index is not to be that one.
_BESIDE_DELETED = """
SELECT json_group_array(persistence_id), json_group_array(seq_nr), json_group_array(position), json_group_array(size),
       json_group_array(deleted_to), json_group_array(deleted_position), json_group_array(deleted_position)
FROM (
    SELECT snapshot.persistence_id, snapshot.seq_nr, snapshot.position, length(snapshot.payload) AS size, deleted_to,
           deleted_position
    FROM entity CROSS JOIN snapshot USING (entity_no)
    WHERE deleted_position > max(?1, ?3) AND deleted_position <= ?2 AND deleted_position > 0
    ORDER BY deleted_position
)
"""


def beside(reader: apsw.Connection, after: int, through: int, lost_after: int | None) -> SnapshotsBeside:
    """See ``SnapshotStore.beside``."""
    args = (after, through, -1 if lost_after is None else lost_after)
    with one_state(reader):
        *of_events, events, kept_at = reader.execute(_BESIDE_EVENTS, args).get
        of_deleted = reader.execute(_BESIDE_DELETED, args).get
    pairs = zip(map(orjson.loads, of_events), map(orjson.loads, of_deleted), strict=True)
    columns: list[Any] = [*_first_of_each([first + more for first, more in pairs]), events, kept_at]
    return SnapshotsBeside(*columns)


def _first_of_each(columns: list[list[Any]]) -> list[list[Any]]:
    """Of rows in columns, the entity the first and the place the last one: of each entity the first in the log, in its order."""
    names, at = columns[0], columns[-1]
    order = sorted(range(len(at)), key=at.__getitem__)
    if len(set(names)) < len(names):
        order = sorted({names[index]: index for index in reversed(order)}.values(), key=at.__getitem__)
    elif order == list(range(len(at))):
        return columns
    return [[column[index] for index in order] for column in columns]


def _snapshot(row: Sequence[Any]) -> Snapshot:
    columns: list[Any] = [*row[:-1], bool(row[-1])]
    return Snapshot(*columns)


def kept(reader: apsw.Connection, persistence_id: str) -> list[Snapshot]:
    """See ``SnapshotStore.kept``."""
    with one_state(reader):
        rows = select(
            reader,
            f"SELECT {_COLUMNS} FROM snapshot WHERE persistence_id = ?1 UNION ALL"
            f" SELECT {_COLUMNS} FROM older_snapshot WHERE entity_no = (SELECT entity_no FROM snapshot"
            " WHERE persistence_id = ?1) ORDER BY seq_nr DESC",
            (persistence_id,),
        )
    return [_snapshot(row) for row in rows]


def delete(writer: apsw.Connection, persistence_id: str, seq_nr: int) -> None:
    """See ``SnapshotStore.delete``; the caller holds the transaction."""
    latest = writer.execute(
        "SELECT entity_no, seq_nr, deleted_to FROM snapshot JOIN entity USING (entity_no)"
        " WHERE snapshot.persistence_id = ?",
        (persistence_id,),
    ).get
    if latest is None:
        raise no_snapshot(persistence_id, seq_nr)
    entity_no, latest_seq_nr, deleted_to = latest
    if seq_nr == latest_seq_nr:
        before = writer.execute("SELECT max(seq_nr) FROM older_snapshot WHERE entity_no = ?", (entity_no,)).get or 0
        check_deletable(persistence_id, seq_nr, before=before, deleted_to=deleted_to)
        writer.execute("DELETE FROM snapshot WHERE entity_no = ?", (entity_no,))
        writer.execute(
            f"INSERT INTO snapshot (entity_no, {_COLUMNS}) SELECT entity_no, {_COLUMNS} FROM older_snapshot"
            " WHERE entity_no = ? AND seq_nr = ?",
            (entity_no, before),
        )
        seq_nr = before
    writer.execute("DELETE FROM older_snapshot WHERE entity_no = ? AND seq_nr = ?", (entity_no, seq_nr))
    if seq_nr and not writer.changes():
        raise no_snapshot(persistence_id, seq_nr)


def page(
    reader: apsw.Connection, after: str, *, max_rows: int, max_bytes: int, entity_types: frozenset[str]
) -> list[Snapshot]:
    """See ``SnapshotStore.snapshots``."""
    found: list[Snapshot] = []
    with one_state(reader):
        for first, end in id_ranges(after, entity_types):
            args = (first, end, end, max_rows - len(found))
            where = "persistence_id > ? AND (? IS NULL OR persistence_id < ?) ORDER BY persistence_id LIMIT ?"
            sizes = (
                f"SELECT persistence_id, length(payload) + {EVENT_OVERHEAD_BYTES} AS size FROM snapshot WHERE {where}"
            )
            sums = f"SELECT sum(size) OVER (ORDER BY persistence_id) AS total FROM ({sizes})"
            count, fit = reader.execute(
                f"SELECT count(*), coalesce(sum(total <= ?), 0) FROM ({sums})", (max_bytes, *args)
            ).get
            wanted = max(fit, 1 if count and not found else 0)
            rows = select(reader, f"SELECT {_COLUMNS} FROM snapshot WHERE {where}", (*args[:-1], wanted))
            found += [_snapshot(row) for row in rows]
            max_bytes -= sum(len(snapshot.payload) + EVENT_OVERHEAD_BYTES for snapshot in found[-wanted:] if wanted)
            if wanted < count or len(found) >= max_rows:
                break
    return found


def look(reader: apsw.Connection, after: int, through: int, entity_types: frozenset[str]) -> tuple[int | None, int]:
    """See ``snapshot_watermark.WatermarkRead``."""
    condition, args = of_types(entity_types) if entity_types else ("true", [])
    with one_state(reader):
        last = reader.execute(
            "SELECT position FROM event WHERE position > ? ORDER BY position LIMIT 1 OFFSET ?", (after, LOOK_EVENTS)
        ).get
        looked = min(through, last or through)
        first = reader.execute(
            "SELECT event.position FROM event LEFT JOIN snapshot USING (entity_no)"
            " WHERE event.position > ? AND event.position <= ? AND event.seq_nr > coalesce(snapshot.seq_nr, 0)"
            f" AND {condition} ORDER BY event.position LIMIT 1",
            (after, looked, *args),
        ).get
    return first, looked


class SqliteSnapshots:
    """``SnapshotStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections
        self._watermark = SnapshotWatermark()

    async def put(self, snapshots: Sequence[NewSnapshot], *, keep: int = 1, replaces: bool = False) -> list[bool]:
        """See ``SnapshotStore.put``."""
        now_us = self._connections.now_us()
        return await self._connections.write(put, snapshots, now_us, keep=keep, replaces=replaces)

    async def get(self, persistence_id: str) -> Snapshot | None:
        """See ``SnapshotStore.snapshot``."""
        return await self._connections.read(get, persistence_id)

    async def of(self, persistence_ids: Collection[str]) -> list[Snapshot]:
        """See ``SnapshotStore.of``."""
        return await self._connections.read(of, persistence_ids)

    async def batch(self, persistence_ids: Sequence[str]) -> tuple[EventBatch, list[bool]]:
        """See ``SnapshotStore.batch``."""
        return await self._connections.read(batch, persistence_ids)

    async def sized(self, persistence_ids: Collection[str]) -> list[tuple[Snapshot, int]]:
        """See ``SnapshotStore.sized``."""
        return await self._connections.read(sized, persistence_ids)

    async def numbers(self, persistence_ids: Collection[str]) -> tuple[list[str], list[int], list[int]]:
        """See ``SnapshotStore.numbers``."""
        return await self._connections.read(numbers, persistence_ids)

    async def beside(self, after: int, through: int, *, lost_after: int | None = None) -> SnapshotsBeside:
        """See ``SnapshotStore.beside``."""
        return await self._connections.read(beside, after, through, lost_after)

    async def kept(self, persistence_id: str) -> list[Snapshot]:
        """See ``SnapshotStore.kept``."""
        return await self._connections.read(kept, persistence_id)

    async def delete(self, persistence_id: str, seq_nr: int) -> None:
        """See ``SnapshotStore.delete``."""
        try:
            await self._connections.write(delete, persistence_id, seq_nr)
        finally:
            self._watermark.clear()

    async def page(
        self,
        after_persistence_id: str,
        *,
        max_rows: int,
        max_bytes: int,
        entity_types: frozenset[str] = frozenset(),
    ) -> list[Snapshot]:
        """See ``SnapshotStore.snapshots``."""
        return await self._connections.read(
            page, after_persistence_id, max_rows=max_rows, max_bytes=max_bytes, entity_types=entity_types
        )

    async def uncovered_after(self, through: int, *, entity_types: frozenset[str] = frozenset()) -> int:
        """See ``SnapshotStore.uncovered_after``."""

        async def look_from(after: int, through: int) -> tuple[int | None, int]:
            return await self._connections.read(look, after, through, entity_types)

        return await self._watermark.find(look_from, through, entity_types)
