"""Measuring program: what SQLite takes in through apsw alone, into the journal's own table, and through the journal.

``raw`` inserts ready rows with ``executemany``, one synced transaction a group, and judges nothing. ``journal`` calls
``append_group`` with the same groups: its thread, its judging, its heads.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import trio

from common.core.journal.append import LocalAppend
from common.journal.sqlite import open_sqlite_journal
from common.journal.sqlite.file import open_file
from common.runtime.environment import utc_now_us
from tests.bench.processes import answer
from tests.bench.workload import ENTITIES, events

_INSERT = f"INSERT INTO event VALUES ({','.join('?' * 14)})"


def _rows(first: int, count: int) -> list[tuple[Any, ...]]:
    batch = events("raw", first, count)
    positions = range(first + 1, first + count + 1)
    return [
        (p, p, 0, 0, p % ENTITIES, p % 1024, p, 0, event_type, codec, payload, "", "", "")
        for p, event_type, codec, payload in zip(positions, batch.event_type, batch.codec, batch.payload, strict=True)
    ]


def _raw(path: Path, group: int, seconds: float) -> float:
    file = open_file(path, max_bytes=None, vfs=None, now_us=utc_now_us)
    stored, busy_s = 0, 0.0
    while busy_s < seconds:
        rows = _rows(stored, group)
        began_s = time.perf_counter()
        file.writer.execute("BEGIN IMMEDIATE")
        file.writer.executemany(_INSERT, rows)
        file.writer.execute("COMMIT")
        busy_s += time.perf_counter() - began_s
        stored += group
    file.close()
    return stored / busy_s


async def _journal(path: Path, group: int, seconds: float) -> float:
    stored, busy_s = 0, 0.0
    async with open_sqlite_journal(path, now_us=utc_now_us, new_id=lambda: uuid.uuid4().hex) as journal:
        while busy_s < seconds:
            request = LocalAppend(events("raw", stored, group))
            began_s = time.perf_counter()
            await journal.log.append_group([request])
            busy_s += time.perf_counter() - began_s
            stored += group
    return stored / busy_s


def main() -> None:
    """Arguments as JSON: ``path``, ``kind``, ``group`` (events a transaction), ``seconds``."""
    result = json.loads(sys.argv[1])
    path = Path(result["path"])
    if result["kind"] == "raw":
        rate = _raw(path, result["group"], result["seconds"])
    else:
        rate = trio.run(_journal, path, result["group"], result["seconds"])
    answer("result", rate=rate)


if __name__ == "__main__":
    main()
