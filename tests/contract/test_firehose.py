"""The firehose over every storage, whatever it hears of commits."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from random import Random

import pytest
import structlog
import trio
import trio.testing

from common.core.append import LocalAppend
from common.core.batch import EventBatch, new_events
from common.core.digest import place_digest
from common.core.errors import BackhaulError, ErrorKind
from common.core.filters import EVERY_ENTITY, EntityPredicate, parse_filter
from common.core.snapshot import NewSnapshot
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import Feed, Standing
from common.journal.interface import Journal, TrimLimit
from common.journal.memory import MemoryDatabase, open_memory_journal
from tests.contract.journals import Storage
from tests.support.builders import SettableClock, appended, ids, local
from tests.support.firehose import (
    NEXT,
    SMALL,
    Muffled,
    ServedSubscriber,
    Subscriber,
    log_of,
    muffled,
    running,
    store,
    topic_filter,
)
from tests.support.growing_log import Consumer, plain_encoding, selected_positions

ALL: frozenset[str] = frozenset()
PUMPS = frozenset({"Pump"})
FAR_US = 2**60
HEARS = {
    "directly": ("feed", "prompt"),
    "prompts only": ("prompt",),
    "nothing": (),
    "of its own commits only": ("feed",),
    "of two nodes": ("feed", "prompt"),
}
KINDS: list[tuple[EntityPredicate, frozenset[str]]] = [
    (EVERY_ENTITY, ALL),
    (EVERY_ENTITY, PUMPS),
    (topic_filter("site/1"), ALL),
    (topic_filter("site/1", "site/2/#"), PUMPS),
    (topic_filter("+/3"), ALL),
    (parse_filter('[{"exclude_regex": ["[0-3]"]}]'), ALL),
    (parse_filter('[{"exclude_all": true}, {"include_ids": ["Pump|1", {"id": "Valve|2", "from_seq_nr": 3}]}]'), ALL),
]


def without_early(events: EventBatch, predicate: EntityPredicate, positions: list[int]) -> list[int]:
    """Leave out what comes before a stated number."""
    rows = {
        position: (entity, seq_nr)
        for position, entity, seq_nr in zip(events.position, events.persistence_id, events.seq_nr, strict=True)
    }
    return [position for position in positions if rows[position][1] >= predicate.from_seq_nr(rows[position][0])]


def expected(events: EventBatch, subscriber: Subscriber) -> list[int]:
    positions = selected_positions(events, subscriber.predicate, subscriber.entity_types)
    return without_early(events, subscriber.predicate, positions)


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
    watched = Muffled(journal, "feed", "prompt")
    async with running(watched, settings) as firehose:
        with firehose.subscribe("one", EVERY_ENTITY, ALL, 0) as feed:
            subscriber = Subscriber(feed)
            await store(journal, Random(1), 5)
            await subscriber.reach(5)
            await _to_the_tail(feed)
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
                await _to_the_tail(feed)
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
                await journal.append_group([LocalAppend(event)])
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
    assert (stretch.timestamp_us, stretch.digest) == (place[0], place_digest(journal.history.journal_id, *place))


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
                    await _to_the_tail(feed)
                for number in range(60):
                    await store(journal, Random(number), 9)
                    await subscriber.reach(9 * number + 18)
                    assert firehose.report().ring_lag == 0
                await trio.sleep(0.1)
                assert subscriber.feed.standing is Standing.TAIL
                assert {feed.standing for feed in stopped} == {Standing.DEMOTED}
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
                    await _to_the_tail(feed)
    demoted = [line for line in lines if line["event"] == "consumer.demoted"]
    assert {line["consumer"] for line in demoted} == {f"stopped {n}" for n in range(len(KINDS))}
    assert {line["consumer"] for line in lines if line["event"] == "consumer.rejoined"} == {
        line["consumer"] for line in demoted
    }


async def _to_the_tail(feed: Feed) -> None:
    while feed.standing is not Standing.TAIL:
        await feed.next(**NEXT, at_most_s=0.01)


async def _to_the_end(feed: Feed) -> None:
    while True:
        await feed.next(**NEXT, at_most_s=0.02)


class _Told:
    """Which numbers of each entity were given, or stated, or replaced by a snapshot."""

    def __init__(self) -> None:
        self.numbers: dict[str, set[int]] = {}
        self.position = 0

    async def reach(self, feed: Feed, position: int) -> None:
        while self.position < position:
            stretch = await feed.next(**NEXT, at_most_s=0.02)
            if stretch is None:
                continue
            self.position = stretch.through
            for stated in stretch.ranges:
                self._add(stated.persistence_id, range(stated.from_seq_nr, stated.to_seq_nr + 1))
            for index, entity in enumerate(stretch.events.persistence_id):
                seq_nr = stretch.events.seq_nr[index]
                self._add(entity, range(1 if index < stretch.snapshots else seq_nr, seq_nr + 1))

    def _add(self, entity: str, numbers: range) -> None:
        self.numbers.setdefault(entity, set()).update(numbers)


async def test_what_retention_takes_from_under_a_reader_is_told(journal: Journal) -> None:
    chance, told = Random(3), [_Told() for _ in range(3)]
    await store(journal, chance, 400)
    async with running(journal) as firehose:
        with ExitStack() as feeds:
            predicates = [
                EVERY_ENTITY,
                parse_filter('[{"exclude_all": true}, {"include_regex": [".*"]}]'),
                EVERY_ENTITY,
            ]
            opened = [
                feeds.enter_context(firehose.subscribe(f"c{n}", predicate, ALL, 0))
                for n, predicate in enumerate(predicates[:2])
            ]
            opened.append(feeds.enter_context(firehose.scan("c2", EVERY_ENTITY, ALL, 0, lambda: 1_000)))
            async with trio.open_nursery() as nursery:
                for one, feed in zip(told, opened, strict=True):
                    nursery.start_soon(one.reach, feed, 700)
                for number in range(30):
                    await store(journal, chance, 10)
                    await journal.trim(TrimLimit(15 * number, FAR_US, 25))
    heads: dict[str, int] = {}
    for entity in {f"{kind}|{n}" for kind in ("Pump", "Valve") for n in range(6)}:
        head = await journal.entity_head(entity)
        assert head is not None
        heads[entity] = head.seq_nr
    for one in told:
        assert one.numbers == {entity: set(range(1, seq_nr + 1)) for entity, seq_nr in heads.items()}


@pytest.mark.parametrize(("taken_at", "told"), [(2, "range"), (3, "snapshot"), (5, "snapshot"), (0, "range")])
async def test_deleted_events_are_replaced_by_a_snapshot_or_a_stated_range(
    journal: Journal, taken_at: int, told: str
) -> None:
    await appended(journal, local(*["Pump|1"] * 6, "Pump|2"))
    if taken_at:
        await journal.put_snapshots([NewSnapshot("Pump|1", taken_at, "state", "json", b"{}")])
    await journal.trim(TrimLimit(3, FAR_US, 10))
    async with running(journal) as firehose:
        with firehose.subscribe("late", EVERY_ENTITY, PUMPS, 0) as feed:
            stretch = await feed.next(**NEXT, at_most_s=60)
    assert stretch is not None
    assert stretch.encoded == plain_encoding(stretch.events)
    if told == "range":
        assert [(one.persistence_id, one.to_seq_nr, one.reason) for one in stretch.ranges] == [("Pump|1", 3, "trimmed")]
        assert stretch.events.seq_nr == [4, 5, 6, 1]
    else:
        assert (stretch.snapshots, stretch.ranges) == (1, ())
        assert stretch.events.seq_nr == [taken_at, 4, 5, 6, 1]
        assert stretch.events.event_type[0] == "state"
    consumer = Consumer()
    consumer.take(stretch)
    assert consumer.known == {"Pump|1": 6, "Pump|2": 1}


async def test_what_is_gone_of_others_is_not_told(journal: Journal) -> None:
    await store(journal, Random(1), 50)
    await appended(journal, local("Tank|1", "Tank|2"))
    await journal.trim(TrimLimit(52, FAR_US, 100))
    predicate = parse_filter('[{"exclude_all": true}, {"include_ids": ["Tank|1"]}]')
    async with running(journal) as firehose:
        with firehose.subscribe("tank", predicate, ALL, 0) as feed:
            stretch = await feed.next(**NEXT, at_most_s=60)
    assert stretch is not None
    assert [stated.persistence_id for stated in stretch.ranges] == ["Tank|1"]


async def test_much_that_was_deleted_is_told_page_by_page(journal: Journal) -> None:
    await appended(journal, local(*[f"Pump|{n}" for n in range(40)]))
    await journal.trim(TrimLimit(40, FAR_US, 100))
    settings = FirehoseSettings(deleted_max=7)
    told: list[str] = []
    async with running(journal, settings) as firehose:
        with firehose.subscribe("late", EVERY_ENTITY, ALL, 0) as feed:
            while feed.position < 40:
                stretch = await feed.next(**NEXT, at_most_s=60)
                assert stretch is not None
                assert len(stretch.ranges) <= 7
                told += [stated.persistence_id for stated in stretch.ranges]
    assert told == [f"Pump|{n}" for n in range(40)]


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
    kept = (firehose._feeds, firehose.fan_out._views, firehose.outside, firehose.deadlines._due)
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
    broken = Muffled(journal, "prompt")
    broken.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
    with structlog.testing.capture_logs() as lines:
        async with running(broken) as firehose:
            with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
                for _ in range(5):
                    assert await feed.next(**NEXT, at_most_s=0.02) is None
                broken.fails = None
                await Subscriber(feed).reach(100)
                await _to_the_tail(feed)
    events = [line["event"] for line in lines]
    assert events.count("firehose.stalled") == 1
    assert events.count("firehose.resumed") == 1


async def test_what_is_deleted_before_the_ring_has_it_is_told_from_the_journal(journal: Journal) -> None:
    away = Muffled(journal)
    async with running(away) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed, firehose.subscribe("y", KINDS[5][0], ALL, 0):
            await _to_the_tail(feed)
            away.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
            await appended(journal, local("Pump|1", "Pump|1", "Pump|2", "Pump|1"))
            await journal.trim(TrimLimit(3, FAR_US, 10))
            away.fails = None
            consumer = Consumer()
            while consumer.position < 4:
                stretch = await feed.next(**NEXT, at_most_s=0.05)
                if stretch is not None:
                    consumer.take(stretch)
    assert consumer.positions == [4]
    assert consumer.known == {"Pump|1": 3, "Pump|2": 1}


async def test_who_leaves_while_the_journal_is_away_leaves_nothing(journal: Journal) -> None:
    await store(journal, Random(1), 10)
    away = Muffled(journal)
    async with running(away) as firehose:
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
    broken = Muffled(journal, "prompt")
    broken.fails = BackhaulError("journal.broken", "damaged", kind=ErrorKind.INTERNAL)
    async with running(broken) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
            with pytest.raises(BackhaulError) as raised:
                await feed.next(**NEXT, at_most_s=60)
    assert raised.value.code == "journal.broken"


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
            async with running(replaced) as firehose:
                with (
                    firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed,
                    firehose.scan("y", EVERY_ENTITY, ALL, 30, lambda: 40) as scan,
                ):
                    await _to_the_tail(feed)
                    replaced.journal = restored
                    for one in (feed, scan):
                        with pytest.raises(BackhaulError) as raised:
                            await _to_the_end(one)
                        assert raised.value.code == "firehose.log_changed"
                with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed:
                    subscriber = Subscriber(feed)
                    await subscriber.reach(12)
                    await _to_the_tail(feed)
                    await store(restored, Random(3), 3)
                    stretch = await feed.next(**NEXT, at_most_s=60)
                    assert stretch is not None
                    log = await log_of(restored)
                    place = (log.timestamp_us[-1], log.persistence_id[-1], log.seq_nr[-1])
                    assert stretch.digest == place_digest(restored.history.journal_id, *place)
    assert [line["event"] for line in lines].count("firehose.log_changed") == 1
