"""The firehose when subscribers are cancelled, and when the journal is away, broken or another one."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import ALL_SLICES
from common.core.filters.predicates import EVERY_ENTITY
from common.core.filters.selection import EVERYTHING
from common.core.journal.place_digest import place_digest
from common.firehose.firehose import Firehose
from common.journal.feeds import Feed
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage
from tests.contract.journals import Storage
from tests.support.builders import SettableClock, ids
from tests.support.firehose import (
    ALL,
    KINDS,
    NEXT,
    Muffled,
    Subscriber,
    log_of,
    running,
    store,
    to_the_tail,
)
from tests.support.growing_log import Consumer


async def test_cancelling_a_subscriber_at_any_moment_leaves_nothing_behind(journal: Journal) -> None:
    chance = Random(11)
    await store(journal, chance, 100)
    async with running(journal) as firehose:
        for attempt in range(60):
            predicate, entity_types = KINDS[attempt % len(KINDS)]
            after = chance.randrange(0, 100)
            with trio.move_on_after(chance.random() * 0.01):
                if attempt % 2:
                    opened = firehose.subscribe("x", predicate, entity_types, after)
                else:
                    opened = firehose.scan("x", predicate, entity_types, after, lambda: 500)
                with opened as feed:
                    while True:
                        await feed.next(**NEXT, at_most_s=0.005)
            if attempt % 5 == 0:
                await store(journal, chance, 3)
        await trio.sleep(0.05)
        report = firehose.report()
        assert (report.subscribers, report.members, report.waiting) == (0, 0, 0)
        assert _nothing_is_kept(firehose)


def _nothing_is_kept(firehose: Firehose) -> bool:
    kept = (firehose._feeds, firehose.fan_out._views, firehose.catching_up_waiters, firehose.deadlines._due)
    return not any(kept)


async def test_a_cancelled_step_has_handed_over_all_or_nothing(journal: Journal) -> None:
    chance = Random(5)
    await store(journal, chance, 300)
    async with running(journal) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
            consumer = Consumer()
            while consumer.position < 300:
                stretch = None
                with trio.move_on_after(chance.choice([0, 0.0005, 0.002])):
                    stretch = await feed.next(**NEXT, at_most_s=1)
                if stretch is not None:
                    consumer.take(stretch)
                assert feed.position == consumer.position
    assert consumer.positions == list(range(1, 301))


async def test_while_the_journal_cannot_be_read_everyone_waits_and_goes_on(journal: Journal) -> None:
    await store(journal, Random(1), 100)
    broken = Muffled(journal, "head_signal")
    broken.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
    with structlog.testing.capture_logs() as lines:
        async with running(broken.journal) as firehose:
            with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
                for _ in range(5):
                    assert await feed.next(**NEXT, at_most_s=0.02) is None
                broken.fails = None
                await Subscriber(feed).reach(100)
                await to_the_tail(feed)
    events = [line["event"] for line in lines]
    assert events.count("firehose.stalled") == 1
    assert events.count("firehose.resumed") == 1


async def test_who_leaves_while_the_journal_is_away_leaves_nothing(journal: Journal) -> None:
    await store(journal, Random(1), 10)
    away = Muffled(journal)
    async with running(away.journal) as firehose:
        away.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
        with ExitStack() as feeds:
            opened = [feeds.enter_context(firehose.scan("x", EVERY_ENTITY, ALL, n, lambda: 10)) for n in range(6)]
            for feed in opened:
                await feed.next(**NEXT, at_most_s=0.005)
            assert firehose.report().waiting == 6
        await trio.sleep(0.1)
        assert firehose.report().waiting == 0


async def test_a_journal_that_must_not_be_used_ends_the_feed(journal: Journal) -> None:
    await store(journal, Random(1), 10)
    broken = Muffled(journal, "head_signal")
    broken.fails = BackhaulError("journal.broken", "damaged", kind=ErrorKind.INTERNAL)
    async with running(broken.journal) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
            with pytest.raises(BackhaulError) as raised:
                await feed.next(**NEXT, at_most_s=60)
    assert raised.value.code == "journal.broken"


async def _to_the_end(feed: Feed) -> None:
    while True:
        await feed.next(**NEXT, at_most_s=0.02)


async def test_a_log_that_was_replaced_ends_every_feed_and_is_followed_from_then_on(storage: Storage) -> None:
    database = MemoryDatabase()
    async with (
        storage.open() as journal,
        open_memory_journal(database, now_us=SettableClock(), new_id=ids("other").__next__) as restored,
    ):
        await store(journal, Random(1), 30)
        await store(restored, Random(2), 12)
        replaced = Muffled(journal)
        with structlog.testing.capture_logs() as lines:
            async with running(replaced.journal) as firehose:
                with (
                    firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed,
                    firehose.scan("y", EVERY_ENTITY, ALL, 30, lambda: 40) as scan,
                ):
                    await to_the_tail(feed)
                    replaced.becomes(restored)
                    for one in (feed, scan):
                        with pytest.raises(BackhaulError) as raised:
                            await _to_the_end(one)
                        assert raised.value.code == "firehose.log_changed"
                with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
                    subscriber = Subscriber(feed)
                    await subscriber.reach(12)
                    await to_the_tail(feed)
                    await store(restored, Random(3), 3)
                    stretch = await feed.next(**NEXT, at_most_s=60)
                    assert stretch is not None
                    log = await log_of(restored)
                    place = (log.timestamp_us[-1], log.persistence_id[-1], log.seq_nr[-1])
                    assert stretch.digest == place_digest(restored.log.place_key, *place)
    assert [line["event"] for line in lines].count("firehose.log_changed") == 1


async def test_commits_of_another_log_are_not_taken_for_the_next_of_this_one(storage: Storage) -> None:
    """After a failover this node's own commits may have positions above what the ring has: they do not follow it."""
    database = MemoryDatabase()
    async with (
        storage.open() as journal,
        open_memory_journal(database, now_us=SettableClock(), new_id=ids("other").__next__) as restored,
    ):
        await store(journal, Random(1), 30)
        await store(restored, Random(2), 33)
        replaced = Muffled(journal)
        async with running(replaced.journal) as firehose:
            with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
                await to_the_tail(feed)
                replaced.becomes(restored)
                replaced.feed.give((await log_of(restored)).slice(29, 33))
                replaced.head_signal.raise_to(33)
                with pytest.raises(BackhaulError) as raised:
                    await feed.next(**NEXT, at_most_s=60)
                assert raised.value.code == "firehose.log_changed"


