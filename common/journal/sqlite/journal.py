"""A journal in one SQLite file: opens it and puts its parts together.

All changes go through the writer, one transaction at a time; reads go through the reader and never wait for a commit
(``connections``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.journal.history import Generation, History, begin_generation
from common.journal.sqlite.connection import Runner, select, transaction
from common.journal.sqlite.connections import SqliteConnections, store_generations
from common.journal.sqlite.file import SqliteFile, drop_reserve_file, keep_reserve_file, open_file
from common.journal.sqlite.fleet.store import SqliteFleet
from common.journal.sqlite.leases import SqliteAges, SqliteLeases, SqliteMembers
from common.journal.sqlite.log import SqliteLog
from common.journal.sqlite.origins import SqliteIdentities, SqliteOrigins
from common.journal.sqlite.parked import SqliteParked
from common.journal.sqlite.projections import SqliteProjections
from common.journal.sqlite.push_filters import SqlitePushFilters
from common.journal.sqlite.snapshots import SqliteSnapshots
from common.journal.sqlite.subscriptions import SqliteSubscriptions
from common.journal.sqlite.threads import open_storage_threads
from common.journal.stores.journal import Journal

_log = structlog.get_logger()


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
        BackhaulError: what ``file.open_file`` raises; nothing of another program's file is changed.
    """
    async with nullcontext(runner) if runner else open_storage_threads() as run:
        file, history, is_stored = await run(_open, Path(path), now_us, new_id, max_bytes, vfs)
        if not is_stored:
            _log.warning("journal.opened_full", head=history.head_position)
        try:
            yield _compose(SqliteConnections(file, run, history, now_us, is_stored=is_stored))
        finally:
            with trio.CancelScope(shield=True):  # bounded: closing checkpoints at most a WAL
                await run(file.close)


def _open(
    path: Path, now_us: Callable[[], int], new_id: Callable[[], str], max_bytes: int | None, vfs: str | None
) -> tuple[SqliteFile, History, bool]:
    """The file, its history with a new generation, and whether that is stored: a full disk may not take it."""
    file = open_file(path, max_bytes=max_bytes, vfs=vfs, now_us=now_us)
    try:
        history, is_stored = _begin_generation(file, new_id)
    except BaseException:
        file.close()
        raise
    file.may_reread = True
    if is_stored:
        keep_reserve_file(path)
    return file, history, is_stored


def _begin_generation(file: SqliteFile, new_id: Callable[[], str]) -> tuple[History, bool]:
    with file.coded_errors():
        row = file.writer.execute("SELECT journal_id, head_position FROM journal").get
        stored = select(file.writer, "SELECT generation_id, first_position FROM generation ORDER BY first_position")
    another_id = new_id()
    journal_id, head = row or (another_id, 0)
    history = History(journal_id, begin_generation([Generation(*one) for one in stored], new_id(), head), head)

    def store() -> None:
        with file.coded_errors(), file.reserve(), transaction(file.writer):
            file.writer.execute("INSERT OR IGNORE INTO journal VALUES (1, ?, 0, 0, 0)", (journal_id,))
            store_generations(file.writer, history.generations, head)
            # One process has the file, so the last holder of a lease is gone.
            file.writer.execute("UPDATE projection SET lease_until_us = 0")
            file.writer.execute("UPDATE lease SET until_us = 0")

    try:
        try:
            store()
        except BackhaulError as error:
            if error.code != "journal.disk_full" or not drop_reserve_file(file.path):
                raise
            store()
    except BackhaulError as error:
        # What was never stored is no place that anybody can go on from; a log without events has none anyhow.
        if error.code != "journal.disk_full" or row is None:
            raise
        return history, False
    return history, True


def _compose(connections: SqliteConnections) -> Journal:
    return Journal(
        log=SqliteLog(connections),
        origins=SqliteOrigins(connections),
        parked=SqliteParked(connections),
        projections=SqliteProjections(connections),
        leases=SqliteLeases(connections),
        ages=SqliteAges(connections),
        members=SqliteMembers(connections),
        subscriptions=SqliteSubscriptions(connections),
        snapshots=SqliteSnapshots(connections),
        push_filters=SqlitePushFilters(connections),
        identities=SqliteIdentities(connections),
        fleet=SqliteFleet(connections),
    )
