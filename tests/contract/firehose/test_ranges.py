"""The log as ranges of projections read it: once for all of them, on every storage, and never of another history."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from random import Random

import pytest
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES, SliceRange, slice_of, slice_ranges
from common.core.filters.selection import EVERYTHING, Selection
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import RangeFeed
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage
from tests.support.builders import SettableClock, ids
from tests.support.firehose import SMALL, Muffled, muffled, running
from tests.support.projections import UNAVAILABLE, log_of, store, until

BLOCKS = FirehoseSettings(block_events=50, poll_s=0.02)


async def to_the_end(feed: RangeFeed, after: int, head: int, max_events: int = 40) -> list[int]:
    """Positions of all that the feed gives up to ``head``."""
    positions: list[int] = []
    with trio.fail_after(20):
        while after < head:
            page = await feed.read(after, max_events=max_events, max_bytes=10_000, selection=EVERYTHING)
            positions += page.events.position
            assert page.through <= page.head
            after = page.through
            await feed.wait_beyond(after, 0.05 if after == page.head else 0)
    return positions


async def wanted(journal: Journal, slices: SliceRange) -> list[int]:
    """Positions of the range's events in the log."""
    log = await log_of(journal)
    rows = zip(log.position, log.persistence_id, strict=True)
    return [position for position, entity in rows if slice_of(entity) in slices]


async def test_eight_ranges_read_the_log_as_often_as_one(journal: Journal) -> None:
    await store(journal, Random(1), 2_000, entities=300)
    reads = []
    for ranges in (slice_ranges(1), slice_ranges(8), 2 * slice_ranges(8)):
        before = journal.log.read_counts.copy()
        async with running(journal, replace(BLOCKS, poll_s=60.0)) as firehose:
            with ExitStack() as opened:
                found: dict[RangeFeed, list[int]] = {}
                feeds = {opened.enter_context(firehose.follow(slices)): slices for slices in ranges}

                async def read(feed: RangeFeed, found: dict[RangeFeed, list[int]] = found) -> None:
                    found[feed] = await to_the_end(feed, 0, 2_000)

                async with trio.open_nursery() as nursery:
                    for feed in feeds:
                        nursery.start_soon(read, feed)
                for feed, slices in feeds.items():
                    assert found[feed] == await wanted(journal, slices)
                    before["log"] += 1  # what the line above read
                assert firehose.report().range_reads <= 2_000 / 50 + 2
                assert firehose.ranges.blocks.bytes == 0
            reads.append((journal.log.read_counts - before)["log"])
    assert max(reads) <= reads[0] + 4, reads


@pytest.mark.parametrize("hears", ["feed and signal", "signal", "nothing"])
async def test_a_range_at_the_end_of_the_log_is_woken_for_its_own_events_only(journal: Journal, hears: str) -> None:
    heard = {"feed and signal": ("feed", "head_signal"), "signal": ("head_signal",), "nothing": ()}[hears]
    await store(journal, Random(1), 30, entities=50)
    async with running(muffled(journal, *heard), SMALL) as firehose:
        with firehose.follow(SliceRange(0, 511)) as low, firehose.follow(SliceRange(512, 1023)) as high:
            await to_the_end(low, 0, 30)
            await to_the_end(high, 0, 30)
            await until(lambda: firehose.is_following and firehose.ring.through == 30)
            await store(journal, Random(2), 1)
            [position] = (await log_of(journal)).position[30:]
            is_low = slice_of((await log_of(journal)).persistence_id[-1]) < 512
            mine, other = (low, high) if is_low else (high, low)
            with trio.fail_after(5):
                await mine.wait_beyond(30, 60.0)
            page = await mine.read(30, max_events=10, max_bytes=1_000, selection=EVERYTHING)
            assert page.events.position == [position]
            with trio.move_on_after(0.1) as waited:
                await other.wait_beyond(30, 60.0)
            assert waited.cancelled_caught
            page = await other.read(30, max_events=10, max_bytes=1_000, selection=EVERYTHING)
            assert (page.events.position, page.through, page.head) == ([], 31, 31)
            assert firehose.report().range_reads <= 3


