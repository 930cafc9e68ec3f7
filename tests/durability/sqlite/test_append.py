"""An append in two parts: small ones are written where their caller runs, and only the sync waits in a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import apsw
import pytest
import trio

from common.core.journal.append import Appended
from common.journal.sqlite import open_sqlite_journal
from common.journal.sqlite.connection import run_inline
from tests.support.builders import START_US, append, appended, ids, local, whole_log
from tests.support.internals import sqlite_file

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CutOff:
    """A runner whose caller is cancelled before the work begins, when told so."""

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None
        self.ran: list[str] = []

    async def __call__(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        if self.scope is not None:
            self.scope.cancel()
        result = await run_inline(fn, *args)
        self.ran.append(fn.__name__)
        return result


async def test_an_append_that_is_cancelled_before_its_commit_is_undone(tmp_path: Path) -> None:
    runner = CutOff()
    async with open_sqlite_journal(
        tmp_path / "journal.db", now_us=lambda: START_US, new_id=ids("id").__next__, runner=runner
    ) as journal:
        assert await appended(journal, local("Sensor|a")) == Appended(1, [1])
        with trio.CancelScope() as runner.scope:
            await append(journal, local("Sensor|a", "Sensor|new"))
        runner.scope = None
        assert len(await whole_log(journal)) == 1
        assert await appended(journal, local("Sensor|a", "Sensor|new")) == Appended(2, [2, 1])


async def test_small_appends_ask_the_thread_for_the_sync_and_large_ones_for_all(tmp_path: Path) -> None:
    runner = CutOff()
    async with open_sqlite_journal(
        tmp_path / "journal.db", now_us=lambda: START_US, new_id=ids("id").__next__, runner=runner
    ) as journal:
        runner.ran.clear()
        await append(journal, local("Sensor|a"))
        await append(journal, local(*["Sensor|a"] * 1_000))
        assert runner.ran == ["_commit", "_append"]
        assert (await whole_log(journal)).seq_nr == list(range(1, 1_002))


async def test_another_writer_keeps_an_append_waiting_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids("id").__next__) as journal:
        sqlite_file(journal).writer.set_busy_timeout(3_600_000)  # who waits here would never be done
        operator = apsw.Connection(str(path))
        operator.execute("BEGIN IMMEDIATE")
        done: list[object] = []

        async def appending() -> None:
            done.append(await appended(journal, local("Sensor|a")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(appending)
            for _ in range(10):
                await trio.sleep(0.005)  # returns only because the loop goes on
            assert done == []
            operator.execute("ROLLBACK")
        assert done == [Appended(1, [1])]


@pytest.mark.parametrize("size", [1, 1_000], ids=["small", "large"])
async def test_a_commit_that_fails_stores_nothing_and_the_next_one_does(tmp_path: Path, size: int) -> None:
    path = tmp_path / "journal.db"
    async with open_sqlite_journal(path, now_us=lambda: START_US, new_id=ids("id").__next__) as journal:
        await append(journal, local("Sensor|a"))

        def refuse() -> bool:
            return True  # SQLite turns the commit into a rollback

        sqlite_file(journal).writer.set_commit_hook(refuse)
        with pytest.raises(Exception, match="journal"):
            await append(journal, local(*["Sensor|a"] * size))
        sqlite_file(journal).writer.set_commit_hook(None)
        assert await appended(journal, local("Sensor|a")) == Appended(2, [2])
