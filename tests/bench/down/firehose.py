"""Firehose: what memory, index and joining carry, and catching up from a journal, in one process without a network.

Deliveries are counted as events handed to a subscriber with their bytes. Once one task takes for all subscribers, as a
sender that serves many streams would; once each subscriber is a task that waits. Catching up is compared, turn by turn,
with bare reads of the same journal by the same process.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import trio
import trio.testing

from common.core.events.batch import EventBatch
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, parse_filter
from common.core.firehose.demotion import DemotionHistory, DemotionRule
from common.core.firehose.fan_out import FanOut
from common.core.firehose.fetch_builder import FetchLimits
from common.core.firehose.ring import LogSource, Ring
from common.core.firehose.subscriber_cursor import SubscriberCursor
from common.core.journal.append import LocalAppend
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.feeds import Feed
from common.journal.memory.journal import open_memory_journal
from common.journal.memory.state import MemoryDatabase
from common.journal.postgres import open_postgres_journal
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.runtime.environment import utc_now_us
from common.transport.codec.events import encode_batch
from tests.bench.place import Place
from tests.bench.table import Table, middle_ratio, spread
from tests.bench.workload import BATCH, events

_SUBSCRIBERS = 1_000
_PAGE_BYTES = 1024 * 1024
_LIMITS = FetchLimits(BATCH, _PAGE_BYTES)
_ALL: frozenset[str] = frozenset()
_DELIVERIES_TARGET = 700_000
_SINGLE_TARGET = 35_000
_CATCH_UP_TARGET = 0.6
_ROWS_TARGET = 5.0
_EVALUATIONS_TARGET = 3.0


def _topic(number: int) -> EntityPredicate:
    return parse_filter(f'[{{"exclude_all": true}}, {{"include_topics": ["site/{number}/#"]}}]')


def _stored(first: int, count: int, topics: int = 0) -> EventBatch:
    """Events as a journal whose head is ``first`` would hand them over."""
    batch = events("fan-out", first, count)
    batch.position = list(range(first + 1, first + count + 1))
    batch.timestamp_us = [utc_now_us() + number for number in range(count)]
    batch.stored_us = list(batch.timestamp_us)
    batch.seq_nr = list(batch.position)
    batch.prev_seq_nr = list(range(first, first + count))
    if topics:
        batch.tags = [f"t:site/{position % topics}/door" for position in batch.position]
    return batch


def _new_id() -> str:
    return uuid.uuid4().hex


# -- from memory -----------------------------------------------------------------------------------------------------
def _fan_out(predicates: list[EntityPredicate]) -> tuple[FanOut, list[SubscriberCursor]]:
    hub = FanOut(Ring(LogSource("bench", encode_batch), 0, max_events=100_000, max_bytes=64 * 1024 * 1024))
    cursors = [SubscriberCursor("c", one, _ALL, 0, DemotionHistory(DemotionRule()), 8_192) for one in predicates]
    for cursor in cursors:
        hub.take(cursor, _LIMITS, 0.0)
    return hub, cursors


def _one_task(batch: int, rounds: int) -> float:
    """Deliveries a second when one task takes for all."""
    hub, cursors = _fan_out([EVERY_ENTITY] * _SUBSCRIBERS)
    log = [_stored(first, batch) for first in range(0, rounds * batch, batch)]
    delivered = 0
    began_s = time.perf_counter()
    for events_now in log:
        hub.extend(events_now, 0.0)
        for cursor in cursors:
            stretch = hub.take(cursor, _LIMITS, 0.0)
            assert stretch is not None
            assert stretch.encoded
            delivered += stretch.n
    return delivered / (time.perf_counter() - began_s)


def _topics_one_task(batch: int, rounds: int) -> tuple[float, float]:
    """Events a second through the index, each to one of a thousand, and evaluations an event."""
    hub, cursors = _fan_out([_topic(number) for number in range(_SUBSCRIBERS)])
    log = [_stored(first, batch, _SUBSCRIBERS) for first in range(0, rounds * batch, batch)]
    delivered = 0
    began_s = time.perf_counter()
    for events_now in log:
        for cursor in hub.extend(events_now, 0.0).selecting:
            stretch = hub.take(cursor, _LIMITS, 0.0)
            assert stretch is not None
            assert stretch.encoded
            delivered += stretch.n
    took_s = time.perf_counter() - began_s
    assert delivered == rounds * batch
    assert not any(cursor.has_pending for cursor in cursors)
    return delivered / took_s, hub.evaluations / delivered


async def _tasks(batch: int, rounds: int) -> float:
    """Deliveries a second when each subscriber is a task that waits for the next events."""
    total = batch * rounds
    settings = FirehoseSettings(poll_s=600.0)
    async with open_memory_journal(MemoryDatabase(), now_us=utc_now_us, new_id=_new_id) as journal:
        firehose = Firehose(journal, encode_batch, settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(firehose.run)
            with ExitStack() as feeds:
                opened = [
                    feeds.enter_context(firehose.subscribe(f"c{n}", EVERY_ENTITY, _ALL, 0)) for n in range(_SUBSCRIBERS)
                ]
                log = [_stored(first, batch) for first in range(0, total, batch)]
                async with trio.open_nursery() as readers:
                    for feed in opened:
                        readers.start_soon(_follow, feed, total)
                    await trio.testing.wait_all_tasks_blocked()
                    began_s = time.perf_counter()
                    for events_now in log:
                        journal.log.feed.give(events_now)
                        journal.log.head_signal.raise_to(events_now.position[-1])
                        await trio.testing.wait_all_tasks_blocked()
                took_s = time.perf_counter() - began_s
            nursery.cancel_scope.cancel()
    return total * _SUBSCRIBERS / took_s


async def _follow(feed: Feed, through: int) -> None:
    while feed.position < through:
        stretch = await feed.next(max_events=BATCH, max_bytes=_PAGE_BYTES, at_most_s=600.0)
        assert stretch is not None
        assert stretch.encoded


# -- from a journal --------------------------------------------------------------------------------------------------
async def _fill(journal: Journal, total: int, topics: int) -> None:
    for first in range(0, total, BATCH):
        batch = events("behind", first, min(BATCH, total - first))
        batch.tags = [f"t:site/{(first + number) % topics}/door" for number in range(len(batch))]
        await journal.log.append_group([LocalAppend(batch)])


async def _raw(journal: Journal, total: int) -> float:
    position, began_s = 0, time.perf_counter()
    while position < total:
        page = await journal.log.read(position, max_events=BATCH, max_bytes=_PAGE_BYTES)
        position = page.through
    return total / (time.perf_counter() - began_s)


@asynccontextmanager
async def _running(journal: Journal) -> AsyncIterator[Firehose]:
    firehose = Firehose(journal, encode_batch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        yield firehose
        nursery.cancel_scope.cancel()


async def _catch_up(journal: Journal, total: int) -> float:
    async with _running(journal) as firehose:
        began_s = time.perf_counter()
        with firehose.subscribe("behind", EVERY_ENTITY, _ALL, 0) as feed:
            await _follow(feed, total)
        return total / (time.perf_counter() - began_s)


async def _catch_up_topics(journal: Journal, total: int, topics: int) -> tuple[float, float]:
    """Seconds until all have what they asked for, and rows read for each row of the log."""

    async def follow(number: int) -> None:
        wanted, got = total // topics, 0
        with firehose.subscribe(f"site {number}", _topic(number), _ALL, 0) as feed:
            while got < wanted:
                stretch = await feed.next(max_events=BATCH, max_bytes=_PAGE_BYTES, at_most_s=600.0)
                assert stretch is not None
                assert stretch.encoded
                got += stretch.n

    async with _running(journal) as firehose:
        began_s = time.perf_counter()
        async with trio.open_nursery() as readers:
            for number in range(topics):
                readers.start_soon(follow, number)
        took_s = time.perf_counter() - began_s
        return took_s, firehose.report().catch_up_events / total


async def _behind(place: Place, name: str, journal: Journal) -> Table:
    total, topics = place.sized(300_000, 20_000), place.sized(1_000, 100)
    table = Table(f"firehose: behind by {total:,} events, {name}")
    await _fill(journal, total, topics)
    pairs = []
    for _ in range(place.sized(3, 1)):
        raw = await _raw(journal, total)
        pairs.append((await _catch_up(journal, total), raw))
    table.add(f"bare reads, pages of {BATCH:,}", spread([raw for _, raw in pairs], "events/s"))
    table.add("one subscriber, with its bytes", spread([caught for caught, _ in pairs], "events/s"))
    ratio = middle_ratio(pairs)
    table.judge("  of the bare reads", f"{ratio:.2f}", f">= {_CATCH_UP_TARGET}", ratio >= _CATCH_UP_TARGET)
    took_s, rows = await _catch_up_topics(journal, total, topics)
    table.judge(
        f"{topics:,} subscribers, a topic each: rows read for a row of the log",
        f"{rows:.2f}",
        f"<= {_ROWS_TARGET}",
        rows <= _ROWS_TARGET,
    )
    alone_s = total / median(caught for caught, _ in pairs)
    table.add("  time until all have caught up", f"{took_s:.1f} s (one without a filter: {alone_s:.1f} s)")
    return table


async def _sqlite(place: Place) -> Table:
    path: Path = place.fresh_folder("firehose") / "journal.db"
    async with open_sqlite_journal(path, now_us=utc_now_us, new_id=_new_id) as journal:
        return await _behind(place, "SQLite", journal)


async def _postgres(place: Place) -> Table:
    with place.postgres.fresh() as url:
        async with open_postgres_journal(url, now_us=utc_now_us, new_id=_new_id) as journal:
            return await _behind(place, "PostgreSQL", journal)


async def _from_memory(place: Place) -> Table:
    turns = place.sized(3, 1)
    singles, hundreds = place.sized(200, 10), place.sized(100, 5)

    def several(measure: Callable[[int, int], float], batch: int, rounds: int) -> list[float]:
        return [measure(batch, rounds) for _ in range(turns)]

    table = Table(f"firehose: {_SUBSCRIBERS:,} subscribers at the tail, in this process")
    found = several(_one_task, 1, singles)
    table.judge(
        "one task for all, single events",
        spread(found, "deliveries/s"),
        f">= {_SINGLE_TARGET:,}",
        max(found) >= _SINGLE_TARGET,
    )
    found = several(_one_task, 100, hundreds)
    table.judge(
        "one task for all, batches of 100",
        spread(found, "deliveries/s"),
        f">= {_DELIVERIES_TARGET:,}",
        max(found) >= _DELIVERIES_TARGET,
    )
    found = [await _tasks(1, singles) for _ in range(turns)]
    table.judge(
        "a task each, single events",
        spread(found, "deliveries/s"),
        f">= {_SINGLE_TARGET:,}",
        max(found) >= _SINGLE_TARGET,
    )
    found = [await _tasks(100, hundreds) for _ in range(turns)]
    table.judge(
        "a task each, batches of 100",
        spread(found, "deliveries/s"),
        f">= {_DELIVERIES_TARGET:,}",
        max(found) >= _DELIVERIES_TARGET,
    )
    pairs = [_topics_one_task(100, place.sized(200, 10)) for _ in range(turns)]
    table.add("a topic each, batches of 100", spread([rate for rate, _ in pairs], "events/s"))
    evaluations = max(evaluated for _, evaluated in pairs)
    table.judge(
        "  filter evaluations an event",
        f"{evaluations:.2f}",
        f"<= {_EVALUATIONS_TARGET}",
        evaluations <= _EVALUATIONS_TARGET,
    )
    return table


async def run(place: Place) -> list[Table]:
    """From memory, then from both kinds of journal."""
    return [await _from_memory(place), await _sqlite(place), await _postgres(place)]