async def test_what_this_node_commits_is_never_read(journal: Journal) -> None:
    async with running(journal, FirehoseSettings(poll_s=60.0)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await until(lambda: firehose.is_following)
            after, before = 0, journal.log.read_counts.copy()
            for number in range(20):
                await store(journal, Random(number), 3)
                await feed.wait_beyond(after, 5.0)
                page = await feed.read(after, max_events=100, max_bytes=10_000, selection=EVERYTHING)
                assert page.events.position == [after + 1, after + 2, after + 3]
                after = page.through
            assert journal.log.read_counts == before


async def test_a_range_that_does_not_read_holds_up_no_other_and_is_served_later(journal: Journal) -> None:
    await store(journal, Random(1), 1_000, entities=100)
    log = await log_of(journal)
    settings = FirehoseSettings(block_events=50, poll_s=0.02, range_blocks_max_bytes=log.slice(0, 150).byte_size())
    async with running(journal, settings) as firehose:
        first, second = slice_ranges(2)
        with firehose.follow(first) as slow, firehose.follow(second) as quick, firehose.follow(second) as third:
            page = await slow.read(0, max_events=1, max_bytes=10_000, selection=EVERYTHING)
            assert await to_the_end(quick, 0, 1_000) == await wanted(journal, second)
            assert 0 < firehose.ranges.blocks.bytes <= settings.range_blocks_max_bytes
            rest = await to_the_end(slow, page.through, 1_000)
            assert page.events.position + rest == await wanted(journal, first)
            assert await to_the_end(third, 0, 1_000) == await wanted(journal, second)
            assert firehose.ranges.blocks.bytes == 0


async def test_types_that_are_few_are_found_by_their_index_for_all_ranges(journal: Journal) -> None:
    await store(journal, Random(1), 500)
    before = journal.log.read_counts.copy()
    async with running(journal, BLOCKS) as firehose:
        rare = Selection(entity_types=frozenset({"Rare"}))
        with ExitStack() as opened:
            for slices in slice_ranges(4):
                feed, after = opened.enter_context(firehose.follow(slices)), 0
                while after < 500:
                    page = await feed.read(after, max_events=40, max_bytes=10_000, selection=rare)
                    assert not page.events
                    after = page.through
    assert (journal.log.read_counts - before)["selected"] <= 8


async def test_deleted_stretches_are_passed_in_few_reads(journal: Journal) -> None:
    await store(journal, Random(1), 1_000)
    while await journal.log.trim(TrimLimit(990, 200)):
        pass
    async with running(journal, BLOCKS) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            assert await to_the_end(feed, 0, 1_000) == list(range(991, 1_001))
        assert firehose.report().range_reads <= 4


async def test_a_journal_that_cannot_be_reached_is_said_to_those_who_wait_for_it(journal: Journal) -> None:
    await store(journal, Random(1), 100)
    broken = Muffled(journal, "feed", "head_signal")
    broken.fails = UNAVAILABLE
    async with running(broken.journal) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            with pytest.raises(BackhaulError) as raised:
                await to_the_end(feed, 0, 100)
            assert raised.value is UNAVAILABLE
            broken.fails = None
            assert await to_the_end(feed, 0, 100) == list(range(1, 101))


async def test_what_was_read_under_one_history_is_refused_under_another(storage: Storage) -> None:
    """A failover that lost commits: the same positions name other events, and the ring still holds the ones before."""
    async with (
        storage.open() as journal,
        open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=ids("other").__next__) as restored,
    ):
        await store(journal, Random(1), 20)
        await store(restored, Random(2), 30)
        replaced = Muffled(journal, "feed", "head_signal")
        async with running(replaced.journal, FirehoseSettings(poll_s=60.0)) as firehose:
            with firehose.follow(ALL_SLICES) as before:
                await until(lambda: firehose.is_following)
                await store(journal, Random(3), 5)
                await until(lambda: firehose.ring.through == 25)
                replaced.becomes(restored)
                with firehose.follow(ALL_SLICES) as after:  # as a range does that has taken its lease again
                    for position in (20, 22, 25):
                        page = await after.read(position, max_events=100, max_bytes=10_000, selection=EVERYTHING)
                        assert page.events.payload == (await log_of(restored)).payload[position:], position
                    # What the ring still has is not a reason to ask on and on.
                    with trio.move_on_after(0.3) as waiting:
                        await after.wait_beyond(22, 60.0)
                    assert waiting.cancelled_caught
                    replaced.head_signal.put_back(200)
                    await until(lambda: firehose.ring.after == 30)
                    page = await after.read(0, max_events=100, max_bytes=10_000, selection=EVERYTHING)
                    assert page.events.payload == (await log_of(restored)).payload
                    reads = firehose.report().range_reads
                    await before.read(0, max_events=100, max_bytes=10_000, selection=EVERYTHING)
                    assert firehose.report().range_reads == reads, "blocks of the new history are not the old lease's"


