"""What ranges ask as they begin: one read for all that begin together, and what was read ahead is never out of date."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionLease
from common.projection.range_start import RangeStart, SharedRead
from common.projection.skips import skip
from common.projection.tally import TALLY
from tests.support.projections import staged_journal, store

KEY = TALLY.name, ALL_SLICES


class Reads:
    """Numbers its reads; each waits until it is let through."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = trio.Event()
        self.error: BackhaulError | None = None

    async def read(self) -> int:
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_questions_of_one_moment_share_a_read_and_one_that_comes_later_gets_the_next() -> None:
    reads, answers = Reads(), list[int]()
    shared = SharedRead(reads.read)

    async def ask() -> None:
        answers.append(await shared.ask())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        for _ in range(5):
            nursery.start_soon(ask)  # the read has begun: what is stored since, it may not have seen
        await wait_all_tasks_blocked()
        assert reads.begun == 1
        reads.gate.set()
    assert sorted(answers) == [1] * 5 + [2] * 5


async def test_a_question_that_is_withdrawn_leaves_the_others_an_answer() -> None:
    reads, answers = Reads(), list[int]()
    shared = SharedRead(reads.read)

    async def ask() -> None:
        answers.append(await shared.ask())

    async with trio.open_nursery() as nursery:
        withdrawn = trio.CancelScope()

        async def give_up() -> None:
            with withdrawn:
                await shared.ask()

        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        withdrawn.cancel()
        await wait_all_tasks_blocked()
        reads.gate.set()
    assert answers == [2]


async def test_a_read_that_fails_fails_for_all_that_it_was_for() -> None:
    reads, seen = Reads(), list[str]()
    reads.error = BackhaulError("journal.unavailable", "away", hint="")
    shared = SharedRead(reads.read)

    async def ask() -> None:
        with pytest.raises(BackhaulError) as raised:
            await shared.ask()
        seen.append(raised.value.code)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        reads.gate.set()
    assert seen == ["journal.unavailable"] * 3
    assert reads.begun == 1


async def begun(journal: Journal) -> RangeStart:
    start = RangeStart(journal)
    await start.make_tables(TALLY)
    await journal.projections.declare(TALLY.name, [ALL_SLICES])
    return start


async def test_what_was_read_ahead_serves_the_epoch_that_follows_and_no_other(autojump_clock: MockClock) -> None:
    journal = staged_journal()
    start = await begun(journal)
    await start.read_ahead({KEY: 7})
    stats, asked = journal.log.stats, list[int]()

    async def counted() -> object:
        asked.append(1)
        return await stats()

    journal.log.stats = counted  # type: ignore[method-assign,assignment]
    await start.read(ProjectionLease(*KEY, 8, 0))
    assert not asked
    await start.read(ProjectionLease(*KEY, 8, 0))  # it was used once
    assert len(asked) == 1
    await start.read_ahead({KEY: 8})
    await start.read(ProjectionLease(*KEY, 10, 0))
    assert len(asked) == 3


async def test_an_operators_decision_that_came_after_is_read(autojump_clock: MockClock) -> None:
    """A decision takes the range from its owner, so the epoch in which it comes is another one."""
    journal = staged_journal()
    start = await begun(journal)
    await store(journal, Random(1), 3)
    await journal.projections.take_all("n1/1", [KEY], 60)
    [row] = await journal.projections.rows()
    await start.read_ahead({KEY: row.epoch})
    await skip(journal, TALLY.name, 2)
    await journal.projections.take_all("n2/2", [KEY], 60)
    [row] = await journal.projections.rows()
    point = await start.read(ProjectionLease(*KEY, row.epoch, row.position))
    assert list(point.decided[TALLY.name]) == [2]
