"""When the follower looks at the end of the log by itself: renewals of the node's member row do so for it, within bounds.

And what it reads: not what this node has stored itself, if that is worth a read. Nor does it wake for that while only ranges
follow: the commit's task extends the ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import ALL_SLICES
from common.core.filters.predicates import EVERY_ENTITY
from common.core.filters.selection import EVERYTHING
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import RangeFeed
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage
from tests.support.builders import SettableClock, ids
from tests.support.firehose import Muffled, log_of, muffled, running, to_the_tail
from tests.support.projections import store, until

POLL_S = 0.5
LOOK_EVERY_S = 10.0


class Late(Muffled):
    """A journal whose pages take a while on their way."""

    delay_s = 0.0
    on_its_way = 0
    becomes_shorter_by = 0

    async def read(self, after: int, **more: Any) -> LogPage:  # noqa: ANN401
        page = await super().read(after, **more)
        self.on_its_way += 1
        await trio.sleep(self.delay_s)
        self.on_its_way -= 1
        return replace(page, head=page.head - self.becomes_shorter_by)


class FailsOver(Muffled):
    """A journal that is found to be another one by a read of it, as by a session that the read has opened."""

    other: Journal | None = None
    last: EventBatch | None = None
    """What a commit of the log before hands over while that read is on its way."""

    async def read(self, after: int, **more: Any) -> LogPage:  # noqa: ANN401
        if self.other is not None and self.fails is None:
            other, self.other = self.other, None
            if self.last is not None:
                self.feed.give(self.last)
            self.becomes(other)
            self.head_signal.put_back(other.log.history.head_position)
        return await super().read(after, **more)


@asynccontextmanager
async def failed_over(
    journal: Journal, other: Journal, *, lost: int = 0, is_away: bool = False
) -> AsyncIterator[tuple[FailsOver, Firehose]]:
    """A firehose that has just found that the log is the other one; ``is_away``: by the first read after a failure.

    ``lost`` events are stored in the one before while that read is on its way.
    """
    over = FailsOver(journal)
    async with running(over.journal, FirehoseSettings(poll_s=POLL_S)) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, frozenset(), 0) as feed:
            await to_the_tail(feed)
            if is_away:
                over.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
                await until(lambda: not firehose.is_following)
            if lost:
                known = journal.log.history.head_position
                await store(journal, Random(9), lost)
                over.last = (await log_of(journal)).slice(known, known + lost)
            over.other, over.fails = other, None
            await until(lambda: firehose.log_epoch > 1)
            yield over, firehose


@pytest.fixture
async def other() -> AsyncIterator[Journal]:
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=ids("other").__next__) as other:
        yield other


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    async with open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=ids("one").__next__) as journal:
        yield journal


@dataclass
class Node:
    """A firehose that hears of the log's end by renewals alone, and a range that has come to it."""

    journal: Journal
    firehose: Firehose
    feed: RangeFeed

    async def renew(self, every_s: float, times: int, seen: int) -> None:
        """So many renewals, each of which finds the log's end at ``seen``."""
        for _ in range(times):
            await trio.sleep(every_s)
            self.journal.log.head_signal.looked(seen)

    @property
    def reads(self) -> int:
        """How often the follower has looked."""
        return self.firehose.report().reads


