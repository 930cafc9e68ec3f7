"""The firehose where events are gone: stated, or replaced by a snapshot, never silently left out."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import cast

import pytest
import trio
import trio.testing

from common.core.errors import BackhaulError, ErrorKind
from common.core.filters.predicates import EVERY_ENTITY, parse_filter
from common.core.journal.admission import EntityHead
from common.core.journal.snapshot import NewSnapshot
from common.firehose.deletions import ranges_gone
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import Feed
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogStore, TrimLimit
from tests.support.builders import appended, local
from tests.support.firehose import (
    ALL,
    KINDS,
    NEXT,
    PUMPS,
    Muffled,
    running,
    store,
    to_the_tail,
)
from tests.support.growing_log import Consumer, plain_encoding


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
    chance, answer = Random(3), [_Told() for _ in range(3)]
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
                for one, feed in zip(answer, opened, strict=True):
                    nursery.start_soon(one.reach, feed, 700)
                for number in range(30):
                    await store(journal, chance, 10)
                    await journal.log.trim(TrimLimit(15 * number, 25))
    heads: dict[str, int] = {}
    for entity in {f"{kind}|{n}" for kind in ("Pump", "Valve") for n in range(6)}:
        head = await journal.log.entity_head(entity)
        assert head is not None
        heads[entity] = head.seq_nr
    for one in answer:
        assert one.numbers == {entity: set(range(1, seq_nr + 1)) for entity, seq_nr in heads.items()}


class _RemovedMeanwhile:
    """A log of which more is removed whenever the head of an entity is looked up."""

    def __init__(self, log: LogStore) -> None:
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def entity_head(self, persistence_id: str) -> EntityHead | None:
        await self._log.trim(TrimLimit(3, 10))
        return await self._log.entity_head(persistence_id)


async def test_a_removal_that_goes_on_meanwhile_hides_no_other_of_the_page(journal: Journal) -> None:
    await appended(journal, local("Pump|1", "Pump|2", "Pump|1", "Pump|3"))
    await journal.log.trim(TrimLimit(2, 10))
    page = await journal.log.read(0, through=2, max_events=9, max_bytes=10**6)
    found, gone = await ranges_gone(cast(LogStore, _RemovedMeanwhile(journal.log)), 0, page, max_entities=1)
    assert [(one.persistence_id, one.to_seq_nr) for one in gone] == [("Pump|2", 1)]
    assert found.through == 2


@pytest.mark.parametrize(("taken_at", "answer"), [(2, "range"), (3, "snapshot"), (5, "snapshot"), (0, "range")])
async def test_deleted_events_are_replaced_by_a_snapshot_or_a_stated_range(
    journal: Journal, taken_at: int, answer: str
) -> None:
    await appended(journal, local(*["Pump|1"] * 6, "Pump|2"))
    if taken_at:
        await journal.snapshots.put([NewSnapshot("Pump|1", taken_at, "state", "json", b"{}")])
    await journal.log.trim(TrimLimit(3, 10))
    async with running(journal) as firehose:
        with firehose.subscribe("late", EVERY_ENTITY, PUMPS, 0) as feed:
            stretch = await feed.next(**NEXT, at_most_s=60)
    assert stretch is not None
    assert stretch.encoded == plain_encoding(stretch.events)
    if answer == "range":
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
    await journal.log.trim(TrimLimit(52, 100))
    predicate = parse_filter('[{"exclude_all": true}, {"include_ids": ["Tank|1"]}]')
    async with running(journal) as firehose:
        with firehose.subscribe("tank", predicate, ALL, 0) as feed:
            stretch = await feed.next(**NEXT, at_most_s=60)
    assert stretch is not None
    assert [stated.persistence_id for stated in stretch.ranges] == ["Tank|1"]


async def test_much_that_was_deleted_is_told_page_by_page(journal: Journal) -> None:
    await appended(journal, local(*[f"Pump|{n}" for n in range(40)]))
    await journal.log.trim(TrimLimit(40, 100))
    settings = FirehoseSettings(deleted_max=7)
    answer: list[str] = []
    async with running(journal, settings) as firehose:
        with firehose.subscribe("late", EVERY_ENTITY, ALL, 0) as feed:
            while feed.position < 40:
                stretch = await feed.next(**NEXT, at_most_s=60)
                assert stretch is not None
                assert len(stretch.ranges) <= 7
                answer += [stated.persistence_id for stated in stretch.ranges]
    assert answer == [f"Pump|{n}" for n in range(40)]


async def test_what_is_deleted_before_the_ring_has_it_is_told_from_the_journal(journal: Journal) -> None:
    away = Muffled(journal)
    async with running(away.journal) as firehose:
        with firehose.subscribe("x", EVERY_ENTITY, ALL, 0) as feed, firehose.subscribe("y", KINDS[5][0], ALL, 0):
            await to_the_tail(feed)
            away.fails = BackhaulError("journal.unavailable", "away", kind=ErrorKind.UNAVAILABLE)
            await appended(journal, local("Pump|1", "Pump|1", "Pump|2", "Pump|1"))
            await journal.log.trim(TrimLimit(3, 10))
            away.fails = None
            consumer = Consumer()
            while consumer.position < 4:
                stretch = await feed.next(**NEXT, at_most_s=0.05)
                if stretch is not None:
                    consumer.take(stretch)
    assert consumer.positions == [4]
    assert consumer.known == {"Pump|1": 3, "Pump|2": 1}


async def test_a_reader_learns_that_it_passes_deleted_events_which_are_stated_later(journal: Journal) -> None:
    """Both entities lost events of the first page; what the first one lost goes on behind it."""
    await appended(journal, local("Pump|1", "Pump|2", "Pump|1", "Pump|2", "Pump|1"))
    await journal.log.trim(TrimLimit(3, 10))
    async with running(journal, FirehoseSettings(deleted_max=1)) as firehose:
        with firehose.subscribe("one", EVERY_ENTITY, PUMPS, 0) as feed:
            stretches = []
            while feed.position < 5:
                stretch = await feed.next(**NEXT, at_most_s=0.02)
                if stretch is not None:
                    stretches.append(stretch)
    first, last = stretches[0], stretches[-1]
    assert [(stated.persistence_id, stated.to_seq_nr) for stated in first.ranges] == [("Pump|2", 1)]
    assert (first.through, first.unstated_to) == (2, 3)
    assert [stated.persistence_id for stretch in stretches[1:] for stated in stretch.ranges] == ["Pump|1"]
    assert (last.through, last.unstated_to) == (5, 0)
