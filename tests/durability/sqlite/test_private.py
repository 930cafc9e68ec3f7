"""A journal's files are its owner's alone, and are not made where a link of somebody else's leads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.core.errors import ConfigurationError
from common.core.events.batch import new_events
from common.core.journal.append import LocalAppend
from common.journal.sqlite import open_sqlite_journal


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def append_to(path: Path) -> dict[str, int]:
    """The modes of a journal's files while it is open."""
    async with open_sqlite_journal(path, now_us=lambda: 1, new_id=lambda: "a" * 32) as journal:
        await journal.log.append_group([LocalAppend(new_events(["Sensor|a"], ["Read"], [b"1"]))])
        return {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir() if file.is_file()}


async def test_every_file_has_mode_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    modes = await append_to(tmp_path / "j.db")
    assert modes == dict.fromkeys(("j.db", "j.db-wal", "j.db-shm", "j.db.lock", "j.db.reserve"), 0o600)


async def test_a_mode_that_an_operator_has_set_stays(tmp_path: Path) -> None:
    await append_to(tmp_path / "j.db")
    (tmp_path / "j.db").chmod(0o640)
    assert (await append_to(tmp_path / "j.db"))["j.db"] == 0o640


@pytest.mark.parametrize("name", ["j.db", "j.db.lock"])
async def test_no_file_is_made_through_a_link(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError) as caught:
        await append_to(folder / "j.db")
    assert caught.value.code == "journal.not_writable"
    assert not (tmp_path / "elsewhere").exists()


async def test_a_journal_that_is_there_may_be_reached_through_a_link(tmp_path: Path) -> None:
    await append_to(tmp_path / "j.db")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "j.db").symlink_to(tmp_path / "j.db")
    await append_to(folder / "j.db")
