"""Events set aside: list and show them, judge them again, give one up. Runs in the storage's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EVENT_COLUMNS, Envelope, batch_of_row, concat, split_metadata, split_tags
from common.core.events.stated_range import StatedRange
from common.core.journal.admission import EntityHead, ParkedNumbers, admit_parked, discard_parked, link_tags
from common.core.journal.append import NOT_ALLOWED
from common.core.journal.ownership import MayWrite, Transfer, owner_for_retry, transfer_head, unknown_origin
from common.journal.sqlite.append import store_events
from common.journal.sqlite.connection import head_position, select
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.entities import EntityRows
from common.journal.sqlite.origins import Origins, stored_ranges
from common.journal.stores.parked import ParkedRow

P = ParamSpec("P")
T = TypeVar("T")

_COLUMNS = f"id, origin_id, code, parked_us, {', '.join(EVENT_COLUMNS)}"


def _row(values: Sequence[object]) -> ParkedRow:
    row_id, origin_id, code, parked_us, *event = values
    named = dict(zip(EVENT_COLUMNS, event, strict=True))
    named["tags"] = split_tags(str(named["tags"]))
    named["metadata"] = split_metadata(str(named["metadata"]))
    return ParkedRow(row_id, origin_id, code, parked_us, Envelope(**named))  # type: ignore[arg-type]


def parked(reader: apsw.Connection, origin_id: str | None, after_id: int, max_rows: int) -> list[ParkedRow]:
    """See ``LogStore.parked``."""
    of_origin = "" if origin_id is None else " AND origin_id = ?"
    args = (after_id, max_rows) if origin_id is None else (after_id, origin_id, max_rows)
    rows = select(reader, f"SELECT {_COLUMNS} FROM parked WHERE id > ?{of_origin} ORDER BY id LIMIT ?", args)
    return list(map(_row, rows))


def parked_row(reader: apsw.Connection, row_id: int) -> ParkedRow | None:
    """See ``LogStore.parked_row``."""
    values = reader.execute(f"SELECT {_COLUMNS} FROM parked WHERE id = ?", (row_id,)).get
    return _row(values) if values else None


def retry(
    writer: apsw.Connection,
    entities: EntityRows,
    persistence_id: str,
    accept_gap: bool,
    may_write: MayWrite | None,
    now_us: int,
) -> tuple[int, str]:
    """See ``ParkedStore.retry``; the caller holds the transaction."""
    heads = entities.heads([persistence_id])
    head = heads.get(persistence_id)
    rows = _rows_of(writer, persistence_id)
    owner = owner_for_retry(head, [values[2] for values in rows], may_write)
    if owner is None:
        return 0, NOT_ALLOWED if rows else ""
    if head is None:
        branch = _branch_of(writer, owner)
        head = heads[persistence_id] = EntityHead(persistence_id, owner=owner, branch=branch)
    stored, left = _admit(writer, entities, head, rows, accept_gap=accept_gap, now_us=now_us)
    return stored, left or ("" if stored or not rows else rows[0][3])


def transfer(
    writer: apsw.Connection, entities: EntityRows, persistence_id: str, to: str, accept_gap: bool, now_us: int
) -> Transfer:
    """See ``ParkedStore.transfer``; the caller holds the transaction."""
    branch = _branch_of(writer, to) if to else 0
    heads = entities.heads([persistence_id])
    head = heads.get(persistence_id)
    old_owner = head.owner if head else None
    if head is None:
        head = heads[persistence_id] = EntityHead(persistence_id, owner=to, branch=branch)
    of_new = [(of, kept.stated) for of, kept in stored_ranges(writer, persistence_id) if kept.origin_id == to]
    old_branch = head.branch
    gone = transfer_head(head, to, branch, of_new)
    entities.write([persistence_id])
    writer.execute("UPDATE entity SET owner = ? WHERE persistence_id = ?", (to, persistence_id))
    if gone:
        Origins(writer, now_us).keep_ranges(old_owner or "", old_branch, [gone])
    rows = _rows_of(writer, persistence_id)
    return Transfer(old_owner, *_admit(writer, entities, head, rows, accept_gap=accept_gap, now_us=now_us))


def names(reader: apsw.Connection, prefix: str, after: str, max_rows: int) -> list[str]:
    """See ``ParkedStore.names``."""
    found = select(
        reader,
        "SELECT persistence_id FROM entity WHERE persistence_id >= ?1 AND persistence_id > ?2"
        " AND substr(persistence_id, 1, length(?1)) = ?1"
        " UNION SELECT persistence_id FROM parked WHERE persistence_id > ?2"
        " AND substr(persistence_id, 1, length(?1)) = ?1 ORDER BY 1 LIMIT ?3",
        (prefix, after, max_rows),
    )
    return [name for (name,) in found]


def _rows_of(writer: apsw.Connection, persistence_id: str) -> list[Any]:
    return select(
        writer, f"SELECT branch, {_COLUMNS} FROM parked WHERE persistence_id = ? ORDER BY id", (persistence_id,)
    )


def _branch_of(writer: apsw.Connection, origin_id: str) -> int:
    branch = writer.execute("SELECT branch FROM origin WHERE origin_id = ?", (origin_id,)).get
    if branch is None:
        raise unknown_origin(origin_id)
    return int(branch)


def _admit(
    writer: apsw.Connection,
    entities: EntityRows,
    head: EntityHead,
    rows: Sequence[Any],
    *,
    accept_gap: bool,
    now_us: int,
) -> tuple[int, str]:
    own = {values[1]: values for values in rows if values[2] == head.owner}
    if not own:
        return 0, ""
    events = {row_id: batch_of_row(values[5:]) for row_id, values in own.items()}
    numbers = [
        ParkedNumbers(row_id, values[0], events[row_id].seq_nr[0], events[row_id].prev_seq_nr[0])
        for row_id, values in own.items()
    ]
    entities.write([head.persistence_id])  # events name it by its number
    admission = admit_parked(head, numbers, _ranges_of(writer, head), accept_gap=accept_gap)
    accepted = concat(events[row_id] for row_id in admission.accepted)
    if accepted:
        accepted = replace(accepted, seq_nr=admission.seq_nr, origin_seq_nr=accepted.seq_nr)
        accepted.prev_tags = link_tags(accepted, {head.persistence_id: head})
        store_events(writer, entities, accepted, now_us)
        writer.executemany("DELETE FROM parked WHERE id = ?", [(row_id,) for row_id in admission.accepted])
    entities.write([head.persistence_id])
    Origins(writer, now_us).keep_ranges(head.owner, head.branch, admission.skipped)
    return len(admission.accepted), admission.left


def discard(writer: apsw.Connection, entities: EntityRows, row_id: int, now_us: int) -> bool:
    """See ``LogStore.discard_parked``; the caller holds the transaction."""
    row = writer.execute(
        "SELECT origin_id, persistence_id, branch, seq_nr, prev_seq_nr FROM parked WHERE id = ?", (row_id,)
    ).get
    if row is None:
        return False
    origin_id, persistence_id, branch, seq_nr, prev_seq_nr = row
    first = writer.execute(
        "SELECT min(id) FROM parked WHERE persistence_id = ? AND origin_id = ?", (persistence_id, origin_id)
    ).get
    if first != row_id:
        raise BackhaulError(
            "parked.not_first",
            f"row {row_id} is not the first parked event of {persistence_id}",
            hint=f"discard or retry row {first} first",
            kind=ErrorKind.CONFLICT,
        )
    head = entities.heads([persistence_id]).get(persistence_id)
    gone = StatedRange(persistence_id, seq_nr, seq_nr, "discarded")
    if head and head.owner == origin_id:
        gone = discard_parked(head, ParkedNumbers(row_id, branch, seq_nr, prev_seq_nr), _ranges_of(writer, head))
        entities.write([persistence_id])
    writer.execute("DELETE FROM parked WHERE id = ?", (row_id,))
    Origins(writer, now_us).keep_ranges(origin_id, branch, [gone])
    return True


def _ranges_of(writer: apsw.Connection, head: EntityHead) -> list[tuple[int, StatedRange]]:
    """What the entity's owner stated, each with its branch, oldest first."""
    of_entity = stored_ranges(writer, head.persistence_id)
    return [(branch, kept.stated) for branch, kept in of_entity if kept.origin_id == head.owner]


