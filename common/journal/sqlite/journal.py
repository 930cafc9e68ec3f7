"""A journal in one SQLite file: opens it and puts its parts together.

All changes go through the writer, one transaction at a time; reads go through the reader and never wait for a commit
(``connections``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import apsw
import trio

from common.core.journal.history import Generation, History, begin_generation
from common.journal.sqlite.connection import (
    Runner,
    SqliteFile,
    coded_errors,
    open_file,
    select,
    transaction,
)
from common.journal.sqlite.connections import SqliteConnections
from common.journal.sqlite.leases import SqliteLeases
from common.journal.sqlite.log import SqliteLog
from common.journal.sqlite.origins import SqliteOrigins
from common.journal.sqlite.parked import SqliteParked
from common.journal.sqlite.projections import SqliteProjections
from common.journal.sqlite.push_filters import SqlitePushFilters
from common.journal.sqlite.snapshots import SqliteSnapshots
from common.journal.sqlite.subscriptions import SqliteSubscriptions
from common.journal.sqlite.threads import open_storage_threads
from common.journal.stores.journal import Journal


@asynccontextmanager
async def open_sqlite_journal(
    path: str | Path,
    *,
    now_us: Callable[[], int],
    new_id: Callable[[], str],
    runner: Runner | None = None,
    max_bytes: int | None = None,
    vfs: str | None = None,
) -> AsyncIterator[Journal]:
    """Open the file at ``path``, made when missing, and begin a new generation in it.

    ``runner`` is that of ``open_storage_threads`` unless given. ``max_bytes`` caps file and WAL together. ``vfs`` names
    another of SQLite's file layers, for tests of durability.

    Raises:
        BackhaulError: what ``connection.open_file`` raises; nothing of another program's file is changed.
    """
    async with nullcontext(runner) if runner else open_storage_threads() as run:
        file, history = await run(_open, Path(path), now_us, new_id, max_bytes, vfs)
        try:
            yield _compose(SqliteConnections(file, run, history, now_us))
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


def _compose(connections: SqliteConnections) -> Journal:
    return Journal(
        log=SqliteLog(connections),
        origins=SqliteOrigins(connections),
        parked=SqliteParked(connections),
        projections=SqliteProjections(connections),
        leases=SqliteLeases(connections),
        subscriptions=SqliteSubscriptions(connections),
        snapshots=SqliteSnapshots(connections),
        push_filters=SqlitePushFilters(connections),
    )
