"""A disk without room: at a start, while a service runs, beside a byte cap. What is stored is served all the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from common.core.errors import BackhaulError
from common.core.journal.append import Appended
from common.core.journal.history import common_prefix
from common.journal.sqlite import errors, open_sqlite_journal, run_inline
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.durability.sqlite.disks import Disk, Full, in_use
from tests.support.builders import START_US, append, ids, local, whole_log

MIB = 1024 * 1024

Opening = Callable[..., AbstractAsyncContextManager[Journal]]


def opener(disk: Disk) -> Opening:
    """Opens journals on that disk; every id is given once."""
    new_ids = ids("one")

    def opening(path: Path, max_bytes: int | None = None) -> AbstractAsyncContextManager[Journal]:
        return open_sqlite_journal(
            path,
            now_us=lambda: START_US,
            new_id=new_ids.__next__,
            runner=run_inline,
            vfs=disk.name,
            max_bytes=max_bytes,
        )

    return opening


async def test_appends_are_refused_and_taken_again_when_there_is_room(tmp_path: Path) -> None:
    with in_use(Full()) as disk:
        assert isinstance(disk, Full)
        async with opener(disk)(tmp_path / "journal.db") as journal:
            await append(journal, local("Sensor|a"))
            disk.is_full = True
            for _ in range(3):
                with pytest.raises(BackhaulError, match=r"journal\.disk_full"):
                    await append(journal, local("Sensor|a", "Sensor|b"))
                with pytest.raises(BackhaulError, match=r"journal\.disk_full"):
                    await journal.log.probe(100)
            assert (await journal.log.read(0, max_events=10, max_bytes=10_000)).head == 1
            disk.is_full = False
            await journal.log.probe(100)
            assert await append(journal, local("Sensor|a")) == Appended(2, [2])
            assert await journal.log.entity_head("Sensor|b") is None


@pytest.mark.parametrize(("free", "code"), [(MIB, "journal.full"), (1_000, "journal.disk_full")])
async def test_under_a_cap_the_room_on_the_disk_tells_which_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: str
) -> None:
    with in_use(Full()) as disk:
        assert isinstance(disk, Full)
        async with opener(disk)(tmp_path / "journal.db", max_bytes=2 * MIB) as journal:
            monkeypatch.setattr(errors, "free_bytes", lambda _: free)
            disk.is_full = True
            with pytest.raises(BackhaulError) as caught:
                await append(journal, local("Sensor|a"))
            assert caught.value.code == code


async def test_a_probe_counts_the_room_that_the_refused_request_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_use(Disk()) as disk:
        async with opener(disk)(tmp_path / "journal.db", max_bytes=2 * MIB) as journal:
            await journal.log.probe(100_000)
            with pytest.raises(BackhaulError, match=r"cap .*journal\.full"):
                await journal.log.probe(600_000)
            await journal.log.probe(2 * MIB)  # it will never have any: no reason to call the journal full
            monkeypatch.setattr("common.journal.sqlite.file.free_bytes", lambda _: 200_000)
            with pytest.raises(BackhaulError, match=r"journal\.disk_full"):
                await journal.log.probe(100_000)
            await journal.log.probe(1_000)


async def test_a_start_on_a_full_disk_serves_what_is_stored_and_gets_its_generation_with_the_first_event(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    with in_use(Full()) as disk:
        assert isinstance(disk, Full)
        opening = opener(disk)
        async with opening(path) as journal:
            await append(journal, local("Sensor|a", "Sensor|b"))
            before = journal.log.history
        disk.is_full = True
        for _ in range(3):  # as a supervisor would
            with capture_logs() as lines:
                async with opening(path) as journal:
                    history = journal.log.history
                    assert (history.journal_id, history.head_position) == (before.journal_id, 2)
                    assert history.generations[:-1] == before.generations
                    assert len(await whole_log(journal)) == 2
                    with pytest.raises(BackhaulError, match=r"journal\.disk_full"):
                        await append(journal, local("Sensor|a"))
            assert [line["event"] for line in lines] == ["journal.opened_full"]
        async with opening(path) as journal:
            history = journal.log.history
            disk.is_full = False
            shutil.copytree(tmp_path, tmp_path / "backup")
            await append(journal, local("Sensor|a"))
            assert journal.log.history.generations == history.generations
        async with opening(path) as journal:
            assert journal.log.history.generations[:-1] == history.generations
            mine = journal.log.history
        # The copy that was made before goes another way, and it shows.
        async with opening(tmp_path / "backup" / "journal.db") as journal:
            await append(journal, local("Sensor|a"))
            theirs = journal.log.history
        assert common_prefix(mine.generations, mine.head_position, theirs.generations, theirs.head_position) == 2


async def test_the_reserve_is_given_up_for_a_start_and_made_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    reserve = tmp_path / "journal.db.reserve"
    with in_use(FullButForReserve(reserve)) as disk:
        assert isinstance(disk, FullButForReserve)
        opening = opener(disk)
        async with opening(path) as journal:
            await append(journal, local("Sensor|a", "Sensor|b"))
        assert reserve.stat().st_blocks * 512 >= 128 * 1024
        disk.is_full = True
        with capture_logs() as lines, monkeypatch.context() as patched:
            patched.setattr("common.journal.sqlite.file.free_bytes", lambda _: 100_000)
            async with opening(path) as journal:
                assert not reserve.exists()
                assert await journal.log.trim(TrimLimit(2, 10)) == 2
                generations = journal.log.history.generations
        assert lines == []
        disk.is_full = False
        async with opening(path) as journal:
            assert len(generations) == 2
            assert reserve.exists()


async def test_housekeeping_that_comes_first_stores_the_generation(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with in_use(Full()) as disk:
        assert isinstance(disk, Full)
        opening = opener(disk)
        async with opening(path) as journal:
            await append(journal, local("Sensor|a"))
        disk.is_full = True
        async with opening(path) as journal:
            disk.is_full = False
            await journal.log.forget_append_ids(START_US, 10)
            await append(journal, local("Sensor|a"))
            generations = journal.log.history.generations
        async with opening(path) as journal:
            assert journal.log.history.generations[:-1] == generations


class FullButForReserve(Full):
    """Has room for a little once the reserve file is gone."""

    def __init__(self, reserve: Path) -> None:
        super().__init__()
        self._reserve = reserve

    def about_to(self, what: str) -> None:
        if self._reserve.exists():
            super().about_to(what)


async def test_a_full_disk_does_not_keep_housekeeping_from_making_room(tmp_path: Path) -> None:
    with in_use(FullBeyond()) as disk:
        assert isinstance(disk, FullBeyond)
        async with opener(disk)(tmp_path / "journal.db") as journal:
            for _ in range(5):
                await append(journal, local(*["Sensor|a"] * 200))
            disk.limit = (tmp_path / "journal.db-wal").stat().st_size
            while await journal.log.trim(TrimLimit(1_000, 50)):
                pass
            stats = await journal.log.stats()
            assert stats.first_position == 1_001


class FullBeyond(Disk):
    """The WAL cannot grow beyond ``limit`` bytes."""

    limit: int | None = None

    def about_to_write(self, filename: str, end: int) -> None:
        if self.limit is not None and filename.endswith("-wal") and end > self.limit:
            raise apsw.FullError("no space left on purpose")


@pytest.mark.parametrize("is_capped", [False, True])
def test_a_lack_of_room_is_told_in_our_words_alone(is_capped: bool) -> None:
    message = errors.coded_error(
        apsw.FullError("database or disk is full"), Path("/data/j.db"), is_capped=is_capped
    ).message
    assert message.endswith("j.db")
    assert "Error" not in message