async def test_while_all_ranges_are_far_behind_the_ring_is_not_followed(journal: Journal) -> None:
    await store(journal, Random(1), 1_000)
    async with running(journal, replace(BLOCKS, poll_s=60.0)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            page = await feed.read(0, max_events=100, max_bytes=100_000, selection=EVERYTHING)
            await store(journal, Random(2), 10)
            await trio.sleep(0.05)
            assert (firehose.is_following, firehose.report().reads) == (False, 0)
            await to_the_end(feed, page.through, 1_010)
            await until(lambda: firehose.is_following)


async def test_a_ring_that_ranges_do_not_keep_up_with_is_not_read_ahead_of_them(journal: Journal) -> None:
    """Events that other nodes store: what is read for the ring is of use to a range, or is not read."""
    settings = replace(BLOCKS, read_max_events=20, ranges_ring_max_events=40)
    async with running(muffled(journal, "head_signal"), settings) as firehose:
        with firehose.follow(SliceRange(0, 511)) as low, firehose.follow(SliceRange(512, 1023)) as high:
            await low.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await until(lambda: firehose.is_following)
            for seed in range(15):
                await store(journal, Random(seed), 20, entities=50)
            await trio.sleep(0.3)
            assert firehose.report().read_events <= 3 * 20
            # One after the other: what the first has drawn into the ring is gone from there when the second comes.
            assert await to_the_end(low, 0, 300) == await wanted(journal, SliceRange(0, 511))
            assert await to_the_end(high, 0, 300) == await wanted(journal, SliceRange(512, 1023))
            report = firehose.report()
            assert report.read_events + report.range_events <= 300 + 3 * 20


async def test_a_ring_that_is_far_behind_the_log_is_left_to_blocks(journal: Journal) -> None:
    settings = replace(BLOCKS, read_max_events=20)
    async with running(muffled(journal, "head_signal"), settings) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await until(lambda: firehose.is_following)
            await store(journal, Random(1), 9 * settings.block_events)
            await until(lambda: not firehose.is_following)
            positions = await to_the_end(feed, 0, 9 * settings.block_events)
            assert positions == list(range(1, 9 * settings.block_events + 1))
            await until(lambda: firehose.is_following)


async def test_while_the_renewals_of_the_node_see_the_end_of_the_log_it_is_not_read_for_that(journal: Journal) -> None:
    quiet = muffled(journal)
    async with running(quiet, replace(BLOCKS, poll_s=0.2)) as firehose:
        with firehose.follow(ALL_SLICES) as feed:
            await feed.read(0, max_events=1, max_bytes=100, selection=EVERYTHING)
            await until(lambda: firehose.is_following)

            async def renew(task_status: trio.TaskStatus[None]) -> None:
                task_status.started()
                while True:
                    quiet.log.head_signal.looked(quiet.log.head_signal.position)
                    await trio.sleep(0.05)

            async with trio.open_nursery() as nursery:
                await nursery.start(renew)
                await trio.sleep(0.5)
                before = firehose.report().reads
                await trio.sleep(1.5)
                assert firehose.report().reads <= before + 1
                await store(journal, Random(1), 3)
                quiet.log.head_signal.looked(3)
                assert await to_the_end(feed, 0, 3) == [1, 2, 3]
                nursery.cancel_scope.cancel()
            # They have ended, and nobody says that there is more.
            await store(journal, Random(2), 3)
            assert await to_the_end(feed, 3, 6) == [4, 5, 6]
