"""Databases as earlier versions wrote them, each committed once: what they hold is there after they are opened.

``journal.v6.db`` and ``journal.v7.postgres.sql`` were filled by the same calls; their leases were rows of ``projection``.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from common import border
from common.core.events.ids import SliceRange
from common.core.journal.history import Offset
from common.journal.postgres import open_postgres_journal
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import lease_name
from examples.support.postgres import Databases
from tests.support import paths
from tests.support.builders import SettableClock, ids, seq_nrs, whole_log

CENTURY_S = 3.0e9  # as long as the leases in them last


@asynccontextmanager
async def opened(storage: str, directory: Path, postgres: Databases) -> AsyncIterator[Journal]:
    """A journal over a copy of the old database."""
    if storage == "sqlite":
        path = directory / "journal.db"
        shutil.copy(paths.GOLDEN / "journal.v6.db", path)
        async with open_sqlite_journal(path, now_us=SettableClock(), new_id=ids("now").__next__) as journal:
            yield journal
        return
    with postgres.fresh() as url:
        async with border.open_loop():
            await border.call_asyncio(_load, url, (paths.GOLDEN / "journal.v7.postgres.sql").read_text())
            opening = open_postgres_journal(url, now_us=SettableClock(), new_id=ids("now").__next__, notify=False)
            async with opening as journal:
                yield journal


async def _load(url: str, dump: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(dump)
    finally:
        await connection.close()


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_an_old_database_is_read_and_its_leases_are_still_held(
    storage: str, tmp_path: Path, postgres: Databases
) -> None:
    async with opened(storage, tmp_path, postgres) as journal:
        assert seq_nrs(await whole_log(journal)) == [("Sensor|a", 1), ("Sensor|b", 1), ("Door|1", 1), ("Pump|1", 1)]
        assert [(row.origin_id, row.code, row.event.seq_nr) for row in await journal.parked.rows()] == [
            ("edge-1", "parked.gap", 4)
        ]
        [origin] = await journal.origins.rows()
        assert (origin.origin_id, origin.session, origin.stored.position) == ("edge-1", 1, 2)
        assert await journal.log.load_cursor("push") == Offset("cloud", "g", 2, 2, "Sensor|b", 1)
        snapshot = await journal.snapshots.get("Sensor|a")
        assert snapshot is not None
        assert snapshot.seq_nr == 1
        assert [(asked.pattern, asked.version) for asked in await journal.push_filters.requested()] == [("edge-*", 1)]
        [orders] = await journal.subscriptions.rows()
        assert (orders.name, orders.revision, orders.received, orders.requested.version) == ("orders", 1, 2, 1)
        assert [row.id for row in await journal.subscriptions.inbox("orders", 0, max_rows=9, max_bytes=10**6)] == [1, 2]
        assert await journal.projections.query("SELECT name, n FROM tally") == [("x", 3)]
        rows = await journal.projections.rows()
        assert [(row.name, row.slices, row.position, row.epoch, row.owner, row.paused) for row in rows] == [
            ("tally", SliceRange(0, 511), 3, 2, "node-1", True),
            ("tally", SliceRange(512, 1023), 0, 2, "node-2", True),
        ]
        leases = await journal.leases.rows()
        assert [(row.name, row.owner, row.epoch) for row in leases] == [
            ("retention", "", 2),
            ("subscription:gone", "node-2", 2),
            ("subscription:orders", "node-1", 1),
        ]
        if storage == "postgres":  # a file has one process at a time: its leases end when the next one opens it
            assert await journal.leases.acquire(lease_name("orders"), "node-2", CENTURY_S * 2) is None
        renewed = await journal.leases.acquire(lease_name("orders"), "node-1", CENTURY_S)
        assert renewed is not None
        assert renewed.epoch == 1
