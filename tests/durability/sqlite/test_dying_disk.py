"""A medium that fails for a while, or holds something else afterwards: the file is opened anew, never called broken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from common.core.errors import BackhaulError
from common.core.journal.append import Appended
from common.journal.sqlite import open_sqlite_journal, run_inline
from tests.durability.sqlite.disks import Dying, in_use
from tests.support.builders import START_US, append, ids, local, whole_log


def replace(path: Path, other: Path) -> None:
    """What an operator might do behind a service's back."""
    for companion in ("-wal", "-shm"):
        Path(f"{path}{companion}").unlink()
    os.replace(other, path)


async def test_a_medium_that_comes_back_is_used_again_without_a_restart(tmp_path: Path) -> None:
    with in_use(Dying()) as disk:
        assert isinstance(disk, Dying)
        async with open_sqlite_journal(
            tmp_path / "journal.db", now_us=lambda: START_US, new_id=ids().__next__, runner=run_inline, vfs=disk.name
        ) as journal:
            assert await append(journal, local("Sensor|a", append_id="one")) == Appended(1, [1])
            for _ in range(2):
                disk.is_dead = True
                for _ in range(3):
                    with pytest.raises(BackhaulError, match=r"journal\.io_error"):
                        await append(journal, local("Sensor|b"))
                    with pytest.raises(BackhaulError, match=r"journal\.io_error"):
                        await journal.log.read(0, max_events=10, max_bytes=10_000)
                    with pytest.raises(BackhaulError, match=r"journal\.io_error"):
                        await journal.log.probe(0)
                disk.is_dead = False
                await journal.log.probe(0)
            assert (await append(journal, local("Sensor|a", append_id="one"))) == Appended(1, [1], repeated=True)
            assert await append(journal, local("Sensor|a")) == Appended(2, [2])
            assert (await whole_log(journal)).seq_nr == [1, 2]


async def test_a_damaged_page_is_read_again_and_then_called_broken(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids().__next__) as journal:
        for _ in range(20):
            await append(journal, local(*["Sensor|a"] * 100))
    content = path.read_bytes()
    path.write_bytes(content[: -8 * 4096] + b"\xff" * 8 * 4096)  # the last events
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids("next").__next__) as journal:
        with pytest.raises(BackhaulError, match=r"journal\.io_error"):
            await whole_log(journal)
        for _ in range(2):
            with pytest.raises(BackhaulError, match=r"journal\.broken"):
                await whole_log(journal)


@pytest.mark.parametrize("change", ["older", "another"])
async def test_what_has_taken_the_files_place_is_not_gone_on_with(tmp_path: Path, change: str) -> None:
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    new_ids = ids()
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=new_ids.__next__) as journal:
        await append(journal, local("Sensor|a"))
    if change == "older":
        shutil.copy(path, other)
    else:
        async with open_sqlite_journal(other, now_us=lambda: START_US, new_id=new_ids.__next__) as journal:
            for _ in range(5):
                await append(journal, local("Sensor|a"))
    with in_use(Dying()) as disk:
        assert isinstance(disk, Dying)
        async with open_sqlite_journal(
            path, now_us=lambda: START_US, new_id=new_ids.__next__, runner=run_inline, vfs=disk.name
        ) as journal:
            await append(journal, local("Sensor|a"))
            disk.is_dead = True
            with pytest.raises(BackhaulError, match=r"journal\.io_error"):
                await append(journal, local("Sensor|a"))
            disk.is_dead = False
            replace(path, other)
            for _ in range(2):
                with pytest.raises(BackhaulError, match="ended at 2"):
                    await append(journal, local("Sensor|a"))
                with pytest.raises(BackhaulError, match="ended at 2"):
                    await journal.log.stats()


async def test_another_file_system_at_the_same_place_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with in_use(Dying()) as disk:
        assert isinstance(disk, Dying)
        async with open_sqlite_journal(
            path, now_us=lambda: START_US, new_id=ids().__next__, runner=run_inline, vfs=disk.name
        ) as journal:
            await append(journal, local("Sensor|a"))
            disk.is_dead = True
            with pytest.raises(BackhaulError, match=r"journal\.io_error"):
                await append(journal, local("Sensor|a"))
            disk.is_dead = False
            put_another_lock(path)
            with pytest.raises(BackhaulError, match="another file system"):
                await append(journal, local("Sensor|a"))


def put_another_lock(path: Path) -> None:
    """What is found at the lock's path after a mount: a file that this process does not hold."""
    another = path.with_name("another")
    another.touch()
    os.replace(another, f"{path}.lock")


async def test_what_a_killed_process_left_in_the_wal_is_in_the_file_before_anything_is_built_on_it(
    tmp_path: Path,
) -> None:
    async with open_sqlite_journal(tmp_path / "j.db", now_us=lambda: START_US, new_id=ids().__next__) as journal:
        await append(journal, local("Sensor|a", "Sensor|b"))
        left = copied(tmp_path, tmp_path / "left")
    new_ids = ids("next")
    async with open_sqlite_journal(left / "j.db", now_us=lambda: START_US, new_id=new_ids.__next__):
        (left / "j.db-wal").unlink()
        alone = copied(left, tmp_path / "alone")
        async with open_sqlite_journal(alone / "j.db", now_us=lambda: START_US, new_id=new_ids.__next__) as journal:
            assert len(await whole_log(journal)) == 2


def copied(folder: Path, to: Path) -> Path:
    """The journal's files as a killed process leaves them."""
    to.mkdir()
    for name in ("j.db", "j.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, to)
    return to
