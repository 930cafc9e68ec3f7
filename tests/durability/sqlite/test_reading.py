"""Reading pages of a file's log: in few steps, wherever it has holes and however large its events are."""

from __future__ import annotations

from pathlib import Path

import apsw

from common.core.events.batch import EVENT_OVERHEAD_BYTES, new_events
from common.core.journal.append import LocalAppend
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.support.builders import START_US, append, ids, local
from tests.support.internals import sqlite_file

KIB = 1024


async def _read(journal: Journal, after: int, max_bytes: int) -> tuple[list[int], int, int]:
    """Positions and end of a page, and how many statements it took."""
    statements: list[str] = []
    reader = sqlite_file(journal).reader
    reader.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    page = await journal.log.read(after, max_events=2_000, max_bytes=max_bytes)
    reader.trace_v2(0, None)
    return page.events.position, page.through, len(statements)


async def test_a_page_of_large_events_behind_a_long_hole_takes_few_steps(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids("id").__next__) as journal:
        for _ in range(5):
            await append(journal, local(*["Sensor|a"] * 1_000))
        await journal.log.trim(TrimLimit(5_000, 5_000))
        sizes = [900 * KIB, 10, 10] + [600 * KIB] * 20
        request = LocalAppend(new_events(["Sensor|a"] * len(sizes), ["happened"] * len(sizes), list(map(bytes, sizes))))
        await append(journal, request)

        for max_bytes, wanted in [(1, 1), (KIB * KIB, 3), (4 * KIB * KIB, 8), (100 * KIB * KIB, len(sizes))]:
            positions, through, statements = await _read(journal, 0, max_bytes)
            assert positions == list(range(5_001, 5_001 + wanted))
            assert through == positions[-1]
            weight = sum(sizes[:wanted]) + wanted * EVENT_OVERHEAD_BYTES
            assert statements <= 10 + 2 * (wanted // 500 + weight // (512 * KIB)), max_bytes
