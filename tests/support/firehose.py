"""A firehose over any journal, what it may hear of, and subscribers that check what they get."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, cast

import trio

from common.core.events.batch import EventBatch, join_tags, new_events
from common.core.filters.predicates import EVERY_ENTITY, EntityPredicate, parse_filter
from common.core.firehose.fetch_result import FetchResult
from common.core.journal.append import LocalAppend
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.commit_feed import CommitFeed
from common.journal.feeds import Feed, SubscriberTier
from common.journal.head_signal import HeadSignal
from common.journal.stores.journal import Journal
from common.journal.stores.log import LogPage, LogStore
from tests.support.growing_log import Consumer, plain_encoding, selected_positions

SMALL = FirehoseSettings(
    ring_max_events=60,
    poll_s=0.02,
    read_max_events=20,
    block_events=16,
    look_again_s=0.01,
    sweep_s=0.02,
    retry_min_s=0.01,
    retry_max_s=0.02,
    pending_max=10,
)
ALL: frozenset[str] = frozenset()
PUMPS = frozenset({"Pump"})
NEXT: dict[str, Any] = {"max_events": 25, "max_bytes": 100_000}
TOPICS = [f"t:site/{number}" for number in range(4)]


class Muffled:
    """A journal of which a firehose hears only what ``hears`` names: "feed", "prompt", both, or nothing. Counts reads."""

    def __init__(self, journal: Journal, *hears: str) -> None:
        self._log = journal.log
        self.journal = replace(journal, log=cast(LogStore, self))
        self.reads = 0
        self.feed = journal.log.feed if "feed" in hears else CommitFeed()
        self.head_signal = (
            journal.log.head_signal if "head_signal" in hears else HeadSignal(journal.log.head_signal.position)
        )
        self.fails: Exception | None = None

    def becomes(self, other: Journal) -> None:
        """Have the log of another history in the place of this one, as after a failover."""
        self._log = other.log

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the log has)
        return getattr(self._log, name)

    async def read(self, after: int, **more: Any) -> LogPage:  # noqa: ANN401
        self.reads += 1
        if self.fails is not None:
            raise self.fails
        return await self._log.read(after, **more)


def muffled(journal: Journal, *hears: str) -> Journal:
    """See ``Muffled``."""
    return Muffled(journal, *hears).journal


@asynccontextmanager
async def running(journal: Journal, settings: FirehoseSettings = SMALL) -> AsyncIterator[Firehose]:
    """A firehose that runs while the block does."""
    firehose = Firehose(journal, plain_encoding, settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        yield firehose
        nursery.cancel_scope.cancel()


@dataclass
class Subscriber:
    """Takes what its feed gives until it has seen a position."""

    feed: Feed
    predicate: EntityPredicate = EVERY_ENTITY
    entity_types: frozenset[str] = frozenset()
    consumer: Consumer = field(default_factory=Consumer)
    pause_s: Callable[[], float] = lambda: 0.0

    async def reach(self, position: int) -> None:
        while self.consumer.position < position:
            stretch = await self.feed.next(**NEXT, at_most_s=0.02)
            if stretch is not None:
                assert stretch.encoded == plain_encoding(stretch.events)
                self.consumer.take(stretch)
            pause_s = self.pause_s()
            if pause_s:
                await trio.sleep(pause_s)


@dataclass
class ServedSubscriber(Subscriber):
    """Is served by the pump while it waits, as a session on a free line is; now and then it cannot be, as on a full one."""

    chance: Random = field(default_factory=lambda: Random(1))
    served: int = 0
    _in_hand: FetchResult | None = None
    _wait: trio.CancelScope | None = None

    def _serve(self, now_s: float) -> bool:
        kind = self.chance.randrange(4)
        if kind:
            stretch = self.feed.next_nowait(**NEXT, now_s=now_s)
            if kind > 1 and stretch is not None:
                self.served += 1
                self.consumer.take(stretch)
                return True
            self._in_hand = stretch
        assert self._wait is not None
        self._wait.cancel()
        return False

    async def reach(self, position: int) -> None:
        self.feed.serve = self._serve
        while self.consumer.position < position:
            stretch = None
            with trio.CancelScope() as self._wait:
                stretch = await self.feed.next(**NEXT, at_most_s=0.02)
            stretch, self._in_hand = stretch or self._in_hand, None
            if stretch is not None:
                if self.chance.randrange(2):
                    await trio.lowlevel.checkpoint()  # in hand and not taken in: nothing may come before it
                self.consumer.take(stretch)


async def store(journal: Journal, chance: Random, count: int) -> None:
    """Some events of some entities, whose tags change now and then."""
    entities = [f"{chance.choice(['Pump', 'Valve'])}|{chance.randrange(6)}" for _ in range(count)]
    tags = [join_tags(chance.sample(TOPICS, chance.randrange(0, 3))) for _ in range(count)]
    events = new_events(entities, ["happened"] * count, [b"%d" % n for n in range(count)], tags=tags)
    await journal.log.append_group([LocalAppend(events)])


def topic_filter(*topics: str) -> EntityPredicate:
    """Everything with one of these topics, and nothing else."""
    names = ", ".join(f'"{topic}"' for topic in topics)
    return parse_filter(f'[{{"exclude_all": true}}, {{"include_topics": [{names}]}}]')


async def log_of(journal: Journal) -> EventBatch:
    """Every event that is stored."""
    log, position = EventBatch(), 0
    while True:
        page = await journal.log.read(position, max_events=1_000, max_bytes=10_000_000)
        log.extend(page.events)
        position = page.through
        if position >= page.head:
            return log


# What subscribers ask for: a filter, and which types.
KINDS: list[tuple[EntityPredicate, frozenset[str]]] = [
    (EVERY_ENTITY, ALL),
    (EVERY_ENTITY, PUMPS),
    (topic_filter("site/1"), ALL),
    (topic_filter("site/1", "site/2/#"), PUMPS),
    (topic_filter("+/3"), ALL),
    (parse_filter('[{"exclude_regex": ["[0-3]"]}]'), ALL),
    (parse_filter('[{"exclude_all": true}, {"include_ids": ["Pump|1", {"id": "Valve|2", "from_seq_nr": 3}]}]'), ALL),
]


def expected(events: EventBatch, subscriber: Subscriber) -> list[int]:
    """Positions of what it is to be given of this log, in order."""
    positions = selected_positions(events, subscriber.predicate, subscriber.entity_types)
    return _without_early(events, subscriber.predicate, positions)


def _without_early(events: EventBatch, predicate: EntityPredicate, positions: list[int]) -> list[int]:
    """Leave out what comes before a stated number."""
    rows = {
        position: (entity, seq_nr)
        for position, entity, seq_nr in zip(events.position, events.persistence_id, events.seq_nr, strict=True)
    }
    return [position for position in positions if rows[position][1] >= predicate.from_seq_nr(rows[position][0])]


async def to_the_tail(feed: Feed) -> None:
    """Take steps until it is served from the ring."""
    while feed.standing is not SubscriberTier.TAIL:
        await feed.next(**NEXT, at_most_s=0.01)
