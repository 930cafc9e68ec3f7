"""A power cut keeps what was synced, and every acknowledged append was (P1).

The disk is a model: of each file it keeps the bytes of the last sync, and a deletion whose directory was not synced is
undone. The same cut with less care taken must lose events, or the model proves nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from common.core.errors import BackhaulError
from common.journal.sqlite import connection, open_sqlite_journal, run_inline
from tests.durability.sqlite.disks import LossyDisk, in_use
from tests.support.builders import START_US, appended, ids, local, seq_nrs, whole_log

APPENDS = 50
ALL = [("Sensor|a", number) for number in range(1, APPENDS + 1)]


async def surviving(tmp_path: Path) -> list[tuple[str, int]]:
    """What a journal holds after a power cut that follows 50 acknowledged appends to a new file."""
    new_ids = ids()
    with in_use(LossyDisk()) as disk:
        assert isinstance(disk, LossyDisk)
        async with open_sqlite_journal(
            tmp_path / "journal.db", now_us=lambda: START_US, new_id=new_ids.__next__, runner=run_inline, vfs=disk.name
        ) as journal:
            for _ in range(APPENDS):
                await appended(journal, local("Sensor|a"))
            disk.after_power_cut(tmp_path / "after")
    async with open_sqlite_journal(
        tmp_path / "after" / "journal.db", now_us=lambda: START_US, new_id=new_ids.__next__, runner=run_inline
    ) as journal:
        return seq_nrs(await whole_log(journal))


async def test_acknowledged_appends_survive_a_power_cut(tmp_path: Path) -> None:
    assert await surviving(tmp_path) == ALL


async def test_with_less_care_the_same_power_cut_loses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SYNCHRONOUS", "NORMAL")
    try:
        left = await surviving(tmp_path)
    except BackhaulError:
        left = []
    assert left != ALL