class SqliteParked:
    """``ParkedStore`` over an open file."""

    def __init__(self, connections: SqliteConnections) -> None:
        self._connections = connections

    async def rows(self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000) -> list[ParkedRow]:
        """See ``LogStore.parked``."""
        return await self._connections.read(parked, origin_id, after_id, max_rows)

    async def row(self, row_id: int) -> ParkedRow | None:
        """See ``LogStore.parked_row``."""
        return await self._connections.read(parked_row, row_id)

    async def retry(
        self, persistence_id: str, *, accept_gap: bool, may_write: MayWrite | None = None
    ) -> tuple[int, str]:
        """See ``ParkedStore.retry``."""
        return await self._write_heads(retry, persistence_id, accept_gap, may_write, self._connections.now_us())

    async def transfer(self, persistence_id: str, to: str, *, accept_gap: bool) -> Transfer:
        """See ``ParkedStore.transfer``."""
        return await self._write_heads(transfer, persistence_id, to, accept_gap, self._connections.now_us())

    async def names(self, prefix: str, *, after: str = "", max_rows: int = 1_000) -> list[str]:
        """See ``ParkedStore.names``."""
        return await self._connections.read(names, prefix, after, max_rows)

    async def discard(self, row_id: int) -> bool:
        """See ``LogStore.discard_parked``."""
        return await self._write_heads(discard, row_id, self._connections.now_us())

    async def _write_heads(
        self, fn: Callable[Concatenate[apsw.Connection, EntityRows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``SqliteConnections.write``, for an operator's command that changes entity heads and may add events."""

        def work(writer: apsw.Connection) -> tuple[T, int]:
            self._connections.entities.forget_all()
            result = fn(writer, EntityRows(writer), *args, **kwargs)
            return result, head_position(writer)

        result, head = await self._connections.write(work)
        self._connections.head_signal.raise_to(head)
        return result