class Changing(Muffled):
    """A log that is another one each time a read of it has answered, as often as there are ``others``."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.others: list[Journal] = []

    async def read(self, after: int, **more: Any) -> LogPage:  # noqa: ANN401
        page = await super().read(after, **more)
        if self.others:
            self.becomes(self.others.pop(0))
        return page


async def test_a_log_that_changes_again_while_it_is_looked_at_is_looked_at_again(storage: Storage) -> None:
    """Two failovers in a row: what was read between the two is kept for nobody."""
    other_ids, last_ids = ids("other").__next__, ids("last").__next__
    async with (
        storage.open() as journal,
        open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=other_ids) as other,
        open_memory_journal(MemoryDatabase(), now_us=SettableClock(), new_id=last_ids) as last,
    ):
        for number, (one, n) in enumerate([(journal, 30), (other, 40), (last, 50)]):
            await store(one, Random(number), n)
        changing = Changing(journal)
        async with running(changing.journal) as firehose:
            with ExitStack() as opened:
                feed = opened.enter_context(firehose.subscribe("x", EVERY_ENTITY, ALL, 0))
                await to_the_tail(feed)
                for _ in range(2):  # so that blocks are kept for one while the other is behind
                    late = opened.enter_context(firehose.follow(ALL_SLICES))
                    await late.read(30, max_events=10, max_bytes=10_000, selection=EVERYTHING)
                changing.others = [other, last]
                changing.head_signal.raise_to(40)
                with pytest.raises(BackhaulError) as raised:
                    await _to_the_end(feed)
                assert raised.value.code == "firehose.log_changed"
                new = opened.enter_context(firehose.follow(ALL_SLICES))
                page = await new.read(30, max_events=100, max_bytes=100_000, selection=EVERYTHING)
        assert page.events.persistence_id == (await log_of(last)).persistence_id[30:]
