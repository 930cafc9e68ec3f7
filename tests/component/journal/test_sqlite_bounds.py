"""What a page of the journal's file costs does not grow with what lies before it, and what is much is not written in the loop."""

from __future__ import annotations

import threading
from pathlib import Path

import apsw
import pytest

from common.core.events.batch import new_events
from common.core.events.stated_range import StatedRange
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot
from common.journal.sqlite import open_sqlite_journal
from common.journal.sqlite.append import OpenAppend
from common.journal.sqlite.connection import run_inline
from common.journal.sqlite.log import deleted_entities
from common.journal.sqlite.snapshots import beside
from common.journal.stores.log import TrimLimit
from tests.support.builders import START_US, Origin, ids

ENTITIES = 3_000
PAGE = 20


def steps_of(reader: apsw.Connection, after: int, of: str) -> int:
    """Steps of SQLite's machine, in tens, for a page of what is deleted behind ``after``."""
    count = 0

    def stepped() -> bool:
        nonlocal count
        count += 1
        return False

    reader.set_progress_handler(stepped, 10)
    if of == "beside":
        assert len(beside(reader, after, after + PAGE, None).persistence_id) == PAGE
        assert len(beside(reader, after, after + PAGE, 0).persistence_id) == PAGE
    else:
        assert len(deleted_entities(reader, after, after + PAGE, None)) == PAGE
    reader.set_progress_handler(None)
    return count


async def test_a_page_of_what_is_deleted_costs_the_same_far_behind_the_first(tmp_path: Path) -> None:
    path, names = tmp_path / "journal.db", [f"S|{number}" for number in range(ENTITIES)]
    async with open_sqlite_journal(
        path, now_us=lambda: START_US, new_id=ids("j").__next__, runner=run_inline
    ) as journal:
        for _ in range(2):
            events = new_events(names, ["Read"] * ENTITIES, [b""] * ENTITIES)
            await journal.log.append_group([LocalAppend(events)])
        await journal.snapshots.put([NewSnapshot(name, 2, "State", "json", b"") for name in names])
        while await journal.log.trim(TrimLimit(ENTITIES, 1_000, "dropped")):
            pass
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    for of in ("beside", "deleted entities"):
        near, far = (steps_of(reader, after, of) for after in (0, ENTITIES - PAGE))
        assert far < 2 * near, f"{of}: a lower bound that is not the page's was taken for the index's range"
    reader.close()


async def test_many_stated_ranges_are_not_written_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    begin = OpenAppend.__init__

    def begin_append(self: OpenAppend, *arguments: object) -> None:
        threads.append(threading.get_ident())
        begin(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenAppend, "__init__", begin_append)
    async with open_sqlite_journal(tmp_path / "cloud.db", now_us=lambda: START_US, new_id=ids("c").__next__) as journal:
        origin = Origin()
        await origin.dial(journal)
        for count in (1, ENTITIES):
            ranges = [StatedRange(f"S|{count}-{number}", 1, 2, "dropped") for number in range(count)]
            await journal.log.append_group([origin.batch(ranges=ranges, withheld=1)])
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()