@asynccontextmanager
async def at_the_end(journal: Journal) -> AsyncIterator[Node]:
    quiet = muffled(journal)
    async with running(quiet, replace(FirehoseSettings(), poll_s=POLL_S)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await trio.sleep(2 * POLL_S)
            yield Node(quiet, firehose, feed)


async def test_without_renewals_it_looks_at_every_poll(journal: Journal, autojump_clock: MockClock) -> None:
    async with at_the_end(journal) as node:
        before = node.reads
        await trio.sleep(20.5 * POLL_S)
        assert before + 19 <= node.reads <= before + 21


async def test_a_renewal_that_is_a_little_late_is_not_missed(journal: Journal, autojump_clock: MockClock) -> None:
    async with at_the_end(journal) as node:
        await node.renew(1.5 * POLL_S, 2, 0)
        before = node.reads
        await node.renew(1.5 * POLL_S, 10, 0)
        assert node.reads == before


async def test_one_that_does_not_come_is_made_up_for(journal: Journal, autojump_clock: MockClock) -> None:
    async with at_the_end(journal) as node:
        await node.renew(POLL_S, 4, 0)
        before = node.reads
        await store(journal, Random(1), 3)
        await trio.sleep(4.1 * POLL_S)
        assert node.reads > before
        assert (await node.feed.read(0, max_events=9, max_bytes=9_999, selection=EVERYTHING)).events.position == [
            1,
            2,
            3,
        ]


async def test_renewals_that_see_nothing_new_are_not_believed_for_ever(
    journal: Journal, autojump_clock: MockClock
) -> None:
    async with at_the_end(journal) as node:
        await node.renew(POLL_S, 2, 0)
        await store(journal, Random(1), 3)
        before = node.reads
        await node.renew(POLL_S, round(LOOK_EVERY_S / POLL_S) + 4, 0)
        assert before < node.reads <= before + 3
        assert (await node.feed.read(0, max_events=9, max_bytes=9_999, selection=EVERYTHING)).events.position == [
            1,
            2,
            3,
        ]


async def test_what_a_renewal_has_seen_is_read(journal: Journal, autojump_clock: MockClock) -> None:
    async with at_the_end(journal) as node:
        await store(journal, Random(1), 3)
        await node.renew(POLL_S, 1, 3)
        await trio.sleep(POLL_S / 10)
        assert (await node.feed.read(0, max_events=9, max_bytes=9_999, selection=EVERYTHING)).events.position == [
            1,
            2,
            3,
        ]


async def test_a_renewal_that_finds_less_than_is_known_is_no_look(journal: Journal, autojump_clock: MockClock) -> None:
    """After a failover that lost commits: the follower finds out by itself, as early as without renewals."""
    await store(journal, Random(1), 3)
    async with at_the_end(journal) as node:
        await node.renew(POLL_S, 4, 3)
        before = node.reads
        await node.renew(POLL_S, 10, 2)
        assert node.reads > before + 3


@pytest.mark.parametrize(("own", "read"), [(300, 50), (20, 70)])
async def test_it_reads_what_another_node_has_stored_and_takes_its_own_from_memory(
    own: int, read: int, autojump_clock: MockClock
) -> None:
    database, clock = MemoryDatabase(), SettableClock()
    async with (
        open_memory_journal(database, now_us=clock, new_id=ids("one").__next__) as one,
        open_memory_journal(database, now_us=clock, new_id=ids("two").__next__) as two,
        running(muffled(one, "feed"), FirehoseSettings(poll_s=POLL_S)) as firehose,
    ):
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await trio.sleep(2 * POLL_S)
            await store(two, Random(1), 50)
            await store(one, Random(2), own)
            await trio.sleep(2 * POLL_S)
            report = firehose.report()
            assert (report.ring_through, report.read_events) == (50 + own, read)
            page = await feed.read(0, max_events=1_000, max_bytes=1 << 20, selection=EVERYTHING)
            assert page.events.position == list(range(1, 51 + own))


class Steps(trio.abc.Instrument):
    """Counts how often tasks ran, by the last word of their names."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task.name.rpartition(".firehose.")[2]] += 1


async def test_while_only_ranges_follow_a_commit_extends_the_ring_in_its_own_turn(
    journal: Journal, autojump_clock: MockClock
) -> None:
    """Neither the follower nor the reader of blocks runs for it; nor is the log read because they heard nothing."""
    async with running(journal, FirehoseSettings(poll_s=POLL_S)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await trio.sleep(POLL_S / 10)
            behind = list[int]()
            with journal.log.feed.listen(lambda events: behind.append(events.position[-1] - firehose.ring.through)):
                steps, reads = Steps(), firehose.report().reads
                trio.lowlevel.add_instrument(steps)
                for number in range(40):
                    await store(journal, Random(number), 2)
                    await feed.wait_beyond(2 * number, 5.0)
                    page = await feed.read(2 * number, max_events=9, max_bytes=9_999, selection=EVERYTHING)
                    assert page.events.position == [2 * number + 1, 2 * number + 2]
                    await trio.sleep(POLL_S / 10)
                trio.lowlevel.remove_instrument(steps)
            assert behind == [0] * 40
            assert firehose.report().reads == reads
            assert steps.of["follower.Follower.run"] <= 4 + 1  # it looks around once a poll
            assert steps.of["range_reader.RangeReader.run"] == 0


async def test_what_consumers_follow_is_no_work_for_the_commit(journal: Journal, autojump_clock: MockClock) -> None:
    async with running(journal, FirehoseSettings(poll_s=POLL_S)) as firehose:
        with (
            firehose.follow(ALL_SLICES) as feed,
            firehose.subscribe("one", EVERY_ENTITY, frozenset(), 0) as consumer,
        ):
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await trio.sleep(POLL_S / 10)
            behind = list[int]()
            with journal.log.feed.listen(lambda events: behind.append(events.position[-1] - firehose.ring.through)):
                await store(journal, Random(1), 3)
            assert behind == [3]
            found = await consumer.next(max_events=9, max_bytes=9_999, at_most_s=1.0)
            assert found is not None
            assert found.events.position == [1, 2, 3]


async def test_a_page_on_its_way_while_a_commit_extends_the_ring_tells_of_no_other_log(
    journal: Journal, autojump_clock: MockClock
) -> None:
    """It ends where the log did when it was asked for; one that ends before what the ring had then is another log's."""
    late = Late(journal, "feed", "head_signal")
    async with running(late.journal, FirehoseSettings(poll_s=POLL_S)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await store(journal, Random(1), 5)
            await trio.sleep(POLL_S / 10)
            late.delay_s = POLL_S
            await until(lambda: late.on_its_way > 0)
            await store(journal, Random(2), 5)
            assert firehose.ring.through == 10
            await trio.sleep(2 * POLL_S)
            assert (firehose.log_epoch, firehose.ring.after, firehose.ring.through) == (1, 0, 10)
            late.becomes_shorter_by = 6
            await trio.sleep(3 * POLL_S)
            assert firehose.log_epoch > 1


async def test_a_range_reads_what_is_at_hand_without_a_turn(journal: Journal) -> None:
    async with running(journal, FirehoseSettings(poll_s=60.0)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await until(lambda: firehose.is_following)
            await store(journal, Random(1), 5)
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            page = await feed.read(0, max_events=9, max_bytes=9_999, selection=EVERYTHING)
            trio.lowlevel.remove_instrument(steps)
            assert page.events.position == [1, 2, 3, 4, 5]
            assert not steps.of
            with trio.CancelScope() as scope:
                scope.cancel()
                await feed.read(5, max_events=9, max_bytes=9_999, selection=EVERYTHING)
            assert scope.cancelled_caught


@pytest.mark.parametrize("is_away", [False, True])
async def test_what_was_committed_to_the_log_before_while_it_was_found_to_be_another_is_not_taken(
    journal: Journal, other: Journal, autojump_clock: MockClock, *, is_away: bool
) -> None:
    """Its positions go on where the other log ends, but its events are none of that one's."""
    await store(journal, Random(1), 30)
    await store(other, Random(2), 33)
    async with failed_over(journal, other, lost=5, is_away=is_away) as (_, firehose):
        await trio.sleep(3 * POLL_S)
        assert (firehose.ring.through, firehose.log_epoch) == (33, 2)


@pytest.mark.parametrize("is_away", [False, True])
async def test_what_is_stored_after_a_failover_that_lost_commits_comes_at_once(
    journal: Journal, other: Journal, autojump_clock: MockClock, *, is_away: bool
) -> None:
    """Its positions had been heard of before, in the log that was lost."""
    await store(journal, Random(1), 30)
    await store(other, Random(2), 12)
    async with failed_over(journal, other, is_away=is_away) as (over, firehose):
        with firehose.subscribe("y", EVERY_ENTITY, frozenset(), 12) as feed:
            await to_the_tail(feed)
            await store(other, Random(3), 3)
            over.feed.give((await log_of(other)).slice(12, 15))
            over.head_signal.raise_to(15)
            began_s = trio.current_time()
            found = await feed.next(max_events=9, max_bytes=9_999, at_most_s=60.0)
            assert found is not None
            assert (found.events.position, trio.current_time()) == ([13, 14, 15], began_s)
