"""Every single write and sync fails once: nothing acknowledged is lost, and the error has a code (P1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.journal.append import Appended
from common.journal.sqlite import open_sqlite_journal, run_inline
from tests.durability.sqlite.disks import Disk, FailsOnce, in_use
from tests.support.builders import START_US, append, ids, local, whole_log

APPENDS = 4


async def store_some(path: Path, disk: Disk) -> tuple[dict[str, Appended], set[str]]:
    """Append, each once more when it fails, as a start that fails; answers what was acknowledged, and the codes."""
    acknowledged: dict[str, Appended] = {}
    codes: set[str] = set()
    new_ids = ids()
    while len(acknowledged) < APPENDS:
        try:
            async with open_sqlite_journal(
                path, now_us=lambda: START_US, new_id=new_ids.__next__, runner=run_inline, vfs=disk.name
            ) as journal:
                for number in range(len(acknowledged) + 1, APPENDS + 1):
                    request = local("Sensor|a", f"Sensor|{number}", append_id=f"key-{number}")
                    try:
                        outcome = await append(journal, request)
                    except BackhaulError as error:
                        codes.add(error.code)
                        outcome = await append(journal, request)
                    assert isinstance(outcome, Appended)
                    acknowledged[f"key-{number}"] = outcome
        except BackhaulError as error:
            codes.add(error.code)
    return acknowledged, codes


async def stored(path: Path, disk: Disk) -> EventBatch:
    """What the next process finds."""
    async with open_sqlite_journal(
        path, now_us=lambda: START_US, new_id=ids("next").__next__, runner=run_inline, vfs=disk.name
    ) as journal:
        return await whole_log(journal)


async def test_nothing_acknowledged_is_lost_whichever_write_or_sync_fails(tmp_path: Path) -> None:
    seen: set[str] = set()
    for n in range(1, 1_000):
        path = tmp_path / f"{n}.db"
        with in_use(FailsOnce(n)) as disk:
            assert isinstance(disk, FailsOnce)
            acknowledged, codes = await store_some(path, disk)
        assert codes <= {"journal.io_error"}
        seen |= codes
        with in_use(Disk()) as sound:
            log = await stored(path, sound)
        assert len(log) == 2 * APPENDS
        for number in range(1, APPENDS + 1):
            first = acknowledged[f"key-{number}"].first_position
            assert log.persistence_id[first - 1 : first + 1] == ["Sensor|a", f"Sensor|{number}"]
            assert log.seq_nr[first - 1 : first + 1] == [number, 1] == acknowledged[f"key-{number}"].seq_nr
        if not disk.failed:
            break
    else:
        pytest.fail("the work never ended without a failure")
    assert seen
    assert n > 50, "the disk was hardly used: writes do not go through it"
