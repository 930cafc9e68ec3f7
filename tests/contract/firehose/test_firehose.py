"""The firehose over every storage, whatever it hears of commits: what each of many subscribers is given."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from random import Random

import pytest
import structlog
import trio
import trio.testing

from common.core.events.batch import new_events
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.append import LocalAppend
from common.core.journal.place_digest import place_digest
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import Feed, SubscriberTier
from common.journal.stores.journal import Journal
from tests.contract.journals import Storage
from tests.support.builders import appended, local
from tests.support.firehose import (
    ALL,
    KINDS,
    NEXT,
    PUMPS,
    SMALL,
    Muffled,
    ServedSubscriber,
    Subscriber,
    expected,
    log_of,
    muffled,
    running,
    store,
    to_the_tail,
    topic_filter,
)
from tests.support.growing_log import Consumer, selected_positions

HEARS = {
    "directly": ("feed", "head_signal"),
    "prompts only": ("head_signal",),
    "nothing": (),
    "of its own commits only": ("feed",),
    "of two nodes": ("feed", "head_signal"),
}


@pytest.mark.parametrize("hears", HEARS)
async def test_everyone_gets_what_it_selects_once_in_order(storage: Storage, hears: str) -> None:
    await _follow_all(storage, hears, is_served=False)


@pytest.mark.parametrize("hears", HEARS)
async def test_so_does_everyone_who_is_served_by_the_pump(storage: Storage, hears: str) -> None:
    subscribers = await _follow_all(storage, hears, is_served=True)
    assert sum(one.served for one in subscribers if isinstance(one, ServedSubscriber)) > 0


async def _follow_all(storage: Storage, hears: str, *, is_served: bool) -> list[Subscriber]:
    chance = Random(7)
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(storage.open())
        writers = [journal]
        if hears in {"of its own commits only", "of two nodes"} and storage.shared:
            writers.append(await stack.enter_async_context(storage.open()))
        await store(journal, chance, 150)
        firehose = await stack.enter_async_context(running(muffled(journal, *HEARS[hears])))
        feeds = stack.enter_context(ExitStack())
        subscribers: list[Subscriber] = []
        for number, (predicate, entity_types) in enumerate(KINDS * 2):
            feed = feeds.enter_context(firehose.subscribe(f"c{number}", predicate, entity_types, 0))
            slow = (lambda: chance.choice([0.0, 0.01, 0.03])) if number % 3 == 0 else (lambda: 0.0)
            if is_served:
                one: Subscriber = ServedSubscriber(feed, predicate, entity_types, chance=Random(number))
            else:
                one = Subscriber(feed, predicate, entity_types, pause_s=slow)
            subscribers.append(one)
        async with trio.open_nursery() as nursery:
            for subscriber in subscribers:
                nursery.start_soon(subscriber.reach, 150 + 40 * 9)
            for _ in range(40):
                await store(chance.choice(writers), chance, 9)
                await trio.sleep(0.001)
        log = await log_of(journal)
        for subscriber in subscribers:
            assert subscriber.consumer.positions == expected(log, subscriber)
    return subscribers


async def test_what_this_process_commits_needs_no_read(journal: Journal) -> None:
    settings = FirehoseSettings(poll_s=60.0)
    watched = Muffled(journal, "feed", "head_signal")
    async with running(watched.journal, settings) as firehose:
        with firehose.subscribe("one", EVERY_ENTITY, ALL, 0) as feed:
            subscriber = Subscriber(feed)
            await store(journal, Random(1), 5)
            await subscriber.reach(5)
            await to_the_tail(feed)
            before, fed = watched.reads, firehose.report().fed_events
            for number in range(20):
                await store(journal, Random(number), 5)
                await subscriber.reach(5 * number + 10)
            assert watched.reads == before
            report = firehose.report()
            assert (report.subscribers, report.members, report.ring_lag) == (1, 1, 0)
            assert report.fed_events - fed == 100


async def test_an_event_wakes_whom_it_concerns_and_nobody_waits_for_a_poll(journal: Journal) -> None:
    async with running(journal, FirehoseSettings(poll_s=600.0)) as firehose:
        with ExitStack() as feeds:
            kinds = [(EVERY_ENTITY, ALL), (EVERY_ENTITY, PUMPS), (topic_filter("site/1"), ALL)]
            opened = [feeds.enter_context(firehose.subscribe("c", *kind, 0)) for kind in kinds]
            for feed in opened:
                await to_the_tail(feed)
            got: list[int] = []

            async def wait(feed: Feed) -> None:
                stretch = await feed.next(**NEXT, at_most_s=600.0)
                assert stretch is not None
                got.append(stretch.n)

            async with trio.open_nursery() as nursery:
                for feed in opened:
                    nursery.start_soon(wait, feed)
                await trio.testing.wait_all_tasks_blocked()
                event = new_events(["Pump|1"], ["happened"], [b"{}"], tags=["t:site/1"])
                await journal.log.append_group([LocalAppend(event)])
    assert got == [1, 1, 1]


async def test_progress_is_told_when_nothing_concerns_one(journal: Journal) -> None:
    async with running(journal) as firehose:
        with firehose.subscribe("c", topic_filter("site/9"), ALL, 0) as feed:
            await store(journal, Random(1), 30)
            stretch = await feed.next(**NEXT, at_most_s=0.2)
            while stretch is None or stretch.through < 30:
                stretch = await feed.next(**NEXT, at_most_s=0.2)
    log = await log_of(journal)
    place = (log.timestamp_us[-1], log.persistence_id[-1], log.seq_nr[-1])
    assert stretch.is_empty
    assert (stretch.timestamp_us, stretch.digest) == (place[0], place_digest(journal.log.place_key, *place))


async def test_many_who_catch_up_share_the_reads(journal: Journal) -> None:
    await store(journal, Random(1), 640)
    async with running(journal, FirehoseSettings(block_events=16, look_again_s=0.01)) as firehose:
        with ExitStack() as feeds:
            subscribers = [
                Subscriber(feeds.enter_context(firehose.subscribe(f"c{n}", EVERY_ENTITY, ALL, 0))) for n in range(30)
            ]
            async with trio.open_nursery() as nursery:
                for subscriber in subscribers:
                    nursery.start_soon(subscriber.reach, 640)
        report = firehose.report()
    assert report.catch_up_events < 4 * 640
    assert report.shared_pages > 20 * 40


async def test_a_narrow_selection_reads_about_what_it_gets(journal: Journal) -> None:
    await store(journal, Random(1), 600)
    await appended(journal, local("Pump|rare"))
    await store(journal, Random(2), 600)
    predicate = parse_filter('[{"exclude_all": true}, {"include_ids": ["Pump|rare"]}]')
    async with running(journal) as firehose:
        with firehose.scan("rare", predicate, ALL, 0, lambda: 1_201) as feed:
            subscriber = Subscriber(feed, predicate)
            await subscriber.reach(1_201)
            assert await feed.next(**NEXT, at_most_s=10) is None
        assert subscriber.consumer.positions == [601]
        assert firehose.report().catch_up_events <= 3


async def test_a_scan_ends_where_it_was_to_end(journal: Journal) -> None:
    await store(journal, Random(1), 100)
    target = 37
    async with running(journal) as firehose:
        with firehose.scan("backfill", EVERY_ENTITY, ALL, 0, lambda: target) as feed:
            subscriber = Subscriber(feed)
            await subscriber.reach(37)
            assert await feed.next(**NEXT, at_most_s=60) is None
            target = 90
            await subscriber.reach(90)
            assert await feed.next(**NEXT, at_most_s=60) is None
    assert subscriber.consumer.positions == list(range(1, 91))


async def test_one_that_is_not_read_from_changes_nothing_for_the_others(journal: Journal) -> None:
    with structlog.testing.capture_logs() as lines:
        async with running(journal) as firehose:
            with ExitStack() as feeds:
                stopped = [
                    feeds.enter_context(firehose.subscribe(f"stopped {n}", predicate, types, 0))
                    for n, (predicate, types) in enumerate(KINDS)
                ]
                subscriber = Subscriber(feeds.enter_context(firehose.subscribe("well", EVERY_ENTITY, ALL, 0)))
                await store(journal, Random(1), 9)
                await subscriber.reach(9)
                for feed in stopped:  # to the tail, and never again
                    await to_the_tail(feed)
                for number in range(60):
                    await store(journal, Random(number), 9)
                    await subscriber.reach(9 * number + 18)
                    assert firehose.report().ring_lag == 0
                await trio.sleep(0.1)
                assert subscriber.feed.standing is SubscriberTier.TAIL
                assert {feed.standing for feed in stopped} == {SubscriberTier.DEMOTED}
                report = firehose.report()
                assert report.ring_events <= SMALL.ring_max_events
                assert report.demotions == len(KINDS)
                for feed, (predicate, entity_types) in zip(stopped, KINDS, strict=True):
                    late = Subscriber(feed, predicate, entity_types, Consumer(checks_numbers=False))
                    late.consumer.position = feed.position
                    after = feed.position
                    await late.reach(549)
                    log = await log_of(journal)
                    wanted = [position for position in expected(log, late) if position > after]
                    assert late.consumer.positions == wanted
                    await to_the_tail(feed)
    demoted = [line for line in lines if line["event"] == "consumer.demoted"]
    assert {line["consumer"] for line in demoted} == {f"stopped {n}" for n in range(len(KINDS))}
    assert {line["consumer"] for line in lines if line["event"] == "consumer.rejoined"} == {
        line["consumer"] for line in demoted
    }


async def test_a_changed_filter_selects_what_follows_the_position(journal: Journal) -> None:
    chance = Random(2)
    first, second = topic_filter("site/0"), topic_filter("site/1", "site/3")
    await store(journal, chance, 60)
    async with running(journal) as firehose:
        with firehose.subscribe("x", first, ALL, 0) as feed:
            subscriber = Subscriber(feed, first, consumer=Consumer(checks_numbers=False))
            for number in range(6):
                await subscriber.reach(60 + 20 * number)
                changed_at = feed.position
                feed.change(second if number % 2 == 0 else first)
                before = list(subscriber.consumer.positions)
                await store(journal, chance, 20)
                await subscriber.reach(80 + 20 * number)
                log = await log_of(journal)
                wanted = selected_positions(log, second if number % 2 == 0 else first, ALL)
                assert subscriber.consumer.positions == before + [p for p in wanted if p > changed_at]
