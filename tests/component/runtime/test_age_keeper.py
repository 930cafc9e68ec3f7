"""The task that counts running time: by the monotonic clock, one node at a time, and never more than has passed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.core.journal.ages import AGE_LEASE
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.runtime.age_keeper import AgeKeeper
from tests.support.builders import append, ids, local

DAY_S = 86_400.0


class Wall:
    """A wall clock that starts in 1970 and may be set."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> int:
        return round((trio.current_time() + self.ahead_s) * 1e6)


@asynccontextmanager
async def opened(database: MemoryDatabase, wall: Wall) -> AsyncIterator[Journal]:
    new_id = ids()
    async with open_memory_journal(database, now_us=wall, new_id=lambda: next(new_id)) as journal:
        yield journal


def keeper(journal: Journal, wall: Wall, owner: str = "node-1") -> AgeKeeper:
    return AgeKeeper(journal, [DAY_S], wall, owner=owner)


async def age_s(journal: Journal) -> float:
    return (await journal.ages.load()).age_us / 1e6


async def run_for(seconds: float, *tasks: AgeKeeper) -> None:
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task.run)


async def test_a_stepping_wall_clock_is_told_and_ages_nothing(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    with capture_logs() as logs:
        async with opened(database, wall) as journal:
            await append(journal, local("A|1", append_id="k"))
            for step_s in (50 * 365 * DAY_S, -365 * DAY_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keeper(journal, wall).run)
                    await trio.sleep(40)
                    wall.ahead_s += step_s
                    await trio.sleep(40)
                    nursery.cancel_scope.cancel()
            age = await journal.ages.load()
            assert 130 <= age.age_us / 1e6 <= 160
            assert (age.older_than(161), age.older_than(120)) == (0, 1)
    stepped = [line["by_s"] for line in logs if line["event"] == "clock.stepped"]
    assert stepped == pytest.approx([50 * 365 * DAY_S, -365 * DAY_S], abs=0.2)


async def test_a_clock_that_is_corrected_slowly_is_no_step(autojump_clock: MockClock) -> None:
    wall = Wall()
    with capture_logs() as logs:
        async with opened(MemoryDatabase(), wall) as journal, trio.open_nursery() as nursery:
            nursery.start_soon(keeper(journal, wall).run)
            for _ in range(100):
                await trio.sleep(5)
                wall.ahead_s += 0.5
            nursery.cancel_scope.cancel()
    assert [line for line in logs if line["event"] == "clock.stepped"] == []


async def test_time_switched_off_does_not_count(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    for _ in range(2):
        async with opened(database, wall) as journal:
            await run_for(100, keeper(journal, wall))
        await trio.sleep(10 * DAY_S)
    async with opened(database, wall) as journal:
        assert 170 <= await age_s(journal) <= 200


async def test_two_nodes_count_once_and_the_other_goes_on_when_one_dies(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    async with opened(database, wall) as journal:
        await run_for(100, keeper(journal, wall, "a"), keeper(journal, wall, "b"))
        counted_s = await age_s(journal)
        assert 80 <= counted_s <= 100
        await run_for(200, keeper(journal, wall, "c"))
        assert counted_s + 100 <= await age_s(journal) <= counted_s + 200


async def test_what_another_node_counted_is_not_counted_again(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    async with opened(database, wall) as journal:
        paused, other = keeper(journal, wall, "a"), keeper(journal, wall, "b")
        await paused.advance()
        await trio.sleep(1_000)
        await other.advance()
        await trio.sleep(10)
        await other.advance()
        await paused.advance()
        await paused.advance()
        assert await age_s(journal) == pytest.approx(10, abs=0.1)


async def test_an_advance_of_unknown_outcome_is_not_repeated(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    async with opened(database, wall) as journal:
        task, advance = keeper(journal, wall), journal.ages.advance

        async def lost(lease: Lease, elapsed_us: int, head: int, lease_s: float) -> None:
            await advance(lease, elapsed_us, head, lease_s)
            raise BackhaulError("journal.unavailable", "the answer was lost")

        with pytest.MonkeyPatch.context() as patched, capture_logs() as logs:
            patched.setattr(journal.ages, "advance", lost)
            await run_for(40, task)
        assert "age.failed" in {line["event"] for line in logs}
        assert await age_s(journal) <= 40
        await run_for(40, task)
        assert 20 <= await age_s(journal) <= 80


async def test_the_lease_outlasts_some_missed_advances(autojump_clock: MockClock) -> None:
    wall, database = Wall(), MemoryDatabase()
    async with opened(database, wall) as journal:
        await keeper(journal, wall).advance()
        await trio.sleep(45)
        assert await journal.leases.acquire(AGE_LEASE, "node-2", 60) is None
        await trio.sleep(20)
        assert await journal.leases.acquire(AGE_LEASE, "node-2", 60) is not None
