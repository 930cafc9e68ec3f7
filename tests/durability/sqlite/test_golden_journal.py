"""A journal file as the first version wrote it, committed once and never changed: every later version must read it."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

from common.core.events.batch import new_events, predecessor_tags, split_metadata, split_tags
from common.core.filters.selection import Selection
from common.core.journal.append import Appended, LocalAppend
from common.core.journal.history import Offset
from common.journal.sqlite import open_sqlite_journal
from tests.support import paths

GOLDEN = paths.GOLDEN / "journal.v1.db"


async def test_the_first_versions_file_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(GOLDEN, path)
    clock, ids = count(1_800_000_000_000_000), (f"now-{number}" for number in count(1))
    async with open_sqlite_journal(path, now_us=clock.__next__, new_id=ids.__next__) as journal:
        assert journal.log.history.journal_id == "golden-1"
        assert [entry.first_position for entry in journal.log.history.generations] == [1, 3, 5]
        log = (await journal.log.read(0, max_events=100, max_bytes=10**6)).events
        assert log.position == [2, 3, 4]
        assert log.persistence_id == ["Türsensor|edge-1/日本", "Sensor|edge-1/temp1", "Türsensor|edge-1/日本"]
        assert log.seq_nr == [1, 2, 2]
        assert log.payload[0] == bytes(range(256))
        assert split_tags(log.tags[0]) == ("t:site/1", "door")
        assert split_metadata(log.metadata[1]) == {"trace": "abc"}
        # The indexes of later versions know what was stored before them.
        assert [predecessor_tags(*tags) for tags in zip(log.tags, log.prev_tags, strict=True)] == [
            log.tags[0],
            log.tags[1],
            log.tags[0],
        ]
        for selection, positions in (
            (Selection(tags=frozenset({"door"})), [2, 4]),
            (Selection(tag_prefixes=frozenset({"t:"})), [2, 4]),
            (Selection(frozenset({"Sensor"})), [3]),
            (Selection(persistence_ids=frozenset({"Türsensor|edge-1/日本"})), [2, 4]),
        ):
            page = await journal.log.read(0, max_events=100, max_bytes=10**6, selection=selection)
            assert page.events.position == positions
        assert await journal.log.load_cursor("push") == Offset("cloud", "g", 1, 2, "Sensor|edge-1/temp1", 1)
        head = await journal.log.entity_head("Sensor|edge-1/temp1")
        assert head is not None
        assert (head.seq_nr, head.deleted_to, head.deleted_reason) == (2, 1, "trimmed")
        more = new_events(["Sensor|edge-1/temp1"] * 2, ["Read"] * 2, [b"1", b"2"])
        repeat = LocalAppend(new_events(["A|a"], ["Read"], [b"1"]), {}, "key-1", b"digest")
        stored, repeated = await journal.log.append_group([LocalAppend(more), repeat])
        assert stored == Appended(5, [3, 4])
        assert repeated == Appended(3, [2, 2], repeated=True)
