"""How far apart the groups of a busy service begin (decision 34)."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError
from common.journal.group_commit import GroupCommit
from common.journal.stores.log import LogStore
from tests.component.journal.slow_journal import COMMIT_S, SlowJournal
from tests.support.builders import local


@pytest.fixture
def journal() -> SlowJournal:
    return SlowJournal()


class TestModeration:
    """In a busy service groups begin a spacing apart; in one at rest, and for who waits for nobody, at once."""

    SPACING_S = 10 * COMMIT_S

    async def paced(self, journal: SlowJournal, load: float, count: int = 60) -> list[int]:
        """Sizes of groups of requests that come two in the time of a commit, whatever became of the last one."""
        commit = GroupCommit(cast(LogStore, journal), spacing_max_s=self.SPACING_S, load=lambda: load)
        async with trio.open_nursery() as running:
            running.start_soon(commit.run)
            async with trio.open_nursery() as callers:
                for number in range(count):
                    callers.start_soon(commit.append, local(f"A|{number}"))
                    await trio.sleep(COMMIT_S / 2)
            running.cancel_scope.cancel()
        assert [name for group in journal.names() for name in group] == [f"A|{number}" for number in range(count)]
        return list(map(len, journal.groups))

    async def test_load_makes_larger_groups(self, journal: SlowJournal, autojump_clock: trio.testing.MockClock) -> None:
        at_rest = await self.paced(journal, 0.0)
        journal.groups.clear()
        busy = await self.paced(journal, 1.0)
        assert max(at_rest) <= 3
        assert len(busy) < len(at_rest) / 2

    async def test_a_lone_caller_of_a_busy_service_waits_for_nobody(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = GroupCommit(cast(LogStore, journal), spacing_max_s=self.SPACING_S, load=lambda: 1.0)
        nursery.start_soon(commit.run)
        begun_s = trio.current_time()
        for number in range(10):
            await commit.append(local(f"A|{number}"))
        assert trio.current_time() - begun_s == pytest.approx(10 * COMMIT_S)

    async def test_a_group_ends_its_wait_when_all_are_there(
        self, journal: SlowJournal, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Three who ask again after each answer, one of them a little later: nobody else is to come."""
        commit = GroupCommit(cast(LogStore, journal), spacing_max_s=self.SPACING_S, load=lambda: 1.0)
        nursery.start_soon(commit.run)
        late_s = COMMIT_S / 10

        async def caller(name: str, pause_s: float) -> None:
            for _ in range(10):
                await commit.append(local(name))
                await trio.sleep(pause_s)

        begun_s = trio.current_time()
        async with trio.open_nursery() as callers:
            for name, pause_s in (("A|1", 0.0), ("A|2", 0.0), ("A|3", late_s)):
                callers.start_soon(caller, name, pause_s)
        assert list(map(len, journal.groups))[2:10] == [3] * 8
        assert trio.current_time() - begun_s < 10 * (COMMIT_S + late_s) + 3 * self.SPACING_S

    async def test_the_end_of_the_service_ends_the_wait(
        self, journal: SlowJournal, autojump_clock: trio.testing.MockClock
    ) -> None:
        commit = GroupCommit(cast(LogStore, journal), spacing_max_s=self.SPACING_S, load=lambda: 1.0)
        codes: list[str] = []

        async def caller(name: str) -> None:
            try:
                await commit.append(local(name))
            except BackhaulError as error:
                codes.append(error.code)

        async with trio.open_nursery() as callers:
            async with trio.open_nursery() as running:
                running.start_soon(commit.run)
                for number in range(3):
                    callers.start_soon(caller, f"A|{number}")
                    await trio.testing.wait_all_tasks_blocked()
                await trio.sleep(2.5 * COMMIT_S)
                assert commit.queued == 2  # they wait, since three were in flight together
                running.cancel_scope.cancel()
        assert codes == ["journal.closing"] * 2
