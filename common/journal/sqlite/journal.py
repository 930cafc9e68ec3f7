"""``Journal`` over one SQLite file: takes turns on its two connections and runs each piece of work through a runner.

What is done is in the modules beside this one, who may do it when in ``turns``. All changes go through the writer, one
transaction at a time; reads go through the reader and never wait for a commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import trio

from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES, SliceRange
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import EVERYTHING, Selection
from common.core.journal.admission import EntityHead
from common.core.journal.append import AppendOutcome, AppendRequest
from common.core.journal.history import Generation, History, Offset, OriginState, ResumeDecision, begin_generation
from common.core.journal.slice_ranges import RangeOffset
from common.journal.sqlite import log, origins, parked, projections
from common.journal.sqlite import ranges as range_changes
from common.journal.sqlite.append import OpenAppend, append_group
from common.journal.sqlite.connection import (
    Runner,
    SqliteFile,
    begin_at_once,
    coded_errors,
    open_file,
    select,
    transaction,
)
from common.journal.sqlite.entities import EntityRows, entity_head
from common.journal.sqlite.handler_transaction import HandlerTransaction
from common.journal.sqlite.push_filters import SqlitePushFilters
from common.journal.sqlite.statements import run_query
from common.journal.sqlite.threads import open_storage_threads
from common.journal.stores.journal import (
    JournalStats,
    LogPage,
    ParkedRow,
    ProjectionLease,
    ProjectionRow,
    Statement,
    StoredRange,
    Tables,
    TrimLimit,
)

P = ParamSpec("P")
T = TypeVar("T")


# What is written without a thread: some hundred microseconds of work on pages that are mostly in memory.
_HERE_MAX_EVENTS = 128
_HERE_MAX_BYTES = 128 * 1024


@asynccontextmanager
async def open_sqlite_journal(
    path: str | Path,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    runner: Runner | None = None,
    max_bytes: int | None = None,
    vfs: str | None = None,
) -> AsyncIterator[SqliteJournal]:
    """Open the file at ``path``, made when missing, and begin a new generation in it.

    ``runner`` is that of ``open_storage_threads`` unless given. ``max_bytes`` caps file and WAL together. ``vfs`` names
    another of SQLite's file layers, for tests of durability.

    Raises:
        BackhaulError: what ``connection.open_file`` raises; nothing of another program's file is changed.
    """
    async with nullcontext(runner) if runner else open_storage_threads() as run:
        file, history = await run(_open, Path(path), now_us, new_id, max_bytes, vfs)
        try:
            yield SqliteJournal(file, run, history, now_us)
        finally:
            with trio.CancelScope(shield=True):  # bounded: closing checkpoints at most a WAL
                await run(file.close)


def _open(
    path: Path, now_us: Callable[[], int], new_id: Callable[[], str], max_bytes: int | None, vfs: str | None
) -> tuple[SqliteFile, History]:
    file = open_file(path, max_bytes=max_bytes, vfs=vfs, now_us=now_us)
    try:
        with coded_errors(path), file.reserve(), transaction(file.writer):
            return file, _begin_generation(file.writer, new_id)
    except BaseException:
        file.close()
        raise


def _begin_generation(writer: apsw.Connection, new_id: Callable[[], str]) -> History:
    writer.execute("INSERT OR IGNORE INTO journal VALUES (1, ?, 0, 0, 0)", (new_id(),))
    journal_id, head = writer.execute("SELECT journal_id, head_position FROM journal").get
    stored = select(writer, "SELECT generation_id, first_position FROM generation ORDER BY first_position")
    generations = begin_generation([Generation(*row) for row in stored], new_id(), head)
    writer.execute(
        "DELETE FROM generation WHERE first_position NOT BETWEEN ? AND ?", (generations[0].first_position, head)
    )
    writer.execute("INSERT INTO generation VALUES (?, ?)", (head + 1, generations[-1].id))
    return History(journal_id, generations, head)


class SqliteJournal(SqlitePushFilters):
    """``common.journal.stores.journal.Journal`` over an open file; made by ``open_sqlite_journal``."""

    # -- the log -----------------------------------------------------------------------------------------------------
    async def append_group(self, requests: Sequence[AppendRequest]) -> list[AppendOutcome]:
        """See ``Journal.append_group``."""

        async with self._writer_lock:
            append = self._write_here(requests)
            if append is None:
                append = await self._run(self._append, requests)
            else:
                try:
                    await self._run(self._commit, append)
                except BaseException:
                    append.undo()  # also when it was cancelled before it began
                    raise
        self.feed.give(append.stored)
        self.head_signal.raise_to(append.head)
        return append.outcomes

    def _write_here(self, requests: Sequence[AppendRequest]) -> OpenAppend | None:
        """Do all but the sync at once, if it is little: that takes less than asking a thread to do it."""
        events = sum(len(request.events) for request in requests)
        if events > _HERE_MAX_EVENTS or sum(request.events.byte_size() for request in requests) > _HERE_MAX_BYTES:
            return None
        with coded_errors(self._file.path):
            if not begin_at_once(self._file.writer):
                return None
            return OpenAppend(self._file.writer, self._entities, requests, self._now_us())

    def _append(self, requests: Sequence[AppendRequest]) -> OpenAppend:
        with coded_errors(self._file.path):
            return append_group(self._file.writer, self._entities, requests, self._now_us())

    def _commit(self, append: OpenAppend) -> None:
        with coded_errors(self._file.path):
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
        """See ``Journal.read``. A condition that leaves nothing of a stretch makes it look at the next one."""

        async def look(after: int) -> LogPage:
            self.read_counts["log" if selection.is_all else "selected"] += 1
            run = self._read if selection.is_all else self._search
            return await run(
                log.look,
                self._names,
                after=after,
                through=through,
                max_events=max_events,
                max_bytes=max_bytes,
                slices=slices,
                selection=selection,
            )

        page = await look(after)
        while not page.events and page.through < (page.head if through is None else min(through, page.head)):
            page = await look(page.through)
        return page

    async def read_entity(
        self, persistence_id: str, from_seq_nr: int, to_seq_nr: int, *, max_events: int
    ) -> EventBatch:
        """See ``Journal.read_entity``."""
        self.read_counts["entity"] += 1
        return await self._read(
            log.read_entity,
            self._names,
            persistence_id,
            from_seq_nr=from_seq_nr,
            to_seq_nr=to_seq_nr,
            max_events=max_events,
        )

    async def read_entities(self, known: Mapping[str, int], *, each_max: int) -> EventBatch:
        """See ``Journal.read_entities``."""
        return await self._read(log.read_entities, self._names, known, each_max=each_max)

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        """See ``Journal.entity_head``."""
        return await self._read(entity_head, persistence_id)

    async def stats(self) -> JournalStats:
        """See ``Journal.stats``."""
        return await self._read(lambda _: log.stats(self._file))

    async def deleted_ranges(self, after: int, through: int, *, max_rows: int | None = None) -> list[StatedRange]:
        """See ``Journal.deleted_ranges``."""
        return await self._read(log.deleted_ranges, after, through, max_rows)

    async def trim(self, limit: TrimLimit) -> int:
        """See ``Journal.trim``."""
        return await self._write(log.trim, limit, self._now_us())

    async def event_bytes(self, after: int, through: int) -> int:
        """See ``Journal.event_bytes``."""
        return await self._read(log.event_bytes, after, through)

    async def forget_append_ids(self, stored_before_us: int, max_rows: int) -> int:
        """See ``Journal.forget_append_ids``."""
        return await self._write(log.forget_append_ids, stored_before_us, max_rows)

    # -- origins -----------------------------------------------------------------------------------------------------
    async def open_session(self, origin_id: str, instance: str, history: History) -> ResumeDecision:
        """See ``Journal.open_session``."""
        return await self._write(origins.open_session, origin_id, instance, history, self._now_us())

    async def origins(self) -> list[OriginState]:
        """See ``Journal.origins``."""
        return await self._read(origins.origins)

    async def forget_superseded(self, origin_id: str) -> bool:
        """See ``Journal.forget_superseded``."""
        return await self._write(origins.forget_superseded, origin_id)

    async def stored_ranges(self, persistence_id: str) -> list[StoredRange]:
        """See ``Journal.stored_ranges``."""
        return [kept for _, kept in await self._read(origins.stored_ranges, persistence_id)]

    # -- parked events -----------------------------------------------------------------------------------------------
    async def parked(
        self, *, origin_id: str | None = None, after_id: int = 0, max_rows: int = 1_000
    ) -> list[ParkedRow]:
        """See ``Journal.parked``."""
        return await self._read(parked.parked, origin_id, after_id, max_rows)

    async def parked_row(self, row_id: int) -> ParkedRow | None:
        """See ``Journal.parked_row``."""
        return await self._read(parked.parked_row, row_id)

    async def retry_parked(self, persistence_id: str, *, accept_gap: bool) -> tuple[int, str]:
        """See ``Journal.retry_parked``."""
        return await self._write_heads(parked.retry, persistence_id, accept_gap, self._now_us())

    async def discard_parked(self, row_id: int) -> bool:
        """See ``Journal.discard_parked``."""
        return await self._write_heads(parked.discard, row_id, self._now_us())

    async def _write_heads(
        self, fn: Callable[Concatenate[apsw.Connection, EntityRows, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``_write``, for an operator's command that changes entity heads and may add events."""

        def work(writer: apsw.Connection) -> tuple[T, int]:
            self._entities.forget_all()
            result = fn(writer, EntityRows(writer), *args, **kwargs)
            return result, log.head_position(writer)

        result, head = await self._write(work)
        self.head_signal.raise_to(head)
        return result

    # -- cursors -----------------------------------------------------------------------------------------------------
    async def load_cursor(self, name: str) -> Offset | None:
        """See ``Journal.load_cursor``."""
        return await self._read(origins.load_cursor, name)

    async def save_cursor(self, name: str, offset: Offset) -> None:
        """See ``Journal.save_cursor``."""
        await self._write(origins.save_cursor, name, offset)

    # -- projections -------------------------------------------------------------------------------------------------
    async def migrate(self, name: str, steps: Sequence[Sequence[str]]) -> None:
        """See ``ProjectionStore.migrate``."""
        await self._write(projections.migrate, name, steps)

    async def acquire(self, name: str, slices: SliceRange, owner: str, lease_s: float) -> ProjectionLease | None:
        """See ``ProjectionStore.acquire``."""
        return await self._write(projections.acquire, name, slices, owner, lease_s=lease_s, now_us=self._now_us())

    async def release(self, lease: ProjectionLease) -> None:
        """See ``ProjectionStore.release``."""
        await self._write(projections.release, lease)

    async def commit(
        self, lease: ProjectionLease, position: int, statements: Sequence[Statement], lease_s: float
    ) -> ProjectionLease:
        """See ``ProjectionStore.commit``."""
        return await self._write(
            projections.commit, lease, position, statements, lease_s=lease_s, now_us=self._now_us()
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
        in_transaction = HandlerTransaction(self._file)

        def begin() -> ProjectionLease:
            return in_transaction.begin(
                lambda writer: projections.move(writer, lease, position, lease_s=lease_s, now_us=now_us)
            )

        async with self._writer_lock:
            now_us = self._now_us()
            moved = await self._run(begin)
            try:
                await work(in_transaction.tables)
            except BaseException:
                with trio.CancelScope(shield=True):  # bounded: what runs is interrupted
                    await self._run(in_transaction.roll_back)
                raise
            with trio.CancelScope(shield=True):
                await self._run(in_transaction.commit, statements)
        return moved

    async def intervene(self, name: str, statements: Sequence[Statement], *, restart: bool = False) -> int:
        """See ``ProjectionStore.intervene``."""
        return await self._write(range_changes.intervene, name, statements, restart=restart)

    async def declare(self, name: str, ranges: Sequence[SliceRange]) -> list[SliceRange]:
        """See ``ProjectionStore.declare``."""
        return await self._write(range_changes.declare, name, ranges, self._now_us())

    async def reshape(self, name: str, ranges: Sequence[SliceRange]) -> list[RangeOffset]:
        """See ``ProjectionStore.reshape``."""
        return await self._write(range_changes.reshape, name, ranges, self._now_us())

    async def forget(self, name: str, statements: Sequence[Statement]) -> int:
        """See ``ProjectionStore.forget``."""
        return await self._write(range_changes.forget, name, statements, self._now_us())

    async def rows(self) -> list[ProjectionRow]:
        """See ``ProjectionStore.rows``."""
        return await self._read(projections.rows, self._now_us())

    async def set_paused(self, name: str, paused: bool) -> int:
        """See ``ProjectionStore.set_paused``."""
        return await self._write(projections.set_paused, name, paused)

    async def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See ``ProjectionStore.query``."""
        return await self._read(run_query, sql, args)
